"""Claims about the signals of scikit-learn estimators."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_digits, load_iris, make_regression
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, LinearSVC

from datumwise.errors import (
    DatumwiseError,
    EmptyData,
    LabelError,
    ModelMismatch,
    NotFinite,
    UnknownName,
)
from datumwise.probe.estimators import estimator_signals

X, y = load_iris(return_X_y=True)
LOGISTIC = LogisticRegression(max_iter=500)


class Remembers(ClassifierMixin, BaseEstimator):
    """Says with certainty the label of a row it was fitted on, and the first class for any other row."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.seen_ = {row.tobytes(): label for row, label in zip(np.asarray(X), y, strict=True)}
        return self

    def predict_proba(self, X):
        labels = [self.seen_.get(row.tobytes(), self.classes_[0]) for row in np.asarray(X)]
        return (np.array(labels)[:, None] == self.classes_[None, :]).astype(float)


def test_every_point_is_predicted_by_a_model_that_never_saw_it():
    rows = np.arange(60, dtype=float)[:, None]
    labels = np.arange(60) % 3
    signals = estimator_signals(Remembers(), rows, labels, ["probs", "probs_fit"], folds=4)
    np.testing.assert_array_equal(signals["probs"], np.tile([1.0, 0.0, 0.0], (60, 1)))
    np.testing.assert_array_equal(signals["probs_fit"], np.eye(3)[labels])


def test_out_of_fold_probabilities_equal_a_hand_written_stratified_loop():
    expected = np.zeros((len(y), 3))
    in_fold = np.zeros((len(y), 3))
    for train, test in StratifiedKFold(5, shuffle=True, random_state=3).split(X, y):
        fitted = clone(LOGISTIC).fit(X[train], y[train])
        expected[test] = fitted.predict_proba(X[test])
        in_fold[train] += fitted.predict_proba(X[train]) / 4
    signals = estimator_signals(LOGISTIC, X, y, ["probs", "probs_fit", "loss", "logits", "labels"], seed=3)
    np.testing.assert_allclose(signals["probs"], expected, atol=1e-12)
    np.testing.assert_allclose(signals["probs_fit"], in_fold, atol=1e-12)
    np.testing.assert_allclose(signals["loss"], -np.log(expected[np.arange(len(y)), y]), rtol=1e-9)
    softmax = np.exp(signals["logits"]) / np.exp(signals["logits"]).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(softmax, expected, atol=1e-9)
    np.testing.assert_array_equal(signals["labels"], y)


def test_repeats_average_the_cross_validations():
    once = [estimator_signals(LOGISTIC, X, y, ["probs"], seed=s)["probs"] for s in (5, 6)]
    twice = estimator_signals(LOGISTIC, X, y, ["probs"], seed=5, n_repeats=2)["probs"]
    np.testing.assert_allclose(twice, np.mean(once, axis=0), atol=1e-12)


def test_string_labels_are_coded_in_sorted_order():
    names = np.array(["setosa", "versicolor", "virginica"])[y]
    by_name = estimator_signals(LOGISTIC, X, names.astype(object), ["probs", "labels"])
    by_code = estimator_signals(LOGISTIC, X, y, ["probs", "labels"])
    np.testing.assert_array_equal(by_name["labels"], by_code["labels"])
    np.testing.assert_allclose(by_name["probs"], by_code["probs"], atol=1e-9)


def test_same_seed_gives_the_same_numbers_for_a_random_estimator():
    forest = RandomForestClassifier(5)
    first, again, other = (estimator_signals(forest, X, y, ["probs"], seed=s)["probs"] for s in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert forest.random_state is None
    assert not hasattr(forest, "classes_")


@pytest.mark.parametrize("model", [LinearSVC(), SVC(), SVC(kernel="linear")])
@pytest.mark.parametrize("classes", [2, 3])
def test_a_decision_function_gives_probabilities_that_agree_with_predict(model, classes):
    keep = y < classes
    scores = estimator_signals(model, X[keep], y[keep], ["probs"], seed=2)["probs"]
    assert scores.shape == (keep.sum(), classes)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-12)
    expected = np.zeros(keep.sum(), dtype=int)
    for train, test in StratifiedKFold(5, shuffle=True, random_state=2).split(X[keep], y[keep]):
        fitted = clone(model).set_params(random_state=0).fit(X[keep][train], y[keep][train])
        expected[test] = fitted.predict(X[keep][test])
    np.testing.assert_array_equal(scores.argmax(axis=1), expected)


