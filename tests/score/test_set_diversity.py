"""Measures of spread equal their definitions over all pairs, and `diversity` gathers them."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, NotFinite, UnknownName
from datumwise.score import set_diversity as module
from datumwise.score.declare import find
from datumwise.score.diversity import OF_X, diversity
from datumwise.score.novelsum import novelsum
from datumwise.score.set_diversity import (
    cluster_inertia,
    convex_radius,
    knn_distance,
    mean_pairwise_distance,
    minimum_distance,
)
from datumwise.score.vendi import vendi


def data(n=60, d=5, seed=0):
    return np.random.default_rng(seed).normal(size=(n, d)) + 2


def pairs(X, metric):
    if metric == "euclidean":
        return np.sqrt(((X[:, None] - X) ** 2).sum(axis=2))
    norms = np.linalg.norm(X, axis=1)
    cos = X @ X.T / np.outer(np.where(norms > 0, norms, 1), np.where(norms > 0, norms, 1))
    cos[np.ix_(norms == 0, norms == 0)] = 1
    return 1 - cos


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("cells", [1 << 19, 300])
def test_mean_and_minimum_are_over_all_pairs(metric, cells, monkeypatch):
    monkeypatch.setattr(module, "CELLS", cells)
    X = data()
    X[[4, 9, 30]] = 0
    X[7] = X[8]
    D = pairs(X, metric)[~np.eye(60, dtype=bool)]
    assert mean_pairwise_distance(X, metric) == pytest.approx(D.mean(), rel=1e-9)
    assert minimum_distance(X, metric) == pytest.approx(0, abs=1e-12)
    assert minimum_distance(data(), metric) == pytest.approx(pairs(data(), metric)[~np.eye(60, dtype=bool)].min())


def test_knn_distance_is_that_of_the_kth_nearest():
    D = np.sort(pairs(data(), "cosine"), axis=1)
    np.testing.assert_allclose(knn_distance(data()), D[:, 6], atol=1e-12)
    np.testing.assert_allclose(knn_distance(data(), k=1), D[:, 1], atol=1e-12)
    assert find("knn_distance").needs == ("embedding",)


def test_radius_scales_as_the_data_and_sees_a_dead_column():
    X = data()
    assert convex_radius(X) == pytest.approx(np.prod(X.std(axis=0)) ** (1 / 5))
    assert convex_radius(3 * X + 1) == pytest.approx(3 * convex_radius(X))
    assert convex_radius(np.column_stack([X, np.ones(60)])) == 0


def test_inertia_falls_to_nothing_with_a_centre_for_each():
    X = data()
    assert cluster_inertia(X, 1, random_state=0) == pytest.approx(60 * X.var(axis=0).sum())
    assert cluster_inertia(X, 60, random_state=0) == pytest.approx(0, abs=1e-9)


def test_one_call_gathers_what_can_be_measured():
    X, texts = data(), ["the cat sat on the mat"] * 3
    both = diversity(X, texts)
    assert list(both) == ["vendi", "knn", "novelsum", "mtld"]
    assert both["vendi"] == vendi(X)
    assert both["knn"] == knn_distance(X).mean()
    assert both["novelsum"] == novelsum(X)
    assert both["mtld"] == pytest.approx(6 / ((1 - 5 / 6) / 0.28))
    assert list(diversity(X)) == ["vendi", "knn", "novelsum"]
    assert list(diversity(texts=texts)) == ["mtld"]


def test_every_measure_grows_when_copies_are_replaced():
    X = data(60, 4, 1)
    copies = np.repeat(X[:20], 3, axis=0)
    a, b = diversity(X, metrics=tuple(OF_X)), diversity(copies, metrics=tuple(OF_X))
    smaller = {name for name in OF_X if b[name] < a[name]}
    assert smaller >= {"vendi", "novelsum", "min_distance", "inertia"}


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(UnknownName, match="there is no measure 'vendy' of diversity: did you mean 'vendi'"):
        diversity(data(), metrics=("vendy",))
    with pytest.raises(DatumwiseError, match=r"mtld: nothing given to measure: give X= \(embeddings\) or texts="):
        diversity(data(), metrics=("mtld",))
    with pytest.raises(DatumwiseError, match="texts must be a list of at least one string"):
        diversity(texts="a text")
    with pytest.raises(DatumwiseError, match="one datapoint has no distance to another"):
        mean_pairwise_distance([[1.0]])
    with pytest.raises(UnknownName, match="there is no metric 'cosin': did you mean 'cosine'"):
        mean_pairwise_distance(data(), "cosin")
    with pytest.raises(NotFinite, match="row 1"):
        minimum_distance([[1.0], [np.nan]])
    with pytest.raises(DatumwiseError, match="61 clusters were asked of 60 rows"):
        cluster_inertia(data(), 61)
