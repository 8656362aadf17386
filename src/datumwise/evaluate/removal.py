"""Does a learner that is trained anew do better without the suspects? Against all, and against random removal of as many.

The comparison with random sets of the same size is what separates "these datapoints hurt" from "less data is as good".
Intervals are paired bootstrap percentile intervals over held-out datapoints and over random sets (Efron and Tibshirani,
1993, chapter 13).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import EmptyData, LabelError, SchemaMismatch

if TYPE_CHECKING:
    from sklearn.base import BaseEstimator

__all__ = ["Interval", "Proof", "ProofCard", "ProofRow", "removal_proof"]

LEVEL = 0.95
BLOCK = 4_000_000  # bootstrap weights held at once


@dataclass(frozen=True)
class Interval:
    """A measured value with its 95 % interval, all three as fractions (0.04 is 4 points)."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class ProofRow:
    """Held-out performance of one learner trained on one set."""

    name: str  # "all", "random" or "cleaned"
    n: int  # training rows
    score: Interval


@dataclass(frozen=True)
class ProofCard:
    """One learner trained on all, on random sets as large as the cleaned one, and on the cleaned set."""

    learner: str  # as people say it: "nearest neighbour", "linear"
    primary: bool  # named before the run; the verdict is its
    rows: tuple[ProofRow, ...]
    cleaned_minus_random: Interval
    cleaned_minus_all: Interval
    verdict: str  # "gain shown", "no gain shown" or "harm shown"
    smallest_gain: float  # the smallest gain this held-out set could have shown
    seeds: int  # random sets drawn


