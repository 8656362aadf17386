"""Folders of pictures: the class is the folder, the path the id, and one bad file stops nothing."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from datumwise.errors import EmptyData, SourceError
from datumwise.readers.image_folder import read_image_folder
from datumwise.readers.images import encoded, fault


def picture(seed: int = 0, size: int = 16) -> bytes:
    return encoded(np.random.default_rng(seed).integers(0, 255, (size, size, 3), dtype=np.uint8))


def put(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)


def table_of(root: Path) -> tuple[pa.Table, dict[str, str]]:
    source = read_image_folder(root)
    return pa.Table.from_batches(list(source.batches()), schema=source.schema), source.unreadable


def test_label_is_the_class_folder_and_id_the_path(tmp_path: Path) -> None:
    for i, name in enumerate(("cat/1.png", "dog/1.png", "dog/2.png")):
        put(tmp_path / name, picture(i))
    table, unreadable = table_of(tmp_path)
    assert table["id"].to_pylist() == ["cat/1.png", "dog/1.png", "dog/2.png"]
    assert table["label"].to_pylist() == ["cat", "dog", "dog"]
    assert table["image"][1].as_py() == picture(1)
    assert unreadable == {}


def test_an_unreadable_picture_is_listed_and_the_rest_goes_on(tmp_path: Path) -> None:
    put(tmp_path / "cat/1.png", picture())
    put(tmp_path / "cat/empty.png", b"")
    put(tmp_path / "cat/cut.png", picture()[:200])
    put(tmp_path / "dog/text.jpg", b"not a picture at all")
    table, unreadable = table_of(tmp_path)
    assert table["id"].to_pylist() == ["cat/1.png"]
    assert unreadable == {
        "cat/empty.png": "empty file",
        "cat/cut.png": "damaged or cut off",
        "dog/text.jpg": "not a picture",
    }


def test_other_files_and_hidden_ones_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path / "cat/1.png", picture())
    put(tmp_path / "cat/notes.txt", b"x")
    put(tmp_path / ".cache/2.png", picture())
    assert table_of(tmp_path)[0].num_rows == 1


def test_a_flat_folder_has_no_label(tmp_path: Path) -> None:
    put(tmp_path / "1.png", picture())
    assert "label" not in table_of(tmp_path)[0].column_names


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cat").mkdir()
    with pytest.raises(EmptyData, match="holds no pictures"):
        read_image_folder(tmp_path)


def test_splits_are_refused_and_one_is_offered(tmp_path: Path) -> None:
    for split in ("train", "test"):
        put(tmp_path / split / "cat/1.png", picture())
    with pytest.raises(SourceError, match=r"holds splits \(test, train\): give one: .*/test"):
        read_image_folder(tmp_path)


def test_pictures_beside_class_folders_are_refused(tmp_path: Path) -> None:
    put(tmp_path / "cat/1.png", picture())
    put(tmp_path / "stray.png", picture())
    with pytest.raises(SourceError, match=r"1 pictures beside its class folders \(stray.png\)"):
        read_image_folder(tmp_path)


def test_batches_stay_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(7):
        put(tmp_path / f"cat/{i}.png", picture(i))
    monkeypatch.setattr("datumwise.readers.image_folder.BATCH_FILES", 3)
    assert [batch.num_rows for batch in read_image_folder(tmp_path).batches()] == [3, 3, 1]


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_every_cut_of_a_picture_is_a_fault(kind: str) -> None:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(picture(size=64))).save(buffer, kind)
    whole = buffer.getvalue()
    assert fault(whole) is None
    assert all(fault(whole[:n]) is not None for n in range(0, len(whole) - 60, 97))
