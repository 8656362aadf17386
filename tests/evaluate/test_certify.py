"""A certificate made of reports says what the reports say, judged on the same items."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.evaluate.attack_report import AttackReport, AttackRow
from datumwise.evaluate.certificate import Certificate
from datumwise.evaluate.certify import certify, criteria_of, datapoints_of
from datumwise.evaluate.paired import mean_interval, paired_test
from datumwise.evaluate.removal import Interval
from datumwise.evaluate.six_way_report import MEASURES, Items, Reference, SixWayReport

IDS = [f"n{i}" for i in range(12)]


def report(name, *, verbmem=None, nll=None, utility=None, leak=None, kind="report", missing=None, notes=()):
    arrays = {"verbmem": verbmem, "nll_forget": nll, "utility": utility}
    items = {key: Items(IDS[: len(v)], np.asarray(v, dtype=float)) for key, v in arrays.items() if v is not None}
    values = {key: MEASURES[key].scale * one.score.mean() for key, one in items.items()}
    intervals = {}
    for key, one in items.items():
        ends, scale = mean_interval(one.score, bounds=MEASURES[key].bounds), MEASURES[key].scale
        intervals[key] = Interval(scale * ends.value, scale * ends.low, scale * ends.high)
    reference = None
    if leak is not None:
        values["privleak"], intervals["privleak"] = leak[0], Interval(*leak)
        items["privleak"] = Items(IDS, np.zeros(12))
        reference = Reference(kind, 0.5, Interval(0.5, 0.4, 0.6))
    return SixWayReport(values, intervals, items, 0.5, reference, missing=missing or {}, notes=list(notes), model=f"M:{name}")


RNG = np.random.default_rng(0)
FULL = np.ones(12)
LOW = RNG.uniform(0.02, 0.12, 12)
BEFORE = report("before", verbmem=FULL, nll=np.full(12, 0.2), utility=np.full(12, 0.9), leak=(-100.0, -100.0, -90.0))
AFTER = report("after", verbmem=LOW + 0.01, nll=np.full(12, 3.0), utility=np.full(12, 0.9), leak=(-4.0, -20.0, 9.0))
NEVER = report("never", verbmem=LOW, nll=np.full(12, 3.1), utility=np.full(12, 0.92))


def test_values_are_shares_intervals_are_paired_and_the_leakage_is_held_against_nought():
    found = {c.name: c for c in criteria_of(BEFORE, AFTER, NEVER)}
    assert list(found) == ["verbatim recall", "privacy leakage", "loss on what was forgotten", "knowledge kept"]
    recall = found["verbatim recall"]
    assert (recall.before, recall.after, recall.reference, recall.n) == pytest.approx((1.0, LOW.mean() + 0.01, LOW.mean(), 12))
    expected = paired_test(LOW + 0.01, LOW, bounds=(0, 1)).difference
    assert recall.gap == pytest.approx((expected.low, expected.high))
    against = paired_test(LOW + 0.01, FULL, bounds=(0, 1)).difference
    assert recall.change == pytest.approx((against.low, against.high))
    leak = found["privacy leakage"]
    assert (leak.before, leak.after, leak.reference, leak.interval) == (-100.0, -4.0, 0.0, (-20.0, 9.0))
    assert leak.verdict == "within noise"
    assert found["loss on what was forgotten"].verdict == "partly forgotten"  # surely lower than never saw, surely above before
    assert found["knowledge kept"].verdict == "kept"


def test_without_a_model_that_never_saw_them_nothing_is_called_forgotten():
    after = report("after", verbmem=LOW, nll=np.full(12, 3.0), leak=(-4, -9, 9), kind="split holdout")
    found = {c.name: c for c in criteria_of(BEFORE, after)}
    assert found["verbatim recall"].verdict == "lower than before"
    assert found["loss on what was forgotten"].verdict == "higher than before"
    assert found["privacy leakage"].reference is None
    assert "0.5, for want of a model that never saw them" in found["privacy leakage"].note


def test_each_datapoint_is_held_against_the_model_that_never_saw_it():
    verbmem, nll = LOW.copy(), np.full(12, 3.0)
    verbmem[3] += 0.4
    nll[5] = 2.0
    after = report("after", verbmem=verbmem, nll=nll)
    rows = {one.id: one for one in datapoints_of(["n3", "n5", "n0", "absent"], BEFORE, after, NEVER)}
    assert list(rows) == ["n3", "n5", "n0"]
    assert [one.verdict for one in rows.values()] == ["still recalled", "still likely", "forgotten"]
    assert rows["n5"].before == {"verbatim recall": 1.0, "loss": 0.2}
    assert rows["n5"].reference["loss"] == 3.1
    assert [one.verdict for one in datapoints_of(["n3"], BEFORE, after)] == [""]


def test_certificate_carries_models_notes_gaps_and_attacks():
    after = report("after", verbmem=LOW, missing={"knowmem": "no questions", "holdout": "x"}, notes=["2 texts were cut"])
    row = AttackRow("int4", "verbmem", 1.0, 0.1, 0.6, (0.5, 0.7), None, (0.5, 0.4, 0.6), None, 12)
    report_of = AttackReport((row,))
    card = certify("letter of May", IDS, BEFORE, after, NEVER, method="ga", attacks=report_of, ledger="l", ledger_version=3)
    assert (card.model_before, card.model_after, card.model_reference) == ("M:before", "M:after", "M:never")
    assert card.not_tested == ("knowledge (no questions)",)
    assert card.notes[0] == "2 texts were cut"
    assert "no model that never saw them was attacked" in card.notes[1]
    assert [one.verdict for one in card.attacks] == ["comes back"]
    assert len(card.datapoints) == 12
    assert Certificate.from_json(card.to_json()) == card


def test_what_got_worse_stands_under_what_was_traded():
    worse = report("after", verbmem=LOW, utility=np.full(12, 0.5) + 0.01 * LOW)
    assert certify("r", IDS, BEFORE, worse, NEVER, method="ga").traded == ("knowledge kept fell from 0.90 to 0.50",)
