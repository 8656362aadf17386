"""Is an approximate posterior any good, and can it be mended? Importance weights against prior times likelihood.

Effective sample size, evidence and the Pareto k-hat of the weights (Vehtari et al., 2024, *Pareto Smoothed Importance
Sampling*, JMLR 25; the fit is Zhang and Stephens, 2009, Technometrics 51), and a refit of the mixture to its weighted draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, name_some
from datumwise.learn.expectation_maximization import em_step
from datumwise.learn.gaussian_mixture import GaussianMixture
from datumwise.learn.transforms import transform_of

__all__ = ["KHAT_ALARM", "ImportanceSample", "effective_sample_size", "importance_sample", "pareto_khat", "refine_mixture"]

KHAT_ALARM = 0.7  # above it an importance estimate is not to be trusted
FEWEST_DRAWS = 25  # with fewer the tail has fewer than five draws

LogLikelihood = Callable[[Tensor, Any], Tensor]


@dataclass(frozen=True)
class ImportanceSample:
    """Weighted draws of a posterior.

    Attributes
    ----------
    draws : float (S, B, d)
        In the unconstrained space.
    log_weights : float (S, B)
        log prior + log likelihood - log proposal.
    log_evidence : float (B,)
        log p(data), up to what the log likelihood leaves out.
    ess : float (B,)
        Effective number of draws, 1 to S.
    khat : float (B,)
        Shape of the weights' tail; see `pareto_khat`. Above .7: do not trust.
    """

    draws: Tensor
    log_weights: Tensor
    log_evidence: Tensor
    ess: Tensor
    khat: Tensor

    @property
    def weights(self) -> Tensor:
        """float (S, B), summing to 1 over the draws"""
        return torch.softmax(self.log_weights, 0)

    def expectation(self, function: Callable[[Tensor], Tensor]) -> Tensor:
        """Self-normalised estimate of E[function(t)]: (S, B, d) -> (S, B, ...) gives (B, ...)."""
        value = function(self.draws)
        return (self.weights.reshape(*self.weights.shape, *[1] * (value.dim() - 2)) * value).sum(0)

    @property
    def mean(self) -> Tensor:
        """float (B, d)"""
        return self.expectation(lambda t: t)

    @property
    def covariance(self) -> Tensor:
        """float (B, d, d)"""
        apart = self.draws - self.mean
        return torch.einsum("sb,sbi,sbj->bij", self.weights, apart, apart)


@torch.no_grad()
def importance_sample(
    proposal: GaussianMixture,
    prior: GaussianMixture,
    log_likelihood: LogLikelihood,
    data: Any = None,
    *,
    n: int = 2000,
    support: Any = "real",
    generator: torch.Generator | None = None,
) -> ImportanceSample:
    """Draws of a proposal, weighted to the exact posterior.

    Both mixtures are over t = T(x), so the Jacobian cancels. With ``proposal=prior`` this is plain importance sampling from
    the prior.

    Parameters
    ----------
    proposal, prior : GaussianMixture
    log_likelihood : callable
        (x (S, B, d), data) -> float (S, B).
    data : optional
        Handed to ``log_likelihood``.
    n : int, default 2000
        Draws, at least 25.
    support : optional
        Of x, see `transform_of`.
    generator : torch.Generator, optional

    Returns
    -------
    ImportanceSample

    Raises
    ------
    NotFinite
        The log likelihood is NaN or plus infinity.
    SchemaMismatch, DatumwiseError
        Shapes that do not fit; every draw of a mixture has likelihood 0, rows are named.

    Examples
    --------
    >>> prior = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
    >>> sample = importance_sample(prior, prior, lambda x, y: -0.5 * (y - x[..., 0]) ** 2, 2.0, n=20_000)
    >>> bool(abs(sample.mean - 1).item() < 0.05), bool(sample.khat < 0.7)
    (True, True)
    """
    if n < FEWEST_DRAWS:
        raise DatumwiseError(f"n = {n} draws tell nothing of the tail of their weights", remedy=f"n >= {FEWEST_DRAWS}")
    if len(proposal) != len(prior) or proposal.dim != prior.dim:
        raise SchemaMismatch(f"a proposal {proposal!r} for a prior {prior!r}", remedy="the same B and d")
    draws = proposal.sample(n, generator)
    log_weights = _log_target(prior, log_likelihood, data, draws, support) - proposal.log_prob(draws)
    if bool((dead := torch.isneginf(log_weights).all(0)).any()):
        raise DatumwiseError(f"every draw of mixture {name_some(dead.nonzero().flatten().tolist())} has likelihood 0")
    return ImportanceSample(
        draws,
        log_weights,
        torch.logsumexp(log_weights, 0) - math.log(n),
        effective_sample_size(log_weights),
        pareto_khat(log_weights),
    )


def effective_sample_size(log_weights: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 over the first axis.

    Parameters
    ----------
    log_weights : float (S, ...)

    Returns
    -------
    float (...)

    Examples
    --------
    >>> round(effective_sample_size(torch.tensor([0.0, 0.0, -50.0])).item(), 4)
    2.0
    """
    share = torch.softmax(log_weights, 0)
    return 1 / share.square().sum(0)


