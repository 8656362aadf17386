"""Claims about what a reproduction hands back and writes."""

import csv
import json
import math

import pytest

from datumwise.errors import UnknownName
from datumwise.reproduce import frame
from datumwise.reproduce.frame import COLOURS, Claim, Experiment, Reproduction, experiments, find_experiment, reproduce


def found(**given):
    def draw(figure):
        axes = figure.subplots()
        axes.plot([1, 2], [3, 4], color=COLOURS[0])
        axes.set_xlabel("labels")
        frame.plain_axes(axes)

    rows = [{"learner": "probe", "easy": 0.5, "n": 3}, {"learner": "icl", "easy": math.nan, "n": 4}]
    claims = [Claim("it works", "90 %", "88 %", True), Claim("it is fast", "yes", "not measured", None)]
    return Reproduction(
        "x", "Does it?", "Somebody, 2024", rows, claims, "It does.", ("One note.",), draw, {"a": math.inf}, **given
    )


@pytest.fixture
def known(monkeypatch):
    experiment = Experiment("Does it?", "Somebody, 2024", {"small": lambda **given: found()})
    monkeypatch.setattr(frame, "experiments", lambda: {"does-it": experiment})


def test_what_is_written_can_be_read_again(tmp_path, known):
    result = reproduce("does_it", out=tmp_path / "out", seed=4)
    assert (tmp_path / "out" / "figure.png").read_bytes()[:4] == b"\x89PNG"
    assert ">labels<" in (tmp_path / "out" / "figure.svg").read_text()  # text stays text
    rows = list(csv.DictReader((tmp_path / "out" / "table.csv").open()))
    assert rows[0] == {"learner": "probe", "easy": "0.5", "n": "3"}
    saved = json.loads((tmp_path / "out" / "result.json").read_text(), parse_constant=lambda word: pytest.fail(word))
    assert saved["rows"][1] == {"learner": "icl", "easy": None, "n": 4}
    assert saved["details"] == {"a": None}
    assert saved["claims"][0] == {"claim": "it works", "published": "90 %", "ours": "88 %", "holds": True}
    verdict = (tmp_path / "out" / "verdict.md").read_text()
    assert verdict.startswith("# Does it?\n")
    for part in ("It does.", "| it works | 90 % | 88 % | holds |", "| probe | 0.500 | 3 |", "| icl | - | 4 |", "- One note."):
        assert part in verdict
    assert result.command in verdict
    assert result.command == "datumwise reproduce does-it --scale small --seed 4"
    assert result.seconds >= 0
    assert result.name == "does-it"


def test_the_same_figure_is_the_same_file(tmp_path):
    found().write(tmp_path / "a")
    found().write(tmp_path / "b")
    assert (tmp_path / "a" / "figure.svg").read_bytes() == (tmp_path / "b" / "figure.svg").read_bytes()


def test_it_prints_as_a_table():
    text = str(found())
    assert "learner   easy  n\nprobe    0.500  3\nicl          -  4" in text
    assert "holds: it works (published 90 %; here 88 %)" in text
    assert "cannot be told: it is fast" in text


def test_nothing_is_written_where_nothing_was_asked_for(tmp_path, monkeypatch, known):
    monkeypatch.chdir(tmp_path)
    assert reproduce("does-it").files == {}
    assert list(tmp_path.iterdir()) == []


def test_experiments_are_found_by_the_names_of_their_modules():
    assert set(experiments()["easy-to-hard"].scales) == {"small", "real", "paper"}
    assert find_experiment("easy_to_hard") is experiments()["easy-to-hard"]
    assert all(set(one.scales) <= set(frame.SCALES) for one in experiments().values())


def test_unknown_names_and_scales_are_refused(known):
    with pytest.raises(UnknownName, match="no experiment 'nothing': choose one of does-it"):
        reproduce("nothing")
    with pytest.raises(UnknownName, match="does-it has no scale 'paper': choose one of small"):
        reproduce("does-it", "paper")
