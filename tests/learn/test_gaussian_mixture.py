"""GaussianMixture against scipy, closed forms and brute force."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.stats import gamma, multivariate_normal, norm

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, UnknownName
from datumwise.learn.gaussian_mixture import GaussianMixture, component_features, feature_names
from datumwise.learn.prior_families import GMMFamily
from datumwise.learn.quadrature import kl_by_quadrature, quadrature_posterior
from datumwise.learn.transforms import transform_of
from datumwise.learn.triangular import cholesky, cholesky_upper, invert_lower, lower_factor, solve_lower


def mixtures(B, K, d, seed=0, dtype=torch.float64):
    return GMMFamily(K, d, dtype=dtype).sample(B, torch.Generator().manual_seed(seed))


def spd(*shape, seed=0):
    root = torch.randn(*shape, shape[-1] + 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.mT


# ---------------------------------------------------------------------------- triangular factors


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_factors_by_hand_equal_lapack(d):
    S = spd(4, 3, d)
    L, U = cholesky(S), cholesky_upper(S)
    assert torch.allclose(L, torch.linalg.cholesky(S), atol=1e-12)
    assert torch.allclose(U @ U.mT, S, atol=1e-12)
    assert torch.equal(U, U.triu())
    assert torch.allclose(invert_lower(L) @ L, torch.eye(d, dtype=torch.float64), atol=1e-12)
    assert torch.equal(invert_lower(L), invert_lower(L).tril())
    assert torch.allclose(solve_lower(L, S[..., 0]), torch.linalg.solve(L, S[..., 0]), atol=1e-10)
    many = torch.randn(7, 4, 3, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.allclose(solve_lower(L, many), torch.linalg.solve(L, many.unsqueeze(-1)).squeeze(-1), atol=1e-10)


@pytest.mark.parametrize(("p", "m"), [(1, 4), (2, 2), (2, 5), (3, 3), (4, 7)])
def test_lower_factor_has_the_product_of_its_root_and_a_positive_diagonal(p, m):
    root = torch.randn(6, p, m, dtype=torch.float64, generator=torch.Generator().manual_seed(p + m))
    T = lower_factor(root)
    assert torch.allclose(T @ T.mT, root @ root.mT, atol=1e-12)
    assert torch.equal(T, T.tril())
    assert (T.diagonal(dim1=-2, dim2=-1) > 0).all()


def test_lower_factor_keeps_what_the_product_would_lose():
    tiny = torch.tensor([[1.0, 0.0], [1.0, 1e-9]], dtype=torch.float64)  # the product is singular in float64
    assert lower_factor(tiny)[1, 1].item() == pytest.approx(1e-9, rel=1e-6)


# ---------------------------------------------------------------------------- densities, draws, moments


@pytest.mark.parametrize("d", [1, 2, 3])
def test_log_prob_equals_scipy(d):
    mixture = mixtures(4, 3, d)
    x = torch.randn(5, 4, d, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 2
    expected = np.zeros((5, 4))
    for s in range(5):
        for b in range(4):
            for k in range(3):
                density = multivariate_normal(mixture.means[b, k].numpy(), mixture.covariances[b, k].numpy()).pdf(
                    x[s, b].numpy()
                )
                expected[s, b] += mixture.weights[b, k].item() * density
    np.testing.assert_allclose(mixture.log_prob(x).numpy(), np.log(expected), rtol=1e-10)
    np.testing.assert_allclose(mixture.log_prob(x[0]).numpy(), np.log(expected[0]), rtol=1e-10)


def test_a_density_does_not_depend_on_the_block_it_was_counted_in(monkeypatch):
    mixture = mixtures(3, 2, 3)
    x = torch.randn(11, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole = mixture.log_prob(x)
        monkeypatch.setattr("datumwise.learn.gaussian_mixture.BLOCK", 40)
        assert torch.allclose(mixture.log_prob(x), whole, rtol=1e-12)
        assert mixture.log_prob(x).shape == (11, 3)


def test_far_data_leave_finite_log_weights():
    mixture = GaussianMixture(None, torch.zeros(1, 2, 1), torch.ones(1, 2, 1, 1), log_weights=torch.tensor([[0.0, -1000.0]]))
    assert mixture.log_weights[0, 1] == -1000
    assert mixture.log_prob(torch.full((1, 1), 200.0)).isfinite().all()


@pytest.mark.parametrize("d", [1, 2, 3])
def test_draws_have_the_moments_and_repeat_with_their_generator(d):
    mixture = mixtures(2, 3, d)
    draws = mixture.sample(200_000, torch.Generator().manual_seed(5))
    assert draws.shape == (200_000, 2, d)
    np.testing.assert_allclose(draws.mean(0), mixture.mean, atol=0.03)
    apart = draws - draws.mean(0)
    np.testing.assert_allclose(torch.einsum("sbi,sbj->bij", apart, apart) / len(draws), mixture.covariance, atol=0.1)
    assert torch.equal(draws[:9], mixture.sample(200_000, torch.Generator().manual_seed(5))[:9])
    assert not torch.equal(draws, mixture.sample(200_000, torch.Generator().manual_seed(6)))


def test_draws_leave_the_global_state_alone():
    state = torch.get_rng_state()
    mixture = mixtures(2, 2, 2)
    mixture.sample(10)
    GaussianMixture.from_samples(mixture.sample(100), 2)
    GaussianMixture.from_distribution(torch.distributions.StudentT(5.0), 2)
    assert torch.equal(state, torch.get_rng_state())


def test_no_draw_comes_from_a_component_of_weight_zero(monkeypatch):
    weights = torch.tensor([[0.0, 0.4, 0.0, 0.6, 0.0]], dtype=torch.float64)
    means = torch.arange(5, dtype=torch.float64).reshape(1, 5, 1) * 100
    draws = GaussianMixture(weights, means, torch.ones(1, 5, 1, 1, dtype=torch.float64)).sample(5000)
    assert set((draws / 100).round().flatten().tolist()) == {1.0, 3.0}
    monkeypatch.setattr(torch, "rand", lambda *shape, **options: torch.zeros(shape, dtype=torch.float64))  # the lowest uniform
    zero = GaussianMixture(weights, means, torch.ones(1, 5, 1, 1, dtype=torch.float64)).sample(10)
    assert (zero / 100).round().unique().tolist() == [1.0]


# ---------------------------------------------------------------------------- divergences


@pytest.mark.parametrize("d", [1, 2])
def test_quadrature_divergence_of_two_gaussians_is_the_closed_form(d):
    p, q = mixtures(20, 1, d), mixtures(20, 1, d, seed=1)
    precision = torch.linalg.inv(q.covariances[:, 0])
    apart = (q.means - p.means)[:, 0]
    expected = 0.5 * (
        (precision @ p.covariances[:, 0]).diagonal(dim1=-2, dim2=-1).sum(-1)
        + torch.einsum("bi,bij,bj->b", apart, precision, apart)
        - d
        + torch.logdet(q.covariances[:, 0])
        - torch.logdet(p.covariances[:, 0])
    )
    np.testing.assert_allclose(p.kl(q), expected, rtol=1e-9)


@pytest.mark.parametrize("d", [1, 2])
def test_quadrature_and_monte_carlo_agree_within_the_error_of_the_draws(d):
    p, q = mixtures(4, 3, d), mixtures(4, 2, d, seed=1)
    draws = p.sample(100_000, torch.Generator().manual_seed(2))
    log_ratio = p.log_prob(draws) - q.log_prob(draws)
    np.testing.assert_array_less((p.kl(q) - log_ratio.mean(0)).abs(), 4.5 * log_ratio.std(0) / math.sqrt(100_000))
    np.testing.assert_allclose(p.kl(q, 100_000, generator=torch.Generator().manual_seed(2)), log_ratio.mean(0), rtol=1e-12)
    assert kl_by_quadrature(p, p).abs().max() < 1e-12


def test_quadrature_finds_a_needle_in_a_wide_component():
    one = torch.ones(1, 2, 1, 1, dtype=torch.float64)
    weights = torch.tensor([[0.5, 0.5]], dtype=torch.float64)
    p = GaussianMixture(
        weights, torch.tensor([[[0.0], [3.3]]], dtype=torch.float64), one * torch.tensor([2.0, 1e-4])[:, None, None]
    )
    wide = GaussianMixture(weights[:, :1] * 2, torch.zeros(1, 1, 1, dtype=torch.float64), one[:, :1] * 2)
    needle = -0.5 * math.log(2 * math.pi * math.e * 1e-8) + math.log(0.5)  # the two parts hardly overlap
    broad = -0.5 * math.log(2 * math.pi * math.e * 4) + math.log(0.5)
    log_q = -0.5 * math.log(2 * math.pi * 4) - 0.5 * (3.3**2 + 1e-8) / 4
    expected = 0.5 * (needle - log_q) + 0.5 * (broad + 0.5 * math.log(2 * math.pi * 4) + 0.5)
    assert p.kl(wide).item() == pytest.approx(expected, abs=2e-3)


def test_divergence_shows_one_mixture_to_a_batch():
    p, q = mixtures(5, 2, 1), mixtures(1, 2, 1, seed=3)
    np.testing.assert_allclose(p.kl(q), [p[b].kl(q).item() for b in range(5)], rtol=1e-12)
    np.testing.assert_allclose(q.kl(p), [q.kl(p[b]).item() for b in range(5)], rtol=1e-12)
    np.testing.assert_allclose(q.kl(p, 50_000), q.kl(p), rtol=0.1)
    with pytest.raises(SchemaMismatch, match="is not defined"):
        p.kl(mixtures(5, 2, 2))
    with pytest.raises(SchemaMismatch, match="the same B and d"):
        p.kl(mixtures(4, 2, 1))


def test_exact_posterior_on_a_grid_has_the_known_moments_and_evidence():
    covariance = torch.tensor([[[2.0, 0.5], [0.5, 1.0]]], dtype=torch.float64)
    prior = GaussianMixture.from_covariance(torch.ones(1).double(), torch.tensor([[1.0, -1.0]]).double(), covariance)

    def log_likelihood(x, y):
        return -0.5 * (y - x[..., 0] - x[..., 1]) ** 2 - 0.5 * math.log(2 * math.pi)

    exact = quadrature_posterior(prior, log_likelihood, 3.0)
    S = 2 + 1 + 2 * 0.5 + 1
    gain = np.array([2.5, 1.5]) / S
    np.testing.assert_allclose(exact.mean[0], np.array([1.0, -1.0]) + gain * 3, atol=1e-7)
    np.testing.assert_allclose(exact.covariance[0], [[2, 0.5], [0.5, 1]] - np.outer(gain, gain) * S, atol=1e-7)
    assert exact.log_evidence.item() == pytest.approx(norm(0, math.sqrt(S)).logpdf(3), abs=1e-9)
    assert exact.kl(prior).item() > 0.3
    with pytest.raises(SchemaMismatch, match="d <= 2"):
        quadrature_posterior(mixtures(1, 2, 3), log_likelihood, 3.0)


# ---------------------------------------------------------------------------- quantiles


def test_quantile_inverts_the_cdf_and_intervals_hold_their_mass():
    mixture = mixtures(50, 3, 1)
    levels = torch.tensor([1e-6, 0.05, 0.5, 0.95, 1 - 1e-6], dtype=torch.float64)
    quantiles = mixture.quantile(levels)
    assert quantiles.shape == (5, 50)
    np.testing.assert_allclose(mixture.cdf(quantiles), levels[:, None].expand(5, 50), atol=1e-12)
    low, high = mixture.interval(0.8)
    np.testing.assert_allclose(mixture.cdf(high) - mixture.cdf(low), 0.8, atol=1e-12)
    one = GaussianMixture(torch.ones(1), torch.tensor([[3.0]]), torch.tensor([[[2.0]]]))
    assert one.quantile(0.975).item() == pytest.approx(3 + 2 * 1.959964, abs=1e-4)


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, math.nan])
def test_levels_outside_the_open_unit_interval_are_refused(level):
    with pytest.raises(DatumwiseError, match="do not exist"):
        mixtures(1, 2, 1).quantile(level)
    with pytest.raises(DatumwiseError, match="does not exist"):
        mixtures(1, 2, 1).interval(level)


def test_quantiles_of_several_dimensions_are_refused_with_the_remedy():
    with pytest.raises(SchemaMismatch, match=r"marginal\(i\) first"):
        mixtures(1, 2, 2).interval(0.9)


# ---------------------------------------------------------------------------- new mixtures


@pytest.mark.parametrize("idx", [0, 2, [2, 0], [1, 2], [2, 1, 0], -1])
def test_marginal_has_the_blocks_of_mean_and_covariance(idx):
    mixture = mixtures(3, 2, 3)
    index = [idx] if isinstance(idx, int) else idx
    marginal = mixture.marginal(idx)
    np.testing.assert_allclose(marginal.means, mixture.means[..., index])
    np.testing.assert_allclose(marginal.covariances, mixture.covariances[..., index, :][..., index], atol=1e-12)


@pytest.mark.parametrize(("p", "d"), [(1, 1), (2, 2), (1, 3), (3, 2), (3, 3)])
def test_affine_motion_has_the_closed_form_moments_of_every_component(p, d):
    mixture = mixtures(4, 2, d)
    generator = torch.Generator().manual_seed(3)
    A = torch.randn(p, d, dtype=torch.float64, generator=generator)
    b = torch.randn(p, dtype=torch.float64, generator=generator)
    Q = spd(p, seed=4).reshape(p, p) if p > 1 else torch.ones(1, 1, dtype=torch.float64)
    moved = mixture.affine(A, b, Q)
    np.testing.assert_allclose(moved.means, mixture.means @ A.T + b, atol=1e-12)
    np.testing.assert_allclose(moved.covariances, A @ mixture.covariances @ A.T + Q, atol=1e-11)
    assert torch.equal(moved.log_weights, mixture.log_weights)
    each = mixture.affine(A.expand(4, p, d), b.expand(4, p), Q.expand(4, p, p))
    np.testing.assert_allclose(each.covariances, moved.covariances, atol=1e-12)


def test_affine_takes_singular_noise_and_refuses_a_singular_result():
    mixture = mixtures(1, 2, 2)
    Q = torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    np.testing.assert_allclose(mixture.affine(torch.eye(2), None, Q).covariances, mixture.covariances + Q, atol=1e-12)
    with pytest.raises(DatumwiseError, match="singular covariance"):
        mixture.affine(torch.zeros(2, 2))
    with pytest.raises(DatumwiseError, match="give Q"):
        mixture.affine(torch.ones(3, 2))
    with pytest.raises(DatumwiseError, match="not positive semi-definite"):
        mixture.affine(torch.eye(2), None, -torch.eye(2))
    with pytest.raises(SchemaMismatch, match="state of dimension 2"):
        mixture.affine(torch.eye(3))


@pytest.mark.parametrize("d", [1, 2, 3])
def test_unscented_motion_is_exact_for_linear_maps_and_for_means_of_squares(d):
    mixture = mixtures(3, 2, d)
    A = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    Q = torch.eye(d, dtype=torch.float64)
    np.testing.assert_allclose(
        mixture.unscented(lambda x: x @ A.T, Q).covariances, mixture.affine(A, None, Q).covariances, atol=1e-10
    )
    square = mixture.unscented(lambda x: x.square().sum(-1, keepdim=True), torch.ones(1, 1))
    expected = mixture.means.square().sum(-1) + mixture.covariances.diagonal(dim1=-2, dim2=-1).sum(-1)
    np.testing.assert_allclose(square.means[..., 0], expected, rtol=1e-10)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_reduction_keeps_mean_and_covariance_and_the_limit(d):
    mixture = mixtures(20, 9, d)
    for K in (8, 3, 1):
        reduced = mixture.reduce(K)
        assert reduced.n_components == K
        np.testing.assert_allclose(reduced.mean, mixture.mean, atol=1e-10)
        np.testing.assert_allclose(reduced.covariance, mixture.covariance, atol=1e-10)
        np.testing.assert_allclose(reduced.weights.sum(-1), 1, atol=1e-12)
    assert mixture.reduce(9) is mixture
    with pytest.raises(DatumwiseError, match="K >= 1"):
        mixture.reduce(0)


def slow_reduction(weights, means, covariances, K):
    """Runnalls's algorithm in plain loops."""
    parts = [(w, m, S) for w, m, S in zip(weights, means, covariances, strict=True)]
    while len(parts) > K:
        best = None
        for i in range(len(parts)):
            for j in range(i + 1, len(parts)):
                (w, m, S), (v, n, T) = parts[i], parts[j]
                a, b = w / (w + v), v / (w + v)
                pair = a * S + b * T + a * b * np.outer(m - n, m - n)
                cost = 0.5 * ((w + v) * np.linalg.slogdet(pair)[1] - w * np.linalg.slogdet(S)[1] - v * np.linalg.slogdet(T)[1])
                if best is None or cost < best[0]:
                    best = (cost, i, j, (w + v, a * m + b * n, pair))
        _, i, j, merged = best
        parts[i] = merged
        del parts[j]
    return parts


