"""``datumwise reproduce``."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from datumwise.cli.options import Common
from datumwise.cli.outcome import Outcome
from datumwise.cli.stages import StageLines
from datumwise.cli.summary import shown_path
from datumwise.cli.terminal import Line, Surface, surface, table, wrapped

if TYPE_CHECKING:
    from datumwise.reproduce.frame import Experiment, Reproduction

__all__ = ["reproduce"]


def reproduce(
    name: str | None = None,
    /,
    *,
    scale: Literal["small", "real", "paper"] = "small",
    model: str | None = None,
    data: str | None = None,
    out: Path | None = None,
    seed: int = 0,
    common: Common = Common(),  # noqa: B008 - a frozen dataclass
) -> Outcome:
    """Run a published system's headline experiment; write its table, figure and verdict.

    Parameters
    ----------
    name
        The experiment; without one, the experiments are listed.
    scale
        small: minutes on one core. real: a pretrained model by path. paper: the paper's models and data.
    model
        A transformers folder or hub name, for real and paper.
    data
        A data set by name or name=path, for paper.
    out
        Folder for the files; default the experiment's name here.
    seed
        Seed of everything random.
    """
    from datumwise.reproduce.frame import experiments, find_experiment
    from datumwise.reproduce.frame import reproduce as run

    if name is None:
        return _listed(experiments())
    find_experiment(name)  # a wrong name is refused before a folder is named after it
    folder = out if out is not None else Path(f"{name.replace('_', '-')}-{scale}")
    stage = StageLines(surface(sys.stderr), quiet=common.quiet or common.json)
    try:
        found = run(name, scale, model=model, data=data, out=folder, seed=seed, stage=stage)
    finally:
        stage.close()
    told = found.as_dict()
    facts = {**told, "command": "reproduce", "again": told["command"]}
    return Outcome(facts=facts, lines=lambda to: _lines(found, to))


def _lines(found: Reproduction, to: Surface) -> Sequence[str | Line]:
    from datumwise.reproduce.frame import shown

    columns = found.columns
    numbers = [c for c in columns if all(isinstance(row.get(c), int | float | type(None)) for row in found.rows)]
    rows = [[shown(row.get(c)) for c in columns] for row in found.rows]
    claims = [(c.word, c.published, c.ours, c.claim) for c in found.claims]
    return [
        f"  {found.title} ({found.source})",
        f"  scale {found.scale}, seed {found.seed}, {found.seconds:.0f} s",
        "",
        *(Line(f"  {part}", "bold") for part in wrapped(found.verdict, None if to.width is None else to.width - 2)),
        "",
        *table(columns, rows, right=numbers, width=to.width),
        "",
        *table(["claim", "published", "here", ""], claims, width=to.width),
        "",
        *(f"  {name:<10}  {shown_path(path)}" for name, path in found.files.items()),
    ]


def _listed(known: Mapping[str, Experiment]) -> Outcome:
    facts = {
        "command": "reproduce",
        "experiments": [
            {"name": name, "title": e.title, "source": e.source, "scales": list(e.scales)} for name, e in known.items()
        ],
    }

    def lines(to: Surface) -> Sequence[str | Line]:
        rows = [(name, ", ".join(e.scales), e.source, e.title) for name, e in known.items()]
        return table(["name", "scales", "source", "what it shows"], rows, width=to.width)

    return Outcome(facts=facts, lines=lines)
