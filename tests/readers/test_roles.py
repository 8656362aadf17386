"""Roles are found where they are unambiguous and asked for where they are not."""

from __future__ import annotations

import pyarrow as pa
import pytest

from datumwise.errors import SchemaMismatch, UnknownColumn, UnknownName
from datumwise.readers.roles import Asked, settle_roles

LONG = [f"a text of its own, number {i}" for i in range(300)]


def settled(columns: dict, given: dict | None = None, **asked: object) -> dict:
    table = pa.table(columns)
    return settle_roles(Asked(**asked), table.schema, table, name="t.csv", given=given or {})


@pytest.mark.parametrize("name", ["label", "target", "y", "Label"])
def test_a_column_named_so_is_the_label(name: str) -> None:
    assert settled({"a": [1.0], name: ["x"]}) == {"label": name, "features": ["a"]}


def test_two_columns_that_could_be_the_label_are_refused_with_the_choices() -> None:
    with pytest.raises(SchemaMismatch, match=r"2 columns .* \(label, y\): give label='label' or label='y'"):
        settled({"a": [1], "label": ["x"], "y": [1]})


def test_what_is_asked_wins_over_what_the_format_says_and_what_is_found() -> None:
    columns = {"a": [1.0], "label": ["x"], "b": ["y"]}
    assert settled(columns, {"label": "label"}, label="b")["label"] == "b"


def test_features_are_numbers_and_short_lists_of_words_without_id_and_label() -> None:
    columns = {
        "id": list(range(300)),
        "n": [1.0] * 300,
        "c": ["u", "v", "w"] * 100,
        "t": LONG,
        "y": ["p"] * 300,
    }
    assert settled(columns) == {"id": "id", "label": "y", "features": ["n", "c"]}


def test_the_only_free_text_is_the_text() -> None:
    assert settled({"body": LONG, "label": ["a", "b"] * 150}) == {"label": "label", "text": "body"}


def test_two_free_texts_are_refused_with_the_choices() -> None:
    with pytest.raises(SchemaMismatch, match=r"\(q, a\): give text='q' or text='a'"):
        settled({"q": LONG, "a": LONG})


def test_a_text_column_makes_no_features_of_the_rest() -> None:
    assert "features" not in settled({"text": LONG, "stars": list(range(300))})


def test_a_wrong_name_offers_the_nearest() -> None:
    with pytest.raises(
        UnknownColumn,
        match=r"column 'lable' is not in t.csv \(columns: text, label\): did you mean label='label'\?",
    ):
        settled({"text": ["a"], "label": ["x"]}, label="lable")
    with pytest.raises(UnknownColumn, match="did you mean features='width'"):
        settled({"width": [1.0]}, features=["widht"])
    with pytest.raises(UnknownName, match="did you mean task='regression'"):
        settled({"width": [1.0]}, task="regresion")


def test_a_column_that_cannot_have_its_role_is_refused() -> None:
    with pytest.raises(SchemaMismatch, match="cannot be the label"):
        settled({"a": [1.0], "e": [[1.0]]}, label="e")
    with pytest.raises(SchemaMismatch, match="cannot be the text"):
        settled({"a": [1.0], "e": ["x"]}, text="a")
    with pytest.raises(SchemaMismatch, match="holds vectors"):
        settled({"a": [1.0], "e": [[1.0]]}, features=["a", "e"])
    with pytest.raises(SchemaMismatch, match="no text, picture or feature"):
        settled({"id": ["a"], "label": ["x"]})


@pytest.mark.parametrize("names", [("prompt", "response"), ("instruction", "response"), ("question", "answer")])
def test_columns_named_so_are_prompt_and_response(names: tuple[str, str]) -> None:
    prompt, response = names
    assert settled({prompt: LONG, response: LONG}) == {"prompt": prompt, "response": response}


def test_a_named_text_wins_over_a_pair_and_a_named_pair_over_a_text() -> None:
    columns = {"prompt": LONG, "response": LONG, "text": LONG}
    assert settled(columns, text="text") == {"text": "text"}
    assert settled(columns, prompt="text", response="response") == {"prompt": "text", "response": "response"}


def test_a_prompt_without_a_response_is_refused() -> None:
    with pytest.raises(SchemaMismatch, match=r"a prompt column was named and no response column: give response= too"):
        settled({"q": LONG, "a": LONG}, prompt="q")
