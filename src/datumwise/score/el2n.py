"""How wrong is the predicted distribution? The length of its error vector."""

from __future__ import annotations

import numpy as np

from datumwise.score.checks import labelled_probabilities
from datumwise.score.declare import score

__all__ = ["el2n"]


@score(
    needs=("probs", "labels"),
    higher="harder",
    source="Paul, Ganguli and Dziugaite, 2021, definition 2.2",
)
def el2n(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How long is the error vector ||p - onehot(y)||_2?

    Published early in training, as a mean over ten seeds; from scikit-learn estimators the probabilities are
    out of fold.

    Parameters
    ----------
    probs : float (n, K)
    labels : int (n,)

    Returns
    -------
    float64 (n,)
        0 to the square root of 2.

    Examples
    --------
    >>> el2n([[1.0, 0.0], [0.5, 0.5]], [0, 0]).round(4).tolist()
    [0.0, 0.7071]
    """
    labels, probs = labelled_probabilities(labels, probs)
    error = probs.astype(np.float64)
    error[np.arange(len(labels)), labels] -= 1
    return np.sqrt(np.einsum("ij,ij->i", error, error))
