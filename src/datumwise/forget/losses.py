"""Losses that make a language model forget a sequence, from its logits or its likelihoods alone; for users' own loops too.

Conventions of every function of this file: ``logits`` float (B, T, V) as a causal model gives them; ``labels`` int64 (B, T)
with -100 where a token does not count (padding, prompts); the shift is inside: position t predicts label t + 1. Logits that
predict no label never matter. All is computed in float32 at least. What is returned is to be minimised. ``nll`` is minus the
sum of log-probabilities of a sequence's labels in nats, (B,); a "token mean" is over all labels of the batch.
"""

from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy, logsigmoid, softplus

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch

__all__ = [
    "ceu_loss",
    "dpo_loss",
    "ga_loss",
    "npo_batch_loss",
    "npo_loss",
    "npo_token_loss",
    "predicted",
    "satimp_loss",
    "sequence_nll",
    "simnpo_loss",
    "token_nll",
    "wga_loss",
]

IGNORED = -100


def predicted(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits that predict a label, those labels, and their sequences: float (M, V), int64 (M,), int64 (M,).

    Raises
    ------
    SchemaMismatch
        Logits and labels do not stand beside each other.
    EmptyData
        No label counts.
    """
    if logits.ndim != 3 or labels.shape != logits.shape[:2]:
        raise SchemaMismatch(
            f"logits are {tuple(logits.shape)} and labels {tuple(labels.shape)}; they must be (B, T, V), (B, T)"
        )
    shifted = labels[:, 1:]
    rows, places = (shifted != IGNORED).nonzero(as_tuple=True)
    if not len(rows):
        raise EmptyData("no label of the batch counts", remedy="give at least one sequence of two tokens")
    return _wide(logits[rows, places]), shifted[rows, places].to(logits.device), rows.to(logits.device)


def token_nll(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Minus the log-probability of every label in nats, and its sequence: float (M,), int64 (M,), in reading order."""
    z, y, rows = predicted(logits, labels)
    return _nll(z, y), rows


def sequence_nll(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Minus the sum of the log-probabilities of each sequence's labels, and their number: float (B,), int64 (B,).

    Examples
    --------
    >>> import math, torch
    >>> nll, n_tokens = sequence_nll(torch.zeros(1, 3, 4), torch.tensor([[2, 0, 1]]))
    >>> round(nll.item() / math.log(4), 4), n_tokens.item()
    (2.0, 2)
    """
    nll, rows = token_nll(logits, labels)
    B = len(labels)
    return nll.new_zeros(B).index_add(0, rows, nll), torch.bincount(rows, minlength=B)


def ga_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Gradient ascent: minus the mean negative log-likelihood of the tokens, not bounded below (Jang et al., 2023)."""
    return -token_nll(logits, labels)[0].mean()


def npo_loss(nll: torch.Tensor, nll_ref: torch.Tensor, beta: float = 0.1) -> torch.Tensor:
    """Negative preference optimisation: ``(2 / beta) mean softplus(beta (nll_ref - nll))`` (Zhang et al., 2024, eq. 3).

    Parameters
    ----------
    nll, nll_ref : float (B,)
        SUMS over the tokens of a sequence, of the model and of its first weights. A mean over tokens makes ``beta`` weaker by
        the length.
    beta : float, > 0
        Towards 0 it becomes gradient ascent on the sums, up to the constant ``(2 / beta) ln 2``.

    Examples
    --------
    >>> import torch
    >>> nll_ref = torch.tensor([5.0, 9.0])
    >>> nll = nll_ref.clone().requires_grad_()
    >>> loss = npo_loss(nll, nll_ref)
    >>> loss.backward()
    >>> round(loss.item(), 3), nll.grad  # (2 / 0.1) ln 2, and the gradient of gradient ascent
    (13.863, tensor([-0.5000, -0.5000]))
    """
    _positive(beta)
    return (2 / beta) * softplus(beta * (_wide(nll_ref) - _wide(nll))).mean()


def npo_token_loss(logits: torch.Tensor, logits_ref: torch.Tensor, labels: torch.Tensor, beta: float = 0.1) -> torch.Tensor:
    """NPO a token: ``(2 / beta) mean_t log(1 + (p(x_t) / p_ref(x_t))^beta)`` over the labels of the batch (RESTOR, read-me)."""
    nll, _ = token_nll(logits, labels)
    return npo_loss(nll, token_nll(logits_ref, labels)[0], beta)


def npo_batch_loss(logits: torch.Tensor, logits_ref: torch.Tensor, labels: torch.Tensor, beta: float = 0.1) -> torch.Tensor:
    """NPO on the token mean of the whole batch, as the code of RESTOR has it; at most `npo_token_loss` (Jensen)."""
    nll, _ = token_nll(logits, labels)
    return npo_loss(nll.mean()[None], token_nll(logits_ref, labels)[0].mean()[None], beta)


def simnpo_loss(nll: torch.Tensor, n_tokens: torch.Tensor, beta: float = 4.5, delta: float = 0.0) -> torch.Tensor:
    """NPO without a reference: ``-(2 / beta) mean log sigmoid(beta (nll / n_tokens - delta))`` (Fan et al., 2024, eq. 4).

    Parameters
    ----------
    nll : float (B,)
        Sum over the tokens of a sequence.
    n_tokens : int (B,)
        Labels of each.
    beta : float, > 0
    delta : float
        Nats a token that are enough.
    """
    _positive(beta)
    return -(2 / beta) * logsigmoid(beta * (_wide(nll) / n_tokens - delta)).mean()


def dpo_loss(
    nll_alt: torch.Tensor,
    nll_alt_ref: torch.Tensor,
    nll_forget: torch.Tensor,
    nll_forget_ref: torch.Tensor,
    beta: float = 0.1,
) -> torch.Tensor:
    """Preference for another response over the forgotten one (Rafailov et al., 2023; scaled as in open-unlearning).

    ``-(2 / beta) mean log sigmoid(beta [(nll_alt_ref - nll_alt) - (nll_forget_ref - nll_forget)])``, all (B,) sums over the
    tokens of the responses, without the prompts.
    """
    _positive(beta)
    gain_alt = _wide(nll_alt_ref) - _wide(nll_alt)
    gain_forget = _wide(nll_forget_ref) - _wide(nll_forget)
    return -(2 / beta) * logsigmoid(beta * (gain_alt - gain_forget)).mean()


def wga_loss(logits: torch.Tensor, labels: torch.Tensor, beta: float = 1.0) -> torch.Tensor:
    """Gradient ascent weighted by what is still known: ``-mean_t p_t^beta nll_t``, the weight detached (Wang et al., 2025)."""
    nll, _ = token_nll(logits, labels)
    return -(torch.exp(-nll.detach()) ** beta * nll).mean()


def satimp_loss(logits: torch.Tensor, labels: torch.Tensor, beta1: float = 5.0, beta2: float = 1.0) -> torch.Tensor:
    """By saturation and importance: ``-mean_t p_t^beta1 (1 - p_t)^beta2 nll_t``, detached, 0^0 = 1 (Yang et al., 2025)."""
    nll, _ = token_nll(logits, labels)
    log_p = -nll.detach()
    weight = torch.exp(log_p) ** beta1 * (-torch.expm1(log_p)) ** beta2
    return -(weight * nll).mean()


def ceu_loss(logits: torch.Tensor, labels: torch.Tensor, skip: int = 1) -> torch.Tensor:
    """Cross-entropy to the model's own distribution without the true token (CE-U: Yang, 2025).

    Parameters
    ----------
    skip : int, >= 0
        Labels at the start of each sequence that are left alone. A sequence of no more labels than these counts for nothing.

    Raises
    ------
    EmptyData
        No label is left.
    """
    z, y, rows = predicted(logits, labels)
    if skip:
        first = torch.ones_like(rows, dtype=torch.bool)
        first[1:] = rows[1:] != rows[:-1]
        starts = torch.where(first, torch.arange(len(rows), device=rows.device), 0).cummax(dim=0).values
        later = torch.arange(len(rows), device=rows.device) - starts >= skip
        z, y = z[later], y[later]
        if not len(y):
            raise EmptyData(f"no sequence has more than {skip} labels", remedy="pass a smaller skip")
    target = torch.softmax(z.detach().scatter(1, y[:, None], -torch.inf), dim=-1)
    return -(target * torch.log_softmax(z, dim=-1)).sum(dim=-1).mean()


def _nll(z: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return cross_entropy(z, y, reduction="none")  # one pass forward and one back


def _wide(x: torch.Tensor) -> torch.Tensor:
    """float32, or float64 where it is: half precision loses sums of many log-probabilities."""
    return x if x.dtype == torch.float64 else x.float()


def _positive(beta: float) -> None:
    if not beta > 0:
        raise DatumwiseError(f"beta is {beta}", remedy="it must be above 0; towards 0 the loss is gradient ascent")
