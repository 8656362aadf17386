"""``datumwise learn``: train a learner, keep the model, and write what training says of each datapoint."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from datumwise.cli.interrupted import interrupted
from datumwise.cli.options import Common, key_values
from datumwise.cli.outcome import Outcome
from datumwise.cli.stages import StageLines
from datumwise.cli.summary import shown_path
from datumwise.cli.terminal import Line, Surface, surface, table

__all__ = ["learn"]


def learn(
    ledger: Path,
    /,
    *,
    learner: str = "deep kernel machine",
    out: Path | None = None,
    where: str | None = None,
    held_out: float = 0.25,
    name: str = "learned",
    option: list[str] | None = None,
    seed: int = 0,
    common: Common = Common(),  # noqa: B008
) -> Outcome:
    """Train a learner and say which datapoints it would not have expected.

    Writes NAME_trained. For a deep kernel machine of numbers also what it would predict of each datapoint without it
    (NAME_loo, NAME_loo_std), how surprising its label is (NAME_surprise), how much it moves the others (NAME_influence) and
    which others make its prediction (NAME_nearest).

    Parameters
    ----------
    ledger
        The ledger, with a label.
    learner
        By name: deep-kernel-machine, nearest-neighbour, extra-trees, gradient-boosting, ...
    out
        Where to keep the model, for datumwise predict --model. Default LEDGER-NAME.joblib.
    where
        Only datapoints for which this SQL condition holds: cleaned, after an audit.
    held_out
        Share kept to measure with.
    name
        Prefix of the columns.
    option
        Option of the learner, as key=value. May be repeated: n_inducing=256.
    seed
        Seed of everything random.
    """
    from datumwise.learn.on_ledger import learn as train
    from datumwise.ledger import open_ledger

    opened = open_ledger(ledger)
    path = out or Path(f"{opened.name}-{name}.joblib")
    stage = StageLines(surface(sys.stderr), quiet=common.quiet or common.json)
    named = learner.replace("-", " ").lower()
    stage.begin("learn", named)
    try:
        found = train(
            opened, named, where=where, held_out=held_out, out=path, column=name, options=key_values(option), seed=seed,
            progress=stage.progress,
        )  # fmt: skip
        stage.end(f"{named}, {found.trained:,} datapoints")
    except KeyboardInterrupt:
        return interrupted(stage, opened.path)
    finally:
        stage.close()
    shown = shown_path(opened.path)
    beside = [f"{name}_loo", f"{name}_loo_std", f"{name}_surprise"]
    label = opened.roles["label"]
    worst = opened.take([id for id, _ in found.surprising], ["id", label, *beside]).to_pylist() if found.surprising else []

    def lines(to: Surface) -> Sequence[str | Line]:
        said: list[str | Line] = [f"  {found}"]
        if worst:
            cells = [[row["id"], *(f"{row[column]:.4g}" for column in (label, *beside))] for row in worst]
            head = ["id", label, "without it", "+-", "surprise"]
            said += ["", *table(head, cells, right=head[1:], width=to.width)]
        return [
            *said,
            "",
            f"  columns {', '.join(found.columns)}",
            f"  model   {shown_path(path)}",
            f"  ledger  {shown} (version {found.version})",
            f"  next    datumwise predict {shown} --model {shown_path(path)} "
            f'--labelled "not {name}_trained" --batch NEW.ledger',
        ]

    return Outcome(facts={"command": "learn", "ledger": opened.path, **found.as_dict()}, lines=lines)
