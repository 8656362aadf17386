"""Covariate shift by rejection sampling."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch
from datumwise.predict.batch_conformal import BatchConformal
from datumwise.predict.order_statistics import rank_pmf
from datumwise.predict.shift import ShiftWeights, effective_size, estimate_weights, reject_to_target


class Zero:
    """Predicts 0, so that an absolute score is |y|."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        return np.zeros(len(X))


def test_points_kept_are_draws_from_the_target() -> None:
    x = np.random.default_rng(0).random(20_000)
    kept = reject_to_target(3 * x**2, bound=3, random_state=1)
    assert kstest(x[kept], lambda t: t**3).pvalue > 0.01
    assert kstest(x, lambda t: t**3).pvalue < 1e-6


def test_number_kept_is_binomial_about_the_effective_size() -> None:
    w = np.random.default_rng(0).random(200)
    n = effective_size(w, 2.0)
    assert n == pytest.approx(w.sum() / 2)
    counts = [reject_to_target(w, 2.0, random_state=seed).sum() for seed in range(500)]
    spread = np.sqrt((w / 2 * (1 - w / 2)).sum())
    assert abs(np.mean(counts) - n) < 4 * spread / np.sqrt(500)


def test_only_the_ratio_of_weight_and_bound_counts_and_a_seed_repeats() -> None:
    w = np.random.default_rng(0).random(300)
    kept = reject_to_target(w, 1.0, random_state=3)
    assert np.array_equal(kept, reject_to_target(7 * w, 7.0, random_state=3))
    assert not np.array_equal(kept, reject_to_target(w, 1.0, random_state=4))


def test_data_drawn_with_the_same_seed_does_not_decide_who_is_kept() -> None:
    x = np.random.default_rng(5).random(1000)  # the very draws that a naive rejection would compare with
    kept = reject_to_target(x, 1.0, random_state=5)
    assert 400 < kept.sum() < 600


def shifted_batches(known: bool) -> np.ndarray:
    """Whether at least 18 of 20 intervals held, 1500 times: noise grows with x, and batches have large x."""
    rng = np.random.default_rng(11)
    held = []
    for repeat in range(1500):
        x = rng.random((400, 1))
        y = x[:, 0] * rng.normal(size=400)
        far = np.sqrt(rng.random((20, 1)) * 0.75 + 0.25)  # density 8x/3 on (1/2, 1)
        truth = far[:, 0] * rng.normal(size=20)
        weights = {"shift_weights": lambda X: np.where(X[:, 0] > 0.5, 8 * X[:, 0] / 3, 0.0), "bound": 8 / 3} if known else {}
        model = BatchConformal(Zero(), random_state=repeat).calibrate(x, y, **weights)
        held.append(model.predict_interval(far, alpha=0.1, delta=0.1).covered(truth).sum() >= 18)
    return np.array(held)


def test_promise_holds_under_shift_with_true_weights_and_fails_without() -> None:
    with_weights, without = shifted_batches(True).mean(), shifted_batches(False).mean()
    error = np.sqrt(0.1 * 0.9 / 1500)
    assert with_weights >= 0.9 - 3 * error
    assert with_weights < 0.96  # and is not bought with width: exact levels at n' near 150 lie between .90 and .93
    assert without < 0.75


def test_calibration_keeps_the_rejected_points_out_and_says_how_many_to_expect() -> None:
    rng = np.random.default_rng(0)
    x = rng.random((500, 1))
    y = rng.normal(size=500)
    model = BatchConformal(Zero(), random_state=0).calibrate(x, y, shift_weights=x[:, 0], bound=1.0)
    assert len(model.scores_) == len(model.kept_) < 300
    assert np.array_equal(model.scores_, np.abs(y[model.kept_]))
    assert model.n_effective_ == pytest.approx(x.sum())
    assert model.validity_ == "exact for true weights"
    again = BatchConformal(Zero(), random_state=0).calibrate(x, -y * 5, shift_weights=x[:, 0], bound=1.0)
    assert np.array_equal(again.kept_, model.kept_)  # outcomes play no part
    scores = BatchConformal(random_state=0).calibrate_scores(np.abs(y), shift_weights=x[:, 0], bound=1.0)
    assert np.array_equal(scores.scores_, model.scores_)


def test_level_under_shift_is_that_of_the_points_kept() -> None:
    rng = np.random.default_rng(1)
    model = BatchConformal(random_state=2).calibrate_scores(rng.random(300), shift_weights=rng.random(300), bound=1.0)
    n = len(model.scores_)
    found = model.predict_interval(10, alpha=0.1)
    assert found.n == n < 300
    assert found.exact_level == pytest.approx(rank_pmf(n, 10, 9)[: found.rank].sum())


