"""Facility location: 500 of 10,000 with the similarity given, against apricot 0.6.1; and 1,000 of 100,000 on a graph.

    OMP_NUM_THREADS=1 python benchmarks/facility_location.py --peer-python PEER/bin/python [--two-stage] [--large]

apricot lives in an environment of its own:

    python -m venv PEER && PEER/bin/pip install apricot-select==0.6.1 matplotlib

Both get the same similarity, max(0, cos) of 128 normal features, rounded to float32; apricot reads float64 only, so
that is what it is given, before the clock starts. Its numba code is compiled before, too. CPU seconds of one thread,
medians of alternating runs (``--two-stage``: apricot's documented default, too). Rankings are asserted equal and
objectives equal to 1e-9. ``--large`` builds the exact graph of 10 neighbours and chooses from it,
in a process of its own whose peak memory is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from datumwise.select.facility_location import FacilityLocation

PEER = """
import json, sys, time
import numpy as np
from apricot import FacilityLocationSelection
folder, k, optimizer = sys.argv[1], int(sys.argv[2]), sys.argv[3]
S = np.load(f"{folder}/S.npy").astype(np.float64)
small = np.abs(np.random.default_rng(0).normal(size=(50, 50)))
FacilityLocationSelection(5, metric="precomputed", optimizer=optimizer).fit(small + small.T)
start, wall = time.process_time(), time.perf_counter()
found = FacilityLocationSelection(k, metric="precomputed", optimizer=optimizer).fit(S)
seconds, wall = time.process_time() - start, time.perf_counter() - wall
np.save(f"{folder}/peer.npy", found.ranking)
print(json.dumps([seconds, wall]))
"""

LARGE = """
import json, resource, sys, time
import numpy as np
from datumwise.select.facility_location import FacilityLocation
from datumwise.select.similarity import similarity
n, d, k, neighbours = map(int, sys.argv[1:])
rng = np.random.default_rng(0)
X = (rng.normal(size=(200, d))[rng.integers(0, 200, n)] + rng.normal(size=(n, d))).astype(np.float32)
start = time.process_time()
graph = similarity(X, "cosine", n_neighbors=neighbours)
built = time.process_time()
found = FacilityLocation(k, metric="precomputed").fit(graph.by_row)
done = time.process_time()
covered = np.zeros(n)
for j in found.ranking_:
    rows, values = graph.column(j)
    covered[rows] = np.maximum(covered[rows], values)
assert abs(found.gains_.sum() - covered.sum()) < 1e-9 * covered.sum()
print(json.dumps([built - start, done - built, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer-python", required=True, help="interpreter that has apricot-select 0.6.1")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-n", type=int, default=10_000)
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("-k", type=int, default=500)
    parser.add_argument("--two-stage", action="store_true", help="also apricot's two-stage optimizer")
    parser.add_argument("--large", action="store_true", help="also 1,000 of 100,000 on a graph")
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    X = rng.normal(size=(options.n, options.dim))
    X /= np.linalg.norm(X, axis=1)[:, None]
    S = np.maximum(X @ X.T, 0).astype(np.float32)
    S = np.maximum(S, S.T)
    runs: dict[str, list[tuple[float, float]]] = {"datumwise": [], "apricot lazy": []}
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "S.npy", S)

        def peer(optimizer: str) -> None:
            answer = subprocess.run(
                [options.peer_python, "-c", PEER, folder, str(options.k), optimizer],
                check=True,
                capture_output=True,
                text=True,
                env={**os.environ, "NUMBA_NUM_THREADS": "1"},
            )
            runs.setdefault(f"apricot {optimizer}", []).append(tuple(json.loads(answer.stdout.splitlines()[-1])))
            ranking = np.load(Path(folder) / "peer.npy")
            assert ranking.tolist() == found.ranking_.tolist(), f"{optimizer}: another ranking"
            objective = float(S[:, ranking].max(axis=1).sum(dtype=np.float64))
            assert abs(objective - found.gains_.sum()) < 1e-9 * objective, f"{optimizer}: another objective"

        for _ in range(options.repeats):
            start, wall = time.process_time(), time.perf_counter()
            found = FacilityLocation(options.k, metric="precomputed").fit(S)
            runs["datumwise"].append((time.process_time() - start, time.perf_counter() - wall))
            for optimizer in ("lazy", "two-stage") if options.two_stage else ("lazy",):
                peer(optimizer)

    print(f"facility location, {options.k:,} of {options.n:,}, similarity given; objective {found.gains_.sum():.3f}")
    print(f"{'':20}{'CPU s':>10}{'wall s':>10}{'ratio':>10}")
    ours = statistics.median(cpu for cpu, _ in runs["datumwise"])
    for name, times in runs.items():
        cpu, wall = (statistics.median(one[i] for one in times) for i in (0, 1))
        print(f"{name:20}{cpu:10.2f}{wall:10.2f}{cpu / ours:9.1f}x")
    if options.large:
        answer = subprocess.run(
            [sys.executable, "-c", LARGE, "100000", "128", "1000", "10"], check=True, capture_output=True, text=True
        )
        graph, chosen, memory = json.loads(answer.stdout.splitlines()[-1])
        print(f"1,000 of 100,000 x 128, graph of 10 neighbours: {graph:.1f} s + {chosen:.2f} s, peak {memory:.2f} GiB")
        assert memory < 4, "more than 4 GiB"
    print(f"numpy {np.__version__}, {platform.machine()}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
