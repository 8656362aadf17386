"""Which datapoints lie nearest to each datapoint? Exact, ties to the lowest index, never n x n in memory.

Similarities come block by block from one float32 matrix product. Rounding cannot change the answer: a bound
on the error of each product (Higham, *Accuracy and Stability of Numerical Algorithms*, 2002, eq. 3.5) yields
a short list that surely holds the k nearest; only the short list is measured in float64 and sorted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, NotFinite, SchemaMismatch, UnknownName, name_some

__all__ = ["default_metric", "neighbours"]

METRICS = ("cosine", "euclidean")
BLOCK = 1 << 20  # float32 similarities held at a time (4 MiB: they stay in the cache)
ROWS = 32  # but at least so many rows of them, or the matrix product is slow
PAIRS = 1 << 22  # float64 coordinates of measured pairs held at a time (32 MiB)
GROUP = 64  # most columns that share one maximum
UNIT = 2.0**-24  # unit round-off of float32
NEVER = -1e30  # similarity of a padded column: below any other, and safe to multiply, which -inf is not


def neighbours(X: Any, k: int = 10, metric: str | None = None, queries: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """The k nearest rows of ``X``, nearest first.

    Parameters
    ----------
    X : array (n, d), float or integer, finite
        The rows to search.
    k : int, default 10
        How many, 1 <= k <= n - 1 (k <= n with ``queries``).
    metric : "cosine", "euclidean" or None
        Cosine distance 1 - cos, range 0 to 2, or Euclidean distance in units of ``X``; None:
        `default_metric`. A row of zeros is at cosine distance 1 of every row but another row of zeros, where
        it is 0.
    queries : array (m, d), optional
        Rows whose neighbours are wanted. None: the rows of ``X``, each without itself (a copy of it is not
        itself).

    Returns
    -------
    distances : float64 (m, k)
        Ascending along a row.
    indices : int64 (m, k)
        Rows of ``X``; equal distances in ascending order of index.

    Raises
    ------
    NotFinite
        NaN or infinity, naming the rows.
    SchemaMismatch
        Not two-dimensional, or queries of another width.
    DatumwiseError
        ``k`` is not in its range.

    Notes
    -----
    Memory beside ``X``: one float32 copy of it, and the larger of 64 MiB and 32 rows of float32 similarities.
    Time is that of the matrix product, O(m n d).

    Examples
    --------
    >>> import numpy as np
    >>> distances, indices = neighbours(np.array([[0.0], [1.0], [1.0], [3.0]]), k=2, metric="euclidean")
    >>> indices.tolist()
    [[1, 2], [2, 0], [1, 0], [1, 2]]
    >>> distances.tolist()
    [[1.0, 1.0], [0.0, 1.0], [0.0, 1.0], [2.0, 2.0]]
    """
    X = finite_matrix(X, "X")
    Q = X if queries is None else finite_matrix(queries, "queries")
    if Q.shape[1] != X.shape[1]:
        raise SchemaMismatch(f"queries have {Q.shape[1]} columns and X has {X.shape[1]}")
    others = len(X) - (queries is None)
    if not 1 <= k <= others:
        raise DatumwiseError(f"k = {k} neighbours were asked of {others} other rows", remedy=f"1 <= k <= {others}")
    metric = metric or default_metric(X.shape[1])
    if metric not in METRICS:
        raise UnknownName(f"there is no metric {metric!r}", remedy="give 'cosine' or 'euclidean'")

    space = Space.of(X, metric, Q)
    index = Index.of(space, k)
    step = max(ROWS, BLOCK // len(index.columns))
    held = Workspace.of(min(step, len(Q)), len(index.columns))  # touched once, not once a block
    distances = np.empty((len(Q), k))
    indices = np.empty((len(Q), k), np.int64)
    for start in range(0, len(Q), step):
        stop = min(start + step, len(Q))
        own = np.arange(start, stop) if queries is None else None
        rows, columns = index.short_list(space, Q[start:stop], own, k, held)
        measured = space.measure(Q[start:stop], rows, columns)
        order = np.lexsort((columns, measured, rows))
        first = np.searchsorted(rows, np.arange(stop - start))  # rows ascend, so order keeps each row's span
        chosen = order[first[:, None] + np.arange(k)]
        distances[start:stop] = measured[chosen]
        indices[start:stop] = columns[chosen]
    return distances, indices


def default_metric(dim: int) -> str:
    """Cosine above three dimensions, else Euclidean: cleanlab's convention.

    Examples
    --------
    >>> default_metric(64), default_metric(2)
    ('cosine', 'euclidean')
    """
    return "cosine" if dim > 3 else "euclidean"


def finite_matrix(X: Any, name: str) -> np.ndarray:
    """``X`` as a two-dimensional float array (float32 stays float32, all else float64), or a refusal."""
    X = np.asarray(X)
    if X.dtype.kind not in "fiub":
        raise SchemaMismatch(f"{name} must hold numbers; its type is {X.dtype}")
    if X.ndim != 2:
        raise SchemaMismatch(f"{name} must be rows x columns; its shape is {X.shape}")
    if X.shape[0] == 0 or X.shape[1] == 0:
        raise EmptyData(f"{name} is empty; its shape is {X.shape}")
    if X.dtype.kind != "f" or X.dtype.itemsize < 4:
        X = X.astype(np.float32 if X.dtype == np.float16 else np.float64)
    if not np.isfinite(X.sum(dtype=np.float64)):  # one pass without a temporary; the sum alone may overflow
        bad = np.flatnonzero(~np.isfinite(X).all(axis=1))
        if len(bad):
            raise NotFinite(
                f"{name} has NaN or infinity in row {name_some(bad)}",
                remedy="drop or fill these rows",
                ids=bad.tolist(),
            )
    return X


@dataclass(frozen=True)
class Space:
    """The points as the metric sees them: unit rows (cosine), or centred and scaled rows (Euclidean)."""

    X: np.ndarray  # (n, d)
    metric: str
    norms: np.ndarray  # (n,) |x| for cosine, else empty
    zeros: bool  # some row of X is all zeros: then one more coordinate keeps it apart
    centre: np.ndarray  # (d,)
    scale: float  # a power of two: dividing by it rounds nothing

    @classmethod
    def of(cls, X: np.ndarray, metric: str, queries: np.ndarray | None = None) -> Space:
        if metric == "cosine":
            norms = row_norms(X)
            return cls(X, metric, norms, bool((norms == 0).any()), np.zeros(X.shape[1]), 1.0)
        biggest = max(np.abs(X).max(), 0.0 if queries is None else np.abs(queries).max(initial=0.0))
        rough = 2.0 ** np.ceil(np.log2(biggest)) if biggest > 0 else 1.0
        centre = (X / rough).mean(axis=0, dtype=np.float64) * rough
        return cls(X, metric, np.empty(0), False, centre, float(rough))

    def points(self, rows: np.ndarray, norms: np.ndarray | None = None) -> np.ndarray:
        """(m, d') float64: half the squared distance of two is the cosine distance, or they are X / scale."""
        points = rows.astype(np.float64)
        if self.metric == "euclidean":
            points -= self.centre
            points /= self.scale
            return points
        norms = row_norms(points) if norms is None else norms
        zero = norms == 0
        points /= np.where(zero, 1.0, norms)[:, None]
        return np.column_stack([points, zero]) if self.zeros else points

    def measure(self, Q: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """float64 (p,): distances between ``Q[rows]`` and ``X[columns]``, from coordinate differences."""
        out = np.empty(len(rows))
        q = self.points(Q) if self.metric == "cosine" else Q.astype(np.float64)
        step = max(1, PAIRS // self.X.shape[1])
        for start in range(0, len(rows), step):
            span = slice(start, start + step)
            if self.metric == "cosine":
                difference = q[rows[span]]
                difference -= self.points(self.X[columns[span]], self.norms[columns[span]])
                out[span] = np.einsum("ij,ij->i", difference, difference) / 2
            else:
                difference = q[rows[span]]
                difference -= self.X[columns[span]]
                difference /= self.scale
                out[span] = np.sqrt(np.einsum("ij,ij->i", difference, difference)) * self.scale
        return out


@dataclass(frozen=True)
class Workspace:
    """Memory that every block of queries is computed in."""

    similarity: np.ndarray  # (rows, columns) float32
    near: np.ndarray  # (rows, columns) bool

    @classmethod
    def of(cls, rows: int, columns: int) -> Workspace:
        return cls(np.empty((rows, columns), np.float32), np.empty((rows, columns), bool))


@dataclass(frozen=True)
class Index:
    """The rows of X in ascending norm, dealt to groups so that a maximum over a group is one pass."""

    columns: np.ndarray  # (size * groups,) int64 row of X at each place, -1 where padded; place = r * groups + g
    places: np.ndarray  # (n,) place of each row of X
    points: np.ndarray  # (d' + 1, size * groups) float32; the last row is -|x|^2 / 2: q . x orders by distance
    largest: np.ndarray  # (groups,) largest |x| in a group

    @classmethod
    def of(cls, space: Space, k: int) -> Index:
        n = len(space.X)
        size = min(GROUP, max(1, n // (16 * k)))
        groups = -(-n // size)
        norms = np.empty(n)
        step = max(1, PAIRS // space.X.shape[1])
        for start in range(0, n, step):
            norms[start : start + step] = row_norms(space.points(space.X[start : start + step]))
        ranked = np.full(size * groups, -1, np.int64)
        ranked[:n] = np.argsort(norms, kind="stable")
        largest = np.where(ranked < 0, 0.0, norms[ranked]).reshape(groups, size).max(axis=1)
        columns = ranked.reshape(groups, size).T.ravel()
        places = np.empty(n, np.int64)
        places[columns[columns >= 0]] = np.flatnonzero(columns >= 0)
        width = space.X.shape[1] + space.zeros + 1
        points = np.zeros((width, size * groups), np.float32)
        for start in range(0, len(columns), step):
            rows = columns[start : start + step]
            points[:-1, start : start + step] = space.points(space.X[rows]).T
            points[-1, start : start + step] = np.where(rows < 0, NEVER, -(norms[rows] ** 2) / 2)
        points[:-1, columns < 0] = 0
        return cls(columns, places, points, largest)

    def short_list(
        self, space: Space, Q: np.ndarray, own: np.ndarray | None, k: int, held: Workspace
    ) -> tuple[np.ndarray, np.ndarray]:
        """Pairs (row of Q, row of X), ascending in the first, that surely contain the k nearest of every row."""
        groups, width = len(self.largest), len(self.points)
        q = space.points(Q)
        augmented = np.column_stack([q, np.ones(len(q))]).astype(np.float32)
        similarity = np.matmul(augmented, self.points, out=held.similarity[: len(q)])
        if own is not None:
            similarity[np.arange(len(q)), self.places[own]] = -np.inf
        similarity = similarity.reshape(len(q), -1, groups)
        # |computed - true q . x| <= (width + 16) u (|q| |x| + |x|^2 / 2), rounding of the inputs included
        error = (width + 16) * UNIT * (row_norms(q)[:, None] * self.largest + self.largest**2 / 2) + 1e-37
        surely = similarity.max(axis=1) - error  # a lower bound on the best of each group
        kth = np.partition(surely, groups - k, axis=1)[:, groups - k, None]  # k groups hold one at least as near
        floor = np.nextafter((kth - error).astype(np.float32), np.float32(-np.inf))
        near = held.near[: len(q)].reshape(similarity.shape)
        found = np.flatnonzero(np.greater_equal(similarity, floor[:, None, :], out=near))
        return found // len(self.columns), self.columns[found % len(self.columns)]


def row_norms(rows: np.ndarray) -> np.ndarray:
    """(m,) float64 Euclidean norms, free of overflow."""
    norms = np.empty(len(rows))
    step = max(1, PAIRS // rows.shape[1])
    for start in range(0, len(rows), step):
        block = rows[start : start + step].astype(np.float64)
        biggest = np.abs(block).max(axis=1, initial=0.0)
        block /= np.where(biggest > 0, biggest, 1.0)[:, None]
        norms[start : start + step] = np.sqrt(np.einsum("ij,ij->i", block, block)) * biggest
    return norms
