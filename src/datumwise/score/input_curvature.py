"""How sharply does the loss bend around a datapoint?

Garg and Roy, 2023, *Samples with Low Loss Curvature Improve Data Efficiency*, eq. 5.
"""

from __future__ import annotations

import numpy as np

from datumwise.score.checks import finite_column
from datumwise.score.declare import score

__all__ = ["input_curvature"]


@score(
    needs=("input_curvature",),
    higher="learnt by heart, or on a border between classes",
    source="Garg and Roy, 2023, eq. 5",
)
def input_curvature(input_curvature: np.ndarray) -> np.ndarray:
    """How much does its gradient change when the input moves a little? Ten random directions of signs.

    For text the input is the embedding. Published as a mean over training epochs; of a converged model alone it is weaker.

    Parameters
    ----------
    input_curvature : float (n,), finite

    Returns
    -------
    float64 (n,)
        At least 0.
    """
    return finite_column(input_curvature, "input_curvature")
