"""How many words of each text does nobody know? The share of words out of a vocabulary: misspelt, foreign, garbled."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.probe.characters import vocabulary_characters
from datumwise.probe.codepoints import LETTER, MARK
from datumwise.probe.words import Corpus
from datumwise.score.characters import in_vocabulary
from datumwise.score.declare import score
from datumwise.score.text_size import ratio, text_sums

__all__ = ["oov_ratio"]


@score(needs=("words",), higher="more words out of the vocabulary", source="Heilman et al., 2014, section 2")
def oov_ratio(words: Corpus, *, vocabulary: Collection[str] | None = None, min_count: int = 2) -> np.ndarray:
    """Words that a vocabulary lacks, among the words of letters alone; a word with a numeral counts neither way.

    Parameters
    ----------
    words : Corpus
    vocabulary : collection of str, optional
        Lower-case words, in all their forms. None: the words the texts themselves say at least ``min_count`` times,
        all texts together, so that a word is out if nobody else writes it so.
    min_count : int, default 2
        Read without ``vocabulary`` only.

    Returns
    -------
    float64 (n,)
        0 to 1; NaN for a text without words of letters.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> oov_ratio(words(["the cat saw teh dog", "the dog saw a cat", "42"])).tolist()
    [0.2, 0.2, nan]
    >>> oov_ratio(words(["the cat saw teh dog", "the dog saw a cat"]), vocabulary="a the cat dog saw".split()).tolist()
    [0.2, 0.0]
    """
    if min_count < 1:
        raise DatumwiseError(f"min_count is {min_count}", remedy="it is at least 1")
    apostrophes = np.fromiter((word.count("'") + word.count("’") for word in words.vocabulary), int, len(words.vocabulary))
    spelt = vocabulary_characters(words, LETTER) > 0
    spelt &= vocabulary_characters(words, LETTER | MARK) + apostrophes == words.widths
    if vocabulary is None:
        known = np.bincount(words.codes, minlength=len(words.vocabulary)) >= min_count
    else:
        known = in_vocabulary(words, vocabulary, "vocabulary")
    return ratio(text_sums(words, spelt & ~known), text_sums(words, spelt))
