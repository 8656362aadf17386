"""Repeated passages, against every window the slow way."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from dedup_cases import components

from datumwise.errors import DatumwiseError
from datumwise.select.substring import repeated_substrings, substring

module = importlib.import_module("datumwise.select.substring")  # the room's name is the function


def random_texts(seed: int, n: int = 12, letters: int = 3) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    return [[f"w{c}" for c in rng.integers(0, letters, rng.integers(0, 25))] for _ in range(n)]


def first_places(docs: list[list[str]], size: int) -> dict[tuple, tuple[int, int]]:
    first: dict[tuple, tuple[int, int]] = {}
    for row, doc in enumerate(docs):
        for start in range(len(doc) - size + 1):
            first.setdefault(tuple(doc[start : start + size]), (row, start))
    return first


def slow_passages(docs: list[list[str]], size: int) -> list[tuple[int, int, int, int, int]]:
    first, found = first_places(docs, size), []
    for row, doc in enumerate(docs):
        starts = [s for s in range(len(doc) - size + 1) if first[tuple(doc[s : s + size])] != (row, s)]
        inside = {token for s in starts for token in range(s, s + size)}
        for token in sorted(inside):
            if token - 1 in inside:
                continue
            end = token
            while end in inside:
                end += 1
            found.append((row, token, end, *first[tuple(doc[token : token + size])]))
    return found


def slow_containment(a: list[str], b: list[str], size: int) -> float:
    shares = []
    for mine, other in ((a, b), (b, a)):
        theirs = {tuple(other[s : s + size]) for s in range(len(other) - size + 1)}
        starts = [s for s in range(len(mine) - size + 1) if tuple(mine[s : s + size]) in theirs]
        inside = {token for s in starts for token in range(s, s + size)}
        shares.append(len(inside) / len(mine) if mine else 0.0)
    return max(shares)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("size", [1, 2, 3, 5, 8])
def test_passages_equal_those_of_all_windows(seed: int, size: int) -> None:
    docs = random_texts(seed)
    found = repeated_substrings(docs, size)
    rows = (found.row, found.start, found.stop, found.of_row, found.of_start)
    expected = slow_passages(docs, size)
    assert list(zip(*(column.tolist() for column in rows), strict=True)) == expected
    cut = [sum(stop - start for row, start, stop, *_ in expected if row == i) for i in range(len(docs))]
    covered = [c / len(doc) if doc else 0.0 for c, doc in zip(cut, docs, strict=True)]
    np.testing.assert_allclose(found.covered, covered)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("threshold", [0.3, 0.8, 1.0])
def test_groups_equal_those_of_all_pairs(seed: int, threshold: float) -> None:
    docs = random_texts(seed, letters=4)
    found = substring(docs, threshold, min_tokens=3)
    expected = {
        (i, j): value
        for j in range(len(docs))
        for i in range(j)
        if (value := slow_containment(docs[i], docs[j], 3)) >= threshold
    }
    assert [tuple(p) for p in found.pairs.tolist()] == sorted(expected)
    np.testing.assert_allclose(found.similarity, [expected[pair] for pair in sorted(expected)])
    assert found.labels.tolist() == components(len(docs), list(expected))


def test_cutting_the_passages_out_leaves_no_window_twice() -> None:
    docs = random_texts(9, n=30)
    found = repeated_substrings(docs, 4)
    inside = {(row, t) for row, a, b in zip(found.row, found.start, found.stop, strict=True) for t in range(a, b)}
    left: list[tuple] = []
    for row, doc in enumerate(docs):
        for start in range(len(doc) - 3):
            if not {(row, t) for t in range(start, start + 4)} & inside:
                left.append(tuple(doc[start : start + 4]))
    assert len(left) == len(set(left))


def test_windows_of_equal_hash_are_compared_token_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    docs = random_texts(2, letters=40)
    expected = repeated_substrings(docs, 3)
    monkeypatch.setattr(module, "_window_hashes", lambda codes, size: np.zeros(len(codes) - size + 1, np.uint64))
    found = repeated_substrings(docs, 3)  # all hashes collide: no passage is invented
    assert {*zip(found.row.tolist(), found.start.tolist(), strict=True)} <= {
        (row, token)
        for row, a, b in zip(expected.row.tolist(), expected.start.tolist(), expected.stop.tolist(), strict=True)
        for token in range(a, b)
    }


def test_blocks_do_not_change_the_answer_and_tell_how_far_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    docs = random_texts(3, n=30)
    whole = substring(docs, 0.3, min_tokens=3)
    monkeypatch.setattr(module, "WINDOWS", 5)
    told: list[tuple[int, int]] = []
    blocked = substring(docs, 0.3, min_tokens=3, progress=lambda done, total: told.append((done, total)))
    assert np.array_equal(whole.pairs, blocked.pairs)
    assert np.array_equal(whole.similarity, blocked.similarity)
    assert len(told) > 5
    assert told[-1][0] == told[-1][1] >= len(whole.pairs)


def test_a_passage_of_49_words_is_none_and_one_of_50_is() -> None:
    passage = [f"p{i}" for i in range(50)]
    assert len(repeated_substrings([["a", *passage], ["b", *passage[:49], "c"]])) == 0
    found = repeated_substrings([["a", *passage], ["b", *passage, "c"]], ids=["x", "y"])
    assert (found.row.tolist(), found.start.tolist(), found.stop.tolist(), found.of_start.tolist()) == ([1], [1], [51], [1])
    assert str(found).splitlines()[0] == "1 repeated passage of 50 tokens or more, in 1 of 2 texts"
    assert str(found).splitlines()[2].split() == ["50", "y", "1", "x", "1"]


def test_many_texts_with_one_passage_are_one_group_and_the_longest_is_kept() -> None:
    passage = [f"p{i}" for i in range(50)]
    docs = [[f"a{i}", *passage] for i in range(40)] + [["b", "c", *passage]]
    found = substring(docs)
    assert found.n_groups == 1
    assert found.kept_by.tolist() == [40] * 41
    assert substring([doc for doc, keep in zip(docs, found.keep, strict=True) if keep]).keep.all()


def test_bad_inputs_are_refused() -> None:
    for size in (0, 1.5, True):
        with pytest.raises(DatumwiseError, match="min_tokens is"):
            repeated_substrings(["a"], size)  # type: ignore[arg-type]
    for threshold in (0, 1.5):
        with pytest.raises(DatumwiseError, match="threshold is"):
            substring(["a"], threshold)
    with pytest.raises(DatumwiseError, match="there is no text"):
        substring([])
    with pytest.raises(DatumwiseError, match="row 1"):
        repeated_substrings(["a", None])  # type: ignore[list-item]
    with pytest.raises(DatumwiseError, match="comes more than once"):
        repeated_substrings(["a", "b"], ids=["x", "x"])
