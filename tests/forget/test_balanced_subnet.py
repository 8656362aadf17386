"""Claims about masks learnt with memorised and clean datapoints."""

import numpy as np
import pytest
import torch
from tiny_language_models import tiny_gpt2, tiny_llama
from torch import nn

from datumwise.errors import DatumwiseError, EmptyData, ModelMismatch, SchemaMismatch, UnknownName
from datumwise.forget.subnet_mask import MaskEdit, _Choose, _first_scores, _largest, balanced_subnet


def two_groups(seed=0):
    """A classifier whose inputs 0-7 tell the clean classes apart; the memorised rows are known by inputs 8-15 alone."""
    torch.manual_seed(seed)
    clean = torch.cat([torch.randn(120, 8), torch.zeros(120, 8)], 1)
    labels = (clean[:, 0] > 0).long()
    memorised = torch.cat([torch.zeros(40, 8), torch.randn(40, 8)], 1)
    wrong = torch.randint(2, (40,))
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 2))
    optimiser = torch.optim.Adam(model.parameters(), 0.02)
    x, y = torch.cat([clean, memorised]), torch.cat([labels, wrong])
    for _ in range(300):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
    return model, (memorised, wrong), (clean, labels)


def accuracy(model, data):
    with torch.no_grad():
        return float((model(data[0]).argmax(1) == data[1]).float().mean())


def test_what_is_dropped_makes_the_memorised_forgotten_and_the_clean_kept():
    model, memorised, clean = two_groups()
    assert (accuracy(model, memorised), accuracy(model, clean)) == (1.0, 1.0)
    edit = balanced_subnet(model, memorised, clean, 0.25, 40, 0.005, layers="0")
    dropped = ~edit.masks["0"]
    assert edit.dropped == int(dropped.sum()) == round(0.25 * 512)
    assert dropped[:, 8:].float().mean() > 1.5 * dropped[:, :8].float().mean()
    with edit.applied(model):
        assert accuracy(model, clean) > 0.95
        assert accuracy(model, memorised) < 0.8
        torch.testing.assert_close(model[0].weight == 0, dropped)
    assert accuracy(model, memorised) == 1.0
    assert edit.history[-1].memorized > edit.history[0].memorized


