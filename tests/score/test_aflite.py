"""Predictability against a loop over splits, and what AFLite removes."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from value_cases import three_blobs

from datumwise.errors import DatumwiseError, LabelError, SchemaMismatch
from datumwise.score.aflite import aflite, predictability

X, Y, WRONG = three_blobs(60, noisy=6, spread=1.5)


def test_predictability_is_right_over_tested_in_the_splits():
    found = predictability(X, Y, n_splits=10, random_state=3)
    rng = np.random.default_rng(3)
    Z = np.column_stack([(X - X.mean(axis=0)) / X.std(axis=0), np.ones(60)])
    right, tested = np.zeros(60), np.zeros(60)
    for _ in range(10):
        order = rng.permutation(60)
        train, test = order[:48], order[48:]
        predicted = Ridge(alpha=1.0, fit_intercept=False).fit(Z[train], np.eye(3)[Y[train]]).predict(Z[test]).argmax(axis=1)
        right[test] += predicted == Y[test]
        tested[test] += 1
    expected = np.where(tested > 0, right / np.maximum(tested, 1), np.nan)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_wrong_labels_are_the_least_predictable():
    found = predictability(X, Y)
    assert WRONG[np.argsort(found)[:6]].mean() >= 0.8


def test_the_filter_removes_what_a_shortcut_gives_away():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 300)
    shortcut = np.arange(300) < 200  # one column tells these labels
    Z = rng.normal(size=(300, 5))
    Z[shortcut, 0] = 4 * (2 * y[shortcut] - 1)
    found = aflite(Z, y, 100, random_state=0)
    assert found.keep.sum() >= 100
    assert shortcut[~found.keep].mean() > 0.8
    assert (found.round[found.keep] == -1).all()
    assert (found.score[~found.keep] > 0.75).all()


def test_rounds_remove_at_most_k_and_end_at_the_target():
    Z, y, _ = three_blobs(200)
    found = aflite(Z, y, 150, k=20, random_state=0)
    assert found.keep.sum() == 150
    assert np.bincount(found.round[found.round >= 0]).tolist() == [20, 20, 10]


def test_nothing_predictable_nothing_removed():
    rng = np.random.default_rng(1)
    found = aflite(rng.normal(size=(200, 3)), rng.integers(0, 4, 200), 50, tau=0.95, random_state=0)
    assert found.keep.mean() > 0.9


def test_bad_input_is_refused():
    with pytest.raises(SchemaMismatch, match="60 rows and there are 5 labels"):
        predictability(X, Y[:5])
    with pytest.raises(LabelError, match="all 60 labels are 0"):
        predictability(X, Y * 0)
    with pytest.raises(DatumwiseError, match="n_to_keep = 61 of 60"):
        aflite(X, Y, 61)
    with pytest.raises(DatumwiseError, match=r"train_share = 1\.0"):
        predictability(X, Y, train_share=1.0)
    with pytest.raises(DatumwiseError, match="tau = 2"):
        aflite(X, Y, 30, tau=2)
