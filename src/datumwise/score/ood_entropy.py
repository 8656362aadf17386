"""Is the model unsure of the datapoint beyond what its classes lead to expect? Out of distribution by entropy.

The convention of cleanlab 2.9 (`OutOfDistribution` with ``adjust_pred_probs``), turned so that it says what it
measures; after Northcutt et al., 2021, for the thresholds.
"""

from __future__ import annotations

import numpy as np
from scipy.special import xlogy

from datumwise.score.checks import labelled_probabilities
from datumwise.score.confident_learning import confident_thresholds
from datumwise.score.declare import score

__all__ = ["ood_entropy"]


@score(
    needs=("labels", "probs"),
    higher="in distribution",
    source="cleanlab 2.9, OutOfDistribution with adjust_pred_probs; Hendrycks and Gimpel, 2017",
)
def ood_entropy(labels: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """How sure is the model of the datapoint, once each class's usual confidence is taken off?

    q = p - t + max t over its sum, t_k the mean probability of class k over the datapoints labelled k; the score
    is 1 - H(q)/ln K, which is low for datapoints unlike those of any class.

    Parameters
    ----------
    labels : int (n,)
    probs : float (n, K)
        Out-of-fold class probabilities.

    Returns
    -------
    float64 (n,)
        0 (no idea: out of distribution) to 1.

    Examples
    --------
    >>> ood_entropy([0, 1, 0], [[.9, .1], [.2, .8], [.5, .5]]).round(3).tolist()
    [0.561, 0.155, 0.006]
    """
    labels, probs = labelled_probabilities(labels, probs)
    thresholds = confident_thresholds(labels, probs)
    adjusted = probs - thresholds + thresholds.max()
    adjusted /= adjusted.sum(axis=1, keepdims=True)
    return 1 + xlogy(adjusted, adjusted).sum(axis=1) / np.log(probs.shape[1])
