"""Whatever is done to a ledger, in whatever order, it holds what a plain dict would."""

from __future__ import annotations

import multiprocessing
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import lance
import ledger_cases as cases
import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from datumwise.errors import DuplicateId
from datumwise.ledger import Ledger, open_ledger
from datumwise.ledger.commit import NEW, OLD, leftovers


class History(RuleBasedStateMachine):
    """The model: id -> (x, finding or None), in the order the ids came."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.rows: dict[str, float | None] = {}
        self.scored = False
        self.next = 12
        self.past: dict[int, tuple[dict[str, float | None], bool]] = {}

    @initialize()
    def begin(self) -> None:
        self.ledger = cases.ledger_of(self.folder, 12, rows_per_file=5)
        self.rows = dict.fromkeys((f"doc{i:04d}" for i in range(12)), None)
        self.remember()

    def remember(self) -> None:
        self.past[self.ledger.version] = (dict(self.rows), self.scored)

    def teardown(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @rule(n=st.integers(1, 4))
    def append(self, n: int) -> None:
        assert self.ledger.append(cases.rows(n, self.next)) == n
        self.rows.update(dict.fromkeys((f"doc{i:04d}" for i in range(self.next, self.next + n)), None))
        self.next += n
        self.remember()

    @rule(data=st.data())
    @precondition(lambda self: self.rows)
    def append_what_is_there(self, data: st.DataObject) -> None:
        one = data.draw(st.sampled_from(sorted(self.rows)))
        row = cases.rows(1, int(one[3:]))
        with pytest.raises(DuplicateId):
            self.ledger.append(row)
        assert self.ledger.append(row, on_duplicate="skip") == 0

    @rule(data=st.data(), purge=st.booleans())
    @precondition(lambda self: self.rows)
    def delete(self, data: st.DataObject, purge: bool) -> None:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.rows)), min_size=1, max_size=3, unique=True))
        if purge:
            receipt = self.ledger.delete(ids, purge=True, yes=True)
            assert receipt.rows_left == len(self.rows) - len(ids)
            self.past.clear()
        else:
            assert self.ledger.delete(ids) == len(ids)
        for one in ids:
            del self.rows[one]
        self.remember()

    @rule(seed=st.integers(0, 99))
    def score_all(self, seed: int) -> None:
        values = np.random.default_rng(seed).normal(size=len(self.rows))
        self.ledger.write({"s": values}, provenance=cases.MADE, overwrite=True)
        self.rows = dict(zip(self.rows, values.tolist(), strict=True))
        self.scored = True
        self.remember()

    @rule(seed=st.integers(0, 99))
    @precondition(lambda self: self.scored)
    def score_what_is_missing(self, seed: int) -> None:
        ids = [one for one, value in self.rows.items() if value is None]
        assert len(self.ledger.missing("s")) == len(ids)
        if ids:
            values = np.random.default_rng(seed).normal(size=len(ids))
            self.ledger.write({"s": values}, ids=ids, provenance=cases.MADE)
            self.rows.update(zip(ids, values.tolist(), strict=True))
            self.remember()

    @rule()
    def compact(self) -> None:
        self.ledger.compact()
        self.remember()

    @rule()
    @precondition(lambda self: self.scored)
    def swap_that_is_killed(self) -> None:
        from datumwise.ledger import commit

        real = commit._drop
        commit._drop = lambda uri, names: 0  # the process dies before the old column is dropped
        try:
            made = replace(cases.MADE, seed=1)
            self.ledger.write({"s": np.full(len(self.rows), 7.0)}, provenance=made, overwrite=True)
        finally:
            commit._drop = real
        self.rows = dict.fromkeys(self.rows, 7.0)
        assert any(name.endswith((NEW, OLD)) for name in lance.dataset(self.ledger.uri).schema.names)
        assert not any(name.endswith((NEW, OLD)) for name in self.ledger.schema.names)
        self.ledger = open_ledger(self.ledger.path)
        assert not leftovers(lance.dataset(self.ledger.uri).schema)
        self.ledger.write({"s": list(self.rows.values())}, provenance=cases.MADE, overwrite=True)
        self.remember()

    @rule(data=st.data())
    def restore(self, data: st.DataObject) -> None:
        version = data.draw(st.sampled_from(sorted(self.past)))
        self.ledger.restore(version)
        rows, self.scored = self.past[version]
        self.rows = dict(rows)
        self.remember()

    @rule()
    def reopen(self) -> None:
        self.ledger = open_ledger(self.ledger.path)

    @invariant()
    def holds_what_the_dict_holds(self) -> None:
        assert self.ledger.ids.tolist() == list(self.rows)
        assert self.ledger.array("x").tolist() == [float(one[3:]) for one in self.rows]
        assert ("s" in self.ledger.schema.names) == self.scored
        if self.scored:
            assert self.ledger.table(["s"])["s"].to_pylist() == list(self.rows.values())
        assert self.ledger.sql("select count(*) n from ledger")["n"].to_pylist() == [len(self.rows)]

    @invariant()
    def keeps_the_past(self) -> None:
        version = max(self.past)
        for number in (min(self.past), version):
            rows, scored = self.past[number]
            old = Ledger(self.ledger.path, number)
            assert old.ids.tolist() == list(rows)
            assert ("s" in old.schema.names) == scored


TestHistory = History.TestCase
TestHistory.settings = settings(
    max_examples=12,
    stateful_step_count=12,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestHistory = pytest.mark.slow(TestHistory)


@pytest.mark.slow
def test_long_histories_with_kills_end_as_a_dict_says(tmp_path: Path) -> None:
    """Each step in a process that is killed at a random moment: the step is done, or it is not."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["datumwise.ledger.ledger", "datumwise.ledger.purge", "ledger_cases"])
    rng = np.random.default_rng(1)
    ledger = cases.ledger_of(tmp_path, 30, rows_per_file=7)
    ids = ledger.ids.tolist()
    done = 0
    for k in range(20):
        act: Any
        if k % 2:
            act, after = (
                ("append", 100 + 3 * k),
                [*ids, *(f"doc{i:04d}" for i in range(100 + 3 * k, 103 + 3 * k))],
            )
        else:
            gone = str(rng.choice(ids))
            act, after = ("delete", gone), [one for one in ids if one != gone]
        started = context.Event()
        run = context.Process(target=cases.act_once, args=(ledger.path, act, started))
        run.start()
        assert started.wait(60)
        run.join(rng.uniform(0, 0.03))
        run.kill()
        run.join()
        now = open_ledger(ledger.path).ids.tolist()
        assert now in (ids, after)
        done += now == after
        ids = now
    assert done > 0
