"""MDL fits in one program against a loop of fits, and the bootstrap by counts against the published loop.

    OMP_NUM_THREADS=1 python benchmarks/easy_to_hard.py [--repeats 3]

1. Nine probes (3 sizes x 3 boots; 260 items x 4 choices x 24 dimensions; 100 epochs of AdamW with norm penalty and gradient
   clipping): `datumwise.probe.softmax_fits.fit_softmax` against the published shape of the code, a loop with autograd,
   torch's optimiser and scheduler and a loader an epoch. Weights are asserted equal to 1e-4.
2. Bootstrap of three 400 x 5 matrices, 10,000 draws, rows jointly and columns independently: counts and two matrix products
   against drawing, gathering and averaging. With the same counts the means are asserted equal to 1e-5.

CPU seconds of one thread, medians of alternating runs.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from datumwise.evaluate.accuracy_interval import grid_draws
from datumwise.probe.softmax_fits import fit_softmax

SIZES, BOOTS = (20, 80, 260), 3
EPOCHS, RATE, L2 = 100, 0.05, 0.2


def probe_loop(H: np.ndarray, y: np.ndarray, members: np.ndarray, start: np.ndarray) -> np.ndarray:
    """One fit after the other: (d, F)."""
    out = []
    for f, member in enumerate(members):
        own, gold = torch.from_numpy(H[member]), torch.from_numpy(y[member])
        flat = own.reshape(-1, own.shape[-1])
        own = (own - flat.mean(0)) / flat.std(0)
        weight = torch.nn.Parameter(torch.from_numpy(start[:, 0, f].copy()))
        optimiser = torch.optim.AdamW([weight], lr=RATE, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda e: 1 - 0.9 * e / EPOCHS)
        loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(own, gold), batch_size=len(gold))
        for _ in range(EPOCHS):
            for batch, labels in loader:
                optimiser.zero_grad()
                loss = torch.nn.functional.cross_entropy(batch @ weight, labels) + L2 * weight.norm()
                loss.backward()
                torch.nn.utils.clip_grad_norm_([weight], 1.0)
                optimiser.step()
            schedule.step()
        out.append(weight.detach().numpy())
    return np.stack(out, axis=1)


def grid_loop(matrices: list[np.ndarray], draws: int, rng: np.random.Generator) -> np.ndarray:
    """Draw rows jointly and columns independently, gather, average: (T, draws)."""
    n = len(matrices[0])
    out = np.empty((len(matrices), draws))
    for b in range(draws):
        rows = rng.integers(0, n, n)
        for t, matrix in enumerate(matrices):
            columns = rng.integers(0, matrix.shape[1], matrix.shape[1])
            out[t, b] = np.nanmean(matrix[np.ix_(rows, columns)])
    return out


def check_grid(matrices: list[np.ndarray]) -> float:
    """Largest difference of a mean by counts from that by gathering the very rows and columns that were counted."""
    drawn: list[np.ndarray] = []
    plain = grid_draws.__globals__["_counts"]

    def remembered(draws: int, n: int, rng: np.random.Generator) -> np.ndarray:
        drawn.append(plain(draws, n, rng))
        return drawn[-1]

    grid_draws.__globals__["_counts"] = remembered
    try:
        ours = grid_draws(matrices, 50, np.random.default_rng(0))
    finally:
        grid_draws.__globals__["_counts"] = plain
    rows, columns = drawn[0].astype(int), [c.astype(int) for c in drawn[1:]]

    def gather(m: np.ndarray, r: np.ndarray, c: np.ndarray) -> float:
        return float(m[np.ix_(np.repeat(np.arange(len(m)), r), np.repeat(np.arange(m.shape[1]), c))].mean())

    gathered = [[gather(m, r, c) for r, c in zip(rows, cs, strict=True)] for m, cs in zip(matrices, columns, strict=True)]
    return float(np.abs(ours - np.array(gathered)).max())


def timed(repeats: int, ours: Callable[[], Any], loop: Callable[[], Any]) -> tuple[float, float]:
    seconds: dict[bool, list[float]] = {True: [], False: []}
    for i in range(repeats):
        for mine in (i % 2 == 0, i % 2 == 1):
            start = time.process_time()
            (ours if mine else loop)()
            seconds[mine].append(time.process_time() - start)
    return statistics.median(seconds[True]), statistics.median(seconds[False])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--draws", type=int, default=10_000)
    options = parser.parse_args()
    torch.set_num_threads(1)

    rng = np.random.default_rng(0)
    H, y = rng.normal(size=(260, 4, 24)), rng.integers(0, 4, 260)
    H[np.arange(260), y] += 0.3 * rng.normal(size=24)
    members = np.zeros((len(SIZES) * BOOTS, 260), dtype=bool)
    for f in range(len(members)):
        members[f, rng.permutation(260)[: SIZES[f % len(SIZES)]]] = True
    start = rng.uniform(-1, 1, (24, 1, len(members))) / np.sqrt(24)

    def ours() -> np.ndarray:
        return fit_softmax(H, y, members, l2=L2, epochs=EPOCHS, lr=RATE, start=start).weights[:, 0]

    def loop() -> np.ndarray:
        return probe_loop(H, y, members, start)

    difference = float(np.abs(ours() - loop()).max())
    assert difference < 1e-4, f"the weights differ by {difference}"
    rows = [("nine probe fits", *timed(options.repeats, ours, loop), difference)]

    matrices = [(rng.random((400, 5)) < p).astype(float) for p in (0.54, 0.68, 0.72)]
    apart = check_grid(matrices)
    assert apart < 1e-5, f"the means differ by {apart}"
    times = timed(
        options.repeats,
        lambda: grid_draws(matrices, options.draws, np.random.default_rng(0)),
        lambda: grid_loop(matrices, options.draws, np.random.default_rng(0)),
    )
    rows.append((f"bootstrap, {options.draws:,} draws", *times, apart))

    print(f"{'':28}{'datumwise':>12}{'loop':>10}{'ratio':>8}   largest difference")
    for name, a, b, largest in rows:
        print(f"{name:28}{a:10.4f} s{b:8.2f} s{b / a:7.0f} x   {largest:.1e}")
    print(f"numpy {np.__version__}, torch {torch.__version__}, {platform.machine()}, Python {platform.python_version()}")


if __name__ == "__main__":
    main()
