"""How similar are two datapoints? Kernels, given similarities and neighbour graphs, as the set functions read them.

``S[i, j]`` says how well j stands for i. Functions that read S again and again hold it as float32 (rounded from
float64) up to `DENSE` datapoints; else it is computed block by block whenever it is read, or kept on a graph of
nearest neighbours. A given
(precomputed) similarity, dense or sparse, is read as it is, without a copy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, UnknownName, name_some
from datumwise.probe.neighbours import finite_matrix, neighbours, row_norms

__all__ = ["KERNELS", "Dense", "Given", "OnTheFly", "Similarity", "Sparse", "features", "given", "similarity"]

KERNELS = {
    "cosine": "max(0, cos(x, y))",
    "cosine_shifted": "(1 + cos(x, y)) / 2",
    "cosine_signed": "cos(x, y), -1 to 1",
    "dot": "<x, y>",
    "rbf": "exp(-gamma |x - y|^2); gamma: 1 / (d var X) by default",
    "euclidean": "largest |x - y| of all pairs, less |x - y|; of the graph's pairs with n_neighbors",
    "precomputed": "the matrix given, dense or scipy.sparse",
}
SEMIDEFINITE = ("cosine_shifted", "cosine_signed", "dot", "rbf", "precomputed")
DENSE = 20_000  # most datapoints for which S is held
CELLS = 1 << 19  # similarities in a block (4 MiB of float64: it stays in the cache)


class Similarity:
    """S of n datapoints, read by rows, columns or as a stream of blocks of rows."""

    n: int

    def rows(self, at: np.ndarray) -> np.ndarray:
        """(r, n) S[at]: how well every datapoint stands for these. May be a view; not to be written to."""
        raise NotImplementedError

    def columns(self, at: np.ndarray) -> np.ndarray:
        """(r, n) S[:, at].T, rows contiguous: how well these stand for every datapoint."""
        raise NotImplementedError

    @cached_property
    def diagonal(self) -> np.ndarray:
        """float64 (n,)"""
        raise NotImplementedError

    @cached_property
    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        """float64 (n,) sums of rows and of columns, from one pass."""
        across, down = np.empty(self.n), np.zeros(self.n)
        for at in blocks(np.arange(self.n), self.n):
            block = self.rows(at)
            across[at] = block.sum(axis=1, dtype=np.float64)
            down += block.sum(axis=0, dtype=np.float64)
        return across, down


class Dense(Similarity):
    """An array (n, n), float32 or float64, as it is."""

    def __init__(self, S: np.ndarray, symmetric: bool | None = None) -> None:
        self.S = S
        self.n = len(S)
        if symmetric is not None:
            self.symmetric = symmetric

    def __len__(self) -> int:
        return self.n

    @cached_property
    def symmetric(self) -> bool:
        step = 512  # squares of the matrix that fit the cache, so that its transpose is read well
        for top in range(0, self.n, step):
            for left in range(0, top + step, step):
                here = self.S[top : top + step, left : left + step]
                if not np.array_equal(here, self.S[left : left + step, top : top + step].T):
                    return False
        return True

    def rows(self, at: np.ndarray) -> np.ndarray:
        if len(at) and at[-1] - at[0] == len(at) - 1 and (np.diff(at) == 1).all():
            return self.S[at[0] : at[-1] + 1]
        return self.S[at]

    def columns(self, at: np.ndarray) -> np.ndarray:
        return self.rows(at) if self.symmetric else np.ascontiguousarray(self.S[:, at].T)

    @cached_property
    def diagonal(self) -> np.ndarray:
        return np.diagonal(self.S).astype(np.float64)


class OnTheFly(Similarity):
    """A kernel of X whose values are computed whenever they are asked for: memory O(n d)."""

    def __init__(self, X: np.ndarray, metric: str, gamma: float | None = None) -> None:
        self.n = len(X)
        self.metric = metric
        if metric == "rbf":
            self.gamma = bandwidth(X) if gamma is None else gamma
        self.points = _points(X, metric)
        self.norms = np.einsum("ij,ij->i", self.points, self.points)
        self.farthest = self._diameter() if metric == "euclidean" else 0.0

    def rows(self, at: np.ndarray) -> np.ndarray:
        return self._kernel(self._products(at), at)

    columns = rows  # every kernel here is symmetric

    @cached_property
    def diagonal(self) -> np.ndarray:
        if self.metric in ("rbf", "cosine", "cosine_shifted", "cosine_signed"):
            return np.ones(self.n)
        return np.full(self.n, self.farthest) if self.metric == "euclidean" else self.norms

    def _products(self, at: np.ndarray) -> np.ndarray:
        return self.points[at] @ self.points.T

    def _kernel(self, product: np.ndarray, at: np.ndarray) -> np.ndarray:
        if self.metric == "dot":
            return product
        if self.metric.startswith("cosine"):
            np.clip(product, 0.0 if self.metric == "cosine" else -1.0, 1.0, out=product)
            if self.metric == "cosine_shifted":
                product += 1
                product /= 2
            return product
        squared = self._squared(product, at)
        if self.metric == "rbf":
            squared *= -self.gamma
            return np.exp(squared, out=squared)
        np.sqrt(squared, out=squared)
        return np.subtract(self.farthest, squared, out=squared)

    def _squared(self, product: np.ndarray, at: np.ndarray) -> np.ndarray:
        product *= -2
        product += self.norms
        product += self.norms[at, None]
        close = product < 1e-6 * (self.norms[at].max(initial=0.0) + self.norms.max())
        row, column = np.nonzero(close)  # a difference of large numbers: measure copies and near copies exactly
        step = max(1, CELLS // self.points.shape[1])
        for start in range(0, len(row), step):
            i, j = row[start : start + step], column[start : start + step]
            difference = self.points[at[i]] - self.points[j]
            product[i, j] = np.einsum("ij,ij->i", difference, difference)
        return np.maximum(product, 0, out=product)

    def _diameter(self) -> float:
        most = 0.0
        for at in blocks(np.arange(self.n), self.n):
            most = max(most, float(self._squared(self._products(at), at).max()))
        return float(np.sqrt(most))


class Sparse(Similarity):
    """A scipy.sparse matrix: what is not stored is 0."""

    def __init__(self, S: Any) -> None:
        self.by_row = sp.csr_array(S)
        self.n = self.by_row.shape[0]

    def __len__(self) -> int:
        return self.n

    @cached_property
    def by_column(self) -> Any:
        return self.by_row.tocsc()

    def rows(self, at: np.ndarray) -> np.ndarray:
        return self.by_row[at].toarray()

    def columns(self, at: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(self.by_column[:, at].toarray().T)

    @cached_property
    def diagonal(self) -> np.ndarray:
        return self.by_row.diagonal().astype(np.float64)

    @cached_property
    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        data = self.by_row.data
        of_row = np.repeat(np.arange(self.n), np.diff(self.by_row.indptr))
        return (
            np.bincount(of_row, data, minlength=self.n).astype(np.float64),
            np.bincount(self.by_row.indices, data, minlength=self.n).astype(np.float64),
        )

    def row(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Columns and values stored in row i."""
        span = slice(self.by_row.indptr[i], self.by_row.indptr[i + 1])
        return self.by_row.indices[span], self.by_row.data[span]

    def column(self, j: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows and values stored in column j."""
        span = slice(self.by_column.indptr[j], self.by_column.indptr[j + 1])
        return self.by_column.indices[span], self.by_column.data[span]

    def cells(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Position in ``at``, column and value of everything stored in these rows."""
        return _cells(self.by_row, at)

    def column_cells(self, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Position in ``at``, row and value of everything stored in these columns."""
        return _cells(self.by_column, at)


class Given:
    """A checked similarity on its way from ``fit`` to a selector: has the length of the data."""

    def __init__(self, S: Similarity) -> None:
        self.S = S

    def __len__(self) -> int:
        return self.S.n


def given(S: Any, *, negative: bool = True) -> Similarity:
    """A precomputed similarity, checked: square, finite and, unless ``negative``, at least 0.

    Parameters
    ----------
    S : array or scipy.sparse (n, n)
    negative : bool, default True
        Whether values below 0 may stand.

    Raises
    ------
    SchemaMismatch
        Not square.
    NotFinite
        NaN or infinity; the rows are named.
    DatumwiseError
        A negative value where none may stand; the remedy says clip or shift.

    Examples
    --------
    >>> given(np.eye(3)).diagonal.tolist()
    [1.0, 1.0, 1.0]
    """
    sparse = sp.issparse(S)
    S = S if sparse else finite_matrix(S, "the precomputed similarity")
    if S.ndim != 2 or S.shape[0] != S.shape[1]:
        raise SchemaMismatch(
            f"a precomputed similarity must be square, and this is {' x '.join(f'{one:,}' for one in S.shape)}",
            remedy="give X and another metric, or the similarity of every datapoint to every datapoint",
        )
    if sparse:
        S = sp.csr_array(S)
        S.sum_duplicates()
        bad = np.unique(np.repeat(np.arange(S.shape[0]), np.diff(S.indptr))[~np.isfinite(S.data)])
        if len(bad):
            raise NotFinite(f"the precomputed similarity has NaN or infinity in row {name_some(bad)}", ids=bad.tolist())
    if not negative and S.shape[0] and S.min() < 0:
        cells = np.repeat(np.arange(S.shape[0]), np.diff(S.indptr))[S.data < 0] if sparse else (S < 0).any(axis=1).nonzero()[0]
        rows = np.unique(cells)
        raise DatumwiseError(
            f"similarity is negative in row {name_some(rows)}",
            remedy="clip it, np.maximum(S, 0), or shift it, (1 + S) / 2 for a cosine",
            ids=rows.tolist(),
        )
    return Sparse(S) if sparse else Dense(S)


def similarity(
    X: Any,
    metric: str = "cosine",
    *,
    n_neighbors: int | None = None,
    gamma: float | None = None,
    negative: bool = True,
    hold: bool = True,
) -> Similarity:
    """S of the rows of X.

    Parameters
    ----------
    X : float (n, d), or what ``metric="precomputed"`` takes
    metric : str, default "cosine"
        One of `KERNELS`. A row of zeros has cosine 0 with every row but a row of zeros, with which it has 1.
    n_neighbors : int, optional
        Keep S_ij only if j is one of the n_neighbors nearest of i or i of j, and S_ii; else it is 0. Exact
        neighbours, by cosine or Euclidean distance as the metric has it. Sparse.
    gamma : float, optional
        Of "rbf", above 0.
    negative : bool, default True
        Whether the set function allows values below 0.
    hold : bool, default True
        Whether S is read often enough to be worth holding, as float32, if there are at most `DENSE` datapoints.

    Raises
    ------
    UnknownName
        There is no such metric.
    DatumwiseError
        gamma is not above 0, or neighbours were asked for where there are none to look for.
    """
    if metric not in KERNELS:
        near = difflib.get_close_matches(str(metric), KERNELS, n=1)
        raise UnknownName(
            f"there is no metric {metric!r}",
            remedy=f"did you mean {near[0]!r}?" if near else f"there are {', '.join(KERNELS)}",
        )
    if gamma is not None and not gamma > 0:
        raise DatumwiseError(f"gamma is {gamma}", remedy="gamma > 0")
    if metric == "precomputed":
        if n_neighbors is not None:
            raise DatumwiseError(
                "a precomputed similarity has no neighbours to look for", remedy="give a scipy.sparse matrix instead"
            )
        return X.S if isinstance(X, Given) else given(X, negative=negative)
    X = finite_matrix(X, "X")
    if not negative and metric in ("cosine_signed", "dot"):
        raise DatumwiseError(
            f"metric {metric!r} has negative similarities and this function allows none",
            remedy="clip them (metric='cosine') or shift them (metric='cosine_shifted')",
        )
    if n_neighbors is not None:
        return _graph(X, metric, n_neighbors, gamma)
    kernel = OnTheFly(X, metric, gamma)
    if kernel.n > DENSE or not hold:
        return kernel
    S = np.empty((kernel.n, kernel.n), np.float32)
    for at in blocks(np.arange(kernel.n), kernel.n):
        S[at[0] : at[-1] + 1] = kernel.rows(at)
    return Dense(S)


def features(X: np.ndarray, metric: str) -> np.ndarray | None:
    """float64 (n, p) B with S = B B^T, where the kernel has such few features; else None."""
    if metric == "cosine_signed" or metric == "dot":
        return _points(X, metric)
    if metric == "cosine_shifted":
        points = _points(X, metric)
        return np.column_stack([points, np.ones(len(points))]) / np.sqrt(2)
    return None


def bandwidth(X: np.ndarray) -> float:
    """1 / (d var X), var X over all entries about the column means; 1 if all rows are the same."""
    spread = float(X.var(axis=0, dtype=np.float64).sum())
    return 1.0 / spread if spread > 0 else 1.0


def blocks(at: np.ndarray, n: int) -> Iterator[np.ndarray]:
    """``at`` in pieces of which n similarities each fit the cache."""
    step = max(1, CELLS // n)
    for start in range(0, len(at), step):
        yield at[start : start + step]


def _points(X: np.ndarray, metric: str) -> np.ndarray:
    """float64 rows whose products the kernel is computed from: of length 1, centred, or as given."""
    X = X.astype(np.float64)
    if metric.startswith("cosine"):
        norms = row_norms(X)
        zero = norms == 0
        X /= np.where(zero, 1.0, norms)[:, None]
        return np.column_stack([X, zero]) if zero.any() else X
    return X if metric == "dot" else X - X.mean(axis=0)


def _graph(X: np.ndarray, metric: str, n_neighbors: int, gamma: float | None) -> Sparse:
    if metric == "dot":
        raise DatumwiseError("metric 'dot' has no nearest neighbours", remedy="give metric='cosine' or 'rbf'")
    n = len(X)
    distances, indices = neighbours(X, n_neighbors, "cosine" if metric.startswith("cosine") else "euclidean")
    own = 1.0
    if metric == "cosine":
        values = np.clip(1 - distances, 0.0, 1.0)
    elif metric == "cosine_signed":
        values = 1 - distances
    elif metric == "cosine_shifted":
        values = 1 - distances / 2
    elif metric == "rbf":
        values = np.exp(-(bandwidth(X) if gamma is None else gamma) * distances**2)
    else:
        own = float(distances.max())
        values = own - distances
    rows = np.repeat(np.arange(n), n_neighbors)
    low, high = np.minimum(rows, indices.ravel()), np.maximum(rows, indices.ravel())
    edge, first = np.unique(low * n + high, return_index=True)
    low, high, values = edge // n, edge % n, values.ravel()[first].astype(np.float32)
    every = np.arange(n)
    graph = sp.coo_array(
        (
            np.concatenate([values, values, np.full(n, own, np.float32)]),
            (np.concatenate([low, high, every]), np.concatenate([high, low, every])),
        ),
        shape=(n, n),
    )
    return Sparse(graph.tocsr())


def _cells(matrix: Any, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    start, stop = matrix.indptr[at], matrix.indptr[at + 1]
    length = (stop - start).astype(np.int64)
    position = np.repeat(np.arange(len(at)), length)
    where = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length) + np.repeat(start, length)
    return position, matrix.indices[where], matrix.data[where]
