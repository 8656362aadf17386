"""A journal holds each row once, whole, whatever happens to its writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from datumwise.ledger.commit import writing
from datumwise.ledger.journal import Journal, forget_rows

F = pa.field("v", pa.float64())


def ids(*values: int) -> np.ndarray:
    return np.array(values, np.uint64)


def put(journal: Journal, *values: int, **options: object) -> None:
    journal.write(ids(*values), {"v": np.array(values, float)}, **options)  # type: ignore[arg-type]


def looked_up(journal: Journal, *values: int) -> list[float | None]:
    return journal.lookup(ids(*values), [F]).column(0).to_pylist()


def test_rows_are_found_again_in_any_order_and_what_is_not_there_is_null(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    put(journal, 9, 2, 5)
    put(journal, 3, 11)
    again = Journal(tmp_path / "j")
    assert again.num_rows == 5
    assert again.done_row_ids().tolist() == [2, 3, 5, 9, 11]
    assert looked_up(again, 11, 4, 2, 2, 9) == [11.0, None, 2.0, 2.0, 9.0]
    assert again.covers(ids(1, 2, 3, 4, 12)).tolist() == [False, True, True, False, False]
    row_ids, table = again.read()
    assert table["v"].to_pylist() == row_ids.astype(float).tolist()


def test_lookup_equals_a_dict_for_random_parts_and_questions(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    journal, known = Journal(tmp_path / "j"), {}
    pool = rng.permutation(2000).astype(np.uint64)
    for part in np.split(pool[:1500], np.sort(rng.integers(0, 1500, 12))):
        text = [f"t{k}" for k in part]
        rows = rng.normal(size=(len(part), 3)).astype(np.float32)
        journal.write(part, {"t": pa.array(text), "e": rows})
        known.update(zip(part.tolist(), zip(text, rows.tolist(), strict=True), strict=True))
    fields = [pa.field("t", pa.string()), pa.field("e", pa.list_(pa.float32(), 3))]
    for _ in range(20):
        question = rng.integers(0, 2100, rng.integers(0, 300)).astype(np.uint64)
        found = journal.lookup(question, fields)
        want = [known.get(int(k), (None, None)) for k in question]
        assert found["t"].to_pylist() == [t for t, _ in want]
        assert found["e"].to_pylist() == [e for _, e in want]


def test_nan_is_a_value_and_not_missing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.write(ids(1), {"v": np.array([np.nan])})
    found = journal.lookup(ids(1, 2), [F]).column(0)
    assert found.null_count == 1
    assert np.isnan(found[0].as_py())


def test_half_written_files_are_swept_and_never_read(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    put(journal, 1, 2)
    whole = journal.parts[0].path
    torn = whole.with_name("-000001-2-3-4-r-00.arrow.tmp")
    torn.write_bytes(whole.read_bytes()[:40])
    assert Journal(tmp_path / "j").done_row_ids().tolist() == [1, 2]
    assert not torn.exists()


def test_a_part_without_its_state_counts_for_nothing(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    put(journal, 1, 2, state={"sum": np.array(3.0)})
    put(journal, 3, stateful=True)  # killed here: before the state with row 3 in it
    again = Journal(tmp_path / "j")
    assert again.done_row_ids().tolist() == [1, 2]
    assert again.state() == {"sum": np.array(3.0)}
    put(again, 3, state={"sum": np.array(6.0)})
    assert Journal(tmp_path / "j").done_row_ids().tolist() == [1, 2, 3]


def add(total: dict[str, np.ndarray], part: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {"sum": total["sum"] + part["sum"]}


@pytest.mark.parametrize("killed", [False, True])
def test_folding_counts_a_shard_once_even_if_killed_before_its_state_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    journal = Journal(tmp_path / "j")
    put(journal, 1, 2, state={"sum": np.array(3.0)}, shard="a")
    put(journal, 10, state={"sum": np.array(10.0)}, shard="b")
    journal.fold("a", add)
    if killed:
        with monkeypatch.context() as patch:
            patch.setattr(Path, "unlink", lambda *_, **__: None)
            journal.fold("b", add)
        assert "b" in journal.shards()
    else:
        journal.fold("b", add)
    again = Journal(tmp_path / "j")
    assert again.shards() == []
    assert not again.fold("b", add)
    assert again.state() == {"sum": np.array(13.0)}
    assert again.done_row_ids().tolist() == [1, 2, 10]
    put(again, 20, state={"sum": np.array(20.0)}, shard="b")  # a row appended since, in the same shard
    assert again.fold("b", add)
    assert again.state() == {"sum": np.array(33.0)}


def test_dropped_rows_leave_every_file_and_a_state_that_has_them_goes(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.write(ids(1, 2), {"t": pa.array(["keep me", "SECRET"])})
    assert journal.drop_rows(ids(2, 7)) == 1
    assert journal.done_row_ids().tolist() == [1]
    assert not any(b"SECRET" in p.read_bytes() for p in (tmp_path / "j").iterdir())

    summed = Journal(tmp_path / "s")
    put(summed, 1, 2, state={"sum": np.array(3.0)}, shard="a")
    put(summed, 10, state={"sum": np.array(10.0)}, shard="b")
    assert summed.drop_rows([2]) == 2  # row 1 must be summed again
    assert Journal(tmp_path / "s").done_row_ids().tolist() == [10]
    assert summed.state("a") is None
    assert summed.state("b") == {"sum": np.array(10.0)}


def test_stopped_passes_forget_rows_and_a_running_one_is_left_alone(tmp_path: Path) -> None:
    for name in ("stopped", "running"):
        put(Journal(tmp_path / name), 1, 2)
    import threading

    held, done = threading.Event(), threading.Event()

    def run() -> None:
        with writing(tmp_path / "running" / "owner"):
            held.set()
            done.wait()

    runner = threading.Thread(target=run)
    runner.start()
    held.wait()
    try:
        assert forget_rows(tmp_path, ids(2)) == 1
    finally:
        done.set()
        runner.join()
    assert Journal(tmp_path / "stopped").done_row_ids().tolist() == [1]
    assert Journal(tmp_path / "running").done_row_ids().tolist() == [1, 2]
