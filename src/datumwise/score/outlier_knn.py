"""Which datapoints lie far from all others? The mean distance to their nearest neighbours.

Kuan and Mueller, 2022, *Back to the Basics: Revisiting Out-of-Distribution Detection Baselines*, section 2;
after Ramaswamy, Rastogi and Shim, 2000.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from datumwise.probe.neighbours import neighbours
from datumwise.score.declare import score

__all__ = ["mean_knn_distance", "ood_knn", "outlier_knn"]

FLOOR = 1e-6  # of the median distance, as in cleanlab


@score(
    needs=("embedding",),
    higher="farther from all other datapoints",
    source="Kuan and Mueller, 2022, section 2",
)
def outlier_knn(embedding: np.ndarray, *, k: int = 10, metric: str | None = None) -> np.ndarray:
    """How far away are the 10 nearest others? Their mean distance, in units of its median.

    Parameters
    ----------
    embedding : float (n, d), finite
    k : int, default 10
        1 <= k <= n - 1.
    metric : "cosine", "euclidean" or None
        None: cosine above three dimensions.

    Returns
    -------
    float64 (n,)
        >= 0; 1 is typical.

    Examples
    --------
    >>> outlier_knn([[0.0], [1.0], [2.0], [3.0], [30.0]], k=1).tolist()
    [1.0, 1.0, 1.0, 1.0, 27.0]
    """
    mean = mean_knn_distance(embedding, k, metric)
    return mean / max(float(np.median(mean)), FLOOR)


def ood_knn(X: Any, k: int = 10, metric: str | None = None) -> np.ndarray:
    """Typicality exp(-`outlier_knn`), 0 (outlier) to 1: cleanlab's ``OutOfDistribution().fit_score``.

    Parameters
    ----------
    X : float array (n, d)
    k : int, default 10
    metric : "cosine", "euclidean" or None

    Returns
    -------
    float64 (n,)
    """
    return np.exp(-outlier_knn(X, k=k, metric=metric))


def mean_knn_distance(X: Any, k: int = 10, metric: str | None = None) -> np.ndarray:
    """Mean distance to the k nearest other rows, float64 (n,), in the unit of the metric."""
    return neighbours(X, k, metric)[0].mean(axis=1)
