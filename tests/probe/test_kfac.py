"""Claims about Kronecker factors, against one backward a datapoint in float64."""

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
    with_one,
)
from torch import nn

from datumwise.errors import DatumwiseError, EmptyData, MissingId, ModelMismatch, NotFinite, UnknownName
from datumwise.probe.kfac import KFAC, Spectrum
from datumwise.probe.needs.kronecker import KroneckerFactors, OuterSum

pytestmark = pytest.mark.filterwarnings("ignore:rank deficient")
DOUBLE = {"dtype": torch.float64}


def close(actual, expected, rtol=1e-10):
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=rtol * float(expected.abs().max()))


def batches(whole, size):
    x, y = whole
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("make", "data"), [(mlp, vectors), (convolutional, pictures)])
def test_gold_factors_equal_brute_force(make, data, bias):
    model, whole = make(), data()
    kfac = KFAC(model, labels="gold", bias=bias, **DOUBLE).fit(batches(whole, 4))
    found = brute(model, list(zip(*whole, strict=True)), class_loss)
    assert list(kfac.factors_) == list(found)
    for name, rows in found.items():
        a, g = torch.cat([r[0] for r in rows]), torch.cat([r[1] for r in rows])
        if bias and linear_layers(model)[name].bias is not None:
            a = with_one(a)
        close(kfac.factors_[name].A, a.T @ a / len(a))
        close(kfac.factors_[name].G, g.T @ g / len(g))
        assert kfac.factors_[name].n_positions == len(a)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("positions", ["supervised", "all"])
@pytest.mark.parametrize(("make", "rtol"), [(gpt2, 1e-10), (llama, 1e-5)])  # Llama's norm is float32 throughout
def test_factors_of_texts_drop_padding_and_count_the_right_positions(make, rtol, side, positions):
    model = make()
    batch, rows = texts(side=side)
    kfac = KFAC(model, labels="gold", positions=positions, **DOUBLE).fit([batch])
    found = brute(model, rows, text_loss)
    assert set(kfac.factors_) == set(found)  # the head is left out
    stop = -1 if positions == "supervised" else None
    for name, parts in found.items():
        a, g = torch.cat([p[0][:stop] for p in parts]), torch.cat([p[1][:stop] for p in parts])
        close(kfac.factors_[name].A, a.T @ a / len(a), rtol)
        close(kfac.factors_[name].G, g.T @ g / len(g), rtol)
        assert kfac.factors_[name].n_positions == sum(len(r) - (positions == "supervised") for r in rows)


def test_coupled_factors_weight_each_position_by_its_other_side():
    model = gpt2()
    batch, rows = texts()
    kfac = KFAC(model, labels="gold", factors="coupled", bias=True, **DOUBLE).fit([batch])
    for name, parts in brute(model, rows, text_loss).items():
        a = with_one(torch.cat([p[0][:-1] for p in parts]))
        g = torch.cat([p[1][:-1] for p in parts])
        close(kfac.factors_[name].A, (a * g.square().sum(1, keepdim=True)).T @ a / len(a))
        close(kfac.factors_[name].G, (g * a.square().sum(1, keepdim=True)).T @ g / len(a))


def test_layers_fed_the_same_tensor_share_one_input_factor():
    model = llama()
    kfac = KFAC(model, labels="gold", **DOUBLE).fit([texts()[0]])
    factors = kfac.factors_
    attention, feed = "model.layers.1.self_attn.", "model.layers.1.mlp."
    for group in ([f"{attention}{p}_proj" for p in "qkv"], [f"{feed}gate_proj", f"{feed}up_proj"]):
        assert len({id(factors[name].spectrum_A) for name in group}) == 1
    assert factors[f"{attention}o_proj"].spectrum_A is not factors[f"{attention}q_proj"].spectrum_A
    assert len(kfac._sums.A) == 2 * 4
    assert len(kfac._sums.G) == 2 * 7


