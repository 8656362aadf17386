"""Claims about item response theory by marginal maximum likelihood."""

import numpy as np
import pytest
from scipy.optimize import brentq

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch, UnknownName
from datumwise.score.irt import fit_irt


def simulated(seed, slopes=True, n=200, k=100):
    rng = np.random.default_rng(seed)
    b, a = rng.normal(size=k), rng.lognormal(0, 0.3, k) if slopes else np.ones(k)
    theta = rng.normal(size=(n, 1))
    return (rng.random((n, k)) < 1 / (1 + np.exp(-a * (theta - b)))).astype(float), b, a, theta[:, 0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_both_models_recover_simulated_difficulties(seed):
    right, b, a, theta = simulated(seed)
    found = fit_irt(right, "2pl")
    assert found.converged
    assert np.corrcoef(found.difficulty, b)[0, 1] > 0.95
    assert np.corrcoef(found.discrimination, a)[0, 1] > 0.7
    assert np.corrcoef(found.ability, theta)[0, 1] > 0.95
    right, b, _, _ = simulated(seed, slopes=False)
    found = fit_irt(right, "1pl")
    assert np.corrcoef(found.difficulty, b)[0, 1] > 0.95
    assert np.ptp(found.discrimination) == 0


def test_difficulties_are_on_the_scale_of_ability_not_only_correlated_with_it():
    rng = np.random.default_rng(0)
    b, a = np.linspace(-1.5, 1.5, 30), np.full(30, 1.5)
    theta = rng.normal(size=(6000, 1))
    found = fit_irt(rng.random((6000, 30)) < 1 / (1 + np.exp(-a * (theta - b))))
    np.testing.assert_allclose(found.difficulty, b, atol=0.15)
    np.testing.assert_allclose(found.discrimination, a, atol=0.25)


def test_in_the_1pl_equal_totals_are_equal_abilities_and_a_higher_total_a_higher_one():
    right, *_ = simulated(4)
    found = fit_irt(right, "1pl")
    totals = right.sum(axis=1)
    by_total = [found.ability[totals == t] for t in np.unique(totals)]
    assert max(np.ptp(abilities) for abilities in by_total) < 1e-9
    assert (np.diff([abilities.mean() for abilities in by_total]) > 0).all()


def test_the_location_is_fixed_and_the_order_of_items_and_respondents_does_not_matter():
    right, *_ = simulated(5, k=40)
    found = fit_irt(right)
    assert abs(found.difficulty.mean()) < 1e-12
    rng = np.random.default_rng(0)
    rows, columns = rng.permutation(200), rng.permutation(40)
    again = fit_irt(right[rows][:, columns])
    np.testing.assert_allclose(again.difficulty, found.difficulty[columns], atol=1e-8)
    np.testing.assert_allclose(again.ability, found.ability[rows], atol=1e-8)


def test_the_posterior_mean_is_the_integral_over_a_fine_grid():
    right, *_ = simulated(6, n=60, k=20)
    found = fit_irt(right)
    theta = np.linspace(-8, 8, 801)
    # difficulty and ability were moved together, and the prior's mean with them: one number for all respondents
    logits = found.discrimination[:, None] * (theta - found.difficulty[:, None])
    log_p = right @ -np.logaddexp(0, -logits) + (1 - right) @ -np.logaddexp(0, logits)

    def means(prior_mean):
        log_joint = log_p - (theta - prior_mean) ** 2 / 2
        weight = np.exp(log_joint - log_joint.max(axis=1, keepdims=True))
        return (weight * theta).sum(axis=1) / weight.sum(axis=1)

    moved = brentq(lambda m: means(m)[0] - found.ability[0], -1, 1)
    np.testing.assert_allclose(means(moved), found.ability, atol=1e-4)


def test_items_that_all_answer_alike_stay_finite_and_are_flagged():
    right, *_ = simulated(7, k=20)
    right[:, 0], right[:, 1] = 1, 0
    found = fit_irt(right)
    assert found.extreme.tolist() == [True, True] + [False] * 18
    assert np.isfinite(found.difficulty).all()
    assert found.difficulty[0] == found.difficulty.min()
    assert found.difficulty[1] == found.difficulty.max()


def test_answers_that_were_not_asked_for_are_left_out():
    right, b, *_ = simulated(8, n=600, k=60)
    asked = np.random.default_rng(0).random(right.shape) < 0.6
    found = fit_irt(np.where(asked, right, np.nan))
    assert np.corrcoef(found.difficulty, b)[0, 1] > 0.95
    whole, masked = fit_irt(right), fit_irt(np.where(np.ones_like(asked), right, np.nan))
    np.testing.assert_allclose(whole.difficulty, masked.difficulty)


@pytest.mark.parametrize(
    ("responses", "kind", "sentence"),
    [
        (np.zeros(3), SchemaMismatch, "respondents x items"),
        (np.zeros((0, 3)), EmptyData, "empty"),
        (np.array([[0, 1], [2, 1]]), DatumwiseError, "item 0 are neither 0 nor 1"),
        (np.array([[np.nan, 1], [np.nan, 1]]), DatumwiseError, "item 0 has no answer"),
        (np.array([[np.nan, np.nan], [0, 1]]), DatumwiseError, "respondent 0 has no answer"),
    ],
)
def test_bad_responses_are_refused(responses, kind, sentence):
    with pytest.raises(kind, match=sentence):
        fit_irt(responses)


def test_an_unknown_model_is_refused():
    with pytest.raises(UnknownName, match="3pl"):
        fit_irt(np.zeros((2, 2)), "3pl")
