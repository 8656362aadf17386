"""Intervals and paired tests against closed forms, enumeration and repeated sampling."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, EmptyData, NotFinite, SchemaMismatch
from datumwise.evaluate.paired import auc_draws, auc_interval, auc_test, mean_interval, paired_test
from datumwise.evaluate.privleak import auc
from datumwise.evaluate.privleak_interval import even_reference, privleak_interval
from datumwise.evaluate.removal import Interval
from datumwise.evaluate.six_way_report import Reference


def test_bootstrap_interval_of_a_mean_comes_near_to_the_normal_one():
    x = np.random.default_rng(0).normal(3, 2, 400)
    found = mean_interval(x)
    half = 1.96 * x.std() / 20
    assert found.value == pytest.approx(x.mean())
    assert found.low == pytest.approx(x.mean() - half, abs=0.1 * half)
    assert found.high == pytest.approx(x.mean() + half, abs=0.1 * half)
    assert mean_interval(x) == found
    assert mean_interval(x, random_state=1) != found


def test_items_that_are_all_alike_give_the_exact_interval_of_a_share_and_not_one_of_no_width():
    from scipy.stats import beta

    exact = beta.ppf(0.975, 1, 16)  # Clopper-Pearson of 0 in 16
    assert mean_interval(np.zeros(16), bounds=(0, 1)).high == pytest.approx(exact)
    full = mean_interval(np.ones(16), bounds=(0, 1))
    assert (full.value, full.high, full.low) == (1.0, 1.0, pytest.approx(1 - exact))
    half = mean_interval(np.full(16, 0.5), bounds=(0, 1))
    assert half.low == pytest.approx(0.5 - exact / 2)
    assert half.high == pytest.approx(0.5 + exact / 2)


def test_nan_items_do_not_count():
    assert mean_interval([1.0, np.nan, 3.0]).value == 2.0


def test_permutation_p_equals_enumeration_by_hand():
    rng = np.random.default_rng(1)
    a, b = rng.random(9), rng.random(9)
    d = a - b
    sums = [abs(sum(s * x for s, x in zip(signs, d, strict=True))) for signs in itertools.product((-1, 1), repeat=9)]
    expected = np.mean(np.array(sums) >= abs(d.sum()) - 1e-12)
    assert paired_test(a, b).p == pytest.approx(expected)
    assert paired_test(b, a).p == pytest.approx(expected)
    assert paired_test(a, b).difference.value == pytest.approx(d.mean())


def test_sampled_permutations_agree_with_all_of_them():
    rng = np.random.default_rng(2)
    a, b = rng.random(12), rng.random(12) - 0.1
    assert paired_test(a, b, n_flips=4_000).p == pytest.approx(paired_test(a, b, n_flips=5_000).p, abs=0.03)  # 2^12 = 4,096


def test_permutation_test_rejects_five_per_cent_of_the_time_where_nothing_differs():
    rng = np.random.default_rng(3)
    p = [paired_test(rng.normal(size=10), rng.normal(size=10), n_draws=10).p for _ in range(400)]
    assert 0.02 < np.mean(np.array(p) < 0.05) < 0.085


def test_equal_items_have_p_one_and_clear_differences_the_least_p_there_is():
    x = np.arange(8.0)
    assert paired_test(x, x).p == 1.0
    assert paired_test(x + 1, x).p == pytest.approx(2 / 2**8)
    many = paired_test(np.arange(40.0) + 1, np.arange(40.0), n_flips=999)
    assert many.p == pytest.approx(1 / 1000)


def test_auc_draws_equal_the_auc_of_resampled_items():
    rng = np.random.default_rng(4)
    p, n = rng.integers(0, 6, 7).astype(float), rng.integers(0, 6, 5).astype(float)
    draws = auc_draws([(p, n)], 3_000, 0)[0]
    by_hand = [auc(rng.choice(p, 7), rng.choice(n, 5)) for _ in range(3_000)]
    assert draws.mean() == pytest.approx(auc(p, n), abs=0.01)
    assert draws.std() == pytest.approx(np.std(by_hand), rel=0.06)
    assert np.quantile(draws, [0.1, 0.9]) == pytest.approx(np.quantile(by_hand, [0.1, 0.9]), abs=0.03)


def test_auc_draws_use_the_same_items_for_all_models():
    rng = np.random.default_rng(5)
    p, n = rng.normal(size=20), rng.normal(size=30)
    twice = auc_draws([(p, n), (np.exp(p), np.exp(n))], 200, 0)
    assert np.array_equal(twice[0], twice[1])
    with pytest.raises(SchemaMismatch, match="different numbers of items"):
        auc_draws([(p, n), (p, n[1:])])


def test_separated_samples_still_have_an_interval():
    found = auc_interval(np.arange(10.0), np.arange(20.0, 50.0))
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 10))


def test_delong_p_is_uniform_where_two_models_are_alike_and_small_where_not():
    rng = np.random.default_rng(6)

    def p_of(shift):
        base_p, base_n = rng.normal(0.5, 1, 60), rng.normal(0, 1, 60)
        one = (base_p + rng.normal(size=60), base_n + rng.normal(size=60))
        two = (base_p + shift + rng.normal(size=60), base_n + rng.normal(size=60))
        return auc_test(one, two, n_draws=2).p

    assert 0.02 < np.mean(np.array([p_of(0.0) for _ in range(400)]) < 0.05) < 0.09
    assert np.mean(np.array([p_of(1.0) for _ in range(40)]) < 0.05) > 0.8


def test_delong_variance_of_one_auc_against_a_flat_one_is_the_closed_form():
    # against a model whose scores are all equal (AUC 1/2, no variance) z is that of the one AUC
    p, n = np.array([3.0, 1.0, 2.5]), np.array([0.0, 2.0])
    beats, beaten = np.array([1.0, 0.5, 1.0]), np.array([1.0, 2 / 3])
    variance = beats.var(ddof=1) / 3 + beaten.var(ddof=1) / 2
    expected = math.erfc(abs(auc(p, n) - 0.5) / math.sqrt(2 * variance))
    assert auc_test((p, n), (np.zeros(3), np.zeros(2))).p == pytest.approx(expected)


def test_even_reference_is_the_spread_of_random_splits():
    rng = np.random.default_rng(7)
    values = []
    for _ in range(4_000):
        x = rng.permutation(rng.normal(size=50))
        values.append(auc(x[:20], x[20:]))
    found = even_reference(20, 30).interval
    assert np.quantile(values, 0.025) == pytest.approx(found.low, abs=0.015)
    assert np.quantile(values, 0.975) == pytest.approx(found.high, abs=0.015)


def test_privleak_of_the_retrained_model_against_itself_is_nought_without_doubt():
    rng = np.random.default_rng(8)
    forget, holdout = rng.normal(size=24), rng.normal(size=48)
    reference = Reference("retrained model", auc(forget, holdout), auc_interval(forget, holdout))
    value, ends = privleak_interval(forget, holdout, reference, (forget, holdout))
    assert value == 0.0
    assert (ends.low, ends.high) == (0.0, 0.0)


def test_privleak_interval_is_wider_the_less_is_known_of_the_reference():
    rng = np.random.default_rng(9)
    forget, holdout = rng.normal(-0.6, 1, 30), rng.normal(size=40)
    exact = Reference("given", 0.5, Interval(0.5, 0.5, 0.5))
    known = privleak_interval(forget, holdout, exact)[1]
    guessed = privleak_interval(forget, holdout, even_reference(30, 40))[1]
    assert guessed.high - guessed.low > 1.1 * (known.high - known.low)
    draws = 100 * (auc_draws([(forget, holdout)])[0] - 0.5) / 0.5
    assert (known.low, known.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))


def test_privleak_interval_covers_the_truth_as_often_as_it_says():
    rng, inside = np.random.default_rng(10), 0
    truth = 0.5 * math.erfc(0.8 / 2)  # P(F > H) of normals 0.8 apart
    reference = Reference("given", 0.5, Interval(0.5, 0.5, 0.5))
    for _ in range(200):
        ends = privleak_interval(rng.normal(-0.8, 1, 50), rng.normal(0, 1, 50), reference, n_draws=400)[1]
        inside += ends.low <= 100 * (truth - 0.5) / 0.5 <= ends.high
    assert 0.90 <= inside / 200 <= 0.985


def test_saturated_privleak_is_exactly_minus_100_with_a_one_sided_interval():
    value, ends = privleak_interval(np.arange(12.0), np.arange(20.0, 60.0), even_reference(12, 40))
    assert value == -100.0 == ends.low
    assert ends.high == pytest.approx(-100 + 100 * (1 - 0.025 ** (1 / 12)) / 0.5)


def test_a_reference_of_other_texts_is_drawn_on_its_own():
    rng = np.random.default_rng(11)
    forget, holdout = rng.normal(-1, 1, 30), rng.normal(size=40)
    part = forget.copy()
    part[:5] = np.nan
    reference = Reference("report", auc(part[5:], holdout), auc_interval(part[5:], holdout))
    ends = privleak_interval(forget, holdout, reference, (part, holdout))[1]
    assert ends.low < 0 < ends.high


def test_refusals():
    with pytest.raises(SchemaMismatch, match="cannot be paired"):
        paired_test([1.0], [1.0, 2.0])
    with pytest.raises(EmptyData, match="there are no differences"):
        paired_test([np.nan], [1.0])
    with pytest.raises(NotFinite, match="infinite in row 0"):
        mean_interval([np.inf])
    with pytest.raises(DatumwiseError, match="n_draws is 0"):
        mean_interval([1.0, 2.0], n_draws=0)