def test_estimated_weights_come_near_the_true_ones_and_confess() -> None:
    rng = np.random.default_rng(0)
    source, target = rng.normal(size=(3000, 2)), rng.normal([0.7, 0.0], size=(2000, 2))
    found = estimate_weights(source, target, random_state=0)
    true = np.exp(0.7 * source[:, 0] - 0.245)
    assert np.corrcoef(found.weights, np.minimum(true, found.bound))[0, 1] > 0.99
    assert found.weights.mean() == pytest.approx(1.0, abs=0.05)
    assert 0.65 < found.auc < 0.73
    assert found.clipped == 30
    assert found.weights.max() == found.bound
    assert "approximate" in found.validity
    frames = estimate_weights(
        pd.DataFrame(source, columns=["a", "b"]), pd.DataFrame(target, columns=["a", "b"]), random_state=0
    )
    assert np.allclose(frames.weights, found.weights)


def test_no_shift_gives_weights_near_one() -> None:
    rng = np.random.default_rng(0)
    found = estimate_weights(rng.normal(size=(3000, 2)), rng.normal(size=(3000, 2)), random_state=0)
    assert abs(found.auc - 0.5) < 0.03
    assert found.weights.std() < 0.1


def test_statements_from_estimated_weights_say_that_they_are_approximate() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 1))
    model = BatchConformal(Zero(), random_state=0).calibrate(x, rng.normal(size=500), shift_target=x[:100] + 0.5)
    found = model.predict_interval(x[:10])
    assert "approximate: the weights were estimated by a classifier" in str(found)
    assert "approximate" in str(model.select(x[:10], -1.0, max_false=5))
    assert "approximate" in str(model.select_curve(x[:10], -1.0))
    assert "approximate" in str(model.predict_batch(x[:10], "median"))
    assert "approximate" in str(model.predict_band(x[:10]))
    assert model.n_effective_ < 500
    given = estimate_weights(x, x[:100] + 0.5, random_state=0)
    again = BatchConformal(Zero(), random_state=0).calibrate(x, rng.normal(size=500), shift_weights=given)
    assert again.validity_ == given.validity


@pytest.mark.parametrize(
    ("weights", "bound", "sentence"),
    [
        ([1.0, -0.1], 2.0, "below 0 in row 1"),
        ([1.0, 3.0], 2.0, "exceed bound = 2 in row 1, by up to 3"),
        ([1.0, np.inf], 2.0, "shift weights has NaN or infinity in 1 row: 1"),
        ([1.0, np.nan], 2.0, "shift weights has NaN in 1 row: 1"),
        ([1.0], np.inf, "rejection needs it"),
        ([1.0], 0.0, "rejection needs it"),
    ],
)
def test_weights_that_reject_nothing_well_are_refused(weights: list[float], bound: float, sentence: str) -> None:
    with pytest.raises(DatumwiseError, match=sentence):
        reject_to_target(weights, bound)


def test_nothing_kept_is_refused() -> None:
    with pytest.raises(EmptyData, match="none of 3 calibration points was kept"):
        reject_to_target([0.0, 0.0, 0.0], 1.0)


def test_calibration_refuses_weights_without_a_bound_or_of_another_length() -> None:
    x, y = np.zeros((4, 1)), np.arange(4.0)
    with pytest.raises(DatumwiseError, match="need bound="):
        BatchConformal(Zero()).calibrate(x, y, shift_weights=np.ones(4))
    with pytest.raises(SchemaMismatch, match="4 calibration points and 3 shift weights"):
        BatchConformal(Zero()).calibrate(x, y, shift_weights=np.ones(3), bound=1.0)
    with pytest.raises(DatumwiseError, match="bound belongs to shift_weights"):
        BatchConformal(Zero()).calibrate(x, y, bound=1.0)
    with pytest.raises(DatumwiseError, match="there is no X"):
        BatchConformal().calibrate_scores(y, shift_weights=lambda X: X, bound=1.0)
    with pytest.raises(DatumwiseError, match="both given"):
        BatchConformal(Zero()).calibrate(x, y, shift_weights=np.ones(4), bound=1.0, shift_target=x)
    assert isinstance(estimate_weights(np.eye(6), np.eye(6), folds=2, random_state=0), ShiftWeights)


def test_estimation_refuses_other_columns_and_too_few_points() -> None:
    with pytest.raises(SchemaMismatch, match="do not fit"):
        estimate_weights(np.zeros((9, 2)), np.zeros((9, 3)))
    with pytest.raises(SchemaMismatch, match="different columns"):
        estimate_weights(pd.DataFrame({"a": range(9)}), pd.DataFrame({"b": range(9)}))
    with pytest.raises(DatumwiseError, match="cannot be dealt to 5 folds"):
        estimate_weights(np.zeros((9, 2)), np.zeros((3, 2)))
