"""Claims about what a model writes."""

import numpy as np
import pytest
import torch
from tiny_language_models import Uncached, byte_tokenizer, log_softmax_of, tiny_gpt2, tiny_llama

from datumwise.errors import ModelMismatch, NotFinite
from datumwise.probe.generate import generate
from datumwise.probe.recitation import recitation

PROMPTS = ["Once upon a time", "The", "Once upon", "1, 2, 3, 4, 5, 6, 7, 8", "Once again"]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="module", params=["llama", "gpt2", "uncached"])
def model(request):
    return {"llama": tiny_llama, "gpt2": tiny_gpt2, "uncached": lambda: Uncached(tiny_gpt2())}[request.param]()


def greedy(model, ids, n):
    """The likeliest token, n times, the whole text read anew for each."""
    ids = list(ids)
    for _ in range(n):
        ids.append(int(log_softmax_of(getattr(model, "inner", model), ids)[-1].argmax()))
        if ids[-1] == 259:
            break
    return ids[-n:] if ids[-1] != 259 else ids


def written(model, tokenizer, prompt, n):
    ids = tokenizer(prompt)["input_ids"]
    return tokenizer.decode(greedy(model, ids, n)[-n:] if n else [], skip_special_tokens=True)


@pytest.mark.parametrize("budget", [1, 25, None])
def test_answers_equal_reading_the_whole_text_anew_for_each_token(model, tokenizer, budget):
    expected = [written(model, tokenizer, prompt, 12) for prompt in PROMPTS]
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=12, tokens_per_batch=budget) == expected
    shared = ["tell me: " + prompt for prompt in PROMPTS]
    expected = [written(model, tokenizer, prompt, 6) for prompt in shared]
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=6, prefix="tell me: ", tokens_per_batch=budget) == expected


def test_an_answer_ends_before_its_stop_and_the_others_go_on(model, tokenizer):
    free = generate(model, tokenizer, PROMPTS, max_new_tokens=12)
    stop = [one[4] for one in free if len(one) > 5][:2]
    expected = [min((one.partition(s)[0] for s in stop), key=len) for one in free]
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=12, stop=stop) == expected
    assert expected != free


def test_an_answer_ends_at_the_end_of_text_token(tokenizer):
    model = tiny_llama()
    free = [greedy(model, tokenizer(prompt)["input_ids"], 8) for prompt in PROMPTS]
    end = free[0][2]
    model.config.eos_token_id = model.generation_config.eos_token_id = end
    cut = generate(model, tokenizer, PROMPTS, max_new_tokens=8)
    stops = [ids.index(end) + 1 if end in ids else 8 for ids in free]
    assert cut == [tokenizer.decode(ids[:stop], skip_special_tokens=True) for ids, stop in zip(free, stops, strict=True)]
    assert stops[0] <= 3
    assert max(stops) == 8


def test_drawn_answers_depend_on_seed_and_row_only_and_follow_the_model(tokenizer):
    model = tiny_llama(scale=1.5)
    one = generate(model, tokenizer, PROMPTS, max_new_tokens=6, temperature=1.0, seed=3)
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=6, temperature=1.0, seed=3, tokens_per_batch=1) == one
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=6, temperature=1.0, seed=4) != one
    assert generate(model, tokenizer, PROMPTS, max_new_tokens=6, temperature=1e-6) == generate(
        model, tokenizer, PROMPTS, max_new_tokens=6
    )
    n = 4000
    drawn = generate(model, tokenizer, ["The"] * n, max_new_tokens=1, temperature=0.5)
    log_p = log_softmax_of(model, tokenizer("The")["input_ids"])[-1] / 0.5
    p = np.exp(log_p - log_p.max())
    p /= p.sum()
    texts = np.array([tokenizer.decode([token], skip_special_tokens=True) for token in range(256)])
    for token in np.argsort(-p[:256])[:5]:
        share = p[:256][texts == texts[token]].sum()
        assert abs(np.mean(np.array(drawn) == texts[token]) - share) < 4 * np.sqrt(share * (1 - share) / n)


def test_what_cannot_be_written_is_refused(tokenizer):
    model = tiny_llama()
    for options, said in (
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"max_new_tokens": 5, "temperature": -1}, "temperature is -1"),
        ({"max_new_tokens": 5, "stop": ""}, "stop string is empty"),
        ({"max_new_tokens": 256}, "up to 272 tokens and 256 can be read"),
    ):
        with pytest.raises(ModelMismatch, match=said):
            generate(model, tokenizer, PROMPTS[:1], **options)
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer("T")["input_ids"][0]] = float("nan")
    with pytest.raises(NotFinite, match="NaN after b"):
        generate(model, tokenizer, PROMPTS[:2], max_new_tokens=2, ids=["a", "b"])


def test_recitation_is_the_share_of_greedy_tokens_that_agree_position_by_position(model):
    rng = np.random.default_rng(0)
    start = rng.integers(0, 256, 8).tolist()
    own = greedy(model, start, 10)
    wrong = list(own)
    wrong[3] = (wrong[3] + 1) % 250
    other = rng.integers(0, 256, 18).tolist()
    free = greedy(model, other[:8], 10)
    texts = [start + own, start + wrong, other, start + own[:4], start]
    found = recitation(model, [np.array(text) for text in texts], after=8, n_tokens=10)
    expected = [1.0, 0.9, np.mean(np.array(free) == np.array(other[8:])), 1.0, np.nan]
    np.testing.assert_allclose(found, expected)


def test_recitation_refuses_to_start_from_nothing():
    with pytest.raises(ModelMismatch, match="after is 0"):
        recitation(tiny_llama(), [np.arange(5)], after=0)
