"""What can be promised about a whole batch of new datapoints? Intervals, label sets, means, quantiles, bands, selections.

Source: Lee, Tchetgen Tchetgen and Dobriban, 2024, *Batch Predictive Inference*, arXiv 2409.13990. Beyond it: two-sided
intervals of signed scores, label sets, quantiles and bands of the outcomes themselves (derived, see the functions).
"""

from __future__ import annotations

import copy
import math
import numbers
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator, is_classifier
from sklearn.exceptions import NotFittedError

from datumwise.errors import DatumwiseError, LabelError, ModelMismatch, NotFinite, SchemaMismatch, UnknownName, name_some
from datumwise.predict.answers import Answer, column_of
from datumwise.predict.batch_bounds import (
    batch_function_bound,
    batch_quantile_bound,
    batch_sum_bound,
    cdf_band,
    checked_scores,
)
from datumwise.predict.batch_plan import BatchPlan, batch_plan
from datumwise.predict.batch_results import BatchBand, BatchBound, BatchIntervals, BatchSets, label_codes
from datumwise.predict.inputs import aligned_ids, batch_size, real_column
from datumwise.predict.order_statistics import (
    check_alpha,
    order_statistic_rank,
    rank_pmf,
    required_calibration_size,
    whole_number,
)
from datumwise.predict.outcome_bounds import outcome_band, outcome_quantile
from datumwise.predict.scores import (
    FREE_RANK,
    LABEL_SCORES,
    PENALTY,
    REGRESSION_SCORES,
    label_scores,
    label_sets,
    regression_scores,
    score_intervals,
    score_limits,
)
from datumwise.predict.selection import (
    FalseClaimCurve,
    SelectionResult,
    claim_margin,
    false_claim_curve,
    null_scores,
    select_count,
    select_fdr,
)
from datumwise.predict.shift import effective_size, estimate_weights, reject_to_target, shift_weight_column

__all__ = ["BatchConformal"]

Side = Literal["both", "upper", "lower"]
About = Literal["auto", "outcome", "score"]
SIDES = ("both", "upper", "lower")


