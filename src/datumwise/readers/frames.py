"""Tables in memory: pandas, polars, Arrow tables, batches and readers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.types as pat

from datumwise.errors import SchemaMismatch, SourceError, name_some
from datumwise.readers import fingerprint
from datumwise.readers.source import BATCH_ROWS, Source

__all__ = ["read_arrow", "read_pandas", "read_polars", "read_reader"]


def read_arrow(table: pa.Table | pa.RecordBatch, *, name: str) -> Source:
    """An Arrow table or record batch."""
    if isinstance(table, pa.RecordBatch):
        table = pa.Table.from_batches([table])
    twins = sorted({n for n in table.schema.names if table.schema.names.count(n) > 1})
    if twins:
        raise SchemaMismatch(f"two columns are called {twins[0]!r}", remedy="rename one of them", column=twins[0])
    plain = table.replace_schema_metadata(None)
    return Source(
        name=name,
        stem=name,
        schema=plain.schema,
        batches=lambda: iter(plain.to_batches(max_chunksize=BATCH_ROWS)),
        fingerprint=lambda: fingerprint.of_table(plain),
        rows=plain.num_rows,
    )


def read_reader(reader: pa.RecordBatchReader, *, name: str) -> Source:
    """A record batch reader: it can be read once only, so it has no fingerprint and is never found again."""

    def batches() -> Iterator[pa.RecordBatch]:
        yield from reader

    return Source(name=name, stem=name, schema=reader.schema.remove_metadata(), batches=batches)


def read_pandas(frame: Any, *, name: str) -> Source:
    """A pandas data frame: NaN becomes null, a named index a column; an index without a name is left out.

    Raises
    ------
    SchemaMismatch
        A column of objects mixes types (types and three rows are named), or two columns share a name.
    """
    import pandas as pd

    if frame.columns.nlevels > 1:
        raise SourceError("the data frame's columns have several levels", remedy="flatten them to one name each")
    frame = frame.rename(columns=str)
    if frame.index.name is not None and frame.index.name not in frame.columns:
        frame = frame.reset_index()
    twins = frame.columns[frame.columns.duplicated()]
    if len(twins):
        raise SchemaMismatch(f"two columns are called {twins[0]!r}", remedy="rename one of them", column=twins[0])
    columns = {}
    for column in frame.columns:
        values = frame[column]
        if values.dtype == object:
            _refuse_mixed(values, column)
        elif isinstance(values.dtype, pd.SparseDtype):
            values = values.sparse.to_dense()
        try:
            columns[column] = pa.array(values, from_pandas=True)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            raise SchemaMismatch(
                f"column {column!r} ({values.dtype}) cannot be stored",
                remedy="make it numbers or text",
                column=column,
            ) from error
    return read_arrow(pa.table(columns), name=name)


def _refuse_mixed(values: Any, column: str) -> None:
    kinds: dict[str, list[int]] = {}
    for row, value in enumerate(values):
        if value is None or value != value:
            continue
        kinds.setdefault(_family(value), []).append(row)
    if len(kinds) > 1:
        common = max(kinds, key=lambda kind: len(kinds[kind]))
        odd = sorted(row for kind, rows in kinds.items() if kind != common for row in rows)
        others = " and ".join(kind for kind in kinds if kind != common)
        raise SchemaMismatch(
            f"column {column!r} mixes types: {common}, and {others} in {len(odd):,} rows (rows {name_some(odd)}, from 0)",
            remedy="make the column one type",
            column=column,
            ids=odd,
        )


def _family(value: Any) -> str:
    import numbers

    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, numbers.Number):
        return "numbers"
    if isinstance(value, str):
        return "text"
    if hasattr(value, "__len__") and not isinstance(value, bytes | dict):
        return "lists"
    return type(value).__name__


def read_polars(frame: Any, *, name: str) -> Source:
    """A polars data frame; a lazy one is collected."""
    if hasattr(frame, "collect"):
        frame = frame.collect()
    kinds = [column for column, kind in frame.schema.items() if str(kind) == "Object"]
    if kinds:
        raise SchemaMismatch(f"column {kinds[0]!r} holds Python objects", remedy="make it numbers or text", column=kinds[0])
    return read_arrow(_without_views(frame.to_arrow()), name=name)


def _without_views(table: pa.Table) -> pa.Table:
    fields = []
    for field in table.schema:
        kind = field.type
        if pat.is_string_view(kind) or pat.is_large_string(kind):
            kind = pa.string()
        elif pat.is_binary_view(kind):
            kind = pa.large_binary()
        fields.append(pa.field(field.name, kind))
    return table.cast(pa.schema(fields))
