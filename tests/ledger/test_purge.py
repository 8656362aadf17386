"""A purged datapoint is in no file of the ledger, and the proof of it can fail."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lance
import ledger_cases as cases
import numpy as np
import pyarrow as pa
import pytest
from lance.file import LanceFileReader

from datumwise.errors import DatumwiseError, LedgerBusy, MissingId, PurgeBlocked
from datumwise.ledger import Journal, Ledger, Provenance, create_ledger, open_ledger, writing
from datumwise.ledger.purge import STEPS

RAW = {b"lance-encoding:compression": b"none"}
WHO = "ident-0017"  # the datapoint that must be forgotten
MARK = "ZEBRA0017"  # in all its values
VECTOR = np.float32([1234.5, 4321.25])  # its embedding


@pytest.fixture(scope="module")
def processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["datumwise.ledger.ledger", "datumwise.ledger.purge", "ledger_cases"])
    return context


@pytest.fixture
def marked(tmp_path: Path) -> Ledger:
    """40 rows in 4 files; row 17 carries the marker in every type of column, files are not compressed."""
    n, k = 40, 17
    marks = [MARK if i == k else f"horse{i:04d}" for i in range(n)]
    vectors = np.array([VECTOR if i == k else (i, -i) for i in range(n)], np.float32)
    fields = [
        pa.field("doc", pa.string()),
        pa.field("text", pa.string(), metadata=RAW),
        pa.field("label", pa.dictionary(pa.int32(), pa.string())),
        pa.field("tags", pa.list_(pa.string()), metadata=RAW),
        pa.field("turns", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])), metadata=RAW),
        pa.field("image", pa.large_binary(), metadata=RAW),
        pa.field("x", pa.list_(pa.float32(), 2), metadata=RAW),
    ]
    columns = [
        pa.array([f"ident-{i:04d}" for i in range(n)]),
        pa.array([f"said by {m} himself" for m in marks]),
        pa.array([m if i == k else "horse" for i, m in enumerate(marks)]).dictionary_encode(),
        pa.array([["a", m] for m in marks]),
        pa.array([[{"role": "user", "content": m}] for m in marks], fields[4].type),
        pa.array([b"\x89PNG" + m.encode() for m in marks], pa.large_binary()),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 2),
    ]
    schema = pa.schema(fields)
    batch = pa.RecordBatch.from_arrays(columns, schema=schema)
    return create_ledger(tmp_path / "marked", [batch], schema=schema, id_column="doc", max_rows_per_file=10)


def places(ledger: Ledger, what: str | np.ndarray) -> set[str]:
    """Where a marker is found, by an independent search: every file's bytes, every Lance file decoded."""
    needle = what.encode() if isinstance(what, str) else what.tobytes()
    found = set()
    for file in ledger.path.rglob("*"):
        if not file.is_file():
            continue
        if needle in file.read_bytes():
            found.add(f"bytes of {file.relative_to(ledger.path).parts[-2]}")
        if file.suffix == ".lance":
            for column in LanceFileReader(str(file)).read_all().to_table().columns:
                for value in column.to_pylist():
                    text = np.float32(value).tobytes() if isinstance(what, np.ndarray) and _floats(value) else b""
                    if needle in text or needle in repr(value).encode():
                        found.add(f"decoded {file.relative_to(ledger.path).parts[1]}")
    return found


def _floats(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, float) for v in value)


