"""Which rows pull the training set away from the validation set? LAVA: the gradient of optimal transport.

Just et al., 2023, *LAVA: Data Valuation without Pre-Specified Learning Algorithms*, ICLR, eq. 1 (class-wise
distance) and eq. 3 (calibrated gradient).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.probe.neighbours import finite_matrix
from datumwise.score.checks import class_labels
from datumwise.score.estimate import Value, row_names
from datumwise.score.utility import checked_sets

__all__ = ["Transport", "lava", "transport"]

MOST_EXACT = 1_000_000  # pairs of rows for the linear programme
WARM = 10  # steps at each regularisation on the way to the one asked for


@dataclass(frozen=True)
class Transport:
    """Optimal transport between two weighted sets of points.

    Attributes
    ----------
    cost : float
        sum of plan times cost; with a regularisation without the entropy.
    source : float64 (n,)
        Dual variables of the first set, of mean 0 under its weights.
    target : float64 (m,)
        Those of the second.
    error : float
        How far the plan's marginals are from the weights asked for: the largest difference ("exact"), the mean share
        of a weight ("sinkhorn").
    """

    cost: float
    source: np.ndarray
    target: np.ndarray
    error: float


def lava(
    X: Any,
    y: Any,
    X_val: Any,
    y_val: Any,
    *,
    label_weight: float = 1.0,
    solver: str = "sinkhorn",
    regularisation: float = 0.05,
    ids: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Value:
    """Minus the calibrated gradient of the distance between training and validation set by each row's weight.

    The distance is optimal transport at cost |x - x'|² + label_weight W(y, y'), W(y, y') the squared 2-Wasserstein
    distance between the rows of class y and the validation rows of class y' (with "sinkhorn" its debiased form,
    the Sinkhorn divergence of Feydy et al., 2019, eq. 3). With dual variables f of the training
    rows, -(f_i - mean of the other f) is the value: positive where more of the row would bring the sets together.

    Parameters
    ----------
    X : float (n, d), finite
        Embeddings.
    y : int (n,)
    X_val, y_val : (m, d), (m,)
    label_weight : float, default 1.0
    solver : "sinkhorn" or "exact"
        Entropic transport as published, O(n m) a step; or scipy's linear programme (HiGHS), for up to a million pairs.
    regularisation : float, default 0.05
        Of "sinkhorn", times the mean cost.
    ids : array (n,), optional
    progress : callable, optional
        Called with (pairs of classes done, in all + 1).

    Returns
    -------
    Value
        Standard errors are 0: nothing is sampled, and no model is trained (0 utility calls). The values sum to 0.

    Raises
    ------
    DatumwiseError
        Too many pairs for "exact".
    """
    y, y_val = class_labels(y, "y"), class_labels(y_val, "y_val")
    X, y, X_val, y_val = checked_sets(X, y, X_val, y_val)
    here, there = np.unique(y), np.unique(y_val)
    apart = np.zeros((int(here.max()) + 1, int(there.max()) + 1))
    cost = squared_distances(X, X_val)
    pairs = len(here) * len(there) + 1

    def between(block: np.ndarray) -> float:
        return transport(block, solver=solver, regularisation=regularisation).cost

    if label_weight:  # the entropy blurs each class by as much as it is away from itself: that is taken off
        own_here, own_there = (
            {
                c: _to_itself(squared_distances(Z[z == c], Z[z == c]), regularisation) if solver == "sinkhorn" else 0.0
                for c in of
            }
            for Z, z, of in ((X, y, here), (X_val, y_val, there))
        )
        for a, c in enumerate(here):
            for b, k in enumerate(there):
                whole = between(cost[np.ix_(y == c, y_val == k)])
                apart[c, k] = max(whole - (own_here[c] + own_there[k]) / 2, 0.0)
                if progress:
                    progress(a * len(there) + b + 1, pairs)
    cost += label_weight * apart[y[:, None], y_val]
    f = transport(cost, solver=solver, regularisation=regularisation).source
    if progress:
        progress(pairs, pairs)
    n = len(f)
    gradient = f - (f.sum() - f) / max(n - 1, 1)
    return Value("lava", -gradient, np.zeros(n), 0, 0, row_names(ids, n))


def transport(
    cost: Any,
    *,
    solver: str = "sinkhorn",
    regularisation: float = 0.05,
    tolerance: float = 1e-4,
    max_iter: int = 1000,
) -> Transport:
    """Optimal transport between two sets of equally weighted points, with its dual variables.

    Parameters
    ----------
    cost : float (n, m), finite
    solver : "sinkhorn" or "exact"
    regularisation : float, default 0.05
        Entropy's weight over the mean cost (Cuturi, 2013); reached by halving from the largest cost down.
    tolerance : float, default 1e-4
        Sinkhorn stops when the marginals are right to this share, on the mean.
    max_iter : int, default 1000
        Steps at most.

    Returns
    -------
    Transport

    Examples
    --------
    >>> found = transport([[0.0, 1.0], [1.0, 0.0]], solver="exact")
    >>> found.cost
    0.0
    """
    cost = finite_matrix(cost, "cost").astype(np.float64)
    if solver == "exact":
        return _linear_programme(cost)
    if solver != "sinkhorn":
        raise UnknownName(f"there is no solver {solver!r}", remedy="'sinkhorn' or 'exact'")
    if not regularisation > 0:
        raise DatumwiseError(f"regularisation = {regularisation} divides by 0", remedy="above 0, or solver='exact'")
    return _sinkhorn(cost, regularisation * max(float(np.abs(cost).mean()), 1e-300), tolerance, max_iter)


def squared_distances(X: np.ndarray, Z: np.ndarray) -> np.ndarray:
    """float64 (n, m) of |x - z|²."""
    X, Z = X.astype(np.float64), Z.astype(np.float64)
    centre = X.mean(axis=0)
    X, Z = X - centre, Z - centre
    squares = np.einsum("ij,ij->i", X, X)[:, None] + np.einsum("ij,ij->i", Z, Z)
    return np.maximum(squares - 2 * (X @ Z.T), 0)


def _linear_programme(cost: np.ndarray) -> Transport:
    from scipy.optimize import linprog
    from scipy.sparse import eye_array, kron, vstack

    n, m = cost.shape
    if n * m > MOST_EXACT:
        raise DatumwiseError(f"{n:,} x {m:,} pairs are too many for a linear programme", remedy="solver='sinkhorn'")
    rows = kron(eye_array(n), np.ones((1, m)))
    columns = kron(np.ones((1, n)), eye_array(m))
    weights = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    # one equation is implied by the others; HiGHS finds that by itself
    found = linprog(cost.ravel(), A_eq=vstack([rows, columns]).tocsr(), b_eq=weights, bounds=(0, None), method="highs")
    if found.status != 0:
        raise DatumwiseError(f"the linear programme was not solved: {found.message}", remedy="solver='sinkhorn'")
    plan = found.x.reshape(n, m)
    error = max(np.abs(plan.sum(axis=1) - 1 / n).max(), np.abs(plan.sum(axis=0) - 1 / m).max())
    f, g = found.eqlin.marginals[:n], found.eqlin.marginals[n:]
    return Transport(float((plan * cost).sum()), f - f.mean(), g + f.mean(), float(error))


def _sinkhorn(cost: np.ndarray, regularisation: float, tolerance: float, max_iter: int) -> Transport:
    """In logarithms, the regularisation halved until it is the one asked for (Schmitzer, 2019, section 3.3)."""
    n, m = cost.shape
    f, g = np.zeros(n), np.zeros(m)
    eps = max(float(cost.max()), regularisation)
    steps = 0
    error = np.inf
    while True:
        eps = max(eps / 2, regularisation)
        last = eps == regularisation
        inner = 0
        while steps < max_iter and (last or inner < WARM):
            f = _soft_minimum(cost, g, eps)
            h = _soft_minimum(cost.T, f, eps)
            # after the update of f the rows are right; how wrong the columns are is how far g still moves
            error = float(np.abs(np.expm1((g - h) / eps)).mean())
            g = h
            steps, inner = steps + 1, inner + 1
            if error < tolerance:
                break
        if last:
            break
    plan = np.exp((f[:, None] + g - cost) / eps) / (n * m)
    return Transport(float((plan * cost).sum()), f - f.mean(), g + f.mean(), error)


def _to_itself(cost: np.ndarray, regularisation: float, tolerance: float = 1e-5, max_iter: int = 500) -> float:
    """Entropic cost of moving a set onto itself; both duals are one, and averaged steps get there in a few tens."""
    n = len(cost)
    eps = regularisation * max(float(np.abs(cost).mean()), 1e-300)
    f = np.zeros(n)
    for _ in range(max_iter):
        new = _soft_minimum(cost, f, eps)
        moved = float(np.abs(new - f).max())
        f = (f + new) / 2
        if moved < tolerance * eps:
            break
    plan = np.exp((f[:, None] + f - cost) / eps) / n**2
    return float((plan * cost).sum())


def _soft_minimum(cost: np.ndarray, dual: np.ndarray, eps: float) -> np.ndarray:
    """-eps log mean_j exp((dual_j - cost_ij)/eps), (n,)."""
    power = (dual - cost) / eps
    top = power.max(axis=1, keepdims=True)
    power -= top
    np.exp(power, out=power)
    return -eps * (top[:, 0] + np.log(power.mean(axis=1)))
