import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from datumwise.errors import LabelError, SchemaMismatch
from datumwise.evaluate.memorization_auc import memorization_auc


def world(seed=0, n=400):
    rng = np.random.default_rng(seed)
    memorized = rng.random(n) < 0.3
    loss = rng.normal(size=n) - memorized
    return rng, memorized, loss


def test_auc_is_that_of_scikit_learn_ties_half():
    rng, memorized, loss = world()
    scores = {"loss": loss, "coarse": np.round(loss + rng.normal(size=len(loss)))}
    found = memorization_auc(scores, memorized)
    for name, column in scores.items():
        assert found[name].auc.value == pytest.approx(roc_auc_score(memorized, column))
        assert found[name].auc.low < found[name].auc.value < found[name].auc.high
    assert found["loss"].direction == "low"


def test_what_only_repeats_the_loss_falls_to_a_half_at_equal_loss_and_what_adds_to_it_stays():
    rng, memorized, loss = world(1, 1000)
    scores = {"loss": loss, "shrunken": np.tanh(-loss), "more": memorized + 0.3 * rng.normal(size=1000) - loss}
    found = memorization_auc(scores, memorized)
    for name in ("loss", "shrunken"):
        assert abs(found[name].auc.value - 0.5) > 0.2
        assert abs(found[name].matched.value - 0.5) < 0.05
    assert found["more"].matched.value > 0.95
    assert found["loss"].n_matched > 0.9 * memorized.sum()


def test_matched_auc_equals_the_definition():
    rng, memorized, loss = world(2, 60)
    score = rng.normal(size=60) + memorized
    found = memorization_auc({"s": score}, memorized, loss, caliper=0.3)["s"]
    width, each = 0.3 * loss.std(), []
    for i in np.flatnonzero(memorized):
        near = [j for j in np.flatnonzero(~memorized) if abs(loss[i] - loss[j]) <= width]
        if near:
            each.append(np.mean([(score[i] > score[j]) + 0.5 * (score[i] == score[j]) for j in near]))
    assert found.matched.value == pytest.approx(np.mean(each))
    assert found.n_matched == len(each)


def test_without_a_partner_of_equal_loss_nothing_is_said():
    memorized = np.arange(20) < 10
    loss = np.where(memorized, 0.0, 10.0) + np.arange(20) / 100
    found = memorization_auc({"loss": loss}, memorized)
    assert np.isnan(found["loss"].matched.value)
    assert found["loss"].n_matched == 0
    assert " - " in str(found)


def test_datapoints_without_a_score_are_left_out():
    _, memorized, loss = world(3, 100)
    score = loss.copy()
    score[:10] = np.nan
    found = memorization_auc({"s": score}, memorized, loss)["s"].auc
    assert found.value == pytest.approx(roc_auc_score(memorized[10:], loss[10:]))


def test_intervals_are_repeatable_and_hold_the_truth_about_95_times_in_100():
    hits = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        memorized = np.arange(120) < 40
        score = rng.normal(size=120) + memorized  # true AUC: Phi(1 / sqrt 2)
        found = memorization_auc({"s": score}, memorized, np.zeros(120), n_bootstrap=200, seed=seed)["s"].auc
        hits += found.low <= 0.7602 <= found.high
    assert 52 <= hits <= 60
    again = memorization_auc({"s": score}, memorized, np.zeros(120), n_bootstrap=200, seed=59)["s"].auc
    assert again == found


def test_what_cannot_be_told_apart_is_refused():
    with pytest.raises(LabelError, match="0 of 5 datapoints are memorised"):
        memorization_auc({"loss": np.zeros(5)}, np.zeros(5, bool))
    with pytest.raises(SchemaMismatch, match=r"s has shape \(4,\) for 5 datapoints"):
        memorization_auc({"s": np.zeros(4)}, np.arange(5) < 2, np.zeros(5))
