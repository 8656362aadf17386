"""How a ledger shows itself: a row a column, as text of 80 columns or as HTML without a script."""

from __future__ import annotations

import html
import shutil
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.types as pat

from datumwise.ledger.read import to_numpy

if TYPE_CHECKING:
    from datumwise.ledger.ledger import Column, Ledger

__all__ = ["as_html", "as_text"]

WIDTH = 80  # characters
SAMPLE = 200_000  # rows that ranges are taken from; a larger ledger shows "~"
BINS = 16  # bars of a spark
NAME = 20  # characters; a longer name has a line of its own
SAMPLES = 4  # values shown of a column of text


@dataclass(frozen=True)
class Row:
    """What is shown of one column."""

    name: str
    kind: str
    values: str  # range or samples
    made_by: str
    counts: tuple[int, ...] = ()  # of a histogram, empty for text


def as_text(ledger: Ledger) -> str:
    """The table at 80 columns; names are never cut, a long one has a line of its own."""
    shown = rows(ledger)
    width = max(min(shutil.get_terminal_size((WIDTH, 24)).columns, WIDTH), 60)
    first = min(max([6, *(len(row.name) for row in shown)]), NAME) + 2
    second = max([4, *(len(row.kind) for row in shown)]) + 2
    third = (width - first - second) * 11 // 20
    last = width - first - second - third
    lines = [heading(ledger), "", f"{'column':<{first}}{'kind':<{second}}{'values':<{third}}made by"]
    for row in shown:
        values, made = textwrap.wrap(row.values, third - 2), textwrap.wrap(row.made_by, last)
        name = row.name
        if len(name) > NAME:
            lines.append(name)
            name = ""
        for i in range(max(len(values), len(made), 1)):
            head = f"{name:<{first}}{row.kind:<{second}}" if i == 0 else " " * (first + second)
            value, by = "".join(values[i : i + 1]), "".join(made[i : i + 1])
            lines.append(f"{head}{value:<{third}}{by}".rstrip())
    return "\n".join(lines)


def as_html(ledger: Ledger) -> str:
    """The same as HTML: inline style under one class, inherited colours, sparks in the text's colour."""
    body = "".join(
        f"<tr><td>{html.escape(row.name)}</td><td>{row.kind}</td>"
        f"<td>{_spark(row.counts)}{html.escape(row.values)}</td><td>{html.escape(row.made_by)}</td></tr>"
        for row in rows(ledger)
    )
    style = (
        ".dw-ledger{border-collapse:collapse;color:inherit;font-size:13px}"
        ".dw-ledger td,.dw-ledger th{padding:3px 12px 3px 0;text-align:left;vertical-align:top;"
        "border-bottom:1px solid currentColor;border-color:color-mix(in srgb,currentColor 15%,transparent)}"
        ".dw-ledger caption{text-align:left;padding:4px 0;font-weight:600}"
    )
    return (
        f"<style>{style}</style><table class='dw-ledger'><caption>{html.escape(heading(ledger))}</caption>"
        "<thead><tr><th scope='col'>column</th><th scope='col'>kind</th><th scope='col'>values</th>"
        f"<th scope='col'>made by</th></tr></thead><tbody>{body}</tbody></table>"
    )


def heading(ledger: Ledger) -> str:
    """Name, rows, version and size on the disk."""
    size = sum(file.stat().st_size for file in ledger.path.rglob("*") if file.is_file())
    n = len(ledger)
    return f"{ledger.name}: {n:,} row{'' if n == 1 else 's'}, version {ledger.version}, {_bytes(size)}"


def rows(ledger: Ledger) -> list[Row]:
    """What is shown of each column, in the ledger's order."""
    n = len(ledger)
    narrow = [c.name for c in ledger.columns if not (pat.is_nested(c.type) or _bytes_type(c.type))]
    table = ledger.table(columns=narrow, limit=SAMPLE)
    about = "~" if n > SAMPLE else ""
    roles = {
        name: role
        for role, names in ledger.roles.items()
        for name in ([names] if isinstance(names, str) else names)
        if role != "id"
    }
    return [_row(column, table, about, roles) for column in ledger.columns]


def _row(column: Column, table: pa.Table, about: str, roles: dict[str, str]) -> Row:
    kind = column.kind if column.name not in roles else f"given, {roles[column.name]}"
    made = _made_by(column)
    if column.name not in table.schema.names:
        return Row(column.name, kind, _shape(column.type), made)
    values = table[column.name]
    if pat.is_integer(column.type) or pat.is_floating(column.type):
        text, counts = _range(values, about)
    else:
        text, counts = _samples(values, about), ()
    nulls = values.null_count
    if nulls:
        text += f" ({about}{nulls:,} missing)"
    return Row(column.name, kind, text, made, counts)


def _made_by(column: Column) -> str:
    made = column.provenance
    if made is None:
        return ""
    parts = [made.method]
    if made.model:
        parts.append(f"model {made.model[:12]}")
    if made.seed is not None:
        parts.append(f"seed {made.seed}")
    if made.ledger_version is not None:
        parts.append(f"version {made.ledger_version}")
    return ", ".join(parts)


def _range(values: pa.ChunkedArray, about: str) -> tuple[str, tuple[int, ...]]:
    numbers = to_numpy(values).astype(np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers):
        return "no value", ()
    low, high = numbers.min(), numbers.max()
    text = f"{about}{low:.4g} to {about}{high:.4g}" if high > low else f"{about}{low:.4g}"
    return text, tuple(np.histogram(numbers, bins=BINS)[0].tolist()) if high > low else ()


def _samples(values: pa.ChunkedArray, about: str) -> str:
    if pat.is_boolean(values.type):
        return f"{about}{pc.sum(values).as_py() or 0:,} true"
    counted = pc.value_counts(values.slice(0, 10_000).drop_null())
    order = np.argsort(-counted.field("counts").to_numpy(), kind="stable")[:SAMPLES]
    some = [str(counted.field("values")[int(i)].as_py()) for i in order]
    short = [one if len(one) <= 16 else one[:15] + "…" for one in some]
    return ", ".join(" ".join(one.split()) for one in short) + (", …" if len(counted) > SAMPLES else "")


def _shape(kind: pa.DataType) -> str:
    if pat.is_fixed_size_list(kind):
        return f"{kind.list_size} × {kind.value_type}"
    return "bytes" if _bytes_type(kind) else "lists" if pat.is_list(kind) or pat.is_large_list(kind) else "records"


def _spark(counts: tuple[int, ...]) -> str:
    """A histogram 16 bars wide, in the colour of the text."""
    if not counts:
        return ""
    top = max(counts)
    bars = "".join(
        f"<rect x='{4 * i}' y='{14 - 14 * c / top:.1f}' width='3' height='{14 * c / top:.1f}'/>"
        for i, c in enumerate(counts)
        if c
    )
    return (
        f"<svg width='{4 * len(counts)}' height='14' fill='currentColor' aria-hidden='true'"
        f" style='opacity:.6;margin-right:8px;vertical-align:middle'>{bars}</svg>"
    )


def _bytes_type(kind: pa.DataType) -> bool:
    return bool(pat.is_binary(kind) or pat.is_large_binary(kind))


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
