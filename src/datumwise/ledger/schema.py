"""What a column of a ledger may be, and whether a batch fits: refused at the door, column and rows named."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pat

from datumwise.errors import MissingId, SchemaMismatch, UnknownColumn, name_some

__all__ = [
    "as_column",
    "check_batch",
    "check_name",
    "check_schema",
    "known_columns",
    "ledger_schema",
    "nearest",
]

_ID_METADATA = {b"lance-schema:unenforced-primary-key": b"true"}
_PLAIN = (
    pat.is_integer,
    pat.is_float32,
    pat.is_float64,
    pat.is_boolean,
    pat.is_string,
    pat.is_large_string,
    pat.is_binary,
    pat.is_large_binary,
    pat.is_date,
    pat.is_timestamp,
    pat.is_time,
    pat.is_decimal128,
)


def check_schema(schema: pa.Schema) -> None:
    """Refuse names and types that a ledger cannot hold.

    Raises
    ------
    SchemaMismatch
        float16 (anywhere inside a type), all-null, extension, view, union and map types; names that are
        taken, or equal to another name but for case.
    """
    seen: dict[str, str] = {}
    for field in schema:
        check_name(field.name)
        _check_type(field.name, field.type)
        if field.name.lower() in seen:
            raise SchemaMismatch(
                f"columns '{seen[field.name.lower()]}' and '{field.name}' differ in nothing but case",
                remedy="rename one",
                column=field.name,
            )
        seen[field.name.lower()] = field.name


def check_name(name: str) -> None:
    """Refuse a column name that the store reserves.

    Raises
    ------
    SchemaMismatch
    """
    reason = ""
    if not name:
        reason = "is empty"
    elif name.startswith("_row"):
        reason = "starts with '_row', which the store keeps for itself"
    elif "." in name or "`" in name:
        reason = "holds a '.' or a '`', which the store reads as a path"
    if reason:
        raise SchemaMismatch(f"column name '{name}' {reason}", remedy="rename the column", column=name)


def ledger_schema(schema: pa.Schema, metadata: dict[bytes, bytes]) -> pa.Schema:
    """The schema with `id` first, non-null and declared as the key; dictionaries become what they stand for.

    (A dictionary's values would outlive, in every file, the datapoints that had them. The store compresses
    repeated text by itself.)
    """
    rest = [
        field.with_type(field.type.value_type) if pat.is_dictionary(field.type) else field
        for field in schema
        if field.name != "id"
    ]
    identity = pa.field("id", pa.string(), nullable=False, metadata=_ID_METADATA)
    return pa.schema([identity, *rest], metadata=metadata)


def check_batch(batch: pa.RecordBatch, schema: pa.Schema, *, optional: Sequence[str] = ()) -> pa.RecordBatch:
    """The batch with the schema's columns in the schema's order.

    Parameters
    ----------
    batch : RecordBatch of n rows
    schema : Schema
        What the ledger holds.
    optional : sequence of str
        Columns that may be absent (findings); they are filled with null, which means "not yet".

    Raises
    ------
    SchemaMismatch
        A column is missing, is not on the ledger, or has another type that cannot be cast without loss.
    MissingId
        A null id; the row numbers are named.
    """
    missing = [f.name for f in schema if f.name not in batch.schema.names and f.name not in optional]
    if missing:
        raise SchemaMismatch(
            f"column{'s' if len(missing) > 1 else ''} {', '.join(map(repr, missing))} missing from the new rows",
            remedy="give every column of the ledger; a value may be null",
            column=missing[0],
        )
    extra = [name for name in batch.schema.names if name not in schema.names]
    if extra:
        raise SchemaMismatch(
            f"column '{extra[0]}' is not on the ledger (columns: {name_some(schema.names, shown=8)})",
            remedy="drop it, or add it to all rows with write",
            column=extra[0],
        )
    columns = [
        _fit(batch.column(field.name), field) if field.name in batch.schema.names else pa.nulls(len(batch), field.type)
        for field in schema
    ]
    for field, column in zip(schema, columns, strict=True):
        if not field.nullable and column.null_count:
            rows = np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))
            kind = MissingId if field.name == "id" else SchemaMismatch
            raise kind(
                f"column '{field.name}' is null in {len(rows):,} row{'s' if len(rows) > 1 else ''} (row {name_some(rows)})",
                remedy="give every row a value",
                column=field.name,
                ids=rows.tolist(),
            )
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def known_columns(names: Iterable[str], there: Sequence[str], where: str) -> list[str]:
    """The names as a list, refused with the nearest name if one is not there.

    Raises
    ------
    UnknownColumn
    """
    wanted = [names] if isinstance(names, str) else list(names)
    for name in wanted:
        if name not in there:
            guess = nearest(name, there)
            raise UnknownColumn(
                f"column '{name}' is not in {where} (columns: {name_some(there, shown=12)})",
                remedy=f"did you mean '{guess}'?" if guess else None,
                column=name,
            )
    return wanted


def nearest(name: str, there: Iterable[str]) -> str | None:
    """The name that was probably meant, or None."""
    import difflib

    close = difflib.get_close_matches(str(name), [str(other) for other in there], n=1, cutoff=0.6)
    return close[0] if close else None


def as_column(name: str, values: Any) -> pa.Array:
    """Values of one column as an Arrow array that a ledger can hold.

    Parameters
    ----------
    name : str
    values : Arrow array (n,), array (n,) or (n, d), or sequence of n scalars, strings or 1-D arrays
        Float arrays (n, d) become fixed_size_list<float32>[d]; NumPy float16 is widened to float32 (exact);
        sequences of arrays become list columns. NaN stays NaN ("computed, undefined"), None becomes null
        ("not yet").

    Raises
    ------
    SchemaMismatch
        A type a ledger cannot hold.
    """
    column = _arrow(name, values)
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # no chunk at all
        column = pa.array([], column.type)
    _check_type(name, column.type)
    return column.dictionary_decode() if pat.is_dictionary(column.type) else column


def _arrow(name: str, values: Any) -> Any:
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    if hasattr(values, "detach"):  # a tensor
        values = values.detach().cpu().numpy()
    if isinstance(values, np.ma.MaskedArray):
        return pa.array(np.ma.getdata(values), mask=np.ma.getmaskarray(values))
    if isinstance(values, np.ndarray) and values.dtype != object:
        if values.dtype == np.float16 or (values.ndim == 2 and values.dtype.kind == "f"):
            values = values.astype(np.float32)
        if values.ndim == 2:
            return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])
        if values.ndim > 2:
            raise SchemaMismatch(
                f"column '{name}' has {values.ndim} dimensions {values.shape}",
                remedy="flatten each row",
                column=name,
            )
        return pa.array(values)
    values = list(values)
    first = next((value for value in values if value is not None), None)
    try:
        if isinstance(first, np.ndarray):
            width = np.float32 if first.dtype == np.float16 else first.dtype
            return pa.array(
                [None if value is None else np.asarray(value, width) for value in values],
                pa.list_(pa.from_numpy_dtype(np.dtype(width))),
            )
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, TypeError) as error:
        raise SchemaMismatch(
            f"column '{name}' mixes types: {str(error).splitlines()[0]}", remedy="give one type", column=name
        ) from error


def _fit(column: pa.Array, field: pa.Field) -> pa.Array:
    if column.type == field.type:
        return column
    try:
        return column.cast(field.type)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError) as error:
        raise SchemaMismatch(
            f"column '{field.name}' is {column.type} in the new rows and {field.type} on the ledger",
            remedy=f"convert it to {field.type}",
            column=field.name,
        ) from error


def _check_type(name: str, kind: pa.DataType) -> None:
    if pat.is_float16(kind):
        raise SchemaMismatch(f"column '{name}' is float16, which SQL cannot read", remedy="convert it to float32", column=name)
    if pat.is_dictionary(kind):
        return _check_type(name, kind.value_type)
    inner = _inner(kind)
    if any(pat.is_dictionary(part) for part in inner):
        raise SchemaMismatch(
            f"column '{name}' holds dictionaries inside lists or records",
            remedy="decode them",
            column=name,
        )
    if inner:
        for part in inner:
            _check_type(name, part)
        return None
    if pat.is_null(kind):
        raise SchemaMismatch(
            f"column '{name}' holds nothing but nulls, so its type is unknown",
            remedy="drop it or give it a type",
            column=name,
        )
    if not any(fits(kind) for fits in _PLAIN):
        raise SchemaMismatch(
            f"column '{name}' has the type {kind}, which a ledger does not hold",
            remedy="convert it to numbers, text, bytes, times, or lists of these",
            column=name,
        )
    return None


def _inner(kind: pa.DataType) -> list[pa.DataType]:
    """Types of the elements of a list or the members of a record."""
    if pat.is_list(kind) or pat.is_large_list(kind) or pat.is_fixed_size_list(kind):
        return [kind.value_type]
    if pat.is_struct(kind):
        return [child.type for child in kind]
    return []
