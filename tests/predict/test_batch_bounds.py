"""Bounds of batches: every split of pooled scores, closed forms and published figures are the oracles."""

from __future__ import annotations

import math
from itertools import combinations, combinations_with_replacement

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, EmptyData, NotFinite, SchemaMismatch, UnknownName
from datumwise.predict.batch_bounds import batch_quantile_bound, batch_sum_bound
from datumwise.predict.order_statistics import order_statistic_rank, rank_pmf, required_calibration_size
from datumwise.predict.rank_sum import rank_sum_pmf, rank_sum_quantile, shaped_ranks

POOLED = {
    "skewed": np.array([0.01, 0.02, 0.03, 0.05, 0.07, 0.11, 0.13, 0.2, 0.34, 0.6, 0.95]),
    "tied": np.array([0.0, 0.0, 0.0, 0.2, 0.2, 0.2, 0.2, 0.5, 0.5, 1.0, 1.0]),
    "constant": np.full(11, 0.4),
    "heavy": np.array([-1e6, -40.0, -2.0, -1.0, -0.3, 0.0, 0.2, 0.9, 3.0, 70.0, 1e7]),
}
REFERENCE = np.random.default_rng(9).beta(1, 4, 300)


def splits(pooled, m):
    for chosen in combinations(range(len(pooled)), m):
        yield np.delete(pooled, chosen), pooled[list(chosen)]


# --- order statistics ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("z", [1, 2, 4])
def test_order_statistic_is_covered_exactly_as_often_as_its_rank_says(z):
    m, alpha = 4, 0.3
    n = len(POOLED["heavy"]) - m
    upper, lower = [], []
    for scores, batch in splits(POOLED["heavy"], m):
        found = batch_quantile_bound(scores, m, z, 2 * alpha, allow_infinite=True, score_bounds=(-1e9, 1e9))
        upper.append(np.sort(batch)[z - 1] <= found.upper)
        lower.append(np.sort(batch)[z - 1] >= found.lower)
    law = rank_pmf(n, m, z)
    assert np.mean(upper) == pytest.approx(law[: order_statistic_rank(n, m, z, alpha)].sum(), abs=1e-12)
    assert np.mean(lower) == pytest.approx(law[order_statistic_rank(n, m, z, alpha, "lower") :].sum(), abs=1e-12)
    assert min(np.mean(upper), np.mean(lower)) >= 1 - alpha


@pytest.mark.parametrize("name", ["tied", "constant"])
def test_order_statistic_of_ties_is_covered_at_least_as_often(name):
    for z in (1, 3):
        hits = []
        for scores, batch in splits(POOLED[name], 3):
            found = batch_quantile_bound(scores, 3, z, 0.3, score_bounds=(0, 1))
            hits.append(found.lower <= np.sort(batch)[z - 1] <= found.upper)
        assert np.mean(hits) >= 0.7


def test_one_new_score_has_the_split_conformal_interval():
    scores = np.random.default_rng(0).normal(size=99)
    found = batch_quantile_bound(scores, 1, 1, 0.1, side="upper")
    assert found.upper == np.sort(scores)[89]  # ceil(100 * 0.9) = 90
    assert found.lower == -math.inf
    assert found.rank_budget == (None, 90)


def test_median_and_quantiles_are_places():
    scores = np.random.default_rng(0).normal(size=300)
    for spelled, place in (("median", 5), (("quantile", 0.9), 9), (1.0, 10), (0.3, 3), (0.25, 3), (np.float64(0.05), 1)):
        assert batch_quantile_bound(scores, 10, spelled, 0.2) == batch_quantile_bound(scores, 10, place, 0.2)
    assert batch_quantile_bound(scores, 11, "median", 0.2).statistic == "order statistic 6"
    assert batch_quantile_bound(scores, 100, 0.07, 0.2).statistic == "order statistic 7"  # 0.07 * 100 > 7 in floats


def test_order_statistics_commute_with_increasing_maps_and_ignore_order():
    scores = np.random.default_rng(1).normal(size=60)
    found = batch_quantile_bound(scores, 10, 7, 0.1)
    mapped = batch_quantile_bound(np.exp(scores)[::-1], 10, 7, 0.1)
    assert (mapped.lower, mapped.upper) == (np.exp(found.lower), np.exp(found.upper))


