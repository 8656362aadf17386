"""Dawid and Skene's EM against loops, and against a known crowd."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, LabelError
from datumwise.score.crowdlab import majority_vote
from datumwise.score.dawid_skene import dawid_skene


def by_loop(votes: np.ndarray, K: int, steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eq. 2.3 to 2.5, datapoint by datapoint."""
    n, m = votes.shape
    T = np.zeros((n, K))
    for i in range(n):
        for j in range(m):
            if not np.isnan(votes[i, j]):
                T[i, int(votes[i, j])] += 1
        T[i] /= T[i].sum()
    for _ in range(steps):
        prior = T.mean(axis=0)
        confusion = np.zeros((m, K, K))
        for j in range(m):
            for i in range(n):
                if not np.isnan(votes[i, j]):
                    confusion[j, :, int(votes[i, j])] += T[i]
            confusion[j] /= confusion[j].sum(axis=1, keepdims=True)
        for i in range(n):
            T[i] = prior
            for j in range(m):
                if not np.isnan(votes[i, j]):
                    T[i] *= confusion[j, :, int(votes[i, j])]
            T[i] /= T[i].sum()
    return T, prior, confusion


def crowd(n: int, K: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, K, n)
    confusion = np.stack([s * np.eye(K) + (1 - s) / K for s in (0.9, 0.75, 0.6, 0.5)])
    votes = np.stack([[rng.choice(K, p=c[t]) for t in truth] for c in confusion], axis=1).astype(float)
    votes[rng.random(votes.shape) < 0.2] = np.nan
    votes[np.isnan(votes).all(axis=1), 0] = 0
    return votes, truth, confusion


@pytest.mark.parametrize("steps", [1, 2, 7])
def test_steps_equal_the_loop(steps):
    votes, _, _ = crowd(60, 3, 0)
    found = dawid_skene(votes, max_iter=steps)
    T, prior, confusion = by_loop(votes, 3, steps)
    np.testing.assert_allclose(found.probs, T, atol=1e-10)
    np.testing.assert_allclose(found.prior, prior, atol=1e-12)
    np.testing.assert_allclose(found.confusion, confusion, atol=1e-12)


def test_two_perfect_raters_outweigh_three_that_guess():
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 2, 400)
    votes = np.column_stack([truth, truth, *rng.integers(0, 2, (3, 400))])
    assert (dawid_skene(votes).labels == truth).mean() >= 0.99
    assert 0.8 < (majority_vote(votes) == truth).mean() < 0.93


def test_the_raters_confusions_are_recovered():
    votes, truth, confusion = crowd(4000, 3, 1)
    found = dawid_skene(votes)
    assert found.converged
    assert np.abs(found.confusion - confusion).max() < 0.06
    assert (found.labels == truth).mean() > (majority_vote(votes) == truth).mean()


def test_the_likelihood_never_falls():
    votes, _, _ = crowd(100, 3, 2)
    seen = [dawid_skene(votes, max_iter=s, tolerance=0).log_likelihood for s in range(1, 15)]
    assert (np.diff(seen) > -1e-9).all()


def test_the_posterior_says_how_often_it_is_right():
    votes, truth, _ = crowd(6000, 2, 3)
    found = dawid_skene(votes)
    for low, high in ((0.5, 0.7), (0.7, 0.9), (0.9, 1.0)):
        some = (found.quality >= low) & (found.quality < high + 1e-12)
        assert (found.labels == truth)[some].mean() == pytest.approx(found.quality[some].mean(), abs=0.05)


def test_smoothing_keeps_a_rater_of_one_vote_from_being_certain():
    votes = np.array([[0, np.nan], [0, 0], [1, np.nan], [1, np.nan]])
    assert dawid_skene(votes).confusion[1, 0, 0] == 1
    assert dawid_skene(votes, smoothing=1.0).confusion[1, 0, 0] < 0.7


def test_bad_input_is_refused():
    with pytest.raises(LabelError, match="all votes name one class"):
        dawid_skene([[0, 0], [0, np.nan]])
    with pytest.raises(LabelError, match=r"row 0 are not classes 0\.\.1"):
        dawid_skene([[2, 0], [0, 1]], n_classes=2)
    with pytest.raises(DatumwiseError, match="smoothing = -1"):
        dawid_skene([[0, 1], [0, 1]], smoothing=-1)
    with pytest.raises(DatumwiseError, match="max_iter = 0"):
        dawid_skene([[0, 1], [0, 1]], max_iter=0)
