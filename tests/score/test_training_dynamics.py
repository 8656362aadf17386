"""Scores of training dynamics on a table of four epochs, computed by hand."""

from __future__ import annotations

from math import log, sqrt

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, EmptyData, LabelError, NotFinite, SchemaMismatch
from datumwise.score import aum, confidence, correctness, dynamics, forgetting, variability
from datumwise.score.training_dynamics import aum_threshold, fake_class_labels, threshold_closeness

# Probability of class 0 (of two) after epochs 1 to 4, for five datapoints labelled 0, 0, 0, 0, 1.
TABLE = np.array(
    [
        [0.75, 0.25, 0.75, 0.25],  # right, wrong, right, wrong
        [0.25, 0.25, 0.25, 0.25],  # never right
        [0.25, 0.75, 0.75, 0.75],  # learnt and kept
        [0.75, 0.75, 0.25, 0.75],  # forgotten once, learnt again
        [0.25, 0.25, 0.25, 0.25],  # always right: its label is 1
    ]
)
LABELS = np.array([0, 0, 0, 0, 1])
LOGITS = np.stack([np.log(TABLE), np.log(1 - TABLE)], axis=-1).transpose(1, 0, 2)  # (4, 5, 2)


def test_forgetting_counts_falls_from_right_to_wrong():
    assert forgetting(LOGITS, LABELS).tolist() == [2, np.inf, 0, 1, 0]


def test_confidence_is_the_mean_probability_of_the_label():
    np.testing.assert_allclose(confidence(LOGITS, LABELS), [0.5, 0.25, 0.625, 0.625, 0.75])


def test_variability_is_the_population_standard_deviation():
    np.testing.assert_allclose(variability(LOGITS, LABELS), [0.25, 0, sqrt(3) / 8, sqrt(3) / 8, 0], atol=1e-15)


def test_correctness_is_the_share_of_epochs_predicted_right():
    assert correctness(LOGITS, LABELS).tolist() == [0.5, 0, 0.75, 0.75, 1]


def test_aum_is_the_mean_lead_in_logits():
    np.testing.assert_allclose(aum(LOGITS, LABELS), [0, -log(3), log(3) / 2, log(3) / 2, log(3)], atol=1e-15)


def test_aum_takes_the_best_other_class():
    logits = np.array([[[3.0, 1.0, 2.5]], [[1.0, 4.0, 0.0]]])
    assert aum(logits, [0]).tolist() == [((3 - 2.5) + (1 - 4)) / 2]


def test_dynamics_gives_all_and_el2n_of_the_last_epoch():
    found = dynamics(LOGITS, LABELS, ids=list("abcde"))
    assert list(found) == ["forgetting", "confidence", "variability", "correctness", "aum", "el2n"]
    np.testing.assert_allclose(found["el2n"], sqrt(2) * (1 - np.array([0.25, 0.25, 0.75, 0.75, 0.75])))
    assert found.top("el2n", 1) == [("a", pytest.approx(0.75 * sqrt(2)))]


def test_relabelling_the_classes_changes_nothing():
    rng = np.random.default_rng(0)
    logits, labels, to = rng.normal(size=(6, 50, 4)), rng.integers(0, 4, 50), np.array([2, 3, 1, 0])
    for name, column in dynamics(logits, labels).items():
        moved = dynamics(logits[..., np.argsort(to)], to[labels])[name]
        np.testing.assert_allclose(moved, column, atol=1e-12)


def test_a_constant_added_to_a_row_of_logits_changes_nothing():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(6, 50, 4)), rng.integers(0, 4, 50)
    for name, column in dynamics(logits + 1000 * rng.normal(size=(6, 50, 1)), labels).items():
        np.testing.assert_allclose(column, dynamics(logits, labels)[name], atol=1e-9)


def test_logits_are_left_as_they_were():
    before = LOGITS.copy()
    dynamics(LOGITS, LABELS)
    np.testing.assert_array_equal(LOGITS, before)


@pytest.mark.parametrize(
    ("logits", "labels", "error", "says"),
    [
        (LOGITS[0], LABELS, SchemaMismatch, "epochs x 5 datapoints x classes"),
        (LOGITS, LABELS[:3], SchemaMismatch, "epochs x 3 datapoints"),
        (LOGITS[:0], LABELS, SchemaMismatch, "epochs"),
        (LOGITS, LABELS + 1, LabelError, r"row 4 lie outside 0\.\.1"),
        (LOGITS[..., :1], LABELS * 0, LabelError, "two classes"),
        (np.where(TABLE.T[..., None] > 0.7, np.nan, LOGITS), LABELS, NotFinite, "row 0, 2, 3"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(logits, labels, error, says):
    with pytest.raises(error, match=says):
        aum(logits, labels)


def test_threshold_closeness_is_the_share_right_times_the_share_wrong():
    np.testing.assert_allclose(threshold_closeness(LOGITS, LABELS), [0.25, 0, 0.1875, 0.1875, 0])


def test_one_in_k_plus_one_gets_the_fake_class():
    labels = np.arange(400) % 3
    relabelled, fake = fake_class_labels(labels, random_state=0)
    assert fake.sum() == 100
    assert (relabelled[fake] == 3).all()
    np.testing.assert_array_equal(relabelled[~fake], labels[~fake])
    again, _ = fake_class_labels(labels, random_state=0)
    np.testing.assert_array_equal(again, relabelled)
    assert fake_class_labels(labels, n_classes=7)[1].sum() == 50


def test_the_aum_threshold_is_a_percentile_of_the_fake_class():
    values, fake = np.arange(200.0), np.arange(200) < 101
    assert aum_threshold(values, fake) == 99
    assert aum_threshold(values, fake, percentile=50) == 50


def test_the_fake_class_finds_wrong_labels_by_training():
    """Kernel ridge memorises both the wrong labels and the fake class late: their margins are alike."""
    rng = np.random.default_rng(0)
    truth = np.arange(600) % 3
    X = 3 * np.eye(3)[truth] + rng.normal(size=(600, 3))
    wrong = rng.random(600) < 0.1
    labels, fake = fake_class_labels(np.where(wrong, (truth + 1) % 3, truth), random_state=1)
    kernel = np.exp(-((X[:, None] - X) ** 2).sum(axis=2) / 2)
    target = np.eye(4)[labels]
    output, epochs = np.zeros((600, 4)), []
    for _ in range(20):  # gradient descent in function space
        output = output + 0.01 * kernel @ (target - output)
        epochs.append(output)
    margin = aum(np.array(epochs), labels)
    flagged = margin < aum_threshold(margin, fake, percentile=90)
    real = ~fake
    assert flagged[real & wrong].mean() > 0.8
    assert flagged[real & ~wrong].mean() < 0.15


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: fake_class_labels([0, 1, 2], n_classes=2), LabelError, r"row 2 lie outside 0\.\.1"),
        (lambda: fake_class_labels([0, 1]), EmptyData, "2 datapoints are too few"),
        (lambda: aum_threshold([1.0], [False]), EmptyData, "no datapoint has the fake class"),
        (lambda: aum_threshold([1.0, 2.0], [True]), SchemaMismatch, "2 values of aum"),
        (lambda: aum_threshold([1.0], [True], percentile=101), DatumwiseError, "percentile = 101"),
    ],
)
def test_bad_fake_classes_are_refused(call, error, says):
    with pytest.raises(error, match=says):
        call()
