"""Copies hold what the ledger holds, appear whole, and are remembered."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import ledger_cases as cases
import numpy as np
import pyarrow.parquet as pq
import pytest

from datumwise.errors import LedgerExists, SchemaMismatch, SourceError
from datumwise.ledger import Ledger
from datumwise.ledger.export import exports
from datumwise.ledger.provenance import of_field


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = cases.ledger_of(tmp_path)
    e = np.arange(2.0 * cases.N).reshape(-1, 2)
    ledger.write({"s": np.arange(float(cases.N)), "e": e}, provenance=cases.MADE)
    return ledger


def test_parquet_keeps_types_and_provenance(ledger: Ledger, tmp_path: Path) -> None:
    assert ledger.export(tmp_path / "a.parquet") == cases.N
    back = pq.read_table(tmp_path / "a.parquet")
    assert back.to_pylist() == ledger.table().to_pylist()
    assert of_field(back.schema.field("s")) == ledger.provenance("s")


def test_csv_and_jsonl_keep_values(ledger: Ledger, tmp_path: Path) -> None:
    names = ["id", "s", "label"]
    assert ledger.export(tmp_path / "a.csv", names, where="s > 36.5") == 3
    with open(tmp_path / "a.csv") as file:
        assert list(csv.DictReader(file)) == [
            {"id": f"doc{i:04d}", "s": str(i), "label": ("cat", "dog", "eel")[i % 3]} for i in (37, 38, 39)
        ]
    assert ledger.export(tmp_path / "a.jsonl", ["id", "e"], where="s = 2") == 1
    assert json.loads((tmp_path / "a.jsonl").read_text()) == {"id": "doc0002", "e": [4.0, 5.0]}


def test_what_cannot_be_exported_is_refused_and_leaves_no_file(ledger: Ledger, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"cannot export to 'a.xlsx': end it in .parquet, .csv or .jsonl"):
        ledger.export(tmp_path / "a.xlsx")
    with pytest.raises(SchemaMismatch, match=r"column 'e' is .* which CSV cannot hold"):
        ledger.export(tmp_path / "a.csv")
    with pytest.raises(SourceError, match="does not exist: make the folder first"):
        ledger.export(tmp_path / "no" / "a.csv", ["id"])
    (tmp_path / "a.csv").write_text("mine")
    with pytest.raises(LedgerExists, match="pass overwrite=True"):
        ledger.export(tmp_path / "a.csv", ["id"])
    assert (tmp_path / "a.csv").read_text() == "mine"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "pets.ledger"]
    assert ledger.export(tmp_path / "a.csv", ["id"], overwrite=True) == cases.N


def test_copies_are_remembered_without_a_version_of_their_own(ledger: Ledger, tmp_path: Path) -> None:
    version = ledger.version
    ledger.export(tmp_path / "a.csv", ["id"], where="id = 'doc0003'")
    ledger.export(tmp_path / "b.csv", ["id"])
    (tmp_path / "b.csv").unlink()
    assert exports(ledger.path) == [str(tmp_path / "a.csv")]
    assert ledger.refresh().version == version
    assert "doc0003" not in (ledger.path / "exports.jsonl").read_text()
