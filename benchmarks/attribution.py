"""Do attributions foresee retraining, and what do they cost? TRAK, EK-FAC, TracIn: datumwise against its peers.

    OMP_NUM_THREADS=1 python benchmarks/attribution.py [--only small,wide,gpt2] [--repeats 3]

Needs dattri 0.3.0, kronfluence 1.0.1 and traker 0.3.2 beside datumwise. Three models: an MLP 64-16-10 (1,210 parameters)
and an MLP 64-256-256-10 (85,002) on 1,000 digits with 60 queries, and a character GPT-2 (2 layers, width 32) on 256
lines of the standard library's docstrings with 40 queries. LDS: mean over the queries of Spearman's correlation between
the summed scores of a random half of the training data and the query's output (log-odds; minus the loss for GPT-2) in
models retrained on it, 60 halves for the MLPs (each the mean of several seeds), 50 for GPT-2. The retrainings are shared
by all methods. Times are CPU seconds of one thread, medians of alternating runs, from the trained model to the matrix.

traker's and dattri's TRAK do not damp by default; where that is singular they are also given the damping that ours uses
(the LDS of "damped"; computed from the features that traker stored).
"""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

os.environ["TQDM_DISABLE"] = "1"  # the peers' progress bars

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from datumwise.evaluate.lds import lds
from datumwise.probe.attribute import attribute

SHARE = 0.3  # damping of TRAK as a share of the mean eigenvalue that is not 0: our default
LENGTH = 2048  # of TRAK's projections: everybody's default


@dataclass
class Case:
    """A trained model, its data, and what retrained models said."""

    name: str
    model: nn.Module
    train: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    masks: np.ndarray
    outputs: np.ndarray
    text: bool = False
    rows: list[tuple[str, str, float, float]] = field(default_factory=list)

    def ours(self, data: tuple[Tensor, Tensor]) -> Any:
        return [{"input_ids": data[0][i : i + 64]} for i in range(0, len(data[0]), 64)] if self.text else data


# --- MLPs: all of an ensemble trained at once -----------------------------------------------------------


def mlp_case(name: str, dims: list[int], seeds: int, halves: int = 60) -> Case:
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(X))
    x, label = torch.tensor(X[order] / 16, dtype=torch.float32), torch.tensor(y[order])
    train, test = (x[:1000], label[:1000]), (x[1000:1060], label[1000:1060])
    rng = np.random.default_rng(1)
    masks = np.zeros((halves, 1000), bool)
    for mask in masks:
        mask[rng.choice(1000, 500, replace=False)] = True
    outputs = []
    for seed in range(seeds):
        parts = []
        for start in range(0, halves, 20):
            numbers = [1000 * seed + start + j for j in range(20)]
            weights = trained_mlps(dims, *train, masks[start : start + 20], numbers)
            parts.append(mlp_log_odds(weights, *test))
        outputs.append(np.concatenate(parts))
    weights = trained_mlps(dims, *train, np.ones((1, 1000), bool), [0])
    layers: list[nn.Module] = []
    for number, w in enumerate(weights):
        linear = nn.Linear(*dims[number : number + 2])
        linear.weight.data, linear.bias.data = w[0, :, :-1].clone(), w[0, :, -1].clone()
        layers += [linear, nn.ReLU()]
    return Case(name, nn.Sequential(*layers[:-1]).eval(), train, test, masks, np.mean(outputs, axis=0))


def trained_mlps(dims: list[int], x: Tensor, y: Tensor, masks: np.ndarray, seeds: list[int]) -> list[Tensor]:
    """300 steps of SGD of one network a mask, side by side; weights (members, o, i + 1)."""
    weights = []
    for i, o in pairwise(dims):
        draws = [torch.randn(o, i + 1, generator=torch.Generator().manual_seed(1000 * s + 7 * o + i)) for s in seeds]
        w = torch.stack(draws) / i**0.5
        w[:, :, -1] = 0
        weights.append(w.requires_grad_())
    optimiser = torch.optim.SGD(weights, lr=0.1, momentum=0.9, weight_decay=1e-4)
    own = [np.flatnonzero(mask) for mask in masks]
    rngs = [np.random.default_rng(s) for s in seeds]
    for step in range(300):
        if step == 210:
            optimiser.param_groups[0]["lr"] *= 0.1
        rows = torch.from_numpy(np.stack([rng.choice(rows, 64) for rng, rows in zip(rngs, own, strict=True)]))
        z = mlps(weights, x[rows])
        optimiser.zero_grad()
        (functional.cross_entropy(z.flatten(0, 1), y[rows].flatten(), reduction="sum") / 64).backward()
        optimiser.step()
    return [w.detach() for w in weights]


