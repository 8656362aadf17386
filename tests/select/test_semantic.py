"""SemDeDup against the published loop."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from dedup_cases import components

from datumwise.errors import DatumwiseError
from datumwise.select.semantic import semantic, unit_rows

module = importlib.import_module("datumwise.select.semantic")  # the room's name is the function


def copied_points(seed: int = 0, n: int = 200, d: int = 8) -> np.ndarray:
    """Half of the rows are near others, ever nearer; some are exact copies and scaled copies."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    for row in range(n // 2, n):
        X[row] = X[rng.integers(0, row)] + rng.choice([0, 1e-3, 0.05, 0.3]) * rng.normal(size=d)
    X[-20:] *= rng.uniform(0.1, 10, (20, 1))
    return X


def slow_left_out(X: np.ndarray, order: np.ndarray, eps: float) -> list[int]:
    """semdedup.py of the authors for one cluster: upper triangle, maximum a column."""
    U = X / np.linalg.norm(X, axis=1, keepdims=True)
    cosine = np.triu(U[order] @ U[order].T, k=1)
    return sorted(order[np.flatnonzero(cosine.max(axis=0) > 1 - eps)].tolist())


@pytest.mark.parametrize("eps", [1e-4, 0.01, 0.05, 0.3])
@pytest.mark.parametrize("order", ["hard", "easy", "given"])
def test_what_is_left_out_equals_the_published_loop(eps: float, order: str) -> None:
    X = copied_points()
    U = unit_rows(X)
    centre = U.mean(axis=0) / np.linalg.norm(U.mean(axis=0))
    cosine = np.round(U @ centre, 12)
    rank = {"hard": cosine, "easy": -cosine, "given": np.zeros(len(X))}[order]
    found = semantic(X, eps, order=order)
    assert np.flatnonzero(~found.keep).tolist() == slow_left_out(X, np.lexsort((np.arange(len(X)), rank)), eps)
    assert 0 < found.n_left_out < len(X)


def test_blocks_do_not_change_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    X = copied_points(1)
    whole = semantic(X, 0.02)
    monkeypatch.setattr(module, "BLOCK", 700)
    blocked = semantic(X, 0.02)
    assert np.array_equal(whole.kept_by, blocked.kept_by)
    np.testing.assert_allclose(whole.similarity, blocked.similarity, atol=1e-12)


def test_eps_of_zero_leaves_out_exact_copies_only() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(60, 5))
    X[40:50] = X[:10] * rng.uniform(0.2, 7, (10, 1))  # the same direction
    X[50:] = X[10:20] + 1e-5 * rng.normal(size=(10, 5))  # nearly
    found = semantic(X, 0, order="given")
    assert np.flatnonzero(~found.keep).tolist() == list(range(40, 50))
    assert found.kept_by[40:50].tolist() == list(range(10))
    assert semantic(X[found.keep], 0, order="given").keep.all()


def test_a_copy_among_points_that_float32_cannot_tell_apart_is_found() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=64)
    near = base + 1e-5 * rng.normal(size=(50, 64))
    X = np.vstack([near, near[::-1]])
    found = semantic(X, 0, order="given")
    assert found.kept_by.tolist() == [*range(50), *range(49, -1, -1)]


@pytest.mark.parametrize("order", ["hard", "given"])
def test_what_is_kept_has_no_duplicates_left(order: str) -> None:
    X = copied_points(2)
    kept = X[semantic(X, 0.05, order=order).keep]
    assert semantic(kept, 0.05, order=order).keep.all()


def test_who_is_kept_in_its_place_is_kept_and_of_its_group() -> None:
    found = semantic(copied_points(3), 0.1)
    assert found.keep[found.kept_by].all()
    out = np.flatnonzero(~found.keep)
    assert np.array_equal(found.labels[out], found.labels[found.kept_by[out]])
    assert found.labels.tolist() == components(len(found), [tuple(p) for p in found.pairs.tolist()])
    U = unit_rows(copied_points(3))
    np.testing.assert_allclose(found.similarity_to_kept[out], (U[out] * U[found.kept_by[out]]).sum(axis=1), atol=1e-12)


def test_scores_say_who_comes_first() -> None:
    X = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    assert semantic(X, order=[1.0, 2.0, 0.0, 2.0]).kept_by.tolist() == [1, 1, 2, 1]


def test_only_within_a_cluster_is_compared() -> None:
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal((20, 0), 0.1, (40, 2)), rng.normal((0, 20), 0.1, (40, 2))])
    found = semantic(X, 0.5, n_clusters=2, random_state=1)
    assert found.n_left_out == 78
    assert semantic(X, 1.5, n_clusters=2, random_state=1).keep.sum() == 2  # across clusters cos > -0.5 holds too
    assert semantic(X, 1.5, n_clusters=1).keep.sum() == 1


def test_rows_of_zeros_are_like_none() -> None:
    assert semantic(np.array([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]]), 0.5).keep.all()


def test_bad_inputs_are_refused() -> None:
    X = np.eye(3)
    for eps in (-0.1, 2, float("nan"), True):
        with pytest.raises(DatumwiseError, match="eps is"):
            semantic(X, eps)
    with pytest.raises(DatumwiseError, match="no order 'soft'"):
        semantic(X, order="soft")
    with pytest.raises(DatumwiseError, match="order is no list of 3 numbers"):
        semantic(X, order=[1.0])
    for n_clusters in (0, 4):
        with pytest.raises(DatumwiseError, match="clusters were asked of 3 datapoints"):
            semantic(X, n_clusters=n_clusters)
    with pytest.raises(DatumwiseError, match="X has NaN or infinity in row 1"):
        semantic(np.array([[1.0], [np.nan]]))
    with pytest.raises(DatumwiseError, match="comes more than once"):
        semantic(X, ids=[1, 1, 2])
