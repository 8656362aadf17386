"""Farthest-first traversal: within twice the best radius, and as it is defined."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.select.k_center_greedy import KCenterGreedy


def distances(X):
    return np.sqrt(((X[:, None] - X) ** 2).sum(axis=2))


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("start", ["mean", "random"])
def test_radius_is_at_most_twice_the_best(metric, start):
    for seed in range(6):
        X = np.random.default_rng(seed).normal(size=(12, 3))
        D = distances(X / np.linalg.norm(X, axis=1)[:, None] if metric == "cosine" else X)
        found = KCenterGreedy(4, metric=metric, start=start, random_state=seed).fit(X)
        best = min(D[:, list(S)].min(axis=1).max() for S in combinations(range(12), 4))
        assert best <= found.radius_ + 1e-12
        assert found.radius_ <= 2 * best
        assert found.radius_ == pytest.approx(D[:, found.ranking_].min(axis=1).max())


def test_every_pick_is_the_farthest():
    X = np.random.default_rng(0).normal(size=(60, 4)) + 100
    D = distances(X)
    found = KCenterGreedy(20).fit(X)
    assert found.ranking_[0] == np.argmin(((X - X.mean(axis=0)) ** 2).sum(axis=1))
    for t in range(1, 20):
        nearest = D[:, found.ranking_[:t]].min(axis=1)
        assert found.ranking_[t] == np.argmax(nearest)
        assert found.gains_[t] == pytest.approx(nearest.max(), abs=1e-12)
    assert found.gains_[0] == np.inf
    assert (np.diff(found.gains_) <= 1e-12).all()
    assert found.nearest_.tolist() == found.ranking_[D[:, found.ranking_].argmin(axis=1)].tolist()
    assert found.weights_.sum() == 60


def test_rows_given_come_first_and_count():
    X = np.random.default_rng(1).normal(size=(30, 2))
    found = KCenterGreedy(6, start=[7, 3]).fit(X)
    assert found.ranking_[:2].tolist() == [7, 3]
    assert found.ranking_[2] == np.argmax(distances(X)[:, [7, 3]].min(axis=1))


def test_permuted_rows_permute_the_ranking():
    X = np.random.default_rng(2).normal(size=(50, 3))
    order = np.random.default_rng(3).permutation(50)
    assert order[KCenterGreedy(15).fit(X[order]).ranking_].tolist() == KCenterGreedy(15).fit(X).ranking_.tolist()


def test_copies_come_last_each_once_and_ties_go_to_the_lowest_row():
    X = np.array([[0.0], [1.0], [1.0], [0.0], [2.0]]) * 1e7
    found = KCenterGreedy(5).fit(X)
    assert found.ranking_.tolist() == [1, 0, 4, 2, 3]
    assert found.gains_[1:].tolist() == [1e7, 1e7, 0.0, 0.0]
    assert found.radius_ == 0


def test_what_cannot_be_is_refused():
    with pytest.raises(UnknownName, match="there is no metric 'euclid': did you mean 'euclidean'"):
        KCenterGreedy(1, metric="euclid").fit(np.eye(3))
    with pytest.raises(UnknownName, match="there is no start 'maen': did you mean 'mean'"):
        KCenterGreedy(1, start="maen").fit(np.eye(3))
    for rows in ([3], [-1], [1, 1], [0, 1, 2], [], [0.5]):
        with pytest.raises(DatumwiseError, match="start must be different rows from 0 to 2, at least one and at most 2"):
            KCenterGreedy(2, start=rows).fit(np.eye(3))
