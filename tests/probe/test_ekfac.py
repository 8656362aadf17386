"""Claims about EK-FAC eigenvalues and influence, against one backward a datapoint in float64."""

import numpy as np
import pytest
import torch
from curvature import (
    brute,
    class_loss,
    convolutional,
    gpt2,
    linear_layers,
    llama,
    mlp,
    pictures,
    text_loss,
    texts,
    vectors,
)
from torch import nn

from datumwise.errors import ModelMismatch, UnknownName
from datumwise.probe import ekfac
from datumwise.probe.ekfac import EKFAC, CorrectedEigenvalues, fit_eigenvalues, influence, self_influence
from datumwise.probe.kfac import KFAC

pytestmark = pytest.mark.filterwarnings("ignore:rank deficient")
DOUBLE = {"dtype": torch.float64}


def classes(make, data):
    whole = data()
    return make(), [whole], list(zip(*whole, strict=True)), class_loss


def language(make, **options):
    batch, rows = texts(**options)
    return make(), [batch], rows, text_loss


CASES = {
    "mlp": lambda: classes(mlp, vectors),
    "convolutional": lambda: classes(convolutional, pictures),
    "gpt2": lambda: language(gpt2),
    "gpt2 left": lambda: language(gpt2, side="left"),
}


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]()


def weight_gradients(model, examples, loss_of, bias=False):
    """(n, o, i [+ 1]) a layer, by one backward a datapoint."""
    found = {}
    for name, rows in brute(model, examples, loss_of).items():
        W = torch.stack([row[2] for row in rows])
        if bias and linear_layers(model)[name].bias is not None:
            W = torch.cat([W, torch.stack([row[1].sum(0) for row in rows])[:, :, None]], dim=2)
        found[name] = W
    return found


def in_eigenbasis(kfac, gradients):
    return {
        name: kfac.factors_[name].eigenvectors_G.T @ W @ kfac.factors_[name].eigenvectors_A for name, W in gradients.items()
    }


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("kind", ["ekfac", "kfac"])
@pytest.mark.parametrize("chunk", [1, 2**20])
def test_self_influence_equals_its_definition(case, bias, kind, chunk, monkeypatch):
    monkeypatch.setattr(ekfac, "CHUNK_BYTES", chunk)
    model, batches, examples, loss_of = case
    kfac = KFAC(model, labels="gold", bias=bias, **DOUBLE).fit(batches)
    fit_eigenvalues(kfac, batches)
    scores = self_influence(model, batches, kfac=kfac, eigenvalues=kind, damping=0.3)
    expected = np.zeros(len(examples))
    for name, W in in_eigenbasis(kfac, weight_gradients(model, examples, loss_of, bias)).items():
        factor = kfac.factors_[name]
        curvature = W.square().mean(0)
        if kind == "ekfac":
            torch.testing.assert_close(factor.corrected, curvature, rtol=1e-9, atol=1e-14)
        else:
            curvature = factor.eigenvalues_G[:, None] * factor.eigenvalues_A[None, :]
        expected += (W.square() / (curvature + 0.3 * curvature.mean())).sum((1, 2)).numpy()
    np.testing.assert_allclose(scores, expected, rtol=1e-9)
    assert scores.dtype == np.float64


@pytest.mark.parametrize("bias", [False, True])
def test_influence_equals_its_definition_and_its_diagonal_is_self_influence(case, bias):
    model, batches, examples, loss_of = case
    kfac = EKFAC(model, labels="gold", bias=bias, **DOUBLE).fit(batches)
    products = kfac.influence(batches, batches)
    expected = np.zeros((len(examples), len(examples)))
    for name, W in in_eigenbasis(kfac, weight_gradients(model, examples, loss_of, bias)).items():
        damped = kfac.factors_[name].corrected + 0.1 * kfac.factors_[name].corrected.mean()
        expected += torch.einsum("qoi,noi->qn", W / damped, W).numpy()
    np.testing.assert_allclose(products, expected, rtol=1e-5, atol=1e-6 * np.abs(expected).max())
    np.testing.assert_allclose(np.diag(products), kfac.self_influence(batches), rtol=1e-5)


def test_queries_in_small_blocks_give_the_same_influence():
    model, (x, y) = mlp(), vectors()
    kfac = EKFAC(model, labels="gold", **DOUBLE).fit((x, y))
    whole = influence(kfac, (x[:7], y[:7]), (x, y))
    blocks = influence(kfac, (x[:7], y[:7]), (x, y), query_bytes=2000, batch_size=4)
    assert whole.shape == (7, 11)
    np.testing.assert_allclose(blocks, whole, rtol=1e-5, atol=1e-6)


