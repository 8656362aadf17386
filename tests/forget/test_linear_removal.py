"""Rows are removed from linear models as if they had never been there; the oracle is scikit-learn's own fit without them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge

from datumwise.errors import DatumwiseError, EmptyData, LabelError, ModelMismatch, NotFinite, SchemaMismatch
from datumwise.forget.linear_removal import (
    forget_mask,
    linear_removal,
    newton_logistic,
    remove_from_logistic,
    remove_from_ridge,
)

TIGHT = {"tol": 1e-12, "max_iter": 10_000}


def rows(n=300, d=5, classes=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d))
    return X, (X @ rng.normal(size=(d, classes)) + rng.gumbel(size=(n, classes))).argmax(1)


def weights(model):
    return np.concatenate([np.ravel(model.coef_), np.ravel(model.intercept_)])


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_several_newton_steps_give_the_retrained_logistic_model(classes, fit_intercept):
    X, y = rows(classes=classes)
    model = LogisticRegression(fit_intercept=fit_intercept, C=0.7, **TIGHT).fit(X, y)
    anew = LogisticRegression(fit_intercept=fit_intercept, C=0.7, solver="newton-cholesky", **TIGHT).fit(X[40:], y[40:])
    after = remove_from_logistic(model, X, y, np.arange(40), steps=20)
    assert np.allclose(weights(after), weights(anew), atol=1e-7)
    assert np.abs(weights(model) - weights(anew)).max() > 1e-2


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_one_step_is_within_five_percent_of_the_change_that_retraining_makes(classes, seed):
    X, y = rows(2000, 6, classes, seed)
    model = LogisticRegression(**TIGHT).fit(X, y)
    anew = LogisticRegression(**TIGHT).fit(X[20:], y[20:])
    after = remove_from_logistic(model, X, y, range(20))
    assert np.linalg.norm(weights(after) - weights(anew)) < 0.05 * np.linalg.norm(weights(model) - weights(anew))


@pytest.mark.parametrize("targets", [None, 3])
@pytest.mark.parametrize("alpha", [0.5, "each"])
@pytest.mark.parametrize("fit_intercept", [True, False])
def test_ridge_equals_retraining_to_1e8_with_penalty_and_intercept_kept(targets, alpha, fit_intercept):
    rng = np.random.default_rng(1)
    X, y = 3 + rng.normal(size=(80, 6)), rng.normal(size=(80, targets) if targets else 80)
    alpha = np.linspace(0.1, 4, targets or 1) if alpha == "each" else alpha
    gone = rng.choice(80, 9, replace=False)
    model = Ridge(alpha, fit_intercept=fit_intercept).fit(X, y)
    anew = Ridge(alpha, fit_intercept=fit_intercept).fit(np.delete(X, gone, 0), np.delete(y, gone, 0))
    after = remove_from_ridge(model, X, y, gone)
    assert after.coef_.shape == anew.coef_.shape
    assert np.shape(after.intercept_) == np.shape(anew.intercept_)
    assert np.allclose(weights(after), weights(anew), atol=1e-8, rtol=0)


def test_least_squares_equals_retraining():
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(60, 4)), rng.normal(size=60)
    after = remove_from_ridge(LinearRegression().fit(X, y), X, y, [3, 5])
    anew = LinearRegression().fit(np.delete(X, [3, 5], 0), np.delete(y, [3, 5]))
    assert np.allclose(weights(after), weights(anew), atol=1e-10)


@pytest.mark.filterwarnings("ignore:An ill-conditioned matrix")
def test_columns_of_very_different_units_are_removed_as_exactly():
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(60, 3)) * [1e-6, 1, 1e6], rng.normal(size=60)
    after = remove_from_ridge(Ridge(1e-9).fit(X, y), X, y, [0])
    assert np.allclose(after.predict(X), Ridge(1e-9, solver="svd").fit(X[1:], y[1:]).predict(X), atol=1e-6)


def test_a_model_that_was_not_fitted_to_the_end_still_becomes_the_retrained_one():
    X, y = rows(classes=3)
    early = LogisticRegression(tol=0.5, max_iter=2).fit(X, y)
    anew = LogisticRegression(**TIGHT).fit(X[30:], y[30:])
    assert np.allclose(weights(remove_from_logistic(early, X, y, range(30), steps=30)), weights(anew), atol=1e-7)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("options", [{}, {"C": np.inf}, {"fit_intercept": False}])
def test_conjugate_gradients_equal_the_factored_hessian(classes, options):
    X, y = rows(classes=classes)
    model = LogisticRegression(**options, **TIGHT).fit(X, y)
    a, b = (remove_from_logistic(model, X, y, range(30), solver=solver) for solver in ("cholesky", "cg"))
    assert np.allclose(weights(a), weights(b), atol=1e-7)
    assert np.abs(weights(a) - weights(model)).max() > 1e-2


def test_without_a_penalty_too_the_classes_keep_their_balance():
    X, y = rows(classes=3)
    model = LogisticRegression(C=np.inf, **TIGHT).fit(X, y)
    anew = LogisticRegression(C=np.inf, **TIGHT).fit(X[30:], y[30:])
    after = remove_from_logistic(model, X, y, range(30), steps=20)
    assert np.allclose(after.predict_proba(X), anew.predict_proba(X), atol=1e-7)
    assert np.allclose(after.coef_.sum(0), model.coef_.sum(0), atol=1e-6)


@pytest.mark.parametrize("classes", [2, 3])
def test_sparse_rows_give_what_dense_ones_give(classes):
    X, y = rows(classes=classes)
    X[np.abs(X) < 0.8] = 0
    model = LogisticRegression(**TIGHT).fit(X, y)
    dense = remove_from_logistic(model, X, y, range(10))
    for solver in ("cholesky", "cg"):
        found = remove_from_logistic(model, sparse.csc_array(X), y, range(10), solver=solver)
        assert np.allclose(weights(found), weights(dense), atol=1e-7)


@pytest.mark.parametrize("class_weight", ["balanced", {0: 3.0, 1: 0.5, 2: 1.0}])
@pytest.mark.parametrize("weighted", [True, False])
def test_weights_of_classes_and_rows_are_those_of_the_retained_rows(class_weight, weighted):
    X, y = rows(classes=3)
    weight = np.random.default_rng(5).uniform(0.2, 2, len(y)) if weighted else None
    options = {"class_weight": class_weight, **TIGHT}
    model = LogisticRegression(**options).fit(X, y, sample_weight=weight)
    anew = LogisticRegression(**options).fit(X[60:], y[60:], sample_weight=None if weight is None else weight[60:])
    after = remove_from_logistic(model, X, y, range(60), steps=20, sample_weight=weight)
    assert np.allclose(weights(after), weights(anew), atol=1e-7)


def test_liblinear_keeps_its_penalty_on_the_intercept():
    X, y = rows()
    options = {"solver": "liblinear", "intercept_scaling": 0.5, "tol": 1e-10, "max_iter": 10_000}
    anew = LogisticRegression(**options).fit(X[30:] + 1, y[30:])
    after = remove_from_logistic(LogisticRegression(**options).fit(X + 1, y), X + 1, y, range(30), steps=20)
    assert np.allclose(weights(after), weights(anew), atol=1e-6)


def test_strings_as_classes_and_a_mask_of_rows_do():
    X, y = rows()
    names = np.array(["no", "yes"])[y]
    gone = np.arange(len(y)) % 10 == 3
    model = LogisticRegression(**TIGHT).fit(X, names)
    a = remove_from_logistic(model, X, names, gone)
    b = remove_from_logistic(model, X, names, np.flatnonzero(gone))
    assert (weights(a) == weights(b)).all()
    assert list(a.classes_) == ["no", "yes"]


def test_the_input_estimator_is_unchanged_and_types_stay():
    X, y = rows()
    model = LogisticRegression().fit(X.astype(np.float32), y)
    before = copy.deepcopy(model.__dict__)
    after = remove_from_logistic(model, X.astype(np.float32), y, [1])
    assert all(np.array_equal(before[k], v) if isinstance(v, np.ndarray) else before[k] == v for k, v in model.__dict__.items())
    assert after.coef_.dtype == model.coef_.dtype
    assert after is not model
    assert (after.coef_ != model.coef_).any()


def test_what_is_left_is_the_distance_to_the_retrained_model():
    X, y = rows(400)
    model, anew = LogisticRegression(**TIGHT).fit(X, y), LogisticRegression(**TIGHT).fit(X[100:], y[100:])
    found = linear_removal(model, X, y, range(100), check=True)
    left = np.linalg.norm(weights(found.model) - weights(anew))
    assert found.remaining == pytest.approx(left, rel=0.2)
    assert found.gradient < found.gradient_before
    assert (found.n_forgotten, found.n_retained, found.steps) == (100, 300, 1)
    assert found.moved == pytest.approx(np.linalg.norm(weights(found.model) - weights(model)))


def test_a_tolerance_stops_the_steps():
    X, y = rows()
    model = LogisticRegression(**TIGHT).fit(X, y)
    assert linear_removal(model, X, y, range(30), steps=50, tol=1e-9).steps < 8
    assert linear_removal(model, X, y, range(30), steps=50, tol=1e9).steps == 0


def test_a_step_that_would_overshoot_is_halved():
    # far from the optimum a full Newton step of a logistic loss overshoots: the objective must still fall
    X = np.array([[-1.0], [1.0], [0.9], [-1.1], [0.2]])
    y = np.array([0, 1, 1, 0, 0])
    model = LogisticRegression(C=1e4).fit(X, y)
    model.coef_ = np.array([[-6.0]])
    found = linear_removal(model, X, y, [4], steps=40)
    anew = LogisticRegression(C=1e4, tol=1e-12, solver="newton-cholesky").fit(X[:4], y[:4])
    assert np.allclose(weights(found.model), weights(anew), rtol=1e-4, atol=1e-3)


def test_arrays_alone_give_the_estimators_answer():
    X, y = rows(classes=3)
    model = LogisticRegression(C=0.3, **TIGHT).fit(X, y)
    coef, intercept = newton_logistic(X, y, range(20), model.coef_, model.intercept_, C=0.3, steps=2)
    after = remove_from_logistic(model, X, y, range(20), steps=2)
    assert np.allclose(coef, after.coef_)
    assert np.allclose(intercept, after.intercept_)
    bare, none = newton_logistic(X, y, range(20), model.coef_, C=0.3)
    assert (none == 0).all()
    assert bare.shape == model.coef_.shape


def test_progress_counts_steps():
    X, y = rows()
    seen = []
    linear_removal(LogisticRegression().fit(X, y), X, y, [1], steps=3, progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_one_vs_rest_l1_and_bounds_are_refused():
    X, y = rows(classes=3)
    sparse_fit = LogisticRegression(solver="saga", l1_ratio=1.0, max_iter=20, tol=1).fit(X, y)
    with pytest.raises(ModelMismatch, match="an l1 penalty has no Hessian at zero weights"):
        remove_from_logistic(sparse_fit, X, y, [0])
    with pytest.raises(ModelMismatch, match="positive=True is a bound"):
        remove_from_ridge(Ridge(positive=True).fit(X, y), X, y, [0])
    with pytest.raises(ModelMismatch, match="Ridge is not a LogisticRegression"):
        remove_from_logistic(Ridge().fit(X, y), X, y, [0])
    with pytest.raises(ModelMismatch, match="LogisticRegression is not a Ridge"):
        remove_from_ridge(LogisticRegression().fit(X, y), X, y, [0])
    with pytest.raises(ModelMismatch, match="not fitted"):
        remove_from_ridge(Ridge(), X, y, [0])
    other = copy.copy(Ridge().fit(X, y))
    other.__class__ = type("Lasso", (), {})
    with pytest.raises(ModelMismatch, match="rows cannot be removed from a Lasso"):
        linear_removal(other, X, y, [0])


@pytest.mark.parametrize(
    ("gone", "error", "sentence"),
    [
        ([], EmptyData, "there is no row to forget"),
        (np.zeros(300, bool), EmptyData, "there is no row to forget"),
        (np.ones(300, bool), EmptyData, "no row is left when all 300 are forgotten"),
        ([300], SchemaMismatch, "rows to forget are not among the 300 rows: 300"),
        ([-1], SchemaMismatch, "rows to forget are not among the 300 rows: -1"),
        (np.ones(3, bool), SchemaMismatch, "mask of rows to forget has 3 entries for 300 rows"),
        ([0.5], SchemaMismatch, "must be positions or a mask"),
    ],
)
def test_rows_that_cannot_be_forgotten_are_refused(gone, error, sentence):
    with pytest.raises(error, match=sentence):
        forget_mask(gone, 300)


def test_bad_data_are_refused_in_a_sentence():
    X, y = rows()
    model = LogisticRegression().fit(X, y)
    with pytest.raises(SchemaMismatch, match="rows and labels differ in number"):
        remove_from_logistic(model, X, y[:-1], [0])
    with pytest.raises(SchemaMismatch, match="the rows have 4 columns, the model has 5"):
        remove_from_logistic(model, X[:, :4], y, [0])
    with pytest.raises(LabelError, match="the model has no class 7"):
        remove_from_logistic(model, X, np.where(np.arange(300) == 5, 7, y), [0])
    with pytest.raises(LabelError, match="no row of class 1 is left"):
        remove_from_logistic(model, X, y, np.flatnonzero(y == 1))
    bad = X.copy()
    bad[7, 2] = np.nan
    with pytest.raises(NotFinite, match="row 7 holds NaN"):
        remove_from_logistic(model, bad, y, [0])
    remove_from_logistic(model, bad, y, [7])  # a row that is not retained is not read
    with pytest.raises(SchemaMismatch, match="sample_weight has shape"):
        remove_from_logistic(model, X, y, [0], sample_weight=[1.0])
    with pytest.raises(DatumwiseError, match="0 steps were asked for"):
        remove_from_logistic(model, X, y, [0], steps=0)
    with pytest.raises(DatumwiseError, match="there is no solver 'lu'"):
        remove_from_logistic(model, X, y, [0], solver="lu")
    with pytest.raises(NotFinite, match="do not determine the weights"):
        remove_from_ridge(LinearRegression().fit(X[:6], X[:6, 0]), X[:6], X[:6, 0], [0, 1])
    with pytest.raises(SchemaMismatch, match="y has 2 targets, the model has 1"):
        remove_from_ridge(Ridge().fit(X, y), X, np.stack([y, y], 1), [0])
    with pytest.raises(NotFinite, match="y is not finite in row 3"):
        remove_from_ridge(Ridge().fit(X, y), X, np.where(np.arange(300) == 3, np.nan, y), [0])
