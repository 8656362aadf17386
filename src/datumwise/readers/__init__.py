"""From what people hold to a ledger: one file a format, one door (`ingest`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datumwise.readers.to_ledger import ingest

__all__ = ["ingest"]


def __getattr__(name: str) -> Any:
    if name == "ingest":
        from datumwise.readers.to_ledger import ingest

        return ingest
    raise AttributeError(f"module 'datumwise.readers' has no attribute {name!r}")
