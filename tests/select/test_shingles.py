"""Shingles: the same in every corpus, and exact Jaccard similarities of them."""

from __future__ import annotations

import numpy as np
import pytest
from dedup_cases import brute_jaccard, copied_sets, runs

from datumwise.errors import DatumwiseError
from datumwise.probe.words import words
from datumwise.select.shingles import as_corpus, jaccard, shingles


@pytest.mark.parametrize("n", [1, 2, 5, 60])
def test_equal_runs_and_no_others_have_equal_hashes(n: int) -> None:
    docs = [*copied_sets(n=60, vocabulary=30), ["w1"], [], ["w2", "w1"]]
    found = shingles(as_corpus(docs), n)
    hashes = found.hashes if found.codes is None else found.hashes[found.codes]
    every = [run for tokens in docs for run in runs(tokens, n)]
    assert len(every) == len(hashes) == found.offsets[-1]
    assert found.lengths.tolist() == [len(runs(tokens, n)) for tokens in docs]
    met: dict[tuple, int] = {}
    for run, value in zip(every, hashes.tolist(), strict=True):
        assert met.setdefault(run, value) == value
    assert len(set(met.values())) == len(met)


@pytest.mark.parametrize("n", [1, 3])
def test_a_shingle_hashes_alike_in_every_corpus(n: int) -> None:
    alone = shingles(as_corpus(["the cat sat on the mat"]), n)
    among = shingles(as_corpus(["a dog ran far away", "the cat sat on the mat"]), n)
    span = slice(among.offsets[1], among.offsets[2])
    first = alone.hashes if alone.codes is None else alone.hashes[alone.codes]
    second = among.hashes[span] if among.codes is None else among.hashes[among.codes[span]]
    assert np.array_equal(first, second)


@pytest.mark.parametrize("n", [1, 2, 4])
def test_jaccard_equals_the_sets_of_python(n: int) -> None:
    docs = [*copied_sets(seed=2, n=40, size=12, vocabulary=20), [], []]
    rng = np.random.default_rng(0)
    rows, others = rng.integers(0, len(docs), (2, 300))
    expected = [brute_jaccard(runs(docs[i], n), runs(docs[j], n)) for i, j in zip(rows, others, strict=True)]
    np.testing.assert_allclose(jaccard(shingles(as_corpus(docs), n), rows, others), expected, atol=1e-7)


def test_texts_tokens_and_a_corpus_give_the_same() -> None:
    texts = ["The cat sat.", "a cat"]
    expected = shingles(words(texts), 2).hashes.tolist()
    assert shingles(as_corpus(texts), 2).hashes.tolist() == expected
    assert shingles(as_corpus([["the", "cat", "sat"], ["a", "cat"]]), 2).hashes.tolist() == expected
    assert shingles(as_corpus(words(texts)), 2).hashes.tolist() == expected


def test_tokens_may_be_integers() -> None:
    found = shingles(as_corpus([[5, 7, 9], [7, 9], np.array([5, 7])]), 2)
    assert found.hashes[1] == found.hashes[2]
    assert found.hashes[0] == found.hashes[3]


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(DatumwiseError, match="there is no text"):
        as_corpus([])
    with pytest.raises(DatumwiseError, match="row 1, 3"):
        as_corpus(["a", None, "b", float("nan")])  # type: ignore[list-item]
    with pytest.raises(DatumwiseError, match="row 1 holds no list of tokens"):
        as_corpus([["a"], "b"])  # type: ignore[list-item]
    with pytest.raises(DatumwiseError, match="row 1 holds a token that is None"):
        as_corpus([["a"], ["b", None]])  # type: ignore[list-item]
    with pytest.raises(DatumwiseError, match="tokens are of several types"):
        as_corpus([["a"], [1]])  # type: ignore[list-item]
    with pytest.raises(DatumwiseError, match="tokens are double"):
        as_corpus([[0.5]])  # type: ignore[list-item]
    with pytest.raises(DatumwiseError):
        as_corpus("one text")
    for n in (0, -1, 2.5, True):
        with pytest.raises(DatumwiseError, match="ngram is"):
            shingles(as_corpus(["a b"]), n)  # type: ignore[arg-type]
