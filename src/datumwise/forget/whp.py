"""Unlearn while answering: take away what a model that learnt the texts even better says more loudly.

"Who's Harry Potter" of Eldan and Russinovich (2023). Shi et al. (2024) run it at inference, ``z_f - alpha relu(z_r - z_f)``;
its authors fine-tune on these generic labels instead.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from datumwise.errors import DatumwiseError
from datumwise.forget.two_models import TwoModels

__all__ = ["WHPModel", "generic_logits"]


def generic_logits(z: Tensor, z_reinforced: Tensor, alpha: float) -> Tensor:
    """``z - alpha * relu(z_reinforced - z)``, of any one shape.

    Examples
    --------
    >>> generic_logits(torch.tensor([1.0, 1.0]), torch.tensor([3.0, 0.0]), 1.0).tolist()
    [-1.0, 1.0]
    """
    return z - alpha * torch.relu(z_reinforced - z)


class WHPModel(TwoModels):
    """A causal language model that answers ``z_f - alpha relu(z_r - z_f)``.

    Where the model has the texts by heart already, the reinforced one can add nothing and nothing is taken away.

    Parameters
    ----------
    base : causal language model
        f, that is to forget.
    reinforced : causal language model
        r, trained further on the texts to forget; see `datumwise.forget.reinforce.reinforced`.
    alpha : float
        At least 0; 0 is the base.
    """

    def __init__(self, base: Any, reinforced: Any, alpha: float = 1.0) -> None:
        if not alpha >= 0:
            raise DatumwiseError(f"alpha is {alpha}", remedy="it must be 0 or more")
        super().__init__(base, reinforced)
        self.alpha = float(alpha)

    def combined(self, z: Tensor, other: Tensor) -> Tensor:
        return z if self.alpha == 0 else generic_logits(z, other, self.alpha)
