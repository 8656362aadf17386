"""Closed forms against quadrature, dense Gaussians, scikit-learn and matrix exponentials."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats
from scipy.linalg import expm

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch
from datumwise.learn.exact_posteriors import gp_hyperprior_predictive, inverse_gamma_posterior
from datumwise.learn.quantum import quantum_log_likelihood, quantum_probability

# ---------------------------------------------------------------------------- inverse gamma


def test_inverse_gamma_posterior_and_evidence_equal_quadrature():
    y = np.array([0.3, -1.2, 2.0])
    a, b, log_evidence = inverse_gamma_posterior(2.5, 1.5, torch.as_tensor(y))

    def joint(v):
        return stats.invgamma(2.5, scale=1.5).pdf(v) * stats.norm(0, math.sqrt(v)).pdf(y).prod()

    evidence = integrate.quad(joint, 0, np.inf, epsabs=1e-14)[0]
    assert log_evidence.item() == pytest.approx(math.log(evidence), abs=1e-9)
    posterior = stats.invgamma(a.item(), scale=b.item())
    for v in (0.2, 1.0, 4.0):
        assert posterior.pdf(v) == pytest.approx(joint(v) / evidence, rel=1e-8)


def test_inverse_gamma_one_by_one_is_all_at_once_and_no_data_is_the_prior():
    y = torch.tensor([[0.3, -1.2, 2.0], [1.0, 1.0, 0.0]], dtype=torch.float64)
    whole = inverse_gamma_posterior([2.0, 3.0], 1.5, y)
    a, b, total = torch.tensor([2.0, 3.0]), torch.tensor([1.5, 1.5]), 0
    for i in range(3):
        a, b, log_evidence = inverse_gamma_posterior(a, b, y[:, i : i + 1])
        total = total + log_evidence
    for one, other in zip((a, b, total), whole, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)
    a, b, log_evidence = inverse_gamma_posterior(2.0, 3.0, torch.zeros(0, dtype=torch.float64))
    assert (a.item(), b.item(), log_evidence.item()) == (2.0, 3.0, 0.0)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ((0.0, 1.0, torch.ones(2)), DatumwiseError, "concentration is not positive in row 0"),
        ((1.0, [1.0, -2.0], torch.ones(2, 2)), DatumwiseError, "rate is not positive in row 1"),
        ((1.0, 1.0, torch.tensor([1.0, math.nan])), NotFinite, "the data hold NaN"),
        ((1.0, 1.0, torch.ones(2, 2, 2)), SchemaMismatch, "data of shape"),
    ],
)
def test_bad_inverse_gamma_input_is_refused(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        inverse_gamma_posterior(*arguments)


# ---------------------------------------------------------------------------- Gaussian process


def gp_problem(n=10, q=1):
    rng = np.random.default_rng(0)
    X = rng.random((n, q))
    return X, np.sin(4 * X[:, 0]) + 0.03 * rng.normal(size=n), rng.random((5, q))


@pytest.mark.parametrize("q", [1, 2])
def test_four_lengthscales_give_the_mixture_of_four_dense_gaussians(q):
    X, y, x_star = gp_problem(q=q)
    lengths, prior = np.array([0.1, 0.3, 0.5, 1.0]), np.array([0.1, 0.4, 0.3, 0.2])
    weights, means, variances = gp_hyperprior_predictive(X, y, x_star, lengths, prior, noise_var=1e-3, outputscale=1.3)
    log_joint = []
    for length, p in zip(lengths, prior, strict=True):
        both = np.vstack([X, x_star])
        square = ((both[:, None] - both[None]) ** 2).sum(-1)
        K = 1.3 * np.exp(-square / (2 * length**2)) + 1e-3 * np.eye(len(both))
        log_joint.append(math.log(p) + stats.multivariate_normal(np.zeros(10), K[:10, :10]).logpdf(y))
        solved = np.linalg.solve(K[:10, :10], K[:10, 10:])
        np.testing.assert_allclose(means[len(log_joint) - 1], solved.T @ y, atol=1e-7)
        np.testing.assert_allclose(variances[len(log_joint) - 1], np.diag(K[10:, 10:] - K[10:, :10] @ solved), atol=1e-9)
    log_joint = np.array(log_joint)
    np.testing.assert_allclose(weights, np.exp(log_joint - np.logaddexp.reduce(log_joint)), atol=1e-8)


def test_a_gaussian_process_equals_scikit_learn():
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, WhiteKernel

    X, y, x_star = gp_problem(n=8)
    peer = GaussianProcessRegressor(RBF(0.4) + WhiteKernel(0.01), optimizer=None, alpha=0).fit(X, y)
    mean, sd = peer.predict(x_star, return_std=True)
    _, means, variances = gp_hyperprior_predictive(X, y, x_star, [0.4], [1.0], noise_var=0.01)
    np.testing.assert_allclose(means[0], mean, atol=1e-9)
    np.testing.assert_allclose(variances[0], sd**2, atol=1e-9)


def test_without_data_the_predictive_is_the_prior_and_blocks_change_nothing(monkeypatch):
    weights, means, variances = gp_hyperprior_predictive(
        torch.zeros(0, 1).double(), torch.zeros(0).double(), torch.zeros(3, 1), [0.1, 1.0], [0.3, 0.7], noise_var=0.5
    )
    np.testing.assert_allclose(weights, [0.3, 0.7])
    np.testing.assert_allclose(means, 0)
    np.testing.assert_allclose(variances, 1.5)
    X, y, x_star = gp_problem()
    lengths = np.linspace(0.1, 1, 7)
    whole = gp_hyperprior_predictive(X, y, x_star, lengths, np.full(7, 1 / 7), noise_var=1e-3)
    monkeypatch.setattr("datumwise.learn.exact_posteriors.BLOCK", 300)
    for one, other in zip(
        whole, gp_hyperprior_predictive(X, y, x_star, lengths, np.full(7, 1 / 7), noise_var=1e-3), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"prior": [0.5, 0.6]}, DatumwiseError, "not on the simplex"),
        ({"prior": [1.5, -0.5]}, DatumwiseError, "not on the simplex"),
        ({"prior": [1.0]}, SchemaMismatch, "lengthscales"),
        ({"lengthscales": [0.1, -1.0]}, DatumwiseError, "lengthscale 1 is not positive"),
        ({"noise_var": 0.0}, DatumwiseError, "must both be positive"),
        ({"y": [0.0, math.nan, 0.0]}, NotFinite, "y hold NaN or infinity in row 1"),
        ({"y": [0.0]}, SchemaMismatch, "do not fit"),
        ({"noise_var": 1e-30}, DatumwiseError, "singular"),
    ],
)
def test_bad_gaussian_process_input_is_refused(change, error, sentence):
    arguments = {
        "X": torch.tensor([[0.0], [0.0], [1.0]]),
        "y": [0.0, 1.0, 2.0],
        "x_star": torch.zeros(1, 1),
        "lengthscales": [0.1, 1.0],
        "prior": [0.5, 0.5],
        "noise_var": 0.1,
    }
    with pytest.raises(error, match=sentence):
        gp_hyperprior_predictive(**(arguments | change))


# ---------------------------------------------------------------------------- quantum

TIMES = torch.tensor([1.0, 2, 3, 4, 5, 1, 2, 1, 2, 3], dtype=torch.float64)
STATES = torch.tensor([[1.0, 0]] * 5 + [[0.0, 1]] * 2 + [[1.0, 1]] * 3, dtype=torch.float64)


def amplitude_square(delta, t, state):
    H = delta * np.array([[0, 1], [1, 0]]) + (1 - delta) * np.array([[1, 0], [0, -1]])
    return abs((expm(-1j * t * H) @ (state / np.linalg.norm(state)))[0]) ** 2


def test_closed_form_equals_the_matrix_exponential():
    deltas = np.linspace(0, 1, 9)
    expected = [[amplitude_square(d, t.item(), s.numpy()) for t, s in zip(TIMES, STATES, strict=True)] for d in deltas]
    np.testing.assert_allclose(quantum_probability(torch.as_tensor(deltas), TIMES, STATES), expected, atol=1e-12)


def test_noise_is_integrated_out_exactly():
    # the published likelihood averages ten random draws and differs from call to call
    generator = torch.Generator().manual_seed(0)
    S = 100_000
    delta = torch.tensor([0.2, 0.7], dtype=torch.float64)
    for i in (0, 4, 6, 9):
        exact = quantum_probability(delta, TIMES[i : i + 1], STATES[i : i + 1], time_sd=0.3, state_sd=0.4)[:, 0]
        unit = STATES[i] / STATES[i].norm()
        times = TIMES[i] + 0.3 * torch.randn(S, generator=generator, dtype=torch.float64)
        states = unit + 0.4 * torch.randn(S, 2, generator=generator, dtype=torch.float64)
        draws = quantum_probability(delta, times, states)
        np.testing.assert_array_less((draws.mean(1) - exact).abs(), 4.5 * draws.std(1) / math.sqrt(S))
    assert torch.equal(
        quantum_probability(delta, TIMES, STATES, time_sd=0.1), quantum_probability(delta, TIMES, STATES, time_sd=0.1)
    )


def test_likelihood_is_the_bernoulli_sum_and_batches_broadcast():
    delta = torch.tensor([0.1, 0.6, 0.9], dtype=torch.float64)
    outcomes = torch.tensor([1, 0, 1, 1, 0, 0, 1, 1, 0, 1])
    p = quantum_probability(delta, TIMES, STATES)
    expected = torch.distributions.Bernoulli(p).log_prob(outcomes.double()).sum(-1)
    np.testing.assert_allclose(quantum_log_likelihood(delta, TIMES, STATES, outcomes), expected, atol=1e-9)
    batch = torch.stack([outcomes, 1 - outcomes])
    both = quantum_log_likelihood(delta[:, None].expand(3, 2), TIMES, STATES, batch)
    np.testing.assert_allclose(both[:, 0], expected, atol=1e-9)
    impossible = quantum_log_likelihood(torch.zeros(1), torch.ones(1), torch.tensor([[1.0, 0.0]]), torch.zeros(1))
    assert impossible.item() == -math.inf


def test_many_measurements_find_the_hamiltonian():
    truth, generator = torch.tensor([0.37], dtype=torch.float64), torch.Generator().manual_seed(1)
    times, states = TIMES.repeat(200), STATES.repeat(200, 1)
    outcomes = (
        torch.rand(2000, generator=generator, dtype=torch.float64) < quantum_probability(truth, times, states)[0]
    ).double()
    grid = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    assert grid[quantum_log_likelihood(grid, times, states, outcomes).argmax()].item() == pytest.approx(0.37, abs=0.021)


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ((torch.ones(1), torch.ones(2), torch.ones(2, 2), torch.tensor([0.0, 2.0])), DatumwiseError, "outcomes are 0 or 1"),
        ((torch.ones(1), torch.ones(2), torch.ones(2, 2), torch.tensor([0.0, math.nan])), NotFinite, "outcomes hold NaN"),
        ((torch.ones(1), torch.ones(2), torch.ones(3, 2), torch.ones(2)), SchemaMismatch, "do not fit"),
        ((torch.ones(1), torch.ones(2), torch.ones(2, 2), torch.ones(3)), SchemaMismatch, "outcomes at"),
        ((torch.ones(1), torch.ones(2), torch.tensor([[1.0, 0], [0, 0]]), torch.ones(2)), DatumwiseError, "state 1 is zero"),
        ((torch.tensor([math.nan]), torch.ones(2), torch.ones(2, 2), torch.ones(2)), NotFinite, "delta hold NaN"),
    ],
)
def test_bad_quantum_input_is_refused(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        quantum_log_likelihood(*arguments)
