import json
import math

import numpy as np
import pytest
import torch
from tiny_language_models import byte_tokenizer, tiny_llama

import datumwise.reproduce.curvature as experiment
import datumwise.reproduce.memorised_topics as worlds
from datumwise.errors import DatumwiseError, EmptyData
from datumwise.evaluate.recitation import recitation
from datumwise.forget.curvature_edit import CurvatureEdit
from datumwise.forget.low_rank_edit import RandomBasisEdit, TruncatedSVD
from datumwise.probe.kfac import KFAC
from datumwise.progress import SILENT
from datumwise.reproduce.curvature_studies import (
    Bench,
    Measured,
    at_ratio,
    easy_labels,
    measure_edits,
    text_scores,
    vision_edits,
    vision_scores,
)
from datumwise.reproduce.frame import reproduce

# --- the end ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_edits_and_scores_on_a_language_model_that_recites():
    world = worlds.memorised_topics(0)
    kfac = KFAC(world.model, experiment.TOPICS_LAYERS).fit({"input_ids": world.train[:1200]}, batch_size=64)
    bench = Bench(world.model, world.memorised, 32, world.train, world.held_out[:200], 24, 24)
    first = CurvatureEdit(kfac, 0.9)
    sweep = {f"{mass:g}": first.at(mass) for mass in (0.9, 0.8, 0.6, 0.5)}
    svd = [("SVD", str(rank), TruncatedSVD(experiment.TOPICS_LAYERS, rank)) for rank in (0.35, 0.25, 0.18)]
    random = ("random bases", "", RandomBasisEdit.like(sweep["0.6"], world.model))
    edits = [("none", "", None), *(("K-FAC", mass, edit) for mass, edit in sweep.items()), *svd, random]
    found = measure_edits(bench, edits, predict=sweep, calibrating=200)
    base, by = found[0], {(m.edit, m.setting): m for m in found}
    # it recites, and writing agrees with reading on every row
    assert base.strict > 0.6
    assert base.recited.strict.tolist() == (base.recited.generated == base.recited.gold).all(axis=1).tolist()
    # 0.5 at least halves recitation at less than 1.4 times the perplexity
    half = by["K-FAC", "0.5"]
    assert half.strict <= base.strict / 2
    assert 1 < half.ratio < 1.4
    # more is forgotten the less is kept
    strict = [base.strict, *(by["K-FAC", mass].strict for mass in sweep)]
    assert strict == sorted(strict, reverse=True)
    # at equal perplexity K-FAC recites less than truncated SVD; random bases destroy
    assert at_ratio(found, "K-FAC", 1.15) < at_ratio(found, "SVD", 1.15)
    assert by["random bases", ""].ratio > by["K-FAC", "0.6"].ratio
    # predicted cost, on calibration windows
    for mass in ("0.9", "0.8"):
        one = by["K-FAC", mass]
        assert math.log(one.predicted) == pytest.approx(math.log(one.realised), rel=0.1)
    # scores: recited windows have a large flat share, also at equal loss
    ordinary = torch.cat([world.train[:100], world.held_out[:100]])
    plain, easy = text_scores(
        world.model,
        kfac,
        world.memorised,
        ordinary,
        names=("flat_share", "removed_energy", "edit_sensitivity", "self_influence"),
    )
    assert plain["flat_share"].auc.value > 0.9
    assert plain["edit_sensitivity"].auc.value > 0.8
    assert plain["self_influence"].auc.value < 0.1  # saturated items point the other way
    assert plain["loss"].auc.value < 0.05  # and the loss alone would have done
    assert easy["flat_share"].matched.value > 0.75
    assert 0.4 < easy["loss"].matched.value < 0.6
    assert easy["flat_share"].n_matched > 50


