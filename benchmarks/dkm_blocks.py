"""One objective and its gradient of a sparse deep kernel machine: datumwise's blocks beside the published ones.

    OMP_NUM_THREADS=1 python benchmarks/dkm_blocks.py [--published CHECKOUT/dkm_most_experiments/dkm] [--repeats 7]

The published library (github.com/edwardmilsom/skr_cdkm) has no packaging; ``--published`` is the folder that holds its
package ``dkm``. Without it, our own blocks in the published parameterisation, with 1000 samples, stand in for it.

Same X, y, Z, layers, kernel, jitter (the published one), noise, dtype (float64), learned Gram matrices and posterior
q(u) on both sides. Before anything is timed, the objectives are asserted equal (to 1e-8, the sampled one to 5 standard
errors), and so are the gradients in Z where our blocks use the published parameterisation. CPU seconds of one thread
(``time.process_time``), medians of alternating runs.

    collapsed      our blocks, q(u) integrated out: what the regressor trains with
    q(u)           our blocks with an explicit posterior and the closed-form Gaussian likelihood
    published      as it comes: recomputation in the backward pass, 1000 samples
    100 samples    the same with fewer samples
    no sampling    the same without recomputation and with the closed-form likelihood put in: its best case
"""

from __future__ import annotations

import argparse
import importlib
import math
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from datumwise.learn.deep_kernel.blocks import FeaturesToGram, GramLayer, KernelMap, Output
from datumwise.learn.deep_kernel.cholesky import guarded_cholesky, raw_factor
from datumwise.learn.deep_kernel.sparse import Statistics, collapsed_bound

NOISE, NU, BIAS = 0.1, 1.0, 0.1
SETTINGS = [("arccos", 691, 64), ("gaussian", 691, 64), ("arccos", 1_000, 200)]
Objective = Callable[[], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--published", help="folder that holds the published package dkm")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--layers", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    dkm = None
    if options.published:
        sys.path.insert(0, options.published)
        dkm = importlib.import_module("dkm")
    print(f"timed against: {'the published library' if dkm else 'a stand-in: our blocks, variant published, 1000 samples'}")
    for kernel, n, P in SETTINGS:
        compare(dkm, kernel, n, P, options.layers, options.repeats)
    print(f"torch {torch.__version__}, {platform.machine()}, Python {platform.python_version()}, one thread, float64")


def compare(dkm: Any, kernel: str, n: int, P: int, L: int, repeats: int) -> None:
    generator = torch.Generator().manual_seed(0)
    X = torch.randn(n, 8, generator=generator)
    y = torch.sin(2 * X[:, :1]) + X[:, 1:2] + math.sqrt(NOISE) * torch.randn(n, 1, generator=generator)
    Z = X[torch.randperm(n, generator=generator)[:P]] + 0.1 * torch.randn(P, 8, generator=generator)
    given = learned_grams(kernel, Z, L, generator)
    posterior = best_posterior(kernel, Z, X, y, given)

    ours, same = (our_network(kernel, Z, given, posterior, variant) for variant in (None, "published"))
    runs: dict[str, tuple[nn.Module, Objective]] = {
        "collapsed": (ours[:-1], lambda: collapsed(ours, X, y)),
        "q(u)": (ours, lambda: fit(ours, X, y) - penalty(ours) / n),
    }
    if dkm is None:
        runs["published"] = (same, lambda: sampled(same, X, y, 1_000) - penalty(same) / n)
    else:
        for name, samples, checkpoint in (("published", 1_000, True), ("100 samples", 100, True), ("no sampling", 0, False)):
            net = published_network(dkm, kernel, Z, X, given, posterior, samples, checkpoint)
            runs[name] = (net, published_objective(dkm, net, X, y, samples))

    values = {name: float(objective().detach()) for name, (_, objective) in runs.items()}
    expected = values["q(u)"]
    spread = math.sqrt(float(sample_variance(ours, X, y)))
    for name, value in values.items():
        samples = {"published": 1_000, "100 samples": 100}.get(name, 0)
        allowed = 5 * spread / math.sqrt(samples) if samples else 1e-8 * abs(expected)
        assert abs(value - expected) <= allowed, f"{name}: {value}, ours {expected}"
    if dkm is not None:
        reference = runs["no sampling"]
        reference[1]().backward()
        (fit(same, X, y) - penalty(same) / n).backward()
        a, b = (next(net.parameters()).grad for net in (same, reference[0]))  # the inducing inputs come first
        assert a is not None
        assert b is not None
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-9 * float(b.abs().max())), "the gradients differ"

    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):  # the first is not counted
        for name, (timed, objective) in runs.items():
            timed.zero_grad()
            start = time.process_time()
            objective().backward()
            seconds[name].append(time.process_time() - start)
    print(f"\n{kernel}, n = {n:,}, P = {P}, {L} layers; objective {expected:.6f} a datapoint")
    print(f"{'':14}{'CPU ms':>10}{'q(u) is':>12}{'collapsed is':>15}{'peak MiB':>11}")
    middle = {name: statistics.median(runs_[1:]) for name, runs_ in seconds.items()}
    for name, value in middle.items():
        ratios = "".join(f"{value / middle[other]:>{width}.1f} x" for other, width in (("q(u)", 10), ("collapsed", 13)))
        print(f"{name:14}{1e3 * value:10.1f}{ratios}{peak(runs[name][1]):11.0f}")