def mlps(weights: list[Tensor], h: Tensor) -> Tensor:
    for number, w in enumerate(weights):
        h = torch.baddbmm(w[:, None, :, -1], torch.relu(h) if number else h, w[:, :, :-1].mT)
    return h


def mlp_log_odds(weights: list[Tensor], x: Tensor, y: Tensor) -> np.ndarray:
    log_p = mlps(weights, x[None].expand(len(weights[0]), -1, -1)).log_softmax(2)
    at = y[None, :, None].expand(len(log_p), -1, 1)
    return (log_p.gather(2, at)[:, :, 0] - log_p.scatter(2, at, -torch.inf).logsumexp(2)).numpy()


# --- GPT-2 on docstrings --------------------------------------------------------------------------------


def gpt2_case(halves: int = 50, length: int = 48) -> Case:
    from transformers import GPT2Config, GPT2LMHeadModel

    texts = []
    for module in (argparse, inspect, json, logging, statistics, tempfile, warnings):
        for _, thing in sorted(inspect.getmembers(module, lambda v: inspect.isfunction(v) or inspect.isclass(v))):
            texts.append(inspect.getdoc(thing) or "")
    codes = np.frombuffer("\n".join(dict.fromkeys(texts)).encode("ascii", "replace"), np.uint8) % 128
    ids = torch.from_numpy(codes[: len(codes) // length * length].reshape(-1, length).astype(np.int64))
    ids = ids[torch.randperm(len(ids), generator=torch.Generator().manual_seed(0))]
    train, test = ids[:256], ids[256:296]
    rng = np.random.default_rng(1)
    masks = np.zeros((halves, 256), bool)
    for mask in masks:
        mask[rng.choice(256, 128, replace=False)] = True

    def fresh(seed: int, rows: np.ndarray) -> nn.Module:
        torch.manual_seed(seed)
        off = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "tie_word_embeddings": False}
        model = GPT2LMHeadModel(GPT2Config(vocab_size=128, n_embd=32, n_layer=2, n_head=2, n_positions=length, **off))
        optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
        order = np.random.default_rng(seed)
        for step in range(120):
            optimiser.param_groups[0]["lr"] = 3e-3 * (1 - step / 120)
            batch = train[order.choice(rows, 32)]
            optimiser.zero_grad()
            logits = model(input_ids=batch, use_cache=False).logits
            functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten()).backward()
            optimiser.step()
        model.zero_grad(set_to_none=True)
        return model.eval()

    def outputs(model: nn.Module) -> np.ndarray:
        with torch.no_grad():
            logits = model(input_ids=test, use_cache=False).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), test[:, 1:].flatten(), reduction="none")
        return -loss.view(len(test), -1).sum(1).numpy()

    retrained = np.stack([outputs(fresh(seed, np.flatnonzero(mask))) for seed, mask in enumerate(masks)])
    model = fresh(10_000, np.arange(256))
    as_linear(model)
    return Case("GPT-2 2 x 32", model, (train, train), (test, test), masks, retrained, text=True)


def as_linear(model: nn.Module) -> None:
    """Each Conv1D as the Linear of the same weights: the peers know no other."""
    for name in [name for name, module in model.named_modules() if type(module).__name__ == "Conv1D"]:
        old = model.get_submodule(name)
        new = nn.Linear(*old.weight.shape)
        new.weight.data, new.bias.data = old.weight.data.T.contiguous(), old.bias.data
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, new)


# --- the peers ------------------------------------------------------------------------------------------


