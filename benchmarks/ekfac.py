"""EK-FAC self-influence from nothing (factors, eigenvalues, scores): datumwise against kronfluence.

    OMP_NUM_THREADS=1 python benchmarks/ekfac.py [--repeats 3] [--only mlp]

Needs kronfluence 1.0.1 beside datumwise. Both get the same model, data, batches, labels (the given ones),
positions (all) and damping (0.1 of a layer's mean eigenvalue); scores are asserted equal before anything is
timed. Times are CPU seconds of one thread, medians of alternating runs.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from kronfluence.analyzer import Analyzer, prepare_model
from kronfluence.arguments import FactorArguments, ScoreArguments
from kronfluence.task import Task
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel

from datumwise.probe.ekfac import self_influence


@dataclass
class Case:
    """A model, its data as batches and as a data set, and how kronfluence is told of them."""

    name: str
    model: nn.Module
    batches: list[Any]
    dataset: Dataset
    task: Task
    batch_size: int
    modules: str | list[str] | None
    tolerance: float


class Rows(Dataset):
    """Rows of tensors, or of one tensor."""

    def __init__(self, *tensors: torch.Tensor) -> None:
        self.tensors = tensors

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __getitem__(self, row: int) -> Any:
        parts = tuple(t[row] for t in self.tensors)
        return parts if len(parts) > 1 else parts[0]


class Classes(Task):
    """Cross-entropy of (x, y), for kronfluence."""

    def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> torch.Tensor:
        return functional.cross_entropy(model(batch[0]), batch[1], reduction="sum")

    def compute_measurement(self, batch: Any, model: nn.Module) -> torch.Tensor:
        return self.compute_train_loss(batch, model)


class NextTokens(Task):
    """Summed cross-entropy of the next tokens, for kronfluence."""

    def __init__(self, names: list[str]) -> None:
        super().__init__()
        self.names = names

    def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> torch.Tensor:
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1].flatten(0, 1)
        return functional.cross_entropy(logits, batch[:, 1:].flatten(), reduction="sum")

    def compute_measurement(self, batch: Any, model: nn.Module) -> torch.Tensor:
        return self.compute_train_loss(batch, model)

    def get_influence_tracked_modules(self) -> list[str]:
        return self.names


def mlp_on_digits() -> Case:
    """MLP 64-256-256-10, 500 steps of training, on the 1,797 digits."""
    torch.manual_seed(0)
    pixels, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(pixels / 16, dtype=torch.float32), torch.tensor(labels)
    model = nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(200):
        rows = torch.randint(len(x), (128,))
        optimiser.zero_grad()
        functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimiser.step()
    batches = [(x[i : i + 128], y[i : i + 128]) for i in range(0, len(x), 128)]
    return Case("MLP 64-256-256-10, digits 1797", model, batches, Rows(x, y), Classes(), 128, None, 1e-3)


def gpt2_blocks() -> Case:
    """GPT-2: 4 layers, width 256, vocabulary 4,096; 48 sequences of 128; Conv1D as Linear for kronfluence."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=4096, n_embd=256, n_layer=4, n_head=8, n_positions=128)
    model = GPT2LMHeadModel(config).eval()
    ids = torch.randint(4096, (48, 128))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(10):  # away from the initial weights, where gradients are all alike
        rows = ids[(8 * step) % 48 :][:8]
        optimiser.zero_grad()
        model(input_ids=rows, labels=rows).loss.backward()
        optimiser.step()
    model.zero_grad(set_to_none=True)
    names = as_linear(model)
    batches = [{"input_ids": ids[i : i + 16]} for i in range(0, 48, 16)]
    case = "GPT-2 4 layers d 256, 48 x 128 tokens"
    return Case(case, model, batches, Rows(ids), NextTokens(names), 16, names, 1e-3)


def as_linear(model: nn.Module) -> list[str]:
    """Replace each Conv1D by the Linear of the same weights; returns their names."""
    names = [name for name, module in model.named_modules() if type(module).__name__ == "Conv1D"]
    for name in names:
        old = model.get_submodule(name)
        new = nn.Linear(*old.weight.shape)
        new.weight.data, new.bias.data = old.weight.data.T.contiguous(), old.bias.data
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, new)
    return names


def ours(case: Case) -> np.ndarray:
    return self_influence(
        case.model, case.batches, modules=case.modules, labels="gold", bias=True, positions="all", damping=0.1
    )


def theirs(case: Case) -> np.ndarray:
    model = prepare_model(copy.deepcopy(case.model).eval(), case.task)
    with tempfile.TemporaryDirectory() as folder:
        analyzer = Analyzer("a", model, case.task, cpu=True, output_dir=folder, disable_tqdm=True, disable_model_save=True)
        analyzer.fit_all_factors(
            "f",
            case.dataset,
            per_device_batch_size=case.batch_size,
            factor_args=FactorArguments(strategy="ekfac", use_empirical_fisher=True),
        )
        analyzer.compute_self_scores(
            "s",
            "f",
            case.dataset,
            per_device_train_batch_size=case.batch_size,
            score_args=ScoreArguments(damping_factor=None),
        )
        return analyzer.load_self_scores("s")["all_modules"].double().numpy()


def plain(case: Case) -> None:
    """A training pass without an optimiser, the unit of the ratios."""
    for batch in case.batches:
        case.model.zero_grad(set_to_none=True)
        rows = batch["input_ids"] if isinstance(batch, dict) else batch
        case.task.compute_train_loss(rows, case.model).backward()
    case.model.zero_grad(set_to_none=True)


def seconds(function: Callable[[Case], Any], case: Case) -> float:
    start = time.process_time()
    function(case)
    return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", choices=["mlp", "gpt2"], default=None)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message="rank deficient")
    makers = {"mlp": mlp_on_digits, "gpt2": gpt2_blocks}
    print(f"torch {torch.__version__}, 1 thread, CPU seconds, median of {options.repeats}")
    print(f"{'case':40}{'plain pass':>11}{'ours':>9}{'kronfluence':>13}{'ratio':>8}{'largest difference':>20}")
    for key, make in makers.items():
        if options.only not in (None, key):
            continue
        case = make()
        mine, peers = ours(case), theirs(case)
        difference = float(np.max(np.abs(mine - peers) / np.abs(peers)))
        assert difference < case.tolerance, f"{case.name}: scores differ by {difference:.1e}"
        timed: dict[str, list[float]] = {"plain": [], "ours": [], "theirs": []}
        for _ in range(options.repeats):
            timed["plain"].append(seconds(plain, case))
            timed["ours"].append(seconds(ours, case))
            timed["theirs"].append(seconds(theirs, case))
        unit, own, peer = (statistics.median(timed[name]) for name in ("plain", "ours", "theirs"))
        print(
            f"{case.name:40}{unit:11.3f}{own:9.3f}{peer:13.3f}{peer / own:7.1f}x{difference:20.1e}",
            flush=True,
        )


if __name__ == "__main__":
    main()
