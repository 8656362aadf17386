"""SQL answers are right, with and without the columns in memory, and reach nothing but the ledger."""

from __future__ import annotations

from pathlib import Path

import ledger_cases as cases
import numpy as np
import pytest

from datumwise.errors import DatumwiseError, UnknownColumn, UnknownName
from datumwise.ledger import Ledger
from datumwise.ledger.sql import suffices


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    ledger = cases.ledger_of(tmp_path)
    e = np.arange(2.0 * cases.N).reshape(-1, 2)
    ledger.write({"s": np.arange(float(cases.N)), "e": e}, provenance=cases.MADE)
    return ledger


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("select count(*) from ledger", cases.N),
        ("select sum(s) from ledger where label = 'dog'", float(sum(range(1, cases.N, 3)))),
        ("select id from ledger order by s desc limit 1", "doc0039"),
        ("select e[2] from ledger where id = 'doc0003'", 7.0),
        ("select max(list_sum(e)) from ledger", 157.0),
        ("select count(*) from (select * from ledger) where s > 36.5", 3),
        ("select text from ledger where s = 4", "text number 4"),
        ("select ledger.e[1] from ledger where id = 'doc0001'", 2.0),
        ("select (ledger).e[1] from ledger where id = 'doc0001'", 2.0),
        ("with t as (from ledger) select count(e) from t", cases.N),
        ("select count(*) from ledger a, ledger b where a.s = b.s", cases.N),
    ],
)
def test_answers_are_the_same_on_the_disk_and_in_memory(ledger: Ledger, query: str, expected: object) -> None:
    for _ in range(3):  # from the second query on, narrow columns are in memory
        answer = ledger.sql(query)
        assert answer.num_rows == 1
        assert answer.column(0).to_pylist() == [expected]


def test_answers_follow_writes(ledger: Ledger) -> None:
    count = "select count(*), count(s) from ledger"
    for _ in range(2):
        assert list(ledger.sql(count).to_pylist()[0].values()) == [cases.N, cases.N]
    ledger.append(cases.rows(2, 100))
    for _ in range(2):
        assert list(ledger.sql(count).to_pylist()[0].values()) == [cases.N + 2, cases.N]


def test_columns_in_memory_are_used_only_where_they_suffice() -> None:
    names = ["id", "s", "e"]
    assert suffices("select s, count(*) from ledger group by s", ["id", "s"], names)
    assert suffices("select COUNT( * ) from ledger", ["id", "s"], names)
    assert suffices("select * from ledger", names, names)
    for query in (
        "select * from ledger",
        "select E[1] from ledger",
        'select "e" from ledger',
        "select s * 2 from ledger",
    ):
        assert not suffices(query, ["id", "s"], names)
    for query in (
        "select columns('.') from ledger",
        "from ledger",
        "describe ledger",
        "select ledger from ledger",
        "select count(*) from (from ledger)",
        "select max(x.e) from ledger x",
    ):
        assert not suffices(query, ["id", "s"], names), query
    assert suffices("select ledger.s from ledger join ledger b on b.id = ledger.id", ["id", "s"], names)


@pytest.mark.parametrize(
    ("query", "error", "said"),
    [
        ("selec 1", DatumwiseError, "the query cannot be answered: syntax error"),
        (
            "select lable from ledger",
            UnknownColumn,
            r"column 'lable' is not on the ledger .*did you mean 'label'\?",
        ),
        ("select * from animals", UnknownName, "the only table is called ledger"),
        ("select * from 'a.csv'", DatumwiseError, "reaches outside the ledger"),
        ("select * from read_text('/etc/hostname')", DatumwiseError, "reaches outside the ledger"),
        ("copy (select 1) to 'x.csv'", DatumwiseError, "one select at a time"),
        ("attach 'x.db'", DatumwiseError, "one select at a time"),
        ("install httpfs", DatumwiseError, "one select at a time"),
        ("delete from ledger", DatumwiseError, "the ledger answers one select at a time"),
        ("set enable_external_access = true", DatumwiseError, "one select at a time"),
        ("create view ledger as select 1", DatumwiseError, "one select at a time"),
        ("select 1; select 2", DatumwiseError, "one select at a time"),
        ("", DatumwiseError, "one select at a time"),
        ("select * from connection", UnknownName, "the only table is called ledger"),
    ],
)
def test_queries_that_fail_or_reach_out_are_refused(
    ledger: Ledger,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    query: str,
    error: type[Exception],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("a\n1\n")
    before = sorted(tmp_path.iterdir())
    for _ in range(2):
        with pytest.raises(error, match=said):
            ledger.sql(query)
    assert sorted(tmp_path.iterdir()) == before
    assert len(ledger) == cases.N
