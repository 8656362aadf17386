"""Promises about a batch of datapoints of a ledger, written beside each of them."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa

from datumwise.errors import ColumnExists, DatumwiseError, EmptyData, LabelError, ModelMismatch, name_some
from datumwise.ledger.provenance import Provenance
from datumwise.predict.batch_conformal import BatchConformal
from datumwise.predict.batch_results import BatchBound, BatchIntervals, BatchSets
from datumwise.predict.groups import GroupedStatements, MondrianBatchConformal
from datumwise.predict.selection import SelectionResult
from datumwise.probe.features import Features, embed, features, on_rows
from datumwise.probe.fingerprint import model_fingerprint
from datumwise.probe.given import COMPONENTS, places
from datumwise.probe.learners import default_prober, learner_name

if TYPE_CHECKING:
    from datumwise.ledger import Ledger

__all__ = ["SOURCE", "LedgerPromise", "promise"]

SOURCE = "Lee, Tchetgen Tchetgen and Dobriban, 2024"
TRAIN = 0.5  # share of the labelled datapoints that trains a learner that was not fitted
DRAWN, FEWEST = 5_000, 10  # rows of each kind, at most and at least, that are compared to see whether a batch is alike
FAR = 0.65  # AUC from which on a batch counts as drawn from elsewhere


@dataclass(frozen=True)
class LedgerPromise:
    """What is promised about a batch, and where it was written.

    Attributes
    ----------
    learner : str
    task : {"classification", "regression"}
    trained, calibrated : int
        Datapoints that trained the learner (0: it came fitted) and that calibrated the promises.
    ids : (m,)
    coverage : BatchIntervals or BatchSets
    statistic : BatchBound or None
    selection : SelectionResult or None
        With ``by``, each is a `GroupedStatements` of such.
    measured : dict
        Where the batch has labels: how many were covered, how many claims are false. They played no part.
    columns : tuple of str
        On the ledger of the batch.
    version : int
    notes : tuple of str
    """

    learner: str
    task: str
    trained: int
    calibrated: int
    ids: np.ndarray
    coverage: BatchIntervals | BatchSets | GroupedStatements
    statistic: BatchBound | GroupedStatements | None
    selection: SelectionResult | GroupedStatements | None
    measured: dict[str, int]
    columns: tuple[str, ...]
    version: int
    notes: tuple[str, ...] = field(default=())

    @property
    def statements(self) -> tuple[str, ...]:
        """Each promise in a sentence; each holds by itself."""
        found = (self.coverage, self.statistic, self.selection)
        return tuple(line for one in found if one is not None for line in one.statement.splitlines())

    def as_dict(self) -> dict[str, Any]:
        """Everything but the columns' values, as JSON can hold it."""
        size = _of_each(self.coverage, "sizes" if self.task == "classification" else "width")
        chosen = None if self.selection is None else np.flatnonzero(_of_each(self.selection, "selected"))
        bounds = {} if self.statistic is None else _by_group(self.statistic)
        return {
            "learner": self.learner,
            "task": self.task,
            "trained": self.trained,
            "calibrated": self.calibrated,
            "batch": len(self.ids),
            "alpha": self.coverage.alpha,
            "mean_size": _finite(float(np.mean(size))),
            "bounds": [
                {"group": group, "statistic": one.statistic, "lower": _finite(one.lower), "upper": _finite(one.upper)}
                for group, one in bounds.items()
            ],
            "selected": None if chosen is None else [str(one) for one in self.ids[chosen]],
            "statements": list(self.statements),
            "measured": self.measured,
            "columns": list(self.columns),
            "version": self.version,
            "notes": list(self.notes),
        }

    def to_json(self) -> str:
        """The same as one JSON object."""
        return json.dumps(self.as_dict())

    def __str__(self) -> str:
        head = f"{len(self.ids):,} datapoints predicted by {self.learner}, {self.calibrated:,} calibrate"
        return "\n".join([head, *self.statements, *self.notes])


