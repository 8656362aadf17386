"""``datumwise audit --plan``: the passes an audit would make. Reads the source; writes and trains nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from datumwise.cli.outcome import Outcome
from datumwise.cli.terminal import Line, Surface, table

__all__ = ["planned"]


def planned(
    source: Path | None,
    roles: Mapping[str, Any],
    *,
    model: str | None,
    learner: str,
    folds: int,
    held_out: Any,
) -> Outcome:
    """The passes of an audit as a table: what, by which model, over how many rows, what it writes."""
    from datumwise.report.run import LARGE, RANDOM_SETS, RANDOM_SETS_LARGE

    rows, kind, task = _described(source, roles)
    held = _held(rows, held_out, demo=source is None) if task else 0
    train = rows - held
    sets = RANDOM_SETS if train < LARGE else RANDOM_SETS_LARGE
    passes: list[tuple[str, str, int, str]] = []
    if task:
        by = model or ("logistic regression" if kind == "text" else "extra trees and nearest neighbours")
        passes.append((f"predictions, {folds} folds", by, train, "label_error, el2n, memorization"))
    elif model:
        passes.append(("likelihoods", model, rows, "nll"))
    passes.append(("neighbours", "same embedding", train, "near_duplicate, outlier_knn"))
    if task:
        second = "logistic regression" if task == "classification" else "ridge regression"
        second = "nearest neighbour" if learner == second else second
        for name in (learner, second):
            passes.append((f"retrain x {sets + 2}", name, train, "proof"))
    facts = {
        "command": "audit",
        "ran": False,
        "rows": rows,
        "held_out": held,
        "kind": kind,
        "task": task,
        "learner": learner,
        "passes": [dict(zip(("pass", "model", "rows", "writes"), one, strict=True)) for one in passes],
    }

    def lines(to: Surface) -> Sequence[str | Line]:
        cells = [(what, by, f"{n:,}", writes) for what, by, n, writes in passes]
        named = f"{rows:,} datapoints, about {held:,} of them held out. The verdict is {learner}'s." if task else ""
        return [
            *table(["pass", "model", "rows", "writes"], cells, right=["rows"], width=to.width),
            *([f"  {named}"] if named else []),
            "  Nothing was run.",
        ]

    return Outcome(facts=facts, lines=lines)


def _described(source: Path | None, roles: Mapping[str, Any]) -> tuple[int, str, str | None]:
    """Rows, kind and task of a source; every row is read and checked, as an ingest would."""
    if source is None:
        from datumwise.report.demo import planted_digits

        return planted_digits().num_rows, "images", "classification"
    from datumwise.readers.to_ledger import described

    return described(source, **roles)


def _held(rows: int, held_out: Any, *, demo: bool) -> int:
    if demo:
        from datumwise.report.demo import HELD_OUT

        return HELD_OUT
    if isinstance(held_out, str):
        return 0
    share = 0.25 if held_out is None else held_out
    return min(round(share * rows), 5_000 if held_out is None else rows)
