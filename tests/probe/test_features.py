"""Table rows, pictures and texts become rows a learner can be given, and what cannot is named."""

import io
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from datumwise.errors import EmptyData, NotFinite, SchemaMismatch
from datumwise.probe.features import embed, features


class Ledger:
    """As much of a ledger as `features` reads."""

    def __init__(self, table, **roles):
        self.name, self._table, self.roles, self.schema = "t", table, roles, table.schema
        self.ids = np.asarray([f"r{i}" for i in range(table.num_rows)], object)

    def __len__(self):
        return self._table.num_rows

    def table(self, columns):
        return self._table.select(columns)

    def batches(self, columns, batch_size):
        return iter(self._table.select(columns).to_batches(batch_size))


def _png(pixels):
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_numbers_and_categories_are_told_apart_and_nulls_are_imputed():
    table = pa.table({"age": [1.0, None, 3.0, 2.0], "colour": ["red", "blue", None, "red"], "ok": [True, False, None, True]})
    found = features(Ledger(table, features=["age", "colour", "ok"]))
    rows = found.transform.fit_transform(found.X)
    assert found.kind == "table"
    assert np.isfinite(rows).all()
    median_filled = rows[1, 0]
    assert median_filled == pytest.approx(0)  # the median 2 is the mean of what is there
    same = rows[[0, 3]][:, -3:]
    np.testing.assert_array_equal(same[0], same[1])  # two reds are one category
    assert (rows[1, -3:] != rows[0, -3:]).any()


def test_another_ledger_is_read_with_the_same_codes():
    first = features(Ledger(pa.table({"age": [1.0, 2.0], "colour": ["red", "blue"]}), features=["age", "colour"]))
    other = pa.table({"colour": ["green", None, "red"], "age": [1.0, 2.0, 3.0], "more": [1, 2, 3]})
    found = features(Ledger(other, features=["colour", "age", "more"]), like=first)
    np.testing.assert_array_equal(found.X, [[1.0, 2.0], [2.0, np.nan], [3.0, 1.0]])  # green is one above, red keeps its 1
    assert found.columns == first.columns
    with pytest.raises(SchemaMismatch, match="t lacks column colour: ingest both with the same columns"):
        features(Ledger(pa.table({"age": [1.0]}), features=["age"]), like=first)
    with pytest.raises(SchemaMismatch, match="where another ledger has categories"):
        features(Ledger(pa.table({"colour": [1, 2]}), features=["colour"]), like=replace(first, columns=("colour",)))


def test_nan_is_not_a_null_and_its_rows_are_named():
    table = pa.table({"x": pa.array([1.0, float("nan"), float("inf"), None])})
    with pytest.raises(NotFinite, match=r"'x' holds NaN or infinity in 2 datapoints \(r1, r2\)") as refused:
        features(Ledger(table, features=["x"]))
    assert refused.value.ids == ["r1", "r2"]


def test_vectors_dates_and_dictionaries_are_numbers_and_free_text_is_left_out_with_the_reason():
    vector = pa.FixedSizeListArray.from_arrays(pa.array(np.arange(120, dtype=np.float32)), 2)
    day = pa.array(np.arange(60), pa.int32()).cast(pa.date32())
    table = pa.table(
        {
            "v": vector,
            "day": day,
            "cat": pa.array(["a", "b"] * 30).dictionary_encode(),
            "free": [f"a remark about {i}" for i in range(60)],
        }
    )
    found = features(Ledger(table, features=["v", "day", "cat", "free"]))
    assert found.X.shape == (60, 4)
    assert found.columns == ("v", "day", "cat")
    assert "60 different strings" in found.left_out["free"]
    np.testing.assert_array_equal(found.X[:, :2], np.arange(120).reshape(60, 2))
    assert np.ptp(np.diff(found.X[:, 2])) == 0  # days are evenly spaced


def test_nothing_usable_is_refused():
    table = pa.table({"free": [f"remark {i}" for i in range(200)]})
    with pytest.raises(SchemaMismatch, match="no column of t can be used as a feature"):
        features(Ledger(table, features=["free"]))
    with pytest.raises(EmptyData, match="holds no datapoints"):
        features(Ledger(table.slice(0, 0), features=["free"]))


def test_small_pictures_of_one_size_keep_their_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 8, 8))
    found = features(Ledger(pa.table({"image": [_png(p) for p in pixels]}), image="image"))
    np.testing.assert_allclose(found.X, pixels.reshape(5, 64) / 255, rtol=1e-6)


def test_other_pictures_are_resized_and_colour_is_kept_when_any_has_it():
    grey = _png(np.zeros((40, 50)))
    red = _png(np.broadcast_to([255, 0, 0], (30, 30, 3)))
    found = features(Ledger(pa.table({"image": [grey, red]}), image="image"))
    assert found.X.shape == (2, 32 * 32 * 3)
    np.testing.assert_allclose(found.X[1].reshape(32, 32, 3)[5, 5], [1, 0, 0])
    assert not found.X[0].any()


def test_texts_embed_so_that_like_texts_are_near():
    texts = ["the cat sat on the mat", "a cat sat on a mat", "shares fell on the market", "the market saw shares fall", ""]
    found = features(Ledger(pa.table({"text": texts}), text="text"))
    E = embed(found.transform, found.X, n_components=3, seed=0).transform(found.X)
    assert E[0] @ E[1] > E[0] @ E[2]
    assert E[2] @ E[3] > E[2] @ E[1]
    assert np.isfinite(E).all()


def test_embedding_keeps_distances_when_all_components_are_kept():
    X = np.random.default_rng(0).normal(size=(30, 6)).astype(np.float32)
    vector = pa.FixedSizeListArray.from_arrays(pa.array(X.ravel()), 6)
    found = features(Ledger(pa.table({"x": vector}), features="x"))
    fitted = embed(found.transform, found.X, n_components=5, seed=0)
    assert fitted.transform(found.X).shape == (30, 5)
    whole = embed(found.transform, found.X, n_components=64, seed=0).transform(found.X)
    Z = (X - X.mean(0)) / X.std(0)
    np.testing.assert_allclose(
        np.linalg.norm(whole[:, None] - whole, axis=2), np.linalg.norm(Z[:, None] - Z, axis=2), atol=1e-4
    )
