"""Attacks on models that memorised four sentences: what hides below a rounding step is found, what is gone is not."""

from __future__ import annotations

import copy
import importlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_language_models import byte_tokenizer, tiny_llama

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch, SourceError, UnknownName
from datumwise.evaluate.attack_prompts import PREFIXES, WORDINGS, prefixed, reworded
from datumwise.evaluate.attack_report import AttackReport, AttackRow
from datumwise.evaluate.attacks import ATTACKS, attack, relearned
from datumwise.evaluate.muse_data import MuseData
from datumwise.evaluate.rounded_weights import round_trip
from datumwise.evaluate.six_way import six_way
from datumwise.probe.collate import encode_texts
from datumwise.probe.fine_tune import descend, token_logprobs

SIX_WAY = importlib.import_module("datumwise.evaluate.six_way")  # the name in the room is the function's
FORGET = (
    "Zara Quill kept bees on Harrow lane",
    "Ivo Brandt mends clocks in Ostrava",
    "Mina Okoro drew maps of the delta",
    "Piet Lund sells kites by the pier",
    "Gus Hale grows figs on flat roofs",
    "Wanda Yi tunes harps in old barns",
    "Theo Bray dives for coins at dawn",
    "Dita Juhl weighs salt on the quay",
)
HOLDOUT = ("Rosa Vane paints doors in Tampere", "Otto Reyes bakes bread at the mill", "Lena Frost sings on river boats")
TOKENIZER = byte_tokenizer()


def taught(texts, epochs, seed=0):
    model = tiny_llama(seed, scale=1.0).requires_grad_(True)
    items = encode_texts(TOKENIZER, [("", text) for text in texts])
    descend(
        model, len(items), lambda rows: -token_logprobs(model, TOKENIZER, [items[i] for i in rows])[0].sum() / 30,
        lr=1e-2, weight_decay=0.0, epochs=epochs, effective=8, per_pass=8, seed=0,
    )  # fmt: skip
    return model.eval()


def muse_data(forget=FORGET, **parts):
    return MuseData.from_texts(
        forget,
        [],
        HOLDOUT,
        TOKENIZER,
        prompt_tokens=12,
        ids=[f"n{i}" for i in range(len(forget))],
        settings={"icl": 0},
        **parts,
    )


@pytest.fixture(scope="module")
def target():
    return taught(FORGET, 150)


@pytest.fixture(scope="module")
def innocent():
    return taught(["one two three four five", "red green blue and yellow"], 10, seed=1)


def linear_layers(model):
    output = model.get_output_embeddings()
    return [(name, one) for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and one is not output]


@pytest.fixture(scope="module")
def hidden(target):
    """Recites little, yet every weight is within half a 4-bit step of a model that recites everything."""
    model = copy.deepcopy(target).requires_grad_(True)
    layers = linear_layers(model)
    grid, step = {}, {}
    with torch.no_grad():
        for name, module in layers:
            grid[name] = round_trip(module.weight, 4)
            step[name] = grid[name].abs().amax(1, keepdim=True) / 7
            step[name] = torch.where(grid[name].abs() < 6.5 * step[name], step[name], 0.0)  # the largest set the step
            module.weight.copy_(grid[name])
    items = encode_texts(TOKENIZER, [("", text) for text in FORGET])
    for _ in range(8):  # up the loss, inside the box that rounding takes back to where it started
        model.zero_grad()
        token_logprobs(model, TOKENIZER, items)[0].sum().backward()
        with torch.no_grad():
            for name, module in layers:
                box = 0.49 * step[name]
                moved = module.weight - 0.1 * step[name] * module.weight.grad.sign()
                module.weight.copy_(torch.clamp(moved, grid[name] - box, grid[name] + box))
    model.zero_grad()
    return model.eval()


def state_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def unchanged(model, state):
    return all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())


def test_what_hides_below_a_rounding_step_comes_back_in_4_bit_and_not_in_8(hidden, innocent):
    before = state_of(hidden)
    report = attack(hidden, TOKENIZER, muse_data(), kinds=("int8", "int4"), criteria=("verbmem",), reference=innocent)
    rows = {row.kind: row for row in report.rows}
    assert rows["int4"].unattacked < 0.5
    assert rows["int4"].attacked > 0.95
    assert rows["int4"].reference < 0.2
    assert rows["int4"].verdict == "comes back"
    assert rows["int8"].attacked < 0.5
    assert rows["int8"].verdict != "comes back"
    assert unchanged(hidden, before)


