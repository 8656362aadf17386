"""Which are the largest products of two lists of numbers, without forming all of them? Bisection on the smallest one kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch

__all__ = ["Steps", "is_tensor", "scaled", "smallest_kept", "spectrum"]

SORTED_AT_ONCE = 8192  # products between two thresholds that are sorted instead of bisected further


class Steps:
    """Values descending, equal ones together, to count products r * value >= t of one factor r with all of them."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = values
        rising, counts = np.unique(values, return_counts=True)
        self._rising = rising
        self._counts = np.concatenate([[0], np.cumsum(counts[::-1])])
        self._masses = np.concatenate([[0.0], np.cumsum((rising * counts)[::-1])])

    def reached(self, rows: np.ndarray, threshold: float) -> np.ndarray:
        """Distinct values v with fl(row * v) >= threshold > 0, of each row: exactly, rounding of the quotient mended."""
        m = len(self._rising)
        with np.errstate(divide="ignore", over="ignore"):
            found = m - np.searchsorted(self._rising, threshold / rows)
        while True:
            more = (found < m) & (rows * self._rising[np.maximum(m - 1 - found, 0)] >= threshold)
            less = (found > 0) & (rows * self._rising[np.minimum(m - found, m - 1)] < threshold)
            if not (more.any() or less.any()):
                return found
            found += more.astype(found.dtype) - less.astype(found.dtype)

    def counts(self, reached: np.ndarray) -> np.ndarray:
        """int64: how many values those are, equal ones counted."""
        return self._counts[reached]

    def mass(self, rows: np.ndarray, reached: np.ndarray) -> float:
        """Sum of their products."""
        return float(rows @ self._masses[reached])


def smallest_kept(rows: np.ndarray, steps: Steps, target: float) -> tuple[int, float]:
    """Size of the smallest set of largest products with a sum of at least ``target``, and its smallest product.

    Positive floats are in the order of their bits, so bisecting the bits ends, at the latest, at neighbouring floats.
    """
    smallest = max(float(rows[rows > 0][-1] * steps.values[steps.values > 0][-1]), float(np.nextafter(0.0, 1.0)))
    low, high = _bits(smallest), _bits(rows[0] * steps.values[0]) + 1
    above, below = np.zeros(len(rows), dtype=np.int64), steps.reached(rows, _float(low))
    while high - low > 1 and steps.counts(below).sum() - steps.counts(above).sum() > SORTED_AT_ONCE:
        middle = (low + high) // 2
        at = steps.reached(rows, _float(middle))
        if steps.mass(rows, at) >= target:
            low, below = middle, at
        else:
            high, above = middle, at
    first, last = steps.counts(above), steps.counts(below)
    before, missing = int(first.sum()), target - steps.mass(rows, above)
    if high - low == 1:  # all that are left are equal
        ties = int(last.sum()) - before
        return before + int(np.clip(np.ceil(missing / _float(low)), 1, ties)), _float(low)
    widths = last - first
    row = np.repeat(np.arange(len(rows)), widths)
    column = np.arange(len(row)) - np.repeat(np.cumsum(widths) - widths - first, widths)
    products = -np.sort(-rows[row] * steps.values[column])
    boundary = min(int(np.searchsorted(np.cumsum(products), missing)), len(products) - 1)
    return before + boundary + 1, float(products[boundary])


def _bits(x: float) -> int:
    return int(np.float64(x).view(np.int64))


def _float(bits: int) -> float:
    return float(np.int64(bits).view(np.float64))


def spectrum(values: Any, name: str) -> np.ndarray:
    """float64, at least 0, descending."""
    array = np.asarray(values.detach().cpu().double() if is_tensor(values) else values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise SchemaMismatch(f"{name} has shape {array.shape}, not that of a spectrum")
    if not np.isfinite(array).all():
        raise NotFinite(f"{name} has eigenvalues that are not finite")
    array = np.maximum(array, 0)
    if (array[1:] > array[:-1]).any():
        raise DatumwiseError(f"the eigenvalues {name} do not descend", remedy="sort them, with their eigenvectors")
    return array


def scaled(values: np.ndarray, name: str) -> tuple[np.ndarray, int]:
    """Divided, without rounding, by the power of two that brings the largest into [0.5, 1): no product underflows."""
    if values[0] == 0:
        raise DatumwiseError(f"all eigenvalues {name} are zero, so no pair carries any curvature", remedy="leave the layer out")
    exponent = int(np.frexp(values[0])[1])
    return np.ldexp(values, -exponent), exponent


def is_tensor(x: Any) -> bool:
    return hasattr(x, "detach")
