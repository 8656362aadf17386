"""How many calibration points does a statement about a batch need, and which statements can those at hand make?"""

from __future__ import annotations

import math
from dataclasses import dataclass

from datumwise.errors import DatumwiseError
from datumwise.predict.order_statistics import (
    check_alpha,
    order_statistic_rank,
    required_calibration_size,
    whole_number,
)

__all__ = ["BatchPlan", "PlannedStatement", "batch_plan"]


@dataclass(frozen=True)
class PlannedStatement:
    """One statement, and what it takes.

    Attributes
    ----------
    statement : str
    needed : int
        Smallest n at which it bounds anything, for scores without limits.
    possible : bool
        n >= needed.
    rank : int or None
        Calibration score that it rests on, counted from below; None where it is no single one, or none.
    how : str
        The call that makes it.
    """

    statement: str
    needed: int
    possible: bool
    rank: int | None
    how: str


@dataclass(frozen=True)
class BatchPlan:
    """What n calibration points can promise of a batch of m.

    Attributes
    ----------
    n, m : int
    alpha : float
    statements : tuple of PlannedStatement
    """

    n: int
    m: int
    alpha: float
    statements: tuple[PlannedStatement, ...]

    def __str__(self) -> str:
        head = f"n = {self.n:,} calibration points, a batch of {self.m:,}, each with probability at least {1 - self.alpha:g}"
        width = max(len(one.statement) for one in self.statements)
        lines = []
        for one in self.statements:
            found = "yes" if one.possible else f"needs n >= {one.needed:,}"
            if one.possible and one.rank is not None:
                found += f", from score {one.rank:,} of {self.n:,}"
            lines.append(f"  {one.statement:<{width}}  {found}")
        return "\n".join([head, *lines])


def batch_plan(n: int, m: int, alpha: float = 0.1, *, delta: float = 0.1, max_false: int = 0) -> BatchPlan:
    """Which statements n calibration points can make of a batch of m.

    Parameters
    ----------
    n, m : int
    alpha : float
    delta : float, default 0.1
        Share of the intervals that may miss.
    max_false : int, default 0
        False claims allowed in a selection.

    Returns
    -------
    BatchPlan

    Examples
    --------
    >>> print(batch_plan(142, 100))
    n = 142 calibration points, a batch of 100, each with probability at least 0.9
      one interval holds (no word on the batch)       yes, from score 129 of 142
      at least 90 of 100 intervals hold               yes, from score 135 of 142
      all 100 intervals hold                          needs n >= 900
      the median lies between two bounds              yes
      the mean lies between two bounds                needs n >= 1,900
      the mean lies below a bound                     needs n >= 900
      no claim of a selection is false                needs n >= 900
      the expected share of false claims is <= alpha  yes
    """
    n, m = whole_number(n, "n", 1), whole_number(m, "m", 1)
    alpha = check_alpha(alpha)
    if not 0 <= delta < 1 or m - math.floor(delta * m + 1e-9) < 1:
        raise DatumwiseError(f"delta = {delta!r} is no share of a batch of {m:,}", remedy="0 <= delta < 1")
    whole_number(max_false, "max_false", 0, m - 1)
    z = m - math.floor(delta * m + 1e-9)
    middle = (m + 1) // 2
    of_median = max(
        required_calibration_size(m, alpha / 2, z=middle), required_calibration_size(m, alpha / 2, z=middle, side="lower")
    )
    claims = "no claim of a selection is false"
    if max_false:
        claims = f"at most {max_false:,} claims of a selection are false"

    def ranked(statement: str, m: int, z: int, how: str) -> PlannedStatement:
        k = order_statistic_rank(n, m, z, alpha)
        return PlannedStatement(statement, required_calibration_size(m, alpha, z=z), k <= n, k if k <= n else None, how)

    def sized(statement: str, needed: int, how: str) -> PlannedStatement:
        return PlannedStatement(statement, needed, n >= needed, None, how)

    holds = [ranked(f"at least {z:,} of {m:,} intervals hold", m, z, "predict_interval(X, alpha, delta)")]
    if z < m:
        holds.append(ranked(f"all {m:,} intervals hold", m, m, "predict_interval(X, alpha, delta=0)"))
    return BatchPlan(
        n,
        m,
        alpha,
        (
            ranked("one interval holds (no word on the batch)", 1, 1, "SplitConformalRegressor"),
            *holds,
            sized("the median lies between two bounds", of_median, "predict_batch(X, 'median', alpha)"),
            sized(
                "the mean lies between two bounds", required_calibration_size(m, alpha / 2), "predict_batch(X, 'mean', alpha)"
            ),
            sized(
                "the mean lies below a bound",
                required_calibration_size(m, alpha),
                "predict_batch(X, 'mean', alpha, side='upper')",
            ),
            sized(claims, required_calibration_size(m, alpha, eta=max_false), "select(X, threshold, alpha, max_false)"),
            sized(
                "the expected share of false claims is <= alpha",
                required_calibration_size(1, alpha),
                "select(X, threshold, alpha, control='fdr')",
            ),
        ),
    )
