"""Memorisation and influence from runs on subsets, against the definition run by run."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier
from value_cases import three_blobs

from datumwise.errors import DatumwiseError, SchemaMismatch
from datumwise.score.subset_influence import SubsetInfluence, subset_influence

RNG = np.random.default_rng(0)
MASKS = RNG.random((200, 6)) < 0.6
OWN = RNG.random((200, 6)) < 0.5 + 0.3 * MASKS
TEST = RNG.random((200, 4)) < 0.5


def test_sums_in_blocks_give_the_means_by_run():
    runs = SubsetInfluence(6, 4)
    for block in np.split(np.arange(200), [1, 50, 120]):
        runs.add(MASKS[block], OWN[block], TEST[block])
    mem, (influence, error) = runs.memorisation(), runs.influence()
    for i in range(6):
        inside, out = OWN[MASKS[:, i], i], OWN[~MASKS[:, i], i]
        assert mem.values[i] == pytest.approx(inside.mean() - out.mean(), abs=1e-12)
        expected = np.sqrt(inside.var(ddof=1) / len(inside) + out.var(ddof=1) / len(out))
        assert mem.stderr[i] == pytest.approx(expected, abs=1e-12)
        for j in range(4):
            a, b = TEST[MASKS[:, i], j], TEST[~MASKS[:, i], j]
            assert influence[j, i] == pytest.approx(a.mean() - b.mean(), abs=1e-12)
            assert error[j, i] == pytest.approx(np.sqrt(a.var(ddof=1) / len(a) + b.var(ddof=1) / len(b)), abs=1e-12)
    assert mem.utility_calls == runs.runs == 200


def test_probabilities_do_as_outcomes():
    runs = SubsetInfluence(6)
    runs.add(MASKS, OWN * 0.5)
    whole = SubsetInfluence(6)
    whole.add(MASKS, OWN)
    np.testing.assert_allclose(runs.memorisation().values, whole.memorisation().values / 2)


def test_a_datapoint_that_was_always_in_has_no_value():
    runs = SubsetInfluence(2)
    runs.add(np.array([[1, 0], [1, 1]]), np.array([[1, 0], [1, 1]]))
    mem = runs.memorisation()
    assert np.isnan(mem.values[0])
    assert mem.values[1] == 1
    assert np.isinf(mem.stderr[1])  # one run each


def test_one_nearest_neighbour_memorises_exactly_the_wrong_labels():
    X, y, wrong = three_blobs(45, noisy=4, spread=0.4)
    mem = subset_influence(X, y, model=KNeighborsClassifier(1), n_runs=80, random_state=0).memorisation()
    assert (mem.values[wrong] > 0.9).all()
    assert np.median(mem.values[~wrong]) < 0.1


def test_influence_is_of_those_nearby_on_a_test():
    X, y, _ = three_blobs(30, spread=0.3)
    X, y = np.vstack([X, [[9.0, 9.0, 9.0]]]), np.append(y, 2)  # alone in its corner, and a test beside it
    runs = subset_influence(X, y, [[9.1, 9.0, 9.0], X[0]], [2, y[0]], KNeighborsClassifier(1), n_runs=100, random_state=0)
    influence, _ = runs.influence()
    assert influence.shape == (2, 31)
    assert influence[0].argmax() == 30
    assert influence[0, 30] > 0.3
    assert np.abs(influence[1]).max() < 0.2


def test_subsets_have_the_share_asked_for_and_the_fast_learner_works():
    X, y, _ = three_blobs(60, noisy=5)
    runs = subset_influence(X, y, n_runs=300, random_state=0)
    assert runs.runs == 300
    assert runs._inside.sum() == 300 * 42
    assert np.abs(runs.memorisation().values).max() < 0.5  # four weights a class memorise nothing


def test_bad_input_is_refused():
    with pytest.raises(SchemaMismatch, match="do not fit 6 training datapoints"):
        SubsetInfluence(6).add(MASKS, OWN[:, :3])
    X, y, _ = three_blobs(9)
    with pytest.raises(DatumwiseError, match="share = 1"):
        subset_influence(X, y, share=1)
    with pytest.raises(DatumwiseError, match="a share, not right or wrong"):
        subset_influence(X, y, model="knn")
