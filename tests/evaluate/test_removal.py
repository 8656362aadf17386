"""The proof says gain when there is one, nothing when there is none, and its interval covers as often as it says."""

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.metrics import r2_score
from sklearn.neighbors import KNeighborsClassifier

from datumwise.errors import EmptyData, LabelError, SchemaMismatch
from datumwise.evaluate.removal import _accuracy, _r_squared, removal_proof


class KnownAccuracy(ClassifierMixin, BaseEstimator):
    """Is right on a held-out point u in [0, 1] iff u < 0.9 - 0.4 * share of bad training rows (label 1 = bad)."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.accuracy_ = 0.9 - 0.4 * np.mean(X[:, 0])
        return self

    def predict(self, X):
        return np.where(X[:, 0] < self.accuracy_, 0, 1)


def _known(rng, m):
    bad = np.arange(400) < 100
    X = np.c_[bad.astype(float)]
    y = rng.integers(0, 2, 400)
    held = rng.uniform(size=(m, 1))
    return X, y, held, np.zeros(m, int), bad


def test_interval_covers_the_true_difference_about_95_times_in_100():
    rng = np.random.default_rng(0)
    truth = 0.4 * 0.25  # cleaned has no bad row, a random set a quarter of them
    covered = 0
    for seed in range(300):
        X, y, held, y_held, bad = _known(rng, 150)
        card = removal_proof(
            X, y, held, y_held, bad, {"known": KnownAccuracy()}, n_random=5, n_bootstrap=400, seed=seed
        ).primary
        covered += card.cleaned_minus_random.low <= truth <= card.cleaned_minus_random.high
    assert 0.90 <= covered / 300 <= 0.985  # binomial: 0.95 +- 4 standard errors, and a percentile interval is a little short


def test_wrong_labels_removed_show_a_gain_and_right_ones_removed_do_not():
    X, y = load_digits(return_X_y=True)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(y))
    held, train = order[:500], order[500:1300]
    labels = y[train].copy()
    wrong = rng.permutation(len(train)) < 120
    labels[wrong] = (labels[wrong] + 1) % 10
    learners = {"nearest neighbour": KNeighborsClassifier(1)}
    shown = removal_proof(X[train], labels, X[held], y[held], wrong, learners).primary
    assert shown.verdict == "gain shown"
    assert shown.cleaned_minus_random.value > 0.08
    nothing = removal_proof(X[train], labels, X[held], y[held], rng.permutation(wrong), learners).primary
    assert nothing.verdict == "no gain shown"
    right_ones = ~wrong & (rng.random(len(train)) < 0.6)
    harmed = removal_proof(X[train], labels, X[held], y[held], right_ones, learners).primary
    assert harmed.verdict == "harm shown"


def test_values_are_the_plain_means_and_sizes_are_stated():
    X, y, held, y_held, bad = _known(np.random.default_rng(1), 200)
    proof = removal_proof(X, y, held, y_held, bad, {"known": KnownAccuracy()}, n_random=3)
    rows = {row.name: row for row in proof.primary.rows}
    assert rows["all"].score.value == pytest.approx(np.mean(held < 0.8))
    assert rows["cleaned"].score.value == pytest.approx(np.mean(held < 0.9))
    assert (rows["all"].n, rows["random"].n, rows["cleaned"].n) == (400, 300, 300)
    assert (proof.removed, proof.held_out, proof.metric) == (100, 200, "accuracy")
    for row in rows.values():
        assert row.score.low <= row.score.value <= row.score.high


def test_weighted_metrics_equal_scikit_learn_on_the_resampled_rows():
    rng = np.random.default_rng(2)
    y, predicted = rng.normal(size=50), rng.normal(size=50)
    picks = rng.integers(0, 50, size=(7, 50))
    weights = np.stack([np.bincount(p, minlength=50) for p in picks]).astype(float)
    losses = np.broadcast_to((y - predicted) ** 2, (7, 50))
    np.testing.assert_allclose(_r_squared(weights, losses, y), [r2_score(y[p], predicted[p]) for p in picks], rtol=1e-10)
    wrong = np.broadcast_to((predicted > 0).astype(float), (7, 50))
    np.testing.assert_allclose(_accuracy(weights, wrong, y), [1 - (predicted[p] > 0).mean() for p in picks])


def test_regression_reads_r_squared():
    rng = np.random.default_rng(3)
    X = rng.normal(size=(300, 3))
    y = X @ [1.0, 2.0, 3.0] + 0.1 * rng.normal(size=300)
    spoiled = np.arange(200) < 40
    y[:40] += 30
    proof = removal_proof(X[:200], y[:200], X[200:], y[200:], spoiled, {"ridge": Ridge(), "ols": LinearRegression()})
    assert proof.metric == "R²"
    assert proof.primary.learner == "ridge"
    assert proof.primary.verdict == "gain shown"
    assert len(proof.cards) == 2


def test_same_seed_same_proof_and_random_learners_are_refitted():
    X, y = load_digits(return_X_y=True)
    remove = np.arange(300) < 30
    calls = []

    def run():
        return removal_proof(
            X[:300], y[:300], X[300:400], y[300:400], remove, {"trees": ExtraTreesClassifier(5)},
            n_random=4, n_bootstrap=50, progress=lambda done, total: calls.append((done, total)),
        )  # fmt: skip

    assert run() == run()
    assert calls[11] == (12, 12)  # 4 fits for each of the three sets


@pytest.mark.parametrize(
    ("remove", "held", "error", "says"),
    [
        (np.ones(10, bool), 4, EmptyData, "nothing to compare"),
        (np.zeros(10, bool), 0, EmptyData, "nothing to compare"),
        (np.arange(10) >= 5, 4, LabelError, "one class"),
        (np.zeros(9, bool), 4, SchemaMismatch, "differ in number"),
    ],
)
def test_what_cannot_be_compared_is_refused(remove, held, error, says):
    y = np.arange(10) // 5
    with pytest.raises(error, match=says):
        removal_proof(np.eye(10), y, np.eye(10)[:held], y[:held], remove, {"nn": KNeighborsClassifier(1)})
