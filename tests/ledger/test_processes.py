"""Several processes, kills, full disks and large ledgers: nothing is lost, nothing is half there."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path
from typing import Any

import lance
import ledger_cases as cases
import numpy as np
import pyarrow as pa
import pytest

from datumwise.errors import LedgerExists
from datumwise.ledger import create_ledger, open_ledger
from datumwise.ledger.erased import stray_files


@pytest.fixture(scope="module")
def processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["datumwise.ledger.ledger", "datumwise.ledger.purge", "ledger_cases"])
    return context


def both(runs: list[Any]) -> None:
    for run in runs:
        run.start()
    for run in runs:
        run.join(120)
        assert run.exitcode == 0


def test_duplicate_ids_from_two_processes_are_refused(tmp_path: Path, processes: Any) -> None:
    ledger, rounds = cases.ledger_of(tmp_path), 50
    barrier, won = processes.Barrier(2), processes.Queue()
    both([processes.Process(target=cases.append_same, args=(ledger.path, rounds, barrier, won)) for _ in "ab"])
    winners = sorted(won.get(timeout=10) for _ in range(rounds))
    assert winners == list(range(rounds))  # each round exactly one of the two
    ids = ledger.refresh().ids.tolist()
    assert len(ids) == len(set(ids)) == cases.N + 3 * rounds


def test_two_writers_at_once_lose_no_row(tmp_path: Path, processes: Any) -> None:
    ledger, rounds = cases.ledger_of(tmp_path), 15
    both([processes.Process(target=cases.delete_and_append, args=(ledger.path, k, rounds)) for k in (1000, 2000)])
    ids = set(ledger.refresh().ids)
    assert ids == {f"doc{i:04d}" for i in range(cases.N)} | {
        f"doc{first + 2 * k + 1:04d}" for first in (1000, 2000) for k in range(rounds)
    }
    assert ledger.version == 1 + 4 * rounds


@pytest.mark.slow
def test_killed_writers_leave_a_whole_ledger(tmp_path: Path, processes: Any) -> None:
    rng = np.random.default_rng(0)
    ledger = cases.ledger_of(tmp_path, 300, rows_per_file=50)
    version = 1
    for seed in range(12):
        run = processes.Process(target=cases.write_at_random, args=(ledger.path, seed))
        run.start()
        time.sleep(rng.uniform(0.1, 0.5))
        run.kill()
        run.join()
        ledger = open_ledger(ledger.path)
        assert ledger.version >= version  # no acknowledged version is lost
        version = ledger.version
        lance.dataset(ledger.uri).validate()
        assert [c for c in ledger.schema.names if c != "s"] == ["id", "x", "label", "text"]
        assert lance.dataset(ledger.uri).schema.names == ledger.schema.names
        numbers = [int(one[3:]) for one in ledger.ids]
        assert ledger.array("x").tolist() == numbers
        added = np.bincount([(i - 10_000) // 5 for i in numbers if i >= 10_000])
        assert set(added.tolist()) <= {0, 5}  # a torn append would have left 1 to 4
        ledger.write({"s": np.zeros(len(ledger))}, provenance=cases.MADE, overwrite=True)
    assert version > 20


@pytest.mark.parametrize("act", ["write", "append", "export", "create"])
def test_full_disk_leaves_the_last_version(tmp_path: Path, processes: Any, act: str) -> None:
    ledger = cases.ledger_of(tmp_path, 2000, rows_per_file=50_000)
    said = processes.Queue()
    both([processes.Process(target=cases.write_on_a_full_disk, args=(ledger.path, act, said))])
    kind, message = said.get(timeout=10)
    assert kind == "DiskFull", message
    assert "no space left" in message
    assert ".rs" not in message
    strays = stray_files(lance.dataset(ledger.uri), Path(ledger.uri))
    assert strays == []  # what was half written is gone, and its room is free
    again = open_ledger(ledger.path)
    assert (again.version, len(again), again.schema.names) == (1, 2000, ["id", "x", "label", "text"])
    assert [p.name for p in tmp_path.iterdir()] == ["pets.ledger"]
    again.write({"e": np.zeros((2000, 64))}, provenance=cases.MADE)  # and it goes on when there is room


@pytest.mark.slow
def test_scan_memory_does_not_grow_with_rows(tmp_path: Path, processes: Any) -> None:
    """Peaks of two processes that scan 60 MB and 600 MB differ by less than 100 MB."""
    peaks = []
    for n in (60_000, 600_000):
        kind = pa.list_(pa.float32(), 256)

        def batches(n: int = n, kind: pa.DataType = kind) -> Any:
            for i in range(0, n, 10_000):
                ones = pa.array(np.ones(10_000 * 256, np.float32))
                vectors = pa.FixedSizeListArray.from_arrays(ones, type=kind)
                ids = pa.array([str(j) for j in range(i, i + 10_000)])
                yield pa.record_batch({"id": ids, "e": vectors})

        schema = pa.schema([("id", pa.string()), ("e", kind)])
        ledger = create_ledger(tmp_path / str(n), batches(), schema=schema, id_column="id")
        said = processes.Queue()
        both([processes.Process(target=cases.peak_of_a_scan, args=(ledger.path, said))])
        peak, total = said.get(timeout=10)
        assert total == 256 * n
        peaks.append(peak)
    assert abs(peaks[1] - peaks[0]) < 100


def test_compaction_removes_what_a_killed_writer_left(tmp_path: Path) -> None:
    ledger = cases.ledger_of(tmp_path)
    for k in range(4):
        ledger.append(cases.rows(1, 100 + k))
    left = [ledger.path / "data.lance" / name for name in ("data/half.lance", "_transactions/.tmp1")]
    for file in left:
        file.write_text("x")
    ledger.compact()
    assert not any(file.exists() for file in left)
    assert open_ledger(ledger.path, version=1).ids.tolist() == ledger.ids[: cases.N].tolist()


def test_two_creators_of_one_name_do_not_mix(tmp_path: Path) -> None:
    batch = cases.rows()

    def batches() -> Any:
        yield batch
        cases.ledger_of(tmp_path, 3)  # the other one is quicker

    with pytest.raises(LedgerExists, match="was made by somebody else meanwhile"):
        create_ledger(tmp_path / "pets", batches(), schema=batch.schema, id_column="doc")
    assert len(open_ledger(tmp_path / "pets")) == 3
    assert [p.name for p in tmp_path.iterdir()] == ["pets.ledger"]
