"""Weights in few bits: every number by brute force, every layer that must stay, and the model back bit for bit."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_language_models import tiny_gpt2, tiny_llama
from torch import nn

from datumwise.errors import DatumwiseError, ModelMismatch
from datumwise.evaluate.rounded_weights import round_trip, rounded


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(model, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_round_trip_is_the_nearest_level_of_each_row_by_brute_force(bits):
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(7, 13, generator=generator, dtype=torch.float64)
    found = round_trip(weight, bits)
    last = 2 ** (bits - 1) - 1
    for row, out in zip(weight.tolist(), found.tolist(), strict=True):
        scale = max(map(abs, row)) / last
        levels = [k * scale for k in range(-last, last + 1)]
        for value, stored in zip(row, out, strict=True):
            assert math.isclose(stored, min(levels, key=lambda level: abs(level - value)), abs_tol=1e-12)


def test_round_trip_keeps_signs_maxima_type_and_what_was_rounded_already():
    weight = torch.randn(5, 9, generator=torch.Generator().manual_seed(0))
    once = round_trip(weight, 4)
    assert torch.allclose(once.abs().amax(1), weight.abs().amax(1))
    assert torch.allclose(round_trip(once, 4), once, rtol=1e-6)
    assert torch.equal(round_trip(-weight, 4), -once)
    assert round_trip(weight.bfloat16(), 8).dtype == torch.bfloat16
    assert torch.equal(round_trip(torch.zeros(2, 3), 4), torch.zeros(2, 3))
    assert (round_trip(weight, 16) - weight).abs().max() < 1e-4
    assert not torch.equal(round_trip(torch.stack([weight[0], 10 * weight[1]]), 3)[0], torch.zeros(9))  # a scale a row


@pytest.mark.parametrize("bits", [1, 17])
def test_bits_out_of_range_are_refused(bits):
    with pytest.raises(DatumwiseError, match=f"weights cannot be rounded to {bits} bits: give 2 to 16"):
        round_trip(torch.zeros(1, 1), bits)


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2])
def test_only_linear_layers_inside_are_rounded_and_all_come_back(build):
    model = build(1).train()
    before = state_of(model)
    with rounded(model, 3) as inside:
        assert inside is model
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        for name in changed:
            transposed = build is tiny_gpt2  # Conv1D keeps (inputs, outputs): one scale an output all the same
            weight = before[name].T if transposed else before[name]
            expected = round_trip(weight, 3)
            assert torch.equal(model.state_dict()[name], expected.T if transposed else expected)
    assert len(changed) == (14 if build is tiny_llama else 8)
    assert not any("embed" in name or "lm_head" in name or "wte" in name or "norm" in name or "ln_" in name for name in changed)
    assert same(model, before)
    assert model.training
    with pytest.raises(RuntimeError, match="inside"), rounded(model, 4):
        raise RuntimeError("inside")
    assert same(model, before)


def test_a_model_without_linear_layers_is_refused():
    with pytest.raises(ModelMismatch, match="no linear layer whose weights could be rounded"), rounded(nn.LayerNorm(3), 4):
        pass
