"""How strong is each item, from who beat whom? Bradley-Terry by maximum likelihood, and Elo.

Bradley and Terry, 1952, *Rank Analysis of Incomplete Block Designs I*, Biometrika 39; Ford, 1957 (when the estimate
exists); Elo, 1978, *The Rating of Chessplayers*.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from datumwise.errors import DatumwiseError, EmptyData, LabelError, NotFinite, SchemaMismatch, name_some

__all__ = ["Strengths", "bradley_terry", "elo"]

MOST_DENSE = 5000  # items whose covariance is inverted whole
LARGEST_STEP = 5.0  # of a Newton step, in logits


@dataclass(frozen=True)
class Strengths:
    """One strength an item.

    Attributes
    ----------
    scores : float64 (n,)
        s, in logits, of mean 0: P(i beats j) = 1/(1 + exp(s_j - s_i)).
    stderr : float64 (n,)
        Of s_i against the mean of all, from the inverse Fisher information; NaN for more than 5,000 items.
    comparisons : int64 (n,)
        How many each item took part in.
    log_likelihood : float
    converged : bool
    """

    scores: np.ndarray = field(repr=False)
    stderr: np.ndarray = field(repr=False)
    comparisons: np.ndarray = field(repr=False)
    log_likelihood: float
    converged: bool

    def __str__(self) -> str:
        order = np.argsort(-self.scores, kind="stable")[:10]
        lines = [f"{i:>6}  {self.scores[i]:>8.3f} ± {self.stderr[i]:.3f}  of {self.comparisons[i]}" for i in order]
        return "\n".join([f"{len(self.scores):,} items, strongest first, in logits", *lines])


def bradley_terry(
    winners: Any,
    losers: Any,
    n: int | None = None,
    *,
    weights: Any = None,
    ridge: float = 0.0,
    max_iter: int = 100,
    tolerance: float = 1e-10,
) -> Strengths:
    """Strengths s that maximise sum of w log sigma(s_winner - s_loser) - ridge/2 sum s², by Newton's method.

    Parameters
    ----------
    winners, losers : int (c,)
        Items 0..n-1; a draw is two comparisons of weight one half.
    n : int, optional
        Items; the largest number + 1 by default.
    weights : float (c,), optional
        How much a comparison counts, above 0; 1 by default.
    ridge : float, default 0
        Above 0 where some item (or group) has won or lost all its comparisons with the rest: without it the
        estimate is infinite. The standard errors are then those of the posterior.
    max_iter : int, default 100
    tolerance : float, default 1e-10
        Largest gradient entry, over the comparisons.

    Returns
    -------
    Strengths

    Raises
    ------
    DatumwiseError
        Without ridge: some items have won, or lost, everything against the others, or were never compared.

    Examples
    --------
    >>> found = bradley_terry([0] * 30 + [1] * 10, [1] * 30 + [0] * 10)  # 30 to 10: log 3 apart
    >>> (found.scores[0] - found.scores[1]).round(6), found.stderr.round(3).tolist()
    (np.float64(1.098612), [0.183, 0.183])
    """
    winners, losers, n, weight = _checked(winners, losers, n, weights)
    if ridge < 0:
        raise DatumwiseError(f"ridge = {ridge} lies below 0", remedy="ridge >= 0")
    if ridge == 0:
        _refuse_infinite(winners, losers, n)
    s = np.zeros(n)
    total = weight.sum()
    converged = False
    value = _likelihood(s, winners, losers, weight, ridge)
    for _ in range(max_iter):
        surprise = weight * _sigma(s[losers] - s[winners])
        gradient = np.bincount(winners, surprise, n) - np.bincount(losers, surprise, n) - ridge * s
        if np.abs(gradient).max() <= tolerance * total:
            converged = True
            break
        step = _solve(_information(s, winners, losers, weight, n), gradient, ridge)
        step *= min(1.0, LARGEST_STEP / max(np.abs(step).max(), 1e-300))
        while (new := _likelihood(s + step, winners, losers, weight, ridge)) < value and np.abs(step).max() > 1e-14:
            step /= 2
        s = s + step
        s -= s.mean()
        value = max(new, value)
    stderr = _stderr(_information(s, winners, losers, weight, n), ridge)
    comparisons = np.bincount(winners, minlength=n) + np.bincount(losers, minlength=n)
    return Strengths(s, stderr, comparisons, _likelihood(s, winners, losers, weight, 0.0), converged)


def elo(
    winners: Any,
    losers: Any,
    n: int | None = None,
    *,
    k: float = 32.0,
    initial: float = 1000.0,
    scale: float = 400.0,
    weights: Any = None,
    n_shuffles: int = 0,
    random_state: Any = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Elo ratings, one comparison after the other; they depend on the order, which shuffling takes out.

    After a comparison the winner gains, and the loser loses, k w (1 - P), P = 1/(1 + 10^((r_loser - r_winner)/scale)).

    Parameters
    ----------
    winners, losers : int (c,)
        In the order played.
    n : int, optional
    k : float, default 32
    initial : float, default 1000
    scale : float, default 400
    weights : float (c,), optional
        1 by default.
    n_shuffles : int, default 0
        0: the order given. Above: the mean over so many random orders.
    random_state : None, int or Generator

    Returns
    -------
    ratings : float64 (n,)
        Sum to n times ``initial``.
    stderr : float64 (n,)
        Of the mean over the orders; NaN with fewer than two.

    Examples
    --------
    >>> elo([0], [1])[0].tolist()
    [1016.0, 984.0]
    """
    winners, losers, n, weight = _checked(winners, losers, n, weights)
    if not (k > 0 and scale > 0):
        raise DatumwiseError(f"k = {k} and scale = {scale}", remedy="both above 0")
    rng = np.random.default_rng(random_state)
    orders = [rng.permutation(len(winners)) for _ in range(n_shuffles)] or [np.arange(len(winners))]
    runs = np.empty((len(orders), n))
    for run, order in zip(runs, orders, strict=True):
        rating = [initial] * n  # plain floats: each comparison needs the one before
        for w, b, c in zip(winners[order].tolist(), losers[order].tolist(), weight[order].tolist(), strict=True):
            moved = k * c / (1 + 10 ** ((rating[w] - rating[b]) / scale))
            rating[w] += moved
            rating[b] -= moved
        run[:] = rating
    if len(orders) < 2:
        return runs[0], np.full(n, np.nan)
    return runs.mean(axis=0), runs.std(axis=0, ddof=1) / np.sqrt(len(runs))


