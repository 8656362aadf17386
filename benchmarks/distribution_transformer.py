"""Posteriors by a trained distribution transformer, NumPyro's NUTS, importance sampling and quadrature, on the same problems.

    OMP_NUM_THREADS=1 python -P benchmarks/distribution_transformer.py --peer-python PEER/bin/python [--tasks conjugate student]

NumPyro lives in an environment of its own:

    python -m venv PEER && PEER/bin/pip install numpyro==0.22.0 jax==0.10.0

Every method gets the same priors (mixtures of Gaussians) and data. The peer's log likelihoods are asserted equal to ours
before anything is timed, and every answer is measured against the exact posterior by quadrature:

    KL        of the exact posterior from the mixture, nats, mean and median over the problems (mixtures only)
    mean, sd  mean absolute error of posterior means, and of standard deviations, in exact standard deviations
    90 %      exact mass of the central 90 % interval of the first coordinate, mean over the problems
    one, many milliseconds a posterior: one at a time, and in a batch (the transformer 2,000, NUTS all problems)

NUTS takes 500 warm-up steps and 1,000 draws in one chain, the whole run jitted with the data as arguments, and once more
mapped over all problems with vmap; compilation is apart. A plain ``MCMC.run`` compiles again for new arrays.
Importance sampling takes 100,000 prior draws. Models are trained once; ``--models FOLDER`` keeps them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datumwise.learn.distribution_transformer import DistributionTransformer
from datumwise.learn.exact_posteriors import gp_hyperprior_predictive
from datumwise.learn.gaussian_mixture import GaussianMixture
from datumwise.learn.importance import importance_sample
from datumwise.learn.inference_tasks import GP_NOISE, TASKS, InferenceTask
from datumwise.learn.quadrature import QuadraturePosterior, quadrature_posterior
from datumwise.learn.transforms import transform_of

NAMES = ("conjugate", "student", "bernoulli", "bimodal", "plane", "inverse-gamma", "quantum", "gp-hyperprior")
BATCH = 2000
PRIOR_DRAWS = 100_000

PEER = r"""
import json, math, sys, time
import numpy as np
import jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS

folder, name, warmup, draws = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
given = np.load(f"{folder}/problems.npz")
L2PI = math.log(2 * math.pi)

def conjugate(x, z):
    return jnp.sum(-0.5 * ((z[:, 0] - x[0]) ** 2 + L2PI))

def student(x, z):
    return jnp.sum(-1.5 * jnp.log1p(((z[:, 0] - x[0]) / 0.5) ** 2 / 2) - math.log(math.sqrt(2)))

def bernoulli(x, z):
    return jnp.sum(jax.nn.log_sigmoid(2 * x[0] * (2 * z[:, 0] - 1)))

def bimodal(x, z):
    return jnp.sum(-0.5 * (((z[:, 0] - 0.3 * x[0] ** 2) / 0.5) ** 2 + L2PI) - math.log(0.5))

def plane(x, z):
    return jnp.sum(-0.5 * (((z[:, 2] - z[:, :2] @ x) / 0.5) ** 2 + L2PI) - math.log(0.5))

def inverse_gamma(t, z):
    apart = z[:, 0] - t[0]
    return jnp.sum(-0.5 * (L2PI + jnp.exp(apart) - apart))

def quantum(t, z):
    d = jax.nn.sigmoid(t[0])
    w2 = d**2 + (1 - d) ** 2
    a, b = z[:, 1], z[:, 2]
    c = 0.5 / 0.1**2
    kept = 1 - (1 - math.exp(-c)) / c
    aa, ab = 0.5 + kept * (a * a - 0.5), kept * a * b
    cos2 = 0.5 * (1 + jnp.exp(-2 * w2 * 0.05**2) * jnp.cos(2 * jnp.sqrt(w2) * z[:, 0]))
    p = aa * cos2 + ((1 - d) ** 2 * aa + 2 * d * (1 - d) * ab + d**2 * (1 - aa)) * (1 - cos2) / w2
    return jnp.sum(jnp.where(z[:, 3] > 0.5, jnp.log(p), jnp.log1p(-p)))

def gp_hyperprior(t, z):
    at = jnp.concatenate([jnp.zeros(1), z[:, 0]])
    K = jnp.exp(-0.5 * (at[:, None] - at[None]) ** 2 / jnp.exp(2 * t[1])) + 1e-3 * jnp.eye(len(at))
    root = jnp.linalg.cholesky(K)
    white = jax.scipy.linalg.solve_triangular(root, jnp.concatenate([t[:1], z[:, 1]]), lower=True)
    return jnp.sum((-0.5 * (white**2 + L2PI) - jnp.log(jnp.diagonal(root)))[1:])

