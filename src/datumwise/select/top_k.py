"""The datapoints that one score puts first, last, in a band of its quantiles, or beyond a threshold."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from datumwise.errors import DatumwiseError, EmptyData, UnknownName
from datumwise.select.per_class import class_by_class
from datumwise.select.selector import Selector

__all__ = ["QuantileBand", "Threshold", "TopK"]

BANDS = {"low": 0.0, "middle": 0.5, "high": 1.0}


class TopK(Selector):
    """The k datapoints with the highest score, or with the lowest, among those within bounds.

    The rule of Superfiltering (drop what has an instruction-following difficulty of 1 or more, keep the highest
    of the rest) is ``TopK(k, below=1.0)``; that of AlpaGasus (keep ratings of 4.5 and more) is
    ``Threshold(at_least=4.5)``. A selection by one score has no regard for diversity.

    Parameters
    ----------
    n_to_select : int or float
        How many, or which share.
    highest : bool, default True
        False: the lowest come first.
    at_least, below : float, optional
        Only scores in [at_least, below) count. Fewer than k may be left.

    Attributes
    ----------
    gains_ : float64
        The scores of the chosen.

    Examples
    --------
    >>> TopK(2, below=1.0).fit([0.3, 1.7, 0.9, 0.5]).ranking_.tolist()
    [2, 3]

    With labels every class keeps its share:

    >>> TopK(2).fit([9.0, 8.0, 2.0, 1.0], y=["a", "a", "b", "b"]).ranking_.tolist()
    [0, 2]

    References
    ----------
    Li et al., 2024, *Superfiltering*, section 3; Chen et al., 2024, *AlpaGasus*, section 2.
    """

    takes: ClassVar = ("scores", "y?")
    source: ClassVar = "Li et al., 2024, section 3"

    def __init__(
        self,
        n_to_select: int | float,
        *,
        highest: bool = True,
        at_least: float | None = None,
        below: float | None = None,
    ) -> None:
        self.n_to_select = n_to_select
        self.highest = highest
        self.at_least = at_least
        self.below = below

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        scores = inputs["scores"]
        order = np.argsort(-scores if self.highest else scores, kind="stable")
        order = order[_within(scores, self.at_least, self.below)[order]]

        def first(rows: np.ndarray, share: int) -> tuple[np.ndarray, np.ndarray]:
            place = np.empty(n, np.int64)
            place[rows] = np.arange(len(rows))
            mine = order[np.isin(order, rows)][:share]
            return place[mine], scores[mine]

        return class_by_class(inputs.get("y"), n, k, first)


class Threshold(Selector):
    """Every datapoint whose score lies within bounds, highest first; there is no budget.

    Parameters
    ----------
    at_least, below : float, optional
        Scores in [at_least, below) are kept.

    Examples
    --------
    >>> Threshold(at_least=4.5).fit([4.0, 4.5, 5.0]).ranking_.tolist()
    [2, 1]

    References
    ----------
    Chen et al., 2024, *AlpaGasus*, section 2.
    """

    takes: ClassVar = ("scores",)
    source: ClassVar = "Chen et al., 2024, section 2"

    n_to_select = 1 - 2.0**-52  # the share that rounds to all of them, however many there are

    def __init__(self, *, at_least: float | None = None, below: float | None = None) -> None:
        self.at_least = at_least
        self.below = below

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        scores = inputs["scores"]
        order = np.argsort(-scores, kind="stable")
        order = order[_within(scores, self.at_least, self.below)[order]]
        return order, scores[order]


class QuantileBand(Selector):
    """The k datapoints that lie next to each other in the order of a score: its low, middle or high band.

    Which band of perplexity trains best is a property of the data set (the middle or the high one, in the
    source), so the three are made to be compared.

    Parameters
    ----------
    n_to_select : int or float
    band : "low", "middle", "high" or float, default "middle"
        Where the band lies: 0 is the lowest k, 1 the highest k, 0.5 the k around the median.

    Attributes
    ----------
    gains_ : float64
        1 less the distance to the band's centre, as a share of the ranks.

    Examples
    --------
    >>> sorted(QuantileBand(3).fit([50.0, 10.0, 20.0, 30.0, 40.0]).ranking_.tolist())
    [2, 3, 4]

    References
    ----------
    Ankner et al., 2024, *Perplexed by Perplexity* (arXiv 2405.20541), section 2.
    """

    takes: ClassVar = ("scores",)
    source: ClassVar = "Ankner et al., 2024, section 2"

    def __init__(self, n_to_select: int | float, *, band: str | float = "middle") -> None:
        self.n_to_select = n_to_select
        self.band = band

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        where = _position(self.band)
        order = np.argsort(inputs["scores"], kind="stable")
        start = round(where * (n - k))
        distance = np.abs(np.arange(start, start + k) - (start + where * (k - 1)))
        inner = np.argsort(distance, kind="stable")
        return order[start : start + k][inner], 1 - distance[inner] / n


def _position(band: str | float) -> float:
    if isinstance(band, str):
        if band not in BANDS:
            raise UnknownName(f"there is no band {band!r}", remedy="say 'low', 'middle' or 'high', or a number from 0 to 1")
        return BANDS[band]
    if not 0 <= band <= 1:
        raise DatumwiseError(f"band is {band}", remedy="give a number from 0 (lowest) to 1 (highest)")
    return float(band)


def _within(scores: np.ndarray, at_least: float | None, below: float | None) -> np.ndarray:
    """bool (n,): which scores lie in [at_least, below)."""
    keep = np.ones(len(scores), bool)
    if at_least is not None:
        keep &= scores >= at_least
    if below is not None:
        keep &= scores < below
    if not keep.any():
        bounds = f"at_least={at_least}, below={below}"
        raise EmptyData(
            f"no score is within the bounds ({bounds}); they range from {scores.min():.4g} to {scores.max():.4g}",
            remedy="widen the bounds",
        )
    return keep
