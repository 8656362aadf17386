"""Every write is a version; any version can be opened, named, compared and restored."""

from __future__ import annotations

from pathlib import Path

import ledger_cases as cases
import numpy as np
import pytest

from datumwise.errors import ColumnExists, DatumwiseError, UnknownName
from datumwise.ledger import Ledger, open_ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return cases.ledger_of(tmp_path)


def test_versions_say_what_changed(ledger: Ledger) -> None:
    ledger.write({"s": np.zeros(cases.N)}, provenance=cases.MADE)
    ledger.append(cases.rows(1, 100))
    ledger.delete(["doc0001", "doc0002"])
    ledger.set_metadata(note=1)
    ledger.tag("now")
    ledger.write({"s": np.zeros(len(ledger))}, provenance=cases.MADE, overwrite=True)
    ledger.drop("s")
    told = {v.number: v.what for v in ledger.versions()}
    assert [told[k] for k in range(1, 6)] == [
        "created with 40 rows",
        "+ s",
        "1 row added",
        "2 rows deleted",
        "facts noted",
    ]
    assert told[ledger.version] == "- s"
    assert "~ s" in told.values()
    assert [v.tags for v in ledger.versions() if v.tags] == [("now",)]
    assert ledger.versions()[3].rows == cases.N - 1
    assert all(a.time <= b.time for a, b in zip(ledger.versions(), ledger.versions()[1:], strict=False))


def test_an_earlier_version_is_as_it_was(ledger: Ledger) -> None:
    ledger.tag("start")
    ledger.delete(where="x < 10")
    ledger.append(cases.rows(2, 100))
    for version in (1, "1", "start"):
        old = open_ledger(ledger.path, version=version)
        assert old.array("x").tolist() == list(range(cases.N))
        assert old.refresh().version == 1
    assert ledger.tags() == {"start": 1}


def test_restore_is_a_new_version_and_later_rows_get_row_ids_of_their_own(ledger: Ledger) -> None:
    ledger.append(cases.rows(1, 100))
    lost = ledger.row_ids[-1]
    ledger.restore(1)
    assert ledger.version == 3
    assert len(ledger) == cases.N
    ledger.append(cases.rows(1, 101))
    assert ledger.row_ids[-1] != lost  # else a stopped pass would take the one row for the other
    assert open_ledger(ledger.path, version=2).ids[-1] == "doc0100"
    with pytest.raises(UnknownName, match="there is no version or tag 'nope'"):
        ledger.restore("nope")


def test_tags_are_named_once_and_removed_by_name(ledger: Ledger) -> None:
    ledger.tag("v1")
    with pytest.raises(ColumnExists, match=r"there is a tag 'v1' already: remove it with untag\('v1'\)"):
        ledger.tag("v1")
    for bad in ("", "a b", "12", "a/b"):
        with pytest.raises(DatumwiseError, match="cannot be a tag"):
            ledger.tag(bad)
    ledger.tag("paper")
    with pytest.raises(UnknownName, match="did you mean 'paper'"):
        ledger.untag("papr")
    ledger.untag("v1")
    ledger.untag("paper")
    assert ledger.tags() == {}


def test_diff_names_rows_and_columns(ledger: Ledger) -> None:
    ledger.write({"s": np.zeros(cases.N), "t": np.zeros(cases.N)}, provenance=cases.MADE)
    base = ledger.version
    assert not ledger.diff(base)
    assert repr(ledger.diff(base)) == "version 2 -> 2: no difference"
    ledger.append(cases.rows(2, 100))
    ledger.delete(["doc0003", "doc0030"])
    ledger.write({"s": [1.0, np.nan]}, ids=["doc0007", "doc0035"], provenance=cases.MADE, overwrite=True)
    ledger.write({"u": np.zeros(len(ledger))}, provenance=cases.MADE)
    ledger.write({"t": np.ones(len(ledger))}, provenance=cases.MADE, overwrite=True)
    diff = ledger.diff(base)
    assert diff.inserted == ["doc0100", "doc0101"]
    assert diff.deleted == ["doc0003", "doc0030"]
    assert diff.updated == ["doc0007", "doc0035"]
    assert (diff.columns_added, diff.columns_removed) == (["u"], [])
    assert "t" in diff.columns_changed
    assert "s" not in diff.columns_changed
    back = ledger.diff(ledger.version, base)
    assert (back.inserted, back.deleted, back.columns_removed) == (diff.deleted, diff.inserted, ["u"])
    assert ledger.diff(1, base).columns_added == ["s", "t"]