def test_purged_row_is_in_no_file(marked: Ledger) -> None:
    near = [[f"ident-{(i + 1) % 40:04d}"] for i in range(40)]
    why = [f"looks like ident-{(i + 1) % 40:04d}, says {i}" for i in range(40)]
    made = Provenance("knn", {"query": WHO}, refers_to_ids=True)
    marked.write({"near": near, "why": why, "score": np.arange(40.0)}, provenance=made)
    marked.write({"near": near}, provenance=made, overwrite=True)  # the older column's bytes are still there
    marked.set_metadata(unreadable=["ident-9999", WHO])
    journal = Journal(marked.path / "journal" / "k")
    journal.write(marked.row_ids, {"note": pa.array([f"{MARK} {i}" if i == 17 else "-" for i in range(40)])})
    ds = lance.dataset(marked.uri)
    ds.create_scalar_index("text", "BTREE")
    ds.create_scalar_index("id", "BTREE")
    lance.dataset(marked.uri).delete(f"id = 'nobody' or text = '{MARK}'")  # the condition is kept as text
    (marked.path / "data.lance" / "_transactions" / "left.tmp").write_text(MARK)  # by a killed writer
    marked.refresh()

    # the search finds what is to be found, or it proves nothing
    assert {"bytes of data", "decoded data", "bytes of _transactions", "bytes of k"} <= places(marked, MARK)
    assert "decoded _indices" in places(marked, MARK) | places(marked, WHO)
    assert {"bytes of data", "decoded data", "bytes of _versions"} <= places(marked, WHO)
    assert {"bytes of data", "decoded data"} <= places(marked, VECTOR)

    receipt = marked.delete([WHO], purge=True, yes=True)

    assert places(marked, MARK) == places(marked, WHO) == places(marked, VECTOR) == set()
    assert receipt.ids == (WHO,)
    assert receipt.rows_left == len(marked) == 39
    assert receipt.blanked == {"near": 1, "why": 1}
    assert receipt.journal_rows == 1
    assert journal.path.exists()
    assert Journal(journal.path).num_rows == 39
    assert receipt.files_gone > 4
    assert json.loads(receipt.to_json())["digest"] == receipt.digest
    # nothing else was lost
    assert marked.ids.tolist() == [f"ident-{i:04d}" for i in range(40) if i != 17]
    assert marked.take(["ident-0016"], ["near", "why", "score"]).to_pylist() == [{"near": None, "why": None, "score": 16.0}]
    assert marked.take(["ident-0015"], ["near", "why"]).to_pylist() == [
        {"near": ["ident-0016"], "why": "looks like ident-0016, says 15"}
    ]
    assert marked.missing("near").tolist() == [16]
    assert marked.metadata["unreadable"] == ["ident-9999"]
    assert marked.provenance("score").params == {"query": "(purged)"}  # type: ignore[union-attr]
    assert lance.dataset(marked.uri).validate() is None
    log = (marked.path / "purges.jsonl").read_text()
    assert WHO not in log
    assert receipt.digest in log


def test_a_deleted_row_is_still_in_the_files_until_it_is_purged(marked: Ledger) -> None:
    marked.delete([WHO])
    assert "decoded data" in places(marked, MARK)
    receipt = marked.delete([WHO], purge=True, yes=True)  # known to an earlier version only
    assert places(marked, MARK) == set()
    assert receipt.versions_gone == 2


def test_all_that_was_deleted_before_can_be_erased(marked: Ledger) -> None:
    marked.delete([WHO, "ident-0018"])
    assert marked.delete(purge=True, yes=True).ids == ()
    assert places(marked, MARK) == set()
    assert len(marked) == 38
    with pytest.raises(MissingId):
        marked.delete([WHO], purge=True, yes=True)


def test_the_condition_of_a_purge_is_kept_nowhere(marked: Ledger) -> None:
    marked.delete(where=f"text like '%{MARK}%'", purge=True, yes=True)
    assert places(marked, MARK) == set()


def test_tags_and_branches_that_hold_the_row_block_a_purge(marked: Ledger) -> None:
    marked.tag("paper")
    marked.delete(["ident-0001"])
    lance.dataset(marked.uri).create_branch("trial")
    with pytest.raises(PurgeBlocked) as caught:
        marked.delete([WHO], purge=True, yes=True)
    said = str(caught.value)
    assert "tag 'paper' (version 1), branch 'trial' (from version 2) still hold what is to be erased" in said
    assert "ledger.untag('paper')" in said
    assert "branches.delete('trial')" in said
    assert caught.value.ids == [WHO]
    assert len(marked.refresh()) == 39  # nothing was deleted
    marked.untag("paper")
    with pytest.raises(PurgeBlocked, match=r"^branch 'trial'"):
        marked.delete([WHO], purge=True, yes=True)
    lance.dataset(marked.uri).branches.delete("trial")
    marked.delete([WHO], purge=True, yes=True)
    assert places(marked, MARK) == set()


