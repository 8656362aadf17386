"""A removal request to a language model and to a torch classifier: what is given stays, what was measured is certified."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from tiny_language_models import byte_tokenizer, tiny_llama

from datumwise.errors import LabelError, ModelMismatch, UnknownName
from datumwise.evaluate.forget_request import forget_datapoints
from datumwise.evaluate.six_way import six_way
from datumwise.probe.fingerprint import model_fingerprint
from datumwise.readers import ingest

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heath", "inlet", "jetty", "knoll", "ledge"]


@pytest.fixture
def notes(tmp_path):
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, 14)) for _ in range(30)]
    part = ["forget"] * 6 + ["keep"] * 10 + ["unseen"] * 14
    return ingest(
        {"id": [f"n{i:02d}" for i in range(30)], "text": texts, "part": part}, id="id", text="text", out=tmp_path / "notes"
    )


def test_a_language_model_forgets_and_the_one_that_was_given_stays(notes):
    model, tokenizer = tiny_llama(1), byte_tokenizer(begin=True)
    first = model_fingerprint(model)
    found = forget_datapoints(
        notes, model, tokenizer, where="part = 'forget'", holdout="part = 'unseen'", method="ga",
        options={"lr": 1e-3, "epochs": 2}, reference=tiny_llama(2),
    )  # fmt: skip
    card = found.certificate
    assert model_fingerprint(model) == first == card.model_before != card.model_after
    names = {one.name: one for one in card.criteria}
    assert {"verbatim recall", "privacy leakage", "held-out loss"} <= set(names)
    assert names["privacy leakage"].reference == 0
    notes.refresh()
    before, after, never = (notes.array(column) for column in found.columns)
    assert (after[:6] > before[:6]).all()
    assert np.isnan(before[6:]).all()
    assert np.isfinite(never[:6]).all()
    assert len(card.datapoints) == 6
    assert card.datapoints[0].after["loss"] == pytest.approx(after[0])


def test_what_is_certified_is_what_the_six_criteria_say_of_the_model_that_is_returned(notes):
    from datumwise.evaluate.muse_data import MuseData

    tokenizer = byte_tokenizer(begin=True)
    found = forget_datapoints(
        notes, tiny_llama(1), tokenizer, ids=["n00", "n03"], method="grad_diff", options={"lr": 1e-3, "epochs": 1},
    )  # fmt: skip
    texts = notes.array("text")
    data = MuseData.from_texts([texts[0], texts[3]], [], [], tokenizer, ids=["n00", "n03"])
    again = six_way(found.model, tokenizer, data, criteria=["verbmem"])
    recall = next(one for one in found.certificate.criteria if one.name == "verbatim recall")
    assert recall.after == pytest.approx(again.values["verbmem"] / 100)
    assert any("held out" in one for one in found.certificate.not_tested)


def test_adapters_are_merged_so_that_the_model_stands_alone(notes):
    tokenizer = byte_tokenizer(begin=True)
    found = forget_datapoints(
        notes, tiny_llama(1), tokenizer, ids=["n00", "n03"], method="ga",
        options={"lr": 1e-2, "epochs": 1, "lora": True},
    )  # fmt: skip
    assert not hasattr(found.model, "peft_config")
    assert found.certificate.model_after == model_fingerprint(found.model) != found.certificate.model_before


@pytest.fixture
def points(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(300, 4))
    y = (x[:, 0] > 0).astype(int)
    y[:20] = 1 - y[:20]
    table = {
        "id": [f"p{i:03d}" for i in range(300)],
        **{f"x{k}": x[:, k] for k in range(4)},
        "y": y,
        "new": np.arange(300) >= 220,
    }
    return ingest(table, label="y", features=[f"x{k}" for k in range(4)], out=tmp_path / "points")


def net(rows, x, y, epochs=150):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(4, 48), torch.nn.ReLU(), torch.nn.Linear(48, 2))
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(epochs):
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimiser.step()
    return model.eval()


def test_a_torch_classifier_recalls_less_of_what_it_was_to_forget(points):
    x = torch.tensor(np.stack([points.array(f"x{k}") for k in range(4)], 1), dtype=torch.float32)
    y = torch.tensor(points.array("y"))
    model, never = net(np.arange(220), x, y), net(np.arange(20, 220), x, y)
    kept = copy.deepcopy(model)
    found = forget_datapoints(
        points, model, where="id < 'p020'", holdout="new", reference=never, options={"lr": 5e-3, "epochs": 6},
    )  # fmt: skip
    names = {one.name: one for one in found.certificate.criteria}
    recall = names["recall of the forgotten"]
    assert recall.before > 0.6 > recall.after
    assert names["accuracy of unseen datapoints"].n == 80
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), kept.parameters(), strict=True))
    assert recall.after == pytest.approx(float((found.model(x[:20]).argmax(1) == y[:20]).float().mean()))


def test_bad_requests_to_models_are_refused(notes, points):
    tokenizer = byte_tokenizer(begin=True)
    with pytest.raises(UnknownName, match="no unlearning method 'erase'"):
        forget_datapoints(notes, tiny_llama(1), tokenizer, ids=["n00"], method="erase")
    with pytest.raises(UnknownName, match="no attack 'shout'"):
        forget_datapoints(notes, tiny_llama(1), tokenizer, ids=["n00"], method="ga", options={"epochs": 0}, attacks=["shout"])
    with pytest.raises(LabelError, match="no classes"):
        forget_datapoints(notes, torch.nn.Linear(4, 2), ids=["n00"])
    with pytest.raises(ModelMismatch, match="no attack 'int8' on a classifier"):
        forget_datapoints(points, torch.nn.Linear(4, 2), ids=["p000"], attacks=["int8"])
