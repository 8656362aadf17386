"""Every module's captured gradient equals one `autograd.grad` a datapoint, in float64."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from brute import (
    Checkpointed,
    Everything,
    Flat,
    Images,
    Lora,
    Positions,
    Raw,
    Seen,
    Thrice,
    Tied,
    class_losses,
    gradients,
    norms,
    token_losses,
)
from torch import Tensor, nn

from datumwise.errors import ModelMismatch, UnknownName
from datumwise.probe.layers import reader_of, spots_of
from datumwise.probe.needs.dots import GradDot
from datumwise.probe.needs.index import GradIndex, Reduction, reduction
from datumwise.probe.needs.mean_gradient import MeanGradient
from datumwise.probe.needs.norms import GradNorm
from datumwise.probe.sketch import gaussian
from datumwise.probe.torch_pass import TorchPass

N = 5


def vectors() -> Tensor:
    return torch.randn(N, 5)


def sequences() -> Tensor:
    return torch.randn(N, 4, 5)


def pictures() -> Tensor:
    return torch.randn(N, 4, 7, 6)


def tokens() -> Tensor:
    return torch.randint(0, 11, (N, 6))


def warmed(model: nn.Module, x: Tensor) -> nn.Module:
    """Batch norms with running statistics of their own."""
    model.train()(x)
    return model


def conv1d() -> nn.Module:
    from transformers.pytorch_utils import Conv1D

    return Seen(Conv1D(6, 5), nn.Tanh(), nn.Linear(6, 3))


def partly_frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    model[0].requires_grad_(False)
    model[2].weight.requires_grad_(False)
    return model


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "one position": (lambda: nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)), vectors),
    "without bias": (lambda: nn.Sequential(nn.Linear(5, 6, bias=False), nn.Tanh(), nn.Linear(6, 3)), vectors),
    "many positions": (lambda: Seen(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)), sequences),
    "four dimensions": (
        lambda: Seen(nn.Linear(6, 2), nn.Tanh(), nn.Linear(2, 3)),
        pictures,
    ),
    "transformers Conv1D": (conv1d, sequences),
    "convolution": (
        lambda: Images(nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), nn.Linear(6, 3)),
        pictures,
    ),
    "grouped convolution": (
        lambda: Images(nn.Conv2d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2), nn.Tanh(), nn.Linear(6, 3)),
        pictures,
    ),
    "same padding, circular": (
        lambda: Images(nn.Conv2d(4, 6, 3, padding="same", padding_mode="circular"), nn.Linear(6, 3)),
        pictures,
    ),
    "one-dimensional convolution": (
        lambda: Images(nn.Conv1d(4, 6, 2, bias=False), nn.Tanh(), nn.Linear(6, 3)),
        sequences,
    ),
    "three-dimensional convolution": (
        lambda: Images(nn.Unflatten(1, (2, 2)), nn.Conv3d(2, 3, 2, padding=1), nn.Linear(3, 3)),
        pictures,
    ),
    "layer norm": (
        lambda: Seen(nn.LayerNorm(5), nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 3)),
        sequences,
    ),
    "layer norm over two dimensions": (lambda: Seen(nn.LayerNorm((4, 5)), nn.Linear(5, 3)), sequences),
    "rms norm": (lambda: Seen(nn.Linear(5, 6), nn.RMSNorm(6), nn.Linear(6, 3)), sequences),
    "batch norm": (
        lambda: warmed(Images(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Linear(6, 3)), pictures()),
        pictures,
    ),
    "group norm": (
        lambda: Images(nn.Conv2d(4, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.Linear(6, 3)),
        pictures,
    ),
    "embedding with a padding row": (lambda: Positions("row"), tokens),
    "positions as a range": (lambda: Positions("range"), tokens),
    "module called three times": (Thrice, vectors),
    "module called three times on sequences": (Thrice, sequences),
    "raw parameters": (Raw, sequences),
    "datapoints and positions in one dimension": (Flat, sequences),
    "low-rank update only": (Lora, vectors),
    "frozen layers": (partly_frozen, vectors),
    "in place after the first layer": (
        lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)),
        vectors,
    ),
    "in place after a middle layer": (
        lambda: Seen(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)),
        sequences,
    ),
    "checkpointed, reentrant": (lambda: Checkpointed(True), sequences),
    "checkpointed, not reentrant": (lambda: Checkpointed(False), sequences),
}


def made(case: str) -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    try:
        build, data = CASES[case]
        return build(), (data(), torch.randint(0, 3, (N,)))
    finally:
        torch.set_default_dtype(torch.float32)


def without_reentrance(model: nn.Module) -> nn.Module:
    """`autograd.grad` cannot go through reentrant checkpoints; the numbers are the same without."""
    if isinstance(model, Checkpointed):
        model.reentrant = False
    return model


def agree(a: Tensor, b: Tensor, limit: float = 1e-10) -> None:
    assert a.shape == b.shape
    scale = float(b.norm())
    assert float((a - b).norm()) <= limit * max(scale, 1e-12), float((a - b).norm()) / max(scale, 1e-12)


@pytest.mark.parametrize("case", CASES)
def test_captured_gradients_norms_dots_and_sketches_equal_brute_force(case: str) -> None:
    model, batch = made(case)
    oracle = without_reentrance(made(case)[0]).eval()
    check_all(model, batch, gradients(oracle, class_losses(oracle, batch)))


def check_all(model: nn.Module, batch: Any, grads: dict[str, Tensor], limit: float = 1e-10, losses: Any = None) -> None:
    """Full gradients; norms alone (their own forms); dots with one and two targets; sketches; the mean."""
    everything = Everything(model)
    gen = torch.Generator().manual_seed(1)
    targets = [{name: torch.randn(g.shape[1:], generator=gen, dtype=g.dtype) for name, g in grads.items()} for _ in range(2)]
    mean, index = MeanGradient(), GradIndex(length=32)
    with TorchPass(model, [everything, GradNorm(), GradDot(targets), mean], losses=losses) as run:
        formed = run.batch(batch)
        layers = dict(run.layers)
    with TorchPass(model, [GradNorm(), GradDot(targets[:1])], losses=losses) as run:
        own_forms = run.batch(batch)
    with TorchPass(model, [index], losses=losses) as run:
        run.batch(batch)
    found = everything.gradients()
    scale = float(norms(grads).norm())
    for name, g in grads.items():
        if float(g.abs().max()) > 0 or name in found:
            got = found.get(name, torch.zeros_like(g))
            assert float((got - g).norm()) <= limit * scale, name
    dots = torch.stack([sum((g.flatten(1) @ t[name].flatten()) for name, g in grads.items()) for t in targets], 1)
    for columns, q in ((formed, 2), (own_forms, 1)):
        agree(torch.from_numpy(columns["grad_norm"]).to(scale_type(grads)), norms(grads), limit)
        agree(torch.from_numpy(columns["grad_dot"]).to(scale_type(grads)), dots[:, :q], limit)
    agree(index.rows(), explicit_sketch(index, layers, grads), limit)
    shapes = {name: p.shape for name, p in model.named_parameters()}
    for name, value in mean.mean(shapes).items():
        assert float((value - grads[name].mean(0)).norm()) <= limit * scale, name


def scale_type(grads: dict[str, Tensor]) -> torch.dtype:
    return next(iter(grads.values())).dtype


def explicit_sketch(index: GradIndex, layers: dict[str, Any], grads: dict[str, Tensor]) -> Tensor:
    """S vec(gradient) with every projection written out as a dense matrix."""
    total: Tensor | float = 0.0
    for layer in layers.values():
        for name in layer.parameters:
            g = grads[name]
            if name == layer.weight:
                w = torch.stack([layer.matrix(one) for one in g])
                o, i = layer.shape
                reduced = reduction(o, i, layer.single, index.sketch.length)
                if reduced != Reduction():
                    left = side(index, layer, "out", o, reduced.out, g)
                    right = side(index, layer, "in", i, reduced.into, g)
                    w = left.T @ w @ right
                    if layer.single:  # placed in the first buckets as it is
                        total = total + nn.functional.pad(w.flatten(1), (0, index.sketch.length - w[0].numel()))
                        continue
                    name = f"{name}/kronecker"
                g = w
            flat = g.flatten(1)
            total = total + flat @ index.sketch.explicit(name, flat.shape[1]).T.to(flat.dtype)
    return total


def side(index: GradIndex, layer: Any, which: str, size: int, rank: int | None, like: Tensor) -> Tensor:
    if rank is None:
        return torch.eye(size, dtype=like.dtype)
    return gaussian(f"{layer.weight}/{which}", size, rank, index.sketch.seed, like) / rank**0.5


def test_large_layers_are_reduced_on_both_sides_before_the_sketch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datumwise.probe.needs.index.SINGLE_RANK", 3)
    monkeypatch.setattr("datumwise.probe.needs.index.LARGE_RANK", 2)
    monkeypatch.setattr("datumwise.probe.needs.index.LARGE", 8)
    for case in ("one position", "many positions", "grouped convolution", "embedding with a padding row"):
        model, batch = made(case)
        model.eval()
        check_all(model, batch, gradients(model, class_losses(model, batch)))


def test_a_tied_head_counts_both_of_its_uses_and_their_cross_terms() -> None:
    torch.manual_seed(0)
    model = Tied().double()
    batch = {"input_ids": tokens(), "attention_mask": torch.ones(N, 6, dtype=torch.long)}
    batch["attention_mask"][1, 4:] = 0

    def losses(model: nn.Module, batch: Any) -> Tensor:
        logits = model(**batch)
        nll = nn.functional.cross_entropy(logits[:, :-1].mT, batch["input_ids"][:, 1:], reduction="none")
        return (nll * batch["attention_mask"][:, 1:]).sum(1)

    grads = gradients(model, losses(model, batch))
    check_all(model, batch, grads)
    apart = torch.stack([g.flatten(1).square().sum(1) for g in grads.values()]).sum(0).sqrt()
    assert set(grads) == {"tokens.weight", "middle.weight", "middle.bias"}
    agree(norms(grads), apart)


def gpt2(**options: Any) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        n_layer=2,
        n_embd=16,
        n_head=2,
        vocab_size=50,
        n_positions=16,
        bos_token_id=0,
        eos_token_id=0,
        **options,
    )
    torch.manual_seed(0)
    return GPT2LMHeadModel(config).double().eval()


def text_batch(padding: str = "right") -> dict[str, Tensor]:
    torch.manual_seed(1)
    ids = torch.randint(0, 50, (4, 9))
    mask = torch.ones_like(ids)
    for row, lost in ((1, 3), (3, 6)):
        mask[row, -lost:] = 0
    if padding == "left":
        ids, mask = ids.flip(1), mask.flip(1)
        for row, lost in ((1, 3), (3, 6)):
            ids[row, lost:] = ids[row, lost:].flip(0)
        ids[[0, 2]] = ids[[0, 2]].flip(1)
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_causal_language_model_with_tied_head_and_padding_equals_brute_force(attention: str) -> None:
    model, batch = gpt2(attn_implementation=attention), text_batch()
    check_all(model, batch, gradients(model, token_losses(model, batch)))


def test_padding_on_the_left_gives_what_padding_on_the_right_gives() -> None:
    model = gpt2()
    right, left = text_batch("right"), text_batch("left")
    with TorchPass(model, [GradNorm()]) as run:
        a = run.batch(right)["grad_norm"]
        b = run.batch(left)["grad_norm"]
    agree(torch.from_numpy(b), torch.from_numpy(a))


def test_a_llama_with_grouped_heads_and_rms_norms_equals_brute_force() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=50, max_position_embeddings=16, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model, batch = LlamaForCausalLM(config).double().eval(), text_batch()
    check_all(model, batch, gradients(model, token_losses(model, batch)), limit=1e-6)  # its RMSNorm works in float32


def test_an_encoder_with_a_classifier_equals_brute_force() -> None:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, vocab_size=50,
        max_position_embeddings=16, num_labels=3,
    )  # fmt: skip
    model, batch = BertForSequenceClassification(config).double().eval(), text_batch()
    labels = torch.tensor([0, 2, 1, 1])
    losses = nn.functional.cross_entropy(model(**batch).logits, labels, reduction="none")
    check_all(model, {**batch, "labels": labels}, gradients(model, losses))


def test_a_vision_transformer_with_its_class_token_equals_brute_force() -> None:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=8,
        patch_size=4, num_labels=3,
    )  # fmt: skip
    model = ViTForImageClassification(config).double().eval()
    nn.init.normal_(model.vit.embeddings.cls_token)
    nn.init.normal_(model.vit.embeddings.position_embeddings)
    batch = {
        "pixel_values": torch.randn(4, 3, 8, 8, dtype=torch.float64),
        "labels": torch.tensor([0, 2, 1, 1]),
    }
    losses = nn.functional.cross_entropy(model(batch["pixel_values"]).logits, batch["labels"], reduction="none")
    grads = gradients(model, losses)
    check_all(model, batch, grads)
    raw = norms({k: v for k, v in grads.items() if k.endswith(("cls_token", "position_embeddings"))})
    assert float((raw / norms(grads)).max()) > 0.02  # leaving them out would be seen


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_batch_of_any_size_gives_each_datapoint_the_same(rows: int) -> None:
    for case in ("many positions", "raw parameters", "positions as a range", "batch norm"):
        model, (x, y) = made(case)
        with TorchPass(model, [GradNorm()]) as run:
            whole = run.batch((x, y))["grad_norm"]
        with TorchPass(model, [GradNorm()]) as run:
            parts = [run.batch((x[s : s + rows], y[s : s + rows]))["grad_norm"] for s in range(0, N, rows)]
        agree(torch.cat([torch.from_numpy(p) for p in parts]), torch.from_numpy(whole))


def test_as_many_positions_as_datapoints_is_not_taken_for_a_batch_of_positions() -> None:
    torch.manual_seed(0)
    model = Positions("range").double()
    x, y = (
        torch.randint(0, 11, (3, 3)),
        torch.tensor([0, 1, 2]),
    )  # the first batch has 3 datapoints, 3 positions
    batches = [(x, y), (torch.randint(0, 11, (3, 5)), y), (torch.randint(0, 11, (3, 1)), y)]
    oracle = [norms(gradients(model, class_losses(model, batch))) for batch in batches]
    with TorchPass(model, [GradNorm()]) as run:
        for batch, want in zip(batches, oracle, strict=True):
            agree(torch.from_numpy(run.batch(batch)["grad_norm"]), want)


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)], ids=["float32", "bfloat16"])
def test_lower_precision_is_close_to_float64(dtype: torch.dtype, limit: float) -> None:
    model, (x, y) = made("many positions")
    with TorchPass(model, [GradNorm()]) as run:
        exact = torch.from_numpy(run.batch((x, y))["grad_norm"])
    low = model.to(dtype)
    with TorchPass(low, [GradNorm()]) as run:
        got = torch.from_numpy(run.batch((x.to(dtype), y))["grad_norm"])
    agree(got, exact, limit)


# --- what is refused ----------------------------------------------------------------------------------------


def test_batch_norm_on_batch_statistics_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6, track_running_stats=False), nn.Linear(6, 3))
    with (
        TorchPass(model, [GradNorm()]) as run,
        pytest.raises(ModelMismatch, match=r"see each other in layer [01]"),
    ):
        run.batch((torch.randn(6, 5), torch.randint(0, 3, (6,))))


def test_losses_that_put_the_model_in_train_mode_are_caught() -> None:
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))

    def losses(model: nn.Module, batch: Any) -> Tensor:
        return class_losses(model.train(), batch)

    with (
        TorchPass(model, [GradNorm()], losses=losses) as run,
        pytest.raises(ModelMismatch, match="see each other"),
    ):
        run.batch((torch.randn(6, 5), torch.randint(0, 3, (6,))))


class WithAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.attention(x, x, x)[0].mean(1))


def test_multihead_attention_is_refused_and_partial_norms_are_on_request() -> None:
    torch.manual_seed(0)
    model = WithAttention()
    batch = (torch.randn(4, 3, 4), torch.randint(0, 3, (4,)))
    with (
        TorchPass(model, [GradNorm()]) as run,
        pytest.raises(ModelMismatch, match="MultiheadAttention uses its weights directly"),
    ):
        run.batch(batch)
    with TorchPass(model, [GradNorm()], allow_partial=True) as run:
        found = torch.from_numpy(run.batch(batch)["grad_norm"])
        assert {"attention.in_proj_weight", "attention.out_proj.weight"} <= set(run.missing)
        assert 0 < run.coverage < 0.5
    grads = gradients(model, class_losses(model, batch))
    agree(found.float(), norms({k: v for k, v in grads.items() if k.startswith("head")}), 1e-5)


class UsedTwice(nn.Module):
    """A weight that is also used outside of its module: the tap alone would miss half of its gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 5)
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.inner(x)) @ self.inner.weight)


