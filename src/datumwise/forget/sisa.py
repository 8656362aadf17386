"""How cheap is exact forgetting that was prepared for? SISA: models by shard, checkpoints by slice (Bourtoule et al., 2021).

Training data are split into shards, each shard into slices; each shard trains a model of its own, slice after slice, and keeps
the model after each. A removed datapoint was seen by one shard from one slice on: that shard alone goes on from the checkpoint
before. Where shard and slice are drawn by position, as published code does, a removal moves the datapoints behind it; here they
come from a hash of the id, and every (shard, slice) has a seed of its own, so the result is bit for bit the one of training
without the datapoint.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, clone, is_classifier
from sklearn.dummy import DummyClassifier

from datumwise.errors import (
    DatumwiseError,
    DuplicateId,
    EmptyData,
    MissingId,
    ModelMismatch,
    SchemaMismatch,
    UnknownName,
    name_some,
)

__all__ = ["Sisa", "SisaForgetting", "sisa_expected_share", "sisa_place"]

Trainer = Callable[[Any, tuple[Any, ...], int], Any]


@dataclass(frozen=True)
class SisaForgetting:
    """What a removal cost.

    Attributes
    ----------
    ids : tuple
        Forgotten.
    shards : dict of int to int
        Touched shards, each with the slice from which it was trained again.
    calls : int
        Calls of the trainer.
    rows, rows_anew : int
        Datapoints shown to the trainer, and what training everything anew would have shown it.
    """

    ids: tuple[Any, ...]
    shards: dict[int, int]
    calls: int
    rows: int
    rows_anew: int

    @property
    def share(self) -> float:
        """Work of the removal over the work of training anew, 0..1."""
        return self.rows / self.rows_anew if self.rows_anew else 0.0


class Sisa:
    """Models of disjoint shards that can forget datapoints exactly.

    Parameters
    ----------
    trainer : callable (start, data, seed) -> model, or scikit-learn estimator
        ``start`` is a copy of the model after the slice before, or None; ``data`` a tuple of the columns given to `fit`, cut to
        the rows to train on; the result must be determined by the three. An estimator is cloned, gets the seed as its
        ``random_state`` and is fitted to (X, y); with more than one slice it must have ``partial_fit``, and a classifier then
        needs ``classes``.
    n_shards, n_slices : int
    cumulative : bool
        Slice r is trained on the rows of slices 1..r, as published; False: on the new rows alone.
    classes : sequence, optional
        All classes there may be. Given rather than read from the data, which would let a forgotten datapoint leave its class.
    combine : {"mean", "vote"}
        Of the shards' answers: mean of probabilities (or of numbers), or majority of their classes, ties to the first class.
    predict : callable (model, X) -> float (m, C) or (m,), optional
        Probabilities, or numbers, by one model. Default: ``predict_proba``, else ``predict``.
    seed : int

    Attributes
    ----------
    ids_ : list
        What is remembered, in the order it was given.
    models_ : list of n_shards
        Model after the last slice, None for a shard without datapoints.
    calls_, rows_ : int
        Calls of the trainer and rows shown to it, so far.

    References
    ----------
    Bourtoule, Chandrasekaran, Choquette-Choo, Jia, Travers, Zhang, Lie and Papernot, *Machine unlearning*, IEEE S&P 2021.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 3)); y = (X[:, 0] > 0).astype(int); ids = [f"d{i}" for i in range(200)]
    >>> sisa = Sisa(LogisticRegression(), n_shards=5).fit(ids, (X, y))
    >>> cost = sisa.forget(["d7"])
    >>> anew = Sisa(LogisticRegression(), n_shards=5).fit(ids[:7] + ids[8:], (np.delete(X, 7, 0), np.delete(y, 7)))
    >>> bool((sisa.predict_proba(X) == anew.predict_proba(X)).all()), cost.calls, round(cost.share, 2)
    (True, 1, 0.19)
    """

    def __init__(
        self,
        trainer: Trainer | BaseEstimator,
        n_shards: int,
        n_slices: int = 1,
        *,
        cumulative: bool = True,
        classes: Sequence[Any] | None = None,
        combine: str = "mean",
        predict: Callable[[Any, Any], Any] | None = None,
        seed: int = 0,
    ) -> None:
        if n_shards < 1 or n_slices < 1:
            raise DatumwiseError(f"{n_shards} shards of {n_slices} slices were asked for", remedy="take at least one of each")
        if combine not in ("mean", "vote"):
            raise UnknownName(f"there is no way to combine {combine!r}", remedy="choose mean or vote")
        self.n_shards, self.n_slices = int(n_shards), int(n_slices)
        self.cumulative, self.classes, self.combine, self.seed = cumulative, classes, combine, seed
        self._train: Trainer = trainer if not hasattr(trainer, "get_params") else _by_estimator(trainer, self.n_slices, classes)
        self._predict = predict
        self._data: tuple[Any, ...] | None = None
        self._rows: list[list[np.ndarray]] = []

    # --- learning -----------------------------------------------------------------------------------------------------------

    def fit(self, ids: Sequence[Any], data: Any, *, progress: Callable[[int, int], None] | None = None) -> Sisa:
        """Train all shards.

        Parameters
        ----------
        ids : sequence (n,)
            Unique; they decide shard and slice by their text, so 7 and "7" are the same id.
        data : tuple of sequences (n, ...), or one sequence
            Arrays, tensors, sparse matrices or lists, for example ``(X, y)``.
        progress : callable (done, total), optional
            Calls of the trainer.

        Raises
        ------
        DuplicateId, EmptyData, SchemaMismatch
        """
        names = list(ids)
        columns = data if isinstance(data, tuple) else (data,)
        if not names:
            raise EmptyData("there is no datapoint to train on")
        off = [at for at, column in enumerate(columns) if _length(column) != len(names)]
        if off:
            raise SchemaMismatch(f"{len(names):,} ids were given for {_length(columns[off[0]]):,} rows of column {off[0]}")
        keys = [str(name) for name in names]
        if len(set(keys)) < len(keys):
            first: set[str] = set()
            twice = [key for key in keys if key in first or first.add(key)]  # type: ignore[func-returns-value]
            raise DuplicateId(f"ids occur twice: {name_some(twice)}", ids=twice)
        self.ids_, self._data = names, columns
        self.calls_ = self.rows_ = 0
        self._lay_out()
        empty: list[list[Any]] = [[None] * self.n_slices for _ in range(self.n_shards)]
        self._checkpoints = self._trained(empty, dict.fromkeys(range(self.n_shards), 0), self._data, self._rows, progress)
        return self

    def forget(self, ids: Iterable[Any], *, progress: Callable[[int, int], None] | None = None) -> SisaForgetting:
        """Train the touched shards again without the ids, from the last checkpoint that never saw them.

        The ids' rows are dropped, too. If the trainer fails, nothing has changed.

        Raises
        ------
        EmptyData
            No id, or none would be left.
        MissingId
            An id is not here.
        """
        columns = self._columns()
        gone = [ids] if isinstance(ids, str) else list(dict.fromkeys(ids))
        if not gone:
            raise EmptyData("there is no datapoint to forget")
        place = {str(name): at for at, name in enumerate(self.ids_)}
        missing = [name for name in gone if str(name) not in place]
        if missing:
            raise MissingId(f"ids are not among the {len(place):,} trained on: {name_some(missing)}", ids=missing)
        positions = {place[str(name)] for name in gone}
        if len(positions) == len(self.ids_):
            raise EmptyData(f"no datapoint is left when all {len(self.ids_):,} are forgotten")
        before = (self.ids_, self._data, self._rows)
        first: dict[int, int] = {}
        for at in positions:
            shard, slice_ = sisa_place(self.ids_[at], self.n_shards, self.n_slices, self.seed)
            first[shard] = min(first.get(shard, self.n_slices), slice_)
        calls, rows = self.calls_, self.rows_
        keep = np.array([at for at in range(len(self.ids_)) if at not in positions])
        try:
            self.ids_ = [self.ids_[at] for at in keep]
            self._data = tuple(_take(column, keep) for column in columns)
            self._lay_out()
            self._checkpoints = self._trained(self._checkpoints, first, self._data, self._rows, progress)
        except BaseException:
            self.ids_, self._data, self._rows = before
            self.calls_, self.rows_ = calls, rows
            raise
        anew = sum(len(part) for shard in range(self.n_shards) for part in self._shown(self._rows[shard]))
        return SisaForgetting(tuple(gone), dict(sorted(first.items())), self.calls_ - calls, self.rows_ - rows, anew)

    def _lay_out(self) -> None:
        """Positions of each shard's slices, each in the order of a hash of the ids: the given order does not matter."""
        rows: list[list[list[tuple[bytes, int]]]] = [[[] for _ in range(self.n_slices)] for _ in range(self.n_shards)]
        for at, name in enumerate(self.ids_):
            shard, slice_ = sisa_place(name, self.n_shards, self.n_slices, self.seed)
            rows[shard][slice_].append((_digest(name, self.seed), at))
        self._rows = [[np.array([at for _, at in sorted(part)], dtype=int) for part in shard] for shard in rows]

    def _shown(self, slices: list[np.ndarray]) -> list[np.ndarray]:
        """Rows that the trainer is shown at each slice; a slice without new rows is not trained."""
        shown = []
        for r, part in enumerate(slices):
            shown.append(np.concatenate(slices[: r + 1]) if self.cumulative and len(part) else part)
        return shown

    def _trained(
        self,
        checkpoints: list[list[Any]],
        first: dict[int, int],
        data: tuple[Any, ...],
        rows: list[list[np.ndarray]],
        progress: Callable[[int, int], None] | None,
    ) -> list[list[Any]]:
        """Checkpoints with the shards of ``first`` trained from its slices on; the given ones are not touched."""
        new = [list(shard) for shard in checkpoints]
        shown = {shard: self._shown(rows[shard]) for shard in first}
        total = sum(len(part) > 0 for shard, start in first.items() for part in shown[shard][start:])
        done = 0
        for shard, start in sorted(first.items()):
            model = new[shard][start - 1] if start else None
            for r in range(start, self.n_slices):
                part = shown[shard][r]
                if len(part):
                    seed = int(np.random.SeedSequence([self.seed, shard, r]).generate_state(1)[0])
                    model = self._train(copy.deepcopy(model), tuple(_take(column, part) for column in data), seed)
                    if model is None:
                        raise ModelMismatch(f"the trainer returned no model for shard {shard}, slice {r}")
                    self.calls_ += 1
                    self.rows_ += len(part)
                    done += 1
                    if progress is not None:
                        progress(done, total)
                new[shard][r] = model
        return new

    # --- answering ----------------------------------------------------------------------------------------------------------

    @property
    def models_(self) -> list[Any]:
        self._columns()
        return [shard[-1] for shard in self._checkpoints]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (m, C) in the order of `classes_`: mean over the shards, or shares of their votes."""
        answers = [(model, np.asarray(self._answer(model, X), float)) for model in self.models_ if model is not None]
        if any(p.ndim != 2 for _, p in answers):
            raise ModelMismatch("the shards' models give no probabilities", remedy="use predict, or give predict=")
        classes = self.classes_
        total = np.zeros((len(answers[0][1]), len(classes)))
        for model, p in answers:
            own = np.asarray(getattr(model, "classes_", classes))
            if len(own) != p.shape[1]:
                raise ModelMismatch(f"a shard's model answers with {p.shape[1]} classes of {len(own)}")
            if self.combine == "vote":
                p = np.eye(len(own))[p.argmax(1)]
            total[:, np.searchsorted(classes, own)] += p
        return total / len(answers)

    def predict(self, X: Any) -> np.ndarray:
        """Classes (m,), or the mean of the shards' numbers (m, ...)."""
        answers = [np.asarray(self._answer(model, X)) for model in self.models_ if model is not None]
        if answers[0].ndim == 2 and self._gives_classes():
            return np.asarray(self.classes_)[self.predict_proba(X).argmax(1)]
        if answers[0].dtype.kind == "f":
            return np.mean(answers, axis=0)
        classes, votes = np.unique(np.stack(answers), return_inverse=True)
        counts = np.zeros((len(answers[0]), len(classes)), int)
        for row in votes.reshape(len(answers), -1):
            counts[np.arange(len(row)), row] += 1
        return classes[counts.argmax(1)]

    @property
    def classes_(self) -> np.ndarray:
        """Classes of the shards' models together, sorted; 0..C-1 where they name none."""
        if self.classes is not None:
            return np.unique(np.asarray(self.classes))
        named = [np.asarray(model.classes_) for model in self.models_ if hasattr(model, "classes_")]
        if named:
            return np.unique(np.concatenate(named))
        raise ModelMismatch("the shards' models name no classes", remedy="give Sisa(classes=...)")

    def _gives_classes(self) -> bool:
        return self.classes is not None or any(hasattr(model, "classes_") for model in self.models_)

    def _answer(self, model: Any, X: Any) -> Any:
        if self._predict is not None:
            return self._predict(model, X)
        if hasattr(model, "predict_proba"):
            return model.predict_proba(X)
        if hasattr(model, "predict"):
            return model.predict(X)
        raise ModelMismatch(f"a {type(model).__name__} has no predict", remedy="give Sisa(predict=...)")

    def _columns(self) -> tuple[Any, ...]:
        if self._data is None:
            raise ModelMismatch("this Sisa is not fitted", remedy="call fit first")
        return self._data


