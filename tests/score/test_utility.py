"""Utilities of subsets against fits one by one."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.tree import DecisionTreeRegressor
from value_cases import random_game, three_blobs

from datumwise.errors import DatumwiseError, EmptyData, LabelError, NotFinite, SchemaMismatch, UnknownName
from datumwise.score.utility import GameUtility, Utility, utility

X, Y, _ = three_blobs(24, 0, spread=2.0)
X_VAL, Y_VAL, _ = three_blobs(40, 1, spread=2.0)
TARGET, TARGET_VAL = X @ [1.0, -2.0, 0.5], X_VAL @ [1.0, -2.0, 0.5]
MASKS = np.random.default_rng(2).random((12, 24)) < 0.4


def stepwise(game: Utility, orders: np.ndarray, base: np.ndarray, tolerance: float = 0.0) -> np.ndarray:
    """The walk of the base class: set by set."""
    return Utility._prefixes(game, orders, base.copy(), tolerance, game.full() if tolerance else np.nan)


def augmented(rows: np.ndarray) -> np.ndarray:
    return np.column_stack([(rows - X.mean(axis=0)) / X.std(axis=0), np.ones(len(rows))])


def test_ridge_is_ridge_regression_on_one_hot_labels_fitted_to_the_set():
    game = utility(X, Y, X_VAL, Y_VAL, alpha=0.7)
    for mask, found in zip(MASKS, game(MASKS), strict=True):
        fitted = Ridge(alpha=0.7, fit_intercept=False).fit(augmented(X[mask]), np.eye(3)[Y[mask]] - 1 / 3)
        assert found == (fitted.predict(augmented(X_VAL)).argmax(axis=1) == Y_VAL).mean()


def test_ridge_of_numbers_is_scored_by_r_squared():
    game = utility(X, TARGET, X_VAL, TARGET_VAL)
    centre, scale = TARGET.mean(), TARGET.std()
    for mask, found in zip(MASKS, game(MASKS), strict=True):
        fitted = Ridge(alpha=1.0, fit_intercept=False).fit(augmented(X[mask]), (TARGET[mask] - centre) / scale)
        predicted = fitted.predict(augmented(X_VAL)) * scale + centre
        expected = 1 - ((predicted - TARGET_VAL) ** 2).sum() / ((TARGET_VAL - TARGET_VAL.mean()) ** 2).sum()
        assert found == pytest.approx(expected, abs=1e-10)


def test_knn_counts_right_labels_among_the_nearest_of_the_set():
    game = utility(X, Y, X_VAL, Y_VAL, "knn", k=3)
    for mask, found in zip(MASKS, game(MASKS), strict=True):
        rows = np.flatnonzero(mask)
        near = np.argsort(np.linalg.norm(X_VAL[:, None] - X[rows], axis=2), axis=1, kind="stable")[:, :3]
        assert found == pytest.approx((Y[rows][near] == Y_VAL[:, None]).sum() / (3 * len(Y_VAL)), abs=1e-12)


def test_knn_with_fewer_rows_than_votes_divides_by_k():
    mask = np.zeros(24, bool)
    mask[0] = True
    assert utility(X, Y, X_VAL, Y_VAL, "knn", k=5)(mask)[0] == pytest.approx((Y[0] == Y_VAL).mean() / 5)


@pytest.mark.parametrize("model", ["ridge", "knn"])
@pytest.mark.parametrize("tolerance", [0.0, 0.05])
def test_a_walk_equals_its_sets_one_by_one(model, tolerance):
    game = utility(X, Y, X_VAL, Y_VAL, model)
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(24), (7, 1)), axis=1)
    walked = game.prefixes(orders, tolerance=tolerance)
    np.testing.assert_allclose(walked, stepwise(game, orders, np.zeros((7, 24), bool), tolerance), atol=1e-12)


@pytest.mark.parametrize("model", ["ridge", "knn"])
def test_a_walk_can_start_from_rows_that_are_there(model):
    game = utility(X, Y, X_VAL, Y_VAL, model)
    base = np.zeros((5, 24), bool)
    base[1:, ::3] = True  # the first starts from nothing
    orders = np.random.default_rng(0).permuted(np.tile([1, 2, 4, 5, 7, 8], (5, 1)), axis=1)
    np.testing.assert_allclose(game.prefixes(orders, base=base), stepwise(game, orders, base), atol=1e-12)


def test_a_walk_of_numbers_equals_its_sets_one_by_one():
    game = utility(X, TARGET, X_VAL, TARGET_VAL)
    orders = np.random.default_rng(0).permuted(np.tile(np.arange(24), (3, 1)), axis=1)
    np.testing.assert_allclose(game.prefixes(orders), stepwise(game, orders, np.zeros((3, 24), bool)), atol=1e-8)


def test_an_order_left_off_costs_nothing_more():
    game = utility(X, Y, X_VAL, Y_VAL)
    orders = np.arange(24)[None]
    full = game.prefixes(orders)[0]
    first = int(np.flatnonzero(np.abs(full - game.full()) < 0.1)[0])
    before = game.calls
    walked = game.prefixes(orders, tolerance=0.1)[0]
    assert game.calls - before == first
    assert (walked[first:] == walked[first]).all()


def test_an_estimator_is_cloned_and_fitted_to_each_set():
    model = LogisticRegression(C=0.5)
    game = utility(X, Y, X_VAL, Y_VAL, model)
    for mask, found in zip(MASKS[:4], game(MASKS[:4]), strict=True):
        assert found == LogisticRegression(C=0.5).fit(X[mask], Y[mask]).score(X_VAL, Y_VAL)
    assert not hasattr(model, "coef_")


def test_several_fits_at_a_time_give_the_same():
    with parallel_config(backend="threading"):  # no processes to start
        one, two = (utility(X, Y, X_VAL, Y_VAL, LogisticRegression(), n_jobs=j)(MASKS) for j in (None, 2))
    np.testing.assert_array_equal(one, two)


def test_a_set_of_one_class_predicts_that_class_and_no_rows_are_a_guess():
    game = utility(X, Y, X_VAL, Y_VAL, LogisticRegression())
    assert game(Y == 1)[0] == (Y_VAL == 1).mean()
    assert game(np.zeros(24, bool))[0] == 1 / 3


def test_a_regressor_is_scored_by_r_squared_and_scoring_replaces_it():
    tree = DecisionTreeRegressor(random_state=0)
    game = utility(X, TARGET, X_VAL, TARGET_VAL, tree)
    assert game.full() == tree.fit(X, TARGET).score(X_VAL, TARGET_VAL)
    worst = utility(X, TARGET, X_VAL, TARGET_VAL, tree, scoring=lambda m, A, b: -np.abs(m.predict(A) - b).max())
    assert worst.full() == -np.abs(tree.predict(X_VAL) - TARGET_VAL).max()


@pytest.mark.parametrize("model", [None, LogisticRegression()])
def test_right_says_which_validation_rows_are_right(model):
    game = utility(X, Y, X_VAL, Y_VAL, model)
    right = game.right(MASKS)
    assert right.shape == (12, 40)
    np.testing.assert_allclose(right.mean(axis=1), game(MASKS))


def test_a_set_is_trained_on_once():
    asked = []
    game = GameUtility(4, lambda masks: asked.append(len(masks)) or masks.sum(axis=1))
    masks = np.array([[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]], bool)
    assert game(masks).tolist() == [1, 1, 0, 2]
    assert game(masks[::-1]).tolist() == [2, 0, 1, 1]
    assert (asked, game.calls) == ([1, 2], 2)  # the empty set when made, then two sets


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(importlib.import_module("datumwise.score.utility"), "CACHED", 5)
    game, _ = random_game(6)
    game((np.arange(20)[:, None] >> np.arange(6)) & 1)
    assert len(game._known) == 5


def test_labels_that_the_training_rows_lack_are_never_right():
    game = utility(X, Y, X_VAL, np.full(40, 7))
    assert game(MASKS).max() == 0


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"X": np.where(np.arange(24)[:, None] == 3, np.nan, X)}, NotFinite, "X has NaN or infinity in row 3"),
        ({"y": Y[:5]}, SchemaMismatch, "X has 24 rows and 5 labels"),
        ({"X_val": X_VAL[:, :2]}, SchemaMismatch, "X has 3 columns and X_val 2"),
        ({"y": Y - 1}, LabelError, "y of row 0, 3, 6 and 5 more lie below 0"),
        ({"y_val": None}, EmptyData, "y_val is missing"),
        ({"X": X[:0]}, EmptyData, "X is empty"),
        ({"model": "svm"}, UnknownName, "no built-in learner 'svm'"),
        ({"alpha": 0.0}, DatumwiseError, "alpha = 0.0"),
        ({"model": "knn", "k": 0}, DatumwiseError, "k = 0 neighbours cannot vote"),
        ({"model": "knn", "y": TARGET, "y_val": TARGET_VAL}, LabelError, "needs labels"),
        ({"scoring": max}, DatumwiseError, "give model= with scoring="),
        ({"y": TARGET, "y_val": np.full(40, 0.5)}, LabelError, "y_val is constant"),
        ({"y": TARGET, "y_val": TARGET_VAL, "aggregate": max}, LabelError, "question to labels"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change, error, says):
    given = {"X": X, "y": Y, "X_val": X_VAL, "y_val": Y_VAL} | change
    with pytest.raises(error, match=says):
        utility(**given)


def test_a_model_that_scores_nan_is_refused():
    game = utility(X, Y, X_VAL, Y_VAL, LogisticRegression(), scoring=lambda *_: np.nan)
    with pytest.raises(NotFinite, match="on a set of 24 rows"):
        game.full()


def test_masks_of_another_length_are_refused():
    with pytest.raises(SchemaMismatch, match="sets x 24 rows"):
        utility(X, Y, X_VAL, Y_VAL)(np.ones(5, bool))
