"""The rule is ordinary least squares on the log loss: equal to a textbook solution, and refused where there is none."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, UnknownName
from datumwise.score.instruct_mining import InstructMining


def drawn(m=40, seed=0):
    rng = np.random.default_rng(seed)
    indicators = {name: rng.normal(i, 1 + i, m) for i, name in enumerate(("reward", "length", "ppl"))}
    noise = 0.1 * rng.normal(size=m)
    return indicators, np.exp(0.5 - 0.3 * indicators["reward"] + 0.02 * indicators["ppl"] + noise)


def test_scores_are_minus_the_least_squares_prediction_of_the_log_loss():
    indicators, losses = drawn()
    X = np.column_stack(list(indicators.values()))
    expected = LinearRegression().fit(X, np.log(losses))
    rule = InstructMining().fit(indicators, losses)
    np.testing.assert_allclose(rule.score_samples(indicators), -expected.predict(X), atol=1e-12)
    assert rule.r_squared_ == pytest.approx(expected.score(X, np.log(losses)))


def test_standard_errors_cover_the_true_coefficients():
    inside = []
    for seed in range(300):
        indicators, losses = drawn(seed=seed)
        rule = InstructMining().fit(indicators, losses)
        spread = np.array([indicators[n].std() for n in rule.names_])
        inside.append(np.abs(rule.coef_ - np.array([-0.3, 0, 0.02]) * spread) < 1.96 * rule.stderr_)
    assert 0.91 < np.mean(inside) < 0.97


def test_a_missing_number_gives_nan_and_not_a_guess():
    rule = InstructMining().fit(*drawn())
    found = rule.score_samples({"reward": [0.0, np.nan], "length": [1.0, 1.0], "ppl": [2.0, 2.0]})
    assert np.isnan(found).tolist() == [False, True]


def test_bad_input_is_refused():
    indicators, losses = drawn()
    with pytest.raises(DatumwiseError, match="4 subsets cannot tell 3 indicators apart: give at least 5"):
        InstructMining().fit({k: v[:4] for k, v in indicators.items()}, losses[:4])
    with pytest.raises(DatumwiseError, match="indicator flat is the same in every subset"):
        InstructMining().fit(indicators | {"flat": np.ones(40)}, losses)
    with pytest.raises(DatumwiseError, match="follow from one another"):
        InstructMining().fit(indicators | {"twice": 2 * indicators["ppl"]}, losses)
    with pytest.raises(DatumwiseError, match="the loss of subset 3 is not above 0"):
        InstructMining().fit(indicators, np.where(np.arange(40) == 3, 0, losses))
    with pytest.raises(NotFinite, match="row 7"):
        InstructMining().fit(indicators | {"ppl": np.where(np.arange(40) == 7, np.nan, 1.0 * np.arange(40))}, losses)
    with pytest.raises(SchemaMismatch, match="not columns of one length"):
        InstructMining().fit(indicators | {"short": [1.0]}, losses)
    with pytest.raises(UnknownName, match="indicator 'length' is missing"):
        InstructMining().fit(indicators, losses).score_samples({"reward": [1.0], "ppl": [1.0]})
    with pytest.raises(DatumwiseError, match="was not fitted yet"):
        InstructMining().score_samples(indicators)
