"""Can texts be told from texts that no model has seen, by how likely the model finds them? MUSE's privacy leakage.

Shi et al., 2024, *MUSE*, section 3, for PrivLeak; *Detecting Pretraining Data from Large Language Models* for Min-K%. The area
under the curve is here, as there, P(a forget text scores higher than a holdout text), with a score that is high where a text
looks unseen: 0 says that every text to forget is recognised, 0.5 that none is.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, NotFinite, name_some
from datumwise.score.min_k import min_k

__all__ = ["PUBLISHED_AUC", "auc", "min_k_score", "privleak"]

PUBLISHED_AUC = {"news": 0.4772, "books": 0.5393}  # of MUSE's retrained models, Min-40%


def auc(positive: Any, negative: Any) -> float:
    """P(positive > negative) + P(equal) / 2 of two samples: the area under the ROC curve, and Mann-Whitney's U / (m n).

    Parameters
    ----------
    positive : float (m,)
    negative : float (n,)

    Returns
    -------
    float
        0 to 1.

    Raises
    ------
    EmptyData
        One is empty.
    NotFinite
        A score is NaN.

    Examples
    --------
    >>> auc([3.0, 1.0], [1.0, 0.5])
    0.875
    """
    p, n = _scores(positive, "positive"), np.sort(_scores(negative, "negative"))
    below = np.searchsorted(n, p, side="left") + np.searchsorted(n, p, side="right")
    return float(below.sum() / (2 * len(p) * len(n)))


def min_k_score(token_logprobs: Any, k: float = 0.4) -> Any:
    """How unseen a text looks: minus the mean log-probability of its least likely tokens.

    Parameters
    ----------
    token_logprobs : float (T,), or sequence of n such
        Of one text, nats; or of n texts.
    k : float
        Share of the tokens, 0 < k <= 1: max(1, floor(k T)) of them.

    Returns
    -------
    float, or float64 (n,)
        >= 0; NaN for a text without a predicted token.

    Examples
    --------
    >>> min_k_score([-1.0, -5.0, -3.0, -0.5, -2.0])
    4.0
    >>> min_k_score([np.array([-1.0, -3.0]), np.array([])], 1.0).tolist()
    [2.0, nan]
    """
    if not len(token_logprobs):
        raise EmptyData("token_logprobs is empty")
    if np.ndim(token_logprobs[0]) == 0:
        return float(min_k_score([np.asarray(token_logprobs, dtype=np.float64)], k)[0])
    rows: Sequence[np.ndarray] = [np.asarray(row, dtype=np.float64) for row in token_logprobs]
    return -min_k(rows, share=k) + 0.0  # no negative zero


def privleak(auc_model: float, auc_reference: float) -> float:
    """PrivLeak, in per cent: 100 (A(u) - A(g)) / A(g).

    Parameters
    ----------
    auc_model : float
        A(u) of the unlearned model, in the orientation of this module.
    auc_reference : float
        A(g) of a model that was trained without the texts; above 0.

    Returns
    -------
    float
        -100 (every text is recognised) to 100 (1 - A(g)) / A(g) (texts look less likely than unseen ones, which gives them
        away as well); 0 as retrained.

    Raises
    ------
    NotFinite
        A(g) is 0, or one is NaN.
    DatumwiseError
        One is outside of 0 to 1.

    Examples
    --------
    >>> [round(privleak(a, PUBLISHED_AUC["news"]), 2) for a in (0.0, 0.4772, 1.0)]
    [-100.0, 0.0, 109.56]
    """
    for name, value in (("of the model", auc_model), ("of the reference", auc_reference)):
        if np.isnan(value):
            raise NotFinite(f"the AUC {name} is NaN")
        if not 0 <= value <= 1:
            raise DatumwiseError(f"the AUC {name} is {value}", remedy="it is a probability, 0 to 1")
    if auc_reference == 0:
        raise NotFinite(
            "PrivLeak is not defined where the AUC of the reference is 0, since it divides by it",
            remedy="a model that never saw the texts has about 0.5: check that it is one, and the orientation of the AUC",
        )
    return 100 * (auc_model - auc_reference) / auc_reference


def _scores(values: Any, name: str) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64).ravel()
    if not len(found):
        raise EmptyData(f"there are no {name} scores")
    bad = np.flatnonzero(np.isnan(found))
    if len(bad):
        raise NotFinite(f"{name} scores are NaN in row {name_some(bad)}", ids=bad.tolist())
    return found
