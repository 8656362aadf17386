"""Which datapoints lie farthest from each other?"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np

from datumwise.errors import UnknownName
from datumwise.select.greedy import SetFunction
from datumwise.select.set_selector import _SimilaritySelector
from datumwise.select.similarity import Similarity

__all__ = ["Disparity", "DisparityFunction"]

KINDS = ("sum", "min", "min_sum")
ROWS = 64  # rows of D that are read at once for the kind "min_sum"


class Disparity(_SimilaritySelector):
    """Keep datapoints that are unlike each other, whatever they stand for: D = 1 - S.

    f(S) = the sum of D over all pairs in S ("sum"), the least D of a pair ("min", 0 for one datapoint), or the sum
    over S of the least D to another in S ("min_sum"). None is submodular, so the greedy is the plain one. Its first
    pick is row 0: one datapoint has no disparity.

    Parameters
    ----------
    n_to_select : int or float
    kind : {"sum", "min", "min_sum"}, default "sum"
        Greedy is at least 1/2 of the best for "sum" (with a metric D) and for "min".
    metric, gamma, progress
        As in `FacilityLocation`; "cosine" is max(0, cos), so that opposite and orthogonal are both at D = 1.

    Examples
    --------
    >>> import numpy as np
    >>> chosen = Disparity(3, kind="min").fit(np.array([[1.0, 0], [1, 0.1], [1, 1], [0, 1]]))
    >>> chosen.ranking_.tolist(), chosen.gains_.round(2).tolist()
    ([0, 3, 2], [0.0, 1.0, -0.71])

    References
    ----------
    Ravi, Rosenkrantz and Tayi, 1994 (min, sum); Chandra and Halldorsson, 2001 (min-sum: remote pseudoforest).
    """

    takes: ClassVar[tuple[str, ...]] = ("X",)
    source: ClassVar[str] = "Ravi, Rosenkrantz and Tayi, 1994; Chandra and Halldorsson, 2001"
    hold: ClassVar[bool] = False

    def __init__(
        self,
        n_to_select: int | float,
        *,
        kind: str = "sum",
        metric: str = "cosine",
        gamma: float | None = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.n_to_select = n_to_select
        self.kind = kind
        self.metric = metric
        self.gamma = gamma
        self.progress = progress

    def _function(self, **inputs: Any) -> SetFunction:
        return DisparityFunction(self._similarity(inputs["X"]), self.kind)


class DisparityFunction(SetFunction):
    """f(S) on D = 1 - S of distinct datapoints, S symmetric.

    Parameters
    ----------
    S : Similarity
    kind : {"sum", "min", "min_sum"}
    """

    submodular: bool = False
    monotone: bool = False

    def __init__(self, S: Similarity, kind: str) -> None:
        if kind not in KINDS:
            near = difflib.get_close_matches(str(kind), KINDS, n=1)
            raise UnknownName(
                f"there is no disparity {kind!r}",
                remedy=f"did you mean {near[0]!r}?" if near else f"there are {', '.join(KINDS)}",
            )
        self.S = S
        self.n = S.n
        self.kind = kind
        self.chosen: list[int] = []
        self.value = 0.0
        self.total = np.zeros(S.n)  # sum of D to those chosen
        self.nearest = np.full(S.n, np.inf)  # least D to one chosen
        self.distances = np.empty((0, S.n))  # D of those chosen, for "min_sum"

    def empty(self) -> Self:
        return type(self)(self.S, self.kind)

    def track(self) -> bool:
        return True

    def gains(self, candidates: np.ndarray) -> np.ndarray:
        if not self.chosen:
            return np.zeros(len(candidates))
        if self.kind == "sum":
            return self.total[candidates]
        if self.kind == "min":
            smallest = self.value if len(self.chosen) > 1 else np.inf
            return np.minimum(smallest, self.nearest[candidates]) - self.value
        found = self.nearest[candidates].copy()
        if len(self.chosen) == 1:
            return 2 * found
        own = self.nearest[self.chosen]
        for start in range(0, len(self.chosen), ROWS):
            near = self.distances[start : start + ROWS, candidates]
            found += np.minimum(near - own[start : start + ROWS, None], 0).sum(axis=0)
        return found

    def add(self, j: int) -> None:
        self.value += float(self.gains(np.array([j]))[0])
        distance = 1.0 - self.S.rows(np.array([j]))[0].astype(np.float64)
        others = np.arange(self.n) != j
        self.total[others] += distance[others]
        self.nearest[others] = np.minimum(self.nearest[others], distance[others])
        if self.kind == "min_sum":
            self.distances = np.concatenate([self.distances, distance[None]])
        self.chosen.append(j)
