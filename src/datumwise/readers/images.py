"""Pictures: are these bytes one, and how does an array become one."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as pat

from datumwise.errors import SchemaMismatch

__all__ = ["SUFFIXES", "encoded", "fault", "is_picture", "picture_schema", "pictures"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".gif", ".bmp", ".tif", ".tiff", ".webp")
MAX_PIXELS = 200_000_000  # beyond, a small file that unpacks to gigabytes


def fault(data: bytes | None) -> str | None:
    """Why the bytes are no readable picture, or None; all pixels are decoded, so a cut-off file is seen."""
    from PIL import Image, UnidentifiedImageError

    if not data:
        return "empty file" if data is not None else "no picture"
    try:
        with Image.open(io.BytesIO(data)) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                return f"{picture.width:,} x {picture.height:,} pixels are too many"
            picture.load()
    except UnidentifiedImageError:
        return "not a picture"
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError):
        return "damaged or cut off"
    return None


def encoded(pixels: np.ndarray) -> bytes:
    """An array as PNG.

    Parameters
    ----------
    pixels : uint8 (height, width) grey, or (height, width, 3 or 4)

    Examples
    --------
    >>> encoded(np.zeros((8, 8), np.uint8))[:4]
    b'\\x89PNG'
    """
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def is_picture(kind: pa.DataType) -> bool:
    """Whether a column type is that of pictures as Hugging Face stores them: struct<bytes, path>."""
    return pat.is_struct(kind) and {child.name for child in kind} == {"bytes", "path"}


def picture_schema(schema: pa.Schema, column: str) -> pa.Schema:
    """The schema with ``column`` replaced by `image`, and `image_path` where a path is known."""
    kind = schema.field(column).type
    if not (is_picture(kind) or _is_bytes(kind) or _is_text(kind)):
        raise SchemaMismatch(
            f"column {column!r} holds {kind}, not pictures",
            remedy="give a column of encoded pictures (bytes) or of paths to them",
            column=column,
        )
    fields = []
    for field in schema:
        if field.name == column:
            fields.append(pa.field("image", pa.large_binary()))
            if not _is_bytes(kind):
                fields.append(pa.field("image_path", pa.string()))
        elif field.name in ("image", "image_path"):
            raise SchemaMismatch(
                f"column {field.name!r} is in the way of the pictures of {column!r}",
                remedy="rename it",
                column=field.name,
            )
        else:
            fields.append(field)
    return pa.schema(fields)


def pictures(
    batches: Iterator[pa.RecordBatch],
    column: str,
    schema: pa.Schema,
    *,
    folder: Path | None,
    name_of: Callable[[pa.RecordBatch, int, int], str],
    unreadable: dict[str, str],
) -> Iterator[pa.RecordBatch]:
    """Batches with readable pictures only, as bytes in `image`.

    Parameters
    ----------
    batches : iterator of RecordBatch
    column : str
        Bytes, paths (relative to ``folder``), or struct<bytes, path>.
    schema : Schema
        From `picture_schema`.
    folder : Path, optional
    name_of : callable
        ``name_of(batch, first_row, i)``: how row ``i`` of a batch is called.
    unreadable : dict
        Name -> why, added to; those rows are left out.
    """
    first_row = 0
    for batch in batches:
        cells = batch.column(column).to_pylist()
        data, paths, kept = [], [], []
        for i, cell in enumerate(cells):
            content, path = _content(cell, folder)
            if reason := fault(content):
                missing = content is None and path is not None
                unreadable[name_of(batch, first_row, i)] = f"no such file: {path}" if missing else reason
                continue
            data.append(content)
            paths.append(path)
            kept.append(i)
        first_row += batch.num_rows
        if not kept:
            continue
        rest = batch.take(pa.array(kept)) if len(kept) < batch.num_rows else batch
        arrays = {field.name: rest.column(field.name) for field in schema if field.name not in ("image", "image_path")}
        arrays["image"] = pa.array(data, pa.large_binary())
        arrays["image_path"] = pa.array(paths, pa.string())
        yield pa.RecordBatch.from_arrays([arrays[field.name] for field in schema], schema=schema)


def _content(cell: Any, folder: Path | None) -> tuple[bytes | None, str | None]:
    if isinstance(cell, dict):
        if cell["bytes"] is not None:
            return cell["bytes"], cell["path"]
        cell = cell["path"]
    if isinstance(cell, str):
        try:
            return (folder / cell if folder else Path(cell)).read_bytes(), cell
        except OSError:
            return None, cell
    return cell, None


def _is_bytes(kind: pa.DataType) -> bool:
    return pat.is_binary(kind) or pat.is_large_binary(kind)


def _is_text(kind: pa.DataType) -> bool:
    return pat.is_string(kind) or pat.is_large_string(kind)
