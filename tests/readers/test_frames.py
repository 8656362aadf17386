"""Tables in memory come in whole, or with the offending rows named."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from datumwise.errors import SchemaMismatch
from datumwise.readers.frames import read_arrow, read_pandas, read_polars, read_reader

pd = pytest.importorskip("pandas")
pl = pytest.importorskip("polars")


def rows_of(source: object) -> list[dict]:
    return pa.Table.from_batches(list(source.batches()), schema=source.schema).to_pylist()


ROWS = [{"a": 1, "s": "x", "f": 0.5}, {"a": 2, "s": None, "f": 1.5}]


def test_pandas_polars_arrow_and_readers_give_the_same_rows() -> None:
    table = pa.Table.from_pylist(ROWS)
    assert rows_of(read_arrow(table, name="d")) == ROWS
    assert rows_of(read_reader(table.to_reader(), name="d")) == ROWS
    assert rows_of(read_polars(pl.DataFrame(ROWS), name="d")) == ROWS
    assert rows_of(read_polars(pl.DataFrame(ROWS).lazy(), name="d")) == ROWS
    assert rows_of(read_pandas(pd.DataFrame(ROWS), name="d")) == ROWS


def test_same_values_have_one_fingerprint_however_they_are_cut() -> None:
    table = pa.Table.from_pylist(ROWS * 5_000)
    chunked = pa.concat_tables([table.slice(0, 3_333), table.slice(3_333)])
    print_of = lambda t: read_arrow(t, name="d").fingerprint()  # noqa: E731
    assert print_of(table) == print_of(chunked)
    assert print_of(table) != print_of(table.slice(1))
    assert print_of(table) != print_of(table.rename_columns(["a", "s", "g"]))


def test_mixed_types_in_a_pandas_column_are_refused_with_the_rows() -> None:
    frame = pd.DataFrame({"a": pd.Series([1, 2, "x", 4, "y"], dtype=object)})
    with pytest.raises(SchemaMismatch, match=r"'a' mixes types: numbers, and text in 2 rows \(rows 2, 4, from 0\)") as e:
        read_pandas(frame, name="d")
    assert e.value.ids == [2, 4]


def test_missing_values_are_no_type_of_their_own() -> None:
    frame = pd.DataFrame({"a": pd.Series([None, "x", np.nan], dtype=object)})
    assert [row["a"] for row in rows_of(read_pandas(frame, name="d"))] == [None, "x", None]


def test_a_named_index_is_a_column_and_a_plain_one_is_not() -> None:
    frame = pd.DataFrame({"a": [1, 2]})
    assert read_pandas(frame, name="d").schema.names == ["a"]
    assert read_pandas(frame.rename_axis("id"), name="d").schema.names == ["id", "a"]


def test_twin_columns_are_refused() -> None:
    with pytest.raises(SchemaMismatch, match="two columns are called 'a'"):
        read_pandas(pd.DataFrame([[1, 2]], columns=["a", "a"]), name="d")


def test_python_objects_of_polars_are_refused_by_name() -> None:
    with pytest.raises(SchemaMismatch, match="column 'o' holds Python objects"):
        read_polars(pl.DataFrame({"o": pl.Series([object()], dtype=pl.Object)}), name="d")
