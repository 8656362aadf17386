"""How the components of a prior look at the datapoints: tokens and attention.

Source: Whittle et al., Distribution Transformers, 2025, arXiv 2502.02463 (components as targets, data as memory). Ours:
pre-norm, a learned null token, log N on every datum token, any number of data and sensors under a mask, children.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["AttentionBlock", "ComponentNetwork", "log_count"]


def log_count(seen: Tensor) -> Tensor:
    """log max(N, 1) of every problem: softmax attention averages, so the tokens must carry the number of data.

    Parameters
    ----------
    seen : Tensor of bool (B, N)

    Returns
    -------
    Tensor (B,), float32

    Examples
    --------
    >>> log_count(torch.tensor([[True, True, False], [False, False, False]])).tolist()
    [0.6931471824645996, 0.0]
    """
    return seen.sum(dim=1).clamp_min(1).log()


class Attention(nn.Module):
    """Multi-head attention with one projection for keys and values; the mask is True where a token may be seen."""

    def __init__(self, d_model: int, nhead: int) -> None:
        super().__init__()
        self.nhead = nhead
        self.query = nn.Linear(d_model, d_model)
        self.memory = nn.Linear(d_model, 2 * d_model)
        self.out = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None = None) -> Tensor:
        B, K, D = x.shape
        query = self.query(x).view(B, K, self.nhead, -1).transpose(1, 2)
        key, value = self.memory(memory).view(B, memory.shape[1], 2, self.nhead, -1).permute(2, 0, 3, 1, 4)
        heads = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return self.out(heads.transpose(1, 2).reshape(B, K, D))


class AttentionBlock(nn.Module):
    """One pre-norm layer: components attend to each other, then to the data, then a feed-forward map.

    The self-attention's and the feed-forward's last maps start at zero (as published), so that a fresh block only
    reads the data.

    Examples
    --------
    >>> block = AttentionBlock(8, 2, 16)
    >>> block(torch.zeros(2, 3, 8), torch.zeros(2, 5, 8), None).shape
    torch.Size([2, 3, 8])
    """

    def __init__(self, d_model: int, nhead: int, feedforward: int) -> None:
        super().__init__()
        self.norm_self, self.norm_cross, self.norm_forward = (nn.LayerNorm(d_model) for _ in range(3))
        self.self_attention = Attention(d_model, nhead)
        self.cross_attention = Attention(d_model, nhead)
        self.up, self.down = nn.Linear(d_model, feedforward), nn.Linear(feedforward, d_model)
        for layer in (self.self_attention.out, self.down):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """Components (B, K, D), data tokens (B, N, D), mask (B, 1, 1, N) or None -> (B, K, D)."""
        own = self.norm_self(x)
        x = x + self.self_attention(own, own)
        x = x + self.cross_attention(self.norm_cross(x), memory, mask)
        return x + self.down(F.gelu(self.up(self.norm_forward(x))))


class ComponentNetwork(nn.Module):
    """Tokens of the components, after they have seen the data.

    Permuting components permutes the tokens; permuting data, or adding data that the mask hides, changes nothing.

    Parameters
    ----------
    n_prior, n_datum : int
        Features of a component and of a datum.
    d_model, nhead, num_layers, feedforward : int
    children : int
        Tokens a component; told apart by a learned embedding.

    Examples
    --------
    >>> network = ComponentNetwork(3, 1, d_model=8, nhead=2, num_layers=1, feedforward=16)
    >>> tokens, data = network(torch.zeros(2, 4, 3), torch.zeros(2, 5, 1), torch.ones(2, 5, dtype=torch.bool))
    >>> tokens.shape, data.shape
    (torch.Size([2, 4, 8]), torch.Size([2, 5, 8]))
    """

    def __init__(
        self, n_prior: int, n_datum: int, *, d_model: int, nhead: int, num_layers: int, feedforward: int, children: int = 1
    ) -> None:
        super().__init__()
        self.component = nn.Sequential(nn.Linear(n_prior, d_model), nn.GELU(), nn.Linear(d_model, d_model))
        self.datum = nn.Sequential(nn.Linear(n_datum + 1, d_model), nn.GELU(), nn.Linear(d_model, d_model))
        self.null = nn.Parameter(0.02 * torch.randn(d_model))  # attention is defined without data
        self.child = nn.Parameter(torch.randn(children, d_model) if children > 1 else torch.zeros(1, d_model))
        self.child.requires_grad_(children > 1)
        self.blocks = nn.ModuleList(AttentionBlock(d_model, nhead, feedforward) for _ in range(num_layers))
        self.norm = nn.LayerNorm(d_model)
        self.norm_data = nn.LayerNorm(d_model)

    def forward(self, prior: Tensor, data: Tensor, seen: Tensor) -> tuple[Tensor, Tensor]:
        """Components (B, K, n_prior) and data (B, N, n_datum), seen (B, N) -> (B, K children, D) and (B, N, D)."""
        count = log_count(seen).to(data.dtype)[:, None, None].expand(-1, data.shape[1], 1)
        tokens = self.datum(torch.cat([data, count], dim=-1))
        null = self.null.expand(len(data), 1, -1)
        memory = self.norm_data(torch.cat([null, tokens], dim=1))
        mask = None
        if not bool(seen.all()):
            mask = F.pad(seen, (1, 0), value=True)[:, None, None, :]
        x = (self.component(prior)[:, :, None, :] + self.child).flatten(1, 2)
        for block in self.blocks:
            x = block(x, memory, mask)
        return self.norm(x), memory[:, 1:]
