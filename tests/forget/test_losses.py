"""Losses on likelihoods: values worked out by hand, brute force, finite differences, limits."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from tiny_language_models import tiny_gpt2

from datumwise.errors import DatumwiseError, EmptyData, SchemaMismatch
from datumwise.forget.losses import (
    ceu_loss,
    dpo_loss,
    ga_loss,
    npo_batch_loss,
    npo_loss,
    npo_token_loss,
    satimp_loss,
    sequence_nll,
    simnpo_loss,
    token_nll,
    wga_loss,
)

# two predicted tokens, three words: p(x_1) = 1/4, p(x_2) = 3/4; the last position predicts nothing
P = torch.tensor([[[1 / 2, 1 / 4, 1 / 4], [1 / 8, 1 / 8, 3 / 4], [0.9, 0.05, 0.05]]], dtype=torch.float64)
LOGITS = P.log() + torch.tensor([[[0.3], [-2.0], [5.0]]], dtype=torch.float64)
LABELS = torch.tensor([[0, 1, 2]])
LN2, LN4 = math.log(2), math.log(4)


def random_batch(seed=0, B=3, T=6, V=7):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(B, T, V, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, V, (B, T), generator=generator)
    labels[0, :3] = -100  # a prompt
    labels[1, 4:] = -100  # padding
    return logits, labels


def looped(logits, labels):
    """nll of every label, by sequence: a double loop in plain Python."""
    found = []
    for b in range(labels.shape[0]):
        own = []
        for t in range(1, labels.shape[1]):
            if labels[b, t] >= 0:
                z = logits[b, t - 1].tolist()
                own.append(math.log(sum(math.exp(x) for x in z)) - z[int(labels[b, t])])
        found.append(own)
    return found


def test_sequence_nll_is_a_sum_over_the_shifted_labels():
    logits, labels = random_batch()
    nll, n_tokens = sequence_nll(logits, labels)
    expected = looped(logits, labels)
    np.testing.assert_allclose(nll, [sum(own) for own in expected], rtol=1e-12)
    assert n_tokens.tolist() == [len(own) for own in expected] == [3, 3, 5]
    tokens, rows = token_nll(logits, labels)
    np.testing.assert_allclose(tokens, [x for own in expected for x in own], rtol=1e-12)
    assert rows.tolist() == [0] * 3 + [1] * 3 + [2] * 5


def test_sequence_nll_by_hand():
    nll, n_tokens = sequence_nll(LOGITS, LABELS)
    assert nll.item() == pytest.approx(math.log(16 / 3), abs=1e-12)
    assert n_tokens.item() == 2


def test_a_sequence_without_labels_has_no_nll():
    labels = torch.cat([LABELS, torch.full((1, 3), -100)])
    nll, n_tokens = sequence_nll(LOGITS.repeat(2, 1, 1), labels)
    assert nll[1].item() == 0
    assert n_tokens.tolist() == [2, 0]


def test_half_precision_logits_are_summed_in_float32():
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(1, 500, 11, generator=generator).to(torch.bfloat16)
    labels = torch.randint(0, 11, (1, 500), generator=generator)
    nll, _ = sequence_nll(logits, labels)
    assert nll.dtype == torch.float32
    exact, _ = sequence_nll(logits.double(), labels)
    assert nll.item() == pytest.approx(exact.item(), rel=1e-6)


def test_npo_of_the_first_weights_is_a_constant_with_the_gradient_of_gradient_ascent():
    logits, labels = random_batch()
    logits.requires_grad_()
    nll, _ = sequence_nll(logits, labels)
    loss = npo_loss(nll, nll.detach(), beta=0.1)
    assert loss.item() == pytest.approx(2 / 0.1 * LN2, abs=1e-12)
    assert loss.item() == pytest.approx(13.863, abs=1e-3)
    (npo_gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (ascent_gradient,) = torch.autograd.grad(-nll.mean(), logits)
    torch.testing.assert_close(npo_gradient, ascent_gradient, rtol=1e-6, atol=1e-12)


def test_npo_by_hand_is_monotone_and_ends_at_zero():
    nll, _ = sequence_nll(LOGITS, LABELS)
    assert npo_loss(nll, torch.tensor([LN4]), beta=1.0).item() == pytest.approx(2 * math.log(1.75), abs=1e-6)
    nll_ref = torch.full((1,), 30.0, dtype=torch.float64)
    values = [npo_loss(nll_ref + shift, nll_ref, beta=0.5).item() for shift in (-20.0, -1.0, 0.0, 1.0, 20.0, 400.0)]
    assert all(a > b for a, b in pairwise(values))
    assert values[-1] < 1e-80
    forgotten = (nll_ref + 100).requires_grad_()
    npo_loss(forgotten, nll_ref, beta=1.0).backward()
    assert abs(forgotten.grad.item()) < 1e-12


def test_npo_tends_to_gradient_ascent_with_an_error_linear_in_beta():
    nll, nll_ref = torch.tensor([5.0, 9.0], dtype=torch.float64), torch.tensor([4.0, 12.0], dtype=torch.float64)
    limit = (nll_ref - nll).mean().item()
    errors = [npo_loss(nll, nll_ref, beta).item() - 2 / beta * LN2 - limit for beta in (1e-2, 1e-3)]
    assert errors[0] == pytest.approx(10 * errors[1], rel=1e-2)
    assert abs(errors[1]) < 2e-3


def test_npo_does_not_depend_on_padding_or_on_its_side():
    """Through a model with learned positions: 0, 3 or 6 padded tokens, on the right or on the left."""
    model = tiny_gpt2(0)
    ids = torch.tensor([[5, 17, 200, 31, 8]])
    values = []
    for side, n in (("right", 0), ("right", 3), ("left", 3), ("left", 6)):
        fill, off, on = torch.full((1, n), 7), torch.zeros(1, n, dtype=torch.int64), torch.ones(1, 5, dtype=torch.int64)
        right = side == "right"
        padded = torch.cat([ids, fill] if right else [fill, ids], dim=1)
        mask = torch.cat([on, off] if right else [off, on], dim=1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        with torch.no_grad():
            logits = model(padded, attention_mask=mask, position_ids=positions, use_cache=False).logits
        labels = padded.masked_fill(mask == 0, -100)
        if not right:  # the first real token has nothing but padding before it: it is not predicted
            labels[:, n] = -100
        nll, n_tokens = sequence_nll(logits, labels)
        assert n_tokens.item() == 4
        values.append(npo_loss(nll, nll.new_tensor([40.0])).item())
    np.testing.assert_allclose(values, values[0], rtol=1e-5)


def test_garbage_in_logits_that_predict_nothing_changes_no_loss():
    logits, labels = random_batch()
    other = logits.clone()
    other[:, -1] = 1e4
    other[0, 0] = -1e4  # before a prompt's second token
    other[1, 3:] = torch.inf
    for loss in (ga_loss, wga_loss, satimp_loss, ceu_loss):
        assert loss(logits, labels).item() == loss(other, labels).item()


def test_gradient_ascent_is_minus_the_token_mean():
    logits, labels = random_batch()
    flat = [x for own in looped(logits, labels) for x in own]
    assert ga_loss(logits, labels).item() == pytest.approx(-np.mean(flat), rel=1e-12)
    assert ga_loss(LOGITS, LABELS).item() == pytest.approx(-math.log(16 / 3) / 2, abs=1e-12)


def test_simnpo_by_hand():
    nll, n_tokens = sequence_nll(LOGITS, LABELS)
    assert simnpo_loss(nll, n_tokens, beta=2.0).item() == pytest.approx(math.log(19 / 16), abs=1e-12)
    delta = math.log(16 / 3) / 2
    assert simnpo_loss(nll, n_tokens, beta=2.0, delta=delta).item() == pytest.approx(LN2, abs=1e-12)


def test_dpo_by_hand():
    args = [torch.tensor([x], dtype=torch.float64) for x in (LN2, math.log(6), math.log(16 / 3), LN4)]
    assert dpo_loss(*args, beta=1.0).item() == pytest.approx(2 * math.log(1.25), abs=1e-12)


def test_dpo_for_the_forgotten_response_itself_is_a_constant_without_gradient():
    logits, labels = random_batch()
    logits.requires_grad_()
    nll, _ = sequence_nll(logits, labels)
    ref = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    loss = dpo_loss(nll, ref, nll, ref, beta=0.1)
    assert loss.item() == pytest.approx(20 * LN2, abs=1e-12)
    loss.backward()
    assert torch.count_nonzero(logits.grad) == 0


def test_ce_u_by_hand():
    assert ceu_loss(LOGITS, LABELS, skip=0).item() == pytest.approx(13 / 6 * LN2, abs=1e-12)
    assert ceu_loss(LOGITS, LABELS, skip=1).item() == pytest.approx(3 * LN2, abs=1e-12)


def test_ce_u_skips_the_first_labels_of_every_sequence():
    logits, labels = random_batch()
    later = labels.clone()
    later[0, 3] = later[1, 1] = later[2, 1] = -100
    assert ceu_loss(logits, labels, skip=1).item() == pytest.approx(ceu_loss(logits, later, skip=0).item(), rel=1e-12)
    with pytest.raises(EmptyData, match="no sequence has more than 5 labels: pass a smaller skip"):
        ceu_loss(logits, labels, skip=5)


def test_weighted_ascents_by_hand():
    first, second = LN4, math.log(4 / 3)
    assert wga_loss(LOGITS, LABELS, 1.0).item() == pytest.approx(-(first / 4 + 3 * second / 4) / 2, abs=1e-12)
    assert wga_loss(LOGITS, LABELS, 2.0).item() == pytest.approx(-(first / 16 + 9 * second / 16) / 2, abs=1e-12)
    expected = -(3 * first / 16 + 3 * second / 16) / 2
    assert satimp_loss(LOGITS, LABELS, 1.0, 1.0).item() == pytest.approx(expected, abs=1e-12)
    assert satimp_loss(LOGITS, LABELS, 2.0, 0.0).item() == pytest.approx(wga_loss(LOGITS, LABELS, 2.0).item(), abs=1e-12)


def test_weighted_ascents_without_weights_are_gradient_ascent():
    logits, labels = random_batch()
    certain = logits.clone()
    certain[2, 0, labels[2, 1]] = 800.0  # p = 1: 0^0 must be 1
    for z in (logits, certain):
        z = z.clone().requires_grad_()
        (expected,) = torch.autograd.grad(ga_loss(z, labels), z)
        for loss in (wga_loss(z, labels, 0.0), satimp_loss(z, labels, 0.0, 0.0)):
            assert loss.item() == pytest.approx(ga_loss(z, labels).item(), rel=1e-12)
            torch.testing.assert_close(torch.autograd.grad(loss, z)[0], expected)


def test_token_and_batch_npo_by_hand_and_in_the_order_of_jensen():
    logits, labels = random_batch(0)
    reference, _ = random_batch(5)
    own = np.array([x for each in looped(logits, labels) for x in each])
    ref = np.array([x for each in looped(reference, labels) for x in each])
    beta = 0.7
    ratio = np.exp(ref - own)  # p / p_ref
    expected = 2 / beta * np.log1p(ratio**beta).mean()
    token, batch = npo_token_loss(logits, reference, labels, beta), npo_batch_loss(logits, reference, labels, beta)
    assert token.item() == pytest.approx(expected, rel=1e-12)
    assert batch.item() == pytest.approx(2 / beta * np.log1p(np.exp(beta * (ref.mean() - own.mean()))), rel=1e-12)
    assert batch < token


def test_token_and_batch_npo_agree_where_all_tokens_have_one_ratio():
    logits, labels = random_batch()
    z_ref = torch.log_softmax(logits, -1)
    shifted = z_ref.clone()
    for b, t in zip(*torch.where(labels[:, 1:] >= 0), strict=True):  # every label's probability falls to 60 %
        y = labels[b, t + 1]
        p = z_ref[b, t].exp()
        new = p * (1 - 0.6 * p[y]) / (1 - p[y])
        new[y] = 0.6 * p[y]
        shifted[b, t] = new.log()
    token, batch = (loss(shifted, z_ref, labels, 0.5) for loss in (npo_token_loss, npo_batch_loss))
    assert token.item() == pytest.approx(batch.item(), rel=1e-12)
    assert token.item() == pytest.approx(4 * math.log1p(0.6**0.5), rel=1e-12)


def weights_of(logits, labels, weight):
    return torch.tensor([weight(math.exp(-x)) for own in looped(logits, labels) for x in own], dtype=torch.float64)


@pytest.mark.parametrize(
    ("loss", "surrogate"),
    [
        (ga_loss, lambda z, y, z0: -token_nll(z, y)[0].mean()),
        (
            lambda z, y: npo_loss(sequence_nll(z, y)[0], torch.tensor([4.0, 5.0, 9.0], dtype=torch.float64), 0.3),
            lambda z, y, z0: (
                (2 / 0.3) * torch.log1p(torch.exp(0.3 * (torch.tensor([4.0, 5, 9]) - sequence_nll(z, y)[0]))).mean()
            ),
        ),
        (
            lambda z, y: simnpo_loss(*sequence_nll(z, y), 2.5, 0.2),
            lambda z, y, z0: (
                2 / 2.5 * torch.log1p(torch.exp(-2.5 * (sequence_nll(z, y)[0] / torch.tensor([3, 3, 5]) - 0.2))).mean()
            ),
        ),
        (
            lambda z, y: wga_loss(z, y, 1.5),
            lambda z, y, z0: -(weights_of(z0, y, lambda p: p**1.5) * token_nll(z, y)[0]).mean(),
        ),
        (
            lambda z, y: satimp_loss(z, y, 2.0, 0.5),
            lambda z, y, z0: -(weights_of(z0, y, lambda p: p**2 * (1 - p) ** 0.5) * token_nll(z, y)[0]).mean(),
        ),
    ],
    ids=["ga", "npo", "simnpo", "wga", "satimp"],
)
def test_gradients_equal_finite_differences_with_the_weights_held(loss, surrogate):
    logits, labels = random_batch(3, B=3, T=6, V=4)
    z = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(z, labels), z)
    h = 1e-6
    numeric = torch.zeros_like(logits)
    for i in range(logits.numel()):
        step = torch.zeros_like(logits).view(-1)
        step[i] = h
        up, down = logits + step.view_as(logits), logits - step.view_as(logits)
        numeric.view(-1)[i] = (surrogate(up, labels, logits) - surrogate(down, labels, logits)) / (2 * h)
    torch.testing.assert_close(gradient, numeric, rtol=1e-5, atol=1e-8)


def test_gradient_of_ce_u_is_of_a_fixed_target():
    logits, labels = random_batch(3, V=4)
    z = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(ceu_loss(z, labels, skip=0), z)
    rows, places = (labels[:, 1:] >= 0).nonzero(as_tuple=True)
    p = torch.softmax(logits, -1)
    expected = torch.zeros_like(logits)
    for b, t in zip(rows, places, strict=True):
        y = labels[b, t + 1]
        target = p[b, t] / (1 - p[b, t, y])
        target[y] = 0
        expected[b, t] = (p[b, t] - target) / len(rows)
    torch.testing.assert_close(gradient, expected)


def test_bad_input_is_refused():
    logits, labels = random_batch()
    with pytest.raises(SchemaMismatch, match=r"logits are \(3, 6, 7\) and labels \(3, 5\); they must be \(B, T, V\), \(B, T\)"):
        ga_loss(logits, labels[:, 1:])
    with pytest.raises(EmptyData, match="no label of the batch counts: give at least one sequence of two tokens"):
        ga_loss(logits[:, :1], labels[:, :1])
    with pytest.raises(DatumwiseError, match="beta is 0: it must be above 0; towards 0 the loss is gradient ascent"):
        npo_loss(torch.ones(1), torch.ones(1), beta=0)
