"""What can be promised about any symmetric function of a batch that rises, or falls, with every score?

Source: Lee, Tchetgen Tchetgen & Dobriban, *Batch predictive inference*, arXiv 2409.13990; the band, the fold
and the treatment of infinite limits are our own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import combinations_with_replacement
from typing import Any, Literal

import numpy as np

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, UnknownName
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
from datumwise.predict.max_sum import max_fold
from datumwise.predict.order_statistics import SLACK, required_calibration_size, whole_number
from datumwise.predict.rank_boxes import band_ranks
from datumwise.predict.rank_sum import rank_function, rank_sum_quantile, sampled_rank_quantile

__all__ = ["batch_function_bound"]

FunctionMethod = Literal["auto", "partition", "enumerate", "fold", "band"]
ENUMERATED = 2_000_000  # ranks in all rank vectors together, up to which "auto" goes through them one by one
LAST = 2.0**40  # added to the rank order for each rank whose score has no limit, so that those vectors come last
FOLDED = 200_000_000  # updates of a fold's table (about 0.5 s), which decide how many values its rank function has


def batch_function_bound(
    scores: Any,
    m: int,
    alpha: float,
    statistic: Callable[..., Any] | None,
    *,
    fold: Callable[[Any, Any], Any] | None = None,
    direction: Literal["increasing", "decreasing"] = "increasing",
    side: Side = "both",
    method: FunctionMethod = "auto",
    rank_order: Any = None,
    draws: int | None = None,
    random_state: Any = None,
    score_bounds: tuple[float, float] = (-INF, INF),
    allow_infinite: bool = False,
) -> BatchInterval:
    """Bounds of any symmetric function of m new scores that rises, or falls, with each of them.

    Parameters
    ----------
    scores : float (n,)
        Calibration scores, finite.
    m : int >= 1
        New scores.
    alpha : float in (0, 1)
        Half of it a side for two sides.
    statistic : callable, float (m,) -> float, or None
        Does not depend on the order of the scores. One that takes ``axis`` is called on many rows at once. None: the fold.
    fold : callable (array, array) -> array, optional
        Associative, commutative and nondecreasing in both, element by element, with ``statistic`` its composition over the
        m scores: ``np.maximum``, ``np.logaddexp``, ``np.hypot`` for scores that are not negative, ...
    direction : {"increasing", "decreasing"}
        What the statistic does when a score rises. It is tried on the scores, which proves nothing.
    side : {"both", "upper", "lower"}
    method : {"auto", "partition", "enumerate", "fold", "band"}
        "partition": as in `batch_sum_bound`. "enumerate": the largest value over every rank vector of the likely ones.
        "fold": the same by dynamic programming over the budget of ranks. "band": the value at the one-sided band of
        `cdf_band`, which bounds all sorted scores at once. "auto", from the sizes and from what is given alone: partition
        where it is finite, enumerate while the rank vectors hold at most 2,000,000 ranks, fold if one is given, else band.
    rank_order : int (n + 1,) or callable, int (k, m) -> float (k,), optional
        What makes rank vectors likely: h0 of sum_z h0(R_z), or, to enumerate, any function of rank vectors. It must be
        fixed before the calibration scores are seen. The sum of ranks by default; for a fold of many scores, of ranks
        rounded to fewer values.
    draws : int, optional
        Take the quantile of the rank order from so many draws instead of from its law: still exactly valid.
    random_state : int, Generator or None
        Of the draws.
    score_bounds : (float, float)
        Limits that the score cannot leave.
    allow_infinite : bool, default False
        Return an infinite bound, with a warning, where n is too small, instead of refusing.

    Returns
    -------
    BatchInterval
        ``rank_budget`` of a lower bound counts ranks from the largest score.

    Raises
    ------
    NotFinite, EmptyData, SchemaMismatch
        Scores that are not finite, none, no array (n,); a statistic that is no number.
    DatumwiseError
        A statistic that is seen not to be symmetric, or not monotone in the direction said; a fold that is not the
        statistic's; too many rank vectors to enumerate; n too small for a finite bound.

    Examples
    --------
    The root mean square of five new scores among thirty:

    >>> scores = np.abs(np.random.default_rng(0).normal(size=30))
    >>> rms = lambda t, axis=-1: np.sqrt(np.mean(np.square(t), axis=axis))
    >>> found = batch_function_bound(scores, 5, 0.2, rms, side="upper", score_bounds=(0, np.inf))
    >>> round(found.upper, 3), found.method
    (1.216, 'partition')
    """
    values, low, high = checked_scores(scores, score_bounds, finite=True)
    n, m = len(values), whole_number(m, "m, the number of new scores,", 1)
    level = level_of_side(alpha, side)
    if direction not in ("increasing", "decreasing"):
        raise UnknownName(f"there is no direction {direction!r}", remedy="choose increasing or decreasing")
    if method not in ("auto", "partition", "enumerate", "fold", "band"):
        raise UnknownName(f"there is no method {method!r}", remedy="choose auto, partition, enumerate, fold or band")
    if statistic is None and fold is None:
        raise DatumwiseError("there is nothing to bound", remedy="pass a statistic, a fold or both")
    if fold is not None and direction == "decreasing":
        raise DatumwiseError("a fold is nondecreasing in both its arguments", remedy="fold the negative scores instead")
    if rank_order is not None and not callable(rank_order):
        rank_order = rank_function(rank_order, n + 1)
    g = _on_rows(statistic, fold)
    _try(g, fold if statistic is not None else None, values, m, direction)
    if method == "auto":
        method = _function_method(n, m, level, fold, rank_order)
    rng = np.random.default_rng(random_state)

    bounds: list[float] = [-INF, INF]
    budgets: list[int | None] = [None, None]
    for i, one in enumerate(("lower", "upper")):
        if side not in ("both", one):
            continue
        rises = direction == "increasing"
        sign = 1 if (i == 1) == rises else -1  # of the scores, so that the bound is an upper one of a rising function
        problem = _Upper(
            values=sign * values,
            limit=high if sign > 0 else -low,
            m=m,
            level=level,
            g=_signed(g, sign, 1 if i else -1),
            fold=fold if fold is None or sign > 0 else _mirrored(fold),
            rank_order=rank_order if sign > 0 or rank_order is None else _upside_down(rank_order, n),
            draws=draws,
            rng=rng,
        )
        value, budgets[i] = _BY_METHOD[method](problem)
        if math.isnan(value):
            raise NotFinite(f"the statistic is no number at the {one} bound", remedy="give score_bounds that it can take")
        if value == INF:
            need = required_calibration_size(m, level)
            too_few(f"the {one} bound of the statistic of {m} scores", need, n, allow_infinite)
        bounds[i] = value if i else -value
    name = getattr(statistic if statistic is not None else fold, "__name__", "function")
    budget = (budgets[0], budgets[1])
    return BatchInterval(bounds[0], bounds[1], name, float(alpha), n, m, method, budget, method != "band" and draws is None)


@dataclass(frozen=True)
class _Upper:
    """An upper bound that is sought: of g, nondecreasing, for scores with an upper limit."""

    values: np.ndarray
    limit: float
    m: int
    level: float
    g: Callable[[np.ndarray], np.ndarray]
    fold: Callable[[Any, Any], Any] | None
    rank_order: Any
    draws: int | None
    rng: np.random.Generator


def _partition(p: _Upper) -> tuple[float, int | None]:
    L = len(p.values) // p.m
    at_limit = float(p.g(np.full((1, p.m), p.limit))[0])
    if not L:
        return at_limit, None
    return partition_bound(p.g(p.values[: L * p.m].reshape(L, p.m)), p.level, at_limit)


def _enumerate(p: _Upper) -> tuple[float, int | None]:
    """Largest value over the rank vectors that are least by (ranks n + 1 if that is infinite, rank order)."""
    n, m = len(p.values), p.m
    vectors = math.comb(n + m, m)
    if vectors * m > 10 * ENUMERATED:
        raise DatumwiseError(
            f"{vectors:,} rank vectors are too many to enumerate",
            remedy="use method='band', or method='fold' with the statistic's fold",
        )
    chosen = combinations_with_replacement(range(1, n + 2), m)
    ranks = np.fromiter((r for vector in chosen for r in vector), np.int64, vectors * m).reshape(vectors, m)
    order = _rank_order(p.rank_order, n, p.limit)
    h = order(ranks)
    if p.draws is None:
        place = math.ceil((1 - p.level) * vectors - SLACK * vectors)
        q = float(np.partition(h, place - 1)[place - 1])
    else:
        q = sampled_rank_quantile(n, m, p.level, order, draws=p.draws, random_state=p.rng)
    padded = np.append(np.sort(p.values), p.limit)
    return float(p.g(padded[ranks[h <= q] - 1]).max()), int(q) if q.is_integer() and q < LAST else None


def _rank_order(rank_order: Any, n: int, limit: float) -> Callable[[np.ndarray], np.ndarray]:
    """The function of rank vectors; where rank n + 1 is infinite, vectors with fewer of it come first."""
    h0 = np.arange(n + 1) if rank_order is None else rank_order

    def order(ranks: np.ndarray) -> np.ndarray:
        h = np.asarray(rank_order(ranks) if callable(rank_order) else h0[ranks - 1].sum(axis=1), dtype=np.float64)
        if h.shape != (len(ranks),) or not np.isfinite(h).all():
            raise SchemaMismatch(f"rank_order must give one finite number a row of ranks {ranks.shape}, not an array {h.shape}")
        if math.isinf(limit):
            h = h + LAST * (ranks == n + 1).sum(axis=1)
        return h

    return order


def _fold(p: _Upper) -> tuple[float, int | None]:
    """Largest composition over the vectors of a budget, by dynamic programming."""
    n, m = len(p.values), p.m
    if p.fold is None:
        raise DatumwiseError("method='fold' needs the statistic's fold", remedy="pass fold, or use method='band'")
    if callable(p.rank_order):
        raise DatumwiseError("a fold needs a sum of h0 over the ranks as rank_order", remedy="pass h0, or method='enumerate'")
    finite = math.isinf(p.limit)
    if finite and not sum_is_bounded(n, m, p.level):
        return INF, None
    h0 = _coarse(n, m) if p.rank_order is None else p.rank_order
    used = None if h0 is None else h0[:n] if finite else h0
    if p.draws is None:
        q = rank_sum_quantile(n, m, p.level, used, finite=finite)
    else:
        order = _rank_order(h0, n, p.limit)
        drawn = sampled_rank_quantile(n, m, p.level, order, draws=p.draws, random_state=p.rng)
        if drawn >= LAST:
            return INF, None
        q = int(drawn)
    climb = np.sort(p.values)
    return max_fold(climb if finite else np.append(climb, p.limit), m, q, p.fold, used), q


def _coarse(n: int, m: int) -> np.ndarray | None:
    """Ranks rounded up to so few values that a fold's table is filled in time; None where all ranks may stay apart."""
    values = max(16, int(math.sqrt(2 * FOLDED)) // m)
    return None if values >= n else -(-np.arange(n + 1) * values // n)


def _band(p: _Upper) -> tuple[float, int | None]:
    """The value at a band that all sorted scores keep below together."""
    n = len(p.values)
    finite = math.isinf(p.limit) and sum_is_bounded(n, p.m, p.level)
    _, b = band_ranks(n, p.m, p.level, "upper", finite=finite)
    return float(p.g(np.append(np.sort(p.values), p.limit)[None, b - 1])[0]), None


_BY_METHOD: dict[str, Callable[[_Upper], tuple[float, int | None]]] = {
    "partition": _partition,
    "enumerate": _enumerate,
    "fold": _fold,
    "band": _band,
}


def _function_method(n: int, m: int, level: float, fold: Any, rank_order: Any) -> FunctionMethod:
    """From the sizes and from what is given, never from the scores."""
    if partition_is_finite(n, m, level):
        return "partition"
    if math.comb(n + m, m) * m <= ENUMERATED or callable(rank_order):
        return "enumerate"
    return "band" if fold is None else "fold"


def _signed(g: Callable[[np.ndarray], np.ndarray], of_scores: int, of_value: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda rows: of_value * g(of_scores * rows)


def _mirrored(fold: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda a, b: -np.asarray(fold(-a, -b))


def _upside_down(rank_order: Any, n: int) -> Any:
    """The rank order of scores whose sign is changed, so that what was largest is least."""
    if callable(rank_order):
        return lambda ranks: -np.asarray(rank_order(n + 2 - ranks[:, ::-1]), dtype=np.float64)
    return rank_order[-1] - rank_order[::-1]


def _on_rows(
    statistic: Callable[..., Any] | None, fold: Callable[[Any, Any], Any] | None
) -> Callable[[np.ndarray], np.ndarray]:
    """The statistic of each row of (k, m)."""

    def g(rows: np.ndarray) -> np.ndarray:
        if statistic is None:
            answer = reduce(fold, rows.T)  # type: ignore[arg-type]
        else:
            try:
                answer = statistic(rows, axis=-1)
            except TypeError:  # takes one batch at a time
                answer = [statistic(row) for row in rows]
        found = np.asarray(answer, dtype=np.float64)
        if found.shape != (len(rows),):
            raise SchemaMismatch(f"the statistic must give one number a batch, not an array {found.shape[1:]}")
        return found

    return g


def _try(g: Callable[[np.ndarray], np.ndarray], fold: Any, values: np.ndarray, m: int, direction: str) -> None:
    """Refuse a statistic that these scores show not to be symmetric, monotone as said, or its fold's."""
    rng = np.random.default_rng(0)
    rows, others = rng.choice(values, (2, 64, m))
    raised = rows.copy()
    raised[:, 0] = np.maximum(rows[:, 0], others[:, 0])
    here, shuffled, above = g(rows), g(rng.permuted(rows, axis=1)), g(raised)
    slack = 1e-9 * (1 + np.abs(here))
    if (np.abs(here - shuffled) > slack).any():
        raise DatumwiseError("the statistic depends on the order of the scores", remedy="bound one that does not")
    fall = here - above if direction == "increasing" else above - here
    if (fall > slack).any():
        raise DatumwiseError(
            f"the statistic is not {direction}: raising one score took it from {here[fall.argmax()]:.6g} to "
            f"{above[fall.argmax()]:.6g}",
            remedy="give the other direction, or bound a monotone statistic",
        )
    if fold is not None and (np.abs(here - reduce(fold, rows.T)) > slack).any():
        raise DatumwiseError("the fold of the scores is not the statistic", remedy="leave one of them out")
