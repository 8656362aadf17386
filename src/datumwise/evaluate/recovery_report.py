"""What came back, for whom, and at what cost: the report of one unlearned model beside the clean and the corrupted one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datumwise.errors import DatumwiseError, SourceError
from datumwise.evaluate.removal import Interval
from datumwise.evaluate.state_answers import KINDS, StateAnswers
from datumwise.evaluate.transitions import CLASSES, Recovery

__all__ = ["GROUPS", "STATES", "CorruptionCheck", "RestorReport", "load_states"]

STATES = ("clean", "corrupted", "unlearned")
GROUPS = ("direct", "same_entity", "other")
SAID = {
    "direct": "corrupted facts",
    "same_entity": "other facts of the same entities",
    "other": "facts of other entities",
    "all": "all facts",
}


@dataclass(frozen=True)
class CorruptionCheck:
    """Whether the corruption is one that unlearning can be tested on.

    Attributes
    ----------
    right, false : (float, float)
        Share of right and of false answers about corrupted facts, clean and corrupted model.
    others : (float or None, float or None)
        Share of right answers about other entities.
    reason : str
        Why it is not valid; empty where it is.
    """

    right: tuple[float, float]
    false: tuple[float, float]
    others: tuple[float | None, float | None]
    reason: str = ""

    @property
    def valid(self) -> bool:
        return not self.reason

    def __str__(self) -> str:
        others = "" if None in self.others else f", right about other entities {_shares(self.others)}"
        figures = f"right {_shares(self.right)}, false {_shares(self.false)}{others}"
        return figures if self.valid else f"not valid, for {self.reason} ({figures})"


@dataclass(frozen=True)
class RestorReport:
    """Clean, corrupted and unlearned model, fact by fact.

    Attributes
    ----------
    ids, subjects, relations : list of n str
    group : list of n {"direct", "same_entity", "other"}
        Corrupted facts, others of the same entities, facts of other entities.
    states : dict of state to StateAnswers
        Everything each model said; pass one again to spare asking.
    right, says_false : dict of state to float64 (n,)
        Share of the answers to a fact that are right, and that say the false object: 0 or 1 for greedy decoding.
    named : dict of state to list of n lists of str or None
        The object that each answer was taken for.
    classes : int8 (n,)
        Index into `datumwise.evaluate.transitions.CLASSES`.
    logprobs : dict of state to float64 (n, 3)
        Mean log-probability of correct, corrupted and random options, nats a token; NaN where there is none.
    distance : float64 (n,)
        Jensen-Shannon divergence of clean and unlearned over the options, nats.
    accuracy_by_group : dict of group, and "all", to dict of state to Interval
    false_rate : dict of state to Interval
        On corrupted facts.
    recovery, margin_recovery, truth_recovery, known_recovery : Recovery
        Of accuracy on corrupted facts; of the mean log-probability of the truth over the falsehood, which rises by forgetting
        alone too; of that of the truth, which does not; of accuracy on what the clean model knows.
    corruption : CorruptionCheck
    neutral_perplexity : dict of state to float or None
    fluency_lost : bool or None
        Whether the unlearned model's is more than twice the corrupted one's.
    chance : float
        Accuracy on corrupted facts of who always says a relation's most frequent answer.
    confidence_auc : (float, int, int)
        How well the clean model's confidence tells lost facts that came back from those that did not; their numbers.
    repaired : RestorReport or None
        The same after repair.
    """

    ids: list[str]
    subjects: list[str]
    relations: list[str]
    group: list[str]
    false_answers: dict[str, str]
    states: dict[str, StateAnswers] = field(repr=False)
    right: dict[str, np.ndarray] = field(repr=False)
    says_false: dict[str, np.ndarray] = field(repr=False)
    named: dict[str, list[list[str | None]]] = field(repr=False)
    classes: np.ndarray = field(repr=False)
    logprobs: dict[str, np.ndarray] = field(repr=False)
    distance: np.ndarray = field(repr=False)
    accuracy_by_group: dict[str, dict[str, Interval]]
    false_rate: dict[str, Interval]
    recovery: Recovery
    margin_recovery: Recovery
    truth_recovery: Recovery
    known_recovery: Recovery
    corruption: CorruptionCheck
    neutral_perplexity: dict[str, float | None]
    fluency_lost: bool | None
    chance: float
    confidence_auc: tuple[float, int, int]
    judge: dict[str, Any]
    n_bootstrap: int
    random_state: int
    about: dict[str, Any]
    notes: list[str]
    repaired: RestorReport | None = None

    @property
    def accuracy(self) -> dict[str, tuple[float, float, float]]:
        """Accuracy on the corrupted facts in each state: value, low, high."""
        return {name: (one.value, one.low, one.high) for name, one in self.accuracy_by_group["direct"].items()}

    def counts(self, group: str = "direct") -> dict[str, int]:
        """How many facts of a group ("all" for every one) are in each class."""
        rows = np.array([group in (own, "all") for own in self.group], dtype=bool)
        found = np.bincount(self.classes[rows], minlength=len(CLASSES))
        return dict(zip(CLASSES, found.tolist(), strict=True))

    def require_valid_corruption(self) -> None:
        """Refuse to speak of recovery from a corruption that did not take, or that took too much.

        Raises
        ------
        DatumwiseError
        """
        if not self.corruption.valid:
            raise DatumwiseError(
                f"the corruption is {self.corruption}",
                remedy="train longer, at another rate, or with text on other facts mixed in",
            )

    @property
    def per_fact(self) -> pa.Table:
        """A row a fact: id, group, class, and of each state its answer, what that was judged to be, and log-probabilities."""
        columns: dict[str, Any] = {
            "id": self.ids,
            "subject": self.subjects,
            "relation": self.relations,
            "group": self.group,
            "class": [CLASSES[i] for i in self.classes],
            "false_answer": [self.false_answers.get(one) for one in self.ids],
            "distance": self.distance,
        }
        for name in STATES:
            columns[f"{name}_output"] = [" | ".join(some) for some in self.states[name].outputs]
            columns[f"{name}_named"] = [" | ".join(one or "-" for one in some) for some in self.named[name]]
            columns[f"{name}_right"] = self.right[name]
            columns[f"{name}_says_false"] = self.says_false[name]
            for i, kind in enumerate(KINDS):
                columns[f"{name}_lp_{kind}"] = self.logprobs[name][:, i]
        return pa.table(columns)

    def table(self) -> str:
        """What a reader needs, as aligned lines."""
        lines = [f"{'right answers':34s}" + "".join(f"{name:>22s}" for name in STATES)]
        for name, words in SAID.items():
            if name in self.accuracy_by_group:
                lines.append(f"{words:34s}" + "".join(f"{_interval(self.accuracy_by_group[name][s]):>22s}" for s in STATES))
        lines.append(
            f"{'false answers, corrupted facts':34s}" + "".join(f"{_interval(self.false_rate[s]):>22s}" for s in STATES)
        )
        if any(v is not None for v in self.neutral_perplexity.values()):
            cells = ("-" if v is None else f"{v:.2f}" for v in (self.neutral_perplexity[s] for s in STATES))
            lines.append(f"{'perplexity of neutral text':34s}" + "".join(f"{cell:>22s}" for cell in cells))
        lines += [
            "",
            f"recovery of accuracy    {self.recovery}",
            f"recovery of the margin  {self.margin_recovery}",
            f"recovery of the truth   {self.truth_recovery}",
            f"corruption              {self.corruption}",
            f"chance                  {self.chance:.2f}",
            "classes                 " + ", ".join(f"{name} {n}" for name, n in self.counts().items() if n),
        ]
        if self.fluency_lost:
            lines.append("fluency lost: neutral text is more than twice as perplexing as to the corrupted model")
        return "\n".join([*lines, *self.notes])

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON knows it: NaN is null."""
        return _plain(
            {
                "accuracy": {g: {s: asdict(i) for s, i in some.items()} for g, some in self.accuracy_by_group.items()},
                "false_rate": {s: asdict(i) for s, i in self.false_rate.items()},
                "recovery": self.recovery.to_dict(),
                "margin_recovery": self.margin_recovery.to_dict(),
                "truth_recovery": self.truth_recovery.to_dict(),
                "known_recovery": self.known_recovery.to_dict(),
                "corruption": asdict(self.corruption) | {"valid": self.corruption.valid},
                "counts": {name: self.counts(name) for name in self.accuracy_by_group},
                "neutral_perplexity": self.neutral_perplexity,
                "fluency_lost": self.fluency_lost,
                "chance": self.chance,
                "confidence_auc": self.confidence_auc,
                "judge": self.judge,
                "n_bootstrap": self.n_bootstrap,
                "random_state": self.random_state,
                "about": self.about,
                "notes": self.notes,
                "per_fact": self.per_fact.to_pylist(),
                "states": {name: asdict(state) for name, state in self.states.items()},
                "repaired": None if self.repaired is None else self.repaired.to_dict(),
            }
        )

    def to_json(self, path: str | Path | None = None) -> str:
        """As JSON, also into a file: models' fingerprints, settings, every answer and every decision."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, allow_nan=False)
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text


def load_states(path: str | Path) -> dict[str, StateAnswers]:
    """What the models of a kept report said, to compare further models without asking these again.

    Raises
    ------
    SourceError
    """
    try:
        states = json.loads(Path(path).read_text(encoding="utf-8"))["states"]
    except (OSError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise SourceError(f"{path} cannot be read as a report of recovery ({error!r})") from error
    return {name: StateAnswers.from_dict(one) for name, one in states.items()}


def _shares(pair: tuple[float | None, float | None]) -> str:
    return " -> ".join("-" if one is None else f"{one:.0%}" for one in pair)


def _interval(one: Interval) -> str:
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _plain(value: Any) -> Any:
    """Arrays as lists, NaN and infinity as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value
