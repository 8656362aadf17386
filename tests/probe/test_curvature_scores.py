import numpy as np
import pytest
import torch
from tiny_language_models import tiny_gpt2, tiny_llama
from torch import nn

from datumwise.errors import DatumwiseError, ModelMismatch, NotFinite, UnknownName
from datumwise.probe.curvature_scores import curvature_layers, curvature_scores, fitted
from datumwise.probe.ekfac import fit_eigenvalues
from datumwise.probe.input_curvature import input_curvature
from datumwise.probe.kept_pairs import edit_weight
from datumwise.probe.kfac import KFAC

ALL = ("loss", "flat_share", "removed_energy", "self_influence", "grad_norm", "edit_sensitivity")
MLPS = "mlp.(gate|up|down)_proj"


def tokens(n=9, T=12, seed=0):
    return {"input_ids": torch.randint(0, 256, (n, T), generator=torch.Generator().manual_seed(seed))}


def classifier(seed=0, bias=True):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8, bias=bias), nn.Tanh(), nn.Linear(8, 3, bias=bias)).double()


def labelled(n=40, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 6, generator=g, dtype=torch.float64) * torch.tensor([3.0, 2, 1, 0.5, 0.2, 0.1])
    return x, torch.randint(0, 3, (n,), generator=g)


