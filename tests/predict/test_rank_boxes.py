"""Bands and boxes of several order statistics: enumeration and simulated splits are the oracles."""

from __future__ import annotations

import math
from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch
from datumwise.predict.batch_bounds import batch_quantile_bound
from datumwise.predict.order_statistics import order_statistic_rank, rank_box_probability
from datumwise.predict.rank_boxes import band_ranks, cdf_band, quartile_box


def test_quartile_box_probability_is_that_of_the_event():
    for n, m, z1, z2 in ((7, 4, 1, 3), (6, 4, 2, 4), (9, 3, 1, 3)):
        L, U, probability = quartile_box(n, m, z1, z2, 0.3)
        ranks = np.array(list(combinations_with_replacement(range(1, n + 2), m)))
        assert probability == pytest.approx(((ranks[:, z1 - 1] >= L) & (ranks[:, z2 - 1] <= U)).mean(), abs=1e-13)
        assert probability >= 0.7


@pytest.mark.parametrize(("n", "m", "z1", "z2"), [(200, 40, 10, 30), (100, 40, 10, 30), (50, 9, 3, 7), (2000, 100, 25, 75)])
def test_quartile_box_is_no_wider_than_the_symmetric_one_and_cannot_shrink(n, m, z1, z2):
    L, U, _ = quartile_box(n, m, z1, z2, 0.1)

    def probability(low, high):
        lower, upper = np.ones(m, int), np.full(m, n + 1)
        lower[z1 - 1 :], upper[:z2] = low, high
        return rank_box_probability(n, m, lower, upper)

    assert probability(L, U) >= 0.9 > max(probability(L + 1, U), probability(L, U - 1))
    t = 0  # published: both ends move at once
    while probability(max(round(0.25 * n) - t, 1), min(round(0.75 * n) + 1 + t, n + 1)) < 0.9:
        t += 1
    if z1 / m == 0.25:
        assert round(0.75 * n) + 1 - round(0.25 * n) + 2 * t >= U - L


def test_quartile_box_of_few_scores_takes_the_limits():
    L, U, probability = quartile_box(2, 4, 1, 4, 0.05)
    assert (L, U) == (1, 3)
    assert probability == pytest.approx(1.0)


def test_box_of_the_band_has_the_probability_asked_for_and_little_more():
    for n, m, alpha in ((150, 25, 0.1), (60, 10, 0.2), (400, 40, 0.05)):
        a, b = band_ranks(n, m, alpha)
        probability = rank_box_probability(n, m, a, b)
        assert 1 - alpha <= probability < 1 - alpha + 0.03
        np.testing.assert_array_equal(a, n + 2 - b[::-1])


def test_known_band_of_25_among_150():
    assert rank_box_probability(150, 25, *band_ranks(150, 25, 0.1)) == pytest.approx(0.901, abs=0.0015)


def test_band_is_inside_that_of_bonferroni():
    n, m, alpha = 150, 25, 0.1
    a, b = band_ranks(n, m, alpha)
    for z in range(1, m + 1):
        assert b[z - 1] <= order_statistic_rank(n, m, z, alpha / m / 2)
        assert a[z - 1] >= order_statistic_rank(n, m, z, alpha / m / 2, "lower") + 1
    assert (b < [order_statistic_rank(n, m, z, alpha / m / 2) for z in range(1, m + 1)]).any()


@pytest.mark.parametrize("side", ["upper", "lower"])
def test_one_sided_band_leaves_the_other_side_free(side):
    a, b = band_ranks(90, 8, 0.1, side)
    assert (a == 1).all() if side == "upper" else (b == 91).all()
    assert rank_box_probability(90, 8, a, b) >= 0.9
    both = band_ranks(90, 8, 0.1)
    assert (b <= both[1]).all() if side == "upper" else (a >= both[0]).all()


def test_finite_band_names_a_score_for_every_rank():
    n, m = 90, 10  # n / (n + m) = 0.9: only just
    a, b = band_ranks(n, m, 0.1, "upper", finite=True)
    assert b.max() <= n
    assert rank_box_probability(n, m, a, b) >= 0.9 - 1e-12


def test_band_covers_exactly_as_often_as_its_box_in_every_split():
    pooled = np.array([-1e9, -3.0, -2.5, -0.1, 0.0, 0.3, 1.1, 2.0, 2.2, 7.0, 1e12])
    m = 4
    n = len(pooled) - m
    covered = []
    for chosen in combinations(range(n + m), m):
        batch = pooled[list(chosen)]
        band = cdf_band(np.delete(pooled, chosen), m, 0.2)
        covered.append(((band[:, 0] <= batch) & (batch <= band[:, 1])).all())
    assert np.mean(covered) == pytest.approx(rank_box_probability(n, m, *band_ranks(n, m, 0.2)), abs=1e-12)
    assert np.mean(covered) >= 0.8


def test_band_of_tied_scores_covers():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(1000):
        pooled = rng.integers(0, 4, 50)
        band, batch = cdf_band(pooled[:40], 10, 0.2), np.sort(pooled[40:])
        hits += bool(((band[:, 0] <= batch) & (batch <= band[:, 1])).all())
    assert hits / 1000 >= 0.8 - 3 * math.sqrt(0.16 / 1000)


def test_band_rises_and_is_closed_by_the_limits():
    band = cdf_band(np.random.default_rng(0).random(20), 15, 0.1, score_bounds=(0, 1))
    assert (np.diff(band, axis=0) >= 0).all()
    assert np.isfinite(band).all()
    assert band[-1, 1] == 1.0
    assert np.isinf(cdf_band(np.random.default_rng(0).random(20), 15, 0.1)[-1, 1])


def test_band_commutes_with_increasing_maps_and_ignores_order():
    scores = np.random.default_rng(1).normal(size=60)
    band = cdf_band(scores, 7, 0.1)
    np.testing.assert_array_equal(cdf_band(scores[::-1], 7, 0.1), band)
    np.testing.assert_allclose(cdf_band(np.exp(scores), 7, 0.1, score_bounds=(0, np.inf)), np.exp(band))


def test_bad_scores_and_places_are_refused():
    with pytest.raises(NotFinite, match=r"1 of 2 scores are NaN \(rows 1\)"):
        cdf_band([1.0, math.nan], 2, 0.1)
    with pytest.raises(SchemaMismatch, match=r"scores must be one number a row"):
        cdf_band([[1.0, 2.0]], 2, 0.1)
    with pytest.raises(DatumwiseError, match=r"z2 must be in 3\.\.4, not 2"):
        quartile_box(10, 4, 2, 2, 0.1)
    with pytest.raises(DatumwiseError, match=r"alpha = 2 is no probability"):
        quartile_box(10, 4, 1, 2, 2)


@pytest.mark.parametrize("side", ["both", "upper", "lower"])
def test_band_of_one_new_score_is_its_interval(side):
    scores = np.random.default_rng(2).normal(size=100)
    found = batch_quantile_bound(scores, 1, 1, 0.1, side=side)
    assert cdf_band(scores, 1, 0.1, side=side).tolist() == [[found.lower, found.upper]]
