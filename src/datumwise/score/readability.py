"""How hard is each text to read? The classic formulas, from one shared count of words, sentences and syllables.

W words, S sentences, Y syllables, C words of three syllables and more, ch letters and numerals, long words of seven
letters and more. What a word, a sentence and a syllable is differs from program to program and so do the values;
the rules here are those of `datumwise.probe.words`, `datumwise.probe.sentences` and `datumwise.probe.syllables`.
The formulas were made for English. All are float64 (n,), NaN for a text without words.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.probe.characters import vocabulary_characters
from datumwise.probe.codepoints import DIGIT, LETTER
from datumwise.probe.sentences import sentence_counts
from datumwise.probe.syllables import vocabulary_syllables
from datumwise.probe.words import Corpus
from datumwise.score.characters import in_vocabulary
from datumwise.score.declare import score
from datumwise.score.text_size import ratio, text_sums

__all__ = [
    "ReadingCounts",
    "ari",
    "coleman_liau",
    "dale_chall",
    "flesch_kincaid_grade",
    "flesch_reading_ease",
    "gunning_fog",
    "lix",
    "reading_counts",
    "rix",
    "smog",
]

POLYSYLLABLE = 3  # syllables
LONG = 7  # letters


@dataclass(frozen=True, eq=False)
class ReadingCounts:
    """What all formulas are made of, int64 (n,) each."""

    words: np.ndarray
    sentences: np.ndarray
    syllables: np.ndarray
    polysyllables: np.ndarray
    letters: np.ndarray
    characters: np.ndarray
    long_words: np.ndarray


def reading_counts(words: Corpus) -> ReadingCounts:
    """Counts of each text; ``words.once(reading_counts)`` computes them once for all formulas."""
    syllables = words.once_a_word(vocabulary_syllables)
    letters, characters = words.once_a_word(_letters_and_characters)
    return ReadingCounts(
        words=words.lengths,
        sentences=words.once(sentence_counts),
        syllables=text_sums(words, syllables),
        polysyllables=text_sums(words, syllables >= POLYSYLLABLE),
        letters=text_sums(words, letters),
        characters=text_sums(words, characters),
        long_words=text_sums(words, letters >= LONG),
    )


@score(needs=("words",), higher="easier to read", source="Flesch, 1948")
def flesch_reading_ease(words: Corpus) -> np.ndarray:
    """206.835 - 1.015 W/S - 84.6 Y/W: 100 is easy, 0 very hard, neither is a bound.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> flesch_reading_ease(words(["The cat sat. The dog ran."])).round(2).tolist()
    [119.19]
    """
    counts = words.once(reading_counts)
    return 206.835 - 1.015 * ratio(counts.words, counts.sentences) - 84.6 * ratio(counts.syllables, counts.words)


@score(needs=("words",), higher="harder to read", source="Kincaid et al., 1975")
def flesch_kincaid_grade(words: Corpus) -> np.ndarray:
    """0.39 W/S + 11.8 Y/W - 15.59, in school years (US)."""
    counts = words.once(reading_counts)
    return 0.39 * ratio(counts.words, counts.sentences) + 11.8 * ratio(counts.syllables, counts.words) - 15.59


@score(needs=("words",), higher="harder to read", source="Gunning, 1952")
def gunning_fog(words: Corpus) -> np.ndarray:
    """0.4 (W/S + 100 C/W), in school years; names and compounds among the C are not left out."""
    counts = words.once(reading_counts)
    return 0.4 * (ratio(counts.words, counts.sentences) + 100 * ratio(counts.polysyllables, counts.words))


@score(needs=("words",), higher="harder to read", source="McLaughlin, 1969")
def smog(words: Corpus) -> np.ndarray:
    """1.0430 sqrt(30 C/S) + 3.1291, in school years; made for texts of 30 sentences and more."""
    counts = words.once(reading_counts)
    return 1.0430 * np.sqrt(30 * ratio(counts.polysyllables, counts.sentences)) + 3.1291


@score(needs=("words",), higher="harder to read", source="Smith and Senter, 1967")
def ari(words: Corpus) -> np.ndarray:
    """Automated readability index 4.71 ch/W + 0.5 W/S - 21.43, in school years."""
    counts = words.once(reading_counts)
    return 4.71 * ratio(counts.characters, counts.words) + 0.5 * ratio(counts.words, counts.sentences) - 21.43


@score(needs=("words",), higher="harder to read", source="Coleman and Liau, 1975")
def coleman_liau(words: Corpus) -> np.ndarray:
    """0.0588 L - 0.296 S100 - 15.8, in school years: L letters and S100 sentences a hundred words."""
    counts = words.once(reading_counts)
    return 5.88 * ratio(counts.letters, counts.words) - 29.6 * ratio(counts.sentences, counts.words) - 15.8


@score(needs=("words",), higher="harder to read", source="Björnsson, 1968")
def lix(words: Corpus) -> np.ndarray:
    """W/S + 100 long words/W: below 30 easy, above 60 very hard, in any language of long and short words."""
    counts = words.once(reading_counts)
    return ratio(counts.words, counts.sentences) + 100 * ratio(counts.long_words, counts.words)


@score(needs=("words",), higher="harder to read", source="Anderson, 1983")
def rix(words: Corpus) -> np.ndarray:
    """Long words a sentence."""
    counts = words.once(reading_counts)
    return ratio(counts.long_words, counts.sentences)


@score(needs=("words",), higher="harder to read", source="Dale and Chall, 1948")
def dale_chall(words: Corpus, *, familiar: Collection[str] | None = None) -> np.ndarray:
    """0.1579 p + 0.0496 W/S, and 3.6365 more where p > 5: p is the percentage of words that are not familiar.

    Parameters
    ----------
    words : Corpus
    familiar : collection of str
        Lower-case words, in all their forms, that every reader knows (Dale and Chall's list has 3,000). It must be
        given: no list comes with this package.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> dale_chall(words(["The cat sat. The dog ran."]), familiar={"the", "cat", "sat", "dog"}).round(4).tolist()
    [6.417]
    """
    if familiar is None:
        raise DatumwiseError("dale_chall needs a list of familiar words", remedy="familiar=[...]")
    counts = words.once(reading_counts)
    unknown = 100 * ratio(text_sums(words, ~in_vocabulary(words, familiar, "familiar")), counts.words)
    return 0.1579 * unknown + 0.0496 * ratio(counts.words, counts.sentences) + np.where(unknown > 5, 3.6365, 0.0)


def _letters_and_characters(words: Corpus) -> tuple[np.ndarray, np.ndarray]:
    """Letters, and letters and numerals, of each word of the vocabulary; int64 (V,) each."""
    return vocabulary_characters(words, LETTER), vocabulary_characters(words, LETTER | DIGIT)
