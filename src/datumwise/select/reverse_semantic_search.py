"""Reverse semantic search: the least similar pair, then always what is least similar to all that is chosen.

Alcoforado et al., "From random to informed data selection", 2024, section 3; algorithm as restated by the Data
Tsunami survey, 2024 (arXiv 2408.02085), section 4.3.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from datumwise.probe.neighbours import neighbours
from datumwise.select.selector import Selector
from datumwise.select.semantic import unit_rows

__all__ = ["ReverseSemanticSearch"]


class ReverseSemanticSearch(Selector):
    """Begin with the two least similar datapoints; each further one has the least cosine to its nearest chosen one.

    k-center greedy under cosine, but for the first two. Exact: the least similar pair is found among all, block by
    block. One row of products a pick.

    Parameters
    ----------
    n_to_select : int or float
        How many, or which share.

    Attributes
    ----------
    gains_ : float64 (k,)
        Cosine distance, 0 to 2, of each pick to the nearest one before it; of the first, to the second.

    Examples
    --------
    >>> import numpy as np
    >>> angle = np.radians([0, 10, 170, 90, 95])
    >>> X = np.column_stack([np.cos(angle), np.sin(angle)])
    >>> ReverseSemanticSearch(3).fit(X).ranking_.tolist()
    [0, 2, 3]

    References
    ----------
    Alcoforado et al., 2024, arXiv 2401.13229.
    """

    takes: ClassVar[tuple[str, ...]] = ("X",)
    source: ClassVar[str] = "Alcoforado et al., 2024"

    def __init__(self, n_to_select: int | float) -> None:
        self.n_to_select = n_to_select

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        points = unit_rows(inputs["X"])
        if n == 1:
            return np.zeros(1, np.int64), np.zeros(1)
        # the nearest to -x is the least similar to x
        nearest, partner = neighbours(points, 1, "cosine", queries=-points)
        first = int(nearest[:, 0].argmin())
        second = int(partner[first, 0])
        if second == first:  # a row of zeros: all others are at distance 1 of it
            second = int(first == 0)
        ranking = sorted((first, second))
        distance = 1 - points @ points[ranking[0]]
        gains = [distance[ranking[1]]] * 2
        distance = np.minimum(distance, 1 - points @ points[ranking[1]])
        distance[ranking] = -np.inf
        while len(ranking) < k:
            best = int(distance.argmax())
            ranking.append(best)
            gains.append(distance[best])
            np.minimum(distance, 1 - points @ points[best], out=distance)
            distance[best] = -np.inf
        return np.array(ranking[:k]), np.array(gains[:k])
