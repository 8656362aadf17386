"""The result of a run behaves as a mapping and prints as a table."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from datumwise.errors import SchemaMismatch, UnknownName
from datumwise.ledger import create_ledger
from datumwise.score import Scores


def example():
    return Scores(
        [f"row<{i}>" for i in range(30)],
        {"el2n": np.linspace(0, 1, 30), "label_issue": np.arange(30) % 2 == 0},
        higher={"el2n": "harder"},
        version=4,
    )


def test_scores_are_a_mapping_from_name_to_array():
    found = example()
    assert list(found) == ["el2n", "label_issue"]
    assert len(found) == 2
    assert "el2n" in found
    assert found.get("gone") is None
    assert found["label_issue"].dtype == bool
    with pytest.raises(UnknownName, match="did you mean 'el2n'"):
        found["eln2"]


def test_top_is_descending_without_nan_and_ties_in_order():
    found = Scores(list("abcd"), {"s": np.array([1.0, np.nan, 3.0, 3.0])})
    assert found.top("s") == [("c", 3.0), ("d", 3.0), ("a", 1.0)]
    assert found.top("s", 1) == [("c", 3.0)]


def test_to_pandas_keeps_ids_and_types():
    frame = example().to_pandas()
    assert frame.index.name == "id"
    assert frame.loc["row<29>", "el2n"] == 1
    assert frame["label_issue"].dtype == bool


def test_the_table_shows_the_highest_first_within_80_columns():
    many = Scores(np.arange(5), {f"a_long_score_name_{i}": np.arange(5.0) for i in range(8)})
    assert "ledger version 4; highest el2n first" in repr(example())
    assert repr(example()).splitlines()[2].split() == ["row<29>", "1", "no"]
    assert max(map(len, repr(many).splitlines()[:-1])) <= 80
    assert "not shown: a_long_score_name_3" in repr(many)
    assert repr(Scores([], {})) == "no scores of 0 datapoints"


def test_html_escapes_what_came_with_the_data():
    text = example()._repr_html_()
    assert "row&lt;29&gt;" in text
    assert "<29>" not in text
    assert 'title="harder"' in text


def test_an_array_of_another_length_is_refused():
    with pytest.raises(SchemaMismatch, match=r"'s' has shape \(2,\) for 3 datapoints"):
        Scores([1, 2, 3], {"s": np.zeros(2)})


def test_scores_made_elsewhere_are_written_with_where_they_came_from(tmp_path):
    table = pa.table({"id": ["a", "b", "c"], "x": [1.0, 2.0, 3.0]})
    ledger = create_ledger(tmp_path / "data", iter(table.to_batches()), schema=table.schema, id_column="id")
    found = Scores(["c", "a"], {"rating": np.array([3.0, 1.0])}, higher={"rating": "better"})
    version = found.write(ledger, params={"scale": 5}, source="Chen et al., 2024")
    assert version == ledger.version == found.version
    assert ledger.table(["rating"])["rating"].to_pylist() == [1.0, None, 3.0]
    made = ledger.provenance("rating")
    assert (made.method, made.params, made.higher, made.source) == ("rating", {"scale": 5}, "better", "Chen et al., 2024")
    Scores(["a", "b", "c"], {"rating": np.array([7.0, 8.0, 9.0])}).write(ledger)
    assert ledger.table(["rating"])["rating"].to_pylist() == [7.0, 8.0, 9.0]
