"""Which datapoints are copies of one another, or nearly so?

From the rule of cleanlab's Datalab 2.9, nearer than a share of the median nearest-neighbour distance, made
safe where few dimensions or tight clusters put ordinary datapoints that near.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datumwise.errors import SchemaMismatch
from datumwise.probe.neighbours import default_metric, finite_matrix, neighbours
from datumwise.score.checks import finite_column
from datumwise.score.declare import score
from datumwise.score.thresholds import copy_radii, near_duplicate_radius

__all__ = ["Duplicates", "near_duplicate", "near_duplicates"]


@dataclass(frozen=True)
class Duplicates:
    """Groups of near copies.

    Attributes
    ----------
    flag : bool (n,)
        In a group.
    score : float64 (n,)
        exp(-nearest distance / median nearest distance): 1 for an exact copy, 0.37 at the median.
    groups : int64 (n,)
        Number of the group, 0, 1, ... in the order of first members; -1 for none.
    pairs : int64 (p, 2)
        Near copies, rows i < j, ascending.
    kept : bool (n,)
        False for the copies to leave out: all of a group but one.
    radius : float
        Distance below which two rows are near copies, in the unit of the metric.
    """

    flag: np.ndarray = field(repr=False)
    score: np.ndarray = field(repr=False)
    groups: np.ndarray = field(repr=False)
    pairs: np.ndarray = field(repr=False)
    kept: np.ndarray = field(repr=False)
    radius: float

    @property
    def n_groups(self) -> int:
        return int(self.groups.max(initial=-1)) + 1

    def __str__(self) -> str:
        return (
            f"{np.count_nonzero(self.flag):,} near copies in {self.n_groups:,} groups, "
            f"{np.count_nonzero(~self.kept):,} to leave out (radius {self.radius:.4g})"
        )


def near_duplicates(
    X: Any,
    threshold: float | None = None,
    *,
    k: int = 30,
    metric: str | None = None,
    priority: Any = None,
) -> Duplicates:
    """Group the rows that are nearer to one another than chance and their surroundings explain.

    Two rows are near copies if they are exact copies, or if their distance is below ``radius``, a share of
    the median nearest distance, and, for either of them, out of proportion to its k-th nearest:
    `near_duplicate_radius` and `copy_radii`.

    Parameters
    ----------
    X : float array (n, d), finite
    threshold : float, optional
        Share of the median nearest distance, then the only rule: 0.13 is Datalab's. None: from the data.
    k : int, default 30
        Nearest rows looked at. A group of more than k near copies counts as a cluster unless they are exact
        copies.
    metric : "cosine", "euclidean" or None
        None: cosine above three dimensions. Centred features (principal components) want Euclidean.
    priority : array (n,), optional
        Of each group the row with the highest priority is kept, ties to the lowest index. None: the first
        row.

    Returns
    -------
    Duplicates

    Examples
    --------
    >>> found = near_duplicates([[0.0], [5.0], [0.1], [9.0], [14.0], [19.0]], threshold=0.13)
    >>> print(found)
    2 near copies in 1 groups, 1 to leave out (radius 0.52)
    >>> found.pairs.tolist(), found.kept.tolist()
    ([[0, 2]], [True, True, False, True, True, True])
    """
    X = finite_matrix(X, "X")
    n = len(X)
    metric = metric or default_metric(X.shape[1])
    rank = np.zeros(n) if priority is None else finite_column(priority, "priority")
    if len(rank) != n:
        raise SchemaMismatch(f"{len(rank):,} priorities for {n:,} rows")
    distances, indices = neighbours(X, max(1, min(k, n - 1)), metric)
    nearest = distances[:, 0]
    if threshold is None:
        radius = near_duplicate_radius(distances, metric)
        own = copy_radii(distances)
        near = (distances < radius) & (distances < np.minimum(own[:, None], own[indices]))
    else:
        radius = threshold * float(np.median(nearest))
        near = distances < radius
    near |= distances == 0
    i, j = np.nonzero(near)[0], indices[near]
    pairs = np.unique(np.column_stack([np.minimum(i, j), np.maximum(i, j)]), axis=0)
    groups = _components(n, pairs)
    flag = groups >= 0
    kept = ~flag
    members = np.flatnonzero(flag)
    best = members[np.lexsort((members, -rank[members], groups[members]))]
    kept[best[np.unique(groups[best], return_index=True)[1]]] = True
    return Duplicates(flag, _closeness(nearest), groups, pairs, kept, radius)


@score(
    needs=("embedding",),
    higher="nearer to another datapoint",
    source="Datalab of cleanlab 2.9, near_duplicate",
)
def near_duplicate(embedding: np.ndarray, *, metric: str | None = None) -> np.ndarray:
    """How near is the nearest other datapoint? exp(-distance / median nearest distance).

    Parameters
    ----------
    embedding : float (n, d), finite
    metric : "cosine", "euclidean" or None
        None: cosine above three dimensions.

    Returns
    -------
    float64 (n,)
        0 to 1; 1 is an exact copy. `near_duplicates` groups them.
    """
    return _closeness(neighbours(embedding, 1, metric)[0][:, 0])


def _closeness(nearest: np.ndarray) -> np.ndarray:
    median = float(np.median(nearest))
    return np.exp(-nearest / median) if median > 0 else (nearest == 0).astype(np.float64)


def _components(n: int, pairs: np.ndarray) -> np.ndarray:
    """int64 (n,): connected component of each row in a pair, numbered by first member; -1 for the others."""
    parent = np.arange(n)
    for a, b in pairs.tolist():
        root_a, root_b = _root(parent, a), _root(parent, b)
        parent[max(root_a, root_b)] = min(root_a, root_b)  # the root is the first member
    members = np.unique(pairs)
    roots = np.array([_root(parent, m) for m in members.tolist()], np.int64)
    groups = np.full(n, -1, np.int64)
    groups[members] = np.unique(roots, return_inverse=True)[1]
    return groups


def _root(parent: np.ndarray, row: int) -> int:
    while parent[row] != row:
        parent[row] = parent[parent[row]]
        row = int(parent[row])
    return row
