"""How the bytes of a datapoint leave every file of a ledger, and how that is proved.

Delete by row id, blank what names it, rewrite the files that held it, drop all earlier versions, remove
strays and journal rows, then decode every file that is left and search it. Killed at any point, the next
purge goes on: what is to be erased is noted first and the note is removed last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lance
import numpy as np
import pyarrow as pa

from datumwise._version import __version__
from datumwise.errors import DatumwiseError, LedgerBusy, MissingId, PurgeBlocked, name_some
from datumwise.ledger import create, read
from datumwise.ledger.commit import patch_columns, recover, retry, translated, writing
from datumwise.ledger.erased import Traces, mentions, search_files, stray_files, told_in_header, without
from datumwise.ledger.export import EXPORTS, exports
from datumwise.ledger.journal import Journal
from datumwise.ledger.provenance import KEY, of_field

if TYPE_CHECKING:
    from datumwise.ledger.ledger import Ledger

__all__ = ["NOTE", "PurgeReceipt", "interrupted", "purge_rows"]

NOTE = "purging.json"  # ids of a purge that is under way; the last thing to go
LOG = "purges.jsonl"  # that there was a purge: time, number, digest; no ids
OUT_OF_REACH = (
    "snapshots of the file system and backups",
    "spare blocks of an SSD",
    "older object versions, where a store keeps them",
    "pages written from earlier versions",
    "models trained on the datapoints",
)


@dataclass(frozen=True)
class PurgeReceipt:
    """What was erased, and what was looked at to prove it.

    Parameters
    ----------
    ledger : str
    ids : tuple of str
        The datapoints; empty where everything deleted before was erased.
    digest : str
        SHA-256 of the sorted ids, one a line: stands for them where they may not be kept.
    version : int
        The version that is left.
    rows_left : int
        Datapoints it holds.
    versions_gone, files_gone, bytes_gone : int
    blanked : dict of str to int
        Findings of other datapoints that named a purged one: values set to null, by column.
    mentions : dict of str to int
        Other datapoints whose given columns equal a purged id: not ours to change.
    journal_rows : int
        Rows taken out of journals of unfinished passes.
    indices_dropped : tuple of str
    files_checked : int
        Files of the ledger decoded and searched without a trace.
    exports : tuple of str
        Copies made by export that are still there: erase them yourself.
    out_of_reach : tuple of str
        What no program can vouch for.
    seconds, proof_seconds : float
        What the erasure took, and what the proof took after it.
    time : str
        ISO 8601, UTC.
    """

    ledger: str
    ids: tuple[str, ...]
    digest: str
    version: int
    rows_left: int
    versions_gone: int
    files_gone: int
    bytes_gone: int
    blanked: dict[str, int]
    mentions: dict[str, int]
    journal_rows: int
    indices_dropped: tuple[str, ...]
    files_checked: int
    exports: tuple[str, ...]
    out_of_reach: tuple[str, ...]
    seconds: float
    proof_seconds: float
    time: str
    package: str = __version__

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    def __repr__(self) -> str:
        what = _many(len(self.ids), "datapoint") if self.ids else "all datapoints deleted before"
        facts = [
            ("erased", f"{what} from {self.ledger}, {self.seconds + self.proof_seconds:.1f} s"),
            ("digest", f"sha256 {self.digest[:16]}…"),
            (
                "gone",
                f"{_many(self.versions_gone, 'version')}, {_many(self.files_gone, 'file')}, {self.bytes_gone:,} bytes",
            ),
            ("proved", f"{_many(self.files_checked, 'file')} searched, version {self.version} is left"),
            *(("blanked", f"{_many(n, 'value')} of {name}") for name, n in self.blanked.items()),
            *(("mentioned", f"in {_many(n, 'value')} of {name}, which were given") for name, n in self.mentions.items()),
            *(("copy", path) for path in self.exports),
            *(("beyond", what) for what in self.out_of_reach),
        ]
        return "\n".join(f"{name:<10}{text}" for name, text in facts)


@dataclass
class Job:
    """One purge, as its steps see it."""

    path: Path
    ids: list[str]
    blanked: dict[str, int] = field(default_factory=dict)
    journal_rows: int = 0
    indices_dropped: list[str] = field(default_factory=list)

    @property
    def uri(self) -> str:
        return str(self.path / create.DATA)

    def open(self) -> Any:
        return lance.dataset(self.uri)


def purge_rows(ledger: Ledger, ids: Iterable[str] | None, where: str | None, *, yes: bool) -> PurgeReceipt:
    """Erase datapoints (or, with neither ids nor a condition, all that were deleted before).

    Raises
    ------
    MissingId
        An id is on no version of the ledger.
    PurgeBlocked
        Tags or branches hold the rows, `yes` is missing, or the proof found a trace.
    """
    path, began = ledger.path, time.monotonic()
    with writing(path / "lock"), translated(ledger.uri):
        recover(ledger.uri)
        ds = lance.dataset(ledger.uri)
        job = Job(path, _targets(ds, path, ids, where))
        _refuse_held(ds, job)
        _refuse_running(path)
        versions = {entry["version"] for entry in ds.versions()}
        if not yes:
            raise PurgeBlocked(
                f"to erase {_many(len(job.ids), 'datapoint') if job.ids else 'what was deleted before'},"
                f" all versions of {path.name} but the last must go (there are {len(versions):,})",
                remedy="pass yes=True if they may",
                ids=job.ids,
            )
        before = _sizes(path)
        _note(job)
        for step in STEPS:
            step(job)
        erased = time.monotonic()
        traces = prove(job)
        after = _sizes(path)
        latest = job.open()
        receipt = PurgeReceipt(
            ledger=path.name,
            ids=tuple(job.ids),
            digest=_digest(job.ids),
            version=int(latest.version),
            rows_left=int(latest.count_rows()),
            versions_gone=len(versions - {entry["version"] for entry in latest.versions()}),
            files_gone=len(before.keys() - after.keys()),
            bytes_gone=sum(size for name, size in before.items() if name not in after),
            blanked=job.blanked,
            mentions=traces.mentions,
            journal_rows=job.journal_rows,
            indices_dropped=tuple(job.indices_dropped),
            files_checked=traces.files,
            exports=tuple(exports(path)),
            out_of_reach=OUT_OF_REACH,
            seconds=erased - began,
            proof_seconds=time.monotonic() - erased,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        _log(path, receipt)
        (path / NOTE).unlink()
        return receipt


def interrupted(path: Path) -> int:
    """How many datapoints a killed purge has left to erase; 0 where there was none."""
    return len(_noted(path))


# ---------------------------------------------------------------- the steps, each harmless when repeated


def delete_rows(job: Job) -> None:
    """By row id: the store keeps a condition as text in its files."""
    ds = job.open()
    found = read.search(ds, pa.array(job.ids, pa.string()))
    rows = found[found != read.NOWHERE]
    if len(rows):
        retry(lambda: job.open().delete(f"_rowid IN ({','.join(map(str, rows.tolist()))})"))


def blank_references(job: Job) -> None:
    """Findings of other datapoints that name a purged one become null, which means: to be computed again."""
    if not job.ids:
        return
    schema = read.visible(job.open().schema)
    for column in schema:
        made = of_field(column)
        if made is None or not made.refers_to_ids:
            continue
        rows = [
            batch["_rowid"].to_numpy()[mentions(batch[column.name], job.ids, inside_text=True)]
            for batch in read.scan(job.open(), [column.name], batch_size=read.SCAN_ROWS, with_row_id=True)
        ]
        named = np.concatenate(rows) if rows else np.empty(0, np.uint64)
        if len(named):
            patch_columns(job.uri, [column], named, {column.name: pa.nulls(len(named), column.type)})
            job.blanked[column.name] = len(named)


def scrub_facts(job: Job) -> None:
    """Ids that the ledger's facts, a finding's parameters or the list of exports hold."""
    ds = job.open()
    facts = create.facts_of(ds.schema, job.path)
    clean = without(facts, job.ids)
    if clean != facts:
        retry(lambda: job.open().update_schema_metadata({KEY.decode(): json.dumps(clean)}))
    for column in ds.schema:
        text = (column.metadata or {}).get(KEY)
        made = json.loads(text) if text else None
        told = without(made, job.ids)
        if told != made:
            changed = {column.name: {KEY.decode(): json.dumps(told)}}
            retry(lambda changed=changed: job.open().update_field_metadata(changed))  # type: ignore[misc]
    noted = job.path / EXPORTS
    if noted.exists():
        lines = [json.loads(line) for line in noted.read_text().splitlines() if line.endswith("}")]
        kept = [line for line in lines if without(line, job.ids) == line]
        if len(kept) < len(lines):
            _replace(noted, "".join(json.dumps(line) + "\n" for line in kept))


def rewrite_files(job: Job) -> None:
    """Each fragment whose files hold deleted rows, replaced values or a header naming one is written anew.

    One at a time, so that neighbours are not glued and the order of the rows can be told from their ids.
    """
    size = create.facts_of(job.open().schema, job.path)["rows_per_file"]
    folder = job.path / create.DATA / "data"
    told = {file.name for file in folder.glob("*.lance") if told_in_header(file, job.ids)}
    for number in [
        fragment.fragment_id
        for fragment in job.open().get_fragments()
        if _stale(fragment) or any(file.path in told for file in fragment.metadata.files)
    ]:
        ds = job.open()
        others = [other.fragment_id for other in ds.get_fragments() if other.fragment_id != number]
        retry(
            lambda ds=ds, others=others: ds.optimize.compact_files(  # type: ignore[misc]
                target_rows_per_fragment=size,
                materialize_deletions=True,
                materialize_deletions_threshold=-1.0,  # also where nothing is deleted
                excluded_fragment_ids=others,
            )
        )


def drop_history(job: Job) -> None:
    """All versions but the last, and every file only they refer to."""
    job.open().cleanup_old_versions(
        older_than=timedelta(microseconds=1),
        delete_unverified=True,  # nobody else writes: the lock is ours
        error_if_tagged_old_versions=False,  # tags that hold none of the rows may stay
    )


def drop_indices(job: Job) -> None:
    """Indices made by other programs that still hold an id."""
    ds = job.open()
    traces = search_files(job.path / create.DATA / "_indices", job.ids)
    if traces.found:
        job.indices_dropped = [index["name"] for index in ds.list_indices()]
        for name in job.indices_dropped:
            ds.drop_index(name)
        drop_history(job)


def remove_strays(job: Job) -> None:
    """Files that killed writers left and no version refers to."""
    for stray in stray_files(job.open(), job.path / create.DATA):
        stray.unlink(missing_ok=True)


def clear_journals(job: Job) -> None:
    """Rows of unfinished passes that are no longer on the ledger."""
    live = read.row_ids(job.open())
    for folder in _journals(job.path):
        with writing(folder / "owner", timeout=0):
            journal = Journal(folder)
            gone = np.setdiff1d(journal.done_row_ids(), live)
            if len(gone):
                job.journal_rows += journal.drop_rows(gone)


STEPS = (
    delete_rows,
    blank_references,
    scrub_facts,
    rewrite_files,
    drop_history,
    drop_indices,
    remove_strays,
    clear_journals,
)


# ---------------------------------------------------------------- the proof


def prove(job: Job) -> Traces:
    """Decode and search every file that is left.

    Raises
    ------
    PurgeBlocked
        Something is left; the sentence says what and where.
    """
    ds = job.open()
    if (read.search(ds, pa.array(job.ids, pa.string())) != read.NOWHERE).any():
        raise _trace(job, "the ledger still answers for one of them")
    for fragment in ds.get_fragments():
        if _stale(fragment):
            raise _trace(job, f"fragment {fragment.fragment_id} still holds deleted rows")
        for file in fragment.metadata.files:
            rows = lance.file.LanceFileReader(f"{job.uri}/data/{file.path}").metadata().num_rows
            if rows != fragment.count_rows():
                raise _trace(job, f"data/{file.path} holds {rows:,} rows for {fragment.count_rows():,} datapoints")
    live = read.row_ids(ds)
    for folder in _journals(job.path):
        if len(np.setdiff1d(Journal(folder, clean=False).done_row_ids(), live)):
            raise _trace(job, f"the unfinished pass in journal/{folder.name} knows of it")
    strays = stray_files(ds, job.path / create.DATA)
    if strays:
        raise _trace(job, f"{strays[0].name} belongs to no version")
    given = {f.name for f in ds.schema if of_field(f) is None and f.name != "id"}
    traces = search_files(job.path, job.ids, skip=(NOTE,), given=given)
    if traces.found:
        raise _trace(job, f"{traces.found[0]} still names one of them")
    return traces


def _stale(fragment: Any) -> bool:
    """Whether a fragment's files hold more than its rows and columns: deleted rows, or replaced columns."""
    if fragment.metadata.deletion_file is not None:
        return True
    return any(number < 0 for file in fragment.metadata.files for number in file.fields)


