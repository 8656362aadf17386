"""How sure is the model? Entropy, margin and confidence, of one prediction or over the tokens of a text.

Bhatt et al., 2024, *An Experimental Design Framework for Label-Efficient Supervised Finetuning*, section 3.1; for
classifiers Settles, 2009, section 3.1.
"""

from __future__ import annotations

import numpy as np

from datumwise.score.checks import class_probabilities
from datumwise.score.declare import score

__all__ = [
    "least_confidence",
    "min_token_margin",
    "prediction_entropy",
    "prediction_margin",
    "sequence_least_confidence",
    "token_entropy",
    "token_least_confidence",
    "token_margin",
]

OF_TEXTS = "Bhatt et al., 2024, section 3.1"
OF_CLASSES = "Settles, 2009, section 3.1"


@score(needs=("probs",), higher="more in doubt", source=OF_CLASSES)
def prediction_entropy(probs: np.ndarray) -> np.ndarray:
    """How spread out is the prediction over the classes? Its entropy, in nats.

    Parameters
    ----------
    probs : float (n, K)

    Returns
    -------
    float64 (n,)
        0 to log K.

    Examples
    --------
    >>> prediction_entropy([[1.0, 0.0], [0.5, 0.5]]).round(4).tolist()
    [0.0, 0.6931]
    """
    p = class_probabilities(probs, "probs").astype(np.float64)
    return -np.sum(p * np.log(p, out=np.zeros_like(p), where=p > 0), axis=1) + 0.0


@score(needs=("probs",), higher="more certain", source=OF_CLASSES)
def prediction_margin(probs: np.ndarray) -> np.ndarray:
    """How far is the likeliest class ahead of the second? Difference of their probabilities.

    Parameters
    ----------
    probs : float (n, K)

    Returns
    -------
    float64 (n,)
        0 to 1.

    Examples
    --------
    >>> prediction_margin([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]]).round(4).tolist()
    [0.5, 0.0]
    """
    p = np.sort(class_probabilities(probs, "probs").astype(np.float64), axis=1)
    return p[:, -1] - p[:, -2]


@score(needs=("probs",), higher="more in doubt", source=OF_CLASSES)
def least_confidence(probs: np.ndarray) -> np.ndarray:
    """How unlikely is the likeliest class? 1 - its probability.

    Parameters
    ----------
    probs : float (n, K)

    Returns
    -------
    float64 (n,)
        0 to 1 - 1/K.

    Examples
    --------
    >>> least_confidence([[0.75, 0.25]]).tolist()
    [0.25]
    """
    return 1 - class_probabilities(probs, "probs").astype(np.float64).max(axis=1)


@score(needs=("entropy",), higher="more in doubt", source=OF_TEXTS)
def token_entropy(entropy: np.ndarray) -> np.ndarray:
    """Mean entropy of the next-token distributions over a text, in nats.

    Parameters
    ----------
    entropy : float (n,)

    Returns
    -------
    float64 (n,)
        0 to log V; NaN without a predicted token.
    """
    return np.asarray(entropy, dtype=np.float64)


@score(needs=("top_margin",), higher="more certain", source=OF_TEXTS)
def token_margin(top_margin: np.ndarray) -> np.ndarray:
    """Mean lead of the likeliest next token over the second, as probabilities.

    Parameters
    ----------
    top_margin : float (n,)

    Returns
    -------
    float64 (n,)
        0 to 1; NaN without a predicted token.
    """
    return np.asarray(top_margin, dtype=np.float64)


@score(needs=("min_margin",), higher="more certain where least certain", source=OF_TEXTS)
def min_token_margin(min_margin: np.ndarray) -> np.ndarray:
    """The narrowest lead of the likeliest next token over the second, in a text.

    Parameters
    ----------
    min_margin : float (n,)

    Returns
    -------
    float64 (n,)
        0 to 1; NaN without a predicted token.
    """
    return np.asarray(min_margin, dtype=np.float64)


@score(needs=("least_confidence",), higher="more in doubt", source=OF_TEXTS)
def token_least_confidence(least_confidence: np.ndarray) -> np.ndarray:
    """Mean over a text of 1 - probability of the likeliest next token.

    Parameters
    ----------
    least_confidence : float (n,)

    Returns
    -------
    float64 (n,)
        0 to 1; NaN without a predicted token.
    """
    return np.asarray(least_confidence, dtype=np.float64)


@score(needs=("greedy_nll", "n_tokens"), higher="more in doubt", source=OF_TEXTS)
def sequence_least_confidence(greedy_nll: np.ndarray, n_tokens: np.ndarray) -> np.ndarray:
    """1 - product over a text of the probability of the likeliest next token; near 1 for all but short texts.

    Parameters
    ----------
    greedy_nll : float (n,)
        Minus the sum of the logarithms of those probabilities.
    n_tokens : int (n,)

    Returns
    -------
    float64 (n,)
        0 to 1; NaN without a predicted token.

    Examples
    --------
    >>> sequence_least_confidence(-np.log([0.25]), [2]).tolist()
    [0.75]
    """
    return np.where(np.asarray(n_tokens) > 0, -np.expm1(-np.asarray(greedy_nll, dtype=np.float64)), np.nan)
