"""What can be wrong with what a user brings: one sentence each, that says what, where and how to mend it.

The command line prints ``str(error)`` and exits 2; ``--json`` prints :meth:`DatumwiseError.as_dict`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = [
    "ColumnExists",
    "DatumwiseError",
    "DiskFull",
    "DuplicateId",
    "EmptyData",
    "LabelError",
    "LedgerBusy",
    "LedgerChanged",
    "LedgerExists",
    "LedgerTooNew",
    "MissingExtra",
    "MissingId",
    "ModelMismatch",
    "NotALedger",
    "NotFinite",
    "PurgeBlocked",
    "ReadOnly",
    "SchemaMismatch",
    "SourceError",
    "UnknownColumn",
    "UnknownName",
    "name_some",
]


def name_some(ids: Iterable[Any], *, shown: int = 3) -> str:
    """First few ids and how many more there are, for an error sentence.

    Examples
    --------
    >>> name_some(["a", "b", "c", "d", "e"])
    'a, b, c and 2 more'
    >>> name_some([7])
    '7'
    """
    ids = list(ids)
    text = ", ".join(str(i) for i in ids[:shown])
    return text if len(ids) <= shown else f"{text} and {len(ids) - shown:,} more"


class DatumwiseError(ValueError):
    """Base of every refusal. The message is one lower-case sentence without a final stop.

    Parameters
    ----------
    message : str
        What is wrong and where.
    remedy : str, optional
        How to mend it; joined to the message by ``": "``.
    column : str, optional
        The column concerned.
    ids : sequence, optional
        All ids (or row numbers) concerned; the message names the first three.
    """

    def __init__(
        self,
        message: str,
        *,
        remedy: str | None = None,
        column: str | None = None,
        ids: Sequence[Any] = (),
    ) -> None:
        super().__init__(f"{message}: {remedy}" if remedy else message)
        self.remedy = remedy
        self.column = column
        self.ids = list(ids)

    @property
    def kind(self) -> str:
        return type(self).__name__

    def as_dict(self) -> dict[str, Any]:
        """The ``error`` object of ``--json`` output."""
        return {
            "kind": self.kind,
            "message": str(self),
            "column": self.column,
            "ids": [str(i) for i in self.ids],
            "remedy": self.remedy,
        }


class DuplicateId(DatumwiseError):
    """An id occurs twice in a source, or is on the ledger already."""


class MissingId(DatumwiseError):
    """An id is null, or is not on the ledger."""


class UnknownColumn(DatumwiseError):
    """A named column is not there."""


class UnknownName(DatumwiseError):
    """A named score, signal, method, version or tag does not exist."""


class ColumnExists(DatumwiseError):
    """A column of this name is there already."""


class SchemaMismatch(DatumwiseError, TypeError):
    """A column is missing, has another type than the ledger's, or a type that a ledger cannot hold."""


class NotFinite(DatumwiseError):
    """NaN or infinity where a number is needed."""


class LabelError(DatumwiseError):
    """The labels cannot be worked with: one class only, too few members, not classes at all."""


class EmptyData(DatumwiseError):
    """There is no datapoint to work on."""


class SourceError(DatumwiseError):
    """A source cannot be read: no such file, unknown format, broken content."""


class ModelMismatch(DatumwiseError):
    """The model's output does not fit the data, or the model cannot be probed as asked."""


class MissingExtra(DatumwiseError):
    """An optional library is needed and not installed; the remedy names the extra."""


class NotALedger(DatumwiseError):
    """The path holds no ledger."""


class LedgerExists(DatumwiseError):
    """A ledger is there already and would be overwritten."""


class LedgerTooNew(DatumwiseError):
    """The ledger was written by a newer version of this package."""


class LedgerBusy(DatumwiseError):
    """Another process has held the ledger's lock for too long."""


class LedgerChanged(DatumwiseError):
    """The ledger was changed by somebody else in a way that cannot be merged; nothing was written."""


class PurgeBlocked(DatumwiseError):
    """Tags, branches or open readers pin an old version that holds the bytes to be purged."""


class DiskFull(DatumwiseError):
    """No space left on the device; the ledger stands at its last whole version."""


class ReadOnly(DatumwiseError):
    """The place cannot be written to."""
