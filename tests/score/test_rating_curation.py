"""Transition matrices from exact frequencies, gradients by differences, and ratings put right."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from scipy.optimize import approx_fprime

from datumwise.errors import DatumwiseError, LabelError, SchemaMismatch
from datumwise.score.rating_curation import consensus_statistics, curate_ratings, transition_matrix

room = importlib.import_module("datumwise.score.rating_curation")


def judged(n: int, K: int, seed: int, keep: float = 0.7) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Embeddings of tight groups of one true level each, ratings through T."""
    rng = np.random.default_rng(seed)
    level = rng.choice(K, n // 20, p=np.arange(1, K + 1) / np.arange(1, K + 1).sum())
    truth = np.repeat(level, 20)
    X = np.repeat(rng.normal(size=(n // 20, 16)), 20, axis=0) + 0.1 * rng.normal(size=(n, 16))
    T = keep * np.eye(K) + (1 - keep) / (K - 1) * (1 - np.eye(K))
    ratings = np.array([rng.choice(K, p=T[t]) for t in truth])
    return X, ratings, truth, T


def test_consensus_statistics_count_triples():
    first, second, third = consensus_statistics(np.array([[0, 1, 1], [0, 0, 1], [1, 1, 1], [0, 1, 1]]), 2)
    np.testing.assert_allclose(first, [0.75, 0.25])
    np.testing.assert_allclose(second, [[0.25, 0.5], [0, 0.25]])
    assert third[0, 1, 1] == 0.5
    assert third.sum() == 1


@pytest.mark.parametrize("K", [2, 3, 6])
def test_exact_frequencies_give_the_matrix_back(K):
    rng = np.random.default_rng(K)
    T = 0.6 * np.eye(K) + 0.4 * rng.dirichlet(np.ones(K), K)
    p = rng.dirichlet(np.full(K, 5.0))
    stats = (p @ T, np.einsum("k,ka,kb->ab", p, T, T), np.einsum("k,ka,kb,kc->abc", p, T, T, T))
    found, prior = room._fit_transition(*stats)
    np.testing.assert_allclose(found, T, atol=5e-3)
    np.testing.assert_allclose(prior, p, atol=5e-3)


def test_the_gradient_is_that_of_the_loss(monkeypatch):
    caught = {}

    def spy(loss, start, **_):
        caught["loss"] = loss
        raise StopIteration

    monkeypatch.setattr(room, "minimize", spy)
    rng = np.random.default_rng(0)
    third = rng.dirichlet(np.ones(27)).reshape(3, 3, 3)
    with pytest.raises(StopIteration):
        room._fit_transition(third.sum(axis=(1, 2)), third.sum(axis=2), third)
    theta = rng.normal(size=12)
    numeric = approx_fprime(theta, lambda t: caught["loss"](t)[0], 1e-7)
    np.testing.assert_allclose(caught["loss"](theta)[1], numeric, atol=1e-6)


def test_a_judges_matrix_is_estimated_without_the_truth():
    X, ratings, truth, T = judged(6000, 4, 0)
    found, prior = transition_matrix(X, ratings)
    assert np.abs(found - T).max() < 0.08
    assert np.abs(prior - np.bincount(truth) / 6000).max() < 0.06


def test_curation_puts_most_wrong_ratings_right():
    X, ratings, truth, _ = judged(2000, 4, 1)
    found = curate_ratings(X, ratings, random_state=0)
    assert (ratings == truth).mean() < 0.75
    assert (found.ratings == truth).mean() > 0.9
    wrong = ratings != truth
    assert found.error[wrong].mean() > 0.8
    assert found.error[~wrong].mean() < 0.15
    assert "ratings look wrong" in str(found)


def test_only_confident_suggestions_replace_a_rating():
    X, ratings, _, _ = judged(600, 3, 2)
    found = curate_ratings(X, ratings, threshold=0.5, random_state=0)
    changed = found.ratings != ratings
    assert (found.confidence[changed] >= 0.5).all()
    assert (found.confidence[~found.error] == 0).all()
    assert (found.suggested != ratings).all()
    never = curate_ratings(X, ratings, threshold=1.1, random_state=0)
    np.testing.assert_array_equal(never.ratings, ratings)


def test_a_perfect_judge_is_never_wrong():
    """Published: all ratings that tie with the threshold are flagged, and argsort(noise)[-0:] reports all for none."""
    X, _, truth, _ = judged(400, 2, 3)
    found = curate_ratings(X, truth, random_state=0)
    assert not found.error.any()
    np.testing.assert_array_equal(found.ratings, truth)


def test_a_seed_repeats():
    X, ratings, _, _ = judged(400, 3, 4)
    one, two = (curate_ratings(X, ratings, n_rounds=5, random_state=0) for _ in range(2))
    np.testing.assert_array_equal(one.confidence, two.confidence)


def test_bad_input_is_refused():
    X, ratings, _, _ = judged(40, 2, 5)
    with pytest.raises(SchemaMismatch, match="40 rows and there are 3 ratings"):
        curate_ratings(X, ratings[:3])
    with pytest.raises(LabelError, match="lie below 0"):
        curate_ratings(X, ratings - 1)
    with pytest.raises(DatumwiseError, match="k = 40 votes of 40"):
        curate_ratings(X, ratings, k=40)
    with pytest.raises(DatumwiseError, match="n_levels 1"):
        curate_ratings(X, np.arange(40) % 2, n_levels=1)


def test_votes_are_similarities_of_the_nearest_in_the_sample_and_a_step_nearer_for_oneself():
    rng = np.random.default_rng(6)
    X, ratings = rng.normal(size=(30, 3)), rng.integers(0, 3, 30)
    inside = rng.random(30) < 0.7
    rows = np.flatnonzero(inside)
    distance, near = room.neighbours(X, 29, "cosine")
    found = room._votes(ratings, distance[rows], near[rows], inside, rows, 6, 3)
    unit = X / np.linalg.norm(X, axis=1, keepdims=True)
    for place, i in enumerate(rows):
        gap = 1 - unit @ unit[i]
        others = [j for j in np.argsort(gap, kind="stable") if inside[j] and j != i][:5]
        votes = np.zeros(3)
        for j in others:
            votes[ratings[j]] += 1 - gap[j]
        votes[ratings[i]] += 1 - (2 * gap[others[0]] - gap[others[1]])
        np.testing.assert_allclose(found[place], votes / np.linalg.norm(votes), atol=1e-9)
