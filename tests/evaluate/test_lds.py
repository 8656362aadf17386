"""The linear datamodelling score against scipy, and its bounds on truth and noise."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch
from datumwise.evaluate.lds import lds

RNG = np.random.default_rng(0)
MASKS = RNG.random((60, 80)) < 0.5
SCORES = RNG.normal(size=(40, 80))
OUTPUTS = MASKS @ SCORES.T + 3 * RNG.normal(size=(60, 40))


def test_it_is_the_mean_of_spearmans_correlations():
    found = lds(SCORES, MASKS, OUTPUTS)
    expected = [spearmanr((MASKS @ SCORES.T)[:, t], OUTPUTS[:, t]).statistic for t in range(40)]
    np.testing.assert_allclose(found.per_test, expected, atol=1e-12)
    assert found.score.value == pytest.approx(np.mean(expected))
    assert found.score.low < found.score.value < found.score.high


def test_random_scores_have_none():
    assert abs(lds(RNG.normal(size=(40, 80)), MASKS, OUTPUTS).score.value) < 0.1


def test_the_true_datamodel_of_a_linear_model_is_above_nine_tenths():
    X, beta = RNG.normal(size=(80, 3)), np.array([1.0, -1.0, 0.5])
    y = X @ beta + 0.5 * RNG.normal(size=80)
    tests = RNG.normal(size=(40, 3))
    outputs = np.array([Ridge(alpha=1.0, fit_intercept=False).fit(X[m], y[m]).predict(tests) for m in MASKS])
    # first-order effect of a row on the prediction at the full fit
    whole = Ridge(alpha=1.0, fit_intercept=False).fit(X, y)
    effects = tests @ np.linalg.inv(X.T @ X + np.eye(3)) @ (X * (y - whole.predict(X))[:, None]).T
    assert lds(effects, MASKS, outputs).score.value > 0.9


def test_a_rising_function_of_the_outputs_changes_nothing():
    assert lds(SCORES, MASKS, np.exp(OUTPUTS / 10)).per_test == pytest.approx(lds(SCORES, MASKS, OUTPUTS).per_test)
    assert lds(-SCORES, MASKS, OUTPUTS).score.value == pytest.approx(-lds(SCORES, MASKS, OUTPUTS).score.value)


def test_tests_that_never_change_are_left_out():
    outputs = OUTPUTS.copy()
    outputs[:, 0] = 1.0
    found = lds(SCORES, MASKS, outputs)
    assert np.isnan(found.per_test[0])
    assert found.n_tests == 39
    assert json.loads(found.to_json())["per_test"][0] is None
    with pytest.raises(DatumwiseError, match="no test has a correlation"):
        lds(SCORES, MASKS, np.ones_like(OUTPUTS))


def test_intervals_cover_the_score_of_many_subsets_and_tests():
    truth = np.random.default_rng(1).normal(size=(2000, 30))

    def drawn(seed: int, tests: int, subsets: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        rng = np.random.default_rng(seed)
        t = truth[rng.integers(0, 2000, tests)]
        masks = rng.random((subsets, 30)) < 0.5
        return t, masks, masks @ t.T + 3 * rng.normal(size=(subsets, tests))

    target = lds(*drawn(0, 400, 2000), n_bootstrap=0).score.value
    inside = 0
    for seed in range(1, 61):
        found = lds(*drawn(seed, 20, 50), n_bootstrap=200).score
        inside += found.low <= target <= found.high
    assert inside >= 52  # of 60 at 95 %


def test_few_subsets_are_called_rough():
    assert "rough" in str(lds(SCORES, MASKS[:10], OUTPUTS[:10]))
    assert "rough" not in str(lds(SCORES, MASKS, OUTPUTS))


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"masks": MASKS[:, :5]}, SchemaMismatch, "tests x training datapoints"),
        ({"masks": MASKS * 2}, SchemaMismatch, "in .1. or out .0."),
        ({"scores": np.where(np.arange(40)[:, None] == 4, np.nan, SCORES)}, NotFinite, "scores of test 4"),
        ({"outputs": np.where(np.arange(60)[:, None] == 2, np.inf, OUTPUTS)}, NotFinite, "outputs of subset 2"),
        ({"masks": MASKS[:2], "outputs": OUTPUTS[:2]}, DatumwiseError, "2 subsets have no rank correlation"),
    ],
)
def test_bad_input_is_refused(change, error, says):
    with pytest.raises(error, match=says):
        lds(**({"scores": SCORES, "masks": MASKS, "outputs": OUTPUTS} | change))
