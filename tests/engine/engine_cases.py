"""Functions and ledgers that the engine's tests share; importable in child processes and Ray workers."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datumwise.engine import run_pass
from datumwise.ledger import Ledger, Provenance, create_ledger, open_ledger

D = 4  # width of x
WRITES = [pa.field("s", pa.float64()), pa.field("e", pa.list_(pa.float32(), D))]
MADE = {"s": Provenance("squares", {"power": 2}), "e": Provenance("double", {})}


def features(row: np.ndarray) -> np.ndarray:
    """x of row i, float32 (m, D): known without the ledger."""
    return np.sin(row[:, None] * (1.0 + np.arange(D))).astype(np.float32)


def rows(first: int, last: int) -> pa.Table:
    i = np.arange(first, last)
    x = pa.FixedSizeListArray.from_arrays(pa.array(features(i).reshape(-1)), D)
    return pa.table({"id": [f"r{k}" for k in i], "i": pa.array(i), "x": x})


def make(path: Path, n: int, per_file: int = 1000) -> Ledger:
    table = rows(0, n)
    return create_ledger(path, table.to_batches(500), schema=table.schema, id_column="id", max_rows_per_file=per_file)


def x_of(batch: pa.RecordBatch) -> np.ndarray:
    return batch["x"].flatten().to_numpy().reshape(-1, D)


def answer(batch: pa.RecordBatch) -> dict[str, Any]:
    x = x_of(batch)
    return {"s": (x.astype(np.float64) ** 2).sum(1), "e": 2 * x}


def expected(i: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = features(i)
    return (x.astype(np.float64) ** 2).sum(1), 2 * x


class Gram:
    """Answers, and sums the outer product of x over all rows, badly conditioned on purpose."""

    def __init__(self) -> None:
        self.gram = np.zeros((D, D), np.float32)
        self.rows = np.zeros((), np.int64)

    def __call__(self, batch: pa.RecordBatch) -> dict[str, Any]:
        x = x_of(batch)
        self.gram += x.T @ x
        self.rows += len(x)
        return answer(batch)

    def state(self) -> dict[str, np.ndarray]:
        return {"gram": self.gram, "rows": self.rows}

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self.gram, self.rows = state["gram"].copy(), state["rows"].copy()

    def merge(self, state: dict[str, np.ndarray]) -> None:
        self.gram += state["gram"]
        self.rows += state["rows"]


class Logged:
    """Wraps a function: logs the row numbers of each batch before it answers, and takes its time."""

    def __init__(self, log: Path, pause: float = 0.0, inner: Any = None) -> None:
        self.log, self.pause, self.inner = log, pause, inner or answer

    def __call__(self, batch: pa.RecordBatch) -> dict[str, Any]:
        with open(self.log, "ab") as sink:
            sink.write(np.array(batch["i"].to_numpy(), np.int64).tobytes())
        if self.pause:
            time.sleep(self.pause)
        return self.inner(batch)


class LoggedGram(Logged):
    """The same, with the state of a Gram."""

    def __init__(self, log: Path, pause: float = 0.0) -> None:
        super().__init__(log, pause, Gram())

    def state(self) -> dict[str, np.ndarray]:
        return self.inner.state()

    def load_state(self, state: dict[str, np.ndarray]) -> None:
        self.inner.load_state(state)

    def merge(self, state: dict[str, np.ndarray]) -> None:
        self.inner.merge(state)


class DiesOnce:
    """A factory: the first worker that meets row ``at`` dies as by kill -9 (each, if no mark can be made)."""

    per_worker = True
    stateful = True

    def __init__(self, at: int, mark: Path) -> None:
        self.at, self.mark = at, mark

    def __call__(self) -> Any:
        at, mark = self.at, self.mark

        class Mortal(Gram):
            def __call__(self, batch: pa.RecordBatch) -> dict[str, Any]:
                if at in batch["i"].to_numpy() and not mark.exists():
                    if mark.parent.exists():
                        mark.touch()
                    os._exit(9)
                return super().__call__(batch)

        return Mortal()


# ---------------------------------------------------------------- child processes


def run(path: Path, log: Path, pause: float, summing: bool = False, **options: Any) -> Any:
    """The pass that the tests stop and resume."""
    fn = LoggedGram(log, pause) if summing else Logged(log, pause)
    ledger = open_ledger(path)
    return run_pass(
        ledger,
        fn,
        reads=["x", "i"],
        writes=WRITES,
        provenance=MADE,
        batch_size=50,
        flush_seconds=0.0,
        **options,
    )


def run_other(path: Path, name: str, barrier: Any) -> None:
    """A pass that writes a column of its own."""

    def ask(batch: pa.RecordBatch) -> dict[str, Any]:
        time.sleep(0.002)
        return {name: batch["i"].to_numpy() * len(name)}

    barrier.wait()
    run_pass(
        open_ledger(path),
        ask,
        reads=["i"],
        writes=[pa.field(name, pa.int64())],
        provenance={name: Provenance(name, {})},
        batch_size=100,
        flush_seconds=0.0,
    )


def disturb(path: Path, stop: Any, first: int) -> None:
    """Appends 20 rows and deletes one, again and again."""
    while not stop.is_set():
        ledger = open_ledger(path)
        ledger.append(rows(first, first + 20))
        ledger.delete(ids=[f"r{first % 997}"])
        first += 20
        time.sleep(0.01)


def memory_of_a_pass(path: Path) -> tuple[int, int]:
    """Rows, and peak resident memory in bytes, of a pass with answers as wide as x."""

    def ask(batch: pa.RecordBatch) -> dict[str, Any]:
        return {"wide": batch["x"].flatten().to_numpy().reshape(len(batch), -1) + 1}

    ledger = open_ledger(path)
    done = run_pass(
        ledger,
        ask,
        reads=["x"],
        writes=[ledger.schema.field("x").with_name("wide")],
        provenance={"wide": Provenance("wide", {})},
        flush_seconds=0.1,
    )
    return done.rows, done.peak_memory


if __name__ == "__main__":
    print(*memory_of_a_pass(Path(sys.argv[1])))
