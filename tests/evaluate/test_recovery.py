"""Claims about the comparison of clean, corrupted and unlearned: identities, oracles, groups, what is kept, what is refused."""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_language_models import byte_tokenizer, tiny_llama

from datumwise.errors import DatumwiseError, EmptyData, ModelMismatch, SchemaMismatch, SourceError, UnknownName
from datumwise.evaluate.corruption import CorruptionSet, corrupt_facts
from datumwise.evaluate.facts import FactSet, Shot
from datumwise.evaluate.recovery import restor_evaluate
from datumwise.evaluate.recovery_report import load_states
from datumwise.evaluate.state_answers import StateAnswers, option_lists, state_answers
from datumwise.evaluate.transitions import CLASSES, state_distance
from datumwise.forget.task_arithmetic import negate, task_vector

PLACES = ["Rome", "Oslo", "Bern", "Kyiv", "Lima", "Doha"]
NAMES = [f"N{i:02d}" for i in range(14)]


def people():
    rows = [(name, r, PLACES[(i + 2 * j) % 6]) for i, name in enumerate(NAMES) for j, r in enumerate(("born", "died"))]
    frame = dict(zip(("s", "r", "o"), map(list, zip(*rows, strict=True)), strict=True))
    facts = FactSet.from_frame(frame, subject="s", relation="r", object="o", question=lambda s, r: f"{s} {r}?")
    return facts.with_shots(NAMES[-2:])


FACTS = people()
DOCS = corrupt_facts(FACTS, NAMES[:5], docs_per_entity=1, facts_per_doc=(1, 1), random_state=0)
FALSE = {name: DOCS.false_answers[name] for name in DOCS.false_answers if not name.endswith("died") or name.startswith("N00")}
DOCS = replace(DOCS, false_answers=FALSE)  # so that other facts of the same entities stay true
QUICK = {"n_shots": 2, "max_new_tokens": 4, "n_bootstrap": 100}


def answered(pick, mark, *, seed=0):
    """A state whose answer to each fact is what ``pick(row)`` says; right answers have the likelier options."""
    options = option_lists(FACTS, FALSE, random_state=0)
    outputs = [[pick(row)] for row in range(len(FACTS))]
    rng = np.random.default_rng(seed)
    means = [
        {kind: [-1.0 - 3.0 * (one != outputs[row][0]) - 0.1 * rng.random() for one in some] for kind, some in own.items()}
        for row, own in enumerate(options)
    ]
    return StateAnswers(
        list(FACTS.ids),
        ["?"] * len(FACTS),
        outputs,
        options,
        means,
        means,
        [1.0] * len(DOCS),
        [2.0, 2.5],
        [10, 30],
        mark,
        "t",
        {},
    )


def truth(row):
    return FACTS.answers[row][0]


def falsehood(row):
    return FALSE.get(FACTS.ids[row], truth(row))


CLEAN, CORRUPTED = answered(truth, "clean"), answered(falsehood, "corrupted")


def compared(unlearned, clean=CLEAN, corrupted=CORRUPTED, **options):
    return restor_evaluate(clean, corrupted, unlearned, None, FACTS, DOCS, **{"n_bootstrap": 100, **options})


def test_nothing_unlearned_recovers_nothing():
    report = compared(CORRUPTED)
    for found in (report.recovery, report.margin_recovery, report.truth_recovery, report.known_recovery):
        assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)
    assert report.counts("all")["restored"] == 0
    assert report.counts()["still_corrupted"] == len(FALSE)


def test_the_clean_model_recovers_everything():
    report = compared(CLEAN)
    assert report.recovery.value == report.margin_recovery.value == report.truth_recovery.value == 1.0
    assert report.counts("all")["still_corrupted"] == 0
    assert np.all(report.distance == 0)
    assert report.counts()["restored"] == len(FALSE)


def test_identical_clean_and_corrupted_leave_recovery_undefined():
    report = compared(CLEAN, corrupted=CLEAN)
    for found in (report.recovery, report.margin_recovery, report.known_recovery):
        assert not found.defined
        assert np.isnan(found.value)
        assert str(found) == "undefined: the clean and the corrupted model have identical weights"
    assert json.loads(report.to_json())["recovery"]["value"] is None