def _trace(job: Job, what: str) -> PurgeBlocked:
    return PurgeBlocked(
        f"the purge of {job.path.name} is not proved: {what}",
        remedy="run it again while no other program has the ledger open",
        ids=job.ids,
    )


# ---------------------------------------------------------------- before and after


def _targets(ds: Any, path: Path, ids: Iterable[str] | None, where: str | None) -> list[str]:
    """Ids to erase: those asked for, and those of a purge that was killed."""
    if where is not None:
        wanted, _ = read.rows_where(ds, where)
        if not wanted:
            raise MissingId(f'no datapoint fits the condition "{where}"')
    else:
        wanted = [] if ids is None else read.as_ids(ids).to_pylist()
        if ids is not None and not wanted:
            raise DatumwiseError("no id was given", remedy="say which datapoints to erase")
    pending = _noted(path)
    absent = [one for one in wanted if one not in set(pending)]
    for entry in reversed(ds.versions()):
        if not absent:
            break
        version = ds.checkout_version(entry["version"])
        found = read.search(version, pa.array(absent, pa.string())) != read.NOWHERE
        absent = [one for one, there in zip(absent, found, strict=True) if not there]
    if absent:
        raise MissingId(
            f"{len(absent):,} id{'s are' if len(absent) > 1 else ' is'} on no version of {path.name} ({name_some(absent)})",
            column="id",
            ids=absent,
        )
    return list(dict.fromkeys([*wanted, *pending]))


