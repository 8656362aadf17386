"""Bounds of any rising function of a batch: enumeration, other routes to the same bound and all splits are the oracles."""

from __future__ import annotations

import math
from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, SchemaMismatch, UnknownName
from datumwise.predict import batch_function
from datumwise.predict.batch_bounds import batch_function_bound, batch_quantile_bound, batch_sum_bound
from datumwise.predict.rank_boxes import band_ranks, cdf_band

POOLED = np.array([0.1, 0.2, 0.5, 0.7, 1.1, 2.0, 3.4, 6.0, 25.0])
BOX = (0.0, 30.0)


def rms(scores, axis=-1):
    return np.sqrt(np.mean(np.square(scores), axis=axis))


def one_by_one(scores):
    return float(np.sort(scores)[-2:].sum())  # mean of the worst: takes no axis


@pytest.mark.parametrize("statistic", [np.mean, np.max, np.median, rms, one_by_one])
@pytest.mark.parametrize("method", ["enumerate", "band"])
def test_statistic_is_covered_in_all_splits_together(statistic, method):
    m, alpha = 4, 0.3
    for side, bounds in (("both", BOX), ("upper", BOX), ("lower", (0.0, math.inf))):
        hits = []
        for chosen in combinations(range(len(POOLED)), m):
            batch = POOLED[list(chosen)]
            scores = np.delete(POOLED, chosen)
            found = batch_function_bound(scores, m, alpha, statistic, side=side, method=method, score_bounds=bounds)
            hits.append(found.lower - 1e-9 <= statistic(batch) <= found.upper + 1e-9)
        assert np.mean(hits) >= 1 - alpha


def test_enumeration_of_the_mean_is_the_sum_bound():
    rng = np.random.default_rng(0)
    for bounds in (BOX, (-math.inf, math.inf)):
        for side in ("both", "upper", "lower"):
            scores = rng.gamma(1, size=12)
            one = batch_function_bound(scores, 2, 0.3, np.mean, side=side, method="enumerate", score_bounds=bounds)
            other = batch_sum_bound(scores, 2, 0.3, side=side, method="rank_sum", score_bounds=bounds)
            low = max(other.lower, one.lower) if side == "upper" else other.lower
            assert one.upper == pytest.approx(other.upper) or side == "lower"
            assert one.lower == pytest.approx(low) or side == "upper"


@pytest.mark.parametrize("side", ["upper", "lower"])
def test_fold_enumeration_and_sum_agree(side):
    scores = np.random.default_rng(1).gamma(1, size=14)
    given = {"side": side, "score_bounds": BOX}
    by_fold = batch_function_bound(scores, 3, 0.2, np.sum, fold=np.add, method="fold", **given)
    by_all = batch_function_bound(scores, 3, 0.2, np.sum, method="enumerate", **given)
    by_sum = batch_sum_bound(scores, 3, 0.2, statistic="sum", method="rank_sum", **given)
    chosen = "upper" if side == "upper" else "lower"
    values = [getattr(found, chosen) for found in (by_fold, by_all, by_sum)]
    assert values == pytest.approx([values[0]] * 3)
    assert by_fold.exact


@pytest.mark.parametrize("fold", [np.maximum, np.minimum, np.hypot, np.logaddexp])
def test_fold_equals_enumeration_with_any_rank_function(fold):
    rng = np.random.default_rng(2)
    n, m = 9, 3
    scores = rng.gamma(1, size=n)
    for h0 in (None, np.sort(rng.integers(0, 30, n + 1))):
        for side in ("upper", "lower"):
            given = {"fold": fold, "side": side, "rank_order": h0, "score_bounds": BOX}
            one = batch_function_bound(scores, m, 0.2, None, method="fold", **given)
            other = batch_function_bound(scores, m, 0.2, None, method="enumerate", **given)
            assert (one.lower, one.upper) == pytest.approx((other.lower, other.upper))


@pytest.mark.parametrize("draws", [None, 99])
def test_fold_without_limits_equals_enumeration(draws):
    n, m = 12, 2  # n / (n + m) >= 0.8
    scores = np.random.default_rng(20).normal(size=n)
    h0 = np.array([0, 1, 1, 3, 5, 8, 9, 12, 13, 13, 14, 20, 40])
    for side in ("upper", "lower"):
        given = {"fold": np.logaddexp, "side": side, "rank_order": h0, "draws": draws, "random_state": 0}
        one = batch_function_bound(scores, m, 0.2, None, method="fold", **given)
        other = batch_function_bound(scores, m, 0.2, None, method="enumerate", **given)
        assert (one.lower, one.upper) == pytest.approx((other.lower, other.upper))
        assert one.rank_budget == other.rank_budget
        assert math.isfinite(getattr(one, side))


