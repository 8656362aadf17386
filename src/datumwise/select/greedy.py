"""How is a set function made as large as possible by choosing few datapoints? Greedily, in one of seven ways.

Every maximiser has one signature, ``maximiser(function, k, *, candidates=None, random_state=None, progress=None)``
and options of its own with published defaults; it adds to a `SetFunction` and returns what it added, in order.
Gains nearer to each other than rounding can tell (`TIE` of the largest single gain) are ties: the lowest row wins.

Nemhauser, Wolsey and Fisher, 1978 (greedy, 1 - 1/e); Minoux, 1978 (lazy); Mirzasoleiman et al., 2015 (stochastic);
Badanidiyuru et al., 2014 (sieve streaming); Mirzasoleiman et al., 2013 (GreeDi); Leskovec et al., 2007 (costs).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from functools import partial
from typing import Any, Self

import numpy as np

from datumwise.errors import DatumwiseError, UnknownName, name_some

__all__ = [
    "OPTIMIZERS",
    "SetFunction",
    "best_of",
    "cost_benefit",
    "greedi",
    "lazy",
    "maximise",
    "naive",
    "sample",
    "sieve_streaming",
    "stochastic",
]

TIE = 1e-12  # share of the largest single gain below which two gains are the same
BATCH = 256  # most stale candidates that are asked at once
HEAD = 4096  # rows with the greatest bounds that are kept at hand
LOWEST = -1.7e308  # any bound but -inf
Progress = Callable[[int, int], None] | None
Found = tuple[np.ndarray, np.ndarray]  # int64 (k,) rows in the order chosen, float64 (k,) gains


class SetFunction:
    """A function f of a set S of rows, S empty at first: what adding would gain, and adding.

    Attributes
    ----------
    n : int
        Rows there are.
    submodular : bool
        Gains never grow as S grows, so a gain asked earlier is an upper bound.
    monotone : bool
        Gains are never negative.
    """

    n: int
    submodular: bool = True
    monotone: bool = True

    def gains(self, candidates: np.ndarray) -> np.ndarray:
        """float64 (m,): f(S + j) - f(S) for each row j of ``candidates``, int64 (m,), none of them in S."""
        raise NotImplementedError

    def add(self, j: int) -> None:
        """S becomes S + j."""
        raise NotImplementedError

    def empty(self) -> Self:
        """The same function with S empty; what does not depend on S is shared."""
        raise NotImplementedError

    def track(self) -> bool:
        """Keep all gains up to date from here on, if that costs less than asking: says whether it does."""
        return False


def maximise(
    function: SetFunction,
    k: int,
    optimizer: str | Callable[..., Found] | None = None,
    *,
    cost: np.ndarray | None = None,
    max_cost: float | None = None,
    random_state: Any = None,
    progress: Progress = None,
) -> Found:
    """At most k rows that make ``function`` large.

    Parameters
    ----------
    function : SetFunction
        With S empty.
    k : int
    optimizer : str or callable, optional
        One of `OPTIMIZERS`, or a maximiser with options of its own: ``partial(stochastic, epsilon=0.01)``. None:
        "lazy", or "naive" for a function that is not submodular.
    cost : float (n,), optional
        Cost of a row, above 0.
    max_cost : float, optional
        Most that the chosen rows may cost together. Needs ``cost``, and "naive" or "lazy": see `cost_benefit`.
    random_state : int, Generator or None
    progress : callable, optional
        Called with (chosen, k).

    Returns
    -------
    ranking : int64
        Rows in the order chosen.
    gains : float64
        f(S + j) - f(S) of each.

    Raises
    ------
    UnknownName
        There is no such optimizer.
    DatumwiseError
        Only one of cost and max_cost, costs with an optimizer that has none, or a function that is not submodular
        with another optimizer than "naive".
    """
    chosen = _optimizer(optimizer if optimizer is not None else "lazy" if function.submodular else "naive")
    if not function.submodular and chosen is not naive:
        raise DatumwiseError(
            f"{type(function).__name__} is not submodular, so {_name(chosen)!r} says nothing of it",
            remedy="give optimizer='naive'",
        )
    if (cost is None) != (max_cost is None):
        raise DatumwiseError(
            "costs need a limit" if max_cost is None else f"max_cost is {max_cost} and there are no costs",
            remedy="give both max_cost= and fit(..., cost=...)",
        )
    if cost is not None and max_cost is not None:
        if chosen not in (naive, lazy):
            raise DatumwiseError(f"{_name(chosen)!r} knows no costs", remedy="give optimizer='lazy' or 'naive'")
        return cost_benefit(function, k, cost, max_cost, optimizer=chosen, progress=progress)
    return chosen(function, k, random_state=random_state, progress=progress)


def naive(
    function: SetFunction,
    k: int,
    *,
    candidates: np.ndarray | None = None,
    cost: np.ndarray | None = None,
    max_cost: float = np.inf,
    per_cost: bool = True,
    random_state: Any = None,
    progress: Progress = None,
) -> Found:
    """Ask for every gain before every pick: O(n k) gains.

    Parameters
    ----------
    function : SetFunction
    k : int
    candidates : int64 (m,), ascending, optional
        Rows to choose from; None: all.
    cost : float (n,), optional
        Choose among what can still be paid of ``max_cost``.
    max_cost : float
    per_cost : bool, default True
        The greatest gain per cost goes first, not the greatest gain.
    random_state
        Not used.
    progress : callable, optional
    """
    if candidates is None:
        function.track()
    rows = np.arange(function.n) if candidates is None else candidates
    open_ = np.ones(len(rows), dtype=bool)
    ranking: list[int] = []
    taken: list[float] = []
    scale, left = -1.0, float(max_cost)
    while len(ranking) < k:
        if cost is not None:
            open_ &= cost[rows] <= left
        if not open_.any():
            break
        at = rows[open_]
        gains = function.gains(at)
        worth = gains if cost is None or not per_cost else gains / cost[at]
        scale = _largest(worth) if scale < 0 else scale
        best = best_of(worth, scale)
        ranking.append(int(at[best]))
        taken.append(float(gains[best]))
        function.add(ranking[-1])
        open_[np.flatnonzero(open_)[best]] = False
        left -= 0.0 if cost is None else float(cost[at[best]])
        _tell(progress, len(ranking), k)
    return _found(ranking, taken)


def lazy(
    function: SetFunction,
    k: int,
    *,
    candidates: np.ndarray | None = None,
    cost: np.ndarray | None = None,
    max_cost: float = np.inf,
    per_cost: bool = True,
    random_state: Any = None,
    progress: Progress = None,
) -> Found:
    """The ranking and gains of `naive`, asking only for gains that may be the largest.

    A gain asked earlier bounds the gain now. The rows wait by that bound; those with the greatest are asked again,
    several at once, until no bound left reaches the best answer. A function that keeps its gains up to date
    (`SetFunction.track`) needs no bounds.

    Parameters
    ----------
    function : SetFunction
        Submodular.
    k : int
    candidates, cost, max_cost, per_cost : optional
        As in `naive`.
    random_state
        Not used.
    progress : callable, optional
    """
    if candidates is None and function.track():
        return naive(function, k, cost=cost, max_cost=max_cost, per_cost=per_cost, progress=progress)
    rows = np.arange(function.n) if candidates is None else candidates
    divisor = np.ones(len(rows)) if cost is None or not per_cost else cost[rows]
    waiting = _Waiting(function, rows, divisor)
    ranking: list[int] = []
    taken: list[float] = []
    left = float(max_cost)
    while len(ranking) < k:
        if cost is not None:
            waiting.bounds[cost[rows] > left] = -np.inf
        at = waiting.best()
        if at is None:
            break
        waiting.bounds[at] = -np.inf
        ranking.append(int(rows[at]))
        taken.append(float(function.gains(rows[at : at + 1])[0]))
        function.add(ranking[-1])
        left -= 0.0 if cost is None else float(cost[rows[at]])
        _tell(progress, len(ranking), k)
    return _found(ranking, taken)


class _Waiting:
    """Rows that wait to be chosen, by upper bounds on their worth: a queue in two levels, so that numpy can work on it.

    The rows with the greatest bounds form the head; ``below`` bounds all others. Only the head is looked at, until
    its answers fall below ``below``: then a new head is made of all rows.
    """

    def __init__(self, function: SetFunction, rows: np.ndarray, divisor: np.ndarray) -> None:
        self.function, self.rows, self.divisor = function, rows, divisor
        self.bounds = function.gains(rows) / divisor  # -inf: no longer waiting
        self.asked = np.zeros(len(rows), np.int64)  # pick at which the bound was last asked
        self.slack = TIE * _largest(self.bounds)
        self.pick = 0
        self._new_head(HEAD)

    def best(self) -> int | None:
        """Position of the row that is worth most now, of ties the first; None if none waits."""
        size, first = HEAD, self.pick == 0  # the first bounds are exact
        self.pick += 1
        if self.function.monotone and max(self.below, self._top()) <= self.slack:  # nothing is left to gain: all tie
            open_ = np.flatnonzero(self.bounds > -np.inf)
            return int(open_[0]) if len(open_) else None
        if first:
            self.asked[:] = self.pick
        while True:
            best = self._ask()
            if self.below < best - self.slack or self.below == -np.inf:
                break
            self._new_head(size)
            size *= 2
        if best == -np.inf:
            return None
        return int(self.head[self.bounds[self.head] >= best - self.slack].min())

    def _ask(self) -> float:
        """Ask all of the head that may be worth most; what is best of it."""
        order = self.head[np.argsort(-self.bounds[self.head])]
        best, start, batch = -np.inf, 0, 1
        while start < len(order) and self.bounds[order[start]] >= max(best - self.slack, LOWEST):
            at = order[start : start + batch]
            stale = at[(self.asked[at] < self.pick) & (self.bounds[at] > -np.inf)]
            if len(stale):
                self.bounds[stale] = self.function.gains(self.rows[stale]) / self.divisor[stale]
                self.asked[stale] = self.pick
            best = max(best, float(self.bounds[at].max()))
            start += len(at)
            batch = min(2 * batch, BATCH)
        return best

    def _new_head(self, size: int) -> None:
        if size >= len(self.bounds):
            self.head, self.below = np.arange(len(self.bounds)), -np.inf
            return
        parted = np.argpartition(-self.bounds, size)
        self.head, self.below = parted[:size], float(self.bounds[parted[size]])

    def _top(self) -> float:
        return float(self.bounds[self.head].max())


def stochastic(
    function: SetFunction,
    k: int,
    *,
    epsilon: float = 0.1,
    candidates: np.ndarray | None = None,
    random_state: Any = None,
    progress: Progress = None,
) -> Found:
    """Before every pick ask only a random (n / k) ln(1 / epsilon) of the rows left.

    In expectation at least (1 - 1/e - epsilon) of the best for a monotone submodular function, with
    n ln(1 / epsilon) gains asked whatever k is (Mirzasoleiman et al., 2015, *Lazier Than Lazy Greedy*, theorem 1).

    Parameters
    ----------
    function : SetFunction
    k : int
    epsilon : float, default 0.1
        In (0, 1).
    candidates : int64 (m,), optional
    random_state : int, Generator or None
    progress : callable, optional
    """
    _share(epsilon, "epsilon")
    rng = np.random.default_rng(random_state)
    pool = np.arange(function.n) if candidates is None else np.array(candidates)
    size = int(np.ceil(len(pool) / k * np.log(1 / epsilon)))
    ranking: list[int] = []
    taken: list[float] = []
    scale = -1.0
    while len(ranking) < k and len(pool):
        drawn = np.sort(rng.choice(len(pool), size=min(size, len(pool)), replace=False))
        gains = function.gains(pool[drawn])
        scale = _largest(gains) if scale < 0 else scale
        best = best_of(gains, scale)
        ranking.append(int(pool[drawn[best]]))
        taken.append(float(gains[best]))
        function.add(ranking[-1])
        pool = np.delete(pool, drawn[best])
        _tell(progress, len(ranking), k)
    return _found(ranking, taken)


def sample(
    function: SetFunction,
    k: int,
    *,
    share: float = 0.1,
    random_state: Any = None,
    progress: Progress = None,
) -> Found:
    """`lazy` on a random share of the rows (at least k); f still counts all rows.

    Parameters
    ----------
    function : SetFunction
    k : int
    share : float, default 0.1
        In (0, 1).
    random_state : int, Generator or None
    progress : callable, optional
    """
    _share(share, "share")
    rng = np.random.default_rng(random_state)
    size = max(k, int(np.ceil(share * function.n)))
    drawn = np.sort(rng.choice(function.n, size=size, replace=False))
    return lazy(function, k, candidates=drawn, progress=progress)


def sieve_streaming(
    function: SetFunction,
    k: int,
    *,
    epsilon: float = 0.1,
    order: np.ndarray | None = None,
    random_state: Any = None,
    progress: Progress = None,
) -> Found:
    """One pass over the rows, in the order of the rows: at least (1/2 - epsilon) of the best.

    For each guess v of the best value, a power of 1 + epsilon, a sieve keeps a row if it gains at least
    (v / 2 - f(S)) / (k - abs(S)). A guess v is alive while m <= v <= 2 k m, m being the largest single gain so far
    (Badanidiyuru et al., 2014, algorithm 3). The best sieve is returned; it may hold fewer than k rows. Only the
    guesses that are alive at the end are computed, each from the row at which it was born: the answer is that of
    the single pass.

    Parameters
    ----------
    function : SetFunction
        Monotone and submodular.
    k : int
    epsilon : float, default 0.1
        In (0, 1).
    order : int64 (n,), optional
        Order of the stream; None: 0 to n - 1.
    random_state
        Not used.
    progress : callable, optional
        Called with (sieves done, sieves).
    """
    _share(epsilon, "epsilon")
    stream = np.arange(function.n) if order is None else np.asarray(order)
    single = function.gains(stream)
    so_far = np.maximum.accumulate(single)
    largest = float(so_far[-1])
    if largest <= 0:
        return _found([int(row) for row in stream[:1]], [float(single[0])])
    powers = np.arange(
        int(np.ceil(np.log(largest) / np.log1p(epsilon) - 1e-9)),
        int(np.floor(np.log(2 * k * largest) / np.log1p(epsilon) + 1e-9)) + 1,
    )
    best: Found = _found([], [])
    value = -np.inf
    for done, guess in enumerate(np.exp(powers * np.log1p(epsilon)).tolist(), start=1):
        born = int(np.searchsorted(so_far, guess / (2 * k) * (1 - 1e-12)))
        found = _sieve(function.empty(), stream[born:], k, guess)
        if found[1].sum() > value:
            best, value = found, float(found[1].sum())
        _tell(progress, done, len(powers))
    for row in best[0]:
        function.add(int(row))
    return best


def _sieve(function: SetFunction, stream: np.ndarray, k: int, guess: float) -> Found:
    """One guess of the best value: a block of gains at once, asked anew from each row that is kept."""
    ranking: list[int] = []
    taken: list[float] = []
    value, start, size = 0.0, 0, BATCH
    while start < len(stream) and len(ranking) < k:
        block = stream[start : start + size]
        gains = function.gains(block)
        enough = np.flatnonzero(gains >= (guess / 2 - value) / (k - len(ranking)))
        if not len(enough):
            start += len(block)
            size = min(2 * size, 16 * BATCH)
            continue
        first = int(enough[0])
        ranking.append(int(block[first]))
        taken.append(float(gains[first]))
        value += taken[-1]
        function.add(ranking[-1])
        start += first + 1
        size = BATCH
    return _found(ranking, taken)


def greedi(
    function: SetFunction,
    k: int,
    *,
    n_parts: int | None = None,
    random_state: Any = None,
    progress: Progress = None,
) -> Found:
    """Two stages: `lazy` picks k of each random part, then k of all these; the better of that and the best part.

    Parameters
    ----------
    function : SetFunction
    k : int
    n_parts : int, optional
        None: about sqrt(n / k), which makes both stages equally long.
    random_state : int, Generator or None
    progress : callable, optional
        Called with (parts done, parts).

    References
    ----------
    Mirzasoleiman, Karbasi, Sarkar and Krause, 2013, *Distributed Submodular Maximization*.
    """
    rng = np.random.default_rng(random_state)
    parts = max(1, round(np.sqrt(function.n / k))) if n_parts is None else n_parts
    if not 1 <= parts <= function.n:
        raise DatumwiseError(f"n_parts is {parts} and there are {function.n:,} datapoints", remedy="1 <= n_parts <= n")
    best: Found = _found([], [])
    value = -np.inf
    union: list[np.ndarray] = []
    for done, part in enumerate(np.array_split(rng.permutation(function.n), parts), start=1):
        found = lazy(function.empty(), min(k, len(part)), candidates=np.sort(part))
        union.append(found[0])
        if found[1].sum() > value:
            best, value = found, float(found[1].sum())
        _tell(progress, done, parts)
    merged = lazy(function.empty(), k, candidates=np.sort(np.concatenate(union)))
    best = merged if merged[1].sum() >= value else best
    for row in best[0]:
        function.add(int(row))
    return best


def cost_benefit(
    function: SetFunction,
    k: int,
    cost: np.ndarray,
    max_cost: float,
    *,
    optimizer: Callable[..., Found] = lazy,
    progress: Progress = None,
) -> Found:
    """At most k rows that cost at most ``max_cost``: the better of gain-per-cost greedy and plain greedy.

    At least (1 - 1/e) / 2 of the best for a monotone submodular function (Leskovec et al., 2007, *CELF*).

    Parameters
    ----------
    function : SetFunction
    k : int
    cost : float (n,), above 0
    max_cost : float
    optimizer : `lazy` or `naive`
    progress : callable, optional

    Raises
    ------
    DatumwiseError
        A cost is not above 0, or no row can be paid.
    """
    cost = np.asarray(cost, dtype=np.float64)
    bad = np.flatnonzero(~(cost > 0))
    if len(bad):
        raise DatumwiseError(f"cost is not above 0 in row {name_some(bad)}", ids=bad.tolist())
    if not cost.min() <= max_cost:
        raise DatumwiseError(f"max_cost is {max_cost} and the cheapest datapoint costs {cost.min():.6g}")
    ratio = optimizer(function.empty(), k, cost=cost, max_cost=max_cost, progress=progress)
    plain = optimizer(function.empty(), k, cost=cost, max_cost=max_cost, per_cost=False, progress=progress)
    best = ratio if ratio[1].sum() >= plain[1].sum() else plain
    for row in best[0]:
        function.add(int(row))
    return best


OPTIMIZERS: dict[str, Callable[..., Found]] = {
    "naive": naive,
    "lazy": lazy,
    "stochastic": stochastic,
    "sample": sample,
    "sieve_streaming": sieve_streaming,
    "greedi": greedi,
}


def best_of(values: np.ndarray, scale: float) -> int:
    """Position of the largest value; of those that rounding cannot tell from it (`TIE` of ``scale``), the first."""
    return int(np.argmax(values >= values.max() - TIE * scale))


def _optimizer(given: str | Callable[..., Found]) -> Callable[..., Found]:
    if callable(given):
        return given
    if given not in OPTIMIZERS:
        near = difflib.get_close_matches(str(given), OPTIMIZERS, n=1)
        raise UnknownName(
            f"there is no optimizer {given!r}",
            remedy=f"did you mean {near[0]!r}?" if near else f"there are {', '.join(OPTIMIZERS)}",
        )
    return OPTIMIZERS[given]


def _name(optimizer: Callable[..., Found]) -> str:
    return str(getattr(optimizer.func if isinstance(optimizer, partial) else optimizer, "__name__", optimizer))


def _share(value: float, name: str) -> None:
    if not 0 < value < 1:
        raise DatumwiseError(f"{name} is {value}", remedy=f"0 < {name} < 1")


def _largest(gains: np.ndarray) -> float:
    return float(np.abs(gains).max(initial=0.0))


def _tell(progress: Progress, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)


def _found(ranking: list[int], taken: list[float]) -> Found:
    return np.array(ranking, dtype=np.int64), np.array(taken, dtype=np.float64)
