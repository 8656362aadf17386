"""Laws of rank sums: enumeration, whole-number polynomials, and two routes to the same law are the oracles."""

from __future__ import annotations

import math
from itertools import combinations_with_replacement

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, EmptyData, NotFinite, SchemaMismatch
from datumwise.predict import rank_sum
from datumwise.predict.rank_sum import (
    draw_ranks,
    rank_sum_pmf,
    rank_sum_quantile,
    sampled_rank_quantile,
    shaped_ranks,
)


def vectors(n: int, m: int) -> np.ndarray:
    return np.array(list(combinations_with_replacement(range(1, n + 2), m)))


def enumerated_law(n: int, m: int, h0: np.ndarray) -> np.ndarray:
    sums = h0[vectors(n, m) - 1].sum(axis=1)
    return np.bincount(sums, minlength=m * h0[-1] + 1) / len(sums)


def gaussian_binomial(n: int, m: int) -> list[int]:
    """Coefficients of [n + m choose m]_x in whole numbers of any size."""
    a = [1] + [0] * (n * m)
    for i in range(1, m + 1):
        for j in range(n * m, n + i - 1, -1):
            a[j] -= a[j - n - i]
        for j in range(i, n * m + 1):
            a[j] += a[j - i]
    return a


@pytest.mark.parametrize(("n", "m"), [(n, m) for n in range(7) for m in range(1, 5)])
def test_law_equals_enumeration(n, m):
    np.testing.assert_allclose(rank_sum_pmf(n, m), enumerated_law(n, m, np.arange(n + 1)), atol=1e-15)
    rng = np.random.default_rng(n * 10 + m)
    for top in (0, 1, 3, 40):
        h0 = np.sort(rng.integers(0, top + 1, n + 1))
        np.testing.assert_allclose(rank_sum_pmf(n, m, h0), enumerated_law(n, m, h0), atol=1e-15)


@pytest.mark.parametrize(("n", "m"), [(30, 12), (12, 30), (60, 20), (50, 50), (250, 18)])
def test_law_equals_whole_number_coefficients(n, m):
    exact = gaussian_binomial(n, m)
    total = math.comb(n + m, m)
    assert sum(exact) == total
    np.testing.assert_allclose(rank_sum_pmf(n, m), [c / total for c in exact], atol=1e-15)


def test_the_sines_stand_in_for_the_product_where_they_are_used():
    assert rank_sum._waves(250, 18, 4501) is None  # C(268, 18) < e^100: multiplied out
    assert rank_sum._waves(300, 40, 12_001) is not None
    n, m = 300, 40
    exact = gaussian_binomial(n, m)
    total = math.comb(n + m, m)
    assert abs(rank_sum_pmf(n, m) - np.array([c / total for c in exact])).max() < 1e-15


@pytest.mark.parametrize(("n", "m"), [(40, 10), (200, 40), (2000, 100), (100, 2000), (10_000, 50)])
def test_moments_symmetry_and_sum(n, m):
    pmf = rank_sum_pmf(n, m)
    u = np.arange(len(pmf))
    assert pmf.sum() == pytest.approx(1, abs=1e-12)
    assert pmf @ u == pytest.approx(n * m / 2, rel=1e-9)
    assert pmf @ (u - n * m / 2) ** 2 == pytest.approx(n * m * (n + m + 1) / 12, rel=1e-9)
    np.testing.assert_allclose(pmf, pmf[::-1], atol=1e-9 * pmf.max())
    assert (pmf >= 0).all()


@pytest.mark.parametrize("coefficient", [rank_sum._newton, rank_sum._cauchy])
@pytest.mark.parametrize(("n", "m"), [(40, 10), (20, 45), (100, 60), (0, 5), (1, 3), (300, 1)])
def test_any_route_to_the_general_law_gives_that_of_the_ranks(n, m, coefficient, monkeypatch):
    monkeypatch.setattr(rank_sum, "_newton", coefficient)
    monkeypatch.setattr(rank_sum, "_cauchy", coefficient)
    general = rank_sum._transformed.__wrapped__(n, m, np.arange(n + 1).tobytes())
    np.testing.assert_allclose(general, rank_sum_pmf(n, m), atol=1e-12 * rank_sum_pmf(n, m).max())


