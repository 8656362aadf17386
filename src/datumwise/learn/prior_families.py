"""Which priors is a network trained for? Families that draw Gaussian mixtures, and an alarm for a prior outside of them."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from scipy.special import betaincinv, gammaincinv, gammaln
from torch import Tensor

from datumwise.errors import DatumwiseError, SchemaMismatch, name_some
from datumwise.learn.distribution_fit import fit_log_density
from datumwise.learn.gaussian_mixture import GaussianMixture, component_features, feature_names

__all__ = [
    "BetaFamily",
    "FamilyCheck",
    "FeatureRange",
    "GMMFamily",
    "GammaFamily",
    "InverseGammaFamily",
    "PriorFamily",
    "prior_family",
]

TAIL = 1e-7  # probability beyond a fitted grid
NODES = 160  # of a fitted grid
GAMMA_GRID = 49  # shapes fitted, equal steps of the logarithm
BETA_GRID = 17  # and of each of the two shapes of a beta
RANGE_DRAWS = 4096  # mixtures that the alarm is set by
RANGE_TAIL = 1e-4  # of a family's features, on either side, that lies outside its range
HEAVY = 1e-3  # a component lighter than this raises no alarm


class PriorFamily(ABC):
    """What a network is trained over: a distribution of priors, each a mixture of the same K and d.

    Attributes
    ----------
    support : str
        Of the state: the mixtures are over its unconstrained space (see `transform_of`).
    """

    support: str = "real"

    @abstractmethod
    def sample(self, B: int, generator: torch.Generator | None = None) -> GaussianMixture:
        """B priors.

        Parameters
        ----------
        B : int
        generator : torch.Generator, optional
            Seed 0 if not given.

        Returns
        -------
        GaussianMixture
        """

    @cached_property
    def range(self) -> FeatureRange:
        """Where the features of the family's components lie, from 4,096 priors of seed 0."""
        return FeatureRange.of(self.sample(RANGE_DRAWS, torch.Generator().manual_seed(0)))


@dataclass(frozen=True)
class GMMFamily(PriorFamily):
    """Mixtures with Dirichlet weights, normal means and log-uniform standard deviations.

    The published meta-prior draws precisions from a Wishart distribution and inverts them, whose very heavy tails make
    losses explode; log-uniform standard deviations have none.

    Parameters
    ----------
    n_components : int, default 3
    dim : int, default 1
    mean_sd : float, default 2
        Means are N(0, mean_sd^2) in every coordinate.
    sd_range : (float, float), default (.2, 2)
        Standard deviations of every coordinate.
    concentration : float, default 1
        Of the Dirichlet distribution.
    dtype : torch.dtype, default float32

    Notes
    -----
    With d > 1 correlation matrices are uniform (LKJ with shape 1): row i of their factor is made of the first coordinates of
    a uniform direction in d + 1 dimensions.

    Examples
    --------
    >>> family = GMMFamily()
    >>> priors = family.sample(1000, torch.Generator().manual_seed(0))
    >>> priors, bool((priors.scale_tril > 0.2).all())
    (GaussianMixture(B=1000, K=3, d=1, float32), True)
    >>> far = GaussianMixture(torch.ones(1), torch.full((1, 1), 50.0), torch.ones(1, 1, 1))
    >>> family.range.check(far).in_family.item()
    False
    """

    n_components: int = 3
    dim: int = 1
    mean_sd: float = 2.0
    sd_range: tuple[float, float] = (0.2, 2.0)
    concentration: float = 1.0
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        low, high = self.sd_range
        if self.n_components < 1 or self.dim < 1:
            raise SchemaMismatch(f"a family of {self.n_components} components in {self.dim} dimensions", remedy="K, d >= 1")
        if not (0 < low <= high and self.mean_sd > 0 and self.concentration > 0):
            raise DatumwiseError(
                f"sd_range {self.sd_range}, mean_sd {self.mean_sd} and concentration {self.concentration} must be positive"
            )

    def sample(self, B: int, generator: torch.Generator | None = None) -> GaussianMixture:
        generator = generator or torch.Generator().manual_seed(0)
        K, d = self.n_components, self.dim
        options: dict[str, Any] = {"generator": generator, "dtype": self.dtype}
        log_gamma = _log_gamma_draws(torch.full((B, K), self.concentration, dtype=self.dtype), generator)
        means = self.mean_sd * torch.randn(B, K, d, **options)
        low, high = np.log(self.sd_range)
        sd = (low + (high - low) * torch.rand(B, K, d, **options)).exp()
        scale_tril = sd.unsqueeze(-1)
        if d > 1:
            root = torch.zeros(B, K, d, d, dtype=self.dtype)
            root[..., 0, 0] = 1.0
            for i in range(1, d):
                direction = torch.randn(B, K, d + 1, **options)
                direction = direction / torch.linalg.vector_norm(direction, dim=-1, keepdim=True)
                root[..., i, :i] = direction[..., :i]
                root[..., i, i] = torch.linalg.vector_norm(direction[..., i:], dim=-1)
            scale_tril = scale_tril * root
        return GaussianMixture(None, means, scale_tril, log_weights=torch.log_softmax(log_gamma, -1), validate_args=False)


