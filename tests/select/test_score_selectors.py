"""Selectors by score: who is kept, in which order, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, EmptyData, NotFinite, SchemaMismatch, UnknownName
from datumwise.select.ccs import CCS, stratum_budgets
from datumwise.select.d2_pruning import D2Pruning
from datumwise.select.per_class import class_budgets
from datumwise.select.random_subset import RandomSubset
from datumwise.select.repr_filter import ReprFilter
from datumwise.select.top_k import QuantileBand, Threshold, TopK
from datumwise.select.weighted_sampling import WeightedSampling

# ---------------------------------------------------------------- top k


def test_top_k_is_monotone_in_quality_and_ties_go_to_the_lowest_row():
    scores = np.random.default_rng(0).normal(size=500)
    found = TopK(100).fit(scores)
    assert (np.diff(found.gains_) <= 0).all()
    assert scores[found.mask_].min() >= scores[~found.mask_].max()
    assert TopK(2).fit([1.0, 3.0, 3.0, 3.0]).ranking_.tolist() == [1, 2]
    assert TopK(2, highest=False).fit([2.0, 1.0, 1.0]).ranking_.tolist() == [1, 2]


def test_the_rule_of_ifd_drops_one_and_more_and_keeps_the_highest_of_the_rest():
    ifd = [0.2, 1.0, 0.99, 1.4, 0.7]
    assert TopK(2, below=1.0).fit(ifd).ranking_.tolist() == [2, 4]
    assert TopK(5, below=1.0).fit(ifd).ranking_.tolist() == [2, 4, 0]


def test_threshold_keeps_all_within_bounds_and_refuses_bounds_that_nothing_meets():
    assert Threshold(at_least=2.0, below=4.0).fit([1.0, 2.0, 3.0, 4.0]).ranking_.tolist() == [2, 1]
    with pytest.raises(EmptyData, match=r"no score is within the bounds .* range from 1 to 4"):
        Threshold(at_least=9.0).fit([1.0, 4.0])


def test_bands_are_the_lowest_the_middle_and_the_highest_quantiles():
    scores = np.random.default_rng(1).permutation(100).astype(float)
    for band, expected in (("low", range(20)), ("middle", range(40, 60)), ("high", range(80, 100)), (0.25, range(20, 40))):
        chosen = scores[QuantileBand(20, band=band).fit(scores).ranking_]
        assert sorted(chosen.tolist()) == [float(v) for v in expected]
    assert scores[QuantileBand(3, band="low").fit(scores).ranking_].tolist() == [0.0, 1.0, 2.0]
    assert scores[QuantileBand(3, band="high").fit(scores).ranking_].tolist() == [99.0, 98.0, 97.0]


def test_class_shares_are_those_of_each_class_not_of_the_last():
    # published (CCS, score_monotonic_selection): the size of the last class is used for every class
    y = np.repeat([0, 1, 2], [60, 30, 10])
    chosen = TopK(0.2).fit(np.random.default_rng(0).normal(size=100), y=y).ranking_
    assert np.bincount(y[chosen]).tolist() == [12, 6, 2]  # published: 2 of each
    published = [int((y == 2).sum() * 0.2)] * 3
    assert np.bincount(y[chosen]).tolist() != published


def test_class_budgets_sum_to_k_and_never_exceed_a_class():
    rng = np.random.default_rng(0)
    for _ in range(200):
        y = rng.integers(0, 6, rng.integers(1, 60))
        k = int(rng.integers(1, len(y) + 1))
        classes, budgets = class_budgets(y, k)
        sizes = np.array([(y == c).sum() for c in classes])
        assert budgets.sum() == k
        assert (budgets <= sizes).all()
        assert (np.abs(budgets - k * sizes / len(y)) < 1).all()


def test_any_beginning_of_a_stratified_ranking_keeps_the_shares():
    y = np.repeat(["a", "b"], [80, 20])
    chosen = y[RandomSubset(50, stratified=True, random_state=0).fit(y).ranking_]
    for m in (10, 25, 50):
        assert abs((chosen[:m] == "b").sum() - 0.2 * m) <= 1


# ---------------------------------------------------------------- sampling


def test_gumbel_top_k_draws_with_the_probabilities_of_drawing_one_by_one():
    scores, k, draws = np.array([0.0, 1.0, 2.0, 3.0]), 2, 4000
    p = np.exp(scores / 1.5) / np.exp(scores / 1.5).sum()
    expected = np.zeros(4)
    for i in range(4):  # inclusion: first, or second after j
        expected[i] = p[i] + sum(p[j] * p[i] / (1 - p[j]) for j in range(4) if j != i)
    rng = np.random.default_rng(0)
    counts = np.zeros(4)
    for _ in range(draws):
        counts[WeightedSampling(k, temperature=1.5, standardise=False, random_state=rng).fit(scores).ranking_] += 1
    error = np.abs(counts / draws - expected) / np.sqrt(expected * (1 - expected) / draws)
    assert error.max() < 4


def test_standardised_sampling_does_not_depend_on_the_scale():
    scores = np.random.default_rng(0).normal(size=50)
    a = WeightedSampling(10, random_state=3).fit(scores).ranking_
    b = WeightedSampling(10, random_state=3).fit(1000 * scores + 7).ranking_
    assert a.tolist() == b.tolist()
    with pytest.raises(DatumwiseError, match="temperature is 0"):
        WeightedSampling(2, temperature=0).fit(scores)


def test_random_subsets_are_uniform_and_repeatable():
    counts = np.zeros(10)
    rng = np.random.default_rng(0)
    for _ in range(2000):
        counts[RandomSubset(3, random_state=rng).fit(np.zeros(10)).ranking_] += 1
    assert np.abs(counts - 600).max() < 4 * np.sqrt(2000 * 0.3 * 0.7)
    a, b = (RandomSubset(3, random_state=5).fit(np.zeros(10)).ranking_ for _ in range(2))
    assert a.tolist() == b.tolist()


# ---------------------------------------------------------------- CCS


def official_ccs(score, coreset_num, stratas, rng):
    """The loop of the official code, in numpy: strata, budgets, and how many of each it would draw."""
    low, high = score.min(), score.max() * 1.0001
    step = (high - low) / stratas
    masks = [(score >= low + i * step) & (score < low + (i + 1) * step) for i in range(stratas)]
    sizes = np.array([m.sum() for m in masks])
    budgets = np.zeros(stratas, int)
    left = coreset_num
    for i, s in enumerate(np.argsort(sizes, kind="stable")):
        budgets[s] = min(sizes[s], left // (stratas - i))
        left -= budgets[s]
    return [rng.permutation(np.flatnonzero(m))[:b] for m, b in zip(masks, budgets, strict=True)], budgets


def test_ccs_budgets_of_the_small_known_answer():
    assert stratum_budgets(np.array([1, 2, 100]), 30).tolist() == [1, 2, 27]
    assert stratum_budgets(np.array([0, 5, 5]), 7).tolist() == [0, 3, 4]


@pytest.mark.parametrize("seed", range(5))
def test_ccs_draws_as_many_of_each_stratum_as_the_official_code(seed):
    rng = np.random.default_rng(seed)
    score = rng.gamma(2.0, size=400)
    found = CCS(90, n_strata=20, random_state=0).fit(score).ranking_
    _, budgets = official_ccs(score, 90, 20, rng)
    step = (score.max() * 1.0001 - score.min()) / 20
    assert np.bincount(((score[found] - score.min()) // step).astype(int), minlength=20).tolist() == budgets.tolist()
    assert len(set(found.tolist())) == 90


def test_ccs_beta_drops_the_hardest():
    score = np.arange(100.0)
    assert CCS(50, beta=0.3, random_state=0).fit(score).ranking_.max() < 70
    assert CCS(50, beta=0.3, hard="lowest", random_state=0).fit(score).ranking_.min() >= 30
    with pytest.raises(DatumwiseError, match="80 datapoints were asked of the 70 that are left without the hardest 30%"):
        CCS(80, beta=0.3).fit(score)


@pytest.mark.parametrize("highest", [0.0, -1.0])
def test_ccs_can_choose_the_largest_score_where_it_is_not_above_zero(highest):
    # published: the range ends at 1.0001 * maximum, which leaves a maximum <= 0 out of every stratum
    score = np.linspace(highest - 10, highest, 101)
    assert 100 in CCS(101, random_state=0).fit(score).ranking_
    published, _ = official_ccs(score, 101, 50, np.random.default_rng(0))
    assert 100 not in np.concatenate(published)


def test_ccs_with_labels_works_class_by_class():
    rng = np.random.default_rng(0)
    y = np.repeat([0, 1], [80, 20])
    score = np.where(y == 0, rng.normal(0, 1, 100), rng.normal(50, 1, 100))
    chosen = CCS(20, beta=0.1, random_state=0).fit(score, y=y).ranking_
    assert np.bincount(y[chosen]).tolist() == [16, 4]
    assert score[y == 1].max() not in score[chosen]  # the hardest of its own class is dropped


def test_ccs_of_equal_scores_is_a_random_subset():
    assert len(CCS(5, random_state=0).fit(np.ones(20)).ranking_) == 5


# ---------------------------------------------------------------- D2


def official_d2(X, scores, k, n_neighbors, gamma, mode="sum"):
    """The official loop over a precomputed graph: an argmax of u a pick, u of a chosen one pushed to the end."""
    d = np.sqrt(((X[:, None] - X[None]) ** 2).sum(-1))
    np.fill_diagonal(d, np.inf)
    near = np.argsort(d, axis=1, kind="stable")[:, :n_neighbors]
    dist = np.take_along_axis(d, near, 1)
    connect = np.exp(-dist) * scores[near]
    u = connect.sum(-1) + scores if mode == "sum" else connect.sum(-1) * scores
    start, chosen, select, low = u.copy(), [], np.zeros(len(X)), u.min()
    while len(chosen) < k:
        best = np.argmax(u)
        if select[best]:
            u[best] = low = low - 1
            continue
        select[best] = 1
        u[near[best]] -= np.exp(-dist[best] * gamma) * u[best]
        chosen.append(int(best))
        low = min(low, u[near[best]].min())
    return chosen, start


@pytest.mark.parametrize("combine", ["sum", "product"])
def test_d2_equals_the_official_loop(combine):
    for seed in range(6):
        rng = np.random.default_rng(seed)
        X, scores = rng.normal(size=(150, 4)), rng.random(150)
        expected, start = official_d2(X, scores, 80, 10, 1 / 4, combine)
        found = D2Pruning(80, combine=combine).fit(X, scores=scores)
        np.testing.assert_allclose(found.utility_, start, rtol=1e-12)
        assert found.ranking_.tolist() == expected


def test_d2_with_a_large_gamma_is_the_order_of_u():
    rng = np.random.default_rng(0)
    X, scores = rng.normal(size=(200, 3)), rng.random(200)
    found = D2Pruning(50, gamma=1e9).fit(X, scores=scores)
    assert found.ranking_.tolist() == np.argsort(-found.utility_, kind="stable")[:50].tolist()


def test_d2_default_is_the_sum_of_the_paper_and_gamma_that_of_the_code():
    # published: the code takes the mode as a flag; the paper adds
    rng = np.random.default_rng(0)
    X, scores = rng.normal(size=(60, 5)), rng.random(60)
    default = D2Pruning(30).fit(X, scores=scores).ranking_
    assert default.tolist() == official_d2(X, scores, 30, 10, 1 / 5, "sum")[0]
    assert default.tolist() != official_d2(X, scores, 30, 10, 1 / 5, "product")[0]


def test_d2_takes_one_of_ten_copies():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(12, 6)) * 10
    X = np.repeat(base, 10, axis=0)
    chosen = D2Pruning(12, n_neighbors=9).fit(X, scores=np.ones(120)).ranking_
    assert len(set((chosen // 10).tolist())) == 12


# ---------------------------------------------------------------- DEITA


def one_by_one(X, scores, k, threshold):
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if len(kept) < k and all(unit[i] @ unit[j] < threshold for j in kept):
            kept.append(int(i))
    return kept


@pytest.mark.parametrize("threshold", [0.3, 0.9, 0.999])
def test_the_filter_by_blocks_equals_the_walk_one_by_one(threshold):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(40, 8))[rng.integers(0, 40, 1300)] + 0.1 * rng.normal(size=(1300, 8))
    scores = rng.integers(0, 50, 1300).astype(float)
    for k in (5, 200, 1300):
        found = ReprFilter(k, threshold=threshold).fit(X.astype(np.float32), scores=scores)
        assert found.ranking_.tolist() == one_by_one(X.astype(np.float32).astype(float), scores, k, threshold)


def test_the_filter_skips_exact_copies_at_threshold_one_and_keeps_one_of_ten():
    X = np.repeat(np.random.default_rng(0).normal(size=(30, 7)), 10, axis=0)
    X[1::2] *= 3.7  # copies up to length
    found = ReprFilter(300, threshold=1.0).fit(X, scores=np.ones(300)).ranking_
    assert found.tolist() == list(range(0, 300, 10))
    zeros = ReprFilter(3, threshold=0.9).fit([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]], scores=[3.0, 2.0, 1.0]).ranking_
    assert zeros.tolist() == [0, 2]


# ---------------------------------------------------------------- refusals


def test_bad_inputs_are_named():
    with pytest.raises(NotFinite, match="scores has NaN or infinity in row 1"):
        TopK(1).fit([0.0, np.nan])
    with pytest.raises(DatumwiseError, match="3 datapoints were asked of 2"):
        TopK(3).fit([0.0, 1.0])
    with pytest.raises(EmptyData, match="scores is empty"):
        TopK(1).fit([])
    with pytest.raises(SchemaMismatch, match="scores has 2 rows and X has 3"):
        ReprFilter(1).fit(np.ones((3, 2)), scores=[1.0, 2.0])
    with pytest.raises(UnknownName, match="there is no band 'mid'"):
        QuantileBand(1, band="mid").fit([1.0])
    with pytest.raises(UnknownName, match="combine is 'mean'"):
        D2Pruning(1, combine="mean").fit(np.ones((2, 1)), scores=[1.0, 2.0])
    with pytest.raises(DatumwiseError, match=r"threshold is 1.5"):
        ReprFilter(1, threshold=1.5).fit(np.ones((2, 1)), scores=[1.0, 2.0])
    with pytest.raises(DatumwiseError, match="beta is 1"):
        CCS(1, beta=1.0).fit([1.0])


def test_superfiltering_keeps_the_hardest_below_1_and_a_share_of_these_data():
    """The published script takes its rate of 52,002 rows whatever the data."""
    ifd = np.array([0.7, 0.95, 1.2, 1.0, 1.4, 0.3, 0.9, 0.9, 0.1, 0.5])
    assert TopK(4, below=1.0).fit(ifd).ranking_.tolist() == [1, 6, 7, 0]
    assert TopK(0.3, below=1.0).fit(ifd).ranking_.tolist() == [1, 6, 7]
    assert TopK(10, below=1.0).fit(ifd).ranking_.tolist() == [1, 6, 7, 0, 9, 5, 8]  # three lie at 1 or above
