"""DSIR: draw texts in proportion to how much likelier they are in the target than in the raw data.

Xie, Santurkar, Ma and Liang, "Data selection for language models via importance resampling", 2023, section 4.
"""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData
from datumwise.probe.words import Corpus, ngram_codes, words
from datumwise.select.selector import Selector

__all__ = ["DSIR"]

TOKENS = r"\w+|[^\w\s]+"  # nltk's wordpunct_tokenize
FLOOR = 1e-8  # added to the share of a bucket before its logarithm


class DSIR(Selector):
    """Data selection by importance resampling on hashed unigrams and bigrams.

    Texts are bags of hashed words and pairs of words; p and q are the shares of the buckets in target and raw
    texts, and the log weight of a text is the sum of log p - log q over its words and pairs. The k texts with the
    highest log weight plus Gumbel noise are a draw without replacement in proportion to the weights.

    Parameters
    ----------
    n_to_select : int or float
        How many, or which share.
    n_buckets : int, default 10,000
        Of the hash.
    min_tokens : int, default 100
        Texts with fewer words are never chosen, as their weights are mostly noise.
    random_state : int, Generator or None, default 0
        Of the Gumbel noise.

    Attributes
    ----------
    log_weights_ : float64 (n,)
        Of all texts, also of those too short to be chosen.
    weights_ : float64 (k,)
        Log weights of the chosen texts as shares of their sum, exp taken.

    Examples
    --------
    >>> raw = ["the cat sat on the mat"] * 5 + ["stocks fell as bonds rose"] * 5
    >>> chosen = DSIR(3, min_tokens=1).fit(raw, target_texts=["bonds and stocks fell", "stocks rose"])
    >>> bool((chosen.ranking_ >= 5).all())
    True

    References
    ----------
    Xie, Santurkar, Ma and Liang, 2023, arXiv 2302.03169, section 4.
    """

    takes: ClassVar[tuple[str, ...]] = ("texts", "target_texts")
    source: ClassVar[str] = "Xie et al., 2023, section 4"

    def __init__(
        self,
        n_to_select: int | float,
        *,
        n_buckets: int = 10_000,
        min_tokens: int = 100,
        random_state: int | np.random.Generator | None = 0,
    ) -> None:
        self.n_to_select = n_to_select
        self.n_buckets = n_buckets
        self.min_tokens = min_tokens
        self.random_state = random_state

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        if self.n_buckets < 1:
            raise DatumwiseError(f"n_buckets is {self.n_buckets!r}", remedy="give a whole number of 1 or more")
        raw, target = (words(inputs[name], pattern=TOKENS) for name in ("texts", "target_texts"))
        for name, corpus in (("texts", raw), ("target_texts", target)):
            if not len(corpus.codes):
                raise EmptyData(f"{name} hold no word")
        found = [_buckets(corpus, length, self.n_buckets) for corpus in (raw, target) for length in (1, 2)]
        q = np.bincount(np.concatenate([one for one, _ in found[:2]]), minlength=self.n_buckets)
        p = np.bincount(np.concatenate([one for one, _ in found[2:]]), minlength=self.n_buckets)
        log_ratio = np.log(p / p.sum() + FLOOR) - np.log(q / q.sum() + FLOOR)
        self.log_weights_ = sum((_sums(log_ratio[one], offsets) for one, offsets in found[:2]), np.zeros(n))
        long = np.flatnonzero(raw.lengths >= self.min_tokens)
        if len(long) < k:
            raise DatumwiseError(
                f"{k:,} texts were asked and {len(long):,} of {n:,} have {self.min_tokens:,} words or more",
                remedy="lower min_tokens or n_to_select",
            )
        noise = np.random.default_rng(self.random_state).gumbel(size=n)  # one a text, whoever else is long enough
        key = (self.log_weights_ + noise)[long]
        ranking = long[np.lexsort((long, -key))[:k]]
        chosen = self.log_weights_[ranking]
        weights = np.exp(chosen - chosen.max())
        self.weights_ = weights / weights.sum()
        return ranking, chosen


def _buckets(corpus: Corpus, length: int, n_buckets: int) -> tuple[np.ndarray, np.ndarray]:
    """Bucket of every run of ``length`` words, SHA-256 of the words joined by a space modulo ``n_buckets``; offsets."""
    codes, offsets = ngram_codes(corpus, length)
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    rows = np.searchsorted(offsets, first, side="right") - 1
    at = first - offsets[rows] + corpus.offsets[rows]  # where the run stands among all tokens
    tokens = [corpus.vocabulary[corpus.codes[at + place]] for place in range(length)]
    runs = (" ".join(run) for run in zip(*tokens, strict=True))
    bucket = [int.from_bytes(hashlib.sha256(run.encode("utf-8", "surrogatepass")).digest(), "big") % n_buckets for run in runs]
    return np.array(bucket, np.int64)[inverse] if len(codes) else codes, offsets


def _sums(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """float64 (n,): sum of each run of values; an empty run is 0."""
    rows = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    return np.bincount(rows, weights=values, minlength=len(offsets) - 1)
