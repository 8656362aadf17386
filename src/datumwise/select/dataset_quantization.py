"""Bins that each cover the data, and a uniform draw from every bin: dataset quantization."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.select.per_class import class_by_class
from datumwise.select.selector import Selector

__all__ = ["DatasetQuantization", "quantization_bins"]


class DatasetQuantization(Selector):
    """Split the datapoints into bins by repeated graph-cut greedy, then draw the same number from every bin.

    A bin takes, one after the other, the datapoint with the largest
    P(x) = sum_{p in bin} ||x - p||^2 - sum_{p in neither this nor an earlier bin} ||x - p||^2: far from what the
    bin has, near to what is left. Early bins hold the typical, later ones what remains.

    Parameters
    ----------
    n_to_select : int or float
    n_bins : int, default 10
    random_state : int, Generator or None
        Of the draw.

    Attributes
    ----------
    bins_ : int64 (n,)
        Bin of each datapoint; within its class, if labels are given.
    gains_ : float64 (k,)
        1 / (picks of the bin before + 1).

    Notes
    -----
    With ``y`` each class has bins of its own. P is kept from two moments of the bin, so a step costs O(n d), and
    all bins together O(n^2 d) time with O(n d) memory.

    Examples
    --------
    >>> X = np.random.default_rng(0).normal(size=(40, 3))
    >>> found = DatasetQuantization(8, n_bins=4, random_state=0).fit(X)
    >>> np.bincount(found.bins_[found.ranking_]).tolist()
    [2, 2, 2, 2]

    References
    ----------
    Zhou et al., 2023, *Dataset Quantization*, section 3.2, equations 3 to 5.
    """

    takes: ClassVar = ("X", "y?")
    source: ClassVar = "Zhou et al., 2023, equations 3 to 5"

    def __init__(self, n_to_select: int | float, *, n_bins: int = 10, random_state: Any = None) -> None:
        self.n_to_select = n_to_select
        self.n_bins = n_bins
        self.random_state = random_state

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        if self.n_bins < 1:
            raise DatumwiseError(f"n_bins is {self.n_bins}", remedy="give 1 or more")
        rng = np.random.default_rng(self.random_state)
        X = inputs["X"].astype(np.float64)
        self.bins_ = np.zeros(n, np.int64)

        def drawn(rows: np.ndarray, share: int) -> tuple[np.ndarray, np.ndarray]:
            bins = quantization_bins(X[rows], min(self.n_bins, len(rows)))
            self.bins_[rows] = bins
            shuffled = rng.permutation(len(rows))
            by_bin = shuffled[np.argsort(bins[shuffled], kind="stable")]
            turn = np.arange(len(rows)) - np.searchsorted(bins[by_bin], bins[by_bin])
            order = np.argsort(turn, kind="stable")[:share]  # one of every bin, then a second of every bin, ...
            return by_bin[order], 1 / (turn[order] + 1)

        return class_by_class(inputs.get("y"), n, k, drawn)


def quantization_bins(X: np.ndarray, n_bins: int) -> np.ndarray:
    """int64 (n,): the bin of each row; sizes differ by at most one.

    Parameters
    ----------
    X : float64 (n, d)
    n_bins : int
        At most n.
    """
    n = len(X)
    X = X - X.mean(axis=0)
    squares = np.einsum("ij,ij->i", X, X)
    bins = np.full(n, n_bins - 1)
    left = np.ones(n, bool)
    sizes = np.full(n_bins, n // n_bins)
    sizes[: n % n_bins] += 1
    for number in range(n_bins - 1):  # the last bin is what remains
        rows = np.flatnonzero(left)
        mine, own = X[rows], squares[rows]
        # sum_p ||x - p||^2 = m |x|^2 - 2 x . sum p + sum |p|^2, over the bin (empty) less over what is left
        value = -(len(rows) * own - 2 * mine @ mine.sum(axis=0) + own.sum())
        for _ in range(sizes[number]):
            best = int(value.argmax())
            bins[rows[best]], left[rows[best]] = number, False
            # x leaves the rest (whose sum is subtracted) and joins the bin (whose sum is added)
            value += 2 * (own + own[best] - 2 * (mine @ mine[best]))
            value[best] = -np.inf
    return bins
