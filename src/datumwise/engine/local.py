"""The loop of a pass: for fragment in shard, for batch in fragment, ask the function, keep its answer."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from datumwise.errors import DatumwiseError, ModelMismatch, SchemaMismatch, name_some
from datumwise.ledger import open_ledger
from datumwise.ledger.commit import as_array
from datumwise.ledger.journal import Journal

__all__ = ["Task", "Worker", "has_state", "peak_memory", "run_local", "shard_name"]

BUFFER_BYTES = 16 << 20  # answers held in memory before they are written, whatever the time
STATE_SHARE = 40  # a state is written at most every 40 times as long as writing it takes: 2.5 % of the time
STATE = ("state", "load_state", "merge")

State = dict[str, np.ndarray]


class Counter(Protocol):
    """Hears how many rows were done."""

    def add(self, rows: int) -> None: ...


@dataclass(frozen=True)
class Task:
    """All that a worker must know; goes to another process as it is.

    Attributes
    ----------
    path, version
        The ledger, and the version whose rows are read.
    journal : str
        Folder of the journal.
    reads : column names
    fields : pyarrow fields of the answers
    where : condition on rows, or None
    batch_size : int
    shards : fragment ids, shard by shard, in ledger order
    flush_seconds : float
    """

    path: str
    version: int
    journal: str
    reads: tuple[str, ...]
    fields: tuple[pa.Field, ...]
    where: str | None
    batch_size: int
    shards: tuple[tuple[int, ...], ...]
    flush_seconds: float


def run_local(task: Task, fn: Callable[..., Any], progress: Counter, num_actors: None = None) -> tuple[int, int]:
    """Work through all shards in this process.

    Returns
    -------
    rows, peak_memory : int, int
        Rows computed, and 0 (this process's memory is known to the caller).
    """
    worker = Worker(task, fn)
    rows = 0
    for number in range(len(task.shards)):
        rows += worker.shard(number, progress)
        worker.fold(shard_name(number))
    worker.finish()
    return rows, 0


def has_state(fn: Callable[..., Any]) -> bool:
    """Whether a function of a pass, or what a factory makes, sums something up."""
    return bool(getattr(fn, "stateful", False)) or all(callable(getattr(fn, name, None)) for name in STATE)


def shard_name(number: int) -> str:
    return f"{number:06d}"


def peak_memory() -> int:
    """Largest resident memory of this process so far, bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Worker:
    """One process's share of a pass.

    Parameters
    ----------
    task : Task
    fn : callable
        See :func:`datumwise.engine.run_pass`.
    apart : bool
        Other workers are at work too: what a shard gave is on disk when :meth:`shard` returns.
    """

    def __init__(self, task: Task, fn: Callable[..., Any], *, apart: bool = False) -> None:
        self.task = task
        self.ledger = open_ledger(task.path, version=task.version)
        self.journal = Journal(task.journal, clean=False)
        made: Any = fn() if getattr(fn, "per_worker", False) else fn
        self.fn = made
        self.stateful = has_state(self.fn)
        if self.stateful and not has_state(fn):
            raise ModelMismatch("the function has a state and its factory does not say so", remedy="set stateful = True")
        self.born = _copied(self.fn.state()) if self.stateful else {}
        self.apart = apart
        self._answers: list[pa.RecordBatch] = []
        self._row_ids: list[np.ndarray] = []
        self._bytes = 0
        self._flushed = time.monotonic()
        self._unlisted = False  # there are parts that the saved state does not list
        self._state_seconds = 0.0  # what writing the state took last time

    def shard(self, number: int, progress: Counter | None = None) -> int:
        """Compute what a shard lacks; returns how many rows. May be called again after a kill."""
        name = shard_name(number) if self.stateful or self.apart else ""
        self.journal.refresh()
        if name:
            self.journal.clean(name)
        if self.stateful:
            saved = self.journal.state(name)
            self.fn.load_state(_copied(self.born if saved is None else saved))
        rows = 0
        try:
            for fragment in self.task.shards[number]:
                for row_ids, batch in self._batches(fragment):
                    self._answer(row_ids, batch)
                    rows += batch.num_rows
                    if self._due():
                        self._flush(name, whole=not self.stateful or self._time_is_up())
                    if progress is not None:
                        progress.add(batch.num_rows)
        except BaseException:  # interrupted, or fn failed: keep what is computed
            if not self.stateful:  # a state may be half changed: its last saved one stands
                with contextlib.suppress(DatumwiseError):
                    self._flush(name)
            raise
        if self.apart or (self.stateful and rows):
            self._flush(name)
        return rows

    def fold(self, name: str) -> None:
        """Merge the state of a finished shard into the pass's. May be called again after a kill."""
        if not self.stateful:
            return
        self.journal.refresh()
        self.journal.clean(name)
        self.journal.fold(name, self._merged)

    def _merged(self, total: State, part: State) -> State:
        self.fn.load_state(total)
        self.fn.merge(part)
        return _copied(self.fn.state())

    def finish(self) -> None:
        """Write what is in memory, fold what an earlier run left, put the pass's state into the function."""
        self._flush("")
        for name in self.journal.shards():  # the ledger had more shards then
            self.fold(name)
        if self.stateful:
            total = self.journal.state()
            self.fn.load_state(_copied(self.born) if total is None else total)

    # ------------------------------------------------------------ in

    def _batches(self, fragment: int) -> Iterator[tuple[np.ndarray, pa.RecordBatch]]:
        """Batches of the rows of a fragment that are not done, of ``batch_size`` rows but for the last."""
        scan = self.ledger.batches(
            list(self.task.reads),
            where=self.task.where,
            batch_size=self.task.batch_size,
            with_row_id=True,
            fragment=fragment,
        )
        size, rows = self.task.batch_size, 0
        held: list[pa.RecordBatch] = []
        for batch in scan:
            done = self.journal.covers(batch["_rowid"].to_numpy())
            if done.any():
                batch = batch.filter(pa.array(~done))
            if not batch.num_rows:
                continue
            held.append(batch)
            rows += batch.num_rows
            if rows >= size:
                whole = held[0] if len(held) == 1 else pa.concat_batches(held)
                yield self._split(whole if rows == size else whole.take(pa.array(np.arange(size))))
                held = [whole.take(pa.array(np.arange(size, rows)))] if rows > size else []
                rows -= size
        if held:
            yield self._split(held[0] if len(held) == 1 else pa.concat_batches(held))

    def _split(self, batch: pa.RecordBatch) -> tuple[np.ndarray, pa.RecordBatch]:
        return batch["_rowid"].to_numpy(), batch.select(list(self.task.reads))

    # ------------------------------------------------------------ ask

    def _answer(self, row_ids: np.ndarray, batch: pa.RecordBatch) -> None:
        try:
            answer = self.fn(batch)
            columns = [self._column(answer, field, batch.num_rows) for field in self.task.fields]
        except Exception as e:
            raise self._failure(e, row_ids) from e
        if columns:
            kept = pa.RecordBatch.from_arrays(columns, names=[f.name for f in self.task.fields])
            self._answers.append(kept)
            self._bytes += kept.nbytes
        self._row_ids.append(row_ids)

    def _column(self, answer: Any, field: pa.Field, rows: int) -> pa.Array:
        if not isinstance(answer, dict) or field.name not in answer:
            raise SchemaMismatch(f"its answer has no {field.name}", column=field.name)
        values = answer[field.name]
        if isinstance(values, np.ndarray):
            values = values.copy()  # the function may use its buffers again
        array = as_array(values, field.type, field.name)
        if len(array) != rows:
            raise SchemaMismatch(f"{len(array):,} values of {field.name} for {rows:,} rows", column=field.name)
        return array

    def _failure(self, error: Exception, row_ids: np.ndarray) -> DatumwiseError:
        wanted = np.sort(row_ids)
        ids: dict[int, str] = {}
        for batch in self.ledger.batches(["id"], batch_size=65_536, with_row_id=True):
            k = batch["_rowid"].to_numpy()
            hit = np.flatnonzero(np.isin(k, wanted))
            ids.update(zip(k[hit].tolist(), batch["id"].take(hit).to_pylist(), strict=True))
        names = [ids[int(k)] for k in row_ids]
        said = str(error) if isinstance(error, DatumwiseError) else f"{type(error).__name__}: {error}"
        return ModelMismatch(f"the pass failed on the batch of {name_some(names)}: {said}", ids=names)

    # ------------------------------------------------------------ out

    def _due(self) -> bool:
        return self._bytes >= BUFFER_BYTES or self._time_is_up()

    def _time_is_up(self) -> bool:
        wait = max(self.task.flush_seconds, STATE_SHARE * self._state_seconds)
        return time.monotonic() - self._flushed >= wait

    def _flush(self, name: str, *, whole: bool = True) -> None:
        """Write the answers as a part, and (``whole``) the state that has them in it."""
        if self._row_ids:
            answers = pa.concat_batches(self._answers) if self._answers else None
            columns = {} if answers is None else {n: answers[n] for n in answers.schema.names}
            self.journal.write(np.concatenate(self._row_ids), columns, shard=name, stateful=self.stateful)
            self._answers, self._row_ids, self._bytes = [], [], 0
            self._unlisted = self.stateful
        if whole and self._unlisted:
            began = time.monotonic()
            self.journal.save_state(self.fn.state(), name)
            self._state_seconds = time.monotonic() - began
            self._unlisted = False
        if whole:
            self._flushed = time.monotonic()


def _copied(state: State) -> State:
    return {name: np.array(values) for name, values in state.items()}
