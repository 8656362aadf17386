"""What a ledger says without a model is read in its order, from the columns of its roles."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from datumwise.errors import LabelError, SchemaMismatch
from datumwise.ledger import create_ledger
from datumwise.probe.given import given


def ledger_of(path, columns, **roles):
    table = pa.table({"id": [f"d{i}" for i in range(len(next(iter(columns.values()))))]} | columns)
    return create_ledger(path / "data", iter(table.to_batches()), schema=table.schema, id_column="id", roles=roles)


@pytest.fixture
def pairs(tmp_path):
    columns = {"q": ["How many?", None, "Why?"], "a": ["Three.", "Yes.", "So."]}
    return ledger_of(tmp_path, columns, prompt="q", response="a")


def test_a_pair_is_read_apart_and_together(pairs):
    found = given(pairs, ["texts", "prompts", "responses"])
    assert found["texts"] == ["How many?\nThree.", "Yes.", "Why?\nSo."]
    assert found["prompts"] == ["How many?", "", "Why?"]
    assert found["responses"] == ["Three.", "Yes.", "So."]


def test_words_are_those_of_the_texts_asked_for(pairs):
    found = given(pairs, ["words", "response_words"])
    assert found["words"].lengths.tolist() == [3, 1, 2]
    assert found["response_words"].lengths.tolist() == [1, 1, 1]


def test_classes_are_numbered_in_sorted_order(tmp_path):
    ledger = ledger_of(tmp_path, {"y": ["b", "a", "b"], "x": [1.0, 2.0, 3.0]}, label="y", features=["x"])
    assert given(ledger, ["labels"])["labels"].tolist() == [1, 0, 1]


def test_numbers_are_standardised(tmp_path):
    ledger = ledger_of(tmp_path, {"x": [1.0, 2.0, 3.0, 6.0]}, features=["x"])
    found = given(ledger, ["embedding"])["embedding"]
    np.testing.assert_allclose(found[:, 0], (np.array([1, 2, 3, 6]) - 3) / np.std([1, 2, 3, 6]), rtol=1e-6)


def test_what_the_ledger_does_not_hold_is_refused(pairs, tmp_path):
    with pytest.raises(SchemaMismatch, match="no label column: ingest the data with label="):
        given(pairs, ["labels"])
    plain = ledger_of(tmp_path / "plain", {"text": ["a", "b"]}, text="text")
    with pytest.raises(SchemaMismatch, match="no prompts and responses: ingest the data with prompt= and response="):
        given(plain, ["prompts"])
    numbers = ledger_of(tmp_path / "numbers", {"x": [1.0]}, features=["x"])
    with pytest.raises(SchemaMismatch, match="no column of text"):
        given(numbers, ["texts"])


def test_a_missing_label_is_named(tmp_path):
    ledger = ledger_of(tmp_path, {"y": ["b", None], "x": [1.0, 2.0]}, label="y", features=["x"])
    with pytest.raises(LabelError, match=r"no label in 1 rows .*d1"):
        given(ledger, ["labels"])


def test_places_are_those_of_the_condition_in_ledger_order(tmp_path):
    from datumwise.probe.given import places
    from datumwise.readers import ingest

    ledger = ingest({"id": ["c", "a", "b", "d"], "x": [4.0, 1.0, 3.0, 2.0]}, features="x", out=tmp_path / "few")
    assert places(ledger, "x > 1.5").tolist() == [0, 2, 3]
    assert places(ledger, "x > 9").tolist() == []
    assert places(ledger, None).tolist() == [0, 1, 2, 3]
