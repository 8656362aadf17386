"""Every write is a version; any version can be opened, named, compared and restored."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import ledger_cases as cases
import numpy as np
import pyarrow as pa
import pytest

from datumwise.errors import ColumnExists, DatumwiseError, UnknownName
from datumwise.ledger import Ledger, create_ledger, open_ledger


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
    assert [(v.number, v.what) for v in ledger.versions()] == [
        (1, "created with 40 rows"),
        (2, "+ s"),
        (3, "1 row added"),
        (5, "2 rows deleted; noted note"),
        (8, "~ s"),
        (9, "- s"),
    ]
    assert [v.tags for v in ledger.versions() if v.tags] == [("now",)]
    assert ledger.versions()[3].rows == cases.N - 1
    assert all(a.time <= b.time for a, b in zip(ledger.versions(), ledger.versions()[1:], strict=False))


def test_every_act_is_one_line_and_every_number_can_still_be_opened_and_restored(tmp_path: Path) -> None:
    facts: dict[str, int] = {}

    def batches() -> Iterator[pa.RecordBatch]:
        yield cases.rows()
        facts["late"] = 1  # costs the store a second step

    ledger = create_ledger(tmp_path / "a", batches(), schema=cases.rows().schema, id_column="doc", metadata=facts)
    again = replace(cases.MADE, seed=1)
    acts: list[tuple[Callable[[], object], str]] = [
        (lambda: ledger.write({"s": np.zeros(40), "t": np.zeros(40)}, provenance=cases.MADE), r"\+ s, t"),
        (lambda: ledger.write({"s": np.ones(40), "u": np.ones(40)}, provenance=again, overwrite=True), r"\+ u; ~ s"),
        (lambda: ledger.write({"s": [3.0]}, ids=["doc0002"], provenance=again, overwrite=True), "values patched"),
        (lambda: ledger.append(cases.rows(1, 100)), "1 row added"),
        (lambda: ledger.append(cases.rows(1, 101)), "1 row added"),
        (ledger.compact, "files tidied"),
        (lambda: ledger.delete(["doc0001", "doc0101"]), "2 rows deleted"),
        (lambda: ledger.restore(2), r"version 2 restored: - t, s, u"),
    ]
    stands = [ledger.version]
    for act, _ in acts:
        act()
        stands.append(ledger.refresh().version)
    found = ledger.versions()
    assert [v.number for v in found] == stands
    assert found[0].what == "created with 40 rows"
    for version, (_, said) in zip(found[1:], acts, strict=True):
        assert re.fullmatch(said, version.what), version
    assert ledger.version > len(found)
    for number in range(1, ledger.version + 1):
        rows = len(open_ledger(ledger.path, number))
        assert ledger.restore(number) == ledger.version
        assert len(ledger) == rows
        assert not any(name.endswith(("__new", "__old")) for name in ledger.schema.names)


def test_a_step_in_between_is_listed_while_it_has_a_tag(ledger: Ledger) -> None:
    ledger.write({"s": np.zeros(cases.N)}, provenance=cases.MADE)
    ledger.write({"s": np.ones(cases.N)}, provenance=cases.MADE, overwrite=True)
    assert [v.number for v in ledger.versions()] == [1, 2, 5]
    ledger.tag("half", 4)
    assert [(v.number, v.tags) for v in ledger.versions()] == [(1, ()), (2, ()), (4, ("half",)), (5, ())]
    assert open_ledger(ledger.path, "half").array("s").sum() == cases.N
    ledger.untag("half")
    assert [v.number for v in ledger.versions()] == [1, 2, 5]


def test_a_fact_noted_much_later_is_an_act_of_its_own(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.append(cases.rows(1, 100))
    ledger.set_metadata(a=1, b=2)
    assert [v.what for v in ledger.versions()][1:] == ["1 row added; noted a, b"]
    monkeypatch.setattr("datumwise.ledger.versions.FACTS_SECONDS", 0)
    assert [v.what for v in ledger.versions()][1:] == ["1 row added", "noted a, b"]


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
