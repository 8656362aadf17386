"""What can be promised of one new datapoint? Split conformal intervals and label sets, also group by group (Mondrian).

Vovk et al., 2005, *Algorithmic Learning in a Random World*, chapters 2 and 4; Lei et al., 2018, JASA 113(523), for
regression; Sadinle et al., 2019 (LAC), Romano et al., 2020 (APS), Angelopoulos et al., 2021 (RAPS) for label sets.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Sequence
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from datumwise.errors import DatumwiseError, LabelError, NotFinite, SchemaMismatch, UnknownName, name_some
from datumwise.predict.inputs import real_column
from datumwise.predict.order_statistics import SLACK, check_alpha, whole_number
from datumwise.predict.scores import (
    FREE_RANK,
    PENALTY,
    REGRESSION_SCORES,
    label_scores,
    label_sets,
    regression_scores,
    score_intervals,
)

__all__ = ["SplitConformalClassifier", "SplitConformalRegressor", "conformal_rank", "conformal_threshold"]

SIDES = ("both", "upper", "lower")


def conformal_rank(n: int, alpha: float, side: str = "upper") -> int:
    """Which order statistic of n calibration scores bounds one new score with probability 1 - alpha.

    upper: ceil((n + 1)(1 - alpha)); lower: floor((n + 1) alpha). The case m = 1 of `order_statistic_rank`, in closed
    form.

    Parameters
    ----------
    n : int
        Calibration scores, >= 0.
    alpha : float
        Miscoverage, in (0, 1).
    side : {"upper", "lower"}

    Returns
    -------
    int
        Index into S_(0), S_(1) <= ... <= S_(n), S_(n+1); 0 and n + 1 stand for minus and plus infinity.

    Examples
    --------
    >>> conformal_rank(99, 0.1), conformal_rank(8, 0.1), conformal_rank(99, 0.1, "lower")
    (90, 9, 10)
    """
    return int(_ranks(np.asarray(whole_number(n, "n", 0)), check_alpha(alpha), side))


def conformal_threshold(scores: Any, alpha: float, *, side: str = "upper", allow_infinite: bool = False) -> float:
    """The bound that one new exchangeable score stays within with probability at least 1 - alpha.

    Parameters
    ----------
    scores : float (n,)
        Calibration scores, larger = stranger.
    alpha : float
    side : {"upper", "lower"}
    allow_infinite : bool
        Return infinity, with a warning, where n is too small for a finite bound; the default refuses.

    Returns
    -------
    float
        S_(k) with k of `conformal_rank`: never the largest score in place of infinity.

    Raises
    ------
    NotFinite, SchemaMismatch, EmptyData, DatumwiseError
        NaN (counted), no column of scores, none at all, n too small.

    Examples
    --------
    >>> scores = [0.3, 0.1, 0.9, 0.5]
    >>> conformal_threshold(scores, 0.2), conformal_threshold(scores, 0.4)
    (0.9, 0.5)
    >>> conformal_threshold(scores, 0.1)
    Traceback (most recent call last):
    datumwise.errors.DatumwiseError: 4 calibration scores give no finite bound at alpha = 0.1: need n >= 9; got n = 4
    """
    calibrated = _Groups.of(real_column(scores, "scores"), None)
    return float(calibrated.thresholds(check_alpha(alpha), 1, None, side, allow_infinite)[0])


class SplitConformalRegressor(BaseEstimator):
    """Prediction intervals that hold a new target with probability at least 1 - alpha, for any fitted regressor.

    The interval is all y whose score is at most S_(k), k = ceil((n + 1)(1 - alpha)) of the calibration scores. The
    probability is over the calibration rows and the new row together; they must be exchangeable and unknown to the
    regressor. With groups (Mondrian) it holds within every group. What holds for a whole batch at once is
    `BatchConformal`'s matter.

    Parameters
    ----------
    estimator : object, optional
        A fitted regressor with ``predict``; None if scores and predictions are given.
    score : {"absolute", "signed", "normalized", "cqr"}
        |y - f(x)|; y - f(x) (the two tails apart, alpha / 2 each); |y - f(x)| / sigma(x) with sigma of
        ``predict(X, return_std=True)``; max(low - y, y - high), where ``predict`` gives two quantiles, (n, 2).

    Attributes
    ----------
    scores_ : float64 (n,)
        Of calibration, in the order given.

    See Also
    --------
    datumwise.predict.adapters.conformal_predict : CV+, jackknife+, CQR, RAPS through MAPIE and crepes.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LinearRegression
    >>> rng = np.random.default_rng(0)
    >>> x = rng.normal(size=(500, 1)); y = x[:, 0] + rng.normal(size=500)
    >>> model = LinearRegression().fit(x[:100], y[:100])
    >>> conformal = SplitConformalRegressor(model).calibrate(x[100:300], y[100:300])
    >>> interval = conformal.predict_interval(x[300:], alpha=0.1)
    >>> inside = (interval[:, 0] <= y[300:]) & (y[300:] <= interval[:, 1])
    >>> print(f"{inside.mean():.2f} of the targets inside, intervals {np.ptp(interval[0]):.2f} wide")
    0.93 of the targets inside, intervals 3.32 wide
    """

    def __init__(self, estimator: Any = None, score: str = "absolute") -> None:
        self.estimator = estimator
        self.score = score

    def calibrate(self, X: Any, y: Any, group: Any = None) -> Self:
        """Score the calibration rows.

        Parameters
        ----------
        X : array (n, d)
        y : float (n,)
        group : array (n,), optional
            A label a row, for guarantees within groups. It may depend on X, never on y.

        Returns
        -------
        self
        """
        return self.calibrate_scores(regression_scores(self.score, y, *self._predict(X)), group)

    def calibrate_scores(self, scores: Any, group: Any = None) -> Self:
        """Take calibration scores as they are: (n,), of the kind that ``score`` names."""
        scores = real_column(scores, "scores")
        if self.score not in REGRESSION_SCORES:
            raise UnknownName(f"there is no score {self.score!r}", remedy=f"choose one of {', '.join(REGRESSION_SCORES)}")
        if self.score in ("absolute", "normalized") and (negative := np.flatnonzero(scores < 0)).size:
            raise DatumwiseError(
                f"{self.score} scores cannot be negative; those of row {name_some(negative)} are",
                remedy="score='signed' takes residuals with their sign",
                ids=negative.tolist(),
            )
        self._groups = _Groups.of(scores, group)
        self.scores_ = scores
        return self

    def predict_interval(
        self, X: Any, alpha: float = 0.1, *, group: Any = None, side: str = "both", allow_infinite: bool = False
    ) -> np.ndarray:
        """An interval a row, each holding its target with probability at least 1 - alpha.

        Parameters
        ----------
        X : array (m, d)
        alpha : float
        group : array (m,), optional
            As in `calibrate`; a group that calibration has not seen has no calibration scores.
        side : {"both", "upper", "lower"}
            One-sided intervals need ``score="signed"`` and spend all of alpha on their side.
        allow_infinite : bool
            Infinite ends, with a warning, where n is too small; the default refuses and says how many are needed.

        Returns
        -------
        float64 (m, 2)
            Lower and upper ends.
        """
        _calibrated(self)
        prediction, scale = self._predict(X)
        return self.intervals(prediction, alpha, scale=scale, group=group, side=side, allow_infinite=allow_infinite)

    def intervals(
        self,
        prediction: Any,
        alpha: float = 0.1,
        *,
        scale: Any = None,
        group: Any = None,
        side: str = "both",
        allow_infinite: bool = False,
    ) -> np.ndarray:
        """As `predict_interval`, from predictions (m,), or (m, 2) for cqr, and for normalized scores scales (m,) > 0.

        Examples
        --------
        >>> conformal = SplitConformalRegressor(score="signed").calibrate_scores(range(-9, 10))
        >>> conformal.intervals([100.0], 0.2).tolist(), conformal.intervals([100.0], 0.2, side="upper").tolist()
        ([[92.0, 108.0]], [[-inf, 106.0]])
        """
        groups = _calibrated(self)
        alpha = check_alpha(alpha)
        if side not in SIDES:
            raise UnknownName(f"there is no side {side!r}", remedy=f"choose one of {', '.join(SIDES)}")
        if self.score != "signed" and side != "both":
            raise DatumwiseError(f"{self.score} scores do not know the two sides apart", remedy="use score='signed'")
        m = len(prediction)
        lower: Any = -np.inf
        upper: Any = np.inf
        share = alpha / 2 if self.score == "signed" and side == "both" else alpha
        if side != "lower":
            upper = groups.thresholds(share, m, group, "upper", allow_infinite)
        if self.score != "signed":
            return score_intervals(self.score, upper, prediction, scale)
        if side != "upper":
            lower = groups.thresholds(share, m, group, "lower", allow_infinite)
        return score_intervals(self.score, upper, prediction, scale, lower_threshold=lower)

    def _predict(self, X: Any) -> tuple[Any, Any]:
        """Prediction and scale, or None for scores that have no scale."""
        if self.estimator is None:
            raise DatumwiseError("there is no estimator to predict with", remedy="use calibrate_scores and intervals")
        if self.score == "normalized":
            prediction, scale = self.estimator.predict(X, return_std=True)
            return prediction, scale
        prediction = np.asarray(self.estimator.predict(X))
        flat = prediction.ndim == 2 and prediction.shape[1] == 1  # some regressors answer with a matrix
        return (prediction[:, 0] if flat else prediction), None


class SplitConformalClassifier(BaseEstimator):
    """Label sets that hold the true label of a new row with probability at least 1 - alpha, for any fitted classifier.

    The set is all labels whose score is at most S_(k), k = ceil((n + 1)(1 - alpha)) of the calibration scores.

    Parameters
    ----------
    estimator : object, optional
        A fitted classifier with ``predict_proba`` and ``classes_``; None if probabilities are given.
    score : {"lac", "aps", "raps"}
        As `label_scores`: smallest sets on average; sets that grow where the classifier hesitates; those without long tails.
    randomized : bool
        For aps and raps: one uniform draw a row, for coverage of 1 - alpha exactly instead of at least.
    class_conditional : bool
        A threshold of its own for every class: coverage of 1 - alpha for the rows of each class.
    penalty, free_rank : float, int
        Of raps. Fixed beforehand: chosen on the calibration rows they cost the guarantee.
    random_state : int, Generator or None
        For ``randomized``.

    Attributes
    ----------
    classes_ : array (K,)
        The columns of the sets.
    scores_ : float64 (n,)

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
    >>> x, y = load_digits(return_X_y=True)
    >>> rows = np.random.default_rng(0).permutation(len(x)); x, y = x[rows, 16:32], y[rows]  # two rows of pixels
    >>> model = LinearDiscriminantAnalysis().fit(x[:500], y[:500])
    >>> conformal = SplitConformalClassifier(model).calibrate(x[500:1000], y[500:1000])
    >>> sets = conformal.predict_set(x[1000:], alpha=0.1)
    >>> hit, size = sets[np.arange(len(sets)), y[1000:]], sets.sum(axis=1)
    >>> print(f"{hit.mean():.2f} of the labels inside; {size.min()} to {size.max()} labels a set, {size.mean():.2f} on average")
    0.91 of the labels inside; 1 to 6 labels a set, 1.95 on average
    """

    def __init__(
        self,
        estimator: Any = None,
        score: str = "lac",
        *,
        randomized: bool = False,
        class_conditional: bool = False,
        penalty: float = PENALTY,
        free_rank: int = FREE_RANK,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.score = score
        self.randomized = randomized
        self.class_conditional = class_conditional
        self.penalty = penalty
        self.free_rank = free_rank
        self.random_state = random_state

    def calibrate(self, X: Any, y: Any, group: Any = None) -> Self:
        """Score the true labels of the calibration rows.

        Parameters
        ----------
        X : array (n, d)
        y : array (n,)
            Labels, of the estimator's ``classes_``.
        group : array (n,), optional
            A label a row, for guarantees within groups.

        Returns
        -------
        self
        """
        return self.calibrate_probabilities(self._probabilities(X), y, group, classes=self.estimator.classes_)

    def calibrate_probabilities(self, probs: Any, y: Any, group: Any = None, *, classes: Any = None) -> Self:
        """As `calibrate`, from probabilities (n, K); ``classes`` names the columns, 0 .. K - 1 by default."""
        scores = self._label_scores(probs, "calibrate")
        names = np.arange(scores.shape[1]) if classes is None else np.asarray(classes)
        if names.shape != scores.shape[1:]:
            raise SchemaMismatch(f"{scores.shape[1]} columns of probabilities and classes of shape {names.shape}")
        codes = _class_codes(y, names, len(scores))
        return self._take(scores[np.arange(len(scores)), codes], group, codes, names)

    def calibrate_scores(self, scores: Any, group: Any = None, *, classes: Any = None) -> Self:
        """Take the true labels' scores (n,) as they are, of the kind that ``score`` names; not for ``class_conditional``."""
        if self.class_conditional:
            raise SchemaMismatch("class_conditional needs the labels of the scores", remedy="use calibrate_probabilities")
        return self._take(real_column(scores, "scores"), group, None, None if classes is None else np.asarray(classes))

    def predict_set(
        self, X: Any, alpha: float = 0.1, *, group: Any = None, allow_empty: bool = False, allow_infinite: bool = False
    ) -> np.ndarray:
        """A set of labels a row, each holding its label with probability at least 1 - alpha.

        Parameters
        ----------
        X : array (m, d)
        alpha : float
        group : array (m,), optional
        allow_empty : bool
            Keep empty sets. The default puts the likeliest label in, which cannot lower the coverage.
        allow_infinite : bool
            All labels, with a warning, where n is too small; the default refuses and says how many are needed.

        Returns
        -------
        bool (m, K)
            Columns as ``classes_``.
        """
        _calibrated(self)
        probs = self._probabilities(X)
        return self.sets(probs, alpha, group=group, allow_empty=allow_empty, allow_infinite=allow_infinite)

    def sets(
        self, probs: Any, alpha: float = 0.1, *, group: Any = None, allow_empty: bool = False, allow_infinite: bool = False
    ) -> np.ndarray:
        """As `predict_set`, from probabilities (m, K).

        Examples
        --------
        >>> conformal = SplitConformalClassifier().calibrate_scores([0.1, 0.2, 0.3, 0.6])
        >>> conformal.sets([[0.8, 0.1, 0.1], [0.5, 0.4, 0.1]], alpha=0.2).astype(int).tolist()
        [[1, 0, 0], [1, 1, 0]]
        """
        groups = _calibrated(self)
        alpha = check_alpha(alpha)
        scores = self._label_scores(probs, "predict")
        m, k = scores.shape
        if self.classes_ is not None and k != len(self.classes_):
            raise SchemaMismatch(f"calibrated on {len(self.classes_)} classes and asked for {k}")
        if self.class_conditional:
            self._no_group(group)
            thresholds: Any = groups.thresholds(alpha, k, np.arange(k), "upper", allow_infinite)  # (K,)
        else:
            thresholds = groups.thresholds(alpha, m, group, "upper", allow_infinite)[:, None]
        return label_sets(scores, thresholds, allow_empty=allow_empty)

    def _take(self, scores: np.ndarray, group: Any, codes: np.ndarray | None, names: np.ndarray | None) -> Self:
        if self.class_conditional:
            self._no_group(group)
            group = codes
        self._groups = _Groups.of(scores, group)
        self.scores_, self.classes_ = scores, names
        return self

    def _no_group(self, group: Any) -> None:
        if group is not None:
            raise SchemaMismatch("class_conditional groups by class already", remedy="leave group out, or class_conditional")

    def _probabilities(self, X: Any) -> np.ndarray:
        if self.estimator is None:
            raise DatumwiseError("there is no estimator to predict with", remedy="use calibrate_probabilities and sets")
        return np.asarray(self.estimator.predict_proba(X))

    def _label_scores(self, probs: Any, step: str) -> np.ndarray:
        """float64 (n, K)."""
        uniform = None
        if self.randomized and self.score != "lac":
            seed = self.random_state
            if seed is not None and not isinstance(seed, np.random.Generator):
                seed = [seed, int(step == "predict")]  # draws of their own, and the same ones at every call
            uniform = np.random.default_rng(seed).random(len(probs))
        return label_scores(self.score, probs, uniform=uniform, penalty=self.penalty, free_rank=self.free_rank)