def test_infinite_scores_are_places_among_others():
    scores = np.concatenate([np.full(50, -math.inf), np.arange(50.0)])
    found = batch_quantile_bound(scores, 10, 9, 0.1, side="upper")
    assert found.upper == np.sort(scores)[order_statistic_rank(100, 10, 9, 0.1) - 1]


def test_too_few_scores_for_a_bound_name_how_many_are_needed():
    need = required_calibration_size(10, 0.1)
    assert need == 90
    scores = np.arange(89.0)
    with pytest.raises(DatumwiseError, match=r"order statistic 10 of 10 is infinite: need n >= 90 .* got n = 89"):
        batch_quantile_bound(scores, 10, 10, 0.1, side="upper")
    with pytest.raises(DatumwiseError, match=r"the lower bound of order statistic 1 of 10 is infinite: need n >= 90"):
        batch_quantile_bound(scores, 10, 1, 0.1, side="lower")
    with pytest.warns(UserWarning, match=r"need n >= 90"):
        assert batch_quantile_bound(scores, 10, 10, 0.1, side="upper", allow_infinite=True).upper == math.inf
    assert batch_quantile_bound(scores, 10, 10, 0.1, side="upper", score_bounds=(0, 100)).upper == 100  # not S_(n)
    assert batch_quantile_bound(np.arange(90.0), 10, 10, 0.1, side="upper").upper == 89


# --- means and sums -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rank_sum", "shaped"])
@pytest.mark.parametrize("solver", ["exact", "envelope"])
@pytest.mark.parametrize("name", ["skewed", "tied", "constant"])
def test_mean_of_bounded_scores_is_covered_in_all_splits_together(name, method, solver):
    for side in ("both", "upper", "lower"):
        hits = []
        for scores, batch in splits(POOLED[name], 4):
            found = batch_sum_bound(
                scores, 4, 0.3, side=side, method=method, solver=solver, reference_scores=REFERENCE, score_bounds=(0, 1)
            )
            hits.append(found.lower - 1e-12 <= batch.mean() <= found.upper + 1e-12)
        assert np.mean(hits) >= 0.7


@pytest.mark.parametrize("name", ["skewed", "heavy", "tied"])
def test_mean_of_unbounded_scores_is_covered_in_all_splits_together(name):
    m, alpha = 2, 0.25  # n / (n + m) = 9 / 11 >= 0.75
    for side in ("upper", "lower"):
        hits = []
        for scores, batch in splits(POOLED[name], m):
            found = batch_sum_bound(scores, m, alpha, side=side, method="rank_sum")
            assert math.isfinite(found.upper if side == "upper" else found.lower)
            hits.append(found.lower - 1e-9 <= batch.mean() <= found.upper + 1e-9)
        assert np.mean(hits) >= 1 - alpha


def test_bound_is_the_largest_sum_over_the_likely_rank_vectors():
    rng = np.random.default_rng(3)
    n, m, alpha = 6, 3, 0.2
    ranks = np.array(list(combinations_with_replacement(range(1, n + 2), m)))
    for limit in (1.0, 4.0):
        scores = np.sort(rng.random(n))
        padded = np.append(scores, limit)
        q = rank_sum_quantile(n, m, alpha)
        likely = ranks[(ranks - 1).sum(axis=1) <= q]
        assert len(likely) / len(ranks) >= 1 - alpha
        found = batch_sum_bound(scores, m, alpha, side="upper", statistic="sum", method="rank_sum", score_bounds=(0, limit))
        assert found.upper == pytest.approx(padded[likely - 1].sum(axis=1).max(), abs=1e-12)
        assert found.rank_budget == (None, q)
        padded = np.append(0.0, scores)  # S_(r - 1) from below, over h(r) >= q_L
        at_least = max(q for q in range(m * n + 1) if ((ranks - 1).sum(axis=1) >= q).mean() >= 1 - alpha)
        likely = ranks[(ranks - 1).sum(axis=1) >= at_least]
        found = batch_sum_bound(scores, m, alpha, side="lower", statistic="sum", method="rank_sum", score_bounds=(0, limit))
        assert found.lower == pytest.approx(padded[likely - 1].sum(axis=1).min(), abs=1e-12)
        assert found.rank_budget == (at_least, None)


