"""How varied is a set of texts, or of anything that can be counted? One number a set.

Li et al., 2016 (distinct-n); Zhu et al., 2018 (self-BLEU); Shaib et al., 2024, *Standardizing the Measurement of Text
Diversity* (compression ratio, homogenization); Hill, 1973 (entropy, Simpson's index and what is between).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, NotFinite, SchemaMismatch, name_some
from datumwise.probe.codepoints import checked_texts
from datumwise.probe.common_subsequence import places, subsequence_length
from datumwise.probe.words import Corpus, count_types, ngram_codes, words
from datumwise.score.declare import score

__all__ = [
    "compression_ratio",
    "distinct_n",
    "entropy",
    "hill_number",
    "homogenization",
    "ngram_entropy",
    "rouge_l",
    "self_bleu",
    "self_bleu_of_each",
    "simpson",
]

MEBIBYTE = 1 << 20


def distinct_n(texts: Sequence[str] | Corpus, n: int = 1) -> float:
    """Different n-grams over all n-grams of all texts (Li et al., 2016, section 5.2).

    Parameters
    ----------
    texts : sequence of str, or Corpus
    n : int, default 1
        Words of an n-gram.

    Returns
    -------
    float
        0 to 1; NaN if there is no n-gram. Falls as the set grows: compare sets of one size.

    Examples
    --------
    >>> distinct_n(["the cat", "the dog"]), distinct_n(["the cat", "the dog"], n=2)
    (0.75, 1.0)
    """
    codes, _ = ngram_codes(_corpus(texts), n)
    return len(np.unique(codes)) / len(codes) if len(codes) else float("nan")


def ngram_entropy(texts: Sequence[str] | Corpus, n: int = 1) -> float:
    """Shannon entropy of the n-grams of all texts, in nats (Zhang et al., 2018, section 4.1); NaN if there is none.

    Examples
    --------
    >>> round(ngram_entropy(["a b", "c d"]), 6)  # ln 4
    1.386294
    """
    codes, _ = ngram_codes(_corpus(texts), n)
    return entropy(np.unique(codes, return_counts=True)[1]) if len(codes) else float("nan")


def self_bleu(texts: Sequence[str] | Corpus, *, max_n: int = 4, smoothing: float = 0.1) -> float:
    """Mean BLEU of each text with all others as its references; higher: less varied (Zhu et al., 2018, section 3.3).

    Exact over all pairs, at a cost that grows with the number of words alone: see `self_bleu_of_each`.

    Parameters
    ----------
    texts : sequence of str, or Corpus
    max_n : int, default 4
    smoothing : float, default 0.1
        Count that stands for no match (method 1 of Chen and Cherry, 2014), as in Texygen.

    Returns
    -------
    float
        0 to 1; NaN for a single text. Texts without words are left out of the mean.

    Examples
    --------
    >>> self_bleu(["the cat sat on the mat", "the cat sat on the mat"])
    1.0
    """
    found = self_bleu_of_each(_corpus(texts), max_n=max_n, smoothing=smoothing)
    return float(np.nanmean(found)) if not np.isnan(found).all() else float("nan")


@score(
    needs=("words",),
    higher="more like the other texts",
    source="Zhu et al., 2018, section 3.3",
    name="self_bleu",
)
def self_bleu_of_each(words: Corpus, *, max_n: int = 4, smoothing: float = 0.1) -> np.ndarray:
    """BLEU of a text with all other texts as its references.

    An n-gram is clipped by its largest count in any other text: the largest count of all, or the second largest where
    the text itself holds the largest. So no two texts are ever compared.

    Parameters
    ----------
    words : Corpus
    max_n : int, default 4
        Longest n-gram; all orders weigh alike.
    smoothing : float, default 0.1
        Count that stands for no match of an order.

    Returns
    -------
    float64 (n,)
        0 to 1; 0 where no word is shared, NaN without words or without another text that has some.
    """
    if max_n < 1:
        raise DatumwiseError(f"max_n is {max_n}", remedy="it is at least 1")
    lengths = words.lengths
    logarithm = np.zeros(len(words))
    for n in range(1, max_n + 1):
        codes, offsets = ngram_codes(words, n)
        types = count_types(codes, offsets, int(codes.max(initial=0)) + 1)
        shared = np.minimum(types.counts, _largest_of_others(types.codes, types.counts))
        matches = np.bincount(types.rows, weights=shared, minlength=len(words))
        if n == 1:
            nothing = matches == 0
        total = np.maximum(np.diff(offsets), 1)
        with np.errstate(divide="ignore"):
            logarithm += np.log(np.where(matches == 0, smoothing, matches) / total) / max_n
    penalty = np.minimum(0, 1 - _closest_other(lengths) / np.maximum(lengths, 1))
    found = np.where(nothing, 0.0, np.exp(logarithm + penalty))
    found[(lengths == 0) | (np.count_nonzero(lengths) < 2)] = np.nan
    return found


def compression_ratio(texts: Sequence[str] | Corpus, *, level: int = 9) -> float:
    """Bytes of all texts, a line each, over their bytes after zlib; higher: more redundant (Shaib et al., 2024).

    Parameters
    ----------
    texts : sequence of str, or Corpus
    level : int, default 9
        Of zlib, 1 to 9.

    Examples
    --------
    >>> compression_ratio(["the same again"] * 100) > 10
    True
    """
    if not 1 <= level <= 9:
        raise DatumwiseError(f"level is {level}", remedy="1 to 9")
    lines = list(texts.texts) if isinstance(texts, Corpus) else checked_texts(texts)
    press = zlib.compressobj(level)
    before = after = 0
    pending: list[bytes] = []
    held = 0
    for line in lines:
        pending.append(line.encode("utf-8", "surrogatepass"))
        held += len(pending[-1]) + 1
        if held > MEBIBYTE:
            after += len(press.compress(b"\n".join(pending) + b"\n"))
            before, held, pending = before + held, 0, []
    after += len(press.compress(b"\n".join(pending))) + len(press.flush())
    return (before + max(held - 1, 0)) / after


def homogenization(
    texts: Sequence[str] | Corpus,
    *,
    pairs: int | None = 10_000,
    random_state: int | np.random.Generator | None = 0,
    progress: Callable[[int, int], None] | None = None,
) -> float:
    """Mean ROUGE-L of pairs of texts; higher: less varied (Shaib et al., 2024; Padmakumar and He, 2024, section 3).

    Parameters
    ----------
    texts : sequence of str, or Corpus
        Those without words are left out.
    pairs : int or None, default 10,000
        So many random pairs, without replacement, if there are more; None: all n (n - 1) / 2.
    random_state : int, Generator or None, default 0
    progress : callable (pairs done, pairs), optional

    Returns
    -------
    float
        0 to 1; NaN for fewer than two texts with words.

    Examples
    --------
    >>> round(homogenization(["the cat sat", "the cat ran", "a dog"]), 4)
    0.2222
    """
    corpus = _corpus(texts)
    said = np.flatnonzero(corpus.lengths > 0)
    total = len(said) * (len(said) - 1) // 2
    if not total:
        return float("nan")
    if pairs is not None and pairs < 1:
        raise DatumwiseError(f"pairs is {pairs}", remedy="at least 1, or None for all")
    if pairs is None or pairs >= total:
        chosen = np.arange(total)
    else:
        chosen = np.sort(np.random.default_rng(random_state).choice(total, pairs, replace=False))
    second = ((1 + np.sqrt(8 * chosen.astype(np.float64) + 1)) / 2).astype(np.int64)  # pair number = j (j - 1) / 2 + i, i < j
    second -= second * (second - 1) // 2 > chosen
    second += second * (second + 1) // 2 <= chosen
    first = chosen - second * (second - 1) // 2
    return float(rouge_l(corpus, said[first], said[second], progress=progress).mean())


def rouge_l(words: Corpus, first: Any, second: Any, *, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
    """ROUGE-L F1 of pairs of texts: 2 LCS / (N_1 + N_2), LCS the longest common subsequence of words (Lin, 2004).

    Parameters
    ----------
    words : Corpus
    first, second : int (p,)
        Rows of the corpus.
    progress : callable (pairs done, pairs), optional

    Returns
    -------
    float64 (p,)
        0 to 1; NaN if neither has words.

    Examples
    --------
    >>> from datumwise.probe.words import words
    >>> rouge_l(words(["the cat sat down", "the old cat sat"]), [0], [1]).tolist()
    [0.75]
    """
    first, second = np.asarray(first, np.int64), np.asarray(second, np.int64)
    found = np.full(len(first), np.nan)
    order = np.lexsort((first, second))  # the places of the words of a text are looked up once
    where: dict[Hashable, int] = {}
    held = -1
    codes, offsets = words.codes, words.offsets
    for done, pair in enumerate(order.tolist(), start=1):
        a, b = int(first[pair]), int(second[pair])
        if b != held:
            held, where = b, places(codes[offsets[b] : offsets[b + 1]].tolist())
        n, m = int(offsets[a + 1] - offsets[a]), int(offsets[b + 1] - offsets[b])
        if n + m:
            common = subsequence_length(codes[offsets[a] : offsets[a + 1]].tolist(), where, m)
            found[pair] = 2 * common / (n + m)
        if progress is not None and (done % 1000 == 0 or done == len(order)):
            progress(done, len(order))
    return found


def entropy(counts: Any) -> float:
    """Shannon entropy -sum p ln p, in nats, of the shares of some kinds: tags, clusters, words.

    Parameters
    ----------
    counts : (k,) numbers >= 0, not all 0
        How often each kind comes; shares will do.

    Examples
    --------
    >>> round(entropy([5, 5]), 4)
    0.6931
    """
    p = _shares(counts)
    return max(0.0, float(-(p * np.log(p)).sum()))


def simpson(counts: Any) -> float:
    """Simpson's index sum p^2, 1/k to 1: the chance that two draws are of one kind; higher: less varied.

    Examples
    --------
    >>> simpson([5, 5])
    0.5
    """
    return float((_shares(counts) ** 2).sum())


def hill_number(counts: Any, q: float = 1.0) -> float:
    """Hill number (sum p^q)^(1/(1-q)): how many equally frequent kinds would be as varied (Hill, 1973, eq. 3).

    Parameters
    ----------
    counts : (k,) numbers >= 0, not all 0
    q : float, default 1
        0: number of kinds; 1: exp(entropy), the limit; 2: 1 / Simpson's index; inf: 1 / largest share.

    Returns
    -------
    float
        1 to k.

    Examples
    --------
    >>> [round(hill_number([2, 1, 1], q), 4) for q in (0, 1, 2, float("inf"))]
    [3.0, 2.8284, 2.6667, 2.0]
    """
    p = _shares(counts)
    if not q >= 0:
        raise DatumwiseError(f"q is {q}", remedy="it is 0 or more")
    if np.isinf(q):
        return float(1 / p.max())
    if abs(q - 1) < 1e-8:  # nearer, the exponent 1 / (1 - q) magnifies rounding beyond the distance to the limit
        return float(np.exp(entropy(p)))
    logs = q * np.log(p)  # log-sum-exp: p^q underflows for large q
    top = logs.max()
    return float(np.exp((top + np.log(np.exp(logs - top).sum())) / (1 - q)))


def _corpus(texts: Sequence[str] | Corpus) -> Corpus:
    return texts if isinstance(texts, Corpus) else words(texts)


def _shares(counts: Any) -> np.ndarray:
    """Shares above 0, float64."""
    counts = np.asarray(counts, np.float64)
    if counts.ndim != 1:
        raise SchemaMismatch(f"counts must be one number a kind; the shape is {counts.shape}")
    bad = np.flatnonzero(~np.isfinite(counts))
    if len(bad):
        raise NotFinite(f"counts has NaN or infinity at {name_some(bad)}", ids=bad.tolist())
    if (counts < 0).any():
        raise DatumwiseError(f"counts are below 0 at {name_some(np.flatnonzero(counts < 0))}")
    if not counts.any():
        raise EmptyData("counts is empty or all 0")
    counts = counts[counts > 0]
    return counts / counts.sum()


def _largest_of_others(codes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """For each (text, n-gram) and its count, the largest count of this n-gram in any other text; int64, 0 if in none."""
    if not len(codes):
        return np.zeros(0, np.int64)
    order = np.lexsort((counts, codes))
    sorted_codes, sorted_counts = codes[order], counts[order]
    last = np.flatnonzero(np.append(sorted_codes[1:] != sorted_codes[:-1], True))
    size = np.diff(last, prepend=-1)
    second = np.where(size > 1, sorted_counts[last - 1], 0)
    largest = np.repeat(sorted_counts[last], size)
    largest[last] = second  # the text that holds the largest is compared with the next
    found = np.empty_like(counts)
    found[order] = largest
    return found


def _closest_other(lengths: np.ndarray) -> np.ndarray:
    """The length of another text with words that is closest to one's own, the shorter of two as close; float64 (n,)."""
    said, counts = np.unique(lengths[lengths > 0], return_counts=True)
    if not len(said):
        return np.zeros(len(lengths))
    padded = np.concatenate([[-np.inf], said, [np.inf]])
    place = np.searchsorted(said, lengths) + 1
    place = np.minimum(place, len(said))
    below, above = padded[place - 1], padded[place + 1]
    closest = np.where(lengths - below <= above - lengths, below, above)
    return np.where(counts[place - 1] > 1, lengths, closest)