def test_a_measure_of_the_queries_may_differ_from_the_loss():
    model, (x, y) = mlp(), vectors()
    kfac = EKFAC(model, labels="gold", **DOUBLE).fit((x, y))

    def twice_the_loss(model, batch):
        return 2 * nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    plain = influence(kfac, (x[:3], y[:3]), (x, y))
    np.testing.assert_allclose(influence(kfac, (x[:3], y[:3]), (x, y), measure=twice_the_loss), 2 * plain, rtol=1e-5)


def test_eigenvalues_add_up_to_the_mean_squared_gradient_norm(case):
    model, batches, examples, loss_of = case
    kfac = EKFAC(model, labels="gold", **DOUBLE).fit(batches)
    for name, W in weight_gradients(model, examples, loss_of).items():
        torch.testing.assert_close(kfac.factors_[name].corrected.sum(), W.square().sum((1, 2)).mean(), rtol=1e-9, atol=0)


def test_both_ways_of_rotating_agree(monkeypatch):
    model, batches, _, _ = CASES["gpt2"]()
    scores = []
    for make in (lambda o, i: 10**9, lambda o, i: 0):
        kfac = EKFAC(model, labels="gold", bias=True, **DOUBLE)
        monkeypatch.setattr(ekfac, "positions_that_pay", make)
        scores.append(kfac.fit(batches).self_influence(batches))
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-10)
    monkeypatch.undo()
    T, o, i = 7, 12, 5
    assert (ekfac.positions_that_pay(o, i) > T) == (T * (o * o + i * i) < o * i * (o + i))


def grid():
    """Inputs x and output gradients v in every combination: then the Fisher is exactly A (x) G."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(9, 4, generator=generator, dtype=torch.float64) * torch.tensor([3.0, 1, 1, 0.3])
    pushes = torch.randn(7, 3, generator=generator, dtype=torch.float64) * torch.tensor([2.0, 1, 0.2])
    x = inputs[:, None, :].expand(9, 7, 4).reshape(-1, 4)
    return x, pushes[None].expand(9, 7, 3).reshape(-1, 3)


def push(model, batch):
    """A loss whose gradient at the output is the batch's second part."""
    return (model(batch[0]) * batch[1]).sum(1)


@pytest.mark.parametrize("kind", ["ekfac", "kfac"])
def test_one_layer_on_a_full_grid_is_exactly_newtons_influence(kind):
    x, v = grid()
    model = nn.Linear(4, 3, bias=False).double()
    kfac = KFAC(model, labels="gold", **DOUBLE).fit([(x, v)], push)
    fit_eigenvalues(kfac, [(x, v)], push)
    W = (v[:, :, None] * x[:, None, :]).flatten(1)
    fisher = W.T @ W / len(W)
    damped = fisher + 0.05 * fisher.diagonal().mean() * torch.eye(12, dtype=torch.float64)
    exact = (W @ torch.linalg.inv(damped) * W).sum(1)
    scores = self_influence(model, [(x, v)], kfac=kfac, eigenvalues=kind, damping=0.05, loss_fn=push)
    np.testing.assert_allclose(scores, exact, rtol=1e-9)
    products = influence(kfac, [(x, v)], [(x, v)], eigenvalues=kind, damping=0.05, loss_fn=push)
    np.testing.assert_allclose(products, W @ torch.linalg.inv(damped) @ W.T, rtol=1e-5, atol=1e-5)


def test_with_much_damping_only_the_gradient_norm_is_left():
    x, v = grid()
    model = nn.Linear(4, 3, bias=False).double()
    kfac = EKFAC(model, labels="gold", **DOUBLE).fit([(x, v)], push)
    scores = kfac.self_influence([(x, v)], damping=1e9, loss_fn=push)
    norms = (x.square().sum(1) * v.square().sum(1)).numpy()
    np.testing.assert_allclose(scores / scores.sum(), norms / norms.sum(), rtol=1e-6)


