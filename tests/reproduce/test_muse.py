import json
import math

import pytest
import torch
from small_world import needs_news
from tiny_language_models import byte_tokenizer, tiny_llama

from datumwise.errors import DatumwiseError, SourceError, UnknownName
from datumwise.progress import SILENT
from datumwise.reproduce import memorised_news as world_module
from datumwise.reproduce import muse, muse_findings, muse_real
from datumwise.reproduce.frame import reproduce
from datumwise.reproduce.memorised_news import memorised_news
from datumwise.reproduce.muse_methods import Setting, distance, spread, unlearned
from datumwise.reproduce.muse_real import invented_lives, learnt_case, memory_plan, parameters_of
from datumwise.reproduce.world_texts import world_texts

needs_news()


@pytest.fixture(scope="module")
def world():
    """A world of a few texts that was trained for three epochs only: it knows little, and everything runs on it."""
    train, draw = world_module.trained, world_module.world_texts
    few = {"forget": 4, "retain": 4, "holdout": 6, "calibration": 6}
    asked = {"forget": 8, "retain": 4, "shots": 2, "calibration": 8}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(world_module, "trained", lambda *args, **options: train(*args, **(options | {"epochs": 3})))
        patch.setattr(world_module, "world_texts", lambda seed: draw(seed, items=few, known=asked, words=30))
        patch.setattr(world_module, "SETTINGS", world_module.SETTINGS | {"verbmem_tokens": 6, "knowmem_tokens": 3})
        yield memorised_news(0)


BRIEF = (
    Setting("ga_gdr", "ga_gdr", 1e-3, 2),
    Setting("tv", "tv", 1e-3, 1, scales=(1.0, 4.0)),
    Setting("whp", "whp", 1e-3, 1, scales=(1.0,), told=False),
    Setting("calibrated", "calibrated", 1e-3, 1, 4, anneal=True, told=False),
)


@pytest.fixture(scope="module")
def found(world, tmp_path_factory):
    loops = (Setting("calibrated", "calibrated", 1e-3, 1, 4, anneal=True),)
    return muse.small(seed=0, stage=SILENT, seeds=1, settings=BRIEF, loops=loops, worlds={0: world})


def test_small_gives_a_row_a_model_and_what_it_cost(found):
    rows = {row["model"]: row for row in found.rows}
    assert list(rows) == ["retrained", "target", "ga_gdr", "tv", "whp", "calibrated"]
    assert rows["retrained"]["distance"] == "0"
    assert rows["retrained"]["PrivLeak"] == "0"
    assert rows["tv"]["taken"] in ("scale 1", "scale 4")
    assert rows["ga_gdr"]["stopped"] in ("0 of 1", "1 of 1")
    assert rows["calibrated"]["stopped"] == rows["whp"]["stopped"] == "not told"
    assert all(float(rows[name]["cost, %"]) > 0 for name in ("ga_gdr", "tv", "whp", "calibrated"))
    assert len(found.details["requests"]["calibrated"]["growing"]["utility"]) == 4
    assert len(found.details["requests"]["calibrated"]["successive"]["utility"]) == 4
    json.dumps(found.as_dict(), allow_nan=False)


def test_small_says_of_each_claim_what_was_found(found):
    claims = {claim.claim: claim for claim in found.claims}
    assert any("leak severely" in claim for claim in claims)
    assert any("comes nearest to it" in claim for claim in claims)
    assert sum("requests" in claim for claim in claims) == 2
    assert "never saw the texts" in found.verdict


def test_small_writes_its_table_figure_and_verdict(found, tmp_path):
    pytest.importorskip("matplotlib")
    files = found.write(tmp_path).files
    assert {name for name, path in files.items() if path.stat().st_size > 200} == {
        "table", "result", "verdict", "figure", "figure_svg",
    }  # fmt: skip


def test_a_method_leaves_the_target_alone_and_its_cost_leaves_the_measuring_out(world, monkeypatch):
    case = muse._case(world)
    before = {name: p.clone() for name, p in world.target.named_parameters()}
    clock = iter(range(0, 10_000, 10))  # every look at the clock is ten seconds later
    monkeypatch.setattr("datumwise.reproduce.muse_methods.time.process_time", lambda: float(next(clock)))
    outcome = unlearned(case, Setting("ga_gdr", "ga_gdr", 1e-3, 3))
    assert all(torch.equal(p, before[name]) for name, p in world.target.named_parameters())
    looks = 2 * int(outcome.reached.removeprefix("epoch "))  # at the beginning and end of each measurement
    assert outcome.seconds == 10.0 * (looks + 1) - 10.0 * looks / 2


def test_distance_is_the_mean_difference_with_a_leak_counted_up_to_a_hundred():
    class Report:
        def __init__(self, **values):
            self.values = values

    never = Report(verbmem=10.0, knowmem=0.0, privleak=0.0)
    assert distance(never, never) == 0
    assert distance(Report(verbmem=40.0, knowmem=9.0, privleak=-250.0), never) == pytest.approx((30 + 9 + 100) / 3)
    assert distance(Report(verbmem=4.0, privleak=30.0), never) == pytest.approx((6 + 30) / 2)
    assert math.isnan(distance(Report(utility=1.0), never))


