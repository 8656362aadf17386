"""SQL over a ledger: DuckDB with everything but the table `ledger` locked away."""

from __future__ import annotations

import re
import threading
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.types as pat

from datumwise.errors import DatumwiseError, UnknownColumn, UnknownName
from datumwise.ledger.schema import nearest

__all__ = ["Session"]

CACHE_BYTES = 512 << 20  # of narrow columns kept in memory for the next query, as they lie on the disk
CONFIG = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "python_enable_replacements": "false",  # a table's name must not reach a variable of ours
}


class Session:
    """Queries of one ledger object.

    From the second query of a version on, its narrow columns are in memory, where they are read 10 x faster.
    """

    def __init__(self) -> None:
        self._one_at_a_time = threading.Lock()
        self._version: int | None = None
        self._asked = 0
        self._narrow: list[str] = []
        self._connections: dict[str, duckdb.DuckDBPyConnection] = {}

    def answer(self, ds: Any, schema: pa.Schema, text: str) -> pa.Table:
        """Rows of one query.

        Raises
        ------
        UnknownColumn
            The query names a column that is not there.
        UnknownName
            It names a table other than `ledger`.
        DatumwiseError
            It cannot be read, is no query, or reaches for what is locked away.
        """
        with self._one_at_a_time:
            if ds.version != self._version:
                self._version, self._asked, self._connections = ds.version, 0, {}
            self._asked += 1
            return _answer(self._connection(ds, schema, text), text, schema.names)

    def _connection(self, ds: Any, schema: pa.Schema, text: str) -> duckdb.DuckDBPyConnection:
        """To the columns in memory where they suffice, else to the files."""
        if self._asked == 2:
            self._narrow = narrow_columns(ds, schema)
        where = "memory" if self._asked > 1 and suffices(text, self._narrow, schema.names) else "disk"
        if where not in self._connections:
            if where == "memory":
                source = ds.to_table(columns=self._narrow)
            else:
                source = ds if schema.names == ds.schema.names else ds.scanner(columns=schema.names)
            self._connections[where] = _connect(source)
        return self._connections[where]


def _connect(source: Any) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config=CONFIG)
    connection.register("ledger", source)
    connection.execute("set lock_configuration=true")
    return connection


def _answer(connection: duckdb.DuckDBPyConnection, text: str, columns: list[str]) -> pa.Table:
    try:
        statements = connection.extract_statements(text)
        kinds = {statement.type for statement in statements}
        if len(statements) != 1 or not kinds <= {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}:
            raise DatumwiseError("the ledger answers one select at a time", remedy="write a select over the table ledger")
        return connection.sql(text).to_arrow_table()
    except duckdb.Error as error:
        if "LanceError" in str(error):
            raise OSError(str(error)) from error
        raise _refusal(str(error), columns) from error


def narrow_columns(ds: Any, schema: pa.Schema) -> list[str]:
    """Columns of numbers, times and text that fit the cache together, the smallest first."""
    scalar = [f.name for f in schema if not (pat.is_nested(f.type) or pat.is_binary(f.type) or pat.is_large_binary(f.type))]
    size = {field.id: field.bytes_on_disk for field in ds.stats.data_stats().fields}
    ids = {field.name(): field.id() for field in ds.lance_schema.fields()}
    chosen, total = set(), 0
    for name in sorted(scalar, key=lambda name: size.get(ids[name], 0)):
        total += size.get(ids[name], 0)
        if total > CACHE_BYTES:
            break
        chosen.add(name)
    return [name for name in schema.names if name in chosen]


def suffices(text: str, narrow: list[str], names: list[str]) -> bool:
    """Whether a query surely names none but the narrow columns; a star counts as naming all of them."""
    wide = [name for name in names if name not in narrow]
    if not wide:
        return True
    stars = re.sub(r"count\s*\(\s*\*\s*\)", "", text, flags=re.IGNORECASE)
    if "*" in stars or not re.match(r"\s*(select|with)\b", text, flags=re.IGNORECASE):
        return False  # "from ledger", "describe ledger" mean all columns too
    if re.search(r"\(\s*(from|table|describe|summarize)\b", text, flags=re.IGNORECASE):
        return False
    named = [*wide, "columns", "ledger"]  # "ledger" as a value is the whole row
    return all(len(_named(name, text)) == (_tables(text) if name == "ledger" else 0) for name in named)


def _named(name: str, text: str) -> list[str]:
    return re.findall(rf"(?<!\w){re.escape(name)}(?!\w)", text, flags=re.IGNORECASE)


def _tables(text: str) -> int:
    """How often `ledger` is named as a table: after from, join or a comma, or before a dot and a column."""
    return len(re.findall(r"(?:\b(?:from|join)\s+|,\s*)ledger\b|\bledger\s*\.", text, flags=re.IGNORECASE))


def _refusal(text: str, columns: list[str]) -> DatumwiseError:
    first = text.splitlines()[0] if text else "no reason given"
    sentence = re.sub(r"^(\w+ )*Error: ", "", first)
    sentence = sentence[:1].lower() + sentence[1:].rstrip(".!")
    column = re.search(r'(?:Referenced column|column named|does not have a column named) "([^"]+)"', text)
    if column:
        guess = nearest(column[1], columns)
        return UnknownColumn(
            f"column '{column[1]}' is not on the ledger (columns: {', '.join(columns[:12])})",
            remedy=f"did you mean '{guess}'?" if guess else None,
            column=column[1],
        )
    if "Permission" in text or "disabled by configuration" in text:
        return DatumwiseError(
            "the query reaches outside the ledger",
            remedy="query the table called ledger; use export for files",
        )
    if "Table with name" in text:
        return UnknownName(f"the query cannot be answered: {sentence}", remedy="the only table is called ledger")
    return DatumwiseError(f"the query cannot be answered: {sentence}")
