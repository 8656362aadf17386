"""Findings are columns that know where they come from; nothing is overwritten unasked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import ledger_cases as cases
import numpy as np
import pyarrow as pa
import pytest

from datumwise.errors import (
    ColumnExists,
    DatumwiseError,
    LedgerChanged,
    MissingId,
    SchemaMismatch,
    UnknownColumn,
)
from datumwise.ledger import Journal, Ledger, Provenance, open_ledger
from datumwise.ledger.provenance import with_provenance

MADE = cases.MADE


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return cases.ledger_of(tmp_path)


def test_a_finding_comes_back_with_its_provenance(ledger: Ledger) -> None:
    rng = np.random.default_rng(0)
    given = {
        "f": rng.normal(size=cases.N),
        "i": np.arange(cases.N),
        "b": np.arange(cases.N) % 2 == 0,
        "s": [f"s{i}" for i in range(cases.N)],
        "e": rng.normal(size=(cases.N, 3)),
        "h": rng.normal(size=(cases.N, 2)).astype(np.float16),
        "h1": np.arange(cases.N).astype(np.float16),
        "r": [np.arange(i % 4, dtype=np.float32) for i in range(cases.N)],
        "a": pa.array(range(cases.N), pa.uint8()),
        "d": pa.array(["p", "q"] * (cases.N // 2)).dictionary_encode(),
    }
    assert ledger.write(given, provenance=MADE) == 2
    for name in ("f", "i", "b", "s", "a", "d"):
        assert ledger.array(name).tolist() == pa.array(given[name]).to_pylist(), name
    np.testing.assert_array_equal(ledger.array("e"), given["e"].astype(np.float32))
    assert ledger.schema.field("e").type == pa.list_(pa.float32(), 3)
    np.testing.assert_array_equal(ledger.array("h"), given["h"].astype(np.float32))
    np.testing.assert_array_equal(ledger.array("h1"), np.arange(cases.N))
    assert [r.tolist() for r in ledger.array("r")] == [r.tolist() for r in given["r"]]
    made = open_ledger(ledger.path).provenance("e")
    assert made is not None
    assert (made.method, made.params, made.reads, made.model, made.seed, made.higher) == (
        "el2n",
        {"folds": 5},
        ["x"],
        "3f2a",
        0,
        "harder",
    )
    assert (made.ledger_version, made.time[:2]) == (1, "20")
    assert ledger.provenance("x") is None
    assert {c.name for c in ledger.columns if c.kind == "finding"} == set(given)


def test_tensors_and_one_provenance_a_column(ledger: Ledger) -> None:
    torch = pytest.importorskip("torch")
    picked = Provenance("top", kind="selection")
    ledger.write(
        {"t": torch.arange(cases.N, dtype=torch.float32), "keep": np.ones(cases.N, bool)},
        provenance={"t": MADE, "keep": picked},
    )
    assert ledger.array("t").tolist() == list(range(cases.N))
    assert [c.kind for c in ledger.columns[-2:]] == ["finding", "selection"]
    with pytest.raises(UnknownColumn, match="column 'u' has no provenance"):
        ledger.write({"t": np.zeros(cases.N), "u": np.zeros(cases.N)}, provenance={"t": MADE})


def test_some_datapoints_only(ledger: Ledger) -> None:
    ledger.write({"s": [3.0, 1.0]}, ids=["doc0030", "doc0010"], provenance=MADE)
    values = ledger.array("s")
    assert (values[30], values[10], int(np.isnan(values).sum())) == (3.0, 1.0, cases.N - 2)
    assert len(ledger.missing("s")) == cases.N - 2
    assert ledger.missing("nope").tolist() == ledger.row_ids.tolist()
    # filling what is missing needs no leave, changing what is there does
    ledger.write({"s": [7.0]}, ids=["doc0011"], provenance=MADE)
    with pytest.raises(ColumnExists, match=r"column 's' has a value already in 1 of these rows \(doc0030\)"):
        ledger.write({"s": [8.0, 9.0]}, ids=["doc0012", "doc0030"], provenance=MADE)
    assert np.isnan(ledger.array("s")[12])
    ledger.write({"s": [8.0, 9.0]}, ids=["doc0012", "doc0030"], provenance=MADE, overwrite=True)
    assert ledger.array("s")[[10, 11, 12, 30]].tolist() == [1.0, 7.0, 8.0, 9.0]
    with pytest.raises(SchemaMismatch, match="column 's' was made another way"):
        ledger.write({"s": [0.0]}, ids=["doc0013"], provenance=replace(MADE, seed=1))
    with pytest.raises(MissingId, match="nope"):
        ledger.write({"s": [0.0]}, ids=["nope"], provenance=MADE)


def test_vectors_of_some_datapoints_are_nan_elsewhere(ledger: Ledger) -> None:
    ledger.write({"e": np.ones((2, 3))}, ids=["doc0004", "doc0002"], provenance=MADE)
    expected = np.full((cases.N, 3), np.nan)
    expected[[2, 4]] = 1
    np.testing.assert_array_equal(ledger.array("e"), expected)


def test_nan_is_computed_and_null_is_not_yet(ledger: Ledger) -> None:
    values = np.zeros(cases.N)
    values[3] = np.nan
    ledger.write({"s": values}, provenance=MADE)
    assert len(ledger.missing("s")) == 0
    ledger.append(cases.rows(2, start=200))
    assert ledger.missing("s").tolist() == ledger.row_ids[-2:].tolist()


def test_old_and_new_columns_are_written_in_one_version(ledger: Ledger) -> None:
    ledger.write({"s": [1.0]}, ids=["doc0001"], provenance=MADE)
    ledger.write({"s": [2.0], "t": [5.0]}, ids=["doc0002"], provenance=MADE)
    assert ledger.array("s")[[1, 2]].tolist() == [1.0, 2.0]
    assert ledger.array("t")[2] == 5.0
    assert np.isnan(ledger.array("t")[1])


def test_overwriting_needs_leave_and_keeps_the_old_version(ledger: Ledger) -> None:
    first = ledger.write({"s": np.zeros(cases.N)}, provenance=MADE)
    with pytest.raises(ColumnExists, match="column 's' is on the ledger already: pass overwrite=True"):
        ledger.write({"s": np.ones(cases.N)}, provenance=MADE)
    other = replace(MADE, seed=7)
    ledger.write({"s": [str(i) for i in range(cases.N)]}, provenance=other, overwrite=True)
    assert ledger.array("s").tolist() == [str(i) for i in range(cases.N)]
    assert ledger.provenance("s").seed == 7  # type: ignore[union-attr]
    old = open_ledger(ledger.path, version=first)
    assert old.array("s").tolist() == [0.0] * cases.N
    assert old.provenance("s").seed == 0  # type: ignore[union-attr]


def test_what_was_given_is_corrected_only_row_by_row(ledger: Ledger) -> None:
    with pytest.raises(ColumnExists, match="column 'label' was given, not found"):
        ledger.write({"label": ["cat"] * cases.N}, provenance=MADE, overwrite=True)
    with pytest.raises(ColumnExists, match="was given"):
        ledger.write({"label": ["cat"]}, ids=["doc0001"], provenance=MADE)
    ledger.write({"label": ["cat"]}, ids=["doc0001"], provenance=MADE, overwrite=True)
    assert ledger.array("label")[:4].tolist() == ["cat", "cat", "eel", "cat"]
    assert ledger.provenance("label") is None
    with pytest.raises(ColumnExists, match="column 'id' was given"):
        ledger.write({"id": ["z"]}, ids=["doc0001"], provenance=MADE, overwrite=True)


@pytest.mark.parametrize(
    ("values", "error", "said"),
    [
        ({"s": np.zeros(3)}, SchemaMismatch, "column 's' has 3 values for 40 datapoints"),
        ({"s": np.zeros((40, 2, 2))}, SchemaMismatch, "3 dimensions"),
        ({"s": [1, "a"] * 20}, SchemaMismatch, "column 's' mixes types"),
        ({"s": pa.array([None] * 40)}, SchemaMismatch, "nothing but nulls"),
        ({"s": pa.array([1.0] * 40, pa.float16())}, SchemaMismatch, "column 's' is float16"),
        ({"a.b": np.zeros(40)}, SchemaMismatch, "holds a '.'"),
        ({"X": np.zeros(40)}, ColumnExists, "there is a column 'x' already"),
        ({}, DatumwiseError, "nothing to write"),
    ],
)
def test_values_that_do_not_fit_are_refused_and_nothing_is_written(
    ledger: Ledger, values: dict, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        ledger.write(values, provenance=MADE)
    assert open_ledger(ledger.path).version == 1


def test_values_stay_with_their_ids_when_others_write_meanwhile(ledger: Ledger) -> None:
    mine, other = open_ledger(ledger.path), open_ledger(ledger.path)
    values = mine.array("x") * 2
    other.delete(["doc0000", "doc0021"])
    other.append(cases.rows(3, start=300))
    other.delete(["doc0022"], purge=True, yes=True)
    mine.write({"s": values}, provenance=MADE)
    got = dict(zip(mine.ids, mine.array("s"), strict=True))
    assert len(got) == cases.N
    for one, value in got.items():
        if int(one[3:]) >= 300:
            assert np.isnan(value)
        else:
            assert value == 2 * int(one[3:])


def test_what_others_added_can_be_deleted_without_opening_again(ledger: Ledger) -> None:
    open_ledger(ledger.path).append(cases.rows(2, start=300))
    assert ledger.delete(["doc0300"]) == 1
    open_ledger(ledger.path).append(cases.rows(1, start=400))
    assert ledger.delete(where="x >= 300") == 2


def test_an_earlier_version_cannot_be_written(ledger: Ledger) -> None:
    old = open_ledger(ledger.path, version=1)
    for act in (
        lambda: old.write({"s": np.zeros(cases.N)}, provenance=MADE),
        lambda: old.append(cases.rows(1, 99)),
        lambda: old.delete(["doc0001"]),
        lambda: old.drop("x"),
        lambda: old.set_metadata(a=1),
        lambda: old.restore(1),
        old.compact,
    ):
        with pytest.raises(LedgerChanged, match="opened at version 1 to be read"):
            act()


def test_a_journal_adds_fills_and_replaces(ledger: Ledger) -> None:
    def journal_of(rows: np.ndarray, values: np.ndarray) -> Journal:
        journal = Journal(ledger.path / "journal" / "k")
        journal.write(rows, {"s": values})
        return journal

    field = with_provenance(pa.field("s", pa.float64()), MADE)
    rows = ledger.row_ids
    journal = journal_of(rows[:30][::-1], np.arange(30.0)[::-1])
    ledger.commit_journal(journal, [field])
    assert ledger.array("s")[:30].tolist() == list(range(30))
    assert ledger.provenance("s").ledger_version == 1  # type: ignore[union-attr]
    journal.drop()
    for share in (5, 30):  # few rows are patched, many written as a column: the outcome is the same
        journal = journal_of(rows[-share:], np.full(share, -float(share)))
        ledger.commit_journal(journal, [field])
        assert ledger.array("s")[-share:].tolist() == [-share] * share
        assert ledger.array("s")[:10].tolist() == list(range(10))
        journal.drop()
    other = with_provenance(pa.field("s", pa.float64()), replace(MADE, seed=5))
    ledger.commit_journal(journal_of(rows[:1], np.ones(1)), [other])
    assert len(ledger.missing("s")) == cases.N - 1
    assert ledger.provenance("s").seed == 5  # type: ignore[union-attr]


def test_dropped_columns_go_and_needed_ones_stay(ledger: Ledger) -> None:
    ledger.write({"s": np.zeros(cases.N), "t": np.zeros(cases.N)}, provenance=MADE)
    ledger.drop("s")
    assert "s" not in ledger.schema.names
    assert "t" in ledger.schema.names
    with pytest.raises(SchemaMismatch, match="column 'label' is the ledger's label"):
        ledger.drop(["t", "label"])
    with pytest.raises(SchemaMismatch, match="column 'id' is the ledger's id"):
        ledger.drop("id")


def test_provenance_survives_everything(ledger: Ledger) -> None:
    ledger.write({"s": np.arange(float(cases.N)), "near": ["doc0001"] * cases.N}, provenance=MADE)
    expected = ledger.provenance("s")
    steps = [
        lambda: ledger.append(cases.rows(3, start=100)),
        lambda: ledger.delete(["doc0005"]),
        lambda: ledger.write({"s": [1.0]}, ids=["doc0100"], provenance=MADE),
        ledger.compact,
        lambda: ledger.write({"t": np.zeros(len(ledger))}, provenance=replace(MADE, method="t")),
        lambda: ledger.write({"t": np.ones(len(ledger))}, provenance=replace(MADE, method="u"), overwrite=True),
        lambda: ledger.drop("t"),
        lambda: ledger.tag("here"),
        lambda: ledger.restore("here"),
        lambda: ledger.untag("here"),
        lambda: ledger.set_metadata(a=1),
        lambda: ledger.delete(["doc0006"], purge=True, yes=True),
    ]
    for step in steps:
        step()
        assert open_ledger(ledger.path).provenance("s") == expected
