"""The same rows in types a ledger holds: dictionaries decoded, vectors of one length, names kept."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from datumwise.errors import SchemaMismatch, name_some

__all__ = ["is_numeric_list", "plain_schema", "reshaped", "width_of"]


def plain_schema(schema: pa.Schema) -> pa.Schema:
    """Types a ledger holds, where that loses nothing: dictionaries, views and all-null columns as text."""
    return pa.schema([pa.field(field.name, _plain(field.type)) for field in schema])


def _plain(kind: pa.DataType) -> pa.DataType:
    if pat.is_dictionary(kind):
        return _plain(kind.value_type)
    if pat.is_large_string(kind) or pat.is_string_view(kind) or pat.is_null(kind):
        return pa.string()
    if pat.is_binary_view(kind):
        return pa.large_binary()
    if isinstance(kind, pa.ExtensionType):
        return _plain(kind.storage_type)
    if isinstance(kind, pa.ListType | pa.LargeListType) and pat.is_float16(kind.value_type):
        return pa.list_(pa.float16())  # refused by the ledger, by name
    return kind


def is_numeric_list(kind: pa.DataType) -> bool:
    """Lists of numbers, of fixed or varying length."""
    is_list = pat.is_list(kind) or pat.is_large_list(kind) or pat.is_fixed_size_list(kind)
    return is_list and (pat.is_floating(kind.value_type) or pat.is_integer(kind.value_type))


def width_of(column: pa.ChunkedArray) -> int | None:
    """Length of the first list that is not null."""
    for value in column:
        if value.is_valid:
            return len(value)
    return None


def reshaped(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Batches cast to ``schema``.

    Raises
    ------
    SchemaMismatch
        A vector of another length (the rows are named), or a value that does not fit.
    """
    first_row = 0
    for batch in batches:
        columns = [_cast(batch.column(field.name), field, first_row) for field in schema]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)
        first_row += batch.num_rows


def _cast(column: pa.Array, field: pa.Field, first_row: int) -> pa.Array:
    if column.type == field.type:
        return column
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if pat.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pat.is_fixed_size_list(field.type) and not pat.is_fixed_size_list(column.type):
        lengths = pc.list_value_length(column)
        wrong = pc.not_equal(lengths, field.type.list_size)
        rows = [first_row + i for i in pc.indices_nonzero(pc.fill_null(wrong, False)).to_pylist()]
        if rows:
            raise SchemaMismatch(
                f"column {field.name!r} holds {field.type.list_size} numbers in the first row, and another "
                f"count in row {name_some(rows)} (from 0)",
                remedy="give vectors of one length",
                column=field.name,
                ids=rows,
            )
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise SchemaMismatch(
            f"column {field.name!r} holds {column.type}, which cannot become {field.type}",
            remedy="convert it before",
            column=field.name,
        ) from error
