"""Sizes of texts."""

from __future__ import annotations

import pytest

from datumwise.errors import SchemaMismatch
from datumwise.probe.words import words
from datumwise.score.text_size import (
    mean_sentence_length,
    n_characters,
    n_lines,
    n_sentences,
    n_syllables,
    n_types,
    n_words,
    response_prompt_ratio,
)

TEXTS = ["The cat sat. The dog ran.", "", "你好 😀", "Banana\n\nbanana table", "..."]


def test_sizes_of_known_texts() -> None:
    corpus = words(TEXTS)
    assert n_characters(corpus).tolist() == [25, 0, 4, 20, 3]
    assert n_words(corpus).tolist() == [6, 0, 1, 3, 0]
    assert n_types(corpus).tolist() == [5, 0, 1, 2, 0]
    assert n_sentences(corpus).tolist() == [2, 0, 1, 2, 0]
    assert n_lines(corpus).tolist() == [1, 0, 1, 2, 1]
    assert n_syllables(corpus).tolist() == [6, 0, 1, 8, 0]


def test_a_mean_over_nothing_is_nan() -> None:
    nan = pytest.approx([3, float("nan"), 1, 1.5, float("nan")], nan_ok=True)
    assert mean_sentence_length(words(TEXTS)).tolist() == nan


def test_response_over_prompt_is_nan_only_without_a_prompt() -> None:
    prompts, responses = words(["How many?", "", "Say nothing"]), words(["Three or four of them.", "Yes.", ""])
    assert response_prompt_ratio(prompts, responses).tolist() == pytest.approx([2.5, float("nan"), 0], nan_ok=True)


def test_prompts_and_responses_of_other_numbers_are_refused() -> None:
    with pytest.raises(SchemaMismatch, match="1 prompts and 2 responses differ in number"):
        response_prompt_ratio(words(["a"]), words(["a", "b"]))
