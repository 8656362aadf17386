"""One writer at a time, and a dead one is in nobody's way."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import commit_child as child
import pytest

from datumwise import errors
from datumwise.ledger import writing


@pytest.fixture(scope="module")
def processes() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["datumwise.ledger.ledger", "commit_child"])
    return context


def test_lock_excludes_other_processes(tmp_path: Path, processes: Any) -> None:
    (tmp_path / "count").write_text("0")
    runs = [processes.Process(target=child.count_up, args=(tmp_path, 60)) for _ in range(3)]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert (tmp_path / "count").read_text() == "180"


def test_busy_lock_names_its_holder_and_a_dead_holder_frees_it(tmp_path: Path, processes: Any) -> None:
    held = processes.Event()
    holder = processes.Process(target=child.hold, args=(tmp_path, held, 60.0))
    holder.start()
    held.wait()
    with pytest.raises(errors.LedgerBusy, match=f"process {holder.pid}"), writing(tmp_path, timeout=0.05):
        pytest.fail("two writers at once")
    holder.kill()
    holder.join()
    with writing(tmp_path, timeout=5), writing(tmp_path, timeout=0):  # and again, by the thread that has it
        pass


def test_lock_of_no_ledger_is_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.NotALedger), writing(tmp_path / "none" / "lock"):
        pytest.fail("locked nothing")
