"""One unlearning method on one model, as `datumwise reproduce muse` compares them: its settings, its stop, its cost."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datumwise.evaluate.muse_data import MuseData
    from datumwise.evaluate.six_way_report import SixWayReport

__all__ = ["MEASURED", "Case", "Outcome", "Setting", "distance", "unlearned"]

MEASURED = ("verbmem", "knowmem", "privleak", "utility", "retain_verbmem")
FORGETTING = ("verbmem", "knowmem", "privleak")
FLOOR = 0.8  # share of the target's utility below which MUSE's stopping rule does not stop here
DRAWS = 200  # of the bootstrap intervals in the details
FAR = 100.0  # points: a leak of more counts as this


@dataclass(frozen=True)
class Setting:
    """How a method is run.

    Attributes
    ----------
    name : str
        In the table.
    method : str
        Of `datumwise.forget.methods.METHODS`; ``tv`` and ``whp`` reinforce the model on the forget texts once, at ``lr`` for
        ``epochs``, and try their ``scales``.
    lr : float
    epochs : int
        At most.
    batch_size : int
    options : dict
        Further ones of `unlearn`.
    scales : tuple of float
    anneal : bool
        The rate falls to a tenth.
    told : bool
        By MUSE's rule the first epoch (or scale) is taken whose KnowMem is no more than the retrained model's, utility not
        wrecked. False: all epochs are done and no retrained model is asked.
    """

    name: str
    method: str
    lr: float
    epochs: int = 10
    batch_size: int = 4
    options: Mapping[str, Any] = field(default_factory=dict)
    scales: tuple[float, ...] = ()
    anneal: bool = False
    told: bool = True


@dataclass(frozen=True)
class Case:
    """A model that is to forget, and what it is held against.

    Attributes
    ----------
    target, tokenizer : causal language model
    forget, retain, calibration : list of str
    data : MuseData
    before, retrained : SixWayReport
        Of the target, and of the model that never saw ``forget``.
    seconds : float
        Processor time of training that model.
    common : dict
        Options of `unlearn` for every method: adapters, longest text.
    """

    target: Any
    tokenizer: Any
    forget: list[str]
    retain: list[str]
    calibration: list[str]
    data: MuseData
    before: SixWayReport
    retrained: SixWayReport
    seconds: float
    common: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a method did.

    Attributes
    ----------
    report : SixWayReport
    seconds : float
        Processor time, measuring left out.
    reached : str
        The epoch or scale that was taken.
    passed : bool or None
        By the stopping rule; None where it was not asked.
    """

    report: SixWayReport
    seconds: float
    reached: str
    passed: bool | None


def unlearned(case: Case, setting: Setting, *, seed: int = 0, progress: Callable[[int, int], None] | None = None) -> Outcome:
    """Make a copy of the target forget, and measure it.

    Parameters
    ----------
    case : Case
    setting : Setting
    seed : int
    progress : callable (steps done, steps), optional
    """
    from datumwise.evaluate.six_way import six_way

    rule = _Rule(case) if setting.told else None
    began = time.process_time()
    model, reached, passed = (_scaled if setting.scales else _trained)(case, setting, rule, seed, progress)
    seconds = time.process_time() - began - (rule.seconds if rule is not None else 0.0)
    report = six_way(
        model, case.tokenizer, case.data, criteria=MEASURED, retrain=case.retrained, n_draws=DRAWS, random_state=seed
    )
    return Outcome(report, seconds, reached, passed)


def distance(report: SixWayReport, retrained: SixWayReport) -> float:
    """How far from a retrained model in forgetting: mean over VerbMem, KnowMem and PrivLeak of the difference, in points.

    A leak counts 100 at most; a criterion that was not measured is left out.
    """
    gaps = [min(FAR, abs(report.values[c] - retrained.values[c])) for c in FORGETTING if c in report.values]
    return sum(gaps) / len(gaps) if gaps else math.nan


def _trained(
    case: Case, setting: Setting, rule: _Rule | None, seed: int, progress: Callable[[int, int], None] | None
) -> tuple[Any, str, bool | None]:
    from datumwise.forget.annealed import annealed
    from datumwise.forget.unlearning import unlearn

    options = dict(case.common) | dict(setting.options)
    if setting.method == "calibrated":
        options["holdout"] = case.calibration
    if setting.anneal:
        options["optimizer"] = annealed(setting.lr, setting.epochs * -(-len(case.forget) // setting.batch_size))
    result = unlearn(
        case.target,
        case.tokenizer,
        case.forget,
        case.retain,
        method=setting.method,
        lr=setting.lr,
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        stop=rule,
        random_state=seed,
        progress=progress,
        **options,
    )
    return result.model, f"epoch {result.stopped_epoch}", result.stopped if rule is not None else None


def _scaled(
    case: Case, setting: Setting, rule: _Rule | None, seed: int, progress: Callable[[int, int], None] | None
) -> tuple[Any, str, bool | None]:
    """A task vector's scale, or that of the answers of a reinforced model: the first that passes."""
    from datumwise.evaluate.stop_at import pick_first
    from datumwise.forget.reinforce import reinforced
    from datumwise.forget.sequences import encode_sequences
    from datumwise.forget.task_arithmetic import negate, task_vector
    from datumwise.forget.texts import as_texts
    from datumwise.forget.whp import WHPModel
    from datumwise.probe.collate import context_length, padding_id

    longest = case.common.get("max_length") or context_length(case.target, case.tokenizer) or 2048
    texts = encode_sequences(case.tokenizer, as_texts(case.forget), longest, padding=padding_id(case.tokenizer))
    stronger = reinforced(
        case.target,
        texts,
        lr=setting.lr,
        epochs=setting.epochs,
        batch_size=setting.batch_size,
        random_state=seed,
        progress=progress,
    )

    def candidates() -> Iterator[tuple[float, Any]]:
        vector = task_vector(case.target, stronger) if setting.method == "tv" else {}
        for scale in setting.scales:
            yield scale, negate(case.target, vector, scale) if vector else WHPModel(case.target, stronger, scale)

    def never(model: Any, number: int) -> bool:
        return False

    pick = pick_first(candidates(), rule or never)
    return pick.model, f"scale {pick.label:g}", pick.passed if rule is not None else None


class _Rule:
    """MUSE's stopping rule with a floor for the utility, and the time that asking it took."""

    def __init__(self, case: Case) -> None:
        from datumwise.evaluate.stop_at import stop_at

        known = {name for name in ("knowmem", "verbmem") if name in case.retrained.values}
        name = "knowmem" if "knowmem" in known else "verbmem"
        items = case.retrained.per_item[name]
        level = case.retrained.values[name] + 100.0 / len(items)  # one item more: of few questions a model may guess one
        floor = FLOOR * case.before.values["utility"] if "utility" in case.before.values else None
        self.asked = stop_at(case.tokenizer, case.data, {name: level}, retrain=case.retrained, utility_floor=floor, n_draws=1)
        self.seconds = 0.0

    def __call__(self, model: Any, number: int) -> bool:
        began = time.process_time()
        stop = self.asked(model, number)
        self.seconds += time.process_time() - began
        return stop


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Mean, and smallest to largest where they differ.

    Examples
    --------
    >>> spread([9.4, 10.6, 9.7], 1), spread([100.0, 100.0])
    ('9.9 (9.4 to 10.6)', '100')
    """
    mean, low, high = (f"{v:.{digits}f}" for v in (sum(values) / len(values), min(values), max(values)))
    return mean if low == high else f"{mean} ({low} to {high})"
