"""What does a cell or a terminal print of an audit? Tables as HTML without script, and the same as text."""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections.abc import Iterable, Sequence
from html import escape

from datumwise.report.page import CELL, clip, count, figure, percent, range_of
from datumwise.report.result import Audit, Evidence, Finding, Interval, Proof, ProofCard
from datumwise.report.sprite import PIXEL_ART, thumbnail
from datumwise.report.verdict import signed

__all__ = ["audit_html", "audit_text", "findings_html", "findings_text", "proof_html", "proof_text"]

WIDTH = 80  # columns of the text
WORST = 6  # datapoints shown
SHAPES = ("○", "■", "▲", "◆", "✕", "★", "⬢", "▼")

# inherited colours only, so that every notebook theme keeps its own
_STYLE = """<style>
.datumwise{font:13px/1.45 system-ui,sans-serif;font-variant-numeric:tabular-nums;max-width:820px}
.datumwise table{border-collapse:collapse;margin:6px 0;color:inherit;font:inherit}
.datumwise :is(th,td){text-align:left;padding:3px 14px 3px 0;border:0;background:none;vertical-align:middle;
border-bottom:1px solid color-mix(in srgb,currentColor 18%,transparent);overflow-wrap:break-word}
.datumwise .n{text-align:right;white-space:nowrap}
.datumwise small{opacity:.75}
.datumwise p{margin:4px 0}
.datumwise img{height:32px;vertical-align:middle;background:#fff}
.datumwise img.crisp{image-rendering:pixelated}
</style>"""


def audit_html(audit: Audit, page: str | None = None) -> str:
    """The verdict, the findings and, where the page was written, a link to it; never the page itself."""
    link = f'<p><a href="{escape(page)}">{escape(page)}</a></p>' if page else ""
    head = f"<p><strong>{_html(audit.verdict, 600)}</strong></p>"
    head += f"<p><small>{_html(audit.support, 1000)}</small></p>"
    return _box(head + _kinds_html(audit.findings) + link)


def findings_html(audit: Audit) -> str:
    """How many of each kind, and the worst six datapoints with their nearest three and *their* labels."""
    total = f"<p><strong>{count(len(audit.evidence), 'datapoint')}</strong> of {audit.n:,} with a finding</p>"
    worst = _worst(audit)
    if not worst:
        return _box(total + _kinds_html(audit.findings))
    titles = {finding.key: finding for finding in audit.findings}
    rows = "".join(
        "<tr>"
        f"<td>{_datapoint_html(audit, item.row)}</td><td><code>{_html(item.id)}</code></td>"
        f"<td>{', '.join(_kind_html(titles[kind]) for kind in item.kinds if kind in titles)}</td>"
        f"<td>{_change_html(item)}</td>"
        f"<td class=n>{'' if math.isnan(item.p_given) else f'{item.p_given:.3f}'}</td>"
        f"<td>{_near_html(audit, item)}</td></tr>"
        for item in worst
    )
    head = "".join(f"<th>{name}</th>" for name in ("", "id", "finding", "label", "p(given)", "nearest three"))
    return _box(f"{total}<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>")


def proof_html(proof: Proof) -> str:
    """Three intervals a learner, the tag, and the difference that decides it."""
    if not proof.cards:
        return _box(f"<p>Nothing was proved: {_html(proof.why_none or 'no learner was trained', 600)}</p>")
    low, high = _ends(proof.cards)
    parts = [f"<p>held-out {escape(proof.metric)} on {count(proof.held_out, 'datapoint')}, 95% interval</p>"]
    for card in proof.cards:
        rows = "".join(
            f"<tr><td>{_html(row.name)}</td><td class=n>{row.n:,}</td><td>{_spark(row.score, low, high)}</td>"
            f"<td class=n><strong>{figure(row.score.value, proof.metric)}</strong></td>"
            f"<td><small>{_inner(row.score, proof)}</small></td></tr>"
            for row in card.rows
        )
        parts.append(
            f"<p><strong>{_html(card.learner)}</strong>: {_html(card.verdict)}, "
            f"cleaned − random {signed(card.cleaned_minus_random.value, proof.metric)}{_unit(proof)} "
            f"({range_of(card.cleaned_minus_random, proof.metric)})</p><table><tbody>{rows}</tbody></table>"
        )
    return _box("".join(parts))


