"""Which datapoints stand for the clusters that the data fall into? k-means first, then picks from every cluster."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import numpy as np
from sklearn.cluster import KMeans, MiniBatchKMeans

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.probe.neighbours import row_norms
from datumwise.select.selector import Selector

__all__ = ["ClusterClip", "ClusterPicks", "SSLPrototypes", "allotment", "cluster_clip", "clusters"]

SHARES = ("balanced", "proportional", "uniform")
PICKS = ("random", "nearest", "farthest")
LARGE = 50_000  # datapoints above which k-means reads batches


class _Clustered(Selector):
    """A selector that clusters first."""

    n_clusters: int | None
    normalize: bool
    random_state: Any

    labels_: np.ndarray
    distances_: np.ndarray

    def _cluster(self, X: np.ndarray, rng: np.random.Generator) -> None:
        self.labels_, self.distances_ = clusters(X, self.n_clusters, normalize=self.normalize, random_state=rng)


class ClusterPicks(_Clustered):
    """Keep datapoints of every cluster: how many, and which, are two choices.

    Parameters
    ----------
    n_to_select : int or float
    n_clusters : int, optional
        None: about sqrt(n).
    share : {"balanced", "proportional", "uniform"}, default "balanced"
        The same number of each cluster as far as it has so many; in proportion to its size (largest remainders); or
        every pick from a cluster drawn uniformly among those not used up.
    pick : {"random", "nearest", "farthest"}, default "random"
        Which of a cluster: at random, nearest to the centre first, or farthest first.
    normalize : bool, default False
        Scale rows to length 1 first.
    random_state : int, Generator or None
    progress : callable, optional
        Called with (picks, k).

    Attributes
    ----------
    labels_ : int64 (n,)
        Cluster of each datapoint, 0, 1, ... by their lowest rows.
    distances_ : float64 (n,)
        Euclidean distance to its centre.
    gains_ : float64 (k,)
        1 for the first pick of a cluster, 1/2 for the second, ...: the gain in sum over clusters of 1 + 1/2 + ...

    Notes
    -----
    The ranking goes round the clusters, the largest first, so that its head is a balanced (or proportional) choice.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[0.0], [0.1], [0.2], [5.0], [5.2], [5.6]])
    >>> ClusterPicks(2, n_clusters=2, pick="nearest", random_state=0).fit(X).ranking_.tolist()
    [1, 4]

    References
    ----------
    Shao et al., 2024, *Balanced Data Sampling for Language Model Training with Clustering* (shares); Sorscher et al.,
    2022, *Beyond Neural Scaling Laws*, section 6 (nearest, farthest).
    """

    takes: ClassVar[tuple[str, ...]] = ("X",)
    source: ClassVar[str] = "Shao et al., 2024; Sorscher et al., 2022, section 6"

    def __init__(
        self,
        n_to_select: int | float,
        *,
        n_clusters: int | None = None,
        share: str = "balanced",
        pick: str = "random",
        normalize: bool = False,
        random_state: Any = None,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        self.n_to_select = n_to_select
        self.n_clusters = n_clusters
        self.share = share
        self.pick = pick
        self.normalize = normalize
        self.random_state = random_state
        self.progress = progress

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        _one_of(self.share, SHARES, "share")
        _one_of(self.pick, PICKS, "pick")
        rng = np.random.default_rng(self.random_state)
        self._cluster(inputs["X"], rng)
        sizes = np.bincount(self.labels_)
        key = {"random": rng.random(n), "nearest": self.distances_, "farthest": -self.distances_}[self.pick]
        order = np.lexsort((np.arange(n), key, self.labels_))
        place = np.empty(n, np.int64)  # 0, 1, ... inside its cluster
        place[order] = np.arange(n) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        quota = allotment(sizes, k, self.share, rng)
        kept = np.flatnonzero(place < quota[self.labels_])
        if self.share == "proportional":  # every head of the ranking is in proportion too
            turn = (place[kept] + 0.5) / quota[self.labels_[kept]]
        else:
            turn = place[kept].astype(np.float64)
        ranking = kept[np.lexsort((kept, -sizes[self.labels_[kept]], turn))]
        if self.progress is not None:
            self.progress(k, k)
        return ranking, 1.0 / (1 + place[ranking])


class SSLPrototypes(_Clustered):
    """Keep the datapoints farthest from the centre of their cluster (hard), or the nearest (easy).

    Parameters
    ----------
    n_to_select : int or float
    keep : {"hard", "easy"}, default "hard"
        Hard datapoints are better where data are plenty, easy ones where they are few.
    n_clusters : int, optional
        None: about sqrt(n). The paper has as many as there are classes.
    normalize : bool, default True
        Scale rows to length 1 first: then the order is that of cosine distance to the centre.
    random_state : int, Generator or None

    Attributes
    ----------
    labels_, distances_
        As in `ClusterPicks`.
    gains_ : float64 (k,)
        Distance of each pick to its centre, negative for "easy".

    Examples
    --------
    >>> import numpy as np
    >>> X = np.array([[1.0, 0], [1, 0.1], [1, 0.4], [0, 1], [-0.1, 1], [0.3, 1]])
    >>> SSLPrototypes(2, n_clusters=2, random_state=0).fit(X).ranking_.tolist()
    [5, 2]

    References
    ----------
    Sorscher et al., 2022, *Beyond Neural Scaling Laws*, section 6.
    """

    takes: ClassVar[tuple[str, ...]] = ("X",)
    source: ClassVar[str] = "Sorscher et al., 2022, section 6"

    def __init__(
        self,
        n_to_select: int | float,
        *,
        keep: str = "hard",
        n_clusters: int | None = None,
        normalize: bool = True,
        random_state: Any = None,
    ) -> None:
        self.n_to_select = n_to_select
        self.keep = keep
        self.n_clusters = n_clusters
        self.normalize = normalize
        self.random_state = random_state

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        _one_of(self.keep, ("hard", "easy"), "keep")
        self._cluster(inputs["X"], np.random.default_rng(self.random_state))
        gain = self.distances_ if self.keep == "hard" else -self.distances_
        ranking = np.argsort(-gain, kind="stable")[:k]
        return ranking, gain[ranking]


class ClusterClip(_Clustered):
    """Draw every datapoint from a cluster drawn uniformly, but none more than a few times.

    Rare topics are raised to the rate of common ones, until their datapoints have been repeated enough. The ranking
    is the order of training, with repeats; `cluster_clip` draws more than n.

    Parameters
    ----------
    n_to_select : int or float
        Draws.
    n_clusters : int, optional
        None: about sqrt(n).
    max_repeats : int, default 5
        Most times that a datapoint is drawn (the clip).
    normalize : bool, default True
    random_state : int, Generator or None

    Attributes
    ----------
    labels_, distances_
        As in `ClusterPicks`.
    gains_ : float64 (k,)
        1 for a datapoint's first draw, 0 for a repeat.

    Examples
    --------
    >>> import numpy as np
    >>> X = np.repeat([[0.0, 1.0], [1.0, 0.0]], [90, 10], axis=0)
    >>> chosen = ClusterClip(40, n_clusters=2, random_state=0).fit(X).ranking_
    >>> int((chosen >= 90).sum()) > 10  # of a cluster of ten
    True

    References
    ----------
    Shao et al., 2024, *Balanced Data Sampling for Language Model Training with Clustering*.
    """

    takes: ClassVar[tuple[str, ...]] = ("X",)
    source: ClassVar[str] = "Shao et al., 2024"

    def __init__(
        self,
        n_to_select: int | float,
        *,
        n_clusters: int | None = None,
        max_repeats: int = 5,
        normalize: bool = True,
        random_state: Any = None,
    ) -> None:
        self.n_to_select = n_to_select
        self.n_clusters = n_clusters
        self.max_repeats = max_repeats
        self.normalize = normalize
        self.random_state = random_state

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(self.random_state)
        self._cluster(inputs["X"], rng)
        ranking = cluster_clip(self.labels_, k, max_repeats=self.max_repeats, random_state=rng)
        gains = np.zeros(k)
        gains[np.unique(ranking, return_index=True)[1]] = 1.0
        return ranking, gains


def clusters(
    X: np.ndarray, n_clusters: int | None = None, *, normalize: bool = False, random_state: Any = None
) -> tuple[np.ndarray, np.ndarray]:
    """k-means, in batches above 50,000 datapoints.

    Parameters
    ----------
    X : float (n, d)
    n_clusters : int, optional
        None: about sqrt(n).
    normalize : bool, default False
        Scale rows to length 1 first.
    random_state : int, Generator or None

    Returns
    -------
    labels : int64 (n,)
        0, 1, ... by the lowest row of a cluster; no more than there are different rows.
    distances : float64 (n,)
        Euclidean distance to the centre.

    Raises
    ------
    DatumwiseError
        n_clusters is not from 1 to n.
    """
    n = len(X)
    wanted = max(1, round(np.sqrt(n))) if n_clusters is None else n_clusters
    if not 1 <= wanted <= n:
        raise DatumwiseError(f"{wanted:,} clusters were asked of {n:,} datapoints", remedy=f"n_clusters from 1 to {n:,}")
    points = X.astype(np.float64)
    if normalize:
        norms = row_norms(points)
        points /= np.where(norms > 0, norms, 1.0)[:, None]
    seed = int(np.random.default_rng(random_state).integers(2**31))
    kind = MiniBatchKMeans if n > LARGE else KMeans
    found = kind(_different_rows(points, wanted), n_init=1, random_state=seed).fit(points)
    first, labels = np.unique(found.labels_, return_index=True, return_inverse=True)[1:]
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    distances = row_norms(points - found.cluster_centers_[found.labels_])
    return number[labels], distances


def _different_rows(X: np.ndarray, most: int) -> int:
    """How many rows differ, counted up to ``most``: k-means goes wrong with more clusters than that."""
    seen: set[bytes] = set()
    for row in X + 0.0:  # -0 is 0
        seen.add(row.tobytes())
        if len(seen) == most:
            break
    return len(seen)


def allotment(sizes: np.ndarray, k: int, share: str, random_state: Any = None) -> np.ndarray:
    """How many of each cluster: int64 (c,), summing to k, none more than its size.

    Parameters
    ----------
    sizes : int (c,)
    k : int
        At most the sum of sizes.
    share : {"balanced", "proportional", "uniform"}
    random_state : int, Generator or None
        Of "uniform".

    Examples
    --------
    >>> allotment(np.array([1, 2, 100]), 30, "balanced").tolist()
    [1, 2, 27]
    >>> allotment(np.array([10, 20, 70]), 5, "proportional").tolist()
    [1, 1, 3]
    """
    sizes = np.asarray(sizes)
    quota = np.zeros(len(sizes), np.int64)
    if share == "balanced":
        level = 0  # as many of each, and one more of the largest clusters for what is left over
        high = int(sizes.max())
        while level < high:
            middle = (level + high + 1) // 2
            level, high = (middle, high) if np.minimum(sizes, middle).sum() <= k else (level, middle - 1)
        quota[:] = np.minimum(sizes, level)
        more = np.flatnonzero(sizes > level)
        quota[more[np.argsort(-sizes[more], kind="stable")[: k - quota.sum()]]] += 1
        return quota
    if share == "proportional":
        exact = k * sizes / sizes.sum()
        quota[:] = np.floor(exact)
        quota[np.argsort(quota - exact, kind="stable")[: k - quota.sum()]] += 1
        return quota
    rng = np.random.default_rng(random_state)
    while quota.sum() < k:
        open_ = np.flatnonzero(quota < sizes)
        drawn = np.bincount(rng.choice(open_, size=k - quota.sum()), minlength=len(sizes))
        quota = np.minimum(quota + drawn, sizes)
    return quota


def cluster_clip(labels: np.ndarray, n_draws: int, *, max_repeats: int = 5, random_state: Any = None) -> np.ndarray:
    """Rows in the order drawn: a cluster uniformly, then one of its datapoints uniformly, until it is clipped.

    Parameters
    ----------
    labels : int (n,)
        Cluster of each datapoint.
    n_draws : int
        At most n max_repeats.
    max_repeats : int, default 5
        A datapoint drawn so often is drawn no more; nor is a cluster that has none left.
    random_state : int, Generator or None

    Returns
    -------
    int64 (n_draws,)

    Raises
    ------
    DatumwiseError
        More draws than there are repeats.
    """
    if max_repeats < 1:
        raise DatumwiseError(f"max_repeats is {max_repeats}", remedy="max_repeats >= 1")
    if not 0 <= n_draws <= max_repeats * len(labels):
        raise DatumwiseError(
            f"{n_draws:,} draws of {len(labels):,} datapoints need more than {max_repeats} repeats",
            remedy="fewer draws, or a larger max_repeats",
        )
    rng = np.random.default_rng(random_state)
    order = np.argsort(labels, kind="stable")
    waiting = [list(rows) for rows in np.split(order, np.cumsum(np.bincount(labels))[:-1]) if len(rows)]
    times = np.zeros(len(labels), np.int64)
    drawn = np.empty(n_draws, np.int64)
    uniform = rng.random((n_draws, 2)).tolist()
    for t, (which, where) in enumerate(uniform):
        c = int(which * len(waiting))
        rows = waiting[c]
        at = int(where * len(rows))
        row = rows[at]
        drawn[t] = row
        times[row] += 1
        if times[row] == max_repeats:
            rows[at] = rows[-1]
            rows.pop()
            if not rows:
                waiting[c] = waiting[-1]
                waiting.pop()
    return drawn


def _one_of(value: str, known: Iterable[str], name: str) -> None:
    known = list(known)
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1)
        raise UnknownName(
            f"there is no {name} {value!r}", remedy=f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
        )
