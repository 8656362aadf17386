"""Datamodels against scikit-learn, and on a linear truth."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import Lasso, Ridge

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, UnknownName
from datumwise.score.datamodels import datamodels

RNG = np.random.default_rng(0)
MASKS = RNG.random((250, 20)) < 0.5
TRUTH = np.zeros((3, 20))
TRUTH[:, :4] = RNG.normal(size=(3, 4))
OUTPUTS = MASKS @ TRUTH.T + 0.1 * RNG.normal(size=(250, 3)) + 2.0


def test_ridge_of_a_given_penalty_is_scikit_learns():
    found = datamodels(MASKS, OUTPUTS, regression="ridge", penalty=3.0, random_state=0)
    for j in range(3):
        fitted = Ridge(alpha=3.0).fit(MASKS.astype(float), OUTPUTS[:, j])
        np.testing.assert_allclose(found.weights[j], fitted.coef_, atol=1e-10)
        assert found.bias[j] == pytest.approx(fitted.intercept_, abs=1e-10)


def test_lasso_of_a_given_penalty_is_scikit_learns():
    found = datamodels(MASKS, OUTPUTS, penalty=0.02, random_state=0)
    for j in range(3):
        np.testing.assert_allclose(found.weights[j], Lasso(alpha=0.02).fit(MASKS.astype(float), OUTPUTS[:, j]).coef_, atol=1e-6)


@pytest.mark.parametrize("regression", ["lasso", "ridge"])
def test_a_linear_truth_is_recovered_with_a_penalty_it_chooses(regression):
    found = datamodels(MASKS, OUTPUTS, regression=regression, random_state=0)
    assert np.abs(found.weights - TRUTH).max() < 0.12
    assert found.correlation.min() > 0.9
    new = RNG.random((50, 20)) < 0.5
    assert np.corrcoef(found.predict(new)[:, 0], new @ TRUTH[0])[0, 1] > 0.99
    assert "3 datamodels of 20" in str(found)


def test_correlation_of_noise_is_held_out_and_small():
    found = datamodels(MASKS, RNG.normal(size=(250, 4)), regression="ridge", random_state=0)
    assert np.abs(found.correlation).max() < 0.3


def test_errors_of_ridge_are_of_the_size_seen_between_data_sets():
    weights, said = [], []
    for seed in range(25):
        rng = np.random.default_rng(seed)
        masks = rng.random((200, 10)) < 0.5
        found = datamodels(masks, (masks @ np.arange(10.0) + rng.normal(size=200))[:, None], regression="ridge", penalty=1.0)
        weights.append(found.weights[0])
        said.append(found.stderr[0])
    ratio = np.sqrt(np.mean(np.square(said))) / np.std(weights, axis=0, ddof=1).mean()
    assert 0.7 < ratio < 1.4


def test_a_test_that_never_changes_has_no_weights():
    found = datamodels(MASKS, np.ones((250, 1)), random_state=0)
    assert not found.weights.any()
    assert np.isnan(found.correlation[0])


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ((MASKS, OUTPUTS[:5]), SchemaMismatch, "runs x datapoints"),
        ((MASKS * 2.0, OUTPUTS), SchemaMismatch, "in .1. or out .0."),
        ((MASKS[:5], OUTPUTS[:5]), DatumwiseError, "5 runs are too few"),
        ((MASKS, np.where(np.arange(250)[:, None] == 7, np.nan, OUTPUTS)), NotFinite, "outputs of run 7"),
    ],
)
def test_bad_input_is_refused(given, error, says):
    with pytest.raises(error, match=says):
        datamodels(*given)


def test_bad_options_are_refused():
    with pytest.raises(UnknownName, match="no regression 'ols'"):
        datamodels(MASKS, OUTPUTS, regression="ols")
    with pytest.raises(DatumwiseError, match="penalty = 0 is no penalty"):
        datamodels(MASKS, OUTPUTS, penalty=0)
