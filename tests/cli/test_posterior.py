"""``datumwise posterior``: a model is trained and kept, answers from a ledger, and what it prints is valid JSON too."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from datumwise.cli import main
from datumwise.ledger import open_ledger
from datumwise.readers import ingest

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "cli.schema.json").read_text())


@pytest.fixture(autouse=True)
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ingest({"id": np.array(list("abcd")), "y": [2.0, 2.2, 1.9, -1.5]}, features="y", out="seen")


def facts(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0, capsys.readouterr()
    found = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, SCHEMA)
    return found


def test_trained_once_it_answers_from_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    made = facts(capsys, "posterior", "--task", "conjugate", "--steps", "60", "--out", "one.safetensors")
    assert made["training"]["steps"] == 60
    assert Path("one.safetensors").stat().st_size < 1_000_000
    found = facts(capsys, "posterior", "seen.ledger", "--model", "one.safetensors", "--task", "conjugate", "--prior", "1:0:2")
    assert found["most"][0][0] == "d"
    assert 0 < found["ess"] <= 1
    assert found["mean"][0] == pytest.approx(4 * 1.15 / 4.25, abs=0.3)  # normal mean of 4 data of sd 1 and a prior of sd 2
    assert np.isfinite(open_ledger("seen").array("posterior_influence")).all()


def test_it_prints_the_answer_and_who_moved_it(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["posterior", "seen.ledger", "--task", "conjugate", "--steps", "20", "--prior", "1:0:2"]
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "  posterior given 4 datapoints"
    assert lines[2].split() == ["state", "mean", "sd", "90%", "interval"]
    assert any("effective share of draws" in line for line in lines)
    assert Path("conjugate.safetensors").is_file()


def test_bad_input_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    Path("no.safetensors").write_bytes(b"nothing")
    for words, sentence in (
        ((), "neither a task nor a model is named: --task conjugate, or --model FILE"),
        (("--task", "coin"), "there is no task 'coin': choose one of conjugate"),
        (("seen.ledger", "--task", "conjugate"), "no prior is given: --prior 1:0:2"),
        (("seen.ledger", "--model", "no.safetensors", "--prior", "1:0:2"), "no.safetensors cannot be read"),
    ):
        capsys.readouterr()
        assert main(["posterior", *words]) == 2
        said = capsys.readouterr().err
        assert sentence in said, said
        assert "Traceback" not in said
