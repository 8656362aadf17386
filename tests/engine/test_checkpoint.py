"""Why a pass keeps a journal of its own and not Lance's checkpoint: the same stops and changes, run through both.

If a newer Lance gets these right, the tests of the peer fail, and the journal may be thought over.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import engine_cases as cases
import lance
import numpy as np
import pyarrow as pa
import pytest
from lance.udf import batch_udf

from datumwise.engine import run_pass
from datumwise.ledger import Ledger, Provenance, open_ledger

N, PER_FILE, BATCH = 3000, 1000, 100
STOP = 15  # batches: one file is done, and half of the next
FIELD = pa.field("f", pa.int64())


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return cases.make(tmp_path / "a", N, PER_FILE)


class Answer:
    """f = factor x i; interrupted after some batches."""

    def __init__(self, stop: int = N, factor: int = 2) -> None:
        self.left, self.factor = stop, factor

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.factor * batch["i"].to_numpy()


def by_journal(ledger: Ledger, answer: Answer) -> None:
    made = {"f": Provenance("times", {"factor": answer.factor})}

    def ask(batch: pa.RecordBatch) -> dict[str, Any]:
        return {"f": answer(batch)}

    run_pass(open_ledger(ledger.path), ask, reads=["i"], writes=[FIELD], provenance=made, batch_size=BATCH, flush_seconds=0.0)


def by_checkpoint(ledger: Ledger, answer: Answer) -> None:
    @batch_udf(output_schema=pa.schema([FIELD]), checkpoint_file=str(ledger.path.parent / "checkpoint"))
    def ask(batch: pa.RecordBatch) -> pa.RecordBatch:
        return pa.record_batch({"f": answer(batch)})

    lance.dataset(ledger.uri).add_columns(ask, read_columns=["i"], batch_size=BATCH)


def stopped(run: Callable[[Ledger, Answer], None], ledger: Ledger) -> None:
    with pytest.raises((KeyboardInterrupt, OSError)):  # Lance turns the one into the other
        run(ledger, Answer(STOP))


def delete_one_and_update_another(ledger: Ledger) -> None:
    store = lance.dataset(ledger.uri)
    store.delete("i = 3")
    store.update({"i": "100007"}, where="i = 7")  # moves the row into another file


def clean_up(ledger: Ledger) -> None:
    store = lance.dataset(ledger.uri)
    store.delete("i = 2999")
    store.cleanup_old_versions(older_than=timedelta(microseconds=1), delete_unverified=True)


def rows(ledger: Ledger) -> dict[str, list[int | None]]:
    table = lance.dataset(ledger.uri).to_table(columns=["id", "i", "f"]).sort_by("i")
    return {name: table[name].to_pylist() for name in ("id", "i", "f")}


def delete_one_and_mend_another(ledger: Ledger) -> None:
    ledger.delete(["r3"])
    ledger.write({"i": [100_007]}, ids=["r7"], provenance=Provenance("mended"), overwrite=True)


@pytest.mark.parametrize("act", [delete_one_and_mend_another, delete_one_and_update_another])
def test_a_row_deleted_and_one_updated_while_a_pass_is_stopped_stay_so(ledger: Ledger, act: Callable[[Ledger], None]) -> None:
    stopped(by_journal, ledger)
    act(ledger)
    by_journal(ledger, Answer())
    there = rows(ledger)
    assert there["i"] == [i for i in range(N) if i not in (3, 7)] + [100_007]
    assert there["id"] == [f"r{i}" for i in range(N) if i not in (3, 7)] + ["r7"]
    assert there["f"][:-1] == [2 * i for i in range(N) if i not in (3, 7)]
    # through the ledger, the journal forgets the old answer; of what another program updates it knows nothing
    assert there["f"][-1] == (2 * 100_007 if act is delete_one_and_mend_another else 2 * 7)


def test_lances_checkpoint_brings_the_deleted_row_back_and_doubles_the_updated_one(ledger: Ledger) -> None:
    stopped(by_checkpoint, ledger)
    delete_one_and_update_another(ledger)
    by_checkpoint(ledger, Answer())
    there = rows(ledger)
    assert len(there["i"]) == N + 1  # of N - 1
    assert 3 in there["i"]
    assert there["id"].count("r7") == 2


def test_files_cleaned_up_while_a_pass_is_stopped_are_not_missed(ledger: Ledger) -> None:
    stopped(by_journal, ledger)
    clean_up(ledger)
    by_journal(ledger, Answer())
    lance.dataset(ledger.uri).validate()
    assert rows(ledger)["f"] == [2 * i for i in range(N - 1)]


def test_lances_checkpoint_refers_to_a_file_that_was_cleaned_up(ledger: Ledger) -> None:
    stopped(by_checkpoint, ledger)
    clean_up(ledger)
    by_checkpoint(ledger, Answer())
    with pytest.raises((OSError, pa.ArrowInvalid), match="Not found"):
        rows(ledger)


def test_another_function_takes_nothing_over_from_a_stopped_one(ledger: Ledger) -> None:
    stopped(by_journal, ledger)
    by_journal(ledger, Answer(factor=5))
    assert rows(ledger)["f"] == [5 * i for i in range(N)]


def test_lances_checkpoint_mixes_the_answers_of_two_functions(ledger: Ledger) -> None:
    stopped(by_checkpoint, ledger)
    by_checkpoint(ledger, Answer(factor=5))
    assert rows(ledger)["f"] == [(2 if i < STOP * BATCH else 5) * i for i in range(N)]
