"""Importance weights, their tail, and the refit, against closed forms and a slow textbook version."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch
from datumwise.learn.expectation_maximization import em_step
from datumwise.learn.gaussian_mixture import GaussianMixture
from datumwise.learn.importance import effective_sample_size, importance_sample, pareto_khat, refine_mixture
from datumwise.learn.linear_gaussian import gmm_posterior
from datumwise.learn.prior_families import GMMFamily
from datumwise.learn.quadrature import quadrature_posterior


def problem(B=6, d=1, seed=0):
    """A conjugate problem: prior, data, log likelihood, exact posterior, log evidence."""
    prior = GMMFamily(3, d, dtype=torch.float64).sample(B, torch.Generator().manual_seed(seed))
    y = 2 * torch.randn(B, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed + 1))
    eye = torch.eye(d, dtype=torch.float64)

    def log_likelihood(x, data):
        return -0.5 * (data - x).square().sum(-1) - 0.5 * d * math.log(2 * math.pi)

    return prior, y, log_likelihood, *gmm_posterior(prior, eye, eye, y)


def textbook_khat(weights):
    """Pareto-smoothed importance sampling's shape, one loop at a time."""
    weights = sorted(float(w) for w in weights)
    S = len(weights)
    M = math.ceil(min(0.2 * S, 3 * math.sqrt(S)))
    cutoff = weights[S - M - 1]
    x = [w - cutoff for w in weights[S - M :]]
    m = 30 + int(math.sqrt(M))
    quartile = x[math.floor(M / 4 + 0.5) - 1]
    log_profile, thetas = [], []
    for j in range(1, m + 1):
        theta = 1 / x[-1] + (1 - math.sqrt(m / (j - 0.5))) / (3 * quartile)
        k = sum(math.log(1 - theta * v) for v in x) / M
        thetas.append(theta)
        log_profile.append(M * (math.log(-theta / k) - k - 1))
    theta = 0.0
    for j in range(m):
        theta += thetas[j] / sum(math.exp(other - log_profile[j]) for other in log_profile)
    k = sum(math.log(1 - theta * v) for v in x) / M
    return (M * k + 10 * 0.5) / (M + 10)


@pytest.mark.parametrize("S", [25, 100, 999, 4000])
def test_khat_equals_the_textbook_for_any_weights(S):
    generator = torch.Generator().manual_seed(S)
    log_weights = torch.randn(S, 4, dtype=torch.float64, generator=generator) * torch.tensor([0.1, 0.5, 1.0, 3.0])
    expected = [textbook_khat((log_weights[:, b] - log_weights[:, b].max()).exp()) for b in range(4)]
    np.testing.assert_allclose(pareto_khat(log_weights), expected, atol=1e-9)
    np.testing.assert_allclose(pareto_khat(log_weights + 5000.0), expected, atol=1e-8)  # weights are known up to a factor
    np.testing.assert_allclose(pareto_khat(log_weights.flip(0)[:, 2]), expected[2], atol=1e-9)


@pytest.mark.parametrize("k", [-0.3, 0.0, 0.3, 0.7, 1.2])
def test_khat_finds_the_shape_of_generalised_pareto_draws(k):
    S, repeats = 4000, 200
    M = math.ceil(3 * math.sqrt(S))
    draws = 1.0 + stats.genpareto(k).rvs(size=(S, repeats), random_state=np.random.default_rng(0))
    found = pareto_khat(torch.as_tensor(draws).log())
    expected = (M * k + 5) / (M + 10)  # what the shrinkage makes of the truth
    assert found.mean().item() == pytest.approx(expected, abs=0.05)
    assert found.std().item() < 2.0 * (1 + max(k, 0)) / math.sqrt(M)


