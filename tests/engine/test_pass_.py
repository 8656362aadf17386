"""A pass gives every row its value once, whatever happens to it and to the ledger meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import engine_cases as cases
import numpy as np
import pyarrow as pa
import pytest

from datumwise import errors
from datumwise.engine import pass_key, run_pass
from datumwise.engine.pass_ import _shards
from datumwise.ledger import Ledger, Provenance, create_ledger, open_ledger

N, BATCH = 3000, 50


@pytest.fixture(scope="module")
def processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["datumwise.ledger.ledger", "datumwise.engine.pass_", "engine_cases"])
    return context


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return cases.make(tmp_path / "a", N)


def run(ledger: Ledger, fn: Any = cases.answer, **options: Any) -> Any:
    given = {"reads": ["x", "i"], "writes": cases.WRITES, "provenance": cases.MADE, "batch_size": BATCH}
    return run_pass(ledger, fn, **{**given, **options})


def check(ledger: Ledger, *, missing: int = 0) -> None:
    """Every value that is there is exact; so many rows have none."""
    table = ledger.refresh().table(["i", "s", "e"])
    have = pa.compute.is_valid(table["s"])
    assert have.equals(pa.compute.is_valid(table["e"]))
    assert len(table) - pa.compute.sum(have).as_py() == missing
    table = table.filter(have)
    s, e = cases.expected(table["i"].to_numpy())
    assert (table["s"].to_numpy() == s).all()
    assert (np.array(table["e"].to_pylist(), np.float32) == e).all()
    assert len(set(ledger.ids.tolist())) == len(ledger)


def logged(log: Path) -> np.ndarray:
    return np.frombuffer(log.read_bytes(), np.int64) if log.exists() else np.empty(0, np.int64)


# ---------------------------------------------------------------- killed


def kill_until_done(processes: Any, run: Any, kills: int, rng: np.random.Generator) -> int:
    """Start ``run()`` and kill -9 it at a random moment, ``kills`` times; then let it finish."""
    done = 0
    for _ in range(kills):
        child = run()
        child.start()
        time.sleep(rng.uniform(0.05, 0.2))
        done += child.exitcode is None
        child.kill()
        child.join()
    last = run()
    last.start()
    last.join()
    assert last.exitcode == 0
    return done


def test_killed_pass_resumes_without_losing_a_row(ledger: Ledger, processes: Any, tmp_path: Path) -> None:
    log, stop = tmp_path / "log", processes.Event()
    other = processes.Process(target=cases.disturb, args=(ledger.path, stop, N))
    other.start()
    try:
        kills = kill_until_done(
            processes,
            lambda: processes.Process(target=cases.run, args=(ledger.path, log, 0.03)),
            24,
            np.random.default_rng(0),
        )
    finally:
        stop.set()
        other.join()
    assert other.exitcode == 0
    assert kills >= 20
    ledger.refresh()
    asked, rows = logged(log), ledger.array("i")
    assert len(asked) <= len(np.unique(asked)) + kills * BATCH  # a kill costs at most the batch in hand
    assert len(rows) > N + 50  # the other process did add and delete
    deleted = set(range(N)) - set(rows.tolist())
    assert deleted
    late = set(rows.tolist()) - set(asked.tolist())
    check(ledger, missing=len(late))
    assert ledger.provenance("s").agrees(cases.MADE["s"])  # type: ignore[union-attr]
    assert run(ledger).rows == len(late)
    check(ledger)
    assert not any((ledger.path / "journal").iterdir())


def test_state_of_a_killed_pass_equals_an_undisturbed_one_bit_for_bit(processes: Any, tmp_path: Path) -> None:
    clean, killed = cases.make(tmp_path / "clean", N), cases.make(tmp_path / "killed", N)
    whole = run(clean, cases.Gram())
    log = tmp_path / "log"
    kill_until_done(
        processes,
        lambda: processes.Process(target=run_most, args=(killed.path, log)),
        8,
        np.random.default_rng(1),
    )
    done = run(killed, cases.Gram())
    assert done.resumed_rows > 0
    assert done.state["rows"] == N
    assert (done.state["gram"] == whole.state["gram"]).all()
    assert len(logged(log)) > 0
    check(killed)


def run_most(path: Path, log: Path) -> None:
    """A pass with a state that stops by itself after 2,000 rows."""

    class Stops(cases.LoggedGram):
        def __call__(self, batch: pa.RecordBatch) -> dict[str, Any]:
            if batch["i"][0].as_py() >= 2000:
                raise KeyboardInterrupt
            return super().__call__(batch)

    try:
        run(open_ledger(path), Stops(log, 0.01), flush_seconds=0.0)
    except KeyboardInterrupt:
        return


# ---------------------------------------------------------------- stopped, and the ledger changed


def stop_midway(ledger: Ledger, at: int = 1500, **options: Any) -> None:
    def ask(batch: pa.RecordBatch) -> dict[str, Any]:
        if batch["i"][0].as_py() >= at:
            raise KeyboardInterrupt
        return cases.answer(batch)

    with pytest.raises(KeyboardInterrupt):
        run(ledger, ask, **options)


def test_interrupted_pass_keeps_what_it_computed_and_leaves_the_ledger_as_it_was(ledger: Ledger) -> None:
    before = ledger.version
    stop_midway(ledger, flush_seconds=1000.0)
    assert open_ledger(ledger.path).version == before
    told: list[tuple[int, int]] = []
    done = run(ledger, progress=lambda *now: told.append(now))
    assert (done.rows, done.resumed_rows) == (N - 1500, 1500)
    assert told[0] == (1500, N)
    assert told[-1] == (N, N)
    assert told == sorted(told)
    check(ledger)


def test_delete_during_a_stopped_pass_stays_deleted_and_an_append_is_computed(ledger: Ledger) -> None:
    stop_midway(ledger)
    ledger.delete(ids=["r3", "r2000"])
    ledger.append(cases.rows(N, N + 7))
    done = run(ledger)
    assert done.rows == N - 1500 - 1 + 7
    assert len(ledger) == N - 2 + 7
    check(ledger)


def test_cleanup_and_compaction_during_a_stopped_pass_keep_the_ledger_readable(ledger: Ledger) -> None:
    from datetime import timedelta

    import lance

    stop_midway(ledger)
    ledger.delete(where="i % 10 = 3")
    store = lance.dataset(ledger.uri)
    store.optimize.compact_files(materialize_deletions_threshold=0.0)
    store.cleanup_old_versions(older_than=timedelta(microseconds=1), delete_unverified=True)
    done = run(open_ledger(ledger.path))
    assert done.rows == 1350
    lance.dataset(ledger.uri).validate()
    check(ledger)


def test_a_label_mended_during_a_stopped_pass_is_asked_about_again(tmp_path: Path) -> None:
    table = pa.table({"id": [f"r{k}" for k in range(200)], "y": np.arange(200), "z": np.arange(200)})
    ledger = create_ledger(tmp_path / "m", table.to_batches(), schema=table.schema, id_column="id")

    def ask(batch: pa.RecordBatch, stop_at: int = 10**6) -> dict[str, Any]:
        if batch["y"][0].as_py() >= stop_at:
            raise KeyboardInterrupt
        return {"f": batch["y"].to_numpy() * 2}

    given: dict[str, Any] = {
        "reads": ["y"],
        "writes": [pa.field("f", pa.int64())],
        "provenance": {"f": Provenance("twice", {})},
        "batch_size": 50,
    }
    with pytest.raises(KeyboardInterrupt):
        run_pass(ledger, lambda batch: ask(batch, 100), **given)
    ledger.write({"y": [-7]}, provenance=Provenance("mended", {}), ids=["r4"], overwrite=True)
    assert run_pass(ledger, ask, **given).resumed_rows == 99
    assert (ledger.array("f") == 2 * ledger.array("y")).all()
    assert ledger.take(["r4"], ["f"])["f"].to_pylist() == [-14]


def test_a_row_deleted_during_a_stopped_pass_is_not_in_its_state(ledger: Ledger, tmp_path: Path) -> None:
    run_most(ledger.path, tmp_path / "log")
    ledger.delete(ids=["r3", "r1200"])
    fresh = cases.make(tmp_path / "fresh", N)
    fresh.delete(ids=["r3", "r1200"])
    done, whole = run(ledger, cases.Gram()), run(fresh, cases.Gram())
    assert done.state["rows"] == N - 2
    np.testing.assert_allclose(done.state["gram"], whole.state["gram"], rtol=1e-5, atol=1e-3)
    check(ledger)


# ---------------------------------------------------------------- at the same time


def test_append_while_a_pass_runs_leaves_the_new_rows_null_and_the_next_pass_fills_them(
    ledger: Ledger, processes: Any, tmp_path: Path
) -> None:
    stop, log = processes.Event(), tmp_path / "log"
    other = processes.Process(target=cases.disturb, args=(ledger.path, stop, N))
    child = processes.Process(target=cases.run, args=(ledger.path, log, 0.005))
    child.start()
    other.start()
    child.join()
    stop.set()
    other.join()
    assert child.exitcode == other.exitcode == 0
    ledger.refresh()
    late = set(ledger.array("i").tolist()) - set(logged(log).tolist())
    assert late
    check(ledger, missing=len(late))
    asked_again = tmp_path / "again"
    run(ledger, cases.Logged(asked_again))
    assert sorted(logged(asked_again)) == sorted(late)
    check(ledger)


def test_two_passes_write_different_columns_at_once(ledger: Ledger, processes: Any) -> None:
    barrier = processes.Barrier(2)
    pair = [processes.Process(target=cases.run_other, args=(ledger.path, k, barrier)) for k in ("p", "qq")]
    for child in pair:
        child.start()
    for child in pair:
        child.join()
        assert child.exitcode == 0
    ledger.refresh()
    assert (ledger.array("p") == np.arange(N)).all()
    assert (ledger.array("qq") == 2 * np.arange(N)).all()


def test_the_same_pass_twice_at_once_is_refused(ledger: Ledger, processes: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    child = processes.Process(target=cases.run, args=(ledger.path, log, 0.1))
    child.start()
    while not log.exists():
        time.sleep(0.01)
    with pytest.raises(errors.LedgerBusy, match="this very pass"):
        run(ledger)
    child.kill()
    child.join()
    run(ledger)
    check(ledger)


# ---------------------------------------------------------------- what is there already


def test_a_finished_pass_asks_about_nothing_again(ledger: Ledger, tmp_path: Path) -> None:
    run(ledger)
    version = ledger.version
    done = run(ledger, cases.Logged(tmp_path / "log"))
    assert (done.rows, done.version) == (0, version)
    assert not len(logged(tmp_path / "log"))


def test_where_computes_some_rows_and_the_rest_later(ledger: Ledger, tmp_path: Path) -> None:
    assert run(ledger, where="i < 100 OR i >= 2990").rows == 110
    check(ledger, missing=N - 110)
    assert run(ledger, where="i < 200").rows == 100
    check(ledger, missing=N - 210)
    assert run(ledger).rows == N - 210
    check(ledger)


def test_a_column_made_another_way_is_refused_before_anything_is_computed(ledger: Ledger, tmp_path: Path) -> None:
    run(ledger)
    other = {**cases.MADE, "s": Provenance("squares", {"power": 3})}
    log = tmp_path / "log"
    with pytest.raises(errors.ColumnExists, match=r"column s .* made by squares"):
        run(ledger, cases.Logged(log), provenance=other)
    assert not log.exists()
    run(ledger, lambda b: {k: -v for k, v in cases.answer(b).items()}, provenance=other, overwrite=True)
    assert (ledger.array("s") == -cases.expected(np.arange(N))[0]).all()
    made = ledger.provenance("s")
    assert made is not None
    assert made.params == {"power": 3}
    assert made.ledger_version is not None


def test_overwrite_with_the_same_provenance_computes_all_rows_anew(ledger: Ledger, tmp_path: Path) -> None:
    run(ledger, lambda b: {k: v + 1 for k, v in cases.answer(b).items()})
    run(ledger, cases.Logged(tmp_path / "log"), overwrite=True)
    assert len(logged(tmp_path / "log")) == N
    check(ledger)


def test_a_column_that_came_with_the_data_is_never_overwritten(ledger: Ledger) -> None:
    with pytest.raises(errors.ColumnExists, match="came with the data"):
        run(ledger, writes=[pa.field("i", pa.int64())], provenance={"i": cases.MADE["s"]}, overwrite=True)


def test_one_new_column_beside_an_old_one_keeps_the_old_values(ledger: Ledger) -> None:
    run(ledger, writes=cases.WRITES[:1])
    run(ledger)
    check(ledger)


def test_a_pass_over_a_pinned_version_reads_that_version_and_writes_to_the_latest(ledger: Ledger) -> None:
    pinned = open_ledger(ledger.path, version=ledger.version)
    ledger.append(cases.rows(N, N + 5))
    assert run(pinned).rows == N
    check(ledger, missing=5)
    made = ledger.provenance("s")
    assert made is not None
    assert made.ledger_version == pinned.version  # what it read, not what it was added to


# ---------------------------------------------------------------- refused


def test_a_failing_function_names_the_ids_and_keeps_the_rows_before(ledger: Ledger) -> None:
    def ask(batch: pa.RecordBatch) -> dict[str, Any]:
        if 1520 in batch["i"].to_numpy():
            raise RuntimeError("CUDA out of memory")
        return cases.answer(batch)

    with pytest.raises(errors.ModelMismatch, match=r"r1500, r1501, r1502 and 47 more: .*CUDA") as caught:
        run(ledger, ask)
    assert caught.value.ids == [f"r{k}" for k in range(1500, 1550)]
    assert run(ledger).resumed_rows == 1500
    check(ledger)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda b: {"s": np.zeros(len(b))}, "no e"),
        (lambda b: {**cases.answer(b), "s": np.zeros(3)}, "3 values of s for 50 rows"),
        (lambda b: {**cases.answer(b), "e": np.zeros((50, 9), np.float32)}, "column e"),
        (lambda b: None, "no s"),
    ],
)
def test_an_answer_of_another_shape_is_refused(ledger: Ledger, answer: Any, said: str) -> None:
    with pytest.raises(errors.ModelMismatch, match=said):
        run(ledger, answer)
    assert ledger.refresh().schema.names == ["id", "i", "x"]


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"reads": ["nope"]}, errors.UnknownColumn, "nope"),
        ({"reads": []}, errors.SchemaMismatch, "column to read"),
        ({"engine": "spark"}, errors.UnknownName, "'local' and 'ray'"),
        ({"provenance": {}}, errors.SchemaMismatch, "s, e"),
        ({"batch_size": 0}, errors.SchemaMismatch, "batch_size"),
        ({"where": "nope > 1"}, errors.UnknownColumn, "nope"),
    ],
)
def test_bad_requests_are_refused_in_one_sentence(
    ledger: Ledger, options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        run(ledger, **options)
    assert not any((ledger.path / "journal").iterdir())


# ---------------------------------------------------------------- the plan


def test_whatever_decides_a_value_is_in_the_key(ledger: Ledger) -> None:
    given: dict[str, Any] = {"reads": ["x"], "writes": cases.WRITES, "provenance": cases.MADE}
    made = cases.MADE["s"]
    variants = [
        {},
        {"reads": ["x", "i"]},
        {"writes": cases.WRITES[:1]},
        {"where": "i > 3"},
        {"key_extra": "1"},
        {"provenance": {**cases.MADE, "s": Provenance(made.method, {"power": 3})}},
        {"provenance": {**cases.MADE, "s": Provenance(made.method, made.params, model="abc")}},
        {"provenance": {**cases.MADE, "s": Provenance(made.method, made.params, seed=1)}},
    ]
    keys = [pass_key(ledger, **{**given, **variant}) for variant in variants]
    assert len(set(keys)) == len(keys)
    again = {name: p.stamped(99) for name, p in cases.MADE.items()}
    assert pass_key(ledger, **{**given, "provenance": again}) == keys[0]
    run(ledger)
    read_first = pass_key(ledger, **{**given, "reads": ["s"], "writes": []})
    run(ledger, overwrite=True, provenance={**cases.MADE, "s": Provenance("other", {})})
    assert pass_key(ledger, **{**given, "reads": ["s"], "writes": []}) != read_first


def test_shards_hold_every_fragment_once_in_order_and_join_small_ones(tmp_path: Path) -> None:
    ledger = cases.make(tmp_path / "s", 640, per_file=5)
    shards = _shards(ledger, batch_size=10)
    assert [f for shard in shards for f in shard] == ledger.fragments
    assert len(shards) == 32
    assert len(_shards(ledger, batch_size=320)) == 2


def test_batches_never_cross_a_fragment_and_are_full_but_for_its_last(ledger: Ledger) -> None:
    ledger.delete(where="i % 7 = 0")
    seen: list[np.ndarray] = []
    run(ledger, lambda b: seen.append(b["i"].to_numpy()) or cases.answer(b), where="i % 5 <> 0")
    for batch in seen:
        assert batch[0] // 1000 == batch[-1] // 1000
    assert [len(b) for b in seen].count(BATCH) == len(seen) - 3
    assert np.concatenate(seen).tolist() == [k for k in range(N) if k % 7 and k % 5]


def test_a_pass_without_columns_gives_only_its_state(ledger: Ledger) -> None:
    before = ledger.version
    fn = cases.Gram()
    done = run(ledger, fn, writes=[], provenance={"gram": Provenance("gram", {})})
    x = cases.features(np.arange(N)).astype(np.float64)
    np.testing.assert_allclose(done.state["gram"], x.T @ x, rtol=1e-4, atol=0.1)
    assert (fn.gram == done.state["gram"]).all()
    assert done.version == ledger.version == before


def test_a_factory_builds_once_and_must_own_up_to_its_state(ledger: Ledger) -> None:
    built = []

    def factory() -> Any:
        built.append(1)
        return cases.answer

    factory.per_worker = True  # type: ignore[attr-defined]
    run(ledger, factory)
    assert len(built) == 1

    def secretive() -> Any:
        return cases.Gram()

    secretive.per_worker = True  # type: ignore[attr-defined]
    with pytest.raises(errors.ModelMismatch, match="stateful"):
        run(ledger, secretive, overwrite=True)


def test_empty_ledger_and_one_row(tmp_path: Path) -> None:
    empty = create_ledger(tmp_path / "e", [], schema=cases.rows(0, 1).schema, id_column="id")
    assert run(empty).rows == 0
    assert {"s", "e"} <= set(empty.schema.names)
    empty.append(cases.rows(0, 1))
    assert run(empty).rows == 1
    check(empty)


def test_memory_of_a_pass_does_not_grow_with_rows(tmp_path: Path) -> None:
    peaks = [peak_of(wide_ledger(tmp_path / str(n), n), n) for n in (80_000, 800_000)]
    # 369 MB more rows and as many more answers; buffers of a fixed size that the smaller ledger does not fill
    assert peaks[1] - peaks[0] < 250e6


def wide_ledger(path: Path, n: int) -> Path:
    """n rows of 512 bytes."""
    schema = pa.schema([("id", pa.string()), ("x", pa.list_(pa.float32(), 128))])
    x = np.random.default_rng(0).normal(size=10_000 * 128).astype(np.float32)
    wide = pa.FixedSizeListArray.from_arrays(pa.array(x), 128)

    def batches() -> Any:
        for start in range(0, n, 10_000):
            ids = pa.array([f"r{k}" for k in range(start, start + 10_000)])
            yield pa.record_batch([ids, wide], schema=schema)

    return create_ledger(path, batches(), schema=schema, id_column="id").path


def peak_of(path: Path, n: int) -> int:
    one_arena = {**os.environ, "MALLOC_ARENA_MAX": "1"}  # or the allocator's leftovers are measured too
    command = [sys.executable, cases.__file__, str(path)]
    said = subprocess.run(command, env=one_arena, capture_output=True, text=True, check=True).stdout.split()
    assert int(said[0]) == n
    return int(said[1])
