"""Which samples give their label away or repeat the others? The seven parts of the Data Quality Index.

Mishra et al., 2020, *DQI: A Guide to Benchmark Evaluation* (2008.03964), section 3, and *DQI: Measuring Data Quality in
NLP* (2005.00816). The paper sums each part over a data set; here each is one column, a number a sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse

from datumwise.errors import SchemaMismatch
from datumwise.probe.neighbours import finite_matrix, neighbours
from datumwise.probe.sentences import split_sentences
from datumwise.probe.words import Corpus, align, count_types, ngram_codes, words
from datumwise.score.checks import class_labels
from datumwise.score.relevance import cosine_relevance
from datumwise.score.scores import Scores
from datumwise.score.text_size import ratio

__all__ = ["HIGHER", "data_quality_index"]

HIGHER = {
    "dqi_vocabulary": "more different words than other samples",
    "dqi_ngram_frequency": "made of n-grams that the data set repeats",
    "dqi_inter_similarity": "more like its most similar other sample",
    "dqi_word_similarity": "its words are more alike",
    "dqi_intra_similarity": "its sentences (or its two parts) are more alike",
    "dqi_label_ngrams": "its n-grams give the label away",
    "dqi_test_similarity": "more like a sample of the test set",
}
WORD_ROWS = 1 << 14  # texts whose summed word vectors are held at a time


def data_quality_index(
    texts: Sequence[str] | Corpus,
    *,
    labels: Any = None,
    second: Sequence[str] | Corpus | None = None,
    test: Sequence[str] | None = None,
    embedding: Any = None,
    test_embedding: Any = None,
    ngrams: tuple[int, ...] = (1, 2, 3),
    dim: int = 128,
    random_state: int | None = 0,
    ids: Sequence[Any] | None = None,
) -> Scores:
    """The parts of the index as columns; n samples, sentence vectors e_i, word vectors u_w, all of unit length.

    1. ``dqi_vocabulary``: (V_i - mean V) / sd V, V_i the number of different words.
    2. ``dqi_ngram_frequency``: mean over the n-grams g of the sample, of all lengths in ``ngrams``, of
       (c_g - mean c) / sd c; c_g counts g in all samples, mean and sd run over all different g of that length.
    3. ``dqi_inter_similarity``: max_{j != i} <e_i, e_j>. Exact nearest neighbours, block by block
       (`datumwise.probe.neighbours`).
    4. ``dqi_word_similarity``: mean of <u_v, u_w> over pairs of words at different places; it is
       (|sum_w u_w|^2 - N) / (N (N - 1)), so no pair is formed.
    5. ``dqi_intra_similarity``: the same over the sample's sentences, or <e_i, e'_i> with its ``second`` part.
    6. ``dqi_label_ngrams``: mean over the different n-grams of the sample that at least one other sample has too, of
       max_y p(y | g): the share, among samples with g, of their most frequent label. Needs ``labels``.
    7. ``dqi_test_similarity``: max_t <e_i, e_t> over the test set, block by block. Needs ``test`` or
       ``test_embedding``.

    Parts 1 and 3 to 5 never hold more than blocks of n x 128 numbers; nothing is n x n.

    Parameters
    ----------
    texts : sequence of n str, or Corpus
    labels : int (n,), optional
        Classes 0, 1, ...
    second : sequence of n str, or Corpus, optional
        The other part of each sample: hypothesis to a premise, response to a prompt. It counts in part 5 only.
    test : sequence of str, optional
    embedding : float (n, d), optional
        Sentence vectors. None: latent semantic analysis of the texts (tf-idf, leading ``dim`` singular vectors).
    test_embedding : float (m, d), optional
        Of the test set, of the same encoder; goes with ``embedding``.
    ngrams : tuple of int, default (1, 2, 3)
    dim : int, default 128
        Of the word vectors, and of sentence vectors that are not given.
    random_state : int or None, default 0
        Of the truncated singular value decomposition.
    ids : sequence of n, optional

    Returns
    -------
    Scores
        A column a part that can be computed; NaN where a part is not defined (no words, one sentence, one sample).

    Raises
    ------
    SchemaMismatch, NotFinite, LabelError, EmptyData

    Examples
    --------
    >>> texts = ["a cat sat", "no dog ran", "a cat ran", "no bird sat"]
    >>> found = data_quality_index(texts, labels=[0, 1, 0, 1], ngrams=(1,))
    >>> found["dqi_label_ngrams"].round(3).tolist()  # "a", "cat" and "no" give it away; "sat" and "ran" do not
    [0.833, 0.75, 0.833, 0.75]
    """
    corpus = texts if isinstance(texts, Corpus) else words(texts)
    if (embedding is None) and (test_embedding is not None):
        raise SchemaMismatch("test_embedding was given without embedding", remedy="give both, of one encoder")
    if embedding is not None and test is not None and test_embedding is None:
        raise SchemaMismatch("the test texts have no embedding of that encoder", remedy="test_embedding=")
    n = len(corpus)
    empty = corpus.lengths == 0
    space = WordSpace(corpus, dim, random_state)
    vectors = space.sentences(corpus) if embedding is None else finite_matrix(embedding, "embedding")
    if len(vectors) != n:
        raise SchemaMismatch(f"embedding has {len(vectors):,} rows for {n:,} texts")

    columns = {
        "dqi_vocabulary": _standardised(corpus.types.lengths.astype(float)),
        "dqi_ngram_frequency": _ngram_frequency(corpus, ngrams),
        "dqi_inter_similarity": np.full(n, np.nan) if n < 2 else 1 - neighbours(vectors, 1, "cosine")[0][:, 0],
        "dqi_word_similarity": space.mean_similarity(corpus),
        "dqi_intra_similarity": _intra_similarity(corpus, second, space),
    }
    if embedding is None:
        columns["dqi_inter_similarity"][empty] = np.nan
    if labels is not None:
        codes = class_labels(labels)
        if len(codes) != n:
            raise SchemaMismatch(f"{len(codes):,} labels and {n:,} texts differ in number")
        columns["dqi_label_ngrams"] = _label_ngrams(corpus, codes, ngrams)
    others = None if test_embedding is None else finite_matrix(test_embedding, "test_embedding")
    if others is None and test is not None:
        others = space.sentences(words(test))
    if others is not None:
        columns["dqi_test_similarity"] = 1 - neighbours(others, 1, "cosine", queries=vectors)[0][:, 0]
        if embedding is None:
            columns["dqi_test_similarity"][empty] = np.nan
    names = np.arange(n) if ids is None else ids
    return Scores(names, columns, higher={name: HIGHER[name] for name in columns})


class WordSpace:
    """Vectors of words and sentences by latent semantic analysis (Deerwester et al., 1990).

    Parameters
    ----------
    corpus : Corpus
        What it is learnt from: rows tf * ln((1 + n) / (1 + df)) + tf of unit length, leading ``dim`` right singular
        vectors; all words themselves where the vocabulary is not larger than ``dim``.
    dim : int
    random_state : int or None
    """

    def __init__(self, corpus: Corpus, dim: int, random_state: int | None) -> None:
        self.corpus = corpus
        types = corpus.types
        present = np.bincount(types.codes, minlength=len(corpus.vocabulary))
        self.idf = np.log((1 + len(corpus)) / (1 + present)) + 1
        table = self._table(corpus)
        if min(table.shape) <= dim:
            self.words = table.T.toarray() if table.shape[0] < table.shape[1] else np.eye(table.shape[1])
        else:
            from sklearn.decomposition import TruncatedSVD

            found = TruncatedSVD(dim, random_state=random_state).fit(table)
            self.words = np.ascontiguousarray(found.components_.T)
        lengths = np.linalg.norm(self.words, axis=1)
        self.unit = self.words / np.where(lengths > 0, lengths, 1)[:, None]

    def sentences(self, corpus: Corpus) -> np.ndarray:
        """float64 (n, d): sums of the word vectors weighed by tf-idf; words that are not in the space do not count."""
        return np.asarray(self._table(self._known(corpus)) @ self.words)

    def mean_similarity(self, corpus: Corpus) -> np.ndarray:
        """Mean cosine of the words at two places of a text, float64 (n,); NaN below two words."""
        corpus = self._known(corpus)
        types = corpus.types
        counts = sparse.csr_array((types.counts.astype(float), types.codes, types.offsets), shape=(len(corpus), len(self.unit)))
        squares = np.empty(len(corpus))
        for start in range(0, len(corpus), WORD_ROWS):
            total = counts[start : start + WORD_ROWS] @ self.unit
            squares[start : start + WORD_ROWS] = np.einsum("ij,ij->i", total, total)
        own = counts @ (np.einsum("ij,ij->i", self.unit, self.unit))  # N, but for words without a direction
        return mean_of_pairs(squares, own, corpus.lengths)

    def _known(self, corpus: Corpus) -> Corpus:
        """The corpus in the vocabulary of this space, other words left out."""
        if corpus is self.corpus:
            return corpus
        own, other = align(self.corpus, corpus)
        kept = other.codes < len(self.idf)
        offsets = np.concatenate([[0], np.cumsum(kept)])[other.offsets]
        return Corpus(other.codes[kept], offsets, own.vocabulary[: len(self.idf)], other.texts)

    def _table(self, corpus: Corpus) -> sparse.csr_array:
        types = corpus.types
        weights = types.counts * self.idf[types.codes]
        squares = np.concatenate([[0.0], np.cumsum(weights**2)])
        length = np.sqrt(np.diff(squares[types.offsets]))
        weights = weights / np.maximum(length, 1e-300)[types.rows]
        return sparse.csr_array((weights, types.codes, types.offsets), shape=(len(corpus), len(self.idf)))


def mean_of_pairs(squares: np.ndarray, own: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Mean inner product of different vectors: (|sum|^2 - sum of |.|^2) / (m (m - 1)), NaN for m < 2."""
    return ratio(squares - own, count * (count - 1))