@dataclass(frozen=True)
class Proof:
    """Does removing the suspects help a model that is trained anew?"""

    metric: str  # "accuracy" or "R²"
    held_out: int  # rows, never scored, never tuned on
    removed: int
    cards: tuple[ProofCard, ...]
    why_none: str = ""  # one sentence when nothing could be proved (then cards is empty)

    @property
    def primary(self) -> ProofCard | None:
        return next((card for card in self.cards if card.primary), None)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def removal_proof(
    X: Any,
    y: np.ndarray,
    X_held: Any,
    y_held: np.ndarray,
    remove: np.ndarray,
    learners: Mapping[str, BaseEstimator],
    *,
    n_random: int = 20,
    n_bootstrap: int = 2000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Proof:
    """Retrain each learner on all, on the cleaned set and on ``n_random`` random sets as large, and compare held out.

    Parameters
    ----------
    X : array or sparse matrix, shape (n, d)
        Training rows.
    y : ndarray, shape (n,)
        Class codes (any integer or string type), or floats for a regression.
    X_held, y_held
        Held-out rows, shape (m, d) and (m,), that played no part in choosing ``remove``.
    remove : ndarray of bool, shape (n,)
        What the cleaned set leaves out.
    learners : mapping of str to estimator
        Named before the run; the first is the one the verdict is about. Each is cloned for every fit; one that has a
        ``random_state`` gets a new one a fit, so that its own randomness is in the interval too.
    n_random : int
        Random sets, and repeats of the other two sets for a learner that is random itself.
    n_bootstrap : int
    seed : int
    progress : callable, optional
        Called with (fits done, fits in all).

    Returns
    -------
    Proof

    Raises
    ------
    EmptyData
        If nothing is held out or nothing is left after removal.
    LabelError
        If the cleaned set has one class only.
    SchemaMismatch
        If lengths differ.
    """
    from datumwise.probe.threads import few_threads

    remove = np.asarray(remove, bool)
    y, y_held = np.asarray(y), np.asarray(y_held)
    n, m = len(y), len(y_held)
    if not (X.shape[0] == n == len(remove) and X_held.shape[0] == m):
        raise SchemaMismatch(f"rows and labels differ in number ({X.shape[0]}, {n}, {len(remove)}; {X_held.shape[0]}, {m})")
    keep = np.flatnonzero(~remove)
    if not m or not len(keep):
        raise EmptyData("there is nothing to compare: no row is held out, or none is left after removal")
    regression = y.dtype.kind == "f"
    if not regression and len(np.unique(y[keep])) < 2:
        raise LabelError("the cleaned set has one class only", remedy="remove fewer datapoints")
    metric = _r_squared if regression else _accuracy
    fits = sum(2 + n_random if not _is_random(model) else 3 * n_random for model in learners.values())
    done = 0

    def losses(model: BaseEstimator, rows: np.ndarray, repeat: int) -> np.ndarray:
        """Held-out loss of each datapoint (m,): wrong or not, or squared error."""
        nonlocal done
        with few_threads(X):
            fitted = _reseeded(model, seed + repeat).fit(X[rows], y[rows])
            predicted = fitted.predict(X_held)
        done += 1
        if progress:
            progress(done, fits)
        return (predicted - y_held) ** 2 if regression else (predicted != y_held).astype(float)

    everything = np.arange(n)
    cards = []
    for position, (name, model) in enumerate(learners.items()):
        rng = np.random.default_rng([seed, position])
        repeats = range(n_random) if _is_random(model) else range(1)
        sets = {
            "all": np.stack([losses(model, everything, r) for r in repeats]),
            "random": np.stack([losses(model, np.sort(rng.choice(n, len(keep), replace=False)), r) for r in range(n_random)]),
            "cleaned": np.stack([losses(model, keep, r) for r in repeats]),
        }
        cards.append(_card(name, sets, y_held, n, len(keep), metric, n_bootstrap, rng, primary=position == 0))
    return Proof("R²" if regression else "accuracy", m, int(remove.sum()), tuple(cards))


def _card(
    name: str,
    sets: Mapping[str, np.ndarray],
    y_held: np.ndarray,
    n: int,
    kept: int,
    metric: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    n_bootstrap: int,
    rng: np.random.Generator,
    *,
    primary: bool,
) -> ProofCard:
    m = len(y_held)
    one = np.ones((1, m))
    values = {k: float(metric(one, losses.mean(0, keepdims=True), y_held)[0]) for k, losses in sets.items()}
    draws: dict[str, list[np.ndarray]] = {k: [] for k in sets}
    block = max(1, BLOCK // m)
    for start in range(0, n_bootstrap, block):
        size = min(block, n_bootstrap - start)
        weights = rng.multinomial(m, np.full(m, 1 / m), size=size).astype(float)  # the same datapoints for every set: paired
        for key, losses in sets.items():
            repeats = rng.multinomial(len(losses), np.full(len(losses), 1 / len(losses)), size=size) / len(losses)
            draws[key].append(metric(weights, repeats @ losses, y_held))
    drawn = {k: np.concatenate(v) for k, v in draws.items()}
    gain = _interval(values["cleaned"] - values["random"], drawn["cleaned"] - drawn["random"])
    verdict = "gain shown" if gain.low > 0 else "harm shown" if gain.high < 0 else "no gain shown"
    sizes = {"all": n, "random": kept, "cleaned": kept}
    return ProofCard(
        learner=name,
        primary=primary,
        rows=tuple(ProofRow(k, sizes[k], _interval(values[k], drawn[k])) for k in ("all", "random", "cleaned")),
        cleaned_minus_random=gain,
        cleaned_minus_all=_interval(values["cleaned"] - values["all"], drawn["cleaned"] - drawn["all"]),
        verdict=verdict,
        smallest_gain=gain.value - gain.low,
        seeds=len(sets["random"]),
    )


def _accuracy(weights: np.ndarray, losses: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weighted share of right answers, one a row of weights: (b, m), (b, m) -> (b,)."""
    return 1 - (weights * losses).sum(1) / weights.sum(1)


def _r_squared(weights: np.ndarray, losses: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Weighted coefficient of determination: (b, m) weights, (b, m) squared errors, (m,) targets -> (b,)."""
    total = weights.sum(1)
    mean = weights @ y / total
    spread = weights @ (y**2) - total * mean**2
    return 1 - (weights * losses).sum(1) / np.maximum(spread, np.finfo(float).tiny)


def _interval(value: float, draws: np.ndarray) -> Interval:
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def _random_parameters(model: BaseEstimator) -> list[str]:
    return [name for name in model.get_params(deep=True) if name.split("__")[-1] == "random_state"]


def _is_random(model: BaseEstimator) -> bool:
    """Whether two fits on the same rows can differ: a random_state that the fit uses (a linear solver's does not)."""
    from sklearn.linear_model import LogisticRegression

    linear = any(isinstance(part, LogisticRegression) for part in [model, *model.get_params(deep=True).values()])
    return bool(_random_parameters(model)) and not linear


def _reseeded(model: BaseEstimator, seed: int) -> BaseEstimator:
    from sklearn.base import clone

    return clone(model).set_params(**dict.fromkeys(_random_parameters(model), seed % (2**32 - 1)))
