"""From reports of a model before and after a removal to its certificate: criteria, datapoints, notes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from datumwise.evaluate.certificate import Certificate
from datumwise.evaluate.criterion import Criterion, Datapoint, Goal
from datumwise.evaluate.six_way_report import MEASURES, SixWayReport

if TYPE_CHECKING:
    from datumwise.evaluate.attack_report import AttackReport

__all__ = ["certify", "criteria_of", "datapoints_of"]

SAID: Mapping[str, tuple[str, Goal, str]] = {  # measure -> name, goal, how a figure is written
    "verbmem": ("verbatim recall", "forget", ".2f"),
    "knowmem": ("knowledge", "forget", ".2f"),
    "privleak": ("privacy leakage", "zero", "+.1f"),
    "nll_forget": ("loss on what was forgotten", "forget high", ".2f"),
    "utility": ("knowledge kept", "keep high", ".2f"),
    "retain_verbmem": ("kept texts recited", "keep high", ".2f"),
    "nll_retain": ("loss on what was kept", "keep low", ".2f"),
    "nll_holdout": ("held-out loss", "keep low", ".2f"),
}
OF_DATAPOINTS = {"verbmem": "verbatim recall", "nll_forget": "loss"}
RECALL_MARGIN = 0.1  # ROUGE-L above the model that never saw it, up to which a datapoint counts as forgotten
LOSS_MARGIN = 0.1  # share of the loss below that model's, likewise


def certify(
    request: str,
    ids: Iterable[Any],
    before: SixWayReport,
    after: SixWayReport,
    reference: SixWayReport | None = None,
    *,
    method: str,
    attacks: AttackReport | None = None,
    exact: bool = False,
    options: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
    not_tested: Sequence[str] = (),
    ledger: str = "",
    ledger_version: int | None = None,
    data: str = "",
    seconds: float | None = None,
) -> Certificate:
    """The certificate of a removal whose model was measured before and after it.

    Parameters
    ----------
    request : str
        What was asked, in the asker's words.
    ids : iterable
        The datapoints.
    before, after, reference : SixWayReport
        On the same data; the reference is of a model that never saw the datapoints.
    attacks : AttackReport, optional
        Of the model after the removal.
    method, exact, options, notes, not_tested, ledger, ledger_version, data, seconds
        See `Certificate`.

    Returns
    -------
    Certificate

    Raises
    ------
    EmptyData, DuplicateId
    """
    names = [str(i) for i in ids]
    missing = [f"{SAID[name][0]} ({why})" for name, why in after.missing.items() if name in SAID]
    told = list(dict.fromkeys([*notes, *after.notes, *(attacks.notes() if attacks is not None else ())]))
    if attacks is not None and not attacks.attacked_reference:
        told.append("no model that never saw them was attacked: part of what an attack brings may be no memory")
    return Certificate.of(
        request,
        names,
        method=method,
        model_before=before.model,
        model_after=after.model,
        model_reference=None if reference is None else reference.model,
        exact=exact,
        options=options,
        criteria=criteria_of(before, after, reference),
        attacks=attacks.criteria() if attacks is not None else (),
        datapoints=datapoints_of(names, before, after, reference),
        notes=told,
        not_tested=[*missing, *not_tested],
        ledger=ledger,
        ledger_version=ledger_version,
        data=data,
        seconds=seconds,
    )


def criteria_of(before: SixWayReport, after: SixWayReport, reference: SixWayReport | None = None) -> list[Criterion]:
    """Every measure that the report after the removal has, judged by paired intervals where the items are the same.

    ROUGE-L is written as a share, 0 to 1. The privacy leakage of the reference is 0 where there is one: it is what the others
    are measured against.
    """
    changes, gaps = _differences(after, before), _differences(after, reference)
    found = []
    for name, (said, goal, form) in SAID.items():
        if name not in after.values:
            continue
        scale = MEASURES[name].scale
        ends = after.intervals[name]
        known = [None if one is None else one.values.get(name) for one in (before, after, reference)]
        first, last, never = (None if value is None else value / scale for value in known)
        note = ""
        if name == "privleak":
            never = None if reference is None else 0.0
            if after.reference is not None and after.reference.kind == "split holdout":
                note = "measured against an AUC of 0.5, for want of a model that never saw them"
        found.append(
            Criterion(
                said,
                first,
                last,
                never,
                (ends.low / scale, ends.high / scale),
                goal=goal,
                n=len(after.per_item[name]),
                form=form,
                gap=None if name == "privleak" else gaps.get(name),
                change=None if name == "privleak" else changes.get(name),
                note=note,
            )
        )
    return found


def datapoints_of(
    ids: Iterable[Any], before: SixWayReport, after: SixWayReport, reference: SixWayReport | None = None
) -> list[Datapoint]:
    """Recall and loss of each datapoint of a request, as far as the reports have items of that id.

    With a reference, "forgotten" says that it is recited at most 0.1 more (ROUGE-L) and that its loss is at most a tenth lower
    than on the model that never saw it; "still recalled" or "still likely" says what not. Without one nothing is judged: how
    well a text can be guessed differs from text to text.
    """
    tables = [{said: _by_id(one, name) for name, said in OF_DATAPOINTS.items()} for one in (before, after, reference)]
    found = []
    for i in map(str, ids):
        first, last, never = ({said: rows[i] for said, rows in table.items() if i in rows} for table in tables)
        if last:
            found.append(Datapoint(i, first, last, never, _forgotten(last, never)))
    return found


def _forgotten(after: Mapping[str, float], never: Mapping[str, float]) -> str:
    shared = [name for name in after if name in never]
    if not shared:
        return ""
    if "verbatim recall" in shared and after["verbatim recall"] > never["verbatim recall"] + RECALL_MARGIN:
        return "still recalled"
    if "loss" in shared and after["loss"] < (1 - LOSS_MARGIN) * never["loss"]:
        return "still likely"
    return "forgotten"


def _by_id(report: SixWayReport | None, name: str) -> dict[str, float]:
    if report is None or name not in report.per_item:
        return {}
    items = report.per_item[name]
    return {str(i): float(score) for i, score in zip(items.id, items.score, strict=True)}


def _differences(after: SixWayReport, other: SixWayReport | None) -> dict[str, tuple[float, float]]:
    """95 % of after minus other, in the criterion's own unit."""
    if other is None:
        return {}
    return {
        one.criterion: (
            one.test.difference.low / MEASURES[one.criterion].scale,
            one.test.difference.high / MEASURES[one.criterion].scale,
        )
        for one in after.compare(other)
    }
