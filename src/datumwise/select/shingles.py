"""Which runs of words does each text consist of, as 64-bit hashes that mean the same in every corpus?

A shingle is n consecutive tokens of a text (Broder, "On the resemblance and containment of documents", 1997). The
hash of a token is the first 8 bytes of its SHA-1, that of a shingle a polynomial of those of its tokens modulo 2^64.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, cast

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch, name_some
from datumwise.probe.words import Corpus, words
from datumwise.select.shared_keys import ranges

__all__ = ["Shingles", "Texts", "as_corpus", "jaccard", "mixed", "shingles"]

Texts = Corpus | Sequence[str] | Sequence[Sequence[str]] | Sequence[Sequence[int]]
STEP = np.uint64(0x9E3779B97F4A7C15)  # base of the polynomial: odd, so nothing of a token's hash is lost


@dataclass(frozen=True, eq=False)
class Shingles:
    """Hashed shingles of n texts, flat; those that repeat within a text are still there.

    Attributes
    ----------
    hashes : uint64 (U,)
    codes : int32 (M,) or None
        Shingles as places in ``hashes``, if these are kept once only; None: shingle k is ``hashes[k]``.
    offsets : int64 (n + 1,)
        Those of text i are from ``offsets[i]`` to ``offsets[i + 1]``. A text shorter than a shingle has one, of all
        its tokens; a text without a token has none.
    """

    hashes: np.ndarray
    codes: np.ndarray | None
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """int64 (n,): shingles a text."""
        return np.diff(self.offsets)

    def of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The shingles of some texts: numbers that are equal where the shingles are, int64 (m,), and the text of each,
        as its place in ``rows``."""
        at, of = ranges(self.offsets[rows], self.lengths[rows])
        if self.codes is not None:
            return self.codes[at].astype(np.int64), of
        return np.unique(self.hashes[at], return_inverse=True)[1], of


def as_corpus(texts: Texts) -> Corpus:
    """Texts, lists of tokens (strings or integers) or a corpus, as a corpus.

    Raises
    ------
    SchemaMismatch, EmptyData
        Rows that hold no text (they are named), no text at all.
    """
    if isinstance(texts, Corpus):
        return texts
    items = list(texts)
    if not items:
        raise EmptyData("there is no text")
    lists = [isinstance(item, list | tuple | np.ndarray) for item in items]
    if isinstance(texts, str) or not any(lists):
        return words(cast("Sequence[str]", texts))  # names the rows that hold no text
    bad = [row for row, good in enumerate(lists) if not good]
    if bad:
        raise SchemaMismatch(f"row {name_some(bad)} holds no list of tokens", remedy="drop or fill these rows", ids=bad)
    return _of_tokens(items)


def _of_tokens(lists: list[Any]) -> Corpus:
    import pyarrow

    offsets = np.zeros(len(lists) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, lists), np.int64, len(lists)), out=offsets[1:])
    try:
        flat = pyarrow.array(list(chain.from_iterable(lists)))
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise SchemaMismatch(f"tokens are of several types: {error}", remedy="give strings or integers") from error
    if flat.null_count:
        rows = np.searchsorted(offsets, np.flatnonzero(flat.is_null().to_numpy(zero_copy_only=False)), side="right") - 1
        bad = np.unique(rows)
        raise SchemaMismatch(f"row {name_some(bad)} holds a token that is None", ids=bad.tolist())
    kinds = pyarrow.types
    if len(flat) and not (kinds.is_string(flat.type) or kinds.is_large_string(flat.type) or kinds.is_integer(flat.type)):
        raise SchemaMismatch(f"tokens are {flat.type}", remedy="give strings or integers")
    encoded = flat.dictionary_encode()
    vocabulary = np.empty(len(encoded.dictionary), object)
    vocabulary[:] = [str(token) for token in encoded.dictionary.to_pylist()]
    return Corpus(encoded.indices.to_numpy().astype(np.int32, copy=False), offsets, vocabulary, lists)


