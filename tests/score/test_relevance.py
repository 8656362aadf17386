"""Relevance of responses to prompts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datumwise.errors import NotFinite, SchemaMismatch
from datumwise.probe.words import from_tokens, words
from datumwise.score import relevance as module
from datumwise.score.relevance import cosine_relevance, ngram_overlap

TOKENS = st.lists(st.sampled_from("abcd"), max_size=8)


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(TOKENS, TOKENS), min_size=1, max_size=6), st.integers(1, 3))
def test_overlap_is_dice_of_the_sets_of_ngrams(pairs: list[tuple[list[str], list[str]]], n: int) -> None:
    first, second = zip(*pairs, strict=True)
    found = ngram_overlap(from_tokens(first), from_tokens(second), n=n)
    for (a, b), value in zip(pairs, found, strict=True):
        A, B = ({tuple(one[i : i + n]) for i in range(len(one) - n + 1)} for one in (a, b))
        expected = 2 * len(A & B) / (len(A) + len(B)) if A or B else float("nan")
        assert value == pytest.approx(expected, nan_ok=True)


def test_cosines_are_those_of_numpy_whatever_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 50, 7)).astype(np.float32)
    a[3] = 0
    expected = (a * b).sum(1) / np.maximum(np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-30)
    expected[3] = np.nan
    assert cosine_relevance(a, b) == pytest.approx(expected, abs=1e-6, nan_ok=True)
    monkeypatch.setattr(module, "BLOCK", 20)
    assert cosine_relevance(a, b) == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert cosine_relevance(a[:2] * 1e30, -a[:2] * 1e30).tolist() == pytest.approx([-1, -1])


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(SchemaMismatch, match="1 prompts and 2 responses differ in number"):
        ngram_overlap(words(["a"]), words(["a", "b"]))
    with pytest.raises(SchemaMismatch, match=r"prompt_embedding is \(2, 3\) and response_embedding \(2, 4\)"):
        cosine_relevance(np.ones((2, 3)), np.ones((2, 4)))
    with pytest.raises(NotFinite, match="response_embedding has NaN or infinity in row 1"):
        cosine_relevance(np.ones((2, 1)), [[1.0], [np.nan]])
