"""How many of each class, and in which order, when a selector works class by class and the shares shall stay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["class_budgets", "class_by_class"]


def class_budgets(y: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Deal a budget to the classes in proportion to their sizes, by largest remainder.

    Every class is counted for itself. (The selection by score of the official CCS code multiplies the size of
    the last class by the rate, for every class.)

    Parameters
    ----------
    y : array (n,)
        Labels of any kind.
    k : int
        1 <= k <= n.

    Returns
    -------
    classes : array (C,)
        In sorted order.
    budgets : int64 (C,)
        Sums to k, none above its class's size; equal remainders go to the first class.

    Examples
    --------
    >>> class_budgets(np.repeat(["a", "b"], [90, 10]), 20)[1].tolist()
    [18, 2]
    """
    classes, sizes = np.unique(y, return_counts=True)
    quota = k * sizes / sizes.sum()
    budgets = np.floor(quota + 1e-9).astype(np.int64)  # 0.1 * 30 is 3, not 2.9999999999999996
    left = k - budgets.sum()
    budgets[np.argsort(-(quota - budgets), kind="stable")[:left]] += 1
    return classes, budgets


def class_by_class(
    y: np.ndarray | None, n: int, k: int, choose: Callable[[np.ndarray, int], tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Choose in each class by itself; any beginning of the joint ranking keeps the classes' shares.

    Parameters
    ----------
    y : array (n,) or None
        None: all datapoints are of one class.
    n, k : int
    choose : callable (rows, k) -> (positions among rows, gains)

    Returns
    -------
    ranking : int64 (at most k,)
    gains : float64, as long
    """
    if y is None:
        return choose(np.arange(n), k)
    classes, budgets = class_budgets(y, k)
    ranking, gains, place = [], [], []
    for name, share in zip(classes, budgets, strict=True):
        rows = np.flatnonzero(y == name)
        if share:
            positions, gained = choose(rows, int(share))
            ranking.append(rows[positions])
            gains.append(np.asarray(gained, np.float64))
            place.append((np.arange(len(positions)) + 0.5) / share)
    order = np.argsort(np.concatenate(place), kind="stable")
    return np.concatenate(ranking)[order], np.concatenate(gains)[order]
