"""``datumwise audit`` and ``report``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from datumwise.cli.checks import checked, parse_check, refuse_unknown
from datumwise.cli.interrupted import interrupted
from datumwise.cli.options import Common, names_of, seconds_of
from datumwise.cli.outcome import Outcome
from datumwise.cli.stages import Budget, BudgetSpent, StageLines
from datumwise.cli.summary import audit_facts, shown_path, summary
from datumwise.cli.terminal import surface

__all__ = ["audit", "report"]

DEMO = "digits-demo"
MARK = b"datumwise"  # a page of ours says so in its first bytes


def audit(
    source: Path | None = None,
    /,
    *,
    label: str | None = None,
    text: str | None = None,
    prompt: str | None = None,
    response: str | None = None,
    image: str | None = None,
    id: str | None = None,
    features: list[str] | None = None,
    model: str | None = None,
    learner: str = "nearest neighbour",
    task: Literal["classification", "regression"] | None = None,
    held_out: str | None = None,
    folds: int = 5,
    seed: int = 0,
    max_length: int | None = None,
    out: Path | None = None,
    html: Path | None = None,
    force: bool = False,
    fail_on: list[str] | None = None,
    budget: str | None = None,
    plan: bool = False,
    open: bool = False,
    common: Common = Common(),  # noqa: B008 - a frozen dataclass
) -> Outcome:
    """Say what is wrong with which datapoint, and whether removing it helps.

    Parameters
    ----------
    source
        A data set or a ledger; without one, digits that ship, with faults planted and recorded.
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
    model
        Whose answers are read: a joblib file, module:attribute, a learner by name, or a transformers folder.
    learner
        The learner that the verdict is about.
    task
        What the label is for.
    held_out
        Share to hold out for the proof, or a column of true and false; default 0.25.
    folds
        Folds of the cross-validation.
    seed
        Seed of everything random.
    max_length
        Longest text in tokens, for a language model.
    out
        The ledger; default the source's name with .ledger here.
    html
        The page; default the ledger's name with .html.
    force
        Replace a ledger of another source, or a file that is no page of ours.
    fail_on
        Exit with 1 when this holds: "label_error > 2%" or "outlier >= 10".
    budget
        Stop after this time (90s, 5m, 1.5h); what is done is kept.
    plan
        Print the passes and stop.
    open
        Open the page in the browser, where there is a screen.
    """
    from datumwise.readers.open_source import is_ledger_path, refuse_unreadable
    from datumwise.readers.to_ledger import ledger_path

    if source is not None and not is_ledger_path(source):
        refuse_unreadable(source)
    checks = [parse_check(one) for one in fail_on or ()]
    stage = StageLines(surface(sys.stderr), quiet=common.quiet or common.json, budget=Budget(seconds_of(budget)))
    roles: dict[str, Any] = {
        "label": label,
        "text": text,
        "prompt": prompt,
        "response": response,
        "image": image,
        "id": id,
        "features": names_of(features),
        "task": task,
    }
    share = _share(held_out)
    if plan:
        from datumwise.cli.plan import planned

        return planned(source, roles, model=model, learner=learner, folds=folds, held_out=share)
    path = ledger_path(source, out=out, name=DEMO if source is None else None)
    page = html if html is not None else path.with_suffix(".html")
    _refuse_foreign(page, force)
    if source is None:
        stage.title("demo: handwritten digits, faults planted")
    try:
        from datumwise.report import audit as run
        from datumwise.report import write_page
        from datumwise.report.suspects import KINDS

        for check in checks:
            refuse_unknown(check, (kind.key for kind in KINDS))
        found = run(
            source,
            **roles,
            model=_model(model, task, seed),
            learner=learner,
            out=out,
            seed=seed,
            folds=folds,
            held_out=share,
            force=force,
            max_length=max_length,
            stage=stage,
        )
        results = checked(checks, found)
        write_page(found, page)
        if open:
            show(page)
    except BudgetSpent:
        return interrupted(stage, path, because=f"stopped after {budget}")
    except KeyboardInterrupt:
        return interrupted(stage, path)
    finally:
        stage.close()
    told = _told(common)
    return Outcome(
        facts=audit_facts(found, page=page, checks=results),
        lines=lambda to: summary(
            found,
            to,
            page=page,
            checks=[r["said"] for r in results],
            stages=not (told and to.width is not None),
        ),
        code=1 if any(result["failed"] for result in results) else 0,
    )


def report(
    ledger: Path,
    /,
    *,
    html: Path | None = None,
    force: bool = False,
    common: Common = Common(),  # noqa: B008 - a frozen dataclass
) -> Outcome:
    """Write the page of the last audit of a ledger again; nothing is computed.

    Parameters
    ----------
    ledger
        A ledger that was audited.
    html
        The page; default the ledger's name with .html.
    force
        Replace a file that is no page of ours.
    """
    from datumwise.ledger import open_ledger
    from datumwise.report import read_audit, write_page

    found = read_audit(open_ledger(ledger))
    page = html if html is not None else Path(f"{found.ledger.stem}.html")
    _refuse_foreign(page, force)
    write_page(found, page)
    return Outcome(
        facts={**audit_facts(found, page=page, checks=[]), "command": "report"},
        lines=lambda to: [f"  report  {shown_path(page)}", f"  {found.verdict}"],
    )


def show(page: Path) -> bool:
    """Open a page in the user's browser; False where nobody sits at a screen."""
    import os
    import webbrowser

    screen = sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))
    return screen and sys.stdout.isatty() and webbrowser.open(page.resolve().as_uri())


def _told(common: Common) -> bool:
    """Whether the stage lines were shown on a terminal already."""
    return not (common.quiet or common.json) and sys.stderr.isatty()


def _share(held_out: str | None) -> float | str | None:
    if held_out is None:
        return None
    try:
        return float(held_out)
    except ValueError:
        return held_out


def _model(word: str | None, task: str | None, seed: int) -> Any:
    """The model a word names; folders and names of transformers are loaded by the audit itself."""
    if word is None:
        return None
    from datumwise.cli.models import PICKLES, load_model
    from datumwise.probe.learners import LEARNERS, learners

    known = {name for of_task in LEARNERS for name in learners(of_task)}
    if Path(word).suffix in PICKLES or ":" in word or word.replace("-", " ").lower() in known:
        return load_model(word, task=task, seed=seed)[0]
    return word


def _refuse_foreign(page: Path, force: bool) -> None:
    """Refuse to write over a file that is no page of ours.

    Raises
    ------
    SourceError
    """
    from datumwise.errors import SourceError

    if not page.parent.is_dir():
        raise SourceError(f"there is no folder {page.parent} for the page")
    if page.is_dir():
        raise SourceError(f"{page} is a folder", remedy="give a file with html='...'")
    if page.exists() and not force:
        with page.open("rb") as handle:
            if MARK not in handle.read(4_096):
                raise SourceError(
                    f"{page} is there and is no page of datumwise",
                    remedy="overwrite=True replaces it, html='...' keeps it",
                )
