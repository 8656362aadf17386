"""Gaussian mixtures in batches: a prior, a posterior, and a prior again. Whittle et al., 2025, arXiv 2502.02463, section 3.

Log weights and the lower factor of every covariance are what is kept: weights that underflow stay apart, and no covariance
is ever factored twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, name_some
from datumwise.learn.triangular import lower_factor, solve_lower

__all__ = ["GaussianMixture", "component_features", "feature_names"]

LOG_2PI = math.log(2 * math.pi)
SIMPLEX = 1e-4  # largest distance of a sum of weights from 1 that is rounding
SMALLEST_WEIGHT = 1e-8  # weights below are one and the same to a network
BLOCK = 1 << 22  # numbers of (draws, mixtures, components, dimensions) worked on at once


class GaussianMixture:
    """B mixtures of K Gaussians in d dimensions.

    Parameters
    ----------
    weights : float (B, K) or (K,), or None
        On the simplex. None if ``log_weights`` are given.
    means : float (B, K, d) or (K, d)
    scale_tril : float (B, K, d, d) or (K, d, d)
        Lower factors L of the covariances L L^T, positive on the diagonal.
    log_weights : float (B, K) or (K,), optional
        Instead of ``weights``; they may lie below the logarithm of the smallest float.
    validate_args : bool, default True
        False skips the checks of values, for inner loops.

    Attributes
    ----------
    log_weights, means, scale_tril : tensors (B, K), (B, K, d), (B, K, d, d)

    Raises
    ------
    DatumwiseError
        Weights off the simplex, a factor that is not lower triangular with a positive diagonal; rows are named.
    SchemaMismatch
        Shapes or dtypes that do not fit.
    NotFinite
        NaN or infinity.

    Examples
    --------
    >>> mixture = GaussianMixture(torch.tensor([0.25, 0.75]), torch.tensor([[0.0], [4.0]]), torch.ones(2, 1, 1))
    >>> mixture.mean.tolist(), mixture.covariance.tolist()
    ([[3.0]], [[[4.0]]])
    >>> lower, upper = mixture.interval(0.9)
    >>> round(mixture.cdf(upper).item() - mixture.cdf(lower).item(), 6)
    0.9
    """

    def __init__(
        self,
        weights: Tensor | None,
        means: Tensor,
        scale_tril: Tensor,
        *,
        log_weights: Tensor | None = None,
        validate_args: bool = True,
    ) -> None:
        if (weights is None) == (log_weights is None):
            raise SchemaMismatch("a mixture needs weights or log_weights, one of the two")
        if validate_args:
            weights, log_weights, means, scale_tril = _checked(weights, log_weights, means, scale_tril)
        if log_weights is None:
            assert weights is not None
            log_weights = weights.log()
        self.log_weights = log_weights
        self.means = means
        self.scale_tril = scale_tril

    # ------------------------------------------------------------------ other ways in

    @classmethod
    def from_covariance(cls, weights: Tensor, means: Tensor, covariances: Tensor) -> GaussianMixture:
        """From covariance matrices (B, K, d, d) or (K, d, d), factored once.

        Raises
        ------
        DatumwiseError
            One that is not symmetric positive definite; mixture and component are named.

        Examples
        --------
        >>> covariances = torch.tensor([[[4.0, 2.0], [2.0, 10.0]]])
        >>> GaussianMixture.from_covariance(torch.ones(1), torch.zeros(1, 2), covariances).scale_tril.tolist()
        [[[[2.0, 0.0], [1.0, 3.0]]]]
        """
        covariances = _tensor(covariances, "covariances")
        if covariances.dim() < 3 or covariances.shape[-1] != covariances.shape[-2]:
            raise SchemaMismatch(f"covariances are (B, K, d, d) or (K, d, d), not {tuple(covariances.shape)}")
        _refuse_not_finite(covariances, "covariances")
        size = covariances.abs().amax((-1, -2))
        skew = (covariances - covariances.mT).abs().amax((-1, -2)) > 1e-5 * size
        factor, info = torch.linalg.cholesky_ex(covariances)
        if (bad := skew | (info > 0)).any():
            raise DatumwiseError(f"covariance of {_name(bad)} is not symmetric positive definite")
        return cls(weights, means, factor)

    @classmethod
    def from_samples(
        cls,
        samples: Tensor,
        n_components: int,
        *,
        log_weights: Tensor | None = None,
        steps: int = 100,
        generator: torch.Generator | None = None,
    ) -> GaussianMixture:
        """Fitted to draws by expectation maximisation from k-means++ centres; keeps the draws' mean and covariance.

        Parameters
        ----------
        samples : float (S, d) or (S, B, d)
            S draws, of one or of B distributions.
        n_components : int
        log_weights : float (S,) or (S, B), optional
            Importance of each draw, up to a constant.
        steps : int, default 100
            Steps of expectation maximisation.
        generator : torch.Generator, optional
            Picks the centres; seed 0 if not given.

        Returns
        -------
        GaussianMixture
            Of B mixtures.

        Raises
        ------
        NotFinite, SchemaMismatch, DatumwiseError
            NaN, shapes that do not fit, fewer draws than components.

        Examples
        --------
        >>> truth = GaussianMixture(torch.tensor([0.3, 0.7]), torch.tensor([[-3.0], [3.0]]), torch.ones(2, 1, 1))
        >>> draws = truth.sample(4000, torch.Generator().manual_seed(1))
        >>> round(truth.kl(GaussianMixture.from_samples(draws, 2)).item(), 2)
        0.0
        """
        from datumwise.learn.expectation_maximization import fit_mixture

        return fit_mixture(samples, n_components, log_weights=log_weights, steps=steps, generator=generator)

    @classmethod
    def from_distribution(
        cls,
        distribution: Distribution,
        n_components: int,
        *,
        support: Any = "real",
        generator: torch.Generator | None = None,
    ) -> GaussianMixture:
        """K Gaussians closest to a torch distribution, in the unconstrained space of ``support``.

        A Normal, a MultivariateNormal and mixtures of them are taken over as they are (split or reduced to K components);
        other univariate distributions are fitted to their density on a grid, others to 20,000 draws.

        Parameters
        ----------
        distribution : torch.distributions.Distribution
            Batch shape () or (B,), event shape () or (d,).
        n_components : int
        support : {"real", "positive", "unit"}, Transform, or a tuple with one of them a dimension
            The mixture is over T(x): x, log x, or logit x.
        generator : torch.Generator, optional
            Seed 0 if not given.

        Returns
        -------
        GaussianMixture

        Raises
        ------
        SchemaMismatch
            Batch or event shape of more than one axis.

        Examples
        --------
        >>> prior = GaussianMixture.from_distribution(torch.distributions.Gamma(3.0, 6.0), 5, support="positive")
        >>> lower, upper = prior.interval(0.95)
        >>> lower.exp().item() < 0.5 < upper.exp().item()
        True
        """
        from datumwise.learn.distribution_fit import fit_distribution

        return fit_distribution(distribution, n_components, support=support, generator=generator)

    @classmethod
    def from_dict(cls, values: dict[str, Any], *, dtype: torch.dtype = torch.float64) -> GaussianMixture:
        """From what `as_dict` gave.

        Examples
        --------
        >>> mixture = GaussianMixture(torch.tensor([1.0]), torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> GaussianMixture.from_dict(mixture.as_dict()).means.tolist()
        [[[0.0]]]
        """
        if missing := [key for key in ("log_weights", "means", "scale_tril") if key not in values]:
            raise SchemaMismatch(f"a saved mixture lacks {', '.join(missing)}")
        log_weights = [[-math.inf if w is None else w for w in row] for row in values["log_weights"]]
        return cls(
            None,
            torch.tensor(values["means"], dtype=dtype),
            torch.tensor(values["scale_tril"], dtype=dtype),
            log_weights=torch.tensor(log_weights, dtype=dtype),
        )

    @classmethod
    def concatenate(cls, mixtures: Sequence[GaussianMixture]) -> GaussianMixture:
        """Mixtures of the same K and d one after the other along the batch.

        Examples
        --------
        >>> one = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> len(GaussianMixture.concatenate([one, one, one]))
        3
        """
        shapes = {(m.n_components, m.dim) for m in mixtures}
        if len(shapes) != 1:
            raise SchemaMismatch(f"mixtures of different (K, d) {sorted(shapes)} cannot share a batch")
        return cls(
            None,
            torch.cat([m.means for m in mixtures]),
            torch.cat([m.scale_tril for m in mixtures]),
            log_weights=torch.cat([m.log_weights for m in mixtures]),
            validate_args=False,
        )

    @classmethod
    def bank(cls, mixtures: Sequence[GaussianMixture], weights: Tensor) -> GaussianMixture:
        """One mixture of mixtures: experts' priors, or hypotheses, with a weight each.

        Parameters
        ----------
        mixtures : sequence of M GaussianMixture
            The same B and d; their K may differ.
        weights : float (M,) or (B, M)
            On the simplex.

        Returns
        -------
        GaussianMixture
            With the sum of the K as components; see `reduce`.

        Examples
        --------
        >>> one = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> two = GaussianMixture(torch.ones(1), torch.ones(1, 1), torch.ones(1, 1, 1))
        >>> GaussianMixture.bank([one, two], torch.tensor([0.5, 0.5])).mean.tolist()
        [[0.5]]
        """
        shapes = {(len(m), m.dim) for m in mixtures}
        if len(shapes) != 1:
            raise SchemaMismatch(f"mixtures of different (B, d) {sorted(shapes)} cannot be mixed")
        weights = weights.expand(len(mixtures[0]), -1)
        if weights.shape[-1] != len(mixtures):
            raise SchemaMismatch(f"{len(mixtures)} mixtures and {weights.shape[-1]} weights")
        _refuse_off_simplex(weights, "weights")
        return cls(
            None,
            torch.cat([m.means for m in mixtures], 1),
            torch.cat([m.scale_tril for m in mixtures], 1),
            log_weights=torch.cat([m.log_weights + w.log()[:, None] for m, w in zip(mixtures, weights.mT, strict=True)], 1),
            validate_args=False,
        )

    # ------------------------------------------------------------------ what it is

    @property
    def weights(self) -> Tensor:
        """float (B, K)"""
        return self.log_weights.exp()

    @property
    def covariances(self) -> Tensor:
        """float (B, K, d, d), of the components"""
        return self.scale_tril @ self.scale_tril.mT

    @property
    def n_components(self) -> int:
        """K"""
        return self.means.shape[-2]

    @property
    def dim(self) -> int:
        """d"""
        return self.means.shape[-1]

    @property
    def dtype(self) -> torch.dtype:
        return self.means.dtype

    @property
    def device(self) -> torch.device:
        return self.means.device

    def __len__(self) -> int:
        """B"""
        return self.means.shape[0]

    def __repr__(self) -> str:
        return f"GaussianMixture(B={len(self)}, K={self.n_components}, d={self.dim}, {str(self.dtype).removeprefix('torch.')})"

    def __getitem__(self, index: Any) -> GaussianMixture:
        """The mixtures at ``index`` of the batch: an int, a slice, a list of ints or a tensor; always a batch again."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"mixture {index} of {len(self)}")
            index = [index]
        return self._like(self.log_weights[index], self.means[index], self.scale_tril[index])

    def to(self, *args: Any, **kwargs: Any) -> GaussianMixture:
        """In another dtype or on another device, as ``Tensor.to``."""
        return self._like(*(t.to(*args, **kwargs) for t in (self.log_weights, self.means, self.scale_tril)))

    def detach(self) -> GaussianMixture:
        """Without its gradient history."""
        return self._like(self.log_weights.detach(), self.means.detach(), self.scale_tril.detach())

    def as_dict(self) -> dict[str, Any]:
        """Nested lists that JSON takes; a log weight of minus infinity is None."""
        log_weights = [[None if math.isinf(w) else w for w in row] for row in self.log_weights.tolist()]
        return {"log_weights": log_weights, "means": self.means.tolist(), "scale_tril": self.scale_tril.tolist()}

    # ------------------------------------------------------------------ moments, densities, draws

    @property
    def mean(self) -> Tensor:
        """float (B, d)"""
        return (self.weights.unsqueeze(-1) * self.means).sum(-2)

    @property
    def covariance(self) -> Tensor:
        """float (B, d, d): within components plus between their means"""
        apart = self.means - self.mean.unsqueeze(-2)
        each = self.covariances + apart.unsqueeze(-1) * apart.unsqueeze(-2)
        return (self.weights[..., None, None] * each).sum(-3)

    def component_log_prob(self, x: Tensor) -> Tensor:
        """log N(x; mu_k, Sigma_k) of every component.

        Parameters
        ----------
        x : float (..., B, d)

        Returns
        -------
        float (..., B, K)
        """
        if self.dim == 1:
            scale = self.scale_tril[..., 0, 0]
            return -0.5 * ((x - self.means[..., 0]) / scale).square() - (scale.log() + 0.5 * LOG_2PI)
        white = solve_lower(self.scale_tril, x.unsqueeze(-2) - self.means)
        log_det = self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return -0.5 * (white.square().sum(-1) + self.dim * LOG_2PI) - log_det

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density.

        Parameters
        ----------
        x : float (..., B, d)
            A B of 1 is shown to all mixtures.

        Returns
        -------
        float (..., B)

        Raises
        ------
        SchemaMismatch
            x has another d or B.

        Examples
        --------
        >>> far = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1)).log_prob(torch.tensor([[60.0]]))
        >>> round(far.item(), 3)
        -1800.919
        """
        if x.dim() < 2 or x.shape[-1] != self.dim or x.shape[-2] not in (1, len(self)):
            raise SchemaMismatch(f"x of shape {tuple(x.shape)} for {self!r}", remedy="(..., B, d)")
        size = x.shape[0] * len(self) * self.n_components * self.dim if x.dim() == 3 else 0
        if size > BLOCK and not torch.is_grad_enabled():
            rows = max(1, BLOCK * x.shape[0] // size)
            return torch.cat([self.log_prob(part) for part in x.split(rows)])
        return torch.logsumexp(self.log_weights + self.component_log_prob(x), -1)

    def responsibilities(self, x: Tensor) -> Tensor:
        """Probability (..., B, K) that x (..., B, d) came from each component."""
        return torch.softmax(self.log_weights + self.component_log_prob(x), -1)

    @torch.no_grad()
    def sample(self, n: int = 1, generator: torch.Generator | None = None) -> Tensor:
        """n draws of every mixture.

        Parameters
        ----------
        n : int
        generator : torch.Generator, optional
            On the mixture's device; a fresh one of seed 0 if not given, so that nothing depends on the global state.

        Returns
        -------
        float (n, B, d)

        Examples
        --------
        >>> mixture = GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[-9.0], [9.0]]), torch.ones(2, 1, 1))
        >>> draws = mixture.sample(1000, torch.Generator().manual_seed(0))
        >>> draws.shape, abs((draws > 0).float().mean().item() - 0.5) < 0.05
        (torch.Size([1000, 1, 1]), True)
        """
        if n < 0:
            raise DatumwiseError(f"n = {n} draws cannot be made", remedy="n >= 0")
        if generator is None:
            generator = torch.Generator(self.device).manual_seed(0)
        options: dict[str, Any] = {"generator": generator, "dtype": self.dtype, "device": self.device}
        cumulative = self.weights.cumsum(-1)
        uniform = torch.rand(len(self), n, **options) * cumulative[:, -1:]
        chosen = torch.searchsorted(cumulative, uniform, right=True).clamp_max(self.n_components - 1)  # (B, n)
        normal = torch.randn(len(self), n, self.dim, **options)
        row = torch.arange(len(self), device=self.device).unsqueeze(-1)
        drawn = self.means[row, chosen] + (self.scale_tril[row, chosen] @ normal.unsqueeze(-1)).squeeze(-1)
        return drawn.transpose(0, 1)

    @torch.no_grad()
    def kl(self, other: GaussianMixture, n: int | None = None, *, generator: torch.Generator | None = None) -> Tensor:
        """KL(self || other), in nats.

        Parameters
        ----------
        other : GaussianMixture
            Of the same B and d, or of one of the two B = 1.
        n : int, optional
            Draws of self, a Monte-Carlo estimate. Not given: quadrature if d <= 2, else 10,000 draws.
        generator : torch.Generator, optional

        Returns
        -------
        float (B,)

        Raises
        ------
        SchemaMismatch
            Another d or B.

        Examples
        --------
        >>> one = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> two = GaussianMixture(torch.ones(1), torch.ones(1, 1), torch.full((1, 1, 1), 2.0))
        >>> round(one.kl(two).item(), 6)  # log 2 + (1 + 1)/8 - 1/2
        0.443147
        """
        if self.dim != other.dim or (len(self) != len(other) and 1 not in (len(self), len(other))):
            raise SchemaMismatch(f"the divergence of {self!r} from {other!r} is not defined", remedy="the same B and d")
        if n is None and self.dim <= 2:
            from datumwise.learn.quadrature import kl_by_quadrature

            return kl_by_quadrature(self, other)
        p = self if len(self) >= len(other) else self[[0] * len(other)]
        draws = p.sample(n or 10_000, generator)
        return (p.log_prob(draws) - other.log_prob(draws)).mean(0)

    def cdf(self, x: Tensor) -> Tensor:
        """P(X <= x) in one dimension; x (..., B) gives (..., B)."""
        self._one_dimension("cdf")
        z = (x.unsqueeze(-1) - self.means[..., 0]) / self.scale_tril[..., 0, 0]
        return (self.weights * torch.special.ndtr(z)).sum(-1)

    @torch.no_grad()
    def quantile(self, p: Tensor | float) -> Tensor:
        """Where the cdf is p, in one dimension, by bisection between the components' quantiles.

        Parameters
        ----------
        p : float or float (Q,)
            Within (0, 1).

        Returns
        -------
        float (B,) or (Q, B)

        Examples
        --------
        >>> mixture = GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[-2.0], [2.0]]), torch.ones(2, 1, 1))
        >>> abs(round(mixture.quantile(0.5).item(), 5))
        0.0
        """
        self._one_dimension("quantile")
        p = torch.as_tensor(p, dtype=self.dtype, device=self.device)
        if not bool(((p > 0) & (p < 1)).all()):
            raise DatumwiseError(f"quantiles of levels {p.tolist()} do not exist", remedy="0 < p < 1")
        level = p.unsqueeze(-1).expand(*p.shape, len(self))
        each = self.means[..., 0] + self.scale_tril[..., 0, 0] * torch.special.ndtri(level).unsqueeze(-1)
        low, high = each.amin(-1), each.amax(-1)
        for _ in range(80 if self.dtype == torch.float64 else 40):
            middle = 0.5 * (low + high)
            below = self.cdf(middle) < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return 0.5 * (low + high)

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Equal-tailed interval in one dimension: two tensors (B,)."""
        if not 0 < level < 1:
            raise DatumwiseError(f"an interval of level {level} does not exist", remedy="0 < level < 1")
        tail = 0.5 * (1 - level)
        return self.quantile(tail), self.quantile(1 - tail)

    # ------------------------------------------------------------------ new mixtures of it

    def marginal(self, idx: int | Sequence[int]) -> GaussianMixture:
        """Of the coordinates ``idx``, in that order.

        Examples
        --------
        >>> L = torch.tensor([[[2.0, 0.0], [3.0, 4.0]]])
        >>> GaussianMixture(torch.ones(1), torch.tensor([[1.0, 2.0]]), L).marginal(1).scale_tril.tolist()
        [[[[5.0]]]]
        """
        index = [idx] if isinstance(idx, int) else list(idx)
        if not index or len(set(index)) != len(index) or not all(-self.dim <= i < self.dim for i in index):
            raise SchemaMismatch(f"coordinates {index} of {self.dim}", remedy="distinct ones from 0 to d - 1")
        return self._like(self.log_weights, self.means[..., index], lower_factor(self.scale_tril[..., index, :]))

    def affine(self, A: Tensor, b: Tensor | None = None, Q: Tensor | None = None) -> GaussianMixture:
        """Of A x + b + e with e ~ N(0, Q): a linear motion. Weights are kept.

        Parameters
        ----------
        A : float (p, d) or (B, p, d)
        b : float (p,) or (B, p), optional
        Q : float (p, p) or (B, p, p), optional
            Symmetric positive semi-definite.

        Returns
        -------
        GaussianMixture
            In p dimensions.

        Raises
        ------
        DatumwiseError
            The result has a singular covariance, or Q is not positive semi-definite.
        SchemaMismatch

        Examples
        --------
        >>> state = GaussianMixture(torch.ones(1), torch.ones(1, 1), torch.full((1, 1, 1), 3.0))
        >>> moved = state.affine(torch.tensor([[2.0]]), torch.tensor([1.0]), torch.tensor([[64.0]]))
        >>> moved.means.item(), moved.scale_tril.item()
        (3.0, 10.0)
        """
        A = torch.as_tensor(A, dtype=self.dtype, device=self.device)
        b, Q = (None if t is None else torch.as_tensor(t, dtype=self.dtype, device=self.device) for t in (b, Q))
        if A.dim() not in (2, 3) or A.shape[-1] != self.dim:
            raise SchemaMismatch(f"A of shape {tuple(A.shape)} for a state of dimension {self.dim}", remedy="(p, d)")
        p = A.shape[-2]
        if b is not None and b.shape[-1:] != (p,):
            raise SchemaMismatch(f"b of shape {tuple(b.shape)} beside A of shape {tuple(A.shape)}", remedy="(p,)")
        if Q is not None and Q.shape[-2:] != (p, p):
            raise SchemaMismatch(f"Q of shape {tuple(Q.shape)} beside A of shape {tuple(A.shape)}", remedy="(p, p)")
        if Q is None and p > self.dim:
            raise DatumwiseError(f"{p} coordinates of {self.dim} without noise have a singular covariance", remedy="give Q")
        A = A.unsqueeze(-3)  # over components
        means = (A @ self.means.unsqueeze(-1)).squeeze(-1)
        if b is not None:
            means = means + b.unsqueeze(-2)
        root = A @ self.scale_tril
        if Q is not None:
            noise = _root(Q).unsqueeze(-3).expand(*root.shape[:-2], p, p)
            root = torch.cat((root, noise), -1)
        scale_tril = lower_factor(root)
        if not bool((scale_tril.diagonal(dim1=-2, dim2=-1) > 0).all()):
            raise DatumwiseError("the moved mixture has a singular covariance", remedy="an A of full rank, or noise Q")
        return self._like(self.log_weights, means, scale_tril)

    def unscented(self, motion: Callable[[Tensor], Tensor], Q: Tensor | None = None) -> GaussianMixture:
        """Of f(x) + e for a nonlinear f: the moments of every component through 2 d + 1 sigma points (weights 1/3, 1/(3 d)).

        Exact in mean and covariance if f is linear, in the mean if it is quadratic (Julier and Uhlmann, 1997, with
        kappa = d / 2).

        Parameters
        ----------
        motion : callable
            float (..., d) -> float (..., p).
        Q : float (p, p), optional
            Covariance of e.

        Returns
        -------
        GaussianMixture
            In p dimensions.

        Examples
        --------
        >>> state = GaussianMixture(torch.ones(1), torch.ones(1, 1), torch.full((1, 1, 1), 0.5))
        >>> round(state.unscented(lambda x: x**2).means.item(), 6)  # 1 + .25
        1.25
        """
        d = self.dim
        spread = self.scale_tril.mT * math.sqrt(1.5 * d)  # rows are columns of L
        centre = self.means.unsqueeze(-2)
        points = motion(torch.cat((centre, centre + spread, centre - spread), -2))  # (B, K, 2 d + 1, p)
        share = torch.full((2 * d + 1,), 1 / (3 * d), dtype=self.dtype, device=self.device)
        share[0] = 1 / 3
        means = (share.unsqueeze(-1) * points).sum(-2)
        root = ((points - means.unsqueeze(-2)) * share.sqrt().unsqueeze(-1)).mT
        if Q is not None:
            noise = _root(torch.as_tensor(Q, dtype=self.dtype, device=self.device))
            root = torch.cat((root, noise.expand(*root.shape[:-1], noise.shape[-1])), -1)
        return GaussianMixture(None, means, lower_factor(root), log_weights=self.log_weights)

    def reduce(self, n_components: int) -> GaussianMixture:
        """With at most K' components, by Runnalls's merging: mean and covariance are kept.

        Examples
        --------
        >>> three = GaussianMixture(torch.tensor([0.5, 0.25, 0.25]), torch.tensor([[0.0], [5.0], [5.1]]), torch.ones(3, 1, 1))
        >>> sorted(round(m, 3) for m in three.reduce(2).means.flatten().tolist())
        [0.0, 5.05]
        """
        from datumwise.learn.runnalls_reduction import reduce_mixture

        return reduce_mixture(self, n_components)

    def split(self, n_components: int) -> GaussianMixture:
        """The same density with K' >= K components: the heaviest is parted 1 : 2, as often as needed.

        Equal tokens stay equal for ever in an equivariant network, so the parts get different weights.

        Examples
        --------
        >>> one = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
        >>> [round(w, 3) for w in one.split(3).weights.flatten().tolist()]
        [0.333, 0.222, 0.444]
        """
        if n_components < self.n_components:
            raise DatumwiseError(f"{self.n_components} components cannot be split into {n_components}", remedy="reduce")
        log_weights, means, scale_tril = self.log_weights, self.means, self.scale_tril
        row = torch.arange(len(self), device=self.device)
        for _ in range(n_components - self.n_components):
            heavy = log_weights.argmax(-1)
            parted = log_weights[row, heavy]
            third = log_weights.scatter(1, heavy[:, None], (parted - math.log(3))[:, None])
            log_weights = torch.cat((third, (parted + math.log(2 / 3))[:, None]), 1)
            means = torch.cat((means, means[row, heavy][:, None]), 1)
            scale_tril = torch.cat((scale_tril, scale_tril[row, heavy][:, None]), 1)
        return self._like(log_weights, means, scale_tril)

    def _like(self, log_weights: Tensor, means: Tensor, scale_tril: Tensor) -> GaussianMixture:
        return GaussianMixture(None, means, scale_tril, log_weights=log_weights, validate_args=False)

    def _one_dimension(self, what: str) -> None:
        if self.dim != 1:
            raise SchemaMismatch(f"{what} is of one dimension and the mixture has {self.dim}", remedy="marginal(i) first")


