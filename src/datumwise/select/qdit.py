"""Quality and coverage weighed against each other, greedily: QDIT."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.select.covering import cosine_columns, cover_greedily
from datumwise.select.selector import Selector

__all__ = ["QDIT"]


class QDIT(Selector):
    """Greedy on (1 - alpha) quality + alpha coverage, with facility location as coverage.

    Coverage of S is the sum over all datapoints i of max_{s in S} max(cos(i, s), 0).

    Parameters
    ----------
    n_to_select : int or float
    alpha : float, default 0.5
        Weight of coverage: 0 takes the k best, 1 covers alone.
    normalise : bool, default True
        Quality is taken above its minimum and divided by that of the k best, coverage by n, so that both parts of
        the objective lie in 0 to 1 and ``alpha`` means the same for every score. False: as they are.

    Attributes
    ----------
    gains_ : float64 (k,)
        They fall.

    Examples
    --------
    >>> X = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    >>> scores = [3.0, 2.9, 1.0]
    >>> [QDIT(2, alpha=a).fit(X, scores=scores).ranking_.tolist() for a in (0.0, 0.9)]
    [[0, 1], [1, 2]]

    References
    ----------
    Bukharin and Zhao, 2023, *Data Diversity Matters for Robust Instruction Tuning*, section 3.
    """

    takes: ClassVar = ("X", "scores")
    source: ClassVar = "Bukharin and Zhao, 2023, section 3"

    def __init__(self, n_to_select: int | float, *, alpha: float = 0.5, normalise: bool = True) -> None:
        self.n_to_select = n_to_select
        self.alpha = alpha
        self.normalise = normalise

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        if not 0 <= self.alpha <= 1:
            raise DatumwiseError(f"alpha is {self.alpha}", remedy="give the weight of coverage, from 0 to 1")
        quality, coverage = inputs["scores"], self.alpha
        if self.normalise:
            quality = quality - quality.min()
            quality = quality / (np.sort(quality)[-k:].sum() or 1.0)
            coverage = self.alpha / n
        if coverage == 0:
            ranking = np.argsort(-quality, kind="stable")[:k]
            return ranking, quality[ranking]
        columns = cosine_columns(inputs["X"])
        ranking, gains = cover_greedily(columns, n, k, bonus=(1 - self.alpha) * quality / coverage)
        return ranking, gains * coverage
