"""datumwise: learn what every single datapoint does to a model, and act on it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from datumwise._version import __version__

if TYPE_CHECKING:
    from datumwise import evaluate, forget, learn, predict, probe, score, select
    from datumwise.ledger import Ledger, create_ledger, open_ledger
    from datumwise.readers import ingest
    from datumwise.report import audit
    from datumwise.score import methods

# public name -> module that holds it; loaded on first use, so that `import datumwise` stays light
_PUBLIC = {
    "Ledger": "datumwise.ledger",
    "create_ledger": "datumwise.ledger",
    "open_ledger": "datumwise.ledger",
    "ingest": "datumwise.readers",
    "audit": "datumwise.report",
    "methods": "datumwise.score",
}
_ROOMS = ("evaluate", "forget", "learn", "predict", "probe", "score", "select")

__all__ = [
    "Ledger",
    "__version__",
    "audit",
    "create_ledger",
    "evaluate",
    "forget",
    "ingest",
    "learn",
    "methods",
    "open_ledger",
    "predict",
    "probe",
    "score",
    "select",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    if name in _ROOMS:
        return import_module(f"datumwise.{name}")
    raise AttributeError(f"module 'datumwise' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