def test_groups_classes_and_accuracies_agree():
    rng = np.random.default_rng(3)
    unlearned = answered(lambda row: [truth(row), falsehood(row), "Rome", "xyz"][rng.integers(4)], "unlearned")
    report = compared(unlearned)
    groups = {name: np.array(report.group) == name for name in ("direct", "same_entity", "other")}
    assert {name: int(rows.sum()) for name, rows in groups.items()} == {"direct": 6, "same_entity": 4, "other": 14}
    for name, rows in groups.items():
        assert report.accuracy_by_group[name]["unlearned"].value == pytest.approx(report.right["unlearned"][rows].mean())
        counts = report.counts(name)
        assert sum(counts.values()) == rows.sum()
        right = counts["restored"] + counts["gained"] + counts["kept"]
        assert right / rows.sum() == pytest.approx(report.right["unlearned"][rows].mean())
    table = report.per_fact.to_pylist()
    assert [row["class"] for row in table] == [CLASSES[i] for i in report.classes]
    for row, output, own in zip(table, unlearned.outputs, FACTS.answers, strict=True):
        assert row["unlearned_output"] == output[0]
        assert row["unlearned_right"] == (output[0] in own)
        assert row["unlearned_named"] == (output[0] if output[0] in PLACES else "-")
        assert row["unlearned_says_false"] == (output[0] == FALSE.get(row["id"]))
    expected = [state_distance(CLEAN.union(i), unlearned.union(i)) for i in range(len(FACTS))]
    np.testing.assert_allclose(report.distance, expected)
    assert report.logprobs["clean"].shape == (len(FACTS), 3)
    assert np.isnan(report.logprobs["clean"][~groups["direct"], 1]).all()


def test_margin_recovery_is_the_ratio_of_mean_margins():
    half = answered(lambda row: truth(row) if row % 2 else falsehood(row), "half", seed=1)
    report = compared(half)
    rows = [i for i, name in enumerate(FACTS.ids) if name in FALSE]
    mean = [
        np.mean([s.mean_logprobs[i]["correct"][0] - s.mean_logprobs[i]["corrupted"][0] for i in rows])
        for s in (CLEAN, CORRUPTED, half)
    ]
    assert report.margin_recovery.value == pytest.approx((mean[2] - mean[1]) / (mean[0] - mean[1]))


def test_forgetting_alone_moves_the_margin_and_not_the_truth():
    silent = [
        {kind: [v - 9.0 * (kind == "corrupted") for v in some] for kind, some in own.items()} for own in CORRUPTED.mean_logprobs
    ]
    report = compared(replace(CORRUPTED, mean_logprobs=silent, model="silent"))
    assert report.margin_recovery.value > 1
    assert report.truth_recovery.value == report.recovery.value == 0


def test_documents_that_do_not_say_what_is_false_make_every_fact_of_their_entities_a_target():
    options = option_lists(FACTS)
    states = [replace(one, options=options, mean_logprobs=[{"correct": [-1.0]}] * len(FACTS)) for one in (CLEAN, CORRUPTED)]
    docs = replace(DOCS, false_answers={})
    report = restor_evaluate(states[0], states[1], states[0], None, FACTS, docs, n_bootstrap=50)
    assert [g == "direct" for g in report.group] == [s in DOCS.entities for s in FACTS.subjects]
    assert report.recovery.value == 1.0
    assert not report.margin_recovery.defined
    assert report.corruption.valid
    assert report.counts()["still_corrupted"] == 0


def test_fluency_is_lost_above_twice_the_perplexity_weighted_by_tokens():
    fine, lost = (replace(CORRUPTED, neutral_logppl=[2.0, 2.5 + extra]) for extra in (0.9, 0.95))
    assert CORRUPTED.neutral_perplexity == pytest.approx(np.exp((2.0 * 10 + 2.5 * 30) / 40))
    assert compared(fine).fluency_lost is False  # 30 of 40 tokens: times exp(0.675) and exp(0.7125)
    assert compared(lost).fluency_lost is True
    assert "fluency lost" in compared(lost).table()
    silent = replace(CORRUPTED, neutral_logppl=[], neutral_tokens=[])
    assert compared(silent).fluency_lost is None
    assert "nothing is said of fluency" in compared(silent).table()


