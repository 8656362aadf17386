"""What a model says of some rows, whatever kind of model it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from datumwise.errors import ModelMismatch
from datumwise.predict.inputs import take_rows

__all__ = ["Answer", "column_of"]


@dataclass(frozen=True)
class Answer:
    """What a model says of some rows: a prediction (n,) or (n, 2) with its scale (n,), or probabilities (n, K)."""

    prediction: Any = None
    scale: Any = None
    probs: Any = None
    classes: Any = None

    @classmethod
    def of_classifier(cls, estimator: Any, X: Any) -> Answer:
        if not hasattr(estimator, "predict_proba"):
            raise ModelMismatch(f"{type(estimator).__name__} has no predict_proba", remedy="label sets need probabilities")
        probs = np.asarray(estimator.predict_proba(X))
        classes = np.asarray(getattr(estimator, "classes_", np.arange(probs.shape[-1])))
        if probs.ndim != 2 or probs.shape[1] != len(classes):
            raise ModelMismatch(f"probabilities of shape {probs.shape} do not fit {len(classes)} classes")
        return cls(probs=probs, classes=classes)

    @property
    def length(self) -> int | None:
        known = self.probs if self.prediction is None else self.prediction
        return None if known is None else len(known)

    def middle(self, n: int) -> np.ndarray:
        """float64 (n,): the prediction, the middle of two quantiles, or NaN where there is none."""
        if self.prediction is None:
            return np.full(n, np.nan)
        found = np.asarray(self.prediction, np.float64)
        return found if found.ndim == 1 else found.mean(axis=1)

    def rows(self, rows: np.ndarray) -> Answer:
        parts = {name: getattr(self, name) for name in ("prediction", "scale", "probs")}
        taken = {name: None if part is None else take_rows(part, rows) for name, part in parts.items()}
        return Answer(**taken, classes=self.classes)


def column_of(prediction: Any) -> np.ndarray:
    """A prediction (n,), also from a model that gives (n, 1)."""
    column = np.asarray(prediction)
    return column[:, 0] if column.ndim == 2 and column.shape[1] == 1 else column
