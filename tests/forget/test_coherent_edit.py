"""Claims about one step against given datapoints."""

import pytest
import torch
from tiny_language_models import tiny_gpt2, tiny_llama
from torch import nn

from datumwise.errors import DatumwiseError, EmptyData, ModelMismatch, UnknownName
from datumwise.forget.coherent_step import CoherentEdit, coherent_edit, recited_share
from datumwise.forget.curvature_edit import CurvatureEdit
from datumwise.probe.kfac import KFAC

pytestmark = pytest.mark.filterwarnings("ignore:rank deficient")


def case(make=tiny_llama, modules="*.mlp.up_proj"):
    """A model, factors on other texts, and targets that it says itself after 6 tokens."""
    model = make()
    generator = torch.Generator().manual_seed(0)
    other = torch.randint(256, (12, 16), generator=generator)
    kfac = KFAC(model, modules=modules).fit([{"input_ids": other}])
    ids = torch.randint(256, (5, 6), generator=generator)
    for _ in range(5):
        with torch.no_grad():
            ids = torch.cat([ids, model(input_ids=ids).logits[:, -1:].argmax(-1)], 1)
    return model, kfac, ids, other


def margins(model, ids, prefix):
    logits = torch.log_softmax(model(input_ids=ids).logits[:, prefix - 1 : -1].double(), -1)
    gold = ids[:, prefix:, None]
    return logits.gather(2, gold)[..., 0] - logits.scatter(2, gold, -torch.inf).amax(2)


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_direction_is_the_summed_margin_gradient_on_the_flat_pairs(make):
    model, kfac, ids, _ = case(make, "*.mlp.up_proj" if make is tiny_llama else "*.mlp.c_fc")
    names = list(kfac.factors_)
    weights = [model.get_submodule(name).weight for name in names]
    gradients = torch.autograd.grad(margins(model, ids, 6).sum(), weights)
    if make is tiny_gpt2:
        gradients = [g.T for g in gradients]
    for bulk_only in (False, True):
        edit = coherent_edit(
            model, kfac, [{"input_ids": ids[:2]}, {"input_ids": ids[2:]}], norm=0.1, prefix=6, bulk_only=bulk_only
        )
        for name, gradient in zip(names, gradients, strict=True):
            f = kfac.factors_[name]
            if bulk_only:
                mask = torch.from_numpy(CurvatureEdit(kfac, 0.6).pairs(name).mask())
                rotated = f.eigenvectors_G.T @ gradient @ f.eigenvectors_A
                gradient = f.eigenvectors_G @ (rotated * ~mask) @ f.eigenvectors_A.T
            torch.testing.assert_close(edit.directions[name], gradient / gradient.norm(), rtol=1e-3, atol=1e-5)


def test_the_step_has_its_length_and_lowers_the_margins():
    model, kfac, ids, _ = case()
    edit = coherent_edit(model, kfac, [{"input_ids": ids}], norm=0.05, prefix=6)
    before = margins(model, ids, 6).sum()
    old = {name: model.get_submodule(name).weight.detach().clone() for name in edit.directions}
    with edit.applied(model):
        for name, W in old.items():
            assert float((model.get_submodule(name).weight.detach() - W).norm() / W.norm()) == pytest.approx(0.05, rel=1e-4)
        assert margins(model, ids, 6).sum() < before
    assert (edit.before, edit.after) == (None, None)
    assert edit.plan(model).energy_moved == pytest.approx(0.05**2, rel=1e-3)


def test_the_shortest_step_that_reaches_the_goal_is_found():
    model, kfac, ids, _ = case()
    calls = []
    edit = coherent_edit(
        model, kfac, [{"input_ids": ids}], goal=0.2, prefix=6, bulk_only=False, progress=lambda *at: calls.append(at)
    )
    assert edit.before == 1.0
    assert edit.after <= 0.2
    with edit.at(0.9 * edit.norm).applied(model):
        assert recited_share(model, [{"input_ids": ids}], prefix=6) > 0.2
    assert calls == [(k + 1, 17) for k in range(len(calls))]
    assert len(calls) <= 17
    again = coherent_edit(model, kfac, iter([{"input_ids": ids}]), goal=0.2, prefix=6, bulk_only=False)
    assert again.norm == edit.norm


