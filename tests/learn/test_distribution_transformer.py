"""Claims about the distribution transformer: invariances, promises without data, training, filters, influence, refusals."""

import dataclasses
import json
import math

import pytest
import torch
from safetensors import safe_open

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, SourceError, UnknownName
from datumwise.learn.distribution.training import draw_problems, losses, one_cycle
from datumwise.learn.distribution_transformer import DistributionTransformer
from datumwise.learn.gaussian_mixture import GaussianMixture
from datumwise.learn.inference_tasks import MOTION, SENSOR_VARIANCE, TASKS
from datumwise.learn.linear_gaussian import gmm_posterior, linear_gaussian_filter
from datumwise.learn.prior_families import GMMFamily, InverseGammaFamily
from datumwise.learn.quadrature import quadrature_posterior

DOUBLE = torch.float64
CONJUGATE = TASKS["conjugate"]
STEPS = 120  # of the conjugate model that many tests share
ONE = torch.ones(1, 1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def perturbed(seed=0, scale=0.2, **options):
    """An untrained model of float64 with all weights moved."""
    arguments = {"state_dim": 1, "n_components": 3, "obs_dim": 1, "d_model": 8, "nhead": 2} | options
    model = DistributionTransformer(**arguments).double()
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p += scale * torch.randn(p.shape, generator=generator(seed + i), dtype=DOUBLE)
    return model


def priors(B, d=1, K=3, seed=0):
    return GMMFamily(n_components=K, dim=d, dtype=DOUBLE).sample(B, generator(seed))


def draws(*shape, seed=3):
    return torch.randn(*shape, generator=generator(seed), dtype=DOUBLE)


def close(a, b, atol=1e-9):
    return all(torch.allclose(getattr(a, n), getattr(b, n), atol=atol) for n in ("log_weights", "means", "scale_tril"))


def exact_conjugate(prior, data):
    """Posterior of y = x + N(0, 1), in float64."""
    prior = prior.to(DOUBLE)
    for i in range(data.shape[1]):
        prior, _ = gmm_posterior(prior, ONE.double(), ONE.double(), data[:, i].double())
    return prior


@pytest.fixture(scope="module")
def conjugate():
    model = CONJUGATE.model()
    model.fit(CONJUGATE.simulator, CONJUGATE.family, STEPS, batch_size=128, n_obs=(1, 5), seed=0)
    return model


# ---------------------------------------------------------------------- what does not matter

KINDS = [("site", 1), ("token", 1), ("token", 2), ("direct", 1), ("direct", 2)]


@pytest.mark.parametrize(("head", "children"), KINDS)
@pytest.mark.parametrize("d", [1, 2])
def test_permuting_components_permutes_the_posterior(head, children, d):
    model = perturbed(head=head, children=children, state_dim=d)
    prior, data = priors(2, d), draws(2, 4, 1)
    order = [0, 2, 1]  # no rotation: rolled components would pass one
    turned = GaussianMixture(None, prior.means[:, order], prior.scale_tril[:, order], log_weights=prior.log_weights[:, order])
    expected, got = model(prior, data), model(turned, data)
    index = [children * k + c for k in order for c in range(children)]
    assert torch.allclose(got.means, expected.means[:, index], atol=1e-9)
    assert torch.allclose(got.weights, expected.weights[:, index], atol=1e-9)
    assert not torch.allclose(got.means, expected.means)


@pytest.mark.parametrize(("head", "children"), KINDS)
def test_the_order_of_data_changes_nothing(head, children):
    model = perturbed(head=head, children=children)
    data = draws(2, 5, 1)
    assert close(model(priors(2), data), model(priors(2), data[:, [3, 1, 4, 0, 2]]))
    assert not close(model(priors(2), data), model(priors(2), data + 0.1))


@pytest.mark.parametrize(("head", "children"), KINDS)
def test_hidden_padding_changes_nothing_even_if_it_is_nan(head, children):
    model = perturbed(head=head, children=children)
    data = draws(2, 3, 1)
    padded = torch.cat([data[:, :1], torch.full((2, 4, 1), math.nan, dtype=DOUBLE), data[:, 1:]], 1)
    mask = torch.tensor([[True, False, False, False, False, True, True]] * 2)
    assert close(model(priors(2), data), model(priors(2), padded, mask))


@pytest.mark.parametrize(("head", "children"), KINDS)
def test_a_problem_is_answered_alike_alone_and_in_a_batch(head, children):
    model = perturbed(head=head, children=children)
    data, mask = (
        draws(4, 3, 1),
        torch.tensor([[True, True, True], [True, False, True], [False, False, False], [True, True, False]]),
    )
    batch = model(priors(4), data, mask)
    for row in range(4):
        alone = model(priors(4)[row], data[row : row + 1][:, mask[row]])
        assert close(alone, batch[row])
    assert close(model(priors(1), data), model(priors(1)[[0] * 4], data))  # one prior, shown to all


@pytest.mark.parametrize(("head", "children"), [("site", 1), ("token", 1), ("token", 2)])
def test_without_data_the_prior_comes_back(head, children):
    model = perturbed(head=head, children=children)
    prior = priors(3)
    for data, mask in [(None, None), (torch.zeros(3, 0, 1), None), (draws(3, 2, 1), torch.zeros(3, 2, dtype=torch.bool))]:
        answer = model(prior, data, mask)
        if children == 1:
            assert torch.equal(answer.log_weights, prior.log_weights)
            assert torch.equal(answer.means, prior.means)
            assert torch.equal(answer.scale_tril, prior.scale_tril)
        x = draws(20, 3, 1)
        assert torch.allclose(answer.log_prob(x), prior.log_prob(x), atol=1e-12)


def test_a_direct_head_keeps_no_promise_without_data():
    prior = priors(3)
    assert not torch.allclose(perturbed(head="direct")(prior).means, prior.means)


# ---------------------------------------------------------------------- sensors


def sensors(**options):
    return perturbed(obs_dim={"fine": 1, "coarse": 2}, **options)


@pytest.mark.parametrize("head", ["site", "token", "direct"])
def test_a_missing_sensor_is_a_hidden_one(head):
    model = sensors(head=head)
    fine, coarse = draws(2, 3, 1), draws(2, 2, 2, seed=5)
    both = model(priors(2), {"coarse": coarse, "fine": fine})
    only = model(priors(2), {"fine": fine})
    hidden = {"coarse": torch.zeros(2, 2, dtype=torch.bool)}
    assert close(only, model(priors(2), {"fine": fine, "coarse": coarse * math.nan}, hidden))
    assert close(both, model(priors(2), {"fine": fine, "coarse": coarse}))
    assert not close(both, only)


def test_sensors_are_told_apart():
    model = perturbed(obs_dim={"a": 1, "b": 1})
    y = draws(2, 3, 1)
    assert not close(model(priors(2), {"a": y}), model(priors(2), {"b": y}))


def test_dropout_hides_whole_sensors_in_training():
    task = TASKS["lti-filter"]
    problems = draw_problems(task.model(), task.simulator, task.family, 3, 400, generator(), dropout=0.25)
    seen = problems.seen.view(400, 2, 3)
    assert torch.equal(seen.any(-1), seen.all(-1))
    assert abs(seen.float().mean().item() - 0.75) < 0.06
    assert (problems.data[~problems.seen] == 0).all()


def test_moments_start_sites_at_the_exact_answer_of_a_linear_gaussian_simulator():
    task = TASKS["lti-filter"]
    model = task.model()
    model.fit(task.simulator, task.family, 1, lr=1e-12, batch_size=8, n_obs=(1, 1))
    prior, _, data = task.problems(200, 1, seed=5)
    exact = prior.to(DOUBLE)
    for name, variance in SENSOR_VARIANCE.items():
        exact, _ = gmm_posterior(exact, ONE.double(), variance * ONE.double(), data[name][:, 0].double())
    with torch.no_grad():
        assert exact.kl(model(prior, data).to(DOUBLE)).mean() < 0.002
    only = model(prior, {"coarse": data["coarse"]})
    exact, _ = gmm_posterior(prior.to(DOUBLE), ONE.double(), 4 * ONE.double(), data["coarse"][:, 0].double())
    assert exact.kl(only.to(DOUBLE)).mean() < 0.002


# ---------------------------------------------------------------------- training


@pytest.mark.parametrize("n", [1, 5])
def test_conjugate_posteriors_are_met(conjugate, n):
    prior, _, data = CONJUGATE.problems(1000, n, seed=77)
    exact = exact_conjugate(prior, data)
    with torch.no_grad():
        answer = conjugate(prior, data)
    kl = exact.kl(answer.to(DOUBLE))
    assert kl.mean() < 0.005
    assert exact.kl(prior.to(DOUBLE)).mean() > 0.4  # there is something to learn


def test_a_prior_that_training_never_singled_out_is_met(conjugate):
    n = 200
    prior = GaussianMixture(
        torch.tensor([[0.495, 0.495, 0.01]]).expand(n, -1),
        torch.tensor([[[-3.0], [3.0], [0.0]]]).expand(n, -1, -1),
        torch.full((n, 3, 1, 1), 0.5),
    )
    data = CONJUGATE.simulator(prior.sample(1, generator(5))[0], 2, generator(6))
    with torch.no_grad():
        assert exact_conjugate(prior, data).kl(conjugate(prior, data).to(DOUBLE)).mean() < 0.01


@pytest.mark.parametrize(("n", "entropy"), [(1, 0.9152), (5, 0.4001)])
def test_no_loss_falls_below_the_exact_posteriors(conjugate, n, entropy):
    prior, x, data = CONJUGATE.problems(20_000, n, seed=78)
    exact = -exact_conjugate(prior, data).log_prob(x.double())
    with torch.no_grad():
        nll = -conjugate(prior, data).log_prob(x)
    assert exact.mean().item() == pytest.approx(entropy, abs=4 * exact.std().item() / math.sqrt(len(x)))
    gap = nll.double() - exact
    assert gap.mean() > -3 * gap.std() / math.sqrt(len(x))


def test_another_prior_gives_another_answer(conjugate):
    prior, _, data = CONJUGATE.problems(400, 3, seed=79)
    exact = exact_conjugate(prior, data)
    other = prior[torch.arange(400).roll(1)]
    with torch.no_grad():
        own, swapped = (exact.kl(conjugate(p, data).to(DOUBLE)) for p in (prior, other))
    assert swapped.median() > 20 * own.mean()


def test_the_rate_rises_and_falls_for_any_number_of_steps():
    for steps in range(1, 200):
        rate = [one_cycle(step, steps) for step in range(steps)]
        assert max(rate) == 1.0
        assert min(rate) > 0
        top = rate.index(1.0)
        assert top <= 0.05 * steps
        assert all(b <= a for a, b in zip(rate[top:], rate[top + 1 :], strict=False))
    assert rate[-1] < 1e-3


def test_training_that_gains_nothing_leaves_the_weights_as_they_were():
    task = TASKS["conjugate"]
    model = task.model(head="site", d_model=8, nhead=2)
    log = model.fit(task.simulator, task.family, 30, batch_size=16, lr=0.5)  # far too fast: the exact start is lost
    assert log.kept_step == 0
    assert "training gained nothing" in str(log)
    assert log.held_out[-1][1] > log.held_out[0][1] + 0.01
    prior, x, data = task.problems(200, 3, seed=90)
    with torch.no_grad():
        assert task.divergence(prior, x, data, model(prior, data)).mean() < 0.001
    direct = task.model(head="direct", d_model=8, nhead=2)
    assert direct.fit(task.simulator, task.family, 60, batch_size=64).kept_step == 60


def test_a_direct_head_learns():
    model = CONJUGATE.model(head="direct")
    model.fit(CONJUGATE.simulator, CONJUGATE.family, 150, batch_size=128, n_obs=(1, 1))
    prior, _, data = CONJUGATE.problems(300, 1, seed=80)
    with torch.no_grad():
        assert exact_conjugate(prior, data).kl(model(prior, data).to(DOUBLE)).mean() < 0.15


def best_linear_gaussian(task):
    model = task.model(head="site")
    model.fit(task.simulator, task.family, 1, lr=1e-12, batch_size=8, n_obs=(5, 5))
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "n", "steps", "most", "fixed"),
    [("student", 5, 150, 0.3, 0.4), ("bernoulli", 5, 80, 0.1, 0.15), ("quantum", 10, 100, 0.3, 0.4)],
)
def test_other_likelihoods_are_met_far_better_than_by_any_fixed_gaussian(name, n, steps, most, fixed):
    task = TASKS[name]
    model = task.model()
    model.fit(task.simulator, task.family, steps, batch_size=128, n_obs=task.n_obs)
    prior, _, data = task.problems(200, n, seed=81)
    with torch.no_grad():
        answers = [m(prior, data) for m in (model, best_linear_gaussian(task))]
    got, linear = (
        quadrature_posterior(prior, task.log_likelihood, data.double(), support=task.support, also=a).kl(a).mean()
        for a in answers
    )
    assert got < most
    assert linear > fixed
    assert linear > 1.5 * got


