"""C5 starts every request from the first model, C6 from what the one before left; both go on where they were killed."""

from __future__ import annotations

import copy
import importlib
import itertools
import json

import numpy as np
import pytest
import torch
from tiny_language_models import byte_tokenizer, tiny_llama

from datumwise.errors import EmptyData, SchemaMismatch, SourceError
from datumwise.evaluate.forgetting_loops import disjoint_folds, nested_folds, scalability, sustainability
from datumwise.evaluate.forgetting_run import ForgettingRun
from datumwise.evaluate.muse_data import MuseData
from datumwise.forget import unlearning as unlearn_module
from datumwise.probe.fingerprint import model_fingerprint

TOKENIZER = byte_tokenizer()
TEXTS = [f"The {a} keeps {i} {b} in the shed" for i, (a, b) in enumerate(zip("abcdefgh", "hgfedcba", strict=True), 2)]
RETAIN = ["Nothing ever happens in the north", "All roads lead to the old mill"]
HOLDOUT = ["Rain fell on the tin roof all night", "Two swans left the lake at noon", "She counted nine ships on the bay"]
DATA = MuseData.from_texts(TEXTS, RETAIN, HOLDOUT, TOKENIZER, prompt_tokens=8)
FAST = {"method": "ga", "epochs": 1, "lr": 1e-3, "data": DATA, "criteria": ("privleak",), "batch_size": 2}


@pytest.fixture
def model():
    return tiny_llama(0, scale=1.0)


class Spy:
    """Stands in front of `unlearn`: what each request was given; can be told to die at one of them."""

    def __init__(self, monkeypatch, dies_at=None):
        self.calls, self.dies_at, self.inner = [], dies_at, unlearn_module.unlearn
        monkeypatch.setattr(unlearn_module, "unlearn", self)

    def __call__(self, model, tokenizer, forget, retain, **options):
        if len(self.calls) == self.dies_at:
            raise KeyboardInterrupt
        before = model_fingerprint(model)
        result = self.inner(model, tokenizer, forget, retain, **options)
        assert model_fingerprint(model) == before  # no request changes the model it starts from
        ends = {"from": before, "to": model_fingerprint(result.model)}
        self.calls.append(ends | {"forget": list(forget), "retain": retain} | options)
        return result


def folds_of(texts):
    return [texts[:2], texts[2:4], texts[4:6]]


def test_scalability_starts_every_request_from_the_model_as_given(model, monkeypatch):
    spy, first = Spy(monkeypatch), model_fingerprint(model)
    run = scalability(model, TOKENIZER, [TEXTS[:2], TEXTS[:4], TEXTS[:6]], RETAIN, **FAST)
    assert [call["from"] for call in spy.calls] == [first] * 3
    assert [len(call["forget"]) for call in spy.calls] == [2, 4, 6]
    assert [(step.started_from, step.reference) for step in run.steps] == [(first, first)] * 3
    assert [step.result for step in run.steps] == [call["to"] for call in spy.calls]
    assert len({step.result for step in run.steps}) == 3
    assert model_fingerprint(model) == first
    assert run.start.model == first
    assert [report.model for report in run.reports] == [step.result for step in run.steps]


def test_sustainability_starts_each_request_from_the_model_that_the_one_before_left(model, monkeypatch):
    spy, first = Spy(monkeypatch), model_fingerprint(model)
    run = sustainability(model, TOKENIZER, folds_of(TEXTS), RETAIN, **FAST)
    results = [call["to"] for call in spy.calls]
    assert [call["from"] for call in spy.calls] == [first, *results[:-1]]
    assert [(s.started_from, s.reference, s.result) for s in run.steps] == list(
        zip([first, *results[:-1]], [first, *results[:-1]], results, strict=True)
    )
    assert model_fingerprint(run.model) == results[-1]
    assert model_fingerprint(model) == first


