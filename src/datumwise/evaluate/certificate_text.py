"""A certificate as a terminal, a Markdown file and a notebook print it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datumwise.evaluate.certificate import Certificate
    from datumwise.evaluate.criterion import Criterion, Datapoint

__all__ = ["as_html", "as_markdown", "as_table", "measured_names", "worst_first"]

SHOWN = 100  # datapoints of a Markdown file
HEADS = ("before", "after", "never saw", "verdict")
_MARKDOWN = str.maketrans({c: f"\\{c}" for c in r"\|*_`[]<>#"})


def as_table(criteria: Sequence[Criterion], *, ascii_only: bool = False) -> str:
    """One line a criterion, names and figures never cut, the verdict last."""
    rows = [(c.name, c.figure(c.before), c.figure(c.after), c.figure(c.reference), c.verdict) for c in criteria]
    widths = [max([0, *(len(row[0]) for row in rows)])]
    widths += [max(len(HEADS[i]), *(len(row[i + 1]) for row in rows)) for i in range(3)]
    lines = [("", *HEADS), *rows]
    text = "\n".join(
        f"  {name:<{widths[0]}}   {before:>{widths[1]}}   {after:>{widths[2]}}   {reference:>{widths[3]}}   {verdict}".rstrip()
        for name, before, after, reference, verdict in lines
    )
    return text.replace("−", "-").replace("–", "-") if ascii_only else text


def worst_first(datapoints: Sequence[Datapoint]) -> list[Datapoint]:
    """Those that are not forgotten, then those that nothing was said of, then the others, each as they came."""
    rank = {"forgotten": 2, "": 1}
    return sorted(datapoints, key=lambda one: rank.get(one.verdict, 0))


def measured_names(datapoints: Sequence[Datapoint]) -> list[str]:
    """What was measured of any of them, in order of appearance."""
    return list(dict.fromkeys(name for one in datapoints for name in (*one.before, *one.after, *one.reference)))


def as_markdown(card: Certificate) -> str:
    """Every part of the record under a heading of its own."""
    words = lambda text: str(text).translate(_MARKDOWN).replace("\n", " ")  # noqa: E731
    ledger = f"{words(card.ledger)}, version {card.ledger_version}" if card.ledger else "none"
    parts = [
        f"# Certificate of removal\n\n{words(card.request)}",
        f"{card.standing} {card.verdict}",
        "| what | |\n| --- | --- |\n"
        + "\n".join(
            f"| {key} | {value} |"
            for key, value in (
                ("datapoints", f"{card.n_ids:,}"),
                ("SHA-256 of the sorted ids", f"`{card.ids_sha256}`"),
                ("ledger", ledger),
                ("method", words(card.method)),
                ("options", ", ".join(f"{words(k)} {words(v)}" for k, v in card.options.items()) or "defaults"),
                ("model before", f"`{card.model_before}`"),
                ("model after", f"`{card.model_after}`"),
                ("model that never saw them", f"`{card.model_reference}`" if card.model_reference else "none"),
                ("seconds", "–" if card.seconds is None else f"{card.seconds:,.1f}"),
                ("created", card.created),
            )
        ),
        "## What was measured\n\n" + _criteria(card.criteria),
    ]
    if card.attacks:
        parts.append("## Measured again under attack\n\n" + _criteria(card.attacks))
    parts.append("## What was traded\n\n" + (_list(card.traded) or "Nothing that was measured."))
    parts.append("## What was not tested\n\n" + (_list(card.not_tested) or "Nothing of what this package can test."))
    if card.data:
        parts.append(f"## The data\n\n{words(card.data)}")
    if card.notes:
        parts.append("## Notes\n\n" + _list(card.notes))
    if card.datapoints:
        parts.append(f"## Datapoints\n\n{_datapoints(card.datapoints)}")
    parts.append("Versions: " + ", ".join(f"{name} {version}" for name, version in card.versions.items()))
    return "\n\n".join(parts) + "\n"


def as_html(card: Certificate) -> str:
    """A small table for a notebook: colours are the notebook's own, no script."""
    rows = "".join(
        f"<tr><td>{escape(c.name)}</td>"
        + "".join(f"<td style='text-align:right'>{c.figure(v)}</td>" for v in (c.before, c.after, c.reference))
        + f"<td style='text-align:left'>{escape(c.verdict)}</td></tr>"
        for c in [*card.criteria, *card.attacks]
    )
    heads = "".join(f"<th>{head}</th>" for head in ("", *HEADS))
    return (
        f"<div><p><strong>{card.n_ids:,} datapoints, {escape(card.method)}</strong><br>{escape(card.verdict)}</p>"
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>"
        f"<p><small>{escape(card.standing)}<br>SHA-256 of the ids {card.ids_sha256[:16]}…</small></p></div>"
    )


def _criteria(criteria: Sequence[Criterion]) -> str:
    lines = [
        "| criterion | before | after | 95 % | never saw | verdict | items |",
        "| --- | --: | --: | --: | --: | --- | --: |",
    ]
    for c in criteria:
        ends = "–" if c.interval is None else " to ".join(c.figure(end) for end in c.interval)
        name = c.name.translate(_MARKDOWN)
        n = "–" if c.n is None else f"{c.n:,}"
        figures = [c.figure(c.before), c.figure(c.after), ends, c.figure(c.reference)]
        lines.append(f"| {name} | {' | '.join(figures)} | {c.verdict.translate(_MARKDOWN)} | {n} |")
    notes = [f"{c.name}: {c.note}" for c in criteria if c.note]
    return "\n".join(lines) + ("\n\n" + _list(notes) if notes else "")


def _datapoints(datapoints: Sequence[Datapoint]) -> str:
    names = measured_names(datapoints)
    head = "| id | " + " | ".join(f"{name.translate(_MARKDOWN)} (before, after, never saw)" for name in names) + " | verdict |"
    lines = [head, "| --- |" + " ---: |" * len(names) + " --- |"]
    for one in worst_first(datapoints)[:SHOWN]:
        cells = [", ".join(_short(side.get(name)) for side in (one.before, one.after, one.reference)) for name in names]
        lines.append(f"| {one.id.translate(_MARKDOWN)} | {' | '.join(cells)} | {one.verdict or '–'} |")
    left = len(datapoints) - SHOWN
    return "\n".join(lines) + (f"\n\n{left:,} more in the JSON." if left > 0 else "")


def _short(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}".replace("-", "−")


def _list(items: Sequence[str]) -> str:
    return "\n".join(f"- {item.translate(_MARKDOWN)}" for item in items)
