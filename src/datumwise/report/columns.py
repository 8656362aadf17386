"""The audit's columns on the ledger: what they are called and where each came from. Written once, read by every surface."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.report.subject import Subject
from datumwise.report.suspects import KINDS, Suspects
from datumwise.score.declare import find

if TYPE_CHECKING:
    import pyarrow as pa

    from datumwise.ledger import Ledger, Provenance

__all__ = ["write_columns"]

NEAREST = 3  # neighbours kept as evidence


def write_columns(
    ledger: Ledger,
    subject: Subject,
    suspects: Suspects,
    signals: dict[str, Any],
    *,
    nearest: np.ndarray,
    xy: np.ndarray,
    model: str,
    seed: int,
    params: dict[str, Any],
) -> int:
    """Write what was found about the audited datapoints in one commit; the held-out ones read null.

    Columns: the scores by name; ``is_<kind>`` for every kind of finding; ``cleaned`` (true: kept by the cleaned set);
    ``near_copy_of`` (id of the copy that is kept); ``nearest`` (ids of the three nearest, nearest first); ``map_x`` and
    ``map_y``; and for labels ``suggested`` and ``p_given`` (probability of the given label by models that never saw the
    datapoint), for numbers ``suggested``.

    Returns
    -------
    int
        The new version of the ledger.
    """
    import pyarrow as pa

    from datumwise.ledger import Provenance

    ids = subject.ids[subject.train]
    values: dict[str, pa.Array] = {}
    origin: dict[str, Provenance] = {}

    def put(name: str, array: pa.Array, method: str, reads: str, **facts: Any) -> None:
        values[name] = _spread(array, subject)
        origin[name] = Provenance(method, params, [reads], model, seed, **facts)

    for name, scores in suspects.scores.items():
        declared = find(name)
        reads = ", ".join(declared.needs)
        put(
            name,
            pa.array(scores.astype(np.float32)),
            name,
            reads,
            source=declared.source,
            higher=declared.higher,
        )
    for kind in KINDS:
        if kind.key in suspects.flags:
            rule = suspects.rules[kind.key]
            put(
                f"is_{kind.key}",
                pa.array(suspects.flags[kind.key]),
                f"{rule.method}: {rule.words}",
                rule.score,
            )
    put("cleaned", pa.array(~suspects.removed), "kept by the cleaned set", "findings")
    copies = [ids[copy] if copy >= 0 else None for copy in suspects.copy_of.tolist()]
    put(
        "near_copy_of",
        pa.array(copies, pa.string()),
        "the near copy that is kept",
        "embedding",
        refers_to_ids=True,
    )
    beside = [ids[row].tolist() for row in nearest[:, :NEAREST]]
    put(
        "nearest",
        pa.array(beside, pa.list_(pa.string())),
        "nearest datapoints",
        "embedding",
        refers_to_ids=True,
    )
    for axis, name in enumerate(("map_x", "map_y")):
        put(name, pa.array(xy[:, axis]), "t-SNE", "embedding", source="van der Maaten and Hinton, 2008")
    if "probs" in signals:
        best = np.asarray(subject.classes, object)[signals["probs"].argmax(1)]
        given = signals["probs"][np.arange(len(ids)), signals["labels"]]
        put("suggested", pa.array(best.tolist(), pa.string()), "likeliest class", "probs")
        put("p_given", pa.array(given.astype(np.float32)), "probability of the given label", "probs")
    elif "pred" in signals:
        put("suggested", pa.array([f"{p:.4g}" for p in signals["pred"]]), "predicted value", "pred")
    return ledger.write(values, provenance=origin, overwrite=True)


def _spread(array: pa.Array, subject: Subject) -> pa.Array:
    """From the audited rows to all rows of the ledger, null where a datapoint was held out."""
    import pyarrow as pa

    at = np.zeros(len(subject.ids), np.int64)
    at[subject.train] = np.arange(len(subject.train))
    missing = np.ones(len(subject.ids), bool)
    missing[subject.train] = False
    return array.take(pa.array(at, mask=missing))
