"""From what people hold to a list of texts with ids: lists, tables, files of five formats, hub names, as they are.

Every row keeps an id: its own, or its position in the source, so that a dropped row shows as a gap and never moves another.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datumwise.errors import DuplicateId, EmptyData, MissingExtra, SchemaMismatch, SourceError, UnknownName, name_some
from datumwise.readers.spelling import listed

__all__ = ["hub_splits", "load_texts", "read_rows"]

FORMATS = (".json", ".jsonl", ".csv", ".parquet", ".txt")
TEXT_NAMES = ("text", "content", "document", "passage", "article", "body")
PAIR_NAMES = (("prompt", "response"), ("prompt", "gt"), ("prompt", "completion"), ("question", "answer"))
ID_NAMES = ("id", "_id", "uid")


def load_texts(
    data: Any,
    *,
    text: str | None = None,
    prompt: str | None = None,
    response: str | None = None,
    id: str | None = None,
    config: str | None = None,
    split: str = "train",
) -> list[dict[str, str]]:
    """Texts, or prompts with their responses, from whatever holds them.

    Parameters
    ----------
    data : sequence, table, path or str
        A list of str, of (prompt, response) or of mappings; a `datasets.Dataset`, a pandas, polars or Arrow table; a file
        (``.json``: a list, or one object a line; ``.jsonl``: one object or string a line, or plain lines of text; ``.csv``;
        ``.parquet``; ``.txt``: items with a blank line between them); a folder of ``save_to_disk``; or a hub name, read
        through `datasets`. A path that exists goes before a hub name.
    text : str, optional
        Key of the text; by default the first of text, content, document, passage, article, body that is there.
    prompt, response : str, optional
        Keys of a pair; by default prompt with response, gt or completion, or question with answer, where there is no text.
    id : str, optional
        Key of the id; by default id, _id or uid, else the row's position in the source.
    config, split : str
        Of a hub data set or a folder of several splits.

    Returns
    -------
    list of dict
        ``{"id", "text"}`` or ``{"id", "prompt", "response"}``, all str. Rows whose text is empty or white space are left out:
        the ids of the others do not move.

    Raises
    ------
    SourceError, SchemaMismatch, DuplicateId, EmptyData

    Examples
    --------
    >>> load_texts(["one", "", "three"])
    [{'id': '0', 'text': 'one'}, {'id': '2', 'text': 'three'}]
    >>> load_texts([{"question": "Where?", "answer": "Oslo", "uid": "q7"}])
    [{'id': 'q7', 'prompt': 'Where?', 'response': 'Oslo'}]
    """
    if (prompt is None) != (response is None):
        raise SchemaMismatch("a pair needs both keys", remedy="give prompt= and response=")
    rows, name = read_rows(data, config=config, split=split)
    if not rows:
        raise EmptyData(f"{name} holds no text")
    if all(isinstance(row, str) for row in rows):
        kept = [{"id": str(i), "text": row} for i, row in enumerate(rows)]
    elif all(isinstance(row, (tuple, list)) for row in rows):
        kept = [_pair(row, i, name) for i, row in enumerate(rows)]
    elif all(isinstance(row, Mapping) for row in rows):
        keys = (text,) if text else (prompt, response) if prompt and response else _keys(rows, name)
        named = ("text",) if len(keys) == 1 else ("prompt", "response")
        ids = _ids(rows, id, name)
        kept = [
            {"id": i} | dict(zip(named, cells, strict=True))
            for i, cells in zip(ids, _cells(rows, keys, ids, name), strict=True)
        ]
    else:
        kinds = listed(sorted({type(row).__name__ for row in rows}))
        raise SchemaMismatch(f"{name} mixes rows of several kinds ({kinds})", remedy="give texts, pairs or mappings only")
    last = "text" if "text" in kept[0] else "response"
    kept = [row for row in kept if row[last].strip()]
    if not kept:
        raise EmptyData(f"every text of {name} is empty")
    return kept


def read_rows(data: Any, *, config: str | None = None, split: str = "train") -> tuple[list[Any], str]:
    """The rows of a source as Python holds them, and how an error sentence calls the source.

    Raises
    ------
    SourceError
        The source cannot be read.
    """
    if isinstance(data, (str, Path)):
        return _rows_at(data, config, split)
    if hasattr(data, "to_pylist"):  # Arrow
        return data.to_pylist(), "the table"
    if hasattr(data, "iter_rows"):  # polars
        return list(data.iter_rows(named=True)), "the table"
    if hasattr(data, "to_dict") and hasattr(data, "columns"):  # pandas
        return data.to_dict(orient="records"), "the table"
    if isinstance(data, Mapping):
        raise SourceError(
            f"the data hold {len(data)} parts ({listed(map(str, data))})", remedy="give one of them, or a list of rows"
        )
    if isinstance(data, Iterable):
        return list(data), "the data"
    raise SourceError(f"texts cannot be read from {type(data).__name__}", remedy="give a list, a table, a file or a hub name")


def hub_splits(name: str, config: str | None = None) -> dict[str, list[dict[str, Any]]]:
    """Every split of a hub data set (or of one of its configs), read through `datasets`.

    Raises
    ------
    MissingExtra
        `datasets` is not installed.
    SourceError
        The data set, or its config, cannot be reached.
    """
    return {str(key): list(rows) for key, rows in _hub(name, config, None).items()}


def _rows_at(place: str | Path, config: str | None, split: str) -> tuple[list[Any], str]:
    path = Path(place)
    if path.is_dir():
        from datumwise.readers.hugging_face import is_saved_data_set, read_saved_data_set

        if not is_saved_data_set(path):
            raise SourceError(
                f"folder {path.name} is no saved data set",
                remedy=f"give one of its files ({listed(_files(path)) or 'none there'})",
            )
        folder = path / split if (path / "dataset_dict.json").is_file() and (path / split).is_dir() else path
        return [row for batch in read_saved_data_set(folder).batches() for row in batch.to_pylist()], f"{path.name}/"
    if path.is_file():
        return _read_file(path), path.name
    if path.suffix in FORMATS or str(place).count("/") != 1 or str(place).startswith((".", "/", "~")):
        raise SourceError(f"there is no file {place}", remedy="check the path, or give a hub name such as owner/name")
    return list(_hub(str(place), config, split)), str(place)


def _read_file(path: Path) -> list[Any]:
    if path.suffix == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return pq.read_table(path).to_pylist()
        except (pa.ArrowException, OSError) as error:
            raise SourceError(f"{path.name} is not a whole Parquet file") from error
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path.name} is not UTF-8 text", remedy="save it as UTF-8") from error
    except OSError as error:
        raise SourceError(f"{path.name} cannot be read ({error.strerror})") from error
    if path.suffix == ".txt":
        return [item for item in content.replace("\r\n", "\n").split("\n\n") if item.strip()]
    if path.suffix == ".csv":
        return list(csv.DictReader(io.StringIO(content, newline="")))
    if path.suffix == ".json":
        return _read_json(content, path.name)
    if path.suffix == ".jsonl":
        return _read_lines(content, path.name, plain=True)
    raise SourceError(f"{path.name} has no format that is known here", remedy=f"give a file of {', '.join(FORMATS)}")


def _read_json(content: str, name: str) -> list[Any]:
    """A list; or one object a line, as in TOFU's files."""
    try:
        read = json.loads(content)
    except ValueError:
        return _read_lines(content, name, plain=False)
    if read is None:
        raise EmptyData(f"{name} holds null")
    if isinstance(read, Mapping):
        lists = [key for key, value in read.items() if isinstance(value, list)]
        if len(read) == 1 and lists:
            return list(read[lists[0]])
        if not lists or any(isinstance(value, str) for value in read.values()):
            return [read]  # one line of JSON Lines
        raise SchemaMismatch(
            f"{name} holds an object and no list of rows", remedy=f"write one of its lists ({listed(lists)}) alone"
        )
    if not isinstance(read, list):
        raise SchemaMismatch(f"{name} holds one {type(read).__name__} and no list of rows")
    return read