def test_unbounded_bound_leaves_the_last_rank_out():
    n, m, alpha = 9, 2, 0.3
    scores = np.sort(np.random.default_rng(4).normal(size=n))
    ranks = np.array(list(combinations_with_replacement(range(1, n + 2), m)))
    finite = ranks[ranks[:, -1] <= n]
    sums = (finite - 1).sum(axis=1)
    q = next(q for q in range(100) if (sums <= q).sum() / len(ranks) >= 1 - alpha)
    found = batch_sum_bound(scores, m, alpha, statistic="sum", side="upper", method="rank_sum")
    assert found.upper == pytest.approx(scores[finite[sums <= q] - 1].sum(axis=1).max())


def test_cauchy_means_are_covered():
    rng = np.random.default_rng(5)
    hits = 0
    for _ in range(400):
        scores, batch = rng.standard_cauchy(100), rng.standard_cauchy(10)
        found = batch_sum_bound(scores, 10, 0.1, side="upper", method="rank_sum")
        hits += batch.mean() <= found.upper < math.inf
    assert hits / 400 >= 0.9 - 3 * math.sqrt(0.09 / 400)


def test_partition_is_one_more_of_the_calibration_batches():
    rng = np.random.default_rng(6)
    scores = rng.normal(size=103)
    found = batch_sum_bound(scores, 10, 0.2, side="upper", method="partition")
    means = scores[:100].reshape(10, 10).mean(axis=1)
    assert found.upper == pytest.approx(np.sort(means)[8])  # ceil(11 * 0.8) = 9
    assert found.rank_budget == (None, 9)
    found = batch_sum_bound(scores, 10, 0.2, side="lower", method="partition")
    assert found.lower == pytest.approx(np.sort(means)[1])  # floor(11 * 0.2) = 2
    assert found.rank_budget == (2, None)


def test_partition_covers_as_often_as_its_rank_says():
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(4000):
        scores, batch = rng.exponential(size=45), rng.exponential(size=5)
        hits += batch.mean() <= batch_sum_bound(scores, 5, 0.2, side="upper", method="partition").upper
    assert abs(hits / 4000 - 0.8) < 4 * math.sqrt(0.16 / 4000)  # ceil(10 * 0.8) of 9 batches: exactly 0.8


def test_auto_decides_from_the_sizes_alone():
    rng = np.random.default_rng(8)
    for draw in (rng.random, lambda n: np.round(rng.random(n), 1), lambda n: np.full(n, 0.5) + 0.1 * (np.arange(n) == 0)):

        def method(n, m, alpha, side, draw=draw, **given):
            return batch_sum_bound(draw(n), m, alpha, side=side, score_bounds=(0, 1), **given).method

        assert method(90, 10, 0.1, "upper") == "partition"  # 10 * 0.1 = 1
        assert method(89, 10, 0.1, "upper") == "rank_sum"
        assert method(90, 10, 0.1, "both") == "rank_sum"  # 0.05 a side
        assert method(190, 10, 0.1, "both") == "partition"
        assert method(89, 10, 0.1, "upper", reference_scores=REFERENCE) == "shaped"
        assert method(90, 10, 0.1, "lower", reference_scores=REFERENCE) == "partition"


