"""Which weights matter to the forgotten datapoints and to little else? Damp those, without training.

Foster, Schoepf and Brintrup, *Fast machine unlearning without retraining through selective synaptic dampening*, AAAI 2024.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from datumwise.errors import DatumwiseError, ModelMismatch, name_some
from datumwise.forget.fisher_diagonal import fisher_diagonal
from datumwise.forget.module_data import ModuleData, module_data
from datumwise.forget.trained_copy import copied
from datumwise.probe.losses import Losses

__all__ = ["Dampening", "dampened", "ssd"]


@dataclass(frozen=True)
class Dampening:
    """What `ssd` did.

    Attributes
    ----------
    model : torch.nn.Module
    damped : dict of parameter name to int
        How many of its numbers were damped.
    share : float
        Of all numbers of the parameters looked at.
    """

    model: Any
    damped: dict[str, int]
    share: float


def dampened(
    theta: Tensor, importance_forget: Tensor, importance_all: Tensor, select: float = 10.0, lam: float = 1.0
) -> Tensor:
    """Weights after selective synaptic dampening: times min(lam I_all / I_F, 1) where I_F > select I_all (eq. 3 and 4).

    Parameters
    ----------
    theta, importance_forget, importance_all : Tensor of one shape
        Importance: mean squared gradient of the datapoints, at least 0.
    select : float
        How much more important a weight must be to the forgotten datapoints; larger chooses fewer.
    lam : float
        Strength; larger damps less.

    Examples
    --------
    >>> dampened(torch.ones(3), torch.tensor([0.0, 5.0, 40.0]), torch.tensor([1.0, 1.0, 2.0])).tolist()
    [1.0, 1.0, 0.05000000074505806]
    """
    chosen = importance_forget > select * importance_all
    factor = (lam * importance_all / torch.where(chosen, importance_forget, torch.ones_like(importance_forget))).clamp_max(1)
    return torch.where(chosen, theta * factor.to(theta.dtype), theta)


def ssd(
    model: nn.Module,
    forget: Any,
    retain: Any,
    *,
    select: float = 10.0,
    lam: float = 1.0,
    loss_fn: Losses | None = None,
    importance_all: Mapping[str, Tensor] | None = None,
    batch_size: int = 32,
    tokenizer: Any = None,
    collate: Any = None,
    inplace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Dampening:
    """Selective synaptic dampening of any module with a loss.

    Parameters
    ----------
    model : torch.nn.Module
        Its parameters that require a gradient are looked at. Running statistics of batch norm are left as they are.
    forget, retain : ledger, (x, y) tensors, or batches
        ``retain`` None with ``importance_all``.
    select, lam : float
        As of `dampened`.
    loss_fn : callable (model, batch) -> Tensor (B,), optional
        One loss a datapoint; cross-entropy by default.
    importance_all : dict of parameter name to Tensor, optional
        Mean squared gradients of all training data (forgotten and retained), known from before.
    batch_size : int
        Changes the speed alone.
    inplace : bool
    progress : callable (done, total), optional

    Returns
    -------
    Dampening

    Raises
    ------
    EmptyData, ModelMismatch, NotFinite, DatumwiseError

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Linear(4, 2)
    >>> x = torch.randn(40, 4); x[:, 3] = 0; x[:4, 3] = 5  # only the forgotten datapoints use the last column
    >>> y = torch.randint(2, (40,))
    >>> found = ssd(model, (x[:4], y[:4]), (x[4:], y[4:]), select=5)
    >>> (found.model.weight != model.weight).any(0).tolist()
    [False, False, False, True]
    """
    if not (select > 0 and lam > 0):
        raise DatumwiseError(f"select is {select} and lam {lam}", remedy="both must be above 0")
    options = {"tokenizer": tokenizer, "collate": collate, "batch_size": batch_size}
    gone = module_data(forget, model, "forget", **options)
    kept = None if importance_all is not None else module_data(retain if retain is not None else (), model, "retain", **options)
    total = len(gone) + (len(kept) if kept is not None else 0)
    of_forget = fisher_diagonal(model, gone, loss_fn, progress and (lambda done, _: progress(done, total)))
    if kept is not None:
        of_retain = fisher_diagonal(model, kept, loss_fn, progress and (lambda done, _: progress(len(gone) + done, total)))
        share = len(gone) / total
        of_all: Mapping[str, Tensor] = {name: share * of_forget[name] + (1 - share) * of_retain[name] for name in of_forget}
    else:
        assert importance_all is not None
        of_all = importance_all
        missing = sorted(set(of_forget) - set(of_all))
        if missing:
            raise ModelMismatch(f"importance_all has no parameter {name_some(missing)}")
    new = model if inplace else copied(model)
    damped, numbers = {}, 0
    with torch.no_grad():
        for name, parameter in new.named_parameters():
            if name not in of_forget:
                continue
            known = of_all[name].to(of_forget[name])
            count = int((of_forget[name] > select * known).sum())
            numbers += parameter.numel()
            if count:
                damped[name] = count
                parameter.copy_(
                    dampened(parameter, of_forget[name].to(parameter.device), known.to(parameter.device), select, lam)
                )
    return Dampening(new, damped, sum(damped.values()) / numbers if numbers else 0.0)


def importance(model: nn.Module, data: Any, *, loss_fn: Losses | None = None, **options: Any) -> dict[str, Tensor]:
    """Mean squared gradients of a data set, to be kept as ``importance_all``; options as of `ssd`."""
    given: ModuleData = module_data(data, model, "the data", **options)
    return fisher_diagonal(model, given, loss_fn)
