"""Claims about what became of facts: seven classes that are a partition, recovery, and intervals over entities."""

import itertools
import math

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from datumwise.errors import SchemaMismatch
from datumwise.evaluate.transitions import CLASSES, EntityDraws, recovery_ratio, state_distance, transition_classes

RULES = {
    "restored": lambda c, k, u, w: c and not k and u,
    "still_corrupted": lambda c, k, u, w: c and not k and not u and w,
    "forgotten_only": lambda c, k, u, w: c and not k and not u and not w,
    "collateral": lambda c, k, u, w: k and not u,
    "gained": lambda c, k, u, w: not c and u,
    "kept": lambda c, k, u, w: c and k and u,
    "unknown": lambda c, k, u, w: not c and not k and not u,
}


def test_every_combination_is_in_exactly_one_class():
    cases = list(itertools.product([False, True], repeat=4))
    found = transition_classes(*np.array(cases).T)
    assert found.dtype == np.int8
    for case, index in zip(cases, found, strict=True):
        assert [name for name in CLASSES if RULES[name](*case)] == [CLASSES[index]]
    right = {CLASSES.index(name) for name in ("restored", "gained", "kept")}
    assert [i in right for i in found] == [u for _, _, u, _ in cases]


def test_states_of_different_length_are_refused():
    with pytest.raises(SchemaMismatch, match="the states have shapes"):
        transition_classes([True], [True], [True], [True, False])


def states(seed=0, n_entities=20, each=3):
    rng = np.random.default_rng(seed)
    entities = np.repeat(np.arange(n_entities), each)
    clean = rng.random(len(entities)) < 0.9
    corrupted = rng.random(len(entities)) < 0.2
    unlearned = np.where(rng.random(len(entities)) < 0.4, clean, corrupted)
    return entities, clean, corrupted, unlearned


def test_the_interval_is_that_of_a_bootstrap_written_out():
    entities, clean, corrupted, unlearned = states()
    draws = EntityDraws(entities, 300, 5)
    found = recovery_ratio(draws, clean, corrupted, unlearned)
    drawn = np.random.default_rng(5).integers(0, 20, (300, 20))
    ratios = []
    for one in drawn:
        rows = np.concatenate([np.flatnonzero(entities == e) for e in one])
        c, k, u = (x[rows].mean() for x in (clean, corrupted, unlearned))
        ratios.append((u - k) / (c - k))
    assert found.value == pytest.approx((unlearned.mean() - corrupted.mean()) / (clean.mean() - corrupted.mean()))
    np.testing.assert_allclose([found.low, found.high], np.percentile(ratios, [2.5, 97.5]))
    assert found.low < found.value < found.high


def test_one_fact_an_entity_is_the_plain_bootstrap():
    rng = np.random.default_rng(1)
    values = rng.random(30)
    interval = EntityDraws(np.arange(30), 400, 9).mean(values)
    plain = values[np.random.default_rng(9).integers(0, 30, (400, 30))].mean(axis=1)
    np.testing.assert_allclose([interval.low, interval.high], np.percentile(plain, [2.5, 97.5]))


def test_duplicated_facts_do_not_shrink_the_interval():
    entities, clean, corrupted, unlearned = states()
    once = recovery_ratio(EntityDraws(entities, 300, 0), clean, corrupted, unlearned)
    many = recovery_ratio(EntityDraws(np.tile(entities, 5), 300, 0), *(np.tile(x, 5) for x in (clean, corrupted, unlearned)))
    assert many.n == 5 * once.n
    np.testing.assert_allclose([many.value, many.low, many.high], [once.value, once.low, once.high])


def test_identities():
    entities, clean, corrupted, _ = states()
    draws = EntityDraws(entities, 200, 0)
    none = recovery_ratio(draws, clean, corrupted, corrupted)
    assert (none.value, none.low, none.high) == (0.0, 0.0, 0.0)
    full = recovery_ratio(draws, clean, corrupted, clean)
    assert (full.value, full.low, full.high) == (1.0, 1.0, 1.0)
    same = recovery_ratio(draws, clean, clean, corrupted)
    assert not same.defined
    assert math.isnan(same.value)
    assert "the same in the clean and the corrupted model" in str(same)


def test_recovery_is_undefined_where_clean_and_corrupted_lie_too_close():
    entities = np.repeat(np.arange(10), 2)
    clean = np.zeros(20)
    clean[:2] = 1
    found = recovery_ratio(EntityDraws(entities, 500, 0), clean, np.zeros(20), clean)
    assert "differs by 0.100, less than two standard errors" in found.reason
    worse = recovery_ratio(EntityDraws(entities, 500, 0), np.zeros(20), np.ones(20), clean)
    assert "higher in the corrupted model (1.000) than in the clean one (0.000)" in worse.reason
    single = recovery_ratio(EntityDraws([0, 0, 0], 100, 0), [1, 1, 1], [0, 0, 0], [1, 0, 0])
    assert "about one entity" in single.reason
    nothing = recovery_ratio(EntityDraws([0, 1], 100, 0), [np.nan] * 2, [0, 0], [0, 0], what="margin")
    assert nothing.reason == "no fact has margin in all three states"


def test_facts_without_a_value_are_left_out_of_all_three_states():
    entities, clean, corrupted, unlearned = states()
    holes = np.where(np.arange(60) % 7 == 0, np.nan, clean.astype(float))
    keep = np.isfinite(holes)
    found = recovery_ratio(EntityDraws(entities, 200, 0), holes, corrupted, unlearned)
    want = recovery_ratio(EntityDraws(entities[keep], 200, 0), clean[keep], corrupted[keep], unlearned[keep])
    assert found == want


def test_distance_is_the_jensen_shannon_divergence():
    rng = np.random.default_rng(2)
    for m in (1, 2, 7):
        one, other = rng.normal(size=(2, m)) * 5
        p, q = (np.exp(x) / np.exp(x).sum() for x in (one, other))
        assert state_distance(one, other) == pytest.approx(jensenshannon(p, q) ** 2, abs=1e-12)
        assert state_distance(one, one + 3.0) == pytest.approx(0, abs=1e-12)
        assert 0 <= state_distance(one, other) == state_distance(other, one) <= math.log(2)
    assert state_distance(np.array([0.0, -1e4]), np.array([-1e4, 0.0])) == math.log(2)
    assert math.isnan(state_distance(np.zeros(0), np.zeros(0)))
    with pytest.raises(SchemaMismatch, match="2 and 3 options cannot be compared"):
        state_distance(np.zeros(2), np.zeros(3))
