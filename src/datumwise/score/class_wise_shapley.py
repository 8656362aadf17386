"""What does a row add for its own class, and what for the others? Class-wise Shapley.

Schoch, Xu and Ji, 2022, *CS-Shapley: Class-wise Shapley Values for Data Valuation in Classification*, NeurIPS,
section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, LabelError
from datumwise.score.checks import class_labels, several_classes
from datumwise.score.estimate import RunningMoments, Value, row_names
from datumwise.score.utility import Utility, utility

__all__ = ["class_wise_shapley"]


def class_wise_shapley(
    X: Any,
    y: Any,
    X_val: Any,
    y_val: Any,
    model: Any = None,
    *,
    n_permutations: int = 100,
    tolerance: float = 0.01,
    normalize: bool = True,
    n_jobs: int | None = None,
    random_state: Any = None,
    ids: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> Value:
    """Shapley values within each class, given random sets of the other classes.

    For class c and a set E of rows of other classes v_c(S given E) = a_c exp(a_rest), where a_c is the number of
    validation rows of class c, and a_rest that of the other classes, that the model trained on S and E predicts
    right, both over the number of all validation rows. A row's value is the Shapley value of S -> v_c(S given E) - v_c(empty
    given E) among the rows of its class, on the mean over E drawn from all subsets of the other rows.

    Parameters
    ----------
    X : float (n, d), finite
    y : int (n,)
    X_val, y_val : (m, d), (m,)
    model : None, "ridge" or a classifier
        See `datumwise.score.utility.utility`.
    n_permutations : int, default 100
        Of every class, each with an E of its own.
    tolerance : float, default 0.01
        A permutation is left off within tolerance times v_c(all) of it; 0: never.
    normalize : bool, default True
        Scale the values of each class to sum to a_c of the model trained on all rows, as published. The scale is a
        sampled number too: it is counted as given in the standard errors. Off where the values of a class sum to
        less than its two standard errors.
    n_jobs : int, optional
        Fits at a time, for a classifier.
    random_state : None, int or Generator
    ids : array (n,), optional
    progress : callable, optional
        Called with (permutations done, in all).

    Returns
    -------
    Value

    Raises
    ------
    LabelError
        One class only, or a class of ``y`` that no validation row has.
    """
    y, y_val = class_labels(y, "y"), class_labels(y_val, "y_val")
    several_classes(y)
    if n_permutations < 2:
        raise DatumwiseError(f"{n_permutations} permutation has no standard error", remedy="n_permutations >= 2")
    classes = np.unique(y)
    absent = np.setdiff1d(classes, y_val)
    if len(absent):
        raise LabelError(
            f"no validation row is of class {', '.join(map(str, absent[:3]))}",
            remedy="add some: a row is valued by what it does for its class",
        )
    rng = np.random.default_rng(random_state)
    values, stderr = np.empty(len(y)), np.empty(len(y))
    calls = 0
    for place, c in enumerate(classes):
        own = y_val == c
        game = utility(X, y, X_val, y_val, model, aggregate=in_and_out(own), n_jobs=n_jobs, empty=0.0)
        members = np.flatnonzero(y == c)
        tell = partial(_tell, progress, place, n_permutations, len(classes))
        found = _one_class(game, members, n_permutations, tolerance, rng, tell)
        scale = 1.0
        if normalize:
            share = utility(X, y, X_val, y_val, model, aggregate=partial(_inside, own), n_jobs=n_jobs)
            total, error = found.mean.sum(), np.sqrt((found.stderr**2).sum())
            if abs(total) > 2 * error:
                scale = share.full() / total
            calls += share.calls
        values[members], stderr[members] = scale * found.mean, abs(scale) * found.stderr
        calls += game.calls
    n_draws = n_permutations * len(classes)
    return Value("cs_shapley", values, stderr, calls, n_draws, row_names(ids, len(y)))


def in_and_out(own: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """right (b, m) -> a_c exp(a_rest), (b,): which validation rows are of class c is ``own`` (m,)."""

    def worth(right: np.ndarray) -> np.ndarray:
        return _inside(own, right) * np.exp(_inside(~own, right))

    return worth


def _one_class(
    game: Utility,
    members: np.ndarray,
    n_permutations: int,
    tolerance: float,
    rng: np.random.Generator,
    tell: Callable[[int], None],
) -> RunningMoments:
    """Marginal contributions of the members, a draw a permutation and a set of the others."""
    target = game.full()
    found = RunningMoments(len(members))
    others = np.ones(game.n, bool)
    others[members] = False
    step = game.batch(len(members))
    for start in range(0, n_permutations, step):
        b = min(step, n_permutations - start)
        order = rng.permuted(np.tile(np.arange(len(members)), (b, 1)), axis=1)
        environment = (rng.random((b, game.n)) < 0.5) & others
        walked = game.prefixes(members[order], base=environment, tolerance=tolerance * abs(target), target=target)
        added = np.empty((b, len(members)))
        np.put_along_axis(added, order, np.diff(walked, axis=1), axis=1)
        found.add(added)
        tell(start + b)
    return found


def _inside(own: np.ndarray, right: np.ndarray) -> np.ndarray:
    """a_c: right among the validation rows of class c, over all of them."""
    return right[:, own].sum(axis=1) / right.shape[1]


def _tell(progress: Callable[[int, int], None] | None, place: int, each: int, classes: int, done: int) -> None:
    if progress:
        progress(place * each + done, classes * each)
