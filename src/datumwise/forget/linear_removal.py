"""What would a fitted linear model be without some of its rows? Newton steps on the loss of the rows that are left.

A step is ``theta <- theta - H_R^-1 g_R``, H_R and g_R the Hessian and gradient of the objective over the retained rows, the
penalty whole. At the optimum over all rows ``g_R = -g_F``, so this is the removal step ``theta + H_R^-1 g_F`` of Guo et al.
(2020, eq. 2) and of Koh and Liang (2017), but without its error where the fit had stopped short of the optimum. Least squares
is exact after one step, logistic regression converges to the retrained model quadratically.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import LinearOperator, cg
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

from datumwise.errors import DatumwiseError, EmptyData, ModelMismatch, NotFinite, SchemaMismatch, name_some
from datumwise.forget.linear_objective import Objective, logistic_objective, squares_objective
from datumwise.probe.threads import few_threads

__all__ = ["LinearRemoval", "forget_mask", "linear_removal", "newton_logistic", "remove_from_logistic", "remove_from_ridge"]

DENSE = 4_000  # unknowns up to which the Hessian is built (128 MB) and factored; above, conjugate gradients
CG_TOLERANCE = 1e-10  # of the residual, relative to the gradient
HALVINGS = 30  # of a step that does not lower the objective
MIN_CURVATURE = 1e-13  # smallest curvature, relative to the largest: below, the rows do not determine the weights


@dataclass(frozen=True)
class LinearRemoval:
    """A linear model without some rows, and how far it is from the one that is trained without them.

    Attributes
    ----------
    model : LogisticRegression, Ridge or LinearRegression
        A copy; the input is untouched.
    n_forgotten, n_retained : int
    steps : int
        Newton steps taken.
    gradient_before, gradient : float
        Norm of the retained rows' gradient (of the SUM of losses and the penalty) before and after; 0 at the retrained model.
    moved : float
        Distance of all weights and intercepts to those before.
    remaining : float or None
        Length of the Newton step that would come next, with ``check=True``: the distance that is left to the retrained model,
        up to its square.
    """

    model: Any
    n_forgotten: int
    n_retained: int
    steps: int
    gradient_before: float
    gradient: float
    moved: float
    remaining: float | None


def remove_from_logistic(
    model: LogisticRegression,
    X: Any,
    y: Any,
    forget_rows: Any,
    steps: int = 1,
    *,
    tol: float = 0.0,
    sample_weight: Any = None,
    solver: str = "auto",
) -> LogisticRegression:
    """A fitted logistic regression as if some of its rows had not been there, by Newton steps; see `linear_removal`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(2000, 6)); y = (X[:, 0] + rng.normal(size=2000) > 0).astype(int)
    >>> model = LogisticRegression(tol=1e-10).fit(X, y)
    >>> anew = LogisticRegression(tol=1e-10).fit(X[20:], y[20:])
    >>> after = remove_from_logistic(model, X, y, range(20))
    >>> error = np.linalg.norm(after.coef_ - anew.coef_) / np.linalg.norm(model.coef_ - anew.coef_)
    >>> bool(error < 0.05)
    True
    """
    if not isinstance(model, LogisticRegression):
        raise ModelMismatch(f"{type(model).__name__} is not a LogisticRegression", remedy="use linear_removal")
    return linear_removal(model, X, y, forget_rows, steps, tol=tol, sample_weight=sample_weight, solver=solver).model


def remove_from_ridge(
    model: Ridge | LinearRegression, X: Any, y: Any, forget_rows: Any, *, sample_weight: Any = None, solver: str = "auto"
) -> Ridge | LinearRegression:
    """A fitted ridge (or least squares) regression as if some of its rows had not been there, exactly; see `linear_removal`.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X, y = rng.normal(size=(50, 3)), rng.normal(size=50)
    >>> after = remove_from_ridge(Ridge(2.0).fit(X, y), X, y, [0, 7])
    >>> bool(np.allclose(after.coef_, Ridge(2.0).fit(np.delete(X, [0, 7], 0), np.delete(y, [0, 7])).coef_, atol=1e-12))
    True
    """
    if not isinstance(model, Ridge | LinearRegression):
        raise ModelMismatch(f"{type(model).__name__} is not a Ridge or LinearRegression", remedy="use linear_removal")
    return linear_removal(model, X, y, forget_rows, sample_weight=sample_weight, solver=solver).model


def linear_removal(
    model: Any,
    X: Any,
    y: Any,
    forget_rows: Any,
    steps: int = 1,
    *,
    tol: float = 0.0,
    sample_weight: Any = None,
    solver: str = "auto",
    check: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> LinearRemoval:
    """Remove rows from a fitted linear model of scikit-learn.

    Parameters
    ----------
    model : LogisticRegression (l2 or no penalty; binary or multinomial), Ridge or LinearRegression, fitted
        Never changed.
    X : array or sparse matrix, shape (n, d)
        All rows it was fitted on.
    y : shape (n,), or (n, t) for a regression of t targets
    forget_rows : int (k,) positions or bool (n,)
    steps : int
        Newton steps at most; one is exact for a regression. A step that does not lower the objective is halved.
    tol : float
        Stop before ``steps`` where the norm of the gradient, divided by the retained weight, is at most this.
    sample_weight : float (n,), optional
        As it was given to ``fit``.
    solver : {"auto", "cholesky", "cg"}
        Of a step's linear system: Hessian built and factored, or conjugate gradients on Hessian-vector products.
    check : bool
        Also solve for the step that would come next, which costs as much as a step.
    progress : callable (done, total), optional

    Returns
    -------
    LinearRemoval

    Raises
    ------
    EmptyData
        No row is to be forgotten, or none is left.
    SchemaMismatch
        Shapes do not fit, or a row is out of range.
    NotFinite
        NaN or infinity; or the rows that are left do not determine the weights.
    LabelError
        A label the model does not know, or a class of which no row is left.
    ModelMismatch
        Not fitted, or a model whose objective is not smooth (l1, positive=True, one-versus-rest).

    References
    ----------
    Guo, Goldstein, Hannun and van der Maaten, *Certified data removal from machine learning models*, ICML 2020.
    """
    if steps < 1:
        raise DatumwiseError(f"{steps} steps were asked for", remedy="take at least one")
    if solver not in ("auto", "cholesky", "cg"):
        raise DatumwiseError(f"there is no solver {solver!r}", remedy="choose auto, cholesky or cg")
    if not hasattr(model, "coef_"):
        raise ModelMismatch(f"the {type(model).__name__} is not fitted", remedy="fit it first")
    X = X.tocsr() if sparse.issparse(X) else np.asarray(X)
    y = np.asarray(y)
    if X.ndim != 2 or X.shape[0] != len(y):
        raise SchemaMismatch(f"rows and labels differ in number ({X.shape[0]:,} and {len(y):,})")
    if X.shape[1] != np.shape(model.coef_)[-1]:
        raise SchemaMismatch(f"the rows have {X.shape[1]:,} columns, the model has {np.shape(model.coef_)[-1]:,}")
    gone = forget_mask(forget_rows, len(y))
    keep = np.flatnonzero(~gone)
    weight = np.ones(len(y)) if sample_weight is None else np.asarray(sample_weight, float)
    if weight.shape != (len(y),):
        raise SchemaMismatch(f"sample_weight has shape {weight.shape} for {len(y):,} rows")
    kept = X[keep].astype(np.float64, copy=False)  # a copy already: the rows are picked
    _finite(kept, keep)
    wrong = keep[~np.isfinite(y[keep].reshape(len(keep), -1)).all(1)] if y.dtype.kind == "f" else keep[:0]
    if len(wrong):
        raise NotFinite(f"y is not finite in row {name_some(wrong)}", ids=wrong.tolist())
    logistic = isinstance(model, LogisticRegression)
    objective = (logistic_objective if logistic else squares_objective)(model, kept, y[keep], weight[keep])
    with few_threads(kept):
        theta, taken, before, after = _newton(objective, steps, tol, solver, progress)
        rest = float(np.linalg.norm(_solved(objective, theta, objective.gradient(theta), solver))) if check else None
    moved = float(np.linalg.norm(theta - objective.start))
    new = _copied(model, theta, objective.intercept)
    return LinearRemoval(new, int(gone.sum()), len(keep), taken, before, after, moved, rest)


def newton_logistic(
    X: Any,
    y: Any,
    forget_rows: Any,
    coef: Any,
    intercept: Any = None,
    *,
    C: float = 1.0,
    steps: int = 1,
    sample_weight: Any = None,
    solver: str = "auto",
) -> tuple[np.ndarray, np.ndarray]:
    """The same for plain arrays: weights and intercepts of a logistic regression without some rows.

    Parameters
    ----------
    X : array or sparse matrix, shape (n, d)
    y : int (n,)
        Class codes 0..K-1.
    forget_rows : int (k,) or bool (n,)
    coef : float (1, d) for two classes, or (K, d)
    intercept : float (1,) or (K,), optional
        None: the model has none.
    C : float
        Weight of the summed losses beside ``|coef|^2 / 2``.
    steps, sample_weight, solver
        See `linear_removal`.

    Returns
    -------
    coef, intercept : ndarrays of the input's shapes (intercept zeros where there is none)
    """
    model = LogisticRegression(C=C, fit_intercept=intercept is not None)
    model.coef_ = np.atleast_2d(np.asarray(coef, float))
    rows = len(model.coef_)
    model.intercept_ = np.zeros(rows) if intercept is None else np.atleast_1d(np.asarray(intercept, float))
    model.classes_ = np.arange(max(2, rows))
    found = remove_from_logistic(model, X, y, forget_rows, steps, sample_weight=sample_weight, solver=solver)
    return found.coef_, found.intercept_


def forget_mask(forget_rows: Any, n: int) -> np.ndarray:
    """bool (n,): rows to be forgotten, from positions or a mask; refuses none, all, and rows that are not there."""
    rows = np.asarray(list(forget_rows) if isinstance(forget_rows, range | set | frozenset) else forget_rows)
    if rows.ndim != 1 or (rows.size and rows.dtype.kind not in "iub"):
        raise SchemaMismatch(f"rows to forget must be positions or a mask; got shape {rows.shape} of {rows.dtype}")
    gone = np.zeros(n, bool)
    if rows.dtype == bool:
        if len(rows) != n:
            raise SchemaMismatch(f"the mask of rows to forget has {len(rows):,} entries for {n:,} rows")
        gone = rows.copy()
    elif rows.size:
        bad = rows[(rows < 0) | (rows >= n)]
        if len(bad):
            raise SchemaMismatch(f"rows to forget are not among the {n:,} rows: {name_some(bad)}", ids=bad.tolist())
        gone[rows] = True
    if not gone.any():
        raise EmptyData("there is no row to forget")
    if gone.all():
        raise EmptyData(f"no row is left when all {n:,} are forgotten")
    return gone


# --- Newton -----------------------------------------------------------------------------------------------------------------


def _newton(
    objective: Objective, steps: int, tol: float, solver: str, progress: Callable[[int, int], None] | None
) -> tuple[np.ndarray, int, float, float]:
    """theta (width, K), steps taken, gradient norms before and after."""
    theta, total = objective.start, float(objective.weight.sum())
    value, g = objective.value(theta), objective.gradient(theta)
    before = norm = float(np.linalg.norm(g))
    taken = 0
    for done in range(steps):
        if norm <= tol * total:
            break
        step = _solved(objective, theta, g, solver)
        size, rise = 1.0, float((g * step).sum())
        for _ in range(HALVINGS):
            moved = theta - size * step
            after = objective.value(moved)
            # the slack is what summation rounds: near the optimum a good step changes no digit of the objective
            if after <= value - 1e-4 * size * rise + 1e-12 * abs(value):
                break
            size /= 2
        else:
            break
        theta, value, taken = moved, after, done + 1
        g = objective.gradient(theta)
        norm = float(np.linalg.norm(g))
        if progress is not None:
            progress(taken, steps)
    return theta, taken, before, norm


def _solved(objective: Objective, theta: np.ndarray, g: np.ndarray, solver: str) -> np.ndarray:
    """H^-1 g, shape (width, K)."""
    scores = objective.forward(theta)
    width, K = theta.shape
    small = width * (K if objective.coupled else 1) <= DENSE
    if solver == "cg" or (solver == "auto" and (objective.coupled or not small)):
        found = _by_cg(objective, scores, g)
        if found is not None:
            return found
        if solver == "cg" or not small:
            raise _undetermined()
    matrices = objective.hessians(scores)
    try:
        if objective.coupled:
            return _cholesky(matrices[0], g.T.ravel()).reshape(K, width).T
        return np.stack([_cholesky(matrix, g[:, k]) for k, matrix in enumerate(matrices)], axis=1)
    except np.linalg.LinAlgError:
        raise _undetermined() from None


def _cholesky(matrix: np.ndarray, g: np.ndarray) -> np.ndarray:
    """The solution, refined once: residuals of badly scaled columns fall by the factor's accuracy."""
    scale = 1 / np.sqrt(np.maximum(np.diag(matrix), np.finfo(float).tiny))  # unit diagonal: columns of any unit
    scaled = matrix * scale * scale[:, None]
    factor = cho_factor(scaled)
    if np.diag(factor[0]).min() ** 2 < MIN_CURVATURE:
        raise np.linalg.LinAlgError
    x = cho_solve(factor, g * scale)
    x += cho_solve(factor, g * scale - scaled @ x)
    return x * scale


