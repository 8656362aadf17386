"""Pieces of a long text: every token once, none invented, none lost."""

from __future__ import annotations

import math

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, SchemaMismatch, UnknownName
from datumwise.probe.chunks import chunk_tokens, document_means


@pytest.mark.parametrize("bos", [None, 0, 7])
@pytest.mark.parametrize("n", [0, 1, 4, 5, 8, 23, 24, 25])
def test_pieces_hold_every_token_once_in_order(n, bos):
    ids = list(range(100, 100 + n))
    pieces = chunk_tokens(ids, 5, bos)
    heads = 0 if bos is None else 1
    assert [i for piece in pieces for i in piece[heads:]] == ids
    assert all(piece[:heads] == ([] if bos is None else [bos]) for piece in pieces)
    assert all(len(piece) == 5 for piece in pieces[:-1])
    assert all(heads < len(piece) <= 5 for piece in pieces)


def published(ids, max_length, bos):
    """The official way, spelt out: pieces of max_length - 1, a begin token before each, the last filled up from the first."""
    pieces = [[bos, *ids[i : i + max_length - 1]] for i in range(0, len(ids), max_length - 1)]
    if len(pieces[-1]) < max_length:
        pieces[-1] = (pieces[-1] + pieces[0])[:max_length]
    return pieces


@pytest.mark.parametrize("n", [4, 5, 8, 9, 23])
def test_wrap_is_the_published_way(n):
    ids = list(range(100, 100 + n))
    assert chunk_tokens(ids, 5, 1, tail="wrap") == published(ids, 5, 1)


def test_a_length_that_divides_exactly_leaves_no_empty_piece():
    assert chunk_tokens(np.arange(8), 4) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert chunk_tokens([], 4, bos=1) == [] == chunk_tokens([], 4, bos=1, tail="wrap")


def test_wrap_of_one_short_piece_repeats_it():
    assert chunk_tokens([5, 6], 5, tail="wrap") == [[5, 6, 5, 6, 5]]


def test_no_room_and_unknown_tail_are_refused():
    with pytest.raises(DatumwiseError, match="max_length is 1: it must be 2 or more"):
        chunk_tokens([1, 2], 1, bos=0)
    with pytest.raises(UnknownName, match="there is no tail 'drop': choose mask or wrap"):
        chunk_tokens([1, 2], 2, tail="drop")


def test_document_means_equal_the_mean_over_the_uncut_tokens():
    rng = np.random.default_rng(0)
    documents = {"a": rng.normal(size=17), "b": rng.normal(size=4), "c": rng.normal(size=8)}
    values, n_tokens, names = [], [], []
    for name, tokens in documents.items():
        for start in range(0, len(tokens), 5):
            values.append(tokens[start : start + 5].mean())
            n_tokens.append(len(tokens[start : start + 5]))
            names.append(name)
    means = document_means(values, n_tokens, names)
    assert list(means) == ["a", "b", "c"]
    assert means == pytest.approx({name: tokens.mean() for name, tokens in documents.items()}, abs=1e-12)


def test_a_piece_without_tokens_counts_for_nothing():
    means = document_means([math.nan, 2.0, math.nan], [0, 3, 0], ["a", "a", "b"])
    assert means["a"] == 2.0
    assert math.isnan(means["b"])
    with pytest.raises(SchemaMismatch, match=r"differ in number \(1, 1 and 2\)"):
        document_means([1.0], [1], ["a", "b"])