def test_a_model_that_does_as_asked_is_left_alone():
    model, kfac, _, other = case()
    edit = coherent_edit(model, kfac, [{"input_ids": other}], goal=0.5)
    assert (edit.norm, edit.before, edit.after) == (0.0, 0.0, 0.0)


def test_a_goal_of_ones_own_is_heeded():
    model, kfac, ids, _ = case()
    edit = coherent_edit(
        model, kfac, [{"input_ids": ids}], prefix=6, forgotten=lambda edited: bool(margins(edited, ids, 6).mean() < 0)
    )
    with edit.applied(model):
        assert margins(model, ids, 6).mean() < 0


@pytest.mark.parametrize("side", ["right", "left"])
def test_recited_share_counts_sequences_or_tokens_after_the_prefix(side):
    model, _, ids, _ = case()
    wrong = ids.clone()
    wrong[0, 8] = (wrong[0, 8] + 1) % 256
    with torch.no_grad():
        said = model(input_ids=wrong).logits[:, 5:-1].argmax(-1) == wrong[:, 6:]
    assert not said[0].all()
    padded, mask = torch.zeros(5, 15, dtype=torch.long), torch.zeros(5, 15, dtype=torch.long)
    at = slice(0, 11) if side == "right" else slice(4, 15)
    padded[:, at], mask[:, at] = wrong, 1
    batch = {"input_ids": padded, "attention_mask": mask}
    assert recited_share(model, [batch], prefix=6) == 0.8
    assert recited_share(model, [batch], prefix=6, counted="token") == pytest.approx(float(said.float().mean()))
    labels = wrong.masked_fill(torch.arange(11) < 6, -100)
    assert recited_share(model, [{"input_ids": wrong, "labels": labels}]) == 0.8


def test_classes_have_margins_too():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3))
    x = torch.randn(200, 6)
    kfac = KFAC(model).fit((x, torch.randint(3, (200,))))
    y = model(x).argmax(1)
    edit = coherent_edit(model, kfac, (x[:4], y[:4]), goal=0.0, bulk_only=False)
    assert (edit.before, edit.after) == (1.0, 0.0)


def test_the_model_is_left_as_it_was():
    model, kfac, ids, _ = case()
    model.train()
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    flags = [p.requires_grad for p in model.parameters()]
    coherent_edit(model, kfac, [{"input_ids": ids}], goal=0.2, prefix=6)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert model.training


def test_bad_input_is_refused():
    model, kfac, ids, _ = case()
    data = [{"input_ids": ids}]
    with pytest.raises(UnknownName, match="there is no share of 'word': choose sequence or token"):
        coherent_edit(model, kfac, data, counted="word")
    with pytest.raises(DatumwiseError, match="goal is 1"):
        coherent_edit(model, kfac, data, goal=1)
    with pytest.raises(DatumwiseError, match=r"norm is -0\.1: choose a share of the weights' norm above 0"):
        coherent_edit(model, kfac, data, norm=-0.1)
    with pytest.raises(EmptyData, match="no position has a target: give labels, or a shorter prefix"):
        coherent_edit(model, kfac, data, prefix=20)
    with pytest.raises(DatumwiseError, match="the margins have no gradient in these components: lower keep_mass"):
        coherent_edit(model, kfac, data, prefix=6, keep_mass=1.0)
    with pytest.raises(ModelMismatch, match="a prefix is for texts"):
        recited_share(nn.Linear(2, 2), (torch.zeros(1, 2), torch.zeros(1).long()), prefix=3)
    with pytest.raises(DatumwiseError, match="a step as long as the weights themselves does not reach the goal"):
        coherent_edit(model, kfac, data, prefix=6, forgotten=lambda edited: False)
    with pytest.raises(ModelMismatch, match=r"the direction of 0 is \(2, 2\), the model's weight \(3, 2\)"):
        CoherentEdit({"0": torch.ones(2, 2)}, 0.1).apply(nn.Sequential(nn.Linear(2, 3)))
