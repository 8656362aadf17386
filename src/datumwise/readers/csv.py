"""CSV and TSV files with a header line, streamed by DuckDB."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from datumwise.errors import DatumwiseError, SchemaMismatch, SourceError
from datumwise.readers import duck, fingerprint
from datumwise.readers.source import Source

__all__ = ["delimiter_of", "read_csv"]

DELIMITERS = ",\t;|"
SAMPLE_ROWS = 20_480  # rows from which types are guessed; a later surprise is refused by line, never dropped


def read_csv(paths: Sequence[Path], *, name: str, stem: str, as_text: Sequence[str] = ()) -> Source:
    """A CSV or TSV file, or several with the same header.

    The first line is the header. The delimiter is the one of comma, tab, semicolon and bar that occurs most
    often in it outside quotes. Empty cells are null.

    Parameters
    ----------
    paths : sequence of Path
    name, stem : str
        See `Source`.
    as_text : sequence of str
        Columns to read as text whatever they look like (ids such as ``007`` keep their zeros).

    Raises
    ------
    SourceError
        Not UTF-8, or a line with too few or too many cells (the line is named).
    SchemaMismatch
        A column changes its type after the sample (column and line are named), or two columns share a name.
    """
    header = _header(paths[0])
    delimiter = delimiter_of(header)
    columns = _columns(header, delimiter, name)
    layout = f"header=true, delim={duck.quoted(delimiter)}, quote='\"', escape='\"', comment=''"
    called = _called_apart(columns)  # by SQL, where two names differ in case only; otherwise empty
    told_apart = f", names=[{', '.join(map(duck.quoted, called))}]" if called else ""
    in_sql = {column: name for name, column in called.items()}
    types = ", ".join(f"{duck.quoted(in_sql.get(column, column))}: 'VARCHAR'" for column in as_text)
    files = "[" + ", ".join(duck.quoted(path) for path in paths) + "]"
    query = f"select * from read_csv({files}, {layout}{told_apart}, sample_size={SAMPLE_ROWS}, types={{{types}}})"

    with duck.connect() as connection:
        try:
            schema = connection.sql(query).limit(0).to_arrow_table().schema.remove_metadata()
        except duckdb.Error as error:
            raise _explained(error, connection, f"{files}, {layout}", columns, name) from None

    def batches() -> Iterator[pa.RecordBatch]:
        with duck.connect() as stream_connection:
            try:
                for batch in duck.stream(stream_connection, query):
                    yield batch.rename_columns([called.get(name, name) for name in batch.schema.names])
            except (duckdb.Error, pa.ArrowException, OSError) as error:
                raise _refusal(error, name) from None

    return Source(
        name=name,
        stem=stem,
        schema=pa.schema([field.with_name(called.get(field.name, field.name)) for field in schema]),
        batches=batches,
        fingerprint=lambda: fingerprint.of_files(paths),
        folder=paths[0].parent,
        retyped=lambda wanted: read_csv(paths, name=name, stem=stem, as_text=wanted),
    )


def delimiter_of(header: str) -> str:
    """The delimiter that occurs most often in a header line, outside quotes.

    Examples
    --------
    >>> delimiter_of('id;"a,b,c";label')
    ';'
    """
    bare = re.sub(r'"[^"]*"', "", header)
    return max(DELIMITERS, key=bare.count)


def _header(path: Path) -> str:
    with path.open("rb") as handle:
        line = handle.readline()
    try:
        return line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise SourceError(f"line 1 of {path.name} is not UTF-8", remedy="save the file as UTF-8") from None


def _columns(header: str, delimiter: str, name: str) -> list[str]:
    """The header's names; two alike are refused."""
    columns = next(csv.reader([header], delimiter=delimiter), [])
    for column in columns:
        if column and columns.count(column) > 1:
            raise SchemaMismatch(f"two columns of {name} are called {column!r}", remedy="rename one of them", column=column)
    return columns


def _called_apart(columns: list[str]) -> dict[str, str]:
    """Name in SQL, which knows no case, -> name in the header; empty where the header's names serve."""
    named = [column or f"column{i}" for i, column in enumerate(columns)]
    if len({name.casefold() for name in named}) == len(named):
        return {}
    return {f"{name} (column {i + 1})": name for i, name in enumerate(named)}


def _explained(
    error: Exception, connection: duckdb.DuckDBPyConnection, layout: str, columns: list[str], name: str
) -> DatumwiseError:
    """Why the types could not be guessed: reading all as text tells the line."""
    plain = ", ".join(f"{duck.quoted(column or f'column{i}')}: 'VARCHAR'" for i, column in enumerate(columns))
    try:
        connection.sql(f"select count(*) from read_csv({layout}, auto_detect=false, columns={{{plain}}})").fetchall()
    except duckdb.Error as told:
        return _refusal(told, name)
    return _refusal(error, name)


def _refusal(error: Exception, name: str) -> DatumwiseError:
    """DuckDB's long message as one sentence."""
    text = str(error)
    line = re.search(r"CSV Error on Line: (\d+)", text)
    where = f"line {int(line[1]):,} of {name}" if line else name
    if converted := re.search(
        r'Error when converting column "(.*?)"\. Could not convert string "(.*)" to \'(.*?)\'',
        text,
        re.DOTALL,
    ):
        column, value, kind = converted.groups()
        return SchemaMismatch(
            f"column {column!r} mixes types: {_plain(kind)} so far, and {_short(value)} in {where}",
            remedy="make the column one type",
            column=column,
        )
    if cells := re.search(r"Expected Number of Columns: (\d+) Found: (\d+)", text):
        return SourceError(
            f"{where} has {cells[2]} cell{'' if cells[2] == '1' else 's'} where the header has {cells[1]}",
            remedy="quote cells that hold the delimiter",
        )
    if "unterminated quote" in text:
        return SourceError(f"{where} has a quote that is not closed", remedy="double the quotes inside a quoted cell")
    if "Maximum line size" in text:
        return SourceError(f"{where} is longer than 2 MB", remedy="close its quotes, or store it as Parquet")
    if "unicode" in text:
        return SourceError(f"{where} is not UTF-8", remedy="save the file as UTF-8")
    return SourceError(f"{where} cannot be read as CSV", remedy="store it as Parquet or JSON lines")


def _plain(kind: str) -> str:
    return {"BIGINT": "whole numbers", "DOUBLE": "numbers", "BOOLEAN": "true or false", "DATE": "dates"}.get(kind, kind.lower())


def _short(value: str, *, width: int = 40) -> str:
    return repr(value if len(value) <= width else value[: width - 1] + "…")
