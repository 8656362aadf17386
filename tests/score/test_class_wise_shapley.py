"""Class-wise Shapley values against enumeration of the definition."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from value_cases import three_blobs

from datumwise.errors import DatumwiseError, LabelError
from datumwise.score.class_wise_shapley import class_wise_shapley, in_and_out
from datumwise.score.utility import utility

X, Y, _ = three_blobs(9, 0, spread=2.5)
X_VAL, Y_VAL, _ = three_blobs(45, 1, spread=2.5)


def by_enumeration() -> np.ndarray:
    """Mean over all sets E of the other classes of the Shapley values among a class, given E."""
    values = np.zeros(9)
    for c in range(3):
        members, others = np.flatnonzero(c == Y), np.flatnonzero(c != Y)
        game = utility(X, Y, X_VAL, Y_VAL, aggregate=in_and_out(c == Y_VAL), empty=0.0)
        for picked in itertools.product([False, True], repeat=len(others)):
            for order in itertools.permutations(members):
                mask = np.zeros(9, bool)
                mask[others] = picked
                last = game(mask)[0]
                for row in order:
                    mask[row] = True
                    new = game(mask)[0]
                    values[row] += (new - last) / (2 ** len(others) * math.factorial(len(members)))
                    last = new
    return values


def test_it_lies_within_four_standard_errors_of_enumeration():
    found = class_wise_shapley(X, Y, X_VAL, Y_VAL, n_permutations=3000, tolerance=0, normalize=False, random_state=0)
    assert (np.abs(found.values - by_enumeration()) < 4 * found.stderr).all()
    assert found.stderr.max() < 0.01


def test_the_utility_is_in_class_times_exp_of_out_of_class():
    right = np.array([[True, False, True, True]])
    own = np.array([True, True, False, False])
    assert in_and_out(own)(right)[0] == pytest.approx(0.25 * math.exp(0.5))


def test_normalised_values_of_a_class_sum_to_its_accuracy():
    found = class_wise_shapley(X, Y, X_VAL, Y_VAL, n_permutations=200, random_state=0)
    right = utility(X, Y, X_VAL, Y_VAL).right(np.ones((1, 9), bool))[0]
    for c in range(3):
        assert found.values[c == Y].sum() == pytest.approx((right & (c == Y_VAL)).mean(), abs=1e-12)


def test_a_classifier_does_as_well():
    found = class_wise_shapley(X, Y, X_VAL, Y_VAL, LogisticRegression(), n_permutations=2, random_state=0)
    assert np.isfinite(found.values).all()
    assert found.utility_calls > 0


def test_wrong_labels_are_worth_least():
    X, y, wrong = three_blobs(60, 0, noisy=8)
    X_val, y_val, _ = three_blobs(200, 1)
    found = class_wise_shapley(X, y, X_val, y_val, n_permutations=100, random_state=0)
    assert wrong[np.argsort(found.values)[:8]].mean() >= 0.75


def test_progress_ends_with_all_classes():
    seen = []
    class_wise_shapley(X, Y, X_VAL, Y_VAL, n_permutations=3, random_state=0, progress=lambda *at: seen.append(at))
    assert seen[-1] == (9, 9)


def test_bad_input_is_refused():
    with pytest.raises(LabelError, match="no validation row is of class 2"):
        class_wise_shapley(X, Y, X_VAL[Y_VAL < 2], Y_VAL[Y_VAL < 2])
    with pytest.raises(LabelError, match="all 9 labels are 0"):
        class_wise_shapley(X, Y * 0, X_VAL, Y_VAL)
    with pytest.raises(DatumwiseError, match="1 permutation"):
        class_wise_shapley(X, Y, X_VAL, Y_VAL, n_permutations=1)
