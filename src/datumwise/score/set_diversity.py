"""How far apart do the datapoints of a set lie? Neighbour distances and measures of spread."""

from __future__ import annotations

from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.probe.neighbours import default_metric, finite_matrix, neighbours, row_norms
from datumwise.score.declare import score, suggestion

__all__ = ["cluster_inertia", "convex_radius", "knn_distance", "mean_pairwise_distance", "minimum_distance"]

CELLS = 1 << 19  # distances in a block (4 MiB of float64: it stays in the cache)


@score(
    needs=("embedding",),
    higher="farther from its neighbours: adds more diversity",
    source="Cao et al., 2023, Instruction Mining (kNN-i)",
)
def knn_distance(embedding: np.ndarray, *, k: int = 6, metric: str | None = None) -> np.ndarray:
    """How far away is the 6th nearest other? Its mean over a set is the set's diversity.

    Parameters
    ----------
    embedding : float (n, d), finite
    k : int, default 6
        Which neighbour, 1 <= k <= n - 1.
    metric : "cosine", "euclidean" or None
        None: cosine above three dimensions.

    Returns
    -------
    float64 (n,)
        In the unit of the metric.

    Examples
    --------
    >>> knn_distance([[0.0], [1.0], [3.0], [10.0]], k=2).tolist()
    [3.0, 2.0, 3.0, 9.0]
    """
    return neighbours(embedding, k, metric)[0][:, -1]


def mean_pairwise_distance(X: Any, metric: str | None = None) -> float:
    """Mean distance of all pairs of different rows.

    Parameters
    ----------
    X : float (n, d), n >= 2
    metric : "cosine", "euclidean" or None
        None: cosine above three dimensions. The cosine mean takes O(n d), the Euclidean O(n^2 d), in blocks.

    Returns
    -------
    float

    Examples
    --------
    >>> mean_pairwise_distance([[0.0], [1.0], [3.0]])
    2.0
    """
    X, metric = _pairs(X, metric)
    n = len(X)
    if metric == "cosine":
        norms = row_norms(X)
        total = (X / np.where(norms > 0, norms, 1.0)[:, None]).sum(axis=0, dtype=np.float64)
        zeros = int((norms == 0).sum())  # each at distance 1 of all others, 0 of each other
        same = zeros * zeros + n - zeros + (total @ total - (n - zeros))
        return float(1 - (same - n) / (n * (n - 1)))
    points = X.astype(np.float64)
    points -= points.mean(axis=0)
    norms = np.einsum("ij,ij->i", points, points)
    step = max(1, CELLS // n)
    sum_ = 0.0
    for start in range(0, n, step):
        block = points[start : start + step]
        squared = norms[start : start + step, None] + norms[start:] - 2 * (block @ points[start:].T)
        close = np.nonzero(squared < 1e-6 * norms.max())
        squared[close] = ((block[close[0]] - points[start:][close[1]]) ** 2).sum(axis=1)
        distance = np.sqrt(np.maximum(squared, 0))
        own = distance[:, : len(block)]
        sum_ += 2 * distance[:, len(block) :].sum() + own.sum()
    return float(sum_ / (n * (n - 1)))


def minimum_distance(X: Any, metric: str | None = None) -> float:
    """Distance of the two nearest rows: 0 if any is there twice.

    Parameters
    ----------
    X : float (n, d), n >= 2
    metric : "cosine", "euclidean" or None

    Returns
    -------
    float

    Examples
    --------
    >>> minimum_distance([[0.0], [1.0], [3.0]])
    1.0
    """
    X, metric = _pairs(X, metric)
    return float(neighbours(X, 1, metric)[0].min())


def convex_radius(X: Any) -> float:
    """Geometric mean over the columns of their (population) standard deviation: 0 if a column never changes.

    Parameters
    ----------
    X : float (n, d)

    Returns
    -------
    float
        In the unit of X.

    References
    ----------
    Lai et al., 2020, *Diversity, Density, and Homogeneity* (diversity).

    Examples
    --------
    >>> convex_radius([[0.0, 0.0], [2.0, 8.0]])
    2.0
    """
    deviation = finite_matrix(X, "X").std(axis=0, dtype=np.float64)
    return float(np.exp(np.log(deviation).mean())) if (deviation > 0).all() else 0.0


def cluster_inertia(X: Any, n_clusters: int = 200, *, random_state: Any = None) -> float:
    """Sum of squared distances to the nearest of ``n_clusters`` k-means centres.

    Parameters
    ----------
    X : float (n, d)
    n_clusters : int, default 200
        1 to n.
    random_state : int, Generator or None

    Returns
    -------
    float
        In the squared unit of X.

    References
    ----------
    Du and Black, 2019, *Boosting Dialog Response Generation*.

    Examples
    --------
    >>> cluster_inertia([[0.0], [2.0], [9.0]], 2, random_state=0)
    2.0
    """
    from sklearn.cluster import KMeans

    X = finite_matrix(X, "X")
    if not 1 <= n_clusters <= len(X):
        raise DatumwiseError(f"{n_clusters:,} clusters were asked of {len(X):,} rows", remedy=f"1 to {len(X):,}")
    seed = int(np.random.default_rng(random_state).integers(2**31))
    rows, times = np.unique(X.astype(np.float64), axis=0, return_counts=True)
    if len(rows) <= n_clusters:
        return 0.0  # a centre for each; scikit-learn leaves an inertia there
    return float(KMeans(n_clusters, n_init=1, random_state=seed).fit(rows, sample_weight=times).inertia_)


def _pairs(X: Any, metric: str | None) -> tuple[np.ndarray, str]:
    X = finite_matrix(X, "X")
    if len(X) < 2:
        raise DatumwiseError("one datapoint has no distance to another", remedy="give at least two")
    metric = metric or default_metric(X.shape[1])
    if metric not in ("cosine", "euclidean"):
        raise UnknownName(
            f"there is no metric {metric!r}",
            remedy=suggestion(metric, ("cosine", "euclidean")) or "give 'cosine' or 'euclidean'",
        )
    return X, metric
