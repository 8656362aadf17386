"""The Vendi score of 20,000 x 128 against vendi-score 0.0.3, and greedy DPP of 5,000 against submodlib 0.0.3.

    OMP_NUM_THREADS=1 python benchmarks/diversity.py --peer-python PEER/bin/python [--repeats 3]

The peers live in an environment of their own:

    python -m venv PEER && PEER/bin/pip install vendi-score==0.0.3 scikit-learn submodlib-py==0.0.3

Same arrays, CPU seconds of one thread, medians of alternating runs. vendi-score's fastest call for more rows than
columns (``score_dual``) is timed, and ``score_X`` on the first 3,000 rows. submodlib's log-determinant, naive, from a
kernel given, chooses 100. Scores are asserted equal to 1e-6 and rankings equal.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from datumwise.score.vendi import vendi
from datumwise.select.log_det import LogDet

PEER = """
import json, sys, time
import numpy as np
from vendi_score import vendi
folder, what = sys.argv[1:]
X = np.load(f"{folder}/X.npy")
start, answer = time.process_time(), None
if what == "vendi":
    answer = float(vendi.score_dual(X))
elif what == "vendi, 3,000 rows":
    answer = float(vendi.score_X(X[:3000]))
else:
    from submodlib.functions.logDeterminant import LogDeterminantFunction
    S = np.load(f"{folder}/S.npy")
    start = time.process_time()
    f = LogDeterminantFunction(n=len(S), mode="dense", lambdaVal=1.0, sijs=S)
    found = f.maximize(budget=100, optimizer="NaiveGreedy", stopIfZeroGain=False, stopIfNegativeGain=False)
    answer = [int(row) for row, gain in found]
print("\\n" + json.dumps([time.process_time() - start, answer]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer-python", required=True, help="interpreter that has the peers")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    X = rng.normal(size=(20_000, 128)) @ np.diag(np.linspace(0.1, 2, 128))
    small = X[:5000, -16:] / 4
    S = np.exp(-((small**2).sum(axis=1)[:, None] + (small**2).sum(axis=1) - 2 * small @ small.T) / 4)
    quality = rng.uniform(1, 1.5, size=5000)  # a diagonal without ties: submodlib gives those to the last row
    S *= np.outer(quality, quality)
    tasks: dict[str, Callable[[], float | list[int]]] = {
        "vendi": lambda: vendi(X),
        "vendi, 3,000 rows": lambda: vendi(X[:3000]),
        "log det, 100 of 5,000": lambda: LogDet(100, metric="precomputed").fit(S).ranking_.tolist(),
    }
    print(f"{'CPU s':24}{'datumwise':>12}{'peer':>12}{'ratio':>10}")
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "X.npy", X)
        np.save(Path(folder) / "S.npy", S)
        for name, task in tasks.items():
            ours, peer = [], []
            for _ in range(options.repeats):
                start = time.process_time()
                answer = task()
                ours.append(time.process_time() - start)
                said = subprocess.run(
                    [options.peer_python, "-c", PEER, folder, name], check=True, capture_output=True, text=True
                )
                seconds, theirs = json.loads(said.stdout.splitlines()[-1])
                peer.append(seconds)
            same = answer == theirs if isinstance(answer, list) else abs(answer - theirs) < 1e-6 * theirs
            assert same, f"{name}: {answer} and {theirs}"
            a, b = statistics.median(ours), statistics.median(peer)
            print(f"{name:24}{a:12.3f}{b:12.3f}{b / a:9.1f}x")
    print(f"numpy {np.__version__}, {platform.machine()}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