def promise(
    ledger: Ledger,
    model: Any = None,
    *,
    batch: Ledger | None = None,
    where: str | None = None,
    labelled: str | None = None,
    alpha: float = 0.1,
    delta: float = 0.1,
    score: str | None = None,
    statistic: str | tuple[str, float] | None = None,
    side: Literal["both", "upper", "lower"] = "both",
    above: float | None = None,
    positive: Any = None,
    max_false: int = 0,
    control: Literal["count", "fdr"] = "count",
    by: str | None = None,
    shifted: bool = False,
    column: str = "promise",
    allow_infinite: bool = False,
    seed: int = 0,
) -> LedgerPromise:
    """Predict a batch and write intervals or label sets, and what is claimed of it, with guarantees for the batch.

    Parameters
    ----------
    ledger : Ledger
        Labelled datapoints that calibrate, and train where the model is not fitted.
    model : scikit-learn estimator, optional
        Fitted on *other* datapoints, or unfitted: then half of the labelled ones train it. Default: that of the audit.
    batch : Ledger, optional
        The new datapoints. Without it they are rows of ``ledger`` itself, named by ``where``.
    where : str, optional
        SQL condition: the rows that are the batch.
    labelled : str, optional
        SQL condition: the rows that calibrate (and train), say ``"cleaned"`` after an audit. Labels must be as right as those
        that the promise is about. Default: all that are not in the batch.
    alpha : float
        Each promise fails with at most this probability.
    delta : float
        Share of the batch that may be missed by its interval or set.
    score : str, optional
        Of `datumwise.predict.scores`; default "absolute", or "lac" for classes.
    statistic : {"mean", "sum", "median"} or ("quantile", p), optional
        Also bound this number of the batch's targets.
    side : {"both", "upper", "lower"}
        Of that bound; one side is closer, and needs half as many datapoints to calibrate.
    above : float, optional
        Also select the datapoints that can be claimed to lie above it.
    positive : label, optional
        Also select the datapoints that can be claimed to be of this class.
    max_false : int
        False claims that are allowed among those selected.
    control : {"count", "fdr"}
        "fdr": instead bound the expected share of false claims by alpha.
    by : str, optional
        Column of groups, known of calibration and batch: each group is promised what its own datapoints allow.
    shifted : bool
        The batch is drawn from elsewhere: calibrate as if the labelled datapoints were, by weights that a classifier
        estimates. Every promise is then approximate.
    column : str
        Prefix of the columns written: ``_predicted``, ``_lower``, ``_upper`` or ``_set``, ``_selected``, ``_p_value``.
    allow_infinite : bool
        Where too few calibrate, write intervals without end instead of refusing.
    seed : int

    Returns
    -------
    LedgerPromise

    Raises
    ------
    DatumwiseError
        No label, no batch, too few datapoints to calibrate, a model of the wrong kind.

    Examples
    --------
    >>> import tempfile
    >>> from datumwise import ingest
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=300); new = np.arange(300) >= 280
    >>> rows = {"x": x, "y": 2 * x + rng.normal(size=300), "new": new}
    >>> ledger = ingest(rows, label="y", features="x", task="regression", out=tempfile.mkdtemp() + "/doses")
    >>> found = promise(ledger, where="new", alpha=0.1, delta=0.1, statistic="median")
    >>> print(found.coverage)
    with probability at least 0.9, at least 18 of these 20 intervals hold the truth (n = 140)
    >>> found.measured
    {'covered': 18}
    >>> found.columns
    ('promise_predicted', 'promise_lower', 'promise_upper')
    """
    label = ledger.roles.get("label")
    if not label:
        raise LabelError(
            f"{ledger.name} has no label column, so nothing can be calibrated", remedy="ingest the data with --label"
        )
    if (batch is None) == (where is None):
        raise DatumwiseError(
            "which datapoints are the batch is not said", remedy="give another ledger, or a condition on this one"
        )
    classes = ledger.task != "regression"
    view = features(ledger)
    y = ledger.array(label) if classes else np.asarray(ledger.array(label), np.float64)
    if batch is None:
        chosen = places(ledger, where)
        target, theirs, other = ledger, view, np.setdiff1d(np.arange(len(view.ids)), chosen)
    else:
        target, theirs, other = batch, features(batch, like=view), np.arange(len(view.ids))
        chosen = np.arange(len(theirs.ids))
    ids = target.ids[chosen]
    if not len(ids):
        raise EmptyData("the batch is empty", remedy="a wider condition")

    asked = default_prober(view.kind, "classification" if classes else "regression", seed=seed) if model is None else model
    _refuse_kind(asked, classes)
    if labelled is not None:
        other = np.intersect1d(other, places(ledger, labelled))
    fitted, calibration, trained = asked, other, 0
    if not _is_fitted(asked):
        training = np.sort(np.random.default_rng(seed).permutation(other)[: round(TRAIN * len(other))])
        if len(training) < 2:
            raise EmptyData(f"{len(other):,} labelled datapoints are too few to train on", remedy="a wider condition")
        calibration = np.setdiff1d(other, training)
        fitted, trained = on_rows(view, asked).fit(view.X[training], y[training]), len(training)
    if not len(calibration):
        raise EmptyData("no labelled datapoint is left to calibrate with", remedy="a wider condition")

    notes = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Found unknown categories")
        new = _unknown(view, theirs.X[chosen])
        if new:
            notes.append(f"{new:,} of the batch hold a category that was never seen before: promises do not speak of such")
        if trained:
            X, X_batch = view.X[calibration], theirs.X[chosen]
        else:
            X, X_batch = _rows_for(fitted, ledger, view, calibration), _rows_for(fitted, target, theirs, chosen)
        made = _Asked(
            BatchConformal(fitted, score or ("lac" if classes else "absolute"), random_state=seed),
            X, y[calibration], X_batch, {"shift_target": X_batch} if shifted else {},
            None if by is None else ledger.array(by)[calibration], None if by is None else target.array(by)[chosen],
        )  # fmt: skip
        given = {"alpha": alpha, "allow_infinite": allow_infinite}
        coverage = made("predict_set" if classes else "predict_interval", delta=delta, ids=ids, **given)
        bound = None
        if statistic is not None:
            if classes:
                raise ModelMismatch(f"a {statistic} is of numbers and the labels are classes", remedy="leave out the statistic")
            signed = made if made.conformal.score == "signed" else made.scored("signed")
            bound = signed("predict_batch", statistic=statistic, side=side, **given)
        selection = None
        positive = _as_label(positive, y)
        if above is not None or positive is not None:
            claims = {"threshold": above, "positive": positive, "max_false": max_false, "control": control}
            selection = made("select", ids=ids, **claims, **given)
    if not shifted:
        told = told_apart(view, calibration, theirs.X[chosen], seed)
        if told is not None:
            apart = f"a classifier tells them from the others with an AUC of {told:.2f}"
            notes.append(
                f"these datapoints are not drawn like those that calibrate ({apart}): promises assume so; ask for shifted ones"
            )
    if shifted:
        kept = f"{made.conformal.n_effective_:.0f} of {len(calibration):,}"
        notes.append(f"weights were estimated: {kept} calibrate, and promises are approximate")

    truth = _truth(target, label, ids, classes)
    measured = {} if truth is None else _measured(coverage, selection, truth, above, positive)
    values = _columns(coverage, selection, fitted, X_batch, column)
    score_name, n = made.conformal.score, len(made.conformal.scores_)
    params = {"alpha": alpha, "delta": delta, "score": score_name, "n": n, "m": len(ids), "by": by}
    reads = [*view.columns, label, *([by] if by else [])]
    provenance = Provenance("batch_conformal", params, reads=reads, model=model_fingerprint(asked), seed=seed, source=SOURCE)
    _make_room(target, values, provenance, column)
    aligned = len(ids) == len(target) and bool((np.asarray(ids, str) == target.ids.astype(str)).all())
    version = target.write(values, provenance=provenance, ids=None if aligned else [str(one) for one in ids], overwrite=True)
    found = LedgerPromise(
        learner_name(asked), "classification" if classes else "regression", trained, n, ids, coverage, bound,
        selection, measured, tuple(values), version, tuple(notes),
    )  # fmt: skip
    facts = {k: v for k, v in found.as_dict().items() if k not in ("selected", "version")}
    target.set_metadata(promises={**target.metadata.get("promises", {}), column: facts})
    return found