def component_features(mixture: GaussianMixture) -> Tensor:
    """What a network sees of every component: log w, mu, log diag L, strict lower L.

    Parameters
    ----------
    mixture : GaussianMixture

    Returns
    -------
    float (B, K, 1 + d + d (d + 1) / 2)
        Weights below 1e-8 count as 1e-8.

    Examples
    --------
    >>> mixture = GaussianMixture(torch.ones(1), torch.full((1, 1), 2.0), torch.ones(1, 1, 1))
    >>> component_features(mixture).tolist()
    [[[0.0, 2.0, 0.0]]]
    """
    d = mixture.dim
    log_weights = mixture.log_weights.clamp_min(math.log(SMALLEST_WEIGHT)).unsqueeze(-1)
    log_diagonal = mixture.scale_tril.diagonal(dim1=-2, dim2=-1).log()
    if d == 1:
        return torch.cat((log_weights, mixture.means, log_diagonal), -1)
    row, column = torch.tril_indices(d, d, -1, device=mixture.device)
    return torch.cat((log_weights, mixture.means, log_diagonal, mixture.scale_tril[..., row, column]), -1)


def feature_names(d: int) -> list[str]:
    """Names of the columns of `component_features`.

    Examples
    --------
    >>> feature_names(2)
    ['log weight', 'mean 0', 'mean 1', 'log scale 0', 'log scale 1', 'scale 1,0']
    """
    lower = [f"scale {i},{j}" for i in range(d) for j in range(i)]
    return ["log weight", *(f"mean {i}" for i in range(d)), *(f"log scale {i}" for i in range(d)), *lower]


