"""How few of its most helpful datapoints must go before a prediction flips? Against as many at random.

Ilyas et al., 2022, *Datamodels*, ICML, section 4.1 (data support); Bae et al., 2024, section 5 (the metric).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, name_some

__all__ = ["Brittleness", "brittleness"]


@dataclass(frozen=True)
class Brittleness:
    """Share of predictions that flip when each test's k most helpful training datapoints are removed.

    Attributes
    ----------
    k : tuple of int
    flipped : tuple of float
        Share of the tests that were right and are wrong after a removal of at most k.
    flipped_at_random : tuple of float
        The same with random datapoints removed.
    smallest : tuple of int
        Per test the smallest k of those tried that flips it; -1: none did; -2: it was wrong before.
    n_tests : int
        Tests right before.
    """

    k: tuple[int, ...]
    flipped: tuple[float, ...]
    flipped_at_random: tuple[float, ...]
    smallest: tuple[int, ...]
    n_tests: int

    @property
    def median(self) -> float:
        """Median of the smallest k over the tests that were right; infinity if fewer than half flipped."""
        found = np.array([np.inf if k == -1 else k for k in self.smallest if k != -2])
        return float(np.median(found)) if len(found) else float("nan")

    def __str__(self) -> str:
        rows = zip(self.k, self.flipped, self.flipped_at_random, strict=True)
        lines = [f"{k:>7,}  {a:>7.1%}  {b:>7.1%}" for k, a, b in rows]
        return "\n".join([f"{self.n_tests:,} tests right before", "removed  flipped   random", *lines])

    def to_json(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))


def brittleness(
    scores: Any,
    right: Callable[[np.ndarray], Any],
    *,
    k: Sequence[int] | None = None,
    batch: int = 64,
    random_state: Any = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Brittleness:
    """Remove each test's most helpful training datapoints, retrain, and see from which number on it is wrong.

    Parameters
    ----------
    scores : float (n_test, n_train)
        Higher: more helpful. Only datapoints with a score above 0 are removed as helpful.
    right : callable
        ``right(masks (b, n_train) bool) -> bool (b, n_test)``: which tests a model trained on each subset gets right;
        `datumwise.score.utility.RidgeUtility.right` is one.
    k : sequence of int, optional
        Numbers to remove, ascending; 1, 2, 4, ... up to a fifth of the training set by default.
    batch : int, default 64
        Subsets retrained in a call.
    random_state : None, int or Generator
        Of the random removals, one set a test, nested.
    progress : callable, optional
        Called with (numbers tried, in all), the random ones included.

    Returns
    -------
    Brittleness

    Raises
    ------
    NotFinite, SchemaMismatch, DatumwiseError
    """
    scores = np.asarray(scores, np.float64)
    if scores.ndim != 2 or scores.size == 0:
        raise SchemaMismatch(f"scores must be tests x training datapoints; the shape is {scores.shape}")
    bad = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if len(bad):
        raise NotFinite(f"scores of test {name_some(bad)} have NaN or infinity", ids=bad.tolist())
    t, n = scores.shape
    doubling = [2**p for p in range(n.bit_length()) if 2**p <= max(1, n // 5)]
    numbers = doubling if k is None else [int(each) for each in k]
    if not numbers or numbers != sorted(set(numbers)) or numbers[0] < 1 or numbers[-1] >= n:
        raise DatumwiseError(f"k = {numbers} of {n:,} training datapoints", remedy=f"ascending, 1 <= k < {n}")
    before = _asked(right, np.ones((1, n), bool), t)[0]
    order = np.argsort(-scores, axis=1, kind="stable")
    helpful = (scores > 0).sum(axis=1)
    rng = np.random.default_rng(random_state)
    chance = np.argsort(rng.random((t, n)), axis=1)
    smallest = _smallest(order, helpful, before, right, numbers, batch, progress, 0)
    at_random = _smallest(chance, np.full(t, n), before, right, numbers, batch, progress, len(numbers))
    count = int(before.sum())

    def share(found: np.ndarray) -> tuple[float, ...]:
        return tuple(float(((found > 0) & (found <= each)).sum() / max(count, 1)) for each in numbers)

    return Brittleness(tuple(numbers), share(smallest), share(at_random), tuple(smallest.tolist()), count)


def _smallest(
    order: np.ndarray,
    most: np.ndarray,
    before: np.ndarray,
    right: Callable[[np.ndarray], Any],
    numbers: list[int],
    batch: int,
    progress: Callable[[int, int], None] | None,
    done: int,
) -> np.ndarray:
    """int64 (t,): first of ``numbers`` whose removal flips the test, -1 none, -2 wrong before."""
    t, n = order.shape
    smallest = np.where(before, -1, -2)
    for step, count in enumerate(numbers):
        standing = np.flatnonzero(smallest == -1)
        for start in range(0, len(standing), batch):
            tests = standing[start : start + batch]
            masks = np.ones((len(tests), n), bool)
            for mask, test in zip(masks, tests, strict=True):
                mask[order[test, : min(count, most[test])]] = False
            wrong = ~_asked(right, masks, t)[np.arange(len(tests)), tests]
            smallest[tests[wrong]] = count
        if progress:
            progress(done + step + 1, 2 * len(numbers))
    return smallest


def _asked(right: Callable[[np.ndarray], Any], masks: np.ndarray, t: int) -> np.ndarray:
    found = np.asarray(right(masks))
    if found.shape != (len(masks), t) or found.dtype != bool:
        raise SchemaMismatch(
            f"right() must give bool {(len(masks), t)} for {len(masks)} subsets; got {found.dtype} {found.shape}"
        )
    return found
