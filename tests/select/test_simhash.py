"""SimHash: fingerprints by the definition, neighbours by all pairs."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from dedup_cases import components, copied_sets

from datumwise.errors import DatumwiseError
from datumwise.select.shingles import as_corpus, mixed, shingles
from datumwise.select.simhash import simhash, simhash_fingerprints

module = importlib.import_module("datumwise.select.simhash")  # the room's name is the function


@pytest.mark.parametrize("ngram", [1, 3])
def test_a_bit_is_the_sign_of_the_sum_over_shingles(ngram: int, monkeypatch: pytest.MonkeyPatch) -> None:
    docs = [*copied_sets(n=40, size=15), [], ["a"]]
    sets = shingles(as_corpus(docs), ngram)
    hashes = mixed(sets.hashes if sets.codes is None else sets.hashes[sets.codes])
    expected = []
    for i in range(len(docs)):
        some = [int(h) for h in hashes[sets.offsets[i] : sets.offsets[i + 1]]]
        sums = [sum(1 if h >> bit & 1 else -1 for h in some) for bit in range(64)]
        expected.append(sum(1 << bit for bit, total in enumerate(sums) if total > 0))
    assert simhash_fingerprints(docs, ngram).tolist() == expected
    monkeypatch.setattr(module, "SHINGLES", 7)
    assert simhash_fingerprints(docs, ngram).tolist() == expected


@pytest.mark.parametrize("distance", [0, 1, 3, 7])
@pytest.mark.parametrize("many", [10, 100_000])
def test_every_pair_within_the_distance_is_found(distance: int, many: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    prints = rng.integers(0, 2**63, 300, dtype=np.uint64)
    for row in range(100, 300):  # up to 10 bits from another
        flips = rng.choice(64, rng.integers(0, 11), replace=False)
        prints[row] = prints[rng.integers(0, row)] ^ np.uint64(sum(1 << int(bit) for bit in flips))
    monkeypatch.setattr(module, "simhash_fingerprints", lambda corpus, ngram: prints)
    monkeypatch.setattr(module, "MANY", many)
    found = simhash([f"t{i}" for i in range(300)], distance)
    apart = np.array([[int(a ^ b).bit_count() for b in prints] for a in prints])
    truth = [(i, j) for i in range(300) for j in range(i + 1, 300) if apart[i, j] <= distance]
    assert [tuple(p) for p in found.pairs.tolist()] == truth
    assert len(truth) > 5
    assert found.labels.tolist() == components(300, truth)
    assert np.array_equal(found.similarity, [1 - apart[i, j] / 64 for i, j in truth])


def test_copies_with_little_changed_are_found_and_others_are_not() -> None:
    rng = np.random.default_rng(1)
    docs = [[f"w{c}" for c in rng.integers(0, 5_000, 400)] for _ in range(40)]
    copies = [[*doc[:200], "changed", *doc[201:]] for doc in docs[:10]]
    found = simhash(docs + copies, ngram=1)
    assert (found.kept_by[40:] == np.arange(10)).mean() >= 0.8
    assert found.keep[:40].all()


def test_texts_without_a_word_are_like_none_and_what_is_kept_has_no_duplicates() -> None:
    texts = ["", "!", "a b c d", "a b c d", "e f g h"]
    found = simhash(texts)
    assert found.kept_by.tolist() == [0, 1, 2, 2, 4]
    assert simhash([t for t, keep in zip(texts, found.keep, strict=True) if keep]).keep.all()


def test_bad_inputs_are_refused() -> None:
    for distance in (-1, 17, 2.5, True):
        with pytest.raises(DatumwiseError, match="max_distance is"):
            simhash(["a"], distance)  # type: ignore[arg-type]
    with pytest.raises(DatumwiseError, match="there is no text"):
        simhash([])
    with pytest.raises(DatumwiseError, match="row 0"):
        simhash([None])  # type: ignore[list-item]
    with pytest.raises(DatumwiseError, match="comes more than once"):
        simhash(["a", "b"], ids=["x", "x"])
