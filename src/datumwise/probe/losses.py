"""What is one datapoint's loss, and what else does the forward say?

One float32 ``log_softmax`` serves the loss, the token log-likelihoods, the entropies, the margins and the
labels sampled from the model. Only positions with a target are kept, so nothing of shape (n, T, V) is formed
twice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datumwise.errors import ModelMismatch, NotFinite, name_some
from datumwise.probe.sketch import id_keys, mixed, uniform

__all__ = ["Forward", "Losses", "call_model", "forward_of", "size_of"]

Losses = Callable[[nn.Module, Any], Tensor]
IGNORED = -100  # label of a position without a target
NO_INPUT = (
    "labels",
    "label",
    "truncated",
    "id",
    "ids",
)  # entries of a batch that the model is not called with


@dataclass
class Forward:
    """One forward of one batch.

    Attributes
    ----------
    batch : tuple or dict
    ids : sequence (n,)
    output : object
        What the model returned.
    custom : Tensor (n,) or None
        What the caller's ``losses`` returned.
    model : Module
    """

    model: nn.Module
    batch: Any
    ids: Sequence[Any]
    output: Any
    custom: Tensor | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def n(self) -> int:
        return len(self.ids)

    @cached_property
    def logits(self) -> Tensor:
        """(n, K), or (n, T, V) for a language model."""
        logits = getattr(self.output, "logits", self.output)
        if isinstance(logits, tuple | list):
            logits = logits[0]
        if not isinstance(logits, Tensor) or logits.ndim not in (2, 3) or not logits.is_floating_point():
            what = f"a tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise ModelMismatch(
                f"the model returned {what}, not logits (n, K) or (n, T, V)",
                remedy="give losses=, a function (model, batch) -> one loss for each datapoint",
            )
        return logits

    @cached_property
    def labels(self) -> Tensor | None:
        """Class codes (n,) or token labels (n, T) of the batch; None if it has none."""
        if isinstance(self.batch, Mapping):
            labels = self.batch.get("labels", self.batch.get("label"))
        else:
            labels = self.batch[1] if isinstance(self.batch, tuple | list) and len(self.batch) > 1 else None
        return labels

    @property
    def tokens(self) -> bool:
        """Whether the datapoints are sequences of tokens, each with its own target."""
        return self.logits.ndim == 3

    @cached_property
    def unpadded(self) -> Tensor | None:
        """(n, T) of bool: the positions of a token batch that are not padding; None for other batches."""
        if not isinstance(self.batch, Mapping) or "input_ids" not in self.batch:
            return None
        mask = self.batch.get("attention_mask")
        return torch.ones_like(self.batch["input_ids"], dtype=torch.bool) if mask is None else mask.bool()

    @cached_property
    def targets_at(self) -> Tensor:
        """(n, T) token targets by position, ``IGNORED`` where there is none.

        A causal model's position t has the label of t + 1; t and t + 1 must both be unpadded.
        """
        labels = self.labels
        if labels is None:
            if not isinstance(self.batch, Mapping) or "input_ids" not in self.batch:
                raise ModelMismatch("the batch has neither labels nor input_ids", remedy="give losses=")
            labels = self.batch["input_ids"]
        if not _shifted(self.model):
            return labels
        seen = self.unpadded if self.unpadded is not None else torch.ones_like(labels, dtype=torch.bool)
        targets = torch.full_like(labels, IGNORED)
        targets[:, :-1] = torch.where(seen[:, :-1] & seen[:, 1:], labels[:, 1:], IGNORED)
        return targets

    @cached_property
    def positions(self) -> Tensor | None:
        """(n, T) of bool: the positions with a target; None for one label a datapoint."""
        return self.targets_at != IGNORED if self.custom is None and self.tokens else None

    @cached_property
    def owners(self) -> Tensor:
        """Datapoint (0..n-1) of each row of :attr:`log_probs`."""
        if not self.tokens:
            return torch.arange(self.n, device=self.logits.device)
        return (self.targets_at != IGNORED).nonzero()[:, 0]

    @cached_property
    def targets(self) -> Tensor:
        """Target of each row of :attr:`log_probs`: classes (n,), or the tokens of supervised positions."""
        if self.tokens:
            at = self.targets_at
            return at[at != IGNORED]
        labels = self.labels
        if labels is None:
            raise ModelMismatch(
                "the batch has no labels",
                remedy="give batches (x, y) or dictionaries with `labels`, or losses=",
            )
        if labels.ndim != 1 or labels.is_floating_point() or len(labels) != self.n:
            raise ModelMismatch(
                f"labels of shape {tuple(labels.shape)} and type {labels.dtype} are not one class each",
                remedy="give losses=",
            )
        k = self.logits.shape[1]
        bad = ((labels < 0) | (labels >= k)).nonzero()[:, 0].tolist()
        if bad:
            ids = [self.ids[i] for i in bad]
            raise ModelMismatch(f"labels of {name_some(ids)} are outside the model's {k} classes", ids=ids)
        return labels.long()

    @cached_property
    def log_probs(self) -> Tensor:
        """float32 (or float64) log-probabilities, differentiable: (n, K), or (supervised positions, V)."""
        logits = self.logits
        if self.tokens:
            logits = logits[self.targets_at != IGNORED]
        return F.log_softmax(logits if logits.dtype == torch.float64 else logits.float(), dim=-1)

    def gathered(self, targets: Tensor) -> Tensor:
        """Sum over a datapoint's rows of -log p(target), (n,), differentiable."""
        nll = F.nll_loss(self.log_probs, targets, reduction="none")
        return nll if not self.tokens else nll.new_zeros(self.n).index_add(0, self.owners, nll)

    @cached_property
    def losses(self) -> Tensor:
        """One loss for each datapoint, (n,), differentiable; a SUM over the tokens of a sequence.

        Raises
        ------
        ModelMismatch
            The caller's function returned a scalar, another length, or something without a gradient.
        NotFinite
            A loss is NaN or infinite; the ids are named.
        """
        losses = self.gathered(self.targets) if self.custom is None else self.custom
        return checked(losses, self.ids)

    def sampled(self, seed: int) -> Tensor:
        """The loss (n,) of labels drawn from the model itself, one a position, whatever the batch.

        The draw of a datapoint's j-th supervised position depends on ``seed``, its id and j only.
        """
        if self.custom is not None:
            raise ModelMismatch("labels cannot be sampled from a custom `losses`", remedy='use fisher_labels="gold"')
        log_probs = self.log_probs  # made here, outside of no_grad: the backward of `gathered` needs its graph
        with torch.no_grad():
            owner = self.owners
            starts = torch.searchsorted(owner, torch.arange(self.n, device=owner.device))
            j = torch.arange(len(owner), device=owner.device) - starts[owner]
            keys = torch.from_numpy(id_keys(self.ids)).to(owner.device)
            u = uniform(mixed(keys[owner] ^ mixed(j + 1, seed), seed))
            cumulative = log_probs.exp().cumsum(-1)
            u = u.to(cumulative.dtype)[:, None] * cumulative[:, -1:]
            drawn = torch.searchsorted(cumulative, u, right=True)[:, 0].clamp_max(cumulative.shape[1] - 1)
        return self.gathered(drawn)

    @cached_property
    def others(self) -> Tensor:
        """log-probability of the best class but the target, for each row, no gradient."""
        with torch.no_grad():
            rest = self.log_probs.detach().scatter(1, self.targets[:, None], -torch.inf)
            return rest.amax(1)

    def log_odds(self) -> Tensor:
        """f = log(p / (1 - p)) of the label (n,), differentiable; one label a datapoint only."""
        if self.custom is not None or self.tokens:
            raise ModelMismatch('measure="log_odds" needs one label for each datapoint', remedy="give measure=")
        log_p = self.log_probs.gather(1, self.targets[:, None])
        rest = self.log_probs.scatter(1, self.targets[:, None], -torch.inf)
        return (log_p - rest.logsumexp(1, keepdim=True))[:, 0]


