"""Nearest neighbours against brute force, ties and all."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, UnknownName
from datumwise.probe import neighbours as module
from datumwise.probe.neighbours import default_metric, neighbours


def brute(X, k, metric, queries=None):
    """Every distance in float64 from coordinate differences, sorted by (distance, index)."""
    Q = X if queries is None else queries
    distances, indices = np.empty((len(Q), k)), np.empty((len(Q), k), int)
    for i, q in enumerate(np.asarray(Q, float)):
        if metric == "euclidean":
            d = np.sqrt(((X - q) ** 2).sum(axis=1))
        else:
            norms = np.linalg.norm(X, axis=1) * np.linalg.norm(q)
            d = np.where(norms > 0, 1 - X @ q / np.where(norms > 0, norms, 1), 1.0)
            d[~X.any(axis=1) & ~q.any()] = 0
        if queries is None:
            d[i] = np.inf
        order = np.lexsort((np.arange(len(X)), d))[:k]
        distances[i], indices[i] = d[order], order
    return distances, indices


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize(("n", "d", "k"), [(2, 1, 1), (40, 3, 39), (700, 17, 10), (1500, 64, 5)])
def test_neighbours_equal_brute_force(metric, n, d, k):
    X = np.random.default_rng(n).normal(size=(n, d))
    if metric == "cosine" and d == 1:
        X = np.random.default_rng(n).normal(size=(n, 2))
    distances, indices = neighbours(X, k, metric)
    expected, at = brute(X, k, metric)
    np.testing.assert_array_equal(indices, at)
    np.testing.assert_allclose(distances, expected, rtol=1e-9, atol=1e-14)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(2, 120), st.integers(1, 4), st.integers(1, 3), st.booleans())
def test_ties_go_to_the_lowest_index_on_a_grid(seed, n, d, levels, with_queries):
    """On small integers almost all distances are tied, and float64 has them exactly."""
    rng = np.random.default_rng(seed)
    X = rng.integers(0, levels + 1, (n, d)).astype(float)
    Q = rng.integers(0, levels + 1, (7, d)).astype(float) if with_queries else None
    k = int(rng.integers(1, n + with_queries))
    distances, indices = neighbours(X, k, "euclidean", Q)
    expected, at = brute(X, k, "euclidean", Q)
    np.testing.assert_array_equal(indices, at)
    np.testing.assert_array_equal(distances, expected)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_exact_copies_are_at_distance_zero_in_order_of_index(metric):
    rng = np.random.default_rng(3)
    base = rng.normal(size=(30, 9))
    X = base[rng.permutation(np.repeat(np.arange(30), 8))]
    distances, indices = neighbours(X, 7, metric)
    assert (distances == 0).all()
    for i, row in enumerate(indices):
        copies = np.flatnonzero((X[i] == X).all(axis=1))
        np.testing.assert_array_equal(row, copies[copies != i])


def test_neighbours_closer_than_float32_can_tell_are_ordered_as_in_float64():
    """Points 1e-9 apart around a far centre: a float32 product alone gets every one of them wrong."""
    step = 1e-9 * np.arange(50)
    X = 1000.0 + np.column_stack([step, np.zeros(50), np.zeros(50)])
    _, indices = neighbours(X, 1, "euclidean", X[[0]] - 1.0)
    assert indices[0, 0] == 0
    _, indices = neighbours(X, 49, "euclidean")
    np.testing.assert_array_equal(indices[0], np.arange(1, 50))


def test_one_huge_row_does_not_blur_the_others():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(600, 12))
    X[77] = 1e7
    np.testing.assert_array_equal(neighbours(X, 5, "euclidean")[1], brute(X, 5, "euclidean")[1])


def test_numbers_beyond_float32_do_not_overflow():
    X = np.random.default_rng(1).normal(size=(50, 4))
    for scale in (1e-200, 1e200):
        distances, indices = neighbours(X * scale, 3, "euclidean")
        np.testing.assert_array_equal(indices, neighbours(X, 3, "euclidean")[1])
        assert np.isfinite(distances).all()
        assert (distances > 0).all()


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_answer_does_not_depend_on_the_block(metric, monkeypatch):
    X = np.random.default_rng(5).normal(size=(300, 8)).astype(np.float32)
    whole = neighbours(X, 9, metric)
    for name, value in (("BLOCK", 900), ("ROWS", 3), ("PAIRS", 100), ("GROUP", 2)):
        monkeypatch.setattr(module, name, value)
    np.testing.assert_array_equal(neighbours(X, 9, metric)[1], whole[1])
    np.testing.assert_array_equal(neighbours(X, 9, metric)[0], whole[0])


def test_order_of_rows_only_renames_the_neighbours():
    rng = np.random.default_rng(2)
    X, order = rng.normal(size=(200, 6)), rng.permutation(200)
    distances, indices = neighbours(X, 4, "cosine")
    moved = neighbours(X[order], 4, "cosine")
    np.testing.assert_allclose(moved[0], distances[order], atol=1e-15)
    np.testing.assert_array_equal(order[moved[1]], indices[order])


def test_zero_rows_are_at_cosine_distance_one():
    X = np.array([[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [-1, 0, 0, 0.0]])
    distances, indices = neighbours(X, 3, "cosine")
    assert indices[0].tolist() == [2, 1, 3]
    assert distances[0].tolist() == [0, 1, 1]
    assert distances[1].tolist() == [1, 1, 2]


def test_queries_find_themselves_among_the_rows():
    X = np.random.default_rng(0).normal(size=(20, 3))
    distances, indices = neighbours(X, 1, "euclidean", X[5:8])
    assert indices[:, 0].tolist() == [5, 6, 7]
    assert (distances == 0).all()


def test_memory_does_not_grow_with_the_square_of_n():
    import tracemalloc

    X = np.random.default_rng(0).normal(size=(12_000, 4)).astype(np.float32)
    tracemalloc.start()
    neighbours(X, 5, "cosine")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 48 << 20  # all similarities would be 576 MB


@pytest.mark.parametrize(
    ("X", "k", "metric", "queries", "error", "says"),
    [
        ([[1.0], [np.nan], [np.inf]], 1, None, None, NotFinite, "row 1, 2"),
        ([[1.0], [2.0]], 2, None, None, DatumwiseError, "1 other rows: 1 <= k <= 1"),
        ([[1.0], [2.0]], 0, None, None, DatumwiseError, "k = 0"),
        ([1.0, 2.0], 1, None, None, SchemaMismatch, r"shape is \(2,\)"),
        ([["a"], ["b"]], 1, None, None, SchemaMismatch, "must hold numbers"),
        (np.empty((0, 3)), 1, None, None, DatumwiseError, "empty"),
        ([[1.0], [2.0]], 1, "manhattan", None, UnknownName, "manhattan"),
        ([[1.0], [2.0]], 1, None, [[1.0, 2.0]], SchemaMismatch, "2 columns and X has 1"),
        ([[1.0], [2.0]], 1, None, [[np.nan]], NotFinite, "queries has NaN"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(X, k, metric, queries, error, says):
    with pytest.raises(error, match=says) as refusal:
        neighbours(X, k, metric, queries)
    assert "\n" not in str(refusal.value)


def test_metric_changes_above_three_dimensions():
    assert [default_metric(d) for d in (1, 3, 4)] == ["euclidean", "euclidean", "cosine"]