@pytest.mark.parametrize("labels", ["gold", "sampled"])
def test_neither_batch_size_nor_order_nor_shards_change_the_factors(labels):
    model, x = gpt2(), texts()[0]
    ids = [f"t{i}" for i in range(6)]
    whole = KFAC(model, labels=labels, **DOUBLE).fit([x], ids=ids)
    order = [4, 1, 5, 0, 3, 2]
    turned = [{k: v[order[i : i + 2]] for k, v in x.items()} for i in (0, 2, 4)]
    shuffled = KFAC(model, labels=labels, **DOUBLE).fit(turned, ids=[ids[i] for i in order])
    shards = [KFAC(model, labels=labels, **DOUBLE) for _ in range(2)]
    for shard, rows in zip(shards, (slice(0, 2), slice(2, 6)), strict=True):
        shard.fit([{k: v[rows] for k, v in x.items()}], ids=ids[rows])
    streamed = KFAC(model, labels=labels, **DOUBLE)
    for row in range(6):
        streamed.partial_fit({k: v[row : row + 1] for k, v in x.items()}, ids=ids[row : row + 1])
    for other in (shuffled, shards[0].merge(shards[1]), streamed):
        assert other.n_datapoints_ == 6
        for name, factor in whole.factors_.items():
            close(other.factors_[name].A, factor.A)
            close(other.factors_[name].G, factor.G)


def test_sampled_labels_repeat_with_the_seed_and_differ_without():
    model, data = mlp(), vectors()
    first, again, other = (
        KFAC(model, labels="sampled", random_state=s, **DOUBLE).fit(batches(data, 4)).factors_["4"].G for s in (3, 3, 4)
    )
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_sampled_labels_give_the_fisher_and_gold_labels_do_not():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    x = torch.randn(40, 4, dtype=torch.float64)
    y = torch.randint(3, (40,))
    p = torch.softmax(model(x), dim=1)
    fisher = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]).mean(0).detach()
    draws = torch.stack([KFAC(model, random_state=seed, **DOUBLE).fit([(x, y)]).factors_[""].G for seed in range(250)])
    error = (draws.mean(0) - fisher).abs() / (draws.std(0) / len(draws) ** 0.5)
    assert error.max() < 4
    gold = KFAC(model, labels="gold", **DOUBLE).fit([(x, y)]).factors_[""].G
    assert ((gold - fisher).abs() / (draws.std(0) / len(draws) ** 0.5)).max() > 20


def test_float32_factors_are_within_rounding_of_float64():
    model, data = mlp(), vectors(300)
    exact = KFAC(model, labels="gold", **DOUBLE).fit(batches(data, 50))
    single = KFAC(mlp().float(), labels="gold").fit(batches((data[0].float(), data[1]), 50))
    for name, factor in exact.factors_.items():
        assert single.factors_[name].A.dtype == torch.float32
        close(single.factors_[name].G.double(), factor.G, 1e-5)


def test_a_module_called_twice_counts_both_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(5, 5), nn.Linear(5, 3)

        def forward(self, x):
            return self.head(torch.tanh(self.layer(torch.tanh(self.layer(x)))))

    torch.manual_seed(0)
    model = Twice().double()
    x, y = vectors()
    factor = KFAC(model, labels="gold", **DOUBLE).fit([(x, y)]).factors_["layer"]
    second = torch.tanh(model.layer(x)).detach()
    close(factor.A, (x.T @ x + second.T @ second) / 22)
    assert factor.n_positions == 22


def test_sums_of_many_batches_keep_what_float32_would_lose():
    total = OuterSum(1, torch.zeros((), dtype=torch.float32))
    total.add(torch.full((1, 1), 4096.0))  # its square is 2^24, where float32 can no longer add 1
    for _ in range(640):
        total.add(torch.ones(1, 1))
    assert 2**24 + 640 - 64 <= float(total.matrix(False)) <= 2**24 + 640


