"""Is a promise about new datapoints kept? Prediction sets and intervals, one point and whole batches, held out.

A one-point promise says how often the truth of *a* new datapoint lies in its set; nothing follows from it for the batch in
hand, half of which may do worse. A batch promise says how many of *these* m datapoints are covered, and how sure that is
(Lee, Tchetgen Tchetgen and Dobriban, 2024; see `datumwise.predict`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch
from datumwise.evaluate.removal import Interval
from datumwise.predict.order_statistics import order_statistic_rank

__all__ = ["Promise", "PromiseRow", "batch_coverage"]

BATCH = 20  # datapoints of a batch, where there are enough
BLOCK = 4_000_000  # entries of permutations held at once
SMALLEST = 20  # held-out datapoints with which anything can be promised


@dataclass(frozen=True)
class PromiseRow:
    """One promise and what was measured of it."""

    promised: float  # share of datapoints, or of batches
    measured: Interval  # with a 95 % (Wilson) interval
    size: float  # mean number of classes in a set, or length of an interval in units of the target; inf: no bound
    least: int = 1  # datapoints of the batch that are covered
    one_point: float = math.nan  # of a batch row: share of batches in which sets for one datapoint keep the same promise


@dataclass(frozen=True)
class Promise:
    """What can be promised about new datapoints drawn like the held-out ones.

    Attributes
    ----------
    task : {"classification", "regression"}
    learner : str
        Whose predictions are surrounded.
    calibration, tested : int
        Held-out datapoints that set the thresholds, and others that test them.
    batch : int
        Datapoints of a batch.
    splits : int
        Random splits into calibration and batch that the batch rows are measured on.
    points, batches : tuple of PromiseRow
    why_none : str
        One sentence where nothing can be promised; then both are empty.
    """

    task: str
    learner: str
    calibration: int
    tested: int
    batch: int
    splits: int
    points: tuple[PromiseRow, ...]
    batches: tuple[PromiseRow, ...]
    why_none: str = ""

    @property
    def unit(self) -> str:
        return "classes a set" if self.task == "classification" else "length of an interval"

    def as_dict(self) -> dict[str, Any]:
        """As JSON knows it: what is not finite is null."""
        return {key: _json(value) for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, fact: dict[str, Any]) -> Promise:
        """From `as_dict`."""

        def row(one: dict[str, Any]) -> PromiseRow:
            size = math.inf if one["size"] is None else one["size"]
            share = math.nan if one["one_point"] is None else one["one_point"]
            return PromiseRow(one["promised"], Interval(**one["measured"]), size, one["least"], share)

        rows = {name: tuple(map(row, fact[name])) for name in ("points", "batches")}
        return cls(**{**fact, **rows})

    def __str__(self) -> str:
        if self.why_none:
            return f"nothing is promised: {self.why_none}"
        lines = [f"{self.learner}, {self.calibration:,} held-out datapoints calibrate, {self.tested:,} test"]
        named = [("each datapoint", row) for row in self.points]
        named += [(f"{row.least} of each {self.batch}", row) for row in self.batches]
        width = max(len(name) for name, _ in named)
        for name, row in named:
            lines.append(f"{name:<{width}}  {_share(row.promised)} promised, {_measured(row)}, {self.size_of(row)}")
        return "\n".join(lines)

    def size_of(self, row: PromiseRow) -> str:
        """How much a set or interval of this promise still leaves open.

        Examples
        --------
        >>> row = PromiseRow(0.9, Interval(0.91, 0.87, 0.94), 1.25)
        >>> Promise("classification", "trees", 250, 250, 20, 500, (row,), ()).size_of(row)
        '1.25 classes a set'
        """
        if math.isinf(row.size):
            return "no bound: too few calibrate"
        return f"{row.size:.2f} classes a set" if self.task == "classification" else f"intervals {row.size:.4g} long"


def batch_coverage(
    y: np.ndarray,
    predicted: np.ndarray,
    *,
    learner: str = "",
    levels: Sequence[float] = (0.9, 0.95, 0.99),
    deltas: Sequence[float] = (0.1, 0.05, 0.0),
    confidence: float = 0.9,
    batch: int | None = None,
    n_splits: int = 500,
    seed: int = 0,
) -> Promise:
    """Calibrate prediction sets or intervals on one half of held-out datapoints, and test them on the other.

    Parameters
    ----------
    y : ndarray, shape (n,)
        Class codes (integers; columns of ``predicted``), or targets (floats) of datapoints that the learner never saw.
    predicted : ndarray of float, shape (n, c) or (n,)
        Class probabilities, or predictions.
    learner : str
        What to call it.
    levels : sequence of float
        How often each datapoint is covered, between 0 and 1.
    deltas : sequence of float
        Shares of a batch that may be missed, from 0 to below 1.
    confidence : float
        How often a batch misses no more than that, between 0 and 1.
    batch : int, optional
        Datapoints of a batch; default 20, or a quarter of few.
    n_splits : int
        Random splits into calibration and batch for the batch rows.
    seed : int

    Returns
    -------
    Promise
        Sets are {class: 1 - probability <= threshold} and never empty: the likeliest class is always in.

    Raises
    ------
    DatumwiseError
        A level or the confidence outside (0, 1), a delta outside [0, 1), ``batch`` below 1 or more than can be tested.
    EmptyData
        Fewer than 20 datapoints.
    SchemaMismatch
        ``y`` and ``predicted`` differ in length.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> predicted = rng.standard_normal(1000)
    >>> y = predicted + rng.standard_normal(1000)
    >>> row = batch_coverage(y, predicted, deltas=(0.1,)).batches[0]  # 18 of 20
    >>> row.measured.value, row.one_point  # what is promised to each point alone is not kept for a batch
    (0.896, 0.68)
    """
    y, predicted = np.asarray(y), np.asarray(predicted, float)
    n = len(y)
    if len(predicted) != n:
        raise SchemaMismatch(f"there are {n:,} labels and {len(predicted):,} predictions", remedy="give one each")
    if n < SMALLEST:
        raise EmptyData(f"{n:,} held-out datapoints are too few to promise anything", remedy=f"hold out at least {SMALLEST}")
    for name, value in [("level", one) for one in levels] + [("confidence", confidence)]:
        if not 0 < value < 1:
            raise DatumwiseError(f"{name} is {value:g}", remedy="give a number between 0 and 1")
    for delta in deltas:
        if not 0 <= delta < 1:
            raise DatumwiseError(f"delta is {delta:g}", remedy="give a share from 0 to below 1")
    calibration = n // 2
    m = min(BATCH, max(1, n // 4)) if batch is None else batch
    if not 1 <= m <= n - calibration:
        raise DatumwiseError(
            f"a batch of {m:,} is more than the {n - calibration:,} that are tested", remedy="give a smaller one"
        )

    least = np.array([m - math.floor(delta * m + 1e-9) for delta in deltas])
    classes = predicted.ndim == 2
    strange = 1 - predicted if classes else np.empty(0)
    scores = strange[np.arange(n), y] if classes else np.abs(y - predicted)
    anyway = scores <= strange.min(1) if classes else np.zeros(n, bool)  # the likeliest class is always in

    for_one = [order_statistic_rank(calibration, 1, 1, 1 - level) - 1 for level in (*levels, confidence)]
    for_all = [order_statistic_rank(calibration, m, int(z), 1 - confidence) - 1 for z in least]
    rng = np.random.default_rng(seed)
    kept, alone = np.zeros(len(deltas), int), np.zeros(len(deltas), int)
    cuts = []  # thresholds (splits of the block, ranks)
    block = max(1, BLOCK // n)
    for start in range(0, n_splits, block):
        orders = rng.permuted(np.broadcast_to(np.arange(n), (min(block, n_splits - start), n)), axis=1)
        calibrated = np.sort(scores[orders[:, :calibration]], axis=1)
        calibrated = np.pad(calibrated, ((0, 0), (0, 1)), constant_values=np.inf)  # rank n + 1: no bound
        drawn = orders[:, calibration : calibration + m, None]
        kept += (_inside(scores, anyway, drawn, calibrated[:, None, for_all]).sum(1) >= least).sum(0)
        alone += (_inside(scores, anyway, drawn, calibrated[:, None, for_one[-1:]]).sum(1) >= least).sum(0)
        cuts.append(calibrated[:, [*for_one[:-1], *for_all]])
        if not start:
            tested, first = orders[0, calibration:, None], calibrated[:1, for_one[:-1]]
    sizes = _sizes(strange, np.concatenate(cuts)).tolist()
    inside = _inside(scores, anyway, tested, first).sum(0)
    points = [PromiseRow(levels[i], _wilson(inside[i], len(tested)), sizes[i]) for i in range(len(levels))]
    batches = [
        PromiseRow(confidence, _wilson(kept[i], n_splits), sizes[len(levels) + i], int(least[i]), float(alone[i] / n_splits))
        for i in range(len(deltas))
    ]
    task = "classification" if classes else "regression"
    return Promise(task, learner, calibration, n - calibration, m, n_splits, tuple(points), tuple(batches))


def _inside(scores: np.ndarray, anyway: np.ndarray, rows: np.ndarray, threshold: Any) -> np.ndarray:
    return (scores[rows] <= threshold) | anyway[rows]


def _sizes(strange: np.ndarray, cuts: np.ndarray) -> np.ndarray:
    """Mean classes a set, or length of an interval, over splits: thresholds (splits, ...) -> (...)."""
    if not len(strange):
        return 2 * cuts.mean(0)
    in_sets = np.searchsorted(np.sort(strange, axis=None), cuts, "right")
    empty = len(strange) - np.searchsorted(np.sort(strange.min(1)), cuts, "right")  # filled with the likeliest class
    return ((in_sets + empty) / len(strange)).mean(0)


def _wilson(successes: Any, trials: int) -> Interval:
    found = binomtest(int(successes), trials).proportion_ci(method="wilson")
    return Interval(int(successes) / trials, float(found.low), float(found.high))


def _share(value: float) -> str:
    return f"{100 * value:.4g}%"


def _measured(row: PromiseRow) -> str:
    """As the terminal prints it."""
    low, high = (f"{100 * end:.1f}" for end in (row.measured.low, row.measured.high))
    return f"{100 * row.measured.value:.1f}% measured [{low}, {high}]"


def _json(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
