"""``datumwise dedup``: which datapoints say the same as another, written on the ledger."""

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

__all__ = ["dedup"]

COLUMNS = ("duplicate_of", "duplicate_similarity")
SHOWN = 3  # ids of a group
GROUPS = 10  # that are printed
SOURCES = {
    "exact": "",
    "minhash": "Broder, 1997; bands by datasketch's rule",
    "simhash": "Charikar, 2002; Manku et al., 2007",
    "substring": "Lee et al., 2022, section 4.2",
    "semantic": "Abbas et al., 2023 (SemDeDup)",
}


def dedup(
    ledger: Path,
    /,
    *,
    method: Literal["exact", "minhash", "simhash", "substring", "semantic"] = "minhash",
    threshold: float | None = None,
    keep: str | None = None,
    ngram: int | None = None,
    normalise: bool = False,
    common: Common = Common(),  # noqa: B008
) -> Outcome:
    """Find datapoints that say the same as another, and write which one is kept in their place.

    Writes two columns: duplicate_of, the id that is kept in a datapoint's place, and duplicate_similarity, how similar
    the two are. Nothing is deleted: `datumwise export LEDGER FILE --where "duplicate_of is null"` leaves duplicates out.

    Parameters
    ----------
    ledger
        The ledger.
    method
        exact (text, bytes or numbers), minhash (share of common word runs), simhash (fingerprints of texts), substring
        (long passages in common) or semantic (cosine of embeddings).
    threshold
        Least similarity, above 0 and up to 1; default 0.7 (minhash), 0.953 (simhash: 3 of 64 bits), 0.8 (substring),
        0.95 (semantic).
    keep
        Which of a group is kept: first, longest, or the name of a column of numbers, of which the highest is kept.
    ngram
        Words a run; default 5 (minhash) or 3 (simhash).
    normalise
        With exact: case, punctuation and spaces of texts do not count.
    """
    from datumwise.ledger import open_ledger

    opened = open_ledger(ledger)
    stage = StageLines(surface(sys.stderr), quiet=common.quiet or common.json)
    stage.begin("dedup", method)
    try:
        groups, reads, params = _found(opened, method, threshold, keep, ngram, normalise, stage)
        _write(opened, groups, reads, {"method": method, **params})
    except KeyboardInterrupt:
        return interrupted(stage, opened.path)
    finally:
        stage.close()
    said = "duplicate" if groups.n_left_out == 1 else "duplicates"
    stage.end(f"{groups.n_left_out:,} {said} -> {opened.path.name}")
    return _told(opened, groups, method)


def _found(
    ledger: Any, method: str, threshold: float | None, keep: str | None, ngram: int | None, normalise: bool, stage: StageLines
) -> tuple[Any, list[str], dict[str, Any]]:
    """Groups, the columns read, and the parameters."""
    from datumwise.errors import DatumwiseError

    for given, name, takers in ((ngram, "ngram", ("minhash", "simhash")), (normalise or None, "normalise", ("exact",))):
        if given is not None and method not in takers:
            raise DatumwiseError(f"--{name} means nothing to --method {method}", remedy=f"it is of {' and '.join(takers)}")
    if threshold is not None and method == "exact":
        raise DatumwiseError("--threshold means nothing to --method exact", remedy="copies are equal or they are not")
    ids = ledger.ids
    rule: Any = {} if keep is None else {"keep": keep if keep in ("first", "longest") else _numbers(ledger, keep)}
    said = {"keep": keep, "threshold": threshold, "ngram": ngram}
    params = {name: value for name, value in said.items() if value is not None}
    options = rule if threshold is None else {**rule, "threshold": threshold}
    if ngram is not None:
        options["ngram"] = ngram
    if method == "exact":
        from datumwise.select.exact import exact

        values, reads = _values(ledger)
        params |= {"normalise": True} if normalise else {}
        return exact(values, normalise=normalise, ids=ids, **rule), reads, params
    if method == "semantic":
        return *_semantic(ledger, ids, options, stage), params
    texts, reads = _texts(ledger)
    if method == "minhash":
        from datumwise.select.minhash import minhash

        return minhash(texts, ids=ids, progress=stage.progress, **options), reads, params
    if method == "substring":
        from datumwise.select.substring import substring

        return substring(texts, ids=ids, progress=stage.progress, **options), reads, params
    from datumwise.select.groups import share
    from datumwise.select.simhash import BITS, simhash

    if threshold is not None:
        options["max_distance"] = int((1 - share(options.pop("threshold"), "threshold")) * BITS + 1e-9)
    return simhash(texts, ids=ids, progress=stage.progress, **options), reads, params


