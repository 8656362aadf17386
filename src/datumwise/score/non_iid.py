"""Does the order of the datapoints say anything? Neighbours in space that are neighbours in order, too.

The conventions of cleanlab 2.9 (Datalab's ``non_iid``): the same statistic and scores. The p-value is the exact one of
the permutation test, not a smoothed one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.probe.neighbours import neighbours
from datumwise.score.declare import score

__all__ = ["NonIID", "non_iid", "order_independence"]


@dataclass(frozen=True)
class NonIID:
    """Whether the order matters, and where.

    Attributes
    ----------
    p_value : float
        Share of the orders drawn, with the given one, whose statistic is as large: low, the data drift, come in
        batches, or depend on one another.
    statistic : float
        Kolmogorov-Smirnov distance between the order distances |i - j| of neighbours and of all pairs, 0 to 1.
    score : float64 (n,)
        Low where a datapoint's neighbours are unusually near to (or far from) it in the order, 0 to 1.
    """

    p_value: float
    statistic: float
    score: np.ndarray = field(repr=False)

    def __str__(self) -> str:
        word = "the order matters" if self.p_value < 0.05 else "no sign that the order matters"
        return f"{word}: p = {self.p_value:.3g}, Kolmogorov-Smirnov distance {self.statistic:.3f}"


def non_iid(
    X: Any,
    k: int = 10,
    metric: str | None = None,
    *,
    n_permutations: int = 99,
    random_state: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> NonIID:
    """Test whether datapoints near each other in space are nearer in the order than chance has it.

    Parameters
    ----------
    X : float (n, d), finite
        In the order in which the datapoints came.
    k : int, default 10
        Neighbours.
    metric : "cosine", "euclidean" or None
        See `datumwise.probe.neighbours.neighbours`.
    n_permutations : int, default 99
        Of the order; the smallest p-value is 1/(n_permutations + 1).
    random_state : None, int or Generator
    progress : callable, optional
        Called with (permutations done, in all).

    Returns
    -------
    NonIID

    Examples
    --------
    >>> drift = np.cumsum(np.random.default_rng(0).normal(size=(200, 2)), axis=0)
    >>> found = non_iid(drift, random_state=0)
    >>> found.p_value
    0.01
    """
    if n_permutations < 1:
        raise DatumwiseError(f"{n_permutations} permutations are no test", remedy="n_permutations >= 1")
    near = neighbours(X, k, metric)[1]
    n = len(near)
    place = np.arange(n)
    statistic = _statistic(place, near)
    rng = np.random.default_rng(random_state)
    as_large = 1
    for done in range(n_permutations):
        as_large += _statistic(rng.permutation(n), near) >= statistic
        if progress:
            progress(done + 1, n_permutations)
    return NonIID(as_large / (n_permutations + 1), statistic, _scores(near))


@score(
    needs=("embedding",),
    higher="its neighbours come from all over the order",
    source="Cummings et al., 2023, Detecting Dataset Drift and Non-IID Sampling via k-Nearest Neighbors",
)
def order_independence(embedding: np.ndarray, *, k: int = 10, metric: str | None = None) -> np.ndarray:
    """Do the datapoint's nearest neighbours come from all over the data set, or from nearby in its order?

    Parameters
    ----------
    embedding : float (n, d)
    k : int, default 10
    metric : "cosine", "euclidean" or None

    Returns
    -------
    float64 (n,)
        0 to 1; `non_iid` tests the whole.
    """
    return _scores(neighbours(embedding, k, metric)[1])


def _statistic(place: np.ndarray, near: np.ndarray) -> float:
    """Largest gap of the two distribution functions, at the sorted distances and each before its own jump."""
    n, total = len(place), near.size
    count = np.bincount(np.abs(place[:, None] - place[near]).ravel(), minlength=n)[1:]  # of distances 1..n-1
    below = np.cumsum(count) - count
    distance = np.arange(1, n)
    background = (n * distance - distance * (distance + 1) / 2) / (n * (n - 1) / 2)
    met = count > 0
    first = np.abs(below[met] / total - background[met])
    last = np.abs((below[met] + count[met] - 1) / total - background[met])
    return float(max(first.max(), last.max()))


def _scores(near: np.ndarray) -> np.ndarray:
    """exp-like score of the area between a datapoint's distribution function of order distances and chance's."""
    n, k = near.shape
    i = np.arange(n)[:, None]
    d = np.minimum(i, n - 1 - i)  # up to here two datapoints lie at each distance
    x = np.column_stack([np.sort(np.abs(i - near), axis=1), np.full(n, n - 1)])  # (n, k + 1)
    # area under chance's distribution function from 0 to x: slope 2/(n-1) to d, 1/(n-1) to n-1-d, then level
    start = d**2 / (n - 1)
    middle = start + (x - d) * (x + 3 * d) / (2 * (n - 1))
    whole = start + (n - 2 * d - 1) * (2 * d / (n - 1) + 1) / 2
    area = np.where(x <= d, x**2 / (n - 1), np.where(x <= n - 1 - d, middle, whole + x - (n - 1 - d)))
    width = np.diff(x, prepend=0, axis=1)
    gap = np.abs(np.arange(k + 1) / k * width - np.diff(area, prepend=0, axis=1)).sum(axis=1)
    return 1 - np.tanh(gap / np.maximum(i, n - i)[:, 0])
