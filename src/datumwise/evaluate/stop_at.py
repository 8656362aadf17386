"""When has a model forgotten enough, and not too much? The first epoch at which chosen criteria are as of a retrained model.

Shi et al., 2024 (MUSE), published scripts: of all epochs (or weights of a task vector), the first whose knowledge of what is to
be forgotten is no more than the retrained model's. That rule looks at forgetting alone, and can pick an early wreck that later
epochs would repair; so a floor for the utility can be given, and the utility at the pick is always measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch, UnknownName

if TYPE_CHECKING:
    from datumwise.evaluate.muse_data import MuseData
    from datumwise.evaluate.six_way_report import SixWayReport

__all__ = ["Level", "Pick", "StopAt", "pick_first", "stop_at"]

LOWER_IS_FORGOTTEN = ("verbmem", "knowmem")
CRITERIA = (*LOWER_IS_FORGOTTEN, "privleak")
LEAK_RANGE = (-10.0, 10.0)  # per cent: where nobody says what of the privacy leakage is near enough to 0
Level = float | tuple[float, float]
Measure = Callable[[Any, Sequence[str]], Mapping[str, float]]


@dataclass
class StopAt:
    """Asked after every epoch whether to stop; remembers what it saw. Made by `stop_at`.

    Attributes
    ----------
    levels : dict
        Criterion -> range (low, high) that it must lie in.
    utility_floor : float or None
    every : int
        Epochs between two measurements.
    first : int
        Epoch of the first.
    seen : list of dict
        ``epoch``, the values measured, ``"forgotten"`` (all levels reached) and ``"stop"``.
    """

    levels: dict[str, tuple[float, float]]
    measure: Measure
    utility_floor: float | None = None
    every: int = 1
    first: int = 1
    seen: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, model: Any, epoch: int) -> bool:
        """Whether to stop after this epoch (1 is the first)."""
        if epoch < self.first or (epoch - self.first) % self.every:
            return False
        values = dict(self.measure(model, list(self.levels)))
        forgotten = all(low <= values[name] <= high for name, (low, high) in self.levels.items())
        stop = forgotten
        if forgotten:  # what is asked last is asked only where it matters
            values |= self.measure(model, ["utility"])
            if self.utility_floor is not None:
                stop = values.get("utility", float("-inf")) >= self.utility_floor
        self.seen.append({"epoch": epoch} | values | {"forgotten": forgotten, "stop": stop})
        return stop

    @property
    def picked(self) -> dict[str, Any] | None:
        """What was measured when it said stop; None if it never did: then the last epoch was taken, and must be flagged."""
        return next((one for one in self.seen if one["stop"]), None)

    def __str__(self) -> str:
        if self.picked is not None:
            values = ", ".join(f"{k} {v:.1f}" for k, v in self.picked.items() if k not in ("epoch", "forgotten", "stop"))
            return f"stopped after epoch {self.picked['epoch']} ({values})"
        wanted = ", ".join(f"{name} in {low:g} to {high:g}" for name, (low, high) in self.levels.items())
        floor = "" if self.utility_floor is None else f" with utility of at least {self.utility_floor:g}"
        return f"no epoch of {len(self.seen)} measured had {wanted}{floor}: the last was taken"


def stop_at(
    tokenizer: Any,
    data: MuseData,
    criteria: Mapping[str, Level] | Sequence[str] = ("knowmem",),
    *,
    retrain: Any = None,
    utility_floor: float | None = None,
    every: int = 1,
    first: int = 1,
    measure: Measure | None = None,
    **evaluation: Any,
) -> StopAt:
    """A rule for ``unlearn(stop=...)``: stop after the first epoch at which the criteria are where they should be.

    Parameters
    ----------
    tokenizer : transformers tokenizer
    data : MuseData
    criteria : mapping of str to float or (float, float), or sequence of str
        What to reach: a range; or a number, which ``verbmem`` and ``knowmem`` (0 to 100) must not exceed and ``privleak`` (per
        cent; it starts low) must not fall short of. Names alone take the values of ``retrain``; ``privleak`` then -10 to 10.
    retrain : SixWayReport, model, float or None
        Of the model that never saw the texts; also the reference of the privacy leakage (see `six_way`). A model that criteria
        take their levels from is measured once, here.
    utility_floor : float, optional
        The utility (0 to 100) must be at least this as well; until then the training goes on.
    every, first : int
        Measure every so many epochs, from this one on.
    measure : callable (model, criteria) -> dict of str to float, optional
        In place of `six_way`.
    **evaluation
        Further arguments of `six_way`.

    Returns
    -------
    StopAt

    Raises
    ------
    UnknownName
        A criterion is none of verbmem, knowmem, privleak.
    SchemaMismatch
        No level is given and there is no report to take it from.
    DatumwiseError
        A range is empty; ``every`` is below 1.
    EmptyData
        No criterion; a floor for the utility without questions on what is to be kept.

    Examples
    --------
    >>> course = iter([60.0, 31.0, 20.0])
    >>> rule = stop_at(None, None, {"knowmem": 33.1}, measure=lambda model, names: dict.fromkeys(names, next(course)))
    >>> [rule(None, epoch) for epoch in (1, 2)], rule.picked["epoch"]
    ([False, True], 2)
    """
    names = list(criteria)
    for name in names:
        if name not in CRITERIA:
            raise UnknownName(f"there is no criterion {name!r} to stop at", remedy=f"choose {', '.join(CRITERIA)}")
    if not names:
        raise EmptyData("no criterion is given to stop at", remedy=f"choose {', '.join(CRITERIA)}")
    if every < 1 or first < 1:
        raise DatumwiseError(f"every is {every} and first {first}", remedy="both must be 1 or more")
    if measure is None:
        if utility_floor is not None and not data.retain_qa:
            raise EmptyData(
                "a floor for the utility needs questions on what is to be kept", remedy="give retain_qa, or no floor"
            )
        measure = _six_way_of(tokenizer, data, retrain, evaluation)
    if isinstance(criteria, Mapping):
        levels = {name: _range(name, level) for name, level in criteria.items()}
    else:
        wanted = [name for name in names if name != "privleak"]
        report = _reference_report(tokenizer, data, retrain, wanted, evaluation)
        levels = {name: LEAK_RANGE if name == "privleak" else (float("-inf"), report[name]) for name in names}
    return StopAt(levels, measure, utility_floor, every, first)


@dataclass(frozen=True)
class Pick:
    """The first candidate that passed, or the last of all.

    Attributes
    ----------
    label, model
    passed : bool
        False: none passed, this is the last.
    tried : tuple
        Labels, in order, the picked one last.
    """

    label: Any
    model: Any
    passed: bool
    tried: tuple[Any, ...]


def pick_first(candidates: Iterable[tuple[Any, Any]], stop: Callable[[Any, int], bool]) -> Pick:
    """The first of several models that a rule is content with: weights of a task vector, saved epochs.

    Parameters
    ----------
    candidates : iterable of (label, model)
        Made one at a time where it is a generator, none after the pick.
    stop : callable (model, number) -> bool
        As for `unlearn`; candidates are numbered from 1.

    Returns
    -------
    Pick

    Raises
    ------
    EmptyData

    Examples
    --------
    >>> pick_first(((alpha, 100 / alpha) for alpha in (1, 2, 4, 8, 16)), lambda model, number: model <= 30)
    Pick(label=4, model=25.0, passed=True, tried=(1, 2, 4))
    """
    tried: list[Any] = []
    last: tuple[Any, Any] | None = None
    for number, (label, model) in enumerate(candidates, 1):
        tried.append(label)
        last = (label, model)
        if stop(model, number):
            return Pick(label, model, True, tuple(tried))
    if last is None:
        raise EmptyData("there is no candidate to pick from")
    return Pick(*last, False, tuple(tried))


def _range(name: str, level: Level) -> tuple[float, float]:
    if isinstance(level, (tuple, list)):
        low, high = (float(end) for end in level)
    elif name in LOWER_IS_FORGOTTEN:
        low, high = float("-inf"), float(level)
    else:
        low, high = float(level), float("inf")
    if not low <= high:
        raise DatumwiseError(f"the range of {name} is empty ({low:g} to {high:g})", remedy="give (low, high)")
    return low, high


def _six_way_of(tokenizer: Any, data: MuseData, retrain: Any, evaluation: Mapping[str, Any]) -> Measure:
    def measure(model: Any, names: Sequence[str]) -> Mapping[str, float]:
        from datumwise.evaluate.six_way import six_way

        if list(names) == ["utility"] and not data.retain_qa:
            return {}
        report = six_way(model, tokenizer, data, criteria=names, retrain=retrain, **evaluation)
        missing = [name for name in names if name not in report.values]
        if missing:
            raise EmptyData(f"{missing[0]} cannot be measured", remedy=report.missing.get(missing[0], "give its data"))
        return {name: report.values[name] for name in names}

    return measure


def _reference_report(
    tokenizer: Any, data: MuseData, retrain: Any, names: Sequence[str], evaluation: Mapping[str, Any]
) -> Mapping[str, float]:
    """Values of the model that never saw the texts."""
    if not names:
        return {}
    report: SixWayReport | None = retrain if hasattr(retrain, "values") and hasattr(retrain, "per_item") else None
    if report is None and hasattr(retrain, "parameters"):
        from datumwise.evaluate.six_way import six_way

        report = six_way(retrain, tokenizer, data, criteria=names, **evaluation)
    missing = [name for name in names if report is None or name not in report.values]
    if missing:
        raise SchemaMismatch(
            f"there is no level for {missing[0]}", remedy="give one (criteria={'knowmem': 33.1}), or retrain= that has it"
        )
    assert report is not None
    return report.values
