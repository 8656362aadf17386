"""GIO: its estimate against the formula, and what choosing does to it."""

from __future__ import annotations

import numpy as np
import pytest

from datumwise.errors import DatumwiseError
from datumwise.select import gio as module
from datumwise.select.gio import GIO, knn_divergence


def slow_divergence(target: np.ndarray, chosen: np.ndarray, k: int) -> float:
    n, d = target.shape
    j = min(k, len(chosen))
    total = 0.0
    for i, x in enumerate(target):
        rho = np.sort(np.linalg.norm(np.delete(target, i, axis=0) - x, axis=1))[k - 1]
        nu = np.sort(np.linalg.norm(chosen - x, axis=1))[j - 1]
        total += d / n * np.log(nu / rho)
    return total + np.log(k * len(chosen) / (j * (n - 1)))


def published_divergence(target: np.ndarray, chosen: np.ndarray, k: int = 5) -> float:
    """The authors' code: the mean of the estimate over every rank j of the chosen, 1 to m."""
    ranks = range(1, len(chosen) + 1)
    n, d = target.shape
    rho = np.sort(np.linalg.norm(target[:, None] - target, axis=2), axis=1)[:, k]
    nu = np.linalg.norm(target[:, None] - chosen, axis=2)
    constant = np.mean([np.log(k * len(chosen) / (j * (n - 1))) for j in ranks])
    return float(d * (np.log(nu).mean() - np.log(rho).mean()) + constant)


@pytest.mark.parametrize(("m", "k"), [(1, 1), (3, 5), (40, 5), (40, 2)])
def test_the_estimate_equals_its_formula(m: int, k: int) -> None:
    rng = np.random.default_rng(m)
    target, chosen = rng.normal(size=(30, 3)), rng.normal(0.5, 1, (m, 3))
    assert abs(knn_divergence(target, chosen, k) - slow_divergence(target, chosen, k)) < 1e-9


def test_divergence_after_each_pick_equals_the_formula_on_start_and_chosen() -> None:
    rng = np.random.default_rng(1)
    X, target = rng.normal(0, 2, (60, 2)), rng.normal(1, 1, (40, 2))
    for n_start in (2, 20):
        chosen = GIO(20, n_start=n_start, random_state=7).fit(X, target=target)
        start = np.random.default_rng(7).uniform(X.min(axis=0), X.max(axis=0), (n_start, 2))
        for size in (0, 1, 3, 6, 20):
            held = np.vstack([start, X[chosen.ranking_[:size]]])
            assert abs(chosen.divergence_[size] - slow_divergence(target, held, 5)) < 1e-9
        np.testing.assert_allclose(chosen.gains_, -np.diff(chosen.divergence_), atol=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_choosing_reduces_the_estimate_below_any_of_fifty_random_draws(seed: int) -> None:
    rng = np.random.default_rng(seed)
    X = np.vstack([rng.normal(0, 3, (300, 2)), rng.normal((4, -4), 1, (100, 2))])
    target = rng.normal((4, -4), 1, (80, 2))
    chosen = GIO(60).fit(X, target=target)
    draws = [knn_divergence(target, X[rng.choice(400, 60, replace=False)]) for _ in range(50)]
    assert knn_divergence(target, X[chosen.ranking_]) < min(draws)
    assert chosen.divergence_[-1] < 0.2 * chosen.divergence_[0]
    assert (chosen.ranking_ >= 300).mean() > 0.75


@pytest.mark.parametrize("d", [2, 16])
def test_the_descent_ends_where_no_small_step_covers_the_target_better(d: int) -> None:
    rng = np.random.default_rng(d)
    target = rng.normal(size=(60, d))
    state = module._Chosen(target, module._own_distances(target, 3), 3)
    for point in rng.normal(0, 2, (12, d)):
        state.add(point)
    worst = target[int((np.log(state.near[:, -1]) - state.log_own).argmax())]
    end = state.descend()
    assert state.coverage(end) < state.coverage(worst) - 0.1
    steps = 1e-3 * rng.normal(size=(200, d))
    assert min(state.coverage(end + step) for step in steps) > state.coverage(end) - 0.05


def test_it_covers_both_modes_of_the_target() -> None:
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(c, 1, (50, 2)) for c in ((0, 0), (12, 0), (0, 12))])
    target = np.vstack([rng.normal(c, 1, (30, 2)) for c in ((12, 0), (0, 12))])
    chosen = GIO(30).fit(X, target=target).ranking_
    assert (chosen >= 50).mean() > 0.9
    assert 8 <= (chosen >= 100).sum() <= 22


def test_a_sample_of_the_target_is_nearer_to_it_than_copies_of_its_centre() -> None:
    # the authors' estimate is, but for a constant, the mean log distance: it prefers the centre fifty times over
    rng = np.random.default_rng(0)
    target, sample = rng.normal(size=(100, 2)), rng.normal(size=(50, 2))
    centre = 1e-3 * rng.normal(size=(50, 2))
    assert published_divergence(target, centre) < published_divergence(target, sample)
    assert knn_divergence(target, sample) < knn_divergence(target, centre)


def test_the_published_stop_ends_where_the_estimate_would_rise() -> None:
    rng = np.random.default_rng(3)
    X, target = rng.normal(0, 4, (200, 2)), rng.normal(0, 0.5, (40, 2))
    short, long = (GIO(150, stop=stop).fit(X, target=target) for stop in (True, False))
    size = len(short.ranking_)
    assert 5 < size < 150
    assert np.array_equal(short.ranking_, long.ranking_[:size])
    assert (np.diff(short.divergence_) <= 0).all()
    assert long.divergence_[size + 1] > long.divergence_[size]


def test_large_sets_are_chosen_cluster_by_cluster() -> None:
    rng = np.random.default_rng(0)
    X = np.vstack([rng.normal(0, 1, (100, 2)), rng.normal(9, 1, (100, 2))])
    chosen = GIO(50, n_clusters=12).fit(X, target=rng.normal(9, 1, (300, 2)))
    assert len(np.unique(chosen.ranking_)) == 50
    assert (chosen.ranking_ >= 100).all()
    assert np.count_nonzero(chosen.gains_) == len(chosen.divergence_) - 1


def test_bad_inputs_are_refused() -> None:
    X = np.eye(3)
    with pytest.raises(DatumwiseError, match="target has 2 columns and X has 3"):
        GIO(1).fit(X, target=np.eye(2))
    with pytest.raises(DatumwiseError, match="the target is one datapoint"):
        GIO(1).fit(X, target=np.eye(3)[:1])
    with pytest.raises(DatumwiseError, match="k_neighbors is 0"):
        GIO(1, k_neighbors=0).fit(X, target=X)
    for name in ("n_clusters", "n_start"):
        with pytest.raises(DatumwiseError, match=f"{name} is 0"):
            GIO(1, **{name: 0}).fit(X, target=X)
    with pytest.raises(DatumwiseError, match="4 datapoints were asked of 3"):
        GIO(4).fit(X, target=X)