def test_a_tag_from_before_the_row_came_does_not_block(marked: Ledger) -> None:
    marked.tag("before")
    new = marked.table(where="id = 'ident-0001'").set_column(0, "id", pa.array(["late-comer"]))
    marked.append(new)
    marked.delete(["late-comer"], purge=True, yes=True)
    assert places(marked, "late-comer") == set()
    assert len(open_ledger(marked.path, version="before")) == 40


def test_an_id_that_came_again_is_blocked_by_a_tag_on_its_first_life(marked: Ledger) -> None:
    marked.tag("first")
    row = marked.take([WHO])
    marked.delete([WHO])
    marked.append(row)
    with pytest.raises(PurgeBlocked, match="tag 'first'"):
        marked.delete([WHO], purge=True, yes=True)


def test_a_purge_asks_for_leave_and_says_what_goes(marked: Ledger) -> None:
    marked.set_metadata(a=1)
    with pytest.raises(PurgeBlocked, match=r"to erase 1 datapoint, all versions of marked.ledger but the last must go"):
        marked.delete([WHO], purge=True)
    with pytest.raises(MissingId, match=r"1 id is on no version of marked.ledger \(nobody\)"):
        marked.delete([WHO, "nobody"], purge=True, yes=True)
    with pytest.raises(MissingId, match="no datapoint fits"):
        marked.delete(where="id = 'nobody'", purge=True, yes=True)
    with pytest.raises(DatumwiseError, match="no id was given"):
        marked.delete([], purge=True, yes=True)
    with pytest.raises(DatumwiseError, match="neither ids nor a condition"):
        marked.delete()
    with pytest.raises(DatumwiseError, match="both ids and a condition"):
        marked.delete([WHO], where="true", purge=True, yes=True)
    assert (len(marked), marked.refresh().version) == (40, 2)


def test_a_running_pass_blocks_a_purge(marked: Ledger) -> None:
    journal = Journal(marked.path / "journal" / "k")
    journal.write(marked.row_ids, {"s": np.zeros(40)})
    context = multiprocessing.get_context("forkserver")
    held, done = context.Event(), context.Event()
    run = context.Process(target=cases.hold_pass, args=(journal.path / "owner", held, done))
    run.start()
    assert held.wait(60)
    with pytest.raises(PurgeBlocked, match="a pass is running over"):
        marked.delete([WHO], purge=True, yes=True)
    done.set()
    run.join()
    assert marked.delete([WHO], purge=True, yes=True).journal_rows == 1


def test_copies_and_mentions_are_told(marked: Ledger, tmp_path: Path) -> None:
    batch = pa.record_batch({"id": ["first-one", "second-one"], "reply_to": [None, "first-one"]})
    ledger = create_ledger(tmp_path / "forum", [batch], schema=batch.schema, id_column="id")
    ledger.export(tmp_path / "copy.csv")
    receipt = ledger.delete(["first-one"], purge=True, yes=True)
    assert receipt.mentions == {"reply_to": 1}  # the user's own words about another datapoint stay
    assert receipt.exports == (str(tmp_path / "copy.csv"),)
    assert ledger.array("reply_to").tolist() == ["first-one"]
    shown = repr(receipt)
    assert "1 datapoint from forum.ledger" in shown
    assert "copy.csv" in shown


def test_short_ids_blank_only_whole_words(tmp_path: Path) -> None:
    batch = pa.record_batch({"id": [str(i) for i in range(20)]})
    ledger = create_ledger(tmp_path / "short", [batch], schema=batch.schema, id_column="id")
    values = {
        "one": ["1", "11", "21", None] * 5,
        "words": ["near 1.", "near 11", "1-2", "see (1)"] * 5,
        "lists": [["2", "1"], ["12"], [], None] * 5,
        "numbers": [[1, 3], [10], [], None] * 5,
    }
    ledger.write(values, provenance=Provenance("knn", refers_to_ids=True))
    receipt = ledger.delete(["1"], purge=True, yes=True)
    kept = [i for i in range(20) if i != 1]
    assert receipt.blanked == {"one": 5, "words": 10, "lists": 5, "numbers": 5}
    assert ledger.array("words").tolist() == [None if i % 4 in (0, 3) else ("near 11" if i % 4 == 1 else "1-2") for i in kept]


