"""Running means against all draws at once."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import SchemaMismatch
from datumwise.score.estimate import RunningMoments, Value


@pytest.mark.parametrize("cuts", [[50], [1, 2, 30], [10, 20, 30, 40]])
def test_blocks_of_draws_give_the_mean_and_error_of_all(cuts):
    draws = np.random.default_rng(0).normal(size=(50, 3)) + 1e6
    found = RunningMoments(3)
    for block in np.split(draws, cuts):
        found.add(block)
    np.testing.assert_allclose(found.mean, draws.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(found.stderr, draws.std(axis=0, ddof=1) / np.sqrt(50), rtol=1e-9)
    assert found.count == 50


def test_one_draw_says_nothing_of_its_error():
    found = RunningMoments(2)
    found.add(np.ones((1, 2)))
    assert np.isinf(found.stderr).all()


def test_values_and_ids_of_different_length_are_refused():
    with pytest.raises(SchemaMismatch, match="3 values and 2 ids"):
        Value("x", np.zeros(3), np.zeros(3), 0, 0, np.arange(2))
