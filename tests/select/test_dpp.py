"""Volumes are determinants, and a draw is a draw from the k-DPP."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chisquare
from set_functions import kernel

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.select.dpp import DPP, log_elementary, sample_k_dpp
from datumwise.select.log_det import DOptimal, LogDet


def log_det(L, rows):
    return np.linalg.slogdet(L[np.ix_(rows, rows)])[1] if len(rows) else 0.0


def test_greedy_gains_are_differences_of_log_determinants():
    S = kernel(40)
    quality = np.random.default_rng(0).uniform(0.5, 2, 40)
    L = S * np.outer(quality, quality)
    found = DPP(15, metric="precomputed").fit(S, scores=quality)
    wanted = np.diff([log_det(L, found.ranking_[:t]) for t in range(16)])
    np.testing.assert_allclose(found.gains_, wanted, atol=1e-8)
    for t in range(15):  # and each is the largest there is
        others = [log_det(L, [*found.ranking_[:t], j]) for j in range(40) if j not in found.ranking_[:t]]
        assert log_det(L, found.ranking_[: t + 1]) == pytest.approx(max(others))


def test_kernels_of_X_are_read_in_double_precision():
    X = np.random.default_rng(1).normal(size=(30, 12))
    unit = X / np.linalg.norm(X, axis=1)[:, None]
    found = DPP(8).fit(X)
    np.testing.assert_allclose(found.gains_.sum(), log_det((1 + unit @ unit.T) / 2, found.ranking_), atol=1e-8)


def test_draws_follow_the_k_dpp():
    """20,000 draws of 3 from 6 against det L_SS of all 20 subsets; and with eigenvectors from few features."""
    rng = np.random.default_rng(2)
    B = rng.normal(size=(6, 4))
    L = B @ B.T
    subsets = list(combinations(range(6), 3))
    p = np.array([np.linalg.det(L[np.ix_(S, S)]) for S in subsets])
    p /= p.sum()
    values, vectors = np.linalg.eigh(L)
    counts = dict.fromkeys(subsets, 0)
    for _ in range(20_000):
        counts[tuple(sorted(sample_k_dpp(values[2:], vectors[:, 2:], 3, random_state=rng)[0].tolist()))] += 1
    assert chisquare(list(counts.values()), 20_000 * p).pvalue > 1e-3


def test_the_selector_draws_from_the_same_law_with_few_features_and_without():
    """Inclusion frequencies of the dual (dot) and the full (precomputed) way, with quality."""
    X = np.random.default_rng(3).normal(size=(6, 3))
    quality = np.array([1, 2, 1, 0.5, 1, 1.5])
    L = X @ X.T * np.outer(quality, quality)
    subsets = list(combinations(range(6), 2))
    p = np.array([np.linalg.det(L[np.ix_(S, S)]) for S in subsets])
    wanted = np.array([p[[i in S for S in subsets]].sum() for i in range(6)]) / p.sum()
    rng = np.random.default_rng(4)
    for given, metric in ((X, "dot"), (X @ X.T, "precomputed")):
        one = DPP(2, method="sample", metric=metric, random_state=rng)
        seen = np.mean([one.fit(given, scores=quality).mask_ for _ in range(1500)], axis=0)
        assert np.abs(seen - wanted).max() < 4 * 0.5 / np.sqrt(1500)


def test_gains_of_a_draw_are_differences_of_log_determinants():
    X = np.random.default_rng(5).normal(size=(50, 8))
    found = DPP(6, method="sample", metric="dot", random_state=0).fit(X)
    assert len(set(found.ranking_)) == 6
    wanted = np.diff([log_det(X @ X.T, found.ranking_[:t]) for t in range(7)])
    np.testing.assert_allclose(found.gains_, wanted, atol=1e-8)
    again = DPP(6, method="sample", metric="dot", random_state=0).fit(X)
    assert again.ranking_.tolist() == found.ranking_.tolist()


def test_elementary_symmetric_polynomials_do_not_overflow():
    values = np.random.default_rng(6).uniform(0.5, 2, 9)
    wanted = [sum(np.prod(S) for S in combinations(values, k)) for k in range(6)]
    np.testing.assert_allclose(np.exp(log_elementary(np.log(values), 5)[:, -1]), wanted)
    assert np.isfinite(log_elementary(np.full(400, 50.0), 200)[:, -1]).all()


def test_more_than_the_rank_is_refused_by_both_methods():
    X = np.random.default_rng(7).normal(size=(20, 3))
    with pytest.raises(DatumwiseError, match=r"the kernel has rank 3, so no 4 datapoints span a volume: n_to_select up to 3"):
        DPP(5, metric="dot").fit(X)
    with pytest.raises(DatumwiseError, match=r"the kernel has rank 3, so no 5 datapoints can be drawn: n_to_select up to 3"):
        DPP(5, method="sample", metric="dot").fit(X)
    with pytest.raises(DatumwiseError, match="the kernel has rank 3"):
        DPP(5, metric="precomputed").fit((X @ X.T).astype(np.float32))


def test_what_is_no_dpp_is_refused():
    X = np.eye(4)
    with pytest.raises(DatumwiseError, match="metric 'cosine' is not positive semi-definite, so it has no volume: give one of"):
        DPP(2, metric="cosine").fit(X)
    with pytest.raises(UnknownName, match="there is no metric 'rfb': did you mean 'rbf'"):
        DPP(2, metric="rfb").fit(X)
    with pytest.raises(UnknownName, match="there is no method 'simple': did you mean 'sample'"):
        DPP(2, method="simple").fit(X)
    with pytest.raises(DatumwiseError, match=r"quality is not above 0 in row 1: give np.exp\(scores\)"):
        DPP(2).fit(X, scores=[1.0, 0, 1, 1])
    bad = np.array([[1.0, 2.0], [2.0, 1.0]])
    with pytest.raises(DatumwiseError, match="the kernel is not positive semi-definite: row 1 has a negative part left"):
        DPP(2, metric="precomputed").fit(bad)
    with pytest.raises(DatumwiseError, match="the kernel is not positive semi-definite"):
        DPP(2, method="sample", metric="precomputed").fit(bad)
    with pytest.raises(DatumwiseError, match="reg is -1: reg >= 0"):
        LogDet(2, reg=-1).fit(X)
    with pytest.raises(DatumwiseError, match="lam is 0: lam > 0"):
        DOptimal(2, lam=0).fit(X)


def test_log_det_of_a_linear_kernel_is_the_d_optimal_design():
    """det(I + G_S G_S^T / lam) = det(lam I + G_S^T G_S) / lam^p."""
    G = np.random.default_rng(8).normal(size=(40, 5))
    a, b = LogDet(12, metric="dot").fit(G / np.sqrt(0.3)), DOptimal(12, lam=0.3).fit(G)
    assert a.ranking_.tolist() == b.ranking_.tolist()
    np.testing.assert_allclose(a.gains_, b.gains_, atol=1e-9)
