"""How far would the posterior move without each datapoint? All posteriors but one, in batched passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from datumwise.learn.gaussian_mixture import GaussianMixture

if TYPE_CHECKING:
    from datumwise.learn.distribution_transformer import DistributionTransformer

__all__ = ["drop_one_divergence"]

BLOCK = 1 << 18  # (problem, datum) pairs in one pass
DRAWS = 4000  # of the full posterior, where d > 2; the same for all, so that equal data get equal influences


@torch.no_grad()
def drop_one_divergence(model: DistributionTransformer, prior: GaussianMixture, data: Tensor, seen: Tensor) -> Tensor:
    """KL(posterior of all data || posterior without datum i), for every datum of one problem.

    Parameters
    ----------
    model : DistributionTransformer
    prior : GaussianMixture
        B = 1.
    data : Tensor (1, N, width)
        Fused.
    seen : Tensor of bool (1, N)
        A datum that was not seen has influence 0.

    Returns
    -------
    Tensor (N,)
        In nats, at least 0.
    """
    full = model.of_fused(prior, data, seen)
    N = data.shape[1]
    rows = max(1, BLOCK // max(1, N))
    draws = full.sample(DRAWS, torch.Generator(data.device).manual_seed(0)) if full.dim > 2 else None
    found = []
    for block in torch.arange(N, device=data.device).split(rows):
        n = len(block)
        without = seen.expand(n, N).clone()
        without[torch.arange(n, device=data.device), block] = False
        rest = model.of_fused(prior[[0] * n], data.expand(n, -1, -1), without)
        if draws is None:
            found.append(full[[0] * n].kl(rest))
        else:
            found.append((full.log_prob(draws) - rest.log_prob(draws)).mean(0))
    moved = torch.cat(found) if found else data.new_zeros(0)
    return torch.where(seen[0], moved.clamp_min(0.0), 0.0)