def test_the_best_head_of_three_is_kept():
    task = TASKS["bernoulli"]
    model = task.model(head="auto", d_model=8, nhead=2, num_layers=1)
    with pytest.raises(DatumwiseError, match="call fit first"):
        model(priors(1))
    with pytest.raises(DatumwiseError, match="call fit first"):
        model.save("unused")
    told = []
    log = model.fit(task.simulator, task.family, 50, batch_size=32, progress=lambda done, total: told.append((done, total)))
    assert set(log.trials) == {"site", "token", "direct"}
    assert model.head_name == log.head == min(log.trials, key=log.trials.get)
    assert "trials" in str(log)
    assert told[-1] == (80, 80)
    assert [done for done, _ in told] == list(range(1, 81))


def test_a_prior_embedding_learns_the_prior_of_its_parameters():
    family = InverseGammaFamily(3, meta_concentration=(6.0, 20.0), meta_rate=(6.0, 20.0))
    task = TASKS["inverse-gamma"]
    model = DistributionTransformer(1, 3, 1, d_model=16, nhead=2, num_layers=1, support="positive", prior_parameters=2)
    a = torch.tensor([[3.0, 4.0], [6.0, 2.0]])
    with torch.no_grad():
        before = family.mixture(*a.T).kl(model.checked_prior(a)).mean()
    model.fit(task.simulator, family, 200, batch_size=64, n_obs=(0, 3), lr=5e-3)
    with torch.no_grad():
        after = family.mixture(*a.T).kl(model.checked_prior(a))
        assert torch.equal(model(a).means, model.checked_prior(a).means)  # N = 0
        assert not torch.allclose(model(a, torch.ones(2, 1, 1)).means, model(a).means)
    assert before > 0.5
    assert after.max() < 0.1
    model(family.mixture(*a.T), torch.ones(2, 1, 1))  # mixtures go on being taken
    with pytest.raises(SchemaMismatch, match=r"prior parameters of shape \(2, 3\)"):
        model(torch.ones(2, 3))
    with pytest.raises(DatumwiseError, match="not positive in row 1"):
        model(torch.tensor([[1.0, 1.0], [1.0, -1.0]]))


