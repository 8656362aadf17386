"""Reports: there and back as JSON, paired comparisons on shared items, the printed table."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from datumwise.errors import EmptyData, SchemaMismatch, SourceError
from datumwise.evaluate.paired import auc_test, paired_test
from datumwise.evaluate.removal import Interval
from datumwise.evaluate.six_way_report import Items, Reference, SixWayReport


def report(seed=0, shift=0.0, ids=range(12), model="M:1"):
    rng = np.random.default_rng(seed)
    n = len(ids)
    items = {
        "verbmem": Items(list(ids), rng.random(n), [f"said {i}" for i in ids]),
        "privleak": Items(list(ids), rng.normal(shift, 1, n)),
        "privleak_holdout": Items([f"h{i}" for i in range(20)], rng.normal(size=20)),
        "nll_forget": Items(list(ids), rng.random(n) + shift),
    }
    values = {"verbmem": 100 * items["verbmem"].score.mean(), "nll_forget": items["nll_forget"].score.mean()}
    found = SixWayReport(
        values, {name: Interval(v, v - 1, v + 1) for name, v in values.items()}, items, None, None,
        {"min_k": 0.4}, {"utility": "no questions"}, ["a note"], model, 1.5,
    )  # fmt: skip
    half = Interval(0.5, 0.4, 0.6)
    leak = {"privleak": 100 * (found.holdout_auc() - 0.5) / 0.5}
    return SixWayReport(
        values | leak, found.intervals | {"privleak": Interval(leak["privleak"], -99, math.inf)}, items, found.holdout_auc(),
        Reference("split holdout", 0.5, half), found.settings, found.missing, found.notes, model, math.nan,
    )  # fmt: skip


def test_json_there_and_back_keeps_everything(tmp_path):
    one = report()
    text = one.to_json(tmp_path / "report.json")
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    for back in (SixWayReport.from_json(text), SixWayReport.from_json(tmp_path / "report.json")):
        assert back.to_json() == text
        assert back.values == one.values
        assert back.per_item["verbmem"].id == one.per_item["verbmem"].id
        assert back.per_item["verbmem"].generation == one.per_item["verbmem"].generation
        assert np.array_equal(back.per_item["privleak"].score, one.per_item["privleak"].score)
        assert back.reference == one.reference
        assert math.isnan(back.seconds)


def test_compare_pairs_items_by_id_whatever_their_order():
    one, two = report(0), report(1, shift=0.5)
    turned = {}
    for name, items in two.per_item.items():
        order = np.random.default_rng(2).permutation(len(items))
        said = None if items.generation is None else [items.generation[i] for i in order]
        turned[name] = Items([items.id[i] for i in order], items.score[order], said)
    mixed = SixWayReport(two.values, two.intervals, turned, two.auc)
    found = {c.criterion: c for c in one.compare(mixed)}
    a, b = one.per_item, two.per_item
    by_hand = paired_test(a["verbmem"].score, b["verbmem"].score, bounds=(0, 1))
    assert found["verbmem"].test.difference.value == pytest.approx(100 * by_hand.difference.value)
    assert found["verbmem"].test.p == by_hand.p
    assert found["nll_forget"].test.difference.value == pytest.approx((a["nll_forget"].score - b["nll_forget"].score).mean())
    samples = [(r["privleak"].score, r["privleak_holdout"].score) for r in (a, b)]
    assert found["privleak"].test.p == pytest.approx(auc_test(*samples).p)
    assert found["privleak"].test.difference.value == pytest.approx(100 * (one.auc - two.auc))
    assert (found["privleak"].first, found["privleak"].second) == (one.values["privleak"], two.values["privleak"])


def test_compare_uses_shared_items_only():
    one, two = report(0, ids=range(12)), report(1, ids=range(6, 18))
    found = {c.criterion: c for c in one.compare(two)}
    assert found["verbmem"].test.n == 6
    mine, theirs = one.per_item["verbmem"].score[6:], two.per_item["verbmem"].score[:6]
    assert found["verbmem"].test.difference.value == pytest.approx(100 * (mine - theirs).mean())


def test_table_says_values_gaps_reference_and_notes():
    lines = report().table().splitlines()
    assert lines[0].split() == ["criterion", "value", "95", "%", "items", "unit"]
    assert lines[1].startswith("recited, to forget")
    assert any(line.startswith("not measured: answered, to keep (no questions)") for line in lines)
    assert any("reference 0.500 (split holdout)" in line for line in lines)
    assert lines[-1] == "a note"
    assert repr(report()).startswith("SixWayReport: verbmem ")


def test_refusals(tmp_path):
    with pytest.raises(EmptyData, match="share no criterion with an item in common"):
        report(ids=range(3)).compare(SixWayReport({}, {}, {"verbmem": Items([99], np.array([1.0]))}))
    with pytest.raises(EmptyData, match="no scores of forget and holdout texts"):
        SixWayReport({}, {}, {}).holdout_auc()
    with pytest.raises(SchemaMismatch, match="this is no six-way report"):
        SixWayReport.from_json('{"values": {}}')
    with pytest.raises(SourceError, match="there is no report at"):
        SixWayReport.from_json(tmp_path / "none.json")
    (tmp_path / "bad.json").write_text("no json")
    with pytest.raises(SourceError, match="the report is no JSON"):
        SixWayReport.from_json(tmp_path / "bad.json")
