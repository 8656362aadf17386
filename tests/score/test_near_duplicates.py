"""Near copies are found, ordinary neighbours and tight clusters are not taken for them."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch
from datumwise.score import near_duplicates
from datumwise.score.near_duplicates import near_duplicate


def test_exact_copies_are_grouped_and_the_first_is_kept():
    X = np.random.default_rng(0).normal(size=(100, 8))
    X[[40, 90]] = X[7]
    X[50] = X[3]
    found = near_duplicates(X)
    assert np.flatnonzero(found.flag).tolist() == [3, 7, 40, 50, 90]
    assert found.groups[[3, 50]].tolist() == [0, 0]
    assert found.groups[[7, 40, 90]].tolist() == [1, 1, 1]
    assert np.flatnonzero(~found.kept).tolist() == [40, 50, 90]
    assert found.pairs.tolist() == [[3, 50], [7, 40], [7, 90], [40, 90]]
    assert found.n_groups == 2
    assert (found.score[found.flag] == 1).all()


def test_priority_decides_which_copy_is_kept():
    X = np.random.default_rng(0).normal(size=(60, 8))
    X[40] = X[7]
    X[50] = X[7]
    priority = np.zeros(60)
    priority[[40, 50]] = 1
    assert np.flatnonzero(~near_duplicates(X, priority=priority).kept).tolist() == [7, 50]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("dim", [10, 20, 64])
def test_jittered_copies_are_found_among_ordinary_neighbours(metric, dim):
    """A copy at a fifth of the usual nearest distance: all found, nothing else."""
    rng = np.random.default_rng(dim)
    X = rng.normal(size=(1500, dim))
    if metric == "cosine":
        X /= np.linalg.norm(X, axis=1, keepdims=True)
    typical = np.median(np.sqrt(((X[:200, None] - X[None]) ** 2).sum(axis=2) + 1e9 * np.eye(200, 1500)).min(axis=1))
    copies = X[:50] + rng.normal(size=(50, dim)) * typical / 5 / np.sqrt(dim)
    found = near_duplicates(np.vstack([X, copies]), metric=metric)
    assert found.flag[:50].all()
    assert found.flag[1500:].all()
    assert np.count_nonzero(found.flag[50:1500]) <= 2
    assert found.kept[:1500].sum() >= 1499
    assert not found.kept[1500:].any()


NULLS = {
    "normal": lambda rng, d: rng.normal(size=(2000, d)),
    "uniform": lambda rng, d: rng.random((2000, d)),
    "heavy tails": lambda rng, d: rng.standard_t(3, size=(2000, d)),
    "clusters of unlike size": lambda rng, d: (
        5 * rng.normal(size=(10, d))[(k := rng.integers(0, 10, 2000))]
        + np.exp(0.7 * rng.normal(size=10))[k][:, None] * rng.normal(size=(2000, d))
    ),
}


@pytest.mark.parametrize("null", NULLS)
@pytest.mark.parametrize("dim", [1, 2, 5, 10, 20])
def test_no_ordinary_neighbours_are_called_copies(null, dim):
    """2,000 datapoints without a copy: at most two pairs; the fixed share of the median flags hundreds."""
    X = NULLS[null](np.random.default_rng(0), dim)
    assert np.count_nonzero(near_duplicates(X, metric="euclidean").flag) <= 4


def test_the_fixed_share_does_call_them_copies():
    X = NULLS["uniform"](np.random.default_rng(0), 2)
    assert np.count_nonzero(near_duplicates(X, threshold=0.36).flag) > 100


def test_a_group_larger_than_k_is_joined_by_its_links():
    X = np.random.default_rng(0).normal(size=(200, 6))
    X[::4] = X[0]
    found = near_duplicates(X, k=5)
    assert found.n_groups == 1
    np.testing.assert_array_equal(np.flatnonzero(found.flag), np.arange(0, 200, 4))


def test_a_chain_of_near_copies_is_one_group():
    X = np.arange(40.0)[:, None] * 10
    X[20:24, 0] = [0.4, 0.8, 1.2, 1.6]
    found = near_duplicates(X, threshold=0.13)
    assert np.unique(found.groups[[0, 20, 21, 22, 23]]).tolist() == [0]
    assert found.pairs.tolist() == [
        [0, 20],
        [0, 21],
        [0, 22],
        [20, 21],
        [20, 22],
        [20, 23],
        [21, 22],
        [21, 23],
        [22, 23],
    ]


def test_leaving_the_copies_out_leaves_none():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(400, 8))
    X = np.vstack([X, X[rng.integers(0, 400, 80)] + 1e-3 * rng.normal(size=(80, 8))])
    kept = X[near_duplicates(X).kept]
    assert len(kept) == 400
    assert not near_duplicates(kept).flag.any()


def test_order_of_rows_only_renames_the_groups():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(300, 9))
    X[200:220] = X[:20] + 1e-4
    order = rng.permutation(300)
    found, moved = near_duplicates(X), near_duplicates(X[order])
    np.testing.assert_array_equal(moved.flag, found.flag[order])
    same = lambda g: (g[:, None] == g) & (g >= 0)[:, None]  # noqa: E731
    np.testing.assert_array_equal(same(moved.groups), same(found.groups)[np.ix_(order, order)])


def test_score_is_one_for_a_copy_and_falls_with_distance():
    X = np.array([[0.0], [0.0], [1.0], [3.0], [6.0]])
    np.testing.assert_allclose(near_duplicate(X), np.exp([-0.0, -0.0, -1, -2, -3]))
    np.testing.assert_allclose(near_duplicates(X, threshold=0.1).score, near_duplicate(X))


def test_all_rows_equal_are_one_group():
    found = near_duplicates(np.ones((9, 4)))
    assert found.n_groups == 1
    assert found.kept.tolist() == [True] + [False] * 8


@pytest.mark.parametrize(
    ("X", "options", "error", "says"),
    [
        ([[1.0]], {}, DatumwiseError, "0 other rows"),
        ([[1.0], [np.nan]], {}, NotFinite, "row 1"),
        ([[1.0], [2.0]], {"priority": [1.0]}, SchemaMismatch, "1 priorities for 2 rows"),
        ([[1.0], [2.0]], {"priority": [1.0, np.nan]}, NotFinite, "priority has NaN"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(X, options, error, says):
    with pytest.raises(error, match=says):
        near_duplicates(X, **options)
