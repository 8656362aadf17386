"""Claims about prompts: the published builder's string, no own fact, counts of worked examples."""

import pytest

from datumwise.errors import SchemaMismatch, UnknownName
from datumwise.evaluate.facts import FactSet, Shot
from datumwise.evaluate.few_shot import few_shot_prompt, few_shot_prompts

SHOTS = [Shot(f"Where was {name} born?", place, name) for name, place in zip("ABCDEFG", "tuvwxyz", strict=True)]


def published(context, asked, question, n):
    """The published way: examples in file order that are not about the asked entity."""
    output = ""
    for shot in context:
        if shot.entity == asked:
            continue
        output += f"{shot.question} {shot.answer}\n"
        n -= 1
        if n == 0:
            return output + question
    return output + question


@pytest.mark.parametrize("asked", ["A", "C", "Z"])
@pytest.mark.parametrize("n", [1, 5, 7])
def test_equal_to_the_published_builder(asked, n):
    question = f"Where was {asked} born?"
    assert few_shot_prompt(SHOTS, question, exclude=asked, n_shots=n) == published(SHOTS, asked, question, n)


def facts(names="AZ", relation="born"):
    return FactSet(
        list(names), [relation] * len(names), [f"Where was {n} born?" for n in names], [["t"]] * len(names), {"born": SHOTS}
    )


@pytest.mark.parametrize("style", ["restor", "qa"])
def test_a_prompt_never_holds_the_asked_entitys_own_fact_nor_an_excluded_one(style):
    made = few_shot_prompts(facts(), exclude=["B"], n_shots=5, style=style)
    own, other = made.prompts
    assert own.count("Where was A born?") == 1
    assert other.count("Where was A born?") == 1
    assert "Where was B" not in own + other
    assert made.n_shots == [5, 5]
    lines = [line for line in own.split("\n") if "born?" in line]
    assert len(lines) == 6
    assert not own.endswith(" ")


def test_names_are_compared_without_case_and_blanks():
    assert "Where was A" not in few_shot_prompt(SHOTS, "?", exclude=" a ")


def test_braces_in_a_question_stay():
    assert (
        few_shot_prompt([("{answer} {question}", "{question}")], "{answer}", n_shots=1)
        == "{answer} {question} {question}\n{answer}"
    )


def test_fewer_examples_are_warned_of_and_counted():
    with pytest.warns(UserWarning, match="A/born has fewer than 7 worked examples \\(the fewest: 6\\)"):
        made = few_shot_prompts(facts(), n_shots=7)
    assert made.n_shots == [6, 7]


def test_no_examples_need_no_context():
    assert few_shot_prompts(facts(relation="died"), n_shots=0).prompts[0] == "Where was A born?"


def test_wrong_prompts_are_refused():
    with pytest.raises(SchemaMismatch, match="the context has no worked example of the relation died"):
        few_shot_prompts(facts(relation="died"))
    with pytest.raises(SchemaMismatch, match="n_shots is -1"):
        few_shot_prompt(SHOTS, "?", n_shots=-1)
    with pytest.raises(UnknownName, match="there is no style 'chat': choose restor or qa"):
        few_shot_prompt(SHOTS, "?", style="chat")
