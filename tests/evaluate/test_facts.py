"""Claims about fact sets: RESTOR's layout, tables, and what is refused."""

import json

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from datumwise.errors import DuplicateId, EmptyData, SchemaMismatch, SourceError, UnknownColumn, UnknownName
from datumwise.evaluate.facts import FactSet, Shot

RESTOR = {
    "dset": {
        "Ada": {"P19": {"question": "Where was Ada born?", "answers": ["London", "Marylebone"]}},
        "Bo": {
            "P19": {"question": "Where was Bo born?", "answers": ["Oslo"]},
            "P21": {"question": "Bo's gender?", "answers": ["female"]},
        },
    },
    "context": {"P19": [{"question": "Where was Cy born?", "answer": "Rome", "entity": "Cy"}]},
}
ROWS = {
    "s": ["Chad", "Peru", "Peru", "Togo"],
    "r": ["capital", "capital", "language", "capital"],
    "o": ["N'Djamena", "Lima", ["Spanish", "Quechua"], "Lomé"],
    "q": ["a?", "b?", "c?", "d?"],
}


def test_restors_layout_is_read_and_written_unchanged(tmp_path):
    path = tmp_path / "facts.json"
    path.write_text(json.dumps(RESTOR))
    facts = FactSet.from_json(path)
    assert facts.ids == ["Ada/P19", "Bo/P19", "Bo/P21"]
    assert facts.answers[0] == ["London", "Marylebone"]
    assert facts.context["P19"] == [Shot("Where was Cy born?", "Rome", "Cy")]
    assert facts.known("P19") == ["London", "Marylebone", "Oslo", "Rome"]
    assert facts.to_dict() == RESTOR


@pytest.mark.parametrize("frame", [ROWS, pd.DataFrame(ROWS)], ids=["mapping", "pandas"])
def test_a_table_is_read_with_columns_templates_or_a_function(frame):
    kinds = ("q", {"capital": "{subject} - {{subject}?", "language": "{subject}."}, lambda s, r: f"{r} of {s}")
    found = [FactSet.from_frame(frame, subject="s", relation="r", object="o", question=one) for one in kinds]
    assert found[0].questions == ["a?", "b?", "c?", "d?"]
    assert found[1].questions[2] == "Peru."
    assert found[2].questions[3] == "capital of Togo"
    assert all(one.answers[2] == ["Spanish", "Quechua"] for one in found)


def test_rows_of_one_subject_and_relation_are_one_fact():
    table = pa.table({"s": ["Peru"] * 3, "r": ["language"] * 3, "o": ["Spanish", "Quechua", "Spanish"]})
    facts = FactSet.from_frame(table, subject="s", relation="r", object="o", question=lambda s, r: "?")
    assert facts.answers == [["Spanish", "Quechua"]]


def test_facts_become_worked_examples_and_are_asked_no_more():
    facts = FactSet.from_frame(ROWS, subject="s", relation="r", object="o", question="q")
    rest = facts.with_shots(["Peru"])
    assert rest.ids == ["Chad/capital", "Togo/capital"]
    assert rest.context["language"] == [Shot("c?", "Spanish", "Peru")]
    assert rest.known("capital") == ["N'Djamena", "Lomé", "Lima"]


def test_taking_keeps_ids_and_examples():
    facts = FactSet.from_dict(RESTOR)
    assert facts.take([2, 0]).ids == ["Bo/P21", "Ada/P19"]
    assert facts.take(np.array([True, False, True])).ids == ["Ada/P19", "Bo/P21"]
    assert len(facts.take([])) == 0
    assert facts.of(["Bo"]).relations == ["P19", "P21"]
    assert facts.of("Bo").context == facts.context


def test_the_tuning_split_is_a_partition_and_repeatable():
    facts = FactSet([f"s{i}" for i in range(40)], ["r"] * 40, ["?"] * 40, [["a"]] * 40)
    tuning, test = facts.tuning_split(0.1, random_state=3)
    assert len(tuning) == 4
    assert sorted(tuning.ids + test.ids) == sorted(facts.ids)
    assert facts.tuning_split(0.1, random_state=3)[0].ids == tuning.ids != facts.tuning_split(0.1, random_state=4)[0].ids


def test_wrong_facts_are_refused(tmp_path):
    with pytest.raises(EmptyData, match="the fact a/r has no list of answers: give one or more, or leave it out"):
        FactSet(["a"], ["r"], ["?"], [[]])
    with pytest.raises(EmptyData, match="the fact a/r has no list of answers"):
        FactSet(["a"], ["r"], ["?"], ["Paris"])
    with pytest.raises(EmptyData, match="the fact a/r has no subject or no question"):
        FactSet(["a"], ["r"], [" "], [["x"]])
    with pytest.raises(DuplicateId, match="the fact a/r occurs twice: merge its answers"):
        FactSet(["a", "a"], ["r", "r"], ["?", "?"], [["x"], ["y"]])
    with pytest.raises(SchemaMismatch, match="the facts' columns differ in length: subjects 2, relations 1"):
        FactSet(["a", "b"], ["r"], ["?"], [["x"]])
    with pytest.raises(UnknownName, match="no fact is about Bob: did you mean 'Bo'\\?"):
        FactSet.from_dict(RESTOR).of(["Bob"])
    with pytest.raises(UnknownColumn, match="there is no column nope"):
        FactSet.from_frame(ROWS, subject="nope", relation="r", object="o", question="q")
    with pytest.raises(SchemaMismatch, match="there is no question for the relation language"):
        FactSet.from_frame(ROWS, subject="s", relation="r", object="o", question={"capital": "?"})
    with pytest.raises(SchemaMismatch, match="the facts do not have RESTOR's layout"):
        FactSet.from_dict({"facts": []})
    with pytest.raises(SourceError, match="cannot be read as JSON"):
        FactSet.from_json(tmp_path / "none.json")
    with pytest.raises(SchemaMismatch, match="share is 1"):
        FactSet.from_dict(RESTOR).tuning_split(1.0)


def test_a_missing_object_is_a_fact_without_answers():
    frame = pd.DataFrame({"s": ["Chad"], "r": ["capital"], "o": [float("nan")]})
    with pytest.raises(EmptyData, match="Chad/capital has no list of answers"):
        FactSet.from_frame(frame, subject="s", relation="r", object="o", question=lambda s, r: "?")
