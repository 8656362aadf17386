"""How a finding gets onto the ledger: one writer at a time, one commit in milliseconds, never half seen.

Every function here that writes takes the ledger's lock by itself; the lock may be taken again by the thread
that holds it, so a caller who must read and then write does both inside ``writing(...)``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import lance
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datumwise.errors import (
    ColumnExists,
    DatumwiseError,
    LedgerBusy,
    MissingId,
    SchemaMismatch,
    UnknownColumn,
    name_some,
)
from datumwise.ledger.lock import writing
from datumwise.ledger.provenance import KEY
from datumwise.ledger.store_errors import is_retryable, retry, translated

__all__ = [
    "Lookup",
    "commit_columns",
    "is_retryable",
    "leftovers",
    "patch_columns",
    "recover",
    "replace_columns",
    "retry",
    "translated",
    "writing",
]

SCAN_ROWS = 65_536  # rows a batch of row ids while a column is aligned,
SCAN_BYTES = 8 << 20  # or fewer, if their values are wide
PATCH_ROWS = 100_000  # rows a merge_insert: Lance's hash join runs out of memory somewhere above
SWAP_MARK = b"datumwise.swap"  # field metadata: this column was made by replace_columns
NEW, OLD = "__new", "__old"

Values: TypeAlias = Mapping[str, Any]  # or a pyarrow.Table or RecordBatch: anything indexed by field name


class Lookup(Protocol):
    """Values by row id: a :class:`~datumwise.ledger.journal.Journal`, or arrays in memory made into one."""

    def lookup(self, row_ids: np.ndarray, fields: Sequence[pa.Field]) -> pa.RecordBatch:
        """Values of the row ids, uint64 (m,), in that order; null where there is none."""
        ...


def _lock_of(uri: str | os.PathLike[str]) -> Path:
    return Path(uri).parent / "lock"


# ---------------------------------------------------------------- writes


def commit_columns(
    uri: str | os.PathLike[str],
    fields: Sequence[pa.Field],
    row_ids: np.ndarray | None,
    values: Values | Lookup,
    *,
    timeout: float = 60.0,
) -> int:
    """Add one or more columns in one commit, aligned by row id; rows without a value are null.

    Parameters
    ----------
    uri : path-like
        ``NAME.ledger/data.lance``.
    fields : sequence of pyarrow.Field
        Names, types and metadata (the provenance) of the new columns.
    row_ids : uint64 array (m,)
        Row ids of the values, in any order; those not on the ledger are ignored. None with a lookup.
    values : mapping or pyarrow.Table of arrays (m,) or (m, d), or a Lookup
        By field name. A lookup (a journal) is asked for 65,536 rows at a time: memory does not grow with n.
    timeout : float
        Seconds to wait for the lock.

    Returns
    -------
    int
        The new version of the ledger.

    Raises
    ------
    ColumnExists, LedgerBusy, LedgerChanged, DiskFull
    """
    source = _lookup(row_ids, values, fields)
    reserved = [f.name for f in fields if f.name.endswith((NEW, OLD))]
    if reserved:
        raise SchemaMismatch(f"column {reserved[0]} has a reserved ending", remedy="choose a name without it")
    with writing(_lock_of(uri), timeout), translated(uri):
        _refuse_existing(uri, [f.name for f in fields])
        return retry(lambda: _add_aligned(uri, fields, [f.name for f in fields], source))


def replace_columns(
    uri: str | os.PathLike[str],
    fields: Sequence[pa.Field],
    row_ids: np.ndarray | None,
    values: Values | Lookup,
    *,
    keep: bool = False,
    timeout: float = 60.0,
) -> int:
    """Put new values and a new provenance under names that may exist: a reader sees all old or all new.

    Adds ``name__new`` for each field, swaps all names in one commit, drops the old columns. Killed in
    between, :func:`recover` finishes or undoes it.

    Parameters
    ----------
    uri, fields, row_ids, values, timeout
        As in :func:`commit_columns`.
    keep : bool
        Rows without a new value keep the old one; otherwise they become null.

    Returns
    -------
    int
        The new version of the ledger.
    """
    source = _lookup(row_ids, values, fields)
    with writing(_lock_of(uri), timeout), translated(uri):
        recover(uri)
        there = set(lance.dataset(str(uri)).schema.names)
        new = [_marked(f).with_name(f.name + NEW) for f in fields]
        names = [f.name for f in fields]
        _refuse_existing(uri, [n + s for n in names for s in (NEW, OLD)])
        kept = [n for n in names if keep and n in there]
        retry(lambda: _add_aligned(uri, new, names, source, kept))
        swap = [{"path": n, "name": n + OLD} for n in names if n in there]
        swap += [{"path": n + NEW, "name": n} for n in names]
        retry(lambda: lance.dataset(str(uri)).alter_columns(*swap))
        old = [n + OLD for n in names if n in there]
        return _drop(uri, old) if old else int(lance.dataset(str(uri)).version)


def patch_columns(
    uri: str | os.PathLike[str],
    fields: Sequence[pa.Field],
    keys: np.ndarray | Sequence[Any] | pa.Array,
    values: Values,
    *,
    timeout: float = 60.0,
) -> int:
    """Set the given rows of existing columns and leave every other row as it is.

    Up to 100,000 rows are merged in place in one commit; more are written as whole columns and swapped in
    (also one visible change, and faster), for Lance's in-place merge runs out of memory there. Where a column
    came with the data (a label is mended), stopped passes forget what they computed of these rows.

    Parameters
    ----------
    uri : path-like
        ``NAME.ledger/data.lance``.
    fields : sequence of pyarrow.Field
        The columns; their metadata on the ledger stays as it is.
    keys : (m,) row ids (an array of dtype uint64), or ids (strings)
        Row ids that are no longer on the ledger are ignored; an id that is not there is refused.
    values : mapping or pyarrow.Table of arrays (m,) or (m, d)
        By field name.

    Returns
    -------
    int
        The version of the ledger afterwards.

    Raises
    ------
    UnknownColumn, MissingId, LedgerBusy, LedgerChanged, DiskFull
    """
    with writing(_lock_of(uri), timeout), translated(uri):
        recover(uri)
        ds = lance.dataset(str(uri))
        absent = [f.name for f in fields if f.name not in ds.schema.names]
        if absent:
            raise UnknownColumn(f"there is no column {name_some(absent)}", column=absent[0])
        fields = [ds.schema.field(f.name) for f in fields]
        table = _table(fields, values)
        if isinstance(keys, np.ndarray) and keys.dtype == np.uint64:
            ids, at = _ids_of(ds, keys)
            row_ids, table = keys[at], table.take(at)
        else:
            ids = pa.array(keys, pa.string())
            row_ids = _row_ids_of(ds, ids)
        if not len(ids):
            return int(ds.version)
        everything = set(ds.schema.names) == {"id", *(f.name for f in fields)}  # Lance refuses to merge that
        if len(ids) > PATCH_ROWS or everything:
            _forget_in_journals(uri, fields, row_ids)
            return replace_columns(uri, fields, row_ids, table, keep=True)
        patch = pa.table([ids, *table.columns], schema=pa.schema([ds.schema.field("id"), *fields]))
        retry(lambda: _merge(uri, patch))
        _forget_in_journals(uri, fields, row_ids)
        return int(lance.dataset(str(uri)).version)


def _merge(uri: str | os.PathLike[str], patch: pa.Table) -> None:
    merge = lance.dataset(str(uri)).merge_insert("id").when_matched_update_all()
    merge.write_mode("rewrite_columns").execute(patch)


def _forget_in_journals(uri: str | os.PathLike[str], fields: Sequence[pa.Field], row_ids: np.ndarray) -> None:
    from datumwise.ledger.journal import forget_rows

    if any(KEY not in (f.metadata or {}) for f in fields):
        forget_rows(Path(uri).parent / "journal", row_ids)


def recover(uri: str | os.PathLike[str], timeout: float = 0.0) -> list[str]:
    """Finish or undo what a killed :func:`replace_columns` left; returns the names of the dropped columns.

    A live writer's columns are left alone: it holds the lock, and then nothing is done.
    """
    if not leftovers(lance.dataset(str(uri)).schema):
        return []
    try:
        with writing(_lock_of(uri), timeout):
            names = leftovers(lance.dataset(str(uri)).schema)
            if names:
                _drop(uri, names)
            return names
    except LedgerBusy:
        return []


def leftovers(schema: pa.Schema) -> list[str]:
    """Columns of a swap that is under way or was cut short; no reader should show them.

    A column counts only if :func:`replace_columns` marked it, so a user's own ``price__new`` is safe.
    """

    def made_by_swap(name: str) -> bool:
        return name in schema.names and SWAP_MARK in (schema.field(name).metadata or {})

    new = [n for n in schema.names if n.endswith(NEW) and made_by_swap(n)]
    old = [n for n in schema.names if n.endswith(OLD) and made_by_swap(n.removesuffix(OLD))]
    return new + old


def _marked(field: pa.Field) -> pa.Field:
    return field.with_metadata({**(field.metadata or {}), SWAP_MARK: b"1"})


def _drop(uri: str | os.PathLike[str], names: list[str]) -> int:
    def drop() -> int:
        ds = lance.dataset(str(uri))
        ds.drop_columns(names)
        return int(ds.version)

    return retry(drop)


def _refuse_existing(uri: str | os.PathLike[str], names: Sequence[str]) -> None:
    there = [n for n in lance.dataset(str(uri)).schema.names if n in set(names)]
    if there:
        raise ColumnExists(f"there is a column {name_some(there)} already", remedy="pass overwrite=True", column=there[0])


def _add_aligned(
    uri: str | os.PathLike[str],
    fields: Sequence[pa.Field],
    names: Sequence[str],
    source: Lookup,
    kept: Sequence[str] = (),
) -> int:
    """One ``add_columns``; ``names``: the fields in the source; ``kept``: whose old values fill gaps."""
    ds = lance.dataset(str(uri))
    src = lance.dataset(str(uri), version=ds.version)  # a second handle: ds is borrowed while it writes
    schema = pa.schema([f.with_nullable(True) for f in fields])
    wanted = [f.with_name(n) for f, n in zip(fields, names, strict=True)]
    size = max(1024, min(SCAN_ROWS, SCAN_BYTES // max(1, sum(_width(f.type) for f in fields))))
    scan = {"batch_size": size, "batch_readahead": 1, "fragment_readahead": 1}
    failed: list[Exception] = []  # Lance would wrap it, traceback and all, into the text of an OSError

    def aligned() -> Iterator[pa.RecordBatch]:
        for batch in src.to_batches(columns=list(kept), with_row_id=True, **scan):
            try:
                yield align(batch)
            except (DatumwiseError, OSError, pa.ArrowException) as e:
                failed.append(e)
                raise

    def align(batch: pa.RecordBatch) -> pa.RecordBatch:
        columns = list(source.lookup(batch["_rowid"].to_numpy(), wanted).columns)
        for i, name in enumerate(names):
            if name in kept:
                columns[i] = _or_else(columns[i], batch[name])
        return pa.RecordBatch.from_arrays(columns, schema=schema)

    try:
        ds.add_columns(pa.RecordBatchReader.from_batches(schema, aligned()))
    except (OSError, ValueError):
        if failed:
            raise failed[0] from None
        raise
    return int(ds.version)


def _width(type_: pa.DataType) -> int:
    """Bytes of a value, about."""
    if pa.types.is_fixed_size_list(type_):
        return int(type_.list_size) * _width(type_.value_type)
    return type_.byte_width if pa.types.is_primitive(type_) and type_.bit_width >= 8 else 64


def _or_else(new: pa.Array, old: pa.Array) -> pa.Array:
    """``new``, and ``old`` where it is null."""
    if not new.null_count:
        return new
    at = np.where(pc.is_valid(new).to_numpy(zero_copy_only=False), 0, len(new)) + np.arange(len(new))
    return pa.concat_arrays([new, old.cast(new.type)]).take(pa.array(at))


# ---------------------------------------------------------------- values by row id


class _Arrays:
    """A lookup over arrays in memory."""

    def __init__(self, row_ids: np.ndarray, values: Values, fields: Sequence[pa.Field]) -> None:
        row_ids = np.asarray(row_ids, np.uint64)
        table = _table(fields, values)
        if table.num_rows != len(row_ids):
            raise SchemaMismatch(f"{table.num_rows:,} values for {len(row_ids):,} row ids")
        self._columns = [_whole(c) for c in table.columns]
        ordered = bool((row_ids[1:] > row_ids[:-1]).all())
        self._order = None if ordered else np.argsort(row_ids, kind="stable")
        self._row_ids = row_ids if self._order is None else row_ids[self._order]

    def lookup(self, row_ids: np.ndarray, fields: Sequence[pa.Field]) -> pa.RecordBatch:
        schema = pa.schema(fields)
        if not len(self._row_ids):
            return pa.RecordBatch.from_arrays([pa.nulls(len(row_ids), f.type) for f in fields], schema=schema)
        at = np.minimum(np.searchsorted(self._row_ids, row_ids), len(self._row_ids) - 1)
        absent = self._row_ids[at] != row_ids
        if self._order is not None:
            at = self._order[at]
        columns = take_or_null(self._columns, at, absent)
        return pa.RecordBatch.from_arrays(columns, schema=schema)


def take_or_null(columns: Sequence[pa.Array], at: np.ndarray, absent: np.ndarray) -> list[pa.Array]:
    """``column[at]``, null where ``absent``; a slice without a copy where ``at`` is a run of neighbours.

    Parameters
    ----------
    columns : sequence of pyarrow.Array
    at : int array (m,)
        Positions in the columns; any number where absent.
    absent : bool array (m,)
    """
    if len(at) and not absent.any() and at[-1] - at[0] == len(at) - 1 and (np.diff(at) == 1).all():
        return [c.slice(int(at[0]), len(at)) for c in columns]
    index = pa.array(at.astype(np.int64), mask=absent)
    return [c.take(index) for c in columns]


def as_array(values: Any, type_: pa.DataType, name: str = "") -> pa.Array:
    """An Arrow array of the given type from numpy (m,) or (m, d), a list or Arrow; NaN stays NaN, not null.

    Raises
    ------
    SchemaMismatch
        If the values cannot be of that type; names the column.
    """
    try:
        return _as_array(values, type_)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as e:
        raise SchemaMismatch(f"column {name} cannot hold these values as {type_}: {e}", column=name) from e


def _as_array(values: Any, type_: pa.DataType) -> pa.Array:
    if isinstance(values, pa.ChunkedArray):
        values = _whole(values)
    if isinstance(values, pa.Array):
        return values if values.type == type_ else values.cast(type_)
    if pa.types.is_fixed_size_list(type_):
        values = np.asarray(values)
        if values.ndim != 2 or values.shape[1] != type_.list_size:
            raise pa.ArrowInvalid(f"their shape is {values.shape}")
        flat = np.ascontiguousarray(values, type_.value_type.to_pandas_dtype()).reshape(-1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat, type_.value_type), type=type_)
    if isinstance(values, np.ndarray) and values.dtype.kind in "fiub":
        made = pa.array(np.ascontiguousarray(values))
        return made if made.type == type_ else made.cast(type_)
    return pa.array(values, type_)


def _whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    made = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(made, pa.ChunkedArray):
        return made.chunk(0) if made.num_chunks else pa.array([], column.type)
    return made


def _table(fields: Sequence[pa.Field], values: Values) -> pa.Table:
    names = values.keys() if isinstance(values, Mapping) else values.schema.names
    absent = [f.name for f in fields if f.name not in set(names)]
    if absent:
        raise SchemaMismatch(f"no values were given for column {name_some(absent)}", column=absent[0])
    columns = [as_array(values[f.name], f.type, f.name) for f in fields]
    return pa.Table.from_arrays(columns, schema=pa.schema([f.with_nullable(True) for f in fields]))


def _lookup(row_ids: np.ndarray | None, values: Values | Lookup, fields: Sequence[pa.Field]) -> Lookup:
    if hasattr(values, "lookup"):
        return values
    if row_ids is None:
        raise ValueError("row_ids are needed, unless values can be looked up")
    return _Arrays(row_ids, values, fields)


def _ids_of(ds: Any, row_ids: np.ndarray) -> tuple[pa.Array, np.ndarray]:
    """Ids of the row ids that are still there, and where each stands among ``row_ids``."""
    order = np.argsort(row_ids, kind="stable")
    ranked, ids, at = row_ids[order], [], []
    for batch in ds.to_batches(columns=["id"], with_row_id=True, batch_size=SCAN_ROWS):
        k = batch["_rowid"].to_numpy()
        place = np.minimum(np.searchsorted(ranked, k), max(len(ranked) - 1, 0))
        hit = ranked[place] == k if len(ranked) else np.zeros(len(k), bool)
        if hit.any():
            ids.append(batch["id"].filter(pa.array(hit)))
            at.append(order[place[hit]])
    return _whole(pa.chunked_array(ids, pa.string())), np.concatenate(at or [np.empty(0, np.int64)])


def _row_ids_of(ds: Any, ids: pa.Array) -> np.ndarray:
    """Row ids of ids, in their order; refuses ids that are not on the ledger."""
    row_ids, found = np.zeros(len(ids), np.uint64), np.zeros(len(ids), bool)
    for batch in ds.to_batches(columns=["id"], with_row_id=True, batch_size=SCAN_ROWS):
        at = pc.index_in(batch["id"], value_set=ids)
        hit = pc.is_valid(at).to_numpy(zero_copy_only=False)
        place = at.drop_null().to_numpy()
        row_ids[place], found[place] = batch["_rowid"].to_numpy()[hit], True
    if not found.all():
        absent = ids.filter(pa.array(~found)).to_pylist()
        raise MissingId(f"not on the ledger: {name_some(absent)}", column="id", ids=absent)
    return row_ids
