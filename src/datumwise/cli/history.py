"""``datumwise versions``, ``tag``, ``restore`` and ``diff``: what a ledger was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datumwise.cli.options import Common
from datumwise.cli.outcome import Outcome
from datumwise.cli.terminal import Line, Surface, table

__all__ = ["diff", "restore", "tag", "versions"]

SHOWN_IDS = 10


def versions(ledger: Path, /, *, common: Common = Common()) -> Outcome:  # noqa: B008
    """List what was changed when, oldest first.

    Parameters
    ----------
    ledger
        The ledger.
    """
    from datumwise.ledger import open_ledger

    opened = open_ledger(ledger)
    found = opened.versions()
    facts = {
        "command": "versions",
        "ledger": opened.path,
        "version": opened.version,
        "versions": [{"number": v.number, "time": v.time, "what": v.what, "rows": v.rows, "tags": list(v.tags)} for v in found],
    }

    def lines(to: Surface) -> Sequence[str | Line]:
        rows = [(v.number, f"{v.time:%Y-%m-%d %H:%M}", f"{v.rows:,}", ", ".join(v.tags) or None, v.what) for v in found]
        return table(["version", "time", "rows", "tags", "what"], rows, right=["version", "rows"], width=to.width)

    return Outcome(facts=facts, lines=lines)


def tag(
    ledger: Path,
    name: str,
    /,
    *,
    version: str | None = None,
    remove: bool = False,
    common: Common = Common(),  # noqa: B008
) -> Outcome:
    """Name a version, so that it can be opened by name; a purge is refused while a tag holds what it erases.

    Parameters
    ----------
    ledger
        The ledger.
    name
        Letters, digits, dots, dashes and underscores.
    version
        The version; default the latest.
    remove
        Remove the name; the version stays.
    """
    from datumwise.ledger import open_ledger

    opened = open_ledger(ledger)
    if remove:
        opened.untag(name)
        facts = {"command": "tag", "ledger": opened.path, "removed": name}
        return Outcome(facts=facts, lines=lambda to: [f"  tag {name} removed"])
    opened.tag(name, version)
    number = opened.tags()[name]
    facts = {"command": "tag", "ledger": opened.path, "tag": name, "version": number}
    return Outcome(facts=facts, lines=lambda to: [f"  version {number} is called {name}"])


def restore(ledger: Path, version: str, /, *, common: Common = Common()) -> Outcome:  # noqa: B008
    """Make an earlier version the latest again, as a new version; nothing in between is lost.

    Parameters
    ----------
    ledger
        The ledger.
    version
        Number or tag.
    """
    from datumwise.ledger import open_ledger

    opened = open_ledger(ledger)
    number = opened.restore(version)
    facts = {"command": "restore", "ledger": opened.path, "restored": version, "version": number}
    return Outcome(facts=facts, lines=lambda to: [f"  version {number} is version {version} again"])


def diff(ledger: Path, a: str, b: str | None = None, /, *, common: Common = Common()) -> Outcome:  # noqa: B008
    """Say what differs between two versions.

    Parameters
    ----------
    ledger
        The ledger.
    a
        Number or tag.
    b
        Number or tag; default the latest.
    """
    from datumwise.ledger import open_ledger

    found = open_ledger(ledger).diff(a, b)
    facts = {
        "command": "diff",
        "a": found.a,
        "b": found.b,
        "inserted": found.inserted,
        "updated": found.updated,
        "deleted": found.deleted,
        "columns_added": found.columns_added,
        "columns_removed": found.columns_removed,
        "columns_changed": found.columns_changed,
    }

    def lines(to: Surface) -> Sequence[str | Line]:
        rows = [
            (what, f"{len(names):,}", _some(names))
            for what, names in (
                ("datapoints inserted", found.inserted),
                ("datapoints updated", found.updated),
                ("datapoints deleted", found.deleted),
                ("columns added", found.columns_added),
                ("columns removed", found.columns_removed),
                ("columns changed", found.columns_changed),
            )
            if names
        ]
        head = Line(f"version {found.a} {to.symbols.arrow} {found.b}", "bold")
        if not rows:
            return [head, "  no difference"]
        return [head, *table(["what", "count", "which"], rows, right=["count"], width=to.width)]

    return Outcome(facts=facts, lines=lines)


def _some(names: Sequence[str]) -> str:
    more = len(names) - SHOWN_IDS
    return ", ".join(names[:SHOWN_IDS]) + (f" and {more:,} more (--json gives all)" if more > 0 else "")