def test_a_weight_used_outside_its_module_is_noticed() -> None:
    with TorchPass(UsedTwice(), [GradNorm()]) as run, pytest.raises(ModelMismatch, match=r"inner\.weight"):
        run.batch((torch.randn(4, 5), torch.randint(0, 3, (4,))))


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.unused = nn.Parameter(torch.ones(7))
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x * self.scale)


def test_uncovered_parameters_are_refused_by_name_and_unused_ones_are_not_counted() -> None:
    batch = (torch.randn(4, 5), torch.randint(0, 3, (4,)))
    with (
        TorchPass(Scaled(), [GradNorm()]) as run,
        pytest.raises(ModelMismatch, match=r"^scale cannot be captured"),
    ):
        run.batch(batch)
    with TorchPass(Scaled(), [GradNorm()], modules=["head"]) as run:
        run.batch(batch)
        assert run.coverage == 1.0


def test_a_layer_whose_leading_dimension_is_not_the_datapoint_is_refused() -> None:
    class First(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Linear(5, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x.transpose(0, 1)).mean(0)[:, :3]

    with TorchPass(First(), [GradNorm()]) as run, pytest.raises(ModelMismatch, match="body"):
        run.batch((torch.randn(3, 4, 5), torch.randint(0, 3, (3,))))
    with TorchPass(First(), [GradNorm()]) as run, pytest.raises(ModelMismatch, match="body"):
        run.batch((torch.randn(3, 3, 5), torch.randint(0, 3, (3,))))


def test_patterns_that_match_nothing_name_what_there_is() -> None:
    with pytest.raises(UnknownName, match="no module with parameters matches `modules`: there are head"):
        spots_of(UsedTwice(), ["heat"])


def test_only_what_requires_a_gradient_is_captured() -> None:
    layers, _, missing = spots_of(Lora())
    assert set(layers) == {"A", "B"}
    assert not missing
    with (
        pytest.raises(ModelMismatch, match="no parameter of the model requires a gradient"),
        TorchPass(Lora().requires_grad_(False), [GradNorm()]),
    ):
        pass


def test_unknown_modules_have_no_reader() -> None:
    assert reader_of(nn.Bilinear(2, 2, 2)) is None
    assert reader_of(nn.Conv2d(2, 3, (1, 4))).shape(nn.Conv2d(2, 3, (1, 4))) == (3, 8)


def test_no_warning_is_given_on_the_way() -> None:
    model, batch = made("many positions")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with TorchPass(model, [GradNorm(), GradIndex(16)]) as run:
            run.batch(batch)
