"""Weighted draws to Gaussian mixtures, in batches: expectation maximisation. Dempster, Laird and Rubin, 1977."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, name_some
from datumwise.learn.gaussian_mixture import BLOCK, GaussianMixture
from datumwise.learn.triangular import cholesky

__all__ = ["em_step", "fit_mixture"]

FLOOR = 1e-6  # smallest variance of a component, relative to the draws' own


def em_step(mixture: GaussianMixture, samples: Tensor, log_weights: Tensor, *, pseudo_count: float = 0.0) -> GaussianMixture:
    """One step of expectation maximisation on weighted draws.

    Parameters
    ----------
    mixture : GaussianMixture
    samples : float (S, B, d)
    log_weights : float (S, B)
        Importance of the draws, up to a constant.
    pseudo_count : float, default 0
        Draws that the current component counts for, in units of effective draws: keeps a component that few draws
        speak of where it is.

    Returns
    -------
    GaussianMixture

    Examples
    --------
    >>> start = GaussianMixture(torch.tensor([0.5, 0.5]), torch.tensor([[-1.0], [1.0]]), torch.ones(2, 1, 1))
    >>> draws = torch.tensor([-3.0, -2.9, 3.0, 3.1]).reshape(4, 1, 1)
    >>> for _ in range(20):
    ...     start = em_step(start, draws, torch.zeros(4, 1))
    >>> [round(m, 2) for m in start.means.flatten().tolist()]
    [-2.95, 3.05]
    """
    share = torch.softmax(log_weights, 0)
    counts = torch.zeros_like(mixture.log_weights)
    first = torch.zeros_like(mixture.means)
    second = torch.zeros_like(mixture.scale_tril)
    centre = mixture.mean  # sums are taken about it: nothing cancels far from the origin
    rows = max(1, BLOCK // max(1, mixture.means.numel() * mixture.dim))
    for x, w in zip(samples.split(rows), share.split(rows), strict=True):
        r = (mixture.responsibilities(x) * w.unsqueeze(-1)).movedim(0, -1)  # (B, K, S)
        z = (x - centre).transpose(0, 1)  # (B, S, d)
        square = (z.unsqueeze(-1) * z.unsqueeze(-2)).flatten(-2)
        sums = r @ torch.cat((torch.ones_like(z[..., :1]), z, square), -1)
        counts = counts + sums[..., 0]
        first = first + sums[..., 1 : 1 + mixture.dim]
        second = second + sums[..., 1 + mixture.dim :].unflatten(-1, (mixture.dim, mixture.dim))
    middle = first.sum(1, keepdim=True)  # mean of the draws, from the centre
    whole = second.sum(1) - first.sum(1).unsqueeze(-1) * first.sum(1).unsqueeze(-2)  # covariance of the draws
    smallest = FLOOR * whole.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None, None]
    if pseudo_count:
        effective = 1 / share.square().sum(0)
        prior_count = (pseudo_count / effective)[:, None] * torch.ones_like(counts)
        apart = mixture.means - centre.unsqueeze(1)
        first = first + prior_count.unsqueeze(-1) * apart
        second = second + prior_count[..., None, None] * (mixture.covariances + apart.unsqueeze(-1) * apart.unsqueeze(-2))
        total = counts + prior_count
    else:
        total = counts
    total = total.clamp_min(torch.finfo(counts.dtype).tiny)
    apart = first / total.unsqueeze(-1)
    covariance = second / total[..., None, None] - apart.unsqueeze(-1) * apart.unsqueeze(-2)
    eye = torch.eye(mixture.dim, dtype=covariance.dtype, device=covariance.device)
    # an empty component becomes the draws' own Gaussian: it can be of use again
    empty = (total < 1e-6 / len(samples))[..., None, None]
    covariance = torch.where(empty, whole.unsqueeze(1), covariance) + smallest * eye
    log_share = counts.clamp_min(1e-12).log()
    return GaussianMixture(
        None,
        centre.unsqueeze(1) + torch.where(empty[..., 0], middle, apart),
        cholesky(covariance),
        log_weights=log_share - torch.logsumexp(log_share, -1, keepdim=True),
        validate_args=False,
    )


@torch.no_grad()
def fit_mixture(
    samples: Tensor,
    n_components: int,
    *,
    log_weights: Tensor | None = None,
    steps: int = 100,
    generator: torch.Generator | None = None,
) -> GaussianMixture:
    """K Gaussians fitted to weighted draws; see `GaussianMixture.from_samples`.

    Examples
    --------
    >>> draws = torch.randn(500, 3, 2, generator=torch.Generator().manual_seed(0))  # of three distributions
    >>> fit_mixture(draws, 2)
    GaussianMixture(B=3, K=2, d=2, float32)
    """
    if samples.dim() == 2:
        samples = samples.unsqueeze(1)
    if samples.dim() != 3 or not samples.is_floating_point():
        raise SchemaMismatch(
            f"samples of shape {tuple(samples.shape)} and {samples.dtype}", remedy="floats (S, d) or (S, B, d)"
        )
    S, B, _ = samples.shape
    if n_components < 1 or n_components > S:
        raise DatumwiseError(f"{S} draws cannot be fitted by {n_components} Gaussians", remedy="1 <= K <= draws")
    if not bool(samples.isfinite().all()):
        rows = (~samples.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
        raise NotFinite(f"samples hold NaN or infinity in row {name_some(rows)}")
    if log_weights is None:
        log_weights = samples.new_zeros(S, B)
    elif log_weights.dim() == 1:
        log_weights = log_weights.unsqueeze(1)
    if log_weights.shape not in ((S, B), (S, 1)):
        raise SchemaMismatch(f"log_weights of shape {tuple(log_weights.shape)} for samples of shape {tuple(samples.shape)}")
    if bool(log_weights.isnan().any()):
        raise NotFinite("log_weights hold NaN")
    log_weights = log_weights.expand(S, B)
    mixture = _start(samples, log_weights, n_components, generator or torch.Generator(samples.device).manual_seed(0))
    for _ in range(steps):
        mixture = em_step(mixture, samples, log_weights)
    return mixture


def _start(samples: Tensor, log_weights: Tensor, K: int, generator: torch.Generator) -> GaussianMixture:
    """k-means++ centres (Arthur and Vassilvitskii, 2007) with a common covariance."""
    share = torch.softmax(log_weights, 0)
    mean = (share.unsqueeze(-1) * samples).sum(0)
    apart = samples - mean
    covariance = torch.einsum("sb,sbi,sbj->bij", share, apart, apart)
    size = covariance.diagonal(dim1=-2, dim2=-1).mean(-1)
    if not bool((size > 0).all()):
        raise DatumwiseError(f"samples {name_some((size <= 0).nonzero().flatten().tolist())} are all the same point")
    d = samples.shape[-1]
    root = cholesky(covariance + FLOOR * size[:, None, None] * torch.eye(d, dtype=covariance.dtype, device=covariance.device))
    white = torch.linalg.solve_triangular(root, apart.movedim(0, -1), upper=False).movedim(-1, 0)  # (S, B, d)
    row = torch.arange(samples.shape[1], device=samples.device)
    chosen: list[Tensor] = []
    far = torch.ones_like(share)
    for _ in range(K):
        mass = (share * far).mT + 1e-30
        pick = torch.multinomial(mass, 1, generator=generator).squeeze(-1)  # (B,)
        chosen.append(pick)
        distance = (white - white[pick, row]).square().sum(-1)
        far = distance if len(chosen) == 1 else torch.minimum(far, distance)
    return GaussianMixture(
        None,
        torch.stack([samples[pick, row] for pick in chosen], 1),
        (root * K ** (-1 / d)).unsqueeze(1).expand(-1, K, -1, -1).contiguous(),
        log_weights=samples.new_full((samples.shape[1], K), -math.log(K)),
        validate_args=False,
    )
