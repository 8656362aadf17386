"""Average marginal effects against enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from value_cases import random_game, semivalue_by_sets

from datumwise.errors import DatumwiseError
from datumwise.score.ame import ame
from datumwise.score.utility import GameUtility

DENSITIES = (0.2, 0.4, 0.6, 0.8)


def exact_ame(worth: np.ndarray, n: int, densities=DENSITIES) -> np.ndarray:
    """The definition: mean over q of the effect on sets that have every other row with probability q."""
    return semivalue_by_sets(worth, n, lambda size: np.mean([q**size * (1 - q) ** (n - 1 - size) for q in densities]))


@pytest.mark.parametrize("densities", [DENSITIES, (0.5,), (0.3, 0.9)])
def test_it_lies_within_four_standard_errors_of_enumeration(densities):
    game, worth = random_game(6)
    found = ame(game, n_subsets=20_000, densities=densities, random_state=0)
    assert (np.abs(found.values - exact_ame(worth, 6, densities)) < 4 * found.stderr).all()
    assert found.stderr.max() < 0.05


def test_one_density_of_one_half_is_banzhaf():
    _, worth = random_game(6)
    np.testing.assert_allclose(exact_ame(worth, 6, (0.5,)), semivalue_by_sets(worth, 6, lambda size: 2.0**-5), atol=1e-12)


def test_intervals_cover_the_truth_where_few_rows_matter():
    effect = np.zeros(60)
    effect[:4] = [2.0, -1.0, 1.0, 0.5]
    game = GameUtility(60, lambda masks: masks @ effect + 0.3 * np.sin(1000 * masks @ np.arange(60)))
    inside = 0
    for seed in range(12):
        low, high = ame(game, n_subsets=300, penalty=0.05, random_state=seed).interval(0.95)
        inside += ((low <= effect) & (effect <= high)).sum()
    assert 0.9 < inside / (12 * 60) <= 0.99


def test_the_published_coefficients_are_sparse_and_shrunken():
    effect = np.zeros(40)
    effect[:3] = [3.0, -2.0, 1.0]
    game = GameUtility(40, lambda masks: masks @ effect)
    published = ame(game, n_subsets=400, penalty=0.3, debias=False, random_state=0)
    assert (published.values[3:] == 0).mean() > 0.9
    assert 0 < published.values[0] < 3
    unbiased = ame(game, n_subsets=400, penalty=0.3, random_state=0)
    assert abs(unbiased.values[0] - 3) < abs(published.values[0] - 3)


def test_a_game_in_which_nothing_changes_is_worth_nothing():
    found = ame(GameUtility(5, lambda masks: np.ones(len(masks))), n_subsets=50, random_state=0)
    np.testing.assert_allclose(found.values, 0, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"densities": (0.0, 0.5)}, "densities = "),
        ({"densities": ()}, "densities = "),
        ({"n_subsets": 5}, "5 subsets are too few"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(DatumwiseError, match=says):
        ame(random_game(3)[0], **options)