@pytest.mark.parametrize("d", [1, 2, 3])
def test_reduction_of_a_batch_equals_the_loop_over_all_pairs(d):
    mixture = mixtures(6, 7, d, seed=2)
    reduced = mixture.reduce(3)
    for b in range(6):
        slow = slow_reduction(mixture.weights[b].numpy(), mixture.means[b].numpy(), mixture.covariances[b].numpy(), 3)
        np.testing.assert_allclose(reduced.weights[b], [w for w, _, _ in slow], atol=1e-12)
        np.testing.assert_allclose(reduced.means[b], [m for _, m, _ in slow], atol=1e-10)
        np.testing.assert_allclose(reduced.covariances[b], [S for _, _, S in slow], atol=1e-10)


def test_reduction_merges_components_of_weight_zero_first():
    weights = torch.tensor([[0.5, 0.0, 0.5, 0.0]], dtype=torch.float64)
    means = torch.tensor([[[0.0], [50.0], [1.0], [-50.0]]], dtype=torch.float64)
    reduced = GaussianMixture(weights, means, torch.ones(1, 4, 1, 1, dtype=torch.float64)).reduce(2)
    np.testing.assert_allclose(sorted(reduced.means.flatten().tolist()), [0, 1], atol=1e-12)


def test_split_is_the_same_density_with_components_that_differ():
    mixture = mixtures(4, 2, 2)
    split = mixture.split(5)
    x = torch.randn(30, 4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(split.log_prob(x), mixture.log_prob(x), atol=1e-12)
    assert all(len(set(row)) == 5 for row in split.weights.tolist())
    with pytest.raises(DatumwiseError, match="reduce"):
        mixture.split(1)


def test_bank_of_mixtures_is_their_weighted_density():
    one, two = mixtures(3, 2, 1), mixtures(3, 4, 1, seed=1)
    bank = GaussianMixture.bank([one, two], torch.tensor([0.25, 0.75], dtype=torch.float64))
    x = torch.randn(9, 3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = (0.25 * one.log_prob(x).exp() + 0.75 * two.log_prob(x).exp()).log()
    np.testing.assert_allclose(bank.log_prob(x), expected, atol=1e-12)
    with pytest.raises(DatumwiseError, match="sum to 1"):
        GaussianMixture.bank([one, two], torch.tensor([0.5, 0.75], dtype=torch.float64))


def test_indexing_and_concatenation_are_inverse():
    mixture = mixtures(4, 2, 2)
    again = GaussianMixture.concatenate([mixture[0], mixture[1:3], mixture[[3]]])
    assert torch.equal(again.scale_tril, mixture.scale_tril)
    assert len(mixture[-1]) == 1
    assert len([*mixture]) == 4
    with pytest.raises(IndexError):
        mixture[4]
    with pytest.raises(SchemaMismatch, match="cannot share"):
        GaussianMixture.concatenate([mixture, mixtures(1, 3, 2)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_json_brings_a_mixture_back_bit_for_bit(dtype):
    mixture = mixtures(3, 2, 2, dtype=dtype)
    again = GaussianMixture.from_dict(json.loads(json.dumps(mixture.as_dict())), dtype=dtype)
    for name in ("log_weights", "means", "scale_tril"):
        assert torch.equal(getattr(again, name), getattr(mixture, name))
    zero = GaussianMixture(torch.tensor([0.0, 1.0]), torch.zeros(2, 1), torch.ones(2, 1, 1))
    assert GaussianMixture.from_dict(json.loads(json.dumps(zero.as_dict(), allow_nan=False))).weights.tolist() == [[0.0, 1.0]]
    with pytest.raises(SchemaMismatch, match="lacks means"):
        GaussianMixture.from_dict({"log_weights": [[0.0]], "scale_tril": [[[[1.0]]]]})


def test_dtype_is_kept_and_can_be_changed():
    for dtype in (torch.float32, torch.float64):
        mixture = mixtures(2, 3, 2, dtype=dtype)
        for made in (mixture.reduce(2), mixture.marginal(0), mixture.affine(torch.eye(2)), mixture.split(4), mixture[0]):
            assert made.dtype == dtype
        assert mixture.sample(3).dtype == mixture.kl(mixture).dtype == dtype
    assert mixture.to(torch.float32).dtype == torch.float32


def test_features_hold_everything_but_the_weights_below_a_floor():
    mixture = mixtures(2, 3, 3)
    features = component_features(mixture)
    assert features.shape == (2, 3, len(feature_names(3)))
    np.testing.assert_allclose(features[..., 1:4], mixture.means)
    np.testing.assert_allclose(features[..., 4:7].exp(), mixture.scale_tril.diagonal(dim1=-2, dim2=-1))
    assert feature_names(3)[7:] == ["scale 1,0", "scale 2,0", "scale 2,1"]
    np.testing.assert_allclose(features[..., 8], mixture.scale_tril[..., 2, 0])
    light = GaussianMixture(None, torch.zeros(1, 2, 1), torch.ones(1, 2, 1, 1), log_weights=torch.tensor([[0.0, -900.0]]))
    assert component_features(light)[0, 1, 0].item() == pytest.approx(math.log(1e-8))


def test_gradients_reach_every_parameter_and_equal_finite_differences():
    base = mixtures(2, 2, 2)
    x = torch.randn(3, 2, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def value(log_weights, means, scale_tril):
        mixture = GaussianMixture(None, means, scale_tril.tril(), log_weights=log_weights.log_softmax(-1), validate_args=False)
        return mixture.log_prob(x).sum() + mixture.marginal(1).log_prob(x[..., :1]).sum()

    leaves = [t.clone().requires_grad_() for t in (base.log_weights, base.means, base.scale_tril)]
    assert torch.autograd.gradcheck(value, leaves)


# ---------------------------------------------------------------------------- fits


def test_fit_to_draws_keeps_their_moments_and_finds_the_parts():
    truth = mixtures(5, 2, 2, seed=8)
    draws = truth.sample(5000, torch.Generator().manual_seed(1))
    fit = GaussianMixture.from_samples(draws, 3, generator=torch.Generator().manual_seed(2))
    apart = draws - draws.mean(0)
    np.testing.assert_allclose(fit.mean, draws.mean(0), atol=1e-8)
    np.testing.assert_allclose(fit.covariance, torch.einsum("sbi,sbj->bij", apart, apart) / 5000, rtol=1e-4, atol=1e-4)
    assert truth.kl(fit).max() < 0.01
    again = GaussianMixture.from_samples(draws, 3, generator=torch.Generator().manual_seed(2))
    assert torch.equal(fit.means, again.means)


def test_fit_counts_the_weights_of_the_draws():
    draws = torch.randn(4000, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2
    log_weights = draws[:, 0] - 0.5  # tilts N(0, 4) to N(4, 4)
    fit = GaussianMixture.from_samples(draws, 1, log_weights=log_weights)
    expected = (torch.softmax(log_weights, 0) * draws[:, 0]).sum()
    assert fit.mean.item() == pytest.approx(expected.item(), abs=1e-9)


@pytest.mark.parametrize(
    ("samples", "K", "error", "sentence"),
    [
        (torch.zeros(5, 1), 1, DatumwiseError, "all the same point"),
        (torch.tensor([[0.0], [math.nan]]), 1, NotFinite, "row 1"),
        (torch.randn(3, 1), 4, DatumwiseError, "3 draws cannot be fitted by 4"),
        (torch.arange(6).reshape(3, 2), 1, SchemaMismatch, "int64"),
    ],
)
def test_draws_that_cannot_be_fitted_are_refused(samples, K, error, sentence):
    with pytest.raises(error, match=sentence):
        GaussianMixture.from_samples(samples, K)


def test_gaussian_torch_distributions_are_taken_over_exactly():
    D = torch.distributions
    normal = GaussianMixture.from_distribution(D.Normal(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])), 3)
    assert (len(normal), normal.n_components, normal.mean.flatten().tolist()) == (2, 3, [1.0, 2.0])
    np.testing.assert_allclose(normal.covariance.flatten(), [9, 16], rtol=1e-6)
    L = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
    assert torch.equal(
        GaussianMixture.from_distribution(D.MultivariateNormal(torch.zeros(2), scale_tril=L), 1).scale_tril[0, 0], L
    )
    parts = D.MixtureSameFamily(D.Categorical(torch.tensor([0.2, 0.8])), D.Normal(torch.tensor([-1.0, 1.0]), torch.ones(2)))
    x = torch.linspace(-3, 3, 7).reshape(7, 1, 1)
    exact = GaussianMixture.from_distribution(parts, 2)
    np.testing.assert_allclose(exact.log_prob(x)[:, 0], parts.log_prob(x[:, 0, 0]), rtol=1e-5)
    diagonal = D.Independent(D.Normal(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])), 1)
    np.testing.assert_allclose(GaussianMixture.from_distribution(diagonal, 1).covariance[0].diagonal(), [9, 16])
    log_normal = GaussianMixture.from_distribution(D.LogNormal(1.0, 2.0), 1, support="positive")
    assert (log_normal.mean.item(), log_normal.scale_tril.item()) == (1.0, 2.0)


def test_univariate_torch_distributions_are_fitted_to_their_density():
    concentration = torch.tensor([0.7, 3.0], dtype=torch.float64)
    fit = GaussianMixture.from_distribution(
        torch.distributions.Gamma(concentration, torch.tensor(6.0, dtype=torch.float64)), 5, support="positive"
    )
    t = torch.linspace(-18, 3, 20_001, dtype=torch.float64)
    for b, a in enumerate(concentration.tolist()):
        log_density = torch.as_tensor(gamma(a, scale=1 / 6).logpdf(t.exp().numpy())) + t
        kl = (log_density.exp() * (log_density - fit[b].log_prob(t[:, None, None])[:, 0])).sum() * (t[1] - t[0])
        assert -1e-4 < kl < 2e-3
    student = GaussianMixture.from_distribution(torch.distributions.StudentT(5.0), 4)
    assert student.interval(0.9)[1].item() == pytest.approx(2.015, abs=0.02)
    uniform = GaussianMixture.from_distribution(torch.distributions.Uniform(0.0, 1.0), 4, support="unit")
    np.testing.assert_allclose(uniform.interval(0.5)[1].sigmoid(), 0.75, atol=0.02)


def test_a_density_with_an_edge_can_be_fitted_on_the_real_line():
    fit = GaussianMixture.from_distribution(torch.distributions.Uniform(torch.tensor([0.0, 5.0]), torch.tensor([1.0, 9.0])), 4)
    np.testing.assert_allclose(fit.mean.flatten(), [0.5, 7], atol=0.02)
    np.testing.assert_allclose(fit.covariance.flatten(), [1 / 12, 16 / 12], rtol=0.02)
    with pytest.raises(DatumwiseError, match="outside the support 'unit'"):
        GaussianMixture.from_distribution(torch.distributions.Gamma(3.0, 1.0), 2, support="unit")
    with pytest.raises(SchemaMismatch, match="event"):
        GaussianMixture.from_distribution(torch.distributions.Normal(torch.zeros(2, 2), 1.0), 2)


def test_a_batch_is_fitted_one_by_one_and_not_scrambled():
    # the published fit concatenates a batch's parameters along the last axis and reshapes: rows are mixed up
    means = torch.tensor([-5.0, 0.0, 7.0])
    batch = GaussianMixture.from_distribution(torch.distributions.Laplace(means, torch.tensor([1.0, 2.0, 3.0])), 3)
    np.testing.assert_allclose(batch.mean.flatten(), means, atol=0.05)
    np.testing.assert_allclose(batch.covariance.flatten(), [2, 8, 18], rtol=0.05)


def test_multivariate_torch_distributions_are_fitted_to_draws():
    dirichlet = torch.distributions.MultivariateNormal(torch.zeros(2), torch.eye(2)).expand((1,))
    student = torch.distributions.Independent(torch.distributions.StudentT(torch.full((2,), 8.0)), 1)
    fit = GaussianMixture.from_distribution(student, 3)
    assert (fit.dim, len(dirichlet.batch_shape)) == (2, 1)
    np.testing.assert_allclose(fit.covariance[0], np.eye(2) * 8 / 6, atol=0.15)


# ---------------------------------------------------------------------------- transforms


@pytest.mark.parametrize("support", ["real", "positive", "unit", torch.distributions.transforms.ExpTransform()])
def test_transforms_invert_and_their_log_slope_is_the_derivative(support):
    transform = transform_of(support)
    t = torch.linspace(-3, 3, 13, dtype=torch.float64).reshape(-1, 1).requires_grad_()
    x = transform.from_real(t)
    np.testing.assert_allclose(transform.to_real(x).detach(), t.detach(), atol=1e-12)
    slope = torch.autograd.grad(x.sum(), t)[0]
    np.testing.assert_allclose(transform.log_abs_det(t).detach(), slope.log()[:, 0], atol=1e-12)


def test_samples_outside_the_support_are_refused_by_row():
    with pytest.raises(DatumwiseError, match=r"outside the support 'positive' in row 1 \(-2\)"):
        transform_of("positive").to_real(torch.tensor([[1.0], [-2.0]]))
    with pytest.raises(DatumwiseError, match="row 0"):
        transform_of("unit").to_real(torch.tensor([[1.0]]))
    with pytest.raises(DatumwiseError, match="'real'"):
        transform_of("real").to_real(torch.tensor([[math.nan]]))
    with pytest.raises(UnknownName, match="one of real, positive, unit"):
        transform_of("complex")
    with pytest.raises(SchemaMismatch, match="3 coordinates for 2 supports"):
        transform_of(("real", "unit")).to_real(torch.zeros(1, 3))


# ---------------------------------------------------------------------------- refusals


ONE = (torch.tensor([[0.5, 0.5]]), torch.zeros(1, 2, 1), torch.ones(1, 2, 1, 1))


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"weights": torch.tensor([[0.5, 0.6]])}, DatumwiseError, r"mixture 0 do not sum to 1 \(1\.1\)"),
        ({"weights": torch.tensor([[1.5, -0.5]])}, DatumwiseError, "mixture 0 are negative"),
        ({"weights": torch.tensor([[math.nan, 1.0]])}, NotFinite, "weights hold NaN in mixture 0"),
        ({"weights": torch.tensor([[1, 0]])}, SchemaMismatch, "int64, not floats"),
        ({"weights": torch.tensor([[0.2, 0.3, 0.5]])}, SchemaMismatch, "do not fit"),
        ({"weights": torch.tensor([[0.5, 0.5]], dtype=torch.float64)}, SchemaMismatch, "torch.float64"),
        ({"means": torch.full((1, 2, 1), math.inf)}, NotFinite, "means hold NaN or infinity in mixture 0"),
        ({"scale_tril": torch.tensor([[[[1.0]], [[0.0]]]])}, DatumwiseError, "mixture 0, component 1 has no positive diagonal"),
        ({"scale_tril": torch.ones(1, 2, 2, 2)}, SchemaMismatch, "do not fit"),
        ({"weights": None}, SchemaMismatch, "weights or log_weights"),
    ],
)
def test_bad_parameters_are_refused_with_the_index(change, error, sentence):
    arguments = dict(zip(("weights", "means", "scale_tril"), ONE, strict=True)) | change
    with pytest.raises(error, match=sentence):
        GaussianMixture(**arguments)


