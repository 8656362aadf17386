"""Every maximiser keeps its promise, on set functions evaluated from their definition."""

from __future__ import annotations

from functools import partial
from itertools import combinations

import numpy as np
import pytest
import scipy.sparse as sp
from set_functions import DISPARITY, SUBMODULAR, FromScratch, counts, function, kernel, value

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.select import greedy as module
from datumwise.select.facility_location import FacilityLocation, FacilityLocationFunction
from datumwise.select.greedy import cost_benefit, greedi, lazy, maximise, naive, sample, sieve_streaming, stochastic
from datumwise.select.saturated_coverage import SaturatedCoverageFunction
from datumwise.select.similarity import given

E = 1 - 1 / np.e
MONOTONE = [name for name in SUBMODULAR if name != "graph_cut_0.7"]


def best(name, S, X, k):
    return max(value(name, S, X, subset) for subset in combinations(range(len(S)), k))


@pytest.mark.parametrize("name", SUBMODULAR + DISPARITY)
def test_gains_are_the_differences_of_the_objective(name):
    S, X = kernel(30), counts(30)
    ranking, gains = maximise(function(name, S, X), 12)
    objective = [value(name, S, X, ranking[:k]) for k in range(13)]
    np.testing.assert_allclose(gains, np.diff(objective), rtol=1e-10, atol=1e-10)
    assert len(set(ranking)) == 12


