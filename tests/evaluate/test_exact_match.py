"""Claims about answers that are written out."""

import pytest

from datumwise.errors import SchemaMismatch
from datumwise.evaluate.exact_match import exact_match, number_in


@pytest.mark.parametrize(
    ("text", "gold"),
    [
        ("so THE answer is 42", "42"),  # the published code lowers the text and not the trigger, and never matches
        ("So the answer is 3/4 of a cup", 0.75),  # the published filter reads 34
        ("So the answer is -5.", "-5"),  # and loses the sign
        ("So the answer is \u22125", -5),
        ("So the answer is $1,234.50 in all", 1234.5),
        ("So the answer is -$20", -20),
        ("So the answer is 50%", 50),
        ("So the answer is 1. So the answer is 7 apples, not 9", 7),  # last trigger, first number
        ("So the answer is .5", 0.5),
    ],
)
def test_numbers_are_read_as_people_write_them(text, gold):
    found = exact_match([text], [gold])
    assert found.correct.tolist() == [True]
    assert found.found.tolist() == [True]


def test_what_has_no_trigger_or_no_number_is_wrong_and_flagged():
    found = exact_match(["42", "So the answer is unknown", "So the answer is 1/0"], [42, 42, 42])
    assert found.correct.tolist() == [False] * 3
    assert found.found.tolist() == [False] * 3
    assert exact_match(["42"], [42], trigger=None).correct.tolist() == [True]


def test_numbers_agree_to_a_relative_1e_9_only():
    texts = [f"So the answer is {v}" for v in ("1000000000.5", "1000002", "0.3")]
    assert exact_match(texts, ["1000000001", "1000001", "0.30000000001"]).correct.tolist() == [True, False, True]


def test_words_are_compared_without_case_spaces_and_full_stop():
    found = exact_match(
        ["So the answer is  Yes. \nQ: next", "So the answer is no", "hm"], ["yes", "yes", "yes"], numeric=False, stop="\n"
    )
    assert found.correct.tolist() == [True, False, False]
    assert found.found.tolist() == [True, True, False]
    assert found.answers == ("yes", "no", "")


def test_a_thousands_separator_is_no_list():
    assert number_in("1,2 and 3") == 1
    assert number_in("12,345,678") == 12_345_678


def test_bad_input_is_refused():
    with pytest.raises(SchemaMismatch, match="1 texts and 2"):
        exact_match(["a"], [1, 2])
    with pytest.raises(SchemaMismatch, match="'yes' is no number"):
        exact_match(["So the answer is 1"], ["yes"])