def _checked(
    weights: Tensor | None, log_weights: Tensor | None, means: Tensor, scale_tril: Tensor
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor]:
    """The four as tensors with a batch axis, or a refusal."""
    means, scale_tril = _tensor(means, "means"), _tensor(scale_tril, "scale_tril")
    given = _tensor(weights if log_weights is None else log_weights, "weights")
    if means.dim() == 2:
        means, scale_tril, given = means[None], scale_tril[None], given[None]
    if means.dim() != 3 or given.shape != means.shape[:2] or scale_tril.shape != (*means.shape, means.shape[-1]):
        raise SchemaMismatch(
            f"weights {tuple(given.shape)}, means {tuple(means.shape)} and scale_tril {tuple(scale_tril.shape)} do not fit",
            remedy="(B, K), (B, K, d) and (B, K, d, d)",
        )
    if 0 in means.shape[1:]:
        raise SchemaMismatch(f"means of shape {tuple(means.shape)} hold no component", remedy="K >= 1 and d >= 1")
    if len({means.dtype, scale_tril.dtype, given.dtype}) > 1:
        raise SchemaMismatch(f"weights, means and scale_tril are {given.dtype}, {means.dtype} and {scale_tril.dtype}")
    _refuse_not_finite(means, "means")
    _refuse_not_finite(scale_tril, "scale_tril")
    _refuse_off_simplex(given if log_weights is None else given.exp(), "weights")
    upright = (scale_tril.diagonal(dim1=-2, dim2=-1) > 0).all(-1)
    if not bool(upright.all()):
        raise DatumwiseError(
            f"scale_tril of {_name(~upright)} has no positive diagonal: its covariance is not positive definite"
        )
    if not bool((scale_tril.triu(1) == 0).all()):
        bad = (scale_tril.triu(1) != 0).any(-1).any(-1)
        raise DatumwiseError(f"scale_tril of {_name(bad)} is not lower triangular", remedy="from_covariance takes covariances")
    return (given, None, means, scale_tril) if log_weights is None else (None, given, means, scale_tril)


