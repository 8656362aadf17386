"""Curves of removal and addition against retraining set by set."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch
from datumwise.evaluate.removal_curves import removal_curves
from datumwise.score import knn_shapley


def blobs(n: int, seed: int, noisy: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 3
    X = 3 * np.eye(3)[y] + rng.normal(size=(n, 3))
    return X, np.where(np.arange(n) < noisy, (y + 1) % 3, y)


X, Y = blobs(60, 0, noisy=12)
X_VAL, Y_VAL = blobs(100, 1)
X_TEST, Y_TEST = blobs(200, 2)
VALUES = knn_shapley(X, Y, X_VAL, Y_VAL)


def test_every_point_is_a_model_trained_on_what_is_left():
    found = removal_curves(VALUES, X, Y, X_TEST, Y_TEST, LogisticRegression(), shares=[0, 0.2, 0.5], n_random=2)
    up = np.argsort(VALUES, kind="stable")
    for order, kept in (
        ("remove lowest", [up, up[12:], up[30:]]),
        ("remove highest", [up, up[: 60 - 12], up[: 60 - 30]]),
        ("add highest", [None, up[::-1][:12], up[::-1][:30]]),
        ("add lowest", [None, up[:12], up[:30]]),
    ):
        for score, rows in zip(found.curve(order).score, kept, strict=True):
            expected = 1 / 3 if rows is None else LogisticRegression().fit(X[rows], Y[rows]).score(X_TEST, Y_TEST)
            assert score == pytest.approx(expected)


def test_good_values_leave_the_random_band_on_the_right_side():
    found = removal_curves(VALUES, X, Y, X_TEST, Y_TEST, "knn", n_random=10)
    assert found.curve("remove lowest").area > 0
    assert found.curve("remove highest").area < 0
    assert found.curve("add highest").area > 0
    assert found.curve("add lowest").area < 0
    at = found.share.index(0.2)
    assert found.curve("remove lowest").score[at] > found.random_removal[at] + 2 * found.random_removal_sd[at]


def test_random_values_stay_within_it():
    areas = []
    for seed in range(10):
        noise = np.random.default_rng(seed).normal(size=60)
        areas.append(removal_curves(noise, X, Y, X_TEST, Y_TEST, "knn", n_random=10).curve("remove lowest").area)
    assert abs(np.mean(areas)) < 0.02


def test_several_values_are_compared_on_the_same_random_orders():
    found = removal_curves({"shapley": VALUES, "none": np.zeros(60)}, X, Y, X_TEST, Y_TEST, n_random=3)
    assert len(found.curves) == 8
    alone = removal_curves(VALUES, X, Y, X_TEST, Y_TEST, n_random=3)
    assert found.random_removal == alone.random_removal
    assert found.curve("remove lowest", "shapley").score == alone.curve("remove lowest").score
    assert "shapley, remove lowest" in str(found)
    assert json.loads(found.to_json())["n_random"] == 3


def test_seeds_refit_a_random_model_and_say_how_far_apart_they_are():
    model = DecisionTreeClassifier(max_features=1)
    found = removal_curves(VALUES, X, Y, X_TEST, Y_TEST, model, shares=[0, 0.3], n_random=2, n_seeds=4)
    assert found.curve("remove lowest").stderr[0] > 0
    one, two = (removal_curves(VALUES, X, Y, X_TEST, Y_TEST, model, shares=[0.3], n_random=2, n_seeds=2) for _ in range(2))
    assert one == two


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"values": VALUES[:5]}, SchemaMismatch, "5 values of values and 60 training rows"),
        ({"values": {"a": VALUES * np.nan}}, NotFinite, "values of a has NaN"),
        ({"shares": [0.5, 0.2]}, DatumwiseError, "shares = "),
        ({"shares": [0.5, 1.0]}, DatumwiseError, "0 <= share < 1"),
        ({"n_random": 1}, DatumwiseError, "n_random = 1"),
        ({"n_seeds": 2}, DatumwiseError, "no random_state"),
    ],
)
def test_bad_input_is_refused(change, error, says):
    given = {"values": VALUES, "X": X, "y": Y, "X_test": X_TEST, "y_test": Y_TEST} | change
    with pytest.raises(error, match=says):
        removal_curves(**given)