def _read_lines(content: str, name: str, *, plain: bool) -> list[Any]:
    """One JSON value a line; with ``plain``, also lines of text that are no JSON at all (TOFU's ``idk.jsonl``)."""
    lines = [(number, line) for number, line in enumerate(content.split("\n"), 1) if line.strip()]  # JSON may hold U+2028
    if plain and not any(line.lstrip().startswith(("{", '"')) for _, line in lines):
        return [line.strip() for _, line in lines]
    rows = []
    for number, line in lines:
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            raise SourceError(f"line {number} of {name} is not JSON", remedy="write one object a line") from error
    return rows


def _hub(name: str, config: str | None, split: str | None) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtra(f"{name} is a hub name, which needs datasets", remedy="pip install 'datumwise[lm]'") from error
    try:
        return datasets.load_dataset(name, config, split=split)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SourceError(
            f"the data set {name}{f' ({config})' if config else ''} cannot be loaded ({reason.rstrip('.')})",
            remedy="give a local folder or file, or a hub name where the hub can be reached",
        ) from error


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix in FORMATS)


def _pair(row: Sequence[Any], position: int, name: str) -> dict[str, str]:
    if len(row) != 2 or not all(isinstance(part, str) for part in row):
        raise SchemaMismatch(f"row {position} of {name} is no (prompt, response)", remedy="give two texts a row")
    return {"id": str(position), "prompt": row[0], "response": row[1]}