def test_the_loss_of_a_prior_embedding_holds_the_published_prior_loss():
    family = InverseGammaFamily(3, meta_concentration=(6.0, 20.0), meta_rate=(6.0, 20.0))
    task = TASKS["inverse-gamma"]
    model = DistributionTransformer(1, 3, 1, d_model=8, nhead=2, support="positive", prior_parameters=2)
    problems = draw_problems(model, task.simulator, family, 2, 50, generator())
    prior = model.checked_prior(problems.parameters)
    posterior = model.of_fused(prior, problems.data, problems.seen)
    expected = -posterior.log_prob(problems.state) - prior.log_prob(problems.state)
    assert torch.allclose(losses(model, problems), expected)
    plain = dataclasses.replace(problems, parameters=None)
    expected = -model.of_fused(problems.prior, problems.data, problems.seen).log_prob(problems.state)
    assert torch.allclose(losses(model, plain), expected)


def test_failed_simulations_are_counted_and_left_out():
    def broken(x, n, generator):
        y = CONJUGATE.simulator(x, n, generator)
        y[::4] = math.nan
        return y

    model = CONJUGATE.model(d_model=8, nhead=2, num_layers=1)
    with pytest.warns(UserWarning, match="128 of 512 simulated problems failed"):
        log = model.fit(broken, CONJUGATE.family, 8, batch_size=64)
    assert log.failed == 128
    assert all(math.isfinite(loss) for loss in log.loss)
    assert all(p.isfinite().all() for p in model.parameters())


