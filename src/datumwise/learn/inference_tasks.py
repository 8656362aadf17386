"""Inference problems with known answers: simulator, prior family and likelihood, with settings that train in minutes.

Sources: Whittle et al., Distribution Transformers, 2025, arXiv 2502.02463 (conjugate, inverse gamma, quantum, Gaussian process,
filter); the other families are ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from datumwise.learn.distribution_transformer import DistributionTransformer
from datumwise.learn.gaussian_mixture import GaussianMixture
from datumwise.learn.linear_gaussian import gmm_posterior
from datumwise.learn.prior_families import BetaFamily, GMMFamily, InverseGammaFamily
from datumwise.learn.quadrature import line_nodes, quadrature_posterior
from datumwise.learn.quantum import quantum_probability
from datumwise.learn.transforms import transform_of

__all__ = ["TASKS", "InferenceTask"]

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class InferenceTask:
    """One inference problem.

    Attributes
    ----------
    name, title : str
    simulator : callable
        (x (B, d), n, generator) -> data (B, n, p), or a mapping of sensor to such.
    log_likelihood : callable
        (x (S, B, d), data, mask=None) -> (S, B).
    family : PriorFamily
    state_dim, n_components : int
    obs_dim : int or mapping
    support : str or tuple of str
    n_obs : (int, int)
        Data a problem.
    options : mapping
        Of the model: head, children.
    steps : int
        Of training that bring the figures of the documentation, in batches of ``batch_size``.
    exact : callable, optional
        (prior, data) -> the exact posterior, where it is a mixture.
    log_evidence : callable, optional
        (prior, data) -> log p(data) (B,), where neither that nor quadrature on a grid will do.

    Examples
    --------
    >>> task = TASKS["student"]
    >>> prior, x, data = task.problems(100, 5)
    >>> far = task.divergence(prior, x, data, prior)  # of the prior, which has not seen the data
    >>> 1 < far.mean().item() < 2
    True
    """

    name: str
    title: str
    simulator: Callable[[Tensor, int, torch.Generator], Any]
    log_likelihood: Callable[..., Tensor]
    family: Any
    state_dim: int = 1
    n_components: int = 3
    obs_dim: int | Mapping[str, int] = 1
    support: Any = "real"
    n_obs: tuple[int, int] = (1, 5)
    options: Mapping[str, Any] = field(default_factory=dict)
    steps: int = 1200
    batch_size: int = 256
    lr: float = 2e-3
    exact: Callable[[GaussianMixture, Any], GaussianMixture] | None = None
    log_evidence: Callable[[GaussianMixture, Any], Tensor] | None = None

    def model(self, **options: Any) -> DistributionTransformer:
        """A fresh model; options go over the task's own."""
        return DistributionTransformer(
            self.state_dim, self.n_components, self.obs_dim, support=self.support, **{**self.options, **options}
        )

    def problems(self, n: int, n_obs: int, seed: int = 0) -> tuple[GaussianMixture, Tensor, Any]:
        """n simulated problems: priors, true states (n, d) within the support, data."""
        generator = torch.Generator().manual_seed(seed)
        prior = self.family.sample(n, generator)
        x = transform_of(self.support).from_real(prior.sample(1, generator)[0])
        return prior, x, self.simulator(x, n_obs, generator)

    @torch.no_grad()
    def divergence(self, prior: GaussianMixture, x: Tensor, data: Any, answer: GaussianMixture) -> Tensor:
        """KL(exact posterior || answer) of every problem, in nats.

        Between mixtures where the exact posterior is one, else by quadrature. With a ``log_evidence`` it is one unbiased draw:
        log of the exact density over the answer's at the true state x, which may be negative; only means over many problems
        say something.

        Parameters
        ----------
        prior, answer : GaussianMixture
            Over the unconstrained state.
        x : Tensor (B, d)
            True states.
        data
            As simulated.

        Returns
        -------
        Tensor (B,), float64
        """
        prior, answer, data = prior.to(torch.float64), answer.to(torch.float64), _double(data)
        if self.exact is not None:
            return self.exact(prior, data).kl(answer)
        if self.log_evidence is None:
            found = [
                quadrature_posterior(
                    prior[i : i + 100],
                    self.log_likelihood,
                    _rows(data, i, i + 100),
                    support=self.support,
                    also=answer[i : i + 100],
                ).kl(answer[i : i + 100])
                for i in range(0, len(prior), 100)
            ]
            return torch.cat(found)
        t = transform_of(self.support).to_real(x.double())
        joint = prior.log_prob(t) + self.log_likelihood(x.double()[None], data)[0]
        return joint - self.log_evidence(prior, data) - answer.log_prob(t)


