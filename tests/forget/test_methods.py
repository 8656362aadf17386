"""The table of methods: what is in it, how names are read, how others add theirs."""

from __future__ import annotations

import pytest
import torch
from tiny_language_models import byte_tokenizer, tiny_llama

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.forget.methods import METHODS, Method, find_method, register_method
from datumwise.forget.unlearning import unlearn

MUSE = ("ga", "ga_gdr", "ga_klr", "npo", "npo_gdr", "npo_klr", "tv", "whp")
FURTHER = (
    "simnpo", "dpo", "idk_dpo", "undial", "ceu", "wga", "satimp", "rmu", "pdu", "kl_max", "kl_uniform", "npo_token",
    "npo_batch", "grad_diff", "ssd", "newton", "uld", "retrain", "calibrated",
)  # fmt: skip


@pytest.fixture
def own_method():
    """Registered methods are gone after the test."""
    before = dict(METHODS)
    yield register_method
    METHODS.clear()
    METHODS.update(before)


@pytest.mark.parametrize("name", MUSE + FURTHER)
def test_every_method_of_the_sources_has_a_name_a_source_and_one_line(name):
    method, _ = find_method(name)
    assert method.source
    assert method.summary
    assert "\n" not in method.summary


def test_a_suffix_names_the_retain_term_and_whole_names_go_first():
    assert find_method("npo_klr")[1] == "klr"
    assert find_method("calibrated_embed")[1] == "embed"
    assert find_method("kl_max")[0].name == "kl_max"
    assert find_method("kl_max_gdr")[1] == "gdr"
    assert find_method("idk_dpo")[1] is None


def test_unknown_methods_are_refused_with_the_known_ones():
    with pytest.raises(
        UnknownName,
        match=r"there is no unlearning method 'nope': known are calibrated, ceu, coherent, curvature, dpo, ga, .*, whp; ",
    ):
        find_method("nope")
    with pytest.raises(UnknownName, match="there is no unlearning method 'npo_none'"):
        find_method("npo_none")
    with pytest.raises(UnknownName, match="tv has no loss that a retain term could be added to: use tv"):
        find_method("tv_gdr")


def test_a_method_of_ones_own_is_trained_by_its_name(own_method):
    seen = []

    def prepare(context):
        seen.append((len(context.forget), context.options["strength"], context.retain is None))
        return context.options["strength"]

    def loss(logits, labels, rows, state, options):
        seen.append(rows.tolist())
        return state * logits.float().square().mean()

    own_method(Method("shrink", "a test", "smaller logits", loss, prepare, defaults={"strength": 2.0, "epochs": 1, "lr": 1e-2}))
    model = tiny_llama(0)
    result = unlearn(model, byte_tokenizer(), ["one text", "two texts", "three"], method="shrink", strength=3.0, batch_size=2)
    assert seen[0] == (3, 3.0, True)
    assert sorted(row for rows in seen[1:] for row in rows) == [0, 1, 2]
    assert result.options["strength"] == 3.0
    assert result.options["lr"] == 1e-2
    assert result.stopped_epoch == 1
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert result.model(ids).logits.square().mean() < model(ids).logits.square().mean()


def test_a_method_that_is_a_function_is_measured_before_and_after(own_method):
    given = {}

    def run(model, tokenizer, forget, retain, *, scale=1.0, lr, epochs, inplace, **options):
        given.update(options, scale=scale, ids=forget.ids, retain=retain, inplace=inplace)
        with torch.no_grad():
            import copy

            model = copy.deepcopy(model)
            model.get_output_embeddings().weight.mul_(0)
        return model

    own_method(Method("mute", "a test", "says nothing", run=run, defaults={"scale": 4.0}))
    result = unlearn(tiny_llama(0), byte_tokenizer(), ["one text", "two texts"], method="mute", random_state=7)
    assert given["scale"] == 4.0
    assert given["ids"] == ["0", "1"]
    assert given["retain"] is None
    assert given["random_state"] == 7
    assert result.per_datapoint_nll.shape == (2, 2)
    torch.testing.assert_close(torch.from_numpy(result.per_datapoint_nll[:, 1]), torch.full((2,), 260.0).double().log())
    with pytest.raises(UnknownName, match="mute does not take stop: leave it out, or use a method with a loss"):
        unlearn(tiny_llama(0), byte_tokenizer(), ["one text"], method="mute", stop=lambda model, epoch: True)


def test_two_methods_cannot_have_one_name(own_method):
    with pytest.raises(DatumwiseError, match=r"there is a method ga already \(Shi et al., 2024 \(MUSE\)\): pass replace=True"):
        own_method(Method("ga", "me", "mine", lambda *a: None))
    with pytest.raises(DatumwiseError, match="best_klr ends like a retain term"):
        own_method(Method("best_klr", "me", "mine", lambda *a: None))
    with pytest.raises(DatumwiseError, match="method odd must have either forget_loss or run"):
        Method("odd", "me", "neither")
    with pytest.raises(UnknownName, match="there is no retain term 'all': choose none, gdr, klr, embed"):
        Method("odd", "me", "mine", lambda *a: None, retain="all")