def test_rank_order_as_a_function_is_that_of_its_values():
    scores = np.random.default_rng(3).gamma(1, size=9)
    h0 = np.array([0, 1, 1, 3, 5, 8, 9, 12, 20, 40])
    for side in ("upper", "lower"):
        given = {"side": side, "score_bounds": BOX}
        one = batch_function_bound(scores, 3, 0.2, np.sum, rank_order=h0, method="enumerate", **given)
        other = batch_function_bound(scores, 3, 0.2, np.sum, rank_order=lambda r: h0[r - 1].sum(axis=1), **given)
        assert (one.lower, one.upper) == (other.lower, other.upper)


def test_rank_order_of_the_maximum_alone_bounds_the_maximum_best():
    n, m, alpha = 12, 3, 0.2
    scores = np.random.default_rng(4).gamma(1, size=n)
    given = {"side": "upper", "score_bounds": (0, 1000.0)}
    by_last = batch_function_bound(scores, m, alpha, np.max, rank_order=lambda r: r[:, -1], **given)
    assert by_last.upper == batch_quantile_bound(scores, m, m, alpha, **given).upper
    assert batch_function_bound(scores, m, alpha, np.max, method="enumerate", **given).upper >= by_last.upper


def test_drawn_quantile_is_valid_and_near_the_exact_one():
    scores = np.random.default_rng(5).gamma(1, size=14)
    given = {"side": "upper", "method": "enumerate", "score_bounds": BOX}
    exact = batch_function_bound(scores, 4, 0.2, np.mean, **given)
    drawn = [batch_function_bound(scores, 4, 0.2, np.mean, draws=999, random_state=s, **given) for s in range(10)]
    assert abs(np.mean([d.rank_budget[1] for d in drawn]) - exact.rank_budget[1]) < 1
    assert not drawn[0].exact
    again = batch_function_bound(scores, 4, 0.2, np.mean, draws=999, random_state=3, **given)
    assert again == drawn[3]
    by_fold = batch_function_bound(scores, 4, 0.2, None, fold=np.add, method="fold", draws=999, random_state=3,
                                   side="upper", score_bounds=BOX)  # fmt: skip
    assert by_fold.upper == pytest.approx(4 * again.upper)


def test_drawn_quantile_covers_in_all_splits_together():
    m, hits = 4, []
    for s, chosen in enumerate(combinations(range(len(POOLED)), m)):
        scores = np.delete(POOLED, chosen)
        found = batch_function_bound(
            scores, m, 0.3, None, fold=np.logaddexp, method="fold", draws=19, random_state=s, side="upper", score_bounds=BOX
        )
        hits.append(np.logaddexp.reduce(POOLED[list(chosen)]) <= found.upper + 1e-9)
    assert np.mean(hits) >= 0.7


def test_band_bounds_any_function_by_its_value_at_the_band():
    scores = np.random.default_rng(6).gamma(1, size=60)
    found = batch_function_bound(scores, 20, 0.1, rms, side="upper", method="band", score_bounds=BOX)
    assert found.upper == pytest.approx(rms(cdf_band(scores, 20, 0.1, side="upper", score_bounds=BOX)[:, 1]))
    low = batch_function_bound(scores, 20, 0.1, rms, side="lower", method="band", score_bounds=BOX)
    assert low.lower == pytest.approx(rms(cdf_band(scores, 20, 0.1, side="lower", score_bounds=BOX)[:, 0]))
    both = batch_function_bound(scores, 20, 0.2, rms, method="band", score_bounds=BOX)
    assert (both.lower, both.upper) == (low.lower, found.upper)


def test_band_of_unbounded_scores_is_finite_where_a_mean_can_be():
    scores = np.random.default_rng(7).standard_cauchy(99)
    found = batch_function_bound(scores, 11, 0.1, np.mean, side="upper", method="band")
    assert math.isfinite(found.upper)
    assert band_ranks(99, 11, 0.1, "upper")[1].max() == 100  # the band itself need not be
    with pytest.raises(DatumwiseError, match=r"upper bound of the statistic of 12 scores is infinite: need n >= 108"):
        batch_function_bound(scores, 12, 0.1, np.mean, side="upper", method="band")


def test_median_of_unbounded_scores_needs_no_finite_largest_score():
    scores = np.random.default_rng(8).standard_cauchy(8)
    for method in ("band", "enumerate"):  # n / (n + m) = 8 / 13 < 0.7
        found = batch_function_bound(scores, 5, 0.3, np.median, side="upper", method=method)
        assert math.isfinite(found.upper)
        with pytest.raises(DatumwiseError, match=r"need n >= 12"):
            batch_function_bound(scores, 5, 0.3, np.mean, side="upper", method=method)


