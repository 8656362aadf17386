"""Indices of lexical diversity, against their definitions word by word."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import hypergeom

from datumwise.errors import DatumwiseError
from datumwise.probe.words import from_tokens, words
from datumwise.score import lexical_diversity as module
from datumwise.score.lexical_diversity import (
    corrected_ttr,
    dugast,
    hdd,
    herdan,
    maas,
    mattr,
    msttr,
    mtld,
    root_ttr,
    summer,
    ttr,
    vocd_d,
    yule_k,
)

NAN = float("nan")
EVERY = (ttr, root_ttr, corrected_ttr, herdan, summer, dugast, maas, yule_k, msttr, mattr, mtld, hdd, vocd_d)
TOKENS = st.lists(st.lists(st.sampled_from("abcdefgh"), max_size=40), min_size=1, max_size=6)


def test_the_type_token_family_of_known_counts() -> None:
    # N = 8 words, V = 4 types: 3 of one, 2 of another two, 1 of the last
    corpus = from_tokens([list("aaabbccd")])
    assert ttr(corpus)[0] == 0.5
    assert root_ttr(corpus)[0] == pytest.approx(4 / math.sqrt(8))
    assert corrected_ttr(corpus)[0] == 1.0  # 4 / sqrt 16
    assert herdan(corpus)[0] == pytest.approx(2 / 3)  # ln 4 / ln 8
    assert summer(corpus)[0] == pytest.approx(math.log(math.log(4)) / math.log(math.log(8)))
    assert dugast(corpus)[0] == pytest.approx(9 * math.log(2))  # (3 ln 2)^2 / ln 2
    assert maas(corpus)[0] == pytest.approx(1 / (9 * math.log(2)))
    assert yule_k(corpus)[0] == pytest.approx(1e4 * (9 + 4 + 4 + 1 - 8) / 64)


@pytest.mark.parametrize("index", EVERY, ids=lambda index: index.__name__)
def test_a_text_without_words_is_nan_and_no_neighbour_is(index: object) -> None:
    rng = np.random.default_rng(0)
    some = [str(code) for code in rng.integers(0, 40, 120)]
    found = index(from_tokens([[], some, []]))  # type: ignore[operator]
    assert np.isnan(found).tolist() == [True, False, True]
    assert np.isnan(index(words(["", "😀 ..."]))).all()  # type: ignore[operator]


def test_one_word_and_what_logarithms_allow() -> None:
    one = from_tokens([["a"], ["a", "a", "a"], ["a", "b"]])
    assert ttr(one).tolist() == pytest.approx([1, 1 / 3, 1])
    assert herdan(one).tolist() == pytest.approx([NAN, 0, 1], nan_ok=True)
    assert summer(one).tolist() == pytest.approx([NAN, NAN, NAN], nan_ok=True)
    assert dugast(one).tolist() == pytest.approx([NAN, math.log(3), NAN], nan_ok=True)
    assert maas(one).tolist() == pytest.approx([NAN, 1 / math.log(3), 0], nan_ok=True)
    assert yule_k(one).tolist() == pytest.approx([0, 1e4 * 6 / 9, 0])
    assert mtld(one).tolist() == pytest.approx([1, 3, 2])


@settings(deadline=None, max_examples=100)
@given(TOKENS, st.integers(1, 7))
def test_windows_equal_their_definition(tokens: list[list[str]], window: int) -> None:
    corpus = from_tokens(tokens)
    for one, moving, segmented in zip(tokens, mattr(corpus, window=window), msttr(corpus, window=window), strict=True):
        slides = [len(set(one[i : i + window])) / window for i in range(len(one) - window + 1)]
        assert moving == pytest.approx(np.mean(slides) if slides else NAN, nan_ok=True)
        assert segmented == pytest.approx(np.mean(slides[::window]) if slides else NAN, nan_ok=True)


@pytest.mark.parametrize("few", [1, 4, 1 << 30])
@settings(deadline=None, max_examples=80)
@given(tokens=TOKENS, threshold=st.sampled_from([0.5, 0.72, 0.9]))
def test_mtld_equals_a_scan_with_sets(few: int, tokens: list[list[str]], threshold: float) -> None:
    before = module.FEW
    module.FEW = few  # one: all texts abreast; very many: one by one
    try:
        found = mtld(from_tokens(tokens), threshold=threshold)
    finally:
        module.FEW = before
    for one, value in zip(tokens, found, strict=True):
        expected = (scanned(one, threshold) + scanned(one[::-1], threshold)) / 2 if one else NAN
        assert value == pytest.approx(expected, nan_ok=True, rel=1e-12)


def scanned(tokens: Sequence[str], threshold: float) -> float:
    """One direction of MTLD as McCarthy and Jarvis describe it."""
    factors, kept, count = 0.0, set(), 0
    for token in tokens:
        kept.add(token)
        count += 1
        if len(kept) / count <= threshold:
            factors, kept, count = factors + 1, set(), 0
    if count:
        factors += (1 - len(kept) / count) / (1 - threshold)
    return len(tokens) / (factors or 1)


def test_mtld_of_a_text_without_repetition_is_its_length() -> None:
    assert mtld(from_tokens([[str(i) for i in range(500)]])).tolist() == [500]


@settings(deadline=None, max_examples=60)
@given(TOKENS, st.integers(1, 12))
def test_hdd_sums_the_hypergeometric_distribution(tokens: list[list[str]], size: int) -> None:
    for one, value in zip(tokens, hdd(from_tokens(tokens), sample_size=size), strict=True):
        absent = [hypergeom.pmf(0, len(one), count, size) for count in Counter(one).values()]
        expected = sum(1 - p for p in absent) / size if len(one) >= size else NAN
        assert value == pytest.approx(expected, nan_ok=True, rel=1e-9)


def test_hdd_is_the_type_token_ratio_where_the_sample_is_the_text() -> None:
    rng = np.random.default_rng(1)
    corpus = from_tokens([[str(code) for code in rng.integers(0, 20, 42)]])
    assert hdd(corpus)[0] == pytest.approx(ttr(corpus)[0])


def test_vocd_recovers_the_d_of_a_curve() -> None:
    sizes = np.arange(35, 51)
    for d in (0.5, 12.3, 87.0, 4000.0):
        curve = d / sizes * (np.sqrt(1 + 2 * sizes / d) - 1)
        assert module._fitted(curve[None], sizes)[0] == pytest.approx(d, rel=1e-7)


def test_vocd_of_samples_tends_to_that_of_the_hypergeometric_distribution() -> None:
    rng = np.random.default_rng(2)
    tokens = [[str(int(code)) for code in rng.zipf(1.5, 300) % 90] for _ in range(3)]
    corpus = from_tokens([*tokens, ["short"] * 49, [str(i) for i in range(60)]])
    exact = vocd_d(corpus, samples=None)
    sampled = vocd_d(corpus, samples=1500, random_state=0)
    assert np.abs(sampled[:3] / exact[:3] - 1).max() < 0.03
    assert np.isnan(exact[3])
    assert np.isnan(sampled[3])
    assert exact[4] == sampled[4] == np.inf


def test_vocd_repeats_itself_with_a_seed_and_reports_progress() -> None:
    rng = np.random.default_rng(3)
    corpus = from_tokens([[str(code) for code in rng.integers(0, 30, 80)] for _ in range(2)])
    steps: list[tuple[int, int]] = []
    first = vocd_d(corpus, random_state=5, progress=lambda done, total: steps.append((done, total)))
    assert first.tolist() == vocd_d(corpus, random_state=5).tolist()
    assert first.tolist() != vocd_d(corpus, random_state=6).tolist()
    assert steps == [(1, 2), (2, 2)]


def test_subsets_are_uniform_and_without_repetition() -> None:
    rng = np.random.default_rng(4)
    chosen = np.sort(module._subsets(5, 3, 20_000, rng), axis=1)
    assert (np.diff(chosen, axis=1) > 0).all()
    _, counts = np.unique(chosen, axis=0, return_counts=True)
    assert len(counts) == 10
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


def test_repeating_a_text_lowers_what_depends_on_length_and_keeps_maas_scale() -> None:
    text = [str(i) for i in range(60)]
    corpus = from_tokens([text, text * 4])
    for index in (ttr, root_ttr, herdan, msttr, mattr, hdd):
        values = index(corpus, window=50) if index in (msttr, mattr) else index(corpus)
        assert values[0] >= values[1]
    assert maas(corpus)[0] == 0 < maas(corpus)[1]


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda c: mattr(c, window=0), "window is 0: it is at least 1"),
        (lambda c: msttr(c, window=-1), "window is -1"),
        (lambda c: mtld(c, threshold=1.0), "threshold is 1.0: it lies between 0 and 1"),
        (lambda c: hdd(c, sample_size=0), "sample_size is 0"),
        (lambda c: vocd_d(c, samples=0), "samples is 0"),
        (lambda c: vocd_d(c, repeats=0), "repeats is 0"),
    ],
)
def test_impossible_options_are_refused(call: object, sentence: str) -> None:
    with pytest.raises(DatumwiseError, match=sentence):
        call(from_tokens([["a"]]))  # type: ignore[operator]
