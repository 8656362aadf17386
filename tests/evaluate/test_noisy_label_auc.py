"""AUC and F1 against scikit-learn, the interval against simulation, the cut against every cut."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import f1_score, roc_auc_score

from datumwise.errors import LabelError, NotFinite, SchemaMismatch
from datumwise.evaluate.noisy_label_auc import noisy_label_auc, two_means_cut

RNG = np.random.default_rng(0)
NOISY = RNG.random(300) < 0.2
VALUES = RNG.normal(size=300) - 1.5 * NOISY


@pytest.mark.parametrize("ties", [False, True])
def test_auc_and_f1_are_scikit_learns(ties):
    values = np.round(VALUES) if ties else VALUES
    found = noisy_label_auc(values, NOISY)
    assert found.auc.value == pytest.approx(roc_auc_score(NOISY, -values), abs=1e-12)
    flag = values < found.cut
    assert found.f1 == pytest.approx(f1_score(NOISY, flag))
    assert found.flagged == flag.sum()


def test_suspicion_is_value_turned_round():
    one, two = noisy_label_auc(VALUES, NOISY), noisy_label_auc(-VALUES, NOISY, higher_is_noisier=True)
    assert (one.auc, one.f1, one.cut) == (two.auc, two.f1, -two.cut)
    assert "above" in str(two)
    assert json.loads(two.to_json())["noisy"] == NOISY.sum()


def test_intervals_cover_the_true_auc_as_often_as_they_say():
    from scipy.special import ndtri

    gap = np.sqrt(2) * ndtri(0.8)  # two normals that far apart have AUC 0.8
    inside = 0
    for seed in range(400):
        rng = np.random.default_rng(seed)
        noisy = np.arange(200) < 50
        auc = noisy_label_auc(rng.normal(size=200) - gap * noisy, noisy).auc
        inside += auc.low <= 0.8 <= auc.high
    assert 0.92 < inside / 400 < 0.975


def test_the_cut_is_the_best_of_all_cuts():
    for seed in range(20):
        values = np.random.default_rng(seed).normal(size=30).round(1) ** 3
        line = np.sort(values)

        def spread(cut: float, values=values) -> float:
            low, high = values[values < cut], values[values >= cut]
            return ((low - low.mean()) ** 2).sum() + ((high - high.mean()) ** 2).sum()

        cuts = np.unique(line)[1:]
        assert spread(two_means_cut(values)) == pytest.approx(min(spread(c) for c in cuts), abs=1e-12)


def test_equal_values_flag_nobody():
    found = noisy_label_auc(np.ones(10), np.arange(10) < 3)
    assert (found.flagged, found.f1, found.auc.value) == (0, 0, 0.5)


def test_random_f1_is_what_random_flags_get():
    found = noisy_label_auc(VALUES, NOISY)
    flags = [np.random.default_rng(s).permutation(300) < found.flagged for s in range(200)]
    assert found.f1_at_random == pytest.approx(np.mean([f1_score(NOISY, f) for f in flags]), abs=0.01)


def test_bad_input_is_refused():
    with pytest.raises(LabelError, match="no label is wrong"):
        noisy_label_auc(VALUES, np.zeros(300, bool))
    with pytest.raises(LabelError, match="every label is wrong"):
        noisy_label_auc(VALUES, np.ones(300, bool))
    with pytest.raises(SchemaMismatch, match="noisy must be bool"):
        noisy_label_auc(VALUES, NOISY.astype(int))
    with pytest.raises(NotFinite, match="values has NaN or infinity in row 0"):
        noisy_label_auc(VALUES * np.nan, NOISY)
