"""A removal request to a causal language model: trained against its texts, measured by MUSE's criteria (Shi et al., 2024)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datumwise.errors import EmptyData, UnknownName
from datumwise.evaluate.attacks import ATTACKS, attack
from datumwise.evaluate.certify import criteria_of, datapoints_of
from datumwise.evaluate.muse_data import MuseData
from datumwise.evaluate.removed import Removed, Request
from datumwise.evaluate.six_way import six_way
from datumwise.evaluate.six_way_report import SixWayReport
from datumwise.probe.fingerprint import model_fingerprint
from datumwise.probe.given import text_columns

__all__ = ["forget_texts"]

CRITERIA = ("verbmem", "privleak", "utility", "retain_verbmem")
CALIBRATES = 0.5  # share of the held-out texts that set how unlikely unseen texts are; the others measure
KEPT = 20_000  # texts to keep that training draws from, at most
MEASURED = 500  # kept and unseen texts that are measured, at most
FEWEST = 10  # held-out texts from which on they are divided


def forget_texts(
    asked: Request,
    model: Any,
    tokenizer: Any,
    *,
    method: str | None = None,
    reference: Any = None,
    attacks: tuple[str, ...] = (),
    options: dict[str, Any] | None = None,
    inplace: bool = False,
    checkpoint: str | Path | None = None,
) -> Removed:
    """See `datumwise.evaluate.forget_request.forget_datapoints`.

    Half of the unseen texts calibrate the methods that ask how unlikely unseen texts are; the other half measures.
    """
    from datumwise.forget.unlearning import unlearn

    unknown = [kind for kind in attacks if kind not in ATTACKS]
    if unknown:  # before anything is trained
        raise UnknownName(f"there is no attack {unknown[0]!r}", remedy=f"choose {', '.join(ATTACKS)}")
    method = method or "calibrated"
    options = dict(options or {})
    stage, ids = asked.stage, asked.ids
    rng = np.random.default_rng(asked.seed)
    unseen = rng.permutation(asked.unseen)
    calibrates, measures = np.split(unseen, [round(CALIBRATES * len(unseen)) if len(unseen) >= FEWEST else 0])
    kept = np.sort(rng.permutation(asked.retain)[:KEPT])
    some = np.sort(rng.permutation(kept)[:MEASURED])
    measures = np.sort(measures[:MEASURED])
    texts = _texts(asked, np.concatenate([asked.forget, kept, calibrates, measures]))
    pick = {name: [texts[row] for row in rows] for name, rows in (("retain", some), ("holdout", measures))}
    data = MuseData.from_texts(
        [texts[row] for row in asked.forget], pick["retain"], pick["holdout"], tokenizer,
        ids=list(ids[asked.forget]), retain_ids=list(ids[some]), holdout_ids=list(ids[measures]),
    )  # fmt: skip
    fingerprints = {"before": model_fingerprint(model)}

    def measured(one: Any, name: str, retrain: Any = None) -> SixWayReport:
        stage.begin("check", name)
        found = six_way(
            one, tokenizer, data, criteria=CRITERIA, retrain=retrain, max_length=options.get("max_length"),
            random_state=asked.seed, progress=stage.progress,
        )  # fmt: skip
        stage.end(f"{name}, {len(found.values)} criteria")
        return found

    never = None if reference is None else measured(reference, "a model that never saw them")
    before = measured(model, "the model before", never)
    stage.begin("forget", method)
    result = unlearn(
        model, tokenizer, [texts[row] for row in asked.forget], [texts[row] for row in kept], method=method,
        ids=list(ids[asked.forget]), holdout=[texts[row] for row in calibrates] or None, inplace=inplace,
        checkpoint=checkpoint, random_state=asked.seed, progress=stage.progress, **options,
    )  # fmt: skip
    stage.end(f"{len(asked.forget):,} datapoints by {method}, {result.stopped_epoch} epochs")
    edited = result.merged() if options.get("lora") else result.model
    after = measured(edited, "the model after", never)
    notes = [*result.notes, *after.notes]
    attacked = []
    if attacks:
        stage.begin("attack", ", ".join(attacks))
        found = attack(
            edited, tokenizer, data, kinds=attacks, before=before, unattacked=after, reference=reference,
            evaluation={"max_length": options.get("max_length")}, random_state=asked.seed, progress=stage.progress,
        )  # fmt: skip
        stage.end(", ".join(attacks))
        attacked = found.criteria()
        if reference is None:
            notes.append("No model that never saw them was attacked: part of what an attack brings may be no memory.")

    missing = [] if len(measures) else ["privacy leakage: no datapoint was held out that the model never saw (--holdout)"]
    if "knowmem" not in after.values:
        missing.append("questions about what was forgotten: none were given")
    if result.left_out:
        notes.append(f"{len(result.left_out):,} of the texts have no token to predict and were left out.")
    reports = {"before": before, "after": after, **({} if never is None else {"never_saw": never})}
    losses = {name: _losses(one, ids[asked.forget]) for name, one in reports.items()}
    fingerprints["after"] = model_fingerprint(edited)
    if reference is not None:
        fingerprints["never_saw"] = model_fingerprint(reference)
    return Removed(
        edited, reference, fingerprints, result.method, dict(result.options), False, result.seconds,
        criteria_of(before, after, never), datapoints_of(ids[asked.forget], before, after, never), losses, attacked, missing,
        list(dict.fromkeys(notes)),
    )  # fmt: skip


def _texts(asked: Request, rows: np.ndarray) -> dict[int, Any]:
    """Row -> text or (prompt, response)."""
    columns = text_columns(asked.ledger)
    if not columns:
        raise EmptyData(f"{asked.ledger.name} has no text for a language model", remedy="ingest it with --text")
    table = asked.ledger.take(list(asked.ids[rows]), columns)
    cells = [[cell or "" for cell in table.column(name).to_pylist()] for name in columns]
    return dict(zip(rows.tolist(), cells[0] if len(cells) == 1 else list(zip(*cells, strict=True)), strict=True))


def _losses(report: SixWayReport, ids: np.ndarray) -> np.ndarray:
    """Mean loss a token of the datapoints to forget; NaN where it was not measured."""
    items = report.per_item.get("nll_forget")
    if items is None:
        return np.full(len(ids), np.nan)
    known = dict(zip(map(str, items.id), items.score.tolist(), strict=True))
    return np.array([known.get(str(one), np.nan) for one in ids])
