"""How rows leave a ledger: streamed, by id, or whole columns as arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from datumwise.errors import DuplicateId, MissingId, name_some
from datumwise.ledger.commit import leftovers

__all__ = [
    "as_ids",
    "column_array",
    "existing",
    "first_row_id",
    "in_order",
    "locate",
    "quoted",
    "row_ids",
    "rows_where",
    "scan",
    "search",
    "to_numpy",
    "visible",
]

SCAN_ROWS = 65_536  # rows a batch where only ids are read


def visible(schema: pa.Schema) -> pa.Schema:
    """The schema without the columns of a swap that is under way."""
    hidden = set(leftovers(schema))
    return pa.schema([field for field in schema if field.name not in hidden], metadata=schema.metadata)


def quoted(column: str) -> str:
    """The column's name as a filter must spell it."""
    return f"`{column}`"


def scan(
    ds: Any,
    columns: Sequence[str],
    *,
    where: str | None = None,
    batch_size: int = 1024,
    with_row_id: bool = False,
    limit: int | None = None,
    fragments: Sequence[Any] | None = None,
) -> Iterator[pa.RecordBatch]:
    """Batches in ledger order; memory is bounded by the batch, not by the ledger.

    Parameters
    ----------
    fragments : sequence of LanceFragment, optional
        The fragments to read, in ledger order (`in_order`, which is asked where none are given).

    Batches hold at most `batch_size` rows and never cross a fragment.
    """
    yield from ds.scanner(
        columns=list(columns),
        filter=where,
        limit=limit,
        batch_size=batch_size,
        with_row_id=with_row_id,
        fragments=in_order(ds) if fragments is None else list(fragments),
        batch_readahead=1,
        fragment_readahead=1,
        io_buffer_size=32 << 20,
        scan_in_order=True,
    ).to_batches()


def in_order(ds: Any) -> list[Any]:
    """The fragments in ledger order, which is the order in which the datapoints came: ascending row ids.

    Compaction, and so a purge, puts the files it rewrites last; their row ids tell where they belong.
    """
    fragments = ds.get_fragments()
    return fragments if len(fragments) < 2 else sorted(fragments, key=first_row_id)


def first_row_id(fragment: Any) -> int:
    """The smallest row id of a fragment; -1 for one without rows."""
    first = fragment.to_table(columns=[], with_row_id=True, limit=1)["_rowid"]
    return int(first[0].as_py()) if len(first) else -1


def row_ids(ds: Any, where: str | None = None) -> np.ndarray:
    """Stable row ids in ledger order, uint64 (n,)."""
    found = [b["_rowid"].to_numpy() for b in scan(ds, [], where=where, batch_size=SCAN_ROWS, with_row_id=True)]
    return np.concatenate(found) if found else np.empty(0, np.uint64)


def rows_where(ds: Any, where: str) -> tuple[list[str], np.ndarray]:
    """Ids and row ids of the rows that a condition picks."""
    found = list(scan(ds, ["id"], where=where, batch_size=SCAN_ROWS, with_row_id=True))
    ids = [name for batch in found for name in batch["id"].to_pylist()]
    numbers = [batch["_rowid"].to_numpy() for batch in found]
    return ids, np.concatenate(numbers) if numbers else np.empty(0, np.uint64)


def as_ids(ids: Any) -> pa.Array:
    """Ids as asked for by a user (one, or a sequence of strings or numbers) as an Arrow string array."""
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    if isinstance(ids, pa.Array):
        return ids.cast(pa.string())
    if isinstance(ids, str | int | np.integer):
        ids = [ids]
    return pa.array([str(one) for one in ids], pa.string())


def locate(ds: Any, ids: pa.Array, where: str) -> np.ndarray:
    """Row ids of the given ids, in the order asked, uint64 (m,).

    Raises
    ------
    MissingId
        Some are not on the ledger; the first three are named.
    DuplicateId
        An id was given twice.
    """
    found = search(ds, ids)
    missing = found == NOWHERE
    if missing.any():
        names = ids.filter(pa.array(missing)).to_pylist()
        raise MissingId(
            f"{len(names):,} id{'s are' if len(names) > 1 else ' is'} not in {where} ({name_some(names)})",
            column="id",
            ids=names,
        )
    if len(np.unique(found)) < len(found):
        order = pc.value_counts(ids)
        twice = order.field("values").filter(pc.greater(order.field("counts"), 1)).to_pylist()
        raise DuplicateId(f"an id was given twice ({name_some(twice)})", remedy="give each id once", ids=twice)
    return found


