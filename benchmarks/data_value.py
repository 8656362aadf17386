"""Data values of 500 training rows: datumwise against pyDVL 0.10.0, the same budget and the same game.

    OMP_NUM_THREADS=1 python benchmarks/data_value.py --peer-python PEER/bin/python [--repeats 3]

pyDVL 0.10.0 wants numpy below 2, so it lives in an environment of its own:

    python -m venv PEER && PEER/bin/pip install pydvl==0.10.0

Three methods. Permutation Shapley: whole permutations, and Banzhaf by maximum sample reuse: both get the very same
permutations and sets, and the values are asserted equal. Data-OOB: bags of decision trees, drawn by each itself, so
that the values are asserted to agree within their sampling errors. The learner of the first two is ridge regression on one-hot
labels with standardised columns, retrained by datumwise with rank-one updates and by pyDVL, as any model there, by a fit a
set (a class of a dozen lines of numpy: no validation of input, no overhead of an estimator). Both compute in one
thread and time their computation alone, medians of alternating runs.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from datumwise.score.banzhaf import banzhaf
from datumwise.score.data_oob import data_oob
from datumwise.score.utility import utility

PEER = """
import json, resource, sys, time, logging
import numpy as np
from sklearn.ensemble import BaggingClassifier
from sklearn.tree import DecisionTreeClassifier
from pydvl.valuation import Dataset, ModelUtility, SupervisedScorer, BanzhafValuation, DataOOBValuation, MSRSampler
from pydvl.valuation.stopping import MaxUpdates
folder, what, budget = sys.argv[1], sys.argv[2], int(sys.argv[3])
X, y, X_val, y_val = (np.load(f"{folder}/{name}.npy") for name in ("X", "y", "X_val", "y_val"))
K, n = int(y.max()) + 1, len(X)

class RidgeOnOneHot:
    def fit(self, A, b):
        self.W = np.linalg.solve(A.T @ A + np.eye(A.shape[1]), A.T @ (np.eye(K)[b] - 1 / K))
        return self
    def predict(self, A):
        return (A @ self.W - 1e-12 * np.arange(K)).argmax(axis=1)  # classes that a set lacks tie: to the lowest
    def score(self, A, b):
        return float((self.predict(A) == b).mean())
    def get_params(self, deep=True):
        return {}
    def set_params(self, **_):
        return self

mean, scale = X.mean(axis=0), X.std(axis=0)
A, V = (np.column_stack([(Z - mean) / scale, np.ones(len(Z))]) for Z in (X, X_val))
train, test = Dataset(A, y), Dataset(V, y_val)
model = RidgeOnOneHot()
game = ModelUtility(model, SupervisedScorer(model, test, default=1 / K), catch_errors=False, show_warnings=False)
if what == "permutations":
    from pydvl.valuation import ShapleyValuation
    from pydvl.valuation.samplers import PermutationSampler
    orders = np.load(f"{folder}/orders.npy")
    class Given(PermutationSampler):
        def generate(self, indices):
            from pydvl.valuation.types import Sample
            for order in orders:
                yield Sample(None, order)
    valuation = ShapleyValuation(game, Given(), is_done=MaxUpdates(budget), progress=False)
elif what == "banzhaf":
    from pydvl.valuation.types import Sample
    masks = np.load(f"{folder}/masks.npy")
    class GivenSets(MSRSampler):
        def generate(self, indices):
            for mask in masks:
                yield Sample(None, np.flatnonzero(mask))
    valuation = BanzhafValuation(game, GivenSets(seed=0), is_done=MaxUpdates(10 * budget), progress=False)
start, wall = time.process_time(), time.perf_counter()
if what == "data_oob":
    bags = BaggingClassifier(DecisionTreeClassifier(), n_estimators=budget, random_state=0).fit(X, y)
    valuation = DataOOBValuation(bags).fit(Dataset(X, y))
else:
    valuation.fit(train)
