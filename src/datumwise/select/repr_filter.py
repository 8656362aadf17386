"""The best that are not too alike: down the order of a score, skipping what resembles something kept already."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.probe.neighbours import Space
from datumwise.select.selector import Selector

__all__ = ["ReprFilter"]

BLOCK = 512  # candidates compared with the kept at a time
UNIT = 2.0**-24  # unit round-off of float32


class ReprFilter(Selector):
    """Score first, diversity-aware: walk down the score and keep a datapoint if it is not too near to one kept.

    A datapoint is kept if its largest cosine to the kept ones is below ``threshold``. Candidates are compared in
    blocks by one float32 matrix product; where rounding could decide, the pair is measured in float64, so the
    answer is that of the walk one by one.

    Parameters
    ----------
    n_to_select : int or float
        Fewer are kept where everything left is too near.
    threshold : float, default 0.9
        In (-1, 1]; with 1 only copies (up to length) are skipped.

    Attributes
    ----------
    gains_ : float64
        The scores of the kept.

    Examples
    --------
    >>> X = np.array([[1.0, 0.0], [2.0, 0.1], [0.0, 1.0]])
    >>> ReprFilter(2).fit(X, scores=[3.0, 2.0, 1.0]).ranking_.tolist()
    [0, 2]

    References
    ----------
    Liu et al., 2024, *What Makes Good Data for Alignment?* (DEITA), section 2.4, algorithm 1.
    """

    takes: ClassVar = ("X", "scores")
    source: ClassVar = "Liu et al., 2024, algorithm 1"

    def __init__(self, n_to_select: int | float, *, threshold: float = 0.9) -> None:
        self.n_to_select = n_to_select
        self.threshold = threshold

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        if not -1 < self.threshold <= 1:
            raise DatumwiseError(f"threshold is {self.threshold}", remedy="give a cosine above -1, at most 1")
        X, scores = inputs["X"], inputs["scores"]
        order = np.argsort(-scores, kind="stable")
        space = Space.of(X, "cosine")
        width = space.points(X[:1]).shape[1]
        kept = np.empty(k, np.int64)
        rows = np.empty((k, width), np.float32)  # the kept, of length 1
        m = 0
        for start in range(0, n, BLOCK):
            block = order[start : start + BLOCK]
            points = space.points(X[block]).astype(np.float32)
            if m:
                fresh = ~_near(space, X, block, kept[:m], points @ rows[:m].T, self.threshold).any(axis=1)
                block, points = block[fresh], points[fresh]
            alike = _near(space, X, block, block, points @ points.T, self.threshold)
            free = np.ones(len(block), bool)
            for i in range(len(block)):
                if free[i]:
                    free[i + 1 :] &= ~alike[i, i + 1 :]
                    kept[m], rows[m] = block[i], points[i]
                    m += 1
                    if m == k:
                        return kept, scores[kept]
        return kept[:m], scores[kept[:m]]


def _near(
    space: Space, X: np.ndarray, rows: np.ndarray, columns: np.ndarray, cosine: np.ndarray, threshold: float
) -> np.ndarray:
    """bool (r, c): whether cosine >= threshold, settled in float64 where float32 rounding could decide."""
    error = (X.shape[1] + 16) * UNIT
    near = cosine >= threshold
    i, j = np.nonzero(np.abs(cosine - np.float32(threshold)) <= error + UNIT)
    if len(i):
        near[i, j] = 1 - space.measure(X[rows], i, columns[j]) >= threshold
    return near
