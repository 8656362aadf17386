"""Words of texts, against regular expressions and counting by hand."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch
from datumwise.probe import words as module
from datumwise.probe.codepoints import CATEGORY, blocks, classes
from datumwise.probe.words import align, from_tokens, ngram_codes, words

LATIN = "ab Z.'’-_3é\n\t!😀"
ALL = LATIN + "नम\u094d\u0303\u200dمی\u200cخ漢字\ufe0f\ud800İ\x85"


@settings(deadline=None, max_examples=150)
@given(st.lists(st.text(alphabet=LATIN, max_size=30), min_size=1, max_size=8))
def test_words_are_the_matches_of_their_regular_expression(texts: list[str]) -> None:
    found = words(texts)
    for row, text in enumerate(texts):
        assert found.tokens(row) == re.findall(r"\w+(?:['’]\w+)*", text.lower())


@settings(deadline=None, max_examples=150)
@given(st.lists(st.text(alphabet=ALL, max_size=30), min_size=1, max_size=8), st.booleans())
def test_words_of_any_script_equal_a_scan_by_hand(texts: list[str], lower: bool) -> None:
    found = words(texts, lower=lower)
    for row, text in enumerate(texts):
        assert found.tokens(row) == scanned(text.lower() if lower else text)


def scanned(text: str) -> list[str]:
    """The rule, one character at a time."""
    kind = classes()
    body = [bool(kind[ord(c)] & (CATEGORY["letter"] | CATEGORY["digit"] | CATEGORY["underscore"])) for c in text]
    mark = [bool(kind[ord(c)] & CATEGORY["mark"]) for c in text]
    tokens, current = [], ""
    for i, c in enumerate(text):
        joins = c in "'’\u200c\u200d" and current != "" and i + 1 < len(text) and body[i + 1]
        if body[i] or (current and (mark[i] or joins)):
            current += c
        elif current:
            tokens.append(current)
            current = ""
    return [*tokens, current] if current else tokens


@pytest.mark.parametrize("size", [1, 7, 1 << 21])
def test_blocks_change_nothing(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["The cat sat.", "", "Ünïcödé čat 😀 the", "x" * 30, "the end’s", ""] * 3
    whole = words(texts)
    monkeypatch.setattr(module, "blocks", lambda texts, lower=False: blocks(texts, lower=lower, size=size))
    cut = words(texts)
    assert cut.codes.tolist() == whole.codes.tolist()
    assert cut.offsets.tolist() == whole.offsets.tolist()
    assert cut.vocabulary.tolist() == whole.vocabulary.tolist()


def test_lower_case_that_lengthens_a_text_moves_no_other_text() -> None:
    assert [words(["İİİ", "ab"]).tokens(row) for row in (0, 1)] == ["İİİ".lower().split(), ["ab"]]


def test_marks_stay_on_their_letter_and_emoji_are_no_words() -> None:
    assert words(["नमस्ते दुनिया", "❤️ ok", "e\u0301t\u0301"]).lengths.tolist() == [2, 1, 1]


def test_a_pattern_gives_its_matches_and_never_empty_tokens() -> None:
    assert words(["Go, now!"], pattern=r"\w+|[^\w\s]+").tokens(0) == ["go", ",", "now", "!"]
    assert words(["a  b"], pattern=r"\w*").tokens(0) == ["a", "b"]


def test_texts_without_words_have_an_empty_vocabulary() -> None:
    corpus = words(["", "...", "😀"])
    assert (len(corpus), len(corpus.codes), len(corpus.vocabulary)) == (3, 0, 0)
    assert corpus.types.lengths.tolist() == [0, 0, 0]
    assert ngram_codes(corpus, 2)[1].tolist() == [0, 0, 0, 0]


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=9), min_size=1, max_size=6), st.integers(1, 5))
def test_ngrams_are_equal_exactly_where_their_tokens_are(tokens: list[list[str]], n: int) -> None:
    codes, offsets = ngram_codes(from_tokens(tokens), n)
    grams = [tuple(one[i : i + n]) for one in tokens for i in range(len(one) - n + 1)]
    assert np.diff(offsets).tolist() == [max(0, len(one) - n + 1) for one in tokens]
    assert len(codes) == len(grams)
    pairs = set(zip(codes.tolist(), grams, strict=True))
    assert len(pairs) == len(set(codes.tolist())) == len(set(grams))


def test_long_ngrams_of_a_large_vocabulary_do_not_overflow() -> None:
    rng = np.random.default_rng(0)
    tokens = [[str(word) for word in rng.integers(0, 5_000, 300)] for _ in range(40)]
    tokens.append(tokens[3][20:60])
    codes, offsets = ngram_codes(from_tokens(tokens), 12)
    assert (codes >= 0).all()
    assert codes[offsets[40] :].tolist() == codes[offsets[3] + 20 : offsets[3] + 20 + 29].tolist()
    assert len(np.unique(codes)) == len(codes) - 29


def test_type_counts_equal_counters() -> None:
    tokens = [["b", "a", "b"], [], ["c", "b"], ["a"] * 5]
    corpus = from_tokens(tokens)
    types = corpus.types
    for row, one in enumerate(tokens):
        span = slice(types.offsets[row], types.offsets[row + 1])
        found = dict(zip(corpus.vocabulary[types.codes[span]], types.counts[span].tolist(), strict=True))
        assert found == Counter(one)
    assert types.rows.tolist() == [0, 0, 2, 2, 3]


def test_aligned_corpora_say_the_same_words_with_common_codes() -> None:
    texts = (["a b a", "c"], ["d c", "", "b"])
    first, second = align(words(texts[0]), words(texts[1]))
    assert first.vocabulary is second.vocabulary
    for corpus, said in ((first, texts[0]), (second, texts[1])):
        assert [corpus.tokens(row) for row in range(len(said))] == [one.split() for one in said]


def test_a_fact_is_computed_once_a_corpus() -> None:
    calls = []

    def fact(corpus: object) -> int:
        calls.append(corpus)
        return 1

    corpus, other = words(["a"]), words(["a"])
    assert [corpus.once(fact), corpus.once(fact), other.once(fact)] == [1, 1, 1]
    assert len(calls) == 2


def test_a_long_token_costs_no_memory_for_the_others() -> None:
    assert words(["x" * 100_000 + " " + " ".join(map(str, range(20_000)))]).vocabulary.nbytes < 200_000


@pytest.mark.parametrize(
    ("texts", "kind", "sentence"),
    [
        (["a", None, "b", None], SchemaMismatch, r"texts has no string in row 1, 3 \(NoneType\): drop or fill these rows"),
        (["a", 3.5], SchemaMismatch, r"texts has no string in row 1 \(float\)"),
        ("a text", SchemaMismatch, "texts must be a list of strings, not one string"),
        ([], EmptyData, "texts is empty"),
    ],
)
def test_bad_texts_are_refused_in_one_sentence(texts: list, kind: type, sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        words(texts)


@pytest.mark.parametrize(("pattern", "sentence"), [("(", "is no regular expression"), ("(a)b", "has groups")])
def test_bad_patterns_are_refused(pattern: str, sentence: str) -> None:
    with pytest.raises(DatumwiseError, match=sentence):
        words(["a"], pattern=pattern)


def test_an_ngram_of_no_token_is_refused() -> None:
    with pytest.raises(DatumwiseError, match="an n-gram of 0 tokens was asked for: n is at least 1"):
        ngram_codes(words(["a"]), 0)


def test_a_part_is_the_corpus_of_its_texts_and_shares_what_is_known_of_words() -> None:
    texts = ["a b a", "", "c a b", "b b", "d"]
    corpus = words(texts)
    part, alone = corpus.part(1, 4), words(texts[1:4])
    assert [part.tokens(row) for row in range(3)] == [alone.tokens(row) for row in range(3)]
    assert part.previous.tolist() == alone.previous.tolist()
    assert part.lengths.tolist() == alone.lengths.tolist()
    assert part.texts == texts[1:4]
    assert part.widths is corpus.widths


@settings(deadline=None, max_examples=100)
@given(st.lists(st.lists(st.sampled_from("abc"), max_size=8), min_size=1, max_size=6))
def test_previous_is_the_last_place_of_the_word_in_the_same_text(tokens: list[list[str]]) -> None:
    corpus = from_tokens(tokens)
    expected = []
    for one in tokens:
        seen: dict[str, int] = {}
        for token in one:
            expected.append(seen.get(token, -1))
            seen[token] = len(expected) - 1
    assert corpus.previous.tolist() == expected