def test_a_simulator_that_mostly_fails_is_refused():
    def worse(x, n, generator):
        y = CONJUGATE.simulator(x, n, generator)
        y[: len(y) * 3 // 4] = math.inf
        return y

    with pytest.raises(NotFinite, match="of 64 simulated problems failed at step 1"):
        CONJUGATE.model(d_model=8, nhead=2).fit(worse, CONJUGATE.family, 8, batch_size=64)


def test_training_repeats_with_its_seed_and_leaves_the_global_state_alone():
    state = torch.random.get_rng_state()
    nll = []
    for seed in (0, 0, 1):
        model = CONJUGATE.model(d_model=8, nhead=2)
        nll.append(model.fit(CONJUGATE.simulator, CONJUGATE.family, 5, batch_size=32, seed=seed).loss)
    assert nll[0] == nll[1]
    assert nll[0] != nll[2]
    assert torch.equal(state, torch.random.get_rng_state())


def test_units_of_state_and_data_do_not_matter():
    def simulator(x, n, generator):
        return 7.0 * CONJUGATE.simulator((x - 1000.0) / 50.0, n, generator) - 300.0

    class Far:
        def sample(self, B, generator):
            return CONJUGATE.family.sample(B, generator).affine(torch.tensor([[50.0]]), torch.tensor([1000.0]))

    model = CONJUGATE.model()
    model.fit(simulator, Far(), 5, lr=1e-4, batch_size=64)
    prior, _, data = CONJUGATE.problems(100, 3, seed=82)
    far = prior.affine(torch.tensor([[50.0]]), torch.tensor([1000.0]))
    exact = exact_conjugate(prior, data)
    with torch.no_grad():
        answer = model(far, 7.0 * data - 300.0).to(DOUBLE)
    near = answer.affine(torch.tensor([[1 / 50.0]], dtype=DOUBLE), torch.tensor([-20.0], dtype=DOUBLE))
    assert exact.kl(near).mean() < 0.01


# ---------------------------------------------------------------------- posterior: support, trust, refinement


def test_a_posterior_knows_whether_it_is_to_be_trusted(conjugate):
    prior, _, data = CONJUGATE.problems(20, 3, seed=83)
    answer = conjugate.posterior(prior, data, log_likelihood=CONJUGATE.log_likelihood)
    assert answer.in_family.all()
    assert (answer.ess > 0.9).all()
    assert (answer.khat < 0.7).all()
    evidence = torch.zeros(20, dtype=DOUBLE)
    exact = prior.to(DOUBLE)
    for i in range(3):
        exact, step = gmm_posterior(exact, ONE.double(), ONE.double(), data[:, i].double())
        evidence += step
    assert torch.allclose(answer.log_evidence.double(), evidence, atol=0.02)
    plain = conjugate.posterior(prior, data)
    assert plain.ess is None
    assert plain.khat is None
    plain.mixture.means.requires_grad_()  # no inference tensor leaks out


def test_refinement_mends_an_untrained_model():
    task = TASKS["student"]
    model = best_linear_gaussian(task)
    prior, _, data = task.problems(50, 3, seed=84)
    raw = model.posterior(prior, data, log_likelihood=task.log_likelihood)
    fine = model.posterior(prior, data, log_likelihood=task.log_likelihood, refine=3)
    truth = [quadrature_posterior(prior, task.log_likelihood, data.double(), also=p.mixture) for p in (raw, fine)]
    assert truth[1].kl(fine.mixture).median() < 0.5 * truth[0].kl(raw.mixture).median()
    assert fine.ess.median() > raw.ess.median()


def test_the_likelihood_of_hidden_data_is_left_out(conjugate):
    prior, _, data = CONJUGATE.problems(5, 3, seed=85)
    mask = torch.tensor([[True, True, False]] * 5)
    hidden = data.clone()
    hidden[:, 2] = math.nan
    masked = conjugate.posterior(prior, hidden, mask, log_likelihood=CONJUGATE.log_likelihood)
    short = conjugate.posterior(prior, data[:, :2], log_likelihood=CONJUGATE.log_likelihood)
    assert torch.allclose(masked.log_evidence, short.log_evidence, atol=1e-4)


@pytest.mark.parametrize(("support", "grid"), [("positive", (1e-4, 60.0)), ("unit", (1e-5, 1 - 1e-5))])
def test_a_constrained_posterior_has_its_jacobian(support, grid):
    model = perturbed(support=support)
    answer = model.posterior(priors(1), draws(1, 2, 1))
    x = torch.linspace(*grid, 200_001, dtype=DOUBLE)
    assert torch.trapezoid(answer.log_prob(x[:, None, None])[:, 0].exp(), x).item() == pytest.approx(1.0, abs=2e-3)
    low, high = answer.interval(0.8)
    sample = answer.sample(20_000, generator())
    assert (((sample > low[:, None]) & (sample < high[:, None])).double().mean() - 0.8).abs() < 0.01
    with pytest.raises(DatumwiseError, match="outside the support"):
        answer.log_prob(torch.tensor([[-1.0]], dtype=DOUBLE))


def test_a_prior_outside_the_family_warns_with_its_z_score(conjugate):
    far = GaussianMixture(torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[[0.0], [1.0], [90.0]]]), torch.ones(1, 3, 1, 1))
    with pytest.warns(UserWarning, match=r"outside the family.*mean 0 of component 2 .* z = \+4"):
        answer = conjugate.posterior(far, torch.zeros(1, 1, 1))
    assert not answer.in_family.item()


