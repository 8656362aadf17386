"""What is each datapoint worth? One entry to every data value, each with standard errors and its cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, UnknownName
from datumwise.score.ame import ame
from datumwise.score.banzhaf import banzhaf
from datumwise.score.class_wise_shapley import class_wise_shapley
from datumwise.score.data_oob import data_oob
from datumwise.score.estimate import Value, row_names
from datumwise.score.lava import lava
from datumwise.score.leave_one_out import leave_one_out
from datumwise.score.shapley import beta_shapley, exact_semivalue, tmc_shapley
from datumwise.score.utility import utility
from datumwise.score.volume import volume

__all__ = ["METHODS", "Value", "value"]

OF_UTILITY: dict[str, Callable[..., Value]] = {
    "tmc": tmc_shapley,
    "beta": beta_shapley,
    "banzhaf": banzhaf,
    "ame": ame,
    "loo": leave_one_out,
    "exact": exact_semivalue,
}
SAMPLED = ("tmc", "beta", "banzhaf", "ame")
METHODS = (*OF_UTILITY, "cs_shapley", "data_oob", "lava", "volume")


def value(
    X: Any,
    y: Any = None,
    X_val: Any = None,
    y_val: Any = None,
    method: str = "tmc",
    *,
    model: Any = None,
    scoring: Callable[[Any, np.ndarray, np.ndarray], float] | None = None,
    random_state: Any = None,
    n_jobs: int | None = None,
    ids: Any = None,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> Value:
    """What each training row is worth.

    ==============  ===================================================  ===========  ===============================
    method          value of row i                                       needs        cost, in models trained
    ==============  ===================================================  ===========  ===============================
    ``tmc``         Shapley, truncated Monte Carlo                       X_val        n x ``n_permutations`` (200)
    ``beta``        Shapley with small sets first, Beta(16, 1)           X_val        n x ``n_permutations`` (200)
    ``banzhaf``     mean v of sets with i - mean v of sets without       X_val        ``n_subsets`` (1000)
    ``ame``         effect at four densities, sparse regression          X_val        ``n_subsets`` (1000)
    ``loo``         v(all) - v(all but i)                                X_val        n + 1
    ``exact``       Shapley (or ``semivalue=``) from all sets, n <= 20   X_val        2^n
    ``cs_shapley``  Shapley within the class, given the other classes    X_val        n x ``n_permutations`` (100)
    ``data_oob``    how often bags without i predict it right            labels       ``n_models`` (800)
    ``lava``        gradient of the transport to the validation rows     X_val        none
    ``volume``      Shapley of the volume spanned                        X only       none; n x ``n_permutations``
    ==============  ===================================================  ===========  ===============================

    Parameters
    ----------
    X : float (n, d), finite
    y : int (n,) labels 0, 1, ..., or float (n,) targets that are not all whole
    X_val, y_val : (m, d), (m,)
        Validation rows: never those of a final test.
    method : str, default "tmc"
    model : None or "ridge", "knn", or a scikit-learn estimator
        What is trained; ridge regression on one-hot labels by default, retrained in microseconds. ``data_oob``
        takes an estimator, a decision tree by default.
    scoring : callable, optional
        ``scoring(model, X_val, y_val) -> float``, with an estimator.
    random_state : None, int or Generator
    n_jobs : int, optional
        Fits of an estimator at a time.
    ids : array (n,), optional
        Names of the rows, all different.
    progress : callable, optional
        Called with (done, in all).
    **options
        Of the method: see `tmc_shapley`, `beta_shapley`, `banzhaf`, `ame`, `leave_one_out`, `exact_semivalue`,
        `class_wise_shapley`, `data_oob`, `lava`, `volume`; and ``alpha`` (of ridge: ``ridge_alpha``), ``k``, ``empty`` of
        the utility.

    Returns
    -------
    Value
        Higher is worth more. ``.stderr``, ``.utility_calls``, ``.reliability``, ``.to_scores()``.

    Raises
    ------
    UnknownName, EmptyData, SchemaMismatch, LabelError, NotFinite, DuplicateId, DatumwiseError

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> y, y_val = np.arange(60) % 3, np.arange(300) % 3
    >>> X, X_val = 3 * np.eye(3)[y] + rng.normal(size=(60, 3)), 3 * np.eye(3)[y_val] + rng.normal(size=(300, 3))
    >>> y[:4] = (y[:4] + 1) % 3  # four wrong labels
    >>> found = value(X, y, X_val, y_val, "tmc", random_state=0)
    >>> sorted(found.values.argsort()[:4].tolist())
    [0, 1, 2, 3]
    """
    if method not in METHODS:
        raise UnknownName(f"there is no data value {method!r}", remedy=f"one of {', '.join(METHODS)}")
    if ids is not None:
        ids = row_names(ids, len(X))  # before anything is computed
    shared: dict[str, Any] = {"ids": ids, "progress": progress}
    if method in ("lava", "volume") and (model is not None or scoring is not None):
        raise DatumwiseError(f"{method} trains no model", remedy="leave model= and scoring= out")
    if method == "volume":
        return volume(X, random_state=random_state, **shared, **options)
    if y is None:
        raise EmptyData("y is missing", remedy="only method='volume' does without labels")
    if method == "data_oob":
        if scoring is not None:
            raise DatumwiseError("data_oob looks at one row at a time: there is nothing to score", remedy="leave scoring= out")
        return data_oob(X, y, model, random_state=random_state, n_jobs=n_jobs, **shared, **options)
    if method == "lava":
        return lava(X, y, X_val, y_val, **shared, **options)
    if method == "cs_shapley":
        return class_wise_shapley(X, y, X_val, y_val, model, random_state=random_state, n_jobs=n_jobs, **shared, **options)
    of_utility = {
        to: options.pop(name) for name, to in (("ridge_alpha", "alpha"), ("k", "k"), ("empty", "empty")) if name in options
    }
    game = utility(X, y, X_val, y_val, model, scoring=scoring, n_jobs=n_jobs, **of_utility)
    if method in SAMPLED:
        shared["random_state"] = random_state
    return OF_UTILITY[method](game, **shared, **options)
