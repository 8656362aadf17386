"""What does a scikit-learn estimator say of each datapoint when it has not seen it?

Every number but ``probs_fit``, ``pred_fit`` and ``embedding`` is out of fold: it comes from a copy of the
estimator that was fitted without the datapoint (Stone, 1974, cross-validatory choice).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.special import softmax

from datumwise.errors import (
    DatumwiseError,
    EmptyData,
    LabelError,
    ModelMismatch,
    NotFinite,
    UnknownName,
    name_some,
)
from datumwise.probe.threads import few_threads

__all__ = ["CLASSIFIER_SIGNALS", "REGRESSOR_SIGNALS", "estimator_signals"]

CLASSIFIER_SIGNALS = ("labels", "probs", "probs_fit", "logits", "loss", "embedding")
REGRESSOR_SIGNALS = ("target", "pred", "pred_fit", "residual", "loss", "embedding")

EPS = 1e-12  # probability floor before a logarithm
EMBEDDING_WIDTH = 64  # principal components kept of a wider feature table


def estimator_signals(
    model: Any,
    X: Any,
    y: Any,
    want: Iterable[str],
    *,
    folds: int = 5,
    seed: int = 0,
    n_repeats: int = 1,
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, np.ndarray]:
    """Per-datapoint signals of a scikit-learn classifier or regressor, by cross-validation.

    Parameters
    ----------
    model : estimator
        Never fitted or changed itself: each fold fits a clone. Any ``random_state`` left at None is seeded.
    X : ndarray or sparse matrix (n, d), pandas frame (n, d), or list of n strings
        Datapoints. Missing values are refused unless the estimator says that it accepts them.
    y : array-like (n,)
        Class labels (numbers or strings), or real targets for a regressor.
    want : iterable of str
        Names of `CLASSIFIER_SIGNALS` or `REGRESSOR_SIGNALS`.
    folds : int
        Number of folds, at least 2; stratified by class for a classifier.
    seed : int
        Seeds the folds, the estimator where it has no seed of its own, and the embedding.
    n_repeats : int
        Cross-validations with other folds; probabilities and predictions are averaged over them.
    ids : sequence (n,), optional
        Names of the datapoints for error sentences; row numbers by default.
    progress : callable (done, total), optional
        Called after each fitted fold.

    Returns
    -------
    dict of str to ndarray
        Classifier (K classes in sorted order): ``labels`` int64 (n,) codes; ``probs`` float64 (n, K), out of
        fold; ``probs_fit`` float64 (n, K), mean over the fold models that were trained on the row; ``logits``
        float64 (n, K), out of fold, centred by row, ``softmax(logits) == probs``; ``loss`` float64 (n,),
        cross-entropy in nats, out of fold. An estimator without ``predict_proba`` gives as logits its
        decision function divided by its standard deviation on the fold's training rows.
        Regressor: ``target``, ``pred``, ``pred_fit``, ``residual`` (target - pred), ``loss`` (residual
        squared), float64 (n,), in the target's unit. Both: ``embedding`` float32 (n, d'): the pipeline's
        features before its estimator, else the standardised features; at most 64 leading components.

    Raises
    ------
    LabelError
        A class has fewer members than folds, there is one class only, a label is missing, or the labels do
        not fit the kind of estimator.
    NotFinite
        A feature is NaN or infinite; names the rows.
    ModelMismatch
        The estimator is neither classifier nor regressor, fails on the data, or gives an output of another
        shape.
    UnknownName
        A wanted signal is not one of this kind of estimator.

    Examples
    --------
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.linear_model import LogisticRegression
    >>> X, y = load_iris(return_X_y=True)
    >>> s = estimator_signals(LogisticRegression(max_iter=500), X, y, ["probs", "labels"])
    >>> float((s["probs"].argmax(axis=1) == s["labels"]).mean()) > 0.9
    True
    """
    from sklearn.base import is_classifier, is_regressor

    if not (is_classifier(model) or is_regressor(model)):
        raise ModelMismatch(
            f"{_name(model)} is neither a scikit-learn classifier nor a regressor",
            remedy="pass an estimator with fit and predict_proba, or fit and predict",
        )
    classifier = is_classifier(model)
    wanted = _wanted(want, CLASSIFIER_SIGNALS if classifier else REGRESSOR_SIGNALS, _name(model))
    names = list(ids) if ids is not None else list(range(_length(X)))
    incomplete = _check_features(X, model, names)
    answer = _classifier if classifier else _regressor
    try:
        return answer(model, X, y, wanted, folds, seed, n_repeats, names, progress)
    except ModelMismatch as error:
        if incomplete and "NaN" in str(error):  # a pipeline without a step that fills missing values
            raise _not_finite(incomplete) from error
        raise


def _classifier(
    model: Any,
    X: Any,
    y: Any,
    want: set[str],
    folds: int,
    seed: int,
    n_repeats: int,
    names: list[Any],
    progress: Callable[[int, int], None] | None,
) -> dict[str, np.ndarray]:
    y, codes, classes = _class_codes(y, names, folds if want - {"labels", "embedding"} else 0)
    signals: dict[str, np.ndarray] = {"labels": codes}
    if want - {"labels", "embedding"}:
        keep_fit = "probs_fit" in want
        from sklearn.model_selection import StratifiedKFold

        total = _Means(len(codes), len(classes), keep_fit)
        for repeat in range(_at_least(n_repeats, 1, "n_repeats")):
            splitter = StratifiedKFold(folds, shuffle=True, random_state=seed + repeat)
            splits = splitter.split(np.zeros(len(codes)), codes)
            fitted = _fold_models(model, X, y, splits, seed, (repeat, folds, n_repeats), progress)
            for estimator, train, test in fitted:
                scale = _decision_scale(estimator, X, train)
                total.add_out(test, _probs(estimator, _rows(X, test), classes, scale))
                if keep_fit:
                    total.add_fit(train, _probs(estimator, _rows(X, train), classes, scale))
        probs, probs_fit = total.out(), total.fit()
        log_probs = np.log(np.maximum(probs, EPS))
        signals["probs"] = probs
        signals["logits"] = log_probs - log_probs.mean(axis=1, keepdims=True)
        signals["loss"] = -log_probs[np.arange(len(codes)), codes]
        if probs_fit is not None:
            signals["probs_fit"] = probs_fit
    if "embedding" in want:
        signals["embedding"] = _embedding(model, X, y, seed)
    return {name: signals[name] for name in CLASSIFIER_SIGNALS if name in want}


def _regressor(
    model: Any,
    X: Any,
    y: Any,
    want: set[str],
    folds: int,
    seed: int,
    n_repeats: int,
    names: list[Any],
    progress: Callable[[int, int], None] | None,
) -> dict[str, np.ndarray]:
    target = _real_target(y, names)
    signals: dict[str, np.ndarray] = {"target": target}
    if want - {"target", "embedding"}:
        from sklearn.model_selection import KFold

        _at_least(folds, 2, "folds")
        if len(target) < folds:
            raise EmptyData(f"{len(target)} datapoints are fewer than the {folds} folds", remedy="use fewer folds")
        keep_fit = "pred_fit" in want
        total = _Means(len(target), 1, keep_fit)
        for repeat in range(_at_least(n_repeats, 1, "n_repeats")):
            splits = KFold(folds, shuffle=True, random_state=seed + repeat).split(target)
            fitted = _fold_models(model, X, target, splits, seed, (repeat, folds, n_repeats), progress)
            for estimator, train, test in fitted:
                total.add_out(test, _prediction(estimator, _rows(X, test), len(test)))
                if keep_fit:
                    total.add_fit(train, _prediction(estimator, _rows(X, train), len(train)))
        signals["pred"] = total.out()[:, 0]
        signals["residual"] = target - signals["pred"]
        signals["loss"] = signals["residual"] ** 2
        fitted_mean = total.fit()
        if fitted_mean is not None:
            signals["pred_fit"] = fitted_mean[:, 0]
    if "embedding" in want:
        signals["embedding"] = _embedding(model, X, target, seed)
    return {name: signals[name] for name in REGRESSOR_SIGNALS if name in want}


def _fold_models(
    model: Any,
    X: Any,
    y: np.ndarray,
    splits: Iterable[tuple[np.ndarray, np.ndarray]],
    seed: int,
    place: tuple[int, int, int],
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[Any, np.ndarray, np.ndarray]]:
    """Yield (fitted clone, its training rows, its held-out rows), a fold at a time."""
    from sklearn.base import clone

    repeat, folds, n_repeats = place
    for fold, (train, test) in enumerate(splits):
        estimator = clone(model)
        _seed_where_unset(estimator, seed * 1009 + repeat * folds + fold)
        try:
            with few_threads(X):
                estimator.fit(_rows(X, train), y[train])
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelMismatch(f"{_name(model)} could not be fitted on the data: {_first_line(error)}") from error
        yield estimator, train, test
        if progress is not None:
            progress(repeat * folds + fold + 1, folds * n_repeats)


def _seed_where_unset(estimator: Any, seed: int) -> None:
    """Give every ``random_state`` of the estimator and its parts that is None a seed of its own."""
    unset = [
        name
        for name, value in sorted(estimator.get_params(deep=True).items())
        if name.rpartition("__")[2] == "random_state" and value is None
    ]
    seeds = np.random.SeedSequence(seed).generate_state(max(len(unset), 1))
    estimator.set_params(**{name: int(s % 2**31) for name, s in zip(unset, seeds, strict=False)})


@dataclass
class _Means:
    """Running means over folds: out of fold and, if asked for, in fold."""

    n: int
    width: int
    keep_fit: bool
    out_sum: np.ndarray = field(init=False)
    out_count: np.ndarray = field(init=False)
    fit_sum: np.ndarray | None = field(init=False)
    fit_count: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.out_sum = np.zeros((self.n, self.width))
        self.out_count = np.zeros((self.n, 1))
        self.fit_sum = np.zeros((self.n, self.width)) if self.keep_fit else None
        self.fit_count = np.zeros((self.n, 1))

    def add_out(self, rows: np.ndarray, values: np.ndarray) -> None:
        self.out_sum[rows] += values
        self.out_count[rows] += 1

    def add_fit(self, rows: np.ndarray, values: np.ndarray) -> None:
        assert self.fit_sum is not None
        self.fit_sum[rows] += values
        self.fit_count[rows] += 1

    def out(self) -> np.ndarray:
        return self.out_sum / self.out_count

    def fit(self) -> np.ndarray | None:
        return None if self.fit_sum is None else self.fit_sum / self.fit_count


# --- what an estimator answers --------------------------------------------------------------------


def _decision_scale(estimator: Any, X: Any, train: np.ndarray) -> float | None:
    """Standard deviation of the decision function on the training rows; None if there are probabilities."""
    if hasattr(estimator, "predict_proba"):
        return None
    if not hasattr(estimator, "decision_function"):
        raise ModelMismatch(
            f"{_name(estimator)} has neither predict_proba nor decision_function: it gives no probabilities",
            remedy="wrap it in sklearn.calibration.CalibratedClassifierCV or choose another classifier",
        )
    return float(np.std(_asked(estimator, "decision_function", _rows(X, train)))) or 1.0


def _probs(estimator: Any, rows: Any, classes: np.ndarray, scale: float | None) -> np.ndarray:
    """Probabilities float64 (n, K) in the order of `classes`, `scale` that of a decision function."""
    if scale is None:
        probs = _asked(estimator, "predict_proba", rows)
        _check_output(estimator, probs, classes, "probabilities")
    else:
        scores = _asked(estimator, "decision_function", rows) / scale
        if scores.ndim == 1:
            scores = np.stack([-scores / 2, scores / 2], axis=1)
        _check_output(estimator, scores, classes, "decision values")
        probs = softmax(scores, axis=1)
    return probs[:, _column_order(estimator, classes)]


def _asked(estimator: Any, method: str, rows: Any) -> np.ndarray:
    """What a method of the estimator answers, as float64."""
    try:
        return np.asarray(getattr(estimator, method)(rows), dtype=np.float64)
    except (ValueError, TypeError, AttributeError) as error:
        what = f"the {method} of {_name(estimator)} fails on the data: {_first_line(error)}"
        raise ModelMismatch(what) from error


def _check_output(estimator: Any, values: np.ndarray, classes: np.ndarray, what: str) -> None:
    if values.ndim != 2 or values.shape[1] != len(classes):
        shape = values.shape[1] if values.ndim == 2 else f"an array of shape {values.shape}"
        raise ModelMismatch(f"{_name(estimator)} gives {shape} {what} per datapoint, the labels have {len(classes)} classes")
    if not np.isfinite(values).all():
        raise NotFinite(f"{_name(estimator)} gives {what} that are not finite")
    if what == "probabilities" and (values.min() < -1e-6 or np.abs(values.sum(axis=1) - 1).max() > 1e-3):
        raise ModelMismatch(f"the predict_proba of {_name(estimator)} gives rows that do not sum to 1")


def _column_order(estimator: Any, classes: np.ndarray) -> np.ndarray:
    """Column of the estimator's output for each of `classes`."""
    own = list(getattr(estimator, "classes_", classes))
    try:
        return np.array([own.index(c) for c in classes])
    except ValueError as error:
        raise ModelMismatch(
            f"{_name(estimator)} knows the classes {name_some(own)} and the labels are {name_some(classes)}"
        ) from error


