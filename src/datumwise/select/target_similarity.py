"""Which datapoints look like the target? Cosine to the mean of the target, or to its nearest member."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from datumwise.errors import SchemaMismatch, UnknownName
from datumwise.select.selector import Selector
from datumwise.select.semantic import unit_rows

__all__ = ["TargetSimilarity"]

BLOCK = 1 << 22  # similarities held at a time


class TargetSimilarity(Selector):
    """The datapoints with the highest cosine to the target set: a baseline that finds copies of it, not variety.

    Parameters
    ----------
    n_to_select : int or float
        How many, or which share.
    reduce : "mean" or "max", default "mean"
        Mean cosine to all of the target, or cosine to its nearest member.

    Attributes
    ----------
    similarity_ : float64 (n,)
        Of all datapoints.

    Examples
    --------
    >>> import numpy as np
    >>> X, target = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, -1.0]]), np.array([[0.0, 1.0], [0.0, -1.0]])
    >>> TargetSimilarity(1).fit(X, target=target).ranking_, TargetSimilarity(1, reduce="max").fit(X, target=target).ranking_
    (array([0]), array([2]))

    References
    ----------
    Wang et al., "A survey on data selection for LLM instruction tuning" (Data Tsunami), 2024, arXiv 2408.02085,
    section 5.2, warns that it is weak.
    """

    takes: ClassVar[tuple[str, ...]] = ("X", "target")
    source: ClassVar[str] = "baseline of the Data Tsunami survey, 2024"

    def __init__(self, n_to_select: int | float, *, reduce: str = "mean") -> None:
        self.n_to_select = n_to_select
        self.reduce = reduce

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        X, target = inputs["X"], inputs["target"]
        if self.reduce not in ("mean", "max"):
            raise UnknownName(f"there is no reduction {self.reduce!r}", remedy="give 'mean' or 'max'")
        if X.shape[1] != target.shape[1]:
            raise SchemaMismatch(f"target has {target.shape[1]} columns and X has {X.shape[1]}")
        points, wanted = unit_rows(X), unit_rows(target)
        if self.reduce == "mean":
            self.similarity_ = points @ wanted.mean(axis=0)
        else:
            step = max(1, BLOCK // len(wanted))
            blocks = [(points[start : start + step] @ wanted.T).max(axis=1) for start in range(0, n, step)]
            self.similarity_ = np.concatenate(blocks)
        ranking = np.lexsort((np.arange(n), -self.similarity_))[:k]
        return ranking, self.similarity_[ranking]