def test_covariances_that_are_not_positive_definite_are_named():
    good = torch.eye(2).expand(3, 2, 2, 2).clone()
    weights, means = torch.full((3, 2), 0.5), torch.zeros(3, 2, 2)
    good[2, 1] = torch.tensor([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(DatumwiseError, match="mixture 2, component 1 is not symmetric positive definite"):
        GaussianMixture.from_covariance(weights, means, good)
    good[2, 1] = torch.tensor([[1.0, 0.5], [0.0, 1.0]])
    with pytest.raises(DatumwiseError, match="mixture 2, component 1"):
        GaussianMixture.from_covariance(weights, means, good)
    with pytest.raises(DatumwiseError, match="is not lower triangular"):
        GaussianMixture(weights, means, good + torch.eye(2))
    with pytest.raises(SchemaMismatch, match=r"are \(B, K, d, d\)"):
        GaussianMixture.from_covariance(weights, means, torch.ones(2, 3))


def test_points_of_another_shape_are_refused():
    with pytest.raises(SchemaMismatch, match=r"\(\.\.\., B, d\)"):
        mixtures(3, 2, 2).log_prob(torch.zeros(3, 1, dtype=torch.float64))
    with pytest.raises(SchemaMismatch):
        mixtures(3, 2, 2).log_prob(torch.zeros(2, 2, dtype=torch.float64))
    with pytest.raises(SchemaMismatch, match="distinct ones"):
        mixtures(3, 2, 2).marginal([0, 0])
    with pytest.raises(DatumwiseError, match="n >= 0"):
        mixtures(1, 1, 1).sample(-1)
