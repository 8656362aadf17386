"""What forgetting did to a classifier: measures against brute force, verdicts on models that did or did not see the rows."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from datumwise.errors import DatumwiseError, EmptyData, LabelError, NotFinite, SchemaMismatch
from datumwise.evaluate.forget_quality import forget_quality
from datumwise.forget.linear_removal import remove_from_logistic


def some(n=90, classes=3, seed=0):
    rng = np.random.default_rng(seed)
    models = [rng.dirichlet(np.ones(classes), n) for _ in range(3)]
    part = np.arange(n) % 3
    return models, rng.integers(0, classes, n), [np.flatnonzero(part == k) for k in range(3)]


def test_measures_equal_brute_force():
    (before, after, anew), y, (forget, retain, test) = some()
    found = forget_quality(before, after, anew, forget, retain, test, y=y, n_bootstrap=50)
    for name, p in (("before", before), ("after", after), ("retrained", anew)):
        row = found.row(name)
        for part, rows in (("forget", forget), ("retain", retain), ("test", test)):
            assert row.accuracy[part].value == pytest.approx((p[rows].argmax(1) == y[rows]).mean())
            assert row.agreement[part].value == pytest.approx((p[rows].argmax(1) == anew[rows].argmax(1)).mean())
            by_scipy = [jensenshannon(p[i], anew[i], base=2) ** 2 for i in rows]
            assert row.divergence[part].value == pytest.approx(np.mean(by_scipy), abs=1e-12)
        loss = -np.log(p[np.arange(90), y])
        seen = np.r_[forget, test]
        assert row.membership.value == pytest.approx(roc_auc_score(np.isin(seen, forget), -loss[seen]))
    assert found.row("retrained").agreement["forget"].value == 1
    assert found.row("retrained").divergence["forget"].value == 0


def test_ties_count_by_half():
    p = np.repeat([[0.5, 0.5], [0.8, 0.2], [0.5, 0.5], [0.2, 0.8]], [3, 2, 4, 1], axis=0)
    found = forget_quality(p, p, None, range(4), [9], range(4, 9), y=np.zeros(10, int), n_bootstrap=20)
    loss = -np.log(p[:, 0])
    brute = np.mean([(loss[f] < loss[t]) + 0.5 * (loss[f] == loss[t]) for f in range(4) for t in range(4, 9)])
    assert found.row("after").membership.value == pytest.approx(brute)
    assert found.per_item["rank_after"][0] == pytest.approx(
        np.mean([(loss[t] < loss[0]) + 0.5 * (loss[t] == loss[0]) for t in range(4, 9)])
    )


def test_losses_that_are_all_the_same_tell_nothing_in_any_draw():
    p = np.full((40, 2), 0.5)
    found = forget_quality(p, p, None, range(10), range(10, 20), range(20, 40), y=np.zeros(40, int), n_bootstrap=50)
    membership = found.row("after").membership
    assert (membership.low, membership.value, membership.high) == (0.5, 0.5, 0.5)


def test_membership_draws_equal_auc_of_the_drawn_datapoints():
    (before, after, _), y, (forget, retain, test) = some(60)
    found = forget_quality(before, after, None, forget, retain, test, y=y, n_bootstrap=400, seed=3)
    loss, draws = -np.log(after[np.arange(60), y]), []
    rngs = [np.random.default_rng([3, part, 0]) for part in (0, 2)]
    drawn = [rng.integers(0, len(rows), (400, len(rows))) for rng, rows in zip(rngs, (forget, test), strict=True)]
    for f, t in zip(forget[drawn[0]], test[drawn[1]], strict=True):
        draws.append(np.mean(loss[f][:, None] < loss[t]) + 0.5 * np.mean(loss[f][:, None] == loss[t]))
    low, high = np.quantile(draws, [0.025, 0.975])
    membership = found.row("after").membership
    assert (membership.low, membership.high) == (pytest.approx(low), pytest.approx(high))


def test_identical_models_differ_by_nothing_at_all():
    (before, _, _), y, parts = some()
    found = forget_quality(before, before, before, *parts, y=y, n_bootstrap=100)
    assert (found.left_over.low, found.left_over.value, found.left_over.high) == (0, 0, 0)
    assert all((gap.low, gap.value, gap.high) == (0, 0, 0) for gap in found.accuracy_gap.values())
    assert found.verdict == "nothing to tell"


def test_intervals_cover_the_truth():
    hits = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        p = np.clip(rng.normal(0.5, 0.2, 400), 0.01, 0.99)  # membership of truly alike datapoints is 0.5
        found = forget_quality(p, p, None, range(100), [399], range(100, 399), y=np.ones(400, int), n_bootstrap=300, seed=seed)
        membership = found.row("after").membership
        hits += membership.low <= 0.5 <= membership.high
    assert 50 <= hits <= 60


def memorising(seed=0):
    """A model of more weights than rows, one without 60 of them, and one from which they were removed."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(400, 120))
    y = (X[:, 0] + rng.normal(size=400) > 0).astype(int)
    seen, forget = np.arange(200), np.arange(60)
    before = LogisticRegression(C=10, tol=1e-10, max_iter=5000).fit(X[seen], y[seen])
    anew = LogisticRegression(C=10, tol=1e-10, max_iter=5000).fit(X[60:200], y[60:200])
    after = remove_from_logistic(before, X[seen], y[seen], forget, steps=20)
    return [model.predict_proba(X) for model in (before, after, anew)], y, (forget, np.arange(60, 200), np.arange(200, 400))


