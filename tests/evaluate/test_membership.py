"""Membership scores against one text at a time, by hand."""

from __future__ import annotations

import zlib

import numpy as np
import pytest
import torch
from tiny_language_models import byte_tokenizer, log_softmax_of, tiny_gpt2, tiny_llama

from datumwise.errors import EmptyData, ModelMismatch, SchemaMismatch, UnknownName
from datumwise.evaluate.membership import MEMBERSHIP, membership_auc, membership_scores
from datumwise.evaluate.privleak import auc

TEXTS = ["The Old Bridge Fell Into The River.", "Seven ships, one harbour", "UPPER lower", "Nobody saw the grey fox"]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer(begin=True)


def logprobs(model, tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    table = log_softmax_of(model, ids)
    return np.array([table[t, ids[t + 1]] for t in range(len(ids) - 1)]), table[:-1]


def test_every_score_equals_its_definition_one_text_at_a_time(tokenizer):
    model, reference = tiny_llama(0), tiny_llama(1)
    found = membership_scores(model, tokenizer, TEXTS, reference=reference, names=MEMBERSHIP)
    assert list(found) == list(MEMBERSHIP)
    for row, text in enumerate(TEXTS):
        lp, table = logprobs(model, tokenizer, text)
        loss = -lp.mean()
        ranked = np.sort(lp)
        p = np.exp(table)
        mean = (p * table).sum(1)
        deviation = np.sqrt((p * (table - mean[:, None]) ** 2).sum(1))
        z = np.sort((lp - mean) / deviation)
        expected = {
            "PPL": loss,
            "PPL/lower": loss / -logprobs(model, tokenizer, text.lower())[0].mean(),
            "PPL/zlib": loss / len(zlib.compress(text.encode("utf-8"))),
            "PPL/ref": loss / -logprobs(reference, tokenizer, text)[0].mean(),
            "Min-20%++": -z[: max(1, len(z) // 5)].mean(),
        }
        for share in (5, 10, 20, 30, 40, 50, 60):
            expected[f"Min-{share}%"] = -ranked[: max(1, int(len(lp) * share / 100 + 1e-9))].mean()
        for name, value in expected.items():
            assert found[name][row] == pytest.approx(value, rel=2e-4), name


@pytest.mark.parametrize("make", [tiny_llama, tiny_gpt2])
def test_gradient_norm_is_that_of_the_mean_loss_by_all_parameters(make, tokenizer):
    model = make(2)  # gpt2 ties its embeddings
    found = membership_scores(model, tokenizer, TEXTS, names="GradNorm")["GradNorm"]
    for row, text in enumerate(TEXTS):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        loss = torch.nn.functional.cross_entropy(model(ids).logits[0, :-1].float(), ids[0, 1:])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        norm = float(torch.sqrt(sum((g.double() ** 2).sum() for g in gradients)))
        assert found[row] == pytest.approx(norm, rel=1e-3)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_of_a_pair_the_response_is_scored(tokenizer):
    model = tiny_llama(3)
    pair = membership_scores(model, tokenizer, [("Who fell? ", "the bridge")], names=["PPL", "PPL/zlib", "GradNorm"])
    lp, _ = logprobs(model, tokenizer, "Who fell? the bridge")
    assert pair["PPL"][0] == pytest.approx(-lp[-10:].mean(), rel=1e-4)
    assert pair["PPL/zlib"][0] == pytest.approx(-lp[-10:].mean() / len(zlib.compress(b"the bridge")), rel=1e-4)
    assert pair["GradNorm"][0] > 0


def test_scores_do_not_depend_on_the_batch(tokenizer):
    model = tiny_llama(4)
    names = [*MEMBERSHIP[:3], *MEMBERSHIP[4:]]
    one = membership_scores(model, tokenizer, TEXTS, names=names, tokens_per_batch=1)
    many = membership_scores(model, tokenizer, TEXTS[::-1], names=names)
    for name in names:
        assert np.allclose(one[name], many[name][::-1], rtol=1e-4)


def test_by_default_what_one_forward_gives(tokenizer):
    names = list(membership_scores(tiny_llama(5), tokenizer, TEXTS[:1]))
    assert names == [name for name in MEMBERSHIP if name not in ("PPL/ref", "GradNorm")]


def test_texts_without_a_predicted_token_are_nan_and_do_not_count():
    plain = byte_tokenizer(begin=False)
    found = membership_scores(tiny_llama(6), plain, ["a", "abc def"], names=[n for n in MEMBERSHIP if n != "PPL/ref"])
    for name, scores in found.items():
        assert np.isnan(scores[0]), name
        assert np.isfinite(scores[1]), name
    other = {name: np.array([0.0, 99.0]) for name in found}
    assert membership_auc(found, other)["PPL"].value == 0.5


def test_auc_of_every_score(tokenizer):
    model = tiny_llama(7)
    forget, holdout = (membership_scores(model, tokenizer, part) for part in (TEXTS[:2], TEXTS[2:]))
    found = membership_auc(forget, holdout)
    assert found.keys() == forget.keys()
    for name, interval in found.items():
        assert interval.value == auc(forget[name], holdout[name])
        assert interval.low <= interval.value <= interval.high


def test_progress_counts_every_reading(tokenizer):
    told = []
    membership_scores(
        tiny_llama(8), tokenizer, TEXTS, reference=tiny_llama(9), names=MEMBERSHIP, progress=lambda *a: told.append(a)
    )
    assert told[-1] == (16, 16)
    assert [d for d, _ in told] == sorted(d for d, _ in told)


def test_refusals(tokenizer):
    model = tiny_llama(10)
    with pytest.raises(UnknownName, match="no membership score 'Min-25%'"):
        membership_scores(model, tokenizer, TEXTS, names=["Min-25%"])
    with pytest.raises(ModelMismatch, match="PPL/ref compares with a reference model and none is given"):
        membership_scores(model, tokenizer, TEXTS, names=["PPL/ref"])
    with pytest.raises(EmptyData, match="there is no text to score"):
        membership_scores(model, tokenizer, [])
    small = tiny_llama(11)
    small.config.vocab_size = 100
    with pytest.raises(ModelMismatch, match="the reference has a vocabulary of 100 and the model one of 260"):
        membership_scores(model, tokenizer, TEXTS, reference=small)
    with pytest.raises(SchemaMismatch, match="share no score"):
        membership_auc({"PPL": [1.0]}, {"Min-5%": [1.0]})
