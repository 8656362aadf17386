"""Sensitivity sampling: the published probabilities, and weights that make sums unbiased."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import DatumwiseError
from datumwise.select.sensitivity_sampling import SensitivitySampling, sensitivities


def test_probabilities_are_the_formula():
    labels, distances = np.array([0, 0, 1, 1, 1]), np.array([0.5, 1.0, 0.2, 2.0, 0.1])
    losses = np.array([3.0, 99.0, 98.0, 97.0, 1.0])  # read at rows 0 and 4, the nearest to the centres
    wanted = np.array([3 + 2 * 0.25, 3 + 2 * 1.0, 1 + 2 * 0.04, 1 + 2 * 4.0, 1 + 2 * 0.01])
    np.testing.assert_allclose(sensitivities(labels, distances, losses, 2.0), wanted / wanted.sum())
    plain = distances**2 + (distances**2).mean()
    np.testing.assert_allclose(sensitivities(labels, distances, None), plain / plain.sum())


def test_weighted_sums_are_unbiased():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2)) * rng.gamma(1, 3, size=(200, 1))
    f = 1 + (X**2).sum(axis=1)
    one = SensitivitySampling(30, n_clusters=5, random_state=rng)
    estimates = [one.fit(X, scores=f).weights_ @ f[one.ranking_] for _ in range(400)]
    assert abs(np.mean(estimates) - f.sum()) < 4 * np.std(estimates) / np.sqrt(400)
    uniform = [200 / 30 * f[rng.choice(200, 30)].sum() for _ in range(400)]
    assert np.std(estimates) < np.std(uniform) / 2


def test_what_is_drawn_twice_comes_once_with_both_weights():
    X = np.append(np.zeros(99), 1e6)[:, None]
    found = SensitivitySampling(50, n_clusters=1, random_state=0).fit(X)
    assert len(set(found.ranking_)) == len(found.ranking_) < 50
    assert (found.weights_ * found.probabilities_[found.ranking_] * 50).sum() == pytest.approx(50)


def test_copies_only_are_drawn_uniformly():
    found = SensitivitySampling(3, n_clusters=1, random_state=0).fit(np.ones((8, 2)))
    assert found.probabilities_.tolist() == [1 / 8] * 8


def test_what_cannot_be_is_refused():
    X = np.arange(6.0)[:, None]
    with pytest.raises(DatumwiseError, match="lam is 0: lam > 0"):
        SensitivitySampling(2, lam=0).fit(X)
    with pytest.raises(DatumwiseError, match=r"the loss is negative in row \d, nearest to a centre: give losses of 0"):
        SensitivitySampling(2, n_clusters=1).fit(X, scores=-np.ones(6))
