"""The outlier score equals cleanlab's and finds what was planted."""

from __future__ import annotations

import numpy as np
import pytest
from cleanlab.outlier import OutOfDistribution

from datumwise.errors import DatumwiseError, NotFinite
from datumwise.score import ood_knn, outlier_knn
from datumwise.score.outlier_knn import mean_knn_distance


@pytest.mark.parametrize("dim", [2, 3, 4, 20])
@pytest.mark.parametrize("copies", [0, 3, 15])
def test_typicality_equals_cleanlab(dim, copies):
    """Cosine above three dimensions, else Euclidean; also with groups of copies smaller and larger than k."""
    rng = np.random.default_rng(dim)
    X = rng.normal(size=(300, dim))
    X[:copies] = X[0]
    peer = OutOfDistribution().fit_score(features=X, verbose=False)
    np.testing.assert_allclose(ood_knn(X), peer, atol=1e-7)


def test_score_is_the_mean_distance_over_its_median():
    X = np.random.default_rng(0).normal(size=(80, 6))
    distance = mean_knn_distance(X, 4, "euclidean")
    full = np.sqrt(((X[:, None] - X) ** 2).sum(axis=2)) + np.where(np.eye(80, dtype=bool), np.inf, 0)
    np.testing.assert_allclose(distance, np.sort(full, axis=1)[:, :4].mean(axis=1))
    score = outlier_knn(X, k=4, metric="euclidean")
    np.testing.assert_allclose(score, distance / np.median(distance))
    np.testing.assert_allclose(ood_knn(X, 4, "euclidean"), np.exp(-score))


def test_scale_and_rotation_change_nothing():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(100, 5))
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    np.testing.assert_allclose(outlier_knn(1e4 * X @ turn, metric="euclidean"), outlier_knn(X, metric="euclidean"))


def test_planted_outliers_score_highest():
    X = np.random.default_rng(0).normal(size=(500, 10))
    X[:5] *= 6
    assert set(np.argsort(-outlier_knn(X, metric="euclidean"))[:5]) == set(range(5))


def test_all_rows_equal_are_all_typical():
    assert (ood_knn(np.ones((20, 4))) == 1).all()


def test_too_few_rows_for_k_and_nan_are_refused():
    with pytest.raises(DatumwiseError, match="k = 10 neighbours were asked of 4 other rows"):
        outlier_knn(np.eye(5))
    with pytest.raises(NotFinite, match="row 2"):
        outlier_knn([[0.0], [1.0], [np.nan]], k=1)
