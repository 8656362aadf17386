"""Which datapoints hold many features, each in a fair amount?"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any, ClassVar, Self

import numpy as np

from datumwise.errors import DatumwiseError, UnknownName, name_some
from datumwise.select.greedy import Found, SetFunction
from datumwise.select.set_selector import SparseRows, _MatrixSelector
from datumwise.select.similarity import blocks

__all__ = ["CONCAVE", "FeatureBased", "FeatureBasedFunction"]

CONCAVE: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # phi with phi(0) = 0
    "sqrt": np.sqrt,
    "log1p": np.log1p,
    "sigmoid": lambda x: x / (1 + x),
    "min": lambda x: np.minimum(x, 1.0),
}


class FeatureBased(_MatrixSelector):
    """Keep datapoints that together hold much of every feature, with diminishing returns in each.

    f(S) = sum_d w_d phi(sum_{s in S} x_sd) with x >= 0 and phi concave. Monotone and submodular; reads no pairs, so
    it runs on millions of datapoints: counts of n-grams, activations of a sparse autoencoder.

    Parameters
    ----------
    n_to_select : int or float
    concave : {"sqrt", "log1p", "sigmoid", "min"}, default "sqrt"
        phi: the root, log(1 + x), x / (1 + x), or min(x, 1).
    feature_weights : float (d,), optional
        w, not negative; None: 1.
    optimizer, max_cost, random_state, progress
        As in `FacilityLocation`.

    Examples
    --------
    Two datapoints of one feature are worth less than two of two features:

    >>> import numpy as np
    >>> chosen = FeatureBased(2).fit(np.array([[4.0, 0], [4, 0], [0, 1]]))
    >>> chosen.ranking_.tolist(), chosen.gains_.tolist()
    ([0, 2], [2.0, 1.0])

    References
    ----------
    Kirchhoff and Bilmes, 2014, *Submodularity for Data Selection in Machine Translation*.
    """

    takes: ClassVar[tuple[str, ...]] = ("X", "cost?")
    source: ClassVar[str] = "Kirchhoff and Bilmes, 2014 (feature-based functions)"

    def __init__(
        self,
        n_to_select: int | float,
        *,
        concave: str = "sqrt",
        feature_weights: Any = None,
        optimizer: str | Callable[..., Found] = "lazy",
        max_cost: float | None = None,
        random_state: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.n_to_select = n_to_select
        self.concave = concave
        self.feature_weights = feature_weights
        self.optimizer = optimizer
        self.max_cost = max_cost
        self.random_state = random_state
        self.progress = progress

    def _function(self, **inputs: Any) -> SetFunction:
        X = inputs["X"]
        return FeatureBasedFunction(X.matrix if isinstance(X, SparseRows) else X, self.concave, self.feature_weights)


class FeatureBasedFunction(SetFunction):
    """f(S) = sum_d w_d phi(sum_{s in S} x_sd).

    Parameters
    ----------
    X : float (n, d) or scipy.sparse csr_array (n, d), not negative
    concave : str
        One of `CONCAVE`.
    feature_weights : float (d,), optional
    """

    def __init__(self, X: Any, concave: str = "sqrt", feature_weights: Any = None) -> None:
        if concave not in CONCAVE:
            near = difflib.get_close_matches(str(concave), CONCAVE, n=1)
            raise UnknownName(
                f"there is no concave function {concave!r}",
                remedy=f"did you mean {near[0]!r}?" if near else f"there are {', '.join(CONCAVE)}",
            )
        self.n, width = X.shape
        self.sparse = not isinstance(X, np.ndarray)
        values = X.data if self.sparse else X
        if values.size and values.min() < 0:
            bad = np.unique(_rows_of(X)[values < 0] if self.sparse else np.flatnonzero((X < 0).any(axis=1)))
            raise DatumwiseError(
                f"a feature is negative in row {name_some(bad)}",
                remedy="give counts or activations, np.maximum(X, 0)",
                ids=bad.tolist(),
            )
        self.X = X
        self.concave = concave
        self.phi = CONCAVE[concave]
        self.weights = np.ones(width) if feature_weights is None else np.asarray(feature_weights, dtype=np.float64)
        if self.weights.shape != (width,) or not (np.isfinite(self.weights) & (self.weights >= 0)).all():
            raise DatumwiseError(f"feature_weights must be {width:,} numbers, none negative")
        self.held = np.zeros(width)  # sum_{s in S} x_s

    def empty(self) -> Self:
        return type(self)(self.X, self.concave, self.weights)

    def gains(self, candidates: np.ndarray) -> np.ndarray:
        now = self.weights * self.phi(self.held)
        if self.sparse:
            part = self.X[candidates]
            column = part.indices
            more = self.weights[column] * self.phi(self.held[column] + part.data) - now[column]
            return np.bincount(_rows_of(part), more, minlength=len(candidates))
        found = np.empty(len(candidates))
        start = 0
        for at in blocks(candidates, len(self.held)):
            more = self.weights * self.phi(self.held + self.X[at])
            more -= now
            more.sum(axis=1, out=found[start : start + len(at)])
            start += len(at)
        return found

    def add(self, j: int) -> None:
        if self.sparse:
            span = slice(self.X.indptr[j], self.X.indptr[j + 1])
            self.held[self.X.indices[span]] += self.X.data[span]
        else:
            self.held += self.X[j]


def _rows_of(matrix: Any) -> np.ndarray:
    return np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