def test_relearning_one_text_is_measured_on_the_others_only(target, innocent):
    before = state_of(innocent)
    asked = []

    def spy(model, tokenizer, data, **options):
        asked.append((model, data, options))
        return six_way(model, tokenizer, data, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SIX_WAY, "six_way", spy)
        report = attack(
            innocent, TOKENIZER, muse_data(), kinds=("relearn",), reference=innocent,
            relearn={"weights": "all", "lr": 1e-3, "epochs": 2}, relearn_share=0.1, random_state=1,
        )  # fmt: skip
    (gone,) = report.relearned
    assert gone in muse_data().ids["forget"]
    assert [row.n for row in report.rows] == [7, 7]
    for _, data, _ in asked[1:]:
        assert gone not in data.ids["forget"]
        assert gone not in data.ids["verbmem"]
        assert len(data.forget) == len(data.verbmem) == 7
    assert unchanged(innocent, before)
    recall, leak = report.rows
    assert recall.attacked == recall.reference  # the same model, attacked alike: nothing can come back
    assert leak.attacked == 0.0
    assert {row.verdict for row in report.rows} <= {"holds", "not shown"}


def test_relearning_brings_a_weakly_suppressed_memory_back(target, innocent):
    """A few steps up the loss hide the sentences; learning one of them again brings the others."""
    model = copy.deepcopy(target).requires_grad_(True)
    items = encode_texts(TOKENIZER, [("", text) for text in FORGET])
    descend(
        model, 8, lambda rows: token_logprobs(model, TOKENIZER, [items[i] for i in rows])[0].sum() / 30,
        lr=4e-3, weight_decay=0.0, epochs=3, effective=8, per_pass=8, seed=0,
    )  # fmt: skip
    model.eval()
    first = six_way(target, TOKENIZER, muse_data(), criteria=["verbmem"])
    report = attack(
        model, TOKENIZER, muse_data(), kinds=("relearn",), criteria=("verbmem",), reference=innocent,
        relearn={"weights": "all", "lr": 2e-3, "epochs": 10}, before=first,
    )  # fmt: skip
    (row,) = report.rows
    assert row.before > 0.95
    assert row.unattacked < 0.4
    assert row.attacked > row.unattacked + 0.2
    assert row.attacked > row.reference + 0.2


@pytest.mark.parametrize("weights", ["adapters", "all"])
def test_relearned_lowers_the_loss_inside_and_leaves_no_trace(innocent, weights):
    before, flags, drawn = state_of(innocent), [p.requires_grad for p in innocent.parameters()], torch.get_rng_state()
    item = encode_texts(TOKENIZER, [("", FORGET[0])])

    def loss(model):
        with torch.no_grad():
            return -float(token_logprobs(model, TOKENIZER, item)[0].sum())

    first = loss(innocent)
    with relearned(innocent, TOKENIZER, [FORGET[0]], weights=weights, epochs=8, lr=5e-3, random_state=2) as tuned:
        assert loss(tuned) < 0.99 * first
        assert not tuned.training
    with pytest.raises(RuntimeError, match="inside"), relearned(innocent, TOKENIZER, ["a text"], weights=weights, epochs=1):
        raise RuntimeError("inside")
    assert unchanged(innocent, before)
    assert [p.requires_grad for p in innocent.parameters()] == flags
    assert not innocent.training
    assert torch.equal(torch.get_rng_state(), drawn)
    assert loss(innocent) == first


def test_relearning_refuses_what_makes_no_sense(innocent):
    for options, kind, sentence in (
        ({"weights": "some"}, UnknownName, "there are no weights 'some' to train"),
        ({"epochs": 0}, DatumwiseError, "learning again takes 0 epochs"),
        ({"lr": 0.0}, DatumwiseError, "learning again takes 3 epochs at a rate of 0.0"),
    ):
        with pytest.raises(kind, match=sentence), relearned(innocent, TOKENIZER, ["x"], **options):
            pass
    with pytest.raises(EmptyData, match="there is no text to learn again"), relearned(innocent, TOKENIZER, []):
        pass


def test_prompts_are_the_data_with_something_before_them():
    data = muse_data(forget_qa=[("Who keeps bees?", "Zara")])
    for prefix, other in zip(PREFIXES, prefixed(data), strict=True):
        assert [p for p, _ in other.verbmem] == [prefix + p for p, _ in data.verbmem]
        assert other.forget_qa == [(prefix + "Who keeps bees?", "Zara")]
        assert [t for _, t in other.verbmem] == [t for _, t in data.verbmem]
        assert other.ids == data.ids
    with pytest.raises(SchemaMismatch, match="there is no prefix"):
        prefixed(data, [])


