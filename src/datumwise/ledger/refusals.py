"""What the store says when it cannot read, in one sentence of ours: its own carry paths of Rust sources."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from datumwise.errors import DatumwiseError, LedgerChanged, NotALedger, UnknownColumn, name_some
from datumwise.ledger.commit import translated
from datumwise.ledger.schema import nearest

__all__ = ["reading"]


@contextlib.contextmanager
def reading(uri: str, version: int, schema: pa.Schema, where: str | None = None) -> Iterator[None]:
    """Read one version of a ledger.

    Parameters
    ----------
    uri : str
        ``NAME.ledger/data.lance``.
    version : int
    schema : Schema
        For the nearest name of a column that is not there.
    where : str, optional
        The condition a user gave.

    Raises
    ------
    UnknownColumn, DatumwiseError
        The condition names a column that is not there, or is no SQL.
    LedgerChanged
        The version's files are gone: somebody purged the ledger.
    NotALedger
        A file is damaged.
    """
    name = Path(uri).parent.name
    try:
        with translated(uri):
            yield
    except DatumwiseError:
        raise
    except (ValueError, OSError, RuntimeError) as error:
        text = str(error)
        if "Not found: " in text and "/data.lance/" in text:
            raise LedgerChanged(
                f"version {version} of {name} is gone, for the ledger was purged meanwhile",
                remedy="open it again, or call refresh()",
            ) from error
        if where is not None and _is_about_the_condition(text):
            raise _refused(where, text, schema) from error
        if ".rs:" in text:
            raise NotALedger(f"{name} cannot be read at version {version}: {_brief(text)}") from error
        raise


def _is_about_the_condition(text: str) -> bool:
    return any(sign in text for sign in ("Invalid user input", "rror parsing", "sql parser", "Schema error"))


def _refused(where: str, text: str, schema: pa.Schema) -> DatumwiseError:
    column = re.search(r"No field named \"?([\w ]+)\"?", text)
    if column is None:
        return DatumwiseError(f'the condition "{where}" cannot be read: {_brief(text)}')
    guess = nearest(column[1], schema.names)
    return UnknownColumn(
        f"column '{column[1]}' in the condition \"{where}\" is not on the ledger"
        f" (columns: {name_some(schema.names, shown=12)})",
        remedy=f"did you mean '{guess}'?" if guess else "text goes in single quotes",
        column=column[1],
    )


def _brief(text: str) -> str:
    """The store's own words, without where in its sources they were said."""
    reason = re.search(r"sql parser error: ([^)]*)", text)
    said = reason[1] if reason else re.sub(r",? ?/[\w./-]+\.rs:[\d:]+", "", text)
    said = re.sub(r"^(Invalid user input|External error|LanceError\(\w+\)|Schema error|: )+:? ?", "", said).strip()
    return said[:1].lower() + said[1:].rstrip(".,")
