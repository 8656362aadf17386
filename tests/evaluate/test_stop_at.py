"""The stopping rule: the first epoch that is as forgetful as the retrained model, and, asked for, still useful."""

from __future__ import annotations

import math

import pytest
from tiny_language_models import byte_tokenizer, tiny_llama

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch, UnknownName
from datumwise.evaluate.muse_data import MuseData
from datumwise.evaluate.removal import Interval
from datumwise.evaluate.six_way import six_way
from datumwise.evaluate.six_way_report import Items, SixWayReport
from datumwise.evaluate.stop_at import pick_first, stop_at

ASKED = []


def scripted(course):
    """A measurement that goes through given values, one dict an epoch, and notes what it was asked."""
    ASKED.clear()

    def measure(model, names):
        ASKED.append((model, tuple(names)))
        return {name: course[model][name] for name in names}

    return measure


COURSE = [  # models are their epochs here
    {"knowmem": 90.0, "verbmem": 80.0, "privleak": -100.0, "utility": 99.0},
    {"knowmem": 30.0, "verbmem": 60.0, "privleak": -90.0, "utility": 5.0},  # an early wreck
    {"knowmem": 32.0, "verbmem": 30.0, "privleak": -8.0, "utility": 70.0},
    {"knowmem": 20.0, "verbmem": 10.0, "privleak": 40.0, "utility": 80.0},
]


def epochs_of(rule):
    stops = []
    for epoch in range(1, len(COURSE) + 1):
        stops.append(rule(epoch - 1, epoch))
        if stops[-1]:
            break
    return stops


def test_first_epoch_at_or_below_the_level_stops_and_its_utility_is_measured():
    rule = stop_at(None, None, {"knowmem": 33.1}, measure=scripted(COURSE))
    assert epochs_of(rule) == [False, True]
    assert rule.picked["utility"] == 5.0  # the published rule picks the wreck, and says so
    assert ASKED == [(0, ("knowmem",)), (1, ("knowmem",)), (1, ("utility",))]  # utility only where it matters
    assert str(rule) == "stopped after epoch 2 (knowmem 30.0, utility 5.0)"
    at_the_level = stop_at(None, None, {"knowmem": 30.0}, measure=scripted(COURSE))
    assert epochs_of(at_the_level) == [False, True]


def test_a_floor_for_the_utility_waits_for_the_repair():
    rule = stop_at(None, None, {"knowmem": 33.1}, utility_floor=60.0, measure=scripted(COURSE))
    assert epochs_of(rule) == [False, False, True]
    assert rule.seen[1]["forgotten"] is True
    assert rule.seen[1]["stop"] is False


def test_all_criteria_must_be_reached_and_a_range_has_two_ends():
    both = stop_at(None, None, {"knowmem": 33.1, "verbmem": 30.0}, measure=scripted(COURSE))
    assert epochs_of(both) == [False, False, True]
    leak = stop_at(None, None, {"privleak": (-10, 10)}, measure=scripted(COURSE))
    assert epochs_of(leak) == [False, False, True]
    at_least = stop_at(None, None, {"privleak": 0.0}, measure=scripted(COURSE))
    assert epochs_of(at_least) == [False, False, False, True]


def test_none_that_passes_is_said():
    rule = stop_at(None, None, {"knowmem": 1.0}, utility_floor=50, measure=scripted(COURSE))
    assert epochs_of(rule) == [False] * 4
    assert rule.picked is None
    assert str(rule) == "no epoch of 4 measured had knowmem in -inf to 1 with utility of at least 50: the last was taken"


def test_every_and_first_say_when_to_measure():
    rule = stop_at(None, None, {"knowmem": 1.0}, every=2, first=2, measure=scripted(COURSE))
    epochs_of(rule)
    assert [one["epoch"] for one in rule.seen] == [2, 4]


def report(**values):
    items = {name: Items(["0"], [0.0]) for name in values}
    return SixWayReport(values, {name: Interval(v, v, v) for name, v in values.items()}, items)


def test_levels_can_be_those_of_a_retrained_model():
    rule = stop_at(None, None, ("knowmem", "privleak"), retrain=report(knowmem=32.5), measure=scripted(COURSE))
    assert rule.levels == {"knowmem": (-math.inf, 32.5), "privleak": (-10.0, 10.0)}
    with pytest.raises(SchemaMismatch, match="there is no level for verbmem: give one"):
        stop_at(None, None, ("verbmem",), retrain=report(knowmem=32.5), measure=scripted(COURSE))
    with pytest.raises(SchemaMismatch, match="there is no level for knowmem"):
        stop_at(None, None, measure=scripted(COURSE))


@pytest.mark.parametrize(
    ("criteria", "options", "kind", "sentence"),
    [
        ({"utility": 3}, {}, UnknownName, "there is no criterion 'utility' to stop at: choose verbmem, knowmem, privleak"),
        ({}, {}, EmptyData, "no criterion is given to stop at"),
        ({"knowmem": (5, 1)}, {}, DatumwiseError, r"the range of knowmem is empty \(5 to 1\)"),
        ({"knowmem": 5}, {"every": 0}, DatumwiseError, "every is 0 and first 1: both must be 1 or more"),
    ],
)
def test_refused(criteria, options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        stop_at(None, None, criteria, measure=scripted(COURSE), **options)


def test_it_measures_a_real_model_as_six_way_does_and_takes_a_model_as_reference():
    tokenizer, model, other = byte_tokenizer(), tiny_llama(0), tiny_llama(1)
    texts = [f"text number {i} on the road to {c}" for i, c in enumerate("abcdefg")]
    data = MuseData.from_texts(texts[:3], texts[3:4], texts[4:], tokenizer, prompt_tokens=8)
    expected = six_way(model, tokenizer, data, criteria=["verbmem"])
    rule = stop_at(tokenizer, data, ["verbmem"], retrain=other, random_state=3)
    assert rule.levels["verbmem"][1] == six_way(other, tokenizer, data, criteria=["verbmem"]).values["verbmem"]
    rule.levels["verbmem"] = (-math.inf, 100.0)
    assert rule(model, 1) is True  # the utility, which has no questions here, is not in the way
    assert rule.picked["verbmem"] == expected.values["verbmem"]
    assert "utility" not in rule.picked
    with pytest.raises(EmptyData, match="a floor for the utility needs questions on what is to be kept"):
        stop_at(tokenizer, data, {"verbmem": 3}, utility_floor=10)
    with pytest.raises(EmptyData, match=r"knowmem cannot be measured|nothing could be measured"):
        stop_at(tokenizer, data, {"knowmem": 3})(model, 1)


def test_pick_first_makes_no_candidate_after_the_pick():
    made = []

    def candidates():
        for alpha in (1, 2, 4, 8, 16):
            made.append(alpha)
            yield alpha, alpha

    pick = pick_first(candidates(), lambda model, number: number >= 3)
    assert (pick.label, pick.passed, made) == (4, True, [1, 2, 4])
    pick = pick_first(candidates(), lambda model, number: False)
    assert (pick.label, pick.passed, pick.tried) == (16, False, (1, 2, 4, 8, 16))
    with pytest.raises(EmptyData, match="there is no candidate to pick from"):
        pick_first([], lambda model, number: True)