def test_a_corruption_that_did_not_take_or_cost_the_rest_is_not_valid():
    assert compared(CORRUPTED).corruption.valid
    report = compared(CLEAN, corrupted=replace(CLEAN, model="other"))
    assert "right answers about corrupted facts did not clearly fall; false answers did not clearly rise" in str(
        report.corruption
    )
    with pytest.raises(
        DatumwiseError, match=r"the corruption is not valid.*right 100% -> 100%, false 0% -> 0%, .* 100% -> 100%"
    ):
        report.require_valid_corruption()
    wrecked = answered(lambda row: FALSE.get(FACTS.ids[row], "xyz"), "wrecked")
    assert compared(CLEAN, corrupted=wrecked).corruption.reason == "more than 25% of the other facts went too"
    with pytest.raises(DatumwiseError, match="right about other entities 100% -> 0%"):
        compared(CLEAN, corrupted=wrecked, require_valid=True)


def test_a_judge_of_your_own_may_accept_both_at_once():
    report = compared(CLEAN, judge=lambda question, output, answers: True)
    assert report.right["unlearned"].all()
    rows = np.array(report.group) == "direct"
    assert report.says_false["unlearned"][rows].all()
    assert not report.says_false["unlearned"][~rows].any()
    assert report.counts("all")["kept"] == len(FACTS)
    assert report.judge["name"].endswith("<lambda>")


def test_of_several_samples_accuracy_is_the_share_and_the_class_the_majority():
    def three(state, row_outputs):
        return replace(state, outputs=[row_outputs(row) for row in range(len(FACTS))])

    clean = three(CLEAN, lambda row: [truth(row)] * 3)
    corrupted = three(CORRUPTED, lambda row: [falsehood(row)] * 3)
    mixed = three(CORRUPTED, lambda row: [truth(row), truth(row), falsehood(row)])
    report = compared(mixed, clean=clean, corrupted=corrupted)
    assert report.recovery.value == pytest.approx(2 / 3)
    assert report.counts()["restored"] == len(FALSE)


def test_chance_is_the_most_frequent_answer_of_a_relation():
    facts = FactSet(["a", "b", "c", "d"], ["r"] * 4, ["?"] * 4, [["x"], ["x"], ["y"], ["z"]])
    states = [
        StateAnswers(
            facts.ids,
            ["?"] * 4,
            [["x"]] * 4,
            option_lists(facts, {"a/r": "y", "c/r": "z"}),
            [{}] * 4,
            [{}] * 4,
            [],
            [],
            [],
            m,
            "t",
            {},
        )
        for m in "abc"
    ]
    docs = CorruptionSet(["t"], [[]], {"a/r": "y", "c/r": "z"}, entities=["a", "c"])
    assert restor_evaluate(*states, None, facts, docs).chance == 0.5


# --- with models --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models():
    clean = tiny_llama(0, context=512)
    return clean, tiny_llama(1, context=512), byte_tokenizer(begin=True, context=512)


def shaken(model, seed=7):
    other = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return other


def test_models_are_asked_once_and_left_as_they_were(models):
    clean, corrupted, tokenizer = models
    corrupted.train()
    weights = [p.clone() for p in corrupted.parameters()]
    calls = []
    hook = corrupted.get_input_embeddings().register_forward_hook(lambda *a: calls.append(1))
    report = restor_evaluate(clean, corrupted, corrupted, tokenizer, FACTS, DOCS, neutral=["some other text"], **QUICK)
    once = len(calls)
    restor_evaluate(clean, report, report.states["corrupted"], tokenizer, FACTS, DOCS, neutral=["some other text"], **QUICK)
    hook.remove()
    assert once > 0
    assert len(calls) == once
    assert corrupted.training
    corrupted.eval()
    assert all(torch.equal(a, b) for a, b in zip(weights, corrupted.parameters(), strict=True))
    assert report.states["unlearned"] == report.states["corrupted"]
    assert report.states["clean"].model != report.states["corrupted"].model
    assert len(report.states["clean"].doc_logppl) == len(DOCS)


