"""Syllables of words whose number is beyond doubt, a rule at a time."""

from __future__ import annotations

import pytest

from datumwise.probe.syllables import syllables, vocabulary_syllables
from datumwise.probe.words import words

KNOWN = {
    1: ["a", "the", "cat", "make", "makes", "baked", "through", "strength", "queue", "eye", "3rd", "x"],
    2: ["table", "wanted", "boxes", "being", "didn't", "rhythm", "lion", "poet", "layer", "unique", "science", "hopeful"],
    3: ["banana", "diary", "radio", "area", "linear", "element", "ratio", "completely", "various", "idea", "behaving"],
    4: ["information", "development", "application", "automobile", "historical", "american"],
    5: ["university", "readability", "electricity", "international"],
}


@pytest.mark.parametrize(("count", "word"), [(count, word) for count, some in KNOWN.items() for word in some])
def test_known_words(count: int, word: str) -> None:
    assert syllables(word) == count


def test_words_without_latin_vowels_have_one() -> None:
    assert [syllables(word) for word in ("", "42", "hmm", "漢字", "привет")] == [1] * 5


def test_each_word_of_the_vocabulary_is_counted_whatever_its_case() -> None:
    corpus = words(["Banana TABLE banana"], lower=False)
    assert dict(zip(corpus.vocabulary, vocabulary_syllables(corpus).tolist(), strict=True)) == {
        "Banana": 3,
        "TABLE": 2,
        "banana": 3,
    }