def sisa_place(name: Any, n_shards: int, n_slices: int, seed: int = 0) -> tuple[int, int]:
    """Shard and slice of an id, from a hash of its text: nothing else decides.

    Examples
    --------
    >>> sisa_place("d7", 5, 3) == sisa_place("d7", 5, 3)
    True
    """
    digest = _digest(name, seed)
    return int.from_bytes(digest[:8], "big") % n_shards, int.from_bytes(digest[8:], "big") % n_slices


def _digest(name: Any, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}\0{name}".encode(), digest_size=16).digest()


def sisa_expected_share(n_shards: int, n_slices: int, n_forget: int = 1) -> float:
    """Expected work of forgetting ``n_forget`` datapoints at once over that of training anew, slices trained cumulatively.

    Slice j of a shard, of cost j, is trained again unless no forgotten datapoint fell into its slices 1..j:
    ``sum_j j (1 - (1 - j / (S R))^k) / sum_j j``.

    Examples
    --------
    >>> sisa_expected_share(20, 1), round(sisa_expected_share(20, 5), 4)
    (0.05, 0.0367)
    """
    if min(n_shards, n_slices, n_forget) < 1:
        raise DatumwiseError("shards, slices and datapoints to forget must be at least 1")
    j = np.arange(1, n_slices + 1)
    touched = 1 - (1 - j / (n_shards * n_slices)) ** n_forget
    return round(float((j * touched).sum() / j.sum()), 12)


