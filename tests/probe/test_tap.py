"""The taps are exact, cost no weight gradient, and leave no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from brute import Checkpointed, Everything, class_losses
from torch import Tensor, nn

from datumwise.errors import DatumwiseError
from datumwise.probe.needs import Need
from datumwise.probe.needs.lens import Lens
from datumwise.probe.needs.norms import GradNorm
from datumwise.probe.tap import Tap, first_tensor, frozen, swapped
from datumwise.probe.torch_pass import TorchPass


def model_and_batch() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.5), nn.BatchNorm1d(6), nn.ReLU(inplace=True), nn.Linear(6, 3))
    model[2].eval()
    model[4].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones_like(model[0].weight)
    return model, (torch.randn(7, 5), torch.randint(0, 3, (7,)))


def traces(model: nn.Module) -> dict[str, Any]:
    """Everything that a pass must leave as it was."""
    return {
        "flags": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": {name: m.training for name, m in model.named_modules()},
        "hooks": {name: (len(m._forward_hooks), len(m._backward_hooks)) for name, m in model.named_modules()},
        "grads": {name: None if p.grad is None else (id(p.grad), p.grad.sum()) for name, p in model.named_parameters()},
        "parameters": {name: id(p) for name, p in model.named_parameters()},
        "values": {name: v.clone() for name, v in model.state_dict().items()},
        "random": torch.get_rng_state(),
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


def test_a_pass_leaves_flags_modes_hooks_grads_weights_and_the_random_state_as_they_were() -> None:
    model, batch = model_and_batch()
    before = traces(model)
    with TorchPass(model, [GradNorm(), Lens(["loss"]), GradNorm("sampled", "sampled_norm")]) as run:
        assert not any(p.requires_grad for p in model.parameters())
        assert not any(m.training for m in model.modules())
        run.batch(batch)
        run.batch(batch)
    assert same(before, traces(model))


class Failing(Need):
    def __init__(self, where: str) -> None:
        self.where = where

    def _fail(self, here: str) -> None:
        if self.where == here:
            raise KeyError(here)

    def begin(self, layers: Any) -> None:
        self._fail("begin")

    def forward(self, forward: Any) -> None:
        self._fail("forward")

    def layer(self, name: str, grad: Any) -> None:
        self._fail("layer")

    def end_batch(self, ids: Any) -> dict[str, Any]:
        self._fail("end")
        return {}


@pytest.mark.parametrize("where", ["begin", "forward", "layer", "end"])
def test_a_failing_pass_leaves_everything_as_it_was(where: str) -> None:
    model, batch = model_and_batch()
    before = traces(model)
    with pytest.raises(KeyError), TorchPass(model, [GradNorm(), Failing(where)]) as run:
        run.batch(batch)
    assert same(before, traces(model))


@pytest.mark.parametrize("bad", ["scalar", "short", "no gradient", "not finite", "error"])
def test_a_refused_loss_leaves_everything_as_it_was(bad: str) -> None:
    model, batch = model_and_batch()
    before = traces(model)

    def losses(model: nn.Module, batch: Any) -> Tensor:
        found = class_losses(model, batch)
        if bad == "error":
            raise ZeroDivisionError
        replaced = {
            "scalar": found.mean(),
            "short": found[:-1],
            "no gradient": found.detach(),
            "not finite": found / 0,
        }
        return replaced[bad]

    error = ZeroDivisionError if bad == "error" else DatumwiseError
    with pytest.raises(error), TorchPass(model, [GradNorm()], losses=losses) as run:
        run.batch(batch)
    assert same(before, traces(model))


def test_a_raw_parameter_is_put_back_after_an_error_in_the_forward() -> None:
    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.zeros(1, 5))
            self.head = nn.Linear(5, 3)
            self.calls = 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            if self.calls > 6:
                raise ZeroDivisionError
            return self.head(x + self.shift)

    model = Shifted()
    parameter = model.shift
    batch = (torch.randn(3, 5), torch.zeros(3, dtype=torch.long))
    model.calls = 3  # the fourth forward from here fails: the one after the tests of the first batch
    with pytest.raises(ZeroDivisionError), TorchPass(model, [GradNorm()]) as run:
        run.batch(batch)
    assert model.shift is parameter
    assert isinstance(model.shift, nn.Parameter)


def test_no_weight_gradient_is_computed() -> None:
    model, batch = model_and_batch()
    model[0].weight.grad = None
    with TorchPass(model, [GradNorm()], test=False) as run:
        run.batch(batch)
        assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_forward_that_is_computed_again_is_counted_once(reentrant: bool) -> None:
    torch.manual_seed(0)
    model = Checkpointed(reentrant).double()
    batch = (torch.randn(4, 3, 5).double(), torch.randint(0, 3, (4,)))
    calls: list[str] = []

    class Counting(Everything):
        def layer(self, name: str, grad: Any) -> None:
            calls.append(name)

    with TorchPass(model, [Counting(model)]) as run:
        run.batch(batch)
    assert sorted(calls) == sorted(set(calls))
    assert len(calls) == 2 + 2 * 3


def test_the_tap_starts_a_graph_at_the_first_tapped_module_only() -> None:
    x = torch.ones(2, 3)
    first = x * 2  # nothing before the tap is differentiated
    heard: list[Tensor] = []
    out = Tap.apply(first * 3, torch.zeros((), requires_grad=True), lambda a, g: heard.append(g), first)
    assert first.grad_fn is None
    assert out.requires_grad
    (out * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert torch.equal(heard[0], torch.tensor([[1.0, 2.0, 3.0]] * 2))


def test_an_operation_in_place_after_the_tap_changes_its_gradient_as_it_should() -> None:
    heard: list[Tensor] = []
    x = torch.tensor([[-1.0, 2.0]])
    out = Tap.apply(x * 1, torch.zeros((), requires_grad=True), lambda a, g: heard.append(g), x)
    (out.relu_() * 5).sum().backward()
    assert torch.equal(heard[0], torch.tensor([[0.0, 5.0]]))


def test_frozen_and_swapped_put_things_back_after_an_error() -> None:
    model = nn.Linear(2, 2)
    weight = model.weight

    def fail() -> None:
        with frozen(model), swapped([(model, "weight", torch.zeros(2, 2))]):
            assert not model.training
            assert float(model(torch.ones(1, 2)).sum()) == pytest.approx(float(model.bias.sum()))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert model.weight is weight
    assert model.training
    assert weight.requires_grad


def test_the_first_tensor_may_come_by_keyword() -> None:
    x = torch.ones(1)
    assert first_tensor((None, 3), {"a": "text", "x": x}) is x
    assert first_tensor((), {}) is None
