"""Choosing the pairs of a curvature edit, and a sweep of seven shares: datumwise against the published way.

    OMP_NUM_THREADS=1 python -P benchmarks/curvature_edit.py [--repeats 5] [--out 2048] [--in 1024]

The published way is written out here: a heap that is pushed and popped one pair at a time until the pairs carry the share,
index lists, and for each share eigenvectors from scratch. Same factors and weight for both; before anything is timed the pairs
are asserted the same and the edited weights equal to 1e-6 of the weight's norm (in float64: float32 eigenvectors of nearly
equal eigenvalues are not defined to more than three digits). CPU seconds of one thread, medians; peak memory is Python's and
numpy's during the selection (tracemalloc).
"""

from __future__ import annotations

import argparse
import heapq
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from datumwise.forget.curvature_edit import CurvatureEdit
from datumwise.probe.kept_pairs import kept_pairs, select_pairs
from datumwise.probe.kfac import KFAC

SHARES = (0.95, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)


def heap_pairs(lam: torch.Tensor, mu: torch.Tensor, keep_mass: float) -> list[tuple[int, int]]:
    """Pairs of the largest products, one from the heap at a time, until they carry ``keep_mass`` of the total."""
    total = (lam.sum() * mu.sum()).item()
    heap = [(-(lam[i] * mu[0]).item(), i, 0) for i in range(len(lam))]
    heapq.heapify(heap)
    kept, mass = [], 0.0
    while mass < keep_mass * total and heap:
        product, i, j = heapq.heappop(heap)
        kept.append((i, j))
        mass -= product
        if j + 1 < len(mu):
            heapq.heappush(heap, (-(lam[i] * mu[j + 1]).item(), i, j + 1))
    return kept


def heap_edit(W: torch.Tensor, A: torch.Tensor, G: torch.Tensor, keep_mass: float) -> torch.Tensor:
    """The edited weight, eigenvectors computed anew."""
    (mu, U_A), (lam, U_G) = (torch.linalg.eigh(x) for x in (A, G))
    mu, lam, U_A, U_G = mu.flip(0).clamp_min(0), lam.flip(0).clamp_min(0), U_A.flip(1), U_G.flip(1)
    rows, columns = (torch.tensor(index) for index in zip(*heap_pairs(lam, mu, keep_mass), strict=True))
    mask = torch.zeros_like(W)
    mask[rows, columns] = 1
    return U_G @ ((U_G.T @ W @ U_A) * mask) @ U_A.T


def sorted_pairs(lam: np.ndarray, mu: np.ndarray, keep_mass: float) -> int:
    """The plain vectorised way: sort all products."""
    products = np.sort(np.outer(lam, mu).ravel())[::-1]
    return int(np.searchsorted(np.cumsum(products), keep_mass * products.sum())) + 1


def with_spectrum(n: int, power: float, seed: int) -> torch.Tensor:
    """A symmetric matrix with eigenvalues k^-power (jittered, so that no two products are equal)."""
    generator = torch.Generator().manual_seed(seed)
    Q = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))[0]
    jitter = 1 + 1e-3 * torch.rand(n, generator=generator, dtype=torch.float64)
    return ((Q * torch.arange(1, n + 1, dtype=torch.float64) ** -power * jitter) @ Q.T).float()


def seconds(function: Callable[[], Any], repeats: int) -> float:
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return statistics.median(times)


def peak(function: Callable[[], Any]) -> float:
    """MB."""
    tracemalloc.start()
    function()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return most / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=int, default=2048)
    parser.add_argument("--in", type=int, default=1024, dest="into")
    parser.add_argument("--power", type=float, default=0.6, help="eigenvalues fall as k^-power")
    options = parser.parse_args()
    torch.set_num_threads(1)
    o, i = options.out, options.into
    A, G = with_spectrum(i, options.power, 0), with_spectrum(o, options.power, 1)
    kfac = KFAC.from_factors({"0": (A, G)}, o * i)
    factor = kfac.factors_["0"]
    lam, mu = factor.eigenvalues_G, factor.eigenvalues_A
    model = nn.Sequential(nn.Linear(i, o, bias=False))
    W = model[0].weight.detach().clone()

    exact_lam, exact_mu = lam.double(), mu.double()  # so that both decide on the same products
    theirs = heap_pairs(exact_lam, exact_mu, 0.6)
    n_pairs, _ = select_pairs(exact_lam, exact_mu, 0.6)
    mask = kept_pairs(exact_lam, exact_mu, 0.6).mask()
    assert n_pairs == len(theirs), f"{n_pairs} pairs, the published way has {len(theirs)}"
    assert all(mask[at] for at in theirs), "other pairs than the published way"
    exact = KFAC.from_factors({"0": (A, G)}, o * i, dtype=torch.float64)
    ours = CurvatureEdit(exact, 0.6).edited("0", W.double())
    expected = heap_edit(W.double(), exact.factors_["0"].A, exact.factors_["0"].G, 0.6)
    difference = float((ours - expected).norm() / W.norm())
    assert difference < 1e-6, f"edited weights differ by {difference:.1e}"
    print(f"weight {o} x {i}, spectra k^-{options.power}, rho 0.6: {n_pairs:,} pairs ({n_pairs / o / i:.1%})")
    print(f"the same pairs; edited weights differ by {difference:.1e} of the weight's norm\n")

    few = max(1, options.repeats // 2)
    rows: dict[str, tuple[float, float]] = {
        "published heap": (seconds(lambda: heap_pairs(lam, mu, 0.6), few), peak(lambda: heap_pairs(lam, mu, 0.6))),
        "sort of all products": (
            seconds(lambda: sorted_pairs(exact_lam.numpy(), exact_mu.numpy(), 0.6), options.repeats),
            peak(lambda: sorted_pairs(exact_lam.numpy(), exact_mu.numpy(), 0.6)),
        ),
        "datumwise": (
            seconds(lambda: [kept_pairs(lam, mu, 0.6) for _ in range(10)], options.repeats) / 10,
            peak(lambda: kept_pairs(lam, mu, 0.6)),
        ),
    }
    base = rows["published heap"][0]
    print(f"{'selection':24}{'CPU s':>10}{'peak MB':>10}{'ratio':>9}")
    for name, (own, memory) in rows.items():
        print(f"{name:24}{own:10.5f}{memory:10.1f}{base / own:8.0f}x")

    def sweep() -> None:
        fresh = CurvatureEdit(KFAC.from_factors({"0": (A, G)}, o * i))  # eigenvectors are computed in here
        for edit in fresh.sweep(SHARES):
            with edit.applied(model):
                pass

    published = seconds(lambda: [heap_edit(W, A, G, rho) for rho in SHARES], 1)
    own = seconds(sweep, few)
    print(f"\nsweep of {len(SHARES)} shares, eigenvectors included, weights written and taken back")
    print(f"{'published way':24}{published:10.2f}")
    print(f"{'datumwise':24}{own:10.2f}{'':10}{published / own:8.1f}x")
    print(f"\ntorch {torch.__version__}, {platform.machine()}, Python {platform.python_version()}, 1 thread")


if __name__ == "__main__":
    main()
