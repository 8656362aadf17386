"""Log-probabilities of texts of any length, against one piece at a time."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_language_models import byte_tokenizer, log_softmax_of, tiny_llama

from datumwise.evaluate.text_logprobs import text_logprobs

TEXTS = ["short", "a text of some more letters than sixteen", "exactly sixteen!"]


def by_hand(model, ids, limit, start):
    found = list(piece(model, ids[:limit], 1))
    at = limit
    while at < len(ids):
        head = start or ids[at - 1 : at]
        room = limit - len(head)
        found += piece(model, head + ids[at : at + room], len(head))
        at += room
    return found


def piece(model, ids, first):
    table = log_softmax_of(model, ids)
    return [table[t - 1, ids[t]] for t in range(first, len(ids))]


@pytest.mark.parametrize("begin", [False, True])
@pytest.mark.parametrize("limit", [2, 7, 16])
def test_pieces_leave_no_token_unpredicted_and_predict_none_twice(begin, limit):
    model, tokenizer = tiny_llama(0), byte_tokenizer(begin=begin)
    found, in_pieces = text_logprobs(model, tokenizer, TEXTS, max_length=limit)
    for row, text in enumerate(TEXTS):
        ids = tokenizer(text)["input_ids"]
        assert len(found[row]) == len(ids) - 1
        assert np.allclose(found[row], by_hand(model, ids, limit, ids[:1] if begin else []), atol=1e-4)
        assert in_pieces[row] == (len(ids) > limit)


def test_of_a_long_pair_every_token_of_the_response_counts_and_none_of_the_prompt():
    model, tokenizer = tiny_llama(1), byte_tokenizer(begin=True)
    prompt, response = "who fell there, and when?", " the old bridge, at dawn"
    found, in_pieces = text_logprobs(model, tokenizer, [(prompt, response)], max_length=10)
    ids = tokenizer(prompt + response)["input_ids"]
    assert np.allclose(found[0], by_hand(model, ids, 10, ids[:1])[-len(response) :], atol=1e-4)
    assert in_pieces.tolist() == [True]


def test_texts_without_a_predicted_token_are_empty():
    found, _ = text_logprobs(tiny_llama(2), byte_tokenizer(), ["", "a", "ab"])
    assert [len(one) for one in found] == [0, 0, 1]


def test_progress_counts_texts():
    told = []
    text_logprobs(tiny_llama(3), byte_tokenizer(), TEXTS, max_length=4, tokens_per_batch=4, progress=lambda *a: told.append(a))
    assert told[-1] == (3, 3)
    assert [d for d, _ in told] == sorted(d for d, _ in told)
