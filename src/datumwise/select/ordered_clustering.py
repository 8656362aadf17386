"""Ordered clustering: one from each density cluster in turn, biggest cluster first, its outliers first.

Alcoforado et al., "From random to informed data selection", 2024, section 3; clusters by HDBSCAN (Campello, Moulavi and
Sander, 2013).
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.cluster import HDBSCAN

from datumwise.errors import DatumwiseError
from datumwise.select.selector import Selector
from datumwise.select.semantic import unit_rows

__all__ = ["OrderedClustering"]


class OrderedClustering(Selector):
    """Go round the clusters of HDBSCAN, biggest first, and take of each the member that belongs least.

    What HDBSCAN calls noise comes after all clusters, in the order of the rows.

    Parameters
    ----------
    n_to_select : int or float
        How many, or which share.
    min_cluster_size : int, default 5
        Fewest datapoints that make a cluster.
    metric : "cosine" or "euclidean", default "cosine"
        cosine: Euclidean on rows of length 1, which orders pairs alike.

    Attributes
    ----------
    labels_ : int64 (n,)
        Cluster of each datapoint, -1 for noise.
    gains_ : float64 (k,)
        1 - the probability that a pick belongs to its cluster; 1 for noise.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> X = np.vstack([rng.normal((9, 0), 0.1, (30, 2)), rng.normal((0, 9), 0.1, (20, 2))])
    >>> chosen = OrderedClustering(4, metric="euclidean").fit(X)
    >>> (chosen.ranking_ < 30).tolist()
    [True, False, True, False]

    References
    ----------
    Alcoforado et al., 2024, arXiv 2401.13229.
    """

    takes: ClassVar[tuple[str, ...]] = ("X",)
    source: ClassVar[str] = "Alcoforado et al., 2024"

    def __init__(self, n_to_select: int | float, *, min_cluster_size: int = 5, metric: str = "cosine") -> None:
        self.n_to_select = n_to_select
        self.min_cluster_size = min_cluster_size
        self.metric = metric

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        if self.metric not in ("cosine", "euclidean"):
            raise DatumwiseError(f"there is no metric {self.metric!r}", remedy="give 'cosine' or 'euclidean'")
        X = unit_rows(inputs["X"]) if self.metric == "cosine" else inputs["X"]
        if not 2 <= self.min_cluster_size <= n:
            raise DatumwiseError(
                f"min_cluster_size is {self.min_cluster_size!r} for {n:,} datapoints", remedy=f"give 2 to {n:,}"
            )
        found = HDBSCAN(min_cluster_size=self.min_cluster_size, copy=True).fit(X)
        labels = found.labels_.astype(np.int64)
        outlying = np.where(labels < 0, 1.0, 1 - found.probabilities_)
        size = np.bincount(labels + 1, minlength=labels.max() + 2)[1:]
        order = np.lexsort((np.arange(n), -outlying, labels))  # cluster by cluster, outliers first
        order = order[labels[order] >= 0]
        turn = np.arange(len(order)) - np.searchsorted(labels[order], labels[order])  # place within the cluster
        by_turn = np.lexsort((labels[order], -size[labels[order]], turn))
        ranking = np.concatenate([order[by_turn], np.flatnonzero(labels < 0)])[:k]
        self.labels_ = labels
        return ranking, outlying[ranking]
