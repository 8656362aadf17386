"""Does the instruction help the model to the answer? Instruction-following difficulty.

Li et al., 2024a, *From Quantity to Quality* (Cherry LLM); Li et al., 2024b, *Superfiltering*, eq. 1 to 3.
"""

from __future__ import annotations

import numpy as np

from datumwise.score.declare import score
from datumwise.score.likelihood import mean_nll

__all__ = ["ifd"]


@score(
    needs=("nll", "n_tokens", "nll_alone", "n_tokens_alone"),
    higher="the instruction helps less; from 1 on it does not help at all",
    source="Li et al., 2024 (Superfiltering), eq. 3",
)
def ifd(nll: np.ndarray, n_tokens: np.ndarray, nll_alone: np.ndarray, n_tokens_alone: np.ndarray) -> np.ndarray:
    """Perplexity of the response given its prompt over that of the response alone: exp(L(A|Q) - L(A)).

    Given the prompt every token of the response is predicted; alone, the first one only where the tokenizer puts
    a special token in front. A response that is cut is cut at the same token in both.

    Parameters
    ----------
    nll, nll_alone : float (n,)
        Negative log-likelihood of the response with and without its prompt, nats.
    n_tokens, n_tokens_alone : int (n,)
        Predicted tokens of each.

    Returns
    -------
    float64 (n,)
        > 0; exactly 1 for a prompt without a token; NaN for a response without a predicted token.

    Examples
    --------
    >>> ifd([2.0, 2.0], [2, 2], [3.0, 2.0], [1, 2]).round(4).tolist()
    [0.1353, 1.0]
    """
    with np.errstate(over="ignore"):
        return np.exp(mean_nll(nll, n_tokens) - mean_nll(nll_alone, n_tokens_alone))