@pytest.mark.parametrize(
    ("n", "m", "law", "published"),
    [
        (40, 10, "uniform", {"rank_sum": 0.705, "shaped": 0.706, "partition": 1.0}),
        (40, 10, "beta", {"rank_sum": 0.634, "shaped": 0.293, "partition": 1.0}),
        (100, 20, "beta", {"rank_sum": 0.592, "shaped": 0.229, "partition": 1.0}),
        (100, 10, "beta", {"rank_sum": 0.625, "shaped": 0.249, "partition": 0.206}),
        (200, 10, "uniform", {"rank_sum": 0.656, "shaped": 0.658, "partition": 0.628}),
        (200, 10, "beta", {"rank_sum": 0.621, "shaped": 0.234, "partition": 0.200}),
    ],
)
def test_mean_bounds_are_as_sharp_as_measured(n, m, law, published):
    rng = np.random.default_rng(10)
    draw = rng.random if law == "uniform" else (lambda size: rng.beta(1, 6, size))
    repeats = 60
    bounds: dict[str, list[float]] = {name: [] for name in published}
    covered: dict[str, int] = dict.fromkeys(published, 0)
    for _ in range(repeats):
        scores, training, batch = draw(n), draw(2000), draw(m)
        for name in published:
            found = batch_sum_bound(
                scores,
                m,
                0.1,
                side="upper",
                method=name,
                solver="envelope",
                reference_scores=training,
                score_bounds=(0, 1),
            )
            bounds[name].append(found.upper)
            covered[name] += bool(batch.mean() <= found.upper)
    for name, figure in published.items():
        assert np.mean(bounds[name]) == pytest.approx(figure, rel=0.05)
        assert covered[name] / repeats >= 0.9 - 3 * math.sqrt(0.09 / repeats)


def test_shaped_bound_is_far_tighter_for_skewed_scores_and_exact_solving_tighter_still():
    rng = np.random.default_rng(11)
    scores, training = rng.beta(1, 6, 40), rng.beta(1, 6, 2000)
    given = {"side": "upper", "score_bounds": (0, 1)}
    plain = batch_sum_bound(scores, 10, 0.1, method="rank_sum", **given)
    shaped = batch_sum_bound(scores, 10, 0.1, method="shaped", reference_scores=training, **given)
    closed = batch_sum_bound(scores, 10, 0.1, method="rank_sum", solver="envelope", **given)
    assert shaped.upper < 0.7 * plain.upper
    assert plain.upper < closed.upper
    assert (plain.exact, closed.exact) == (True, False)


def test_shape_of_the_ranks_themselves_gives_the_rank_sum_bound():
    n, m = 30, 5
    reference = np.linspace(0, 1, n + 2)  # quantiles r / (n + 1), limit 1: h0(r) = r - 1 at n bins
    assert shaped_ranks(reference, n, 1.0, bins=n).tolist() == list(range(n + 1))
    scores = np.random.default_rng(12).random(n)
    shaped = batch_sum_bound(scores, m, 0.1, method="shaped", reference_scores=reference, bins=n, score_bounds=(0, 1))
    plain = batch_sum_bound(scores, m, 0.1, method="rank_sum", score_bounds=(0, 1))
    assert (shaped.lower, shaped.upper, shaped.rank_budget) == (plain.lower, plain.upper, plain.rank_budget)


@pytest.mark.parametrize("method", ["rank_sum", "shaped", "partition"])
def test_lower_bound_is_the_upper_bound_of_the_scores_upside_down(method):
    rng = np.random.default_rng(13)
    scores, reference = rng.gamma(1, size=120), rng.gamma(1, size=400)
    down = batch_sum_bound(scores, 6, 0.1, side="lower", method=method, reference_scores=reference, score_bounds=(0, 20))
    up = batch_sum_bound(-scores, 6, 0.1, side="upper", method=method, reference_scores=-reference, score_bounds=(-20, 0))
    assert down.lower == pytest.approx(-up.upper, abs=1e-12)
    assert down.upper == 20


@pytest.mark.parametrize("method", ["rank_sum", "shaped"])
def test_two_sides_share_alpha(method):
    rng = np.random.default_rng(14)
    scores, given = rng.random(60), {"method": method, "reference_scores": REFERENCE, "score_bounds": (0, 1)}
    both = batch_sum_bound(scores, 8, 0.2, **given)
    assert both.upper == batch_sum_bound(scores, 8, 0.1, side="upper", **given).upper
    assert both.lower == batch_sum_bound(scores, 8, 0.1, side="lower", **given).lower


