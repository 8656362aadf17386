"""Parquet files, streamed column chunk by column chunk, types kept as written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from datumwise.errors import SchemaMismatch, SourceError
from datumwise.readers import fingerprint
from datumwise.readers.source import BATCH_ROWS, Source

__all__ = ["read_parquet"]

BUFFER_BYTES = 1 << 20  # read ahead a column: keeps memory at the batch even for row groups of a million rows


def read_parquet(paths: Sequence[Path], *, name: str, stem: str) -> Source:
    """One Parquet file, or several of one schema.

    Memory is bounded by the batch and not by the row group: pages are decoded as they are needed
    (``pre_buffer=False``, a small ``buffer_size``).

    Raises
    ------
    SourceError
        A file is not whole Parquet.
    SchemaMismatch
        Two files differ in their columns.
    """
    schemas = []
    rows = 0
    for path in paths:
        with _open(path) as file:
            schemas.append(file.schema_arrow.remove_metadata())
            rows += file.metadata.num_rows
    for path, schema in zip(paths, schemas, strict=True):
        if not schema.equals(schemas[0]):
            differ = [n for n in {*schema.names, *schemas[0].names} if _field(schema, n) != _field(schemas[0], n)]
            raise SchemaMismatch(
                f"{path.name} and {paths[0].name} differ in column {sorted(differ)[0]!r}"
                if differ
                else f"{path.name} and {paths[0].name} have their columns in different order",
                remedy="give files of one schema",
                column=sorted(differ)[0] if differ else None,
            )

    def batches() -> Iterator[pa.RecordBatch]:
        for path in paths:
            with _open(path) as file:
                try:
                    yield from file.iter_batches(batch_size=BATCH_ROWS)
                except (OSError, pa.ArrowInvalid) as error:
                    raise SourceError(
                        f"{path.name} is damaged: its pages cannot be decoded", remedy="write it again"
                    ) from error

    return Source(
        name=name,
        stem=stem,
        schema=schemas[0],
        batches=batches,
        fingerprint=lambda: fingerprint.of_files(paths),
        rows=rows,
        folder=paths[0].parent,
    )


def _open(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=BUFFER_BYTES)
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(
            f"{path.name} is not a whole Parquet file",
            remedy="write or copy it again (it may have been cut off)",
        ) from error


def _field(schema: pa.Schema, name: str) -> pa.DataType | None:
    return schema.field(name).type if name in schema.names else None
