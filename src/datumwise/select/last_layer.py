"""Gradients of the last, linear layer of a classifier in closed form: what GLISTER and RETRIEVE choose by."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import softmax

from datumwise.errors import LabelError, NotFinite, SchemaMismatch

__all__ = ["class_codes", "gains_of_step", "mean_gradient", "one_hot", "parameters", "probabilities", "with_ones"]


def with_ones(X: np.ndarray) -> np.ndarray:
    """float64 (n, d + 1): features and a 1, so that the last column of the parameters is the bias."""
    return np.column_stack([X.astype(np.float64), np.ones(len(X))])


def parameters(coef: Any, n_classes: int, width: int) -> np.ndarray:
    """float64 (n_classes, width): the given ones, or zeros (all classes equally likely).

    Raises
    ------
    SchemaMismatch, NotFinite
    """
    if coef is None:
        return np.zeros((n_classes, width))
    theta = np.asarray(coef, dtype=np.float64)
    if theta.shape != (n_classes, width):
        raise SchemaMismatch(
            f"coef has shape {theta.shape} for {n_classes} classes and {width - 1} features and a bias",
            remedy=f"its shape must be ({n_classes}, {width}), the bias last",
        )
    if not np.isfinite(theta).all():
        raise NotFinite("coef has NaN or infinity")
    return theta


def class_codes(y: Any, classes: np.ndarray, name: str) -> np.ndarray:
    """int64 (n,): position of each label among the classes.

    Raises
    ------
    LabelError
        A label is none of them.
    """
    y = np.asarray(y)
    codes = np.clip(np.searchsorted(classes, y), 0, len(classes) - 1)
    strange = classes[codes] != y
    if strange.any():
        raise LabelError(f"{name} has the label {y[strange][0]}, which y has not", remedy="drop it, or name the same classes")
    return codes


def one_hot(codes: np.ndarray, n_classes: int) -> np.ndarray:
    """float64 (n, n_classes)."""
    return np.eye(n_classes)[codes]


def probabilities(theta: np.ndarray, H: np.ndarray) -> np.ndarray:
    """float64 (n, K): softmax of H theta^T, once.

    (The GLISTER and GradMatch of DeepCore give the softmax to a cross-entropy that takes its softmax again; their
    gradients are those of another loss.)
    """
    return softmax(H @ theta.T, axis=1)


def mean_gradient(theta: np.ndarray, H: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """float64 (K, d + 1): gradient of the mean cross-entropy, mean_i (p_i - y_i) h_i^T."""
    return (probabilities(theta, H) - targets).T @ H / len(H)


def gains_of_step(residual: np.ndarray, H: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """float64 (n,): <g_i, gradient> with g_i = residual_i h_i^T, never formed."""
    return np.einsum("ij,ij->i", residual @ gradient, H)
