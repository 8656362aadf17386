"""How much room do the rows span? Volume, a value that needs neither labels nor validation rows.

Xu et al., 2021, *Validation Free and Replication Robust Volume-based Data Valuation*, NeurIPS, definitions 1 and 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.probe.neighbours import finite_matrix
from datumwise.score.estimate import Value
from datumwise.score.shapley import tmc_shapley
from datumwise.score.utility import FLOATS, Utility

__all__ = ["VolumeUtility", "volume"]

WIDEST = 64  # columns: a determinant of more says little and overflows


class VolumeUtility(Utility):
    """Robust volume of a set of rows, over that of all rows.

    The rows are dealt to cubes of width omega, once; a cube's members in the set count as their mean, so that
    copies add almost nothing: RV(S) = sqrt(det(T'T)) prod over cubes of (1 + a + ... + a^f), T the means, f the
    members of a cube, a = 1/(10 cubes of all rows). Sets of fewer cubes than columns have volume 0.

    Parameters
    ----------
    X : float (n, d), finite, d <= 64
    omega : float, default 0.05
        Width of a cube, in units of ``X``. 0: plain volume sqrt(det(X'X)).

    Notes
    -----
    The published code lays the cubes out from the smallest row of each set and takes a from the set's own number of cubes: then
    adding a row moves every cube, and the volume of a superset can be smaller. Here both are those of all rows.
    """

    def __init__(self, X: Any, omega: float = 0.05) -> None:
        X = finite_matrix(X, "X").astype(np.float64)
        if omega < 0:
            raise DatumwiseError(f"omega = {omega} is no width", remedy="omega >= 0")
        if X.shape[1] > WIDEST:
            raise DatumwiseError(f"a volume in {X.shape[1]} dimensions says nothing", remedy=f"project to <= {WIDEST} columns")
        super().__init__(len(X), 0.0)
        self._X = X
        if omega > 0:
            places = np.floor((X - X.min(axis=0)) / omega)
            _, self._cube = np.unique(places, axis=0, return_inverse=True)
            self._cube = self._cube.ravel()
        else:
            self._cube = np.arange(len(X))
        self.omega = omega
        self.cubes = int(self._cube.max()) + 1
        self._alpha = 1 / (10 * self.cubes)
        self._log_all = 0.0
        self._log_all = float(self._log_volume(np.ones((1, self.n), bool))[0])
        if not np.isfinite(self._log_all):
            raise DatumwiseError(
                f"all {self.n:,} rows have volume 0 in {X.shape[1]} dimensions",
                remedy="drop columns that depend on others, or give more rows",
            )

    def batch(self, length: int) -> int:
        return int(np.clip(FLOATS // (self.cubes * (self._X.shape[1] + 1)), 1, 256))

    def _values(self, masks: np.ndarray) -> np.ndarray:
        step = self.batch(1)
        parts = [self._log_volume(masks[start : start + step]) for start in range(0, len(masks), step)]
        return np.exp(np.concatenate(parts) - self._log_all)

    def _log_volume(self, masks: np.ndarray) -> np.ndarray:
        d = self._X.shape[1]
        count = np.zeros((len(masks), self.cubes))
        total = np.zeros((len(masks), self.cubes, d))
        set_, row = np.nonzero(masks)
        flat = set_ * self.cubes + self._cube[row]
        count = np.bincount(flat, minlength=count.size).reshape(count.shape).astype(np.float64)
        for column in range(d):
            total[:, :, column] = np.bincount(flat, self._X[row, column], count.size).reshape(count.shape)
        means = total / np.maximum(count, 1)[:, :, None]
        sign, log = np.linalg.slogdet(means.transpose(0, 2, 1) @ means)
        flat_set = (sign <= 0) | ((count > 0).sum(axis=1) < d)
        log = log / 2
        if self.omega > 0:
            log = log + np.log((1 - self._alpha ** (count + 1)) / (1 - self._alpha)).sum(axis=1)
        return np.where(flat_set, -np.inf, log)


def volume(
    X: Any,
    *,
    omega: float = 0.05,
    n_permutations: int = 200,
    tolerance: float = 0.0,
    precision: float | None = None,
    random_state: Any = None,
    ids: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Value:
    """Shapley values of the robust volume; they sum to 1, the volume of all rows.

    Parameters
    ----------
    X : float (n, d), finite, d <= 64
        Columns of like scale.
    omega : float, default 0.05
        See `VolumeUtility`.
    n_permutations, tolerance, precision, random_state, ids, progress
        See `datumwise.score.shapley.tmc_shapley`; no permutation is left off by default: volume grows to the end.

    Returns
    -------
    Value

    Examples
    --------
    >>> X = np.array([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0]])  # two near copies and one of its own
    >>> volume(X, omega=0.1, n_permutations=100, random_state=0).values.argmax()
    np.int64(2)
    """
    found = tmc_shapley(
        VolumeUtility(X, omega),
        n_permutations=n_permutations,
        tolerance=tolerance,
        precision=precision,
        random_state=random_state,
        ids=ids,
        progress=progress,
    )
    return Value("volume", found.values, found.stderr, found.utility_calls, found.draws, found.ids, found.converged)
