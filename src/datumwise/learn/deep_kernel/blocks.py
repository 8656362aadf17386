"""Layers of a sparse deep kernel machine, to be put in ``torch.nn.Sequential``: each takes and returns a StructMat.

Source: Yang et al., A theory of representation learning gives a deep generalisation of kernel methods, 2023 (inducing
points); Milsom et al., Convolutional deep kernel machines, 2024; Milsom et al., Stochastic kernel regularisation, 2024.

With K_ii = L L^T, A = L^-1 K_it and the learned G_ii = V V^T, V = L S (S = I at the start, where nothing is learned yet):

    G_it = V S^T A,    g_t = k_t - |A|^2 + |S^T A|^2,    penalty nu KL(G_ii || K_ii) = nu [1/2 (|S|^2 - P) - sum log diag S]
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from datumwise.errors import DatumwiseError, SchemaMismatch
from datumwise.learn.deep_kernel.cholesky import guarded_cholesky, lower_factor, raw_factor
from datumwise.learn.deep_kernel.kernels import KernelMap
from datumwise.learn.deep_kernel.kl import check_kl, kl_whitened
from datumwise.learn.deep_kernel.structmat import StructMat

__all__ = ["FeaturesToGram", "GramLayer", "GramNorm", "KernelMap", "Output", "condition"]

SKR_JITTER = 0.1  # added to G_ii where stochastic kernel regularisation is on; ours relative to its mean diagonal


class FeaturesToGram(nn.Module):
    """Inner products of inducing inputs and datapoints: ii = Z Z^T / D, ti = X Z^T / D, t = |x|^2 / D.

    Parameters
    ----------
    Z : Tensor (P, D)
        Inducing inputs.
    learn : bool, default True
        Whether they are parameters.
    ard : bool, default False
        Learn a scale for every feature, as a logarithm from 0.

    Examples
    --------
    >>> gram = FeaturesToGram(torch.eye(2))(torch.tensor([[3.0, 4.0]]))
    >>> gram.ti.tolist(), gram.t.tolist()
    ([[1.5, 2.0]], [12.5])
    """

    def __init__(self, Z: Tensor, *, learn: bool = True, ard: bool = False) -> None:
        super().__init__()
        self.Z = nn.Parameter(Z.detach().clone(), requires_grad=learn)
        self.log_scale = nn.Parameter(torch.zeros_like(self.Z[0]).detach()) if ard else None

    def scaled(self, X: Tensor) -> Tensor:
        """Features as the kernel sees them: times the learned scales.

        Parameters
        ----------
        X : Tensor (T, D)

        Returns
        -------
        Tensor (T, D)
        """
        return X if self.log_scale is None else X * self.log_scale.exp()

    def forward(self, X: Tensor) -> StructMat:
        Z, X, D = self.scaled(self.Z), self.scaled(X), X.shape[-1]
        return StructMat(Z @ Z.mT / D, X @ (Z.mT / D), X.square().sum(-1) / D)


class _Penalised(nn.Module):
    """Keeps ``penalty`` of the last forward and how many variances rounding had made negative."""

    def __init__(self) -> None:
        super().__init__()
        self.penalty: Tensor = torch.zeros(())
        self._clamped: Tensor | int = 0

    @property
    def clamped(self) -> int:
        """Variances below rounding error so far, which were set to it."""
        return int(self._clamped)

    def _floor(self, variance: Tensor, prior: Tensor) -> Tensor:
        floor = torch.finfo(prior.dtype).eps * prior.detach()
        with torch.no_grad():
            self._clamped = self._clamped + (variance < floor).sum()
        return torch.maximum(variance, floor)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles hold the penalty's value, not its graph."""
        return self.__dict__ | {"penalty": self.penalty.detach()}


