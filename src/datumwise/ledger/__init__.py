"""What we know of each datapoint: create, open, append, columns, versions, SQL, erasure."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datumwise.ledger.journal import Journal
    from datumwise.ledger.ledger import Column, Ledger, Roles, create_ledger, open_ledger
    from datumwise.ledger.lock import writing
    from datumwise.ledger.provenance import Provenance
    from datumwise.ledger.purge import PurgeReceipt
    from datumwise.ledger.versions import Diff, Version

# public name -> module that holds it; loaded on first use, for the store takes a second to import
_PUBLIC = {
    "Column": "ledger",
    "Diff": "versions",
    "Journal": "journal",
    "Ledger": "ledger",
    "Provenance": "provenance",
    "PurgeReceipt": "purge",
    "Roles": "ledger",
    "Version": "versions",
    "create_ledger": "ledger",
    "open_ledger": "ledger",
    "writing": "lock",
}

__all__ = [
    "Column",
    "Diff",
    "Journal",
    "Ledger",
    "Provenance",
    "PurgeReceipt",
    "Roles",
    "Version",
    "create_ledger",
    "open_ledger",
    "writing",
]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"datumwise.ledger.{_PUBLIC[name]}"), name)
    raise AttributeError(f"module 'datumwise.ledger' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
