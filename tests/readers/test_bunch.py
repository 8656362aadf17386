"""Bunches of scikit-learn: names of classes, names of features, pictures where there are some."""

from __future__ import annotations

import pytest
from sklearn.datasets import load_diabetes, load_digits, load_iris, load_linnerud
from sklearn.utils import Bunch

from datumwise.errors import SourceError
from datumwise.readers.bunch import read_bunch


def test_targets_become_the_names_of_their_classes() -> None:
    source = read_bunch(load_iris(), name="iris")
    (batch,) = source.batches()
    assert set(batch.column("label").to_pylist()) == {"setosa", "versicolor", "virginica"}
    assert source.roles["features"] == load_iris().feature_names
    assert source.task == "classification"


def test_a_frame_and_an_array_give_the_same_columns() -> None:
    plain, frame = (read_bunch(load_iris(as_frame=as_frame), name="iris") for as_frame in (False, True))
    assert next(plain.batches()).equals(next(frame.batches()))


def test_digits_come_with_their_pictures_and_vectors() -> None:
    source = read_bunch(load_digits(), name="digits")
    assert source.roles == {"image": "image", "features": "x", "label": "label"}
    assert source.schema.field("x").type.list_size == 64


def test_numbers_without_names_are_a_regression() -> None:
    assert read_bunch(load_diabetes(), name="diabetes").task == "regression"


def test_texts_are_the_text() -> None:
    bunch = Bunch(data=["a b", "c d"], target=[1, 0], target_names=["sci", "rec"])
    source = read_bunch(bunch, name="news")
    assert next(source.batches()).to_pylist() == [
        {"text": "a b", "label": "rec"},
        {"text": "c d", "label": "sci"},
    ]


def test_several_targets_and_no_data_are_refused() -> None:
    with pytest.raises(SourceError, match="3 columns"):
        read_bunch(load_linnerud(), name="d")
    with pytest.raises(SourceError, match="has no data"):
        read_bunch(Bunch(target=[1]), name="d")
