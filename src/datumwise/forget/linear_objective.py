"""The loss of a linear model over some rows, penalty and all: its value, gradient, Hessian, and Hessian times a vector."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse
from scipy.special import expit, log_softmax
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.utils.class_weight import compute_class_weight

from datumwise.errors import LabelError, ModelMismatch, SchemaMismatch, name_some

__all__ = ["Objective", "logistic_objective", "squares_objective"]

BLOCK = 4_000_000  # numbers of a weighted copy of the rows that are held at once


@dataclass
class Objective:
    """Sum of weighted losses of ``X theta`` plus ``penalty * theta^2 / 2``; theta is (width, K), the intercept its last row."""

    X: Any  # (n, d), dense or CSR
    weight: np.ndarray  # (n,)
    penalty: np.ndarray  # (width, K)
    intercept: bool
    start: np.ndarray  # (width, K)
    loss: Callable[[np.ndarray], np.ndarray]  # scores (n, K) -> (n,)
    slope: Callable[[np.ndarray], np.ndarray]  # scores (n, K) -> (n, K)
    bend: Callable[[np.ndarray, np.ndarray], np.ndarray]  # scores, direction (n, K) -> second derivative times it (n, K)
    coupled: bool  # whether the columns of theta share a loss (softmax), or are apart
    multinomial: bool  # a constant added to all columns changes no loss

    def forward(self, theta: np.ndarray) -> np.ndarray:
        return self.X @ theta[:-1] + theta[-1] if self.intercept else self.X @ theta

    def back(self, scores: np.ndarray) -> np.ndarray:
        inner = self.X.T @ scores
        return np.vstack([inner, scores.sum(0)]) if self.intercept else inner

    def value(self, theta: np.ndarray) -> float:
        losses = float(self.weight @ self.loss(self.forward(theta)))
        return losses + 0.5 * float((self.penalty * theta**2).sum())

    def gradient(self, theta: np.ndarray) -> np.ndarray:
        return self.back(self.weight[:, None] * self.slope(self.forward(theta))) + self.penalty * theta

    def gauge(self) -> np.ndarray:
        """(width,): curvature added along "the same constant to all classes" where no penalty gives it any.

        The gradient has no part along it, so a step is the same as with a pseudo-inverse.
        """
        if not self.multinomial:
            return np.zeros(len(self.start))
        typical = float(self.weight.sum()) / self.start.shape[1] ** 2
        return np.where(self.penalty[:, 0] > 0, 0.0, typical)

    def product(self, scores: np.ndarray, v: np.ndarray) -> np.ndarray:
        """Hessian times v, both (width, K)."""
        bent = self.back(self.weight[:, None] * self.bend(scores, self.forward(v)))
        return bent + self.penalty * v + self.gauge()[:, None] * v.sum(1, keepdims=True)

    def hessians(self, scores: np.ndarray) -> list[np.ndarray]:
        """One matrix (width K, width K) for coupled columns, else K matrices (width, width)."""
        width, K = self.start.shape
        if not self.coupled:
            same = np.ones((1, K))
            bend = self.weight[:, None] * self.bend(scores, np.broadcast_to(same, scores.shape))
            return [self._gram(bend[:, k]) + np.diag(self.penalty[:, k]) for k in range(K)]
        blocks = np.empty((K, width, K, width))
        for k in range(K):
            unit = np.zeros(K)
            unit[k] = 1
            bend = self.weight[:, None] * self.bend(scores, np.broadcast_to(unit, scores.shape))
            for other in range(k, K):
                blocks[k, :, other, :] = self._gram(bend[:, other])
                blocks[other, :, k, :] = blocks[k, :, other, :].T
        full = blocks.reshape(K * width, K * width)
        full[np.diag_indices_from(full)] += self.penalty.T.ravel()
        full += np.kron(np.ones((K, K)), np.diag(self.gauge()))
        return [full]

    def kronecker(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(width, width) and (K, K) whose Kronecker product is near the summed losses' Hessian: means of each side."""
        total, K = float(self.weight.sum()), scores.shape[1]
        bends = [self.weight @ self.bend(scores, np.broadcast_to(np.eye(K)[k], scores.shape)) for k in range(K)]
        return self._gram(self.weight), np.stack(bends) / total

    def _gram(self, weight: np.ndarray) -> np.ndarray:
        """X^T diag(weight) X with the intercept's row and column, float64 (width, width)."""
        d = self.X.shape[1]
        inner = np.zeros((d, d))
        step = max(1, BLOCK // max(d, 1))
        for at in range(0, self.X.shape[0], step):
            part, w = self.X[at : at + step], weight[at : at + step]
            if sparse.issparse(part):
                inner += (part.T @ part.multiply(w[:, None]).tocsr()).toarray()
            else:
                inner += part.T @ (part * w[:, None])
        if not self.intercept:
            return inner
        edge = np.asarray(self.X.T @ weight).ravel()
        return np.block([[inner, edge[:, None]], [edge[None], np.array([[weight.sum()]])]])


def logistic_objective(model: LogisticRegression, X: Any, y: np.ndarray, weight: np.ndarray) -> Objective:
    """C times weighted losses plus |coef|^2 / 2, divided by C; labels -1/1 need no codes of their own."""
    _refuse_not_smooth(model)
    classes = np.asarray(model.classes_)
    code = np.searchsorted(classes, y)
    unknown = np.flatnonzero((code >= len(classes)) | (classes[np.minimum(code, len(classes) - 1)] != y))
    if len(unknown):
        raise LabelError(f"the model has no class {name_some(np.unique(y[unknown]))}")
    missing = np.setdiff1d(np.arange(len(classes)), code)
    if len(missing):
        raise LabelError(
            f"no row of class {name_some(classes[missing])} is left, and a model trained without them would not have it",
            remedy="train anew",
        )
    if model.class_weight is not None:
        weight = weight * compute_class_weight(model.class_weight, classes=classes, y=y, **_weighted(weight))[code]
    C = np.inf if _no_penalty(model) else float(model.C)
    theta = _start(model)
    penalty = np.full(theta.shape, 1 / C)
    if model.fit_intercept:
        # liblinear penalises the weight of a constant column ``intercept_scaling``; the other solvers no intercept
        penalty[-1] = 1 / C / model.intercept_scaling**2 if model.solver == "liblinear" else 0.0
    n = np.arange(len(code))
    if theta.shape[1] == 1:
        sign = np.where(code == 1, 1.0, -1.0)[:, None]

        def loss(z: np.ndarray) -> np.ndarray:
            return np.logaddexp(0, -sign * z)[:, 0]

        def slope(z: np.ndarray) -> np.ndarray:
            return -sign * expit(-sign * z)

        def bend(z: np.ndarray, v: np.ndarray) -> np.ndarray:
            return expit(z) * expit(-z) * v  # 1 - p would be 0 where p is nearly 1

        return Objective(X, weight, penalty, model.fit_intercept, theta, loss, slope, bend, coupled=False, multinomial=False)

    def loss_of_classes(z: np.ndarray) -> np.ndarray:
        return -log_softmax(z, axis=1)[n, code]

    held: list[np.ndarray] = []  # scores and their probabilities, which every product with one Hessian asks for again

    def probabilities(z: np.ndarray) -> np.ndarray:
        if not held or held[0] is not z:
            held[:] = [z, np.exp(log_softmax(z, axis=1))]
        return held[1]

    def slope_of_classes(z: np.ndarray) -> np.ndarray:
        p = probabilities(z).copy()
        p[n, code] -= 1
        return p

    def bend_of_classes(z: np.ndarray, v: np.ndarray) -> np.ndarray:
        p = probabilities(z)
        return p * (v - (p * v).sum(1, keepdims=True))

    parts = (loss_of_classes, slope_of_classes, bend_of_classes)
    return Objective(X, weight, penalty, model.fit_intercept, theta, *parts, coupled=True, multinomial=True)


def squares_objective(model: Any, X: Any, y: np.ndarray, weight: np.ndarray) -> Objective:
    """Half the weighted squares plus alpha |coef|^2 / 2."""
    if not isinstance(model, Ridge | LinearRegression):
        raise ModelMismatch(
            f"rows cannot be removed from a {type(model).__name__}",
            remedy="give a LogisticRegression, Ridge or LinearRegression, or train anew",
        )
    if getattr(model, "positive", False):
        raise ModelMismatch("positive=True is a bound, which Newton steps do not keep", remedy="train anew")
    theta = _start(model)
    target = np.asarray(y, float).reshape(len(y), -1)
    if target.shape[1] != theta.shape[1]:
        raise SchemaMismatch(f"y has {target.shape[1]} targets, the model has {theta.shape[1]}")
    penalty = np.tile(np.asarray(getattr(model, "alpha", 0.0), float), (len(theta), 1)) * np.ones((1, theta.shape[1]))
    if model.fit_intercept:
        penalty[-1] = 0.0

    def loss(z: np.ndarray) -> np.ndarray:
        return 0.5 * ((z - target) ** 2).sum(1)

    def slope(z: np.ndarray) -> np.ndarray:
        return z - target

    def bend(z: np.ndarray, v: np.ndarray) -> np.ndarray:
        return v

    return Objective(X, weight, penalty, model.fit_intercept, theta, loss, slope, bend, coupled=False, multinomial=False)


def _refuse_not_smooth(model: LogisticRegression) -> None:
    ratio = getattr(model, "l1_ratio", None)
    if getattr(model, "penalty", None) in ("l1", "elasticnet") or (isinstance(ratio, float | int) and ratio > 0):
        raise ModelMismatch("an l1 penalty has no Hessian at zero weights", remedy="fit with an l2 penalty, or train anew")
    if getattr(model, "multi_class", None) == "ovr" or (model.solver == "liblinear" and len(model.classes_) > 2):
        raise ModelMismatch("the model is one of several one-versus-rest fits", remedy="fit a multinomial model")
    if len(model.classes_) == 2 and len(model.coef_) != 1:
        raise ModelMismatch(f"a model of two classes has {len(model.coef_)} rows of weights, expected one")


def _no_penalty(model: LogisticRegression) -> bool:
    return getattr(model, "penalty", "l2") is None or np.isinf(model.C)


def _weighted(weight: np.ndarray) -> dict[str, Any]:
    """``sample_weight=`` for the balanced weights of classes, where they are not all one (new in scikit-learn 1.8)."""
    return {} if (weight == 1).all() else {"sample_weight": weight}


def _start(model: Any) -> np.ndarray:
    """float64 (width, K): the model's weights, intercepts in the last row."""
    coef = np.asarray(model.coef_.toarray() if sparse.issparse(model.coef_) else model.coef_, float)
    coef = np.atleast_2d(coef).T
    if not model.fit_intercept:
        return coef.copy()
    return np.vstack([coef, np.broadcast_to(np.ravel(model.intercept_).astype(float), (1, coef.shape[1]))])
