"""``datumwise attribute``: which datapoints helped or hurt what a model says of others, written on the ledger."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from datumwise.cli.interrupted import interrupted
from datumwise.cli.options import Common
from datumwise.cli.outcome import Outcome
from datumwise.cli.stages import StageLines
from datumwise.cli.summary import shown_path
from datumwise.cli.terminal import Line, Surface, surface, table

__all__ = ["attribute"]

SHOWN = 5  # datapoints at either end


def attribute(
    ledger: Path,
    queries: Path,
    /,
    *,
    model: str,
    method: Literal["trak", "tracin", "grad_dot", "grad_cos", "influence", "ekfac", "kfac", "datainf", "representer"] = "trak",
    name: str | None = None,
    checkpoints: list[Path] | None = None,
    projection: int | None = None,
    damping: float | None = None,
    batch_size: int = 32,
    seed: int = 0,
    common: Common = Common(),  # noqa: B008
) -> Outcome:
    """Say which datapoints helped or hurt a trained model on other datapoints.

    Writes one column: the mean over the queries of the attribution of a datapoint; above 0, it helped.

    Parameters
    ----------
    ledger
        The ledger of the training data.
    queries
        The ledger of the datapoints that are asked about.
    model
        The trained model: a transformers folder or module:attribute that gives a torch module.
    method
        How gradients are compared.
    name
        Of the column; default helps_METHOD.
    checkpoints
        Files of weights along training.
    projection
        Numbers kept of a gradient; the method's own by default.
    damping
        Added to the curvature.
    batch_size
        Datapoints a batch; changes no score.
    seed
        Seed of everything random.
    """
    from datumwise.cli.models import load_model
    from datumwise.errors import ModelMismatch
    from datumwise.ledger import open_ledger
    from datumwise.probe.attribute import attribute as compute

    train, asked = open_ledger(ledger), open_ledger(queries)
    stage = StageLines(surface(sys.stderr), quiet=common.quiet or common.json)
    loaded, options = load_model(model, task=train.task, seed=seed)
    if not hasattr(loaded, "named_parameters"):
        raise ModelMismatch(f"a {type(loaded).__name__} has no gradients", remedy="give a torch or transformers model")
    if projection is not None:
        options["projection"] = projection
    stage.begin("attribute", f"{method}, {len(asked):,} queries")
    try:
        scores = compute(
            loaded, train, asked, method=method, checkpoints=_weights(checkpoints), damping=damping,
            batch_size=batch_size, seed=seed, progress=stage.progress, **options,
        )  # fmt: skip
    except KeyboardInterrupt:
        return interrupted(stage, train.path)
    finally:
        stage.close()
    column = name or f"helps_{method}"
    params = {"queries": str(queries), "n_queries": len(asked), "projection": projection, "damping": damping}
    found = _written(train, scores.mean(axis=0), column, method, params, loaded, seed)
    stage.end(f"{column} -> {train.path.name}")
    return _told(train, found, column, method)


def _weights(files: list[Path] | None) -> list[Any] | None:
    from datumwise.errors import SourceError

    missing = [file for file in files or () if not file.is_file()]
    if missing:
        raise SourceError(f"no such file: {missing[0]}")
    return None if files is None else list(map(str, files))


def _written(ledger: Any, values: Any, column: str, method: str, params: dict[str, Any], model: Any, seed: int) -> Any:
    from datumwise.probe.fingerprint import model_fingerprint
    from datumwise.score import Scores

    found = Scores(ledger.ids, {column: values}, higher={column: "helped the queries more"})
    kept = {k: v for k, v in params.items() if v is not None}
    found.write(ledger, method=method, params=kept, model=model_fingerprint(model), seed=seed)
    return found


def _told(ledger: Any, found: Any, column: str, method: str) -> Outcome:
    import numpy as np

    values = found[column]
    order = np.argsort(-values, kind="stable")
    best, worst = order[:SHOWN], order[::-1][:SHOWN]
    ends = [("helped most", best), ("hurt most", worst)]
    facts = {
        "command": "attribute",
        "ledger": ledger.path,
        "version": ledger.version,
        "column": column,
        "method": method,
        **{key.replace(" ", "_"): [{"id": str(found.ids[i]), "value": float(values[i])} for i in rows] for key, rows in ends},
    }

    def lines(to: Surface) -> Sequence[str | Line]:
        rows = [(what, str(found.ids[i]), f"{values[i]:.4g}") for what, some in ends for i in some]
        return [
            *table(["", "datapoint", column], rows, right=[column], width=to.width),
            "",
            f"  ledger  {shown_path(ledger.path)} (version {ledger.version})",
            f"  next    datumwise show {shown_path(ledger.path)} --by {column}",
        ]

    return Outcome(facts=facts, lines=lines)
