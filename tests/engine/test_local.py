"""The loop of a pass: what a worker keeps, and when it writes it down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import engine_cases as cases
import numpy as np
import pyarrow as pa
import pytest

from datumwise.engine import local
from datumwise.engine.local import Task, Worker, has_state, run_local
from datumwise.ledger.journal import Journal

N = 2000


class Silent:
    def add(self, rows: int) -> None:
        """Hears nothing."""


def task(path: Path, **options: Any) -> Task:
    ledger = cases.make(path, N, per_file=500)
    given: dict[str, Any] = {
        "path": str(ledger.path),
        "version": ledger.version,
        "journal": str(ledger.path / "journal" / "k"),
        "reads": ("x", "i"),
        "fields": tuple(cases.WRITES),
        "where": None,
        "batch_size": 50,
        "shards": tuple((f,) for f in ledger.fragments),
        "flush_seconds": 1000.0,
    }
    return Task(**{**given, **options})


def test_a_short_pass_writes_one_part(tmp_path: Path) -> None:
    todo = task(tmp_path / "a")
    assert run_local(todo, cases.answer, Silent()) == (N, 0)
    assert len(Journal(todo.journal).parts) == 1


def test_answers_are_written_before_they_fill_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "BUFFER_BYTES", 50 * (8 + 16) * 4)
    todo = task(tmp_path / "a")
    run_local(todo, cases.answer, Silent())
    assert len(Journal(todo.journal).parts) == N // 200


def test_a_state_that_is_slow_to_write_is_written_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(local.time, "monotonic", lambda: now[0])
    saved: list[float] = []

    def save(self: Journal, state: Any, shard: str = "") -> None:
        now[0] += 0.1  # seconds it takes
        saved.append(now[0])

    monkeypatch.setattr(Journal, "save_state", save)

    class Slow(cases.Gram):
        def __call__(self, batch: pa.RecordBatch) -> dict[str, Any]:
            now[0] += 1.0  # seconds a batch
            return super().__call__(batch)

    todo = task(tmp_path / "a", shards=((0, 1, 2, 3),), flush_seconds=0.0)
    Worker(todo, Slow()).shard(0)
    assert saved[0] == pytest.approx(1.1)
    gaps = np.diff(saved[:-1])  # the last one is at the end of the shard
    assert (gaps >= local.STATE_SHARE * 0.1).all()
    assert len(saved) * 0.1 < 0.03 * now[0] + 0.2


def test_a_buffer_that_the_function_uses_again_is_copied(tmp_path: Path) -> None:
    reused = np.zeros(50)

    def ask(batch: pa.RecordBatch) -> dict[str, Any]:
        reused[:] = batch["i"].to_numpy()
        return {"s": reused, "e": cases.answer(batch)["e"]}

    todo = task(tmp_path / "a")
    run_local(todo, ask, Silent())
    row_ids, table = Journal(todo.journal).read()
    assert table["s"].to_pylist() == row_ids.tolist()


def test_shards_worked_by_two_workers_equal_one_bit_for_bit(tmp_path: Path) -> None:
    alone, shared = task(tmp_path / "a"), task(tmp_path / "b")
    run_local(alone, cases.Gram(), Silent())
    first, second = Worker(shared, cases.Gram(), apart=True), Worker(shared, cases.Gram(), apart=True)
    for number, worker in [(2, first), (0, second), (3, second), (1, first)]:
        worker.shard(number)
    for number, worker in [(0, first), (1, second), (2, second), (3, first)]:
        worker.fold(local.shard_name(number))
        worker.fold(local.shard_name(number))  # a retry counts nothing twice
    one, two = Journal(alone.journal), Journal(shared.journal)
    state, other = one.state(), two.state()
    assert state is not None
    assert other is not None
    assert (state["gram"] == other["gram"]).all()
    assert state["rows"] == other["rows"] == N
    everything = np.arange(N, dtype=np.uint64)
    assert one.lookup(everything, cases.WRITES).equals(two.lookup(everything, cases.WRITES))


@pytest.mark.parametrize("flush_seconds", [0.0, 1000.0])
def test_the_state_of_a_batch_that_failed_is_not_kept(tmp_path: Path, flush_seconds: float) -> None:
    class HalfWay(cases.Gram):
        def __call__(self, batch: pa.RecordBatch) -> dict[str, Any]:
            found = super().__call__(batch)
            if 1200 in batch["i"].to_numpy() and not (tmp_path / "failed").exists():
                (tmp_path / "failed").touch()
                raise KeyboardInterrupt  # after the state took the batch in
            return found

    todo = task(tmp_path / "a", flush_seconds=flush_seconds)
    with pytest.raises(KeyboardInterrupt):
        run_local(todo, HalfWay(), Silent())
    run_local(todo, HalfWay(), Silent())
    state = Journal(todo.journal).state()
    assert state is not None
    assert state["rows"] == N


def test_a_state_is_seen_on_a_class_an_instance_and_a_factory() -> None:
    assert has_state(cases.Gram())
    assert has_state(cases.Gram)
    assert has_state(cases.DiesOnce(0, Path()))
    assert not has_state(cases.answer)
