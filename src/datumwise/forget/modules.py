"""Unlearning for any torch module with a loss: classifiers, regressions, whatever is not a language model.

>>> import torch
>>> _ = torch.manual_seed(0)
>>> x = torch.randn(120, 5); y = (x[:, 0] > 0).long()
>>> model = torch.nn.Linear(5, 2)
>>> found = unlearn_module(model, (x[:20], y[:20]), method="npo", lr=0.05, epochs=5)
>>> bool(found.per_datapoint_loss[:, -1].mean() > found.per_datapoint_loss[:, 0].mean() + 0.1)
True
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datumwise.errors import DatumwiseError, EmptyData, NotFinite, UnknownName, name_some
from datumwise.forget.module_data import ModuleData, datapoint_losses, module_data, refuse_shared_ids
from datumwise.forget.module_losses import MODULE_LOSSES, prepared
from datumwise.forget.newton import newton_removal
from datumwise.forget.retrain import trained_module
from datumwise.forget.synaptic_dampening import ssd
from datumwise.forget.task_arithmetic import negate, task_vector
from datumwise.forget.trained_copy import copied, forked
from datumwise.probe.losses import Losses

__all__ = ["MODULE_METHODS", "ModuleUnlearning", "datapoint_loss_values", "unlearn_module"]

MODULE_METHODS: dict[str, str] = {
    **{name: entry.summary for name, entry in MODULE_LOSSES.items()},
    "newton": "one Newton step on the loss of what is kept (options of newton_removal; damping 1e-3)",
    "ssd": "weights that matter to the forgotten datapoints and to little else are damped (options of ssd)",
    "task_vector": "weights minus `scale` times what training on the forgotten datapoints adds",
    "retrain": "training anew on what is kept, from the module `initial`",
}


@dataclass(frozen=True)
class ModuleUnlearning:
    """A module that was made to forget.

    Attributes
    ----------
    model : torch.nn.Module
    history : list of dict
        An epoch: ``forget`` and ``retain`` (mean losses of the steps), ``gradient`` (mean norm before clipping).
    per_datapoint_loss : float64 array (n_forget, epochs + 1)
        Loss of each forgotten datapoint before, and after every epoch; of methods that do not train: before and after.
    ids : list
        Of its rows.
    stopped_epoch : int
        Epochs run.
    stopped : bool
        ``stop`` ended the run.
    seconds : float
    method : str
    options : dict
    """

    model: Any
    history: list[dict[str, float]]
    per_datapoint_loss: np.ndarray = field(repr=False)
    ids: list[Any] = field(repr=False)
    stopped_epoch: int
    stopped: bool
    seconds: float
    method: str
    options: dict[str, Any]


def unlearn_module(
    model: nn.Module,
    forget: Any,
    retain: Any = None,
    *,
    method: str = "grad_diff",
    loss_fn: Losses | None = None,
    lr: float = 1e-3,
    epochs: int = 5,
    batch_size: int = 32,
    alpha: float = 1.0,
    gamma: float = 1.0,
    max_grad_norm: float | None = 1.0,
    stop: Callable[[nn.Module, int], bool] | None = None,
    inplace: bool = False,
    random_state: int = 0,
    ids: Sequence[Any] | None = None,
    tokenizer: Any = None,
    collate: Any = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> ModuleUnlearning:
    """Make a module forget some datapoints.

    Parameters
    ----------
    model : torch.nn.Module
        Left as it is unless ``inplace``. Trained in evaluation mode: dropout off, running statistics of batch norm fixed, so
        that they take up nothing of the datapoints to forget.
    forget, retain : ledger, (x, y) tensors or arrays, dict of them, or batches
        ``retain`` may be None for ``ga``, ``npo``, ``random_labels``, ``uniform`` and ``task_vector``.
    method : str
        Of `MODULE_METHODS`.
    loss_fn : callable (model, batch) -> Tensor (B,), optional
        One loss a datapoint; cross-entropy by default. Needed for a regression.
    lr, epochs, batch_size, max_grad_norm
        Of AdamW without weight decay. A step pairs a batch to forget with one to keep; an epoch goes through ``forget`` once
        (through ``retain`` for ``fine_tune``).
    alpha, gamma : float
        Weights of the retain and the forget loss.
    stop : callable (model, epoch) -> bool, optional
        Asked after each epoch (1, 2, ...); True ends the run.
    random_state : int
        Of order and drawn labels.
    ids : sequence (n_forget,), optional
        Of the datapoints to forget; a ledger brings its own.
    progress : callable (done, total), optional
        Steps.
    **options
        Of the method: ``beta`` of npo (0.1); those of `newton_removal`, `ssd`, ``scale`` of task_vector (1), ``initial`` and
        those of `trained_module` for retrain.

    Returns
    -------
    ModuleUnlearning

    Raises
    ------
    UnknownName
        No such method or option.
    EmptyData
        Nothing to forget, or nothing to keep where that is needed.
    SchemaMismatch
        Ids are both to be forgotten and kept.
    NotFinite
        A loss is not finite; the message names epoch and ids, and an ``inplace`` model has its first weights back.
    """
    if method not in MODULE_METHODS:
        raise UnknownName(f"there is no method {method!r} for modules", remedy=f"known are {', '.join(sorted(MODULE_METHODS))}")
    if epochs < 0 or batch_size < 1:
        raise DatumwiseError(
            f"{epochs} epochs of batches of {batch_size} were asked for", remedy="take 0 or more, and 1 or more"
        )
    reading = {"tokenizer": tokenizer, "collate": collate, "batch_size": batch_size}
    gone = module_data(forget, model, "forget", ids=ids, **reading)
    kept = module_data(retain, model, "retain", **reading) if retain is not None else None
    entry = MODULE_LOSSES.get(method)
    if kept is None and (entry is None or entry.retain_required) and method != "task_vector":
        raise EmptyData(f"{method} needs datapoints that are kept, and retain is None", remedy="give retain")
    if kept is not None:
        refuse_shared_ids(gone, kept)
    used = {"lr": lr, "epochs": epochs, "batch_size": batch_size, "alpha": alpha, "gamma": gamma, "random_state": random_state}
    begun = time.perf_counter()
    before = datapoint_loss_values(model, gone, loss_fn)
    if entry is None:
        settings = {"lr": lr, "epochs": epochs, "max_grad_norm": max_grad_norm, "random_state": random_state}
        new = _whole(model, gone, kept, method, loss_fn, settings, reading, inplace, progress, options)
        after = datapoint_loss_values(new, gone, loss_fn)
        plain = {name: value for name, value in options.items() if isinstance(value, int | float | str)}
        seconds = time.perf_counter() - begun
        return ModuleUnlearning(new, [], np.stack([before, after], 1), gone.ids, epochs, False, seconds, method, used | plain)
    unknown = sorted(set(options) - set(entry.defaults))
    if unknown:
        takes = f"it takes {', '.join(entry.defaults)}" if entry.defaults else "it takes none"
        raise UnknownName(f"{method} has no option {name_some(unknown)}", remedy=takes)
    settings = dict(entry.defaults) | options
    new = model if inplace else copied(model)
    state = prepared(entry, new, gone, loss_fn, before, random_state)
    columns, history, stopped, done = [before], [], False, 0
    weights = {"alpha": alpha, "gamma": gamma}
    per_epoch = sum(1 for _ in (kept if entry.over_retain and kept is not None else gone).straight())
    with _trainable(new, restore=inplace) as parameters:
        optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=0.0)
        rng, other = np.random.default_rng(random_state), np.random.default_rng([random_state, 1])
        endless = kept.endless(other) if kept is not None and not entry.over_retain else None
        for epoch in range(1, epochs + 1):
            seen: list[tuple[float, float, float]] = []
            stream = kept.shuffled(rng) if entry.over_retain and kept is not None else gone.shuffled(rng)
            for rows, batch in stream:
                second = next(endless) if endless is not None else None
                seen.append(
                    _step(new, optimiser, parameters, entry, state, settings, weights, max_grad_norm, loss_fn, gone, kept,
                          (rows, batch), second, epoch)
                )  # fmt: skip
                done += 1
                if progress is not None:
                    progress(done, epochs * per_epoch)
            means = np.mean(seen, axis=0)
            history.append({"forget": float(means[0]), "retain": float(means[1]), "gradient": float(means[2])})
            columns.append(datapoint_loss_values(new, gone, loss_fn))
            if stop is not None and stop(new, epoch):
                stopped = True
                break
    seconds = time.perf_counter() - begun
    table = np.stack(columns, axis=1)
    return ModuleUnlearning(new, history, table, gone.ids, len(history), stopped, seconds, method, used | settings)


def datapoint_loss_values(model: nn.Module, data: ModuleData, loss_fn: Losses | None = None) -> np.ndarray:
    """Loss of each datapoint in the order of the data, float64 (n,), in evaluation mode and without gradients."""
    found = np.empty(len(data))
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            for rows, batch in data.straight():
                found[rows] = datapoint_losses(model, batch, [data.ids[row] for row in rows], loss_fn).double().cpu().numpy()
    finally:
        for module, mode in modes:
            module.training = mode
    return found


def _step(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    parameters: list[Tensor],
    entry: Any,
    state: Any,
    options: Mapping[str, Any],
    weights: Mapping[str, float],
    max_grad_norm: float | None,
    loss_fn: Losses | None,
    gone: ModuleData,
    kept: ModuleData | None,
    first: tuple[np.ndarray, Any],
    second: tuple[np.ndarray, Any] | None,
    epoch: int,
) -> tuple[float, float, float]:
    """One update; the losses to forget and to keep, and the gradient's norm."""
    rows, batch = first
    source = kept if entry.over_retain and kept is not None else gone
    names = [source.ids[row] for row in rows]
    optimiser.zero_grad(set_to_none=True)
    try:
        if entry.over_retain:
            loss = keep = datapoint_losses(model, batch, names, loss_fn).mean()
            lost = torch.zeros(())
        else:
            lost = entry.loss(model, batch, names, rows, state, options, loss_fn)
            keep = torch.zeros_like(lost)
            if second is not None and kept is not None:
                keep = datapoint_losses(model, second[1], [kept.ids[row] for row in second[0]], loss_fn).mean()
            loss = weights["gamma"] * lost + weights["alpha"] * keep
    except NotFinite as error:
        raise NotFinite(f"in epoch {epoch} {error}", remedy="take a smaller lr, or fewer epochs", ids=error.ids) from error
    if not torch.isfinite(loss.detach()):
        raise NotFinite(
            f"the loss of epoch {epoch} is not finite (datapoints {name_some(names)})", remedy="take a smaller lr", ids=names
        )
    loss.backward()
    norm = float(torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm if max_grad_norm else float("inf")))
    optimiser.step()
    return float(lost.detach()), float(keep.detach()), norm


