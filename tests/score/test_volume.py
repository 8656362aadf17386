"""Volumes against determinants, and what copies add."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, NotFinite
from datumwise.score.shapley import exact_semivalue
from datumwise.score.volume import VolumeUtility, volume

X = np.random.default_rng(0).normal(size=(9, 2))


def test_plain_volume_is_the_root_of_the_gram_determinant():
    game = VolumeUtility(X, omega=0)
    whole = np.sqrt(np.linalg.det(X.T @ X))
    masks = np.random.default_rng(1).random((20, 9)) < 0.5
    expected = [np.sqrt(np.linalg.det(X[m].T @ X[m])) / whole if m.sum() >= 2 else 0.0 for m in masks]
    np.testing.assert_allclose(game(masks), expected, atol=1e-12)
    assert game.full() == pytest.approx(1)


def test_robust_volume_counts_a_cube_once_and_its_copies_a_little():
    rows = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    game = VolumeUtility(rows, omega=0.1)
    a = 1 / 20  # two cubes
    # two rows in two cubes, then the copy: the same means, one more power of a
    pair, all_rows = (1 + a) * (1 + a), (1 + a + a**2) * (1 + a)
    assert game([True, False, True])[0] == pytest.approx(pair / all_rows, abs=1e-12)
    plain = VolumeUtility(rows, omega=0)
    assert plain([True, False, True])[0] == pytest.approx(1 / np.sqrt(2))  # a copy adds 41 %


def test_a_set_with_fewer_rows_than_columns_has_none():
    assert VolumeUtility(X, omega=0)(np.eye(9, dtype=bool)).max() == 0


def test_cubes_stay_where_they_are_when_rows_join():
    """Published: cubes are laid out from the smallest row of each set, so that another row moves them all."""
    rows = np.array([[0.00, 1.0], [0.06, 0.0], [0.11, 0.5]])
    game = VolumeUtility(rows, omega=0.1)
    assert game._cube[0] == game._cube[0]
    assert game.cubes == 3
    # rows 1 and 2 share no cube, though from row 1 on 0.06 and 0.11 lie less than 0.1 apart in the first column
    assert len(set(game._cube.tolist())) == 3


def test_values_sum_to_one_and_copies_share_their_worth():
    rows = np.array([[1.0, 0.0], [1.0, 0.01], [0.0, 1.0], [0.7, 0.7]])
    found = volume(rows, omega=0.1, n_permutations=400, random_state=0)
    assert found.values.sum() == pytest.approx(1, abs=1e-12)
    exact = exact_semivalue(VolumeUtility(rows, 0.1)).values
    assert (np.abs(found.values - exact) < 4 * found.stderr).all()
    assert exact[2] > 1.5 * exact[0]
    assert found.method == "volume"


def test_bad_input_is_refused():
    with pytest.raises(DatumwiseError, match="all 9 rows have volume 0 in 2 dimensions"):
        volume(np.column_stack([X[:, 0], 2 * X[:, 0]]))
    with pytest.raises(DatumwiseError, match="a volume in 65 dimensions"):
        volume(np.ones((70, 65)))
    with pytest.raises(DatumwiseError, match="omega = -1"):
        volume(X, omega=-1)
    with pytest.raises(NotFinite, match="row 2"):
        volume(np.where(np.arange(9)[:, None] == 2, np.nan, X))
