"""JSON lines: no key is lost, no type is mixed, the broken line is named."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from datumwise.errors import SchemaMismatch, SourceError
from datumwise.readers.jsonl import read_jsonl


def table_of(path: Path, text: str, **options: object) -> pa.Table:
    path.write_text(text, encoding="utf-8")
    source = read_jsonl([path], name=path.name, stem=path.stem, **options)
    return pa.Table.from_batches(list(source.batches()), schema=source.schema)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "notes.jsonl"


def test_a_key_that_comes_after_90000_rows_is_kept(file: Path) -> None:
    lines = [json.dumps({"a": i} | ({"late": "x"} if i >= 90_000 else {})) for i in range(100_000)]
    table = table_of(file, "\n".join(lines))
    assert table.num_rows == 100_000
    assert table["late"].null_count == 90_000


def test_rows_keep_their_order(file: Path) -> None:
    table = table_of(file, "\n".join(json.dumps({"a": i}) for i in range(30_000)))
    assert table["a"].to_pylist() == list(range(30_000))


def test_strings_that_look_like_dates_or_uuids_stay_as_they_are_written(file: Path) -> None:
    rows = [{"text": "2020-01-01", "when": "2020-01-01T10:00:00", "u": "3f2504e0-4f89-11d3-9a0c-0305e82c3301"}]
    assert table_of(file, json.dumps(rows[0])).to_pylist() == rows


def test_nested_messages_keep_their_fields(file: Path) -> None:
    rows = [{"m": [{"role": "user", "content": "hi"}]}, {"m": [{"role": "user", "content": None}]}]
    assert table_of(file, "\n".join(map(json.dumps, rows))).to_pylist() == rows


def test_many_different_keys_are_columns_not_a_map(file: Path) -> None:
    rows = [{f"k{i}": i for i in range(j, j + 5)} for j in range(0, 400, 5)]
    assert table_of(file, "\n".join(map(json.dumps, rows))).num_columns == 400


def test_whole_numbers_and_fractions_are_both_numbers(file: Path) -> None:
    assert table_of(file, '{"a": 1}\n{"a": 2.5}')["a"].to_pylist() == [1.0, 2.5]


def test_a_json_array_of_objects_is_read_too(tmp_path: Path) -> None:
    assert table_of(tmp_path / "a.json", '[{"a": 1}, {"a": 2, "z": "q"}]').to_pylist() == [
        {"a": 1, "z": None},
        {"a": 2, "z": "q"},
    ]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ('{"a": 1}\n{"a": "two"}\n{"a": 3}', "number in row 1, text in row 2"),
        ('{"a": {"x": 1}}\n{"a": [1]}', "object in row 1, list in row 2|list in row 2, object in row 1"),
        ('{"a": 1}\n{"a": true}', "row 1.*row 2|row 2.*row 1"),
    ],
)
def test_a_key_of_several_types_is_refused_with_a_row_of_each(file: Path, text: str, kinds: str) -> None:
    with pytest.raises(SchemaMismatch, match=f"column 'a' of notes.jsonl mixes types .*({kinds})"):
        table_of(file, text)


def test_a_broken_line_is_named(file: Path) -> None:
    with pytest.raises(SourceError, match=r"line 2 of notes.jsonl is not whole JSON"):
        table_of(file, '{"a":1}\n{"a":\n{"a":3}\n')


def test_a_cut_off_array_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"a.json is not whole JSON"):
        table_of(tmp_path / "a.json", '[{"a":1},{"a":2')


def test_lines_that_are_no_objects_are_refused(file: Path) -> None:
    with pytest.raises(SourceError, match="does not hold JSON objects"):
        table_of(file, "1\n2\n")


def test_keys_that_differ_in_case_only_are_refused_and_none_is_lost(file: Path) -> None:
    with pytest.raises(SchemaMismatch, match="differ in case only"):
        table_of(file, '{"a": 1, "A": 2}')
    assert table_of(file, '{"a": 1, "a_1": 2}').to_pylist() == [{"a": 1, "a_1": 2}]
