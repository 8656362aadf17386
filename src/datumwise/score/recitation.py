"""Does the model know a text by heart? How much of it it writes by itself after the beginning.

Carlini et al., 2023, *Quantifying Memorization Across Neural Language Models*; Biderman et al., 2023, *Emergent and
Predictable Memorization in Large Language Models*, eq. 1.
"""

from __future__ import annotations

import numpy as np

from datumwise.score.declare import score

__all__ = ["recitation", "recited_run"]


@score(
    needs=("recited",),
    higher="more of it known by heart",
    source="Biderman et al., 2023, eq. 1",
)
def recitation(recited: np.ndarray) -> np.ndarray:
    """Share of the 32 tokens after the first 32 that the model reproduces greedily, position by position.

    The model writes freely; it costs 32 steps of writing. `recited_run` is free with any other score.

    Parameters
    ----------
    recited : float (n,)

    Returns
    -------
    float64 (n,)
        0 to 1; 1 is memorised; NaN for texts of 32 tokens or fewer.
    """
    return np.asarray(recited, dtype=np.float64)


@score(
    needs=("recited_run",),
    higher="more of it known by heart",
    source="Carlini et al., 2023, definition 3.1, as a share",
)
def recited_run(recited_run: np.ndarray) -> np.ndarray:
    """Share of those tokens before the model's greedy continuation first deviates.

    Up to its first deviation a greedy continuation has read exactly the text, so each of its tokens is the likeliest
    one after the text's own beginning: reading the text once tells them all. It is 1 exactly where `recitation` is 1.

    Parameters
    ----------
    recited_run : float (n,)

    Returns
    -------
    float64 (n,)
        0 to 1, never above `recitation`; NaN for texts of 32 tokens or fewer.
    """
    return np.asarray(recited_run, dtype=np.float64)
