"""Small ledgers and child processes that the tests of this room share."""

from __future__ import annotations

import os
import random
import resource
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datumwise.ledger import Ledger, Provenance, create_ledger, open_ledger

N = 40
MADE = Provenance("el2n", {"folds": 5}, reads=["x"], model="3f2a", seed=0, higher="harder")


def rows(n: int = N, start: int = 0) -> pa.RecordBatch:
    """Datapoints doc0000, doc0001, …, a number, a label and a text each."""
    numbers = np.arange(start, start + n)
    return pa.record_batch(
        {
            "doc": [f"doc{i:04d}" for i in numbers],
            "x": numbers.astype(np.float32),
            "label": [("cat", "dog", "eel")[i % 3] for i in numbers],
            "text": [f"text number {i}" for i in numbers],
        }
    )


def ledger_of(path: Path, n: int = N, *, rows_per_file: int = 10, **options: Any) -> Ledger:
    batch = rows(n)
    return create_ledger(
        path / "pets",
        [batch],
        schema=batch.schema,
        id_column="doc",
        roles={"label": "label", "text": "text"},
        max_rows_per_file=rows_per_file,
        **options,
    )


# ---------------------------------------------------------------- run in processes of their own


def create_slowly(path: Path, started: Any) -> None:
    """Never ends by itself."""
    batch = rows(1000)

    def batches() -> Any:
        yield batch
        started.set()
        signal.pause()

    create_ledger(path, batches(), schema=batch.schema, id_column="doc")


def append_same(path: Path, rounds: int, barrier: Any, won: Any) -> None:
    """Both processes append the same ids at the same time, round after round."""
    from datumwise.errors import DuplicateId

    ledger = open_ledger(path)
    for k in range(rounds):
        barrier.wait()
        try:
            ledger.append(rows(3, start=1000 + 3 * k))
        except DuplicateId:
            continue
        won.put(k)


def delete_and_append(path: Path, first: int, rounds: int) -> None:
    ledger = open_ledger(path)
    for k in range(rounds):
        ledger.append(rows(2, start=first + 2 * k))
        ledger.delete([f"doc{first + 2 * k:04d}"])


def write_at_random(path: Path, seed: int) -> None:
    """Acts until it is killed."""
    rng, ledger, k = random.Random(seed), open_ledger(path), 0
    while True:
        k += 1
        match rng.randrange(5):
            case 0:
                ledger.append(rows(5, start=10_000 + 1000 * seed + 5 * k))
            case 1:
                ledger.write({"s": np.full(len(ledger), float(k))}, provenance=MADE, overwrite=True)
            case 2:
                ledger.delete([str(ledger.ids[rng.randrange(20)])])  # one of the first datapoints
            case 3:
                ledger.compact()
            case 4:
                ledger.set_metadata(step=k)


def purge_and_die(path: Path, ids: list[str], step: int) -> None:
    """Dies as by kill -9 just before a step of the purge (or, past the last, before the proof)."""
    from datumwise.ledger import purge

    def die(job: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    steps = list(purge.STEPS)
    if step < len(steps):
        steps[step] = die
        purge.STEPS = tuple(steps)
    else:
        purge.prove = die  # type: ignore[assignment]
    open_ledger(path).delete(ids, purge=True, yes=True)


def purge_for_long(path: Path, ids: list[str], started: Any) -> None:
    ledger = open_ledger(path)
    started.set()
    ledger.delete(ids, purge=True, yes=True)


def write_on_a_full_disk(path: Path, act: str, said: Any) -> None:
    """No file may grow beyond 64 kB from here on, as on a disk without room."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    ledger = open_ledger(path)
    values = np.random.default_rng(0).normal(size=(len(ledger), 64))
    more = rows(20_000, start=50_000)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, 1 << 16))
    try:
        if act == "write":
            ledger.write({"e": values}, provenance=MADE)
        elif act == "append":
            ledger.append(more)
        elif act == "export":
            ledger.export(path.parent / "copy.jsonl")
        else:
            create_ledger(path.parent / "other", [more], schema=more.schema, id_column="doc")
    except Exception as error:
        said.put((type(error).__name__, str(error)))
    else:
        said.put(("none", ""))


def peak_of_a_scan(path: Path, said: Any) -> None:
    """Peak memory of reading all rows, above what the process had before, in MB."""
    ledger = open_ledger(path)
    for batch in ledger.batches(["e"], batch_size=1024):
        del batch
        break
    before = peak_memory()
    total = sum(float(np.asarray(batch["e"].values).sum()) for batch in ledger.batches(["e"]))
    said.put((peak_memory() - before, total))


def peak_memory() -> float:
    """Of this process, in MB; the resource module would count what its parent used, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def hold_pass(lock: Path, held: Any, done: Any) -> None:
    """Hold a lock, as a running pass or writer does, until told."""
    from datumwise.ledger import writing

    with writing(lock):
        held.set()
        done.wait(120)


def act_once(path: Path, act: tuple[str, Any], started: Any) -> None:
    ledger = open_ledger(path)
    started.set()
    if act[0] == "append":
        ledger.append(rows(3, start=act[1]))
    else:
        ledger.delete([act[1]])
