"""How much does a datapoint act on the model's own prediction of it?"""

from __future__ import annotations

import numpy as np

from datumwise.score.checks import finite_column
from datumwise.score.declare import score

__all__ = ["self_influence"]


@score(
    needs=("self_influence",),
    higher="learnt by heart, or mislabelled",
    source="Koh and Liang, 2017, eq. 2; Grosse et al., 2023, section 3.2",
)
def self_influence(self_influence: np.ndarray) -> np.ndarray:
    """How far would its own loss move if the datapoint weighed more? g' (H + damping)^-1 g, H by EK-FAC.

    Parameters
    ----------
    self_influence : float (n,), finite
        From the curvature passes of `datumwise.probe`.

    Returns
    -------
    float64 (n,)
        >= 0.
    """
    return finite_column(self_influence, "self_influence")
