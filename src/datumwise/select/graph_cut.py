"""Which datapoints are similar to all but not to each other?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.select.greedy import Found, SetFunction
from datumwise.select.set_selector import _SimilaritySelector
from datumwise.select.similarity import Similarity, Sparse

__all__ = ["GraphCut", "GraphCutFunction"]


class GraphCut(_SimilaritySelector):
    """Keep datapoints that are similar to the whole and unlike each other.

    f(S) = lam sum_{i, s in S} S_is - sum_{s, t in S} S_st, over all i and all ordered pairs s, t, the diagonal
    included. Submodular where S >= 0; monotone, with the 1 - 1/e of greedy, for lam >= 2; below that gains may be
    negative. The other published form, sum - lam' sum, is this one with lam = 1 / lam', times lam'.

    Parameters
    ----------
    n_to_select : int or float
    lam : float, default 2.0
        Weight of standing for the whole; above 0.
    metric, n_neighbors, gamma, optimizer, max_cost, random_state, progress
        As in `FacilityLocation`.

    Examples
    --------
    A copy of the first pick adds less than a datapoint that is similar to few:

    >>> import numpy as np
    >>> S = np.array([[1, 1, 0.6, 0], [1, 1, 0.6, 0], [0.6, 0.6, 1, 0], [0, 0, 0, 1.0]])
    >>> chosen = GraphCut(3, lam=1.2, metric="precomputed").fit(S)
    >>> chosen.ranking_.tolist(), chosen.gains_.round(2).tolist()
    ([0, 2, 3], [2.12, 0.44, 0.2])

    References
    ----------
    Kaushal et al., 2022, *Submodlib: A Submodular Optimization Library* (graph cut).
    """

    takes: ClassVar[tuple[str, ...]] = ("X", "cost?")
    source: ClassVar[str] = "Kaushal et al., 2022 (graph cut)"
    negative: ClassVar[bool] = False
    hold: ClassVar[bool] = False

    def __init__(
        self,
        n_to_select: int | float,
        *,
        lam: float = 2.0,
        metric: str = "cosine",
        n_neighbors: int | None = None,
        gamma: float | None = None,
        optimizer: str | Callable[..., Found] = "lazy",
        max_cost: float | None = None,
        random_state: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.n_to_select = n_to_select
        self.lam = lam
        self.metric = metric
        self.n_neighbors = n_neighbors
        self.gamma = gamma
        self.optimizer = optimizer
        self.max_cost = max_cost
        self.random_state = random_state
        self.progress = progress

    def _function(self, **inputs: Any) -> SetFunction:
        return GraphCutFunction(self._similarity(inputs["X"]), self.lam)


class GraphCutFunction(SetFunction):
    """f(S) = lam sum_{i, s in S} S_is - sum_{s, t in S} S_st.

    Parameters
    ----------
    S : Similarity
    lam : float
        Above 0.
    """

    def __init__(self, S: Similarity, lam: float) -> None:
        if not lam > 0:
            raise DatumwiseError(f"lam is {lam}", remedy="lam > 0; at 2 and above gains are never negative")
        self.S = S
        self.n = S.n
        self.lam = lam
        self.monotone = lam >= 2
        self.kept = lam * S.sums[1] - S.diagonal

    def empty(self) -> Self:
        return type(self)(self.S, self.lam)

    def track(self) -> bool:
        return True

    def gains(self, candidates: np.ndarray) -> np.ndarray:
        return self.kept[candidates]

    def add(self, j: int) -> None:
        if isinstance(self.S, Sparse):
            for column, value in (self.S.row(j), self.S.column(j)):
                self.kept[column] -= value
            return
        at = np.array([j])
        self.kept -= self.S.rows(at)[0]
        self.kept -= self.S.columns(at)[0]
