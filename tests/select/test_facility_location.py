"""The same choice from a full matrix, a sparse one, one that is not symmetric, and one that is never held."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import scipy.sparse as sp
from set_functions import FromScratch, kernel

from datumwise.errors import DatumwiseError
from datumwise.select.facility_location import FacilityLocation, FacilityLocationFunction
from datumwise.select.graph_cut import GraphCut
from datumwise.select.greedy import greedi, naive, sieve_streaming, stochastic
from datumwise.select.saturated_coverage import SaturatedCoverage
from datumwise.select.similarity import given

module = importlib.import_module("datumwise.select.similarity")  # the room's name is the function

SELECTORS = [FacilityLocation, GraphCut, SaturatedCoverage]


def thin(seed=0, n=40):
    """A similarity with zeros, not symmetric: S[i, j] says how well j stands for i."""
    rng = np.random.default_rng(seed)
    S = kernel(n, seed) * rng.uniform(0.5, 1, size=(n, n))
    S[S < 0.2] = 0
    return S


@pytest.mark.parametrize("selector", SELECTORS)
def test_sparse_equals_dense_also_where_it_is_not_symmetric(selector):
    S = thin()
    a, b = selector(12, metric="precomputed").fit(S), selector(12, metric="precomputed").fit(sp.coo_array(S))
    assert a.ranking_.tolist() == b.ranking_.tolist()
    np.testing.assert_allclose(a.gains_, b.gains_, atol=1e-12)


@pytest.mark.parametrize(
    ("selector", "name"),
    list(zip(SELECTORS, ["facility_location", "graph_cut_2", "saturated_coverage"], strict=True)),
)
def test_one_sided_similarity_follows_the_definition(selector, name):
    S = thin(1)
    found = selector(10, metric="precomputed").fit(S)
    wanted = naive(FromScratch(name, S, None), 10)
    assert found.ranking_.tolist() == wanted[0].tolist()
    np.testing.assert_allclose(found.gains_, wanted[1], atol=1e-12)


@pytest.mark.parametrize("selector", SELECTORS)
def test_a_similarity_that_is_never_held_chooses_the_same(selector, monkeypatch):
    X = np.random.default_rng(0).normal(size=(60, 5))
    held = selector(15).fit(X)
    monkeypatch.setattr(module, "DENSE", 30)
    monkeypatch.setattr(module, "CELLS", 200)
    flown = selector(15).fit(X)
    assert held.ranking_.tolist() == flown.ranking_.tolist()
    np.testing.assert_allclose(held.gains_, flown.gains_, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("selector", SELECTORS)
def test_float32_and_float64_similarities_choose_the_same(selector):
    S = kernel(50, 3)
    a, b = (selector(10, metric="precomputed").fit(S.astype(dtype)) for dtype in (np.float32, np.float64))
    assert a.ranking_.tolist() == b.ranking_.tolist()


@pytest.mark.parametrize("how", [stochastic, greedi, sieve_streaming])
def test_gains_asked_one_by_one_are_those_kept_up_to_date(how):
    """These maximisers ask; naive and lazy read gains that a pick updates."""
    for S in (kernel(60, 4), sp.csr_array(thin(4, 60))):
        function = FacilityLocationFunction(given(S))
        ranking, gains = how(function, 8, random_state=0)
        kept = FacilityLocationFunction(given(S))
        kept.track()
        for row, gain in zip(ranking, gains, strict=True):
            assert kept.gains(np.array([row]))[0] == pytest.approx(gain, abs=1e-9)
            kept.add(row)


def test_tracking_from_a_set_that_is_not_empty():
    S = kernel(30, 5)
    one = FacilityLocationFunction(given(S))
    one.add(4)
    asked = one.gains(np.arange(30))
    one.track()
    np.testing.assert_allclose(one.gains(np.arange(30)), asked, atol=1e-12)


def test_ten_copies_of_each_are_chosen_once_at_most():
    X = np.repeat(np.random.default_rng(0).normal(size=(8, 5)), 10, axis=0)
    ranking = FacilityLocation(8, metric="rbf").fit(X).ranking_
    assert sorted(ranking // 10) == list(range(8))
    assert (ranking % 10 == 0).all()  # the lowest of the copies


def test_options_out_of_range_are_refused():
    with pytest.raises(DatumwiseError, match="lam is 0: lam > 0"):
        GraphCut(1, lam=0).fit(np.eye(3))
    with pytest.raises(DatumwiseError, match=r"alpha is 1.5: 0 < alpha <= 1"):
        SaturatedCoverage(1, alpha=1.5).fit(np.eye(3))


def test_ids_weights_and_mask_speak_of_the_same_rows():
    chosen = FacilityLocation(0.5, metric="precomputed").fit(np.eye(4), ids=list("abcd"))
    assert chosen.ids_.tolist() == ["a", "b"]
    assert chosen.mask_.tolist() == [True, True, False, False]
