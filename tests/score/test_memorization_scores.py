import numpy as np
import pytest
import torch
from tiny_language_models import byte_tokenizer, tiny_llama
from torch import nn

import datumwise as dw
from datumwise.errors import EmptyData, SchemaMismatch, UnknownName
from datumwise.probe.kfac import KFAC
from datumwise.probe.signals import signals
from datumwise.score.declare import catalogue
from datumwise.score.flat_share import flat_share_given_loss
from datumwise.score.memorization_scores import DIRECTIONS, given_loss, memorization_scores
from datumwise.score.run import plan, run

CURVED = ("flat_share", "removed_energy", "edit_sensitivity", "input_curvature")


def classifier():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))


def labelled(n=40):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, 6, generator=g) * torch.tensor([3.0, 2, 1, 0.5, 0.2, 0.1])
    return x, torch.randint(0, 3, (n,), generator=g)


def texts(n=16):
    return [f"the {i} cats sat on {i * i} mats " * (1 + i % 3) for i in range(n)]


@pytest.fixture
def ledger(tmp_path):
    return dw.ingest({"t": texts()}, text="t", out=tmp_path / "texts")


# --- the residual ---------------------------------------------------------------------------------------


def test_the_residual_is_that_of_a_quadratic_in_the_rank_of_the_loss():
    rng = np.random.default_rng(0)
    loss, noise = rng.permutation(50).astype(float), rng.normal(size=50)
    ranks = (loss + 0.5) / 50
    values = 2 + 3 * ranks - ranks**2 + noise
    by_hand = noise - np.polyval(np.polyfit(ranks, noise, 2), ranks)
    assert np.allclose(given_loss(values, loss), by_hand)
    assert np.allclose(given_loss(values, np.exp(loss / 9)), by_hand)  # ranks alone count
    assert abs(given_loss(values, loss).mean()) < 1e-12


def test_a_score_that_follows_the_loss_has_no_residual_and_unknown_ones_stay_unknown():
    loss = np.array([3.0, 1, 2, 2, np.nan, 5, 0])
    found = given_loss(np.array([1.0, 1, 1, 1, 1, 1, np.nan]), loss)
    assert np.isnan(found[[4, 6]]).all()
    assert np.allclose(found[[0, 1, 2, 3, 5]], 0)


def test_equal_losses_have_equal_expectations():
    loss = np.array([1.0, 1, 1, 2, 2, 2])
    found = given_loss(np.array([0.0, 1, 2, 4, 5, 6]), loss)
    assert np.allclose(found, [-1, 0, 1, -1, 0, 1])


def test_tied_losses_share_their_mean_rank():
    from scipy.stats import rankdata

    rng = np.random.default_rng(3)
    loss, values = np.repeat([0.0, 1, 2, 3, 4], [9, 1, 5, 2, 3]), rng.normal(size=20)
    ranks = rankdata(loss) / 20
    assert np.allclose(given_loss(values, loss), values - np.polyval(np.polyfit(ranks, values, 2), ranks))


def test_what_cannot_be_regressed_is_refused():
    with pytest.raises(SchemaMismatch, match="do not fit together"):
        given_loss([1.0, 2], [1.0])
    with pytest.raises(EmptyData, match="needs 4 datapoints and 3 are known"):
        given_loss([1.0, 2, 3], [1.0, 2, 3])


def test_texts_without_a_predicted_token_have_no_residual():
    found = flat_share_given_loss(np.arange(6.0) ** 3, np.arange(6.0), np.array([1, 1, 1, 1, 1, 0]))
    assert np.isnan(found[5])
    assert not np.isnan(found[:5]).any()


# --- scores ---------------------------------------------------------------------------------------------


def test_the_loss_is_always_beside_the_scores_and_every_score_says_its_direction():
    model, data = classifier(), labelled()
    found = memorization_scores(model, data, scores=["removed_energy", "edit_sensitivity"], ids=[f"d{i}" for i in range(40)])
    assert list(found) == ["removed_energy", "edit_sensitivity", "loss"]
    assert found.higher == {name: DIRECTIONS[name] for name in found}
    with torch.no_grad():
        losses = nn.functional.cross_entropy(model(data[0]), data[1], reduction="none")
    assert np.allclose(found["loss"], losses, rtol=1e-5)
    assert found.top("loss", 1)[0][0] == f"d{int(losses.argmax())}"


def test_the_flat_share_comes_with_what_the_loss_does_not_explain():
    model, data = classifier(), labelled()
    found = memorization_scores(model, data)
    assert list(found) == ["flat_share", "flat_share_given_loss", "self_influence", "removed_energy", "loss"]
    assert np.allclose(found["flat_share_given_loss"], given_loss(found["flat_share"], found["loss"]))


