"""What an attack brought back, criterion by criterion, beside the same attack on a model that never saw the texts."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datumwise.errors import SchemaMismatch, SourceError
from datumwise.evaluate.criterion import Criterion
from datumwise.evaluate.paired import auc_test, mean_interval, paired_test
from datumwise.evaluate.six_way_report import MEASURES, Items, SixWayReport, aligned

__all__ = ["AttackReport", "AttackRow", "row_of"]

FORMAT = "datumwise attack report 1"
NAMES = {"verbmem": "verbatim recall", "knowmem": "knowledge", "privleak": "privacy leakage"}
UNDER = {
    "relearn": "after relearning",
    "int8": "in 8 bit",
    "int4": "in 4 bit",
    "prefix": "other beginnings",
    "paraphrase": "other wordings",
}
SLIGHT = 0.1  # of ROUGE-L or AUC: a rise that is surely below this is none


@dataclass(frozen=True)
class AttackRow:
    """One criterion under one attack; shares 0 to 1, the privacy leakage in per cent.

    Attributes
    ----------
    kind, criterion : str
    before : float or None
        Of the model before the removal, unattacked.
    unattacked, attacked : float
        Of the model that was made to forget.
    interval : (float, float)
        95 % of ``attacked``.
    reference : float or None
        Of the model that never saw the texts, attacked alike.
    rise, gap : (float, float, float)
        Attacked minus unattacked, and minus the attacked reference, each with its 95 %, paired over items; of the privacy
        leakage, of minus the AUC, so that up always says "comes back".
    n : int
        Items.
    note : str
    """

    kind: str
    criterion: str
    before: float | None
    unattacked: float
    attacked: float
    interval: tuple[float, float]
    reference: float | None
    rise: tuple[float, float, float]
    gap: tuple[float, float, float] | None
    n: int
    note: str = ""

    @property
    def verdict(self) -> str:
        """In a word or two.

        "comes back": surely more than unattacked, and than the attacked reference. "still there": surely more than the
        reference, but not for the attack's sake. "holds": neither is seen, or only slightly. "not shown": too few items to
        tell.
        """
        above = self.gap is None or self.gap[1] > 0
        if self.rise[1] > 0 and above:
            return "comes back"
        if self.gap is not None and above:
            return "still there"
        known = [one for one in (self.rise, self.gap) if one is not None]
        return "holds" if any(value <= 0 or high < SLIGHT for value, _, high in known) else "not shown"

    def criterion_row(self) -> Criterion:
        """As a certificate has it."""
        leak = self.criterion == "privleak"
        told = f"unattacked {self.unattacked:{'+.1f' if leak else '.2f'}}".replace("-", "−")
        return Criterion(
            f"{NAMES[self.criterion]}, {UNDER[self.kind]}",
            self.before,
            self.attacked,
            self.reference,
            self.interval,
            self.verdict,
            "zero" if leak else "forget",
            self.n,
            "+.1f" if leak else ".2f",
            note=told,
        )


@dataclass(frozen=True)
class AttackReport:
    """All attacks on one model.

    Attributes
    ----------
    rows : tuple of AttackRow
    attacked_reference : bool
        Whether a model that never saw the texts was attacked alike; if not, part of a rise may be no memory at all.
    relearned : tuple
        Ids of the texts that were learnt again.
    """

    rows: tuple[AttackRow, ...]
    attacked_reference: bool = False
    relearned: tuple[Any, ...] = ()

    def criteria(self) -> list[Criterion]:
        """For ``Certificate.of(attacks=...)``."""
        return [row.criterion_row() for row in self.rows]

    def notes(self) -> list[str]:
        """How each attack was done, one sentence each."""
        by_note: dict[str, list[str]] = {}
        for row in self.rows:
            if row.note and UNDER[row.kind] not in by_note.setdefault(row.note, []):
                by_note[row.note].append(UNDER[row.kind])
        return [f"{' and '.join(kinds)}: {note}" for note, kinds in by_note.items()]

    def table(self) -> str:
        """One line an attack and criterion."""
        head = ("criterion", "unattacked", "attacked", "95 %", "never saw, attacked", "items", "verdict")
        lines: list[tuple[str, ...]] = [head]
        for row in self.rows:
            one = row.criterion_row()
            ends = f"{one.figure(row.interval[0])} to {one.figure(row.interval[1])}"
            figures = (one.figure(row.unattacked), one.figure(row.attacked), ends, one.figure(row.reference))
            lines.append((one.name, *figures, f"{row.n:,}", row.verdict))
        return "\n".join(aligned(lines))

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """As JSON knows it."""
        return {"format": FORMAT, **asdict(self)}

    def to_json(self, path: str | Path | None = None) -> str:
        """The report as JSON, also written to ``path`` where one is given."""
        text = json.dumps(self.to_dict(), ensure_ascii=False, indent=1, allow_nan=False) + "\n"
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_json(cls, source: str | Path) -> AttackReport:
        """From `to_json`: the text itself, or the path of a file.

        Raises
        ------
        SourceError, SchemaMismatch
        """
        text = str(source)
        try:
            fact = json.loads(text if text.lstrip().startswith("{") else Path(source).read_text(encoding="utf-8"))
        except OSError as error:
            raise SourceError(f"there is no attack report at {source}") from error
        except json.JSONDecodeError as error:
            raise SourceError("the attack report is no JSON", remedy="write it with to_json") from error
        if not isinstance(fact, Mapping) or fact.get("format") != FORMAT:
            raise SchemaMismatch("this is no attack report", remedy=f"one says {FORMAT!r} under format")
        told: list[dict[str, Any]] = [
            {key: tuple(value) if isinstance(value, list) else value for key, value in row.items()} for row in fact["rows"]
        ]
        rows = tuple(AttackRow(**row) for row in told)
        return cls(rows, fact["attacked_reference"], tuple(fact["relearned"]))


def row_of(
    kind: str,
    criterion: str,
    before: SixWayReport | None,
    unattacked: SixWayReport | None,
    attacked: Sequence[SixWayReport],
    reference: Sequence[SixWayReport],
    *,
    random_state: int = 0,
) -> AttackRow | None:
    """One criterion of several reports (one a prompt); None where it was not measured.

    Of several prompts the best answer to each item counts, for the reference too.
    """
    if unattacked is None or criterion not in unattacked.values or not attacked or criterion not in attacked[0].values:
        return None
    if criterion == "privleak":
        return _leak_row(kind, before, unattacked, attacked[0], reference[0] if reference else None, random_state)
    measure = MEASURES[criterion]
    items, best = _best(attacked, criterion)
    plain = unattacked.per_item[criterion].at(items.id)
    ends = mean_interval(best, bounds=measure.bounds, random_state=random_state)
    rise = paired_test(best, plain, bounds=measure.bounds, random_state=random_state).difference
    gap, value = None, None
    if reference and criterion in reference[0].per_item:
        theirs = _best(reference, criterion)[1]
        gap = paired_test(best, theirs, bounds=measure.bounds, random_state=random_state).difference
        value = float(theirs.mean())
    known = _mean_at(before, criterion, items.id)
    return AttackRow(
        kind, criterion, known, float(plain.mean()), ends.value, (ends.low, ends.high), value,
        (rise.value, rise.low, rise.high), None if gap is None else (gap.value, gap.low, gap.high), len(best),
    )  # fmt: skip


def _best(reports: Sequence[SixWayReport], criterion: str) -> tuple[Items, np.ndarray]:
    first = reports[0].per_item[criterion]
    return first, np.max([report.per_item[criterion].at(first.id) for report in reports], axis=0)


def _mean_at(report: SixWayReport | None, criterion: str, ids: Sequence[Any]) -> float | None:
    """Mean over these items of a report that has them all."""
    if report is None or criterion not in report.per_item or not set(ids) <= set(report.per_item[criterion].id):
        return None
    return float(report.per_item[criterion].at(list(ids)).mean())


def _leak_row(
    kind: str,
    before: SixWayReport | None,
    unattacked: SixWayReport,
    attacked: SixWayReport,
    reference: SixWayReport | None,
    random_state: int,
) -> AttackRow:
    def turned(one: SixWayReport, other: SixWayReport) -> tuple[float, float, float]:
        difference = auc_test(_scores(one), _scores(other), random_state=random_state).difference
        return -difference.value, -difference.high, -difference.low

    ends = attacked.intervals["privleak"]
    same = before is not None and before.per_item.get("privleak") is not None
    known = None
    if same and before is not None and before.per_item["privleak"].id == attacked.per_item["privleak"].id:
        known = before.values.get("privleak")
    return AttackRow(
        kind, "privleak", known, unattacked.values["privleak"], attacked.values["privleak"],
        (ends.low if math.isfinite(ends.low) else ends.value, ends.high if math.isfinite(ends.high) else ends.value),
        None if reference is None else 0.0, turned(attacked, unattacked),
        None if reference is None else turned(attacked, reference), len(attacked.per_item["privleak"]),
    )  # fmt: skip


def _scores(report: SixWayReport) -> tuple[np.ndarray, np.ndarray]:
    return report.per_item["privleak"].score, report.per_item["privleak_holdout"].score
