"""A copy of a language model, trained on some texts: reinforced for a task vector, an assistant, or trained anew."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datumwise.errors import NotFinite, UnknownName, name_some
from datumwise.forget.losses import ga_loss
from datumwise.forget.sequences import Sequences
from datumwise.forget.trained_copy import copied, forked

__all__ = ["descended", "reinforced"]

Loss = Callable[[Tensor, Tensor, "tuple[Tensor, Tensor] | None"], Tensor]


def reinforced(
    model: Any,
    texts: Sequences,
    *,
    lr: float = 1e-5,
    epochs: int = 10,
    batch_size: int = 4,
    max_grad_norm: float = 1.0,
    schedule: str = "cosine",
    weight_decay: float = 0.0,
    random_state: int = 0,
    inplace: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """A copy of the model, trained on texts by the mean negative log-likelihood of their tokens.

    Parameters
    ----------
    model : causal language model
    texts : Sequences
    lr, epochs, batch_size, max_grad_norm, schedule, weight_decay
        Of AdamW; ``schedule`` "cosine" to 0 (as published for task vectors), or "constant".
    random_state : int
        Of the order, and of dropout.
    inplace : bool
        Train the model itself.
    progress : callable (steps done, steps), optional

    Returns
    -------
    causal language model, in evaluation mode
    """
    return descended(
        model if inplace else copied(model),
        texts,
        lambda logits, labels, kept: -ga_loss(logits, labels),
        lr=lr,
        epochs=epochs,
        batch_size=batch_size,
        max_grad_norm=max_grad_norm,
        schedule=schedule,
        weight_decay=weight_decay,
        random_state=random_state,
        progress=progress,
    )


def descended(
    model: Any,
    texts: Sequences,
    loss: Loss,
    *,
    retain: Sequences | None = None,
    lr: float,
    epochs: int,
    batch_size: int,
    max_grad_norm: float = 1.0,
    schedule: str = "cosine",
    weight_decay: float = 0.0,
    random_state: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """Train a model in place, all of its weights; ``loss(logits, labels, retain (logits, labels) or None) -> Tensor ()``.

    Modes and gradient flags come back as they were.

    Raises
    ------
    NotFinite
        A loss is not finite; the first weights are back.
    """
    if schedule not in ("cosine", "constant"):
        raise UnknownName(f"there is no schedule {schedule!r}", remedy="choose cosine or constant")
    device = next(model.parameters()).device
    steps = epochs * math.ceil(len(texts) / batch_size)
    if steps == 0:
        return model
    modes = [(module, module.training) for module in model.modules()]
    wanted = [(p, p.requires_grad) for p in model.parameters()]
    trained = [p for p, _ in wanted if p.is_floating_point()]
    first = [p.detach().clone() for p in trained]
    rng = np.random.default_rng(random_state)
    other = _endless(retain, batch_size, np.random.default_rng([random_state, 1])) if retain is not None else None
    try:
        with forked(model):
            torch.manual_seed(random_state)
            for p in trained:
                p.requires_grad_(True)
            model.train()
            optimiser = torch.optim.AdamW(trained, lr=lr, weight_decay=weight_decay)
            done = 0
            for _ in range(epochs):
                order = rng.permutation(len(texts))
                for at in range(0, len(order), batch_size):
                    rows = order[at : at + batch_size]
                    for group in optimiser.param_groups:
                        group["lr"] = lr * (0.5 * (1 + math.cos(math.pi * done / steps)) if schedule == "cosine" else 1.0)
                    optimiser.zero_grad(set_to_none=True)
                    kept = _read(model, retain, next(other), device) if retain is not None and other is not None else None
                    value = loss(*_read(model, texts, rows, device), kept)
                    if not torch.isfinite(value.detach()):
                        with torch.no_grad():
                            for p, old in zip(trained, first, strict=True):
                                p.copy_(old)
                        raise NotFinite(
                            f"the loss of step {done + 1} is not finite (texts {name_some(texts.names(rows))})",
                            remedy="take a smaller lr",
                            ids=texts.names(rows),
                        )
                    value.backward()
                    if max_grad_norm:
                        torch.nn.utils.clip_grad_norm_(trained, max_grad_norm)
                    optimiser.step()
                    done += 1
                    if progress is not None:
                        progress(done, steps)
            optimiser.zero_grad(set_to_none=True)
    finally:
        for p, flag in wanted:
            p.requires_grad_(flag)
            p.grad = None
        for module, mode in modes:
            module.training = mode
    return model.eval() if not any(mode for _, mode in modes) else model


def _read(model: Any, texts: Sequences, rows: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Logits (B, T, V) and labels (B, T)."""
    batch = texts.batch(rows).to(device)
    return model(input_ids=batch.input_ids, attention_mask=batch.mask, use_cache=False).logits, batch.labels


def _endless(texts: Sequences, batch_size: int, rng: np.random.Generator) -> Any:
    while True:
        order = rng.permutation(len(texts))
        for at in range(0, len(order), batch_size):
            yield order[at : at + batch_size]