@dataclass(frozen=True)
class _Asked:
    """A calibrated predictor and the batch it is asked about, whole or group by group."""

    conformal: BatchConformal
    X: Any
    y: np.ndarray
    batch: Any
    shift: dict[str, Any]
    groups: np.ndarray | None
    batch_groups: np.ndarray | None
    grouped: MondrianBatchConformal | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if self.groups is None:
            self.conformal.calibrate(self.X, self.y, **self.shift)
        else:
            grouped = MondrianBatchConformal(self.conformal).calibrate(self.X, self.y, self.groups, **self.shift)
            object.__setattr__(self, "grouped", grouped)

    def __call__(self, statement: str, **given: Any) -> Any:
        if self.grouped is None:
            return getattr(self.conformal, statement)(self.batch, **given)
        return getattr(self.grouped, statement)(self.batch, self.batch_groups, **given)

    def scored(self, score: str) -> _Asked:
        """The same with another score."""
        made = BatchConformal(self.conformal.estimator, score, random_state=self.conformal.random_state)
        return _Asked(made, self.X, self.y, self.batch, self.shift, self.groups, self.batch_groups)


def told_apart(view: Features, calibration: np.ndarray, batch: np.ndarray, seed: int) -> float | None:
    """Whether a batch looks drawn from elsewhere: the out-of-fold AUC of a forest that tells it from the calibration rows.

    Returns
    -------
    float or None
        None where the AUC is below 0.65, within three standard errors of chance (Mann-Whitney), or there are too few rows.
    """
    from sklearn.ensemble import ExtraTreesClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    rng = np.random.default_rng(seed)
    rows = [rng.permutation(calibration)[:DRAWN], rng.permutation(len(batch))[:DRAWN]]
    n, m = len(rows[0]), len(rows[1])
    if min(n, m) < FEWEST:
        return None
    X = np.concatenate([view.X[rows[0]], batch[rows[1]]])
    vectors = embed(view.transform, X, n_components=COMPONENTS[view.kind], seed=seed).transform(X)
    new = np.repeat([0, 1], [n, m])
    forest = ExtraTreesClassifier(40, min_samples_leaf=3, class_weight="balanced", random_state=seed)
    folds = StratifiedKFold(4, shuffle=True, random_state=seed)
    guess = cross_val_predict(forest, vectors, new, cv=folds, method="predict_proba")[:, 1]
    auc = float(roc_auc_score(new, guess))
    chance = 0.5 + 3 * np.sqrt((n + m + 1) / (12 * n * m))
    return auc if auc > max(chance, FAR) else None