def pareto_khat(log_weights: Tensor) -> Tensor:
    """Shape k of a generalised Pareto distribution fitted to the largest weights, shrunk towards 1/2.

    x: the M = ceil(min(S / 5, 3 sqrt S)) largest weights less the next one, ascending. With m = 30 + floor(sqrt M) and x_q
    the lower quartile, q = floor(M / 4 + 1/2):

        b_j = 1 / x_M + (1 - sqrt(m / (j - 1/2))) / (3 x_q),   j = 1..m
        k_j = mean log(1 - b_j x),   l_j = M (log(-b_j / k_j) - k_j - 1)
        b = sum_j b_j softmax(l)_j,   k = mean log(1 - b x),   k-hat = (M k + 5) / (M + 10)

    Parameters
    ----------
    log_weights : float (S, ...)
        S >= 25; minus infinity is a weight of 0.

    Returns
    -------
    float (...)
        Above .7 (1/2: infinite variance, 1: infinite mean) estimates are not to be trusted. Weights whose tail is flat to
        rounding have no tail: 0.

    Raises
    ------
    DatumwiseError, NotFinite

    Examples
    --------
    >>> uniform = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    >>> [round(pareto_khat(-k * uniform.log()).item(), 2) for k in (0.3, 0.9)]  # Pareto weights of shape k
    [0.31, 0.87]
    """
    S = log_weights.shape[0]
    if S < FEWEST_DRAWS:
        raise DatumwiseError(f"{S} weights have no tail to fit", remedy=f"at least {FEWEST_DRAWS}")
    if bool(log_weights.isnan().any()) or bool(torch.isposinf(log_weights).any()):
        raise NotFinite("log weights hold NaN or infinity")
    log_weights = log_weights.to(torch.float64)
    M = math.ceil(min(S / 5, 3 * math.sqrt(S)))
    top = log_weights.topk(M + 1, dim=0).values.flip(0)  # ascending
    top = (top - top[-1].nan_to_num(neginf=0.0)).exp()
    x = top[1:] - top[0]
    flat = x[-1] < 1e-9
    smallest = torch.finfo(x.dtype).eps * x[-1].clamp_min(1e-300)
    x_M, x_q = x[-1].clamp_min(1e-300), torch.maximum(x[math.floor(M / 4 + 0.5) - 1], smallest)
    m = 30 + math.floor(math.sqrt(M))
    j = torch.arange(1, m + 1, dtype=x.dtype, device=x.device).reshape(-1, *[1] * (x.dim() - 1))
    b_j = 1 / x_M + (1 - torch.sqrt(m / (j - 0.5))) / (3 * x_q)
    k_j = torch.log1p(-b_j.unsqueeze(1) * x).mean(1)  # (m, ...)
    l_j = M * (torch.log(-b_j / k_j) - k_j - 1)
    b = (torch.softmax(l_j, 0) * b_j).sum(0)
    k = torch.log1p(-b * x).mean(0)
    return torch.where(flat, 0.0, (M * k + 5) / (M + 10))


@torch.no_grad()
def refine_mixture(
    mixture: GaussianMixture,
    prior: GaussianMixture,
    log_likelihood: LogLikelihood,
    data: Any = None,
    *,
    steps: int = 3,
    n: int = 2000,
    support: Any = "real",
    generator: torch.Generator | None = None,
) -> GaussianMixture:
    """Approximate posterior refitted to its own draws, weighted to the exact posterior: expectation maximisation.

    Every component counts as d + 2 draws of its own, so that one which few draws speak of stays where it is. The refit is
    taken only where n fresh draws, weighted, find it likelier than the mixture it came from by two standard errors: one that
    was nearly exact is not traded for the noise of its draws.

    Parameters
    ----------
    mixture : GaussianMixture
        The approximate posterior: proposal and start.
    prior, log_likelihood, data, n, support, generator
        As for `importance_sample`.
    steps : int, default 3
        Steps of expectation maximisation on one set of draws; another is drawn to judge.

    Returns
    -------
    GaussianMixture

    Examples
    --------
    >>> prior = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
    >>> rough = GaussianMixture(torch.ones(1), torch.tensor([[0.7]]), torch.full((1, 1, 1), 0.9))
    >>> fine = refine_mixture(rough, prior, lambda x, y: -0.5 * (y - x[..., 0]) ** 2, 2.0)
    >>> round(fine.means.item(), 1), round(fine.covariances.item(), 1)
    (1.0, 0.5)
    """
    if steps < 0:
        raise DatumwiseError(f"{steps} steps cannot be made", remedy="steps >= 0")
    if steps == 0:
        return mixture
    generator = generator or torch.Generator(mixture.device).manual_seed(0)
    fit, check = (
        importance_sample(mixture, prior, log_likelihood, data, n=n, support=support, generator=generator) for _ in range(2)
    )
    refit = mixture
    for _ in range(steps):
        refit = em_step(refit, fit.draws, fit.log_weights, pseudo_count=mixture.dim + 2.0)
    apart = refit.log_prob(check.draws) - mixture.log_prob(check.draws)
    gain = (check.weights * apart).sum(0)  # KL saved, nats
    error = (check.weights * (apart - gain)).square().sum(0).sqrt()
    better = gain > 2 * error
    return GaussianMixture(
        None,
        torch.where(better[:, None, None], refit.means, mixture.means),
        torch.where(better[:, None, None, None], refit.scale_tril, mixture.scale_tril),
        log_weights=torch.where(better[:, None], refit.log_weights, mixture.log_weights),
        validate_args=False,
    )


def _log_target(prior: GaussianMixture, log_likelihood: LogLikelihood, data: Any, draws: Tensor, support: Any) -> Tensor:
    """log prior + log likelihood (S, B), or a refusal."""
    loglik = log_likelihood(transform_of(support).from_real(draws), data)
    if loglik.shape != draws.shape[:-1]:
        raise SchemaMismatch(f"a log likelihood of shape {tuple(loglik.shape)}", remedy=f"{tuple(draws.shape[:-1])}")
    bad = loglik.isnan() | torch.isposinf(loglik)
    if bool(bad.any()):
        raise NotFinite(
            f"the log likelihood is NaN or infinite for mixture {name_some(bad.any(0).nonzero().flatten().tolist())}"
        )
    return prior.log_prob(draws) + loglik
