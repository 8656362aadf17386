"""What every reader returns: a schema, a stream of batches, and what the format says about the columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["BATCH_ROWS", "Source"]

BATCH_ROWS = 8_192  # rows a batch, where the format lets us choose


@dataclass(frozen=True)
class Source:
    """A data set that can be streamed.

    Attributes
    ----------
    name : str
        As error sentences call it: ``"reviews.parquet"``.
    stem : str
        The ledger's default name, without suffix.
    schema : pyarrow.Schema
        Columns of every batch.
    batches : callable
        Starts a stream of record batches. A one-shot source (a reader, a generator) can be started once only.
    fingerprint : callable or None
        A short text that changes when the content does; None where the content can be read once only.
    rows : int or None
        Number of rows, where it is known before reading.
    roles : mapping
        Roles the format itself settles: ``{"label": "label", "image": "image"}``.
    task : str or None
        ``"regression"`` or ``"classification"`` where the format says so.
    unreadable : dict
        id -> reason, filled while the batches are read.
    folder : Path or None
        Where relative paths inside the data start.
    pictures_checked : bool
        Whether every picture in `image` has been decoded by the reader.
    retyped : callable or None
        Makes the same source again with some columns read as text (formats that guess types, such as CSV).
    renamed : mapping
        Stored name -> name in the source, of columns whose names a ledger cannot hold.
    """

    name: str
    stem: str
    schema: pa.Schema
    batches: Callable[[], Iterator[pa.RecordBatch]]
    fingerprint: Callable[[], str] | None = None
    rows: int | None = None
    roles: Mapping[str, Any] = field(default_factory=dict)
    task: str | None = None
    unreadable: dict[str, str] = field(default_factory=dict)
    folder: Path | None = None
    pictures_checked: bool = False
    retyped: Callable[[list[str]], Source] | None = None
    renamed: Mapping[str, str] = field(default_factory=dict)
