"""Learners by the names people call them, for cross-validated predictions and for retraining proofs.

All are scikit-learn's own; what is fixed here are the settings that must not change between two runs being compared.
"""

from __future__ import annotations

from collections.abc import Callable

from sklearn.base import BaseEstimator
from sklearn.ensemble import (
    ExtraTreesClassifier,
    ExtraTreesRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler

from datumwise.errors import UnknownName

__all__ = ["LEARNERS", "default_prober", "learner", "learner_name"]

TREES = 200  # of a forest
NEIGHBOURS = 10  # votes of the prober's nearest-neighbour half


# task -> name -> what builds it from a seed. The nearest neighbour leans on every single datapoint, so it shows what each
# does; a linear model averages label noise away. Both are true of the same data, so a proof shows both.
LEARNERS: dict[str, dict[str, Callable[[int], BaseEstimator]]] = {
    "classification": {
        "nearest neighbour": lambda seed: KNeighborsClassifier(1),
        "logistic regression": lambda seed: make_pipeline(MaxAbsScaler(), LogisticRegression(max_iter=1000)),
        "extra trees": lambda seed: ExtraTreesClassifier(TREES, random_state=seed, n_jobs=-1),
        "gradient boosting": lambda seed: HistGradientBoostingClassifier(random_state=seed),
    },
    "regression": {
        "nearest neighbour": lambda seed: KNeighborsRegressor(1),
        "ridge regression": lambda seed: make_pipeline(MaxAbsScaler(), Ridge()),
        "extra trees": lambda seed: ExtraTreesRegressor(TREES, random_state=seed, n_jobs=-1),
        "gradient boosting": lambda seed: HistGradientBoostingRegressor(random_state=seed),
    },
}


def learner(name: str, task: str, *, seed: int = 0) -> BaseEstimator:
    """An unfitted learner by name.

    Parameters
    ----------
    name : str
        One of ``LEARNERS[task]`` (``-`` may stand for the space).
    task : str
        ``"classification"`` or ``"regression"``.
    seed : int

    Raises
    ------
    UnknownName
        If there is no such learner.

    Examples
    --------
    >>> learner("nearest-neighbour", "classification")
    KNeighborsClassifier(n_neighbors=1)
    """
    known = LEARNERS[task]
    build = known.get(name.replace("-", " ").lower())
    if build is None:
        raise UnknownName(f"there is no learner {name!r} for {task}", remedy=f"choose one of {', '.join(known)}")
    return build(seed)


def learner_name(estimator: BaseEstimator) -> str:
    """What to call an estimator that a user brought.

    Examples
    --------
    >>> from sklearn.linear_model import Ridge
    >>> learner_name(Ridge())
    'Ridge'
    """
    steps = getattr(estimator, "steps", None)
    return type(steps[-1][1] if steps else estimator).__name__


def default_prober(kind: str, task: str, *, seed: int = 0) -> BaseEstimator:
    """The learner whose out-of-fold predictions are read when the user names no model.

    Tables and pictures: the mean of extra trees (200) and 10 distance-weighted nearest neighbours, whose errors differ, so
    that confident learning sees calibrated probabilities. Text: logistic regression on sparse TF-IDF.
    """
    if task == "regression":
        if kind == "text":
            return Ridge(solver="sparse_cg", random_state=seed)
        halves = [
            ("trees", learner("extra trees", task, seed=seed)),
            ("neighbours", KNeighborsRegressor(NEIGHBOURS, weights="distance")),
        ]
        return VotingRegressor(halves)
    if kind == "text":
        return LogisticRegression(C=10.0, max_iter=1000)
    halves = [
        ("trees", learner("extra trees", task, seed=seed)),
        ("neighbours", KNeighborsClassifier(NEIGHBOURS, weights="distance")),
    ]
    return VotingClassifier(halves, voting="soft")
