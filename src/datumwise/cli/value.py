"""``datumwise value``: what each datapoint is worth to a learner, with standard errors, written on the ledger."""

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

__all__ = ["value"]

SHOWN = 5  # datapoints at either end
ALONE = ("data_oob", "volume")  # methods that need no held-out datapoints


def value(
    ledger: Path,
    /,
    *,
    method: Literal["tmc", "beta", "banzhaf", "ame", "loo", "cs_shapley", "data_oob", "lava", "volume"] = "data_oob",
    learner: str | None = None,
    held_out: float = 0.25,
    name: str | None = None,
    seed: int = 0,
    common: Common = Common(),  # noqa: B008
) -> Outcome:
    """Say what each datapoint is worth to a learner.

    Writes two columns, value_METHOD and value_METHOD_stderr. Datapoints that are held out to measure with have none.

    Parameters
    ----------
    ledger
        The ledger, with a label.
    method
        data_oob and volume need no held-out datapoints; tmc, beta, banzhaf, ame, loo and cs_shapley retrain a learner.
    learner
        A learner by name (logistic-regression), or ridge or knn, which are retrained in microseconds.
    held_out
        Share held out to measure with.
    name
        Of the columns; default value_METHOD.
    seed
        Seed of everything random.
    """
    import numpy as np

    from datumwise.errors import DatumwiseError
    from datumwise.ledger import open_ledger
    from datumwise.probe.given import given
    from datumwise.score.value import value as compute

    opened = open_ledger(ledger)
    stage = StageLines(surface(sys.stderr), quiet=common.quiet or common.json)
    if not 0 < held_out < 1:
        raise DatumwiseError(f"--held-out is {held_out:g}", remedy="give a share between 0 and 1")
    wanted = ("embedding",) if method == "volume" else ("embedding", "labels")
    read = given(opened, wanted, seed=seed)
    X, y = read["embedding"], read.get("labels")
    if y is not None and opened.task == "regression":
        y = np.asarray(opened.array(opened.roles["label"]), np.float64)
    train = np.arange(len(X))
    against: dict[str, Any] = {}
    if method not in ALONE:
        order = np.random.default_rng(seed).permutation(len(X))
        held, train = np.sort(order[: round(held_out * len(X))]), np.sort(order[round(held_out * len(X)) :])
        assert y is not None
        against = {"X_val": X[held], "y_val": y[held]}
    stage.begin("value", f"{method}, {len(train):,} datapoints")
    try:
        found = compute(
            X[train], None if y is None else y[train], method=method, model=_learner(learner, opened.task, seed),
            random_state=seed, ids=opened.ids[train], progress=stage.progress, **against,
        )  # fmt: skip
    except KeyboardInterrupt:
        return interrupted(stage, opened.path)
    finally:
        stage.close()
    column = name or f"value_{method}"
    scores = _written(opened, found, column, method, {"learner": learner, "held_out": held_out}, seed)
    stage.end(f"{column} -> {opened.path.name}")
    return _told(opened, scores, found, column)


def _learner(word: str | None, task: str | None, seed: int) -> Any:
    from datumwise.probe.learners import learner

    return word if word in (None, "ridge", "knn") else learner(word, task or "classification", seed=seed)


def _written(ledger: Any, found: Any, column: str, method: str, params: dict[str, Any], seed: int) -> Any:
    from datumwise.score import Scores

    columns = {column: found.values, f"{column}_stderr": found.stderr}
    scores = Scores(found.ids, columns, higher={column: "worth more to the learner"})
    kept = {k: v for k, v in params.items() if v is not None} | {"utility_calls": found.utility_calls}
    scores.write(ledger, method=method, params=kept, seed=seed)
    return scores


def _told(ledger: Any, scores: Any, found: Any, column: str) -> Outcome:
    import numpy as np

    values, stderr = scores[column], scores[f"{column}_stderr"]
    order = np.argsort(-values, kind="stable")
    ends = [("worth most", order[:SHOWN]), ("worth least", order[::-1][:SHOWN])]
    facts = {
        "command": "value",
        "ledger": ledger.path,
        "version": ledger.version,
        "column": column,
        "utility_calls": int(found.utility_calls),
        "reliability": found.reliability,
        **{
            key.replace(" ", "_"): [
                {"id": str(scores.ids[i]), "value": float(values[i]), "stderr": float(stderr[i])} for i in rows
            ]
            for key, rows in ends
        },
    }

    def lines(to: Surface) -> Sequence[str | Line]:
        rows = [(what, str(scores.ids[i]), f"{values[i]:.4g}", f"{stderr[i]:.2g}") for what, some in ends for i in some]
        return [
            *table(["", "datapoint", column, "stderr"], rows, right=[column, "stderr"], width=to.width),
            f"  {found.utility_calls:,} models were trained; reliability {found.reliability:.2f} (1: any seed ranks alike)",
            "",
            f"  ledger  {shown_path(ledger.path)} (version {ledger.version})",
            f"  next    datumwise show {shown_path(ledger.path)} --by {column}",
        ]

    return Outcome(facts=facts, lines=lines)
