"""How a ledger comes to be, and is found again: streamed into a folder beside its place, then renamed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc

from datumwise.errors import (
    LedgerBusy,
    LedgerExists,
    LedgerTooNew,
    NotALedger,
    ReadOnly,
    SchemaMismatch,
)
from datumwise.ledger.commit import recover, translated, writing
from datumwise.ledger.ids import Repeats, Seen, content_ids, given_ids, refuse_duplicates
from datumwise.ledger.provenance import KEY
from datumwise.ledger.schema import check_batch, check_schema, known_columns, ledger_schema

__all__ = [
    "DATA",
    "FORMAT",
    "ROWS_PER_FILE",
    "Stream",
    "facts_of",
    "find",
    "heal",
    "ledger_path",
    "write_new",
]

DATA = "data.lance"
FORMAT = 1  # of the folder; a ledger of a newer format is refused
ROWS_PER_FILE = 250_000  # a purge rewrites whole files: small ones make it cheap


def ledger_path(path: str | os.PathLike[str]) -> Path:
    """The folder a ledger of this name lies in: `.ledger` is added where there is no suffix."""
    place = Path(path).expanduser()
    return place if place.suffix else place.with_name(place.name + ".ledger")


def write_new(
    path: Path,
    batches: Iterable[pa.RecordBatch],
    *,
    schema: pa.Schema,
    id_column: str | None,
    facts: Mapping[str, Any],
    late_facts: Mapping[str, Any],
    overwrite: bool,
    max_rows_per_file: int,
) -> None:
    """Stream batches into a new ledger at `path`; killed midway it leaves nothing that counts.

    Parameters
    ----------
    path : Path
    batches : iterable of RecordBatch
    schema : Schema
        Of the batches.
    id_column : str, optional
        Column that holds the ids; else ids are made from the content.
    facts, late_facts : mapping
        The ledger's metadata; `late_facts` is read once more after the last batch.
    overwrite : bool
        Replace a ledger that is there.
    max_rows_per_file : int

    Raises
    ------
    LedgerExists, DuplicateId, MissingId, SchemaMismatch, UnknownColumn, DiskFull, ReadOnly
    """
    check_schema(schema)
    if id_column is not None:
        known_columns(id_column, schema.names, "the source")
        if id_column != "id" and "id" in schema.names:
            raise SchemaMismatch(
                f"column '{id_column}' was named as the id, and there is another column 'id'",
                remedy="rename or drop the column 'id'",
                column="id",
            )
    elif "id" in schema.names:
        raise SchemaMismatch("there is a column 'id', and it was not named as the id", remedy="give id_column='id'")
    _refuse_taken(path, overwrite)
    with _beside(path) as temporary:
        metadata = {KEY: json.dumps({**facts, **late_facts}).encode()}
        given = pa.schema([f for f in schema if f.name != id_column])
        target = ledger_schema(given, metadata)
        repeats = Repeats()
        stream = Stream(_with_ids(batches, schema, target, id_column, repeats))
        uri = str(temporary / DATA)
        with translated(uri), stream.own_errors():
            ds = lance.write_dataset(
                pa.RecordBatchReader.from_batches(target, stream),
                uri,
                schema=target,
                enable_stable_row_ids=True,
                max_rows_per_file=max_rows_per_file,
            )
            refuse_duplicates(confirmed(ds, repeats.suspects), "in the source", column=id_column or "id")
            final = json.dumps({**facts, **late_facts})
            if final.encode() != metadata[KEY]:
                ds.update_schema_metadata({KEY.decode(): final})
        (temporary / "journal").mkdir()
        _move(temporary, path, overwrite)


def find(path: str | os.PathLike[str]) -> Path:
    """The folder of an existing ledger, with or without its suffix given.

    Raises
    ------
    NotALedger
    """
    asked = Path(path).expanduser()
    for place in (asked, ledger_path(asked)):
        _bring_back(place)
        if (place / DATA / "_versions").is_dir():
            return place.resolve()
    what = "is not a ledger" if asked.exists() else "does not exist"
    raise NotALedger(f"{asked} {what}", remedy="make one with datumwise.ingest")


def facts_of(schema: pa.Schema, path: Path) -> dict[str, Any]:
    """The ledger's metadata.

    Raises
    ------
    NotALedger, LedgerTooNew
    """
    text = (schema.metadata or {}).get(KEY)
    if text is None:
        raise NotALedger(f"{path} holds Lance data that datumwise did not write", remedy="ingest it")
    facts = json.loads(text)
    if facts["format"] > FORMAT:
        raise LedgerTooNew(
            f"{path} was written by a newer datumwise (format {facts['format']}, this one reads {FORMAT})",
            remedy="upgrade datumwise",
        )
    return dict(facts)


def heal(path: Path) -> None:
    """Finish what a killed overwrite left; a ledger that cannot be written to is left as it is."""
    with contextlib.suppress(ReadOnly, LedgerBusy):
        recover(path / DATA)


def confirmed(ds: Any, suspects: list[str]) -> list[str]:
    """Of ids whose 64-bit hash came twice, those that really occur more than once."""
    if not suspects:
        return []
    ids = ds.to_table(columns=["id"])["id"]
    hits = ids.filter(pc.is_in(ids, value_set=pa.array(suspects, pa.string())))
    counted = pc.value_counts(hits.combine_chunks())
    return counted.field("values").filter(pc.greater(counted.field("counts"), 1)).to_pylist()


class Stream:
    """An iterator whose own error survives the way through the store, which would wrap it."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._error: BaseException | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return self

    def __next__(self) -> pa.RecordBatch:
        try:
            return next(self._batches)
        except StopIteration:
            raise
        except BaseException as error:
            self._error = error
            raise

    @contextlib.contextmanager
    def own_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception:
            if self._error is not None:
                raise self._error from None
            raise


