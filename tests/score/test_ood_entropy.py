"""Entropy out of distribution against cleanlab."""

from __future__ import annotations

import numpy as np
import pytest
from cleanlab.outlier import OutOfDistribution

from datumwise.errors import LabelError
from datumwise.score import find
from datumwise.score.ood_entropy import ood_entropy


@pytest.mark.parametrize(("n", "K", "seed"), [(50, 2, 0), (200, 5, 1), (1000, 10, 2)])
def test_it_equals_cleanlab(n, K, seed):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(K, 0.3), n)
    labels = np.array([rng.choice(K, p=p) for p in probs])
    theirs = OutOfDistribution().fit_score(pred_probs=probs, labels=labels, verbose=False)
    np.testing.assert_allclose(ood_entropy(labels, probs), theirs, atol=1e-12)


def test_an_even_row_is_out_and_a_sure_one_in():
    probs = np.array([[0.98, 0.01, 0.01], [0.01, 0.98, 0.01], [0.01, 0.01, 0.98], [1 / 3, 1 / 3, 1 / 3]])
    found = ood_entropy(np.array([0, 1, 2, 0]), probs)
    assert found.argmin() == 3
    assert (found >= 0).all()
    assert (found <= 1).all()


def test_it_is_declared():
    assert find("ood_entropy").needs == ("labels", "probs")


def test_labels_of_no_class_are_refused():
    with pytest.raises(LabelError, match=r"outside 0\.\.1"):
        ood_entropy([0, 2], [[0.5, 0.5], [0.5, 0.5]])
