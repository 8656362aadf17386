"""How sure is a mean, an AUC, a difference between two models measured on the same items? Bootstrap, permutation, DeLong.

Efron and Tibshirani, 1993, chapters 13 and 15; DeLong et al., 1988, for two AUCs on the same items.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, NotFinite, SchemaMismatch, name_some
from datumwise.evaluate.privleak import auc
from datumwise.evaluate.removal import Interval

__all__ = ["PairedTest", "auc_draws", "auc_interval", "auc_test", "interval_of", "mean_interval", "paired_test"]

LEVEL = 0.95
DRAWS = 2_000  # of a bootstrap
FLIPS = 10_000  # sign patterns of a permutation test; all of them where there are no more
BLOCK = 2**20  # counts held at once
TIE = 1e-12  # relative, of two differences that count as equal


@dataclass(frozen=True)
class PairedTest:
    """A difference between two models on the same items.

    Attributes
    ----------
    difference : Interval
        First minus second, with its 95 % interval.
    p : float
        Two-sided: how often a difference as large comes about where the models do not differ.
    n : int
        Items.
    """

    difference: Interval
    p: float
    n: int

    def __str__(self) -> str:
        d = self.difference
        return f"{d.value:+.3g} [{d.low:+.3g}, {d.high:+.3g}], p = {self.p:.2g}, n = {self.n:,}"


def mean_interval(
    values: Any, *, bounds: tuple[float, float] | None = None, n_draws: int = DRAWS, random_state: int = 0
) -> Interval:
    """Mean of n values with its 95 % interval: bootstrap, percentile.

    Parameters
    ----------
    values : float (n,)
        NaN does not count.
    bounds : (float, float), optional
        What values can lie between. Where all n values are one and the same, resampling would give an interval of no width;
        with bounds it is the exact one: another value has a probability of at most 1 - 0.025^(1/n) (Clopper and Pearson, 1934).
    n_draws, random_state : int

    Returns
    -------
    Interval

    Examples
    --------
    >>> mean_interval([0.0] * 16, bounds=(0, 1))
    Interval(value=0.0, low=0.0, high=0.2059...)
    """
    x = _values(values, "values")
    value = float(x.mean())
    if np.ptp(x) == 0:
        return _one_value(float(x[0]), len(x), bounds)
    draws = np.concatenate([c @ x for c in _count_blocks(n_draws, len(x), np.random.default_rng(random_state))]) / len(x)
    return interval_of(value, draws)


def paired_test(
    first: Any,
    second: Any,
    *,
    bounds: tuple[float, float] | None = None,
    n_flips: int = FLIPS,
    n_draws: int = DRAWS,
    random_state: int = 0,
) -> PairedTest:
    """Do two models differ on the same items? Sign flips of the differences; every pattern where there are few items.

    Parameters
    ----------
    first, second : float (n,)
        Items with NaN in one do not count.
    bounds : (float, float), optional
        Of the values, see `mean_interval`.
    n_flips, n_draws, random_state : int

    Returns
    -------
    PairedTest

    Raises
    ------
    SchemaMismatch
        They differ in length.
    EmptyData
        No item is measured in both.

    Examples
    --------
    >>> paired_test([1.0, 1.0, 1.0, 1.0], [0.0, 0.0, 0.0, 0.0]).p
    0.125
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise SchemaMismatch(f"values of shape {a.shape} and {b.shape} cannot be paired")
    d = _values(a - b, "differences")
    span = None if bounds is None else (bounds[0] - bounds[1], bounds[1] - bounds[0])
    found = mean_interval(d, bounds=span, n_draws=n_draws, random_state=random_state)
    size, scale = len(d), float(np.abs(d).sum())
    if scale == 0:
        return PairedTest(found, 1.0, size)
    least = abs(float(d.sum())) - TIE * scale
    if 2**size <= n_flips:
        patterns = (np.arange(2**size)[:, None] >> np.arange(size) & 1) * 2.0 - 1
        return PairedTest(found, float(np.mean(np.abs(patterns @ d) >= least)), size)
    rng = np.random.default_rng([random_state, 1])
    step, reached = max(1, BLOCK // size), 1  # the given signs are one of the patterns
    for start in range(0, n_flips, step):
        signs = rng.integers(0, 2, (min(step, n_flips - start), size)) * 2.0 - 1
        reached += int(np.count_nonzero(np.abs(signs @ d) >= least))
    return PairedTest(found, reached / (n_flips + 1), size)


def auc_interval(positive: Any, negative: Any, *, n_draws: int = DRAWS, random_state: int = 0) -> Interval:
    """`auc` with its 95 % interval: both samples resampled.

    Parameters
    ----------
    positive : float (m,)
    negative : float (n,)
    n_draws, random_state : int

    Returns
    -------
    Interval
        Where the samples do not overlap (AUC 0 or 1) the far end is that of min(m, n) pairs with no exception.
    """
    value = auc(positive, negative)
    if value in (0.0, 1.0):
        return _one_value(value, min(len(positive), len(negative)), (0.0, 1.0))
    return interval_of(value, auc_draws([(positive, negative)], n_draws, random_state)[0])


def auc_draws(samples: Sequence[tuple[Any, Any]], n_draws: int = DRAWS, random_state: int = 0) -> np.ndarray:
    """Bootstrap draws of the AUC of several models on the same items, the same items drawn for all.

    Parameters
    ----------
    samples : sequence of M (positive (m,), negative (n,))
        A row stands for the same item in all models.
    n_draws, random_state : int

    Returns
    -------
    float64 (M, n_draws)

    Raises
    ------
    SchemaMismatch
        Models were measured on different numbers of items.
    """
    pairs = [(np.asarray(p, dtype=np.float64), np.asarray(n, dtype=np.float64)) for p, n in samples]
    if len({(len(p), len(n)) for p, n in pairs}) != 1:
        raise SchemaMismatch("the models were measured on different numbers of items")
    m, n = len(pairs[0][0]), len(pairs[0][1])
    if n_draws < 1:
        raise DatumwiseError(f"n_draws is {n_draws}", remedy="it must be 1 or more")
    places = []
    for positive, negative in pairs:
        order = np.argsort(negative, kind="stable")
        ranked = negative[order]
        places.append((order, np.searchsorted(ranked, positive, "left"), np.searchsorted(ranked, positive, "right")))
    rng, found, done = np.random.default_rng(random_state), np.empty((len(pairs), n_draws)), 0
    step = max(1, BLOCK // (m + n))
    while done < n_draws:
        size = min(step, n_draws - done)
        of_positive, of_negative = _counts(size, m, rng), _counts(size, n, rng)
        for row, (order, left, right) in enumerate(places):
            below = np.concatenate([np.zeros((size, 1)), np.cumsum(of_negative[:, order], axis=1)], axis=1)
            beaten = (below[:, left] + below[:, right]) / 2  # negatives below each positive, ties as halves
            found[row, done : done + size] = np.einsum("bm,bm->b", of_positive, beaten) / (m * n)
        done += size
    return found


def auc_test(first: tuple[Any, Any], second: tuple[Any, Any], *, n_draws: int = DRAWS, random_state: int = 0) -> PairedTest:
    """Do two models tell the same two samples apart equally well? DeLong's test, with a bootstrap interval.

    Parameters
    ----------
    first, second : (positive (m,), negative (n,))
        Scores of the two models for the same items in the same order.
    n_draws, random_state : int

    Returns
    -------
    PairedTest
        ``n`` is m + n.

    Raises
    ------
    SchemaMismatch
        The samples differ in number.

    References
    ----------
    DeLong, DeLong and Clarke-Pearson, 1988, *Comparing the areas under two or more correlated receiver operating
    characteristic curves*.
    """
    draws = auc_draws([first, second], n_draws, random_state)
    difference = auc(*first) - auc(*second)
    of_first, of_second = _placements(*first), _placements(*second)
    variance = 0.0
    for a, b in zip(of_first, of_second, strict=True):
        if len(a) > 1:
            variance += float(np.var(a - b, ddof=1)) / len(a)
    certain = 1.0 if difference == 0 else 0.0
    p = math.erfc(abs(difference) / math.sqrt(2 * variance)) if variance > 0 else certain
    return PairedTest(interval_of(difference, draws[0] - draws[1]), p, len(first[0]) + len(first[1]))


def _placements(positive: Any, negative: Any) -> tuple[np.ndarray, np.ndarray]:
    """Of each positive the share of negatives that it beats (m,), of each negative the share of positives that beat it (n,)."""
    p, n = np.asarray(positive, dtype=np.float64), np.asarray(negative, dtype=np.float64)
    low, high = np.sort(p), np.sort(n)
    beats = (np.searchsorted(high, p, "left") + np.searchsorted(high, p, "right")) / (2 * len(n))
    beaten = 1 - (np.searchsorted(low, n, "left") + np.searchsorted(low, n, "right")) / (2 * len(p))
    return beats, beaten


def interval_of(value: float, draws: np.ndarray) -> Interval:
    """A value with the middle 95 % of its draws; the value lies inside."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, min(float(low), value), max(float(high), value))


def _one_value(value: float, n: int, bounds: tuple[float, float] | None) -> Interval:
    if bounds is None:
        return Interval(value, value, value)
    other = 1 - ((1 - LEVEL) / 2) ** (1 / n)  # largest probability of another value that n in a row still allow
    return Interval(value, value - other * (value - bounds[0]), value + other * (bounds[1] - value))


def _counts(draws: int, n: int, rng: np.random.Generator) -> np.ndarray:
    """float64 (draws, n): how often each of n is drawn in n draws."""
    drawn = rng.integers(0, n, (draws, n)) + (np.arange(draws) * n)[:, None]
    return np.bincount(drawn.ravel(), minlength=draws * n).reshape(draws, n).astype(np.float64)


def _count_blocks(draws: int, n: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    if draws < 1:
        raise DatumwiseError(f"n_draws is {draws}", remedy="it must be 1 or more")
    step = max(1, BLOCK // n)
    for start in range(0, draws, step):
        yield _counts(min(step, draws - start), n, rng)


def _values(values: Any, name: str) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64).ravel()
    bad = np.flatnonzero(np.isinf(x))
    if len(bad):
        raise NotFinite(f"{name} are infinite in row {name_some(bad)}", ids=bad.tolist())
    x = x[~np.isnan(x)]
    if not len(x):
        raise EmptyData(f"there are no {name}")
    return x
