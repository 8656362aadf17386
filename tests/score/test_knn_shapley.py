"""kNN-Shapley against the definition of the Shapley value, enumerated."""

from __future__ import annotations

from itertools import combinations
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datumwise.errors import DatumwiseError, LabelError, NotFinite, SchemaMismatch
from datumwise.score import knn_shapley
from datumwise.score.knn_shapley import knn_shapley_crossed


def utility(rows, X, y, X_val, y_val, k):
    """v(S): mean share of right votes, of k, among the nearest min(k, |S|) rows; ties to the lowest index."""
    rows = sorted(rows)
    if not rows:
        return 0.0
    total = 0.0
    for q, label in zip(X_val, y_val, strict=True):
        distance = [((X[r] - q) ** 2).sum() for r in rows]
        nearest = np.lexsort((rows, distance))[:k]
        total += sum(y[rows[i]] == label for i in nearest) / k
    return total / len(X_val)


def enumerated(X, y, X_val, y_val, k):
    """Shapley value from all subsets, eq. 1 of the paper."""
    n = len(X)
    worth = {s: utility(s, X, y, X_val, y_val, k) for size in range(n + 1) for s in combinations(range(n), size)}
    value = np.zeros(n)
    for s, v in worth.items():
        for i in set(range(n)) - set(s):
            value[i] += (worth[tuple(sorted((*s, i)))] - v) / (n * comb(n - 1, len(s)))
    return value


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 7),
    m=st.integers(1, 3),
    k=st.integers(1, 9),
    grid=st.booleans(),
)
def test_knn_shapley_equals_enumeration_of_all_subsets(seed, n, m, k, grid):
    """On a grid most distances are tied, so the rule for ties is tested too."""
    rng = np.random.default_rng(seed)
    X, X_val = (rng.integers(0, 2, (r, 2)).astype(float) if grid else rng.normal(size=(r, 2)) for r in (n, m))
    y, y_val = rng.integers(0, 3, n), rng.integers(0, 3, m)
    np.testing.assert_allclose(knn_shapley(X, y, X_val, y_val, k), enumerated(X, y, X_val, y_val, k), rtol=0, atol=1e-12)


def test_ten_rows_equal_enumeration():
    rng = np.random.default_rng(0)
    X, X_val = rng.normal(size=(10, 3)), rng.normal(size=(2, 3))
    y, y_val = rng.integers(0, 2, 10), rng.integers(0, 2, 2)
    np.testing.assert_allclose(knn_shapley(X, y, X_val, y_val, 3), enumerated(X, y, X_val, y_val, 3), rtol=0, atol=1e-12)


def example(n=400, m=60, d=5, seed=1):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), rng.integers(0, 3, n), rng.normal(size=(m, d)), rng.integers(0, 3, m)


@pytest.mark.parametrize("k", [1, 5, 399, 1000])
def test_values_sum_to_the_accuracy_of_all_rows(k):
    X, y, X_val, y_val = example()
    total = utility(range(400), X, y, X_val, y_val, k)
    np.testing.assert_allclose(knn_shapley(X, y, X_val, y_val, k).sum(), total, atol=1e-12)


def test_validation_rows_add_up():
    """Linearity, and no leak from one validation row into the next."""
    X, y, X_val, y_val = example()
    one_by_one = [knn_shapley(X, y, X_val[[j]], y_val[[j]]) for j in range(60)]
    np.testing.assert_allclose(knn_shapley(X, y, X_val, y_val), np.mean(one_by_one, axis=0), atol=1e-14)


def test_two_copies_of_one_row_are_worth_the_same_from_far_away():
    """Symmetry holds between copies where the votes do not depend on which of them is in."""
    X, y, X_val, y_val = example(n=50)
    X[1], y[1] = X[0], y[0]
    X[2:, 0] += 100  # the copies are the two nearest to every validation row
    value = knn_shapley(X, y, X_val, y_val, k=2)
    np.testing.assert_allclose(value[0], value[1], atol=1e-14)


def test_a_row_of_a_class_that_is_never_asked_for_is_worth_nothing_when_none_are_right():
    X, y, X_val, _ = example()
    assert (knn_shapley(X, y, X_val, np.full(60, 7)) == 0).all()


