"""Child processes of test_commit: each function is run in a process of its own."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datumwise.ledger import Provenance, open_ledger
from datumwise.ledger.commit import replace_columns, writing
from datumwise.ledger.provenance import with_provenance


def hold(folder: Path, held: Any, seconds: float) -> None:
    with writing(folder):
        held.set()
        time.sleep(seconds)


def count_up(folder: Path, times: int) -> None:
    """Read, add one, write: loses counts unless the lock excludes others."""
    for _ in range(times):
        with writing(folder):
            number = int((folder / "count").read_text())
            time.sleep(0.0005)
            (folder / "count").write_text(str(number + 1))


def finding(k: int) -> pa.Field:
    made = Provenance("constant", {"k": k}).stamped(1)
    return with_provenance(pa.field("f", pa.int64()), made)


def swap(path: Path, first: int, last: int) -> None:
    row_ids = open_ledger(path).row_ids
    for k in range(first, last):
        replace_columns(path / "data.lance", [finding(k)], row_ids, {"f": np.full(len(row_ids), k)})


def write_column(path: Path, name: str, barrier: Any) -> None:
    ledger = open_ledger(path)
    for k in range(10):
        barrier.wait()
        values = np.arange(len(ledger)) + k
        ledger.write({f"{name}{k}": values}, provenance=Provenance(name, {"k": k}))


def swap_and_die(path: Path, after: str) -> None:
    """Dies as by kill -9 after the column was added, or after the names were swapped."""
    from datumwise.ledger import commit

    real_drop, real_add = commit._drop, commit._add_aligned

    def add_then_die(*arguments: Any) -> int:
        real_add(*arguments)
        os._exit(9)

    def die(*_: Any) -> int:
        os._exit(9)

    commit._add_aligned = add_then_die if after == "add" else real_add  # type: ignore[assignment]
    commit._drop = die if after == "swap" else real_drop  # type: ignore[assignment]
    swap(path, 5, 6)
