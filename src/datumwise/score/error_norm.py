"""How far are the model's next-token predictions from the text? EL2N, over the tokens of a language model."""

from __future__ import annotations

import numpy as np

from datumwise.score.declare import score

__all__ = ["error_norm"]


@score(
    needs=("lm_el2n",),
    higher="predicted worse",
    source="Paul et al., 2021, definition 2.2; over tokens Marion et al., 2023",
)
def error_norm(lm_el2n: np.ndarray) -> np.ndarray:
    """Mean over a text's tokens of the length of the next-token probabilities minus the one-hot token.

    Parameters
    ----------
    lm_el2n : float (n,)

    Returns
    -------
    float64 (n,)
        0 to sqrt 2; NaN without a predicted token.
    """
    return np.asarray(lm_el2n, dtype=np.float64)