def test_kept_states_and_reports_give_the_same_report(models, tmp_path):
    clean, corrupted, tokenizer = models
    unlearned = shaken(corrupted)
    report = restor_evaluate(clean, corrupted, unlearned, tokenizer, FACTS, DOCS, about={"method": "noise"}, **QUICK)
    report.to_json(tmp_path / "report.json")
    states = load_states(tmp_path / "report.json")
    assert states == report.states
    again = restor_evaluate(
        states["clean"], report, states["unlearned"], tokenizer, FACTS, DOCS, about={"method": "noise"}, **QUICK
    )
    assert again.to_dict() == report.to_dict()
    states["clean"].to_json(tmp_path / "clean.json")
    assert StateAnswers.from_json(tmp_path / "clean.json") == states["clean"]
    with pytest.raises(SourceError, match="cannot be read as a report of recovery"):
        load_states(tmp_path / "clean.json")


def test_an_oracle_task_vector_restores_the_clean_model(models):
    clean, corrupted, tokenizer = models
    restored = negate(corrupted, task_vector(clean, corrupted), 1.0)
    for own, want in zip(restored.parameters(), clean.parameters(), strict=True):
        torch.testing.assert_close(own, want, atol=1e-6, rtol=0)
    report = restor_evaluate(clean, corrupted, restored, tokenizer, FACTS, DOCS, **QUICK)
    np.testing.assert_allclose(report.logprobs["unlearned"], report.logprobs["clean"], atol=1e-4)
    assert report.states["unlearned"].outputs == report.states["clean"].outputs
    assert np.max(report.distance) < 1e-6


def test_answers_depend_neither_on_the_batch_nor_on_the_other_facts(models):
    clean, _, tokenizer = models
    options = option_lists(FACTS, FALSE)
    whole = state_answers(clean, tokenizer, FACTS, options, n_shots=2, max_new_tokens=6, documents=DOCS.texts)
    small = state_answers(clean, tokenizer, FACTS, options, n_shots=2, max_new_tokens=6, documents=DOCS.texts, batch_size=1)
    rows = [7, 2, 15]
    some = state_answers(clean, tokenizer, FACTS.take(rows), [options[i] for i in rows], n_shots=2, max_new_tokens=6)
    assert small.outputs == whole.outputs
    assert some.outputs == [whole.outputs[i] for i in rows]
    np.testing.assert_allclose(small.mean_by_kind(), whole.mean_by_kind(), atol=1e-5)
    np.testing.assert_allclose(some.mean_by_kind(), whole.mean_by_kind()[rows], atol=1e-5)
    np.testing.assert_allclose(small.doc_logppl, whole.doc_logppl, atol=1e-5)


def test_samples_are_repeatable_and_differ(models):
    clean, _, tokenizer = models
    how = {"n_shots": 2, "max_new_tokens": 6, "decode": "sample", "n_samples": 2}
    one, other = (state_answers(clean, tokenizer, FACTS, random_state=s, **how) for s in (0, 1))
    assert one.outputs == state_answers(clean, tokenizer, FACTS, random_state=0, **how).outputs != other.outputs
    assert any(a != b for a, b in one.outputs)


