"""``datumwise score`` and ``methods``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from datumwise.cli.interrupted import interrupted
from datumwise.cli.options import Common, names_of, seconds_of
from datumwise.cli.outcome import Outcome
from datumwise.cli.stages import Budget, BudgetSpent, StageLines
from datumwise.cli.summary import shown_path
from datumwise.cli.terminal import Line, Surface, surface, table

__all__ = ["methods", "score"]


def score(
    ledger: Path,
    /,
    *,
    names: list[str],
    model: str | None = None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
    folds: int = 5,
    seed: int = 0,
    engine: Literal["local", "ray"] = "local",
    plan: bool = False,
    budget: str | None = None,
    common: Common = Common(),  # noqa: B008
) -> Outcome:
    """Compute scores and write them to a ledger, a column a score.

    Parameters
    ----------
    ledger
        The ledger.
    names
        Scores, with commas: label_error,el2n. `datumwise methods` lists them.
    model
        A learner by name (logistic-regression), a joblib file, a transformers folder, or module:attribute.
        Scores of the data alone (ttr, flesch_reading_ease, outlier_knn) need none.
    dtype
        Of a transformers model's weights: bfloat16 is faster where the processor has it, with two to three digits.
    folds
        Folds of the cross-validation of a scikit-learn estimator.
    seed
        Seed of everything random.
    engine
        Where the pass runs.
    plan
        Print the passes and run nothing.
    budget
        Stop after this time (90s, 5m, 1.5h); what is done is kept.
    """
    from datumwise.cli.models import load_model
    from datumwise.ledger import open_ledger
    from datumwise.score import run

    opened = open_ledger(ledger)
    wanted = names_of(names) or []
    stage = StageLines(surface(sys.stderr), quiet=common.quiet or common.json, budget=Budget(seconds_of(budget)))
    loaded, options = (None, {}) if model is None else load_model(model, task=opened.task, seed=seed, dtype=dtype)
    if plan:
        planned = run(opened, loaded, wanted, folds=folds, seed=seed, engine=engine, plan_only=True, **options)
        facts = {"command": "score", "plan": str(planned).splitlines(), "ran": False}
        return Outcome(
            facts=facts,
            lines=lambda to: [*(f"  {s}" for s in str(planned).splitlines()), "  Nothing was run."],
        )
    stage.begin("probe", ", ".join(wanted))
    try:
        scores = run(opened, loaded, wanted, folds=folds, seed=seed, engine=engine, progress=stage.progress, **options)
    except BudgetSpent:
        return interrupted(stage, opened.path, because=f"stopped after {budget}")
    except KeyboardInterrupt:
        return interrupted(stage, opened.path)
    finally:
        stage.close()
    stage.end(f"{', '.join(wanted)} -> {opened.path.name}")
    return _scored(opened, scores, wanted)


def _scored(ledger: Any, scores: Any, names: Sequence[str]) -> Outcome:
    import numpy as np

    summaries = []
    for name in names:
        values = np.asarray(scores[name], dtype=np.float64)
        finite = values[np.isfinite(values)]
        low, middle, high = np.quantile(finite, (0, 0.5, 1)) if finite.size else (np.nan,) * 3
        provenance = ledger.provenance(name)
        summaries.append(
            {
                "name": name,
                "computed": int(finite.size),
                "least": float(low),
                "median": float(middle),
                "most": float(high),
                "higher": provenance.higher if provenance else "",
            }
        )
    facts = {"command": "score", "ledger": ledger.path, "version": ledger.version, "scores": summaries}

    def lines(to: Surface) -> Sequence[str | Line]:
        rows = [
            (
                s["name"],
                f"{s['computed']:,}",
                *(f"{s[k]:.4g}" for k in ("least", "median", "most")),
                s["higher"],
            )
            for s in summaries
        ]
        head = ["score", "datapoints", "least", "median", "most", "higher means"]
        return [
            *table(head, rows, right=head[1:5], width=to.width),
            "",
            f"  ledger  {shown_path(ledger.path)} (version {ledger.version})",
            f"  next    datumwise show {shown_path(ledger.path)} --by {names[0]}",
        ]

    return Outcome(facts=facts, lines=lines)


def methods(
    *,
    search: str | None = None,
    needs: str | None = None,
    room: str | None = None,
    common: Common = Common(),  # noqa: B008
) -> Outcome:
    """List the scores, selectors, learners and forgetting methods there are, what they need and where they come from.

    Parameters
    ----------
    search
        Only those whose name, summary or source holds this.
    needs
        Only those that need this signal, or take this input.
    room
        Only those of this part or package: score, select, learn, forget.
    """
    every = [*_declared(), *_selectors(), *_learners(), *_forgetting()]
    shown = [
        one
        for one in every
        if (search is None or search.casefold() in f"{one['name']} {one['summary']} {one['source']}".casefold())
        and (needs is None or needs in one["needs"])
        and (room is None or room == one["room"])
    ]
    facts = {"command": "methods", "methods": shown}

    def lines(to: Surface) -> Sequence[str | Line]:
        rows = [(m["name"], m["room"], ", ".join(m["needs"]), m["higher"] or m["summary"], m["source"]) for m in shown]
        narrow = "(--room, --needs, --search narrow; --json gives all)"
        return [
            *table(["name", "room", "needs", "higher means / what it does", "source"], rows, width=to.width),
            f"  {len(shown):,} of {len(every):,} shown {narrow}",
        ]

    return Outcome(facts=facts, lines=lines)


def _declared() -> list[dict[str, Any]]:
    from datumwise.score import methods as listed

    return [
        {
            "name": one.name,
            "needs": list(one.needs),
            "higher": one.higher,
            "source": one.source,
            "summary": one.summary,
            "room": one.room,
            "parameters": dict(one.parameters),
        }
        for one in listed()
    ]


def _selectors() -> list[dict[str, Any]]:
    import inspect

    from datumwise.select import catalogue

    return [
        {
            "name": name,
            "needs": [taken.rstrip("?") for taken in one.takes],
            "higher": "",
            "source": one.source,
            "summary": (inspect.getdoc(one) or "").partition("\n")[0],
            "room": "select",
            "parameters": {
                option: None if given.default is given.empty else given.default
                for option, given in inspect.signature(one).parameters.items()
            },
        }
        for name, one in catalogue().items()
    ]


def _learners() -> list[dict[str, Any]]:
    """Learners by name; none is loaded, for some need much."""
    from datumwise.probe.learners import LEARNERS, learners

    tasks: dict[str, list[str]] = {}
    for task in LEARNERS:
        for name in learners(task):
            tasks.setdefault(name, []).append(task)
    return [
        {
            "name": name,
            "needs": ["embedding", "labels"],
            "higher": "",
            "source": "",
            "summary": f"learner for {' and '.join(kinds)}: --learner of audit, learn and value",
            "room": "learn",
            "parameters": {},
        }
        for name, kinds in tasks.items()
    ]


def _forgetting() -> list[dict[str, Any]]:
    """Ways to make a model forget; those of torch models where torch is installed."""
    found = [
        {
            "name": "retrain",
            "needs": ["labels"],
            "summary": "estimators: trained anew without the datapoints, exact",
            "source": "",
        },
        {
            "name": "newton",
            "needs": ["labels"],
            "summary": "linear estimators: Newton steps on the loss of what is kept",
            "source": "Guo et al., 2020",
        },
    ]
    try:
        from datumwise.forget.methods import METHODS
        from datumwise.forget.modules import MODULE_METHODS
    except ImportError:
        return [_forgets(one, {}) for one in found]
    found += [
        {"name": name, "needs": ["labels"], "summary": f"torch classifiers: {summary}", "source": ""}
        for name, summary in MODULE_METHODS.items()
    ]
    every = [_forgets(one, {}) for one in found]
    for _, one in sorted(METHODS.items()):
        needs = ["texts", *(["kept texts"] if one.retain_required else [])]
        said = {"name": one.name, "needs": needs, "summary": f"language models: {one.summary}", "source": one.source}
        every.append(_forgets(said, dict(one.defaults)))
    return every


def _forgets(said: dict[str, Any], parameters: dict[str, Any]) -> dict[str, Any]:
    return {**said, "higher": "", "room": "forget", "parameters": parameters}
