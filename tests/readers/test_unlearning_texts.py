"""Texts with ids, from lists, tables and files."""

from __future__ import annotations

import json

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datumwise.errors import DuplicateId, EmptyData, SchemaMismatch, SourceError, UnknownName
from datumwise.readers.unlearning_texts import load_texts

ROWS = [{"id": "a", "text": "one"}, {"id": "b", "text": "two, too"}]


def test_every_holder_of_the_same_rows_gives_the_same_texts(tmp_path):
    datasets = pytest.importorskip("datasets")
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, tmp_path / "rows.parquet")
    pd.DataFrame(ROWS).to_csv(tmp_path / "rows.csv", index=False)
    (tmp_path / "rows.json").write_text(json.dumps(ROWS))
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, ROWS)) + "\n")
    datasets.Dataset.from_list(ROWS).save_to_disk(tmp_path / "saved")
    datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(ROWS), "test": datasets.Dataset.from_list(ROWS[:1])}
    ).save_to_disk(tmp_path / "splits")
    files = [tmp_path / f"rows.{kind}" for kind in ("parquet", "csv", "json", "jsonl")]
    holders = [ROWS, table, pd.DataFrame(ROWS), datasets.Dataset.from_list(ROWS), *files, str(files[0])]
    for holder in [*holders, tmp_path / "saved", tmp_path / "splits"]:
        assert load_texts(holder) == ROWS
    assert load_texts(tmp_path / "splits", split="test") == ROWS[:1]


def test_text_file_is_cut_at_blank_lines_and_an_idk_file_is_lines(tmp_path):
    (tmp_path / "a.txt").write_text("one\nline\n\ntwo\r\n\r\nthree\n", newline="")
    assert [row["text"] for row in load_texts(tmp_path / "a.txt")] == ["one\nline", "two", "three\n"]
    (tmp_path / "idk.jsonl").write_text("I don't know.\nI'm not sure.\n")  # not JSON, whatever its name
    assert [row["text"] for row in load_texts(tmp_path / "idk.jsonl")] == ["I don't know.", "I'm not sure."]


def test_csv_cells_keep_commas_line_breaks_and_leading_zeros(tmp_path):
    (tmp_path / "a.csv").write_text('id,text\n007,"a, b\nc"\n')
    assert load_texts(tmp_path / "a.csv") == [{"id": "007", "text": "a, b\nc"}]


def test_keys_are_found_or_given():
    assert load_texts([{"prompt": "p", "gt": "g"}]) == [{"id": "0", "prompt": "p", "response": "g"}]
    assert load_texts([("p", "r")]) == [{"id": "0", "prompt": "p", "response": "r"}]
    rows = [{"text": "t", "question": "q", "answer": "a", "n": 5}]
    assert load_texts(rows) == [{"id": "0", "text": "t"}]
    assert load_texts(rows, prompt="question", response="answer", id="n") == [{"id": "5", "prompt": "q", "response": "a"}]
    assert load_texts(rows, text="answer") == [{"id": "0", "text": "a"}]


def test_empty_texts_leave_a_gap_in_the_ids():
    assert [row["id"] for row in load_texts(["a", " \n", "", "d"])] == ["0", "3"]
    assert [row["id"] for row in load_texts([("p", ""), ("", "r")])] == ["1"]


@pytest.mark.parametrize(
    ("data", "options", "kind", "sentence"),
    [
        ([], {}, EmptyData, "the data holds no text"),
        (["", " "], {}, EmptyData, "every text of the data is empty"),
        (["a", {"text": "b"}], {}, SchemaMismatch, r"mixes rows of several kinds \(dict, str\)"),
        ([("a", "b", "c")], {}, SchemaMismatch, r"row 0 of the data is no \(prompt, response\)"),
        ([{"question": "q"}], {}, SchemaMismatch, "rows of the data have no answer: add it beside question"),
        ([{"n": 1}], {}, UnknownName, r"the data has no text \(columns: n\)"),
        ([{"text": "a"}, {"text": None}], {}, SchemaMismatch, r"1 rows of the data have no text under text \(1\)"),
        ([{"id": "x", "text": "a"}, {"id": "x", "text": "b"}], {}, DuplicateId, r"ids of the data occur twice \(x\)"),
        ([{"id": "x", "text": "a"}, {"text": "b"}], {}, SchemaMismatch, r"1 rows of the data have no id \(rows 1\)"),
        ([{"text": "a"}], {"prompt": "text"}, SchemaMismatch, "a pair needs both keys"),
        ({"train": [], "test": []}, {}, SourceError, r"the data hold 2 parts \(train, test\)"),
        (3, {}, SourceError, "texts cannot be read from int"),
        ("no/such/file.json", {}, SourceError, "there is no file no/such/file.json"),
        ("word", {}, SourceError, "there is no file word"),
    ],
)
def test_refused(data, options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        load_texts(data, **options)


def test_broken_files_are_refused_by_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": \n')
    with pytest.raises(SourceError, match=r"line 2 of a.jsonl is not JSON"):
        load_texts(tmp_path / "a.jsonl")
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SourceError, match=r"b.txt is not UTF-8 text"):
        load_texts(tmp_path / "b.txt")
    (tmp_path / "c.parquet").write_bytes(b"PAR1")
    with pytest.raises(SourceError, match=r"c.parquet is not a whole Parquet file"):
        load_texts(tmp_path / "c.parquet")
    (tmp_path / "d.json").write_text('{"a": [1], "b": [2]}')
    with pytest.raises(SchemaMismatch, match=r"d.json holds an object and no list of rows: write one of its lists \(a, b\)"):
        load_texts(tmp_path / "d.json")
    with pytest.raises(SourceError, match=r"is no saved data set: give one of its files \(a.jsonl, b.txt"):
        load_texts(tmp_path)
