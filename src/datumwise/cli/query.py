"""``datumwise show``, ``sql`` and ``export``: look at a ledger."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datumwise.cli.options import Common, names_of
from datumwise.cli.outcome import Outcome
from datumwise.cli.terminal import Line, Surface, table, wrapped

__all__ = ["cell", "export", "show", "sql"]

SHOWN_NUMBERS = 6  # of a vector


def show(
    ledger: Path,
    id: str | None = None,
    /,
    *,
    by: str | None = None,
    limit: int = 10,
    version: str | None = None,
    common: Common = Common(),  # noqa: B008
) -> Outcome:
    """Show a ledger, one of its datapoints, or the worst by a score.

    Parameters
    ----------
    ledger
        The ledger.
    id
        A datapoint, shown with everything known of it.
    by
        A score: its worst datapoints, first the worst.
    limit
        How many of them.
    version
        An earlier version, by number or tag.
    """
    from datumwise.ledger import open_ledger

    opened = open_ledger(ledger, version)
    if id is not None:
        return _datapoint(opened, id)
    if by is not None:
        return _worst(opened, by, limit)
    return _whole(opened)


def _whole(ledger: Any) -> Outcome:
    role_of = {c: role for role, names in ledger.roles.items() for c in ([names] if isinstance(names, str) else names)}
    described = [
        {
            "name": column.name,
            "kind": column.kind,
            "type": str(column.type),
            "role": role_of.get(column.name),
            "made_by": None if column.provenance is None else column.provenance.method,
            "model": None if column.provenance is None else column.provenance.model,
            "seed": None if column.provenance is None else column.provenance.seed,
            "higher": (column.provenance.higher or None) if column.provenance else None,
        }
        for column in ledger.columns
    ]
    refused = dict(ledger.metadata.get("unreadable", {}))
    facts = {
        "command": "show",
        "ledger": ledger.path,
        "version": ledger.version,
        "rows": len(ledger),
        "task": ledger.task,
        "roles": ledger.roles,
        "columns": described,
        "unreadable": refused,
    }

    def lines(to: Surface) -> Sequence[str | Line]:
        head = f"{ledger.name}  {len(ledger):,} datapoints, version {ledger.version}"
        rows = [(c["name"], c["role"] or c["kind"], _short(c["type"]), c["made_by"], c["higher"] or "") for c in described]
        said: list[str | Line] = [
            Line(head, "bold"),
            "",
            *table(["column", "is", "type", "made by", "higher"], rows, width=to.width),
        ]
        if refused:
            some = ", ".join(f"{name} ({why})" for name, why in list(refused.items())[:3])
            said += ["", *wrapped(f"  {len(refused):,} could not be read: {some}", to.width)]
        return said

    return Outcome(facts=facts, lines=lines)


def _datapoint(ledger: Any, id: str) -> Outcome:
    row = ledger.take([id]).to_pylist()[0]
    made = {column.name: column.provenance for column in ledger.columns if column.provenance is not None}
    facts = {"command": "show", "ledger": ledger.path, "version": ledger.version, "datapoint": row}

    def lines(to: Surface) -> Sequence[str | Line]:
        rows = [
            (name, made[name].method.partition(":")[0] if name in made else "given", cell(value, whole=True))
            for name, value in row.items()
        ]
        return table(["column", "from", "value"], rows, width=to.width)

    return Outcome(facts=facts, lines=lines)


def _worst(ledger: Any, by: str, limit: int) -> Outcome:
    found = ledger.findings(by, limit)
    provenance = ledger.provenance(by)
    facts = {
        "command": "show",
        "ledger": ledger.path,
        "version": ledger.version,
        "by": by,
        "higher": provenance.higher if provenance else None,
        "columns": found.column_names,
        "rows": [list(row.values()) for row in found.to_pylist()],
    }
    return Outcome(facts=facts, lines=lambda to: _rows(found, to))


def sql(
    ledger: Path,
    query: str,
    /,
    *,
    to: Path | None = None,
    version: str | None = None,
    force: bool = False,
    common: Common = Common(),  # noqa: B008
) -> Outcome:
    """Query a ledger with SQL (DuckDB); the table is called ledger. Only it can be read.

    Parameters
    ----------
    ledger
        The ledger.
    query
        For example: select id from ledger where el2n > 0.9 order by el2n desc
    to
        Write the result to this file (.parquet, .csv or .jsonl) instead.
    version
        An earlier version, by number or tag.
    force
        Replace the file.
    """
    from datumwise.ledger import open_ledger

    found = open_ledger(ledger, version).sql(query)
    if to is not None:
        write_table(found, to, force=force)
        facts = {"command": "sql", "file": to, "rows": found.num_rows}
        return Outcome(facts=facts, lines=lambda _: [f"  {found.num_rows:,} rows -> {to}"])
    facts = {
        "command": "sql",
        "columns": found.column_names,
        "rows": [list(row.values()) for row in found.to_pylist()],
    }
    return Outcome(facts=facts, lines=lambda surface: _rows(found, surface))


def export(
    ledger: Path,
    file: Path,
    /,
    *,
    columns: list[str] | None = None,
    where: str | None = None,
    version: str | None = None,
    force: bool = False,
    common: Common = Common(),  # noqa: B008
) -> Outcome:
    """Write rows of a ledger to a file: .parquet, .csv or .jsonl.

    Parameters
    ----------
    ledger
        The ledger.
    file
        The file.
    columns
        Columns; default all.
    where
        An SQL condition: "label_error > 0.9".
    version
        An earlier version, by number or tag.
    force
        Replace the file.
    """
    from datumwise.ledger import open_ledger

    opened = open_ledger(ledger, version)
    rows = opened.export(file, columns=names_of(columns), where=where, overwrite=force)
    facts = {
        "command": "export",
        "ledger": opened.path,
        "version": opened.version,
        "file": file,
        "rows": rows,
    }
    return Outcome(facts=facts, lines=lambda to: [f"  {rows:,} rows -> {file}"])


def write_table(found: Any, to: Path, *, force: bool) -> None:
    """Write a query's result to a file by its suffix.

    Raises
    ------
    SourceError
        An unknown suffix, or a file that is there already.
    """
    from datumwise.errors import SourceError

    if to.exists() and not force:
        raise SourceError(f"{to} is there already", remedy="overwrite=True replaces it")
    suffix = to.suffix.lower()
    if suffix == ".parquet":
        import pyarrow.parquet as pq

        pq.write_table(found, to)
    elif suffix == ".csv":
        import pyarrow.csv as arrow_csv

        arrow_csv.write_csv(found, to)
    elif suffix == ".jsonl":
        import json

        from datumwise.cli.outcome import plain

        with to.open("w", encoding="utf-8") as handle:
            for row in found.to_pylist():
                handle.write(json.dumps(plain(row), ensure_ascii=False) + "\n")
    else:
        raise SourceError(f"{to.name} has no suffix that can be written", remedy="use .parquet, .csv or .jsonl")


def _rows(found: Any, to: Surface) -> list[str]:
    """A query's result as a table; numbers flush right."""
    import pyarrow as pa

    numbers = [f.name for f in found.schema if pa.types.is_integer(f.type) or pa.types.is_floating(f.type)]
    if not found.num_columns:
        return []
    rows = [[cell(value) for value in row.values()] for row in found.to_pylist()]
    return table(found.column_names, rows, right=numbers, width=to.width)


def cell(value: Any, *, whole: bool = False) -> str:
    """A value as a table shows it.

    Examples
    --------
    >>> cell(None), cell(0.123456), cell(b"abc"), cell([1.0, 2.0])
    ('-', '0.1235', '3 bytes', '1, 2')
    >>> cell(list(range(100)))
    '0, 1, 2, 3, 4, 5 and 94 more'
    """
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, list):
        shown = value if whole and len(value) <= 64 else value[:SHOWN_NUMBERS]
        more = f" and {len(value) - len(shown):,} more" if len(value) > len(shown) else ""
        return ", ".join(cell(item) for item in shown) + more
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(item)}" for key, item in value.items())
    return str(value)


def _short(kind: str) -> str:
    """An Arrow type in fewer letters.

    Examples
    --------
    >>> _short("fixed_size_list<item: float>[64]"), _short("large_binary")
    ('float[64]', 'bytes')
    """
    import re

    if vector := re.fullmatch(r"fixed_size_list<\w+: (\w+)(?: not null)?>\[(\d+)\]", kind):
        return f"{vector[1]}[{vector[2]}]"
    return {"large_binary": "bytes", "binary": "bytes", "large_string": "string"}.get(kind, kind)
