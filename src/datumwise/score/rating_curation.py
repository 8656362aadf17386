"""Which ratings of a noisy judge are wrong, and what should they be? DS2's curation by neighbours.

Pang et al., 2025, *Improving Data Efficiency via Curating LLM-Driven Rating Systems* (DS2), ICLR, section 4; the
transition matrix by Zhu et al., 2021, *Clusterability as an Alternative to Anchor Points*, ICML, section 4; the
ranking by Zhu et al., 2022, *Detecting Corrupted Labels Without Training a Model to Predict*, ICML, section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import softmax

from datumwise.errors import DatumwiseError, SchemaMismatch
from datumwise.probe.neighbours import finite_matrix, neighbours
from datumwise.score.checks import class_labels, several_classes

__all__ = ["CuratedRatings", "consensus_statistics", "curate_ratings", "transition_matrix"]

FLOOR, CEILING = 0.05, 0.95  # of the share of wrong ratings of a level, where the matrix says none or all
TINY = 1e-8  # of a share of votes, before its logarithm
UNANIMOUS = 1 - 1e-9  # share of votes from which on nobody disagrees
SPARE = 15  # neighbours beyond k, of which a random tenth is left out in a round


@dataclass(frozen=True)
class CuratedRatings:
    """Ratings put right where their neighbours say so.

    Attributes
    ----------
    ratings : int64 (n,)
        Curated: the given rating, or the suggested one where ``confidence`` reaches the threshold.
    error : bool (n,)
        Whether the given rating is probably wrong.
    suggested : int64 (n,)
        What the neighbours say it should be.
    confidence : float64 (n,)
        Of the suggestion, 0 to 1; 0 where nothing is wrong.
    transition : float64 (K, K)
        P(rated l | true level k) at [k, l].
    prior : float64 (K,)
        Share of the true levels.
    """

    ratings: np.ndarray = field(repr=False)
    error: np.ndarray = field(repr=False)
    suggested: np.ndarray = field(repr=False)
    confidence: np.ndarray = field(repr=False)
    transition: np.ndarray
    prior: np.ndarray

    def __str__(self) -> str:
        lines = [f"{int(self.error.sum()):,} of {len(self.error):,} ratings look wrong; true level x rating:"]
        return "\n".join([*lines, *("  ".join(f"{share:.2f}" for share in row) for row in self.transition)])


def curate_ratings(
    embedding: Any,
    ratings: Any,
    n_levels: int | None = None,
    *,
    k: int = 10,
    n_rounds: int = 51,
    sample_share: float = 0.9,
    threshold: float = 0.5,
    random_state: Any = None,
    progress: Callable[[int, int], None] | None = None,
) -> CuratedRatings:
    """Find and mend wrong ratings: datapoints that lie together deserve the same.

    Of the ratings of a level the share that `transition_matrix` calls wrong is flagged, those first whose
    neighbours (weighted by cosine similarity, the datapoint itself as if a step nearer than the nearest) least agree;
    over ``n_rounds`` random nine tenths of the data, a majority of the rounds decides. A rating that no neighbour
    disagrees with is never flagged (published: all that tie with the threshold are, so that a perfect judge is wrong
    everywhere).

    Parameters
    ----------
    embedding : float (n, d), finite
    ratings : int (n,)
        Levels 0..K-1.
    n_levels : int, optional
        K; the largest rating + 1 by default.
    k : int, default 10
        Votes, the datapoint's own among them.
    n_rounds : int, default 51
    sample_share : float, default 0.9
    threshold : float, default 0.5
        Confidence from which on a rating is replaced.
    random_state : None, int or Generator
    progress : callable, optional
        Called with (rounds done, in all).

    Returns
    -------
    CuratedRatings

    Raises
    ------
    LabelError, SchemaMismatch, NotFinite, DatumwiseError
    """
    X, ratings, K = _checked(embedding, ratings, n_levels)
    n = len(X)
    if not 3 <= k < n:
        raise DatumwiseError(f"k = {k} votes of {n} datapoints", remedy=f"3 <= k < {n}")
    if not 0 < sample_share <= 1 or n_rounds < 1:
        raise DatumwiseError(f"n_rounds = {n_rounds} of sample_share = {sample_share}", remedy="at least one round of a share")
    rng = np.random.default_rng(random_state)
    distance, near = neighbours(X, min(k + SPARE, n - 1), "cosine")
    transition, prior = _fit_transition(*consensus_statistics(ratings[np.column_stack([np.arange(n), near[:, :2]])], K))
    given = np.bincount(ratings, minlength=K) / n
    wrong = 1 - np.minimum(transition.diagonal() * prior / np.maximum(given, 1e-12), 1)  # share of each level's ratings
    wrong = np.where(wrong >= 1, CEILING, np.where(wrong <= 0, FLOOR, wrong))

    flagged, seen = np.zeros(n), np.zeros(n)
    suggestions = np.zeros((n, K))
    size = max(1, int(sample_share * n))
    for round_ in range(n_rounds):
        inside = np.zeros(n, bool)
        inside[rng.permutation(n)[:size]] = True
        rows = np.flatnonzero(inside)
        share = _votes(ratings, distance[rows], near[rows], inside, rows, k, K)
        doubt = -np.log(share[np.arange(len(rows)), ratings[rows]] + TINY)
        likeliest = share.argmax(axis=1)
        seen[rows] += 1
        for level in range(K):
            of_level = ratings[rows] == level
            if not of_level.any():
                continue
            most = round(wrong[level] * int(of_level.sum()))
            tail = np.flatnonzero(of_level)[np.argsort(-doubt[of_level], kind="stable")[:most]]
            tail = tail[share[tail, ratings[rows[tail]]] < UNANIMOUS]
            flagged[rows[tail]] += 1
            suggestions[rows[tail], likeliest[tail]] += 1
        if progress:
            progress(round_ + 1, n_rounds)
    often = (flagged + 1) / (seen + 2)
    error = np.round(often).astype(bool)
    share = (suggestions + 1) / (suggestions.sum(axis=1, keepdims=True) + K)
    share[np.arange(n), ratings] = -1  # another than the given one
    suggested = share.argmax(axis=1)
    confidence = np.where(error, share[np.arange(n), suggested] * often, 0.0)
    return CuratedRatings(
        np.where(confidence >= threshold, suggested, ratings), error, suggested, confidence, transition, prior
    )


def transition_matrix(embedding: Any, ratings: Any, n_levels: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """How a judge rates what deserves each level, from how the ratings of near neighbours agree; no truth needed.

    If a datapoint and its two nearest neighbours deserve the same level k, their ratings are three independent
    draws from row k of T: the frequencies of one, two and three ratings together determine T and the levels' shares
    up to a renaming of the levels, which is settled by a start near the identity.

    Parameters
    ----------
    embedding : float (n, d), finite
    ratings : int (n,)
    n_levels : int, optional

    Returns
    -------
    T : float64 (K, K)
        P(rated l | true k) at [k, l]; rows sum to 1.
    prior : float64 (K,)
        Shares of the true levels.
    """
    X, ratings, K = _checked(embedding, ratings, n_levels)
    if len(X) < 3:
        raise DatumwiseError(f"{len(X)} datapoints have no two neighbours", remedy="three at least")
    near = neighbours(X, 2, "cosine")[1]
    return _fit_transition(*consensus_statistics(ratings[np.column_stack([np.arange(len(X)), near])], K))


def consensus_statistics(triples: np.ndarray, n_levels: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Frequencies of the ratings of a datapoint and its two neighbours: one, two and three of them together.

    Parameters
    ----------
    triples : int (n, 3)
    n_levels : int

    Returns
    -------
    float64 (K,), (K, K), (K, K, K)
        Each sums to 1.
    """
    K = n_levels
    a, b, c = triples.T
    third = np.bincount((a * K + b) * K + c, minlength=K**3).reshape(K, K, K) / len(triples)
    return third.sum(axis=(1, 2)), third.sum(axis=2), third


