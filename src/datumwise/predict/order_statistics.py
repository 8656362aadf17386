"""Where does the z-th smallest of m new scores fall among n calibration scores? Exact laws of ranks.

Source: Lee, Tchetgen Tchetgen & Dobriban, *Batch predictive inference*, arXiv 2409.13990; the laws are those of
exceedance statistics (the negative hypergeometric law, also called beta-binomial).

With S_(1) <= ... <= S_(n) the calibration scores, T_(1) <= ... <= T_(m) the new ones, all exchangeable, the rank
vector R_z = 1 + #{i: S_i < T_(z)} is uniform over the nondecreasing vectors in {1..n+1}^m when there are no ties, and
S_(R_z - 1) <= T_(z) <= S_(R_z) always. S_(0) and S_(n+1) stand for the limits of the score (infinite if it has none).
"""

from __future__ import annotations

import math
import operator
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from datumwise.errors import DatumwiseError, SchemaMismatch, UnknownName

__all__ = [
    "SLACK",
    "check_alpha",
    "order_statistic_rank",
    "rank_box_probability",
    "rank_pmf",
    "required_calibration_size",
    "whole_number",
]

SLACK = 1e-12  # a probability this far below its level still counts as reaching it: levels are often hit exactly
PLAIN_COUNTS = 1e280  # number of rank vectors up to which paths are counted in plain float64


def order_statistic_rank(n: int, m: int, z: int, alpha: float, side: Literal["upper", "lower"] = "upper") -> int:
    """Index k of the calibration score that bounds the z-th smallest of m new scores with probability 1 - alpha.

    Parameters
    ----------
    n : int >= 1
        Calibration scores.
    m : int >= 1
        New scores.
    z : int, 1..m
        Which of the new scores, in ascending order.
    alpha : float in (0, 1)
        Allowed probability of an error.
    side : {"upper", "lower"}
        "upper": the smallest k with P(T_(z) <= S_(k)) >= 1 - alpha for every law of the scores. "lower": the largest k
        with P(T_(z) >= S_(k)) >= 1 - alpha.

    Returns
    -------
    int, 0..n+1
        Index into S_(0..n+1); n + 1 (upper) and 0 (lower) mean that no calibration score is far enough out.

    Raises
    ------
    DatumwiseError
        A size or level out of range.

    Notes
    -----
    For m = 1 this is the rank of split conformal prediction, ceil((n + 1)(1 - alpha)). The probability is over the draw
    of calibration scores and batch together, not given the calibration scores. O(n), cached.

    Examples
    --------
    At least 90 of 100 intervals shall cover with probability 0.9; split conformal prediction takes the 451st score:

    >>> order_statistic_rank(500, 100, 90, 0.1), order_statistic_rank(500, 1, 1, 0.1)
    (467, 451)
    """
    n, m, z = _sizes(n, m, z)
    if side not in ("upper", "lower"):
        raise UnknownName(f"there is no side {side!r} of a rank", remedy="choose upper or lower")
    return _rank(n, m, z, check_alpha(alpha), side)


def rank_pmf(n: int, m: int, z: int) -> np.ndarray:
    """Exact law of the rank R_z of the z-th smallest of m new scores among n calibration scores.

        P(R_z = k) = C(k + z - 2, z - 1) C(n + m - k - z + 1, m - z) / C(n + m, m),   k = 1..n+1

    Parameters
    ----------
    n, m : int >= 1
        Calibration scores and new scores.
    z : int, 1..m

    Returns
    -------
    float64 (n + 1,)
        Entry k - 1 is P(R_z = k); sums to 1.

    Notes
    -----
    Products of the ratios of neighbours, outwards from the mode: nothing overflows, and each probability that is no
    denormal number has a relative error of about 1e-16 times the square root of its distance from the mode, where
    differences of log-gammas lose 1e-9 at n = 200,000. O(n).

    Examples
    --------
    >>> rank_pmf(3, 2, 2).round(6).tolist()  # the larger of two new scores among three
    [0.1, 0.2, 0.3, 0.4]
    """
    n, m, z = _sizes(n, m, z)
    k = np.arange(1.0, n + 1)
    ratio = (k + (z - 1)) * (n + 1 - k) / (k * (n + m - z + 1 - k))  # P(k + 1) / P(k), nonincreasing
    mode = int(np.count_nonzero(ratio >= 1))
    pmf = np.ones(n + 1)
    with np.errstate(under="ignore"):
        np.cumprod(ratio[mode:], out=pmf[mode + 1 :])
        pmf[:mode] = np.cumprod(1 / ratio[:mode][::-1])[::-1]
        return pmf / pmf.sum()