class Measured:
    """A report, or an outcome with itself for a report."""

    def __init__(self, verbmem=5.0, knowmem=0.0, privleak=0.0, utility=100.0, kept=100.0):
        self.values = {"verbmem": verbmem, "knowmem": knowmem, "privleak": privleak, "utility": utility}
        self.values["retain_verbmem"] = kept
        self.report = self


class OneCase:
    before, retrained = Measured(100.0, 100.0, -100.0), Measured()


def claims_of(**outcomes):
    return muse_findings._claims([OneCase], {name: [outcome] for name, outcome in outcomes.items()}, {})


def test_a_leak_is_severe_either_way():
    outcomes = {"ga": Measured(privleak=-80.0), "npo": Measured(privleak=80.0), "tv": Measured(privleak=40.0)}
    leak = claims_of(**outcomes)[2]
    assert (leak.ours, leak.holds) == ("1 of 3 do not (tv)", True)
    assert claims_of(**(outcomes | {"npo": Measured(privleak=-9.0)}))[2].holds is False


def test_calibrated_is_compared_with_what_keeps_as_much_and_what_keeps_less_is_named():
    others = {"npo": Measured(20.0, privleak=-90.0, utility=95.0), "ga": Measured(privleak=3.0, utility=99.0, kept=82.0)}
    claim = claims_of(calibrated=Measured(privleak=-9.0), **others)[-1]
    assert claim.holds is True
    assert claim.ours == (
        "distance 3.0 with 100% kept; next npo, 35.0 with 95% kept; of those that kept less ga, 1.0 with 82% kept"
    )
    assert claims_of(calibrated=Measured(privleak=-9.0, kept=85.0), **others)[-1].holds is False
    assert claims_of(calibrated=Measured(90.0, 90.0, -90.0), **others)[-1].holds is False


def test_of_a_target_that_knows_nothing_it_cannot_be_told_what_was_kept():
    class Blank:
        before, retrained = Measured(utility=0.0, kept=0.0), Measured()

    found = {"calibrated": [Measured()], "ga": [Measured()]}
    claim = muse_findings._claims([Blank], found, {})[-1]
    assert claim.holds is None


def test_spread_shows_the_ends_only_where_they_differ():
    assert spread([4.0]) == "4"
    assert spread([-23.4, 26.0, -30.1]) == "-9 (-30 to 26)"


@pytest.mark.parametrize("options", [{"model": "x"}, {"data": "x"}])
def test_small_takes_no_model_and_no_data(options):
    with pytest.raises(DatumwiseError, match="scale small trains its own model on its own data: use --scale real or paper"):
        muse.small(seed=0, stage=SILENT, **options)


# --- real ---------------------------------------------------------------------------------------------------


def test_invented_people_and_their_birthplaces_are_many_and_all_different():
    lives = invented_lives(0)
    assert len({question for question, _ in lives}) == len({answer for _, answer in lives}) == 64
    assert lives == invented_lives(0) != invented_lives(1)
    texts = world_texts(0, facts=lives, items=muse_real.ITEMS, known=muse_real.ASKED, words=muse_real.WORDS)
    assert len(texts.forget) == 12 + 2
    assert not any(question in "".join(texts.retain + texts.calibration) for question, _ in texts.forget_qa)


@pytest.fixture
def pretrained(tmp_path):
    """A tiny model in a folder."""
    place = tmp_path / "pretrained"
    tiny_llama(0, scale=1.0, context=512).save_pretrained(place)
    byte_tokenizer(begin=True, context=512).save_pretrained(place)
    return str(place)