def test_bounds_ignore_order_move_with_the_scores_and_widen_with_confidence():
    rng = np.random.default_rng(15)
    scores = rng.normal(size=150)
    given = {"method": "rank_sum"}
    found = batch_sum_bound(scores, 6, 0.2, **given)
    shuffled = batch_sum_bound(rng.permutation(scores), 6, 0.2, **given)
    assert (shuffled.lower, shuffled.upper) == pytest.approx((found.lower, found.upper))
    moved = batch_sum_bound(scores + 7, 6, 0.2, **given)
    assert (moved.lower, moved.upper) == pytest.approx((found.lower + 7, found.upper + 7))
    assert (found.shift(7).lower, found.shift(7).upper) == pytest.approx((moved.lower, moved.upper))
    total = batch_sum_bound(scores, 6, 0.2, statistic="sum", **given)
    assert (total.lower, total.upper) == pytest.approx((6 * found.lower, 6 * found.upper))
    uppers = [batch_sum_bound(scores, 6, a, side="upper", **given).upper for a in (0.5, 0.3, 0.2, 0.1, 0.05)]
    assert (np.diff(uppers) >= 0).all()


def test_large_sizes_are_bounded_exactly_in_law_and_in_closed_form():
    rng = np.random.default_rng(16)
    scores = rng.random(20_000)
    found = batch_sum_bound(scores, 2000, 0.1, side="upper", method="rank_sum", score_bounds=(0, 1))
    assert not found.exact
    assert 0.5 < found.upper < 0.53
    assert found.upper > scores.mean() + 1.28 * scores.std() / math.sqrt(2000)


def test_too_few_scores_for_a_mean_name_how_many_are_needed():
    scores = np.random.default_rng(17).normal(size=89)
    for method in ("rank_sum", "auto"):
        with pytest.raises(DatumwiseError, match=r"upper bound of the mean of 10 scores is infinite: need n >= 90 .* n = 89"):
            batch_sum_bound(scores, 10, 0.1, side="upper", method=method)
    with pytest.raises(DatumwiseError, match=r"lower bound of the sum of 10 scores is infinite: need n >= 190"):
        batch_sum_bound(scores, 10, 0.1, statistic="sum")
    with pytest.raises(DatumwiseError, match=r"the mean of 10 scores by a partition is infinite: need n >= 90"):
        batch_sum_bound(scores, 10, 0.1, side="upper", method="partition")
    with pytest.warns(UserWarning, match=r"need n >= 90"):
        found = batch_sum_bound(scores, 10, 0.1, side="upper", allow_infinite=True)
    assert found.upper == math.inf
    assert batch_sum_bound(np.append(scores, 0.0), 10, 0.1, side="upper", method="rank_sum").upper < math.inf


