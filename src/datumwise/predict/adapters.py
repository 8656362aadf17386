"""Other libraries' conformal predictors under a batch guarantee: scores out of MAPIE and crepes, intervals back through them.

CV+ and jackknife+: Barber et al., 2021, Ann. Statist. 49(1); CQR: Romano et al., 2019, NeurIPS; RAPS: Angelopoulos et al.,
2021, ICLR; Mondrian regressors: Boström et al., 2021, COPA. We do not write them again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import clone

from datumwise.errors import DatumwiseError, MissingExtra, ModelMismatch, NotFinite, SchemaMismatch, UnknownName, name_some
from datumwise.predict.inputs import batch_size, real_column
from datumwise.predict.order_statistics import SLACK, check_alpha, order_statistic_rank, required_calibration_size, whole_number
from datumwise.predict.scores import label_scores, label_sets, score_intervals

__all__ = ["AdaptedScores", "adapt_scores", "batch_predict", "conformal_predict", "predict_at"]

METHODS = ("cv+", "jackknife+", "cqr", "raps", "mondrian")
CROSS = ("CrossConformalRegressor", "JackknifeAfterBootstrapRegressor", "CrossConformalClassifier")
KNOWN = (
    "MAPIE's SplitConformalRegressor, CrossConformalRegressor, JackknifeAfterBootstrapRegressor, "
    "ConformalizedQuantileRegressor, SplitConformalClassifier, CrossConformalClassifier, and crepes' WrapRegressor, "
    "ConformalRegressor, WrapClassifier, ConformalClassifier"
)


@dataclass(frozen=True)
class AdaptedScores:
    """Calibration scores of a fitted predictor, as `BatchConformal.calibrate_scores` takes them.

    Attributes
    ----------
    scores : float64 (n,)
        Larger = stranger.
    method : str
        Library, class and score.
    score_bounds : tuple of float
        Least and greatest possible score.
    exact : bool
        Whether these scores and those of a new batch are exchangeable, given the fitted model. Out-of-fold scores are
        not: each comes from another model than the one that predicts.
    group : array (n,), optional
        Mondrian category of each score, where the predictor keeps them beside the scores.
    """

    scores: np.ndarray
    method: str
    score_bounds: tuple[float, float]
    exact: bool = True
    group: np.ndarray | None = None


def adapt_scores(predictor: Any, *, allow_approximate: bool = False) -> AdaptedScores:
    """The calibration scores inside a fitted MAPIE 1.6 or crepes 0.9 predictor.

    Parameters
    ----------
    predictor : object
        A conformalized (MAPIE) or calibrated (crepes) predictor. CQR gives max(lower - y, y - upper). RAPS gives its
        penalised scores, which exist after ``predict_set`` has chosen the penalty; MAPIE's own ``conformity_scores`` are
        those before the penalty.
    allow_approximate : bool
        Take out-of-fold scores too (CV+, jackknife+), with ``exact=False``.

    Returns
    -------
    AdaptedScores

    Raises
    ------
    UnknownName
        No predictor that is known here.
    ModelMismatch
        Not conformalized yet, out-of-fold scores without ``allow_approximate``, or another version that keeps its scores
        elsewhere.

    Notes
    -----
    crepes does not tell whether it was calibrated out of bag (``oob=True``); such scores are approximate too.

    Examples
    --------
    >>> from crepes import ConformalRegressor
    >>> residuals = [0.5, -2.0, 1.0]
    >>> adapted = adapt_scores(ConformalRegressor().fit(residuals))
    >>> adapted.scores.tolist(), adapted.method, adapted.score_bounds
    ([2.0, 1.0, 0.5], 'crepes ConformalRegressor', (0.0, inf))
    """
    library, name = _kind(predictor)
    if name in CROSS and not allow_approximate:
        raise ModelMismatch(
            f"the scores of {name} are out of fold: each comes from another model than the one that predicts, so no batch "
            "statement is exact",
            remedy="conformalize a SplitConformal object, or pass allow_approximate=True",
        )
    found = _of_mapie(predictor, name) if library == "mapie" else _of_crepes(predictor, name)
    if not len(found.scores):
        raise ModelMismatch(f"this {name} holds no calibration scores", remedy="conformalize or calibrate it first")
    return found


def predict_at(predictor: Any, X: Any, threshold: float) -> np.ndarray:
    """What the predictor says at a score threshold of your own: everything that conforms at least that well.

    Parameters
    ----------
    predictor : object
        As `adapt_scores`, with an estimator in it and scores that do not tell the two sides apart.
    X : array (m, d)
    threshold : float
        On the scores of `adapt_scores`; infinity gives all.

    Returns
    -------
    float64 (m, 2) or bool (m, K)
        Intervals of a regressor; label sets of a classifier, in the order of its ``classes_``, without randomisation.

    Examples
    --------
    >>> import numpy as np
    >>> from crepes import WrapRegressor
    >>> from sklearn.dummy import DummyRegressor
    >>> x = np.zeros((5, 1)); y = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    >>> wrapped = WrapRegressor(DummyRegressor().fit(x, y)).calibrate(x, y)
    >>> predict_at(wrapped, x[:1], 0.5).tolist()
    [[2.5, 3.5]]
    """
    library, name = _kind(predictor)
    if np.isnan(threshold):
        raise NotFinite("the threshold is NaN")
    return _mapie_at(predictor, name, X, threshold) if library == "mapie" else _crepes_at(predictor, name, X, threshold)


def batch_predict(
    predictor: Any,
    X: Any,
    alpha: float = 0.1,
    *,
    delta: float = 0.1,
    min_covered: int | None = None,
    allow_approximate: bool = False,
) -> np.ndarray:
    """Intervals or label sets of another library's predictor, of which at least 1 - delta cover with probability 1 - alpha.

    Parameters
    ----------
    predictor : object
        As `adapt_scores`.
    X : array (m, d)
        The whole batch.
    alpha : float
        The batch statement may fail with this probability, over calibration rows and batch together.
    delta : float
        Share of the batch that may stay uncovered.
    min_covered : int, optional
        The number to cover itself, 1 .. m; overrides delta.
    allow_approximate : bool
        As `adapt_scores`.

    Returns
    -------
    float64 (m, 2) or bool (m, K)
        As `predict_at`. Where the calibration set is too small for a finite threshold it is refused.

    Examples
    --------
    >>> import numpy as np
    >>> from crepes import WrapRegressor
    >>> from sklearn.dummy import DummyRegressor
    >>> x = np.zeros((100, 1)); y = np.random.default_rng(0).normal(size=100)
    >>> wrapped = WrapRegressor(DummyRegressor().fit(x[:20], y[:20])).calibrate(x[20:], y[20:])
    >>> one = wrapped.predict_int(x[:1], confidence=0.9)  # one row at a time
    >>> batch = batch_predict(wrapped, x[:20], alpha=0.1)  # 18 of 20 together
    >>> float(np.ptp(one).round(2)), float(np.ptp(batch[0]).round(2))
    (3.53, 4.01)
    """
    scores = np.sort(adapt_scores(predictor, allow_approximate=allow_approximate).scores)
    m = batch_size(X)
    if min_covered is None:
        min_covered = m - int(np.floor(delta * m + 1e-9))
    covered = whole_number(min_covered, "the number of rows to cover", 1, m)
    rank = order_statistic_rank(len(scores), m, covered, alpha)
    if rank > len(scores):
        need = required_calibration_size(m, alpha, z=covered)
        raise DatumwiseError(
            f"{len(scores)} calibration scores give no finite bound for {covered} of {m} rows at alpha = {alpha:g}",
            remedy=f"need n >= {need}; got n = {len(scores)}",
        )
    return predict_at(predictor, X, float(scores[rank - 1]))


def conformal_predict(
    method: str,
    estimator: Any,
    X: Any,
    y: Any,
    X_test: Any,
    alpha: float = 0.1,
    *,
    X_cal: Any = None,
    y_cal: Any = None,
    group: Callable[[Any], Any] | None = None,
    folds: int = 5,
    symmetric: bool = True,
    random_state: Any = None,
) -> np.ndarray:
    """One-point intervals or sets by CV+, jackknife+, CQR, RAPS (MAPIE) or a Mondrian split (crepes), in one call.

    Parameters
    ----------
    method : {"cv+", "jackknife+", "cqr", "raps", "mondrian"}
    estimator : object
        Not fitted; a clone is. For "cqr" a regressor with a quantile loss, for "raps" a classifier.
    X, y : arrays (n, d), (n,)
        Training rows.
    X_test : array (m, d)
    alpha : float
        Miscoverage of one new row. CV+ and jackknife+ promise 1 - 2 alpha, and in practice give about 1 - alpha.
    X_cal, y_cal : arrays (k, d), (k,), optional
        Calibration rows: needed by "cqr", "raps" and "mondrian", not taken by the others.
    group : callable, optional
        For "mondrian": X -> a label a row (of X alone).
    folds : int
        For "cv+".
    symmetric : bool
        For "cqr": one correction for both ends (Romano et al.) or one each at alpha / 2.
    random_state : int, Generator or None
        Deals the folds; draws RAPS' randomisation and its tuning rows (a fifth of the calibration rows).

    Returns
    -------
    float64 (m, 2), or bool (m, K) for "raps"
        Sets are in the order of ``np.unique(y)``.

    Raises
    ------
    MissingExtra
        MAPIE or crepes is not installed.
    UnknownName, SchemaMismatch, DatumwiseError

    Notes
    -----
    Both libraries find the rank from 1 - confidence in floating point; the confidence given to them is 1e-12 below
    1 - alpha, so that a whole (n + 1) alpha counts as whole. crepes gives a row of a group without calibration rows
    the interval [0, 0]; that is refused here.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LinearRegression
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(300, 1)); y = x[:, 0] + rng.normal(size=300)
    >>> interval = conformal_predict("cv+", LinearRegression(), x[:200], y[:200], x[200:], random_state=0)
    >>> float(np.mean((interval[:, 0] <= y[200:]) & (y[200:] <= interval[:, 1])))
    0.88
    """
    if method not in METHODS:
        raise UnknownName(f"there is no method {method!r}", remedy=f"choose one of {', '.join(METHODS)}")
    check_alpha(alpha)
    split = method in ("cqr", "raps", "mondrian")
    if split != (X_cal is not None) or split != (y_cal is not None):
        raise SchemaMismatch(
            f"{method} {'needs' if split else 'takes no'} calibration rows of its own",
            remedy="give X_cal and y_cal" if split else "put them into X and y",
        )
    if (group is not None) != (method == "mondrian"):
        raise SchemaMismatch(f"{method} {'needs' if method == 'mondrian' else 'takes no'} group")
    level = 1 - alpha - SLACK
    if method == "mondrian":
        return _mondrian(estimator, X, y, X_test, level, X_cal, y_cal, group)
    try:
        import mapie  # noqa: F401
    except ImportError as error:
        raise MissingExtra(f"{method} needs MAPIE", remedy="pip install 'datumwise[predict]'") from error
    seed = int(np.random.default_rng(random_state).integers(2**31 - 1))
    if method in ("cv+", "jackknife+"):
        return _cross(method, estimator, X, y, X_test, level, folds, seed)
    if method == "cqr":
        from mapie.regression import ConformalizedQuantileRegressor

        quantiles = ConformalizedQuantileRegressor(estimator, confidence_level=level)
        quantiles.fit(X, y).conformalize(X_cal, y_cal)
        _, intervals = quantiles.predict_interval(X_test, symmetric_correction=symmetric)
        return np.asarray(intervals[:, :, 0], np.float64)
    from mapie.classification import SplitConformalClassifier

    sets = SplitConformalClassifier(
        clone(estimator).fit(X, y), confidence_level=level, conformity_score="raps", random_state=seed
    )
    _, chosen = sets.conformalize(X_cal, y_cal).predict_set(X_test)
    return np.asarray(chosen[:, :, 0], bool)


def _cross(method: str, estimator: Any, X: Any, y: Any, X_test: Any, level: float, folds: int, seed: int) -> np.ndarray:
    from mapie.regression import CrossConformalRegressor
    from sklearn.model_selection import KFold, LeaveOneOut

    if method == "cv+" and not 2 <= folds <= len(X):
        raise DatumwiseError(f"{len(X)} rows cannot be dealt to {folds} folds", remedy="2 <= folds <= rows")
    cv = (
        LeaveOneOut() if method == "jackknife+" else KFold(folds, shuffle=True, random_state=seed)
    )  # a generator would deal other folds at every split
    cross = CrossConformalRegressor(estimator, confidence_level=level, method="plus", cv=cv)
    _, intervals = cross.fit_conformalize(X, y).predict_interval(X_test)
    return np.asarray(intervals[:, :, 0], np.float64)


def _mondrian(estimator: Any, X: Any, y: Any, X_test: Any, level: float, X_cal: Any, y_cal: Any, group: Any) -> np.ndarray:
    try:
        from crepes import WrapRegressor
    except ImportError as error:
        raise MissingExtra("mondrian needs crepes", remedy="pip install 'datumwise[predict]'") from error
    unseen = ~np.isin(np.asarray(group(X_test)), np.asarray(group(X_cal)))
    if unseen.any():
        labels = np.unique(np.asarray(group(X_test))[unseen]).tolist()
        raise DatumwiseError(
            f"no calibration row is of group {name_some(labels)}", remedy="give calibration rows of every group", ids=labels
        )
    wrapped = WrapRegressor(clone(estimator).fit(X, y))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the no. of calibration examples", category=UserWarning)
        try:
            return np.asarray(wrapped.calibrate(X_cal, y_cal, mc=group).predict_int(X_test, confidence=level), np.float64)
        except UserWarning as small:
            need = required_calibration_size(1, 1 - level)
            what = f"a group has too few calibration rows for alpha = {1 - level:g}"
            raise DatumwiseError(what, remedy=f"need n >= {need} in every group") from small


def _kind(predictor: Any) -> tuple[str, str]:
    """Library and class, by name: nothing is imported to look at an object."""
    for kind in type(predictor).__mro__:  # users subclass
        library = kind.__module__.partition(".")[0]
        if library in ("mapie", "crepes"):
            return library, kind.__name__
    raise UnknownName(f"{type(predictor).__name__} is no conformal predictor known here", remedy=f"give {KNOWN}")


def _within(predictor: Any, *names: str) -> Any:
    """An attribute that the library keeps to itself."""
    found = predictor
    for name in names:
        found = getattr(found, name, None)
        if found is None:
            raise ModelMismatch(
                f"this {type(predictor).__name__} holds no {'.'.join(names)}: not conformalized or calibrated yet, or of "
                "another version than MAPIE 1.6 or crepes 0.9",
                remedy="conformalize or calibrate it first",
            )
    return found


def _of_mapie(predictor: Any, name: str) -> AdaptedScores:
    if name == "ConformalizedQuantileRegressor":
        scores = np.asarray(_within(predictor, "_mapie_quantile_regressor", "conformity_scores"))[2]
        return AdaptedScores(real_column(scores, "scores"), "MAPIE conformalized quantiles", (-np.inf, np.inf))
    exact = name not in CROSS
    if name in ("SplitConformalRegressor", "CrossConformalRegressor", "JackknifeAfterBootstrapRegressor"):
        scores = np.asarray(_within(predictor, "_mapie_regressor", "conformity_scores_"), np.float64)
        function = _within(predictor, "_mapie_regressor", "conformity_score_function_")
        kept = scores[~np.isnan(scores)]  # NaN marks rows that the residual model was fitted on
        bounds = (0.0 if function.sym else -np.inf, np.inf)
        return AdaptedScores(kept, f"MAPIE {name}, {_score_name(function)}", bounds, exact)
    if name in ("SplitConformalClassifier", "CrossConformalClassifier"):
        scores = np.asarray(_within(predictor, "_mapie_classifier", "conformity_scores_"), np.float64)
        function = _within(predictor, "_mapie_classifier", "conformity_score_function_")
        scores = scores.reshape(len(scores), -1)[:, 0]
        high = 1.0
        if _score_name(function) == "RAPS":
            penalty, free = _raps(predictor)
            scores = scores + penalty * np.maximum(0, np.ravel(function.cutoff) - free)
            high += penalty * max(0.0, len(function.classes) - free)
        elif _score_name(function) == "TopK":
            high = float(len(function.classes) - 1)
        return AdaptedScores(scores, f"MAPIE {name}, {_score_name(function)}", (0.0, high), exact)
    raise UnknownName(f"MAPIE's {name} is not known here", remedy=f"give {KNOWN}")


def _of_crepes(predictor: Any, name: str) -> AdaptedScores:
    inner = {"WrapRegressor": "cr", "WrapClassifier": "cc"}.get(name)
    holder = _within(predictor, inner) if inner else predictor
    inner_name = type(holder).__name__
    if inner_name not in ("ConformalRegressor", "ConformalClassifier"):
        raise UnknownName(f"crepes' {inner_name} is not known here", remedy=f"give {KNOWN}")
    scores = real_column(_within(holder, "alphas"), "scores")
    group = None if holder.bins is None else np.asarray(holder.bins)
    bounds = (0.0 if inner_name == "ConformalRegressor" else -np.inf, np.inf)  # a classifier's measure is anything
    return AdaptedScores(scores, f"crepes {name}", bounds, True, group)


def _score_name(function: Any) -> str:
    """LAC of LACConformityScore."""
    return type(function).__name__.removesuffix("ConformityScore")


def _raps(predictor: Any) -> tuple[float, float]:
    """Penalty and free ranks that MAPIE chose, for its one confidence level."""
    function = _within(predictor, "_mapie_classifier", "conformity_score_function_")
    if not hasattr(function, "lambda_star"):
        raise ModelMismatch("MAPIE chooses the penalty of RAPS when it predicts", remedy="call predict_set once")
    if np.size(function.k_star) != 1:
        raise ModelMismatch(
            f"this predictor holds {np.size(function.k_star)} penalties of RAPS, one a confidence level",
            remedy="give it one level",
        )
    return float(np.ravel(function.lambda_star)[0]), float(np.ravel(function.k_star)[0])


def _mapie_at(predictor: Any, name: str, X: Any, threshold: float) -> np.ndarray:
    if name == "ConformalizedQuantileRegressor":
        low, high, _ = _within(predictor, "_mapie_quantile_regressor", "estimators_")
        return score_intervals("cqr", threshold, np.column_stack([low.predict(X), high.predict(X)]))
    if name == "SplitConformalRegressor":
        function = _within(predictor, "_mapie_regressor", "conformity_score_function_")
        if not function.sym:
            raise ModelMismatch(
                f"MAPIE's {_score_name(function)} scores tell the two sides apart: one threshold gives no interval",
                remedy="bound each side by adapt_scores, or use sym=True",
            )
        prediction = np.asarray(predictor.predict(X), np.float64)[:, None]
        ends = [function.get_estimation_distribution(prediction, np.array([[t]]), X=X) for t in (-threshold, threshold)]
        return np.sort(np.column_stack(ends), axis=1)
    if name == "SplitConformalClassifier":
        function = _within(predictor, "_mapie_classifier", "conformity_score_function_")
        kind = _score_name(function).lower()
        if kind not in ("lac", "aps", "raps"):
            raise UnknownName(
                f"label sets of MAPIE's {_score_name(function)} are not known here", remedy="use LAC, APS or RAPS"
            )
        penalty, free = _raps(predictor) if kind == "raps" else (0.0, 0.0)
        probs = _within(predictor, "_mapie_classifier", "estimator_").single_estimator_.predict_proba(X)
        whole = np.ones(len(probs)) if kind != "lac" else None  # the least score that the draw can give: no label is lost
        return label_sets(label_scores(kind, probs, uniform=whole, penalty=penalty, free_rank=int(free)), threshold)
    raise UnknownName(f"MAPIE's {name} gives nothing at a threshold of one's own", remedy="use a SplitConformal object or CQR")


def _crepes_at(predictor: Any, name: str, X: Any, threshold: float) -> np.ndarray:
    if name == "WrapClassifier":
        _within(predictor, "cc", "alphas")
        scores = predictor.nc(np.asarray(predictor.learner.predict_proba(X)))
        return label_sets(scores, threshold)
    if name == "WrapRegressor":
        _within(predictor, "cr", "alphas")
        prediction = np.asarray(predictor.predict(X), np.float64)
        scale = None if predictor.de is None else predictor.de.apply(X)
        return score_intervals("absolute" if scale is None else "normalized", threshold, prediction, scale)
    raise UnknownName(f"crepes' {name} holds no estimator", remedy="give a WrapRegressor or WrapClassifier")
