"""Which datapoints together bring the most tags?"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp

from datumwise.errors import DatumwiseError
from datumwise.probe.neighbours import finite_matrix
from datumwise.select.greedy import Found, SetFunction
from datumwise.select.set_selector import SparseRows, _SetSelector

__all__ = ["MaxCoverage", "MaxCoverageFunction"]


class MaxCoverage(_SetSelector):
    """Keep datapoints that together have the most different tags (features, words, clusters).

    f(S) = sum of w_t over all tags t of any datapoint in S. Monotone and submodular.

    Parameters
    ----------
    n_to_select : int or float
    tag_weights : mapping of tag to float, or float (d,), optional
        w, not negative; a tag that a mapping lacks has 1. An array if ``fit`` is given a matrix. None: 1.
    optimizer, max_cost, random_state, progress
        As in `FacilityLocation`.

    Notes
    -----
    ``fit`` takes n collections of tags, or a matrix (n, d), dense or scipy.sparse: what is not 0 is a tag.

    Examples
    --------
    >>> chosen = MaxCoverage(2).fit([["maths"], ["maths", "code"], ["code", "poems"], ["jokes", "poems"]])
    >>> chosen.ranking_.tolist(), chosen.gains_.tolist()
    ([1, 3], [2.0, 2.0])

    References
    ----------
    Feige, 1998, *A Threshold of ln n for Approximating Set Cover* (max k-cover).
    """

    takes: ClassVar[tuple[str, ...]] = ("tags", "cost?")
    source: ClassVar[str] = "Feige, 1998 (max k-cover)"

    def __init__(
        self,
        n_to_select: int | float,
        *,
        tag_weights: Any = None,
        optimizer: str | Callable[..., Found] = "lazy",
        max_cost: float | None = None,
        random_state: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.n_to_select = n_to_select
        self.tag_weights = tag_weights
        self.optimizer = optimizer
        self.max_cost = max_cost
        self.random_state = random_state
        self.progress = progress

    def _checked(self, inputs: dict[str, Any]) -> dict[str, Any]:
        tags = inputs.get("tags")
        matrix = tags if sp.issparse(tags) else None
        if isinstance(tags, np.ndarray) and tags.ndim == 2 and tags.dtype.kind in "fiub":
            matrix = finite_matrix(tags, "tags")
        if matrix is None:
            return super()._checked(inputs)
        rest = super()._checked({**inputs, "tags": [()] * matrix.shape[0]})
        return {**rest, "tags": SparseRows(matrix)}

    def _function(self, **inputs: Any) -> SetFunction:
        tags = inputs["tags"]
        if isinstance(tags, SparseRows):
            return MaxCoverageFunction(tags.matrix, self.tag_weights)
        matrix, names = tag_matrix(tags)
        weights = None if self.tag_weights is None else [self.tag_weights.get(name, 1.0) for name in names]
        return MaxCoverageFunction(matrix, weights)


class MaxCoverageFunction(SetFunction):
    """f(S) = sum of w_t over the columns t in which any row of S is not 0.

    Parameters
    ----------
    X : scipy.sparse (n, d)
    tag_weights : float (d,), optional
    """

    def __init__(self, X: Any, tag_weights: Any = None) -> None:
        self.X = sp.csr_array(X)
        if (self.X.data == 0).any():
            self.X.eliminate_zeros()
        self.of_tag = self.X.tocsc()
        self.n, width = self.X.shape
        self.weights = np.ones(width) if tag_weights is None else np.asarray(tag_weights, dtype=np.float64)
        if self.weights.shape != (width,) or not (np.isfinite(self.weights) & (self.weights >= 0)).all():
            raise DatumwiseError(f"tag_weights must be {width:,} numbers, none negative")
        self._start()

    def _start(self) -> None:
        self.open = np.ones(len(self.weights), dtype=bool)  # tags that no pick has
        of_row = np.repeat(np.arange(self.n), np.diff(self.X.indptr))
        self.kept = np.bincount(of_row, self.weights[self.X.indices], minlength=self.n).astype(np.float64)

    def empty(self) -> Self:
        new = type(self).__new__(type(self))
        new.X, new.of_tag, new.n, new.weights = self.X, self.of_tag, self.n, self.weights
        new._start()
        return new

    def track(self) -> bool:
        return True

    def gains(self, candidates: np.ndarray) -> np.ndarray:
        return self.kept[candidates]

    def add(self, j: int) -> None:
        tags = self.X.indices[self.X.indptr[j] : self.X.indptr[j + 1]]
        tags = tags[self.open[tags]]
        self.open[tags] = False
        brought = self.of_tag[:, tags]  # every tag is brought once, so a whole run reads the matrix once
        weight = np.repeat(self.weights[tags], np.diff(brought.indptr))
        self.kept -= np.bincount(brought.indices, weight, minlength=self.n)


def tag_matrix(tags: Any) -> tuple[Any, list[Any]]:
    """n collections of tags as a csr_array (n, d) of ones, and the d tags in the order in which they first come.

    Raises
    ------
    DatumwiseError
        A row is a string: its letters would be taken for tags.
    """
    whole = next((i for i, row in enumerate(tags) if isinstance(row, (str, bytes))), None)
    if whole is not None:
        raise DatumwiseError(f"tags of row {whole} are a string", remedy="give a list of tags for every datapoint")
    rows = [set(row) for row in tags]
    number: dict[Any, int] = {}
    for tag in chain.from_iterable(tags):
        number.setdefault(tag, len(number))
    indices = np.array([number[tag] for row in rows for tag in row], dtype=np.int64)
    indptr = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
    return sp.csr_array((np.ones(len(indices)), indices, indptr), shape=(len(rows), len(number))), list(number)
