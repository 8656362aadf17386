"""Which texts share most of their word runs? MinHash signatures and locality-sensitive hashing.

The share of equal places in two signatures estimates the Jaccard similarity J of two sets of shingles, with
standard deviation sqrt(J (1 - J) / num_perm) (Broder, "On the resemblance and containment of documents", 1997). Of
b bands of r places, two texts agree in one or more with probability 1 - (1 - J^r)^b; who does is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, SchemaMismatch, UnknownName
from datumwise.select.groups import Groups, Keep, Similarity, group_pairs, share
from datumwise.select.shared_keys import similar_rows
from datumwise.select.shingles import Shingles, Texts, as_corpus, jaccard, shingles

__all__ = ["MinHashIndex", "band_shape", "minhash", "minhash_signatures", "permutations"]

P = np.uint64((1 << 61) - 1)  # the Mersenne prime of the permutations
EMPTY = np.uint32(0xFFFFFFFF)  # signature of a text without a shingle
TEXTS = 256  # signed at a time: a block of 256 x 128 stays in the cache
LONG = 4096  # shingles from which a text is signed by itself
TABLE = 1 << 19  # most different shingles whose hashes are all kept (256 MiB at 128 permutations)


def minhash(
    texts: Texts,
    threshold: float = 0.7,
    num_perm: int = 128,
    ngram: int = 5,
    *,
    keep: Keep = "first",
    ids: Sequence[Any] | None = None,
    bands: tuple[int, int] | None = None,
    verify: str | None = None,
    signatures: np.ndarray | None = None,
    family: str = "affine",
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Groups:
    """Group texts whose sets of word runs have a Jaccard similarity of at least ``threshold``.

    Parameters
    ----------
    texts : list of str, list of lists of tokens (str or int), or Corpus
        Sets that are made already are lists of their elements with ``ngram=1``.
    threshold : float in (0, 1], default 0.7
    num_perm : int, default 128
        Places of a signature.
    ngram : int, default 5
        Tokens a shingle. A shorter text has one shingle, the whole of it; a text without a word is similar to none.
    keep : "first", "longest" or float array, default "first"
        Which of a group is kept; the longest has the most shingles.
    ids : sequence, optional
        Names of the datapoints, those of ``signatures`` first.
    bands : (b, r), optional
        Bands and places a band, b r <= num_perm. None: `band_shape`. More bands of fewer places find more pairs
        and measure more.
    verify : "exact" or "signature", optional
        Whether candidates are measured by their sets of shingles, or by their signatures. None: exact if all
        texts are at hand.
    signatures : uint32 (m, num_perm), optional
        Of texts that came before, by `minhash_signatures` with the same parameters: they are rows 0 to m - 1, and
        ``texts`` the rows from m on. They are not signed again.
    family : "affine" or "mersenne", default "affine"
        Permutations, see `permutations`.
    seed : int, default 1
        Of the permutations.
    progress : callable, optional
        Told (texts signed, texts).

    Returns
    -------
    Groups
        Over the m + n rows; ``similarity`` is the Jaccard similarity, measured as ``rule`` says.

    Raises
    ------
    DatumwiseError
        No text, rows that hold none (they are named), a threshold outside (0, 1], bands that need more than
        ``num_perm`` places, ids that repeat, signatures of another width.

    Notes
    -----
    Time: every shingle hashed by every permutation, in blocks that stay in the cache, and b sorts of n keys. Memory: 4
    bytes a text and permutation, and 12 bytes a shingle.

    Examples
    --------
    >>> texts = ["the cat sat on the mat today", "a dog ran in the park", "the cat sat on the mat today again"]
    >>> print(minhash(texts, threshold=0.6, ngram=2, ids=["a", "b", "c"], keep="longest"))
    1 of 3 datapoints left out: 1 group (Jaccard similarity of 2-grams at least 0.6, exact; kept: the longest)
    size  kept  left out  least similar
       2  c     a                  0.86
    """
    index = MinHashIndex.of(
        texts, threshold, num_perm, ngram, bands=bands, signatures=signatures, family=family, seed=seed, progress=progress
    )
    return index.groups(keep=keep, ids=ids, verify=verify)


def minhash_signatures(
    texts: Texts,
    num_perm: int = 128,
    ngram: int = 5,
    *,
    family: str = "affine",
    seed: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Signatures: the least hash of a text's shingles, a permutation a column.

    Parameters are those of `minhash`.

    Returns
    -------
    uint32 (n, num_perm)
        A row of 2^32 - 1 for a text without a word.

    Examples
    --------
    >>> a, b = minhash_signatures([["x", "y", "z"], ["z", "x", "y", "y"]], ngram=1)
    >>> bool((a == b).all())
    True
    """
    return signed(shingles(as_corpus(texts), ngram), *permutations(num_perm, family, seed), progress=progress)


