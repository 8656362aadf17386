"""Stage lines: one a stage, a bar only after two seconds, ten seconds between lines in a log."""

from __future__ import annotations

import pytest
from terminals import pipe, terminal

from datumwise.cli.stages import Budget, BudgetSpent, StageLines
from datumwise.progress import Stage


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_stage_is_a_stage(clock: Clock) -> None:
    assert isinstance(StageLines(pipe()), Stage)


def test_finished_stages_stand_in_columns(clock: Clock) -> None:
    to = pipe()
    stage = StageLines(to, now=clock)
    stage.begin("ingest", "reviews.parquet")
    clock.time = 2.1
    stage.end("50,000 rows -> reviews.ledger")
    stage.begin("forget", "")
    clock.time += 192
    stage.end("40 datapoints, exact retraining")
    assert to.stream.getvalue() == (
        "  ok  ingest    50,000 rows -> reviews.ledger                          2.1 s\n"
        "  ok  forget    40 datapoints, exact retraining                         3:12\n"
    )


def test_a_utf8_terminal_gets_ticks_and_arrows(clock: Clock) -> None:
    to = terminal(80)
    stage = StageLines(to, now=clock)
    stage.begin("ingest", "x")
    stage.end("2 rows -> q.ledger")
    assert to.stream.getvalue() == "  ✓   ingest    2 rows → q.ledger                                      0.0 s\n"


def test_a_bar_appears_after_two_seconds_and_not_before(clock: Clock) -> None:
    to = terminal(90)
    stage = StageLines(to, now=clock)
    stage.begin("probe", "likelihoods")
    stage.progress(0, 50_000)
    clock.time = 1.9
    stage.progress(1_000, 50_000)
    assert to.stream.getvalue() == ""
    clock.time = 78.0
    stage.progress(20_480, 50_000)
    assert to.stream.getvalue() == ("\r      probe     likelihoods  [########------------]  20,480/50,000  41%  1:52 left")
    stage.end("likelihoods")
    assert to.stream.getvalue().count("\n") == 1
    assert "\x1b" not in to.stream.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_bar_is_never_wider_than_the_terminal(clock: Clock, width: int) -> None:
    to = terminal(width)
    stage = StageLines(to, now=clock)
    stage.begin("probe", "probabilities and embedding")
    for done in (1, 500, 999):
        clock.time += 60
        stage.progress(done, 1_000)
    assert all(len(part.rstrip()) < width for part in to.stream.getvalue().split("\r"))


def test_what_an_earlier_run_did_does_not_make_the_rest_look_quick(clock: Clock) -> None:
    to = terminal(100)
    stage = StageLines(to, now=clock)
    stage.begin("probe", "x")
    stage.progress(900, 1_000)
    clock.time = 10.0
    stage.progress(910, 1_000)
    assert to.stream.getvalue().endswith("1:30 left")


def test_a_log_gets_a_line_every_ten_seconds(clock: Clock) -> None:
    to = pipe()
    stage = StageLines(to, now=clock)
    stage.begin("probe", "likelihoods")
    for second in range(26):
        clock.time = float(second)
        stage.progress(second * 10, 1_000)
    assert len(to.stream.getvalue().splitlines()) == 2
    assert "\r" not in to.stream.getvalue()


def test_quiet_is_quiet_but_keeps_count(clock: Clock) -> None:
    to = pipe()
    stage = StageLines(to, quiet=True, now=clock)
    stage.title("x")
    stage.begin("probe", "x")
    clock.time = 60.0
    stage.progress(5, 10)
    assert (stage.name, stage.done, stage.total) == ("probe", 5, 10)
    stage.end("x")
    assert to.stream.getvalue() == ""


def test_a_budget_stops_at_the_next_step(clock: Clock) -> None:
    stage = StageLines(pipe(), now=clock, budget=Budget(5.0, clock))
    stage.begin("probe", "x")
    clock.time = 4.9
    stage.progress(1, 10)
    clock.time = 5.1
    with pytest.raises(BudgetSpent):
        stage.progress(2, 10)
    with pytest.raises(KeyboardInterrupt):  # so that what catches errors on the way does not catch this
        stage.begin("prove", "x")
