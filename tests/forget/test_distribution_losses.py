"""Losses on whole distributions and on hidden states: direction, bounds, brute force, what the published codes do."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from datumwise.errors import SchemaMismatch
from datumwise.forget.distribution_losses import (
    kl_max_loss,
    kl_retain_loss,
    kl_uniform_loss,
    muse_logit_losses,
    pdu_loss,
    restor_kl_loss,
    top_k_log_probs,
    top_k_retain_loss,
    undial_loss,
)
from datumwise.forget.hidden_losses import control_vector, embed_loss, rmu_loss

LN2 = math.log(2)


def random_batch(seed=0, B=3, T=6, V=7):
    generator = torch.Generator().manual_seed(seed)
    logits, reference = (2 * torch.randn(B, T, V, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.randint(0, V, (B, T), generator=generator)
    labels[0, :3] = -100
    labels[1, 4:] = -100
    return logits, reference, labels


def looped_kl(first, second, labels):
    """Mean KL(first || second) over the positions that predict a label: a double loop in plain Python."""
    found = []
    for b in range(labels.shape[0]):
        for t in range(labels.shape[1] - 1):
            if labels[b, t + 1] < 0:
                continue
            p, q = ([math.exp(x) for x in z[b, t].tolist()] for z in (first, second))
            found.append(sum(x / sum(p) * math.log((x / sum(p)) / (y / sum(q))) for x, y in zip(p, q, strict=True)))
    return float(np.mean(found))


def with_garbage(logits):
    other = logits.clone()
    other[:, -1] = 50.0
    other[0, 0] = -50.0
    other[1, 3:] = 1e3 * torch.arange(other.shape[2])
    return other


def test_retain_divergence_is_from_the_reference_to_the_model():
    """KL(ref || u) and KL(u || ref) of (1/2, 1/2) and (1/4, 3/4): ln(2/sqrt 3) and 3/4 ln 3 - ln 2."""
    labels = torch.tensor([[0, 1]])
    ref = torch.tensor([[[0.5, 0.5], [0.1, 0.9]]], dtype=torch.float64).log()
    u = torch.tensor([[[0.25, 0.75], [0.6, 0.4]]], dtype=torch.float64).log()
    assert kl_retain_loss(u, ref, labels).item() == pytest.approx(math.log(2 / math.sqrt(3)), abs=1e-12)
    assert -kl_max_loss(u, ref, labels).item() == pytest.approx(0.75 * math.log(3) - LN2, abs=1e-12)


def test_both_divergences_equal_a_double_loop_and_ignore_padded_logits():
    logits, reference, labels = random_batch()
    retained, pushed = kl_retain_loss(logits, reference, labels), kl_max_loss(logits, reference, labels)
    assert retained.item() == pytest.approx(looped_kl(reference, logits, labels), rel=1e-12)
    assert -pushed.item() == pytest.approx(looped_kl(logits, reference, labels), rel=1e-12)
    other, other_ref = with_garbage(logits), with_garbage(reference)
    assert kl_retain_loss(other, other_ref, labels).item() == retained.item()
    assert kl_max_loss(other, other_ref, labels).item() == pushed.item()
    assert undial_loss(other, other_ref, labels).item() == undial_loss(logits, reference, labels).item()
    assert pdu_loss(other, labels).item() == pdu_loss(logits, labels).item()
    assert kl_uniform_loss(other, labels).item() == kl_uniform_loss(logits, labels).item()


@pytest.mark.parametrize("loss", [kl_retain_loss, kl_max_loss])
def test_divergences_start_at_zero_without_gradient_and_keep_their_sign(loss):
    logits, _, labels = random_batch()
    z = logits.clone().requires_grad_()
    value = loss(z, logits, labels)
    value.backward()
    assert value.item() == 0
    assert z.grad.abs().max() < 1e-15
    sign = 1 if loss is kl_retain_loss else -1
    for seed in range(20):
        u, ref, y = random_batch(seed)
        assert sign * loss(u, ref, y).item() > 0


def test_a_token_that_cannot_come_does_not_poison_the_divergence():
    labels = torch.tensor([[0, 1]])
    z = torch.tensor([[[0.0, 1.0, -torch.inf], [0.0, 0.0, 0.0]]], requires_grad=True)
    ref = torch.tensor([[[0.5, 0.5, -torch.inf], [0.0, 0.0, 0.0]]])
    for loss in (kl_retain_loss(z, ref, labels), kl_max_loss(z, ref, labels)):
        (gradient,) = torch.autograd.grad(loss, z, retain_graph=True)
        assert torch.isfinite(loss)
        assert torch.isfinite(gradient[0, 0, :2]).all()


def test_the_reference_gets_no_gradient():
    logits, reference, labels = random_batch()
    logits.requires_grad_()
    reference.requires_grad_()
    for loss in (kl_retain_loss, kl_max_loss, undial_loss):
        loss(logits, reference, labels).backward()
    assert reference.grad is None


def test_divergence_from_uniform_is_zero_there_and_ln_v_at_certainty():
    labels = torch.tensor([[0, 1]])
    assert kl_uniform_loss(torch.full((1, 2, 5), 3.0), labels).item() == pytest.approx(0, abs=1e-6)
    certain = torch.tensor([[[0.0, 90.0, 0.0, 0.0, 0.0]] * 2])
    assert kl_uniform_loss(certain, labels).item() == pytest.approx(math.log(5), abs=1e-6)
    logits, _, y = random_batch()
    assert kl_uniform_loss(logits, y).item() == pytest.approx(looped_kl(logits, torch.zeros_like(logits), y), rel=1e-12)


def test_undial_by_hand():
    """p = (1/2, 1/4, 1/4), x = 1 and p = (1/8, 1/8, 3/4), x = 2, own reference, beta = ln 2: true tokens are halved."""
    p = torch.tensor([[[1 / 2, 1 / 4, 1 / 4], [1 / 8, 1 / 8, 3 / 4], [1, 1, 1]]], dtype=torch.float64)
    labels = torch.tensor([[0, 1, 2]])
    expected = (10 / 7 * LN2 + (2 / 5 * math.log(8) + 3 / 5 * math.log(4 / 3))) / 2
    assert undial_loss(p.log(), p.log(), labels, beta=LN2).item() == pytest.approx(expected, abs=1e-12)


def test_undial_without_strength_holds_the_first_weights():
    logits, _, labels = random_batch()
    z = logits.clone().requires_grad_()
    undial_loss(z, logits, labels, beta=0.0).backward()
    assert z.grad.abs().max() < 1e-15


def test_undial_never_reads_the_label_of_ignored_positions():
    """The published scatter takes -100 for vocabulary entry V - 100 and averages over prompt and padding."""
    generator = torch.Generator().manual_seed(0)
    logits, reference = (torch.randn(1, 4, 128, generator=generator, dtype=torch.float64) for _ in range(2))
    labels = torch.tensor([[-100, 5, -100, -100]])
    target = torch.softmax(reference[0, 0] - 10 * torch.nn.functional.one_hot(torch.tensor(5), 128), -1)
    expected = -(target * torch.log_softmax(logits[0, 0], -1)).sum()
    assert undial_loss(logits, reference, labels).item() == pytest.approx(expected.item(), rel=1e-12)


def test_gradients_equal_finite_differences():
    logits, reference, labels = random_batch(4, B=2, T=4, V=3)
    labels[0, 2:] = 1
    z = logits.clone().requires_grad_()
    for loss in (
        lambda x: kl_retain_loss(x, reference, labels),
        lambda x: kl_max_loss(x, reference, labels),
        lambda x: kl_uniform_loss(x, labels),
        lambda x: undial_loss(x, reference, labels, 2.0),
        lambda x: pdu_loss(x, labels),
    ):
        assert torch.autograd.gradcheck(loss, (z,), eps=1e-6, atol=1e-6)


def test_flat_logits_by_hand_on_shifted_positions_only():
    """(max - mean)^2 of (3, 0, 0) and (1, 1, 4): 4 and 4. The published mask, not shifted, takes the last one."""
    logits = torch.tensor([[[3.0, 0.0, 0.0], [1.0, 1.0, 4.0], [7.0, 7.0, 7.0]]])
    assert pdu_loss(logits, torch.tensor([[-100, 1, 2]])).item() == pytest.approx(4.0)
    assert pdu_loss(logits, torch.tensor([[-100, 1, -100]])).item() == pytest.approx(4.0)


# --- what the published codes do ----------------------------------------------------------------------------


def test_the_losses_of_muse_on_raw_logits_are_neither_npo_nor_a_divergence():
    logits, reference, _ = random_batch()
    npo, klr = muse_logit_losses(logits, reference, beta=0.1)
    difference = reference.float() - logits.float()
    assert npo.item() == pytest.approx((-torch.nn.functional.logsigmoid(0.1 * difference).mean() * 2 / 0.1).item(), rel=1e-6)
    published = torch.nn.functional.kl_div(logits.float(), reference.float(), reduction="batchmean", log_target=True)
    assert klr.item() == pytest.approx(published.item(), rel=1e-6)
    shifted = muse_logit_losses(logits + 5, reference)[1]  # the same distributions, another "divergence", below 0
    assert shifted.item() < 0 < klr.item()


def test_the_divergence_of_restor_is_a_bounded_cross_entropy_over_all_positions():
    logits, reference, _ = random_batch()
    p, q = torch.softmax(logits, -1), torch.softmax(reference, -1)
    expected = -(p * torch.log(q + 1e-12)).sum(-1).mean()
    assert restor_kl_loss(logits, reference).item() == pytest.approx(expected.item(), rel=1e-5)
    assert restor_kl_loss(with_garbage(logits), reference).item() != pytest.approx(expected.item(), rel=1e-3)
    far = torch.tensor([[[0.0, 500.0]]]), torch.tensor([[[500.0, 0.0]]])
    assert restor_kl_loss(*far).item() == pytest.approx(-math.log(1e-12), rel=1e-6)
    assert restor_kl_loss(logits, logits).item() > 0.1  # the entropy is missing


# --- a reference kept as its likeliest tokens -----------------------------------------------------------------


def test_divergence_from_all_tokens_kept_is_exact_and_from_few_never_larger():
    logits, reference, labels = random_batch()
    exact = kl_retain_loss(logits, reference, labels).item()
    values = [top_k_retain_loss(logits, labels, *top_k_log_probs(reference, labels, k)).item() for k in (1, 2, 4, 6, 7, 99)]
    assert values[-1] == values[-2] == pytest.approx(exact, rel=1e-12)
    assert all(a <= b + 1e-12 for a, b in pairwise(values))
    assert values[0] > 0
    assert values[3] == pytest.approx(exact, rel=1e-9)  # the rest is one token: nothing is merged


def test_divergence_from_few_tokens_starts_at_zero_without_gradient():
    logits, _, labels = random_batch()
    z = logits.float().requires_grad_()
    loss = top_k_retain_loss(z, labels, *top_k_log_probs(logits.float(), labels, 3))
    loss.backward()
    assert abs(loss.item()) < 1e-6
    assert z.grad.abs().max() < 1e-6


def test_a_reference_that_is_certain_has_no_rest():
    labels = torch.tensor([[0, 1]])
    sure = torch.tensor([[[0.0, 300.0, 0.0], [0.0, 0.0, 0.0]]])
    z = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]], requires_grad=True)
    loss = top_k_retain_loss(z, labels, *top_k_log_probs(sure, labels, 1))
    loss.backward()
    assert loss.item() == pytest.approx(kl_retain_loss(z, sure, labels).item(), rel=1e-5)
    assert torch.isfinite(z.grad).all()


def test_other_labels_than_the_kept_ones_are_refused():
    logits, reference, labels = random_batch()
    kept = top_k_log_probs(reference, labels, 2)
    with pytest.raises(SchemaMismatch, match="the reference has 11 tokens and the batch 6 labels"):
        top_k_retain_loss(logits[:2], labels[:2], *kept)
    with pytest.raises(SchemaMismatch, match=r"logits are \(3, 6, 7\) and the reference's \(2, 6, 7\)"):
        kl_retain_loss(logits, reference[:2], labels)


# --- hidden states ----------------------------------------------------------------------------------------------


def test_control_vector_is_one_positive_direction_of_unit_length():
    v = control_vector(64, random_state=3)
    assert v.norm().item() == pytest.approx(1)
    assert (v >= 0).all()
    assert torch.equal(v, control_vector(64, random_state=3))
    assert not torch.equal(v, control_vector(64, random_state=4))


def test_steering_loss_is_zero_at_the_target_and_a_mean_over_label_tokens():
    v = control_vector(4)
    labels = torch.tensor([[1, 2, -100], [-100, 5, -100]])
    hidden = (2 * v).expand(2, 3, 4).clone()
    hidden[0, 2] = 1e6
    assert rmu_loss(hidden, labels, 2 * v).item() == 0
    hidden[1, 1] += torch.tensor([1.0, 0.0, 2.0, 0.0])
    assert rmu_loss(hidden, labels, 2 * v).item() == pytest.approx(5 / 12)  # of 3 tokens x 4 dimensions


def test_holding_loss_is_zero_at_the_reference_and_ignores_padding():
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 3, 4, generator=generator)
    labels = torch.tensor([[1, 2, -100], [4, 5, 6]])
    other = hidden.clone()
    other[0, 2] = torch.nan
    assert embed_loss(other, hidden, labels).item() == 0
    other[1, 0] += 2
    assert embed_loss(other, hidden, labels).item() == pytest.approx(4 * 4 / 20)
    with pytest.raises(SchemaMismatch, match=r"hidden states are \(2, 3, 4\) and the reference's \(1, 3, 4\)"):
        embed_loss(hidden, hidden[:1], labels)
