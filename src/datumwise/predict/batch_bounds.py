"""What can be promised about a whole batch of new scores: its quantiles, its mean, any function that rises with them.

Source: Lee, Tchetgen Tchetgen & Dobriban, *Batch predictive inference*, arXiv 2409.13990. Beyond the paper: exact laws,
unbounded scores, shaped rank functions, and the choice of a method from the sizes alone.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.predict.batch_function import batch_function_bound
from datumwise.predict.batch_interval import (
    INF,
    BatchInterval,
    Side,
    checked_scores,
    level_of_side,
    partition_bound,
    partition_is_finite,
    sum_is_bounded,
    too_few,
)
from datumwise.predict.max_sum import Solver, maximise
from datumwise.predict.order_statistics import SLACK, order_statistic_rank, required_calibration_size, whole_number
from datumwise.predict.rank_boxes import cdf_band, quartile_box
from datumwise.predict.rank_sum import rank_sum_quantile, shaped_ranks

__all__ = [
    "BatchInterval",
    "batch_function_bound",
    "batch_quantile_bound",
    "batch_sum_bound",
    "cdf_band",
    "checked_scores",
    "quartile_box",
]

Method = Literal["auto", "partition", "shaped", "rank_sum"]


def batch_quantile_bound(
    scores: Any,
    m: int,
    z: int | float | str | tuple[str, float],
    alpha: float,
    *,
    side: Side = "both",
    score_bounds: tuple[float, float] = (-INF, INF),
    allow_infinite: bool = False,
) -> BatchInterval:
    """Bounds of the z-th smallest of m new scores. Exact up to the discreteness of ranks.

    Parameters
    ----------
    scores : float (n,)
        Calibration scores; infinite ones are allowed, NaN is not.
    m : int >= 1
        New scores.
    z : int, "median", float p in (0, 1] or ("quantile", p)
        The z-th smallest; "median" is ceil(m / 2), p is ceil(p m).
    alpha : float in (0, 1)
        Half of it a side for two sides.
    side : {"both", "upper", "lower"}
    score_bounds : (float, float)
        Limits that the score cannot leave, such as (0, inf) for absolute residuals.
    allow_infinite : bool, default False
        Return an infinite bound, with a warning, where n is too small, instead of refusing.

    Returns
    -------
    BatchInterval
        ``rank_budget`` holds the indices into S_(0..n+1).

    Raises
    ------
    NotFinite, EmptyData, SchemaMismatch
        NaN among the scores, none, no array (n,).
    DatumwiseError
        A size or level out of range, a score outside score_bounds, n too small for a finite bound.

    Examples
    --------
    >>> scores = np.arange(1.0, 101.0)
    >>> batch_quantile_bound(scores, 20, 18, 0.1, side="upper").upper
    96.0
    >>> print(batch_quantile_bound(scores, 20, "median", 0.1))
    order statistic 10 of 20 new scores in [28, 68] with probability 0.9 (ranks, 100 calibration scores)
    """
    values, low, high = checked_scores(scores, score_bounds)
    n, m = len(values), whole_number(m, "m, the number of new scores,", 1)
    place = _place(z, m)
    level = level_of_side(alpha, side)
    padded = np.concatenate([[low], np.sort(values), [high]])
    ranks: list[int | None] = [None, None]
    bounds = [low, high]
    sides: tuple[Literal["lower", "upper"], ...] = ("lower", "upper")
    for i, one in enumerate(sides):
        if side in ("both", one):
            k = order_statistic_rank(n, m, place, level, one)
            if k == (0, n + 1)[i] and math.isinf(padded[k]):
                need = required_calibration_size(m, level, z=place, side=one)
                too_few(f"the {one} bound of order statistic {place} of {m}", need, n, allow_infinite)
            ranks[i], bounds[i] = k, float(padded[k])
    name, budget = f"order statistic {place}", (ranks[0], ranks[1])
    return BatchInterval(bounds[0], bounds[1], name, float(alpha), n, m, "ranks", budget, True)


def batch_sum_bound(
    scores: Any,
    m: int,
    alpha: float,
    *,
    statistic: Literal["mean", "sum"] = "mean",
    side: Side = "both",
    method: Method = "auto",
    solver: Solver = "auto",
    reference_scores: Any = None,
    score_bounds: tuple[float, float] = (-INF, INF),
    bins: int = 1000,
    allow_infinite: bool = False,
) -> BatchInterval:
    """Bounds of the mean or the sum of m new scores.

    Parameters
    ----------
    scores : float (n,)
        Calibration scores, finite. Their order counts for "partition" only, and must not depend on their values.
    m : int >= 1
        New scores.
    alpha : float in (0, 1)
        Half of it a side for two sides.
    statistic : {"mean", "sum"}
    side : {"both", "upper", "lower"}
    method : {"auto", "partition", "shaped", "rank_sum"}
        "partition": the calibration scores are dealt to n // m batches in the given order, and a new batch is one more of
        them. "rank_sum": the largest sum among the rank vectors whose sum is not among the largest alpha. "shaped": the
        same with ranks that follow the reference scores, far tighter for skewed scores. "auto", from n, m and alpha alone:
        partition where it is finite, else shaped if there are reference scores, else rank_sum. Looking at several
        intervals and keeping the shortest would break the promise.
    solver : {"auto", "exact", "envelope"}
        Of the largest sum, as in `max_sum`; every choice is valid.
    reference_scores : float (k,), optional
        For "shaped": scores of other data, such as the training data; never the calibration scores.
    score_bounds : (float, float)
        Limits that the score cannot leave. Without a limit a finite bound needs n / (n + m) >= 1 - alpha on that side, for
        any method and any law.
    bins : int, default 1000
        Values of the shaped rank function.
    allow_infinite : bool, default False
        Return an infinite bound, with a warning, where n is too small, instead of refusing.

    Returns
    -------
    BatchInterval

    Raises
    ------
    NotFinite, EmptyData, SchemaMismatch
        Scores that are not finite, none, no array (n,).
    UnknownName
        An unknown statistic, side, method or solver.
    DatumwiseError
        A size or level out of range, a score outside score_bounds, n too small for a finite bound, reference scores missing,
        without shape, or those of the calibration.

    Examples
    --------
    Skewed scores in [0, 1], 40 of them for a batch of 10:

    >>> rng = np.random.default_rng(0)
    >>> scores, training = rng.beta(1, 6, 40), rng.beta(1, 6, 1000)
    >>> plain = batch_sum_bound(scores, 10, 0.1, side="upper", score_bounds=(0, 1))
    >>> shaped = batch_sum_bound(scores, 10, 0.1, side="upper", score_bounds=(0, 1), reference_scores=training)
    >>> round(plain.upper, 3), round(shaped.upper, 3), shaped.method
    (0.608, 0.329, 'shaped')
    """
    values, low, high = checked_scores(scores, score_bounds, finite=True)
    n, m = len(values), whole_number(m, "m, the number of new scores,", 1)
    level = level_of_side(alpha, side)
    if statistic not in ("mean", "sum"):
        raise UnknownName(f"there is no statistic {statistic!r} here", remedy="choose mean or sum, or batch_function_bound")
    if method not in ("auto", "partition", "shaped", "rank_sum"):
        raise UnknownName(f"there is no method {method!r}", remedy="choose auto, partition, shaped or rank_sum")
    reference = None if reference_scores is None else _reference(reference_scores, scores, values, low, high)
    if method == "shaped" and reference is None:
        raise DatumwiseError("method='shaped' needs reference_scores", remedy="pass scores of the training data")
    if method == "auto":
        finite = partition_is_finite(n, m, level)
        method = "partition" if finite else "rank_sum" if reference is None else "shaped"

    sums, exact = [m * low, m * high], True
    budgets: list[int | None] = [None, None]
    for i, one in enumerate(("lower", "upper")):
        if side not in ("both", one):
            continue
        sign, limit = (1, high) if i else (-1, -low)  # the lower bound is that of the scores upside down
        if method == "partition":
            L = n // m
            total, k = partition_bound(sign * values[: L * m].reshape(L, m).sum(axis=1), level, m * limit)
            if math.isinf(total):
                need = m * (math.ceil(1 / level - SLACK) - 1)
                too_few(f"the {one} bound of the {statistic} of {m} scores by a partition", need, n, allow_infinite)
            sums[i], budgets[i] = sign * total, k if i else L + 1 - k
            continue
        if math.isinf(limit) and not sum_is_bounded(n, m, level):
            too_few(f"the {one} bound of the {statistic} of {m} scores", required_calibration_size(m, level), n, allow_infinite)
            sums[i] = sign * INF
            continue
        h0 = None
        if method == "shaped" and reference is not None:
            h0 = shaped_ranks(sign * reference, n, limit, bins=bins)
        q = rank_sum_quantile(n, m, level, h0, finite=math.isinf(limit))
        climb = np.sort(sign * values)
        climb = climb if math.isinf(limit) else np.append(climb, limit)
        total, solved = maximise(climb, m, q, h0, solver)
        sums[i], exact = sign * total, exact and solved
        top = len(climb) - 1 if h0 is None else int(h0[-1])
        budgets[i] = q if i else m * top - q
    scale = m if statistic == "mean" else 1
    return BatchInterval(
        sums[0] / scale, sums[1] / scale, statistic, float(alpha), n, m, method, (budgets[0], budgets[1]), exact
    )


def _place(z: Any, m: int) -> int:
    """z, "median", p or ("quantile", p) as the place of an order statistic."""
    if isinstance(z, tuple) and len(z) == 2 and z[0] == "quantile":
        z = float(z[1])
    if isinstance(z, str):
        if z != "median":
            raise UnknownName(f"there is no order statistic {z!r}", remedy="choose median, a place 1..m or a level in (0, 1]")
        return math.ceil(m / 2)
    if isinstance(z, float | np.floating):
        if not 0 < z <= 1:
            raise DatumwiseError(f"z = {z:g} is no level of a quantile", remedy="0 < z <= 1, or a whole number for a place")
        return max(math.ceil(z * m - 1e-9), 1)
    return whole_number(z, "z, the place of the order statistic,", 1, m)


def _reference(reference: Any, scores: Any, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Reference scores, if they are not the calibration scores in disguise."""
    array, _, _ = checked_scores(reference, (low, high), finite=True, name="reference_scores")
    same = isinstance(reference, np.ndarray) and isinstance(scores, np.ndarray) and np.shares_memory(reference, scores)
    if not same:
        same = np.array_equal(np.sort(array), np.sort(values))
    if not same:  # values that occur once in each are the same datapoints, if they are many
        mine, theirs = (v[c == 1] for v, c in (np.unique(a, return_counts=True) for a in (array, values)))
        shared = len(np.intersect1d(mine, theirs, assume_unique=True))
        same = shared > max(2, min(len(array), len(values)) / 2)
    if same:
        raise DatumwiseError(
            "reference_scores are calibration scores, and a rank function that has seen them promises nothing",
            remedy="pass scores of the training data, or of a part that is set aside",
        )
    return array
