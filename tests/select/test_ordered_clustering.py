"""Ordered clustering: turns, sizes, outliers."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import DatumwiseError
from datumwise.select.ordered_clustering import OrderedClustering


def clusters() -> np.ndarray:
    rng = np.random.default_rng(0)
    parts = [rng.normal(c, 0.1, (n, 2)) for c, n in (((0, 0), 20), ((9, 0), 40), ((0, 9), 30))]
    return np.vstack([*parts, [[50.0, 50.0], [-60.0, 40.0]]])


def test_clusters_take_turns_biggest_first_and_give_their_outliers_first() -> None:
    chosen = OrderedClustering(92, metric="euclidean").fit(clusters())
    labels = chosen.labels_
    assert sorted(np.bincount(labels[labels >= 0]).tolist()) == [20, 30, 40]
    assert chosen.ranking_[-2:].tolist() == [90, 91]  # noise last
    turns = labels[chosen.ranking_]
    big, middle, small = labels[20], labels[60], labels[0]
    assert turns[:60].tolist() == [big, middle, small] * 20
    assert turns[60:80].tolist() == [big, middle] * 10
    for cluster in (big, middle, small):
        outlying = chosen.gains_[turns == cluster]
        assert (np.diff(outlying) <= 0).all()
        assert outlying[0] > outlying[-1]
    assert sorted(chosen.ranking_.tolist()) == list(range(92))


def test_by_cosine_only_the_direction_counts() -> None:
    X = np.random.default_rng(1).normal(size=(60, 3)) + np.repeat(4 * np.eye(3), 20, axis=0)
    scaled = X * np.random.default_rng(2).uniform(0.1, 9, (60, 1))
    assert np.array_equal(OrderedClustering(20).fit(X).ranking_, OrderedClustering(20).fit(scaled).ranking_)


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(DatumwiseError, match="no metric 'manhattan'"):
        OrderedClustering(1, metric="manhattan").fit(clusters())
    for size in (1, 93):
        with pytest.raises(DatumwiseError, match="min_cluster_size is"):
            OrderedClustering(1, min_cluster_size=size).fit(clusters())
