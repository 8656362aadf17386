"""What a datapoint is called: a given column, or a hash of its content; and who carries a name twice."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from datumwise.errors import DuplicateId, MissingId, name_some

__all__ = [
    "Keys",
    "Repeats",
    "Seen",
    "content_hash",
    "content_ids",
    "find_duplicates",
    "given_ids",
    "id_keys",
    "refuse_duplicates",
]

_NOT_CONTENT = frozenset({"id", "image_path"})  # where a datapoint lies is not what it is


class Keys:
    """A set of 64-bit keys that only grows: 8 bytes a key, in sorted runs that are merged like carries.

    Examples
    --------
    >>> keys = Keys()
    >>> keys.push(np.array([3, 5], np.uint64))
    >>> keys.hold(np.array([4, 5], np.uint64)).tolist()
    [False, True]
    """

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []  # sorted, each at least twice as long as the next

    def hold(self, run: np.ndarray) -> np.ndarray:
        """Which keys are there, bool (n,); run : sorted uint64 (n,)."""
        there = np.zeros(len(run), bool)
        for known in self._runs:
            at = np.minimum(np.searchsorted(known, run), len(known) - 1)
            there |= known[at] == run
        return there

    def push(self, run: np.ndarray) -> None:
        """Add keys; run : sorted uint64 (n,)."""
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(np.concatenate([self._runs.pop(), run]), kind="stable")
        if len(run):
            self._runs.append(run)


class Seen:
    """How often 64-bit keys came before, in a stream; 8 bytes a key.

    Examples
    --------
    >>> seen = Seen()
    >>> seen.add(np.array([3, 5, 3], np.uint64)).tolist()
    [1, 1, 2]
    >>> seen.add(np.array([5, 9], np.uint64)).tolist()
    [2, 1]
    """

    def __init__(self) -> None:
        self._keys = Keys()
        self._repeats: Counter[int] = Counter()  # only of keys that came more than once

    def add(self, keys: np.ndarray) -> np.ndarray:
        """Occurrence number (from 1) of each key, counting all keys added so far; keys : uint64 (n,)."""
        run = np.sort(keys)
        if not (run[1:] == run[:-1]).any() and not self._keys.hold(run).any():
            self._keys.push(run)  # all new, as nearly always
            return np.ones(len(keys), np.int64)
        distinct, inverse, counts = np.unique(keys, return_inverse=True, return_counts=True)
        before = self._keys.hold(distinct).astype(np.int64)
        self._keys.push(distinct[before == 0])
        for at in np.flatnonzero(before):
            before[at] += self._repeats[int(distinct[at])]
        for at in np.flatnonzero((counts > 1) | (before > 0)):
            self._repeats[int(distinct[at])] += int(counts[at]) - int(before[at] == 0)
        order = np.argsort(inverse, kind="stable")  # rows grouped by key, in the order they came
        rank = np.empty(len(keys), np.int64)
        rank[order] = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
        return rank + before[inverse] + 1


class Repeats:
    """Ids that seem to come twice in a stream, told by a 64-bit hash; confirm them before refusing."""

    def __init__(self) -> None:
        self._seen = Seen()
        self.suspects: list[str] = []

    def add(self, ids: pa.Array) -> None:
        """Note the ids, and those of them that seem to have come before."""
        again = self._seen.add(id_keys(ids)) > 1
        if again.any():
            self.suspects += ids.filter(pa.array(again)).to_pylist()


def id_keys(ids: pa.Array) -> np.ndarray:
    """64-bit hash of each id, uint64 (n,); another one in each process, so never to be stored or sent.

    Eight bytes at a time are mixed in (multiply, shift, xor, as in SplitMix64; Steele et al., 2014), all
    rows at once: 30 million a second, three times Python's own hash.

    Parameters
    ----------
    ids : Arrow string array (n,) without nulls
    """
    n = len(ids)
    _, ends, text = ids.buffers()
    if not n or text is None:
        return np.full(n, _SEED, np.uint64)
    offsets = np.frombuffer(ends, np.int32)[ids.offset : ids.offset + n + 1]
    first, last = int(offsets[0]), int(offsets[-1])
    padded = np.zeros(last - first + 8, np.uint8)
    padded[:-8] = np.frombuffer(text, np.uint8)[first:last]
    words = np.ndarray((last - first + 1,), "<u8", padded.data, strides=(1,))  # the 8 bytes from each on
    start, left = (offsets[:-1] - first).astype(np.int64), np.diff(offsets)
    keys = left.astype(np.uint64) * _ODD[0] ^ _SEED
    for k in range(0, int(left.max()), 8):
        if k + 8 <= left.min():
            keys = _mixed(keys ^ words[start + k])
        else:
            rows = np.flatnonzero(left > k)
            keys[rows] = _mixed(keys[rows] ^ (words[start[rows] + k] & _FIRST_BYTES[np.minimum(left[rows] - k, 8)]))
    return keys


_ODD = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)
_SEED = np.uint64(int.from_bytes(os.urandom(8), "little"))
_FIRST_BYTES = np.array([(1 << 8 * k) - 1 for k in range(9)], np.uint64)


def _mixed(keys: np.ndarray) -> np.ndarray:
    """A bijection of 64 bits in which every bit of the result depends on all; works in place."""
    keys ^= keys >> np.uint64(30)
    keys *= _ODD[1]
    keys ^= keys >> np.uint64(27)
    keys *= _ODD[2]
    keys ^= keys >> np.uint64(31)
    return keys


def given_ids(column: pa.Array, name: str, *, first_row: int = 0) -> pa.Array:
    """The values of a given id column as strings.

    Parameters
    ----------
    column : Arrow array (n,)
        Text, whole numbers (also stored as floats) or anything Arrow can print.
    name : str
        For the error sentence.
    first_row : int
        Number of the first row within the source, for the error sentence.

    Raises
    ------
    MissingId
        Null or empty values; the row numbers are named.
    """
    if pat.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pat.is_floating(column.type) and pc.all(pc.equal(pc.floor(column), column)).as_py():
        column = column.cast(pa.int64())
    text = column.cast(pa.string())
    empty = pc.or_kleene(pc.is_null(text), pc.equal(text, ""))
    rows = np.flatnonzero(pc.fill_null(empty, True).to_numpy(zero_copy_only=False)) + first_row
    if len(rows):
        raise MissingId(
            f"column '{name}' has no value in {len(rows):,} row{'s' if len(rows) > 1 else ''} (row {name_some(rows)})",
            remedy="give every row an id, or leave the id column out and ids are made from the content",
            column=name,
            ids=rows.tolist(),
        )
    return text


def content_ids(batch: pa.RecordBatch, seen: Seen) -> pa.Array:
    """Ids made from the content: 16 hex characters; the k-th exact copy (k >= 2) ends in ``-k``.

    The ids of a source do not depend on how it is cut into batches, on the order of its columns, on the
    width of its numbers or on how its text is encoded.
    """
    keys = content_hash(batch)
    occurrence = seen.add(keys)
    return pa.array(
        [f"{key:016x}" if k == 1 else f"{key:016x}-{k}" for key, k in zip(keys.tolist(), occurrence, strict=True)],
        pa.string(),
    )


def content_hash(batch: pa.RecordBatch) -> np.ndarray:
    """64-bit BLAKE2b of the canonical bytes of each row, `id` and `image_path` left out.

    Canonical: columns in the order of their names; whole numbers as int64, fractions as float64 with one
    zero and one NaN, times as microseconds, text as UTF-8 behind its length; nested values as JSON.

    Returns
    -------
    uint64 (n,)
    """
    n = len(batch)
    names = sorted(name for name in batch.schema.names if name not in _NOT_CONTENT)
    fixed: list[np.ndarray] = []  # uint8 (n, width)
    varying: list[tuple[np.ndarray, memoryview]] = []  # offsets int64 (n + 1,), bytes
    kinds = []
    for name in names:
        column = batch.column(name)
        fixed.append(column.is_null().to_numpy(zero_copy_only=False).astype(np.uint8)[:, None])
        kind, values = _canonical(column)
        kinds.append(kind)
        if isinstance(values, np.ndarray):
            fixed.append(np.ascontiguousarray(values).view(np.uint8).reshape(n, -1))
        else:
            varying.append(values)
            fixed.append(np.diff(values[0])[:, None].view(np.uint8))
    base = hashlib.blake2b(json.dumps([names, kinds]).encode(), digest_size=8)
    rows: Any = np.ascontiguousarray(np.hstack(fixed)) if fixed else np.zeros((n, 0), np.uint8)
    digests = bytearray()
    ends = [(offsets.tolist(), text) for offsets, text in varying]
    for i in range(n):
        row = base.copy()
        row.update(rows[i])
        for offsets, text in ends:
            row.update(text[offsets[i] : offsets[i + 1]])
        digests += row.digest()
    return np.frombuffer(bytes(digests), ">u8").astype(np.uint64)


def find_duplicates(ids: pa.Array | pa.ChunkedArray) -> list[str]:
    """The ids that occur more than once, in the order of their first occurrence."""
    if pc.count_distinct(ids).as_py() == len(ids):
        return []
    counted = pc.value_counts(ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids)
    return counted.field("values").filter(pc.greater(counted.field("counts"), 1)).to_pylist()


def refuse_duplicates(ids: list[str], where: str, *, column: str = "id") -> None:
    """Raise if there is any duplicate id.

    Raises
    ------
    DuplicateId
    """
    if ids:
        raise DuplicateId(
            f"{len(ids):,} id{'s occur' if len(ids) > 1 else ' occurs'} twice {where} ({name_some(ids)})",
            remedy="remove the copies, give another id column, or leave the id column out",
            column=column,
            ids=ids,
        )


def _canonical(column: pa.Array) -> tuple[str, Any]:
    """A letter for the kind, and either an array (n, width) or (offsets (n + 1,), bytes)."""
    kind = column.type
    if pat.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if pat.is_boolean(kind):
        return "b", pc.fill_null(column, False).to_numpy(zero_copy_only=False).astype(np.uint8)
    if pat.is_integer(kind):
        return "i", pc.fill_null(column, 0).to_numpy(zero_copy_only=False).astype(np.int64)
    if pat.is_floating(kind):
        return "f", _one_nan(pc.fill_null(column, 0).to_numpy(zero_copy_only=False))
    if pat.is_timestamp(kind) or pat.is_date(kind):
        micros = column.cast(pa.timestamp("us", kind.tz if pat.is_timestamp(kind) else None), safe=False)
        return "t", pc.fill_null(micros.cast(pa.int64()), 0).to_numpy(zero_copy_only=False)
    if pat.is_fixed_size_list(kind) and (pat.is_floating(kind.value_type) or pat.is_integer(kind.value_type)):
        return _canonical_vectors(column)
    if pat.is_string(kind) or pat.is_large_string(kind):
        return "s", _spans(column.cast(pa.large_string()))
    if pat.is_binary(kind) or pat.is_large_binary(kind):
        return "s", _spans(column.cast(pa.large_binary()))
    text = [json.dumps(value, sort_keys=True, default=_readable) for value in column.to_pylist()]
    return "j", _spans(pa.array(text, pa.large_string()))


def _canonical_vectors(column: pa.Array) -> tuple[str, np.ndarray]:
    width = column.type.list_size
    flat = column.values.slice(column.offset * width, len(column) * width)
    letter, values = _canonical(flat)
    values = values.reshape(len(column), width)
    values[column.is_null().to_numpy(zero_copy_only=False)] = 0
    return letter * 2, values


def _one_nan(values: np.ndarray) -> np.ndarray:
    values = values.astype(np.float64) + 0.0  # -0.0 becomes 0.0
    values[np.isnan(values)] = np.nan
    return values


def _spans(column: pa.Array) -> tuple[np.ndarray, memoryview]:
    column = pc.fill_null(column, "" if pat.is_large_string(column.type) else b"")
    _, ends, text = column.buffers()
    offsets = np.frombuffer(ends, np.int64)[column.offset : column.offset + len(column) + 1]
    return offsets, memoryview(text) if text is not None else memoryview(b"")


def _readable(value: Any) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)
