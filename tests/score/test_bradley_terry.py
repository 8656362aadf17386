"""Strengths from comparisons against closed forms and a general optimiser."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from datumwise.errors import DatumwiseError, EmptyData, LabelError, NotFinite, SchemaMismatch
from datumwise.score.bradley_terry import bradley_terry, elo


def tournament(n: int, games: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    s = rng.normal(size=n)
    a = rng.integers(0, n, games)
    b = (a + rng.integers(1, n, games)) % n
    first = rng.random(games) < 1 / (1 + np.exp(s[b] - s[a]))
    return np.where(first, a, b), np.where(first, b, a), s - s.mean()


def test_two_items_are_apart_by_the_log_odds():
    found = bradley_terry([0] * 30 + [1] * 10, [1] * 30 + [0] * 10)
    assert found.scores[0] - found.scores[1] == pytest.approx(np.log(3), abs=1e-9)
    # Fisher information of the difference is 40 p (1 - p); each score is half of it
    assert found.stderr[0] == pytest.approx(0.5 / np.sqrt(40 * 0.75 * 0.25), abs=1e-9)


@pytest.mark.parametrize("ridge", [0.0, 0.5])
def test_it_maximises_the_likelihood(ridge):
    winners, losers, _ = tournament(8, 300, 0)
    weights = np.random.default_rng(1).uniform(0.5, 2, 300)

    def loss(s: np.ndarray) -> float:
        return (weights * np.logaddexp(0, s[losers] - s[winners])).sum() + ridge / 2 * s @ s + 1e-9 * s.sum() ** 2

    expected = minimize(loss, np.zeros(8), method="BFGS", options={"gtol": 1e-9}).x
    found = bradley_terry(winners, losers, weights=weights, ridge=ridge)
    assert found.converged
    np.testing.assert_allclose(found.scores, expected - expected.mean(), atol=1e-5)
    assert found.log_likelihood == pytest.approx(
        -(weights * np.logaddexp(0, found.scores[losers] - found.scores[winners])).sum()
    )


def test_standard_errors_cover_the_truth_as_often_as_they_say():
    inside = 0
    for seed in range(150):
        winners, losers, truth = tournament(6, 400, seed)
        found = bradley_terry(winners, losers, 6)
        inside += (np.abs(found.scores - truth) < 1.645 * found.stderr).sum()
    assert 0.87 < inside / 900 < 0.93


def test_ridge_is_logistic_regression_on_differences():
    winners, losers, _ = tournament(7, 200, 3)
    X = np.zeros((200, 7))
    X[np.arange(200), winners], X[np.arange(200), losers] = 1, -1
    flip = np.arange(200) % 2 == 0
    fitted = LogisticRegression(C=1 / 0.8, fit_intercept=False, tol=1e-10).fit(np.where(flip[:, None], -X, X), ~flip)
    np.testing.assert_allclose(bradley_terry(winners, losers, ridge=0.8).scores, fitted.coef_[0], atol=1e-4)


def test_a_draw_is_two_halves():
    drawn = bradley_terry([0, 1, 0, 1], [1, 0, 1, 0], weights=[0.5, 0.5, 1, 1])
    np.testing.assert_allclose(drawn.scores, 0, atol=1e-12)
    assert drawn.comparisons.tolist() == [4, 4]


def test_renaming_the_items_renames_the_scores():
    winners, losers, _ = tournament(9, 300, 4)
    to = np.random.default_rng(0).permutation(9)
    one, two = bradley_terry(winners, losers), bradley_terry(to[winners], to[losers])
    np.testing.assert_allclose(one.scores, two.scores[to], atol=1e-8)
    np.testing.assert_allclose(one.stderr, two.stderr[to], atol=1e-8)


def test_many_items_are_solved_without_a_dense_matrix(monkeypatch):
    import importlib

    winners, losers, _ = tournament(60, 4000, 5)
    dense = bradley_terry(winners, losers)
    monkeypatch.setattr(importlib.import_module("datumwise.score.bradley_terry"), "MOST_DENSE", 10)
    sparse = bradley_terry(winners, losers)
    np.testing.assert_allclose(sparse.scores, dense.scores, atol=1e-6)
    assert np.isnan(sparse.stderr).all()


def test_who_always_won_is_infinitely_strong_without_ridge():
    with pytest.raises(DatumwiseError, match="item 2 was never compared with the others, or has won or lost all"):
        bradley_terry([0, 1, 2, 2], [1, 0, 0, 1])
    assert bradley_terry([0, 1, 2, 2], [1, 0, 0, 1], ridge=0.1).scores.argmax() == 2
    with pytest.raises(DatumwiseError, match="item 3 was never compared"):
        bradley_terry([0, 1, 1, 2, 0, 2], [1, 0, 2, 1, 2, 0], n=4)


def test_elo_moves_by_k_times_the_surprise():
    ratings, stderr = elo([0, 0], [1, 1])
    second = 32 / (1 + 10 ** (32 / 400))
    assert ratings[0] == pytest.approx(1000 + 16 + second)
    assert ratings.sum() == pytest.approx(2000)
    assert np.isnan(stderr).all()


def test_shuffled_elo_ranks_as_bradley_terry():
    winners, losers, truth = tournament(10, 3000, 6)
    ratings, stderr = elo(winners, losers, k=8, n_shuffles=20, random_state=0)
    assert np.corrcoef(ratings, bradley_terry(winners, losers).scores)[0, 1] > 0.99
    assert (stderr > 0).all()
    assert np.corrcoef(ratings, truth)[0, 1] > 0.95


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (([], []), EmptyData, "no comparison"),
        (([0, 1], [1]), SchemaMismatch, "one item a comparison"),
        (([0, 1], [1, 1]), LabelError, "comparison 1 is of an item with itself"),
        (([0, 5], [1, 0], 3), LabelError, r"comparison 1 names no item of 0\.\.2"),
        ((["a"], ["b"]), LabelError, "item numbers"),
    ],
)
def test_bad_comparisons_are_refused_in_one_sentence(given, error, says):
    with pytest.raises(error, match=says):
        bradley_terry(*given)


def test_bad_weights_are_refused():
    with pytest.raises(NotFinite, match="weight of comparison 1 is not above 0"):
        bradley_terry([0, 1], [1, 0], weights=[1, 0])
    with pytest.raises(DatumwiseError, match="ridge = -1"):
        bradley_terry([0, 1], [1, 0], ridge=-1)
    with pytest.raises(DatumwiseError, match="k = 0"):
        elo([0], [1], k=0)
