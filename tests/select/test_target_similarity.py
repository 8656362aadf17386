"""Similarity to a target, by its formula."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import DatumwiseError
from datumwise.select import target_similarity as module
from datumwise.select.target_similarity import TargetSimilarity


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_similarity_is_the_mean_or_the_largest_cosine(reduce: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    X, target = rng.normal(size=(50, 4)), rng.normal(size=(9, 4))
    cosine = np.array([[x @ t / np.linalg.norm(x) / np.linalg.norm(t) for t in target] for x in X])
    expected = getattr(cosine, reduce)(axis=1)
    monkeypatch.setattr(module, "BLOCK", 20)
    chosen = TargetSimilarity(10, reduce=reduce).fit(X, target=target)
    np.testing.assert_allclose(chosen.similarity_, expected, atol=1e-12)
    assert chosen.ranking_.tolist() == np.argsort(-expected, kind="stable")[:10].tolist()
    np.testing.assert_allclose(chosen.gains_, np.sort(expected)[::-1][:10], atol=1e-12)


def test_ties_go_to_the_lowest_row() -> None:
    assert TargetSimilarity(2).fit(np.ones((4, 2)), target=np.ones((1, 2))).ranking_.tolist() == [0, 1]


def test_bad_inputs_are_refused() -> None:
    with pytest.raises(DatumwiseError, match="no reduction 'median'"):
        TargetSimilarity(1, reduce="median").fit(np.eye(2), target=np.eye(2))
    with pytest.raises(DatumwiseError, match="target has 3 columns and X has 2"):
        TargetSimilarity(1).fit(np.eye(2), target=np.eye(3))
    with pytest.raises(DatumwiseError, match="needs target"):
        TargetSimilarity(1).fit(np.eye(2))
