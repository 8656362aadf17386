"""Streams from DuckDB's CSV and JSON readers: memory bounded, nothing fetched, nothing installed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from datumwise.readers.source import BATCH_ROWS

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

__all__ = ["connect", "quoted", "stream"]

MEMORY = "1GB"  # what DuckDB may hold before it spills


def connect() -> duckdb.DuckDBPyConnection:
    """A private in-memory connection that installs no extension."""
    import duckdb

    return duckdb.connect(
        config={
            "memory_limit": MEMORY,
            "autoinstall_known_extensions": "false",
        }
    )


def quoted(text: object) -> str:
    """``text`` as an SQL string.

    Examples
    --------
    >>> quoted("o'brien.csv")
    "'o''brien.csv'"
    """
    return "'" + str(text).replace("'", "''") + "'"


def stream(connection: duckdb.DuckDBPyConnection, query: str) -> Iterator[pa.RecordBatch]:
    """The result of ``query`` in batches, in the order of the file."""
    yield from connection.sql(query).to_arrow_reader(BATCH_ROWS)