seconds, wall = time.process_time() - start, time.perf_counter() - wall
result = valuation.result
order = np.argsort(result.indices)
np.save(f"{folder}/peer.npy", np.stack([np.asarray(result.values)[order], np.asarray(result.stderr)[order]]))
print(json.dumps([seconds, wall, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer-python", required=True, help="interpreter that has pyDVL 0.10.0")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--train", type=int, default=500)
    parser.add_argument("--validation", type=int, default=300)
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--permutations", type=int, default=10)
    parser.add_argument("--subsets", type=int, default=300)
    parser.add_argument("--trees", type=int, default=200)
    options = parser.parse_args()

    rng = np.random.default_rng(0)
    centres = 1.5 * rng.normal(size=(5, options.dim)) / np.sqrt(options.dim) * 3
    y, y_val = rng.integers(0, 5, options.train), rng.integers(0, 5, options.validation)
    X, X_val = (centres[labels] + rng.normal(size=(len(labels), options.dim)) for labels in (y, y_val))
    noisy = rng.random(options.train) < 0.1
    y = np.where(noisy, (y + 1) % 5, y)
    orders = rng.permuted(np.tile(np.arange(options.train), (options.permutations, 1)), axis=1)

    masks = np.random.default_rng(0).random((options.subsets, options.train)) < 0.5  # those that banzhaf draws

    def permutations() -> tuple[np.ndarray, np.ndarray]:
        walked = np.diff(utility(X, y, X_val, y_val).prefixes(orders), axis=1)
        added = np.empty_like(walked)
        np.put_along_axis(added, orders, walked, axis=1)
        return added.mean(axis=0), added.std(axis=0, ddof=1) / np.sqrt(len(orders))

    def sampled(method: str) -> tuple[np.ndarray, np.ndarray]:
        if method == "banzhaf":
            found = banzhaf(utility(X, y, X_val, y_val), n_subsets=options.subsets, random_state=0)
        else:
            found = data_oob(X, y, n_models=options.trees, random_state=0)
        return found.values, found.stderr

    data_oob(X[:50], y[:50], n_models=2)  # loads scikit-learn, which the peer has loaded when its clock starts
    budgets = {"permutations": options.permutations, "banzhaf": options.subsets, "data_oob": options.trees}
    print(f"{options.train:,} training and {options.validation:,} validation rows, d = {options.dim}, 5 classes, 10 % wrong")
    print(f"{'':14}{'budget':>8}{'ours, CPU s':>13}{'pyDVL, CPU s':>14}{'ratio':>8}{'pyDVL, MiB':>12}  agreement")
    with tempfile.TemporaryDirectory() as folder:
        for name, array in (("X", X), ("y", y), ("X_val", X_val), ("y_val", y_val), ("orders", orders), ("masks", masks)):
            np.save(Path(folder) / f"{name}.npy", array)
        for what, budget in budgets.items():
            ours: list[float] = []
            peer: list[Any] = []
            for _ in range(options.repeats):
                start = time.process_time()
                values, stderr = permutations() if what == "permutations" else sampled(what)
                ours.append(time.process_time() - start)
                answer = subprocess.run(
                    [options.peer_python, "-c", PEER, folder, what, str(budget)], check=True, capture_output=True, text=True
                )
                peer.append(json.loads(answer.stdout.splitlines()[-1]))
            theirs, error = np.load(Path(folder) / "peer.npy")
            if what != "data_oob":
                gap = float(np.abs(values - theirs).max())
                assert gap < 1e-8, f"the values differ by {gap}"
                agreement = f"largest difference {gap:.0e}"
            else:
                both = np.hypot(stderr, error)
                z = (values - theirs)[both > 0] / both[both > 0]
                assert np.abs(z).max() < 5, f"two values are {np.abs(z).max():.1f} standard errors apart"
                agreement = f"differences of {z.std():.2f} standard errors, correlation {np.corrcoef(values, theirs)[0, 1]:.2f}"
            a, b = statistics.median(ours), statistics.median(seconds for seconds, _, _ in peer)
            memory = statistics.median(each for _, _, each in peer)
            print(f"{what:14}{budget:>8,}{a:>13.3f}{b:>14.2f}{b / a:>7.0f}x{memory:>12.0f}  {agreement}")
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"ours: {own:.0f} MiB; numpy {np.__version__}, {platform.machine()}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
