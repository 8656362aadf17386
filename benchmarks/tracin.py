"""Inner products of gradients (TracIn, one checkpoint): datumwise against dattri.

    OMP_NUM_THREADS=1 python benchmarks/tracin.py [--repeats 3]

Needs dattri 0.3.0 beside datumwise. 1,797 digits by 100 queries, MLP 64-256-256-10. dattri projects each
gradient to 512 numbers by default, so it is approximate; its projection switched off gives exact products,
and ours must equal them. Times are CPU seconds of one thread, medians of alternating runs.
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import numpy as np
import torch
from dattri.algorithm.tracin import TracInAttributor
from dattri.task import AttributionTask
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from datumwise.probe.tracin import tracin

QUERIES = 100
BATCH = 128


def trained() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """An MLP after 200 steps on the digits."""
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(200):
        rows = torch.randint(len(x), (BATCH,))
        optimiser.zero_grad()
        functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimiser.step()
    model.zero_grad(set_to_none=True)
    return model.eval(), x, y


def theirs(model: nn.Module, x: torch.Tensor, y: torch.Tensor, *, exact: bool) -> np.ndarray:
    """dattri's matrix (q, n); ``exact`` switches its random projection off."""

    def loss(parameters: Any, batch: Any) -> torch.Tensor:
        image, label = batch
        logits = torch.func.functional_call(model, parameters, (image.unsqueeze(0),))
        return functional.cross_entropy(logits, label.unsqueeze(0))

    task = AttributionTask(loss_func=loss, model=model, checkpoints=[model.state_dict()])
    attributor = TracInAttributor(task=task, weight_list=torch.ones(1), normalized_grad=False)
    if exact:
        attributor.projector_kwargs = None
    data = DataLoader(TensorDataset(x, y), batch_size=BATCH)
    queries = DataLoader(TensorDataset(x[:QUERIES], y[:QUERIES]), batch_size=BATCH)
    return attributor.attribute(data, queries).T.numpy()


def ours(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    return tracin(model, (x, y), (x[:QUERIES], y[:QUERIES]), batch_size=BATCH)


def in_float64(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> np.ndarray:
    """One ``autograd.grad`` a datapoint in float64."""
    model = model.double()
    rows = []
    for image, label in zip(x.double(), y, strict=True):
        loss = functional.cross_entropy(model(image[None]), label[None])
        rows.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, tuple(model.parameters()))]))
    G = torch.stack(rows)
    model.float()
    return (G[:QUERIES] @ G.T).numpy()


def plain(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """A training pass without an optimiser."""
    for start in range(0, len(x), BATCH):
        model.zero_grad(set_to_none=True)
        functional.cross_entropy(model(x[start : start + BATCH]), y[start : start + BATCH]).backward()
    model.zero_grad(set_to_none=True)


def seconds(function: Any, *arguments: Any, **options: Any) -> float:
    start = time.process_time()
    function(*arguments, **options)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = trained()
    truth = in_float64(*data)
    scale = np.abs(truth).max()
    matrices = {
        "datumwise": ours(*data),
        "dattri (512 dimensions)": theirs(*data, exact=False),
        "dattri, no projection": theirs(*data, exact=True),
    }
    assert np.abs(matrices["datumwise"] - truth).max() < 1e-5 * scale
    assert np.abs(matrices["datumwise"] - matrices["dattri, no projection"]).max() < 1e-5 * scale
    timed: dict[str, list[float]] = {name: [] for name in (*matrices, "plain training pass")}
    for _ in range(options.repeats):
        timed["plain training pass"].append(seconds(plain, *data))
        timed["datumwise"].append(seconds(ours, *data))
        timed["dattri (512 dimensions)"].append(seconds(theirs, *data, exact=False))
        timed["dattri, no projection"].append(seconds(theirs, *data, exact=True))
    median = {name: statistics.median(values) for name, values in timed.items()}
    print(f"torch {torch.__version__}, 1 thread, CPU seconds, median of {options.repeats}, 1797 x {QUERIES}")
    print(f"{'':26}{'seconds':>9}{'x ours':>9}{'relative error':>16}{'correlation':>13}")
    print(f"{'plain training pass':26}{median['plain training pass']:9.4f}")
    for name, matrix in matrices.items():
        error = np.linalg.norm(matrix - truth) / np.linalg.norm(truth)
        correlation = np.corrcoef(matrix.ravel(), truth.ravel())[0, 1]
        ratio = median[name] / median["datumwise"]
        print(f"{name:26}{median[name]:9.4f}{ratio:9.1f}{error:16.1e}{correlation:13.6f}", flush=True)


if __name__ == "__main__":
    main()
