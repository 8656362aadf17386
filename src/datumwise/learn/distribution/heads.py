"""How tokens become a posterior: Gaussian sites (shared, or one a component and datum), or a direct residual.

A site is a Gaussian factor exp(-w |F' x - c|^2 / 2) of the likelihood. The prior is multiplied by sites, so that without
data it comes back as it was. F and c are linear in the datum beside a small network: both a datum that is the state plus
noise and a row of a regression, h' x plus noise, are met exactly. Ours: the published network decodes a mixture from its
tokens and never looks at the prior again (Whittle et al., 2025, arXiv 2502.02463).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datumwise.learn.gaussian_mixture import GaussianMixture
from datumwise.learn.linear_gaussian import site_update

__all__ = ["HEADS", "DatumSites", "DirectHead", "Head", "SiteHead", "TokenHead"]

GATE_LIMIT = 6.0  # |log gate|, against overflow far from training
SPREAD_LIMIT = 8.0  # |change of a log scale|, likewise


class Head(nn.Module, ABC):
    """What all heads share: the units of the state, as training met it.

    Parameters
    ----------
    state_dim : int
    """

    state_shift: Tensor
    state_scale: Tensor

    def __init__(self, state_dim: int) -> None:
        super().__init__()
        self.state_dim = state_dim
        self.n_scale = state_dim * (state_dim + 1) // 2
        self.register_buffer("state_shift", torch.zeros(state_dim))
        self.register_buffer("state_scale", torch.ones(state_dim))

    @abstractmethod
    def forward(self, prior: GaussianMixture, tokens: Tensor, memory: Tensor, data: Tensor, seen: Tensor) -> GaussianMixture:
        """Prior of C components, their tokens (B, C, D), data tokens (B, N, D), data (B, N, p), seen (B, N)."""


class SiteHead(Head):
    """Shared sites, summed over the data; each component's token gates, shifts and weighs them.

    Component k is multiplied by exp(a_k - g_k sum_i w_i |F_i' (x - s_k) - c_i|^2 / 2). The corrections (gate g, shift s,
    weight a) start at 1, 0 and 0, and a carries 1 - e^-N.

    Parameters
    ----------
    n_datum, state_dim, d_model : int

    Examples
    --------
    >>> head = SiteHead(1, 1, 8)
    >>> prior = GaussianMixture(torch.ones(1, 1), torch.zeros(1, 1, 1), torch.ones(1, 1, 1, 1))
    >>> none = torch.zeros(1, 0, 8), torch.zeros(1, 0, 1), torch.zeros(1, 0, dtype=torch.bool)
    >>> head(prior, torch.randn(1, 1, 8), *none).scale_tril.item()
    1.0
    """

    def __init__(self, n_datum: int, state_dim: int, d_model: int) -> None:
        super().__init__(state_dim)
        self.sites = DatumSites(n_datum, state_dim, d_model)
        self.correct = zero_linear(d_model, state_dim + 2)

    def forward(self, prior: GaussianMixture, tokens: Tensor, memory: Tensor, data: Tensor, seen: Tensor) -> GaussianMixture:
        raw = self.sites(data)[:, None]  # (B, 1, N, d d + d + 1)
        return self._multiply(prior, tokens, raw, raw.new_zeros(()), seen)

    def _multiply(self, prior: GaussianMixture, tokens: Tensor, raw: Tensor, tilt: Tensor, seen: Tensor) -> GaussianMixture:
        """Prior times the sites ``raw`` (B, C or 1, N, d d + d + 1) after the components' corrections."""
        precision, shift, square = self._summed(raw, seen)
        correction = self.correct(tokens)
        gate = correction[..., 0].clamp(-GATE_LIMIT, GATE_LIMIT).exp()
        move = self.state_scale * correction[..., 1:-1]
        pull = (precision @ move[..., None])[..., 0]  # P s
        square = gate * (square + ((2.0 * shift + pull) * move).sum(-1))
        some = -torch.expm1(-seen.sum(dim=1, keepdim=True).to(square.dtype))
        weight = tilt + some * correction[..., -1] - 0.5 * square
        posterior, _ = site_update(
            prior, gate[..., None, None] * precision, gate[..., None] * (shift + pull), log_tilt=weight, validate_args=False
        )
        return posterior

    def _summed(self, raw: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Sums over seen data of w F F' (B, C, d, d), w F c (B, C, d) and w |c|^2 (B, C), in the units of the state."""
        d = self.state_dim
        root = (0.5 * raw[..., -1].clamp(-GATE_LIMIT, GATE_LIMIT)).exp() * seen[:, None]  # sqrt w, (B, C, N)
        if d == 1:
            factor = root * raw[..., 0] / self.state_scale
            at = root * raw[..., 1] + factor * self.state_shift
            precision = factor.square().sum(-1)[..., None, None]
            return precision, (factor * at).sum(-1, keepdim=True), at.square().sum(-1)
        factor = (root[..., None] * raw[..., : d * d]).unflatten(-1, (d, d)) / self.state_scale[:, None]
        at = root[..., None] * raw[..., d * d : -1] + (self.state_shift @ factor)
        wide, white = factor.transpose(2, 3).flatten(3), at.flatten(2)  # (B, C, d, N d) and (B, C, N d)
        return wide @ wide.mT, (wide @ white[..., None])[..., 0], white.square().sum(-1)


class TokenHead(SiteHead):
    """A site for every component and datum: the shared one, bent by a small network of both tokens.

    The network of the pair starts at zero, so that training starts from shared sites. It lets a likelihood that is not
    Gaussian be met where each component stands: an outlier is flat for one and a mode for another.

    Parameters
    ----------
    n_datum, state_dim, d_model : int

    Examples
    --------
    >>> head = TokenHead(1, 1, 8)
    >>> prior = GaussianMixture(torch.ones(1, 1), torch.zeros(1, 1, 1), torch.ones(1, 1, 1, 1))
    >>> one = torch.zeros(1, 1, 8), torch.ones(1, 1, 1), torch.ones(1, 1, dtype=torch.bool)
    >>> round(head(prior, torch.randn(1, 1, 8), *one).scale_tril.item() ** 2, 4)  # the precision of a fresh site is 1
    0.5
    """

    def __init__(self, n_datum: int, state_dim: int, d_model: int) -> None:
        super().__init__(n_datum, state_dim, d_model)
        self.pair_component = nn.Linear(d_model, d_model)
        self.pair_datum = nn.Linear(d_model, d_model, bias=False)
        self.pair = zero_linear(d_model, self.sites.n_out + 1)

    def forward(self, prior: GaussianMixture, tokens: Tensor, memory: Tensor, data: Tensor, seen: Tensor) -> GaussianMixture:
        hidden = F.gelu(self.pair_component(tokens)[:, :, None] + self.pair_datum(memory)[:, None])
        bend = self.pair(hidden)  # (B, C, N, d d + d + 2)
        tilt = (bend[..., -1] * seen[:, None]).sum(-1)
        return self._multiply(prior, tokens, self.sites(data)[:, None] + bend[..., :-1], tilt, seen)


class DirectHead(Head):
    """The prior's parameters plus a map of the tokens that starts at zero. It keeps no promise without data.

    Parameters
    ----------
    n_datum, state_dim, d_model : int

    Examples
    --------
    >>> head = DirectHead(1, 1, 8)
    >>> prior = GaussianMixture(torch.ones(1, 1), torch.zeros(1, 1, 1), torch.ones(1, 1, 1, 1))
    >>> head(prior, torch.randn(1, 1, 8), *(torch.zeros(()),) * 3).means.item()  # fresh
    0.0
    """

    def __init__(self, n_datum: int, state_dim: int, d_model: int) -> None:
        super().__init__(state_dim)
        self.out = zero_linear(d_model, 1 + state_dim + self.n_scale)

    def forward(self, prior: GaussianMixture, tokens: Tensor, memory: Tensor, data: Tensor, seen: Tensor) -> GaussianMixture:
        d = self.state_dim
        out = self.out(tokens)
        log_weights = torch.log_softmax(prior.log_weights + out[..., 0], dim=-1)
        means = prior.means + self.state_scale * out[..., 1 : 1 + d]
        grown = out[..., 1 + d : 1 + 2 * d].clamp(-SPREAD_LIMIT, SPREAD_LIMIT).exp()
        scale_tril = prior.scale_tril * grown[..., None]
        if d > 1:
            row, column = torch.tril_indices(d, d, offset=-1, device=out.device)
            lower = torch.zeros_like(scale_tril)
            lower[..., row, column] = self.state_scale[row] * out[..., 1 + 2 * d :]
            scale_tril = scale_tril + lower
        return GaussianMixture(None, means, scale_tril, log_weights=log_weights, validate_args=False)


HEADS: dict[str, type[SiteHead] | type[DirectHead]] = {"site": SiteHead, "token": TokenHead, "direct": DirectHead}


class DatumSites(nn.Module):
    """A site of every datum: F (d, d), c (d,) and log w, linear in the datum plus a small network that starts at zero.

    A fresh one has F = I, so that the first d numbers of a datum are taken for the state with noise of variance 1.

    Parameters
    ----------
    n_datum, state_dim, hidden : int
    """

    def __init__(self, n_datum: int, state_dim: int, hidden: int) -> None:
        super().__init__()
        d = self.state_dim = state_dim
        self.n_out = d * d + d + 1
        self.linear = zero_linear(n_datum, self.n_out)
        self.up, self.down = nn.Linear(n_datum, hidden), zero_linear(hidden, self.n_out)
        with torch.no_grad():
            self.linear.bias[: d * d] = torch.eye(d).flatten()
            self.linear.weight[d * d : d * d + d] = torch.eye(d, n_datum)

    def forward(self, data: Tensor) -> Tensor:
        """Data (..., n_datum) -> (..., d d + d + 1): F by rows, c, log w."""
        return self.linear(data) + self.down(F.gelu(self.up(data)))


def zero_linear(n_in: int, n_out: int) -> nn.Linear:
    """A linear map that starts at zero."""
    layer = nn.Linear(n_in, n_out)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
