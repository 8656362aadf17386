"""D2 pruning, CCS, DEITA's filter and GradMatch: datumwise against the loops of the official codes.

    OMP_NUM_THREADS=1 python benchmarks/selector_loops.py [--repeats 3]

The official loops are written here again in numpy, step by step: D2 (an argmax over all a pick, on a graph from
scikit-learn), CCS (a mask a stratum), DEITA (a candidate at a time against all kept) and GradMatch (a system solved anew
a pick). Both sides get the same arrays; what they choose is asserted equal before it is timed (for CCS, whose draws are
random, the number of each stratum). CPU seconds of one thread, medians of alternating runs.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
from scipy.optimize import nnls
from sklearn.neighbors import NearestNeighbors

from datumwise.select.ccs import CCS
from datumwise.select.d2_pruning import D2Pruning
from datumwise.select.grad_match import GradMatch
from datumwise.select.repr_filter import ReprFilter

Pair = tuple[Callable[[], list[int]], Callable[[], list[int]]]


def d2(n: int, k: int, d: int = 64, n_neighbors: int = 10) -> Pair:
    rng = np.random.default_rng(0)
    X, scores = rng.normal(size=(n, d)).astype(np.float32), rng.random(n)

    def official() -> list[int]:
        X64 = X.astype(np.float64)
        distances, near = NearestNeighbors(n_neighbors=n_neighbors + 1).fit(X64).kneighbors(X64)
        distances, near = distances[:, 1:], near[:, 1:]
        u = (np.exp(-distances) * scores[near]).sum(-1) + scores
        chosen: list[int] = []
        taken, low = np.zeros(n), u.min()
        while len(chosen) < k:
            best = int(np.argmax(u))
            if taken[best]:
                u[best] = low = low - 1
                continue
            taken[best] = 1
            chosen.append(best)
            u[near[best]] -= np.exp(-distances[best] / d) * u[best]
            low = min(low, u[near[best]].min())
        return chosen

    return lambda: D2Pruning(k, n_neighbors=n_neighbors).fit(X, scores=scores).ranking_.tolist(), official


def ccs(n: int, k: int, strata: int = 50) -> Pair:
    score = np.random.default_rng(0).gamma(2.0, size=n)
    step = (score.max() * 1.0001 - score.min()) / strata

    def counted(rows: np.ndarray) -> list[int]:
        return np.bincount(((score[rows] - score.min()) // step).astype(int), minlength=strata).tolist()

    def official() -> list[int]:
        rng, low, left = np.random.default_rng(0), score.min(), k
        ranges = [(low + i * step, low + (i + 1) * step) for i in range(strata)]
        sizes = np.array([((score >= a) & (score < b)).sum() for a, b in ranges])
        budgets = np.zeros(strata, int)
        for i, s in enumerate(np.argsort(sizes, kind="stable")):
            budgets[s] = min(sizes[s], left // (strata - i))
            left -= budgets[s]
        chosen = []
        for (a, b), budget in zip(ranges, budgets, strict=True):
            pool = np.flatnonzero((score >= a) & (score < b))
            chosen.append(rng.permutation(pool)[:budget])
        return counted(np.concatenate(chosen))

    return lambda: counted(CCS(k, n_strata=strata, random_state=0).fit(score).ranking_), official


def deita(n: int, k: int, d: int = 128, threshold: float = 0.9) -> Pair:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n // 4, d))[rng.integers(0, n // 4, n)] + 0.2 * rng.normal(size=(n, d))
    X, scores = X.astype(np.float32), rng.random(n)

    def official() -> list[int]:
        unit = X / np.linalg.norm(X, axis=1, keepdims=True)
        kept = np.empty((k, d), np.float32)
        chosen: list[int] = []
        for i in np.argsort(-scores, kind="stable"):
            if chosen and (kept[: len(chosen)] @ unit[i]).max() >= threshold:
                continue
            kept[len(chosen)] = unit[i]
            chosen.append(int(i))
            if len(chosen) == k:
                break
        return chosen

    return lambda: ReprFilter(k, threshold=threshold).fit(X, scores=scores).ranking_.tolist(), official


def grad_match(n: int, k: int, p: int = 512, lam: float = 1.0) -> Pair:
    G = np.random.default_rng(0).normal(size=(n, p)) + 0.2
    b = G.sum(axis=0)

    def official() -> list[int]:
        A, residual = G.T, b.copy()
        free, chosen, rows = np.ones(n, bool), [], np.empty((0, p))
        for i in range(k):
            projections = A.T.dot(residual)
            index = np.flatnonzero(free)[np.argmax(projections[free])]
            free[index] = False
            chosen.append(int(index))
            rows = np.vstack([rows, A[:, index]])
            if i == 0:
                x = projections[[index]] / (A[:, index] @ A[:, index])
            else:
                x = np.linalg.lstsq(rows.dot(rows.T) + lam * np.identity(len(chosen)), rows.dot(b), rcond=None)[0]
            residual = b - rows.T.dot(x)
        nnls(rows.dot(rows.T) + lam * np.identity(k), rows.dot(b))
        return chosen

    return lambda: GradMatch(k, lam=lam, variant="published").fit(G).ranking_.tolist(), official


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    cases = {
        "D2, 20,000 x 64, k = 6,000": d2(20_000, 6_000),
        "CCS, 1,000,000, k = 300,000": ccs(1_000_000, 300_000),
        "DEITA, 40,000 x 128, k = 6,000": deita(40_000, 6_000),
        "GradMatch, 5,000 x 512, k = 300": grad_match(5_000, 300),
    }
    print(f"{'':34}{'ours s':>9}{'official s':>12}{'ratio':>8}{'ours MiB':>10}{'theirs':>8}")
    for name, (ours, official) in cases.items():
        assert ours() == official(), f"{name}: what is chosen differs"
        seconds: dict[str, list[float]] = {"ours": [], "official": []}
        for turn in range(options.repeats):
            for who in ("ours", "official") if turn % 2 == 0 else ("official", "ours"):
                start = time.process_time()
                (ours if who == "ours" else official)()
                seconds[who].append(time.process_time() - start)
        a, b = (statistics.median(seconds[who]) for who in ("ours", "official"))
        peaks = []
        for run in (ours, official):
            tracemalloc.start()
            run()
            peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
            tracemalloc.stop()
        print(f"{name:34}{a:>9.3f}{b:>12.3f}{b / a:>7.1f}x{peaks[0]:>10.0f}{peaks[1]:>8.0f}", flush=True)
    print(f"numpy {np.__version__}, {platform.machine()}, Python {platform.python_version()}, one thread")


if __name__ == "__main__":
    main()
