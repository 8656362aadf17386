"""Shares of characters, words and lines."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import DatumwiseError
from datumwise.probe.words import words
from datumwise.score import characters as room
from datumwise.score.characters import (
    alphabetic_word_ratio,
    alphanumeric_ratio,
    bullet_line_ratio,
    digit_ratio,
    ellipsis_line_ratio,
    mean_word_length,
    punctuation_ratio,
    special_ratio,
    stop_word_ratio,
    symbol_word_ratio,
    terminal_line_ratio,
    uppercase_ratio,
    whitespace_ratio,
)

TEXT = "- Buy 2 EGGS!\n- Read more...\n\nIt is the #1 😀"  # 44 characters, 19 letters, 2 digits, 3 lines
OF_CHARACTERS = (alphanumeric_ratio, digit_ratio, punctuation_ratio, special_ratio, whitespace_ratio)
EVERY = [getattr(room, name) for name in room.__all__ if name.endswith("_ratio") or name == "mean_word_length"]


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (alphanumeric_ratio, (22 + 2) / 44),
        (digit_ratio, 2 / 44),
        (uppercase_ratio, 7 / 22),
        (punctuation_ratio, 7 / 44),
        (special_ratio, 8 / 44),
        (whitespace_ratio, 12 / 44),
        (stop_word_ratio, 4 / 9),
        (mean_word_length, 24 / 9),
        (alphabetic_word_ratio, 7 / 9),
        (symbol_word_ratio, 2 / 9),
        (terminal_line_ratio, 2 / 3),
        (bullet_line_ratio, 2 / 3),
        (ellipsis_line_ratio, 1 / 3),
    ],
)
def test_shares_of_a_text_counted_by_hand(share: object, expected: float) -> None:
    assert share(words([TEXT]))[0] == pytest.approx(expected)  # type: ignore[operator]


def test_characters_are_letters_marks_numerals_space_or_special() -> None:
    corpus = words(["नमस्ते 3", "a!", "\u200b\x00", "e\u0301 ½ €"])
    marks = np.array([2 / 8, 0, 0, 1 / 6])  # not among the named shares
    total = alphanumeric_ratio(corpus) + special_ratio(corpus) + whitespace_ratio(corpus) + marks
    assert total.tolist() == pytest.approx([1, 1, 1, 1])


@pytest.mark.parametrize("share", EVERY, ids=lambda share: share.__name__)
def test_a_share_of_nothing_is_nan(share: object) -> None:
    assert np.isnan(share(words(["", "text"]))).tolist() == [True, False]  # type: ignore[operator]


def test_own_stop_words_replace_the_english_ones() -> None:
    corpus = words(["der Hund und die Katze"])
    assert stop_word_ratio(corpus).tolist() == [0]
    assert stop_word_ratio(corpus, stop_words=["der", "die", "und"]).tolist() == [0.6]
    with pytest.raises(DatumwiseError, match="stop_words is one string: give a list or set of words"):
        stop_word_ratio(corpus, stop_words="der")
