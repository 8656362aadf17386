"""Kernels are what they say, however they are read, and a similarity that cannot be is refused."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import scipy.sparse as sp

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, UnknownName
from datumwise.select.facility_location import FacilityLocation
from datumwise.select.similarity import Dense, OnTheFly, Sparse, bandwidth, features, given, similarity

module = importlib.import_module("datumwise.select.similarity")  # the room's name is the function


KERNELS = ["cosine", "cosine_shifted", "cosine_signed", "dot", "rbf", "euclidean"]


def data(n=40, d=6, seed=0):
    X = np.random.default_rng(seed).normal(size=(n, d)) + 0.3
    X[7] = 0
    X[9] = X[3]
    return X


def by_definition(X, metric):
    D = np.sqrt(((X[:, None] - X) ** 2).sum(axis=2))
    norms = np.linalg.norm(X, axis=1)
    with np.errstate(invalid="ignore"):
        cos = np.nan_to_num(X @ X.T / np.outer(norms, norms))
    cos[np.ix_(norms == 0, norms == 0)] = 1
    return {
        "cosine": np.maximum(cos, 0),
        "cosine_shifted": (1 + cos) / 2,
        "cosine_signed": cos,
        "dot": X @ X.T,
        "rbf": np.exp(-(D**2) / X.var(axis=0).sum()),
        "euclidean": D.max() - D,
    }[metric]


@pytest.mark.parametrize("metric", KERNELS)
def test_kernel_equals_its_definition_held_or_not(metric, monkeypatch):
    X = data()
    wanted = by_definition(X, metric)
    held = similarity(X, metric)
    assert isinstance(held, Dense)
    assert held.S.dtype == np.float32
    monkeypatch.setattr(module, "DENSE", 10)
    monkeypatch.setattr(module, "CELLS", 100)
    flown = similarity(X, metric)
    assert isinstance(flown, OnTheFly)
    every = np.arange(40)
    for S, atol in ((held, 1e-6), (flown, 1e-12)):
        np.testing.assert_allclose(S.rows(every), wanted, atol=atol * max(1, np.abs(wanted).max()))
        np.testing.assert_allclose(S.columns(every[::7]), wanted[:, ::7].T, atol=1e-5)
        np.testing.assert_allclose(S.diagonal, np.diagonal(wanted), atol=1e-5)
        np.testing.assert_allclose(S.sums[0], wanted.sum(axis=1), atol=1e-4)
        np.testing.assert_allclose(S.sums[1], wanted.sum(axis=0), atol=1e-4)


@pytest.mark.parametrize("metric", ["cosine_shifted", "cosine_signed", "dot"])
def test_features_multiply_to_the_kernel(metric):
    B = features(data(), metric)
    np.testing.assert_allclose(B @ B.T, by_definition(data(), metric), atol=1e-12)
    assert features(data(), "rbf") is None


@pytest.mark.parametrize("metric", ["cosine", "cosine_shifted", "rbf"])
def test_graph_keeps_the_neighbours_of_either_and_is_symmetric(metric):
    X = np.random.default_rng(1).normal(size=(40, 6))
    graph = similarity(X, metric, n_neighbors=5)
    assert isinstance(graph, Sparse)
    S = graph.rows(np.arange(40))
    full = by_definition(X, metric)
    D = np.sqrt(((X[:, None] - X) ** 2).sum(axis=2)) if metric == "rbf" else 1 - by_definition(X, "cosine_signed")
    np.fill_diagonal(D, np.inf)
    near = np.zeros((40, 40), dtype=bool)
    near[np.arange(40)[:, None], np.argsort(D, axis=1, kind="stable")[:, :5]] = True
    near |= near.T
    np.fill_diagonal(near, True)
    np.testing.assert_allclose(S, np.where(near, full, 0), atol=1e-6)
    assert (S == S.T).all()


def test_graph_of_all_neighbours_chooses_as_the_full_similarity_does():
    X = np.random.default_rng(2).normal(size=(50, 4))
    for metric in ("cosine", "rbf"):
        a = FacilityLocation(10, metric=metric).fit(X)
        b = FacilityLocation(10, metric=metric, n_neighbors=49).fit(X)
        assert a.ranking_.tolist() == b.ranking_.tolist()
        np.testing.assert_allclose(a.gains_, b.gains_, rtol=1e-5)


def test_near_copies_far_from_all_others_keep_their_distance():
    """|x|^2 + |y|^2 - 2 <x, y> alone loses it."""
    X = np.random.default_rng(3).normal(size=(30, 3)) * 0.01 + np.repeat([[1e6], [-1e6]], 15, axis=0)
    D = np.sqrt(((X[:, None] - X) ** 2).sum(axis=2))
    np.testing.assert_allclose(OnTheFly(X, "rbf", 1e4).rows(np.arange(30)), np.exp(-1e4 * D**2), atol=1e-4)


def test_bandwidth_is_free_of_scale_and_shift():
    X = np.random.default_rng(3).normal(size=(60, 3))
    assert bandwidth(5 * X + 7) == pytest.approx(bandwidth(X) / 25)
    assert bandwidth(np.ones((4, 2))) == 1.0
    np.testing.assert_allclose(
        OnTheFly(5 * X + 7, "rbf").rows(np.arange(60)), OnTheFly(X, "rbf").rows(np.arange(60)), atol=1e-12
    )


def test_a_given_similarity_is_not_copied():
    for dtype in (np.float32, np.float64):
        S = np.eye(4, dtype=dtype)
        assert given(S).S is S


def test_what_is_no_similarity_is_refused():
    with pytest.raises(SchemaMismatch, match="a precomputed similarity must be square, and this is 3 x 2"):
        FacilityLocation(1, metric="precomputed").fit(np.ones((3, 2)))
    with pytest.raises(SchemaMismatch, match="a precomputed similarity must be square, and this is 3 x 2"):
        FacilityLocation(1, metric="precomputed").fit(sp.csr_array(np.ones((3, 2))))
    bad = np.eye(3)
    bad[1, 0] = np.nan
    for S in (bad, sp.csr_array(bad)):
        with pytest.raises(NotFinite, match="the precomputed similarity has NaN or infinity in row 1"):
            FacilityLocation(1, metric="precomputed").fit(S)
    bad[1, 0] = -0.5
    for S in (bad, sp.csr_array(bad)):
        with pytest.raises(DatumwiseError, match=r"similarity is negative in row 1: clip it, np.maximum\(S, 0\), or shift"):
            FacilityLocation(1, metric="precomputed").fit(S)
    with pytest.raises(DatumwiseError, match=r"metric 'cosine_signed' has negative similarities .* clip them"):
        FacilityLocation(1, metric="cosine_signed").fit(np.eye(3))
    with pytest.raises(UnknownName, match="there is no metric 'cosin': did you mean 'cosine'"):
        FacilityLocation(1, metric="cosin").fit(np.eye(3))
    with pytest.raises(NotFinite, match="X has NaN or infinity in row 2"):
        FacilityLocation(1).fit([[0.0], [1.0], [np.nan]])
    with pytest.raises(DatumwiseError, match="gamma is 0: gamma > 0"):
        FacilityLocation(1, metric="rbf", gamma=0).fit(np.eye(3))
    with pytest.raises(DatumwiseError, match="a precomputed similarity has no neighbours to look for"):
        FacilityLocation(1, metric="precomputed", n_neighbors=1).fit(np.eye(3))
    with pytest.raises(DatumwiseError, match="metric 'dot' has no nearest neighbours"):
        similarity(np.eye(3), "dot", n_neighbors=1)
