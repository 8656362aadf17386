"""What if the batch comes from elsewhere than the calibration points? Covariate shift by rejection sampling.

Lee, Tchetgen Tchetgen and Dobriban, 2024 (arXiv 2409.13990), their counterfactual example: with w = dQ/dP <= M, a
calibration point kept with probability w(x) / M is a draw from Q.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch, name_some
from datumwise.predict.inputs import batch_size, real_column
from datumwise.predict.order_statistics import whole_number

__all__ = ["ShiftWeights", "effective_size", "estimate_weights", "reject_to_target", "shift_weight_column"]

CLIP = 0.99  # quantile of estimated weights at which they are cut off, where no bound is given
ODDS_FLOOR = 1e-6  # of a classifier's probabilities, so that odds stay finite


@dataclass(frozen=True, eq=False)
class ShiftWeights:
    """Estimated weights of calibration points towards a target population.

    Attributes
    ----------
    weights : float64 (n,)
        Estimate of dQ/dP at each calibration point, cut off at ``bound``.
    bound : float
    n_effective : float
        Calibration points that rejection keeps on average.
    clipped : int
        Calibration points whose weight was cut off.
    auc : float
        Of the classifier on points it was not fitted on: 0.5 no shift that it sees, 1.0 no overlap.
    """

    weights: np.ndarray
    bound: float
    n_effective: float
    clipped: int
    auc: float

    @property
    def validity(self) -> str:
        return (
            "approximate: the weights were estimated by a classifier, so a level holds only as far as they are right "
            f"({self.clipped:,} of {len(self.weights):,} cut off at {self.bound:.3g})"
        )

    def __str__(self) -> str:
        return (
            f"shift weights of {len(self.weights):,} calibration points: AUC {self.auc:.3f}, about {self.n_effective:.0f} "
            f"kept; validity is {self.validity}"
        )


def reject_to_target(weights: Any, bound: float, random_state: Any = None) -> np.ndarray:
    """Which calibration points to keep, so that those kept are draws from the target population.

    Parameters
    ----------
    weights : float (n,)
        w = dQ/dP at each calibration point, up to a constant factor, in 0..bound. Of the covariates only: weights that
        look at outcomes are no covariate shift.
    bound : float
        M, at least the largest w over the whole population, not only over these points; known beforehand.
    random_state : int, Generator or None

    Returns
    -------
    bool (n,)
        Given how many are kept, they are independent draws from Q.

    Raises
    ------
    DatumwiseError
        A weight below 0 or above the bound; a bound that is not a number above 0.
    EmptyData
        None was kept.

    Examples
    --------
    >>> x = np.random.default_rng(0).random(10_000)  # uniform; the target has density 2x
    >>> kept = reject_to_target(2 * x, bound=2, random_state=0)
    >>> round(float(x[kept].mean()), 2), round(effective_size(2 * x, 2))
    (0.67, 4994)
    """
    w = _bounded(weights, bound)
    # a stream of its own: data simulated from the same seed must not decide who is kept
    rng = np.random.default_rng(random_state).spawn(1)[0]
    kept = rng.random(len(w)) * bound < w
    if not kept.any():
        raise EmptyData(
            f"none of {len(w):,} calibration points was kept; {effective_size(w, bound):.2g} were to be expected",
            remedy="the calibration points say too little of the target: collect some nearer to it",
        )
    return kept


def effective_size(weights: Any, bound: float) -> float:
    """Calibration points that `reject_to_target` keeps on average: n E[w] / M.

    Examples
    --------
    >>> effective_size([1.0, 1.0, 2.0, 0.0], bound=2)
    2.0
    """
    return float(_bounded(weights, bound).sum() / bound)


def estimate_weights(
    X_source: Any,
    X_target: Any,
    *,
    classifier: Any = None,
    bound: float | None = None,
    folds: int = 5,
    random_state: Any = None,
) -> ShiftWeights:
    """Weights towards a target population, from a classifier that tells its points from the calibration points.

    w(x) = n_source / n_target * p(target | x) / (1 - p(target | x)), each point's p from a fit that did not see it.
    Statements that rest on such weights hold approximately, not exactly.

    Parameters
    ----------
    X_source : array or data frame (n, d)
        Calibration points.
    X_target : array or data frame (t, d)
        Unlabelled points of the population that the batch comes from; the more, the better.
    classifier : scikit-learn classifier, optional
        With ``predict_proba``; it is cloned. Standardised logistic regression by default.
    bound : float, optional
        M. By default the 99 % quantile of the weights; larger ones are cut off.
    folds : int, default 5
    random_state : int, Generator or None
        Deals the rows to folds.

    Returns
    -------
    ShiftWeights

    Raises
    ------
    SchemaMismatch
        The two have different columns.
    DatumwiseError
        Fewer points than folds.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 1))
    >>> found = estimate_weights(X, rng.normal(0.5, 1, size=(2000, 1)), random_state=0)
    >>> true = np.exp(0.5 * X[:, 0] - 0.125)
    >>> bool(np.corrcoef(found.weights, true)[0, 1] > 0.98)
    True
    """
    from sklearn.base import clone
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    n, t = batch_size(X_source), batch_size(X_target)
    whole_number(folds, "folds", 2)
    if min(n, t) < folds:
        raise DatumwiseError(f"{n:,} calibration and {t:,} target points cannot be dealt to {folds} folds")
    model = make_pipeline(StandardScaler(), LogisticRegression()) if classifier is None else clone(classifier)
    rows, side = _stacked(X_source, X_target), np.repeat([0, 1], [n, t])
    seed = int(np.random.default_rng(random_state).integers(2**31))
    split = StratifiedKFold(folds, shuffle=True, random_state=seed)
    p = cross_val_predict(model, rows, side, cv=split, method="predict_proba")[:, 1]
    odds = np.clip(p[:n], ODDS_FLOOR, 1 - ODDS_FLOOR)
    weights = n / t * odds / (1 - odds)
    limit = float(np.quantile(weights, CLIP)) if bound is None else float(bound)
    clipped = int((weights > limit).sum())
    weights = np.minimum(weights, limit)
    return ShiftWeights(weights, limit, effective_size(weights, limit), clipped, float(roc_auc_score(side, p)))


def shift_weight_column(
    weights: Any | Callable[[Any], Any], bound: float | None, X: Any, n: int
) -> tuple[np.ndarray, float, str]:
    """Weights of n calibration points, their bound and how valid that is, from what a user gave.

    Parameters
    ----------
    weights : float (n,), callable X -> (n,), or ShiftWeights
    bound : float or None
        Needed unless `ShiftWeights` bring theirs.
    X : array or data frame (n, d), or None
    n : int

    Returns
    -------
    (float64 (n,), float, str)

    Examples
    --------
    >>> shift_weight_column(lambda X: X[:, 0], 2.0, np.ones((2, 1)), 2)
    (array([1., 1.]), 2.0, 'exact for true weights')
    """
    if isinstance(weights, ShiftWeights):
        given, limit, validity = weights.weights, weights.bound if bound is None else bound, weights.validity
    else:
        if bound is None:
            raise DatumwiseError(
                "shift weights need bound=, the largest that a weight can be in the population",
                remedy="the largest among these points is no bound: it depends on them",
            )
        if callable(weights) and X is None:
            raise DatumwiseError("shift_weights is a function of X, and there is no X", remedy="give an array (n,)")
        given, limit, validity = (weights(X) if callable(weights) else weights), float(bound), "exact for true weights"
    column = _bounded(given, limit)
    if len(column) != n:
        raise SchemaMismatch(f"{n:,} calibration points and {len(column):,} shift weights do not fit together")
    return column, limit, validity


def _bounded(weights: Any, bound: float) -> np.ndarray:
    """float64 (n,) in 0..bound, or a refusal that names the rows."""
    w = real_column(weights, "shift weights")
    if not (np.isfinite(bound) and bound > 0):
        raise DatumwiseError(f"bound = {bound!r} of the shift weights", remedy="a number above 0: rejection needs it")
    bad = np.flatnonzero(w < 0)
    if len(bad):
        raise DatumwiseError(f"shift weights lie below 0 in row {name_some(bad)}", ids=bad.tolist())
    bad = np.flatnonzero(w > bound)
    if len(bad):
        raise DatumwiseError(
            f"shift weights exceed bound = {bound:g} in row {name_some(bad)}, by up to {w.max():.4g}",
            remedy="give the bound of the whole population, or cut the weights off and say so",
            ids=bad.tolist(),
        )
    return w


def _stacked(X_source: Any, X_target: Any) -> Any:
    """Both one below the other: a data frame if both are, else an array."""
    if hasattr(X_source, "iloc") and hasattr(X_target, "iloc"):
        import pandas

        if list(X_source.columns) != list(X_target.columns):
            raise SchemaMismatch("calibration and target points have different columns")
        return pandas.concat([X_source, X_target], ignore_index=True)
    above, below = np.asarray(X_source), np.asarray(X_target)
    if above.ndim != 2 or below.ndim != 2 or above.shape[1] != below.shape[1]:
        raise SchemaMismatch(f"calibration points of shape {above.shape} and target points of {below.shape} do not fit")
    return np.concatenate([above, below])
