"""What bounds several order statistics of a batch at once? Boxes of ranks: a band for all of them, or two, such as quartiles.

Source: Lee, Tchetgen Tchetgen & Dobriban, *Batch predictive inference*, arXiv 2409.13990, for two
quartiles; the band is our own.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from datumwise.predict.batch_interval import INF, Side, checked_scores, level_of_side
from datumwise.predict.order_statistics import (
    SLACK,
    check_alpha,
    order_statistic_rank,
    rank_box_probability,
    rank_pmf,
    whole_number,
)

__all__ = ["band_ranks", "cdf_band", "quartile_box"]

TAILS = 5_000_000  # tail probabilities held while a band is sought (40 MB)


def cdf_band(
    scores: Any, m: int, alpha: float, *, score_bounds: tuple[float, float] = (-INF, INF), side: Side = "both"
) -> np.ndarray:
    """Band that holds all m sorted new scores at once, and with them the whole empirical distribution of the batch.

    Parameters
    ----------
    scores : float (n,)
        Calibration scores; infinite ones are allowed, NaN is not.
    m : int >= 1
        New scores.
    alpha : float in (0, 1)
    score_bounds : (float, float)
        Limits that the score cannot leave; they close the band where the calibration scores cannot.
    side : {"both", "upper", "lower"}
        The other side is the limit.

    Returns
    -------
    float64 (m, 2)
        Row z - 1 bounds the z-th smallest; every row holds together with probability >= 1 - alpha.

    Raises
    ------
    NotFinite, EmptyData, SchemaMismatch, DatumwiseError
        As in `batch_quantile_bound`.

    Notes
    -----
    Each rank gets the same level, the largest at which the probability of the whole box is still 1 - alpha.

    Examples
    --------
    >>> cdf_band(np.arange(1.0, 100.0), 4, 0.1, score_bounds=(0, 100)).tolist()
    [[0.0, 63.0], [6.0, 83.0], [17.0, 94.0], [37.0, 100.0]]
    """
    values, low, high = checked_scores(scores, score_bounds)
    n, m = len(values), whole_number(m, "m, the number of new scores,", 1)
    level_of_side(alpha, side)
    padded = np.concatenate([[low], np.sort(values), [high]])
    a, b = band_ranks(n, m, check_alpha(alpha), side)
    return np.column_stack([padded[a - 1], padded[b]])


def quartile_box(n: int, m: int, z1: int, z2: int, alpha: float) -> tuple[int, int, float]:
    """Ranks that bound two order statistics of a batch together, such as its quartiles: T_(z1) from below, T_(z2) from above.

    Parameters
    ----------
    n, m : int >= 1
        Calibration scores and new scores.
    z1, z2 : int, 1 <= z1 < z2 <= m
    alpha : float in (0, 1)

    Returns
    -------
    L, U : int
        P(T_(z1) >= S_(L - 1) and T_(z2) <= S_(U)) >= 1 - alpha, with S_(0) and S_(n + 1) the limits of the score.
    probability : float
        Exact P(R_z1 >= L and R_z2 <= U).

    Raises
    ------
    DatumwiseError
        Sizes, places or a level out of range.

    Notes
    -----
    From the ranks n z1 / m and n z2 / m, or from those that the bounds need one by one, the side that gains more probability
    is widened by one rank until there is enough. O(n) a step.

    Examples
    --------
    >>> L, U, probability = quartile_box(200, 40, 10, 30, 0.1)
    >>> L, U, round(probability, 4)
    (28, 170, 0.9003)
    """
    n = whole_number(n, "n, the number of calibration scores,", 1)
    m = whole_number(m, "m, the number of new scores,", 2)
    z1 = whole_number(z1, "z1", 1, m - 1)
    z2 = whole_number(z2, "z2", z1 + 1, m)
    alpha = check_alpha(alpha)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1.0, n + m + 1)))])

    def choose(top: Any, bottom: int) -> Any:
        return log_factorial[top] - log_factorial[bottom] - log_factorial[top - bottom]

    def joint(k: Any, j: Any) -> float:  # P(R_z1 = k, R_z2 = j), k <= j, summed over the one that is an array
        first, between = choose(k + z1 - 2, z1 - 1), choose(j - k + z2 - z1 - 1, z2 - z1 - 1)
        return float(np.exp(first + between + choose(n + m - j - z2 + 1, m - z2) - choose(n + m, m)).sum())

    L = min(max(round(n * z1 / m), 1), order_statistic_rank(n, m, z1, alpha, "lower") + 1)
    U = max(min(round(n * z2 / m), n + 1), order_statistic_rank(n, m, z2, alpha, "upper"))
    probability = _two_ranks(n, m, z1, z2, L, U)
    while probability < 1 - alpha - SLACK:
        below = joint(L - 1, np.arange(L - 1, U + 1)) if L > 1 else -1.0
        above = joint(np.arange(L, U + 2), U + 1) if n >= U else -1.0
        if below >= above:
            L, probability = L - 1, probability + below
        else:
            U, probability = U + 1, probability + above
    return L, U, _two_ranks(n, m, z1, z2, L, U)


def band_ranks(n: int, m: int, alpha: float, side: Side = "both", *, finite: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Box a_z <= R_z <= b_z of probability >= 1 - alpha in which every rank has the same level.

    Parameters
    ----------
    n, m : int >= 1
    alpha : float in (0, 1)
    side : {"both", "upper", "lower"}
        The other side is free: 1 or n + 1.
    finite : bool, default False
        Keep b_z <= n, which for "upper" takes n / (n + m) >= 1 - alpha.

    Returns
    -------
    a, b : int64 (m,)

    Examples
    --------
    >>> a, b = band_ranks(99, 4, 0.1)
    >>> a.tolist(), b.tolist(), rank_box_probability(99, 4, a, b) >= 0.9
    ([1, 7, 18, 38], [63, 83, 94, 100], True)
    """
    a, b = _band(n, m, alpha, side, finite)
    return a.copy(), b.copy()


