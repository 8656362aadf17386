"""Banzhaf values by maximum sample reuse against enumeration."""

from __future__ import annotations

import numpy as np
import pytest
from value_cases import random_game, three_blobs

from datumwise.errors import DatumwiseError
from datumwise.score.banzhaf import banzhaf
from datumwise.score.shapley import exact_semivalue
from datumwise.score.utility import GameUtility, utility


@pytest.mark.parametrize("p", [0.5, 0.3])
def test_sample_reuse_lies_within_four_standard_errors_of_enumeration(p):
    game, _ = random_game(8)
    found = banzhaf(game, n_subsets=20_000, p=p, random_state=0)
    truth = exact_semivalue(game, semivalue="banzhaf", p=p).values
    assert (np.abs(found.values - truth) < 4 * found.stderr).all()
    assert found.stderr.max() < 0.05


def test_it_is_the_difference_of_two_means_over_the_same_sets():
    n, worth = 5, np.random.default_rng(1).normal(size=32)
    seen = []

    def game(masks: np.ndarray) -> np.ndarray:
        seen.extend(masks.tolist())
        return worth[masks @ (1 << np.arange(n))]

    found = banzhaf(GameUtility(n, game), n_subsets=300, random_state=0)
    drawn = np.random.default_rng(0).random((300, n))  # the draws of two blocks are those of one stream
    masks = np.concatenate([drawn[:256] < 0.5, drawn[256:] < 0.5])
    v = worth[masks @ (1 << np.arange(n))]
    for i in range(n):
        a, b = v[masks[:, i]], v[~masks[:, i]]
        assert found.values[i] == pytest.approx(a.mean() - b.mean(), abs=1e-12)
        assert found.stderr[i] == pytest.approx(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)), abs=1e-12)
    assert found.utility_calls == len({tuple(m) for m in seen} - {(False,) * n})


def test_intervals_cover_the_exact_value_as_often_as_they_say():
    game, _ = random_game(5, 2)
    truth = exact_semivalue(game, semivalue="banzhaf").values
    inside = 0
    for seed in range(300):
        low, high = banzhaf(game, n_subsets=120, random_state=seed).interval(0.9)
        inside += ((low <= truth) & (truth <= high)).sum()
    assert 0.87 < inside / 1500 < 0.93


def test_wrong_labels_are_worth_least():
    X, y, wrong = three_blobs(60, 0, noisy=8)
    X_val, y_val, _ = three_blobs(200, 1)
    found = banzhaf(utility(X, y, X_val, y_val, "knn"), n_subsets=3000, random_state=0)
    assert wrong[np.argsort(found.values)[:8]].mean() >= 0.75


def test_a_row_that_every_set_has_or_lacks_has_no_value():
    found = banzhaf(GameUtility(3, lambda m: m.sum(axis=1)), n_subsets=4, p=0.999, random_state=0)
    assert np.isnan(found.values).all()
    assert np.isnan(found.stderr).all()


def test_precision_stops_the_sampling():
    game, _ = random_game(6)
    found = banzhaf(game, n_subsets=100_000, precision=0.05, random_state=0)
    assert found.converged
    assert found.draws < 100_000
    assert found.stderr.max() <= 0.05


@pytest.mark.parametrize(
    ("options", "says"), [({"p": 0}, "p = 0 is no probability"), ({"n_subsets": 3}, "3 subsets are too few")]
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(DatumwiseError, match=says):
        banzhaf(random_game(3)[0], **options)
