"""Datapoints join later: checked as at the start, and none twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import ledger_cases as cases
import numpy as np
import pyarrow as pa
import pytest

from datumwise.errors import DatumwiseError, DuplicateId, MissingId, SchemaMismatch
from datumwise.ledger import Ledger, create_ledger, open_ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return cases.ledger_of(tmp_path)


def test_every_shape_of_rows_is_taken(ledger: Ledger) -> None:
    table = pa.Table.from_batches([cases.rows(5, 100), cases.rows(5, 105)])
    assert ledger.append(table) == 10
    assert ledger.append(cases.rows(2, 110).rename_columns(["id", "x", "label", "text"])) == 2
    assert ledger.append(pa.RecordBatchReader.from_batches(table.schema, [cases.rows(3, 112)])) == 3
    assert ledger.append(cases.rows(1, 115 + i) for i in range(4)) == 4
    assert ledger.append([]) == 0
    assert ledger.append(cases.rows(0)) == 0
    assert ledger.ids[cases.N :].tolist() == [f"doc{i:04d}" for i in range(100, 119)]
    assert ledger.array("x")[cases.N :].tolist() == list(range(100, 119))


def test_columns_may_come_in_any_order_and_width(ledger: Ledger) -> None:
    batch = cases.rows(2, 100)
    turned = pa.record_batch(
        {
            "text": batch["text"].cast(pa.large_string()),
            "label": batch["label"].dictionary_encode(),
            "x": pa.array([100, 101], pa.int8()),
            "doc": batch["doc"],
        }
    )
    assert ledger.append(turned) == 2
    assert ledger.take(["doc0101"]).to_pylist() == [{"id": "doc0101", "x": 101.0, "label": "eel", "text": "text number 101"}]


def test_findings_of_new_rows_are_missing(ledger: Ledger) -> None:
    ledger.write({"s": np.zeros(cases.N), "e": np.zeros((cases.N, 2))}, provenance=cases.MADE)
    ledger.append(cases.rows(3, 100))
    assert ledger.missing("s").tolist() == ledger.missing("e").tolist() == ledger.row_ids[-3:].tolist()


def test_ids_that_are_there_are_refused_and_nothing_is_added(ledger: Ledger) -> None:
    with pytest.raises(DuplicateId, match=r"2 ids occur twice on the ledger and in the new rows \(doc0038, doc0039"):
        ledger.append(cases.rows(5, 38))
    with pytest.raises(DuplicateId, match=r"1 id occurs twice in the new rows \(doc0101\)"):
        ledger.append([cases.rows(3, 100), cases.rows(1, 101)])
    assert open_ledger(ledger.path).version == 1


def test_a_duplicate_in_a_late_batch_is_refused_too(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datumwise.ledger.append.LOOK_UP_ROWS", 4)
    with pytest.raises(DuplicateId, match=r"doc0101"):
        ledger.append([cases.rows(10, 100), cases.rows(10, 110), cases.rows(1, 101)])
    with pytest.raises(DuplicateId, match=r"doc0003"):
        ledger.append([cases.rows(10, 100), cases.rows(10, 110), cases.rows(1, 3)])
    assert open_ledger(ledger.path).version == 1
    assert ledger.append([cases.rows(10, 100), cases.rows(10, 105), cases.rows(5, 1)], on_duplicate="skip") == 15
    assert ledger.ids[cases.N :].tolist() == [f"doc{i:04d}" for i in range(100, 115)]


def test_skip_adds_only_what_is_new(ledger: Ledger) -> None:
    assert ledger.append(cases.rows(5, 38), on_duplicate="skip") == 3
    assert ledger.append(cases.rows(5, 38), on_duplicate="skip") == 0
    assert ledger.array("x").tolist() == list(range(43))
    with pytest.raises(DatumwiseError, match="say 'refuse' or 'skip'"):
        ledger.append(cases.rows(1), on_duplicate="ignore")


def test_content_ids_find_what_came_before(tmp_path: Path) -> None:
    batch = cases.rows().drop_columns(["doc"])
    ledger = create_ledger(tmp_path / "c", [batch], schema=batch.schema)
    ledger.write({"s": np.zeros(cases.N)}, provenance=cases.MADE)
    with pytest.raises(DuplicateId):
        ledger.append(batch.slice(3, 2))
    more = cases.rows(45).drop_columns(["doc"])
    assert ledger.append(more, on_duplicate="skip") == 5
    whole = create_ledger(tmp_path / "w", [more], schema=more.schema)
    assert ledger.ids.tolist() == whole.ids.tolist()


def test_missing_column_null_id_and_wrong_type_are_refused(ledger: Ledger) -> None:
    good = cases.rows(2, 100)
    for bad, error, said in [
        (good.drop_columns(["label"]), SchemaMismatch, "column 'label' missing"),
        (good.drop_columns(["doc"]), SchemaMismatch, "column 'doc', which holds the ids, is missing"),
        (good.append_column("more", pa.array([1, 2])), SchemaMismatch, "'more' is not on the ledger"),
        (good.set_column(1, "x", pa.array(["a", "b"])), SchemaMismatch, "'x' is string in the new rows"),
        (good.set_column(0, "doc", pa.array(["a", None])), MissingId, "column 'doc' has no value in 1 row"),
    ]:
        with pytest.raises(error, match=said):
            ledger.append(bad)
    assert open_ledger(ledger.path).version == 1


def test_an_error_of_the_source_adds_nothing_and_leaves_no_file(tmp_path: Path) -> None:
    ledger = cases.ledger_of(tmp_path, rows_per_file=100_000)
    files = sorted(ledger.path.rglob("*"))

    def batches() -> Iterator[pa.RecordBatch]:
        yield cases.rows(300_000, 1000)
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        ledger.append(batches())
    assert open_ledger(ledger.path).version == 1
    assert sorted(ledger.path.rglob("*")) == files
