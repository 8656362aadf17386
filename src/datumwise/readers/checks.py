"""What makes a stream of rows unfit, found while it flows: column, rows and remedy in one sentence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from datumwise.errors import DatumwiseError, EmptyData, LabelError, NotFinite, SchemaMismatch, name_some

__all__ = ["Label", "checked", "looks_continuous"]

KEPT = 1_000  # ids of faulty rows kept for the error; beyond, they are counted only
MOST_CLASSES = 1_000_000  # different labels after which counting stops: these are no classes
FEW = 20  # up to so many different values are classes, whatever the number of rows


def checked(
    batches: Iterator[pa.RecordBatch],
    roles: Mapping[str, Any],
    *,
    name: str,
    id_column: str | None,
    task: str | None,
) -> Iterator[pa.RecordBatch]:
    """Passes batches on, and refuses at the first fault, after counting the rest of it.

    Parameters
    ----------
    batches : iterator of RecordBatch
    roles : mapping
        From `settle_roles`.
    name : str
        How the sentence calls the source.
    id_column : str or None
        Column that names rows; without one they are numbered from 0.
    task : str or None
        ``"regression"``: the label must be finite numbers; ``"classification"``: it may have any number of
        values.

    Raises
    ------
    NotFinite
        A feature that is missing, NaN or infinite, or a regression label that is.
    LabelError
        A label that is missing, or looks continuous.
    SchemaMismatch
        A text that is missing, a regression label that is no number.
    EmptyData
        No row at all.
    """
    features = roles.get("features", [])
    watched = dict.fromkeys([features] if isinstance(features, str) else features, "feature")
    for role in ("text", "response", "label"):
        if role in roles:
            watched[roles[role]] = role
    label = Label(roles["label"], name, task) if "label" in roles else None
    faults: dict[str, _Fault] = {}
    rows = 0
    for batch in batches:
        for column, role in watched.items():
            bad = _missing(batch.column(column), role)
            if bad is not None:
                faults.setdefault(column, _Fault(column, role)).add(batch, bad, rows, id_column)
        if label is not None and not faults:
            label.add(batch.column(label.column))
        rows += batch.num_rows
        if not faults and batch.num_rows:
            yield batch
    if faults:
        raise next(faults[column] for column in watched if column in faults).error()
    if not rows:
        raise EmptyData(f"{name} has no rows", remedy="give a source with at least one datapoint")
    if label is not None:
        label.settle()


def _missing(column: pa.Array, role: str) -> np.ndarray | None:
    """Rows of a batch that lack a value, bool (n,), or None when none does."""
    kind = column.type
    if role == "feature" and not pat.is_fixed_size_list(kind):
        bad = None  # a feature may be null: learners see the median and an indicator, or a category of its own
    else:
        bad = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    if pat.is_floating(kind):
        infinite = ~np.isfinite(column.to_numpy(zero_copy_only=False).astype(np.float64, copy=False))
        if role == "feature":
            infinite &= column.is_valid().to_numpy(zero_copy_only=False)
        if infinite.any():
            bad = infinite
    elif pat.is_fixed_size_list(kind):
        width = kind.list_size
        flat = column.values.slice(column.offset * width, len(column) * width)
        values = flat.to_numpy(zero_copy_only=False).astype(np.float64, copy=False)
        finite = np.isfinite(values).reshape(len(column), width).all(axis=1)
        if not finite.all():
            bad = ~finite if bad is None else bad | ~finite
    return bad


class _Fault:
    """Rows of one column that lack a value."""

    def __init__(self, column: str, role: str) -> None:
        self.column, self.role = column, role
        self.rows = 0
        self.named: list[Any] = []
        self.by_id = False

    def add(self, batch: pa.RecordBatch, bad: np.ndarray, first_row: int, id_column: str | None) -> None:
        at = np.flatnonzero(bad)
        self.rows += len(at)
        self.by_id = id_column is not None
        some = at[: KEPT - len(self.named)]
        ids = batch.column(id_column).take(pa.array(some)).to_pylist() if id_column else (some + first_row).tolist()
        self.named += ids

    def error(self) -> DatumwiseError:
        noun = ("id" if self.by_id else "row") + ("" if self.rows == 1 else "s")
        which = f"{noun} {self._some()}{'' if self.by_id else ', from 0'}"
        where = f"in {self.rows:,} {'row' if self.rows == 1 else 'rows'} ({which})"
        if self.role == "feature":
            return NotFinite(
                f"column {self.column!r} is NaN or infinite {where}",
                remedy="give numbers, or null where a value is missing, or name the other columns as features",
                column=self.column,
                ids=self.named,
            )
        kind = LabelError if self.role == "label" else SchemaMismatch
        return kind(
            f"column {self.column!r} has no {self.role} {where}",
            remedy="fill it in, or remove those rows",
            column=self.column,
            ids=self.named,
        )

    def _some(self) -> str:
        shown = self.named[:3]
        more = self.rows - len(shown)
        return name_some(shown) + (f" and {more:,} more" if more else "")


class Label:
    """Counts the different labels of a stream, and says at the end whether they are classes."""

    def __init__(self, column: str, name: str, task: str | None) -> None:
        self.column, self.name, self.task = column, name, task
        self.rows = 0
        self.values: set[Any] = set()
        self.fractions = False

    def add(self, column: pa.Array) -> None:
        if self.task == "regression":
            if not (pat.is_integer(column.type) or pat.is_floating(column.type)):
                raise LabelError(
                    f"column {self.column!r} holds {column.type}, and regression needs numbers",
                    remedy="give a column of numbers, or task='classification'",
                    column=self.column,
                )
            return
        self.rows += len(column)
        if self.task == "classification":
            return
        different = pc.unique(column)
        if pat.is_floating(column.type):
            values = different.to_numpy(zero_copy_only=False)
            self.fractions |= bool((values != np.floor(values)).any())
        self.values.update(different.to_pylist())
        if len(self.values) > MOST_CLASSES:
            self._refuse(f"more than {MOST_CLASSES:,}")

    def settle(self) -> None:
        """Refuse labels that are no classes.

        Raises
        ------
        LabelError
        """
        if self.task is None and looks_continuous(len(self.values), self.rows, fractions=self.fractions):
            self._refuse(f"{len(self.values):,}")

    def _refuse(self, count: str) -> None:
        raise LabelError(
            f"column {self.column!r} has {count} different values in {self.rows:,} rows, which is not a label",
            remedy="give a column of classes, or task='regression'",
            column=self.column,
        )


def looks_continuous(different: int, rows: int, *, fractions: bool) -> bool:
    """Whether so many different values cannot be classes.

    Up to 20 values always can. Beyond, values with fractions cannot; whole numbers and text can, until more
    than half of the rows have a value of their own.

    Examples
    --------
    >>> looks_continuous(41_022, 50_000, fractions=False), looks_continuous(1_000, 5_000, fractions=False)
    (True, False)
    >>> looks_continuous(10, 10, fractions=True), looks_continuous(21, 5_000, fractions=True)
    (False, True)
    """
    return different > FEW and (fractions or different > rows / 2)
