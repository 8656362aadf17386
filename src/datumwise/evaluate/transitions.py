"""What became of each fact, and how much of what was lost came back? Classes of facts, recovery, entity-clustered intervals.

Source: definitions of this project on the states of RESTOR (Rezaei et al., 2024); the bootstrap over clusters is Davison and
Hinkley, 1997, section 3.8.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from datumwise.errors import SchemaMismatch
from datumwise.evaluate.removal import Interval

__all__ = ["CLASSES", "EntityDraws", "Recovery", "recovery_ratio", "state_distance", "transition_classes"]

CLASSES = ("restored", "still_corrupted", "forgotten_only", "collateral", "gained", "kept", "unknown")
TAILS = (2.5, 97.5)  # percentiles of an interval
LEAST_ERRORS = 2.0  # standard errors that clean and corrupted must lie apart, for a share of it to mean something


def transition_classes(clean: Any, corrupted: Any, unlearned: Any, says_false: Any) -> np.ndarray:
    """Which of seven classes each fact is in.

    ===============  ===========================================================================================
    restored         clean right, corrupted wrong, unlearned right
    still_corrupted  clean right, corrupted wrong, unlearned wrong and says the false object
    forgotten_only   clean right, corrupted wrong, unlearned wrong and says something else
    collateral       corrupted right, unlearned wrong
    gained           clean wrong, unlearned right
    kept             all right
    unknown          all wrong
    ===============  ===========================================================================================

    Parameters
    ----------
    clean, corrupted, unlearned : bool (n,)
        Whether the state's answer is right.
    says_false : bool (n,)
        Whether the unlearned model's answer is the false object.

    Returns
    -------
    int8 (n,)
        Index into `CLASSES`: every fact is in exactly one, and the share that the unlearned model answers rightly is that of
        restored, gained and kept together.

    Examples
    --------
    >>> found = transition_classes([True, True, True], [False, False, True], [True, False, False], [False, True, False])
    >>> [CLASSES[i] for i in found]
    ['restored', 'still_corrupted', 'collateral']
    """
    c, k, u, w = (np.asarray(one, dtype=bool) for one in (clean, corrupted, unlearned, says_false))
    if not c.shape == k.shape == u.shape == w.shape or c.ndim != 1:
        raise SchemaMismatch(f"the states have shapes {c.shape}, {k.shape}, {u.shape} and {w.shape}")
    lost = c & ~k
    cases = [lost & u, lost & ~u & w, lost & ~u & ~w, k & ~u, ~c & u, c & k & u, ~c & ~k & ~u]
    return np.select(cases, list(range(len(CLASSES)))).astype(np.int8)


@dataclass(frozen=True)
class Recovery:
    """The share of what was lost that came back: (unlearned - corrupted) / (clean - corrupted).

    Attributes
    ----------
    value, low, high : float
        1 is full recovery, 0 none, below 0 worse than corrupted; NaN where undefined.
    clean, corrupted, unlearned : float
        What it is the ratio of.
    n, n_entities : int
        Facts and entities.
    reason : str
        Why it is undefined; empty where it is defined.
    """

    value: float
    low: float
    high: float
    clean: float
    corrupted: float
    unlearned: float
    n: int
    n_entities: int
    reason: str = ""

    @property
    def defined(self) -> bool:
        return not self.reason

    def __str__(self) -> str:
        if not self.defined:
            return f"undefined: {self.reason}"
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}] ({self.n:,} facts, {self.n_entities:,} entities)"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class EntityDraws:
    """Bootstrap draws of entities, the same for everything that is measured on these facts.

    Facts of one entity stand or fall together, so entities are drawn, with all their facts.

    Parameters
    ----------
    entities : sequence of n
        The entity of each fact.
    n_draws : int
    random_state : int

    Examples
    --------
    Ten facts of one entity tell as much as one of them:

    >>> right = np.array([1.0, 0, 1, 1])
    >>> one = EntityDraws(["a", "b", "c", "d"], 500, 0).mean(right)
    >>> ten = EntityDraws(np.repeat(["a", "b", "c", "d"], 10), 500, 0).mean(np.repeat(right, 10))
    >>> one == ten
    True
    """

    def __init__(self, entities: Sequence[Any] | np.ndarray, n_draws: int = 1000, random_state: int = 0) -> None:
        names: dict[Any, int] = {}
        self.code = np.array([names.setdefault(one, len(names)) for one in entities], dtype=np.int64)
        self.n_entities = len(names)
        drawn = np.random.default_rng(random_state).integers(0, max(1, len(names)), (n_draws, len(names)))
        self.weights = np.zeros((n_draws, len(names)), dtype=np.int64)  # times that a draw holds an entity
        np.add.at(self.weights, (np.arange(n_draws)[:, None], drawn), 1)

    def means(self, values: np.ndarray) -> np.ndarray:
        """Mean over the drawn facts in each draw, float64 (n_draws,); NaN values are left out, as in `mean`."""
        there = np.isfinite(values)
        total = np.bincount(self.code[there], weights=values[there], minlength=self.n_entities)
        count = np.bincount(self.code[there], minlength=self.n_entities)
        with np.errstate(invalid="ignore"):
            return (self.weights @ total) / (self.weights @ count)

    def mean(self, values: Any) -> Interval:
        """The mean over facts with its percentile interval."""
        values = np.asarray(values, dtype=np.float64)
        if not np.isfinite(values).any():
            return Interval(math.nan, math.nan, math.nan)
        low, high = _percentiles(self.means(values))
        return Interval(float(np.nanmean(values)), low, high)


def recovery_ratio(draws: EntityDraws, clean: Any, corrupted: Any, unlearned: Any, *, what: str = "accuracy") -> Recovery:
    """Recovery of the mean of a quantity, its interval from the same drawn entities for all three states.

    Parameters
    ----------
    draws : EntityDraws of n facts
    clean, corrupted, unlearned : float or bool (n,)
        The quantity in each state; facts where one is NaN are left out.
    what : str
        Its name, for the reason.

    Returns
    -------
    Recovery
        Undefined, with the reason, where clean and corrupted do not lie two standard errors of their paired difference apart.

    Examples
    --------
    >>> draws = EntityDraws(np.arange(40), 200, 0)
    >>> right = np.repeat([True, False], 20)
    >>> recovery_ratio(draws, np.ones(40), right, np.arange(40) < 30).value
    0.5
    >>> recovery_ratio(draws, right, right, right).reason
    'accuracy is the same in the clean and the corrupted model (0.500)'
    """
    states = np.stack([np.asarray(one, dtype=np.float64) for one in (clean, corrupted, unlearned)])
    states[:, ~np.isfinite(states).all(axis=0)] = np.nan
    there = np.isfinite(states[0])
    n = int(there.sum())
    if not n:
        nothing = (math.nan,) * 6
        return Recovery(*nothing, 0, 0, f"no fact has {what} in all three states")
    c, k, u = (float(one[there].mean()) for one in states)
    n_entities = len(np.unique(draws.code[there]))
    drawn = np.stack([draws.means(one) for one in states])
    difference = drawn[0] - drawn[1]
    error = float(np.nanstd(difference, ddof=1)) if np.isfinite(difference).sum() > 1 else 0.0
    gap = c - k
    reason = ""
    if gap == 0:
        reason = f"{what} is the same in the clean and the corrupted model ({c:.3f})"
    elif n_entities < 2:
        reason = "the facts are about one entity, so no interval can be had"
    elif gap < 0:
        reason = f"{what} is higher in the corrupted model ({k:.3f}) than in the clean one ({c:.3f})"
    elif gap < LEAST_ERRORS * error:
        reason = f"{what} of clean and corrupted differs by {gap:.3f}, less than two standard errors ({error:.3f} each)"
    if reason:
        return Recovery(math.nan, math.nan, math.nan, c, k, u, n, n_entities, reason)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = _percentiles((drawn[2] - drawn[1]) / difference)
    return Recovery((u - k) / gap, low, high, c, k, u, n, n_entities)


def state_distance(one: np.ndarray, other: np.ndarray) -> float:
    """Jensen-Shannon divergence between two states' beliefs over the same options, nats, 0 to ln 2.

    Parameters
    ----------
    one, other : float (m,)
        Mean log-probability of each option; a softmax of it is the belief.

    Examples
    --------
    >>> state_distance(np.array([-1.0, -3.0]), np.array([-1.0, -3.0]))
    0.0
    >>> round(state_distance(np.array([0.0, -99.0]), np.array([-99.0, 0.0])) / math.log(2), 6)
    1.0
    """
    if len(one) != len(other):
        raise SchemaMismatch(f"{len(one)} and {len(other)} options cannot be compared")
    if not len(one):
        return math.nan
    log_p, log_q = (x - np.logaddexp.reduce(x) for x in (np.asarray(one, np.float64), np.asarray(other, np.float64)))
    log_m = np.logaddexp(log_p, log_q) - math.log(2)
    value = 0.5 * (np.exp(log_p) @ (log_p - log_m) + np.exp(log_q) @ (log_q - log_m))
    return float(min(max(value, 0.0), math.log(2)))


def _percentiles(values: np.ndarray) -> tuple[float, float]:
    """Both ends of the interval over the finite draws."""
    kept = values[np.isfinite(values)]
    if not len(kept):
        return math.nan, math.nan
    low, high = np.percentile(kept, TAILS)
    return float(low), float(high)
