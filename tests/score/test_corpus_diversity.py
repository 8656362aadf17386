"""Diversity of sets, against all pairs and closed forms."""

from __future__ import annotations

import zlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datumwise.errors import DatumwiseError, EmptyData, NotFinite, SchemaMismatch
from datumwise.probe.words import from_tokens, words
from datumwise.score.corpus_diversity import (
    compression_ratio,
    distinct_n,
    entropy,
    hill_number,
    homogenization,
    ngram_entropy,
    rouge_l,
    self_bleu,
    self_bleu_of_each,
    simpson,
)

TOKENS = st.lists(st.lists(st.sampled_from("abcd"), max_size=9), min_size=2, max_size=6)
COUNTS = st.lists(st.integers(1, 50), min_size=1, max_size=8)


def grams(tokens: list[str], n: int) -> Counter:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


@settings(deadline=None, max_examples=150)
@given(TOKENS, st.integers(1, 4))
def test_self_bleu_equals_bleu_against_all_others(tokens: list[list[str]], max_n: int) -> None:
    found = self_bleu_of_each(from_tokens(tokens), max_n=max_n)
    several = sum(bool(one) for one in tokens) > 1
    for row, one in enumerate(tokens):
        others = [other for i, other in enumerate(tokens) if i != row and other]
        assert found[row] == pytest.approx(bleu(one, others, max_n) if one and several else float("nan"), nan_ok=True)


def bleu(hypothesis: list[str], references: list[list[str]], max_n: int) -> float:
    """Papineni et al., 2002, with 0.1 for no match of an order (as NLTK's method1)."""
    logs = []
    for n in range(1, max_n + 1):
        best: Counter = Counter()
        for reference in references:
            best |= grams(reference, n)
        match = sum((grams(hypothesis, n) & best).values())
        if n == 1 and match == 0:
            return 0.0
        logs.append(np.log((match or 0.1) / max(1, len(hypothesis) - n + 1)))
    closest = min(map(len, references), key=lambda size: (abs(size - len(hypothesis)), size))
    return float(np.exp(np.mean(logs) + min(0, 1 - closest / len(hypothesis))))


def test_self_bleu_of_copies_is_one_and_of_strangers_zero() -> None:
    assert self_bleu(["the cat sat on the mat"] * 3) == pytest.approx(1)
    assert self_bleu(["a b c d", "e f g h"]) == 0
    assert np.isnan(self_bleu(["alone"]))
    assert np.isnan(self_bleu(["", ""]))


@settings(deadline=None, max_examples=100)
@given(TOKENS)
def test_rouge_l_equals_dynamic_programming(tokens: list[list[str]]) -> None:
    n = len(tokens)
    first, second = np.divmod(np.arange(n * n), n)
    for a, b, value in zip(first, second, rouge_l(from_tokens(tokens), first, second), strict=True):
        total = len(tokens[a]) + len(tokens[b])
        assert value == pytest.approx(2 * lcs(tokens[a], tokens[b]) / total if total else float("nan"), nan_ok=True)


def lcs(a: list[str], b: list[str]) -> int:
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def test_rouge_l_beyond_a_machine_word() -> None:
    rng = np.random.default_rng(0)
    tokens = [[str(code) for code in rng.integers(0, 9, size)] for size in (150, 201)]
    assert rouge_l(from_tokens(tokens), [0], [1])[0] == pytest.approx(2 * lcs(*tokens) / 351)


def test_homogenization_of_all_pairs_and_of_a_sample() -> None:
    rng = np.random.default_rng(1)
    texts = [" ".join(map(str, rng.integers(0, 12, 15))) for _ in range(60)] + [""]
    corpus = words(texts)
    first, second = np.triu_indices(60, 1)
    each = rouge_l(corpus, first, second)
    assert homogenization(texts, pairs=None) == pytest.approx(each.mean(), rel=1e-12)
    assert homogenization(corpus, pairs=1770) == pytest.approx(each.mean(), rel=1e-12)
    sampled = [homogenization(corpus, pairs=200, random_state=seed) for seed in range(40)]
    standard = each.std() / np.sqrt(200 * 40)
    assert abs(np.mean(sampled) - each.mean()) < 4 * standard
    assert len(set(sampled)) > 1
    assert np.isnan(homogenization(["", "alone"]))


