"""Which datapoints cover every datapoint well enough, and none too well?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.select.greedy import Found, SetFunction
from datumwise.select.set_selector import _SimilaritySelector
from datumwise.select.similarity import Similarity, Sparse, blocks

__all__ = ["SaturatedCoverage", "SaturatedCoverageFunction"]


class SaturatedCoverage(_SimilaritySelector):
    """Keep datapoints until each datapoint is covered by a share of its similarity to all.

    f(S) = sum_i min(sum_{s in S} S_is, alpha sum_j S_ij): more similarity to a datapoint that is covered already
    adds nothing. Monotone and submodular.

    Parameters
    ----------
    n_to_select : int or float
    alpha : float, default 0.1
        Share of its similarity to all at which a datapoint is covered, in (0, 1].
    metric, n_neighbors, gamma, optimizer, max_cost, random_state, progress
        As in `FacilityLocation`.

    Examples
    --------
    Three copies are covered by one of them (alpha = 1/3), so the second pick is another datapoint:

    >>> import numpy as np
    >>> chosen = SaturatedCoverage(3, alpha=1 / 3).fit(np.array([[1.0, 0], [1, 0], [1, 0], [0, 1]]))
    >>> chosen.ranking_.tolist(), chosen.gains_.round(2).tolist()
    ([0, 3, 1], [3.0, 0.33, 0.0])

    References
    ----------
    Lin and Bilmes, 2011, *A Class of Submodular Functions for Document Summarization*, section 4.1.
    """

    takes: ClassVar[tuple[str, ...]] = ("X", "cost?")
    source: ClassVar[str] = "Lin and Bilmes, 2011, section 4.1"
    negative: ClassVar[bool] = False

    def __init__(
        self,
        n_to_select: int | float,
        *,
        alpha: float = 0.1,
        metric: str = "cosine",
        n_neighbors: int | None = None,
        gamma: float | None = None,
        optimizer: str | Callable[..., Found] = "lazy",
        max_cost: float | None = None,
        random_state: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.n_to_select = n_to_select
        self.alpha = alpha
        self.metric = metric
        self.n_neighbors = n_neighbors
        self.gamma = gamma
        self.optimizer = optimizer
        self.max_cost = max_cost
        self.random_state = random_state
        self.progress = progress

    def _function(self, **inputs: Any) -> SetFunction:
        return SaturatedCoverageFunction(self._similarity(inputs["X"]), self.alpha)


class SaturatedCoverageFunction(SetFunction):
    """f(S) = sum_i min(sum_{s in S} S_is, alpha sum_j S_ij), S >= 0.

    Parameters
    ----------
    S : Similarity
    alpha : float
        In (0, 1].
    """

    def __init__(self, S: Similarity, alpha: float) -> None:
        if not 0 < alpha <= 1:
            raise DatumwiseError(f"alpha is {alpha}", remedy="0 < alpha <= 1")
        self.S = S
        self.n = S.n
        self.alpha = alpha
        self.room = alpha * S.sums[0]  # what each row may still be covered by

    def empty(self) -> Self:
        return type(self)(self.S, self.alpha)

    def gains(self, candidates: np.ndarray) -> np.ndarray:
        if isinstance(self.S, Sparse):
            position, row, value = self.S.column_cells(candidates)
            return np.bincount(position, np.minimum(value, self.room[row]), minlength=len(candidates))
        found = np.empty(len(candidates))
        start = 0
        for at in blocks(candidates, self.n):
            np.minimum(self.S.columns(at), self.room, dtype=np.float64).sum(axis=1, out=found[start : start + len(at)])
            start += len(at)
        return found

    def add(self, j: int) -> None:
        if isinstance(self.S, Sparse):
            rows, values = self.S.column(j)
            self.room[rows] = np.maximum(self.room[rows] - values, 0)
            return
        self.room -= self.S.columns(np.array([j]))[0]
        np.maximum(self.room, 0, out=self.room)