def rank_box_probability(n: int, m: int, lower: Any, upper: Any) -> float:
    """Probability that every rank stays in its interval, P(lower_z <= R_z <= upper_z for z = 1..m).

    Parameters
    ----------
    n, m : int >= 1
    lower, upper : int (m,)
        Inclusive, 1..n+1.

    Returns
    -------
    float in [0, 1]
        Exact to about m times 1e-16.

    Raises
    ------
    SchemaMismatch
        Other lengths than m, or no whole numbers.
    DatumwiseError
        Ranks out of 1..n+1.

    Notes
    -----
    Monotone paths are counted in O(n m). Where their number leaves float64 each step is weighted by a geometric law of
    mean n / m, the random walk that typical paths follow, so that what typical paths need never underflows.

    Examples
    --------
    The third to fifth of five new scores lie between the extremes of nine calibration scores:

    >>> round(rank_box_probability(9, 5, [1, 1, 2, 2, 2], [10, 10, 9, 9, 9]), 6)
    0.62038
    """
    n, m, _ = _sizes(n, m, 1)
    a, b = _ranks(lower, n, m, "lower"), _ranks(upper, n, m, "upper")
    a = np.maximum.accumulate(a)  # ranks do not decrease: what bounds one bounds those after it, or before it
    b = np.minimum.accumulate(b[::-1])[::-1]
    if (a > b).any():
        return 0.0
    if _log_comb(n + m, m) < math.log(PLAIN_COUNTS):
        return _count_paths(n, m, a, b) / math.comb(n + m, m)
    return _walk(n, m, a, b)


def required_calibration_size(
    m: int, alpha: float, *, z: int | None = None, eta: int | None = None, side: Literal["upper", "lower"] = "upper"
) -> int:
    """Smallest number of calibration scores for which `order_statistic_rank` names one of them.

    Parameters
    ----------
    m : int >= 1
        New scores.
    alpha : float in (0, 1)
        Level of the one side; half the level for an interval of two sides.
    z : int, optional
        Which of the new scores is bounded; m, the largest, by default. For the mean or the sum of unbounded scores the
        largest is what decides, so leave it.
    eta : int, optional
        Instead of z: how many new scores may lie above the bound, z = m - eta.
    side : {"upper", "lower"}

    Returns
    -------
    int
        n such that P(T_(z) <= S_(n)) >= 1 - alpha (lower: P(T_(z) >= S_(1)) >= 1 - alpha) for every law.

    Raises
    ------
    DatumwiseError
        Both z and eta, or one of them out of range.

    Examples
    --------
    All of 100 intervals shall cover, or all but five:

    >>> required_calibration_size(100, 0.1), required_calibration_size(100, 0.1, eta=5)
    (900, 46)
    """
    m = whole_number(m, "m, the number of new scores,", 1)
    if z is not None and eta is not None:
        raise DatumwiseError("z and eta say the same thing", remedy="give one of them; z = m - eta")
    if eta is not None:
        z = m - whole_number(eta, "eta, the number of scores above the bound,", 0)
        if z < 1:
            raise DatumwiseError(f"eta = {eta} of {m} new scores leaves none to bound", remedy=f"eta in 0..{m - 1}")
    z = m if z is None else whole_number(z, "z", 1, m)
    if side not in ("upper", "lower"):
        raise UnknownName(f"there is no side {side!r} of a rank", remedy="choose upper or lower")
    return _required(m, check_alpha(alpha), z if side == "upper" else m + 1 - z)


def check_alpha(alpha: Any) -> float:
    """alpha as a float, if it lies in (0, 1).

    Raises
    ------
    DatumwiseError

    Examples
    --------
    >>> check_alpha(0.1)
    0.1
    """
    try:
        value = float(alpha)
    except (TypeError, ValueError):
        raise SchemaMismatch(f"alpha = {alpha!r} is no number", remedy="alpha in (0, 1), for example 0.1") from None
    if not 0 < value < 1:
        raise DatumwiseError(f"alpha = {alpha} is no probability of an error", remedy="0 < alpha < 1, for example 0.1")
    return value


