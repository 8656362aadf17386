"""AUC, Min-K% and PrivLeak on given scores, where a trained model could not show a mistake."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from datumwise.errors import DatumwiseError, EmptyData, NotFinite
from datumwise.evaluate.privleak import PUBLISHED_AUC, auc, min_k_score, privleak


def test_auc_is_mann_whitney_with_ties_as_halves():
    rng = np.random.default_rng(0)
    for _ in range(20):
        p, n = rng.integers(0, 5, rng.integers(1, 12)), rng.integers(0, 5, rng.integers(1, 12))
        brute = np.mean([(a > b) + 0.5 * (a == b) for a in p for b in n])
        assert auc(p, n) == pytest.approx(brute, abs=1e-15)
        assert auc(p, n) + auc(n, p) == pytest.approx(1.0, abs=1e-15)
        both = roc_auc_score([1] * len(p) + [0] * len(n), np.concatenate([p, n]))
        assert auc(p, n) == pytest.approx(both, abs=1e-12)


def test_auc_does_not_change_under_a_monotone_map():
    rng = np.random.default_rng(1)
    p, n = rng.normal(size=30), rng.normal(size=20)
    assert auc(np.exp(p), np.exp(n)) == auc(p, n)


def test_min_k_of_all_tokens_is_the_mean_loss_and_of_one_the_worst():
    logprobs = -np.random.default_rng(2).exponential(size=17)
    assert min_k_score(logprobs, 1.0) == pytest.approx(-logprobs.mean())
    assert min_k_score(logprobs, 1 / 17) == pytest.approx(-logprobs.min())
    assert min_k_score(logprobs, 0.001) == pytest.approx(-logprobs.min())  # the published floor takes none and gives NaN
    assert min_k_score(np.random.default_rng(3).permutation(logprobs), 0.4) == pytest.approx(min_k_score(logprobs, 0.4))
    assert min_k_score(logprobs, 0.4) == pytest.approx(-np.sort(logprobs)[:6].mean())  # floor(17 * .4) = 6


def test_min_k_of_short_texts_is_never_nan_so_that_no_auc_is_poisoned():
    rows = [np.array([-2.0]), np.array([-1.0, -3.0])]
    assert min_k_score(rows, 0.4).tolist() == [2.0, 3.0]


def test_privleak_known_answers():
    news, books = PUBLISHED_AUC["news"], PUBLISHED_AUC["books"]
    assert privleak(0.0, news) == -100.0
    assert privleak(1.0, news) == pytest.approx(109.56, abs=5e-3)
    assert privleak(0.2292, books) == pytest.approx(-57.5, abs=0.05)
    assert privleak(1.0, books) == pytest.approx(85.4, abs=0.05)
    assert privleak(0.3, 0.3) == 0.0
    for a in np.linspace(0, 1, 11):
        assert -100 <= privleak(a, 0.4) <= 100 * (1 - 0.4) / 0.4 + 1e-9


def test_privleak_does_not_care_for_the_orientation_of_the_code_it_came_from():
    # the other convention computes 1 - AUC of members first, and then the same ratio
    rng = np.random.default_rng(4)
    forget, holdout = rng.normal(0, 1, 40), rng.normal(0.7, 1, 50)
    usual = roc_auc_score([1] * 40 + [0] * 50, -np.concatenate([forget, holdout]))
    assert privleak(auc(forget, holdout), 0.5) == pytest.approx(100 * ((1 - usual) - 0.5) / 0.5)


def test_refusals():
    with pytest.raises(NotFinite, match="not defined where the AUC of the reference is 0"):
        privleak(0.5, 0.0)
    with pytest.raises(NotFinite, match="AUC of the model is NaN"):
        privleak(float("nan"), 0.5)
    with pytest.raises(DatumwiseError, match=r"AUC of the reference is 47\.7: it is a probability"):
        privleak(0.5, 47.7)
    with pytest.raises(EmptyData, match="no negative scores"):
        auc([1.0], [])
    with pytest.raises(NotFinite, match="positive scores are NaN in row 1"):
        auc([1.0, np.nan], [1.0])
    with pytest.raises(EmptyData, match="token_logprobs is empty"):
        min_k_score([])
    with pytest.raises(DatumwiseError, match="share of 0"):
        min_k_score([-1.0], 0.0)
