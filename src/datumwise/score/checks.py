"""What every score refuses at the door: wrong shapes, NaN, improper probabilities, labels of no class."""

from __future__ import annotations

from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, LabelError, NotFinite, SchemaMismatch, name_some

__all__ = [
    "class_labels",
    "class_probabilities",
    "finite_column",
    "labelled_probabilities",
    "several_classes",
]

SUM_TOLERANCE = 1e-3  # of a row of probabilities; float16 rows pass, unnormalised scores do not


def class_labels(labels: Any, name: str = "labels") -> np.ndarray:
    """``labels`` as int64 (n,) codes >= 0, or a refusal that names the rows."""
    labels = np.asarray(labels)
    if labels.ndim != 1:
        raise SchemaMismatch(f"{name} must be one code a datapoint; the shape is {labels.shape}")
    if len(labels) == 0:
        raise EmptyData(f"{name} is empty")
    if labels.dtype.kind not in "iub":
        whole = labels.dtype.kind == "f" and bool(np.all(labels == np.round(labels)))
        if not whole:  # NaN is not whole either
            raise LabelError(
                f"{name} must be whole numbers 0, 1, ...; the type is {labels.dtype}",
                remedy="number the classes, as np.unique(labels, return_inverse=True) does",
            )
    codes = labels.astype(np.int64)
    negative = np.flatnonzero(codes < 0)
    if len(negative):
        raise LabelError(
            f"{name} of row {name_some(negative)} lie below 0",
            remedy="leave these rows out",
            ids=negative.tolist(),
        )
    return codes


def class_probabilities(pred_probs: Any, name: str = "pred_probs") -> np.ndarray:
    """``pred_probs`` as a float array (n, K), K >= 2, rows summing to 1, precision kept, or a refusal."""
    probs = np.asarray(pred_probs)
    if probs.ndim != 2 or probs.dtype.kind not in "fiub":
        raise SchemaMismatch(f"{name} must be numbers, datapoints x classes; got shape {probs.shape} of {probs.dtype}")
    if len(probs) == 0:
        raise EmptyData(f"{name} is empty")
    if probs.shape[1] < 2:
        raise LabelError(f"{name} has {probs.shape[1]} class", remedy="two classes are needed")
    if probs.dtype.kind != "f":
        probs = probs.astype(np.float64)
    total = probs.sum(axis=1, dtype=np.float64)
    if not np.isfinite(total).all():
        bad = np.flatnonzero(~np.isfinite(total))
        raise NotFinite(f"{name} has NaN or infinity in row {name_some(bad)}", ids=bad.tolist())
    wrong = np.abs(total - 1) > SUM_TOLERANCE
    if wrong.any() or probs.min() < -1e-6:
        bad = np.flatnonzero(wrong | (probs.min(axis=1) < -1e-6))
        raise DatumwiseError(
            f"{name} are not probabilities in row {name_some(bad)}: entry {probs[bad[0]].min():.4g} to "
            f"{probs[bad[0]].max():.4g}, sum {total[bad[0]]:.4g}",
            remedy="each row must be >= 0 and sum to 1 (a softmax of logits does)",
            ids=bad.tolist(),
        )
    return probs


def labelled_probabilities(labels: Any, pred_probs: Any) -> tuple[np.ndarray, np.ndarray]:
    """Both checked, of one length, every label a column of ``pred_probs``."""
    codes, probs = class_labels(labels), class_probabilities(pred_probs)
    if len(codes) != len(probs):
        raise SchemaMismatch(f"{len(codes):,} labels and {len(probs):,} rows of pred_probs do not fit together")
    beyond = np.flatnonzero(codes >= probs.shape[1])
    if len(beyond):
        raise LabelError(
            f"labels of row {name_some(beyond)} lie outside 0..{probs.shape[1] - 1}, the columns of pred_probs",
            ids=beyond.tolist(),
        )
    return codes, probs


def several_classes(labels: np.ndarray) -> None:
    """Refuse labels that are all the same: nothing can be compared."""
    if (labels == labels[0]).all():
        raise LabelError(f"all {len(labels):,} labels are {labels[0]}", remedy="two classes are needed")


def finite_column(values: Any, name: str) -> np.ndarray:
    """``values`` as float64 (n,) without NaN or infinity, or a refusal that names the rows."""
    values = np.asarray(values)
    if values.ndim != 1 or values.dtype.kind not in "fiub":
        raise SchemaMismatch(f"{name} must be one number a datapoint; got shape {values.shape} of {values.dtype}")
    if len(values) == 0:
        raise EmptyData(f"{name} is empty")
    values = values.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise NotFinite(f"{name} has NaN or infinity in row {name_some(bad)}", ids=bad.tolist())
    return values
