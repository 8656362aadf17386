"""The simulations and the real-data studies of batch predictive inference, each a function of sizes and a seed.

Lee, Tchetgen Tchetgen & Dobriban, arXiv 2409.13990, and the scripts beside it. Random draws are ours.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, MissingExtra, SourceError
from datumwise.predict.batch_bounds import batch_quantile_bound, batch_sum_bound, quartile_box
from datumwise.predict.order_statistics import SLACK, order_statistic_rank, rank_pmf
from datumwise.predict.rank_sum import rank_sum_pmf
from datumwise.predict.selection import null_scores
from datumwise.predict.shift import reject_to_target
from datumwise.predict.split_conformal import conformal_rank

__all__ = [
    "Coverage",
    "MeanBound",
    "RankLevel",
    "Selections",
    "batch_coverage",
    "counterfactual",
    "diabetes_splits",
    "disjoint_splits",
    "fair_predictions",
    "false_claims",
    "iid_rank_levels",
    "mean_bounds",
    "read_predictions",
    "simulation_1",
    "simulation_selection",
]

Progress = Callable[[int, int], None] | None
P = 20  # covariates of every simulation
TREES = 500
ROWS = 20_000  # of a forest's predictions at once
LAWS: Mapping[str, tuple[float, float]] = {"U(0, 1)": (1.0, 1.0), "Beta(1, 6)": (1.0, 6.0)}


@dataclass(frozen=True)
class Coverage:
    """What share of each batch a rule covered, trial by trial.

    Attributes
    ----------
    rule : str
    alpha : float or None
        Of the batch statement; None for split conformal, which makes none.
    covered : float64 (trials,)
    width : float64 (trials,)
    exact : float
        Probability that at least the asked share is covered, for scores without ties.
    asked : float
        The share that ought to be covered.
    """

    rule: str
    alpha: float | None
    covered: np.ndarray
    width: np.ndarray
    exact: float
    asked: float = 0.9

    @property
    def often(self) -> float:
        """Share of batches that are covered as asked."""
        return float(np.mean(self.covered >= self.asked - SLACK))

    @property
    def error(self) -> float:
        """Standard error of `often`."""
        return math.sqrt(max(self.often * (1 - self.often), 1e-12) / len(self.covered))


@dataclass(frozen=True)
class Selections:
    """False and true claims of a selection rule, trial by trial.

    Attributes
    ----------
    eta : int
        False claims allowed.
    alpha : float
    false, true : int64 (trials,)
    exact : float
        P(more than eta false claims), for predictions without ties.
    """

    eta: int
    alpha: float
    false: np.ndarray
    true: np.ndarray
    exact: float

    @property
    def often(self) -> float:
        """Share of batches with more than eta false claims."""
        return float(np.mean(self.false > self.eta))

    @property
    def error(self) -> float:
        return math.sqrt(max(self.often * (1 - self.often), 1e-12) / len(self.false))


@dataclass(frozen=True)
class MeanBound:
    """One rule's upper bound on a batch mean, in one setting: coverage and mean bound."""

    n: int
    m: int
    law: str
    rule: str
    coverage: float
    bound: float


@dataclass(frozen=True)
class RankLevel:
    """What level the budget of the published mean script really has.

    Attributes
    ----------
    n, m : int
    claimed : float
    published, ours : int
        Budgets of the sum of ranks: ranks drawn independently, and the exact law.
    level : float
        Exact probability that the rank sum stays within the published budget.
    """

    n: int
    m: int
    claimed: float
    published: int
    ours: int
    level: float


