"""``datumwise delete``: datapoints, and with ``--purge`` their bytes."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from datumwise.cli.options import Common
from datumwise.cli.outcome import Outcome
from datumwise.cli.terminal import table

__all__ = ["delete"]


def delete(
    ledger: Path,
    /,
    *ids: str,
    where: str | None = None,
    purge: bool = False,
    yes: bool = False,
    common: Common = Common(),  # noqa: B008
) -> Outcome:
    """Delete datapoints; earlier versions keep them. With --purge their bytes leave every file, with a proof.

    Parameters
    ----------
    ledger
        The ledger.
    ids
        Datapoints. A file ids.csv or ids.txt with one id a line is given as @ids.txt.
    where
        An SQL condition instead: "author = 'kim'".
    purge
        Erase the bytes too; all earlier versions go with them.
    yes
        Needed with --purge: you know that the history goes.
    """
    from datumwise.ledger import open_ledger

    opened = open_ledger(ledger)
    named = [one for given in ids for one in _listed(given)] or None
    done = opened.delete(ids=named, where=where, purge=purge, yes=yes)
    if not purge:
        facts = {"command": "delete", "ledger": opened.path, "version": opened.version, "deleted": done}
        noun = "datapoint" if done == 1 else "datapoints"
        note = f"  {done:,} {noun} deleted (version {opened.version}); earlier versions keep them"
        return Outcome(facts=facts, lines=lambda to: [note])
    receipt = _receipt(done)
    facts = {"command": "delete", "ledger": opened.path, "version": opened.version, "receipt": receipt}
    rows = [(key.replace("_", " "), _said(value)) for key, value in receipt.items()]
    return Outcome(facts=facts, lines=lambda to: table(["", ""], rows, width=to.width)[1:])


def _listed(given: str) -> list[str]:
    """An id, or with ``@`` the lines of a file."""
    if not given.startswith("@"):
        return [given]
    text = Path(given[1:]).read_text(encoding="utf-8-sig")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[1:] if lines and lines[0] == "id" else lines


def _receipt(done: Any) -> dict[str, Any]:
    return asdict(done) if is_dataclass(done) and not isinstance(done, type) else {"receipt": str(done)}


def _said(value: Any) -> str:
    if value in ({}, [], ()):
        return "none"
    if isinstance(value, float):
        return f"{value:.2f}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_said(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value[:6])) + (f" and {len(value) - 6:,} more" if len(value) > 6 else "")
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
