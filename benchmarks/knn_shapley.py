"""Exact kNN-Shapley values of 5,000 training rows for 500 validation rows: datumwise against pyDVL 0.10.0.

    OMP_NUM_THREADS=1 python benchmarks/knn_shapley.py --peer-python PEER/bin/python [--repeats 3]

pyDVL 0.10.0 wants numpy below 2, so it lives in an environment of its own:

    python -m venv PEER && PEER/bin/pip install pydvl==0.10.0

Both get the same arrays from .npy files and time their computation alone, in CPU seconds of one thread,
medians of alternating runs. The values are asserted equal to 1e-12.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from datumwise.score import knn_shapley

PEER = """
import json, sys, time
import numpy as np
from sklearn.neighbors import KNeighborsClassifier
from pydvl.valuation import Dataset, KNNShapleyValuation
folder, k = sys.argv[1], int(sys.argv[2])
X, y, X_val, y_val = (np.load(f"{folder}/{name}.npy") for name in ("X", "y", "X_val", "y_val"))
train, test = Dataset(X, y), Dataset(X_val, y_val)
start, wall = time.process_time(), time.perf_counter()
valuation = KNNShapleyValuation(KNeighborsClassifier(k), test, progress=False).fit(train)
seconds, wall = time.process_time() - start, time.perf_counter() - wall
np.save(f"{folder}/peer.npy", np.asarray(valuation.result.values)[np.argsort(valuation.result.indices)])
print(json.dumps([seconds, wall]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer-python", required=True, help="interpreter that has pyDVL 0.10.0")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--train", type=int, default=5_000)
    parser.add_argument("--validation", type=int, default=500)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("-k", type=int, default=5)
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    X, X_val = (
        rng.normal(size=(options.train, options.dim)),
        rng.normal(size=(options.validation, options.dim)),
    )
    y, y_val = rng.integers(0, 10, options.train), rng.integers(0, 10, options.validation)
    ours: list[tuple[float, float]] = []
    peer: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for name, array in (("X", X), ("y", y), ("X_val", X_val), ("y_val", y_val)):
            np.save(Path(folder) / f"{name}.npy", array)
        for _ in range(options.repeats):
            start, wall = time.process_time(), time.perf_counter()
            value = knn_shapley(X, y, X_val, y_val, options.k)
            ours.append((time.process_time() - start, time.perf_counter() - wall))
            answer = subprocess.run(
                [options.peer_python, "-c", PEER, folder, str(options.k)],
                check=True,
                capture_output=True,
                text=True,
            )
            peer.append(tuple(json.loads(answer.stdout.splitlines()[-1])))
        difference = float(np.abs(value - np.load(Path(folder) / "peer.npy")).max())
    assert difference < 1e-12, f"the values differ by {difference}"

    a, b = (statistics.median(cpu for cpu, _ in runs) for runs in (ours, peer))
    print(f"kNN-Shapley, {options.train:,} x {options.validation:,}, d = {options.dim}, k = {options.k}")
    print(f"{'':12}{'CPU s':>10}{'wall s':>10}")
    for name, runs in (("datumwise", ours), ("pyDVL", peer)):
        print(f"{name:12}" + "".join(f"{statistics.median(run[i] for run in runs):10.3f}" for i in (0, 1)))
    print(f"ratio {b / a:.0f} x (CPU), largest difference of a value {difference:.1e}")
    print(f"numpy {np.__version__}, {platform.machine()}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
