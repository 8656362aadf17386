"""What is each training datapoint worth to a nearest-neighbour classifier? Its exact Shapley value.

Jia et al., 2019, *Efficient Task-Specific Data Valuation for Nearest Neighbor Algorithms*, PVLDB 12(11),
theorem 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch
from datumwise.probe.neighbours import Space, finite_matrix
from datumwise.score.checks import class_labels, several_classes
from datumwise.score.declare import score

__all__ = ["knn_shapley", "knn_shapley_crossed"]

BLOCK = 1 << 17  # distances sorted together (1 MiB each for distances, order, gains)
UNIT = 2.0**-53  # unit round-off of float64


def knn_shapley(X: Any, y: Any, X_val: Any, y_val: Any, k: int = 5) -> np.ndarray:
    """Exact Shapley value of each row of ``X`` for the accuracy of a k-nearest-neighbour vote.

    The game: v(S) is the mean over the validation rows of the number of right labels among their min(k, |S|)
    nearest rows of S, divided by k; Euclidean distance, ties to the lowest index; v(empty) = 0. With the rows
    sorted by distance to a validation row of label y, theorem 1 gives

        s_n = 1[y_n = y] min(k, n) / (n k),   s_i = s_{i+1} + (1[y_i = y] - 1[y_{i+1} = y]) min(k, i) / (i k)

    and the value is the mean of s over the validation rows.

    Parameters
    ----------
    X : array (n, d)
        Training rows, finite.
    y : int array (n,)
        Their labels.
    X_val : array (m, d)
    y_val : int array (m,)
        A label that ``y`` lacks is allowed: nothing is right there.
    k : int, default 5
        Neighbours that vote; may exceed n.

    Returns
    -------
    float64 (n,)
        Higher: worth more. Sums to v(all rows).

    Raises
    ------
    NotFinite, SchemaMismatch, LabelError, EmptyData
        NaN, shapes that do not fit, labels that are no codes, nothing there.

    Notes
    -----
    O(m n (d + log n)) time, memory beyond the input bounded. Rows at equal distances are found by measuring
    again, from coordinate differences, wherever rounding could have decided the order.

    Examples
    --------
    >>> knn_shapley([[0.0], [1.0], [2.0]], [1, 1, 0], [[0.1]], [1], k=1).round(6).tolist()
    [0.5, 0.5, 0.0]
    """
    X, X_val = finite_matrix(X, "X"), finite_matrix(X_val, "X_val")
    y, y_val = class_labels(y, "y"), class_labels(y_val, "y_val")
    for rows, labels, name in ((X, y, "X"), (X_val, y_val, "X_val")):
        if len(rows) != len(labels):
            raise SchemaMismatch(f"{name} has {len(rows):,} rows and {len(labels):,} labels")
    if X.shape[1] != X_val.shape[1]:
        raise SchemaMismatch(f"X has {X.shape[1]} columns and X_val {X_val.shape[1]}")
    if k < 1:
        raise DatumwiseError(f"k = {k} neighbours cannot vote", remedy="k >= 1")

    n = len(X)
    weight = 1.0 / np.maximum(np.arange(1, n + 1), k)  # c_i = min(k, i) / (i k)
    drop = -np.diff(weight, prepend=weight[0])  # c_{i-1} - c_i
    space = Space.of(X, "euclidean", X_val)
    points = space.points(X)
    squares = np.einsum("ij,ij->i", points, points)
    total = np.zeros(n)
    step = max(1, BLOCK // n)
    for start in range(0, len(X_val), step):
        order = _by_distance(space, points, squares, X_val[start : start + step])
        right = y[order] == y_val[start : start + step, None]
        # unrolled, s_i = c_i right_i - sum_{j > i} right_j (c_{j-1} - c_j)
        lost = np.where(right, drop, 0.0)
        after = lost.sum(axis=1, keepdims=True) - np.cumsum(lost, axis=1)
        total += np.bincount(order.ravel(), weights=(right * weight - after).ravel(), minlength=n)
    return total / len(X_val)


@score(
    needs=("embedding", "labels"),
    higher="worth more to a nearest-neighbour classifier",
    source="Jia et al., 2019, theorem 1",
    name="knn_shapley",
)
def knn_shapley_crossed(
    embedding: np.ndarray,
    labels: np.ndarray,
    *,
    k: int = 5,
    X_val: Any = None,
    y_val: Any = None,
    folds: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """What is the datapoint worth to a nearest-neighbour classifier? Shapley value, `knn_shapley`.

    Without ``X_val`` every fold in turn validates the others, and a row's value is the mean over the folds it
    was not in.

    Parameters
    ----------
    embedding : float (n, d)
    labels : int (n,)
    k : int
    X_val, y_val : arrays (m, d), (m,), optional
        Validation rows in the space of the embedding.
    folds : int, default 5
    seed : int
        Deals the rows to folds.

    Returns
    -------
    float64 (n,)
        Relative to one fold's training set: in units of accuracy.
    """
    labels = class_labels(labels)
    several_classes(labels)
    if X_val is not None:
        return knn_shapley(embedding, labels, X_val, y_val, k)
    n = len(labels)
    if not 2 <= folds <= n:
        raise EmptyData(f"{n} datapoints cannot be dealt to {folds} folds", remedy="2 <= folds <= datapoints")
    X = finite_matrix(embedding, "embedding")
    fold = np.random.default_rng(seed).permutation(np.arange(n) % folds)
    value = np.zeros(n)
    for f in range(folds):
        train, held_out = np.flatnonzero(fold != f), np.flatnonzero(fold == f)
        value[train] += knn_shapley(X[train], labels[train], X[held_out], labels[held_out], k)
    return value / (folds - 1)


def _by_distance(space: Space, points: np.ndarray, squares: np.ndarray, queries: np.ndarray) -> np.ndarray:
    """int64 (m, n): rows of X in ascending distance to each query, exact ties in ascending index."""
    q = space.points(queries)
    own = np.einsum("ij,ij->i", q, q)
    distance = squares - 2 * (q @ points.T)  # |q - x|^2 - |q|^2
    order = np.argsort(distance, axis=1)
    distance = np.take_along_axis(distance, order, axis=1)
    # error of one entry: (d + 4) u (|q| + |x|)^2; closer than twice that, two may be in the wrong order
    error = (points.shape[1] + 4) * UNIT * (np.sqrt(own) + np.sqrt(squares.max())) ** 2
    close = np.diff(distance, axis=1) <= 2 * error[:, None]
    if not close.any():
        return order
    run = np.zeros(order.shape, np.int64)  # number of the run of doubtful neighbours that an entry is in
    run[:, 1:] = ~close
    run = np.cumsum(run.ravel()).reshape(order.shape) + np.arange(len(order))[:, None]
    doubtful = np.zeros(order.shape, bool)
    doubtful[:, 1:] = close
    doubtful[:, :-1] |= close
    rows, places = np.nonzero(doubtful)
    columns = order[rows, places]
    measured = space.measure(queries, rows, columns)
    order[rows, places] = columns[np.lexsort((columns, measured, run[rows, places]))]
    return order