def test_true_labels_come_back_on_mislabelled_digits():
    world = worlds.noisy_digits(0, epochs=30)
    kfac = KFAC(world.model, experiment.DIGITS_LAYERS).fit((world.X, world.given), batch_size=100)
    base, mild, strong = vision_edits(world, kfac, [0.97, 0.75])
    assert base["recalled"] > mild["recalled"] > strong["recalled"]
    assert base["true"] < mild["true"] < strong["true"]
    assert strong["true"] > 0.4
    assert strong["test"] > 0.7
    assert base["pairs"] == 1 > mild["pairs"] > strong["pairs"]
    found = vision_scores(world, kfac, draws=1)
    assert found["edit_sensitivity"].auc.value > 0.65
    assert found["edit_sensitivity"].direction == "high"


# --- the pieces ---------------------------------------------------------------------------------------------


def measured(edit, ratio, strict, hidden=None):
    n = 100
    hit = np.arange(n) < round(strict * n)
    gold = np.zeros((n, 2), dtype=np.int64)
    found = recitation_of(hit, gold)
    return Measured(edit, f"{ratio}", found, strict if hidden is None else hidden, 10 * ratio, ratio, 1.0)


def recitation_of(hit, gold):
    from datumwise.evaluate.recitation import Recitation

    return Recitation(np.arange(len(hit)), hit, hit * 2, gold, gold, hit.astype(float), 3)


def test_edits_are_compared_at_equal_perplexity_by_interpolation():
    found = [measured("none", 1.0, 0.8), measured("K-FAC", 1.1, 0.6), measured("K-FAC", 1.3, 0.2), measured("SVD", 1.2, 0.4)]
    assert at_ratio(found, "K-FAC", 1.2) == pytest.approx(0.4)
    assert at_ratio(found, "K-FAC", 1.05) == pytest.approx(0.7)
    assert at_ratio(found, "SVD", 1.1) == pytest.approx(0.6)
    assert math.isnan(at_ratio(found, "SVD", 1.25))


def test_the_cost_of_forgetting_half_is_where_the_curve_crosses_it():
    found = [measured("none", 1.0, 0.8), measured("K-FAC", 1.1, 0.6), measured("K-FAC", 1.3, 0.2)]
    assert experiment._cost(found, "K-FAC", 0.4) == pytest.approx(1.2)
    assert experiment._cost(found, "K-FAC", 0.6) == pytest.approx(1.1)
    assert math.isnan(experiment._cost(found, "K-FAC", 0.1))


def test_easy_labels_keep_the_well_predicted_tokens_alone():
    model = tiny_llama()
    windows = torch.randint(0, 256, (5, 12), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = model(windows, use_cache=False).logits[:, :-1]
    nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), windows[:, 1:], reduction="none")
    most = float(nll.median())
    labels = easy_labels(model, windows, most, batch_size=2)
    assert (labels[:, 0] == -100).all()
    assert torch.equal(labels[:, 1:] != -100, nll <= most)
    assert torch.equal(labels[:, 1:][nll <= most], windows[:, 1:][nll <= most])


def test_measuring_leaves_the_model_as_it_was_and_names_each_edit():
    model = tiny_llama()
    windows = torch.randint(0, 256, (12, 16), generator=torch.Generator().manual_seed(0))
    kfac = KFAC(model, "mlp.(gate|up)_proj").fit({"input_ids": windows})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    edit = CurvatureEdit(kfac, 0.5)
    bench = Bench(model, windows[:4], 2, windows[4:], windows[8:], 8, 8)
    found = measure_edits(bench, [("none", "", None), ("K-FAC", "0.5", edit)], predict={"0.5": edit})
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())
    assert found[0].ratio == pytest.approx(1)
    assert found[0].ndcg == pytest.approx(1)
    assert found[0].predicted is None
    assert found[1].predicted > 0
    assert found[1].realised > 0
    with edit.applied(model):
        assert found[1].strict == recitation(model, windows[:4], 8, 8).strict.mean()
    assert 0 < found[1].pairs < 1
    assert found[1].row("m")["edit or score"] == "K-FAC 0.5"


# --- the experiment -----------------------------------------------------------------------------------------


