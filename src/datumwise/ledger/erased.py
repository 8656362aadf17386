"""Is anything left of an id: in a column, in a fact, in a file of any kind?"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from datumwise.ledger.provenance import KEY

__all__ = ["Traces", "mentions", "search_files", "stray_files", "told_in_header", "without"]

TELLING = 6  # characters from which on an id can be told from chance in raw bytes or in free text
BATCH = 8192  # rows decoded at a time
PURGED = "(purged)"


@dataclass
class Traces:
    """What a search of files met.

    Parameters
    ----------
    files : int
        Files decoded, or searched as they are.
    found : list of str
        Places that hold an id.
    mentions : dict of str to int
        Values of the user's own columns that equal an id of another, purged datapoint.
    """

    files: int = 0
    found: list[str] = field(default_factory=list)
    mentions: dict[str, int] = field(default_factory=dict)


def search_files(folder: Path, ids: Sequence[str], *, skip: Collection[str] = (), given: Collection[str] = ()) -> Traces:
    """Search every file below a folder for ids.

    Lance files are decoded (their text is compressed: searching their bytes proves nothing) and every piece
    of text in every column compared; all other files are searched as bytes, for ids of at least 6 characters.

    Parameters
    ----------
    folder : Path
    ids : sequence of str
    skip : names of files left out
    given : names of columns whose hits are counted as mentions
    """
    traces, counted = Traces(), Counter[str]()
    pattern = _tokens([one for one in ids if len(one) >= TELLING])
    for file in sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in skip):
        traces.files += 1
        if file.suffix == ".lance":
            if told_in_header(file, ids):
                traces.found.append(f"the header of {file.name}")
            hits = Counter[str](_hits(file, ids))
            counted.update({name: n for name, n in hits.items() if name in given})
            traces.found += [f"column '{name}' of {file.name}" for name in hits if name not in given]
        elif pattern is not None and pattern.search(file.read_bytes()):
            traces.found.append(file.name)
    traces.mentions = dict(counted)
    return traces


def stray_files(ds: Any, folder: Path) -> list[Path]:
    """Files of the data set that no version refers to, and that are not the store's own."""
    tracked = {folder / path for path in ds.tracked_files().read_all()["path"].to_pylist()}
    own = {folder / "_versions" / "latest_version_hint.json"}
    return sorted(
        file
        for file in folder.rglob("*")
        if file.is_file()
        and file not in tracked | own
        and file.relative_to(folder).parts[0] not in ("_refs", "tree")  # tags and branches
    )


def mentions(column: pa.Array, ids: Sequence[str], *, inside_text: bool = False) -> np.ndarray:
    """Which values name an id: equal it, hold it in a list or record, or (`inside_text`) quote it as a word.

    Returns
    -------
    bool (n,)
    """
    kind = column.type
    if pat.is_dictionary(kind):
        return mentions(column.dictionary_decode(), ids, inside_text=inside_text)
    if pat.is_list(kind) or pat.is_large_list(kind) or pat.is_fixed_size_list(kind):
        named = np.zeros(len(column), bool)
        parents = pc.list_parent_indices(column).to_numpy(zero_copy_only=False)
        named[parents[mentions(pc.list_flatten(column), ids, inside_text=inside_text)]] = True
        return named
    if pat.is_struct(kind):
        members = [mentions(member, ids, inside_text=inside_text) for member in column.flatten()]
        return np.logical_or.reduce(members) if members else np.zeros(len(column), bool)
    if pat.is_integer(kind):
        column = column.cast(pa.string())
    elif not (pat.is_string(kind) or pat.is_large_string(kind)):
        return np.zeros(len(column), bool)
    named = _mask(pc.is_in(column, value_set=pa.array(ids, column.type)))
    if inside_text:
        for one in ids:
            word = _tokens([one])
            for i in np.flatnonzero(_mask(pc.match_substring(column, one)) & ~named):
                named[i] = word is not None and word.search(column[int(i)].as_py().encode()) is not None
    return named


def without(value: Any, ids: Sequence[str]) -> Any:
    """A JSON value without the ids: items and keys that equal one go, words that are one are struck out.

    Ids of less than 6 characters are only taken out of lists that name datapoints (``unreadable``), for
    elsewhere they cannot be told from other words.
    """
    telling = {one for one in ids if len(one) >= TELLING}
    return _struck(value, telling, set(ids), _tokens(sorted(telling)))


def told_in_header(file: Path, ids: Sequence[str]) -> bool:
    """Whether the facts or the provenance that a Lance file repeats in its header name an id."""
    from lance.file import LanceFileReader

    schema = LanceFileReader(str(file)).metadata().schema
    told = [(part.metadata or {}).get(KEY) for part in (schema, *schema)]
    facts = [json.loads(text) for text in told if text]
    return without(facts, ids) != facts


def _struck(value: Any, telling: set[str], all_ids: set[str], pattern: re.Pattern[bytes] | None) -> Any:
    if isinstance(value, dict):
        return {
            name: _struck(inner, all_ids if name == "unreadable" else telling, all_ids, pattern)
            for name, inner in value.items()
            if name not in telling
        }
    if isinstance(value, list):
        kept = [inner for inner in value if not (isinstance(inner, str) and inner in telling)]
        return [_struck(inner, telling, all_ids, pattern) for inner in kept]
    if isinstance(value, str) and pattern is not None:
        return pattern.sub(PURGED.encode(), value.encode()).decode()
    return value


def _hits(file: Path, ids: Sequence[str]) -> Iterator[str]:
    """Column names of a Lance file, once for each value that equals an id."""
    from lance.file import LanceFileReader

    schema = LanceFileReader(str(file)).metadata().schema
    text = [field.name for field in schema if _has_text(field.type)]
    if text:
        for batch in LanceFileReader(str(file), columns=text).read_all(batch_size=BATCH).to_batches():
            for name in text:
                yield from [name] * int(mentions(batch[name], ids).sum())


def _has_text(kind: pa.DataType) -> bool:
    if pat.is_dictionary(kind) or pat.is_list(kind) or pat.is_large_list(kind) or pat.is_fixed_size_list(kind):
        return _has_text(kind.value_type)
    if pat.is_struct(kind):
        return any(_has_text(child.type) for child in kind)
    return bool(pat.is_string(kind) or pat.is_large_string(kind))


def _tokens(ids: Sequence[str]) -> re.Pattern[bytes] | None:
    """A pattern that finds the ids as whole words in UTF-8 text or in raw bytes."""
    if not ids:
        return None
    words = b"|".join(re.escape(one.encode()) for one in ids)
    return re.compile(rb"(?<![A-Za-z0-9_-])(?:" + words + rb")(?![A-Za-z0-9_-])")


def _mask(values: pa.Array) -> np.ndarray:
    return pc.fill_null(values, False).to_numpy(zero_copy_only=False)
