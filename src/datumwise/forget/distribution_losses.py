"""Losses that compare whole next-token distributions: with the first weights', with a softened one, with the uniform one.

Conventions as in `datumwise.forget.losses`; reference logits never carry a gradient.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import logsigmoid

from datumwise.errors import SchemaMismatch
from datumwise.forget.losses import predicted

__all__ = [
    "kl_max_loss",
    "kl_retain_loss",
    "kl_uniform_loss",
    "muse_logit_losses",
    "pdu_loss",
    "restor_kl_loss",
    "top_k_log_probs",
    "top_k_retain_loss",
    "undial_loss",
]

FLOOR = 1e-12  # of a probability, in the published code of RESTOR


def kl_retain_loss(logits: torch.Tensor, logits_ref: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean over the labels of ``KL(p_ref || p)`` in nats, >= 0: stay where the first weights were (MUSE, "KLR").

    Examples
    --------
    >>> import torch
    >>> labels = torch.tensor([[0, 1]])
    >>> ref, u = torch.tensor([[[0.0, 0.0], [9.0, 9.0]]]), torch.tensor([[[0.0, 1.0], [5.0, 1.0]]])
    >>> round(kl_retain_loss(u, ref, labels).item(), 4)  # ln(1 + e) - 1/2 - ln 2; the last position predicts nothing
    0.1201
    """
    log_p, log_ref = _both(logits, logits_ref, labels)
    return _kl(log_ref, log_p).mean()


def kl_max_loss(logits: torch.Tensor, logits_ref: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Away from the first weights: ``-mean KL(p || p_ref)``, not bounded below (RESTOR, "KL").

    At the first weights the loss and its gradient are exactly 0: alone it never starts. `unlearn` begins with a little noise
    on the weights (``options["noise"]``).
    """
    log_p, log_ref = _both(logits, logits_ref, labels)
    return -_kl(log_p, log_ref).mean()


def kl_uniform_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Towards knowing nothing: ``mean_t (ln V - H(p))``, the divergence from the uniform distribution, 0 to ln V."""
    log_p = torch.log_softmax(predicted(logits, labels)[0], dim=-1)
    return math.log(log_p.shape[1]) + (log_p.exp() * log_p).sum(dim=-1).mean()


def undial_loss(logits: torch.Tensor, logits_ref: torch.Tensor, labels: torch.Tensor, beta: float = 10.0) -> torch.Tensor:
    """Cross-entropy to ``softmax(z_ref - beta onehot(x_t))``, token mean over the labels (UNDIAL: Dong et al., 2024, eq. 4).

    Bounded below, so it converges: nothing is pushed further than the softened target. The published code also averages
    over prompt and padding, whose label -100 it takes for vocabulary entry V - 100.
    """
    z, y, _ = predicted(logits, labels)
    target = predicted(logits_ref.detach(), labels)[0]
    target = target.scatter_add(1, y[:, None], torch.full_like(target[:, :1], -beta))
    return -(torch.softmax(target, dim=-1) * torch.log_softmax(z, dim=-1)).sum(dim=-1).mean()


def pdu_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Flat logits: ``mean_t (max_v z - mean_v z)^2`` (primal-dual unlearning: Entesari et al., 2025).

    At 0 all next tokens are equally likely. The published code takes the labels' mask without the shift.
    """
    z, _, _ = predicted(logits, labels)
    return (z.max(dim=-1).values - z.mean(dim=-1)).square().mean()


def restor_kl_loss(logits: torch.Tensor, logits_ref: torch.Tensor) -> torch.Tensor:
    """What RESTOR's code calls KL, times -1: the mean over all B x T positions of ``-sum_v p log(p_ref + 1e-12)``.

    A cross-entropy, to be MAXIMISED for forgetting: it lacks the entropy of a divergence, counts padding and prompts, and is
    at most 27.6 nats. For reproduction only.
    """
    p = torch.softmax(logits.float(), dim=-1)
    log_ref = torch.log(torch.softmax(logits_ref.detach().float(), dim=-1) + FLOOR)
    return -(p * log_ref).sum(dim=-1).mean()


def muse_logit_losses(logits: torch.Tensor, logits_ref: torch.Tensor, beta: float = 0.1) -> tuple[torch.Tensor, torch.Tensor]:
    """What MUSE's code calls NPO and KLR, on raw logits of all positions: (), (). For reproduction only.

    NPO: ``-(2 / beta) mean log sigmoid(beta (z_ref - z))`` over positions and vocabulary. KLR: ``kl_div(z, z_ref)`` with
    "batchmean" and log targets, ``sum exp(z_ref) (z_ref - z) / B``: not normalised, unbounded, negative at times.
    """
    z, z_ref = logits.float(), logits_ref.detach().float()
    npo = -(2 / beta) * logsigmoid(beta * (z_ref - z)).mean()
    return npo, (z_ref.exp() * (z_ref - z)).sum() / len(z)


# --- a reference that is kept as its likeliest tokens -------------------------------------------------------


def top_k_log_probs(logits: torch.Tensor, labels: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-probabilities of the k likeliest tokens at each label and, last, of all the others together; and the k tokens.

    Returns
    -------
    float (M, k + 1), int64 (M, k)
        M labels in reading order; the last column is -inf where k tokens are all there are.
    """
    log_p = torch.log_softmax(predicted(logits, labels)[0], dim=-1)
    kept = log_p.topk(min(k, log_p.shape[1]), dim=-1)
    return torch.cat([kept.values, _rest(log_p, kept.indices)], dim=1), kept.indices


def top_k_retain_loss(logits: torch.Tensor, labels: torch.Tensor, log_ref: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """`kl_retain_loss` from k tokens a label and the rest as one: never above it, equal to it for k = V.

    Parameters
    ----------
    log_ref, tokens : float (M, k + 1), int64 (M, k)
        Of `top_k_log_probs`, for the labels of this batch.
    """
    log_p = torch.log_softmax(predicted(logits, labels)[0], dim=-1)
    if len(log_p) != len(log_ref):
        raise SchemaMismatch(f"the reference has {len(log_ref):,} tokens and the batch {len(log_p):,} labels")
    own = log_p.gather(1, tokens)
    if tokens.shape[1] < log_p.shape[1]:
        return _kl(log_ref, torch.cat([own, _rest(log_p, tokens)], dim=1)).mean()
    return _kl(log_ref[:, :-1], own).mean()


def _rest(log_p: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probability of all tokens but these, (M, 1)."""
    return torch.logsumexp(log_p.scatter(1, tokens, -torch.inf), dim=-1, keepdim=True)


def _both(logits: torch.Tensor, logits_ref: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    if logits.shape != logits_ref.shape:
        raise SchemaMismatch(f"logits are {tuple(logits.shape)} and the reference's {tuple(logits_ref.shape)}")
    z_ref = predicted(logits_ref.detach(), labels)[0]
    return torch.log_softmax(predicted(logits, labels)[0], dim=-1), torch.log_softmax(z_ref, dim=-1)


def _kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """``KL(p || q)`` of each row, (M,); a probability of 0 adds nothing, even where its logit is -inf."""
    never = log_p == -torch.inf
    return (log_p.exp() * (log_p.masked_fill(never, 0) - log_q.masked_fill(never, 0))).sum(dim=-1)
