"""How sure is an accuracy that was measured on some items with some seeds? Items and seeds are two sources of variance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, NotFinite, SchemaMismatch, UnknownName, name_some
from datumwise.evaluate.removal import Interval

__all__ = ["METHODS", "accuracy_interval", "correct_matrix", "grid_draws", "seed_variance"]

METHODS = ("two-way", "grid")
Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
BLOCK = 2**17  # bootstrap counts held at once: 1 MiB, so that they stay in the cache


def accuracy_interval(
    correct: Any, method: Literal["two-way", "grid"] = "two-way", n_boot: int = 10_000, random_state: Any = None
) -> Interval:
    """Accuracy with its 95 % interval.

    Parameters
    ----------
    correct : float (n, k) or (n,)
        1 right, 0 wrong, NaN not measured; a row an item, a column a seed.
    method : {"two-way", "grid"}
        "two-way" adds the variance of item means and the variance that seeds add to it (analysis of variance). "grid" is
        the published bootstrap of rows and columns, which is too wide: resampled columns bring the items' noise in twice.
    n_boot : int
        Draws of "grid".
    random_state : int, Generator or None

    Returns
    -------
    Interval

    Examples
    --------
    >>> right = np.random.default_rng(0).random((400, 5)) < 0.7
    >>> found = accuracy_interval(right)
    >>> bool(found.low < 0.7 < found.high)
    True
    """
    matrix = correct_matrix(correct, "correct")
    if method not in METHODS:
        raise UnknownName(f"there is no method {method!r}", remedy="choose two-way or grid")
    if method == "grid":
        draws = grid_draws([matrix], n_boot, np.random.default_rng(random_state))[0]
        low, high = np.quantile(draws[np.isfinite(draws)], (0.025, 0.975))
        return Interval(float(np.nanmean(matrix)), float(low), float(high))
    items = np.nanmean(matrix, axis=1)
    value = float(np.nanmean(matrix))
    variance = (np.var(items, ddof=1) / len(items) if len(items) > 1 else 0.0) + seed_variance(matrix)
    half = Z * float(np.sqrt(variance))
    # of a share, unless what was given is no share
    inside = bool(matrix[~np.isnan(matrix)].min() >= 0 and matrix[~np.isnan(matrix)].max() <= 1)
    low, high = (max(0.0, value - half), min(1.0, value + half)) if inside else (value - half, value + half)
    return Interval(value, low, high)


def correct_matrix(correct: Any, name: str) -> np.ndarray:
    """float64 (n, k) without rows or columns that are all NaN, or a refusal.

    Rows are kept apart from columns so that callers who align several matrices can check their heights first.
    """
    matrix = np.asarray(correct)
    if matrix.ndim == 1:
        matrix = matrix[:, None]
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiub":
        raise SchemaMismatch(f"{name} must be numbers, items x seeds; got shape {matrix.shape} of {matrix.dtype}")
    if not matrix.size:
        raise EmptyData(f"{name} is empty")
    matrix = matrix.astype(np.float64)
    bad = np.flatnonzero(np.isinf(matrix).any(axis=1))
    if len(bad):
        raise NotFinite(f"{name} is infinite in row {name_some(bad)}", ids=bad.tolist())
    seen = ~np.isnan(matrix)
    if not seen.any():
        raise NotFinite(f"{name} is NaN throughout")
    return matrix[seen.any(axis=1)][:, seen.any(axis=0)]


def seed_variance(matrix: np.ndarray) -> float:
    """What seeds add to the variance of the mean: max(0, MS_columns - MS_residual) / (n k), 0 with one column."""
    n, k = matrix.shape
    if k < 2 or n < 2:
        return 0.0
    mean = np.nanmean(matrix)
    rows = np.nanmean(matrix, axis=1, keepdims=True)
    columns = np.nanmean(matrix, axis=0, keepdims=True)
    of_columns = n * float(((columns - mean) ** 2).sum()) / (k - 1)
    of_residual = float(np.nansum((matrix - rows - columns + mean) ** 2)) / ((n - 1) * (k - 1))
    return max(0.0, of_columns - of_residual) / (n * k)


def grid_draws(matrices: Sequence[np.ndarray], n_boot: int, rng: np.random.Generator) -> np.ndarray:
    """Bootstrap means (T, n_boot) of T matrices: rows resampled jointly, columns of each independently.

    A draw is r' M c / (r' S c) with counts r of rows and c of columns and S = 1 where M is not NaN: two matrix products a
    block of draws. Rows count jointly, so all matrices must have the same items.
    """
    if n_boot < 1:
        raise DatumwiseError(f"n_boot must be at least 1; got {n_boot}")
    n = len(matrices[0])
    filled = [np.nan_to_num(matrix).astype(np.float32) for matrix in matrices]
    seen = [None if not np.isnan(matrix).any() else (~np.isnan(matrix)).astype(np.float32) for matrix in matrices]
    wide = np.concatenate(filled + [one for one in seen if one is not None], axis=1)
    out = np.empty((len(matrices), n_boot))
    step = max(1, BLOCK // n)
    for start in range(0, n_boot, step):
        size = min(step, n_boot - start)
        rows = _counts(size, n, rng)
        products = (rows @ wide).astype(np.float64)
        at, at_seen = 0, sum(matrix.shape[1] for matrix in matrices)
        for t, matrix in enumerate(matrices):
            k = matrix.shape[1]
            columns = _counts(size, k, rng)
            total = np.einsum("bk,bk->b", products[:, at : at + k], columns)
            if seen[t] is None:
                weight: Any = float(n * k)
            else:
                weight = np.einsum("bk,bk->b", products[:, at_seen : at_seen + k], columns)
                at_seen += k
            at += k
            with np.errstate(invalid="ignore", divide="ignore"):
                out[t, start : start + size] = total / weight
    return out


def _counts(draws: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """float32 (draws, n): how often each of n is drawn in n draws; one bincount for all."""
    drawn = rng.integers(0, n, (draws, n), dtype=np.int32)
    drawn += (np.arange(draws, dtype=np.int32) * n)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float32)
