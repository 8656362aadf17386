"""The survey's experiment, shrunk: every question is answered, and the answers are those of the functions it calls."""

from __future__ import annotations

import json

import numpy as np
import pytest

from datumwise.errors import DatumwiseError
from datumwise.reproduce import assess_select
from datumwise.reproduce.docstrings import docstrings
from datumwise.reproduce.frame import reproduce


@pytest.fixture
def shrunk(monkeypatch):
    for name, value in {"SPLITS": 4, "BUDGETS": (0.05, 0.2), "RANDOM": 2, "EPOCHS": 8, "TARGETS": 40}.items():
        monkeypatch.setattr(assess_select, name, value)


@pytest.mark.slow
def test_the_small_scale_answers_every_question_and_repeats(shrunk, tmp_path):
    found = reproduce("assess-select", out=tmp_path / "out", seed=1)
    questions = {row["question"].partition(",")[0] for row in found.rows}
    assert questions == {"flipped labels", "digits", "share of scipy.stats among the chosen"}
    by = {(row["question"], row["method"]): row["mean"] for row in found.rows}
    assert by["flipped labels, AUC", "kNN-Shapley"] > 0.98
    assert by["flipped labels, AUC", "outlier (10 nearest)"] < 0.65  # a flipped label does not move the picture
    assert by["digits, keep 5%: points over random", "hardest first"] < -10
    assert by["share of scipy.stats among the chosen", "DSIR"] > 5 * by["share of scipy.stats among the chosen", "random"]
    assert [claim.holds for claim in found.claims][:2] == [True, True]
    assert "hardest costs" in found.verdict
    kept = json.loads((tmp_path / "out" / "result.json").read_text())
    assert kept["claims"][0]["holds"] is True
    assert (tmp_path / "out" / "figure.png").stat().st_size > 10_000
    assert [row["mean"] for row in assess_select._interval_rows(found.details["target"])] == [
        row["mean"] for row in found.rows[-3:]
    ]


def test_the_real_scale_tunes_a_model_and_compares_with_random(monkeypatch, tmp_path):
    from tiny_language_models import byte_tokenizer, tiny_llama

    model, tokenizer = tiny_llama(scale=1.0, context=512), byte_tokenizer(context=512)
    model.save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    for name, value in {"POOL": 24, "ASKED": 6, "TUNING_EPOCHS": 1}.items():
        monkeypatch.setattr(assess_select, name, value)
    found = reproduce("assess-select", "real", model=str(tmp_path / "tiny"), out=tmp_path / "out")
    assert [row["tuned on"] for row in found.rows][:2] == ["nothing", "random 1"]
    assert all(len(rows) == 3 for rows in found.details["arms"].values())
    tuned = np.array([row["nats a token"] for row in found.rows])
    assert (tuned[1:] < tuned[0]).all()  # three docstrings teach a random model something about the others
    assert (tmp_path / "out" / "figure.png").exists()


def test_what_a_scale_needs_is_said():
    with pytest.raises(DatumwiseError, match="tunes a pretrained language model: name its folder with --model"):
        reproduce("assess-select", "real")
    with pytest.raises(DatumwiseError, match="needs Alpaca-52k"):
        reproduce("assess-select", "paper")


def test_docstrings_are_distinct_repeatable_and_know_their_origin():
    a, b = docstrings(50, seed=3), docstrings(50, seed=3)
    assert a == b
    assert len(set(a.prompts)) == 50
    assert all(80 <= len(r) <= 600 for r in a.responses)
    assert any(m.startswith("scipy") for m in docstrings().modules)
    with pytest.raises(DatumwiseError, match=r"only [\d,]+ docstrings were found"):
        docstrings(10**7)