def _standardised(values: np.ndarray) -> np.ndarray:
    """Distance from the mean in standard deviations (of the population); 0 where all are alike."""
    spread = values.std()
    return (values - values.mean()) / spread if spread > 0 else np.zeros(len(values))


def _ngram_frequency(corpus: Corpus, ngrams: tuple[int, ...]) -> np.ndarray:
    total, number = np.zeros(len(corpus)), np.zeros(len(corpus))
    for n in ngrams:
        codes, offsets = ngram_codes(corpus, n)
        if not len(codes):
            continue
        _, which, counts = np.unique(codes, return_inverse=True, return_counts=True)
        common = _standardised(counts.astype(float))[which]
        rows = np.repeat(np.arange(len(corpus)), np.diff(offsets))
        total += np.bincount(rows, weights=common, minlength=len(corpus))
        number += np.diff(offsets)
    return ratio(total, number)


def _label_ngrams(corpus: Corpus, labels: np.ndarray, ngrams: tuple[int, ...]) -> np.ndarray:
    total, number = np.zeros(len(corpus)), np.zeros(len(corpus))
    classes = int(labels.max()) + 1
    for n in ngrams:
        codes, offsets = ngram_codes(corpus, n)
        if not len(codes):
            continue
        different, dense = np.unique(codes, return_inverse=True)
        types = count_types(dense, offsets, len(different))
        having = np.bincount(types.codes, minlength=len(different))
        key, together = np.unique(types.codes.astype(np.int64) * classes + labels[types.rows], return_counts=True)
        most = np.zeros(len(different), np.int64)
        np.maximum.at(most, key // classes, together)
        shared = having[types.codes] > 1
        rows = types.rows[shared]
        total += np.bincount(rows, weights=(most / having)[types.codes[shared]], minlength=len(corpus))
        number += np.bincount(rows, minlength=len(corpus))
    return ratio(total, number)


def _intra_similarity(corpus: Corpus, second: Sequence[str] | Corpus | None, space: WordSpace) -> np.ndarray:
    if second is not None:
        other = second if isinstance(second, Corpus) else words(second)
        if len(other) != len(corpus):
            raise SchemaMismatch(f"second has {len(other):,} texts for {len(corpus):,}")
        return cosine_relevance(space.sentences(corpus), space.sentences(other))
    pieces = [split_sentences(text) for text in corpus.texts]
    counts = np.fromiter(map(len, pieces), np.int64, len(pieces))
    found = np.full(len(corpus), np.nan)
    if not (counts > 1).any():
        return found
    ends = np.cumsum(counts)
    start = 0
    while start < len(corpus):  # blocks of sentences
        stop = max(start + 1, int(np.searchsorted(ends, (ends[start - 1] if start else 0) + WORD_ROWS, side="right")))
        flat = [sentence for text in pieces[start:stop] for sentence in text]
        if flat:
            vectors = space.sentences(words(flat))
            length = np.linalg.norm(vectors, axis=1)
            vectors /= np.where(length > 0, length, 1)[:, None]
            rows = np.repeat(np.arange(stop - start), counts[start:stop])
            member = sparse.csr_array((np.ones(len(flat)), (rows, np.arange(len(flat)))), shape=(stop - start, len(flat)))
            sums = member @ vectors
            own = np.bincount(rows, weights=length > 0, minlength=stop - start)
            found[start:stop] = mean_of_pairs(np.einsum("ij,ij->i", sums, sums), own, counts[start:stop])
        start = stop
    return found
