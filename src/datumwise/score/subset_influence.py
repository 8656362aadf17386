"""Which datapoints are only got right when trained on, and which tests hang on them? From many runs on subsets.

Feldman and Zhang, 2020, *What Neural Networks Memorize and Why*, NeurIPS, definitions 1 and 2 and algorithm 1.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, SchemaMismatch
from datumwise.score.checks import class_labels
from datumwise.score.estimate import Value, row_names
from datumwise.score.utility import EstimatorUtility, RidgeUtility, utility

__all__ = ["SubsetInfluence", "subset_influence"]


class SubsetInfluence:
    """Streaming estimates of memorisation and influence: runs come one by one, only sums are kept.

    Parameters
    ----------
    n_train : int
    n_test : int, default 0

    Examples
    --------
    >>> runs = SubsetInfluence(2, 1)
    >>> for mask, own, test in (([1, 0], [1, 0], [1]), ([0, 1], [0, 1], [0]), ([1, 1], [1, 1], [1]), ([0, 0], [0, 1], [0])):
    ...     runs.add(mask, own, test)
    >>> runs.memorisation().values.tolist(), runs.influence()[0].tolist()
    ([1.0, 0.5], [[1.0, 0.0]])
    """

    def __init__(self, n_train: int, n_test: int = 0) -> None:
        self.n_train, self.n_test = n_train, n_test
        self.runs = 0
        self._inside = np.zeros(n_train)  # runs that trained on i
        self._own = np.zeros((2, 2, n_train))  # [out | in, sum | sum of squares] of the outcome on i itself
        self._test = np.zeros((2, n_test))  # [sum, squares] of each test's outcome
        self._with = np.zeros((2, n_test, n_train))  # the same over the runs that trained on i

    def add(self, masks: Any, train: Any, test: Any = None) -> None:
        """Take in r runs.

        Parameters
        ----------
        masks : bool (r, n_train) or (n_train,)
            What each run trained on.
        train : bool or float, same shape
            What came out on each training datapoint, in the set or not: 1 right, 0 wrong, or a probability.
        test : bool or float (r, n_test) or (n_test,), optional
            The same for the tests.
        """
        masks = np.atleast_2d(np.asarray(masks, bool))
        train = np.atleast_2d(np.asarray(train, np.float64))
        test = np.zeros((len(masks), 0)) if test is None else np.atleast_2d(np.asarray(test, np.float64))
        r = len(masks)
        if masks.shape != (r, self.n_train) or train.shape != masks.shape or test.shape != (r, self.n_test):
            raise SchemaMismatch(
                f"masks {masks.shape}, train {train.shape} and test {test.shape} do not fit {self.n_train:,} training "
                f"datapoints and {self.n_test:,} tests"
            )
        self.runs += r
        self._inside += masks.sum(axis=0)
        for side, member in enumerate((~masks, masks)):
            self._own[side, 0] += np.where(member, train, 0).sum(axis=0)
            self._own[side, 1] += np.where(member, train**2, 0).sum(axis=0)
        if self.n_test:
            weight = masks.astype(np.float64)
            for power, outcome in enumerate((test, test**2)):
                self._test[power] += outcome.sum(axis=0)
                self._with[power] += outcome.T @ weight

    def memorisation(self, ids: Any = None) -> Value:
        """mem(i) = P[i right | trained on i] - P[i right | not], with standard errors.

        Returns
        -------
        Value
            -1 to 1; NaN for a datapoint that was always in, or never.
        """
        out, inside = self.runs - self._inside, self._inside
        low, low_error = _mean(self._own[0, 0], self._own[0, 1], out)
        high, high_error = _mean(self._own[1, 0], self._own[1, 1], inside)
        names = row_names(ids, self.n_train)
        return Value("memorisation", high - low, np.sqrt(low_error + high_error), self.runs, self.runs, names)

    def influence(self) -> tuple[np.ndarray, np.ndarray]:
        """infl(i, j) = P[test j right | trained on i] - P[test j right | not].

        Returns
        -------
        influence : float64 (n_test, n_train)
            Higher: i helps j more. NaN where i was always in, or never.
        stderr : float64 (n_test, n_train)
        """
        out, inside = self.runs - self._inside, self._inside
        high, high_error = _mean(self._with[0], self._with[1], inside)
        low, low_error = _mean(self._test[0][:, None] - self._with[0], self._test[1][:, None] - self._with[1], out)
        return high - low, np.sqrt(low_error + high_error)


def subset_influence(
    X: Any,
    y: Any,
    X_test: Any = None,
    y_test: Any = None,
    model: Any = None,
    *,
    n_runs: int = 2000,
    share: float = 0.7,
    n_jobs: int | None = None,
    random_state: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> SubsetInfluence:
    """Train on random subsets and see who is got right with and without whom.

    Parameters
    ----------
    X : float (n, d), finite
    y : int (n,)
    X_test, y_test : (t, d), (t,), optional
    model : None, "ridge" or a classifier
        See `datumwise.score.utility.utility`.
    n_runs : int, default 2000
    share : float, default 0.7
        Of the datapoints in a run.
    n_jobs : int, optional
    random_state : None, int or Generator
    progress : callable, optional
        Called with (runs done, in all).

    Returns
    -------
    SubsetInfluence
        ``.memorisation()``, ``.influence()``; more runs can be added.
    """
    y = class_labels(y, "y")
    n = len(y)
    size = round(share * n)
    if not 0 < size < n:
        raise DatumwiseError(f"share = {share} of {n} datapoints leaves nobody in, or nobody out", remedy="such as 0.7")
    X = np.asarray(X)
    asked, wanted = (
        (X, y) if X_test is None else (np.concatenate([X, np.asarray(X_test)]), np.concatenate([y, class_labels(y_test)]))
    )
    learner = utility(X, y, asked, wanted, model, n_jobs=n_jobs)
    if not isinstance(learner, RidgeUtility | EstimatorUtility):
        raise DatumwiseError("the nearest-neighbour vote is a share, not right or wrong", remedy="model='ridge'")
    rng = np.random.default_rng(random_state)
    found = SubsetInfluence(n, len(asked) - n)
    step = max(1, min(learner.batch(1), n_runs))
    for start in range(0, n_runs, step):
        r = min(step, n_runs - start)
        masks = np.zeros((r, n), bool)
        np.put_along_axis(masks, rng.permuted(np.tile(np.arange(n), (r, 1)), axis=1)[:, :size], True, axis=1)
        right = learner.right(masks)
        found.add(masks, right[:, :n], right[:, n:])
        if progress:
            progress(start + r, n_runs)
    return found


def _mean(total: np.ndarray, squares: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean, and the variance of that mean; NaN for none, infinite for one."""
    known = np.where(count > 0, count, np.nan)
    mean = total / known
    several = np.where(count > 1, count - 1, np.nan)
    variance = np.maximum(squares - known * mean**2, 0) / several / known
    return mean, np.where(count == 1, np.inf, variance)
