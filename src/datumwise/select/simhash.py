"""Which texts have nearly the same fingerprint? SimHash of word runs, Hamming distance of 64 bits.

Bit k of a fingerprint is the sign of the sum, over a text's shingles, of +1 or -1 by bit k of the shingle's hash
(Charikar, "Similarity estimation techniques from rounding algorithms", 2002, section 3). Fingerprints d bits apart
agree in at least c of d + c blocks of bits: the search of Manku, Jain and Das Sarma, "Detecting near-duplicates for web
crawling", 2007, section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, pairwise
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from datumwise.errors import DatumwiseError
from datumwise.select.groups import Groups, Keep, group_pairs
from datumwise.select.shared_keys import similar_rows
from datumwise.select.shingles import Texts, as_corpus, mixed, shingles

__all__ = ["simhash", "simhash_fingerprints"]

BITS = 64
MANY = 100_000  # texts from which three blocks must agree, not one: fewer candidates by chance
SHINGLES = 1 << 18  # whose bits are held at a time (64 MiB)


def simhash(
    texts: Texts,
    max_distance: int = 3,
    ngram: int = 3,
    *,
    keep: Keep = "first",
    ids: Sequence[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Groups:
    """Group texts whose fingerprints differ in at most ``max_distance`` of 64 bits.

    Parameters
    ----------
    texts : list of str, list of lists of tokens, or Corpus
    max_distance : int, default 3
        Bits, 0 to 16: Manku et al. found 3 right for eight billion pages.
    ngram : int, default 3
        Tokens a shingle.
    keep : "first", "longest" or float array, default "first"
        Which of a group is kept; the longest has the most shingles.
    ids : sequence, optional
        Names of the datapoints.
    progress : callable, optional
        Told (choices of blocks searched, choices).

    Returns
    -------
    Groups
        ``similarity`` is 1 - distance / 64. Every pair within the distance is found, if no more than 32 texts
        share a block; of more, enough to connect them.

    Notes
    -----
    The distance estimates the angle between two texts as vectors of counts of shingles: a change of one word in
    fifty moves some 8 bits, so SimHash finds copies with less changed than MinHash does.

    Examples
    --------
    >>> simhash(["a b c d e f", "f e d c b a", "a b c d e f"]).kept_by.tolist()
    [0, 1, 0]
    """
    if isinstance(max_distance, bool) or not isinstance(max_distance, int | np.integer) or not 0 <= max_distance <= 16:
        raise DatumwiseError(f"max_distance is {max_distance!r} bits", remedy="give a whole number from 0 to 16")
    corpus = as_corpus(texts)
    prints = simhash_fingerprints(corpus, ngram)
    lengths = shingles(corpus, 1).lengths

    def similarity(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        return 1 - np.bitwise_count(prints[rows] ^ prints[others]) / BITS

    n = len(prints)
    rows = np.flatnonzero(lengths > 0)
    masks = _masks(int(max_distance), many=len(rows) > MANY)
    keys = ((rows, prints[rows] & mask) for mask in masks)
    pairs, values = similar_rows(keys, n, similarity, 1 - max_distance / BITS, progress=progress, bands=len(masks))
    rule = f"SimHash of {ngram}-grams within {max_distance} of {BITS} bits"
    return group_pairs(n, pairs, values, rule=rule, keep=keep, lengths=lengths, ids=ids, between=similarity)


def simhash_fingerprints(texts: Texts, ngram: int = 3) -> np.ndarray:
    """Fingerprints of texts; a sum of 0 is a bit of 0, and so is all of a text without a word.

    Returns
    -------
    uint64 (n,)

    Examples
    --------
    >>> a, b, c = simhash_fingerprints(["one two three", "one two three", "four five six"])
    >>> bool(a == b), bool(a == c)
    (True, False)
    """
    sets = shingles(as_corpus(texts), ngram)
    hashes = mixed(sets.hashes)
    found = np.zeros(len(sets), np.uint64)
    start = 0
    while start < len(sets):
        stop = max(start + 1, int(np.searchsorted(sets.offsets, sets.offsets[start] + SHINGLES, side="right")) - 1)
        span = slice(sets.offsets[start], sets.offsets[stop])
        some = hashes[span] if sets.codes is None else hashes[sets.codes[span]]
        bits = np.unpackbits(some.astype("<u8").view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
        indptr = sets.offsets[start : stop + 1] - sets.offsets[start]
        of = csr_matrix((np.ones(len(some), np.float32), np.arange(len(some)), indptr), shape=(stop - start, len(some)))
        ones = of @ bits.astype(np.float32)  # whole numbers below 2^24: exact
        up = 2 * ones > sets.lengths[start:stop, None]
        found[start:stop] = np.packbits(up, axis=1, bitorder="little").view("<u8").ravel()
        start = stop
    return found


def _masks(distance: int, *, many: bool) -> list[np.uint64]:
    """Bits that c of d + c blocks hold, for every choice of c: fingerprints within d bits agree in one choice or more."""
    chosen = 3 if many else 1
    edges = np.linspace(0, BITS, distance + chosen + 1).round().astype(int).tolist()
    blocks = [((1 << b) - 1) ^ ((1 << a) - 1) for a, b in pairwise(edges)]
    return [np.uint64(sum(some)) for some in combinations(blocks, chosen)]
