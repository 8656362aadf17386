"""Which targets of a regression are wrong? Those whose out-of-fold residual is out of all proportion."""

from __future__ import annotations

import numpy as np

from datumwise.score.checks import finite_column
from datumwise.score.declare import score

__all__ = ["label_error_regression"]

NORMAL = 1.4826  # standard deviation of a normal over its median absolute deviation, 1 / Phi^-1(3/4)


@score(
    needs=("residual",),
    higher="target more likely wrong",
    source="Hampel, 1974; Iglewicz and Hoaglin, 1993, section 3.3",
)
def label_error_regression(residual: np.ndarray) -> np.ndarray:
    """How many robust standard deviations is the residual off? |r - median r| / (1.4826 MAD).

    Parameters
    ----------
    residual : float (n,), finite
        Target minus out-of-fold prediction.

    Returns
    -------
    float64 (n,)
        >= 0; above 3.5 is the customary flag. Where half of the residuals are equal (MAD 0) the mean absolute
        deviation times 1.2533 takes its place; all equal: 0.

    Examples
    --------
    >>> label_error_regression([-1.0, 0.0, 1.0, 0.0, 40.0]).round(1).tolist()
    [0.7, 0.0, 0.7, 0.0, 27.0]
    """
    residual = finite_column(residual, "residual")
    off = np.abs(residual - np.median(residual))
    scale = NORMAL * float(np.median(off)) or float(np.sqrt(np.pi / 2) * off.mean())
    return off / scale if scale > 0 else off
