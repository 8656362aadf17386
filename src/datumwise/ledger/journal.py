"""What a pass has computed and not yet committed: parts on disk, keyed by row id, whole or not there at all.

``NAME.ledger/journal/<key>/`` holds one Arrow IPC file a part, whose name says how many rows it has and the
range of their row ids; and for a pass that also sums something up (``state``) one safetensors file a shard,
which lists the parts it covers and is replaced after they are on disk.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datumwise.errors import LedgerBusy
from datumwise.ledger.commit import as_array, take_or_null, translated, writing

__all__ = ["Journal", "Part", "forget_rows"]

ROW_ID = "_rowid"
OPEN_PARTS = 2  # parts kept mapped into memory at a time
PART = re.compile(
    r"(?P<shard>[\w]*)-(?P<number>\d+)-(?P<rows>\d+)-(?P<first>[0-9a-f]+)-(?P<last>[0-9a-f]+)-(?P<kind>[rs])-\w+\.arrow"
)

State = dict[str, np.ndarray]


@dataclass(frozen=True)
class Part:
    """One file: ``rows`` rows whose row ids lie in ``first..last``."""

    path: Path
    shard: str
    number: int
    rows: int
    first: int
    last: int
    stateful: bool

    @classmethod
    def parse(cls, path: Path) -> Part | None:
        """The part that a file name speaks of, or None."""
        m = PART.fullmatch(path.name)
        if m is None:
            return None
        first, last = int(m["first"], 16), int(m["last"], 16)
        return cls(path, m["shard"], int(m["number"]), int(m["rows"]), first, last, m["kind"] == "s")


class Journal:
    """Parts of a pass, and the state that goes with them.

    Parameters
    ----------
    path : path-like
        The folder; made when the first part is written.
    clean : bool
        Remove what a killed writer left: temporary files, and parts that belong to a state which does not
        list them (their rows are computed again: none is skipped, none is counted twice). Only the owner of
        a pass may do so, and each worker for its own shard with :meth:`clean`.

    Examples
    --------
    >>> import tempfile, numpy as np, pyarrow as pa
    >>> journal = Journal(tempfile.mkdtemp() + "/pass")
    >>> _ = journal.write(np.array([7, 3], np.uint64), {"loss": np.array([0.7, 0.3])})
    >>> journal.done_row_ids()
    array([3, 7], dtype=uint64)
    >>> journal.covers(np.array([3, 4], np.uint64))
    array([ True, False])
    >>> journal.drop()
    """

    def __init__(self, path: str | os.PathLike[str], *, clean: bool = True) -> None:
        self.path = Path(path)
        self._opened: OrderedDict[Path, tuple[np.ndarray, pa.RecordBatch]] = OrderedDict()
        self._unsynced: dict[str, list[Path]] = {}
        self.parts: list[Part] = []
        self.refresh()
        if clean:
            for shard in {p.shard for p in self.parts} | set(self.shards()) | {""}:
                self.clean(shard)
            for stray in self._files(".tmp"):
                stray.unlink(missing_ok=True)

    # ------------------------------------------------------------ write

    def write(
        self,
        row_ids: np.ndarray,
        columns: Mapping[str, pa.Array | np.ndarray],
        state: Mapping[str, np.ndarray] | None = None,
        *,
        shard: str = "",
        stateful: bool | None = None,
    ) -> Part | None:
        """Write one part, whole and on disk when this returns; then the state that covers it.

        Parameters
        ----------
        row_ids : uint64 array (m,)
            In any order, each once.
        columns : mapping of arrays (m,) or (m, d)
        state : mapping of arrays, optional
            The shard's state with these rows in it; replaces the former one.
        shard : str
            Letters and digits. One writer a shard at a time.
        stateful : bool, optional
            The part counts only once :meth:`save_state` lists it (and is only then forced to disk); default:
            whether a state is given.

        Returns
        -------
        Part or None
            None if there was no row.
        """
        row_ids = np.asarray(row_ids, np.uint64)
        stateful = state is not None if stateful is None else stateful
        part = self._write_part(row_ids, columns, shard, stateful) if len(row_ids) else None
        if state is not None:
            self.save_state(state, shard)
        return part

    def _write_part(self, row_ids: np.ndarray, columns: Mapping[str, Any], shard: str, stateful: bool) -> Part:
        arrays = {k: as_array(v, v.type) if hasattr(v, "type") else _from_numpy(v) for k, v in columns.items()}
        table = pa.RecordBatch.from_pydict({ROW_ID: pa.array(row_ids), **arrays})
        if not (row_ids[1:] > row_ids[:-1]).all():
            order = np.argsort(row_ids, kind="stable")
            row_ids, table = row_ids[order], table.take(pa.array(order))
        number = 1 + max((p.number for p in self.parts if p.shard == shard), default=-1)
        span = f"{int(row_ids[0]):x}-{int(row_ids[-1]):x}"
        kind = "s" if stateful else "r"
        name = f"{shard}-{number:06d}-{len(row_ids)}-{span}-{kind}-{secrets.token_hex(4)}.arrow"
        target, temporary = self.path / name, self.path / (name + ".tmp")
        with translated(self.path.parent / "data.lance"):
            self.path.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as sink:
                with pa.ipc.new_file(sink, table.schema) as writer:
                    writer.write_batch(table)
                if not stateful:
                    _sync(sink.fileno())
            os.replace(temporary, target)
            if stateful:
                self._unsynced.setdefault(shard, []).append(target)
            else:
                _sync_folder(self.path)
        part = Part(target, shard, number, len(row_ids), int(row_ids[0]), int(row_ids[-1]), stateful)
        self.parts.append(part)
        self._index()
        return part

    def save_state(self, state: Mapping[str, np.ndarray], shard: str = "") -> None:
        """Replace the shard's state by one that covers every part of the shard written so far.

        The parts are on disk before the state that lists them is.
        """
        listed = {p.path.name for p in self.parts if p.shard == shard} | set(self.listed(shard))
        if shard:
            listed -= set(self.listed(""))  # folded already
        self._save(state, sorted(listed), shard)

    def _save(self, state: Mapping[str, np.ndarray], listed: Sequence[str], shard: str) -> None:
        from safetensors.numpy import save_file

        with translated(self.path.parent / "data.lance"):
            self.path.mkdir(parents=True, exist_ok=True)
            for path in self._unsynced.pop(shard, []):
                with open(path, "rb+") as written:
                    _sync(written.fileno())
            target = self._state_path(shard)
            temporary = target.with_suffix(f".{secrets.token_hex(4)}.tmp")
            whole = {k: np.array(v, order="C") for k, v in state.items()}
            save_file(whole, temporary, metadata={"parts": json.dumps(list(listed))})
            with open(temporary, "rb+") as written:
                _sync(written.fileno())
            os.replace(temporary, target)
            _sync_folder(self.path)

    def fold(self, shard: str, merge: Callable[[State, State], State]) -> bool:
        """Merge a finished shard's state into the whole pass's; a kill at any point counts nothing twice.

        Parameters
        ----------
        shard : str
        merge : callable
            ``merge(total, shard's state) -> new total``; not asked for the first shard.

        Returns
        -------
        bool
            False if the shard had no state (nothing was computed, or it was folded before).
        """
        state = self.state(shard)
        if state is None:
            return False
        if not self._state_path("").exists():
            os.replace(self._state_path(shard), self._state_path(""))
            _sync_folder(self.path)
            return True
        listed = sorted({*self.listed(""), *self.listed(shard)})
        self._save(merge(self.state("") or {}, state), listed, "")
        self._state_path(shard).unlink(missing_ok=True)
        return True

    # ------------------------------------------------------------ read

    def refresh(self) -> None:
        """Look at the folder again: other workers may have written parts."""
        found = (Part.parse(path) for path in self._files(".arrow"))
        self.parts = sorted((p for p in found if p), key=lambda p: (p.shard, p.number, p.path.name))
        self._index()

    @property
    def num_rows(self) -> int:
        """Rows in all parts."""
        return sum(p.rows for p in self.parts)

    def done_row_ids(self) -> np.ndarray:
        """Row ids of all rows in parts, ascending, uint64 (m,)."""
        ids = [self._open(p)[0].copy() for p in self.parts]
        return np.unique(np.concatenate(ids)) if ids else np.empty(0, np.uint64)

    def covers(self, row_ids: np.ndarray) -> np.ndarray:
        """Which of the row ids are in a part, bool (m,); reads only parts whose range meets theirs."""
        done = np.zeros(len(row_ids), bool)
        for part in self._near(row_ids):
            done |= _find(self._open(part)[0], row_ids)[1]
        return done

    def lookup(self, row_ids: np.ndarray, fields: Sequence[pa.Field]) -> pa.RecordBatch:
        """Values of the row ids (m,), in that order, as the fields' types; null where there is none."""
        schema = pa.schema(fields)
        pieces: list[pa.RecordBatch] = []
        at, absent, start = np.zeros(len(row_ids), np.int64), np.ones(len(row_ids), bool), 0
        for part in self._near(row_ids):
            known, batch = self._open(part)
            place, hit = _find(known, row_ids)
            hit &= absent  # the same row twice has the same value: the first part is as good as any
            if not hit.any():
                continue
            low, high = int(place[hit].min()), int(place[hit].max()) + 1
            pieces.append(batch.slice(low, high - low))
            at[hit], absent[hit] = place[hit] - low + start, False
            start += high - low
        if not pieces:
            return pa.RecordBatch.from_arrays([pa.nulls(len(row_ids), f.type) for f in fields], schema=schema)
        columns = [_join([p[f.name] for p in pieces], f) for f in fields]
        return pa.RecordBatch.from_arrays(take_or_null(columns, at, absent), schema=schema)

    def read(self) -> tuple[np.ndarray, pa.Table]:
        """Everything at once: row ids, uint64 (m,), and the values in the same order. For small journals."""
        opened = [self._open(p) for p in self.parts]
        if not opened:
            return np.empty(0, np.uint64), pa.table({})
        row_ids = np.concatenate([ids for ids, _ in opened])
        table = pa.Table.from_batches([batch for _, batch in opened])
        first = np.sort(np.unique(row_ids, return_index=True)[1])
        if len(first) < len(row_ids):
            row_ids, table = row_ids[first], table.take(first)
        return row_ids, table.drop_columns([ROW_ID])

    def state(self, shard: str = "") -> State | None:
        """The state of a shard, or of the whole pass (``""``: what was folded); None if there is none."""
        from safetensors.numpy import load_file

        path = self._state_path(shard)
        return dict(load_file(path)) if path.exists() else None

    def listed(self, shard: str = "") -> list[str]:
        """File names of the parts that the state of a shard covers."""
        path = self._state_path(shard)
        if not path.exists():
            return []
        with open(path, "rb") as source:
            header = json.loads(source.read(int.from_bytes(source.read(8), "little")))
        return list(json.loads(header["__metadata__"]["parts"]))

    def shards(self) -> list[str]:
        """Names of the shards that have a state of their own, in order."""
        return sorted(p.stem.removeprefix("state-") for p in self._files(".safetensors") if "-" in p.stem)

    # ------------------------------------------------------------ drop

    def clean(self, shard: str = "") -> None:
        """Remove a shard's parts that no state lists, and a state that was folded already."""
        total = set(self.listed(""))
        own = self.listed(shard)
        if shard and own and total.issuperset(own):
            self._state_path(shard).unlink(missing_ok=True)
        listed = total.union(own)
        self._remove([p for p in self.parts if p.shard == shard and p.stateful and p.path.name not in listed])

    def drop_rows(self, row_ids: Iterable[int] | np.ndarray) -> int:
        """Remove the rows' values, and every state that has them in it together with the parts it covers.

        A sum cannot be undone, so what it covered is computed again. Returns how many rows left the journal.
        """
        gone = np.unique(np.asarray(list(row_ids) if not isinstance(row_ids, np.ndarray) else row_ids, np.uint64))
        hit = [p for p in self._near(gone) if _find(self._open(p)[0], gone)[1].any()]
        before = self.num_rows
        for part in hit:
            if part.stateful:
                continue
            known, batch = self._open(part)
            stay = ~_find(gone, known)[1]
            rest = batch.filter(pa.array(stay))
            self._remove([part])
            if rest.num_rows:
                values = {n: rest[n] for n in rest.schema.names if n != ROW_ID}
                self._write_part(rest[ROW_ID].to_numpy(), values, part.shard, stateful=False)
        names = {p.path.name for p in hit if p.stateful}
        for shard in [*self.shards(), ""]:
            listed = set(self.listed(shard))
            if listed & names:
                self._state_path(shard).unlink(missing_ok=True)
                names |= listed
        self._remove([p for p in self.parts if p.path.name in names])
        return before - self.num_rows

    def drop(self) -> None:
        """Remove the journal: after its commit, or to begin anew."""
        self._opened.clear()
        self.parts = []
        self._index()
        shutil.rmtree(self.path, ignore_errors=True)

    # ------------------------------------------------------------ inside

    def _files(self, suffix: str) -> list[Path]:
        if not self.path.is_dir():
            return []
        return sorted(p for p in self.path.iterdir() if p.name.endswith(suffix))

    def _state_path(self, shard: str) -> Path:
        return self.path / (f"state-{shard}.safetensors" if shard else "state.safetensors")

    def _index(self) -> None:
        self._first = np.array([p.first for p in self.parts], np.uint64)
        self._last = np.array([p.last for p in self.parts], np.uint64)

    def _near(self, row_ids: np.ndarray) -> list[Part]:
        if not len(row_ids) or not self.parts:
            return []
        meet = (self._first <= row_ids.max()) & (self._last >= row_ids.min())
        return [self.parts[i] for i in np.flatnonzero(meet)]

    def _open(self, part: Part) -> tuple[np.ndarray, pa.RecordBatch]:
        """Row ids and rows of a part, mapped, not read; a few parts at a time."""
        if part.path in self._opened:
            self._opened.move_to_end(part.path)
            return self._opened[part.path]
        with pa.memory_map(str(part.path)) as source:
            batch = pa.ipc.open_file(source).get_batch(0)
        self._opened[part.path] = batch[ROW_ID].to_numpy(), batch
        if len(self._opened) > OPEN_PARTS:
            self._opened.popitem(last=False)
        return batch[ROW_ID].to_numpy(), batch

    def _remove(self, parts: Sequence[Part]) -> None:
        for part in parts:
            self._opened.pop(part.path, None)
            part.path.unlink(missing_ok=True)
        gone = {p.path for p in parts}
        self._unsynced = {s: [p for p in paths if p not in gone] for s, paths in self._unsynced.items()}
        self.parts = [p for p in self.parts if p.path not in gone]
        self._index()


def forget_rows(journals: Path, row_ids: np.ndarray) -> int:
    """Take rows out of the journals of all stopped passes under a folder; returns how many values went.

    A pass that is running reads an older version of the ledger, as its provenance says, and is left alone.
    """
    forgotten = 0
    for path in sorted(journals.iterdir()) if journals.is_dir() else []:
        if not path.is_dir():
            continue
        try:
            with writing(path / "owner", timeout=0):
                forgotten += Journal(path).drop_rows(row_ids)
        except LedgerBusy:
            continue
    return forgotten


def _find(known: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Place of each wanted row id among the known (ascending), and whether it is there at all."""
    if not len(known):
        return np.zeros(len(wanted), np.int64), np.zeros(len(wanted), bool)
    place = np.minimum(np.searchsorted(known, wanted), len(known) - 1)
    return place, known[place] == wanted


def _join(pieces: list[pa.Array], field: pa.Field) -> pa.Array:
    arrays = [as_array(p, field.type, field.name) for p in pieces]
    return arrays[0] if len(arrays) == 1 else pa.concat_arrays(arrays)


def _from_numpy(values: Any) -> pa.Array:
    values = np.asarray(values)
    if values.ndim == 2:
        kind = pa.list_(pa.from_numpy_dtype(values.dtype), values.shape[1])
        return as_array(values, kind)
    return pa.array(values)


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
