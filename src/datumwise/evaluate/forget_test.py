"""Can datapoints be forgotten? A linear model before, after their removal, and one that never saw them.

The removal is one Newton step on the loss of what is left, from the trained weights (Guo et al., 2020, eq. 2): the cost of one
linear system, where training anew needs many. What it must come near to is the model that is trained anew without them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import MaxAbsScaler

from datumwise.errors import EmptyData, LabelError, SchemaMismatch
from datumwise.evaluate.certificate import ids_sha256
from datumwise.evaluate.datapoint_draws import places
from datumwise.evaluate.removal import Interval
from datumwise.forget.linear_removal import remove_from_logistic, remove_from_ridge

__all__ = ["ForgetRow", "ForgetTest", "forget_test"]

ROWS = ("before", "after", "never saw them")
WIDEST = 3_000  # parameters, up to which a Newton step's linear system is a matter of a second
STEPS = 4  # of Newton: one is a first-order answer to the removal of many datapoints, each further squares what is left
LEVEL = 0.95
DRAWS = 1_000  # of the bootstrap


@dataclass(frozen=True)
class ForgetRow:
    """One model."""

    name: str  # "before", "after" or "never saw them"
    recalled: Interval  # share of the forgotten datapoints it answers with their given label; of numbers, its R² on them
    held_out: Interval  # accuracy, or R²
    recognised: float  # AUC with which their loss tells the forgotten from held-out datapoints, as members; 0.5: not at all


@dataclass(frozen=True)
class ForgetTest:
    """What a removal did to a model, beside a model that never saw the datapoints.

    Attributes
    ----------
    learner, method : str
    metric : {"accuracy", "R²"}
    forgotten, retained, held_out : int
        Datapoints.
    rows : tuple of ForgetRow
        Before, after, never saw them.
    same_answers : float
        Share of held-out datapoints that both "after" and "never saw them" answer alike (of numbers: 1 - squared distance of
        the answers over their variance).
    moved : float
        Distance of the weights to those of the model that never saw them, over how far the removal had to move them.
    seconds, seconds_anew : float
        Of the removal, and of training anew.
    digest : str
        SHA-256 of the sorted ids, one a line.
    version : int or None
        Of the ledger that the ids were read from.
    why_none : str
        One sentence where nothing was tested.
    """

    learner: str
    method: str
    metric: str
    forgotten: int
    retained: int
    held_out: int
    rows: tuple[ForgetRow, ...] = ()
    same_answers: float = math.nan
    moved: float = math.nan
    seconds: float = math.nan
    seconds_anew: float = math.nan
    digest: str = ""
    version: int | None = None
    why_none: str = ""

    def as_dict(self) -> dict[str, Any]:
        """As JSON knows it: what is not finite is null."""
        return {key: _json(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, fact: dict[str, Any]) -> ForgetTest:
        """From `as_dict`."""
        gaps = ("same_answers", "moved", "seconds", "seconds_anew")
        numbers = {name: math.nan if fact[name] is None else fact[name] for name in gaps}
        rows = tuple(
            ForgetRow(
                one["name"],
                _interval(one["recalled"]),
                _interval(one["held_out"]),
                math.nan if one["recognised"] is None else one["recognised"],
            )
            for one in fact["rows"]
        )
        return cls(**{**fact, **numbers, "rows": rows})

    @property
    def verdict(self) -> str:
        """One sentence: what is left of them, beside a model that never saw them."""
        if self.why_none:
            return self.why_none
        what = "recalled" if self.metric == "accuracy" else "R² on them"
        recalled = [_figure(row.recalled.value, self.metric) for row in self.rows]
        held = [_figure(row.held_out.value, self.metric) for row in self.rows]
        return (
            f"{what} {recalled[0]} -> {recalled[1]} (never saw them {recalled[2]}), "
            f"held-out {self.metric} {held[0]} -> {held[1]} ({held[2]})"
        )

    def __str__(self) -> str:
        return f"{self.forgotten:,} datapoints from {self.learner} by {self.method}: {self.verdict}"


def forget_test(
    X: np.ndarray,
    y: np.ndarray,
    X_held: np.ndarray,
    y_held: np.ndarray,
    forget: np.ndarray,
    *,
    ids: Sequence[Any] | None = None,
    version: int | None = None,
    seed: int = 0,
) -> ForgetTest:
    """Train a linear model on all, remove some datapoints from it, and compare with training anew without them.

    Parameters
    ----------
    X : ndarray of float, shape (n, d)
        Training rows, say an embedding: the linear model is then the last layer of the model that embeds.
    y : ndarray, shape (n,)
        Class codes (integers or str), or floats for a regression.
    X_held, y_held
        Rows that no model is trained on, shape (m, d) and (m,).
    forget : ndarray of bool, shape (n,)
        What is to be forgotten.
    ids : sequence (n,), optional
        For the digest; row numbers by default.
    version : int, optional
        Of the ledger.
    seed : int
        Of the bootstrap.

    Returns
    -------
    ForgetTest

    Raises
    ------
    EmptyData
        Nothing is to be forgotten, or is left, or is held out.
    LabelError
        What is left has one class.
    SchemaMismatch
        Lengths differ.

    References
    ----------
    Guo, Goldstein, Hannun and van der Maaten, *Certified data removal from machine learning models*, ICML 2020.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 5)); y = (X[:, 0] + 0.5 * rng.normal(size=400) > 0).astype(int)
    >>> wrong = np.arange(400) < 30
    >>> y[wrong] = (X[wrong, 0] < 0).astype(int)  # labels against the rule
    >>> found = forget_test(X[:300], y[:300], X[300:], y[300:], wrong[:300])
    >>> after, never = found.rows[1:]
    >>> found.moved < 0.02, after.held_out.value == never.held_out.value
    (True, True)
    """
    forget = np.asarray(forget, bool)
    y, y_held = np.asarray(y), np.asarray(y_held)
    if not (len(X) == len(y) == len(forget)) or len(X_held) != len(y_held):
        raise SchemaMismatch(
            f"rows and labels differ in number ({len(X)}, {len(y)}, {len(forget)}; {len(X_held)}, {len(y_held)})"
        )
    keep = ~forget
    if not forget.any() or not keep.any() or not len(y_held):
        raise EmptyData("there is nothing to compare: no row is to be forgotten, is left, or is held out")
    regression = y.dtype.kind == "f"
    if not regression and len(np.unique(y[keep])) < 2:
        raise LabelError("what is left has one class only", remedy="forget fewer datapoints")
    names = np.arange(len(y)) if ids is None else np.asarray(ids)
    shown = "ridge regression" if regression else "logistic regression"
    facts: dict[str, Any] = {
        "learner": shown,
        "metric": "R²" if regression else "accuracy",
        "forgotten": int(forget.sum()),
        "retained": int(keep.sum()),
        "held_out": len(y_held),
        "digest": ids_sha256(names[forget]),
        "version": version,
    }
    classes = np.unique(y)
    width = (np.asarray(X).shape[1] + 1) * (1 if regression or len(classes) == 2 else len(classes))
    if not regression and len(np.unique(y[keep])) < len(classes):
        return ForgetTest(**facts, method="", why_none="A class has no datapoint but those to be forgotten.")
    if width > WIDEST:
        return ForgetTest(**facts, method="", why_none=f"A Newton step on {width:,} weights was not tried (limit {WIDEST:,}).")

    scaler = MaxAbsScaler().fit(X)  # the same for all three: it sees no label
    A, A_held = np.asarray(scaler.transform(X), float), np.asarray(scaler.transform(X_held), float)
    made = Ridge() if regression else LogisticRegression(max_iter=5_000, tol=1e-8)
    before = clone(made).fit(A, y)
    begun = time.perf_counter()
    gone = np.flatnonzero(forget)
    after = remove_from_ridge(before, A, y, gone) if regression else remove_from_logistic(before, A, y, gone, steps=STEPS)
    edited = time.perf_counter()
    never = clone(made).fit(A[keep], y[keep])
    anew = time.perf_counter()

    models = (before, after, never)
    rng = np.random.default_rng(seed)
    rows = tuple(
        ForgetRow(
            name,
            _performance(model, A[forget], y[forget], rng),
            _performance(model, A_held, y_held, rng),
            _recognised(_loss(model, A[forget], y[forget]), _loss(model, A_held, y_held)),
        )
        for name, model in zip(ROWS, models, strict=True)
    )
    weights = [np.concatenate([np.ravel(m.coef_), np.ravel(m.intercept_)]) for m in models]
    way = float(np.linalg.norm(weights[2] - weights[0]))
    return ForgetTest(
        **facts,
        method="one exact step" if regression else f"{STEPS} Newton steps",
        rows=rows,
        same_answers=_alike(after.predict(A_held), never.predict(A_held), regression=regression),
        moved=float(np.linalg.norm(weights[2] - weights[1])) / way if way else 0.0,
        seconds=edited - begun,
        seconds_anew=anew - edited,
    )


def _loss(model: Any, X: np.ndarray, y: np.ndarray) -> np.ndarray:
    if isinstance(model, Ridge):
        return (model.predict(X) - y) ** 2
    place = np.searchsorted(model.classes_, y)
    known = (place < len(model.classes_)) & (model.classes_[np.minimum(place, len(model.classes_) - 1)] == y)
    found = np.full(len(y), np.inf)
    found[known] = -model.predict_log_proba(X[known])[np.arange(known.sum()), place[known]]
    return found


def _recognised(forgotten: np.ndarray, held_out: np.ndarray) -> float:
    """How often a forgotten datapoint has a lower loss than a held-out one, ties by half."""
    _, below, up_to = places(held_out, forgotten)
    return float(1 - (below + up_to).mean() / (2 * len(held_out)))


def _performance(model: Any, X: np.ndarray, y: np.ndarray, rng: np.random.Generator) -> Interval:
    """Accuracy or R² with its bootstrap interval over datapoints."""
    answers = model.predict(X)
    drawn = rng.integers(0, len(y), (DRAWS, len(y)))
    if isinstance(model, Ridge):
        mean = float(np.mean(y))
        wrong, spread = (y - answers) ** 2, (y - mean) ** 2
        with np.errstate(divide="ignore", invalid="ignore"):
            draws = 1 - wrong[drawn].mean(1) / spread[drawn].mean(1)
            value = float(1 - wrong.mean() / spread.mean())
    else:
        right = (answers == y).astype(float)
        draws, value = right[drawn].mean(1), float(right.mean())
    draws = draws[np.isfinite(draws)]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail]) if len(draws) else (math.nan, math.nan)
    return Interval(value, float(low), float(high))


def _alike(a: np.ndarray, b: np.ndarray, *, regression: bool) -> float:
    if not regression:
        return float(np.mean(a == b))
    spread = float(np.var(b))
    return 1 - float(np.mean((a - b) ** 2)) / spread if spread else float(np.allclose(a, b))


def _figure(value: float, metric: str) -> str:
    return f"{value:.1%}" if metric == "accuracy" else f"{value:.3f}"


def _interval(fact: dict[str, Any]) -> Interval:
    return Interval(**{key: math.nan if value is None else value for key, value in fact.items()})


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_json(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
