"""Scores that read one or two signals, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import LabelError, NotFinite, SchemaMismatch
from datumwise.score import el2n, find, label_error_regression, memorization
from datumwise.score.thresholds import residual_threshold


def test_el2n_is_the_distance_to_the_one_hot_label():
    rng = np.random.default_rng(0)
    probs, labels = rng.dirichlet(np.ones(5), 40), rng.integers(0, 5, 40)
    np.testing.assert_allclose(el2n(probs, labels), np.linalg.norm(probs - np.eye(5)[labels], axis=1))
    to = rng.permutation(5)
    np.testing.assert_allclose(el2n(probs[:, np.argsort(to)], to[labels]), el2n(probs, labels))


def test_el2n_is_the_length_of_the_loss_gradient_in_the_logits():
    """Definition 2.2 comes from d(cross-entropy)/d(logits) = p - onehot: check by finite differences."""
    logits, label, step = np.array([0.3, -1.0, 0.8]), 1, 1e-6

    def cross_entropy(z):
        return np.log(np.exp(z).sum()) - z[label]

    gradient = [(cross_entropy(logits + d) - cross_entropy(logits - d)) / (2 * step) for d in step * np.eye(3)]
    probs = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(el2n([probs], [label]), np.linalg.norm(gradient), rtol=1e-8)


def test_memorization_is_the_label_probability_gained_by_training_on_the_row():
    inside, outside = np.array([[0.9, 0.1], [0.4, 0.6]]), np.array([[0.2, 0.8], [0.5, 0.5]])
    np.testing.assert_allclose(memorization(inside, outside, [0, 1]), [0.7, 0.1])
    assert (memorization(outside, outside, [0, 1]) == 0).all()


def test_a_nearest_neighbour_memorises_flipped_labels_and_nothing_else():
    """One neighbour gives its own label with certainty: 1 - p_out, high exactly where the rest disagree."""
    from sklearn.datasets import load_digits
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    X, true = load_digits(return_X_y=True)
    X, true = X[:600], true[:600]
    rng = np.random.default_rng(0)
    flipped = rng.random(600) < 0.1
    labels = np.where(flipped, (true + 1) % 10, true)
    probs = cross_val_predict(KNeighborsClassifier(5), X, labels, cv=5, method="predict_proba")
    assert roc_auc_score(flipped, memorization(np.eye(10)[labels], probs, labels)) > 0.95


def test_memorization_refuses_shapes_that_differ():
    with pytest.raises(SchemaMismatch, match=r"probs_fit has shape \(1, 2\) and probs \(1, 3\)"):
        memorization([[0.5, 0.5]], [[0.2, 0.3, 0.5]], [0])
    with pytest.raises(LabelError, match="outside"):
        memorization([[0.5, 0.5]], [[0.5, 0.5]], [2])


def test_regression_score_of_normal_residuals_is_their_standard_score():
    residual = 3 + 2 * np.random.default_rng(0).normal(size=100_000)
    np.testing.assert_allclose(label_error_regression(residual), np.abs(residual - 3) / 2, rtol=0.03, atol=0.03)


def test_regression_score_does_not_change_with_unit_or_offset_and_withstands_errors():
    rng = np.random.default_rng(0)
    residual = rng.normal(size=400)
    np.testing.assert_allclose(label_error_regression(5 - 7 * residual), label_error_regression(residual))
    wrong = residual.copy()
    wrong[:80] += 1000  # a fifth of the targets
    found = label_error_regression(wrong) > residual_threshold(400)
    assert found[:80].all()
    assert not found[80:].any()


def test_few_normal_residuals_are_flagged():
    rng = np.random.default_rng(0)
    flagged = [np.count_nonzero(label_error_regression(rng.normal(size=2000)) > residual_threshold(2000)) for _ in range(50)]
    assert np.mean(flagged) < 1.5


def test_regression_score_of_mostly_equal_residuals_falls_back_and_of_equal_ones_is_zero():
    assert (label_error_regression(np.ones(5)) == 0).all()
    score = label_error_regression([0, 0, 0, 0, 10.0])
    np.testing.assert_allclose(score, [0, 0, 0, 0, 10 / (np.sqrt(np.pi / 2) * 2)])


@pytest.mark.parametrize("name", ["loss", "grand", "self_influence"])
def test_passed_through_signals_come_out_as_they_went_in_and_nan_is_refused(name):
    function = find(name).function
    assert function(np.array([1.5, 0.25], np.float32)).tolist() == [1.5, 0.25]
    with pytest.raises(NotFinite, match="row 1"):
        function([0.0, np.nan])
    with pytest.raises(SchemaMismatch, match="one number a datapoint"):
        function(np.zeros((2, 2)))


def test_regression_score_refuses_nan():
    with pytest.raises(NotFinite, match="residual has NaN or infinity in row 0"):
        label_error_regression([np.nan, 1.0])
