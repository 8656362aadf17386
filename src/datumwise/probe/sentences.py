"""How many sentences does each text have? Own rules, stated, without a model.

A sentence ends

- at ``.``, ``!``, ``?``, ``…`` (and their Arabic, Devanagari and Armenian forms), or a run of them, if white space
  or the end of the text follows, closing quotes or brackets between or not: the dot in "3.14" ends none;
- but not at one dot behind a single letter ("J. Smith", "e.g. this") or behind one of `ABBREVIATIONS`, unless the
  text ends there;
- at ``。``, ``！``, ``？``, whatever follows;
- at an empty line, and at the end of the text.

What holds no letter or numeral is no sentence, so "..." counts nothing.
"""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np

from datumwise.probe.codepoints import DIGIT, LETTER, Block, blocks, classes
from datumwise.probe.words import Corpus

__all__ = ["ABBREVIATIONS", "sentence_counts", "split_sentences"]

ABBREVIATIONS = (
    "Mr",
    "Mrs",
    "Ms",
    "Dr",
    "Prof",
    "St",
    "Jr",
    "Sr",
    "vs",
    "etc",
    "Fig",
    "fig",
    "Eq",
    "eq",
    "No",
    "al",
    "cf",
    "pp",
)
MARKS = ".!?…؟۔।։"
NOT_BEHIND = r"(?<!\b[^\W\d_]\.)" + "".join(rf"(?<!\b{word}\.)" for word in ABBREVIATIONS)
ENDS = (  # apart, and each with a set of characters first, which is what the regular expression engine looks for fast
    re.compile(rf"[{MARKS}][{MARKS}]*{NOT_BEHIND}[\"'”’»)\]}}]*(?=\s)"),
    re.compile(r"[。！？｡][」』”’）]*"),
    re.compile(r"\n[^\S\n]*\n"),
)


def sentence_counts(corpus: Corpus) -> np.ndarray:
    """Sentences, int64 (n,), by the rules at the head of this module.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> sentence_counts(words(["Dr. Who paid 3.50. Why?", "no full stop", "...", ""])).tolist()
    [2, 1, 0, 0]
    """
    return np.concatenate([_sentences(block) for block in blocks(corpus.texts)])


def split_sentences(text: str) -> list[str]:
    """The sentences of one text, without white space around them.

    Examples
    --------
    >>> split_sentences("Dr. Who paid 3.50. Why? ...")
    ['Dr. Who paid 3.50.', 'Why?']
    """
    cuts = [0, *_ends(text + "\n").tolist(), len(text)]
    pieces = [text[a:b].strip() for a, b in pairwise(cuts)]
    table = classes()
    return [piece for piece in pieces if any(table[ord(character)] & (LETTER | DIGIT) for character in piece)]


def _ends(string: str) -> np.ndarray:
    """Where sentences end, int64, ascending; each is behind a mark or an empty line."""
    return np.unique(np.fromiter((found.end() for end in ENDS for found in end.finditer(string)), np.int64))


def _sentences(block: Block) -> np.ndarray:
    cuts = np.union1d(_ends(block.string), block.starts[1:])
    body = np.cumsum((classes()[block.points] & (LETTER | DIGIT)) != 0)
    said = np.diff(body[cuts - 1], prepend=0) > 0  # the pieces between cuts that say something
    text = np.searchsorted(block.starts, cuts[said] - 1, side="right") - 1
    return np.bincount(text, minlength=block.stop - block.first)
