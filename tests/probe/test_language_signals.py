"""Claims about what one forward of a causal language model says of a text, beyond its likelihood."""

import numpy as np
import pytest
import torch
from tiny_language_models import BEGIN, Uncached, byte_tokenizer, log_softmax_of, tiny_gpt2, tiny_llama

from datumwise.errors import ModelMismatch
from datumwise.probe.collate import Encoded
from datumwise.probe.language_model import LANGUAGE_SIGNALS, language_model_signals, token_columns
from datumwise.probe.perturbed import perturbed_nll, with_words_deleted
from datumwise.probe.recitation import recitation
from datumwise.probe.subnetworks import subnetwork, subnetwork_likelihood

PAIRS = [
    ("What is the capital of France?\n", "Paris, of course."),
    ("Say it.\n", "it"),
    ("Repeat Paris, of course. twice\n", "Paris, of course. Paris, of course."),
    ("", "an answer to nothing, that is longer than thirty-two bytes"),
    ("only a question\n", ""),
    ("one\n", "x"),
]


@pytest.fixture(scope="module", params=["llama", "gpt2", "uncached"])
def model(request):
    return {"llama": tiny_llama, "gpt2": tiny_gpt2, "uncached": lambda: Uncached(tiny_llama())}[request.param]()


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


def by_hand(model, head, response):
    """float64 statistics of the response's tokens, one text, straight from the definitions."""
    ids = [*head, *response]
    log_p = log_softmax_of(getattr(model, "inner", model), ids) if ids else None
    rows = []
    for t in range(max(1, len(head)), len(ids)):
        own = log_p[t - 1]
        p, order = np.exp(own), np.sort(own)[::-1]
        mean = (p * own).sum()
        sd = np.sqrt((p * own**2).sum() - mean**2)
        onehot = np.eye(len(p))[ids[t]]
        rows.append(
            {
                "logprob": own[ids[t]],
                "entropy": -mean,
                "margin": order[0] - order[1],
                "top_margin": np.exp(order[0]) - np.exp(order[1]),
                "doubt": 1 - np.exp(order[0]),
                "greedy": order[0],
                "z": (own[ids[t]] - mean) / sd,
                "el2n": np.linalg.norm(p - onehot),
                "hit": own.argmax() == ids[t],
            }
        )
    return {key: np.array([row[key] for row in rows]) for key in rows[0]} if rows else None


@pytest.mark.parametrize("budget", [1, 60, None])
def test_signals_equal_their_definitions_on_single_texts(model, tokenizer, budget):
    found = language_model_signals(model, PAIRS, set(LANGUAGE_SIGNALS), tokenizer=tokenizer, tokens_per_batch=budget)
    for row, (prompt, response) in enumerate(PAIRS):
        head, tail = tokenizer(prompt)["input_ids"], tokenizer(response)["input_ids"]
        expected = by_hand(model, head, tail)
        if expected is None:
            assert found["n_tokens"][row] == found["n_tokens_alone"][row] == found["nll"][row] == found["nll_alone"][row] == 0
            assert np.isnan([found[k][row] for k in ("top_margin", "min_margin", "least_confidence", "lm_el2n")]).all()
            assert len(found["token_z"][row]) == 0
            continue
        np.testing.assert_allclose(found["token_logprobs"][row], expected["logprob"], atol=2e-4)
        np.testing.assert_allclose(found["token_z"][row], expected["z"], atol=2e-3, rtol=1e-3)
        close = {"atol": 2e-4, "rtol": 1e-4}
        np.testing.assert_allclose(found["nll"][row], -expected["logprob"].sum(), **close)
        np.testing.assert_allclose(found["entropy"][row], expected["entropy"].mean(), **close)
        np.testing.assert_allclose(found["margin"][row], expected["margin"].mean(), **close)
        np.testing.assert_allclose(found["top_margin"][row], expected["top_margin"].mean(), **close)
        np.testing.assert_allclose(found["min_margin"][row], expected["top_margin"].min(), **close)
        np.testing.assert_allclose(found["least_confidence"][row], expected["doubt"].mean(), **close)
        np.testing.assert_allclose(found["greedy_nll"][row], -expected["greedy"].sum(), **close)
        np.testing.assert_allclose(found["lm_el2n"][row], expected["el2n"].mean(), **close)
        alone = by_hand(model, [], tail)
        if alone is None:  # one token, nothing in front
            assert found["n_tokens_alone"][row] == 0
        else:
            assert found["n_tokens_alone"][row] == len(tail) - 1
            np.testing.assert_allclose(found["nll_alone"][row], -alone["logprob"].sum(), **close)
        before = by_hand(model, [], head)
        assert found["n_tokens_prompt"][row] == (0 if before is None else len(head) - 1)
        np.testing.assert_allclose(found["prompt_nll"][row], 0 if before is None else -before["logprob"].sum(), **close)