def _fit_transition(first: np.ndarray, second: np.ndarray, third: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """T and prior whose frequencies lie nearest to those seen in squares (Zhu et al., eq. 6, in norms), by L-BFGS."""
    K = len(first)

    def parts(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return softmax(theta[K:].reshape(K, K), axis=1), softmax(theta[:K])

    def loss(theta: np.ndarray) -> tuple[float, np.ndarray]:
        T, p = parts(theta)
        pT = p[:, None] * T
        TT = (T[:, :, None] * T[:, None, :]).reshape(K, K * K)
        gap1, gap2 = p @ T - first, T.T @ pT - second
        gap3 = (pT.T @ TT).reshape(K, K, K) - third
        total = (gap1**2).sum() + (gap2**2).sum() + (gap3**2).sum()
        each = gap3 + gap3.transpose(1, 0, 2) + gap3.transpose(2, 0, 1)  # T stands in each of three places
        d_p = 2 * (T @ gap1 + ((T @ gap2) * T).sum(axis=1) + (T * (TT @ gap3.reshape(K, -1).T)).sum(axis=1))
        d_T = 2 * p[:, None] * (gap1 + T @ (gap2 + gap2.T) + TT @ each.reshape(K, -1).T)
        # through the softmax
        d_theta_T = T * (d_T - (T * d_T).sum(axis=1, keepdims=True))
        d_theta_p = p * (d_p - p @ d_p)
        return float(total), np.concatenate([d_theta_p, d_theta_T.ravel()])

    starts = [np.concatenate([np.log(np.maximum(first, 1e-3)), (c * np.eye(K)).ravel()]) for c in (6.0, 3.0, 1.5)]
    fits = [
        minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 3000, "ftol": 1e-15, "gtol": 1e-10})
        for start in starts
    ]
    return parts(min(fits, key=lambda fit: fit.fun).x)


