"""Which weights can be set to zero so that given sequences are forgotten and others kept? A mask learnt with both sets.

The supervised baseline of curvature edits: weights stay frozen, one score a weight is learnt, and the weights of the smallest
scores are dropped.

Source: Sakarvadia et al., Mitigating memorization in language models, 2024 (BalancedSubnet); Ramanujan et al., What's hidden in
a randomly weighted neural network?, 2020 (the straight-through gradient).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor, nn

from datumwise.errors import DatumwiseError, EmptyData, ModelMismatch, NotFinite, SchemaMismatch, UnknownName
from datumwise.forget.low_rank_edit import Layers, matching_layers
from datumwise.forget.weight_edit import WeightEdit, unwrapped
from datumwise.probe.batches import moved
from datumwise.probe.losses import IGNORED, forward_of, size_of
from datumwise.probe.swapped_weights import as_parameter, check_weight, weight_matrix
from datumwise.probe.tap import frozen, swapped

__all__ = ["MaskEdit", "balanced_subnet"]

MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
VARIANTS = ("mean", "published")


@dataclass(frozen=True)
class Epoch:
    """Mean loss a target of the memorised and of the clean datapoints, as they were trained on in one epoch."""

    memorized: float
    clean: float


class MaskEdit(WeightEdit):
    """Weights multiplied with a mask each.

    Attributes
    ----------
    masks : dict of layer name to bool Tensor (o, i)
        False: dropped.
    history : list of Epoch
    """

    def __init__(self, masks: Mapping[str, Tensor], history: Sequence[Epoch] = ()) -> None:
        super().__init__()
        self.masks = dict(masks)
        self.history = list(history)

    @property
    def dropped(self) -> int:
        """Weights set to zero."""
        return sum(int((~mask).sum()) for mask in self.masks.values())

    def names(self, model: nn.Module) -> list[str]:
        return list(self.masks)

    def edited(self, name: str, W: Tensor) -> Tensor:
        mask = self.masks[name]
        if mask.shape != W.shape:
            raise ModelMismatch(f"the mask of {name} is {tuple(mask.shape)}, the model's weight {tuple(W.shape)}")
        return W.masked_fill(~mask.to(W.device), 0)


def balanced_subnet(
    model: nn.Module,
    memorized: Any,
    clean: Any,
    drop_ratio: float = 0.01,
    epochs: int = 5,
    lr: float = 0.1,
    *,
    layers: Layers,
    batch_size: int = 32,
    variant: str = "mean",
    random_state: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> MaskEdit:
    """Learn which weights to drop: the loss of memorised datapoints is to rise, that of clean ones to fall.

    Each batch holds both sets in the proportion of their sizes. SGD with momentum 0.9 and weight decay 5e-4 on the scores; the
    gradient passes the choice of the largest scores as if it were the identity. The model is not changed: apply what is
    returned.

    Parameters
    ----------
    model : torch.nn.Module
    memorized, clean : Tensor int64 (n, T), dict of tensors, or (x, y) tensors
        Token ids; dicts with ``input_ids`` and perhaps ``attention_mask`` and ``labels``; or classification data.
    drop_ratio : float
        k: share of each weight's entries that is dropped, in (0, 1).
    epochs : int
    lr : float
    layers : str, sequence of str, or callable (name) -> bool
        As of `KFAC`.
    batch_size : int
    variant : {"mean", "published"}
        The published trainer multiplies the loss by the batch size, so that its learning rate means another step for each.
    random_state : int
        Of the first scores and the batches.
    progress : callable (done, total), optional
        Batches.

    Raises
    ------
    DatumwiseError
        A number is out of range.
    EmptyData
        A set is empty, or has no target.
    SchemaMismatch
        The sets are of different kinds.
    NotFinite
        A loss is NaN or infinite.

    Examples
    --------
    >>> x = torch.cat([torch.eye(2), torch.eye(2)], 1)  # both halves say the same
    >>> model = nn.Linear(4, 2, bias=False)
    >>> _ = nn.init.constant_(model.weight, 0).data[:, :2].copy_(torch.eye(2) * 4)
    >>> edit = balanced_subnet(model, (x[:1], torch.tensor([0])), (x[1:], torch.tensor([1])), 0.125, 40, 0.01, layers="")
    >>> edit.masks[""].int()
    tensor([[0, 1, 1, 1],
            [1, 1, 1, 1]], dtype=torch.int32)
    """
    if not 0 < drop_ratio < 1:
        raise DatumwiseError(f"drop_ratio is {drop_ratio}", remedy="choose a share above 0, below 1")
    if epochs < 1 or batch_size < 2 or not lr > 0:
        raise DatumwiseError(f"epochs={epochs}, batch_size={batch_size}, lr={lr}", remedy="choose 1, 2 and above 0 at least")
    if variant not in VARIANTS:
        raise UnknownName(f"there is no variant {variant!r}", remedy=f"choose {' or '.join(VARIANTS)}")
    sets = [_whole(memorized, "memorized"), _whole(clean, "clean")]
    if type(sets[0]) is not type(sets[1]):
        raise SchemaMismatch("memorized and clean are of different kinds", remedy="give both as tensors, dicts or (x, y)")
    inner = unwrapped(model)
    names = matching_layers(inner, layers)
    scores = {name: _first_scores(weight_matrix(inner, name), random_state, name) for name in names}
    optimiser = torch.optim.SGD(list(scores.values()), lr=lr, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    rng = np.random.default_rng(random_state)
    sizes = [size_of(part) for part in sets]
    n_batches = -(-sum(sizes) // batch_size)
    history: list[Epoch] = []
    done = 0
    with frozen(inner), torch.enable_grad():
        for _ in range(epochs):
            orders = [np.array_split(rng.permutation(n), n_batches) for n in sizes]
            losses: list[list[Tensor]] = [[], []]
            for rows in zip(*orders, strict=True):
                found = _losses(inner, sets, rows, scores, drop_ratio)
                signed = torch.cat([-found[0], found[1]])
                loss = signed.sum() if variant == "published" else signed.mean()
                if not bool(torch.isfinite(loss)):
                    raise NotFinite(f"the loss is not finite in epoch {len(history) + 1}", remedy="take a smaller lr")
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                for kept, part in zip(losses, found, strict=True):
                    kept.append(part.detach())
                done += 1
                if progress is not None:
                    progress(done, epochs * n_batches)
            history.append(Epoch(*(float(torch.cat(kept).mean()) for kept in losses)))
    masks = {name: _largest(score.detach().abs(), drop_ratio) for name, score in scores.items()}
    return MaskEdit(masks, history)


class _Choose(torch.autograd.Function):
    """1 for the largest scores, 0 for the dropped ones; the gradient goes through as it is."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, drop_ratio: float) -> Tensor:
        return _largest(scores, drop_ratio).to(scores.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0], None


