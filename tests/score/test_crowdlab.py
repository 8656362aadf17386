"""Consensus of several raters against cleanlab."""

from __future__ import annotations

import numpy as np
import pytest
from cleanlab.multiannotator import get_label_quality_multiannotator, get_majority_vote_label

from datumwise.errors import DatumwiseError, EmptyData, LabelError, SchemaMismatch
from datumwise.score.crowdlab import crowdlab, majority_vote


def crowd(n: int, m: int, K: int, seed: int, density: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Votes of raters of different skill, probabilities of a fair classifier, the truth."""
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, K, n)
    skill = np.linspace(0.5, 0.95, m)
    votes = np.where(rng.random((n, m)) < skill, truth[:, None], rng.integers(0, K, (n, m))).astype(float)
    votes[rng.random((n, m)) > density] = np.nan
    bare = np.isnan(votes).all(axis=1)
    votes[bare, rng.integers(0, m, bare.sum())] = truth[bare]
    logits = rng.normal(size=(n, K)) + 2 * np.eye(K)[truth]
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return votes, probs, truth


CASES = [(100, 4, 2, 0, 0.7), (300, 6, 4, 1, 0.4), (250, 10, 3, 2, 0.25), (80, 3, 5, 3, 1.0)]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
def test_consensus_quality_and_weights_equal_cleanlab(case):
    votes, probs, _ = crowd(*case)
    theirs = get_label_quality_multiannotator(votes, probs, return_weights=True, verbose=False)
    ours = crowdlab(votes, probs)
    np.testing.assert_array_equal(ours.labels, theirs["label_quality"]["consensus_label"])
    np.testing.assert_allclose(ours.quality, theirs["label_quality"]["consensus_quality_score"], atol=1e-12)
    np.testing.assert_allclose(ours.agreement, theirs["label_quality"]["annotator_agreement"], atol=1e-12)
    np.testing.assert_allclose(ours.weights, theirs["annotator_weight"], atol=1e-12)
    assert ours.model_weight == pytest.approx(theirs["model_weight"], abs=1e-12)
    np.testing.assert_allclose(ours.rater_quality, theirs["annotator_stats"]["annotator_quality"].sort_index(), atol=1e-12)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("with_probs", [True, False])
def test_majority_vote_breaks_ties_as_cleanlab(case, with_probs):
    votes, probs, _ = crowd(*case)
    votes[:, 0] = np.where(np.isnan(votes[:, 0]), 0, votes[:, 0])
    given = probs if with_probs else None
    theirs = get_majority_vote_label(votes, given, verbose=False)
    ours = majority_vote(votes, given)
    differ = np.flatnonzero(ours != theirs)
    for i in differ:  # only where it draws a class by lot
        counts = np.bincount(votes[i][~np.isnan(votes[i])].astype(int), minlength=probs.shape[1])
        assert not with_probs
        assert counts[ours[i]] == counts[theirs[i]] == counts.max()
    assert len(differ) <= 2


def test_consensus_beats_majority_and_classifier():
    votes, probs, truth = crowd(1000, 6, 4, 7, 0.4)
    right = (crowdlab(votes, probs).labels == truth).mean()
    assert right > (majority_vote(votes) == truth).mean() + 0.02
    assert right > (probs.argmax(axis=1) == truth).mean() + 0.02


def test_a_better_rater_weighs_more():
    votes, probs, _ = crowd(2000, 5, 3, 8, 0.6)
    found = crowdlab(votes, probs)
    assert (np.diff(found.weights) > 0).all()
    assert (np.diff(found.rater_quality) > 0).all()
    np.testing.assert_allclose(found.probs.sum(axis=1), 1, atol=1e-12)
    assert "5 raters" in str(found)


def test_renaming_the_classes_changes_nothing():
    votes, probs, _ = crowd(200, 5, 3, 9)
    to = np.array([2, 0, 1])
    moved = np.where(np.isnan(votes), np.nan, to[np.nan_to_num(votes).astype(int)])
    one, two = crowdlab(votes, probs), crowdlab(moved, probs[:, np.argsort(to)])
    np.testing.assert_array_equal(to[one.labels], two.labels)
    np.testing.assert_allclose(one.quality, two.quality, atol=1e-12)


PROBS = np.full((3, 2), 0.5)


@pytest.mark.parametrize(
    ("votes", "error", "says"),
    [
        ([[0, 1], [np.nan, np.nan], [1, 1]], EmptyData, "row 1 of votes has no vote"),
        ([[0, np.nan], [1, np.nan], [1, np.nan]], EmptyData, "rater 1 has not voted"),
        ([[0, 1], [0, 2], [1, 1]], LabelError, r"votes of row 1 are not classes 0\.\.1"),
        ([[0, 1], [0, 0.5], [1, 1]], LabelError, "row 1"),
        ([[0, 1], [1, 1]], SchemaMismatch, "2 rows of votes and 3 of pred_probs"),
        ([[0, np.nan], [np.nan, 1], [1, np.nan]], EmptyData, "no datapoint has two votes"),
        ([0, 1, 1], SchemaMismatch, "datapoints x raters"),
    ],
)
def test_bad_votes_are_refused_in_one_sentence(votes, error, says):
    with pytest.raises(error, match=says):
        crowdlab(votes, PROBS)
    assert issubclass(error, DatumwiseError)