def test_progress_counts_pairs_to_the_end() -> None:
    seen: list[tuple[int, int]] = []
    homogenization(["a b", "b c", "c d"], progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (3, 3)


@settings(deadline=None, max_examples=60)
@given(TOKENS, st.integers(1, 3))
def test_distinct_and_entropy_count_ngrams(tokens: list[list[str]], n: int) -> None:
    counted = sum((grams(one, n) for one in tokens), Counter())
    total = sum(counted.values())
    corpus = from_tokens(tokens)
    if not total:
        assert np.isnan(distinct_n(corpus, n))
        assert np.isnan(ngram_entropy(corpus, n))
        return
    assert distinct_n(corpus, n) == len(counted) / total
    p = np.array(list(counted.values())) / total
    assert ngram_entropy(corpus, n) == pytest.approx(-(p * np.log(p)).sum(), abs=1e-12)


@pytest.mark.parametrize("count", [3, 5000])
def test_compression_is_that_of_zlib_over_the_lines(count: int) -> None:
    texts = [f"línea {i % 7} {i} " * 20 for i in range(count)]
    raw = "\n".join(texts).encode()
    assert compression_ratio(texts) == pytest.approx(len(raw) / len(zlib.compress(raw, 9)), rel=1e-3)
    assert compression_ratio(words(texts[:2])) == compression_ratio(texts[:2])


@settings(deadline=None, max_examples=100)
@given(COUNTS, st.floats(0, 30))
def test_hill_numbers_meet_their_limits_and_fall_with_the_order(counts: list[int], q: float) -> None:
    p = np.array(counts) / sum(counts)
    assert hill_number(counts, 0) == pytest.approx(len(counts))
    assert hill_number(counts, 1) == pytest.approx(np.exp(entropy(counts)))
    assert hill_number(counts, 2) == pytest.approx(1 / simpson(counts))
    assert hill_number(counts, np.inf) == pytest.approx(1 / p.max())
    assert hill_number(counts, 1 + 1e-6) == pytest.approx(hill_number(counts, 1), rel=1e-4)
    assert hill_number(counts, q) >= hill_number(counts, q + 0.5) - 1e-6
    assert hill_number([*counts, 0, 0], q) == pytest.approx(hill_number(counts, q))


def test_hill_numbers_of_equal_shares_are_their_number_even_for_large_orders() -> None:
    assert [hill_number([3] * 5, q) for q in (0, 0.5, 1, 2, 1000)] == pytest.approx([5] * 5)
    assert entropy([7]) == 0


@pytest.mark.parametrize(
    ("call", "kind", "sentence"),
    [
        (lambda: entropy([1, float("nan")]), NotFinite, "counts has NaN or infinity at 1"),
        (lambda: simpson([1, -1]), DatumwiseError, "counts are below 0 at 1"),
        (lambda: entropy([0, 0]), EmptyData, "counts is empty or all 0"),
        (lambda: entropy([[1]]), SchemaMismatch, r"counts must be one number a kind; the shape is \(1, 1\)"),
        (lambda: hill_number([1], -1), DatumwiseError, "q is -1: it is 0 or more"),
        (lambda: compression_ratio(["a"], level=0), DatumwiseError, "level is 0: 1 to 9"),
        (lambda: homogenization(["a", "b"], pairs=0), DatumwiseError, "pairs is 0: at least 1, or None for all"),
        (lambda: self_bleu(["a", "b"], max_n=0), DatumwiseError, "max_n is 0: it is at least 1"),
        (lambda: distinct_n([]), EmptyData, "texts is empty"),
        (lambda: distinct_n(["a", None]), SchemaMismatch, r"texts has no string in row 1 \(NoneType\)"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(call: object, kind: type, sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        call()  # type: ignore[operator]
