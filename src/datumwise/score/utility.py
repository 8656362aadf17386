"""What is a set of training rows worth? Utilities of subsets, many at once, each set trained on only once.

Two learners are built in because retraining them is cheap: ridge regression on one-hot labels, which takes in one
more row by a rank-one update (Sherman and Morrison, 1950) for many permutations at a time, and the nearest-neighbour
vote. Any scikit-learn estimator does as well, at the price of a fit a set.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, LabelError, NotFinite, SchemaMismatch, UnknownName
from datumwise.probe.neighbours import finite_matrix, neighbours
from datumwise.score.checks import class_labels, finite_column

__all__ = ["EstimatorUtility", "GameUtility", "KNNUtility", "RidgeUtility", "Utility", "utility"]

CACHED = 1 << 17  # utilities remembered
FLOATS = 1 << 21  # float64 held at a time (16 MiB: they stay in the cache)
TIE = 1e-12  # head start a class has over the next: ties go to the lowest, as argmax has it


class Utility:
    """v(S) for sets S of n rows; remembers what it has computed, and counts it.

    Subclasses implement `_values(masks)`, and `_prefixes` where a sequence of growing sets is cheaper than its
    members one by one.

    Attributes
    ----------
    n : int
        Rows.
    empty : float
        v(no rows).
    calls : int
        Sets computed so far, without those remembered.
    """

    def __init__(self, n: int, empty: float = 0.0) -> None:
        self.n = n
        self.empty = float(empty)
        self.calls = 0
        self._known: dict[bytes, float] = {}

    def __call__(self, masks: Any) -> np.ndarray:
        """Utilities of b sets.

        Parameters
        ----------
        masks : bool (b, n) or (n,)

        Returns
        -------
        float64 (b,)
        """
        masks = np.atleast_2d(np.asarray(masks, bool))
        if masks.shape[1] != self.n:
            raise SchemaMismatch(f"masks must be sets x {self.n:,} rows; the shape is {masks.shape}")
        keys = [key.tobytes() for key in np.packbits(masks, axis=1)]
        new = {key: b for b, key in enumerate(keys) if key not in self._known}
        found: dict[bytes, float] = {key: self._known[key] for key in keys if key in self._known}
        if new:
            rows = masks[list(new.values())]
            values = np.full(len(rows), self.empty)
            filled = rows.any(axis=1)
            if filled.any():
                values[filled] = self._values(rows[filled])
                self.calls += int(filled.sum())
            found.update(zip(new, values.tolist(), strict=True))
            self._remember(new, values)
        return np.array([found[key] for key in keys])

    def full(self) -> float:
        """v(all rows)."""
        return float(self(np.ones(self.n, bool))[0])

    def prefixes(self, orders: Any, *, base: Any = None, tolerance: float = 0.0, target: float | None = None) -> np.ndarray:
        """Utilities of the growing sets along each order.

        Parameters
        ----------
        orders : int (b, L)
            Rows in the order they join.
        base : bool (b, n), optional
            Rows that are there from the start.
        tolerance : float, default 0
            An order is left off once its utility is closer than this to ``target``; what follows keeps the value.
        target : float, optional
            v(all rows) by default.

        Returns
        -------
        float64 (b, L + 1)
            The first is v(base).
        """
        orders = np.atleast_2d(np.asarray(orders, np.int64))
        start = np.zeros((len(orders), self.n), bool) if base is None else np.asarray(base, bool).copy()
        goal = (self.full() if target is None else target) if tolerance > 0 else np.nan
        return self._prefixes(orders, start, tolerance, goal)

    def batch(self, length: int) -> int:
        """How many orders of this length are best walked together."""
        return max(1, FLOATS // max(1, 4 * self.n))

    def _values(self, masks: np.ndarray) -> np.ndarray:
        raise NotImplementedError

    def _prefixes(self, orders: np.ndarray, held: np.ndarray, tolerance: float, target: float) -> np.ndarray:
        """One step of all orders at a time, so that a step is one batch of sets."""
        values = np.empty((len(orders), orders.shape[1] + 1))
        values[:, 0] = self(held)
        walking = np.flatnonzero(~(np.abs(values[:, 0] - target) < tolerance))
        for step in range(orders.shape[1]):
            values[:, step + 1] = values[:, step]
            if len(walking) == 0:
                continue
            held[walking, orders[walking, step]] = True
            values[walking, step + 1] = self(held[walking])
            walking = walking[~(np.abs(values[walking, step + 1] - target) < tolerance)]
        return values

    def _remember(self, new: dict[bytes, int], values: np.ndarray) -> None:
        self._known.update(zip(new, values.tolist(), strict=True))
        while len(self._known) > CACHED:
            self._known.pop(next(iter(self._known)))


class GameUtility(Utility):
    """Any set function: ``function(masks (b, n) bool) -> (b,)``; it is asked about the empty set once.

    Examples
    --------
    >>> worth = GameUtility(3, lambda masks: masks @ [1.0, 2.0, 3.0])
    >>> worth([[True, False, True], [False, False, False]]).tolist(), worth.calls
    ([4.0, 0.0], 1)
    """

    def __init__(self, n: int, function: Callable[[np.ndarray], Any]) -> None:
        self._function = function
        super().__init__(n, float(np.asarray(function(np.zeros((1, n), bool)))[0]))

    def _values(self, masks: np.ndarray) -> np.ndarray:
        values = np.asarray(self._function(masks), np.float64)
        if values.shape != (len(masks),):
            raise SchemaMismatch(f"the set function gave shape {values.shape} for {len(masks):,} sets")
        return values


class RidgeUtility(Utility):
    """Accuracy (or R²) on the validation rows of ridge regression on one-hot labels.

    Columns are standardised once, over all training rows, so that a set's own scaling is not part of what its rows
    are worth; an intercept is among the penalised weights. With u = 1/K for labels of K classes,
    W = (X'X + alpha I)^-1 X'(onehot(y) - u), the prediction is the largest of x'W, ties to the lowest class.

    Parameters
    ----------
    X, y, X_val, y_val
        See `utility`.
    alpha : float, default 1.0
    aggregate : callable, optional
        ``aggregate(right (b, m) bool) -> (b,)``: what makes a utility of which validation rows are right; their
        share by default.
    empty : float, optional
        1/K by default (a guess), 0 for a regression (the mean).
    """

    def __init__(
        self,
        X: np.ndarray,
        y: np.ndarray,
        X_val: np.ndarray,
        y_val: np.ndarray,
        *,
        alpha: float = 1.0,
        aggregate: Callable[[np.ndarray], np.ndarray] | None = None,
        empty: float | None = None,
    ) -> None:
        if not alpha > 0:
            raise DatumwiseError(f"alpha = {alpha} cannot hold a fit on few rows together", remedy="alpha > 0")
        self.classes = 0 if y.dtype.kind == "f" else int(max(y.max(), y_val.max())) + 1
        super().__init__(len(X), _guess(self.classes) if empty is None else empty)
        mean, scale = X.mean(axis=0, dtype=np.float64), X.std(axis=0, dtype=np.float64)
        scale[scale == 0] = 1.0
        self._X = np.column_stack([(X - mean) / scale, np.ones(len(X))])
        self._V = np.column_stack([(X_val - mean) / scale, np.ones(len(X_val))])
        self.alpha = alpha
        self._aggregate = aggregate or _share
        if self.classes:
            self._targets = np.eye(self.classes)[y] - 1 / self.classes
            self._y_val = y_val
        else:
            centre, spread = y.mean(), y.std() or 1.0
            self._targets = ((y - centre) / spread)[:, None]
            self._y_val = (y_val - centre) / spread

    def batch(self, length: int) -> int:
        D, (m, K) = self._X.shape[1], (len(self._V), self._targets.shape[1])
        return int(np.clip(FLOATS // (D * D + 2 * m * K), 1, 256))

    def right(self, masks: Any) -> np.ndarray:
        """bool (b, m): which validation rows the model trained on each set predicts right; labels only."""
        masks = np.asarray(masks, bool)
        step = self.batch(1)
        blocks = (self._fitted(masks[start : start + step], inverse=False)[2] for start in range(0, len(masks), step))
        return np.concatenate([self._right(F) for F in blocks])

    def _values(self, masks: np.ndarray) -> np.ndarray:
        values = np.empty(len(masks))
        step = self.batch(1)
        for start in range(0, len(masks), step):
            _, _, F = self._fitted(masks[start : start + step], inverse=False)
            values[start : start + step] = self._worth(F)
        return values

    def _fitted(self, masks: np.ndarray, inverse: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(X'X + alpha I)^-1 (b, D, D) if asked for, weights (b, D, K) and validation outputs (b, K, m)."""
        D, K = self._X.shape[1], self._targets.shape[1]
        gram = np.empty((len(masks), D, D))
        moment = np.empty((len(masks), D, K))
        for b, mask in enumerate(masks):
            rows = self._X[mask]
            gram[b] = rows.T @ rows
            moment[b] = rows.T @ self._targets[mask]
        gram[:, np.arange(D), np.arange(D)] += self.alpha
        P = np.linalg.inv(gram) if inverse else gram
        W = P @ moment if inverse else np.linalg.solve(gram, moment)
        return P, W, self._outputs(W)

    def _outputs(self, W: np.ndarray) -> np.ndarray:
        F = W.transpose(0, 2, 1) @ self._V.T
        if self.classes:
            F -= TIE * np.arange(self.classes)[:, None]
        return F

    def _worth(self, F: np.ndarray) -> np.ndarray:
        if not self.classes:
            error = ((F[:, 0] - self._y_val) ** 2).sum(axis=1)
            return 1 - error / ((self._y_val - self._y_val.mean()) ** 2).sum()
        return self._aggregate(self._right(F))

    def _right(self, F: np.ndarray) -> np.ndarray:
        return F[:, self._y_val, np.arange(F.shape[2])] >= F.max(axis=1)

    def _prefixes(self, orders: np.ndarray, held: np.ndarray, tolerance: float, target: float) -> np.ndarray:
        B, L = orders.shape
        values = np.empty((B, L + 1))
        P, W, F = self._fitted(held, inverse=True)
        values[:, 0] = np.where(held.any(axis=1), self._worth(F), self.empty)
        self.calls += int(held.any(axis=1).sum())
        walking = np.arange(B)
        for step in range(L):
            going = ~(np.abs(values[walking, step] - target) < tolerance)
            values[:, step + 1] = values[:, step]
            if not going.all():  # those left off no longer take part: the arrays shrink
                walking, P, W, F = walking[going], P[going], W[going], F[going]
            if len(walking) == 0:
                values[:, step + 2 :] = values[:, step + 1, None]
                break
            joining = orders[walking, step]
            x = self._X[joining]  # (b, D)
            Px = np.matmul(P, x[:, :, None])[:, :, 0]
            residual = self._targets[joining] - np.matmul(x[:, None, :], W)[:, 0]  # (b, K)
            gain = Px / (1 + np.einsum("bd,bd->b", x, Px))[:, None]
            P -= gain[:, :, None] * Px[:, None, :]
            W += gain[:, :, None] * residual[:, None, :]
            F += residual[:, :, None] * (gain @ self._V.T)[:, None, :]
            values[walking, step + 1] = self._worth(F)
            self.calls += len(walking)
        return values


class KNNUtility(Utility):
    """The game of `knn_shapley`: right labels among the min(k, |S|) nearest rows of S, divided by k, on the mean.

    Parameters
    ----------
    X, y, X_val, y_val
        See `utility`; labels only.
    k : int, default 5
    """

    def __init__(self, X: np.ndarray, y: np.ndarray, X_val: np.ndarray, y_val: np.ndarray, *, k: int = 5) -> None:
        super().__init__(len(X), 0.0)
        if y.dtype.kind == "f":
            raise LabelError("the nearest-neighbour vote needs labels", remedy="model='ridge' takes numbers")
        if k < 1:
            raise DatumwiseError(f"k = {k} neighbours cannot vote", remedy="k >= 1")
        self.k = k
        self._order = neighbours(X, k=len(X), metric="euclidean", queries=X_val)[1]  # (m, n) nearest first
        self._rank = np.empty((self.n, len(X_val)), np.int32)  # (n, m) place of each row
        np.put_along_axis(self._rank, self._order.T, np.arange(self.n, dtype=np.int32)[:, None], axis=0)
        self._right = y[:, None] == y_val  # (n, m)

    def batch(self, length: int) -> int:
        return int(np.clip(FLOATS // (2 * self.k * self._right.shape[1]), 1, 256))

    def _values(self, masks: np.ndarray) -> np.ndarray:
        m = self._right.shape[1]
        values = np.empty(len(masks))
        step = max(1, FLOATS // m)
        queries = np.arange(m)
        for start in range(0, len(masks), step):
            block = masks[start : start + step]
            voted = np.zeros((len(block), m), np.int32)
            right = np.zeros((len(block), m), np.int32)
            for r in range(self.n):  # the k-th vote of a set of half the rows has come in after about 2 k places
                row = self._order[:, r]
                voting = block[:, row] & (voted < self.k)
                voted += voting
                right += voting & self._right[row, queries]
                if r >= self.k and (voted == self.k).all():
                    break
            values[start : start + step] = right.sum(axis=1) / (self.k * m)
        return values

    def _prefixes(self, orders: np.ndarray, held: np.ndarray, tolerance: float, target: float) -> np.ndarray:
        if held.any():
            return super()._prefixes(orders, held, tolerance, target)
        B, L = orders.shape
        m, k = self._right.shape[1], self.k
        values = np.zeros((B, L + 1))
        rank = np.full((B, m, k), self.n, np.int32)  # the k nearest so far, in no order
        right = np.zeros((B, m, k), bool)
        walking = np.arange(B)
        for step in range(L):
            going = ~(np.abs(values[walking, step] - target) < tolerance)
            values[:, step + 1] = values[:, step]
            if not going.all():
                walking, rank, right = walking[going], rank[going], right[going]
            if len(walking) == 0:
                values[:, step + 2 :] = values[:, step + 1, None]
                break
            joining = orders[walking, step]
            farthest = rank.argmax(axis=2)[:, :, None]
            new = self._rank[joining]
            nearer = new < np.take_along_axis(rank, farthest, 2)[:, :, 0]
            b, q = np.nonzero(nearer)
            slot = farthest[b, q, 0]
            gain = self._right[joining[b], q].astype(np.int64) - right[b, q, slot]
            rank[b, q, slot] = new[b, q]
            right[b, q, slot] = self._right[joining[b], q]
            values[walking, step + 1] += np.bincount(b, gain, len(walking)) / (k * m)
            self.calls += len(walking)
        return values


class EstimatorUtility(Utility):
    """Score on the validation rows of any scikit-learn estimator, cloned and fitted to every set.

    Parameters
    ----------
    model : estimator
        Classifier or regressor; give it a ``random_state`` if it has one, or a set's utility is not a number.
    X, y, X_val, y_val
        See `utility`.
    scoring : callable, optional
        ``scoring(model, X_val, y_val) -> float``; ``model.score`` by default (accuracy, R²).
    aggregate : callable, optional
        ``aggregate(right (b, m) bool) -> (b,)`` in place of ``scoring``, see `RidgeUtility`.
    empty : float, optional
        1/K by default, 0 for a regression.
    n_jobs : int, optional
        Fits at a time.

    Notes
    -----
    A set of one class predicts that class: most classifiers refuse to be fitted to it.
    """

    def __init__(
        self,
        model: Any,
        X: np.ndarray,
        y: np.ndarray,
        X_val: np.ndarray,
        y_val: np.ndarray,
        *,
        scoring: Callable[[Any, np.ndarray, np.ndarray], float] | None = None,
        aggregate: Callable[[np.ndarray], np.ndarray] | None = None,
        empty: float | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.classes = 0 if y.dtype.kind == "f" else int(max(y.max(), y_val.max())) + 1
        super().__init__(len(X), _guess(self.classes) if empty is None else empty)
        self.model = model
        self._data = X, y, X_val, y_val
        self._scoring = scoring
        self._aggregate = aggregate
        self.n_jobs = n_jobs

    def right(self, masks: Any) -> np.ndarray:
        """bool (b, m): which validation rows the model trained on each set predicts right; labels only."""
        return np.stack(self._each(self._hits, np.asarray(masks, bool)))

    def _values(self, masks: np.ndarray) -> np.ndarray:
        values = self._each(self._one, masks)
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            raise NotFinite(f"the model scores NaN or infinity on a set of {masks[bad[0]].sum():,} rows")
        return np.asarray(values)

    def _each(self, of: Callable[[np.ndarray], Any], masks: np.ndarray) -> list[Any]:
        from joblib import Parallel, delayed

        if self.n_jobs is None or self.n_jobs == 1 or len(masks) == 1:
            return [of(mask) for mask in masks]
        return list(Parallel(n_jobs=self.n_jobs)(delayed(of)(mask) for mask in masks))

    def _fitted(self, mask: np.ndarray) -> Any:
        from sklearn.base import clone
        from sklearn.dummy import DummyClassifier

        X, y, _, _ = self._data
        single = self.classes and (y[mask] == y[mask][0]).all()
        return (DummyClassifier(strategy="most_frequent") if single else clone(self.model)).fit(X[mask], y[mask])

    def _hits(self, mask: np.ndarray) -> np.ndarray:
        return np.asarray(self._fitted(mask).predict(self._data[2]) == self._data[3])

    def _one(self, mask: np.ndarray) -> float:
        if self._aggregate is not None:
            return float(self._aggregate(self._hits(mask)[None])[0])
        model, (_, _, X_val, y_val) = self._fitted(mask), self._data
        return float(model.score(X_val, y_val) if self._scoring is None else self._scoring(model, X_val, y_val))


def utility(
    X: Any,
    y: Any,
    X_val: Any,
    y_val: Any,
    model: Any = None,
    *,
    scoring: Callable[[Any, np.ndarray, np.ndarray], float] | None = None,
    aggregate: Callable[[np.ndarray], np.ndarray] | None = None,
    n_jobs: int | None = None,
    **options: Any,
) -> Utility:
    """The utility of training on a subset of the rows.

    Parameters
    ----------
    X : float (n, d), finite
    y : int (n,) labels 0, 1, ..., or float (n,) targets that are not all whole
    X_val, y_val : (m, d), (m,)
        Validation rows, of which the score is taken.
    model : None or "ridge", "knn", or a scikit-learn estimator
        `RidgeUtility`, `KNNUtility`, `EstimatorUtility`.
    scoring : callable, optional
        ``scoring(model, X_val, y_val) -> float``, for an estimator.
    aggregate : callable, optional
        ``aggregate(right (b, m) bool) -> (b,)``.
    n_jobs : int, optional
        Fits at a time, for an estimator.
    **options
        Of the class: ``alpha``, ``k``, ``empty``.

    Raises
    ------
    NotFinite, SchemaMismatch, LabelError, EmptyData, UnknownName
    """
    data = checked_sets(X, y, X_val, y_val)
    if aggregate is not None and data[1].dtype.kind == "f":
        raise LabelError("which rows are right is a question to labels", remedy="give y as int codes")
    if model is None or isinstance(model, str):
        if scoring is not None:
            raise DatumwiseError("the built-in learners are scored by accuracy or R²", remedy="give model= with scoring=")
        if model in (None, "ridge"):
            return RidgeUtility(*data, aggregate=aggregate, **options)
        if model == "knn":
            if aggregate is not None:
                raise DatumwiseError("the nearest-neighbour vote is a share, not right or wrong", remedy="model='ridge'")
            return KNNUtility(*data, **options)
        raise UnknownName(f"there is no built-in learner {model!r}", remedy="'ridge', 'knn' or a scikit-learn estimator")
    return EstimatorUtility(model, *data, scoring=scoring, aggregate=aggregate, n_jobs=n_jobs, **options)


def checked_sets(X: Any, y: Any, X_val: Any, y_val: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training and validation rows that fit together, labels int64 or targets float64, or a refusal."""
    for given, name in ((y, "y"), (X_val, "X_val"), (y_val, "y_val")):
        if given is None:
            raise EmptyData(f"{name} is missing", remedy="this method values rows by what they do to validation rows")
    X, X_val = finite_matrix(X, "X"), finite_matrix(X_val, "X_val")
    y, y_val = targets(y, "y"), targets(y_val, "y_val")
    if y.dtype.kind != y_val.dtype.kind:
        y, y_val = y.astype(np.float64), y_val.astype(np.float64)
    for rows, labels, name in ((X, y, "X"), (X_val, y_val, "X_val")):
        if len(rows) != len(labels):
            raise SchemaMismatch(f"{name} has {len(rows):,} rows and {len(labels):,} labels")
    if X.shape[1] != X_val.shape[1]:
        raise SchemaMismatch(f"X has {X.shape[1]} columns and X_val {X_val.shape[1]}")
    if y.dtype.kind == "f" and (len(y_val) < 2 or np.ptp(y_val) == 0):
        raise LabelError("y_val is constant: R² has no meaning there", remedy="more validation rows")
    return X, y, X_val, y_val


def targets(y: Any, name: str) -> np.ndarray:
    """int64 codes, or float64 targets where numbers are not all whole."""
    y = np.asarray(y)
    if y.dtype.kind == "f":
        finite_column(y, name)
        if not np.all(y == np.round(y)):
            return y.astype(np.float64)
    return class_labels(y, name)


def _guess(classes: int) -> float:
    return 1 / classes if classes else 0.0


def _share(right: np.ndarray) -> np.ndarray:
    return right.mean(axis=1)
