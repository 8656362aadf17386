"""Texts, sets and answers found the slow way, for the tests of deduplication."""

from __future__ import annotations

from itertools import combinations

import numpy as np


def brute_jaccard(a: list, b: list) -> float:
    """Of the sets of two lists; 0 if both are empty."""
    union = set(a) | set(b)
    return len(set(a) & set(b)) / len(union) if union else 0.0


def runs(tokens: list, n: int) -> list[tuple]:
    """Every run of n tokens; a shorter list is one run."""
    if len(tokens) < n:
        return [tuple(tokens)] if tokens else []
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def components(n: int, pairs: list[tuple[int, int]]) -> list[int]:
    """Component of each row by repeated relabelling, numbered by first member; -1 for rows in no pair."""
    label = list(range(n))
    changed = True
    while changed:
        changed = False
        for a, b in pairs:
            low = min(label[a], label[b])
            if label[a] != low or label[b] != low:
                label[a] = label[b] = low
                changed = True
    paired = {row for pair in pairs for row in pair}
    order = {first: number for number, first in enumerate(dict.fromkeys(label[r] for r in range(n) if r in paired))}
    return [order[label[r]] if r in paired else -1 for r in range(n)]


def copied_sets(seed: int = 0, n: int = 300, size: int = 40, vocabulary: int = 400) -> list[list[str]]:
    """Lists of tokens; half of them are copies of others with some tokens exchanged."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, vocabulary, (n, size))
    for row in range(n // 2, n):
        exchanged = rng.random(size) < rng.uniform(0, 0.3)
        codes[row] = np.where(exchanged, codes[row], codes[rng.integers(0, row)])
    return [[f"w{c}" for c in row] for row in codes.tolist()]


def pairs_above(n: int, similar: object, threshold: float) -> list[tuple[int, int]]:
    """Every pair that a function calls similar."""
    return [(i, j) for i, j in combinations(range(n), 2) if similar(i, j) >= threshold]  # type: ignore[operator]
