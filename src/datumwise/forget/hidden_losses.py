"""Losses on hidden states: steer them to a random direction (RMU), or hold them where they were. Li et al., 2024 (WMDP)."""

from __future__ import annotations

import torch

from datumwise.errors import EmptyData, SchemaMismatch

__all__ = ["control_vector", "embed_loss", "rmu_loss"]

IGNORED = -100


def control_vector(dim: int, *, random_state: int = 0) -> torch.Tensor:
    """A random direction: uniform [0, 1) numbers of unit length, float32 (dim,)."""
    generator = torch.Generator().manual_seed(random_state)
    u = torch.rand(dim, generator=generator)
    return u / u.norm()


def rmu_loss(hidden: torch.Tensor, labels: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """``mean (h - c v)^2`` over hidden dimensions and label tokens.

    Parameters
    ----------
    hidden : float (B, T, d)
        After the chosen layer.
    labels : int64 (B, T)
        A token whose own label is not -100 counts: a hidden state is of a token, not of a prediction, so there is no shift.
    target : float (d,)
        ``c v``: the control vector times its strength.

    Examples
    --------
    >>> import torch
    >>> v = control_vector(8)
    >>> rmu_loss((20 * v).expand(1, 3, 8), torch.tensor([[5, 2, -100]]), 20 * v).item()
    0.0
    """
    return (_counted(hidden, labels) - target.to(hidden.device)).square().mean()


def embed_loss(hidden: torch.Tensor, hidden_ref: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """``mean (h - h_ref)^2`` over hidden dimensions and label tokens; see `rmu_loss` for shapes."""
    if hidden.shape != hidden_ref.shape:
        raise SchemaMismatch(f"hidden states are {tuple(hidden.shape)} and the reference's {tuple(hidden_ref.shape)}")
    return (_counted(hidden, labels) - _counted(hidden_ref.detach(), labels)).square().mean()


def _counted(hidden: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    if hidden.ndim != 3 or labels.shape != hidden.shape[:2]:
        raise SchemaMismatch(f"hidden states are {tuple(hidden.shape)} and labels {tuple(labels.shape)}")
    counted = (labels != IGNORED).to(hidden.device)
    if not counted.any():
        raise EmptyData("no label of the batch counts", remedy="give at least one sequence of two tokens")
    return hidden[counted].float()
