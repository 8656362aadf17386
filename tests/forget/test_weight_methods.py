"""Methods on weights and logits by their names, through `unlearn`: each against its own parts called by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from tiny_language_models import byte_tokenizer, tiny_gpt2, tiny_llama

from datumwise.errors import EmptyData, ModelMismatch, UnknownName
from datumwise.forget import weight_methods
from datumwise.forget.methods import METHODS
from datumwise.forget.newton import newton_removal
from datumwise.forget.reinforce import reinforced
from datumwise.forget.sequences import encode_sequences
from datumwise.forget.synaptic_dampening import ssd
from datumwise.forget.task_arithmetic import negate, task_vector
from datumwise.forget.texts import as_texts
from datumwise.forget.uld import ULDModel
from datumwise.forget.unlearning import unlearn
from datumwise.forget.whp import WHPModel

FORGET = [("Hello", "there you"), ("Who sat?", "the cat sat on the mat today")]
RETAIN = ["a dog ran away", "nothing to see here at all, really", "in the house"]
OPTIONS = {
    "tv": {"lr": 1e-3, "epochs": 2},
    "whp": {"lr": 1e-3, "epochs": 2},
    "uld": {"epochs": 2, "layers": 1},
    "ssd": {"select": 1.2},
    "newton": {"damping": 20.0},
    "retrain": {"epochs": 2, "lr": 1e-3},
}


def same(a, b):
    return all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))


def parts(max_length=256):
    tokenizer = byte_tokenizer(begin=True)
    return [encode_sequences(tokenizer, as_texts(texts), max_length, padding=0) for texts in (FORGET, RETAIN)]


def run(method, model, **more):
    options = {**OPTIONS[method], **({"initial": tiny_llama(9)} if method == "retrain" else {}), **more}
    return unlearn(model, byte_tokenizer(begin=True), FORGET, RETAIN, method=method, batch_size=2, **options)


@pytest.mark.filterwarnings("ignore:rank deficient")
@pytest.mark.parametrize("method", OPTIONS)
def test_each_is_known_by_name_leaves_the_model_alone_and_repeats(method):
    assert method in METHODS
    model = tiny_llama(scale=1.0)
    before = copy.deepcopy(model)
    a, b = run(method, model), run(method, model)
    assert same(model, before)
    ids = torch.arange(10)[None]
    with torch.no_grad():
        assert torch.equal(a.model(ids).logits, b.model(ids).logits)
        assert not torch.equal(a.model(ids).logits, model(ids).logits)
    assert a.per_datapoint_nll.shape == (2, 2)
    assert (a.per_datapoint_nll[:, 0] != a.per_datapoint_nll[:, 1]).all()
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.filterwarnings("ignore:rank deficient")
@pytest.mark.parametrize("method", ["tv", "ssd", "newton", "retrain"])
def test_in_place_gives_the_same_weights_in_the_model_itself(method):
    model = tiny_llama(scale=1.0)
    apart = run(method, model).model
    found = run(method, model, inplace=True)
    assert found.model is model
    assert same(model, apart)


def test_a_task_vector_by_name_is_one_by_hand():
    model, (forget, _) = tiny_gpt2(scale=1.0), parts()
    r = reinforced(model, forget, lr=1e-3, epochs=2, batch_size=2)
    found = run("tv", model, scale=3.0)
    assert same(found.model, negate(model, task_vector(model, r), 3.0))
    assert same(found.model, run("tv", model, scale=3.0, finetuned=r).model)


def test_whp_and_uld_by_name_wrap_the_model_itself():
    model = tiny_llama(scale=1.0)
    r = reinforced(model, parts()[0], lr=1e-3, epochs=2, batch_size=2)
    found = run("whp", model, scale=2.0).model
    ids = torch.arange(10)[None]
    assert isinstance(found, WHPModel)
    assert found.first is model
    assert torch.equal(found(ids).logits, WHPModel(model, r, 2.0)(ids).logits)
    other = run("uld", model, weight=0.3, assistant=r).model
    assert torch.equal(other(ids).logits, ULDModel(model, r, 0.3)(ids).logits)
    assert len(run("uld", model).model.second.model.layers) == 1


@pytest.mark.filterwarnings("ignore:rank deficient")
def test_newton_and_ssd_by_name_are_the_module_methods_on_token_sums():
    model = tiny_llama(scale=1.0)
    batches = [weight_methods.module_batches(part, 2) for part in parts()]
    assert [len(b["input_ids"]) for b in batches[1]] == [2, 1]
    assert same(run("newton", model).model, newton_removal(model, *batches, curvature="kfac", damping=20.0).model)
    assert same(run("ssd", model).model, ssd(model, *batches, select=1.2).model)


def test_only_the_response_of_a_pair_counts_and_no_padding():
    batch = weight_methods.module_batches(parts()[0], 2)[0]
    tokenizer = byte_tokenizer(begin=True)
    for row, (prompt, response) in enumerate(FORGET):
        start = len(tokenizer(prompt)["input_ids"])
        counted = (batch["labels"][row] != -100).nonzero()[:, 0].tolist()
        assert counted == list(range(start, start + len(response)))


def test_what_a_method_needs_is_asked_for_in_a_sentence():
    model, tokenizer = tiny_llama(), byte_tokenizer(begin=True)
    for method in ("uld", "ssd", "newton"):
        with pytest.raises(EmptyData, match="retain"):
            unlearn(model, tokenizer, FORGET, method=method)
    with pytest.raises(ModelMismatch, match="needs the weights from before the forgotten texts were seen: give initial="):
        unlearn(model, tokenizer, FORGET, RETAIN, method="retrain")
    with pytest.raises(UnknownName, match="tv has no option"):
        unlearn(model, tokenizer, FORGET, method="tv", weight=1)
    with pytest.raises(UnknownName, match="no loss that a retain term could be added to"):
        unlearn(model, tokenizer, FORGET, RETAIN, method="whp_gdr")
