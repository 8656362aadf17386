"""How badly does the model predict the datapoint?"""

from __future__ import annotations

import numpy as np

from datumwise.score.checks import finite_column
from datumwise.score.declare import score

__all__ = ["loss"]


@score(needs=("loss",), higher="predicted worse", source="the model's own loss")
def loss(loss: np.ndarray) -> np.ndarray:
    """How large is the model's loss on the datapoint?

    Parameters
    ----------
    loss : float (n,), finite
        Cross-entropy in nats or squared error, out of fold for scikit-learn estimators; a language model's
        sum over tokens.

    Returns
    -------
    float64 (n,)
    """
    return finite_column(loss, "loss")
