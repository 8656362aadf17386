"""One door: whatever people hold becomes a ledger, in one streamed pass, or is refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datumwise.errors import EmptyData, LedgerExists
from datumwise.readers.open_source import is_ledger_path, open_source, stem_of

if TYPE_CHECKING:
    import pyarrow as pa

    from datumwise.ledger import Ledger
    from datumwise.readers.roles import Asked
    from datumwise.readers.source import Source

__all__ = ["described", "ingest", "ledger_path"]

HEAD_ROWS = 10_000  # first rows, held while the roles are settled
HEAD_BYTES = 64 << 20

Progress = Callable[[int, int], None]


def ingest(
    source: Any,
    *,
    label: str | None = None,
    text: str | None = None,
    prompt: str | None = None,
    response: str | None = None,
    image: str | None = None,
    id: str | None = None,
    features: str | Sequence[str] | None = None,
    target: str | None = None,
    out: str | Path | None = None,
    name: str | None = None,
    task: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Ledger:
    """Make a ledger of a data set: one row a datapoint, ids that stay.

    Memory is bounded by a batch. The same source with the same options again reopens the ledger that is
    there.

    Parameters
    ----------
    source : path or object
        A Parquet, CSV, TSV, JSON lines or JSON file (or a folder of files of one of these), a folder of
        pictures ``root/class/*.png``, a folder of ``datasets.save_to_disk``, a ledger; or a pandas or
        polars data frame, an Arrow table or reader, a dict of arrays, ``(X, y)``, an array (n, d), a
        scikit-learn bunch, a Hugging Face `Dataset`, a `Ledger` (returned as it is).
    label, text, prompt, response, image, id : str, optional
        Columns of that role, by their names in the source (a name that a ledger cannot hold, such as
        ``petal.width``, is stored as ``petal_width`` and noted in ``ledger.metadata["renamed"]``). Found by
        themselves where unambiguous: columns named ``label``, ``target`` or ``y``; ``text``; ``prompt`` and
        ``response`` (or ``completion``), ``instruction`` and ``response``, ``question`` and ``answer``; ``image``;
        ``id``. Without an id, ids are hashes of the content.
    features : str or list of str, optional
        Columns of numbers and categories, or one column of vectors. Default, for tables: every column of
        numbers, and text columns of at most 100 different values.
    target : str, optional
        A label that is a number to be predicted: the same as ``label=target, task="regression"``.
    out : path, optional
        The ledger; default the source's name with ``.ledger`` in the working directory.
    name : str, optional
        Name of a source in memory; default ``"data"``.
    task : {"classification", "regression"}, optional
        Default: classification where there is a label.
    overwrite : bool, default False
        Replace a ledger of another source.
    progress : callable, optional
        ``progress(done, total)`` in rows; ``total`` is 0 where it is not known before.

    Returns
    -------
    Ledger

    Raises
    ------
    SourceError, EmptyData, UnknownColumn, SchemaMismatch, NotFinite, LabelError, DuplicateId, MissingId,
    LedgerExists
        Each with what is wrong, where, and how to mend it.
    """
    if type(source).__module__.startswith("datumwise.ledger") or is_ledger_path(source):
        return _existing(source)
    if target is not None:
        label, task = label or target, task or "regression"
    found = open_source(source, name=name)  # what is not there is refused before anything heavy is imported
    from datumwise.ledger import create_ledger, open_ledger
    from datumwise.readers import fingerprint
    from datumwise.readers.roles import Asked, refuse_unknown

    asked = Asked(label=label, text=text, prompt=prompt, response=response, image=image, id=id, features=features, task=task)
    found, asked = _with_plain_names(found, asked)
    refuse_unknown(asked, found.schema, name=found.name)
    path = ledger_path(source, out=out, name=name, stem=found.stem)
    made_of = None
    if found.fingerprint is not None:
        made_of = fingerprint.with_options(found.fingerprint(), **vars(asked))
    if path.exists() and not overwrite:
        there = open_ledger(path)
        _refuse_other(there, made_of, found.name, path)
        return there
    facts: dict[str, Any] = {"ingest": made_of} if made_of else {}
    if found.renamed:
        facts["renamed"] = dict(found.renamed)
    found, roles, batches, schema = _prepared(found, asked, progress)
    batches = _noting(batches, found, facts)
    id_column = roles.pop("id", None)
    settled = task or found.task or ("classification" if "label" in roles else None)
    return create_ledger(
        path,
        batches,
        schema=schema,
        id_column=id_column,
        roles={"id": "id", **roles},
        source=found.name,
        task=settled,
        metadata=facts,
        overwrite=overwrite,
    )


def ledger_path(source: Any, *, out: str | Path | None = None, name: str | None = None, stem: str | None = None) -> Path:
    """Where the ledger of a source lies.

    Examples
    --------
    >>> str(ledger_path("data/reviews.parquet")), str(ledger_path("a.csv", out="b"))
    ('reviews.ledger', 'b.ledger')
    """
    if is_ledger_path(source):
        return Path(source)
    if out is None:
        return Path(f"{name or stem or stem_of(source)}.ledger")
    out = Path(out)
    return out if out.suffix == ".ledger" else out.with_name(f"{out.name}.ledger")


def described(
    source: Any,
    *,
    label: str | None = None,
    text: str | None = None,
    prompt: str | None = None,
    response: str | None = None,
    image: str | None = None,
    id: str | None = None,
    features: str | Sequence[str] | None = None,
    task: str | None = None,
) -> tuple[int, str, str | None]:
    """Rows, kind (``"images"``, ``"text"``, ``"table"``) and task of a source; reads all, writes nothing.

    Raises
    ------
    DatumwiseError
        As `ingest` would.
    """
    from datumwise.readers.roles import Asked

    if is_ledger_path(source):
        ledger = _existing(source)
        return len(ledger), _kind(ledger.roles), ledger.task
    asked = Asked(label=label, text=text, prompt=prompt, response=response, image=image, id=id, features=features, task=task)
    found, asked = _with_plain_names(open_source(source), asked)
    found, roles, batches, _ = _prepared(found, asked, None)
    rows = sum(batch.num_rows for batch in batches)
    return rows, _kind(roles), task or found.task or ("classification" if "label" in roles else None)


def _kind(roles: dict[str, Any]) -> str:
    return "images" if "image" in roles else "text" if {"text", "response"} & set(roles) else "table"


def _existing(source: Any) -> Ledger:
    if type(source).__module__.startswith("datumwise.ledger"):
        return source
    from datumwise.ledger import open_ledger

    return open_ledger(source)


def _refuse_other(ledger: Ledger, made_of: dict[str, Any] | None, name: str, path: Path) -> None:
    """Refuse a ledger that was made of something else.

    Raises
    ------
    LedgerExists
    """
    was = ledger.metadata.get("ingest")
    if made_of is not None and was == made_of:
        return
    remedy = "overwrite=True replaces it, out='...' keeps both"
    if was and made_of and was["content"] == made_of["content"]:
        changed = [
            f"{option} was {_said(was['options'].get(option))}, is {_said(value)}"
            for option, value in made_of["options"].items()
            if was["options"].get(option) != value
        ]
        raise LedgerExists(f"{path.name} was made from {name} with other options ({'; '.join(changed)})", remedy=remedy)
    raise LedgerExists(f"{path.name} is there and was made from another source or another state of it", remedy=remedy)


def _said(value: Any) -> str:
    return "not given" if value is None else ", ".join(value) if isinstance(value, list) else str(value)


def _with_plain_names(found: Source, asked: Asked) -> tuple[Source, Asked]:
    """Both by the names under which the columns are stored; `id` is kept for the column named as the id."""
    from datumwise.readers.names import as_stored, renamed

    another_id = asked.id is not None and asked.id in found.schema.names and asked.id.lower() != "id"
    found = renamed(found, taken=["id"] if another_id else [])
    return found, as_stored(asked, found.renamed)


def _prepared(
    found: Source, asked: Asked, progress: Progress | None
) -> tuple[Source, dict[str, Any], Iterator[pa.RecordBatch], pa.Schema]:
    """Roles, and the stream as the ledger takes it: types settled, pictures checked, faults refused."""
    import pyarrow as pa

    from datumwise.ledger.schema import check_schema
    from datumwise.readers.checks import checked
    from datumwise.readers.images import picture_schema, pictures
    from datumwise.readers.roles import settle_roles
    from datumwise.readers.shape import is_numeric_list, plain_schema, reshaped, width_of

    schema = plain_schema(found.schema)
    head, stream = _head(found)
    if not head.num_rows and not found.pictures_checked:
        raise EmptyData(f"{found.name} has no rows", remedy="give a source with at least one datapoint")
    roles = settle_roles(asked, schema, _plain_head(head, schema), name=found.name, given=found.roles)
    text_wanted = [roles[role] for role in ("id", "text", "prompt", "response") if role in roles]
    if found.retyped and any(not pa.types.is_string(schema.field(column).type) for column in text_wanted):
        found = found.retyped(text_wanted)
        schema = plain_schema(found.schema)
        head, stream = _head(found)
    vectors = roles.get("features")
    for i, field in enumerate(schema):
        if field.name in map(roles.get, ("label", "text", "prompt", "response")) and pa.types.is_temporal(field.type):
            schema = schema.set(i, pa.field(field.name, pa.string()))
        if isinstance(vectors, str) and field.name == vectors and is_numeric_list(field.type):
            width = width_of(head.column(vectors))
            item = field.type.value_type if pa.types.is_floating(field.type.value_type) else pa.float32()
            schema = schema.set(i, pa.field(field.name, pa.list_(item, width or 0)))
    picture = None if found.pictures_checked else roles.get("image")
    batches = reshaped(_counted(stream, found.rows or 0, progress), schema)
    id_column = roles.get("id")
    if picture is not None:
        with_pictures = picture_schema(schema, picture)

        def name_of(batch: pa.RecordBatch, first_row: int, i: int) -> str:
            return str(batch.column(id_column)[i].as_py()) if id_column else f"row {first_row + i}"

        batches = pictures(batches, picture, with_pictures, folder=found.folder, name_of=name_of, unreadable=found.unreadable)
        schema, roles["image"] = with_pictures, "image"
    check_schema(schema)
    task = asked.task or found.task
    return found, roles, checked(batches, roles, name=found.name, id_column=id_column, task=task), schema


def _head(found: Source) -> tuple[pa.Table, Iterator[pa.RecordBatch]]:
    """The first rows, and the whole stream with them."""
    import pyarrow as pa

    stream = found.batches()
    held: list[pa.RecordBatch] = []
    rows = read = 0
    for batch in stream:
        held.append(batch)
        rows += batch.num_rows
        read += batch.nbytes
        if rows >= HEAD_ROWS or read >= HEAD_BYTES:
            break
    return pa.Table.from_batches(held, schema=held[0].schema if held else found.schema), chain(held, stream)


def _plain_head(head: pa.Table, schema: pa.Schema) -> pa.Table:
    from datumwise.readers.shape import reshaped

    return type(head).from_batches(list(reshaped(iter(head.to_batches()), schema)), schema=schema)


def _noting(batches: Iterator[pa.RecordBatch], found: Source, facts: dict[str, Any]) -> Iterator[pa.RecordBatch]:
    """Passes batches on, and notes in the ledger's facts, before they are sealed, what could not be read."""
    yield from batches
    if found.unreadable:
        facts["unreadable"] = dict(found.unreadable)


def _counted(stream: Iterator[pa.RecordBatch], total: int, progress: Progress | None) -> Iterator[pa.RecordBatch]:
    done = 0
    for batch in stream:
        yield batch
        done += batch.num_rows
        if progress is not None:
            progress(done, total)
