"""Rows leave a ledger as they came, in the order they came, whatever happened in between."""

from __future__ import annotations

from pathlib import Path

import ledger_cases as cases
import numpy as np
import pyarrow as pa
import pytest

from datumwise.errors import (
    DatumwiseError,
    DuplicateId,
    LedgerChanged,
    MissingId,
    SchemaMismatch,
    UnknownColumn,
)
from datumwise.ledger import Ledger, create_ledger, open_ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return cases.ledger_of(tmp_path)


def test_batches_keep_to_their_size_order_and_fragment(ledger: Ledger) -> None:
    batches = list(ledger.batches(["id", "x"], batch_size=4, with_row_id=True))
    assert [len(b) for b in batches] == [4, 4, 2] * 4
    assert np.concatenate([b["x"].to_numpy() for b in batches]).tolist() == list(range(cases.N))
    assert np.concatenate([b["_rowid"].to_numpy() for b in batches]).tolist() == ledger.row_ids.tolist()
    by_fragment = [b for f in ledger.fragments for b in ledger.batches(["x"], batch_size=4, fragment=f)]
    assert [b["x"].to_pylist() for b in by_fragment] == [b["x"].to_pylist() for b in batches]
    assert batches[0].schema.names == ["id", "x", "_rowid"]


def test_conditions_pick_rows(ledger: Ledger) -> None:
    picked = ledger.table(["id"], where="x >= 3 and label = 'cat'")["id"].to_pylist()
    assert picked == [f"doc{i:04d}" for i in range(3, cases.N) if i % 3 == 0]
    assert ledger.count("x >= 3 and label = 'cat'") == len(picked)
    assert ledger.table(where="x < 0").num_rows == 0
    assert ledger.table(limit=3).num_rows == 3


def test_conditions_that_cannot_be_read_are_refused(ledger: Ledger) -> None:
    with pytest.raises(UnknownColumn, match=r"column 'lable' in the condition .*: did you mean 'label'\?"):
        ledger.count("lable = 'cat'")
    for act in (
        ledger.count,
        lambda where: list(ledger.batches(where=where)),
        lambda where: ledger.delete(where=where),
    ):
        with pytest.raises(DatumwiseError, match='the condition "x >" cannot be read: expected: an expression') as e:
            act("x >")
        assert ".rs" not in str(e.value)


def test_unknown_columns_are_refused_with_the_nearest_name(ledger: Ledger) -> None:
    for act in (ledger.array, ledger.findings, ledger.provenance, ledger.drop, ledger.table):
        with pytest.raises(UnknownColumn, match=r"column 'lable' is not in pets.ledger .*did you mean 'label'\?"):
            act("lable")
    with pytest.raises(UnknownColumn):
        list(ledger.batches(["nope"]))


def test_take_gives_the_order_asked(ledger: Ledger) -> None:
    rng = np.random.default_rng(0)
    asked = rng.permutation(ledger.ids)[:17]
    taken = ledger.take(asked, ["x", "id"])
    assert taken.schema.names == ["x", "id"]
    assert taken["id"].to_pylist() == asked.tolist()
    assert taken["x"].to_pylist() == [float(one[3:]) for one in asked]
    assert ledger.take([]).num_rows == 0


def test_take_names_what_is_missing_or_doubled(ledger: Ledger) -> None:
    with pytest.raises(MissingId, match=r"4 ids are not in pets.ledger \(a, b, c and 1 more\)") as caught:
        ledger.take(["doc0001", "a", "b", "c", "d"])
    assert caught.value.ids == ["a", "b", "c", "d"]
    with pytest.raises(DuplicateId, match=r"given twice \(doc0001\)"):
        ledger.take(["doc0001", "doc0001"])


def test_arrays_hold_every_type(tmp_path: Path) -> None:
    vectors = pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float64(), 2))
    batch = pa.record_batch(
        {
            "f": pa.array([1.5, None, float("nan")], pa.float32()),
            "i": pa.array([1, 2, 3], pa.int16()),
            "n": [1, None, 3],
            "b": [True, False, True],
            "c": [True, None, False],
            "s": ["a", None, ""],
            "v": vectors,
            "w": pa.array([[1, 2, 3]] * 3, pa.list_(pa.int32(), 3)),
            "r": [[1.0], None, [2.0, 3.0]],
            "y": [b"a", None, b""],
            "t": pa.array([0, None, 1], pa.timestamp("us", "UTC")),
            "q": [{"a": 1}, None, {"a": 2}],
        }
    )
    ledger = create_ledger(tmp_path / "t", [batch], schema=batch.schema)
    nan = float("nan")
    for name, dtype, expected in [
        ("f", np.float32, [1.5, nan, nan]),
        ("i", np.int16, [1, 2, 3]),
        ("n", np.float64, [1, nan, 3]),
        ("b", np.bool_, [True, False, True]),
        ("c", np.float64, [1, nan, 0]),
        ("v", np.float64, [[1, 2], [nan, nan], [3, 4]]),
        ("w", np.int32, [[1, 2, 3]] * 3),
    ]:
        array = ledger.array(name)
        assert array.dtype == dtype, name
        np.testing.assert_array_equal(array, np.array(expected, dtype))
    assert ledger.array("s").tolist() == ["a", None, ""]
    assert ledger.array("y").tolist() == [b"a", None, b""]
    assert ledger.array("q").tolist() == [{"a": 1}, None, {"a": 2}]
    ragged = ledger.array("r")
    assert [None if r is None else r.tolist() for r in ragged] == [[1.0], None, [2.0, 3.0]]
    assert np.isnat(ledger.array("t")).tolist() == [False, True, False]


