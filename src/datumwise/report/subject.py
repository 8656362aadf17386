"""What an audit looks at: rows for a learner, an embedding, labels, and which datapoints are held out."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import EmptyData, LabelError, ModelMismatch, NotFinite, UnknownColumn, name_some
from datumwise.evaluate import held_out_split
from datumwise.probe.features import Features, embed, features
from datumwise.probe.given import COMPONENTS, text_columns
from datumwise.score import near_duplicates

if TYPE_CHECKING:
    from datumwise.ledger import Ledger

__all__ = ["Subject", "refuse_not_fitting", "refuse_small_classes", "subject_of"]

HELD_OUT = 0.25  # share held out for the proof, of at most
HELD_OUT_LIMIT = 5_000  # datapoints


@dataclass(frozen=True)
class Subject:
    """Datapoints as learners see them.

    Attributes
    ----------
    kind : str
        ``"table"``, ``"images"`` or ``"text"``.
    task : str or None
        ``"classification"``, ``"regression"``, or None without labels.
    ids : ndarray of str, shape (n,)
    X : ndarray, shape (n, d), or of texts, shape (n,)
    transform : transformer
        Unfitted, from ``X`` to numbers.
    embedding : ndarray of float32, shape (n, e)
        Fitted on the training rows.
    y : ndarray, shape (n,), or None
        Class codes or targets.
    classes : tuple of str
        Class names by code; empty unless a classification.
    train, held : ndarray of int
        Rows that are audited, and rows held out for the proof.
    limits : tuple of str
        What this view leaves out, a sentence each.
    """

    kind: str
    task: str | None
    ids: np.ndarray
    X: np.ndarray
    transform: Any
    embedding: np.ndarray
    y: np.ndarray | None
    classes: tuple[str, ...]
    train: np.ndarray
    held: np.ndarray
    limits: tuple[str, ...] = field(default=())

    @property
    def metric(self) -> str:
        """Texts are compared by angle, everything else by distance."""
        return "cosine" if self.kind == "text" else "euclidean"


def subject_of(
    ledger: Ledger,
    *,
    task: str | None = None,
    vectors: np.ndarray | None = None,
    held_out: float | str | None = None,
    seed: int = 0,
) -> Subject:
    """Read a ledger by its roles and decide what is held out.

    Parameters
    ----------
    ledger : Ledger
    task : str, optional
        Overrides the ledger's.
    vectors : ndarray of float, shape (n, d), optional
        A model's embedding of each datapoint; learners then see this instead of pixels or words.
    held_out : float or str, optional
        A share, or a column of true and false.
    seed : int

    Raises
    ------
    EmptyData, LabelError, NotFinite, UnknownColumn
    """
    if len(ledger) < 10:
        raise EmptyData(f"{ledger.name} holds {len(ledger)} datapoints", remedy="an audit needs at least 10")
    column = held_out if isinstance(held_out, str) else None
    found = _features(ledger, vectors, column)
    task = (task or ledger.task or "classification") if ledger.roles.get("label") else None
    y, classes = _labels(ledger, task)
    limits = _limits(found, own_view=vectors is not None, drawn=y is not None and column is None)

    everyone = np.arange(len(found.ids))
    width = COMPONENTS[found.kind]
    whole = embed(found.transform, found.X, n_components=width, seed=seed).transform(found.X)
    subject = Subject(
        found.kind, task, found.ids, found.X, found.transform, np.asarray(whole, np.float32), y, classes,
        everyone, everyone[:0], limits,
    )  # fmt: skip
    if y is None:
        return subject
    held = _held_out(ledger, subject, held_out, seed)
    train = np.flatnonzero(~held)
    fitted = embed(found.transform, found.X[train], n_components=width, seed=seed)
    embedding = np.asarray(fitted.transform(found.X), np.float32)
    return replace(subject, embedding=embedding, train=train, held=np.flatnonzero(held))


def _limits(found: Features, *, own_view: bool, drawn: bool) -> tuple[str, ...]:
    """What a reader of the page should know about how the datapoints were seen, a sentence each."""
    said = [f"Column {name!r} is not read: {why}." for name, why in found.left_out.items()]
    if found.kind == "table" and not own_view:
        missing = int(np.isnan(found.X).any(axis=1).sum())
        if missing:
            some = "1 datapoint has" if missing == 1 else f"{missing:,} datapoints have"
            said.append(f"{some} missing values: learners see the median and an indicator, or a category of its own.")
    elif not own_view:
        seen = {"images": "pixels", "text": "words and letters"}[found.kind]
        said.append(f"Datapoints are compared by their {seen}; a pretrained model (--model) may see more.")
    if drawn:
        said.append(
            "The held-out labels may hold the same kinds of error as the rest; a clean set (--held-out COLUMN) judges better."
        )
    return tuple(said)


def _features(ledger: Ledger, vectors: np.ndarray | None, left_out: str | None) -> Features:
    from sklearn.preprocessing import StandardScaler

    if vectors is not None:
        kind = "images" if ledger.roles.get("image") else "text" if text_columns(ledger) else "table"
        return Features(kind, ledger.ids, np.asarray(vectors, np.float32), StandardScaler(), ())
    return features(ledger, left_out=[left_out] if left_out else [])


def _labels(ledger: Ledger, task: str | None) -> tuple[np.ndarray | None, tuple[str, ...]]:
    if task is None:
        return None, ()
    column = ledger.roles["label"]
    values = ledger.table([column])[column].to_pylist()
    missing = [i for i, v in zip(ledger.ids, values, strict=True) if v is None]
    if missing:
        raise LabelError(
            f"column {column!r} is null in {len(missing):,} datapoints ({name_some(missing)})",
            remedy="label them or leave them out",
            column=column,
            ids=missing,
        )
    if task == "regression":
        try:
            target = np.asarray([float(v) for v in values])
        except (TypeError, ValueError):
            raise LabelError(
                f"column {column!r} holds {values[0]!r}, which is not a number to predict",
                remedy="give a column of numbers, or --task classification",
                column=column,
            ) from None
        wrong = ledger.ids[~np.isfinite(target)]
        if len(wrong):
            raise NotFinite(
                f"column {column!r} is NaN or infinite in {len(wrong):,} datapoints ({name_some(wrong)})",
                remedy="correct them or leave them out",
                column=column,
                ids=wrong.tolist(),
            )
        return target, ()
    names = sorted(set(values), key=_natural)
    code = {name: i for i, name in enumerate(names)}
    return np.asarray([code[v] for v in values]), tuple(str(name) for name in names)


def _natural(value: Any) -> tuple[int, float, str]:
    """Numbers by size, words by alphabet."""
    try:
        return (0, float(value), "")
    except (TypeError, ValueError):
        return (1, 0.0, str(value))


def _held_out(ledger: Ledger, subject: Subject, held_out: float | str | None, seed: int) -> np.ndarray:
    """Which rows are held out: bool (n,)."""
    assert subject.y is not None
    copies = near_duplicates(subject.embedding, metric=subject.metric)
    n = len(subject.ids)
    groups = np.where(copies.groups >= 0, copies.groups, n + np.arange(n))
    if isinstance(held_out, str):
        chosen = _chosen(ledger, held_out)
        straddling = np.isin(groups, groups[~chosen]) & chosen & (copies.groups >= 0)
        return chosen & ~straddling if (chosen & ~straddling).any() else chosen
    size = HELD_OUT if held_out is None else held_out
    if not 0 < size < 1:
        raise LabelError(f"{size:g} is no share to hold out", remedy="give a number between 0 and 1, or a column")
    return held_out_split(subject.y, groups, size=min(size, HELD_OUT_LIMIT / n) if held_out is None else size, seed=seed)


def _chosen(ledger: Ledger, column: str) -> np.ndarray:
    if column not in ledger.schema.names:
        raise UnknownColumn(
            f"column {column!r} is not in {ledger.name} (columns: {', '.join(ledger.schema.names)})",
            remedy="give --held-out a share between 0 and 1, or a column of true and false",
            column=column,
        )
    values = ledger.table([column])[column].to_pylist()
    if not set(values) <= {True, False}:
        raise LabelError(f"column {column!r} holds {values[0]!r}, and a held-out column holds true or false", column=column)
    chosen = np.asarray(values, bool)
    if chosen.all() or not chosen.any():
        raise LabelError(f"column {column!r} holds out {'everything' if chosen.all() else 'nothing'}", column=column)
    return chosen


def refuse_small_classes(subject: Subject, folds: int, column: str) -> None:
    """One sentence for labels that cross-validation cannot work with.

    Raises
    ------
    LabelError
        There is one class only, or a class has fewer members in training than ``folds``.
    """
    if subject.task != "classification" or subject.y is None:
        return
    if len(subject.classes) < 2:
        raise LabelError(
            f"column {column!r} holds one class only ({subject.classes[0]})",
            remedy="give labels of at least two classes, or no --label",
            column=column,
        )
    counts = np.bincount(subject.y[subject.train], minlength=len(subject.classes))
    if counts.min() >= folds:
        return
    small = np.flatnonzero(counts < folds)
    named = name_some([f"{subject.classes[k]} ({counts[k]})" for k in small[np.argsort(counts[small], kind="stable")]])
    some = "1 class" if len(small) == 1 else f"{len(small):,} classes"
    fewer = f"--folds {counts.min()}, or " if counts.min() >= 2 else ""
    have = "has" if len(small) == 1 else "have"
    raise LabelError(
        f"{some} of column {column!r} {have} fewer members to train on than {folds} folds: {named}",
        remedy=f"{fewer}join or leave out small classes",
        column=column,
    )


def refuse_not_fitting(model: Any, task: str | None) -> None:
    """One sentence for an estimator of the wrong kind.

    Raises
    ------
    ModelMismatch
    """
    from sklearn.base import is_classifier, is_regressor

    name = type(model).__name__
    if task is None:
        raise ModelMismatch(f"{name} predicts labels and there are none", remedy="name the label column")
    if task == "classification" and is_regressor(model):
        raise ModelMismatch(
            f"{name} is a regressor and the labels are classes",
            remedy="give a classifier, or --task regression",
        )
    if task == "regression" and is_classifier(model):
        raise ModelMismatch(
            f"{name} is a classifier and the labels are numbers",
            remedy="give a regressor, or --task classification",
        )
