import pytest
import torch
from small_world import needs_news, small_world

from datumwise.errors import SourceError
from datumwise.evaluate.six_way import six_way
from datumwise.forget.annealed import annealed
from datumwise.forget.unlearning import unlearn
from datumwise.reproduce import memorised_news as module
from datumwise.reproduce.memorised_news import memorised_news, news_tokenizer, steps_an_epoch
from datumwise.reproduce.muse_methods import MEASURED
from datumwise.reproduce.world_texts import world_texts

needs_news()


def test_every_document_fits_and_comes_back_from_its_tokens():
    texts, tokenizer = world_texts(0), news_tokenizer()
    documents = texts.forget + texts.retain + texts.calibration + texts.holdout
    ids = tokenizer(documents)["input_ids"]
    assert max(map(len, ids)) <= module.TOKENS  # no document loses its end in training
    assert [tokenizer.decode(one, skip_special_tokens=True) for one in ids] == documents
    assert {one[0] for one in ids} == {tokenizer.bos_token_id}


@pytest.fixture
def few(monkeypatch):
    """Worlds of few and short texts."""
    draw = module.world_texts
    parts = {"forget": 4, "retain": 4, "holdout": 5, "calibration": 5}
    monkeypatch.setattr(module, "world_texts", lambda seed: draw(seed, items=parts, words=20))


def test_a_kept_world_is_loaded_as_it_was_and_only_for_its_seed(few, tmp_path, monkeypatch):
    read = []
    train = module.trained

    def brief(initial, tokenizer, documents, **options):
        read.append(list(documents))
        return train(initial, tokenizer, documents, **(options | {"epochs": 1}))

    monkeypatch.setattr(module, "trained", brief)
    world = memorised_news(7, path=tmp_path / "world")
    texts = world.texts
    assert read == [texts.forget + texts.retain, texts.retain]
    assert sum(p.numel() for p in world.target.parameters()) == 319_968
    again = memorised_news(7, path=tmp_path / "world")
    assert len(read) == 2
    assert (again.texts, again.seconds, again.seed) == (texts, world.seconds, 7)
    for name in ("target", "retrain", "initial"):
        pairs = zip(getattr(world, name).parameters(), getattr(again, name).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert again.tokenizer(texts.forget)["input_ids"] == world.tokenizer(texts.forget)["input_ids"]
    with pytest.raises(SourceError, match="holds the world of seed 7, not 8: name another folder"):
        memorised_news(8, path=tmp_path / "world")


def test_the_same_seed_trains_the_same_weights_and_leaves_the_global_state_alone():
    tokenizer = news_tokenizer()
    initial = module._initial(3, tokenizer)
    before = torch.random.get_rng_state()
    first, second = (module.trained(initial, tokenizer, world_texts(3).retain[:4], epochs=1, seed=3) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first.parameters(), initial.parameters(), strict=True))


def test_progress_counts_the_updates_of_both_trainings(few, monkeypatch):
    monkeypatch.setattr(module, "EPOCHS", 1)
    train = module.trained
    monkeypatch.setattr(module, "trained", lambda *args, **options: train(*args, **(options | {"epochs": 1})))
    told = []
    texts = memorised_news(2, progress=lambda done, total: told.append((done, total))).texts
    n = steps_an_epoch(texts.forget + texts.retain) + steps_an_epoch(texts.retain)
    assert told == [(k + 1, n) for k in range(n)]


def test_data_of_a_request_are_its_own_passages_and_questions_beside_all_that_is_kept(few, monkeypatch):
    train = module.trained
    monkeypatch.setattr(module, "trained", lambda *args, **options: train(*args, **(options | {"epochs": 1})))
    world = memorised_news(4)
    documents, questions = world.texts.folds(4)[1]
    data = world.data_of([t for t in documents if t in world.texts.news("forget")], questions)
    assert (len(data.forget), len(data.verbmem), len(data.forget_qa)) == (1, 1, 4)
    assert (len(data.retain), len(data.holdout), len(data.retain_qa)) == (4, 5, 16)
    assert all(prompt + rest == text for (prompt, rest), text in zip(data.verbmem, data.forget, strict=True))
    assert world.data is world.data
    assert len(world.data.forget) == 4


@pytest.mark.slow
def test_calibrated_unlearning_ends_near_the_model_that_never_saw_and_keeps_what_is_kept():
    world = small_world()
    texts = world.texts
    never = six_way(world.retrain, world.tokenizer, world.data, criteria=MEASURED, retrain=world.retrain, n_draws=1)

    def measured(model):
        return six_way(model, world.tokenizer, world.data, criteria=MEASURED, retrain=never, n_draws=1).values

    target = measured(world.target)
    assert target["verbmem"] > 90
    assert target["knowmem"] > 75
    assert target["privleak"] < -90
    how = {"lr": 1.5e-3, "batch_size": 2, "epochs": 5, "holdout": texts.calibration}
    result = unlearn(world.target, world.tokenizer, texts.forget, texts.retain, method="calibrated", **how)
    constant = measured(result.model)
    how["optimizer"] = annealed(1.5e-3, 5 * 14)
    result = unlearn(world.target, world.tokenizer, texts.forget, texts.retain, method="calibrated", **how)
    values = measured(result.model)
    for found in (constant, values):
        assert found["verbmem"] < 15
        assert found["knowmem"] < 15
    assert abs(values["privleak"]) < 65  # gradient ascent and NPO with a retain term stay at -100
    assert values["utility"] > 75
    assert values["retain_verbmem"] > 85
    assert values["utility"] >= constant["utility"]
    gap = result.per_datapoint_nll[:24, -1].mean() - never.values["nll_holdout"]
    assert abs(gap) < 3 < -(result.per_datapoint_nll[:24, 0].mean() - never.values["nll_holdout"])