def test_in_fold_probabilities_of_a_decision_function_come_from_it_too():
    keep = y < 2
    margins = np.zeros(keep.sum())
    for train, _ in StratifiedKFold(5, shuffle=True, random_state=0).split(X[keep], y[keep]):
        fitted = LinearSVC(random_state=0).fit(X[keep][train], y[keep][train])
        scores = fitted.decision_function(X[keep][train])
        margins[train] += 1 / (1 + np.exp(-scores / scores.std())) / 4
    signals = estimator_signals(LinearSVC(random_state=0), X[keep], y[keep], ["probs_fit"])
    np.testing.assert_allclose(signals["probs_fit"][:, 1], margins, atol=1e-9)


def test_a_class_needs_as_many_members_as_folds():
    labels = y.copy()
    labels[:5] = 9
    assert estimator_signals(LOGISTIC, X, labels, ["probs"])["probs"].shape == (150, 4)
    labels[0] = 0
    with pytest.raises(LabelError, match="class '9' has 4 datapoints, fewer than the 5 folds"):
        estimator_signals(LOGISTIC, X, labels, ["probs"])


def test_sparse_frame_and_list_of_text_are_read_like_arrays():
    pd = pytest.importorskip("pandas")
    dense = estimator_signals(LOGISTIC, X, y, ["probs"])["probs"]
    for other in (sparse.csr_matrix(X), sparse.coo_array(X), pd.DataFrame(X, columns=list("abcd"))):
        np.testing.assert_allclose(estimator_signals(LOGISTIC, other, y, ["probs"])["probs"], dense, atol=1e-4)
    words = np.array(["flower", "petal", "stem"])
    text = [f"{words[label]} number {row}" for row, label in enumerate(y)]
    pipeline = make_pipeline(TfidfVectorizer(), LogisticRegression())
    signals = estimator_signals(pipeline, text, y, ["probs", "labels", "embedding"])
    assert (signals["probs"].argmax(axis=1) == y).all()
    assert signals["embedding"].shape == (150, 64)
    assert signals["embedding"].dtype == np.float32


def test_embedding_is_the_pipelines_features_or_the_standardised_ones():
    standard = (X - X.mean(axis=0)) / X.std(axis=0)
    plain = estimator_signals(KNeighborsClassifier(), X, y, ["embedding"])["embedding"]
    piped = estimator_signals(make_pipeline(StandardScaler(), LOGISTIC), X, y, ["embedding"])["embedding"]
    np.testing.assert_allclose(plain, standard, atol=1e-5)
    np.testing.assert_allclose(piped, standard, atol=1e-5)
    wide, labels = load_digits(return_X_y=True)
    wide = np.hstack([wide, wide**2])[:400]
    embedding = estimator_signals(KNeighborsClassifier(), wide, labels[:400], ["embedding"])["embedding"]
    assert embedding.shape == (400, 64)


def test_regressor_gives_out_of_fold_predictions_and_residuals():
    A, target = make_regression(80, 5, noise=3.0, random_state=0)
    want = ["target", "pred", "pred_fit", "residual", "loss"]
    signals = estimator_signals(Ridge(), A, target, want)
    np.testing.assert_allclose(signals["residual"], target - signals["pred"])
    np.testing.assert_allclose(signals["loss"], signals["residual"] ** 2)
    assert np.abs(target - signals["pred_fit"]).mean() < np.abs(signals["residual"]).mean()
    loo = estimator_signals(LinearRegression(), A, target, ["residual"], folds=80)["residual"]
    design = np.hstack([np.ones((80, 1)), A])
    leverage = np.diag(design @ np.linalg.solve(design.T @ design, design.T))
    exact = (target - design @ np.linalg.lstsq(design, target, rcond=None)[0]) / (1 - leverage)
    np.testing.assert_allclose(loo, exact, rtol=1e-8)  # the closed form of leave-one-out residuals


