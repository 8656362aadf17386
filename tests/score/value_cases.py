"""Games and data sets that the tests of data values share."""

from __future__ import annotations

import itertools
import math

import numpy as np

from datumwise.score.utility import GameUtility


def random_game(n: int, seed: int = 0) -> tuple[GameUtility, np.ndarray]:
    """A game of n rows with any utilities, and those by the sets' binary codes (row i is bit i)."""
    worth = np.random.default_rng(seed).normal(size=1 << n)
    return GameUtility(n, lambda masks: worth[masks @ (1 << np.arange(n))]), worth


def shapley_by_permutations(worth: np.ndarray, n: int) -> np.ndarray:
    """The definition: every order of n rows, one after the other."""
    total = np.zeros(n)
    for order in itertools.permutations(range(n)):
        code = 0
        for row in order:
            total[row] += worth[code | 1 << row] - worth[code]
            code |= 1 << row
    return total / math.factorial(n)


def semivalue_by_sets(worth: np.ndarray, n: int, weight_of_size) -> np.ndarray:
    """Sum over the sets without i of weight_of_size(|S|) (v(S + i) - v(S)), set by set."""
    values = np.zeros(n)
    for i in range(n):
        for code in range(1 << n):
            if not code >> i & 1:
                values[i] += weight_of_size(code.bit_count()) * (worth[code | 1 << i] - worth[code])
    return values


def three_blobs(n: int, seed: int = 0, spread: float = 1.0, noisy: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """X (n, 3), labels of 3 classes of which the first ``noisy`` are wrong, and which are."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    X = 3 * np.eye(3)[y] + spread * rng.normal(size=(n, 3))
    wrong = np.arange(n) < noisy
    return X, np.where(wrong, (y + 1) % 3, y), wrong