def test_large_batch_takes_the_circle_and_agrees_with_newton(monkeypatch):
    n, m = 300, 80
    h0 = np.round(200 * np.linspace(0, 1, n + 1) ** 3).astype(int)
    assert rank_sum._radius_pays(n, m)
    by_circle = rank_sum_pmf(n, m, h0)
    monkeypatch.setattr(rank_sum, "_radius_pays", lambda n, m: False)
    by_newton = rank_sum._transformed.__wrapped__(n, m, h0.tobytes())
    assert abs(by_circle - by_newton).max() < 1e-15


def test_known_quantiles_which_sorted_independent_ranks_miss():
    exact = [rank_sum_quantile(40, 10, a) + 10 for a in (0.05, 0.1, 0.2)]
    assert exact == [278, 263, 245]
    # published: ranks drawn one by one and sorted, whose law is another: 272, 258 and 242
    ranks = np.random.default_rng(0).integers(1, 42, (200_000, 10)).sum(axis=1)
    wrong = np.quantile(ranks, (0.95, 0.9, 0.8))
    assert all(q > w + 2 for q, w in zip(exact, wrong, strict=True))
    pmf = rank_sum_pmf(40, 10)
    assert pmf[: 258 - 10 + 1].sum() == pytest.approx(0.878, abs=0.0006)  # what the published 90 % level really is


@pytest.mark.parametrize(("n", "m"), [(6, 4), (40, 10), (300, 40), (40, 300), (1000, 17), (5000, 30)])
def test_quantile_is_the_least_that_reaches_its_level(n, m):
    cdf = np.cumsum(rank_sum_pmf(n, m))
    for alpha in (0.01, 0.05, 0.1, 0.5, 0.9):
        q = rank_sum_quantile(n, m, alpha)
        assert cdf[q] >= 1 - alpha - 2e-12
        assert q == 0 or cdf[q - 1] < 1 - alpha + 2e-12


def test_quantile_of_huge_sizes_is_near_the_normal_one_and_needs_no_law():
    n, m, alpha = 1_000_000, 2_000, 0.1
    sd = math.sqrt(n * m * (n + m + 1) / 12)
    assert rank_sum_quantile(n, m, alpha) == pytest.approx(n * m / 2 + 1.2815515655 * sd, rel=1e-5)
    with pytest.raises(DatumwiseError, match=r"2,000,000,001 values, more than the 50,000,000 that are held"):
        rank_sum_pmf(n, m)
    with pytest.raises(DatumwiseError, match=r"the law of the rank function has 4,000,000,001 values"):
        rank_sum_quantile(n, m, alpha, 2 * np.arange(n + 1))


@pytest.mark.parametrize(("n", "m"), [(5, 1), (6, 3), (9, 2), (1, 1)])
def test_finite_quantile_equals_enumeration_without_the_last_rank(n, m):
    alpha = 0.6
    rng = np.random.default_rng(n)
    for h0 in (np.arange(n), np.sort(rng.integers(0, 9, n))):
        ranks = vectors(n, m)
        inside = ranks[ranks[:, -1] <= n]
        sums = h0[inside - 1].sum(axis=1)
        least = next(q for q in range(1000) if (sums <= q).sum() / len(ranks) >= 1 - alpha)
        assert rank_sum_quantile(n, m, alpha, h0, finite=True) == least


def test_finite_quantile_that_no_sum_reaches_is_refused():
    # n / (n + m) = 0.9: all vectors without rank n + 1, but for a last 1e-12 of them
    assert 880 <= rank_sum_quantile(90, 10, 0.1, finite=True) <= 89 * 10
    with pytest.raises(DatumwiseError, match=r"need n >= 90 calibration scores for a finite bound; got n = 89"):
        rank_sum_quantile(89, 10, 0.1, finite=True)


def test_drawn_rank_vectors_are_uniform():
    n, m, size = 4, 3, 70_000
    drawn, counts = np.unique(draw_ranks(n, m, size, random_state=0), axis=0, return_counts=True)
    np.testing.assert_array_equal(drawn, vectors(n, m))
    expected = size / len(drawn)
    assert ((counts - expected) ** 2 / expected).sum() < 60  # chi squared with 34 degrees of freedom: p = 0.004


def test_drawn_rank_vectors_repeat_with_their_seed():
    np.testing.assert_array_equal(draw_ranks(50, 7, 30, random_state=3), draw_ranks(50, 7, 30, random_state=3))


