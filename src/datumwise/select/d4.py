"""D4: deduplicate, cluster again, and leave out what lies near a centre.

Tirumala, Simig, Aghajanyan and Morcos, "D4: improving LLM pretraining via document de-duplication and
diversification", 2023, section 3.4; prototypes: Sorscher et al., "Beyond neural scaling laws", 2022, section 5.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.select.selector import Selector
from datumwise.select.semantic import DIGITS, earlier_copies, k_means, unit_rows

__all__ = ["D4"]


class D4(Selector):
    """SemDeDup, then, among what is left, the datapoints farthest from the centres of new clusters.

    First the share ``dedup_share`` with the least similarity to an earlier datapoint of their cluster is kept: SemDeDup
    with ``eps`` set to that share. Duplicates make clusters of their own, so the rest is clustered again; of it
    the datapoints farthest from their centres are chosen, farthest first.

    Parameters
    ----------
    n_to_select : int or float
        How many, or which share.
    dedup_share : float in (0, 1], default 0.75
        Share that deduplication keeps, R_dedup; never less than ``n_to_select``.
    n_clusters : int, optional
        Of both clusterings. None: the square root of the number of datapoints, the authors' rule.
    random_state : int, Generator or None, default 0
        Of k-means.

    Attributes
    ----------
    deduplicated_ : bool (n,)
        What deduplication kept.

    Examples
    --------
    Ten copies of one point cost nine places at most once:

    >>> import numpy as np
    >>> X = np.vstack([np.repeat([[1.0, 0.0]], 10, axis=0), np.eye(2), -np.eye(2), [[0.6, 0.8]]])
    >>> chosen = D4(4, dedup_share=0.4, n_clusters=2).fit(X)
    >>> int((chosen.ranking_ < 11).sum()) <= 1
    True

    References
    ----------
    Tirumala, Simig, Aghajanyan and Morcos, 2023, arXiv 2308.12284, section 3.4.
    """

    takes: ClassVar[tuple[str, ...]] = ("X",)
    source: ClassVar[str] = "Tirumala et al., 2023, section 3.4"

    def __init__(
        self,
        n_to_select: int | float,
        *,
        dedup_share: float = 0.75,
        n_clusters: int | None = None,
        random_state: int | np.random.Generator | None = 0,
    ) -> None:
        self.n_to_select = n_to_select
        self.dedup_share = dedup_share
        self.n_clusters = n_clusters
        self.random_state = random_state

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        if not 0 < self.dedup_share <= 1:
            raise DatumwiseError(f"dedup_share is {self.dedup_share!r}", remedy="give a share above 0 and up to 1")
        rng = np.random.default_rng(self.random_state)
        points = unit_rows(inputs["X"])
        labels, distance = self._clustered(points, rng)
        _, to_earlier = earlier_copies(points, labels, -distance)
        kept = max(k, round(self.dedup_share * n))
        rows = np.sort(np.lexsort((np.arange(n), -to_earlier))[:kept])
        _, distance = self._clustered(points[rows], rng)
        best = np.lexsort((rows, -distance))[:k]
        self.deduplicated_ = np.isin(np.arange(n), rows)
        return rows[best], distance[best]

    def _clustered(self, points: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Labels, and cosine distance to the centre."""
        count = max(1, round(len(points) ** 0.5)) if self.n_clusters is None else min(self.n_clusters, len(points))
        labels, centres = k_means(points, count, rng)
        return labels, np.round(1 - np.einsum("ij,ij->i", points, unit_rows(centres)[labels]), DIGITS)
