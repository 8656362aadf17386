"""A weighted coreset whose gradients stand for all: every gradient has a near one among the chosen."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from datumwise.select.covering import cover_greedily, nearest_pick, nearness_columns
from datumwise.select.per_class import class_by_class
from datumwise.select.selector import Selector

__all__ = ["Craig"]


class Craig(Selector):
    """Facility location on gradients: sum_i max_{s in S} (max d - ||g_i - g_s||), greedily.

    The sum over i of the distance to the nearest chosen gradient bounds the error of the weighted gradient, when
    a pick's weight is the number of datapoints nearest to it.

    Parameters
    ----------
    n_to_select : int or float

    Attributes
    ----------
    weights_ : float64 (k,)
        Datapoints for which the pick stands; they sum to n.
    gains_ : float64 (k,)
        In units of the gradients; they fall within a class.

    Notes
    -----
    With ``y`` every class is covered by itself (the source's way for classifiers). Lazy greedy; similarities are
    kept where n^2 of them fit (n up to 5,792 a class), and made by the column beyond.

    Examples
    --------
    >>> G = [[0.0], [0.1], [0.2], [9.0], [9.1]]
    >>> found = Craig(2).fit(G)
    >>> found.ranking_.tolist(), found.weights_.tolist()
    ([2, 3], [3.0, 2.0])

    References
    ----------
    Mirzasoleiman et al., 2020, *Coresets for Data-efficient Training of Machine Learning Models*, algorithm 1.
    """

    takes: ClassVar = ("gradients", "y?")
    source: ClassVar = "Mirzasoleiman et al., 2020, algorithm 1"

    weights_: np.ndarray

    def __init__(self, n_to_select: int | float) -> None:
        self.n_to_select = n_to_select

    def _choose(self, n: int, k: int, **inputs: Any) -> tuple[np.ndarray, np.ndarray]:
        G = inputs["gradients"]
        weights = np.zeros(n)

        def covered(rows: np.ndarray, share: int) -> tuple[np.ndarray, np.ndarray]:
            columns = nearness_columns(G[rows])
            picked, gained = cover_greedily(columns, len(rows), share)
            which = nearest_pick(columns, picked, len(rows))
            weights[rows[picked]] = np.bincount(which, minlength=len(picked))
            return picked, gained

        ranking, gains = class_by_class(inputs.get("y"), n, k, covered)
        self.weights_ = weights[ranking]
        return ranking, gains