@pytest.mark.parametrize("width", [1, 5, 127, 128, 129, 200, 300, 520])
@pytest.mark.parametrize("weighted", [False, True])
def test_products_by_halves_equal_the_whole_product(width, weighted):
    torch.manual_seed(width)
    parts = [torch.randn(n, width, dtype=torch.float64) for n in (3, 40)]
    weights = [torch.rand(len(x), dtype=torch.float64) if weighted else None for x in parts]
    total = OuterSum(width, parts[0], constant=True)
    expected, first = torch.zeros(width, width, dtype=torch.float64), torch.zeros(width, dtype=torch.float64)
    for x, w in zip(parts, weights, strict=True):
        total.add(x, w)
        rows = x if w is None else x * w[:, None]
        expected, first = expected + rows.T @ x, first + rows.sum(0)
    close(total.matrix(False), expected, 1e-13)
    close(total.first, first, 1e-13)
    assert torch.equal(total.total, total.total.T)


@pytest.mark.parametrize("labels", ["gold", "sampled"])
def test_a_share_of_the_positions_depends_on_ids_alone_and_comes_close(labels):
    model, x = gpt2(), texts(n=200)[0]
    ids = [f"t{i}" for i in range(200)]
    some = KFAC(model, labels=labels, share=0.25, **DOUBLE).fit([x], ids=ids)
    halves = [{k: v[rows] for k, v in x.items()} for rows in (slice(120, 200), slice(0, 120))]
    turned = KFAC(model, labels=labels, share=0.25, **DOUBLE).fit(halves, ids=ids[120:] + ids[:120])
    other = KFAC(model, labels=labels, share=0.25, random_state=1, **DOUBLE).fit([x], ids=ids)
    whole = KFAC(model, labels=labels, **DOUBLE).fit([x], ids=ids)
    for name, factor in some.factors_.items():
        drawn, n = factor.n_positions, whole.factors_[name].n_positions
        assert abs(drawn - n / 4) < 4 * (n * 3 / 16) ** 0.5
        close(turned.factors_[name].A, factor.A)
        close(turned.factors_[name].G, factor.G)
        assert not torch.allclose(other.factors_[name].A, factor.A)
        # a mean of N / 4 of N positions: its trace is off by a few standard errors at most
        assert abs(float(factor.A.trace() / whole.factors_[name].A.trace()) - 1) < 0.1


def test_an_impossible_share_of_the_positions_is_refused():
    for share in (0, -1, 1.5):
        with pytest.raises(DatumwiseError, match="share"):
            KFAC(mlp(), share=share)
    with pytest.raises(EmptyData, match="no position of layer 0, 2, 4 was drawn"):
        KFAC(mlp(), share=1e-9).fit([vectors(4)])


def test_a_state_can_be_gone_on_from_in_any_precision():
    model, data = mlp(), vectors(20)
    whole = KFAC(model, labels="gold", bias=True, **DOUBLE).fit(batches(data, 5))
    first = KFAC(model, labels="gold", bias=True, **DOUBLE).fit(batches(data, 5)[:2])
    second = KFAC(model, labels="gold", bias=True, **DOUBLE).load_state_dict(first.state_dict())
    for i, batch in enumerate(batches(data, 5)[2:]):
        second.partial_fit(batch, ids=range(10 + 5 * i, 15 + 5 * i))
    for name, factor in whole.factors_.items():
        close(second.factors_[name].A, factor.A, 1e-12)
        close(second.factors_[name].G, factor.G, 1e-12)


def test_eigenvectors_rebuild_the_factors_in_descending_order():
    kfac = KFAC(mlp(), labels="gold", **DOUBLE).fit([vectors(4)])  # fewer datapoints than dimensions
    for factor in kfac.factors_.values():
        for matrix, values, vectors_ in (
            (factor.A, factor.eigenvalues_A, factor.eigenvectors_A),
            (factor.G, factor.eigenvalues_G, factor.eigenvectors_G),
        ):
            close(vectors_ @ torch.diag(values) @ vectors_.T, matrix)
            assert (values[:-1] >= values[1:]).all()
            assert (values >= 0).all()
    lower = Spectrum(torch.tensor([[1.0, 2.0], [0.0, 1.0]]))  # symmetrised before it is decomposed
    torch.testing.assert_close(lower.values, torch.tensor([2.0, 0.0]))


