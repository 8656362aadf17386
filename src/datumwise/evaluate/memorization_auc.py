"""Do these scores find what was learnt by heart? AUC of each, the loss beside it, and again at equal loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from datumwise.errors import LabelError, SchemaMismatch
from datumwise.evaluate.removal import Interval

__all__ = ["MemorizationAUC", "ScoreAUC", "memorization_auc"]

CALIPER = 0.1  # standard deviations of the loss within which two datapoints have the same loss
LEVEL = 0.95


@dataclass(frozen=True)
class ScoreAUC:
    """How well one score tells memorised datapoints from the others.

    Attributes
    ----------
    score : str
    auc : Interval
        Probability that a memorised datapoint scores higher than another, ties half; 95 % bootstrap interval.
    direction : {"high", "low"}
        Which side memorised datapoints are on.
    matched : Interval
        The same among pairs of equal loss, each memorised datapoint with the same weight; NaN where there are none.
    n_matched : int
        Memorised datapoints that have another of equal loss.
    """

    score: str
    auc: Interval
    direction: str
    matched: Interval
    n_matched: int


@dataclass(frozen=True)
class MemorizationAUC:
    """Every score beside the loss."""

    rows: tuple[ScoreAUC, ...]
    n_memorized: int
    n: int

    def __getitem__(self, name: str) -> ScoreAUC:
        return next(row for row in self.rows if row.score == name)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        width = max(len(row.score) for row in self.rows)
        lines = [f"{'score':<{width}}  AUC (95 %)            side  at equal loss (95 %)   matched"]
        for row in self.rows:
            lines.append(
                f"{row.score:<{width}}  {_shown(row.auc):<20}  {row.direction:<4}  {_shown(row.matched):<22}  "
                f"{row.n_matched} of {self.n_memorized}"
            )
        return "\n".join(lines)


def _shown(one: Interval) -> str:
    return "-" if np.isnan(one.value) else f"{one.value:.3f} ({one.low:.3f}-{one.high:.3f})"


def memorization_auc(
    scores: Mapping[str, np.ndarray],
    memorized: Any,
    loss: Any = None,
    *,
    caliper: float = CALIPER,
    n_bootstrap: int = 500,
    seed: int = 0,
) -> MemorizationAUC:
    """AUC of each score for known memorised datapoints, and among pairs of equal loss.

    A score that only says "low loss" falls to 0.5 at equal loss: then the loss would have done.

    Parameters
    ----------
    scores : mapping of str to float (n,)
        `datumwise.score.MemorizationScores`, for example.
    memorized : bool (n,)
    loss : float (n,), optional
        ``scores["loss"]`` by default.
    caliper : float
        Two losses are equal if they differ by at most so many standard deviations of all losses.
    n_bootstrap : int
        Draws of the intervals, of memorised and other datapoints apart.
    seed : int

    Returns
    -------
    MemorizationAUC

    Raises
    ------
    LabelError
        All or none are memorised.
    SchemaMismatch

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> memorized = np.arange(200) < 60
    >>> loss = rng.normal(size=200) - memorized
    >>> found = memorization_auc({"loss": loss, "twice the loss": 2 * loss, "more": memorized + loss / 9}, memorized)
    >>> [(row.score, row.direction, abs(row.matched.value - 0.5) < 0.1) for row in found.rows]
    [('loss', 'low', True), ('twice the loss', 'low', True), ('more', 'high', False)]
    """
    hit = np.asarray(memorized).astype(bool)
    if hit.all() or not hit.any():
        raise LabelError(
            f"{int(hit.sum()):,} of {len(hit):,} datapoints are memorised", remedy="some must be and some must not"
        )
    losses = np.asarray(scores["loss"] if loss is None else loss, dtype=np.float64)
    columns = {name: np.asarray(column, dtype=np.float64) for name, column in scores.items()}
    for name, column in [("loss", losses), *columns.items()]:
        if column.shape != hit.shape:
            raise SchemaMismatch(f"{name} has shape {column.shape} for {len(hit):,} datapoints")
    equal = _equal(losses, hit, caliper)
    rng = np.random.default_rng(seed)
    weights = [rng.multinomial(n, np.full(n, 1 / n), size=n_bootstrap).astype(np.float64) for n in equal.shape]
    return MemorizationAUC(
        tuple(_of_score(name, column, hit, equal, weights) for name, column in columns.items()), int(hit.sum()), len(hit)
    )


def _equal(losses: np.ndarray, hit: np.ndarray, caliper: float) -> np.ndarray:
    """bool (memorised, others): whether two datapoints have about the same loss."""
    finite = losses[np.isfinite(losses)]
    width = caliper * finite.std() if len(finite) else 0.0
    with np.errstate(invalid="ignore"):
        return np.abs(losses[hit][:, None] - losses[~hit][None, :]) <= width


def _of_score(name: str, column: np.ndarray, hit: np.ndarray, equal: np.ndarray, weights: list[np.ndarray]) -> ScoreAUC:
    high, other = column[hit], column[~hit]
    known = np.isfinite(high)[:, None] & np.isfinite(other)[None, :]
    with np.errstate(invalid="ignore"):
        wins = np.where(known, (high[:, None] > other) + 0.5 * (high[:, None] == other), 0.0)
    auc = _interval(wins, known.astype(np.float64), weights)
    pairs = known & equal
    partners = pairs.sum(axis=1)
    share = pairs / np.maximum(1, partners)[:, None]
    matched = _interval(wins * share, share, weights)
    return ScoreAUC(name, auc, "high" if auc.value >= 0.5 else "low", matched, int((partners > 0).sum()))


def _interval(wins: np.ndarray, mass: np.ndarray, weights: list[np.ndarray]) -> Interval:
    """sum wins / sum mass, and its percentile interval under resampling of rows and columns."""
    if not mass.any():
        return Interval(np.nan, np.nan, np.nan)
    rows, columns = weights
    drawn = np.einsum("bi,bi->b", rows, columns @ wins.T)
    total = np.einsum("bi,bi->b", rows, columns @ mass.T)
    values = drawn[total > 0] / total[total > 0]
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(float(wins.sum() / mass.sum()), float(low), float(high))
