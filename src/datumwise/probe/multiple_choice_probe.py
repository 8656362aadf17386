"""Which of several choices is right, by one linear direction in hidden states? Hase et al., 2024, appendix (linear probe)."""

from __future__ import annotations

from typing import Any, Literal, Self

import numpy as np
from sklearn.base import BaseEstimator

from datumwise.errors import DatumwiseError, EmptyData, LabelError, NotFinite, SchemaMismatch, name_some
from datumwise.probe.softmax_fits import SoftmaxFits, fit_softmax

__all__ = ["MultipleChoiceProbe", "checked_choices", "checked_gold"]


class MultipleChoiceProbe(BaseEstimator):
    """Score a choice by w . h, one vector w for all choices, without bias; softmax over the choices of an item.

    Features are normalised with the mean and the unbiased standard deviation of the training items and choices together.
    The loss is the mean of -log p(gold) plus ``l2 ||w||``: the norm itself, as published. It has no gradient at w = 0 and
    shrinks strongly; ``penalty="squared"`` is the better-behaved choice.

    Parameters
    ----------
    l2 : float, default 1.0
    epochs : int, default 100
        Full-batch steps of "sgd" and "adamw".
    lr : float, default 0.05
        Falls linearly to a tenth, a step an epoch.
    penalty : {"norm", "squared"}
    solver : {"sgd", "adamw", "lbfgs"}
        "lbfgs" goes to the optimum, which is unique with ``penalty="squared"``.
    random_state : int, Generator or None
        Of the start, uniform within 1 / sqrt(d).

    Attributes
    ----------
    coef_ : float (d,)
        On normalised features.
    mean_, scale_ : float (d,)
        Of the training items; ``scale_`` is infinite for a feature that is constant there and says nothing.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> gold = rng.integers(0, 4, 100)
    >>> H = rng.normal(size=(100, 4, 8))
    >>> H[np.arange(100), gold, 0] += 4.0                # the right choice lies further along one axis
    >>> probe = MultipleChoiceProbe(random_state=0).fit(H[:50], gold[:50])
    >>> bool(probe.score(H[50:], gold[50:]) > 0.9)
    True

    References
    ----------
    Hase, Bansal, Clark and Wiegreffe, 2024, "The unreasonable effectiveness of easy training data for hard tasks".
    """

    def __init__(
        self,
        l2: float = 1.0,
        epochs: int = 100,
        lr: float = 0.05,
        penalty: Literal["norm", "squared"] = "norm",
        solver: Literal["sgd", "adamw", "lbfgs"] = "sgd",
        random_state: Any = None,
    ) -> None:
        self.l2 = l2
        self.epochs = epochs
        self.lr = lr
        self.penalty = penalty
        self.solver = solver
        self.random_state = random_state

    def fit(self, H: Any, y: Any, choices: Any = None) -> Self:
        """Fit.

        Parameters
        ----------
        H : float (n, m, d)
            A vector a choice.
        y : int (n,)
            Index of the right choice.
        choices : bool (n, m), optional
            Which choices there are, where items have different numbers of them.

        Raises
        ------
        SchemaMismatch, NotFinite, LabelError
            H is not items x choices x features, holds NaN, or a right choice is not among the choices.
        """
        H, choices = checked_choices(H, choices)
        y = checked_gold(y, choices)
        d = H.shape[2]
        rng = np.random.default_rng(self.random_state)
        bound = 1 / np.sqrt(d)
        self.fits_: SoftmaxFits = fit_softmax(
            H,
            y,
            np.ones((1, len(H)), dtype=bool),
            choices=choices,
            l2=self.l2,
            penalty=self.penalty,
            solver=self.solver,
            epochs=self.epochs,
            lr=self.lr,
            start=rng.uniform(-bound, bound, (d, 1, 1)),
        )
        self.coef_ = self.fits_.weights[:, 0, 0]
        self.mean_ = self.fits_.mean[:, 0]
        with np.errstate(divide="ignore"):
            self.scale_ = 1 / self.fits_.inverse_scale[:, 0]
        self.n_features_in_ = d
        return self

    def predict_proba(self, H: Any, choices: Any = None) -> np.ndarray:
        """Probabilities of the choices, float (n, m); 0 where there is no choice."""
        H, choices = checked_choices(H, choices)
        if H.shape[2] != self.n_features_in_:
            raise SchemaMismatch(f"the probe was fitted to {self.n_features_in_:,} features a choice; got {H.shape[2]:,}")
        return self.fits_.predict_proba(H, choices)[:, :, 0]

    def predict(self, H: Any, choices: Any = None) -> np.ndarray:
        """Index of the likeliest choice, int64 (n,); ties go to the first."""
        return self.predict_proba(H, choices).argmax(axis=1)

    def score(self, H: Any, y: Any, choices: Any = None) -> float:
        """Share of items whose likeliest choice is right."""
        return float((self.predict(H, choices) == np.asarray(y)).mean())


def checked_choices(H: Any, choices: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """Features (n, m, d) with 0 where no choice is, and the mask (n, m) of choices, or a refusal that names the rows."""
    H = np.asarray(H)
    if H.ndim != 3 or H.dtype.kind not in "fiu":
        raise SchemaMismatch(f"H must be numbers, items x choices x features; got shape {H.shape} of {H.dtype}")
    if H.dtype.kind != "f" or H.dtype.itemsize < 4:
        H = H.astype(np.float32 if H.dtype.itemsize == 2 else np.float64)
    if not len(H) or not H.shape[2]:
        raise EmptyData(f"H is empty: its shape is {H.shape}")
    mask = np.ones(H.shape[:2], dtype=bool) if choices is None else np.asarray(choices, dtype=bool)
    if mask.shape != H.shape[:2]:
        raise SchemaMismatch(f"choices has shape {mask.shape} and H has {H.shape[0]:,} items of {H.shape[1]} choices")
    few = np.flatnonzero(mask.sum(axis=1) < 2)
    if len(few):
        raise LabelError(f"item {name_some(few)} has fewer than two choices", ids=few.tolist())
    bad = np.flatnonzero(~(np.isfinite(H).all(axis=2) | ~mask).all(axis=1))
    if len(bad):
        raise NotFinite(f"H has NaN or infinity in row {name_some(bad)}", ids=bad.tolist())
    return H if mask.all() else np.where(mask[:, :, None], H, 0), mask


def checked_gold(y: Any, choices: np.ndarray) -> np.ndarray:
    """Right choices as int64 (n,), each among its item's choices, or a refusal that names the rows."""
    y = np.asarray(y)
    if y.shape != (len(choices),):
        raise SchemaMismatch(f"y has shape {y.shape} for {len(choices):,} items")
    if y.dtype.kind not in "iu":
        raise LabelError(f"y must be whole numbers, the index of the right choice; the type is {y.dtype}")
    if not len(y):
        raise DatumwiseError("y is empty")
    inside = (y >= 0) & (y < choices.shape[1])
    inside[inside] = choices[np.flatnonzero(inside), y[inside]]
    bad = np.flatnonzero(~inside)
    if len(bad):
        raise LabelError(
            f"the right choice of item {name_some(bad)} is not among its choices (index {y[bad[0]]} of "
            f"{int(choices[bad[0]].sum())})",
            ids=bad.tolist(),
        )
    return y.astype(np.int64)
