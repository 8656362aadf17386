"""How findings get onto a ledger: aligned to ids, with provenance, all columns of a write in one version."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lance
import numpy as np
import pyarrow as pa

from datumwise.errors import ColumnExists, DatumwiseError, SchemaMismatch, UnknownColumn, name_some
from datumwise.ledger import read
from datumwise.ledger.commit import commit_columns, patch_columns, replace_columns
from datumwise.ledger.journal import Journal
from datumwise.ledger.provenance import Provenance, of_field, with_provenance
from datumwise.ledger.schema import as_column, check_name

__all__ = ["as_findings", "commit_pass", "stamped", "write_some", "write_whole"]

PATCH_SHARE = 0.5  # of the rows; a journal with more is written as a whole column


def as_findings(
    values: Mapping[str, Any],
    provenance: Provenance | Mapping[str, Provenance],
    n: int,
    version: int,
) -> pa.Table:
    """Values as an Arrow table of n rows whose fields carry their provenance.

    Raises
    ------
    SchemaMismatch
        A wrong number of values, or a type a ledger cannot hold.
    UnknownColumn
        A column without provenance.
    """
    if not values:
        raise DatumwiseError("there is nothing to write", remedy="give at least one column")
    columns, fields = [], []
    for name, given in values.items():
        check_name(name)
        column = as_column(name, given)
        if len(column) != n:
            raise SchemaMismatch(
                f"column '{name}' has {len(column):,} values for {n:,} datapoints",
                remedy="give one value a datapoint, in the order of ledger.ids or of the ids given",
                column=name,
            )
        made = provenance if isinstance(provenance, Provenance) else dict(provenance or {}).get(name)
        if made is None:
            raise UnknownColumn(f"column '{name}' has no provenance", remedy="say what made it", column=name)
        columns.append(column)
        fields.append(with_provenance(pa.field(name, column.type), made.stamped(version)))
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def write_whole(uri: str, rows: np.ndarray, table: pa.Table, *, overwrite: bool) -> None:
    """Columns for all datapoints of a version; those that came since have null. The caller holds the lock.

    Raises
    ------
    ColumnExists
        A column is there and `overwrite` is false, or the user gave it.
    """
    latest = read.visible(lance.dataset(uri).schema)
    _refuse_twins(table.schema, latest)
    there = [field.name for field in table.schema if field.name in latest.names]
    for name in there:
        if of_field(latest.field(name)) is None:
            raise ColumnExists(f"column '{name}' was given, not found", remedy="choose another name", column=name)
        if not overwrite:
            raise ColumnExists(
                f"column '{name}' is on the ledger already",
                remedy="pass overwrite=True (the old values stay in the earlier version)",
                column=name,
            )
    write = replace_columns if there else commit_columns
    write(uri, list(table.schema), rows, table)


def write_some(uri: str, rows: np.ndarray, table: pa.Table, *, overwrite: bool) -> None:
    """Values of some datapoints; the others keep theirs, or have null. The caller holds the lock.

    Raises
    ------
    ColumnExists
        A value is there and `overwrite` is false.
    SchemaMismatch
        The column was made another way, or has another type.
    """
    latest = read.visible(lance.dataset(uri).schema)
    _refuse_twins(table.schema, latest)
    there = [field for field in table.schema if field.name in latest.names]
    for field in there:
        _refuse_mixing(latest.field(field.name), field, overwrite=overwrite)
    if there and not overwrite:
        _refuse_filled(uri, [field.name for field in there], rows)
    if not there:
        commit_columns(uri, list(table.schema), rows, table)
    elif len(there) == table.num_columns:
        patch_columns(uri, there, rows, table)
    else:
        replace_columns(uri, list(table.schema), rows, table, keep=True)


def commit_pass(uri: str, journal: Journal, fields: Sequence[pa.Field]) -> None:
    """A journal's values, aligned by row id; the caller holds the lock.

    Columns that are there with the same provenance get the journal's rows and keep the others; others are
    replaced.
    """
    ds = lance.dataset(uri)
    latest = read.visible(ds.schema)
    there = [field for field in fields if field.name in latest.names]
    same = all(_agree(latest.field(field.name), field) for field in there)
    if not there:
        commit_columns(uri, fields, None, journal)
    elif same and len(there) == len(fields) and journal.num_rows <= PATCH_SHARE * ds.count_rows():
        rows, table = journal.read()
        patch_columns(uri, fields, rows, table)
    else:
        replace_columns(uri, fields, None, journal, keep=same)


def stamped(field: pa.Field, version: int) -> pa.Field:
    """The field with the version and the time in its provenance, unless they are there."""
    made = of_field(field)
    if made is None or made.time:
        return field
    return with_provenance(field, made.stamped(made.ledger_version or version))


def _refuse_twins(new: pa.Schema, latest: pa.Schema) -> None:
    """Names that differ in nothing but case are one name in SQL."""
    spelled = {name.lower(): name for name in latest.names}
    for name in new.names:
        twin = spelled.get(name.lower(), name)
        if twin != name:
            raise ColumnExists(f"there is a column '{twin}' already", remedy="choose another name", column=twin)


def _refuse_mixing(old: pa.Field, new: pa.Field, *, overwrite: bool) -> None:
    """One column holds one quantity; what the user gave is corrected only row by row, and if asked."""
    given = of_field(old) is None
    if given and (not overwrite or old.name == "id"):
        raise ColumnExists(
            f"column '{old.name}' was given, not found",
            remedy="choose another name" + ("" if old.name == "id" else ", or pass overwrite=True"),
            column=old.name,
        )
    if not given and not _agree(old, new):
        raise SchemaMismatch(
            f"column '{old.name}' was made another way (method, parameters, model, seed or type differ)",
            remedy="overwrite the whole column, or choose another name",
            column=old.name,
        )
    if old.type != new.type:
        raise SchemaMismatch(
            f"column '{old.name}' is {old.type} on the ledger and {new.type} in the new values",
            remedy=f"convert it to {old.type}",
            column=old.name,
        )


def _refuse_filled(uri: str, names: Sequence[str], rows: np.ndarray) -> None:
    ds = lance.dataset(uri)
    for name in names:
        empty = read.row_ids(ds, f"{read.quoted(name)} IS NULL")
        filled = rows[~np.isin(rows, empty)]
        if len(filled):
            some = ds._take_rows(filled[:1000].tolist(), columns=["id"])["id"].to_pylist()
            raise ColumnExists(
                f"column '{name}' has a value already in {len(filled):,} of these rows ({name_some(some)})",
                remedy="pass overwrite=True",
                column=name,
                ids=some,
            )


def _agree(old: pa.Field, new: pa.Field) -> bool:
    was, now = of_field(old), of_field(new)
    return was is not None and now is not None and old.type == new.type and was.agrees(now)
