"""Limited lexical similarity, and its two measures."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from datumwise.errors import DatumwiseError
from datumwise.select.limited_lexical_similarity import LimitedLexicalSimilarity, bleu, rouge_l

TEXTS = [f"the {a} {b} in the {c}" for a in ("red", "old", "big") for b in ("cat", "dog") for c in ("park", "sea", "sun")]


def longest_common(a: list, b: list) -> int:
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
    return int(table[-1, -1])


def test_rouge_l_equals_the_table_of_common_subsequences() -> None:
    rng = np.random.default_rng(0)
    for _ in range(200):
        a, b = (rng.integers(0, 4, rng.integers(1, 12)).tolist() for _ in range(2))
        common = longest_common(a, b)
        precision, recall = common / len(a), common / len(b)
        expected = 2 * precision * recall / (precision + recall) if common else 0.0
        assert abs(rouge_l(a, b) - expected) < 1e-12
    assert rouge_l([], [1]) == rouge_l([1], []) == 0


def test_bleu_of_known_sentences() -> None:
    a, b = ["the"] * 4, ["the", "cat", "is", "here"]
    # 1-grams 1/4 (clipped); longer runs (0 + 1) / (3 + 1), (0 + 1) / (2 + 1), (0 + 1) / (1 + 1)
    assert abs(bleu(a, b) - (1 / 4 * 1 / 4 * 1 / 3 * 1 / 2) ** 0.25) < 1e-12
    assert bleu(list("ab"), list("abcd")) < bleu(list("abc"), list("abcd")) < 1
    assert bleu([], ["a"]) == 0


@pytest.mark.parametrize("metric", ["rouge_l", "bleu"])
def test_no_pick_is_too_like_the_one_before(metric: str) -> None:
    similar = {"rouge_l": rouge_l, "bleu": bleu}[metric]
    chosen = LimitedLexicalSimilarity(10, cap=0.7, metric=metric, random_state=1).fit(TEXTS)
    picks = [TEXTS[row].split() for row in chosen.ranking_]
    found = [similar(b, a) for a, b in pairwise(picks)]
    assert max(found) <= 0.7
    np.testing.assert_allclose(chosen.gains_[1:], 1 - np.array(found))
    assert len(set(chosen.ranking_.tolist())) == len(chosen.ranking_) == 10


def test_against_all_no_two_picks_are_alike_and_nothing_more_fits() -> None:
    chosen = LimitedLexicalSimilarity(18, cap=0.7, against="all").fit(TEXTS)
    picks = [TEXTS[row].split() for row in chosen.ranking_]
    assert max(rouge_l(a, b) for i, a in enumerate(picks) for b in picks[:i]) <= 0.7
    left = [text.split() for text in TEXTS if text.split() not in picks]
    assert all(max(rouge_l(text, pick) for pick in picks) > 0.7 for text in left)
    assert len(picks) < 18


def test_without_a_cap_it_is_a_random_order() -> None:
    chosen = LimitedLexicalSimilarity(18, cap=1.0).fit(TEXTS)
    assert sorted(chosen.ranking_.tolist()) == list(range(18))
    assert not np.array_equal(chosen.ranking_, LimitedLexicalSimilarity(18, cap=1.0, random_state=1).fit(TEXTS).ranking_)
    assert np.array_equal(chosen.ranking_, LimitedLexicalSimilarity(18, cap=1.0).fit(TEXTS).ranking_)


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(DatumwiseError, match="cap is 0"):
        LimitedLexicalSimilarity(1, cap=0).fit(TEXTS)
    with pytest.raises(DatumwiseError, match="no metric 'meteor'"):
        LimitedLexicalSimilarity(1, metric="meteor").fit(TEXTS)
    with pytest.raises(DatumwiseError, match="no against 'none'"):
        LimitedLexicalSimilarity(1, against="none").fit(TEXTS)
