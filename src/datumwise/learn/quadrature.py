"""Divergences and posteriors by quadrature in one and two dimensions: what a network's answer is measured against."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datumwise.errors import NotFinite, SchemaMismatch
from datumwise.learn.gaussian_mixture import GaussianMixture
from datumwise.learn.transforms import transform_of

__all__ = ["QuadraturePosterior", "kl_by_quadrature", "quadrature_posterior"]

# break points in standard deviations of every component: dense where a density bends, reaching to 1e-33 of the peak
BREAKS = (-12.0, -8.0, -6.0, -4.5, -3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.5, 6.0, 8.0, 12.0)
NODES = 12  # Gauss-Legendre nodes between two break points
STEP = 0.125  # of the plane's trapezoid rule, in standard deviations
REACH = 7.5  # radius of the plane's rule: the tail outside is 6e-13
BLOCK = 1 << 22  # densities worked on at once


def kl_by_quadrature(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    """KL(p || q) of mixtures in one or two dimensions.

    On the line: Gauss-Legendre between break points laid around every component of both, so that no scale is missed. In the
    plane: the expectation under every component of p by the trapezoid rule in its whitened coordinates.

    Parameters
    ----------
    p, q : GaussianMixture
        d <= 2; the same B, or one of them B = 1.

    Returns
    -------
    float (B,)

    Examples
    --------
    >>> p = GaussianMixture(torch.ones(1), torch.zeros(1, 2), torch.eye(2)[None])
    >>> q = GaussianMixture(torch.ones(1), torch.ones(1, 2), torch.eye(2)[None])
    >>> round(kl_by_quadrature(p, q).item(), 5)
    1.0
    """
    if p.dim != q.dim or p.dim > 2:
        raise SchemaMismatch(f"quadrature for {p!r} and {q!r}", remedy="the same d <= 2")
    dtype, B = p.dtype, max(len(p), len(q))
    p, q = (m.to(torch.float64) if len(m) == B else m[[0] * B].to(torch.float64) for m in (p, q))
    rule = _line_kl if p.dim == 1 else _plane_kl
    a_row = (p.n_components + q.n_components) * (
        len(BREAKS) * NODES * (p.n_components + q.n_components) if p.dim == 1 else 4 * p.n_components * 11_400
    )
    rows = max(1, BLOCK // a_row)
    return torch.cat([rule(p[i : i + rows], q[i : i + rows]) for i in range(0, B, rows)]).to(dtype) if B else p.mean[:, 0]


def _line_kl(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    x, log_length = line_nodes(p, q)
    log_p = p.log_prob(x.unsqueeze(-1))
    return ((log_p + log_length).exp() * (log_p - q.log_prob(x.unsqueeze(-1)))).sum(0)


def _plane_kl(p: GaussianMixture, q: GaussianMixture) -> Tensor:
    z, share = (torch.as_tensor(t, device=p.device) for t in _disc())
    total = torch.zeros(len(p), dtype=p.dtype, device=p.device)
    for k in range(p.n_components):
        x = p.means[:, k] + torch.einsum("bij,sj->sbi", p.scale_tril[:, k], z)
        total = total + p.weights[:, k] * (share.unsqueeze(-1) * (p.log_prob(x) - q.log_prob(x))).sum(0)
    return total


def line_nodes(*mixtures: GaussianMixture) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre nodes on the line that resolve every component of every mixture.

    Returns
    -------
    x : float (S, B)
    log_length : float (S, B)
        Logarithms of the quadrature weights.
    """
    reference = mixtures[0].means
    breaks = torch.tensor(BREAKS, dtype=reference.dtype, device=reference.device)
    edges = torch.cat([(m.means + m.scale_tril[..., 0] * breaks).flatten(1) for m in mixtures], 1).sort(1).values.mT
    node, weight = (
        torch.as_tensor(t, dtype=reference.dtype, device=reference.device) for t in np.polynomial.legendre.leggauss(NODES)
    )
    half = 0.5 * edges.diff(dim=0)  # (E, B)
    centre = 0.5 * (edges[1:] + edges[:-1])
    x = centre + half * node[:, None, None]
    return x.flatten(0, 1), (half * weight[:, None, None]).log().flatten(0, 1)


def _disc() -> tuple[np.ndarray, np.ndarray]:
    """Grid points of the standard normal plane within REACH, and their probabilities."""
    axis = np.arange(-REACH, REACH + STEP / 2, STEP)
    z = np.stack(np.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)
    z = z[(z**2).sum(1) <= REACH**2]
    return z, STEP**2 / (2 * math.pi) * np.exp(-0.5 * (z**2).sum(1))


