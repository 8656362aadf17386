"""Arrays: a matrix, a pair (X, y), or a dict of arrays by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from datumwise.errors import SchemaMismatch, SourceError
from datumwise.readers.frames import read_arrow
from datumwise.readers.images import encoded
from datumwise.readers.source import Source

__all__ = ["as_column", "read_arrays"]


def read_arrays(arrays: Mapping[str, Any], *, name: str) -> Source:
    """Arrays of one length, by name.

    One-dimensional arrays become plain columns, ``(n, d)`` arrays a column of vectors, and uint8 arrays
    ``(n, h, w)`` or ``(n, h, w, 3 or 4)`` pictures in column `image`.

    Parameters
    ----------
    arrays : mapping of str to array (n, ...)
        A matrix ``X`` comes as ``{"x": X}``, a pair ``(X, y)`` as ``{"x": X, "label": y}``.
    name : str
        The ledger's default name.

    Raises
    ------
    SchemaMismatch
        Arrays of different lengths, of more dimensions than a column holds, or of mixed types.
    """
    given = {str(key): _dense(str(key), value) for key, value in arrays.items()}
    if not given:
        raise SourceError("the dict of arrays is empty", remedy="give at least one array")
    lengths = {key: len(value) for key, value in given.items()}
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{key} {n:,}" for key, n in lengths.items())
        raise SchemaMismatch(f"the arrays have different lengths ({said})", remedy="give one row a datapoint in each")
    columns = {}
    roles: dict[str, Any] = {}
    for key, value in given.items():
        if value.ndim >= 3 and value.dtype == np.uint8 and (value.ndim == 3 or value.shape[3:] in ((3,), (4,))):
            columns["image"] = pa.array([encoded(pixels) for pixels in value], pa.large_binary())
            roles["image"] = "image"
        else:
            columns[key] = as_column(key, value)
            if key == "x" and value.ndim == 2:
                roles["features"] = "x"
    source = read_arrow(pa.table(columns), name=name)
    return Source(**{**vars(source), "roles": roles})


def as_column(name: str, values: np.ndarray) -> pa.Array:
    """An array ``(n,)`` or ``(n, d)`` as a column: vectors of float32 or float64, float16 widened exactly.

    Examples
    --------
    >>> as_column("x", np.eye(2, dtype=np.float32)).type
    FixedSizeListType(fixed_size_list<item: float>[2])
    """
    if values.ndim > 2:
        raise SchemaMismatch(
            f"array {name!r} has the shape {values.shape}",
            remedy="give pictures as uint8 (n, h, w) or (n, h, w, 3), or flatten each row",
            column=name,
        )
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    if values.ndim == 2:
        if values.dtype.kind not in "fiub":
            raise SchemaMismatch(f"array {name!r} holds {values.dtype}, not numbers", remedy="give a data frame", column=name)
        if values.dtype.kind != "f":
            values = values.astype(np.float32 if values.dtype.itemsize <= 2 else np.float64)
        if values.dtype not in (np.float32, np.float64):
            values = values.astype(np.float64)
        return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(values).ravel()), values.shape[1])
    if values.dtype == object:
        kinds = {type(value).__name__ for value in values.tolist() if value is not None}
        if len(kinds) > 1 and not kinds <= {"int", "float", "int64", "float64", "int32", "float32"}:
            raise SchemaMismatch(
                f"array {name!r} mixes types ({', '.join(sorted(kinds))})",
                remedy="make it one type",
                column=name,
            )
    try:
        return pa.array(values.tolist() if values.dtype.kind in "OU" else values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise SchemaMismatch(
            f"array {name!r} ({values.dtype}) cannot be stored", remedy="make it numbers or text", column=name
        ) from error


def _dense(name: str, value: Any) -> np.ndarray:
    if hasattr(value, "toarray"):
        raise SchemaMismatch(f"array {name!r} is sparse", remedy=f"give {name}.toarray()", column=name)
    if hasattr(value, "detach"):  # a torch tensor
        value = value.detach().cpu().numpy()
    if isinstance(value, list) and value and all(isinstance(item, str) for item in value):
        return np.array(value, dtype=object)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise SchemaMismatch(f"the rows of array {name!r} differ in length", remedy="pad them", column=name) from error
    if array.ndim == 0:
        raise SchemaMismatch(f"array {name!r} is a single value", remedy="give one value a datapoint", column=name)
    return array
