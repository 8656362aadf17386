"""Candidates that share a key, against all pairs the slow way."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from datumwise.select.groups import connected
from datumwise.select.shared_keys import BUCKET, similar_rows


def slowly(keys: list[np.ndarray], n: int, similarity: np.ndarray, threshold: float) -> list[list[int]]:
    shared = {(i, j) for key in keys for i, j in combinations(range(n), 2) if key[i] == key[j]}
    return [[i, j] for i, j in sorted(shared) if similarity[i, j] >= threshold]


def random_case(seed: int, n: int, n_keys: int) -> tuple[list[np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    similarity = rng.random((n, n))
    return [rng.integers(0, n_keys, n).astype(np.uint64) for _ in range(4)], np.maximum(similarity, similarity.T)


@pytest.mark.parametrize("seed", range(5))
def test_small_buckets_give_every_similar_pair_that_shares_a_key(seed: int) -> None:
    keys, similarity = random_case(seed, 80, 20)
    rows = np.arange(80)
    pairs, values = similar_rows([(rows, key) for key in keys], 80, lambda a, b: similarity[a, b], 0.6)
    assert pairs.tolist() == slowly(keys, 80, similarity, 0.6)
    assert np.array_equal(values, similarity[pairs[:, 0], pairs[:, 1]])


@pytest.mark.parametrize("threshold", [0.9, 0.97, 0.995])
def test_big_buckets_give_pairs_that_connect_what_all_pairs_connect(threshold: float) -> None:
    keys, similarity = random_case(7, 400, 3)
    assert BUCKET < 400 / 3
    rows = np.arange(400)
    pairs, _ = similar_rows([(rows, key) for key in keys], 400, lambda a, b: similarity[a, b], threshold)
    expected = np.array(slowly(keys, 400, similarity, threshold))
    assert np.array_equal(connected(400, pairs), connected(400, expected))
    assert {tuple(p) for p in pairs.tolist()} <= {tuple(p) for p in expected.tolist()}


def test_a_bucket_of_copies_costs_about_as_many_comparisons_as_it_has_rows() -> None:
    n, counted = 5_000, []

    def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        counted.append(len(a))
        return np.ones(len(a))

    band = np.arange(n), np.zeros(n, np.uint64)
    pairs, _ = similar_rows([band] * 5, n, similarity, 0.5)
    assert len(pairs) == n - 1
    assert sum(counted) < 2 * n


def test_no_pair_is_measured_twice_in_small_buckets() -> None:
    counted: list[tuple[int, int]] = []

    def similarity(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        counted.extend(zip(a.tolist(), b.tolist(), strict=True))
        return np.zeros(len(a))

    keys, _ = random_case(1, 60, 20)
    similar_rows([(np.arange(60), key) for key in keys], 60, similarity, 0.5)
    assert len(counted) == len(set(counted)) > 0


def test_rows_that_are_not_named_share_nothing() -> None:
    rows = np.array([0, 2])
    pairs, _ = similar_rows([(rows, np.zeros(2, np.uint64))], 4, lambda a, b: np.ones(len(a)), 0.5)
    assert pairs.tolist() == [[0, 2]]
    none, _ = similar_rows([(rows[:0], np.zeros(0, np.uint64))], 4, lambda a, b: np.ones(len(a)), 0.5)
    assert none.shape == (0, 2)
