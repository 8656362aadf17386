"""A linear model that forgets: beside the one that is trained anew, which is the oracle."""

import hashlib
import json
import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import MaxAbsScaler

from datumwise.errors import EmptyData, LabelError, SchemaMismatch
from datumwise.evaluate.forget_test import ForgetTest, forget_test


def classes(n=400, wrong=40, n_classes=3, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 6))
    y = (X[:, :n_classes] + 0.3 * rng.normal(size=(n, n_classes))).argmax(1)
    gone = np.zeros(300, bool)
    gone[:wrong] = True
    y[:wrong] = (y[:wrong] + 1) % n_classes
    return X[:300], y[:300], X[300:], y[300:], gone


@pytest.mark.parametrize("n_classes", [2, 3])
def test_after_the_removal_the_weights_are_those_of_a_model_that_never_saw_them(n_classes):
    X, y, X_held, y_held, gone = classes(n_classes=n_classes)
    found = forget_test(X, y, X_held, y_held, gone)
    before, after, never = found.rows
    assert found.moved < 0.01
    assert found.same_answers == 1.0
    assert after.recalled.value == never.recalled.value
    assert after.held_out.value == never.held_out.value
    assert after.recognised == pytest.approx(never.recognised, abs=1e-3)
    assert never.recognised < before.recognised  # wrong labels are stranger to a model that was not taught them


def test_figures_of_the_rows_are_those_of_models_fitted_by_hand():
    X, y, X_held, y_held, gone = classes()
    scaler = MaxAbsScaler().fit(X)
    never = LogisticRegression(max_iter=5000, tol=1e-8).fit(scaler.transform(X[~gone]), y[~gone])
    row = forget_test(X, y, X_held, y_held, gone).rows[2]
    assert row.recalled.value == never.score(scaler.transform(X[gone]), y[gone])
    assert row.held_out.value == never.score(scaler.transform(X_held), y_held)
    of = -never.predict_log_proba(scaler.transform(X[gone]))[np.arange(gone.sum()), y[gone]]
    held = -never.predict_log_proba(scaler.transform(X_held))[np.arange(len(y_held)), y_held]
    below = (of[:, None] < held).mean() + 0.5 * (of[:, None] == held).mean()
    assert row.recognised == pytest.approx(below)
    assert row.held_out.low <= row.held_out.value <= row.held_out.high


def test_a_ridge_regression_forgets_exactly():
    rng = np.random.default_rng(1)
    X = rng.normal(size=(200, 4))
    y = X @ [1.0, -2.0, 0.5, 0.0] + 0.2 * rng.normal(size=200)
    y[:10] += 5
    found = forget_test(X[:150], y[:150], X[150:], y[150:], np.arange(150) < 10)
    assert found.metric == "R²"
    assert found.moved < 1e-9
    assert found.same_answers == pytest.approx(1)
    assert found.rows[1].held_out.value == pytest.approx(found.rows[2].held_out.value, abs=1e-9)
    scaler = MaxAbsScaler().fit(X[:150])
    never = Ridge().fit(scaler.transform(X[10:150]), y[10:150])
    assert found.rows[2].held_out.value == pytest.approx(never.score(scaler.transform(X[150:]), y[150:]))


def test_the_digest_is_of_the_sorted_ids_that_are_forgotten():
    X, y, X_held, y_held, gone = classes()
    ids = [f"row {i}" for i in range(300)]
    found = forget_test(X, y, X_held, y_held, gone, ids=ids, version=7)
    assert found.digest == hashlib.sha256("\n".join(sorted(ids[:40])).encode()).hexdigest()
    assert found.version == 7


def test_a_test_comes_back_from_json_as_it_was():
    X, y, X_held, y_held, gone = classes()
    found = forget_test(X, y, X_held, y_held, gone)
    assert ForgetTest.from_dict(json.loads(json.dumps(found.as_dict()))) == found


def test_a_class_of_nothing_but_forgotten_datapoints_is_said_and_not_tested():
    X, y, X_held, y_held, _ = classes()
    found = forget_test(X, y, X_held, y_held, y == 2)
    assert found.why_none == "A class has no datapoint but those to be forgotten."
    assert not found.rows
    assert math.isnan(found.moved)
    assert ForgetTest.from_dict(json.loads(json.dumps(found.as_dict()))).why_none == found.why_none


def test_too_many_weights_are_said_and_not_tested():
    rng = np.random.default_rng(0)
    found = forget_test(
        rng.normal(size=(40, 1500)), np.arange(40) % 3, rng.normal(size=(9, 1500)), np.arange(9) % 3, np.arange(40) < 3
    )
    assert found.why_none == "A Newton step on 4,503 weights was not tried (limit 3,000)."


def test_bad_input_is_refused():
    X, y, X_held, y_held, gone = classes()
    with pytest.raises(EmptyData, match="nothing to compare"):
        forget_test(X, y, X_held, y_held, np.zeros(300, bool))
    with pytest.raises(SchemaMismatch, match="differ in number"):
        forget_test(X, y[:-1], X_held, y_held, gone)
    with pytest.raises(LabelError, match="one class only"):
        forget_test(X, y, X_held, y_held, y != 0)
