"""How large can the sum over a batch be, if the sum of its ranks keeps to a budget? Exactly, and in closed form.

    U = max sum_z S_(r_z)   over rank vectors r with   sum_z h0(r_z) <= budget

Source: Lee, Tchetgen Tchetgen & Dobriban, *Batch predictive inference*, arXiv 2409.13990, for compositional functions;
the closed form, the pruning of ranks and other compositions than sums are our own derivations.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, UnknownName, name_some
from datumwise.predict.order_statistics import whole_number
from datumwise.predict.rank_sum import rank_function

__all__ = ["max_fold", "max_sum", "maximise", "min_sum"]

Solver = Literal["exact", "envelope", "auto"]
UPDATES = 100_000_000  # of a table, up to which "auto" solves exactly (about 0.1 s)
CORE = 8  # ranks tried before the bound they give decides which others could matter
ROUNDING = 1e-12  # of the largest sum: two sums this close are equal


def max_sum(values: Any, m: int, budget: int, h0: Any = None, solver: Solver = "exact") -> float:
    """Largest sum of m values, each taken as often as wanted, whose h0 add up to no more than the budget.

    Parameters
    ----------
    values : float (n + 1,)
        S_(1) <= ... <= S_(n + 1), finite. Leave a rank out by leaving its value out.
    m : int >= 1
        How many are summed.
    budget : int
        At least m times h0[0].
    h0 : int (n + 1,), optional
        Nondecreasing, not negative; 0..n by default.
    solver : {"exact", "envelope", "auto"}
        "exact": dynamic programming over the ranks that can matter. "envelope": m times the upper concave envelope of the
        points (h0(r), S_(r)) at budget / m, never below the exact sum and above it by less than the rise of the
        envelope's edge there; O(n). "auto": exact where that takes at most 10^8 updates.

    Returns
    -------
    float

    Raises
    ------
    NotFinite, SchemaMismatch
        Values that are not finite, or no array (n + 1,).
    DatumwiseError
        Values or h0 that decrease, a budget that no choice keeps.

    Notes
    -----
    A rank whose value lies below the envelope's edge by more than the gap between the envelope and a choice at hand is in
    no better choice; mostly a handful of ranks is left, and budgets are counted from the smallest of them.

    Examples
    --------
    Three items with a budget of 4: once the rank that costs 3, once the one that costs 1.

    >>> max_sum([0.0, 2.0, 2.0, 7.0], 3, 4), round(max_sum([0.0, 2.0, 2.0, 7.0], 3, 4, solver="envelope"), 3)
    (9.0, 9.333)
    """
    return maximise(values, m, budget, h0, solver)[0]


def min_sum(values: Any, m: int, budget: int, h0: Any = None, solver: Solver = "exact") -> float:
    """Smallest sum of m values, each taken as often as wanted, whose h0 add up to no less than the budget.

    Parameters
    ----------
    values : float (n + 1,)
        S_(0) <= ... <= S_(n), finite.
    m : int >= 1
    budget : int
        At most m times h0[-1].
    h0 : int (n + 1,), optional
        Nondecreasing, not negative; 0..n by default.
    solver : {"exact", "envelope", "auto"}
        As in `max_sum`; the envelope is the lower convex one.

    Returns
    -------
    float

    Raises
    ------
    NotFinite, SchemaMismatch, DatumwiseError
        As in `max_sum`.

    Examples
    --------
    >>> min_sum([0.0, 2.0, 2.0, 7.0], 3, 4)  # costs 0, 2 and 2, or 1, 1 and 2, or 0, 1 and 3
    4.0
    """
    values = _sorted_values(values)
    m = whole_number(m, "m, the number of items,", 1)
    cost = rank_function(h0, len(values))
    cost = np.arange(len(values)) if cost is None else cost
    top = int(cost[-1])
    return -maximise(-values[::-1], m, m * top - whole_number(budget, "budget", 0, m * top), (top - cost)[::-1], solver)[0]


def maximise(values: Any, m: int, budget: int, h0: Any = None, solver: Solver = "exact") -> tuple[float, bool]:
    """`max_sum`, and whether it is the exact one.

    Examples
    --------
    >>> maximise([0.0, 2.0, 2.0, 7.0], 3, 4, solver="auto")
    (9.0, True)
    """
    if solver not in ("exact", "envelope", "auto"):
        raise UnknownName(f"there is no solver {solver!r}", remedy="choose exact, envelope or auto")
    values = _sorted_values(values)
    m, q, cost = _budget(m, budget, h0, len(values))
    if q >= m * cost[-1]:
        return float(m * values[-1]), True
    last = np.append(np.flatnonzero(np.diff(cost)), len(cost) - 1)  # of ranks that cost the same the highest is best
    cost, values = cost[last], values[last]

    left, right = _edge(cost, values, q / m)
    slope = (values[right] - values[left]) / (cost[right] - cost[left])
    edge = values[left] + slope * (cost - cost[left])
    bound = float(m * values[left] + slope * (q - m * cost[left]))
    vertex = q == m * cost[left]
    if vertex or solver == "envelope":
        return bound, bool(vertex)

    loss = np.maximum(edge - values, 0.0)  # what an item of the rank falls short of the edge
    loss[[left, right]] = 0.0
    slack = ROUNDING * max(abs(bound), m * float(np.abs(values).max()))
    order = np.argsort(loss, kind="stable")
    best = _rounded_down(cost, values, m, q, left, right)
    size = CORE
    while True:
        wanted = int(np.count_nonzero(loss <= bound - best + slack))  # others are in no better choice
        size = max(2, min(size, wanted))
        core = np.sort(order[:size])
        updates = m * (q - m * int(cost[core[0]]) + 1) * size
        if solver == "auto" and updates > UPDATES:
            return bound, False
        best = max(best, _table(values[core], cost[core], m, q, np.add))
        if size >= wanted:
            return best, True
        size *= 4


def max_fold(values: Any, m: int, budget: int, compose: Callable[[np.ndarray, Any], np.ndarray], h0: Any = None) -> float:
    """Largest composition of m values whose h0 add up to no more than the budget.

    Parameters
    ----------
    values : float (n + 1,)
        S_(1) <= ... <= S_(n + 1), finite.
    m : int >= 1
    budget : int
        At least m times h0[0].
    compose : callable (array, value) -> array
        Associative, commutative and nondecreasing in both, element by element, such as ``np.maximum``, ``np.logaddexp`` or,
        for values that are not negative, ``np.multiply``.
    h0 : int (n + 1,), optional
        Nondecreasing, not negative; 0..n by default.

    Returns
    -------
    float

    Raises
    ------
    NotFinite, SchemaMismatch, DatumwiseError
        As in `max_sum`.

    Notes
    -----
    O(m n budget), vectorised over the budget.

    Examples
    --------
    >>> max_fold([0.0, 2.0, 2.0, 7.0], 3, 4, np.hypot)  # the square root of 0 + 4 + 49
    7.280109889280518
    """
    values = _sorted_values(values)
    m, q, cost = _budget(m, budget, h0, len(values))
    last = np.append(np.flatnonzero(np.diff(cost)), len(cost) - 1)
    return _table(values[last], cost[last], m, min(q, m * int(cost[-1])), compose)


def _table(values: np.ndarray, cost: np.ndarray, m: int, q: int, compose: Callable[[np.ndarray, Any], np.ndarray]) -> float:
    """Best composition of exactly m items within the budget q; best[b] is that of j items within b."""
    q -= m * int(cost[0])
    if q < 0:
        return -np.inf
    cost = cost - cost[0]
    affordable = int(np.searchsorted(cost, q, side="right"))
    values, cost = values[:affordable], cost[:affordable]
    best = values[np.searchsorted(cost, np.arange(q + 1), side="right") - 1]  # one item
    for j in range(2, m + 1):
        if j == m:  # of the last only the whole budget is asked
            return float(np.max(compose(best[q - cost], values)))
        more = np.array(compose(best, values[0]), dtype=np.float64)
        for c, v in zip(cost[1:].tolist(), values[1:], strict=True):
            np.maximum(more[c:], compose(best[: q + 1 - c], v), out=more[c:])
        best = more
    return float(best[q])


def _edge(cost: np.ndarray, values: np.ndarray, at: float) -> tuple[int, int]:
    """Ends of the edge of the upper concave envelope over cost = at, cost[left] <= at < cost[right].

    Given one end, the other is the one of steepest (flattest) slope; where neither moves, no point lies above the edge.
    """
    left = int(np.searchsorted(cost, at, side="right")) - 1
    low, high = np.arange(left + 1), np.arange(left + 1, len(cost))
    right, height = left + 1, -np.inf
    while True:
        slopes = (values[high] - values[left]) / (cost[high] - cost[left])
        new_right = int(high[len(high) - 1 - np.argmax(slopes[::-1])])
        slopes = (values[new_right] - values[low]) / (cost[new_right] - cost[low])
        new_left = int(low[np.argmin(slopes)])
        new_height = values[new_left] + float(slopes.min()) * (at - cost[new_left])
        if new_height <= height:
            return left, right
        left, right, height = new_left, new_right, new_height


def _rounded_down(cost: np.ndarray, values: np.ndarray, m: int, q: int, left: int, right: int) -> float:
    """A choice within the budget: as many of the edge's upper end as fit, then one item raised by what is left."""
    many = (q - m * int(cost[left])) // int(cost[right] - cost[left])
    rest = q - (m - many) * int(cost[left]) - many * int(cost[right])
    total = (m - many) * float(values[left]) + many * float(values[right])
    gains = [0.0]
    for end in (left, right) if many else (left,):  # q < m cost[right]: one of the left end is always there
        raised = int(np.searchsorted(cost, cost[end] + rest, side="right")) - 1
        gains.append(float(values[raised] - values[end]))
    return total + max(gains)


def _sorted_values(values: Any) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or len(array) == 0:
        raise SchemaMismatch(f"values must hold one number a rank, not an array {array.shape}")
    if not np.isfinite(array).all():
        ranks = np.flatnonzero(~np.isfinite(array))
        raise NotFinite(
            f"{len(ranks)} of {len(array):,} values are not finite (places {name_some(ranks)})",
            remedy="leave out the ranks of infinite limits, and take their probability off the budget's",
        )
    if (np.diff(array) < 0).any():
        raise DatumwiseError("values decrease", remedy="sort them")
    return array


def _budget(m: Any, budget: Any, h0: Any, ranks: int) -> tuple[int, int, np.ndarray]:
    m = whole_number(m, "m, the number of items,", 1)
    q = whole_number(budget, "budget", 0)
    cost = rank_function(h0, ranks)
    cost = np.arange(ranks) if cost is None else cost
    if q < m * cost[0]:
        raise DatumwiseError(f"no {m} items keep to the budget {q}", remedy=f"the least is {m * int(cost[0])}")
    return m, q, cost
