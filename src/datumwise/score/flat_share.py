"""How much of a datapoint's activation lies in directions that ordinary data hardly use?

Merullo et al., 2025, *From Memorization to Reasoning in the Spectrum of Loss Curvature*, figure 2.
"""

from __future__ import annotations

import numpy as np

from datumwise.score.declare import score
from datumwise.score.memorization_scores import given_loss

__all__ = ["flat_share", "flat_share_given_loss"]


@score(
    needs=("flat_share",),
    higher="more likely recited text",
    source="Merullo et al., 2025, figure 2",
)
def flat_share(flat_share: np.ndarray) -> np.ndarray:
    """Share of its activation energy in the flattest 60 % of directions of the layers' inputs.

    Needs no labels, and one forward once the directions are known. A low loss may tell as much: see
    `flat_share_given_loss`.

    Parameters
    ----------
    flat_share : float (n,)

    Returns
    -------
    float64 (n,)
        0 to 1; NaN for a text without a predicted token.
    """
    return np.asarray(flat_share, dtype=np.float64)


@score(
    needs=("flat_share", "nll", "n_tokens"),
    higher="more likely recited than its likelihood explains",
    source="Merullo et al., 2025, figure 2; residual after regression on the loss",
)
def flat_share_given_loss(flat_share: np.ndarray, nll: np.ndarray, n_tokens: np.ndarray) -> np.ndarray:
    """The same, less what datapoints of equal loss have: the residual after regression on the rank of the loss.

    Parameters
    ----------
    flat_share : float (n,)
    nll : float (n,)
        Nats, summed over predicted tokens.
    n_tokens : int (n,)

    Returns
    -------
    float64 (n,)
        Mean 0; NaN for a text without a predicted token.
    """
    tokens = np.asarray(n_tokens, dtype=np.float64)
    loss = np.divide(np.asarray(nll, dtype=np.float64), tokens, out=np.full(len(tokens), np.nan), where=tokens > 0)
    return given_loss(flat_share, loss)