def _prediction(estimator: Any, rows: Any, n: int) -> np.ndarray:
    values = _asked(estimator, "predict", rows)
    if values.shape not in ((n,), (n, 1)):
        raise ModelMismatch(f"{_name(estimator)} predicts an array of shape {values.shape} for {n} datapoints")
    if not np.isfinite(values).all():
        raise NotFinite(f"{_name(estimator)} gives predictions that are not finite")
    return values.reshape(n, 1)


# --- embedding ------------------------------------------------------------------------------------


def _embedding(model: Any, X: Any, y: np.ndarray, seed: int) -> np.ndarray:
    """Where each datapoint sits: float32 (n, d'), d' <= 64 unless the features are fewer than that.

    The steps of a Pipeline before its estimator, fitted on all rows; without a pipeline the standardised
    features (categories one-hot, missing values at the column's mean). Wider than 64: principal components.
    """
    from sklearn.base import clone
    from sklearn.decomposition import PCA, TruncatedSVD
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    if isinstance(model, Pipeline) and len(model.steps) > 1:
        steps = clone(model[:-1])
        _seed_where_unset(steps, seed)
        try:
            Z = steps.fit_transform(X, y)
        except (ValueError, TypeError, AttributeError) as error:
            raise ModelMismatch(f"the steps before {_name(model[-1])} could not be fitted: {_first_line(error)}") from error
    else:
        Z = _numeric(X)
    if hasattr(Z, "tocsr"):
        if min(Z.shape) > EMBEDDING_WIDTH:
            return np.asarray(TruncatedSVD(EMBEDDING_WIDTH, random_state=seed).fit_transform(Z), dtype=np.float32)
        Z = Z.toarray()
    Z = _numeric(Z)
    Z = np.nan_to_num(StandardScaler().fit_transform(Z))  # NaN, passed through by the scaler, becomes the mean
    if Z.shape[1] > EMBEDDING_WIDTH:
        Z = PCA(min(EMBEDDING_WIDTH, len(Z)), random_state=seed).fit_transform(Z)
    return np.asarray(Z, dtype=np.float32)


