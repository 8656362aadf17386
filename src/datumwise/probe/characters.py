"""How many characters and lines of which kind does each text have? Counts in a few passes over flat code points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from datumwise.probe.codepoints import CATEGORY, Block, blocks, classes
from datumwise.probe.words import Corpus

__all__ = ["CharacterCounts", "LineCounts", "character_counts", "line_counts", "vocabulary_characters"]

TERMINAL = ".!?…。！？।؟"  # a line that ends so ends a sentence
QUOTES = "\"'”’»)"  # may stand behind it
BULLETS = "-*+•‣▪◦●○■□▶–—·"  # a line that begins so is an item of a list
LINE_FEED = 10


@dataclass(frozen=True, eq=False)
class CharacterCounts:
    """Characters (code points) of each text, int64 (n,) each.

    Attributes
    ----------
    total : int64 (n,)
    letters, digits, upper, marks, punctuation, symbols, spaces : int64 (n,)
        By Unicode category, see `datumwise.probe.codepoints.CATEGORY`.
    hashes, ellipses : int64 (n,)
        ``#``, and ``…`` or ``...``: what Rae et al., 2021, table A1 call symbols.
    """

    total: np.ndarray
    letters: np.ndarray
    digits: np.ndarray
    upper: np.ndarray
    marks: np.ndarray
    punctuation: np.ndarray
    symbols: np.ndarray
    spaces: np.ndarray
    hashes: np.ndarray
    ellipses: np.ndarray


@dataclass(frozen=True, eq=False)
class LineCounts:
    """Lines of each text that hold more than white space, int64 (n,) each.

    Attributes
    ----------
    total : int64 (n,)
        Such lines.
    terminal : int64 (n,)
        End with a mark that ends a sentence, a closing quote or bracket behind it or not.
    ellipsis : int64 (n,)
        End with ``…`` or ``...``.
    bullets : int64 (n,)
        Begin with a bullet, dash, star or plus, and go on after white space; or with a bullet sign alone.
    """

    total: np.ndarray
    terminal: np.ndarray
    ellipsis: np.ndarray
    bullets: np.ndarray


def character_counts(corpus: Corpus) -> CharacterCounts:
    """Characters by kind.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> counts = character_counts(words(["Ab 12!", ""]))
    >>> counts.total.tolist(), counts.letters.tolist(), counts.digits.tolist(), counts.punctuation.tolist()
    ([6, 0], [2, 0], [2, 0], [1, 0])
    """
    parts = [_characters(block) for block in blocks(corpus.texts)]
    return CharacterCounts(*np.concatenate(parts, axis=1))


def line_counts(corpus: Corpus) -> LineCounts:
    """Lines by kind.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> counts = line_counts(words(["Buy:\\n - milk\\n\\n - tea.", ""]))
    >>> counts.total.tolist(), counts.bullets.tolist(), counts.terminal.tolist()
    ([3, 0], [2, 0], [1, 0])
    """
    parts = [_lines(block) for block in blocks(corpus.texts)]
    return LineCounts(*np.concatenate(parts, axis=1))


def vocabulary_characters(corpus: Corpus, bits: int) -> np.ndarray:
    """Characters of some classes in each word of the vocabulary.

    Parameters
    ----------
    corpus : Corpus
    bits : int
        Sum of bits of `datumwise.probe.codepoints.CATEGORY`.

    Returns
    -------
    int64 (V,)

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> vocabulary_characters(words(["don't 42nd"]), CATEGORY["letter"]).tolist()
    [4, 2]
    """
    points = np.frombuffer("".join(corpus.vocabulary).encode("utf-32-le", "surrogatepass"), np.uint32)
    before = np.concatenate([[0], np.cumsum((classes()[points] & bits) != 0)])
    return np.diff(before[np.concatenate([[0], np.cumsum(corpus.widths)])])


def _characters(block: Block) -> np.ndarray:
    """(10, texts of the block), in the order of the fields."""
    points, starts = block.points, block.starts[:-1]
    kind = classes()[points]
    total = np.diff(block.starts) - 1  # without the line feed behind the text
    names = ("letter", "digit", "upper", "mark", "punctuation", "symbol", "space")
    by_kind = [_sums((kind & CATEGORY[name]) != 0, starts) for name in names]
    by_kind[-1] -= 1  # the line feed
    dots = points == ord(".")
    run = dots[:-2] & dots[1:-1] & dots[2:]
    begins = run & ~np.concatenate([[False], dots[:-3]])[: len(run)]  # one a run of dots
    ellipses = points == ord("…")
    ellipses[: len(begins)] |= begins
    return np.stack([total, *by_kind, _sums(points == ord("#"), starts), _sums(ellipses, starts)])


def _lines(block: Block) -> np.ndarray:
    """(4, texts of the block), in the order of the fields."""
    points = block.points
    solid = np.flatnonzero((classes()[points] & CATEGORY["space"]) == 0)
    if not len(solid):
        return np.zeros((4, block.stop - block.first), np.int64)
    ends = np.flatnonzero(points == LINE_FEED)
    bounds = np.searchsorted(solid, ends)  # solid characters up to the end of each line
    before = np.concatenate([[0], bounds[:-1]])
    lines = bounds > before
    first, last = solid[before[lines]], solid[bounds[lines] - 1]
    text = np.searchsorted(block.starts, ends[lines], side="right") - 1

    quoted = _among(points[last], QUOTES)
    terminal = _among(points[last - quoted], TERMINAL)  # before a lone quote there is a line feed, or points[-1], which is one
    dotted = (last - first >= 2) & (points[last] == ord(".")) & (points[last - 1] == ord(".")) & (points[last - 2] == ord("."))
    ellipsis = dotted | (points[last] == ord("…"))
    spaced = (classes()[points[first + 1]] & CATEGORY["space"]) != 0  # there is one: the line feed at least
    sign = _among(points[first], BULLETS)
    bullets = sign & (first < last) & (spaced | ~_among(points[first], "-*+–—·"))
    n = block.stop - block.first
    return np.stack([np.bincount(text[kind], minlength=n) for kind in (slice(None), terminal, ellipsis, bullets)])


def _among(points: np.ndarray, characters: str) -> np.ndarray:
    return np.isin(points, [ord(character) for character in characters])


def _sums(marked: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """int64: how many are True from each start to the next; no span is empty, for a line feed ends each."""
    return np.add.reduceat(marked, starts, dtype=np.int64)