def _semantic(ledger: Any, ids: Any, options: dict[str, Any], stage: StageLines) -> tuple[Any, list[str]]:
    from datumwise.errors import UnknownName
    from datumwise.probe.features import embed, features
    from datumwise.select.groups import share
    from datumwise.select.semantic import semantic

    keep = options.get("keep", "hard")
    if isinstance(keep, str) and keep == "longest":
        raise UnknownName("embeddings have no length", remedy="--keep first, or a column of numbers")
    order = "given" if isinstance(keep, str) and keep == "first" else keep
    eps = 1 - share(options.get("threshold", 0.95), "threshold")
    seen = features(ledger)
    X = embed(seen.transform, seen.X, n_components=128, seed=0).transform(seen.X)
    return semantic(X, round(eps, 12), order=order, ids=ids, progress=stage.progress), list(seen.columns)


def _texts(ledger: Any) -> tuple[list[str], list[str]]:
    """Texts, or prompts and responses joined by a line break, and the columns they are from."""
    from datumwise.errors import SchemaMismatch, name_some

    roles = ledger.roles
    columns = [roles["text"]] if roles.get("text") else [roles[role] for role in ("prompt", "response") if roles.get(role)]
    if not columns:
        raise SchemaMismatch(f"{ledger.name} has no text", remedy="--method exact or semantic, or ingest with --text COLUMN")
    rows = ledger.table(columns)
    parts = [rows[column].to_pylist() for column in columns]
    bad = [str(id) for id, *some in zip(ledger.ids, *parts, strict=True) if any(one is None for one in some)]
    if bad:
        raise SchemaMismatch(f"datapoint {name_some(bad)} has no text", remedy="delete these datapoints or fill them", ids=bad)
    return ["\n".join(map(str, some)) for some in zip(*parts, strict=True)], columns


def _values(ledger: Any) -> tuple[Any, list[str]]:
    """What makes a datapoint: its text, the bytes of its image, or all its features."""
    import numpy as np

    roles = ledger.roles
    if roles.get("image"):
        return ledger.table([roles["image"]])[roles["image"]].to_pylist(), [roles["image"]]
    if roles.get("text") or roles.get("prompt"):
        return _texts(ledger)
    named = roles.get("features") or ()
    columns = [named] if isinstance(named, str) else list(named)
    rows = zip(*(ledger.table([column])[column].to_pylist() for column in columns), strict=True)
    return np.array([repr(row).encode() for row in rows], object).tolist(), columns


def _numbers(ledger: Any, column: str) -> Any:
    from datumwise.errors import SchemaMismatch

    values = ledger.array(column)
    if values.ndim != 1 or values.dtype.kind not in "fiub":
        raise SchemaMismatch(f"column '{column}' holds no numbers", remedy="--keep first, longest or a column of numbers")
    return values


def _write(ledger: Any, groups: Any, reads: Sequence[str], params: dict[str, Any]) -> None:
    import numpy as np
    import pyarrow as pa

    from datumwise.ledger.provenance import Provenance

    ids = np.asarray(ledger.ids, object)
    kept = [None if keep else str(ids[by]) for keep, by in zip(groups.keep, groups.kept_by, strict=True)]
    similarity = pa.array(groups.similarity_to_kept.astype(np.float64), mask=groups.keep)
    method = f"dedup:{params['method']}"
    facts: dict[str, Any] = {"params": params, "reads": list(reads), "source": SOURCES[params["method"]]}
    provenance = {
        "duplicate_of": Provenance(method, refers_to_ids=True, **facts),
        "duplicate_similarity": Provenance(method, higher="more similar to what is kept in its place", **facts),
    }
    ledger.write(
        {"duplicate_of": pa.array(kept, pa.string()), "duplicate_similarity": similarity}, provenance=provenance, overwrite=True
    )


def _told(ledger: Any, groups: Any, method: str) -> Outcome:
    biggest = groups.table(GROUPS)
    facts = {
        "command": "dedup",
        "ledger": ledger.path,
        "version": ledger.version,
        "method": method,
        "rule": groups.rule,
        "rows": len(groups),
        "left_out": groups.n_left_out,
        "groups": groups.n_groups,
        "biggest": biggest,
        "columns": list(COLUMNS),
    }

    def lines(to: Surface) -> Sequence[str | Line]:
        noun = "group" if groups.n_groups == 1 else "groups"
        head = f"{groups.n_left_out:,} of {len(groups):,} datapoints say the same as another, in {groups.n_groups:,} {noun}"
        said: list[str | Line] = [Line(f"  {head}", "bold"), f"  {groups.rule}"]
        if biggest:
            rows = [(f"{g['size']:,}", f"{g['least']:.2f}", _some(g["kept"]), _some(g["left_out"])) for g in biggest]
            header = ["size", "least similar", "kept", "duplicates"]
            said += ["", *table(header, rows, right=header[:2], width=to.width)]
        path = shown_path(ledger.path)
        said += ["", f"  ledger  {path} (version {ledger.version}), columns {' and '.join(COLUMNS)}"]
        if biggest:
            said.append(f'  next    datumwise export {path} FILE --where "duplicate_of is null"')
        return said

    return Outcome(facts=facts, lines=lines)


def _some(ids: Sequence[Any]) -> str:
    more = f" and {len(ids) - SHOWN:,} more" if len(ids) > SHOWN else ""
    return ", ".join(map(str, ids[:SHOWN])) + more