@dataclass(frozen=True)
class QuadraturePosterior:
    """An exact posterior on a grid.

    Attributes
    ----------
    nodes : float (S, B, d)
        In the unconstrained space.
    log_mass : float (S, B)
        Log probability of each node.
    log_density : float (S, B)
        Log posterior density at it.
    log_evidence : float (B,)
        log p(data), up to what the log likelihood leaves out.
    """

    nodes: Tensor
    log_mass: Tensor
    log_density: Tensor
    log_evidence: Tensor

    @property
    def mean(self) -> Tensor:
        """float (B, d)"""
        return self.expectation(lambda x: x)

    @property
    def covariance(self) -> Tensor:
        """float (B, d, d)"""
        apart = self.nodes - self.mean
        return torch.einsum("sb,sbi,sbj->bij", self.log_mass.exp(), apart, apart)

    def expectation(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Of function(t) (S, B, ...) at the nodes t (S, B, d): float (B, ...)."""
        value = function(self.nodes)
        return (self.log_mass.exp().reshape(*self.log_mass.shape, *[1] * (value.dim() - 2)) * value).sum(0)

    def kl(self, mixture: GaussianMixture) -> Tensor:
        """KL(exact || mixture), float (B,)."""
        apart = self.log_density - mixture.to(self.nodes.dtype).log_prob(self.nodes)
        return torch.where(self.log_mass.isfinite(), self.log_mass.exp() * apart, 0.0).sum(0)


@torch.no_grad()
def quadrature_posterior(
    prior: GaussianMixture,
    log_likelihood: Callable[[Tensor, Any], Tensor],
    data: Any = None,
    *,
    support: Any = "real",
    also: GaussianMixture | None = None,
    steps: int = 257,
) -> QuadraturePosterior:
    """Exact posterior of a mixture prior and any likelihood, in one or two dimensions.

    Parameters
    ----------
    prior : GaussianMixture
        Over t = T(x); d <= 2.
    log_likelihood : callable
        (x (S, B, d), data) -> float (S, B).
    data : optional
        Handed to ``log_likelihood``.
    support : optional
        Of x, see `transform_of`.
    also : GaussianMixture, optional
        An approximate posterior: in one dimension nodes are laid around it as well, for likelihoods that are much
        narrower than the prior; in two the grid covers it.
    steps : int, default 257
        Grid points a side in two dimensions.

    Returns
    -------
    QuadraturePosterior
        In float64.

    Raises
    ------
    SchemaMismatch
        d > 2, or a likelihood of the wrong shape.
    NotFinite
        NaN in the likelihood.

    Examples
    --------
    >>> prior = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
    >>> exact = quadrature_posterior(prior, lambda x, y: -0.5 * (y - x[..., 0]) ** 2, 2.0)
    >>> round(exact.mean.item(), 6), round(exact.covariance.item(), 6)
    (1.0, 0.5)
    """
    prior = prior.to(torch.float64)
    others = [] if also is None else [also.to(torch.float64)]
    if prior.dim == 1:
        nodes, log_length = line_nodes(prior, *others)
        nodes = nodes.unsqueeze(-1)
    elif prior.dim == 2:
        nodes, log_length = _rectangle(steps, prior, *others)
    else:
        raise SchemaMismatch(f"quadrature for {prior!r}", remedy="d <= 2; importance sampling beyond")
    loglik = log_likelihood(transform_of(support).from_real(nodes), data)
    if loglik.shape != nodes.shape[:-1]:
        raise SchemaMismatch(f"a log likelihood of shape {tuple(loglik.shape)}", remedy=f"{tuple(nodes.shape[:-1])}")
    if bool(loglik.isnan().any()):
        raise NotFinite("the log likelihood is NaN")
    joint = prior.log_prob(nodes) + loglik
    log_mass = joint + log_length
    log_evidence = torch.logsumexp(log_mass, 0)
    return QuadraturePosterior(nodes, log_mass - log_evidence, joint - log_evidence, log_evidence)


def _rectangle(steps: int, *mixtures: GaussianMixture) -> tuple[Tensor, Tensor]:
    """Trapezoid grid over REACH standard deviations of every component: nodes (S, B, 2), log areas (S, B)."""
    sd = [m.scale_tril.square().sum(-1).sqrt() for m in mixtures]
    low = torch.cat([m.means - REACH * s for m, s in zip(mixtures, sd, strict=True)], 1).amin(1)
    high = torch.cat([m.means + REACH * s for m, s in zip(mixtures, sd, strict=True)], 1).amax(1)
    unit = torch.linspace(0, 1, steps, dtype=low.dtype, device=low.device)
    grid = torch.cartesian_prod(unit, unit).unsqueeze(1)  # (S, 1, 2)
    area = ((high - low) / (steps - 1)).log().sum(-1)
    return low + grid * (high - low), area.expand(steps * steps, -1)