@contextmanager
def _trainable(model: nn.Module, *, restore: bool) -> Any:
    """The parameters that ask for gradients, the model in evaluation mode; after an error the first weights if ``restore``."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise DatumwiseError("no parameter of the model requires a gradient", remedy="call model.requires_grad_(True)")
    modes = [(module, module.training) for module in model.modules()]
    gradients = [p.grad for p in parameters]
    first = [p.detach().clone() for p in parameters] if restore else []
    try:
        with forked(model):
            model.eval()
            yield parameters
    except BaseException:
        with torch.no_grad():
            for p, old in zip(parameters, first, strict=False):
                p.copy_(old)
        raise
    finally:
        for p, gradient in zip(parameters, gradients, strict=True):
            p.grad = gradient
        for module, mode in modes:
            module.training = mode


def _whole(
    model: nn.Module,
    forget: Any,
    retain: Any,
    method: str,
    loss_fn: Losses | None,
    settings: dict[str, Any],
    reading: dict[str, Any],
    inplace: bool,
    progress: Any,
    options: dict[str, Any],
) -> nn.Module:
    """The methods that are no loss."""
    options = dict(options)
    try:
        if method == "newton":
            found = newton_removal(
                model, forget, retain, loss_fn=loss_fn, inplace=inplace, progress=progress,
                random_state=settings["random_state"], **{"damping": 1e-3, **options}, **reading,
            )  # fmt: skip
            return found.model
        if method == "ssd":
            return ssd(model, forget, retain, loss_fn=loss_fn, inplace=inplace, progress=progress, **options, **reading).model
        if method == "task_vector":
            scale = options.pop("scale", 1.0)
            tuned = trained_module(model, forget, loss_fn=loss_fn, progress=progress, **settings, **options, **reading)
            return negate(model, task_vector(model, tuned), scale, inplace=inplace)
        initial = options.pop("initial", None)
        if initial is None:
            raise DatumwiseError("training anew needs the module before it was trained", remedy="give initial=")
        fresh = trained_module(initial, retain, loss_fn=loss_fn, progress=progress, **settings, **options, **reading)
    except TypeError as error:
        if "unexpected keyword" in str(error):
            raise UnknownName(f"{method} has no option {str(error).rpartition(' ')[2]}") from error
        raise
    if inplace:
        model.load_state_dict(fresh.state_dict())
        return model
    return fresh
