"""The map keeps what is near near, whatever the number of datapoints."""

import numpy as np
import pytest

from datumwise.report import layout as module
from datumwise.report.layout import layout


def _clusters(n, seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, n)
    return rng.normal(size=(4, 16))[labels] * 5 + rng.normal(size=(n, 16)), labels


def _nearest_has_my_label(xy, labels):
    distances = np.linalg.norm(xy[:, None] - xy, axis=2)
    np.fill_diagonal(distances, np.inf)
    return (labels[distances.argmin(1)] == labels).mean()


def test_neighbours_on_the_map_share_their_cluster():
    E, labels = _clusters(300)
    xy = layout(E)
    assert xy.shape == (300, 2)
    assert xy.dtype == np.float32
    assert xy.min() == 0
    assert xy.max() == 1
    assert _nearest_has_my_label(xy, labels) > 0.98


def test_datapoints_beyond_the_anchors_are_placed_among_their_own(monkeypatch):
    monkeypatch.setattr(module, "ANCHORS", 150)
    E, labels = _clusters(600)
    assert _nearest_has_my_label(layout(E), labels) > 0.98


def test_seed_repeats():
    E, _ = _clusters(60)
    np.testing.assert_array_equal(layout(E, seed=1), layout(E, seed=1))


@pytest.mark.parametrize("n", [1, 2, 4, 6])
def test_few_datapoints_are_placed_too(n):
    xy = layout(np.random.default_rng(0).normal(size=(n, 3)))
    assert xy.shape == (n, 2)
    assert np.isfinite(xy).all()
