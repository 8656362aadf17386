"""Ranks of order statistics: enumeration in fractions, closed forms, limits and simulated splits are the oracles."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest
from scipy.stats import beta, binom

from datumwise.errors import DatumwiseError, SchemaMismatch, UnknownName
from datumwise.predict import order_statistics
from datumwise.predict.order_statistics import (
    order_statistic_rank,
    rank_box_probability,
    rank_pmf,
    required_calibration_size,
)


def rank_vectors(n: int, m: int) -> np.ndarray:
    """R for every way in which m new scores may lie among n + m, from the definition of R."""
    vectors = []
    for places in combinations(range(n + m), m):
        calibration = [i for i in range(n + m) if i not in places]
        vectors.append([1 + sum(s < t for s in calibration) for t in places])
    return np.array(vectors)


def exact_pmf(n: int, m: int, z: int, k: int) -> Fraction:
    return Fraction(math.comb(k + z - 2, z - 1) * math.comb(n + m - k - z + 1, m - z), math.comb(n + m, m))


def exact_rank(n: int, m: int, z: int, alpha: Fraction, side: str) -> int:
    """From the definition, in fractions: the level is met exactly or not at all."""
    law = [exact_pmf(n, m, z, k) for k in range(1, n + 2)]
    if side == "upper":
        return next(k for k in range(1, n + 2) if sum(law[:k]) >= 1 - alpha)
    return next(k for k in range(n + 1, 0, -1) if sum(law[k - 1 :]) >= 1 - alpha) - 1


SMALL = [(n, m) for n in range(1, 7) for m in range(1, 5)]


@pytest.mark.parametrize(("n", "m"), SMALL)
def test_rank_vectors_are_all_nondecreasing_vectors_once_each(n, m):
    seen = sorted(map(tuple, rank_vectors(n, m)))
    assert seen == sorted(combinations_with_replacement(range(1, n + 2), m))


@pytest.mark.parametrize(("n", "m"), SMALL)
def test_law_of_a_rank_equals_enumeration(n, m):
    vectors = rank_vectors(n, m)
    for z in range(1, m + 1):
        counted = [Fraction(int((vectors[:, z - 1] == k).sum()), len(vectors)) for k in range(1, n + 2)]
        assert counted == [exact_pmf(n, m, z, k) for k in range(1, n + 2)]
        np.testing.assert_allclose(rank_pmf(n, m, z), [float(p) for p in counted], rtol=1e-14)


@pytest.mark.parametrize(("n", "m"), SMALL)
def test_box_probability_equals_enumeration(n, m):
    vectors = rank_vectors(n, m)
    rng = np.random.default_rng(n * 10 + m)
    for _ in range(20):
        ends = rng.integers(1, n + 2, (2, m))
        lower, upper = ends.min(axis=0), ends.max(axis=0)
        inside = ((vectors >= lower) & (vectors <= upper)).all(axis=1).mean()
        assert rank_box_probability(n, m, lower, upper) == pytest.approx(inside, abs=1e-14)


@pytest.mark.parametrize("side", ["upper", "lower"])
@pytest.mark.parametrize(("n", "m"), [*SMALL, (20, 7), (13, 13), (7, 20)])
def test_rank_meets_its_level_exactly(n, m, side):
    for z in range(1, m + 1):
        for alpha in (Fraction(1, 100), Fraction(1, 10), Fraction(1, 5), Fraction(1, 2), Fraction(9, 10)):
            assert order_statistic_rank(n, m, z, float(alpha), side) == exact_rank(n, m, z, alpha, side)


def test_one_new_score_is_split_conformal_prediction():
    for alpha in ("0.01", "0.05", "0.1", "0.2"):
        for n in range(1, 201):
            published = math.ceil((n + 1) * (1 - Fraction(alpha)))
            assert order_statistic_rank(n, 1, 1, float(alpha)) == published
            assert order_statistic_rank(n, 1, 1, float(alpha), "lower") == n + 1 - published


def test_level_that_is_met_exactly_counts_as_met():
    for n in (1, 2, 5, 50, 500):  # P(R_1 <= 1) = m / (n + m) = 1/2 at n = m
        assert order_statistic_rank(n, n, 1, 0.5) == 1


def test_largest_score_has_the_closed_form():
    for n, m in ((5, 3), (40, 10), (300, 25)):
        cdf = [math.comb(k + m - 1, m) / math.comb(n + m, m) for k in range(1, n + 2)]
        np.testing.assert_allclose(np.cumsum(rank_pmf(n, m, m)), cdf, rtol=1e-12)


def test_known_ranks():
    assert [order_statistic_rank(500, 100, 90, a) for a in (0.05, 0.1, 0.2, 0.3)] == [472, 467, 461, 456]
    assert [order_statistic_rank(2000, 100, z, 0.1) for z in (100, 97, 95)] == [1999, 1967, 1939]
    assert order_statistic_rank(100, 20, 18, 0.1) == 96
    assert order_statistic_rank(2000, 20, 18, 0.1) == 1889


def test_sizes_at_which_binomial_coefficients_overflow_have_their_rank():
    n, m, z = 2000, 500, 450  # published: NA
    k = order_statistic_rank(n, m, z, 0.1)
    total = math.comb(n + m, m)
    weights = [math.comb(j + z - 2, z - 1) * math.comb(n + m - j - z + 1, m - z) for j in range(1, k + 1)]
    assert 10 * sum(weights) >= 9 * total > 10 * sum(weights[:-1])


def test_law_is_exact_at_sizes_where_log_gamma_is_not():
    n, m, z = 200_000, 300, 250
    pmf = rank_pmf(n, m, z)
    for k in (150_000, 166_000, 170_000):
        assert pmf[k - 1] == pytest.approx(float(exact_pmf(n, m, z, k)), rel=1e-12)
    assert pmf.sum() == pytest.approx(1, abs=1e-13)


def test_many_calibration_scores_give_the_binomial_rule():
    n, m, z, alpha = 2_000_000, 20, 18, 0.1
    p = order_statistic_rank(n, m, z, alpha) / n  # z of m uniforms are below p with probability 0.9
    assert binom.sf(z - 1, m, p) == pytest.approx(1 - alpha, abs=1e-5)


def test_many_new_scores_give_the_tolerance_rule():
    n, m, alpha, p = 60, 1_000_000, 0.1, 0.9
    k = order_statistic_rank(n, m, int(p * m), alpha)
    # S_(k) covers a part p of the population, which is Beta(k, n + 1 - k), with probability 0.9
    assert beta.sf(p, k, n + 1 - k) >= 1 - alpha > beta.sf(p, k - 1, n + 2 - k)


def test_sides_mirror_each_other():
    for n, m, z, alpha in ((100, 20, 3, 0.1), (57, 13, 13, 0.05), (9, 4, 1, 0.3)):
        assert order_statistic_rank(n, m, z, alpha, "lower") == n + 1 - order_statistic_rank(n, m, m + 1 - z, alpha)


def test_smaller_alpha_is_never_a_smaller_rank():
    ranks = [order_statistic_rank(80, 15, 11, a) for a in np.linspace(0.99, 0.01, 99)]
    assert (np.diff(ranks) >= 0).all()
    assert ranks[0] < ranks[-1]


def test_frequency_in_random_splits_is_the_exact_probability():
    n, m, z, draws = 30, 8, 6, 20_000
    pooled = np.sort(np.random.default_rng(0).random((draws, n + m)).argsort(axis=1)[:, :m], axis=1)
    R = pooled[:, z - 1] - (z - 1) + 1  # calibration scores below T_(z), plus one
    for k in (20, 25, order_statistic_rank(n, m, z, 0.1)):
        exact = rank_pmf(n, m, z)[:k].sum()
        assert abs((k >= R).mean() - exact) < 4 * math.sqrt(exact * (1 - exact) / draws)


def test_quartiles_of_forty_among_two_hundred():
    lower, upper = np.ones(40, int), np.full(40, 201)
    lower[9:], upper[:30] = 29, 172
    assert rank_box_probability(200, 40, lower, upper) == pytest.approx(0.905769, abs=5e-7)


@pytest.mark.parametrize(("n", "m"), [(200, 40), (31, 77), (500, 60)])
def test_random_walk_gives_what_counting_paths_gives(n, m):
    rng = np.random.default_rng(m)
    a = np.sort(rng.integers(1, n // 2, m))
    b = np.sort(rng.integers(n // 2, n + 2, m))
    a[: m // 2], b[m // 2 :] = 1, n + 1
    counted = order_statistics._count_paths(n, m, a, b) / math.comb(n + m, m)
    assert order_statistics._walk(n, m, a, b) == pytest.approx(counted, rel=1e-11)


@pytest.mark.parametrize(
    ("n", "m", "z"),
    [(2000, 1000, 300), (2000, 1000, 1), (2000, 1000, 1000), (3000, 3000, 1500), (40, 5000, 4000), (20_000, 300, 280)],
)
def test_box_that_binds_one_rank_is_that_rank_where_counts_overflow(n, m, z):
    k = order_statistic_rank(n, m, z, 0.1)
    upper = np.full(m, n + 1)
    upper[:z] = k
    one = rank_pmf(n, m, z)[:k].sum()
    assert rank_box_probability(n, m, np.ones(m, int), upper) == pytest.approx(one, abs=1e-11)
    assert rank_box_probability(n, m, (n + 2 - upper)[::-1], np.full(m, n + 1)) == pytest.approx(one, abs=1e-11)


def test_box_without_bounds_is_certain_and_an_empty_box_is_not():
    assert rank_box_probability(2500, 2500, np.ones(2500, int), np.full(2500, 2501)) == pytest.approx(1, abs=1e-12)
    assert rank_box_probability(5, 2, [4, 1], [6, 3]) == 0.0  # the second rank is not below the first


@pytest.mark.parametrize("side", ["upper", "lower"])
def test_required_size_is_the_least_that_names_a_score(side):
    unbounded = (lambda n, k: k == n + 1) if side == "upper" else (lambda n, k: k == 0)
    for m in (1, 2, 7, 30):
        for z in {1, (m + 1) // 2, m}:
            for alpha in (0.05, 0.1, 0.3):
                n = required_calibration_size(m, alpha, z=z, side=side)
                assert not unbounded(n, order_statistic_rank(n, m, z, alpha, side))
                assert n == 1 or unbounded(n - 1, order_statistic_rank(n - 1, m, z, alpha, side))


def test_required_size_of_the_largest_score_is_the_closed_form():
    for m in (1, 10, 33, 1000):
        for alpha in ("0.05", "0.1", "0.2"):
            closed = math.ceil(m * (1 - Fraction(alpha)) / Fraction(alpha))
            assert required_calibration_size(m, float(alpha)) == closed


def test_eta_counts_scores_above_the_bound():
    assert required_calibration_size(100, 0.1, eta=5) == required_calibration_size(100, 0.1, z=95)


@pytest.mark.parametrize("alpha", [0, 1, -0.1, 1.5, math.nan, math.inf])
def test_alpha_out_of_range_is_refused(alpha):
    with pytest.raises(DatumwiseError, match=r"no probability of an error: 0 < alpha < 1"):
        order_statistic_rank(10, 5, 3, alpha)


def test_alpha_that_is_no_number_is_refused():
    with pytest.raises(SchemaMismatch, match=r"alpha = 'small' is no number"):
        order_statistic_rank(10, 5, 3, "small")


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ((0, 5, 3), r"n, the number of calibration scores, must be >= 1, not 0"),
        ((10, 0, 1), r"m, the number of new scores, must be >= 1, not 0"),
        ((10, 5, 0), r"z must be in 1\.\.5, not 0"),
        ((10, 5, 6), r"z must be in 1\.\.5, not 6"),
        ((10, 2.5, 1), r"m, the number of new scores, must be a whole number, not 2\.5"),
    ],
)
def test_sizes_out_of_range_are_refused(sizes, sentence):
    with pytest.raises(DatumwiseError, match=sentence):
        order_statistic_rank(*sizes, 0.1)
    with pytest.raises(DatumwiseError, match=sentence):
        rank_pmf(*sizes)


def test_unknown_side_is_refused():
    with pytest.raises(UnknownName, match=r"no side 'both' of a rank: choose upper or lower"):
        order_statistic_rank(10, 5, 3, 0.1, "both")
    with pytest.raises(UnknownName, match=r"no side 'up'"):
        required_calibration_size(5, 0.1, side="up")


def test_boxes_that_are_no_ranks_are_refused():
    with pytest.raises(SchemaMismatch, match=r"upper must hold 3 whole numbers, one a new score"):
        rank_box_probability(5, 3, [1, 1, 1], [6, 6])
    with pytest.raises(SchemaMismatch, match=r"lower must hold 3 whole numbers"):
        rank_box_probability(5, 3, [1.0, 1.0, 1.0], [6, 6, 6])
    with pytest.raises(DatumwiseError, match=r"upper holds ranks from 6 to 7: ranks are 1\.\.6"):
        rank_box_probability(5, 3, [1, 1, 1], [6, 6, 7])


def test_eta_and_z_out_of_range_are_refused():
    with pytest.raises(DatumwiseError, match=r"z and eta say the same thing"):
        required_calibration_size(10, 0.1, z=9, eta=1)
    with pytest.raises(DatumwiseError, match=r"eta = 10 of 10 new scores leaves none to bound: eta in 0\.\.9"):
        required_calibration_size(10, 0.1, eta=10)
    with pytest.raises(DatumwiseError, match=r"eta, the number of scores above the bound, must be >= 0"):
        required_calibration_size(10, 0.1, eta=-1)
