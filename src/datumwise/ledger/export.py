"""How rows leave for other programs: Parquet, CSV or JSON lines, streamed, whole or not at all."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.types as pat

from datumwise.errors import DiskFull, LedgerExists, ReadOnly, SchemaMismatch, SourceError
from datumwise.ledger.read import scan

if TYPE_CHECKING:
    from datumwise.ledger.ledger import Ledger

__all__ = ["EXPORTS", "export_rows", "exports"]

EXPORTS = "exports.jsonl"  # in the ledger's folder: the copies that a purge cannot reach


def export_rows(ledger: Ledger, path: Path, columns: list[str], where: str | None, *, overwrite: bool) -> int:
    """Write the rows to one file; it appears whole, or not at all.

    Returns
    -------
    int
        Rows written.

    Raises
    ------
    SourceError
        Another suffix than ``.parquet``, ``.csv`` or ``.jsonl``.
    LedgerExists
        The file is there and `overwrite` is false.
    SchemaMismatch
        A column that CSV cannot hold.
    """
    write = _WRITERS.get(path.suffix.lower())
    if write is None:
        raise SourceError(f"cannot export to '{path.name}'", remedy="end it in .parquet, .csv or .jsonl")
    if path.exists() and not overwrite:
        raise LedgerExists(f"{path} exists", remedy="choose another name, or pass overwrite=True")
    schema = pa.schema([ledger.schema.field(name) for name in columns])
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    counted = _Counted(scan(ledger._ds, columns, where=where, batch_size=8192))
    try:
        write(temporary, schema, counted)
        os.replace(temporary, path)
    except FileNotFoundError as error:
        raise SourceError(f"{path.parent} does not exist", remedy="make the folder first") from error
    except PermissionError as error:
        raise ReadOnly(f"{path.parent} cannot be written to", remedy="choose another place") from error
    except OSError as error:
        if error.errno in (28, 122, 27):  # no space, quota, file too large
            raise DiskFull(f"no space left for {path}", remedy="free some space or choose another place") from error
        raise
    finally:
        temporary.unlink(missing_ok=True)
    _note(ledger, path, counted.rows)
    return counted.rows


def exports(folder: Path) -> list[str]:
    """Files that were exported from a ledger and are still there."""
    try:
        lines = (folder / EXPORTS).read_text().splitlines()
    except OSError:
        return []
    noted = [json.loads(line)["path"] for line in lines if line.endswith("}")]
    return [path for path in dict.fromkeys(noted) if Path(path).exists()]


class _Counted:
    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches = batches
        self.rows = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in self._batches:
            self.rows += len(batch)
            yield batch


def _note(ledger: Ledger, path: Path, rows: int) -> None:
    """Without the condition: that could name a datapoint. A read-only ledger notes nothing."""
    noted = {
        "path": str(path.resolve()),
        "rows": rows,
        "version": ledger.version,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    with contextlib.suppress(OSError), open(ledger.path / EXPORTS, "a") as file:
        file.write(json.dumps(noted) + "\n")


def _parquet(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for batch in batches:
            writer.write_batch(batch)


def _csv(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    from pyarrow import csv

    for field in schema:
        if pat.is_nested(field.type) or pat.is_binary(field.type) or pat.is_large_binary(field.type):
            raise SchemaMismatch(
                f"column '{field.name}' is {field.type}, which CSV cannot hold",
                remedy="leave it out, or export to .parquet or .jsonl",
                column=field.name,
            )
    plain = pa.schema([pa.field(f.name, f.type.value_type if pat.is_dictionary(f.type) else f.type) for f in schema])
    with csv.CSVWriter(path, plain) as writer:
        for batch in batches:
            columns = [column.cast(field.type) for column, field in zip(batch.columns, plain, strict=True)]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=plain))


def _jsonl(path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]) -> None:
    with open(path, "w", encoding="utf-8") as file:
        for batch in batches:
            for row in batch.to_pylist():
                file.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")


def _plain(value: Any) -> str:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


_WRITERS: dict[str, Callable[[Path, pa.Schema, Iterable[pa.RecordBatch]], None]] = {
    ".parquet": _parquet,
    ".csv": _csv,
    ".jsonl": _jsonl,
}
