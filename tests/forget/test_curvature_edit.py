"""Claims about curvature edits of whole models: what is written, what is not, and that it comes back."""

import gc
import weakref

import numpy as np
import pytest
import torch
from tiny_language_models import tiny_gpt2, tiny_llama
from torch import nn

from datumwise.errors import DatumwiseError, ModelMismatch, NotFinite, UnknownName
from datumwise.forget.curvature_edit import CurvatureEdit
from datumwise.probe.kept_pairs import edit_weight
from datumwise.probe.kfac import KFAC
from datumwise.probe.swapped_weights import weight_matrix

pytestmark = pytest.mark.filterwarnings("ignore:rank deficient")
MLP = {"llama": "*.mlp.(gate|up)_proj", "gpt2": "*.mlp.c_fc"}


def text_batches(n=12, T=20, seed=0):
    ids = torch.randint(256, (n, T), generator=torch.Generator().manual_seed(seed))
    return [{"input_ids": part} for part in ids.split(4)]


def language_model(kind, **options):
    model = {"llama": tiny_llama, "gpt2": tiny_gpt2}[kind]()
    return model, KFAC(model, modules=MLP[kind], **options).fit(text_batches())


def convolutional():
    torch.manual_seed(2)
    model = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.Tanh(), nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(36, 3))
    generator = torch.Generator().manual_seed(5)
    x, y = torch.randn(30, 2, 4, 4, generator=generator), torch.randint(3, (30,), generator=generator)
    return model, KFAC(model).fit((x, y))


def state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("rule", ["product", "marginal", "bulk"])
def test_what_is_written_is_the_edit_of_each_weight_and_nothing_else_changes(kind, rule):
    model, kfac = language_model(kind)
    before = state(model)
    options = {"rule": rule, "band": (0.2, 0.7) if rule == "bulk" else None}
    keep_mass = (0.8, 0.7) if rule == "marginal" else 0.6
    edit = CurvatureEdit(kfac, keep_mass, **options)
    expected = {
        name: edit_weight(weight_matrix(model, name), f.A, f.G, keep_mass, **options) for name, f in kfac.factors_.items()
    }
    with edit.applied(model):
        after = state(model)
        for name, W in expected.items():
            torch.testing.assert_close(weight_matrix(model, name), W, rtol=1e-4, atol=1e-5)
            assert not torch.equal(after[f"{name}.weight"], before[f"{name}.weight"])
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"{name}.weight" for name in expected}
    assert len(changed) == (4 if kind == "llama" else 2)
    for name, value in state(model).items():
        assert torch.equal(value, before[name])


def test_convolutions_are_edited_as_matrices_of_patches():
    model, kfac = convolutional()
    before = state(model)
    expected = {name: edit_weight(weight_matrix(model, name), f.A, f.G, 0.7) for name, f in kfac.factors_.items()}
    assert set(expected) == {"0", "2", "4"}
    with CurvatureEdit(kfac, 0.7).applied(model):
        for name, W in expected.items():
            torch.testing.assert_close(weight_matrix(model, name), W, rtol=1e-4, atol=1e-6)
        assert model[0].weight.shape == (3, 2, 3, 3)
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())


def test_everything_else_about_the_model_is_as_before_also_after_an_error():
    model, kfac = language_model("llama")
    model.train()
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    model.lm_head.weight.grad = torch.ones_like(model.lm_head.weight)
    before, flags = state(model), [p.requires_grad for p in model.parameters()]
    parameters, hooks = [id(p) for p in model.parameters()], [len(m._forward_hooks) for m in model.modules()]
    drawn = torch.random.get_rng_state()
    edit = CurvatureEdit(kfac)
    edit.plan(model, data=text_batches(seed=1))
    with pytest.raises(KeyError), edit.applied():  # noqa: PT012
        assert edit.is_applied(model)
        raise KeyError
    assert not edit.is_applied(model)
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert [id(p) for p in model.parameters()] == parameters
    assert [len(m._forward_hooks) for m in model.modules()] == hooks
    assert all(module.training for module in model.modules())
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert torch.equal(model.lm_head.weight.grad, torch.ones_like(model.lm_head.weight))


