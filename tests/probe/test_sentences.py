"""The stated rules of sentences, one by one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datumwise.probe import sentences as module
from datumwise.probe.codepoints import blocks
from datumwise.probe.sentences import sentence_counts, split_sentences
from datumwise.probe.words import words

RULES = [
    ("The cat sat. The dog ran.", 2),
    ("no full stop", 1),
    ("It costs 3.50 at example.org today", 1),
    ("Dr. Smith met Mr. J. Jones. He left", 2),
    ("See e.g. this one.", 1),
    ("What?! Really... Yes!", 3),
    ('He said "go." Then "why?" he asked', 3),
    ("A heading\n\nA paragraph", 2),
    ("one line\nand its second", 1),
    ("早上好。你好！", 2),
    ("नमस्ते। कैसे हो।", 2),
    ("... !!! ???", 0),
    ("😀 😀.", 0),
    ("", 0),
    ("I chose B.", 1),
    ("x. y", 1),  # a single letter's dot is an initial's
]


@pytest.mark.parametrize(("text", "count"), RULES)
def test_each_rule_counts_what_it_says(text: str, count: int) -> None:
    assert sentence_counts(words([text])).tolist() == [count]
    assert len(split_sentences(text)) == count


@settings(deadline=None, max_examples=200)
@given(st.lists(st.text(alphabet="ab A.!?…。 \n\t\")3'", max_size=25), min_size=1, max_size=6), st.integers(1, 40))
def test_sentences_of_many_texts_are_those_of_each(texts: list[str], size: int) -> None:
    assert sentence_counts(words(texts)).tolist() == [len(split_sentences(text)) for text in texts]
    cut = [count for block in blocks(texts, size=size) for count in module._sentences(block)]
    assert cut == [len(split_sentences(text)) for text in texts]


@settings(deadline=None)
@given(st.text(alphabet='ab.!? \n"', max_size=30))
def test_splitting_loses_no_word(text: str) -> None:
    assert " ".join(split_sentences(text)).count("a") == text.count("a")
