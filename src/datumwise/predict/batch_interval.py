"""What is said of a batch: an interval, from checked scores, at a level, or a refusal that names the calibration size needed.

Source: Lee, Tchetgen Tchetgen & Dobriban, *Batch predictive inference*, arXiv 2409.13990.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, NotFinite, SchemaMismatch, UnknownName, name_some
from datumwise.predict.order_statistics import SLACK, check_alpha, order_statistic_rank

__all__ = [
    "INF",
    "BatchInterval",
    "Side",
    "checked_scores",
    "level_of_side",
    "partition_bound",
    "partition_is_finite",
    "sum_is_bounded",
    "too_few",
]

Side = Literal["both", "upper", "lower"]
INF = math.inf


@dataclass(frozen=True)
class BatchInterval:
    """Interval for a number that describes a batch of m new scores.

    Attributes
    ----------
    lower, upper : float
        The batch's number lies between them with probability >= 1 - alpha, over the draw of the calibration scores and
        the batch together. The side that was not asked for is the statistic's limit, or infinite.
    statistic : str
        What of the batch, for example "mean" or "order statistic 18".
    alpha : float
        Allowed probability of an error, both sides together.
    n, m : int
        Calibration scores and new scores.
    method : str
        How the bounds were found.
    rank_budget : tuple (int or None, int or None)
        What the lower and the upper bound rest on: the index into S_(0..n+1) of an order statistic or of the partition's
        values, or the least and the largest sum of the rank function; None where there is none.
    exact : bool
        True if the bounds are the tightest that the method has; False if a faster, slightly wider form was used.
    """

    lower: float
    upper: float
    statistic: str
    alpha: float
    n: int
    m: int
    method: str
    rank_budget: tuple[int | None, int | None]
    exact: bool

    def shift(self, by: float) -> BatchInterval:
        """The interval moved by a constant, such as the mean prediction of the batch.

        Examples
        --------
        >>> found = BatchInterval(-1.0, 2.0, "mean", 0.1, n=40, m=10, method="rank_sum", rank_budget=(135, 265), exact=True)
        >>> print(found.shift(10.0))
        mean of 10 new scores in [9, 12] with probability 0.9 (rank_sum, 40 calibration scores)
        """
        return replace(self, lower=self.lower + by, upper=self.upper + by)

    def __str__(self) -> str:
        return (
            f"{self.statistic} of {self.m:,} new scores in [{self.lower:.6g}, {self.upper:.6g}] with probability "
            f"{1 - self.alpha:g} ({self.method}, {self.n:,} calibration scores)"
        )


def checked_scores(
    scores: Any, score_bounds: tuple[float, float] = (-INF, INF), *, finite: bool = False, name: str = "scores"
) -> tuple[np.ndarray, float, float]:
    """Scores as float64 (n,) in the given order, with the limits of the score.

    Raises
    ------
    NotFinite
        NaN, or infinite ones where finite ones are needed; names the rows.
    EmptyData, SchemaMismatch
        None; no array (n,); limits that are no pair.
    DatumwiseError
        A score outside the limits.

    Examples
    --------
    >>> checked_scores([1, 2], (0, 5))
    (array([1., 2.]), 0.0, 5.0)
    """
    try:
        values = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError):
        raise SchemaMismatch(f"{name} are no numbers") from None
    if values.ndim != 1:
        raise SchemaMismatch(f"{name} must be one number a row, not an array {values.shape}")
    if len(values) == 0:
        raise EmptyData(f"there are no {name}")
    bad = ~np.isfinite(values) if finite else np.isnan(values)
    if bad.any():
        rows = np.flatnonzero(bad)
        what = "not finite" if finite else "NaN"
        raise NotFinite(
            f"{len(rows):,} of {len(values):,} {name} are {what} (rows {name_some(rows)})",
            remedy="leave these rows out, or mend the model's predictions there",
            ids=rows.tolist(),
        )
    try:
        low, high = (float(b) for b in score_bounds)
    except (TypeError, ValueError):
        raise SchemaMismatch(f"score_bounds must be a pair of numbers, not {score_bounds!r}") from None
    if not low < high:
        raise DatumwiseError(f"score_bounds ({low:g}, {high:g}) leave no score", remedy="(least, largest)")
    out = np.flatnonzero((values < low) | (values > high))
    if len(out):
        raise DatumwiseError(
            f"{len(out):,} {name} lie outside score_bounds ({low:g}, {high:g}) (rows {name_some(out)})",
            remedy="give the limits of the score itself, infinite if it has none",
            ids=out.tolist(),
        )
    return values, low, high


def level_of_side(alpha: Any, side: str) -> float:
    if side not in ("both", "upper", "lower"):
        raise UnknownName(f"there is no side {side!r}", remedy="choose both, upper or lower")
    return check_alpha(alpha) / (2 if side == "both" else 1)


def sum_is_bounded(n: int, m: int, level: float) -> bool:
    """Can the sum of m scores without a limit be bounded? The largest is below all of n with probability n / (n + m)."""
    return n / (n + m) >= 1 - level - SLACK


def partition_is_finite(n: int, m: int, level: float) -> bool:
    L = n // m
    return L >= 1 and order_statistic_rank(L, 1, 1, level) <= L


def partition_bound(values: np.ndarray, level: float, limit: float) -> tuple[float, int]:
    """Upper bound of one more exchangeable value, and its index among the sorted ones; the limit where they are too few."""
    L = len(values)
    k = order_statistic_rank(L, 1, 1, level) if L else 1
    return (float(np.sort(values)[k - 1]), k) if k <= L else (limit, L + 1)


def too_few(what: str, need: int, n: int, allow_infinite: bool) -> None:
    sentence = f"{what} is infinite: need n >= {need:,} calibration scores at this level; got n = {n:,}"
    if not allow_infinite:
        raise DatumwiseError(sentence, remedy="calibrate on more, allow a larger alpha, or give score_bounds")
    warnings.warn(sentence, stacklevel=3)
