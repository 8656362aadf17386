"""The reference of everything: training again, from the first weights, on what is kept alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from datumwise.errors import ModelMismatch, NotFinite, UnknownName, name_some
from datumwise.forget.module_data import ModuleData, datapoint_losses, module_data
from datumwise.forget.reinforce import reinforced
from datumwise.forget.sequences import Sequences
from datumwise.forget.trained_copy import copied, forked
from datumwise.probe.losses import Losses

__all__ = ["retrained", "trained_module"]


def retrained(initial: Any, retain: Sequences, **options: Any) -> Any:
    """A language model trained on the retained texts from ``initial``, which stays as it is.

    Parameters
    ----------
    initial : causal language model
        With the weights from before the forgotten texts were seen.
    retain : Sequences
    **options
        Of `datumwise.forget.reinforce.reinforced`: they should be those that the model to be compared was trained with.
    """
    return reinforced(initial, retain, **options)


def trained_module(
    initial: nn.Module,
    data: Any,
    *,
    loss_fn: Losses | None = None,
    lr: float = 1e-3,
    epochs: int = 10,
    batch_size: int = 32,
    weight_decay: float = 0.0,
    schedule: str = "constant",
    max_grad_norm: float | None = None,
    random_state: int = 0,
    ids: Any = None,
    tokenizer: Any = None,
    collate: Any = None,
    inplace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> nn.Module:
    """A copy of any torch module, trained with AdamW on the mean loss; repeatable from ``random_state``.

    Parameters
    ----------
    initial : torch.nn.Module
        Untrained, for an exact retraining.
    data : ledger, (x, y) tensors, or batches
        What is kept.
    loss_fn : callable (model, batch) -> Tensor (B,), optional
        Cross-entropy by default.
    schedule : {"constant", "cosine"}
    inplace : bool

    Raises
    ------
    NotFinite, EmptyData, UnknownName
    """
    model = initial if inplace else copied(initial)
    given: ModuleData = module_data(
        data, model, "the data", ids=ids, tokenizer=tokenizer, collate=collate, batch_size=batch_size
    )
    if schedule not in ("cosine", "constant"):
        raise UnknownName(f"there is no schedule {schedule!r}", remedy="choose cosine or constant")
    parameters = [p for p in model.parameters() if p.requires_grad]
    if not parameters:
        raise ModelMismatch("no parameter of the model requires a gradient", remedy="call model.requires_grad_(True)")
    rng = np.random.default_rng(random_state)
    per_epoch = math.ceil(len(given) / batch_size) if given.whole is not None else len(given.batches)
    done, total = 0, epochs * per_epoch
    training = model.training
    with forked(model):
        torch.manual_seed(random_state)
        model.train()
        optimiser = torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay)
        for _ in range(epochs):
            for rows, batch in given.shuffled(rng):
                for group in optimiser.param_groups:
                    group["lr"] = lr * (0.5 * (1 + math.cos(math.pi * done / total)) if schedule == "cosine" else 1.0)
                optimiser.zero_grad(set_to_none=True)
                names = [given.ids[row] for row in rows]
                loss = datapoint_losses(model, batch, names, loss_fn).mean()
                loss.backward()
                if max_grad_norm:
                    torch.nn.utils.clip_grad_norm_(parameters, max_grad_norm)
                optimiser.step()
                done += 1
                if progress is not None:
                    progress(done, total)
        optimiser.zero_grad(set_to_none=True)
    bad = [name for name, p in model.named_parameters() if not torch.isfinite(p).all()]
    if bad:
        raise NotFinite(f"training left {name_some(bad)} not finite", remedy="take a smaller lr")
    model.train(training)
    return model
