"""Words out of the vocabulary."""

from __future__ import annotations

import pytest

from datumwise.errors import DatumwiseError
from datumwise.probe.words import words
from datumwise.score.spelling import oov_ratio

NAN = float("nan")


def test_words_that_nobody_else_writes_so_are_out() -> None:
    corpus = words(["the cat saw teh dog", "the dog saw a cat", "a a cat"])
    assert oov_ratio(corpus).tolist() == [1 / 5, 0, 0]
    assert oov_ratio(corpus, min_count=1).tolist() == [0, 0, 0]
    assert oov_ratio(corpus, min_count=3).tolist() == [4 / 5, 3 / 5, 0]


def test_a_vocabulary_replaces_the_texts_own() -> None:
    corpus = words(["The cat saw teh teh dog"], lower=False)
    assert oov_ratio(corpus, vocabulary=["the", "cat", "saw", "dog"]).tolist() == [2 / 6]


def test_words_with_numerals_count_neither_way_and_nothing_is_nan() -> None:
    corpus = words(["x2 42 known", "42", "", "don't e\u0301t"])
    assert oov_ratio(corpus, vocabulary=["known", "don't"]).tolist() == pytest.approx([0, NAN, NAN, 0.5], nan_ok=True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [({"min_count": 0}, "min_count is 0"), ({"vocabulary": "abc"}, "vocabulary is one string: give a list or set")],
)
def test_bad_options_are_refused(options: dict, sentence: str) -> None:
    with pytest.raises(DatumwiseError, match=sentence):
        oov_ratio(words(["a"]), **options)
