"""Claims about the inference tasks: simulators and likelihoods belong together, and to the exact posteriors we know."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from datumwise.learn.exact_posteriors import gp_hyperprior_predictive, inverse_gamma_posterior
from datumwise.learn.gaussian_mixture import GaussianMixture
from datumwise.learn.inference_tasks import GP_NOISE, MOTION, SENSOR_VARIANCE, TASKS
from datumwise.learn.linear_gaussian import gmm_posterior
from datumwise.learn.quadrature import quadrature_posterior
from datumwise.learn.quantum import quantum_log_likelihood
from datumwise.learn.transforms import transform_of

DOUBLE = torch.float64
NAMES = ["conjugate", "student", "bernoulli", "bimodal", "plane", "inverse-gamma", "quantum", "gp-hyperprior", "lti-filter"]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def state(task, B, seed=0):
    t = task.family.sample(B, generator(seed)).sample(1, generator(seed + 1))[0]
    return transform_of(task.support).from_real(t.double())


def rows(data, index):
    return {k: v[index] for k, v in data.items()} if isinstance(data, dict) else data[index]


def test_all_tasks_are_there():
    assert list(TASKS) == NAMES
    assert all(task.name == name and task.title for name, task in TASKS.items())


@pytest.mark.parametrize("name", NAMES)
def test_the_score_of_simulated_data_is_zero_on_average(name):
    task = TASKS[name]
    x = state(task, 4, seed=2)
    if name == "inverse-gamma":
        x = x.clamp(0.05, 20.0)
    n = 4000
    many = x.repeat_interleave(n, 0).clone().requires_grad_()
    data = task.simulator(many.detach(), task.n_obs[1], generator(3))
    total = task.log_likelihood(many[None], data).sum()
    (score,) = torch.autograd.grad(total, many)
    score = score.view(4, n, -1)
    error = score.std(1) / math.sqrt(n)
    assert (score.mean(1).abs() < 4.5 * error + 1e-9).all()
    assert (error > 0).all()


@pytest.mark.parametrize("name", ["conjugate", "student", "bernoulli", "bimodal", "quantum", "lti-filter"])
def test_the_score_of_simulated_data_varies_as_the_likelihood_bends(name):  # a wrong scale of noise leaves the score centred
    task = TASKS[name]
    x = state(task, 1, seed=2).repeat(20_000, 1).requires_grad_()
    data = task.simulator(x.detach(), 1, generator(4))
    (score,) = torch.autograd.grad(task.log_likelihood(x[None], data).sum(), x, create_graph=True)
    (bend,) = torch.autograd.grad(score.sum(), x)
    apart = (score.square() + bend).detach()
    assert apart.mean().abs() < 4.5 * apart.std() / math.sqrt(len(apart)) + 1e-9


@pytest.mark.parametrize("name", ["conjugate", "student", "bimodal", "inverse-gamma"])
def test_the_likelihood_of_one_datum_integrates_to_one(name):
    task, x = TASKS[name], torch.tensor([[[1.3]]], dtype=DOUBLE)

    def density(y):
        return task.log_likelihood(x, torch.full((1, 1, 1), y, dtype=DOUBLE)).exp().item()

    whole, _ = integrate.quad(density, -200.0, 200.0, points=[-3, 0, 1.3, 5], limit=400)
    assert whole == pytest.approx(1.0, abs=2e-4)


def test_both_outcomes_of_one_datum_have_probability_one():
    for name, datum in (("bernoulli", [[[0.0]], [[1.0]]]), ("quantum", [[[2.0, 1.0, 0.0, 0.0]], [[2.0, 1.0, 0.0, 1.0]]])):
        x = torch.full((1, 2, 1), 0.3, dtype=DOUBLE)
        chance = TASKS[name].log_likelihood(x, torch.tensor(datum, dtype=DOUBLE)).exp()
        assert chance.sum().item() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_hidden_data_say_nothing(name):
    task = TASKS[name]
    x = state(task, 3)
    n = max(2, task.n_obs[1])
    data = task.simulator(x, n, generator(1))
    grid = state(task, 15, seed=9).view(5, 3, -1)
    if isinstance(data, dict):
        mask = {k: torch.tensor([[True] * (n - 1) + [False]] * 3) for k in data}
        short = {k: v[:, :-1] for k, v in data.items()}
    else:
        mask = torch.tensor([[True] * (n - 1) + [False]] * 3)
        short = data[:, :-1]
    assert torch.allclose(task.log_likelihood(grid, data, mask), task.log_likelihood(grid, short), atol=1e-8)


@pytest.mark.parametrize("name", NAMES)
def test_simulations_repeat_and_fit_the_model(name):
    task = TASKS[name]
    prior, x, data = task.problems(5, task.n_obs[1], seed=4)
    _, again_x, again = task.problems(5, task.n_obs[1], seed=4)
    assert torch.equal(x, again_x)
    one, other = (list(d.values()) if isinstance(d, dict) else [d] for d in (data, again))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    model = task.model(d_model=8, nhead=2)
    answer = model(prior, data)
    assert answer.means.shape == (5, task.n_components * model.n_children, task.state_dim)
    assert answer.log_prob(answer.means[:, 0]).isfinite().all()


def test_conjugate_and_plane_likelihoods_give_the_exact_mixture():
    for name, rows_of in (("conjugate", None), ("plane", 2)):
        task = TASKS[name]
        prior, _, data = task.problems(2, 2, seed=6)
        exact, data = prior.to(DOUBLE), data.double()
        for i in range(2):
            H = torch.ones(1, 1, dtype=DOUBLE) if rows_of is None else data[:, i : i + 1, :2]
            R = torch.tensor([[1.0 if rows_of is None else 0.25]], dtype=DOUBLE)
            exact, _ = gmm_posterior(exact, H, R, data[:, i, -1:])
        found = quadrature_posterior(prior, task.log_likelihood, data, also=exact, steps=401)
        assert torch.allclose(found.mean, exact.mean, atol=1e-6)
        assert torch.allclose(found.covariance, exact.covariance, atol=1e-6)


def test_the_variance_task_has_the_inverse_gamma_posterior():
    task = TASKS["inverse-gamma"]
    a, b = torch.tensor([3.0, 5.0]), torch.tensor([2.0, 6.0])
    prior = task.family.mixture(a, b)
    y = torch.tensor([[0.5, -1.5, 2.0], [1.0, 0.2, -0.4]], dtype=DOUBLE)
    found = quadrature_posterior(prior, task.log_likelihood, y.square().log()[..., None], support="positive")
    after_a, after_b, _ = inverse_gamma_posterior(a.double(), b.double(), y)
    mean = found.expectation(lambda t: t.exp())[:, 0]
    assert torch.allclose(mean, after_b / (after_a - 1), rtol=0.02)  # the prior is five Gaussians of log v


def test_the_quantum_task_is_the_published_experiment():
    task = TASKS["quantum"]
    x = torch.tensor([[0.3]], dtype=DOUBLE)
    data = task.simulator(x, 10, generator(5))
    assert sorted(data[0, :, 0].tolist()) == [1, 1, 1, 2, 2, 2, 3, 3, 4, 5]
    grid = torch.linspace(0.05, 0.95, 7, dtype=DOUBLE)
    expected = quantum_log_likelihood(grid[:, None], data[0, :, 0], data[0, :, 1:3], data[0, :, 3], time_sd=0.05, state_sd=0.1)
    got = task.log_likelihood(grid[:, None, None], data)[:, 0]
    assert torch.allclose(got, expected.reshape(7, -1).squeeze(-1), atol=1e-9)


def test_the_gaussian_process_task_agrees_with_the_exact_mixture_over_lengthscales():
    task = TASKS["gp-hyperprior"]
    rng = np.random.default_rng(0)
    place, y = torch.tensor(rng.uniform(-0.6, 0.4, 6)), torch.tensor(rng.normal(size=6))
    lengths, chance = torch.tensor([0.1, 0.3, 0.6, 1.0], dtype=DOUBLE), torch.tensor([0.1, 0.4, 0.3, 0.2], dtype=DOUBLE)
    weights, means, variances = gp_hyperprior_predictive(
        place[:, None], y, torch.zeros(1, 1, dtype=DOUBLE), lengths, chance, noise_var=GP_NOISE
    )
    grid = torch.linspace(-40.0, 40.0, 160_001, dtype=DOUBLE)  # y*
    data = torch.stack([place, y], -1)[None]
    log_prior = torch.distributions.Normal(0.0, math.sqrt(1 + GP_NOISE)).log_prob(grid)
    evidence = []
    for i, length in enumerate(lengths):
        x = torch.stack([grid, length.expand_as(grid)], -1)[:, None]
        joint = (log_prior + task.log_likelihood(x, data)[:, 0]).exp()
        whole = torch.trapezoid(joint, grid)
        evidence.append(chance[i] * whole)
        mean = torch.trapezoid(joint * grid, grid) / whole
        assert mean.item() == pytest.approx(means[i, 0].item(), abs=1e-6)
        assert (torch.trapezoid(joint * grid**2, grid) / whole - mean**2).item() == pytest.approx(
            variances[i, 0].item(), rel=1e-4
        )
    evidence = torch.stack(evidence)
    assert torch.allclose(evidence / evidence.sum(), weights, atol=1e-8)


def test_the_gaussian_process_prior_keeps_the_query_independent_of_the_lengthscale():
    prior = TASKS["gp-hyperprior"].family.sample(50, generator())
    assert isinstance(prior, GaussianMixture)
    assert torch.allclose(prior.covariance[:, 0, 1], torch.zeros(50), atol=1e-6)
    assert torch.allclose(prior.covariance[:, 0, 0], torch.full((50,), 1 + GP_NOISE), atol=1e-5)


def test_the_filter_task_keeps_its_states_within_the_family():
    A, _, Q = MOTION
    stationary = math.sqrt(Q.item() / (1 - A.item() ** 2))
    prior = TASKS["lti-filter"].family.sample(4000, generator())
    assert 0.7 * stationary < prior.sample(1, generator(1)).std().item() < 1.3 * stationary
    assert set(SENSOR_VARIANCE) == set(TASKS["lti-filter"].obs_dim)
