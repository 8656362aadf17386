"""Unlearning benchmarks as their authors publish them: MUSE, TOFU, WMDP, RESTOR, and Open-Unlearning's evaluation logs.

Local folders and files are read unchanged; what is no local path is a hub name, read through `datasets`. Plain dicts and lists
come out, of which `datumwise.evaluate.MuseData` and `FactSet` are made.

Shi et al., 2024 (MUSE); Maini et al., 2024 (TOFU); Li et al., 2024 (WMDP); Rezaei et al., 2024 (RESTOR).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datumwise.errors import EmptyData, SchemaMismatch, SourceError, UnknownName, name_some
from datumwise.readers.spelling import listed, nearest
from datumwise.readers.unlearning_texts import FORMATS, hub_splits, load_texts, read_rows

__all__ = [
    "TOFU_RETAIN",
    "load_muse",
    "load_open_unlearning_logs",
    "load_restor",
    "load_texts",
    "load_tofu",
    "load_wmdp",
]

MUSE_COLUMNS = {
    "raw": ("text",),
    "train": ("text",),
    "scal": ("text",),
    "sust": ("text",),
    "privleak": ("text",),
    "verbmem": ("prompt", "gt"),
    "knowmem": ("question", "answer"),
}
MUSE_RENAMED = {  # names of older copies
    "knowmem": {"retain2_qa": "retain_qa", "retain2_qa_icl": "retain_qa_icl"},
    "privleak": {"retain2": "retain"},
}
TOFU_RETAIN = {"forget01": "retain99", "forget05": "retain95", "forget10": "retain90"}
OU_ROUGE = {"verbmem": "forget_verbmem_ROUGE", "knowmem": "forget_knowmem_ROUGE", "utility": "retain_knowmem_ROUGE"}


def load_muse(source: str | Path, corpus: str | None = None, *, parts: Iterable[str] | None = None) -> dict[str, Any]:
    """MUSE's texts, quotations and questions, from the official folders or the hub.

    Parameters
    ----------
    source : str or Path
        A corpus's folder (``data/news``), a folder of corpora with ``corpus``, or a hub name (``muse-bench/MUSE-News``).
    corpus : str, optional
        ``"news"`` or ``"books"``: the folder below ``source``.
    parts : iterable of str, optional
        Some of raw, train, verbmem, knowmem, privleak, scal, sust; all that are there by default.

    Returns
    -------
    dict
        ``part -> split -> rows``, a row being a dict of its ``id`` (its own, or its position in the file) and ``text``;
        ``prompt`` and ``gt``; or ``question`` and ``answer``. Older names of splits become today's (``retain2_qa`` is
        ``retain_qa``). Empty texts, which the official files hold, are left out and their ids listed under ``"dropped"``,
        ``"part/split" -> ids``.

    Raises
    ------
    SourceError
        No such folder or part.
    SchemaMismatch
        A question without an answer, a quotation without its prompt.
    """
    wanted = None if parts is None else list(parts)
    if wanted is not None and (unknown := [p for p in wanted if p not in MUSE_COLUMNS]):
        near = nearest(unknown[0], MUSE_COLUMNS)
        raise UnknownName(f"MUSE has no part {unknown[0]!r}", remedy=f"choose {near or ', '.join(MUSE_COLUMNS)}")
    folder = Path(source)
    found = _muse_folder(folder, corpus, wanted) if folder.is_dir() else _muse_hub(str(source), wanted)
    loaded: dict[str, Any] = {"dropped": {}}
    for part, splits in found.items():
        loaded[part] = {}
        for split, rows in splits.items():
            name = MUSE_RENAMED.get(part, {}).get(split, split)
            kept, dropped = _muse_rows(rows, MUSE_COLUMNS[part], f"{part}/{split}")
            loaded[part][name] = kept
            if dropped:
                loaded["dropped"][f"{part}/{name}"] = dropped
    return loaded


def load_tofu(source: str | Path = "locuslab/TOFU", config: str = "forget10") -> list[dict[str, Any]]:
    """Questions and answers of TOFU, with the paraphrases and wrong answers of its ``perturbed`` sets.

    Parameters
    ----------
    source : str or Path
        A folder of the published files (``forget10.json``: JSON Lines), one such file, or the hub name.
    config : str
        full, forget01, forget05, forget10, retain99, retain95, retain90, holdout10, ``forgetXX_perturbed``,
        ``retain_perturbed``, real_authors, world_facts, or these with ``_perturbed``. `TOFU_RETAIN` names what is retained
        beside each forget set.

    Returns
    -------
    list of dict
        ``id`` (position in the file), ``question``, ``answer`` and whatever else the file holds (``paraphrased_question``,
        ``paraphrased_answer`` str; ``perturbed_answer`` list of str).

    Raises
    ------
    SourceError, SchemaMismatch, EmptyData
    """
    rows, name = _table(source, config, "train")
    rows = _numbered(rows, ("question", "answer"), name)
    bad = [
        row["id"]
        for row in rows
        if "perturbed_answer" in row
        and not (isinstance(row["perturbed_answer"], list) and all(isinstance(a, str) for a in row["perturbed_answer"]))
    ]
    if bad:
        raise SchemaMismatch(
            f"perturbed_answer of {name} is no list of texts in rows {name_some(bad)}", column="perturbed_answer", ids=bad
        )
    return rows


def load_wmdp(
    source: str | Path = "cais/wmdp-corpora", config: str | None = None, *, split: str = "train"
) -> list[dict[str, Any]]:
    """WMDP's corpora (one ``text`` a line) or its questions (``question``, ``choices``, ``answer`` as an index).

    Parameters
    ----------
    source : str or Path
        A JSON Lines file, a folder with ``config``, or a hub name (``cais/wmdp-corpora``, ``cais/wmdp``).
    config : str, optional
        ``cyber-forget-corpus``, ``bio-retain-corpus``, ``wmdp-bio`` ...: a file's stem in a folder.
    split : str
        Of a hub data set: ``"train"`` for corpora, ``"test"`` for questions.

    Returns
    -------
    list of dict
        ``id`` and the columns of the file; corpora without their empty texts.

    Raises
    ------
    SourceError, SchemaMismatch, EmptyData
    """
    rows, name = _table(source, config, split)
    first = rows[0] if rows else {}
    if isinstance(first, Mapping) and "choices" in first:
        rows = _numbered(rows, ("question",), name)
        bad = [row["id"] for row in rows if not _chooses(row)]
        if bad:
            raise SchemaMismatch(
                f"answer of {name} is no index of its choices in rows {name_some(bad)}", column="answer", ids=bad
            )
        return rows
    return [row for row in _numbered(rows, ("text",), name) if row["text"].strip()]


def load_restor(folder: str | Path) -> dict[str, Any]:
    """RESTOR's facts and corrupting documents, from the ``datasets`` folder of the official repository.

    Parameters
    ----------
    folder : str or Path
        Holds ``facts.json`` (``{"dset": {entity: {relation: {"question", "answers"}}}, "context": {relation: [...]}}``),
        ``entities.json`` and, where they are, ``wikidata/<version>/mix_a<k>.json`` and ``SQuAD/*.json``.

    Returns
    -------
    dict
        ``"facts"`` and ``"context"`` as in the file, ``"entities"`` list of str (the target entities; every entity of the facts
        where there is no ``entities.json``), ``"documents"``: ``"wikidata/v0/mix_a2" -> [{"id", "text"}]``.

    Raises
    ------
    SourceError, SchemaMismatch
    """
    root = Path(folder)
    path = root / "facts.json"
    if not path.is_file():
        raise SourceError(f"folder {root.name} holds no facts.json", remedy="give RESTOR's datasets folder")
    read = _json(path)
    if not (isinstance(read, Mapping) and isinstance(read.get("dset"), Mapping) and isinstance(read.get("context"), Mapping)):
        raise SchemaMismatch("facts.json holds no dset and context", remedy="give RESTOR's datasets folder")
    facts = read["dset"]
    bad = [
        f"{entity} {relation}"
        for entity, relations in facts.items()
        for relation, fact in relations.items()
        if not (isinstance(fact.get("question"), str) and fact.get("answers"))
    ]
    if bad:
        raise SchemaMismatch(f"{len(bad):,} facts have no question or no answers ({name_some(bad)})", ids=bad)
    names = root / "entities.json"
    entities = [str(name) for name in _json(names)] if names.is_file() else list(facts)
    unknown = [name for name in entities if name not in facts]
    if unknown:
        raise SchemaMismatch(f"{len(unknown):,} entities of entities.json have no facts ({name_some(unknown)})", ids=unknown)
    documents = {
        path.relative_to(root).with_suffix("").as_posix(): load_texts(path)
        for path in sorted([*root.glob("wikidata/*/*.json"), *root.glob("SQuAD/*.json")])
    }
    return {"facts": facts, "context": read["context"], "entities": entities, "documents": documents}


def load_open_unlearning_logs(source: str | Path | Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation log of Open-Unlearning: its metrics as they are, and MUSE's criteria in this package's orientation.

    Parameters
    ----------
    source : str, Path or mapping
        ``MUSE_EVAL.json``, ``TOFU_EVAL.json``: ``{metric: {"agg_value", "value_by_index": {index: {...}}}}``.

    Returns
    -------
    dict
        ``"metrics"``: metric -> ``{"value": float or None, "per_item": {index: {...}}}``. ``"muse"``: those of verbmem,
        knowmem, utility that are there (0..100: the logs hold 0..1), ``privleak`` (as logged) and ``auc``, P(Min-K% score of
        a forget text > that of a holdout text): 1 minus what the log calls auc, so that 0 says "all members recognised" and
        a retrained model's value can be given as ``retrain=`` of `six_way`.

    Raises
    ------
    SourceError, SchemaMismatch
    """
    name = Path(source).name if isinstance(source, (str, Path)) else "the log"
    read = _json(Path(source)) if isinstance(source, (str, Path)) else source
    if not isinstance(read, Mapping) or not read:
        raise SchemaMismatch(f"{name} holds no metrics", remedy="give an evaluation log of Open-Unlearning")
    metrics: dict[str, Any] = {}
    for metric, entry in read.items():
        if not (isinstance(entry, Mapping) and "agg_value" in entry):
            raise SchemaMismatch(f"{metric} of {name} has no agg_value", remedy="give an evaluation log of Open-Unlearning")
        value = entry["agg_value"]
        metrics[metric] = {
            "value": None if value is None else float(value),
            "per_item": {str(i): fact for i, fact in entry.get("value_by_index", {}).items()},
        }
    values = {key: entry["value"] for key, entry in metrics.items() if entry["value"] is not None}
    muse = {ours: 100 * values[theirs] for ours, theirs in OU_ROUGE.items() if theirs in values}
    if "privleak" in values:
        muse["privleak"] = values["privleak"]
    if "mia_min_k" in values:
        muse["auc"] = 1 - values["mia_min_k"]
    return {"metrics": metrics, "muse": muse}


def _muse_folder(folder: Path, corpus: str | None, wanted: list[str] | None) -> dict[str, dict[str, list[Any]]]:
    root = folder / corpus if corpus else folder
    if not root.is_dir():
        there = sorted(path.name for path in folder.iterdir() if path.is_dir())
        raise SourceError(
            f"folder {folder.name} holds no {corpus}", remedy=f"choose {listed(there)}" if there else "check the path"
        )
    there = [part for part in MUSE_COLUMNS if (root / part).is_dir()]
    if not there:
        below = [path.name for path in sorted(root.iterdir()) if any((path / part).is_dir() for part in MUSE_COLUMNS)]
        raise SourceError(
            f"folder {root.name} holds none of MUSE's parts ({', '.join(MUSE_COLUMNS)})",
            remedy=f"give corpus={below[0]!r}" if below else "give a folder such as data/news",
        )
    _refuse_missing(wanted, there, f"folder {root.name}")
    found: dict[str, dict[str, list[Any]]] = {}
    for part in wanted or there:
        files: dict[str, Path] = {}
        for suffix in (".txt", ".json"):  # where both are there, the list of articles goes before the running text
            files |= {path.stem: path for path in sorted((root / part).glob(f"*{suffix}"))}
        if not files:
            raise SourceError(f"folder {root.name}/{part} holds no .json or .txt file")
        found[part] = {stem: _muse_file(path) for stem, path in sorted(files.items())}
    return found


def _muse_file(path: Path) -> list[Any]:
    try:
        return read_rows(path)[0]
    except EmptyData as error:
        raise SourceError(f"{path.parent.name}/{path.name} holds nothing", remedy="fetch the corpus again") from error


def _muse_hub(name: str, wanted: list[str] | None) -> dict[str, dict[str, list[Any]]]:
    if wanted is None:
        wanted = [part for part in MUSE_COLUMNS if part != "sust" or "books" not in name.lower()]  # Books has no sust
    return {part: {split: list(rows) for split, rows in hub_splits(name, part).items()} for part in wanted}


def _refuse_missing(wanted: list[str] | None, there: Sequence[str], name: str) -> None:
    missing = [part for part in wanted or [] if part not in there]
    if missing:
        raise SourceError(f"{name} holds no {missing[0]}", remedy=f"choose {listed(there)}")


def _muse_rows(rows: Sequence[Any], columns: tuple[str, ...], name: str) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows with their ids, and the ids of those that are empty."""
    if columns == ("text",):
        rows = [{"text": row} if isinstance(row, str) else row for row in rows]
    kept = _numbered(rows, columns, name)
    empty = [row["id"] for row in kept if not row[columns[-1]].strip()]
    if len(columns) > 1 and empty:
        raise SchemaMismatch(
            f"{len(empty):,} items of {name} have an empty {columns[-1]} ({name_some(empty)})", column=columns[-1], ids=empty
        )
    gone = set(empty)
    return [row for row in kept if row["id"] not in gone], empty


def _table(source: str | Path, config: str | None, split: str) -> tuple[list[Any], str]:
    """Rows of a file, of the file in a folder that a config names, or of a hub data set."""
    folder = Path(source)
    if folder.is_dir():
        stems = {path.stem: path for path in sorted(folder.iterdir()) if path.suffix in FORMATS}
        if config not in stems:
            near = nearest(config or "", stems)
            raise SourceError(
                f"folder {folder.name} holds no {config or 'file that is named'}",
                remedy=f"did you mean {near}" if near else f"choose {listed(stems)}" if stems else "check the path",
            )
        source = stems[config]
    rows, name = read_rows(source, config=config, split=split)
    if not rows:
        raise EmptyData(f"{name} holds no row")
    return rows, name


def _numbered(rows: Sequence[Any], columns: tuple[str, ...], name: str) -> list[dict[str, Any]]:
    """Rows with an id each; every column of ``columns`` is there and holds text."""
    for column in columns:
        bad = [i for i, row in enumerate(rows) if not (isinstance(row, Mapping) and isinstance(row.get(column), str))]
        if bad:
            raise SchemaMismatch(
                f"{len(bad):,} items of {name} have no {column} (rows {name_some(bad)})", column=column, ids=bad
            )
    return [{"id": str(i)} | {str(k): v for k, v in row.items()} | _own_id(row) for i, row in enumerate(rows)]


def _own_id(row: Mapping[str, Any]) -> dict[str, str]:
    return {"id": str(row["id"])} if row.get("id") is not None else {}


def _chooses(row: Mapping[str, Any]) -> bool:
    answer, choices = row.get("answer"), row.get("choices")
    return isinstance(choices, list) and isinstance(answer, int) and 0 <= answer < len(choices)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise SourceError(f"{path.name} cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise SourceError(f"{path.name} is not JSON") from error
