"""Adapters, placed models, checkpoints and losses that blow up: what a long training must survive."""

from __future__ import annotations

import copy
import json
import math

import numpy as np
import pytest
import torch
from accelerate import dispatch_model
from peft import LoraConfig, get_peft_model
from tiny_language_models import byte_tokenizer, tiny_gpt2, tiny_llama

from datumwise.errors import ModelMismatch, NotFinite, SourceError
from datumwise.forget.methods import METHODS, Method, register_method
from datumwise.forget.reference import forward_logits_of, measured_nll
from datumwise.forget.sequences import encode_sequences
from datumwise.forget.texts import as_texts
from datumwise.forget.unlearning import unlearn

TOKENIZER = byte_tokenizer(begin=True)
FORGET = ["a secret of the house", "the code is 1234", "it was hidden in the attic", "nobody knows why", "they left"]
RETAIN = ["water boils when hot", "cats purr", "the sun is a star", "snow falls in winter on the hills", "one and one"]
FAST = {"lr": 1e-2, "batch_size": 2, "random_state": 3}


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


# --- adapters ---------------------------------------------------------------------------------------------------


def test_adapters_are_trained_over_the_very_weights_of_the_given_model():
    model = tiny_llama(0)
    before = state_of(model)
    result = unlearn(model, TOKENIZER, FORGET, RETAIN, method="npo_klr", lora=True, epochs=2, **FAST)
    assert same(before, state_of(model))
    assert type(model).__name__ == "LlamaForCausalLM"
    assert not any("lora" in name for name, _ in model.named_modules())
    base = result.model.get_base_model()
    own = model.model.layers[0].mlp.down_proj.weight
    assert base.model.layers[0].mlp.down_proj.base_layer.weight.data_ptr() == own.data_ptr()
    assert own.requires_grad
    asking = [name for name, p in result.model.named_parameters() if p.requires_grad]
    assert asking
    assert all("lora_" in name for name in asking)
    assert result.per_datapoint_nll[:, -1].mean() > result.per_datapoint_nll[:, 0].mean()
    assert result.options["lora"]["r"] == 16


def test_with_adapters_the_reference_is_the_model_without_them():
    model = tiny_llama(0)
    result = unlearn(model, TOKENIZER, FORGET, RETAIN, method="npo_token_klr", lora={"r": 4}, epochs=2, batch_size=5, lr=1e-2)
    first, second = result.history
    assert first["forget"] == pytest.approx(20 * math.log(2), rel=1e-6)  # adapters begin as nothing
    assert first["retain"] == 0
    assert second["forget"] < first["forget"]
    # the second step by hand: adapters as after the first, against the given model
    once = unlearn(model, TOKENIZER, FORGET, RETAIN, method="npo_token_klr", lora={"r": 4}, epochs=1, batch_size=5, lr=1e-2)
    batch = encode_sequences(TOKENIZER, as_texts(RETAIN), 64, padding=0).batch(range(5))
    with torch.no_grad():
        p, p_ref = (torch.log_softmax(forward_logits_of(m, batch)[:, :-1].double(), -1) for m in (once.model, model))
    counted = batch.labels[:, 1:] != -100
    assert second["retain"] == pytest.approx((p_ref.exp() * (p_ref - p)).sum(-1)[counted].mean().item(), rel=1e-4)


