"""Curvature edits of a language model under their names: without a list of what to forget, and against one."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from datumwise.errors import EmptyData, ModelMismatch
from datumwise.forget.coherent_step import coherent_edit, recited_share
from datumwise.forget.curvature_edit import CurvatureEdit
from datumwise.forget.edit_cost import trainable
from datumwise.forget.methods import Method, register_method
from datumwise.forget.sequences import encode_sequences
from datumwise.forget.texts import Texts
from datumwise.forget.trained_copy import copied
from datumwise.probe.collate import padding_id
from datumwise.probe.kfac import KFAC
from datumwise.probe.layers import reader_of

__all__ = ["middle_mlp_layers"]

FROM, TO = 0.6, 0.8  # of the depth
Progress = Callable[[int, int], None] | None
Layers = str | Sequence[str] | None


def middle_mlp_layers(model: nn.Module) -> list[str]:
    """The first projections (gate and up, or fc1) of the MLPs in the blocks at 60 to 80 % of the depth.

    Where the source edits models of 16 and 32 blocks. Known by their shape: more outputs than inputs, outside of attention.

    Raises
    ------
    ModelMismatch
        The names of the layers do not say in which block they are, or there is none of that shape.

    Examples
    --------
    >>> block = lambda: nn.ModuleDict({"qkv": nn.Linear(4, 12), "up": nn.Linear(4, 16), "down": nn.Linear(16, 4)})
    >>> model = nn.ModuleDict({"blocks": nn.ModuleList(block() for _ in range(5))})
    >>> middle_mlp_layers(model)
    ['blocks.3.up']
    """
    blocks: dict[str, int] = {}
    for name, module in model.named_modules():
        found = re.search(r"\.(\d+)\.", f".{name}.")
        if found is not None and _widens(name, module):
            blocks[name] = int(found.group(1))
    if not blocks:
        raise ModelMismatch("the layers of the MLPs are not known by their names and shapes", remedy="pass layers=")
    depth = max(blocks.values()) + 1
    first = int(FROM * depth)
    last = max(first + 1, -int(-TO * depth // 1))
    return [name for name, block in blocks.items() if first <= block < last]


def _widens(name: str, module: Any) -> bool:
    reader = reader_of(module)
    if reader is None or reader.kind != "linear" or re.search("attn|attention|qkv|head", name):
        return False
    outputs, inputs = reader.shape(module) or (0, 0)
    return outputs > inputs


def _batches(tokenizer: Any, texts: Texts | None, name: str, max_length: int, batch_size: int) -> list[dict[str, torch.Tensor]]:
    if texts is None or not len(texts):
        raise EmptyData(f"this method needs {name} texts, and there is none", remedy=f"give {name}=")
    rows = encode_sequences(tokenizer, texts, max_length, padding=padding_id(tokenizer), name=name)
    starts = range(0, len(rows), batch_size)
    found = [rows.batch(range(start, min(start + batch_size, len(rows)))) for start in starts]
    return [{"input_ids": b.input_ids, "attention_mask": b.mask, "labels": b.labels} for b in found]


def _fitted(
    model: Any,
    batches: list[Any],
    layers: Layers,
    factors: str,
    labels: str,
    share: float,
    random_state: int,
    progress: Progress,
) -> KFAC:
    """Factors of the chosen layers, whether or not their weights are frozen."""
    names = middle_mlp_layers(model) if layers is None else layers
    with trainable(model, dict.fromkeys(_frozen(model))):
        kfac = KFAC(model, names, labels, factors, share=share, random_state=random_state)
        return kfac.fit(batches, progress=progress)


def _frozen(model: nn.Module) -> list[str]:
    """Layers whose weight could have factors and is frozen."""
    return [
        name
        for name, module in model.named_modules()
        if (weight := module._parameters.get("weight")) is not None
        and (reader := reader_of(module)) is not None
        and reader.kind in ("linear", "convolution")
        and weight.is_floating_point()
        and not weight.requires_grad
    ]


def _curvature(
    model: Any, tokenizer: Any, forget: Texts | None, retain: Texts | None, *, keep_mass: float = 0.6,
    max_cost: float | None = None,
    rule: str = "product", layers: Layers = None, factors: str = "kfac", labels: str = "sampled", share: float = 1.0,
    batch_size: int = 4, max_length: int = 2048, inplace: bool = False, random_state: int = 0, device: Any = None,
    progress: Progress = None, lr: float = 0.0, epochs: int = 0, max_grad_norm: float = 0.0,
) -> Any:  # fmt: skip
    """Keep what carries the curvature on the retained texts; what is to be forgotten is not looked at.

    With ``max_cost`` the strongest edit that is predicted to cost the retained texts at most so many nats a token.
    """
    edited = _ready(model, inplace, device)
    batches = _batches(tokenizer, retain, "retain", max_length, batch_size)
    kfac = _fitted(edited, batches, layers, factors, labels, share, random_state, progress)
    edit = CurvatureEdit(kfac, keep_mass, rule=rule)
    if max_cost is not None:
        edit = edit.within(max_cost, batches, random_state=random_state)
    return edit.apply(edited)


def _coherent(
    model: Any, tokenizer: Any, forget: Texts, retain: Texts | None, *, norm: float | None = None, goal: float | None = None,
    keep_mass: float = 0.6, bulk_only: bool = True, layers: Layers = None, factors: str = "kfac", labels: str = "sampled",
    share: float = 1.0, batch_size: int = 4, max_length: int = 2048, inplace: bool = False, random_state: int = 0,
    device: Any = None, progress: Progress = None, lr: float = 0.0, epochs: int = 0, max_grad_norm: float = 0.0,
) -> Any:  # fmt: skip
    """One step against the margins of the forgotten texts, where the retained ones have little curvature.

    Without ``norm`` and ``goal`` as far as it takes for the model to predict no more of the forgotten tokens than it does of
    the retained.
    """
    edited = _ready(model, inplace, device)
    batches = _batches(tokenizer, retain, "retain", max_length, batch_size)
    targets = _batches(tokenizer, forget, "forget", max_length, batch_size)
    kfac = _fitted(edited, batches, layers, factors, labels, share, random_state, progress)
    if goal is None:
        goal = min(recited_share(edited, batches, counted="token"), 1 - 1e-9)
    edit = coherent_edit(
        edited, kfac, targets, norm=norm, goal=goal, counted="token", keep_mass=keep_mass, bulk_only=bulk_only
    )  # fmt: skip
    return edit.apply(edited)


def _ready(model: Any, inplace: bool, device: Any) -> Any:
    chosen = model if inplace else copied(model)
    return chosen if device is None else chosen.to(device)


for _method in (
    Method(
        "curvature", "Merullo et al., 2025", "weights keep the components that carry the curvature on the retained texts",
        run=_curvature, retain_required=True, defaults={"keep_mass": 0.6},
    ),
    Method(
        "coherent", "replication of Merullo et al., 2026",
        "one step against the margins of the forgotten texts, in the components of little curvature",
        run=_coherent, retain_required=True, defaults={"keep_mass": 0.6},
    ),
):  # fmt: skip
    register_method(_method)
