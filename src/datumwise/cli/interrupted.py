"""What is kept when somebody presses ^C, and how to go on."""

from __future__ import annotations

import contextlib
import shlex
import sys
from pathlib import Path

from datumwise.cli.outcome import Outcome
from datumwise.cli.stages import StageLines

__all__ = ["interrupted", "kept_rows"]

DONE = {"probe": "probed", "score": "scored", "ingest": "read"}
CODE = 130


def interrupted(stage: StageLines, path: Path, *, because: str = "interrupted") -> Outcome:
    """The outcome of an interrupted command, from what is on disk.

    Parameters
    ----------
    stage : StageLines
        The stage that ran.
    path : Path
        The ledger.
    because : str
        ``"interrupted"``, or why else it stopped.
    """
    stage.close()
    kept = kept_rows(path)
    version = _version(path)
    where = f"({path.name}, version {version})"
    if version is None:
        first = f"{because}: nothing was written"
    elif stage.name in DONE and stage.name != "ingest" and kept:
        total = f" of {stage.total:,}" if stage.total >= kept else ""
        first = f"{because}: {kept:,}{total} datapoints {DONE[stage.name]} are kept {where}"
    else:
        first = f"{because}: what was finished before is kept {where}"
    again = shlex.join(["datumwise", *(word for word in sys.argv[1:] if word != "--force")])  # force would start anew
    return Outcome(
        facts={
            "error": {
                "kind": "Interrupted",
                "message": first,
                "column": None,
                "ids": [],
                "remedy": again,
            },
            "ledger": path if version is not None else None,
            "version": version,
            "kept": kept,
        },
        code=CODE,
        notes=[first, f"to go on:  {again}"],
    )


def kept_rows(path: Path) -> int:
    """Rows in the journal that was written last: computed, and not yet on the ledger."""
    folders = [folder for folder in (path / "journal").glob("*") if folder.is_dir()]
    if not folders:
        return 0
    from datumwise.ledger import Journal

    newest = max(folders, key=lambda folder: folder.stat().st_mtime)
    return len(Journal(newest, clean=False).done_row_ids())


def _version(path: Path) -> int | None:
    from datumwise.errors import DatumwiseError
    from datumwise.ledger import open_ledger

    with contextlib.suppress(DatumwiseError):
        return open_ledger(path).version
    return None
