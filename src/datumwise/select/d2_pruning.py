"""Hard and diverse at once: scores travel along a nearest-neighbour graph, and a pick takes from its neighbours."""

from __future__ import annotations

import heapq
from typing import Any, ClassVar

import numpy as np

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.probe.neighbours import neighbours
from datumwise.select.selector import Selector

__all__ = ["D2Pruning"]


class D2Pruning(Selector):
    """Message passing between difficulty and diversity on the graph of the k nearest neighbours.

    Forward: every datapoint adds its neighbours' scores to its own, u_i = s_i + sum_j exp(-d_ij) s_j. Backward:
    the datapoint with the highest u is taken and its neighbours lose exp(-gamma d_ij) u_i, again and again.
    Distances are Euclidean; neighbours are those in the datapoint's own list (the graph is directed).

    Parameters
    ----------
    n_to_select : int or float
    n_neighbors : int, default 10
        Fewer where there are fewer other datapoints.
    gamma : float, optional
        How fast the loss falls with the distance; 1 / (columns of X) by default. With a large gamma the ranking
        is that of u alone.
    combine : "sum" or "product", default "sum"
        How a datapoint's own score enters u: added (the paper), or multiplied with the neighbours' sum.

    Attributes
    ----------
    gains_ : float64 (k,)
        u at the moment of the pick.
    utility_ : float64 (n,)
        u after the forward step.

    Examples
    --------
    Three copies of the hardest datapoint, and one of it is enough:

    >>> X = np.array([[0.0], [0.0], [0.0], [5.0], [5.1]])
    >>> D2Pruning(2, n_neighbors=2).fit(X, scores=[3.0, 3.0, 3.0, 2.0, 1.0]).ranking_.tolist()
    [0, 3]

    References
    ----------
    Maharana et al., 2024, *D2 Pruning: Message Passing for Balancing Diversity and Difficulty in Data Pruning*,
    equations 2 to 4.
    """

    takes: ClassVar = ("X", "scores")
    source: ClassVar = "Maharana et al., 2024, equations 2 to 4"

    def __init__(
        self,
        n_to_select: int | float,
        *,
        n_neighbors: int = 10,
        gamma: float | None = None,
        combine: str = "sum",
    ) -> None:
        self.n_to_select = n_to_select
        self.n_neighbors = n_neighbors
        self.gamma = gamma
        self.combine = combine

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        X, scores = inputs["X"], inputs["scores"]
        if self.combine not in ("sum", "product"):
            raise UnknownName(f"combine is {self.combine!r}", remedy="say 'sum' or 'product'")
        if self.n_neighbors < 1:
            raise DatumwiseError(f"n_neighbors is {self.n_neighbors}", remedy="give 1 or more")
        gamma = 1 / X.shape[1] if self.gamma is None else float(self.gamma)
        if gamma < 0:
            raise DatumwiseError(f"gamma is {gamma}", remedy="give 0 or more")
        if n == 1:
            self.utility_ = scores.copy()
            return np.zeros(1, np.int64), scores.copy()
        distances, near = neighbours(X, min(self.n_neighbors, n - 1), metric="euclidean")
        passed = (np.exp(-distances) * scores[near]).sum(axis=1)
        self.utility_ = scores + passed if self.combine == "sum" else scores * passed
        return _by_current_utility(self.utility_, near, np.exp(-gamma * distances), k)


def _by_current_utility(utility: np.ndarray, near: np.ndarray, loss: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Take the largest u, lower those of its neighbours, k times: O(k m log n) for m neighbours.

    An entry of the heap is out of date when u has changed since; every change pushes a new one.
    """
    u = utility.tolist()
    lists, losses = near.tolist(), loss.tolist()
    free = [True] * len(u)
    heap = [(-value, row) for row, value in enumerate(u)]
    heapq.heapify(heap)
    ranking: list[int] = []
    gains: list[float] = []
    while len(ranking) < k:
        value, row = heapq.heappop(heap)
        if not free[row] or -value != u[row]:
            continue
        free[row] = False
        ranking.append(row)
        gains.append(u[row])
        for other, share in zip(lists[row], losses[row], strict=True):
            if free[other] and share * u[row] != 0.0:
                u[other] -= share * u[row]
                heapq.heappush(heap, (-u[other], other))
    return np.array(ranking), np.array(gains)
