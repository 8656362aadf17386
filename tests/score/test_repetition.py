"""Repetition, against counting n-grams of every text by hand."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datumwise.errors import DatumwiseError
from datumwise.probe.words import from_tokens, words
from datumwise.score import repetition as room
from datumwise.score.repetition import (
    duplicate_line_character_ratio,
    duplicate_line_ratio,
    duplicate_ngram_ratio,
    duplicate_paragraph_character_ratio,
    duplicate_paragraph_ratio,
    top_ngram_ratio,
)

EVERY = [getattr(room, name) for name in room.__all__ if not name.endswith("_ngram_ratio")]


@settings(deadline=None, max_examples=150)
@given(st.lists(st.lists(st.sampled_from(["a", "bb", "ccc"]), max_size=24), min_size=1, max_size=5), st.integers(1, 10))
def test_ngrams_cover_what_a_count_by_hand_covers(tokens: list[list[str]], n: int) -> None:
    corpus = from_tokens(tokens)
    top, duplicate = top_ngram_ratio(corpus, n), duplicate_ngram_ratio(corpus, n)
    for row, one in enumerate(tokens):
        places = defaultdict(list)
        for i in range(len(one) - n + 1):
            places[tuple(one[i : i + n])].append(i)
        repeated = {gram: at for gram, at in places.items() if len(at) > 1}
        covers = {gram: share(one, at, n) for gram, at in repeated.items()}
        assert duplicate[row] == pytest.approx(share(one, [i for at in repeated.values() for i in at], n), nan_ok=True)
        if not repeated:
            assert top[row] == 0 if one else np.isnan(top[row])
            continue
        best = max((len(at), len("".join(gram))) for gram, at in repeated.items())
        tied = [covers[gram] for gram, at in repeated.items() if (len(at), len("".join(gram))) == best]
        assert any(top[row] == pytest.approx(value) for value in tied)


def share(tokens: list[str], starts: list[int], n: int) -> float:
    inside = {i for start in starts for i in range(start, start + n)}
    total = sum(map(len, tokens))
    return sum(len(tokens[i]) for i in inside) / total if total else float("nan")


def test_the_named_scores_are_those_lengths() -> None:
    corpus = words(["the quick brown fox jumps over the lazy dog and " * 3 + "then it stops here", "once"])
    for n in (2, 3, 4):
        assert getattr(room, f"top_{n}gram_ratio")(corpus).tolist() == top_ngram_ratio(corpus, n).tolist()
    for n in range(5, 11):
        found = getattr(room, f"duplicate_{n}gram_ratio")(corpus).tolist()
        assert found == duplicate_ngram_ratio(corpus, n).tolist()
        assert found[0] > 0.8


def test_a_repetition_across_texts_is_none() -> None:
    corpus = words(["a b c d e f"] * 3)
    assert duplicate_ngram_ratio(corpus, 5).tolist() == [0, 0, 0]
    assert top_ngram_ratio(corpus, 2).tolist() == [0, 0, 0]


def test_lines_and_paragraphs_that_stood_before() -> None:
    text = "one\ntwo\n\none\ntwo\n \none"
    corpus = words([text, "one\r\none", "", " \n "])
    nan = float("nan")
    assert duplicate_line_ratio(corpus).tolist() == pytest.approx([3 / 5, 1 / 2, nan, nan], nan_ok=True)
    assert duplicate_line_character_ratio(corpus).tolist() == pytest.approx([9 / 15, 1 / 2, nan, nan], nan_ok=True)
    assert duplicate_paragraph_ratio(corpus).tolist() == pytest.approx([1 / 3, 0, nan, nan], nan_ok=True)
    assert duplicate_paragraph_character_ratio(corpus).tolist() == pytest.approx([7 / 17, 0, nan, nan], nan_ok=True)


def test_unlike_datatrove_an_ngram_said_once_is_no_repetition_and_empty_lines_are_no_lines() -> None:
    assert top_ngram_ratio(words(["two words"]), 2).tolist() == [0]
    assert duplicate_line_ratio(words(["a\n\n\n\nb"])).tolist() == [0]
    # six words twice, other words between: datatrove looks for runs of 9 words where 5 were asked for, and finds none
    corpus = words(["one two three four five six seven one two three four five six"])
    assert duplicate_ngram_ratio(corpus, 5)[0] == pytest.approx(44 / 49)


def test_lines_equal_counters() -> None:
    rng = np.random.default_rng(0)
    texts = ["\n".join("line " + str(code) for code in rng.integers(0, 6, 9)) for _ in range(20)]
    expected = [1 - len(Counter(text.split("\n"))) / 9 for text in texts]
    assert duplicate_line_ratio(words(texts)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("share_of", EVERY, ids=lambda one: one.__name__)
def test_an_empty_text_is_nan_and_a_word_repeats_nothing(share_of: object) -> None:
    found = share_of(words(["", "word", "😀"]))  # type: ignore[operator]
    assert np.isnan(found[0])
    assert found[1] == 0


@pytest.mark.parametrize("n", [0, 11])
def test_other_lengths_are_refused(n: int) -> None:
    with pytest.raises(DatumwiseError, match=f"n-grams of {n} words were asked for: n from 1 to 10"):
        duplicate_ngram_ratio(words(["a"]), n)