def test_more_data_than_trained_with_warn(conjugate):
    with pytest.warns(UserWarning, match="6 data and the model was trained with at most 5"):
        conjugate.posterior(CONJUGATE.family.sample(1, generator()), torch.zeros(1, 6, 1))


# ---------------------------------------------------------------------- filter


def test_a_filter_is_the_exact_one(conjugate):
    A, b, Q = torch.tensor([[0.9]]), torch.tensor([0.1]), torch.tensor([[0.3]])
    series = draws(30, 4, 1).float().cumsum(0) * 0.5
    mask = torch.ones(30, 4, dtype=torch.bool)
    mask[10:14, 1] = False
    seen = torch.where(mask[..., None], series, math.nan)
    prior = CONJUGATE.family.sample(4, generator(9))
    exact = linear_gaussian_filter(prior, series, ONE, ONE, (A, b, Q), mask)
    told = []
    got = conjugate.filter(
        prior, seen, (A, b, Q), mask, log_likelihood=CONJUGATE.log_likelihood, progress=lambda *step: told.append(step)
    )
    sd = exact.covs[..., 0].sqrt()
    assert ((got.means - exact.means) / sd).square().mean().sqrt() < 0.1
    assert torch.allclose(got.loglik, exact.loglik, atol=0.5)
    assert got.means.shape == (30, 4, 1)
    assert got.final.n_components == 3
    assert told[-1] == (30, 30)
    moved = conjugate.filter(prior, seen, lambda state: state.affine(A, b, Q), mask)
    assert torch.allclose(moved.means, got.means)
    assert moved.loglik is None


