"""Herding keeps its invariant, and its error falls as theory says."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import UnknownName
from datumwise.select.herding import Herding, herd


@pytest.mark.parametrize("replace", [False, True])
def test_w_moves_by_k_times_the_error_of_the_mean(replace):
    X = np.random.default_rng(0).normal(size=(80, 6))
    found = Herding(25, replace=replace).fit(X)
    np.testing.assert_allclose(found.w_ - X.mean(axis=0), 25 * (X.mean(axis=0) - X[found.ranking_].mean(axis=0)), atol=1e-12)


def test_one_hot_rows_are_visited_once_in_every_block():
    """And k |mu - mean| stays below sqrt(n) / 2: an error of O(1 / k)."""
    n = 16
    ranking = herd(np.eye(n), 5 * n, replace=True)[0]
    for block in ranking.reshape(5, n):
        assert sorted(block) == list(range(n))
    for k in range(1, 5 * n + 1):
        error = 1 / n - np.bincount(ranking[:k], minlength=n) / k
        assert k * np.linalg.norm(error) <= np.sqrt(n) / 2 + 1e-9


def test_without_replacement_one_hot_error_is_that_of_any_subset():
    n = 16
    ranking = herd(np.eye(n), 10)[0]
    for k in range(1, 11):
        error = 1 / n - np.bincount(ranking[:k], minlength=n) / k
        assert np.linalg.norm(error) == pytest.approx(np.sqrt(1 / k - 1 / n))


def test_picks_are_the_definition():
    X = np.random.default_rng(1).normal(size=(40, 3))
    w, left, wanted = X.mean(axis=0), set(range(40)), []
    for _ in range(12):
        wanted.append(max(sorted(left), key=lambda i: X[i] @ w))
        left.remove(wanted[-1])
        w = w + X.mean(axis=0) - X[wanted[-1]]
    assert Herding(12).fit(X).ranking_.tolist() == wanted


def test_the_linear_kernel_herds_as_herding_does():
    X = np.random.default_rng(2).normal(size=(50, 4))
    unit = X / np.linalg.norm(X, axis=1)[:, None]
    for replace in (False, True):
        a, b = Herding(20, replace=replace).fit(unit), Herding(20, metric="cosine_signed", replace=replace).fit(X)
        assert a.ranking_.tolist() == b.ranking_.tolist()
        np.testing.assert_allclose(a.gains_, b.gains_, atol=1e-9)


def test_the_picks_follow_the_mean_better_than_chance():
    X = np.random.default_rng(3).normal(size=(500, 8))
    error = np.linalg.norm(X[Herding(40).fit(X).ranking_].mean(axis=0) - X.mean(axis=0))
    chance = [
        np.linalg.norm(X[np.random.default_rng(s).choice(500, 40, replace=False)].mean(axis=0) - X.mean(axis=0))
        for s in range(30)
    ]
    assert error < min(chance) / 2


def test_permuted_rows_permute_the_ranking():
    X = np.random.default_rng(4).normal(size=(50, 3))
    order = np.random.default_rng(5).permutation(50)
    for metric in ("dot", "rbf"):
        a, b = Herding(10, metric=metric).fit(X), Herding(10, metric=metric).fit(X[order])
        assert order[b.ranking_].tolist() == a.ranking_.tolist()


def test_an_unknown_metric_is_refused():
    with pytest.raises(UnknownName, match="there is no metric 'rfb' to herd by: did you mean 'rbf'"):
        Herding(1, metric="rfb").fit(np.eye(3))
