"""The one entry to all data values, and the answer it gives."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from value_cases import three_blobs

from datumwise.errors import DatumwiseError, DuplicateId, EmptyData, LabelError, NotFinite, SchemaMismatch, UnknownName
from datumwise.score import knn_shapley
from datumwise.score.value import METHODS, Value, value

X, Y, _ = three_blobs(12, 0, spread=2.0)
X_VAL, Y_VAL, _ = three_blobs(30, 1, spread=2.0)
FEW = {
    "tmc": {"n_permutations": 5},
    "beta": {"n_permutations": 5},
    "banzhaf": {"n_subsets": 50},
    "ame": {"n_subsets": 50},
    "cs_shapley": {"n_permutations": 5},
    "data_oob": {"n_models": 20},
    "volume": {"n_permutations": 5},
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_values_errors_and_its_cost(method):
    seen = []
    found = value(
        X, Y, X_VAL, Y_VAL, method, ids=list("abcdefghijkl"), random_state=0, progress=lambda *at: seen.append(at),
        **FEW.get(method, {}),
    )  # fmt: skip
    assert isinstance(found, Value)
    assert found.method == method
    assert found.values.shape == found.stderr.shape == (12,)
    assert np.isfinite(found.values).all()
    assert (found.stderr >= 0).all()
    assert (found.utility_calls > 0) == (method != "lava")
    assert list(found.ids) == list("abcdefghijkl")
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize("method", ["tmc", "beta", "banzhaf", "ame", "cs_shapley", "data_oob", "volume"])
def test_a_seed_repeats_and_another_differs(method):
    one, two, other = (value(X, Y, X_VAL, Y_VAL, method, random_state=s, **FEW[method]).values for s in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


def test_options_reach_method_and_utility():
    found = value(X, Y, X_VAL, Y_VAL, "exact", model="knn", k=3)
    np.testing.assert_allclose(found.values, knn_shapley(X, Y, X_VAL, Y_VAL, 3), atol=1e-12)
    stiff = value(X, Y, X_VAL, Y_VAL, "loo", ridge_alpha=1e6, empty=0.2)
    assert (stiff.values != value(X, Y, X_VAL, Y_VAL, "loo").values).any()
    small = value(X, Y, X_VAL, Y_VAL, "exact", semivalue="beta", alpha=4.0)
    assert (small.values != value(X, Y, X_VAL, Y_VAL, "exact").values).any()


def test_any_classifier_and_score_do():
    found = value(
        X,
        Y,
        X_VAL,
        Y_VAL,
        "loo",
        model=LogisticRegression(),
        scoring=lambda m, A, b: m.predict_proba(A)[np.arange(30), b].mean(),
    )
    assert len(np.unique(found.values)) == 12  # a probability is finer than accuracy


def test_values_as_scores_and_as_text():
    found = value(X, Y, X_VAL, Y_VAL, "tmc", random_state=0, ids=[f"row{i}" for i in range(12)], **FEW["tmc"])
    scores = found.to_scores()
    assert list(scores) == ["value", "value_stderr"]
    assert scores.top("value", 1)[0][0] == f"row{found.values.argmax()}"
    text = str(found)
    assert text.startswith("tmc: 12 values, 5 draws, ")
    assert f"row{found.values.argmax()}" in text.splitlines()[-1]


def test_reliability_foretells_the_correlation_with_another_run():
    big, y, _ = three_blobs(60, 2, noisy=6)
    runs = [value(big, y, X_VAL, Y_VAL, "tmc", model="knn", tolerance=0, n_permutations=40, random_state=s) for s in range(8)]
    seen = np.corrcoef([r.values for r in runs])[np.triu_indices(8, 1)].mean()
    assert np.mean([r.reliability for r in runs]) == pytest.approx(seen, abs=0.05)
    assert 0.3 < seen < 0.97
    assert Value("x", np.ones(3), np.zeros(3), 1, 1, np.arange(3)).reliability == 0


def test_intervals_widen_with_the_level():
    found = Value("x", np.array([1.0]), np.array([0.5]), 1, 1, np.arange(1))
    low, high = found.interval(0.95)
    assert (low[0], high[0]) == pytest.approx((1 - 0.979982, 1 + 0.979982), abs=1e-5)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"method": "owen"}, UnknownName, "no data value 'owen': one of tmc, beta"),
        ({"ids": ["a"] * 12}, DuplicateId, "id a occurs 12 times"),
        ({"ids": ["a"]}, SchemaMismatch, "ids must be one name a row, 12"),
        ({"y": None}, EmptyData, "y is missing"),
        ({"X_val": None}, EmptyData, "X_val is missing"),
        ({"X": np.where(np.arange(12)[:, None] == 4, np.inf, X)}, NotFinite, "row 4"),
        ({"y": -Y}, LabelError, "lie below 0"),
        ({"method": "lava", "model": LogisticRegression()}, DatumwiseError, "lava trains no model"),
        ({"method": "data_oob", "scoring": max}, DatumwiseError, "one row at a time"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change, error, says):
    given = {"X": X, "y": Y, "X_val": X_VAL, "y_val": Y_VAL} | change
    with pytest.raises(error, match=says):
        value(**given)
