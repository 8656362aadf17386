"""``datumwise value`` and ``attribute``: what they write is what the functions give, and what they print is valid JSON."""

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
def ledgers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name, n in (("train", 60), ("test", 20)):
        y = np.arange(n) % 2
        x = (rng.normal(size=(n, 3)) + 2 * y[:, None]).astype(np.float32)
        ingest({"id": np.array([f"{name}{i}" for i in range(n)]), "x": list(x), "y": y}, out=name)


def facts(capsys: pytest.CaptureFixture[str], *words: str) -> dict:
    capsys.readouterr()
    assert main([*words, "--json"]) == 0, capsys.readouterr()
    found = json.loads(capsys.readouterr().out)
    jsonschema.validate(found, SCHEMA)
    return found


def test_values_are_written_with_their_errors_and_held_out_rows_have_none(capsys: pytest.CaptureFixture[str]) -> None:
    found = facts(capsys, "value", "train.ledger", "--method", "loo", "--seed", "3")
    table = open_ledger("train").table(["value_loo", "value_loo_stderr"])
    values = np.array(table["value_loo"].to_pylist(), float)
    assert np.isnan(values).sum() == 15
    assert found["worth_most"][0]["value"] == np.nanmax(values)
    assert found["utility_calls"] == 46  # all, and all but each of 45
    assert open_ledger("train").provenance("value_loo").params["utility_calls"] == 46


def test_data_oob_holds_nothing_out_and_names_the_wrong_label(capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    y = np.arange(40) % 2
    x = (rng.normal(size=(40, 3)) + 6 * y[:, None]).astype(np.float32)
    y[7] = 1 - y[7]
    ingest({"id": np.array([f"d{i}" for i in range(40)]), "x": list(x), "y": y}, out="flipped")
    found = facts(capsys, "value", "flipped.ledger")
    assert found["worth_least"][0]["id"] == "d7"
    assert np.isfinite(open_ledger("flipped").array("value_data_oob")).all()


MODEL = """
import torch
torch.manual_seed(0)
net = torch.nn.Linear(3, 2)
"""


def test_attributions_are_the_mean_over_the_queries(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "linear_net.py").write_text(MODEL)
    found = facts(capsys, "attribute", "train.ledger", "test.ledger", "--model", "linear_net:net", "--method", "grad_dot")
    import torch

    from datumwise.probe import attribute

    torch.manual_seed(0)
    net = torch.nn.Linear(3, 2)
    train, test = open_ledger("train"), open_ledger("test")
    expected = attribute(net, train, test, method="grad_dot").mean(axis=0)
    np.testing.assert_allclose(train.array("helps_grad_dot"), expected, rtol=1e-5)
    assert found["helped_most"][0]["id"] == train.ids[int(expected.argmax())]
    assert train.provenance("helps_grad_dot").params["n_queries"] == 20


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["value", "train.ledger", "--method", "nope"], "choose one of tmc"),
        (["value", "train.ledger", "--method", "tmc", "--held-out", "2"], "--held-out is 2: give a share between 0 and 1"),
        (["attribute", "train.ledger", "test.ledger", "--model", "ridge"], "there is no"),
        (["attribute", "train.ledger", "test.ledger", "--model", "logistic-regression"], "has no gradients"),
        (["attribute", "train.ledger", "test.ledger", "--model", "json:loads"], "could not be called without arguments"),
        (["attribute", "train.ledger", "test.ledger", "--model", "os:getcwd"], "gave a str and no model"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(capsys: pytest.CaptureFixture[str], words: list[str], sentence: str) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
