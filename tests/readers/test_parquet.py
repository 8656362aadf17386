"""Parquet: types as written, memory by the batch, damage said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datumwise.errors import SchemaMismatch, SourceError
from datumwise.readers.parquet import read_parquet
from datumwise.readers.source import BATCH_ROWS


def written(path: Path, table: pa.Table, **options: object) -> Path:
    pq.write_table(table, path, **options)
    return path


def test_vectors_and_categories_keep_their_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "e": pa.FixedSizeListArray.from_arrays(pa.array(np.arange(6, dtype=np.float32)), 2),
            "c": pa.array(["a", "b", "a"]).dictionary_encode(),
        }
    )
    source = read_parquet([written(tmp_path / "t.parquet", table)], name="t.parquet", stem="t")
    assert [field.type for field in source.schema] == [field.type for field in table.schema]
    assert source.rows == 3


def test_memory_is_bounded_by_the_batch_and_not_by_the_row_group(tmp_path: Path) -> None:
    n, d = 100_000, 64  # one row group of 51 MB
    values = pa.array(np.random.default_rng(0).random(n * d))
    table = pa.table({"e": pa.FixedSizeListArray.from_arrays(values, d)})
    path = written(tmp_path / "big.parquet", table, row_group_size=n)
    del table, values
    source = read_parquet([path], name="big.parquet", stem="big")
    before = pa.total_allocated_bytes()
    most = rows = 0
    for batch in source.batches():
        most = max(most, pa.total_allocated_bytes() - before)
        rows += batch.num_rows
        assert batch.num_rows <= BATCH_ROWS
    assert rows == n
    assert most < 25e6


def test_a_cut_off_file_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", pa.table({"a": [1, 2]}))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(SourceError, match=r"t.parquet is not a whole Parquet file"):
        read_parquet([path], name="t.parquet", stem="t")


def test_damaged_pages_are_refused_when_they_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", pa.table({"a": np.arange(1000)}), compression="zstd")
    data = bytearray(path.read_bytes())
    data[8:200] = b"\xff" * 192
    path.write_bytes(data)
    with pytest.raises(SourceError, match="damaged"):
        list(read_parquet([path], name="t.parquet", stem="t").batches())


def test_files_of_different_schemas_are_refused_by_column(tmp_path: Path) -> None:
    one = written(tmp_path / "1.parquet", pa.table({"a": [1], "b": [1]}))
    two = written(tmp_path / "2.parquet", pa.table({"a": [1], "b": ["x"]}))
    with pytest.raises(SchemaMismatch, match="differ in column 'b'"):
        read_parquet([one, two], name="folder/", stem="folder")