class _Groups:
    """Calibration scores sorted within groups, and the order statistics asked of them."""

    def __init__(self, scores: np.ndarray, starts: np.ndarray, index: dict[Hashable, int] | None) -> None:
        self.scores, self.starts, self.index = scores, starts, index  # (n,), (G + 1,), label -> place

    @classmethod
    def of(cls, scores: np.ndarray, group: Any) -> _Groups:
        if group is None:
            return cls(np.sort(scores), np.array([0, len(scores)]), None)
        labels, places = _group_labels(group, len(scores), "calibration scores")
        counts = np.bincount(places, minlength=len(labels))
        index = {label: place for place, label in enumerate(labels)}
        order = np.argsort(scores)
        if len(labels) <= np.iinfo(np.uint16).max:  # such whole numbers numpy sorts by counting
            places = places.astype(np.uint16)
        order = order[np.argsort(places[order], kind="stable")]
        return cls(scores[order], np.concatenate(([0], np.cumsum(counts))), index)

    def thresholds(self, alpha: float, m: int, group: Any, side: str, allow_infinite: bool) -> np.ndarray:
        """float64 (m,): the bound of every new row, by its group."""
        if (self.index is None) != (group is None):
            had, got = ("without", "with") if self.index is None else ("with", "without")
            raise SchemaMismatch(f"calibrated {had} groups and asked {got}", remedy="give group to both or to neither")
        if self.index is None:
            labels: Sequence[Hashable] = ["all"]
            known = np.zeros(1, np.int64)
        else:
            labels, places = _group_labels(group, m, "rows")
            known = np.array([self.index.get(label, -1) for label in labels], np.int64)
        counts = np.where(known < 0, 0, np.diff(self.starts)[known])
        ranks = _ranks(counts, alpha, side)
        infinite = (ranks == 0) | (ranks == counts + 1)
        if infinite.any():
            self._too_few([labels[i] for i in np.flatnonzero(infinite).tolist()], counts[infinite], alpha, side, allow_infinite)
        at = np.clip(self.starts[known] + ranks - 1, 0, len(self.scores) - 1)  # clipped where infinite, overwritten below
        bounds = np.where(infinite, np.inf if side == "upper" else -np.inf, self.scores[at])
        return np.broadcast_to(bounds, m) if self.index is None else bounds[places]

    def _too_few(self, labels: Sequence[Hashable], counts: np.ndarray, alpha: float, side: str, allow_infinite: bool) -> None:
        need = math.ceil(1 / alpha - 1 - SLACK / alpha)
        fewest = int(counts.min())
        where = "" if self.index is None else f" of group {name_some(labels)}"
        what = f"{fewest} calibration scores{where} give no finite bound at alpha = {alpha:g}"
        got = f"need n >= {need}; got n = {fewest}"
        if not allow_infinite:
            raise DatumwiseError(what, remedy=got, ids=list(labels) if self.index is not None else ())
        warnings.warn(f"{what}: {got}; the bound is infinite", stacklevel=4)


