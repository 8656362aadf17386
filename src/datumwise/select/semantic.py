"""Which datapoints mean the same? SemDeDup: in each cluster of embeddings, what is too near an earlier one goes.

Abbas, Tirumala, Simig, Ganguli and Morcos, "SemDeDup: data-efficient learning at web-scale through semantic
deduplication", 2023, section 3 and figure A7.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from sklearn.cluster import KMeans

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.probe.neighbours import finite_matrix
from datumwise.select.groups import Groups, connected, named, ranks, similarities_to_kept

__all__ = ["earlier_copies", "k_means", "semantic", "unit_rows"]

ORDERS = ("hard", "easy", "given")
CLUSTER = 20_000  # rows up to which all pairs are compared
BLOCK = 1 << 22  # float32 similarities held at a time (16 MiB)
UNIT = 2.0**-24  # unit round-off of float32
EQUAL = 1e-29  # cosine distance that rounding leaves between copies of different length
DIGITS = 12  # of distances to a centre that count, so that copies tie


def semantic(
    X: Any,
    eps: float = 0.05,
    n_clusters: int | None = None,
    order: Any = "hard",
    *,
    ids: Sequence[Any] | None = None,
    random_state: int | np.random.Generator | None = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Groups:
    """Leave out what lies within cosine distance ``eps`` of a datapoint that comes before it in its cluster.

    Parameters
    ----------
    X : float array (n, d)
        Embeddings; only their direction counts.
    eps : float in [0, 2), default 0.05
        Cosine distance 1 - cos; 0 leaves out exact copies only.
    n_clusters : int, optional
        Clusters of k-means on unit rows; only within a cluster is compared. None: one a 20,000 rows, so that up to
        there all pairs are. The paper took some 8,800 rows a cluster.
    order : "hard", "easy", "given" or float array (n,), default "hard"
        Who comes first and is kept: the farthest from the cluster's centre (the paper's), the nearest, the lowest
        row, or the highest number; ties to the lowest row.
    ids : sequence, optional
        Names of the datapoints.
    random_state : int, Generator or None, default 0
        Of k-means.
    progress : callable, optional
        Told (rows compared, rows).

    Returns
    -------
    Groups
        ``pairs`` has each datapoint left out with the earlier one that it is most similar to, ``similarity`` their
        cosine. As published, who is left out still counts as earlier; ``kept_by`` follows the pairs to who is kept.

    Raises
    ------
    NotFinite
        NaN or infinity, naming the rows.
    DatumwiseError
        ``eps`` or ``n_clusters`` out of range, an unknown order, ids that repeat.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 0.0], [0.0, 1.0], [0.99, 0.1], [2.0, 0.0]])
    >>> print(semantic(X, eps=0.01, order="given"))
    2 of 4 datapoints left out: 1 group (cosine at least 0.99 to an earlier one; kept: the earliest, in the order given)
    size  kept  left out  least similar
       3  0     2, 3               0.99
    """
    X = finite_matrix(X, "X")
    n = len(X)
    names = named(ids, n)
    if isinstance(eps, bool) or not isinstance(eps, int | float | np.number) or not 0 <= eps < 2:
        raise DatumwiseError(f"eps is {eps!r}", remedy="give a cosine distance from 0 to below 2")
    points = unit_rows(X)
    labels, centre_distance = _clusters(points, n_clusters, random_state)
    rank, said = _order(order, centre_distance, n)
    earlier, distance = earlier_copies(points, labels, rank, ceiling=float(eps), progress=progress)
    out = np.flatnonzero(distance <= eps + EQUAL)
    kept_by = np.arange(n)
    kept_by[out] = earlier[out]
    while True:  # who is left out may have been left out for one that was left out itself
        further = kept_by[kept_by]
        if (further == kept_by).all():
            break
        kept_by = further
    pairs = np.column_stack([np.minimum(out, earlier[out]), np.maximum(out, earlier[out])])
    place = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pairs, values = pairs[place], 1 - distance[out][place]

    def between(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
        return 1 - _distances(points, rows, others)

    rule = f"cosine at least {1 - eps:g} to an earlier one; kept: the earliest, {said}"
    to_kept = similarities_to_kept(kept_by, pairs, values, between)
    return Groups(connected(n, pairs), kept_by == np.arange(n), kept_by, pairs, values, to_kept, rule, names)


def unit_rows(X: np.ndarray) -> np.ndarray:
    """float64 (n, d): rows of length 1; rows of zeros stay, and are similar to nothing."""
    biggest = np.abs(X).max(axis=1, keepdims=True).astype(np.float64)
    points = X / np.where(biggest > 0, biggest, 1.0)
    norms = np.sqrt(np.einsum("ij,ij->i", points, points))[:, None]
    return points / np.where(norms > 0, norms, 1.0)


def k_means(points: np.ndarray, n_clusters: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Labels int (n,) and centres (k, d) of k-means, by Lloyd's algorithm from one k-means++ start."""
    if isinstance(n_clusters, bool) or not isinstance(n_clusters, int | np.integer) or not 1 <= n_clusters <= len(points):
        raise DatumwiseError(
            f"{n_clusters!r} clusters were asked of {len(points):,} datapoints", remedy=f"from 1 to {len(points):,}"
        )
    if n_clusters == 1:
        return np.zeros(len(points), np.int64), points.mean(axis=0, keepdims=True)
    found = KMeans(int(n_clusters), n_init=1, max_iter=50, random_state=int(rng.integers(2**31))).fit(points)
    return found.labels_.astype(np.int64), found.cluster_centers_


