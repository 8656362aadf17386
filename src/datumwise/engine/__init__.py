"""How a pass runs over a ledger: streamed and journalled in this process, or by a pool of Ray actors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datumwise.engine.pass_ import Pass, pass_key, run_pass
    from datumwise.engine.sample import epochs

__all__ = ["Pass", "epochs", "pass_key", "run_pass"]

_HOMES = {"Pass": "pass_", "epochs": "sample", "pass_key": "pass_", "run_pass": "pass_"}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
