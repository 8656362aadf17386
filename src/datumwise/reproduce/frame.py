"""What every reproduction hands back: a table, a figure, and a verdict that sets our figures beside the published ones."""

from __future__ import annotations

import csv
import importlib
import importlib.util
import json
import math
import pkgutil
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from datumwise.errors import MissingExtra, UnknownName
from datumwise.progress import SILENT, Stage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "COLOURS",
    "SCALES",
    "Claim",
    "Experiment",
    "Reproduction",
    "Run",
    "experiments",
    "find_experiment",
    "plain_axes",
    "reproduce",
]

SCALES = {
    "small": "ships with everything it needs, minutes on one core",
    "real": "a real pretrained model by path, under an hour on two cores",
    "paper": "the paper's models and data sets by name or path",
}
COLOURS = ("#2f5d8a", "#c8553d", "#5a8f69", "#8d6cab", "#b08a3c")  # told apart also in grey and with colour blindness
INCHES = (7.0, 4.2)
DPI = 160


@dataclass(frozen=True)
class Claim:
    """One published claim beside what was measured here.

    Attributes
    ----------
    claim : str
        As a sentence.
    published, ours : str
        Figures.
    holds : bool or None
        None where this run cannot tell.
    """

    claim: str
    published: str
    ours: str
    holds: bool | None

    @property
    def word(self) -> str:
        return {True: "holds", False: "does not hold", None: "cannot be told"}[self.holds]


@dataclass(frozen=True)
class Reproduction:
    """The outcome of one experiment.

    Attributes
    ----------
    name, title, source : str
        Of the experiment.
    scale : str
    seed : int
    seconds : float
        Wall clock.
    command : str
        That runs it again.
    rows : sequence of mappings
        The table: a mapping of column to value a row.
    claims : sequence of Claim
    verdict : str
        A paragraph.
    notes : sequence of str
        What a reader must know to judge the figures.
    draw : callable (Figure) -> None, optional
        Draws the figure.
    details : mapping
        Everything else worth keeping, as JSON knows it.
    files : mapping of str to Path
        What `write` wrote.
    """

    name: str
    title: str
    source: str
    rows: Sequence[Mapping[str, Any]]
    claims: Sequence[Claim]
    verdict: str
    notes: Sequence[str] = ()
    draw: Callable[[Figure], None] | None = field(default=None, repr=False)
    details: Mapping[str, Any] = field(default_factory=dict, repr=False)
    scale: str = "small"
    seed: int = 0
    seconds: float = math.nan
    command: str = ""
    files: Mapping[str, Path] = field(default_factory=dict)

    @property
    def columns(self) -> list[str]:
        return list(dict.fromkeys(name for row in self.rows for name in row))

    def __str__(self) -> str:
        head = f"{self.title} ({self.source}), scale {self.scale}, seed {self.seed}"
        claims = [f"  {c.word}: {c.claim} (published {c.published}; here {c.ours})" for c in self.claims]
        return "\n".join([head, "", *self.table(), "", *claims, "", self.verdict])

    def table(self) -> list[str]:
        """The rows as aligned lines."""
        columns = self.columns
        cells = [[shown(row.get(name)) for name in columns] for row in self.rows]
        widths = [max(map(len, column)) for column in zip(columns, *cells, strict=True)]
        numbers = [all(isinstance(row.get(name), int | float | type(None)) for row in self.rows) for name in columns]
        return [
            "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in zip(line, widths, numbers, strict=True)).rstrip()
            for line in [columns, *cells]
        ]

    def as_dict(self) -> dict[str, Any]:
        """As JSON knows it: NaN is null."""
        claims = [
            {"claim": c.claim, "published": c.published, "ours": c.ours, "holds": None if c.holds is None else bool(c.holds)}
            for c in self.claims  # NumPy's truth is not JSON's
        ]
        return {
            "name": self.name,
            "title": self.title,
            "source": self.source,
            "scale": self.scale,
            "seed": self.seed,
            "seconds": _json(self.seconds),
            "command": self.command,
            "verdict": self.verdict,
            "notes": list(self.notes),
            "claims": claims,
            "rows": [{name: _json(value) for name, value in row.items()} for row in self.rows],
            "details": _json(self.details),
            "files": {name: str(path) for name, path in self.files.items()},
        }

    def write(self, out: str | Path) -> Reproduction:
        """Write ``table.csv``, ``result.json``, ``figure.png``, ``figure.svg`` and ``verdict.md`` into a folder.

        Returns
        -------
        Reproduction
            The same with ``files``.
        """
        folder = Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        files = {"table": folder / "table.csv", "result": folder / "result.json", "verdict": folder / "verdict.md"}
        if self.draw is not None:
            files |= {"figure": folder / "figure.png", "figure_svg": folder / "figure.svg"}
            self._figure(files["figure"], files["figure_svg"])
        with files["table"].open("w", newline="", encoding="utf-8") as target:
            writer = csv.DictWriter(target, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)
        written = replace(self, files=files)
        files["verdict"].write_text(self._verdict(), encoding="utf-8")
        text = json.dumps(written.as_dict(), ensure_ascii=False, indent=1, allow_nan=False)
        files["result"].write_text(text + "\n", encoding="utf-8")
        return written

    def _figure(self, *paths: Path) -> None:
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        assert self.draw is not None
        style = {"font.size": 10, "svg.fonttype": "none", "svg.hashsalt": self.name, "axes.axisbelow": True}
        with mpl.rc_context(style):
            figure = Figure(figsize=INCHES, layout="constrained")
            FigureCanvasAgg(figure)
            self.draw(figure)
            for path in paths:
                figure.savefig(path, dpi=DPI, facecolor="white", metadata={"Date": None} if path.suffix == ".svg" else None)

    def _verdict(self) -> str:
        columns = self.columns
        table = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
        table += ["| " + " | ".join(shown(row.get(name)) for name in columns) + " |" for row in self.rows]
        claims = ["| claim | published | here | |", "|---|---|---|---|"]
        claims += [f"| {c.claim} | {c.published} | {c.ours} | {c.word} |" for c in self.claims]
        figure = ["![figure](figure.png)", ""] if self.draw is not None else []
        notes = [f"- {note}" for note in self.notes]
        parts = [
            f"# {self.title}",
            "",
            f"Source: {self.source}. Scale `{self.scale}`, seed {self.seed}, {self.seconds:.0f} s.",
            "",
            self.verdict,
            "",
            *figure,
            *claims,
            "",
            *table,
            "",
            *notes,
            *([""] if notes else []),
            f"    {self.command}",
            "",
        ]
        return "\n".join(parts)


