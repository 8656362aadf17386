"""Some datapoints and their columns, from a ledger or from plain arrays: what a step of a pipeline looks at."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datumwise.errors import SchemaMismatch, UnknownColumn, name_some

if TYPE_CHECKING:
    from datumwise.ledger import Ledger

__all__ = ["View", "of_arrays", "of_ledger"]

BATCH = 65_536  # rows hashed at a time


class View:
    """Rows of a source, by position.

    Attributes
    ----------
    rows : int64 (m,)
        Positions in the source, ascending.
    ids : array (m,)
    ledger : Ledger or None
    """

    def __init__(self, ids: np.ndarray, rows: np.ndarray, ledger: Ledger | None, arrays: Mapping[str, Any]) -> None:
        self.rows = rows
        self.ids = ids[rows]
        self.ledger = ledger
        self._every_id = ids
        self._arrays = arrays

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def names(self) -> list[str]:
        """Columns there are."""
        there = [] if self.ledger is None else self.ledger.schema.names
        return [*self._arrays, *(name for name in there if name not in self._arrays)]

    @property
    def n_source(self) -> int:
        """Rows of the source."""
        return len(self._every_id)

    @property
    def every_row(self) -> bool:
        """Whether these are all rows of the source."""
        return len(self.rows) == len(self._every_id)

    def only(self, rows: np.ndarray) -> View:
        """Other rows of the same source."""
        return View(self._every_id, np.asarray(rows, np.int64), self.ledger, self._arrays)

    def column(self, name: str) -> Any:
        """One column of these rows: array (m,) or (m, d), or a list of strings.

        Raises
        ------
        UnknownColumn
        """
        if name in self._arrays:
            return _taken(self._arrays[name], self.rows)
        if self.ledger is None or name not in self.ledger.schema.names:
            raise UnknownColumn(
                f"there is no column {name!r}", remedy=f"there are {name_some(self.names, shown=8)}", column=name
            )
        from datumwise.ledger.read import to_numpy

        every = self.ledger.table([name])[name].combine_chunks()
        column = every if self.every_row else every.take(pa.array(self.rows))
        if pa.types.is_string(column.type) and not column.null_count:
            return column.to_pylist()
        return to_numpy(column)

    def texts(self) -> list[str]:
        """The text of each row: of a ledger by its roles, of arrays the column ``text``."""
        if self.ledger is None:
            return [str(text) for text in self.column("text")]
        from datumwise.probe.given import texts

        every = texts(self.ledger)
        return [every[i] for i in self.rows]

    def fingerprint(self, names: Sequence[str], *, every_row: bool = False) -> str:
        """16 hexadecimal characters: which rows these are, and what stands in the columns.

        ``every_row`` takes in the columns' values of all rows of the source, for what is fitted to all of them.
        """
        digest = hashlib.blake2b(digest_size=8)
        digest.update(b"\0".join(str(one).encode() for one in self.ids.tolist()))
        for name in dict.fromkeys(names):
            digest.update(f"|{name}:".encode())
            if self.ledger is not None and name in self.ledger.schema.names:
                wanted = None if every_row else self.rows
                digest.update(_hashed_ledger_column(self.ledger, name, wanted))
            elif name in self._arrays:
                digest.update(_hashed(pa_column(_taken(self._arrays[name], self.rows))))
        return digest.hexdigest()

    @contextmanager
    def as_ledger(self) -> Iterator[Ledger]:
        """These rows as a ledger: the source itself where they are all of it, else a copy that lives as long as this."""
        if self.ledger is None:
            raise SchemaMismatch("this step works on a ledger, and plain arrays were given", remedy="ingest them first")
        if self.every_row:
            yield self.ledger
            return
        from datumwise.ledger import create_ledger

        source = self.ledger
        schema = pa.schema([pa.field(f.name, f.type) for f in source.schema])
        roles = {role: column for role, column in source.roles.items() if role != "id"}
        with tempfile.TemporaryDirectory(prefix="datumwise-") as folder:
            yield create_ledger(
                Path(folder) / source.name,
                _batches(source, self.rows, schema),
                schema=schema,
                id_column="id",
                roles=roles,
                task=source.task,
            )


def of_ledger(ledger: Ledger) -> View:
    """All rows of a ledger."""
    return View(np.asarray(ledger.ids), np.arange(len(ledger)), ledger, {})


def of_arrays(arrays: Mapping[str, Any]) -> View:
    """Rows of plain arrays and lists, all of one length; ``id`` names them.

    Raises
    ------
    SchemaMismatch
    """
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise SchemaMismatch(f"the columns differ in length ({', '.join(f'{k}: {v:,}' for k, v in lengths.items())})")
    n = next(iter(lengths.values()))
    ids = np.asarray(arrays["id"]) if "id" in arrays else np.arange(n)
    return View(ids, np.arange(n), None, dict(arrays))


def pa_column(values: Any) -> pa.Array:
    """Values as an Arrow array; a matrix becomes lists of fixed size."""
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])
    return pa.array(values)


def _taken(values: Any, rows: np.ndarray) -> Any:
    if isinstance(values, np.ndarray):
        return values[rows]
    return [values[i] for i in rows]


def _batches(ledger: Ledger, rows: np.ndarray, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in ledger.batches():
        inside = rows[(rows >= start) & (rows < start + len(batch))] - start
        start += len(batch)
        if len(inside):
            yield pa.RecordBatch.from_arrays(batch.take(pa.array(inside)).columns, schema=schema)


def _hashed_ledger_column(ledger: Ledger, name: str, rows: np.ndarray | None) -> bytes:
    values, shape = hashlib.blake2b(digest_size=8), hashlib.blake2b(digest_size=8)
    start = 0
    for batch in ledger.batches([name], batch_size=BATCH):
        column = batch.column(0)
        if rows is not None:
            column = column.take(pa.array(rows[(rows >= start) & (rows < start + len(batch))] - start))
        start += len(batch)
        _feed(column, values, shape)
    return values.digest() + shape.digest()


def _hashed(column: pa.Array) -> bytes:
    values, shape = hashlib.blake2b(digest_size=8), hashlib.blake2b(digest_size=8)
    _feed(column, values, shape)
    return values.digest() + shape.digest()


def _feed(column: pa.Array, values: Any, shape: Any) -> None:
    """Content and lengths into two digests, so that where one batch ends and the next begins leaves no trace."""
    shape.update(column.is_valid().to_numpy(zero_copy_only=False).tobytes())
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        filled = column.cast(pa.large_binary()).fill_null(b"")
        shape.update(pc.binary_length(filled).to_numpy(zero_copy_only=False).tobytes())
        if len(filled):
            _, offsets, data = filled.buffers()
            ends = np.frombuffer(offsets, np.int64)[filled.offset : filled.offset + len(filled) + 1]
            if data is not None:
                values.update(memoryview(data)[int(ends[0]) : int(ends[-1])])
    elif _is_number(kind):
        values.update(column.fill_null(0).to_numpy(zero_copy_only=False).tobytes())
    elif pa.types.is_fixed_size_list(kind) and not column.null_count and _is_number(kind.value_type):
        values.update(column.flatten().fill_null(0).to_numpy(zero_copy_only=False).tobytes())
    else:
        for one in column.to_pylist():
            values.update(repr(one).encode() + b"\0")


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))
