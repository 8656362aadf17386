"""Does a datapoint depend on weights that hardly anything else needs? Its loss without them, its gradient in them.

Merullo et al., 2025, *From Memorization to Reasoning in the Spectrum of Loss Curvature*, section 4.
"""

from __future__ import annotations

import numpy as np

from datumwise.score.declare import score

__all__ = ["edit_sensitivity", "removed_energy"]


@score(
    needs=("edit_sensitivity",),
    higher="learnt by heart, or mislabelled",
    source="Merullo et al., 2025, section 4",
)
def edit_sensitivity(edit_sensitivity: np.ndarray) -> np.ndarray:
    """By how much its loss rises when the flat directions of the weights are removed, a predicted token.

    The best of these scores for mislabelled images, with a mild edit.

    Parameters
    ----------
    edit_sensitivity : float (n,)
        Nats.

    Returns
    -------
    float64 (n,)
        Mostly above 0; NaN for a text without a predicted token.
    """
    return np.asarray(edit_sensitivity, dtype=np.float64)


@score(
    needs=("removed_energy",),
    higher="pushes weights that hardly anything else pushes",
    source="Merullo et al., 2025, eq. 3",
)
def removed_energy(removed_energy: np.ndarray) -> np.ndarray:
    """Share of its squared gradient in the components of the weights that the edit would remove.

    Parameters
    ----------
    removed_energy : float (n,)

    Returns
    -------
    float64 (n,)
        0 to 1; NaN for a gradient of zero.
    """
    return np.asarray(removed_energy, dtype=np.float64)
