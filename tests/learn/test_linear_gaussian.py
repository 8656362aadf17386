"""Exact updates against grids, the textbook Kalman filter and one dense Gaussian."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch
from datumwise.learn.gaussian_mixture import GaussianMixture
from datumwise.learn.linear_gaussian import FilterResult, gmm_posterior, linear_gaussian_filter, site_update
from datumwise.learn.prior_families import GMMFamily
from datumwise.learn.quadrature import quadrature_posterior


def mixtures(B, K, d, seed=0, dtype=torch.float64):
    return GMMFamily(K, d, dtype=dtype).sample(B, torch.Generator().manual_seed(seed))


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def spd(p, seed=0):
    root = normal(p, p + 2, seed=seed)
    return root @ root.T


def same(a, b, atol=1e-10):
    np.testing.assert_allclose(a.log_weights, b.log_weights, atol=atol)
    np.testing.assert_allclose(a.means, b.means, atol=atol)
    np.testing.assert_allclose(a.scale_tril, b.scale_tril, atol=atol)


# ---------------------------------------------------------------------------- one datum


def test_posterior_equals_quadrature_on_a_grid_of_the_plane():
    prior = mixtures(3, 3, 2)
    H, R, y = normal(2, 2, seed=1), spd(2, seed=2), 2 * normal(3, 2, seed=3)

    def log_likelihood(x, data):
        white = torch.linalg.solve_triangular(torch.linalg.cholesky(R), (data - x @ H.T).unsqueeze(-1), upper=False)
        return -0.5 * white.square().sum((-1, -2)) - math.log(2 * math.pi) - 0.5 * torch.logdet(R)

    posterior, log_evidence = gmm_posterior(prior, H, R, y)
    grid = quadrature_posterior(prior, log_likelihood, y, steps=401)
    np.testing.assert_allclose(log_evidence, grid.log_evidence, atol=1e-12)
    np.testing.assert_allclose(posterior.log_prob(grid.nodes), grid.log_density, atol=1e-8)
    np.testing.assert_allclose(posterior.mean, grid.mean, atol=1e-11)
    np.testing.assert_allclose(posterior.covariance, grid.covariance, atol=1e-10)


@pytest.mark.parametrize(("p", "d"), [(1, 1), (1, 2), (2, 1), (3, 2), (2, 4)])
def test_one_component_is_the_textbook_kalman_update(p, d):
    prior = mixtures(4, 1, d)
    H, R, y = normal(p, d, seed=1), spd(p, seed=2), normal(4, p, seed=3)
    posterior, log_evidence = gmm_posterior(prior, H, R, y)
    for b in range(4):
        m, P = prior.means[b, 0].numpy(), prior.covariances[b, 0].numpy()
        S = H.numpy() @ P @ H.numpy().T + R.numpy()
        gain = P @ H.numpy().T @ np.linalg.inv(S)
        np.testing.assert_allclose(posterior.means[b, 0], m + gain @ (y[b].numpy() - H.numpy() @ m), atol=1e-10)
        np.testing.assert_allclose(posterior.covariances[b, 0], P - gain @ S @ gain.T, atol=1e-10)
        assert log_evidence[b].item() == pytest.approx(multivariate_normal(H.numpy() @ m, S).logpdf(y[b].numpy()), abs=1e-10)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_one_by_one_all_at_once_and_in_any_order_are_the_same(d):
    prior = mixtures(5, 3, d)
    H, R, data = normal(1, d, seed=1), spd(1, seed=2), 2 * normal(6, 5, 1, seed=3)
    whole, whole_evidence = gmm_posterior(prior, H.repeat(6, 1), torch.eye(6, dtype=torch.float64) * R, data[..., 0].T)
    for order in (range(6), reversed(range(6)), (3, 1, 5, 0, 2, 4)):
        state, total = prior, torch.zeros(5, dtype=torch.float64)
        for i in order:
            state, log_evidence = gmm_posterior(state, H, R, data[i])
            total = total + log_evidence
        same(state, whole)
        np.testing.assert_allclose(total, whole_evidence, atol=1e-10)


@pytest.mark.parametrize("far", [0.0, 60.0])
@pytest.mark.parametrize("d", [1, 2, 3])
def test_site_of_a_linear_gaussian_datum_is_the_exact_posterior(d, far):
    prior = mixtures(6, 3, d)
    p = 2
    H, R = normal(p, d, seed=1), spd(p, seed=2)
    y = normal(6, p, seed=3)
    y = y + far * prior.covariance.diagonal(dim1=-2, dim2=-1).amax(-1).sqrt().unsqueeze(-1)
    exact, log_evidence = gmm_posterior(prior, H, R, y)
    R_inverse = torch.linalg.inv(R)
    site, log_ratio = site_update(prior, (H.T @ R_inverse @ H).expand(6, d, d), y @ R_inverse @ H)
    same(site, exact)
    constant = -0.5 * torch.einsum("bi,ij,bj->b", y, R_inverse, y) - math.log(2 * math.pi) - 0.5 * torch.logdet(R)
    np.testing.assert_allclose(log_ratio + constant, log_evidence, rtol=1e-10, atol=1e-9)


def test_data_sixty_deviations_away_keep_the_weights_apart():
    # the published posterior multiplies weights by densities: all underflow to 0 and their ratio is NaN
    means = torch.tensor([[[0.0], [1.0]]], dtype=torch.float32)
    prior = GaussianMixture(torch.tensor([[0.5, 0.5]]), means, torch.ones(1, 2, 1, 1))
    one, y = torch.ones(1, 1), torch.tensor([[85.0]])
    density = torch.distributions.Normal(means[..., 0], math.sqrt(2.0)).log_prob(y).exp()
    assert density.sum() == 0  # what the published closed form divides by
    posterior, log_evidence = gmm_posterior(prior, one, one, y)
    log_odds = -((85.0 - 1) ** 2) / 4 + 85.0**2 / 4
    assert (posterior.log_weights[0, 1] - posterior.log_weights[0, 0]).item() == pytest.approx(log_odds, rel=1e-5)
    assert log_evidence.isfinite()


@pytest.mark.parametrize("d", [1, 2, 3])
def test_an_empty_site_returns_the_prior_to_the_last_bit(d):
    prior = mixtures(5, 3, d, dtype=torch.float32)
    posterior, log_ratio = site_update(prior, torch.zeros(5, d, d), torch.zeros(5, d))
    for name in ("log_weights", "means", "scale_tril"):
        assert torch.equal(getattr(posterior, name), getattr(prior, name))
    assert torch.equal(log_ratio, torch.zeros(5))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_sites_add_and_can_differ_by_component(d):
    prior = mixtures(4, 2, d)
    P, Q = (torch.stack([torch.stack([spd(d, seed=10 * s + 4 * b + k) for k in range(2)]) for b in range(4)]) for s in (1, 2))
    h, g = normal(4, 2, d, seed=5), normal(4, 2, d, seed=6)
    step, first = site_update(prior, P, h)
    twice, second = site_update(step, Q, g)
    once, total = site_update(prior, P + Q, h + g)
    same(twice, once)
    np.testing.assert_allclose(first + second, total, atol=1e-9)
    tilted, _ = site_update(prior, P, h, log_tilt=torch.tensor([0.0, math.log(3.0)], dtype=torch.float64))
    np.testing.assert_allclose(
        (tilted.weights[:, 1] / tilted.weights[:, 0]) / (step.weights[:, 1] / step.weights[:, 0]), 3.0, rtol=1e-10
    )
    with pytest.raises(SchemaMismatch):
        site_update(prior, P[:, :, :, :0], h)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_site_has_the_right_gradient(d):
    prior = mixtures(2, 2, d)
    x = normal(2, d, seed=9)

    def loss(root, h):
        return site_update(prior, root @ root.mT, h, validate_args=False)[0].log_prob(x)

    assert torch.autograd.gradcheck(loss, (normal(2, d, d, seed=7).requires_grad_(), normal(2, d, seed=8).requires_grad_()))


def test_float32_covariance_survives_a_datum_a_million_times_sharper():
    # prior minus gain times innovation, the published form, rounds this variance to zero or below
    prior = GaussianMixture(torch.ones(1, 1), torch.zeros(1, 1, 2), torch.eye(2).reshape(1, 1, 2, 2))
    H, R = torch.ones(1, 2), torch.full((1, 1), 1e-9)
    posterior, _ = gmm_posterior(prior, H, R, torch.ones(1, 1))
    along = torch.ones(2) / math.sqrt(2)
    root = posterior.scale_tril[0, 0].double()
    variance = (along.double() @ root).square().sum().item()
    assert variance == pytest.approx(5e-10, rel=0.35)
    S = torch.full((1, 1), 2.0) + R
    published = torch.eye(2) - H.T @ torch.linalg.inv(S) @ H
    assert (along @ published @ along).item() <= 0 or (along @ published @ along).item() > 1e-8


# ---------------------------------------------------------------------------- missing data


@pytest.mark.parametrize("d", [1, 2])
def test_unseen_sensors_are_left_out_exactly_and_may_be_nan(d):
    prior = mixtures(4, 3, d)
    H, R, y = normal(3, d, seed=1), spd(3, seed=2), normal(4, 3, seed=3)
    mask = torch.tensor([[True, False, True], [False, False, False], [True, True, True], [False, True, False]])
    holes = torch.where(mask, y, torch.nan)
    posterior, log_evidence = gmm_posterior(prior, H, R, holes, mask=mask)
    for b in (0, 2, 3):
        i = mask[b].nonzero().flatten()
        one, evidence = gmm_posterior(prior[b], H[i], R[i][:, i], y[b : b + 1, i])
        same(posterior[b], one)
        assert log_evidence[b].item() == pytest.approx(evidence.item(), abs=1e-10)
    same(posterior[1], prior[1])
    assert log_evidence[1].item() == pytest.approx(0, abs=1e-12)
    with pytest.raises(NotFinite, match="row 0, 1, 3"):
        gmm_posterior(prior, H, R, holes)
    with pytest.raises(NotFinite, match="row 3"):
        gmm_posterior(prior, H, R, torch.where(mask, y, torch.nan).index_fill(0, torch.tensor([3]), torch.nan), mask=mask)


def test_one_prior_is_shown_to_many_data_and_one_datum_to_many_priors():
    H, R = torch.ones(1, 1).double(), torch.ones(1, 1).double()
    many = gmm_posterior(mixtures(1, 2, 1), H, R, normal(5, 1))[0]
    assert len(many) == 5
    np.testing.assert_allclose(many[3].means, gmm_posterior(mixtures(1, 2, 1), H, R, normal(5, 1)[3:4])[0].means)
    assert len(gmm_posterior(mixtures(5, 2, 1), H, R, normal(1, 1))[0]) == 5


# ---------------------------------------------------------------------------- filters


def test_nile_filter_equals_conditioning_one_dense_gaussian():
    from statsmodels.datasets import nile

    flow = nile.load_pandas().data["volume"].to_numpy(dtype=float, copy=True)
    q, r, m0, P0 = 1469.1, 15099.0, 1000.0, 1e5
    prior = GaussianMixture(
        torch.ones(1, 1).double(), torch.full((1, 1, 1), m0).double(), torch.tensor([[[[P0]]]]).double().sqrt()
    )
    one = torch.ones(1, 1, dtype=torch.float64)
    result = linear_gaussian_filter(prior, torch.as_tensor(flow).reshape(-1, 1, 1), one, r * one, (one, None, q * one))
    T = len(flow)
    steps = np.arange(T)
    state = P0 + q * np.minimum(steps[:, None], steps[None])  # covariance of the walk
    loglik = multivariate_normal(np.full(T, m0), state + r * np.eye(T)).logpdf(flow)
    last = np.linalg.solve(state + r * np.eye(T), state[:, -1])
    assert result.means[-1].item() == pytest.approx(m0 + last @ (flow - m0), abs=1e-7)
    assert result.covs[-1].item() == pytest.approx(state[-1, -1] - last @ state[:, -1], abs=1e-6)
    assert result.loglik.item() == pytest.approx(loglik, abs=1e-8)
    assert result.means[-1].item() == pytest.approx(798.3702926, abs=1e-6)
    assert result.covs[-1].item() == pytest.approx(4032.157942, abs=1e-5)
    assert result.loglik.item() == pytest.approx(-639.3007238, abs=1e-6)


def test_filter_of_a_mixture_with_gaps_equals_conditioning_every_component():
    T, B, d, p, K = 5, 3, 2, 2, 2
    prior, H, R = mixtures(B, K, d), normal(p, d, seed=1), spd(p, seed=2)
    A, b, Q = 0.9 * torch.eye(d).double() + 0.1 * normal(d, d, seed=3), normal(d, seed=4), spd(d, seed=5)
    series = 2 * normal(T, B, p, seed=6)
    mask = torch.rand(T, B, p, generator=torch.Generator().manual_seed(7)) < 0.6
    mask[2, 1] = False
    result = linear_gaussian_filter(prior, torch.where(mask, series, torch.nan), H, R, (A, b, Q), mask)
    for i in range(B):
        log_joint, final = [], []
        for k in range(K):
            mean = [prior.means[i, k].numpy()]
            for _ in range(T - 1):
                mean.append(A.numpy() @ mean[-1] + b.numpy())
            cov = np.zeros((T * d, T * d))
            block = prior.covariances[i, k].numpy()
            for t in range(T):
                across = block
                for s in range(t, T):
                    cov[s * d : s * d + d, t * d : t * d + d] = across
                    cov[t * d : t * d + d, s * d : s * d + d] = across.T
                    across = A.numpy() @ across
                block = A.numpy() @ block @ A.numpy().T + Q.numpy()
            big_H, m = np.kron(np.eye(T), H.numpy()), np.concatenate(mean)
            seen = mask[:, i].flatten().numpy()
            S = (big_H @ cov @ big_H.T + np.kron(np.eye(T), R.numpy()))[seen][:, seen]
            residual = (series[:, i].flatten().numpy() - big_H @ m)[seen]
            gain = cov[-d:] @ big_H.T[:, seen] @ np.linalg.inv(S)
            log_joint.append(prior.log_weights[i, k].item() + multivariate_normal(np.zeros(seen.sum()), S).logpdf(residual))
            final.append((m[-d:] + gain @ residual, cov[-d:, -d:] - gain @ S @ gain.T))
        loglik = np.logaddexp.reduce(log_joint)
        assert result.loglik[i].item() == pytest.approx(loglik, abs=1e-9)
        np.testing.assert_allclose(result.final.log_weights[i], np.array(log_joint) - loglik, atol=1e-9)
        for k in range(K):
            np.testing.assert_allclose(result.final.means[i, k], final[k][0], atol=1e-9)
            np.testing.assert_allclose(result.final.covariances[i, k], final[k][1], atol=1e-9)


def test_a_whole_datum_masked_is_motion_alone_and_nothing_moves_before_the_first():
    prior = mixtures(2, 2, 1)
    one = torch.ones(1, 1, dtype=torch.float64)
    mask = torch.tensor([[False, True], [True, True]])
    result = linear_gaussian_filter(prior, torch.ones(2, 2, 1).double(), one, one, (one, torch.ones(1), 0.5 * one), mask)
    np.testing.assert_allclose(result.means[0, 0], prior.mean[0], atol=1e-12)
    moved = prior[0].affine(one, torch.ones(1), 0.5 * one)
    np.testing.assert_allclose(result.means[1, 0], gmm_posterior(moved, one, one, torch.ones(1, 1))[0].mean[0], atol=1e-12)
    assert isinstance(result, FilterResult)
    assert result.covs.shape == (2, 2, 1, 1)


def test_a_callable_motion_and_a_still_state_are_filters_too():
    prior, one, calls = mixtures(1, 2, 1), torch.ones(1, 1, dtype=torch.float64), []
    series = normal(4, 3, 1, seed=1)
    linear = linear_gaussian_filter(prior, series, one, one, (0.5 * one, None, one))
    through = linear_gaussian_filter(
        prior, series, one, one, lambda s: s.unscented(lambda x: 0.5 * x, one), progress=lambda i, n: calls.append((i, n))
    )
    np.testing.assert_allclose(through.means, linear.means, atol=1e-10)
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    still = linear_gaussian_filter(prior, series, one, one)
    batch, evidence = gmm_posterior(prior, one.repeat(4, 1), torch.eye(4).double(), series[..., 0].T)
    same(still.final, batch)
    np.testing.assert_allclose(still.loglik, evidence, atol=1e-10)


# ---------------------------------------------------------------------------- refusals


ONE = torch.ones(1, 1, dtype=torch.float64)


@pytest.mark.parametrize(
    ("call", "error", "sentence"),
    [
        (lambda p: gmm_posterior(p, ONE, -ONE, torch.zeros(2, 1)), DatumwiseError, "R is not symmetric positive definite"),
        (lambda p: gmm_posterior(p, ONE, ONE * math.nan, torch.zeros(2, 1)), NotFinite, "R holds NaN"),
        (lambda p: gmm_posterior(p, torch.ones(1, 2), ONE, torch.zeros(2, 1)), SchemaMismatch, r"H of shape \(1, 2\)"),
        (lambda p: gmm_posterior(p, ONE, torch.eye(2), torch.zeros(2, 1)), SchemaMismatch, r"R of shape \(2, 2\)"),
        (lambda p: gmm_posterior(p, ONE, ONE, torch.zeros(3, 1)), SchemaMismatch, r"data of shape \(3, 1\)"),
        (lambda p: gmm_posterior(p, ONE, ONE, torch.tensor([[0.0], [math.nan]])), NotFinite, "row 1"),
        (lambda p: gmm_posterior(p, ONE, ONE, torch.zeros(2, 1), mask=torch.ones(3)), SchemaMismatch, "mask of shape"),
        (
            lambda p: site_update(p, torch.full((2, 1, 1), -9e9), torch.zeros(2, 1)),
            DatumwiseError,
            "not positive semi-definite",
        ),
        (lambda p: site_update(p, torch.full((2, 1, 1), math.nan), torch.zeros(2, 1)), NotFinite, "precision holds NaN"),
        (lambda p: site_update(p, torch.ones(2, 1, 1), torch.full((2, 1), math.inf)), NotFinite, "shift holds NaN"),
        (lambda p: site_update(p, torch.ones(2, 2, 2), torch.zeros(2, 1)), SchemaMismatch, "a site of precision"),
        (lambda p: site_update(p, torch.ones(3, 1, 1), torch.zeros(2, 1)), SchemaMismatch, "a site of precision"),
        (lambda p: linear_gaussian_filter(p, torch.zeros(4, 1), ONE, ONE), SchemaMismatch, r"\(T, B, p\)"),
        (lambda p: linear_gaussian_filter(p, torch.zeros(0, 2, 1), ONE, ONE), SchemaMismatch, "no data"),
        (lambda p: linear_gaussian_filter(p, torch.zeros(4, 3, 1), ONE, ONE), SchemaMismatch, "2 priors for 3 series"),
        (lambda p: linear_gaussian_filter(p, torch.full((4, 2, 1), math.nan), ONE, ONE), NotFinite, "time 0, 1, 2 and 1 more"),
        (
            lambda p: linear_gaussian_filter(p, torch.zeros(4, 2, 1), ONE, ONE, mask=torch.ones(4)),
            SchemaMismatch,
            "a mask of shape",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call, error, sentence):
    with pytest.raises(error, match=sentence):
        call(mixtures(2, 2, 1))


def test_a_site_that_is_not_positive_in_three_dimensions_is_refused():
    with pytest.raises(DatumwiseError, match="not positive semi-definite"):
        site_update(mixtures(1, 1, 3), -1e6 * torch.eye(3).double()[None], torch.zeros(1, 3).double())
