"""From a ledger that was audited back to the audit: nothing is kept but columns and one JSON fact."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datumwise.errors import UnknownColumn
from datumwise.evaluate import Interval, Proof, ProofCard, ProofRow
from datumwise.evaluate.batch_coverage import Promise
from datumwise.evaluate.forget_test import ForgetTest
from datumwise.probe.given import joined, text_columns
from datumwise.report.further import read_chosen, read_promised, read_requests, read_scores, score_names_of, selection_names
from datumwise.report.result import Audit, Evidence, Finding, MapData, Pass, Planted
from datumwise.report.suspects import KINDS
from datumwise.report.verdict import verdict
from datumwise.score.declare import find

if TYPE_CHECKING:
    import pyarrow as pa

    from datumwise.ledger import Ledger

__all__ = ["read_audit"]

# what was planted in the shipped set -> the finding that should tell it
PLANTED = {"label flipped": "label_error", "near copy": "near_duplicate", "foreign": "outlier"}


def read_audit(ledger: Ledger) -> Audit:
    """The audit that was last written to a ledger.

    Raises
    ------
    UnknownColumn
        If the ledger was never audited.
    """
    fact = ledger.metadata.get("audit")
    if not fact or "cleaned" not in ledger.schema.names:
        raise UnknownColumn(f"{ledger.path} was not audited yet", remedy=f"datumwise audit {ledger.path}")
    table = _audited(ledger)
    ids = np.asarray(table["id"].to_pylist(), object)
    classes = tuple(fact["classes"])
    flags = {k.key: _bools(table, f"is_{k.key}") for k in KINDS if f"is_{k.key}" in table.schema.names}
    removed = ~_bools(table, "cleaned")
    findings = _findings(table, fact, flags, removed)
    proof = _proof(fact["proof"])
    bits = np.zeros(len(ids), np.uint8)
    for finding in findings:
        bits |= flags[finding.key].astype(np.uint8) << finding.bit
    given = _given(table, ledger, fact)
    headline, support = verdict(len(ids), int((bits > 0).sum()), proof)
    named = [rule["score"] for rule in fact["rules"].values()] + selection_names(ledger) + score_names_of(ledger)
    scores = {name: _floats(table, name) for name in dict.fromkeys(named)}
    return Audit(
        name=ledger.name,
        kind=fact["kind"],
        n=len(ids),
        version=ledger.version,
        ledger=Path(ledger.path),
        created=fact["created"],
        seconds=fact["seconds"],
        cores=fact["cores"],
        command=fact["command"],
        verdict=headline,
        support=support,
        proof=proof,
        findings=findings,
        evidence=_evidence(table, ids, findings, flags, given, classes),
        passes=tuple(Pass(**one) for one in fact["passes"]),
        map=MapData(
            ids=ids,
            xy=np.column_stack([_floats(table, "map_x"), _floats(table, "map_y")]).astype(np.float32),
            flags=bits,
            labels=_codes(given, classes),
            classes=classes,
            scores=scores,
        ),
        limits=tuple(fact["limits"]),
        versions=fact["versions"],
        refused=ledger.metadata.get("unreadable", {}),
        picture=_pictures(ledger, ids),
        text=_texts(ledger, ids),
        cells=_cells(ledger, table, fact),
        promise=Promise.from_dict(fact["promise"]) if fact.get("promise") else None,
        forget=ForgetTest.from_dict(fact["forget"]) if fact.get("forget") else None,
        scores=read_scores(ledger),
        chosen=read_chosen(ledger),
        promised=read_promised(ledger),
        requests=read_requests(ledger),
    )


def _audited(ledger: Ledger) -> pa.Table:
    """Everything but pictures and texts, of the audited rows only."""
    roles = ledger.roles
    heavy = {roles.get("image"), *text_columns(ledger)}
    names = [c.name for c in ledger.columns if c.name not in heavy]
    return ledger.table(names, where="cleaned IS NOT NULL").combine_chunks()


def _bools(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table[name].to_pylist(), bool)


def _floats(table: pa.Table, name: str) -> np.ndarray:
    return table[name].to_numpy().astype(np.float32)


def _strings(table: pa.Table, name: str) -> list[str | None]:
    if name not in table.schema.names:
        return [None] * table.num_rows
    return [None if v is None else str(v) for v in table[name].to_pylist()]


def _given(table: pa.Table, ledger: Ledger, fact: dict[str, Any]) -> list[str | None]:
    label = ledger.roles.get("label")
    if not label or fact["task"] is None:
        return [None] * table.num_rows
    values = table[label].to_pylist()
    return [f"{v:.4g}" for v in values] if fact["task"] == "regression" else [str(v) for v in values]


def _codes(given: list[str | None], classes: tuple[str, ...]) -> np.ndarray:
    code = {name: i for i, name in enumerate(classes)}
    return np.asarray([code.get(name, -1) if name is not None else -1 for name in given], np.int64)


def _findings(table: pa.Table, fact: dict[str, Any], flags: dict[str, np.ndarray], removed: np.ndarray) -> tuple[Finding, ...]:
    found = []
    planted = np.asarray(_strings(table, "planted") if fact["planted"] else [""] * table.num_rows, object)
    for bit, kind in enumerate(KINDS):
        if kind.key not in flags:
            continue
        rule, flag = fact["rules"][kind.key], flags[kind.key]
        gone = int((flag & removed).sum())
        declared = find(rule["score"])
        groups = f"{fact['groups']:,} group{'s' if fact['groups'] != 1 else ''}"
        detail = groups if kind.key == "near_duplicate" and fact["groups"] else ""
        found.append(
            Finding(
                key=kind.key, title=kind.title, bit=bit, count=int(flag.sum()), removed=gone if kind.removed else 0,
                score=rule["score"], threshold=rule["threshold"], rule=rule["words"], method=rule["method"],
                reads=", ".join(declared.needs), source=declared.source, detail=detail,
                planted=_planted(planted, kind.key, flag, table) if fact["planted"] else None,
            )
        )  # fmt: skip
    return tuple(found)


def _planted(planted: np.ndarray, key: str, flag: np.ndarray, table: pa.Table) -> Planted | None:
    name = next((name for name, kind in PLANTED.items() if kind == key), None)
    if name is None:
        return None
    truth = planted == name
    found = flag
    if key == "near_duplicate":  # a found pair is right when one of it was planted; the original is no false alarm
        copy_of = _strings(table, "near_copy_of")
        row = {one: i for i, one in enumerate(table["id"].to_pylist())}
        pairs = [(i, row[other]) for i, other in enumerate(copy_of) if other is not None and other in row]
        right = len({i if truth[i] else j for i, j in pairs if truth[i] or truth[j]})
        return Planted(planted=int(truth.sum()), right=right, found=len(pairs))
    return Planted(planted=int(truth.sum()), right=int((truth & found).sum()), found=int(found.sum()))


def _proof(fact: dict[str, Any]) -> Proof:
    def interval(one: dict[str, float]) -> Interval:
        return Interval(**one)

    cards = tuple(
        ProofCard(
            **{
                **card,
                "rows": tuple(ProofRow(r["name"], r["n"], interval(r["score"])) for r in card["rows"]),
                "cleaned_minus_random": interval(card["cleaned_minus_random"]),
                "cleaned_minus_all": interval(card["cleaned_minus_all"]),
            }
        )
        for card in fact["cards"]
    )
    return Proof(**{**fact, "cards": cards})


def _evidence(
    table: pa.Table,
    ids: np.ndarray,
    findings: tuple[Finding, ...],
    flags: dict[str, np.ndarray],
    given: list[str | None],
    classes: tuple[str, ...],
) -> tuple[Evidence, ...]:
    """Why each flagged datapoint is listed, most suspicious first: by kind in order of seriousness, then by score."""
    row_of = {one: i for i, one in enumerate(ids.tolist())}
    suggested = _strings(table, "suggested")
    p_given = _floats(table, "p_given") if "p_given" in table.schema.names else np.full(len(ids), np.nan)
    nearest = table["nearest"].to_pylist()
    copy_of = _strings(table, "near_copy_of")
    scores = {f.key: _floats(table, f.score) for f in findings}
    memorization = _floats(table, "memorization") if "memorization" in table.schema.names else None
    rank = {f.key: _ranks(scores[f.key]) for f in findings}
    found = []
    for row in np.flatnonzero(np.any(list(flags.values()), axis=0)).tolist() if flags else ():
        kinds = tuple(f.key for f in findings if flags[f.key][row])
        neighbours = tuple(row_of[one] for one in nearest[row] or [] if one in row_of)
        said = [
            _because(
                key, row, given[row], suggested[row], p_given[row], scores[key][row], copy_of[row], ids, row_of, given,
                None if memorization is None else memorization[row], neighbours, flags[key],
            )
            for key in kinds
        ]  # fmt: skip
        most = kinds[0]
        seriousness = len(KINDS) - next(i for i, k in enumerate(KINDS) if k.key == most)
        first = float(rank[most][row])
        if most == "near_duplicate":  # copies that are left out come before the ones that are kept
            first = first / 2 + (copy_of[row] is not None) / 2
        sentence = "; ".join(said)
        looks_like = suggested[row] if suggested[row] != given[row] else None
        found.append(
            Evidence(
                row=row, id=str(ids[row]), kinds=kinds, given=given[row], suggested=looks_like, sentence=sentence,
                neighbours=neighbours, p_given=float(p_given[row]), suspicion=seriousness + first,
            )
        )  # fmt: skip
    return tuple(sorted(found, key=lambda e: (-e.suspicion, e.row)))


def _ranks(scores: np.ndarray) -> np.ndarray:
    """Rank in 0..1 of each score, NaN lowest."""
    order = np.argsort(np.argsort(np.nan_to_num(scores, nan=-np.inf), kind="stable"), kind="stable")
    return order / max(len(scores), 1)


def _because(
    key: str,
    row: int,
    given: str | None,
    suggested: str | None,
    p_given: float,
    value: float,
    copy_of: str | None,
    ids: np.ndarray,
    row_of: dict[str, int],
    given_all: list[str | None],
    memorization: float | None,
    neighbours: tuple[int, ...],
    flag: np.ndarray,
) -> str:
    """One clause of evidence."""
    if key == "label_error" and np.isfinite(p_given):
        return f"looks like {suggested}; models that never saw it give {given} a probability of {p_given:.2f}"
    if key == "label_error":
        return f"given {given}, predicted {suggested}: {value:.1f} robust standard deviations apart"
    if key == "near_duplicate":
        if copy_of is None:
            return "near copies of it are left out, this one is kept"
        other = given_all[row_of[copy_of]] if copy_of in row_of else None
        return f"copy of {copy_of}" + (f", which is labelled {other}" if other != given else "")
    if key == "outlier":
        return f"its 10 nearest neighbours are {value:.1f} times as far as is typical"
    if key == "memorised" and memorization is not None:
        return f"given {given} only by models that saw it: probability {p_given:.2f} unseen, {memorization:+.2f} seen"
    if key == "memorised":
        return f"likelier to the model than its content explains: zlib ratio {value:.2f}"
    if np.isfinite(p_given):
        return f"hard: EL2N {value:.2f}, probability of {given} {p_given:.2f}; kept"
    if given is not None:
        return f"hard: {value:.1f} robust standard deviations off; kept"
    return f"unlikely to the model: {value:.2f} nats a token; kept"


def _pictures(ledger: Ledger, ids: np.ndarray) -> Callable[[int], Any] | None:
    column = ledger.roles.get("image")
    if not column:
        return None

    def picture(row: int) -> Any:
        from PIL import Image

        value = ledger.take([ids[row]], [column])[column][0].as_py()
        return Image.open(io.BytesIO(value))

    return picture


def _texts(ledger: Ledger, ids: np.ndarray) -> Callable[[int], str | None] | None:
    columns = text_columns(ledger)
    if not columns:
        return None

    def text(row: int) -> str | None:
        found = ledger.take([ids[row]], columns)
        parts = [found[column][0].as_py() for column in columns]
        return parts[0] if len(parts) == 1 else joined(parts[0] or "", parts[1] or "")

    return text


def _cells(ledger: Ledger, table: pa.Table, fact: dict[str, Any]) -> Callable[[int], list[tuple[str, str, float]]] | None:
    """The cells of a row, most unusual first: robust z of numbers, minus log share of categories."""
    if fact["kind"] != "table":
        return None
    features = ledger.roles.get("features") or []
    columns: list[tuple[str, Any, np.ndarray]] = []
    for name in [features] if isinstance(features, str) else features:
        values = table[name]
        if hasattr(values.type, "list_size"):  # a vector: each of its numbers is a cell
            block = values.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(len(values), -1)
            columns += [(f"{name}[{i}]", block[:, i], _robust_z(block[:, i])) for i in range(block.shape[1])]
        elif name in table.schema.names:
            columns.append((name, values.to_pylist(), _unusualness(values.to_pylist())))

    def cells(row: int) -> list[tuple[str, str, float]]:
        found = []
        for name, values, unusual in columns:
            value = values[row]
            number = isinstance(value, float | np.floating)
            shown = f"{value:.4g}" if number else "missing" if value is None else str(value)
            found.append((name, shown, float(unusual[row])))
        return sorted(found, key=lambda cell: -cell[2])

    return cells


def _unusualness(values: list[Any]) -> np.ndarray:
    """Float (n,): robust z of a number, minus the natural logarithm of the share of a category."""
    numbers = sum(isinstance(v, int | float) and not isinstance(v, bool) for v in values)
    if numbers > len(values) / 2:
        return _robust_z(np.asarray([v if isinstance(v, int | float) else np.nan for v in values], float))
    keys = np.asarray([str(v) for v in values])
    _, code, count = np.unique(keys, return_inverse=True, return_counts=True)
    return -np.log(count[code] / len(keys))


def _robust_z(values: np.ndarray) -> np.ndarray:
    """Distance from the median in robust standard deviations; 0 where the value is missing or nothing varies."""
    middle = np.nanmedian(values)
    spread = 1.4826 * np.nanmedian(np.abs(values - middle)) or float(np.nanstd(values)) or 1.0
    return np.nan_to_num(np.abs(values - middle) / spread)
