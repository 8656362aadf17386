"""Out-of-bag values against a loop over bags."""

from __future__ import annotations

import numpy as np
import pytest
from joblib import parallel_config
from sklearn.linear_model import LogisticRegression
from sklearn.tree import DecisionTreeClassifier
from value_cases import three_blobs

from datumwise.errors import DatumwiseError, SchemaMismatch
from datumwise.score.data_oob import bag, data_oob

X, Y, WRONG = three_blobs(60, 0, noisy=6)


def by_loop(model, n_models: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Eq. 3, bag by bag and row by row, on rows drawn with repetition."""
    hits: list[list[float]] = [[] for _ in range(len(X))]
    for s in np.random.default_rng(seed).integers(0, 2**31 - 1, n_models):
        times = bag(len(X), s)
        rows = np.repeat(np.arange(len(X)), times)
        fitted = model(int(s)).fit(X[rows], Y[rows])
        for i in np.flatnonzero(times == 0):
            hits[i].append(float(fitted.predict(X[i : i + 1])[0] == Y[i]))
    return np.array([np.mean(h) for h in hits]), np.array([np.std(h, ddof=1) / np.sqrt(len(h)) for h in hits])


def test_any_classifier_equals_the_loop():
    found = data_oob(X, Y, LogisticRegression(), n_models=30, random_state=0)
    values, stderr = by_loop(lambda _: LogisticRegression(), 30, 0)
    np.testing.assert_allclose(found.values, values, atol=1e-12)
    np.testing.assert_allclose(found.stderr, stderr, atol=1e-12)
    assert found.utility_calls == 30


def test_the_fast_trees_find_what_trees_on_repeated_rows_find():
    found = data_oob(X, Y, n_models=60, random_state=0)
    values, stderr = by_loop(lambda s: DecisionTreeClassifier(random_state=s), 60, 0)
    # a tie between two splits may fall otherwise: the same trees but for ties
    assert np.abs(found.values - values).mean() < 0.02
    assert np.corrcoef(found.values, values)[0, 1] > 0.99
    assert stderr.shape == found.stderr.shape


def test_wrong_labels_are_worth_least():
    found = data_oob(X, Y, n_models=200, random_state=0)
    assert set(np.argsort(found.values)[:6]) == set(np.flatnonzero(WRONG))


def test_numbers_are_valued_by_minus_the_squared_error():
    target = X @ [1.0, 2.0, 3.0]
    target[5] += 40
    found = data_oob(X, target, n_models=100, random_state=0)
    assert found.values.argmin() == 5
    assert found.values.max() <= 0


def test_standard_errors_are_those_seen_between_runs():
    runs = [data_oob(X, Y, n_models=40, random_state=s) for s in range(25)]
    seen = np.std([r.values for r in runs], axis=0, ddof=1)
    said = np.sqrt(np.mean([r.stderr**2 for r in runs], axis=0))
    assert 0.85 < np.sqrt((seen**2).mean() / (said**2).mean()) < 1.15


def test_a_row_that_no_bag_lacks_has_no_value():
    found = data_oob(X, Y, n_models=2, random_state=0)
    assert np.isnan(found.stderr).any()
    lacking = np.zeros(60)
    for s in np.random.default_rng(0).integers(0, 2**31 - 1, 2):
        lacking += bag(60, s) == 0
    np.testing.assert_array_equal(np.isnan(found.values), lacking == 0)
    np.testing.assert_array_equal(np.isnan(found.stderr), lacking < 2)


def test_several_fits_at_a_time_give_the_same():
    with parallel_config(backend="threading"):
        one, two = (data_oob(X, Y, n_models=20, random_state=0, n_jobs=j).values for j in (None, 2))
    np.testing.assert_array_equal(one, two)


def test_bad_input_is_refused():
    with pytest.raises(SchemaMismatch, match="X has 60 rows and 5 labels"):
        data_oob(X, Y[:5])
    with pytest.raises(DatumwiseError, match="1 bag has no standard error"):
        data_oob(X, Y, n_models=1)
