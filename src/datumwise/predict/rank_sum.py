"""What is the law of a sum of ranks of a batch? Exactly, for the ranks themselves and for any rank function.

h(R) = sum_z h0(R_z) orders the rank vectors of a batch, for a nondecreasing h0 that is fixed before the calibration scores
are seen. For h0(r) = r - 1 it is the Mann-Whitney count.

Source: Lee, Tchetgen Tchetgen & Dobriban, *Batch predictive inference*, arXiv 2409.13990, for compositional functions; the
laws and the shaped rank function are our own derivations.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import fft

from datumwise.errors import DatumwiseError, EmptyData, NotFinite, SchemaMismatch, name_some
from datumwise.predict.order_statistics import SLACK, check_alpha, required_calibration_size, whole_number

__all__ = [
    "draw_ranks",
    "rank_function",
    "rank_sum_pmf",
    "rank_sum_quantile",
    "sampled_rank_quantile",
    "shaped_ranks",
]

WAVES = 100.0  # log of the number of rank vectors above which the rank sum's waves beyond the first lobe are below 1e-20
VANISHED = 1e-19  # a characteristic function below this adds nothing
LOST = -55.0  # log of a coefficient that adds nothing: 1e-24, where the one at frequency 0 is above 1e-4
SUPPORT = 50_000_000  # largest number of values of a law held in memory (400 MB)
KEPT = 1_000_000  # values of a law that stays cached
BLOCK = 1 << 20  # complex numbers in a block of frequencies


def rank_sum_pmf(n: int, m: int, h0: Any = None) -> np.ndarray:
    """Exact law of h(R) = sum_z h0(R_z) over the m ranks of a batch among n calibration scores.

    Parameters
    ----------
    n : int >= 0
        Calibration scores; there are n + 1 ranks.
    m : int >= 1
        New scores.
    h0 : int (n + 1,), optional
        Nondecreasing, from 0; 0..n by default, the Mann-Whitney count.

    Returns
    -------
    float64 (m * max(h0) + 1,)
        Probability of each sum from 0; sums to 1.

    Raises
    ------
    SchemaMismatch, DatumwiseError
        h0 of another length, not whole numbers, decreasing or negative; a law too large to hold.

    Notes
    -----
    Ranks: the Gaussian binomial coefficient, multiplied out in O(m^2 n); where there are more than e^100 rank vectors, from
    the few frequencies at which its characteristic function, a product of sines, has not vanished. Any h0: complete
    homogeneous symmetric polynomials at every frequency of a Fourier transform, by Newton's identities for small batches
    and by Cauchy's integral for large ones. Absolute error about 1e-15.

    Examples
    --------
    >>> rank_sum_pmf(2, 2).round(6).tolist()  # 6 rank vectors with the sums 0, 1, 2, 2, 3, 4
    [0.166667, 0.166667, 0.333333, 0.166667, 0.166667]
    >>> rank_sum_pmf(2, 2, [0, 0, 1]).round(6).tolist()  # how many of the two exceed both calibration scores
    [0.5, 0.333333, 0.166667]
    """
    n = whole_number(n, "n, the number of calibration scores,", 0)
    m = whole_number(m, "m, the number of new scores,", 1)
    h0 = rank_function(h0, n + 1)
    if h0 is None:
        return _mann_whitney(n, m).copy()
    return _law(n, m, h0.tobytes()).copy()


def rank_sum_quantile(n: int, m: int, alpha: float, h0: Any = None, *, finite: bool = False) -> int:
    """Smallest q with P(h(R) <= q) >= 1 - alpha, the budget of the ranks of a batch.

    Parameters
    ----------
    n, m : int >= 1
    alpha : float in (0, 1)
    h0 : int (n + 1,), optional
        As in `rank_sum_pmf`; (n,) if finite.
    finite : bool, default False
        Require besides that no rank is n + 1, P(h(R) <= q and R_m <= n) >= 1 - alpha, as scores without an upper limit do.

    Returns
    -------
    int

    Raises
    ------
    DatumwiseError
        ``finite`` and n / (n + m) < 1 - alpha: no q will do.

    Notes
    -----
    For ranks no law is laid out: with k = min(n, m) >= 16 the distribution function is summed from some hundred
    frequencies, in milliseconds for any n and m.

    Examples
    --------
    The sum of the ranks from 1 of ten new scores among forty is at most 253 + 10 with probability 0.9:

    >>> rank_sum_quantile(40, 10, 0.1)
    253
    """
    n = whole_number(n, "n, the number of calibration scores,", 1)
    m = whole_number(m, "m, the number of new scores,", 1)
    level = 1 - check_alpha(alpha) - SLACK
    h0 = rank_function(h0, n if finite else n + 1)
    if finite:  # vectors without rank n + 1 are those of n - 1 calibration scores, n / (n + m) of all
        level *= (n + m) / n
        n -= 1
        if level > 1:
            need = required_calibration_size(m, alpha)
            raise DatumwiseError(f"need n >= {need:,} calibration scores for a finite bound; got n = {n + 1:,}")
    if h0 is None:
        return _rank_quantile(n, m, level)
    return _quantile(_law(n, m, h0.tobytes()), level)


def shaped_ranks(reference_scores: Any, n: int, limit: float = math.inf, *, bins: int = 1000) -> np.ndarray:
    """Rank function with the shape of the scores: round(bins (Q(r) - Q(1)) / (Q(top) - Q(1))).

    Q(r) is the r / (n + 1) quantile of reference scores and Q(n + 1) the score's upper limit. Any fixed h0 gives a valid
    bound; one that follows the scores gives a far tighter one where they are skewed.

    Parameters
    ----------
    reference_scores : float (k,)
        Scores of other data than the calibration scores, for example of the training data.
    n : int >= 1
        Calibration scores.
    limit : float
        Upper limit of the score; infinite if it has none.
    bins : int, default 1000
        Largest value.

    Returns
    -------
    int64 (n + 1,)
        (n,) if the limit is infinite, for rank n + 1 is then left out.

    Raises
    ------
    NotFinite, EmptyData, SchemaMismatch
        The reference scores are no finite array (k,).
    DatumwiseError
        They are all equal, or above the limit.

    Examples
    --------
    >>> skewed = np.linspace(0, 1, 1001) ** 4
    >>> shaped_ranks(skewed, 4, limit=1.0, bins=100).tolist()
    [0, 2, 13, 41, 100]
    """
    reference = np.asarray(reference_scores, dtype=np.float64)
    if reference.ndim != 1:
        raise SchemaMismatch(f"reference_scores must be one score a row, not an array {reference.shape}")
    if len(reference) == 0:
        raise EmptyData("reference_scores is empty", remedy="pass scores of training data")
    if not np.isfinite(reference).all():
        rows = np.flatnonzero(~np.isfinite(reference))
        raise NotFinite(f"{len(rows):,} reference_scores are not finite (rows {name_some(rows)})", ids=rows.tolist())
    n = whole_number(n, "n, the number of calibration scores,", 1)
    bins = whole_number(bins, "bins", 1)
    if reference.max() > limit:
        raise DatumwiseError(f"reference_scores reach {reference.max():g}, above the score's limit {limit:g}")
    quantiles = np.quantile(reference, np.arange(1, n + 1) / (n + 1))
    if limit < math.inf:
        quantiles = np.append(quantiles, limit)
    rise = quantiles[-1] - quantiles[0]
    if not rise > 0:
        raise DatumwiseError(
            "reference_scores show no shape, their quantiles are all equal",
            remedy="pass scores that vary, or use method='rank_sum'",
        )
    return np.rint(bins * ((quantiles - quantiles[0]) / rise)).astype(np.int64)


def draw_ranks(n: int, m: int, size: int, random_state: Any = None) -> np.ndarray:
    """Independent rank vectors of a batch, uniform over all nondecreasing vectors in {1..n+1}^m.

    Drawing m ranks independently and sorting them is something else, and too even.

    Parameters
    ----------
    n, m, size : int >= 1
    random_state : int, Generator or None

    Returns
    -------
    int64 (size, m)

    Examples
    --------
    >>> draw_ranks(3, 2, 4, random_state=0).shape
    (4, 2)
    >>> seen = np.unique(draw_ranks(2, 2, 6000, random_state=0), axis=0, return_counts=True)[1]
    >>> bool((abs(seen / 1000 - 1) < 0.15).all())  # six vectors, one as often as the other
    True
    """
    n = whole_number(n, "n, the number of calibration scores,", 1)
    m = whole_number(m, "m, the number of new scores,", 1)
    size = whole_number(size, "size", 1)
    rng = np.random.default_rng(random_state)
    ranks = np.empty((size, m), np.int64)
    step = max(1, BLOCK // (n + m))
    for start in range(0, size, step):
        # places of the m smallest of n + m exchangeable keys: a uniform subset of the pooled places
        keys = rng.random((min(step, size - start), n + m))
        places = np.sort(np.argpartition(keys, m - 1, axis=1)[:, :m], axis=1)
        ranks[start : start + step] = places - np.arange(m) + 1
    return ranks


def sampled_rank_quantile(
    n: int, m: int, alpha: float, rank_order: Callable[[np.ndarray], Any], *, draws: int = 9999, random_state: Any = None
) -> float:
    """Quantile of any function of the ranks of a batch, from draws, and still exactly valid.

    The ceil((1 - alpha)(draws + 1))-th smallest of independent draws of h(R) is at least a new h(R) with probability
    >= 1 - alpha over both, just as for a conformal p-value.

    Parameters
    ----------
    n, m : int >= 1
    alpha : float in (0, 1)
    rank_order : callable, int (k, m) -> float (k,)
        The function h of rank vectors, one a row.
    draws : int, default 9999
        At least 1 / alpha - 1.
    random_state : int, Generator or None

    Returns
    -------
    float

    Raises
    ------
    DatumwiseError
        Too few draws.

    Examples
    --------
    >>> sampled_rank_quantile(40, 10, 0.1, lambda ranks: (ranks - 1).sum(axis=1), random_state=0)
    253.0
    """
    alpha = check_alpha(alpha)
    draws = whole_number(draws, "draws", 1)
    place = math.ceil((1 - alpha) * (draws + 1) - SLACK * (draws + 1))
    if place > draws:
        raise DatumwiseError(f"{draws:,} draws have no quantile of level {1 - alpha:g}", remedy=f"draws >= {1 / alpha:.0f}")
    rng = np.random.default_rng(random_state)
    values = np.empty(draws)
    step = max(1, BLOCK // m)
    for start in range(0, draws, step):
        ranks = draw_ranks(n, m, min(step, draws - start), rng)
        answer = np.asarray(rank_order(ranks), dtype=np.float64)
        if answer.shape != (len(ranks),) or np.isnan(answer).any():
            raise SchemaMismatch(f"rank_order must give one number a row of ranks {ranks.shape}, not an array {answer.shape}")
        values[start : start + step] = answer
    return float(np.partition(values, place - 1)[place - 1])


def rank_function(h0: Any, ranks: int) -> np.ndarray | None:
    """h0 as int64 (ranks,), if it is nondecreasing whole numbers from 0; None for the ranks themselves.

    Raises
    ------
    SchemaMismatch, DatumwiseError

    Examples
    --------
    >>> rank_function([0, 1, 4], 3).tolist(), rank_function([0, 1, 2], 3)
    ([0, 1, 4], None)
    """
    if h0 is None:
        return None
    array = np.asarray(h0)
    if array.shape != (ranks,):
        raise SchemaMismatch(f"h0 must have one value a rank, ({ranks},), not {array.shape}")
    if array.dtype.kind not in "iu":
        raise SchemaMismatch(f"h0 must hold whole numbers, not {array.dtype}", remedy="round it, to some hundred values")
    array = np.ascontiguousarray(array, dtype=np.int64)
    if array[0] < 0:
        raise DatumwiseError(f"h0 starts at {array[0]}", remedy="h0 counts from 0")
    fall = np.flatnonzero(np.diff(array) < 0)
    if len(fall):
        raise DatumwiseError(f"h0 decreases after rank {name_some(fall + 1)}", remedy="h0 must be nondecreasing")
    return None if np.array_equal(array, np.arange(ranks)) else array


# --- the ranks themselves -----------------------------------------------------------------------------------------------


def _rank_quantile(n: int, m: int, level: float) -> int:
    """Smallest u with P(U <= u) >= level for the Mann-Whitney count U."""
    L = n * m + 1
    psi = _waves(n, m, L)
    if psi is None:
        return _quantile(_mann_whitney(n, m), level)
    # P(U <= u) = (u + 1) / L + sum_f 2 psi_f / L sum_{j <= u} cos(2 pi f (j - mean) / L); the inner sum telescopes
    f = np.arange(1, len(psi))
    half = np.pi * f / L
    weight = psi[1:] / (L * np.sin(half))
    start = float(weight @ np.sin(half * (n * m + 1)))
    few, many = -1, n * m

    def enough(u: int) -> bool:
        cdf = (u + 1) / L + float(weight @ np.sin(half * (2 * u + 1 - n * m))) + start
        return cdf >= level

    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many


@lru_cache(maxsize=64)
def _waves(n: int, m: int, L: int) -> np.ndarray | None:
    """Characteristic function of U - nm / 2 at the frequencies 2 pi f / L, f = 0.., until it has vanished.

    prod_i sin(pi f (N - k + i) / L) / sin(pi f i / L) i / (N - k + i), N = n + m, k = min(n, m). None where other
    frequencies, those near roots of unity, may count: their largest value is about 1 / sqrt(C(n + m, m)).
    """
    k, N = min(n, m), n + m
    if k < 16 or math.lgamma(N + 1) - math.lgamma(n + 1) - math.lgamma(m + 1) < WAVES:
        return None
    block = max(min(4 * k, 256), int(8 * math.sqrt(k)))
    i = np.arange(1, k + 1)[:, None]
    parts: list[np.ndarray] = []
    stop = 1
    while True:
        f = np.arange(stop, stop + block)
        stop += block
        if stop * k >= L:
            return None
        x = np.pi * f / L
        part = np.prod(np.sin(x * (N - k + i)) / np.sin(x * i) * (i / (N - k + i)), axis=0)
        parts.append(part)
        if np.abs(part[block // 2 :]).max() < VANISHED:  # two lobes at least, or far beyond the first
            psi = np.concatenate([[1.0], *parts])
            return psi[: int(np.flatnonzero(np.abs(psi) > VANISHED * 1e-3)[-1]) + 1]


def _mann_whitney(n: int, m: int) -> np.ndarray:
    """float64 (n m + 1,): coefficients of the Gaussian binomial [n + m choose m], divided by their sum."""
    length = _held(n * m + 1)
    law = _short_mann_whitney if length <= KEPT else _short_mann_whitney.__wrapped__
    return law(*sorted((n, m)))


@lru_cache(maxsize=16)
def _short_mann_whitney(k: int, n: int) -> np.ndarray:
    length = n * k + 1
    L = fft.next_fast_len(length, real=True)
    psi = _waves(n, k, L)
    if psi is not None:
        spectrum = np.zeros(L // 2 + 1, complex)
        used = min(len(psi), len(spectrum))
        spectrum[:used] = psi[:used] * np.exp(-2j * np.pi * ((np.arange(used) * (n * k / 2)) % L) / L)
        pmf = np.maximum(fft.irfft(spectrum, L)[:length], 0.0)
        pmf = (pmf + pmf[::-1]) / 2
        return pmf / pmf.sum()
    half = length // 2 + 1  # symmetric: the lower half determines the law
    a = np.zeros(half)
    a[0] = 1.0
    for i in range(1, k + 1):  # times (1 - x^(n + i)) / (1 - x^i), scaled to keep the sum of all coefficients 1
        if n + i < half:
            a[n + i :] -= a[: half - n - i].copy()
        rows = -(-half // i)
        padded = np.zeros(rows * i)
        padded[:half] = a
        a = np.cumsum(padded.reshape(rows, i), axis=0).ravel()[:half] * (i / (n + i))
    pmf = np.empty(length)
    pmf[:half] = np.maximum(a, 0.0)
    pmf[length - half :] = pmf[:half][::-1]
    return pmf / pmf.sum()


def _held(values: int) -> int:
    if values > SUPPORT:
        raise DatumwiseError(
            f"the law of the rank function has {values:,} values, more than the {SUPPORT:,} that are held",
            remedy="give an h0 of fewer values; rank_sum_quantile needs no law for ranks if n and m are 16 or more",
        )
    return values


def _quantile(pmf: np.ndarray, level: float) -> int:
    return min(int(np.searchsorted(np.cumsum(pmf), level)), len(pmf) - 1)


# --- any rank function --------------------------------------------------------------------------------------------------


def _law(n: int, m: int, h0: bytes) -> np.ndarray:
    """float64 (m max(h0) + 1,): law of sum_z h0(R_z), by the transform of the counts of h0's values."""
    top = int(np.frombuffer(h0, np.int64)[-1])
    law = _transformed if _held(m * top + 1) <= KEPT else _transformed.__wrapped__
    return law(n, m, h0)