def _by_cg(objective: Objective, scores: np.ndarray, g: np.ndarray) -> np.ndarray | None:
    """By conjugate gradients; None where they do not converge."""
    shape, size = g.shape, g.size
    near = (
        _kronecker_inverse(objective, scores)
        if shape[0] <= DENSE and objective.coupled
        else _diagonal_inverse(objective, scores)
    )
    operator = LinearOperator((size, size), lambda v: objective.product(scores, v.reshape(shape)).ravel(), dtype=float)
    inverse = LinearOperator((size, size), lambda v: near(v.reshape(shape)).ravel(), dtype=float)
    solution, info = cg(operator, g.ravel(), rtol=CG_TOLERANCE, maxiter=10 * size, M=inverse)
    return None if info or not np.isfinite(solution).all() else solution.reshape(shape)


def _kronecker_inverse(objective: Objective, scores: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Inverse of G (x) S + penalty, G of the rows and S of the classes: one product of the rows in place of K^2 / 2."""
    G, S = objective.kronecker(scores)
    (lam, U), (mu, V) = np.linalg.eigh(G), np.linalg.eigh(S)
    values = np.outer(np.maximum(lam, 0), np.maximum(mu, 0))
    values += max(float(objective.penalty.max()), 1e-8 * float(values.max()))
    return lambda v: U @ ((U.T @ v @ V) / values) @ V.T


def _diagonal_inverse(objective: Objective, scores: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    squares = objective.X.multiply(objective.X) if sparse.issparse(objective.X) else objective.X**2
    K = scores.shape[1]
    bend = np.stack([objective.bend(scores, np.broadcast_to(np.eye(K)[k], scores.shape))[:, k] for k in range(K)], axis=1)
    weighted = objective.weight[:, None] * bend
    diagonal = np.asarray(squares.T @ weighted)
    if objective.intercept:
        diagonal = np.vstack([diagonal, weighted.sum(0)])
    diagonal = np.maximum(diagonal + objective.penalty + objective.gauge()[:, None], np.finfo(float).tiny)
    return lambda v: v / diagonal


def _undetermined() -> NotFinite:
    return NotFinite("the rows that are left do not determine the weights", remedy="fit with a penalty, or train anew")


# --- the way in and out -----------------------------------------------------------------------------------------------------


def _finite(X: Any, rows: np.ndarray) -> None:
    if sparse.issparse(X):
        if not np.isfinite(X.data).all():
            raise NotFinite("the retained rows hold NaN or infinity")
        return
    if np.isfinite(X.sum()) and np.isfinite(np.abs(X).max(initial=0)):
        return
    bad = rows[~np.isfinite(X).all(1)]
    if len(bad):
        raise NotFinite(f"row {name_some(bad)} holds NaN or infinity", ids=bad.tolist())


def _copied(model: Any, theta: np.ndarray, intercept: bool) -> Any:
    """A copy of the estimator with new weights, of the old ones' shapes and types."""
    new = copy.deepcopy(model)
    old = np.asarray(model.coef_.toarray() if sparse.issparse(model.coef_) else model.coef_)
    new.coef_ = (theta[:-1] if intercept else theta).T.reshape(old.shape).astype(old.dtype)
    if intercept:
        was = np.asarray(model.intercept_)
        new.intercept_ = theta[-1].reshape(was.shape).astype(old.dtype) if was.ndim else float(theta[-1, 0])
    return new