@pytest.fixture
def tiny_worlds(monkeypatch):
    """Untrained models and few rows: the wiring alone."""

    def topics(seed, progress=None):
        windows = torch.randint(0, 256, (380, 48), generator=torch.Generator().manual_seed(seed))
        return worlds.World(tiny_llama(), byte_tokenizer(), windows[:40], windows[40:200], windows[200:], 0.0)

    noisy = worlds.noisy_digits
    monkeypatch.setattr(worlds, "memorised_topics", topics)
    monkeypatch.setattr(worlds, "noisy_digits", lambda seed, progress=None: noisy(seed, epochs=1))
    monkeypatch.setattr(experiment, "TOPICS_LAYERS", "mlp.(gate|up)_proj")
    monkeypatch.setattr(experiment, "MASSES", (0.8, 0.6))
    monkeypatch.setattr(experiment, "RANKS", (0.5,))
    monkeypatch.setattr(experiment, "VISION_MASSES", (0.9,))


def test_small_writes_table_figure_and_verdict(tiny_worlds, tmp_path):
    found = reproduce("curvature", out=tmp_path, stage=SILENT)
    told = json.loads((tmp_path / "result.json").read_text())
    assert (tmp_path / "figure.png").stat().st_size > 10_000
    names = [(row["model"], row["edit or score"]) for row in told["rows"]]
    assert names[:2] == [("topics", "none"), ("topics", "K-FAC 0.8")]
    assert {("topics", "flat_share"), ("topics", "loss"), ("digits", "edit_sensitivity"), ("digits", "K-FAC 0.9")} <= set(names)
    assert len(found.claims) >= 8
    assert found.claims[0].holds is None  # an untrained model recites nothing
    assert "0.6" in told["details"]["predicted"]
    assert found.command == "datumwise reproduce curvature --scale small --seed 0"


def test_real_teaches_edits_and_scores_a_given_model(tmp_path, monkeypatch):
    for name, value in {"PASSAGES": 8, "READ": 6, "WRITTEN": 6, "ORDINARY": 20, "ROUNDS": 3}.items():
        monkeypatch.setattr(experiment, name, value)
    texts = [f"{i} other words of item {i * i} are told here" for i in range(60)]
    (tmp_path / "texts").write_text("\n".join(texts))
    tiny_llama().save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    found = reproduce("curvature", "real", model=str(tmp_path / "model"), data=str(tmp_path / "texts"))
    assert [row["edit or score"] for row in found.rows][:2] == ["none", "K-FAC 0.99"]
    assert any(row["edit or score"] == "flat_share" for row in found.rows)
    assert "3 rounds" in found.notes[0]


def test_paper_reads_passages_from_a_file_in_two_parts(tmp_path):
    words = [
        f"{i} words of item {i * i} that go on and on until there are at least a hundred and twelve tokens of them "
        for i in range(104)
    ]
    lines = [*(w * 2 for w in words[:4]), "---", *(w * 2 for w in words[4:])]
    (tmp_path / "texts").write_text("\n".join(lines))
    model = tiny_llama()
    model.save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    found = reproduce("curvature", "paper", model=str(tmp_path / "model"), data=str(tmp_path / "texts"))
    assert found.notes[0].startswith("4 passages, 64 tokens given and 48 to recite")


def test_what_a_scale_cannot_use_is_refused(tmp_path):
    with pytest.raises(DatumwiseError, match="scale small trains its own models"):
        reproduce("curvature", model="x")
    with pytest.raises(DatumwiseError, match="needs a pretrained causal language model"):
        reproduce("curvature", "real")
    (tmp_path / "texts").write_text("one\ntwo")
    tiny_llama().save_pretrained(tmp_path / "model")
    byte_tokenizer().save_pretrained(tmp_path / "model")
    where = str(tmp_path / "model")
    with pytest.raises(EmptyData, match="texts of 48 tokens are too few"):
        reproduce("curvature", "real", model=where, data=str(tmp_path / "texts"))
    with pytest.raises(DatumwiseError, match="has no line ---"):
        reproduce("curvature", "paper", model=where, data=str(tmp_path / "texts"))
    with pytest.raises(DatumwiseError, match="knows by heart and ordinary ones"):
        reproduce("curvature", "paper", model=where)
