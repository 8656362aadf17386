"""The audit finds what was planted, proves what it says, keeps its word on held-out rows, and repeats with its seed."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_iris
from sklearn.linear_model import LogisticRegression, Ridge

import datumwise as dw
from datumwise.errors import DatumwiseError, LabelError, ModelMismatch, UnknownColumn, UnknownName
from datumwise.report import audit, read_audit


def _kind(found, key):
    return next(f for f in found.findings if f.key == key)


def test_planted_faults_are_found_with_few_false_alarms(demo):
    wrong, copies, foreign = (_kind(demo, k).planted for k in ("label_error", "near_duplicate", "outlier"))
    assert wrong.planted == 156
    assert wrong.recall > 0.95
    assert wrong.precision > 0.9
    assert copies.right == copies.planted == 24
    assert copies.precision > 0.9
    assert foreign.right >= 11
    assert foreign.precision > 0.9


def test_cleaning_the_planted_faults_shows_a_gain_for_the_learner_named_before(demo):
    card = demo.proof.primary
    assert card.learner == "nearest neighbour"
    assert card.verdict == "gain shown"
    assert card.cleaned_minus_random.low > 0.05
    assert [c.learner for c in demo.proof.cards] == ["nearest neighbour", "logistic regression"]
    assert f"{demo.proof.removed:,} lifts held-out accuracy by" in demo.verdict


def test_what_is_promised_is_kept_on_held_out_batches_and_stands_on_the_ledger(demo):
    promise = demo.promise
    assert (promise.calibration, promise.tested, promise.batch) == (250, 250, 20)
    assert promise.learner == "extra trees with nearest neighbours"
    assert [row.least for row in promise.batches] == [18, 19, 20]
    assert all(row.measured.high >= row.promised for row in (*promise.points, *promise.batches))
    assert promise.batches[2].one_point < 0.85  # sets for one datapoint do not cover a whole batch as often
    assert all(1 <= row.size < 1.5 for row in (*promise.points, *promise.batches))
    assert dw.open_ledger(demo.ledger).metadata["audit"]["promise"] == promise.as_dict()


def test_held_out_rows_are_never_scored(demo):
    ledger = dw.open_ledger(demo.ledger)
    names = ["label_error", "el2n", "outlier_knn", "is_label_error", "cleaned", "nearest", "map_x"]
    rows = ledger.table(["held_out", *names])
    held = np.asarray(rows["held_out"].to_pylist())
    assert held.sum() == 500
    for name in names:
        assert np.asarray(rows[name].is_null()).tolist() == held.tolist(), name
    beside = {one for some in rows["nearest"].to_pylist() if some for one in some}
    assert not beside & set(ledger.ids[held])


def test_every_finding_is_a_column_that_says_where_it_came_from(demo):
    ledger = dw.open_ledger(demo.ledger)
    for name in ("label_error", "near_duplicate", "outlier_knn", "el2n", "memorization"):
        made = ledger.provenance(name)
        assert made.source
        assert made.higher
        assert made.seed == 0
        assert made.params["folds"] == 5
    assert ledger.provenance("nearest").refers_to_ids
    assert (
        ledger.sql("select count(*) as n from ledger where is_label_error")["n"][0].as_py() == _kind(demo, "label_error").count
    )


def test_the_same_seed_finds_the_same_and_opening_again_finds_it_too(demo, tmp_path):
    again = audit(out=tmp_path / "again", seed=0)
    np.testing.assert_array_equal(again.map.flags, demo.map.flags)
    assert again.proof == demo.proof
    assert again.verdict == demo.verdict
    reopened = read_audit(dw.open_ledger(demo.ledger))
    assert reopened.evidence == demo.evidence
    assert reopened.findings == demo.findings
    assert reopened.proof == demo.proof


def test_evidence_names_the_worst_first_with_neighbours_that_are_near(demo):
    flagged = set(np.flatnonzero(demo.map.flags))
    assert {e.row for e in demo.evidence} == flagged
    assert demo.evidence[0].kinds[0] == "label_error"
    order = [e.suspicion for e in demo.evidence]
    assert order == sorted(order, reverse=True)
    wrong = [e for e in demo.evidence if e.kinds[0] == "label_error"]
    agreeing = np.mean([np.mean([demo.map.classes[demo.map.labels[r]] == e.suggested for r in e.neighbours]) for e in wrong])
    assert agreeing > 0.7  # three nearest mostly bear the suggested label
    assert demo.picture(demo.evidence[0].row).size == (8, 8)


def test_a_table_of_a_user_with_words_and_missing_values(tmp_path):
    bunch = load_breast_cancer(as_frame=True)
    frame = bunch.data.iloc[:, :6].copy()
    frame["centre"] = np.random.default_rng(0).choice(["Oslo", "Bergen"], len(frame))
    frame.loc[:20, "mean radius"] = np.nan
    frame["diagnosis"] = np.where(bunch.target, "benign", "malignant")
    wrong = np.random.default_rng(1).random(len(frame)) < 0.08
    frame.loc[wrong, "diagnosis"] = np.where(frame.loc[wrong, "diagnosis"] == "benign", "malignant", "benign")
    path = tmp_path / "cancer.parquet"
    frame.to_parquet(path)
    found = audit(path, label="diagnosis", out=tmp_path / "cancer")
    assert found.kind == "table"
    assert found.map.classes == ("benign", "malignant")
    ledger = dw.open_ledger(found.ledger)
    order = {one: i for i, one in enumerate(ledger.ids)}
    flagged = [order[e.id] for e in found.evidence if "label_error" in e.kinds]
    assert np.mean(wrong[flagged]) > 0.5
    cells = found.cells(found.evidence[0].row)
    assert {"mean radius", "centre"} <= {name for name, _, _ in cells}
    assert found.command.startswith("datumwise audit ")
    assert any("missing values" in limit for limit in found.limits)
    assert any("held-out labels" in limit for limit in found.limits)


def test_numbers_to_predict(tmp_path):
    X, y = load_diabetes(return_X_y=True)
    y = y.astype(float)
    y[:8] += 600
    data = {"x": X, "y": y, "held": (np.arange(len(y)) % 4 == 1) & (np.arange(len(y)) >= 8)}
    found = audit(data, label="y", task="regression", features="x", held_out="held", out=tmp_path / "d", model=Ridge())
    ledger = dw.open_ledger(found.ledger)
    spoiled = set(ledger.ids[:8]) & {e.id for e in found.evidence}
    scored = set(found.map.ids) & set(ledger.ids[:8])
    assert spoiled == scored
    assert found.proof.metric == "R²"
    assert found.proof.primary.learner == "Ridge"
    assert found.proof.primary.verdict == "gain shown"
    assert (found.promise.learner, found.promise.task) == ("Ridge", "regression")
    assert all(row.measured.high >= row.promised for row in (*found.promise.points, *found.promise.batches))
    assert 100 < found.promise.points[0].size < 400  # targets spread over 300


def _texts():
    animals = ["the cat sat on the mat", "a dog ran after the cat", "birds sing in the tree", "the horse ate fresh hay"]
    money = ["shares fell on the market", "the bank raised its rates", "profits rose this quarter", "bonds were sold today"]
    rng = np.random.default_rng(0)
    rows = []
    for i in range(160):
        kind = i % 2
        words = " ".join(rng.permutation((animals, money)[kind])[:2]).split()
        rows.append((" ".join(rng.permutation(words)) + f" {i}", ("animals", "money")[kind]))
    return rows


def test_texts_with_labels(tmp_path):
    frame = pd.DataFrame(_texts(), columns=["text", "topic"])
    wrong = np.arange(160) % 16 == 3
    frame.loc[wrong, "topic"] = np.where(frame.loc[wrong, "topic"] == "money", "animals", "money")
    path = tmp_path / "notes.jsonl"
    frame.to_json(path, orient="records", lines=True)
    found = audit(path, label="topic", out=tmp_path / "notes")
    assert found.kind == "text"
    ledger = dw.open_ledger(found.ledger)
    flagged = {e.id for e in found.evidence if "label_error" in e.kinds}
    planted = set(ledger.ids[wrong]) & set(found.map.ids)
    assert len(flagged & planted) >= 0.7 * len(planted)
    assert found.text(0) in set(frame.text)


def test_texts_without_labels_say_that_nothing_can_be_proved(tmp_path):
    frame = pd.DataFrame(_texts(), columns=["text", "topic"])[["text"]]
    frame.loc[len(frame)] = [frame.text[3]]
    found = audit(frame, out=tmp_path / "corpus")
    assert {f.key for f in found.findings} == {"near_duplicate", "outlier"}
    assert any("near_duplicate" in e.kinds for e in found.evidence)
    assert found.proof.cards == ()
    assert "no labels" in found.support


def test_the_users_own_learner_is_the_one_the_verdict_is_about(tmp_path):
    X, y = load_digits(return_X_y=True)
    y = y[:400].copy()
    y[:40] = (y[:40] + 3) % 10
    found = audit((X[:400], y), model=LogisticRegression(C=100, max_iter=300), out=tmp_path / "o")
    assert found.proof.primary.learner == "LogisticRegression"
    assert found.proof.cards[1].learner == "nearest neighbour"


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"label": "lable"}, UnknownColumn, "did you mean label='label'"),
        ({"model": Ridge()}, ModelMismatch, "is a regressor and the labels are classes"),
        ({"learner": "oracle"}, UnknownName, "choose one of nearest neighbour"),
        ({"held_out": "nowhere"}, UnknownColumn, "'nowhere' is not in"),
        ({"held_out": 2.0}, LabelError, "no share to hold out"),
        ({"folds": 60}, LabelError, "fewer members to train on than 60 folds"),
    ],
)
def test_what_cannot_be_audited_is_refused_in_one_sentence(tmp_path, change, error, says):
    X, y = load_iris(return_X_y=True)
    data = {f"x{i}": X[:, i] for i in range(4)} | {"label": y}
    with pytest.raises(error, match=says) as refused:
        audit(data, out=tmp_path / "i", **change)
    assert isinstance(refused.value, DatumwiseError)
    assert "\n" not in str(refused.value)


def test_one_class_is_refused(tmp_path):
    with pytest.raises(LabelError, match="holds one class only"):
        audit((np.random.default_rng(0).normal(size=(60, 3)), np.zeros(60, int)), out=tmp_path / "one")


def test_a_ledger_that_was_not_audited_says_so(tmp_path):
    ledger = dw.ingest((np.eye(12), np.arange(12) % 2), out=tmp_path / "plain")
    with pytest.raises(UnknownColumn, match="was not audited yet"):
        read_audit(ledger)


def test_prints_and_shows_in_a_notebook(demo, tmp_path):
    assert demo.verdict.split(".")[0] in repr(demo)
    assert "<script" not in demo._repr_html_()
    page = demo.to_html(tmp_path / "a.html")
    assert demo.verdict.split(".")[0] in page.read_text()