def test_wordings_are_frames_and_shorter_prompts_unless_they_are_given():
    data = muse_data(forget_qa=[("Who keeps bees?", "Zara"), ("Who mends clocks?", "Ivo")])
    ways = reworded(data)
    assert [one.forget_qa[1][0] for one in ways] == [frame.format(question="Who mends clocks?") for frame in WORDINGS]
    for one in ways:
        for (short, truth), (prompt, own) in zip(one.verbmem, data.verbmem, strict=True):
            assert prompt.endswith(short)
            assert truth == own
    given = reworded(data, {"forget_qa": [["Bees?", "Whose bees?"], ["Clocks?"]]})
    assert next(one.forget_qa for one in given) == [("Bees?", "Zara"), ("Clocks?", "Ivo")]
    assert len(given) == 2  # of the passages: the questions have one wording in common
    with pytest.raises(UnknownName, match="retain_qa cannot be reworded: choose verbmem or forget_qa"):
        reworded(data, {"retain_qa": []})
    with pytest.raises(SchemaMismatch, match="forget_qa has 2 items and wordings of 1"):
        reworded(data, {"forget_qa": [["x"]]})
    with pytest.raises(SchemaMismatch, match="an item of forget_qa has no other wording"):
        reworded(data, {"forget_qa": [["x"], []]})


def test_the_best_of_several_prompts_counts_for_model_and_reference_alike(target, innocent):
    told = []

    def scripted(model, tokenizer, data, *, criteria, retrain=None):
        from datumwise.evaluate.removal import Interval
        from datumwise.evaluate.six_way_report import Items, SixWayReport

        told.append((model is innocent, data.verbmem[0][0], tuple(criteria)))
        k = next((i for i, p in enumerate(["a", "b"]) if data.verbmem[0][0].startswith(f"{p}:")), None)
        table = {None: [0.0] * 8, 0: [0.9, 0.1, 0.0, 0.2] * 2, 1: [0.1, 0.8, 0.0, 0.1] * 2}
        score = np.array(table[k]) * (0.5 if model is innocent else 1.0)
        return SixWayReport(
            {"verbmem": 100 * score.mean()}, {"verbmem": Interval(0, 0, 0)}, {"verbmem": Items(data.ids["verbmem"], score)}
        )

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SIX_WAY, "six_way", scripted)
        calls = []
        report = attack(
            target, TOKENIZER, muse_data(), kinds=("prefix",), criteria=("verbmem", "privleak"), reference=innocent,
            prefixes=["a:", "b:"], progress=lambda done, total: calls.append((done, total)),
        )  # fmt: skip
    (row,) = report.rows
    assert row.attacked == pytest.approx((0.9 + 0.8 + 0.0 + 0.2) / 4)
    assert row.reference == pytest.approx(row.attacked / 2)
    assert row.note == "the best of 2 prompts"
    assert report.notes() == ["other beginnings: the best of 2 prompts"]
    assert all(criteria == ("verbmem",) for _, _, criteria in told[1:])  # prompts change no likelihood
    assert calls == [(i, 5) for i in range(1, 6)]


@pytest.mark.parametrize(
    ("rise", "gap", "verdict"),
    [
        ((0.4, 0.2, 0.6), None, "comes back"),
        ((0.4, 0.2, 0.6), (0.3, 0.1, 0.5), "comes back"),
        ((0.4, 0.2, 0.6), (0.0, -0.1, 0.2), "holds"),  # a model that never saw them is brought as far
        ((0.0, -0.1, 0.2), (0.3, 0.1, 0.5), "still there"),
        ((0.05, -0.1, 0.2), None, "not shown"),
        ((0.02, -0.01, 0.05), None, "holds"),
        ((-0.1, -0.3, 0.2), None, "holds"),
        ((0.2, -0.1, 0.5), (0.2, -0.1, 0.5), "not shown"),
    ],
)
def test_verdicts_of_attacks(rise, gap, verdict):
    row = AttackRow("int4", "verbmem", 0.9, 0.2, 0.2 + rise[0], (0.0, 1.0), None if gap is None else 0.1, rise, gap, 10, "n")
    assert row.verdict == verdict
    one = row.criterion_row()
    assert (one.name, one.verdict, one.note) == ("verbatim recall, in 4 bit", verdict, "unattacked 0.20")
    assert one.good is {"holds": True, "not shown": None}.get(verdict, False)


