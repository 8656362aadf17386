"""``datumwise select``: which datapoints to keep under a budget, written on the ledger."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datumwise.cli.interrupted import interrupted
from datumwise.cli.options import Common, key_values
from datumwise.cli.outcome import Outcome
from datumwise.cli.stages import StageLines
from datumwise.cli.summary import shown_path
from datumwise.cli.terminal import Line, Surface, surface, table

if TYPE_CHECKING:
    from datumwise.evaluate.selection_report import SelectionReport
    from datumwise.ledger import Ledger
    from datumwise.select.choose import Choice
    from datumwise.select.selector import Selector

__all__ = ["select"]

SHOWN = 10  # picks that are printed
TEXT_WIDTH = 60  # characters of a text beside a pick
HELD_OUT = 0.25  # share of the datapoints that --report judges by


def select(
    ledger: Path,
    /,
    *,
    method: str,
    n: int | None = None,
    share: float | None = None,
    by: str | None = None,
    name: str = "selected",
    model: str | None = None,
    where: str | None = None,
    target: Path | None = None,
    by_class: bool = False,
    option: list[str] | None = None,
    seed: int = 0,
    report: bool = False,
    common: Common = Common(),  # noqa: B008
) -> Outcome:
    """Choose datapoints under a budget and write their rank and gain to the ledger.

    Parameters
    ----------
    ledger
        The ledger.
    method
        How to choose: facility_location, d2_pruning, top_k. `datumwise methods --room select` lists
        them.
    n
        How many.
    share
        Which share of them, between 0 and 1.
    by
        Column of scores, for methods that choose by one.
    name
        Column for the rank (1 is chosen first); NAME_gain is written beside it.
    model
        Whose embeddings or gradients are used; a model as for `datumwise score`.
    where
        Only datapoints for which this SQL condition holds.
    target
        Ledger of what is wanted, for methods that choose by likeness to a target (dsir, gio, target_similarity).
    by_class
        Choose class by class, so that every class keeps its share.
    option
        Option of the method, as key=value. May be repeated.
    seed
        Seed of everything random.
    report
        Judge the method against random subsets on datapoints that are held out.
    """
    from datumwise.ledger import open_ledger
    from datumwise.select.choose import choose

    opened = open_ledger(ledger)
    selector = _selector(method, _budget(n, share, method), key_values(option), seed)
    inputs = {**_inputs(opened, selector, by_class), **_target(opened, selector, target, seed)}
    loaded, signal_options = _loaded(model, opened, seed)
    stage = StageLines(surface(sys.stderr), quiet=common.quiet or common.json)
    stage.begin("select", method)
    try:
        choice = choose(
            opened,
            selector,
            by=by,
            model=loaded,
            column=name,
            inputs=inputs,
            where=where,
            seed=seed,
            signal_options=signal_options,
            progress=stage.progress,
        )
        stage.end(f"{len(choice):,} of {choice.n_seen:,} -> {name}")
        judged = None
        if report:
            stage.begin("report", "random subsets of the same size")
            judged = _judged(opened, selector, choice, by, loaded, signal_options, inputs, seed, stage)
            stage.end(f"{judged.n_random} random subsets, {judged.held_out:,} datapoints held out")
            _keep(opened, name, method, judged)
    except KeyboardInterrupt:
        return interrupted(stage, opened.path)
    finally:
        stage.close()
    return _chosen(opened, choice, judged)


def _budget(n: int | None, share: float | None, method: str) -> int | float | None:
    """How many: one of --n and --share, but for a method without a budget."""
    from datumwise.errors import DatumwiseError
    from datumwise.select import find

    wanted = "n_to_select" in _defaults(find(method))
    if not wanted:
        if n is not None or share is not None:
            raise DatumwiseError(f"{method} has no budget", remedy="leave out --n and --share")
        return None
    if (n is None) == (share is None):
        raise DatumwiseError("how many datapoints is not said", remedy="give --n 500, or --share 0.1")
    if share is not None and not 0 < share < 1:
        raise DatumwiseError(f"--share is {share}", remedy="give a share between 0 and 1")
    return n if n is not None else share


def _selector(method: str, budget: int | float | None, options: Mapping[str, Any], seed: int) -> Selector:
    """The selector of this name with its options; ``random_state`` is the seed, where it takes one."""
    from datumwise.errors import DatumwiseError, UnknownName
    from datumwise.select import find

    kind = find(method)
    known = _defaults(kind)
    for key in options:
        if key not in known or key == "n_to_select":
            others = [one for one in known if one != "n_to_select"]
            raise UnknownName(f"{method} takes no option {key!r}", remedy=f"it takes {', '.join(others) or 'none'}")
    given = dict(options) if budget is None else {"n_to_select": budget, **options}
    if "random_state" in known:
        given.setdefault("random_state", seed)
    lacking = [key for key, default in known.items() if default is inspect.Parameter.empty and key not in given]
    if lacking:
        raise DatumwiseError(f"{method} needs {', '.join(lacking)}", remedy=f"--option {lacking[0]}=...")
    return kind(**given)


def _defaults(kind: type[Selector]) -> dict[str, Any]:
    """Options of a selector and their defaults."""
    taken = inspect.signature(kind).parameters.values()
    return {one.name: one.default for one in taken if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)}


def _target(ledger: Ledger, selector: Selector, target: Path | None, seed: int) -> dict[str, Any]:
    """Texts, rows and labels of the target set, as far as the method takes them."""
    from datumwise.errors import DatumwiseError
    from datumwise.ledger import open_ledger
    from datumwise.probe.given import embeddings, given, texts

    takes = {one.rstrip("?"): not one.endswith("?") for one in selector.takes}
    wanted = {"target", "target_texts"} & set(takes)
    if target is None:
        if any(takes[one] for one in wanted):
            raise DatumwiseError(f"{type(selector).__name__} needs a target set", remedy="--target LEDGER")
        return {}
    if not wanted or "gradients" in takes:
        remedy = "leave out --target" if not wanted else "call its fit(gradients, target=...) from Python"
        raise DatumwiseError(f"{type(selector).__name__} takes no target set here", remedy=remedy)
    its = open_ledger(target)
    found: dict[str, Any] = {}
    if "target_texts" in wanted:
        found["target_texts"] = texts(its)
    if "target" in wanted:
        found["X"], found["target"] = embeddings(ledger, its, seed=seed)
    if "target_y" in takes and its.roles.get("label"):
        found["target_y"] = given(its, ["labels"])["labels"]
    return found


def _inputs(ledger: Ledger, selector: Selector, by_class: bool) -> dict[str, Any]:
    """Inputs that options of the command name: the label, for a choice class by class."""
    from datumwise.errors import DatumwiseError

    if not by_class:
        return {}
    if "y?" not in selector.takes:
        raise DatumwiseError(f"{type(selector).__name__} does not choose class by class", remedy="leave out --by-class")
    label = ledger.roles.get("label")
    if not label:
        raise DatumwiseError(f"{ledger.name} has no label column", remedy="ingest the data with --label")
    return {"y": label}


def _loaded(word: str | None, ledger: Ledger, seed: int) -> tuple[Any, dict[str, Any]]:
    """The model that a word names, if any, and options for its pass."""
    if word is None:
        return None, {}
    from datumwise.cli.models import load_model

    return load_model(word, task=ledger.task, seed=seed)


def _judged(
    ledger: Ledger,
    selector: Selector,
    choice: Choice,
    by: str | None,
    model: Any,
    signal_options: Mapping[str, Any],
    inputs: Mapping[str, Any] | None,
    seed: int,
    stage: StageLines,
) -> SelectionReport:
    """The method on three quarters of the datapoints, against random subsets, judged on the other quarter."""
    import numpy as np
    from sklearn.base import clone

    from datumwise.errors import DatumwiseError
    from datumwise.evaluate.held_out import held_out_split
    from datumwise.evaluate.selection_report import selection_report
    from datumwise.probe.given import embedding
    from datumwise.score.vendi import vendi
    from datumwise.select.choose import collect, fitted_to
    from datumwise.select.view import of_ledger

    label = ledger.roles.get("label")
    if not label:
        raise DatumwiseError(f"{ledger.name} has no label column, so no learner can be trained", remedy="leave out --report")
    y = ledger.array(label)
    held = held_out_split(
        y if y.dtype.kind == "f" else np.unique(y.astype(str), return_inverse=True)[1], size=HELD_OUT, seed=seed
    )
    small = clone(selector)
    if "n_to_select" in small.get_params(deep=False):
        small.set_params(n_to_select=max(2, round(len(choice) / choice.n_seen * int((~held).sum()))))
    train = np.flatnonzero(~held)
    view = of_ledger(ledger).only(train)
    given, left, _ = collect(view, small, by=by, model=model, inputs=inputs, seed=seed, signal_options=signal_options)
    fitted = fitted_to(small, given)
    rows = np.searchsorted(train, left.rows[fitted.ranking_])
    X = embedding(ledger, seed=seed)
    return selection_report(
        X[train],
        y[train],
        {choice.method: rows},
        X_test=X[held],
        y_test=y[held],
        diversity=vendi,
        random_state=seed,
        progress=stage.progress,
    )


def _keep(ledger: Ledger, name: str, method: str, judged: SelectionReport) -> None:
    """What was found about the selection, as a fact of the ledger that the report shows."""
    from datumwise.report.verdict import signed

    row = judged[method]
    assert row.minus_random is not None
    gain, low, high = (signed(v, judged.metric) for v in (row.minus_random.value, row.minus_random.low, row.minus_random.high))
    unit = " points" if judged.metric == "accuracy" else ""
    sentence = (
        f"{row.verdict.capitalize()}: held-out {judged.metric} {gain}{unit} against random subsets as large, "
        f"95% interval {low} to {high}, {judged.learner}."
    )
    facts = {"sentence": sentence, "report": judged.as_dict()}
    ledger.set_metadata(selections={**ledger.metadata.get("selections", {}), name: facts})


def _chosen(ledger: Ledger, choice: Choice, judged: SelectionReport | None) -> Outcome:
    beside = [c for c in dict.fromkeys(ledger.roles.get(role) for role in ("label", "text", "prompt")) if isinstance(c, str)]
    first = ledger.take([str(one) for one in choice.ids[:SHOWN]], ["id", *beside]).to_pylist()
    facts = {"command": "select", "ledger": ledger.path, **choice.as_dict()}
    facts["report"] = None if judged is None else judged.as_dict()

    def lines(to: Surface) -> Sequence[str | Line]:
        head = ["rank", "id", "gain", *(["weight"] if choice.weights is not None else []), *beside]
        rows = []
        for place, row in enumerate(first):
            cells = [str(place + 1), row["id"], f"{choice.gains[place]:.4g}"]
            cells += [f"{choice.weights[place]:.4g}"] if choice.weights is not None else []
            rows.append([*cells, *(_short(row[column]) for column in beside)])
        found: list[str | Line] = [f"  {len(choice):,} of {choice.n_seen:,} datapoints chosen by {choice.method}"]
        found += [f"  left out: {count:,} {why}" for why, count in choice.left_out.items()]
        found += ["", *table(head, rows, right=["rank", "gain", "weight"], width=to.width)]
        if len(choice) > SHOWN:
            found.append(f"  and {len(choice) - SHOWN:,} more")
        if judged is not None:
            found += ["", *(f"  {line}" for line in str(judged).splitlines())]
        path = shown_path(ledger.path)
        return [
            *found,
            "",
            f"  columns {', '.join(_columns(choice))}",
            f"  ledger  {path} (version {ledger.version})",
            f'  next    datumwise export {path} {choice.column}.parquet --where "{choice.column} is not null"',
        ]

    return Outcome(facts=facts, lines=lines)


def _columns(choice: Choice) -> list[str]:
    weighed = [f"{choice.column}_weight"] if choice.weights is not None else []
    return [choice.column, f"{choice.column}_gain", *weighed]


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= TEXT_WIDTH else text[: TEXT_WIDTH - 1] + "…"
