"""What is differentiated: the loss by name, its outputs, and the log-odds of a datapoint's own label.

>>> LOSSES
('cross_entropy', 'squared_error', 'binary_cross_entropy')
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datumwise.errors import ModelMismatch, UnknownName
from datumwise.probe.losses import Forward, Losses, forward_of, size_of

__all__ = ["LOSSES", "ClassLoss", "LogOdds", "Outputs", "loss_by_name", "outputs_of"]

LOSSES = ("cross_entropy", "squared_error", "binary_cross_entropy")


def loss_by_name(loss: str | Losses | None) -> Losses | None:
    """The function (model, batch) -> Tensor (n,) of a named loss; None for the default, cross-entropy.

    Raises
    ------
    UnknownName
    """
    if loss is None or loss == "cross_entropy":
        return None
    if callable(loss):
        return loss
    if loss == "squared_error":
        return squared_error
    if loss == "binary_cross_entropy":
        return binary_cross_entropy
    raise UnknownName(f"there is no loss {loss!r}", remedy=f"choose {', '.join(LOSSES)}, or give a function (model, batch)")


def squared_error(model: nn.Module, batch: Any) -> Tensor:
    """Half the squared distance of output and target, summed over outputs, (n,)."""
    output, target = _output_and_target(model, batch)
    return (output - target.reshape(output.shape).to(output.dtype)).square().flatten(1).sum(1) / 2


def binary_cross_entropy(model: nn.Module, batch: Any) -> Tensor:
    """-log sigmoid((2 y - 1) z) of one logit z and a label y of 0 or 1, (n,)."""
    return F.softplus(-_signed_logit(model, batch))


def _signed_logit(model: nn.Module, batch: Any) -> Tensor:
    logit, label = _output_and_target(model, batch)
    if logit.shape[1] != 1 or bool(((label != 0) & (label != 1)).any()):
        raise ModelMismatch(
            f"binary_cross_entropy needs one logit a datapoint and labels 0 and 1; the model returned {logit.shape[1]}",
            remedy='use loss="cross_entropy" for several classes',
        )
    return logit[:, 0] * (2 * label.reshape(-1).to(logit.dtype) - 1)


def _output_and_target(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
    forward = forward_of(model, batch, range(size_of(batch)), None)
    output = getattr(forward.output, "logits", forward.output)
    if forward.labels is None:
        raise ModelMismatch("the batch has no targets", remedy="give batches (x, y)")
    return output.reshape(forward.n, -1), forward.labels


class LogOdds:
    """f = log(p / (1 - p)) of a datapoint's own label, (n,): what TRAK attributes; -log p is the loss.

    One label a datapoint: the logit minus the logsumexp of the others. A sequence of tokens: p is the geometric
    mean of its supervised tokens' probabilities (as in dattri's example of TRAK for language models). A loss of
    the caller's own is taken as -log p.

    Attributes
    ----------
    ids : sequence
        Names of the batch's datapoints, for errors.
    """

    def __init__(self, loss: str | Losses | None) -> None:
        self.loss = loss
        self.ids: Sequence[Any] | None = None
        if loss == "squared_error":
            raise ModelMismatch("squared_error has no probability", remedy='use method="influence", or a loss that is -log p')

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        if self.loss == "binary_cross_entropy":
            return _signed_logit(model, batch)
        if callable(self.loss):
            return _log_odds_of_loss(self.loss(model, batch))
        n = size_of(batch)
        forward = forward_of(model, batch, self.ids if self.ids is not None and len(self.ids) == n else range(n), None)
        if not forward.tokens:
            return forward.log_odds()
        tokens = torch.bincount(forward.owners, minlength=n).clamp_min(1)
        return _log_odds_of_loss(forward.losses / tokens)


def _log_odds_of_loss(loss: Tensor) -> Tensor:
    """log p - log(1 - p) for p = exp(-loss)."""
    loss = loss.clamp_min(torch.finfo(loss.dtype).tiny)
    return -loss - torch.log(-torch.expm1(-loss))


class ClassLoss:
    """A square root of the Gauss-Newton matrix J^T H J: the outer products of its gradients, summed over c.

    For softmax sqrt(p_c) times the cross-entropy of class c, p_c held fixed, since diag(p) - p p^T is the
    covariance of onehot(c); the matrix is then the Fisher information too. For a squared error the output c.
    """

    def __init__(self, label: int, loss: str | Losses | None) -> None:
        self.label = label
        self.loss = loss

    def __call__(self, model: nn.Module, batch: Any) -> Tensor:
        z = outputs_of(model, batch, self.loss)
        if self.loss == "squared_error":
            return z[:, self.label]
        if self.loss == "binary_cross_entropy":
            p = torch.sigmoid(z[:, 0].detach())
            return z[:, 0] * (p * (1 - p)).sqrt()
        log_p = F.log_softmax(z if z.dtype == torch.float64 else z.float(), dim=1)[:, self.label]
        return -log_p * (log_p.detach() / 2).exp()


class Outputs:
    """The model's outputs z and the curvature of the loss in them, for Gauss-Newton products."""

    def __init__(self, model: nn.Module, batch: Any, loss: str | Losses | None) -> None:
        self.loss = loss
        if loss in (None, "cross_entropy"):
            forward = forward_of(model, batch, range(size_of(batch)), None)
            self.z = _supervised(forward)
        else:
            self.z = outputs_of(model, batch, loss)
        self.p = (torch.sigmoid if loss == "binary_cross_entropy" else lambda z: z.softmax(1))(self.z.detach())

    def curved(self, u: Tensor) -> Tensor:
        """H u for each row, H the Hessian of the loss in its outputs; ``u`` and the answer (..., rows, K)."""
        if self.loss == "squared_error":
            return u
        if self.loss == "binary_cross_entropy":
            return self.p * (1 - self.p) * u
        return self.p * u - self.p * (self.p * u).sum(-1, keepdim=True)


def outputs_of(model: nn.Module, batch: Any, loss: str | Losses | None) -> Tensor:
    """Outputs (n, K) of a named loss's model: one row a datapoint."""
    if callable(loss):
        raise ModelMismatch(
            "the Gauss-Newton matrix needs to know the model's outputs, and the loss is a function of your own",
            remedy='use hessian="exact" or "empirical_fisher", or a loss by name',
        )
    forward = forward_of(model, batch, range(size_of(batch)), None)
    if loss in (None, "cross_entropy"):
        if forward.tokens:
            raise ModelMismatch(
                "the explicit Gauss-Newton matrix is of one label a datapoint, not of sequences",
                remedy='use solver="cg", or hessian="empirical_fisher"',
            )
        return forward.logits
    output = getattr(forward.output, "logits", forward.output)
    return output.reshape(forward.n, -1)


def _supervised(forward: Forward) -> Tensor:
    return forward.logits[forward.targets_at != -100] if forward.tokens else forward.logits


Named = str | Callable[[nn.Module, Any], Tensor] | None