def _votes(
    ratings: np.ndarray, distance: np.ndarray, near: np.ndarray, inside: np.ndarray, rows: np.ndarray, k: int, K: int
) -> np.ndarray:
    """float64 (b, K), unit rows: similarity-weighted votes of each row and its k - 1 nearest inside the sample."""
    present = inside[near]
    present &= np.cumsum(present, axis=1) <= k - 1
    weight = np.where(present, 1 - distance, 0.0)
    # the row's own distance, 0, would drown the others: one step nearer than the nearest instead
    place = np.argsort(~present, axis=1, kind="stable")[:, :2]
    first, second = np.take_along_axis(distance, place, axis=1).T
    votes = np.zeros((len(rows), K))
    b = np.repeat(np.arange(len(rows)), near.shape[1])
    np.add.at(votes, (b, ratings[near].ravel()), weight.ravel())
    votes[np.arange(len(rows)), ratings[rows]] += 1 - (2 * first - second)
    return votes / np.maximum(np.linalg.norm(votes, axis=1, keepdims=True), 1e-12)


def _checked(embedding: Any, ratings: Any, n_levels: int | None) -> tuple[np.ndarray, np.ndarray, int]:
    X, ratings = finite_matrix(embedding, "embedding"), class_labels(ratings, "ratings")
    if len(X) != len(ratings):
        raise SchemaMismatch(f"embedding has {len(X):,} rows and there are {len(ratings):,} ratings")
    several_classes(ratings)
    K = int(ratings.max()) + 1 if n_levels is None else n_levels
    if ratings.max() >= K:
        raise DatumwiseError(f"a rating is {ratings.max()} and n_levels {K}", remedy=f"n_levels >= {ratings.max() + 1}")
    return X, ratings, K