def checked(losses: Tensor, ids: Sequence[Any], what: str = "losses") -> Tensor:
    """``losses`` if it is one finite, differentiable number for each datapoint.

    Raises
    ------
    ModelMismatch, NotFinite
    """
    if not isinstance(losses, Tensor) or losses.shape != (len(ids),):
        shape = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        drop = "drop the mean" if shape == () else f"return {len(ids)} numbers for this batch"
        raise ModelMismatch(f"{what} must return one number per datapoint; got shape {shape}", remedy=drop)
    if torch.is_grad_enabled() and not losses.requires_grad:
        raise ModelMismatch(
            f"{what} has no gradient with respect to any captured layer",
            remedy="return a differentiable tensor of captured layers",
        )
    check_finite(losses.detach(), ids, "loss")
    return losses


def check_finite(values: Tensor, ids: Sequence[Any], what: str) -> None:
    """Refuse NaN and infinity in ``values`` (n,) or (n, d), naming the datapoints.

    Raises
    ------
    NotFinite
    """
    fine = torch.isfinite(values)
    if bool(fine.all()):
        return
    names = [ids[i] for i in (~fine.reshape(len(ids), -1).all(1)).nonzero()[:, 0].tolist()]
    raise NotFinite(f"the {what} of {name_some(names)} is not finite", ids=names)


