"""Exact updates of Gaussian mixtures by linear-Gaussian data: one site, one datum, a whole series with gaps.

The square-root forms (Kailath, Sayed and Hassibi, *Linear Estimation*, 2000, section 12.3) update the lower factors by
orthogonal transformations: a posterior covariance is never a difference, so it cannot lose its definiteness.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, name_some
from datumwise.learn.gaussian_mixture import LOG_2PI, GaussianMixture
from datumwise.learn.triangular import cholesky, cholesky_upper, invert_lower, lower_factor, solve_lower

__all__ = ["FilterResult", "gmm_posterior", "linear_gaussian_filter", "site_update"]

Motion = tuple[Any, Any, Any] | Callable[[GaussianMixture], GaussianMixture]


def site_update(
    prior: GaussianMixture,
    precision: Tensor,
    shift: Tensor,
    *,
    log_tilt: Tensor | None = None,
    validate_args: bool = True,
) -> tuple[GaussianMixture, Tensor]:
    """Mixture times a Gaussian site exp(-x' P x / 2 + h' x), normalised.

    With x = mu + L u the site is a Gaussian in u of precision M = I + L' P L, whose eigenvalues are at least 1, and of shift
    g = L' (h - P mu). With M = U U', U upper: L' = L U^-T, mu' = mu + L M^-1 g, and component k gains
    -log det U + g' M^-1 g / 2 + h' mu - mu' P mu / 2. P = 0 and h = 0 return the prior to the last bit.

    Parameters
    ----------
    prior : GaussianMixture
    precision : float (B, d, d) or (B, K, d, d)
        P, symmetric positive semi-definite; one for all components or one each.
    shift : float (B, d) or (B, K, d)
        h.
    log_tilt : float (B, K), optional
        Added to the log weights: what a learned correction adds to the evidence.
    validate_args : bool, default True
        False skips the checks of values, for inner loops.

    Returns
    -------
    posterior : GaussianMixture
    log_ratio : float (B,)
        log of the integral of prior times site: the log evidence up to the site's own constant.

    Raises
    ------
    SchemaMismatch, NotFinite
    DatumwiseError
        I + L' P L is not positive definite: P is not positive semi-definite.

    Examples
    --------
    >>> prior = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
    >>> posterior, _ = site_update(prior, torch.tensor([[[3.0]]]), torch.tensor([[8.0]]))
    >>> posterior.means.item(), posterior.scale_tril.item()
    (2.0, 0.5)
    """
    B, K, d = prior.means.shape
    P = precision.unsqueeze(1) if precision.dim() == 3 else precision
    h = shift.unsqueeze(1) if shift.dim() == 2 else shift
    if P.shape[-2:] != (d, d) or h.shape[-1:] != (d,) or P.dim() != 4 or h.dim() != 3:
        raise SchemaMismatch(
            f"a site of precision {tuple(precision.shape)} and shift {tuple(shift.shape)} for {prior!r}",
            remedy="(B, d, d) or (B, K, d, d), and (B, d) or (B, K, d)",
        )
    if any(t.shape[0] not in (1, B) or t.shape[1] not in (1, K) for t in (P, h)):
        raise SchemaMismatch(f"a site of precision {tuple(precision.shape)} and shift {tuple(shift.shape)} for {prior!r}")
    if validate_args:
        _refuse_not_finite(precision, "the site's precision")
        _refuse_not_finite(shift, "the site's shift")
    mu, L = prior.means, prior.scale_tril
    if d == 1:  # the same sums without matrices
        scale, p, m, h1 = L[..., 0, 0], P[..., 0, 0], mu[..., 0], h[..., 0]
        M1 = 1 + scale * scale * p
        g1 = scale * (h1 - p * m)
        means = (m + scale * g1 / M1).unsqueeze(-1)
        scale_tril = (scale / M1.sqrt())[..., None, None]
        gain = -0.5 * M1.log() + 0.5 * g1 * g1 / M1 + m * (h1 - 0.5 * p * m)
    else:
        P_mu = (P @ mu.unsqueeze(-1)).squeeze(-1)
        g = (L.mT @ (h - P_mu).unsqueeze(-1)).squeeze(-1)
        inner = L.mT @ P @ L
        M = torch.eye(d, dtype=mu.dtype, device=mu.device) + 0.5 * (inner + inner.mT)
        try:
            U = cholesky_upper(M)
        except torch.linalg.LinAlgError:
            raise DatumwiseError("the site's precision is not positive semi-definite") from None
        W = invert_lower(U.mT)  # U^-T, lower
        half = (W.mT @ g.unsqueeze(-1)).squeeze(-1)  # U^-1 g
        means = mu + (L @ (W @ half.unsqueeze(-1))).squeeze(-1)
        scale_tril = L @ W
        log_det = U.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        gain = -log_det + 0.5 * half.square().sum(-1) + (mu * (h - 0.5 * P_mu)).sum(-1)
    if log_tilt is not None:
        gain = gain + log_tilt
    joint = prior.log_weights + gain
    # against the prior's own total, so that a zero site gives the prior's weights back unrounded
    log_ratio = torch.logsumexp(joint, -1) - torch.logsumexp(prior.log_weights, -1)
    if validate_args and not bool((scale_tril.diagonal(dim1=-2, dim2=-1) > 0).all()):
        raise DatumwiseError("the site's precision is not positive semi-definite")
    return prior._like(joint - log_ratio.unsqueeze(-1), means, scale_tril), log_ratio


def gmm_posterior(
    prior: GaussianMixture, H: Tensor, R: Tensor, y: Tensor, *, mask: Tensor | None = None
) -> tuple[GaussianMixture, Tensor]:
    """Exact posterior of a mixture after y = H x + e, e ~ N(0, R).

    For every component, one lower factor of [[R^1/2, H L], [0, L]] holds the innovation's factor, the gain and the new L;
    weights gain the log evidence N(y; H mu, H Sigma H' + R) in the log domain.

    Parameters
    ----------
    prior : GaussianMixture
    H : float (p, d) or (B, p, d)
    R : float (p, p) or (B, p, p)
        Symmetric positive definite.
    y : float (B, p)
        One row shown to all mixtures, or one each; a prior of B = 1 is shown to all rows.
    mask : bool (B,) or (B, p), optional
        True where y was seen; what was not is left out exactly and may be NaN.

    Returns
    -------
    posterior : GaussianMixture
    log_evidence : float (B,)
        log p(y); 0 where nothing was seen.

    Raises
    ------
    NotFinite
        NaN in y where it was seen; rows are named.
    SchemaMismatch
    DatumwiseError
        R is not positive definite.

    Examples
    --------
    >>> prior = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
    >>> one = torch.ones(1, 1)
    >>> posterior, log_evidence = gmm_posterior(prior, one, one, torch.tensor([[2.0]]))
    >>> round(posterior.means.item(), 6), round(posterior.covariances.item(), 6), round(log_evidence.item(), 4)
    (1.0, 0.5, -2.2655)
    """
    if y.dim() != 2 or (len(prior) not in (1, len(y)) and len(y) != 1):
        raise SchemaMismatch(f"data of shape {tuple(y.shape)} for {prior!r}", remedy="(B, p)")
    H, R, R_root = _observation(prior, H, R, y.shape[-1])
    B = max(len(prior), len(y))
    seen = None
    if mask is not None:
        if mask.shape not in ((len(y),), tuple(y.shape)):
            raise SchemaMismatch(f"a mask of shape {tuple(mask.shape)} for data of shape {tuple(y.shape)}")
        seen = (mask if mask.dim() == 2 else mask.unsqueeze(-1)).expand(y.shape)
    bad = ~y.isfinite() if seen is None else ~y.isfinite() & seen
    if bool(bad.any()):
        rows = bad.any(-1).nonzero().flatten().tolist()
        raise NotFinite(f"the data hold NaN or infinity in row {name_some(rows)}", remedy="mask=False where nothing was seen")
    if len(y) < B:
        y, seen = y.expand(B, -1), None if seen is None else seen.expand(B, -1)
    return _update(prior if len(prior) == B else prior[[0] * B], H, R, R_root, y.to(prior.dtype), seen)


@dataclass(frozen=True)
class FilterResult:
    """What a filter knows after each datum.

    Attributes
    ----------
    means : float (T, B, d)
    covs : float (T, B, d, d)
    mixtures : list of T GaussianMixture
    loglik : float (B,) or None
        log p(series); None where the filter has no likelihood.
    """

    means: Tensor
    covs: Tensor
    mixtures: list[GaussianMixture]
    loglik: Tensor | None

    @classmethod
    def of(cls, mixtures: list[GaussianMixture], loglik: Tensor | None) -> FilterResult:
        """Of the filtered mixtures, one a time."""
        return cls(torch.stack([m.mean for m in mixtures]), torch.stack([m.covariance for m in mixtures]), mixtures, loglik)

    @property
    def final(self) -> GaussianMixture:
        """After the last datum: the prior of what comes next."""
        return self.mixtures[-1]


def linear_gaussian_filter(
    prior: GaussianMixture,
    series: Tensor,
    H: Tensor,
    R: Tensor,
    transition: Motion | None = None,
    mask: Tensor | None = None,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> FilterResult:
    """Exact filter of B series: y_t = H x_t + e_t, x_{t+1} = A x_t + b + v_t. No motion comes before the first datum.

    Parameters
    ----------
    prior : GaussianMixture
        Of the first state; B = 1 is shown to all series.
    series : float (T, B, p)
    H : float (p, d)
    R : float (p, p)
    transition : (A (d, d), b (d,) or None, Q (d, d) or None), or a callable GaussianMixture -> GaussianMixture, optional
        None: the state stands still, so that the last mixture is the posterior given all data. A callable may be nonlinear,
        for instance ``lambda state: state.unscented(f, Q)``.
    mask : bool (T, B) or (T, B, p), optional
        True where a datum, or a sensor of it, was seen.
    progress : callable, optional
        Called with (done, T).

    Returns
    -------
    FilterResult

    Raises
    ------
    NotFinite
        NaN where the mask says seen; times are named.
    SchemaMismatch, DatumwiseError

    Examples
    --------
    >>> prior = GaussianMixture(torch.ones(1), torch.zeros(1, 1), torch.ones(1, 1, 1))
    >>> one = torch.ones(1, 1)
    >>> result = linear_gaussian_filter(prior, torch.ones(3, 1, 1), one, one)
    >>> [round(v, 3) for v in result.means.flatten().tolist()]
    [0.5, 0.667, 0.75]
    """
    if series.dim() != 3:
        raise SchemaMismatch(f"a series of shape {tuple(series.shape)}", remedy="(T, B, p)")
    T, B, p = series.shape
    if T == 0:
        raise SchemaMismatch("a series of no data cannot be filtered")
    if len(prior) not in (1, B):
        raise SchemaMismatch(f"{len(prior)} priors for {B} series", remedy="one, or one each")
    if mask is not None and mask.shape not in ((T, B), (T, B, p)):
        raise SchemaMismatch(f"a mask of shape {tuple(mask.shape)} for a series of shape {tuple(series.shape)}")
    seen = None if mask is None else (mask if mask.dim() == 3 else mask.unsqueeze(-1)).expand(series.shape)
    bad = ~series.isfinite() if seen is None else ~series.isfinite() & seen
    if bool(bad.any()):
        times = bad.flatten(1).any(1).nonzero().flatten().tolist()
        raise NotFinite(
            f"the series holds NaN or infinity at time {name_some(times)}", remedy="mask=False where nothing was seen"
        )
    state = prior if len(prior) == B else prior[[0] * B]
    H, R, R_root = _observation(state, H, R, p)
    series = series.to(state.dtype)
    loglik = torch.zeros(B, dtype=state.dtype, device=state.device)
    mixtures: list[GaussianMixture] = []
    for t in range(T):
        if t and transition is not None:
            state = transition(state) if callable(transition) else state.affine(*transition)
        state, log_evidence = _update(state, H, R, R_root, series[t], None if seen is None else seen[t])
        loglik = loglik + log_evidence
        mixtures.append(state)
        if progress is not None:
            progress(t + 1, T)
    return FilterResult.of(mixtures, loglik)


def _observation(prior: GaussianMixture, H: Tensor, R: Tensor, p: int) -> tuple[Tensor, Tensor, Tensor]:
    """H and R in the prior's dtype, and the lower factor of R; or a refusal."""
    H, R = (torch.as_tensor(t, dtype=prior.dtype, device=prior.device) for t in (H, R))
    if H.dim() not in (2, 3) or H.shape[-2:] != (p, prior.dim):
        raise SchemaMismatch(f"H of shape {tuple(H.shape)} for {p} sensors and {prior!r}", remedy="(p, d)")
    if R.dim() not in (2, 3) or R.shape[-2:] != (p, p):
        raise SchemaMismatch(f"R of shape {tuple(R.shape)} for {p} sensors", remedy="(p, p)")
    _refuse_not_finite(H, "H")
    _refuse_not_finite(R, "R")
    factor, info = torch.linalg.cholesky_ex(R)
    if bool(info.any()) or not torch.allclose(R, R.mT):
        raise DatumwiseError("the noise covariance R is not symmetric positive definite")
    return H, R, factor


def _update(
    prior: GaussianMixture, H: Tensor, R: Tensor, R_root: Tensor, y: Tensor, seen: Tensor | None
) -> tuple[GaussianMixture, Tensor]:
    """One exact update; seen (B, p) or None."""
    p = y.shape[-1]
    count: Tensor | float = p
    if seen is not None:  # an unseen sensor reads 0 = 0 x + e, e ~ N(0, 1): it tells nothing
        y = torch.where(seen, y, 0.0)
        H = torch.where(seen.unsqueeze(-1), H, 0.0)
        eye = torch.eye(p, dtype=R.dtype, device=R.device)
        R_root = cholesky(torch.where(seen.unsqueeze(-1) & seen.unsqueeze(-2), R, eye))
        count = seen.sum(-1, keepdim=True).to(y.dtype)
    H = H.unsqueeze(-3)  # over components
    mu, L = prior.means, prior.scale_tril
    HL = H @ L
    top = torch.cat((R_root.unsqueeze(-3).expand(*HL.shape[:-1], p), HL), -1)
    bottom = torch.cat((torch.zeros_like(HL.mT), L), -1)
    factor = lower_factor(torch.cat((top, bottom), -2))  # [[S^1/2, 0], [K S^1/2, L']]
    S_root, gain = factor[..., :p, :p], factor[..., p:, :p]
    innovation = solve_lower(S_root, y.unsqueeze(-2) - (H @ mu.unsqueeze(-1)).squeeze(-1))
    means = mu + (gain @ innovation.unsqueeze(-1)).squeeze(-1)
    log_det = S_root.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    joint = prior.log_weights - 0.5 * (innovation.square().sum(-1) + count * LOG_2PI) - log_det
    log_evidence = torch.logsumexp(joint, -1) - torch.logsumexp(prior.log_weights, -1)
    log_weights = joint - log_evidence.unsqueeze(-1)
    return prior._like(log_weights, means, factor[..., p:, p:]), log_evidence


def _refuse_not_finite(values: Tensor, name: str) -> None:
    if not bool(values.isfinite().all()):
        raise NotFinite(f"{name} holds NaN or infinity")