def _double(data: Any) -> Any:
    return {name: part.double() for name, part in data.items()} if isinstance(data, Mapping) else data.double()


def _rows(data: Any, first: int, last: int) -> Any:
    return {name: part[first:last] for name, part in data.items()} if isinstance(data, Mapping) else data[first:last]


def _total(each: Tensor, mask: Tensor | None) -> Tensor:
    """Sum over the data (S, B, N), of those that were seen."""
    return (each if mask is None else torch.where(mask, each, 0.0)).sum(-1)


# ---------------------------------------------------------------------- y = x + N(0, 1)


def _conjugate(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    return x[:, None] + torch.randn(len(x), n, 1, generator=generator, dtype=x.dtype)


def _conjugate_likelihood(x: Tensor, data: Tensor, mask: Tensor | None = None) -> Tensor:
    return _total(-0.5 * ((data[..., 0] - x).square() + LOG_2PI), mask)


def _conjugate_posterior(prior: GaussianMixture, data: Tensor) -> GaussianMixture:
    one = torch.ones(1, 1, dtype=prior.dtype)
    for y in data.unbind(1):
        prior, _ = gmm_posterior(prior, one, one, y)
    return prior


# ---------------------------------------------------------------------- y = x + .5 t_2

STUDENT_SCALE = 0.5


def _student(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    normal = torch.randn(len(x), n, 1, generator=generator, dtype=x.dtype)
    half_chi_square = -torch.rand(len(x), n, 1, generator=generator, dtype=x.dtype).clamp_min(1e-12).log()  # chi^2_2 / 2
    return x[:, None] + STUDENT_SCALE * normal / half_chi_square.sqrt()


def _student_likelihood(x: Tensor, data: Tensor, mask: Tensor | None = None) -> Tensor:
    z = (data[..., 0] - x) / STUDENT_SCALE
    return _total(-1.5 * torch.log1p(z.square() / 2) - math.log(2 * math.sqrt(2) * STUDENT_SCALE), mask)


# ---------------------------------------------------------------------- P(y = 1) = sigmoid(2 x)


def _bernoulli(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    uniform = torch.rand(len(x), n, 1, generator=generator, dtype=x.dtype)
    return (uniform < torch.sigmoid(2 * x[:, None])).to(x.dtype)


def _bernoulli_likelihood(x: Tensor, data: Tensor, mask: Tensor | None = None) -> Tensor:
    return _total(F.logsigmoid(2 * x * (2 * data[..., 0] - 1)), mask)


# ---------------------------------------------------------------------- y = .3 x^2 + N(0, .5^2)

BIMODAL_SD = 0.5


def _bimodal(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    noise = torch.randn(len(x), n, 1, generator=generator, dtype=x.dtype)
    return 0.3 * x[:, None].square() + BIMODAL_SD * noise


def _bimodal_likelihood(x: Tensor, data: Tensor, mask: Tensor | None = None) -> Tensor:
    z = (data[..., 0] - 0.3 * x.square()) / BIMODAL_SD
    return _total(-0.5 * (z.square() + LOG_2PI) - math.log(BIMODAL_SD), mask)


# ---------------------------------------------------------------------- two regression weights, y = h' x + N(0, .5^2)

PLANE_SD = 0.5


def _plane(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    h = torch.randn(len(x), n, 2, generator=generator, dtype=x.dtype)
    noise = torch.randn(len(x), n, 1, generator=generator, dtype=x.dtype)
    return torch.cat([h, (h @ x[..., None]) + PLANE_SD * noise], -1)


def _plane_likelihood(x: Tensor, data: Tensor, mask: Tensor | None = None) -> Tensor:
    mean = torch.einsum("bnd,sbd->sbn", data[..., :2], x)
    z = (data[..., 2] - mean) / PLANE_SD
    return _total(-0.5 * (z.square() + LOG_2PI) - math.log(PLANE_SD), mask)


def _plane_posterior(prior: GaussianMixture, data: Tensor) -> GaussianMixture:
    for row in data.unbind(1):
        R = torch.full((1, 1), PLANE_SD**2, dtype=prior.dtype)
        prior, _ = gmm_posterior(prior, row[:, None, :2], R, row[:, 2:])
    return prior


# ---------------------------------------------------------------------- log y^2 of y ~ N(0, v)


def _variance(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    normal = torch.randn(len(x), n, 1, generator=generator, dtype=x.dtype)
    return x.log()[:, None] + normal.square().clamp_min(1e-30).log()


def _variance_likelihood(x: Tensor, data: Tensor, mask: Tensor | None = None) -> Tensor:
    apart = data[..., 0] - x.log()  # log (y^2 / v)
    return _total(-0.5 * (LOG_2PI + apart.exp() - apart), mask)  # density of log y^2


# ---------------------------------------------------------------------- a two-level quantum system

QUANTUM_TIMES = (1.0, 2.0, 3.0, 4.0, 5.0, 1.0, 2.0, 1.0, 2.0, 3.0)  # hbar / energy
QUANTUM_STATES = ((1.0, 0.0),) * 5 + ((0.0, 1.0),) * 2 + ((math.sqrt(0.5), math.sqrt(0.5)),) * 3
QUANTUM_TIME_SD, QUANTUM_STATE_SD = 0.05, 0.1


def _quantum_chance(delta: Tensor, times: Tensor, states: Tensor) -> Tensor:
    return quantum_probability(delta, times, states, time_sd=QUANTUM_TIME_SD, state_sd=QUANTUM_STATE_SD)


def _quantum(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """n of the ten published measurements, without repetition: (time, state, outcome); noise is drawn by its mean."""
    order = torch.rand(len(x), len(QUANTUM_TIMES), generator=generator).argsort(1)[:, :n]
    times = torch.tensor(QUANTUM_TIMES, dtype=x.dtype)[order]
    states = torch.tensor(QUANTUM_STATES, dtype=x.dtype)[order]
    chance = _quantum_chance(x[:, 0], times, states)
    outcome = (torch.rand(len(x), n, generator=generator, dtype=x.dtype) < chance).to(x.dtype)
    return torch.cat([times[..., None], states, outcome[..., None]], -1)


def _quantum_likelihood(x: Tensor, data: Tensor, mask: Tensor | None = None) -> Tensor:
    data = data.to(x.dtype)
    chance = _quantum_chance(x[..., 0], data[..., 0], data[..., 1:3])
    outcome = data[..., 3]
    return _total(torch.xlogy(outcome, chance) + torch.special.xlog1py(1 - outcome, -chance), mask)


# ---------------------------------------------------------------------- a Gaussian process at one point, and its lengthscale

GP_NOISE = 1e-3  # variance


def _gp_family(B: int, generator: torch.Generator | None) -> GaussianMixture:
    """y* ~ N(0, 1 + noise); log lengthscale a mixture about log(.5), where the published Gamma(3, 6) lies."""
    K = 5
    log_length = math.log(0.5) + 0.6 * torch.randn(B, K, generator=generator)
    means = torch.stack([torch.zeros(B, K), log_length], -1)
    sd = 0.1 * 5.0 ** torch.rand(B, K, generator=generator)
    scale_tril = torch.diag_embed(torch.stack([torch.full((B, K), math.sqrt(1 + GP_NOISE)), sd], -1))
    weights = torch.rand(B, K, generator=generator).clamp_min(1e-9).log().neg()
    return GaussianMixture(weights / weights.sum(1, keepdim=True), means, scale_tril, validate_args=False)


def _gp_joint(place: Tensor, length: Tensor) -> Tensor:
    """Covariance of y* and the data, (..., N + 1, N + 1), y* first; place (..., N) is relative to the query."""
    at = torch.cat([torch.zeros_like(place[..., :1]), place], -1)
    square = (at[..., :, None] - at[..., None, :]).square()
    kernel = torch.exp(-0.5 * square / length[..., None, None].square())
    return kernel + GP_NOISE * torch.eye(at.shape[-1], dtype=place.dtype)


def _gp(x: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Rows (x_i - x*, y_i) with all places uniform on [0, 1], given y*."""
    at = torch.rand(len(x), n + 1, generator=generator, dtype=x.dtype)
    place = at[:, 1:] - at[:, :1]
    factor = torch.linalg.cholesky(_gp_joint(place.double(), x[:, 1].double()))
    white = torch.randn(len(x), n + 1, generator=generator, dtype=torch.float64)
    white[:, 0] = x[:, 0].double() / factor[:, 0, 0]
    y = (factor @ white[..., None])[:, 1:, 0].to(x.dtype)
    return torch.stack([place, y], -1)


def _gp_likelihood(x: Tensor, data: Tensor, mask: Tensor | None = None) -> Tensor:
    """log p(y | y*, lengthscale); a datum that was not seen is given a place far away, where it says nothing."""
    place, y = (part.to(torch.float64) for part in data.unbind(-1))
    if mask is not None:
        place = torch.where(mask, place, 1e6 * torch.arange(1, place.shape[-1] + 1, dtype=torch.float64))
        y = torch.where(mask, y, 0.0)
    place, y = (part.expand(*x.shape[:-1], -1) for part in (place, y))
    factor = torch.linalg.cholesky(_gp_joint(place, x[..., 1].double()))
    both = torch.cat([x[..., :1].double(), y], -1)
    white = torch.linalg.solve_triangular(factor, both[..., None], upper=False)[..., 0]
    each = -0.5 * (white.square() + LOG_2PI) - factor.diagonal(dim1=-2, dim2=-1).log()
    seen = None if mask is None else mask.expand(each[..., 1:].shape)
    return _total(each[..., 1:], seen).to(x.dtype)


def _gp_log_evidence(prior: GaussianMixture, data: Tensor) -> Tensor:
    """log p(y) (B,): the lengthscale by quadrature, y* is not needed."""
    lengths, log_width = line_nodes(prior.marginal(1))  # (S, B)
    log_prior = prior.marginal(1).log_prob(lengths[..., None])
    place, y = data.unbind(-1)
    found = []
    for i in range(len(data)):
        covariance = _gp_joint(place[i].expand(len(lengths), -1), lengths[:, i].exp())[..., 1:, 1:]
        factor = torch.linalg.cholesky(covariance)
        white = torch.linalg.solve_triangular(factor, y[i].expand(len(lengths), -1)[..., None], upper=False)[..., 0]
        loglik = (-0.5 * (white.square() + LOG_2PI) - factor.diagonal(dim1=-2, dim2=-1).log()).sum(-1)
        found.append(torch.logsumexp(log_prior[:, i] + log_width[:, i] + loglik, 0))
    return torch.stack(found)


# ---------------------------------------------------------------------- two sensors of one moving state

SENSOR_VARIANCE = {"fine": 0.1, "coarse": 4.0}
MOTION = (torch.tensor([[0.95]]), torch.tensor([0.0]), torch.tensor([[1.0]]))  # A, b, Q


def _two_sensors(x: Tensor, n: int, generator: torch.Generator) -> dict[str, Tensor]:
    return {
        name: x[:, None] + math.sqrt(variance) * torch.randn(len(x), n, 1, generator=generator, dtype=x.dtype)
        for name, variance in SENSOR_VARIANCE.items()
    }


def _two_sensor_likelihood(x: Tensor, data: Mapping[str, Tensor], mask: Mapping[str, Tensor] | None = None) -> Tensor:
    total = torch.zeros(x.shape[:-1], dtype=x.dtype)
    for name, values in data.items():
        variance = SENSOR_VARIANCE[name]
        each = -0.5 * ((values[..., 0] - x).square() / variance + LOG_2PI + math.log(variance))
        total = total + _total(each, None if mask is None else mask.get(name))
    return total


def _two_sensor_posterior(prior: GaussianMixture, data: Mapping[str, Tensor]) -> GaussianMixture:
    one = torch.ones(1, 1, dtype=prior.dtype)
    for name, values in data.items():
        for y in values.unbind(1):
            prior, _ = gmm_posterior(prior, one, SENSOR_VARIANCE[name] * one, y)
    return prior


class _GPFamily:
    """See `_gp_family`."""

    def sample(self, B: int, generator: torch.Generator | None = None) -> GaussianMixture:
        return _gp_family(B, generator or torch.Generator().manual_seed(0))


TASKS: dict[str, InferenceTask] = {
    task.name: task
    for task in (
        InferenceTask(
            "conjugate",
            "y = x + N(0, 1)",
            _conjugate,
            _conjugate_likelihood,
            GMMFamily(),
            options={"head": "site"},
            steps=600,
            exact=_conjugate_posterior,
        ),
        InferenceTask(
            "student",
            "y = x + .5 t(2)",
            _student,
            _student_likelihood,
            GMMFamily(),
            options={"head": "token", "children": 2},
            steps=1500,
        ),
        InferenceTask(
            "bernoulli",
            "P(y = 1) = sigmoid(2 x)",
            _bernoulli,
            _bernoulli_likelihood,
            GMMFamily(),
            options={"head": "token", "children": 2},
            steps=600,
        ),
        InferenceTask(
            "bimodal",
            "y = .3 x^2 + N(0, .5^2)",
            _bimodal,
            _bimodal_likelihood,
            GMMFamily(),
            options={"head": "token", "children": 2},
        ),
        InferenceTask(
            "plane",
            "two regression weights",
            _plane,
            _plane_likelihood,
            GMMFamily(dim=2),
            state_dim=2,
            obs_dim=3,
            options={"head": "token"},
            exact=_plane_posterior,
        ),
        InferenceTask(
            "inverse-gamma",
            "variance of y ~ N(0, v)",
            _variance,
            _variance_likelihood,
            InverseGammaFamily(),
            n_components=5,
            support="positive",
            options={"head": "token", "children": 2},
            steps=4000,
        ),
        InferenceTask(
            "quantum",
            "two-level quantum system",
            _quantum,
            _quantum_likelihood,
            BetaFamily(),
            n_components=5,
            obs_dim=4,
            support="unit",
            n_obs=(1, 10),
            options={"head": "token", "children": 2},
            steps=1000,
        ),
        InferenceTask(
            "gp-hyperprior",
            "Gaussian process and its lengthscale",
            _gp,
            _gp_likelihood,
            _GPFamily(),
            state_dim=2,
            n_components=5,
            obs_dim=2,
            support=("real", "positive"),
            n_obs=(1, 10),
            options={"head": "token", "d_model": 64},
            log_evidence=_gp_log_evidence,
        ),
        InferenceTask(
            "lti-filter",
            "two sensors of a moving state",
            _two_sensors,
            _two_sensor_likelihood,
            GMMFamily(n_components=4, mean_sd=3.0, sd_range=(0.25, 4.0)),
            n_components=4,
            obs_dim={"fine": 1, "coarse": 1},
            n_obs=(1, 1),
            options={"head": "site"},
            steps=400,
            exact=_two_sensor_posterior,
        ),
    )
}
