"""Task vectors, and two models that answer as one: against dense computations and generation without a cache."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_language_models import byte_tokenizer, tiny_gpt2, tiny_llama
from torch import nn

from datumwise.errors import DatumwiseError, EmptyData, ModelMismatch, NotFinite, UnknownName
from datumwise.forget.reinforce import reinforced
from datumwise.forget.sequences import encode_sequences
from datumwise.forget.task_arithmetic import negate, task_vector
from datumwise.forget.texts import as_texts
from datumwise.forget.uld import ULDModel, first_layers, train_assistant, uniform_cross_entropy
from datumwise.forget.whp import WHPModel, generic_logits
from datumwise.probe.generate import generate
from datumwise.probe.language_model import language_model_signals

PROMPTS = ["the cat", "a long prompt of some more words than that", "x"]


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def encoded(texts):
    return encode_sequences(byte_tokenizer(begin=True), as_texts(texts), 64, padding=0)


# --- task vectors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_alpha_zero_is_the_target_and_minus_one_the_reinforced_model_bit_for_bit(make, dtype):
    target, r = make(0).to(dtype), make(1).to(dtype)
    vector = task_vector(target, r)
    assert same(negate(target, vector, 0), target)
    assert same(negate(target, vector, -1), r)


def test_negation_is_theta_minus_alpha_times_the_difference_with_tied_weights_once():
    target, r = tiny_gpt2(0), tiny_gpt2(1)  # head and embedding are one matrix
    before = copy.deepcopy(target)
    new = negate(target, task_vector(target, r), 5.0)
    for (name, got), f, other in zip(new.named_parameters(), target.parameters(), r.parameters(), strict=True):
        assert torch.allclose(got, f - 5 * (other - f), atol=1e-5), name
    assert same(target, before)
    assert new.lm_head.weight is new.transformer.wte.weight
    assert negate(target, task_vector(before, r), 5.0, inplace=True) is target
    assert same(target, new)


def test_saved_buffers_are_part_of_the_vector_and_integers_are_not():
    a, b = (nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in range(2))
    b(torch.randn(8, 2))
    vector = task_vector(a, b)
    assert "1.running_mean" in vector
    assert "1.num_batches_tracked" not in vector
    assert torch.equal(negate(a, vector, -1)[1].running_var, b[1].running_var)


def test_vectors_of_other_models_are_refused():
    with pytest.raises(ModelMismatch, match=r"only one of the models has bias"):
        task_vector(nn.Linear(2, 2), nn.Linear(2, 2, bias=False))
    with pytest.raises(ModelMismatch, match=r"weight has shape \(2, 2\) in the base and \(3, 2\)"):
        task_vector(nn.Linear(2, 2), nn.Linear(2, 3))
    broken = nn.Linear(2, 2)
    nn.init.constant_(broken.bias, float("nan"))
    with pytest.raises(NotFinite, match="bias is not finite"):
        task_vector(nn.Linear(2, 2), broken)
    with pytest.raises(ModelMismatch, match="the model has no other"):
        negate(nn.Linear(2, 2), {"other": torch.zeros(2)}, 1)
    with pytest.raises(ModelMismatch, match="bias of the vector has another shape"):
        negate(nn.Linear(2, 2), {"bias": torch.zeros(3)}, 1)
    with pytest.raises(DatumwiseError, match="alpha is nan"):
        negate(nn.Linear(2, 2), {}, float("nan"))


def test_reinforcing_lowers_the_loss_repeats_and_leaves_the_model_and_the_random_state():
    model = tiny_llama()
    before, state = copy.deepcopy(model), torch.get_rng_state()
    texts = encoded(["the cat sat on the mat", "a dog ran"])
    a, b = (reinforced(model, texts, lr=1e-3, epochs=4, batch_size=1, random_state=3) for _ in range(2))
    assert same(a, b)
    assert same(model, before)
    assert torch.equal(torch.get_rng_state(), state)
    assert not a.training
    assert all(p.requires_grad and p.grad is None for p in a.parameters())
    nll = [language_model_signals(m, texts.items, ["nll"])["nll"].sum() for m in (model, a)]
    assert nll[1] < 0.9 * nll[0]
    assert not same(a, reinforced(model, texts, lr=1e-3, epochs=4, batch_size=1, random_state=4))
    assert same(reinforced(model, texts, epochs=0), model)


def test_training_that_is_not_finite_gives_the_first_weights_back():
    model = tiny_llama()
    before = copy.deepcopy(model)
    with pytest.raises(NotFinite, match=r"the loss of step \d is not finite \(texts 0"):
        reinforced(model, encoded(["the cat sat"]), lr=1e30, epochs=5, max_grad_norm=0, inplace=True)
    assert same(model, before)
    assert all(p.requires_grad for p in model.parameters())
    with pytest.raises(UnknownName, match="no schedule 'linear'"):
        reinforced(model, encoded(["the cat sat"]), schedule="linear")


# --- two models as one ------------------------------------------------------------------------------------------------------


def pairs():
    return [
        (WHPModel(tiny_llama(0), tiny_llama(1), 1.5), lambda f, r: f - 1.5 * (r - f).clamp_min(0)),
        (ULDModel(tiny_gpt2(0), tiny_llama(1), 0.8), lambda f, a: f - 0.8 * a),  # another architecture as the assistant
        (ULDModel(tiny_llama(0), first_layers(tiny_llama(1), 1), 0.5), lambda f, a: f - 0.5 * a),
    ]


@pytest.mark.parametrize("which", range(3))
def test_logits_are_those_of_the_formula(which):
    model, formula = pairs()[which]
    ids = torch.randint(0, 256, (3, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = formula(model.first(ids).logits, model.second(ids).logits)
        assert torch.allclose(model(ids).logits, wanted, atol=1e-5)
        labels = ids.clone()
        labels[:, :4] = -100
        by_hand = torch.nn.functional.cross_entropy(wanted[:, 3:-1].reshape(-1, 260), ids[:, 4:].reshape(-1))
        assert model(ids, labels=labels).loss == pytest.approx(float(by_hand), abs=1e-5)


def test_alpha_zero_and_an_equal_reinforced_model_answer_as_the_target():
    ids = torch.arange(12)[None]
    target = tiny_llama(0)
    for model in (WHPModel(target, tiny_llama(1), 0), WHPModel(target, tiny_llama(0), 7.0), ULDModel(target, tiny_llama(1), 0)):
        assert torch.equal(model(ids).logits, target(ids).logits)


@pytest.mark.parametrize("which", range(3))
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 2, "num_return_sequences": 2}])
def test_generation_with_the_cache_of_both_is_generation_without(which, options):
    model, _ = pairs()[which]
    tokenizer = byte_tokenizer(begin=True)
    ids = tokenizer("the cat sat", return_tensors="pt")
    more = {"max_new_tokens": 12, "do_sample": False, **options}
    cached, bare = (model.generate(**ids, use_cache=use, **more) for use in (True, False))
    assert torch.equal(cached, bare)
    assert cached.shape[1] > ids["input_ids"].shape[1]


@pytest.mark.parametrize("which", range(3))
def test_the_shared_prefix_generation_and_the_signals_read_both_models(which):
    model, formula = pairs()[which]
    tokenizer = byte_tokenizer(begin=True)
    together = generate(model, tokenizer, PROMPTS, max_new_tokens=10, prefix="Question: ")
    alone = [generate(model, tokenizer, [p], max_new_tokens=10, prefix="Question: ")[0] for p in PROMPTS]
    assert together == alone
    ids = torch.tensor([tokenizer("the cat sat")["input_ids"]])
    with torch.no_grad():
        log_p = torch.log_softmax(formula(model.first(ids).logits, model.second(ids).logits), -1)[0]
    wanted = -log_p[torch.arange(ids.shape[1] - 1), ids[0, 1:]].sum()
    nll = language_model_signals(model, ["the cat sat"], ["nll"], tokenizer=tokenizer)["nll"][0]
    assert nll == pytest.approx(float(wanted), abs=1e-3)


def test_a_padded_batch_answers_as_each_prompt_alone():
    model, _ = pairs()[0]
    alone = torch.tensor([[5, 6, 7]])
    padded = torch.tensor([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]])
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    options = {"max_new_tokens": 8, "do_sample": False}
    got = model.generate(padded, attention_mask=mask, **options)[0, 5:]
    assert torch.equal(got, model.generate(alone, attention_mask=torch.ones_like(alone), **options)[0, 3:])


def test_the_parts_are_not_changed_and_their_configuration_neither():
    base, r = tiny_llama(0), tiny_llama(1)
    before, config = copy.deepcopy(base), base.config.to_dict()
    model = WHPModel(base, r)
    model.generate(torch.tensor([[1, 2]]), max_new_tokens=3)
    model.config.use_cache = False
    assert same(base, before)
    assert base.config.to_dict() == config
    assert base.generation_config is not model.generation_config


def test_models_that_do_not_fit_are_refused():
    small = tiny_llama(0)
    small.resize_token_embeddings(200)
    with pytest.raises(ModelMismatch, match="vocabularies of 260 and 200 tokens"):
        WHPModel(tiny_llama(0), small)
    with pytest.raises(DatumwiseError, match="alpha is -1"):
        WHPModel(tiny_llama(0), tiny_llama(1), -1)
    with pytest.raises(DatumwiseError, match="weight is nan"):
        ULDModel(tiny_llama(0), tiny_llama(1), float("nan"))
    whole = tiny_llama(0)
    past = whole(torch.tensor([[1, 2]]), use_cache=True).past_key_values
    with pytest.raises(ModelMismatch, match="the cache holds 2 layers, these two models have 2 and 2"):
        WHPModel(whole, tiny_llama(1))(torch.tensor([[3]]), past_key_values=past)


def test_generic_logits_take_away_only_what_grew():
    z, r = torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 1.0, 0.0])
    assert generic_logits(z, r, 3.0).tolist() == [-3.0, 1.0, 2.0]


# --- the assistant ----------------------------------------------------------------------------------------------------------


def test_the_first_layers_answer_as_the_model_cut_by_hand():
    model = tiny_llama(0)
    cut, ids = first_layers(model, 1), torch.arange(8)[None]
    hidden = model(ids, output_hidden_states=True).hidden_states[1]
    assert torch.allclose(cut(ids).logits, model.lm_head(model.model.norm(hidden)), atol=1e-5)
    assert len(model.model.layers) == 2
    assert len(cut.model.layers) == cut.config.num_hidden_layers == 1
    assert cut.model.layers[0].mlp.up_proj.weight.data_ptr() != model.model.layers[0].mlp.up_proj.weight.data_ptr()
    assert len(first_layers(tiny_gpt2(0), 1).transformer.h) == 1
    with pytest.raises(ModelMismatch, match="3 first layers were asked for of 2"):
        first_layers(model, 3)
    with pytest.raises(ModelMismatch, match="no list of layers was found in Linear"):
        first_layers(nn.Linear(2, 2), 1)


def test_the_assistant_knows_what_is_forgotten_and_is_at_a_loss_over_the_rest():
    forget, retain = encoded(["the cat sat on the mat"] * 4), encoded(["zebras xylophones quartz jinx"] * 4)
    assistant = train_assistant(tiny_llama(0, scale=1.0), forget, retain, lr=5e-3, epochs=40)
    nll = [language_model_signals(assistant, part.items, ["mean_nll"])["mean_nll"].mean() for part in (forget, retain)]
    assert nll[0] < 2.5
    assert nll[1] > 5.0  # uniform over 260 tokens: 5.56
    with pytest.raises(EmptyData, match="must be told what is kept"):
        train_assistant(tiny_llama(0), forget, None)


def test_uniform_cross_entropy_by_hand():
    logits = torch.tensor([[[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]]])
    assert float(uniform_cross_entropy(logits[:, :1].repeat(1, 2, 1), torch.tensor([[1, 1]]))) == pytest.approx(0, abs=1e-6)
    log_p = torch.log_softmax(logits[0, 1], 0)
    wanted = float(-log_p.mean() - torch.log(torch.tensor(3.0)))
    assert float(uniform_cross_entropy(logits.flip(1), torch.tensor([[1, 1]]))) == pytest.approx(wanted, abs=1e-6)