def test_sampled_quantile_covers_at_its_level():
    n, m, alpha, draws = 12, 4, 0.2, 19
    cdf = np.cumsum(rank_sum_pmf(n, m))
    reached = [
        cdf[int(sampled_rank_quantile(n, m, alpha, lambda r: (r - 1).sum(axis=1), draws=draws, random_state=s))]
        for s in range(2000)
    ]
    # P(h(R) <= the 16th smallest of 19 draws) >= 16 / 20, with little more by ties
    assert 0.8 - 0.005 < np.mean(reached) < 0.86


def test_sampled_quantile_refuses_what_it_cannot_use():
    with pytest.raises(DatumwiseError, match=r"8 draws have no quantile of level 0\.9: draws >= 10"):
        sampled_rank_quantile(12, 4, 0.1, lambda r: r.sum(axis=1), draws=8)
    with pytest.raises(SchemaMismatch, match=r"rank_order must give one number a row of ranks \(99, 4\), not an array \(\)"):
        sampled_rank_quantile(12, 4, 0.1, lambda r: r.sum(), draws=99)


def test_nine_draws_have_the_quantile_of_level_nine_tenths():
    assert sampled_rank_quantile(12, 4, 0.1, lambda r: r.sum(axis=1), draws=9, random_state=0) > 0


def test_shaped_ranks_follow_the_reference_quantiles():
    reference, n, B = np.random.default_rng(0).gamma(1.0, size=500), 30, 1000
    q = np.quantile(reference, np.arange(1, n + 1) / (n + 1))
    finite = shaped_ranks(reference, n, limit=50.0, bins=B)
    assert finite.tolist() == np.round(B * (np.append(q, 50.0) - q[0]) / (50.0 - q[0])).astype(int).tolist()
    unbounded = shaped_ranks(reference, n, bins=B)
    assert unbounded.tolist() == np.round(B * (q - q[0]) / (q[-1] - q[0])).astype(int).tolist()


def test_shaped_ranks_of_uniform_scores_are_the_ranks():
    n = 20
    h0 = shaped_ranks(np.linspace(0, 1, n + 2), n, limit=1.0, bins=n)
    assert h0.tolist() == list(range(n + 1))
    assert rank_sum_quantile(n, 5, 0.1, h0) == rank_sum_quantile(n, 5, 0.1)


@pytest.mark.parametrize(
    ("reference", "limit", "error", "sentence"),
    [
        ([], 1.0, EmptyData, r"reference_scores is empty"),
        ([0.1, math.nan, math.inf], 1.0, NotFinite, r"2 reference_scores are not finite \(rows 1, 2\)"),
        ([[0.1, 0.2]], 1.0, SchemaMismatch, r"one score a row, not an array \(1, 2\)"),
        ([0.1, 2.0], 1.0, DatumwiseError, r"reach 2, above the score's limit 1"),
        ([0.5, 0.5], math.inf, DatumwiseError, r"show no shape.*use method='rank_sum'"),
    ],
)
def test_reference_scores_without_a_shape_are_refused(reference, limit, error, sentence):
    with pytest.raises(error, match=sentence):
        shaped_ranks(reference, 5, limit)


@pytest.mark.parametrize(
    ("h0", "error", "sentence"),
    [
        ([0, 2, 1], DatumwiseError, r"h0 decreases after rank 2: h0 must be nondecreasing"),
        ([-1, 0, 1], DatumwiseError, r"h0 starts at -1"),
        ([0, 1], SchemaMismatch, r"one value a rank, \(3,\), not \(2,\)"),
        ([0.0, 1.0, 2.0], SchemaMismatch, r"h0 must hold whole numbers, not float64"),
    ],
)
def test_rank_functions_that_are_none_are_refused(h0, error, sentence):
    with pytest.raises(error, match=sentence):
        rank_sum_pmf(2, 2, h0)
    with pytest.raises(error, match=sentence):
        rank_sum_quantile(2, 2, 0.1, h0)


def test_a_law_that_is_changed_by_its_user_stays_right():
    for h0 in (None, [0, 0, 3, 4]):
        before = rank_sum_pmf(3, 2, h0)
        before[:] = 7
        assert rank_sum_pmf(3, 2, h0).sum() == pytest.approx(1)
