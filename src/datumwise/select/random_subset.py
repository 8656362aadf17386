"""A random subset: what every selection has to beat."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from datumwise.select.per_class import class_by_class
from datumwise.select.selector import Selector

__all__ = ["RandomSubset"]


class RandomSubset(Selector):
    """Draw k datapoints at random without replacement; with ``stratified`` every class keeps its share.

    Parameters
    ----------
    n_to_select : int or float
    stratified : bool, default False
        Draw class by class. Otherwise only the number of labels matters.
    random_state : int, Generator or None

    Attributes
    ----------
    gains_ : float64
        All 1: no pick is better than another.

    Examples
    --------
    >>> labels = np.repeat(["common", "rare"], [90, 10])
    >>> chosen = RandomSubset(10, stratified=True, random_state=0).fit(labels)
    >>> int((labels[chosen.ranking_] == "rare").sum())
    1

    References
    ----------
    Guo et al., 2022, *DeepCore*, section 4: random selection is a strong baseline.
    """

    takes: ClassVar = ("y",)
    source: ClassVar = "Guo et al., 2022, section 4"

    def __init__(self, n_to_select: int | float, *, stratified: bool = False, random_state: Any = None) -> None:
        self.n_to_select = n_to_select
        self.stratified = stratified
        self.random_state = random_state

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(self.random_state)

        def drawn(rows: np.ndarray, share: int) -> tuple[np.ndarray, np.ndarray]:
            return rng.permutation(len(rows))[:share], np.ones(share)

        return class_by_class(inputs["y"] if self.stratified else None, n, k, drawn)
