"""Batch predictive inference against the published recurrences, and one-point split conformal against MAPIE and crepes.

    OMP_NUM_THREADS=1 python -P benchmarks/batch_pi.py [--repeats 5]

The published code is R scripts; here the same recurrences stand as plain Python loops, in the R functions' order of
operations. MAPIE 1.6 and crepes 0.9 live in this environment (pip install 'datumwise[predict]'). Every pair gets the
same arrays, its results are asserted equal, then it is timed: CPU seconds of one thread, medians of alternating runs, our
caches emptied before each. Peak memory is what numpy and Python allocate during one run more.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import time
import tracemalloc
import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin

from datumwise.predict.max_sum import max_sum
from datumwise.predict.order_statistics import order_statistic_rank
from datumwise.predict.rank_boxes import quartile_box
from datumwise.predict.rank_sum import rank_sum_pmf
from datumwise.predict.split_conformal import SplitConformalClassifier, SplitConformalRegressor


class Given(RegressorMixin, BaseEstimator):
    """A regressor that answers with its only column: the predictions are given."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> Given:
        self.n_features_in_ = 1
        return self

    def predict(self, X: np.ndarray) -> np.ndarray:
        return X[:, 0]


class GivenProbabilities(ClassifierMixin, BaseEstimator):
    """A classifier whose rows are the probabilities."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> GivenProbabilities:
        self.classes_ = np.arange(X.shape[1])
        self.n_features_in_ = X.shape[1]
        return self

    def predict_proba(self, X: np.ndarray) -> np.ndarray:
        return X

    def predict(self, X: np.ndarray) -> np.ndarray:
        return X.argmax(axis=1)


def published_rank(n: int, m: int, z: int, alpha: float) -> int:
    """Every probability by binomial coefficients, every cumulated probability by a sum of its own."""
    total = math.comb(n + m, m)
    law = [math.comb(k + z - 2, z - 1) * math.comb(n + m - k - z + 1, m - z) / total for k in range(1, n + 2)]
    return min(k for k in range(1, n + 2) if sum(law[:k]) >= 1 - alpha)


def published_quartiles(n: int, m: int, z1: int, z2: int, low: int, high: int) -> float:
    """P(low <= R_z1 <= R_z2 <= high) by a double loop; the published search makes one such loop a step."""
    total, probability = math.comb(n + m, m), 0.0
    for r1 in range(low, high + 1):
        for r2 in range(r1, high + 1):
            ways = math.comb(r1 + z1 - 2, z1 - 1) * math.comb(r2 - r1 + z2 - z1 - 1, z2 - z1 - 1)
            probability += ways * math.comb(n + m - r2 - z2 + 1, m - z2) / total
    return probability


def published_quartile_box(n: int, m: int, z1: int, z2: int, alpha: float) -> float:
    """The published search: one rank wider on both sides until there is enough."""
    t = 1
    while True:
        low, high = max(round(0.25 * n) - t + 1, 1), min(round(0.75 * n) + t, n + 1)
        probability = published_quartiles(n, m, z1, z2, low, high)
        if probability > 1 - alpha:
            return probability
        t += 1


def published_maximum(scores: np.ndarray, m: int, q: int) -> float:
    """The published dynamic program over ranks from 1: three loops."""
    s = scores.tolist()
    dp = [[-math.inf] * (q + 1) for _ in range(m + 1)]
    dp[0][0] = 0.0
    for i in range(m):
        for j in range(1, q + 1):
            for r in range(1, len(s) + 1):
                if j >= r:
                    dp[i + 1][j] = max(dp[i + 1][j], dp[i][j - r] + s[r - 1])
    return max(dp[m])


def published_draws(n: int, m: int) -> np.ndarray:
    """20,000 independent draws of m ranks, sorted one by one: the published law, which is not the right one."""
    rng = np.random.default_rng(0)
    return np.array([np.sort(rng.integers(1, n + 2, m)).sum() for _ in range(20_000)])


def empty_caches() -> None:
    """Nothing may be remembered from the run before."""
    for name in ("order_statistics", "rank_sum", "max_sum"):
        for found in vars(import_module(f"datumwise.predict.{name}")).values():
            if hasattr(found, "cache_clear"):
                found.cache_clear()


def compare(name: str, ours: Callable[[], Any], peer: Callable[[], Any], peer_name: str, repeats: int) -> None:
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(repeats):
        for who, run in (("ours", ours), ("peer", peer)):
            empty_caches()
            start = time.process_time()
            run()
            times[who].append(time.process_time() - start)
    a, b = (statistics.median(times[who]) for who in ("ours", "peer"))
    memory = []
    for run in (ours, peer):
        empty_caches()
        tracemalloc.start()
        run()
        memory.append(tracemalloc.get_traced_memory()[1] / 2**20)
        tracemalloc.stop()
    print(
        f"{name:<52} {1e3 * a:10.3f} ms {1e3 * b:12.3f} ms {b / a:9.1f} x  {memory[0]:8.2f} {memory[1]:8.2f} MiB  {peer_name}",
        flush=True,
    )


def batch_part(repeats: int) -> None:
    assert order_statistic_rank(2000, 100, 90, 0.1) == published_rank(2000, 100, 90, 0.1)
    compare(
        "rank of one order statistic, n = 2,000, m = 100",
        lambda: order_statistic_rank(2000, 100, 90, 0.1),
        lambda: published_rank(2000, 100, 90, 0.1),
        "published, loops; same rank",
        repeats,
    )
    low, high, probability = quartile_box(200, 40, 10, 30, 0.1)
    assert abs(published_quartiles(200, 40, 10, 30, low, high) - probability) < 1e-10
    assert published_quartile_box(200, 40, 10, 30, 0.1) >= 0.9
    compare(
        "box of two quartiles, n = 200, m = 40",
        lambda: quartile_box(200, 40, 10, 30, 0.1),
        lambda: published_quartile_box(200, 40, 10, 30, 0.1),
        "published, loops; same probability of a box",
        min(repeats, 3),
    )
    rng = np.random.default_rng(0)
    scores = np.append(np.sort(rng.beta(1, 6, 100)), 1.0)
    budget = int(np.searchsorted(np.cumsum(rank_sum_pmf(100, 20)), 0.9))
    exact = max_sum(scores, 20, budget, solver="exact")
    assert abs(exact - published_maximum(scores, 20, budget + 20)) < 1e-9
    envelope = max_sum(scores, 20, budget, solver="envelope")
    assert envelope >= exact
    compare(
        f"largest sum of 20 of 101 scores, budget {budget}, exact",
        lambda: max_sum(scores, 20, budget, solver="exact"),
        lambda: published_maximum(scores, 20, budget + 20),
        "published, loops; equal to 1e-9",
        min(repeats, 3),
    )
    compare(
        f"the same by the envelope, {envelope / exact - 1:.2%} above",
        lambda: max_sum(scores, 20, budget, solver="envelope"),
        lambda: published_maximum(scores, 20, budget + 20),
        "published, loops",
        min(repeats, 3),
    )
    level = np.cumsum(rank_sum_pmf(40, 10))[int(np.quantile(published_draws(40, 10), 0.9)) - 10]
    compare(
        "law of the rank sum, n = 40, m = 10",
        lambda: rank_sum_pmf(40, 10),
        lambda: published_draws(40, 10),
        f"published: 20,000 draws; its 90 % budget has level {level:.3f}",
        repeats,
    )


def one_point_part(repeats: int) -> None:
    from crepes import ConformalClassifier, ConformalRegressor
    from mapie.classification import SplitConformalClassifier as MapieClassifier
    from mapie.regression import SplitConformalRegressor as MapieRegressor

    rng = np.random.default_rng(1)
    n = 100_000
    X, X_new = rng.normal(size=(n, 1)), rng.normal(size=(n, 1))
    y = X[:, 0] + rng.standard_t(3, size=n)
    given = Given().fit(X, y)

    def ours() -> np.ndarray:
        return SplitConformalRegressor(given).calibrate(X, y).predict_interval(X_new, 0.1)

    def mapie() -> np.ndarray:
        found: np.ndarray = MapieRegressor(given, confidence_level=0.9).conformalize(X, y).predict_interval(X_new)[1][:, :, 0]
        return found

    def crepes() -> np.ndarray:
        found: np.ndarray = ConformalRegressor().fit(y - X[:, 0]).predict_int(X_new[:, 0], confidence=0.9)
        return found

    def ours_from_scores() -> np.ndarray:
        return SplitConformalRegressor().calibrate_scores(np.abs(y - X[:, 0])).intervals(X_new[:, 0], 0.1)

    np.testing.assert_array_equal(ours(), mapie())
    np.testing.assert_array_equal(ours_from_scores(), crepes())
    compare("intervals, 100,000 calibration and new rows", ours, mapie, "MAPIE; equal", repeats)
    compare("the same from residuals", ours_from_scores, crepes, "crepes; equal", repeats)

    group, group_new = rng.integers(0, 500, n), rng.integers(0, 500, n)

    def ours_by_group() -> np.ndarray:
        conformal = SplitConformalRegressor().calibrate_scores(np.abs(y - X[:, 0]), group)
        return conformal.intervals(X_new[:, 0], 0.13, group=group_new)

    def crepes_by_group() -> np.ndarray:
        fitted = ConformalRegressor().fit(y - X[:, 0], bins=group)
        found: np.ndarray = fitted.predict_int(X_new[:, 0], bins=group_new, confidence=0.87)
        return found

    agree = (ours_by_group() == crepes_by_group()).all(axis=1)
    whole = np.bincount(group)[group_new] + 1  # crepes is one rank wider where (n + 1) alpha is whole
    assert agree[whole % 100 != 0].all()
    compare("Mondrian intervals, 500 groups", ours_by_group, crepes_by_group, "crepes; equal", repeats)

    logits = rng.normal(size=(20_000, 10)) * 2
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels = np.array([rng.choice(10, p=p) for p in probs])
    cal, new, y_cal = probs[:10_000], probs[10_000:], labels[:10_000]
    classifier = GivenProbabilities().fit(cal, y_cal)
    for score in ("lac", "aps"):

        def our_sets(score: str = score) -> np.ndarray:
            conformal = SplitConformalClassifier(classifier, score, randomized=True, random_state=0)
            return conformal.calibrate(cal, y_cal).predict_set(new, 0.1, allow_empty=True)

        def mapie_sets(score: str = score) -> np.ndarray:
            fitted = MapieClassifier(classifier, confidence_level=0.9, conformity_score=score, random_state=0)
            how = {"include_last_label": "randomized"} if score == "aps" else None
            found: np.ndarray = fitted.conformalize(cal, y_cal).predict_set(new, conformity_score_params=how)[1][:, :, 0]
            return found

        a, b = our_sets(), mapie_sets()
        hit = [sets[np.arange(len(new)), labels[10_000:]].mean() for sets in (a, b)]
        if score == "lac":
            np.testing.assert_array_equal(a, b)
        else:  # the draws are others
            assert abs(hit[0] - hit[1]) < 0.02
            assert abs(a.sum() / b.sum() - 1) < 0.02
        told = (
            "equal" if score == "lac" else f"coverage {hit[0]:.3f} and {hit[1]:.3f}, sets {a.sum() / b.sum():.3f} of its size"
        )
        compare(f"{score} sets, 10,000 + 10,000 rows, 10 labels", our_sets, mapie_sets, f"MAPIE; {told}", repeats)

    few, few_new, few_y = cal[:2000], new[:1000], y_cal[:2000]

    def our_few() -> np.ndarray:
        return SplitConformalClassifier().calibrate_probabilities(few, few_y).sets(few_new, 0.1, allow_empty=True)

    def crepes_few() -> np.ndarray:
        fitted = ConformalClassifier().fit(1 - few[np.arange(2000), few_y])
        found: np.ndarray = fitted.predict_set(1 - few_new, confidence=0.9, smoothing=False).astype(bool)
        return found

    np.testing.assert_array_equal(our_few(), crepes_few())
    compare("lac sets, 2,000 + 1,000 rows, 10 labels", our_few, crepes_few, "crepes; equal", min(repeats, 3))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore", UserWarning)
    print(f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}; CPU time, one thread, medians")
    print(f"{'':<52} {'ours':>13} {'peer':>15} {'ratio':>11}  {'peak memory':>21}")
    batch_part(options.repeats)
    one_point_part(options.repeats)


if __name__ == "__main__":
    main()
