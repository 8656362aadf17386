"""``datumwise predict``: promises about a batch of new datapoints, written beside each of them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from datumwise.cli.interrupted import interrupted
from datumwise.cli.options import Common
from datumwise.cli.outcome import Outcome
from datumwise.cli.stages import StageLines
from datumwise.cli.summary import shown_path
from datumwise.cli.terminal import Line, Surface, surface, table, wrapped

if TYPE_CHECKING:
    from datumwise.ledger import Ledger
    from datumwise.predict.on_ledger import LedgerPromise

__all__ = ["predict"]

SHOWN = 10  # datapoints that are printed


def predict(
    ledger: Path,
    /,
    *,
    batch: Path | None = None,
    where: str | None = None,
    model: str | None = None,
    labelled: str | None = None,
    alpha: float = 0.1,
    delta: float = 0.1,
    score: str | None = None,
    statistic: str | None = None,
    side: Literal["both", "upper", "lower"] = "both",
    above: float | None = None,
    positive: str | None = None,
    max_false: int = 0,
    fdr: bool = False,
    by: str | None = None,
    shifted: bool = False,
    name: str = "promise",
    allow_infinite: bool = False,
    seed: int = 0,
    common: Common = Common(),  # noqa: B008
) -> Outcome:
    """Predict a batch of new datapoints, with promises that hold for the whole batch.

    Writes NAME_predicted, and NAME_lower and NAME_upper (numbers) or NAME_set (classes), of which at least a share
    1 - DELTA holds the truth with probability 1 - ALPHA; with --above or --positive also NAME_selected and NAME_p_value.
    The new datapoints must be drawn like the labelled ones.

    Parameters
    ----------
    ledger
        The ledger of labelled datapoints. They calibrate, and half of them train a model that is not fitted yet.
    batch
        The ledger of new datapoints, which is written to.
    where
        Instead: the rows of the first ledger that are the batch, as an SQL condition.
    model
        A joblib file, module:attribute, or a learner by name. A fitted one must not have seen the rows that calibrate.
    labelled
        Only rows for which this SQL condition holds calibrate and train: cleaned, after an audit.
    alpha
        How often each promise may fail.
    delta
        Share of the batch that may be missed.
    score
        absolute, signed or normalized for numbers; lac, aps or raps for classes.
    statistic
        Also bound this number of the batch: mean, sum, median or quantile:0.9.
    side
        Of that bound.
    above
        Also select what can be claimed to lie above this number.
    positive
        Also select what can be claimed to be of this class.
    max_false
        How many of those claims may be false.
    fdr
        Bound the expected share of false claims by ALPHA instead of their number.
    by
        Column of groups: promise each group what its own datapoints allow.
    shifted
        The batch comes from elsewhere: estimate how likely, and promise approximately.
    name
        Prefix of the columns.
    allow_infinite
        Where too few calibrate, write intervals without end instead of refusing.
    seed
        Seed of everything random.
    """
    from datumwise.ledger import open_ledger
    from datumwise.predict.on_ledger import promise

    opened = open_ledger(ledger)
    target = None if batch is None else open_ledger(batch)
    asked = _model(model, opened, seed)
    stage = StageLines(surface(sys.stderr), quiet=common.quiet or common.json)
    stage.begin("predict", "training and calibrating")
    try:
        found = promise(
            opened, asked, batch=target, where=where, labelled=labelled, alpha=alpha, delta=delta, score=score,
            statistic=_statistic(statistic), side=side, above=above, positive=positive, max_false=max_false,
            control="fdr" if fdr else "count", by=by, shifted=shifted, column=name, allow_infinite=allow_infinite, seed=seed,
        )  # fmt: skip
        stage.end(f"{len(found.ids):,} datapoints, {found.calibrated:,} calibrate")
    except KeyboardInterrupt:
        return interrupted(stage, opened.path)
    finally:
        stage.close()
    return _told(target or opened, found, name)


def _model(word: str | None, ledger: Ledger, seed: int) -> Any:
    if word is None:
        return None
    from datumwise.cli.models import load_model

    return load_model(word, task=ledger.task, seed=seed)[0]


def _statistic(word: str | None) -> str | tuple[str, float] | None:
    """``quantile:0.9`` as a pair, other words as they are.

    Examples
    --------
    >>> _statistic("quantile:0.9"), _statistic("mean")
    (('quantile', 0.9), 'mean')
    """
    from datumwise.errors import DatumwiseError

    kind, sign, share = (word or "").partition(":")
    if not sign:
        return word
    try:
        return kind, float(share)
    except ValueError:
        raise DatumwiseError(f"--statistic {word!r} is no quantile", remedy="--statistic quantile:0.9") from None


def _told(ledger: Ledger, found: LedgerPromise, name: str) -> Outcome:
    facts = {"command": "predict", "ledger": ledger.path, **found.as_dict()}
    first = ledger.take([str(one) for one in found.ids[:SHOWN]], ["id", *found.columns]).to_pylist()
    if facts["selected"]:
        first = ledger.take(facts["selected"][:SHOWN], ["id", *found.columns]).to_pylist()

    def lines(to: Surface) -> Sequence[str | Line]:
        head = ["id", *(column.removeprefix(f"{name}_").replace("_", " ") for column in found.columns)]
        rows = [[row["id"], *(_cell(row[column]) for column in found.columns)] for row in first]
        said: list[str | Line] = []
        for sentence in (*found.statements, *found.notes):
            parts = wrapped(f"{sentence[0].upper()}{sentence[1:]}.", None if to.width is None else max(to.width - 2, 16))
            said += [f"  {part}" for part in parts]
        right = [one for one in head if one in ("predicted", "lower", "upper", "p value") and found.task == "regression"]
        said += ["", *table(head, rows, right=right, width=to.width)]
        if len(found.ids) > len(rows):
            said.append(f"  and {len(found.ids) - len(rows):,} more")
        if found.measured:
            said += ["", f"  labels of the batch are known: {_measured(found)}"]
        path = shown_path(ledger.path)
        return [
            *said,
            "",
            f"  model   {found.learner}" + (f", trained on {found.trained:,}" if found.trained else ""),
            f"  columns {', '.join(found.columns)}",
            f"  ledger  {path} (version {found.version})",
            f'  next    datumwise export {path} {name}.parquet --where "{name}_predicted is not null"',
        ]

    return Outcome(facts=facts, lines=lines)


def _measured(found: LedgerPromise) -> str:
    said = f"{found.measured['covered']:,} of {len(found.ids):,} are covered"
    if "false_claims" in found.measured:
        said += f", {found.measured['false_claims']:,} of {found.measured['selected']:,} claims are false"
    return said


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return ", ".join(value) if isinstance(value, list) else str(value)
