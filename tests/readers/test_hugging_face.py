"""Data sets of Hugging Face: read without their library, class names kept."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from datumwise.errors import SourceError
from datumwise.readers.hugging_face import read_data_set, read_saved_data_set

datasets = pytest.importorskip("datasets")


def reviews(labels: list[int]) -> datasets.Dataset:
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    return datasets.Dataset.from_dict({"text": [f"t{i}" for i in range(len(labels))], "label": labels}, features)


def rows_of(source: object) -> list[dict]:
    return pa.Table.from_batches(list(source.batches()), schema=source.schema).to_pylist()


def test_saved_and_in_memory_are_the_same_rows_with_names_of_classes(tmp_path: Path) -> None:
    data = reviews([0, 1, 1])
    data.save_to_disk(str(tmp_path / "saved"))
    expected = [
        {"text": "t0", "label": "neg"},
        {"text": "t1", "label": "pos"},
        {"text": "t2", "label": "pos"},
    ]
    saved = read_saved_data_set(tmp_path / "saved")
    assert rows_of(saved) == rows_of(read_data_set(data, name="data")) == expected
    assert saved.roles == {"label": "label"}
    assert saved.task == "classification"


def test_several_shards_are_read_in_order(tmp_path: Path) -> None:
    reviews([0] * 10).save_to_disk(str(tmp_path / "saved"), num_shards=3)
    assert [row["text"] for row in rows_of(read_saved_data_set(tmp_path / "saved"))] == [f"t{i}" for i in range(10)]


def test_minus_one_is_no_label(tmp_path: Path) -> None:
    assert rows_of(read_data_set(reviews([0, -1]), name="data"))[1]["label"] is None


def test_selected_rows_only(tmp_path: Path) -> None:
    assert [row["text"] for row in rows_of(read_data_set(reviews([0, 1, 0]).select([2, 0]), name="d"))] == [
        "t2",
        "t0",
    ]


def test_several_splits_are_refused_and_one_is_offered(tmp_path: Path) -> None:
    datasets.DatasetDict({"train": reviews([0]), "test": reviews([1])}).save_to_disk(str(tmp_path / "imdb"))
    with pytest.raises(SourceError, match=r"2 splits \(train, test\): give one: imdb/train"):
        read_saved_data_set(tmp_path / "imdb")
    with pytest.raises(SourceError, match="2 splits"):
        read_data_set(datasets.DatasetDict({"a": reviews([0]), "b": reviews([0])}), name="d")


def test_a_missing_or_damaged_file_is_named(tmp_path: Path) -> None:
    reviews([0, 1]).save_to_disk(str(tmp_path / "saved"))
    (data_file,) = (tmp_path / "saved").glob("*.arrow")
    content = data_file.read_bytes()
    data_file.write_bytes(b"broken")
    with pytest.raises(SourceError, match="not a whole Arrow file"):
        read_saved_data_set(tmp_path / "saved")
    data_file.unlink()
    with pytest.raises(SourceError, match=data_file.name):
        read_saved_data_set(tmp_path / "saved")
    assert content
