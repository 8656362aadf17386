"""The ledger: one row a datapoint, one column a fact or a finding, every write a version."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lance
import numpy as np
import pyarrow as pa

from datumwise.errors import (
    ColumnExists,
    DatumwiseError,
    LedgerChanged,
    SchemaMismatch,
)
from datumwise.ledger import create, read
from datumwise.ledger.append import append_rows
from datumwise.ledger.commit import retry, translated, writing
from datumwise.ledger.erased import stray_files
from datumwise.ledger.findings import as_findings, commit_pass, stamped, write_some, write_whole
from datumwise.ledger.known import KnownIds
from datumwise.ledger.provenance import KEY, Provenance, of_field
from datumwise.ledger.refusals import reading
from datumwise.ledger.schema import known_columns
from datumwise.ledger.sql import Session
from datumwise.ledger.versions import Diff, Version, difference, history, resolve

if TYPE_CHECKING:
    from datumwise.ledger.journal import Journal
    from datumwise.ledger.purge import PurgeReceipt

__all__ = ["Column", "Ledger", "Roles", "create_ledger", "open_ledger"]

Roles = dict[str, Any]
_FIXED_FACTS = ("format", "roles", "source", "task", "ids", "rows_per_file")


@dataclass(frozen=True)
class Column:
    """One column of a ledger.

    Parameters
    ----------
    name : str
    type : DataType
    kind : {"given", "finding", "selection"}
    provenance : Provenance or None
        None for what the user gave.
    """

    name: str
    type: pa.DataType
    kind: str
    provenance: Provenance | None


def create_ledger(
    path: str | os.PathLike[str],
    batches: Iterable[pa.RecordBatch],
    *,
    schema: pa.Schema,
    id_column: str | None = None,
    roles: Roles | None = None,
    source: str = "",
    task: str | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    max_rows_per_file: int = create.ROWS_PER_FILE,
) -> Ledger:
    """Stream batches into a new ledger.

    Parameters
    ----------
    path : path-like
        Folder to make; ``.ledger`` is added where there is no suffix.
    batches : iterable of RecordBatch
        Read once, in order; memory does not grow with the number of rows, save 8 bytes a row for the ids.
    schema : Schema
        Of the batches. ``float16`` is refused: SQL cannot read it.
    id_column : str, optional
        Column whose values, as strings, become ``id``. Otherwise ids are a hash of the content (16 hex
        characters), and the k-th exact copy within the source ends in ``-k``.
    roles : dict, optional
        Which column is the ``label``, ``text``, ``image``, ``features`` (a column or a list of columns), …
    source : str
        Where the rows come from, for people to read.
    task : str, optional
        ``"classification"``, ``"regression"``, …
    metadata : mapping, optional
        Further facts that JSON can hold; it may be filled while the batches stream.
    overwrite : bool
        Replace a ledger of this name; it stands until the new one is whole.
    max_rows_per_file : int
        Rows a file; a purge rewrites whole files.

    Returns
    -------
    Ledger

    Raises
    ------
    LedgerExists
        There is one, and `overwrite` is false; or the place holds something else.
    DuplicateId, MissingId
        In the id column; ids or row numbers are named.
    SchemaMismatch
        A type or name that a ledger cannot hold, or a batch unlike the schema.
    DiskFull, ReadOnly

    Examples
    --------
    >>> import tempfile, pyarrow as pa
    >>> rows = pa.record_batch({"doc": ["a", "b"], "label": ["cat", "dog"]})
    >>> where = tempfile.mkdtemp() + "/pets"
    >>> ledger = create_ledger(where, [rows], schema=rows.schema, id_column="doc", roles={"label": "label"})
    >>> ledger.take(["b"]).to_pylist()
    [{'id': 'b', 'label': 'dog'}]
    """
    place = create.ledger_path(path)
    chosen = _roles(roles, schema, id_column)
    facts = {
        "format": create.FORMAT,
        "roles": chosen,
        "source": source,
        "task": task,
        "ids": id_column,
        "rows_per_file": max_rows_per_file,
    }
    create.write_new(
        place,
        batches,
        schema=schema,
        id_column=id_column,
        facts=facts,
        late_facts={} if metadata is None else metadata,
        overwrite=overwrite,
        max_rows_per_file=max_rows_per_file,
    )
    return open_ledger(place)


def open_ledger(path: str | os.PathLike[str], version: int | str | None = None) -> Ledger:
    """Open a ledger at its latest version, or at an earlier one to read it.

    Parameters
    ----------
    path : path-like
        With or without its ``.ledger``.
    version : int or str, optional
        Number or tag of an earlier version; such a ledger can be read, not written.

    Returns
    -------
    Ledger

    Raises
    ------
    NotALedger, LedgerTooNew
    UnknownName
        No such version or tag.
    """
    ledger = Ledger(create.find(path), version)
    if (ledger.path / "purging.json").exists():
        warnings.warn(
            f"a purge of {ledger.path.name} was cut short: finish it with delete(purge=True, yes=True)",
            stacklevel=2,
        )
    return ledger


class Ledger:
    """What is known of each datapoint. Made by `create_ledger`, opened by `open_ledger`.

    A ledger object shows one version; its own writes move it on, `refresh` shows those of others.
    """

    _rows: int | None
    _ids: np.ndarray | None
    _row_ids: np.ndarray | None
    _fragments: list[Any] | None

    def __init__(self, path: Path, version: int | str | None = None) -> None:
        self.path = path
        self._session = Session()
        self._known_ids = KnownIds()
        self._pinned = version is not None
        with translated(self.uri):
            ds = lance.dataset(self.uri)
            create.facts_of(ds.schema, path)  # refuses what is no ledger, or too new
            if version is None:
                create.heal(path)
                ds = lance.dataset(self.uri)
            else:
                ds = ds.checkout_version(resolve(ds, version))
        self._show(ds)

    @classmethod
    def open(cls, path: str | os.PathLike[str], version: int | str | None = None) -> Ledger:
        """Same as `open_ledger`."""
        return open_ledger(path, version)

    # ---------------------------------------------------------------- what it is

    @property
    def uri(self) -> str:
        """Where the Lance data set lies."""
        return str(self.path / create.DATA)

    @property
    def name(self) -> str:
        return self.path.stem

    @property
    def version(self) -> int:
        return int(self._ds.version)

    @property
    def roles(self) -> Roles:
        """Which column plays which part: ``id``, ``label``, ``text``, ``image``, ``features``, …"""
        return dict(self.metadata["roles"])

    @property
    def task(self) -> str | None:
        return self.metadata["task"]

    @property
    def metadata(self) -> dict[str, Any]:
        """Facts about the whole ledger."""
        return create.facts_of(self._ds.schema, self.path)

    @property
    def schema(self) -> pa.Schema:
        return read.visible(self._ds.schema)

    @property
    def columns(self) -> list[Column]:
        return [_column(field) for field in self.schema]

    @property
    def fragments(self) -> list[int]:
        """Numbers of the fragments, in ledger order."""
        return [fragment.fragment_id for fragment in self._in_order()]

    def __len__(self) -> int:
        return self.count()

    def count(self, where: str | None = None) -> int:
        """Number of rows, or of those a condition picks (SQL: ``"loss > 2 and label = 'cat'"``)."""
        if where is None and self._rows is not None:
            return self._rows
        with self._reading(where):
            found = int(self._ds.count_rows(filter=where))
        if where is None:
            self._rows = found
        return found

    @property
    def ids(self) -> np.ndarray:
        """All ids in ledger order, object array of str (n,)."""
        if self._ids is None:
            self._ids = self.array("id")
            self._ids.setflags(write=False)
        return self._ids

    @property
    def row_ids(self) -> np.ndarray:
        """The store's own row numbers in ledger order, uint64 (n,); they never change."""
        if self._row_ids is None:
            with self._reading():
                self._row_ids = read.row_ids(self._ds)
        return self._row_ids

    def provenance(self, column: str) -> Provenance | None:
        """What made a column; None if the user gave it."""
        self._known(column)
        return of_field(self._ds.schema.field(column))

    def refresh(self) -> Ledger:
        """Show the latest version; returns itself."""
        if not self._pinned:
            with translated(self.uri):
                self._show(lance.dataset(self.uri))
        return self

    # ---------------------------------------------------------------- reading

    def batches(
        self,
        columns: Iterable[str] | None = None,
        where: str | None = None,
        batch_size: int = 1024,
        with_row_id: bool = False,
        fragment: int | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """Rows in ledger order, streamed.

        Parameters
        ----------
        columns : iterable of str, optional
            All where none are given.
        where : str, optional
            SQL condition.
        batch_size : int
            Most rows a batch; a batch never crosses a fragment.
        with_row_id : bool
            Add ``_rowid`` (uint64).
        fragment : int, optional
            Only this fragment.

        Raises
        ------
        UnknownColumn
        """
        names = self._known(columns)
        with self._reading(where):
            yield from read.scan(
                self._ds,
                names,
                where=where,
                batch_size=batch_size,
                with_row_id=with_row_id,
                fragments=self._in_order() if fragment is None else [self._ds.get_fragment(fragment)],
            )

    def table(self, columns: Iterable[str] | None = None, where: str | None = None, limit: int | None = None) -> pa.Table:
        """Rows in ledger order, in memory."""
        names = self._known(columns)
        with self._reading(where):
            rows = read.scan(
                self._ds,
                names,
                where=where,
                limit=limit,
                batch_size=read.SCAN_ROWS,
                fragments=self._in_order(),
            )
            found = list(rows)
        return pa.Table.from_batches(found, pa.schema([self.schema.field(name) for name in names]))

    def array(self, column: str) -> np.ndarray:
        """One column as an array in ledger order.

        Returns
        -------
        array (n,) or (n, d)
            See :func:`datumwise.ledger.read.to_numpy` for what becomes of text, lists and nulls.
        """
        self._known(column)
        with self._reading():
            rows = read.scan(self._ds, [column], batch_size=read.SCAN_ROWS, fragments=self._in_order())
            return read.column_array(rows, self.schema.field(column), len(self))

    def take(self, ids: Iterable[str], columns: Iterable[str] | None = None) -> pa.Table:
        """Rows of the given ids, in the order asked.

        Raises
        ------
        MissingId
            Some are not on the ledger; the first three are named.
        """
        names = self._known(columns)
        with self._reading():
            found = self._rows_of(ids)
            if not len(found):
                return self._ds.schema.empty_table().select(names)
            order = np.argsort(found, kind="stable")
            rows = self._ds._take_rows(found[order].tolist(), columns=names)
            back = np.empty(len(order), np.int64)
            back[order] = np.arange(len(order))
            return rows.take(pa.array(back))

    def missing(self, column: str) -> np.ndarray:
        """Row ids, uint64 (m,), of the rows without a finding (all, if there is no such column)."""
        if column not in self.schema.names:
            return self.row_ids
        with self._reading():
            return read.row_ids(self._ds, f"{read.quoted(column)} IS NULL")

    def findings(self, name: str, limit: int | None = None) -> pa.Table:
        """Ids and values of a finding, highest first, with the label and the text where there are any.

        What a higher value means is ``ledger.provenance(name).higher``. Undefined (NaN) and missing values
        are left out.
        """
        self._known(name)
        values = self.array(name)
        if values.ndim != 1 or values.dtype.kind not in "fiub":
            raise SchemaMismatch(
                f"column '{name}' is {self.schema.field(name).type}, which has no order",
                remedy="choose a column of numbers",
                column=name,
            )
        numbers = values.astype(np.float64)
        order = np.argsort(-numbers, kind="stable")
        order = order[~np.isnan(numbers[order])][:limit]
        beside = [self.roles.get(role) for role in ("label", "text")]
        names = [
            "id",
            name,
            *dict.fromkeys(c for c in beside if isinstance(c, str) and c not in ("id", name)),
        ]
        return self.take(self.ids[order].tolist(), names)

    def sql(self, text: str) -> pa.Table:
        """Answer of a SQL query (DuckDB) over the table `ledger`.

        Raises
        ------
        UnknownColumn, UnknownName, DatumwiseError
        """
        with self._reading():
            return self._session.answer(self._ds, self.schema, text)

    # ---------------------------------------------------------------- writing

    def append(
        self,
        rows: pa.Table | pa.RecordBatch | pa.RecordBatchReader | Iterable[pa.RecordBatch],
        on_duplicate: str = "refuse",
    ) -> int:
        """Add datapoints; their findings are null until a pass fills what is missing.

        Parameters
        ----------
        rows : Table, RecordBatch, RecordBatchReader or iterable of RecordBatch
            All given columns of the ledger, and ``id`` (or the column the ids came from); where ids are
            content hashes, no id.
        on_duplicate : {"refuse", "skip"}
            What to do with ids that are there already.

        Returns
        -------
        int
            Rows added.

        Raises
        ------
        DuplicateId, MissingId, SchemaMismatch
            Nothing was added.
        """
        self._writable()
        if on_duplicate not in ("refuse", "skip"):
            raise DatumwiseError(f"on_duplicate is '{on_duplicate}'", remedy="say 'refuse' or 'skip'")
        added = append_rows(self.path, rows, self._known_ids, skip=on_duplicate == "skip")
        self.refresh()
        return added

    def write(
        self,
        values: Mapping[str, Any],
        *,
        provenance: Provenance | Mapping[str, Provenance],
        ids: Iterable[str] | None = None,
        overwrite: bool = False,
    ) -> int:
        """Write findings: all columns in one version.

        Parameters
        ----------
        values : mapping of name to array (n,) or (n, d), Arrow array, or sequence
            Aligned to `ids`, or to this version's order (`ledger.ids`) where none are given.
        provenance : Provenance, or one a column
            What made the values.
        ids : iterable of str, optional
            Only these datapoints. New columns are null elsewhere. Of an existing column only these rows are
            set; those that have a value already only with `overwrite`.
        overwrite : bool
            Replace what is there.

        Returns
        -------
        int
            The new version.

        Raises
        ------
        ColumnExists
            There are values already, or the user gave the column.
        MissingId, SchemaMismatch, UnknownColumn
        """
        self._writable()
        rows = self.row_ids if ids is None else self._rows_of(ids)
        table = as_findings(values, provenance, len(rows), self.version)
        write = write_whole if ids is None else write_some
        with writing(self.path / "lock"), translated(self.uri):
            write(self.uri, rows, table, overwrite=overwrite)
        return self.refresh().version

    def commit_journal(self, journal: Journal, fields: Sequence[pa.Field]) -> int:
        """Put what a pass computed on the ledger, in one version; the journal stays until its owner drops it.

        Parameters
        ----------
        journal : Journal
        fields : sequence of Field
            Names, types and provenance of the columns. A column that is there with the same provenance
            (method, parameters, model, seed) gets the journal's rows and keeps the others; one with another
            provenance is replaced.

        Returns
        -------
        int
            The new version.
        """
        self._writable()
        with writing(self.path / "lock"), translated(self.uri):
            commit_pass(self.uri, journal, [stamped(field, self.version) for field in fields])
        return self.refresh().version

    def drop(self, columns: str | Iterable[str]) -> int:
        """Remove columns; returns the new version. Earlier versions keep them.

        Raises
        ------
        UnknownColumn
        SchemaMismatch
            A column the ledger needs: ``id``, or one that has a role.
        """
        self._writable()
        names = self._known(columns)
        for role, column in self.roles.items():
            needed = [name for name in names if name in ([column] if isinstance(column, str) else column)]
            if needed:
                raise SchemaMismatch(f"column '{needed[0]}' is the ledger's {role}", remedy="keep it", column=needed[0])
        with writing(self.path / "lock"), translated(self.uri):
            retry(lambda: lance.dataset(self.uri).drop_columns(names))
        return self.refresh().version

    def set_metadata(self, **facts: Any) -> int:
        """Note small facts about the whole ledger (JSON); None removes one. Returns the new version."""
        self._writable()
        fixed = [name for name in facts if name in _FIXED_FACTS and name not in ("roles", "task", "source")]
        if fixed:
            raise DatumwiseError(f"'{fixed[0]}' is the ledger's own", remedy="choose another name")
        with writing(self.path / "lock"), translated(self.uri):
            ds = lance.dataset(self.uri)
            merged = {**create.facts_of(ds.schema, self.path), **facts}
            kept = {name: value for name, value in merged.items() if value is not None or name in _FIXED_FACTS}
            retry(lambda: lance.dataset(self.uri).update_schema_metadata({KEY.decode(): json.dumps(kept)}))
        return self.refresh().version

    def compact(self) -> int:
        """Glue small files together (many small appends make many); returns the version.

        Row ids and the order of the rows stay. Files that killed writers left are removed.
        """
        self._writable()
        with writing(self.path / "lock"), translated(self.uri):
            ds = lance.dataset(self.uri)
            moved, last = (
                [],
                -1,
            )  # files that a purge rewrote lie behind later ones: gluing would mix the order
            for fragment in ds.get_fragments():
                first = read.first_row_id(fragment)
                if first < last:
                    moved.append(fragment.fragment_id)
                last = max(first, last)
            ds.optimize.compact_files(target_rows_per_fragment=self.metadata["rows_per_file"], excluded_fragment_ids=moved)
            for stray in stray_files(lance.dataset(self.uri), Path(self.uri)):
                stray.unlink(missing_ok=True)
        return self.refresh().version

    # ---------------------------------------------------------------- deleting

    def delete(
        self,
        ids: Iterable[str] | None = None,
        where: str | None = None,
        purge: bool = False,
        yes: bool = False,
    ) -> int | PurgeReceipt:
        """Delete datapoints; with `purge` their bytes leave every file of the ledger, with a proof.

        Parameters
        ----------
        ids : iterable of str, optional
        where : str, optional
            SQL condition; give this or `ids`. With `purge` both may be absent: then the bytes of everything
            deleted before are erased.
        purge : bool
            Erase. **All earlier versions go with it.**
        yes : bool
            Needed with `purge`: you know that the history goes.

        Returns
        -------
        int or PurgeReceipt
            Number of rows deleted; or what was erased and how it was proved.

        Raises
        ------
        MissingId
        PurgeBlocked
            Tags or branches hold the rows (each is named with the command that removes it), or `yes` is
            missing. Nothing was deleted.
        """
        self._writable()
        if ids is not None and where is not None:
            raise DatumwiseError("both ids and a condition were given", remedy="give one of them")
        if purge:
            from datumwise.ledger.purge import purge_rows

            receipt = purge_rows(self, ids, where, yes=yes)
            self.refresh()
            return receipt
        if ids is None and where is None:
            raise DatumwiseError("neither ids nor a condition was given", remedy="say which datapoints to delete")
        self.refresh()
        with self._reading(where):
            rows = read.row_ids(self._ds, where) if ids is None else self._rows_of(ids)
            delete_row_ids(self.path, rows)
        self.refresh()
        return len(rows)

    # ---------------------------------------------------------------- versions

    def versions(self) -> list[Version]:
        """What was done, oldest first, one version an act; those in between can be opened, too."""
        with translated(self.uri):
            return history(lance.dataset(self.uri))

    def tags(self) -> dict[str, int]:
        """Names of versions."""
        with translated(self.uri):
            return {name: int(tag["version"]) for name, tag in lance.dataset(self.uri).tags.list().items()}

    def tag(self, name: str, version: int | str | None = None) -> None:
        """Name a version (this one, if none is given); while it holds a datapoint, no purge of it runs."""
        with writing(self.path / "lock"), translated(self.uri):
            ds = lance.dataset(self.uri)
            number = self.version if version is None else resolve(ds, version)
            if name in self.tags():
                raise ColumnExists(f"there is a tag '{name}' already", remedy=f"remove it with untag('{name}')")
            if not name or not all(c.isalnum() or c in "._-" for c in name) or name.isdecimal():
                raise DatumwiseError(f"'{name}' cannot be a tag", remedy="use letters, digits, dots, dashes and underscores")
            ds.tags.create(name, number)

    def untag(self, name: str) -> None:
        """Remove a tag; the version stays."""
        with writing(self.path / "lock"), translated(self.uri):
            if name not in self.tags():
                resolve(lance.dataset(self.uri), name if not name.isdecimal() else f"tag {name}")
            lance.dataset(self.uri).tags.delete(name)

    def restore(self, version: int | str) -> int:
        """Make an earlier version the latest again, as a new version; nothing in between is lost."""
        self._writable()
        with writing(self.path / "lock"), translated(self.uri):
            ds = lance.dataset(self.uri)
            ds.checkout_version(resolve(ds, version)).restore()
            create.heal(self.path)
        return self.refresh().version

    def diff(self, a: int | str, b: int | str | None = None) -> Diff:
        """What differs between version `a` and version `b` (this one, if none is given)."""
        with self._reading():
            ds = lance.dataset(self.uri)
            old = ds.checkout_version(resolve(ds, a))
            new = self._ds if b is None else ds.checkout_version(resolve(ds, b))
            return difference(old, new)

    # ---------------------------------------------------------------- out

    def export(
        self,
        path: str | os.PathLike[str],
        columns: Iterable[str] | None = None,
        where: str | None = None,
        overwrite: bool = False,
    ) -> int:
        """Write rows to a ``.parquet``, ``.csv`` or ``.jsonl`` file; returns how many.

        The ledger remembers the file's name, and a purge says that the copy is out of its reach.
        """
        from datumwise.ledger.export import export_rows

        names = self._known(columns)
        with self._reading(where):
            return export_rows(self, Path(path), names, where, overwrite=overwrite)

    def __repr__(self) -> str:
        from datumwise.ledger.display import as_text

        return as_text(self)

    def _repr_html_(self) -> str:
        from datumwise.ledger.display import as_html

        return as_html(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return Ledger, (self.path, self.version if self._pinned else None)

    # ---------------------------------------------------------------- inside

    def _show(self, ds: Any) -> None:
        self._ds = ds
        self._ids = self._row_ids = self._rows = self._fragments = None

    def _in_order(self) -> list[Any]:
        if self._fragments is None:
            with self._reading():
                self._fragments = read.in_order(self._ds)
        return self._fragments

    def _reading(self, where: str | None = None) -> AbstractContextManager[None]:
        return reading(self.uri, self.version, self._ds.schema, where)

    def _rows_of(self, ids: Iterable[str]) -> np.ndarray:
        with self._reading():
            return read.locate(self._ds, read.as_ids(ids), self.path.name)

    def _known(self, columns: str | Iterable[str] | None) -> list[str]:
        names = self.schema.names
        return list(names) if columns is None else known_columns(columns, names, self.path.name)

    def _writable(self) -> None:
        if self._pinned:
            raise LedgerChanged(
                f"{self.path.name} was opened at version {self.version} to be read",
                remedy="open it without a version to write, or restore that version",
            )


def delete_row_ids(path: Path, rows: np.ndarray) -> None:
    """Delete by row id, never by a condition: the store keeps the condition as text in its files."""
    if not len(rows):
        return
    uri = str(path / create.DATA)
    with writing(path / "lock"), translated(uri):
        retry(lambda: lance.dataset(uri).delete(f"_rowid IN ({','.join(map(str, rows.tolist()))})"))


def _column(field: pa.Field) -> Column:
    made = of_field(field)
    return Column(field.name, field.type, "given" if made is None else made.kind, made)


def _roles(roles: Roles | None, schema: pa.Schema, id_column: str | None) -> Roles:
    chosen: Roles = {"id": "id"}
    for role, columns in (roles or {}).items():
        if role == "id" or columns is None:
            continue
        names = [columns] if isinstance(columns, str) else list(columns)
        names = ["id" if name == id_column else name for name in names]
        known_columns(names, ["id", *schema.names], "the source")
        chosen[role] = names[0] if isinstance(columns, str) else names
    return chosen
