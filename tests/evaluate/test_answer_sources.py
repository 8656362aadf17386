"""Claims about which documents are behind an answer: those that teach it, found by attribution."""

import copy

import numpy as np
import pytest
import torch
from tiny_language_models import byte_tokenizer, tiny_llama

from datumwise.errors import EmptyData, SchemaMismatch
from datumwise.evaluate.answer_sources import AnswerSources, answer_sources

DOCUMENTS = ["Q: A? A: Oslo", "Q: B? A: Rome", "zzzz yyyy xxxx wwww", "Q: A? A: Oslo!", "0123456789"]


def test_documents_that_teach_an_answer_are_found():
    tokenizer = byte_tokenizer(begin=True)
    model = tiny_llama(0, scale=1.0)
    found = answer_sources(
        model, tokenizer, DOCUMENTS, ["Q: A? A:", "Q: B? A:"], ["Oslo", "Rome"], ids=list("abcde"), batch_size=2
    )
    assert found.scores.shape == (2, 5)
    assert {one for one, _ in found.top(0, 2)} == {"a", "d"}
    assert found.top(1, 1)[0][0] == "b"
    assert found.behind(0.6).tolist() == [0, 1, 3]


def test_the_score_is_the_cosine_of_gradients():
    tokenizer, model = byte_tokenizer(begin=True), tiny_llama(0, scale=1.0)
    found = answer_sources(model, tokenizer, DOCUMENTS, ["Q: A? A:"], ["Oslo"])

    def gradient(text, skip):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        labels = ids.clone()
        labels[:, :skip] = -100
        own = copy.deepcopy(model)
        own(input_ids=ids, labels=labels).loss.backward()
        return torch.cat([p.grad.flatten() for p in own.parameters()]).double()

    query = gradient("Q: A? A: Oslo", len(tokenizer("Q: A? A:")["input_ids"]))
    want = [float(torch.cosine_similarity(query, gradient(text, 0), dim=0)) for text in DOCUMENTS]
    np.testing.assert_allclose(found.scores[0], want, atol=1e-4)


def test_behind_weighs_every_answer_alike():
    scores = np.array([[100.0, 0, 0, 0], [0, 0, 0, 0.1]], dtype=np.float32)
    assert AnswerSources(scores, list("abcd"), "m").behind(0.5).tolist() == [0, 3]
    with pytest.raises(SchemaMismatch, match="share is 0"):
        AnswerSources(scores, list("abcd"), "m").behind(0)


def test_wrong_requests_are_refused():
    tokenizer, model = byte_tokenizer(), tiny_llama()
    with pytest.raises(SchemaMismatch, match="1 prompts and 2 answers differ in number"):
        answer_sources(model, tokenizer, DOCUMENTS, ["a"], ["b", "c"])
    with pytest.raises(EmptyData, match="there is no document"):
        answer_sources(model, tokenizer, [], ["a"], ["b"])
    with pytest.raises(EmptyData, match="there is no answer to trace"):
        answer_sources(model, tokenizer, DOCUMENTS, [], [])
