"""A selection is said to beat random when it does, and the intervals cover as often as they say."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.datasets import load_digits
from sklearn.ensemble import ExtraTreesClassifier

from datumwise.errors import DatumwiseError, EmptyData, LabelError, SchemaMismatch, UnknownName
from datumwise.evaluate.selection_report import selection_report
from datumwise.select.craig import Craig
from datumwise.select.random_subset import RandomSubset
from datumwise.select.top_k import TopK


class KnownAccuracy(ClassifierMixin, BaseEstimator):
    """Is right on a held-out point u in [0, 1] iff u < 0.5 + 0.4 * share of good training rows."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        self.accuracy_ = 0.5 + 0.4 * X[:, 0].mean()
        return self

    def predict(self, X):
        return np.where(X[:, 0] < self.accuracy_, 0, 1)


def known(rng, m=200):
    good = (np.arange(400) < 100).astype(float)
    y = np.arange(400) % 2
    held = rng.uniform(size=(m, 1))
    return good[:, None], y, held, np.zeros(m, int)


def test_interval_against_random_covers_the_true_difference():
    truth = 0.4 * 0.75  # chosen are all good, of a random subset a quarter is
    rng, covered = np.random.default_rng(0), 0
    for seed in range(60):
        X, y, held, y_held = known(rng)
        report = selection_report(
            X,
            y,
            {"good": np.arange(100)},
            X_test=held,
            y_test=y_held,
            learner=KnownAccuracy(),
            n_bootstrap=300,
            random_state=seed,
        )
        gain = report["good"].minus_random
        covered += gain.low <= truth <= gain.high
    assert covered >= 51  # 95 in 100, less three standard errors


def test_a_random_selection_seldom_beats_random():
    rng, wrong = np.random.default_rng(1), 0
    for seed in range(60):
        X, y, held, y_held = known(rng)
        rows = rng.choice(400, 100, replace=False)
        report = selection_report(
            X, y, {"drawn": rows}, X_test=held, y_test=y_held, learner=KnownAccuracy(), n_bootstrap=300, random_state=seed
        )
        wrong += report["drawn"].verdict != "no better than random"
    assert wrong <= 8  # 5 in 100, and three standard errors


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    return X[order[:600]], y[order[:600]], X[order[600:1100]], y[order[600:1100]]


def test_rightly_labelled_digits_beat_random_and_wrongly_labelled_are_worse(digits):
    X, y, X_test, y_test = digits
    rng = np.random.default_rng(0)
    wrong = rng.random(600) < 0.4
    labels = np.where(wrong, (y + 1) % 10, y)
    purity = rng.random(600) - wrong  # a score that puts the rightly labelled first
    report = selection_report(
        X,
        labels,
        {"pure": TopK(120), "impure": TopK(120, highest=False), "drawn": RandomSubset(120, random_state=9)},
        X_test=X_test,
        y_test=y_test,
        inputs={"scores": purity},
        scores={"purity": purity, "reverse": -purity},
    )
    verdicts = {row.name: row.verdict for row in report.rows}
    assert verdicts == {
        "all": "",
        "random": "",
        "pure": "beats random",
        "impure": "worse than random",
        "drawn": "no better than random",
    }
    assert report.winners == ("pure",)
    assert report.agreement.spearman[0, 1] == pytest.approx(-1)
    assert report.overlap["pure & impure"] == 0
    assert "pure" in str(report)
    assert "beats random" in str(report)


def test_coverage_and_class_shares_are_what_they_say(digits):
    X, y, X_test, y_test = digits
    rows = np.flatnonzero(y < 8)[:50]
    report = selection_report(
        X,
        y,
        {"low": rows, "covering": Craig(50)},
        X_test=X_test,
        y_test=y_test,
        inputs={"gradients": X},
        diversity=lambda Z: float(len(Z)),
        n_random=3,
        n_bootstrap=50,
    )
    d = np.sqrt(((X[:, None] - X[rows][None]) ** 2).sum(-1)).min(1)
    assert report["low"].radius == pytest.approx(d.max())
    assert report["low"].mean_distance == pytest.approx(d.mean())
    share, every = np.bincount(y[rows], minlength=10) / 50, np.bincount(y) / 600
    assert report["low"].balance == pytest.approx(np.abs(share - every).sum() / 2)
    assert report["low"].smallest_class == 0
    assert report["low"].diversity == 50
    assert report["covering"].mean_distance < report["random"].mean_distance
    assert report["all"].radius == report["all"].balance == 0