@dataclass(frozen=True, eq=False)
class MinHashIndex:
    """Signatures of texts that can be searched for similar ones, and to which further texts can be added.

    Attributes
    ----------
    signatures : uint32 (n, num_perm)
        Of all texts so far, in the order they came.
    lengths : int64 (n,)
        Shingles of each; -1 where a signature came alone.
    threshold, ngram, bands, family, seed
        Parameters of `minhash`.

    Examples
    --------
    >>> index = MinHashIndex.of([["a", "b", "c", "d"], ["e", "f"]], ngram=1)
    >>> index.extend([["a", "b", "c", "d"]]).groups().kept_by.tolist()
    [0, 1, 0]
    """

    signatures: np.ndarray = field(repr=False)
    lengths: np.ndarray = field(repr=False)
    threshold: float
    ngram: int
    bands: tuple[int, int]
    family: str
    seed: int
    _sets: Shingles | None = field(default=None, repr=False)  # of all texts, while they are at hand

    @classmethod
    def of(
        cls,
        texts: Texts,
        threshold: float = 0.7,
        num_perm: int = 128,
        ngram: int = 5,
        *,
        bands: tuple[int, int] | None = None,
        signatures: np.ndarray | None = None,
        family: str = "affine",
        seed: int = 1,
        progress: Callable[[int, int], None] | None = None,
    ) -> MinHashIndex:
        """Sign texts; parameters as of `minhash`."""
        threshold = share(threshold, "threshold")
        a, b = permutations(num_perm, family, seed)
        shape = band_shape(threshold, num_perm) if bands is None else _checked_bands(bands, num_perm)
        sets = shingles(as_corpus(texts), ngram)
        new = signed(sets, a, b, progress=progress)
        if signatures is None:
            return cls(new, sets.lengths, threshold, ngram, shape, family, seed, sets)
        old = np.asarray(signatures)
        if old.ndim != 2 or old.shape[1] != num_perm or old.dtype != np.uint32:
            raise SchemaMismatch(
                f"signatures are {old.dtype} of shape {old.shape} and the texts are signed by {num_perm} permutations",
                remedy="give uint32 (m, num_perm), by minhash_signatures with the same parameters",
            )
        lengths = np.concatenate([np.full(len(old), -1), sets.lengths])
        return cls(np.concatenate([old, new]), lengths, threshold, ngram, shape, family, seed)

    def __len__(self) -> int:
        return len(self.signatures)

    def extend(self, texts: Texts, *, progress: Callable[[int, int], None] | None = None) -> MinHashIndex:
        """An index of these texts and, after them, further ones; only the further ones are signed."""
        sets = shingles(as_corpus(texts), self.ngram)
        a, b = permutations(self.signatures.shape[1], self.family, self.seed)
        return replace(
            self,
            signatures=np.concatenate([self.signatures, signed(sets, a, b, progress=progress)]),
            lengths=np.concatenate([self.lengths, sets.lengths]),
            _sets=None,
        )

    def candidates(self) -> np.ndarray:
        """Pairs that agree in one band or more, int64 (p, 2), ascending, before any is measured.

        Where more than 32 texts agree in a band, enough pairs to connect them instead of all.
        """
        return similar_rows(self._keys(), len(self), lambda rows, others: np.ones(len(rows)), 0.0)[0]

    def groups(self, *, keep: Keep = "first", ids: Sequence[Any] | None = None, verify: str | None = None) -> Groups:
        """Groups of similar texts; parameters as of `minhash`."""
        verify = verify or ("signature" if self._sets is None else "exact")
        if verify not in ("exact", "signature"):
            raise UnknownName(f"there is no verification {verify!r}", remedy="give 'exact' or 'signature'")
        if verify == "exact" and self._sets is None:
            raise DatumwiseError(
                "the earlier texts are not at hand, only their signatures", remedy="verify='signature', or give all texts"
            )
        if isinstance(keep, str) and keep == "longest" and (self.lengths < 0).any():
            raise DatumwiseError("how long the earlier texts are is not known", remedy="keep='first' or numbers")
        similarity = self._exact if verify == "exact" else self._estimated
        n = len(self)
        pairs, values = similar_rows(self._keys(), n, similarity, self.threshold, bands=self.bands[0])
        what = "exact" if verify == "exact" else f"estimated by {self.signatures.shape[1]} permutations"
        rule = f"Jaccard similarity of {self.ngram}-grams at least {self.threshold:g}, {what}"
        return group_pairs(n, pairs, values, rule=rule, keep=keep, lengths=self.lengths, ids=ids, between=similarity)

    @property
    def _exact(self) -> Similarity:
        sets = self._sets
        assert sets is not None
        return lambda rows, others: jaccard(sets, rows, others)

    def _estimated(self, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        found = np.empty(len(rows))
        step = max(1, (1 << 20) // self.signatures.shape[1])
        for start in range(0, len(rows), step):
            span = slice(start, start + step)
            found[span] = (self.signatures[rows[span]] == self.signatures[others[span]]).mean(axis=1)
        return found

    def _keys(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(rows, key) a band; texts without a shingle are in none."""
        full = np.flatnonzero((self.signatures != EMPTY).any(axis=1))
        b, r = self.bands
        odd = np.random.default_rng(0).integers(0, 2**63, r, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        for band in range(b):
            key = np.zeros(len(self), np.uint64)
            for place in range(r):
                key += self.signatures[:, band * r + place] * odd[place]
            yield full, key[full]


def permutations(num_perm: int, family: str = "affine", seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Random permutations of the hashes x of shingles, as their coefficients a and b.

    Parameters
    ----------
    num_perm : int
        At least 2.
    family : "affine" or "mersenne"
        affine: (a x + b) mod 2^32, a odd, after the finalizer of MurmurHash3 on x: bijections, the default of
        datasketch 2.0. mersenne: ((a x + b) mod (2^61 - 1)) mod 2^32, the older universal family, some five times
        the work. x is the lower half of a shingle's 64-bit hash.
    seed : int

    Returns
    -------
    a, b : (num_perm,)
        uint32 (affine) or uint64 (mersenne).
    """
    if isinstance(num_perm, bool) or not isinstance(num_perm, int | np.integer) or num_perm < 2:
        raise DatumwiseError(f"num_perm is {num_perm!r}", remedy="give a whole number of 2 or more")
    rng = np.random.default_rng(seed)
    if family == "affine":
        a = rng.integers(0, 1 << 31, num_perm, dtype=np.uint32) * np.uint32(2) + np.uint32(1)
        return a, rng.integers(0, 1 << 32, num_perm, dtype=np.uint32)
    if family == "mersenne":
        return rng.integers(1, P, num_perm, dtype=np.uint64), rng.integers(0, P, num_perm, dtype=np.uint64)
    raise UnknownName(f"there is no family of permutations {family!r}", remedy="give 'affine' or 'mersenne'")


@lru_cache(maxsize=64)
def band_shape(threshold: float, num_perm: int = 128) -> tuple[int, int]:
    """Bands b and places a band r with the least mean error: datasketch's rule.

    It minimises the integral of 1 - (1 - s^r)^b below the threshold, of what should not be found, plus that of
    (1 - s^r)^b above it, of what is missed, over s from 0 to 1 and b r <= num_perm.

    Examples
    --------
    >>> band_shape(0.7), band_shape(0.9)
    ((14, 9), (5, 25))
    """
    s, weight = np.polynomial.legendre.leggauss(64)
    below, above = (s + 1) / 2 * threshold, threshold + (s + 1) / 2 * (1 - threshold)
    best = (np.inf, 1, 1)
    for b in range(1, num_perm + 1):
        r = np.arange(1, num_perm // b + 1)[:, None]
        wrong = threshold / 2 * ((1 - (1 - below**r) ** b) @ weight)
        missed = (1 - threshold) / 2 * (((1 - above**r) ** b) @ weight)
        error = wrong + missed
        least = int(error.argmin())
        if error[least] < best[0] - 1e-12:
            best = (float(error[least]), b, least + 1)
    return best[1], best[2]


def signed(sets: Shingles, a: np.ndarray, b: np.ndarray, *, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
    """uint32 (n, num_perm): least permuted hash of each text's shingles.

    Texts of like length are signed together, their first shingles, their second, and so on: a block of running
    minima stays in the cache.
    """
    n, width = len(sets), len(a)
    x = _premixed(sets.hashes, a.dtype)
    table = _permuted(x, a, b) if sets.codes is not None and len(x) <= TABLE else None
    places = np.arange(len(x)) if sets.codes is None else sets.codes
    found = np.full((n, width), EMPTY, np.uint32)
    order = np.argsort(-sets.lengths, kind="stable")
    lengths = sets.lengths[order]
    first = int(np.searchsorted(-lengths, -LONG, side="right"))  # the long ones, lengths >= LONG
    done = 0
    for row in order[:first]:
        span = places[sets.offsets[row] : sets.offsets[row + 1]]
        for start in range(0, len(span), LONG):
            some = span[start : start + LONG]
            hashed = _permuted(x[some], a, b) if table is None else table[some]
            np.minimum(found[row], hashed.min(axis=0), out=found[row])
        done += 1
    held = np.empty((TEXTS, width), np.uint32)
    for start in range(first, n, TEXTS):
        rows = order[start : start + TEXTS]
        least = np.full((len(rows), width), EMPTY, np.uint32)
        size = lengths[start : start + TEXTS]
        at = sets.offsets[rows]
        for k in range(int(size[0])):
            m = int(np.searchsorted(-size, -k, side="left"))  # texts with more than k shingles come first
            some = places[at[:m] + k]
            hashed = held[:m]
            if table is None:
                _permuted(x[some], a, b, out=hashed)
            else:
                np.take(table, some, axis=0, out=hashed, mode="clip")
            np.minimum(least[:m], hashed, out=least[:m])
        found[rows] = least
        done += len(rows)
        if progress is not None:
            progress(done, n)
    return found


def _premixed(hashes: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The lower halves of 64-bit hashes; for the affine family (uint32) mixed by MurmurHash3's 32-bit finalizer."""
    low = hashes.astype(np.uint32)
    if dtype == np.uint64:
        return low.astype(np.uint64)
    low ^= low >> np.uint32(16)
    low *= np.uint32(0x85EBCA6B)
    low ^= low >> np.uint32(13)
    low *= np.uint32(0xC2B2AE35)
    low ^= low >> np.uint32(16)
    return low


def _permuted(x: np.ndarray, a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """uint32 (m, num_perm): every permutation of every hash."""
    if out is None:
        out = np.empty((len(x), len(a)), np.uint32)
    if a.dtype == np.uint32:
        np.multiply(x[:, None], a, out=out)
        out += b
        return out
    for start in range(0, len(x), TEXTS):
        out[start : start + TEXTS] = _mersenne(x[start : start + TEXTS, None], a, b)
    return out


def _mersenne(x: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """uint64: (a x + b) mod (2^61 - 1), exact, for x < 2^32; products of 93 bits are folded, not truncated."""
    high = x * (a >> np.uint64(29))  # a x = high 2^29 + low
    total = x * (a & np.uint64((1 << 29) - 1))
    total += b
    total += (high & np.uint64((1 << 32) - 1)) << np.uint64(29)
    high >>= np.uint64(32)  # times 2^61, which is 1
    total += high
    high = total >> np.uint64(61)
    total &= P
    total += high
    return total - P * (total >= P)


def _checked_bands(bands: tuple[int, int], num_perm: int) -> tuple[int, int]:
    b, r = (int(one) for one in bands)
    if b < 1 or r < 1 or b * r > num_perm:
        raise DatumwiseError(
            f"{b} bands of {r} places need {b * r:,} permutations and there are {num_perm:,}",
            remedy="bands=(b, r) with b r <= num_perm",
        )
    return b, r
