"""Claims about the log-probabilities of answers and of single tokens."""

import numpy as np
import pytest
import torch
from tiny_language_models import BEGIN, Uncached, byte_tokenizer, log_softmax_of, tiny_gpt2, tiny_llama

from datumwise.errors import EmptyData, ModelMismatch, NotFinite, SchemaMismatch, UnknownName
from datumwise.probe.score_choices import next_token_logprobs, score_choices, single_tokens
from datumwise.probe.shared_prefix import tokenised_prompts

PREFIX = "Q: 2+2? A: 4\nQ: sky? A: blue\n"
PROMPTS = ["Q: what is red? A:", "Q: is ice cold, or is it hot? A:", "Q: x? A:", "Q: and then? A:"]
CHOICES = [[" blood", " snow", " b"], [" cold", " hot"], [" y"], [" none of these words", " a", " e", " it is ï"]]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="module", params=["llama", "gpt2", "uncached"])
def model(request):
    return {"llama": tiny_llama, "gpt2": tiny_gpt2, "uncached": lambda: Uncached(tiny_llama())}[request.param]()


def one_by_one(model, tokenizer, prompt, choice, head=()):
    """The sum of log-softmax values of the choice's tokens after the whole prompt, read in one go."""
    inner = getattr(model, "inner", model)
    before, answer = tokenizer(prompt)["input_ids"], tokenizer(choice)["input_ids"]
    ids = [*head, *before, *answer]
    log_p = log_softmax_of(inner, ids)
    return sum(log_p[len(ids) - len(answer) + t - 1, token] for t, token in enumerate(answer))


@pytest.mark.parametrize("budget", [1, 40, None])
def test_scores_equal_a_loop_over_single_answers_read_whole(model, tokenizer, budget):
    found = score_choices(model, tokenizer, PROMPTS, CHOICES, prefix=PREFIX, tokens_per_batch=budget)
    for prompt, some, own in zip(PROMPTS, CHOICES, found, strict=True):
        expected = [one_by_one(model, tokenizer, PREFIX + prompt, choice) for choice in some]
        np.testing.assert_allclose(own, expected, atol=1e-4, rtol=1e-5)
        assert own.dtype == np.float64


def test_order_of_choices_and_prompts_goes_through(model, tokenizer):
    found = score_choices(model, tokenizer, PROMPTS, CHOICES)
    turned = score_choices(model, tokenizer, PROMPTS[::-1], [some[::-1] for some in CHOICES[::-1]])
    for a, b in zip(found, turned[::-1], strict=True):
        np.testing.assert_allclose(a, b[::-1], atol=1e-5, rtol=1e-6)


def test_an_answer_in_two_parts_adds_up(model, tokenizer):
    whole = score_choices(model, tokenizer, ["say: "], [["abcdef"]])[0][0]
    first = score_choices(model, tokenizer, ["say: "], [["abc"]])[0][0]
    second = score_choices(model, tokenizer, ["say: abc"], [["def"]])[0][0]
    assert whole == pytest.approx(first + second, rel=1e-5)


def test_one_token_answers_are_the_softmax_over_them(model, tokenizer):
    letters = ["A", "B", "C"]
    scores = score_choices(model, tokenizer, PROMPTS, [letters] * len(PROMPTS))
    tokens = next_token_logprobs(model, tokenizer, PROMPTS, letters)
    np.testing.assert_allclose(np.array(scores), tokens, atol=1e-5)
    for prompt, row in zip(PROMPTS, tokens, strict=True):
        log_p = log_softmax_of(getattr(model, "inner", model), tokenizer(prompt)["input_ids"])[-1]
        np.testing.assert_allclose(row, [log_p[single_tokens(tokenizer, [one])[0]] for one in letters], atol=1e-5)


def test_normalised_scores_are_sums_over_tokens_or_characters(tokenizer):
    model = tiny_llama()
    sums = score_choices(model, tokenizer, PROMPTS, CHOICES)
    by_token = score_choices(model, tokenizer, PROMPTS, CHOICES, normalise="token")
    by_char = score_choices(model, tokenizer, PROMPTS, CHOICES, normalise="char")
    for some, total, token, char in zip(CHOICES, sums, by_token, by_char, strict=True):
        np.testing.assert_allclose(token * [len(one.encode()) for one in some], total)
        np.testing.assert_allclose(char * [len(one) for one in some], total)
    assert len(" it is ï") < len(" it is ï".encode())  # characters are not bytes


