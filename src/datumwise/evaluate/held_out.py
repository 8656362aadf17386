"""Which datapoints to hold out, so that the classes keep their shares and no near copy straddles the split."""

from __future__ import annotations

import numpy as np

from datumwise.errors import LabelError

__all__ = ["held_out_split"]


def held_out_split(
    labels: np.ndarray, groups: np.ndarray | None = None, *, size: float | int = 0.25, seed: int = 0
) -> np.ndarray:
    """Draw whole groups, class by class, until ``size`` datapoints are held out.

    Parameters
    ----------
    labels : ndarray, shape (n,)
        Class codes; floats are cut at their deciles first.
    groups : ndarray of int, shape (n,), optional
        Datapoints with the same number stay on one side (near copies of one another). Default: each on its own.
    size : float or int
        Share of the datapoints (below 1) or their number.
    seed : int

    Returns
    -------
    ndarray of bool, shape (n,)
        True where held out. Every class with at least two groups keeps a group on the training side.

    Raises
    ------
    LabelError
        If so many are asked for that nothing is left to train on.

    Examples
    --------
    >>> import numpy as np
    >>> y = np.repeat([0, 1], [30, 10])
    >>> held = held_out_split(y, size=0.2)
    >>> held[y == 0].sum(), held[y == 1].sum()
    (np.int64(6), np.int64(2))
    """
    labels = np.asarray(labels)
    n = len(labels)
    groups = np.arange(n) if groups is None else np.asarray(groups)
    wanted = round(size * n) if size < 1 else int(size)
    if not 0 < wanted < n:
        raise LabelError(f"{wanted:,} of {n:,} datapoints cannot be held out", remedy="hold out a share between 0 and 1")
    if labels.dtype.kind == "f":
        labels = np.searchsorted(np.quantile(labels, np.arange(1, 10) / 10), labels)
    _, first, code, count = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    stratum = labels[first]  # a group counts for the class of its first member
    rng = np.random.default_rng(seed)
    chosen = np.zeros(len(first), bool)
    for value in np.unique(stratum):
        members = rng.permutation(np.flatnonzero(stratum == value))
        quota = wanted * count[members].sum() / n
        before = np.cumsum(count[members]) - count[members]
        take = members[before + count[members] / 2 <= quota]  # the group that crosses the quota goes in if most of it fits
        chosen[take[: max(len(members) - 1, 0)]] = True
    return chosen[code]