def test_real_learns_forgets_and_takes_what_it_learnt_from_its_folder(pretrained, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    monkeypatch.setattr(muse_real, "EPOCHS", 1)
    monkeypatch.setattr(muse_real, "ITEMS", {"forget": 3, "retain": 3, "holdout": 4, "calibration": 4})
    monkeypatch.setattr(muse_real, "WORDS", 12)
    monkeypatch.setattr(muse_real, "REAL", (Setting("calibrated", "calibrated", 1e-3, 1, 8, anneal=True, told=False),))
    data = f"folder={tmp_path / 'kept'}"
    learn, read = muse_real._learnt, []

    def spied(initial, tokenizer, documents, seed, stage):
        read.append(list(documents))
        return learn(initial, tokenizer, documents, seed, stage)

    monkeypatch.setattr(muse_real, "_learnt", spied)
    found = reproduce("muse", "real", model=pretrained, data=data)
    assert [row["model"] for row in found.rows] == ["retrained", "target", "calibrated"]
    assert found.command == f"datumwise reproduce muse --scale real --model {pretrained} --data {data} --seed 0"

    texts = world_texts(0, facts=invented_lives(0), items=muse_real.ITEMS, known=muse_real.ASKED, words=muse_real.WORDS)
    assert read == [texts.forget + texts.retain, texts.retain]

    def never(*args, **options):
        raise AssertionError("learnt again")

    monkeypatch.setattr(muse_real, "_learnt", never)
    case, _ = learnt_case(pretrained, data, 0, SILENT)
    row = found.details["reports"]["target"][0]
    assert case.before.values["nll_forget"] == pytest.approx(row["nll_forget"], rel=1e-5)
    assert case.seconds == found.details["seconds of retraining"][0]
    with pytest.raises(SourceError, match="holds a model that was made otherwise: name another folder"):
        learnt_case(pretrained, data, 1, SILENT)


def test_real_needs_a_model_and_its_data_are_a_folder(pretrained):
    with pytest.raises(DatumwiseError, match="needs a pretrained causal language model: pass --model"):
        reproduce("muse", "real")
    with pytest.raises(DatumwiseError, match="scale real has no data 'news': pass folder=PATH"):
        reproduce("muse", "real", model=pretrained, data="news")


# --- paper --------------------------------------------------------------------------------------------------


@pytest.fixture
def published(tmp_path):
    """Two checkpoints and MUSE's folders, tiny."""
    for name, seed in (("tiny_target", 0), ("tiny_retrain", 1)):
        tiny_llama(seed, scale=1.0, context=512).save_pretrained(tmp_path / name)
        byte_tokenizer(begin=True, context=512).save_pretrained(tmp_path / name)
    texts = [f"{i} the {word} lies over the hill" for i, word in enumerate("inn mill pond well barn yard gate lane".split())]  # noqa: SIM905
    qa = [{"question": f"Where is the {word}?", "answer": "over the hill"} for word in ("inn", "mill")]
    files = {
        "raw/forget.json": texts[:3],
        "raw/retain1.json": texts[3:5],
        "privleak/privleak.json": None,
        "verbmem/forget.json": [{"prompt": text[:12], "gt": text[12:]} for text in texts[:3]],
        "knowmem/forget_qa.json": qa[:1],
        "knowmem/retain_qa.json": qa[1:],
        "knowmem/forget_qa_icl.json": qa[1:],
        "knowmem/retain_qa_icl.json": qa[:1],
        "privleak/forget.json": texts[:3],
        "privleak/retain.json": texts[3:5],
        "privleak/holdout.json": texts[5:],
    }
    for name, rows in files.items():
        if rows is not None:
            path = tmp_path / "news" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(rows), encoding="utf-8")
    return tmp_path


def test_paper_runs_by_names_and_tells_the_memory_first(published, monkeypatch):
    monkeypatch.setattr(muse_real, "PAPER", (Setting("calibrated", "calibrated", 1e-4, 1, told=False),))
    told = []

    class Stage:
        def title(self, text): ...
        def progress(self, done, total): ...

        def begin(self, name, what):
            told.append(name)

        def end(self, what):
            told.append(what)

    found = reproduce("muse", "paper", model=str(published / "tiny_target"), data=str(published / "news"), stage=Stage())
    assert told[0] == "plan"
    assert "parameters: all weights in float32" in told[1]
    assert told[1] in found.notes
    assert [row["model"] for row in found.rows] == ["retrained", "target", "calibrated"]
    assert found.rows[2]["cost, %"] is None


def test_paper_refuses_a_target_without_its_retrained_model_and_data_without_unseen_texts(published):
    with pytest.raises(DatumwiseError, match=r"is not to be told from .*: --model TARGET,RETRAINED"):
        muse_real.published_case(str(published / "news"), None, 0, SILENT)
    (published / "news" / "privleak" / "holdout.json").unlink()
    with pytest.raises(DatumwiseError, match="hold no unseen texts"):
        muse_real.published_case(str(published / "tiny_target"), str(published / "news"), 0, SILENT)


def test_texts_that_calibrate_are_not_those_that_are_measured_with(published):
    case, _ = muse_real.published_case(str(published / "tiny_target"), str(published / "news"), 0, SILENT)
    assert len(case.data.holdout) == 2
    assert len(case.calibration) == 1
    assert not set(case.calibration) & set(case.data.holdout)
    assert case.retrained.values != case.before.values


def test_parameters_are_counted_without_weights_and_a_large_model_gets_adapters(published):
    name = str(published / "tiny_target")
    assert parameters_of(name) == sum(p.numel() for p in tiny_llama(0).parameters())
    with pytest.raises(SourceError, match="cannot be read"):
        parameters_of(str(published / "news"))
    assert "adapters on bfloat16 weights" in memory_plan(7_000_000_000)
    assert "all weights in float32" in memory_plan(100_000_000)


def test_there_is_no_other_scale():
    with pytest.raises(UnknownName, match="muse has no scale 'huge'"):
        reproduce("muse", "huge")
