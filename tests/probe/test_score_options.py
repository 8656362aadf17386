"""Claims about options: equal to one un-padded float64 forward each, whatever the batch, the order or the tokenizer's joins."""

import numpy as np
import pytest
import torch
from tiny_language_models import Uncached, byte_tokenizer, log_softmax_of, tiny_gpt2, tiny_llama
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from datumwise.errors import EmptyData, ModelMismatch, NotFinite, SchemaMismatch, UnknownName
from datumwise.probe.score_options import option_logprobs, prefix_groups, score_options

SHOTS = {"born": "Where was A born? Rome\nWhere was B born? Oslo\n", "sex": "Gender of A? male\nGender of B? female\n"}
PROMPTS = [SHOTS[r] + q for r, q in (("born", "Where was C born?"), ("sex", "Gender of C?"), ("born", "Where was Dé born?"))]
OPTIONS = [["Rome", "Paris", "R", "Köln"], ["male", "female"], ["Oslo"]]


def merging_tokenizer():
    """Merges across blanks and punctuation, so that an option's first token may begin before the option."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    raw.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=259, initial_alphabet=alphabet, show_progress=False)
    raw.train_from_iterator(["born? Rome"] * 3 + ["? R", "? R", "? R"], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=raw, model_max_length=256)


def brute_force(model, tokenizer, prompt, option):
    """Joined text, one forward, every token that ends after the prompt."""
    text = f"{prompt} {option}"
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    ids = start + encoded["input_ids"]
    log_p = log_softmax_of(model.double(), ids)
    model.float()
    own = [len(start) + i for i, (_, end) in enumerate(encoded["offset_mapping"]) if end > len(prompt)]
    return np.mean([log_p[i - 1, ids[i]] for i in own]), len(own)


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize(
    "tokenizer", [byte_tokenizer(), byte_tokenizer(begin=True), merging_tokenizer()], ids=["byte", "bos", "bpe"]
)
def test_equal_to_one_unpadded_forward_an_option(make, tokenizer):
    model = make()
    found = score_options(model, tokenizer, PROMPTS, OPTIONS, tokens_per_batch=40)
    counts = option_logprobs(model, tokenizer, PROMPTS, OPTIONS)[1]
    for prompt, options, own, n in zip(PROMPTS, OPTIONS, found, counts, strict=True):
        want = [brute_force(model, tokenizer, prompt, one) for one in options]
        np.testing.assert_allclose(own, [value for value, _ in want], atol=1e-5)
        assert n.tolist() == [tokens for _, tokens in want]


def test_a_token_that_holds_the_prompts_end_counts_for_the_option():
    tokenizer = merging_tokenizer()
    joined = tokenizer("born? Rome", return_offsets_mapping=True)["offset_mapping"]
    assert any(start < 5 < end for start, end in joined)  # else this test shows nothing
    model = tiny_llama()
    found = score_options(model, tokenizer, ["born?"], [["Rome"]])
    assert found[0] == pytest.approx(brute_force(model, tokenizer, "born?", "Rome")[0], abs=1e-5)


def test_neither_batch_nor_order_nor_padding_side_matters():
    model, tokenizer = tiny_llama(), byte_tokenizer(begin=True)
    whole = score_options(model, tokenizer, PROMPTS, OPTIONS)
    for budget in (1, 64, 4096):
        for own, want in zip(score_options(model, tokenizer, PROMPTS, OPTIONS, tokens_per_batch=budget), whole, strict=True):
            np.testing.assert_allclose(own, want, atol=1e-5)
    turned = score_options(model, tokenizer, PROMPTS[::-1], [some[::-1] for some in OPTIONS[::-1]])
    for own, want in zip(turned[::-1], whole, strict=True):
        np.testing.assert_allclose(own[::-1], want, atol=1e-5)
    tokenizer.padding_side = "left"
    for own, want in zip(score_options(model, tokenizer, PROMPTS, OPTIONS), whole, strict=True):
        np.testing.assert_allclose(own, want, atol=1e-6)


def test_equal_logits_give_minus_log_v():
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    for own in score_options(model, byte_tokenizer(), PROMPTS, OPTIONS):
        np.testing.assert_allclose(own, -np.log(260), atol=1e-6)


def test_sums_are_means_times_tokens_and_a_fact_may_have_no_option():
    model, tokenizer = tiny_llama(), byte_tokenizer()
    options = [["Rome", "R"], [], ["Oslo"]]
    sums, counts = option_logprobs(model, tokenizer, PROMPTS, options)
    means = score_options(model, tokenizer, PROMPTS, options)
    assert [len(one) for one in means] == [2, 0, 1]
    assert counts[0].tolist() == [5, 2]  # with the blank
    np.testing.assert_allclose(means[0] * counts[0], sums[0])
    np.testing.assert_allclose(score_options(model, tokenizer, PROMPTS, options, normalise="sum")[0], sums[0])


def test_a_model_without_a_cache_gives_the_same():
    model = tiny_llama()
    want = score_options(model, byte_tokenizer(), PROMPTS, OPTIONS)
    for own, one in zip(score_options(Uncached(model), byte_tokenizer(), PROMPTS, OPTIONS), want, strict=True):
        np.testing.assert_allclose(own, one, atol=1e-5)


def test_the_model_comes_back_as_it_was():
    model = tiny_llama().train()
    score_options(model, byte_tokenizer(), PROMPTS, OPTIONS)
    assert model.training


def test_a_shared_beginning_is_read_once():
    model, tokens = tiny_llama(), []
    hook = model.get_input_embeddings().register_forward_hook(lambda module, given, out: tokens.append(given[0].numel()))
    shots = "".join(f"Where was {c} born? Rome\n" for c in "ABCDE")
    prompts = [f"{shots}Where was {c} born?" for c in "FGHIJKLM"]
    score_options(model, byte_tokenizer(), prompts, [["Rome", "Oslo", "Paris"]] * 8)
    hook.remove()
    assert sum(tokens) < sum(len(p) for p in prompts) / 3  # and three options each beside


def test_groups_are_a_partition_of_rows_that_share():
    rng = np.random.default_rng(0)
    starts = rng.integers(0, 9, (4, 20))
    rows = [np.concatenate([starts[i % 4], rng.integers(0, 9, rng.integers(1, 8))]) for i in range(23)]
    groups = prefix_groups(rows)
    assert sorted(i for group in groups for i in group) == list(range(23))
    assert len(groups) == 4
    assert all(len({i % 4 for i in group}) == 1 for group in groups)
    assert len(prefix_groups(rows, share=1.01)) == 23
    assert prefix_groups(rows, share=0.0) == [[i for group in groups for i in group]]


def test_wrong_options_are_refused():
    model, tokenizer = tiny_llama(), byte_tokenizer()
    with pytest.raises(SchemaMismatch, match="3 prompts and 1 lists of options differ in number"):
        score_options(model, tokenizer, PROMPTS, [["x"]])
    with pytest.raises(EmptyData, match="fact7 has an empty option, or no list of options"):
        score_options(model, tokenizer, ["a", "b"], [["x"], ["x", ""]], ids=["fact6", "fact7"])
    with pytest.raises(EmptyData, match="there is no prompt with an option"):
        score_options(model, tokenizer, ["a"], [[]])
    with pytest.raises(EmptyData, match="an option of fact6 has no token of its own, or none before it"):
        score_options(model, tokenizer, ["", "b"], [["x"], ["x"]], ids=["fact6", "fact7"])
    with pytest.raises(
        ModelMismatch, match="the prompt of fact7 and what follows it need up to 302 tokens and 256 can be read"
    ):
        score_options(model, tokenizer, ["a", "b" * 300], [["x"], ["x"]], ids=["fact6", "fact7"])
    with pytest.raises(ModelMismatch, match="options need a tokenizer that gives offsets: pass its fast version"):
        score_options(model, object(), ["a"], [["x"]])
    with pytest.raises(UnknownName, match="normalise is 'char'"):
        score_options(model, tokenizer, ["a"], [["x"]], normalise="char")
    with torch.no_grad():
        model.lm_head.weight[:] = float("nan")
    with pytest.raises(NotFinite, match="the log-probability of an option of 0 is NaN or infinite"):
        score_options(model, tokenizer, ["a"], [["x"]])
