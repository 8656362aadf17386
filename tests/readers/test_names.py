"""Names that a ledger cannot hold are stored under one it can, and the source's own name still works."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_iris

from datumwise.errors import LedgerExists, SchemaMismatch, UnknownColumn
from datumwise.ledger import open_ledger
from datumwise.ledger.schema import check_schema
from datumwise.readers import ingest
from datumwise.readers.names import storable
from datumwise.readers.to_ledger import described

N = 20
ROWS = {
    "plant.id": [f"p{i:02d}" for i in range(N)],
    "petal.width": np.arange(N) / 4,
    "_rowspan": np.arange(N),
    "size__new": np.arange(N) * 2,
    "Width": np.arange(N) * 3,
    "width": np.arange(N) * 5,
    "kind.of": ["u", "v"] * (N // 2),
}
RENAMED = {
    "plant_id": "plant.id",
    "petal_width": "petal.width",
    "rowspan": "_rowspan",
    "size_new": "size__new",
    "width_2": "width",
    "kind_of": "kind.of",
}
RENAMED_COLUMNS = [{given: name for name, given in RENAMED.items()}.get(name, name) for name in ROWS]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def sources() -> dict[str, Any]:
    frame = pd.DataFrame(ROWS)
    frame.to_csv("plants.csv", index=False)
    frame.to_parquet("plants.parquet")
    return {"csv": "plants.csv", "parquet": "plants.parquet", "pandas": frame, "arrow": pa.table(ROWS)}


def test_columns_of_every_format_are_stored_and_asked_for_by_their_own_names() -> None:
    for kind, source in sources().items():
        ledger = ingest(source, id="plant.id", label="kind.of", features=["petal.width", "width"], out=kind)
        assert ledger.metadata["renamed"] == RENAMED
        assert ledger.roles == {"id": "id", "label": "kind_of", "features": ["petal_width", "width_2"]}
        (row,) = ledger.take(["p03"]).to_pylist()
        del row["id"]
        assert row == {
            "petal_width": 0.75,
            "rowspan": 3,
            "size_new": 6,
            "Width": 9,
            "width_2": 15,
            "kind_of": "v",
        }
        assert ledger.sql("select max(petal_width) m, sum(width_2) s from ledger").to_pylist() == [{"m": 4.75, "s": 950}]
        assert ledger.count("petal_width > 1 and width_2 < 50") == 5


def test_the_stored_name_may_be_given_too_and_the_same_source_reopens() -> None:
    frame = sources()["pandas"]
    first = ingest(frame, id="plant.id", label="kind.of", features=["petal.width"], out="a")
    assert ingest(frame, id="plant_id", label="kind_of", features=["petal_width"], out="a").version == first.version
    with pytest.raises(LedgerExists, match="label was kind_of, is Width"):
        ingest(frame, id="plant.id", label="Width", features=["petal.width"], out="a")
    with pytest.raises(UnknownColumn, match=r"'kind.off' is not in data .*did you mean label='kind_of'"):
        ingest(frame, label="kind.off", out="b")
    assert described(frame, id="plant.id", label="kind.of") == (N, "table", "classification")


def test_new_rows_may_come_under_the_names_of_the_source() -> None:
    for kind, source in sources().items():
        ledger = ingest(source, id="plant.id", label="kind.of", out=kind)
        more = pa.table({**ROWS, "plant.id": [f"q{i:02d}" for i in range(N)]})
        assert ledger.append(more) == N
        assert ledger.append(more.slice(0, 3).rename_columns(RENAMED_COLUMNS), on_duplicate="skip") == 0
        assert ledger.take(["q07"], ["petal_width", "width_2"]).to_pylist() == [{"petal_width": 1.75, "width_2": 35}]
        assert open_ledger(ledger.path).count() == 2 * N


def test_a_name_that_is_taken_is_numbered_and_a_good_name_keeps_to_its_column() -> None:
    names = ["a.b", "a`b", "a_b", "A_B", "a_b_2", "_rowid", "rowid", "x__old", "", "unnamed", "Label", "LABEL"]
    stored = storable(names, taken=["id"])
    assert stored == {
        "a.b": "a_b_3",
        "a`b": "a_b_4",
        "a_b": "a_b",
        "A_B": "A_B_5",
        "a_b_2": "a_b_2",
        "_rowid": "rowid_2",
        "rowid": "rowid",
        "x__old": "x_old",
        "": "unnamed_2",
        "unnamed": "unnamed",
        "Label": "Label",
        "LABEL": "LABEL_2",
    }
    check_schema(pa.schema([(name, pa.int64()) for name in stored.values()]))
    assert list(storable(list(stored.values())).values()) == list(stored.values())


def test_a_column_called_id_makes_room_for_the_one_that_was_named() -> None:
    table = pa.table({"ID": [7, 7, 8], "key": ["a", "b", "c"], "x": [1.0, 2.0, 3.0], "y": ["u", "v", "u"]})
    ledger = ingest(table, id="key")
    assert ledger.ids.tolist() == ["a", "b", "c"]
    assert (ledger.metadata["renamed"], ledger.array("ID_2").tolist()) == ({"ID_2": "ID"}, [7, 7, 8])


def test_a_ledger_without_such_names_notes_nothing() -> None:
    assert "renamed" not in ingest(pa.table({"x": [1.0, 2.0], "y": ["a", "b"]})).metadata


def test_json_lines_and_bunches_are_renamed_too() -> None:
    Path("t.jsonl").write_text("".join(json.dumps({"a.b": i, "y": "uv"[i % 2]}) + "\n" for i in range(6)))
    assert ingest("t.jsonl", features=["a.b"]).roles["features"] == ["a_b"]
    iris = load_iris()
    iris.feature_names = [name.replace(" ", ".") for name in iris.feature_names]
    ledger = ingest(iris, out="iris")
    assert ledger.roles["features"][0] == "sepal_length_(cm)"
    assert ledger.metadata["renamed"]["sepal_length_(cm)"] == "sepal.length.(cm)"


def test_two_columns_of_the_very_same_name_are_refused() -> None:
    pq.write_table(pa.table([[1], [2], [3]], names=["x.y", "x.y", "z"]), "t.parquet")
    for source in ("t.parquet", pa.table([[1], [2]], names=["a", "a"]).to_reader()):
        with pytest.raises(SchemaMismatch, match=r"two columns of .* are called '(x\.y|a)'"):
            ingest(source)
