"""How much that is new does each datapoint bring, where data are dense? NovelSum.

Yang et al., 2025, *Measuring Data Diversity for Instruction Tuning* (arXiv 2502.17184), section 3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from datumwise.errors import DatumwiseError, SchemaMismatch, UnknownName
from datumwise.probe.neighbours import finite_matrix, neighbours, row_norms
from datumwise.score.declare import score

__all__ = ["novelsum", "novelty"]

CELLS = 1 << 19  # distances in a block (2 MiB of float32: it stays in the cache)
FLOOR = 1e-9  # added to the mean squared distance, as published
VARIANTS = ("exact", "published")


@score(
    needs=("embedding",),
    higher="brings more that is new, in a dense region",
    source="Yang et al., 2025, section 3",
)
def novelty(
    embedding: np.ndarray,
    *,
    reference: Any = None,
    k: int = 10,
    density_power: float = 0.5,
    proximity_power: float = 1.0,
    variant: str = "exact",
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """How unlike all others is it, those near it counting most, where data are dense?

    rho_i sum_r r^-beta d_(r) / sum_r r^-beta: d_(r) are the cosine distances to the others, ascending, and rho_i =
    (mean squared Euclidean distance to its k nearest different points of the reference + 1e-9)^-alpha.

    Parameters
    ----------
    embedding : float (n, d), finite, n >= 2
    reference : float (m, d), optional
        Points that show where data are dense, such as all data the set was chosen from; None: the set itself.
        Copies count once, and the datapoint itself does not.
    k : int, default 10
        Neighbours in the reference; fewer if it has fewer.
    density_power : float, default 0.5
        alpha; 0: density does not matter.
    proximity_power : float, default 1.0
        beta; 0: all others count the same.
    variant : {"exact", "published"}, default "exact"
        "published" takes the datapoint itself for its nearest other (r = 1, distance 0), and leaves out the nearest
        point of the reference even where it is not a copy of the datapoint.
    progress : callable, optional
        Called with (rows done, n).

    Returns
    -------
    float64 (n,)
        Not negative.

    Notes
    -----
    O(n^2 (d + log n)) time, in blocks.

    Examples
    --------
    The second copy of a row makes both less new than the row that is like no other:

    >>> import numpy as np
    >>> X = np.array([[1.0, 0], [1, 0], [0.9, 0.1], [0, 1]])
    >>> int(novelty(X, density_power=0).argmax())
    3
    """
    X = finite_matrix(embedding, "embedding")
    if variant not in VARIANTS:
        raise UnknownName(f"there is no variant {variant!r}", remedy="give 'exact' or 'published'")
    if len(X) < 2:
        raise DatumwiseError("one datapoint is new to nothing", remedy="give at least two")
    n = len(X)
    first = 1 if variant == "exact" else 0
    weights = np.arange(1, n + 1 - first, dtype=np.float64) ** -proximity_power
    weights /= weights.sum()
    norms = row_norms(X)
    unit = (X / np.where(norms > 0, norms, 1.0)[:, None]).astype(np.float32)
    found = np.empty(n)
    step = max(1, CELLS // n)
    for start in range(0, n, step):
        block = 1 - unit[start : start + step] @ unit.T
        np.clip(block, 0, 2, out=block)
        block[np.arange(len(block)), np.arange(start, start + len(block))] = -1.0  # itself goes first, copies after
        block.sort(axis=1)
        block[:, 0] = 0.0
        found[start : start + step] = block[:, first:] @ weights
        if progress is not None:
            progress(min(start + step, n), n)
    return found * _density(X, reference, k, density_power, variant)


def novelsum(
    X: Any,
    reference: Any = None,
    *,
    k: int = 10,
    density_power: float = 0.5,
    proximity_power: float = 1.0,
    variant: str = "exact",
) -> float:
    """Diversity of a set: the mean `novelty` of its datapoints; sets are compared with one reference.

    Parameters
    ----------
    X : float (n, d)
    reference, k, density_power, proximity_power, variant
        As in `novelty`.

    Returns
    -------
    float

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> pool = rng.normal(size=(200, 8))
    >>> novelsum(pool[:50], pool) > novelsum(np.repeat(pool[:10], 5, axis=0), pool)
    True
    """
    novel = novelty(X, reference=reference, k=k, density_power=density_power, proximity_power=proximity_power, variant=variant)
    return float(novel.mean())


def _density(X: np.ndarray, reference: Any, k: int, power: float, variant: str) -> np.ndarray:
    if power == 0:
        return np.ones(len(X))
    pool = X if reference is None else finite_matrix(reference, "reference")
    if pool.shape[1] != X.shape[1]:
        raise SchemaMismatch(f"the reference has {pool.shape[1]} columns and the embedding has {X.shape[1]}")
    pool = np.unique(pool, axis=0)
    if len(pool) < 2:
        raise DatumwiseError("the reference holds one point only", remedy="give more, or density_power=0")
    k = min(k, len(pool) - 1)
    distances = neighbours(pool, k + 1, "euclidean", queries=X)[0]
    own = (distances[:, 0] == 0) | (variant == "published")
    near = np.where(own[:, None], distances[:, 1:], distances[:, :-1])
    return ((near**2).mean(axis=1) + FLOOR) ** -power
