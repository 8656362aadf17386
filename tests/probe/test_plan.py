"""A plan names its passes, layers and cost, and runs nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from datumwise.errors import ModelMismatch, UnknownName
from datumwise.probe import plan
from datumwise.probe.needs.lens import LENS
from datumwise.probe.plan import LENS_NAMES, SIGNALS


class Untouchable(nn.Module):
    """Fails when it is called."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.attention = nn.MultiheadAttention(4, 2)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("a plan ran the model")


def levels(want: list[str], **options: object) -> list[int]:
    return [one.level for one in plan(Untouchable(), want, **options).passes]


def test_one_pass_serves_all_needs_of_its_level_and_below() -> None:
    assert levels(["loss", "entropy", "embedding", "last_grad_norm"]) == [0]
    assert levels(["loss", "entropy", "grad_norm", "grad_index", "mean_gradient"]) == [1]
    assert levels(["grad_dot"], target=[{}]) == [1]
    assert levels(["grad_dot", "loss"], target="mean") == [1, 1]
    assert levels(["self_influence"]) == [1, 2, 3]
    assert levels(["self_influence", "loss"]) == [0, 1, 2, 3]


def test_the_factors_share_the_pass_and_drawn_labels_cost_a_backward() -> None:
    want = ["loss", "grad_norm", "kfac"]
    drawn, gold = (plan(Untouchable(), want, fisher_labels=labels) for labels in ("sampled", "gold"))
    assert [p.objectives for p in drawn.passes] == [("loss", "sampled")]
    assert [p.objectives for p in gold.passes] == [("loss",)]
    assert drawn.cost > gold.cost > plan(Untouchable(), want[:2]).cost
    assert [p.objectives for p in plan(Untouchable(), want, losses=len).passes] == [("loss",)]
    assert "kfac" in str(gold)
    trick = plan(Untouchable(), want, measure="log_odds", fisher_labels="gold")
    assert trick.cost == gold.cost


def test_the_plan_says_what_is_captured_and_what_is_missing() -> None:
    model = Untouchable()
    found = plan(model, ["grad_norm"])
    sizes = {name: p.numel() for name, p in model.named_parameters()}
    lost = sum(n for name, n in sizes.items() if name.startswith("attention"))
    assert {layer.name for layer in found.layers} == {"body", "head"}
    assert set(found.missing) == {name for name in sizes if name.startswith("attention")}
    assert found.coverage == pytest.approx(1 - lost / sum(sizes.values()))
    assert found.parameter_bytes == 4 * sum(sizes.values())
    text = str(found)
    assert "2 captured (2 linear)" in text
    assert "nn.MultiheadAttention uses its weights directly" in text


def test_more_signals_cost_more_and_checkpoints_multiply() -> None:
    model = Untouchable()
    forward, norms, both = (plan(model, w).cost for w in (["loss"], ["grad_norm"], ["loss", "grad_norm", "grad_index"]))
    assert forward < norms < both
    assert plan(model, ["loss"], checkpoints=[1, 2, 3]).cost == pytest.approx(3 * forward)


def test_raw_parameters_of_one_row_count_as_captured() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token = nn.Parameter(torch.zeros(1, 1, 4))
            self.head = nn.Linear(4, 2)

    assert plan(Model(), ["grad_norm"]).coverage == 1


def test_an_unknown_signal_is_answered_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="there is no signal 'grad_nrom': did you mean 'grad_norm'"):
        plan(nn.Linear(2, 2), ["grad_nrom"])
    with pytest.raises(UnknownName, match="no signal was asked for"):
        plan(nn.Linear(2, 2), [])
    with pytest.raises(ModelMismatch, match="grad_dot needs gradients to compare with"):
        plan(nn.Linear(2, 2), ["grad_dot"])


def test_every_lens_column_is_a_signal() -> None:
    assert tuple(LENS) == LENS_NAMES
    assert set(LENS) <= set(SIGNALS)