def forward_of(model: nn.Module, batch: Any, ids: Sequence[Any], losses: Losses | None) -> Forward:
    """Run the model once on a batch; with the caller's ``losses`` its last output is kept too."""
    if losses is None:
        return Forward(model, batch, ids, call_model(model, batch))
    kept: list[Any] = []
    handle = model.register_forward_hook(lambda module, args, output: kept.append(output))
    try:
        custom = losses(model, batch)
    finally:
        handle.remove()
    return Forward(model, batch, ids, kept[-1] if kept else None, custom)


def call_model(model: nn.Module, batch: Any) -> Any:
    """The model's output on (x, y), or on a dictionary without its labels; no cache, no loss of its own."""
    if not isinstance(batch, Mapping):
        return model(batch[0] if isinstance(batch, tuple | list) else batch)
    inputs = {k: v for k, v in batch.items() if k not in NO_INPUT}
    if _encoder_decoder(model) and "labels" in batch:
        inputs["labels"] = batch["labels"]
    if _language_model(model):
        inputs.setdefault("use_cache", False)
        mask = inputs.get("attention_mask")
        if mask is not None and "position_ids" not in inputs and not bool(mask[:, 0].all()):
            inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp_min(0)  # padded on the left
    return model(**inputs)


def _encoder_decoder(model: nn.Module) -> bool:
    return bool(getattr(getattr(model, "config", None), "is_encoder_decoder", False))


def _language_model(model: nn.Module) -> bool:
    name = type(model).__name__
    return ("CausalLM" in name or "LMHead" in name) and not _encoder_decoder(model)


def _shifted(model: nn.Module) -> bool:
    """Whether position t predicts token t + 1: all but encoder-decoders, masked models and taggers."""
    name = type(model).__name__
    return not (_encoder_decoder(model) or "MaskedLM" in name or "TokenClassification" in name)


def size_of(batch: Any) -> int:
    """Number of datapoints of a batch: the leading dimension of its first tensor.

    Raises
    ------
    ModelMismatch
        No tensor in it.
    """
    values = batch.values() if isinstance(batch, Mapping) else batch if isinstance(batch, tuple | list) else [batch]
    for value in values:
        if isinstance(value, Tensor | np.ndarray) and value.ndim:
            return len(value)
    raise ModelMismatch(f"a batch of type {type(batch).__name__} holds no tensor with a leading dimension")