def test_a_model_that_still_knows_them_is_told_from_one_that_never_did():
    (before, after, anew), y, parts = memorising()
    forgotten = forget_quality(before, after, anew, *parts, y=y)
    assert forgotten.verdict == "as retrained"
    assert forgotten.left_over_before.low > 0.1
    assert forgotten.row("after").agreement["forget"].value == 1
    kept = forget_quality(before, before, anew, *parts, y=y)
    assert kept.verdict == "still recognised"
    spoilt = anew.copy()
    spoilt[parts[0], 1 - y[parts[0]]], spoilt[parts[0], y[parts[0]]] = 0.999, 0.001
    over = forget_quality(before, spoilt, anew, *parts, y=y)
    assert over.verdict == "over-forgotten"
    assert over.accuracy_gap["forget"].high < 0
    assert forget_quality(before, after, None, *parts, y=y).verdict == "as unseen"


def test_per_item_arrays_follow_the_forgotten_datapoints_in_their_order():
    (before, after, anew), y, (forget, retain, test) = some()
    ids = [f"d{i}" for i in range(90)]
    turned = forget_quality(before, after, anew, forget[::-1], retain, test, y=y, ids=ids, n_bootstrap=20)
    plain = forget_quality(before, after, anew, forget, retain, test, y=y, ids=ids, n_bootstrap=20)
    assert list(turned.per_item["id"]) == [ids[i] for i in forget[::-1]]
    for name, values in plain.per_item.items():
        assert (turned.per_item[name][::-1] == values).all()
    assert plain.per_item["loss_after"] == pytest.approx(-np.log(after[forget, y[forget]]))
    assert (plain.per_item["correct_before"] == (before[forget].argmax(1) == y[forget])).all()


def test_masks_names_of_classes_and_probabilities_of_one_class_do():
    (before, after, _), y, (forget, retain, test) = some(classes=2)
    a = forget_quality(before, after, None, forget, retain, test, y=y, n_bootstrap=20)
    masks = [np.isin(np.arange(90), rows) for rows in (forget, retain, test)]
    b = forget_quality(before[:, 1], after[:, 1], None, *masks, y=np.array(["a", "b"])[y], classes=["a", "b"], n_bootstrap=20)
    assert str(a) == str(b)
    assert np.allclose(a.per_item["loss_after"], b.per_item["loss_after"])


def test_prints_saves_and_repeats(tmp_path):
    models, y, parts = some()
    found = forget_quality(*models, *parts, y=y, n_bootstrap=50, seed=4)
    again = forget_quality(*models, *parts, y=y, n_bootstrap=50, seed=4)
    assert found.to_json(tmp_path / "q.json") == again.to_json()
    assert json.loads((tmp_path / "q.json").read_text())["n"] == {"forget": 30, "retain": 30, "test": 30}
    lines = str(found).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["before", "after", "retrained"]
    assert "member AUC minus the retrained model's" in lines[-1]
    assert len({len(line) for line in lines[:4]}) == 1


def test_a_certain_wrong_answer_has_a_finite_loss():
    p = np.tile([[1.0, 0.0]], (6, 1))
    found = forget_quality(p, p, p, [0, 1], [2, 3], [4, 5], y=np.ones(6, int), n_bootstrap=10)
    assert np.isfinite(found.per_item["loss_after"]).all()


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"forget": []}, EmptyData, "forget has no datapoint"),
        ({"test": np.zeros(90, bool)}, EmptyData, "test has no datapoint"),
        ({"forget": [0, 1]}, SchemaMismatch, "row 1 is in both forget and retain"),
        ({"forget": [90]}, SchemaMismatch, "forget has rows that are not among the 90: 90"),
        ({"forget": [0, 0]}, SchemaMismatch, "forget has row 0 twice"),
        ({"forget": [0.5]}, SchemaMismatch, "forget must be positions or a mask"),
        ({"y": np.zeros(5)}, SchemaMismatch, r"y has shape \(5,\) for 90 datapoints"),
        ({"y": np.full(90, 3)}, LabelError, "label 3 is no class: the classes are 0, 1, 2"),
        ({"classes": ["a"]}, SchemaMismatch, "1 classes were given for 3 columns"),
        ({"ids": ["a"]}, SchemaMismatch, "1 ids were given for 90 datapoints"),
        (
            {"before": np.full((90, 3), np.nan)},
            NotFinite,
            "probabilities of 'before' hold NaN or infinity in row 0, 1, 2 and 87",
        ),
        ({"after": np.ones((90, 3))}, NotFinite, r"of 'after' is no distribution \(it sums to 3\): give probabilities"),
        ({"after": np.ones((90, 2)) / 2}, SchemaMismatch, "the models' probabilities have the shapes"),
        ({"after": np.ones((2, 2, 2))}, SchemaMismatch, "the probabilities of 'after' have shape"),
        ({"level": 1.0}, DatumwiseError, "is no interval"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(change, error, sentence):
    (before, after, anew), y, (forget, retain, test) = some()
    given = {"before": before, "after": after, "retrained": anew, "forget": forget, "retain": retain, "test": test, "y": y}
    with pytest.raises(error, match=sentence):
        forget_quality(**{**given, **change})
