"""How long is each text? Characters, words, sentences, lines, syllables, and the response against its prompt."""

from __future__ import annotations

import numpy as np

from datumwise.errors import SchemaMismatch
from datumwise.probe.characters import character_counts, line_counts
from datumwise.probe.sentences import sentence_counts
from datumwise.probe.syllables import vocabulary_syllables
from datumwise.probe.words import Corpus
from datumwise.score.declare import score

__all__ = [
    "mean_sentence_length",
    "n_characters",
    "n_lines",
    "n_sentences",
    "n_syllables",
    "n_types",
    "n_words",
    "ratio",
    "response_prompt_ratio",
    "text_sums",
]

SOURCE = "Cao et al., 2023 (InstructMining), table 1"


@score(needs=("words",), higher="longer", source=SOURCE)
def n_characters(words: Corpus) -> np.ndarray:
    """Characters (Unicode code points), white space included; float64 (n,), >= 0."""
    return words.once(character_counts).total.astype(float)


@score(needs=("words",), higher="longer", source=SOURCE)
def n_words(words: Corpus) -> np.ndarray:
    """Words, as `datumwise.probe.words` finds them; float64 (n,), >= 0."""
    return words.lengths.astype(float)


@score(needs=("words",), higher="more different words", source=SOURCE)
def n_types(words: Corpus) -> np.ndarray:
    """Different words; float64 (n,), >= 0."""
    return words.types.lengths.astype(float)


@score(needs=("words",), higher="longer", source=SOURCE)
def n_sentences(words: Corpus) -> np.ndarray:
    """Sentences, by the rules of `datumwise.probe.sentences`; float64 (n,), >= 0.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> n_sentences(words(["Dr. Who paid 3.50. Why?", ""])).tolist()
    [2.0, 0.0]
    """
    return words.once(sentence_counts).astype(float)


@score(needs=("words",), higher="longer", source=SOURCE)
def n_lines(words: Corpus) -> np.ndarray:
    """Lines that hold more than white space; float64 (n,), >= 0."""
    return words.once(line_counts).total.astype(float)


@score(needs=("words",), higher="longer", source="Flesch, 1948")
def n_syllables(words: Corpus) -> np.ndarray:
    """Syllables, by the English rules of `datumwise.probe.syllables`; float64 (n,), >= 0."""
    return text_sums(words, words.once_a_word(vocabulary_syllables)).astype(float)


@score(needs=("words",), higher="longer sentences", source="Kincaid et al., 1975")
def mean_sentence_length(words: Corpus) -> np.ndarray:
    """Words a sentence; float64 (n,), NaN without a sentence."""
    return ratio(words.lengths, words.once(sentence_counts))


@score(needs=("prompt_words", "response_words"), higher="a longer response to a shorter prompt", source=SOURCE)
def response_prompt_ratio(prompt_words: Corpus, response_words: Corpus) -> np.ndarray:
    """Words of the response over words of the prompt; float64 (n,), NaN where the prompt has none.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> response_prompt_ratio(words(["How many?", ""]), words(["Three or four of them.", "Yes."])).tolist()
    [2.5, nan]
    """
    if len(prompt_words) != len(response_words):
        raise SchemaMismatch(f"{len(prompt_words):,} prompts and {len(response_words):,} responses differ in number")
    return ratio(response_words.lengths, prompt_words.lengths)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """``part / whole``, float64 (n,), NaN where the whole is 0."""
    part, whole = np.broadcast_arrays(np.asarray(part, float), np.asarray(whole, float))
    return np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)


def text_sums(words: Corpus, values: np.ndarray) -> np.ndarray:
    """Sums over each text of what its words are worth, int64 (n,).

    ``values``, integers or bool (V,), has one number a word of the vocabulary.
    """
    total = np.zeros(len(words.codes) + 1, np.int64)
    np.cumsum(values[words.codes], out=total[1:])
    return np.diff(total[words.offsets])