def test_an_edit_that_fails_halfway_writes_nothing():
    model, kfac = language_model("llama")
    before = state(model)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[0, 0] = torch.nan
    with pytest.raises(NotFinite, match=r"the weight of model.layers.1.mlp.up_proj has NaN or infinite values"):
        CurvatureEdit(kfac).apply()
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, before["model.layers.0.mlp.up_proj.weight"])


def test_all_mass_writes_the_weights_as_they_are():
    model, kfac = language_model("gpt2")
    before = state(model)
    edit = CurvatureEdit(kfac, 1.0)
    with edit.applied(model):
        assert all(torch.equal(value, before[name]) for name, value in state(model).items())
    plan = edit.plan(model)
    assert plan.energy_moved == 0
    assert all(plan[name].kept_share == 1 for name in plan)


def test_applied_twice_with_the_same_factors_is_applied_once():
    model, kfac = language_model("llama")
    once = CurvatureEdit(kfac).apply()
    first = state(once)
    CurvatureEdit(kfac).apply(model)  # another object: the weights are projected again
    for name, value in state(model).items():
        torch.testing.assert_close(value, first[name], rtol=1e-4, atol=1e-5)


def test_plan_says_what_is_kept_and_moved_and_touches_nothing():
    model, kfac = language_model("llama")
    before = state(model)
    edit = CurvatureEdit(kfac, 0.6)
    plan = edit.plan()
    assert all(torch.equal(value, before[name]) for name, value in state(model).items())
    weights = edit.weights(model)
    assert list(plan) == list(kfac.factors_)
    for name, factor in kfac.factors_.items():
        layer, W = plan[name], weight_matrix(model, name)
        products = torch.outer(factor.eigenvalues_G.double(), factor.eigenvalues_A.double())
        assert layer.shape == tuple(W.shape)
        assert layer.energy_moved == pytest.approx(float((weights[name] - W).square().sum() / W.square().sum()), rel=1e-4)
        mask = torch.from_numpy(edit.pairs(name).mask())
        assert (layer.kept_pairs, layer.kept_share) == (int(mask.sum()), pytest.approx(float(mask.double().mean())))
        assert layer.kept_mass == pytest.approx(float(products[mask].sum() / products.sum()))
        assert layer.ranks == (int(mask.any(0).sum()), int(mask.any(1).sum()))
        assert layer.rounding == 0
    assert 0 < plan.energy_moved < 1
    text = str(plan)
    assert "model.layers.0.mlp.gate_proj" in text
    assert "of the energy of these weights is moved" in text
    assert plan.to_dict()["layers"]["model.layers.0.mlp.gate_proj"]["kept_pairs"] == plan[next(iter(plan))].kept_pairs


def test_bfloat16_rounding_is_reported_and_the_original_bits_come_back():
    model, kfac = language_model("llama")
    model.bfloat16()
    before = state(model)
    strong, mild = CurvatureEdit(kfac, 0.5), CurvatureEdit(kfac, 0.9999)
    for edit in (strong, mild):
        plan = edit.plan(model)
        for name in plan:
            W = weight_matrix(model, name).float()
            f = kfac.factors_[name]
            wanted = edit_weight(W, f.A, f.G, edit.keep_mass)
            lost = (wanted.bfloat16().float() - wanted).norm() / (wanted - W).norm()
            assert plan[name].rounding == pytest.approx(float(lost), rel=0.1)
        with edit.applied(model):
            assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
        assert all(torch.equal(value, before[name]) for name, value in state(model).items())
    assert all(mild.plan(model)[name].rounding > 5 * strong.plan(model)[name].rounding for name in kfac.factors_)