@dataclass(frozen=True)
class _GammaTable(PriorFamily):
    """Gamma(a, b) and its reciprocal over log x: fits of log Gamma(a, 1) on a grid of log a, moved by log b.

    Between grid points log weights, means and log standard deviations of the fits are interpolated, which is a smooth map of
    the parameters.
    """

    n_components: int = 5
    meta_concentration: tuple[float, float] = (4.0, 6.0)
    meta_rate: tuple[float, float] = (4.0, 6.0)
    concentration_range: tuple[float, float] = (0.1, 100.0)
    dtype: torch.dtype = torch.float32
    support = "positive"
    sign = 1.0

    def __post_init__(self) -> None:
        _refuse_meta(
            self.n_components, self.concentration_range, meta_concentration=self.meta_concentration, meta_rate=self.meta_rate
        )

    def sample_parameters(self, B: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Concentrations and rates (B,), float64, of B priors; concentrations are clipped to their range."""
        generator = generator or torch.Generator().manual_seed(0)
        concentration = _inverse_gamma_draws(B, self.meta_concentration, generator).clamp(*self.concentration_range)
        return concentration, _inverse_gamma_draws(B, self.meta_rate, generator)

    def mixture(self, concentration: Any, rate: Any) -> GaussianMixture:
        """The priors of these concentrations and rates, floats or (B,), as mixtures over log x."""
        a, b = torch.broadcast_tensors(_positive(concentration, "concentration"), _positive(rate, "rate"))
        low, high = self.concentration_range
        if bad := ((a < low) | (a > high)).nonzero().flatten().tolist():
            raise DatumwiseError(
                f"concentration {a[bad[0]].item():g} in row {name_some(bad)} is outside {self.concentration_range}",
                remedy="a family with a wider concentration_range",
            )
        log_weights, means, log_sd = _interpolate(self._table, [_position(a, low, high, self._table.shape[0])])
        means = self.sign * (means - b.log().unsqueeze(-1))
        return _from_features(log_weights, means, log_sd, self.dtype)

    def sample(self, B: int, generator: torch.Generator | None = None) -> GaussianMixture:
        return self.mixture(*self.sample_parameters(B, generator))

    @property
    def _table(self) -> Tensor:
        return _log_gamma_table(*self.concentration_range, self.n_components)


@dataclass(frozen=True)
class GammaFamily(_GammaTable):
    """Gamma(a, b) priors of a positive state, as K Gaussians over log x; a and b are inverse gamma.

    Parameters
    ----------
    n_components : int, default 5
    meta_concentration, meta_rate : (float, float), default (4, 6)
        Parameters of the inverse gamma that a and b are drawn from.
    concentration_range : (float, float), default (.1, 100)
        a is clipped to it.
    dtype : torch.dtype, default float32

    Examples
    --------
    >>> prior = GammaFamily().mixture(3.0, 6.0)
    >>> draws = prior.sample(20_000, torch.Generator().manual_seed(0)).exp()
    >>> round(draws.mean().item(), 2), round(draws.var().item(), 2)  # a / b and a / b^2
    (0.5, 0.09)
    """


@dataclass(frozen=True)
class InverseGammaFamily(_GammaTable):
    """Inverse-gamma priors of a variance, as K Gaussians over log v; a and b are inverse gamma themselves.

    Parameters
    ----------
    n_components : int, default 5
    meta_concentration, meta_rate : (float, float), default (1, 1)
        Parameters of the inverse gamma that a and b are drawn from.
    concentration_range : (float, float), default (.1, 100)
        a is clipped to it.
    dtype : torch.dtype, default float32

    Examples
    --------
    >>> prior = InverseGammaFamily().mixture(4.0, 6.0)
    >>> draws = prior.sample(20_000, torch.Generator().manual_seed(0)).exp()
    >>> round(draws.mean().item(), 1)  # b / (a - 1)
    2.0
    """

    meta_concentration: tuple[float, float] = (1.0, 1.0)
    meta_rate: tuple[float, float] = (1.0, 1.0)
    sign = -1.0


@dataclass(frozen=True)
class BetaFamily(PriorFamily):
    """Beta(a, b) priors of a state within (0, 1), as K Gaussians over logit x; a and b are inverse gamma.

    Parameters
    ----------
    n_components : int, default 5
    meta_concentration1, meta_concentration0 : (float, float), default (4, 6)
        Parameters of the inverse gamma that a and b are drawn from.
    concentration_range : (float, float), default (.2, 20)
        a and b are clipped to it.
    dtype : torch.dtype, default float32

    Examples
    --------
    >>> prior = BetaFamily().mixture(2.0, 3.0)
    >>> draws = prior.sample(20_000, torch.Generator().manual_seed(0)).sigmoid()
    >>> round(draws.mean().item(), 2), round(draws.var().item(), 2)  # 2/5, 6/150
    (0.4, 0.04)
    """

    n_components: int = 5
    meta_concentration1: tuple[float, float] = (4.0, 6.0)
    meta_concentration0: tuple[float, float] = (4.0, 6.0)
    concentration_range: tuple[float, float] = (0.2, 20.0)
    dtype: torch.dtype = torch.float32
    support = "unit"

    def __post_init__(self) -> None:
        _refuse_meta(
            self.n_components,
            self.concentration_range,
            meta_concentration1=self.meta_concentration1,
            meta_concentration0=self.meta_concentration0,
        )

    def sample_parameters(self, B: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Both concentrations (B,), float64, of B priors, clipped to their range."""
        generator = generator or torch.Generator().manual_seed(0)
        first = _inverse_gamma_draws(B, self.meta_concentration1, generator).clamp(*self.concentration_range)
        return first, _inverse_gamma_draws(B, self.meta_concentration0, generator).clamp(*self.concentration_range)

    def mixture(self, concentration1: Any, concentration0: Any) -> GaussianMixture:
        """The priors of these concentrations, floats or (B,), as mixtures over logit x."""
        a, b = torch.broadcast_tensors(_positive(concentration1, "concentration1"), _positive(concentration0, "concentration0"))
        low, high = self.concentration_range
        if bad := ((a < low) | (a > high) | (b < low) | (b > high)).nonzero().flatten().tolist():
            raise DatumwiseError(
                f"concentrations {a[bad[0]].item():g}, {b[bad[0]].item():g} in row {name_some(bad)} are outside "
                f"{self.concentration_range}",
                remedy="a family with a wider concentration_range",
            )
        grid = self._table.shape[0]
        return _from_features(
            *_interpolate(self._table, [_position(a, low, high, grid), _position(b, low, high, grid)]), self.dtype
        )

    def sample(self, B: int, generator: torch.Generator | None = None) -> GaussianMixture:
        return self.mixture(*self.sample_parameters(B, generator))

    @property
    def _table(self) -> Tensor:
        return _logit_beta_table(*self.concentration_range, self.n_components)


@dataclass(frozen=True)
class _CallableFamily(PriorFamily):
    draw: Callable[[int, torch.Generator | None], GaussianMixture]
    support: str = "real"

    def sample(self, B: int, generator: torch.Generator | None = None) -> GaussianMixture:
        drawn = self.draw(B, generator or torch.Generator().manual_seed(0))
        if not isinstance(drawn, GaussianMixture) or len(drawn) != B:
            raise SchemaMismatch(f"the prior family gave {drawn!r} for {B} priors", remedy=f"a GaussianMixture of B = {B}")
        return drawn


def prior_family(family: PriorFamily | Callable[[int, torch.Generator | None], GaussianMixture]) -> PriorFamily:
    """A family as it is, or one that draws by any callable (B, generator) -> GaussianMixture.

    Raises
    ------
    SchemaMismatch
        Neither; when drawing: not a GaussianMixture of B.

    Examples
    --------
    >>> def narrow(B, generator):
    ...     means = torch.randn(B, 1, 1, generator=generator)
    ...     return GaussianMixture(torch.ones(B, 1), means, torch.full((B, 1, 1, 1), 0.1))
    >>> prior_family(narrow).sample(5)
    GaussianMixture(B=5, K=1, d=1, float32)
    """
    if isinstance(family, PriorFamily):
        return family
    if not callable(family):
        raise SchemaMismatch(f"{family!r} is no prior family", remedy="a PriorFamily, or a callable (B, generator)")
    return _CallableFamily(family)


@dataclass(frozen=True)
class FamilyCheck:
    """Does a network know this prior?

    Attributes
    ----------
    in_family : bool (B,)
    z : float (B, K, F)
        Features of the components in standard deviations of the family's.
    names : list of F str
    """

    in_family: Tensor
    z: Tensor
    names: list[str] = field(repr=False)

    def sentence(self) -> str:
        """Which mixtures are outside, and the feature of the first that is furthest out."""
        outside = (~self.in_family).nonzero().flatten().tolist()
        if not outside:
            return "all priors lie within the family"
        size = self.z[outside[0]].abs()[:, 1:]  # the weight raises no alarm
        component, feature = divmod(int(size.argmax()), size.shape[1])
        value = self.z[outside[0], component, feature + 1].item()
        return (
            f"prior {name_some(outside)} lies outside the family the network was trained on: {self.names[feature + 1]} of "
            f"component {component} of prior {outside[0]} is at z = {value:+.1f}"
        )


@dataclass(frozen=True)
class FeatureRange:
    """Where the component features of a family of priors lie.

    Attributes
    ----------
    low, high : float (F,)
        Quantiles .0001 and .9999 of `component_features`, moved out by a fifth of a standard deviation.
    mean, sd : float (F,)
    """

    low: Tensor
    high: Tensor
    mean: Tensor
    sd: Tensor

    @classmethod
    def of(cls, mixtures: GaussianMixture) -> FeatureRange:
        """From many priors of the family.

        Examples
        --------
        >>> FeatureRange.of(GMMFamily().sample(2000)).mean.shape
        torch.Size([3])
        """
        features = component_features(mixtures).flatten(0, 1).double()
        if len(features) < 2:
            raise DatumwiseError("one component has no range", remedy="draw more priors")
        sd = features.std(0).clamp_min(1e-6)
        ordered = features.sort(0).values
        cut = int(RANGE_TAIL * len(ordered))
        return cls(ordered[cut] - 0.2 * sd, ordered[-1 - cut] + 0.2 * sd, features.mean(0), sd)

    def check(self, mixture: GaussianMixture) -> FamilyCheck:
        """Compare priors with the family: means and scales of all components that weigh more than .001.

        Raises
        ------
        SchemaMismatch
            Another d.
        """
        features = component_features(mixture).double()
        if features.shape[-1] != len(self.low):
            raise SchemaMismatch(f"{mixture!r} has {features.shape[-1]} features a component and the family {len(self.low)}")
        outside = ((features < self.low) | (features > self.high))[..., 1:].any(-1)
        heavy = mixture.log_weights > np.log(HEAVY)
        z = (features - self.mean) / self.sd
        return FamilyCheck(~(outside & heavy).any(-1), z, feature_names(mixture.dim))

    def warn(self, mixture: GaussianMixture) -> FamilyCheck:
        """`check`, and a warning with the z-score if a prior lies outside."""
        found = self.check(mixture)
        if not bool(found.in_family.all()):
            warnings.warn(found.sentence(), UserWarning, stacklevel=3)
        return found

    def as_dict(self) -> dict[str, list[float]]:
        """Lists that JSON takes."""
        return {name: getattr(self, name).tolist() for name in ("low", "high", "mean", "sd")}

    @classmethod
    def from_dict(cls, values: dict[str, list[float]]) -> FeatureRange:
        """From what `as_dict` gave."""
        return cls(**{name: torch.tensor(values[name], dtype=torch.float64) for name in ("low", "high", "mean", "sd")})


def _log_gamma_draws(shape: Tensor, generator: torch.Generator) -> Tensor:
    """log of Gamma(shape, 1) draws: shapes below 1 as Gamma(shape + 1) U^(1 / shape), which does not underflow."""
    boosted = torch._standard_gamma(torch.where(shape < 1, shape + 1, shape), generator=generator).log()
    uniform = 1 - torch.rand(shape.shape, generator=generator, dtype=shape.dtype)
    return torch.where(shape < 1, boosted + uniform.log() / shape, boosted)


def _inverse_gamma_draws(n: int, parameters: tuple[float, float], generator: torch.Generator) -> Tensor:
    concentration, rate = parameters
    shape = torch.full((n,), concentration, dtype=torch.float64)
    return rate * (-_log_gamma_draws(shape, generator)).exp()


def _logit_beta_tail(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """logit of the lower TAIL quantile of Beta(a, b); where it underflows, of its power-law tail."""
    x = betaincinv(a, b, TAIL)
    log_beta = gammaln(a) + gammaln(b) - gammaln(a + b)
    power = (np.log(TAIL * a) + log_beta) / a
    return np.where(x > 1e-12, np.log(np.maximum(x, 1e-300)) - np.log1p(-np.minimum(x, 1 - 1e-16)), power)


@lru_cache(maxsize=8)
def _log_gamma_table(low: float, high: float, K: int) -> Tensor:
    """float64 (grid, 3, K): fits of log Gamma(a, 1) at GAMMA_GRID steps of log a."""
    a = np.geomspace(low, high, GAMMA_GRID)
    left = np.where(a < 1, (np.log(TAIL) + gammaln(a + 1)) / a, np.log(np.maximum(gammaincinv(a, TAIL), 1e-300)))
    nodes = np.linspace(left, np.log(gammaincinv(a, 1 - TAIL)), NODES)
    return _features_of(nodes, a * nodes - np.exp(nodes), K)


@lru_cache(maxsize=8)
def _logit_beta_table(low: float, high: float, K: int) -> Tensor:
    """float64 (grid, grid, 3, K): fits of logit Beta(a, b); that of (b, a) is the mirror image."""
    side = np.geomspace(low, high, BETA_GRID)
    i, j = np.tril_indices(BETA_GRID)
    a, b = side[i], side[j]
    nodes = np.linspace(_logit_beta_tail(a, b), -_logit_beta_tail(b, a), NODES)
    half = _features_of(nodes, -a * np.logaddexp(0, -nodes) - b * np.logaddexp(0, nodes), K)
    table = torch.empty(BETA_GRID, BETA_GRID, 3, K, dtype=half.dtype)
    mirror = (half * half.new_tensor([1.0, -1.0, 1.0])[:, None]).flip(-1)
    table[i, j], table[j, i] = half, mirror
    own = torch.as_tensor(i == j)
    table[i[own], i[own]] = 0.5 * (half + mirror)[own]
    return table


def _features_of(nodes: np.ndarray, log_density: np.ndarray, K: int) -> Tensor:
    """float64 (B, 3, K): log weights, means and log standard deviations of the fits to densities (S, B)."""
    fits = []
    for at in np.array_split(np.arange(nodes.shape[1]), max(1, nodes.shape[1] // 128)):
        fit = fit_log_density(torch.as_tensor(nodes[:, at]), torch.as_tensor(log_density[:, at]), K)
        fits.append(torch.stack((fit.log_weights, fit.means[..., 0], fit.scale_tril[..., 0, 0].log()), 1))
    return torch.cat(fits)


def _position(value: Tensor, low: float, high: float, grid: int) -> Tensor:
    """Position on a grid of equal steps in the logarithm."""
    return (value.log() - np.log(low)) / (np.log(high) - np.log(low)) * (grid - 1)


def _interpolate(table: Tensor, positions: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Linear in one position, bilinear in two: three tensors (B, K)."""
    total: Tensor | float = 0.0
    cells = [p.floor().clamp(0, table.shape[i] - 2) for i, p in enumerate(positions)]
    for corner in range(1 << len(positions)):
        share: Tensor | float = 1.0
        index = []
        for i, (position, cell) in enumerate(zip(positions, cells, strict=True)):
            up = (corner >> i) & 1
            share = share * ((position - cell) if up else 1 - (position - cell))
            index.append((cell + up).long())
        assert isinstance(share, Tensor)
        total = total + share[:, None, None] * table[tuple(index)]
    assert isinstance(total, Tensor)
    log_weights, means, log_sd = total.unbind(1)
    return log_weights - torch.logsumexp(log_weights, -1, keepdim=True), means, log_sd


def _from_features(log_weights: Tensor, means: Tensor, log_sd: Tensor, dtype: torch.dtype) -> GaussianMixture:
    return GaussianMixture(
        None,
        means.unsqueeze(-1).to(dtype),
        log_sd.exp()[..., None, None].to(dtype),
        log_weights=log_weights.to(dtype),
        validate_args=False,
    )


def _positive(value: Any, name: str) -> Tensor:
    value = torch.as_tensor(value, dtype=torch.float64).reshape(-1)
    if bad := (~((value > 0) & value.isfinite())).nonzero().flatten().tolist():
        raise DatumwiseError(f"{name} is not positive in row {name_some(bad)}")
    return value


def _refuse_meta(K: int, concentration_range: tuple[float, float], **metas: tuple[float, float]) -> None:
    if K < 1:
        raise SchemaMismatch(f"a family of {K} components", remedy="K >= 1")
    low, high = concentration_range
    if not 0 < low < high:
        raise DatumwiseError(f"concentration_range {concentration_range} is no range", remedy="0 < low < high")
    for name, (first, second) in metas.items():
        if not (first > 0 and second > 0):
            raise DatumwiseError(f"{name} = {(first, second)} are no parameters of an inverse gamma", remedy="both positive")
