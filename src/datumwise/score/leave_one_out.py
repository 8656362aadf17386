"""What is lost when one row is left out? v(all) - v(all but i), one retraining a row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from datumwise.score.estimate import Value, row_names
from datumwise.score.utility import Utility

__all__ = ["leave_one_out"]

SETS = 256  # asked of the utility at a time


def leave_one_out(
    utility: Utility,
    *,
    ids: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Value:
    """Leave-one-out values (Cook, 1977; as a data value the baseline of Ghorbani and Zou, 2019).

    Parameters
    ----------
    utility : Utility
    ids : array (n,), optional
    progress : callable, optional
        Called with (rows done, n).

    Returns
    -------
    Value
        Standard errors are 0: nothing is sampled. With accuracy on few validation rows most values are exactly 0.

    Examples
    --------
    >>> from datumwise.score.utility import GameUtility
    >>> leave_one_out(GameUtility(3, lambda masks: masks @ [1.0, 2.0, 4.0])).values.tolist()
    [1.0, 2.0, 4.0]
    """
    n, before = utility.n, utility.calls
    full = utility.full()
    values = np.empty(n)
    for start in range(0, n, SETS):
        rows = np.arange(start, min(start + SETS, n))
        masks = np.ones((len(rows), n), bool)
        masks[np.arange(len(rows)), rows] = False
        values[rows] = full - utility(masks)
        if progress:
            progress(int(rows[-1]) + 1, n)
    return Value("loo", values, np.zeros(n), utility.calls - before, n, row_names(ids, n))