def test_a_filter_without_data_only_moves(conjugate):
    A, b, Q = torch.tensor([[0.5]]), torch.tensor([1.0]), torch.tensor([[0.75]])
    prior = CONJUGATE.family.sample(2, generator(9))
    result = conjugate.filter(prior, torch.full((3, 2, 1), math.nan), (A, b, Q), torch.zeros(3, 2, dtype=torch.bool))
    assert torch.equal(result.mixtures[0].means, prior.means)
    assert torch.allclose(result.means[2], 0.25 * prior.mean + 1.5, atol=1e-6)


def test_a_filter_of_children_comes_back_to_the_components_of_its_prior():
    model = perturbed(children=2)
    result = model.filter(priors(2), draws(4, 2, 1), (ONE.double(), None, ONE.double()))
    assert {m.n_components for m in result.mixtures} == {3}


def test_a_filter_of_two_sensors_takes_either(conjugate):
    task = TASKS["lti-filter"]
    model = task.model()
    model.fit(task.simulator, task.family, 10, lr=1e-4, batch_size=64, n_obs=(1, 1))
    fine, coarse = draws(12, 2, 1).float(), draws(12, 2, 1, seed=4).float()
    every_third = (torch.arange(12) % 3 == 0)[:, None].expand(12, 2)
    prior = task.family.sample(2, generator())
    got = model.filter(prior, {"fine": fine, "coarse": coarse}, MOTION, {"fine": every_third})
    H, R = torch.ones(2, 1), torch.diag(torch.tensor(list(SENSOR_VARIANCE.values())))
    mask = torch.stack([every_third, torch.ones_like(every_third)], -1)
    exact = linear_gaussian_filter(prior, torch.cat([fine, coarse], -1), H, R, MOTION, mask)
    assert ((got.means - exact.means) / exact.covs[..., 0].sqrt()).square().mean().sqrt() < 0.1


# ---------------------------------------------------------------------- influence


def test_an_outlier_has_the_largest_influence(conjugate):
    prior = CONJUGATE.family.sample(1, generator(3))
    data = torch.tensor([[0.1], [0.2], [4.5], [-0.1]])
    influence = conjugate.datapoint_influence(prior, data, ids=["a", "b", "c", "d"])
    assert influence.argmax() == 2
    exact = exact_conjugate(prior, data[None])
    for i in range(4):
        rest = exact_conjugate(prior, torch.cat([data[:i], data[i + 1 :]])[None])
        assert influence[i].item() == pytest.approx(exact.kl(rest).item(), rel=0.25, abs=0.02)


@pytest.mark.parametrize("d", [1, 2, 3])
def test_equal_data_have_equal_influence(d):
    model = perturbed(state_dim=d, obs_dim=d)
    data = draws(1, 3, d).repeat(1, 2, 1)
    influence = model.datapoint_influence(priors(1, d), data)
    assert torch.allclose(influence[:3], influence[3:], atol=1e-9)
    assert (influence >= 0).all()
    assert influence.max() > 0


