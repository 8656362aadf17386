"""Claims about the reproduction of distribution transformers: a shrunken run, the Nile, and the official configurations."""

import csv
import json
import math

import pytest

from datumwise.errors import DatumwiseError, SourceError
from datumwise.learn.inference_tasks import TASKS
from datumwise.progress import SILENT
from datumwise.reproduce import distribution_transformer as experiment
from datumwise.reproduce.distribution_transformer import NILE, OFFICIAL, STEPS, paper, small
from datumwise.reproduce.frame import find_experiment


@pytest.fixture(scope="module")
def found():
    return small(stage=SILENT, steps=0.02, problems=40, calibrated=300, tasks=("conjugate", "bernoulli"))


def test_every_task_has_a_row_beside_the_exact_posterior(found):
    conjugate, bernoulli = found.rows
    assert conjugate["task"].startswith("conjugate")
    assert conjugate["KL, most data"] < 0.005
    assert conjugate["KL, prior"] > 0.5
    assert 0.85 < conjugate["coverage of 90 %"] < 0.95
    assert conjugate["N = 0, off"] < 1e-4
    assert conjugate["mean off, sd"] < 0.1
    assert bernoulli["KL, most data"] < bernoulli["KL, prior"]
    assert all(row["ms, one"] > row["ms, in a batch"] > 0 for row in found.rows)


def test_the_nile_is_filtered_as_exactly_as_the_abstract_wants(found):
    nile = found.details["nile"]
    assert nile["rmse"] < 0.1
    assert nile["exact"][-1] == pytest.approx(798.3702926, abs=0.05)  # dense conditioning of all 100 years
    assert len(nile["ours"]) == len(NILE) == 100
    assert found.claims[-1].holds


def test_the_nile_is_the_one_of_statsmodels():
    pytest.importorskip("statsmodels")
    from statsmodels.datasets import nile

    assert nile.load().data["volume"].tolist() == list(NILE)


def test_a_run_is_written_with_its_figure(found, tmp_path):
    pytest.importorskip("matplotlib")
    written = found.write(tmp_path)
    with written.files["table"].open(encoding="utf-8") as source:
        assert len(list(csv.DictReader(source))) == 2
    kept = json.loads(written.files["result"].read_text(encoding="utf-8"))
    assert kept["details"]["swapped"]["conjugate"] > 0.9
    assert written.files["figure"].stat().st_size > 20_000
    assert "exact filter" in written.files["figure_svg"].read_text(encoding="utf-8")


def test_every_task_is_part_of_the_experiment():
    assert list(STEPS) == list(TASKS)
    assert set(find_experiment("distribution-transformer").scales) == {"small", "paper"}


def test_the_official_configurations_train_one_at_a_time(monkeypatch):
    with pytest.raises(SourceError, match=r"one official configuration at a time: pass --data with one of conjugate"):
        paper(stage=SILENT)
    with pytest.raises(SourceError, match="'student' is none"):
        paper(data="student", stage=SILENT)
    assert set(OFFICIAL) <= set(TASKS)
    tiny = dict(OFFICIAL["lti-filter"]) | {"d_model": 8, "feedforward": 16, "batch": 8}
    monkeypatch.setattr(experiment, "OFFICIAL", {"lti-filter": tiny})
    monkeypatch.setattr(experiment, "PROBLEMS", 20)
    monkeypatch.setattr(experiment, "CALIBRATED", 50)
    result = paper(data="lti-filter", stage=SILENT, steps=0.001)
    assert result.rows[0]["head"] == "direct"
    assert math.isfinite(result.rows[0]["KL, most data"])


def test_the_small_scale_takes_no_model_and_no_data():
    with pytest.raises(DatumwiseError, match="simulates its own problems"):
        small(data="nile", stage=SILENT)
