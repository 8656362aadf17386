"""Gradient matching inside clusters of gradients: what the task-agnostic coreset for instruction tuning does."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.cluster import KMeans

from datumwise.errors import DatumwiseError
from datumwise.select.grad_match import matching_pursuit
from datumwise.select.per_class import class_by_class
from datumwise.select.selector import Selector

__all__ = ["TAGCOS"]


class TAGCOS(Selector):
    """Cluster the projected gradients, and match the gradient of each cluster by a few of its members.

    k-means on the gradients, a budget for each cluster in proportion to its size, and orthogonal matching
    pursuit (`GradMatch`) inside each.

    Parameters
    ----------
    n_to_select : int or float
    n_clusters : int, default 100
        At most one a pick.
    lam : float, default 1.0
        Ridge of the pursuit.
    random_state : int or None
        Of k-means.

    Attributes
    ----------
    weights_ : float64 (k,)
    clusters_ : int64 (n,)
        Cluster of each datapoint.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> G = np.repeat([[9.0, 0.0], [0.0, 9.0]], 50, axis=0) + rng.normal(size=(100, 2))
    >>> found = TAGCOS(2, n_clusters=2, random_state=0).fit(G)
    >>> sorted((found.ranking_ // 50).tolist())
    [0, 1]

    References
    ----------
    Zhang et al., 2024, *TAGCOS: Task-agnostic Gradient Clustered Coreset Selection for Instruction Tuning Data*,
    section 3.
    """

    takes: ClassVar = ("gradients",)
    source: ClassVar = "Zhang et al., 2024, section 3"

    weights_: np.ndarray

    def __init__(self, n_to_select: int | float, *, n_clusters: int = 100, lam: float = 1.0, random_state: Any = None) -> None:
        self.n_to_select = n_to_select
        self.n_clusters = n_clusters
        self.lam = lam
        self.random_state = random_state

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        if self.n_clusters < 1:
            raise DatumwiseError(f"n_clusters is {self.n_clusters}", remedy="give 1 or more")
        G = inputs["gradients"].astype(np.float64)
        distinct = len(np.unique(G, axis=0)) if n <= self.n_clusters else n
        means = KMeans(min(self.n_clusters, k, distinct), n_init=1, random_state=self.random_state)
        self.clusters_ = means.fit_predict(G).astype(np.int64)
        weights = np.zeros(n)

        def matched(rows: np.ndarray, share: int) -> tuple[np.ndarray, np.ndarray]:
            picked, gained, found = matching_pursuit(G[rows], G[rows].sum(axis=0), share, lam=self.lam)
            weights[rows[picked]] = found
            return picked, gained

        ranking, gains = class_by_class(self.clusters_, n, k, matched)
        self.weights_ = weights[ranking]
        return ranking, gains
