"""A posterior from a ledger's rows: exact where that is known, and each row's influence stands beside it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from datumwise.errors import ColumnExists, DatumwiseError, EmptyData, NotFinite, SchemaMismatch
from datumwise.learn.inference_tasks import TASKS
from datumwise.learn.linear_gaussian import gmm_posterior
from datumwise.learn.posterior import infer, prior_of
from datumwise.ledger import open_ledger
from datumwise.readers import ingest

TASK = TASKS["conjugate"]
PRIOR = "0.5:-1:1,0.3:2:0.5,0.2:0:2"


@pytest.fixture(scope="module")
def model():
    made = TASK.model()
    made.fit(TASK.simulator, TASK.family, steps=150, batch_size=128, n_obs=(1, 5), seed=0)
    return made


@pytest.fixture
def seen(tmp_path):
    y = [2.0, 2.2, 1.9, -1.5]
    return ingest({"id": np.array(list("abcd")), "y": y, "use": [True, True, True, False]}, features="y", out=tmp_path / "seen")


def test_the_posterior_and_its_evidence_are_those_of_the_closed_form(model, seen):
    found = infer(seen, model, prior_of(PRIOR), where="use", log_likelihood=TASK.log_likelihood, refine=1)
    truth, evidence = prior_of(PRIOR), 0.0
    for y in (2.0, 2.2, 1.9):
        truth, log = gmm_posterior(
            truth,
            torch.ones(1, 1, dtype=torch.float64),
            torch.eye(1, dtype=torch.float64),
            torch.tensor([[y]], dtype=torch.float64),
        )
        evidence += log.item()
    assert found.mean[0] == pytest.approx(truth.mean.item(), abs=0.06)
    assert found.sd[0] == pytest.approx(math.sqrt(truth.covariance.item()), rel=0.1)
    assert found.answer.log_evidence.item() == pytest.approx(evidence, abs=0.05)
    low, high = found.interval[0]
    assert low < found.mean[0] < high
    assert found.n == 3


def test_the_odd_one_out_moves_the_posterior_most_and_stands_on_the_ledger(model, seen):
    found = infer(seen, model, prior_of("1:0:2"))
    assert found.most[0][0] == "d"
    column = open_ledger(seen.path).array("posterior_influence")
    assert int(np.argmax(column)) == 3
    made = open_ledger(seen.path).provenance("posterior_influence")
    assert made.higher == "moves the posterior more, in nats"
    again = infer(open_ledger(seen.path), model, prior_of("1:0:2"), where="use")
    values = open_ledger(seen.path).table(["posterior_influence"])["posterior_influence"].to_pylist()
    assert values[3] is None
    assert again.n == 3


def test_priors_are_brought_to_the_components_of_the_model(model, seen):
    one = infer(seen, model, prior_of("1:0:2"), where="use")
    same = infer(seen, model, prior_of("0.25:0:2,0.25:0:2,0.25:0:2,0.25:0:2"), where="use")
    assert one.mean[0] == pytest.approx(same.mean[0], abs=0.05)


def test_a_prior_far_outside_what_was_trained_is_said(model, seen):
    found = infer(seen, model, prior_of("1:300:0.001"))
    assert not bool(found.answer.in_family[0])
    assert found.notes


@pytest.mark.parametrize(
    ("change", "error", "sentence"),
    [
        (
            {"columns": ["y", "use"]},
            SchemaMismatch,
            r"the model observes 1 numbers a datapoint and 2 columns were given \(y, use\)",
        ),
        ({"where": "y > 50"}, EmptyData, "no datapoint is left to learn from: a wider condition"),
        ({"column": "x"}, ColumnExists, "column 'x_influence' came with the data"),
        ({"columns": ["gap"]}, NotFinite, r"1 observations are missing or not finite \(b\): leave them out"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(model, tmp_path, change, error, sentence):
    data = {"id": np.array(list("ab")), "y": [1.0, 2.0], "use": [True, True], "x_influence": [0.0, 0.0], "gap": [1.0, None]}
    ledger = ingest(data, features="y", out=tmp_path / "seen")
    before = ledger.version
    with pytest.raises(error, match=sentence):
        infer(ledger, model, prior_of("1:0:2"), **change)
    assert open_ledger(ledger.path).version == before


@pytest.mark.parametrize("words", ["", "1:0", "a:b:c", "1:0:-1", "0:0:1", "1:nan:1"])
def test_priors_that_say_nothing_are_refused(words):
    with pytest.raises(DatumwiseError, match="prior"):
        prior_of(words)


def test_a_prior_in_words_is_a_mixture():
    found = prior_of("1:0:2,3:4:1")
    assert found.weights[0].tolist() == [0.25, 0.75]
    assert found.scale_tril[0, :, 0, 0].tolist() == [2.0, 1.0]
    assert found.mean.item() == 3.0
