"""Losses that make a classifier or a regression forget: one entry a method of `unlearn_module`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datumwise.errors import ModelMismatch
from datumwise.forget.losses import npo_loss
from datumwise.forget.module_data import ModuleData, datapoint_losses
from datumwise.probe.losses import Losses, call_model

__all__ = ["MODULE_LOSSES", "ModuleLoss", "prepared"]


@dataclass(frozen=True)
class ModuleLoss:
    """A way to forget by gradients.

    Attributes
    ----------
    summary : str
    loss : callable
        ``loss(model, batch, ids, rows, state, options, loss_fn) -> Tensor ()``, to be minimised.
    needs : {"none", "loss", "labels"}
        What is known of each forgotten datapoint from before: its loss, or another label.
    retain_required : bool
    over_retain : bool
        The method trains on what is kept and does not look at what is forgotten.
    defaults : dict
    """

    summary: str
    loss: Callable[..., Tensor]
    needs: str = "none"
    retain_required: bool = False
    over_retain: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)


def prepared(
    entry: ModuleLoss, model: nn.Module, data: ModuleData, loss_fn: Losses | None, before: np.ndarray, random_state: int
) -> Any:
    """What a method needs to know of the forgotten datapoints, by row: nothing, float (n,) losses, or int (n,) labels."""
    if entry.needs == "loss":
        return torch.from_numpy(before)
    if entry.needs == "labels":
        return _other_labels(model, data, random_state)
    return None


def _other_labels(model: nn.Module, data: ModuleData, random_state: int) -> Tensor:
    """A class that is not the datapoint's own, drawn once, uniformly."""
    found = torch.zeros(len(data), dtype=torch.int64)
    rng = np.random.default_rng(random_state)
    shifts = rng.random(len(data))
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        with torch.no_grad():
            for rows, batch in data.straight():
                k = _class_logits(model, batch).shape[1]
                if k < 2:
                    raise ModelMismatch("the model answers with one number, so there is no other label to learn")
                other = (_labels(batch).cpu().numpy() + 1 + np.floor(shifts[rows] * (k - 1)).astype(int)) % k
                found[torch.from_numpy(rows)] = torch.from_numpy(other)
    finally:
        for module, mode in modes:
            module.training = mode
    return found


def _class_logits(model: nn.Module, batch: Any) -> Tensor:
    output = call_model(model, batch)
    logits = getattr(output, "logits", output)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ModelMismatch(
            "this method needs a classifier with logits (n, classes)", remedy="use ga, grad_diff, npo or newton"
        )
    return logits


def _labels(batch: Any) -> Tensor:
    labels = batch.get("labels", batch.get("label")) if isinstance(batch, Mapping) else batch[1]
    if labels is None or labels.ndim != 1 or labels.is_floating_point():
        raise ModelMismatch("this method needs one class a datapoint", remedy="use ga, grad_diff, npo or newton")
    return labels


def _ga(
    model: nn.Module, batch: Any, ids: Any, rows: np.ndarray, state: Any, options: Mapping[str, Any], loss_fn: Losses | None
) -> Tensor:
    return -datapoint_losses(model, batch, ids, loss_fn).mean()


def _npo(
    model: nn.Module, batch: Any, ids: Any, rows: np.ndarray, state: Any, options: Mapping[str, Any], loss_fn: Losses | None
) -> Tensor:
    losses = datapoint_losses(model, batch, ids, loss_fn)
    return npo_loss(losses, state[torch.from_numpy(rows)].to(losses), options["beta"])


def _random_labels(
    model: nn.Module, batch: Any, ids: Any, rows: np.ndarray, state: Any, options: Mapping[str, Any], loss_fn: Losses | None
) -> Tensor:
    logits = _class_logits(model, batch)
    return F.cross_entropy(logits.float(), state[torch.from_numpy(rows)].to(logits.device))


def _uniform(
    model: nn.Module, batch: Any, ids: Any, rows: np.ndarray, state: Any, options: Mapping[str, Any], loss_fn: Losses | None
) -> Tensor:
    log_p = F.log_softmax(_class_logits(model, batch).float(), dim=1)
    return -log_p.mean() - math.log(log_p.shape[1])


def _nothing(*_: Any) -> Tensor:
    return torch.zeros(())


MODULE_LOSSES: dict[str, ModuleLoss] = {
    "ga": ModuleLoss("gradient ascent on what is forgotten; descent on what is kept, if any is given", _ga),
    "grad_diff": ModuleLoss("gradient ascent on what is forgotten, descent on what is kept", _ga, retain_required=True),
    "npo": ModuleLoss(
        "negative preference optimisation of the datapoints' losses (Zhang et al., 2024)",
        _npo,
        needs="loss",
        defaults={"beta": 0.1},
    ),
    "random_labels": ModuleLoss("other labels for what is forgotten, one drawn for each", _random_labels, needs="labels"),
    "uniform": ModuleLoss("uniform probabilities for what is forgotten", _uniform),
    "fine_tune": ModuleLoss("further training on what is kept alone", _nothing, retain_required=True, over_retain=True),
}
