"""A linear model of good and bad texts."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits, load_wine
from sklearn.exceptions import NotFittedError
from sklearn.metrics import roc_auc_score

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch
from datumwise.score.quality_classifier import QualityClassifier


def halves() -> tuple[list[str], list[str], list[str], list[str]]:
    """Pieces of descriptions of data sets, and of documentation of functions; each halved."""
    good = " ".join(load().DESCR for load in (load_wine, load_breast_cancer, load_diabetes, load_digits))
    bad = " ".join(getattr(np, name).__doc__ for name in ("sum", "sort", "where", "dot", "mean", "take", "argmax", "pad"))
    pieces = [[" ".join(text.split()[i : i + 15]) for i in range(0, 1500, 15)] for text in (good, bad)]
    return pieces[0][::2], pieces[1][::2], pieces[0][1::2], pieces[1][1::2]


def test_the_logit_tells_unseen_texts_apart_and_not_if_the_corpora_were_mixed() -> None:
    good, bad, new_good, new_bad = halves()
    labels = np.repeat([1, 0], [len(new_good), len(new_bad)])
    learnt = QualityClassifier().fit(good, bad).score_samples(new_good + new_bad)
    assert roc_auc_score(labels, learnt) > 0.9
    mixed = QualityClassifier().fit(good[::2] + bad[::2], good[1::2] + bad[1::2]).score_samples(new_good + new_bad)
    assert 0.25 < roc_auc_score(labels, mixed) < 0.75


def test_the_score_is_the_logit_and_swapping_the_corpora_turns_its_sign() -> None:
    good, bad = ["fine words here", "more fine prose"], ["spam spam", "buy spam now", "spam"]
    there = QualityClassifier().fit(good, bad)
    back = QualityClassifier().fit(bad, good)
    texts = ["fine spam", "prose", ""]
    assert there.score_samples(texts) == pytest.approx(-back.score_samples(texts), abs=1e-4)
    assert there.score_samples([""])[0] == there.intercept_


def test_balance_takes_out_the_sizes_of_the_corpora() -> None:
    good, bad = ["fine prose"], ["spam now"]
    even = QualityClassifier().fit(good * 20, bad).score_samples(["unseen"])[0]
    skewed = QualityClassifier(balanced=False).fit(good * 20, bad).score_samples(["unseen"])[0]
    assert abs(even) < 0.05
    assert skewed > 0.1


def test_it_is_an_estimator_that_can_be_cloned() -> None:
    assert clone(QualityClassifier(C=3.0)).get_params()["C"] == 3.0


def test_bad_texts_are_refused() -> None:
    with pytest.raises(EmptyData, match="bad is empty"):
        QualityClassifier().fit(["a"], [])
    with pytest.raises(SchemaMismatch, match=r"good has no string in row 1 \(NoneType\)"):
        QualityClassifier().fit(["a", None], ["b"])
    with pytest.raises(DatumwiseError, match="neither the good nor the bad texts have a word"):
        QualityClassifier().fit([" "], [""])
    with pytest.raises(NotFittedError, match=r"call fit\(good, bad\) first"):
        QualityClassifier().score_samples(["a"])
