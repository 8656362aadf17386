"""A ledger shows itself: every name whole, within 80 columns, and as HTML that cannot be injected into."""

from __future__ import annotations

from pathlib import Path

import ledger_cases as cases
import numpy as np
import pyarrow as pa
import pytest

from datumwise.ledger import Ledger, create_ledger
from datumwise.ledger.display import rows


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = cases.ledger_of(tmp_path)
    long = "a_rather_long_name_of_a_finding"
    ledger.write(
        {"s": np.arange(float(cases.N)), "e": np.zeros((cases.N, 8)), long: np.ones(cases.N, bool)},
        provenance=cases.MADE,
    )
    ledger.append(cases.rows(2, 100))
    return ledger


def test_text_fits_80_columns_and_cuts_no_name(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in ("60", "80", "200"):
        monkeypatch.setenv("COLUMNS", columns)
        lines = repr(ledger).splitlines()
        assert all(len(line) <= min(int(columns), 80) for line in lines)
        for column in ledger.columns:
            assert any(line == column.name or line.startswith(f"{column.name} ") for line in lines)
    assert lines[0].startswith("pets: 42 rows, version 3, ")


def test_text_tells_kind_range_samples_and_maker(ledger: Ledger) -> None:
    shown = repr(ledger)
    told = {line.split()[0]: line for line in shown.splitlines()[3:] if not line.startswith(" ")}
    assert "given" in told["x"]
    assert "0 to 101" in told["x"]
    assert "given, label" in told["label"]
    assert "cat, dog, eel" in told["label"]
    assert "0 to 39" in told["s"]
    assert "el2n" in told["s"]
    assert "8 × float" in told["e"]
    lines = shown.splitlines()
    assert "40 true" in lines[lines.index("a_rather_long_name_of_a_finding") + 1]
    assert "(2 missing)" in " ".join(shown.split())
    makers = {row.name: row.made_by for row in rows(ledger)}
    assert makers["s"] == "el2n, model 3f2a, seed 0, version 1"
    assert makers["x"] == ""


def test_html_is_safe_and_self_contained(tmp_path: Path) -> None:
    batch = pa.record_batch({"<b>x": ["<script>alert(1)</script>"] * 2, "y": [1.0, 2.0]})
    page = create_ledger(tmp_path / "h", [batch], schema=batch.schema)._repr_html_()
    assert "<script" not in page
    assert "&lt;b&gt;x" in page
    assert "currentColor" in page
    assert "http" not in page
    assert page.count("<tr>") == 1 + 3
    assert "<svg" in page
