"""Which labels are worth buying next? Learning curves per level of hardness, their price, and how sure the answer is."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch

__all__ = ["BuyAdvice", "LearningCurve", "budget_curve", "buy_advice", "fit_learning_curve"]

GAMMAS = np.arange(0.1, 1.01, 0.1)  # exponents that are tried


@dataclass(frozen=True)
class LearningCurve:
    """accuracy(n) = alpha - beta n^-gamma, with beta >= 0 and alpha <= 1."""

    alpha: float
    beta: float
    gamma: float

    def at(self, n: Any) -> Any:
        """Predicted accuracy with n labels, within 0 and 1; NaN below one label."""
        n = np.asarray(n, dtype=np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            value = np.clip(self.alpha - self.beta * n**-self.gamma, 0, 1)
        return np.where(n >= 1, value, np.nan)[()]


def fit_learning_curve(n: Sequence[int], accuracy: Any) -> LearningCurve:
    """Least squares with beta >= 0 and alpha <= 1 over a grid of exponents.

    Parameters
    ----------
    n : sequence of S int
        Numbers of labels, two different ones at least.
    accuracy : float (S,) or (S, seeds)

    Examples
    --------
    >>> curve = fit_learning_curve([10, 40, 160], [0.9 - 10**-0.5, 0.9 - 40**-0.5, 0.9 - 160**-0.5])
    >>> round(curve.alpha, 3), round(curve.gamma, 1)
    (0.9, 0.5)
    """
    labels, values = np.asarray(n, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    values = values if values.ndim == 1 else values.mean(axis=1)
    if labels.shape != values.shape or len(np.unique(labels)) < 2:
        raise SchemaMismatch(
            f"a curve needs an accuracy for each of two numbers of labels; got {labels.shape} and {values.shape}"
        )
    if not np.isfinite(values).all() or labels.min() < 1:
        raise NotFinite("a learning curve holds NaN, or fewer than one label")
    alpha, beta, gamma = _fitted(labels, values[:, None])
    return LearningCurve(float(alpha[0]), float(beta[0]), float(gamma[0]))


def _fitted(n: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """alpha, beta and gamma (B,) of B curves, values (S, B): least squares at each exponent, and the best exponent."""
    best = np.full(values.shape[1], np.inf)
    found = np.zeros((3, values.shape[1]))
    for gamma in GAMMAS:
        x = -(n**-gamma)
        centred = x - x.mean()
        beta = np.maximum(0.0, centred @ values / (centred @ centred))
        alpha = values.mean(axis=0) - beta * x.mean()
        over = alpha > 1  # then the nearest curve through alpha = 1: none may promise more than everything
        beta = np.where(over, np.maximum(0.0, x @ (values - 1) / (x @ x)), beta)
        alpha = np.where(over, 1.0, alpha)
        loss = ((alpha + np.multiply.outer(x, beta) - values) ** 2).sum(axis=0)
        better = loss < best - 1e-15
        best[better] = loss[better]
        found[:, better] = np.stack([alpha, beta, np.full_like(alpha, gamma)])[:, better]
    return found[0], found[1], found[2]


def budget_curve(
    curves: Mapping[str, LearningCurve], prices: Mapping[str, float], budgets: Sequence[float]
) -> dict[str, np.ndarray]:
    """Predicted accuracy by level when a whole budget is spent on that level: n = budget / price, float (len(budgets),).

    Examples
    --------
    >>> curves = {"easy": LearningCurve(0.7, 1.0, 0.5), "hard": LearningCurve(0.8, 1.0, 0.5)}
    >>> found = budget_curve(curves, {"easy": 1.0, "hard": 4.0}, [100.0, 10000.0])
    >>> found["easy"].round(2).tolist(), found["hard"].round(2).tolist()
    ([0.6, 0.69], [0.6, 0.78])
    """
    _priced(curves, prices)
    spent = np.asarray(budgets, dtype=np.float64)
    return {level: curve.at(np.floor(spent / prices[level])) for level, curve in curves.items()}


@dataclass(frozen=True)
class BuyAdvice:
    """Which level to label with a budget.

    Attributes
    ----------
    level : str
        With the highest predicted accuracy on hard items.
    predicted : dict of str to float
        Accuracy by level when the whole budget goes there.
    labels : dict of str to int
        How many labels that buys.
    share : dict of str to float
        Share of bootstrap draws (of seeds) in which each level wins.
    budget : float
    per_cost : dict of str to float
        Predicted gain over ``baseline`` for one unit of the budget.
    """

    level: str
    predicted: dict[str, float]
    labels: dict[str, int]
    share: dict[str, float]
    budget: float
    per_cost: dict[str, float]

    def __str__(self) -> str:
        lines = [f"label {self.level} items with a budget of {self.budget:g}"]
        for level, value in self.predicted.items():
            wins = f"best in {self.share[level]:.0%} of draws"
            lines.append(f"  {level:<14}{self.labels[level]:>8,} labels  accuracy {value:.3f}  {wins}")
        return "\n".join(lines)

    def to_json(self) -> str:
        return json.dumps(asdict(self))


def buy_advice(
    measured: Mapping[str, Mapping[int, Any]],
    prices: Mapping[str, float],
    budget: float,
    *,
    baseline: float = 0.0,
    n_boot: int = 1000,
    random_state: Any = None,
) -> BuyAdvice:
    """Recommend the level of hardness whose labels bring the highest predicted accuracy on hard items.

    Parameters
    ----------
    measured : mapping of level to mapping of n to float (seeds,)
        Accuracy on hard test items after n labels of that level, with the noise that its labels have.
    prices : mapping of level to float
        Of one label.
    budget : float
    baseline : float
        Accuracy without labels.
    n_boot : int
        Draws of seeds, with replacement, for every level and n.
    random_state : int, Generator or None

    Examples
    --------
    >>> n = (10, 40, 160)
    >>> easy = {k: [0.80 - k**-0.5, 0.81 - k**-0.5] for k in n}
    >>> hard = {k: [0.84 - k**-0.5, 0.85 - k**-0.5] for k in n}
    >>> advice = buy_advice({"easy": easy, "hard": hard}, {"easy": 1.0, "hard": 10.0}, 200, random_state=0)
    >>> advice.level, advice.labels
    ('easy', {'easy': 200, 'hard': 20})
    """
    _priced(measured, prices)
    if not budget > 0:
        raise DatumwiseError(f"a budget must be above 0; got {budget}")
    rng = np.random.default_rng(random_state)
    labels = {level: int(budget // prices[level]) for level in measured}
    poor = [level for level, n in labels.items() if n < 1]
    if len(poor) == len(labels):
        raise DatumwiseError(f"a budget of {budget:g} buys no label of any level", remedy="give more, or other prices")
    predicted, draws = {}, {}
    for level, points in measured.items():
        n = sorted(points)
        by_seed = [np.atleast_1d(np.asarray(points[k], dtype=np.float64)) for k in n]
        predicted[level] = float(fit_learning_curve(n, np.array([v.mean() for v in by_seed])).at(labels[level]))
        means = np.array([v[rng.integers(0, len(v), (n_boot, len(v)))].mean(axis=1) for v in by_seed])
        alpha, beta, gamma = _fitted(np.array(n, dtype=np.float64), means)
        bought = float(labels[level])
        draws[level] = np.clip(alpha - beta * bought**-gamma, 0, 1) if bought >= 1 else np.full(n_boot, np.nan)
    names = list(measured)
    table = np.nan_to_num(np.array([draws[name] for name in names]), nan=-1.0)
    best = table == table.max(axis=0)
    share = (best / best.sum(axis=0)).mean(axis=1)
    return BuyAdvice(
        level=max(names, key=lambda name: -1.0 if np.isnan(predicted[name]) else predicted[name]),
        predicted=predicted,
        labels=labels,
        share=dict(zip(names, share.tolist(), strict=True)),
        budget=float(budget),
        per_cost={name: (predicted[name] - baseline) / float(budget) for name in names},
    )


def _priced(levels: Mapping[str, Any], prices: Mapping[str, float]) -> None:
    missing = [level for level in levels if level not in prices]
    if missing:
        raise DatumwiseError(f"level {missing[0]!r} has no price", remedy="give prices={level: cost of a label}")
    free = [level for level in levels if not prices[level] > 0]
    if free:
        raise DatumwiseError(f"the price of a label of level {free[0]!r} must be above 0; got {prices[free[0]]}")