def _refuse_held(ds: Any, job: Job) -> None:
    """Tags and branches keep the bytes without a word; refuse while one holds a row."""
    holders, commands = [], []
    live = set(read.row_ids(ds).tolist()) if not job.ids else set()

    def holds(version: Any) -> bool:
        if job.ids:
            return bool((read.search(version, pa.array(job.ids, pa.string())) != read.NOWHERE).any())
        return not live.issuperset(read.row_ids(version).tolist())

    for name, tag in sorted(ds.tags.list().items()):
        if holds(ds.checkout_version(name)):
            holders.append(f"tag '{name}' (version {tag['version']})")
            commands.append(f"ledger.untag('{name}')")
    for name, branch in sorted(ds.branches.list().items()):
        versions = [(name, entry["version"]) for entry in ds.checkout_version((name, None)).versions()]
        if any(holds(ds.checkout_version(version)) for version in versions):
            holders.append(f"branch '{name}' (from version {branch['parent_version']})")
            commands.append(f"lance.dataset('{job.uri}').branches.delete('{name}')")
    if holders:
        raise PurgeBlocked(
            f"{', '.join(holders)} still hold{'s' if len(holders) == 1 else ''} what is to be erased from {job.path.name}",
            remedy=f"remove {'it' if len(holders) == 1 else 'them'} first with {'; '.join(commands)}",
            ids=job.ids,
        )