def test_saved_factors_come_back_and_other_settings_are_refused():
    model, data = mlp(), vectors()
    kfac = KFAC(model, labels="gold", bias=True, **DOUBLE).fit([data])
    again = KFAC(model, labels="gold", bias=True, **DOUBLE).load_state_dict(kfac.state_dict())
    for name, factor in kfac.factors_.items():
        assert torch.equal(again.factors_[name].A, factor.A)
        assert torch.equal(again.factors_[name].G, factor.G)
    assert again.n_datapoints_ == 11
    plain = KFAC(model, labels="gold")
    with pytest.raises(ModelMismatch, match="bias=True, this KFAC bias=False"):
        plain.load_state_dict(kfac.state_dict())
    other = KFAC(convolutional(), labels="gold", bias=True)
    with pytest.raises(ModelMismatch, match=r"of 0 are of a weight \(6, 5\), the model's is \(3, 18\)"):
        other.load_state_dict(kfac.state_dict())
    wider = KFAC(nn.ModuleDict({"wider": nn.Linear(2, 2)}), labels="gold", bias=True)
    with pytest.raises(ModelMismatch, match="have no layer wider"):
        wider.load_state_dict(kfac.state_dict())


@pytest.mark.parametrize("bias", [False, True])
def test_given_factors_are_kept_as_they_are(bias):
    A = torch.tensor([[2.0, 0.5], [0.5, 1.0]])
    G = torch.tensor([[3.0]])
    kfac = KFAC.from_factors({"layer": (A, G)}, 7, bias=bias)
    torch.testing.assert_close(kfac.factors_["layer"].A, A)
    torch.testing.assert_close(kfac.factors_["layer"].G, G)
    assert kfac.factors_["layer"].n_positions == 7


def test_max_positions_stops_after_the_batch_that_reaches_it():
    kfac = KFAC(mlp(), labels="gold").fit(batches(vectors(), 3), max_positions=5)
    assert kfac.n_datapoints_ == 6


def test_a_loss_of_ones_own_may_be_a_datapoint_or_a_position_each():
    model, (x, y) = mlp(), vectors()
    plain = KFAC(model, labels="gold", **DOUBLE).fit([(x, y)])

    def whole(model, batch):
        return nn.functional.cross_entropy(model(batch[0]), batch[1], reduction="none")

    def halves(model, batch):
        return whole(model, batch)[:, None] * torch.tensor([0.25, 0.75])

    for loss in (whole, halves):
        own = KFAC(model, labels="gold", **DOUBLE).fit([(x, y)], loss)
        close(own.factors_["0"].G, plain.factors_["0"].G)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("mlp.(gate|up)_proj", ["gate_proj", "up_proj"]),
        ("*.mlp.(gate|up)_proj", ["gate_proj", "up_proj"]),
        ("?own_proj", ["down_proj"]),
        (["gate_proj", "layers.*.mlp.down_proj"], ["gate_proj", "down_proj"]),
    ],
)
def test_patterns_choose_layers_by_the_end_of_their_names(pattern, expected):
    kfac = KFAC(llama(), pattern)
    assert kfac._names == [f"model.layers.{i}.mlp.{name}" for i in (0, 1) for name in expected]
    assert KFAC(llama(), lambda name, module: name.endswith("0.mlp.up_proj"))._names == ["model.layers.0.mlp.up_proj"]


