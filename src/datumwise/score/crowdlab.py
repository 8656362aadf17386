"""Which label do several raters and a classifier agree on, and how sure is it? CROWDLAB and majority vote.

Goh, Tkachenko and Mueller, 2022, *CROWDLAB: Supervised learning to infer consensus labels and quality scores for
data with multiple annotators*, section 3; conventions of cleanlab 2.9.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, LabelError, SchemaMismatch, name_some
from datumwise.score.checks import class_probabilities

__all__ = ["Consensus", "checked_votes", "crowdlab", "majority_vote"]

FLOOR = 1e-6  # of a weight, and of the error that weights are relative to


@dataclass(frozen=True)
class Consensus:
    """One label a datapoint from several raters.

    Attributes
    ----------
    labels : int64 (n,)
        The consensus.
    quality : float64 (n,)
        Probability that the consensus is right, 0 to 1.
    probs : float64 (n, K)
        Posterior of every class.
    agreement : float64 (n,)
        Share of the votes for the consensus.
    weights : float64 (m,)
        Of the raters.
    model_weight : float
        Of the classifier.
    rater_quality : float64 (m,)
        Estimated share of right votes of each rater; NaN where nothing says.
    """

    labels: np.ndarray = field(repr=False)
    quality: np.ndarray = field(repr=False)
    probs: np.ndarray = field(repr=False)
    agreement: np.ndarray = field(repr=False)
    weights: np.ndarray
    model_weight: float
    rater_quality: np.ndarray

    def __str__(self) -> str:
        lines = [
            f"consensus of {len(self.weights)} raters on {len(self.labels):,} datapoints, mean quality "
            f"{self.quality.mean():.3f}, classifier's weight {self.model_weight:.3f}",
            "rater  weight  quality",
        ]
        pairs = zip(self.weights, self.rater_quality, strict=True)
        return "\n".join([*lines, *(f"{j:>5}  {w:6.3f}  {q:7.3f}" for j, (w, q) in enumerate(pairs))])


def majority_vote(votes: Any, pred_probs: Any = None) -> np.ndarray:
    """The class most raters named; ties by the classifier, then the rarer class, then the better raters.

    Ties that are left go to the lowest class (cleanlab draws one).

    Parameters
    ----------
    votes : float or int (n, m)
        Class 0..K-1 that each rater gave; NaN where he gave none.
    pred_probs : float (n, K), optional

    Returns
    -------
    int64 (n,)

    Examples
    --------
    >>> majority_vote([[0, 0, 1], [1, np.nan, 1], [0, 1, np.nan]], [[.9, .1], [.5, .5], [.2, .8]]).tolist()
    [0, 1, 1]
    """
    probs = None if pred_probs is None else class_probabilities(pred_probs)
    votes = checked_votes(votes, None if probs is None else probs.shape[1])
    if probs is not None and len(probs) != len(votes):
        raise SchemaMismatch(f"{len(votes):,} rows of votes and {len(probs):,} of pred_probs do not fit together")
    return _majority(votes, probs, _classes(votes, probs))


def crowdlab(votes: Any, pred_probs: Any) -> Consensus:
    """Consensus labels, their quality, and how far to trust each rater and the classifier.

    The posterior of a datapoint is a weighted mean of the classifier's probabilities and, for every vote, of the
    vector with P at the class voted for and (1 - P)/(K - 1) elsewhere, P the mean agreement with the majority.
    A rater's weight is 1 - (1 - s)/(1 - A): s how often other raters agree with him, A how often the commonest class is
    right; the classifier's 1 - (its error)/(1 - A), times the root of the mean number of votes. Weights are taken
    from datapoints with several votes, first by the majority, then once more by the consensus.

    Parameters
    ----------
    votes : float or int (n, m)
        Class 0..K-1 that each rater gave; NaN where he gave none.
    pred_probs : float (n, K)
        Out-of-fold class probabilities.

    Returns
    -------
    Consensus

    Raises
    ------
    EmptyData
        A datapoint without a vote, a rater without one, or no datapoint with two.
    LabelError, SchemaMismatch, NotFinite

    Examples
    --------
    >>> votes = [[0, 0, 1], [1, 1, np.nan], [0, np.nan, 0], [1, 1, 0]]
    >>> found = crowdlab(votes, [[.8, .2], [.3, .7], [.6, .4], [.1, .9]])
    >>> found.labels.tolist(), bool(found.weights[2] < found.weights[0])
    ([0, 1, 0, 1], True)
    """
    probs = class_probabilities(pred_probs).astype(np.float64)
    votes = checked_votes(votes, probs.shape[1])
    if len(probs) != len(votes):
        raise SchemaMismatch(f"{len(votes):,} rows of votes and {len(probs):,} of pred_probs do not fit together")
    voted = ~np.isnan(votes)
    if not (voted.sum(axis=1) > 1).any():
        raise EmptyData("no datapoint has two votes: nothing says how far to trust anybody", remedy="dawid_skene needs none")
    K = probs.shape[1]
    majority = _majority(votes, probs, K)
    posterior = _posterior(votes, voted, probs, majority)[0]
    best = posterior == posterior.max(axis=1, keepdims=True)
    labels = np.where(best.sum(axis=1) == 1, posterior.argmax(axis=1), majority)
    posterior, weights, model_weight = _posterior(votes, voted, probs, labels)
    agreement = (votes == labels[:, None]).sum(axis=1) / voted.sum(axis=1)
    quality = posterior[np.arange(len(labels)), labels]
    share = model_weight / (model_weight + weights.sum() * voted.sum(axis=1).mean() / len(weights))
    given = np.where(voted, np.take_along_axis(posterior, np.where(voted, votes, 0).astype(np.int64), axis=1), np.nan)
    several = voted.sum(axis=1) > 1
    with np.errstate(invalid="ignore"):
        seen = voted[several].sum(axis=0)
        agreeing = (votes[several] == labels[several, None]).sum(axis=0) / np.where(seen > 0, seen, np.nan)
    rater_quality = share * np.nanmean(given, axis=0) + (1 - share) * agreeing
    return Consensus(labels, quality, posterior, agreement, weights, float(model_weight), rater_quality)


def checked_votes(votes: Any, n_classes: int | None = None) -> np.ndarray:
    """float64 (n, m) of whole numbers >= 0 and NaN, a vote in every row and column, or a refusal."""
    votes = np.asarray(votes)
    if votes.dtype.kind not in "fiub" or votes.ndim != 2:
        raise SchemaMismatch(f"votes must be datapoints x raters; got shape {votes.shape} of {votes.dtype}")
    if votes.size == 0:
        raise EmptyData("there are no votes")
    votes = votes.astype(np.float64)
    voted = ~np.isnan(votes)
    if not voted.any(axis=1).all():
        bare = np.flatnonzero(~voted.any(axis=1))
        raise EmptyData(f"row {name_some(bare)} of votes has no vote", remedy="leave these rows out", ids=bare.tolist())
    if not voted.any(axis=0).all():
        bare = np.flatnonzero(~voted.any(axis=0))
        raise EmptyData(f"rater {name_some(bare)} has not voted", remedy="leave the column out", ids=bare.tolist())
    top = np.inf if n_classes is None else n_classes - 1
    filled = np.where(voted, votes, 0)
    wrong = np.flatnonzero(((filled != np.round(filled)) | (filled < 0) | (filled > top) | np.isinf(filled)).any(axis=1))
    if len(wrong):
        raise LabelError(
            f"votes of row {name_some(wrong)} are not classes 0..{'K-1' if n_classes is None else n_classes - 1}",
            remedy="number the classes; NaN for no vote",
            ids=wrong.tolist(),
        )
    return votes


def _classes(votes: np.ndarray, probs: np.ndarray | None) -> int:
    return int(np.nanmax(votes)) + 1 if probs is None else probs.shape[1]


def _majority(votes: np.ndarray, probs: np.ndarray | None, K: int) -> np.ndarray:
    voted = ~np.isnan(votes)
    counts = np.zeros((len(votes), K))
    rows, raters = np.nonzero(voted)
    np.add.at(counts, (rows, votes[rows, raters].astype(np.int64)), 1)
    tied = counts == counts.max(axis=1, keepdims=True)
    settled = tied.sum(axis=1) == 1
    if probs is not None:
        tied = _best_of(tied, probs)
    tied = _best_of(tied, np.broadcast_to(-counts.sum(axis=0), counts.shape))
    open_ = np.flatnonzero(tied.sum(axis=1) > 1)
    if len(open_):
        label = tied.argmax(axis=1)
        known = voted & settled[:, None]
        with np.errstate(invalid="ignore"):
            trust = ((votes == label[:, None]) & known).sum(axis=0) / known.sum(axis=0)
        trust = np.where(np.isnan(trust), np.nanmean(trust) if (~np.isnan(trust)).any() else 0.0, trust)
        for i in open_:  # each class by the mean trust in those who named it
            named = [trust[votes[i] == c].mean() if tied[i, c] else -np.inf for c in range(K)]
            tied[i] = np.arange(K) == int(np.argmax(named))
    return tied.argmax(axis=1)


def _best_of(tied: np.ndarray, by: np.ndarray) -> np.ndarray:
    best = np.where(tied, by, -np.inf)
    return tied & (best == best.max(axis=1, keepdims=True))


def _posterior(
    votes: np.ndarray, voted: np.ndarray, probs: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray, float]:
    """Posterior (n, K), weights of the raters (m,) and of the classifier, given a first consensus."""
    K = probs.shape[1]
    number = voted.sum(axis=1)
    several = number > 1
    hits = votes == labels[:, None]
    P = (hits.sum(axis=1) / number)[several].mean()
    commonest = np.bincount(labels[several], minlength=K).argmax()
    base = max(np.mean(labels[several] != commonest), FLOOR)  # 1 - A
    weights = np.maximum(1 - (1 - _agreement(votes, voted, number)) / base, FLOOR)
    model_error = np.mean(probs[several].argmax(axis=1) != labels[several])
    model_weight = max(1 - model_error / base, FLOOR) * np.sqrt(number.mean())
    elsewhere = (1 - P) / (K - 1)
    posterior = probs * model_weight + (voted @ weights * elsewhere)[:, None]
    rows, raters = np.nonzero(voted)
    np.add.at(posterior, (rows, votes[rows, raters].astype(np.int64)), weights[raters] * (P - elsewhere))
    return posterior / (voted @ weights + model_weight)[:, None], weights, float(model_weight)


def _agreement(votes: np.ndarray, voted: np.ndarray, number: np.ndarray) -> np.ndarray:
    """(m,): share of the other votes on his datapoints that are as each rater's; who is always alone: the mean."""
    m = votes.shape[1]
    same = np.empty(m)
    others = np.empty(m)
    for j in range(m):
        rows = voted[:, j]
        same[j] = (votes[rows] == votes[rows, j][:, None]).sum() - rows.sum()
        others[j] = (number[rows] - 1).sum()
    with np.errstate(invalid="ignore"):
        agreement = same / others
    if np.isnan(agreement).all():
        raise DatumwiseError("no two raters have a datapoint in common", remedy="dawid_skene needs none")
    return np.where(np.isnan(agreement), np.nanmean(agreement), agreement)