class BatchConformal(BaseEstimator):
    """Statements about a whole batch of m new datapoints, each with probability at least 1 - alpha.

    Calibration points and batch must be exchangeable and the model fitted on other data. Nothing else is assumed of model
    or data. The probability is over calibration points and batch together, not given the calibration points; with one
    calibration set for many batches each statement holds by itself. Fix alpha, delta and what is asked before looking at
    the calibration scores.

    Parameters
    ----------
    estimator : fitted model, optional
        Any object with ``predict`` (also ``predict(X, return_std=True)`` for "normalized", a pair of models or a
        prediction (n, 2) for "cqr") or, for label sets, ``predict_proba`` and ``classes_``. It is not fitted again. None
        where only scores are at hand.
    score : {"absolute", "signed", "normalized", "cqr", "lac", "aps", "raps"} or callable
        See `datumwise.predict.scores`. A callable ``score(estimator, X, y) -> (n,)`` needs ``invert`` for intervals.
    score_bounds : (float, float), optional
        Values that no score can leave, known beforehand. By default those of the score, (0, inf) for "absolute".
    random_state : int, Generator or None
        Draws what rejection keeps and, with ``randomize``, the draws of "aps" and "raps".
    randomize : bool, default True
        "aps" and "raps" as published, with one uniform draw a datapoint. Without the draws sets do not depend on random_state
        and are larger, up to all labels where probabilities are close to 0 and 1.
    penalty, free_rank : float, int
        lambda and k_reg of "raps".
    invert : callable (estimator, X, threshold) -> (m, 2), optional
        The outcomes whose score is at most the threshold, for a callable score.

    Attributes
    ----------
    scores_ : float64 (n,)
        Of the calibration points, those that rejection kept.
    n_effective_ : float
        Calibration points that rejection keeps on average; n without shift weights.
    kept_ : int64 (n,)
        Their places among the points given.
    bounds_ : (float, float)
        Of the score.
    validity_ : str
        "exact", or what a level rests on.

    Examples
    --------
    >>> from sklearn.datasets import load_diabetes
    >>> from sklearn.linear_model import Ridge
    >>> X, y = load_diabetes(return_X_y=True)
    >>> order = np.random.default_rng(0).permutation(len(y))
    >>> train, calibration, batch = order[:200], order[200:342], order[342:]
    >>> model = BatchConformal(Ridge(0.1).fit(X[train], y[train])).calibrate(X[calibration], y[calibration])
    >>> found = model.predict_interval(X[batch], alpha=0.1, delta=0.1)
    >>> print(found)
    with probability at least 0.9, at least 90 of these 100 intervals hold the truth (n = 142)
    >>> int(found.covered(y[batch]).sum()), round(float(found.width[0]))
    (92, 194)
    """

    def __init__(
        self,
        estimator: Any = None,
        score: str | Callable[[Any, Any, np.ndarray], Any] = "absolute",
        score_bounds: tuple[float, float] | None = None,
        random_state: Any = None,
        *,
        randomize: bool = True,
        penalty: float = PENALTY,
        free_rank: int = FREE_RANK,
        invert: Callable[[Any, Any, float], Any] | None = None,
    ) -> None:
        self.estimator = estimator
        self.score = score
        self.score_bounds = score_bounds
        self.random_state = random_state
        self.randomize = randomize
        self.penalty = penalty
        self.free_rank = free_rank
        self.invert = invert

    # calibration

    def calibrate(
        self,
        X: Any,
        y: Any,
        *,
        shift_weights: Any = None,
        bound: float | None = None,
        shift_target: Any = None,
    ) -> BatchConformal:
        """Score labelled points that the model was not fitted on.

        Parameters
        ----------
        X : array or data frame (n, ...)
        y : (n,)
        shift_weights : float (n,), callable X -> (n,), or ShiftWeights, optional
            w = dQ/dP of the population Q that batches come from, up to a factor. A point is kept with probability
            w / bound, once, here; only those kept are calibration points.
        bound : float, optional
            M, the largest that w can be in the population.
        shift_target : array or data frame (t, ...), optional
            Instead of weights: unlabelled points of Q. The weights are then estimated (`estimate_weights`), every
            statement holds approximately only, and ``validity_`` says so.

        Returns
        -------
        self
        """
        answer = self._answer(X)
        n = batch_size(X)
        outcome = np.asarray(y)
        if outcome.shape != (n,):
            raise SchemaMismatch(f"{n:,} calibration points and y of shape {outcome.shape} do not fit together")
        calibrating, predicting = self._streams()
        if self.score in LABEL_SCORES:
            codes = label_codes(outcome, answer.classes)
            scores = self._label_scores(answer.probs, calibrating)[np.arange(n), codes]
        elif callable(self.score):
            scores = real_column(self.score(self.estimator, X, outcome), "scores", infinite="yes")
        else:
            outcome = real_column(outcome, "y")
            scores = regression_scores(self.score, outcome, answer.prediction, answer.scale)
        if shift_target is not None:
            if shift_weights is not None:
                raise DatumwiseError("shift_weights and shift_target were both given", remedy="give one")
            shift_weights = estimate_weights(X, shift_target, bound=bound, random_state=calibrating)
        self._take(scores, answer, outcome, shift_weights, bound, X, calibrating)
        self._prediction_seed = int(predicting.integers(2**63))
        return self

    def calibrate_scores(self, scores: Any, *, shift_weights: Any = None, bound: float | None = None) -> BatchConformal:
        """Take calibration scores as they are: (n,), of the kind that ``score`` names, or any if no rows are predicted.

        Afterwards X may be the whole number m in every method, and statements speak of scores.
        """
        column, _, _ = checked_scores(scores)
        calibrating, predicting = self._streams()
        self._take(column, None, None, shift_weights, bound, None, calibrating)
        self._prediction_seed = int(predicting.integers(2**63))
        return self

    # intervals and sets

    def predict_interval(
        self,
        X: Any,
        alpha: float = 0.1,
        delta: float = 0.1,
        min_covered: int | None = None,
        *,
        side: Side = "both",
        ids: Any = None,
        allow_infinite: bool = False,
    ) -> BatchIntervals:
        """Intervals of which at least a share 1 - delta of the batch holds the truth, with probability >= 1 - alpha.

        Parameters
        ----------
        X : array or data frame (m, ...), or int m
            With a whole number the intervals are of the score.
        alpha : float
            Allowed probability that fewer hold.
        delta : float, default 0.1
            Share of the batch that may be missed: at least m - floor(delta m) hold. 0: all of them.
        min_covered : int, optional
            Overrides delta: at least so many hold.
        side : {"both", "upper", "lower"}
            One-sided intervals, with infinite other ends, need ``score="signed"``. Its two-sided intervals lie between two
            order statistics with equally many calibration scores outside on both sides.
        ids : (m,), optional
            The index of a data frame by default.
        allow_infinite : bool, default False
            Where n is too small, give infinite ends with a warning instead of refusing.

        Returns
        -------
        BatchIntervals
            Reads as float64 (m, 2).

        Raises
        ------
        DatumwiseError
            alpha, delta or min_covered out of range; n too small, with the n that is needed.

        Notes
        -----
        One sided: the threshold is S_(k), k = `order_statistic_rank`(n, m, z, alpha), z = m - floor(delta m). Two sided and
        signed: the numbers of new scores in the n + 1 cells between calibration scores are exchangeable, so any k
        neighbouring cells hold at least z of them with the probability that the first k do, which is P(R_z <= k).
        """
        alpha = check_alpha(alpha)
        m, answer = self._batch(X)
        z = _least(m, delta, min_covered)
        if side not in SIDES:
            raise UnknownName(f"there is no side {side!r}", remedy=f"choose one of {', '.join(SIDES)}")
        if side != "both" and self.score != "signed":
            raise DatumwiseError(f"score {self.score!r} does not know the two sides apart", remedy="use score='signed'")
        if self.score in LABEL_SCORES and answer is not None:
            raise ModelMismatch(f"score {self.score!r} gives label sets, not intervals", remedy="use predict_set")
        n = len(self.scores_)
        S = self._order_statistics()
        k = order_statistic_rank(n, m, z, alpha)
        two = side == "both" and self.score == "signed"
        first = (n + 1 - k) // 2 if two else n + 1 - k if side == "lower" else 0
        last = n + 1 if side == "lower" else first + k
        low, high = float(S[first]), float(S[last])
        binding = ([low] if two or side == "lower" else []) + ([high] if side != "lower" else [])
        if not np.isfinite(binding).all():
            self._refuse_infinite(
                _two_sided_size(m, alpha, z) if two else required_calibration_size(m, alpha, z=z), allow_infinite
            )
        if answer is None:
            ends = np.tile([low, high], (m, 1))
            middle = np.full(m, np.nan)
        elif callable(self.score):
            ends, middle = self._inverted(X, high, m), answer.middle(m)
        else:
            lower_threshold = low if self.score == "signed" else None
            ends = score_intervals(self.score, high, answer.prediction, answer.scale, lower_threshold=lower_threshold)
            middle = answer.middle(m)
        return BatchIntervals(
            lower=ends[:, 0],
            upper=ends[:, 1],
            prediction=middle,
            ids=aligned_ids(ids, X, m),
            min_covered=z,
            alpha=alpha,
            n=n,
            threshold=high,
            rank=k,
            exact_level=float(rank_pmf(n, m, z)[:k].sum()),
            lower_threshold=low,
            validity=self.validity_,
        )

    def predict_set(
        self,
        X: Any,
        alpha: float = 0.1,
        delta: float = 0.1,
        min_covered: int | None = None,
        *,
        ids: Any = None,
        allow_empty: bool = False,
        allow_infinite: bool = False,
    ) -> BatchSets:
        """Sets of labels of which at least a share 1 - delta of the batch holds the truth, with probability >= 1 - alpha.

        Parameters are those of `predict_interval`, and ``allow_empty`` of `datumwise.predict.scores.label_sets`.

        Returns
        -------
        BatchSets
            Reads as bool (m, K).

        Examples
        --------
        >>> from sklearn.datasets import load_digits
        >>> from sklearn.naive_bayes import GaussianNB
        >>> X, y = load_digits(return_X_y=True)
        >>> order = np.random.default_rng(0).permutation(len(y))
        >>> train, calibration, batch = order[:600], order[600:1100], order[1100:1200]
        >>> model = BatchConformal(GaussianNB(var_smoothing=0.1).fit(X[train], y[train]), score="lac")
        >>> found = model.calibrate(X[calibration], y[calibration]).predict_set(X[batch], alpha=0.05, delta=0.05)
        >>> print(found)
        with probability at least 0.95, at least 95 of these 100 label sets hold the truth (n = 500)
        >>> int(found.covered(y[batch]).sum()), round(float(found.sizes.mean()), 2)
        (98, 1.39)
        """
        if self.score not in LABEL_SCORES:
            raise ModelMismatch(f"score {self.score!r} gives intervals, not label sets", remedy="use predict_interval")
        alpha = check_alpha(alpha)
        m, answer = self._batch(X)
        if answer is None:
            raise SchemaMismatch("label sets need the rows of the batch, not their number")
        z = _least(m, delta, min_covered)
        n = len(self.scores_)
        k = order_statistic_rank(n, m, z, alpha)
        if k > n:  # every label of every point: true, and says nothing
            self._refuse_infinite(required_calibration_size(m, alpha, z=z), allow_infinite)
        threshold = float(self._order_statistics()[k])
        table = self._label_scores(answer.probs, np.random.default_rng(self._prediction_seed))
        return BatchSets(
            members=label_sets(table, threshold, allow_empty=allow_empty),
            classes=answer.classes,
            ids=aligned_ids(ids, X, m),
            min_covered=z,
            alpha=alpha,
            n=n,
            threshold=threshold,
            rank=k,
            exact_level=float(rank_pmf(n, m, z)[:k].sum()),
            validity=self.validity_,
        )

    # numbers that describe the batch

    def predict_batch(
        self,
        X: Any,
        statistic: str | tuple[str, float] | Callable[[np.ndarray], float] = "mean",
        alpha: float = 0.1,
        *,
        side: Side = "both",
        about: About = "auto",
        method: str = "auto",
        solver: str = "auto",
        reference_scores: Any = None,
        min_covered: int | tuple[int, int] | None = None,
        direction: Literal["increasing", "decreasing"] | None = None,
        allow_infinite: bool = False,
        **options: Any,
    ) -> BatchBound:
        """Bounds of one number that describes the batch, which hold with probability at least 1 - alpha.

        Parameters
        ----------
        X : array or data frame (m, ...), or int m
        statistic : {"mean", "sum", "median"}, ("quantile", p) or callable (m,) -> float
            The quantile is the ceil(p m)-th smallest. A callable must be symmetric and rise, or fall, with every value.
        alpha : float
            Both sides together.
        side : {"both", "upper", "lower"}
        about : {"auto", "outcome", "score"}
            What the number is of. "auto": the outcomes for ``score="signed"``, else the scores, so that with "absolute" the
            mean is the batch's mean absolute error.
        method : {"auto", "partition", "shaped", "rank_sum"}
            For mean and sum, see `datumwise.predict.batch_bounds.batch_sum_bound`; "auto" decides from n, m and alpha. For a
            callable, see `datumwise.predict.batch_bounds.batch_function_bound`.
        solver : {"auto", "exact", "envelope"}
            For mean and sum.
        reference_scores : float (r,), optional
            Scores of training or other independent data, never of the calibration points, for "shaped".
        min_covered : int or (int, int), optional
            For a quantile of outcomes, see `datumwise.predict.outcome_bounds.outcome_quantile`.
        direction : {"increasing", "decreasing"}, optional
            Of a callable; it must be said.
        allow_infinite : bool, default False
            Where n is too small for a finite bound, give an infinite one with a warning.
        **options
            For a callable, those of `datumwise.predict.batch_bounds.batch_function_bound`.

        Returns
        -------
        BatchBound

        Raises
        ------
        DatumwiseError
            A level out of range; n too small; no direction of a callable; calibration scores given as reference.

        Notes
        -----
        With signed scores y = prediction + score, so mean(y) = mean(prediction) + mean(score) and bounds add. A quantile does
        not split like that.

        Examples
        --------
        The mean outcome of 10 points, from 300 calibration points:

        >>> from sklearn.linear_model import LinearRegression
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(500, 1)); y = 3 * x[:, 0] + rng.standard_t(4, size=500)
        >>> model = BatchConformal(LinearRegression().fit(x[:190], y[:190]), score="signed")
        >>> found = model.calibrate(x[190:490], y[190:490]).predict_batch(x[490:], "mean", alpha=0.1)
        >>> bool(found.lower < y[490:].mean() < found.upper), found.upper - found.lower < 2
        (True, True)
        """
        alpha = check_alpha(alpha)
        m, answer = self._batch(X)
        centre = self._centre(about, answer, callable(statistic))
        of = "score" if centre is None else "outcome"
        if reference_scores is not None and statistic not in ("mean", "sum"):
            raise DatumwiseError("reference_scores shape the bound of a mean or a sum only", remedy="leave them out")
        if side not in SIDES:
            raise UnknownName(f"there is no side {side!r}", remedy=f"choose one of {', '.join(SIDES)}")
        if direction is not None and not callable(statistic):
            raise DatumwiseError(f"direction belongs to a callable statistic, not to {statistic!r}")
        common: dict[str, Any] = {"side": side, "score_bounds": self.bounds_}
        if callable(statistic):
            if direction is None:
                raise DatumwiseError(
                    "a callable statistic needs its direction",
                    remedy="say direction='increasing' if it never falls when a value rises, or 'decreasing'",
                )
            found = batch_function_bound(
                self.scores_,
                m,
                alpha,
                statistic,
                direction=direction,
                method=method,  # type: ignore[arg-type]
                allow_infinite=allow_infinite,
                **common,
                **options,
            )
            return BatchBound.from_interval(found, of, self.validity_)
        if options:
            raise UnknownName(f"statistic {statistic!r} has no option {', '.join(options)}")
        if statistic in ("mean", "sum"):
            found = batch_sum_bound(
                self.scores_,
                m,
                alpha,
                statistic=statistic,  # type: ignore[arg-type]
                method=method,  # type: ignore[arg-type]
                solver=solver,  # type: ignore[arg-type]
                reference_scores=reference_scores,
                allow_infinite=allow_infinite,
                **common,
            )
            if centre is not None:
                found = found.shift(float(centre.mean() if statistic == "mean" else centre.sum()))
            return BatchBound.from_interval(found, of, self.validity_)
        z = _quantile_place(m, statistic)
        if centre is not None:
            found = outcome_quantile(
                self.scores_,
                centre,
                z,
                alpha,
                side=side,
                min_covered=min_covered,
                score_bounds=self.bounds_,
                allow_infinite=allow_infinite,
            )
        else:
            found = batch_quantile_bound(self.scores_, m, z, alpha, allow_infinite=allow_infinite, **common)
        name = "median" if statistic == "median" else f"{float(statistic[1]):g} quantile"
        return BatchBound.from_interval(replace(found, statistic=name), of, self.validity_)

    def predict_band(self, X: Any, alpha: float = 0.1, *, about: About = "auto") -> BatchBand:
        """Bounds of the lowest, second lowest, ... highest of the batch, all of which hold with probability >= 1 - alpha.

        Parameters
        ----------
        X : array or data frame (m, ...), or int m
        alpha : float
        about : {"auto", "outcome", "score"}
            As in `predict_batch`.

        Returns
        -------
        BatchBand
            Reads as float64 (m, 2), nondecreasing. Ends are infinite where n is too small to say anything.

        Examples
        --------
        >>> scores = np.random.default_rng(0).random(99)
        >>> band = BatchConformal(score="signed", score_bounds=(0, 1)).calibrate_scores(scores).predict_band(3, alpha=0.2)
        >>> np.asarray(band).round(2).tolist()
        [[0.0, 0.72], [0.12, 0.93], [0.4, 1.0]]
        """
        alpha = check_alpha(alpha)
        m, answer = self._batch(X)
        centre = self._centre(about, answer, False)
        band = cdf_band(self.scores_, m, alpha, score_bounds=self.bounds_)
        if centre is not None:
            band = outcome_band(band, centre)
        return BatchBand(
            band[:, 0], band[:, 1], "score" if centre is None else "outcome", alpha, len(self.scores_), self.validity_
        )

    # selection

    def select(
        self,
        X: Any,
        threshold: Any = None,
        alpha: float = 0.1,
        max_false: int = 0,
        control: Literal["count", "fdr"] = "count",
        *,
        side: Literal["above", "below"] = "above",
        positive: Any = None,
        calibration_threshold: Any = None,
        ids: Any = None,
        allow_infinite: bool = False,
    ) -> SelectionResult:
        """Points that can be claimed to lie beyond the threshold, with few false claims.

        Parameters
        ----------
        X : array or data frame (m, ...)
        threshold : float or float (m,)
            The claim of a point is y > threshold.
        alpha : float
        max_false : int, default 0
            With control="count": P(more than so many claims are false) <= alpha.
        control : {"count", "fdr"}
            "fdr": the expected share of false claims among those selected is at most alpha.
        side : {"above", "below"}
            "below": the claim is y < threshold.
        positive : label, optional
            For a classifier, instead of a threshold: the claim is that the label is this one; points are ranked by its
            probability.
        calibration_threshold : float (n,), optional
            Own thresholds of the calibration points, in the order given to `calibrate`; needed with several thresholds.
        ids, allow_infinite
            As in `select_count`.

        Returns
        -------
        SelectionResult

        Examples
        --------
        >>> from sklearn.linear_model import LinearRegression
        >>> rng = np.random.default_rng(0)
        >>> x = rng.normal(size=(1300, 1)); y = x[:, 0] + rng.normal(size=1300) / 2
        >>> model = BatchConformal(LinearRegression().fit(x[:200], y[:200])).calibrate(x[200:1200], y[200:1200])
        >>> found = model.select(x[1200:], threshold=0.5, alpha=0.1, max_false=3)
        >>> print(found)
        22 of 100 points are selected; with probability at least 0.9, at most 3 claims are false (n = 1,000)
        >>> int((y[1200:][found.selected] <= 0.5).sum())
        1
        """
        calibration, test = self._claims(X, threshold, side, positive, calibration_threshold)
        ids = aligned_ids(ids, X, len(test))
        if control == "count":
            found = select_count(calibration, test, alpha, max_false, ids=ids, allow_infinite=allow_infinite)
        elif control == "fdr":
            found = select_fdr(calibration, test, alpha, ids=ids, allow_infinite=allow_infinite)
        else:
            raise UnknownName(f"there is no control {control!r}", remedy="choose count or fdr")
        return replace(found, validity=self.validity_)

    def select_curve(
        self,
        X: Any,
        threshold: Any = None,
        alpha: float = 0.1,
        *,
        side: Literal["above", "below"] = "above",
        positive: Any = None,
        calibration_threshold: Any = None,
        ids: Any = None,
    ) -> FalseClaimCurve:
        """Upper bounds of the false claims at every cutoff together, so that one can be chosen after looking.

        Parameters are those of `select`; see `datumwise.predict.selection.false_claim_curve`.
        """
        calibration, test = self._claims(X, threshold, side, positive, calibration_threshold)
        found = false_claim_curve(calibration, test, alpha, ids=aligned_ids(ids, X, len(test)))
        return replace(found, validity=self.validity_)

    # planning

    def plan(self, m: int, alpha: float = 0.1, delta: float = 0.1, max_false: int = 0) -> BatchPlan:
        """Which statements about a batch of m these calibration points can make, and how many the others need.

        Examples
        --------
        >>> plan = BatchConformal().calibrate_scores(np.arange(50.0)).plan(20)
        >>> [(one.needed, one.possible) for one in plan.statements[1:3]]
        [(22, True), (180, False)]
        """
        return batch_plan(len(self._check_calibrated().scores_), m, alpha, delta=delta, max_false=max_false)

    def subset(self, rows: Any) -> BatchConformal:
        """The same with only these of its calibration points: int or bool, places in ``scores_``.

        Examples
        --------
        >>> BatchConformal().calibrate_scores([3.0, 1.0, 2.0]).subset([0, 2]).scores_.tolist()
        [3.0, 2.0]
        """
        self._check_calibrated()
        chosen = np.arange(len(self.scores_))[rows]
        part = copy.copy(self)
        part.scores_ = self.scores_[chosen]
        part.kept_ = self.kept_[chosen]
        part.n_effective_ = self.n_effective_ * len(chosen) / len(self.scores_)
        part._answers = None if self._answers is None else self._answers.rows(chosen)
        part._outcomes = None if self._outcomes is None else self._outcomes[chosen]
        return part

    # inside

    def _streams(self) -> tuple[np.random.Generator, np.random.Generator]:
        """Two independent generators: draws of the batch must not repeat those of the calibration points."""
        first, second = np.random.default_rng(self.random_state).spawn(2)
        return first, second

    def _take(
        self,
        scores: np.ndarray,
        answers: Answer | None,
        outcomes: np.ndarray | None,
        weights: Any,
        bound: float | None,
        X: Any,
        rng: np.random.Generator,
    ) -> None:
        classes = 0 if answers is None or answers.classes is None else len(answers.classes)
        limits = self._limits(classes)
        checked_scores(scores, limits)
        n = len(scores)
        kept, effective, validity = np.arange(n), float(n), "exact"
        if weights is not None:
            column, limit, validity = shift_weight_column(weights, bound, X, n)
            kept = np.flatnonzero(reject_to_target(column, limit, rng))
            effective = effective_size(column, limit)
        elif bound is not None:
            raise DatumwiseError("bound belongs to shift_weights, which were not given")
        self.scores_, self.kept_, self.n_effective_ = scores[kept], kept, effective
        self.bounds_, self.validity_ = limits, validity
        self._given = n
        self._answers = None if answers is None else answers.rows(kept)
        self._outcomes = None if outcomes is None else outcomes[kept]

    def _limits(self, n_classes: int) -> tuple[float, float]:
        self._check_score()
        if self.score_bounds is None:
            if callable(self.score):
                return -np.inf, np.inf
            if self.score == "raps" and not n_classes:  # scores alone do not tell the number of classes
                return 0.0, np.inf
            return score_limits(self.score, n_classes or None, penalty=self.penalty, free_rank=self.free_rank)
        try:
            low, high = (float(end) for end in self.score_bounds)
        except (TypeError, ValueError):
            low = high = math.nan
        if not low < high:
            raise DatumwiseError(f"score_bounds = {self.score_bounds!r}", remedy="give (low, high) with low < high")
        return low, high

    def _check_score(self) -> None:
        known = (*REGRESSION_SCORES, *LABEL_SCORES)
        if not callable(self.score) and self.score not in known:
            raise UnknownName(f"there is no score {self.score!r}", remedy=f"choose one of {', '.join(known)} or a callable")

    def _check_calibrated(self) -> BatchConformal:
        if not hasattr(self, "scores_"):
            raise NotFittedError("this BatchConformal is not calibrated: call calibrate(X, y) or calibrate_scores(scores)")
        return self

    def _batch(self, X: Any) -> tuple[int, Answer | None]:
        self._check_calibrated()
        if isinstance(X, numbers.Integral):
            return whole_number(X, "m", 1), None
        if np.ndim(X) == 0 and not hasattr(X, "shape"):
            raise SchemaMismatch(f"X must be the rows of a batch or their number, not {X!r}")
        m = batch_size(X)
        answer = self._answer(X)
        if answer.length not in (None, m):
            raise ModelMismatch(f"the model gave {answer.length:,} answers for {m:,} rows")
        return m, answer

    def _answer(self, X: Any) -> Answer:
        """What the model says of the rows of X, as the score needs it."""
        self._check_score()
        if self.estimator is None and not callable(self.score):
            raise DatumwiseError("there is no estimator to predict with", remedy="use calibrate_scores and X = m")
        if self.score in LABEL_SCORES:
            return Answer.of_classifier(self.estimator, X)
        if self.score == "normalized":
            prediction, scale = self.estimator.predict(X, return_std=True)
            return Answer(column_of(prediction), column_of(scale))
        if self.score == "cqr":
            pair = isinstance(self.estimator, tuple | list)
            ends = np.column_stack([column_of(e.predict(X)) for e in self.estimator]) if pair else self.estimator.predict(X)
            return Answer(np.asarray(ends))
        if callable(self.score):
            return Answer(None if self.estimator is None else column_of(self.estimator.predict(X)))
        if hasattr(self.estimator, "__sklearn_tags__") and is_classifier(
            self.estimator
        ):  # labels that happen to be numbers must not pass for a regression
            raise ModelMismatch(f"score {self.score!r} is of numbers, and this is a classifier", remedy="score='lac' or 'aps'")
        return Answer(column_of(self.estimator.predict(X)))

    def _label_scores(self, probs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        uniform = rng.random(len(probs)) if self.randomize and self.score != "lac" else None
        return label_scores(str(self.score), probs, uniform=uniform, penalty=self.penalty, free_rank=self.free_rank)

    def _order_statistics(self) -> np.ndarray:
        """float64 (n + 2,): S_(0) .. S_(n+1)."""
        return np.concatenate([[self.bounds_[0]], np.sort(self.scores_), [self.bounds_[1]]])

    def _refuse_infinite(self, needed: int, allow_infinite: bool) -> None:
        n = len(self.scores_)
        if not allow_infinite:
            raise DatumwiseError(
                f"need n >= {needed:,}; got n = {n:,} calibration points",
                remedy="promise less (larger delta, smaller min_covered, larger alpha), or allow_infinite=True",
            )
        warnings.warn(f"need n >= {needed:,}, got n = {n:,}: the bound says nothing", UserWarning, stacklevel=3)

    def _inverted(self, X: Any, threshold: float, m: int) -> np.ndarray:
        if self.invert is None:
            raise DatumwiseError("a callable score needs invert= for intervals", remedy="use predict_batch, or give invert")
        ends = np.asarray(self.invert(self.estimator, X, threshold), np.float64)
        if ends.shape != (m, 2):
            raise SchemaMismatch(f"invert must give low and high ends ({m}, 2); got shape {ends.shape}")
        if np.isnan(ends).any():
            raise NotFinite(f"invert gave NaN in row {name_some(np.flatnonzero(np.isnan(ends).any(axis=1)))}")
        return ends

    def _centre(self, about: str, answer: Answer | None, of_callable: bool) -> np.ndarray | None:
        """Predictions float64 (m,) where outcomes are spoken of, None where scores are."""
        if about not in ("auto", "outcome", "score"):
            raise UnknownName(f"there is no about {about!r}", remedy="choose auto, outcome or score")
        centre = answer.middle(len(answer.prediction)) if self.score == "signed" and answer is not None else None
        if about == "score":
            return None
        if about == "auto":
            if of_callable and centre is not None:
                raise DatumwiseError(
                    "a callable statistic speaks of the scores, not of the outcomes", remedy="say about='score' to bound it"
                )
        elif centre is None or of_callable:
            raise DatumwiseError(
                "nothing can be said of this statistic of the outcomes",
                remedy="it takes score='signed', the rows of the batch, and mean, sum, median or a quantile",
            )
        return centre

    def _claims(
        self, X: Any, threshold: Any, side: str, positive: Any, calibration_threshold: Any
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores of calibration points (minus infinity where the claim is true) and of the batch."""
        m, answer = self._batch(X)
        if answer is None or self._answers is None:
            raise SchemaMismatch("a selection needs the rows of the batch and calibrate(X, y): it uses y")
        if positive is not None:
            return self._label_claims(X, answer, positive, threshold)
        if threshold is None:
            raise DatumwiseError("a selection needs a threshold", remedy="or positive=, the label to be claimed")
        if self._answers.probs is not None:
            raise ModelMismatch("labels have no threshold", remedy="say positive=, the label to be claimed")
        outcomes = real_column(self._outcomes, "y")
        own, of_batch = np.asarray(calibration_threshold), np.asarray(threshold)
        if calibration_threshold is None:
            if of_batch.ndim:
                raise SchemaMismatch("several thresholds need calibration_threshold, those of the calibration points")
            own = of_batch
        else:
            if own.shape != (self._given,):
                raise SchemaMismatch(f"{self._given:,} calibration points and thresholds of shape {own.shape} do not fit")
            own = own[self.kept_]
            of_batch = np.broadcast_to(of_batch, (m,)) if not of_batch.ndim else of_batch
        calibration = null_scores(self._answers.middle(len(outcomes)), outcomes, own, side=side)
        return calibration, claim_margin(answer.middle(m), of_batch, side=side)

    def _label_claims(self, X: Any, answer: Answer, positive: Any, threshold: Any) -> tuple[np.ndarray, np.ndarray]:
        if threshold is not None:
            raise DatumwiseError("threshold and positive were both given", remedy="give one")
        if self._answers is None or self._answers.probs is None or self._outcomes is None:
            raise ModelMismatch("positive= needs a classifier and a label score", remedy="use score='lac', 'aps' or 'raps'")
        place = np.flatnonzero(answer.classes == positive)
        if not len(place):
            raise LabelError(f"the model does not know the label {positive!r}")
        false = self._outcomes != positive
        return np.where(false, self._answers.probs[:, place[0]], -np.inf), answer.probs[:, place[0]]


def _least(m: int, delta: float, min_covered: int | None) -> int:
    """z: how many of m must hold."""
    if min_covered is not None:
        return whole_number(min_covered, "min_covered", 1, m)
    if not 0 <= delta < 1:
        raise DatumwiseError(f"delta = {delta!r} is no share of a batch", remedy="0 <= delta < 1")
    z = m - math.floor(delta * m + 1e-9)  # ceil((1 - delta) m) is wrong in floats
    if z < 1:
        raise DatumwiseError(f"delta = {delta!r} of a batch of {m:,} leaves none to hold", remedy="give a smaller delta")
    return z


def _quantile_place(m: int, statistic: Any) -> int:
    """z of "median" or ("quantile", p): the ceil(p m)-th smallest."""
    if statistic == "median":
        return (m + 1) // 2
    if isinstance(statistic, tuple) and len(statistic) == 2 and statistic[0] == "quantile":
        p = float(statistic[1])
        if not 0 < p <= 1:
            raise DatumwiseError(f"p = {statistic[1]!r} of a quantile", remedy="0 < p <= 1")
        return max(1, math.ceil(p * m - 1e-9))
    raise UnknownName(f"there is no statistic {statistic!r}", remedy="choose mean, sum, median, ('quantile', p) or a callable")


def _two_sided_size(m: int, alpha: float, z: int) -> int:
    """Smallest n at which z of m new scores lie between the lowest and the highest of n with probability 1 - alpha."""

    def enough(n: int) -> bool:
        return order_statistic_rank(n, m, z, alpha) <= n - 1

    few, many = 1, 2
    while not enough(many):
        few, many = many, 2 * many
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many
