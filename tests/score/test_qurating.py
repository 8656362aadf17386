"""Strengths come from choices between pairs, and a judge's liking for the first text cancels out."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, EmptyData
from datumwise.score.qurating import _pairs, qurating


def judge_of(strength, rng, first=0.0):
    """Draws by Bradley-Terry from the number that a text holds, with a liking for the text that stands first."""

    def judge(messages):
        answers = []
        for message in messages:
            a, b = (int(message.split(f"Option {o}:\n")[1].split("\n")[0]) for o in "AB")
            answers.append("A" if rng.random() < 1 / (1 + np.exp(strength[b] - strength[a] - first)) else "Option B.")
        return answers

    return judge


def test_strengths_are_recovered_whatever_stands_first():
    rng = np.random.default_rng(0)
    strength = rng.normal(0, 1.5, 40)
    texts = [str(i) for i in range(40)]
    fair = qurating(judge_of(strength, rng), texts, n_pairs=600)
    biased = qurating(judge_of(strength, rng, first=1.0), texts, n_pairs=600)
    for found in (fair, biased):
        assert np.corrcoef(found["qurating"], strength)[0, 1] > 0.93
        assert (np.abs(found["qurating"] - (strength - strength.mean())) < 4 * found["qurating_stderr"] + 0.35).all()


def test_a_judge_who_only_likes_the_first_says_nothing():
    found = qurating(lambda messages: ["A"] * len(messages), [str(i) for i in range(10)])
    np.testing.assert_allclose(found["qurating"], 0, atol=1e-8)


@pytest.mark.parametrize(("n", "wanted"), [(2, None), (3, 2), (5, 100), (50, None), (50, 60)])
def test_pairs_are_different_connected_and_as_many_as_asked(n, wanted):
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    pairs = _pairs(n, wanted, np.random.default_rng(1))
    codes = {tuple(sorted(pair)) for pair in pairs.tolist()}
    assert len(codes) == len(pairs)
    assert all(a != b for a, b in codes)
    ring = 1 if n == 2 else n
    assert len(pairs) == min(n * (n - 1) // 2, max(ring, 5 * n if wanted is None else wanted))
    graph = coo_matrix((np.ones(len(pairs)), pairs.T), (n, n))
    assert connected_components(graph, directed=False)[0] == 1


def test_answers_that_choose_neither_are_counted():
    texts = ["0", "1", "2"]
    found = qurating(lambda m: ["A" if "\n0\n" in x.split("Option B")[0] else "maybe" for x in m], texts)
    assert found["qurating_unread"].sum() == 2 * (6 - 2)  # of six questions two have text 0 first


def test_bad_input_is_refused():
    with pytest.raises(EmptyData, match="1 text has nothing to be compared with"):
        qurating(lambda m: m, ["a"])
    with pytest.raises(DatumwiseError, match="chose neither A nor B in any answer"):
        qurating(lambda m: ["hm"] * len(m), ["a", "b"])
