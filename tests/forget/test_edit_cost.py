"""Claims about the predicted cost of an edit, against the loss itself and its exact derivatives."""

import numpy as np
import pytest
import torch
from tiny_language_models import tiny_llama
from torch import nn

from datumwise.errors import EmptyData, UnknownName
from datumwise.forget.curvature_edit import CurvatureEdit
from datumwise.forget.edit_cost import predicted_cost, predicted_costs
from datumwise.probe.kfac import KFAC
from datumwise.probe.swapped_weights import swapped

pytestmark = pytest.mark.filterwarnings("ignore:rank deficient")


def classifier(n=400):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x = torch.randn(n, 5, dtype=torch.float64)
    y = torch.distributions.Categorical(logits=model(x)).sample()
    return model, x, y


def changes_of(model, scale):
    generator = torch.Generator().manual_seed(1)
    return {
        name: scale * torch.randn(module.weight.shape, generator=generator, dtype=torch.float64)
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
    }


def moved(model, changes):
    return {name: model.get_submodule(name).weight.detach() + change for name, change in changes.items()}


def test_slope_is_the_derivative_of_each_datapoints_loss():
    model, x, y = classifier(20)
    changes = changes_of(model, 1.0)

    def losses(t):
        with swapped(model, moved(model, {name: t * change for name, change in changes.items()})), torch.no_grad():
            return nn.functional.cross_entropy(model(x), y, reduction="none").numpy()

    step = 1e-5
    cost = predicted_cost(model, changes, (x, y))
    np.testing.assert_allclose(cost.slope, (losses(step) - losses(-step)) / (2 * step), rtol=1e-6, atol=1e-8)


def test_curvature_is_the_quadratic_form_of_the_exact_fisher():
    model, x, y = classifier(300)
    changes = changes_of(model, 0.1)
    forward = lambda t: torch.func.functional_call(  # noqa: E731
        model, {f"{n}.weight": model.get_submodule(n).weight.detach() + t * c for n, c in changes.items()}, x
    )
    logits, tangent = torch.func.jvp(forward, (torch.zeros((), dtype=torch.float64),), (torch.ones((), dtype=torch.float64),))
    p = logits.softmax(1)
    exact = float(0.5 * ((p * tangent**2).sum(1) - (p * tangent).sum(1) ** 2).mean().detach())
    draws = [predicted_cost(model, changes, (x, y), random_state=s).curvature.mean() for s in range(20)]
    error = abs(np.mean(draws) - exact) / (np.std(draws) / 20**0.5)
    assert error < 4
    assert np.std(draws) / exact < 0.3


def test_a_small_edits_cost_is_what_is_measured():
    model, x, y = classifier(2000)
    changes = changes_of(model, 0.03)
    before = nn.functional.cross_entropy(model(x), y).detach()
    with swapped(model, moved(model, changes)), torch.no_grad():
        measured = float(nn.functional.cross_entropy(model(x), y) - before)
    cost = predicted_cost(model, changes, (x, y))
    assert cost.mean == pytest.approx(measured, abs=3 * 1e-4)
    first_order = cost.slope.mean()
    assert abs(cost.mean - measured) < 0.5 * abs(first_order - measured)


def test_positions_of_a_text_are_squared_apart_or_together():
    model = tiny_llama(scale=1.5).double()
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(256, (6, 12), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, 9:] = 0
    batch = {"input_ids": ids, "attention_mask": mask}
    changes = {f"model.layers.{k}.mlp.up_proj": 0.1 * torch.randn(48, 32, generator=generator).double() for k in (0, 1)}
    apart, together = (predicted_cost(model, changes, [batch], squares=s) for s in ("position", "datapoint"))
    np.testing.assert_array_equal(apart.slope, together.slope)
    np.testing.assert_array_equal(apart.n_positions, [8, 11, 11, 11, 11, 11])
    assert not np.allclose(apart.curvature, together.curvature)
    np.testing.assert_array_equal(predicted_cost(model, changes, [batch]).curvature, apart.curvature)

    def losses(t):
        new = {name: model.get_submodule(name).weight.detach() + t * change for name, change in changes.items()}
        with swapped(model, new), torch.no_grad():
            logits = model(input_ids=ids, attention_mask=mask).logits[:, :-1]
        each = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none").view(6, 11)
        return (each * mask[:, 1:]).sum(1).numpy()

    slope = (losses(1e-2) - losses(-1e-2)) / 2e-2  # a wide step: Llama's norm is float32 throughout
    np.testing.assert_allclose(apart.slope, slope, rtol=0.01, atol=0.005 * np.abs(slope).max())


