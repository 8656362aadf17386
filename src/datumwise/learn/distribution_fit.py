"""A torch distribution as a mixture of K Gaussians over the unconstrained space."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, LogNormal, MixtureSameFamily, MultivariateNormal, Normal

from datumwise.errors import DatumwiseError, SchemaMismatch
from datumwise.learn.expectation_maximization import fit_mixture
from datumwise.learn.gaussian_mixture import GaussianMixture
from datumwise.learn.transforms import Transform, transform_of

__all__ = ["fit_distribution", "fit_log_density"]

DRAWS = 20_000  # of a distribution in several dimensions
SCOUTS = 2_000  # draws that find where a density on the line lies
NODES = 1_000  # of the grid on the line
SMALLEST = 1e-6  # variance of a component, relative to the density's


@torch.no_grad()
def fit_distribution(
    distribution: Distribution, n_components: int, *, support: Any = "real", generator: torch.Generator | None = None
) -> GaussianMixture:
    """See `GaussianMixture.from_distribution`.

    Examples
    --------
    >>> fit_distribution(torch.distributions.Normal(3.0, 2.0), 1).means.item()
    3.0
    """
    if n_components < 1:
        raise DatumwiseError(f"a mixture of {n_components} components does not exist", remedy="K >= 1")
    if len(distribution.batch_shape) > 1 or len(distribution.event_shape) > 1:
        raise SchemaMismatch(
            f"a distribution of shapes {tuple(distribution.batch_shape)} and {tuple(distribution.event_shape)}",
            remedy="batch () or (B,), event () or (d,)",
        )
    transform = transform_of(support)
    exact = _as_mixture(distribution, transform)
    if exact is not None:
        K = exact.n_components
        return exact.split(n_components) if n_components >= K else exact.reduce(n_components)
    seed = int(torch.randint(1 << 31, (1,), generator=generator or torch.Generator().manual_seed(0)))
    scalar = not distribution.event_shape
    with torch.random.fork_rng(devices=[]):  # torch distributions draw from the global state: it is put back
        torch.manual_seed(seed)
        draws = distribution.sample(torch.Size([SCOUTS if scalar else DRAWS]))
    draws = draws.reshape(len(draws), -1, 1 if scalar else draws.shape[-1])
    t = transform.to_real(draws)
    if not scalar:
        return fit_mixture(t, n_components, generator=generator)
    t = t.double()
    low, high = t.amin(0), t.amax(0)
    room = 0.5 * (high - low)
    nodes = torch.linspace(0, 1, NODES, dtype=t.dtype)[:, None, None] * (high - low + 2 * room) + low - room  # (S, B, 1)
    x = transform.from_real(nodes).to(draws.dtype).squeeze(-1)
    inside = transform.inside(x.unsqueeze(-1)).squeeze(-1)
    if distribution.support is not None:
        inside = inside & distribution.support.check(x)
    safe = torch.where(inside, x, draws[:1, :, 0])
    log_prob = distribution.log_prob(safe.reshape(NODES, *distribution.batch_shape)).reshape(NODES, -1)
    log_density = torch.where(inside, log_prob.double() + transform.log_abs_det(nodes), -torch.inf)
    return fit_log_density(nodes.squeeze(-1), log_density, n_components).to(draws.dtype)


@torch.no_grad()
def fit_log_density(nodes: Tensor, log_density: Tensor, n_components: int, *, steps: int = 200) -> GaussianMixture:
    """K Gaussians fitted to densities on grids of the line, from components at their quantiles: a smooth map.

    Parameters
    ----------
    nodes : float (S, B)
        Equally spaced, ascending.
    log_density : float (S, B)
        Up to a constant; minus infinity is 0.
    n_components : int
    steps : int, default 200
        Steps of expectation maximisation.

    Returns
    -------
    GaussianMixture

    Examples
    --------
    >>> t = torch.linspace(-8, 8, 400, dtype=torch.float64)[:, None]
    >>> round(fit_log_density(t, -t.abs(), 3).covariance.item(), 2)  # Laplace: variance 2
    1.97
    """
    mass = torch.softmax(log_density, 0).mT.contiguous()  # (B, S)
    level = (torch.arange(n_components, dtype=nodes.dtype, device=nodes.device) + 0.5) / n_components
    at = torch.searchsorted(mass.cumsum(1), level.expand(len(mass), -1).contiguous()).clamp_max(len(nodes) - 1)  # (B, K)
    mean = (mass * nodes.mT).sum(1, keepdim=True)
    x = nodes.mT - mean
    sd = (mass * x.square()).sum(1, keepdim=True).sqrt()
    x = x / sd
    powers = mass.unsqueeze(-1) * torch.stack((torch.ones_like(x), x, x.square()), -1)  # (B, S, 3)
    mu = x.gather(1, at)
    weights, scale = torch.full_like(mu, 1 / n_components), torch.full_like(mu, 1 / n_components)
    for _ in range(steps):  # expectation maximisation on the line, all grids at once
        z = (x.unsqueeze(1) - mu.unsqueeze(-1)) / scale.unsqueeze(-1)  # (B, K, S)
        responsibility = torch.softmax((weights / scale).log().unsqueeze(-1) - 0.5 * z.square(), 1)
        counts, first, second = (responsibility @ powers).unbind(-1)
        weights = counts.clamp_min(1e-12)
        mu = first / weights
        scale = (second / weights - mu.square()).clamp_min(SMALLEST).sqrt()
    log_weights = weights.log()
    return GaussianMixture(
        None,
        (mean + sd * mu).unsqueeze(-1),
        (sd * scale)[..., None, None],
        log_weights=log_weights - torch.logsumexp(log_weights, 1, keepdim=True),
        validate_args=False,
    )


def _as_mixture(distribution: Distribution, transform: Transform) -> GaussianMixture | None:
    """The distribution itself, if it is a mixture of Gaussians over T(x)."""
    if isinstance(distribution, LogNormal) and transform.name == "positive":
        return _as_mixture(distribution.base_dist, transform_of("real"))
    if transform.name != "real":
        return None
    if isinstance(distribution, MixtureSameFamily):
        parts = _gaussians(distribution.component_distribution)
        if parts is None:
            return None
        means, scale_tril = parts
        K, d = means.shape[-2:]
        log_weights = distribution.mixture_distribution.logits.expand(means.shape[:-1])
        log_weights = log_weights - torch.logsumexp(log_weights, -1, keepdim=True)
        return GaussianMixture(
            None, means.reshape(-1, K, d), scale_tril.reshape(-1, K, d, d), log_weights=log_weights.reshape(-1, K)
        )
    parts = _gaussians(distribution)
    if parts is None:
        return None
    means, scale_tril = parts
    d = means.shape[-1]
    means = means.reshape(-1, 1, d)
    return GaussianMixture(torch.ones_like(means[..., 0]), means, scale_tril.reshape(-1, 1, d, d))


def _gaussians(distribution: Distribution) -> tuple[Tensor, Tensor] | None:
    """Means (..., d) and lower factors (..., d, d) of a batch of Gaussians."""
    if isinstance(distribution, MultivariateNormal):
        return distribution.loc, distribution.scale_tril.expand(*distribution.loc.shape, distribution.loc.shape[-1])
    if (
        isinstance(distribution, Independent)
        and isinstance(distribution.base_dist, Normal)
        and len(distribution.event_shape) == 1
    ):
        return distribution.mean, torch.diag_embed(distribution.stddev)
    if isinstance(distribution, Normal):
        return distribution.loc.unsqueeze(-1), distribution.scale[..., None, None]
    return None