def test_factors_with_a_bias_edit_the_weight_as_those_without():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))
    data = (torch.randn(60, 6) + 1, torch.randint(4, (60,)))
    plain, biased = (KFAC(model, bias=bias).fit(data) for bias in (False, True))
    with_bias, without = CurvatureEdit(biased, 0.6).weights(model), CurvatureEdit(plain, 0.6).weights(model)
    for name in without:
        torch.testing.assert_close(with_bias[name], without[name], rtol=1e-4, atol=1e-5)


def test_a_sweep_gives_the_edits_of_each_share_and_rotates_each_weight_once(monkeypatch):
    import datumwise.forget.curvature_edit as module

    model, kfac = language_model("llama")
    calls = []
    real = module.to_coefficients
    monkeypatch.setattr(module, "to_coefficients", lambda *args: calls.append(1) or real(*args))
    masses = [0.9, 0.7, 0.5, 0.3]
    swept = {edit.keep_mass: edit.weights(model) for edit in CurvatureEdit(kfac).sweep(masses)}
    assert (list(swept), len(calls)) == (masses, 4)
    for keep_mass, weights in swept.items():
        for name, W in CurvatureEdit(kfac, keep_mass).weights(model).items():
            torch.testing.assert_close(weights[name], W, rtol=0, atol=0)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(2)
    sweep = CurvatureEdit(kfac).sweep([0.5, 0.5])
    first = next(sweep).weights(model)["model.layers.0.mlp.up_proj"]
    torch.testing.assert_close(first, 2 * swept[0.5]["model.layers.0.mlp.up_proj"], rtol=1e-5, atol=1e-6)
    with torch.no_grad():  # a weight that changed in between is not taken for the one that was rotated
        model.model.layers[0].mlp.up_proj.weight.mul_(2)
    torch.testing.assert_close(next(sweep).weights(model)["model.layers.0.mlp.up_proj"], 2 * first, rtol=1e-5, atol=1e-6)


def test_layers_and_shares_are_chosen_by_patterns():
    model, kfac = language_model("llama")
    assert CurvatureEdit(kfac, layers="*.0.mlp.*").names(model) == [
        "model.layers.0.mlp.gate_proj",
        "model.layers.0.mlp.up_proj",
    ]
    assert CurvatureEdit(kfac, layers=lambda name: name.endswith("0.mlp.up_proj")).names(model) == [
        "model.layers.0.mlp.up_proj"
    ]
    edit = CurvatureEdit(kfac, {"*.1.mlp.up_proj": 0.3, "up_proj": 0.9})
    plan = edit.plan()
    assert set(plan) == {"model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj"}
    assert plan["model.layers.1.mlp.up_proj"].kept_mass < 0.4 < 0.9 <= plan["model.layers.0.mlp.up_proj"].kept_mass


def test_another_model_of_the_same_shape_can_be_edited():
    model, kfac = language_model("llama")
    other = tiny_llama(seed=1)
    edit = CurvatureEdit(kfac)
    with edit.applied(model), edit.applied(other):
        assert edit.is_applied(model)
        assert edit.is_applied(other)
        f = kfac.factors_["model.layers.0.mlp.up_proj"]
    W = weight_matrix(other, "model.layers.0.mlp.up_proj")
    torch.testing.assert_close(
        edit.weights(other)["model.layers.0.mlp.up_proj"], edit_weight(W, f.A, f.G, 0.6), rtol=1e-4, atol=1e-5
    )


