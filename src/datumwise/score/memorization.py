"""Is the datapoint predicted right only because it was trained on?"""

from __future__ import annotations

import numpy as np

from datumwise.errors import SchemaMismatch
from datumwise.score.checks import labelled_probabilities
from datumwise.score.declare import score

__all__ = ["memorization"]


@score(
    needs=("probs_fit", "probs", "labels"),
    higher="learnt by heart",
    source="Feldman and Zhang, 2020, eq. 1, by cross-validation",
)
def memorization(probs_fit: np.ndarray, probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How much likelier is the label to models that were trained on the datapoint? p_in(y) - p_out(y).

    The paper's estimator with probabilities for right/wrong, and with the folds as its subsets: every model
    but one saw the datapoint. Its standard error is that of one held-out prediction; repeat with other seeds
    to lower it.

    Parameters
    ----------
    probs_fit : float (n, K)
        Mean over the models trained with the datapoint.
    probs : float (n, K)
        From the models trained without it.
    labels : int (n,)

    Returns
    -------
    float64 (n,)
        -1 to 1.

    Examples
    --------
    >>> memorization([[.9, .1]], [[.2, .8]], [0]).round(6).tolist()
    [0.7]
    """
    labels, inside = labelled_probabilities(labels, probs_fit)
    labels, outside = labelled_probabilities(labels, probs)
    if inside.shape != outside.shape:
        raise SchemaMismatch(f"probs_fit has shape {inside.shape} and probs {outside.shape}")
    rows = np.arange(len(labels))
    return inside[rows, labels].astype(np.float64) - outside[rows, labels]
