"""What a batch statement hands back: intervals or label sets, a bound of one number, the band of the sorted outcomes."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import LabelError, SchemaMismatch, name_some
from datumwise.predict.batch_bounds import BatchInterval
from datumwise.predict.inputs import real_column, reservation

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["BatchBand", "BatchBound", "BatchIntervals", "BatchSets", "label_codes"]


class _Pairs:
    """Reads as an array (m, 2) of low and high ends."""

    lower: np.ndarray
    upper: np.ndarray

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.column_stack([self.lower, self.upper]).astype(dtype or np.float64)

    def __getitem__(self, key: Any) -> Any:
        return np.asarray(self)[key]

    def __len__(self) -> int:
        return len(self.lower)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.lower), 2

    @property
    def width(self) -> np.ndarray:
        """float64 (m,)."""
        return self.upper - self.lower


@dataclass(frozen=True, eq=False)
class BatchIntervals(_Pairs):
    """One interval for each point of a batch. ``np.asarray`` and indexing read it as an array (m, 2).

    Attributes
    ----------
    lower, upper : float64 (m,)
        Closed ends.
    prediction : float64 (m,)
        What they are drawn around: the prediction, or the middle of two predicted quantiles.
    ids : (m,)
    min_covered : int
        z: with probability at least 1 - alpha, at least so many of the m intervals hold the truth.
    alpha : float
    n : int
        Calibration points.
    threshold, lower_threshold : float
        Of the score: each interval holds the outcomes whose score lies between. The lower one is the score's limit except
        for signed scores.
    rank : int
        k, the order statistic of the calibration scores that the threshold is; n + 1 is no threshold. For two-sided
        intervals of signed scores the number of cells between the two order statistics.
    exact_level : float
        Probability that at least ``min_covered`` hold, where scores are continuous.
    validity : str

    Examples
    --------
    >>> from datumwise.predict.batch_conformal import BatchConformal
    >>> found = BatchConformal().calibrate_scores(np.arange(1.0, 100.0)).predict_interval(10, alpha=0.1)
    >>> float(found.upper[0]), found.rank, round(found.exact_level, 3)
    (95.0, 95, 0.907)
    """

    lower: np.ndarray
    upper: np.ndarray
    prediction: np.ndarray
    ids: np.ndarray
    min_covered: int
    alpha: float
    n: int
    threshold: float
    rank: int
    exact_level: float
    lower_threshold: float = -np.inf
    validity: str = "exact"

    @property
    def statement(self) -> str:
        return _coverage_statement("intervals hold the truth", len(self), self)

    def __str__(self) -> str:
        return self.statement

    def covered(self, truth: Any) -> np.ndarray:
        """bool (m,): which intervals hold the truth."""
        y = real_column(truth, "truth")
        if len(y) != len(self):
            raise SchemaMismatch(f"{len(self):,} intervals and {len(y):,} outcomes do not fit together")
        return (self.lower <= y) & (y <= self.upper)

    def plot(self, truth: Any = None, axes: Axes | None = None) -> Axes:
        """See `datumwise.predict.plot.interval_fan`."""
        from datumwise.predict.plot import interval_fan

        return interval_fan(self, truth, axes=axes)


@dataclass(frozen=True, eq=False)
class BatchSets:
    """One set of labels for each point of a batch.

    Attributes
    ----------
    members : bool (m, K)
    classes : (K,)
    ids : (m,)
    min_covered, alpha, n, threshold, rank, exact_level, validity
        As in `BatchIntervals`.

    Examples
    --------
    >>> members, classes = np.array([[True, False], [True, True]]), np.array(["no", "yes"])
    >>> found = BatchSets(members, classes, np.arange(2), 1, 0.1, 50, 0.8, 47, 0.91)
    >>> found.labels(), found.sizes.tolist(), found.covered(["yes", "yes"]).tolist()
    ([['no'], ['no', 'yes']], [1, 2], [False, True])
    """

    members: np.ndarray
    classes: np.ndarray
    ids: np.ndarray
    min_covered: int
    alpha: float
    n: int
    threshold: float
    rank: int
    exact_level: float
    validity: str = "exact"

    def __len__(self) -> int:
        return len(self.members)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return self.members.astype(dtype or bool)

    @property
    def sizes(self) -> np.ndarray:
        """int64 (m,): labels in each set."""
        return self.members.sum(axis=1)

    @property
    def statement(self) -> str:
        return _coverage_statement("label sets hold the truth", len(self), self)

    def __str__(self) -> str:
        return self.statement

    def labels(self) -> list[list[Any]]:
        """The labels of each set, in the order of ``classes``."""
        return [self.classes[row].tolist() for row in self.members]

    def covered(self, truth: Any) -> np.ndarray:
        """bool (m,): which sets hold the true label."""
        y = np.asarray(truth)
        if y.shape != (len(self),):
            raise SchemaMismatch(f"{len(self):,} label sets and outcomes of shape {y.shape} do not fit together")
        return self.members[np.arange(len(y)), label_codes(y, self.classes)]

    def plot(self, truth: Any = None, axes: Axes | None = None) -> Axes:
        """See `datumwise.predict.plot.set_sizes`."""
        from datumwise.predict.plot import set_sizes

        return set_sizes(self, truth, axes=axes)


@dataclass(frozen=True)
class BatchBound(BatchInterval):
    """A `BatchInterval` that says whether it speaks of scores or of outcomes.

    Attributes
    ----------
    of : {"score", "outcome"}
    validity : str

    Examples
    --------
    >>> from datumwise.predict.batch_conformal import BatchConformal
    >>> print(BatchConformal().calibrate_scores(np.arange(1.0, 100.0)).predict_batch(5, "median", alpha=0.1, side="upper"))
    with probability at least 0.9, the median of the 5 scores is between 0 and 76 (n = 99, ranks)
    """

    of: str = "score"
    validity: str = "exact"

    @classmethod
    def from_interval(cls, found: BatchInterval, of: str, validity: str) -> BatchBound:
        """The same bounds with what they speak of."""
        return cls(**{f.name: getattr(found, f.name) for f in fields(BatchInterval)}, of=of, validity=validity)

    @property
    def statement(self) -> str:
        what = f"the {self.statistic} of the {self.m:,} {self.of}s"
        if np.isinf(self.lower) or np.isinf(self.upper):
            ends = f"at most {self.upper:.6g}" if np.isinf(self.lower) else f"at least {self.lower:.6g}"
        else:
            ends = f"between {self.lower:.6g} and {self.upper:.6g}"
        return f"with probability at least {1 - self.alpha:g}, {what} is {ends} (n = {self.n:,}, {self.method})" + reservation(
            self.validity
        )

    def __str__(self) -> str:
        return self.statement

    def plot(self, truth: float | None = None, axes: Axes | None = None) -> Axes:
        """See `datumwise.predict.plot.batch_bounds_plot`."""
        from datumwise.predict.plot import batch_bounds_plot

        return batch_bounds_plot(self, truth, axes=axes)


@dataclass(frozen=True, eq=False)
class BatchBand(_Pairs):
    """Bounds of the sorted outcomes (or scores) of a batch, all valid together. Reads as an array (m, 2).

    Attributes
    ----------
    lower, upper : float64 (m,)
        Of the lowest, second lowest, ... highest; nondecreasing.
    of : {"score", "outcome"}
    alpha : float
    n : int
    validity : str

    Examples
    --------
    >>> band = BatchBand(np.array([0.0, 1.0]), np.array([2.0, 3.0]), "score", 0.1, 50)
    >>> band.covered([2.5, 0.5]), band.covered([0.1, 0.2])
    (True, False)
    """

    lower: np.ndarray
    upper: np.ndarray
    of: str
    alpha: float
    n: int
    validity: str = "exact"

    @property
    def statement(self) -> str:
        return (
            f"with probability at least {1 - self.alpha:g}, all {len(self):,} sorted {self.of}s lie between their bounds "
            f"(n = {self.n:,})" + reservation(self.validity)
        )

    def __str__(self) -> str:
        return self.statement

    def covered(self, truth: Any) -> bool:
        """Whether all sorted values lie between their bounds."""
        values = np.sort(real_column(truth, "truth"))
        if len(values) != len(self):
            raise SchemaMismatch(f"the band is of {len(self):,} values, not {len(values):,}")
        return bool(((self.lower <= values) & (values <= self.upper)).all())

    def plot(self, truth: Any = None, axes: Axes | None = None) -> Axes:
        """See `datumwise.predict.plot.band_plot`."""
        from datumwise.predict.plot import band_plot

        return band_plot(self, truth, axes=axes)


def label_codes(y: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """int64 (n,): place of each label among the classes, or a refusal that names the rows.

    Examples
    --------
    >>> label_codes(np.array(["b", "a"]), np.array(["a", "b"])).tolist()
    [1, 0]
    """
    order = np.argsort(classes, kind="stable")
    try:
        place = np.minimum(np.searchsorted(classes, y, sorter=order), len(classes) - 1)
    except TypeError as error:
        raise LabelError(f"labels of {y.dtype} and classes of {classes.dtype} do not compare") from error
    codes = order[place]
    bad = np.flatnonzero(classes[codes] != y)
    if len(bad):
        raise LabelError(
            f"the model does not know the label of row {name_some(bad)} (first: {y[bad[0]]!r})",
            remedy="leave these rows out, or fit the model with them",
            ids=bad.tolist(),
        )
    return codes


def _coverage_statement(what: str, m: int, result: BatchIntervals | BatchSets) -> str:
    return (
        f"with probability at least {1 - result.alpha:g}, at least {result.min_covered:,} of these {m:,} {what} "
        f"(n = {result.n:,})" + reservation(result.validity)
    )
