"""Do models that never saw a row predict it right? Data-OOB, a value without validation rows.

Kwon and Zou, 2023, *Data-OOB: Out-of-bag Estimate as a Simple and Efficient Data Value*, ICML, eq. 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, SchemaMismatch
from datumwise.probe.neighbours import finite_matrix
from datumwise.score.estimate import Value, row_names
from datumwise.score.utility import targets

__all__ = ["data_oob"]

BAGS = 16  # fitted between two reports of progress


def data_oob(
    X: Any,
    y: Any,
    model: Any = None,
    *,
    n_models: int = 800,
    random_state: Any = None,
    n_jobs: int | None = None,
    ids: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Value:
    """Mean over the bags that lack a row of 1[predicted right]; for numbers of -(prediction - target)².

    Parameters
    ----------
    X : float (n, d), finite
    y : int (n,) labels, or float (n,) targets that are not all whole
    model : estimator, optional
        Cloned and fitted to every bootstrap sample; a decision tree by default, as published.
    n_models : int, default 800
        Bags.
    random_state : None, int or Generator
    n_jobs : int, optional
        Fits at a time.
    ids : array (n,), optional
    progress : callable, optional
        Called with (bags done, ``n_models``).

    Returns
    -------
    Value
        Standard errors are those of the mean over the bags that lack the row, the rows being given; NaN for a row
        that fewer than two bags lack (a row is in 63 % of the bags).

    Examples
    --------
    >>> X, y = np.repeat([[0.0], [1.0]], 10, axis=0) + np.arange(20)[:, None] / 100, np.repeat([0, 1], 10)
    >>> y[3] = 1  # a wrong label
    >>> int(data_oob(X, y, n_models=100, random_state=0).values.argmin())
    3
    """
    X, y = finite_matrix(X, "X"), targets(y, "y")
    if len(X) != len(y):
        raise SchemaMismatch(f"X has {len(X):,} rows and {len(y):,} labels")
    if n_models < 2:
        raise DatumwiseError(f"{n_models} bag has no standard error", remedy="n_models >= 2")
    n = len(X)
    regression = y.dtype.kind == "f"
    seeds = np.random.default_rng(random_state).integers(0, 2**31 - 1, n_models)
    fit = _tree_bag if model is None else _model_bag
    count, total, squares = np.zeros(n), np.zeros(n), np.zeros(n)
    if model is None:
        X = np.ascontiguousarray(X, np.float32)  # what trees work on: converted once, not once a tree
    for start in range(0, n_models, BAGS):
        block = seeds[start : start + BAGS]
        if n_jobs is None or n_jobs == 1:
            bags = [fit(model, X, y, seed) for seed in block]
        else:
            from joblib import Parallel, delayed

            bags = Parallel(n_jobs=n_jobs)(delayed(fit)(model, X, y, seed) for seed in block)
        for out, predicted in bags:
            point = -((predicted - y[out]) ** 2) if regression else (predicted == y[out]).astype(np.float64)
            count[out] += 1
            total[out] += point
            squares[out] += point**2
        if progress:
            progress(min(start + BAGS, n_models), n_models)
    known = np.where(count > 1, count, np.nan)
    values = total / np.where(count > 0, count, np.nan)
    stderr = np.sqrt(np.maximum(squares - known * values**2, 0) / (known - 1) / known)
    return Value("data_oob", values, stderr, n_models, n_models, row_names(ids, n))


def bag(n: int, seed: int) -> np.ndarray:
    """int64 (n,): how often each row is in the bootstrap sample of this seed."""
    return np.bincount(np.random.default_rng(seed).integers(0, n, n), minlength=n)


def _tree_bag(_: Any, X: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows that the bag lacks and what its tree predicts for them."""
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    times = bag(len(X), seed)
    inside, out = np.flatnonzero(times), np.flatnonzero(times == 0)
    kind = DecisionTreeRegressor if y.dtype.kind == "f" else DecisionTreeClassifier
    # a row drawn thrice is a row of weight three, which a tree treats alike and sorts once
    tree = kind(random_state=int(seed)).fit(X[inside], y[inside], sample_weight=times[inside].astype(float), check_input=False)
    return out, tree.predict(X[out], check_input=False) if len(out) else np.empty(0, y.dtype)


def _model_bag(model: Any, X: np.ndarray, y: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    from sklearn.base import clone

    times = bag(len(X), seed)
    rows, out = np.repeat(np.arange(len(X)), times), np.flatnonzero(times == 0)
    if len(out) == 0 or (y[rows] == y[rows][0]).all():
        return out, np.full(len(out), y[rows][0])
    return out, clone(model).fit(X[rows], y[rows]).predict(X[out])
