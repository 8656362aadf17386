"""Which datapoints leave no other far from a pick? The farthest-first traversal."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.probe.neighbours import row_norms
from datumwise.select.greedy import best_of
from datumwise.select.selector import Selector

__all__ = ["KCenterGreedy"]

METRICS = ("euclidean", "cosine")
STARTS = ("mean", "random")


class KCenterGreedy(Selector):
    """Keep the datapoint farthest from all picks so far, again and again.

    next = argmax_i min_{s in S} d(i, s). The radius, the largest distance of a datapoint to its nearest pick, is at
    most twice the least possible. One matrix-vector product a pick, O(n d k).

    Parameters
    ----------
    n_to_select : int or float
    metric : {"euclidean", "cosine"}, default "euclidean"
        "cosine": Euclidean distance of the rows scaled to length 1, sqrt(2 - 2 cos), which orders as cosine distance
        does and is a metric, so that the promise holds.
    start : {"mean", "random"} or sequence of int, default "mean"
        First pick: the row nearest to the mean, or a random one; or the rows that are chosen already: they come
        first in the ranking and count.
    random_state : int, Generator or None
        Of start "random".
    progress : callable, optional
        Called with (chosen, k).

    Attributes
    ----------
    gains_ : float64 (k,)
        Distance of each pick to the nearest pick before it; the first has none: infinity. Never increases after the
        rows given in ``start``.
    radius_ : float
        Largest distance of a datapoint to its nearest pick.
    nearest_ : int64 (n,)
        Nearest pick of each datapoint, a row; the earliest of equally near.
    weights_ : float64 (k,)
        How many datapoints are nearest to each pick.

    Examples
    --------
    >>> import numpy as np
    >>> chosen = KCenterGreedy(3).fit(np.array([[0.0], [1.0], [2.0], [10.0], [4.0]]))
    >>> chosen.ranking_.tolist(), chosen.radius_
    ([4, 3, 0], 2.0)

    References
    ----------
    Gonzalez, 1985, *Clustering to Minimize the Maximum Intercluster Distance*; Sener and Savarese, 2018, algorithm 1.
    """

    takes: ClassVar[tuple[str, ...]] = ("X",)
    source: ClassVar[str] = "Sener and Savarese, 2018, algorithm 1"

    radius_: float
    nearest_: np.ndarray
    weights_: np.ndarray

    def __init__(
        self,
        n_to_select: int | float,
        *,
        metric: str = "euclidean",
        start: str | Sequence[int] = "mean",
        random_state: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.n_to_select = n_to_select
        self.metric = metric
        self.start = start
        self.random_state = random_state
        self.progress = progress

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        points = centred(inputs["X"], self.metric)
        norms = np.einsum("ij,ij->i", points, points)
        scale = float(norms.max())
        squared = np.full(n, np.inf)  # to the nearest pick
        self.nearest_ = np.zeros(n, np.int64)
        ranking: list[int] = []
        gains: list[float] = []
        given = self._first(points, norms, n, k)
        while len(ranking) < k:
            row = given[len(ranking)] if len(ranking) < len(given) else best_of(squared, scale)
            gains.append(_distance(points, row, self.nearest_[row]) if ranking else np.inf)
            ranking.append(row)
            new = squared_distances(points, norms, row)
            nearer = new < squared
            squared[nearer] = new[nearer]
            self.nearest_[nearer] = row
            squared[row] = -np.inf  # a pick is not chosen again, not even among copies
            self.nearest_[row] = row
            if self.progress is not None:
                self.progress(len(ranking), k)
        far = int(np.argmax(squared)) if k < n else ranking[0]
        self.radius_ = _distance(points, far, self.nearest_[far])
        self.weights_ = np.bincount(self.nearest_, minlength=n)[ranking].astype(np.float64)
        return np.array(ranking), np.array(gains)

    def _first(self, points: np.ndarray, norms: np.ndarray, n: int, k: int) -> list[int]:
        if isinstance(self.start, str):
            if self.start not in STARTS:
                near = difflib.get_close_matches(self.start, STARTS, n=1)
                raise UnknownName(
                    f"there is no start {self.start!r}",
                    remedy=f"did you mean {near[0]!r}?" if near else "give 'mean', 'random' or rows",
                )
            if self.start == "random":
                return [int(np.random.default_rng(self.random_state).integers(n))]
            return [best_of(2 * (points @ points.mean(axis=0)) - norms, float(norms.max()))]
        rows = np.asarray(self.start)
        whole = rows.ndim == 1 and len(rows) > 0 and rows.dtype.kind in "iu"
        if not whole or len(np.unique(rows)) < len(rows) or rows.min() < 0 or rows.max() >= n or len(rows) > k:
            raise DatumwiseError(f"start must be different rows from 0 to {n - 1}, at least one and at most {k} of them")
        return [int(row) for row in rows]


def centred(X: np.ndarray, metric: str) -> np.ndarray:
    """float64 rows whose Euclidean distances are meant: less their mean, or of length 1 (rows of zeros stay zeros)."""
    if metric not in METRICS:
        near = difflib.get_close_matches(str(metric), METRICS, n=1)
        raise UnknownName(
            f"there is no metric {metric!r}", remedy=f"did you mean {near[0]!r}?" if near else "give 'cosine' or 'euclidean'"
        )
    X = X.astype(np.float64)
    if metric == "euclidean":
        return X - X.mean(axis=0)
    norms = row_norms(X)
    return X / np.where(norms > 0, norms, 1.0)[:, None]


def _distance(points: np.ndarray, a: int, b: int) -> float:
    return float(np.sqrt(((points[a] - points[b]) ** 2).sum()))


def squared_distances(points: np.ndarray, norms: np.ndarray, row: int) -> np.ndarray:
    """float64 (n,) to one row; near ones are measured by differences, so that a copy is at 0."""
    squared = norms - 2 * (points @ points[row]) + norms[row]
    close = np.flatnonzero(squared < 1e-6 * (norms + norms[row]))
    squared[close] = ((points[close] - points[row]) ** 2).sum(axis=1)
    return squared
