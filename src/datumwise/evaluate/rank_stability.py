"""How sure is a ranking, and do two scores rank alike? Resampled, so that an order is not taken for a fact."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import kendalltau, rankdata

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, name_some
from datumwise.evaluate.removal import Interval

__all__ = ["RankAgreement", "RankStability", "rank_agreement", "rank_stability"]

LEVEL = 0.95  # of the intervals
SURE = 0.95  # share of the resamples in which a datapoint is among the k that makes it sure
BLOCK = 1 << 22  # numbers of a block of resamples


@dataclass(frozen=True)
class RankStability:
    """How the k highest change when the scores are measured again; prints as a table.

    Attributes
    ----------
    n, k, runs : int
        Datapoints; how many are chosen; measurements of each (1 where standard errors were given).
    jaccard : Interval
        Overlap of the k highest of two measurements, |both| / |either|.
    jaccard_by_chance : float
        What two random sets of k overlap.
    spearman : Interval
        Rank correlation of two measurements.
    reliability : float
        Rank correlation to expect of the mean of all runs with another such mean (Spearman-Brown).
    inclusion : float64 (n,)
        Share of the resamples in which a datapoint is among the k highest.
    sure, open : int
        Datapoints with an inclusion of 95 % or more; with one between 5 and 95 %.
    """

    n: int
    k: int
    runs: int
    jaccard: Interval
    jaccard_by_chance: float
    spearman: Interval
    reliability: float
    inclusion: np.ndarray = field(repr=False)
    sure: int
    open: int

    def to_json(self) -> str:
        """All figures as one JSON object."""
        return json.dumps({**asdict(self), "inclusion": self.inclusion.tolist()})

    def __str__(self) -> str:
        measured = f"{self.runs} measurements" if self.runs > 1 else "scores with standard errors"
        lines = [
            f"the {self.k:,} highest of {self.n:,} datapoints, {measured}",
            f"two measurements share   {_shown(self.jaccard)} of them (by chance {self.jaccard_by_chance:.0%})",
            f"their rank correlation   {_number(self.spearman)}",
            f"that of the mean         {self.reliability:.3f}",
            f"surely among the highest {self.sure:,}; open {self.open:,}",
        ]
        return "\n".join(lines)


def rank_stability(
    scores: Any,
    *,
    k: int | float,
    stderr: Any = None,
    highest: bool = True,
    n_bootstrap: int = 500,
    random_state: Any = None,
) -> RankStability:
    """How sure it is who the k highest are.

    Parameters
    ----------
    scores : array (s, n), or (n,) with ``stderr``
        The score of each datapoint by s measurements (seeds, checkpoints, folds), s >= 2; or one with its errors.
    k : int or float
        How many (or which share) a selection takes.
    stderr : array (n,), optional
        Standard errors; measurements are then drawn from normal distributions.
    highest : bool, default True
    n_bootstrap : int, default 500
        Resamples: of the s measurements with replacement, then averaged; or draws.
    random_state : int, Generator or None

    Returns
    -------
    RankStability

    Raises
    ------
    SchemaMismatch, NotFinite, DatumwiseError

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.normal(size=300)
    >>> steady = rank_stability(truth + 0.01 * rng.normal(size=(5, 300)), k=30, random_state=0)
    >>> shaky = rank_stability(truth + 2.0 * rng.normal(size=(5, 300)), k=30, random_state=0)
    >>> steady.jaccard.value > 0.9 > 0.5 > shaky.jaccard.value
    True
    """
    from datumwise.select.selector import budget

    measured = np.asarray(scores, dtype=np.float64) * (1 if highest else -1)
    if measured.ndim == (1 if stderr is None else 2) or measured.ndim not in (1, 2):
        raise SchemaMismatch(f"scores has shape {measured.shape}", remedy="give (measurements, n), or (n,) with stderr= (n,)")
    rng = np.random.default_rng(random_state)
    if stderr is not None:
        error = np.asarray(stderr, dtype=np.float64)
        if error.shape != measured.shape or (error < 0).any():
            raise SchemaMismatch(f"stderr has shape {error.shape} for {measured.shape}, or a value below 0")
        _finite(error, "stderr")
    _finite(measured, "scores")
    n = measured.shape[-1]
    chosen = budget(k, n)
    inclusion = np.zeros(n)
    if stderr is None:
        if len(measured) < 2:
            raise SchemaMismatch("one measurement says nothing of the next", remedy="give two or more, or stderr=")
        runs = len(measured)
        pairs = list(combinations(range(runs), 2))
        masks = _highest(measured, chosen)
        ranks = _ranks(measured)
        jaccards = [_jaccard(masks[a], masks[b]) for a, b in pairs]
        correlations = [float(ranks[a] @ ranks[b]) for a, b in pairs]
        jaccard, spearman = (
            _over_runs(jaccards, pairs, runs, n_bootstrap, rng),
            _over_runs(correlations, pairs, runs, n_bootstrap, rng),
        )
        for size in _blocks(n_bootstrap, n):
            weights = rng.multinomial(runs, np.full(runs, 1 / runs), size=size) / runs
            inclusion += _highest(weights @ measured, chosen).sum(axis=0)
    else:
        runs = 1
        first, second = [], []
        for size in _blocks(n_bootstrap, 2 * n):
            a, b = (measured + error * rng.standard_normal((size, n)) for _ in range(2))
            mask_a, mask_b = _highest(a, chosen), _highest(b, chosen)
            inclusion += mask_a.sum(axis=0)
            first += [_jaccard(x, y) for x, y in zip(mask_a, mask_b, strict=True)]
            second += np.einsum("ij,ij->i", _ranks(a), _ranks(b)).tolist()
        jaccard, spearman = _percentiles(float(np.mean(first)), first), _percentiles(float(np.mean(second)), second)
    inclusion /= n_bootstrap
    r = spearman.value
    share = chosen / n
    return RankStability(
        n=n,
        k=chosen,
        runs=runs,
        jaccard=jaccard,
        jaccard_by_chance=share / (2 - share),
        spearman=spearman,
        reliability=float(runs * r / (1 + (runs - 1) * r)) if 1 + (runs - 1) * r > 0 else float("nan"),
        inclusion=inclusion,
        sure=int((inclusion >= SURE).sum()),
        open=int(((inclusion > 1 - SURE) & (inclusion < SURE)).sum()),
    )


@dataclass(frozen=True)
class RankAgreement:
    """Rank correlations between scores; prints as a table.

    Attributes
    ----------
    names : tuple of str
    spearman, kendall : float64 (s, s)
    low, high : float64 (s, s)
        95 % bootstrap interval of Spearman's correlation over datapoints.
    n : int
        Datapoints.
    """

    names: tuple[str, ...]
    spearman: np.ndarray
    low: np.ndarray
    high: np.ndarray
    kendall: np.ndarray
    n: int

    def as_dict(self) -> dict[str, Any]:
        """All figures, as JSON can hold them."""
        matrices = {name: getattr(self, name).tolist() for name in ("spearman", "low", "high", "kendall")}
        return {"names": list(self.names), "n": self.n, **matrices}

    def to_json(self) -> str:
        """The same as one JSON object."""
        return json.dumps(self.as_dict())

    def __str__(self) -> str:
        rows = [("scores", "", "rank correlation", "95 % interval", "Kendall's tau")]
        for i, j in combinations(range(len(self.names)), 2):
            between = f"{self.low[i, j]:.3f} to {self.high[i, j]:.3f}"
            rows.append((self.names[i], self.names[j], f"{self.spearman[i, j]:.3f}", between, f"{self.kendall[i, j]:.3f}"))
        widths = [max(len(row[i]) for row in rows) for i in range(5)]
        return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in rows)


def rank_agreement(scores: Mapping[str, Any], *, n_bootstrap: int = 500, random_state: Any = None) -> RankAgreement:
    """Do these scores put the datapoints in the same order?

    Parameters
    ----------
    scores : mapping of str to array (n,)
        Two or more. Datapoints that one of them has no value of (NaN) are left out.
    n_bootstrap : int, default 500
        Resamples of the datapoints.
    random_state : int, Generator or None

    Returns
    -------
    RankAgreement

    Examples
    --------
    >>> x = np.arange(50.0)
    >>> print(rank_agreement({"loss": x, "confidence": -x}, random_state=0))
    scores              rank correlation  95 % interval     Kendall's tau
    loss    confidence  -1.000            -1.000 to -1.000  -1.000
    """
    names = tuple(scores)
    columns = [np.asarray(scores[name], dtype=np.float64) for name in names]
    if len(names) < 2:
        raise DatumwiseError("an agreement takes two scores or more")
    if len({column.shape for column in columns}) > 1 or columns[0].ndim != 1:
        raise SchemaMismatch(f"the scores have shapes {', '.join(str(c.shape) for c in columns)}")
    values = np.stack(columns)
    values = values[:, ~np.isnan(values).any(axis=0)]
    n = values.shape[1]
    if n < 3:
        raise DatumwiseError(f"{n} datapoints have a value of every score", remedy="3 or more are needed")
    rng = np.random.default_rng(random_state)
    ranks = _ranks(values)
    draws = np.empty((n_bootstrap, len(names), len(names)))
    for b in range(n_bootstrap):
        drawn = _ranks(values[:, rng.integers(n, size=n)])
        draws[b] = drawn @ drawn.T
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(draws, [tail, 1 - tail], axis=0) if n_bootstrap else np.full((2, *draws.shape[1:]), np.nan)
    kendall = np.eye(len(names))
    for i, j in combinations(range(len(names)), 2):
        kendall[i, j] = kendall[j, i] = kendalltau(values[i], values[j]).statistic
    return RankAgreement(names, ranks @ ranks.T, low, high, kendall, n)


def _ranks(rows: np.ndarray) -> np.ndarray:
    """Ranks of each row, centred and of length 1: inner products are Spearman's correlations (0 where constant)."""
    ranks = rankdata(rows, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    lengths = np.linalg.norm(ranks, axis=1, keepdims=True)
    return ranks / np.where(lengths > 0, lengths, 1.0)


def _highest(rows: np.ndarray, k: int) -> np.ndarray:
    """bool (s, n): the k highest of each row, ties to the lowest index."""
    order = np.argsort(-rows, axis=1, kind="stable")[:, :k]
    mask = np.zeros(rows.shape, bool)
    np.put_along_axis(mask, order, True, axis=1)
    return mask


def _jaccard(a: np.ndarray, b: np.ndarray) -> float:
    return float((a & b).sum() / (a | b).sum())


def _over_runs(
    values: list[float], pairs: list[tuple[int, int]], runs: int, n_bootstrap: int, rng: np.random.Generator
) -> Interval:
    """Mean over pairs of runs; its interval by resampling runs (a pair counts as often as both of its runs do)."""
    first, second = np.array(pairs).T
    each = np.array(values)
    counts = rng.multinomial(runs, np.full(runs, 1 / runs), size=n_bootstrap)
    weights = counts[:, first] * counts[:, second]
    some = weights.sum(axis=1) > 0
    draws = (weights[some] @ each) / weights[some].sum(axis=1)
    return _percentiles(float(each.mean()), draws)


def _percentiles(value: float, draws: Any) -> Interval:
    if not len(draws):
        return Interval(value, value, value)
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high))


def _blocks(total: int, width: int) -> list[int]:
    step = max(1, BLOCK // max(width, 1))
    return [min(step, total - start) for start in range(0, total, step)]


def _finite(values: np.ndarray, name: str) -> None:
    bad = np.flatnonzero(~np.isfinite(values).all(axis=0) if values.ndim == 2 else ~np.isfinite(values))
    if len(bad):
        raise NotFinite(f"{name} has NaN or infinity for datapoint {name_some(bad)}", remedy="drop them", ids=bad.tolist())


def _shown(interval: Interval) -> str:
    return f"{interval.value:.0%} ({interval.low:.0%} to {interval.high:.0%})"


def _number(interval: Interval) -> str:
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"
