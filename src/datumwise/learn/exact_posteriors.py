"""Posteriors known exactly: a normal variance under an inverse gamma, a Gaussian process under a discrete hyperprior."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, name_some

__all__ = ["gp_hyperprior_predictive", "inverse_gamma_posterior"]

LOG_2PI = math.log(2 * math.pi)
BLOCK = 1 << 22  # numbers of Gram matrices held at once


def inverse_gamma_posterior(concentration: Any, rate: Any, y: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Posterior of v after y_i ~ N(0, v), v ~ InvGamma(a, b): InvGamma(a + N/2, b + sum y^2 / 2).

    Parameters
    ----------
    concentration, rate : float or float (B,)
        a and b, positive.
    y : float (N,) or (B, N)
        N may be 0.

    Returns
    -------
    concentration, rate : float (B,)
    log_evidence : float (B,)
        a log b - log Gamma(a) + log Gamma(a') - a' log b' - N log(2 pi) / 2.

    Raises
    ------
    NotFinite, DatumwiseError
        NaN; parameters that are not positive, rows are named.

    Examples
    --------
    >>> a, b, log_evidence = inverse_gamma_posterior(3.0, 2.0, torch.tensor([1.0, -1.0]))
    >>> a.item(), b.item()
    (4.0, 3.0)
    """
    y = torch.as_tensor(y)
    y = y if y.is_floating_point() else y.double()
    y = y.unsqueeze(0) if y.dim() == 1 else y
    if y.dim() != 2:
        raise SchemaMismatch(f"data of shape {tuple(y.shape)}", remedy="(N,) or (B, N)")
    _refuse_not_finite(y, "the data")
    a, b = (torch.as_tensor(t, dtype=y.dtype, device=y.device).reshape(-1) for t in (concentration, rate))
    for name, value in (("concentration", a), ("rate", b)):
        if bad := (~(value > 0)).nonzero().flatten().tolist():
            raise DatumwiseError(f"{name} is not positive in row {name_some(bad)}")
    after_a, after_b = torch.broadcast_tensors(a + 0.5 * y.shape[1], b + 0.5 * y.square().sum(1))
    log_evidence = a * b.log() - a.lgamma() + after_a.lgamma() - after_a * after_b.log() - 0.5 * y.shape[1] * LOG_2PI
    return after_a, after_b, log_evidence


def gp_hyperprior_predictive(
    X: Any,
    y: Any,
    x_star: Any,
    lengthscales: Any,
    prior: Any,
    *,
    noise_var: float,
    outputscale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Predictive of a zero-mean Gaussian process whose lengthscale has a discrete prior: a mixture of L Gaussians, exactly.

    The kernel is outputscale exp(-r^2 / (2 l^2)); the predictive variances include the noise.

    Parameters
    ----------
    X : float (n, q)
        n may be 0.
    y : float (n,)
    x_star : float (S, q)
    lengthscales : float (L,)
        Positive.
    prior : float (L,)
        On the simplex.
    noise_var : float
        Positive.
    outputscale : float, default 1

    Returns
    -------
    weights : float (L,)
        Posterior probabilities of the lengthscales.
    means, variances : float (L, S)
        Of y at ``x_star`` under each.

    Raises
    ------
    SchemaMismatch, NotFinite
    DatumwiseError
        A lengthscale, the noise or the output scale is not positive; a prior off the simplex.

    Examples
    --------
    >>> X = torch.linspace(0, 1, 8, dtype=torch.float64)[:, None]
    >>> smooth = (2 * X[:, 0]).sin()
    >>> weights, means, variances = gp_hyperprior_predictive(X, smooth, X[:1], [0.05, 0.8], [0.5, 0.5], noise_var=1e-3)
    >>> bool(weights[1] > 0.99), means.shape
    (True, torch.Size([2, 1]))
    """
    X, y, x_star, lengthscales, prior = (torch.as_tensor(t) for t in (X, y, x_star, lengthscales, prior))
    dtype = X.dtype if X.is_floating_point() else torch.float64
    X, y, x_star, lengthscales, prior = (t.to(dtype) for t in (X, y, x_star, lengthscales, prior))
    if X.dim() != 2 or x_star.dim() != 2 or X.shape[1] != x_star.shape[1] or y.shape != X.shape[:1]:
        raise SchemaMismatch(
            f"X {tuple(X.shape)}, y {tuple(y.shape)} and x_star {tuple(x_star.shape)} do not fit", remedy="(n, q), (n,), (S, q)"
        )
    if lengthscales.dim() != 1 or prior.shape != lengthscales.shape or not len(prior):
        raise SchemaMismatch(
            f"{tuple(lengthscales.shape)} lengthscales and a prior of shape {tuple(prior.shape)}", remedy="(L,)"
        )
    for name, values in (("X", X), ("y", y), ("x_star", x_star), ("lengthscales", lengthscales), ("the prior", prior)):
        _refuse_not_finite(values, name)
    if bad := (lengthscales <= 0).nonzero().flatten().tolist():
        raise DatumwiseError(f"lengthscale {name_some(bad)} is not positive")
    if not (noise_var > 0 and outputscale > 0):
        raise DatumwiseError(f"noise_var = {noise_var} and outputscale = {outputscale} must both be positive")
    if bool((prior < 0).any()) or abs(float(prior.sum()) - 1) > 1e-4:
        raise DatumwiseError(f"the prior over lengthscales is not on the simplex (sum {prior.sum().item():g})")
    n = len(X)
    square = torch.cdist(X, X, compute_mode="donot_use_mm_for_euclid_dist").square()
    cross = torch.cdist(X, x_star, compute_mode="donot_use_mm_for_euclid_dist").square()
    log_lik, means, variances = [], [], []
    for lengths in lengthscales.split(max(1, BLOCK // max(1, n * (n + len(x_star))))):
        scale = (-0.5 / lengths.square())[:, None, None]
        noise = noise_var * torch.eye(n, dtype=dtype, device=X.device)
        root, info = torch.linalg.cholesky_ex(outputscale * (scale * square).exp() + noise)
        if bool(info.any()):
            raise DatumwiseError(
                f"the Gram matrix at noise_var = {noise_var} is singular in {dtype}", remedy="more noise, or float64"
            )
        K_star = outputscale * (scale * cross).exp()  # (l, n, S)
        white = torch.linalg.solve_triangular(root, y.expand(len(lengths), n).unsqueeze(-1), upper=False)
        white_star = torch.linalg.solve_triangular(root, K_star, upper=False)
        log_det = root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_lik.append(-0.5 * (white.square().sum((-1, -2)) + n * LOG_2PI) - log_det)
        means.append((white_star.mT @ white).squeeze(-1))
        variances.append(outputscale + noise_var - white_star.square().sum(-2))
    weights = torch.softmax(prior.log() + torch.cat(log_lik), 0)
    return weights, torch.cat(means), torch.cat(variances)


def _refuse_not_finite(values: Tensor, name: str) -> None:
    if not bool(values.isfinite().all()):
        rows = (~values.isfinite()).reshape(values.shape[0], -1).any(1).nonzero().flatten().tolist()
        raise NotFinite(f"{name} hold NaN or infinity in row {name_some(rows)}")
