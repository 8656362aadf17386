"""What a deep kernel machine of tables is given: one sentence for each thing that can be wrong with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor

from datumwise.errors import (
    DatumwiseError,
    DuplicateId,
    NotFinite,
    SchemaMismatch,
    name_some,
)
from datumwise.learn.deep_kernel.kernels import check_kernel

__all__ = [
    "check_targets",
    "checked_ids",
    "checked_k",
    "checked_kernel",
    "checked_nu",
    "one_each",
    "refuse_not_finite",
    "refuse_too_large",
    "to_numpy",
]

PAIRS = 20_000**2  # entries of a similarity or influence matrix that may be asked for
NUMBER = int | float | np.integer | np.floating


def refuse_not_finite(values: np.ndarray, name: str) -> None:
    """Refuse NaN and infinity, naming the rows."""
    values = np.asarray(values, dtype=np.float64)
    if np.isfinite(values.sum()):
        return
    for test, what in ((np.isnan, "NaN"), (np.isinf, "inf")):
        bad = np.flatnonzero(test(values).reshape(len(values), -1).any(1))
        if len(bad):
            raise NotFinite(f"{name} contains {what} at rows {name_some(bad)}", remedy="drop or fill them", ids=bad.tolist())


def check_targets(X: Any, y: Any) -> None:
    shapes = [getattr(v, "shape", None) for v in (X, y)]
    lengths = [s[0] if s else len(v) if hasattr(v, "__len__") else None for s, v in zip(shapes, (X, y), strict=True)]
    if None not in lengths and lengths[0] != lengths[1]:
        raise SchemaMismatch(f"X has {lengths[0]:,} rows and y {lengths[1]:,}", remedy="give one target a row")
    targets = np.asarray(y)
    if targets.dtype.kind == "f" and targets.ndim:
        refuse_not_finite(targets, "y")


def checked_ids(ids: Any, n: int) -> np.ndarray:
    if ids is None:
        return np.arange(n)
    ids = np.asarray(ids)
    if ids.shape != (n,):
        raise SchemaMismatch(f"{n:,} rows and ids of shape {ids.shape}", remedy="give one id a row")
    names, counts = np.unique(ids, return_counts=True)
    if len(names) < n:
        twice = names[counts > 1].tolist()
        raise DuplicateId(f"the id {name_some(twice)} occurs more than once", ids=twice)
    return ids


def checked_nu(nu: Any) -> float:
    if not isinstance(nu, NUMBER) or isinstance(nu, bool) or not nu >= 0:
        raise DatumwiseError(f"nu must be at least 0, not {nu!r}", remedy="from 0.1 to 10 for tables, inf to learn no features")
    return float(nu)


def checked_kernel(name: Any) -> str:
    check_kernel(name)
    return name


def one_each(name: str, given: Any, count: int, check: Callable[[Any], Any]) -> list[Any]:
    """A list of ``count`` checked values from one value or a list of so many."""
    if isinstance(given, str) or np.ndim(given) == 0:
        return [check(given)] * count
    if len(given) != count:
        raise SchemaMismatch(f"{name} has {len(given)} entries for {count} layers", remedy=f"give one, or {count}")
    return [check(value) for value in given]


def checked_k(k: int, n: int) -> None:
    if not isinstance(k, int | np.integer) or not 1 <= k <= n:
        raise DatumwiseError(f"k = {k} neighbours of {n:,} datapoints", remedy=f"choose 1 to {n:,}")


def refuse_too_large(rows: int, columns: int) -> None:
    if rows * columns > PAIRS:
        raise DatumwiseError(
            f"a matrix of {rows:,} x {columns:,} is too large to hold", remedy=f"ask for at most {PAIRS:,} entries at a time"
        )


def to_numpy(values: Tensor) -> np.ndarray:
    return values.detach().double().cpu().numpy()
