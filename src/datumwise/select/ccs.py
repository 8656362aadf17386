"""Cover the whole range of a score: the hardest dropped, the rest sampled evenly from strata of the score."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.select.per_class import class_by_class
from datumwise.select.selector import Selector

__all__ = ["CCS", "stratum_budgets"]

MARGIN = 1e-4  # the last stratum reaches this share of the largest score beyond it


class CCS(Selector):
    """Coverage-centric coreset selection: strata of equal width in the score, and an even share from each.

    The ``beta`` share hardest datapoints are dropped (they are often mislabelled); the range of the other scores
    is cut into ``n_strata`` strata of equal width; strata with few members give all, the others share what is
    left of the budget evenly; inside a stratum the draw is random.

    Parameters
    ----------
    n_to_select : int or float
    beta : float, default 0.0
        Share of the datapoints to drop, in [0, 1).
    n_strata : int, default 50
    hard : "highest" or "lowest", default "highest"
        Which end of the score is hard: highest for EL2N, loss and forgetting; lowest for AUM.
    random_state : int, Generator or None

    Attributes
    ----------
    gains_ : float64
        1 / (members of the stratum chosen so far + 1), so an earlier pick of a stratum counts more.

    Notes
    -----
    With labels (``y=``) the drop, the strata and the budget are those of each class by itself.

    Examples
    --------
    >>> scores = np.repeat([0.0, 0.5, 1.0], [1, 2, 100])
    >>> chosen = CCS(30, n_strata=3, random_state=0).fit(scores)
    >>> np.unique(scores[chosen.ranking_], return_counts=True)[1].tolist()
    [1, 2, 27]

    References
    ----------
    Zheng et al., 2023, *Coverage-centric Coreset Selection for High Pruning Rates*, algorithm 1.
    """

    takes: ClassVar = ("scores", "y?")
    source: ClassVar = "Zheng et al., 2023, algorithm 1"

    def __init__(
        self,
        n_to_select: int | float,
        *,
        beta: float = 0.0,
        n_strata: int = 50,
        hard: str = "highest",
        random_state: Any = None,
    ) -> None:
        self.n_to_select = n_to_select
        self.beta = beta
        self.n_strata = n_strata
        self.hard = hard
        self.random_state = random_state

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= self.beta < 1:
            raise DatumwiseError(f"beta is {self.beta}", remedy="give the share of the hardest to drop, from 0 to below 1")
        if self.n_strata < 1:
            raise DatumwiseError(f"n_strata is {self.n_strata}", remedy="give 1 or more")
        if self.hard not in ("highest", "lowest"):
            raise DatumwiseError(f"hard is {self.hard!r}", remedy="say 'highest' or 'lowest'")
        rng = np.random.default_rng(self.random_state)
        scores = inputs["scores"]
        return class_by_class(inputs.get("y"), n, k, lambda rows, share: self._covered(scores[rows], share, rng))

    def _covered(self, scores: np.ndarray, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        kept = self._without_hardest(scores)
        if k > len(kept):
            raise DatumwiseError(
                f"{k:,} datapoints were asked of the {len(kept):,} that are left without the hardest {self.beta:.0%}",
                remedy="a smaller beta, or fewer datapoints",
            )
        stratum = _strata(scores[kept], self.n_strata)
        sizes = np.bincount(stratum, minlength=self.n_strata)
        budgets = stratum_budgets(sizes, k)
        shuffled = rng.permutation(len(kept))
        code = stratum.astype(np.uint16) if self.n_strata <= 1 << 16 else stratum  # 16 bits are sorted in one go
        by_stratum = shuffled[np.argsort(code[shuffled], kind="stable")]
        starts = np.cumsum(sizes) - sizes
        mine = [by_stratum[start : start + budget] for start, budget in zip(starts, budgets, strict=True)]
        turn = np.concatenate([np.arange(budget) for budget in budgets])  # 0, 1, ... inside its stratum
        evenly = np.argsort(turn, kind="stable")  # a beginning of the ranking covers the strata, too
        return kept[np.concatenate(mine)[evenly]], 1 / (turn[evenly] + 1)

    def _without_hardest(self, scores: np.ndarray) -> np.ndarray:
        """Rows left, ascending; of equally hard ones the lowest go first."""
        dropped = int(self.beta * len(scores) + 1e-9)
        if not dropped:
            return np.arange(len(scores))
        order = np.argsort(-scores if self.hard == "highest" else scores, kind="stable")
        return np.sort(order[dropped:])


def stratum_budgets(sizes: np.ndarray, k: int) -> np.ndarray:
    """How many from each stratum: from the smallest up, min(size, floor(budget left / strata left)).

    Parameters
    ----------
    sizes : int (s,)
        Members of each stratum, empty ones included.
    k : int
        At most their sum.

    Returns
    -------
    int64 (s,)
        Sums to k.

    Examples
    --------
    >>> stratum_budgets(np.array([1, 2, 100]), 30).tolist()
    [1, 2, 27]
    """
    budgets = np.zeros(len(sizes), np.int64)
    left = k
    for done, stratum in enumerate(np.argsort(sizes, kind="stable")):
        budgets[stratum] = min(int(sizes[stratum]), left // (len(sizes) - done))
        left -= int(budgets[stratum])
    return budgets


def _strata(scores: np.ndarray, n_strata: int) -> np.ndarray:
    """int64 (n,): the stratum of each score, of equal width from the smallest to just above the largest.

    The official code ends the range at 1.0001 times the largest score, which lies below it where that is
    negative and on it where it is 0: those datapoints then belong to no stratum and can never be chosen.
    """
    low, high = scores.min(), scores.max()
    width = (high + MARGIN * abs(high) - low) / n_strata
    if width == 0:
        return np.zeros(len(scores), np.int64)
    edges = low + np.arange(n_strata + 1) * width
    found = np.minimum(((scores - low) / width).astype(np.int64), n_strata - 1)
    found -= scores < edges[found]  # where the division was rounded across an edge
    found += scores >= edges[found + 1]
    return np.minimum(found, n_strata - 1)
