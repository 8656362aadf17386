"""Claims about what a model learnt from a text: gaps of token log-probabilities, and the spans of the largest."""

from itertools import pairwise

import numpy as np
import pytest
from tiny_language_models import byte_tokenizer, log_softmax_of, tiny_llama

from datumwise.errors import EmptyData, ModelMismatch, SchemaMismatch, UnknownName
from datumwise.probe.token_gaps import suspect_spans, token_gaps

TEXTS = ["Oslo is in Perú.", "x"]


@pytest.mark.parametrize("begin", [False, True])
def test_gaps_are_differences_of_log_probabilities_at_their_characters(begin):
    tokenizer, model, other = byte_tokenizer(begin=begin), tiny_llama(0), tiny_llama(1)
    found = token_gaps(model, tokenizer, TEXTS, other)
    for text, (places, gaps) in zip(TEXTS, found, strict=True):
        ids = tokenizer(text)["input_ids"]
        a, b = (log_softmax_of(one, ids) for one in (model, other))
        want = [a[i - 1, ids[i]] - b[i - 1, ids[i]] for i in range(1, len(ids))]
        np.testing.assert_allclose(gaps, want, atol=1e-4)
        offsets = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
        assert places.tolist() == [list(one) for one in offsets][0 if begin else 1 :]


def test_the_reference_may_be_log_probabilities():
    tokenizer, model, other = byte_tokenizer(), tiny_llama(0), tiny_llama(1)
    zero = [np.zeros(len(tokenizer(text)["input_ids"]) - 1) for text in TEXTS]
    own = token_gaps(model, tokenizer, TEXTS, zero)
    reference = [gaps for _, gaps in token_gaps(other, tokenizer, TEXTS, zero)]
    for (_, a), (_, b) in zip(
        token_gaps(model, tokenizer, TEXTS, reference), token_gaps(model, tokenizer, TEXTS, other), strict=True
    ):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert all((gaps <= 0).all() for _, gaps in own)


def test_spans_are_the_largest_gaps_joined():
    rng = np.random.default_rng(0)
    gaps = []
    for n in (30, 50):
        ends = np.cumsum(rng.integers(1, 5, n))
        gaps.append((np.stack([ends - np.diff(ends, prepend=0), ends], axis=1), rng.random(n)))
    for share in (0.05, 0.3, 1.0):
        spans = suspect_spans(gaps, share=share)
        floor = np.sort(np.concatenate([g for _, g in gaps]))[::-1][round(share * 80) - 1]
        for (places, values), own in zip(gaps, spans, strict=True):
            held = [any(a <= x < b for a, b in own) for x in range(places[-1, 1])]
            want = [bool(v >= floor) for (a, b), v in zip(places, values, strict=True) for _ in range(b - a)]
            assert held == want
            assert all(b1 < a2 for (_, b1), (a2, _) in pairwise(own))
        assert suspect_spans(gaps, nats=floor) == spans
    assert suspect_spans(gaps, nats=2.0) == [[], []]
    assert suspect_spans([], share=0.5) == []


def test_wrong_requests_are_refused():
    tokenizer, model = byte_tokenizer(), tiny_llama()
    with pytest.raises(EmptyData, match="there is no text"):
        token_gaps(model, tokenizer, [], model)
    with pytest.raises(ModelMismatch, match="spans need a tokenizer that gives offsets"):
        token_gaps(model, object(), TEXTS, model)
    with pytest.raises(SchemaMismatch, match="the reference's log-probabilities are of other tokens"):
        token_gaps(model, tokenizer, TEXTS, [np.zeros(3), np.zeros(0)])
    with pytest.raises(UnknownName, match="give either share or nats"):
        suspect_spans([], share=0.1, nats=0.1)
    with pytest.raises(SchemaMismatch, match="share is 2"):
        suspect_spans([], share=2)
