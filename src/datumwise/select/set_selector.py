"""What the selectors that maximise a set function have in common: how they maximise, and what similarity they read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp

from datumwise.select.greedy import Found, SetFunction, maximise
from datumwise.select.selector import Selector
from datumwise.select.similarity import Given, Similarity, given, similarity

__all__: list[str] = []


class _SetSelector(Selector):
    """A selector whose ``_function`` makes the set function of its inputs."""

    optimizer: str | Callable[..., Found] | None = None
    max_cost: float | None = None
    random_state: Any = None
    progress: Callable[[int, int], None] | None = None

    def _function(self, **inputs: Any) -> SetFunction:
        raise NotImplementedError

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        cost = inputs.pop("cost", None)
        return maximise(
            self._function(**inputs),
            k,
            self.optimizer,
            cost=cost,
            max_cost=self.max_cost,
            random_state=self.random_state,
            progress=self.progress,
        )


class _SimilaritySelector(_SetSelector):
    """A set selector that reads the similarity of every two datapoints."""

    negative: ClassVar[bool] = True  # whether the function allows similarities below 0
    hold: ClassVar[bool] = True  # whether the function reads all similarities more than once

    metric: str = "cosine"
    n_neighbors: int | None = None
    gamma: float | None = None

    def _similarity(self, X: Any) -> Similarity:
        return similarity(
            X,
            self.metric,
            n_neighbors=self.n_neighbors,
            gamma=self.gamma,
            negative=self.negative,
            hold=self.hold,
        )

    def _checked(self, inputs: dict[str, Any]) -> dict[str, Any]:
        X = inputs.get("X")
        if self.metric != "precomputed" or X is None:
            return super()._checked(inputs)
        S = Given(given(X, negative=self.negative))  # checked here: the base knows no scipy.sparse
        rest = super()._checked({**inputs, "X": np.zeros((len(S), 1), np.float32)})
        return {**rest, "X": S}


class _MatrixSelector(_SetSelector):
    """A set selector whose X may also be a scipy.sparse matrix of features."""

    def _checked(self, inputs: dict[str, Any]) -> dict[str, Any]:
        X = inputs.get("X")
        if not sp.issparse(X):
            return super()._checked(inputs)
        matrix = SparseRows(X)
        rest = super()._checked({**inputs, "X": np.zeros((len(matrix), 1), np.float32)})
        return {**rest, "X": matrix}


class SparseRows:
    """A scipy.sparse matrix of features on its way from ``fit`` to a selector: has the length of the data."""

    def __init__(self, X: Any) -> None:
        self.matrix = sp.csr_array(X)
        self.matrix.sum_duplicates()

    def __len__(self) -> int:
        return int(self.matrix.shape[0])