def earlier_copies(
    points: np.ndarray,
    labels: np.ndarray,
    rank: np.ndarray,
    *,
    ceiling: float = np.inf,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Of each row, the row before it in its cluster that is most similar to it.

    Parameters
    ----------
    points : float64 (n, d)
        Of length 1, or 0.
    labels : int (n,)
        Cluster of each row.
    rank : float (n,)
        Lower comes earlier; ties to the lowest row.
    ceiling : float
        Distance that matters: rounding cannot take a row from one side of it to the other.

    Returns
    -------
    earlier : int64 (n,)
        -1 for the first of a cluster.
    distance : float64 (n,)
        Their cosine distance, 0 for copies; infinite for the first of a cluster.
    """
    n = len(points)
    earlier, distance = np.full(n, -1), np.full(n, np.inf)
    order = np.lexsort((np.arange(n), rank, labels))
    bounds = np.searchsorted(labels[order], np.arange(labels.max() + 2))
    error = (points.shape[1] + 16) * UNIT  # of a float32 product of unit rows
    done = 0
    for begin, end in pairwise(bounds):
        rows = order[begin:end]
        unit = points[rows].astype(np.float32)
        step = max(1, BLOCK // max(1, len(rows)))
        for start in range(0, len(rows), step):
            stop = min(start + step, len(rows))
            cosine = unit[start:stop] @ unit[:stop].T
            cosine[np.arange(stop) >= np.arange(start, stop)[:, None]] = -np.inf
            best = cosine.argmax(axis=1)
            high = cosine[np.arange(stop - start), best]
            has = np.flatnonzero(high > -np.inf)
            mine = rows[start:stop][has]
            other = rows[best[has]]
            exact = _distances(points, mine, other)
            # the largest float32 product may hide a pair that is nearer still
            for at in np.flatnonzero((exact > ceiling + EQUAL) & (high[has] >= 1 - ceiling - 2 * error)):
                near = rows[np.flatnonzero(cosine[has[at]] >= high[has[at]] - 2 * error)]
                measured = _distances(points, np.full(len(near), mine[at]), near)
                other[at], exact[at] = near[measured.argmin()], measured.min()
            earlier[mine], distance[mine] = other, exact
        done += len(rows)
        if progress is not None:
            progress(done, n)
    return earlier, distance


def _distances(points: np.ndarray, rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """float64 (p,): cosine distance as half the squared difference, which for copies is 0; 1 with a row of zeros."""
    found = np.empty(len(rows))
    step = max(1, BLOCK // points.shape[1])
    for start in range(0, len(rows), step):
        a, b = points[rows[start : start + step]], points[others[start : start + step]]
        there = (np.einsum("ij,ij->i", a, a) > 0) & (np.einsum("ij,ij->i", b, b) > 0)
        a = a - b
        found[start : start + step] = np.where(there, np.einsum("ij,ij->i", a, a) / 2, 1.0)
    return found


def _clusters(points: np.ndarray, n_clusters: int | None, random_state: Any) -> tuple[np.ndarray, np.ndarray]:
    """Cluster of each row, and its cosine distance to the cluster's centre."""
    count = -(-len(points) // CLUSTER) if n_clusters is None else n_clusters
    labels, centres = k_means(points, count, np.random.default_rng(random_state))
    centres = unit_rows(centres)
    return labels, np.round(1 - np.einsum("ij,ij->i", points, centres[labels]), DIGITS)


def _order(order: Any, centre_distance: np.ndarray, n: int) -> tuple[np.ndarray, str]:
    if not isinstance(order, str):
        return -ranks(order, n, "order"), "the highest score first"
    if order == "hard":
        return -centre_distance, "far from the centre of its cluster first"
    if order == "easy":
        return centre_distance, "near the centre of its cluster first"
    if order == "given":
        return np.zeros(n), "in the order given"
    raise UnknownName(f"there is no order {order!r}", remedy=f"give {', '.join(ORDERS)} or one number a datapoint")
