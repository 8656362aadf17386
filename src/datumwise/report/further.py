"""What else stands on an audited ledger: scores that were computed beside the audit's, selections, promises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.report.result import Chosen, Promised, Requested, ScoreColumn

if TYPE_CHECKING:
    from datumwise.ledger import Ledger
    from datumwise.ledger.ledger import Column

__all__ = ["read_chosen", "read_promised", "read_requests", "read_scores", "score_names_of", "selection_names"]

BINS = 24  # of the small histogram of a score
POINTS = 120  # of the small curve of gains
NO_OPTIONS = ("of", "over", "features_seed")  # what a selection was chosen of, and not how
OWN = ("map_x", "map_y", "p_given")  # of the audit, and no score


def score_names_of(ledger: Ledger) -> list[str]:
    """Columns that are scores: findings of one number a datapoint that say what a higher value means."""
    return [c.name for c in ledger.columns if c.kind == "finding" and c.name not in OWN and _is_score(c)]


def selection_names(ledger: Ledger) -> list[str]:
    """Columns that hold the rank of a choice, the latest first."""
    ranks = [c for c in ledger.columns if c.kind == "selection" and "int" in str(c.type)]
    return [c.name for c in sorted(ranks, key=lambda c: c.provenance.time if c.provenance else "", reverse=True)]


def read_scores(ledger: Ledger) -> tuple[ScoreColumn, ...]:
    """Every score of a ledger, with its distribution."""
    found = []
    for name in score_names_of(ledger):
        values = np.asarray(ledger.table([name])[name].to_numpy(zero_copy_only=False), np.float64)
        known = values[np.isfinite(values)]
        provenance = ledger.provenance(name)
        assert provenance is not None
        low, middle, high = np.quantile(known, (0, 0.5, 1)) if len(known) else (np.nan,) * 3
        found.append(
            ScoreColumn(
                name=name,
                method=provenance.method,
                higher=provenance.higher,
                source=provenance.source,
                computed=len(known),
                low=float(low),
                median=float(middle),
                high=float(high),
                counts=tuple(_counts(known, low, high)),
            )
        )
    return tuple(found)


def read_chosen(ledger: Ledger) -> tuple[Chosen, ...]:
    """Every selection of a ledger: how many, by which method, of which classes, and how it did against random."""
    label = ledger.roles.get("label") if ledger.task == "classification" else None
    labels = ledger.table([label])[label].to_pylist() if label else None
    against = ledger.metadata.get("selections", {})
    found = []
    for name in selection_names(ledger):
        ranks = np.asarray(ledger.table([name])[name].to_numpy(zero_copy_only=False), np.float64)
        provenance = ledger.provenance(name)
        assert provenance is not None
        chosen = np.flatnonzero(np.isfinite(ranks))
        found.append(
            Chosen(
                name=name,
                method=provenance.method,
                options=_options(provenance.params),
                source=provenance.source,
                n=len(chosen),
                of=len(ranks),
                gains=_gains(ledger, name, chosen[np.argsort(ranks[chosen])]),
                classes=_classes(labels, chosen),
                sentence=str(against.get(name, {}).get("sentence", "")),
            )
        )
    return tuple(found)


def read_promised(ledger: Ledger) -> tuple[Promised, ...]:
    """Every promise about a batch whose columns still stand on the ledger, the latest first."""
    found = []
    for name, fact in reversed(ledger.metadata.get("promises", {}).items()):
        if not set(fact["columns"]) <= set(ledger.schema.names):
            continue
        seen = fact["measured"]
        said = f"{seen['covered']:,} of {fact['batch']:,} were covered" if seen else ""
        if "false_claims" in seen:
            said += f", {seen['false_claims']:,} of {seen['selected']:,} claims were false"
        found.append(
            Promised(name, fact["learner"], fact["batch"], fact["calibrated"], (*fact["statements"], *fact["notes"]), said)
        )
    return tuple(found)


def read_requests(ledger: Ledger) -> tuple[Requested, ...]:
    """Every removal that was asked of a model trained on this ledger, the latest first."""
    found = []
    for name, fact in reversed(ledger.metadata.get("requests", {}).items()):
        rows = tuple(tuple(row) for row in fact["criteria"])
        found.append(Requested(**{**fact, "name": name, "criteria": rows}))
    return tuple(found)


def _is_score(column: Column) -> bool:
    number = any(kind in str(column.type) for kind in ("float", "double", "int")) and "list" not in str(column.type)
    return number and bool(column.provenance and column.provenance.higher)


def _counts(known: np.ndarray, low: float, high: float) -> list[int]:
    if not len(known):
        return []
    return np.histogram(known, bins=BINS, range=(low, high) if high > low else (low - 0.5, low + 0.5))[0].tolist()


def _options(params: Mapping[str, Any]) -> str:
    """The options that were set, as one reads them."""
    said = [f"{k}={v}" for k, v in params.items() if k not in NO_OPTIONS and isinstance(v, str | int | float | bool)]
    return ", ".join(said)


def _gains(ledger: Ledger, name: str, order: np.ndarray) -> tuple[float, ...]:
    """Objective after each of at most `POINTS` picks, spread evenly; empty where no gains were kept."""
    column = f"{name}_gain"
    if column not in ledger.schema.names or not len(order):
        return ()
    gains = np.asarray(ledger.table([column])[column].to_numpy(zero_copy_only=False), np.float64)[order]
    if not np.isfinite(gains).all():
        return ()
    at = np.unique(np.linspace(0, len(gains) - 1, min(POINTS, len(gains))).round().astype(int))
    return tuple(np.cumsum(gains)[at].tolist())


def _classes(labels: list[Any] | None, chosen: np.ndarray) -> tuple[tuple[str, int, int], ...]:
    if labels is None:
        return ()
    names, codes = np.unique(np.asarray([str(v) for v in labels]), return_inverse=True)
    every = np.bincount(codes, minlength=len(names))
    kept = np.bincount(codes[chosen], minlength=len(names))
    return tuple((str(name), int(k), int(n)) for name, k, n in zip(names, kept, every, strict=True))
