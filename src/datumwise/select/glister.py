"""The datapoints whose training step lowers the validation loss most: GLISTER."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from datumwise.errors import DatumwiseError, LabelError, SchemaMismatch
from datumwise.select.last_layer import (
    class_codes,
    gains_of_step,
    mean_gradient,
    one_hot,
    parameters,
    probabilities,
    with_ones,
)
from datumwise.select.selector import Selector

__all__ = ["Glister", "greedy_steps"]


class Glister(Selector):
    """Greedy on the validation loss after one gradient step on the chosen, with last-layer gradients.

    The gain of i is eta <g_i, grad L_val(theta - eta sum_{s in S} g_s)>, the first term of Taylor's series of the
    fall of the validation loss; the validation gradient is computed anew every ``refresh`` picks.

    Parameters
    ----------
    n_to_select : int or float
    eta : float, default 0.1
        Size of the step.
    refresh : int, default 1
        Picks between two validation gradients; the picks in between are the best by the same gradient.
    coef : array (K, d + 1), optional
        Last layer of the model now, a row a class in sorted order, the bias last; zeros by default.

    Attributes
    ----------
    gains_ : float64 (k,)
        First-order fall of the mean validation loss (in nats) by each pick.

    Notes
    -----
    ``fit(X, y=, target=, target_y=)``: X and target are the last layer's inputs; without a target the training
    datapoints are their own validation set, as in the source's experiments without one.

    Examples
    --------
    Half of the labels are wrong; what helps the validation set is right:

    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 2))
    >>> right = (X[:, 0] > 0).astype(int)
    >>> y = np.where(np.arange(200) < 100, right, 1 - right)
    >>> found = Glister(40).fit(X, y=y, target=X[:100], target_y=right[:100])
    >>> int((found.ranking_ < 100).sum())
    40

    References
    ----------
    Killamsetty et al., 2021, *GLISTER: Generalization based Data Subset Selection for Efficient and Robust
    Learning*, equation 5 and algorithm 2.
    """

    takes: ClassVar = ("X", "y", "target?", "target_y?")
    source: ClassVar = "Killamsetty et al., 2021, equation 5"

    def __init__(self, n_to_select: int | float, *, eta: float = 0.1, refresh: int = 1, coef: Any = None) -> None:
        self.n_to_select = n_to_select
        self.eta = eta
        self.refresh = refresh
        self.coef = coef

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        classes, codes = np.unique(inputs["y"], return_inverse=True)
        if len(classes) < 2:
            raise LabelError("y has one class only", remedy="give labels of two classes or more")
        H = with_ones(inputs["X"])
        val, wanted = H, codes
        if inputs.get("target") is not None:
            if inputs.get("target_y") is None:
                raise DatumwiseError("the target set has no labels", remedy="fit(..., target_y=)")
            val = with_ones(inputs["target"])
            wanted = class_codes(inputs["target_y"], classes, "target_y")
            if len(val) != len(wanted) or val.shape[1] != H.shape[1]:
                raise SchemaMismatch(
                    f"target is {len(val):,} x {val.shape[1] - 1} with {len(wanted):,} labels, for X of width {H.shape[1] - 1}"
                )
        theta = parameters(self.coef, len(classes), H.shape[1])
        residual = probabilities(theta, H) - one_hot(codes, len(classes))
        return greedy_steps(theta, residual, H, val, one_hot(wanted, len(classes)), k, self.eta, self.refresh)


def greedy_steps(
    theta: np.ndarray,
    residual: np.ndarray,
    H: np.ndarray,
    val: np.ndarray,
    val_targets: np.ndarray,
    k: int,
    eta: float,
    refresh: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Take what helps most, step the parameters on it, look again.

    Parameters
    ----------
    theta : float64 (K, d + 1)
    residual : float64 (n, K)
        Output side of each datapoint's gradient; a row of zeros is never a help.
    H : float64 (n, d + 1)
    val : float64 (m, d + 1)
    val_targets : float64 (m, K)
    k : int
    eta : float
    refresh : int

    Returns
    -------
    ranking : int64 (k,)
    gains : float64 (k,)
    """
    if not eta > 0:
        raise DatumwiseError(f"eta is {eta}", remedy="give a step above 0")
    if refresh < 1:
        raise DatumwiseError(f"refresh is {refresh}", remedy="give 1 or more")
    free = np.ones(len(H), bool)
    ranking: list[int] = []
    gains: list[float] = []
    now = theta.copy()
    while len(ranking) < k:
        gain = eta * gains_of_step(residual, H, mean_gradient(now, val, val_targets))
        best = np.argsort(-np.where(free, gain, -np.inf), kind="stable")[: min(refresh, k - len(ranking))]
        free[best] = False
        ranking += best.tolist()
        gains += gain[best].tolist()
        now = now - eta * (residual[best].T @ H[best])
    return np.array(ranking), np.array(gains)