def test_influence_does_not_depend_on_its_blocks(monkeypatch):
    model, data = perturbed(), draws(1, 7, 1)
    whole = model.datapoint_influence(priors(1), data)
    monkeypatch.setattr("datumwise.learn.distribution.influence.BLOCK", 14)
    assert torch.allclose(model.datapoint_influence(priors(1), data), whole, atol=1e-12)


def test_a_hidden_datum_has_no_influence():
    mask = torch.tensor([[True, False, True]])
    assert perturbed().datapoint_influence(priors(1), draws(1, 3, 1), mask=mask)[1] == 0


# ---------------------------------------------------------------------- on disk, dtypes


@pytest.mark.parametrize("options", [{}, {"obs_dim": {"a": 1, "b": 2}, "support": ("real",)}, {"children": 2, "head": "site"}])
def test_a_saved_model_answers_bit_for_bit(tmp_path, options):
    model = perturbed(**options)
    data = {"b": draws(2, 3, 2)} if "obs_dim" in options else draws(2, 3, 1)
    model.save(tmp_path / "m.safetensors")
    loaded = DistributionTransformer.load(tmp_path / "m.safetensors")
    assert torch.equal(loaded(priors(2), data).means, model(priors(2), data).means)
    assert loaded.config == model.config
    with safe_open(tmp_path / "m.safetensors", "pt") as source:
        assert json.loads(source.metadata()["config"])["n_components"] == 3


def test_a_trained_model_keeps_its_units_and_its_family(tmp_path, conjugate):
    conjugate.save(tmp_path / "m")
    loaded = DistributionTransformer.load(tmp_path / "m")
    prior, _, data = CONJUGATE.problems(5, 2)
    a, b = conjugate.posterior(prior, data), loaded.posterior(prior, data)
    assert torch.equal(a.mixture.means, b.mixture.means)
    assert torch.equal(a.z_scores, b.z_scores)
    with pytest.warns(UserWarning, match="at most 5"):
        loaded.posterior(prior, torch.zeros(5, 6, 1))


def test_what_is_no_model_is_not_loaded(tmp_path):
    (tmp_path / "text").write_text("no model")
    with pytest.raises(SourceError, match="cannot be read"):
        DistributionTransformer.load(tmp_path / "text")
    with pytest.raises(SourceError, match="cannot be read"):
        DistributionTransformer.load(tmp_path / "none")
    from safetensors.torch import save_file

    save_file({"a": torch.ones(1)}, tmp_path / "other")
    with pytest.raises(SourceError, match="holds no distribution transformer"):
        DistributionTransformer.load(tmp_path / "other")


def test_a_transform_of_the_callers_own_is_not_saved(tmp_path):
    from datumwise.learn.transforms import transform_of

    with pytest.raises(DatumwiseError, match="no name cannot be saved"):
        perturbed(support=transform_of("positive")).save(tmp_path / "m")


def test_answers_come_in_the_dtype_of_the_model(conjugate):
    prior, _, data = CONJUGATE.problems(3, 2)
    assert conjugate(prior.to(DOUBLE), data.double()).means.dtype == torch.float32
    model = perturbed()
    assert model(prior, data).means.dtype == DOUBLE
    model.fit(CONJUGATE.simulator, CONJUGATE.family, 2, batch_size=16)
    assert model(prior, data).means.dtype == DOUBLE


def test_gradients_flow_to_prior_and_data():
    prior, data = priors(1), draws(1, 2, 1).requires_grad_()
    prior.means.requires_grad_()
    perturbed()(prior, data).mean.sum().backward()
    assert data.grad.abs().min() > 0
    assert prior.means.grad.abs().max() > 0


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"state_dim": 0}, SchemaMismatch, "state_dim is 0"),
        ({"n_components": 2.5}, SchemaMismatch, "n_components is 2.5"),
        ({"obs_dim": 0}, SchemaMismatch, "obs_dim is 0"),
        ({"obs_dim": {}}, SchemaMismatch, "obs_dim is {}"),
        ({"nhead": 3}, SchemaMismatch, "not a multiple of nhead"),
        ({"head": "sit"}, UnknownName, "no head 'sit'"),
        ({"support": "negative"}, UnknownName, "no support 'negative'"),
    ],
)
def test_a_model_that_cannot_be_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        perturbed(**arguments)


