"""Any module with a loss forgets: what each method minimises, what comes back as it was, and a classifier end to end."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from datumwise.errors import (
    DatumwiseError,
    DuplicateId,
    EmptyData,
    MissingId,
    ModelMismatch,
    NotFinite,
    SchemaMismatch,
    UnknownName,
)
from datumwise.evaluate.forget_quality import forget_quality
from datumwise.forget.module_data import module_data
from datumwise.forget.module_losses import MODULE_LOSSES, prepared
from datumwise.forget.modules import MODULE_METHODS, datapoint_loss_values, unlearn_module
from datumwise.forget.retrain import trained_module

GRADIENT = tuple(MODULE_LOSSES)


def net(seed=0, width=64):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(20, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, 3))


def rows(n=300, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 20, generator=g)
    return x, (x[:, :3] + 0.7 * torch.randn(n, 3, generator=g)).argmax(1)


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def parts(n_forget=40):
    x, y = rows()
    return (x[:n_forget], y[:n_forget]), (x[n_forget:], y[n_forget:])


def options(method):
    if method == "retrain":
        return {"initial": net(9)}
    return {"newton": {"damping": 5.0}, "ssd": {"select": 1.1}}.get(method, {})


@pytest.mark.parametrize("method", MODULE_METHODS)
def test_every_method_leaves_the_model_and_all_its_states_alone_and_repeats(method):
    model = net().train()
    model[0].weight.grad = torch.ones_like(model[0].weight)
    chosen = options(method)
    before, state = copy.deepcopy(model), torch.get_rng_state()
    a, b = (unlearn_module(model, *parts(), method=method, epochs=2, **chosen) for _ in range(2))
    assert same(model, before)
    assert same(a.model, b.model)
    assert not same(a.model, before)
    assert model.training
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert torch.equal(torch.get_rng_state(), state)
    assert (a.per_datapoint_loss == b.per_datapoint_loss).all()
    assert len(a.ids) == len(a.per_datapoint_loss) == 40
    after = datapoint_loss_values(a.model, module_data(parts()[0], model, "forget"))
    assert np.allclose(a.per_datapoint_loss[:, -1], after, atol=1e-6)


@pytest.mark.parametrize("method", ["ga", "grad_diff", "npo", "ssd", "newton", "retrain", "task_vector"])
def test_in_place_changes_the_model_itself_as_a_copy_would_be(method):
    apart = unlearn_module(net(), *parts(), method=method, epochs=2, **options(method)).model
    model = net()
    found = unlearn_module(model, *parts(), method=method, epochs=2, inplace=True, **options(method))
    assert found.model is model
    assert same(model, apart)
    assert all(p.requires_grad for p in model.parameters())


def test_no_epochs_change_no_bit():
    found = unlearn_module(net(), *parts(), epochs=0)
    assert same(found.model, net())
    assert found.per_datapoint_loss.shape == (40, 1)


def test_another_seed_gives_another_order():
    a, b = (unlearn_module(net(), *parts(), method="ga", random_state=seed).model for seed in (0, 1))
    assert not same(a, b)


def value_of(method, model, batch, state_rows=None, **chosen):
    entry = MODULE_LOSSES[method]
    data = module_data(batch, model, "forget")
    before = datapoint_loss_values(model, data)
    state = prepared(entry, model, data, None, before, 0)
    at = np.arange(len(data))
    return entry.loss(model, batch, data.ids, at, state, dict(entry.defaults) | chosen, None), state


def test_losses_are_those_of_their_formulas():
    model, batch = net().eval(), parts()[0]
    losses = nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")
    p = torch.softmax(model(batch[0]), 1)
    assert float(value_of("ga", model, batch)[0]) == pytest.approx(-float(losses.mean()))
    assert float(value_of("npo", model, batch, beta=0.5)[0]) == pytest.approx(4 * np.log(2))
    assert float(value_of("uniform", model, batch)[0]) == pytest.approx(float((-p.log().mean(1)).mean() - np.log(3)), abs=1e-6)
    value, other = value_of("random_labels", model, batch)
    assert (other != batch[1]).all()
    assert set(((other - batch[1]) % 3).tolist()) == {1, 2}
    assert float(value) == pytest.approx(float(-p[torch.arange(40), other].log().mean()), abs=1e-6)


def test_gradient_of_npo_at_the_start_is_that_of_gradient_ascent():
    model, batch = net().eval(), parts()[0]
    a, b = (torch.autograd.grad(value_of(m, model, batch)[0], list(model.parameters())) for m in ("ga", "npo"))
    assert all(torch.allclose(p, q, atol=1e-6) for p, q in zip(a, b, strict=True))


def test_one_step_of_grad_diff_is_adamw_on_the_weighted_losses():
    model, (forget, retain) = net(), parts()
    found = unlearn_module(
        model, forget, retain, method="grad_diff", epochs=1, batch_size=300, alpha=3.0, gamma=0.5, lr=0.01, max_grad_norm=None
    )
    by_hand = copy.deepcopy(model).eval()
    optimiser = torch.optim.AdamW(by_hand.parameters(), lr=0.01, weight_decay=0)
    loss = 3 * nn.functional.cross_entropy(by_hand(retain[0]), retain[1])
    (loss - 0.5 * nn.functional.cross_entropy(by_hand(forget[0]), forget[1])).backward()
    optimiser.step()
    for a, b in zip(found.model.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert found.history[0]["gradient"] > 0


def test_batch_norm_keeps_the_statistics_from_before():
    model = nn.Sequential(nn.Linear(20, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)).train()
    found = unlearn_module(model, *parts(), method="ga", epochs=1)
    assert torch.equal(found.model[1].running_mean, model[1].running_mean)
    assert not torch.equal(found.model[0].weight, model[0].weight)


def test_a_regression_forgets_with_a_loss_of_its_own():
    x, _ = rows()
    y = x[:, :1] * 2

    def squares(model, batch):
        return (model(batch[0]) - batch[1]).square().sum(1)

    torch.manual_seed(0)
    fitted = trained_module(nn.Linear(20, 1), (x, y), loss_fn=squares, lr=0.05, epochs=20)
    for method in ("grad_diff", "npo", "newton"):
        found = unlearn_module(fitted, (x[:9], y[:9] + 5), (x[9:], y[9:]), method=method, loss_fn=squares, lr=0.02, epochs=4)
        assert found.per_datapoint_loss[:, -1].mean() > found.per_datapoint_loss[:, 0].mean()
    with pytest.raises(ModelMismatch, match="give losses="):
        unlearn_module(fitted, (x[:9], y[:9]), (x[9:], y[9:]))


def test_stop_ends_the_run_after_the_epoch_it_says():
    asked = []

    def stop(model, epoch):
        asked.append(epoch)
        return epoch == 2

    found = unlearn_module(net(), *parts(), epochs=5, stop=stop)
    assert (found.stopped_epoch, found.stopped, asked) == (2, True, [1, 2])
    assert found.per_datapoint_loss.shape == (40, 3)


def test_progress_counts_steps_and_batches_of_any_kind_do():
    (x, y), retain = parts()
    seen = []
    a = unlearn_module(net(), (x, y), retain, batch_size=16, epochs=2, progress=lambda *at: seen.append(at))
    assert seen == [(k, 6) for k in range(1, 7)]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), batch_size=16)
    b = unlearn_module(net(), loader, retain, batch_size=16, epochs=1)
    c = unlearn_module(net(), iter([(x, y)]), retain, method="newton", damping=5.0)  # an iterator is read once
    assert len(b.ids) == len(c.ids) == len(a.ids)
    assert unlearn_module(net(), (x.numpy(), y.numpy()), retain, epochs=1).stopped_epoch == 1


@pytest.fixture(scope="module")
def memorised():
    """A net that has 60 datapoints with wrong labels by heart, and one trained the same way without them."""
    x, y = rows(700, seed=3)
    given = y.clone()
    given[:60] = (given[:60] + 1) % 3
    how = {"lr": 3e-3, "epochs": 40, "batch_size": 32, "random_state": 0}
    start = net(5, width=128)
    target = trained_module(start, (x[:400], given[:400]), **how)
    anew = trained_module(start, (x[60:400], given[60:400]), **how)
    return x, given, target, anew


@pytest.mark.parametrize(
    ("method", "chosen", "most"),
    [
        ("grad_diff", {"epochs": 20, "gamma": 0.2}, 0.45),
        ("npo", {"epochs": 15, "beta": 1.0}, 0.35),
        ("random_labels", {"epochs": 15}, 0.45),
        ("uniform", {"epochs": 15}, 0.75),
        ("retrain", {"lr": 3e-3, "epochs": 40, "batch_size": 32, "max_grad_norm": None}, 0.3),
    ],
)
def test_a_classifier_no_longer_answers_what_it_had_by_heart_and_still_answers_the_rest(memorised, method, chosen, most):
    x, given, target, anew = memorised
    if method == "retrain":
        chosen = {"initial": net(5, width=128), **chosen}
    how = {"lr": 1e-3, "batch_size": 10, **chosen}
    found = unlearn_module(target, (x[:60], given[:60]), (x[60:400], given[60:400]), method=method, **how)
    with torch.no_grad():
        p = [torch.softmax(model.eval()(x), 1).numpy() for model in (target, found.model, anew)]
    quality = forget_quality(*p, range(60), range(60, 400), range(400, 700), y=given.numpy(), n_bootstrap=300)
    assert quality.row("before").accuracy["forget"].value > 0.95
    assert quality.row("retrained").accuracy["forget"].value < 0.3
    assert quality.row("after").accuracy["forget"].value < most
    assert quality.row("after").accuracy["retain"].value > 0.85
    assert quality.accuracy_gap["test"].value > -0.1
    assert quality.left_over.value < 0.6 * quality.left_over_before.value
    if method == "retrain":
        assert same(found.model, anew)
        assert quality.left_over.value == 0


def test_an_infinite_loss_is_refused_and_the_weights_come_back():
    x, y = rows()
    model = net()
    before = copy.deepcopy(model)
    with pytest.raises(NotFinite, match=r"in epoch \d+ the loss of .* is not finite: take a smaller lr"):
        unlearn_module(model, (x[:40], y[:40]), method="ga", lr=1e30, epochs=9, max_grad_norm=None, inplace=True)
    assert same(model, before)


def test_bad_input_is_refused_in_a_sentence():
    (x, y), retain = parts()
    with pytest.raises(UnknownName, match="no method 'amnesia' for modules: known are fine_tune, ga"):
        unlearn_module(net(), (x, y), retain, method="amnesia")
    with pytest.raises(UnknownName, match="ga has no option beta: it takes none"):
        unlearn_module(net(), (x, y), retain, method="ga", beta=1)
    with pytest.raises(UnknownName, match="newton has no option 'step'"):
        unlearn_module(net(), (x, y), retain, method="newton", step=1)
    with pytest.raises(EmptyData, match="grad_diff needs datapoints that are kept, and retain is None"):
        unlearn_module(net(), (x, y), method="grad_diff")
    with pytest.raises(EmptyData, match="forget has no datapoint"):
        unlearn_module(net(), (x[:0], y[:0]), retain)
    with pytest.raises(SchemaMismatch, match="the columns of forget differ in number"):
        unlearn_module(net(), (x, y[:3]), retain)
    with pytest.raises(MissingId, match="2 ids were given for the 40 datapoints of forget"):
        unlearn_module(net(), (x, y), retain, ids=["a", "b"])
    with pytest.raises(DuplicateId, match="ids of forget occur twice: a"):
        unlearn_module(net(), (x[:2], y[:2]), retain, ids=["a", "a"])
    with pytest.raises(DatumwiseError, match="-1 epochs"):
        unlearn_module(net(), (x, y), retain, epochs=-1)
    with pytest.raises(DatumwiseError, match="needs the module before it was trained"):
        unlearn_module(net(), (x, y), retain, method="retrain")
    with pytest.raises(DatumwiseError, match="no parameter of the model requires a gradient"):
        unlearn_module(net().requires_grad_(False), (x, y), retain)
    with pytest.raises(ModelMismatch, match=r"needs a classifier with logits|one class a datapoint"):
        unlearn_module(net(), (x, y.float()), retain, method="random_labels", loss_fn=lambda m, b: m(b[0]).square().sum(1))
    dicts = [{"x": x, "label": y, "ids": [f"d{i}" for i in range(40)]}]
    assert module_data(dicts, net(), "forget").ids[3] == "d3"
