"""Is this the same source again? Short texts that change when the content does."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["of_files", "of_listing", "of_table", "with_options"]

WHOLE_BYTES = 64 << 20  # files up to this size are hashed whole
BLOCKS = 64  # of larger files, this many blocks, evenly spaced
BLOCK_BYTES = 1 << 20


def of_files(paths: Sequence[Path]) -> str:
    """Hash of the files' content.

    Whole up to 64 MiB; beyond, 64 blocks of 1 MiB evenly spaced, the size and the time of change.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        stat = path.stat()
        digest.update(f"{stat.st_size}\n".encode())
        with path.open("rb") as handle:
            if stat.st_size <= WHOLE_BYTES:
                while block := handle.read(BLOCK_BYTES):
                    digest.update(block)
                continue
            digest.update(f"{stat.st_mtime_ns}\n".encode())
            for k in range(BLOCKS):
                handle.seek(k * (stat.st_size - BLOCK_BYTES) // (BLOCKS - 1))
                digest.update(handle.read(BLOCK_BYTES))
    return f"files:{digest.hexdigest()}"


def of_listing(root: Path, paths: Iterable[Path]) -> str:
    """Hash of names, sizes and times of change: for folders of very many files."""
    digest = hashlib.blake2b(digest_size=16)
    for path in paths:
        stat = path.stat()
        digest.update(f"{path.relative_to(root).as_posix()}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
    return f"listing:{digest.hexdigest()}"


class _HashSink(io.RawIOBase):
    """A file that keeps nothing but the hash of what was written."""

    def __init__(self) -> None:
        self.digest = hashlib.blake2b(digest_size=16)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.digest.update(view)
        return len(view)


def of_table(table: pa.Table, *, rows: int = 8_192) -> str:
    """Hash of schema and values, whatever the chunks they lie in."""
    import pyarrow as pa

    sink = _HashSink()
    schema = table.schema.remove_metadata()
    with pa.ipc.new_stream(pa.PythonFile(sink, mode="w"), schema) as writer:
        for start in range(0, table.num_rows, rows):
            part = table.slice(start, rows).combine_chunks().replace_schema_metadata(None)
            writer.write_table(part)
    return f"values:{sink.digest.hexdigest()}"


def with_options(fingerprint: str, **options: Any) -> dict[str, Any]:
    """The fingerprint together with the options that shaped the ledger, as JSON-ready facts."""
    return {"content": fingerprint, "options": json.loads(json.dumps(options, default=str))}