def audit_text(audit: Audit) -> str:
    """The terminal's summary: the verdict, the findings, the proof."""
    classes = f", {count(len(audit.map.classes), 'class', 'classes')}" if audit.map.classes else ""
    head = f"datumwise audit  {clip(audit.name, 40)}: {count(audit.n, 'datapoint')}{classes}"
    verdict = textwrap.fill(clip(audit.verdict, 600), WIDTH)
    return "\n\n".join([head, verdict, findings_text(audit), proof_text(audit.proof)])


def findings_text(audit: Audit) -> str:
    """A line a kind: how many were found, how many had been planted and found, and the worst of them.

    Ids and names are never cut; the last column wraps.
    """
    if not audit.findings:
        return "  no kind of finding could be looked for"
    planted = any(finding.planted for finding in audit.findings)
    table = [["finding", "found", *(["planted", "right"] if planted else []), "worst"]]
    for finding in audit.findings:
        truth = finding.planted
        told = [] if not planted else [f"{truth.planted:,}", f"{truth.right:,}"] if truth else ["-", "-"]
        table.append([_named(finding), f"{finding.count:,}", *told, _worst_of(audit, finding)])
    return _columns(table, left=(0, len(table[0]) - 1))


def proof_text(proof: Proof) -> str:
    """Every learner's three rows with their intervals, and the difference that decides."""
    if not proof.cards:
        why = clip(proof.why_none, 600) or "no learner was trained"
        return textwrap.fill(f"Proof   nothing was proved: {why}", WIDTH, initial_indent="  ", subsequent_indent="    ")
    lines: list[str] = []
    for card in sorted(proof.cards, key=lambda card: not card.primary):
        lead = "Proof   held-out" if not lines else "        held-out"
        lines.append(
            f"  {lead} {proof.metric} on {count(proof.held_out, 'datapoint')}, 95% interval, {clip(card.learner, CELL)}"
        )
        for row in card.rows:
            value = figure(row.score.value, proof.metric)
            lines.append(f"    {row.name:<8} {row.n:>9,}  {value:>6}  [{_inner(row.score, proof)}]")
        difference = card.cleaned_minus_random
        lines.append(
            f"    cleaned - random   {signed(difference.value, proof.metric)}{_unit(proof)}  "
            f"[{signed(difference.low, proof.metric)}, {signed(difference.high, proof.metric)}]   {card.verdict}"
        )
    return "\n".join(lines)


def _inner(interval: Interval, proof: Proof) -> str:
    ends = (figure(end, proof.metric).removesuffix("%") for end in (interval.low, interval.high))
    return ", ".join(ends)


def _unit(proof: Proof) -> str:
    return " points" if proof.metric == "accuracy" else ""


def _named(finding: Finding) -> str:
    title = finding.title.removesuffix("s") if finding.title.endswith(("errors", "duplicates", "outliers")) else finding.title
    return f"{title}, {finding.detail}" if finding.detail in ("kept",) else title


def _worst_of(audit: Audit, finding: Finding) -> str:
    of_kind = [item for item in audit.evidence if item.kinds[:1] == (finding.key,)]
    if not of_kind:
        return ""
    worst = max(of_kind, key=_rank)
    return f"{clip(worst.id, CELL)}  {clip(worst.sentence)}"


def _rank(item: Evidence) -> float:
    return item.suspicion if math.isfinite(item.suspicion) else -math.inf


def _worst(audit: Audit) -> list[Evidence]:
    return sorted(audit.evidence, key=_rank, reverse=True)[:WORST]


def _columns(table: Sequence[Sequence[str]], *, left: Iterable[int]) -> str:
    """A table of text, two spaces between columns; the last column wraps under itself at :data:`WIDTH`."""
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]) - 1)]
    lines = []
    for row in table:
        cells = [cell.ljust(w) if i in left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=False))]
        start = "  " + "  ".join(cells) + "  "
        rest = textwrap.wrap(row[-1], max(20, WIDTH - len(start)), break_long_words=False) or [""]
        lines.append((start + rest[0]).rstrip())
        lines += [" " * len(start) + more for more in rest[1:]]
    return "\n".join(lines)


