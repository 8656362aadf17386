"""Removing rows from a logistic regression against fitting it anew, and from a SISA ensemble against training all of it anew.

    OMP_NUM_THREADS=1 python -P benchmarks/exact_removal.py [--repeats 5]

The model that is fitted without the rows is scikit-learn's own, cold and from the weights before (``warm_start``), to a
tolerance at which it is right to 1e-5 of a probability. Removal takes Newton steps until it is as near; the probabilities are
asserted equal before anything is timed. SISA's answers after a removal are asserted equal bit for bit to those of an ensemble
that was trained without the rows; its work is rows shown to the learner. CPU seconds of one thread, medians.
"""

from __future__ import annotations

import argparse
import copy
import platform
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression, SGDClassifier

from datumwise.forget.linear_removal import linear_removal
from datumwise.forget.sisa import Sisa, sisa_expected_share

EQUAL = 1e-5  # largest difference of a probability
TIGHT = {"tol": 1e-8, "max_iter": 10_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--shards", type=int, default=20)
    options = parser.parse_args()
    print(
        f"{'':42}{'steps':>6}{'CPU s':>9}{'anew':>9}{'warm':>9}{'anew / removal':>16}{'warm / removal':>16}{'differs by':>12}"
    )
    for correlated in (False, True):
        for classes in (2, 10):
            for share in (0.0005, 0.01, 0.1):
                linear(options.rows, options.dim, classes, share, options.repeats, correlated)
    print()
    print(f"{'':42}{'rows':>9}{'all':>9}{'share':>8}{'expected':>10}{'CPU s':>9}{'anew':>9}{'anew / removal':>16}")
    for slices in (1, 5):
        for k in (1, 10):
            sisa(options.rows, options.dim, options.shards, slices, k)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\npeak memory {peak:,.0f} MiB; {platform.processor() or platform.machine()}, Python {platform.python_version()}")


def data(n: int, d: int, classes: int, correlated: bool, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Independent columns of one scale, or columns with the decaying spectrum that embeddings have (1 to 1/100)."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    if correlated:
        turn = np.linalg.qr(rng.normal(size=(d, d)))[0]
        X = X * np.geomspace(1, 0.01, d) @ turn
    return X, (X @ rng.normal(size=(d, classes)) / np.sqrt(d) + rng.gumbel(size=(n, classes))).argmax(1)


def linear(n: int, d: int, classes: int, share: float, repeats: int, correlated: bool) -> None:
    X, y = data(n, d, classes, correlated)
    k = int(n * share)
    gone = np.random.default_rng(1).permutation(n)[:k]
    keep = np.setdiff1d(np.arange(n), gone)
    model = LogisticRegression(**TIGHT).fit(X, y)

    def anew() -> Any:
        return LogisticRegression(**TIGHT).fit(X[keep], y[keep])

    def warm() -> Any:
        return copy.deepcopy(model).set_params(warm_start=True).fit(X[keep], y[keep])

    exact = linear_removal(model, X, y, gone, steps=30, tol=1e-13).model.predict_proba(X)
    for name, other in (("anew", anew()), ("warm", warm())):
        off = np.abs(other.predict_proba(X) - exact).max()
        assert off < EQUAL, f"trained {name} differs by {off}"
    for steps in range(1, 10):
        off = float(np.abs(linear_removal(model, X, y, gone, steps=steps).model.predict_proba(X) - exact).max())
        if off < EQUAL:
            break
    assert off < EQUAL
    ours = timed(lambda: linear_removal(model, X, y, gone, steps=steps), repeats)
    cold, hot = timed(anew, repeats), timed(warm, repeats)
    name = f"{'correlated' if correlated else 'independent'}, {classes} classes, {k:,} removed"
    times = f"{ours:>9.4f}{cold:>9.4f}{hot:>9.4f}{cold / ours:>16.1f}{hot / ours:>16.1f}"
    print(f"{name:42}{steps:>6}{times}{off:>12.1e}")


def sisa(n: int, d: int, shards: int, slices: int, k: int) -> None:
    X, y = data(n, d, 2, False)
    ids = [f"d{i}" for i in range(n)]
    gone = np.random.default_rng(2).permutation(n)[:k]
    keep = np.setdiff1d(np.arange(n), gone)

    def make() -> Sisa:
        if slices == 1:
            return Sisa(LogisticRegression(), shards)
        return Sisa(SGDClassifier(loss="log_loss"), shards, slices, classes=[0, 1])

    ensemble = make().fit(ids, (X, y))
    start = time.process_time()
    cost = ensemble.forget([ids[at] for at in gone])
    ours = time.process_time() - start
    start = time.process_time()
    fresh = make().fit([ids[at] for at in keep], (X[keep], y[keep]))
    anew = time.process_time() - start
    assert (ensemble.predict_proba(X) == fresh.predict_proba(X)).all(), "the answers differ"
    name = f"{shards} shards x {slices} slices, {k} removed"
    expected = sisa_expected_share(shards, slices, k)
    work = f"{cost.rows:>9,}{cost.rows_anew:>9,}{cost.share:>8.3f}{expected:>10.3f}"
    print(f"{name:42}{work}{ours:>9.3f}{anew:>9.3f}{anew / ours:>16.1f}")


def timed(run: Callable[[], Any], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        start = time.process_time()
        run()
        seconds.append(time.process_time() - start)
    return statistics.median(seconds)


if __name__ == "__main__":
    main()
