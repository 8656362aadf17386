"""How hard does one datapoint push the weights? Its gradient norm."""

from __future__ import annotations

import numpy as np

from datumwise.score.checks import finite_column
from datumwise.score.declare import score

__all__ = ["grand"]


@score(
    needs=("grad_norm",),
    higher="pushes the weights harder",
    source="Paul, Ganguli and Dziugaite, 2021, definition 2.1",
)
def grand(grad_norm: np.ndarray) -> np.ndarray:
    """How long is the gradient of the datapoint's loss, ||grad l(x, y)||_2?

    Pass a model from the first epochs of training: at initialisation the ranking does not transfer (Kirsch,
    2023).

    Parameters
    ----------
    grad_norm : float (n,), finite
        Over all parameters.

    Returns
    -------
    float64 (n,)
        >= 0.
    """
    return finite_column(grad_norm, "grad_norm")