def test_merging_a_result_leaves_the_given_model_alone():
    model = tiny_llama(0)
    before = state_of(model)
    result = unlearn(model, TOKENIZER, FORGET, method="ga", lora=LoraConfig(r=2, target_modules=["q_proj"]), epochs=1, **FAST)
    ids = torch.arange(20)[None]
    with torch.no_grad():
        expected = result.model(ids).logits
        merged = result.merged()
        torch.testing.assert_close(merged(ids).logits, expected, rtol=1e-4, atol=1e-4)
    assert same(before, state_of(model))
    assert not any("lora" in name for name, _ in merged.named_modules())


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_adapters_of_ones_own_are_trained_on_and_new_ones_refused():
    model = get_peft_model(tiny_llama(0), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    before = state_of(model)
    result = unlearn(model, TOKENIZER, FORGET, RETAIN, method="ga_klr", epochs=1, **FAST)
    assert same(before, state_of(model))
    changed = {name for name, value in result.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)
    assert result.history[0]["retain"] == pytest.approx(0, abs=1e-6)  # against its own first adapters, not against none
    with pytest.raises(ModelMismatch, match="the model has adapters already: merge them first"):
        unlearn(model, TOKENIZER, FORGET, method="ga", lora=True)


def test_adapters_depend_on_the_seed_alone():
    model = tiny_llama(0)
    torch.manual_seed(5)
    first = unlearn(model, TOKENIZER, FORGET, method="ga", lora=True, epochs=1, **FAST)
    torch.manual_seed(6)
    again = unlearn(model, TOKENIZER, FORGET, method="ga", lora=True, epochs=1, **FAST)
    assert same(state_of(first.model), state_of(again.model))


# --- placed models ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["npo_klr", "rmu"])
def test_a_model_that_was_placed_by_a_device_map_is_trained_as_it_stands(method):
    model = tiny_llama(0)
    options = {"method": method, "epochs": 1, **({"layer": 0} if method == "rmu" else {}), **FAST}
    expected = unlearn(model, TOKENIZER, FORGET, RETAIN, **options)
    places = {"model.embed_tokens": "cpu", "model.layers.0": "cpu", "model.layers.1": "cpu"}
    places |= {"model.norm": "cpu", "model.rotary_emb": "cpu", "lm_head": "cpu"}
    placed = dispatch_model(copy.deepcopy(model), places, force_hooks=True)
    before = state_of(placed)
    result = unlearn(placed, TOKENIZER, FORGET, RETAIN, device="cpu", **options)
    assert same(state_of(expected.model), state_of(result.model))
    assert same(before, state_of(placed))


def test_half_precision_weights_are_trained_with_losses_in_single_precision():
    model = tiny_llama(0, scale=1.0).to(torch.bfloat16)
    result = unlearn(model, TOKENIZER, FORGET, RETAIN, method="npo_klr", epochs=2, **FAST)
    assert result.history[0]["forget"] == pytest.approx(20 * math.log(2), rel=1e-2)
    assert result.per_datapoint_nll[:, -1].mean() > result.per_datapoint_nll[:, 0].mean()
    assert next(result.model.parameters()).dtype == torch.bfloat16


def test_a_model_with_another_kind_of_block_is_trained():
    result = unlearn(tiny_gpt2(0), TOKENIZER, FORGET, RETAIN, method="rmu", layer=1, epochs=1, **FAST)
    assert result.history[-1]["forget"] > 0


# --- interrupted ----------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


def interrupt_at(epoch):
    def callback(model, done, nll):
        if done == epoch:
            raise Interrupted

    return callback


@pytest.mark.parametrize(
    "options", [{"method": "npo_klr"}, {"method": "pdu", "warm_up": 0}, {"method": "npo_klr", "lora": True}]
)
def test_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, options):
    model = tiny_llama(0)
    settings = {"epochs": 4, **FAST, **options}
    whole = unlearn(model, TOKENIZER, FORGET, RETAIN, **settings)
    for epoch in (1, 3):  # in the midst of the first, then of the third: their work is lost, and done again
        with pytest.raises(Interrupted):
            unlearn(model, TOKENIZER, FORGET, RETAIN, checkpoint=tmp_path, callbacks=[interrupt_at(epoch)], **settings)
    steps = []
    result = unlearn(
        model,
        TOKENIZER,
        FORGET,
        RETAIN,
        checkpoint=tmp_path,
        progress=lambda done, total: steps.append((done, total)),
        **settings,
    )
    assert steps[0] == (7, 12)
    assert same(state_of(whole.model), state_of(result.model))
    assert result.history == whole.history
    np.testing.assert_array_equal(result.per_datapoint_nll, whole.per_datapoint_nll)
    assert len(list(tmp_path.iterdir())) == 3  # one state


def test_dropout_goes_on_where_it_was(tmp_path):
    model = tiny_gpt2(0)
    settings = {"method": "ga", "epochs": 2, "dropout": True, **FAST}
    whole = unlearn(model, TOKENIZER, FORGET, **settings)
    with pytest.raises(Interrupted):
        unlearn(model, TOKENIZER, FORGET, checkpoint=tmp_path, callbacks=[interrupt_at(2)], **settings)
    assert same(state_of(whole.model), state_of(unlearn(model, TOKENIZER, FORGET, checkpoint=tmp_path, **settings).model))
    assert not same(state_of(whole.model), state_of(unlearn(model, TOKENIZER, FORGET, **{**settings, "dropout": False}).model))


def test_a_finished_training_is_given_back_and_may_be_prolonged(tmp_path):
    model = tiny_llama(0)
    first = unlearn(model, TOKENIZER, FORGET, method="ga", epochs=2, checkpoint=tmp_path, **FAST)
    steps = []
    again = unlearn(
        model, TOKENIZER, FORGET, method="ga", epochs=2, checkpoint=tmp_path, progress=lambda *at: steps.append(at), **FAST
    )
    assert steps == []
    assert same(state_of(first.model), state_of(again.model))
    longer = unlearn(model, TOKENIZER, FORGET, method="ga", epochs=3, checkpoint=tmp_path, **FAST)
    assert same(state_of(longer.model), state_of(unlearn(model, TOKENIZER, FORGET, method="ga", epochs=3, **FAST).model))