def test_equal_lists_stay_rows_of_their_own(tmp_path: Path) -> None:
    batch = pa.record_batch({"r": [[1, 2], [3, 4]]})
    ragged = create_ledger(tmp_path / "r", [batch], schema=batch.schema).array("r")
    assert ragged.shape == (2,)
    assert [r.tolist() for r in ragged] == [[1, 2], [3, 4]]


def test_order_and_row_ids_survive_deletes_purges_appends_and_compaction(ledger: Ledger) -> None:
    born = dict(zip(ledger.ids, ledger.row_ids.tolist(), strict=True))
    expected = ledger.ids.tolist()

    def agrees() -> None:
        assert ledger.ids.tolist() == expected
        assert np.all(np.diff(ledger.row_ids.astype(np.int64)) > 0)
        assert ledger.array("x").tolist() == [float(one[3:]) for one in expected]
        assert ledger.table(["id"])["id"].to_pylist() == expected
        assert [one for b in ledger.batches(["id"]) for one in b["id"].to_pylist()] == expected
        assert all(born.setdefault(a, b) == b for a, b in zip(ledger.ids, ledger.row_ids.tolist(), strict=True))

    def gone(*ids: str) -> list[str]:
        for one in ids:
            expected.remove(one)
        return list(ids)

    ledger.delete(gone("doc0015"))
    agrees()
    ledger.delete(gone("doc0003"), purge=True, yes=True)
    agrees()
    for k in range(6):
        ledger.append(cases.rows(2, start=100 + 2 * k))
        expected += [f"doc{100 + 2 * k:04d}", f"doc{101 + 2 * k:04d}"]
    ledger.delete(gone("doc0025", "doc0101"))
    agrees()
    before = len(ledger.fragments)
    ledger.compact()
    assert len(ledger.fragments) < before
    agrees()
    ledger.delete(gone("doc0000", "doc0103"), purge=True, yes=True)
    agrees()
    ledger.append(cases.rows(1, start=15))  # comes again, as a new datapoint at the end
    expected.append("doc0015")
    born.pop("doc0015")
    agrees()


def test_ids_cannot_be_changed_by_accident(ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="read-only"):
        ledger.ids[0] = "x"


def test_an_old_handle_says_that_its_version_was_purged(ledger: Ledger) -> None:
    old, other = open_ledger(ledger.path), open_ledger(ledger.path)
    ledger.delete(["doc0000"], purge=True, yes=True)
    for act in (old.table, lambda: old.array("x"), lambda: old.sql("select sum(x) from ledger")):
        with pytest.raises(LedgerChanged, match=r"version 1 of pets\.ledger is gone, for the ledger was purged"):
            act()
    assert len(other.refresh().table()) == cases.N - 1


def test_findings_come_highest_first_with_their_evidence(ledger: Ledger) -> None:
    values = np.arange(cases.N, dtype=float)
    values[5] = np.nan
    values[6] = 99
    ledger.write({"s": values}, provenance=cases.MADE)
    top = ledger.findings("s", limit=3)
    assert top.schema.names == ["id", "s", "label", "text"]
    assert top["id"].to_pylist() == ["doc0006", "doc0039", "doc0038"]
    assert ledger.findings("s").num_rows == cases.N - 1
    with pytest.raises(SchemaMismatch, match="which has no order"):
        ledger.findings("text")


def test_a_ledger_travels_to_another_process_as_its_path(ledger: Ledger) -> None:
    import pickle

    ledger.drop([])
    pinned = open_ledger(ledger.path, version=1)
    assert pickle.loads(pickle.dumps(pinned)).version == 1
    assert pickle.loads(pickle.dumps(ledger)).ids.tolist() == ledger.ids.tolist()


def test_a_null_row_of_whole_numbers_is_nan_and_not_a_number(tmp_path: Path) -> None:
    rows = pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int32(), 2))
    table = pa.table({"id": ["a", "b", "c"], "v": rows})
    made = create_ledger(tmp_path / "vectors", iter(table.to_batches()), schema=table.schema, id_column="id")
    np.testing.assert_array_equal(made.array("v"), [[1, 2], [np.nan, np.nan], [3, 4]])
