"""What the batch statements refuse at the door: NaN scores, empty batches, ids that do not fit."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from datumwise.errors import DuplicateId, EmptyData, NotFinite, SchemaMismatch, name_some

__all__ = ["aligned_ids", "batch_size", "real_column", "reservation", "take_rows"]


def real_column(values: Any, name: str, *, infinite: Literal["no", "minus", "yes"] = "no") -> np.ndarray:
    """``values`` as float64 (n,), n >= 1, or a refusal that counts and names the rows.

    ``infinite`` tells which infinities may stand.

    Examples
    --------
    >>> real_column([1, 2], "y").tolist()
    [1.0, 2.0]
    >>> real_column([1, float("nan")], "y")
    Traceback (most recent call last):
    datumwise.errors.NotFinite: y has NaN in 1 row: 1
    """
    column = np.asarray(values)
    if column.ndim != 1 or column.dtype.kind not in "fiub":
        raise SchemaMismatch(f"{name} must be one number a datapoint; got shape {column.shape} of {column.dtype}")
    if not len(column):
        raise EmptyData(f"{name} is empty")
    column = column.astype(np.float64)
    wrong = np.isnan(column) if infinite == "yes" else ~np.isfinite(column)
    if infinite == "minus":
        wrong &= ~np.isneginf(column)
    bad = np.flatnonzero(wrong)
    if len(bad):
        what = "NaN" if np.isnan(column[bad]).all() else "NaN or infinity"
        rows = "row" if len(bad) == 1 else "rows"
        raise NotFinite(f"{name} has {what} in {len(bad):,} {rows}: {name_some(bad)}", ids=bad.tolist())
    return column


def batch_size(X: Any) -> int:
    """Rows of X, at least one.

    Examples
    --------
    >>> batch_size([[1.0], [2.0]])
    2
    """
    shape = getattr(X, "shape", None)
    m = int(shape[0]) if shape is not None and len(shape) else len(X)
    if m < 1:
        raise EmptyData("the batch has no datapoint", remedy="a batch needs m >= 1")
    return m


def aligned_ids(ids: Any, X: Any, m: int) -> np.ndarray:
    """Ids of the m rows: those given, else the index of a data frame, else 0..m-1.

    Examples
    --------
    >>> aligned_ids(None, np.zeros((3, 1)), 3).tolist(), aligned_ids(["a", "b"], None, 2).tolist()
    ([0, 1, 2], ['a', 'b'])
    """
    if ids is None:
        index = getattr(X, "index", None)
        # a list has a method of this name
        return np.arange(m) if index is None or callable(index) else np.asarray(index)
    found = np.asarray(ids)
    if found.shape != (m,):
        raise SchemaMismatch(f"{m:,} datapoints and ids of shape {found.shape} do not fit together")
    values, first = np.unique(found, return_index=True)
    if len(values) < m:
        twice = np.setdiff1d(np.arange(m), first)
        raise DuplicateId(f"ids occur twice: {name_some(found[twice])}", ids=found[twice].tolist())
    return found


def take_rows(X: Any, rows: np.ndarray) -> Any:
    """Rows of a data frame, an array or a list.

    Examples
    --------
    >>> take_rows([[1.0], [2.0], [3.0]], np.array([2, 0])).tolist()
    [[3.0], [1.0]]
    """
    return X.iloc[rows] if hasattr(X, "iloc") else np.asarray(X)[rows]


def reservation(validity: str) -> str:
    """What a statement adds where its level is not exact.

    Examples
    --------
    >>> reservation("exact"), reservation("approximate: the weights were estimated")
    ('', '; approximate: the weights were estimated')
    """
    return "" if validity.startswith("exact") else f"; {validity}"
