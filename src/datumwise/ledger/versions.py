"""What a ledger was: its versions, tags, the way back, and what differs between two of them."""

from __future__ import annotations

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


@dataclass(frozen=True)
class Version:
    """One state of a ledger.

    Parameters
    ----------
    number : int
    time : datetime
        When it was written, local time.
    what : str
        What changed since the version before, in words.
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
    """All versions that can still be opened, oldest first."""
    tags: dict[int, list[str]] = {}
    for name, tag in ds.tags.list().items():
        tags.setdefault(tag["version"], []).append(name)
    found: list[Version] = []
    before: pa.Schema | None = None
    rows_before = 0
    for entry in sorted(ds.versions(), key=lambda entry: entry["version"]):
        number = entry["version"]
        schema = ds.checkout_version(number).schema
        rows = int(entry["metadata"]["total_rows"])
        what = _created(rows, number) if before is None else _change(before, schema, rows - rows_before)
        found.append(Version(number, entry["timestamp"], what, rows, tuple(sorted(tags.get(number, ())))))
        before, rows_before = schema, rows
    return found


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


def _change(before: pa.Schema, after: pa.Schema, rows: int) -> str:
    """One phrase, told from what differs, not from what the store calls it."""
    was, now = visible(before), visible(after)
    parts = []
    if rows:
        parts.append(f"{abs(rows):,} row{'s' if abs(rows) > 1 else ''} {'added' if rows > 0 else 'deleted'}")
    added = [name for name in now.names if name not in was.names]
    removed = [name for name in was.names if name not in now.names]
    changed = [n for n in now.names if n in was.names and _made(was.field(n)) != _made(now.field(n))]
    parts += [f"{word} {', '.join(names)}" for word, names in (("+", added), ("-", removed), ("~", changed)) if names]
    if parts:
        return "; ".join(parts)
    if (before.metadata or {}).get(KEY) != (after.metadata or {}).get(KEY):
        return "facts noted"
    if leftovers(before) != leftovers(after):
        return "a column being overwritten"
    return "values patched, or files tidied"
