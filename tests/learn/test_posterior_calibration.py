"""Claims about calibration: exact posteriors pass, narrow, shifted and mistaken ones do not."""

import math

import numpy as np
import pytest
import torch

from datumwise.errors import DatumwiseError
from datumwise.learn.distribution.calibration import BINS, calibration_of
from datumwise.learn.gaussian_mixture import GaussianMixture
from datumwise.learn.inference_tasks import TASKS
from datumwise.learn.linear_gaussian import gmm_posterior
from datumwise.learn.prior_families import GMMFamily

CONJUGATE = TASKS["conjugate"]


def exact_answers(n, d=1, batch=2500):
    """Exact posteriors after y = x + N(0, I), and the true states."""
    generator = torch.Generator().manual_seed(d)
    family = GMMFamily(dim=d, dtype=torch.float64)
    eye = torch.eye(d, dtype=torch.float64)
    for _ in range(0, n, batch):
        prior = family.sample(batch, generator)
        x = prior.sample(1, generator)[0]
        y = x + torch.randn(batch, d, generator=generator, dtype=torch.float64)
        yield gmm_posterior(prior, eye, eye, y)[0], x


def changed(answers, scale=1.0, shift=0.0):
    for mixture, x in answers:
        means = mixture.means + shift
        yield GaussianMixture(None, means, mixture.scale_tril * scale, log_weights=mixture.log_weights), x


@pytest.mark.parametrize("d", [1, 2])
def test_exact_posteriors_are_calibrated(d):
    found = calibration_of(exact_answers(10_000, d))
    assert (found.p_values > 0.001).all()
    for row in found.coverage:
        assert abs(row["covered"] - row["level"]) < 0.015
        assert abs(row["joint"] - row["level"]) < 0.02
        assert row["error"] == pytest.approx(math.sqrt(row["level"] * (1 - row["level"]) / 10_000))
    assert found.ranks.shape == (10_000, d)


def test_a_rank_is_the_probability_below_the_true_state():
    for mixture, x in exact_answers(2500):
        found = calibration_of([(mixture, x)])
        draws = mixture.sample(4000, torch.Generator().manual_seed(0))
        np.testing.assert_allclose(found.ranks[:, 0], (draws < x).double().mean(0)[:, 0].numpy(), atol=0.05)


@pytest.mark.parametrize(("scale", "shift"), [(0.8, 0.0), (1.25, 0.0), (1.0, 0.2)])
def test_wrong_posteriors_are_found_out(scale, shift):
    found = calibration_of(changed(exact_answers(5000), scale, shift))
    assert found.p_values[0] < 1e-4
    ninety = next(row for row in found.coverage if row["level"] == 0.9)
    if scale < 1:
        assert ninety["covered"] < 0.86
        assert ninety["joint"] < 0.86
    if scale > 1:
        assert ninety["covered"] > 0.94


def test_joint_ranks_see_a_correlation_that_marginal_ranks_do_not():
    generator = torch.Generator().manual_seed(0)
    n = 4000
    x = torch.randn(n, 2, generator=generator)
    x[:, 1] = x[:, 0]  # fully correlated; the posterior says independent
    posterior = GaussianMixture(torch.ones(n, 1), torch.zeros(n, 1, 2), torch.eye(2).expand(n, 1, 2, 2))
    found = calibration_of([(posterior, x)])
    assert (found.p_values > 1e-3).all()
    assert next(row for row in found.coverage if row["level"] == 0.95)["joint"] < 0.93


@pytest.fixture(scope="module")
def conjugate():
    model = CONJUGATE.model()
    model.fit(CONJUGATE.simulator, CONJUGATE.family, 120, batch_size=128, n_obs=(1, 5), seed=1)
    return model


def test_a_trained_model_is_calibrated(conjugate):
    told = []
    found = conjugate.calibration(
        CONJUGATE.simulator, CONJUGATE.family, 2000, batch_size=400, progress=lambda *step: told.append(step)
    )
    assert (found.p_values > 0.001).all()
    assert told[-1] == (2000, 2000)
    large = conjugate.calibration(CONJUGATE.simulator, CONJUGATE.family, 10_000, n_obs=(1, 5))
    for row in large.coverage:
        assert abs(row["covered"] - row["level"]) < 0.025


def test_a_model_of_another_noise_is_not_calibrated(conjugate):
    def louder(x, n, generator):
        return x[:, None] + 2.0 * torch.randn(len(x), n, 1, generator=generator)

    found = conjugate.calibration(louder, CONJUGATE.family, 2000, n_obs=3)
    assert found.p_values[0] < 1e-6
    assert found.coverage[2]["covered"] < 0.85


def test_a_calibration_prints_plots_and_repeats(conjugate):
    pytest.importorskip("matplotlib").use("agg")
    one, two = (conjugate.calibration(CONJUGATE.simulator, CONJUGATE.family, 200, seed=5) for _ in range(2))
    np.testing.assert_array_equal(one.ranks, two.ranks)
    assert "200 problems" in str(one)
    axes = one.plot()
    assert axes.get_xlabel() == "rank of the true state"
    heights = axes.patches[-1].get_data().values
    assert heights.sum() == pytest.approx(BINS)


def test_calibrations_that_cannot_be_are_refused(conjugate):
    with pytest.raises(DatumwiseError, match="0 problems"):
        conjugate.calibration(CONJUGATE.simulator, CONJUGATE.family, 0)
    with pytest.raises(DatumwiseError, match="n_obs is"):
        conjugate.calibration(CONJUGATE.simulator, CONJUGATE.family, 10, n_obs=(2, 1))
    with pytest.raises(DatumwiseError, match="levels are"):
        calibration_of(exact_answers(2500), levels=(1.5,))
    with pytest.raises(DatumwiseError, match="no problem"):
        calibration_of([])
    with pytest.raises(DatumwiseError, match="fit sets the default"):
        CONJUGATE.model(d_model=8, nhead=2).calibration(CONJUGATE.simulator, CONJUGATE.family, 10)
