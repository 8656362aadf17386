"""An audit on a terminal: verdict, findings, proof, and where the rest is."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datumwise.cli.stages import StageLines
from datumwise.cli.terminal import Line, Surface, columns, table, wrapped

if TYPE_CHECKING:
    from datumwise.evaluate.batch_coverage import Promise
    from datumwise.evaluate.forget_test import ForgetTest
    from datumwise.evaluate.removal import Interval, Proof, ProofCard
    from datumwise.report.result import Audit, Evidence, Finding

__all__ = ["audit_facts", "shown_path", "summary"]

MINUS = "−"
LISTED = 1_000  # datapoints of evidence in the --json document
UNITS = {"images": "pictures", "text": "texts", "table": "rows"}


def summary(audit: Audit, to: Surface, *, page: Path | None, checks: Sequence[str], stages: bool) -> list[str | Line]:
    """The audit in lines.

    Parameters
    ----------
    audit : Audit
    to : Surface
        Its width wraps the last column of the table and the sentences; a pipe wraps nothing.
    page : Path or None
        The HTML page, when one was written.
    checks : sequence of str
        Sentences about ``--fail-on``.
    stages : bool
        Head and stage lines too: where they were not shown already on the same terminal.
    """
    lines: list[str | Line] = []
    if stages:
        lines += [f"datumwise audit  {_head(audit)}", "", *_stages(audit, to)]
    lines.append("")
    lines += [Line(part, "bold") for part in _field("", audit.verdict, to)]
    lines += ["", *_findings(audit, to), ""]
    lines += _proof(audit.proof, to)
    if audit.promise is not None:
        lines += ["", *_promise(audit.promise, to)]
    if audit.forget is not None:
        lines += ["", *_forget(audit.forget, to)]
    lines.append("")
    lines += [f"  {'check':<7} {check}" for check in checks]
    for one in audit.chosen:
        how = f"{one.name}: {one.n:,} of {one.of:,} by {one.method.replace('_', ' ')}. {one.sentence}"
        lines += _field("chosen", how.strip(), to)
    if audit.refused:
        some = ", ".join(f"{id} ({why})" for id, why in list(audit.refused.items())[:3])
        more = f" and {len(audit.refused) - 3:,} more" if len(audit.refused) > 3 else ""
        lines += _field("left out", f"{len(audit.refused):,} could not be read: {some}{more}", to)
    if page is not None:
        lines.append(f"  {'report':<7} {shown_path(page)} ({_size(page)})")
    lines.append(f"  {'ledger':<7} {shown_path(audit.ledger)} (version {audit.version})")
    worst = audit.evidence[0].id if audit.evidence else ""
    lines.append(f"  {'next':<7} datumwise show {_word(shown_path(audit.ledger))} {_word(worst)}".rstrip())
    return lines


def _head(audit: Audit) -> str:
    unit = UNITS.get(audit.kind, "datapoints")
    classes = f", {len(audit.map.classes)} classes" if audit.map.classes else ""
    planted = ", faults planted" if any(f.planted for f in audit.findings) else ""
    return f"{audit.name}: {audit.n:,} {unit}{classes}{planted}"


def _stages(audit: Audit, to: Surface) -> list[str | Line]:
    lines = StageLines(to)
    return [line for p in audit.passes for line in lines.line(p.stage, p.what, p.seconds)]


def _findings(audit: Audit, to: Surface) -> list[str]:
    planted = any(finding.planted is not None for finding in audit.findings)
    header = ["finding", "found", *(["planted", "right"] if planted else []), "worst"]
    rows = []
    for finding in audit.findings:
        truth = finding.planted
        counted = [f"{truth.planted:,}", f"{truth.right:,}"] if truth else [None, None]
        rows.append([_title(finding), f"{finding.count:,}", *(counted if planted else []), _worst(finding, audit)])
    return table(header, rows, right=["found", "planted", "right"], width=to.width)


def _title(finding: Finding) -> str:
    name = finding.key.replace("_", " ")
    return f"{name}, kept" if finding.count and not finding.removed else name


def _worst(finding: Finding, audit: Audit) -> str:
    """The most suspicious datapoint of a kind: its own kind first, then those that carry another too."""
    own: Evidence | None = next((e for e in audit.evidence if e.kinds and e.kinds[0] == finding.key), None)
    shared = next((e for e in audit.evidence if finding.key in e.kinds), None)
    found = own or shared
    if found is None:
        return finding.detail if finding.count and finding.detail not in ("", "kept") else "-"
    detail = f", {finding.detail}" if finding.detail not in ("", "kept") else ""
    return f"{found.id}  {found.sentence.rstrip('.')}{detail}"


def _proof(proof: Proof, to: Surface) -> list[str | Line]:
    primary = proof.primary
    if primary is None:
        return list(_field("Proof", proof.why_none, to))
    head = f"held-out {proof.metric} on {proof.held_out:,} datapoints, 95% interval, {primary.learner}"
    lines: list[str | Line] = list(_field("Proof", head, to))
    rows = [(row.name, f"{row.n:,}", _level(row.score.value, proof), _range(row.score, proof)) for row in primary.rows]
    widths = [max(columns(row[i]) for row in rows) for i in range(3)]
    for name, n, level, interval in rows:
        lines.append(f"    {name:<{max(widths[0], 9)}}  {n:>{widths[1]}}   {level:>{widths[2]}}  {interval}")
    change = primary.cleaned_minus_random
    sign = _minus("cleaned - random", to)
    front = f"    {sign}   {_difference(change, proof, to)}"
    verdict = f"   {primary.verdict}"
    if to.width is not None and columns(front + verdict) > to.width:
        lines += [front, f"       {primary.verdict}"]
    else:
        lines.append(front + verdict)
    for card in proof.cards:
        if not card.primary:
            lines += _field("", _other(card, proof, to), to, start=4)
    return lines


def _promise(promise: Promise, to: Surface) -> list[str | Line]:
    """The head, then a line a promise: how often it was made and how often it was kept."""
    what = "sets of classes" if promise.task == "classification" else "intervals"
    head = f"{what} around {promise.learner}, on {promise.tested:,} held-out datapoints, 95% interval"
    lines: list[str | Line] = list(_field("Promise", head, to))
    rows = [(f"each datapoint, {row.promised:.0%}", row) for row in promise.points]
    rows += [(f"{row.least} of a batch of {promise.batch}, {row.promised:.0%}", row) for row in promise.batches]
    width = max(columns(name) for name, _ in rows)
    for name, row in rows:
        low, high = (f"{100 * end:.1f}" for end in (row.measured.low, row.measured.high))
        lines.append(f"    {name:<{width}}  {100 * row.measured.value:5.1f}% kept  [{low}, {high}]   {promise.size_of(row)}")
    return lines


def _forget(test: ForgetTest, to: Surface) -> list[str | Line]:
    """The head, then what is recalled of the forgotten and kept of the rest: before, after, never saw them."""
    if test.why_none:
        return list(_field("Forget", test.why_none, to))
    head = f"{test.forgotten:,} datapoints, {test.learner}, {test.method}, beside one that never saw them"
    lines: list[str | Line] = list(_field("Forget", head, to))

    def said(value: float) -> str:
        return f"{100 * value:.1f}%" if test.metric == "accuracy" else f"{value:.3f}"

    what = "recalled" if test.metric == "accuracy" else "R² on them"
    rows = [(row.name, said(row.recalled.value), said(row.held_out.value)) for row in test.rows]
    widths = [max(columns(row[i]) for row in rows) for i in range(3)]
    for name, recalled, held in rows:
        lines.append(f"    {name:<{widths[0]}}  {what} {recalled:>{widths[1]}}   held-out {test.metric} {held:>{widths[2]}}")
    return lines


def _other(card: ProofCard, proof: Proof, to: Surface) -> str:
    change = _difference(card.cleaned_minus_random, proof, to).replace("  ", " ")
    return f"with {card.learner}: {change}, {card.verdict}"


def _level(value: float, proof: Proof) -> str:
    return f"{100 * value:.1f}%" if proof.metric == "accuracy" else f"{value:.3f}"


def _range(interval: Interval, proof: Proof) -> str:
    if proof.metric == "accuracy":
        return f"[{100 * interval.low:.1f}, {100 * interval.high:.1f}]"
    return f"[{interval.low:.3f}, {interval.high:.3f}]"


def _difference(interval: Interval, proof: Proof, to: Surface) -> str:
    if proof.metric == "accuracy":
        said = [f"{100 * v + 0.0:+.1f}" for v in (interval.value, interval.low, interval.high)]
        unit = " points"
    else:
        said = [f"{v + 0.0:+.3f}" for v in (interval.value, interval.low, interval.high)]
        unit = ""
    said = ["+0.0" if s == "-0.0" else "+0.000" if s == "-0.000" else s for s in said]
    return _minus(f"{said[0]}{unit}  [{said[1]}, {said[2]}]", to)


def _minus(text: str, to: Surface) -> str:
    return text.replace("-", to.symbols.minus)


def _field(word: str, text: str, to: Surface, *, start: int = 2) -> list[str]:
    front = " " * start + (f"{word:<7} " if word else "")
    room = None if to.width is None else max(to.width - len(front), 16)
    parts = wrapped(text, room)
    return [front + parts[0], *(" " * len(front) + part for part in parts[1:])]


def shown_path(path: Path) -> str:
    """A path as people would type it here.

    Examples
    --------
    >>> shown_path(Path.cwd() / "a.ledger")
    'a.ledger'
    """
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


def _word(text: str) -> str:
    import shlex

    return shlex.quote(text) if text else ""


def _size(path: Path) -> str:
    size = os.path.getsize(path)
    return f"{size / 1e6:.1f} MB" if size >= 100_000 else f"{size / 1e3:.0f} kB"


def audit_facts(audit: Audit, *, page: Path | None, checks: Sequence[Any]) -> dict[str, Any]:
    """The audit as fields of a ``--json`` document."""
    return {
        "command": "audit",
        "name": audit.name,
        "kind": audit.kind,
        "rows": audit.n,
        "classes": list(audit.map.classes),
        "ledger": audit.ledger,
        "version": audit.version,
        "created": audit.created,
        "seconds": audit.seconds,
        "cores": audit.cores,
        "repeat": audit.command,
        "verdict": audit.verdict,
        "support": audit.support,
        "findings": [
            {
                "key": f.key,
                "title": f.title,
                "count": f.count,
                "removed": f.removed,
                "score": f.score,
                "threshold": f.threshold,
                "rule": f.rule,
                "method": f.method,
                "reads": f.reads,
                "source": f.source,
                "detail": f.detail,
                "planted": None if f.planted is None else {"planted": f.planted.planted, "right": f.planted.right},
            }
            for f in audit.findings
        ],
        "scores": [
            {k: getattr(s, k) for k in ("name", "method", "higher", "source", "computed", "low", "median", "high")}
            for s in audit.scores
        ],
        "selections": [
            {k: getattr(c, k) for k in ("name", "method", "options", "source", "n", "of", "sentence")} for c in audit.chosen
        ],
        "proof": _proof_facts(audit.proof),
        "promise": None if audit.promise is None else audit.promise.as_dict(),
        "forget": None if audit.forget is None else audit.forget.as_dict(),
        "evidence": [
            {
                "id": e.id,
                "kinds": list(e.kinds),
                "given": e.given,
                "suggested": e.suggested,
                "sentence": e.sentence,
                "neighbours": [str(audit.map.ids[row]) for row in e.neighbours],
                "p_given": e.p_given,
                "suspicion": e.suspicion,
            }
            for e in audit.evidence[:LISTED]
        ],
        "unreadable": dict(audit.refused),
        "passes": [{"stage": p.stage, "what": p.what, "seconds": p.seconds} for p in audit.passes],
        "limits": list(audit.limits),
        "versions": dict(audit.versions),
        "page": page,
        "checks": list(checks),
    }


def _proof_facts(proof: Proof) -> dict[str, Any]:
    return {
        "metric": proof.metric,
        "held_out": proof.held_out,
        "removed": proof.removed,
        "why_none": proof.why_none,
        "learners": [
            {
                "learner": card.learner,
                "primary": card.primary,
                "verdict": card.verdict,
                "smallest_gain": card.smallest_gain,
                "cleaned_minus_random": _interval(card.cleaned_minus_random),
                "cleaned_minus_all": _interval(card.cleaned_minus_all),
                "rows": [{"name": row.name, "n": row.n, **_interval(row.score)} for row in card.rows],
            }
            for card in proof.cards
        ],
    }


def _interval(interval: Interval) -> dict[str, float]:
    return {"value": interval.value, "low": interval.low, "high": interval.high}
