"""How much does each text repeat itself? Shares of repeated lines, paragraphs and n-grams.

Rae et al., 2021, *Scaling Language Models: Methods, Analysis & Insights from Training Gopher*, table A1, whose bounds
for web text are quoted below. All shares are float64 (n,), 0 to 1; NaN for a text without lines or words.
Characters are those of words: spaces and punctuation between them count neither above nor below the line.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.probe.words import Corpus
from datumwise.score.declare import score
from datumwise.score.text_size import ratio, text_sums

__all__ = [
    "duplicate_5gram_ratio",
    "duplicate_6gram_ratio",
    "duplicate_7gram_ratio",
    "duplicate_8gram_ratio",
    "duplicate_9gram_ratio",
    "duplicate_10gram_ratio",
    "duplicate_line_character_ratio",
    "duplicate_line_ratio",
    "duplicate_ngram_ratio",
    "duplicate_paragraph_character_ratio",
    "duplicate_paragraph_ratio",
    "top_2gram_ratio",
    "top_3gram_ratio",
    "top_4gram_ratio",
    "top_ngram_ratio",
]

GOPHER = "Rae et al., 2021, table A1"
REPEATS = "repeats itself more"
LONGEST = 10  # words of an n-gram


@score(needs=("words",), higher=REPEATS, source=GOPHER)
def duplicate_line_ratio(words: Corpus) -> np.ndarray:
    """Lines that stood in the text before, among the lines that hold more than white space; bound 0.30.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> duplicate_line_ratio(words(["buy\\nnow\\nbuy\\n buy ", "once", ""])).tolist()
    [0.5, 0.0, nan]
    """
    counts = words.once(_line_repeats)
    return ratio(counts.repeated, counts.total)


@score(needs=("words",), higher=REPEATS, source=GOPHER)
def duplicate_line_character_ratio(words: Corpus) -> np.ndarray:
    """Characters of those lines among the characters of all lines; bound 0.20."""
    counts = words.once(_line_repeats)
    return ratio(counts.repeated_characters, counts.characters)


@score(needs=("words",), higher=REPEATS, source=GOPHER)
def duplicate_paragraph_ratio(words: Corpus) -> np.ndarray:
    """Paragraphs, parted by empty lines, that stood in the text before; bound 0.30."""
    counts = words.once(_paragraph_repeats)
    return ratio(counts.repeated, counts.total)


@score(needs=("words",), higher=REPEATS, source=GOPHER)
def duplicate_paragraph_character_ratio(words: Corpus) -> np.ndarray:
    """Characters of those paragraphs among the characters of all; bound 0.20."""
    counts = words.once(_paragraph_repeats)
    return ratio(counts.repeated_characters, counts.characters)


@score(needs=("words",), higher=REPEATS, source=GOPHER)
def top_2gram_ratio(words: Corpus) -> np.ndarray:
    """Characters in the pair of words that covers most, see `top_ngram_ratio`; bound 0.20."""
    return top_ngram_ratio(words, 2)


@score(needs=("words",), higher=REPEATS, source=GOPHER)
def top_3gram_ratio(words: Corpus) -> np.ndarray:
    """Characters in the run of three words that covers most, see `top_ngram_ratio`; bound 0.18."""
    return top_ngram_ratio(words, 3)


@score(needs=("words",), higher=REPEATS, source=GOPHER)
def top_4gram_ratio(words: Corpus) -> np.ndarray:
    """Characters in the run of four words that covers most, see `top_ngram_ratio`; bound 0.16."""
    return top_ngram_ratio(words, 4)


@score(needs=("words",), higher=REPEATS, source=GOPHER)
def duplicate_5gram_ratio(words: Corpus) -> np.ndarray:
    """Characters in runs of 5 words that come more than once; bound 0.15."""
    return duplicate_ngram_ratio(words, 5)


@score(needs=("words",), higher=REPEATS, source=GOPHER)
def duplicate_6gram_ratio(words: Corpus) -> np.ndarray:
    """Characters in runs of 6 words that come more than once; bound 0.14."""
    return duplicate_ngram_ratio(words, 6)


@score(needs=("words",), higher=REPEATS, source=GOPHER)
def duplicate_7gram_ratio(words: Corpus) -> np.ndarray:
    """Characters in runs of 7 words that come more than once; bound 0.13."""
    return duplicate_ngram_ratio(words, 7)


@score(needs=("words",), higher=REPEATS, source=GOPHER)
def duplicate_8gram_ratio(words: Corpus) -> np.ndarray:
    """Characters in runs of 8 words that come more than once; bound 0.12."""
    return duplicate_ngram_ratio(words, 8)


@score(needs=("words",), higher=REPEATS, source=GOPHER)
def duplicate_9gram_ratio(words: Corpus) -> np.ndarray:
    """Characters in runs of 9 words that come more than once; bound 0.11."""
    return duplicate_ngram_ratio(words, 9)


@score(needs=("words",), higher=REPEATS, source=GOPHER)
def duplicate_10gram_ratio(words: Corpus) -> np.ndarray:
    """Characters in runs of 10 words that come more than once; bound 0.10."""
    return duplicate_ngram_ratio(words, 10)


def top_ngram_ratio(words: Corpus, n: int) -> np.ndarray:
    """Characters in the most frequent n-gram of a text, among the characters of its words.

    Parameters
    ----------
    words : Corpus
    n : int
        1 to 10.

    Returns
    -------
    float64 (n_texts,)
        0 if no n-gram comes twice. Of equally frequent ones, the one with most characters. A character counts
        once where occurrences overlap.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> top_ngram_ratio(words(["to be or not to be", "all differ"]), 2).round(3).tolist()
    [0.615, 0.0]
    """
    found = _repeats(words, n)
    if not len(found.places):
        return ratio(np.zeros(len(words)), words.lengths)
    first = np.flatnonzero(np.diff(found.groups, prepend=-1))  # the occurrence each group begins with
    counts = np.diff(np.append(first, len(found.groups)))
    row = words.rows[found.places[first]]
    upto = _characters_before(words)
    size = upto[found.places[first] + n] - upto[found.places[first]]
    order = np.lexsort((-size, -counts, row))
    best = order[np.flatnonzero(np.diff(row[order], prepend=-1))]
    places = found.places[np.isin(found.groups, found.groups[first[best]])]
    return _covered(words, places, n)


def duplicate_ngram_ratio(words: Corpus, n: int) -> np.ndarray:
    """Characters in any n-gram that a text holds more than once, among the characters of its words.

    Parameters
    ----------
    words : Corpus
    n : int
        1 to 10.

    Returns
    -------
    float64 (n_texts,)
        All occurrences count, the first too; a character counts once where they overlap.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> duplicate_ngram_ratio(words(["one two three one two four", "all differ"]), 2).round(3).tolist()
    [0.571, 0.0]
    """
    return _covered(words, _repeats(words, n).places, n)


@dataclass(frozen=True, eq=False)
class Repeats:
    """N-grams that come at least twice in their text.

    Attributes
    ----------
    places : int64 (r,)
        Where each occurrence begins in the codes of the corpus.
    groups : int64 (r,)
        Equal for occurrences of one n-gram in one text; ascending.
    """

    places: np.ndarray
    groups: np.ndarray


def _repeats(words: Corpus, n: int) -> Repeats:
    if not 1 <= n <= LONGEST:
        raise DatumwiseError(f"n-grams of {n} words were asked for", remedy=f"n from 1 to {LONGEST}")
    return words.once(_all_repeats)[n - 1]


def _all_repeats(words: Corpus) -> list[Repeats]:
    """Repeats of 1 to 10 words. Both n - 1 words runs in a repeated n-gram are repeated themselves: few are left soon."""
    size = max(1, len(words.vocabulary))
    again = np.flatnonzero(words.previous >= 0)
    twice = np.zeros(len(words.codes), bool)
    twice[again] = twice[words.previous[again]] = True
    places = np.flatnonzero(twice)
    found = [_grouped(words.rows[places] * np.int64(size) + words.codes[places], places)]
    group = np.full(len(words.codes) + 1, -1, np.int64)
    for n in range(2, LONGEST + 1):
        last = found[-1]
        group[:] = -1
        group[last.places] = last.groups
        grown = last.places[group[last.places + 1] >= 0]
        grown = grown[grown + n <= words.offsets[1:][words.rows[grown]]]
        found.append(_grouped(group[grown] * size + words.codes[grown + n - 1], grown))
    return found


def _grouped(keys: np.ndarray, places: np.ndarray) -> Repeats:
    """Places of equal keys together, keys that come once left out."""
    order = np.argsort(keys, kind="stable")
    keys = keys[order]
    new = np.concatenate([[True], keys[1:] != keys[:-1]])[: len(keys)]
    groups = np.cumsum(new) - 1
    several = np.bincount(groups, minlength=1)[groups] > 1
    return Repeats(places[order][several], groups[several])


def _covered(words: Corpus, places: np.ndarray, n: int) -> np.ndarray:
    """Share of the characters of each text in runs of n words that begin at ``places``."""
    change = np.zeros(len(words.codes) + 1, np.int32)
    np.add.at(change, places, 1)
    np.add.at(change, places + n, -1)
    inside = np.cumsum(change[:-1]) > 0
    widths = words.widths[words.codes]
    upto = np.concatenate([[0], np.cumsum(np.where(inside, widths, 0))])
    return ratio(np.diff(upto[words.offsets]), text_sums(words, words.widths))


def _characters_before(words: Corpus) -> np.ndarray:
    """Characters of all words before each, int64 (N + 1,)."""
    return np.concatenate([[0], np.cumsum(words.widths[words.codes])])


@dataclass(frozen=True, eq=False)
class UnitRepeats:
    """Lines or paragraphs of each text and those that stood in it before, int64 (n,) each."""

    total: np.ndarray
    repeated: np.ndarray
    characters: np.ndarray
    repeated_characters: np.ndarray


def _line_repeats(words: Corpus) -> UnitRepeats:
    return _unit_repeats([text.split("\n") for text in words.texts])


def _paragraph_repeats(words: Corpus) -> UnitRepeats:
    return _unit_repeats([_paragraphs(text) for text in words.texts])


def _paragraphs(text: str) -> list[str]:
    if "\n" not in text:
        return [text]
    found, current = [], []
    for line in text.split("\n"):
        if line and not line.isspace():
            current.append(line.strip())
        elif current:
            found.append("\n".join(current))
            current = []
    return [*found, "\n".join(current)]


def _unit_repeats(units: list[list[str]]) -> UnitRepeats:
    """White space around a unit does not tell it from another; units of white space do not count."""
    counts = np.zeros((4, len(units)), np.int64)
    for row, pieces in enumerate(units):
        if len(pieces) == 1:  # most texts: nothing can repeat
            size = len(pieces[0].strip())
            counts[:, row] = size > 0, 0, size, 0
            continue
        seen: set[str] = set()
        total = repeated = characters = repeated_characters = 0
        for piece in map(str.strip, pieces):
            if not piece:
                continue
            total, characters = total + 1, characters + len(piece)
            if piece in seen:
                repeated, repeated_characters = repeated + 1, repeated_characters + len(piece)
            seen.add(piece)
        counts[:, row] = total, repeated, characters, repeated_characters
    return UnitRepeats(*counts)