class GramLayer(_Penalised):
    """The learned Gram matrix of one layer, and what it means for every datapoint.

    Parameters
    ----------
    P : int
        Inducing points.
    nu : float
        >= 0: weight of the penalty. Infinity: G = K, no parameters.
    kl : {"exact", "taylor"}
    variant : {None, "published"}
        "published": V V^T / P with V from chol(K_ii) of the first forward, which therefore has to be run before the optimiser
        is made; the Taylor form that depends on the basis; the absolute jitter of stochastic kernel regularisation.
    skr_gamma : float, default 0
        Stochastic kernel regularisation: in training, G_ii is drawn from a Wishart distribution with ceil(P / gamma) degrees of
        freedom and mean G_ii; there and at test time 0.1 of the mean diagonal is added. 0: neither.
    seed : int, default 0
        Of those draws; layers want different seeds.

    Attributes
    ----------
    penalty : Tensor, 0-d
        nu KL(G_ii || K_ii) of the last forward, >= 0.
    clamped : int
        How many g_t were below rounding error.

    Raises
    ------
    UnknownName, DatumwiseError

    Examples
    --------
    >>> gram = FeaturesToGram(torch.randn(3, 5, generator=torch.Generator().manual_seed(0)))
    >>> G = gram(torch.ones(4, 5))
    >>> layer = GramLayer(3, nu=2.0)
    >>> bool(torch.allclose(layer(G).ti, G.ti, atol=1e-6)), layer.penalty.item()  # starts as the plain kernel method
    (True, 0.0)
    >>> layer.set_gram(2 * G.ii.detach())
    >>> bool(torch.allclose(layer(G).ti, 2 * G.ti, atol=1e-5)), round(layer.penalty.item(), 4)  # 2 * 3 (2 - 1 - log 2) / 2
    (True, 0.9206)
    """

    def __init__(
        self,
        P: int,
        nu: float,
        kl: str = "exact",
        variant: str | None = None,
        *,
        skr_gamma: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_kl(kl, variant)
        if not (nu >= 0 and skr_gamma >= 0):
            raise DatumwiseError(f"a Gram layer with nu {nu:g} and gamma {skr_gamma:g}", remedy="give numbers >= 0")
        self.P, self.nu, self.kl, self.variant = P, float(nu), kl, variant
        self.skr_gamma, self.seed, self.draws = skr_gamma, seed, 0
        self.raw = None if math.isinf(nu) else nn.Parameter(torch.zeros(P, P))
        self._given: Tensor | None = None
        self._inited = variant is None

    def set_gram(self, G_ii: Tensor) -> None:
        """Load a Gram matrix; the next forward turns it into parameters, since these are relative to K_ii.

        Parameters
        ----------
        G_ii : Tensor (P, P)
            Positive definite.

        Raises
        ------
        SchemaMismatch
            Wrong shape, or the layer has nu = infinity and no parameters.
        """
        if self.raw is None:
            raise SchemaMismatch("a layer with nu = infinity has no Gram matrix of its own", remedy="give it a finite nu")
        if tuple(G_ii.shape) != (self.P, self.P):
            raise SchemaMismatch(f"a Gram matrix of shape {tuple(G_ii.shape)} for {self.P} inducing points")
        self._given = G_ii.detach().clone()

    def whitened(self, L: Tensor) -> Tensor:
        """S, the learned Gram matrix as seen from its kernel matrix: G_ii = L S S^T L^T.

        Parameters
        ----------
        L : Tensor (P, P)
            Cholesky factor of K_ii.

        Returns
        -------
        Tensor (P, P), lower-triangular
        """
        if self.raw is None:
            return torch.eye(self.P, dtype=L.dtype, device=L.device)
        if self._given is not None or not self._inited:
            self._load(L)
        if self.variant == "published":
            return torch.linalg.solve_triangular(L, lower_factor(self.raw) / math.sqrt(self.P), upper=False)
        return lower_factor(self.raw)

    @torch.no_grad()
    def _load(self, L: Tensor) -> None:
        assert self.raw is not None
        V = L if self._given is None else guarded_cholesky(self._given.to(L))
        S = V * math.sqrt(self.P) if self.variant == "published" else torch.linalg.solve_triangular(L, V, upper=False)
        self.raw.copy_(raw_factor(S))
        self._given, self._inited = None, True

    def forward(self, K: StructMat) -> StructMat:
        if self.raw is None:
            self.penalty = K.ii.new_zeros(())
            return K
        L = guarded_cholesky(K.ii)
        S = self.whitened(L)
        self.penalty = self.nu * kl_whitened(S, self.kl, self.variant, L=L)
        S, V = self._learned(L, S)
        ti, t = condition(L, S, V, K.ti.reshape(-1, self.P), K.t.reshape(-1))
        return StructMat(_Gram.apply(V), ti.view(K.ti.shape), self._floor(t.view(K.t.shape), K.t))

    def between(self, K_ii: Tensor, K_xi: Tensor, K_yi: Tensor, K_xy: Tensor) -> Tensor:
        """Learned Gram block between any two sets of datapoints, from their kernel block.

        Parameters
        ----------
        K_ii : Tensor (P, P)
        K_xi : Tensor (X, P)
        K_yi : Tensor (Y, P)
        K_xy : Tensor (X, Y)

        Returns
        -------
        Tensor (X, Y)
            k_xy - k_xi K_ii^-1 k_iy + k_xi K_ii^-1 G_ii K_ii^-1 k_iy.
        """
        if self.raw is None:
            return K_xy
        L = guarded_cholesky(K_ii)
        S, _ = self._learned(L, self.whitened(L))
        A_x, A_y = (torch.linalg.solve_triangular(L, k.mT, upper=False) for k in (K_xi, K_yi))
        return K_xy + A_x.mT @ (S @ (S.mT @ A_y) - A_y)

    def _learned(self, L: Tensor, S: Tensor) -> tuple[Tensor, Tensor]:
        """S and V = L S of the Gram matrix in force; with stochastic regularisation a draw in training, jittered always."""
        V = L @ S
        if not self.skr_gamma:
            return S, V
        jitter = SKR_JITTER * (V.square().sum(-1).mean() if self.variant is None else 1.0)
        W = V @ self._draw(V) if self.training else V
        V = guarded_cholesky(_Gram.apply(W) + jitter * torch.eye(self.P, dtype=L.dtype, device=L.device))
        return torch.linalg.solve_triangular(L, V, upper=False), V

    def _draw(self, like: Tensor) -> Tensor:
        """N / sqrt(m), N ~ N(0, 1)^{P x m}, m = ceil(P / gamma)."""
        m = math.ceil(self.P / self.skr_gamma)
        generator = torch.Generator().manual_seed(hash((self.seed, self.draws)) % 2**63)
        self.draws += 1
        return (torch.randn(self.P, m, generator=generator, dtype=like.dtype) / math.sqrt(m)).to(like.device)

    def extra_repr(self) -> str:
        return f"P={self.P}, nu={self.nu:g}, kl={self.kl!r}, variant={self.variant!r}, skr_gamma={self.skr_gamma:g}"


class GramNorm(nn.Module):
    """Divide by the mean diagonal and multiply by learned scales: ii by exp(2 a_i), ti by exp(a_i + a_t), t by exp(2 a_t).

    Inducing points have a mean of their own. That of the datapoints is the batch's in training, and the running mean of
    training otherwise: what is predicted for a datapoint does not depend on its batch-mates.

    Parameters
    ----------
    momentum : float or None, default 0.1
        Weight of a new batch in the running mean; None: the plain mean of all batches since :meth:`reset`.
    variant : {None, "published"}
        "published": the batch's own mean at test time too.

    Examples
    --------
    >>> norm = GramNorm()
    >>> G = StructMat(4 * torch.eye(2), torch.ones(3, 2), torch.tensor([1.0, 2.0, 3.0]))
    >>> norm(G).t.tolist(), norm(G).ii[0, 0].item()
    ([0.5, 1.0, 1.5], 1.0)
    >>> alone = StructMat(G.ii, G.ti[2:], G.t[2:])
    >>> norm.eval()(alone).t.tolist()  # the third datapoint without its batch-mates
    [1.5]
    """

    running: Tensor
    batches: Tensor

    def __init__(self, momentum: float | None = 0.1, variant: str | None = None) -> None:
        super().__init__()
        check_kl("exact", variant)
        self.momentum, self.variant = momentum, variant
        self.log_scale_i = nn.Parameter(torch.zeros(()))
        self.log_scale_t = nn.Parameter(torch.zeros(()))
        self.register_buffer("running", torch.ones(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.long))

    def reset(self) -> None:
        """Forget the running mean, to take it anew."""
        self.running.fill_(1.0)
        self.batches.zero_()

    def forward(self, G: StructMat) -> StructMat:
        by_i = (2 * self.log_scale_i).exp() / G.ii.diagonal().mean()
        by_t = (2 * self.log_scale_t).exp() / self._mean(G.t)
        return StructMat(G.ii * by_i, G.ti * (by_i * by_t).sqrt(), G.t * by_t)

    def _mean(self, t: Tensor) -> Tensor:
        if not self.training:
            return t.mean() if self.variant == "published" else self.running.to(t.dtype)
        mean = t.mean()
        with torch.no_grad():
            self.batches += 1
            plain = 1.0 / self.batches
            self.running.lerp_(mean.to(self.running.dtype), plain if self.momentum is None else plain.clamp_min(self.momentum))
        return mean


class Output(_Penalised):
    """Posterior q(u_c) = N(mu_c, A) of the outputs at the inducing points, A shared over outputs, and what it predicts.

    Parameters
    ----------
    P : int
        Inducing points.
    C : int
        Outputs or classes.
    kl : {"exact", "taylor"}
    variant : {None, "published"}
        "published": mu ~ N(0, 1) and A a Wishart draw at the start, and the Taylor form that depends on the basis.
        Else mu = L m, A = L R R^T L^T from m = 0, R = I: the posterior starts as the prior.
    tempering : bool, default False
        Divide the penalty by C.
    seed : int, default 0
        Of the published start.

    Attributes
    ----------
    penalty : Tensor, 0-d
        sum_c KL(N(mu_c, A) || N(0, K_ii)) of the last forward, >= 0.
    clamped : int
        How many variances were below rounding error.

    Raises
    ------
    UnknownName

    Examples
    --------
    >>> G = StructMat(ii=torch.eye(2), ti=torch.ones(1, 2), t=torch.tensor([2.0]))
    >>> output = Output(2, 1)
    >>> mean, variance = output(G)
    >>> mean.item(), variance.item(), output.penalty.item()  # the prior
    (0.0, 2.0, 0.0)
    >>> output.set_posterior(torch.ones(2, 1), 0.1 * torch.eye(2))
    >>> mean, variance = output(G)
    >>> round(mean.item(), 4), round(variance.item(), 4)
    (2.0, 0.2)
    """

    def __init__(
        self,
        P: int,
        C: int,
        kl: str = "exact",
        variant: str | None = None,
        tempering: bool = False,
        *,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_kl(kl, variant)
        self.P, self.C, self.kl, self.variant, self.tempering = P, C, kl, variant, tempering
        self.m = nn.Parameter(torch.zeros(P, C))
        self.raw = nn.Parameter(torch.zeros(P, P))
        self._given: tuple[Tensor, Tensor] | None = None
        if variant == "published":
            generator = torch.Generator().manual_seed(seed)
            V = torch.randn(P, P, generator=generator)
            self._keep(torch.randn(P, C, generator=generator), guarded_cholesky(V @ V.mT / P + 1e-4 * torch.eye(P)))

    def set_posterior(self, mu: Tensor, A: Tensor) -> None:
        """Load a posterior; the next forward turns it into parameters, since these are relative to K_ii.

        Parameters
        ----------
        mu : Tensor (P, C)
        A : Tensor (P, P)
            Positive definite.

        Raises
        ------
        SchemaMismatch
        """
        if tuple(mu.shape) != (self.P, self.C) or tuple(A.shape) != (self.P, self.P):
            raise SchemaMismatch(
                f"a mean of shape {tuple(mu.shape)} and a covariance of shape {tuple(A.shape)} "
                f"for {self.P} inducing points and {self.C} outputs"
            )
        self._given = (mu.detach().clone(), A.detach().clone())

    @torch.no_grad()
    def _keep(self, mean: Tensor, factor: Tensor) -> None:
        scale = math.sqrt(self.P) if self.variant == "published" else 1.0
        self.m.copy_(mean)
        self.raw.copy_(raw_factor(factor * scale))

    def _load(self, L: Tensor) -> None:
        assert self._given is not None
        (mu, A), self._given = self._given, None
        mean, factor = mu.to(L), guarded_cholesky(A.to(L))
        if self.variant is None:
            mean, factor = (torch.linalg.solve_triangular(L.detach(), M, upper=False) for M in (mean, factor))
        self._keep(mean, factor)

    def whitened(self, L: Tensor) -> tuple[Tensor, Tensor]:
        """m (P, C) and R (P, P) of mu = L m and A = L R R^T L^T.

        Parameters
        ----------
        L : Tensor (P, P)
            Cholesky factor of K_ii.

        Returns
        -------
        m : Tensor (P, C)
        R : Tensor (P, P), lower-triangular
        """
        if self._given is not None:
            self._load(L)
        R = lower_factor(self.raw)
        if self.variant is None:
            return self.m, R
        both = torch.linalg.solve_triangular(L, torch.cat([self.m, R / math.sqrt(self.P)], dim=1), upper=False)
        return both[:, : self.C], both[:, self.C :]

    def forward(self, K: StructMat) -> tuple[Tensor, Tensor]:
        L = guarded_cholesky(K.ii)
        m, R = self.whitened(L)
        penalty = self.C * kl_whitened(R, self.kl, self.variant, L=L) + 0.5 * m.square().sum()
        self.penalty = penalty / self.C if self.tempering else penalty
        mean, variance = _Project.apply(L, _Gram.apply(R), m, K.ti, K.t)
        return mean, self._floor(variance, K.t)

    def extra_repr(self) -> str:
        return f"P={self.P}, C={self.C}, kl={self.kl!r}, variant={self.variant!r}, tempering={self.tempering}"


def condition(L: Tensor, S: Tensor, V: Tensor, K_ti: Tensor, k_t: Tensor) -> tuple[Tensor, Tensor]:
    """Carry a learned Gram matrix from the inducing points to datapoints, with a backward pass of its own.

    Parameters
    ----------
    L : Tensor (P, P)
        Cholesky factor of K_ii.
    S, V : Tensor (P, P)
        G_ii = V V^T with V = L S.
    K_ti : Tensor (T, P)
    k_t : Tensor (T,)

    Returns
    -------
    G_ti : Tensor (T, P)
        K_ti K_ii^-1 G_ii.
    g_t : Tensor (T,)
        k_t - |A|^2 + |S^T A|^2 with A = L^-1 K_it; not clamped.

    Examples
    --------
    >>> L, S = torch.eye(1), torch.full((1, 1), 2.0)
    >>> G_ti, g_t = condition(L, S, L @ S, torch.tensor([[0.5]]), torch.ones(1))
    >>> G_ti.item(), g_t.item()  # 1 - 0.25 + 4 * 0.25
    (2.0, 1.75)
    """
    return _Condition.apply(L, S, V, K_ti, k_t)


class _Gram(torch.autograd.Function):
    """V V^T, with one product in the backward pass where two equal ones would be made."""

    @staticmethod
    def forward(ctx: Any, V: Tensor) -> Tensor:
        ctx.save_for_backward(V)
        return V @ V.mT

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dG: Tensor) -> Tensor:
        (V,) = ctx.saved_tensors
        return (dG + dG.mT) @ V


class _Condition(torch.autograd.Function):
    """G_ti = A^T S V^T and g_t = k_t - |A|^2 + |S^T A|^2 with A = L^-1 K_it: one triangular solve, two products.

    Rows are datapoints: ``a`` is A^T, ``w`` is A^T S.
    """

    @staticmethod
    def forward(ctx: Any, L: Tensor, S: Tensor, V: Tensor, K_ti: Tensor, k_t: Tensor) -> tuple[Tensor, Tensor]:
        a = torch.linalg.solve_triangular(L.mT, K_ti, upper=True, left=False)
        w = a @ S
        ctx.save_for_backward(L, S, V, a, w)
        return w @ V.mT, k_t - torch.linalg.vecdot(a, a) + torch.linalg.vecdot(w, w)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dG: Tensor, dg: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        L, S, V, a, w = ctx.saved_tensors
        twice = 2 * dg.unsqueeze(-1)
        dw = torch.addmm(w * twice, dG, V)
        da = torch.addmm(a * -twice, dw, S.mT)
        dK = torch.linalg.solve_triangular(L, da, upper=False, left=False)
        return (dK.mT @ a).neg_().tril_(), a.mT @ dw, dG.mT @ w, dK, dg


class _Project(torch.autograd.Function):
    """Means A^T m and variances k_t - |A|^2 + A . B A with A = L^-1 K_it."""

    @staticmethod
    def forward(ctx: Any, L: Tensor, B: Tensor, m: Tensor, K_ti: Tensor, k_t: Tensor) -> tuple[Tensor, Tensor]:
        a = torch.linalg.solve_triangular(L.mT, K_ti, upper=True, left=False)
        change = a @ B - a
        ctx.save_for_backward(L, a, change, m)
        return a @ m, k_t + torch.linalg.vecdot(a, change)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, df: Tensor, dv: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        L, a, change, m = ctx.saved_tensors
        da = torch.addmm(change * (2 * dv.unsqueeze(-1)), df, m.mT)
        dK = torch.linalg.solve_triangular(L, da, upper=False, left=False)
        dL = (dK.mT @ a).neg_().tril_()
        return dL, a.mT @ (a * dv.unsqueeze(-1)), a.mT @ df, dK, dv
