"""Faults of the rows are found while they flow, counted over all of them and named."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datumwise.errors import EmptyData, LabelError, NotFinite, SchemaMismatch
from datumwise.readers.checks import checked, looks_continuous


def run(table: pa.Table, roles: dict, *, rows: int = 4, id_column: str | None = None, task: str | None = None) -> int:
    batches = iter(table.to_batches(max_chunksize=rows))
    return sum(b.num_rows for b in checked(batches, roles, name="t.csv", id_column=id_column, task=task))


@given(st.lists(st.sampled_from([0.0, 1.5, float("nan"), float("inf"), -float("inf"), None]), min_size=1, max_size=30))
def test_exactly_the_rows_without_a_finite_number_are_named(values: list[float | None]) -> None:
    table = pa.table({"a": pa.array(values, pa.float64())})
    bad = [i for i, value in enumerate(values) if value is not None and not np.isfinite(value)]  # null is missing
    if not bad:
        assert run(table, {"features": ["a"]}) == len(values)
        return
    with pytest.raises(NotFinite, match=rf"column 'a' is NaN or infinite in {len(bad)} row") as caught:
        run(table, {"features": ["a"]})
    assert caught.value.ids == bad


def test_rows_are_named_by_their_ids_where_there_are_some() -> None:
    table = pa.table({"id": list("abcdef"), "a": [1.0, *[float("nan")] * 4, 2.0]})
    with pytest.raises(NotFinite, match=r"4 rows \(ids b, c, d and 1 more\)") as caught:
        run(table, {"features": ["a"]}, id_column="id", rows=2)
    assert caught.value.ids == list("bcde")


def test_vectors_are_checked_number_by_number_in_every_slice() -> None:
    values = np.zeros((10, 3))
    values[7, 2] = np.nan
    table = pa.table({"x": pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 3)})
    with pytest.raises(NotFinite, match=r"1 row \(row 7, from 0\)"):
        run(table, {"features": "x"}, rows=4)
    assert run(table.slice(8), {"features": "x"}) == 2


def test_a_feature_may_be_null() -> None:
    assert run(pa.table({"c": ["a", None]}), {"features": ["c"]}) == 2
    assert run(pa.table({"n": [1.5, None]}), {"features": ["n"]}) == 2


def test_missing_labels_and_texts_are_refused_with_their_rows() -> None:
    with pytest.raises(LabelError, match=r"'y' has no label in 1 row \(row 1, from 0\)"):
        run(pa.table({"y": ["a", None]}), {"label": "y"})
    with pytest.raises(SchemaMismatch, match="'t' has no text in 1 row"):
        run(pa.table({"t": [None, "a"]}), {"text": "t"})


def test_a_continuous_label_is_refused_with_the_number_of_its_values() -> None:
    stars = pa.table({"stars": np.arange(50_000) % 41_022})
    with pytest.raises(
        LabelError,
        match="column 'stars' has 41,022 different values in 50,000 rows, which is not a label: "
        "give a column of classes, or task='regression'",
    ):
        run(stars, {"label": "stars"}, rows=7_000)
    assert run(stars, {"label": "stars"}, task="regression", rows=7_000) == 50_000
    assert run(stars, {"label": "stars"}, task="classification", rows=7_000) == 50_000


def test_many_classes_are_classes() -> None:
    assert run(pa.table({"y": np.arange(5_000) % 1_000}), {"label": "y"}, rows=999) == 5_000
    assert not looks_continuous(20, 20, fractions=True)


def test_text_cannot_be_regressed_on() -> None:
    with pytest.raises(LabelError, match="regression needs numbers"):
        run(pa.table({"y": ["a"]}), {"label": "y"}, task="regression")


def test_no_row_is_refused() -> None:
    with pytest.raises(EmptyData, match=r"t.csv has no rows"):
        run(pa.table({"a": pa.array([], pa.float64())}), {"features": ["a"]})