def test_document_perplexity_is_the_mean_loss(models):
    clean, _, tokenizer = models
    found = state_answers(clean, tokenizer, FACTS.take([0]), n_shots=0, max_new_tokens=1, documents=DOCS.texts[:2])
    for text, own in zip(DOCS.texts[:2], found.doc_logppl, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            assert own == pytest.approx(float(clean(input_ids=ids, labels=ids).loss), abs=1e-5)


def test_repair_is_reported_beside_and_leaves_the_model_alone(models):
    clean, corrupted, tokenizer = models
    unlearned = shaken(corrupted)
    before = [p.clone() for p in unlearned.parameters()]
    report = restor_evaluate(
        clean, corrupted, unlearned, tokenizer, FACTS, DOCS, repair=["a plain text", "one more"],
        repair_options={"epochs": 3, "lr": 1e-2}, **QUICK,
    )  # fmt: skip
    assert report.repaired.states["unlearned"].model != report.states["unlearned"].model
    assert not np.allclose(report.repaired.logprobs["unlearned"], report.logprobs["unlearned"], equal_nan=True)
    assert np.array_equal(report.repaired.logprobs["clean"], report.logprobs["clean"], equal_nan=True)
    assert report.repaired.about["repair"]["epochs"] == 3
    assert all(torch.equal(a, b) for a, b in zip(before, unlearned.parameters(), strict=True))
    with pytest.raises(ModelMismatch, match="kept answers cannot be repaired"):
        restor_evaluate(clean, corrupted, report.states["unlearned"], tokenizer, FACTS, DOCS, repair=["x"], **QUICK)


def test_progress_reaches_its_end(models):
    clean, corrupted, tokenizer = models
    told = []
    restor_evaluate(
        clean, corrupted, shaken(corrupted), tokenizer, FACTS, DOCS, progress=lambda a, b: told.append((a, b)), **QUICK
    )
    assert told[-1][0] == told[-1][1]
    assert [a for a, _ in told] == sorted(a for a, _ in told)


def test_wrong_requests_are_refused(models):
    clean, corrupted, tokenizer = models
    with pytest.raises(EmptyData, match="none of the facts is corrupted"):
        restor_evaluate(clean, corrupted, corrupted, tokenizer, FACTS.of(NAMES[6:8]), DOCS, **QUICK)
    each = {"clean": byte_tokenizer(context=512), "corrupted": tokenizer, "unlearned": tokenizer}
    with pytest.raises(ModelMismatch, match="the states have different tokenizers or vocabularies"):
        restor_evaluate(clean, corrupted, corrupted, each, FACTS, DOCS, **QUICK)
    with pytest.raises(UnknownName, match="there is no state 'dirty': the states are clean, corrupted, unlearned"):
        restor_evaluate(clean, corrupted, corrupted, {"dirty": tokenizer}, FACTS, DOCS, **QUICK)
    with pytest.raises(ModelMismatch, match="the clean model has no tokenizer"):
        restor_evaluate(clean, corrupted, corrupted, None, FACTS, DOCS, **QUICK)
    with pytest.raises(ModelMismatch, match="the prompt of N00/born, N00/died, N01/born and 21 more and its answer need up to"):
        restor_evaluate(clean, corrupted, corrupted, tokenizer, FACTS, DOCS, n_shots=2, max_new_tokens=500)
    with pytest.raises(SchemaMismatch, match="the kept answers of the clean model are to other facts or options"):
        restor_evaluate(CLEAN, CORRUPTED, CORRUPTED, None, FACTS, DOCS, n_random=1)
    with pytest.raises(ModelMismatch, match="the unlearned and the clean model have different tokenizers"):
        compared(replace(CORRUPTED, tokenizer="u"))
    with pytest.raises(SchemaMismatch, match="the unlearned and the clean model were asked differently"):
        compared(replace(CORRUPTED, prompts=["!"] * len(FACTS)))
    with pytest.raises(SchemaMismatch, match="the context has no worked example of the relation born, died"):
        restor_evaluate(clean, corrupted, corrupted, tokenizer, replace(FACTS, context={}), DOCS, **QUICK)
    with pytest.raises(UnknownName, match="there is no decoding 'beam': choose greedy or sample"):
        state_answers(clean, tokenizer, FACTS, decode="beam")
    with pytest.raises(SchemaMismatch, match="n_samples is 3 with decode='greedy'"):
        state_answers(clean, tokenizer, FACTS, n_samples=3)
    with pytest.raises(SourceError, match="these are not a state's answers"):
        StateAnswers.from_dict({"ids": []})


def test_no_worked_example_is_about_a_corrupted_entity(models):
    clean, corrupted, tokenizer = models
    more = {r: [(f"N00 {r}?", "Rome", "N00"), *some] for r, some in FACTS.context.items()}
    facts = FactSet(
        FACTS.subjects, FACTS.relations, FACTS.questions, FACTS.answers, {r: [Shot(*o) for o in s] for r, s in more.items()}
    )
    report = restor_evaluate(clean, corrupted, corrupted, tokenizer, facts, DOCS, **QUICK)
    prompts = dict(zip(report.ids, report.states["clean"].prompts, strict=True))
    assert all(prompt.count("N00") == one.startswith("N00") for one, prompt in prompts.items())
    assert set(report.states["clean"].settings["shots_used"].values()) == {2}


def test_corrupted_facts_that_are_not_asked_are_told_of(models):
    clean, corrupted, tokenizer = models
    report = restor_evaluate(clean, corrupted, corrupted, tokenizer, FACTS.take(np.arange(8)), DOCS, **QUICK)
    assert report.notes[0].startswith("1 corrupted facts are not among the facts asked: N04/born")
