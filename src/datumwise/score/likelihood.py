"""How likely does a language model find a text, a token, and compared with how well it compresses?"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from datumwise.errors import SchemaMismatch
from datumwise.score.declare import score

__all__ = ["mean_nll", "perplexity", "perplexity_alone", "zlib_ratio"]


@score(
    needs=("nll", "n_tokens"),
    higher="less likely to the model",
    source="Jelinek et al., 1977 (the logarithm of perplexity)",
)
def mean_nll(nll: np.ndarray, n_tokens: np.ndarray) -> np.ndarray:
    """Negative log-likelihood a token, in nats: the logarithm of the perplexity.

    Parameters
    ----------
    nll : float (n,)
        Summed over the predicted tokens, in nats.
    n_tokens : int (n,)
        Predicted tokens.

    Returns
    -------
    float64 (n,)
        >= 0; NaN where no token is predicted.

    Examples
    --------
    >>> mean_nll(np.array([6.0, 0.0]), np.array([3, 0])).tolist()
    [2.0, nan]
    """
    nll, n_tokens = np.asarray(nll, float), np.asarray(n_tokens, float)
    if nll.shape != n_tokens.shape or nll.ndim != 1:
        raise SchemaMismatch(f"nll of shape {nll.shape} and n_tokens of shape {n_tokens.shape} do not fit together")
    return np.divide(nll, n_tokens, out=np.full(len(n_tokens), np.nan), where=n_tokens > 0)


@score(
    needs=("nll", "n_tokens"),
    higher="less likely to the model",
    source="Jelinek et al., 1977; as a filter Ankner et al., 2024",
)
def perplexity(nll: np.ndarray, n_tokens: np.ndarray) -> np.ndarray:
    """How many equally likely tokens would surprise the model as much? exp(nll / n_tokens), given the prompt.

    Parameters
    ----------
    nll : float (n,)
        Summed over the predicted tokens, in nats.
    n_tokens : int (n,)

    Returns
    -------
    float64 (n,)
        >= 1; NaN where no token is predicted. Noisy for texts of few tokens.

    Examples
    --------
    >>> perplexity(np.array([3 * np.log(2)]), np.array([3])).round(6).tolist()
    [2.0]
    """
    with np.errstate(over="ignore"):
        return np.exp(mean_nll(nll, n_tokens))


@score(
    needs=("nll_alone", "n_tokens_alone"),
    higher="less likely to the model without its prompt",
    source="Li et al., 2024 (Superfiltering), eq. 1",
)
def perplexity_alone(nll_alone: np.ndarray, n_tokens_alone: np.ndarray) -> np.ndarray:
    """Perplexity of the response without its prompt.

    Parameters
    ----------
    nll_alone : float (n,)
    n_tokens_alone : int (n,)

    Returns
    -------
    float64 (n,)
        >= 1; NaN where no token is predicted.
    """
    return perplexity(nll_alone, n_tokens_alone)


@score(
    needs=("nll", "predicted_texts"),
    higher="more likely learnt by heart",
    source="Carlini et al., 2021, section 5.2",
)
def zlib_ratio(nll: np.ndarray, predicted_texts: Sequence[str]) -> np.ndarray:
    """Bits that zlib needs for a text over bits that the model needs: far above the others, the model knows the text.

    Dividing by the compressed size takes out texts that are likely only because they repeat themselves.

    Parameters
    ----------
    nll : float (n,)
        Negative log-likelihood of the text, in nats.
    predicted_texts : sequence of n str
        What the likelihood is of: the text, or the response of a pair.

    Returns
    -------
    float64 (n,)
        >= 0; NaN where the model predicted nothing.

    Examples
    --------
    >>> plain = zlib_ratio(np.array([40.0]), ["the quick brown fox jumps over the lazy dog"])
    >>> repeated = zlib_ratio(np.array([40.0]), ["ha" * 100])
    >>> bool(plain[0] > repeated[0])
    True
    """
    nll = np.asarray(nll, float)
    if len(predicted_texts) != len(nll):
        raise SchemaMismatch(f"{len(predicted_texts):,} texts and {len(nll):,} likelihoods differ in number")
    bits = np.array([8 * len(zlib.compress(text.encode())) for text in predicted_texts], float)
    return np.divide(bits, nll / np.log(2), out=np.full(len(nll), np.nan), where=nll > 0)
