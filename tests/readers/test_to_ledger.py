"""`datumwise.ingest`: from what people hold to a ledger, or one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datumwise.errors import (
    DuplicateId,
    EmptyData,
    LabelError,
    LedgerExists,
    MissingId,
    NotALedger,
    NotFinite,
    SchemaMismatch,
    SourceError,
    UnknownColumn,
)
from datumwise.readers import ingest
from datumwise.readers.images import encoded

CSV = "id,width,kind,y\n" + "".join(f"{i:03d},{i}.5,{'uv'[i % 2]},{'ab'[i % 2]}\n" for i in range(20))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(name: str, text: str | bytes) -> Path:
    path = Path(name)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_table_on_disk_becomes_a_ledger_with_roles_ids_and_task() -> None:
    ledger = ingest(write("plants.csv", CSV))
    assert ledger.path.name == "plants.ledger"
    assert list(ledger.ids[:2]) == ["000", "001"]
    assert ledger.roles == {"id": "id", "label": "y", "features": ["width", "kind"]}
    assert ledger.task == "classification"
    assert ledger.array("width").tolist() == [i + 0.5 for i in range(20)]


def test_csv_parquet_jsonl_and_memory_give_the_same_datapoints() -> None:
    import pyarrow.csv as arrow_csv

    table = pa.table({"width": np.arange(9) / 4, "y": ["a", "b", "c"] * 3})
    pq.write_table(table, "t.parquet")
    arrow_csv.write_csv(table, "t.csv")
    write("t.jsonl", "\n".join(map(json.dumps, table.to_pylist())))
    ledgers = [ingest(source, out=f"l{i}") for i, source in enumerate(("t.parquet", "t.csv", "t.jsonl", table))]
    for ledger in ledgers[1:]:
        assert list(ledger.ids) == list(ledgers[0].ids)
        assert ledger.table().to_pylist() == ledgers[0].table().to_pylist()


def test_the_same_source_again_reopens_the_ledger() -> None:
    first = ingest(write("plants.csv", CSV))
    touched = first.path.stat().st_mtime_ns
    again = ingest("plants.csv")
    assert (again.version, again.path.stat().st_mtime_ns) == (first.version, touched)


def test_another_source_or_other_options_are_refused_until_overwriting_is_asked_for() -> None:
    ingest(write("plants.csv", CSV))
    with pytest.raises(LedgerExists, match=r"other options \(label was not given, is kind; features was"):
        ingest("plants.csv", label="kind", features=["width"])
    write("plants.csv", CSV + "020,1.0,u,a\n")
    with pytest.raises(LedgerExists, match="another source or another state of it: overwrite=True"):
        ingest("plants.csv")
    assert len(ingest("plants.csv", overwrite=True)) == 21


def test_a_refused_source_leaves_nothing_behind_and_an_older_ledger_alone() -> None:
    ingest(write("plants.csv", CSV))
    write("plants.csv", CSV + "020,nan,u,a\n")
    with pytest.raises(NotFinite):
        ingest("plants.csv", overwrite=True)
    assert sorted(p.name for p in Path().iterdir()) == ["plants.csv", "plants.ledger"]
    assert len(ingest("plants.ledger")) == 20


def test_a_ledger_and_its_path_are_returned_as_they_are() -> None:
    ledger = ingest(write("plants.csv", CSV))
    assert ingest(ledger) is ledger
    assert ingest("plants.ledger").version == ledger.version
    with pytest.raises(NotALedger):
        ingest("none.ledger")


def test_target_is_a_label_for_regression() -> None:
    ledger = ingest({"a": np.arange(50.0), "dose": np.arange(50) / 7}, target="dose")
    assert (ledger.task, ledger.roles["label"]) == ("regression", "dose")


def test_pictures_are_stored_and_the_unreadable_listed(tmp_path: Path) -> None:
    for i, name in enumerate(("cat/1.png", "dog/1.png")):
        path = Path("pets") / name
        path.parent.mkdir(parents=True)
        path.write_bytes(encoded(np.full((4, 4), i, np.uint8)))
    Path("pets/dog/bad.png").write_bytes(b"")
    ledger = ingest("pets")
    assert list(ledger.ids) == ["cat/1.png", "dog/1.png"]
    assert ledger.metadata["unreadable"] == {"dog/bad.png": "empty file"}
    assert ledger.array("label").tolist() == ["cat", "dog"]


def test_a_column_of_paths_is_read_from_beside_the_file() -> None:
    Path("in").mkdir()
    Path("in/a.png").write_bytes(encoded(np.zeros((4, 4), np.uint8)))
    pq.write_table(pa.table({"id": ["p", "q"], "file": ["a.png", "b.png"]}), "in/t.parquet")
    ledger = ingest("in/t.parquet", image="file")
    assert ledger.array("image_path").tolist() == ["a.png"]
    assert ledger.metadata["unreadable"] == {"q": "no such file: b.png"}


def test_vectors_of_one_length_become_an_array_and_others_are_refused() -> None:
    write("e.jsonl", '{"e": [1, 2], "y": "a"}\n{"e": [3, 4], "y": "b"}\n')
    assert ingest("e.jsonl").array("e").tolist() == [[1, 2], [3, 4]]
    write("f.jsonl", '{"e": [1, 2], "y": "a"}\n{"e": [3], "y": "b"}\n')
    with pytest.raises(SchemaMismatch, match=r"2 numbers in the first row, and another count in row 1"):
        ingest("f.jsonl")


def test_a_folder_of_parquet_files_is_one_source() -> None:
    Path("shards").mkdir()
    for i in range(3):
        pq.write_table(pa.table({"a": [float(i)]}), f"shards/{i}.parquet")
    assert ingest("shards").array("a").tolist() == [0.0, 1.0, 2.0]


def test_progress_counts_rows_up_to_the_total() -> None:
    pq.write_table(pa.table({"a": np.arange(20_000.0)}), "t.parquet")
    seen: list[tuple[int, int]] = []
    ingest("t.parquet", progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (20_000, 20_000)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_a_reader_can_be_read_once_and_is_never_taken_for_an_older_one() -> None:
    table = pa.table({"a": [1.0, 2.0]})
    assert len(ingest(table.to_reader(), out="r")) == 2
    with pytest.raises(LedgerExists):
        ingest(table.to_reader(), out="r")


@pytest.mark.parametrize(
    ("name", "content", "options", "kind", "sentence"),
    [
        ("t.csv", "", {}, EmptyData, r"t.csv is empty \(0 bytes\)"),
        ("t.csv", "a,b\n", {}, EmptyData, r"t.csv has no rows"),
        ("t.parquet", b"PAR1 and nothing", {}, SourceError, "not a whole Parquet file"),
        ("t.xlsx", "x", {}, SourceError, r"t.xlsx is of no format .*: save it as CSV or Parquet"),
        (
            "t.csv",
            CSV,
            {"label": "z"},
            UnknownColumn,
            r"column 'z' is not in t.csv \(columns: id, width, kind, y\)",
        ),
        ("t.csv", CSV + "000,1.5,u,a\n", {}, DuplicateId, r"000"),
        ("t.csv", CSV + ",1.5,u,a\n", {}, MissingId, r"row 20"),
        (
            "t.csv",
            CSV + "020,nan,u,a\n",
            {},
            NotFinite,
            r"'width' is NaN or infinite in 1 row \(id 020\)",
        ),
        ("t.csv", CSV + "020,inf,u,a\n", {}, NotFinite, r"id 020"),
        ("t.csv", CSV + "020,1.5,u,\n", {}, LabelError, r"'y' has no label in 1 row \(id 020\)"),
    ],
)
def test_bad_files_are_refused_in_one_sentence(
    name: str, content: str | bytes, options: dict, kind: type[Exception], sentence: str
) -> None:
    write(name, content)
    with pytest.raises(kind, match=sentence) as caught:
        ingest(name, **options)
    assert "\n" not in str(caught.value)
    assert not list(Path().glob("*.ledger"))


def test_float16_columns_are_refused_by_name_as_the_ledger_does() -> None:
    with pytest.raises(SchemaMismatch, match="column 'h' is float16"):
        ingest(pa.table({"h": pa.array(np.zeros(3, np.float16))}))
    assert ingest(np.zeros((3, 2), np.float16)).array("x").dtype == np.float32


@pytest.mark.parametrize("source", [[1, 2], object(), 3])
def test_objects_of_no_known_kind_are_refused(source: object) -> None:
    with pytest.raises(SourceError, match="cannot read a"):
        ingest(source)


def test_a_missing_file_offers_the_nearest() -> None:
    write("reviews.csv", CSV)
    with pytest.raises(SourceError, match=r"no such file: reviws.csv: did you mean reviews.csv\?"):
        ingest("reviws.csv")
    Path("empty").mkdir()
    with pytest.raises(EmptyData, match="folder empty is empty"):
        ingest("empty")


def test_frames_and_labels_come_as_a_pair() -> None:
    pd = pytest.importorskip("pandas")
    pl = pytest.importorskip("polars")
    X, y = np.arange(6.0).reshape(3, 2), ["a", "b", "a"]
    one = ingest((pd.DataFrame(X, columns=["u", "v"]), y), out="one")
    two = ingest((pl.DataFrame(X, schema=["u", "v"]), y), out="two")
    three = ingest((X, np.array(y)), out="three")
    assert one.table().to_pylist() == two.table().to_pylist()
    assert three.roles["features"] == "x"
    assert three.array("label").tolist() == y