@lru_cache(maxsize=16)
def _transformed(n: int, m: int, h0: bytes) -> np.ndarray:
    values = np.frombuffer(h0, np.int64)
    length = m * int(values[-1]) + 1
    L = fft.next_fast_len(length, real=True)
    counts = np.bincount(values, minlength=1).astype(float)
    F = fft.fft(counts, L)  # F[f] = sum_r x^{h0(r)} at x = exp(-2 pi i f / L), so that p_k at f is F[k f mod L]
    coefficient = _cauchy if _radius_pays(n, m) else _newton
    spectrum = np.empty(L // 2 + 1, complex)
    step = max(1, BLOCK // (4 * m))
    for start in range(0, len(spectrum), step):
        f = np.arange(start, min(start + step, len(spectrum)))
        spectrum[start : start + step] = coefficient(F, f, n, m)
    pmf = np.maximum(fft.irfft(spectrum / spectrum[0].real, L)[:length], 0.0)  # clips -1e-19 and the like
    return pmf / pmf.sum()


def _newton(F: np.ndarray, f: np.ndarray, n: int, m: int) -> np.ndarray:
    """H_m, the sum over multisets of m ranks, from the power sums p_k: j H_j = sum_{k <= j} p_k H_{j - k}. O(m^2) a frequency.

    H_j is held times rho^j (1 - rho)^(n + 1), which at frequency 0 makes it the negative binomial law of j.
    """
    rho = m / (n + m + 1)
    k = np.arange(1, m + 1)[:, None]
    p = F[(k * f) % len(F)] * rho**k
    H = np.empty((m + 1, len(f)), complex)
    H[0] = math.exp((n + 1) * math.log1p(-rho))
    for j in range(1, m + 1):
        H[j] = np.einsum("kf,kf->f", p[:j], H[j - 1 :: -1]) / j
    return H[m]


def _cauchy(F: np.ndarray, f: np.ndarray, n: int, m: int) -> np.ndarray:
    """H_m as the coefficient of t^m in exp(sum_k p_k t^k / k), from equally spaced t on a circle. O(M K) a frequency."""
    rho, terms, points = _circle(n, m)
    k = np.arange(1, terms + 1)
    angle = 2j * np.pi / points
    # the largest exponent, at frequency 0 and t = rho, is -(n + 1) log(1 - rho): taken off, nothing overflows
    p = F[(k[:, None] * f) % len(F)] * (rho**k / k)[:, None]
    shift = (n + 1) * math.log1p(-rho)
    coefficient = np.zeros(len(f), complex)
    alive = np.abs(p).sum(axis=0) + shift > LOST  # the largest exponent on the circle is no more than that
    theta = np.arange(points)[:, None]
    exponent = np.exp(angle * (theta * k % points)) @ p[:, alive]
    exponent += shift
    np.exp(exponent, out=exponent)
    coefficient[alive] = np.exp(-angle * (np.arange(points) * m % points)) @ exponent / points
    return coefficient


@lru_cache(maxsize=64)
def _circle(n: int, m: int) -> tuple[float, int, int]:
    """Radius, terms of the series and points on the circle that leave an error below 1e-17 of H_m."""
    rho = m / (n + m + 1)  # the saddle point: a negative binomial law of mean m
    terms = int(math.log(1e-19 / (n + 1)) / math.log(rho)) + 1

    def log_weight(j: int) -> float:  # of H_j rho^j at frequency 0
        return math.lgamma(n + 1 + j) - math.lgamma(j + 1) + j * math.log(rho)

    points = 2
    while max(log_weight(m + points), log_weight(m - points) if points <= m else -math.inf) > log_weight(m) - 41:
        points += max(1, points // 16)  # H_(m + points) and H_(m - points) are what the sum cannot tell from H_m
    return rho, terms, points


def _radius_pays(n: int, m: int) -> bool:
    _, terms, points = _circle(n, m)
    return 0.28 * points * (terms + 20) < m * m / 2  # measured: a term of Cauchy's matrix product costs 0.28 of Newton's
