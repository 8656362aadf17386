"""Priors that are not Gaussian mixtures, by their parameters: a network that turns a Gamma, Beta or the like into K Gaussians.

Source: Whittle et al., Distribution Transformers, 2025, arXiv 2502.02463 (prior embedding, trained by the prior loss).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datumwise.errors import DatumwiseError, SchemaMismatch, name_some
from datumwise.learn.gaussian_mixture import GaussianMixture

__all__ = ["PriorEmbedding"]

SPREAD_LIMIT = 8.0  # |log scale| of a component beside the family's


class PriorEmbedding(nn.Module):
    """Positive parameters of a prior -> mixture over the unconstrained state, in the units of the family.

    Logarithms of the parameters go through a small network beside a linear map; K heads, one batched map, give the
    components. What it gives is the prior of all that follows, and it is trained to be close to the true prior.

    Parameters
    ----------
    n_parameters, n_components, state_dim, hidden : int

    Examples
    --------
    >>> embedding = PriorEmbedding(2, 3, 1, 16)
    >>> embedding(torch.tensor([[2.0, 3.0]]))
    GaussianMixture(B=1, K=3, d=1, float32)
    """

    state_shift: Tensor
    state_scale: Tensor
    shift: Tensor
    scale: Tensor

    def __init__(self, n_parameters: int, n_components: int, state_dim: int, hidden: int) -> None:
        super().__init__()
        self.n_parameters, self.n_components, self.state_dim = n_parameters, n_components, state_dim
        n_out = n_components * (1 + state_dim + state_dim * (state_dim + 1) // 2)
        self.up, self.middle = nn.Linear(n_parameters, hidden), nn.Linear(hidden, hidden)
        self.out, self.linear = nn.Linear(hidden, n_out), nn.Linear(n_parameters, n_out)
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.bias.zero_()
            self.out.weight.mul_(0.1)
            # components start apart, or they would stay together
            start = self.linear.bias.view(n_components, -1)
            start[:, 1 : 1 + state_dim] = torch.linspace(-1.0, 1.0, n_components)[:, None] if n_components > 1 else 0.0
        self.register_buffer("state_shift", torch.zeros(state_dim))
        self.register_buffer("state_scale", torch.ones(state_dim))
        self.register_buffer("shift", torch.zeros(n_parameters))
        self.register_buffer("scale", torch.ones(n_parameters))

    def forward(self, parameters: Tensor) -> GaussianMixture:
        """Parameters (B, q), positive -> mixture of K components."""
        if parameters.dim() != 2 or parameters.shape[1] != self.n_parameters:
            raise SchemaMismatch(f"prior parameters of shape {tuple(parameters.shape)}", remedy=f"(B, {self.n_parameters})")
        if not bool(((parameters > 0) & parameters.isfinite()).all()):
            rows = (~((parameters > 0) & parameters.isfinite())).any(1).nonzero().flatten().tolist()
            raise DatumwiseError(f"prior parameters are not positive in row {name_some(rows)}")
        z = (parameters.log() - self.shift) / self.scale
        d = self.state_dim
        hidden = F.gelu(self.middle(F.gelu(self.up(z))))
        out = (self.out(hidden) + self.linear(z)).view(len(z), self.n_components, -1)
        diagonal = out[..., 1 + d : 1 + 2 * d].clamp(-SPREAD_LIMIT, SPREAD_LIMIT).exp()
        factor = torch.diag_embed(diagonal) if d > 1 else diagonal[..., None]
        if d > 1:
            row, column = torch.tril_indices(d, d, offset=-1, device=out.device)
            factor[..., row, column] = out[..., 1 + 2 * d :]
        return GaussianMixture(
            None,
            self.state_shift + self.state_scale * out[..., 1 : 1 + d],
            factor * self.state_scale[:, None],
            log_weights=torch.log_softmax(out[..., 0], -1),
            validate_args=False,
        )
