"""Exact forgetting by shards and slices: the oracle is a Sisa that was trained without the datapoints from the start."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LinearRegression, LogisticRegression, SGDClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeClassifier

from datumwise.errors import DatumwiseError, DuplicateId, EmptyData, MissingId, ModelMismatch, SchemaMismatch, UnknownName
from datumwise.forget.sisa import Sisa, sisa_expected_share, sisa_place


def rows(n=240, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 4))
    return [f"d{i}" for i in range(n)], X, (X[:, 0] + X[:, 1] + 0.3 * rng.normal(size=n) > 0).astype(int)


class Recorder:
    """A trainer whose model is the list of what it was shown: any leak of a forgotten datapoint can be read from it."""

    def __init__(self):
        self.calls = []

    def __call__(self, start, data, seed):
        model = [*(start or []), (seed, tuple(data[0]))]
        self.calls.append(tuple(data[0]))
        return model


@pytest.mark.parametrize("n_slices", [1, 4])
@pytest.mark.parametrize("cumulative", [True, False])
def test_after_forgetting_every_model_is_the_one_trained_without_the_datapoints(n_slices, cumulative):
    ids = [f"d{i}" for i in range(60)]
    gone = ["d3", "d17", "d41"]
    sisa = Sisa(Recorder(), 5, n_slices, cumulative=cumulative).fit(ids, (ids,))
    sisa.forget(gone)
    left = [name for name in ids if name not in gone]
    anew = Sisa(Recorder(), 5, n_slices, cumulative=cumulative).fit(left, (left,))
    assert sisa.models_ == anew.models_
    assert sisa._checkpoints == anew._checkpoints
    assert sisa.ids_ == left
    assert not any(name in str(sisa._checkpoints) for name in ("'d3'", "'d17'", "'d41'"))
    assert sisa._data == (left,)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Sisa(LogisticRegression(), 4),
        lambda: Sisa(DecisionTreeClassifier(max_features=2), 4),  # random: its seed is the shard's
        lambda: Sisa(SGDClassifier(loss="log_loss"), 3, 4, classes=[0, 1]),
        lambda: Sisa(GaussianNB(), 3, 2, classes=[0, 1], cumulative=False, combine="vote"),
    ],
)
def test_predictions_after_forgetting_are_bitwise_those_of_a_fresh_sisa(make):
    ids, X, y = rows()
    gone = np.array([5, 77, 130])
    sisa = make().fit(ids, (X, y))
    before = sisa.predict_proba(X)
    sisa.forget([ids[at] for at in gone])
    anew = make().fit([name for at, name in enumerate(ids) if at not in gone], (np.delete(X, gone, 0), np.delete(y, gone)))
    assert (sisa.predict_proba(X) == anew.predict_proba(X)).all()
    assert (sisa.predict(X) == anew.predict(X)).all()
    assert (before != sisa.predict_proba(X)).any()


def test_requests_one_after_the_other_equal_one_request():
    ids, X, y = rows()
    one, many = (Sisa(SGDClassifier(loss="log_loss"), 3, 3, classes=[0, 1]).fit(ids, (X, y)) for _ in range(2))
    one.forget(ids[:6])
    for name in reversed(ids[:6]):
        many.forget([name])
    assert (one.predict_proba(X) == many.predict_proba(X)).all()


def test_only_the_touched_shard_is_trained_from_the_touched_slice_on():
    ids = [f"d{i}" for i in range(120)]
    trainer = Recorder()
    sisa = Sisa(trainer, 4, 3).fit(ids, (ids,))
    models, fitted = list(sisa.models_), len(trainer.calls)
    shard, slice_ = sisa_place("d9", 4, 3)
    found = sisa.forget(["d9"])
    assert found.shards == {shard: slice_}
    assert found.calls == len(trainer.calls) - fitted == 3 - slice_
    assert found.rows == sum(len(call) for call in trainer.calls[fitted:])
    assert all(sisa.models_[other] is models[other] for other in range(4) if other != shard)
    Sisa(anew := Recorder(), 4, 3).fit(sisa.ids_, (sisa.ids_,))
    assert found.rows_anew == sum(map(len, anew.calls))
    assert 0 < found.share < 0.5


def test_the_order_of_the_datapoints_does_not_matter():
    ids, X, y = rows()
    turn = np.random.default_rng(1).permutation(len(ids))
    a = Sisa(SGDClassifier(loss="log_loss"), 3, 2, classes=[0, 1]).fit(ids, (X, y))
    b = Sisa(SGDClassifier(loss="log_loss"), 3, 2, classes=[0, 1]).fit([ids[at] for at in turn], (X[turn], y[turn]))
    assert (a.predict_proba(X) == b.predict_proba(X)).all()


def test_another_seed_lays_out_other_shards_evenly():
    places = np.array([sisa_place(i, 8, 4) for i in range(8000)])
    others = np.array([sisa_place(i, 8, 4, seed=1) for i in range(8000)])
    assert (places != others).any(1).mean() > 0.9
    counts = np.bincount(places[:, 0] * 4 + places[:, 1], minlength=32)
    assert ((counts - 250) ** 2 / 250).sum() < 62  # chi-squared of 31 degrees, p = .001
    assert sisa_place(7, 8, 4) == sisa_place("7", 8, 4)


@pytest.mark.parametrize(("shards", "slices", "k"), [(4, 3, 1), (4, 3, 5), (10, 1, 7)])
def test_the_expected_share_is_what_requests_cost_on_average(shards, slices, k):
    n = 1200
    places = np.array([sisa_place(i, shards, slices) for i in range(n)])
    rng, shares = np.random.default_rng(0), []
    cost = np.arange(1, slices + 1)
    for _ in range(3000):
        first = np.full(shards, slices)
        for shard, slice_ in places[rng.choice(n, k, replace=False)]:
            first[shard] = min(first[shard], slice_)
        shares.append(sum(cost[start:].sum() for start in first) / (shards * cost.sum()))
    assert np.mean(shares) == pytest.approx(sisa_expected_share(shards, slices, k), rel=0.05)


def test_a_shard_without_datapoints_has_no_model_and_no_say():
    ids = ["a", "b", "c"]
    sisa = Sisa(Recorder(), 50, 2).fit(ids, (ids,))
    assert sum(model is not None for model in sisa.models_) <= 3
    sisa.forget(["a"])
    assert sisa.models_ == Sisa(Recorder(), 50, 2).fit(["b", "c"], (["b", "c"],)).models_


def test_a_shard_of_one_class_answers_that_class():
    ids, X, _ = rows(40)
    y = np.where(np.arange(40) == 3, "rare", "usual")
    sisa = Sisa(LogisticRegression(), 10).fit(ids, (X, y))
    assert list(sisa.classes_) == ["rare", "usual"]
    assert np.allclose(sisa.predict_proba(X).sum(1), 1)
    sisa.forget(["d3"])
    assert list(sisa.classes_) == ["usual"]


def test_probabilities_are_means_votes_are_shares_and_numbers_are_averaged():
    ids, X, y = rows()
    mean = Sisa(LogisticRegression(), 3).fit(ids, (X, y))
    each = np.stack([model.predict_proba(X) for model in mean.models_])
    assert np.allclose(mean.predict_proba(X), each.mean(0))
    vote = Sisa(LogisticRegression(), 3, combine="vote").fit(ids, (X, y))
    assert np.allclose(vote.predict_proba(X)[:, 1], each.argmax(2).mean(0))
    numbers = Sisa(LinearRegression(), 3).fit(ids, (X, X[:, 0] * 2.0 + X[:, 1] ** 2))
    assert np.allclose(numbers.predict(X), np.mean([model.predict(X) for model in numbers.models_], axis=0))
    own = Sisa(lambda start, data, seed: data[1].mean(), 3, predict=lambda model, A: np.full(len(A), model)).fit(ids, (X, y))
    assert np.allclose(own.predict(X), np.mean(own.models_))


def test_classes_without_probabilities_are_voted_on():
    class Constant:
        def __init__(self, answer):
            self.answer = answer

        def predict(self, X):
            return np.full(len(X), self.answer)

    ids, X, y = rows()
    sisa = Sisa(lambda start, data, seed: Constant(seed), 3).fit(ids, (X, y))
    sisa._checkpoints = [[Constant(answer)] for answer in ("b", "a", "b")]
    assert list(sisa.predict(X[:2])) == ["b", "b"]
    with pytest.raises(ModelMismatch, match="give no probabilities"):
        Sisa(LinearRegression(), 2, classes=[0, 1]).fit(ids, (X, y)).predict_proba(X)


def test_sparse_rows_and_lists_do():
    ids, X, y = rows()
    dense = Sisa(LogisticRegression(), 3).fit(ids, (X, y))
    loose = Sisa(LogisticRegression(), 3).fit(ids, (sparse.csr_array(X), y.tolist()))
    loose.forget(ids[:2])
    dense.forget(ids[:2])
    assert np.allclose(dense.predict_proba(X), loose.predict_proba(X), atol=1e-6)


def test_a_failing_trainer_changes_nothing():
    ids, _, _ = rows(60)
    trainer = Recorder()
    sisa = Sisa(trainer, 3, 2).fit(ids, (ids,))
    before = (sisa.models_, list(sisa.ids_), sisa.calls_, sisa.rows_)

    def broken(start, data, seed):
        raise RuntimeError("out of power")

    sisa._train = broken
    with pytest.raises(RuntimeError, match="out of power"):
        sisa.forget(["d1"])
    assert (sisa.models_, sisa.ids_, sisa.calls_, sisa.rows_) == before
    sisa._train = trainer
    assert sisa.forget(["d1"]).calls > 0


def test_the_trainer_cannot_spoil_a_checkpoint():
    def spoiling(start, data, seed):
        model = start if start is not None else []
        model.append(tuple(data[0]))  # in place
        return model

    ids = [f"d{i}" for i in range(60)]
    sisa = Sisa(spoiling, 2, 4).fit(ids, (ids,))
    sisa.forget(["d5"])
    left = [name for name in ids if name != "d5"]
    assert sisa.models_ == Sisa(spoiling, 2, 4).fit(left, (left,)).models_


def test_progress_counts_calls():
    ids, X, y = rows()
    seen = []
    Sisa(LogisticRegression(), 3).fit(ids, (X, y), progress=lambda *at: seen.append(at))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_bad_input_is_refused_in_a_sentence():
    ids, X, y = rows(20)
    fitted = Sisa(Recorder(), 2).fit(ids, (ids,))
    with pytest.raises(DuplicateId, match="ids occur twice: 7"):
        Sisa(Recorder(), 2).fit([7, "7"], ([1, 2],))
    with pytest.raises(EmptyData, match="there is no datapoint to train on"):
        Sisa(Recorder(), 2).fit([], ([],))
    with pytest.raises(SchemaMismatch, match="20 ids were given for 3 rows of column 1"):
        Sisa(Recorder(), 2).fit(ids, (X, y[:3]))
    with pytest.raises(MissingId, match="ids are not among the 20 trained on: d20"):
        fitted.forget(["d20"])
    with pytest.raises(EmptyData, match="there is no datapoint to forget"):
        fitted.forget([])
    with pytest.raises(EmptyData, match="no datapoint is left when all 20"):
        fitted.forget(ids)
    with pytest.raises(ModelMismatch, match="is not fitted"):
        Sisa(Recorder(), 2).forget(["a"])
    with pytest.raises(DatumwiseError, match="0 shards of 1 slices"):
        Sisa(Recorder(), 0)
    with pytest.raises(UnknownName, match="no way to combine 'max'"):
        Sisa(Recorder(), 2, combine="max")
    with pytest.raises(ModelMismatch, match="LogisticRegression has no partial_fit"):
        Sisa(LogisticRegression(), 2, 2)
    with pytest.raises(ModelMismatch, match="must be told its classes"):
        Sisa(SGDClassifier(), 2, 2)
    with pytest.raises(ModelMismatch, match="the trainer returned no model for shard"):
        Sisa(lambda start, data, seed: None, 2).fit(ids, (X, y))
    with pytest.raises(ModelMismatch, match="name no classes"):
        _ = fitted.classes_
    with pytest.raises(ModelMismatch, match="a list has no predict"):
        fitted.predict(X)
    assert fitted.forget("d1").ids == ("d1",)