def test_priors_that_do_not_fit_are_refused():
    model, data = perturbed(), draws(2, 1, 1)
    with pytest.raises(SchemaMismatch, match=r"K = 2 and the model 3.*prior.split\(3\)"):
        model(priors(2, K=2), data)
    with pytest.raises(SchemaMismatch, match=r"K = 5 and the model 3.*prior.reduce\(3\)"):
        model(priors(2, K=5), data)
    with pytest.raises(SchemaMismatch, match="d = 2 and the model 1"):
        model(priors(2, d=2), data)
    with pytest.raises(SchemaMismatch, match=r"Normal.*from_distribution"):
        model(torch.distributions.Normal(0.0, 1.0), data)
    with pytest.raises(SchemaMismatch, match="3 priors and data of 2 problems"):
        model(priors(3), data)


def test_data_that_do_not_fit_are_refused():
    model = perturbed()
    with pytest.raises(NotFinite, match=r"data holds NaN or infinity in row 1: mask=False"):
        model(priors(2), torch.tensor([[[0.0]], [[math.nan]]]))
    with pytest.raises(SchemaMismatch, match=r"data of shape \(2, 3\): \(B, N, 1\)"):
        model(priors(2), draws(2, 3))
    with pytest.raises(SchemaMismatch, match=r"data of shape \(2, 3, 2\)"):
        model(priors(2), draws(2, 3, 2))
    with pytest.raises(SchemaMismatch, match="a mask of shape"):
        model(priors(2), draws(2, 3, 1), torch.ones(2, 2, dtype=torch.bool))
    with pytest.raises(SchemaMismatch, match="True where a datum was seen"):
        model(priors(2), draws(2, 3, 1), torch.ones(2, 3))
    with pytest.raises(SchemaMismatch, match="data are named"):
        model(priors(2), {"a": draws(2, 3, 1)})
    named = sensors()
    with pytest.raises(UnknownName, match="no sensor sonar: the model knows fine, coarse"):
        named(priors(2), {"sonar": draws(2, 3, 1)})
    with pytest.raises(SchemaMismatch, match="must be named"):
        named(priors(2), draws(2, 3, 1))
    with pytest.raises(SchemaMismatch, match="the same B in all"):
        named(priors(2), {"fine": draws(2, 3, 1), "coarse": draws(1, 3, 2)})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"steps": 0}, "0 steps"),
        ({"batch_size": 1}, "of 1 problems"),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"n_obs": (3, 1)}, r"n_obs is \(3, 1\)"),
        ({"n_obs": (1, 2, 3)}, "n_obs is"),
        ({"sensor_dropout": 1.0}, "sensor_dropout is 1.0"),
    ],
)
def test_trainings_that_cannot_be_are_refused(options, words):
    with pytest.raises(DatumwiseError, match=words):
        CONJUGATE.model().fit(CONJUGATE.simulator, CONJUGATE.family, **options)


def test_simulators_and_families_that_do_not_fit_are_refused():
    with pytest.raises(SchemaMismatch, match=r"data of shape \(8192, 5\)"):
        CONJUGATE.model().fit(lambda x, n, g: x.expand(-1, n), CONJUGATE.family, 1)
    with pytest.raises(SchemaMismatch, match="K = 2 and the model 3"):
        CONJUGATE.model().fit(CONJUGATE.simulator, GMMFamily(n_components=2), 1)
    with pytest.raises(SchemaMismatch, match="the prior family gave"):
        CONJUGATE.model().fit(CONJUGATE.simulator, lambda B, g: torch.ones(B), 1)
    with pytest.raises(SchemaMismatch, match="data of 5 problems for 8192 states"):
        CONJUGATE.model().fit(lambda x, n, g: x[:5, None].expand(-1, n, -1), CONJUGATE.family, 1)


def test_series_and_influences_that_do_not_fit_are_refused():
    model = perturbed()
    with pytest.raises(SchemaMismatch, match="a series of shape"):
        model.filter(priors(1), draws(4, 1))
    with pytest.raises(SchemaMismatch, match="a series of no data"):
        model.filter(priors(1), draws(0, 1, 1))
    with pytest.raises(SchemaMismatch, match=r"a mask of shape \(3, 1\)"):
        model.filter(priors(1), draws(4, 1, 1), mask=torch.ones(3, 1, dtype=torch.bool))
    with pytest.raises(SchemaMismatch, match="2 ids for 3 data"):
        model.datapoint_influence(priors(1), draws(1, 3, 1), ids=["a", "b"])
    with pytest.raises(SchemaMismatch, match="one prior and its data at a time"):
        model.datapoint_influence(priors(2), draws(2, 3, 1))
    with pytest.raises(DatumwiseError, match="refine needs a likelihood"):
        model.posterior(priors(1), draws(1, 1, 1), refine=1)
