"""Scores and selections that stand on an audited ledger are read with what they say, and shown."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from fake_audits import chosen_audit, variants

from datumwise.ledger import Provenance, create_ledger
from datumwise.report.further import read_chosen, read_promised, read_scores, score_names_of, selection_names
from datumwise.report.page import render
from datumwise.report.result import Chosen, ScoreColumn


@pytest.fixture
def ledger(tmp_path):
    table = pa.table({"id": list("abcd"), "x": [1.0, 2.0, 3.0, 4.0], "y": ["u", "u", "v", "v"]})
    made = create_ledger(
        tmp_path / "data", iter(table.to_batches()), schema=table.schema, id_column="id", task="classification",
        roles={"label": "y", "features": ["x"]}, metadata={"selections": {"core": {"sentence": "no better than random"}}},
    )  # fmt: skip
    score = Provenance("knn", higher="farther", source="Somebody, 2020")
    chosen = Provenance("facility_location", {"metric": "cosine", "cost": None}, kind="selection", source="Nemhauser, 1978")
    made.write(
        {
            "far": np.array([1.0, np.nan, 3.0, 5.0]),
            "core": pa.array([2, None, 1, 3], pa.int32()),
            "core_gain": pa.array([2.0, None, 5.0, 1.0]),
            "map_x": np.zeros(4),
        },
        provenance={"far": score, "core": chosen, "core_gain": chosen, "map_x": Provenance("t-SNE")},
    )
    return made.refresh()


def test_scores_are_the_findings_that_say_what_higher_means(ledger):
    assert score_names_of(ledger) == ["far"]
    (far,) = read_scores(ledger)
    assert (far.computed, far.low, far.median, far.high, far.higher) == (3, 1.0, 3.0, 5.0, "farther")
    assert sum(far.counts) == 3
    assert far.counts[0] == far.counts[-1] == 1


def test_a_selection_is_read_in_the_order_chosen_with_its_classes(ledger):
    assert selection_names(ledger) == ["core"]
    (core,) = read_chosen(ledger)
    assert (core.n, core.of, core.method, core.options) == (3, 4, "facility_location", "metric=cosine")
    assert core.gains == (5.0, 7.0, 8.0)  # sums of 5, 2, 1: the order of the ranks, not of the rows
    assert core.classes == (("u", 1, 2), ("v", 2, 2))
    assert core.sentence == "no better than random"


def test_the_page_shows_both_and_escapes_them():
    core = Chosen("<b>core", "facility_location", "", "", 3, 4, (5.0, 7.0, 8.0), (("<i>", 1, 2),))
    far = ScoreColumn("far", "knn", "farther <off>", "", 3, 1.0, 3.0, 5.0, (1, 0, 1))
    page = render(replace(chosen_audit(), chosen=(core,), scores=(far,)))
    assert "&lt;b&gt;core" in page
    assert "<b>core" not in page
    assert "<i>" not in page
    assert "farther &lt;off&gt;" in page
    assert 'd="M0 10v-10.0' in page
    assert "0.0,31.0 50.0,11.0 100.0,1.0" in page  # the curve of the gains


def test_without_either_the_page_has_no_such_section():
    assert 'id="chosen"' not in render(variants()["plain"])


def test_the_page_says_what_can_be_promised_only_where_something_is():
    audits = variants()
    page = render(audits["regression"])
    assert "Intervals that hold the true value" in page
    assert "no bound" in page
    assert "In 90% of batches of 20" in page
    assert '<a href="#promise">' in page
    assert 'id="promise"' not in render(audits["plain"])


def test_promises_are_read_while_their_columns_stand(ledger):
    fact = {"learner": "ridge", "batch": 4, "calibrated": 9, "statements": ["one", "two"], "notes": ["three"]}
    made = Provenance("batch_conformal")
    ledger.write({"dose_lower": np.zeros(4), "old_lower": np.zeros(4)}, provenance=made)
    seen = {"covered": 3, "selected": 2, "false_claims": 1}
    ledger.set_metadata(
        promises={
            "old": {**fact, "columns": ["old_lower"], "measured": {}},
            "dose": {**fact, "columns": ["dose_lower"], "measured": seen},
        }
    )
    dose, old = read_promised(ledger)
    assert (dose.name, old.name) == ("dose", "old")
    assert dose.statements == ("one", "two", "three")
    assert dose.measured == "3 of 4 were covered, 1 of 2 claims were false"
    ledger.drop("old_lower")
    assert [one.name for one in read_promised(ledger)] == ["dose"]
