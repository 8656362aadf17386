"""CSV: every bad line is named, and nothing is guessed away."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from datumwise.errors import SchemaMismatch, SourceError
from datumwise.readers.csv import read_csv


def rows_of(path: Path, text: str | bytes, **options: object) -> list[dict]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    source = read_csv([path], name=path.name, stem=path.stem, **options)
    return pa.Table.from_batches(list(source.batches()), schema=source.schema).to_pylist()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "reviews.csv"


def test_quotes_newlines_and_delimiters_inside_cells_are_content(file: Path) -> None:
    assert rows_of(file, 'text,label\n"a, ""b""\nnew line",x\nplain,y\n') == [
        {"text": 'a, "b"\nnew line', "label": "x"},
        {"text": "plain", "label": "y"},
    ]


def test_hash_sign_starts_no_comment(file: Path) -> None:
    assert rows_of(file, "text,n\n# not a comment,1\nb,2\n")[0] == {"text": "# not a comment", "n": 1}


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiter_is_that_of_the_header(file: Path, delimiter: str) -> None:
    text = "\n".join(delimiter.join(row) for row in (["a", "b", "c"], ["1", "2", "x"]))
    assert rows_of(file, text + "\n") == [{"a": 1, "b": 2, "c": "x"}]


def test_byte_order_mark_is_no_part_of_the_first_name(file: Path) -> None:
    assert rows_of(file, "\ufeffa,b\n1,2\n") == [{"a": 1, "b": 2}]


def test_one_column_of_words_keeps_its_header_and_rows(file: Path) -> None:
    assert rows_of(file, "text\nhello world\nplain one\n") == [{"text": "hello world"}, {"text": "plain one"}]


def test_ids_read_as_text_keep_their_zeros(file: Path) -> None:
    assert rows_of(file, "id,n\n007,1\n008,2\n", as_text=["id"])[0] == {"id": "007", "n": 1}


def test_a_type_that_changes_late_is_refused_with_column_value_and_line(file: Path) -> None:
    lines = [f"{i},{'abc' if i == 50_000 else i}" for i in range(50_100)]
    with pytest.raises(SchemaMismatch, match=r"'n' mixes types: whole numbers so far, and 'abc' in line 50,002 of rev"):
        rows_of(file, "id,n\n" + "\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a,b\n1,2\n3,4,5\n6,7\n", "line 3 of reviews.csv has 3 cells where the header has 2"),
        ("a,b\n1,2\n3\n4,5\n", "line 3 of reviews.csv has 1 cell where the header has 2"),
        ('a,b\n1,"x\n3,4\n4,5\n', "line 2 of reviews.csv has a quote that is not closed"),
        (b"a,b\n1,caf\xe9\n", "line 2 of reviews.csv is not UTF-8"),
        (b"a,caf\xe9\n1,2\n", "line 1 of reviews.csv is not UTF-8"),
    ],
)
def test_a_broken_line_is_named(file: Path, text: str | bytes, sentence: str) -> None:
    with pytest.raises(SourceError, match=sentence):
        rows_of(file, text)


def test_two_columns_of_one_name_are_refused(file: Path) -> None:
    with pytest.raises(SchemaMismatch, match=r"two columns of reviews.csv are called 'a'"):
        rows_of(file, "a,a,b\n1,2,3\n")


def test_columns_that_differ_in_case_only_are_both_read(file: Path) -> None:
    assert rows_of(file, "a,A,\n1,02,3\n", as_text=["A"]) == [{"a": 1, "A": "02", "column2": 3}]
    with pytest.raises(SchemaMismatch, match=r"column 'A \(column 2\)' mixes types"):
        rows_of(file, "a,A\n" + "1,1\n" * 30_000 + "1,x\n")