def test_layers_that_have_no_factors_are_refused_or_left_out():
    with pytest.raises(UnknownName, match=r"no layer matches 'gate': there are .*gate_proj"):
        KFAC(llama(), "gate")
    with pytest.raises(ModelMismatch, match=r"weight of lm_head is tied to transformer.wte"):
        KFAC(gpt2(), "lm_head")
    frozen = mlp()
    frozen[0].weight.requires_grad_(False)
    assert KFAC(frozen)._names == ["2", "4"]
    with pytest.raises(ModelMismatch, match="weight of 0 is frozen"):
        KFAC(frozen, "0")
    with pytest.raises(ModelMismatch, match="has no Linear"):
        KFAC(nn.LayerNorm(3))
    grouped = nn.Sequential(nn.Conv2d(2, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 3)).double()
    assert KFAC(grouped)._names == ["2"]
    with pytest.raises(ModelMismatch, match="0 is a grouped convolution"):
        KFAC(grouped, "0", labels="gold").fit([pictures()])


def test_a_layer_that_never_ran_is_named():
    model = mlp()
    model.unused = nn.Linear(2, 2).double()
    model.forward = lambda x: model[4](model[3](model[2](model[1](model[0](x)))))
    with pytest.raises(ModelMismatch, match="layer unused never ran"):
        KFAC(model, labels="gold").fit([vectors()])


def test_numbers_that_are_not_finite_are_named():
    x, y = vectors()
    x[9, 2] = float("nan")
    with pytest.raises(NotFinite, match="loss of 9 is not finite"):
        KFAC(mlp(), labels="gold").fit(batches((x, y), 4))
    with pytest.raises(NotFinite, match=r"factor . of . has non-finite values after batch 2"):
        KFAC(mlp(), labels="sampled").fit(batches((x, y), 4))


def test_bad_arguments_are_refused():
    with pytest.raises(DatumwiseError, match="labels='true' is not known: choose sampled or gold"):
        KFAC(mlp(), labels="true")
    with pytest.raises(EmptyData, match="no datapoint"):
        KFAC(mlp()).fit([])
    with pytest.raises(MissingId, match="3 ids were given"):
        KFAC(mlp()).fit([vectors()], ids=["a", "b", "c"])
    with pytest.raises(ModelMismatch, match="without a model"):
        KFAC.from_factors({"a": (torch.eye(2), torch.eye(2))}, 3).fit([vectors()])


@pytest.mark.filterwarnings("default:rank deficient")
def test_too_few_positions_are_warned_of():
    with pytest.warns(UserWarning, match="rank deficient: 0, 2, 4 saw 3 positions"):
        KFAC(mlp(), labels="gold", bias=True).fit([vectors(3)])


def test_the_model_is_left_as_it_was():
    model = gpt2()
    model.train()
    model.transformer.h[0].eval()
    model.transformer.h[1].mlp.c_fc.weight.requires_grad_(False)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    flags = [(p.requires_grad, p.grad) for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    state = torch.random.get_rng_state()
    KFAC(model).fit([texts()[0]])
    with pytest.raises(ModelMismatch):
        KFAC(model).fit([(torch.zeros(2, 2), torch.zeros(2))], lambda model, batch: batch[0].sum())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert flags == [(p.requires_grad, p.grad) for p in model.parameters()]
    assert modes == [m.training for m in model.modules()]
    assert torch.equal(state, torch.random.get_rng_state())
    assert not any(m._forward_hooks for m in model.modules())


def test_a_state_adds_up_like_the_data_do():
    model, (x, y) = mlp(), vectors()
    parts = [KFAC(model, labels="gold", bias=True, **DOUBLE).fit([(x[s], y[s])]) for s in (slice(0, 5), slice(5, 11))]
    joined = KroneckerFactors(labels="gold", bias=True)
    for part in parts:
        joined.merge(part._sums.state())
    whole = KFAC(model, labels="gold", bias=True, **DOUBLE).fit([(x, y)])._sums.state()
    for key, value in joined.state().items():
        np.testing.assert_allclose(value, whole[key], rtol=1e-12, atol=1e-12)
