"""GIO: add what brings the chosen data's distribution nearest to the target's, by gradient descent on an estimate.

Everaert and Potts, "GIO: gradient information optimization for training dataset selection", 2024, algorithm 1.
Estimate: Wang, Kulkarni and Verdú, "Divergence estimation for multidimensional densities via k-nearest-neighbor
distances", 2009, equation 5.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from datumwise.errors import DatumwiseError, SchemaMismatch
from datumwise.probe.neighbours import neighbours
from datumwise.select.selector import Selector
from datumwise.select.semantic import k_means

__all__ = ["GIO", "knn_divergence"]

FLOOR = 1e-12  # distances below count as this: copies of a target point are infinitely dense otherwise
STEPS = 50  # of the gradient descent
MANY = 1_500  # clusters of the quantisation, the authors'


class GIO(Selector):
    """Pick by pick, move a point down the gradient of KL(target || chosen), and take the datapoint nearest to where
    it comes to rest.

    Both sets are first replaced by the centres of k-means clusters if they are larger than ``n_clusters``; choosing a
    centre chooses its datapoints, nearest to it first. The point starts at the target point that is covered worst.
    Before the first pick there are ``n_start`` uniform random points, which count in the estimate and are never chosen:
    of fewer points than neighbours a density cannot be told.

    Parameters
    ----------
    n_to_select : int or float
        How many at most, or which share.
    k_neighbors : int, default 5
        Neighbour whose distance estimates the density.
    n_clusters : int, default 1,500
        Of each set.
    n_start : int, default 20
        Uniform random points in the box that holds the datapoints.
    stop : bool, default False
        End when the estimate would rise, the published stop; otherwise go on to ``n_to_select``.
    random_state : int, Generator or None, default 0
        Of the start and of k-means.

    Attributes
    ----------
    divergence_ : float64 (1 + c,)
        Estimated KL(target || start and chosen), nats, at the start and after each of the c centres chosen.
    gains_ : float64 (k,)
        What each pick took from the estimate; a centre's gain is that of its first datapoint.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = np.vstack([rng.normal(0, 1, (50, 2)), rng.normal(8, 1, (50, 2))])
    >>> chosen = GIO(20).fit(X, target=rng.normal(8, 1, (60, 2)))
    >>> bool((chosen.ranking_ >= 50).all())
    True

    References
    ----------
    Everaert and Potts, 2024, arXiv 2306.11670.
    """

    takes: ClassVar[tuple[str, ...]] = ("X", "target")
    source: ClassVar[str] = "Everaert and Potts, 2024, algorithm 1"

    def __init__(
        self,
        n_to_select: int | float,
        *,
        k_neighbors: int = 5,
        n_clusters: int = MANY,
        n_start: int = 20,
        stop: bool = False,
        random_state: int | np.random.Generator | None = 0,
    ) -> None:
        self.n_to_select = n_to_select
        self.k_neighbors = k_neighbors
        self.n_clusters = n_clusters
        self.n_start = n_start
        self.stop = stop
        self.random_state = random_state

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        X, target = np.asarray(inputs["X"], np.float64), np.asarray(inputs["target"], np.float64)
        if X.shape[1] != target.shape[1]:
            raise SchemaMismatch(f"target has {target.shape[1]} columns and X has {X.shape[1]}")
        for name in ("n_clusters", "n_start"):
            if getattr(self, name) < 1:
                raise DatumwiseError(f"{name} is {getattr(self, name)!r}", remedy="give a whole number of 1 or more")
        rng = np.random.default_rng(self.random_state)
        labels, centres = _quantised(X, self.n_clusters, rng)
        _, wanted = _quantised(target, self.n_clusters, rng)
        own = _own_distances(wanted, self.k_neighbors)
        state = _Chosen(wanted, own, self.k_neighbors)
        for point in rng.uniform(centres.min(axis=0), centres.max(axis=0), (self.n_start, X.shape[1])):
            state.add(point)
        estimates = [state.value()]
        left = np.ones(len(centres), bool)
        ranking: list[int] = []
        gains: list[float] = []
        while left.any() and len(ranking) < k:
            rest = np.flatnonzero(left)
            point = state.descend()
            best = int(rest[((centres[rest] - point) ** 2).sum(axis=1).argmin()])
            after = state.with_point(centres[best])
            if self.stop and after > estimates[-1]:
                break
            state.add(centres[best])
            left[best] = False
            members = np.flatnonzero(labels == best)
            members = members[np.lexsort((members, ((X[members] - centres[best]) ** 2).sum(axis=1)))]
            ranking += members.tolist()
            gains += [estimates[-1] - after] + [0.0] * (len(members) - 1)
            estimates.append(after)
        self.divergence_ = np.array(estimates)
        return np.array(ranking[:k]), np.array(gains[:k])


def knn_divergence(target: np.ndarray, chosen: np.ndarray, k: int = 5) -> float:
    """Estimate of KL(target || chosen) in nats, from the distances to the k-th nearest.

    d / n sum_i log(nu_i / rho_i) + log(k m / (j (n - 1))), where rho_i is the distance of target point i to its k-th
    nearest other, nu_i to its j-th nearest of the m chosen, j = min(k, m).

    Parameters
    ----------
    target : float (n, d)
        n of 2 or more.
    chosen : float (m, d)
    k : int, default 5

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> p, q = rng.normal(0, 1, (4000, 1)), rng.normal(1, 1, (4000, 1))
    >>> abs(knn_divergence(p, q) - 0.5) < 0.1  # KL of unit normals one apart is 1/2
    True
    """
    target, chosen = np.asarray(target, np.float64), np.asarray(chosen, np.float64)
    state = _Chosen(target, _own_distances(target, k), k)
    j = min(k, len(chosen))
    reach = np.maximum(neighbours(chosen, j, "euclidean", queries=target)[0][:, -1], FLOOR)
    return state.estimate(reach, len(chosen))


class _Chosen:
    """Distances from every target point to what is chosen, the k nearest of them."""

    def __init__(self, target: np.ndarray, own: np.ndarray, k: int) -> None:
        self.target = target
        self.k = min(k, len(target) - 1) if len(target) > 1 else 1
        self.log_own = np.log(own)
        self.near = np.empty((len(target), 0))  # ascending, at most k columns
        self.m = 0

    def estimate(self, reach: np.ndarray, m: int) -> float:
        n, d = self.target.shape
        mean = float((np.log(reach) - self.log_own).mean())
        return d * mean + float(np.log(self.k * m / (min(self.k, m) * max(1, n - 1))))

    def distances(self, point: np.ndarray) -> np.ndarray:
        return np.maximum(np.sqrt(((self.target - point) ** 2).sum(axis=1)), FLOOR)

    def reach(self, distance: np.ndarray) -> np.ndarray:
        """Distance to the j-th nearest with one more point at ``distance``."""
        if self.near.shape[1] < self.k:
            return np.maximum(self.near[:, -1], distance)
        last = self.near[:, -1]
        before = self.near[:, -2] if self.k > 1 else np.zeros(len(last))
        return np.clip(distance, before, last)

    def value(self) -> float:
        return self.estimate(self.near[:, -1], self.m)

    def with_point(self, point: np.ndarray) -> float:
        return self.estimate(self.reach(self.distances(point)), self.m + 1)

    def add(self, point: np.ndarray) -> None:
        self.near = np.sort(np.column_stack([self.near, self.distances(point)]), axis=1)[:, : self.k]
        self.m += 1

    def descend(self) -> np.ndarray:
        """Where a point goes from the worst covered target point, down the gradient of the estimate.

        Of the estimate's mean over the ranks 1 to k, that is, whose gradient does not vanish where a point comes
        nearer than the k-th; nearer to a target point than its own k-th neighbour brings nothing more. Steps are
        halved where the value rises.
        """
        point = self.target[int((np.log(self.near[:, -1]) - self.log_own).argmax())]
        value, step = self.coverage(point), float(np.median(self.distances(point)))
        for _ in range(STEPS):
            difference, distance = point - self.target, self.distances(point)
            moves = (distance > np.exp(self.log_own)) & (distance < self.near[:, -1])
            gradient = (difference[moves] / distance[moves, None] ** 2).sum(axis=0)
            length = float(np.sqrt((gradient**2).sum()))
            if length == 0:
                break
            trial = point - step * gradient / length
            reached = self.coverage(trial)
            if reached < value:
                point, value = trial, reached
            else:
                step /= 2
        return point

    def coverage(self, point: np.ndarray) -> float:
        """Sum over target points of the log distance to the point, no less than to their own k-th neighbour and no more
        than to the k-th chosen."""
        reach = np.minimum(np.maximum(np.log(self.distances(point)), self.log_own), np.log(self.near[:, -1]))
        return float(reach.sum())


def _own_distances(target: np.ndarray, k: int) -> np.ndarray:
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise DatumwiseError(f"k_neighbors is {k!r}", remedy="give a whole number of 1 or more")
    if len(target) < 2:
        raise DatumwiseError("the target is one datapoint, whose density has no estimate", remedy="give two or more")
    return np.maximum(neighbours(target, min(int(k), len(target) - 1), "euclidean")[0][:, -1], FLOOR)


def _quantised(X: np.ndarray, n_clusters: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    if len(X) <= n_clusters:
        return np.arange(len(X)), X
    labels, centres = k_means(X, n_clusters, rng)
    used, labels = np.unique(labels, return_inverse=True)
    return labels, centres[used]