def test_order_of_texts_and_batches_change_nothing(model, tokenizer):
    whole = language_model_signals(model, PAIRS, LANGUAGE_SIGNALS, tokenizer=tokenizer)
    turned = language_model_signals(model, PAIRS[::-1], LANGUAGE_SIGNALS, tokenizer=tokenizer, tokens_per_batch=70)
    for name in LANGUAGE_SIGNALS:
        for a, b in zip(whole[name], turned[name][::-1], strict=True):
            np.testing.assert_allclose(a, b, atol=1e-5, rtol=1e-4, err_msg=name)


def test_a_prompt_without_a_token_leaves_the_very_same_numbers(tokenizer):
    model = tiny_llama()
    for one in (tokenizer, byte_tokenizer(begin=True)):
        found = language_model_signals(model, PAIRS, ["nll", "n_tokens", "nll_alone", "n_tokens_alone"], tokenizer=one)
        assert found["nll_alone"][3] == found["nll"][3]
        assert found["n_tokens_alone"][3] == found["n_tokens"][3]
        assert found["nll_alone"][0] != found["nll"][0]


def test_alone_the_first_token_is_predicted_from_a_special_token_where_there_is_one(tokenizer):
    model, begins = tiny_llama(), byte_tokenizer(begin=True)
    response = "an answer"
    found = language_model_signals(model, [("ask", response)], ["nll_alone", "n_tokens_alone", "nll"], tokenizer=begins)
    tail = tokenizer(response)["input_ids"]
    assert found["n_tokens_alone"][0] == len(tail)
    assert found["nll_alone"][0] == pytest.approx(-by_hand(model, [256], tail)["logprob"].sum(), rel=1e-5)
    head = [256, *tokenizer("ask")["input_ids"]]
    assert found["nll"][0] == pytest.approx(-by_hand(model, head, tail)["logprob"].sum(), rel=1e-5)
    assert begins(BEGIN)["input_ids"] == [256, 256]


def test_a_long_response_is_cut_at_the_same_token_with_and_without_its_prompt(tokenizer):
    model = tiny_llama()
    prompt, response = "p" * 10, "the response that is cut"
    found = language_model_signals(
        model, [(prompt, response)], ["n_tokens", "nll_alone", "n_tokens_alone"], tokenizer=tokenizer, max_length=18
    )
    assert found["truncated"].tolist() == [True]
    assert (found["n_tokens"][0], found["n_tokens_alone"][0]) == (8, 7)
    cut = by_hand(model, [], tokenizer(response[:8])["input_ids"])
    assert found["nll_alone"][0] == pytest.approx(-cut["logprob"].sum(), rel=1e-5)
    gone = language_model_signals(model, [(prompt, response)], ["n_tokens", "nll_alone"], tokenizer=tokenizer, max_length=10)
    assert (gone["n_tokens"][0], gone["nll_alone"][0], gone["truncated"][0]) == (0, 0, True)


def test_the_run_before_a_deviation_is_read_off_one_forward_and_never_above_the_share(model):
    rng = np.random.default_rng(0)
    inner = getattr(model, "inner", model)
    start = rng.integers(0, 250, 32).tolist()
    own = list(start)
    for _ in range(32):
        own.append(int(log_softmax_of(inner, own)[-1].argmax()))
    wrong = list(own)
    wrong[32 + 11] = (wrong[32 + 11] + 1) % 250
    texts = [own, wrong, own[:40], own[:32], rng.integers(0, 250, 80).tolist()]
    encoded = [Encoded(np.array(ids), np.array(ids), False) for ids in texts]
    found = language_model_signals(model, encoded, ["recited", "recited_run"])
    np.testing.assert_allclose(found["recited_run"][:3], [1, 11 / 32, 1])
    np.testing.assert_allclose(found["recited"][:3], [1, 31 / 32, 1])
    assert np.isnan(found["recited_run"][3])
    assert np.isnan(found["recited"][3])
    known = ~np.isnan(found["recited"])
    assert (found["recited_run"][known] <= found["recited"][known]).all()
    np.testing.assert_array_equal(found["recited"] == 1, found["recited_run"] == 1)
    np.testing.assert_allclose(found["recited"], recitation(model, [np.array(ids) for ids in texts]))