NOWHERE = np.uint64(np.iinfo(np.uint64).max)


def search(ds: Any, ids: pa.Array) -> np.ndarray:
    """Row id of each id, `NOWHERE` where it is not on the ledger; one streamed look over the ids."""
    if not len(ids):
        return np.empty(0, np.uint64)
    asked = pc.unique(ids)
    table = ds.to_table(columns=["id"], with_row_id=True)
    hit = pc.index_in(table["id"], value_set=asked)
    at_row = np.full(len(asked), NOWHERE, np.uint64)
    at_row[hit.drop_null().to_numpy()] = table["_rowid"].filter(hit.is_valid()).to_numpy()
    return at_row[pc.index_in(ids, value_set=asked).to_numpy()]


def existing(ds: Any, ids: pa.Array) -> np.ndarray:
    """Which of the ids are on the ledger already, bool (m,)."""
    there = ds.to_table(columns=["id"])["id"]
    both = there.filter(pc.is_in(there, value_set=ids))
    if not len(both):
        return np.zeros(len(ids), bool)
    return pc.is_in(ids, value_set=both.combine_chunks()).to_numpy(zero_copy_only=False)


def column_array(batches: Iterable[pa.RecordBatch], field: pa.Field, n: int) -> np.ndarray:
    """One column of n rows as an array (n,) or (n, d), filled batch by batch."""
    kind = field.type
    if pat.is_fixed_size_list(kind) and _numeric(kind.value_type):
        out = np.empty((n, kind.list_size), _numpy_type(kind.value_type))
        start = 0
        for batch in batches:
            rows = to_numpy(batch.column(0))
            if out.dtype.kind in "iub" and rows.dtype.kind == "f":  # whole numbers with a null row
                out = out.astype(np.float64)
            out[start : start + len(batch)] = rows
            start += len(batch)
        return out
    parts = [batch.column(0) for batch in batches]
    return to_numpy(pa.chunked_array(parts, kind))


def to_numpy(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """A column as NumPy holds it best.

    Returns
    -------
    array (n,) or (n, d)
        Numbers keep their type; whole numbers and booleans with nulls become float64 with NaN, null floats
        NaN. fixed_size_list of numbers: (n, d), a null row is NaN. Text, bytes and lists: object arrays with
        None (lists as 1-D arrays). Times: datetime64 with NaT.
    """
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
        if isinstance(column, pa.ChunkedArray):
            column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    kind = column.type
    if pat.is_dictionary(kind):
        return to_numpy(column.dictionary_decode())
    if pat.is_fixed_size_list(kind) and _numeric(kind.value_type):
        width = kind.list_size
        flat = to_numpy(column.values.slice(column.offset * width, len(column) * width))
        rows = flat.reshape(len(column), width)
        if column.null_count:
            rows = rows.astype(rows.dtype if rows.dtype.kind == "f" else np.float64)
            rows[column.is_null().to_numpy(zero_copy_only=False)] = np.nan
        return rows
    if pat.is_boolean(kind) and column.null_count:
        return column.cast(pa.int8()).cast(pa.float64()).to_numpy(zero_copy_only=False)
    if _numeric(kind) or pat.is_boolean(kind) or pat.is_timestamp(kind) or pat.is_date(kind):
        return column.to_numpy(zero_copy_only=False)
    out = np.empty(len(column), object)
    if pat.is_list(kind) or pat.is_large_list(kind) or pat.is_fixed_size_list(kind):
        for i, one in enumerate(_lists(column)):
            out[i] = None if one is None else to_numpy(one)
    else:
        out[:] = column.to_numpy(zero_copy_only=False) if pat.is_string(kind) else column.to_pylist()
    return out


def _lists(column: pa.Array) -> Iterator[pa.Array | None]:
    for scalar in column:
        yield scalar.values if scalar.is_valid else None


def _numeric(kind: pa.DataType) -> bool:
    return bool(pat.is_integer(kind) or pat.is_float32(kind) or pat.is_float64(kind))


def _numpy_type(kind: pa.DataType) -> np.dtype:
    return np.dtype(kind.to_pandas_dtype())
