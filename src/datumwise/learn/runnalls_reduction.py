"""Fewer Gaussians with the same mean and covariance: greedy merging. Runnalls, 2007, IEEE Trans. AES 43(3), section V."""

from __future__ import annotations

import torch
from torch import Tensor

from datumwise.errors import DatumwiseError
from datumwise.learn.gaussian_mixture import GaussianMixture
from datumwise.learn.triangular import cholesky, lower_factor

__all__ = ["reduce_mixture"]

LEAST_LOG_WEIGHT = -600.0  # weights below merge as if they were e^-600


@torch.no_grad()
def reduce_mixture(mixture: GaussianMixture, n_components: int) -> GaussianMixture:
    """Merge the pair of least [(w_i + w_j) log det S_ij - w_i log det S_i - w_j log det S_j] / 2 until K' are left.

    The cost bounds what a merge adds to the divergence from the full mixture; S_ij is the covariance of the pair as one
    Gaussian. All mixtures of the batch step together; after a merge only the costs of the merged component are counted anew.

    Parameters
    ----------
    mixture : GaussianMixture
    n_components : int
        K'; with K' >= K the mixture is returned as it is.

    Returns
    -------
    GaussianMixture

    Raises
    ------
    DatumwiseError
        K' < 1.

    Notes
    -----
    O(B K^2 d^3) for the first costs and O(B K d^3) a merge.

    Examples
    --------
    >>> four = GaussianMixture(torch.full((4,), 0.25), torch.tensor([[0.0], [0.1], [7.0], [7.2]]), torch.ones(4, 1, 1))
    >>> two = reduce_mixture(four, 2)
    >>> [round(m, 3) for m in two.means.flatten().tolist()]
    [0.05, 7.1]
    """
    if n_components < 1:
        raise DatumwiseError(f"a mixture of {n_components} components does not exist", remedy="K >= 1")
    B, K, _ = mixture.means.shape
    if n_components >= K:
        return mixture
    log_w = mixture.log_weights.clamp_min(LEAST_LOG_WEIGHT)
    mu, L = mixture.means, mixture.scale_tril
    row = torch.arange(B, device=mixture.device)
    first, second = torch.triu_indices(K, K, 1, device=mixture.device)
    cost = mu.new_full((B, K, K), torch.inf)
    cost[:, first, second] = _cost(log_w[:, first], mu[:, first], L[:, first], log_w[:, second], mu[:, second], L[:, second])
    alive = torch.ones(B, K, dtype=torch.bool, device=mixture.device)
    log_w, mu, L = log_w.clone(), mu.clone(), L.clone()
    for _ in range(K - n_components):
        least = cost.flatten(1).argmin(1)
        i, j = torch.minimum(least // K, least % K), torch.maximum(least // K, least % K)
        log_w[row, i], mu[row, i], L[row, i] = _merged(
            log_w[row, i], mu[row, i], L[row, i], log_w[row, j], mu[row, j], L[row, j]
        )
        alive[row, j] = False
        again = _cost(log_w[row, i, None], mu[row, i, None], L[row, i, None], log_w, mu, L)  # (B, K)
        again[~alive] = torch.inf
        again[row, i] = torch.inf
        cost[row, i], cost[row, :, i] = again, torch.inf
        cost[row, j], cost[row, :, j] = torch.inf, torch.inf
    kept = alive.nonzero()[:, 1].reshape(B, n_components)
    at = row.unsqueeze(-1)
    log_w = log_w[at, kept]
    log_w = log_w - torch.logsumexp(log_w, -1, keepdim=True)
    return GaussianMixture(None, mu[at, kept], L[at, kept], log_weights=log_w, validate_args=False)


def _cost(log_a: Tensor, mu_a: Tensor, L_a: Tensor, log_b: Tensor, mu_b: Tensor, L_b: Tensor) -> Tensor:
    log_sum = torch.logaddexp(log_a, log_b)
    share_a, share_b = ((log - log_sum).exp() for log in (log_a, log_b))
    apart = (mu_a - mu_b) * (share_a * share_b).sqrt().unsqueeze(-1)
    S = share_a[..., None, None] * (L_a @ L_a.mT) + share_b[..., None, None] * (L_b @ L_b.mT)
    S = S + apart.unsqueeze(-1) * apart.unsqueeze(-2)
    log_det, log_det_a, log_det_b = (2 * t.diagonal(dim1=-2, dim2=-1).log().sum(-1) for t in (cholesky(S), L_a, L_b))
    return 0.5 * log_sum.exp() * (log_det - share_a * log_det_a - share_b * log_det_b)


def _merged(
    log_a: Tensor, mu_a: Tensor, L_a: Tensor, log_b: Tensor, mu_b: Tensor, L_b: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The pair as one Gaussian; its factor from the factors, without the covariance."""
    log_sum = torch.logaddexp(log_a, log_b)
    share_a, share_b = ((log - log_sum).exp().unsqueeze(-1) for log in (log_a, log_b))
    apart = (mu_a - mu_b) * (share_a * share_b).sqrt()
    root = torch.cat((L_a * share_a.sqrt().unsqueeze(-1), L_b * share_b.sqrt().unsqueeze(-1), apart.unsqueeze(-1)), -1)
    return log_sum, share_a * mu_a + share_b * mu_b, lower_factor(root)
