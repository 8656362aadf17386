"""Datapoints drawn at random, the better the likelier: quality with diversity for free."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from datumwise.errors import DatumwiseError
from datumwise.select.selector import Selector

__all__ = ["WeightedSampling"]


class WeightedSampling(Selector):
    """Draw without replacement, each time with probability proportional to exp(score / temperature).

    Adding standard Gumbel noise to score / temperature and taking the k largest is exactly that (Gumbel top-k).
    A low temperature comes close to the k highest scores, a high one to a random subset.

    Parameters
    ----------
    n_to_select : int or float
    temperature : float, default 2.0
        Above 0.
    standardise : bool, default True
        Scores are brought to mean 0 and standard deviation 1 first, so that a temperature means the same for every
        score.
    random_state : int, Generator or None

    Attributes
    ----------
    gains_ : float64
        The scores of the chosen, as they were given.

    Examples
    --------
    >>> scores = np.arange(1000.0)
    >>> cold = WeightedSampling(100, temperature=0.05, random_state=0).fit(scores)
    >>> hot = WeightedSampling(100, temperature=100.0, random_state=0).fit(scores)
    >>> bool(scores[cold.ranking_].mean() > 900), bool(abs(scores[hot.ranking_].mean() - 500) < 100)
    (True, True)

    References
    ----------
    Wettig et al., 2024, *QuRating*, section 4; Kool et al., 2019, *Stochastic Beams and Where to Find Them*,
    section 2.3.
    """

    takes: ClassVar = ("scores",)
    source: ClassVar = "Wettig et al., 2024, section 4"

    def __init__(
        self,
        n_to_select: int | float,
        *,
        temperature: float = 2.0,
        standardise: bool = True,
        random_state: Any = None,
    ) -> None:
        self.n_to_select = n_to_select
        self.temperature = temperature
        self.standardise = standardise
        self.random_state = random_state

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        if not self.temperature > 0:
            raise DatumwiseError(f"temperature is {self.temperature}", remedy="above 0; TopK takes the highest themselves")
        scores = inputs["scores"]
        spread = scores.std() if self.standardise else 1.0
        scaled = (scores - scores.mean()) / (spread or 1.0)
        keys = scaled / self.temperature + np.random.default_rng(self.random_state).gumbel(size=n)
        ranking = np.argsort(-keys, kind="stable")[:k]
        return ranking, scores[ranking]
