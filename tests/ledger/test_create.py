"""A ledger comes to be whole or not at all."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import ledger_cases as cases
import numpy as np
import pyarrow as pa
import pytest

from datumwise.errors import (
    DuplicateId,
    LedgerExists,
    LedgerTooNew,
    MissingId,
    NotALedger,
    SchemaMismatch,
    UnknownColumn,
    UnknownName,
)
from datumwise.ledger import Ledger, create_ledger, open_ledger


@pytest.fixture(scope="module")
def processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["datumwise.ledger.ledger", "ledger_cases"])
    return context


def test_what_was_given_comes_back(tmp_path: Path) -> None:
    ledger = cases.ledger_of(tmp_path, source="here", task="classification", metadata={"fingerprint": "ab"})
    assert ledger.path == tmp_path / "pets.ledger"
    assert (ledger.name, ledger.version, len(ledger)) == ("pets", 1, cases.N)
    assert ledger.roles == {"id": "id", "label": "label", "text": "text"}
    assert (ledger.task, ledger.metadata["source"], ledger.metadata["fingerprint"]) == (
        "classification",
        "here",
        "ab",
    )
    expected = cases.rows().rename_columns(["id", "x", "label", "text"])
    assert ledger.table().to_pylist() == expected.to_pylist()
    assert [c.kind for c in ledger.columns] == ["given"] * 4
    assert len(ledger.fragments) == 4
    for name in ("pets", "pets.ledger"):
        assert open_ledger(tmp_path / name).ids.tolist() == ledger.ids.tolist()
    assert Ledger.open(ledger.path).ids.tolist() == expected["id"].to_pylist()


def test_ids_do_not_depend_on_how_the_source_is_cut(tmp_path: Path) -> None:
    batch = cases.rows().drop_columns(["doc"])
    copies = [batch, batch.slice(3, 2)]
    whole = create_ledger(tmp_path / "a", copies, schema=batch.schema)
    cut = (batch.slice(i, 7) for i in range(0, cases.N, 7))
    again = create_ledger(tmp_path / "b", [*cut, batch.slice(3, 1), batch.slice(4, 1)], schema=batch.schema)
    assert whole.ids.tolist() == again.ids.tolist()
    assert whole.ids[-2:].tolist() == [f"{whole.ids[3]}-2", f"{whole.ids[4]}-2"]
    assert all(len(one) == 16 for one in whole.ids[:-2])


def test_numbers_as_ids_become_text_and_order_is_kept(tmp_path: Path) -> None:
    batch = pa.record_batch({"key": [30, 10, 20], "y": [3, 1, 2]})
    ledger = create_ledger(tmp_path / "n", [batch], schema=batch.schema, id_column="key", roles={"features": ["y"]})
    assert ledger.ids.tolist() == ["30", "10", "20"]
    assert ledger.take([10, 30])["y"].to_pylist() == [1, 3]


def test_duplicate_id_is_refused_by_name_and_leaves_nothing(tmp_path: Path) -> None:
    batch = cases.rows()
    with pytest.raises(DuplicateId, match=r"2 ids occur twice in the source \(doc0003, doc0007\)") as caught:
        create_ledger(
            tmp_path / "d",
            [batch, batch.slice(3, 1), batch.slice(7, 1)],
            schema=batch.schema,
            id_column="doc",
        )
    assert caught.value.ids == ["doc0003", "doc0007"]
    assert list(tmp_path.iterdir()) == []


def test_null_id_is_refused(tmp_path: Path) -> None:
    batch = pa.record_batch({"id": ["a", None], "x": [1, 2]})
    with pytest.raises(MissingId, match=r"row 1"):
        create_ledger(tmp_path / "z", [batch], schema=batch.schema, id_column="id")
    assert list(tmp_path.iterdir()) == []


def test_quote_in_id(tmp_path: Path) -> None:
    names = ["o'brien", 'say "no"', "a`b", "c\\d", "e;--", "ü ß", "%_"]
    batch = pa.record_batch({"id": names, "x": list(range(7))})
    ledger = create_ledger(tmp_path / "q", [batch], schema=batch.schema, id_column="id")
    assert ledger.take(list(reversed(names)))["x"].to_pylist() == [6, 5, 4, 3, 2, 1, 0]
    assert ledger.sql("select x from ledger where id = 'o''brien'")["x"].to_pylist() == [0]
    assert ledger.count("id = 'o''brien'") == 1
    assert ledger.delete(["o'brien", "a`b"]) == 2
    assert ledger.ids.tolist() == [n for n in names if n not in ("o'brien", "a`b")]
    assert ledger.delete(['say "no"', "c\\d"], purge=True, yes=True).rows_left == 3


def test_float16_is_refused_by_name(tmp_path: Path) -> None:
    for kind in (pa.float16(), pa.list_(pa.float16()), pa.list_(pa.float16(), 2)):
        schema = pa.schema([("emb", kind)])
        with pytest.raises(SchemaMismatch, match=r"column 'emb' is float16, .*: convert it to float32"):
            create_ledger(tmp_path / "h", [], schema=schema)


@pytest.mark.parametrize(
    ("field", "said"),
    [
        (pa.field("a.b", pa.int64()), "column name 'a.b' holds a '.'"),
        (pa.field("_rowid", pa.int64()), "starts with '_row'"),
        (pa.field("", pa.int64()), "is empty"),
        (pa.field("v", pa.null()), "column 'v' holds nothing but nulls"),
        (pa.field("m", pa.map_(pa.string(), pa.int64())), "column 'm' has the type map"),
        (pa.field("X", pa.int64()), "'x' and 'X' differ in nothing but case"),
        (pa.field("id", pa.string()), "was not named as the id"),
    ],
)
def test_columns_a_ledger_cannot_hold_are_refused(tmp_path: Path, field: pa.Field, said: str) -> None:
    with pytest.raises(SchemaMismatch) as caught:
        create_ledger(tmp_path / "s", [], schema=pa.schema([pa.field("x", pa.int64()), field]))
    assert said in str(caught.value)


def test_missing_column_is_refused(tmp_path: Path) -> None:
    schema = cases.rows().schema
    short = cases.rows(5).drop_columns(["label"])
    wide = cases.rows(5).append_column("extra", pa.array(range(5)))
    text = cases.rows(1).set_column(1, "x", pa.array(["many"]))
    with pytest.raises(SchemaMismatch, match="column 'label' missing from the new rows"):
        create_ledger(tmp_path / "m", [cases.rows(), short], schema=schema, id_column="doc")
    with pytest.raises(SchemaMismatch, match="column 'extra' is not on the ledger"):
        create_ledger(tmp_path / "m", [wide], schema=schema, id_column="doc")
    with pytest.raises(SchemaMismatch, match="column 'x' is string in the new rows and float on the ledger"):
        create_ledger(tmp_path / "m", [text], schema=schema, id_column="doc")
    with pytest.raises(UnknownColumn, match=r"column 'lable' is not in the source .* did you mean 'label'"):
        create_ledger(tmp_path / "m", [], schema=schema, id_column="doc", roles={"label": "lable"})
    assert list(tmp_path.iterdir()) == []


def test_empty_ledger(tmp_path: Path) -> None:
    schema = pa.schema([("x", pa.float32()), ("e", pa.list_(pa.float32(), 3))])
    ledger = create_ledger(tmp_path / "e", iter([]), schema=schema)
    assert (len(ledger), ledger.ids.tolist(), ledger.fragments) == (0, [], [])
    assert (ledger.array("x").shape, ledger.array("e").shape) == ((0,), (0, 3))
    ledger.write({"s": np.empty(0)}, provenance=cases.MADE)
    assert ledger.sql("select count(*) c from ledger")["c"].to_pylist() == [0]
    assert "0 rows" in repr(ledger)
    assert ledger.append(pa.record_batch({"x": [1.0], "e": pa.array([[1.0, 2, 3]], schema.field("e").type)})) == 1
    assert np.isnan(ledger.array("s")).tolist() == [True]


def test_one_row(tmp_path: Path) -> None:
    ledger = cases.ledger_of(tmp_path, 1)
    ledger.write({"s": [1.5], "e": np.ones((1, 2))}, provenance=cases.MADE)
    assert ledger.take(["doc0000"], ["s", "e"]).to_pylist() == [{"s": 1.5, "e": [1.0, 1.0]}]
    assert ledger.delete(["doc0000"]) == 1
    assert len(ledger) == 0


def test_dictionaries_are_stored_as_what_they_stand_for(tmp_path: Path) -> None:
    batch = pa.record_batch({"label": pa.array(["a", "b", "a"]).dictionary_encode()})
    ledger = create_ledger(tmp_path / "dict", [batch], schema=batch.schema)
    assert ledger.schema.field("label").type == pa.string()
    assert ledger.array("label").tolist() == ["a", "b", "a"]
    assert ledger.append(pa.record_batch({"label": pa.array(["c"]).dictionary_encode()})) == 1


def test_facts_may_come_while_the_rows_do(tmp_path: Path) -> None:
    unreadable: dict[str, Any] = {"unreadable": []}

    def batches() -> Iterator[pa.RecordBatch]:
        yield cases.rows()
        unreadable["unreadable"].append("doc0099")

    ledger = create_ledger(tmp_path / "f", batches(), schema=cases.rows().schema, id_column="doc", metadata=unreadable)
    assert ledger.metadata["unreadable"] == ["doc0099"]
    assert ledger.set_metadata(note=1, unreadable=None) == ledger.version
    assert ledger.metadata.get("unreadable") is None
    assert open_ledger(ledger.path).metadata["note"] == 1


def test_an_error_in_the_source_is_the_sources_own(tmp_path: Path) -> None:
    def batches() -> Iterator[pa.RecordBatch]:
        yield cases.rows()
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        create_ledger(tmp_path / "x", batches(), schema=cases.rows().schema, id_column="doc")
    assert list(tmp_path.iterdir()) == []


def test_a_ledger_is_not_overwritten_unless_asked(tmp_path: Path) -> None:
    ledger = cases.ledger_of(tmp_path)
    with pytest.raises(LedgerExists, match=r"pets.ledger exists: choose another name, or pass overwrite=True"):
        cases.ledger_of(tmp_path)
    assert len(cases.ledger_of(tmp_path, 3, overwrite=True)) == 3
    with pytest.raises(DuplicateId):
        create_ledger(
            ledger.path,
            [cases.rows(), cases.rows()],
            schema=cases.rows().schema,
            id_column="doc",
            overwrite=True,
        )
    assert len(open_ledger(ledger.path)) == 3  # the old one stood
    (tmp_path / "mine.ledger").mkdir()
    with pytest.raises(LedgerExists, match="exists and is not a ledger"):
        create_ledger(tmp_path / "mine", [], schema=cases.rows().schema, id_column="doc", overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.ledger", "pets.ledger"]


def test_a_killed_overwrite_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    old = cases.ledger_of(tmp_path)
    aside = tmp_path / ".pets.ledger.replaced"
    old.path.rename(aside)  # killed between the two renames
    assert len(open_ledger(tmp_path / "pets")) == cases.N
    assert not aside.exists()
    shutil.copytree(old.path, aside)  # killed after them
    cases.ledger_of(tmp_path, 5, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["pets.ledger"]
    assert len(open_ledger(old.path)) == 5


def test_killed_creation_leaves_nothing_that_counts(tmp_path: Path, processes: Any) -> None:
    started = processes.Event()
    run = processes.Process(target=cases.create_slowly, args=(tmp_path / "k", started))
    run.start()
    assert started.wait(60)
    part = next(tmp_path.glob(".k.ledger.*.part"))
    schema = cases.rows().schema
    create_ledger(tmp_path / "k", [cases.rows()], schema=schema, id_column="doc")
    assert part.exists()  # its owner lives
    run.kill()
    run.join()
    with pytest.raises(NotALedger):
        open_ledger(tmp_path / "other")
    assert len(create_ledger(tmp_path / "k", [], schema=schema, id_column="doc", overwrite=True)) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["k.ledger"]


def test_what_is_no_ledger_is_not_opened(tmp_path: Path) -> None:
    with pytest.raises(NotALedger, match=r"nope does not exist: make one with datumwise.ingest"):
        open_ledger(tmp_path / "nope")
    (tmp_path / "folder").mkdir()
    with pytest.raises(NotALedger, match="folder is not a ledger"):
        open_ledger(tmp_path / "folder")
    lance.write_dataset(pa.table({"x": [1]}), tmp_path / "foreign.ledger" / "data.lance")
    with pytest.raises(NotALedger, match="that datumwise did not write"):
        open_ledger(tmp_path / "foreign")


def test_a_newer_ledger_is_refused(tmp_path: Path) -> None:
    ledger = cases.ledger_of(tmp_path)
    facts = {**ledger.metadata, "format": 2}
    lance.dataset(ledger.uri).update_schema_metadata({"datumwise": json.dumps(facts)})
    with pytest.raises(LedgerTooNew, match=r"newer datumwise \(format 2, this one reads 1\): upgrade"):
        open_ledger(ledger.path)


def test_unknown_version_is_refused(tmp_path: Path) -> None:
    ledger = cases.ledger_of(tmp_path)
    ledger.tag("first")
    with pytest.raises(UnknownName, match="did you mean 'first'"):
        open_ledger(ledger.path, version="frist")
    with pytest.raises(UnknownName, match="versions 1 to 1"):
        open_ledger(ledger.path, version=7)


def test_a_read_only_place_is_said_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from datumwise.errors import ReadOnly

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # as root, folders without write permission are written to
    with pytest.raises(ReadOnly, match="cannot be written to"):
        cases.ledger_of(tmp_path)
