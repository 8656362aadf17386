"""DSIR against its definition, text by text."""

from __future__ import annotations

import hashlib
import itertools
import re

import numpy as np
import pytest
from scipy.stats import chisquare

from datumwise.errors import DatumwiseError
from datumwise.select.dsir import DSIR

RAW = ["The cat sat; the cat ran.", "Stocks fell 3% as bonds rose!", "", "a", "Don't panic — naïve cafés: ok?", "the the the"]
TARGET = ["Bonds fell.", "stocks, bonds and the cat"]


def counts(text: str, n_buckets: int) -> np.ndarray:
    """get_ngram_counts of the authors' code, with wordpunct tokens."""
    words = re.findall(r"\w+|[^\w\s]+", text.lower())
    found = np.zeros(n_buckets)
    for run in words + [" ".join(pair) for pair in itertools.pairwise(words)]:
        found[int(hashlib.sha256(run.encode("utf-8")).hexdigest(), 16) % n_buckets] += 1
    return found


@pytest.mark.parametrize("n_buckets", [7, 100, 10_000])
def test_log_weights_equal_the_definition(n_buckets: int) -> None:
    raw, target = (np.array([counts(text, n_buckets) for text in texts]) for texts in (RAW, TARGET))
    q, p = (some.sum(axis=0) / some.sum() for some in (raw, target))
    expected = raw @ (np.log(p + 1e-8) - np.log(q + 1e-8))
    chosen = DSIR(2, n_buckets=n_buckets, min_tokens=0).fit(RAW, target_texts=TARGET)
    np.testing.assert_allclose(chosen.log_weights_, expected, rtol=1e-12, atol=1e-9)
    np.testing.assert_allclose(chosen.gains_, expected[chosen.ranking_], rtol=1e-12, atol=1e-9)
    assert abs(chosen.weights_.sum() - 1) < 1e-12


def test_raw_and_target_alike_give_weights_of_exactly_0() -> None:
    assert (DSIR(1, min_tokens=0).fit(RAW, target_texts=RAW).log_weights_ == 0).all()


def test_short_texts_are_never_chosen() -> None:
    raw = ["word " * 99, "word " * 100, "word " * 101]
    chosen = DSIR(2).fit(raw, target_texts=["word"])
    assert sorted(chosen.ranking_.tolist()) == [1, 2]
    with pytest.raises(DatumwiseError, match="3 texts were asked and 2 of 3 have 100 words or more"):
        DSIR(3).fit(raw, target_texts=["word"])


def test_draws_are_in_proportion_to_the_weights() -> None:
    raw = ["a", "b", "c"]
    target = ["a"] * 5 + ["b"] * 3 + ["c"] * 2  # q is 1/3 each: weights in proportion to p
    rng = np.random.default_rng(0)
    selector = DSIR(1, min_tokens=1, random_state=rng)
    drawn = [int(selector.fit(raw, target_texts=target).ranking_[0]) for _ in range(1_500)]
    assert chisquare(np.bincount(drawn, minlength=3), 1_500 * np.array([0.5, 0.3, 0.2])).pvalue > 1e-3


def test_it_repeats_itself() -> None:
    fits = [DSIR(3, min_tokens=0, random_state=4).fit(RAW, target_texts=TARGET).ranking_ for _ in range(2)]
    assert np.array_equal(*fits)


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(DatumwiseError, match="DSIR needs target_texts"):
        DSIR(1).fit(RAW)
    with pytest.raises(DatumwiseError, match="target_texts hold no word"):
        DSIR(1).fit(RAW, target_texts=[""])
    with pytest.raises(DatumwiseError, match="n_buckets is 0"):
        DSIR(1, n_buckets=0).fit(RAW, target_texts=TARGET)
    with pytest.raises(DatumwiseError):
        DSIR(1).fit([], target_texts=TARGET)
    with pytest.raises(DatumwiseError):
        DSIR(1).fit(["a", None], target_texts=TARGET)