def test_what_can_be_counted_is_not_read(tokenizer):
    model, calls = tiny_llama(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    found = language_model_signals(model, [*PAIRS, "plain", ""], ["n_tokens"], tokenizer=tokenizer)
    assert not calls
    whole = language_model_signals(model, [*PAIRS, "plain", ""], ["n_tokens", "nll"], tokenizer=tokenizer)
    assert calls
    np.testing.assert_array_equal(found["n_tokens"], whole["n_tokens"])


def test_the_response_alone_is_told_of_pairs_only(tokenizer):
    with pytest.raises(ModelMismatch, match="pairs only, and b has no prompt"):
        language_model_signals(tiny_llama(), [("a", "b"), "c"], ["nll_alone"], tokenizer=tokenizer, ids=["a", "b"])


def test_a_certain_prediction_has_no_spread_and_no_error_and_minus_infinity_is_no_nan():
    logits = torch.full((2, 5), -torch.inf)
    logits[0, 3], logits[1, :2] = 0.0, 0.0
    found = token_columns(logits, torch.tensor([3, 0]), ["entropy", "el2n", "z", "doubt", "top_margin", "hit"])
    np.testing.assert_allclose(found["logprob"], [0, -np.log(2)], rtol=1e-6)
    np.testing.assert_allclose(found["entropy"], [0, np.log(2)], atol=1e-6)
    np.testing.assert_allclose(found["el2n"], [0, np.sqrt(0.5)], atol=1e-6)
    np.testing.assert_allclose(found["doubt"], [0, 0.5], atol=1e-6)
    np.testing.assert_allclose(found["top_margin"], [1, 0], atol=1e-6)
    assert np.isfinite(found["z"]).all()


def test_deleted_words_are_the_asked_share_and_depend_on_seed_and_text_only():
    text = "  write a poem  about the\nrain in May please now "
    for share, left in ((0.2, 8), (0.5, 5), (1.0, 1), (0.0, 10)):
        short = with_words_deleted(text, share, (0, 1))
        assert len(short.split()) == left
        assert [word for word in text.split() if word in short.split()] == short.split()
        assert short.startswith("  ")
        assert short.endswith(" ")
    drawn = {with_words_deleted(text, 0.2, (0, k)) for k in range(30)}
    assert len(drawn) > 10
    assert with_words_deleted(text, 0.2, (0, 1)) == with_words_deleted(text, 0.2, (0, 1))
    assert with_words_deleted("word", 0.2, (0, 0)) == "word"
    assert with_words_deleted("", 0.2, (0, 0)) == ""


def test_perturbed_likelihoods_are_those_of_the_shortened_prompts(tokenizer):
    model = tiny_llama()
    prompts, responses = ["say the word you like", "one two three"], [" ok", " no no"]
    found = perturbed_nll(model, prompts, responses, tokenizer=tokenizer, n_perturbations=3)
    for row in range(2):
        for k in range(3):
            pair = (with_words_deleted(prompts[row], 0.2, (0, k)), responses[row])
            one = language_model_signals(model, [pair], ["mean_nll"], tokenizer=tokenizer)["mean_nll"][0]
            assert found[row, k] == pytest.approx(one, rel=1e-4)
    turned = perturbed_nll(model, prompts[::-1], responses[::-1], tokenizer=tokenizer, n_perturbations=3)
    np.testing.assert_allclose(turned[::-1], found, rtol=1e-4)


def test_a_subnetwork_loses_hidden_weights_only_and_gives_them_back(tokenizer):
    model = tiny_llama()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with subnetwork(model, 0.6, seed=1):
        inside = {k: v.clone() for k, v in model.state_dict().items()}
    for name, value in before.items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=0, atol=0)
        if "proj" in name:
            assert abs((inside[name] == 0).float().mean() - 0.4) < 0.06
            kept = inside[name] != 0
            torch.testing.assert_close(inside[name][kept], value[kept] / 0.6)
        else:
            torch.testing.assert_close(inside[name], value, rtol=0, atol=0)
    with pytest.raises(ZeroDivisionError), subnetwork(model, 0.5):
        raise ZeroDivisionError
    torch.testing.assert_close(model.state_dict()["lm_head.weight"], before["lm_head.weight"])
    torch.testing.assert_close(model.model.layers[0].mlp.up_proj.weight, before["model.layers.0.mlp.up_proj.weight"])
    for share in (0, 1.5):
        with pytest.raises(ModelMismatch, match=f"cannot keep {share}"), subnetwork(model, share):
            pass
    with pytest.raises(ModelMismatch, match="no hidden layer"), subnetwork(torch.nn.Linear(3, 2), 0.5):
        pass
    found = subnetwork_likelihood(model, ["some text", "a"], tokenizer=tokenizer, keep=(1.0, 0.5))
    whole = language_model_signals(model, ["some text"], ["mean_nll"], tokenizer=tokenizer)["mean_nll"]
    assert found[0, 0] == pytest.approx(np.exp(-whole[0]), rel=1e-5)
    assert found[0, 1] != pytest.approx(found[0, 0])
    assert np.isnan(found[1]).all()