def _is_fitted(model: Any) -> bool:
    from sklearn.exceptions import NotFittedError
    from sklearn.utils.validation import check_is_fitted

    try:
        check_is_fitted(model)
    except NotFittedError:
        return False
    return True


def _refuse_kind(model: Any, classes: bool) -> None:
    from sklearn.base import is_classifier, is_regressor

    name = type(model).__name__
    if not hasattr(model, "predict"):
        raise ModelMismatch(f"{name} does not predict", remedy="give a scikit-learn estimator")
    if classes and is_regressor(model):
        raise ModelMismatch(f"{name} is a regressor and the labels are classes", remedy="give a classifier")
    if not classes and is_classifier(model):
        raise ModelMismatch(f"{name} is a classifier and the labels are numbers", remedy="give a regressor")
    if classes and not hasattr(model, "predict_proba"):
        raise ModelMismatch(f"{name} gives no probabilities", remedy="give a classifier with predict_proba")


def _rows_for(model: Any, ledger: Ledger, view: Features, rows: np.ndarray) -> Any:
    """Rows as a model that came fitted was given them: a frame of the columns it names, numbers, or texts."""
    names = getattr(model, "feature_names_in_", None)
    width = getattr(model, "n_features_in_", None)
    if names is not None:
        lacking = [str(name) for name in names if name not in ledger.schema.names]
        if lacking:
            raise ModelMismatch(
                f"the model was fitted on columns that {ledger.name} lacks: {name_some(lacking)}", remedy="ingest them too"
            )
        return ledger.table([str(name) for name in names]).to_pandas().iloc[rows]
    if width is not None and view.kind != "text" and view.X.shape[1] != width:
        raise ModelMismatch(
            f"the model was fitted on {width:,} features and {ledger.name} gives {view.X.shape[1]:,}",
            remedy="name the same columns with --features when ingesting",
        )
    return view.X[rows]


