"""What does each row add to a random half of the others? Data Banzhaf, robust to noise in the utility.

Wang and Jia, 2023, *Data Banzhaf: A Robust Data Valuation Framework for Machine Learning*, AISTATS, section 4.2
(maximum sample reuse).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.score.estimate import Value, row_names
from datumwise.score.utility import Utility

__all__ = ["banzhaf"]

LEAST_DRAWS = 30  # before a standard error is believed
SETS = 256  # asked of the utility at a time


def banzhaf(
    utility: Utility,
    *,
    n_subsets: int = 1000,
    p: float = 0.5,
    precision: float | None = None,
    random_state: Any = None,
    ids: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Value:
    """Banzhaf values by maximum sample reuse: mean v of the sets with i minus mean v of the sets without.

    Every set serves every row, so that the number of sets does not grow with the number of rows.

    Parameters
    ----------
    utility : Utility
    n_subsets : int, default 1000
        At most; fewer with ``precision``.
    p : float, default 0.5
        Probability that a row is in a set; another than 0.5 gives weighted Banzhaf values (Li and Yu, 2023).
    precision : float, optional
        Stop once every standard error is at most this.
    random_state : None, int or Generator
    ids : array (n,), optional
    progress : callable, optional
        Called with (sets done, ``n_subsets``).

    Returns
    -------
    Value
        The standard error is that of a difference of two means, sqrt(s1²/n1 + s0²/n0).

    Examples
    --------
    >>> from datumwise.score.utility import GameUtility
    >>> glove = GameUtility(3, lambda masks: masks[:, 0] & (masks[:, 1] | masks[:, 2]))
    >>> banzhaf(glove, n_subsets=20_000, random_state=0).values.argmax()  # exact: 3/4, 1/4, 1/4
    np.int64(0)
    """
    if not 0 < p < 1:
        raise DatumwiseError(f"p = {p} is no probability between 0 and 1", remedy="0 < p < 1")
    if n_subsets < 4:
        raise DatumwiseError(f"{n_subsets} subsets are too few for two means with errors", remedy="n_subsets >= 4")
    rng = np.random.default_rng(random_state)
    before = utility.calls
    inside, outside = _Side(utility.n), _Side(utility.n)
    converged = None if precision is None else False
    done = 0
    shift = utility.full()  # sums are taken of v - v(all): squares of small numbers
    while done < n_subsets:
        masks = rng.random((min(SETS, n_subsets - done), utility.n)) < p
        worth = utility(masks) - shift
        inside.add(masks, worth)
        outside.add(~masks, worth)
        done += len(masks)
        if progress:
            progress(done, n_subsets)
        if precision is not None and done >= LEAST_DRAWS and _error(inside, outside).max() <= precision:
            converged = True
            break
    with np.errstate(invalid="ignore"):
        values = inside.total / np.where(inside.count, inside.count, np.nan)
        values = values - outside.total / np.where(outside.count, outside.count, np.nan)
    stderr = np.where(np.isnan(values), np.nan, _error(inside, outside))
    return Value(
        "banzhaf",
        values,
        stderr,
        utility.calls - before,
        done,
        row_names(ids, utility.n),
        converged,
    )


class _Side:
    """Sums over the sets that have (or lack) each row."""

    def __init__(self, n: int) -> None:
        self.count, self.total, self.squares = np.zeros(n), np.zeros(n), np.zeros(n)

    def add(self, masks: np.ndarray, worth: np.ndarray) -> None:
        member = masks.T.astype(np.float64)
        self.count += member.sum(axis=1)
        self.total += member @ worth
        self.squares += member @ worth**2

    def variance_of_mean(self) -> np.ndarray:
        count = np.where(self.count > 1, self.count, np.nan)
        spread = np.maximum(self.squares - self.total**2 / count, 0) / (count - 1)
        return np.where(self.count > 1, spread / count, np.inf)


def _error(inside: _Side, outside: _Side) -> np.ndarray:
    return np.sqrt(inside.variance_of_mean() + outside.variance_of_mean())
