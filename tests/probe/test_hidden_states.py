"""Claims about hidden states as features."""

import numpy as np
import pytest
import torch
from tiny_language_models import Uncached, byte_tokenizer, tiny_gpt2, tiny_llama
from transformers import BertConfig, BertModel

from datumwise.errors import EmptyData, ModelMismatch, NotFinite, UnknownName
from datumwise.probe.hidden_states import hidden_states

TEXTS = ["a", "the cat sat on the mat", "two words", "one more text of another length"]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="module", params=[tiny_llama, tiny_gpt2], ids=["llama", "gpt2"])
def model(request):
    return request.param()


def states(model, ids):
    with torch.no_grad():
        return [one[0].numpy() for one in model(torch.tensor([ids]), output_hidden_states=True).hidden_states]


@pytest.mark.parametrize("budget", [1, 30, None])
def test_states_equal_those_of_single_texts(model, tokenizer, budget):
    last = hidden_states(model, tokenizer, TEXTS, tokens_per_batch=budget)
    mean = hidden_states(model, tokenizer, TEXTS, [0, -1], "mean", tokens_per_batch=budget)
    assert last.dtype == np.float32
    assert last.shape == mean.shape == (4, 64)
    for row, text in enumerate(TEXTS):
        own = states(model, tokenizer(text)["input_ids"])
        assert len(own) == 3  # the embeddings and two layers: the middle one is ceil(3 / 2) = 2
        np.testing.assert_allclose(last[row], np.concatenate([own[2][-1], own[2][-1]]), atol=2e-4, rtol=1e-4)
        np.testing.assert_allclose(mean[row], np.concatenate([own[0].mean(0), own[-1].mean(0)]), atol=2e-4, rtol=1e-4)


def test_the_mean_of_a_pair_is_over_its_response(model, tokenizer):
    pair = hidden_states(model, tokenizer, [("the prompt", " answer")], ["last"], "mean")
    own = states(model, tokenizer("the prompt answer")["input_ids"])
    np.testing.assert_allclose(pair[0], own[-1][len("the prompt") :].mean(0), atol=2e-4, rtol=1e-4)


def test_a_model_without_an_output_layer_has_states_too(tokenizer):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=260, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=64,
    )  # fmt: skip
    model = BertModel(config, add_pooling_layer=False).eval()
    found = hidden_states(model, tokenizer, TEXTS, "middle")
    for row, text in enumerate(TEXTS):
        own = states(model, tokenizer(text)["input_ids"])
        np.testing.assert_allclose(found[row], own[2][-1], atol=1e-5)


def test_what_has_no_state_is_refused(tokenizer):
    model = tiny_llama()
    with pytest.raises(EmptyData, match="b has no token"):
        hidden_states(model, tokenizer, ["a", ""], ids=["a", "b"])
    with pytest.raises(EmptyData, match="there is no text"):
        hidden_states(model, tokenizer, [])
    with pytest.raises(ModelMismatch, match="Uncached gives no hidden states"):
        hidden_states(Uncached(model), tokenizer, TEXTS)
    with pytest.raises(ModelMismatch, match="no layer 3: layers are 'middle', 'last' and 0 to 2"):
        hidden_states(model, tokenizer, TEXTS, [3])
    with pytest.raises(UnknownName, match="position is 'first'"):
        hidden_states(model, tokenizer, TEXTS, position="first")
    with pytest.raises(UnknownName, match="no layer was named"):
        hidden_states(model, tokenizer, TEXTS, [])
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer("z")["input_ids"][0]] = float("nan")
    with pytest.raises(NotFinite, match="states of 1 are NaN"):
        hidden_states(model, tokenizer, ["a", "z"])