def hashed(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


# --- against brute force --------------------------------------------------------------------------------


def test_flat_share_is_the_energy_in_the_flattest_directions_of_each_layer_positions_with_a_target_alone():
    model, data = tiny_llama(), tokens()
    kfac = KFAC(model, MLPS).fit(data)
    seen = {}
    hooks = [
        model.get_submodule(name).register_forward_pre_hook(lambda m, x, name=name: seen.update({name: x[0].double()}))
        for name in kfac.factors_
    ]
    with torch.no_grad():
        model(**data)
    for hook in hooks:
        hook.remove()
    shares = []
    for name, factor in kfac.factors_.items():
        a = seen[name][:, :-1]  # the last position has no target
        width = a.shape[2]
        order = torch.argsort(factor.eigenvalues_A)[: round(0.6 * width)]
        flat = (a @ factor.eigenvectors_A[:, order].double()).square().sum((1, 2))
        shares.append(flat / a.square().sum((1, 2)))
    _, found = curvature_scores(model, data, kfac, ["flat_share"])
    assert np.allclose(found["flat_share"], torch.stack(shares).mean(0).numpy(), rtol=1e-4)
    assert len(shares) == 6


@pytest.mark.parametrize("flat", [0.2, 0.5, 0.9])
def test_flat_share_is_the_same_projected_on_the_flat_or_on_the_steep_side(flat):
    model, (x, y) = classifier(), labelled()
    kfac = KFAC(model, ["0"], dtype=torch.float64).fit((x, y))
    _, found = curvature_scores(model, (x, y), kfac, ["flat_share"], flat=flat)
    basis = kfac.factors_["0"].eigenvectors_A[:, 6 - round(flat * 6) :]
    by_hand = (x @ basis).square().sum(1) / x.square().sum(1)
    assert np.allclose(found["flat_share"], by_hand, rtol=1e-10)


def test_flat_share_with_a_bias_counts_the_constant_input():
    model, (x, y) = classifier(), labelled()
    kfac = KFAC(model, ["0"], bias=True, dtype=torch.float64).fit((x, y))
    _, found = curvature_scores(model, (x, y), kfac, ["flat_share"])
    a = torch.cat([x, torch.ones(len(x), 1)], 1)
    by_hand = (a @ kfac.factors_["0"].eigenvectors_A[:, 7 - 4 :]).square().sum(1) / a.square().sum(1)
    assert np.allclose(found["flat_share"], by_hand, rtol=1e-10)


def test_gradient_scores_equal_autograd_and_dense_arithmetic():
    model, data = tiny_llama().double(), tokens(5)
    kfac = KFAC(model, MLPS, dtype=torch.float64).fit(data)
    _, found = curvature_scores(model, data, kfac, ALL, keep_mass=0.8, damping=0.2)
    for n, row in enumerate(data["input_ids"]):
        removed = energy = influence = 0.0
        model.zero_grad()
        loss = model(input_ids=row[None], labels=row[None]).loss
        (loss * (len(row) - 1)).backward()
        for name, factor in kfac.factors_.items():
            U_G, U_A = factor.eigenvectors_G, factor.eigenvectors_A
            products = torch.outer(factor.eigenvalues_G, factor.eigenvalues_A)
            order = products.flatten().sort(descending=True)
            kept = torch.zeros(products.numel(), dtype=torch.bool)
            kept[order.indices[: int((order.values.cumsum(0) < 0.8 * products.sum()).sum()) + 1]] = True
            squares = (U_G.T @ model.get_submodule(name).weight.grad @ U_A).square()
            energy += float(squares.sum())
            removed += float(squares[~kept.view_as(products)].sum())
            influence += float((squares / (products + 0.2 * products.mean())).sum())
        assert found["loss"][n] == pytest.approx(float(loss.detach()), rel=1e-6)
        assert found["grad_norm"][n] == pytest.approx(energy**0.5, rel=1e-6)
        assert found["removed_energy"][n] == pytest.approx(removed / energy, rel=1e-6)
        assert found["self_influence"][n] == pytest.approx(influence, rel=1e-6)


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_edit_sensitivity_is_the_loss_a_token_with_the_edited_weights_less_that_without(make):
    model, data = make(), tokens()
    kfac = KFAC(model, "mlp.(gate_proj|up_proj|c_fc)").fit(data)
    _, found = curvature_scores(model, data, kfac, ["loss", "edit_sensitivity"], keep_mass=0.7)
    before = hashed(model)
    edited = make()
    for name, factor in kfac.factors_.items():
        own = edited.get_submodule(name).weight
        W = own.detach().T if make is tiny_gpt2 else own.detach()
        W = edit_weight(W, factor.A, factor.G, 0.7)
        own.data = W.T.contiguous() if make is tiny_gpt2 else W
    losses = [
        [float(m(input_ids=row[None], labels=row[None]).loss.detach()) for row in data["input_ids"]] for m in (model, edited)
    ]
    assert np.allclose(found["loss"], losses[0], rtol=1e-4)
    assert np.allclose(found["edit_sensitivity"], np.subtract(losses[1], losses[0]), atol=2e-4)
    assert np.abs(found["edit_sensitivity"]).max() > 0.02
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_another_edit_may_be_given():
    from datumwise.forget.curvature_edit import CurvatureEdit

    model, data = tiny_llama(), tokens()
    kfac = KFAC(model, MLPS).fit(data)
    _, own = curvature_scores(model, data, kfac, ["edit_sensitivity"], keep_mass=0.8)
    _, given = curvature_scores(model, data, kfac, ["edit_sensitivity"], edit=CurvatureEdit(kfac, 0.8))
    assert np.allclose(own["edit_sensitivity"], given["edit_sensitivity"], atol=1e-5)


def test_self_influence_with_much_damping_is_proportional_to_the_squared_gradient_norm():
    model, data = classifier(), labelled()
    kfac = KFAC(model, dtype=torch.float64).fit(data)
    _, found = curvature_scores(model, data, kfac, ["self_influence", "grad_norm"], damping=1e9)
    means = [f.eigenvalues("kfac").mean() for f in kfac.factors_.values()]
    assert means[0] != means[1]
    one = KFAC(model, ["2"], dtype=torch.float64).fit(data)
    _, found = curvature_scores(model, data, one, ["self_influence", "grad_norm"], damping=1e9)
    ratio = found["self_influence"] / found["grad_norm"] ** 2
    assert np.allclose(ratio, ratio[0], rtol=1e-6)


def test_self_influence_equals_a_dense_solve_with_the_kronecker_fisher():
    model, (x, y) = classifier(), labelled()
    kfac = KFAC(model, ["2"], dtype=torch.float64).fit((x, y))
    _, found = curvature_scores(model, (x, y), kfac, ["self_influence"], damping=1e-3)
    factor = kfac.factors_["2"]
    F = torch.kron(factor.G, factor.A)
    F = F + 1e-3 * F.trace() / len(F) * torch.eye(len(F), dtype=F.dtype)
    for n in range(5):
        model.zero_grad()
        nn.functional.cross_entropy(model(x[n : n + 1]), y[n : n + 1]).backward()
        g = model[2].weight.grad.flatten()
        assert found["self_influence"][n] == pytest.approx(float(g @ torch.linalg.solve(F, g)), rel=1e-8)


def test_corrected_eigenvalues_are_used_when_asked_for():
    model, data = tiny_llama().double(), tokens()
    kfac = fit_eigenvalues(KFAC(model, MLPS, dtype=torch.float64).fit(data), data)
    _, plain = curvature_scores(model, data, kfac, ["self_influence"])
    _, found = curvature_scores(model, data, kfac, ["self_influence"], eigenvalues="ekfac")
    assert not np.allclose(plain["self_influence"], found["self_influence"], rtol=0.1)
    assert np.allclose(found["self_influence"], kfac_self_influence(model, data, kfac), rtol=1e-8)


def kfac_self_influence(model, data, kfac):
    from datumwise.probe.ekfac import self_influence

    return self_influence(model, data, kfac=kfac, eigenvalues="ekfac")


# --- invariances ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_and_batch_size_change_no_score(side):
    model, data = tiny_llama(), tokens()
    kfac = KFAC(model, MLPS).fit(data)
    _, whole = curvature_scores(model, data, kfac, ALL)
    ids = data["input_ids"]
    padded = torch.full((9, 17), 259)
    mask = torch.zeros(9, 17, dtype=torch.int64)
    at = slice(5, 17) if side == "left" else slice(0, 12)
    padded[:, at], mask[:, at] = ids, 1
    batches = {"input_ids": padded, "attention_mask": mask}
    _, found = curvature_scores(model, batches, kfac, ALL, batch_size=4)
    for name in ALL:
        assert np.allclose(found[name], whole[name], rtol=2e-3, atol=1e-4), name


def test_rotating_the_inputs_of_a_layer_leaves_its_scores():
    model, (x, y) = classifier(), labelled()
    R = torch.linalg.qr(torch.randn(6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(5)))[0]
    turned = classifier()
    turned[0].weight.data = model[0].weight.data @ R.T
    for m, inputs in ((model, x), (turned, x @ R.T)):
        kfac = KFAC(m, ["0"], dtype=torch.float64).fit((inputs, y))
        _, scores = curvature_scores(m, (inputs, y), kfac, ALL, keep_mass=0.9)
        if m is model:
            first = scores
    for name in ALL:
        assert np.allclose(first[name], scores[name], rtol=1e-6, atol=1e-9), name


def test_scaling_the_factors_leaves_all_but_self_influence():
    model, data = classifier(), labelled()
    kfac = KFAC(model, dtype=torch.float64).fit(data)
    scaled = KFAC.from_factors(
        {n: (3 * f.A, 0.2 * f.G) for n, f in kfac.factors_.items()}, 40, model=model, dtype=torch.float64
    )
    _, one = curvature_scores(model, data, kfac, ALL)
    _, other = curvature_scores(model, data, scaled, ALL)
    for name in ALL:
        factor = 1 / (3 * 0.2) if name == "self_influence" else 1
        assert np.allclose(other[name], factor * one[name], rtol=1e-8, atol=1e-12), name


def test_a_convolution_is_read_patch_by_patch():
    torch.manual_seed(0)
    conv = nn.Sequential(nn.Conv2d(1, 4, 3, stride=3), nn.Flatten(), nn.Linear(36, 2)).double()
    x, y = torch.randn(12, 1, 9, 9, dtype=torch.float64), torch.randint(0, 2, (12,))
    kfac = KFAC(conv, ["0"], dtype=torch.float64).fit((x, y))
    _, found = curvature_scores(conv, (x, y), kfac, ALL)
    a = x.unfold(2, 3, 3).unfold(3, 3, 3).reshape(12, 9, 9)  # image, patch, pixel
    basis = kfac.factors_["0"].eigenvectors_A[:, 9 - 5 :]
    assert np.allclose(found["flat_share"], (a @ basis).square().sum((1, 2)) / a.square().sum((1, 2)), rtol=1e-10)


def test_every_request_gives_the_same_columns_as_all_together():
    model, data = tiny_llama(), tokens()
    kfac = KFAC(model, MLPS).fit(data)
    _, together = curvature_scores(model, data, kfac, ALL)
    for name in ALL:
        _, alone = curvature_scores(model, data, kfac, [name])
        assert np.allclose(alone[name], together[name], rtol=1e-4, atol=1e-6), name


def test_the_edited_forward_is_not_listened_to():
    model, data = tiny_llama(), tokens()
    kfac = KFAC(model, MLPS).fit(data)
    _, alone = curvature_scores(model, data, kfac, ["flat_share"], batch_size=3)
    _, beside = curvature_scores(model, data, kfac, ["flat_share", "edit_sensitivity"], keep_mass=0.1, batch_size=3)
    assert beside["flat_share"].tolist() == alone["flat_share"].tolist()


def test_the_model_is_as_it_was_also_after_an_error():
    model, data = tiny_llama(), tokens()
    kfac = KFAC(model, MLPS).fit(data)
    model.train()
    model.model.norm.weight.requires_grad_(False)
    before, state = hashed(model), torch.random.get_rng_state()
    curvature_scores(model, data, kfac, (*ALL, "input_curvature"), draws=1)
    with pytest.raises(ZeroDivisionError):
        curvature_scores(model, data, kfac, ALL, loss_fn=lambda m, b: 1 / 0)
    assert model.training
    assert not model.model.norm.weight.requires_grad
    assert model.model.embed_tokens.weight.requires_grad
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


# --- the input ------------------------------------------------------------------------------------------


def test_input_curvature_of_a_quadratic_is_the_squared_norm_of_its_hessian():
    H = torch.randn(4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    H = H + H.T
    model = nn.Linear(4, 1, bias=False).double()  # only to have parameters
    x = torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def loss(m, batch):
        return (batch[0] @ H * batch[0]).sum(1) / 2 + 0 * m(batch[0])[:, 0]

    draws = 3000
    found = input_curvature(model, (x, torch.zeros(3)), loss_fn=loss, draws=draws)
    # |H v|^2 with v Rademacher: mean tr H^2, variance 2 sum over i != j of (H^2)_ij^2
    square = H @ H
    spread = (2 * (square.square().sum() - square.diagonal().square().sum()) / draws) ** 0.5
    assert np.abs(found - float(square.trace())).max() < 4 * float(spread)


def test_input_curvature_of_text_is_in_its_embedding_and_does_not_depend_on_batch_or_padding():
    model, data = tiny_llama().double(), tokens(4)
    ids = data["input_ids"]
    found = input_curvature(model, data, draws=2, step=1e-4, batch_size=3)
    padded = torch.full((4, 15), 259)
    padded[:, :12] = ids
    mask = (torch.arange(15) < 12).long().expand(4, 15)
    again = input_curvature(model, {"input_ids": padded, "attention_mask": mask}, draws=2, step=1e-4)
    assert found.min() > 0
    # other places draw other signs under the same id: only the unpadded ones matter, and they come first
    assert np.allclose(again, found, rtol=1e-6)
    embedded = model.model.embed_tokens(ids).detach()

    def as_inputs(m, batch):
        logits = m(inputs_embeds=batch[0], use_cache=False).logits[:, :-1]
        return nn.functional.cross_entropy(logits.transpose(1, 2), batch[1][:, 1:], reduction="none").sum(1)

    given = input_curvature(model, (embedded, ids), loss_fn=as_inputs, draws=2, step=1e-4)
    assert np.allclose(given, found, rtol=1e-6)


def test_input_curvature_refuses_half_precision_and_data_without_numbers():
    model = classifier()
    with pytest.raises(ModelMismatch, match="drown in half precision"):
        input_curvature(classifier().bfloat16(), labelled())
    with pytest.raises(ModelMismatch, match="no real-valued input"):
        input_curvature(model, (torch.zeros(2, 6, dtype=torch.int64), torch.zeros(2)))
    with pytest.raises(DatumwiseError, match="step is 0 and draws is 10"):
        input_curvature(model, labelled(), step=0)
    x, y = labelled(3)
    x[1] = torch.nan
    with pytest.raises(NotFinite, match="the loss of b is not finite"):
        input_curvature(model, (x, y), ids=["a", "b", "c"])


# --- which layers, and refusals -------------------------------------------------------------------------


def test_default_layers_are_the_widening_ones_at_60_to_80_percent_of_the_depth():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=40, hidden_size=8, intermediate_size=16, num_hidden_layers=10, num_attention_heads=2, num_key_value_heads=2
    )
    names = curvature_layers(LlamaForCausalLM(config))
    assert names == [f"model.layers.{i}.mlp.{side}_proj" for i in (6, 7) for side in ("gate", "up")]
    assert curvature_layers(tiny_llama()) == ["model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"]
    assert curvature_layers(tiny_gpt2()) == ["transformer.h.1.mlp.c_fc"]
    assert curvature_layers(classifier()) == ["0"]
    assert curvature_layers(nn.Linear(2, 2)) == [""]


def test_factors_are_fitted_on_those_layers_by_default():
    model, data = tiny_llama(), tokens(30)
    assert list(fitted(model, data).factors_) == curvature_layers(model)
    corrected = fitted(model, data, ekfac=True, modules=["layers.0.mlp.gate_proj"])
    assert corrected.factors_["model.layers.0.mlp.gate_proj"].corrected is not None


def test_bad_requests_are_refused_in_one_sentence():
    model, data = classifier(), labelled()
    kfac = KFAC(model, dtype=torch.float64).fit(data)
    with pytest.raises(UnknownName, match="no curvature score 'flatness'"):
        curvature_scores(model, data, kfac, ["flatness"])
    with pytest.raises(DatumwiseError, match=r"keep_mass is 1\.5: choose a share above 0, at most 1"):
        curvature_scores(model, data, kfac, ["removed_energy"], keep_mass=1.5)
    with pytest.raises(DatumwiseError, match="a share of 1 of the directions cannot be flat"):
        curvature_scores(model, data, kfac, ["flat_share"], flat=1)
    biased = KFAC(model, bias=True, dtype=torch.float64).fit(data)
    with pytest.raises(ModelMismatch, match="an edit is of weights alone, and these factors count the bias"):
        curvature_scores(model, data, biased, ["edit_sensitivity"])
    with pytest.raises(ModelMismatch, match="has no Linear layer or convolution"):
        curvature_layers(nn.LayerNorm(3))
    with pytest.raises(ModelMismatch, match="have no EK-FAC eigenvalues yet"):
        curvature_scores(model, data, kfac, ["self_influence"], eigenvalues="ekfac")


def test_progress_counts_the_input_pass_too():
    model, data = classifier(), labelled(20)
    kfac = KFAC(model, dtype=torch.float64).fit(data)
    told = []
    curvature_scores(
        model, data, kfac, ["loss", "input_curvature"], draws=1, batch_size=7, progress=lambda d, t: told.append((d, t))
    )
    assert told == [(7, 40), (14, 40), (20, 40), (27, 40), (34, 40), (40, 40)]
