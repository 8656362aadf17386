"""How well does the given label fit what the model predicts? The scores of confident learning.

Northcutt, Jiang and Chuang, 2021, section 3.2 and cleanlab 2.9 (`cleanlab.rank`), whose values these equal.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datumwise.errors import UnknownName
from datumwise.score.checks import labelled_probabilities
from datumwise.score.declare import score

__all__ = [
    "confidence_weighted_entropy",
    "label_error",
    "label_quality",
    "normalized_margin",
    "self_confidence",
]

FLOOR = 1e-6  # of a divisor
BLOCK = 1 << 18  # probabilities copied together (2 MiB)


def label_quality(labels: Any, pred_probs: Any, method: str = "self_confidence") -> np.ndarray:
    """Quality of each label, 0 (surely wrong) to 1 (surely right).

    Parameters
    ----------
    labels : array (n,) of int in 0..K-1
    pred_probs : float array (n, K)
        Out-of-fold class probabilities.
    method : "self_confidence", "normalized_margin" or "confidence_weighted_entropy"

    Returns
    -------
    float (n,)
        Of the precision of ``pred_probs``.
    """
    methods = {f.__name__: f for f in (self_confidence, normalized_margin, confidence_weighted_entropy)}
    if method not in methods:
        raise UnknownName(f"there is no label quality {method!r}", remedy=f"one of {', '.join(methods)}")
    return methods[method](pred_probs, labels)


@score(
    needs=("probs", "labels"),
    higher="more likely mislabelled",
    source="Northcutt et al., 2021, section 3.2",
)
def label_error(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How much likelier is another class than the given label? (1 + max_{j != y} p_j - p_y) / 2.

    One minus `normalized_margin`; above 0.5 another class is likelier. `label_issue` decides which are
    flagged.

    Parameters
    ----------
    probs : float (n, K)
        Out-of-fold class probabilities.
    labels : int (n,)

    Returns
    -------
    float (n,)
        0 to 1.

    Examples
    --------
    >>> label_error([[.9, .1], [.2, .8]], [0, 0]).round(6).tolist()
    [0.1, 0.8]
    """
    return 1 - normalized_margin(probs, labels)


@score(
    needs=("probs", "labels"),
    higher="label more likely right",
    source="Northcutt et al., 2021, section 3.2",
)
def self_confidence(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """What probability has the given label? p_y.

    Parameters
    ----------
    probs : float (n, K)
        Out-of-fold class probabilities.
    labels : int (n,)

    Returns
    -------
    float (n,)
        0 to 1.
    """
    labels, probs = labelled_probabilities(labels, probs)
    return probs[np.arange(len(labels)), labels]


@score(
    needs=("probs", "labels"),
    higher="label more likely right",
    source="Northcutt et al., 2021, section 3.2",
)
def normalized_margin(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How far is the given label ahead of the best other class? (p_y - max_{j != y} p_j + 1) / 2.

    Parameters
    ----------
    probs : float (n, K)
        Out-of-fold class probabilities.
    labels : int (n,)

    Returns
    -------
    float (n,)
        0 to 1.
    """
    labels, probs = labelled_probabilities(labels, probs)
    margin = probs[np.arange(len(labels)), labels]
    step = max(1, BLOCK // probs.shape[1])
    for start in range(0, len(labels), step):
        others = probs[start : start + step].copy()
        others[np.arange(len(others)), labels[start : start + step]] = -np.inf
        margin[start : start + step] -= others.max(axis=1)
    return (margin + 1) / 2


@score(
    needs=("probs", "labels"),
    higher="label more likely right",
    source="Northcutt et al., 2021, section 3.2; cleanlab 2.9, rank.py",
)
def confidence_weighted_entropy(probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """How sure is the model, weighed by its trust in the label? ln(1 + v) / v, v = H(p) / (ln K p_y).

    Parameters
    ----------
    probs : float (n, K)
        Out-of-fold class probabilities; H is their entropy in nats, p_y at least 1e-6.
    labels : int (n,)

    Returns
    -------
    float (n,)
        0 to 1 (to rounding); a prediction without any doubt (v = 0) gives 0, as cleanlab has it.
    """
    from scipy.special import xlogy

    labels, probs = labelled_probabilities(labels, probs)
    trust = np.maximum(probs[np.arange(len(labels)), labels], FLOOR)
    v = -xlogy(probs, probs).sum(axis=1) / np.log(probs.shape[1]) / trust
    return np.log(v + 1) / np.maximum(v, FLOOR)
