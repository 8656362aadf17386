"""Newton removal and synaptic dampening: against retraining, closed forms and a loop over datapoints."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tiny_language_models import tiny_gpt2, tiny_llama
from torch import nn

from datumwise.errors import DatumwiseError, EmptyData, ModelMismatch, UnknownName
from datumwise.forget.fisher_diagonal import fisher_diagonal, mean_gradient
from datumwise.forget.linear_removal import remove_from_logistic
from datumwise.forget.module_data import module_data
from datumwise.forget.newton import newton_removal
from datumwise.forget.synaptic_dampening import dampened, importance, ssd
from datumwise.probe.kfac import KFAC


def half_squares(model, batch):
    return 0.5 * (model(batch[0]) - batch[1]).square().sum(1)


def ridge(x, y, penalty):
    model = nn.Linear(x.shape[1], y.shape[1], bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.linalg.solve(x.T @ x + penalty * torch.eye(x.shape[1]).double(), x.T @ y).T)
    return model


def regression(n=80, d=6, targets=2, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g, dtype=torch.float64)
    return x, x @ torch.randn(d, targets, generator=g, dtype=torch.float64) + torch.randn(n, targets, generator=g).double()


def logistic(n=2000, d=6, seed=0):
    """A fitted logistic regression as a module of two logits, its data, and the scikit-learn model."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d))
    y = (x[:, 0] + rng.normal(size=n) > 0).astype(int)
    fitted = LogisticRegression(tol=1e-12, max_iter=5000, fit_intercept=False).fit(x, y)
    module = Binary(torch.from_numpy(fitted.coef_[0]))
    return module, (torch.from_numpy(x), torch.from_numpy(y)), fitted


class Binary(nn.Module):
    """One row of weights, as scikit-learn's: logits (0, w x)."""

    def __init__(self, w):
        super().__init__()
        self.linear = nn.Linear(len(w), 1, bias=False).double()
        with torch.no_grad():
            self.linear.weight.copy_(w[None])

    def forward(self, x):
        z = self.linear(x)
        return torch.cat([torch.zeros_like(z), z], 1)


