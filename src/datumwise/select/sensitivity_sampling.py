"""How few datapoints, weighted, have the loss of all? Those drawn by how much they may matter."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from datumwise.errors import DatumwiseError, name_some
from datumwise.select.cluster_picks import clusters
from datumwise.select.selector import Selector

__all__ = ["SensitivitySampling", "sensitivities"]


class SensitivitySampling(Selector):
    """Draw datapoints by an upper bound of their share in the total loss, and weigh them so that sums are unbiased.

    p_i is proportional to l(c(i)) + lam d(x_i, c(i))^2: the loss at the centre of its cluster, and how far the loss
    may have moved from there. Only the losses at the centres are read: l(c) is that of the datapoint nearest to the
    centre, so a model has to be asked for ``n_clusters`` losses alone.

    Parameters
    ----------
    n_to_select : int or float
        Draws m, with replacement; what is drawn twice comes once, with the weight of two.
    n_clusters : int, optional
        None: about sqrt(n).
    lam : float, default 1.0
        How fast the loss may change with squared distance; above 0.
    random_state : int, Generator or None

    Notes
    -----
    ``fit(X, scores=losses)``, losses not negative (those that are not at centres may be any number). Without, the
    loss at every centre is the mean squared distance, which is the lightweight coreset of Bachem et al., 2018, with
    clusters.

    Attributes
    ----------
    weights_ : float64 (at most m,)
        Draws / (m p): for any f, the sum of weights_ f over the picks is, in the mean, the sum of f over all.
    probabilities_ : float64 (n,)
        p, summing to 1.
    gains_ : float64
        p of each pick.

    Examples
    --------
    The far datapoint is drawn almost surely, and stands for itself alone:

    >>> import numpy as np
    >>> X = np.append(np.random.default_rng(0).normal(size=99), 1000.0)[:, None]
    >>> chosen = SensitivitySampling(20, n_clusters=1, random_state=0).fit(X)
    >>> 99 in chosen.ranking_, bool(chosen.weights_[chosen.ranking_ == 99][0] < 2)
    (True, True)

    References
    ----------
    Axiotis et al., 2024, *Data-Efficient Learning via Clustering-Based Sensitivity Sampling*.
    """

    takes: ClassVar[tuple[str, ...]] = ("X", "scores?")
    source: ClassVar[str] = "Axiotis et al., 2024"

    weights_: np.ndarray
    probabilities_: np.ndarray

    def __init__(
        self, n_to_select: int | float, *, n_clusters: int | None = None, lam: float = 1.0, random_state: Any = None
    ) -> None:
        self.n_to_select = n_to_select
        self.n_clusters = n_clusters
        self.lam = lam
        self.random_state = random_state

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(self.random_state)
        labels, distances = clusters(inputs["X"], self.n_clusters, random_state=rng)
        self.probabilities_ = sensitivities(labels, distances, inputs.get("scores"), self.lam)
        drawn = rng.choice(n, size=k, p=self.probabilities_)
        rows, first, times = np.unique(drawn, return_index=True, return_counts=True)
        order = np.argsort(first)
        ranking = rows[order]
        gains = self.probabilities_[ranking]
        self.weights_ = times[order] / (k * gains)
        return ranking, gains


def sensitivities(labels: np.ndarray, distances: np.ndarray, losses: np.ndarray | None, lam: float = 1.0) -> np.ndarray:
    """float64 (n,) summing to 1: p_i proportional to l(c(i)) + lam d_i^2.

    Parameters
    ----------
    labels : int (n,)
        Cluster of each datapoint, 0, 1, ...
    distances : float (n,)
        Distance to its centre.
    losses : float (n,) or None
        Read at the datapoint nearest to each centre only (the lowest row of equally near).
    lam : float, default 1.0

    Raises
    ------
    DatumwiseError
        lam is not above 0, or a loss at a centre is negative.
    """
    if not lam > 0:
        raise DatumwiseError(f"lam is {lam}", remedy="lam > 0")
    squared = lam * distances**2
    if losses is None:
        p = squared + squared.mean()
    else:
        order = np.lexsort((np.arange(len(labels)), distances, labels))
        centre = order[np.searchsorted(labels[order], np.arange(labels.max() + 1))]
        low = centre[losses[centre] < 0]
        if len(low):
            raise DatumwiseError(
                f"the loss is negative in row {name_some(low)}, nearest to a centre",
                remedy="give losses of 0 and above",
                ids=low.tolist(),
            )
        p = losses[centre][labels] + squared
    total = p.sum()
    return p / total if total > 0 else np.full(len(labels), 1 / len(labels))
