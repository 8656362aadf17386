"""Families draw what they say, and the alarm rings for what they do not draw."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from datumwise.errors import DatumwiseError, SchemaMismatch
from datumwise.learn.gaussian_mixture import GaussianMixture
from datumwise.learn.prior_families import (
    BetaFamily,
    FeatureRange,
    GammaFamily,
    GMMFamily,
    InverseGammaFamily,
    PriorFamily,
    prior_family,
)


def draws(family, B=4000, seed=0):
    return family.sample(B, torch.Generator().manual_seed(seed))


def test_the_stated_family_has_the_stated_distributions():
    priors = draws(GMMFamily())
    assert (priors.n_components, priors.dim, priors.dtype) == (3, 1, torch.float32)
    np.testing.assert_allclose(priors.weights.sum(-1), 1, atol=1e-5)
    assert stats.kstest(priors.weights[:, 0].numpy(), stats.beta(1, 2).cdf).pvalue > 1e-3  # a margin of Dirichlet(1, 1, 1)
    assert stats.kstest(priors.means[:, 1, 0].numpy(), stats.norm(0, 2).cdf).pvalue > 1e-3
    sd = priors.scale_tril[:, 2, 0, 0].numpy()
    assert stats.kstest(sd, stats.loguniform(0.2, 2).cdf).pvalue > 1e-3


@pytest.mark.parametrize("concentration", [0.3, 3.0])
def test_weights_are_dirichlet_for_any_concentration(concentration):
    weights = draws(GMMFamily(4, concentration=concentration, dtype=torch.float64)).weights[:, 0].numpy()
    assert stats.kstest(weights, stats.beta(concentration, 3 * concentration).cdf).pvalue > 1e-3


@pytest.mark.parametrize("d", [2, 3, 5])
def test_correlation_matrices_are_uniform(d):
    priors = draws(GMMFamily(1, d, dtype=torch.float64))
    covariance = priors.covariances[:, 0]
    sd = covariance.diagonal(dim1=-2, dim2=-1).sqrt()
    assert stats.kstest(sd[:, d - 1].numpy(), stats.loguniform(0.2, 2).cdf).pvalue > 1e-3
    correlation = (covariance / sd.unsqueeze(-1) / sd.unsqueeze(-2))[:, d - 1, 0].numpy()
    margin = stats.beta(d / 2, d / 2, loc=-1, scale=2)  # of LKJ with shape 1
    assert stats.kstest(correlation, margin.cdf).pvalue > 1e-3


def kl_on_the_line(log_density, mixture, low, high, n=20_001):
    t = torch.linspace(low, high, n, dtype=torch.float64)
    log_p = torch.as_tensor(log_density(t.numpy()))
    return ((log_p.exp() * (log_p - mixture.log_prob(t[:, None, None])[:, 0])).sum() * (t[1] - t[0])).item()


@pytest.mark.parametrize("a", [0.1, 0.37, 1.0, 2.9, 14.0, 99.0])
def test_gamma_priors_are_close_to_the_mixture_that_stands_for_them(a):
    mixture = GammaFamily(dtype=torch.float64).mixture(a, 6.0)
    gamma = stats.gamma(a, scale=1 / 6)
    kl = kl_on_the_line(lambda t: gamma.logpdf(np.exp(t)) + t, mixture, -25 / min(a, 1), 4)
    assert -1e-3 < kl < 0.007
    reciprocal = InverseGammaFamily(dtype=torch.float64).mixture(a, 6.0)
    np.testing.assert_allclose(reciprocal.means, -mixture.means, atol=1e-12)  # 1 / x of x ~ Gamma(a, 6) is InvGamma(a, 6)


def test_inverse_gamma_is_the_reciprocal_with_the_rate_as_scale():
    mixture = InverseGammaFamily(dtype=torch.float64).mixture(3.0, 2.0)
    inverse = stats.invgamma(3.0, scale=2.0)
    assert kl_on_the_line(lambda t: inverse.logpdf(np.exp(t)) + t, mixture, -4, 9) < 0.002
    assert mixture.interval(0.8)[0].exp().item() == pytest.approx(inverse.ppf(0.1), rel=0.02)


@pytest.mark.parametrize(("a", "b"), [(0.2, 0.2), (0.5, 3.0), (1.0, 1.0), (2.1, 1.3), (7.7, 19.0)])
def test_beta_priors_are_close_to_the_mixture_that_stands_for_them(a, b):
    mixture = BetaFamily(dtype=torch.float64).mixture(a, b)

    def log_density(t):
        return -a * np.logaddexp(0, -t) - b * np.logaddexp(0, t) - (math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b))

    assert -1e-3 < kl_on_the_line(log_density, mixture, -20 / min(a, 1), 20 / min(b, 1)) < 0.004
    mirror = BetaFamily(dtype=torch.float64).mixture(b, a)
    np.testing.assert_allclose(mirror.mean, -mixture.mean, atol=1e-9)


def test_the_map_from_parameters_to_mixtures_is_smooth():
    a = torch.linspace(0.3, 3, 400, dtype=torch.float64)
    for mixture in (GammaFamily(dtype=torch.float64).mixture(a, 1.0), BetaFamily(dtype=torch.float64).mixture(a, 2.0)):
        assert mixture.means.diff(dim=0).abs().max() < 0.3
        assert mixture.log_weights.diff(dim=0).abs().max() < 0.05


@pytest.mark.parametrize("family", [GammaFamily(), InverseGammaFamily(), BetaFamily(), GMMFamily(2, 2)])
def test_families_repeat_with_their_generator_and_know_their_own_draws(family):
    assert torch.equal(draws(family, 9).means, draws(family, 9).means)
    assert not torch.equal(draws(family, 9).means, draws(family, 9, seed=1).means)
    assert (~family.range.check(draws(family, 5000, seed=2)).in_family).double().mean() < 0.01
    assert isinstance(family, PriorFamily)


def test_parameters_follow_their_inverse_gamma_meta_prior():
    a, b = GammaFamily(meta_rate=(5.0, 2.0)).sample_parameters(4000, torch.Generator().manual_seed(0))
    assert stats.kstest(a.numpy(), stats.invgamma(4.0, scale=6.0).cdf).pvalue > 1e-3
    assert stats.kstest(b.numpy(), stats.invgamma(5.0, scale=2.0).cdf).pvalue > 1e-3
    assert BetaFamily().sample_parameters(10**5)[0].max() <= 20


# ---------------------------------------------------------------------------- the alarm


def one(mean, sd, weights=(0.5, 0.3, 0.2)):
    weights = torch.tensor([weights])
    return GaussianMixture(weights, torch.tensor([mean]).unsqueeze(-1), torch.tensor([sd])[..., None, None])


@pytest.mark.parametrize(
    ("prior", "known"),
    [
        (one([0.0, 3.0, -3.0], [0.5, 1.0, 1.9]), True),
        (one([0.0, 3.0, 30.0], [0.5, 1.0, 1.0]), False),
        (one([0.0, 3.0, 0.0], [0.5, 1.0, 0.01]), False),
        (one([0.0, 3.0, 0.0], [0.5, 1.0, 20.0]), False),
        (one([0.0, 3.0, 30.0], [0.5, 1.0, 1.0], (0.6, 0.3999, 0.0001)), True),  # nobody minds what weighs nothing
        (one([0.0, 3.0, 1.0], [0.5, 1.0, 1.0], (1.0, 0.0, 0.0)), True),
    ],
)
def test_the_alarm_rings_outside_the_family_and_only_there(prior, known):
    assert GMMFamily().range.check(prior).in_family.item() is known


def test_the_warning_names_the_prior_the_feature_and_its_z_score():
    family = GMMFamily()
    priors = GaussianMixture.concatenate([one([0.0, 1.0, -1.0], [0.5, 1.0, 1.0]), one([0.0, 40.0, 0.0], [0.5, 1.0, 1.0])])
    with pytest.warns(UserWarning, match=r"prior 1 lies outside .* mean 0 of component 1 of prior 1 is at z = \+(19|20|21)"):
        found = family.range.warn(priors)
    assert found.in_family.tolist() == [True, False]
    assert found.sentence().startswith("prior 1")
    assert family.range.check(priors[0]).sentence() == "all priors lie within the family"
    with pytest.raises(SchemaMismatch, match="6 features a component"):
        family.range.check(draws(GMMFamily(2, 2), 1))


def test_a_range_survives_json():
    import json

    found = GMMFamily().range
    again = FeatureRange.from_dict(json.loads(json.dumps(found.as_dict())))
    assert torch.equal(again.low, found.low)
    assert torch.equal(again.sd, found.sd)


# ---------------------------------------------------------------------------- any callable, refusals


def test_any_callable_is_a_family_and_is_held_to_its_promise():
    def draw(B, generator):
        means = torch.randn(B, 2, 1, generator=generator)
        return GaussianMixture(torch.full((B, 2), 0.5), means, torch.ones(B, 2, 1, 1))

    family = prior_family(draw)
    assert torch.equal(family.sample(7).means, draw(7, torch.Generator().manual_seed(0)).means)
    assert prior_family(family) is family
    with pytest.raises(SchemaMismatch, match="B = 3"):
        prior_family(lambda B, generator: draw(B + 1, generator)).sample(3)
    with pytest.raises(SchemaMismatch, match="a GaussianMixture"):
        prior_family(lambda B, generator: torch.zeros(B)).sample(3)
    with pytest.raises(SchemaMismatch, match="is no prior family"):
        prior_family(3)


@pytest.mark.parametrize(
    ("make", "error", "sentence"),
    [
        (lambda: GMMFamily(0), SchemaMismatch, "K, d >= 1"),
        (lambda: GMMFamily(sd_range=(0.0, 1.0)), DatumwiseError, "must be positive"),
        (lambda: GMMFamily(sd_range=(2.0, 1.0)), DatumwiseError, "must be positive"),
        (lambda: GammaFamily(0), SchemaMismatch, "K >= 1"),
        (lambda: GammaFamily(meta_rate=(0.0, 1.0)), DatumwiseError, "meta_rate"),
        (lambda: BetaFamily(concentration_range=(2.0, 1.0)), DatumwiseError, "0 < low < high"),
        (lambda: GammaFamily().mixture(-1.0, 1.0), DatumwiseError, "concentration is not positive in row 0"),
        (lambda: GammaFamily().mixture([1.0, 500.0], 1.0), DatumwiseError, "500 in row 1 is outside"),
        (lambda: BetaFamily().mixture(1.0, 0.01), DatumwiseError, "are outside"),
        (lambda: GammaFamily().mixture(1.0, math.nan), DatumwiseError, "rate is not positive"),
    ],
)
def test_bad_families_and_parameters_are_refused(make, error, sentence):
    with pytest.raises(error, match=sentence):
        make()