def _unknown(view: Features, X: np.ndarray) -> int:
    """Rows of the batch with a category that the calibration ledger never saw."""
    if view.kind != "table" or not view.categories:
        return 0
    codes = X[:, X.shape[1] - len(view.categories) :]
    return int((codes >= [len(values) for values in view.categories.values()]).any(1).sum())


def _as_label(word: Any, y: np.ndarray) -> Any:
    """A label as the data spell it: the command line only has words."""
    if word is None or y.dtype.kind not in "iuf" or not isinstance(word, str):
        return word
    try:
        return y.dtype.type(float(word))
    except ValueError:
        return word


def _truth(ledger: Ledger, label: str, ids: np.ndarray, classes: bool) -> np.ndarray | None:
    """Labels of the batch, where its ledger has them."""
    own = ledger.roles.get("label") or (label if label in ledger.schema.names else None)
    if own is None:
        return None
    values = ledger.table([own])[own]
    if values.null_count:
        return None
    all_ = ledger.array(own) if classes else np.asarray(ledger.array(own), np.float64)
    return all_[np.isin(ledger.ids.astype(str), np.asarray(ids, str))]


def _measured(coverage: Any, selection: Any, truth: np.ndarray, above: float | None, positive: Any) -> dict[str, int]:
    found = {"covered": int(coverage.covered(truth).sum())}
    if selection is not None:
        chosen = _of_each(selection, "selected")
        false = truth != positive if above is None else truth <= above
        found |= {"selected": int(chosen.sum()), "false_claims": int((chosen & false).sum())}
    return found


def _columns(coverage: Any, selection: Any, fitted: Any, X: Any, column: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    first = next(iter(_by_group(coverage).values()))
    if isinstance(first, BatchSets):
        sets = [[str(one) for one in first.classes[row]] for row in _of_each(coverage, "members")]
        values[f"{column}_predicted"] = pa.array([str(one) for one in fitted.predict(X)])
        values[f"{column}_set"] = pa.array(sets, pa.list_(pa.string()))
    else:
        values[f"{column}_predicted"] = _of_each(coverage, "prediction")
        values |= {f"{column}_{end}": _of_each(coverage, end) for end in ("lower", "upper")}
    if selection is not None:
        values |= {f"{column}_selected": _of_each(selection, "selected"), f"{column}_p_value": _of_each(selection, "p_values")}
    return values


def _of_each(found: Any, name: str) -> np.ndarray:
    """What a result says of each datapoint, in the order of the batch."""
    return found.aligned(name) if isinstance(found, GroupedStatements) else np.asarray(getattr(found, name))


def _by_group(found: Any) -> dict[str | None, Any]:
    return {str(group): one for group, one in found.items()} if isinstance(found, GroupedStatements) else {None: found}


def _make_room(ledger: Ledger, values: dict[str, Any], provenance: Provenance, column: str) -> None:
    """Columns of an earlier promise of this name that was made another way go, and what the user gave stays."""
    found = {one.name: one.provenance for one in ledger.columns}
    given = [name for name in values if name in found and found[name] is None]
    if given:
        raise ColumnExists(f"column {given[0]!r} came with the data", remedy="give the promise another name")
    ours = [f"{column}_{what}" for what in ("predicted", "lower", "upper", "set", "selected", "p_value")]
    stale = [name for name in ours if (made := found.get(name)) is not None and not provenance.agrees(made)]
    if stale:
        ledger.drop(stale)


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