def _with_ids(
    batches: Iterable[pa.RecordBatch],
    schema: pa.Schema,
    target: pa.Schema,
    id_column: str | None,
    repeats: Repeats,
) -> Iterator[pa.RecordBatch]:
    seen, row = Seen(), 0
    for batch in batches:
        checked = check_batch(batch, schema)
        if id_column is None:
            ids = content_ids(checked, seen)
        else:
            ids = given_ids(checked.column(id_column), id_column, first_row=row)
            repeats.add(ids)
        rest = [checked.column(field.name).cast(field.type) for field in target if field.name != "id"]
        row += len(batch)
        yield pa.RecordBatch.from_arrays([ids, *rest], schema=target)


def _refuse_taken(path: Path, overwrite: bool) -> None:
    _bring_back(path)
    if not path.exists():
        return
    if not (path / DATA).is_dir():
        raise LedgerExists(f"{path} exists and is not a ledger", remedy="choose another name")
    if not overwrite:
        raise LedgerExists(f"{path} exists", remedy="choose another name, or pass overwrite=True")


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A folder in the same place, gone at the end; those of killed processes go too."""
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.name}.????????.part"):
            _remove_if_dead(left)
        temporary.mkdir()
    except PermissionError as error:
        raise ReadOnly(f"{path.parent} cannot be written to", remedy="choose another place") from error
    except OSError as error:
        raise ReadOnly(f"{path.parent} cannot hold a ledger: {error.strerror}", remedy="choose another place") from error
    try:
        with writing(temporary / "lock"):
            yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_if_dead(left: Path) -> None:
    """A live owner holds the lock inside; the kernel freed a dead one's."""
    try:
        if not (left / "lock").exists() and time.time() - left.stat().st_mtime < 10:  # s: just being made
            return
        with open(left / "lock", "a") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(left, ignore_errors=True)
    except OSError:
        return


def _move(temporary: Path, path: Path, overwrite: bool) -> None:
    """Put the finished folder in its place; an older ledger steps aside until then."""
    aside = _aside(path)
    if path.exists():
        if not overwrite:
            raise LedgerExists(f"{path} was made by somebody else meanwhile", remedy="choose another name")
        with writing(path / "lock"):
            os.rename(path, aside)
            os.rename(temporary, path)
        shutil.rmtree(aside, ignore_errors=True)
        return
    try:
        os.rename(temporary, path)
    except OSError as error:
        raise LedgerExists(f"{path} was made by somebody else meanwhile", remedy="choose another name") from error


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.replaced")


def _bring_back(path: Path) -> None:
    """Undo an overwrite that was killed between its two renames, or finish one killed after them."""
    aside = _aside(path)
    if not aside.exists():
        return
    with contextlib.suppress(OSError):
        if path.exists():
            shutil.rmtree(aside, ignore_errors=True)
        else:
            os.rename(aside, path)
