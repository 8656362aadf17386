"""Readability formulas, against known answers and their arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import DatumwiseError
from datumwise.probe import sentences, syllables
from datumwise.probe.words import words
from datumwise.score import readability as room
from datumwise.score.readability import (
    ari,
    coleman_liau,
    dale_chall,
    flesch_kincaid_grade,
    flesch_reading_ease,
    gunning_fog,
    lix,
    reading_counts,
    rix,
    smog,
)

FORMULAS = (flesch_reading_ease, flesch_kincaid_grade, gunning_fog, smog, ari, coleman_liau, lix, rix)
EASY = "The cat sat. The dog ran."
# 8 words, 1 sentence; syllables 1 6 2 1 5 3 1 3; three-syllable words 4; letters 3+13+7+2+11+6+3+10 and a numeral
HARD = "The international council of universities in2 general and assembly"


@pytest.mark.parametrize(
    ("formula", "expected"),
    [
        (flesch_reading_ease, 119.19),
        (flesch_kincaid_grade, -2.62),
        (ari, -5.80),
        (coleman_liau, -8.0267),
        (lix, 3),
        (gunning_fog, 1.2),
        (smog, 3.1291),
        (rix, 0),
    ],
)
def test_the_cat_sat(formula: object, expected: float) -> None:
    assert formula(words([EASY]))[0] == pytest.approx(expected, abs=5e-5)  # type: ignore[operator]


def test_counts_of_a_harder_sentence() -> None:
    counts = reading_counts(words([HARD]))
    assert counts.words.tolist() == [9]
    assert counts.sentences.tolist() == [1]
    assert counts.polysyllables.tolist() == [4]  # international, universities, general, assembly
    assert counts.syllables.tolist() == [1 + 5 + 2 + 1 + 5 + 1 + 3 + 1 + 3]
    assert counts.letters.tolist() == [3 + 13 + 7 + 2 + 12 + 2 + 7 + 3 + 8]
    assert counts.characters.tolist() == [58]
    assert counts.long_words.tolist() == [5]


def test_formulas_of_a_harder_sentence() -> None:
    corpus = words([HARD])
    assert gunning_fog(corpus)[0] == pytest.approx(0.4 * (9 + 400 / 9))
    assert smog(corpus)[0] == pytest.approx(1.0430 * np.sqrt(30 * 4) + 3.1291)
    assert lix(corpus)[0] == pytest.approx(9 + 500 / 9)
    assert rix(corpus)[0] == 5
    assert ari(corpus)[0] == pytest.approx(4.71 * 58 / 9 + 4.5 - 21.43)
    assert coleman_liau(corpus)[0] == pytest.approx(0.0588 * 5700 / 9 - 0.296 * 100 / 9 - 15.8)
    assert flesch_reading_ease(corpus)[0] == pytest.approx(206.835 - 1.015 * 9 - 84.6 * 22 / 9)
    assert flesch_kincaid_grade(corpus)[0] == pytest.approx(0.39 * 9 + 11.8 * 22 / 9 - 15.59)


@pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: formula.__name__)
def test_texts_without_words_are_nan_and_one_word_is_not(formula: object) -> None:
    found = formula(words(["", "😀 ...", "word", "漢字"]))  # type: ignore[operator]
    assert np.isnan(found).tolist() == [True, True, False, False]


def test_thirty_formulas_cost_one_count(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    count, split = syllables.syllables, sentences._sentences
    monkeypatch.setattr(syllables, "syllables", lambda word: (calls.append(word), count(word))[1])
    monkeypatch.setattr(sentences, "_sentences", lambda block: (calls.append("block"), split(block))[1])
    corpus = words([EASY] * 10)
    for _ in range(4):
        for formula in FORMULAS:
            formula(corpus)
    assert sorted(calls) == ["block", "cat", "dog", "ran", "sat", "the"]


def test_dale_chall_adds_its_constant_above_five_per_cent() -> None:
    easy = " ".join(["known"] * 19)
    corpus = words([f"{easy} strange.", f"{easy} {easy} strange.", "known"])
    expected = [0.1579 * 5 + 0.0496 * 20, 0.1579 * 100 / 39 + 0.0496 * 39, 0.0496]  # 5 % is not above 5 %
    assert dale_chall(corpus, familiar=["known"]).tolist() == pytest.approx(expected)
    assert dale_chall(words(["strange."]), familiar=["known"])[0] == pytest.approx(15.79 + 0.0496 + 3.6365)


def test_dale_chall_without_its_list_is_refused() -> None:
    with pytest.raises(DatumwiseError, match=r"dale_chall needs a list of familiar words: familiar=\[...\]"):
        dale_chall(words(["a"]))


def test_every_formula_is_declared() -> None:
    from datumwise.score.declare import catalogue

    assert {formula.__name__ for formula in FORMULAS} | {"dale_chall"} <= set(catalogue())
    assert room.__doc__
