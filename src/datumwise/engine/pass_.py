"""One pass of a function over a ledger: computed into a journal, committed at the end, resumed if killed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from datumwise._version import __version__
from datumwise.engine.local import Task, has_state, peak_memory, run_local
from datumwise.errors import ColumnExists, LedgerBusy, SchemaMismatch, UnknownColumn, UnknownName, name_some
from datumwise.ledger import Ledger, Provenance, open_ledger
from datumwise.ledger.commit import translated, writing
from datumwise.ledger.journal import Journal
from datumwise.ledger.provenance import KEY, of_field, with_provenance
from datumwise.ledger.read import quoted

__all__ = ["Pass", "pass_key", "run_pass"]

SHARDS = 32  # small fragments are worked on together, in about this many shards
SHARD_ROWS = 65_536  # and a shard of several fragments has at most some more rows than this
SCAN_ROWS = 65_536  # rows a batch where only row ids are read


@dataclass(frozen=True)
class Pass:
    """What a pass did.

    Attributes
    ----------
    rows : int
        Rows computed now.
    resumed_rows : int
        Rows taken over from a run that was stopped.
    seconds : float
        Wall-clock time, commit included.
    version : int
        Version of the ledger after the commit.
    state : dict of arrays or None
        What the pass summed up, if its function has a state.
    peak_memory : int
        Largest resident memory of a process of this pass so far, bytes.
    """

    rows: int
    resumed_rows: int
    seconds: float
    version: int
    state: dict[str, np.ndarray] | None = field(default=None, repr=False)
    peak_memory: int = 0

    def __str__(self) -> str:
        taken = f", {self.resumed_rows:,} taken over from the run before" if self.resumed_rows else ""
        return f"{self.rows:,} rows in {self.seconds:.1f} s{taken}; ledger at version {self.version}"


def run_pass(
    ledger: Ledger,
    fn: Callable[..., Any],
    *,
    reads: Sequence[str],
    writes: Sequence[pa.Field],
    provenance: Mapping[str, Provenance],
    where: str | None = None,
    batch_size: int = 1024,
    engine: str = "local",
    key_extra: str = "",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    num_actors: int | None = None,
    flush_seconds: float = 1.0,
) -> Pass:
    """Ask ``fn`` about every datapoint and put its answers on the ledger as columns, in one commit.

    Killed at any moment, the next call with the same arguments goes on where it stopped. While it runs nobody
    waits for it: rows may be appended and deleted, other columns added. Rows appended after it began are null
    in the new columns; calling it again computes just those.

    Parameters
    ----------
    ledger : Ledger
    fn : callable
        ``fn(batch: pyarrow.RecordBatch of m rows) -> dict``: one array (m,) or (m, d) a field of ``writes``.
        With the attribute ``per_worker = True`` it is called without arguments, once a worker, and returns
        that function (a factory that is no class says ``stateful = True`` if what it makes has a state). If
        the function has ``state() -> dict of arrays``, ``load_state(dict)`` and
        ``merge(dict)``, what it sums up is kept in the journal and returned: a shard begins with the state
        that the function was born with, and shards are merged in ledger order.
    reads : sequence of str
        Columns in the batches.
    writes : sequence of pyarrow.Field
        The new columns; may be empty for a function with a state.
    provenance : mapping of str to Provenance
        By field name. What is not the name of a field is part of the journal's key only.
    where : str, optional
        Only the rows that this condition picks; the others stay as they are, or null.
    batch_size : int
        Rows a batch. A batch never crosses a fragment.
    engine : {"local", "ray"}
        Both give the same bits (as long as the function does with as many threads).
    key_extra : str
        Whatever else decides the values and is not in the provenance.
    overwrite : bool
        Compute all rows anew, also where the columns are there already.
    progress : callable, optional
        ``progress(rows done, rows in all)``.
    num_actors : int, optional
        Workers of the Ray engine; default: as many as there are CPUs, at most one a shard.
    flush_seconds : float
        What is computed is on disk after about this many seconds; a state that takes long to write is
        written more rarely, so that it costs less than 3 % of the time.

    Returns
    -------
    Pass

    Raises
    ------
    ColumnExists
        If a column is there, made another way, and ``overwrite`` is False.
    LedgerBusy
        If another process runs this very pass.
    ModelMismatch
        If the function fails, or answers in another shape; names the ids of the batch.
    UnknownColumn, SchemaMismatch, MissingExtra
    """
    began = time.monotonic()
    ledger.refresh()
    _refuse_bad_request(ledger, reads, writes, provenance, batch_size, engine, key_extra)
    key = pass_key(ledger, reads=reads, writes=writes, provenance=provenance, where=where, key_extra=key_extra)
    there, _ = _standing(ledger, writes, provenance, overwrite)
    summing = has_state(fn)
    only_missing = bool(writes) and len(there) == len(writes) and not (overwrite or summing)
    chosen = _both(where, _any_null(there) if only_missing else None)
    with _alone(ledger, key) as journal:
        if summing:
            _forget_what_left(ledger, chosen, journal)
        total, resumed = _count(ledger, chosen, journal)
        task = Task(
            path=str(ledger.path),
            version=ledger.version,
            journal=str(journal.path),
            reads=tuple(reads),
            fields=tuple(writes),
            where=chosen,
            batch_size=batch_size,
            shards=_shards(ledger, batch_size),
            flush_seconds=flush_seconds,
        )
        rows, peak = 0, 0
        if total > resumed or summing:
            rows, peak = _engine(engine)(task, fn, _Progress(progress, resumed, total), num_actors)
        journal.refresh()
        state = journal.state()
        version = _commit(ledger, journal, writes, provenance, overwrite)
        journal.drop()
    seconds = time.monotonic() - began
    return Pass(rows, resumed, seconds, version, state, max(peak, peak_memory()))


def pass_key(
    ledger: Ledger,
    *,
    reads: Sequence[str],
    writes: Sequence[pa.Field],
    provenance: Mapping[str, Provenance],
    where: str | None = None,
    key_extra: str = "",
) -> str:
    """Name of a pass's journal: passes that could give a row another value never share one.

    It is the hash of method, parameters, model fingerprint and seed of each provenance, of what is read (and
    of how a finding that is read was made), what is written, the condition, this package's version and
    ``key_extra``.

    Returns
    -------
    str
        32 hexadecimal digits.
    """
    made_by = {n: [p.method, p.params, p.model, p.seed] for n, p in provenance.items()}
    found = {n: (ledger.schema.field(n).metadata or {}).get(KEY, b"").decode() for n in reads}
    facts = [made_by, found, [(f.name, str(f.type)) for f in writes], where, __version__, key_extra]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=repr).encode()).hexdigest()[:32]


# ---------------------------------------------------------------- at the door


def _refuse_bad_request(
    ledger: Ledger,
    reads: Sequence[str],
    writes: Sequence[pa.Field],
    provenance: Mapping[str, Provenance],
    batch_size: int,
    engine: str,
    key_extra: str,
) -> None:
    unknown = [name for name in reads if name not in ledger.schema.names]
    if unknown:
        raise UnknownColumn(
            f"there is no column {name_some(unknown)} to read",
            remedy=f"columns are {name_some(ledger.schema.names, shown=8)}",
            column=unknown[0],
        )
    names = [f.name for f in writes]
    if not reads:
        raise SchemaMismatch("a pass needs a column to read", remedy="reads=['id'] will do")
    if len(set(names)) < len(names) or "id" in names:
        raise SchemaMismatch(f"a pass cannot write these columns: {name_some(names, shown=8)}")
    unexplained = [name for name in names if name not in provenance]
    if unexplained or not (provenance or key_extra):
        raise SchemaMismatch(
            f"nothing says where the values of {name_some(unexplained) or 'this pass'} come from",
            remedy="give a Provenance for each column",
        )
    if batch_size < 1:
        raise SchemaMismatch(f"batch_size is {batch_size}", remedy="it must be 1 or more")
    _engine(engine)


def _engine(name: str) -> Callable[..., tuple[int, int]]:
    if name == "local":
        return run_local
    if name == "ray":
        from datumwise.engine.ray import run_ray

        return run_ray
    raise UnknownName(f"there is no engine {name!r}", remedy="engines are 'local' and 'ray'")


def _standing(
    ledger: Ledger, writes: Sequence[pa.Field], provenance: Mapping[str, Provenance], overwrite: bool
) -> tuple[list[str], bool]:
    """Which of the columns are there, and whether one was made another way (then all are replaced)."""
    there = [f for f in writes if f.name in ledger.schema.names]
    stale = False
    for wanted in there:
        standing = ledger.schema.field(wanted.name)
        made_by = of_field(standing)
        if made_by is None:
            raise ColumnExists(
                f"column {wanted.name} came with the data and is not overwritten",
                remedy="write under another name",
                column=wanted.name,
            )
        if made_by.agrees(provenance[wanted.name]) and standing.type == wanted.type:
            continue
        stale = True
        if not overwrite:
            raise ColumnExists(
                f"column {wanted.name} is there already, made by {made_by.method} "
                f"with other parameters, model or seed ({made_by.time or 'time unknown'})",
                remedy="pass overwrite=True, or write under another name",
                column=wanted.name,
            )
    return [f.name for f in there], stale


def _any_null(names: Sequence[str]) -> str:
    return " OR ".join(f"{quoted(name)} IS NULL" for name in names)


def _both(*conditions: str | None) -> str | None:
    given = [f"({c})" for c in conditions if c]
    return " AND ".join(given) or None


# ---------------------------------------------------------------- the plan


@contextlib.contextmanager
def _alone(ledger: Ledger, key: str) -> Iterator[Journal]:
    """The pass's journal, held by this run alone and rid of what a killed run left half done."""
    path = ledger.path / "journal" / key
    with translated(ledger.path / "data.lance"):
        path.mkdir(parents=True, exist_ok=True)
    try:
        held = contextlib.ExitStack()
        held.enter_context(writing(path / "owner", timeout=0))
    except LedgerBusy as e:
        raise LedgerBusy(
            "another process runs this very pass",
            remedy="wait for it, or end it: this one then goes on from there",
        ) from e
    with held:
        journal = Journal(path)
        try:
            yield journal
        finally:
            journal.refresh()
            if not journal.parts:
                journal.drop()


