"""Norms, dots, indices, means: forms agree, objectives agree, shards add up, batches do not matter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from brute import Everything, Seen, Thrice, Tied, class_losses, gradients, norms
from torch import Tensor, nn

from datumwise.errors import ModelMismatch, NotFinite, UnknownName
from datumwise.probe.gradient import Grad
from datumwise.probe.needs import Need
from datumwise.probe.needs.activations import ActivationGram, Activations
from datumwise.probe.needs.dots import GradDot
from datumwise.probe.needs.index import GradIndex, Reduction, reduction
from datumwise.probe.needs.last_layer import LastLayer, pooled
from datumwise.probe.needs.mean_gradient import MeanGradient
from datumwise.probe.needs.norms import GradNorm
from datumwise.probe.torch_pass import TorchPass, choose_form


def sequence_model() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    model = Seen(nn.Linear(5, 6), nn.Tanh(), nn.LayerNorm(6), nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    return model, (torch.randn(9, 4, 5).double(), torch.randint(0, 3, (9,)))


def run(model: nn.Module, batch: Any, needs: list[Need], **options: Any) -> dict[str, Any]:
    with TorchPass(model, needs, **options) as one:
        return one.batch(batch)


def test_factored_ghost_and_materialised_forms_agree() -> None:
    torch.manual_seed(0)
    found: dict[str, list[Tensor]] = {}

    class Forms(Need):
        def layer(self, name: str, grad: Grad) -> None:
            if grad.layer.shape is None:
                return
            V = torch.ones(1, *grad.layer.shape, dtype=torch.float64)
            for form in ("ghost", "materialised"):
                one = grad.rows(slice(0, grad.n))
                one.form = form
                found.setdefault(f"{name} {form}", []).extend([one.norm2(), one.dot(V, {})[:, 0]])

    for model, batch in (
        sequence_model(),
        (nn.Linear(5, 3).double(), (torch.randn(9, 5).double(), torch.ones(9).long())),
    ):
        run(model, batch, [Forms()])
        for key in [k for k in found if k.endswith("ghost")]:
            for a, b in zip(found[key], found[key.replace("ghost", "materialised")], strict=True):
                assert torch.allclose(a, b, rtol=1e-10, atol=1e-14)
        found.clear()


def test_the_form_for_norms_is_the_cheapest() -> None:
    from datumwise.probe.gradient import Layer, Lookup, Outer

    def form(t: int, o: int, i: int) -> str:
        return choose_form(Grad(Layer("l", "linear", shape=(o, i)), 2, [Outer(torch.ones(2, t, i), torch.ones(2, t, o))]))

    assert form(1, 4, 4) == "factored"
    assert form(4, 100, 100) == "ghost"
    assert form(51, 100, 100) == "materialised"
    table = Grad(
        Layer("l", "embedding", shape=(9, 3)),
        2,
        lookups=[Lookup(torch.ones(2, 5).long(), torch.ones(2, 5, 3))],
    )
    assert choose_form(table) == "ghost"


@pytest.mark.parametrize("chunk", [1, 500, 1 << 20])
def test_formed_gradients_in_small_groups_give_the_same(chunk: int) -> None:
    model, batch = sequence_model()
    target = [{"3.weight": torch.randn(8, 6).double()}] * 2
    whole = run(model, batch, [GradNorm(), GradIndex(16), GradDot(target)])
    parts = run(model, batch, [GradNorm(), GradIndex(16), GradDot(target)], chunk_bytes=chunk)
    for name, values in whole.items():
        assert np.allclose(values, parts[name], rtol=1e-10), name


@pytest.mark.parametrize("size", [1, 4, 9])
def test_batch_size_does_not_matter_and_row_order_permutes(size: int) -> None:
    model, (x, y) = sequence_model()
    needs = [GradNorm(), GradIndex(16), GradNorm("sampled", "sampled_norm")]
    ids = np.array([f"id {i}" for i in range(9)])
    with TorchPass(model, needs) as one:
        whole = one.batch((x, y), ids)
        order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
        found: dict[str, list[np.ndarray]] = {}
        for part in order.split(size):
            for name, values in one.batch((x[part], y[part]), ids[part.numpy()]).items():
                found.setdefault(name, []).append(values)
    for name, values in whole.items():
        tolerance = 1e-3 if values.dtype == np.float16 else 1e-10
        assert np.allclose(np.concatenate(found[name]), values[order.numpy()], rtol=tolerance, atol=1e-5), name


def test_several_objectives_on_one_forward_equal_a_pass_each() -> None:
    model, batch = sequence_model()

    def measure(model: nn.Module, batch: Any) -> Tensor:
        return model(batch[0]).gather(1, batch[1][:, None])[:, 0]

    every = [Everything(model, objective) for objective in ("loss", "sampled", "measure")]
    run(model, batch, every, measure=measure)
    for need in every:
        alone = Everything(model, need.objective)
        run(model, batch, [alone], measure=measure)
        for name, g in alone.gradients().items():
            assert torch.allclose(g, need.gradients()[name], rtol=1e-12, atol=1e-15)
    want = gradients(model, measure(model, batch))
    for name, g in every[2].gradients().items():
        assert torch.allclose(g, want[name], atol=1e-12)


def test_one_backward_of_the_log_odds_serves_the_loss_too() -> None:
    for model, batch in (
        sequence_model(),
        (Thrice().double(), (torch.randn(6, 5).double(), torch.randint(0, 3, (6,)))),
    ):
        backwards = 0

        class Counting(Everything):
            def forward(self, forward: Any) -> None:
                forward.log_probs.register_hook(count)

        def count(g: Tensor) -> None:
            nonlocal backwards
            backwards += 1

        loss, odds = Everything(model, "loss"), Counting(model, "measure")
        index, norm = GradIndex(16), GradNorm()
        run(model, batch, [loss, odds, index, norm], measure="log_odds", test=False)
        assert backwards == 1
        p = torch.softmax(model(batch[0]), 1).gather(1, batch[1][:, None])[:, 0]
        exact_loss = gradients(model, class_losses(model, batch))
        exact_odds = gradients(model, torch.log(p / (1 - p)))
        for name, g in exact_loss.items():
            assert torch.allclose(loss.gradients()[name], g, atol=1e-12), name
            assert torch.allclose(odds.gradients()[name], exact_odds[name], atol=1e-11), name
        alone = GradIndex(16)
        run(model, batch, [alone], test=False)
        assert torch.allclose(index.rows(), alone.rows(), atol=1e-12)
        assert np.allclose(norm.end_batch([])["grad_norm"], norms(exact_loss).numpy())


def test_sampled_labels_follow_the_model_and_the_id_alone() -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 4)
    x = torch.randn(1, 3).expand(4000, 3).contiguous()
    drawn: list[np.ndarray] = []

    class Drawn(Need):
        objective = "sampled"

        def forward(self, forward: Any) -> None:
            loss = forward.sampled(7)
            drawn.append((loss.detach()[:, None] + forward.log_probs.detach()).abs().argmin(1).numpy())

    ids = [f"row {i}" for i in range(4000)]
    with TorchPass(model, [Drawn()], test=False) as one:
        one.batch((x, torch.zeros(4000, dtype=torch.long)), ids)
        one.batch((x[:10], torch.zeros(10, dtype=torch.long)), ids[990:1000])
    share = np.bincount(drawn[0], minlength=4) / 4000
    p = torch.softmax(model(x[:1]), 1)[0].detach().numpy()
    assert (abs(share - p) < 4 * np.sqrt(p * (1 - p) / 4000)).all()
    assert (drawn[1] == drawn[0][990:1000]).all()


def test_sampled_tokens_do_not_depend_on_the_side_of_the_padding() -> None:
    torch.manual_seed(0)
    model = Tied().double()
    ids = torch.randint(0, 11, (2, 5))
    right = {"input_ids": torch.cat([ids, torch.zeros(2, 2, dtype=torch.long)], 1)}
    right["attention_mask"] = (torch.arange(7) < 5).long().expand(2, 7)
    norm = GradNorm("sampled")
    short = run(model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, [norm])["grad_norm"]
    assert np.allclose(run(model, right, [norm])["grad_norm"], short)


def test_index_rows_have_length_one_and_keep_cosines() -> None:
    torch.manual_seed(0)
    model = Seen(nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 40), nn.Tanh(), nn.Linear(40, 3))
    batch = (torch.randn(30, 6, 20), torch.randint(0, 3, (30,)))
    found = run(model, batch, [GradIndex(2048)])
    rows, length = found["grad_index"], found["grad_index_norm"]
    assert rows.dtype == np.float16
    assert length.dtype == np.float32
    assert np.allclose(np.linalg.norm(rows.astype(float), axis=1), 1, atol=2e-3)
    exact = torch.cat([g.flatten(1) for g in gradients(model, class_losses(model, batch)).values()], 1)
    assert np.allclose(length, exact.norm(dim=1).numpy(), rtol=0.15)
    exact = F.normalize(exact).numpy()
    error = rows.astype(float) @ rows.astype(float).T - exact @ exact.T
    assert np.sqrt((error[~np.eye(30, dtype=bool)] ** 2).mean()) < 1.3 / 2048**0.5


def test_a_datapoint_without_a_gradient_has_a_zero_row() -> None:
    model = nn.Linear(3, 2)

    def losses(model: nn.Module, batch: Any) -> Tensor:
        return class_losses(model, batch) * torch.tensor([1.0, 0.0])

    found = run(model, (torch.randn(2, 3), torch.tensor([0, 1])), [GradIndex(8)], losses=losses)
    assert found["grad_index_norm"][1] == 0
    assert not found["grad_index"][1].any()


def test_reduction_depends_on_the_shape_alone_and_fits_the_index() -> None:
    assert reduction(256, 256, single=False, length=2048) == Reduction()
    assert reduction(50_000, 768, single=False, length=2048) == Reduction(256, 256)
    assert reduction(256, 256, single=True, length=2048) == Reduction(64, 32)
    assert reduction(10, 256, single=True, length=2048) == Reduction(None, 204)
    assert reduction(10, 20, single=True, length=2048) == Reduction()
    for length in (1, 2, 8, 100, 4096):
        for o, i in ((1, 500), (500, 1), (300, 300)):
            found = reduction(o, i, single=True, length=length)
            assert (found.out or o) * (found.into or i) <= length


def test_inner_products_of_reduced_layers_are_unbiased() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 3)).double()
    batch = (torch.randn(2, 20).double() + 1, torch.tensor([0, 0]))
    exact = torch.cat([g.flatten(1) for g in gradients(model, class_losses(model, batch)).values()], 1)
    found = []
    for seed in range(600):
        index = GradIndex(64, seed)
        run(model, batch, [index], test=seed == 0)
        z = index.rows()
        found.append(float(z[0] @ z[1]))
    assert abs(np.mean(found) - float(exact[0] @ exact[1])) < 4 * np.std(found) / 600**0.5


def test_dots_with_other_datapoints_gradients_are_their_gram_matrix() -> None:
    model, batch = sequence_model()
    grads = gradients(model, class_losses(model, batch))
    flat = torch.cat([g.flatten(1) for g in grads.values()], 1)
    targets = [{name: g[i] for name, g in grads.items()} for i in range(9)]
    gram = run(model, batch, [GradDot(targets)])["grad_dot"]
    assert np.allclose(gram, (flat @ flat.T).numpy(), rtol=1e-10, atol=1e-12)


def test_targets_must_name_captured_parameters_of_the_right_shape() -> None:
    model, batch = sequence_model()
    with pytest.raises(UnknownName, match="not captured, nothing"):
        run(model, batch, [GradDot([{"nothing": torch.ones(1)}])])
    with pytest.raises(ModelMismatch, match=r"target of 0.weight has shape \(2, 2\)"):
        run(model, batch, [GradDot([{"0.weight": torch.ones(2, 2)}])])


def test_mean_gradients_of_shards_merge_to_the_whole() -> None:
    model, (x, y) = sequence_model()
    whole, first, second, restored = MeanGradient(), MeanGradient(), MeanGradient(), MeanGradient()
    run(model, (x, y), [whole])
    run(model, (x[:4], y[:4]), [first])
    run(model, (x[4:], y[4:]), [second])
    first.merge(second.state())
    shapes = {name: p.shape for name, p in model.named_parameters()}
    restored.begin(dict(TorchPass(model, []).layers))
    restored.load_state(first.state())
    for name, value in whole.mean(shapes).items():
        assert torch.allclose(first.mean(shapes)[name], value, rtol=1e-12)
        assert torch.equal(first.mean(shapes)[name], restored.mean(shapes)[name])


def test_last_layer_norms_equal_brute_force_without_a_backward() -> None:
    torch.manual_seed(0)
    for bias in (True, False):
        model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3, bias=bias)).double()
        batch = (torch.randn(7, 5).double(), torch.randint(0, 3, (7,)))
        found = run(model, batch, [LastLayer(["last_grad_norm", "embedding"], model)])
        grads = gradients(model, class_losses(model, batch))
        last = norms({name: g for name, g in grads.items() if name.startswith("2")})
        assert np.allclose(found["last_grad_norm"], last.numpy(), rtol=1e-10)
        assert np.allclose(found["embedding"], model[:2](batch[0]).detach().numpy(), atol=1e-6)


def test_last_layer_norms_of_token_sequences_have_their_cross_terms() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(11, 6), nn.Tanh(), nn.Linear(6, 11)).double()

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = model[:2], model[2]

        def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
            return self.head(self.body(input_ids))

    whole = Model()
    batch = {"input_ids": torch.randint(0, 11, (3, 6)), "attention_mask": torch.ones(3, 6, dtype=torch.long)}
    batch["attention_mask"][1, 3:] = 0
    found = run(whole, batch, [LastLayer(["last_grad_norm"], whole)])
    logits = whole(**batch)
    nll = F.cross_entropy(logits[:, :-1].mT, batch["input_ids"][:, 1:], reduction="none")
    grads = gradients(whole, (nll * batch["attention_mask"][:, 1:]).sum(1))
    last = norms({name: g for name, g in grads.items() if name.startswith("head")})
    assert np.allclose(found["last_grad_norm"], last.numpy(), rtol=1e-10)


def test_a_model_without_a_linear_head_is_refused() -> None:
    model = nn.Sequential(nn.Linear(5, 3), nn.Tanh())
    with pytest.raises(ModelMismatch, match="no linear layer of the model returns its logits"):
        run(model, (torch.randn(2, 5), torch.zeros(2, dtype=torch.long)), [LastLayer(["embedding"], model)])


def test_activations_and_their_gram_leave_out_padding() -> None:
    torch.manual_seed(0)
    model = Tied().double()
    batch = {"input_ids": torch.randint(0, 11, (3, 6)), "attention_mask": torch.ones(3, 6, dtype=torch.long)}
    batch["attention_mask"][1, 3:] = 0
    gram = ActivationGram(["middle"])
    found = run(model, batch, [Activations(["middle"]), gram])
    hidden = model.middle(model.tokens(batch["input_ids"])).detach()
    keep = batch["attention_mask"].bool()
    assert np.allclose(found["activations/middle"], [h[k].mean(0).numpy() for h, k in zip(hidden, keep, strict=True)])
    assert np.allclose(gram.state()["middle/gram"], (hidden[keep].T @ hidden[keep]).numpy())
    assert gram.state()["middle/count"] == 15
    other = ActivationGram(["middle"])
    other.load_state(gram.state())
    other.merge(gram.state())
    assert np.allclose(other.state()["middle/gram"], 2 * gram.state()["middle/gram"])


def test_pictures_and_sequences_are_pooled_over_their_positions() -> None:
    x = torch.arange(24.0)
    assert pooled(x.view(1, 2, 3, 4), None).tolist() == [[5.5, 17.5]]
    assert pooled(x.view(2, 3, 4), torch.tensor([[True, False, False], [True, True, False]])).tolist()[0] == [
        0,
        1,
        2,
        3,
    ]
    assert pooled(x.view(2, 12), None).shape == (2, 12)


# --- what is refused ----------------------------------------------------------------------------------------


BATCH = (torch.randn(4, 5), torch.tensor([0, 1, 2, 0]))


def test_a_scalar_loss_is_refused_with_its_shape() -> None:
    message = r"losses must return one number per datapoint; got shape \(\): drop the mean"
    with pytest.raises(ModelMismatch, match=message):
        run(nn.Linear(5, 3), BATCH, [GradNorm()], losses=lambda m, b: class_losses(m, b).mean())


def test_a_loss_of_another_length_is_refused() -> None:
    with pytest.raises(ModelMismatch, match=r"got shape \(2,\)"):
        run(nn.Linear(5, 3), BATCH, [GradNorm()], losses=lambda m, b: class_losses(m, b)[:2])


def test_a_loss_without_a_gradient_is_refused() -> None:
    with pytest.raises(ModelMismatch, match="no gradient with respect to any captured layer"):
        run(nn.Linear(5, 3), BATCH, [GradNorm()], losses=lambda m, b: class_losses(m, b).detach())


def test_a_loss_that_is_not_finite_names_its_ids() -> None:
    x = BATCH[0].clone()
    x[2] = torch.nan
    with (
        TorchPass(nn.Linear(5, 3), [GradNorm()]) as one,
        pytest.raises(NotFinite, match="loss of c is not finite") as e,
    ):
        one.batch((x, BATCH[1]), ["a", "b", "c", "d"])
    assert e.value.ids == ["c"]


@pytest.mark.parametrize("need", [GradNorm(), GradIndex(8), GradDot([{"weight": torch.ones(3, 5)}])])
def test_a_gradient_that_is_not_finite_names_its_ids(need: Need) -> None:
    def losses(model: nn.Module, batch: Any) -> Tensor:
        last = torch.tensor([0.0, 0.0, 0.0, 1.0])
        return class_losses(model, batch) + last * (model(batch[0])[:, 0] * (1 - last)).sqrt()

    x = BATCH[0].abs()
    model = nn.Linear(5, 3)
    nn.init.constant_(model.weight, 1.0)
    with (
        TorchPass(model, [need], losses=losses, test=False) as one,
        pytest.raises(NotFinite, match="gradient of d is not finite"),
    ):
        one.batch((x, BATCH[1]), ["a", "b", "c", "d"])


def test_labels_outside_the_model_or_of_another_kind_are_refused() -> None:
    with (
        TorchPass(nn.Linear(5, 3), [GradNorm()]) as one,
        pytest.raises(ModelMismatch, match="outside the model's 3 classes"),
    ):
        one.batch((BATCH[0], torch.tensor([0, 1, 3, 0])), ["a", "b", "c", "d"])
    with pytest.raises(ModelMismatch, match="the batch has no labels"):
        run(nn.Linear(5, 3), BATCH[0], [GradNorm()])
    with pytest.raises(ModelMismatch, match="are not one class each"):
        run(nn.Linear(5, 3), (BATCH[0], torch.rand(4)), [GradNorm()])


def test_a_model_that_returns_no_logits_asks_for_losses() -> None:
    with pytest.raises(ModelMismatch, match=r"not logits .*: give losses="):
        run(nn.Sequential(nn.Linear(5, 1), nn.Flatten(0)), BATCH, [GradNorm()])


def test_sampled_labels_need_the_default_losses() -> None:
    with pytest.raises(ModelMismatch, match="cannot be sampled from a custom `losses`"):
        run(nn.Linear(5, 3), BATCH, [GradNorm("sampled")], losses=class_losses)


def test_ids_must_be_as_many_as_datapoints() -> None:
    with (
        TorchPass(nn.Linear(5, 3), [GradNorm()]) as one,
        pytest.raises(ModelMismatch, match="2 ids for a batch of 4"),
    ):
        one.batch(BATCH, ["a", "b"])
