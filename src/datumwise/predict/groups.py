"""What can be promised of each group of a batch, and of all groups at once? Mondrian batches.

Vovk et al., 2005, *Algorithmic Learning in a Random World*, section 4.5, for the idea: given the groups, the points of one
group are exchangeable, so every batch statement holds within it from that group's calibration points alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.exceptions import NotFittedError

from datumwise.errors import DatumwiseError, EmptyData, NotFinite, SchemaMismatch, UnknownName, name_some
from datumwise.predict.batch_conformal import BatchConformal
from datumwise.predict.batch_results import BatchBound
from datumwise.predict.inputs import aligned_ids, batch_size, take_rows
from datumwise.predict.order_statistics import check_alpha

__all__ = ["GroupedStatements", "MondrianBatchConformal", "split_level"]

Together = Literal["each", "bonferroni", "sidak"]


@dataclass(frozen=True, eq=False)
class GroupedStatements(Mapping[Hashable, Any]):
    """One batch statement a group; a mapping from group to result.

    Attributes
    ----------
    results : dict
        Group to `BatchIntervals`, `BatchSets`, `BatchBound`, `BatchBand` or `SelectionResult`.
    rows : dict
        Group to int64 (m_g,), its places in the batch.
    alpha : float
        Of all statements together for "bonferroni" and "sidak", else the largest of one.
    together : {"each", "bonferroni", "sidak"}
    m : int
    """

    results: dict[Hashable, Any]
    rows: dict[Hashable, np.ndarray]
    alpha: float
    together: str
    m: int

    def __getitem__(self, group: Hashable) -> Any:
        return self.results[group]

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def aligned(self, name: str) -> np.ndarray:
        """An attribute of the results that has one entry a datapoint, in the order of the batch.

        ``aligned("lower")`` of intervals, ``aligned("members")`` of label sets, ``aligned("selected")`` of selections.
        """
        parts = {group: np.asarray(getattr(result, name)) for group, result in self.results.items()}
        for group, part in parts.items():
            if part.ndim == 0 or len(part) != len(self.rows[group]) or isinstance(self.results[group], BatchBound):
                raise SchemaMismatch(f"{name!r} has no entry a datapoint")
        first = next(iter(parts.values()))
        whole = np.empty((self.m, *first.shape[1:]), np.result_type(*parts.values()))
        for group, part in parts.items():
            whole[self.rows[group]] = part
        return whole

    def covered(self, truth: Any) -> np.ndarray:
        """bool (m,): which intervals or label sets hold the truth."""
        y = np.asarray(truth)
        if y.shape != (self.m,):
            raise SchemaMismatch(f"a batch of {self.m:,} and outcomes of shape {y.shape} do not fit together")
        whole = np.zeros(self.m, bool)
        for group, result in self.results.items():
            whole[self.rows[group]] = result.covered(y[self.rows[group]])
        return whole

    @property
    def statement(self) -> str:
        lines = [f"{group}: {result.statement}" for group, result in self.results.items()]
        if self.together == "each":
            head = "each of these statements holds by itself"
        else:
            head = f"all of these statements hold together with probability at least {1 - self.alpha:g}"
        return "\n".join([head, *lines])

    def __str__(self) -> str:
        return self.statement


def split_level(alpha: float, groups: int, together: Together) -> float:
    """Level of each of several statements, so that all hold together with probability at least 1 - alpha.

    Parameters
    ----------
    alpha : float
    groups : int
    together : {"each", "bonferroni", "sidak"}
        "bonferroni": alpha / G, always valid. "sidak": 1 - (1 - alpha)^(1/G), slightly larger; valid where the datapoints are
        independent draws, so that groups are independent. "each": alpha.

    Returns
    -------
    float

    Examples
    --------
    >>> split_level(0.1, 4, "bonferroni"), round(split_level(0.1, 4, "sidak"), 6)
    (0.025, 0.025996)
    """
    alpha = check_alpha(alpha)
    if together == "each":
        return alpha
    if together == "bonferroni":
        return alpha / groups
    if together == "sidak":
        return float(-np.expm1(np.log1p(-alpha) / groups))
    raise UnknownName(f"there is no together {together!r}", remedy="choose each, bonferroni or sidak")


class MondrianBatchConformal(BaseEstimator):
    """`BatchConformal` within groups: each group of the batch is promised what its own calibration points allow.

    Parameters
    ----------
    batch : BatchConformal
        With its estimator and score; it is calibrated here.
    together : {"each", "bonferroni", "sidak"}
        Whether alpha is that of each group's statement, or of all groups' statements together, see `split_level`.

    Examples
    --------
    >>> from sklearn.linear_model import LinearRegression
    >>> rng = np.random.default_rng(0)
    >>> x, site = rng.normal(size=(900, 1)), rng.integers(2, size=900)
    >>> y = x[:, 0] + rng.normal(size=900) * np.where(site == 1, 3, 1)  # site 1 is noisier
    >>> model = MondrianBatchConformal(BatchConformal(LinearRegression().fit(x[:300], y[:300])))
    >>> found = model.calibrate(x[300:800], y[300:800], site[300:800]).predict_interval(x[800:], site[800:], alpha=0.1)
    >>> print(found)
    each of these statements holds by itself
    0: with probability at least 0.9, at least 47 of these 52 intervals hold the truth (n = 236)
    1: with probability at least 0.9, at least 44 of these 48 intervals hold the truth (n = 264)
    >>> [round(float(result.width[0]), 1) for result in found.values()]
    [4.1, 12.0]
    """

    def __init__(self, batch: BatchConformal, together: Together = "each") -> None:
        self.batch = batch
        self.together = together

    def calibrate(self, X: Any, y: Any, groups: Any, **shift: Any) -> MondrianBatchConformal:
        """Score labelled points; ``groups`` (n,) may depend on X, never on y. Other arguments as `BatchConformal.calibrate`."""
        labels = _labels(groups, batch_size(X))
        self.batch.calibrate(X, y, **shift)
        return self._split(labels)

    def calibrate_scores(self, scores: Any, groups: Any, **shift: Any) -> MondrianBatchConformal:
        """Take calibration scores (n,) as they are, with their groups (n,)."""
        labels = _labels(groups, len(scores))
        self.batch.calibrate_scores(scores, **shift)
        return self._split(labels)

    def predict_interval(self, X: Any, groups: Any, alpha: Any = 0.1, **options: Any) -> GroupedStatements:
        """`BatchConformal.predict_interval` in each group.

        Parameters
        ----------
        X : array or data frame (m, ...), or int m after `calibrate_scores`
        groups : (m,)
        alpha : float, or mapping of group to float
            Levels of a mapping are taken as they are; by Bonferroni all hold together with probability 1 - their sum.
        **options
            Of `BatchConformal.predict_interval`; a mapping with the groups as keys gives each its own.

        Returns
        -------
        GroupedStatements

        Raises
        ------
        EmptyData
            A group of the batch without calibration points.
        DatumwiseError
            A group with too few of them, by name.
        """
        return self._each("predict_interval", X, groups, alpha, options)

    def predict_set(self, X: Any, groups: Any, alpha: Any = 0.1, **options: Any) -> GroupedStatements:
        """`BatchConformal.predict_set` in each group; parameters as `predict_interval`."""
        return self._each("predict_set", X, groups, alpha, options)

    def predict_batch(
        self, X: Any, groups: Any, statistic: Any = "mean", alpha: Any = 0.1, **options: Any
    ) -> GroupedStatements:
        """`BatchConformal.predict_batch` in each group, for example the mean outcome of every site."""
        return self._each("predict_batch", X, groups, alpha, options | {"statistic": statistic})

    def predict_band(self, X: Any, groups: Any, alpha: Any = 0.1, **options: Any) -> GroupedStatements:
        """`BatchConformal.predict_band` in each group."""
        return self._each("predict_band", X, groups, alpha, options)

    def select(self, X: Any, groups: Any, threshold: Any = None, alpha: Any = 0.1, **options: Any) -> GroupedStatements:
        """`BatchConformal.select` in each group; a threshold (m,) is one a datapoint."""
        if threshold is not None and not isinstance(threshold, Mapping) and np.ndim(threshold):
            options["calibration_threshold"] = options.get("calibration_threshold")
            labels, rows = _places(_labels(groups, batch_size(X)))
            column = np.asarray(threshold)
            if column.shape != (batch_size(X),):
                raise SchemaMismatch(f"{batch_size(X):,} datapoints and thresholds of shape {column.shape} do not fit together")
            threshold = {group: column[at] for group, at in zip(labels, rows, strict=True)}
        return self._each("select", X, groups, alpha, options | {"threshold": threshold})

    def _split(self, labels: np.ndarray) -> MondrianBatchConformal:
        names, rows = _places(labels[self.batch.kept_])
        self.groups_ = {name: self.batch.subset(at) for name, at in zip(names, rows, strict=True)}
        return self

    def _each(self, method: str, X: Any, groups: Any, alpha: Any, options: dict[str, Any]) -> GroupedStatements:
        if not hasattr(self, "groups_"):
            raise NotFittedError("this MondrianBatchConformal is not calibrated: call calibrate(X, y, groups) first")
        by_number = isinstance(X, int | np.integer)
        m = int(X) if by_number else batch_size(X)
        names, rows = _places(_labels(groups, m))
        ids = aligned_ids(options.pop("ids", None), X, m)
        unknown = [name for name in names if name not in self.groups_]
        if unknown:
            raise EmptyData(
                f"group {name_some(unknown)} of the batch has no calibration points",
                remedy="calibrate with points of it, or leave it out",
                ids=unknown,
            )
        levels = self._levels(alpha, names)
        results: dict[Hashable, Any] = {}
        for name, at in zip(names, rows, strict=True):
            own = {key: _of_group(value, name, names) for key, value in options.items()}
            if method in ("predict_interval", "predict_set", "select"):
                own["ids"] = ids[at]
            call: Callable[..., Any] = getattr(self.groups_[name], method)
            try:
                results[name] = call(len(at) if by_number else take_rows(X, at), alpha=levels[name], **own)
            except DatumwiseError as error:
                raise type(error)(f"group {name}: {error}", ids=error.ids) from error
        overall = float(max(levels.values())) if self.together == "each" else float(alpha)
        return GroupedStatements(results, dict(zip(names, rows, strict=True)), overall, self.together, m)

    def _levels(self, alpha: Any, names: list[Hashable]) -> dict[Hashable, float]:
        if isinstance(alpha, Mapping):
            if self.together != "each":
                raise DatumwiseError(f"together={self.together!r} splits one alpha", remedy="give a number, or together='each'")
            missing = [name for name in names if name not in alpha]
            if missing:
                raise UnknownName(f"alpha says nothing of group {name_some(missing)}", remedy="give every group its level")
            return {name: check_alpha(alpha[name]) for name in names}
        return dict.fromkeys(names, split_level(alpha, len(names), self.together))


def _of_group(value: Any, name: Hashable, names: list[Hashable]) -> Any:
    """A group's own value of an option that was given as a mapping of groups."""
    if not isinstance(value, Mapping):
        return value
    missing = [each for each in names if each not in value]
    if missing:
        raise UnknownName(f"an option says nothing of group {name_some(missing)}", remedy="give every group its value")
    return value[name]


def _labels(groups: Any, n: int) -> np.ndarray:
    labels = np.asarray(groups)
    if labels.shape != (n,):
        raise SchemaMismatch(f"{n:,} datapoints and groups of shape {labels.shape} do not fit together")
    # NaN differs from itself
    missing = np.flatnonzero((labels != labels) | np.array([each is None for each in labels.tolist()], bool))
    if len(missing):
        raise NotFinite(f"groups has no value in row {name_some(missing)}", ids=missing.tolist())
    return labels


def _places(labels: np.ndarray) -> tuple[list[Hashable], list[np.ndarray]]:
    """Groups in ascending order, and the rows of each."""
    names, code = np.unique(labels, return_inverse=True)
    order = np.argsort(code, kind="stable")
    return names.tolist(), np.split(order, np.cumsum(np.bincount(code))[:-1])
