"""Where does a datapoint sit before the last layer, and how hard does it push it? One forward is enough.

For a linear head with softmax cross-entropy the gradient is (p - onehot) a^T in closed form, so its norm
needs no backward: ||p - onehot|| * sqrt(||a||^2 + 1), the 1 for the bias.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datumwise.errors import ModelMismatch
from datumwise.probe.layers import reader_of
from datumwise.probe.losses import Forward
from datumwise.probe.needs import Need

__all__ = ["LastLayer", "pooled"]


class LastLayer(Need):
    """``embedding`` (n, d) float32 and ``last_grad_norm`` (n,) float64.

    The head is the linear layer whose output is the logits; it is found in the first batch. The embedding is
    its input, averaged over the unpadded positions of a sequence; of a model without a head, the mean of
    ``last_hidden_state``.

    Parameters
    ----------
    columns : collection of str
    model : Module
        Only the names and classes of its modules are read.
    """

    objective = None

    def __init__(self, columns: Collection[str], model: nn.Module) -> None:
        self.columns = set(columns)
        linear = {
            name: m.bias is not None
            for name, m in model.named_modules()
            if (reader := reader_of(m)) is not None and reader.kind == "linear"
        }
        self.activations = tuple(linear)
        self._bias = linear
        self._head: str | None = None
        self._seen: dict[str, tuple[Tensor, Tensor]] = {}
        self._found: dict[str, Any] = {}

    def activation(self, name: str, x: Any, output: Any) -> None:
        if self._head in (None, name):
            self._seen[name] = (x, output)

    def forward(self, forward: Forward) -> None:
        hidden = getattr(forward.output, "last_hidden_state", None)
        if hidden is not None and "last_grad_norm" not in self.columns:
            self._found = {"embedding": pooled(hidden, forward.unpadded).float().cpu().numpy()}
            return
        self._head = self._head or self._find(forward.logits)
        a = self._seen[self._head][0].detach()
        self._seen = {}
        self._found = {}
        if "embedding" in self.columns:
            self._found["embedding"] = pooled(a, forward.unpadded).float().cpu().numpy()
        if "last_grad_norm" in self.columns:
            self._found["last_grad_norm"] = self._norm(forward, a).double().sqrt().cpu().numpy()

    def _find(self, logits: Tensor) -> str:
        for name, (_, output) in reversed(self._seen.items()):
            if output.shape == logits.shape and torch.equal(output.float(), logits.float()):
                return name
        raise ModelMismatch(
            "no linear layer of the model returns its logits, so there is no last layer to look at",
            remedy="ask for activations with modules= instead",
        )

    def _norm(self, forward: Forward, a: Tensor) -> Tensor:
        """Squared norm of (p - onehot)(a, 1)^T summed over a datapoint's positions, (n,)."""
        error = forward.log_probs.detach().exp()
        error.scatter_add_(1, forward.targets[:, None], torch.full_like(error[:, :1], -1.0))
        bias = float(self._bias[self._head or ""])
        if not forward.tokens:
            return error.square().sum(1) * (a.reshape(forward.n, -1).to(error).square().sum(1) + bias)
        assert forward.positions is not None
        rows = a[forward.positions].to(error)
        counts = torch.bincount(forward.owners, minlength=forward.n).tolist()
        split = zip(error.split(counts), rows.split(counts), strict=True)
        return torch.stack([((e @ e.T) * (r @ r.T + bias)).sum() for e, r in split]).clamp_min(0)

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        return self._found


def pooled(x: Tensor, unpadded: Tensor | None) -> Tensor:
    """Mean over positions (n, d): over the unpadded ones of a token batch, over all spatial ones of an image.

    Parameters
    ----------
    x : Tensor (n, d), (n, T, d) or (n, d, height, width)
    unpadded : Tensor (n, T) of bool, optional
    """
    x = x.detach()
    if x.ndim == 4:
        return x.flatten(2).mean(2)
    if x.ndim == 3 and unpadded is not None and unpadded.shape == x.shape[:2]:
        weight = unpadded.to(x.dtype)[:, :, None]
        return (x * weight).sum(1) / weight.sum(1).clamp_min(1)
    return x.mean(1) if x.ndim == 3 else x.reshape(x.shape[0], -1)
