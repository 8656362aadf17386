"""The variance of a row in the principal components, computed the long way."""

from __future__ import annotations

import numpy as np

from datumwise.score.pca_row_variance import pca_row_variance


def test_equals_the_variance_of_the_projection_by_singular_vectors():
    X = np.random.default_rng(0).normal(size=(30, 8)) * np.arange(1, 9)
    centred = X - X.mean(0)
    _, _, V = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(pca_row_variance(X, n_components=3), ((centred @ V[:3].T) ** 2).mean(axis=1), rtol=1e-8)


def test_rotation_and_the_signs_of_the_components_change_nothing():
    rng = np.random.default_rng(1)
    X, Q = rng.normal(size=(20, 5)) * np.arange(1, 6), np.linalg.qr(rng.normal(size=(5, 5)))[0]
    np.testing.assert_allclose(pca_row_variance(X @ Q), pca_row_variance(X), rtol=1e-8)