def _box(inner: str) -> str:
    return f'<div class="datumwise">{_STYLE}{inner}</div>'


def _html(text: str, limit: int = CELL) -> str:
    return f"<bdi>{escape(clip(text, limit))}</bdi>"


def _kind_html(finding: Finding) -> str:
    from datumwise.report.charts import glyphs

    return f"{SHAPES[glyphs([finding])[0]]} {escape(clip(_named(finding), 60))}"


def _kinds_html(findings: Sequence[Finding]) -> str:
    planted = any(finding.planted for finding in findings)
    head = ["finding", "found", *(["planted", "right", "precision", "recall"] if planted else [])]
    rows = []
    for finding in findings:
        truth = finding.planted
        told = [truth.planted, truth.right] if truth else ["–", "–"]
        rates = [percent(truth.precision), percent(truth.recall)] if truth else ["–", "–"]
        figures = [finding.count, *([*told, *rates] if planted else [])]
        cells = "".join(
            f"<td class=n>{value:,}</td>" if isinstance(value, int) else f"<td class=n>{value}</td>" for value in figures
        )
        rows.append(f"<tr><td>{_kind_html(finding)}</td>{cells}</tr>")
    titles = "".join(f"<th{' class=n' if i else ''}>{name}</th>" for i, name in enumerate(head))
    return f"<table><thead><tr>{titles}</tr></thead><tbody>{''.join(rows)}</tbody></table>" if findings else ""


def _datapoint_html(audit: Audit, row: int) -> str:
    """The picture, else the beginning of the text, else the three most unusual cells."""
    if audit.picture is not None:
        return _picture_html(audit, row)
    if audit.text is not None:
        return _html(audit.text(row) or "", 90)
    if audit.cells is not None:
        return "<br>".join(f"{_html(name, 30)} <strong>{_html(value, 30)}</strong>" for name, value, _ in audit.cells(row)[:3])
    return ""


def _picture_html(audit: Audit, row: int) -> str:
    assert audit.picture is not None
    try:
        image = audit.picture(row)
    except OSError:
        image = None
    if image is None:
        return ""
    small = thumbnail(image)
    file = io.BytesIO()
    small.save(file, "PNG")
    kind = " class=crisp" if max(small.size) <= PIXEL_ART else ""
    source = base64.b64encode(file.getvalue()).decode("ascii")
    return f'<img{kind} alt="picture of row {row}" src="data:image/png;base64,{source}">'


def _change_html(item: Evidence) -> str:
    if item.given is None:
        return ""
    if item.suggested is None:
        return _html(item.given)
    return f"<s>{_html(item.given)}</s> → <strong>{_html(item.suggested)}</strong>"


def _near_html(audit: Audit, item: Evidence) -> str:
    parts = []
    for row in item.neighbours[:3]:
        code = int(audit.map.labels[row])
        label = audit.map.classes[code] if 0 <= code < len(audit.map.classes) else str(audit.map.ids[row])
        shown = _picture_html(audit, row) if audit.picture is not None else ""
        parts.append(f"{shown} {_html(label, 30)}")
    return " &nbsp; ".join(parts)


def _ends(cards: Sequence[ProofCard]) -> tuple[float, float]:
    from datumwise.report.charts import interval_axis

    return interval_axis(cards)


def _spark(interval: Interval, low: float, high: float) -> str:
    """Point and interval as a 160 x 14 px drawing in the colour of the text."""
    if not all(map(math.isfinite, (interval.low, interval.value, interval.high))):
        return ""
    left, middle, right = (8 + 144 * (v - low) / (high - low) for v in (interval.low, interval.value, interval.high))
    return (
        '<svg width="160" height="14" viewBox="0 0 160 14" role="img" aria-label="interval">'
        f'<path d="M{left:.1f} 7H{right:.1f}" stroke="currentColor" stroke-width="2.5" opacity=".55"/>'
        f'<circle cx="{middle:.1f}" cy="7" r="4.5" fill="currentColor"/></svg>'
    )