@pytest.mark.parametrize("labels", ["gold", "sampled"])
def test_batch_size_does_not_change_influence(labels):
    model, (batch,), _, _ = CASES["gpt2"]()
    small = [{k: v[i : i + 2] for k, v in batch.items()} for i in (0, 2, 4)]
    one = [{k: v[i : i + 1] for k, v in batch.items()} for i in range(6)]
    scores = [self_influence(model, data, labels=labels, dtype=torch.float64, bias=True) for data in ([batch], small, one)]
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-8)
    np.testing.assert_allclose(scores[2], scores[0], rtol=1e-8)


def test_scores_are_of_the_given_labels_whatever_the_factors_are_of():
    model, (x, y) = mlp(), vectors()
    kfac = EKFAC(model, labels="sampled", **DOUBLE).fit([(x, y)])
    scores = kfac.self_influence([(x, y)])
    expected = 0.0
    for name, W in in_eigenbasis(kfac, weight_gradients(model, list(zip(x, y, strict=True)), class_loss)).items():
        damped = kfac.factors_[name].corrected + 0.1 * kfac.factors_[name].corrected.mean()
        expected = expected + (W.square() / damped).sum((1, 2))
    np.testing.assert_allclose(scores, expected, rtol=1e-9)
    other = EKFAC(model, labels="sampled", random_state=1, **DOUBLE).fit([(x, y)])
    assert not np.allclose(other.self_influence([(x, y)]), scores)


def test_learning_the_factors_first_is_what_the_short_form_does():
    model, (x, y) = mlp(), vectors()
    kfac = EKFAC(model, bias=True, random_state=5).fit((x, y), batch_size=4)
    seen = []
    short = self_influence(
        model,
        (x, y),
        bias=True,
        seed=5,
        batch_size=4,
        progress=lambda done, total: seen.append((done, total)),
    )
    np.testing.assert_allclose(short, kfac.self_influence((x, y)), rtol=1e-9)
    assert seen == [(4, 11), (8, 11), (11, 11)]


def test_eigenvalue_sums_of_shards_add_up():
    model, (x, y) = mlp(), vectors()
    kfac = EKFAC(model, labels="gold", **DOUBLE).fit([(x, y)])
    shards = []
    for rows in (slice(0, 3), slice(3, 11)):
        need = CorrectedEigenvalues(kfac)
        with kfac._pass(None, need, test=False) as run:
            run.batch((x[rows], y[rows]), range(11)[rows])
        shards.append(need)
    shards[0].merge(shards[1].state())
    for name, total in shards[0].totals.items():
        torch.testing.assert_close(total / shards[0].n_datapoints, kfac.factors_[name].corrected)


def test_saved_eigenvalues_come_back():
    model, (x, y) = mlp(), vectors()
    kfac = EKFAC(model, labels="gold").fit([(x, y)])
    again = EKFAC(model, labels="gold").load_state_dict(kfac.state_dict())
    np.testing.assert_array_equal(again.self_influence([(x, y)]), kfac.self_influence([(x, y)]))


@pytest.mark.parametrize("make", [llama, gpt2])
def test_float32_agrees_with_float64(make):
    data = [texts()[0]]
    exact = self_influence(make(), data, labels="gold", dtype=torch.float64)
    single = self_influence(make().float(), data, labels="gold")
    np.testing.assert_allclose(single, exact, rtol=1e-3)


def test_layers_that_share_an_input_are_rotated_once(monkeypatch):
    model, whole = llama(), texts()[0]
    data = [{k: v[i : i + 2] for k, v in whole.items()} for i in (0, 2, 4)]
    kfac = EKFAC(model, labels="gold", **DOUBLE).fit(data)
    monkeypatch.setattr(ekfac, "positions_that_pay", lambda o, i: 10**9)
    shared = kfac.self_influence(data)
    for name, factor in kfac.factors_.items():
        factor.input_of = name  # as if each layer had an input of its own
    np.testing.assert_allclose(kfac.self_influence(data), shared, rtol=1e-12)


def test_what_cannot_be_scored_is_refused():
    model, (x, y) = mlp(), vectors()
    kfac = KFAC(model, labels="gold").fit([(x, y)])
    with pytest.raises(ModelMismatch, match="no EK-FAC eigenvalues yet"):
        self_influence(model, [(x, y)], kfac=kfac)
    with pytest.raises(UnknownName, match="no foof eigenvalues"):
        self_influence(model, [(x, y)], kfac=kfac, eigenvalues="foof")
    flat = torch.zeros_like(x)
    fit_eigenvalues(kfac, [(flat, y)])
    with pytest.raises(ModelMismatch, match="curvature of layer 0 is zero"):
        self_influence(model, [(x, y)], kfac=kfac)