likelihood = globals()[name.replace("-", "_")]  # of the unconstrained state

def model(log_w, mu, L, z):
    prior = dist.MixtureSameFamily(dist.Categorical(logits=log_w), dist.MultivariateNormal(mu, scale_tril=L))
    numpyro.factor("likelihood", likelihood(numpyro.sample("t", prior), z))

def posterior(key, *args):
    sampler = MCMC(NUTS(model), num_warmup=warmup, num_samples=draws, progress_bar=False)
    sampler.run(key, *args)
    return sampler.get_samples()["t"]

arrays = [jnp.asarray(given[k], dtype=jnp.float64) for k in ("log_weights", "means", "scale_tril", "data")]
points = jnp.asarray(given["points"], dtype=jnp.float64)
checks = np.asarray(jax.vmap(jax.vmap(likelihood, (0, None)), (1, 0), 1)(points, arrays[3]))
n = len(arrays[0])
keys = jax.random.split(jax.random.PRNGKey(0), n)
one, many = jax.jit(posterior), jax.jit(jax.vmap(posterior))
seconds, out = [], []
for i in [0, *range(n)]:
    start = time.perf_counter()
    out.append(np.asarray(one(keys[i], *(a[i] for a in arrays))))
    seconds.append(time.perf_counter() - start)
np.asarray(many(keys, *arrays))
start = time.perf_counter()
np.asarray(many(keys, *arrays))
batch = (time.perf_counter() - start) / n
sampler = MCMC(NUTS(model), num_warmup=warmup, num_samples=draws, progress_bar=False)
for i in (0, 1):
    start = time.perf_counter()
    sampler.run(keys[i], *(a[i] for a in arrays))
    plain = time.perf_counter() - start
