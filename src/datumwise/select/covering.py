"""Greedy facility location with a bonus a pick, similarities by the column: never n x n in memory for large n."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["cosine_columns", "cover_greedily", "nearest_pick", "nearness_columns"]

Columns = Callable[[np.ndarray], np.ndarray]  # rows (b,) -> similarity of all to each, float64 (b, n)

HELD = 1 << 25  # similarities kept, 256 MiB: 5,792 x 5,792
BATCH = 32  # columns made at a time


def cover_greedily(columns: Columns, n: int, k: int, bonus: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Maximise sum_i max_{s in S} S_is + sum_{s in S} bonus_s greedily; ties go to the lowest row.

    The gains fall as S grows, so an old gain bounds the new one (Minoux, 1978): only the datapoints whose bound
    is not below the best gain found are looked at again, some columns at a time.

    Parameters
    ----------
    columns : callable
        Similarities, not negative.
    n, k : int
    bonus : float64 (n,), optional

    Returns
    -------
    ranking : int64 (k,)
    gains : float64 (k,)
    """
    extra = np.zeros(n) if bonus is None else bonus
    best = np.zeros(n)
    bound = np.empty(n)
    for start in range(0, n, BATCH):
        rows = np.arange(start, min(start + BATCH, n))
        bound[rows] = columns(rows).sum(axis=1) + extra[rows]
    ranking = np.empty(k, np.int64)
    gains = np.empty(k)
    fresh = np.zeros(n, np.int64)  # the number of picks a bound was computed after
    for step in range(k):
        while True:
            top = float(bound.max())
            leaders = np.flatnonzero(bound == top)
            if (fresh[leaders] == step).all():
                winner = int(leaders[0])
                break
            stale = np.flatnonzero((fresh < step) & (bound > -np.inf))
            if len(stale) > BATCH:
                stale = stale[np.argpartition(-bound[stale], BATCH - 1)[:BATCH]]
            bound[stale] = np.maximum(columns(stale) - best, 0).sum(axis=1) + extra[stale]
            fresh[stale] = step
        ranking[step], gains[step] = winner, bound[winner]
        np.maximum(best, columns(np.array([winner]))[0], out=best)
        bound[winner] = -np.inf
    return ranking, gains


def nearness_columns(X: np.ndarray) -> Columns:
    """Similarity max d - d(i, j) with Euclidean distances d: 0 for the two rows farthest apart."""
    X = X.astype(np.float64) - X.mean(axis=0, dtype=np.float64)
    squares = np.einsum("ij,ij->i", X, X)

    def distances(rows: np.ndarray) -> np.ndarray:
        found = squares[rows, None] + squares - 2 * (X[rows] @ X.T)
        found[np.arange(len(rows)), rows] = 0
        return np.sqrt(np.maximum(found, 0))

    n = len(X)
    largest = max(float(distances(np.arange(s, min(s + BATCH, n))).max()) for s in range(0, n, BATCH))
    return _held(lambda rows: largest - distances(rows), n)


def cosine_columns(X: np.ndarray) -> Columns:
    """Similarity max(cos(i, j), 0); a row of zeros resembles nothing."""
    X = X.astype(np.float64)
    norms = np.linalg.norm(X, axis=1)
    X /= np.where(norms > 0, norms, 1.0)[:, None]
    return _held(lambda rows: np.maximum(X[rows] @ X.T, 0), len(X))


def nearest_pick(columns: Columns, ranking: np.ndarray, n: int) -> np.ndarray:
    """int64 (n,): position in the ranking of the pick most similar to each datapoint, the earliest of equals."""
    best, which = np.full(n, -np.inf), np.zeros(n, np.int64)
    for start in range(0, len(ranking), BATCH):
        rows = ranking[start : start + BATCH]
        similarity = columns(rows)
        first = similarity.argmax(axis=0)
        value = similarity[first, np.arange(n)]
        nearer = value > best
        best[nearer], which[nearer] = value[nearer], first[nearer] + start
    which[ranking] = np.arange(len(ranking))  # a pick stands for itself, also beside a copy of it
    return which


def _held(columns: Columns, n: int) -> Columns:
    """The same; all similarities are computed once where they fit."""
    if n * n > HELD:
        return columns
    everything = np.empty((n, n))
    for start in range(0, n, 512):
        everything[start : start + 512] = columns(np.arange(start, min(start + 512, n)))
    return lambda rows: everything[rows]
