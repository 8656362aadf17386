"""A tuned model has learnt its texts; the base model is as it was; the same seed tunes alike."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_language_models import byte_tokenizer, log_softmax_of, tiny_llama

from datumwise.errors import EmptyData, SchemaMismatch
from datumwise.probe.collate import encode_texts
from datumwise.probe.fine_tune import descend, fine_tuned, token_logprobs
from datumwise.probe.language_model import language_model_signals

PROMPTS, RESPONSES = ["ab", "cd", "ef", "gh"], ["12 12 12", "34 34 34 34", "56 56", "78"]


def nll(model, tokenizer):
    pairs = list(zip(PROMPTS, RESPONSES, strict=True))
    return language_model_signals(model, pairs, ["nll"], tokenizer=tokenizer)["nll"]


def test_tuning_teaches_the_responses_and_leaves_the_model_as_it_was():
    model, tokenizer = tiny_llama(scale=1.0), byte_tokenizer()
    before, weights = nll(model, tokenizer), {k: v.clone() for k, v in model.state_dict().items()}
    with fine_tuned(model, tokenizer, PROMPTS, RESPONSES, epochs=30, batch=2, lr=2e-2) as tuned:
        after = nll(tuned, tokenizer)
        assert not tuned.training
    assert (after < 0.95 * before).all()
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    np.testing.assert_array_equal(nll(model, tokenizer), before)


def test_the_same_seed_tunes_alike_and_torchs_own_state_is_left_alone():
    model, tokenizer = tiny_llama(scale=1.0), byte_tokenizer()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    found = []
    for seed in (0, 0, 1):
        with fine_tuned(model, tokenizer, PROMPTS, RESPONSES, epochs=5, batch=2, lr=2e-2, seed=seed) as tuned:
            found.append(nll(tuned, tokenizer))
    assert torch.equal(torch.rand(3), expected)
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.allclose(found[0], found[2])


def test_the_model_comes_back_also_after_an_error():
    model, tokenizer = tiny_llama(scale=1.0), byte_tokenizer()
    names = [name for name, _ in model.named_parameters()]

    def tune():
        with fine_tuned(model, tokenizer, PROMPTS, RESPONSES, epochs=1):
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        tune()
    assert [name for name, _ in model.named_parameters()] == names
    assert all(p.requires_grad for p in model.parameters())


def test_token_logprobs_are_those_of_each_text_alone():
    model, tokenizer = tiny_llama(), byte_tokenizer()
    texts = encode_texts(tokenizer, list(zip(PROMPTS, RESPONSES, strict=True)))
    found, rows = token_logprobs(model, tokenizer, texts)
    for i, text in enumerate(texts):
        ids = np.asarray(text.input_ids)
        table = log_softmax_of(model, ids)
        at = np.flatnonzero(np.asarray(text.labels)[1:] != -100)
        np.testing.assert_allclose(found[rows == i].detach().numpy(), table[at, ids[at + 1]], atol=1e-5)


def test_descent_is_adamw_with_a_rate_that_falls_to_a_tenth():
    """Two updates of one weight w with loss w x: the gradient is the mean of x, whatever the pieces."""
    x = torch.tensor([1.0, 3.0, 5.0])
    model = torch.nn.Linear(1, 1, bias=False)
    twin = torch.nn.Parameter(model.weight.detach().clone())
    losses = descend(
        model, 3, lambda rows: model(x[list(rows)][:, None]).sum(), lr=0.1, weight_decay=0.3, epochs=2, effective=3, per_pass=2
    )
    optimiser = torch.optim.AdamW([twin], lr=0.1, weight_decay=0.3)
    for rate in (0.1, 0.1 * (1 - 0.9 / 2)):
        optimiser.param_groups[0]["lr"] = rate
        optimiser.zero_grad()
        (twin * 3.0).sum().backward()
        optimiser.step()
    assert torch.allclose(model.weight, twin, atol=1e-6)
    assert len(losses) == 2


def test_bad_input_is_refused():
    model, tokenizer = tiny_llama(), byte_tokenizer()
    with pytest.raises(EmptyData, match="nothing to fine-tune on"), fine_tuned(model, tokenizer, [], []):
        pass
    with pytest.raises(SchemaMismatch, match="1 prompts and 2 responses"), fine_tuned(model, tokenizer, ["a"], ["b", "c"]):
        pass