def one_loss(case: Case, model: nn.Module, weights: Any, buffers: Any, x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of one datapoint, for vmap; the mean over tokens of a sequence."""
    if case.text:
        options = {"input_ids": x[None], "use_cache": False}
        logits = torch.func.functional_call(model, (weights, buffers), (), options).logits
        return functional.cross_entropy(logits[0, :-1], x[1:])
    return functional.cross_entropy(torch.func.functional_call(model, (weights, buffers), (x[None],)), y[None])


def one_margin(case: Case, model: nn.Module, weights: Any, buffers: Any, x: Tensor, y: Tensor) -> Tensor:
    """log(p / (1 - p)) of one datapoint: from the logits, as traker's own image classification, so that p = 1 is finite."""
    if case.text:
        loss = one_loss(case, model, weights, buffers, x, y)
        return -loss - torch.log(-torch.expm1(-loss))
    logits = torch.func.functional_call(model, (weights, buffers), (x[None],))[0]
    own = torch.arange(len(logits)) == y
    return (logits * own).sum() - torch.where(own, -torch.inf, logits).logsumexp(0)


def traker(case: Case, damping: float | None = None) -> np.ndarray:
    from trak import TRAKer
    from trak.modelout_functions import AbstractModelOutput

    class Margin(AbstractModelOutput):
        """log(p / (1 - p)) and 1 - p."""

        def __init__(self) -> None:
            super().__init__()

        @staticmethod
        def get_output(model: Any, weights: Any, buffers: Any, x: Tensor, y: Tensor) -> Tensor:
            return one_margin(case, model, weights, buffers, x, y)

        def get_out_to_loss_grad(self, model: Any, weights: Any, buffers: Any, batch: Any) -> Tensor:
            losses = [one_loss(case, model, weights, buffers, x, y) for x, y in zip(*batch, strict=True)]
            return -torch.expm1(-torch.stack(losses)).detach().clone()[:, None]

    with tempfile.TemporaryDirectory() as folder:
        n, m = len(case.train[0]), len(case.test[0])
        options: dict[str, Any] = {"device": "cpu", "proj_dim": LENGTH, "use_half_precision": False, "save_dir": folder}
        run = TRAKer(case.model, Margin(), n, logging_level=logging.ERROR, **options)
        run.load_checkpoint(case.model.state_dict(), model_id=0)
        for start in range(0, n, 100):
            batch = [v[start : start + 100] for v in case.train]
            run.featurize(batch=batch, num_samples=len(batch[0]))
        if damping is not None:
            return damped(case, run, damping)
        run.finalize_features()
        run = TRAKer(case.model, Margin(), n, logging_level=logging.ERROR, **options)  # its projection is gone by now
        run.start_scoring_checkpoint("q", case.model.state_dict(), model_id=0, num_targets=m)
        run.score(batch=list(case.test), num_samples=m)
        return np.asarray(run.finalize_scores("q")).T


def damped(case: Case, run: Any, share: float) -> np.ndarray:
    """Scores of the features that traker stored, with our default damping."""
    phi = np.asarray(run.saver.current_store["grads"], np.float64)
    wrong = np.asarray(run.saver.current_store["out_to_loss"], np.float64)[:, 0]
    grads = run.gradient_computer.compute_per_sample_grad(batch=list(case.test))
    target = (run.projector.project(grads, model_id=0) / run.normalize_factor).double().cpu().numpy()
    gram = phi.T @ phi
    gram += share * np.trace(gram) / min(phi.shape) * np.eye(len(gram))
    return target @ np.linalg.solve(gram, phi.T) * wrong


def dattri_task(case: Case, margin: bool) -> Any:
    from dattri.task import AttributionTask

    buffers = dict(case.model.named_buffers())

    def value(weights: Any, pair: Any) -> Tensor:
        return (one_margin if margin else one_loss)(case, case.model, weights, buffers, *pair)

    return AttributionTask(loss_func=value, model=case.model, checkpoints=[case.model.state_dict()])


def loaders(case: Case, size: int = 100) -> tuple[Any, Any]:
    return tuple(DataLoader(TensorDataset(*data), batch_size=size) for data in (case.train, case.test))


def dattri_trak(case: Case, regularization: float = 0.0) -> np.ndarray:
    from dattri.algorithm.trak import TRAKAttributor

    buffers = dict(case.model.named_buffers())

    def probability(weights: Any, pair: Any) -> Tensor:
        return torch.exp(-one_loss(case, case.model, weights, buffers, *pair))

    run = TRAKAttributor(
        task=dattri_task(case, margin=True),
        correct_probability_func=probability,
        projector_kwargs={"proj_dim": LENGTH, "device": "cpu"},
        regularization=regularization,
    )
    train, test = loaders(case)
    run.cache(train)
    return run.attribute(test).detach().numpy().T


def dattri_tracin(case: Case) -> np.ndarray:
    from dattri.algorithm.tracin import TracInAttributor

    run = TracInAttributor(task=dattri_task(case, margin=False), weight_list=torch.ones(1), normalized_grad=False)
    return run.attribute(*loaders(case)).detach().numpy().T


def kronfluence_ekfac(case: Case) -> np.ndarray:
    import copy

    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.task import Task

    class Sums(Task):
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            x, y = batch
            if case.text:
                logits = model(input_ids=x, use_cache=False).logits[:, :-1].flatten(0, 1)
                y = x[:, 1:].flatten()
            else:
                logits = model(x)
            if sample:
                with torch.no_grad():
                    y = torch.multinomial(logits.detach().softmax(1), 1).flatten()
            return functional.cross_entropy(logits, y, reduction="sum")

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            if case.text:
                return self.compute_train_loss(batch, model)
            log_p = model(batch[0]).log_softmax(1)
            at = batch[1][:, None]
            return -(log_p.gather(1, at)[:, 0] - log_p.scatter(1, at, -torch.inf).logsumexp(1)).sum()

        def get_influence_tracked_modules(self) -> list[str] | None:
            return tracked(case)

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        task = Sums()
        model = prepare_model(copy.deepcopy(case.model), task)
        analyzer = Analyzer("a", model, task, cpu=True, disable_tqdm=True, disable_model_save=True, output_dir=folder)
        train, test = (TensorDataset(*data) for data in (case.train, case.test))
        size = {"per_device_batch_size": 64, "overwrite_output_dir": True}
        analyzer.fit_all_factors("f", train, factor_args=FactorArguments(strategy="ekfac"), **size)
        analyzer.compute_pairwise_scores(
            "s",
            "f",
            test,
            train,
            per_device_query_batch_size=64,
            per_device_train_batch_size=64,
            score_args=ScoreArguments(damping_factor=None),
            overwrite_output_dir=True,
        )
        return analyzer.load_pairwise_scores("s")["all_modules"].float().numpy()


def tracked(case: Case) -> list[str] | None:
    """Linear layers but the output head of a language model."""
    if not case.text:
        return None
    return [name for name, module in case.model.named_modules() if isinstance(module, nn.Linear) and name != "lm_head"]


# --- the table ------------------------------------------------------------------------------------------


def seconds(function: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    start = time.process_time()
    scores = function()
    return time.process_time() - start, scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="small,wide,gpt2")
    options = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.WARNING)
    makers = {
        "small": lambda: mlp_case("MLP 64-16-10", [64, 16, 10], seeds=10),
        "wide": lambda: mlp_case("MLP 64-256-256-10", [64, 256, 256, 10], seeds=4),
        "gpt2": gpt2_case,
    }
    for wanted in options.only.split(","):
        start = time.process_time()
        case = makers[wanted]()
        count = sum(p.numel() for p in case.model.parameters())
        print(f"\n{case.name}, {count:,} parameters, {len(case.train[0]):,} x {len(case.test[0])}; ", end="")
        print(f"{len(case.masks)} halves retrained in {time.process_time() - start:.0f} s", flush=True)
        compare(case, options.repeats)