def whole_number(value: Any, name: str, least: int, most: int | None = None) -> int:
    """value as an int, if it is a whole number in least..most.

    Raises
    ------
    SchemaMismatch
        No whole number.
    DatumwiseError
        Out of range.

    Examples
    --------
    >>> whole_number(np.int64(3), "m", 1)
    3
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise SchemaMismatch(f"{name} must be a whole number, not {value!r}") from None
    if number < least or (most is not None and number > most):
        span = f">= {least}" if most is None else f"in {least}..{most}"
        raise DatumwiseError(f"{name} must be {span}, not {number}")
    return number


@lru_cache(maxsize=4096)
def _rank(n: int, m: int, z: int, alpha: float, side: str) -> int:
    pmf = rank_pmf(n, m, z)
    if side == "upper":  # the tail beyond k is summed from its small end, where rounding is least
        beyond = np.cumsum(pmf[:0:-1])  # beyond[j - 1] = P(R > n + 1 - j)
        return n + 1 - int(np.searchsorted(beyond, alpha + SLACK, side="right"))
    below = np.cumsum(pmf[:-1])  # below[k - 1] = P(R < k + 1)
    return int(np.searchsorted(below, alpha + SLACK, side="right"))


@lru_cache(maxsize=4096)
def _required(m: int, alpha: float, z: int) -> int:
    j = np.arange(z, m + 1, dtype=np.float64)
    level = -math.log(alpha + SLACK)

    def enough(n: int) -> bool:  # P(R_z = n + 1) = prod_{j=z..m} j / (n + j) <= alpha
        return float(np.log1p(n / j).sum()) >= level

    few, many = 0, 1
    while not enough(many):
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


def _sizes(n: Any, m: Any, z: Any) -> tuple[int, int, int]:
    m = whole_number(m, "m, the number of new scores,", 1)
    return whole_number(n, "n, the number of calibration scores,", 1), m, whole_number(z, "z", 1, m)


def _ranks(ranks: Any, n: int, m: int, name: str) -> np.ndarray:
    array = np.asarray(ranks)
    if array.shape != (m,) or array.dtype.kind not in "iu":
        raise SchemaMismatch(f"{name} must hold {m} whole numbers, one a new score, not {array.dtype} {array.shape}")
    if array.min() < 1 or array.max() > n + 1:
        raise DatumwiseError(f"{name} holds ranks from {array.min()} to {array.max()}", remedy=f"ranks are 1..{n + 1}")
    return array.astype(np.int64)


def _log_comb(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _count_paths(n: int, m: int, a: np.ndarray, b: np.ndarray) -> float:
    """Number of nondecreasing vectors in the box a..b (both nondecreasing)."""
    f = np.zeros(n + 1)
    f[a[0] - 1 : b[0]] = 1
    for z in range(1, m):
        reached = f[a[z - 1] - 1 : b[z]]
        np.cumsum(reached, out=reached)
        f[a[z - 1] - 1 : a[z] - 1] = 0
    return float(f.sum())


def _walk(n: int, m: int, a: np.ndarray, b: np.ndarray) -> float:
    """P(box) as that of a random walk of geometric steps, given that its step m + 1 ends at n + 1.

    All nondecreasing vectors have the same probability p^(m+1) q^n under that walk.
    """
    from scipy.signal import lfilter  # 0.3 s to import, and seldom needed

    p, q = m / (n + m), n / (n + m)
    f = np.zeros(n + 1)
    f[a[0] - 1 : b[0]] = p * q ** np.arange(a[0] - 1, b[0])
    for z in range(1, m):
        lo, hi = a[z - 1] - 1, b[z]
        f[lo:hi] = lfilter([p], [1, -q], f[lo:hi])
        f[lo : a[z] - 1] = 0
    ends = float(f @ (p * q ** np.arange(n, -1, -1.0)))
    # C(n + m, m) p^m q^n at p = m / (n + m) without cancellation (Loader, 2000)
    total = math.sqrt((n + m) / (2 * math.pi * n * m)) * math.exp(_stirling(n + m) - _stirling(n) - _stirling(m))
    return min(ends / (total * p), 1.0)


def _stirling(x: int) -> float:
    """log x! - log(sqrt(2 pi x) (x / e)^x)."""
    if x < 32:
        return math.lgamma(x + 1) - 0.5 * math.log(2 * math.pi * x) - x * math.log(x) + x
    y = 1.0 / (x * x)
    return (1 / 12 - (1 / 360 - (1 / 1260 - (1 / 1680 - y / 1188) * y) * y) * y) / x