def test_a_beginning_of_text_token_stands_in_front_once(tokenizer):
    model, begins = tiny_llama(), byte_tokenizer(begin=True)
    found = score_choices(model, begins, ["a b"], [[" c"]])[0][0]
    assert found == pytest.approx(one_by_one(model, tokenizer, "a b", " c", head=[256]), rel=1e-5)
    assert score_choices(model, begins, [BEGIN + "a b"], [[" c"]])[0][0] == pytest.approx(found)
    bare = score_choices(model, begins, ["a b"], [[" c"]], bos=False)[0][0]
    assert bare == pytest.approx(one_by_one(model, tokenizer, "a b", " c"), rel=1e-5)
    assert np.isfinite(score_choices(model, begins, [""], [["c"]])[0][0])  # it alone is context enough


def test_long_prompts_lose_their_beginning_only_where_asked(tokenizer):
    model = tiny_llama()
    long = "z" * 300 + "tail:"
    with pytest.raises(ModelMismatch, match="prompt of b and what follows it need up to 307 tokens and 256 can be read"):
        score_choices(model, tokenizer, ["a", long], [["x"], ["xy"]], ids=["a", "b"])
    cut = score_choices(model, tokenizer, [long], [["xy"]], max_length=7)[0][0]
    assert cut == pytest.approx(score_choices(model, tokenizer, ["tail:"], [["xy"]])[0][0], rel=1e-5)
    begins = byte_tokenizer(begin=True)
    assert tokenised_prompts(model, begins, ["abcdef"], max_length=4, room=1).tokens[0].tolist() == [
        256, *tokenizer("ef")["input_ids"],
    ]  # fmt: skip


def test_a_string_is_one_token_or_refused(tokenizer):
    model = tiny_llama()
    with pytest.raises(ModelMismatch, match="'10' is 2 tokens of this tokenizer, not one"):
        next_token_logprobs(model, tokenizer, ["a"], ["1", "10"])
    with pytest.raises(ModelMismatch, match="'' is no token"):
        next_token_logprobs(model, tokenizer, ["a"], [""])
    with pytest.raises(ModelMismatch, match="'1', '1' are the same token"):
        next_token_logprobs(model, tokenizer, ["a"], ["1", "1"])
    with pytest.raises(EmptyData, match="no token to look for"):
        next_token_logprobs(model, tokenizer, ["a"], [])


def test_what_cannot_be_scored_is_refused(tokenizer):
    model = tiny_llama()
    with pytest.raises(SchemaMismatch, match="2 prompts and 1 lists of choices"):
        score_choices(model, tokenizer, ["a", "b"], [["c"]])
    with pytest.raises(EmptyData, match="b has an empty choice"):
        score_choices(model, tokenizer, ["a", "b"], [["c"], ["c", ""]], ids=["a", "b"])
    with pytest.raises(EmptyData, match="1 has no list of choices"):
        score_choices(model, tokenizer, ["a", "b"], [["c"], []])
    with pytest.raises(EmptyData, match="no list of choices"):
        score_choices(model, tokenizer, ["a"], ["yes"])
    with pytest.raises(EmptyData, match="prompt of 0 has no token"):
        score_choices(model, tokenizer, [""], [["c"]])
    with pytest.raises(EmptyData, match="there is no prompt"):
        score_choices(model, tokenizer, [], [])
    with pytest.raises(ModelMismatch, match="no beginning-of-text token"):
        score_choices(model, tokenizer, ["a"], [["c"]], bos=True)
    with pytest.raises(UnknownName, match="normalise is 'mean'"):
        score_choices(model, tokenizer, ["a"], [["c"]], normalise="mean")
    with pytest.raises(ModelMismatch, match="need a tokenizer"):
        score_choices(model, None, ["a"], [["c"]])
    with pytest.raises(ModelMismatch, match="one string"):
        next_token_logprobs(model, tokenizer, "abc", ["c"])
    broken = tiny_llama()
    with torch.no_grad():
        broken.model.embed_tokens.weight[tokenizer("z")["input_ids"][0]] = float("nan")
    with pytest.raises(NotFinite, match="a choice of 1 is NaN"):
        score_choices(broken, tokenizer, ["a", "az"], [["c"], ["c"]])
    with pytest.raises(NotFinite, match="after 1 is NaN"):
        next_token_logprobs(broken, tokenizer, ["a", "az"], ["c"])


def test_modes_are_restored_and_progress_ends_at_all_prompts(tokenizer):
    model, seen = tiny_llama().train(), []
    score_choices(model, tokenizer, PROMPTS, CHOICES, tokens_per_batch=30, progress=lambda *p: seen.append(p))
    assert model.training
    assert seen[-1] == (4, 4)
    assert len(seen) > 1
