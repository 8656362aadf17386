"""``datumwise ingest``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

from datumwise.cli.interrupted import interrupted
from datumwise.cli.options import Common, names_of
from datumwise.cli.outcome import Outcome
from datumwise.cli.stages import StageLines
from datumwise.cli.summary import shown_path
from datumwise.cli.terminal import surface, table

__all__ = ["ingest"]


def ingest(
    source: Path,
    /,
    *,
    label: str | None = None,
    text: str | None = None,
    prompt: str | None = None,
    response: str | None = None,
    image: str | None = None,
    id: str | None = None,
    features: list[str] | None = None,
    target: str | None = None,
    task: Literal["classification", "regression"] | None = None,
    out: Path | None = None,
    force: bool = False,
    common: Common = Common(),  # noqa: B008 - a frozen dataclass
) -> Outcome:
    """Make a ledger of a data set: one row a datapoint, ids that stay.

    The same source again reopens the ledger that is there.

    Parameters
    ----------
    source
        Parquet, CSV, TSV, JSON lines, a folder of pictures, a folder of datasets.save_to_disk.
    label
        Column of classes.
    text
        Column of text.
    prompt
        Column of prompts, for pairs of prompt and response.
    response
        Column of responses.
    image
        Column of pictures (bytes or paths).
    id
        Column of ids; without one, ids are hashes of the content.
    features
        Columns of numbers and categories, or one column of vectors.
    target
        Column of numbers to be predicted (regression).
    task
        What the label is for.
    out
        The ledger; default the source's name with .ledger here.
    force
        Replace a ledger of another source.
    """
    from datumwise.readers import ingest as make
    from datumwise.readers.to_ledger import ledger_path

    stage = StageLines(surface(sys.stderr), quiet=common.quiet or common.json)
    path = ledger_path(source, out=out)
    was_there = path.exists() and not force
    stage.begin("ingest", source.name)
    try:
        ledger = make(
            source,
            label=label,
            text=text,
            prompt=prompt,
            response=response,
            image=image,
            id=id,
            features=names_of(features),
            target=target,
            task=task,
            out=out,
            overwrite=force,
            progress=stage.progress,
        )
    except KeyboardInterrupt:
        return interrupted(stage, path)
    finally:
        stage.close()
    refused = dict(ledger.metadata.get("unreadable", {}))
    again = f"same source, same rows (version {ledger.version})"
    stage.end(again if was_there else f"{len(ledger):,} rows -> {ledger.path.name}")
    facts = {
        "command": "ingest",
        "ledger": ledger.path,
        "version": ledger.version,
        "rows": len(ledger),
        "reopened": was_there,
        "task": ledger.task,
        "roles": ledger.roles,
        "unreadable": refused,
    }
    rows = [(role, name if isinstance(name, str) else ", ".join(name)) for role, name in ledger.roles.items()]
    told = [("ledger", f"{shown_path(ledger.path)} (version {ledger.version})"), ("rows", f"{len(ledger):,}")]
    if ledger.task:
        told.append(("task", ledger.task))
    if refused:
        some = ", ".join(f"{name} ({why})" for name, why in list(refused.items())[:3])
        rest = f" and {len(refused) - 3:,} more" if len(refused) > 3 else ""
        told.append(("unreadable", f"{len(refused):,} left out: {some}{rest}"))

    return Outcome(facts=facts, lines=lambda to: table(["", ""], [*told, *rows], width=to.width)[1:])
