"""Largest sums under a budget: enumeration, a plain table and the published recurrence are the oracles."""

from __future__ import annotations

import math
from functools import reduce
from importlib import import_module
from itertools import combinations_with_replacement

import numpy as np
import pytest

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, UnknownName
from datumwise.predict.max_sum import max_fold, max_sum, maximise, min_sum
from datumwise.predict.rank_sum import rank_sum_quantile

module = import_module("datumwise.predict.max_sum")  # the room binds the function to this name


def cases(count: int):
    """Values with and without ties, rank functions with and without repeats, budgets from none to plenty."""
    rng = np.random.default_rng(0)
    for t in range(count):
        n, m = int(rng.integers(0, 7)), int(rng.integers(1, 6))
        values = np.sort(rng.normal(size=n + 1)) if t % 2 else np.sort(rng.integers(0, 5, n + 1)).astype(float)
        h0 = np.sort(rng.integers(0, 12, n + 1)) if t % 5 else np.arange(n + 1)
        if t % 3 == 0:
            h0 = h0 - h0[0]
        budget = int(rng.integers(m * h0[0], m * h0[-1] + 3))
        yield values, m, budget, h0


def choices(values, m, h0):
    picked = np.array(list(combinations_with_replacement(range(len(values)), m)))
    return values[picked], h0[picked].sum(axis=1)


def published_recurrence(s, m, q):
    """Maximum by the published table, with ranks from 1 as costs."""
    dp = np.full((m + 1, q + 1), -np.inf)
    dp[0, 0] = 0
    for i in range(m):
        for r in range(1, min(len(s), q) + 1):
            dp[i + 1, r:] = np.maximum(dp[i + 1, r:], dp[i, : q + 1 - r] + s[r - 1])
    return dp[m].max()


def test_largest_and_smallest_sums_equal_enumeration():
    for values, m, budget, h0 in cases(600):
        sums, costs = choices(values, m, h0)
        sums = sums.sum(axis=1)
        largest = sums[costs <= budget].max()
        assert max_sum(values, m, budget, h0) == pytest.approx(largest, abs=1e-12)
        assert max_sum(values, m, budget, h0, solver="auto") == pytest.approx(largest, abs=1e-12)
        least = min(budget, m * int(h0[-1]))
        smallest = sums[costs >= least].min()
        assert min_sum(values, m, least, h0) == pytest.approx(smallest, abs=1e-12)
        assert min_sum(values, m, least, h0, solver="envelope") <= smallest + 1e-12


@pytest.mark.parametrize("compose", [np.add, np.maximum, np.minimum, np.hypot, np.logaddexp])
def test_largest_composition_equals_enumeration(compose):
    for values, m, budget, h0 in cases(200):
        values = np.abs(values) if compose is np.hypot else values
        values = np.sort(values)
        picked, costs = choices(values, m, h0)
        folded = reduce(compose, picked.T)
        assert max_fold(values, m, budget, compose, h0) == pytest.approx(folded[costs <= budget].max(), abs=1e-12)


@pytest.mark.parametrize(("n", "m"), [(30, 7), (100, 5), (100, 20)])
def test_exact_sum_equals_the_published_recurrence(n, m):
    rng = np.random.default_rng(n + m)
    q = rank_sum_quantile(n, m, 0.1)
    for values in (rng.random(n + 1), rng.beta(1, 6, n + 1), rng.standard_cauchy(n + 1), rng.integers(0, 9, n + 1) * 1.0):
        values = np.sort(values)
        assert max_sum(values, m, q) == pytest.approx(published_recurrence(values, m, q + m), rel=1e-12)


def test_envelope_is_above_the_exact_sum_by_less_than_the_rise_of_its_edge():
    rng = np.random.default_rng(1)
    gaps = []
    for n, m in ((20, 3), (60, 10), (100, 20)):
        for limit in (1.0, 5.0):
            values = np.append(np.sort(rng.beta(1, 6, n)), limit)
            q = rank_sum_quantile(n, m, 0.1)
            exact, closed = max_sum(values, m, q), max_sum(values, m, q, solver="envelope")
            left, right = module._edge(np.arange(n + 1), values, q / m)
            assert exact - 1e-12 <= closed < exact + values[right] - values[left]
            gaps.append(closed - exact)
    assert max(gaps) > 0.01  # the two are not the same thing