def learned_grams(kernel: str, Z: Tensor, L: int, generator: torch.Generator) -> list[Tensor]:
    """Gram matrices at some distance from their kernel matrices, the same for both sides."""
    G, grams = Z @ Z.mT / Z.shape[1], []
    mapping = KernelMap(kernel, bias=BIAS, variant="published", learn=False)
    for _ in range(L):
        raw = 0.3 * torch.randn(Z.shape[0], Z.shape[0], generator=generator) / math.sqrt(Z.shape[0])
        V = guarded_cholesky(mapping.square(G)) @ (torch.eye(Z.shape[0]) + raw.tril())
        G = V @ V.mT
        grams.append(G)
    return grams


def best_posterior(kernel: str, Z: Tensor, X: Tensor, y: Tensor, given: list[Tensor]) -> tuple[Tensor, Tensor]:
    """q(u) that the collapsed bound has put in: Titsias, 2009, eq. 10."""
    with torch.no_grad():
        K = our_network(kernel, Z, given, None, None)[:-1](X)
        L = guarded_cholesky(K.ii)
        A = torch.linalg.solve_triangular(L, K.ti.mT, upper=False)
        B = guarded_cholesky(torch.eye(len(L)) + A @ A.mT / NOISE)
        R = torch.linalg.solve_triangular(B, L.mT, upper=False)
        return L @ torch.cholesky_solve(A @ y, B) / NOISE, R.mT @ R


def our_network(
    kernel: str, Z: Tensor, given: list[Tensor], posterior: tuple[Tensor, Tensor] | None, variant: str | None
) -> nn.Sequential:
    layers: list[nn.Module] = [FeaturesToGram(Z)]
    for G in given:
        gram = GramLayer(len(Z), NU, variant=variant)
        gram.set_gram(G)
        layers += [KernelMap(kernel, bias=BIAS, variant="published"), gram]
    output = Output(len(Z), 1, variant=variant)
    if posterior is not None:
        output.set_posterior(*posterior)
    return nn.Sequential(*layers, KernelMap(kernel, bias=BIAS, variant="published"), output)


def published_network(
    dkm: Any, kernel: str, Z: Tensor, X: Tensor, given: list[Tensor], posterior: Any, samples: int, checkpoint: bool
) -> nn.Sequential:
    Kernel = {"arccos": dkm.ReluKernel, "gaussian": dkm.NormalizedGaussianKernel}[kernel]
    P = len(Z)
    layers: list[nn.Module] = [dkm.Input(Z, learned=True), dkm.F2G()]
    for G in given:
        gram = dkm.GramLayer(P, NU, taylor_objective=False, do_checkpointing=checkpoint)
        gram.V.data = raw_factor(guarded_cholesky(G) * math.sqrt(P))
        gram.inited = True
        layers += [Kernel(), gram]
    mu, A = posterior
    kind = "samples" if samples else "distribution"
    output = dkm.Output(P, 1, init_mu=mu.clone(), mc_samples=samples, returns=kind, taylor_objective=False)
    output.V.data = raw_factor(guarded_cholesky(A) * math.sqrt(P))
    return nn.Sequential(*layers, Kernel(), output)


def published_objective(dkm: Any, net: nn.Module, X: Tensor, y: Tensor, samples: int) -> Objective:
    def with_samples() -> Tensor:
        return dkm.gaussian_expectedloglikelihood(net(X), y, noise_var=NOISE) + dkm.norm_kl_reg(net, len(X))

    def without() -> Tensor:
        # the published Normal(mean (n, 1), sd (n,)) is n x n by broadcasting: take its arguments instead
        with mock.patch.object(sys.modules["dkm.output"], "Normal", lambda mean, deviation: (mean, deviation)):
            mean, deviation = net(X)
        return closed_form(mean, deviation.square(), y) + dkm.norm_kl_reg(net, len(X))

    return with_samples if samples else without


def penalty(net: nn.Module) -> Tensor:
    return sum((layer.penalty for layer in net.modules() if isinstance(layer, GramLayer | Output)), torch.zeros(()))


def closed_form(mean: Tensor, variance: Tensor, y: Tensor) -> Tensor:
    """Mean expected log-likelihood of a Gaussian."""
    return -0.5 * (math.log(2 * math.pi * NOISE) + ((y - mean).square().sum() + variance.sum()) / (NOISE * len(y)))


def fit(net: nn.Module, X: Tensor, y: Tensor) -> Tensor:
    mean, variance = net(X)
    return closed_form(mean, variance, y)


def sampled(net: nn.Module, X: Tensor, y: Tensor, samples: int) -> Tensor:
    mean, variance = net(X)
    f = mean + variance.sqrt().unsqueeze(-1) * torch.randn(samples, *mean.shape)
    return torch.distributions.Normal(f, math.sqrt(NOISE)).log_prob(y).mean()


def sample_variance(net: nn.Module, X: Tensor, y: Tensor) -> Tensor:
    """Of the mean log-likelihood of one draw of f: independent over datapoints, quadratic in f."""
    mean, variance = net(X)
    one = (variance.square() * 2 + 4 * variance * (y - mean).squeeze(-1).square()) / (4 * NOISE**2)
    return one.sum().detach() / len(y) ** 2


def collapsed(net: nn.Sequential, X: Tensor, y: Tensor) -> Tensor:
    K = net[:-1](X)
    A = torch.linalg.solve_triangular(guarded_cholesky(K.ii), K.ti.mT, upper=False)
    bound = collapsed_bound(Statistics.of(A, K.t, y), torch.tensor(NOISE))
    return (bound - penalty(net[:-1])) / len(X)


def peak(objective: Objective) -> float:
    """MiB that one objective and gradient add to a fresh copy of this process."""
    receive, send = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_peak, args=(objective, send))
    process.start()
    value = float(receive.recv())
    process.join()
    return value


def _peak(objective: Objective, send: Any) -> None:
    with open("/proc/self/statm") as file:
        before = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    objective().backward()
    send.send((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 2**20)


if __name__ == "__main__":
    main()
