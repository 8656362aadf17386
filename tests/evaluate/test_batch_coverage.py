"""What is promised about new datapoints is kept as often as the law of ranks says, and sets are as large as counted by hand."""

import json
import math

import numpy as np
import pytest
from scipy.stats import betabinom

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch
from datumwise.evaluate.batch_coverage import Promise, batch_coverage


def regression(n=600, seed=0):
    rng = np.random.default_rng(seed)
    predicted = rng.standard_normal(n)
    return predicted + rng.standard_normal(n), predicted


def classification(n=600, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(classes, 0.7), n)
    return np.array([rng.choice(classes, p=row) for row in probs]), probs


def test_a_batch_promise_is_kept_as_often_as_the_law_of_ranks_says():
    y, predicted = regression()
    promise = batch_coverage(y, predicted, deltas=(0.1, 0.0), confidence=0.8, n_splits=4000)
    n, m = promise.calibration, promise.batch
    assert (n, m, [row.least for row in promise.batches]) == (300, 20, [18, 20])
    for row in promise.batches:
        # how many calibration scores lie below the z-th of the batch is beta-binomial: P(rank <= k) is its cdf at k - 1
        law = betabinom(n, row.least, m - row.least + 1)
        k = next(k for k in range(1, n + 2) if law.cdf(k - 1) >= row.promised)
        error = math.sqrt(0.25 / 4000)
        assert abs(row.measured.value - law.cdf(k - 1)) < 4 * error
        alone = law.cdf(math.ceil((n + 1) * row.promised) - 1)  # the one-point rank
        assert abs(row.one_point - alone) < 4 * error
        assert row.one_point < row.promised - 0.1


def test_each_datapoint_is_covered_as_often_as_counted():
    y, probs = classification()
    promise = batch_coverage(y, probs, levels=(0.9,), seed=3)
    row = promise.points[0]
    order = np.random.default_rng(3).permuted(np.broadcast_to(np.arange(600), (500, 600)), axis=1)[0]
    calibration, tested = order[:300], order[300:]
    threshold = np.sort(1 - probs[calibration, y[calibration]])[math.ceil(301 * 0.9) - 1]
    sets = [{c for c in range(4) if 1 - p[c] <= threshold} | {int(p.argmax())} for p in probs]
    assert row.measured.value == np.mean([y[i] in sets[i] for i in tested])
    assert row.measured.low < row.measured.value < row.measured.high


def test_sizes_are_means_over_the_splits_and_no_set_is_empty():
    y, probs = classification(n=80)
    promise = batch_coverage(y, probs, levels=(0.2, 0.9), confidence=0.9, n_splits=7, seed=1)
    orders = np.random.default_rng(1).permuted(np.broadcast_to(np.arange(80), (7, 80)), axis=1)
    sizes = []
    for order in orders:
        threshold = np.sort(1 - probs[order[:40], y[order[:40]]])[math.ceil(41 * 0.2) - 1]
        sizes.append(np.maximum((1 - probs <= threshold).sum(1), 1).mean())
    assert promise.points[0].size == pytest.approx(np.mean(sizes), rel=1e-12)
    assert promise.points[0].size >= 1
    assert promise.batches[2].size >= promise.batches[0].size >= promise.points[1].size  # a batch asks for more than a point


def test_intervals_are_twice_the_threshold_and_unbounded_where_too_few_calibrate():
    y, predicted = regression(n=24)
    promise = batch_coverage(y, predicted, levels=(0.5, 0.99), n_splits=20)
    assert math.isinf(promise.points[1].size)  # 12 datapoints cannot promise 99 %
    assert promise.points[1].measured.value == 1
    assert 0 < promise.points[0].size < 5
    assert "no bound: too few calibrate" in str(promise)


def test_many_splits_in_blocks_give_the_same(monkeypatch):
    import importlib

    module = importlib.import_module("datumwise.evaluate.batch_coverage")
    y, predicted = regression(n=100)
    whole = batch_coverage(y, predicted, n_splits=50)
    monkeypatch.setattr(module, "BLOCK", 700)
    assert batch_coverage(y, predicted, n_splits=50) == whole


def test_it_survives_json():
    y, predicted = regression(n=24)
    promise = batch_coverage(y, predicted, learner="ridge", levels=(0.5, 0.99), n_splits=20)
    again = Promise.from_dict(json.loads(json.dumps(promise.as_dict(), allow_nan=False)))
    assert again.batches == promise.batches
    assert math.isinf(again.points[1].size)
    assert str(again) == str(promise)
    assert str(promise).startswith("ridge, 12 held-out datapoints calibrate, 12 test")


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        ({"levels": (0.9, 1.0)}, DatumwiseError, "level is 1: give a number between 0 and 1"),
        ({"deltas": (1.0,)}, DatumwiseError, "delta is 1: give a share from 0 to below 1"),
        ({"confidence": 0}, DatumwiseError, "confidence is 0"),
        ({"batch": 40}, DatumwiseError, "a batch of 40 is more than the 30 that are tested"),
        ({"y": np.zeros(59)}, SchemaMismatch, "there are 59 labels and 60 predictions"),
        ({"y": np.zeros(19), "predicted": np.zeros(19)}, EmptyData, "19 held-out datapoints are too few to promise anything"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(change, error, sentence):
    y, predicted = regression(n=60)
    with pytest.raises(error, match=sentence):
        batch_coverage(**{"y": y, "predicted": predicted, **change})
