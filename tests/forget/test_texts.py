"""Texts with ids from what people hold, and as token ids: pieces of long documents, spans, alternatives."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from tiny_language_models import byte_tokenizer, tiny_llama

from datumwise.errors import DuplicateId, EmptyData, ModelMismatch, SchemaMismatch
from datumwise.forget.reference import measured_nll
from datumwise.forget.sequences import alternatives_of, encode_sequences
from datumwise.forget.texts import Texts, as_texts, refuse_overlap
from datumwise.ledger import Ledger
from datumwise.probe.language_model import language_model_signals
from datumwise.readers import ingest


def test_lists_pairs_and_dicts_keep_their_order_and_their_ids():
    assert as_texts(["a b", "", "c d"]) == Texts(["0", "2"], ["a b", "c d"], False, ("1",))
    assert as_texts([("q", "a"), ("r", "b")]).items == [("q", "a"), ("r", "b")]
    rows = [{"id": "x", "text": "a"}, {"id": "y", "text": " "}, {"id": "z", "text": "c"}]
    assert as_texts(rows) == Texts(["x", "z"], ["a", "c"], True, ("y",))
    assert as_texts(pd.DataFrame(rows)).ids == ["x", "z"]
    assert as_texts(pd.DataFrame(rows)).named


def test_ids_given_beside_the_texts_stand_for_every_row_also_an_empty_one():
    texts = as_texts(["a b", "", "c d"], ids=[10, 11, 12])
    assert texts == Texts(["10", "12"], ["a b", "c d"], True, ("11",))
    assert as_texts(texts, ids=["u", "v"]).ids == ["u", "v"]
    with pytest.raises(SchemaMismatch, match="there are 2 ids for 3 texts"):
        as_texts(["a", "b", "c"], ids=[1, 2])
    with pytest.raises(DuplicateId, match=r"ids occur twice \(7\): make them unique"):
        as_texts(["a", "b"], ids=[7, 7])


def test_a_ledger_gives_its_texts_under_its_ids(tmp_path):
    ledger = ingest(
        pd.DataFrame({"id": ["k1", "k2", "k3"], "text": ["one", "", "three"]}), out=tmp_path / "texts", id="id", text="text"
    )
    assert isinstance(ledger, Ledger)
    assert as_texts(ledger) == Texts(["k1", "k3"], ["one", "three"], True, ("k2",))
    pairs = ingest(
        pd.DataFrame({"id": ["k"], "p": ["ask"], "r": ["say"]}), out=tmp_path / "pairs", id="id", prompt="p", response="r"
    )
    assert as_texts(pairs).items == [("ask", "say")]
    numbers = ingest(pd.DataFrame({"id": ["k"], "x": [1.0]}), out=tmp_path / "numbers", id="id", features=["x"])
    with pytest.raises(SchemaMismatch, match="the ledger numbers names neither text nor prompt and response: say which"):
        as_texts(numbers)


def test_nothing_to_forget_is_refused():
    for nothing in ([], ["", "  "]):
        with pytest.raises(EmptyData):
            as_texts(nothing)


def test_what_is_forgotten_cannot_be_kept():
    forget = as_texts(["a secret", "b secret", "c"])
    with pytest.raises(SchemaMismatch, match=r"2 of the texts to forget are also in retain \(0, 1\): take them out of retain"):
        refuse_overlap(forget, as_texts(["b secret", "x", " a secret "]), "retain")
    refuse_overlap(forget, as_texts(["x", "y"]), "retain")  # positions are no ids
    named = as_texts([{"id": "k1", "text": "old words"}])
    with pytest.raises(SchemaMismatch, match=r"1 of the ids to forget are also in holdout \(k1\): take them out of holdout"):
        refuse_overlap(named, as_texts([{"id": "k1", "text": "new words"}]), "holdout")


# --- token ids --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("begin", [False, True])
def test_a_long_document_is_cut_on_token_ids_and_nothing_is_lost(begin):
    tokenizer = byte_tokenizer(begin=begin)
    text = "".join(chr(97 + i % 26) for i in range(50))
    made = encode_sequences(tokenizer, Texts(["a", "b"], [text, "short"]), 16, padding=0)
    head = [256] if begin else []
    pieces = [item.input_ids.tolist() for item, d in zip(made.items, made.document, strict=True) if d == 0]
    assert all(piece[: len(head)] == head and len(piece) <= 16 for piece in pieces)
    assert [token for piece in pieces for token in piece[len(head) :]] == tokenizer(text)["input_ids"][len(head) :]
    assert len(pieces) == -(-50 // (16 - len(head)))
    assert made.ids == ["a", "b"]
    assert made.n_tokens[-1] == 5 - (not begin)


def test_a_document_in_pieces_is_reported_as_its_token_weighted_mean():
    model, tokenizer = tiny_llama(0), byte_tokenizer(begin=True)
    long = "the weights of pieces are their numbers of tokens"
    made = encode_sequences(tokenizer, Texts(["s", "l"], ["brief one", long]), 20, padding=0)
    mean = made.by_document(measured_nll(model, made))
    pieces = [tokenizer(long)["input_ids"][1 + k : 1 + k + 19] for k in range(0, len(long), 19)]
    logprobs = [
        language_model_signals(model, [tokenizer.decode(piece)], ("token_logprobs",), tokenizer=tokenizer)["token_logprobs"][0]
        for piece in pieces
    ]
    assert len({len(each) for each in logprobs}) == 2  # an unweighted mean would be another
    assert mean[1] == pytest.approx(-np.concatenate(logprobs).mean(), rel=1e-5)


def test_texts_without_a_token_to_predict_are_left_out_by_name():
    made = encode_sequences(byte_tokenizer(), Texts(["a", "b", "c"], ["x", "two", ("ask", "say")]), 16, padding=0)
    assert made.ids == ["b", "c"]
    assert made.left_out == ["a"]
    assert made.document.tolist() == [0, 1]
    with pytest.raises(EmptyData, match=r"no text of forget has a token to predict \(a\): give texts of two tokens or more"):
        encode_sequences(byte_tokenizer(), Texts(["a"], ["x"]), 16, padding=0)


def test_padding_is_masked_by_length_and_never_by_id():
    made = encode_sequences(byte_tokenizer(), Texts(["a", "b"], ["!!!!", "ab"]), 16, padding=0)  # "!" is token 0
    batch = made.batch([0, 1])
    assert batch.mask.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.labels[0].tolist() == [0, 0, 0, 0]
    assert batch.labels[1, 2:].tolist() == [-100, -100]


@pytest.mark.parametrize("begin", [False, True])
def test_only_tokens_that_overlap_a_span_count(begin):
    tokenizer = byte_tokenizer(begin=begin)
    k = int(begin)
    text = "Oslo is in Peru now"
    made = encode_sequences(tokenizer, Texts(["t"], [text]), 64, padding=0, spans=[[(11, 15)]])
    labels = made.items[0].labels
    assert np.flatnonzero(labels != -100).tolist() == [k + i for i in range(11, 15)]
    assert labels[k + 11] == made.items[0].input_ids[k + 11]
    accents = encode_sequences(tokenizer, Texts(["t"], ["é is two bytes"]), 64, padding=0, spans=[[(0, 1), (5, 8)]])
    assert np.flatnonzero(accents.items[0].labels != -100).tolist() == [k, k + 1, k + 6, k + 7, k + 8]
    pair = encode_sequences(tokenizer, Texts(["t"], [("Where? ", "in Peru")]), 64, padding=0, spans=[[(3, 7)]])
    assert np.flatnonzero(pair.items[0].labels != -100).tolist() == [k + 7 + i for i in range(3, 7)]


def test_spans_reach_into_the_pieces_of_a_long_document():
    text = "x" * 30 + "SECRET" + "x" * 30
    made = encode_sequences(byte_tokenizer(begin=True), Texts(["t", "u"], [text, "abc"]), 17, padding=0, spans=[[(30, 36)], []])
    assert made.n_tokens.tolist() == [2, 4]  # pieces begin at 0, 16, 32 and 48
    assert made.left_out == ["u"]


def test_spans_that_cannot_be_are_refused():
    texts = Texts(["t"], ["abc"])
    with pytest.raises(SchemaMismatch, match="there are spans of 2 texts for 1 texts"):
        encode_sequences(byte_tokenizer(), texts, 16, padding=0, spans=[[], []])
    with pytest.raises(SchemaMismatch, match=r"span \(1, 9\) of t is not inside its text of 3 characters"):
        encode_sequences(byte_tokenizer(), texts, 16, padding=0, spans=[[(1, 9)]])

    class Slow:
        def __call__(self, *args, **kwargs):
            return byte_tokenizer()(*args, **kwargs)

    with pytest.raises(ModelMismatch, match="spans need a tokenizer that gives offsets: load it with use_fast=True"):
        encode_sequences(Slow(), texts, 16, padding=0, spans=[[(0, 2)]])


def test_an_alternative_follows_the_same_prompt_and_stands_beside_every_piece():
    tokenizer = byte_tokenizer(begin=True)
    texts = Texts(["q", "x", "d"], [("Where? ", "Oslo"), "y" * 0 + "z", "a text of some length"])
    forget = encode_sequences(tokenizer, texts, 12, padding=0)
    other = alternatives_of(tokenizer, forget, texts, ["No idea.", "?!", "I forget"], 12)
    assert len(other) == len(forget)
    first = other.items[0]  # 7 + 8 tokens do not fit behind <s>: the prompt loses its first 4
    assert tokenizer.decode(first.input_ids[1:]) == "re? No idea."[-11:]
    assert first.input_ids[0] == 256
    assert tokenizer.decode(first.input_ids[first.labels != -100]) == "No idea."
    pieces = np.flatnonzero(forget.document == 2)
    assert len(pieces) == 2
    assert all(tokenizer.decode(other.items[int(k)].input_ids[1:]) == "I forget" for k in pieces)
    with pytest.raises(SchemaMismatch, match="the alternative of q has no token to predict: give longer ones"):
        alternatives_of(tokenizer, forget, texts, ["", "b", "c"], 12)
