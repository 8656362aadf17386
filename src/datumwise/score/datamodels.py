"""What would the model say had it been trained on another subset? A linear model of training itself.

Ilyas et al., 2022, *Datamodels: Predicting Predictions from Training Data*, ICML, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, UnknownName, name_some

__all__ = ["Datamodels", "datamodels"]

FOLDS = 5
PENALTIES = 10.0 ** np.linspace(-4, 4, 25)  # of ridge, times the mean squared singular value


@dataclass(frozen=True)
class Datamodels:
    """One linear model a test: output on it ~ bias + weights over the training datapoints in the subset.

    Attributes
    ----------
    weights : float64 (t, n)
        Higher: the training datapoint raises the output. Sums of them predict: `predict`.
    stderr : float64 (t, n)
        Over the folds by jackknife; ridge only, else NaN.
    bias : float64 (t,)
    penalty : float64 (t,)
        Chosen by cross-validation, or given.
    correlation : float64 (t,)
        Of prediction and output on subsets that were held out: can the linear model be believed?
    """

    weights: np.ndarray = field(repr=False)
    stderr: np.ndarray = field(repr=False)
    bias: np.ndarray = field(repr=False)
    penalty: np.ndarray = field(repr=False)
    correlation: np.ndarray = field(repr=False)

    def predict(self, masks: Any) -> np.ndarray:
        """float64 (M, t): outputs predicted for training subsets ``masks`` (M, n)."""
        return np.asarray(masks, np.float64) @ self.weights.T + self.bias

    def __str__(self) -> str:
        t, n = self.weights.shape
        return (
            f"{t:,} datamodels of {n:,} training datapoints, correlation on held-out subsets {np.nanmean(self.correlation):.3f}"
        )


def datamodels(
    masks: Any,
    outputs: Any,
    *,
    regression: str = "lasso",
    penalty: float | None = None,
    random_state: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Datamodels:
    """Regress the outputs of retrained models on which datapoints they were trained on.

    Parameters
    ----------
    masks : bool (M, n)
        Training subset of each run.
    outputs : float (M, t)
        Of each run on each test: margins log(p/(1 - p)) as published, or losses.
    regression : "lasso" or "ridge"
        LASSO as published, one fit a test; ridge, all tests at once.
    penalty : float, optional
        Of all tests; by 5-fold cross-validation of each by default.
    random_state : None, int or Generator
        Deals the runs to folds.
    progress : callable, optional
        Called with (tests done, in all).

    Returns
    -------
    Datamodels

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> masks = rng.random((300, 8)) < 0.5
    >>> found = datamodels(masks, masks @ [[2.0], [0], [0], [-1], [0], [0], [0], [0]] + 0.5, regression="ridge")
    >>> (found.weights[0].round(2) + 0.0).tolist(), found.bias.round(2).tolist()
    ([2.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0], [0.5])
    """
    design, outputs = _checked(masks, outputs)
    if regression not in ("lasso", "ridge"):
        raise UnknownName(f"there is no regression {regression!r}", remedy="'lasso' or 'ridge'")
    if penalty is not None and not penalty > 0:
        raise DatumwiseError(f"penalty = {penalty} is no penalty", remedy="above 0")
    fold = np.random.default_rng(random_state).permutation(np.arange(len(design)) % FOLDS)
    if regression == "ridge":
        return _ridge(design, outputs, penalty, fold, progress)
    return _lasso(design, outputs, penalty, fold, progress)


def _lasso(
    design: np.ndarray,
    outputs: np.ndarray,
    penalty: float | None,
    fold: np.ndarray,
    progress: Callable[[int, int], None] | None,
) -> Datamodels:
    from sklearn.linear_model import Lasso, LassoCV
    from sklearn.model_selection import PredefinedSplit

    t, n = outputs.shape[1], design.shape[1]
    weights, bias, chosen, correlation = np.zeros((t, n)), np.zeros(t), np.zeros(t), np.zeros(t)
    for j in range(t):
        y = outputs[:, j]
        alpha = penalty
        if alpha is None:
            alpha = (
                float(LassoCV(cv=PredefinedSplit(fold), alphas=30, max_iter=10_000).fit(design, y).alpha_) if np.ptp(y) else 1.0
            )
        fitted = Lasso(alpha=alpha, max_iter=10_000).fit(design, y)
        weights[j], bias[j], chosen[j] = fitted.coef_, fitted.intercept_, alpha
        predicted = np.empty(len(y))
        for f in range(FOLDS):
            held = fold == f
            predicted[held] = Lasso(alpha=alpha, max_iter=10_000).fit(design[~held], y[~held]).predict(design[held])
        correlation[j] = _correlation(predicted[:, None], y[:, None])[0]
        if progress:
            progress(j + 1, t)
    return Datamodels(weights, np.full((t, n), np.nan), bias, chosen, correlation)


def _ridge(
    design: np.ndarray,
    outputs: np.ndarray,
    penalty: float | None,
    fold: np.ndarray,
    progress: Callable[[int, int], None] | None,
) -> Datamodels:
    """Every fold decomposed once; then any penalty costs a product."""
    t, n = outputs.shape[1], design.shape[1]
    penalties = (PENALTIES * (design - design.mean(axis=0)).var() * len(design)) if penalty is None else np.array([penalty])
    error = np.zeros((len(penalties), t))
    predicted = np.zeros((len(penalties), *outputs.shape))
    by_fold = np.zeros((FOLDS, len(penalties), t, n), np.float32) if FOLDS * len(penalties) * t * n <= 1 << 26 else None
    for f in range(FOLDS):
        held = fold == f
        mean, level, U, s, V = _decomposed(design[~held], outputs[~held])
        moment = U.T @ (outputs[~held] - level)
        for a, lam in enumerate(penalties):
            w = V.T @ (moment * (s / (s**2 + lam))[:, None])  # (n, t)
            predicted[a, held] = (design[held] - mean) @ w + level
            error[a] += ((predicted[a, held] - outputs[held]) ** 2).sum(axis=0)
            if by_fold is not None:
                by_fold[f, a] = w.T
        if progress:
            progress((f + 1) * t // FOLDS, t)
    best = error.argmin(axis=0)
    mean, level, U, s, V = _decomposed(design, outputs)
    shrink = s[:, None] / (s[:, None] ** 2 + penalties[best])
    weights = (V.T @ (U.T @ (outputs - level) * shrink)).T
    stderr = np.full((t, n), np.nan)
    if by_fold is not None:
        chosen = by_fold[:, best, np.arange(t)]  # (folds, t, n): leave-one-fold-out estimates
        stderr = np.sqrt((FOLDS - 1) / FOLDS * ((chosen - chosen.mean(axis=0)) ** 2).sum(axis=0)).astype(np.float64)
    correlation = _correlation(predicted[best, :, np.arange(t)].T, outputs)
    return Datamodels(weights, stderr, level - weights @ mean, penalties[best], correlation)


def _decomposed(design: np.ndarray, outputs: np.ndarray) -> tuple[np.ndarray, ...]:
    mean, level = design.mean(axis=0), outputs.mean(axis=0)
    return mean, level, *np.linalg.svd(design - mean, full_matrices=False)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson, column by column; NaN for a constant column."""
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    size = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return (a * b).sum(axis=0) / np.where(size > 0, size, np.nan)


def _checked(masks: Any, outputs: Any) -> tuple[np.ndarray, np.ndarray]:
    masks, outputs = np.asarray(masks), np.asarray(outputs, np.float64)
    if masks.ndim != 2 or outputs.ndim != 2 or len(masks) != len(outputs):
        raise SchemaMismatch(f"masks must be runs x datapoints and outputs runs x tests; got {masks.shape} and {outputs.shape}")
    if len(masks) < 2 * FOLDS:
        raise DatumwiseError(
            f"{len(masks)} runs are too few for a regression", remedy=f"{2 * FOLDS} at least, thousands as published"
        )
    design = masks.astype(np.float64)
    if not np.isin(np.unique(design), (0, 1)).all():
        raise SchemaMismatch("masks must say in (1) or out (0)")
    bad = np.flatnonzero(~np.isfinite(outputs).all(axis=1))
    if len(bad):
        raise NotFinite(f"outputs of run {name_some(bad)} have NaN or infinity", ids=bad.tolist())
    return design, outputs
