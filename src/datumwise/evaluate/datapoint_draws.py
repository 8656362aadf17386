"""Bootstrap draws of datapoints that several models share: means, and the AUC of membership by loss, with paired intervals."""

from __future__ import annotations

from typing import Any

import numpy as np

from datumwise.evaluate.removal import Interval

__all__ = ["DatapointDraws", "places"]

BLOCK = 4_000_000  # bootstrap weights held at once


class DatapointDraws:
    """Draws of the datapoints of each part, with replacement: the same for every model, so that differences are paired.

    Parameters
    ----------
    rows : dict of part to int (m,)
        With "forget" and "test" for `memberships`.
    losses : dict of model to float (n,)
    n_bootstrap : int
    level : float
        Of the percentile intervals.
    seed : int
    """

    def __init__(
        self, rows: dict[str, np.ndarray], losses: dict[str, np.ndarray], n_bootstrap: int, level: float, seed: int
    ) -> None:
        self.rows, self.losses, self.count, self.level, self.seed = rows, losses, n_bootstrap, level, seed

    def _weights(self, part: str, start: int, size: int) -> np.ndarray:
        """float (size, m): how often each datapoint is in the draws; the same whenever it is asked for."""
        m = len(self.rows[part])
        rng = np.random.default_rng([self.seed, list(self.rows).index(part), start])
        drawn = rng.integers(0, m, (size, m)) + (np.arange(size) * m)[:, None]
        return np.bincount(drawn.ravel(), minlength=size * m).reshape(size, m).astype(float)

    def _blocks(self, *parts: str) -> list[tuple[int, int]]:
        step = max(1, BLOCK // max(len(self.rows[part]) for part in parts))
        return [(at, min(step, self.count - at)) for at in range(0, self.count, step)]

    def means(self, part: str, measures: dict[Any, np.ndarray]) -> dict[Any, tuple[float, np.ndarray]]:
        """Mean of each measure over the part, and its draws (n_bootstrap,)."""
        rows = self.rows[part]
        stacked = np.stack([values[rows] for values in measures.values()], axis=1)
        draws = np.concatenate([self._weights(part, *block) @ stacked for block in self._blocks(part)]) / len(rows)
        return {key: (float(stacked[:, k].mean()), draws[:, k]) for k, key in enumerate(measures)}

    def memberships(self) -> dict[str, tuple[float, np.ndarray]]:
        """AUC of every model, and its draws: forgotten and held-out datapoints are drawn apart."""
        ranks = {name: places(loss[self.rows["test"]], loss[self.rows["forget"]]) for name, loss in self.losses.items()}
        m, k = len(self.rows["test"]), len(self.rows["forget"])
        draws: dict[str, list[np.ndarray]] = {name: [] for name in ranks}
        for block in self._blocks("forget", "test"):
            of_test, of_forget = self._weights("test", *block), self._weights("forget", *block)
            for name, (order, below, up_to) in ranks.items():
                mass = np.pad(np.cumsum(of_test[:, order], axis=1), ((0, 0), (1, 0)))
                higher = m - 0.5 * (mass[:, below] + mass[:, up_to])  # test mass of a higher loss, ties by half
                draws[name].append((of_forget * higher).sum(1) / (m * k))
        value = {name: float((m - 0.5 * (below + up_to)).mean() / m) for name, (_, below, up_to) in ranks.items()}
        return {name: (value[name], np.concatenate(draws[name])) for name in ranks}

    def interval(self, value: float, draws: np.ndarray) -> Interval:
        low, high = np.quantile(draws, [(1 - self.level) / 2, (1 + self.level) / 2])
        return Interval(value, float(low), float(high))

    def difference(self, a: tuple[float, np.ndarray], b: tuple[float, np.ndarray]) -> Interval:
        return self.interval(a[0] - b[0], a[1] - b[1])


def places(test: np.ndarray, forget: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Order of the test losses, and how many of them lie below, and up to, each loss of ``forget``."""
    order = np.argsort(test, kind="stable")
    ordered = test[order]
    return order, np.searchsorted(ordered, forget, "left"), np.searchsorted(ordered, forget, "right")
