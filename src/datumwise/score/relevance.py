"""Does the response speak of what the prompt asks? Cosine of embeddings, or shared n-grams without a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from datumwise.errors import SchemaMismatch
from datumwise.probe.neighbours import finite_matrix, row_norms
from datumwise.probe.words import Corpus, align, count_types, ngram_codes
from datumwise.score.declare import score
from datumwise.score.text_size import ratio

__all__ = ["cosine_relevance", "ngram_overlap"]

BLOCK = 1 << 20  # coordinates held in float64 at a time


@score(
    needs=("prompt_words", "response_words"),
    higher="the response repeats more of the prompt",
    source="Dice, 1945",
)
def ngram_overlap(prompt_words: Corpus, response_words: Corpus, *, n: int = 1) -> np.ndarray:
    """How many different n-grams have prompt and response in common? Dice's 2 |A and B| / (|A| + |B|).

    Near 0 the response may be off the topic; near 1 it parrots the prompt.

    Parameters
    ----------
    prompt_words, response_words : Corpus
        Of the same length.
    n : int, default 1
        Words of an n-gram.

    Returns
    -------
    float64 (n_texts,)
        0 to 1; NaN where neither has an n-gram.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> ngram_overlap(words(["Name a fruit", "Hi"]), words(["A fruit is the apple", "Bananas"])).round(2).tolist()
    [0.5, 0.0]
    """
    if len(prompt_words) != len(response_words):
        raise SchemaMismatch(f"{len(prompt_words):,} prompts and {len(response_words):,} responses differ in number")
    together = interleaved(*align(prompt_words, response_words))
    codes, offsets = ngram_codes(together, n)
    size = int(codes.max(initial=0)) + 1
    apart = count_types(codes, offsets, size).lengths.reshape(-1, 2).sum(axis=1)
    union = count_types(codes, offsets[::2], size).lengths
    return ratio(2 * (apart - union), apart)


def cosine_relevance(prompt_embedding: Any, response_embedding: Any) -> np.ndarray:
    """Cosine of the embeddings of each prompt and its response.

    Parameters
    ----------
    prompt_embedding, response_embedding : float arrays (n, d), finite

    Returns
    -------
    float64 (n,)
        -1 to 1; NaN where one is zero.

    Raises
    ------
    SchemaMismatch, NotFinite
        Other shapes; NaN, naming the rows.

    Examples
    --------
    >>> cosine_relevance([[1.0, 0.0], [1.0, 1.0]], [[0.0, 2.0], [3.0, 3.0]]).round(6).tolist()
    [0.0, 1.0]
    """
    first = finite_matrix(prompt_embedding, "prompt_embedding")
    second = finite_matrix(response_embedding, "response_embedding")
    if first.shape != second.shape:
        raise SchemaMismatch(f"prompt_embedding is {first.shape} and response_embedding {second.shape}")
    step = max(1, BLOCK // first.shape[1])
    parts = []
    for start in range(0, len(first), step):
        a, b = (one[start : start + step].astype(np.float64) for one in (first, second))
        lengths = [row_norms(one) for one in (a, b)]
        a, b = (one / np.where(length > 0, length, np.nan)[:, None] for one, length in zip((a, b), lengths, strict=True))
        parts.append(np.clip(np.einsum("ij,ij->i", a, b), -1, 1))
    return np.concatenate(parts)


def interleaved(first: Corpus, second: Corpus) -> Corpus:
    """Texts of two corpora of one vocabulary and length in turn: first 0, second 0, first 1, ..."""
    lengths = np.column_stack([first.lengths, second.lengths]).ravel()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    codes = np.empty(offsets[-1], np.int32)
    for which, corpus in enumerate((first, second)):
        shift = np.repeat(offsets[:-1][which::2] - corpus.offsets[:-1], corpus.lengths)
        codes[np.arange(len(corpus.codes)) + shift] = corpus.codes
    texts = [text for pair in zip(first.texts, second.texts, strict=True) for text in pair]
    return Corpus(codes, offsets, first.vocabulary, texts)
