"""The training of `unlearn`: a batch to forget beside a batch to keep, step by step, every datapoint measured every epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datumwise.errors import NotFinite, name_some
from datumwise.forget.checkpoint import load_checkpoint, put_moments, put_weights, save_checkpoint
from datumwise.forget.methods import Context, Method
from datumwise.forget.reference import forward_hidden, forward_logits_of, measured_nll, resting
from datumwise.forget.retain_terms import retain_loss
from datumwise.forget.trained_copy import forked
from datumwise.probe.language_model import device_of

__all__ = ["Plan", "Run", "train"]

Record = dict[str, Any]
Optimizer = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]


@dataclass(frozen=True)
class Plan:
    """Everything that is the same in every step: ``gamma * forget + alpha * retain``, its optimiser and its order."""

    method: Method
    term: str
    alpha: float
    gamma: float
    options: Mapping[str, Any]
    lr: float
    epochs: int
    batch_size: int
    accumulation: int
    max_grad_norm: float | None
    dropout: bool
    log_gradients: bool
    optimizer: Optimizer | None


@dataclass
class Run:
    """How far a training is: records of the steps, nll of the documents after each epoch, the weight of the retain term."""

    history: list[Record]
    nll: list[np.ndarray]
    weight: float
    epoch: int = 0
    stopped: bool = False
    seconds: float = 0.0


def train(
    model: Any,
    parameters: Mapping[str, torch.nn.Parameter],
    context: Context,
    state: Any,
    plan: Plan,
    *,
    stop: Callable[[Any, int], bool] | None = None,
    callbacks: Sequence[Callable[[Any, int, np.ndarray], None]] = (),
    checkpoint: Path | None = None,
    signature: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Run:
    """Train the parameters in place.

    Raises
    ------
    NotFinite
        A loss, a gradient or a likelihood became NaN or infinite. The parameters are those after the last good epoch; the
        error's ``run`` says how far it got.
    """
    began = time.perf_counter()
    weights = list(parameters.values())
    optimiser = plan.optimizer(weights) if plan.optimizer else torch.optim.AdamW(weights, lr=plan.lr, weight_decay=0.0)
    run = Run([], [], plan.alpha)
    saved = load_checkpoint(checkpoint, signature) if checkpoint is not None else None
    if saved is not None:
        put_weights(parameters, saved.weights)
        put_moments(parameters, optimiser, saved.optimiser)
        run = Run(saved.history, [np.array(row) for row in saved.nll], plan.alpha, saved.epoch, saved.stopped, saved.seconds)
        if run.history:
            run.weight = _next_weight(plan, run.history[-1])
    else:
        run.nll.append(context.forget.by_document(measured_nll(model, context.forget)))
    before = run.seconds

    def keep() -> dict[str, torch.Tensor] | None:
        """The weights of the last good epoch: on disk, or in memory."""
        run.seconds = before + time.perf_counter() - began
        if checkpoint is None:
            return {name: p.detach().to("cpu", copy=True) for name, p in parameters.items()}
        save_checkpoint(
            checkpoint, signature, epoch=run.epoch, stopped=run.stopped, seconds=run.seconds, history=run.history,
            nll=run.nll, parameters=parameters, optimiser=optimiser,
        )  # fmt: skip
        return None

    good = keep() if saved is None and plan.epochs else None
    steps = math.ceil(len(context.forget) / (plan.batch_size * plan.accumulation))
    while run.epoch < plan.epochs and not run.stopped:
        taken, place = len(run.history), run.epoch * len(context.forget)
        try:
            for chosen in epoch_batches(context, plan, run.epoch):
                run.history.append(_step(model, weights, context, state, plan, run, chosen, place, optimiser))
                place += len(chosen)
                if progress is not None:
                    progress(len(run.history), plan.epochs * steps)
            run.nll.append(_measured(model, context, run))
        except NotFinite as error:
            if checkpoint is not None:
                last = load_checkpoint(checkpoint, signature)
                good = last.weights if last is not None else good
            if good is not None:
                put_weights(parameters, good)
            del run.history[taken:]
            error.run = run  # type: ignore[attr-defined]
            raise
        run.epoch += 1
        with resting(model):
            for callback in callbacks:
                callback(model, run.epoch, run.nll[-1])
            run.stopped = bool(stop(model, run.epoch)) if stop is not None else False
        good = keep()
    run.seconds = before + time.perf_counter() - began
    return run


def epoch_batches(context: Context, plan: Plan, epoch: int) -> Iterator[np.ndarray]:
    """Rows of ``context.forget`` of each step, shuffled; the order depends on the seed and the epoch alone."""
    order = np.random.default_rng([context.random_state, epoch]).permutation(len(context.forget))
    size = plan.batch_size * plan.accumulation
    for start in range(0, len(order), size):
        yield order[start : start + size]


def retain_rows(n: int, first: int, count: int, seed: int) -> np.ndarray:
    """Places ``first`` to ``first + count`` of an endless row of shuffled rounds through n retained sequences."""
    rounds: dict[int, np.ndarray] = {}
    found = []
    for place in range(first, first + count):
        k = place // n
        if k not in rounds:
            rounds[k] = np.random.default_rng([seed, 2**20, k]).permutation(n)
        found.append(rounds[k][place % n])
    return np.array(found, dtype=np.int64)


def _step(
    model: Any,
    weights: list[torch.nn.Parameter],
    context: Context,
    state: Any,
    plan: Plan,
    run: Run,
    chosen: np.ndarray,
    place: int,
    optimiser: torch.optim.Optimizer,
) -> Record:
    """One update from the rows ``chosen``, beside as many retained ones from ``place``, in forwards of ``batch_size``."""
    number = len(run.history)
    parts = [chosen[at : at + plan.batch_size] for at in range(0, len(chosen), plan.batch_size)]
    record: Record = {"epoch": run.epoch + 1, "step": number + 1, "forget": 0.0}
    model.train(plan.dropout)
    try:
        with forked(model):
            torch.manual_seed(context.random_state * 1_000_003 + number)  # of dropout
            for rows in parts:
                loss = _forget_loss(model, context, state, plan, rows)
                _finite(loss, "loss on the forget texts", context, rows, run)
                (plan.gamma * len(rows) / len(chosen) * loss).backward()
                record["forget"] += float(loss.detach()) * len(rows) / len(chosen)
            first = [p.grad.clone() if p.grad is not None else None for p in weights] if plan.log_gradients else None
            if plan.term != "none" and context.retain is not None:
                record["retain"] = 0.0
                record["retain_weight"] = run.weight
                for rows in parts:
                    kept = retain_rows(len(context.retain), place, len(rows), context.random_state)
                    place += len(rows)
                    loss = retain_loss(plan.term, model, context.retain, kept, context.reference, plan.options)
                    _finite(loss, "retain loss", context, rows, run)
                    (run.weight * len(rows) / len(chosen) * loss).backward()
                    record["retain"] += float(loss.detach()) * len(rows) / len(chosen)
        record["loss"] = plan.gamma * record["forget"] + record.get("retain_weight", 0.0) * record.get("retain", 0.0)
        if first is not None:
            record |= _norms(weights, first)
        limit = math.inf if plan.max_grad_norm is None else plan.max_grad_norm
        norm = torch.nn.utils.clip_grad_norm_(weights, limit)
        _finite(norm, "gradient", context, chosen, run)
        record["grad_norm"] = float(norm)
        optimiser.step()
    finally:
        optimiser.zero_grad(set_to_none=True)
    run.weight = _next_weight(plan, record)
    return record


def _forget_loss(model: Any, context: Context, state: Any, plan: Plan, rows: np.ndarray) -> torch.Tensor:
    method = plan.method
    assert method.forget_loss is not None
    batch = context.forget.batch(rows).to(device_of(model))
    if method.reads == "hidden":
        hidden = forward_hidden(model, batch, int(plan.options["layer"]))
        return method.forget_loss(hidden, batch.labels, rows, state, plan.options)
    logits = forward_logits_of(model, batch)
    if method.needs_alternative:
        assert context.alternatives is not None
        other = context.alternatives.batch(rows).to(device_of(model))
        pair = (forward_logits_of(model, other), other.labels)
        return method.forget_loss(logits, batch.labels, rows, state, plan.options, alternative=pair)
    return method.forget_loss(logits, batch.labels, rows, state, plan.options)


def _next_weight(plan: Plan, record: Record) -> float:
    """Weight of the retain term after the step of ``record``."""
    if plan.method.retain_weight is None or "retain" not in record:
        return plan.alpha
    return plan.method.retain_weight(record["retain_weight"], record["retain"], record["epoch"], plan.options)


def _finite(value: torch.Tensor, what: str, context: Context, rows: np.ndarray, run: Run) -> None:
    if bool(torch.isfinite(value)):
        return
    names, found = context.forget.names(rows), float(value.detach())
    raise NotFinite(
        f"the {what} became {found:g} in step {len(run.history) + 1} (epoch {run.epoch + 1}, {name_some(names)}); "
        f"the weights are those after {run.epoch} epochs",
        remedy="lower lr, or add a retain term",
        ids=names,
    )


def _measured(model: Any, context: Context, run: Run) -> np.ndarray:
    """Mean nll a token of every document to forget, float64 (n,)."""
    try:
        return context.forget.by_document(measured_nll(model, context.forget))
    except NotFinite as error:
        raise NotFinite(
            f"after epoch {run.epoch + 1} the likelihood of {name_some(error.ids)} is NaN or infinite; "
            f"the weights are those after {run.epoch} epochs",
            remedy="lower lr, or add a retain term",
            ids=error.ids,
        ) from error


def _norms(weights: list[torch.nn.Parameter], first: list[torch.Tensor | None]) -> Record:
    """Lengths of the two gradients that were added: of the forget loss, and of the retain term."""
    own, rest = 0.0, 0.0
    for p, grad in zip(weights, first, strict=True):
        if grad is not None:
            own += float(grad.float().square().sum())
        if p.grad is not None:
            rest += float((p.grad if grad is None else p.grad - grad).float().square().sum())
    return {"forget_grad_norm": math.sqrt(own), "retain_grad_norm": math.sqrt(rest)}