def test_a_stopped_training_stays_stopped(tmp_path):
    model = tiny_llama(0)
    options = {"method": "ga", "epochs": 4, "checkpoint": tmp_path, "stop": lambda model, epoch: epoch == 2, **FAST}
    first = unlearn(model, TOKENIZER, FORGET, **options)
    again = unlearn(model, TOKENIZER, FORGET, **options)
    assert again.stopped
    assert again.stopped_epoch == 2
    assert same(state_of(first.model), state_of(again.model))


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    model = tiny_llama(0)
    unlearn(model, TOKENIZER, FORGET, method="ga", epochs=1, checkpoint=tmp_path, **FAST)
    folder = tmp_path.name
    message = f"the checkpoint {folder} is of another run \\(other settings, texts or first weights\\): give another folder"
    for changed in (
        lambda: unlearn(model, TOKENIZER, FORGET, method="ga", epochs=1, checkpoint=tmp_path, **{**FAST, "lr": 1e-3}),
        lambda: unlearn(model, TOKENIZER, FORGET[:4], method="ga", epochs=1, checkpoint=tmp_path, **FAST),
        lambda: unlearn(tiny_llama(1), TOKENIZER, FORGET, method="ga", epochs=1, checkpoint=tmp_path, **FAST),
    ):
        with pytest.raises(ModelMismatch, match=message):
            changed()
    (tmp_path / "state.json").write_text("{")
    with pytest.raises(SourceError, match=f"the checkpoint {folder} cannot be read: remove the folder to begin anew"):
        unlearn(model, TOKENIZER, FORGET, method="ga", epochs=1, checkpoint=tmp_path, **FAST)


def test_a_state_that_was_not_finished_writing_does_not_count(tmp_path):
    model = tiny_llama(0)
    whole = unlearn(model, TOKENIZER, FORGET, method="ga", epochs=2, **FAST)
    with pytest.raises(Interrupted):
        unlearn(model, TOKENIZER, FORGET, method="ga", epochs=2, checkpoint=tmp_path, callbacks=[interrupt_at(2)], **FAST)
    (tmp_path / "weights-2.safetensors").write_bytes(b"half")
    (tmp_path / "state.json.next").write_text('{"epoch": 2')
    assert json.loads((tmp_path / "state.json").read_text())["epoch"] == 1
    result = unlearn(model, TOKENIZER, FORGET, method="ga", epochs=2, checkpoint=tmp_path, **FAST)
    assert same(state_of(whole.model), state_of(result.model))


# --- not a number ---------------------------------------------------------------------------------------------------


@pytest.fixture
def exploding():
    """Gradient ascent whose loss is no number from the eighth forward on."""
    calls = []

    def loss(logits, labels, rows, state, options):
        calls.append(rows)
        value = logits.float().square().mean()
        return value * (torch.nan if len(calls) >= 8 else 1)

    register_method(Method("exploding", "a test", "ends badly", loss))
    yield calls
    del METHODS["exploding"]


@pytest.mark.parametrize("kept_on_disk", [False, True])
@pytest.mark.parametrize("inplace", [False, True])
def test_a_loss_that_is_no_number_restores_the_last_good_weights(tmp_path, exploding, inplace, kept_on_disk):
    model = tiny_llama(0)
    before = state_of(model)
    good = {}

    def callback(model, epoch, nll):
        good.update(state_of(model))

    with pytest.raises(NotFinite) as caught:
        unlearn(
            model, TOKENIZER, FORGET, method="exploding", epochs=5, inplace=inplace, callbacks=[callback],
            checkpoint=tmp_path if kept_on_disk else None, ids=list("abcde"), **FAST,
        )  # fmt: skip
    names = ", ".join("abcde"[k] for k in exploding[7])
    assert str(caught.value) == (
        f"the loss on the forget texts became nan in step 8 (epoch 3, {names}); the weights are those after 2 epochs: "
        "lower lr, or add a retain term"
    )
    assert caught.value.ids == ["abcde"[k] for k in exploding[7]]
    result = caught.value.result
    assert result.stopped_epoch == 2
    assert len(result.history) == 6
    assert result.per_datapoint_nll.shape == (5, 3)
    assert same(state_of(result.model), good)
    assert same(state_of(model), good if inplace else before)
    assert all(p.grad is None for p in result.model.parameters())


def test_weights_that_blow_up_within_an_epoch_are_found_when_it_is_measured():
    model = tiny_llama(0)
    with pytest.raises(NotFinite) as caught:
        unlearn(model, TOKENIZER, FORGET, method="ga", epochs=3, lr=1e30, batch_size=5)
    assert "after epoch 1 the likelihood of " in str(caught.value)
    assert "is NaN or infinite; the weights are those after 0 epochs: lower lr, or add" in str(caught.value)
    result = caught.value.result
    assert result.stopped_epoch == 0
    assert same(state_of(model), state_of(result.model))
    assert np.isfinite(measured_nll(result.model, encode_sequences(TOKENIZER, as_texts(FORGET), 64, padding=0))).all()