@pytest.mark.parametrize("name", SUBMODULAR + DISPARITY)
def test_greedy_equals_the_definition_evaluated_from_scratch(name):
    S, X = kernel(30, seed=1), counts(30, seed=1)
    ranking, gains = maximise(function(name, S, X), 12)
    wanted = naive(FromScratch(name, S, X), 12)
    assert ranking.tolist() == wanted[0].tolist()
    np.testing.assert_allclose(gains, wanted[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("name", SUBMODULAR)
def test_lazy_equals_naive_exactly(name, copies, monkeypatch):
    """Also where copies make ties, and past the point where nothing is left to gain."""
    monkeypatch.setattr(module, "HEAD", 8)
    S, X = kernel(60, seed=2), counts(60, seed=2)
    if copies:
        at = np.random.default_rng(0).integers(0, 25, 60)
        S, X = S[np.ix_(at, at)], X[at]
    a, b = naive(function(name, S, X), 55), lazy(function(name, S, X), 55)
    assert a[0].tolist() == b[0].tolist()
    assert a[1].tolist() == b[1].tolist()


@pytest.mark.parametrize("head", [1, 3, 4096])
@pytest.mark.parametrize("name", SUBMODULAR)
def test_stale_bounds_give_what_naive_gives_and_ask_for_less(name, head, monkeypatch):
    monkeypatch.setattr(module, "HEAD", head)
    S, X = kernel(40, seed=3), counts(40, seed=3)
    plain, bounded = FromScratch(name, S, X), FromScratch(name, S, X)
    a, b = naive(plain, 15), lazy(bounded, 15)
    assert a[0].tolist() == b[0].tolist()
    assert a[1].tolist() == b[1].tolist()
    assert bounded.asked < plain.asked


@pytest.mark.parametrize("name", SUBMODULAR)
def test_gains_never_increase(name):
    gains = maximise(function(name, kernel(40, seed=4), counts(40, seed=4)), 30)[1]
    assert (np.diff(gains) <= 1e-9).all()


@pytest.mark.parametrize("name", MONOTONE)
def test_greedy_reaches_its_share_of_the_best_subset(name):
    for seed in range(4):
        S, X = kernel(11, seed=seed), counts(11, seed=seed)
        assert maximise(function(name, S, X), 4)[1].sum() >= E * best(name, S, X, 4)


@pytest.mark.parametrize("name", ["disparity_sum", "disparity_min"])
def test_disparity_is_at_least_half_of_the_best(name):
    for seed in range(4):
        X = np.random.default_rng(seed).uniform(size=(11, 3))
        S = 1 - np.sqrt(((X[:, None] - X) ** 2).sum(axis=2))
        assert value(name, S, None, maximise(function(name, S, X), 4)[0]) >= 0.5 * best(name, S, None, 4)


@pytest.mark.parametrize("name", [name for name in SUBMODULAR if name != "max_coverage"])  # counts of tags always tie
def test_permuted_rows_permute_the_ranking(name):
    rng = np.random.default_rng(5)
    X, scale = rng.gamma(1.0, size=(30, 7)) / 20, rng.uniform(1, 2, size=30)  # small: min(x, 1) must not tie
    S = kernel(30, seed=5) * np.outer(scale, scale)
    k = 2 if name == "saturated_coverage" else 10  # then all that is left fills what is left: ties
    order = rng.permutation(30)
    a, b = maximise(function(name, S, X), k), maximise(function(name, S[np.ix_(order, order)], X[order]), k)
    assert order[b[0]].tolist() == a[0].tolist()
    np.testing.assert_allclose(a[1], b[1], atol=1e-9)


@pytest.mark.parametrize("head", [2, 4096])
def test_ties_go_to_the_lowest_row(head, monkeypatch):
    monkeypatch.setattr(module, "HEAD", head)
    S = np.kron(np.eye(4), np.ones((3, 3)))  # four groups of three copies
    for how in (naive, lazy):
        for one in (FacilityLocationFunction, partial(SaturatedCoverageFunction, alpha=1 / 3)):
            assert how(one(given(S)), 8)[0].tolist() == [0, 3, 6, 9, 1, 2, 4, 5]


@pytest.mark.parametrize("name", ["facility_location", "saturated_coverage", "feature_sqrt"])
def test_stochastic_keeps_its_promise_in_the_mean(name):
    S, X = kernel(12, seed=7), counts(12, seed=7)
    values = [stochastic(function(name, S, X), 4, epsilon=0.1, random_state=seed)[1].sum() for seed in range(40)]
    assert np.mean(values) >= (E - 0.1) * best(name, S, X, 4)


def test_stochastic_asks_n_log_one_over_epsilon_gains():
    one = FromScratch("facility_location", kernel(200), None)
    stochastic(one, 10, epsilon=0.1, random_state=0)
    assert one.asked == 10 * int(np.ceil(200 / 10 * np.log(10)))


def test_drawing_optimizers_repeat_with_their_seed_and_differ_without():
    S = kernel(80)
    for how in (stochastic, partial(sample, share=0.5), greedi):
        runs = [how(FacilityLocationFunction(given(S)), 6, random_state=seed)[0].tolist() for seed in (0, 0, 1, 2, 3)]
        assert runs[0] == runs[1]
        assert any(run != runs[0] for run in runs)


def test_sample_is_greedy_on_what_it_drew():
    S = kernel(80)
    ranking, gains = sample(FacilityLocationFunction(given(S)), 6, share=0.25, random_state=1)
    drawn = np.sort(np.random.default_rng(1).choice(80, size=20, replace=False))
    wanted = naive(FacilityLocationFunction(given(S)), 6, candidates=drawn)
    assert ranking.tolist() == wanted[0].tolist()
    np.testing.assert_allclose(gains, wanted[1])


@pytest.mark.parametrize("name", ["facility_location", "saturated_coverage", "feature_sqrt", "max_coverage"])
@pytest.mark.parametrize("epsilon", [0.05, 0.2])
def test_sieve_streaming_is_at_least_half_of_greedy(name, epsilon):
    for seed in range(3):
        S, X = kernel(60, seed=seed), counts(60, seed=seed)
        ranking, gains = sieve_streaming(function(name, S, X), 8, epsilon=epsilon)
        assert len(ranking) <= 8
        assert gains.sum() == pytest.approx(value(name, S, X, ranking))
        assert gains.sum() >= (0.5 - epsilon) * maximise(function(name, S, X), 8)[1].sum()


def test_sieve_streaming_equals_the_single_pass():
    """Badanidiyuru et al., algorithm 3, as written: row by row, sieves made and dropped as the maximum grows."""
    S, k, epsilon = kernel(70, seed=8), 6, 0.1
    most, sieves = 0.0, {}
    for row in range(70):
        most = max(most, value("facility_location", S, None, [row]))
        low, high = np.log(most) / np.log1p(epsilon), np.log(2 * k * most) / np.log1p(epsilon)
        alive = range(int(np.ceil(low)), int(np.floor(high)) + 1)
        sieves = {power: sieves.get(power, []) for power in alive}
        for power, chosen in sieves.items():
            now = value("facility_location", S, None, chosen)
            gain = value("facility_location", S, None, [*chosen, row]) - now
            if len(chosen) < k and gain >= ((1 + epsilon) ** power / 2 - now) / (k - len(chosen)):
                chosen.append(row)
    wanted = max(sieves.values(), key=lambda chosen: value("facility_location", S, None, chosen))
    assert sieve_streaming(FacilityLocationFunction(given(S)), k, epsilon=epsilon)[0].tolist() == wanted


def test_greedi_equals_greedy_where_clusters_are_clear():
    rng = np.random.default_rng(0)
    X = np.repeat(20 * rng.normal(size=(6, 3)), 20, axis=0) + 0.1 * rng.normal(size=(120, 3))
    S = np.exp(-((X[:, None] - X) ** 2).sum(axis=2))
    greedy = maximise(FacilityLocationFunction(given(S)), 6)
    for seed in range(5):
        ranking, gains = greedi(FacilityLocationFunction(given(S)), 6, n_parts=4, random_state=seed)
        assert set(ranking // 20) == set(range(6))
        assert gains.sum() >= 0.98 * greedy[1].sum()
    assert greedi(FacilityLocationFunction(given(S)), 6, n_parts=1)[0].tolist() == greedy[0].tolist()


@pytest.mark.parametrize("seed", range(4))
def test_greedi_is_the_better_of_the_merged_and_the_best_part(seed):
    S = kernel(80, seed=seed)
    parts = np.array_split(np.random.default_rng(seed).permutation(80), 4)
    runs = [naive(FacilityLocationFunction(given(S)), 5, candidates=np.sort(part)) for part in parts]
    union = np.sort(np.concatenate([run[0] for run in runs]))
    runs.append(naive(FacilityLocationFunction(given(S)), 5, candidates=union))
    wanted = max(runs, key=lambda run: run[1].sum())
    assert greedi(FacilityLocationFunction(given(S)), 5, n_parts=4, random_state=seed)[0].tolist() == wanted[0].tolist()


@pytest.mark.parametrize("name", ["facility_location", "saturated_coverage", "feature_sqrt", "log_det"])
def test_costs_are_never_over_budget_and_reach_their_share(name):
    for seed in range(5):
        S, X = kernel(10, seed=seed), counts(10, seed=seed)
        cost = np.random.default_rng(seed).uniform(0.5, 4.0, 10)
        a = maximise(function(name, S, X), 10, "lazy", cost=cost, max_cost=6.0)
        b = maximise(function(name, S, X), 10, "naive", cost=cost, max_cost=6.0)
        assert cost[a[0]].sum() <= 6.0
        assert a[0].tolist() == b[0].tolist()
        assert a[1].tolist() == b[1].tolist()
        affordable = [s for k in range(1, 11) for s in combinations(range(10), k) if cost[list(s)].sum() <= 6.0]
        assert a[1].sum() >= E / 2 * max(value(name, S, X, s) for s in affordable)


def test_a_dear_datapoint_that_is_worth_all_others_is_not_missed():
    """Gain per cost alone takes the cheap one, after which the dear one cannot be paid."""
    X = np.diag([1.0, 100.0])
    ranking, gains = cost_benefit(function("feature_sqrt", np.eye(2), X), 2, np.array([0.05, 10.0]), 10.0)
    assert ranking.tolist() == [1]
    assert gains.tolist() == [10.0]


def test_equal_costs_are_a_limit_on_the_number():
    S = kernel(30)
    a = maximise(FacilityLocationFunction(given(S)), 30, cost=np.full(30, 2.0), max_cost=15.0)
    assert a[0].tolist() == maximise(FacilityLocationFunction(given(S)), 7)[0].tolist()


def test_what_cannot_be_is_refused():
    S = kernel(5)
    with pytest.raises(UnknownName, match="there is no optimizer 'lazzy': did you mean 'lazy'"):
        FacilityLocation(2, metric="precomputed", optimizer="lazzy").fit(S)
    with pytest.raises(DatumwiseError, match=r"costs need a limit: give both max_cost= and fit\(..., cost=...\)"):
        FacilityLocation(2, metric="precomputed").fit(S, cost=np.ones(5))
    with pytest.raises(DatumwiseError, match=r"max_cost is 3.0 and there are no costs"):
        FacilityLocation(2, metric="precomputed", max_cost=3.0).fit(S)
    with pytest.raises(DatumwiseError, match="'stochastic' knows no costs: give optimizer='lazy' or 'naive'"):
        FacilityLocation(2, metric="precomputed", max_cost=3.0, optimizer="stochastic").fit(S, cost=np.ones(5))
    with pytest.raises(DatumwiseError, match="cost is not above 0 in row 1"):
        FacilityLocation(2, metric="precomputed", max_cost=3.0).fit(S, cost=[1.0, 0.0, 1, 1, 1])
    with pytest.raises(DatumwiseError, match="cost is not above 0 in row 1"):
        cost_benefit(FacilityLocationFunction(given(S)), 2, np.array([1.0, -1.0, 1, 1, 1]), 3.0)
    with pytest.raises(DatumwiseError, match=r"max_cost is 0.5 and the cheapest datapoint costs 1"):
        FacilityLocation(2, metric="precomputed", max_cost=0.5).fit(S, cost=np.ones(5))
    with pytest.raises(DatumwiseError, match="6 datapoints were asked of 5"):
        FacilityLocation(6, metric="precomputed").fit(S)
    with pytest.raises(DatumwiseError, match="0 datapoints were asked of 5"):
        FacilityLocation(0, metric="precomputed").fit(S)
    with pytest.raises(DatumwiseError, match=r"epsilon is 1.5: 0 < epsilon < 1"):
        stochastic(FacilityLocationFunction(given(S)), 2, epsilon=1.5)
    with pytest.raises(DatumwiseError, match="share is 0: 0 < share < 1"):
        sample(FacilityLocationFunction(given(S)), 2, share=0)
    with pytest.raises(DatumwiseError, match="n_parts is 9 and there are 5 datapoints"):
        greedi(FacilityLocationFunction(given(S)), 2, n_parts=9)
    with pytest.raises(DatumwiseError, match="DisparityFunction is not submodular, so 'lazy' says nothing of it"):
        maximise(function("disparity_sum", S, None), 2, "lazy")


def test_progress_counts_to_the_end():
    seen = []
    FacilityLocation(4, metric="precomputed", progress=lambda done, all_: seen.append((done, all_))).fit(
        sp.csr_array(kernel(9))
    )
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