def test_khat_of_a_flat_tail_is_zero_and_weights_of_zero_are_allowed():
    assert pareto_khat(torch.zeros(100)).item() == 0
    assert pareto_khat(torch.randn(100, generator=torch.Generator().manual_seed(0)).double() * 1e-14).item() == 0
    some = torch.full((1000,), -torch.inf, dtype=torch.float64)
    some[:300] = torch.randn(300, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert pareto_khat(some).isfinite()
    assert pareto_khat(torch.full((100,), -torch.inf)).isfinite()
    ties = torch.zeros(100, dtype=torch.float64)
    ties[:3] = torch.tensor([1.0, 2.0, 9.0])
    assert pareto_khat(ties).item() > 0.7


def test_effective_sample_size_is_between_one_and_all():
    log_weights = torch.randn(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    weights = log_weights.exp()
    np.testing.assert_allclose(effective_sample_size(log_weights), weights.sum(0) ** 2 / weights.square().sum(0), rtol=1e-12)
    assert effective_sample_size(torch.full((77,), -900.0)).item() == pytest.approx(77, rel=1e-5)
    one = torch.full((77,), -torch.inf)
    one[3] = 5.0
    assert effective_sample_size(one).item() == pytest.approx(1)


@pytest.mark.parametrize("d", [1, 2])
def test_the_exact_posterior_as_proposal_has_equal_weights(d):
    prior, y, log_likelihood, exact, log_evidence = problem(d=d)
    sample = importance_sample(exact, prior, log_likelihood, y, n=400)
    np.testing.assert_allclose(sample.ess, 400, rtol=1e-8)
    np.testing.assert_allclose(sample.log_evidence, log_evidence, atol=1e-9)
    np.testing.assert_allclose(sample.khat, 0)


def test_evidence_and_moments_from_the_prior_are_right_within_their_error():
    prior, y, log_likelihood, exact, log_evidence = problem()
    n = 100_000
    sample = importance_sample(prior, prior, log_likelihood, y, n=n, generator=torch.Generator().manual_seed(2))
    relative = (sample.log_weights - sample.log_evidence).exp().std(0) / math.sqrt(n)
    np.testing.assert_array_less((sample.log_evidence - log_evidence).abs(), 4.5 * relative)
    error = exact.covariance[:, 0, 0].sqrt() / sample.ess.sqrt()
    np.testing.assert_array_less((sample.mean - exact.mean)[:, 0].abs(), 5 * error)
    np.testing.assert_allclose(sample.covariance, exact.covariance, rtol=0.1)
    assert (sample.khat < 0.7).all()


def test_a_proposal_that_is_too_narrow_raises_the_alarm():
    prior, y, log_likelihood, exact, _ = problem(1)
    narrow = GaussianMixture(exact.weights, exact.means + 1.0, exact.scale_tril * 0.4)
    sample = importance_sample(narrow, prior, log_likelihood, y, n=4000)
    assert sample.khat.item() > 0.7
    assert sample.ess.item() < 1000


def test_a_constrained_state_needs_no_jacobian_of_the_caller():
    prior = GaussianMixture(torch.ones(1, 1).double(), torch.zeros(1, 1, 1).double(), torch.full((1, 1, 1, 1), 0.5).double())

    def log_likelihood(v, y):  # y ~ N(0, v)
        return (-0.5 * y.square() / v - 0.5 * v.log()).sum(-1)

    y = torch.tensor([[1.5]], dtype=torch.float64)
    exact = quadrature_posterior(prior, log_likelihood, y, support="positive")
    sample = importance_sample(prior, prior, log_likelihood, y, n=100_000, support="positive")
    assert sample.log_evidence.item() == pytest.approx(exact.log_evidence.item(), abs=0.01)
    assert sample.mean.item() == pytest.approx(exact.mean.item(), abs=0.01)


@pytest.mark.parametrize("d", [1, 2])
def test_refinement_mends_a_rough_posterior(d):
    prior, y, log_likelihood, exact, _ = problem(4, d)
    rough = GaussianMixture(torch.full_like(exact.weights, 1 / 3), exact.means + 0.3, exact.scale_tril * 1.5)
    before = exact.kl(rough)
    after = exact.kl(refine_mixture(rough, prior, log_likelihood, y, n=4000))
    assert (after < 0.25 * before).all()
    assert torch.equal(refine_mixture(rough, prior, log_likelihood, y, steps=0).means, rough.means)
    again = [
        refine_mixture(rough, prior, log_likelihood, y, generator=torch.Generator().manual_seed(3)).means for _ in range(2)
    ]
    assert torch.equal(*again)


def test_refinement_leaves_the_exact_posterior_where_it_is():
    prior, y, log_likelihood, exact, _ = problem(40)
    refined = refine_mixture(exact, prior, log_likelihood, y, n=500)
    assert exact.kl(refined).max() < 0.005
    assert (refined.means == exact.means).all((1, 2)).double().mean() > 0.9  # a refit would follow the noise of its draws


def test_a_component_that_no_draw_speaks_of_stays():
    means = torch.tensor([[[0.0], [40.0]]], dtype=torch.float64)
    mixture = GaussianMixture(torch.tensor([[0.5, 0.5]]).double(), means, torch.ones(1, 2, 1, 1).double())
    draws = torch.randn(500, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    moved = em_step(mixture, draws, torch.zeros(500, 1).double(), pseudo_count=3.0)
    assert moved.means[0, 1].item() == pytest.approx(40, abs=1e-6)
    assert moved.scale_tril[0, 1].item() == pytest.approx(1, abs=1e-3)
    assert moved.weights[0, 1] < 1e-6
    again = em_step(mixture, draws, torch.zeros(500, 1).double())  # without it the empty one starts afresh among the draws
    assert abs(again.means[0, 1].item()) < 1
    assert again.scale_tril.isfinite().all()


def test_a_step_raises_the_weighted_likelihood():
    draws = torch.randn(300, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    log_weights = torch.randn(300, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mixture = GMMFamily(3, 2, dtype=torch.float64).sample(4, torch.Generator().manual_seed(2))
    share = torch.softmax(log_weights, 0)
    last = (share * mixture.log_prob(draws)).sum(0)
    for _ in range(20):
        mixture = em_step(mixture, draws, log_weights)
        now = (share * mixture.log_prob(draws)).sum(0)
        assert (now >= last - 1e-6).all()
        last = now


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"n": 10}, DatumwiseError, "n >= 25"),
        ({"log_likelihood": lambda x, y: x}, SchemaMismatch, "a log likelihood of shape"),
        ({"log_likelihood": lambda x, y: x[..., 0] * math.nan}, NotFinite, "NaN or infinite for mixture 0, 1"),
        ({"log_likelihood": lambda x, y: x[..., 0] * 0 + math.inf}, NotFinite, "NaN or infinite"),
        (
            {"log_likelihood": lambda x, y: x[..., 0] * 0 - math.inf},
            DatumwiseError,
            "every draw of mixture 0, 1 has likelihood 0",
        ),
        ({"proposal": GMMFamily().sample(3)}, SchemaMismatch, "the same B and d"),
    ],
)
def test_bad_input_is_refused(change, error, sentence):
    arguments = {"proposal": GMMFamily().sample(2), "prior": GMMFamily().sample(2), "log_likelihood": lambda x, y: x[..., 0]}
    with pytest.raises(error, match=sentence):
        importance_sample(**(arguments | change))


def test_weights_without_a_tail_and_negative_steps_are_refused():
    with pytest.raises(DatumwiseError, match="at least 25"):
        pareto_khat(torch.zeros(24))
    with pytest.raises(NotFinite, match="hold NaN or infinity"):
        pareto_khat(torch.full((30,), math.nan))
    prior, y, log_likelihood, exact, _ = problem(1)
    with pytest.raises(DatumwiseError, match="steps >= 0"):
        refine_mixture(exact, prior, log_likelihood, y, steps=-1)
