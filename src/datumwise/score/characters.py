"""What is each text made of? Shares of characters, words and lines of a kind.

Rules of thumb that web corpora are filtered by: Rae et al., 2021, *Scaling Language Models: Methods, Analysis &
Insights from Training Gopher*, section A.1.1; Raffel et al., 2020, section 2.2 (C4); Chen et al., 2024 (Data-Juicer).
All shares are float64 (n,), 0 to 1 if not said otherwise, NaN where there is nothing to take a share of.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.probe.characters import character_counts, line_counts, vocabulary_characters
from datumwise.probe.codepoints import LETTER
from datumwise.probe.words import Corpus
from datumwise.score.declare import score
from datumwise.score.text_size import ratio, text_sums

__all__ = [
    "STOP_WORDS",
    "alphabetic_word_ratio",
    "alphanumeric_ratio",
    "bullet_line_ratio",
    "digit_ratio",
    "ellipsis_line_ratio",
    "in_vocabulary",
    "mean_word_length",
    "punctuation_ratio",
    "special_ratio",
    "stop_word_ratio",
    "symbol_word_ratio",
    "terminal_line_ratio",
    "uppercase_ratio",
    "whitespace_ratio",
]

GOPHER = "Rae et al., 2021, section A.1.1"
JUICER = "Chen et al., 2024 (Data-Juicer)"
FUNCTION_WORDS = (  # of English
    "a about above after again against all am an and any are aren't as at be because been before being "
    "below between both but by can cannot can't could couldn't did didn't do does doesn't doing don't "
    "down during each few for from further had hadn't has hasn't have haven't having he her here hers "
    "herself him himself his how i if in into is isn't it it's its itself just me more most must my "
    "myself no nor not now of off on once only or other our ours ourselves out over own same she should "
    "shouldn't so some such than that that's the their theirs them themselves then there these they this "
    "those through to too under until up very was wasn't we were weren't what when where which while who "
    "whom why will with won't would wouldn't you your yours yourself yourselves"
)
STOP_WORDS = frozenset(FUNCTION_WORDS.split())


@score(needs=("words",), higher="more letters and digits", source=JUICER)
def alphanumeric_ratio(words: Corpus) -> np.ndarray:
    """Letters and numerals among the characters.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> alphanumeric_ratio(words(["ab1!", "?!", ""])).tolist()
    [0.75, 0.0, nan]
    """
    counts = words.once(character_counts)
    return ratio(counts.letters + counts.digits, counts.total)


@score(needs=("words",), higher="more numerals", source=JUICER)
def digit_ratio(words: Corpus) -> np.ndarray:
    """Numerals among the characters."""
    counts = words.once(character_counts)
    return ratio(counts.digits, counts.total)


@score(needs=("words",), higher="more capital letters", source=JUICER)
def uppercase_ratio(words: Corpus) -> np.ndarray:
    """Capital letters among the letters."""
    counts = words.once(character_counts)
    return ratio(counts.upper, counts.letters)


@score(needs=("words",), higher="more punctuation", source=JUICER)
def punctuation_ratio(words: Corpus) -> np.ndarray:
    """Punctuation (Unicode P*) among the characters."""
    counts = words.once(character_counts)
    return ratio(counts.punctuation, counts.total)


@score(needs=("words",), higher="more characters that are of no word", source=JUICER)
def special_ratio(words: Corpus) -> np.ndarray:
    """Characters that are neither letter, numeral, combining mark nor white space: punctuation, emoji, control."""
    counts = words.once(character_counts)
    return ratio(counts.total - counts.letters - counts.digits - counts.marks - counts.spaces, counts.total)


@score(needs=("words",), higher="more white space", source=JUICER)
def whitespace_ratio(words: Corpus) -> np.ndarray:
    """White space among the characters."""
    counts = words.once(character_counts)
    return ratio(counts.spaces, counts.total)


@score(needs=("words",), higher="more function words", source=JUICER)
def stop_word_ratio(words: Corpus, *, stop_words: Collection[str] | None = None) -> np.ndarray:
    """Stop words among the words: prose has many, lists of keywords few.

    Parameters
    ----------
    words : Corpus
    stop_words : collection of str, optional
        Lower case. None: `STOP_WORDS`, function words of English.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> stop_word_ratio(words(["The cat is on the mat.", "cheap flights hotels"])).round(2).tolist()
    [0.67, 0.0]
    """
    english = stop_words is None
    among = words.once_a_word(_english_stop_words) if english else in_vocabulary(words, stop_words or (), "stop_words")
    return ratio(text_sums(words, among), words.lengths)


@score(needs=("words",), higher="longer words", source=GOPHER)
def mean_word_length(words: Corpus) -> np.ndarray:
    """Characters a word; good web text has 3 to 10."""
    return ratio(text_sums(words, words.widths), words.lengths)


@score(needs=("words",), higher="more words of letters", source=GOPHER)
def alphabetic_word_ratio(words: Corpus) -> np.ndarray:
    """Words with at least one letter; good web text has 0.8 and more."""
    return ratio(text_sums(words, words.once_a_word(_has_letter)), words.lengths)


@score(needs=("words",), higher="more hashes and ellipses", source=GOPHER)
def symbol_word_ratio(words: Corpus) -> np.ndarray:
    """``#`` and ``…`` (or ``...``) a word, 0 upwards; good web text has at most 0.1.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> symbol_word_ratio(words(["#ad read more...", "......"])).tolist()
    [0.6666666666666666, nan]
    """
    counts = words.once(character_counts)
    return ratio(counts.hashes + counts.ellipses, words.lengths)


@score(needs=("words",), higher="more lines that end a sentence", source="Raffel et al., 2020, section 2.2")
def terminal_line_ratio(words: Corpus) -> np.ndarray:
    """Lines that end with a mark that ends a sentence, a closing quote or bracket behind it or not."""
    counts = words.once(line_counts)
    return ratio(counts.terminal, counts.total)


@score(needs=("words",), higher="more of a list", source=GOPHER)
def bullet_line_ratio(words: Corpus) -> np.ndarray:
    """Lines that begin with a bullet; good web text has at most 0.9."""
    counts = words.once(line_counts)
    return ratio(counts.bullets, counts.total)


@score(needs=("words",), higher="more lines cut short", source=GOPHER)
def ellipsis_line_ratio(words: Corpus) -> np.ndarray:
    """Lines that end with an ellipsis; good web text has at most 0.3."""
    counts = words.once(line_counts)
    return ratio(counts.ellipsis, counts.total)


def in_vocabulary(words: Corpus, known: Collection[str], name: str) -> np.ndarray:
    """bool (V,): which words of the vocabulary, lower-cased, are among ``known``, a collection of lower-case str."""
    if isinstance(known, str):
        raise DatumwiseError(f"{name} is one string", remedy="give a list or set of words")
    among = known if isinstance(known, (set, frozenset, dict)) else set(known)
    return np.fromiter((word.lower() in among for word in words.vocabulary), bool, len(words.vocabulary))


def _english_stop_words(words: Corpus) -> np.ndarray:
    """bool (V,)."""
    return in_vocabulary(words, STOP_WORDS, "stop_words")


def _has_letter(words: Corpus) -> np.ndarray:
    """bool (V,)."""
    return vocabulary_characters(words, LETTER) > 0
