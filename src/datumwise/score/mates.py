"""Which datapoints would help the model now, predicted from a few that were tried? MATES: measured, then regressed.

Yu, Das and Xiong, 2024, *MATES: Model-Aware Data Selection for Efficient Pretraining with Data Influence Models*,
NeurIPS, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.base import clone
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from datumwise.errors import DatumwiseError, SchemaMismatch, name_some
from datumwise.probe.neighbours import finite_matrix
from datumwise.score.checks import finite_column

__all__ = ["Mates", "mates", "measured_influence"]

PENALTIES = np.logspace(-3, 4, 15)  # of the ridge regression, chosen by leave-one-out


@dataclass(frozen=True)
class Mates:
    """Predicted influence of every datapoint.

    Attributes
    ----------
    values : float64 (n,)
        Higher: a step on the datapoint lowers the reference loss more.
    agreement : float
        Spearman's correlation of measured and held-out predicted influence, -1..1; near 0 the features say nothing
        and the values should not be used.
    """

    values: np.ndarray
    agreement: float


def mates(
    features: Any,
    rows: Sequence[int],
    influence: Any,
    *,
    regressor: Any = None,
    folds: int = 5,
    random_state: Any = 0,
) -> Mates:
    """Fit a small regressor to measured influences and predict those of all datapoints.

    Refresh as training goes on: measure again at the next checkpoint, fit again.

    Parameters
    ----------
    features : float array (n, d)
        Embeddings (published: of a small language model that is fine-tuned to the influences).
    rows : sequence of r int
        The datapoints that were tried, each once.
    influence : float array (r,)
        Their influence, see `measured_influence`; or a mean of `datumwise.probe.attribute` over queries.
    regressor : scikit-learn regressor, optional
        Ridge regression on standardised features by default; a clone of it is fitted.
    folds : int, default 5
        Of the cross-validation that ``agreement`` rests on.
    random_state : int, Generator or None
        Deals the rows to folds.

    Returns
    -------
    Mates

    Raises
    ------
    DatumwiseError, SchemaMismatch, NotFinite, EmptyData

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 5))
    >>> found = mates(X, range(40), X[:40, 0] + 0.1 * rng.normal(size=40))
    >>> found.agreement > 0.9, float(np.corrcoef(found.values, X[:, 0])[0, 1]) > 0.98
    (True, True)
    """
    X, y = finite_matrix(features, "features"), finite_column(influence, "influence")
    at = _checked(rows, len(X))
    if len(at) != len(y):
        raise SchemaMismatch(f"{len(at):,} rows were tried and {len(y):,} influences were given")
    if not 2 <= folds <= len(y):
        raise DatumwiseError(f"{len(y):,} influences cannot be dealt to {folds} folds", remedy="2 <= folds <= influences")
    model = make_pipeline(StandardScaler(), RidgeCV(PENALTIES)) if regressor is None else regressor
    seed = int(np.random.default_rng(random_state).integers(2**31))
    held_out = np.empty(len(y))
    for fit, check in KFold(folds, shuffle=True, random_state=seed).split(at):
        held_out[check] = clone(model).fit(X[at[fit]], y[fit]).predict(X[at[check]])
    flat = bool(np.ptp(held_out) == 0 or np.ptp(y) == 0)
    agreement = 0.0 if flat else float(spearmanr(held_out, y).statistic)
    values = np.asarray(clone(model).fit(X[at], y).predict(X), dtype=np.float64)
    return Mates(values, agreement)


def measured_influence(
    model: Any,
    batches: Sequence[Any],
    reference: Sequence[Any],
    *,
    learning_rate: float,
    losses: Callable[..., Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """By how much does one gradient step on a datapoint lower the reference loss? Tried out, one by one.

    Parameters
    ----------
    model : torch.nn.Module
        In evaluation mode while measured; weights, gradients and modes are put back.
    batches : sequence of r batches
        What to try: one datapoint each (or a small group).
    reference : sequence of batches
    learning_rate : float
        Of the step, theta - learning_rate * gradient of the batch's mean loss.
    losses : callable (model, batch) -> Tensor (b,), optional
        By default cross-entropy, or the sum over a sequence's supervised tokens.
    progress : callable (done, total), optional

    Returns
    -------
    float64 (r,)
        Mean reference loss before the step minus after it; higher: more helpful.
    """
    import torch

    from datumwise.probe.batches import moved
    from datumwise.probe.losses import forward_of, size_of

    if not (np.isfinite(learning_rate) and learning_rate > 0):
        raise DatumwiseError(f"the learning rate is {learning_rate}", remedy="it must be above 0")
    batches, reference = list(batches), list(reference)
    if not batches or not reference:
        raise DatumwiseError("there is nothing to try, or nothing to measure it by", remedy="give batches and reference=")
    parameters = [p for p in model.parameters() if p.requires_grad]
    device = next(model.parameters()).device

    def mean_loss(batch: Any) -> Any:
        batch = moved(batch, device)
        return forward_of(model, batch, range(size_of(batch)), losses).losses

    def reference_loss() -> float:
        with torch.no_grad():
            found = torch.cat([mean_loss(batch).double() for batch in reference])
        return float(found.mean())

    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    modes = {module: module.training for module in model.modules()}
    gains = np.empty(len(batches))
    try:
        model.eval()
        start = reference_loss()
        for number, batch in enumerate(batches):
            gradients = torch.autograd.grad(mean_loss(batch).mean(), parameters, allow_unused=True)
            with torch.no_grad():
                for p, g in zip(parameters, gradients, strict=True):
                    if g is not None:
                        p.sub_(learning_rate * g)
            gains[number] = start - reference_loss()
            model.load_state_dict(before)
            if progress is not None:
                progress(number + 1, len(batches))
    finally:
        model.load_state_dict(before)
        for module, mode in modes.items():
            module.training = mode
    return gains


def _checked(rows: Sequence[int], n: int) -> np.ndarray:
    at = np.asarray(list(rows))
    if at.ndim != 1 or at.dtype.kind not in "iu":
        raise SchemaMismatch(f"rows must be row numbers, not {at.dtype} of shape {at.shape}")
    outside = at[(at < 0) | (at >= n)]
    if len(outside):
        raise DatumwiseError(f"row {name_some(outside)} is not among the {n:,} datapoints")
    if len(np.unique(at)) < len(at):
        values, counts = np.unique(at, return_counts=True)
        raise DatumwiseError(f"row {name_some(values[counts > 1])} is named twice", remedy="average its influences first")
    return at