def _refuse_running(path: Path) -> None:
    """A pass that runs would write what it knows of the rows after the purge."""
    for folder in _journals(path):
        try:
            with writing(folder / "owner", timeout=0):
                pass
        except LedgerBusy as error:
            raise PurgeBlocked(
                f"a pass is running over {path.name}", remedy="wait for it, or end it (it can be resumed)"
            ) from error


def _journals(path: Path) -> list[Path]:
    return sorted(folder for folder in (path / "journal").glob("*") if folder.is_dir())


def _noted(path: Path) -> list[str]:
    try:
        return list(json.loads((path / NOTE).read_text())["ids"])
    except FileNotFoundError:
        return []


def _note(job: Job) -> None:
    _replace(job.path / NOTE, json.dumps({"ids": job.ids}))


def _replace(target: Path, text: str) -> None:
    """Write a small file whole or not at all."""
    temporary = target.with_name(target.name + ".tmp")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, target)


def _log(path: Path, receipt: PurgeReceipt) -> None:
    line = {
        "time": receipt.time,
        "datapoints": len(receipt.ids),
        "sha256": receipt.digest,
        "version": receipt.version,
    }
    with contextlib.suppress(OSError), open(path / LOG, "a") as file:
        file.write(json.dumps(line) + "\n")


def _many(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def _digest(ids: list[str]) -> str:
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()


def _sizes(path: Path) -> dict[str, int]:
    return {str(file): file.stat().st_size for file in path.rglob("*") if file.is_file()}