class Run(Protocol):
    """An experiment at one scale; ``model`` and ``data`` are what the command's options named, or None."""

    def __call__(self, *, model: str | None, data: str | None, seed: int, stage: Stage) -> Reproduction: ...


@dataclass(frozen=True)
class Experiment:
    """The headline experiment of a published system: what a module of this room calls ``EXPERIMENT``.

    Attributes
    ----------
    title, source : str
    scales : mapping of "small", "real", "paper" to Run
    """

    title: str
    source: str
    scales: Mapping[str, Run]


def experiments() -> dict[str, Experiment]:
    """Every experiment by name: the modules of this room that have one, with ``-`` for ``_``."""
    import datumwise.reproduce as room

    found = {}
    for module in pkgutil.iter_modules(room.__path__):
        experiment = getattr(importlib.import_module(f"{room.__name__}.{module.name}"), "EXPERIMENT", None)
        if isinstance(experiment, Experiment):
            found[module.name.replace("_", "-")] = experiment
    return dict(sorted(found.items()))


def find_experiment(name: str) -> Experiment:
    """The experiment of this name.

    Raises
    ------
    UnknownName
    """
    known = experiments()
    wanted = name.replace("_", "-")
    if wanted not in known:
        raise UnknownName(f"there is no experiment {name!r}", remedy=f"choose one of {', '.join(known)}")
    return known[wanted]


def reproduce(
    name: str,
    scale: str = "small",
    *,
    model: str | None = None,
    data: str | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    stage: Stage = SILENT,
) -> Reproduction:
    """Run a published system's headline experiment and write its table, figure and verdict.

    Parameters
    ----------
    name : str
        As in `experiments`.
    scale : {"small", "real", "paper"}
    model : str, optional
        Folder or hub name of a pretrained model, for "real" and "paper".
    data : str, optional
        Data set by name or ``name=path``, for "paper"; an experiment says which it knows.
    out : path, optional
        Folder for the files; None writes nothing.
    seed : int
    stage : Stage
        Is told of progress.

    Returns
    -------
    Reproduction

    Raises
    ------
    UnknownName
        No such experiment, or it has no such scale.
    MissingExtra
        matplotlib is missing and a figure is to be written.
    """
    experiment = find_experiment(name)
    wanted = name.replace("_", "-")
    if scale not in experiment.scales:
        raise UnknownName(f"{wanted} has no scale {scale!r}", remedy=f"choose one of {', '.join(experiment.scales)}")
    if out is not None and importlib.util.find_spec("matplotlib") is None:
        raise MissingExtra("a figure needs matplotlib", remedy="pip install 'datumwise[reproduce]'")
    began = time.perf_counter()
    found = experiment.scales[scale](model=model, data=data, seed=seed, stage=stage)
    words = ["datumwise reproduce", wanted, f"--scale {scale}"]
    words += [f"--{name} {shlex.quote(word)}" for name, word in (("model", model), ("data", data)) if word]
    words.append(f"--seed {seed}")
    found = replace(
        found,
        name=wanted,
        title=experiment.title,
        source=experiment.source,
        scale=scale,
        seed=seed,
        seconds=time.perf_counter() - began,
        command=" ".join(words),
    )
    return found if out is None else found.write(out)


def plain_axes(axes: Axes) -> None:
    """No box around the axes; faint lines across for reading values off."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.7)
    axes.tick_params(length=3)


def shown(value: Any) -> str:
    """A cell of the table.

    Examples
    --------
    >>> [shown(v) for v in (0.12345, 3, None, float("nan"), True, "x")]
    ['0.123', '3', '-', '-', 'yes', 'x']
    """
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _json(value: Any) -> Any:
    """NaN and infinity as null, arrays as lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _json(item) for key, item in value.items()}
    if hasattr(value, "tolist"):
        return _json(value.tolist())
    if isinstance(value, list | tuple):
        return [_json(item) for item in value]
    return value