def test_dummy_farthest_of_a_one_class_game_is_worth_its_share():
    """All labels right: by symmetry of the vote count every row of n <= k is worth 1/k."""
    X, _, X_val, _ = example(n=4)
    value = knn_shapley(X, np.zeros(4, int), X_val, np.zeros(60, int), k=5)
    np.testing.assert_allclose(value, 1 / 5, atol=1e-14)


def test_order_of_rows_and_classes_only_permutes_the_values():
    X, y, X_val, y_val = example()
    order = np.random.default_rng(0).permutation(400)
    value = knn_shapley(X, y, X_val, y_val)
    np.testing.assert_allclose(knn_shapley(X[order], y[order], X_val, y_val), value[order], atol=1e-15)
    to = np.array([2, 0, 1])
    np.testing.assert_array_equal(knn_shapley(X, to[y], X_val, to[y_val]), value)


def test_exact_copies_are_taken_in_order_of_index_wherever_they_lie():
    """Rounding in the matrix product differs from column to column; the order of copies must not."""
    rng = np.random.default_rng(4)
    base = rng.normal(size=(40, 33)) * 1e3
    of = rng.permutation(np.repeat(np.arange(40), 10))
    X, y = base[of], rng.integers(0, 2, 400)
    X_val, y_val = rng.normal(size=(9, 33)) * 1e3, rng.integers(0, 2, 9)
    expected = np.zeros(400)
    for q, label in zip(X_val, y_val, strict=True):
        order = np.lexsort((np.arange(400), ((base - q) ** 2).sum(axis=1)[of]))
        right = y[order] == label
        s = np.zeros(401)
        for i in range(400, 0, -1):
            later = right[i] if i < 400 else 0
            s[i - 1] = s[i] + (float(right[i - 1]) - later) * min(3, i) / (i * 3)
        expected[order] += s[:400] / 9
    np.testing.assert_allclose(knn_shapley(X, y, X_val, y_val, 3), expected, atol=1e-14)


def test_flipped_labels_have_the_lowest_values():
    from sklearn.datasets import load_digits
    from sklearn.metrics import roc_auc_score

    X, true = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    flipped = rng.random(len(true)) < 0.1
    labels = np.where(flipped, (true + rng.integers(1, 10, len(true))) % 10, true)
    assert roc_auc_score(flipped, -knn_shapley_crossed(X, labels)) > 0.95
    assert roc_auc_score(flipped[500:], -knn_shapley(X[500:], labels[500:], X[:500], true[:500])) > 0.95


def test_crossed_value_is_the_mean_over_the_folds_a_row_trains():
    X, y, _, _ = example(n=30)
    value = knn_shapley_crossed(X, y, folds=30, k=2, seed=3)
    by_hand = np.zeros(30)
    for j in range(30):
        rest = np.arange(30) != j
        by_hand[rest] += knn_shapley(X[rest], y[rest], X[[j]], y[[j]], 2) / 29
    np.testing.assert_allclose(value, by_hand, atol=1e-15)
    np.testing.assert_array_equal(knn_shapley_crossed(X, y, seed=1), knn_shapley_crossed(X, y, seed=1))


def test_given_validation_rows_are_used():
    X, y, X_val, y_val = example(n=30)
    np.testing.assert_array_equal(knn_shapley_crossed(X, y, X_val=X_val, y_val=y_val), knn_shapley(X, y, X_val, y_val))


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        (([[1.0], [np.nan]], [0, 1], [[1.0]], [0]), NotFinite, "X has NaN or infinity in row 1"),
        (([[1.0]], [0, 1], [[1.0]], [0]), SchemaMismatch, "1 rows and 2 labels"),
        (([[1.0]], [0], [[1.0, 2.0]], [0]), SchemaMismatch, "1 columns and X_val 2"),
        (([[1.0]], [-1], [[1.0]], [0]), LabelError, "below 0"),
        (([[1.0]], [0], [[1.0]], [0], 0), DatumwiseError, "k >= 1"),
        (([[1.0]], [0], np.empty((0, 1)), []), DatumwiseError, "X_val is empty"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(arguments, error, says):
    with pytest.raises(error, match=says):
        knn_shapley(*arguments)


def test_crossed_refuses_one_class_and_too_many_folds():
    with pytest.raises(LabelError, match="two classes"):
        knn_shapley_crossed(np.eye(4), [1, 1, 1, 1])
    with pytest.raises(DatumwiseError, match="2 <= folds"):
        knn_shapley_crossed(np.eye(4), [1, 0, 1, 1])
