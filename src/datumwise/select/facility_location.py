"""Which datapoints stand best for all? Those to one of which every datapoint is similar."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np

from datumwise.select.greedy import Found, SetFunction
from datumwise.select.set_selector import _SimilaritySelector
from datumwise.select.similarity import Similarity, Sparse, blocks

__all__ = ["FacilityLocation", "FacilityLocationFunction"]


class FacilityLocation(_SimilaritySelector):
    """Keep the datapoints that stand for all the others: every datapoint is counted by its nearest pick.

    f(S) = sum_i max_{s in S} S_is over all datapoints i, picks included. Monotone and submodular: greedy is at
    least 1 - 1/e of the best. All gains are kept up to date: a pick changes them only through the datapoints that
    it stands for better than any before, which over a whole run reads the similarities only some ln k times.

    Parameters
    ----------
    n_to_select : int or float
        How many, or which share.
    metric : str, default "cosine"
        Kernel, see `datumwise.select.similarity.KERNELS`; "cosine" is max(0, cos). With "precomputed", ``fit``
        takes S, dense or scipy.sparse, not negative; S[i, j] says how well j stands for i.
    n_neighbors : int, optional
        Similarity only along the exact nearest-neighbour graph, made symmetric: for 100,000 datapoints and more.
    gamma : float, optional
        Of metric "rbf".
    optimizer : str or callable, default "lazy"
        See `datumwise.select.greedy.maximise`.
    max_cost : float, optional
        Most that the picks may cost together, with ``fit(X, cost=...)``; then n_to_select is an upper limit.
    random_state : int, Generator or None
        Of the optimizers that draw.
    progress : callable, optional
        Called with (chosen, k).

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 0.0], [0.9, 0.1], [0.9, -0.1], [0.0, 1.0]])
    >>> chosen = FacilityLocation(2).fit(X, ids=["middle", "left", "right", "alone"])
    >>> chosen.ids_.tolist(), chosen.gains_.round(2).tolist()
    (['left', 'alone'], [3.08, 0.89])

    References
    ----------
    Nemhauser, Wolsey and Fisher, 1978; Krause and Golovin, 2014, *Submodular Function Maximization*, page 4.
    """

    takes: ClassVar[tuple[str, ...]] = ("X", "cost?")
    source: ClassVar[str] = "Krause and Golovin, 2014, page 4"
    negative: ClassVar[bool] = False

    def __init__(
        self,
        n_to_select: int | float,
        *,
        metric: str = "cosine",
        n_neighbors: int | None = None,
        gamma: float | None = None,
        optimizer: str | Callable[..., Found] = "lazy",
        max_cost: float | None = None,
        random_state: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.n_to_select = n_to_select
        self.metric = metric
        self.n_neighbors = n_neighbors
        self.gamma = gamma
        self.optimizer = optimizer
        self.max_cost = max_cost
        self.random_state = random_state
        self.progress = progress

    def _function(self, **inputs: Any) -> SetFunction:
        return FacilityLocationFunction(self._similarity(inputs["X"]))


class FacilityLocationFunction(SetFunction):
    """f(S) = sum_i max_{s in S} S_is, S >= 0.

    Parameters
    ----------
    S : Similarity
    """

    def __init__(self, S: Similarity) -> None:
        self.S = S
        self.n = S.n
        self.covered = np.zeros(S.n, np.float64)  # max_{s in S} S_is
        self.kept: np.ndarray | None = None  # float64 (n,) gains of all rows, once tracked

    def empty(self) -> Self:
        return type(self)(self.S)

    def track(self) -> bool:
        if self.kept is None:
            self.kept = self.S.sums[1].copy() if not self.covered.any() else self.gains(np.arange(self.n))
        return True

    def gains(self, candidates: np.ndarray) -> np.ndarray:
        if self.kept is not None:
            return self.kept[candidates]
        if isinstance(self.S, Sparse):
            position, row, value = self.S.column_cells(candidates)
            return np.bincount(position, np.maximum(value - self.covered[row], 0), minlength=len(candidates))
        found = np.empty(len(candidates))
        start = 0
        for at in blocks(candidates, self.n):
            better = np.subtract(self.S.columns(at), self.covered, dtype=np.float64)
            np.maximum(better, 0, out=better).sum(axis=1, out=found[start : start + len(at)])
            start += len(at)
        return found

    def add(self, j: int) -> None:
        if isinstance(self.S, Sparse):
            rows, values = self.S.column(j)
        else:
            rows, values = np.arange(self.n), self.S.columns(np.array([j]))[0]
        better = values > self.covered[rows]
        rows, values = rows[better], values[better].astype(np.float64)
        before = self.covered[rows]
        self.covered[rows] = values
        if self.kept is not None and len(rows):
            self._lower(rows, before, values)

    def _lower(self, rows: np.ndarray, before: np.ndarray, now: np.ndarray) -> None:
        """Take from all gains what these rows, covered better than before, no longer offer.

        Row i offered candidate c the part of S_ic above ``before``; between ``before`` and ``now`` it is lost.
        """
        assert self.kept is not None
        if isinstance(self.S, Sparse):
            position, column, value = self.S.cells(rows)
            lost = np.clip(value, before[position], now[position]) - before[position]
            self.kept -= np.bincount(column, lost, minlength=self.n)
            return
        start = 0
        for at in blocks(rows, self.n):
            span = slice(start, start + len(at))
            block = self.S.rows(at)
            low, high = (one[span, None].astype(block.dtype) for one in (before, now))  # values of S: not rounded
            self.kept -= np.clip(block, low, high).sum(axis=0, dtype=np.float64)
            self.kept += before[span].sum()
            start += len(at)
