"""Which points of a batch can be claimed to lie beyond a threshold, with few false claims?

Count control: Lee, Tchetgen Tchetgen and Dobriban, 2024 (arXiv 2409.13990), selection. False discovery rate: Jin and
Candes, 2023, algorithm 1 with clipped scores. Cutoffs chosen after looking: derived, from a joint bound of all ranks.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import DatumwiseError, SchemaMismatch
from datumwise.predict.batch_bounds import cdf_band
from datumwise.predict.inputs import aligned_ids, real_column, reservation
from datumwise.predict.order_statistics import (
    SLACK,
    check_alpha,
    order_statistic_rank,
    required_calibration_size,
    whole_number,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "FalseClaimCurve",
    "SelectionResult",
    "claim_margin",
    "conformal_p_values",
    "false_claim_curve",
    "null_scores",
    "select_count",
    "select_fdr",
]


@dataclass(frozen=True, eq=False)
class SelectionResult:
    """Points of a batch that are claimed to lie beyond the threshold.

    Attributes
    ----------
    selected : bool (m,)
    cutoff : float
        Count control selects scores above it, FDR control scores at or above it; infinity if nothing is selected.
    p_values : float64 (m,)
        Conformal p-value of "this claim is false", for each point by itself.
    scores : float64 (m,)
        Prediction, or its margin over the threshold; higher is more promising.
    null_scores : float64 (n,)
        Of the calibration points, minus infinity where the claim would be true.
    ids : (m,)
    control : {"count", "fdr"}
    alpha : float
    max_false : int or None
        False claims that count control allows.
    validity : str
    """

    selected: np.ndarray
    cutoff: float
    p_values: np.ndarray
    scores: np.ndarray
    null_scores: np.ndarray
    ids: np.ndarray
    control: str
    alpha: float
    max_false: int | None
    validity: str = "exact"

    @property
    def selected_ids(self) -> np.ndarray:
        """Ids selected, the most promising first."""
        chosen = np.flatnonzero(self.selected)
        return self.ids[chosen[np.argsort(-self.scores[chosen], kind="stable")]]

    @property
    def statement(self) -> str:
        n, m = len(self.null_scores), len(self.selected)
        head = f"{int(self.selected.sum()):,} of {m:,} points are selected; "
        end = f" (n = {n:,})" + reservation(self.validity)
        if self.control == "fdr":
            return head + f"the expected share of false claims among those selected is at most {self.alpha:g}" + end
        words = {0: "no claim is false", 1: "at most 1 claim is false"}
        allowed = words.get(self.max_false or 0, f"at most {self.max_false:,} claims are false")
        return head + f"with probability at least {1 - self.alpha:g}, {allowed}" + end

    def __str__(self) -> str:
        return self.statement

    def plot(self, axes: Axes | None = None) -> Axes:
        """Points selected and p-value against the cutoff, see `datumwise.predict.plot.selection_curve`."""
        from datumwise.predict.plot import selection_curve

        return selection_curve(self, axes=axes)


@dataclass(frozen=True, eq=False)
class FalseClaimCurve:
    """At every cutoff: how many points would be selected, and at most how many of the claims are false.

    The bounds hold for all cutoffs together, so that one may be chosen after looking at the batch.

    Attributes
    ----------
    cutoffs : float64 (c,)
        Descending; a point is selected if its score is above.
    n_selected : int64 (c,)
    max_false : int64 (c,)
        Upper bound of the false claims among them.
    scores : float64 (m,)
    ids : (m,)
    n : int
        Calibration points.
    alpha : float
    validity : str
    """

    cutoffs: np.ndarray
    n_selected: np.ndarray
    max_false: np.ndarray
    scores: np.ndarray
    ids: np.ndarray
    n: int
    alpha: float
    validity: str = "exact"

    def at_most(self, share: float) -> np.ndarray:
        """bool (m,): the largest selection whose share of false claims is at most ``share``, by the bounds."""
        if not 0 <= share <= 1:
            raise DatumwiseError(f"share = {share!r} of false claims", remedy="0 <= share <= 1")
        good = np.flatnonzero((self.n_selected > 0) & (self.max_false <= share * self.n_selected + SLACK))
        return self.scores > (self.cutoffs[good[-1]] if len(good) else np.inf)

    @property
    def statement(self) -> str:
        return (
            f"with probability at least {1 - self.alpha:g}, at every cutoff together the claims above it hold no more false "
            f"ones than max_false says ({len(self.scores):,} points, n = {self.n:,})" + reservation(self.validity)
        )

    def __str__(self) -> str:
        return self.statement

    def plot(self, axes: Axes | None = None) -> Axes:
        """See `datumwise.predict.plot.false_claim_curve_plot`."""
        from datumwise.predict.plot import false_claim_curve_plot

        return false_claim_curve_plot(self, axes=axes)


def null_scores(prediction: Any, outcome: Any, threshold: Any, *, side: str = "above") -> np.ndarray:
    """Score of each calibration point: its prediction where a claim would be false, else minus infinity.

    Parameters
    ----------
    prediction, outcome : float (n,)
    threshold : float or float (n,)
        With one threshold the score is the prediction, with several its margin over the point's own threshold.
    side : {"above", "below"}
        The claim is "outcome > threshold", or "outcome < threshold" (then predictions count negatively).

    Returns
    -------
    float64 (n,)

    Notes
    -----
    The published code has prediction * 1{outcome <= threshold}: a true claim then scores 0, more than every negative
    prediction. That is valid and blind: where predictions are negative nothing is ever selected.

    Examples
    --------
    >>> null_scores([-2.0, -1.0, 3.0], [0.0, 5.0, 9.0], threshold=1.0).tolist()
    [-2.0, -inf, -inf]
    """
    score = claim_margin(prediction, threshold, side=side)
    y = real_column(outcome, "outcome")
    if len(y) != len(score):
        raise SchemaMismatch(f"{len(score):,} predictions and {len(y):,} outcomes do not fit together")
    false = y <= np.asarray(threshold, np.float64) if side == "above" else y >= np.asarray(threshold, np.float64)
    return np.where(false, score, -np.inf)


def claim_margin(prediction: Any, threshold: Any, *, side: str = "above") -> np.ndarray:
    """How promising the claim is: the prediction, or its margin over several thresholds; negative for "below".

    Examples
    --------
    >>> claim_margin([3.0, 1.0], 2.0).tolist(), claim_margin([3.0, 1.0], [2.0, 5.0], side="below").tolist()
    ([3.0, 1.0], [-1.0, 4.0])
    """
    if side not in ("above", "below"):
        raise DatumwiseError(f"there is no side {side!r} of a threshold", remedy="choose above or below")
    score = real_column(prediction, "prediction")
    limit = np.asarray(threshold, np.float64)
    if limit.ndim not in (0, 1) or (limit.ndim and len(limit) != len(score)):
        raise SchemaMismatch(f"{len(score):,} predictions and thresholds of shape {limit.shape} do not fit together")
    real_column(np.atleast_1d(limit), "threshold")
    if limit.ndim:
        score = score - limit
    return score if side == "above" else -score


def conformal_p_values(calibration: Any, test: Any) -> np.ndarray:
    """p_j = (1 + #{i: V_i >= V_j}) / (n + 1).

    Parameters
    ----------
    calibration : float (n,)
        Scores of calibration points, minus infinity where the null hypothesis is not true (see `null_scores`).
    test : float (m,)

    Returns
    -------
    float64 (m,)
        In 1 / (n + 1) .. 1. For a point j whose claim is false or that may be, P(p_j <= t and the claim is false) <= t.

    Examples
    --------
    >>> conformal_p_values([0.1, 0.4, 0.2], [0.3, 0.5, 0.4]).tolist()
    [0.5, 0.25, 0.5]
    """
    V, T = _both(calibration, test)
    return (1 + len(V) - np.searchsorted(np.sort(V), T, side="left")) / (len(V) + 1)


def select_count(
    calibration: Any, test: Any, alpha: float, max_false: int = 0, *, ids: Any = None, allow_infinite: bool = False
) -> SelectionResult:
    """Select so that P(more than ``max_false`` claims are false) <= alpha.

    Parameters
    ----------
    calibration : float (n,)
        Scores of calibration points, minus infinity where the claim would be true.
    test : float (m,)
        Scores of the batch.
    alpha : float
    max_false : int, default 0
        eta in 0..m-1; 0 is control of the family-wise error.
    ids : (m,), optional
    allow_infinite : bool, default False
        Where n is too small to claim anything, select nothing with a warning instead of refusing.

    Returns
    -------
    SelectionResult

    Raises
    ------
    DatumwiseError
        n is too small: with the n that is needed.

    Notes
    -----
    The probability is over calibration points and batch together. Fix alpha and ``max_false`` before looking at the
    batch; to choose a cutoff afterwards use `false_claim_curve`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> calibration = np.where(rng.random(500) < 0.5, rng.normal(size=500), -np.inf)
    >>> result = select_count(calibration, rng.normal(1.0, 2.0, size=20), alpha=0.1, max_false=1)
    >>> print(result)
    9 of 20 points are selected; with probability at least 0.9, at most 1 claim is false (n = 500)
    """
    V, T = _both(calibration, test)
    n, m = len(V), len(T)
    check_alpha(alpha)
    whole_number(max_false, "max_false", 0, m - 1)
    k = order_statistic_rank(n, m, m - max_false, alpha)
    if k > n:
        _too_small(n, required_calibration_size(m, alpha, eta=max_false), allow_infinite)
    cutoff = float(np.sort(V)[k - 1]) if k <= n else np.inf
    selected, p = cutoff < T, conformal_p_values(V, T)
    return SelectionResult(selected, cutoff, p, T, V, aligned_ids(ids, None, m), "count", float(alpha), max_false)


def select_fdr(calibration: Any, test: Any, alpha: float, *, ids: Any = None, allow_infinite: bool = False) -> SelectionResult:
    """Select so that the expected share of false claims among those selected is at most alpha.

    Benjamini and Hochberg's procedure on the conformal p-values of the batch. Parameters as `select_count`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> calibration = np.where(rng.random(500) < 0.5, rng.normal(size=500), -np.inf)
    >>> result = select_fdr(calibration, rng.normal(1.0, 2.0, size=20), alpha=0.2)
    >>> int(result.selected.sum()), bool((result.selected == (result.scores >= result.cutoff)).all())
    (10, True)
    """
    V, T = _both(calibration, test)
    n, m = len(V), len(T)
    check_alpha(alpha)
    if n < (needed := required_calibration_size(1, alpha)):  # 1 / (n + 1) is the least p-value
        _too_small(n, needed, allow_infinite)
    p = conformal_p_values(V, T)
    ranked = np.sort(p)
    passing = np.flatnonzero(ranked <= alpha * np.arange(1, m + 1) / m + SLACK)
    selected = p <= ranked[passing[-1]] if len(passing) else np.zeros(m, bool)
    cutoff = float(T[selected].min()) if selected.any() else np.inf
    return SelectionResult(selected, cutoff, p, T, V, aligned_ids(ids, None, m), "fdr", float(alpha), None)


def false_claim_curve(calibration: Any, test: Any, alpha: float, *, ids: Any = None) -> FalseClaimCurve:
    """Upper bounds of the false claims above every cutoff, all valid together with probability at least 1 - alpha.

    With T_(z) <= S_(b_z) for every z at once, the scores of false claims above S_(b_z) are at most m - z. The ranks b_z
    are those of single order statistics at a common level, the largest at which all of them hold jointly.

    Parameters
    ----------
    calibration : float (n,)
        Minus infinity where the claim would be true.
    test : float (m,)
    alpha : float
    ids : (m,), optional

    Returns
    -------
    FalseClaimCurve

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> calibration = np.where(rng.random(500) < 0.5, rng.normal(size=500), -np.inf)
    >>> curve = false_claim_curve(calibration, rng.normal(1.0, 2.0, size=50), alpha=0.1)
    >>> [int(curve.at_most(share).sum()) for share in (0.1, 0.2, 0.3)]
    [0, 21, 27]
    """
    V, T = _both(calibration, test)
    n, m = len(V), len(T)
    bounds = cdf_band(V, m, alpha, side="upper")[:, 1]  # S_(b_z), nondecreasing
    finite = bounds[np.isfinite(bounds)]
    cutoffs = np.unique(np.concatenate([finite, T, [np.nextafter(T.min(), -np.inf)]]))[::-1]
    n_selected = m - np.searchsorted(np.sort(T), cutoffs, side="right")
    claimed = np.minimum(m - np.searchsorted(bounds, cutoffs, side="right"), n_selected)
    # what a lower cutoff adds is false at worst
    claimed = n_selected + np.minimum.accumulate(claimed - n_selected)
    return FalseClaimCurve(cutoffs, n_selected, claimed, T, aligned_ids(ids, None, m), n, float(alpha))


def _both(calibration: Any, test: Any) -> tuple[np.ndarray, np.ndarray]:
    return real_column(calibration, "calibration scores", infinite="minus"), real_column(test, "test scores")


def _too_small(n: int, needed: int, allow_infinite: bool) -> None:
    """Refuse, or warn where that was asked for."""
    if not allow_infinite:
        raise DatumwiseError(
            f"need n >= {needed:,}; got n = {n:,} calibration points",
            remedy="with fewer nothing can be claimed at this level; allow more false claims or a larger alpha",
        )
    warnings.warn(f"need n >= {needed:,}, got n = {n:,}: nothing is selected", UserWarning, stacklevel=3)
