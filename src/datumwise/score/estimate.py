"""How a data value is handed back: with its standard errors, and with what it cost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from datumwise.errors import DuplicateId, SchemaMismatch
from datumwise.score.scores import Scores

__all__ = ["RunningMoments", "Value", "row_names"]

SHOWN = 5  # datapoints at each end of the printed table


@dataclass(frozen=True)
class Value:
    """What each datapoint is worth, how sure that is, and how many models it took.

    Attributes
    ----------
    method : str
    values : float64 (n,)
        Higher: worth more, in units of the utility (accuracy, R², ...). NaN where nothing was measured.
    stderr : float64 (n,)
        Standard error of the method's own sampling, the training and validation rows being given; 0 where the
        method samples nothing.
    utility_calls : int
        Sets of rows whose utility was computed; those found in the cache are not counted again.
    draws : int
        Permutations, subsets or bags that were averaged.
    ids : array (n,)
    converged : bool or None
        Whether the largest standard error came down to the ``precision`` asked for; None: none was asked for.
    """

    method: str
    values: np.ndarray = field(repr=False)
    stderr: np.ndarray = field(repr=False)
    utility_calls: int
    draws: int
    ids: np.ndarray = field(repr=False)
    converged: bool | None = None

    def __post_init__(self) -> None:
        if not self.values.shape == self.stderr.shape == np.shape(self.ids):
            raise SchemaMismatch(f"{len(self.values):,} values and {len(self.ids):,} ids do not fit together")

    @property
    def reliability(self) -> float:
        """Share of the variance of the values that is not sampling noise, 0 to 1.

        1 - mean(stderr²) / var(values), the reliability of classical test theory (Lord and Novick, 1968,
        section 3.3): the expected correlation of these values with those of an independent run. Below 0.9 the
        ranking would look different after another seed.
        """
        known = np.isfinite(self.values) & np.isfinite(self.stderr)
        spread = float(np.var(self.values[known], ddof=1)) if known.sum() > 1 else 0.0
        if spread == 0:
            return 0.0
        return float(np.clip(1 - np.mean(self.stderr[known] ** 2) / spread, 0, 1))

    def interval(self, level: float = 0.95) -> tuple[np.ndarray, np.ndarray]:
        """Normal confidence limits of each value, (n,) and (n,)."""
        from scipy.special import ndtri

        width = ndtri((1 + level) / 2) * self.stderr
        return self.values - width, self.values + width

    def to_scores(self) -> Scores:
        """As named columns ``value`` and ``value_stderr``."""
        return Scores(
            self.ids,
            {"value": self.values, "value_stderr": self.stderr},
            higher={"value": "worth more", "value_stderr": "less sure"},
        )

    def __str__(self) -> str:
        order = np.argsort(self.values, kind="stable")  # NaN last
        order = order[~np.isnan(self.values[order])]
        both = len(order) > 2 * SHOWN
        shown = np.concatenate([order[:SHOWN], order[-SHOWN:]]) if both else order
        width = max((len(str(i)) for i in np.asarray(self.ids)[shown]), default=2)
        sure = "" if self.converged is None else ", converged" if self.converged else ", not converged"
        lines = [
            f"{self.method}: {len(self.values):,} values, {self.draws:,} draws, {self.utility_calls:,} utility calls, "
            f"reliability {self.reliability:.2f}{sure}"
        ]
        for place, row in enumerate(shown):
            lines.append(f"{self.ids[row]!s:>{width}}  {self.values[row]:>10.5f} ± {self.stderr[row]:.5f}")
            if both and place == SHOWN - 1:
                lines.append(f"{'...':>{width}}")
        return "\n".join(lines)


class RunningMoments:
    """Mean and standard error of the mean of rows that come in blocks (Chan, Golub and LeVeque, 1983, eq. 2.1)."""

    def __init__(self, n: int) -> None:
        self.count = 0
        self.mean = np.zeros(n)
        self._squares = np.zeros(n)

    def add(self, block: np.ndarray) -> None:
        """Take in a block (b, n) of independent draws."""
        b = len(block)
        if b == 0:
            return
        mean = block.mean(axis=0)
        apart = mean - self.mean
        total = self.count + b
        self._squares += ((block - mean) ** 2).sum(axis=0) + apart**2 * (self.count * b / total)
        self.mean += apart * (b / total)
        self.count = total

    @property
    def stderr(self) -> np.ndarray:
        """(n,); infinite after fewer than two draws."""
        if self.count < 2:
            return np.full(len(self.mean), np.inf)
        return np.sqrt(self._squares / (self.count - 1) / self.count)


def row_names(ids: Any, n: int) -> np.ndarray:
    """``ids`` as an array (n,) without repeats, 0..n-1 for None, or a refusal."""
    if ids is None:
        return np.arange(n)
    ids = np.asarray(ids)
    if ids.shape != (n,):
        raise SchemaMismatch(f"ids must be one name a row, {n:,}; the shape is {ids.shape}")
    found, count = np.unique(ids, return_counts=True)
    if (count > 1).any():
        raise DuplicateId(f"id {found[count > 1][0]} occurs {count[count > 1][0]} times", ids=found[count > 1].tolist())
    return ids