def shingles(corpus: Corpus, n: int) -> Shingles:
    """Every run of n tokens, hashed.

    Parameters
    ----------
    corpus : Corpus
    n : int
        Tokens a shingle, at least 1.

    Examples
    --------
    >>> found = shingles(as_corpus(["a b c", "b c", "c"]), 2)
    >>> found.offsets.tolist(), bool(found.hashes[1] == found.hashes[2])
    ([0, 2, 3, 4], True)
    """
    if isinstance(n, bool) or not isinstance(n, int | np.integer) or n < 1:
        raise DatumwiseError(f"ngram is {n!r}", remedy="give a whole number of tokens, 1 or more")
    known = [hashlib.sha1(str(token).encode("utf-8", "surrogatepass")).digest()[:8] for token in corpus.vocabulary]
    vocabulary = np.frombuffer(b"".join(known), "<u8").astype(np.uint64)
    if n == 1:
        return Shingles(vocabulary, corpus.codes, corpus.offsets)
    tokens = vocabulary[corpus.codes]
    lengths = np.diff(corpus.offsets)
    left = np.repeat(corpus.offsets[1:], lengths) - np.arange(len(tokens))  # tokens from here to the end of the text
    powers = np.multiply.accumulate(np.full(n, STEP))
    whole = np.zeros(max(0, len(tokens) - n + 1), np.uint64)
    for place in range(n):
        whole += tokens[place : place + len(whole)] * powers[place]
    starts = left[: len(whole)] >= n
    counts = np.where(lengths >= n, lengths - n + 1, np.minimum(lengths, 1))
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    hashes = np.empty(offsets[-1], np.uint64)
    short = np.flatnonzero((lengths > 0) & (lengths < n))
    alone = np.zeros(len(hashes), bool)
    alone[offsets[short]] = True
    hashes[~alone] = whole[starts]
    for row in short:
        some = tokens[corpus.offsets[row] : corpus.offsets[row + 1]]
        hashes[offsets[row]] = (some * powers[: len(some)]).sum(dtype=np.uint64)
    return Shingles(mixed(hashes), None, offsets)


def mixed(hashes: np.ndarray) -> np.ndarray:
    """uint64 (m,): the finalizer of MurmurHash3, a bijection after which every bit depends on every bit."""
    hashes = hashes ^ (hashes >> np.uint64(33))
    hashes *= np.uint64(0xFF51AFD7ED558CCD)
    hashes ^= hashes >> np.uint64(33)
    hashes *= np.uint64(0xC4CEB9FE1A85EC53)
    hashes ^= hashes >> np.uint64(33)
    return hashes


def jaccard(found: Shingles, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float64 (p,): Jaccard similarity of the sets of shingles of pairs of texts; 0 where both have none.

    Examples
    --------
    >>> sets = shingles(as_corpus(["a b c", "b c d", "e"]), 1)
    >>> jaccard(sets, np.array([0, 0]), np.array([1, 2])).tolist()
    [0.5, 0.0]
    """
    from scipy.sparse import csr_matrix

    texts, place = np.unique(np.concatenate([rows, others]), return_inverse=True)
    codes, of = found.of(texts)
    key = np.unique(of * (codes.max(initial=0) + 1) + codes)
    width = int(codes.max(initial=0)) + 1
    sizes = np.bincount(key // width, minlength=len(texts))
    indptr = np.concatenate([[0], np.cumsum(sizes)])
    sets = csr_matrix((np.ones(len(key), np.float32), key % width, indptr), shape=(len(texts), width))
    i, j = place[: len(rows)], place[len(rows) :]
    common = np.asarray(sets[i].multiply(sets[j]).sum(axis=1)).ravel().astype(np.float64)
    union = sizes[i] + sizes[j] - common
    return np.divide(common, union, out=np.zeros(len(rows)), where=union > 0)
