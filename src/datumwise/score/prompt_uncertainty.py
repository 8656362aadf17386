"""Does the answer hang on single words of the instruction? Disagreement under random deletions.

Kung et al., 2023, *Active Instruction Tuning*, section 3.2.
"""

from __future__ import annotations

import numpy as np

from datumwise.errors import SchemaMismatch
from datumwise.score.declare import score
from datumwise.score.likelihood import mean_nll

__all__ = ["prompt_uncertainty"]


@score(
    needs=("nll", "n_tokens", "perturbed_nll"),
    higher="the model is less sure what is asked",
    source="Kung et al., 2023, section 3.2",
)
def prompt_uncertainty(nll: np.ndarray, n_tokens: np.ndarray, perturbed_nll: np.ndarray) -> np.ndarray:
    """Mean change of the response's likelihood when a fifth of the prompt's words is deleted.

    Likelihood is a token's mean (the geometric mean of the probabilities), so that long responses compare
    with short ones; for a response of one token it is the published p(y | x).

    Parameters
    ----------
    nll : float (n,)
        Of the response after its whole prompt.
    n_tokens : int (n,)
    perturbed_nll : float (n, k)
        A token, after each perturbed prompt.

    Returns
    -------
    float64 (n,)
        0 to 1; NaN for a response without a predicted token.

    Examples
    --------
    >>> prompt_uncertainty(-np.log([0.25]), [2], -np.log([[0.5, 0.7]])).round(6).tolist()
    [0.1]
    """
    whole = np.exp(-mean_nll(nll, n_tokens))
    perturbed = np.exp(-np.asarray(perturbed_nll, dtype=np.float64))
    if perturbed.ndim != 2 or len(perturbed) != len(whole) or not perturbed.shape[1]:
        raise SchemaMismatch(f"perturbed_nll has shape {perturbed.shape} for {len(whole):,} datapoints")
    return np.abs(perturbed - whole[:, None]).mean(axis=1)
