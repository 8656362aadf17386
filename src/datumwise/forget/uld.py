"""Unlearn by a difference of logits: a small assistant that knows the texts to forget and nothing else is subtracted.

Ji et al., *Reversing the forget-retain objectives: an efficient LLM unlearning framework from logit difference*, NeurIPS 2024.
The assistant is trained the other way round, to remember what is to be forgotten and to be at a loss over what is kept, which
has neither of gradient ascent's troubles: no loss without a bound, no damage to what is kept.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from datumwise.errors import DatumwiseError, EmptyData, ModelMismatch
from datumwise.forget.losses import ga_loss, predicted
from datumwise.forget.reinforce import descended
from datumwise.forget.sequences import Sequences
from datumwise.forget.trained_copy import copied
from datumwise.forget.two_models import TwoModels

__all__ = ["ULDModel", "first_layers", "train_assistant", "uniform_cross_entropy"]


class ULDModel(TwoModels):
    """A causal language model that answers ``z_f - weight z_a``.

    Parameters
    ----------
    base : causal language model
        f, that is to forget.
    assistant : causal language model
        a, of the same vocabulary; perhaps a few layers only. Flat (uniform) where it knows nothing: then nothing changes.
    weight : float
        At least 0; 0 is the base.
    """

    def __init__(self, base: Any, assistant: Any, weight: float = 0.8) -> None:
        if not weight >= 0:
            raise DatumwiseError(f"weight is {weight}", remedy="it must be 0 or more")
        super().__init__(base, assistant)
        self.weight = float(weight)

    def combined(self, z: Tensor, other: Tensor) -> Tensor:
        return z if self.weight == 0 else z - self.weight * other


def train_assistant(
    model: Any,
    forget: Sequences,
    retain: Sequences | None,
    *,
    layers: int | None = None,
    retain_weight: float = 5.0,
    lr: float = 1e-3,
    epochs: int = 10,
    batch_size: int = 4,
    max_grad_norm: float = 1.0,
    random_state: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Any:
    """The assistant: a copy of the model's first layers, trained to know ``forget`` and to be uniform on ``retain``.

    Parameters
    ----------
    model : causal language model
        Not changed.
    forget, retain : Sequences
        Tokenised texts; ``retain`` is needed, else the assistant is sure of everything and all is taken away.
    layers : int, optional
        First layers that are kept; all by default. 8 of 32 in the paper.
    retain_weight : float
        Of the uniform loss on ``retain``.
    lr, epochs, batch_size, max_grad_norm, random_state
        Of AdamW.
    progress : callable (done, total), optional

    Raises
    ------
    EmptyData
        There is nothing to retain.
    ModelMismatch
        The model has no list of layers that could be cut.
    """
    if retain is None or not len(retain):
        raise EmptyData("the assistant must be told what is kept, and retain has no text", remedy="give retain texts")
    assistant = copied(model) if layers is None else first_layers(model, layers)

    def loss(logits: Tensor, labels: Tensor, kept: tuple[Tensor, Tensor] | None) -> Tensor:
        total = -ga_loss(logits, labels)
        return total if kept is None else total + retain_weight * uniform_cross_entropy(*kept)

    return descended(
        assistant,
        forget,
        loss,
        retain=retain,
        lr=lr,
        epochs=epochs,
        batch_size=batch_size,
        max_grad_norm=max_grad_norm,
        random_state=random_state,
        progress=progress,
    )


def uniform_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean over tokens of ``-mean_v log p_v - ln V``: the divergence of the prediction FROM uniform, 0 at least.

    Its gradient does not vanish where the model is sure, as that of the reverse divergence does.
    """
    log_p = torch.log_softmax(predicted(logits, labels)[0], dim=-1)
    return -log_p.mean() - math.log(log_p.shape[1])


def first_layers(model: Any, k: int) -> Any:
    """A copy of a causal language model with its first ``k`` layers alone.

    Raises
    ------
    ModelMismatch
        No list of layers was found, or it is shorter.
    """
    inner = next(
        (part for part in (getattr(model, "model", None), getattr(model, "transformer", None)) if part is not None), None
    )
    name = next((n for n in ("layers", "h") if isinstance(getattr(inner, n, None), torch.nn.ModuleList)), None)
    if inner is None or name is None:
        raise ModelMismatch(f"no list of layers was found in {type(model).__name__}", remedy="leave layers=None")
    blocks = getattr(inner, name)
    if not 1 <= k <= len(blocks):
        raise ModelMismatch(f"{k} first layers were asked for of {len(blocks)}")
    memo = {id(block): None for block in list(blocks)[k:]}  # left out of the copy, which so never holds them
    new = copy.deepcopy(model, memo)
    parent = getattr(new, "model", None) if inner is getattr(model, "model", None) else new.transformer
    setattr(parent, name, torch.nn.ModuleList([block for block in getattr(parent, name) if block is not None]))
    config = new.config.get_text_config()
    config.num_hidden_layers = k
    if getattr(config, "layer_types", None):
        config.layer_types = list(config.layer_types)[:k]
    return new
