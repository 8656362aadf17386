"""What a pass costs beside the model: time over a bare loop, its commit, its memory.

    python benchmarks/engine.py

Goals: overhead of a local pass at most 3 % (journal included), commit of a journal of a million rows at most
0.3 s, memory that does not grow with the rows.
"""

from __future__ import annotations

import itertools
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datumwise.engine import run_pass
from datumwise.ledger import Journal, Ledger, Provenance, create_ledger
from datumwise.ledger.commit import commit_columns

REPEATS = 5
WIDTH = 64  # numbers a row
MADE = {"score": Provenance("benchmark", {})}
SCORE = pa.field("score", pa.float32())


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} CPUs, medians of {REPEATS}\n")
    with tempfile.TemporaryDirectory() as folder:
        overhead(Path(folder))
        commit(Path(folder))
        memory(Path(folder))


def make(path: Path, n: int, width: int = WIDTH) -> Ledger:
    schema = pa.schema([("id", pa.string()), ("x", pa.list_(pa.float32(), width))])
    x = np.random.default_rng(0).normal(size=10_000 * width).astype(np.float32)
    wide = pa.FixedSizeListArray.from_arrays(pa.array(x), width)

    def batches() -> Iterator[pa.RecordBatch]:
        for start in range(0, n, 10_000):
            ids = pa.array([f"r{k}" for k in range(start, start + 10_000)])
            yield pa.record_batch([ids, wide], schema=schema)

    return create_ledger(path, batches(), schema=schema, id_column="id")


class Model:
    """Three layers of 512: some 8 ms a batch on one core, a small model."""

    def __init__(self) -> None:
        rng = np.random.default_rng(1)
        sizes = [WIDTH, 512, 512, 1]
        self.layers = [rng.normal(size=pair).astype(np.float32) / 20 for pair in itertools.pairwise(sizes)]

    def __call__(self, batch: pa.RecordBatch) -> dict[str, Any]:
        h = batch["x"].flatten().to_numpy().reshape(len(batch), WIDTH)
        for layer in self.layers:
            h = np.tanh(h @ layer)
        return {"score": h[:, 0]}


def overhead(folder: Path, n: int = 300_000) -> None:
    """A pass against a loop that asks the same model about batches in memory's order and keeps nothing."""
    ledger, model = make(folder / "overhead", n), Model()

    def bare() -> None:
        for batch in ledger.batches(["x"]):
            model(batch)

    def whole() -> None:
        run_pass(ledger, model, reads=["x"], writes=[SCORE], provenance=MADE, overwrite=True)

    bare()
    for clock, name in ((time.perf_counter, "wall"), (time.process_time, "CPU")):
        pairs = [(timed(bare, clock), timed(whole, clock)) for _ in range(REPEATS)]
        loop, passed = (statistics.median(side) for side in zip(*pairs, strict=True))
        ratio = statistics.median(b / a for a, b in pairs)
        print(f"pass of {n:,} rows, {name:4} s {passed:6.3f}   bare loop {loop:6.3f}   {ratio:.3f} (goal 1.03)")


def commit(folder: Path, n: int = 1_000_000) -> None:
    """From parts of 50,000 rows to a column."""
    ledger = make(folder / "commit", n, 2)
    journal = Journal(folder / "journal")
    values = np.random.default_rng(0).normal(size=n).astype(np.float32)
    for start in range(0, n, 50_000):
        journal.write(ledger.row_ids[start : start + 50_000], {"score": values[start : start + 50_000]})
    names = iter(range(REPEATS))

    def add() -> None:
        commit_columns(ledger.uri, [SCORE.with_name(f"score{next(names)}")], None, _As(journal, "score"))

    took = statistics.median(timed(add) for _ in range(REPEATS))
    print(f"journal commit, {n:,} rows {took:5.3f} s   (goal 0.3 s)")


class _As:
    """A journal's column under another name."""

    def __init__(self, journal: Journal, name: str) -> None:
        self.journal, self.name = journal, name

    def lookup(self, row_ids: np.ndarray, fields: Any) -> pa.RecordBatch:
        found = self.journal.lookup(row_ids, [fields[0].with_name(self.name)])
        return pa.RecordBatch.from_arrays(found.columns, schema=pa.schema(fields))


def memory(folder: Path) -> None:
    """Peak resident memory of a pass that reads and writes 512 bytes a row."""
    for n in (100_000, 1_000_000):
        path = make(folder / f"memory{n}", n, 128).path
        environment = {**os.environ, "MALLOC_ARENA_MAX": "1"}
        command = [sys.executable, __file__, "--pass", str(path)]
        out = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
        print(f"peak memory, {n:>9,} rows ({n * 512 / 1e6:.0f} MB) {float(out) / 1e6:6.0f} MB")


def wide_pass(path: Path) -> None:
    ledger = Ledger.open(path)
    field = ledger.schema.field("x").with_name("wide")

    def ask(batch: pa.RecordBatch) -> dict[str, Any]:
        return {"wide": batch["x"].flatten().to_numpy().reshape(len(batch), -1) + 1}

    made = {"wide": Provenance("benchmark", {})}
    print(run_pass(ledger, ask, reads=["x"], writes=[field], provenance=made).peak_memory)


def timed(action: Callable[[], None], clock: Callable[[], float] = time.perf_counter) -> float:
    start = clock()
    action()
    return clock() - start


if __name__ == "__main__":
    if "--pass" in sys.argv:
        wide_pass(Path(sys.argv[-1]))
    else:
        main()
