"""MinHash: estimates, the S-curve, exact verification, incremental use."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from dedup_cases import brute_jaccard, components, copied_sets, pairs_above, runs

from datumwise.errors import DatumwiseError
from datumwise.select.minhash import MinHashIndex, band_shape, minhash, minhash_signatures, permutations
from datumwise.select.shingles import as_corpus, shingles

module = importlib.import_module("datumwise.select.minhash")  # the room's name is the function


FAMILIES = ("affine", "mersenne")


def pairs_of_sets(n: int, common: int, own: int, seed: int = 0) -> list[list[str]]:
    """2 n sets; 2 i and 2 i + 1 share ``common`` elements and have ``own`` each: J = common / (common + 2 own)."""
    rng = np.random.default_rng(seed)
    docs = []
    for i in range(n):
        shared = [f"{seed}-{i}-{c}" for c in range(common)]
        docs += [rng.permutation(shared + [f"{seed}-{i}-{side}-{c}" for c in range(own)]).tolist() for side in "ab"]
    return docs


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("common", "own"), [(80, 10), (50, 25), (20, 40)])
def test_the_share_of_equal_places_estimates_the_jaccard_similarity(family: str, common: int, own: int) -> None:
    truth = common / (common + 2 * own)
    signed = minhash_signatures(pairs_of_sets(200, common, own), ngram=1, family=family)
    estimate = (signed[::2] == signed[1::2]).mean(axis=1)
    deviation = np.sqrt(truth * (1 - truth) / 128)
    assert (np.abs(estimate - truth) < 4 * deviation).mean() >= 0.95
    assert abs(estimate.mean() - truth) < 4 * deviation / np.sqrt(200)  # no bias
    assert 0.8 < estimate.std() / deviation < 1.2


@pytest.mark.parametrize(("common", "own"), [(70, 15), (80, 10), (60, 20)])
def test_candidates_are_found_as_often_as_the_s_curve_says(common: int, own: int) -> None:
    truth, n = common / (common + 2 * own), 400
    index = MinHashIndex.of(pairs_of_sets(n, common, own), 0.7, ngram=1)
    b, r = index.bands
    expected = 1 - (1 - truth**r) ** b
    found = {tuple(pair) for pair in index.candidates().tolist()}
    recall = sum((2 * i, 2 * i + 1) in found for i in range(n)) / n
    assert abs(recall - expected) < 3 * np.sqrt(expected * (1 - expected) / n)


def test_with_many_bands_every_pair_is_found_and_no_other() -> None:
    docs = copied_sets()
    truth = pairs_above(len(docs), lambda i, j: brute_jaccard(docs[i], docs[j]), 0.7)
    found = minhash(docs, 0.7, ngram=1, bands=(64, 2))
    assert [tuple(p) for p in found.pairs.tolist()] == truth
    assert len(truth) > 30
    assert found.labels.tolist() == components(len(docs), truth)
    np.testing.assert_allclose(found.similarity, [brute_jaccard(docs[i], docs[j]) for i, j in truth], atol=1e-7)


@pytest.mark.parametrize("ngram", [2, 5])
def test_texts_are_compared_by_their_word_runs(ngram: int) -> None:
    docs = copied_sets(seed=3, n=200, size=60)
    truth = pairs_above(len(docs), lambda i, j: brute_jaccard(runs(docs[i], ngram), runs(docs[j], ngram)), 0.5)
    texts = [" ".join(doc).title() + "." for doc in docs]  # case and punctuation do not count
    found = minhash(texts, 0.5, ngram=ngram, bands=(64, 2))
    assert [tuple(p) for p in found.pairs.tolist()] == truth
    assert len(truth) > 10


def test_estimated_and_exact_verification_differ_only_near_the_threshold() -> None:
    docs = copied_sets()
    exact, estimated = (minhash(docs, 0.7, ngram=1, bands=(64, 2), verify=how) for how in ("exact", "signature"))
    mine, theirs = ({tuple(p) for p in found.pairs.tolist()} for found in (exact, estimated))
    away = [brute_jaccard(docs[i], docs[j]) for i, j in mine ^ theirs]
    assert all(abs(value - 0.7) < 4 * np.sqrt(0.7 * 0.3 / 128) for value in away)
    assert len(mine & theirs) > 0.7 * len(mine)
    assert "estimated by 128 permutations" in estimated.rule


def test_what_is_kept_has_no_duplicates_left() -> None:
    docs = copied_sets(seed=1)
    once = minhash(docs, 0.6, ngram=1, bands=(64, 2))
    assert once.n_left_out > 10
    again = minhash([doc for doc, keep in zip(docs, once.keep, strict=True) if keep], 0.6, ngram=1, bands=(64, 2))
    assert again.keep.all()


def test_groups_are_transitive_and_say_how_similar_the_kept_one_is() -> None:
    words = [f"w{i}" for i in range(40)]
    docs = [words[:30], words[3:33], words[6:36], ["x", "y"]]  # neighbours 27/33, ends 24/36
    found = minhash(docs, 0.8, ngram=1, bands=(64, 2))
    assert found.labels.tolist() == [0, 0, 0, -1]
    assert found.pairs.tolist() == [[0, 1], [1, 2]]
    np.testing.assert_allclose(found.similarity_to_kept, [1, 27 / 33, 24 / 36, 1], atol=1e-7)


@pytest.mark.parametrize("family", FAMILIES)
def test_signatures_depend_on_the_set_alone(family: str) -> None:
    a, b, c = minhash_signatures([["x", "y", "z"], ["z", "y", "y", "x", "x"], ["x", "y"]], ngram=1, family=family)
    assert (a == b).all()
    assert (a <= c).all()
    assert (a < c).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_signatures_do_not_depend_on_how_texts_are_dealt_with(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    docs = [[f"w{c}" for c in rng.integers(0, 50, size)] for size in [*rng.integers(0, 30, 40), 900]]
    for ngram in (1, 3):
        expected = minhash_signatures(docs, 16, ngram, family=family)
        for name, value in (("TEXTS", 3), ("LONG", 8), ("TABLE", 0)):
            monkeypatch.setattr(module, name, value)
            assert np.array_equal(minhash_signatures(docs, 16, ngram, family=family), expected)
        monkeypatch.undo()
        alone = np.concatenate([minhash_signatures([doc], 16, ngram, family=family) for doc in docs])
        assert np.array_equal(alone, expected)


def test_signatures_are_the_least_permuted_hashes() -> None:
    docs = [["a", "b", "c"], ["d", "e"]]
    sets = shingles(as_corpus(docs), 1)
    a, b = permutations(32, "mersenne", 5)
    low = [int(h) % 2**32 for h in sets.hashes]
    permuted = np.array([[(int(p) * x + int(q)) % (2**61 - 1) % 2**32 for p, q in zip(a, b, strict=True)] for x in low])
    expected = [permuted[:3].min(axis=0), permuted[3:].min(axis=0)]
    assert np.array_equal(minhash_signatures(docs, 32, 1, family="mersenne", seed=5), expected)


def test_products_of_the_mersenne_family_are_not_truncated_to_64_bits() -> None:
    # datasketch's "legacy" scheme computes (a x + b) mod 2^64 mod (2^61 - 1): not the published family
    x = np.array([2**32 - 1, 1, 0, 123_456_789], np.uint64)
    a = np.array([2**61 - 2, 2**60 + 12_345, 1, 2**61 - 6], np.uint64)
    b = np.array([2**61 - 2, 0, 77, 5], np.uint64)  # the last is 0 at x = 1
    exact = [[(int(p) * int(v) + int(q)) % (2**61 - 1) for p, q in zip(a, b, strict=True)] for v in x]
    assert module._mersenne(x[:, None], a, b).tolist() == exact
    truncated = (x[:, None] * a + b) % np.uint64(2**61 - 1)
    assert truncated.tolist() != exact


def test_affine_permutations_are_bijections_of_32_bits() -> None:
    a, _ = permutations(128)
    assert (a % 2 == 1).all()
    x = np.random.default_rng(0).integers(0, 2**32, 100_000, dtype=np.uint32)
    x = np.unique(x)
    assert len(np.unique(module._premixed(x.astype(np.uint64), np.dtype(np.uint32)))) == len(x)


def test_further_texts_are_compared_without_signing_the_earlier_again() -> None:
    docs = copied_sets(seed=4)
    old, new = docs[:200], docs[200:]
    whole = minhash(docs, ngram=1, verify="signature")
    added = minhash(new, ngram=1, signatures=minhash_signatures(old, ngram=1))
    assert np.array_equal(whole.pairs, added.pairs)
    assert np.array_equal(whole.kept_by, added.kept_by)
    assert (added.pairs[:, 0] < 200).any()
    assert (added.pairs[:, 1] >= 200).any()
    grown = MinHashIndex.of(old, ngram=1).extend(new[:50]).extend(new[50:])
    assert np.array_equal(grown.signatures, MinHashIndex.of(docs, ngram=1).signatures)
    assert np.array_equal(grown.groups().kept_by, whole.kept_by)
    assert grown.groups(keep="longest").n_left_out == whole.n_left_out


def test_texts_without_a_word_are_like_none() -> None:
    found = minhash(["", "...", "one two", "one two", "one"], ngram=5)
    assert found.labels.tolist() == [-1, -1, 0, 0, -1]
    assert minhash(["", "..."], verify="signature").keep.all()
    assert (minhash_signatures([""]) == 2**32 - 1).all()


@pytest.mark.parametrize("keep", ["first", "longest"])
def test_a_thousand_copies_are_one_group(keep: str) -> None:
    docs = [["a", "b", "c", "d"]] * 1_000 + [["a", "b", "c", "d", "e"], ["q"]]
    found = minhash(docs, 0.7, ngram=1, keep=keep)
    assert found.n_left_out == 1_000
    assert found.kept_by[5] == (0 if keep == "first" else 1_000)


def test_band_shape_is_the_least_mean_error() -> None:
    assert band_shape(0.7, 128) == (14, 9)  # datasketch 2.0's answers, of its integrals by quad
    assert band_shape(0.5, 128) == (25, 5)
    assert band_shape(0.9, 256) == (9, 28)
    s = (np.arange(20_000) + 0.5) / 20_000

    def error(b: int, r: int) -> float:
        found = 1 - (1 - s**r) ** b
        return float(np.where(s < 0.8, found, 1 - found).mean())

    best = min((error(b, r), b, r) for b in range(1, 65) for r in range(1, 64 // b + 1))
    assert band_shape(0.8, 64) == best[1:]


def test_progress_reaches_the_end() -> None:
    told: list[tuple[int, int]] = []
    minhash_signatures([["a"]] * 600, ngram=1, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (600, 600)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(DatumwiseError, match="there is no text"):
        minhash([])
    with pytest.raises(DatumwiseError, match="row 1"):
        minhash(["a", None])  # type: ignore[list-item]
    for threshold in (0, 1.5, -1, float("nan")):
        with pytest.raises(DatumwiseError, match="threshold is"):
            minhash(["a"], threshold)
    with pytest.raises(DatumwiseError, match="num_perm is 1"):
        minhash(["a"], num_perm=1)
    with pytest.raises(DatumwiseError, match="20 bands of 10 places need 200 permutations and there are 128"):
        minhash(["a"], bands=(20, 10))
    with pytest.raises(DatumwiseError, match="id x comes more than once"):
        minhash(["a", "b"], ids=["x", "x"])
    with pytest.raises(DatumwiseError, match="no verification 'twice'"):
        minhash(["a"], verify="twice")
    with pytest.raises(DatumwiseError, match="no family of permutations 'random'"):
        minhash(["a"], family="random")
    with pytest.raises(DatumwiseError, match="signatures are int64 of shape"):
        minhash(["a"], signatures=np.zeros((2, 128), np.int64))
    old = minhash_signatures(["a b c"])
    with pytest.raises(DatumwiseError, match="earlier texts are not at hand"):
        minhash(["a"], signatures=old, verify="exact")
    with pytest.raises(DatumwiseError, match="how long the earlier texts are is not known"):
        minhash(["a"], signatures=old, keep="longest")
