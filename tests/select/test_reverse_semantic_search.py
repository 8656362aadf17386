"""Reverse semantic search against all pairs."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.select.reverse_semantic_search import ReverseSemanticSearch


@pytest.mark.parametrize("seed", range(5))
def test_it_begins_with_the_least_similar_pair_and_goes_on_to_the_least_similar_to_all(seed: int) -> None:
    X = np.random.default_rng(seed).normal(size=(40, 3))
    U = X / np.linalg.norm(X, axis=1, keepdims=True)
    cosine = U @ U.T
    expected = list(np.unravel_index(cosine.argmin(), cosine.shape))
    gains = [1 - cosine.min()] * 2
    while len(expected) < 15:
        nearest = cosine[:, expected].max(axis=1)
        nearest[expected] = np.inf
        expected.append(int(nearest.argmin()))
        gains.append(1 - nearest.min())
    chosen = ReverseSemanticSearch(15).fit(X)
    assert chosen.ranking_.tolist() == expected
    np.testing.assert_allclose(chosen.gains_, gains, atol=1e-12)
    assert (np.diff(chosen.gains_[1:]) <= 1e-12).all()


def test_copies_ten_times_over_are_chosen_once_at_most() -> None:
    X = np.repeat(np.random.default_rng(0).normal(size=(12, 4)), 10, axis=0)
    assert len(np.unique(ReverseSemanticSearch(12).fit(X).ranking_ // 10)) == 12


def test_small_and_odd_sets() -> None:
    assert ReverseSemanticSearch(1).fit(np.ones((1, 2))).ranking_.tolist() == [0]
    assert ReverseSemanticSearch(1).fit(np.eye(3)).ranking_.tolist() == [0]
    assert sorted(ReverseSemanticSearch(3).fit(np.zeros((3, 2))).ranking_.tolist()) == [0, 1, 2]
    assert sorted(ReverseSemanticSearch(3).fit(np.ones((3, 2))).ranking_.tolist()) == [0, 1, 2]
