"""What several requests to forget did to a model, one after the other or of growing size: a report a request.

Shi et al., 2024 (MUSE), section 3.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from datumwise.errors import SchemaMismatch, SourceError
from datumwise.evaluate.six_way_report import MEASURES, SixWayReport, aligned, figure

__all__ = ["ForgettingRun", "Step", "step_fact", "step_of"]

FORMAT = "datumwise forgetting run 1"


@dataclass(frozen=True)
class Step:
    """One request.

    Attributes
    ----------
    fold : int
        1 is the first.
    n_forget : int
        Texts of the request.
    started_from, reference, result : str
        Fingerprints of the model it started from, of the one it was held against, and of what came out.
    report : SixWayReport
    stopped_epoch : int or None
    seconds : float
        Of the unlearning, not of the measuring.
    """

    fold: int
    n_forget: int
    started_from: str
    reference: str
    result: str
    report: SixWayReport
    stopped_epoch: int | None
    seconds: float


@dataclass(frozen=True, repr=False)
class ForgettingRun:
    """All requests of a run, and the model before any.

    Attributes
    ----------
    kind : {"scalability", "sustainability"}
    method : str
    start : SixWayReport or None
        Of the model before the first request, on the data of the first.
    steps : tuple of Step
    model : model or None
        What the last request left; None after `from_json`, and where a finished scalability run was read from its folder.
    """

    kind: str
    method: str
    start: SixWayReport | None
    steps: tuple[Step, ...]
    model: Any = field(default=None, compare=False)

    @property
    def reports(self) -> list[SixWayReport]:
        """One a request."""
        return [step.report for step in self.steps]

    def curve(self, criterion: str = "utility") -> np.ndarray:
        """A criterion after each request, float64 (steps,); nan where it was not measured."""
        return np.array([report.values.get(criterion, np.nan) for report in self.reports])

    def table(self) -> str:
        """A line a request: its size, epochs, seconds and every criterion."""
        names = [name for name in MEASURES if any(name in step.report.values for step in self.steps)]
        rows: list[tuple[str, ...]] = [("request", "texts", "epochs", "seconds", *(MEASURES[name].name for name in names), "")]
        if self.start is not None:
            rows.append(("before", "-", "-", "-", *(_said(self.start, name) for name in names), ""))
        for step in self.steps:
            epochs = "-" if step.stopped_epoch is None else str(step.stopped_epoch)
            said = [_said(step.report, name) for name in names]
            rows.append((str(step.fold), f"{step.n_forget:,}", epochs, f"{step.seconds:.1f}", *said, ""))
        return "\n".join(aligned(rows))

    def __str__(self) -> str:
        return self.table()

    def __repr__(self) -> str:
        utility = ", ".join(f"{v:.1f}" for v in self.curve())
        return f"ForgettingRun: {self.kind} of {self.method}, {len(self.steps)} requests, utility {utility}"

    def to_json(self, path: str | Path | None = None) -> str:
        """The run as JSON, without the model, also written to ``path`` where one is given."""
        fact = {
            "format": FORMAT,
            "kind": self.kind,
            "method": self.method,
            "start": None if self.start is None else self.start.to_dict(),
            "steps": [step_fact(step) for step in self.steps],
        }
        text = json.dumps(fact, ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> ForgettingRun:
        """From `to_json`: the text itself, or the path of a file.

        Raises
        ------
        SourceError
            There is no such file, or it holds no JSON.
        SchemaMismatch
            It is something else.
        """
        text = str(source)
        try:
            fact = json.loads(text if text.lstrip().startswith("{") else Path(source).read_text(encoding="utf-8"))
        except OSError as error:
            raise SourceError(f"there is no forgetting run at {source}") from error
        except json.JSONDecodeError as error:
            raise SourceError("the forgetting run is no JSON", remedy="write it with to_json") from error
        if not isinstance(fact, Mapping) or fact.get("format") != FORMAT:
            raise SchemaMismatch("this is no forgetting run", remedy=f"one says {FORMAT!r} under format")
        start = None if fact["start"] is None else SixWayReport.from_dict(fact["start"])
        return cls(fact["kind"], fact["method"], start, tuple(step_of(one) for one in fact["steps"]))


def _said(report: SixWayReport, name: str) -> str:
    return figure(report.values[name], MEASURES[name]) if name in report.values else "-"


def step_fact(step: Step) -> dict[str, Any]:
    """As JSON knows it."""
    return {**{k: v for k, v in vars(step).items() if k != "report"}, "report": step.report.to_dict()}


def step_of(fact: Mapping[str, Any]) -> Step:
    """From `step_fact`."""
    return Step(**{**fact, "report": SixWayReport.from_dict(fact["report"])})
