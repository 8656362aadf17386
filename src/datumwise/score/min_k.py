"""Was a text in the training data? How likely its least likely tokens are.

Shi et al., 2024, *Detecting Pretraining Data from Large Language Models*, eq. 1; Zhang et al., 2025, *Min-K%++*, eq. 5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, NotFinite, name_some
from datumwise.score.declare import score

__all__ = ["min_k", "min_k_plus_plus"]

SHARE = 0.2  # K% of the tokens, as published


@score(
    needs=("token_logprobs",),
    higher="more likely seen in training",
    source="Shi et al., 2024, eq. 1",
)
def min_k(token_logprobs: Sequence[np.ndarray], *, share: float = SHARE) -> np.ndarray:
    """Mean log-probability of a text's least likely tokens (Min-K% Prob).

    Parameters
    ----------
    token_logprobs : sequence of n float arrays (T_i,)
        Nats.
    share : float, default 0.2
        Of the tokens that count, 0 < share <= 1: max(1, floor(share * T)) of them.

    Returns
    -------
    float64 (n,)
        <= 0; NaN for a text without a predicted token. With ``share=1`` the mean log-likelihood.

    Examples
    --------
    >>> min_k([np.array([-1.0, -5.0, -3.0, -0.5, -2.0])], share=0.4).tolist()
    [-4.0]
    """
    return _mean_of_lowest(token_logprobs, share, "token_logprobs")


@score(
    needs=("token_z",),
    higher="more likely seen in training",
    source="Zhang et al., 2025, eq. 5",
)
def min_k_plus_plus(token_z: Sequence[np.ndarray], *, share: float = SHARE) -> np.ndarray:
    """The same of standardised log-probabilities (Min-K%++): (log p - mean) / sd under the model's own distribution.

    Parameters
    ----------
    token_z : sequence of n float arrays (T_i,)
    share : float, default 0.2

    Returns
    -------
    float64 (n,)
        NaN for a text without a predicted token.
    """
    return _mean_of_lowest(token_z, share, "token_z")


def _mean_of_lowest(rows: Sequence[np.ndarray], share: float, name: str) -> np.ndarray:
    """Mean of the lowest floor(share * T), at least one, of each row: one sort of all rows together."""
    if not 0 < share <= 1:
        raise DatumwiseError(f"a share of {share} of the tokens cannot count", remedy="0 < share <= 1")
    if not len(rows):
        raise EmptyData(f"{name} is empty")
    lengths = np.array([len(row) for row in rows])
    values = np.concatenate([np.asarray(row, dtype=np.float64) for row in rows])
    owners = np.repeat(np.arange(len(rows)), lengths)
    if not np.isfinite(values).all():
        bad = np.unique(owners[~np.isfinite(values)]).tolist()
        raise NotFinite(f"{name} has NaN or infinity in row {name_some(bad)}", ids=bad)
    counts = np.where(lengths > 0, np.maximum(1, np.floor(share * lengths + 1e-9)), 0).astype(np.int64)
    order = np.lexsort((values, owners))
    rank = np.arange(len(values)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    lowest = order[rank < counts[owners]]
    total = np.bincount(owners[lowest], weights=values[lowest], minlength=len(rows))
    return np.divide(total, counts, out=np.full(len(rows), np.nan), where=counts > 0)
