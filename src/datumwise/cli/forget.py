"""``datumwise forget``: a model as if it had never seen some datapoints, and a certificate of what was measured."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datumwise.cli.interrupted import interrupted
from datumwise.cli.options import Common, key_values, names_of
from datumwise.cli.outcome import Outcome
from datumwise.cli.stages import StageLines
from datumwise.cli.summary import shown_path
from datumwise.cli.terminal import Line, Surface, surface, wrapped

if TYPE_CHECKING:
    from datumwise.evaluate.certificate import Certificate
    from datumwise.ledger import Ledger

__all__ = ["forget"]

KEPT = "training"  # folder, beside the model to come, in which an interrupted run is kept


def forget(
    ledger: Path,
    /,
    *,
    model: str,
    ids: list[str] | None = None,
    where: str | None = None,
    method: str | None = None,
    retain: str | None = None,
    holdout: str | None = None,
    reference: str | None = None,
    attack: list[str] | None = None,
    lr: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lora: bool = False,
    option: list[str] | None = None,
    out: Path | None = None,
    name: str = "forgot",
    request: str = "",
    without_ids: bool = False,
    purge: bool = False,
    yes: bool = False,
    force: bool = False,
    seed: int = 0,
    common: Common = Common(),  # noqa: B008
) -> Outcome:
    """Make a model forget datapoints, measure how well beside one that never saw them, and write a certificate.

    Writes the model, certificate.json, certificate.md and certificate.html, and NAME_before, NAME_after and NAME_never_saw (the
    loss of each datapoint of the request) on the ledger. The model that is given is left as it is.

    Parameters
    ----------
    ledger
        The ledger that the model was trained on.
    model
        The trained model: a transformers folder, a GGUF file or hub name, a joblib file (datumwise learn writes one),
        module:attribute that gives a torch module, or a learner by name, which is trained first.
    ids
        The datapoints: ids with commas, or a file with one a line (remove.csv).
    where
        An SQL condition instead: "author = 'kim'".
    method
        Language models: calibrated (default), npo_klr, ga_gdr, simnpo, rmu, curvature and more (datumwise methods --room
        forget). Torch classifiers: grad_diff (default), ... Estimators: retrain (default, exact) or newton.
    retain
        SQL condition: what is to be kept. Default everything else.
    holdout
        SQL condition: datapoints of the ledger that the model never saw. Privacy leakage is measured against them.
    reference
        A model of the same kind that was trained without the datapoints, to compare with.
    attack
        Measure again after an attack: relearn, int8, int4, prefix, paraphrase.
    lr
        Learning rate; by default the method's own.
    epochs
        Passes over the datapoints to forget.
    batch_size
        Datapoints a step.
    lora
        Train low-rank adapters, merged into the model in the end, and not all weights.
    option
        Option of the method, as key=value. May be repeated: alpha=30.
    out
        Folder for the model and the certificate. Default NAME beside the ledger's name.
    name
        Of this request: prefix of the columns.
    request
        What was asked, in the asker's words; stands on the certificate.
    without_ids
        Leave the ids out of the certificate: their number and digest stay.
    purge
        Also erase the datapoints from the ledger, with a proof; all earlier versions go with them.
    yes
        Needed with --purge: you know that the history goes.
    force
        Write into a folder that holds a model already.
    seed
        Seed of everything random.
    """
    from datumwise.cli.models import load_model
    from datumwise.errors import DatumwiseError, LedgerExists
    from datumwise.evaluate.forget_request import forget_datapoints
    from datumwise.ledger import open_ledger

    opened = open_ledger(ledger)
    folder = out or Path(f"{opened.name}-{name}")
    if (folder / "certificate.json").exists() and not force:
        raise LedgerExists(f"{shown_path(folder)} holds a certificate already", remedy="give --out, or --force to replace it")
    if purge and not yes:
        raise DatumwiseError("--purge erases earlier versions of the ledger too", remedy="add --yes")
    asked = _listed(ids)
    options = key_values(option)
    given = {"lr": lr, "epochs": epochs, "batch_size": batch_size, "lora": lora or None}
    options |= {key: value for key, value in given.items() if value is not None}
    stage = StageLines(surface(sys.stderr), quiet=common.quiet or common.json)
    try:
        stage.begin("load", model)
        loaded, more = load_model(model, task=opened.task, seed=seed)
        never = None if reference is None else load_model(reference, task=opened.task, seed=seed)[0]
        stage.end(f"{model}{'' if never is None else f' and {reference}'}")
        found = forget_datapoints(
            opened, loaded, more.get("tokenizer"), ids=asked, where=where, method=method, retain=retain, holdout=holdout,
            reference=never, attacks=names_of(attack) or (), options=options, name=name, request=request,
            checkpoint=folder / KEPT, seed=seed, stage=stage,
        )  # fmt: skip
        certificate = found.certificate
        stage.begin("write", shown_path(folder))
        folder.mkdir(parents=True, exist_ok=True)
        kept = _kept(found.model, more.get("tokenizer"), folder)
        if purge:
            receipt = opened.delete(ids=list(certificate.ids), purge=True, yes=yes)
            certificate = replace(certificate, data=_purged(receipt, opened))
        files = _written(certificate, folder, with_ids=not without_ids)
        version = _noted(opened, certificate, name, files["certificate"])
        stage.end(f"{shown_path(kept)}, {shown_path(files['certificate'])}")
    except KeyboardInterrupt:
        return interrupted(stage, opened.path)
    finally:
        stage.close()
    _tidied(folder / KEPT)
    return _told(opened, certificate, found.columns, version, kept, files, without_ids)


def _listed(given: list[str] | None) -> list[str] | None:
    """Ids with commas, or the lines of a file; the first line of a CSV may be its header, its first column counts."""
    import csv

    if given is None:
        return None
    found: list[str] = []
    for word in given:
        path = Path(word.removeprefix("@"))
        if not path.is_file():
            found += names_of(word) or []
            continue
        with path.open(encoding="utf-8-sig", newline="") as file:
            lines = [row[0].strip() for row in csv.reader(file) if row and row[0].strip()]
        found += lines[1:] if lines and lines[0].lower() == "id" else lines
    return found


def _kept(model: Any, tokenizer: Any, folder: Path) -> Path:
    """Write the model the way its kind is written; returns where."""
    if hasattr(model, "save_pretrained"):
        from datumwise.probe.collate import no_bars

        with no_bars():
            model.save_pretrained(folder)
        if tokenizer is not None:
            tokenizer.save_pretrained(folder)
        return folder
    if hasattr(model, "state_dict"):
        from safetensors.torch import save_model

        save_model(model, str(folder / "model.safetensors"))
        return folder / "model.safetensors"
    import joblib

    joblib.dump(model, folder / "model.joblib")
    return folder / "model.joblib"


def _written(certificate: Certificate, folder: Path, *, with_ids: bool) -> dict[str, Path]:
    from datumwise.report.certificate import write_certificate

    files = {
        "certificate": folder / "certificate.json",
        "markdown": folder / "certificate.md",
        "page": folder / "certificate.html",
    }
    certificate.to_json(files["certificate"], with_ids=with_ids)
    shown = certificate if with_ids else replace(certificate, ids=(), datapoints=())
    files["markdown"].write_text(shown.to_markdown(), encoding="utf-8")
    write_certificate(shown, files["page"])
    return files


def _noted(ledger: Ledger, certificate: Certificate, name: str, file: Path) -> int:
    """The request as a fact of the ledger, for the report; its ids are not in it."""
    rows = [
        [c.name, c.figure(c.before), c.figure(c.after), c.figure(c.reference), c.verdict]
        for c in (*certificate.criteria, *certificate.attacks)
    ]
    fact = {
        "n": certificate.n_ids,
        "digest": certificate.ids_sha256,
        "version": certificate.ledger_version,
        "method": certificate.method,
        "exact": certificate.exact,
        "created": certificate.created,
        "certificate": shown_path(file),
        "criteria": rows,
    }
    ledger.refresh()
    earlier = {key: value for key, value in ledger.metadata.get("requests", {}).items() if key != name}
    return ledger.set_metadata(requests={**earlier, name: fact})


def _purged(receipt: Any, ledger: Ledger) -> str:
    return (
        f"erased from {ledger.path.name} on {receipt.time[:10]}: {receipt.files_checked:,} files searched without a trace, "
        f"{receipt.versions_gone:,} earlier versions gone"
    )


def _tidied(folder: Path) -> None:
    """What an interrupted run would have gone on from is not needed any more."""
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _told(
    ledger: Ledger,
    certificate: Certificate,
    columns: tuple[str, ...],
    version: int,
    kept: Path,
    files: dict[str, Path],
    without_ids: bool,
) -> Outcome:
    import json

    facts = json.loads(certificate.to_json(with_ids=not without_ids))
    facts = {
        "command": "forget",
        "ledger": ledger.path,
        "version": version,
        "columns": list(columns),
        "model": kept,
        "files": {key: str(path) for key, path in files.items()},
        "certificate": {key: value for key, value in facts.items() if key not in ("datumwise", "kind")},
    }

    def lines(to: Surface) -> Sequence[str | Line]:
        short = f"{certificate.ids_sha256[:4]}..{certificate.ids_sha256[-4:]}"
        said: list[str | Line] = list(certificate.table().splitlines())
        said += ["", *(f"  {part}" for part in wrapped(certificate.verdict, _room(to, 2)))]
        for word, texts in (
            ("traded", certificate.traded),
            ("not tested", certificate.not_tested),
            ("note", certificate.notes),
        ):
            for text in texts:
                first, *more = wrapped(text, _room(to, 15))
                said += [f"  {word:<11}  {first}", *(f"{'':15}{part}" for part in more)]
        said += [
            f"  {'model':<11}  {shown_path(kept)}",
            f"  {'certificate':<11}  {shown_path(files['certificate'])}  ({certificate.n_ids:,} ids, sha256 {short})",
            f"  {'page':<11}  {shown_path(files['page'])}",
            f"  {'ledger':<11}  {shown_path(ledger.path)} (version {version})",
        ]
        if "erased" not in certificate.data:
            gone = f"datumwise delete {shown_path(ledger.path)} --where ... --purge"
            said.append(f"  {'data':<11}  {certificate.data}: {gone} removes the bytes")
        else:
            said.append(f"  {'data':<11}  {certificate.data}")
        return said

    return Outcome(facts=facts, lines=lines)


def _room(to: Surface, indent: int) -> int | None:
    return None if to.width is None else max(to.width - indent, 16)
