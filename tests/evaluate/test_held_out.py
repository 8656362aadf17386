"""Held-out sets keep class shares and never share a near copy with the training side."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datumwise.errors import LabelError
from datumwise.evaluate import held_out_split


@settings(max_examples=60, deadline=None)
@given(n=st.integers(20, 300), classes=st.integers(1, 6), copies=st.integers(1, 40), seed=st.integers(0, 9))
def test_no_group_is_on_both_sides(n, classes, copies, seed):
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, max(n // copies, 2), n)
    labels = rng.integers(0, classes, n)
    held = held_out_split(labels, groups, size=0.3, seed=seed)
    assert not set(groups[held]) & set(groups[~held])
    assert (~held).any()


def test_classes_keep_their_shares():
    labels = np.repeat([0, 1, 2], [600, 300, 100])
    held = held_out_split(labels, size=0.2)
    assert [int(held[labels == k].sum()) for k in range(3)] == [120, 60, 20]


def test_a_number_is_a_number_and_a_float_target_is_cut_at_its_deciles():
    target = np.random.default_rng(0).normal(size=1000)
    held = held_out_split(target, size=200)
    assert held.sum() == pytest.approx(200, abs=10)
    low, high = np.quantile(target, [0.1, 0.9])
    assert 12 <= held[target < low].sum() <= 28
    assert 12 <= held[target > high].sum() <= 28


def test_seed_repeats_and_matters():
    labels = np.repeat([0, 1], 50)
    first, again, other = (held_out_split(labels, seed=s) for s in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("size", [0, 1000, 10])
def test_holding_out_nothing_or_everything_is_refused(size):
    with pytest.raises(LabelError, match="cannot be held out"):
        held_out_split(np.arange(10) % 2, size=size)