def _tensor(values: Any, name: str) -> Tensor:
    values = torch.as_tensor(values)
    if not values.is_floating_point():
        raise SchemaMismatch(f"{name} are {values.dtype}, not floats")
    return values


def _refuse_not_finite(values: Tensor, name: str) -> None:
    if not bool(values.isfinite().all()):
        bad = ~values.isfinite().flatten(1).all(1) if values.dim() > 1 else ~values.isfinite()
        raise NotFinite(f"{name} hold NaN or infinity in mixture {name_some(bad.nonzero().flatten().tolist())}")


def _refuse_off_simplex(weights: Tensor, name: str) -> None:
    """weights (B, K)"""
    if bool(weights.isnan().any()):
        raise NotFinite(f"{name} hold NaN in mixture {name_some(weights.isnan().any(-1).nonzero().flatten().tolist())}")
    if bool((weights < 0).any()):
        raise DatumwiseError(f"{name} of mixture {name_some((weights < 0).any(-1).nonzero().flatten().tolist())} are negative")
    total = weights.sum(-1)
    off = (total - 1).abs() > SIMPLEX
    if bool(off.any()):
        row = int(off.nonzero()[0])
        raise DatumwiseError(
            f"{name} of mixture {name_some(off.nonzero().flatten().tolist())} do not sum to 1 ({total[row].item():g})",
            remedy="divide by their sum",
        )


def _name(bad: Tensor) -> str:
    """ "mixture 3, component 1" of the True entries of (B, K) or (K,)"""
    where = bad.nonzero().tolist()
    return name_some(f"mixture {w[0]}, component {w[1]}" if len(w) == 2 else f"component {w[0]}" for w in where)


def _root(Q: Tensor) -> Tensor:
    """A square root of a positive semi-definite matrix: zero eigenvalues are allowed, negative ones are not."""
    if Q.shape[-1] == 1:
        if not bool((Q >= 0).all()):
            raise DatumwiseError("the noise covariance Q is negative or NaN")
        return Q.sqrt()
    factor, info = torch.linalg.cholesky_ex(Q)
    if not bool(info.any()):
        return factor
    value, vector = torch.linalg.eigh(Q)
    if bool((value < -1e-6 * value.abs().amax(-1, keepdim=True)).any()):
        raise DatumwiseError("the noise covariance Q is not positive semi-definite")
    return vector * value.clamp_min(0).sqrt().unsqueeze(-2)
