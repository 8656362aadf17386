"""What is read off the logits equals the definitions, written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from brute import Tied, class_losses
from torch import Tensor, nn

from datumwise.probe.needs.lens import LENS, Lens
from datumwise.probe.torch_pass import TorchPass


def test_columns_of_a_classifier_equal_their_definitions() -> None:
    torch.manual_seed(0)
    model = nn.Linear(5, 4).double()
    x, y = torch.randn(6, 5).double(), torch.randint(0, 4, (6,))
    with TorchPass(model, [Lens(LENS)]) as run:
        found = run.batch((x, y))
    logits = model(x).detach()
    p = torch.softmax(logits, 1).numpy()
    gold = p[np.arange(6), y]
    rest = p.copy()
    rest[np.arange(6), y] = -1
    ordered = np.sort(p, 1)
    assert (found["labels"] == y.numpy()).all()
    assert np.allclose(found["loss"], -np.log(gold))
    assert np.allclose(found["nll"], found["loss"])
    assert np.allclose(found["logits"], logits, atol=1e-6)
    assert np.allclose(found["probs"], p, atol=1e-6)
    assert np.allclose(found["entropy"], -(p * np.log(p)).sum(1))
    assert np.allclose(found["margin"], gold - rest.max(1))
    assert np.allclose(found["top_margin"], ordered[:, -1] - ordered[:, -2])
    assert np.allclose(found["el2n"], np.linalg.norm(p - np.eye(4)[y], axis=1))
    assert (found["n_tokens"] == 1).all()
    assert [len(row) for row in found["token_logprobs"]] == [1] * 6


def test_columns_of_a_language_model_are_over_its_supervised_tokens() -> None:
    torch.manual_seed(0)
    model = Tied().double()
    ids = torch.randint(0, 11, (3, 7))
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    mask[2, 1:] = 0  # nothing to predict
    labels = ids.masked_fill(mask == 0, -100)
    labels[0, :3] = -100  # a prompt
    batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
    columns = ["loss", "nll", "n_tokens", "token_logprobs", "entropy", "margin"]
    with TorchPass(model, [Lens(columns)]) as run:
        found = run.batch(batch)
    log_p = F.log_softmax(model(ids), -1).detach()
    rows = [[log_p[n, t - 1, ids[n, t]] for t in range(1, 7) if labels[n, t] != -100] for n in range(3)]
    entropies = [
        [-(log_p[n, t - 1].exp() * log_p[n, t - 1]).sum() for t in range(1, 7) if labels[n, t] != -100] for n in range(3)
    ]
    assert found["n_tokens"].tolist() == [4, 3, 0]
    for got, want in zip(found["token_logprobs"], rows, strict=True):
        assert got.dtype == np.float32
        assert np.allclose(got, np.array(want), atol=1e-6)
    assert np.allclose(found["nll"], [-sum(r) if r else 0.0 for r in rows])
    assert np.allclose(found["loss"], found["nll"])
    assert np.allclose(found["entropy"][:2], [np.mean(e) for e in entropies[:2]])
    assert np.isnan(found["entropy"][2])


def test_the_lens_runs_no_backward_and_needs_no_gradient() -> None:
    model = nn.Linear(5, 4).requires_grad_(False)
    with TorchPass(model, [Lens(["loss"])]) as run:
        assert run.objectives == []
        run.batch((torch.randn(2, 5), torch.tensor([0, 1])))


def test_a_custom_loss_keeps_the_logits_in_sight() -> None:
    model = nn.Linear(5, 4)
    batch = (torch.randn(3, 5), torch.tensor([0, 1, 2]))

    def losses(model: nn.Module, batch: Any) -> Tensor:
        return 2 * class_losses(model, batch)

    with TorchPass(model, [Lens(["loss", "probs"])], losses=losses) as run:
        found = run.batch(batch)
    assert np.allclose(found["probs"].sum(1), 1, atol=1e-6)
    assert np.allclose(found["loss"], 2 * class_losses(model, batch).detach(), atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_probabilities_of_a_half_precision_model_are_in_float32(dtype: torch.dtype) -> None:
    model = nn.Linear(5, 4).to(dtype)
    with TorchPass(model, [Lens(["probs"])]) as run:
        found = run.batch((torch.randn(3, 5).to(dtype), torch.tensor([0, 1, 2])))
    assert found["probs"].dtype == np.float32
    assert np.allclose(found["probs"].sum(1), 1, atol=1e-6)