@lru_cache(maxsize=64)
def _band(n: int, m: int, alpha: float, side: str, finite: bool) -> tuple[np.ndarray, np.ndarray]:
    held: dict[int, np.ndarray] = {}

    def beyond(z: int) -> np.ndarray:  # entry j - 1 is P(R_z > n + 1 - j)
        if z in held:
            return held[z]
        tail = np.cumsum(rank_pmf(n, m, z)[:0:-1])
        if m * n <= TAILS:
            held[z] = tail
        return tail

    def box(level: float) -> tuple[np.ndarray, np.ndarray]:
        if side == "both":
            level /= 2
        b = np.array([n + 1 - np.searchsorted(beyond(z), level + SLACK, side="right") for z in range(1, m + 1)])
        a = n + 2 - b[::-1]  # the law of R_z is that of n + 2 - R_{m + 1 - z}
        b = np.minimum(b, n) if finite else b
        return np.ones_like(a) if side == "upper" else a, np.full_like(b, n + 1) if side == "lower" else b

    def enough(ranks: tuple[np.ndarray, np.ndarray]) -> bool:
        return rank_box_probability(n, m, *ranks) >= 1 - alpha - SLACK

    low, high = (0.0 if finite else alpha / m), alpha  # at alpha / m the errors add up to no more than alpha
    found, narrowest = box(low), box(high)
    if enough(narrowest):
        return narrowest
    for _ in range(50):
        middle = (low + high) / 2
        ranks = box(middle)
        if enough(ranks):
            low, found = middle, ranks
        else:
            high, narrowest = middle, ranks
        if all(np.array_equal(one, other) for one, other in zip(found, narrowest, strict=True)) or high - low < 1e-6 * high:
            break
    return found


def _two_ranks(n: int, m: int, z1: int, z2: int, L: int, U: int) -> float:
    """P(R_z1 >= L and R_z2 <= U)."""
    lower, upper = np.ones(m, np.int64), np.full(m, n + 1)
    lower[z1 - 1 :], upper[:z2] = L, U
    return rank_box_probability(n, m, lower, upper)
