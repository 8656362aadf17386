"""How datapoints join a ledger later: checked, named, compared with those there, written in one commit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import lance
import numpy as np
import pyarrow as pa

from datumwise.errors import SchemaMismatch
from datumwise.ledger import create
from datumwise.ledger.commit import recover, translated, writing
from datumwise.ledger.ids import Seen, content_ids, given_ids, id_keys, refuse_duplicates
from datumwise.ledger.known import KnownIds
from datumwise.ledger.provenance import of_field
from datumwise.ledger.schema import check_batch

__all__ = ["append_rows"]

LOOK_UP_ROWS = 262_144  # new rows that share one look at the ledger's ids

Rows: TypeAlias = pa.Table | pa.RecordBatch | pa.RecordBatchReader | Iterable[pa.RecordBatch]


def append_rows(path: Path, rows: Rows, known: KnownIds, *, skip: bool) -> int:
    """Append under the lock; an id that is there, or comes twice, is refused (or left out, with `skip`).

    Parameters
    ----------
    path : Path
        The ledger.
    rows : Table, RecordBatch, RecordBatchReader or iterable of RecordBatch
    known : KnownIds
        What the caller's last append learnt of the ids; kept up.
    skip : bool

    Returns
    -------
    int
        Rows added.
    """
    uri = str(path / create.DATA)
    with writing(path / "lock"), translated(uri):
        recover(uri)
        ds = lance.dataset(uri)
        facts = create.facts_of(ds.schema, path)
        known.refresh(ds)
        joined = _Joined()
        stream = create.Stream(_new_rows(ds, _stored_names(rows, facts, ds.schema), facts["ids"], skip, known, joined))
        with stream.own_errors():
            first = next(iter(stream), None)
            if first is None:
                return 0
            after = lance.write_dataset(
                pa.RecordBatchReader.from_batches(ds.schema, _chain(first, stream)),
                uri,
                mode="append",
                max_rows_per_file=facts["rows_per_file"],
            )
        known.appended(ds, after, np.concatenate(joined.keys))
        return joined.rows


@dataclass
class _Joined:
    """What has been added so far."""

    rows: int = 0
    keys: list[np.ndarray] = field(default_factory=list)  # of the ids, uint64


def _chain(first: pa.RecordBatch, rest: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def _stored_names(rows: Rows, facts: Mapping[str, Any], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Batches whose columns have the names they have on the ledger, where the source calls them otherwise."""
    if isinstance(rows, pa.RecordBatch):
        rows = [rows]
    elif isinstance(rows, pa.Table):
        rows = rows.to_batches()
    stored = {given: name for name, given in facts.get("renamed", {}).items() if given not in schema.names}
    for batch in rows:
        known = stored.keys() & batch.schema.names
        yield batch.rename_columns([stored.get(name, name) for name in batch.schema.names]) if known else batch


def _new_rows(
    ds: Any, rows: Iterable[pa.RecordBatch], id_column: str | None, skip: bool, known: KnownIds, joined: _Joined
) -> Iterator[pa.RecordBatch]:
    schema = ds.schema
    findings = [field.name for field in schema if of_field(field) is not None]
    came, seen, start = Seen(), Seen(), 0
    for group in _groups(rows):
        named = [_named(batch, schema, id_column, seen, start, findings) for batch in group]
        start += sum(map(len, named))
        ids = pa.concat_arrays([batch["id"] for batch in named])
        keys = id_keys(ids)
        again = came.add(keys) > 1
        there = known.hold(ds, ids, keys)
        if not skip:
            refuse_duplicates(ids.filter(pa.array(again)).to_pylist(), "in the new rows")
            refuse_duplicates(ids.filter(pa.array(there)).to_pylist(), "on the ledger and in the new rows")
        keep = ~(again | there)
        joined.keys.append(keys[keep])
        at = 0
        for batch in named:
            mask = keep[at : at + len(batch)]
            at += len(batch)
            left = batch if mask.all() else batch.filter(pa.array(mask))
            if len(left):
                joined.rows += len(left)
                yield left


def _named(
    batch: pa.RecordBatch,
    schema: pa.Schema,
    id_column: str | None,
    seen: Seen,
    start: int,
    findings: list[str],
) -> pa.RecordBatch:
    """The batch in the ledger's schema, with ids."""
    names = list(batch.schema.names)
    source = "id" if "id" in names else id_column
    if source is not None and source in names:
        ids = given_ids(batch[source], source, first_row=start)
        batch = batch.drop_columns([source])
    elif id_column is not None:
        raise SchemaMismatch(
            f"column '{id_column}', which holds the ids, is missing from the new rows",
            remedy="give every new row its id",
            column=id_column,
        )
    else:
        ids = None
    rest = pa.schema([field for field in schema if field.name != "id"])
    batch = check_batch(batch, rest, optional=findings)
    if ids is None:
        given = [name for name in rest.names if name not in findings]
        ids = content_ids(batch.select(given), seen)
    return pa.RecordBatch.from_arrays([ids, *batch.columns], schema=schema)


def _groups(rows: Iterable[pa.RecordBatch]) -> Iterator[list[pa.RecordBatch]]:
    """Batches, some 262,144 rows at a time."""
    group: list[pa.RecordBatch] = []
    for batch in rows:
        if len(batch):
            group.append(batch)
        if sum(map(len, group)) >= LOOK_UP_ROWS:
            yield group
            group = []
    if group:
        yield group
