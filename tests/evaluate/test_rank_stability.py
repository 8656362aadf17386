"""A ranking is called sure when it is, and open when noise decides it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import kendalltau, spearmanr

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch
from datumwise.evaluate.rank_stability import rank_agreement, rank_stability


def test_equal_measurements_are_sure_and_independent_ones_are_chance():
    truth = np.random.default_rng(0).normal(size=400)
    same = rank_stability(np.stack([truth] * 4), k=40, random_state=0)
    assert same.jaccard.value == same.jaccard.low == 1
    assert (same.sure, same.open) == (40, 0)
    assert same.spearman.value == pytest.approx(1)
    noise = rank_stability(np.random.default_rng(1).normal(size=(8, 400)), k=40, random_state=0)
    assert abs(noise.jaccard.value - noise.jaccard_by_chance) < 0.03
    assert abs(noise.spearman.value) < 0.05


def test_figures_are_means_over_pairs_of_measurements():
    runs = np.random.default_rng(0).normal(size=50) + 0.5 * np.random.default_rng(1).normal(size=(4, 50))
    found = rank_stability(runs, k=0.2, random_state=0)
    tops = [set(np.argsort(-run, kind="stable")[:10].tolist()) for run in runs]
    pairs = [(a, b) for a in range(4) for b in range(a + 1, 4)]
    assert found.jaccard.value == pytest.approx(np.mean([len(tops[a] & tops[b]) / len(tops[a] | tops[b]) for a, b in pairs]))
    r = np.mean([spearmanr(runs[a], runs[b]).statistic for a, b in pairs])
    assert found.spearman.value == pytest.approx(r)
    assert found.reliability == pytest.approx(4 * r / (1 + 3 * r))
    assert found.k == 10
    assert found.inclusion.sum() == pytest.approx(10)


def test_reliability_foretells_the_correlation_of_two_means():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=2000)
    found = rank_stability(truth + 1.5 * rng.normal(size=(6, 2000)), k=100, n_bootstrap=20, random_state=0)
    a, b = (truth + 1.5 * rng.normal(size=(6, 2000)).mean(0) for _ in range(2))
    assert found.reliability == pytest.approx(spearmanr(a, b).statistic, abs=0.03)


def test_standard_errors_say_who_is_open():
    scores = np.array([10.0, 5.05, 5.0, 4.95, 0.0])
    found = rank_stability(scores, k=2, stderr=np.full(5, 0.1), n_bootstrap=2000, random_state=0)
    assert found.inclusion[0] == 1
    assert found.inclusion[4] == 0
    assert (found.sure, found.open) == (1, 3)
    assert found.inclusion[1] > found.inclusion[2] > found.inclusion[3]
    lowest = rank_stability(scores, k=1, stderr=np.full(5, 0.1), highest=False, random_state=0)
    assert lowest.inclusion[4] == 1


def test_agreement_equals_scipy_and_its_interval_covers():
    rng = np.random.default_rng(0)
    a = rng.normal(size=80)
    b = np.round(a + rng.normal(size=80))  # with ties
    found = rank_agreement({"a": a, "b": b, "c": -a}, random_state=0)
    assert found.spearman[0, 1] == pytest.approx(spearmanr(a, b).statistic)
    assert found.kendall[0, 1] == pytest.approx(kendalltau(a, b).statistic)
    assert found.low[0, 1] < found.spearman[0, 1] < found.high[0, 1]
    assert found.spearman[0, 2] == pytest.approx(-1)
    covered = 0
    truth = 6 / np.pi * np.arcsin(np.sqrt(0.5) / 2)  # Spearman of a Gaussian pair of correlation sqrt(1/2)
    for seed in range(100):
        x = np.random.default_rng(seed).normal(size=(2, 150))
        one = rank_agreement({"x": x[0], "y": x[0] + x[1]}, n_bootstrap=200, random_state=seed)
        covered += one.low[0, 1] <= truth <= one.high[0, 1]
    assert covered >= 86


def test_datapoints_without_a_score_are_left_out():
    found = rank_agreement({"a": [1.0, 2.0, 3.0, np.nan], "b": [1.0, 2.0, 3.0, 0.0]}, n_bootstrap=5, random_state=0)
    assert found.n == 3
    assert found.spearman[0, 1] == pytest.approx(1)


def test_results_print_and_save():
    runs = np.random.default_rng(0).normal(size=(3, 30))
    found = rank_stability(runs, k=5, random_state=0)
    assert "the 5 highest of 30 datapoints, 3 measurements" in str(found)
    assert len(json.loads(found.to_json())["inclusion"]) == 30
    assert json.loads(rank_agreement({"a": runs[0], "b": runs[1]}, random_state=0).to_json())["names"] == ["a", "b"]


def test_bad_inputs_are_named():
    with pytest.raises(SchemaMismatch, match="one measurement says nothing of the next"):
        rank_stability(np.ones((1, 5)), k=2)
    with pytest.raises(SchemaMismatch, match=r"scores has shape \(5,\)"):
        rank_stability(np.ones(5), k=2)
    with pytest.raises(NotFinite, match="scores has NaN or infinity for datapoint 1"):
        rank_stability([[1.0, np.nan], [1.0, 2.0]], k=1)
    with pytest.raises(DatumwiseError, match="9 datapoints were asked of 5"):
        rank_stability(np.ones((2, 5)), k=9)
    with pytest.raises(DatumwiseError, match="an agreement takes two scores or more"):
        rank_agreement({"a": [1.0, 2.0, 3.0]})
