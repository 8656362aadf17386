"""Exact copies of texts, bytes and rows."""

from __future__ import annotations

import numpy as np
import pytest
from dedup_cases import components

from datumwise.errors import DatumwiseError
from datumwise.select.exact import exact, normalised


def test_equal_texts_and_no_others_are_grouped() -> None:
    rng = np.random.default_rng(0)
    texts = [f"t{c}" for c in rng.integers(0, 60, 120)]
    pairs = [(i, j) for j in range(120) for i in range(j) if texts[i] == texts[j]]
    found = exact(texts)
    assert found.labels.tolist() == components(120, pairs)
    assert sorted(np.array(texts)[found.keep].tolist()) == sorted(set(texts))
    assert (found.similarity_to_kept == 1).all()


def test_bytes_and_rows_of_arrays_too() -> None:
    assert exact([b"a", b"b", b"a"]).kept_by.tolist() == [0, 1, 0]
    X = np.array([[0.0, 1.0], [0.0, np.nan], [0.0, 1.0], [0.0, np.nan], [-0.0, 1.0]])
    assert exact(X).kept_by.tolist() == [0, 1, 0, 1, 4]
    assert exact(np.zeros((3, 2, 2), np.uint8)).n_left_out == 2
    assert exact(np.array(["a", "a"])).n_left_out == 1


def test_normalised_texts_forget_case_punctuation_width_and_spaces() -> None:
    texts = ["Hello, World!", "hello   world", "ＨＥＬＬＯ world", "hello-world", "helloworld", "hello_world"]
    assert exact(texts, normalise=True).kept_by.tolist() == [0, 0, 0, 0, 4, 0]
    assert exact(texts).keep.all()
    assert normalised("Straße") == normalised("STRASSE")


def test_the_longest_is_the_longest_before_it_is_normalised() -> None:
    assert exact(["a b", "A  B!!", "c"], normalise=True, keep="longest").kept_by.tolist() == [1, 1, 2]


def test_what_is_kept_has_no_copies_left() -> None:
    texts = list("abcaabbz")
    kept = exact(texts).keep
    assert exact([t for t, keep in zip(texts, kept, strict=True) if keep]).keep.all()


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(DatumwiseError, match="there is no value"):
        exact([])
    with pytest.raises(DatumwiseError, match="there is no value"):
        exact(np.zeros((0, 2)))
    with pytest.raises(DatumwiseError, match="row 1, 2 holds no text"):
        exact(["a", None, 3])  # type: ignore[list-item]
    with pytest.raises(DatumwiseError, match="row 1 holds no bytes"):
        exact([b"a", "a"])  # type: ignore[list-item]
    with pytest.raises(DatumwiseError, match="only texts can be normalised"):
        exact(np.zeros((2, 2)), normalise=True)
    with pytest.raises(DatumwiseError, match="a list of texts"):
        exact("one text")
    with pytest.raises(DatumwiseError, match="comes more than once"):
        exact(["a", "b"], ids=[1, 1])