def _ranks(n: np.ndarray, alpha: float, side: str) -> np.ndarray:
    """int64: `conformal_rank` of every n."""
    if side == "upper":
        return np.ceil((n + 1) * (1 - alpha - SLACK)).astype(np.int64)
    if side == "lower":
        return np.floor((n + 1) * (alpha + SLACK)).astype(np.int64)
    raise UnknownName(f"there is no side {side!r}", remedy="choose upper or lower")


def _calibrated(predictor: Any) -> _Groups:
    if not hasattr(predictor, "scores_"):
        raise NotFittedError(f"this {type(predictor).__name__} is not calibrated: call calibrate(X, y) first")
    groups: _Groups = predictor._groups
    return groups


def _class_codes(y: Any, names: np.ndarray, n: int) -> np.ndarray:
    """int64 (n,): the column of each label."""
    y = np.asarray(y)
    if y.shape != (n,):
        raise SchemaMismatch(f"{n:,} rows of probabilities and labels of shape {y.shape}")
    column = {name: code for code, name in enumerate(names.tolist())}
    labels, places = np.unique(y, return_inverse=True)
    codes = np.array([column.get(label, -1) for label in labels.tolist()], np.int64)
    if (codes < 0).any():
        strange = labels[codes < 0].tolist()
        raise LabelError(f"the classifier knows no class {name_some(strange)}", remedy="use its own labels", ids=strange)
    return codes[places]


def _group_labels(group: Any, n: int, of: str) -> tuple[list[Hashable], np.ndarray]:
    """The distinct labels and, for every row, the place of its own: int64 (n,)."""
    group = np.asarray(group)
    if group.ndim != 1 or len(group) != n:
        raise SchemaMismatch(f"group must be one label a row: {n:,} {of}, group of shape {group.shape}")
    missing = np.flatnonzero(group != group)  # NaN alone differs from itself
    if group.dtype.kind == "O":
        missing = np.flatnonzero([label is None or label != label for label in group])
    if missing.size:
        raise NotFinite(f"group of row {name_some(missing)} is missing", ids=missing.tolist())
    labels, places = np.unique(group, return_inverse=True)
    return labels.tolist(), places
