"""Claims about curvature edits as unlearning methods."""

import pytest
import torch
from tiny_language_models import byte_tokenizer, tiny_gpt2, tiny_llama
from torch import nn

import datumwise.forget.curvature_methods  # noqa: F401  (registers the methods)
from datumwise.errors import EmptyData, ModelMismatch
from datumwise.forget.coherent_step import recited_share
from datumwise.forget.curvature_edit import CurvatureEdit
from datumwise.forget.curvature_methods import middle_mlp_layers
from datumwise.forget.methods import METHODS, find_method
from datumwise.forget.texts import Texts
from datumwise.probe.kfac import KFAC
from datumwise.probe.swapped_weights import weight_matrix

pytestmark = pytest.mark.filterwarnings("ignore:rank deficient")

RETAIN = Texts(["a", "b", "c"], ["the harbour bell rings at noon", "a kettle on the stove", "seven grey geese fly north"])
FORGET = Texts(["x", "y"], ["her number is 5550143 or so", ("who keeps the key?", " old Marrow does")])


def trained():
    """A model that knows the forget texts by heart and the retain texts in part."""
    model = tiny_llama(scale=1.0)
    tokenizer = byte_tokenizer()
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    rows = [
        torch.tensor([tokenizer(t if isinstance(t, str) else "".join(t))["input_ids"]]) for t in FORGET.items + RETAIN.items
    ]
    for step in range(60):
        optimiser.zero_grad()
        sum(model(input_ids=ids, labels=ids).loss for ids in (rows if step % 3 == 0 else rows[:2])).backward()
        optimiser.step()
    optimiser.zero_grad()
    return model.eval(), tokenizer, [{"input_ids": row} for row in rows[:2]], [{"input_ids": row} for row in rows[2:]]


def test_the_label_free_edit_is_the_curvature_edit_on_the_retained_texts():
    model, tokenizer = tiny_llama(), byte_tokenizer()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = METHODS["curvature"].run
    edited = run(model, tokenizer, FORGET, RETAIN, keep_mass=0.5, batch_size=2)
    assert edited is not model
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    ids = [tokenizer(text)["input_ids"] for text in RETAIN.items]
    layers = middle_mlp_layers(model)
    kfac = KFAC(model, layers).fit([{"input_ids": torch.tensor([row])} for row in ids], ids=[0, 1, 2])
    for name, W in CurvatureEdit(kfac, 0.5).weights(model).items():
        torch.testing.assert_close(weight_matrix(edited, name), W, rtol=1e-3, atol=1e-4)
    nothing_to_forget = run(model, tokenizer, None, RETAIN, keep_mass=0.5, batch_size=2)
    assert all(torch.equal(v, edited.state_dict()[k]) for k, v in nothing_to_forget.state_dict().items())
    model.requires_grad_(False)  # frozen models can be edited too
    assert run(model, tokenizer, FORGET, RETAIN, keep_mass=0.5, batch_size=2, inplace=True) is model
    assert all(torch.equal(v, edited.state_dict()[k]) for k, v in model.state_dict().items())
    assert not any(p.requires_grad for p in model.parameters())


def test_a_cost_chooses_the_share():
    model, tokenizer, _, retain = trained()
    run = METHODS["curvature"].run
    losses = []
    for max_cost in (0.02, 0.5):
        edited = run(model, tokenizer, None, RETAIN, max_cost=max_cost, labels="gold")
        with torch.no_grad():
            losses.append([sum(float(m(**row, labels=row["input_ids"]).loss) for row in retain) for m in (model, edited)])
    assert losses[0][1] - losses[0][0] < 3 * 0.04 < losses[1][1] - losses[1][0]


def test_the_coherent_edit_makes_the_forgotten_no_better_known_than_the_retained():
    model, tokenizer, forget, retain = trained()
    known = [recited_share(model, data, counted="token") for data in (forget, retain)]
    assert known[0] > 0.9
    assert 0.2 < known[1] < 0.8
    edited = METHODS["coherent"].run(model, tokenizer, FORGET, RETAIN, layers="*.mlp.(gate|up|down)_proj")
    after = [recited_share(edited, data, counted="token") for data in (forget, retain)]
    assert after[0] < known[0] - 0.2
    assert after[1] > known[1] - 0.25
    assert recited_share(model, forget, counted="token") == known[0]  # a copy was edited
    given = METHODS["coherent"].run(model, tokenizer, FORGET, RETAIN, norm=0.01, layers="*.mlp.(gate|up|down)_proj")
    old, new = (weight_matrix(m, "model.layers.0.mlp.up_proj") for m in (model, given))
    assert float((new - old).norm() / old.norm()) == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize(
    ("make", "name"), [(tiny_llama, "model.layers.1.mlp.gate_proj"), (tiny_gpt2, "transformer.h.1.mlp.c_fc")]
)
def test_layers_by_default_are_the_first_projections_of_the_mlps_below_the_last_blocks(make, name):
    assert name in middle_mlp_layers(make())
    assert all("attn" not in layer and "down" not in layer and ".0." not in layer for layer in middle_mlp_layers(make()))
    block = lambda: nn.ModuleDict({"up": nn.Linear(2, 4), "down": nn.Linear(4, 2)})  # noqa: E731
    for depth, expected in ((32, range(19, 26)), (16, range(9, 13)), (4, range(2, 4)), (1, range(1))):
        found = middle_mlp_layers(nn.ModuleDict({"layers": nn.ModuleList(block() for _ in range(depth))}))
        assert found == [f"layers.{k}.up" for k in expected]
    with pytest.raises(ModelMismatch, match="the layers of the MLPs are not known by their names and shapes: pass layers="):
        middle_mlp_layers(nn.Linear(2, 4))


def test_they_are_found_by_name_and_need_retain_texts():
    for name in ("curvature", "coherent"):
        method, term = find_method(name)
        assert (method.name, term, method.retain_required) == (name, None, True)
        with pytest.raises(EmptyData, match="this method needs retain texts, and there is none: give retain="):
            method.run(tiny_llama(), byte_tokenizer(), FORGET, None)
