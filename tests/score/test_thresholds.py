"""Thresholds stay quiet where there is nothing, and find what was planted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from datumwise.errors import DatumwiseError, SchemaMismatch
from datumwise.probe.neighbours import neighbours
from datumwise.score.outlier_knn import mean_knn_distance
from datumwise.score.thresholds import (
    copy_radii,
    hard_points,
    intrinsic_dimension,
    near_duplicate_radius,
    outlier_threshold,
    residual_threshold,
)


@pytest.mark.parametrize("dim", [1, 2, 5, 10])
def test_intrinsic_dimension_of_a_cube_is_its_dimension_and_half_of_it_in_squares(dim):
    X = np.random.default_rng(dim).random((4000, dim)) @ np.eye(dim, 12)
    found = intrinsic_dimension(neighbours(X, 2, "euclidean")[0])
    assert found == pytest.approx(dim, rel=0.15)
    assert intrinsic_dimension(neighbours(X, 2, "euclidean")[0] ** 2) == pytest.approx(found / 2)


def test_copies_do_not_move_the_intrinsic_dimension_much():
    X = np.random.default_rng(0).random((2000, 5))
    with_copies = np.vstack([X, X[:200] + 1e-6])
    alone, mixed = (intrinsic_dimension(neighbours(Z, 2, "euclidean")[0]) for Z in (X, with_copies))
    assert mixed == pytest.approx(alone, rel=0.4)


def test_ties_and_too_few_neighbours_leave_the_dimension_open():
    assert intrinsic_dimension([[1.0, 1.0], [1.0, 1.0]]) == np.inf
    assert intrinsic_dimension([[0.0, 1.0]]) == np.inf
    assert intrinsic_dimension([[1.0]]) == np.inf
    assert np.isinf(copy_radii([[1.0, 2.0], [1.0, 2.0]])).all()


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_about_one_ordinary_datapoint_lies_within_the_radius(dim):
    """The rule promises one of n for a Poisson process: mean over 60 uniform cubes, to 4 standard errors."""
    counts = []
    for seed in range(60):
        distances = neighbours(np.random.default_rng(seed).random((400, dim)), 2, "euclidean")[0]
        counts.append(np.count_nonzero(distances[:, 0] < near_duplicate_radius(distances, "euclidean")))
    assert np.mean(counts) < 1 + 4 * np.std(counts) / np.sqrt(60) + 0.5
    assert np.mean(counts) > 0.1


def test_radius_is_a_fixed_share_where_dimensions_are_many():
    distances = neighbours(np.random.default_rng(0).normal(size=(500, 40)), 3, "euclidean")[0]
    assert near_duplicate_radius(distances, "euclidean") == 0.36 * np.median(distances[:, 0])
    squares = neighbours(np.random.default_rng(0).normal(size=(500, 40)), 3, "cosine")[0]
    assert near_duplicate_radius(squares, "cosine") == 0.13 * np.median(squares[:, 0])


@pytest.mark.parametrize("dim", [5, 10, 20, 64])
@pytest.mark.parametrize("draw", ["normal", "random"])
def test_few_of_2000_ordinary_datapoints_are_outliers(dim, draw):
    X = getattr(np.random.default_rng(dim), draw)(size=(2000, dim))
    distance = mean_knn_distance(X, 10, "euclidean")
    assert np.count_nonzero(distance > outlier_threshold(distance)) <= 4


@pytest.mark.parametrize("dim", [5, 20])
def test_planted_outliers_pass_the_threshold(dim):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1000, dim))
    X[:10] += 8 * rng.choice([-1, 1], (10, dim))
    distance = mean_knn_distance(X, 10, "euclidean")
    assert (distance[:10] > outlier_threshold(distance)).all()


def test_noise_pictures_among_digits_are_outliers_and_digits_are_not():
    """Raw pixels, Euclidean: all 12 of 12, at most one digit of 1,797."""
    from sklearn.datasets import load_digits

    X = load_digits().data
    for seed in range(3):
        noise = np.random.default_rng(seed).integers(0, 17, (12, 64))
        distance = mean_knn_distance(np.vstack([X, noise]), 10, "euclidean")
        flagged = distance > outlier_threshold(distance)
        assert flagged[-12:].all()
        assert flagged[:-12].sum() <= 1


def test_outlier_threshold_scales_with_the_unit_and_needs_spread():
    distance = np.random.default_rng(0).gamma(9, size=500)
    assert outlier_threshold(7 * distance) == pytest.approx(7 * outlier_threshold(distance))
    assert outlier_threshold(np.ones(10)) == np.inf
    assert outlier_threshold(np.zeros(10)) == np.inf
    assert outlier_threshold(np.append(distance, np.zeros(100))) == outlier_threshold(distance)


def test_outlier_threshold_of_log_normal_distances_is_the_normal_quantile():
    distance = np.exp(2 + 0.5 * np.random.default_rng(0).normal(size=200_000))
    assert np.log(outlier_threshold(distance, z=3)) == pytest.approx(2 + 0.5 * 3, abs=0.02)


@pytest.mark.parametrize("n", [50, 2000, 100_000])
def test_residuals_of_normal_noise_rarely_pass_the_threshold(n):
    assert n * 2 * norm.sf(residual_threshold(n)) <= 0.5 + 1e-9
    assert residual_threshold(n) >= 3.5


def test_hard_points_are_the_top_share_of_the_unflagged():
    rng = np.random.default_rng(0)
    score, flagged = rng.random(1000), rng.random(1000) < 0.2
    hard = hard_points(score, flagged, share=0.05)
    free = np.sort(score[~flagged])
    assert hard.sum() == int(0.05 * len(free))
    assert not (hard & flagged).any()
    assert score[hard].min() >= free[-hard.sum()]


def test_nothing_is_hard_where_all_are_alike_or_all_flagged():
    assert not hard_points(np.ones(100), np.zeros(100, bool)).any()
    assert not hard_points(np.arange(5.0), np.ones(5, bool)).any()


def test_hard_points_refuse_a_wrong_share_or_shape():
    with pytest.raises(DatumwiseError, match="0 <= share <= 1"):
        hard_points([1.0], [False], share=2)
    with pytest.raises(SchemaMismatch, match="do not fit"):
        hard_points([1.0], [False, True])
