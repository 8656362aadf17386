"""Names that a ledger can hold, for those that it cannot: ``petal.width`` becomes ``petal_width``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from datumwise.errors import SchemaMismatch

if TYPE_CHECKING:
    import pyarrow as pa

    from datumwise.readers.roles import Asked
    from datumwise.readers.source import Source

__all__ = ["as_stored", "renamed", "storable"]


def storable(names: Sequence[str], *, taken: Iterable[str] = ()) -> dict[str, str]:
    """The name under which a ledger holds each column.

    A dot and a backtick (a path, in the store) become ``_``; ``_row`` at the beginning loses its ``_`` and
    ``__new`` and ``__old`` at the end one of theirs (the store's own and the ledger's own); a column without
    a name is ``unnamed``. Names that are alike then, or were but for case, are numbered from 2; a name that
    was good keeps to its column.

    Parameters
    ----------
    names : sequence of str
        Each once.
    taken : iterable of str
        Names that no column may have.

    Returns
    -------
    dict of str to str
        Stored name by given name, in the order given.

    Examples
    --------
    >>> storable(["petal.width", "petal_width", "Label", "label"])
    {'petal.width': 'petal_width_2', 'petal_width': 'petal_width', 'Label': 'Label', 'label': 'label_2'}
    """
    used = {name.lower() for name in taken}
    kept = set()
    for name in names:
        if _plain(name) == name and name.lower() not in used:
            kept.add(name)
            used.add(name.lower())
    stored = {}
    for name in names:
        stored[name] = name if name in kept else _unlike(_plain(name), used)
        used.add(stored[name].lower())
    return stored


def renamed(source: Source, *, taken: Iterable[str] = ()) -> Source:
    """The source with every column under a name that a ledger can hold; ``renamed`` says what they were called.

    Raises
    ------
    SchemaMismatch
        Two columns have the very same name.
    """
    names = source.schema.names
    twins = sorted({name for name in names if names.count(name) > 1})
    if twins:
        raise SchemaMismatch(
            f"two columns of {source.name} are called {twins[0]!r}", remedy="rename one of them", column=twins[0]
        )
    stored = storable(names, taken=taken)
    changed = {new: old for old, new in stored.items() if new != old}
    if not changed:
        return source
    given = {new: old for old, new in stored.items()}
    started, retyped = source.batches, source.retyped

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in started():
            yield batch.rename_columns([stored[name] for name in batch.schema.names])

    return replace(
        source,
        schema=source.schema.empty_table().rename_columns(list(stored.values())).schema,
        batches=batches,
        roles={role: _translated(columns, stored) for role, columns in source.roles.items()},
        renamed=changed,
        retyped=retyped and (lambda wanted: renamed(retyped([given[name] for name in wanted]), taken=taken)),
    )


def as_stored(asked: Asked, changed: Mapping[str, str]) -> Asked:
    """What somebody asked for by a column's own name, by the name under which it is stored.

    Parameters
    ----------
    asked : Asked
    changed : mapping of stored to given name
    """
    stored = {old: new for new, old in changed.items()}
    roles: dict[str, Any] = {
        role: _translated(getattr(asked, role), stored)
        for role in ("label", "text", "prompt", "response", "image", "id", "features")
    }
    return replace(asked, **roles)


def _plain(name: str) -> str:
    name = re.sub(r"[.`]", "_", name)
    name = re.sub(r"^_+(?=row)", "", name)
    name = re.sub(r"_+_(new|old)$", r"_\1", name)
    return name or "unnamed"


def _unlike(name: str, used: set[str]) -> str:
    numbered, k = name, 1
    while numbered.lower() in used:
        k += 1
        numbered = f"{name}_{k}"
    return numbered


def _translated(columns: str | Sequence[str] | None, stored: Mapping[str, str]) -> str | list[str] | None:
    if columns is None:
        return None
    if isinstance(columns, str):
        return stored.get(columns, columns)
    return [stored.get(column, column) for column in columns]
