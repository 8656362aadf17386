"""Which reader reads this: by type for what lies in memory, by name and content for what lies on disk."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from datumwise.errors import EmptyData, SourceError
from datumwise.readers.source import Source
from datumwise.readers.spelling import nearest

__all__ = ["FORMATS", "is_ledger_path", "open_source", "refuse_unreadable", "stem_of"]

FORMATS = {
    ".parquet": "parquet",
    ".pq": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
}
READABLE = "Parquet, CSV, TSV, JSON lines, a folder of pictures, a folder of datasets.save_to_disk, a ledger"
ELSEWHERE = {
    ".xlsx": "save it as CSV or Parquet",
    ".xls": "save it as CSV or Parquet",
    ".gz": "unpack it",
    ".zip": "unpack it",
    ".zst": "unpack it",
    ".tar": "unpack it",
    ".npz": "load it and give its arrays as a dict",
    ".npy": "load it and give the array",
    ".pkl": "load it and give what it holds",
    ".pickle": "load it and give what it holds",
    ".txt": "write one JSON object a line into a .jsonl file",
    ".feather": "save it as Parquet",
    ".arrow": "save it as Parquet",
}


def open_source(source: Any, *, name: str | None = None) -> Source:
    """The source as a stream of batches.

    Parameters
    ----------
    source : path or object in memory
    name : str, optional
        Name for what lies in memory; default ``"data"``.

    Raises
    ------
    SourceError
        No such file, an unknown format, or an object of no known kind.
    EmptyData
        A file of zero bytes, a folder without data.
    """
    if isinstance(source, str | os.PathLike):
        return _open_path(Path(source))
    name = name or "data"
    known = _reader_of(source)
    if known is None:
        raise SourceError(
            f"cannot read a {type(source).__name__}",
            remedy="give a path, a data frame, an Arrow table, a dict of arrays, (X, y), an array or a bunch",
        )
    return known(source, name)


def is_ledger_path(source: Any) -> bool:
    """Whether the source is the path of a ledger."""
    return isinstance(source, str | os.PathLike) and (
        Path(source).suffix == ".ledger" or (Path(source) / "data.lance").is_dir()
    )


def stem_of(source: Any, name: str | None = None) -> str:
    """The default name of a source's ledger, without suffix, from its name alone.

    Examples
    --------
    >>> stem_of("data/reviews.parquet"), stem_of({"x": [1]}), stem_of({"x": [1]}, "mine")
    ('reviews', 'data', 'mine')
    """
    if name:
        return name
    if isinstance(source, str | os.PathLike):
        path = Path(os.path.abspath(source))
        return path.stem if path.suffix.lower() in FORMATS else path.name
    return "data"


def _reader_of(source: Any) -> Callable[[Any, str], Source] | None:
    room = type(source).__module__.partition(".")[0]
    kind = type(source).__name__
    if room == "pandas" and kind == "DataFrame":
        from datumwise.readers.frames import read_pandas

        return lambda s, n: read_pandas(s, name=n)
    if room == "polars" and kind in ("DataFrame", "LazyFrame"):
        from datumwise.readers.frames import read_polars

        return lambda s, n: read_polars(s, name=n)
    if room == "pyarrow" and kind in ("Table", "RecordBatch"):
        from datumwise.readers.frames import read_arrow

        return lambda s, n: read_arrow(s, name=n)
    if room == "pyarrow" and hasattr(source, "read_next_batch"):
        from datumwise.readers.frames import read_reader

        return lambda s, n: read_reader(s, name=n)
    if room == "datasets":
        from datumwise.readers.hugging_face import read_data_set

        return lambda s, n: read_data_set(s, name=n)
    if room == "sklearn" and isinstance(source, dict):
        from datumwise.readers.bunch import read_bunch

        return lambda s, n: read_bunch(s, name=n)
    return _reader_of_arrays(source)


def _reader_of_arrays(source: Any) -> Callable[[Any, str], Source] | None:
    from datumwise.readers.arrays import read_arrays

    if isinstance(source, dict):
        return lambda s, n: read_arrays(s, name=n)
    if isinstance(source, tuple) and len(source) == 2:
        if hasattr(source[0], "columns"):
            return _frame_and_label
        return lambda s, n: read_arrays({"x": s[0], "label": s[1]}, name=n)
    if hasattr(source, "__array__") and getattr(source, "ndim", 0) >= 2:
        return lambda s, n: read_arrays({"x": s}, name=n)
    return None


def _frame_and_label(pair: Any, name: str) -> Source:
    """A data frame of features and the labels beside it."""
    frame, label = pair
    if "label" in list(frame.columns):
        raise SourceError("the data frame of (X, y) has a column 'label' already", remedy="rename it")
    if hasattr(frame, "with_columns"):
        import polars

        return open_source(frame.with_columns(polars.Series("label", label)), name=name)
    return open_source(frame.assign(label=getattr(label, "to_numpy", lambda: label)()), name=name)


def refuse_unreadable(path: Path) -> None:
    """Refuse a path that is not there, or a file of an unknown format, without reading anything.

    Raises
    ------
    SourceError
    """
    if not path.exists():
        raise SourceError(f"no such file: {path}", remedy=_meant(path))
    suffix = path.suffix.lower()
    if not path.is_dir() and suffix not in FORMATS:
        raise SourceError(f"{path.name} is of no format that can be read ({READABLE})", remedy=ELSEWHERE.get(suffix))


def _open_path(path: Path) -> Source:
    refuse_unreadable(path)
    if path.is_dir():
        return _open_folder(Path(os.path.abspath(path)))
    return _open_files([path], FORMATS[path.suffix.lower()], name=path.name, stem=path.stem)


def _open_files(paths: Sequence[Path], kind: str, *, name: str, stem: str) -> Source:
    for path in paths:
        if path.stat().st_size == 0:
            raise EmptyData(f"{path.name} is empty (0 bytes)", remedy="write it again")
        if not os.access(path, os.R_OK):
            raise SourceError(f"{path.name} may not be read", remedy="ask for permission to read it")
    if kind == "parquet":
        from datumwise.readers.parquet import read_parquet

        return read_parquet(paths, name=name, stem=stem)
    if kind == "csv":
        from datumwise.readers.csv import read_csv

        return read_csv(paths, name=name, stem=stem)
    from datumwise.readers.jsonl import read_jsonl

    return read_jsonl(paths, name=name, stem=stem)


def _open_folder(folder: Path) -> Source:
    from datumwise.readers.hugging_face import is_saved_data_set, read_saved_data_set

    if is_saved_data_set(folder):
        return read_saved_data_set(folder)
    from datumwise.readers.image_folder import pictures_below, read_image_folder

    shards = sorted(p for p in folder.iterdir() if p.suffix.lower() in FORMATS and not p.name.startswith("."))
    kinds = sorted({FORMATS[path.suffix.lower()] for path in shards})
    pictures = pictures_below(folder)
    if shards and not pictures:
        if len(kinds) > 1:
            raise SourceError(
                f"folder {folder.name} holds files of several formats ({', '.join(kinds)})",
                remedy="give one file",
            )
        return _open_files(shards, kinds[0], name=f"{folder.name}/", stem=folder.name)
    if not pictures and not any(folder.iterdir()):
        raise EmptyData(f"folder {folder.name} is empty", remedy="give a folder with data")
    return read_image_folder(folder)


def _meant(path: Path) -> str | None:
    folder = path.parent
    if not folder.is_dir():
        return f"there is no folder {folder}"
    guess = nearest(path.name, (entry.name for entry in folder.iterdir()))
    return f"did you mean {folder / guess if str(folder) != '.' else guess}?" if guess else None
