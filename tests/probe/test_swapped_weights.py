"""Claims about weights that are replaced for a while."""

import pytest
import torch
from curvature import gpt2
from torch import nn

from datumwise.errors import ModelMismatch, UnknownName
from datumwise.probe.swapped_weights import as_parameter, check_weight, swapped, weight_matrix


def test_a_matrix_is_that_of_outputs_by_inputs_whatever_the_layer():
    model = gpt2()
    name = "transformer.h.0.mlp.c_fc"
    x = torch.randn(3, 8, dtype=torch.float64)
    layer = model.get_submodule(name)
    torch.testing.assert_close(x @ weight_matrix(model, name).T + layer.bias, layer(x))
    conv = nn.Sequential(nn.Conv2d(2, 3, 2, bias=False)).double()
    image = torch.randn(1, 2, 2, 2, dtype=torch.float64)
    torch.testing.assert_close(weight_matrix(conv, "0") @ image.flatten(), conv(image).flatten())


@pytest.mark.parametrize("square", [False, True])
def test_conv1d_gets_the_transpose_even_of_a_square_matrix(square):
    from transformers.pytorch_utils import Conv1D

    torch.manual_seed(0)
    model = nn.Sequential(Conv1D(4 if square else 3, 4))
    W = torch.randn(4 if square else 3, 4)
    x = torch.randn(2, 4)
    with swapped(model, {"0": W}):
        torch.testing.assert_close(model(x), x @ W.T)


def test_weights_come_back_as_the_same_objects_also_after_an_error():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 3), nn.Conv2d(1, 2, 2)).requires_grad_(False)
    model[0].weight.requires_grad_(True)
    before = {name: (p, p.detach().clone(), p.requires_grad, p._version) for name, p in model.named_parameters()}
    new = {"0": torch.zeros(3, 3), "1": torch.zeros(2, 1, 2, 2)}
    with pytest.raises(KeyError), swapped(model, new) as inside:  # noqa: PT012
        assert inside is model
        assert not model[0].weight.any()
        assert [model[0].weight.requires_grad, model[1].weight.requires_grad] == [True, False]
        raise KeyError
    for name, p in model.named_parameters():
        same, values, flag, version = before[name]
        assert p is same
        assert torch.equal(p, values)
        assert (p.requires_grad, p._version) == (flag, version)


def test_a_swapped_weight_is_of_the_parameters_type_and_other_layers_are_untouched():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)).bfloat16()
    other = model[1].weight
    with swapped(model, {"0": torch.full((2, 3), 1 / 3)}):
        assert model[0].weight.dtype == torch.bfloat16
        assert model[1].weight is other


def test_what_has_no_weight_of_its_own_is_refused():
    tied = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.LayerNorm(2), nn.Conv1d(2, 2, 1, groups=2))
    tied[1].weight = tied[0].weight
    with pytest.raises(ModelMismatch, match="the weight of 0 is tied to 1: leave it out"):
        check_weight(tied, "0")
    with pytest.raises(ModelMismatch, match="layer '2' is a LayerNorm, which has no weight matrix"):
        check_weight(tied, "2")
    with pytest.raises(ModelMismatch, match="layer 3 is a grouped convolution"):
        check_weight(tied, "3")
    with pytest.raises(UnknownName, match="the model has no layer '7': there are"):
        check_weight(tied, "7")
    quantised = nn.Sequential(nn.Linear(2, 2))
    quantised[0].weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.int8), requires_grad=False)
    with pytest.raises(ModelMismatch, match=r"the weight of 0 is quantised \(torch.int8\): load it in float"):
        check_weight(quantised, "0")
    computed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)))
    with pytest.raises(ModelMismatch, match="the weight of 0 is computed or stored in parts"):
        check_weight(computed, "0")
    with pytest.raises(ModelMismatch, match="the weight of 0 is not loaded"):
        check_weight(nn.Sequential(nn.Linear(2, 2, device="meta")), "0")
    with pytest.raises(ModelMismatch, match=r"a weight \(3, 2\) was given for a layer whose weight is \(2, 3\)"):
        as_parameter(nn.Linear(3, 2), torch.zeros(3, 2))