def test_given_factors_need_no_model_but_one_to_edit():
    rng = np.random.default_rng(0)
    a, g = rng.normal(size=(50, 3)), rng.normal(size=(50, 2))
    kfac = KFAC.from_factors({"0": (torch.from_numpy(a.T @ a / 50), torch.from_numpy(g.T @ g / 50))}, 50)
    edit = CurvatureEdit(kfac, 0.5)
    model = nn.Sequential(nn.Linear(3, 2))
    assert edit.plan(model).energy_moved > 0
    with pytest.raises(ModelMismatch, match="these factors were given without a model: pass the model to edit"):
        edit.apply()
    with pytest.raises(ModelMismatch, match=r"factors of 0 are of a weight \(2, 3\), the model's is \(2, 4\)"):
        edit.apply(nn.Sequential(nn.Linear(4, 2)))


def test_restoring_what_is_not_as_it_was_left_is_refused():
    model, kfac = language_model("llama")
    edit = CurvatureEdit(kfac, layers="*.0.mlp.up_proj")
    with pytest.raises(ModelMismatch, match=r"this edit is not applied to this model: call apply\(model\) first"):
        edit.restore()
    edit.apply()
    with pytest.raises(ModelMismatch, match=r"this edit is applied to this model already: call restore\(model\) first"):
        edit.apply()
    second = CurvatureEdit(kfac, 0.2, layers="*.0.mlp.up_proj")
    second.apply()
    with pytest.raises(ModelMismatch, match=r"the weight of model.layers.0.mlp.up_proj was changed since the edit"):
        edit.restore()
    second.restore()
    with pytest.raises(ModelMismatch, match="was changed since"):  # written again, by the second edit's restore
        edit.restore()
    model.model.layers[0].mlp.up_proj.weight = nn.Parameter(torch.zeros(48, 32))
    with pytest.raises(ModelMismatch, match="was replaced since the edit"):
        edit.restore()


def test_originals_are_let_go_of_with_the_model():
    model, kfac = language_model("llama")
    kfac.model = None
    edit = CurvatureEdit(kfac)
    edit.apply(model)
    alive = weakref.ref(model)
    del model
    gc.collect()
    assert alive() is None
    assert len(edit._written) == 0


def test_bad_input_is_refused():
    model, kfac = language_model("llama")
    with pytest.raises(DatumwiseError, match=r"keep_mass is 0: choose a share above 0, at most 1"):
        CurvatureEdit(kfac, 0)
    with pytest.raises(DatumwiseError, match=r"keep_mass is 1\.5"):
        CurvatureEdit(kfac, {"up_proj": 1.5})
    with pytest.raises(UnknownName, match="there is no rule 'saliency'"):
        CurvatureEdit(kfac, rule="saliency")
    with pytest.raises(DatumwiseError, match="the bulk rule needs a band"):
        CurvatureEdit(kfac, rule="bulk")
    with pytest.raises(DatumwiseError, match="a pair of keep_mass is for the marginal rule"):
        CurvatureEdit(kfac, (0.5, 0.5))
    with pytest.raises(UnknownName, match=r"no layer matches 'dwn_proj': there are model.layers.\d.mlp"):
        CurvatureEdit(kfac, layers="dwn_proj")
    with pytest.raises(UnknownName, match="no layer with factors is chosen by layers="):
        CurvatureEdit(kfac, layers=lambda name: False)
    dead = KFAC.from_factors({"0": (torch.zeros(2, 2), torch.eye(2))}, 5)
    with pytest.raises(DatumwiseError, match=r"all eigenvalues mu are zero, so no pair carries any curvature.*in layer 0"):
        CurvatureEdit(dead).apply(nn.Sequential(nn.Linear(2, 2)))
    broken = KFAC.from_factors({"0": (torch.eye(2), torch.full((2, 2), torch.nan))}, 5)
    with pytest.raises(NotFinite, match="factor G of 0 has non-finite values"):
        CurvatureEdit(broken)
    model.model.layers[0].mlp.up_proj.weight = model.model.layers[1].mlp.up_proj.weight
    with pytest.raises(ModelMismatch, match=r"the weight of model.layers.0.mlp.up_proj is tied to model.layers.1.mlp.up_proj"):
        CurvatureEdit(kfac).apply()
