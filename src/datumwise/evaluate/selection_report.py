"""Is a selection better than chance? A learner trained on what was chosen, against random subsets of the same size.

A selection "beats random" if it is ahead of the mean of the random subsets by more than the held-out sample can explain
(the interval of the difference is above 0), and by more than the luck of drawing one subset can (a Student prediction
interval over the random subsets): of any ten random subsets half are better than their mean, too.

Every comparison of selections needs random subsets of the same size and several seeds (Guo et al., 2022, *DeepCore*,
section 4; Sachdeva et al., 2024). Intervals are paired bootstrap percentile intervals over held-out datapoints and over
subsets, as those of `datumwise.evaluate.removal_proof`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import t as student

from datumwise.errors import DatumwiseError, EmptyData, LabelError, SchemaMismatch, UnknownName
from datumwise.evaluate.rank_stability import RankAgreement, rank_agreement
from datumwise.evaluate.removal import BLOCK, Interval, _accuracy, _interval, _is_random, _r_squared, _reseeded
from datumwise.probe.neighbours import finite_matrix, neighbours
from datumwise.select.selector import Selector

if TYPE_CHECKING:
    import pandas as pd
    from sklearn.base import BaseEstimator

__all__ = ["SelectionReport", "SelectionRow", "selection_report"]

RANDOM, ALL = "random", "all"
VERDICTS = ("beats random", "no better than random", "worse than random")
LEVEL = 0.95  # of what the luck of the draw explains


@dataclass(frozen=True)
class SelectionRow:
    """One selection, or the random subsets of one size, or all datapoints."""

    name: str
    n: int  # datapoints trained on
    score: Interval  # of the learner, held out
    minus_random: Interval | None  # against the mean of random subsets as large; None for these themselves and for all
    luck: float | None  # how far from their mean one more random subset lies, in 19 of 20 cases
    verdict: str  # one of `VERDICTS`; empty where there is nothing to compare
    radius: float  # distance of the datapoint that lies farthest from anything chosen
    mean_distance: float  # of a datapoint to the nearest chosen one
    diversity: float | None  # by the given function
    balance: float | None  # half the sum of |class share chosen - class share of all|; 0 keeps the shares
    smallest_class: int | None  # datapoints of the class with the fewest


@dataclass(frozen=True)
class SelectionReport:
    """Selections against random subsets of the same size; prints as a table.

    Attributes
    ----------
    metric : str
        "accuracy" or "R²".
    learner : str
    n, held_out : int
        Datapoints to choose from; held out.
    n_random, seeds : int
        Random subsets a size; fits of a learner that is random itself.
    rows : tuple of SelectionRow
        All, random (a size), the selections.
    overlap : mapping of "a & b" to float
        Share of the smaller selection that the other has chosen, too.
    agreement : RankAgreement or None
        Of the scores that were given.
    """

    metric: str
    learner: str
    n: int
    held_out: int
    n_random: int
    seeds: int
    rows: tuple[SelectionRow, ...]
    overlap: Mapping[str, float]
    agreement: RankAgreement | None = None

    def __getitem__(self, name: str) -> SelectionRow:
        for row in self.rows:
            if row.name == name:
                return row
        raise UnknownName(f"there is no selection {name!r}", remedy=f"there are {', '.join(r.name for r in self.rows)}")

    @property
    def winners(self) -> tuple[str, ...]:
        """Selections that beat random, the best first."""
        ahead = [row for row in self.rows if row.verdict == VERDICTS[0]]
        return tuple(row.name for row in sorted(ahead, key=lambda row: -row.score.value))

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it."""
        found = {name: getattr(self, name) for name in ("metric", "learner", "n", "held_out", "n_random", "seeds")}
        agreement = None if self.agreement is None else self.agreement.as_dict()
        return found | {"rows": [asdict(row) for row in self.rows], "overlap": dict(self.overlap), "agreement": agreement}

    def to_json(self) -> str:
        """The same as one JSON object."""
        return json.dumps(self.as_dict())

    def to_pandas(self) -> pd.DataFrame:
        """A frame with a row a selection; intervals as three columns."""
        import pandas

        flat = []
        for row in self.rows:
            record = {k: v for k, v in asdict(row).items() if k not in ("score", "minus_random")}
            for key in ("score", "minus_random"):
                found = getattr(row, key) or Interval(np.nan, np.nan, np.nan)
                record |= {key: found.value, f"{key}_low": found.low, f"{key}_high": found.high}
            flat.append(record)
        return pandas.DataFrame(flat).set_index("name")

    def __str__(self) -> str:
        head = ["selection", "n", self.metric, "minus random", "luck", "", "radius", "mean distance"]
        with_diversity = any(row.diversity is not None for row in self.rows)
        with_classes = any(row.balance is not None for row in self.rows)
        head += ["diversity"] * with_diversity + ["class shift", "smallest class"] * with_classes
        cells = [head]
        for row in self.rows:
            line = [row.name, f"{row.n:,}", _points(row.score), _gain(row.minus_random)]
            line += ["-" if row.luck is None else f"± {row.luck:.3f}", row.verdict]
            line += [f"{row.radius:.3g}", f"{row.mean_distance:.3g}"]
            line += [_or_dash(row.diversity, ".3g")] * with_diversity
            line += [_or_dash(row.balance, ".1%"), _or_dash(row.smallest_class, ",")] * with_classes
            cells.append(line)
        widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
        lines = ["  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in cells]
        title = (
            f"{self.learner} on {self.held_out:,} held-out datapoints; {self.n_random} random subsets a size,"
            f" {self.seeds} fit{'s' if self.seeds > 1 else ''} a set; 95 % intervals"
        )
        tail = [] if self.agreement is None else ["", str(self.agreement)]
        return "\n".join([title, *lines, *tail])


def selection_report(
    X: Any,
    y: Any,
    selections: Mapping[str, Any],
    *,
    X_test: Any,
    y_test: Any,
    learner: BaseEstimator | None = None,
    inputs: Mapping[str, Any] | None = None,
    scores: Mapping[str, Any] | None = None,
    diversity: Callable[[np.ndarray], float] | None = None,
    n_random: int = 10,
    seeds: int = 5,
    n_bootstrap: int = 2000,
    random_state: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> SelectionReport:
    """Compare selections with each other and with chance.

    Parameters
    ----------
    X : array (n, d)
        Datapoints to choose from.
    y : array (n,)
        Their labels, or floats for a regression.
    selections : mapping of str to Selector, or array of rows (k,), or bool (n,)
        A selector is fitted, unless it is already; what it takes beside X and y comes from ``inputs``.
    X_test, y_test : arrays (m, d), (m,)
        Held out: nothing of them may have played a part in choosing.
    learner : estimator, optional
        Trained on each; standardised logistic regression by default, or ridge regression. It gets the ``weights_``
        of a selector as sample weights if it takes such.
    inputs : mapping, optional
        What selectors take: ``scores``, ``gradients``, ``target``, ...
    scores : mapping of str to array (n,), optional
        Scores whose rankings are compared.
    diversity : callable (k, d) -> float, optional
        Of a set of rows, as `datumwise.score.vendi`.
    n_random : int, default 10
        Random subsets of each size there is.
    seeds : int, default 5
        Fits on each chosen set, for a learner that is random itself.
    n_bootstrap : int, default 2000
    random_state : int, default 0
    progress : callable (fits done, fits), optional

    Returns
    -------
    SelectionReport

    Raises
    ------
    LabelError
        A chosen set has one class only.
    SchemaMismatch, EmptyData, NotFinite, DatumwiseError

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(600, 4))
    >>> y = (X[:, 0] > 0).astype(int)
    >>> noisy = np.where(rng.random(300) < 0.4, 1 - y[:300], y[:300])
    >>> right = np.flatnonzero(noisy == y[:300])
    >>> report = selection_report(X[:300], noisy, {"right": right[:60]}, X_test=X[300:], y_test=y[300:])
    >>> report["right"].verdict, report.winners
    ('beats random', ('right',))
    """
    from datumwise.probe.threads import few_threads

    X, X_test = finite_matrix(X, "X"), finite_matrix(X_test, "X_test")
    y, y_test = np.asarray(y), np.asarray(y_test)
    n, m = len(y), len(y_test)
    if len(X) != n or len(X_test) != m or X.shape[1] != X_test.shape[1]:
        raise SchemaMismatch(f"X is {X.shape} with {n:,} labels, and X_test {X_test.shape} with {m:,}")
    if not selections or n_random < 2:
        raise DatumwiseError("a report takes a selection or more, and two random subsets or more")
    regression = y.dtype.kind == "f"
    model = _default(regression) if learner is None else learner
    chosen = {name: _rows(name, given, X, y, inputs or {}) for name, given in selections.items()}
    if not regression:
        for name, (rows, _) in chosen.items():
            if len(np.unique(y[rows])) < 2:
                raise LabelError(f"selection {name!r} has one class only", remedy="choose more, or class by class")
    repeats = seeds if _is_random(model) else 1
    sizes = sorted({len(rows) for rows, _ in chosen.values()})
    fits = repeats * (1 + len(chosen)) + n_random * len(sizes)
    done = 0

    def losses(rows: np.ndarray, repeat: int, weights: np.ndarray | None = None) -> np.ndarray:
        """Held-out loss of each datapoint (m,): wrong or not, or squared error."""
        nonlocal done
        fitted = _fit(_reseeded(model, random_state + repeat), X[rows], y[rows], weights)
        predicted = fitted.predict(X_test)
        done += 1
        if progress is not None:
            progress(done, fits)
        return (predicted - y_test) ** 2 if regression else (predicted != y_test).astype(float)

    rng = np.random.default_rng(random_state)
    everything = np.arange(n)
    subsets = {size: [_random_rows(rng, y, size, regression) for _ in range(n_random)] for size in sizes}
    with few_threads(X):
        trained = {ALL: np.stack([losses(everything, r) for r in range(repeats)])}
        at_random = {size: np.stack([losses(rows, r) for r, rows in enumerate(sets)]) for size, sets in subsets.items()}
        for name, (rows, weights) in chosen.items():
            trained[name] = np.stack([losses(rows, r, weights) for r in range(repeats)])

    keyed: dict[Any, np.ndarray] = {**trained, **at_random}
    metric = _r_squared if regression else _accuracy
    value, drawn = _drawn(keyed, y_test, metric, n_bootstrap, rng)

    def described(rows: np.ndarray) -> tuple[float, float, float | None, float | None, int | None]:
        return (*_coverage(X, rows), *_spread(X, y, rows, diversity, regression))

    every = described(everything)
    table = [SelectionRow(ALL, n, _interval(value[ALL], drawn[ALL]), None, None, "", *every)]
    luck = {}
    for size in sizes:
        each = [metric(np.ones((1, m)), one[None], y_test)[0] for one in at_random[size]]
        luck[size] = float(np.std(each, ddof=1) * np.sqrt(1 + 1 / n_random) * student.ppf((1 + LEVEL) / 2, n_random - 1))
        radius, mean_distance, diverse, balance, smallest = zip(*map(described, subsets[size]), strict=True)
        table.append(
            SelectionRow(
                _random_name(size, sizes),
                size,
                _interval(value[size], drawn[size]),
                None,
                luck[size],
                "",
                float(np.mean(radius)),
                float(np.mean(mean_distance)),
                _mean(diverse),
                _mean(balance),
                None if smallest[0] is None else round(_mean(smallest) or 0),
            )
        )
    for name, (rows, _) in chosen.items():
        size = len(rows)
        gain = _interval(value[name] - value[size], drawn[name] - drawn[size])
        spread = luck[size]
        ahead, behind = gain.low > 0 and gain.value > spread, gain.high < 0 and gain.value < -spread
        verdict = VERDICTS[0] if ahead else VERDICTS[2] if behind else VERDICTS[1]
        table.append(SelectionRow(name, size, _interval(value[name], drawn[name]), gain, spread, verdict, *described(rows)))
    return SelectionReport(
        metric="R²" if regression else "accuracy",
        learner=_name(model),
        n=n,
        held_out=m,
        n_random=n_random,
        seeds=repeats,
        rows=tuple(table),
        overlap=_overlaps({name: rows for name, (rows, _) in chosen.items()}),
        agreement=None if not scores or len(scores) < 2 else rank_agreement(scores, random_state=random_state),
    )


def _rows(
    name: str, given: Any, X: np.ndarray, y: np.ndarray, inputs: Mapping[str, Any]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Rows of a selection, and their weights if it has any."""
    n = len(X)
    if name in (RANDOM, ALL):
        raise DatumwiseError(f"a selection cannot be called {name!r}: the report has a row of that name")
    if isinstance(given, Selector):
        if not hasattr(given, "ranking_"):
            from datumwise.select.choose import fitted_to

            there = {"X": X, **inputs}
            optional = {one.rstrip("?") for one in given.takes if one.endswith("?")}
            if "y" not in optional:
                there.setdefault("y", y)
            wanted = {one.rstrip("?") for one in given.takes}
            missing = wanted - optional - set(there)
            if missing:
                raise DatumwiseError(
                    f"selection {name!r} needs {', '.join(sorted(missing))}", remedy="give it in inputs=, or give the rows"
                )
            given = fitted_to(given, {key: value for key, value in there.items() if key in wanted})
        if given.n_seen_ != n:
            raise SchemaMismatch(f"selection {name!r} was fitted to {given.n_seen_:,} datapoints, and X has {n:,}")
        return given.ranking_, getattr(given, "weights_", None)
    rows = np.asarray(given)
    if rows.dtype == bool:
        if rows.shape != (n,):
            raise SchemaMismatch(f"selection {name!r} is a mask of {rows.shape} for {n:,} datapoints")
        rows = np.flatnonzero(rows)
    if not len(rows):
        raise EmptyData(f"selection {name!r} is empty")
    if rows.dtype.kind not in "iu" or rows.ndim != 1 or rows.min() < 0 or rows.max() >= n or len(np.unique(rows)) < len(rows):
        raise SchemaMismatch(f"selection {name!r} must be rows from 0 to {n - 1:,}, each once, or a mask")
    return rows.astype(np.int64), None


def _fit(model: Any, X: np.ndarray, y: np.ndarray, weights: np.ndarray | None) -> Any:
    from sklearn.pipeline import Pipeline
    from sklearn.utils.validation import has_fit_parameter

    last = model.steps[-1] if isinstance(model, Pipeline) else ("", model)
    if weights is None or not (weights > 0).any() or not has_fit_parameter(last[1], "sample_weight"):
        return model.fit(X, y)
    key = f"{last[0]}__sample_weight" if last[0] else "sample_weight"
    return model.fit(X, y, **{key: weights * len(weights) / weights.sum()})


def _random_rows(rng: np.random.Generator, y: np.ndarray, size: int, regression: bool) -> np.ndarray:
    """A random subset; of classes, one with two of them, or no learner could be trained on it."""
    for _ in range(1000):
        rows = rng.choice(len(y), size, replace=False)
        if regression or len(np.unique(y[rows])) > 1:
            return np.sort(rows)
    raise LabelError(f"random subsets of {size:,} have one class only", remedy="choose more datapoints")


def _drawn(
    sets: Mapping[Any, np.ndarray],
    y: np.ndarray,
    metric: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray],
    n_bootstrap: int,
    rng: np.random.Generator,
) -> tuple[dict[Any, float], dict[Any, np.ndarray]]:
    """The metric of each set, and its bootstrap draws: the same held-out datapoints for all, so they are paired."""
    m = len(y)
    value = {key: float(metric(np.ones((1, m)), found.mean(0, keepdims=True), y)[0]) for key, found in sets.items()}
    parts: dict[Any, list[np.ndarray]] = {key: [] for key in sets}
    block = max(1, BLOCK // m)
    for start in range(0, n_bootstrap, block):
        size = min(block, n_bootstrap - start)
        weights = rng.multinomial(m, np.full(m, 1 / m), size=size).astype(float)
        for key, found in sets.items():
            repeats = rng.multinomial(len(found), np.full(len(found), 1 / len(found)), size=size) / len(found)
            parts[key].append(metric(weights, repeats @ found, y))
    return value, {key: np.concatenate(draws) for key, draws in parts.items()}


def _coverage(X: np.ndarray, rows: np.ndarray) -> tuple[float, float]:
    """k-center radius, and mean distance to the nearest chosen, Euclidean."""
    if len(rows) == len(X):
        return 0.0, 0.0
    distances, _ = neighbours(X[rows], k=1, metric="euclidean", queries=X)
    return float(distances.max()), float(distances.mean())


def _spread(
    X: np.ndarray, y: np.ndarray, rows: np.ndarray, diversity: Callable[[np.ndarray], float] | None, regression: bool
) -> tuple[float | None, float | None, int | None]:
    measured = None if diversity is None else float(diversity(X[rows]))
    if regression:
        return measured, None, None
    _, codes = np.unique(y, return_inverse=True)
    every = np.bincount(codes)
    some = np.bincount(codes[rows], minlength=len(every))
    return measured, float(np.abs(some / len(rows) - every / len(y)).sum() / 2), int(some.min())


def _overlaps(chosen: Mapping[str, np.ndarray]) -> dict[str, float]:
    names = list(chosen)
    found = {}
    for i, a in enumerate(names):
        for b in names[i + 1 :]:
            both = len(np.intersect1d(chosen[a], chosen[b]))
            found[f"{a} & {b}"] = both / min(len(chosen[a]), len(chosen[b]))
    return found


def _default(regression: bool) -> BaseEstimator:
    from sklearn.linear_model import LogisticRegression, RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), RidgeCV() if regression else LogisticRegression(max_iter=1000))


def _name(model: BaseEstimator) -> str:
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    return type(last).__name__


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _random_name(size: int, sizes: Sequence[int]) -> str:
    return RANDOM if len(sizes) == 1 else f"{RANDOM} {size:,}"


def _points(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def _gain(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval.value:+.3f} ({interval.low:+.3f} to {interval.high:+.3f})"


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