def test_the_reference_of_a_request_is_the_model_at_its_start(model):
    """A method with a reference, at no distance from it, has a loss that is known: npo gives (2 / beta) ln 2 at every start."""
    starts = []

    def stop(fold, data):
        starts.append(fold)
        return lambda model, epoch: True

    losses = []
    inner = unlearn_module.unlearn

    def spy(*arguments, **options):
        result = inner(*arguments, **options)
        losses.append(result.history[0]["forget"])
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unlearn_module, "unlearn", spy)
        options = FAST | {"method": "npo", "lr": 3e-3, "epochs": 2}
        sustainability(model, TOKENIZER, folds_of(TEXTS), **options, stop_for=stop, measure_start=False)
    assert losses == pytest.approx([20 * np.log(2)] * 3, rel=1e-5)
    assert starts == [1, 2, 3]


@pytest.mark.parametrize("loop", [scalability, sustainability])
def test_a_killed_run_goes_on_and_ends_as_an_undisturbed_one(model, monkeypatch, tmp_path, loop):
    folds = [TEXTS[:2], TEXTS[:4], TEXTS[:6]] if loop is scalability else folds_of(TEXTS)
    whole = loop(model, TOKENIZER, folds, RETAIN, **FAST)
    dying = Spy(monkeypatch, dies_at=2)
    with pytest.raises(KeyboardInterrupt):
        loop(model, TOKENIZER, folds, RETAIN, **FAST, folder=tmp_path / "run")
    assert len(dying.calls) == 2
    monkeypatch.undo()
    going_on, done = Spy(monkeypatch), []
    run = loop(
        model, TOKENIZER, folds, RETAIN, **FAST, folder=tmp_path / "run", progress=lambda at, total: done.append((at, total))
    )
    assert len(going_on.calls) == 1  # only what was missing
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert [s.result for s in run.steps] == [s.result for s in whole.steps]
    assert [r.values for r in run.reports] == [r.values for r in whole.reports]
    assert run.start.values == whole.start.values
    again = loop(model, TOKENIZER, folds, RETAIN, **FAST, folder=tmp_path / "run")
    assert len(going_on.calls) == 1
    assert again.to_json() == run.to_json()
    if loop is sustainability:
        assert model_fingerprint(again.model) == model_fingerprint(whole.model)
    assert not list((tmp_path / "run").glob("*/checkpoint"))


def test_another_runs_folder_is_refused_and_stays_as_it_is(model, tmp_path):
    scalability(model, TOKENIZER, [TEXTS[:2]], RETAIN, **FAST, folder=tmp_path)
    kept = (tmp_path / "run.json").read_bytes()
    for other, names in (
        ({"epochs": 2}, "option epochs"), ({"method": "ga_gdr"}, "method"), ({"criteria": ("verbmem",)}, "measured criteria"),
    ):  # fmt: skip
        with pytest.raises(SchemaMismatch, match=rf"holds another run \({names} differ\): give another folder"):
            scalability(model, TOKENIZER, [TEXTS[:2]], RETAIN, **{**FAST, **other}, folder=tmp_path)
    with pytest.raises(SchemaMismatch, match=r"\(folds differ\)"):
        scalability(model, TOKENIZER, [TEXTS[:3]], RETAIN, **FAST, folder=tmp_path)
    with pytest.raises(SchemaMismatch, match=r"\(model differ\)"):
        scalability(tiny_llama(5, scale=1.0), TOKENIZER, [TEXTS[:2]], RETAIN, **FAST, folder=tmp_path)
    assert (tmp_path / "run.json").read_bytes() == kept


def test_adapters_do_not_pile_up_and_the_given_model_has_none_afterwards(model):
    pytest.importorskip("peft")
    first = model_fingerprint(model)
    options = FAST | {"lr": 1e-2, "lora": {"r": 2}}
    run = sustainability(model, TOKENIZER, folds_of(TEXTS)[:2], RETAIN, **options, measure_start=False)
    assert type(run.model) is type(model)
    assert not any("lora" in name for name, _ in run.model.named_parameters())
    assert run.steps[1].started_from == run.steps[0].result != first
    assert model_fingerprint(model) == first


