"""Which datapoints say the same, which one of them is kept, and why?

Similar pairs become groups by connection: what is similar to a member is a member (union-find, here scipy's
connected components). Of a group one is kept, by a rule that is said in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from datumwise.errors import DatumwiseError, DuplicateId, NotFinite, SchemaMismatch, UnknownName, name_some

__all__ = ["Groups", "Keep", "connected", "group_pairs", "named", "ranks", "share", "similarities_to_kept"]

Keep = Any  # "first", "longest", or one number a datapoint, of which the highest is kept
Similarity = Callable[[np.ndarray, np.ndarray], np.ndarray]  # rows (p,), rows (p,) -> float64 (p,)
SHOWN = 10  # groups that are printed
COPIES = 3  # of a group


@dataclass(frozen=True)
class Groups:
    """Groups of datapoints that say the same, and what is kept of them.

    Attributes
    ----------
    labels : int64 (n,)
        Number of the group, 0, 1, ... in the order of their first members; -1 for what has no copy.
    keep : bool (n,)
        False for what is left out.
    kept_by : int64 (n,)
        Row that is kept in a datapoint's place; its own, if it is kept.
    pairs : int64 (p, 2)
        Rows i < j found to be similar, ascending. Where very many share one bucket, enough of them to connect
        the group.
    similarity : float64 (p,)
        Of the pairs, in the unit that ``rule`` names.
    similarity_to_kept : float64 (n,)
        Between a datapoint and the one kept in its place, 1 for what is kept. In a group of more than two it
        may be below the threshold: a copy of a copy.
    rule : str
        What made a pair, and which is kept, in words.
    ids : array (n,)
        Names of the datapoints: row numbers if none were given.

    Examples
    --------
    >>> found = group_pairs(5, [[0, 3], [4, 0]], [0.9, 0.8], rule="Jaccard at least 0.7")
    >>> found.labels.tolist(), found.keep.tolist(), found.kept_by.tolist()
    ([0, -1, -1, 0, 0], [True, True, True, False, False], [0, 1, 2, 0, 0])
    >>> print(found)
    2 of 5 datapoints left out: 1 group (Jaccard at least 0.7; kept: the first)
    size  kept  left out  least similar
       3  0     3, 4               0.80
    """

    labels: np.ndarray = field(repr=False)
    keep: np.ndarray = field(repr=False)
    kept_by: np.ndarray = field(repr=False)
    pairs: np.ndarray = field(repr=False)
    similarity: np.ndarray = field(repr=False)
    similarity_to_kept: np.ndarray = field(repr=False)
    rule: str
    ids: np.ndarray = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def n_groups(self) -> int:
        return int(self.labels.max(initial=-1)) + 1

    @property
    def n_left_out(self) -> int:
        return int(np.count_nonzero(~self.keep))

    @property
    def ids_kept(self) -> np.ndarray:
        """Ids of what is kept, in the order of the rows."""
        return self.ids[self.keep]

    @property
    def sizes(self) -> np.ndarray:
        """int64 (n_groups,): members of each group, left out or not."""
        return np.bincount(self.labels[self.labels >= 0], minlength=self.n_groups)

    def members(self, group: int) -> np.ndarray:
        """Rows of a group, ascending."""
        return np.flatnonzero(self.labels == group)

    def table(self, limit: int = SHOWN) -> list[dict[str, Any]]:
        """The biggest groups: ``size``, ``kept`` and ``left_out`` (ids), ``least`` similarity known to the kept one."""
        order = np.argsort(-self.sizes, kind="stable")[:limit]
        grouped = np.argsort(self.labels, kind="stable")
        bounds = np.searchsorted(self.labels[grouped], np.arange(self.n_groups + 1))
        found = []
        for group in order:
            rows = grouped[bounds[group] : bounds[group + 1]]
            out = rows[~self.keep[rows]]
            found.append(
                {
                    "size": len(rows),
                    "kept": self.ids[rows[self.keep[rows]]].tolist(),
                    "left_out": self.ids[out].tolist(),
                    "least": float(np.nan_to_num(self.similarity_to_kept[out], nan=1.0).min(initial=1.0)),
                }
            )
        return found

    def why(self, row: int) -> str:
        """What became of a datapoint, in one sentence.

        Examples
        --------
        >>> group_pairs(3, [[0, 2]], [0.9], rule="Jaccard at least 0.7").why(2)
        '2 is left out for 0, to which it is 0.90 similar: Jaccard at least 0.7; kept: the first'
        """
        if not -len(self) <= row < len(self):
            raise DatumwiseError(f"there is no row {row}", remedy=f"rows are from 0 to {len(self) - 1:,}")
        if self.labels[row] < 0:
            return f"{self.ids[row]} is kept: nothing is similar to it"
        size = int(np.count_nonzero(self.labels == self.labels[row]))
        if self.keep[row]:
            return f"{self.ids[row]} is kept, of {size:,} that are similar: {self.rule}"
        kept, similar = self.ids[self.kept_by[row]], self.similarity_to_kept[row]
        how = "is connected through others" if np.isnan(similar) else f"is {similar:.2f} similar"
        return f"{self.ids[row]} is left out for {kept}, to which it {how}: {self.rule}"

    def __str__(self) -> str:
        groups = f"{self.n_groups:,} group" + ("s" if self.n_groups != 1 else "")
        head = f"{self.n_left_out:,} of {len(self):,} datapoints left out: {groups} ({self.rule})"
        if not self.n_groups:
            return head
        rows = [("size", "kept", "left out", "least similar")]
        for one in self.table():
            kept, out = (_some(one[key]) for key in ("kept", "left_out"))
            rows.append((f"{one['size']:,}", kept, out, f"{one['least']:.2f}"))
        a, b, c, d = (max(len(row[i]) for row in rows) for i in range(4))
        lines = [f"{size:>{a}}  {kept:<{b}}  {out:<{c}}  {least:>{d}}" for size, kept, out, least in rows]
        if self.n_groups > SHOWN:
            lines.append(f"and {self.n_groups - SHOWN:,} more groups")
        return "\n".join([head, *lines])


def group_pairs(
    n: int,
    pairs: Any,
    similarity: Any,
    *,
    rule: str,
    keep: Keep = "first",
    lengths: np.ndarray | None = None,
    ids: Sequence[Any] | None = None,
    between: Similarity | None = None,
) -> Groups:
    """Groups of connected pairs, and of each group one kept.

    Parameters
    ----------
    n : int
        Datapoints.
    pairs : int array (p, 2)
        Rows that are similar, in any order; the same pair may come twice.
    similarity : float array (p,)
        Of the pairs.
    rule : str
        What made a pair, in words; which is kept is added.
    keep : "first", "longest" or float array (n,), default "first"
        Which of a group is kept: the first row, the longest by ``lengths``, or the one with the highest number;
        ties to the lowest row.
    lengths : array (n,), optional
        What ``keep="longest"`` compares.
    ids : sequence of n, optional
        Names of the datapoints, all different.
    between : callable, optional
        Similarity of two arrays of rows, for ``similarity_to_kept`` of what is connected to the kept one through
        others. None: the least similarity on the way is not known, and NaN stands there.

    Raises
    ------
    DatumwiseError
        An unknown rule; numbers that are missing, not finite or not n; ids that repeat.
    """
    names = named(ids, n)
    rank, said = _rank(keep, n, lengths)
    pairs, similarity = _tidy(np.asarray(pairs, np.int64).reshape(-1, 2), np.asarray(similarity, np.float64))
    labels = connected(n, pairs)
    rows = np.flatnonzero(labels >= 0)
    kept_by = np.arange(n)
    if len(rows):
        best = rows[np.lexsort((rows, -rank[rows], labels[rows]))]
        first = best[np.searchsorted(labels[best], np.arange(labels.max() + 1))]  # the best of each group
        kept_by[rows] = first[labels[rows]]
    to_kept = similarities_to_kept(kept_by, pairs, similarity, between)
    return Groups(labels, kept_by == np.arange(n), kept_by, pairs, similarity, to_kept, f"{rule}; kept: {said}", names)


def connected(n: int, pairs: np.ndarray) -> np.ndarray:
    """int64 (n,): number of each row's component, by first member; -1 for rows in no pair.

    Examples
    --------
    >>> connected(6, np.array([[4, 1], [4, 5], [0, 2]])).tolist()
    [0, 1, 0, -1, 1, 1]
    """
    labels = np.full(n, -1, np.int64)
    if len(pairs):
        graph = coo_matrix((np.ones(len(pairs), np.int8), (pairs[:, 0], pairs[:, 1])), shape=(n, n))
        components = connected_components(graph, directed=False)[1]
        rows = np.unique(pairs)
        _, first, inverse = np.unique(components[rows], return_index=True, return_inverse=True)
        order = np.empty(len(first), np.int64)
        order[np.argsort(first)] = np.arange(len(first))
        labels[rows] = order[inverse]
    return labels


def named(ids: Sequence[Any] | None, n: int) -> np.ndarray:
    """Ids as an array (n,), row numbers if there are none.

    Raises
    ------
    SchemaMismatch, DuplicateId
    """
    if ids is None:
        return np.arange(n)
    names = np.asarray(ids)
    if names.shape != (n,):
        raise SchemaMismatch(f"there are {len(names):,} ids for {n:,} datapoints")
    found, counts = np.unique(names, return_counts=True)
    if len(found) < n:
        twice = found[counts > 1]
        raise DuplicateId(f"id {name_some(twice)} comes more than once", ids=twice.tolist())
    return names


def share(value: Any, name: str) -> float:
    """A number above 0 and up to 1, or a refusal.

    Examples
    --------
    >>> share(0.7, "threshold")
    0.7
    """
    if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not 0 < value <= 1:
        raise DatumwiseError(f"{name} is {value!r}", remedy="give a number above 0 and up to 1")
    return float(value)


def ranks(values: Any, n: int, name: str) -> np.ndarray:
    """One finite number a datapoint, float64 (n,), or a refusal.

    Raises
    ------
    SchemaMismatch, NotFinite
    """
    rank = np.asarray(values)
    if rank.dtype.kind not in "fiub" or rank.shape != (n,):
        raise SchemaMismatch(f"{name} is no list of {n:,} numbers", remedy="give one number a datapoint")
    rank = rank.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(rank))
    if len(bad):
        raise NotFinite(f"{name} has NaN or infinity in row {name_some(bad)}", remedy="drop or fill these", ids=bad.tolist())
    return rank


def similarities_to_kept(
    kept_by: np.ndarray, pairs: np.ndarray, similarity: np.ndarray, between: Similarity | None
) -> np.ndarray:
    """float64 (n,): 1 for what is kept, else the similarity to what is kept in its place, NaN where unknown."""
    n = len(kept_by)
    found = np.ones(n)
    out = np.flatnonzero(kept_by != np.arange(n))
    kept = kept_by[out]
    key = np.minimum(out, kept) * n + np.maximum(out, kept)
    known = pairs[:, 0] * n + pairs[:, 1]  # ascending
    place = np.minimum(np.searchsorted(known, key), max(0, len(known) - 1))
    direct = known[place] == key if len(known) else np.zeros(len(out), bool)
    found[out] = np.where(direct, similarity[place] if len(known) else np.nan, np.nan)
    if between is not None and not direct.all():
        found[out[~direct]] = between(out[~direct], kept[~direct])
    return found


def _rank(keep: Keep, n: int, lengths: np.ndarray | None) -> tuple[np.ndarray, str]:
    if isinstance(keep, str):
        if keep == "first":
            return np.zeros(n), "the first"
        if keep == "longest" and lengths is not None:
            return np.asarray(lengths, np.float64), "the longest"
        known = "'first', 'longest' or one number a datapoint" if lengths is not None else "'first' or one number a datapoint"
        raise UnknownName(f"there is no rule {keep!r} of what to keep here", remedy=f"give {known}")
    return ranks(keep, n, "keep"), "the highest score"


def _tidy(pairs: np.ndarray, similarity: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every pair once, i < j, ascending."""
    if not len(pairs):
        return pairs, similarity
    low, high = pairs.min(axis=1), pairs.max(axis=1)
    n = int(high.max()) + 1
    _, first = np.unique(low * n + high, return_index=True)
    return np.column_stack([low, high])[first], similarity[first]


def _some(ids: Sequence[Any]) -> str:
    more = f" and {len(ids) - COPIES:,} more" if len(ids) > COPIES else ""
    return ", ".join(str(one) for one in ids[:COPIES]) + more