def _shards(ledger: Ledger, batch_size: int) -> tuple[tuple[int, ...], ...]:
    """Fragments, in order, small ones taken together; the same for every engine and number of workers."""
    rows = [sum(b.num_rows for b in _row_ids(ledger, None, f)) for f in ledger.fragments]
    enough = min(SHARD_ROWS, max(batch_size, sum(rows) // SHARDS))
    shards: list[tuple[int, ...]] = []
    open_, held = [], 0
    for fragment, n in zip(ledger.fragments, rows, strict=True):
        open_.append(fragment)
        held += n
        if held >= enough:
            shards.append(tuple(open_))
            open_, held = [], 0
    return (*shards, tuple(open_)) if open_ else tuple(shards)


def _row_ids(ledger: Ledger, where: str | None, fragment: int | None = None) -> Iterator[pa.RecordBatch]:
    return ledger.batches([], where=where, batch_size=SCAN_ROWS, with_row_id=True, fragment=fragment)


def _count(ledger: Ledger, where: str | None, journal: Journal) -> tuple[int, int]:
    """Rows the pass is about, and how many of them the journal has."""
    if not journal.num_rows:
        return ledger.count(where), 0
    total = done = 0
    for batch in _row_ids(ledger, where):
        total += batch.num_rows
        done += int(journal.covers(batch["_rowid"].to_numpy()).sum())
    return total, done


def _forget_what_left(ledger: Ledger, where: str | None, journal: Journal) -> None:
    """Rows deleted since are in the state's sums: drop those, so that their other rows are summed again."""
    _, done = _count(ledger, where, journal)
    if done < journal.num_rows:
        here = [b["_rowid"].to_numpy() for b in _row_ids(ledger, where)]
        journal.drop_rows(np.setdiff1d(journal.done_row_ids(), np.concatenate([np.empty(0, np.uint64), *here])))


class _Progress:
    """Counts rows and tells the caller."""

    def __init__(self, tell: Callable[[int, int], None] | None, done: int, total: int) -> None:
        self._tell, self.done, self.total = tell, done, total
        self.to(done)

    def add(self, rows: int) -> None:
        self.to(self.done + rows)

    def to(self, done: int) -> None:
        self.done = min(done, self.total)
        if self._tell is not None:
            self._tell(self.done, self.total)


# ---------------------------------------------------------------- the end


def _commit(
    ledger: Ledger,
    journal: Journal,
    writes: Sequence[pa.Field],
    provenance: Mapping[str, Provenance],
    overwrite: bool,
) -> int:
    if not writes:
        return ledger.version
    fields = [with_provenance(f, provenance[f.name].stamped(ledger.version)) for f in writes]
    with writing(ledger.path):
        latest = open_ledger(ledger.path)
        there, _ = _standing(latest, writes, provenance, overwrite)  # again: somebody may have been quicker
        version = latest.version
        if journal.num_rows or len(there) < len(writes):
            version = latest.commit_journal(journal, fields)
    ledger.refresh()
    return version