def _keys(rows: Sequence[Mapping[str, Any]], name: str) -> tuple[str, ...]:
    """The keys of the text, or of prompt and response."""
    there = set(rows[0])
    for key in TEXT_NAMES:
        if key in there:
            return (key,)
    for pair in PAIR_NAMES:
        if there.issuperset(pair):
            return pair
    half = next((p for p in PAIR_NAMES if there & set(p)), None)
    if half:
        lacking = sorted(set(half) - there)[0]
        raise SchemaMismatch(
            f"rows of {name} have no {lacking}", remedy=f"add it beside {sorted(there & set(half))[0]}, or give text="
        )
    raise UnknownName(
        f"{name} has no text (columns: {listed(map(str, rows[0]))})", remedy="give text=, or prompt= and response="
    )


def _ids(rows: Sequence[Mapping[str, Any]], key: str | None, name: str) -> list[str]:
    key = key or next((k for k in ID_NAMES if k in rows[0]), None)
    if key is None:
        return [str(i) for i in range(len(rows))]
    missing = [i for i, row in enumerate(rows) if row.get(key) is None]
    if missing:
        raise SchemaMismatch(
            f"{len(missing):,} rows of {name} have no {key} (rows {name_some(missing)})", column=key, ids=missing
        )
    ids = [str(row[key]) for row in rows]
    seen: set[str] = set()
    twice = list(dict.fromkeys(i for i in ids if i in seen or seen.add(i)))  # type: ignore[func-returns-value]
    if twice:
        raise DuplicateId(f"ids of {name} occur twice ({name_some(twice)})", remedy="make them unique", column=key, ids=twice)
    return ids


def _cells(rows: Sequence[Mapping[str, Any]], keys: Sequence[str], ids: Sequence[str], name: str) -> list[tuple[str, ...]]:
    for key in keys:
        bad = [i for i, row in zip(ids, rows, strict=True) if not isinstance(row.get(key), str)]
        if bad:
            raise SchemaMismatch(
                f"{len(bad):,} rows of {name} have no text under {key} ({name_some(bad)})", column=key, ids=bad
            )
    return [tuple(row[key] for key in keys) for row in rows]
