"""Output layer of a deep kernel machine for classes: q over whitened inducing outputs, softmax by draws or quadrature.

Yang et al., 2023 (arXiv 2108.13097), section on classification; whitening as in Matthews et al., 2015, *On sparse variational
methods and the Kullback-Leibler divergence between stochastic processes*.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from scipy.stats import norm, qmc
from torch import Tensor, nn

from datumwise.learn.deep_kernel.cholesky import lower_factor

__all__ = ["ClassOutput", "normal_draws"]

QUADRATURE = 32  # Gauss-Hermite nodes for two classes


class ClassOutput(nn.Module):
    """Latent outputs f_c = A^T v_c with q(v_c) = N(m_c, R R^T), R shared by the classes.

    Parameters
    ----------
    P, C : int
        Inducing points, classes (at least 2).

    Examples
    --------
    Before training q is the prior, and every class is as likely:

    >>> output = ClassOutput(P=3, C=2)
    >>> mean, variance = output(torch.eye(3), torch.ones(3))
    >>> output.probabilities(mean, variance, torch.zeros(1, 2))[0].tolist(), output.kl().item()
    ([0.5, 0.5], 0.0)
    """

    def __init__(self, P: int, C: int, *, dtype: torch.dtype | None = None, device: Any = None) -> None:
        super().__init__()
        self.m = nn.Parameter(torch.zeros(P, C, dtype=dtype, device=device))
        self.raw = nn.Parameter(torch.zeros(P, P, dtype=dtype, device=device))  # of R

    def forward(self, A: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """A (P, T), k (T,) -> latent mean (T, C) and variance (T,), the same for all classes."""
        spread = (lower_factor(self.raw).T @ A).square().sum(0)
        return A.T @ self.m, (k - A.square().sum(0)).clamp_min(0) + spread

    def kl(self) -> Tensor:
        """Sum over the classes of KL(q(v_c) || N(0, I)), ()."""
        P, C = self.m.shape
        R = lower_factor(self.raw)
        return C * (0.5 * (R.square().sum() - P) - R.diagonal().log().sum()) + 0.5 * self.m.square().sum()

    def log_likelihood(self, A: Tensor, k: Tensor, codes: Tensor, draws: Tensor) -> Tensor:
        """Expected log-likelihood of each datapoint's class code, (T,)."""
        mean, variance = self(A, k)
        own = codes[:, None]
        if mean.shape[1] == 2:
            margin, weights = _margins(mean, variance)
            sign = 2.0 * own - 1.0  # the second class has the positive margin
            return nn.functional.logsigmoid(sign * margin) @ weights
        logits = mean + variance.sqrt()[:, None] * draws[:, None, :]
        return logits.log_softmax(-1).gather(-1, own.expand(len(draws), -1, 1)).mean(0)[:, 0]

    def probabilities(self, mean: Tensor, variance: Tensor, draws: Tensor) -> Tensor:
        """Mean softmax over the latent distribution, (T, C); rows sum to 1."""
        if mean.shape[1] == 2:
            margin, weights = _margins(mean, variance)
            second = torch.sigmoid(margin) @ weights
            return torch.stack([1 - second, second], dim=1)
        return (mean + variance.sqrt()[:, None] * draws[:, None, :]).softmax(-1).mean(0)


def _margins(mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """f_1 - f_0 at Gauss-Hermite nodes (T, nodes), and the nodes' weights: two classes need one dimension, no draws."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE)
    x, w = (torch.as_tensor(v, dtype=mean.dtype, device=mean.device) for v in (nodes, weights / math.sqrt(2 * math.pi)))
    return (mean[:, 1] - mean[:, 0])[:, None] + (2 * variance).sqrt()[:, None] * x, w


def normal_draws(n: int, C: int, seed: int, *, dtype: torch.dtype | None = None, device: Any = None) -> Tensor:
    """Quasi-random standard normal draws in antithetic pairs, (2 ceil(n / 2), C).

    Parameters
    ----------
    n, C : int
        Draws, dimensions (a Sobol sequence; at most 21,201).
    seed : int
        Scrambles the sequence.

    Returns
    -------
    Tensor (2 ceil(n / 2), C)

    Examples
    --------
    >>> draws = normal_draws(64, 3, seed=0)
    >>> draws.shape, bool(draws.mean(0).abs().max() < 1e-6), round(draws.square().mean().item(), 1)
    (torch.Size([64, 3]), True, 1.0)
    """
    half = math.ceil(n / 2)
    size = 1 << max(0, math.ceil(math.log2(half)))  # a Sobol sequence is balanced at powers of two
    uniform = qmc.Sobol(C, rng=np.random.default_rng(seed)).random(size)[:half]
    draws = norm.ppf(np.clip(uniform, 1e-9, 1 - 1e-9))
    return torch.as_tensor(np.concatenate([draws, -draws]), dtype=dtype, device=device)