def test_reference_scores_that_saw_the_calibration_are_refused():
    rng = np.random.default_rng(18)
    scores = rng.random(60)
    everything = rng.random(200)
    sentence = r"reference_scores are calibration scores, and a rank function that has seen them promises nothing"
    for leak in (
        scores,
        scores.copy(),
        list(scores),
        rng.permutation(scores),
        scores[:40],
        scores[::2].copy(),
        np.concatenate([scores, rng.random(500)]),
        scores.astype(object),
    ):
        with pytest.raises(DatumwiseError, match=sentence):
            batch_sum_bound(scores, 10, 0.1, side="upper", reference_scores=leak, score_bounds=(0, 1))
        with pytest.raises(DatumwiseError, match=sentence):
            batch_sum_bound(scores, 10, 0.1, side="upper", method="rank_sum", reference_scores=leak, score_bounds=(0, 1))
    with pytest.raises(DatumwiseError, match=sentence):
        batch_sum_bound(everything[:60], 10, 0.1, side="upper", reference_scores=everything, score_bounds=(0, 1))
    apart = batch_sum_bound(everything[::2], 30, 0.1, side="upper", reference_scores=everything[1::2], score_bounds=(0, 1))
    assert apart.method == "shaped"
    tied = rng.integers(0, 5, (2, 60)) / 4.0  # ties across the two are no leak
    assert batch_sum_bound(tied[0], 10, 0.1, side="upper", reference_scores=tied[1], score_bounds=(0, 1)).method == "shaped"


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"alpha": 0.0}, DatumwiseError, r"alpha = 0\.0 is no probability of an error"),
        ({"m": 0}, DatumwiseError, r"m, the number of new scores, must be >= 1, not 0"),
        ({"scores": []}, EmptyData, r"there are no scores"),
        ({"scores": [0.1, math.nan, 0.2, math.nan]}, NotFinite, r"2 of 4 scores are not finite \(rows 1, 3\)"),
        ({"scores": [0.1, math.inf]}, NotFinite, r"1 of 2 scores are not finite \(rows 1\)"),
        ({"scores": [[0.1, 0.2]]}, SchemaMismatch, r"scores must be one number a row, not an array \(1, 2\)"),
        ({"scores": ["a", "b"]}, SchemaMismatch, r"scores are no numbers"),
        ({"score_bounds": (0, 0.15)}, DatumwiseError, r"2 scores lie outside score_bounds \(0, 0\.15\) \(rows 1, 2\)"),
        ({"score_bounds": (1, 0)}, DatumwiseError, r"score_bounds \(1, 0\) leave no score"),
        ({"score_bounds": 3}, SchemaMismatch, r"score_bounds must be a pair of numbers, not 3"),
        ({"side": "two"}, UnknownName, r"there is no side 'two': choose both, upper or lower"),
        ({"statistic": "median"}, UnknownName, r"no statistic 'median' here: choose mean or sum, or batch_function_bound"),
        ({"method": "best"}, UnknownName, r"no method 'best': choose auto, partition, shaped or rank_sum"),
        ({"method": "shaped"}, DatumwiseError, r"method='shaped' needs reference_scores: pass scores of the training data"),
        ({"solver": "fast"}, UnknownName, r"no solver 'fast'"),
        ({"reference_scores": [0.5, 1.5]}, DatumwiseError, r"1 reference_scores lie outside score_bounds \(0, 1\) \(rows 1\)"),
        ({"reference_scores": [0.5, math.nan]}, NotFinite, r"1 of 2 reference_scores are not finite \(rows 1\)"),
        ({"reference_scores": [0.5, 0.5], "method": "shaped", "score_bounds": (-math.inf, math.inf), "alpha": 0.5, "m": 1},
         DatumwiseError, r"reference_scores show no shape"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_a_sentence(change, error, sentence):
    given = {"scores": [0.1, 0.2, 0.3], "m": 2, "alpha": 0.2, "score_bounds": (0, 1), "side": "upper"} | change
    with pytest.raises(error, match=sentence):
        batch_sum_bound(given.pop("scores"), given.pop("m"), given.pop("alpha"), **given)


@pytest.mark.parametrize(
    ("z", "error", "sentence"),
    [
        (0, DatumwiseError, r"z, the place of the order statistic, must be in 1\.\.5, not 0"),
        (6, DatumwiseError, r"must be in 1\.\.5, not 6"),
        (1.5, DatumwiseError, r"z = 1\.5 is no level of a quantile: 0 < z <= 1"),
        ("mode", UnknownName, r"there is no order statistic 'mode'"),
        (None, SchemaMismatch, r"must be a whole number, not None"),
    ],
)
def test_places_that_are_none_are_refused(z, error, sentence):
    with pytest.raises(error, match=sentence):
        batch_quantile_bound(np.arange(100.0), 5, z, 0.2)


def test_interval_prints_what_it_promises():
    text = str(batch_sum_bound(np.arange(90.0), 10, 0.1, side="upper", score_bounds=(0, 100)))
    assert text == "mean of 10 new scores in [0, 84.5] with probability 0.9 (partition, 90 calibration scores)"


def test_law_of_the_budget_is_the_coverage_of_distinct_scores():
    # P(h(R) <= q) is a lower bound of coverage and equals the frequency of its event in all splits
    m, alpha = 4, 0.3
    pooled = POOLED["skewed"]
    n = len(pooled) - m
    q = rank_sum_quantile(n, m, alpha)
    event = [sum(int((scores < t).sum()) for t in batch) <= q for scores, batch in splits(pooled, m)]
    assert np.mean(event) == pytest.approx(rank_sum_pmf(n, m)[: q + 1].sum(), abs=1e-12)
