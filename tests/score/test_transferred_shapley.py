"""Shapley values of a proxy, cut at its peak."""

from __future__ import annotations

import numpy as np
import pytest
from value_cases import three_blobs

from datumwise.errors import DatumwiseError
from datumwise.score.shapley import tmc_shapley
from datumwise.score.transferred_shapley import transferred_shapley
from datumwise.score.utility import utility

X, Y, WRONG = three_blobs(60, 0, noisy=10)
X_VAL, Y_VAL, _ = three_blobs(150, 1)


def test_the_peak_of_the_curve_is_what_is_kept():
    found = transferred_shapley(X, Y, X_VAL, Y_VAL, "knn", n_permutations=100, step=3, random_state=0)
    game = utility(X, Y, X_VAL, Y_VAL, "knn")
    assert game(found.keep)[0] == found.curve.max()
    assert found.removed[found.curve.argmax()] == (~found.keep).sum()
    assert found.curve[0] == game.full()
    lowest = np.argsort(found.value.values, kind="stable")[: (~found.keep).sum()]
    assert set(lowest) == set(np.flatnonzero(~found.keep))
    assert WRONG[~found.keep].sum() >= 8
    assert "keep" in str(found)


def test_one_chain_of_all_is_tmc_shapley():
    found = transferred_shapley(X, Y, X_VAL, Y_VAL, n_permutations=20, random_state=3)
    expected = tmc_shapley(utility(X, Y, X_VAL, Y_VAL), n_permutations=20, random_state=3)
    np.testing.assert_array_equal(found.value.values, expected.values)


def test_chains_of_a_share_value_every_row():
    found = transferred_shapley(X, Y, X_VAL, Y_VAL, "knn", n_chains=12, chain_share=0.5, n_permutations=30, random_state=0)
    whole = transferred_shapley(X, Y, X_VAL, Y_VAL, "knn", n_permutations=200, random_state=0)
    assert np.isfinite(found.value.values).all()
    assert (found.value.stderr > 0).all()
    assert np.corrcoef(found.value.values, whole.value.values)[0, 1] > 0.8


def test_progress_ends_with_all():
    seen = []
    transferred_shapley(X, Y, X_VAL, Y_VAL, n_permutations=5, step=20, random_state=0, progress=lambda *at: seen.append(at))
    assert seen[-1][0] == seen[-1][1]


def test_bad_options_are_refused():
    with pytest.raises(DatumwiseError, match="leave datapoints without a value"):
        transferred_shapley(X, Y, X_VAL, Y_VAL, chain_share=0.5)
    with pytest.raises(DatumwiseError, match="in none of the 2 chains"):
        transferred_shapley(X, Y, X_VAL, Y_VAL, n_chains=2, chain_share=0.2, n_permutations=2, random_state=0)
    with pytest.raises(DatumwiseError, match="most = 1 would drop everything"):
        transferred_shapley(X, Y, X_VAL, Y_VAL, most=1)
