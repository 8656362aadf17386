"""Optimal transport against assignment, its duals against finite differences, and what LAVA makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment, linprog
from value_cases import three_blobs

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.score.lava import _to_itself, lava, squared_distances, transport

COST = np.random.default_rng(0).random((7, 7))


def weighted_cost(cost: np.ndarray, a: np.ndarray, b: np.ndarray) -> float:
    """Transport between any weights, row by row of the linear programme."""
    n, m = cost.shape
    rows, columns = np.zeros((n, n * m)), np.zeros((m, n * m))
    for i in range(n):
        rows[i, i * m : (i + 1) * m] = 1
    for j in range(m):
        columns[j, j::m] = 1
    return linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=np.concatenate([a, b]), method="highs").fun


def test_exact_transport_of_as_many_points_is_the_best_assignment():
    i, j = linear_sum_assignment(COST)
    found = transport(COST, solver="exact")
    assert found.cost == pytest.approx(COST[i, j].mean(), abs=1e-9)
    assert found.error < 1e-9


def test_duals_add_up_to_the_cost_and_never_exceed_a_price():
    cost = np.random.default_rng(1).random((6, 4))
    found = transport(cost, solver="exact")
    assert found.source.mean() + found.target.mean() == pytest.approx(found.cost, abs=1e-9)
    assert (found.source[:, None] + found.target - cost).max() < 1e-9
    assert abs(found.source.mean()) < 1e-12


def test_little_entropy_comes_near_the_exact_answer():
    cost = np.random.default_rng(2).random((31, 20))  # no common divisor: one answer only
    exact, near = transport(cost, solver="exact"), transport(cost, regularisation=0.01, max_iter=20_000)
    assert near.error < 1e-4
    assert exact.cost <= near.cost <= 1.05 * exact.cost
    assert np.corrcoef(near.source, exact.source)[0, 1] > 0.99


def test_duals_are_the_derivative_of_the_cost_by_a_points_weight():
    cost = np.random.default_rng(3).random((8, 5))
    duals = transport(cost, solver="exact").source
    a, b, eps = np.full(8, 1 / 8), np.full(5, 1 / 5), 1e-6
    for i in (0, 3, 7):
        direction = -np.full(8, 1 / 7)
        direction[i] = 1.0  # weight comes from all others alike: the calibrated gradient
        ahead, back = (weighted_cost(cost, a + s * eps * direction, b) for s in (1, -1))
        calibrated = duals[i] - (duals.sum() - duals[i]) / 7
        one_sided = (weighted_cost(cost, a, b) - back) / eps, (ahead - weighted_cost(cost, a, b)) / eps
        assert min(one_sided) - 1e-4 <= calibrated <= max(one_sided) + 1e-4


@pytest.mark.parametrize("solver", ["sinkhorn", "exact"])
def test_values_are_minus_the_calibrated_gradient(solver):
    X, y, _ = three_blobs(24)
    X_val, y_val, _ = three_blobs(15, 1)
    found = lava(X, y, X_val, y_val, label_weight=0, solver=solver)
    duals = transport(squared_distances(X, X_val), solver=solver).source
    np.testing.assert_allclose(found.values, -(duals * (1 + 1 / 23) - duals.sum() / 23), atol=1e-10)
    assert found.values.sum() == pytest.approx(0, abs=1e-9)
    assert found.utility_calls == 0


def test_rows_far_from_all_validation_rows_are_worth_least():
    X, y, _ = three_blobs(60)
    X_val, y_val, _ = three_blobs(60, 1)
    X[:5] += 10
    found = lava(X, y, X_val, y_val)
    assert set(np.argsort(found.values)[:5]) == {0, 1, 2, 3, 4}


def test_with_labels_wrong_ones_are_worth_least():
    X, y, wrong = three_blobs(90, noisy=9)
    X_val, y_val, _ = three_blobs(90, 1)
    with_labels = lava(X, y, X_val, y_val).values
    without = lava(X, y, X_val, y_val, label_weight=0).values
    assert wrong[np.argsort(with_labels)[:9]].mean() > 0.7
    assert wrong[np.argsort(without)[:9]].mean() < 0.5


def test_moving_a_set_onto_itself_costs_what_the_general_solver_says():
    X = np.random.default_rng(0).normal(size=(25, 2))
    cost = squared_distances(X, X)
    general = transport(cost, regularisation=0.1, tolerance=1e-9, max_iter=50_000).cost
    assert _to_itself(cost, 0.1) == pytest.approx(general, rel=1e-4)


def test_squared_distances_are_those_of_the_differences():
    X, Z = np.random.default_rng(0).normal(size=(2, 6, 3)) + 1e6
    np.testing.assert_allclose(squared_distances(X, Z), ((X[:, None] - Z) ** 2).sum(axis=2), rtol=1e-6)


def test_bad_options_are_refused():
    with pytest.raises(UnknownName, match="no solver 'auction'"):
        transport(COST, solver="auction")
    with pytest.raises(DatumwiseError, match="regularisation = 0 divides by 0"):
        transport(COST, regularisation=0)
    with pytest.raises(DatumwiseError, match="too many for a linear programme: solver='sinkhorn'"):
        transport(np.zeros((1001, 1000)), solver="exact")