def _by_estimator(estimator: BaseEstimator, n_slices: int, classes: Sequence[Any] | None) -> Trainer:
    """A trainer that fits clones; a classifier's shard of one class gets the model that always answers it."""
    if n_slices > 1 and not hasattr(estimator, "partial_fit"):
        raise ModelMismatch(
            f"{type(estimator).__name__} has no partial_fit, so it cannot go on from a slice's checkpoint",
            remedy="take n_slices=1, or give a trainer(start, data, seed)",
        )
    if n_slices > 1 and is_classifier(estimator) and classes is None:
        raise ModelMismatch(
            "a classifier that is trained in slices must be told its classes at the first",
            remedy="give Sisa(classes=...)",
        )

    def train(start: Any, data: tuple[Any, ...], seed: int) -> Any:
        model = start
        if model is None:
            model = clone(estimator)
            random = [name for name in model.get_params(deep=True) if name.split("__")[-1] == "random_state"]
            model.set_params(**dict.fromkeys(random, seed))
        if n_slices > 1:
            told = {"classes": np.unique(np.asarray(classes))} if is_classifier(model) else {}
            return model.partial_fit(*data, **told)
        if is_classifier(model) and len(np.unique(data[1])) == 1:
            return DummyClassifier(strategy="prior").fit(*data)
        return model.fit(*data)

    return train


def _length(column: Any) -> int:
    shape = getattr(column, "shape", None)
    return int(shape[0]) if shape is not None else len(column)


def _take(column: Any, rows: np.ndarray) -> Any:
    if hasattr(column, "iloc"):
        return column.iloc[rows]
    if hasattr(column, "shape"):
        return column[rows]
    return [column[at] for at in rows]