def compare(case: Case, repeats: int) -> None:
    train, test = case.ours(case.train), case.ours(case.test)
    asked = "loss" if case.text else "log_odds"

    def mine(method: str, **options: Any) -> Callable[[], np.ndarray]:
        return lambda: attribute(case.model, train, test, method=method, **options)

    families: dict[str, dict[str, Callable[[], np.ndarray]]] = {
        "TRAK": {
            "datumwise": mine("trak"),
            "traker, as it comes": lambda: traker(case),
            "traker, damped": lambda: traker(case, SHARE),
            "dattri, as it comes": lambda: dattri_trak(case),
        },
        "EK-FAC": {"datumwise": mine("ekfac", measure=asked), "kronfluence": lambda: kronfluence_ekfac(case)},
        "TracIn": {"datumwise": mine("tracin"), "dattri, as it comes": lambda: dattri_tracin(case)},
    }
    alone = {
        "TRAK, no projection": mine("trak", projection=None),
        "influence, empirical Fisher": mine("influence", hessian="empirical_fisher", measure=asked),
        "DataInf": mine("datainf", measure=asked),
        "grad-cos": mine("grad_cos", measure=asked),
    }
    if not case.text:
        alone["representer points"] = mine("representer")
        if sum(p.numel() for p in case.model.parameters()) < 5000:
            alone["influence, Gauss-Newton"] = mine("influence", measure=asked)
    print(f"{'':42}{'CPU s':>9}{'x ours':>8}{'LDS':>8}  95 % interval")
    for family, members in families.items():
        times: dict[str, list[float]] = {name: [] for name in members}
        scores: dict[str, np.ndarray | str] = {}
        for repeat in range(repeats):
            for name, function in list(members.items())[:: 1 if repeat % 2 == 0 else -1]:
                if isinstance(scores.get(name), str):
                    continue
                try:
                    spent, scores[name] = seconds(function)
                    times[name].append(spent)
                except (RuntimeError, np.linalg.LinAlgError) as error:
                    scores[name] = str(error).splitlines()[0][:60]
        base = statistics.median(times["datumwise"])
        for name in members:
            line(case, f"{family}, {name}", scores[name], statistics.median(times[name]) if times[name] else None, base)
    for name, function in alone.items():
        spent, found = seconds(function)
        line(case, name, found, spent, None)


def line(case: Case, name: str, scores: np.ndarray | str, spent: float | None, base: float | None) -> None:
    if isinstance(scores, str):
        print(f"{name:42}{'':17}  failed: {scores}", flush=True)
        return
    ratio = "" if base is None or spent is None else f"{spent / base:.1f}"
    if not np.isfinite(scores).all():
        print(f"{name:42}{spent:9.3f}{ratio:>8}     NaN", flush=True)
        return
    found = lds(scores, case.masks, case.outputs).score
    print(f"{name:42}{spent:9.3f}{ratio:>8}{found.value:8.3f}  {found.low:.3f} to {found.high:.3f}", flush=True)


if __name__ == "__main__":
    main()