def test_progress_counts_the_folds():
    seen = []
    estimator_signals(LOGISTIC, X, y, ["probs"], folds=3, n_repeats=2, progress=lambda d, t: seen.append((d, t)))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_missing_values_pass_only_where_the_estimator_accepts_them():
    holes = X.copy()
    holes[[4, 9], 1] = np.nan
    with pytest.raises(NotFinite, match=r"in 2 rows \(4, 9\)"):
        estimator_signals(LOGISTIC, holes, y, ["probs"])
    signals = estimator_signals(HistGradientBoostingClassifier(max_iter=3), holes, y, ["probs", "embedding"], folds=2)
    assert np.isfinite(signals["probs"]).all()
    assert np.isfinite(signals["embedding"]).all()
    holes[7, 0] = np.inf
    with pytest.raises(NotFinite, match=r"in 1 rows \(7\)"):
        estimator_signals(HistGradientBoostingClassifier(), holes, y, ["probs"])
    with pytest.raises(NotFinite, match=r"\(d4, d7, d9\)"):
        estimator_signals(LOGISTIC, sparse.csr_matrix(holes), y, ["probs"], ids=[f"d{i}" for i in range(150)])


def test_a_pipeline_may_fill_missing_values_itself():
    holes = X.copy()
    holes[[4, 9], 1] = np.nan
    filled = ColumnTransformer([("all", make_pipeline(SimpleImputer(), StandardScaler()), [0, 1, 2, 3])])
    signals = estimator_signals(make_pipeline(filled, LOGISTIC), holes, y, ["probs", "embedding"])
    assert np.isfinite(signals["probs"]).all()
    assert np.isfinite(signals["embedding"]).all()
    names = [f"d{i}" for i in range(150)]
    with pytest.raises(NotFinite, match=r"in 2 rows \(d4, d9\)"):
        estimator_signals(make_pipeline(StandardScaler(), LOGISTIC), holes, y, ["probs"], ids=names)


class ThreeOfFour(LogisticRegression):
    def predict_proba(self, X):
        return super().predict_proba(X)[:, :2]


class Silent(ClassifierMixin, BaseEstimator):
    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict(self, X):
        return np.full(len(X), self.classes_[0])


@pytest.mark.parametrize(
    ("model", "features", "labels", "want", "error", "sentence"),
    [
        (LOGISTIC, X, np.r_[y[:-1], 9], ["probs"], LabelError, "class '9' has 1 datapoint, fewer than the 5"),
        (LOGISTIC, X, np.r_[y[:-2], 9, 9], ["probs"], LabelError, "use folds=2, merge it"),
        (LOGISTIC, X, np.zeros(150), ["probs"], LabelError, "all labels are 0.0"),
        (LOGISTIC, X, X[:, 0] + 0.123, ["probs"], LabelError, "look continuous"),
        (
            LOGISTIC,
            X,
            np.r_[y[:-1].astype(float), np.nan],
            ["probs"],
            LabelError,
            r"no label in 1 rows \(149\)",
        ),
        (LOGISTIC, X, y[:-1], ["probs"], LabelError, "149 labels for 150 datapoints"),
        (LOGISTIC, X, None, ["probs"], LabelError, "there are no labels"),
        (LOGISTIC, X[:0], y[:0], ["probs"], EmptyData, "no datapoint"),
        (LOGISTIC, X, y, ["grad_norm"], UnknownName, "gives no signal grad_norm: it gives labels, probs"),
        (LinearRegression(), X, y, ["probs"], UnknownName, "gives no signal probs"),
        (LinearRegression(), X, np.array(list("ab") * 75), ["pred"], LabelError, "targets are not numbers"),
        (LOGISTIC, [f"text {i}" for i in range(150)], y, ["probs"], ModelMismatch, "could not be fitted"),
        (LOGISTIC, [f"text {i}" for i in range(150)], y, ["embedding"], ModelMismatch, "pass a Pipeline"),
        (ThreeOfFour(max_iter=500), X, y, ["probs"], ModelMismatch, "gives 2 probabilities per datapoint"),
        (Silent(), X, y, ["probs"], ModelMismatch, "neither predict_proba nor decision_function"),
        (StandardScaler(), X, y, ["probs"], ModelMismatch, "neither a scikit-learn classifier"),
    ],
)
def test_what_cannot_be_scored_is_refused_in_one_sentence(model, features, labels, want, error, sentence):
    with pytest.raises(error, match=sentence) as caught:
        estimator_signals(model, features, labels, want)
    assert "\n" not in str(caught.value)


def test_one_fold_is_refused():
    with pytest.raises(DatumwiseError, match="folds is 1 and must be at least 2"):
        estimator_signals(LOGISTIC, X, y, ["probs"], folds=1)
