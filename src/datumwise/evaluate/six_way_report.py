"""What the six criteria say of a model: values with intervals, every item behind them, and how two models compare.

Shi et al., 2024, *MUSE: Machine Unlearning Six-Way Evaluation for Language Models*.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datumwise.errors import EmptyData, SchemaMismatch, SourceError
from datumwise.evaluate.paired import PairedTest, auc_test, paired_test
from datumwise.evaluate.privleak import auc
from datumwise.evaluate.removal import Interval

__all__ = ["MEASURES", "Comparison", "Items", "Measure", "Reference", "SixWayReport"]

FORMAT = "datumwise six-way report 1"


@dataclass(frozen=True)
class Measure:
    """What a value of a report is.

    Attributes
    ----------
    name : str
        As people say it.
    unit : str
    about : {"forget", "keep"}
        Of what is to be forgotten, which is to become as if never seen; or of what is to stay.
    better : {"lower", "higher", "zero"}
    scale : float
        Of the value, over that of the items.
    bounds : (float, float) or None
        Of the items.
    """

    name: str
    unit: str
    about: str
    better: str
    scale: float = 1.0
    bounds: tuple[float, float] | None = None


SHARE = (0.0, 1.0)
MEASURES = {
    "verbmem": Measure("recited, to forget", "ROUGE-L", "forget", "lower", 100.0, SHARE),
    "knowmem": Measure("answered, to forget", "ROUGE-L", "forget", "lower", 100.0, SHARE),
    "privleak": Measure("privacy leakage", "%", "forget", "zero"),
    "nll_forget": Measure("loss on texts to forget", "nats/token", "forget", "higher"),
    "utility": Measure("answered, to keep", "ROUGE-L", "keep", "higher", 100.0, SHARE),
    "retain_verbmem": Measure("recited, to keep", "ROUGE-L", "keep", "higher", 100.0, SHARE),
    "nll_retain": Measure("loss on kept texts", "nats/token", "keep", "lower"),
    "nll_holdout": Measure("loss on unseen texts", "nats/token", "keep", "lower"),
}


@dataclass(frozen=True, eq=False)
class Items:
    """One criterion item by item.

    Attributes
    ----------
    id : list of n
    score : float64 (n,)
        ROUGE-L 0 to 1; nats for ``privleak`` (Min-K% score of the texts to forget), ``privleak_holdout`` and the losses.
    generation : list of n str, or None
        What the model wrote.
    """

    id: list[Any]
    score: np.ndarray
    generation: list[str] | None = None

    def __len__(self) -> int:
        return len(self.id)

    def at(self, ids: list[Any]) -> np.ndarray:
        """Scores of these ids, in this order."""
        where = {i: row for row, i in enumerate(self.id)}
        return self.score[[where[i] for i in ids]]


@dataclass(frozen=True)
class Reference:
    """What PrivLeak is measured against: A(g), and where it is from.

    Attributes
    ----------
    kind : {"retrained model", "report", "given", "split holdout"}
        "split holdout": nobody knows A(g). Of texts of one kind none of which was seen it is 0.5, with the spread of as many
        texts, split at random, in ``interval``; where the texts to forget are of another kind than those held out, it is
        another number, and PrivLeak is wrong by as much.
    auc : float
    interval : Interval
    """

    kind: str
    auc: float
    interval: Interval


@dataclass(frozen=True)
class Comparison:
    """Two models by one criterion, on the items that both were measured on."""

    criterion: str
    first: float
    second: float
    test: PairedTest  # first minus second, in the criterion's unit; of privleak, of 100 A(u)

    def __str__(self) -> str:
        return f"{self.criterion}: {self.first:.4g} against {self.second:.4g}, {self.test}"


@dataclass(frozen=True, repr=False, eq=False)
class SixWayReport:
    """The criteria of one model.

    Attributes
    ----------
    values : dict of str to float
        ``verbmem``, ``knowmem``, ``utility``, ``retain_verbmem`` 0 to 100; ``privleak`` in per cent; ``nll_forget``,
        ``nll_retain``, ``nll_holdout`` in nats a token. What could not be measured is not there, see ``missing``.
    intervals : dict of str to Interval
        95 %, over items.
    per_item : dict of str to Items
        The same names, and ``privleak_holdout``.
    auc : float or None
        A(u): P(a text to forget looks more unseen than a holdout text) of this model.
    reference : Reference or None
    settings : dict
        See `datumwise.evaluate.muse_data.PUBLISHED`.
    missing : dict of str to str
        Criterion -> why it was not measured.
    notes : list of str
        What a reader has to know: texts that were cut, left out, or scored without a reference.
    model : str
        Fingerprint of the weights.
    seconds : float
        Processor time.
    """

    values: dict[str, float]
    intervals: dict[str, Interval]
    per_item: dict[str, Items]
    auc: float | None = None
    reference: Reference | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    model: str = ""
    seconds: float = math.nan

    def table(self) -> str:
        """Values with intervals and number of items, what is missing, and what to know."""
        rows: list[tuple[str, ...]] = [("criterion", "value", "95 %", "items", "unit")]
        for name, measure in MEASURES.items():
            if name in self.values:
                ends = self.intervals[name]
                rows.append(
                    (
                        measure.name,
                        figure(self.values[name], measure),
                        f"{figure(ends.low, measure)} to {figure(ends.high, measure)}",
                        f"{len(self.per_item[name]):,}",
                        measure.unit,
                    )
                )
        lines = aligned(rows)
        lines += [f"not measured: {MEASURES[name].name} ({why})" for name, why in self.missing.items()]
        if self.reference is not None and self.auc is not None:
            lines.append(f"AUC {self.auc:.3f}, reference {self.reference.auc:.3f} ({self.reference.kind})")
        return "\n".join([*lines, *self.notes])

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        return "SixWayReport: " + ", ".join(f"{name} {figure(v, MEASURES[name])}" for name, v in self.values.items())

    def compare(self, other: SixWayReport, *, random_state: int = 0) -> list[Comparison]:
        """This model against another, criterion by criterion, on the items that both have: paired tests.

        Parameters
        ----------
        other : SixWayReport
        random_state : int

        Returns
        -------
        list of Comparison
            The difference is this minus the other. That of ``privleak`` is of 100 A(u), which needs no reference.

        Raises
        ------
        EmptyData
            They share no criterion, or no item.
        """
        found = []
        for name, measure in MEASURES.items():
            if name not in self.per_item or name not in other.per_item:
                continue
            mine, theirs = self.per_item[name], other.per_item[name]
            shared = _shared(mine, theirs)
            if not shared:
                continue
            if name == "privleak":
                test = self._compare_auc(other, shared, random_state)
                if test is None:
                    continue
            else:
                test = paired_test(mine.at(shared), theirs.at(shared), bounds=measure.bounds, random_state=random_state)
                test = _scaled(test, measure.scale)
            first, second = self.values.get(name), other.values.get(name)
            if name == "privleak" and (first is None or second is None):
                first, second = 100 * (self.auc or 0.0), 100 * (other.auc or 0.0)
            found.append(Comparison(name, float(first or 0.0), float(second or 0.0), test))
        if not found:
            raise EmptyData("the two reports share no criterion with an item in common", remedy="measure both on the same data")
        return found

    def _compare_auc(self, other: SixWayReport, shared: list[Any], random_state: int) -> PairedTest | None:
        held, other_held = self.per_item.get("privleak_holdout"), other.per_item.get("privleak_holdout")
        if held is None or other_held is None or not (unseen := _shared(held, other_held)):
            return None
        mine = (self.per_item["privleak"].at(shared), held.at(unseen))
        theirs = (other.per_item["privleak"].at(shared), other_held.at(unseen))
        return _scaled(auc_test(mine, theirs, random_state=random_state), 100.0)

    def holdout_auc(self) -> float:
        """A of this model, from its items.

        Raises
        ------
        EmptyData
            Its privacy leakage was not measured.
        """
        if "privleak" not in self.per_item or "privleak_holdout" not in self.per_item:
            raise EmptyData("the report holds no scores of forget and holdout texts", remedy="measure privleak of that model")
        return auc(self.per_item["privleak"].score, self.per_item["privleak_holdout"].score)

    def to_dict(self) -> dict[str, Any]:
        """As JSON knows it: what is not finite is null."""
        return {
            "format": FORMAT,
            "values": {name: _number(v) for name, v in self.values.items()},
            "intervals": {name: _ends(interval) for name, interval in self.intervals.items()},
            "per_item": {
                name: {
                    "id": items.id,
                    "score": [_number(float(s)) for s in items.score],
                    "generation": items.generation,
                }
                for name, items in self.per_item.items()
            },
            "auc": None if self.auc is None else _number(self.auc),
            "reference": None
            if self.reference is None
            else {
                "kind": self.reference.kind,
                "auc": self.reference.auc,
                "interval": _ends(self.reference.interval),
            },
            "settings": self.settings,
            "missing": self.missing,
            "notes": self.notes,
            "model": self.model,
            "seconds": _number(self.seconds),
        }

    def to_json(self, path: str | Path | None = None) -> str:
        """The report as JSON, also written to ``path`` where one is given."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_dict(cls, fact: Mapping[str, Any]) -> SixWayReport:
        """From `to_dict`.

        Raises
        ------
        SchemaMismatch
            It is something else.
        """
        if not isinstance(fact, Mapping) or fact.get("format") != FORMAT:
            raise SchemaMismatch("this is no six-way report", remedy=f"one says {FORMAT!r} under format")
        items = {
            name: Items(one["id"], np.array([_back(s) for s in one["score"]], dtype=np.float64), one["generation"])
            for name, one in fact["per_item"].items()
        }
        reference = fact["reference"]
        return cls(
            {name: _back(v) for name, v in fact["values"].items()},
            {name: _interval(ends) for name, ends in fact["intervals"].items()},
            items,
            fact["auc"],
            None if reference is None else Reference(reference["kind"], reference["auc"], _interval(reference["interval"])),
            dict(fact["settings"]),
            dict(fact["missing"]),
            list(fact["notes"]),
            fact["model"],
            _back(fact["seconds"]),
        )

    @classmethod
    def from_json(cls, source: str | Path) -> SixWayReport:
        """From `to_json`: the text itself, or the path of a file.

        Raises
        ------
        SourceError
            There is no such file, or it holds no JSON.
        SchemaMismatch
        """
        text = source if isinstance(source, str) and source.lstrip().startswith("{") else None
        try:
            return cls.from_dict(json.loads(text if text is not None else Path(source).read_text(encoding="utf-8")))
        except OSError as error:
            raise SourceError(f"there is no report at {source}") from error
        except json.JSONDecodeError as error:
            raise SourceError("the report is no JSON", remedy="write it with to_json") from error


def figure(value: float, measure: Measure) -> str:
    """A value as it is printed: one decimal, or three of a loss."""
    return f"{value:.3f}" if measure.unit == "nats/token" else f"{value:.1f}"


def aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as lines of text: the first column to the left, the others to the right, the last to the left."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    last = len(widths) - 1
    return [
        "  ".join(
            cell.ljust(width) if i in (0, last) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _shared(a: Items, b: Items) -> list[Any]:
    there = set(b.id)
    return [i for i in a.id if i in there]


def _scaled(test: PairedTest, scale: float) -> PairedTest:
    d = test.difference
    return PairedTest(Interval(d.value * scale, d.low * scale, d.high * scale), test.p, test.n)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _back(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _ends(interval: Interval) -> list[float | None]:
    return [_number(interval.value), _number(interval.low), _number(interval.high)]


def _interval(ends: list[float | None]) -> Interval:
    return Interval(*(_back(end) for end in ends))