def _numeric(X: Any) -> Any:
    """Features as a float64 matrix (sparse stays sparse); categories of a frame become one-hot columns."""
    if hasattr(X, "tocsr"):
        return X
    if hasattr(X, "iloc"):
        import pandas as pd

        frame = X.to_frame() if X.ndim == 1 else X
        return pd.get_dummies(frame, dtype=float).to_numpy(dtype=np.float64)
    values = np.asarray(X)
    if values.dtype.kind in "OUS":
        try:
            values = values.astype(np.float64)
        except (ValueError, TypeError) as error:
            raise ModelMismatch(
                "an embedding of text needs a model that turns text into numbers",
                remedy="pass a Pipeline, for example make_pipeline(TfidfVectorizer(), LogisticRegression())",
            ) from error
    return values.reshape(len(values), -1).astype(np.float64)


# --- what a user brings ---------------------------------------------------------------------------


def _wanted(want: Iterable[str], known: tuple[str, ...], model_name: str) -> set[str]:
    wanted = {want} if isinstance(want, str) else set(want)
    unknown = sorted(wanted - set(known))
    if unknown:
        raise UnknownName(f"{model_name} gives no signal {name_some(unknown)}", remedy=f"it gives {', '.join(known)}")
    return wanted


def _class_codes(y: Any, names: list[Any], folds: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels as given (n,), codes int64 (n,), classes in sorted order; `folds` 0 skips the sizes."""
    values = _one_column(y, names)
    missing = _missing(values)
    if missing.any():
        rows = [names[i] for i in np.flatnonzero(missing)]
        raise LabelError(f"no label in {len(rows):,} rows ({name_some(rows)})", remedy="label or drop them", ids=rows)
    if values.dtype.kind == "f" and not np.array_equal(values, np.round(values)):
        raise LabelError("the labels look continuous and the model is a classifier", remedy="pass a regressor")
    try:
        classes, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    except TypeError as error:
        raise LabelError("the labels mix strings and numbers", remedy="convert them to one type") from error
    if values.dtype.kind == "O":
        classes = np.array(classes.tolist())
        values = classes[codes.reshape(-1)]
    if len(classes) < 2:
        raise LabelError(f"all labels are {classes[0]!s}", remedy="scores of labels need at least two classes")
    if folds:
        _at_least(folds, 2, "folds")
        smallest = int(counts.argmin())
        if counts[smallest] < folds:
            _refuse_small_class(classes[smallest], int(counts[smallest]), folds)
    return values, codes.astype(np.int64).reshape(-1), classes


def _refuse_small_class(label: Any, count: int, folds: int) -> None:
    members = "1 datapoint" if count == 1 else f"{count} datapoints"
    fewer = "" if count < 2 else f"use folds={count}, "
    raise LabelError(
        f"class {str(label)!r} has {members}, fewer than the {folds} folds of the cross-validation",
        remedy=f"{fewer}merge it with another class or leave it out",
    )


def _real_target(y: Any, names: list[Any]) -> np.ndarray:
    values = _one_column(y, names)
    try:
        target = values.astype(np.float64)
    except (ValueError, TypeError) as error:
        raise LabelError("the targets are not numbers and the model is a regressor", remedy="pass a classifier") from error
    bad = ~np.isfinite(target)
    if bad.any():
        rows = [names[i] for i in np.flatnonzero(bad)]
        raise NotFinite(f"the target is NaN or infinite in {len(rows):,} rows ({name_some(rows)})", ids=rows)
    return target


def _one_column(y: Any, names: list[Any]) -> np.ndarray:
    if y is None:
        raise LabelError("there are no labels", remedy="name the label column")
    values = np.asarray(y)
    if values.ndim == 2 and values.shape[1] == 1:
        values = values[:, 0]
    if values.ndim != 1:
        raise LabelError(f"the labels have shape {values.shape}", remedy="pass one label per datapoint")
    if len(values) != len(names):
        raise LabelError(f"{len(values):,} labels for {len(names):,} datapoints")
    return values


def _missing(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind == "f":
        return np.isnan(values)
    if values.dtype.kind == "O":
        return np.array([v is None or v != v for v in values], dtype=bool)
    return np.zeros(len(values), dtype=bool)


def _check_features(X: Any, model: Any, names: list[Any]) -> list[Any]:
    """Refuse what no estimator can read; names of the rows with missing values, which a pipeline may fill."""
    if not names or _length(X) == 0:
        raise EmptyData("there is no datapoint to score")
    if len(names) != _length(X):
        raise DatumwiseError(f"{len(names):,} ids for {_length(X):,} datapoints")
    nan, infinite = _not_finite_rows(X)
    bad = infinite if _may_accept_nan(model) else nan | infinite
    if bad.any():
        raise _not_finite([names[i] for i in np.flatnonzero(bad)])
    return [names[i] for i in np.flatnonzero(nan)]


def _not_finite(rows: list[Any]) -> NotFinite:
    return NotFinite(
        f"features are NaN or infinite in {len(rows):,} rows ({name_some(rows)})",
        remedy="drop or impute them, or use an estimator that accepts missing values",
        ids=rows,
    )


def _not_finite_rows(X: Any) -> tuple[np.ndarray, np.ndarray]:
    """Which rows hold a NaN, and which an infinity: two bool arrays (n,)."""
    n = _length(X)
    if hasattr(X, "tocsr"):
        coo = X.tocoo()
        nan, infinite = np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
        nan[coo.row[np.isnan(coo.data)]] = True
        infinite[coo.row[np.isinf(coo.data)]] = True
        return nan, infinite
    if hasattr(X, "iloc"):
        numbers = X.select_dtypes("number") if X.ndim == 2 else X.to_frame().select_dtypes("number")
        values = numbers.to_numpy(dtype=np.float64, na_value=np.nan)
        missing = X.isna().to_numpy().reshape(n, -1).any(axis=1)
        return missing, np.isinf(values).any(axis=1)
    values = np.asarray(X)
    if values.dtype.kind == "O":
        missing = np.array([any(v is None or v != v for v in np.atleast_1d(row)) for row in values], dtype=bool)
        return missing, np.zeros(n, dtype=bool)
    if values.dtype.kind not in "fc":
        return np.zeros(n, dtype=bool), np.zeros(n, dtype=bool)
    flat = values.reshape(n, -1)
    return np.isnan(flat).any(axis=1), np.isinf(flat).any(axis=1)


def _may_accept_nan(model: Any) -> bool:
    """Whether the estimator says that it reads missing values, or is a pipeline, whose tags do not tell."""
    from sklearn.pipeline import Pipeline
    from sklearn.utils import get_tags

    return isinstance(model, Pipeline) or bool(get_tags(model).input_tags.allow_nan)


def _rows(X: Any, index: np.ndarray) -> Any:
    if hasattr(X, "iloc"):
        return X.iloc[index]
    if hasattr(X, "tocsr"):
        return X.tocsr()[index]
    if isinstance(X, np.ndarray):
        return X[index]
    return [X[i] for i in index]


def _length(X: Any) -> int:
    return int(X.shape[0]) if hasattr(X, "shape") else len(X)


def _at_least(value: int, least: int, what: str) -> int:
    if value < least:
        raise DatumwiseError(f"{what} is {value} and must be at least {least}")
    return value


def _name(model: Any) -> str:
    return type(model).__name__


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
