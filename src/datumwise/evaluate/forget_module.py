"""A removal request to a torch classifier: trained against the datapoints, and measured by its answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from datumwise.errors import LabelError, ModelMismatch
from datumwise.evaluate.forget_criteria import of_classes
from datumwise.evaluate.removed import Removed, Request
from datumwise.probe.collate import collate_for
from datumwise.probe.fingerprint import model_fingerprint
from datumwise.probe.signals import signals

__all__ = ["forget_module"]

ROWS = 32  # of a batch
KEPT = 20_000  # datapoints to keep that training draws from


def forget_module(
    asked: Request,
    model: Any,
    tokenizer: Any = None,
    *,
    method: str | None = None,
    reference: Any = None,
    attacks: tuple[str, ...] = (),
    options: dict[str, Any] | None = None,
    inplace: bool = False,
    checkpoint: str | Path | None = None,
) -> Removed:
    """See `datumwise.evaluate.forget_request.forget_datapoints`.

    Raises
    ------
    LabelError
        The ledger has no classes.
    ModelMismatch
        An attack is asked for.
    """
    from datumwise.forget.modules import unlearn_module

    if attacks:
        raise ModelMismatch(f"there is no attack {attacks[0]!r} on a classifier", remedy="leave out --attack")
    ledger = asked.ledger
    if not ledger.roles.get("label") or ledger.task == "regression":
        raise LabelError(f"{ledger.name} has no classes", remedy="ingest it with --label, or give a causal language model")
    method, options, stage = method or "grad_diff", dict(options or {}), asked.stage
    options.pop("max_length", None)
    size = int(options.pop("batch_size", ROWS))
    kept = np.sort(np.random.default_rng(asked.seed).permutation(asked.retain)[:KEPT])
    names = asked.ids[asked.forget]
    fingerprints = {"before": model_fingerprint(model)}

    def answers(one: Any, name: str) -> tuple[np.ndarray, np.ndarray]:
        stage.begin("check", name)
        found = signals(one, ledger, ("probs", "labels"), tokenizer=tokenizer, progress=stage.progress)
        stage.end(f"{name}, {len(ledger):,} datapoints")
        return np.asarray(found["probs"], float), np.asarray(found["labels"])

    before, codes = answers(model, "the model before")
    found = {"before": before}
    stage.begin("forget", method)
    result = unlearn_module(
        model, _batches(asked, asked.forget, model, tokenizer, size), _batches(asked, kept, model, tokenizer, size),
        method=method, inplace=inplace, random_state=asked.seed, ids=list(names), batch_size=size, progress=stage.progress,
        **options,
    )  # fmt: skip
    stage.end(f"{len(names):,} datapoints by {method}, {result.stopped_epoch} epochs")
    found["after"] = answers(result.model, "the model after")[0]
    if reference is not None:
        found["never_saw"] = answers(reference, "a model that never saw them")[0]
    parts = {"forget": asked.forget, "retain": kept, "test": asked.unseen}
    criteria, datapoints, losses = of_classes(found, codes, parts, names, seed=asked.seed)
    missing = [] if len(asked.unseen) else ["whether they are told from datapoints the model never saw: none were held out"]
    fingerprints["after"] = model_fingerprint(result.model)
    if reference is not None:
        fingerprints["never_saw"] = model_fingerprint(reference)
    return Removed(
        result.model, reference, fingerprints, method, dict(result.options), method == "retrain", result.seconds,
        criteria, datapoints, losses, (), missing,
    )  # fmt: skip


def _batches(asked: Request, rows: np.ndarray, model: Any, tokenizer: Any, size: int) -> list[Any]:
    """Datapoints as the model is called with them, a batch at a time."""
    reads, collate = collate_for(asked.ledger, model, tokenizer=tokenizer)
    found = []
    for at in range(0, len(rows), size):
        table = asked.ledger.take(list(asked.ids[rows[at : at + size]]), reads).combine_chunks()
        found += [collate(batch) for batch in table.to_batches()] if len(table) else []
    return found