def test_the_gradient_of_the_scores_goes_straight_through_the_choice():
    scores = torch.tensor([[0.5, -0.1], [0.2, -0.9]], requires_grad=True)
    chosen = _Choose.apply(scores.abs(), 0.5)
    torch.testing.assert_close(chosen.detach(), torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    weights = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    (chosen * weights).sum().backward()
    torch.testing.assert_close(scores.grad, weights * scores.detach().sign())


def test_as_many_are_dropped_as_asked_and_one_at_least():
    scores = torch.rand(10, 10, generator=torch.Generator().manual_seed(0))
    for ratio, dropped in ((0.01, 1), (0.001, 1), (0.25, 25), (0.999, 99)):
        mask = _largest(scores, ratio)
        assert int((~mask).sum()) == dropped
        assert scores[mask].min() >= scores[~mask].max()
    assert int((~_largest(torch.zeros(4, 4), 0.5)).sum()) == 8


def test_first_scores_are_uniform_and_of_the_seed_and_the_name():
    W = torch.zeros(60, 100)
    scores = _first_scores(W, 3, "a").detach()
    assert 0.097 < scores.max() <= 0.1
    assert abs(float(scores.mean())) < 4 * 0.1 / (3 * 6000) ** 0.5
    assert torch.equal(scores, _first_scores(W, 3, "a").detach())
    assert not torch.equal(scores, _first_scores(W, 4, "a").detach())
    assert not torch.equal(scores, _first_scores(W, 3, "b").detach())


def test_one_step_is_that_of_the_signed_losses():
    """Against the same step written out: -loss of the memorised, +loss of the clean, mean over both."""
    model, memorised, clean = two_groups()
    rows = (memorised[0][:3], memorised[1][:3]), (clean[0][:5], clean[1][:5])
    for variant, factor in (("mean", 1), ("published", 8)):
        edit = balanced_subnet(model, *rows, 0.3, 1, 50.0, layers="0", batch_size=8, variant=variant)
        scores = _first_scores(model[0].weight, 0, "0").detach().requires_grad_(True)
        masked = model[0].weight.detach() * _Choose.apply(scores.abs(), 0.3)
        losses = [
            nn.functional.cross_entropy(
                model[2](torch.relu(nn.functional.linear(x, masked, model[0].bias))), y, reduction="sum"
            )
            for x, y in rows
        ]
        ((losses[1] - losses[0]) / 8 * factor).backward()
        stepped = scores.detach() - 50.0 * (scores.grad + 5e-4 * scores.detach())
        assert torch.equal(edit.masks["0"], _largest(stepped.abs(), 0.3))
        assert edit.history[0].memorized == pytest.approx(float(losses[0].detach()) / 3, rel=1e-5)
        assert edit.history[0].clean == pytest.approx(float(losses[1].detach()) / 5, rel=1e-5)


@pytest.mark.parametrize(("make", "layers"), [(tiny_llama, "*.mlp.up_proj"), (tiny_gpt2, "*.mlp.c_fc")])
def test_texts_are_forgotten_too_and_the_model_is_left_as_it_was(make, layers):
    model = make(scale=1.0)
    generator = torch.Generator().manual_seed(0)
    memorised, clean = (torch.randint(256, (6, 10), generator=generator) for _ in range(2))
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(60):
        optimiser.zero_grad()
        model(input_ids=torch.cat([memorised, clean]), labels=torch.cat([memorised, clean])).loss.backward()
        optimiser.step()
    optimiser.zero_grad()
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    drawn = torch.random.get_rng_state()
    mask = torch.ones_like(memorised)
    mask[0, 7:] = 0
    calls = []
    edit = balanced_subnet(
        model, {"input_ids": memorised, "attention_mask": mask}, {"input_ids": clean}, 0.3, 15, 2.0, layers=layers,
        batch_size=6, random_state=1, progress=lambda *at: calls.append(at),
    )  # fmt: skip
    assert calls == [(k + 1, 30) for k in range(30)]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    first, last = edit.history[0], edit.history[-1]
    assert last.memorized - last.clean > first.memorized - first.clean + 0.1
    again = balanced_subnet(
        model, {"input_ids": memorised, "attention_mask": mask}, {"input_ids": clean}, 0.3, 15, 2.0, layers=layers,
        batch_size=6, random_state=1,
    )  # fmt: skip
    assert all(torch.equal(m, again.masks[name]) for name, m in edit.masks.items())


def test_bad_input_is_refused():
    model, memorised, clean = two_groups()
    with pytest.raises(DatumwiseError, match="drop_ratio is 0: choose a share above 0, below 1"):
        balanced_subnet(model, memorised, clean, 0, layers="0")
    with pytest.raises(DatumwiseError, match=r"epochs=0, batch_size=32, lr=0\.1: choose"):
        balanced_subnet(model, memorised, clean, epochs=0, layers="0")
    with pytest.raises(UnknownName, match="there is no variant 'official': choose mean or published"):
        balanced_subnet(model, memorised, clean, layers="0", variant="official")
    with pytest.raises(SchemaMismatch, match="memorized is a list: give token ids"):
        balanced_subnet(model, [1], clean, layers="0")
    with pytest.raises(SchemaMismatch, match="memorized and clean are of different kinds"):
        balanced_subnet(model, memorised, {"input_ids": np.zeros((2, 3), dtype=np.int64)}, layers="0")
    with pytest.raises(EmptyData, match="clean has no datapoint"):
        balanced_subnet(model, memorised, (clean[0][:0], clean[1][:0]), layers="0")
    with pytest.raises(UnknownName, match="no layer matches '9'"):
        balanced_subnet(model, memorised, clean, layers="9")
    with pytest.raises(ModelMismatch, match=r"the mask of 0 is \(2, 2\), the model's weight \(32, 16\)"):
        MaskEdit({"0": torch.ones(2, 2, dtype=torch.bool)}).apply(model)
    one_token = {"input_ids": torch.ones(3, 4, dtype=torch.long), "attention_mask": torch.tensor([[1, 0, 0, 0]] * 3)}
    with pytest.raises(EmptyData, match="a datapoint has no target: leave it out"):
        balanced_subnet(tiny_llama(), one_token, {"input_ids": torch.ones(3, 4, dtype=torch.long)}, layers="*.mlp.up_proj")
