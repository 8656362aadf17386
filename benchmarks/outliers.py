"""Outlier scores by the mean cosine distance to 10 neighbours of 10,000 x 64: datumwise against cleanlab 2.9.

    OMP_NUM_THREADS=1 python benchmarks/outliers.py [--repeats 3]

CPU seconds of one thread, medians of alternating runs; scores asserted equal to 1e-7. Peak memory is what
NumPy allocates on top of the input (tracemalloc), measured in runs of their own.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable

import cleanlab
import numpy as np
from cleanlab.outlier import OutOfDistribution

from datumwise.score import ood_knn


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=64)
    options = parser.parse_args()
    X = np.random.default_rng(0).normal(size=(options.n, options.dim))

    ways: dict[str, Callable[[], np.ndarray]] = {
        "datumwise": lambda: ood_knn(X),
        "cleanlab": lambda: OutOfDistribution().fit_score(features=X, verbose=False),
    }
    np.testing.assert_allclose(ways["datumwise"](), ways["cleanlab"](), rtol=0, atol=1e-7)

    cpu: dict[str, list[float]] = {name: [] for name in ways}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            start, since = time.process_time(), time.perf_counter()
            way()
            cpu[name].append(time.process_time() - start)
            wall[name].append(time.perf_counter() - since)
    print(f"outliers, {options.n:,} x {options.dim}, cosine, 10 neighbours")
    print(f"{'':12}{'CPU s':>10}{'wall s':>10}{'peak MiB':>10}")
    for name, way in ways.items():
        tracemalloc.start()
        way()
        peak = tracemalloc.get_traced_memory()[1] / 2**20
        tracemalloc.stop()
        print(f"{name:12}{statistics.median(cpu[name]):10.3f}{statistics.median(wall[name]):10.3f}{peak:10.0f}")
    ratio = statistics.median(cpu["cleanlab"]) / statistics.median(cpu["datumwise"])
    print(f"ratio {ratio:.1f} x (CPU)")
    print(f"cleanlab {cleanlab.__version__}, numpy {np.__version__}, {platform.machine()}")


if __name__ == "__main__":
    main()
