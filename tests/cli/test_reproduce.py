"""``datumwise reproduce``: files, a table for people, one document for programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from datumwise.cli.options import Common
from datumwise.cli.outcome import document
from datumwise.cli.reproduce import reproduce
from datumwise.cli.terminal import surface
from datumwise.errors import UnknownName
from datumwise.reproduce import frame
from datumwise.reproduce.frame import Claim, Experiment, Reproduction

ASKED: list[dict[str, object]] = []


def run(**given: object) -> Reproduction:
    ASKED.append({name: value for name, value in given.items() if name != "stage"})
    rows = [{"learner": "probe", "easy": 0.5}, {"learner": "icl", "easy": 0.75}]
    return Reproduction("x", "", "", rows, [Claim("it works", "90 %", "88 %", True)], "It does.")


@pytest.fixture(autouse=True)
def known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ASKED.clear()
    monkeypatch.chdir(tmp_path)
    experiment = Experiment("Does it?", "Somebody, 2024", {"small": run, "paper": run})
    monkeypatch.setattr(frame, "experiments", lambda: {"does-it": experiment})


def lines(outcome) -> str:
    import io

    return "\n".join(getattr(line, "text", str(line)) for line in outcome.lines(surface(io.StringIO())))


def test_files_go_into_a_folder_named_after_experiment_and_scale() -> None:
    outcome = reproduce("does-it", common=Common(quiet=True))
    assert {path.name for path in Path("does-it-small").iterdir()} == {"table.csv", "result.json", "verdict.md"}
    assert ASKED == [{"model": None, "data": None, "seed": 0}]
    text = lines(outcome)
    for part in ("Does it? (Somebody, 2024)", "It does.", "icl      0.750", "holds", "88 %", "does-it-small/verdict.md"):
        assert part in text


def test_options_reach_the_experiment_and_the_command_that_runs_it_again() -> None:
    outcome = reproduce(
        "does_it", scale="paper", model="a folder", data="arc=x.jsonl", out=Path("here"), seed=3, common=Common(json=True)
    )
    assert ASKED == [{"model": "a folder", "data": "arc=x.jsonl", "seed": 3}]
    assert Path("here/result.json").exists()
    assert outcome.facts["command"] == "reproduce"
    assert outcome.facts["again"] == "datumwise reproduce does-it --scale paper --model 'a folder' --data arc=x.jsonl --seed 3"
    assert '"verdict": "It does."' in document(outcome.facts)


def test_without_a_name_the_experiments_are_listed() -> None:
    outcome = reproduce()
    assert outcome.facts["experiments"] == [
        {"name": "does-it", "title": "Does it?", "source": "Somebody, 2024", "scales": ["small", "paper"]}
    ]
    assert "does-it  small, paper  Somebody, 2024  Does it?" in lines(outcome)


def test_a_wrong_name_makes_no_folder() -> None:
    with pytest.raises(UnknownName, match="no experiment 'nothing'"):
        reproduce("nothing")
    assert list(Path().iterdir()) == []