@pytest.mark.parametrize("step", range(len(STEPS) + 1))
def test_purge_killed_before_any_step_is_finished_by_the_next(marked: Ledger, processes: Any, step: int) -> None:
    near = [[f"ident-{(i + 1) % 40:04d}"] for i in range(40)]
    marked.write({"near": near, "s": np.arange(40.0)}, provenance=Provenance("knn", refers_to_ids=True))
    run = processes.Process(target=cases.purge_and_die, args=(marked.path, [WHO], step))
    run.start()
    run.join()
    assert run.exitcode == -9
    with pytest.warns(UserWarning, match="a purge of marked.ledger was cut short: finish it"):
        ledger = open_ledger(marked.path)
    assert len(ledger) in (39, 40)
    assert lance.dataset(ledger.uri).validate() is None
    if step % 2:
        ledger.delete([WHO], purge=True, yes=True)
    else:
        ledger.delete(purge=True, yes=True)
    assert places(ledger, MARK) == places(ledger, WHO) == set()
    assert len(ledger) == 39
    assert [c.name for c in ledger.columns][-2:] == ["near", "s"]
    assert ledger.array("s").tolist() == [float(i) for i in range(40) if i != 17]


@pytest.mark.slow
def test_purge_killed_at_random_moments_is_finished_by_the_next(tmp_path: Path, processes: Any) -> None:
    rng = np.random.default_rng(0)
    ledger = cases.ledger_of(tmp_path, 2000, rows_per_file=100)
    left = set(ledger.ids)
    for _ in range(12):
        ids = [str(one) for one in rng.choice(sorted(left), 20, replace=False)]
        started = processes.Event()
        run = processes.Process(target=cases.purge_for_long, args=(ledger.path, ids, started))
        run.start()
        assert started.wait(60)
        time.sleep(rng.uniform(0, 0.4))
        run.kill()
        run.join()
        opened = Ledger(ledger.path)
        assert left.issuperset(opened.ids)
        assert left.difference(opened.ids) in (set(), set(ids))
        opened.delete(ids if set(ids) <= set(opened.ids) else None, purge=True, yes=True)
        left -= set(ids)
        assert set(opened.refresh().ids) == left
        assert not any(places(opened, one) for one in ids[:2])


@pytest.mark.parametrize("what", ["stray", "row", "fact", "journal", "reference"])
def test_the_proof_fails_when_something_is_left(marked: Ledger, monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    from datumwise.ledger import purge

    near = [[f"ident-{(i + 1) % 40:04d}"] for i in range(40)]
    marked.write({"near": near}, provenance=Provenance("knn", {"q": WHO}, refers_to_ids=True))
    Journal(marked.path / "journal" / "k").write(marked.row_ids, {"s": np.zeros(40)})
    (marked.path / "data.lance" / "data" / "left.tmp").write_text("x")
    missing, said = {
        "stray": (purge.remove_strays, "left.tmp belongs to no version"),
        "row": (purge.rewrite_files, "still holds deleted rows"),
        "fact": (purge.scrub_facts, "still names one of them"),
        "journal": (purge.clear_journals, "the unfinished pass in journal/k knows of it"),
        "reference": (purge.blank_references, "column 'near' of .* still names one of them"),
    }[what]
    monkeypatch.setattr(purge, "STEPS", tuple(step for step in STEPS if step is not missing))
    with pytest.raises(PurgeBlocked, match=f"the purge of marked.ledger is not proved: .*{said}"):
        marked.delete([WHO], purge=True, yes=True)
    monkeypatch.undo()
    marked.delete([WHO], purge=True, yes=True)
    assert places(marked, WHO) == set()


def test_a_purge_waits_its_turn(marked: Ledger, processes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held, done = processes.Event(), processes.Event()
    run = processes.Process(target=cases.hold_pass, args=(marked.path / "lock", held, done))
    run.start()
    assert held.wait(60)
    from datumwise.ledger import purge

    monkeypatch.setattr(purge, "writing", lambda path: writing(path, timeout=0.1))
    with pytest.raises(LedgerBusy, match=f"written by process {run.pid}"):
        marked.delete([WHO], purge=True, yes=True)
    done.set()
    run.join()


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path: Path) -> Iterator[None]:
    yield
    assert not list(tmp_path.glob("*.ledger/purging.json.tmp"))
