"""JSON lines and JSON arrays of objects, streamed by DuckDB; every key of every line is kept."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from datumwise.errors import DatumwiseError, SchemaMismatch, SourceError, name_some
from datumwise.readers import duck, fingerprint
from datumwise.readers.source import Source

__all__ = ["read_jsonl"]

WANTED = 'write each row as {"column": value}'


def read_jsonl(paths: Sequence[Path], *, name: str, stem: str, as_text: Sequence[str] = ()) -> Source:
    """A file of JSON objects, one a line (``.jsonl``) or in one array (``.json``), or several such files.

    Types are settled over the whole file (``sample_size=-1``): read from a sample, a key that comes later
    would be dropped without a word. A key missing from a line is null there.

    Raises
    ------
    SourceError
        Broken JSON (the line is named), or lines that are not objects.
    SchemaMismatch
        A key holds values of different types (three lines are named).
    """
    files = ", ".join(duck.quoted(path) for path in paths)
    layout = "auto" if any(path.suffix == ".json" for path in paths) else "newline_delimited"
    reader = f"read_json([{files}], format='{layout}', sample_size=-1, map_inference_threshold=-1)"
    with duck.connect() as connection:
        try:
            found = {row[0]: row[1] for row in connection.sql(f"describe select * from {reader}").fetchall()}
            if list(found) == ["json"]:
                raise SourceError(f"{name} does not hold JSON objects", remedy=WANTED)
            _refuse_twins(connection, files, list(found), name)
            for column, kind in found.items():
                if kind == "JSON":
                    _refuse_mixed(connection, reader, column, name)
            types = {c: "VARCHAR" if c in as_text else _as_written(kind) for c, kind in found.items()}
            columns = ", ".join(f"{duck.quoted(c)}: {duck.quoted(kind)}" for c, kind in types.items())
            query = f"select * from read_json([{files}], format='{layout}', columns={{{columns}}})"
            schema = connection.sql(query).limit(0).to_arrow_table().schema
        except duckdb.Error as error:
            raise _refusal(error, paths, name) from None

    def batches() -> Iterator[pa.RecordBatch]:
        with duck.connect() as stream_connection:
            try:
                yield from duck.stream(stream_connection, query)
            except (duckdb.Error, pa.ArrowException, OSError) as error:
                raise _refusal(error, paths, name) from None

    return Source(
        name=name,
        stem=stem,
        schema=schema.remove_metadata(),
        batches=batches,
        fingerprint=lambda: fingerprint.of_files(paths),
        folder=paths[0].parent,
        retyped=lambda wanted: read_jsonl(paths, name=name, stem=stem, as_text=wanted),
    )


def _as_written(kind: str) -> str:
    """JSON knows no dates: what is a string there stays one; what is null everywhere is text.

    Examples
    --------
    >>> _as_written('STRUCT("DATE" DATE, n BIGINT)[]')
    'STRUCT("DATE" VARCHAR, n BIGINT)[]'
    """
    outside_quotes = re.split(r'("(?:[^"]|"")*")', kind)
    return "".join(
        part if part.startswith('"') else re.sub(r"\b(DATE|TIMESTAMP|TIME|UUID|JSON)\b", "VARCHAR", part)
        for part in outside_quotes
    )


def _refuse_twins(connection: duckdb.DuckDBPyConnection, files: str, columns: list[str], name: str) -> None:
    """Refuse keys that differ in case only: SQL renames the second ``a_1``, which no line holds."""
    folded = {column.casefold() for column in columns}
    for column in columns:
        stem, _, number = column.rpartition("_")
        if not (number.isdigit() and stem.casefold() in folded):
            continue
        path = duck.quoted('$."' + column.replace('"', '\\"') + '"')
        query = f"select count(*) from read_json_objects([{files}]) where json_exists(json, {path})"
        if not connection.sql(query).fetchall()[0][0]:
            raise SchemaMismatch(f"two keys of {name} differ in case only: {stem!r}", remedy="rename one of them", column=stem)


def _refuse_mixed(connection: duckdb.DuckDBPyConnection, reader: str, column: str, name: str) -> None:
    """Refuse a key of several types; a key that is null everywhere passes."""
    named = '"' + column.replace('"', '""') + '"'
    kinds = connection.sql(
        f"select json_type({named}) as kind, count(*) as n, min(line) as first "
        f"from (select *, row_number() over () as line from {reader}) "
        f"where {named} is not null and json_type({named}) <> 'NULL' group by kind order by n desc"
    ).fetchall()
    if len({_family(kind) for kind, _, _ in kinds}) > 1:
        said: dict[str, int] = {}
        for kind, _, first in kinds:
            said.setdefault(_family(kind), first)
        examples = [f"{kind} in row {line:,}" for kind, line in said.items()]
        raise SchemaMismatch(
            f"column {column!r} of {name} mixes types ({name_some(examples)})",
            remedy="make the column one type",
            column=column,
        )


def _family(kind: str) -> str:
    return {
        "UBIGINT": "number",
        "BIGINT": "number",
        "DOUBLE": "number",
        "HUGEINT": "number",
        "UHUGEINT": "number",
        "VARCHAR": "text",
        "BOOLEAN": "true or false",
        "OBJECT": "object",
        "ARRAY": "list",
    }.get(kind, kind.lower())


def _refusal(error: Exception, paths: Sequence[Path], name: str) -> DatumwiseError:
    text = str(error)
    where = _first_broken_line(paths) or name
    if "maximum_object_size" in text:
        return SourceError(f"{where} is larger than 16 MB", remedy="store it as Parquet")
    if "unicode" in text.lower() or "utf-8" in text.lower():
        return SourceError(f"{where} is not UTF-8", remedy="save the file as UTF-8")
    return SourceError(f"{where} is not whole JSON", remedy="write one object a line")


def _first_broken_line(paths: Sequence[Path]) -> str | None:
    """DuckDB's line numbers may be one off, so the first line that is no JSON is looked for."""
    for path in paths:
        if path.suffix == ".json":
            continue
        with path.open("rb") as handle:
            for number, line in enumerate(handle, start=1):
                try:
                    if line.strip():
                        json.loads(line)
                except ValueError:
                    return f"line {number:,} of {path.name}"
    return None
