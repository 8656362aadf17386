"""Confidence is the weighted sum that the paper writes, term by term."""

from __future__ import annotations

import pytest

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch
from datumwise.score.bs_detector import bs_detector


class Scripted:
    """Answers anew from a list, and reflects from another."""

    def __init__(self, answers, first, second):
        self.answers, self.first, self.second = iter(answers), first, second

    def __call__(self, messages):
        if "really sure" in messages[0]:
            return [self.second] * len(messages)
        if "Proposed" in messages[0]:
            return [self.first] * len(messages)
        return [next(self.answers) for _ in messages]


def test_terms_by_hand():
    judge = Scripted(["Paris.", "Lyon", "paris", "Nice"], "answer: A", "answer: [C]")
    found = bs_detector(
        judge, ["Capital?"], ["Paris"], n_samples=4, contradiction=lambda a, r: [0.25 if x == "Nice" else 0.5 for x in a]
    )
    # p is the mean of both orders: .5 with (.5, .5); for Nice (.25 + .5) / 2
    same = [0.8 * 0.5 + 0.2, 0.8 * 0.5, 0.8 * 0.5 + 0.2, 0.8 * (1 - 0.375)]
    consistency, reflection = sum(same) / 4, (1 + 0.5) / 2
    assert found["bs_consistency"][0] == pytest.approx(consistency)
    assert found["bs_reflection"][0] == reflection
    assert found["bs_confidence"][0] == pytest.approx(0.7 * consistency + 0.3 * reflection)


def test_one_unread_reflection_is_left_out_of_the_mean():
    found = bs_detector(Scripted(["x"] * 5, "I cannot say", "answer: B"), ["q"], ["x"])
    assert found["bs_reflection"].tolist() == [0.0]
    assert found["bs_confidence"][0] == pytest.approx(0.7)


@pytest.mark.parametrize(
    ("said", "value"), [("answer: (A)", 1.0), ("B", 0.0), ("(C)", 0.5), ("Answer: c", 0.5), ("(A) Correct", 1.0)]
)
def test_letters_are_read(said, value):
    assert bs_detector(Scripted(["x"] * 5, said, said), ["q"], ["x"])["bs_reflection"].tolist() == [value]


def test_bad_input_is_refused():
    judge = Scripted(["x"] * 99, "A", "A")
    with pytest.raises(EmptyData, match="no response to judge"):
        bs_detector(judge, [], [])
    with pytest.raises(DatumwiseError, match="beta is 2"):
        bs_detector(judge, ["a"], ["b"], beta=2)
    with pytest.raises(DatumwiseError, match="n_samples is 0"):
        bs_detector(judge, ["a"], ["b"], n_samples=0)
    with pytest.raises(SchemaMismatch, match="values outside of 0 to 1"):
        bs_detector(judge, ["a"], ["b"], contradiction=lambda a, r: [1.5] * len(a))
