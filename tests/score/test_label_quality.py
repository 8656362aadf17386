"""Label quality equals cleanlab's and means what it says."""

from __future__ import annotations

import numpy as np
import pytest
from cleanlab.rank import get_label_quality_scores
from hypothesis import given, settings
from hypothesis import strategies as st

from datumwise.errors import UnknownName
from datumwise.score import label_error, label_quality, normalized_margin

METHODS = ["self_confidence", "normalized_margin", "confidence_weighted_entropy"]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 80), st.integers(2, 8), st.sampled_from([np.float32, np.float64]))
def test_label_quality_equals_cleanlab(seed, n, K, dtype):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(K, 0.3), n).astype(dtype)
    probs[0] = np.eye(K)[0]
    labels = rng.integers(0, K, n)
    for method in METHODS:
        np.testing.assert_array_equal(
            label_quality(labels, probs, method), get_label_quality_scores(labels, probs, method=method)
        )


def test_label_error_is_above_one_half_where_another_class_is_likelier():
    rng = np.random.default_rng(0)
    probs, labels = rng.dirichlet(np.ones(4), 500), rng.integers(0, 4, 500)
    np.testing.assert_array_equal(label_error(probs, labels) > 0.5, probs.argmax(axis=1) != labels)
    np.testing.assert_allclose(label_error(probs, labels) + normalized_margin(probs, labels), 1)


def test_scores_leave_the_probabilities_as_they_were():
    probs = np.array([[0.9, 0.1], [0.2, 0.8]])
    for method in METHODS:
        label_quality([0, 0], probs, method)
    assert probs.tolist() == [[0.9, 0.1], [0.2, 0.8]]


def test_unknown_method_is_refused():
    with pytest.raises(UnknownName, match="one of self_confidence"):
        label_quality([0, 1], [[0.9, 0.1], [0.2, 0.8]], "margin")
