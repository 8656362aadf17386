"""Learners by name fit, predict and repeat; an unknown name says which there are."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_iris

from datumwise.errors import MissingExtra, UnknownName
from datumwise.probe.learners import LEARNERS, default_prober, learner, learner_name, learners


@pytest.mark.parametrize("task", sorted(LEARNERS))
def test_every_learner_beats_guessing_and_repeats_with_its_seed(task):
    X, y = (load_iris if task == "classification" else load_diabetes)(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(y))
    train, test = order[:100], order[100:150]
    guess = 0.45 if task == "classification" else -0.5
    for name in LEARNERS[task]:
        model = learner(name, task, seed=3)
        fitted = clone(model).fit(X[train], y[train])
        assert fitted.score(X[test], y[test]) > guess, name
        again = clone(model).fit(X[train], y[train])
        np.testing.assert_array_equal(fitted.predict(X[test]), again.predict(X[test]), err_msg=name)


@pytest.mark.parametrize(("kind", "task"), [("table", "classification"), ("table", "regression"), ("images", "classification")])
def test_default_prober_predicts(kind, task):
    X, y = (load_iris if task == "classification" else load_diabetes)(return_X_y=True)
    fitted = default_prober(kind, task).fit(X[::2], y[::2])
    assert fitted.score(X[1::2], y[1::2]) > 0.3


def test_unknown_learner_lists_the_known_ones():
    with pytest.raises(UnknownName, match="choose one of nearest neighbour, logistic regression"):
        learner("perceptron", "classification")
    assert learner_name(learner("logistic regression", "classification")) == "LogisticRegression"


@pytest.mark.parametrize("task", sorted(LEARNERS))
def test_learners_of_other_rooms_join_by_their_entry_point(task):
    assert "deep kernel machine" in learners(task)
    made = learner("deep-kernel-machine", task, seed=3)
    assert made.get_params()["random_state"] == 3
    X, y = (load_iris if task == "classification" else load_diabetes)(return_X_y=True)
    fitted = made.set_params(max_iter=60, nu=float("inf"), n_inducing=20).fit(X[::2], y[::2])
    assert fitted.score(X[1::2], y[1::2]) > 0.3


def test_a_learner_whose_library_is_missing_says_what_to_install(monkeypatch):
    from importlib.metadata import EntryPoint

    point = EntryPoint("deep kernel machine", "datumwise.nowhere:regressor", "datumwise.learners.regression")
    monkeypatch.setattr("datumwise.probe.learners.entry_points", lambda group: [point])
    learners.cache_clear()
    with pytest.raises(MissingExtra, match=r"needs datumwise.nowhere: pip install 'datumwise\[learn\]'"):
        learner("deep kernel machine", "regression")
    learners.cache_clear()
