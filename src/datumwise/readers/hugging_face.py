"""Hugging Face `datasets`: folders written by ``save_to_disk``, and `Dataset` objects."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from datumwise.errors import SourceError
from datumwise.readers import fingerprint
from datumwise.readers.source import BATCH_ROWS, Source

__all__ = ["is_saved_data_set", "read_data_set", "read_saved_data_set"]


def is_saved_data_set(folder: Path) -> bool:
    """Whether ``save_to_disk`` wrote this folder: a `Dataset` or a `DatasetDict`."""
    return (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file()


def read_saved_data_set(folder: Path, *, name: str | None = None) -> Source:
    """A folder written by ``Dataset.save_to_disk``; needs no `datasets` installed.

    Class labels become their names; a folder of several splits is refused unless it holds one only.

    Raises
    ------
    SourceError
        Several splits, a missing or damaged file.
    """
    name = name or f"{folder.name}/"
    if (folder / "dataset_dict.json").is_file():
        splits = _json(folder / "dataset_dict.json").get("splits", [])
        if len(splits) != 1:
            raise SourceError(
                f"folder {folder.name} holds {len(splits)} splits ({', '.join(splits)})",
                remedy=f"give one: {folder.name}/{splits[0]}" if splits else "save the data set again",
            )
        return read_saved_data_set(folder / splits[0], name=name)
    state = _json(folder / "state.json")
    files = [folder / entry["filename"] for entry in state.get("_data_files", [])]
    missing = [path.name for path in files if not path.is_file()]
    if missing or not files:
        raise SourceError(
            f"folder {folder.name} lacks its data file {missing[0] if missing else 'data-*.arrow'}",
            remedy="save the data set again",
        )
    names = _class_names(_json(folder / "dataset_info.json").get("features") or {})
    with _open(files[0]) as reader:
        stored = reader.schema
    schema = _named_schema(stored, names)

    def batches() -> Iterator[pa.RecordBatch]:
        for path in files:
            with _open(path) as stream:
                for batch in stream:
                    yield from _cut(_named(batch, names, schema))

    return Source(
        name=name,
        stem=folder.name,
        schema=schema,
        batches=batches,
        fingerprint=lambda: fingerprint.of_files(files),
        roles=_roles(names),
        task="classification" if _roles(names) else None,
        folder=folder,
    )


def read_data_set(data: Any, *, name: str) -> Source:
    """A `datasets.Dataset`, in memory or mapped from disk, streamed with its row selections applied."""
    if hasattr(data, "keys"):
        splits = list(data.keys())
        raise SourceError(
            f"the data set holds {len(splits)} splits ({', '.join(map(str, splits))})",
            remedy=f"give one: data[{splits[0]!r}]" if splits else None,
        )
    names = _class_names({column: vars(kind) | {"_type": type(kind).__name__} for column, kind in data.features.items()})
    schema = _named_schema(data.features.arrow_schema, names)

    def batches() -> Iterator[pa.RecordBatch]:
        for table in data.with_format("arrow").iter(batch_size=BATCH_ROWS):
            for batch in table.combine_chunks().to_batches():
                yield _named(batch, names, schema)

    return Source(
        name=name,
        stem=name,
        schema=schema,
        batches=batches,
        fingerprint=lambda: fingerprint.of_table(data.with_format("arrow")[:]),
        rows=data.num_rows,
        roles=_roles(names),
        task="classification" if _roles(names) else None,
    )


def _class_names(features: Mapping[str, Any]) -> dict[str, list[str]]:
    """Columns of class labels and the names of their classes."""
    return {
        column: list(kind["names"] if "names" in kind else kind["_names"])
        for column, kind in features.items()
        if isinstance(kind, Mapping) and kind.get("_type") == "ClassLabel" and (kind.get("names") or kind.get("_names"))
    }


def _roles(names: Mapping[str, list[str]]) -> dict[str, str]:
    return {"label": next(iter(names))} if len(names) == 1 else {}


def _named_schema(schema: pa.Schema, names: Mapping[str, list[str]]) -> pa.Schema:
    return pa.schema([pa.field(f.name, pa.string() if f.name in names else _storage(f.type)) for f in schema])


def _storage(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.ExtensionType) else kind


def _named(batch: pa.RecordBatch, names: Mapping[str, list[str]], schema: pa.Schema) -> pa.RecordBatch:
    """Class codes replaced by their names; -1, which `datasets` uses for "not labelled", by null."""
    columns = []
    for field in schema:
        column = batch.column(field.name)
        if isinstance(column, pa.ExtensionArray):
            column = column.storage
        if field.name in names:
            codes = column.cast(pa.int64()).to_pylist()
            known = names[field.name]
            column = pa.array(
                [known[code] if code is not None and 0 <= code < len(known) else None for code in codes],
                pa.string(),
            )
        columns.append(column)
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _cut(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    for start in range(0, batch.num_rows, BATCH_ROWS):
        yield batch.slice(start, BATCH_ROWS)


def _open(path: Path) -> pa.RecordBatchStreamReader:
    try:
        return pa.ipc.open_stream(pa.memory_map(str(path)))
    except (pa.ArrowInvalid, OSError) as error:
        raise SourceError(f"{path.name} is not a whole Arrow file", remedy="save the data set again") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SourceError(f"{path.parent.name}/{path.name} cannot be read", remedy="save the data set again") from error