def test_fitted_factors_are_used_and_factors_of_other_data_differ():
    model, data = classifier(), labelled()
    kfac = KFAC(model, ["0"]).fit(data)
    ours = memorization_scores(model, data, kfac, ["flat_share"])
    own = memorization_scores(model, data, scores=["flat_share"])
    x, y = labelled()
    other = memorization_scores(model, data, scores=["flat_share"], calibration=(x.flip(1), y))
    assert np.allclose(ours["flat_share"], own["flat_share"])
    assert not np.allclose(ours["flat_share"], other["flat_share"], rtol=0.5)


def test_written_columns_say_how_they_were_made(ledger):
    model, tokenizer = tiny_llama(), byte_tokenizer()
    found = memorization_scores(model, ledger, scores=["flat_share", "edit_sensitivity"], tokenizer=tokenizer, keep_mass=0.8)
    version = found.write(ledger)
    assert version == found.version == ledger.version
    assert np.allclose(ledger.array("edit_sensitivity"), found["edit_sensitivity"])
    made = ledger.provenance("edit_sensitivity")
    assert made.method == "edit_sensitivity"
    assert made.params["keep_mass"] == 0.8
    assert made.params["layers"] == ["model.layers.1.mlp.gate_proj", "model.layers.1.mlp.up_proj"]
    assert made.model.startswith("LlamaForCausalLM:")
    assert made.higher == DIRECTIONS["edit_sensitivity"]
    assert "loss" not in ledger.schema.names  # a ledger's loss is a sum over tokens


def test_an_unknown_score_is_refused():
    with pytest.raises(UnknownName, match="no curvature score 'curvature'"):
        memorization_scores(classifier(), labelled(), scores=["curvature"])


# --- the command line's way -----------------------------------------------------------------------------


def test_all_are_declared_scores():
    known = catalogue()
    assert {*CURVED, "flat_share_given_loss"} <= set(known)
    assert known["flat_share"].higher == "more likely recited text"


def test_a_run_over_a_ledger_gives_what_the_function_gives(ledger):
    model, tokenizer = tiny_llama(), byte_tokenizer()
    found = run(ledger, model, [*CURVED, "flat_share_given_loss"], tokenizer=tokenizer)
    direct = memorization_scores(model, ledger, scores=CURVED, tokenizer=tokenizer)
    assert direct.ids.tolist() == found.ids.tolist()
    for name in (*CURVED, "flat_share_given_loss"):
        assert np.allclose(found[name], direct[name], rtol=5e-3, atol=2e-4), name
        assert ledger.provenance(name).method == name


def test_a_plan_names_the_passes_and_runs_nothing(ledger):
    model = tiny_llama()
    planned = str(plan(ledger, model, ["flat_share", "edit_sensitivity"], tokenizer=byte_tokenizer()))
    assert "forward + backward of sampled: activation and gradient covariances of some layers" in planned
    assert "forward: flat_share, edit_sensitivity" in planned
    both = str(plan(ledger, model, ["removed_energy", "input_curvature"], tokenizer=byte_tokenizer()))
    assert "forward + backward of loss: removed_energy" in both
    assert "11.00 x  forward + backward of loss: input_curvature" in both


def test_signals_take_another_calibration_a_mass_and_layers(ledger, tmp_path):
    model, tokenizer = tiny_llama(), byte_tokenizer()
    other = dw.ingest({"t": ["quite other words; none of them about animals"] * 5}, text="t", out=tmp_path / "other")
    want = ["flat_share", "edit_sensitivity"]
    one = signals(model, ledger, want, tokenizer=tokenizer)
    calibrated = signals(model, ledger, want, tokenizer=tokenizer, calibration=other)
    whole = signals(model, ledger, want, tokenizer=tokenizer, keep_mass=1.0)
    moved = signals(model, ledger, want, tokenizer=tokenizer, modules=["layers.0.mlp.up_proj"])
    assert not np.allclose(one["flat_share"], calibrated["flat_share"], rtol=0.05)
    assert np.allclose(whole["edit_sensitivity"], 0, atol=1e-6)
    assert not np.allclose(one["flat_share"], moved["flat_share"], rtol=0.05)
    assert one.ids.tolist() == ledger.ids.tolist()


def test_signals_can_be_stored_and_are_refused_to_ray(ledger):
    model, tokenizer = tiny_llama(), byte_tokenizer()
    found = signals(model, ledger, ["flat_share"], tokenizer=tokenizer, store=True)
    assert np.allclose(ledger.array("flat_share"), found["flat_share"])
    assert ledger.provenance("flat_share").method == "signals.flat_share"
    with pytest.raises(Exception, match="flat_share runs in this process only"):
        signals(model, ledger, ["flat_share"], tokenizer=tokenizer, engine="ray")


def test_arrays_without_a_ledger_have_signals_too():
    found = signals(classifier(), labelled(), CURVED)
    direct = memorization_scores(classifier(), labelled(), scores=CURVED)
    for name in CURVED:
        assert np.allclose(found[name], direct[name], rtol=1e-4, atol=1e-6), name
    assert found.ids.tolist() == list(range(40))