def _checked(winners: Any, losers: Any, n: int | None, weights: Any) -> tuple[np.ndarray, np.ndarray, int, np.ndarray]:
    winners, losers = np.asarray(winners), np.asarray(losers)
    if winners.ndim != 1 or winners.shape != losers.shape:
        raise SchemaMismatch(f"winners and losers must be one item a comparison; got {winners.shape} and {losers.shape}")
    if len(winners) == 0:
        raise EmptyData("there is no comparison")
    if winners.dtype.kind not in "iu" or losers.dtype.kind not in "iu":
        raise LabelError("winners and losers must be item numbers 0, 1, ...", remedy="np.unique(names, return_inverse=True)")
    winners, losers = winners.astype(np.int64), losers.astype(np.int64)
    top = int(max(winners.max(), losers.max())) + 1 if n is None else n
    bad = np.flatnonzero((winners < 0) | (losers < 0) | (winners >= top) | (losers >= top))
    if len(bad):
        raise LabelError(f"comparison {name_some(bad)} names no item of 0..{top - 1}", ids=bad.tolist())
    own = np.flatnonzero(winners == losers)
    if len(own):
        raise LabelError(f"comparison {name_some(own)} is of an item with itself", remedy="leave it out", ids=own.tolist())
    weight = np.ones(len(winners)) if weights is None else np.asarray(weights, np.float64)
    if weight.shape != winners.shape:
        raise SchemaMismatch(f"{len(winners):,} comparisons and weights of shape {weight.shape} do not fit together")
    wrong = np.flatnonzero(~(np.isfinite(weight) & (weight > 0)))
    if len(wrong):
        raise NotFinite(f"the weight of comparison {name_some(wrong)} is not above 0", ids=wrong.tolist())
    return winners, losers, top, weight


def _refuse_infinite(winners: np.ndarray, losers: np.ndarray, n: int) -> None:
    """Ford, 1957: the estimate is finite if no group of items has won (or lost) every comparison with the others."""
    beaten_by = coo_matrix((np.ones(len(winners)), (losers, winners)), shape=(n, n))
    groups, group = connected_components(beaten_by, directed=True, connection="strong")
    if groups > 1:
        odd = np.flatnonzero(group != np.bincount(group).argmax())
        raise DatumwiseError(
            f"item {name_some(odd)} was never compared with the others, or has won or lost all: its strength is infinite",
            remedy="ridge=0.1, say",
            ids=odd.tolist(),
        )


def _sigma(x: np.ndarray) -> np.ndarray:
    from scipy.special import expit

    return np.asarray(expit(x))


def _likelihood(s: np.ndarray, winners: np.ndarray, losers: np.ndarray, weight: np.ndarray, ridge: float) -> float:
    return float(-(weight * np.logaddexp(0, s[losers] - s[winners])).sum() - ridge / 2 * (s @ s))


def _information(s: np.ndarray, winners: np.ndarray, losers: np.ndarray, weight: np.ndarray, n: int) -> Any:
    """Sparse (n, n) Laplacian of w p (1 - p)."""
    p = _sigma(s[winners] - s[losers])
    w = weight * p * (1 - p)
    rows = np.concatenate([winners, losers, winners, losers])
    columns = np.concatenate([winners, losers, losers, winners])
    return coo_matrix((np.concatenate([w, w, -w, -w]), (rows, columns)), shape=(n, n)).tocsc()


def _solve(information: Any, gradient: np.ndarray, ridge: float) -> np.ndarray:
    n = len(gradient)
    if n <= MOST_DENSE:
        whole = information.toarray() + np.diag(np.full(n, ridge))
        whole += whole.diagonal().mean() / n  # the sum of s is free: one more curvature along it, the step has none
        step = np.linalg.solve(whole, gradient)
        return step - step.mean()
    from scipy.sparse import eye_array
    from scipy.sparse.linalg import cg

    steady = information + eye_array(n) * (ridge + 1e-12 * information.diagonal().mean())
    step, _ = cg(steady, gradient, rtol=1e-10, maxiter=10 * n)
    return np.asarray(step - step.mean())


def _stderr(information: Any, ridge: float) -> np.ndarray:
    n = information.shape[0]
    if n > MOST_DENSE:
        return np.full(n, np.nan)
    if ridge > 0:
        return np.asarray(np.sqrt(np.linalg.inv(information.toarray() + ridge * np.eye(n)).diagonal()))
    # of a Laplacian: (H + 11'/n)^-1 - 11'/n is the pseudo-inverse, the covariance where the scores sum to 0
    size = information.diagonal().mean()
    covariance = np.linalg.inv(information.toarray() + size / n) - 1 / (n * size)
    return np.asarray(np.sqrt(np.maximum(covariance.diagonal(), 0)))
