"""``datumwise learn`` and ``predict``: the model that is kept promises, and what was promised is on the ledger."""

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
def waves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.uniform(-2, 2, 240)
    y = np.sin(2 * x) + 0.1 * rng.normal(size=240)
    y[7] += 3
    ids = np.array([f"w{i:03d}" for i in range(240)])
    new = np.arange(240) >= 200
    ingest({"id": ids, "x": x, "y": y, "new": new}, label="y", features="x", task="regression", out="waves")


def run(capsys: pytest.CaptureFixture[str], *words: str, code: int = 0) -> str:
    capsys.readouterr()
    assert main(list(words)) == code, capsys.readouterr()
    return capsys.readouterr().out


def facts(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    found = json.loads(run(capsys, *words, "--json"))
    jsonschema.validate(found, SCHEMA)
    return found


LEARN = ("learn", "waves.ledger", "--where", "not new", "--option", "max_iter=60", "--option", "n_inducing=16")


def test_a_label_that_nobody_expected_is_named_and_the_model_promises(capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(capsys, *LEARN, "--held-out", "0.4", "--out", "sine.joblib", "--seed", "2")
    assert found["surprising"][0][0] == "w007"
    assert (found["trained"], found["held_out"], found["metric"]) == (120, 80, "R²")
    assert found["score"] > 0.9
    trained = np.asarray(open_ledger("waves").array("learned_trained"), bool)
    told = facts(
        capsys,
        "predict",
        "waves.ledger",
        "--model",
        "sine.joblib",
        "--where",
        "new",
        "--labelled",
        "not new and not learned_trained",
    )
    assert (told["trained"], told["calibrated"], told["batch"]) == (0, 80, 40)
    assert told["measured"]["covered"] >= 36
    assert trained.sum() == 120
    assert told["mean_size"] < 1


def test_what_is_printed_names_the_worst_and_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(capsys, *LEARN, "--held-out", "0")
    lines = out.splitlines()
    assert lines[0] == "  deep kernel machine trained on 200 datapoints"
    assert lines[2].split() == ["id", "y", "without", "it", "+-", "surprise"]
    assert lines[3].split()[0] == "w007"
    assert 'datumwise predict waves.ledger --model waves-learned.joblib --labelled "not learned_trained"' in lines[-1]
    assert Path("waves-learned.joblib").is_file()
    found = open_ledger("waves").take(["w007"], ["learned_nearest", "learned_influence"]).to_pylist()[0]
    assert len(found["learned_nearest"]) == 3
    assert "w007" not in found["learned_nearest"]


def test_other_learners_keep_a_model_and_say_what_they_were_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(capsys, "learn", "waves.ledger", "--learner", "extra-trees", "--name", "trees")
    assert found["columns"] == ["trees_trained"]
    assert found["surprising"] == []


def test_promises_are_printed_as_sentences_with_the_batch(capsys: pytest.CaptureFixture[str]) -> None:
    out = run(
        capsys, "predict", "waves.ledger", "--where", "new", "--statistic", "quantile:0.5", "--above", "0", "--max-false", "10"
    )
    lines = out.splitlines()
    assert lines[0] == "  With probability at least 0.9, at least 36 of these 40 intervals hold the truth (n = 100)."
    assert "0.5-quantile of the 40 outcomes" in out or "quantile" in lines[1]
    assert "points are selected; with probability at least 0.9, at most 10 claims are false" in out
    assert next(line for line in lines if line.strip().startswith("id")).split()[:3] == ["id", "predicted", "lower"]
    assert "labels of the batch are known" in out


def test_bad_input_is_one_sentence_and_leaves_the_ledger_alone(capsys: pytest.CaptureFixture[str]) -> None:
    before = open_ledger("waves").version
    for words, sentence in (
        (("predict", "waves.ledger"), "which datapoints are the batch is not said"),
        (("predict", "waves.ledger", "--where", "new", "--statistic", "quantile:x"), "--statistic 'quantile:x' is no quantile"),
        (("predict", "waves.ledger", "--where", "new", "--alpha", "0.0001", "--delta", "0"), "need n >="),
        (("learn", "waves.ledger", "--learner", "oracle"), "there is no learner 'oracle' for regression"),
        (("learn", "waves.ledger", "--option", "nonsense=1"), "takes no option 'nonsense'"),
    ):
        capsys.readouterr()
        assert main(list(words)) == 2
        said = capsys.readouterr().err
        assert sentence in said, said
        assert "Traceback" not in said
    assert open_ledger("waves").version == before
