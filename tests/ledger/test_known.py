"""What an append remembers of the ids never lets a duplicate in, whatever others do in between."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ledger_cases as cases
import numpy as np
import pyarrow as pa
import pytest

from datumwise.errors import DuplicateId
from datumwise.ledger import Ledger, create_ledger, known, open_ledger


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = cases.ledger_of(tmp_path)
    made.append(cases.rows(5, 100))  # from here on it remembers
    return made


@pytest.fixture
def rows_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many ids each look at the ledger read."""
    read: list[int] = []
    real = known._keys

    def counting(ds: Any, fragments: list[Any]) -> np.ndarray:
        keys = real(ds, fragments)
        read.append(len(keys))
        return keys

    monkeypatch.setattr(known, "_keys", counting)
    return read


def refused(ledger: Ledger, number: int) -> bool:
    try:
        ledger.append(cases.rows(1, number))
    except DuplicateId:
        return True
    return False


def test_a_second_append_reads_only_what_is_new(ledger: Ledger, rows_read: list[int]) -> None:
    ledger.append(cases.rows(5, 105))
    ledger.write({"s": np.zeros(len(ledger))}, provenance=cases.MADE)
    assert refused(ledger, 107)
    assert rows_read == []
    open_ledger(ledger.path).append(cases.rows(3, 200))
    assert rows_read == [cases.N + 10]  # by the other object
    assert refused(ledger, 201)
    assert not refused(ledger, 203)
    assert rows_read == [cases.N + 10, 3]


def test_what_was_refused_or_skipped_is_not_remembered(ledger: Ledger) -> None:
    with pytest.raises(DuplicateId):
        ledger.append([cases.rows(3, 200), cases.rows(1, 101)])
    assert ledger.append(cases.rows(6, 98), on_duplicate="skip") == 2
    assert ledger.append(cases.rows(3, 200)) == 3
    assert ledger.ids[-5:].tolist() == ["doc0098", "doc0099", "doc0200", "doc0201", "doc0202"]


def deleted(path: Path) -> None:
    open_ledger(path).delete(["doc0003"])


def brought_back(path: Path) -> None:
    other = open_ledger(path)
    before = other.version
    other.delete(["doc0004", "doc0101"])
    refused(other, 7)  # it has read the ids without those two
    other.restore(before)
    assert refused(other, 4)
    assert refused(other, 101)


def purged(path: Path) -> None:
    open_ledger(path).delete(["doc0003"], purge=True, yes=True)


def compacted(path: Path) -> None:
    open_ledger(path).compact()


def made_anew(path: Path) -> None:
    batch = cases.rows(50)
    create_ledger(path, [batch], schema=batch.schema, id_column="doc", overwrite=True)


@pytest.mark.parametrize("act", [deleted, brought_back, purged, compacted, made_anew])
def test_whatever_another_process_does_in_between_is_seen(ledger: Ledger, act: Callable[[Path], None]) -> None:
    run = multiprocessing.get_context("forkserver").Process(target=act, args=(ledger.path,))
    run.start()
    run.join(60)
    assert run.exitcode == 0
    there = {int(one[3:]) for one in open_ledger(ledger.path).ids}
    for number in (0, 3, 4, 39, 45, 101, 104, 300):
        assert refused(ledger, number) == (number in there), number
    assert len(set(ledger.ids)) == len(ledger)


@pytest.mark.parametrize("seed", range(3))
def test_two_objects_in_turns_refuse_exactly_what_is_there(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    objects = [cases.ledger_of(tmp_path)]
    objects.append(open_ledger(objects[0].path))
    past = {1: set(range(cases.N))}
    there = set(range(cases.N))
    for _ in range(40):
        ledger = rng.choice(objects)
        match rng.choice(["append", "append", "append", "delete", "restore", "compact", "skip"]):
            case "append":
                number = rng.randrange(60)
                assert refused(ledger, number) == (number in there)
                there = there | {number}
            case "delete":
                gone = rng.choice(sorted(there))
                ledger.delete([f"doc{gone:04d}"])
                there = there - {gone}
            case "restore":
                version = rng.choice(sorted(past))
                ledger.restore(version)
                there = past[version]
            case "compact":
                ledger.compact()
            case "skip":
                first = rng.randrange(50)
                fresh = set(range(first, first + 10)) - there
                assert ledger.append(cases.rows(10, first), on_duplicate="skip") == len(fresh)
                there = there | fresh
        past[ledger.refresh().version] = there
        assert sorted(ledger.ids.tolist()) == [f"doc{i:04d}" for i in sorted(there)]


def test_equal_hashes_of_different_ids_refuse_nobody(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datumwise.ledger.append.id_keys", lambda ids: np.zeros(len(ids), np.uint64))
    monkeypatch.setattr(known, "id_keys", lambda ids: np.zeros(len(ids), np.uint64))
    ledger = open_ledger(ledger.path)
    assert refused(ledger, 3)
    assert not refused(ledger, 300)
    assert refused(ledger, 300)


def test_a_writer_without_our_lock_is_not_taken_for_known(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    import lance

    real = lance.write_dataset

    def disturbed(reader: Any, uri: str, **options: Any) -> Any:
        table = open_ledger(ledger.path).take(["doc0001"])
        foreign = table.set_column(0, table.schema.field("id"), pa.array(["doc0999"]))
        real(foreign.cast(lance.dataset(uri).schema), uri, mode="append")
        return real(reader, uri, **options)

    monkeypatch.setattr("datumwise.ledger.append.lance.write_dataset", disturbed)
    assert not refused(ledger, 500)
    monkeypatch.undo()
    assert refused(ledger, 999)
    assert refused(ledger, 500)