def test_selections_of_two_sizes_are_compared_with_random_of_their_own_size(digits):
    X, y, X_test, y_test = digits
    selections = {"few": np.arange(30), "many": np.arange(300)}
    report = selection_report(X, y, selections, X_test=X_test, y_test=y_test, n_random=4, n_bootstrap=50)
    assert [(row.name, row.n) for row in report.rows] == [
        ("all", 600),
        ("random 30", 30),
        ("random 300", 300),
        ("few", 30),
        ("many", 300),
    ]
    gain = report["few"].minus_random.value
    assert gain == pytest.approx(report["few"].score.value - report["random 30"].score.value)


def test_a_learner_that_is_random_is_fitted_with_several_seeds_and_the_report_repeats(digits):
    X, y, X_test, y_test = digits
    done = []
    options = {"X_test": X_test, "y_test": y_test, "learner": ExtraTreesClassifier(10, random_state=0), "n_bootstrap": 50}
    first = selection_report(
        X, y, {"first": np.arange(100)}, seeds=3, n_random=4, progress=lambda a, b: done.append((a, b)), **options
    )
    again = selection_report(X, y, {"first": np.arange(100)}, seeds=3, n_random=4, **options)
    assert first.seeds == 3
    assert done[-1] == (10, 10)  # three on all, three on the chosen, four random
    assert first.to_json() == again.to_json()


def test_regressions_are_measured_by_r_squared():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(500, 3))
    y = X @ [1.0, 2.0, 3.0] + 0.1 * rng.normal(size=500)
    y[:100] *= -1
    report = selection_report(X[:300], y[:300], {"clean": np.arange(100, 160)}, X_test=X[300:], y_test=y[300:])
    assert report.metric == "R²"
    assert report["clean"].verdict == "beats random"
    assert report["clean"].balance is None


def test_a_report_is_json_and_a_frame(digits):
    X, y, X_test, y_test = digits
    report = selection_report(
        X,
        y,
        {"first": np.arange(60) < 0, "last": np.arange(60)} | {"first": np.arange(60, 120)},
        X_test=X_test,
        y_test=y_test,
        n_random=3,
        n_bootstrap=50,
    )
    found = json.loads(report.to_json())
    assert [row["name"] for row in found["rows"]] == ["all", "random", "first", "last"]
    pandas = pytest.importorskip("pandas")
    frame = report.to_pandas()
    assert isinstance(frame, pandas.DataFrame)
    assert frame.loc["first", "score"] == report["first"].score.value


def test_weights_of_a_selection_reach_the_learner(digits):
    X, y, X_test, y_test = digits
    seen = []

    class Weighed(KnownAccuracy):
        def fit(self, X, y, sample_weight=None):
            seen.append(sample_weight)
            return super().fit(X / 100, y)

    selection_report(
        X, y, {"c": Craig(40)}, X_test=X_test, y_test=y_test, inputs={"gradients": X}, learner=Weighed(), n_random=2
    )
    weighed = [w for w in seen if w is not None]
    assert len(weighed) == 1
    assert weighed[0].sum() == pytest.approx(40)


def test_what_cannot_be_compared_is_said(digits):
    X, y, X_test, y_test = digits
    held = {"X_test": X_test, "y_test": y_test}
    with pytest.raises(LabelError, match="selection 'ones' has one class only"):
        selection_report(X, y, {"ones": np.flatnonzero(y == 1)}, **held)
    with pytest.raises(DatumwiseError, match="selection 'best' needs scores"):
        selection_report(X, y, {"best": TopK(3)}, **held)
    with pytest.raises(SchemaMismatch, match="must be rows from 0 to 599"):
        selection_report(X, y, {"far": [1, 600]}, **held)
    with pytest.raises(SchemaMismatch, match="each once"):
        selection_report(X, y, {"twice": [1, 1]}, **held)
    with pytest.raises(EmptyData, match="selection 'none' is empty"):
        selection_report(X, y, {"none": np.zeros(600, bool)}, **held)
    with pytest.raises(DatumwiseError, match="cannot be called 'random'"):
        selection_report(X, y, {"random": [1, 2]}, **held)
    with pytest.raises(SchemaMismatch, match="X_test"):
        selection_report(X, y, {"a": [1, 2]}, X_test=X_test[:, :3], y_test=y_test)
    report = selection_report(X, y, {"a": np.arange(50)}, n_random=2, n_bootstrap=20, **held)
    with pytest.raises(UnknownName, match="there is no selection 'b'"):
        report["b"]
