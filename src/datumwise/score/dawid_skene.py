"""Which label is right, and whom does each rater confuse with whom? Dawid and Skene's EM, without any classifier.

Dawid and Skene, 1979, *Maximum Likelihood Estimation of Observer Error-Rates Using the EM Algorithm*, Applied
Statistics 28, section 3 (eq. 2.3 to 2.5).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import csr_matrix

from datumwise.errors import DatumwiseError, LabelError
from datumwise.score.crowdlab import checked_votes

__all__ = ["DawidSkene", "dawid_skene"]

TINY = 1e-300  # floor of a probability before its logarithm


@dataclass(frozen=True)
class DawidSkene:
    """Labels from several raters, and the raters' errors.

    Attributes
    ----------
    labels : int64 (n,)
        The most probable class, ties to the lowest.
    quality : float64 (n,)
        Its probability.
    probs : float64 (n, K)
        Posterior of every class.
    prior : float64 (K,)
        Share of the classes.
    confusion : float64 (m, K, K)
        P(rater j says l | true class k) at [j, k, l].
    log_likelihood : float
    n_iter : int
    converged : bool
    """

    labels: np.ndarray = field(repr=False)
    quality: np.ndarray = field(repr=False)
    probs: np.ndarray = field(repr=False)
    prior: np.ndarray
    confusion: np.ndarray = field(repr=False)
    log_likelihood: float
    n_iter: int
    converged: bool

    @property
    def rater_accuracy(self) -> np.ndarray:
        """float64 (m,): probability that a rater's vote is right, at the estimated shares of the classes."""
        return np.asarray(np.einsum("jkk,k->j", self.confusion, self.prior))

    def __str__(self) -> str:
        sure = "converged" if self.converged else "not converged"
        accuracy = ", ".join(f"{a:.3f}" for a in self.rater_accuracy)
        return (
            f"Dawid-Skene: {len(self.labels):,} labels after {self.n_iter} steps ({sure}), log-likelihood "
            f"{self.log_likelihood:.2f}\naccuracy of the raters: {accuracy}"
        )


def dawid_skene(
    votes: Any,
    n_classes: int | None = None,
    *,
    smoothing: float = 0.0,
    max_iter: int = 1000,
    tolerance: float = 1e-8,
) -> DawidSkene:
    """Maximum likelihood of a model where each rater has a confusion matrix of his own.

    Starts from the shares of the votes; the E-step takes the posterior of the true class, the M-step shares and
    confusions weighted by it.

    Parameters
    ----------
    votes : float or int (n, m)
        Class 0..K-1 that each rater gave; NaN where he gave none.
    n_classes : int, optional
        K; the largest vote + 1 by default.
    smoothing : float, default 0
        Votes added to every entry of a confusion matrix: with few votes a rater, above 0.
    max_iter : int, default 1000
    tolerance : float, default 1e-8
        Stop when the log-likelihood a vote grows by less.

    Returns
    -------
    DawidSkene

    Raises
    ------
    EmptyData, LabelError, SchemaMismatch

    Examples
    --------
    >>> truth = np.arange(200) % 2
    >>> votes = np.column_stack([truth, truth, *np.random.default_rng(0).integers(0, 2, (3, 200))])
    >>> found = dawid_skene(votes)
    >>> float((found.labels == truth).mean()), found.rater_accuracy[:2].round(3).tolist()
    (1.0, [1.0, 1.0])
    """
    votes = checked_votes(votes, n_classes)
    n, m = votes.shape
    K = int(np.nanmax(votes)) + 1 if n_classes is None else n_classes
    if K < 2:
        raise LabelError("all votes name one class", remedy="two classes are needed")
    if max_iter < 1:
        raise DatumwiseError(f"max_iter = {max_iter} takes no step", remedy="max_iter >= 1")
    if smoothing < 0:
        raise DatumwiseError(f"smoothing = {smoothing} takes votes away", remedy="smoothing >= 0")
    rows, raters = np.nonzero(~np.isnan(votes))
    said = votes[rows, raters].astype(np.int64)
    # row i of `cast` marks (rater, class said): both steps are products with it
    cast = csr_matrix((np.ones(len(rows)), (rows, raters * K + said)), shape=(n, m * K))
    posterior = cast @ np.tile(np.eye(K), (m, 1))
    posterior /= posterior.sum(axis=1, keepdims=True)
    before = -np.inf
    converged = False
    steps = 0
    while steps < max_iter and not converged:
        steps += 1
        prior = posterior.mean(axis=0)
        counts = (cast.T @ posterior).reshape(m, K, K).transpose(0, 2, 1) + smoothing  # [j, true, said]
        total = counts.sum(axis=2, keepdims=True)
        confusion = np.where(total > 0, counts / np.where(total > 0, total, 1), 1 / K)
        logs = np.log(np.maximum(confusion, TINY)).transpose(0, 2, 1).reshape(m * K, K)
        joint = cast @ logs + np.log(np.maximum(prior, TINY))
        top = joint.max(axis=1, keepdims=True)
        weight = np.exp(joint - top)
        mass = weight.sum(axis=1, keepdims=True)
        posterior = weight / mass
        likelihood = float((np.log(mass) + top).sum())
        converged = likelihood - before < tolerance * len(rows)
        before = likelihood
    labels = posterior.argmax(axis=1)
    return DawidSkene(labels, posterior[np.arange(n), labels], posterior, prior, confusion, before, steps, converged)