np.savez(f"{folder}/peer.npz", draws=np.stack(out[1:], 1), checks=checks)
print(json.dumps({"first": seconds[0], "later": seconds[1:], "batch": batch, "plain": plain, "jax": jax.__version__}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--peer-python", required=True, help="interpreter that has NumPyro")
    parser.add_argument("--tasks", nargs="+", default=list(NAMES), choices=NAMES)
    parser.add_argument("--problems", type=int, default=20, help="that NUTS answers too")
    parser.add_argument("--many", type=int, default=500, help="problems of the transformer's own KL")
    parser.add_argument("--steps", type=int, help="of training; the task's own if not given")
    parser.add_argument("--models", type=Path, help="folder of trained models")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, {platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    for name in options.tasks:
        compare(TASKS[name], options)
    print(f"peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


def compare(task: InferenceTask, options: argparse.Namespace) -> None:
    """One task: every method's error and time."""
    model, trained = trained_model(task, options.steps, options.models)
    n_obs = task.n_obs[1]
    prior, _, data = task.problems(max(options.many, BATCH), n_obs, seed=options.seed)
    few, few_data = prior[: options.problems], data[: options.problems]
    with torch.inference_mode():
        answer = model(few, few_data)
    exact = exact_posterior(task, few, few_data, answer)

    rows: list[tuple[str, dict[str, float]]] = []
    peer = run_peer(options.peer_python, task, few, few_data)
    rows.append(
        (
            "NUTS",
            {
                **errors_of_draws(exact, peer["draws"]),
                "one": 1e3 * statistics.median(peer["later"]),
                "many": 1e3 * peer["batch"],
            },
        )
    )

    def from_prior() -> Any:
        return importance_sample(few[:1], few[:1], likelihood(task), few_data[:1], n=PRIOR_DRAWS, support=task.support)

    weighted = [
        importance_sample(few[i], few[i], likelihood(task), few_data[i : i + 1], n=PRIOR_DRAWS, support=task.support)
        for i in range(len(few))
    ]
    resampled = np.concatenate([resample(w.draws, w.weights) for w in weighted], 1)
    ess = statistics.median(float(w.ess) for w in weighted)
    rows.append(("importance", {**errors_of_draws(exact, resampled), "one": milliseconds(from_prior, 5)}))
    rows.append(("quadrature", {"one": milliseconds(lambda: exact_posterior(task, few[:1], few_data[:1], None), 5)}))

    def refined() -> GaussianMixture:
        return model.posterior(few[:1], few_data[:1], log_likelihood=likelihood(task), refine=3).mixture

    with torch.inference_mode():
        one = milliseconds(lambda: model(few[:1], few_data[:1]), 200)
        many = milliseconds(lambda: model(prior[:BATCH], data[:BATCH]), 5) / BATCH
        mended = model.posterior(few, few_data, log_likelihood=likelihood(task), refine=3).mixture
    rows.append(("transformer", {**errors_of_mixture(exact, answer), "one": one, "many": many}))
    rows.append(("  + refine", {**errors_of_mixture(exact, mended), "one": milliseconds(refined, 20)}))

    print(f"\n{task.name}: {task.title}; {n_obs} data, {len(few)} problems, {model.n_parameters:,} parameters, {trained}")
    several = options.many if task.name == "gp-hyperprior" or task.state_dim == 1 else options.many // 5
    kl = divergences(task, model, prior[:several], data[:several])
    print(
        f"  transformer on {len(kl):,} problems: KL mean {kl.mean():.4f}, median {kl.median():.4f}; "
        f"KL(exact || prior) mean {divergence_from_prior(task, few, few_data, exact):.2f}"
    )
    print(
        f"  NUTS: compilation and first call {peer['first']:.1f} s, a plain MCMC.run on new arrays {peer['plain']:.1f} s; "
        f"importance sampling: median ESS {ess:,.0f}"
    )
    columns = ("KL", "median", "mean", "sd", "90 %", "one", "many")
    print(f"  {'':12}" + "".join(f"{c:>10}" for c in columns))
    for label, values in rows:
        cells = (f"{values[c]:10.4f}" if c in values else f"{'':10}" for c in columns)
        print(f"  {label:12}" + "".join(cells))
    nuts = dict(rows)["NUTS"]
    print(
        f"  NUTS / transformer: {nuts['one'] / one:,.0f} x one at a time, {nuts['many'] / many:,.0f} x in a batch", flush=True
    )


def trained_model(task: InferenceTask, steps: int | None, folder: Path | None) -> tuple[DistributionTransformer, str]:
    """The task's model and a word on its training."""
    steps = steps or task.steps
    path = None if folder is None else folder / f"{task.name}-{steps}.pt"
    if path is not None and path.exists():
        return DistributionTransformer.load(path), f"{steps:,} steps x {task.batch_size} (kept)"
    model = task.model()
    start = time.perf_counter()
    model.fit(task.simulator, task.family, steps=steps, batch_size=task.batch_size, lr=task.lr, n_obs=task.n_obs, seed=0)
    seconds = time.perf_counter() - start
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        model.save(path)
    return model, f"{steps:,} steps x {task.batch_size} in {seconds:.0f} s"


def likelihood(task: InferenceTask) -> Callable[[Tensor, Any], Tensor]:
    return lambda x, data: task.log_likelihood(x, data.to(x.dtype))


def exact_posterior(
    task: InferenceTask, prior: GaussianMixture, data: Tensor, also: GaussianMixture | None
) -> QuadraturePosterior:
    """By quadrature; for the Gaussian process by its exact predictive on a grid of lengthscales."""
    if task.name != "gp-hyperprior":
        return quadrature_posterior(prior, likelihood(task), data, support=task.support, also=also)
    parts = [gp_posterior(prior[i], data[i]) for i in range(len(prior))]
    return QuadraturePosterior(
        *(
            torch.cat([getattr(p, name) for p in parts], axis)
            for name, axis in (("nodes", 1), ("log_mass", 1), ("log_density", 1))
        ),
        torch.cat([p.log_evidence for p in parts]),
    )


def gp_posterior(prior: GaussianMixture, data: Tensor, lengths: int = 241, nodes: int = 41) -> QuadraturePosterior:
    """Of (y*, log lengthscale): a grid of log lengthscales times Gauss-Hermite nodes of y* given each."""
    margin = prior.marginal(1).to(torch.float64)
    reach = 7 * margin.scale_tril.flatten()
    low, high = (margin.means.flatten() - reach).amin(), (margin.means.flatten() + reach).amax()
    grid = torch.linspace(float(low), float(high), lengths, dtype=torch.float64)
    log_prior = margin.log_prob(grid[:, None, None])[:, 0]
    weights, means, variances = gp_hyperprior_predictive(
        data[:, :1].double(),
        data[:, 1].double(),
        torch.zeros(1, 1),
        grid.exp(),
        torch.softmax(log_prior, 0),
        noise_var=GP_NOISE,
    )
    z, share = (torch.as_tensor(t) for t in np.polynomial.hermite_e.hermegauss(nodes))
    sd = variances.sqrt()
    y = means + sd * z  # (lengths, nodes)
    log_mass = weights.log()[:, None] + (share / share.sum()).log()
    log_density = weights.log()[:, None] - (grid[1] - grid[0]).log() - 0.5 * (z.square() + np.log(2 * np.pi)) - sd.log()
    points = torch.stack((y, grid[:, None].expand_as(y)), -1).reshape(-1, 1, 2)
    return QuadraturePosterior(points, log_mass.reshape(-1, 1), log_density.reshape(-1, 1), torch.zeros(1, dtype=torch.float64))


def divergences(task: InferenceTask, model: DistributionTransformer, prior: GaussianMixture, data: Tensor) -> Tensor:
    """KL(exact || answer) of many problems, in blocks."""
    rows = 100 if task.state_dim == 1 else 10
    found = []
    for i in range(0, len(prior), rows):
        with torch.inference_mode():
            answer = model(prior[i : i + rows], data[i : i + rows])
        found.append(exact_posterior(task, prior[i : i + rows], data[i : i + rows], answer).kl(answer))
    return torch.cat(found)


def divergence_from_prior(task: InferenceTask, prior: GaussianMixture, data: Tensor, exact: QuadraturePosterior) -> float:
    return float(exact.kl(prior).mean())


def run_peer(python: str, task: InferenceTask, prior: GaussianMixture, data: Tensor) -> dict[str, Any]:
    """NUTS's draws (S, B, d) and seconds; its likelihood is asserted to be ours."""
    points = prior.sample(50, torch.Generator().manual_seed(3)).double()
    ours = likelihood(task)(transform_of(task.support).from_real(points), data)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(
            Path(folder) / "problems.npz",
            log_weights=prior.log_weights,
            means=prior.means,
            scale_tril=prior.scale_tril,
            data=data,
            points=points,
        )
        environment = {**os.environ, "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"}
        answer = subprocess.run(
            [python, "-c", PEER, folder, task.name, "500", "1000"], check=True, capture_output=True, text=True, env=environment
        )
        with np.load(Path(folder) / "peer.npz") as arrays:
            draws, checks = arrays["draws"], arrays["checks"]
    np.testing.assert_allclose(checks, ours, rtol=1e-5, atol=1e-4, err_msg=f"likelihoods of {task.name}")
    return {**json.loads(answer.stdout.splitlines()[-1]), "draws": draws}


def resample(draws: Tensor, weights: Tensor, n: int = 10_000) -> np.ndarray:
    """n equally weighted draws (n, 1, d), by systematic resampling."""
    chosen = np.searchsorted(weights[:, 0].double().cumsum(0).numpy(), (np.arange(n) + 0.5) / n).clip(max=len(draws) - 1)
    return draws[chosen].numpy()


def errors_of_draws(exact: QuadraturePosterior, draws: np.ndarray) -> dict[str, float]:
    sample = torch.as_tensor(draws, dtype=torch.float64)
    low, high = torch.quantile(sample[..., 0], torch.tensor([0.05, 0.95], dtype=torch.float64), dim=0)
    return errors(exact, sample.mean(0), sample.std(0), low, high)


def errors_of_mixture(exact: QuadraturePosterior, mixture: GaussianMixture) -> dict[str, float]:
    mixture = mixture.to(torch.float64)
    low, high = mixture.marginal(0).interval(0.9)
    kl = exact.kl(mixture)
    found = errors(exact, mixture.mean, mixture.covariance.diagonal(dim1=-2, dim2=-1).sqrt(), low, high)
    return {"KL": float(kl.mean()), "median": float(kl.median()), **found}


def errors(exact: QuadraturePosterior, mean: Tensor, sd: Tensor, low: Tensor, high: Tensor) -> dict[str, float]:
    exact_sd = exact.covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    inside = (exact.nodes[..., 0] >= low) & (exact.nodes[..., 0] <= high)
    return {
        "mean": float(((mean - exact.mean).abs() / exact_sd).mean()),
        "sd": float(((sd - exact_sd).abs() / exact_sd).mean()),
        "90 %": float(torch.where(inside, exact.log_mass.exp(), 0.0).sum(0).mean()),
    }


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Median after one warm-up."""
    call()
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return 1e3 * statistics.median(taken)


if __name__ == "__main__":
    main()