def simulation_1(
    *, n: int = 200, m: int = 100, trials: int = 500, alphas: Sequence[float] = (0.1, 0.05, 0.01), seed: int = 0,
    progress: Progress = None,
) -> list[Coverage]:  # fmt: skip
    """Intervals of a random forest: y = x b1 + (x b2)^2 + N(0, (x b3)^2), x ~ N(mu, 5 I) in 20 dimensions.

    The forest (500 trees, a third of the columns a split, leaves of 5) is fitted once on 200 rows; every trial draws
    calibration rows and batch anew.
    """
    rng = np.random.default_rng(seed)
    mu = rng.uniform(-2, 2, P)
    b1, b2, b3 = (rng.uniform(-width, width, P) for width in (1.0, 0.2, 0.6))

    def outcome(x: np.ndarray) -> np.ndarray:
        return x @ b1 + (x @ b2) ** 2 + np.abs(x @ b3) * rng.normal(size=len(x))

    def draw(rows: int) -> np.ndarray:
        return mu + math.sqrt(5) * rng.normal(size=(rows, P))

    x = draw(200)
    predict = _forest(x, outcome(x), seed)
    x = draw(trials * (n + m))
    y = outcome(x)
    scores = np.abs(y - predict(x, progress)).reshape(trials, n + m)
    return batch_coverage(scores[:, :n], scores[:, n:], alphas)


def batch_coverage(
    calibration: np.ndarray, batch: np.ndarray, alphas: Sequence[float], *, delta: float = 0.1
) -> list[Coverage]:
    """Split conformal at 1 - delta, and batch PI for 1 - delta of the batch, on absolute residuals (trials, n), (trials, m).

    Examples
    --------
    >>> scores = np.random.default_rng(0).random((2000, 120))
    >>> for c in batch_coverage(scores[:, :100], scores[:, 100:], [0.1]):
    ...     print(f"{c.rule}: {c.covered.mean():.2f} on average, as asked in {c.often:.2f} of batches, exactly {c.exact:.3f}")
    split conformal: 0.90 on average, as asked in 0.67 of batches, exactly 0.680
    batch PI: 0.95 on average, as asked in 0.91 of batches, exactly 0.910
    """
    n, m = calibration.shape[1], batch.shape[1]
    z = m - math.floor(delta * m + 1e-9)
    ordered = np.column_stack([np.sort(calibration, axis=1), np.full(len(calibration), np.inf)])
    law = np.cumsum(rank_pmf(n, m, z))
    found = []
    rules: list[tuple[str, float | None, int]] = [("split conformal", None, conformal_rank(n, delta))]
    rules += [("batch PI", alpha, order_statistic_rank(n, m, z, alpha)) for alpha in alphas]
    for rule, alpha, rank in rules:
        bound = ordered[:, rank - 1]
        covered = (batch <= bound[:, None]).mean(axis=1)
        found.append(Coverage(rule, alpha, covered, 2 * bound, float(law[rank - 1]), 1 - delta))
    return found


def simulation_selection(
    *, n: int = 1000, m: int = 100, trials: int = 500, etas: Sequence[int] = (0, 2, 4, 6, 8, 10), alpha: float = 0.1,
    threshold: float = 5.0, seed: int = 0, progress: Progress = None,
) -> list[Selections]:  # fmt: skip
    """Claims y > 5 by a random forest: y = log(1 + exp(x b + 5 N(0, 1))), x ~ N(mu, 5 I) in 20 dimensions."""
    rng = np.random.default_rng(seed)
    mu, b = rng.uniform(-2, 2, P), rng.uniform(-1, 1, P)

    def draw(rows: int) -> tuple[np.ndarray, np.ndarray]:
        x = mu + math.sqrt(5) * rng.normal(size=(rows, P))
        return x, np.logaddexp(0, x @ b + 5 * rng.normal(size=rows))

    predict = _forest(*draw(500), seed)
    x, y = draw(trials * (n + m))
    prediction, y = predict(x, progress).reshape(trials, n + m), y.reshape(trials, n + m)
    return false_claims(prediction[:, :n], y[:, :n], prediction[:, n:], y[:, n:], threshold, etas, alpha)