def test_falling_statistic_is_bounded_as_the_rising_one_upside_down():
    scores = np.random.default_rng(9).gamma(1, size=12)

    def worst(t, axis=-1):
        return -np.mean(np.square(t), axis=axis)

    def best(t, axis=-1):
        return np.mean(np.square(t), axis=axis)

    for method in ("enumerate", "band", "partition"):
        alpha = 0.5
        falls = batch_function_bound(scores, 3, alpha, worst, direction="decreasing", method=method, score_bounds=BOX)
        rises = batch_function_bound(scores, 3, alpha, best, method=method, score_bounds=BOX)
        assert (falls.lower, falls.upper) == pytest.approx((-rises.upper, -rises.lower))


def test_partition_takes_the_statistic_of_calibration_batches():
    scores = np.random.default_rng(10).gamma(1, size=47)
    found = batch_function_bound(scores, 5, 0.2, rms, side="upper")
    assert found.method == "partition"
    assert found.upper == np.sort(rms(scores[:45].reshape(9, 5)))[7]  # ceil(10 * 0.8) = 8
    assert found.statistic == "rms"


def test_auto_decides_from_the_sizes_and_from_what_is_given():
    scores = np.random.default_rng(11).random(40)

    def method(n, m, **given):
        return batch_function_bound(scores[:n], m, 0.1, np.sum, side="upper", score_bounds=(0, 1), **given).method

    assert method(36, 4) == "partition"
    assert method(35, 4) == "enumerate"
    assert method(40, 8) == "band"
    assert method(40, 8, fold=np.add) == "fold"


def test_fold_of_many_scores_rounds_its_ranks_upwards():
    n, m = 3000, 400
    h0 = batch_function._coarse(n, m)
    assert len(np.unique(h0)) < 100
    assert h0[0] == 0
    assert (np.diff(h0) >= 0).all()
    assert (h0 >= np.arange(n + 1) * h0[-1] / n).all()
    assert batch_function._coarse(200, 10) is None
    scores = np.random.default_rng(12).random(n)
    found = batch_function_bound(scores, m, 0.1, np.sum, fold=np.add, side="upper", method="fold", score_bounds=(0, 1))
    fine = batch_sum_bound(scores, m, 0.1, statistic="sum", side="upper", method="rank_sum", score_bounds=(0, 1))
    assert fine.upper * 0.97 < found.upper < fine.upper * 1.05


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"statistic": np.std}, DatumwiseError, r"the statistic is not increasing: raising one score took it from"),
        ({"statistic": np.mean, "direction": "decreasing"}, DatumwiseError, r"the statistic is not decreasing"),
        ({"statistic": lambda t: t[0]}, DatumwiseError, r"depends on the order of the scores"),
        ({"statistic": lambda t: t}, SchemaMismatch, r"must give one number a batch, not an array \(4,\)"),
        ({"statistic": np.mean, "fold": np.maximum}, DatumwiseError, r"the fold of the scores is not the statistic"),
        ({"statistic": None}, DatumwiseError, r"there is nothing to bound: pass a statistic, a fold or both"),
        ({"statistic": np.mean, "direction": "up"}, UnknownName, r"no direction 'up'"),
        ({"statistic": np.mean, "method": "shaped"}, UnknownName, r"no method 'shaped': choose auto, partition, enumerate"),
        ({"statistic": np.mean, "method": "fold"}, DatumwiseError, r"method='fold' needs the statistic's fold"),
        ({"statistic": None, "fold": np.add, "direction": "decreasing"}, DatumwiseError, r"fold the negative scores instead"),
        ({"statistic": None, "fold": np.add, "method": "fold", "rank_order": lambda r: r[:, 0]}, DatumwiseError,
         r"a fold needs a sum of h0 over the ranks as rank_order"),
        ({"statistic": np.mean, "rank_order": [3, 2, 1]}, SchemaMismatch, r"h0 must have one value a rank, \(31,\)"),
        ({"statistic": np.mean, "rank_order": lambda r: r}, SchemaMismatch, r"one finite number a row of ranks"),
        ({"statistic": np.mean, "m": 20, "method": "enumerate"}, DatumwiseError, r"rank vectors are too many to enumerate"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_a_sentence(change, error, sentence):
    scores = np.random.default_rng(13).gamma(1, size=30)
    given = {"m": 4, "side": "upper", "score_bounds": BOX} | change
    with pytest.raises(error, match=sentence):
        batch_function_bound(scores, given.pop("m"), 0.1, given.pop("statistic"), **given)


def test_rank_vectors_that_are_enumerated_are_all_of_them_once():
    seen = []

    def order(ranks):
        seen.append(ranks)
        return ranks.sum(axis=1)

    batch_function_bound(np.arange(6.0), 3, 0.1, np.sum, rank_order=order, side="upper", score_bounds=(0, 9))
    assert seen[0].tolist() == [list(r) for r in combinations_with_replacement(range(1, 8), 3)]
