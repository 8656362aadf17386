"""Which unlabelled datapoints are worth a semi-supervised step: RETRIEVE."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from datumwise.errors import DatumwiseError, LabelError, SchemaMismatch
from datumwise.select.glister import greedy_steps
from datumwise.select.last_layer import one_hot, parameters, probabilities, with_ones
from datumwise.select.selector import Selector

__all__ = ["Retrieve"]


class Retrieve(Selector):
    """GLISTER with the labelled loss outside and the unlabelled loss inside.

    An unlabelled datapoint's gradient is that of the cross-entropy to its pseudo-label (the model's favourite
    class), if the model is at least ``confidence`` sure of it, else zero; chosen is what, after a step on it,
    lowers the loss of the labelled set (``target``, ``target_y``) most.

    Parameters
    ----------
    n_to_select : int or float
    eta : float, default 0.1
    refresh : int, default 1
    confidence : float, default 0.95
        Least probability of a pseudo-label that counts (FixMatch's).
    coef : array (K, d + 1), optional
        Last layer now; by default a logistic regression fitted to the labelled set.

    Attributes
    ----------
    gains_ : float64 (k,)
        First-order fall of the mean labelled loss.
    pseudo_labels_ : array (n,)

    Notes
    -----
    ``fit(X, target=, target_y=, strong=)``: ``strong`` are features of a strongly augmented view of each
    datapoint, on which the loss is taken; the pseudo-label comes from ``X``.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(60, 2)) + np.repeat([[-4.0, 0.0], [4.0, 0.0]], 30, axis=0)
    >>> found = Retrieve(10, confidence=0.5).fit(X, target=X[[0, 1, 58, 59]], target_y=["a", "a", "b", "b"])
    >>> found.pseudo_labels_[[5, 40]].tolist()
    ['a', 'b']

    References
    ----------
    Killamsetty et al., 2021, *RETRIEVE: Coreset Selection for Efficient and Robust Semi-Supervised Learning*,
    equation 3.
    """

    takes: ClassVar = ("X", "target", "target_y?", "strong?")
    source: ClassVar = "Killamsetty et al., 2021, equation 3"

    def __init__(
        self,
        n_to_select: int | float,
        *,
        eta: float = 0.1,
        refresh: int = 1,
        confidence: float = 0.95,
        coef: Any = None,
    ) -> None:
        self.n_to_select = n_to_select
        self.eta = eta
        self.refresh = refresh
        self.confidence = confidence
        self.coef = coef

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        if inputs.get("target_y") is None:
            raise DatumwiseError("the labelled set (target) has no labels", remedy="fit(..., target_y=)")
        H, labelled = with_ones(inputs["X"]), with_ones(inputs["target"])
        strong = H if inputs.get("strong") is None else with_ones(np.asarray(inputs["strong"], np.float64))
        classes, codes = np.unique(np.asarray(inputs["target_y"]), return_inverse=True)
        if len(codes) != len(labelled) or not H.shape[1] == labelled.shape[1] == strong.shape[1]:
            raise SchemaMismatch(
                f"target is {len(labelled):,} x {labelled.shape[1] - 1} with {len(codes):,} labels,"
                f" for X of width {H.shape[1] - 1}"
            )
        if len(classes) < 2:
            raise LabelError("target_y has one class only", remedy="give labels of two classes or more")
        coef = _fitted(labelled, codes, len(classes)) if self.coef is None else self.coef
        theta = parameters(coef, len(classes), H.shape[1])
        sure = probabilities(theta, H)
        pseudo = sure.argmax(axis=1)
        self.pseudo_labels_ = classes[pseudo]
        counted = sure.max(axis=1) >= self.confidence
        residual = (probabilities(theta, strong) - one_hot(pseudo, len(classes))) * counted[:, None]
        return greedy_steps(theta, residual, strong, labelled, one_hot(codes, len(classes)), k, self.eta, self.refresh)


def _fitted(H: np.ndarray, codes: np.ndarray, n_classes: int) -> np.ndarray:
    """Coefficients (K, d + 1) of a logistic regression; two classes share what scikit-learn gives the second."""
    from sklearn.linear_model import LogisticRegression

    fitted = LogisticRegression(max_iter=1000).fit(H[:, :-1], codes)
    theta = np.column_stack([fitted.coef_, fitted.intercept_])
    return np.vstack([-theta / 2, theta / 2]) if n_classes == 2 else theta
