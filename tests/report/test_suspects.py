"""What is planted is found, what is kept is kept, and every kind of finding may sit on one datapoint."""

import numpy as np
import pytest

from datumwise.report.suspects import KINDS, suspects


def _signals(n=400, classes=4, seed=0):
    """Four clusters, sure probabilities, ten wrong labels, five copies, three far points."""
    rng = np.random.default_rng(seed)
    true = rng.integers(0, classes, n)
    centres = 8 * rng.normal(size=(classes, 12))
    embedding = (centres[true] + rng.normal(size=(n, 12))).astype(np.float32)
    embedding[20:25] = embedding[30:35] + 1e-3
    true[20:25] = true[30:35]
    embedding[50:53] = 60 + 20 * rng.normal(size=(3, 12))
    labels = true.copy()
    labels[:10] = (true[:10] + 1) % classes
    probs = np.full((n, classes), 0.02)
    probs[np.arange(n), true] = 1 - 0.02 * (classes - 1)
    probs += rng.uniform(0, 0.01, probs.shape)
    probs /= probs.sum(1, keepdims=True)
    probs_fit = np.full((n, classes), 0.01)
    probs_fit[np.arange(n), labels] = 0.97
    probs_fit /= probs_fit.sum(1, keepdims=True)
    return {"embedding": embedding, "probs": probs, "probs_fit": probs_fit, "labels": labels}


def test_planted_faults_are_found_and_only_they_are_removed():
    found = suspects(_signals(), metric="euclidean")
    assert np.flatnonzero(found.flags["label_error"]).tolist() == list(range(10))
    assert np.flatnonzero(found.flags["outlier"]).tolist() == [50, 51, 52]
    copies = np.flatnonzero(found.flags["near_duplicate"])
    assert set(copies) == {*range(20, 25), *range(30, 35)}
    assert found.groups == 5
    assert found.removed.sum() == 10 + 3 + 5


def test_one_of_each_group_of_copies_is_kept_and_it_is_the_one_whose_label_fits():
    signals = _signals()
    signals["labels"][20] = (signals["labels"][20] + 1) % 4
    found = suspects(signals, metric="euclidean")
    assert found.copy_of[20] == 30
    assert found.copy_of[30] == -1
    assert found.flags["label_error"][20]
    assert found.flags["near_duplicate"][20]
    for one in range(21, 25):
        assert {found.copy_of[one], found.copy_of[one + 10]} in ({-1, one + 10}, {-1, one})


def test_hard_and_memorised_are_listed_and_kept():
    signals = _signals()
    doubtful = slice(100, 108)
    labels = signals["labels"][doubtful]
    signals["probs"][doubtful] = 0.3
    signals["probs"][np.arange(100, 108), labels] = 0.1
    found = suspects(signals, metric="euclidean")
    assert found.flags["hard"][doubtful].all()
    assert not found.removed[doubtful].any()
    assert not (found.flags["hard"] & found.flags["label_error"]).any()
    assert found.flags["memorised"][doubtful].all()
    assert not (found.flags["memorised"] & found.flags["label_error"]).any()


def test_order_of_rows_does_not_matter():
    signals = _signals()
    order = np.random.default_rng(1).permutation(400)
    found = suspects(signals, metric="euclidean")
    turned = suspects({name: values[order] for name, values in signals.items()}, metric="euclidean")
    for key in ("label_error", "outlier", "near_duplicate"):
        np.testing.assert_array_equal(turned.flags[key], found.flags[key][order])


def test_numbers_to_predict_are_told_by_their_residual():
    rng = np.random.default_rng(0)
    residual = rng.normal(size=300)
    residual[:4] = [25, -30, 18, 40]
    found = suspects({"embedding": rng.normal(size=(300, 6)), "residual": residual}, metric="euclidean")
    assert np.flatnonzero(found.flags["label_error"]).tolist() == [0, 1, 2, 3]
    assert "memorised" not in found.flags
    assert found.flags["hard"].sum() == int(0.03 * 296)


def test_without_labels_only_what_can_be_known_is_looked_for():
    rng = np.random.default_rng(0)
    found = suspects({"embedding": rng.normal(size=(100, 6))}, metric="euclidean")
    assert set(found.flags) == {"near_duplicate", "outlier"}


def test_likelihoods_tell_unlikely_and_memorised_texts_and_nan_is_never_a_finding():
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdefgh "), 200)) for _ in range(100)]
    n_tokens = np.full(100, 50)
    nll = n_tokens * rng.normal(4, 0.1, 100)
    nll[3], nll[5] = 50 * 9.0, 50 * 0.1
    n_tokens[7], nll[7] = 0, 0.0
    signals = {"embedding": rng.normal(size=(100, 6)), "nll": nll, "n_tokens": n_tokens, "predicted_texts": texts}
    found = suspects(signals, metric="euclidean")
    assert found.flags["hard"][3]
    assert np.flatnonzero(found.flags["memorised"]).tolist() == [5]
    assert not any(flag[7] for key, flag in found.flags.items() if key in ("hard", "memorised"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_removed_or_kept_on_purpose(kind):
    assert kind.removed == (kind.key in ("label_error", "near_duplicate", "outlier"))


def test_the_near_duplicate_column_is_the_declared_score():
    from datumwise.score.declare import find

    signals = _signals()
    found = suspects(signals, metric="euclidean")
    declared = find("near_duplicate").function(signals["embedding"], metric="euclidean")
    np.testing.assert_array_equal(found.scores["near_duplicate"], declared)
