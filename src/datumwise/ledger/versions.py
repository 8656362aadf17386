"""What a ledger was: its versions, tags, the way back, and what differs between two of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from datumwise.errors import UnknownName
from datumwise.ledger.commit import leftovers
from datumwise.ledger.provenance import KEY
from datumwise.ledger.read import SCAN_ROWS, scan, search, visible
from datumwise.ledger.schema import nearest

__all__ = ["Diff", "Version", "difference", "history", "resolve"]

FACTS_SECONDS = 60  # a fact noted so soon after something else is about that
FACTS = "UpdateConfig"  # the store's name for a change of the ledger's facts,
RESERVE = "BaseOperation"  # and, among others, for numbers set aside for files about to be rewritten


@dataclass(frozen=True)
class Version:
    """One state of a ledger.

    Parameters
    ----------
    number : int
    time : datetime
        When it was written, local time.
    what : str
        What changed since the version listed before, in words.
    rows : int
    tags : tuple of str
    """

    number: int
    time: datetime
    what: str
    rows: int
    tags: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diff:
    """What differs between version `a` and version `b`.

    Parameters
    ----------
    a, b : int
    inserted, updated, deleted : list of str
        Ids, in ledger order. Updated: rows of both whose values were patched since `a`.
    columns_added, columns_removed, columns_changed : list of str
        Changed: overwritten as a whole, told by the provenance.
    """

    a: int
    b: int
    inserted: list[str]
    updated: list[str]
    deleted: list[str]
    columns_added: list[str]
    columns_removed: list[str]
    columns_changed: list[str]

    def __bool__(self) -> bool:
        rows = self.inserted or self.updated or self.deleted
        return bool(rows or self.columns_added or self.columns_removed or self.columns_changed)

    def __repr__(self) -> str:
        parts = [
            f"{len(ids):,} rows {name}"
            for name, ids in (
                ("inserted", self.inserted),
                ("updated", self.updated),
                ("deleted", self.deleted),
            )
            if ids
        ]
        parts += [f"+ {name}" for name in self.columns_added]
        parts += [f"- {name}" for name in self.columns_removed]
        parts += [f"~ {name}" for name in self.columns_changed]
        return f"version {self.a} -> {self.b}: {', '.join(parts) or 'no difference'}"


def history(ds: Any) -> list[Version]:
    """What was done, oldest first: one line an act, under the number of the version it ended in.

    The versions in between (a column being swapped, numbers being reserved for files, a fact noted within
    a minute of what it is about) can be opened as any other; they are listed only where they have a tag, or
    are the last.
    """
    tags: dict[int, list[str]] = {}
    for name, tag in ds.tags.list().items():
        tags.setdefault(tag["version"], []).append(name)
    steps = [_step(ds, entry) for entry in sorted(ds.versions(), key=lambda entry: entry["version"])]
    found: list[Version] = []
    act: list[_Step] = []
    before: _Step | None = None
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        act.append(step)
        if after is not None and step.number not in tags and _goes_on(step, after):
            continue
        what = _created(step.rows, act[0].number) if before is None else _told(before, act)
        found.append(Version(step.number, step.time, what, step.rows, tuple(sorted(tags.get(step.number, ())))))
        before, act = step, []
    return found


@dataclass(frozen=True)
class _Step:
    """One version as the store has it."""

    number: int
    time: datetime
    schema: pa.Schema
    rows: int
    operation: Any  # of the store; None where its record is gone

    @property
    def kind(self) -> str:
        return type(self.operation).__name__


def _step(ds: Any, entry: dict[str, Any]) -> _Step:
    number = entry["version"]
    try:
        operation = ds.read_transaction(number).operation
    except (OSError, ValueError, AttributeError):  # cleaned away
        operation = None
    rows = int(entry["metadata"]["total_rows"])
    return _Step(number, entry["timestamp"], ds.checkout_version(number).schema, rows, operation)


def _goes_on(step: _Step, after: _Step) -> bool:
    """Whether the step and the one after it belong to one act."""
    if leftovers(step.schema):
        return True
    if step.kind == RESERVE and after.kind == "Rewrite":
        return True
    soon = (after.time - step.time).total_seconds() < FACTS_SECONDS
    return soon and after.kind in (FACTS, "NoneType") and step.rows == after.rows and _only_facts(step.schema, after.schema)


def _only_facts(before: pa.Schema, after: pa.Schema) -> bool:
    return before.equals(after) and bool(_noted(before, after)) and not _changes(before, after)


def resolve(ds: Any, version: int | str) -> int:
    """The number of a version or tag.

    Raises
    ------
    UnknownName
    """
    tags = {name: tag["version"] for name, tag in ds.tags.list().items()}
    numbers = {entry["version"] for entry in ds.versions()}
    if isinstance(version, str) and version in tags:
        return int(tags[version])
    if isinstance(version, int | np.integer) and not isinstance(version, bool) and int(version) in numbers:
        return int(version)
    if isinstance(version, str) and version.isdecimal() and int(version) in numbers:
        return int(version)
    guess = nearest(str(version), tags)
    raise UnknownName(
        f"there is no version or tag '{version}' (versions {min(numbers)} to {max(numbers)},"
        f" tags: {', '.join(sorted(tags)) or 'none'})",
        remedy=f"did you mean '{guess}'?" if guess else None,
    )


def difference(old: Any, new: Any) -> Diff:
    """What differs between two data sets opened at two versions of one ledger."""
    before, after = _ids(old), _ids(new)
    inserted, deleted = set(after) - set(before), set(before) - set(after)
    was, now = visible(old.schema), visible(new.schema)
    both = [name for name in was.names if name in now.names]
    changed = [name for name in both if _made(was.field(name)) != _made(now.field(name))]
    touched = _patched(old, new, [name for name in both if name not in changed], set(before) & set(after))
    return Diff(
        old.version,
        new.version,
        [one for one in after if one in inserted],
        [one for one in after if one in touched],
        [one for one in before if one in deleted],
        [name for name in now.names if name not in was.names],
        [name for name in was.names if name not in now.names],
        changed,
    )


def _patched(old: Any, new: Any, columns: list[str], shared: set[str]) -> set[str]:
    """Ids of both versions whose values differ.

    The store marks a row as updated when its file was; of the rows so marked, the values are compared.
    """
    touched: set[str] = set()
    for batch in scan(new, [*columns, "_row_last_updated_at_version"], batch_size=SCAN_ROWS):
        marked = pc.greater(batch["_row_last_updated_at_version"], old.version)
        batch = batch.filter(pc.and_(marked, pc.is_in(batch["id"], value_set=pa.array(sorted(shared), pa.string()))))
        if not len(batch):
            continue
        former = old._take_rows(search(old, batch["id"]).tolist(), columns=columns)
        differ = np.zeros(len(batch), bool)
        for name in columns:
            differ |= _unequal(former[name].combine_chunks(), batch[name])
        touched.update(batch["id"].filter(pa.array(differ)).to_pylist())
    return touched


def _unequal(old: pa.Array, new: pa.Array) -> np.ndarray:
    """Where two columns differ, bool (n,); a null equals a null and NaN equals NaN."""
    if old.equals(new):
        return np.zeros(len(new), bool)
    return np.array([repr(a) != repr(b) for a, b in zip(old.to_pylist(), new.to_pylist(), strict=True)], bool)


def _ids(ds: Any) -> list[str]:
    return [one for batch in scan(ds, ["id"], batch_size=SCAN_ROWS) for one in batch["id"].to_pylist()]


def _made(field: pa.Field) -> tuple[Any, bytes | None]:
    return field.type, (field.metadata or {}).get(KEY)


def _created(rows: int, number: int) -> str:
    return f"created with {rows:,} rows" if number == 1 else f"oldest version kept, {rows:,} rows"


def _told(before: _Step, act: list[_Step]) -> str:
    """One phrase: what differs, and where nothing does, what the store did."""
    after = act[-1]
    rows = after.rows - before.rows
    parts = []
    if rows:
        parts.append(f"{abs(rows):,} row{'s' if abs(rows) > 1 else ''} {'added' if rows > 0 else 'deleted'}")
    parts += _changes(before.schema, after.schema)
    noted = _noted(before.schema, after.schema)
    parts += [f"noted {', '.join(noted)}"] if noted else []
    kinds = {step.kind for step in act}
    restored = [step.operation.version for step in act if step.kind == "Restore"]
    if restored:
        return f"version {restored[-1]} restored" + (f": {'; '.join(parts)}" if parts else "")
    if parts:
        return "; ".join(parts)
    if kinds & {"Update", "Merge", "Project"}:
        return "values patched"
    return "files tidied" if "Rewrite" in kinds else "values patched, or files tidied"


def _changes(before: pa.Schema, after: pa.Schema) -> list[str]:
    """Columns that came, went and were overwritten."""
    was, now = visible(before), visible(after)
    added = [name for name in now.names if name not in was.names]
    removed = [name for name in was.names if name not in now.names]
    changed = [n for n in now.names if n in was.names and _made(was.field(n)) != _made(now.field(n))]
    return [f"{sign} {', '.join(names)}" for sign, names in (("+", added), ("-", removed), ("~", changed)) if names]


def _noted(before: pa.Schema, after: pa.Schema) -> list[str]:
    """Names of the ledger's facts that differ."""
    was, now = (json.loads((schema.metadata or {}).get(KEY, b"{}")) for schema in (before, after))
    return [name for name in {**was, **now} if was.get(name) != now.get(name)]
