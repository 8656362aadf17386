"""A reward is what the reward model says of the pair, in whatever batch it is asked."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import EmptyData, ModelMismatch, NotFinite, SchemaMismatch
from datumwise.score.reward import reward

PROMPTS = ["Why?", "How are you today?", "2 + 2 = ?", "x"]
RESPONSES = ["Because it was raining all night.", "Fine.", "4", "yyyyyyyyyyyy"]


@pytest.fixture(scope="module")
def judge():
    import torch
    from tiny_language_models import byte_tokenizer
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=260, n_embd=32, n_layer=2, n_head=4, n_positions=128, num_labels=1)
    tokenizer = byte_tokenizer()
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(0)
    tokenizer.chat_template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
    return GPT2ForSequenceClassification(config).eval(), tokenizer


def test_equals_the_model_asked_one_pair_at_a_time(judge):
    import torch

    model, tokenizer = judge
    found = reward(judge, PROMPTS, RESPONSES, batch_size=3)["reward"]
    for prompt, response, value in zip(PROMPTS, RESPONSES, found, strict=True):
        ids = tokenizer(f"user: {prompt}\nassistant: {response}\n", return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            assert value == pytest.approx(model(ids).logits.item(), abs=1e-5)


def test_batches_and_order_change_nothing(judge):
    one = reward(judge, PROMPTS, RESPONSES, batch_size=1)["reward"]
    back = reward(judge, PROMPTS[::-1], RESPONSES[::-1], batch_size=4)["reward"]
    np.testing.assert_allclose(back[::-1], one, atol=1e-5)


def test_a_function_is_a_judge_too():
    done = []
    found = reward(
        lambda p, r: [len(x) for x in r], PROMPTS, RESPONSES, batch_size=3, progress=lambda d, t: done.append((d, t))
    )
    assert found["reward"].tolist() == [len(r) for r in RESPONSES]
    assert done == [(3, 4), (4, 4)]


def test_bad_input_is_refused(judge):
    with pytest.raises(EmptyData, match="no response to judge"):
        reward(len, [], [])
    with pytest.raises(SchemaMismatch, match="2 prompts and 1 responses"):
        reward(len, ["a", "b"], ["c"])
    with pytest.raises(SchemaMismatch, match=r"shape \(\) for 1 pairs"):
        reward(lambda p, r: 3, ["a"], ["b"])
    with pytest.raises(NotFinite, match="row 1"):
        reward(lambda p, r: [np.nan if x == "b" else 0 for x in r], ["a", "a"], ["a", "b"])
    with pytest.raises(ModelMismatch, match="a judge of type str cannot be asked"):
        reward("gpt", ["a"], ["b"])
    from transformers import GPT2Config, GPT2ForSequenceClassification

    two = GPT2ForSequenceClassification(GPT2Config(vocab_size=260, n_embd=32, n_layer=1, n_head=4, num_labels=2))
    with pytest.raises(ModelMismatch, match="has 2 outputs: give a sequence classifier with num_labels=1"):
        reward((two, judge[1]), ["a"], ["b"])