def false_claims(
    prediction: np.ndarray, y: np.ndarray, batch_prediction: np.ndarray, batch_y: np.ndarray, threshold: float,
    etas: Sequence[int], alpha: float, *, published: bool = False,
) -> list[Selections]:  # fmt: skip
    """Select with at most eta false claims, trial by trial: calibration (trials, n), batch (trials, m).

    ``published`` takes the scores of the published scripts, prediction * 1{y <= threshold}.
    """
    trials, n = y.shape
    m = batch_y.shape[1]
    if published:
        scores = prediction * (y <= threshold)
    else:
        scores = null_scores(prediction.ravel(), y.ravel(), threshold).reshape(trials, n)
    ordered = np.column_stack([np.sort(scores, axis=1), np.full(trials, np.inf)])
    good = batch_y > threshold
    found = []
    for eta in etas:
        rank = order_statistic_rank(n, m, m - eta, alpha)
        selected = batch_prediction > ordered[:, rank - 1 : rank]
        exact = 1 - float(rank_pmf(n, m, m - eta)[:rank].sum())
        found.append(Selections(eta, alpha, (selected & ~good).sum(axis=1), (selected & good).sum(axis=1), exact))
    return found


def counterfactual(
    *, trials: int = 500, alphas: Sequence[float] = (0.05, 0.075, 0.1, 0.125, 0.15, 0.175, 0.2), seed: int = 0,
    progress: Progress = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """What treated units would have had untreated, from untreated ones, by rejection sampling with the true propensity.

    x ~ U(0, 1)^20, P(treated) = p(x) = 1 / (1 + exp(-x a)) < 1/2, untreated outcome Beta(1 + x b, 1 - x b). Median and
    quartiles: n = 200, m = 40; mean: n = 100, m = 5, upper bound.

    Returns
    -------
    dict
        "alphas" (A,); "median", "quartiles", "mean", "mean, shaped" (A,): share of trials covered; "kept" (2,): mean
        number of calibration rows kept of 200 and of 100; "bound", "shaped bound" (A,): mean bounds on the mean.
    """
    rng = np.random.default_rng(seed)
    a, b = rng.uniform(-0.2, 0, P), rng.uniform(0, 1, P) / P

    def untreated(x: np.ndarray) -> np.ndarray:
        return rng.beta(1 + x @ b, 1 - x @ b)

    def draw(n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the calibration rows kept, and those of the batch."""
        x = rng.random((8 * (n + m), P))
        treated = rng.random(len(x)) < 1 / (1 + np.exp(-(x @ a)))
        control, batch = x[~treated][:n], x[treated][:m]
        weight = np.exp(control @ a)  # p / (1 - p), at most 1
        kept = control[reject_to_target(weight, 1.0, rng)]
        return untreated(kept), untreated(batch)

    reference = untreated(rng.random((500, P)))  # other rows, for the shape of the rank function
    names = ("median", "quartiles", "mean", "mean, shaped", "bound", "shaped bound")
    total = {name: np.zeros(len(alphas)) for name in names}
    kept = np.zeros(2)
    for trial in range(trials):
        scores, batch = draw(200, 40)
        kept[0] += len(scores)
        ordered, new = np.concatenate([[0.0], np.sort(scores), [1.0]]), np.sort(batch)
        few, small = draw(100, 5)
        kept[1] += len(few)
        for i, alpha in enumerate(alphas):
            median = batch_quantile_bound(scores, 40, 20, alpha, score_bounds=(0, 1))
            total["median"][i] += median.lower <= new[19] <= median.upper
            low, high, _ = quartile_box(len(scores), 40, 10, 30, alpha)
            total["quartiles"][i] += ordered[low - 1] <= new[9] and new[29] <= ordered[high]
            for name, bound, options in (
                ("mean", "bound", {"method": "rank_sum"}),
                ("mean, shaped", "shaped bound", {"method": "shaped", "reference_scores": reference}),
            ):
                upper = batch_sum_bound(few, 5, alpha, side="upper", score_bounds=(0, 1), **options).upper
                total[name][i] += small.mean() <= upper
                total[bound][i] += upper
        if progress is not None:
            progress(trial + 1, trials)
    return {"alphas": np.array(alphas), "kept": kept / trials, **{name: value / trials for name, value in total.items()}}


def mean_bounds(
    settings: Sequence[tuple[int, int, str]] = (
        (40, 10, "U(0, 1)"), (40, 10, "Beta(1, 6)"), (100, 20, "Beta(1, 6)"), (100, 10, "Beta(1, 6)"),
        (200, 10, "U(0, 1)"), (200, 10, "Beta(1, 6)"),
    ), *, alpha: float = 0.1, trials: int = 200, seed: int = 0, progress: Progress = None,
) -> list[MeanBound]:  # fmt: skip
    """Five upper bounds on the mean of a batch of scores in [0, 1]: coverage and mean.

    rank sum (the paper's), shaped rank function (from 1,000 other scores), partition into batches, Bonferroni (the
    largest score at alpha / m a point), and the true quantile, which nobody knows.
    """
    rng = np.random.default_rng(seed)
    found = []
    for place, (n, m, law) in enumerate(settings):
        p, q = LAWS[law]
        oracle = float(np.quantile(rng.beta(p, q, (100_000, m)).mean(axis=1), 1 - alpha))
        rank = conformal_rank(n, alpha / m)
        bounds = np.empty((trials, 5))
        means = np.empty(trials)
        for trial in range(trials):
            scores, means[trial] = rng.beta(p, q, n), rng.beta(p, q, m).mean()
            reference = rng.beta(p, q, 1000)
            for i, (method, options) in enumerate(
                (("rank_sum", {}), ("shaped", {"reference_scores": reference}), ("partition", {"allow_infinite": True}))
            ):
                bounds[trial, i] = batch_sum_bound(
                    scores, m, alpha, side="upper", method=method, score_bounds=(0, 1), **options  # type: ignore[arg-type]
                ).upper  # fmt: skip
            bounds[trial, 3:] = np.append(np.sort(scores), 1.0)[rank - 1], oracle
            if progress is not None:
                progress(place * trials + trial + 1, len(settings) * trials)
        for i, rule in enumerate(("rank sum", "shaped", "partition", "Bonferroni", "oracle")):
            found.append(MeanBound(n, m, law, rule, float(np.mean(means <= bounds[:, i])), float(bounds[:, i].mean())))
    return found


def iid_rank_levels(
    sizes: Sequence[tuple[int, int]] = ((40, 10), (20, 20), (50, 40)), claimed: Sequence[float] = (0.95, 0.9, 0.8)
) -> list[RankLevel]:
    """The published mean script draws ranks independently; sorted, they are not uniform over rank vectors.

    Examples
    --------
    >>> for row in iid_rank_levels([(40, 10)]):
    ...     print(row.claimed, row.published, row.ours, round(row.level, 3))
    0.95 272 278 0.934
    0.9 258 263 0.878
    0.8 242 245 0.782
    """
    found = []
    for n, m in sizes:
        independent = np.ones(1)
        for _ in range(m):
            independent = np.convolve(independent, np.full(n + 1, 1 / (n + 1)))
        wrong, right = np.cumsum(independent), np.cumsum(rank_sum_pmf(n, m))
        for level in claimed:
            budget, exact = (int(np.searchsorted(law, level - SLACK)) for law in (wrong, right))
            found.append(RankLevel(n, m, level, budget + m, exact + m, float(right[budget])))  # ranks count from 1
    return found


def diabetes_splits(
    *,
    n: int = 142,
    m: int = 100,
    alphas: Sequence[float] = (0.1,),
    trials: int = 1000,
    seed: int = 0,
    progress: Progress = None,
) -> list[Coverage]:
    """Ridge regression on scikit-learn's diabetes data: 442 rows dealt to training, calibration and batch, again and again."""
    from sklearn.datasets import load_diabetes
    from sklearn.linear_model import Ridge

    X, y = load_diabetes(return_X_y=True)
    rng = np.random.default_rng(seed)
    scores = np.empty((trials, n + m))
    for trial in range(trials):
        order = rng.permutation(len(y))
        held, train = order[: n + m], order[n + m :]
        model = Ridge(alpha=0.1).fit(X[train], y[train])
        scores[trial] = np.abs(y[held] - model.predict(X[held]))
        if progress is not None:
            progress(trial + 1, trials)
    return batch_coverage(scores[:, :n], scores[:, n:], alphas)


def fair_predictions(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Outcome and prediction of 5,000 women in the 1978 survey that ships with statsmodels, boosting fitted on 1,366 others.

    The outcome is years of marriage, in seven values; age, children, religion, education, jobs, rating and affairs predict.
    """
    spec = find_spec("statsmodels")
    if spec is None or spec.origin is None:
        raise MissingExtra("this study reads data that ship with statsmodels", remedy="pip install 'datumwise[reproduce]'")
    from sklearn.ensemble import HistGradientBoostingRegressor

    path = Path(spec.origin).parent / "datasets" / "fair" / "fair.csv"
    table = np.genfromtxt(path, delimiter=",", names=True)
    y = table["yrs_married"]
    X = np.column_stack([table[name] for name in table.dtype.names or () if name != "yrs_married"])
    order = np.random.default_rng(seed).permutation(len(y))
    train, rest = order[:1366], order[1366:]
    model = HistGradientBoostingRegressor(max_iter=100, random_state=seed).fit(X[train], y[train])
    return y[rest], model.predict(X[rest])


def disjoint_splits(
    y: np.ndarray, prediction: np.ndarray, n: int, m: int, trials: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Outcomes and predictions (trials, n + m) of rows dealt at random: n of calibration, then m of a batch."""
    if len(y) < n + m:
        raise DatumwiseError(f"{len(y):,} rows cannot be dealt to {n:,} and {m:,}", remedy=f"at least {n + m:,} rows")
    rng = np.random.default_rng(seed)
    rows = np.array([rng.permutation(len(y))[: n + m] for _ in range(trials)])
    return y[rows], prediction[rows]


def read_predictions(path: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Columns ``y`` and ``prediction`` of a CSV file.

    Raises
    ------
    SourceError
        No such file, no such columns, a cell that is no finite number.
    """
    try:
        with Path(path).open(newline="", encoding="utf-8") as source:
            rows = list(csv.DictReader(source))
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    columns = []
    for name in ("y", "prediction"):
        try:
            column = np.array([float(row[name]) for row in rows])
        except KeyError:
            raise SourceError(f"{path} has no column {name}", remedy="a CSV file with columns y, prediction") from None
        except (TypeError, ValueError):
            column = np.array([math.nan])
        if not len(column) or not np.isfinite(column).all():
            raise SourceError(f"column {name} of {path} is not all finite numbers")
        columns.append(column)
    return columns[0], columns[1]


def _forest(x: np.ndarray, y: np.ndarray, seed: int) -> Callable[[np.ndarray, Progress], np.ndarray]:
    """A fitted forest with R's defaults for regression, predicting in blocks."""
    from sklearn.ensemble import RandomForestRegressor

    forest: Any = RandomForestRegressor(TREES, max_features=P // 3, min_samples_leaf=5, random_state=seed).fit(x, y)

    def predict(rows: np.ndarray, progress: Progress) -> np.ndarray:
        found = np.empty(len(rows))
        for start in range(0, len(rows), ROWS):
            found[start : start + ROWS] = forest.predict(rows[start : start + ROWS])
            if progress is not None:
                progress(min(start + ROWS, len(rows)), len(rows))
        return found

    return predict
