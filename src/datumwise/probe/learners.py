"""Learners by the names people call them, for cross-validated predictions and for retraining proofs.

Those named here are scikit-learn's own; what is fixed are the settings that must not change between two runs being compared.
Rooms above and other packages add theirs through the entry-point groups ``datumwise.learners.classification`` and
``datumwise.learners.regression``: a name, and a class or function that takes ``random_state``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from importlib.metadata import EntryPoint, entry_points

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

from datumwise.errors import MissingExtra, UnknownName

__all__ = ["LEARNERS", "default_prober", "learner", "learner_name", "learners"]

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


@cache
def learners(task: str) -> dict[str, Callable[[int], BaseEstimator]]:
    """Every learner of a task by name, those of other rooms and packages last: what builds it from a seed.

    Examples
    --------
    >>> list(learners("regression"))[:2]
    ['nearest neighbour', 'ridge regression']
    """
    found = {
        one.name.replace("-", " ").lower(): partial(_from_entry_point, one)
        for one in entry_points(group=f"datumwise.learners.{task}")
    }
    return {**LEARNERS[task], **{name: build for name, build in sorted(found.items()) if name not in LEARNERS[task]}}


def _from_entry_point(point: EntryPoint, seed: int) -> BaseEstimator:
    try:
        build = point.load()
    except ModuleNotFoundError as error:
        extra = "'datumwise[learn]'" if point.value.startswith("datumwise.") else error.name
        raise MissingExtra(f"the learner {point.name!r} needs {error.name}", remedy=f"pip install {extra}") from error
    return build(random_state=seed)


def learner(name: str, task: str, *, seed: int = 0) -> BaseEstimator:
    """An unfitted learner by name.

    Parameters
    ----------
    name : str
        One of ``learners(task)`` (``-`` may stand for the space).
    task : str
        ``"classification"`` or ``"regression"``.
    seed : int

    Raises
    ------
    UnknownName
        If there is no such learner.
    MissingExtra
        If what it is built on is not installed.

    Examples
    --------
    >>> learner("nearest-neighbour", "classification")
    KNeighborsClassifier(n_neighbors=1)
    """
    known = learners(task)
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
    >>> learner_name(default_prober("table", "classification"))
    'extra trees with nearest neighbours'
    """
    if [name for name, _ in getattr(estimator, "estimators", None) or ()] == ["trees", "neighbours"]:
        return "extra trees with nearest neighbours"  # the default prober
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