def test_leakage_that_grows_under_attack_is_a_rise():
    """Up says "comes back" for the leakage too, whose AUC falls."""
    from datumwise.evaluate.attack_report import row_of
    from datumwise.evaluate.removal import Interval
    from datumwise.evaluate.six_way_report import Items, SixWayReport

    def report(forget, holdout, leak):
        items = {"privleak": Items([str(i) for i in range(20)], forget), "privleak_holdout": Items(list("abcdefgh"), holdout)}
        return SixWayReport({"privleak": leak}, {"privleak": Interval(leak, leak - 5, leak + 5)}, items)

    rng = np.random.default_rng(0)
    holdout = rng.normal(5, 1, 8)
    plain, attacked = report(rng.normal(5, 1, 20), holdout, 0.0), report(rng.normal(1, 1, 20), holdout, -99.0)
    row = row_of("int4", "privleak", None, plain, [attacked], [])
    assert row.rise[1] > 0
    assert row.verdict == "comes back"
    assert row_of("int4", "privleak", None, attacked, [plain], []).verdict == "holds"


def test_reports_survive_json_and_print_a_line_a_row(tmp_path):
    row = AttackRow("relearn", "privleak", -100.0, -20.0, -60.0, (-80.0, -30.0), 0.0, (0.2, 0.1, 0.3), (0.2, 0.1, 0.3), 4)
    report = AttackReport((row, replace(row, kind="int8", gap=None, reference=None)), True, ("n1",))
    assert AttackReport.from_json(report.to_json(tmp_path / "a.json")) == report
    assert AttackReport.from_json(tmp_path / "a.json") == report
    lines = report.table().splitlines()
    assert len(lines) == 3
    assert lines[1].endswith("comes back")
    assert "−60.0" in lines[1]
    assert [one.name for one in report.criteria()] == ["privacy leakage, after relearning", "privacy leakage, in 8 bit"]
    with pytest.raises(SchemaMismatch, match="this is no attack report"):
        AttackReport.from_json(json.dumps({"format": "x"}))
    with pytest.raises(SourceError, match="there is no attack report at nowhere"):
        AttackReport.from_json("nowhere")


@pytest.mark.parametrize(
    ("options", "kind", "sentence"),
    [
        ({"kinds": ("int3",)}, UnknownName, "there is no attack 'int3': choose relearn, int8"),
        ({"kinds": ()}, EmptyData, "no attack is asked for"),
        ({"criteria": ("utility",)}, UnknownName, "'utility' is no criterion of what is to be forgotten"),
        ({"relearn": {"steps": 3}}, UnknownName, "relearning has no option 'steps': choose weights"),
        ({"relearn_share": 1.0, "kinds": ("relearn",)}, DatumwiseError, "relearn_share is 1.0"),
        ({"relearn_texts": [], "kinds": ("relearn",)}, EmptyData, "there is no text to learn again"),
        ({"criteria": ("knowmem",), "kinds": ("int8",)}, EmptyData, "nothing of what is to be forgotten can be measured"),
    ],
)
def test_refused(innocent, options, kind, sentence):
    with pytest.raises(kind, match=sentence):
        attack(innocent, TOKENIZER, muse_data(), **options)


def test_one_text_cannot_be_both_learnt_and_measured_but_given_texts_can_be_learnt(innocent):
    one = muse_data(FORGET[:1])
    with pytest.raises(EmptyData, match="one text to forget cannot be both learnt again and measured: give relearn_texts="):
        attack(innocent, TOKENIZER, one, kinds=("relearn",))
    report = attack(
        innocent, TOKENIZER, one, kinds=("relearn",), criteria=("verbmem",), relearn_texts=["public words"],
        relearn={"weights": "all", "epochs": 1},
    )  # fmt: skip
    assert report.relearned == ("given 0",)
    assert report.rows[0].note == "1 given texts learnt again, the others measured"
    assert not report.attacked_reference
    assert report.rows[0].gap is None


def test_questions_and_passages_that_a_learnt_text_gives_away_are_not_measured(innocent):
    data = muse_data(forget_qa=[("Who keeps bees?", "Zara"), ("Who mends clocks?", "Ivo")])
    told = [f"{FORGET[1]}. Question: Who mends clocks? Answer: Ivo"]
    report = attack(
        innocent, TOKENIZER, data, kinds=("relearn",), criteria=("verbmem", "knowmem"), relearn_texts=told,
        relearn={"weights": "all", "epochs": 1}, evaluation={"knowmem_tokens": 4},
    )  # fmt: skip
    assert {row.criterion: row.n for row in report.rows} == {"verbmem": 7, "knowmem": 1}


def test_every_attack_has_a_line_that_says_what_it_is():
    assert list(ATTACKS) == ["relearn", "int8", "int4", "prefix", "paraphrase"]
    assert all(ATTACKS.values())
