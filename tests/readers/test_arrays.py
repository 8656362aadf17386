"""Arrays become columns of the right shape, or are refused by name."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from datumwise.errors import SchemaMismatch
from datumwise.readers.arrays import as_column, read_arrays


@pytest.mark.parametrize(
    ("dtype", "stored"),
    [
        ("float32", "float"),
        ("float64", "double"),
        ("float16", "float"),
        ("uint8", "float"),
        ("int64", "double"),
    ],
)
def test_a_matrix_is_a_column_of_vectors_without_loss(dtype: str, stored: str) -> None:
    values = np.arange(6).reshape(3, 2).astype(dtype)
    column = as_column("x", values)
    assert column.type == pa.list_(pa.type_for_alias(stored), 2)
    np.testing.assert_array_equal(np.array(column.to_pylist()), values)


def test_uint8_pictures_become_png_and_decode_to_themselves() -> None:
    import io

    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 255, (4, 8, 8, 3), dtype=np.uint8)
    source = read_arrays({"x": pixels, "label": np.arange(4)}, name="d")
    (batch,) = source.batches()
    assert source.roles == {"image": "image"}
    shown = np.array(Image.open(io.BytesIO(batch.column("image")[2].as_py())))
    np.testing.assert_array_equal(shown, pixels[2])


def test_arrays_of_different_lengths_are_refused_with_each() -> None:
    with pytest.raises(SchemaMismatch, match=r"different lengths \(x 3, y 2\)"):
        read_arrays({"x": np.zeros((3, 2)), "y": np.zeros(2)}, name="d")


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (np.zeros((2, 3, 4)), "shape"),
        ([[1.0], [1.0, 2.0]], "differ in length"),
        (np.array([1, "x"], dtype=object), "mixes types"),
        (np.array([["a"], ["b"]]), "not numbers"),
        (3.0, "single value"),
    ],
)
def test_what_no_column_holds_is_refused_by_name(values: object, sentence: str) -> None:
    with pytest.raises(SchemaMismatch, match=f"'z'.*{sentence}|{sentence}.*'z'"):
        read_arrays({"z": values}, name="d")


def test_sparse_matrices_are_refused_with_the_remedy() -> None:
    from scipy.sparse import csr_array

    with pytest.raises(SchemaMismatch, match=r"sparse: give x.toarray\(\)"):
        read_arrays({"x": csr_array(np.eye(3))}, name="d")