def test_envelope_is_the_upper_concave_envelope():
    rng = np.random.default_rng(2)
    for _ in range(200):
        n = int(rng.integers(1, 30))
        cost = np.unique(rng.integers(0, 60, n + 1))
        values = np.sort(rng.normal(size=len(cost)))
        if len(cost) < 2:
            continue
        at = float(rng.uniform(cost[0], cost[-1]))
        # highest chord over ``at``, by going through all of them
        chords = [
            values[i] + (values[j] - values[i]) * (at - cost[i]) / (cost[j] - cost[i])
            for i in range(len(cost))
            for j in range(len(cost))
            if cost[i] <= at < cost[j]
        ]
        i, j = module._edge(cost, values, at)
        height = values[i] + (values[j] - values[i]) * (at - cost[i]) / (cost[j] - cost[i])
        assert height == pytest.approx(max(chords), abs=1e-12)


def test_envelope_is_exact_at_its_vertices():
    values = np.sqrt(np.arange(21.0))  # concave: every rank is a vertex
    for at in range(21):
        assert max_sum(values, 4, 4 * at) == pytest.approx(4 * values[at], rel=1e-12)
        assert maximise(values, 4, 4 * at, solver="envelope") == (pytest.approx(4 * values[at], rel=1e-12), True)


def test_more_budget_is_never_a_smaller_sum():
    values = np.sort(np.random.default_rng(3).normal(size=12))
    for solver in ("exact", "envelope"):
        sums = [max_sum(values, 5, q, solver=solver) for q in range(60)]
        assert (np.diff(sums) >= -1e-12).all()
        assert sums[0] == 5 * values[0]
        assert sums[-1] == 5 * values[-1]


def test_auto_falls_back_to_the_envelope_and_says_so(monkeypatch):
    values = np.sort(np.random.default_rng(4).beta(1, 6, 101))
    exact = maximise(values, 20, 1183, solver="auto")
    monkeypatch.setattr(module, "UPDATES", 1000)
    closed = maximise(values, 20, 1183, solver="auto")
    assert (exact[1], closed[1]) == (True, False)
    assert closed[0] == max_sum(values, 20, 1183, solver="envelope") > exact[0]


def test_sum_of_large_sizes_is_bounded_without_a_table():
    values = np.sort(np.random.default_rng(5).random(20_001))
    total, exact = maximise(values, 2000, 2000 * 10_500, solver="auto")
    assert not exact
    assert values[10_500] <= total / 2000 <= values[11_000]


@pytest.mark.parametrize("function", [max_sum, min_sum])
def test_bad_values_and_budgets_are_refused(function):
    with pytest.raises(NotFinite, match=r"1 of 3 values are not finite \(places 2\): leave out the ranks"):
        function([0.0, 1.0, math.inf], 2, 1)
    with pytest.raises(DatumwiseError, match=r"values decrease: sort them"):
        function([0.0, 2.0, 1.0], 2, 1)
    with pytest.raises(SchemaMismatch, match=r"one number a rank, not an array \(1, 2\)"):
        function([[0.0, 2.0]], 2, 1)
    with pytest.raises(DatumwiseError, match=r"m, the number of items, must be >= 1, not 0"):
        function([0.0, 2.0], 0, 1)
    with pytest.raises(DatumwiseError, match=r"h0 decreases after rank 1"):
        function([0.0, 2.0], 2, 1, [1, 0])
    with pytest.raises(UnknownName, match=r"no solver 'greedy': choose exact, envelope or auto"):
        function([0.0, 2.0], 2, 1, solver="greedy")


def test_budgets_that_no_choice_keeps_are_refused():
    with pytest.raises(DatumwiseError, match=r"no 2 items keep to the budget 5: the least is 6"):
        max_sum([0.0, 2.0], 2, 5, [3, 4])
    with pytest.raises(DatumwiseError, match=r"budget must be in 0\.\.8, not 9"):
        min_sum([0.0, 2.0], 2, 9, [3, 4])
