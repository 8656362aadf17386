"""How late does a learner come to expect the label? Minimum-description-length hardness from fits on growing subsets.

Online (prequential) coding: Perez et al., 2021, "True few-shot learning"; Voita and Titov, 2020; as a hardness of single
datapoints Hase et al., 2024, section 3.1. All boots and sizes are fitted in one batched program where the learner is linear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator, clone

from datumwise.errors import DatumwiseError, LabelError, NotFinite, SchemaMismatch, UnknownName, name_some
from datumwise.probe.multiple_choice_probe import checked_choices, checked_gold
from datumwise.probe.neighbours import finite_matrix
from datumwise.probe.softmax_fits import SoftmaxFits, fit_softmax
from datumwise.score.declare import score

__all__ = ["MDLHardness", "mdl_hardness"]

FLOOR = 1e-6  # probability below which the log form does not look
FORMS = ("confidence", "nll")


@score(needs=("embedding", "labels"), higher="harder", source="Hase et al., 2024, section 3.1; Voita and Titov, 2020")
def mdl_hardness(
    embedding: np.ndarray,
    labels: np.ndarray,
    sizes: tuple[int, ...] = (5, 20, 80, 340, 900),
    n_boot: int = 5,
    form: Literal["confidence", "nll"] = "confidence",
    folds: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """How little probability do learners that saw few of the other datapoints give the label? `MDLHardness`, cross-fitted.

    Parameters
    ----------
    embedding : float (n, d)
    labels : int (n,)
    sizes, n_boot, form
        As of `MDLHardness`, with multinomial logistic regression.
    folds : int, default 5
        A datapoint is scored by fits on the other folds.
    seed : int

    Returns
    -------
    float64 (n,)
        0 to 1 as confidence, in nats as nll.

    Examples
    --------
    >>> X, y = np.repeat([[0.0], [1.0]], 20, axis=0) + np.arange(40)[:, None] / 100, np.repeat([0, 1], 20)
    >>> y[7] = 1
    >>> int(mdl_hardness(X, y, sizes=(5, 20)).argmax())
    7
    """
    return MDLHardness(sizes=sizes, n_boot=n_boot, form=form, random_state=seed).fit_score(embedding, labels, n_folds=folds)


class MDLHardness(BaseEstimator):
    """1 minus the mean probability of the given label under fits on 5, 20, 80, 340 and 900 datapoints, several times over.

    For each boot a permutation of the fitting set is drawn, and a learner is fitted to its first n rows for each size n. A
    datapoint is hard if these fits give its label little probability. ``form="confidence"`` averages 1 - p, as the
    published code does; ``form="nll"`` averages -log p, the code length that gives the method its name.

    Parameters
    ----------
    estimator : None, "probe", "logistic" or scikit-learn classifier
        "probe" scores choices (n, m, d) by one vector, with the published options (AdamW, norm penalty 1); "logistic" is
        multinomial logistic regression on (n, d) with scikit-learn's C = 1, by the same batched solver; None takes the one
        that fits the shape. A classifier is cloned and fitted subset by subset.
    sizes : tuple of int
        Those larger than the fitting set are skipped.
    n_boot : int, default 5
    form : {"confidence", "nll"}
    order : int (n_boot, n), optional
        The permutations, if they are to be given.
    random_state : int, Generator or None

    Attributes
    ----------
    sizes_ : tuple of int
        Sizes that were fitted.
    learning_curve_ : float (S,)
        Mean probability of the label over the datapoints scored last, by size.
    standard_error_ : float (n,)
        Of each datapoint's hardness, over boots; NaN with one boot.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> wrong = y[1000:].copy()
    >>> wrong[:40] = (wrong[:40] + 1) % 10               # 40 labels that are wrong
    >>> h = MDLHardness(random_state=0).fit(X[:1000], y[:1000]).score_samples(X[1000:], wrong)
    >>> bool(h[:40].mean() > 2 * h[40:].mean())
    True
    """

    def __init__(
        self,
        estimator: Any = None,
        sizes: tuple[int, ...] = (5, 20, 80, 340, 900),
        n_boot: int = 5,
        form: Literal["confidence", "nll"] = "confidence",
        order: Any = None,
        random_state: Any = None,
    ) -> None:
        self.estimator = estimator
        self.sizes = sizes
        self.n_boot = n_boot
        self.form = form
        self.order = order
        self.random_state = random_state

    def fit(self, X: Any, y: Any, *, ids: Any = None, progress: Callable[[int, int], None] | None = None) -> Self:
        """Fit all boots and sizes.

        Parameters
        ----------
        X : float (N, d), or (N, m, d) for the probe
        y : (N,)
            Labels, or right choices.
        ids : (N,), optional
            By which `score_samples` knows what it must not score with a fit that was trained on it.
        progress : callable (fits done, fits in all), optional
        """
        X, codes = self._door(X, y, fitting=True)
        n = len(X)
        order = self._order(n)
        self.sizes_ = tuple(int(size) for size in sorted(set(self.sizes)) if size <= n)
        if not self.sizes_ or self.sizes_[0] < 1:
            raise DatumwiseError(f"no size of {self.sizes} lies between 1 and the {n:,} datapoints to fit on")
        members = np.zeros((len(order), len(self.sizes_), n), dtype=bool)
        for b, permutation in enumerate(order):
            for s, size in enumerate(self.sizes_):
                members[b, s, permutation[:size]] = True
        self._members = members.reshape(-1, n)
        self._ids = None if ids is None else np.asarray(ids)
        if self._ids is not None and len(self._ids) != n:
            raise SchemaMismatch(f"there are {n:,} datapoints and {len(self._ids):,} ids")
        self._fits = self._fitted(X, codes, self._members, progress)
        return self

    def score_samples(self, X: Any, y: Any, *, ids: Any = None) -> np.ndarray:
        """Hardness of each datapoint, float64 (M,): 0 to 1 as confidence, in nats as nll; higher is harder.

        A datapoint whose id was fitted is scored only by those fits that did not train on it.

        Raises
        ------
        LabelError
            A label that the fitting set does not have.
        DatumwiseError
            A datapoint was in the training rows of every fit; `fit_score` cross-fits.
        """
        if not hasattr(self, "_fits"):
            raise DatumwiseError("nothing is fitted yet", remedy="call fit first")
        X, codes = self._door(X, y, fitting=False)
        gold = self._gold_probability(self._fits, X, codes)
        if ids is not None and self._ids is not None:
            ids = np.asarray(ids)
            place = {name: row for row, name in enumerate(self._ids.tolist())}
            rows = np.array([place.get(name, -1) for name in ids.tolist()])
            known = rows >= 0
            gold[:, known] = np.where(self._members[:, rows[known]], np.nan, gold[:, known])
            none = np.flatnonzero(np.isnan(gold).all(axis=0))
            if len(none):
                raise DatumwiseError(
                    f"every fit was trained on {name_some(ids[none])}",
                    remedy="use fit_score, smaller sizes or a separate fitting set",
                    ids=ids[none].tolist(),
                )
        return self._summed(gold)

    def fit_score(self, X: Any, y: Any, *, n_folds: int = 5, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
        """Hardness of each datapoint of one set, float64 (n,), each from fits on the other folds.

        Parameters
        ----------
        X, y
            As in `fit`.
        n_folds : int, default 5
        progress : callable (fits done, fits in all), optional
        """
        X, codes = self._door(X, y, fitting=True)
        n = len(X)
        if not 2 <= n_folds <= n:
            raise DatumwiseError(f"n_folds must lie between 2 and the {n:,} datapoints; got {n_folds}")
        rng = np.random.default_rng(self.random_state)
        fold = rng.permutation(np.arange(n) % n_folds)
        room = int(np.min(np.bincount(fold, minlength=n_folds) * -1 + n))
        self.sizes_ = tuple(int(size) for size in sorted(set(self.sizes)) if size <= room)
        if not self.sizes_:
            raise DatumwiseError(f"no size of {self.sizes} fits into the {room:,} datapoints outside a fold")
        members = np.zeros((n_folds, self.n_boot, len(self.sizes_), n), dtype=bool)
        for k in range(n_folds):
            outside = np.flatnonzero(fold != k)
            for b in range(self.n_boot):
                permutation = rng.permutation(outside)
                for s, size in enumerate(self.sizes_):
                    members[k, b, s, permutation[:size]] = True
        per_fold = self.n_boot * len(self.sizes_)
        fits = self._fitted(X, codes, members.reshape(-1, n), progress)
        gold = np.empty((per_fold, n))
        for k in range(n_folds):
            rows = np.flatnonzero(fold == k)
            own = slice(k * per_fold, (k + 1) * per_fold)
            gold[:, rows] = self._gold_probability(_part(fits, own), X[rows], codes[rows])
        return self._summed(gold)

    def _door(self, X: Any, y: Any, *, fitting: bool) -> tuple[np.ndarray, np.ndarray]:
        """Features and label codes, checked."""
        if self.form not in FORMS:
            raise UnknownName(f"there is no form {self.form!r}", remedy="choose confidence or nll")
        if int(self.n_boot) < 1:
            raise DatumwiseError(f"n_boot must be at least 1; got {self.n_boot}")
        if np.ndim(X) == 3:
            if self.estimator not in (None, "probe"):
                raise SchemaMismatch(f"features of choices (n, m, d) are for the probe, not for {self.estimator!r}")
            H, choices = checked_choices(X)
            self._kind = "probe"
            return H, checked_gold(y, choices)
        if isinstance(self.estimator, str) and self.estimator not in ("probe", "logistic"):
            raise UnknownName(f"there is no learner {self.estimator!r} here", remedy="choose probe, logistic or an estimator")
        if self.estimator == "probe":
            raise SchemaMismatch(f"the probe needs features of choices (n, m, d); got shape {np.shape(X)}")
        self._kind = "logistic" if self.estimator in (None, "logistic") else "estimator"
        matrix, y = finite_matrix(X, "X"), np.asarray(y)
        if y.shape != (len(matrix),):
            raise SchemaMismatch(f"there are {len(matrix):,} datapoints and labels of shape {y.shape}")
        if fitting:
            self.classes_ = np.unique(y)
            if len(self.classes_) < 2:
                raise LabelError(f"all {len(y):,} labels are {self.classes_[0]}", remedy="two classes are needed")
        codes = np.searchsorted(self.classes_, y).clip(max=len(self.classes_) - 1)
        unknown = np.flatnonzero(self.classes_[codes] != y)
        if len(unknown):
            raise LabelError(
                f"the label of row {name_some(unknown)} ({y[unknown[0]]}) is not among those fitted", ids=unknown.tolist()
            )
        return matrix, codes

    def _order(self, n: int) -> np.ndarray:
        if self.order is None:
            rng = np.random.default_rng(self.random_state)
            return np.stack([rng.permutation(n) for _ in range(self.n_boot)])
        order = np.asarray(self.order)
        if order.shape != (self.n_boot, n) or not (np.sort(order, axis=1) == np.arange(n)).all():
            raise SchemaMismatch(f"order must hold {self.n_boot} permutations of 0..{n - 1}; got shape {order.shape}")
        return order

    def _fitted(
        self, X: np.ndarray, codes: np.ndarray, members: np.ndarray, progress: Callable[[int, int], None] | None
    ) -> Any:
        """All fits: `SoftmaxFits`, or a list of fitted estimators (a number where the subset has one class only)."""
        if self._kind == "probe":
            d = X.shape[2]
            rng = np.random.default_rng(self.random_state)
            start = rng.uniform(-1 / np.sqrt(d), 1 / np.sqrt(d), (d, 1, len(members)))
            return fit_softmax(X, codes, members, start=start)
        if self._kind == "logistic":
            l2 = 0.5 / members.sum(axis=1)  # C = 1: the sum of the losses plus half the square
            return fit_softmax(X, codes, members, n_classes=len(self.classes_), l2=l2, penalty="squared")
        rng = np.random.default_rng(self.random_state)
        fits: list[Any] = []
        for f, member in enumerate(members):
            own = codes[member]
            model = clone(self.estimator)
            if "random_state" in model.get_params():
                model.set_params(random_state=int(rng.integers(2**31)))
            fits.append(int(own[0]) if (own == own[0]).all() else model.fit(X[member], own))
            if progress is not None:
                progress(f + 1, len(members))
        return fits

    def _gold_probability(self, fits: Any, X: np.ndarray, codes: np.ndarray) -> np.ndarray:
        """float64 (F, M): what each fit gives the label."""
        rows = np.arange(len(X))
        if isinstance(fits, SoftmaxFits):
            return fits.predict_proba(X)[rows, codes].T.astype(np.float64)
        gold = np.empty((len(fits), len(X)))
        for f, model in enumerate(fits):
            if isinstance(model, int):
                gold[f] = codes == model
                continue
            probs = np.zeros((len(X), len(self.classes_)))
            probs[:, model.classes_] = model.predict_proba(X)
            gold[f] = probs[rows, codes]
        return gold

    def _summed(self, gold: np.ndarray) -> np.ndarray:
        """Hardness from p (B * S, M), NaN left out; sets the learning curve and the standard error."""
        if np.isnan(gold).all():
            raise NotFinite("every probability of a label is NaN", remedy="look at the estimator's predict_proba")
        cube = gold.reshape(-1, len(self.sizes_), gold.shape[1])
        self.learning_curve_ = np.nanmean(cube, axis=(0, 2))
        value = 1 - cube if self.form == "confidence" else -np.log(np.maximum(cube, FLOOR))
        with np.errstate(invalid="ignore"):
            boots = np.nansum(value, axis=1) / (~np.isnan(value)).sum(axis=1)
            used = (~np.isnan(boots)).sum(axis=0)
            centred = boots - np.nansum(boots, axis=0) / used
            self.standard_error_ = np.sqrt(np.nansum(centred**2, axis=0) / (used - 1) / used)
        return np.nanmean(value, axis=(0, 1))


def _part(fits: Any, which: slice) -> Any:
    if isinstance(fits, SoftmaxFits):
        arrays = (fits.weights, fits.bias, fits.mean, fits.inverse_scale, fits.present)
        return SoftmaxFits(*(array[..., which] for array in arrays))
    return fits[which]
