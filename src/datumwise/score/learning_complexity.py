"""Is a datapoint easy even for much smaller models? Confidence averaged over sub-networks.

Jiang et al., 2024, *Exploring Learning Complexity for Efficient Downstream Data Pruning*, section 3.
"""

from __future__ import annotations

import numpy as np

from datumwise.errors import SchemaMismatch
from datumwise.score.declare import score

__all__ = ["learning_complexity"]


@score(
    needs=("subnetwork_confidence",),
    higher="learnt by small models already",
    source="Jiang et al., 2024, section 3",
)
def learning_complexity(subnetwork_confidence: np.ndarray) -> np.ndarray:
    """Mean confidence of sub-networks of falling size: in the label, or 1 / perplexity of the text.

    The ten sub-networks keep 95% to 50% of the hidden weights (our choice of shares), drawn once for all datapoints.

    Parameters
    ----------
    subnetwork_confidence : float (n, S)

    Returns
    -------
    float64 (n,)
        0 (hard) to 1 (easy); NaN for a text without a predicted token.

    Examples
    --------
    >>> learning_complexity([[0.9, 0.7, 0.5], [0.6, 0.2, 0.1]]).round(6).tolist()
    [0.7, 0.3]
    """
    values = np.asarray(subnetwork_confidence, dtype=np.float64)
    if values.ndim != 2 or not values.shape[1]:
        raise SchemaMismatch(f"subnetwork_confidence must be datapoints x sub-networks; got shape {values.shape}")
    return values.mean(axis=1)