@pytest.mark.parametrize(
    ("loop", "folds", "options", "kind", "sentence"),
    [
        (scalability, [], {}, EmptyData, "there is no forget set: give folds="),
        (scalability, [["a b c"], []], {}, EmptyData, "forget set 2 is empty"),
        (
            scalability,
            [["a b", "c d"], ["a b"]],
            {},
            SchemaMismatch,
            "forget set 1 is not inside forget set 2: 1 texts",
        ),
        (sustainability, [["a b", "c d"], ["e f", "a b"]], {}, SchemaMismatch, "forget sets 1 and 2 share 1 texts"),
        (
            scalability,
            [["a b"]],
            {"data": [DATA, DATA]},
            SchemaMismatch,
            "there are 1 forget sets and 2 data: give one",
        ),
        (scalability, [["a b"]], {"inplace": True}, SchemaMismatch, "inplace cannot be given to a run of requests"),
        (sustainability, [["a b"]], {"stop": 3}, SchemaMismatch, "stop cannot be given to a run of requests: give stop_for="),
    ],
)
def test_refused(model, loop, folds, options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        loop(model, TOKENIZER, folds, RETAIN, **{**FAST, **options})


def test_folds_are_nested_or_disjoint_and_all_the_items():
    items = [f"t{i}" for i in range(11)]
    nested, disjoint = nested_folds(items, 4, random_state=1), disjoint_folds(items, 4, random_state=1)
    assert all(set(a) < set(b) for a, b in itertools.pairwise(nested))
    assert sorted(nested[-1]) == sorted(items) == sorted(x for fold in disjoint for x in fold)
    assert max(map(len, disjoint)) - min(map(len, disjoint)) <= 1
    assert disjoint == disjoint_folds(items, 4, random_state=1) != disjoint_folds(items, 4, random_state=2)
    with pytest.raises(EmptyData, match="2 items make no 3 sets"):
        disjoint_folds(["a", "b"], 3)


def test_a_run_prints_a_line_a_request_and_survives_json(model, tmp_path):
    run = sustainability(model, TOKENIZER, folds_of(TEXTS)[:2], RETAIN, **{**FAST, "criteria": ("privleak", "verbmem")})
    back = ForgettingRun.from_json(run.to_json(tmp_path / "run.json"))
    assert back.to_json() == run.to_json() == ForgettingRun.from_json(tmp_path / "run.json").to_json()
    assert back.model is None
    lines = run.table().splitlines()
    assert [line.split()[0] for line in lines] == ["request", "before", "1", "2"]
    assert np.isnan(run.curve("utility")).all()
    assert run.curve("privleak").tolist() == [r.values["privleak"] for r in run.reports]
    with pytest.raises(SourceError, match="there is no forgetting run at nowhere"):
        ForgettingRun.from_json("nowhere")
    with pytest.raises(SchemaMismatch, match="this is no forgetting run"):
        ForgettingRun.from_json(json.dumps({"format": 1}))


def test_data_and_reference_of_each_request_are_its_own(model, monkeypatch):
    six_way_module = importlib.import_module("datumwise.evaluate.six_way")  # the name in the room is the function's

    told, inner = [], six_way_module.six_way

    def spy(one, tokenizer, data, *, retrain=None, **options):
        told.append((data, retrain))
        return inner(one, tokenizer, data, retrain=retrain, **options)

    monkeypatch.setattr(six_way_module, "six_way", spy)
    own = [copy.copy(DATA), copy.copy(DATA)]
    sustainability(model, TOKENIZER, folds_of(TEXTS)[:2], RETAIN, **{**FAST, "data": own}, retrain=[0.4, 0.6])
    assert [(data is own[i], retrain) for i, (data, retrain) in zip((0, 0, 1), told, strict=True)] == [
        (True, 0.4), (True, 0.4), (True, 0.6),
    ]  # fmt: skip


def test_torchs_own_state_is_not_touched(model):
    state = torch.get_rng_state()
    scalability(model, TOKENIZER, [TEXTS[:2]], RETAIN, **FAST)
    assert torch.equal(torch.get_rng_state(), state)