def _largest(scores: Tensor, drop_ratio: float) -> Tensor:
    """bool (o, i): all but the ``round(drop_ratio o i)`` smallest scores, at least one of them dropped."""
    n = scores.numel()
    dropped = min(n - 1, max(1, round(drop_ratio * n)))
    mask = torch.ones(n, dtype=torch.bool, device=scores.device)
    mask[scores.flatten().argsort(stable=True)[:dropped]] = False
    return mask.view_as(scores)


def _first_scores(W: Tensor, random_state: int, name: str) -> Tensor:
    """Uniform scores as of torch's kaiming_uniform_ with a = sqrt 5: within 1 / sqrt(i)."""
    generator = torch.Generator().manual_seed(random_state * 1_000_003 + crc32(name.encode()))
    bound = 1 / math.sqrt(W.shape[1])
    scores = (2 * torch.rand(W.shape, generator=generator) - 1) * bound
    return scores.to(W.device).requires_grad_(True)


def _losses(
    model: nn.Module, sets: list[Any], rows: tuple[np.ndarray, ...], scores: Mapping[str, Tensor], drop_ratio: float
) -> list[Tensor]:
    """Mean loss a target of the chosen datapoints of each set, differentiable in the scores."""
    places = []
    for name, score in scores.items():
        module, _ = check_weight(model, name)
        masked = weight_matrix(model, name) * _Choose.apply(score.abs(), drop_ratio).to(weight_matrix(model, name).dtype)
        places.append((module, "weight", as_parameter(module, masked)))
    device = next(model.parameters()).device
    found = []
    with swapped(places):
        for part, at in zip(sets, rows, strict=True):
            if not len(at):
                found.append(torch.zeros(0, device=device))
                continue
            forward = forward_of(model, moved(_rows(part, at), device), at.tolist(), None)
            counts = (forward.targets_at != IGNORED).sum(1) if forward.tokens else torch.ones(forward.n, device=device)
            if not bool((counts > 0).all()):
                raise EmptyData("a datapoint has no target", remedy="leave it out")
            found.append(forward.gathered(forward.targets) / counts)
    return found


def _whole(data: Any, name: str) -> Any:
    """A data set as a tuple or a dict of tensors."""
    if isinstance(data, Tensor):
        data = {"input_ids": data}
    if isinstance(data, Mapping):
        data = {key: torch.as_tensor(value) for key, value in data.items()}
    elif isinstance(data, tuple) and len(data) == 2:
        data = tuple(torch.as_tensor(value) for value in data)
    else:
        raise SchemaMismatch(f"{name} is a {type(data).__name__}", remedy="give token ids, a dict of tensors or (x, y)")
    if not size_of(data):
        raise EmptyData(f"{name} has no datapoint")
    return data


def _rows(data: Any, at: np.ndarray) -> Any:
    index = torch.from_numpy(at)
    return {key: value[index] for key, value in data.items()} if isinstance(data, dict) else tuple(v[index] for v in data)
