"""Label issues among 50,000 x 10 by every rule: datumwise against cleanlab 2.9, answers asserted the same.

    OMP_NUM_THREADS=1 python benchmarks/label_issues.py [--repeats 5] [--dtype float32]

CPU seconds of one thread, medians of alternating runs. Peak memory is what NumPy allocates on top of the
input (tracemalloc), measured in runs of their own.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable
from functools import partial

import cleanlab
import numpy as np
from cleanlab.filter import find_label_issues as peer_issues

from datumwise.score import find_label_issues
from datumwise.score.confident_learning import FILTERS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("-n", type=int, default=50_000)
    parser.add_argument("-K", type=int, default=10)
    parser.add_argument("--dtype", default="float64")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    labels = rng.integers(0, options.K, options.n)
    probs = rng.dirichlet(np.ones(options.K), options.n)
    true = np.where(rng.random(options.n) < 0.1, rng.integers(0, options.K, options.n), labels)
    probs[np.arange(options.n), true] += 1
    probs = (probs / 2).astype(options.dtype)

    print(f"label issues, {options.n:,} x {options.K}, {options.dtype}")
    print(f"{'rule':24}{'flagged':>9}{'ours CPU s':>12}{'peer CPU s':>12}{'ratio':>8}{'ours MiB':>10}{'peer MiB':>10}")
    for rule in FILTERS:
        ours = partial(find_label_issues, labels, probs, rule)
        peer = partial(peer_issues, labels, probs, filter_by=rule, n_jobs=1)
        np.testing.assert_array_equal(ours(), peer(), rule)
        a, b = alternating(ours, peer, options.repeats)
        print(f"{rule:24}{np.count_nonzero(ours()):9,}{a:12.4f}{b:12.4f}{b / a:8.1f}{peak(ours):10.1f}{peak(peer):10.1f}")
    print(f"cleanlab {cleanlab.__version__}, numpy {np.__version__}, {platform.machine()}")


def alternating(ours: Callable[[], object], peer: Callable[[], object], repeats: int) -> list[float]:
    """Median CPU seconds of both."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for runs, way in zip(seconds, (ours, peer), strict=True):
            start = time.process_time()
            way()
            runs.append(time.process_time() - start)
    return [statistics.median(runs) for runs in seconds]


def peak(way: Callable[[], object]) -> float:
    """MiB allocated at most."""
    tracemalloc.start()
    way()
    found = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return found


if __name__ == "__main__":
    main()