def test_several_edits_at_once_and_any_batches_give_the_same_and_leave_the_model_alone():
    model, x, y = classifier(50)
    model[0].weight.requires_grad_(False)  # frozen weights can be edited too
    edits = [changes_of(model, scale) for scale in (0.01, 0.1)]
    together = predicted_costs(model, edits, (x, y), ids=[f"r{i}" for i in range(50)])
    for changes, cost in zip(edits, together, strict=True):
        alone = predicted_cost(model, changes, [(x[:7], y[:7]), (x[7:], y[7:])], ids=[f"r{i}" for i in range(50)])
        np.testing.assert_allclose(alone.slope, cost.slope, rtol=1e-10)
        np.testing.assert_allclose(alone.curvature, cost.curvature, rtol=1e-10)
        assert cost.ids[:2] == ["r0", "r1"]
        assert cost.slope.any()
    assert not model[0].weight.requires_grad
    assert model[2].weight.requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_a_loss_of_ones_own_squares_the_given_gradients():
    model, x, _ = classifier(30)
    target = torch.randn(30, 3, dtype=torch.float64)
    changes = changes_of(model, 0.1)

    def loss(model, batch):
        return (model(batch[0]) - batch[1]).square()

    cost = predicted_cost(model, changes, (x, target), loss_fn=loss)
    np.testing.assert_allclose(cost.curvature, cost.slope**2 / 2)


def test_it_prints_and_says_its_error():
    model, x, y = classifier(400)
    cost = predicted_cost(model, changes_of(model, 0.05), (x, y))
    halves = [predicted_cost(model, changes_of(model, 0.05), (x[at], y[at])).mean for at in (slice(0, 200), slice(200, 400))]
    assert abs(halves[0] - halves[1]) < 4 * 2**0.5 * 2**0.5 * cost.standard_error
    assert cost.standard_error == pytest.approx(cost.per_datapoint.std(ddof=1) / 20, rel=1e-6)
    assert str(cost).startswith("predicted loss a datapoint: ")
    assert cost.to_dict()["mean"] == pytest.approx(cost.to_dict()["slope"] + cost.to_dict()["curvature"])


def test_the_strongest_edit_within_a_cost_is_chosen():
    model, x, y = classifier(600)
    kfac = KFAC(model).fit((x, y))
    edit = CurvatureEdit(kfac)
    grid = [0.99, 0.5, 0.9]
    costs = [c.mean for c in edit.costs(sorted(grid), (x, y))]
    assert costs == sorted(costs, reverse=True)
    assert edit.within((costs[0] + costs[1]) / 2, (x, y), keep_masses=grid).keep_mass == 0.9
    assert edit.within(costs[0] + 1, (x, y), keep_masses=grid).keep_mass == 0.5
    with pytest.raises(ValueError, match=r"keeping 0.99 of the curvature is predicted to cost .* nats, more than -1"):
        edit.within(-1, (x, y), keep_masses=grid)
    assert edit.plan(data=(x, y)).cost.mean == pytest.approx(edit.costs([0.6], (x, y))[0].mean, rel=1e-6)


def test_bad_input_is_refused():
    model, x, y = classifier(5)
    with pytest.raises(UnknownName, match="there are no squares a 'token': choose position or datapoint"):
        predicted_cost(model, {}, (x, y), squares="token")
    with pytest.raises(EmptyData, match="there is no datapoint in the data"):
        predicted_cost(model, changes_of(model, 1.0), [])
