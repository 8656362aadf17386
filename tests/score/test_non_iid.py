"""The test of order against cleanlab, and its errors in simulation."""

from __future__ import annotations

import numpy as np
import pytest
from cleanlab.datalab.internal.issue_manager.noniid import NonIIDIssueManager
from scipy.sparse import csr_matrix

from datumwise.errors import DatumwiseError
from datumwise.probe.neighbours import neighbours
from datumwise.score import find
from datumwise.score.non_iid import non_iid, order_independence


def cleanlabs(X: np.ndarray, k: int) -> tuple[float, np.ndarray]:
    """Statistic and scores of cleanlab 2.9 on our neighbours."""

    class Lab:
        def get_info(self, *_):
            return {}

    manager = NonIIDIssueManager(Lab(), k=k)
    distances, near = neighbours(X, k)
    n = len(X)
    graph = csr_matrix((distances.ravel() + 1e-9, near.ravel(), np.arange(0, n * k + 1, k)), shape=(n, n))
    manager.neighbor_index_choices = manager._get_neighbors(knn_graph=graph)
    manager.neighbor_index_distances = np.abs(np.arange(n)[:, None] - manager.neighbor_index_choices)
    return manager._get_statistics(manager.neighbor_index_distances)["ks"], manager._score_dataset()


@pytest.mark.parametrize(("n", "d", "k"), [(30, 2, 5), (101, 3, 10), (250, 8, 10), (60, 5, 1)])
@pytest.mark.parametrize("drift", [False, True])
def test_statistic_and_scores_equal_cleanlab(n, d, k, drift):
    X = np.random.default_rng(n).normal(size=(n, d))
    X = np.cumsum(X, axis=0) if drift else X
    found = non_iid(X, k, n_permutations=1, random_state=0)
    statistic, scores = cleanlabs(X, k)
    assert found.statistic == pytest.approx(statistic, abs=1e-12)
    np.testing.assert_allclose(found.score, scores, atol=1e-12)
    np.testing.assert_array_equal(order_independence(X, k=k), found.score)


def test_drift_and_batches_are_found():
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(size=(200, 3)), axis=0)
    batches = np.repeat(rng.normal(size=(4, 3)), 50, axis=0) + 0.3 * rng.normal(size=(200, 3))
    for X in (walk, batches):
        assert non_iid(X, random_state=0).p_value == 0.01


def test_independent_data_are_rarely_called_dependent():
    p = [non_iid(np.random.default_rng(s).normal(size=(80, 3)), n_permutations=19, random_state=s).p_value for s in range(120)]
    assert np.mean(np.array(p) <= 0.05) < 0.11  # level 0.05; three standard errors above
    assert 0.4 < np.mean(p) < 0.63


def test_it_is_declared():
    assert find("order_independence").needs == ("embedding",)


def test_bad_options_are_refused():
    with pytest.raises(DatumwiseError, match="k = 10 neighbours"):
        non_iid(np.ones((5, 2)))
    with pytest.raises(DatumwiseError, match="0 permutations are no test"):
        non_iid(np.random.default_rng(0).normal(size=(30, 2)), n_permutations=0)
