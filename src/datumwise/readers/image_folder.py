"""A folder of pictures: ``root/class/*.png`` with classes, or ``root/*.png`` without."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from datumwise.errors import EmptyData, SourceError, name_some
from datumwise.readers import fingerprint
from datumwise.readers.images import SUFFIXES, fault
from datumwise.readers.source import Source

__all__ = ["pictures_below", "read_image_folder"]

BATCH_BYTES = 32 << 20  # encoded bytes a batch
BATCH_FILES = 512
SPLITS = frozenset({"train", "training", "test", "val", "valid", "validation", "dev"})


def read_image_folder(root: Path) -> Source:
    """Pictures below ``root``; the folder a picture lies in is its label, its path below ``root`` its id.

    A file that cannot be decoded is left out and listed in ``Source.unreadable`` (id -> why); hidden files
    and files that are no pictures by their suffix are passed over.

    Raises
    ------
    EmptyData
        No picture below ``root``, or none that can be read.
    SourceError
        The folder holds splits (``train``, ``test``), or pictures both beside and inside class folders.
    """
    paths = pictures_below(root)
    if not paths:
        raise EmptyData(
            f"folder {root.name} holds no pictures ({', '.join(SUFFIXES)})",
            remedy="give a folder of the form folder/class/picture.png",
        )
    _refuse_splits(root, paths)
    loose = [path for path in paths if path.parent == root]
    if loose and len(loose) < len(paths):
        raise SourceError(
            f"folder {root.name} holds {len(loose):,} pictures beside its class folders "
            f"({name_some(path.name for path in loose)})",
            remedy="move them into the folder of their class",
        )
    fields = [
        pa.field("id", pa.string()),
        pa.field("image", pa.large_binary()),
        pa.field("image_path", pa.string()),
    ]
    if not loose:
        fields.insert(1, pa.field("label", pa.string()))
    schema = pa.schema(fields)
    unreadable: dict[str, str] = {}

    def batches() -> Iterator[pa.RecordBatch]:
        unreadable.clear()
        rows: list[tuple[str, bytes, str]] = []
        read = 0
        for path in paths:
            name = path.relative_to(root).as_posix()
            data, reason = _read(path)
            if reason or data is None:
                unreadable[name] = reason or "no picture"
                continue
            rows.append((name, data, path.parent.relative_to(root).as_posix()))
            read += len(data)
            if read >= BATCH_BYTES or len(rows) >= BATCH_FILES:
                yield _batch(rows, schema)
                rows, read = [], 0
        if rows:
            yield _batch(rows, schema)

    return Source(
        name=f"{root.name}/",
        stem=root.name,
        schema=schema,
        batches=batches,
        fingerprint=lambda: fingerprint.of_listing(root, paths),
        rows=len(paths),
        roles={"image": "image", **({} if loose else {"label": "label"})},
        task=None if loose else "classification",
        unreadable=unreadable,
        folder=root,
        pictures_checked=True,
    )


def pictures_below(root: Path) -> list[Path]:
    """Pictures at any depth, by suffix, in the order of their paths; hidden ones passed over."""
    return sorted(
        path
        for path in root.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(root).parts)
    )


def _refuse_splits(root: Path, paths: list[Path]) -> None:
    tops = sorted({path.relative_to(root).parts[0] for path in paths if path.parent != root})
    splits = [top for top in tops if top.casefold() in SPLITS]
    deep = any(len(path.relative_to(root).parts) > 2 for path in paths)
    if splits and deep:
        raise SourceError(
            f"folder {root.name} holds splits ({', '.join(splits)})",
            remedy=f"give one: {root.name}/{splits[0]}",
        )


def _read(path: Path) -> tuple[bytes | None, str | None]:
    try:
        data = path.read_bytes()
    except OSError as error:
        return None, (error.strerror or "cannot be opened").lower()
    return data, fault(data)


def _batch(rows: list[tuple[str, bytes, str]], schema: pa.Schema) -> pa.RecordBatch:
    names, data, folders = zip(*rows, strict=True)
    columns = {
        "id": pa.array(names, pa.string()),
        "label": pa.array(folders, pa.string()),
        "image": pa.array(data, pa.large_binary()),
        "image_path": pa.array(names, pa.string()),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)
