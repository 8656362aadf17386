"""The deep kernel machine of tables: Gram matrices of inducing points, learned in whitened form.

Yang, Robeyns, Milsom, Anson, Schoots and Aitchison, 2023, *A theory of representation learning gives a deep generalisation of
kernel methods* (arXiv 2108.13097); the output layer is integrated out as in Titsias, 2009, *Variational learning of inducing
variables in sparse Gaussian processes*, eq. 9.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from datumwise.learn.deep_kernel.cholesky import guarded_cholesky, lower_factor
from datumwise.learn.deep_kernel.kernels import kernel_cross, kernel_diagonal, kernel_square
from datumwise.learn.deep_kernel.kl import kl_whitened

__all__ = ["Factors", "Layer", "Projection", "SparseMachine", "Statistics", "collapsed_bound"]

BIAS = 0.1  # constant that every kernel starts with
NOISE = 0.1  # noise variance that training starts from, in units of the standardised target
NOISE_FLOOR = {torch.float64: 1e-6, torch.float32: 1e-4}  # below this the collapsed bound loses its digits
VARIANCE_FLOOR = 1e-12  # of a conditional variance, relative to the unconditional one
SKR_JITTER = 0.1  # added to a regularised Gram matrix, relative to its mean diagonal


class Layer(NamedTuple):
    """What datapoints need from the inducing points of one Gram layer."""

    diagonal: Tensor  # (P,) of the Gram matrix that goes into the kernel
    L: Tensor | None  # (P, P) Cholesky factor of K_ii; None where G = K is pinned
    S: Tensor | None  # (P, P) G_ii = L S S^T L^T
    V: Tensor | None  # (P, P) L S


class Factors(NamedTuple):
    """Everything that depends on inducing points alone; computed once a step, or once for a whole stream."""

    layers: list[Layer]
    diagonal: Tensor  # (P,) of G_L
    K: Tensor  # (P, P) last kernel, jitter included
    L: Tensor  # (P, P) its Cholesky factor
    grams: list[Tensor]  # G_0, ..., G_L of the inducing points


class Projection(NamedTuple):
    """Datapoints as the last layer sees them."""

    F: Tensor  # (T, d + 1) features of the inputs, G_0 = F F^T
    A: Tensor  # (P, T) L^-1 K_it
    k: Tensor  # (T,) prior variance
    steps: list[tuple[Tensor, Tensor | None, Tensor | None]]  # a layer: g_t before the kernel, A, S^T A
    g: Tensor  # (T,) diagonal of G_L


@dataclass(frozen=True)
class Statistics:
    """All that the collapsed output layer needs of n datapoints; statistics of parts add up, and can be taken off again."""

    Phi: Tensor  # (P, P) sum of a a^T
    b: Tensor  # (P, C) sum of a y^T
    yy: Tensor  # () sum of y^2 over datapoints and outputs
    residual: Tensor  # () sum of k_t - |a|^2
    n: int

    @classmethod
    def of(cls, A: Tensor, k: Tensor, y: Tensor) -> Statistics:
        """Of datapoints A (P, T), k (T,), y (T, C)."""
        return cls(A @ A.T, A @ y, y.square().sum(), (k - A.square().sum(0)).clamp_min(0).sum(), len(k))

    def plus(self, other: Statistics, weight: int = 1) -> Statistics:
        """Of both; ``weight`` -1 takes the other's datapoints off."""
        sums = (own + weight * theirs for own, theirs in zip(self._sums(), other._sums(), strict=True))
        return self._of_sums(sums, self.n + weight * other.n)

    def scaled(self, n: int) -> Statistics:
        """As if of n datapoints."""
        return self._of_sums((n / self.n * own for own in self._sums()), n)

    def towards(self, other: Statistics, rate: float) -> Statistics:
        """Running mean: (1 - rate) of these and rate of the other's, scaled to as many datapoints."""
        whole = other.scaled(self.n)
        mixed = (keep + rate * (new - keep) for keep, new in zip(self._sums(), whole._sums(), strict=True))
        return self._of_sums(mixed, self.n)

    def _sums(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.Phi, self.b, self.yy, self.residual

    @staticmethod
    def _of_sums(sums: Iterable[Tensor], n: int) -> Statistics:
        Phi, b, yy, residual = sums
        return Statistics(Phi, b, yy, residual, n)


class SparseMachine(nn.Module):
    """L Gram layers over P inducing points: kernel, Gram, ..., kernel, Gram, kernel.

    A Gram layer holds S, lower-triangular with positive diagonal, and G_ii = L S S^T L^T with L the Cholesky factor of K_ii:
    S = I is the prior (infinite width), and KL(G_ii || K_ii) = (|S|_F^2 - P)/2 - sum log diag S needs no inverse.
    Datapoints follow with A = L^-1 K_it:

        G_ti = (S^T A)^T (L S)^T,   g_t = k_t - |A|^2 + |S^T A|^2.

    Parameters
    ----------
    Z : Tensor (P, d)
        Inducing inputs; its dtype and device are the machine's.
    nus : sequence of float
        One a Gram layer, in [0, inf]; inf pins G = K and has no parameters.
    kernels : sequence of str
        One more than layers.
    ard : bool
        Learn a scale for every input.
    jitter : float
        K_ii + jitter mean(diag K_ii) I.
    kl : {"exact", "taylor"}
    skr_gamma : float
        Stochastic kernel regularisation: in training G_ii is a Wishart draw of P / gamma columns; 0: off.
    noise : float or None
        Fixed noise variance; None: learned.
    dense : bool
        Z are the training inputs, stay fixed, and get the jitter as datapoints too.
    input_bias : float
        Constant added to the first Gram matrix at the start, learned; without it every homogeneous kernel (arccos, gaussian,
        heaviside) sees directions only. 0: none.

    Examples
    --------
    The inducing points' own Gram matrix is what the prior gives, until something is learned:

    >>> Z = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
    >>> learned, pinned = (SparseMachine(Z, [nu], ["arccos"] * 2, jitter=0.0) for nu in (1.0, math.inf))
    >>> bool(torch.allclose(learned.factors().K, pinned.factors().K)), learned.kls()[0].item()
    (True, 0.0)
    """

    clamped: Tensor  # () int64, conditional variances that rounding had made negative

    def __init__(
        self,
        Z: Tensor,
        nus: Sequence[float],
        kernels: Sequence[str],
        *,
        ard: bool = True,
        jitter: float = 1e-6,
        kl: str = "exact",
        skr_gamma: float = 0.0,
        noise: float | None = None,
        dense: bool = False,
        input_bias: float = 1.0,
    ) -> None:
        super().__init__()
        P, d = Z.shape
        like: dict[str, Any] = {"dtype": Z.dtype, "device": Z.device}
        self.nus, self.kernels = list(nus), list(kernels)
        self.jitter, self.kl, self.skr_gamma, self.dense = jitter, kl, skr_gamma, dense
        self.Z = nn.Parameter(Z.clone(), requires_grad=not dense)
        self.log_scales = nn.Parameter(torch.zeros(d, **like), requires_grad=ard)
        start = math.log(input_bias) if input_bias > 0 else -math.inf
        self.log_input_bias = nn.Parameter(torch.tensor(start, **like), requires_grad=input_bias > 0)
        self.log_weights = nn.Parameter(torch.zeros(len(kernels), **like))
        self.log_biases = nn.Parameter(torch.full((len(kernels),), math.log(BIAS), **like))
        self.noise_floor = NOISE_FLOOR[Z.dtype] if noise is None else 0.0
        value = math.log(NOISE if noise is None else noise)
        self.log_noise = nn.Parameter(torch.tensor(value, **like), requires_grad=noise is None)
        # below the diagonal S itself, on it its logarithm: zeros are S = I
        self.whitened = nn.ParameterList(torch.zeros(P, P, **like) for nu in nus if math.isfinite(nu))
        self.learned = {name for name, p in self.named_parameters() if p.requires_grad}
        self.register_buffer("clamped", torch.zeros((), dtype=torch.int64, device=Z.device))

    @property
    def noise(self) -> Tensor:
        """Noise variance, ()."""
        return self.noise_floor + self.log_noise.exp()

    def learn(self, what: str) -> None:
        """Which parameters get gradients: "all" that are not fixed by choice, "features" (S alone), or "nothing"."""
        for name, p in self.named_parameters():
            feature = name.startswith("whitened")
            p.requires_grad_(what != "nothing" and (feature or (what == "all" and name in self.learned)))

    def S(self, number: int) -> Tensor:
        """Whitened factor of the ``number``-th layer that is learned, (P, P) lower-triangular."""
        return lower_factor(self.whitened[number])

    def kls(self) -> list[Tensor]:
        """KL(G_l || K_l) of every layer, 0 where it is pinned; not multiplied by nu."""
        free = iter(range(len(self.whitened)))
        zero = torch.zeros((), dtype=self.Z.dtype, device=self.Z.device)
        return [kl_whitened(self.S(next(free)), self.kl) if math.isfinite(nu) else zero for nu in self.nus]

    def penalty(self) -> Tensor:
        """Sum of nu_l KL_l over the layers that are learned, ()."""
        pairs = [(nu, kl) for nu, kl in zip(self.nus, self.kls(), strict=True) if math.isfinite(nu)]
        return sum((nu * kl for nu, kl in pairs), torch.zeros((), dtype=self.Z.dtype, device=self.Z.device))

    def affine(self, number: int, k: Tensor) -> Tensor:
        """w k + b of the ``number``-th kernel."""
        return self.log_weights[number].exp() * k + self.log_biases[number].exp()

    def features(self, X: Tensor) -> Tensor:
        """Inputs such that G_0 = F F^T, the bias included, (T, d + 1)."""
        F = X * (self.log_scales.exp() / math.sqrt(X.shape[1]))
        return torch.cat([F, (0.5 * self.log_input_bias).exp().expand(len(X), 1)], dim=1)

    def factors(self, generator: torch.Generator | None = None) -> Factors:
        """Walk the inducing points through all layers.

        Parameters
        ----------
        generator : torch.Generator, optional
            Draws the noise of the stochastic kernel regularisation; None: its mean, as at test time.
        """
        F = self.features(self.Z)
        G = F @ F.T
        layers, grams, free = [], [G], iter(range(len(self.whitened)))
        for number, nu in enumerate(self.nus):
            K = self._square(number, G)
            diagonal = G.diagonal()
            if math.isinf(nu):
                layers.append(Layer(diagonal, None, None, None))
                G = K
            else:
                L, S = guarded_cholesky(K), self.S(next(free))
                V = L @ S
                if self.skr_gamma > 0:
                    V = self._regularised(V, generator)
                    S = torch.linalg.solve_triangular(L, V, upper=False)
                layers.append(Layer(diagonal, L, S, V))
                G = V @ V.T
            grams.append(G)
        K = self._square(len(self.nus), G)
        return Factors(layers, G.diagonal(), K, guarded_cholesky(K), grams)

    def project(self, X: Tensor, factors: Factors) -> Projection:
        """Walk datapoints X (T, d) along; memory O(T P) a layer."""
        F = self.features(X)
        g_ti, g_t = F @ self.features(self.Z).T, F.square().sum(1)
        steps: list[tuple[Tensor, Tensor | None, Tensor | None]] = []
        for number, layer in enumerate(factors.layers):
            k_ti, k_t = self._cross(number, g_ti, g_t, layer.diagonal)
            if layer.L is None or layer.S is None or layer.V is None:
                steps.append((g_t, None, None))
                g_ti, g_t = k_ti, k_t
                continue
            A = torch.linalg.solve_triangular(layer.L, k_ti.T, upper=False)
            SA = layer.S.T @ A
            steps.append((g_t, A, SA))
            g_ti = SA.T @ layer.V.T
            g_t = self._positive(k_t - A.square().sum(0) + SA.square().sum(0), k_t)
        k_ti, k_t = self._cross(len(self.nus), g_ti, g_t, factors.diagonal)
        return Projection(F, torch.linalg.solve_triangular(factors.L, k_ti.T, upper=False), k_t, steps, g_t)

    def training_rows(self, X: Tensor, factors: Factors) -> tuple[Tensor, Tensor]:
        """A (P, T) and k (T,) of training rows: those of a dense machine are its inducing points, jitter included."""
        if self.dense:
            return factors.L.T, factors.K.diagonal()
        found = self.project(X, factors)
        return found.A, found.k

    def cross(self, one: Projection, two: Projection) -> list[Tensor]:
        """G_0, ..., G_L and the last kernel between two projected sets, (T, T2) each; exact diagonal if both are one."""
        same = one is two
        G = one.F @ two.F.T
        blocks = [G]
        for number, ((g, A, SA), (g2, A2, SA2)) in enumerate(zip(one.steps, two.steps, strict=True)):
            G = self._between(number, G, g, g2, same)
            if A is not None and SA is not None and A2 is not None and SA2 is not None:
                G = G - A.T @ A2 + SA.T @ SA2
            blocks.append(G)
        blocks.append(self._between(len(self.nus), G, one.g, two.g, same))
        return blocks

    def _square(self, number: int, G: Tensor) -> Tensor:
        K = self.affine(number, kernel_square(self.kernels[number], G))
        if self.jitter == 0:
            return K
        return K + self.jitter * K.diagonal().mean() * torch.eye(len(K), dtype=K.dtype, device=K.device)

    def _cross(self, number: int, g_ti: Tensor, g_t: Tensor, g_i: Tensor) -> tuple[Tensor, Tensor]:
        name = self.kernels[number]
        k_ti = self.affine(number, kernel_cross(name, g_ti, g_t, g_i))
        return k_ti, self.affine(number, kernel_diagonal(name, g_t))

    def _between(self, number: int, G: Tensor, g: Tensor, g2: Tensor, same: bool) -> Tensor:
        name = self.kernels[number]
        k = kernel_square(name, G) if same else kernel_cross(name, G, g, g2)
        return self.affine(number, k)

    def _positive(self, variance: Tensor, prior: Tensor) -> Tensor:
        """Rounding may leave a conditional variance a little below zero: lift it, and count."""
        floor = VARIANCE_FLOOR * prior.detach()
        with torch.no_grad():
            self.clamped += (variance < floor).sum()
        return torch.maximum(variance, floor)

    def _regularised(self, V: Tensor, generator: torch.Generator | None) -> Tensor:
        """Factor of a Wishart draw around V V^T (of V V^T itself without a generator), lifted off singularity."""
        P = len(V)
        W = V
        if generator is not None:
            columns = math.ceil(P / self.skr_gamma)
            draw = torch.randn(P, columns, generator=generator, dtype=V.dtype, device=generator.device).to(V.device)
            W = (V @ draw) / math.sqrt(columns)
        lift = SKR_JITTER * V.square().sum() / P
        return guarded_cholesky(W @ W.T + lift * torch.eye(P, dtype=V.dtype, device=V.device))


def collapsed_bound(statistics: Statistics, noise: Tensor) -> Tensor:
    """Log-likelihood bound with the best q(u) put in: Titsias, 2009, eq. 9, summed over outputs.

    sum_c log N(y_c; 0, A^T A + s2 I) - C sum(k_t - |a|^2) / (2 s2), from statistics of size P. Exact log-evidence where the
    inducing points are the datapoints.

    Parameters
    ----------
    statistics : Statistics
    noise : Tensor ()
        s2.

    Returns
    -------
    Tensor ()

    Examples
    --------
    >>> A, y = torch.tensor([[1.0, 2.0]]).double(), torch.tensor([[1.0], [0.5]]).double()
    >>> bound = collapsed_bound(Statistics.of(A, A.square().sum(0), y), torch.tensor(0.3).double())
    >>> normal = torch.distributions.MultivariateNormal(torch.zeros(2).double(), A.T @ A + 0.3 * torch.eye(2).double())
    >>> bool(torch.isclose(bound, normal.log_prob(y[:, 0])))
    True
    """
    Phi, b, n = statistics.Phi, statistics.b, statistics.n
    C = b.shape[1]
    LQ = guarded_cholesky(torch.eye(len(Phi), dtype=Phi.dtype, device=Phi.device) + Phi / noise)
    fit = torch.linalg.solve_triangular(LQ, b, upper=False).square().sum() / noise.square()
    log_det = 2 * LQ.diagonal().log().sum()
    return -0.5 * (
        C * n * torch.log(2 * math.pi * noise) + C * log_det + (statistics.yy + C * statistics.residual) / noise - fit
    )
