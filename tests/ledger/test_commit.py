"""A finding gets onto the ledger whole or not at all, one writer at a time."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import commit_child as child
import lance
import numpy as np
import pyarrow as pa
import pytest

from datumwise import errors
from datumwise.ledger import Ledger, Provenance, create_ledger, open_ledger
from datumwise.ledger.commit import (
    commit_columns,
    leftovers,
    patch_columns,
    recover,
    replace_columns,
)
from datumwise.ledger.journal import Journal

N = 1000
F = pa.field("f", pa.float32())


@pytest.fixture(scope="module")
def processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["datumwise.ledger.ledger", "commit_child"])
    return context


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    table = pa.table({"id": [f"r{i}" for i in range(N)], "y": np.arange(N)})
    return create_ledger(tmp_path / "a", table.to_batches(), schema=table.schema, id_column="id", max_rows_per_file=300)


def column(ledger: Ledger, name: str = "f") -> list[Any]:
    return ledger.refresh().table([name])[name].to_pylist()


def test_columns_are_aligned_by_row_id_and_null_elsewhere(ledger: Ledger) -> None:
    ledger.delete(ids=["r5", "r6"])
    row_ids = ledger.row_ids[::-3].copy()  # not in order, not all
    e = pa.field("e", pa.list_(pa.float32(), 2), metadata={b"datumwise": b'{"method": "m"}'})
    values = row_ids.astype(np.float32)
    before = ledger.version
    commit_columns(ledger.uri, [F, e], row_ids, {"f": values, "e": np.stack([values, -values], 1)})
    assert ledger.refresh().version == before + 1
    want = [float(k) if k in set(row_ids.tolist()) else None for k in ledger.row_ids.tolist()]
    assert column(ledger) == want
    assert column(ledger, "e") == [None if v is None else [v, -v] for v in want]
    assert ledger.schema.field("e").metadata == e.metadata
    with pytest.raises(errors.ColumnExists, match="f"):
        commit_columns(ledger.uri, [F], row_ids, {"f": values})


def test_values_of_rows_deleted_meanwhile_are_ignored(ledger: Ledger) -> None:
    row_ids = ledger.row_ids.copy()
    ledger.delete(ids=["r0", "r999"])
    ledger.append(pa.table({"id": ["new"], "y": [1]}))
    commit_columns(ledger.uri, [F], row_ids, {"f": row_ids.astype(np.float32)})
    assert column(ledger) == [*[float(k) for k in row_ids[1:-1]], None]


def test_a_value_that_does_not_fit_is_refused_before_anything_is_written(ledger: Ledger) -> None:
    before = ledger.version
    with pytest.raises(errors.SchemaMismatch, match="column i"):
        commit_columns(ledger.uri, [pa.field("i", pa.int32())], ledger.row_ids, {"i": np.full(N, 1.5)})
    with pytest.raises(errors.SchemaMismatch, match="3 values for 1,000 row ids"):
        commit_columns(ledger.uri, [F], ledger.row_ids, {"f": np.zeros(3)})
    with pytest.raises(errors.SchemaMismatch, match="no values"):
        commit_columns(ledger.uri, [F], ledger.row_ids, {"g": np.zeros(N)})
    assert ledger.refresh().version == before


@pytest.mark.parametrize("limit", [100_000, 50], ids=["merged", "swapped"])
@pytest.mark.parametrize("by", ["row ids", "ids"])
def test_a_patch_sets_the_given_rows_and_no_other(ledger: Ledger, monkeypatch: pytest.MonkeyPatch, limit: int, by: str) -> None:
    monkeypatch.setattr("datumwise.ledger.commit.PATCH_ROWS", limit)
    e = pa.field("e", pa.list_(pa.float32(), 2), metadata={b"datumwise": b'{"method": "m"}'})
    start = np.arange(N, dtype=np.float32)
    some = ledger.row_ids[: N // 2]
    commit_columns(ledger.uri, [F, e], some, {"f": start[: N // 2], "e": np.zeros((N // 2, 2))})
    ledger.refresh()
    at = np.random.default_rng(0).permutation(N)[:200]
    keys: Any = ledger.row_ids[at] if by == "row ids" else ledger.ids[at].tolist()
    if by == "row ids":
        ledger.delete(ids=["r7"])  # gone: its value is ignored
    new = -1 - at.astype(np.float32)
    patch_columns(ledger.uri, [F, e], keys, {"f": new, "e": np.stack([new, new], 1)})
    want: dict[str, float | None] = {f"r{i}": float(i) if i < N // 2 else None for i in range(N)}
    want.update({f"r{i}": -1.0 - i for i in at.tolist()})
    found = ledger.refresh().table(["id", "f", "e"])
    assert len(found) == N - (by == "row ids")
    assert found["f"].to_pylist() == [want[k] for k in found["id"].to_pylist()]
    changed = {f"r{i}" for i in at.tolist()}
    for key, pair in zip(found["id"].to_pylist(), found["e"].to_pylist(), strict=True):
        expected = [want[key]] * 2 if key in changed else ([0.0, 0.0] if int(key[1:]) < N // 2 else None)
        assert pair == expected
    assert ledger.schema.field("e").metadata[b"datumwise"] == e.metadata[b"datumwise"]
    assert set(ledger.schema.names) == {"id", "y", "f", "e"}


def test_a_patch_names_ids_and_columns_that_are_not_there(ledger: Ledger) -> None:
    commit_columns(ledger.uri, [F], ledger.row_ids, {"f": np.zeros(N)})
    with pytest.raises(errors.MissingId, match="zz") as caught:
        patch_columns(ledger.uri, [F], ["r1", "zz"], {"f": [1.0, 2.0]})
    assert caught.value.ids == ["zz"]
    with pytest.raises(errors.UnknownColumn, match="g"):
        patch_columns(ledger.uri, [F.with_name("g")], ["r1"], {"g": [1.0]})


def test_mending_a_given_column_makes_stopped_passes_forget_those_rows(ledger: Ledger) -> None:
    journal = Journal(ledger.path / "journal" / "k")
    journal.write(ledger.row_ids[:10], {"f": np.zeros(10)})
    patch_columns(ledger.uri, [pa.field("y", pa.int64())], ["r3"], {"y": [-1]})
    assert 3 not in Journal(journal.path).done_row_ids()
    assert Journal(journal.path).num_rows == 9


def test_replaced_columns_swap_together_and_may_keep_what_is_not_new(ledger: Ledger) -> None:
    g = F.with_name("g")
    commit_columns(ledger.uri, [F], ledger.row_ids, {"f": np.arange(N)})
    half = ledger.row_ids[::2]
    new = {"f": np.full(N // 2, -1.0), "g": np.full(N // 2, -2.0)}
    replace_columns(ledger.uri, [F, g], half, new, keep=True)
    assert column(ledger) == [-1.0 if i % 2 == 0 else float(i) for i in range(N)]
    assert column(ledger, "g") == [-2.0 if i % 2 == 0 else None for i in range(N)]
    replace_columns(ledger.uri, [F], half, {"f": np.zeros(N // 2)})
    assert column(ledger) == [0.0 if i % 2 == 0 else None for i in range(N)]
    assert set(lance.dataset(ledger.uri).schema.names) == {"id", "y", "f", "g"}


def test_a_journal_is_committed_as_arrays_are(ledger: Ledger) -> None:
    rng = np.random.default_rng(1)
    journal = Journal(ledger.path / "journal" / "k")
    values = rng.normal(size=N)
    for part in np.array_split(rng.permutation(N)[:700], 7):
        journal.write(ledger.row_ids[part], {"f": values[part], "g": values[part]})
    row_ids, table = journal.read()
    commit_columns(ledger.uri, [pa.field("f", pa.float64())], None, journal)
    commit_columns(ledger.uri, [pa.field("g", pa.float64())], row_ids, table)
    assert column(ledger, "f") == column(ledger, "g")
    assert sum(v is not None for v in column(ledger, "f")) == 700


def test_an_empty_ledger_takes_a_column(tmp_path: Path) -> None:
    schema = pa.schema([("id", pa.string()), ("y", pa.int64())])
    empty = create_ledger(tmp_path / "e", [], schema=schema, id_column="id")
    commit_columns(empty.uri, [F], np.empty(0, np.uint64), {"f": np.empty(0)})
    assert "f" in empty.refresh().schema.names


# ---------------------------------------------------------------- swaps cut short


@pytest.mark.parametrize(("after", "stands"), [("add", 4), ("swap", 5)])
def test_a_killed_swap_is_undone_or_finished(ledger: Ledger, processes: Any, after: str, stands: int) -> None:
    child.swap(ledger.path, 4, 5)
    run = processes.Process(target=child.swap_and_die, args=(ledger.path, after))
    run.start()
    run.join()
    assert run.exitcode == 9
    assert leftovers(lance.dataset(ledger.uri).schema)
    reopened = open_ledger(ledger.path)
    assert set(lance.dataset(ledger.uri).schema.names) == {"id", "y", "f"}
    assert set(column(reopened)) == {stands}
    made = reopened.provenance("f")
    assert made is not None
    assert made.params == {"k": stands}
    child.swap(ledger.path, 6, 7)
    assert set(column(reopened)) == {6}


def test_columns_of_the_users_that_look_like_leftovers_are_left(tmp_path: Path) -> None:
    table = pa.table({"id": ["a"], "price": [1.0], "price__old": [2.0], "price__new": [3.0]})
    ledger = create_ledger(tmp_path / "u", table.to_batches(), schema=table.schema, id_column="id")
    assert leftovers(lance.dataset(ledger.uri).schema) == []
    assert recover(ledger.uri) == []
    with pytest.raises(errors.SchemaMismatch, match="reserved"):
        commit_columns(ledger.uri, [F.with_name("x__new")], ledger.row_ids, {"x__new": [1.0]})


def test_overwrite_is_never_half_seen(ledger: Ledger, processes: Any) -> None:
    child.swap(ledger.path, 0, 1)
    writer = processes.Process(target=child.swap, args=(ledger.path, 1, 201))
    writer.start()
    seen = set()
    while writer.is_alive():
        now = open_ledger(ledger.path)
        values, made = np.unique(now.array("f")), now.provenance("f")
        assert made is not None
        assert values.tolist() == [made.params["k"]]
        assert set(now.schema.names) == {"id", "y", "f"}
        assert not seen or values[0] >= max(seen)
        seen.add(int(values[0]))
    writer.join()
    assert writer.exitcode == 0
    assert set(column(ledger)) == {200}
    assert len(seen) > 5  # the reader did look while it went on


def test_two_processes_add_different_columns_at_once(ledger: Ledger, processes: Any) -> None:
    barrier = processes.Barrier(2)
    runs = [processes.Process(target=child.write_column, args=(ledger.path, k, barrier)) for k in "pq"]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
        assert run.exitcode == 0
    ledger.refresh()
    for name in "pq":
        for k in range(10):
            assert (ledger.array(f"{name}{k}") == np.arange(N) + k).all()
            made = ledger.provenance(f"{name}{k}")
            assert made is not None
            assert made.agrees(Provenance(name, {"k": k}))