def mixed_net(seed=0):
    """Every reader: convolution, norms, embedding-free, biases, a matrix used at several positions."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.Tanh(), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(48, 5), nn.LayerNorm(5), nn.Tanh(),
        nn.Linear(5, 3),
    ).double().eval()  # fmt: skip


def images(n=14, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 6, 6, generator=g, dtype=torch.float64), torch.randint(3, (n,), generator=g)


# --- Newton -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [7, 100])
def test_a_ridge_module_equals_retraining_to_1e8_with_its_penalty_kept(batch_size):
    x, y = regression()
    model, anew = ridge(x, y, 0.7), ridge(x[11:], y[11:], 0.7)
    before = copy.deepcopy(model)
    how = {"damping": 0, "penalty": 0.7, "loss_fn": half_squares, "batch_size": batch_size, "tol": 1e-13}
    found = newton_removal(model, (x[:11], y[:11]), (x[11:], y[11:]), **how)
    assert torch.allclose(found.model.weight, anew.weight, atol=1e-8, rtol=0)
    assert torch.equal(model.weight, before.weight)
    assert found.moved == pytest.approx(float((anew.weight - model.weight).detach().norm()))
    wrong = newton_removal(model, (x[:11], y[:11]), (x[11:], y[11:]), damping=0.7, loss_fn=half_squares)  # not lam / |R|
    assert not torch.allclose(wrong.model.weight, anew.weight, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_logistic_regression_of_2000_rows_is_within_five_percent_and_equals_the_linear_core(seed):
    module, (x, y), fitted = logistic(seed=seed)
    found = newton_removal(module, (x[:20], y[:20]), (x[20:], y[20:]), damping=0, penalty=1.0, batch_size=500, tol=1e-12)
    core = remove_from_logistic(fitted, x.numpy(), y.numpy(), range(20))
    moved = found.model.linear.weight[0].detach().numpy()
    assert np.allclose(moved, core.coef_[0], atol=1e-6)
    anew = LogisticRegression(tol=1e-12, max_iter=5000, fit_intercept=False).fit(x[20:], y[20:]).coef_[0]
    assert np.linalg.norm(moved - anew) < 0.05 * np.linalg.norm(anew - fitted.coef_[0])


def test_a_sample_of_what_is_retained_does_when_its_number_is_told():
    x, y = regression(n=4000)
    model, anew = ridge(x, y, 1.0), ridge(x[40:], y[40:], 1.0)
    few = newton_removal(
        model, (x[:40], y[:40]), (x[40:1040], y[40:1040]), damping=0, penalty=1, n_retain=3960, loss_fn=half_squares
    )
    off = (few.model.weight - anew.weight).norm() / (model.weight - anew.weight).norm()
    assert off < 0.15


def test_kfac_of_one_linear_layer_with_one_position_is_the_damped_fisher_step():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    x, y = torch.randn(200, 4).double(), torch.randint(3, (200,))
    parts = ((x[:10], y[:10]), (x[10:], y[10:]))
    kfac = KFAC(model, labels="gold", bias=True, dtype=torch.float64).fit(parts[1])
    found = newton_removal(model, *parts, curvature="kfac", damping=0.05, kfac=kfac)
    factor = kfac.factors_[""]
    p = torch.softmax(model(x[:10]), 1).detach()
    p[torch.arange(10), y[:10]] -= 1
    inputs = torch.cat([x[:10], torch.ones(10, 1).double()], 1)
    g = p.T @ inputs / 10 * (10 / 190)
    whole = torch.kron(factor.G, factor.A) + 0.05 * torch.eye(15).double()
    step = torch.linalg.solve(whole, g.reshape(-1)).reshape(3, 5)
    assert torch.allclose(found.model.weight - model.weight, step[:, :4], atol=1e-8)
    assert torch.allclose(found.model.bias - model.bias, step[:, 4], atol=1e-8)


@pytest.mark.filterwarnings("ignore:rank deficient")
def test_kfac_of_a_language_model_counts_the_positions_of_a_text():
    model = tiny_llama(scale=1.0)
    g = torch.Generator().manual_seed(0)
    batches = [{"input_ids": (ids := torch.randint(0, 256, (2, 9), generator=g)), "labels": ids} for _ in range(3)]
    name = "model.layers.0.mlp.up_proj"
    kfac = KFAC(model, modules=[name]).fit(batches[1:])
    found = newton_removal(model, batches[:1], batches[1:], curvature="kfac", damping=0.5, kfac=kfac)
    pull = mean_gradient(model, module_data(batches[:1], model, "forget"))[f"{name}.weight"] * 2 / 4
    factor = kfac.factors_[name]
    whole = 8 * torch.kron(factor.G.double(), factor.A.double()) + 0.5 * torch.eye(48 * 32).double()
    step = torch.linalg.solve(whole, pull.reshape(-1)).reshape(48, 32)
    weight = dict(model.named_parameters())[f"{name}.weight"]
    assert torch.allclose(
        (dict(found.model.named_parameters())[f"{name}.weight"] - weight).double(), step, rtol=1e-2, atol=1e-6
    )
    assert "lm_head.weight" in found.untouched


@pytest.mark.parametrize("curvature", ["hessian", "diagonal", "kfac"])
def test_the_step_raises_the_loss_of_what_is_forgotten(curvature):
    module, (x, y), _ = logistic(400)
    found = newton_removal(module, (x[:30], y[:30]), (x[30:], y[30:]), curvature=curvature, damping=0.05)
    loss = [nn.functional.cross_entropy(m(x[:30]), y[:30]) for m in (module, found.model)]
    assert loss[1] > loss[0]
    assert found.untouched == ()


def test_the_diagonal_step_is_gradient_over_mean_square():
    model, (x, y) = mixed_net(), images()
    found = newton_removal(model, (x[:4], y[:4]), (x[4:], y[4:]), curvature="diagonal", damping=0.3, penalty=2.0)
    losses = [nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]) for i in range(14)]
    grads = [torch.autograd.grad(loss, list(model.parameters())) for loss in losses]
    for at, (a, b) in enumerate(zip(model.parameters(), found.model.parameters(), strict=True)):
        pull = torch.stack([g[at] for g in grads[:4]]).mean(0) * 4 / 10
        bend = torch.stack([g[at] for g in grads[4:]]).square().mean(0)
        assert torch.allclose(b - a, pull / (bend + 0.3 + 0.2), atol=1e-10)


@pytest.mark.filterwarnings("ignore:rank deficient")
@pytest.mark.parametrize("curvature", ["hessian", "kfac", "diagonal"])
def test_language_models_move_by_every_curvature(curvature):
    model = tiny_gpt2(scale=1.0) if curvature != "diagonal" else tiny_llama(scale=1.0)
    g = torch.Generator().manual_seed(0)
    batches = [{"input_ids": (ids := torch.randint(0, 256, (2, 9), generator=g)), "labels": ids} for _ in range(3)]
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    found = newton_removal(model, batches[:1], batches[1:], curvature=curvature, damping=300.0, max_iterations=3)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert found.moved > 0
    with torch.no_grad():
        loss = [m(**{k: batches[0][k] for k in ("input_ids", "labels")}).loss for m in (model, found.model)]
    assert loss[1] > loss[0]
    assert found.iterations == (3 if curvature == "hessian" else 0)


def test_in_place_moves_the_model_itself_and_the_step_scales():
    module, (x, y), _ = logistic(300)
    parts, start = ((x[:9], y[:9]), (x[9:], y[9:])), module.linear.weight.detach().clone()
    whole = newton_removal(module, *parts, damping=0.1).model.linear.weight - start
    half = newton_removal(module, *parts, damping=0.1, scale=0.5).model.linear.weight - start
    assert torch.allclose(half * 2, whole)
    assert newton_removal(module, *parts, damping=0.1, inplace=True).model is module
    assert torch.allclose(module.linear.weight - start, whole)


def test_bad_newton_input_is_refused_in_a_sentence():
    module, (x, y), _ = logistic(100)
    with pytest.raises(UnknownName, match="no curvature 'lbfgs': choose hessian, diagonal, kfac"):
        newton_removal(module, (x[:5], y[:5]), (x[5:], y[5:]), curvature="lbfgs", damping=0)
    with pytest.raises(DatumwiseError, match="damping is -1"):
        newton_removal(module, (x[:5], y[:5]), (x[5:], y[5:]), damping=-1)
    with pytest.raises(EmptyData, match="retain has no datapoint"):
        newton_removal(module, (x[:5], y[:5]), None, damping=0)
    with pytest.raises(EmptyData, match="forget has no datapoint"):
        newton_removal(module, [], (x[5:], y[5:]), damping=0)
    with pytest.raises(DatumwiseError, match="n_retain is 0"):
        newton_removal(module, (x[:5], y[:5]), (x[5:], y[5:]), damping=0, n_retain=0)

    def saddle(model, batch):
        return -model(batch[0])[:, 1].square()

    with pytest.raises(ModelMismatch, match=r"bends down along a direction .* take more damping"):
        newton_removal(module, (x[:5], y[:5]), (x[5:], y[5:]), damping=0, loss_fn=saddle)
    assert all(p.requires_grad for p in module.parameters())


# --- squared gradients and dampening ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 5, 14])
def test_importance_is_the_mean_of_squares_of_single_datapoints_whatever_the_batch(batch_size):
    model, (x, y) = mixed_net(), images()
    data = module_data((x, y), model, "the data", batch_size=batch_size)
    squares, mean = fisher_diagonal(model, data), mean_gradient(model, data)
    grads = [
        torch.autograd.grad(nn.functional.cross_entropy(model(x[i : i + 1]), y[i : i + 1]), list(model.parameters()))
        for i in range(14)
    ]
    for at, (name, _) in enumerate(model.named_parameters()):
        each = torch.stack([g[at] for g in grads])
        assert torch.allclose(squares[name], each.square().mean(0), atol=1e-12), name
        assert torch.allclose(mean[name], each.mean(0), atol=1e-12), name


@pytest.mark.parametrize("make", [tiny_gpt2, tiny_llama])
def test_importance_of_language_models_is_that_of_a_loop_over_texts(make):
    model = make(scale=1.0)
    ids = torch.randint(0, 256, (3, 8), generator=torch.Generator().manual_seed(0))
    data = module_data([{"input_ids": ids, "labels": ids}], model, "the data")
    squares = fisher_diagonal(model, data)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row in ids:
        loss = model(row[None], labels=row[None]).loss * 7
        for (name, _), g in zip(model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True):
            total[name] += g.square() / 3
    for name, value in total.items():
        assert torch.allclose(squares[name].float(), value, rtol=1e-3, atol=1e-6), name


def test_dampening_by_hand():
    theta = torch.tensor([2.0, 2.0, 2.0, 2.0, 2.0])
    of_forget = torch.tensor([0.0, 10.0, 10.5, 100.0, 3.0])
    of_all = torch.tensor([1.0, 1.0, 1.0, 1.0, 0.0])
    assert dampened(theta, of_forget, of_all).tolist() == pytest.approx([2.0, 2.0, 2 / 10.5, 0.02, 0.0])
    assert dampened(theta, of_forget, of_all, select=1, lam=50).tolist() == pytest.approx([2.0, 2.0, 2.0, 1.0, 0.0])


def test_no_importance_to_what_is_forgotten_changes_no_bit():
    torch.manual_seed(0)
    model = nn.Linear(4, 2, bias=False)
    x, y = torch.randn(20, 4), torch.randint(2, (20,))
    x[:5] = 0  # the forgotten datapoints reach no weight
    found = ssd(model, (x[:5], y[:5]), (x[5:], y[5:]))
    assert torch.equal(found.model.weight, model.weight)
    assert (found.damped, found.share) == ({}, 0.0)
    assert found.model is not model


def test_dampening_follows_the_formula_with_the_importance_of_both_together():
    model, (x, y) = mixed_net(), images()
    found = ssd(model, (x[:4], y[:4]), (x[4:], y[4:]), select=1.3, lam=0.7)
    of_forget, of_all = importance(model, (x[:4], y[:4])), importance(model, (x, y))
    chosen = 0
    for name, p in model.named_parameters():
        take = of_forget[name] > 1.3 * of_all[name]
        factor = (0.7 * of_all[name] / of_forget[name]).clamp_max(1)
        assert torch.allclose(dict(found.model.named_parameters())[name], torch.where(take, p * factor, p), atol=1e-12)
        assert found.damped.get(name, 0) == int(take.sum())
        chosen += int(take.sum())
    assert chosen > 0
    assert found.share == pytest.approx(chosen / sum(p.numel() for p in model.parameters()))
    known = ssd(model, (x[:4], y[:4]), None, importance_all=of_all, select=1.3, lam=0.7)
    assert all(torch.allclose(a, b) for a, b in zip(known.model.parameters(), found.model.parameters(), strict=True))


def test_bad_ssd_input_is_refused_in_a_sentence():
    model, (x, y) = mixed_net(), images()
    with pytest.raises(DatumwiseError, match="select is 0"):
        ssd(model, (x[:4], y[:4]), (x[4:], y[4:]), select=0)
    with pytest.raises(EmptyData, match="retain has no datapoint"):
        ssd(model, (x[:4], y[:4]), None)
    with pytest.raises(ModelMismatch, match="importance_all has no parameter"):
        ssd(model, (x[:4], y[:4]), None, importance_all={})
