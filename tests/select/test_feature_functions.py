"""Feature functions, coverage and mixtures read sparse matrices as dense ones, and refuse what they cannot count."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from set_functions import counts, kernel

from datumwise.errors import DatumwiseError, SchemaMismatch, UnknownName
from datumwise.select.disparity import Disparity
from datumwise.select.facility_location import FacilityLocation
from datumwise.select.feature_based import CONCAVE, FeatureBased
from datumwise.select.graph_cut import GraphCut
from datumwise.select.max_coverage import MaxCoverage
from datumwise.select.mixture import Mixture, MixtureFunction


@pytest.mark.parametrize("concave", list(CONCAVE))
def test_sparse_features_choose_as_dense_ones(concave):
    X = counts(50, 0)
    weights = np.random.default_rng(0).uniform(size=7)
    a = FeatureBased(20, concave=concave, feature_weights=weights).fit(X)
    b = FeatureBased(20, concave=concave, feature_weights=weights).fit(sp.coo_matrix(X))
    assert a.ranking_.tolist() == b.ranking_.tolist()
    np.testing.assert_allclose(a.gains_, b.gains_, atol=1e-12)


def test_feature_weights_weigh():
    X = np.array([[4.0, 0], [0, 1]])
    assert FeatureBased(1).fit(X).ranking_.tolist() == [0]
    assert FeatureBased(1, feature_weights=[1, 3]).fit(X).gains_.tolist() == [3.0]


def test_tags_matrix_and_sparse_matrix_are_one():
    X = counts(40, 1)
    tags = [np.flatnonzero(row).tolist() for row in X]
    found = [MaxCoverage(5).fit(one) for one in (tags, X, sp.csr_array(X))]
    assert len({tuple(one.ranking_) for one in found}) == 1
    assert found[0].gains_.sum() == 7


def test_tags_are_weighed_and_counted_once_a_datapoint():
    tags = [["a", "a", "b"], ["rare"], ["c", "d", "e"]]
    assert MaxCoverage(1).fit(tags).gains_.tolist() == [3.0]
    assert MaxCoverage(2, tag_weights={"rare": 5.0}).fit(tags).ranking_.tolist() == [1, 2]


def test_mixture_is_the_weighted_sum():
    S = kernel(30)
    parts = [FacilityLocation(1, metric="precomputed"), GraphCut(1, metric="precomputed", lam=3)]
    for X in (S, sp.csr_array(S)):
        alone = [Mixture(8, parts, weights).fit(X).ranking_.tolist() for weights in ([1, 0], [0, 1])]
        assert alone == [part.set_params(n_to_select=8).fit(X).ranking_.tolist() for part in parts]
    both = Mixture(8, parts, [2, 0.5]).fit(S)
    chosen = both.ranking_
    wanted = 2 * S[:, chosen].max(axis=1).sum() + 0.5 * (3 * S[:, chosen].sum() - S[np.ix_(chosen, chosen)].sum())
    assert both.gains_.sum() == pytest.approx(wanted)


def test_mixture_with_disparity_is_maximised_plainly():
    X = np.random.default_rng(0).normal(size=(30, 4))
    parts = [FacilityLocation(1), Disparity(1)]
    assert len(Mixture(5, parts).fit(X).ranking_) == 5
    with pytest.raises(DatumwiseError, match="MixtureFunction is not submodular, so 'lazy' says nothing of it"):
        Mixture(5, parts, optimizer="lazy").fit(X)


def test_what_cannot_be_counted_is_refused():
    bad = np.array([[1.0, 2], [0, -1]])
    for X in (bad, sp.csr_array(bad)):
        with pytest.raises(DatumwiseError, match=r"a feature is negative in row 1: give counts or activations"):
            FeatureBased(1).fit(X)
    with pytest.raises(UnknownName, match="there is no concave function 'sqr': did you mean 'sqrt'"):
        FeatureBased(1, concave="sqr").fit(np.eye(2))
    with pytest.raises(DatumwiseError, match="feature_weights must be 2 numbers, none negative"):
        FeatureBased(1, feature_weights=[1, -1]).fit(np.eye(2))
    with pytest.raises(DatumwiseError, match="tags of row 1 are a string: give a list of tags"):
        MaxCoverage(1).fit([["a"], "b"])
    with pytest.raises(DatumwiseError, match="tag_weights must be 3 numbers"):
        MaxCoverage(1, tag_weights=[1.0]).fit(np.eye(3))
    with pytest.raises(UnknownName, match="there is no disparity 'minsum': did you mean 'min_sum'"):
        Disparity(1, kind="minsum").fit(np.eye(3))


def test_what_cannot_be_mixed_is_refused():
    S = kernel(4)
    with pytest.raises(DatumwiseError, match="Mixture has no parts"):
        Mixture(1).fit(S)
    with pytest.raises(SchemaMismatch, match="MaxCoverage cannot be part of a mixture"):
        Mixture(1, [MaxCoverage(1)]).fit(S)
    with pytest.raises(SchemaMismatch, match="some parts want a precomputed similarity and some X"):
        Mixture(1, [FacilityLocation(1), FacilityLocation(1, metric="precomputed")]).fit(S)
    with pytest.raises(SchemaMismatch, match="there are 2 part_weights for 1 parts"):
        Mixture(1, [FacilityLocation(1)], [1, 2]).fit(S)
    with pytest.raises(DatumwiseError, match=r"part_weights are \[0.0\]: 0 or above, and one above 0"):
        Mixture(1, [FacilityLocation(1)], [0]).fit(S)
    with pytest.raises(SchemaMismatch, match="the parts are of 4, 3 datapoints"):
        MixtureFunction([one._function(X=np.eye(n)) for one, n in ((FacilityLocation(1), 4), (FeatureBased(1), 3))])
    with pytest.raises(DatumwiseError, match="similarity is negative in row 0"):
        Mixture(1, [Disparity(1, metric="precomputed"), FacilityLocation(1, metric="precomputed")]).fit(-np.eye(3))
