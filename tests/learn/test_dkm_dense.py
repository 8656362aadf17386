"""The dense machine against what is known in closed form: the geodesic, the conserved matrix, the expansion in 1 / nu."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from datumwise.errors import DatumwiseError, NotFinite, SchemaMismatch, UnknownName
from datumwise.learn.deep_kernel.dense import (
    check_nu,
    dkm_objective,
    first_order_gram,
    log_evidence,
    nngp_gram,
    optimise_grams,
)
from datumwise.learn.deep_kernel.kernels import KernelMap

P, D, NOISE = 12, 30, 0.1
EYE = torch.eye(P, dtype=torch.float64)


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gram(seed: int) -> torch.Tensor:
    X = normal(P, D, seed=seed)
    return X @ X.T / D


G0, TARGET, Y = gram(0), gram(1), normal(P, 2, seed=2)


def power(A: torch.Tensor, p: float) -> torch.Tensor:
    values, vectors = torch.linalg.eigh(A)
    return (vectors * values**p) @ vectors.T


@cache
def optimum(kernel: str, nu: tuple[float, ...], y_columns: int = 1) -> tuple[list[torch.Tensor], float]:
    grams, J = optimise_grams(G0, Y[:, :y_columns], kernel, list(nu), NOISE)
    return grams, float(J)


def far(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_linear_layers_between_two_fixed_grams_lie_on_the_geodesic_from_every_start():
    root, back = power(G0, 0.5), power(G0, -0.5)
    truth = [root @ power(back @ TARGET @ back, number / 4) @ root for number in (1, 2, 3)]
    for start in (None, 0, 1):
        grams, _ = optimise_grams(G0, None, "linear", [2.0] * 4, None, target=TARGET, random_state=start)
        assert max(far(G, true) for G, true in zip(grams, truth, strict=True)) < 1e-6


def test_short_rounds_go_on_until_the_optimum_is_reached(monkeypatch):
    expected, best = optimum("arccos", (1.0,))
    monkeypatch.setattr("datumwise.learn.deep_kernel.dense.ITERATIONS", 15)
    grams, J = optimise_grams(G0, Y[:, :1], "arccos", 1.0, NOISE)
    assert float(J) == pytest.approx(best, rel=1e-7)
    assert far(grams[0], expected[0]) < 1e-3


def test_linear_layers_conserve_one_matrix_whatever_the_nus():
    nus = [2.0, 5.0, 0.7, 1.3]
    grams, _ = optimise_grams(G0, None, "linear", nus, None, target=TARGET)
    chain = [G0, *grams, TARGET]
    conserved = [nu * (torch.linalg.solve(a, b).T - EYE) for nu, a, b in zip(nus, chain, chain[1:], strict=False)]
    assert max(float((M - conserved[0]).abs().max()) for M in conserved[1:]) < 1e-5
    assert float(conserved[0].abs().max()) > 0.1


def test_stationarity_of_one_hidden_layer():
    (G,), _ = optimum("linear", (3.0,))
    top = G.clone().requires_grad_()
    log_evidence(Y[:, :1], top, NOISE).backward()
    left = 3.0 * (torch.linalg.inv(G0) - torch.linalg.inv(G))
    assert torch.allclose(left, top.grad + top.grad.T, atol=1e-5)


@pytest.mark.parametrize("kernel", ["arccos", "gaussian", "sqexp"])
def test_distance_from_the_nngp_falls_as_one_over_nu(kernel):
    (K,) = nngp_gram(None, 1, kernel, G0)
    scaled = [nu * float((optimum(kernel, (nu,))[0][0] - K).abs().max()) for nu in (1e4, 1e5)]
    assert scaled[0] > 1
    assert abs(scaled[1] / scaled[0] - 1) < 0.02


def test_objective_falls_in_nu_and_stays_above_the_nngp_evidence():
    values = [optimum("arccos", (nu,))[1] for nu in (1.0, 10.0, 1e3, 1e4, 1e5)]
    free = float(log_evidence(Y[:, :1], nngp_gram(None, 2, "arccos", G0)[-1], NOISE))
    assert values == sorted(values, reverse=True)
    assert values[-1] > free
    assert optimum("arccos", (math.inf,))[1] == pytest.approx(free, rel=1e-12)


@pytest.mark.parametrize("kernel", ["arccos", "gaussian", "sqexp"])
def test_first_order_law_of_one_layer(kernel):
    nu = 1e3
    (G,), J = optimum(kernel, (nu,))
    (K,) = nngp_gram(None, 1, kernel, G0)
    top = K.clone().requires_grad_()
    log_evidence(Y[:, :1], nngp_gram(None, 1, kernel, top)[0], NOISE).backward()
    g = 0.5 * (top.grad + top.grad.T)
    step = (2 / nu) * K @ g @ K
    assert float((G - K - step).norm() / step.norm()) < 0.015
    gain = J - float(log_evidence(Y[:, :1], nngp_gram(None, 2, kernel, G0)[-1], NOISE))
    assert gain * nu == pytest.approx(float((g @ K @ g @ K).trace()), rel=0.02)
    (F,), predicted = first_order_gram(G0, Y[:, :1], kernel, nu, NOISE)
    assert torch.allclose(F, K + step, rtol=1e-10)
    assert float(predicted) * nu == pytest.approx(float((g @ K @ g @ K).trace()), rel=1e-10)


@pytest.mark.parametrize("nus", [(1e3, 2e3), (1e3, 3e3, 1.7e3)])
@pytest.mark.parametrize("kernel", ["arccos", "gaussian", "sqexp"])
def test_first_order_law_of_deeper_networks_with_unequal_nus(kernel, nus):
    grams, J = optimum(kernel, nus)
    first, gain = first_order_gram(G0, Y[:, :1], kernel, list(nus), NOISE)
    free = nngp_gram(None, len(nus) + 1, kernel, G0)
    for G, F, K in zip(grams, first, free, strict=False):
        assert float((G - F).norm() / (F - K).norm()) < 0.02
    assert J - float(log_evidence(Y[:, :1], free[-1], NOISE)) == pytest.approx(float(gain), rel=0.02)


def test_a_pinned_layer_among_free_ones_has_no_first_order_term_of_its_own():
    (first, second), _ = first_order_gram(G0, Y, "arccos", [math.inf, 1e3], NOISE)
    free = nngp_gram(None, 2, "arccos", G0)
    assert torch.equal(first, free[0])
    assert float((second - free[1]).abs().max()) > 1e-5
    grams, _ = optimise_grams(G0, Y, "arccos", [math.inf, 1e3], NOISE)
    assert torch.equal(grams[0], free[0])
    assert float((grams[1] - second).norm() / (second - free[1]).norm()) < 0.03


def test_without_layers_and_with_a_linear_kernel_it_is_bayesian_linear_regression():
    X = normal(P, D, seed=0)
    normal_y = MultivariateNormal(torch.zeros(P, dtype=torch.float64), X @ X.T / D + NOISE * EYE)
    expected = normal_y.log_prob(Y.T).sum()
    assert torch.allclose(dkm_objective([], G0, Y, "linear", [], NOISE), expected, rtol=1e-12)


def test_optimum_is_the_objective_of_its_grams_and_no_neighbour_is_better():
    grams, J = optimum("arccos", (1.0, 0.5), 2)
    assert float(dkm_objective(grams, G0, Y, "arccos", [1.0, 0.5], NOISE)) == pytest.approx(J, rel=1e-10)
    for seed in range(5):
        for sign in (1, -1):
            bend = EYE + sign * 1e-3 * normal(P, P, seed=seed)
            moved = [bend @ G @ bend.T for G in grams]
            assert float(dkm_objective(moved, G0, Y, "arccos", [1.0, 0.5], NOISE)) < J


def test_permuted_datapoints_give_permuted_grams():
    order = torch.as_tensor(np.random.default_rng(0).permutation(P))
    grams, J = optimum("arccos", (1.0,), 2)
    (moved,), J2 = optimise_grams(G0[order][:, order], Y[order], "arccos", [1.0], NOISE)
    assert float(J2) == pytest.approx(J, rel=1e-9)
    assert far(moved, grams[0][order][:, order]) < 1e-5
    shuffled = [G[order][:, order] for G in grams]
    same = dkm_objective(shuffled, G0[order][:, order], Y[order], "arccos", 1.0, NOISE)
    assert float(same) == pytest.approx(J, rel=1e-12)


def test_rotated_inputs_change_nothing():
    X = normal(P, D, seed=0)
    Q = torch.linalg.qr(normal(D, D, seed=5)).Q
    for a, b in zip(nngp_gram(X, 3, "arccos"), nngp_gram(X @ Q, 3, "arccos"), strict=True):
        assert torch.allclose(a, b, rtol=1e-12)


def test_duplicate_datapoint_and_constant_column_stay_finite():
    X = normal(P, 4, seed=0)
    X[1], X[:, 2] = X[0], 1.0
    grams, J = optimise_grams(X @ X.T / 4, Y, "arccos", [1.0, 1.0], NOISE, jitter=1e-6)
    assert math.isfinite(float(J))
    assert all(bool(torch.isfinite(G).all()) for G in grams)
    assert torch.allclose(grams[0][0], grams[0][1], atol=1e-3)  # one datapoint twice: alike in every layer


def test_jitter_is_added_after_every_kernel():
    (first, second) = nngp_gram(None, 2, "arccos", G0, jitter=0.01)
    assert torch.allclose(first.diagonal(), G0.diagonal() + 0.01)
    assert torch.allclose(second.diagonal(), G0.diagonal() + 0.02)
    J = dkm_objective([first, second], G0, Y, "arccos", 1.0, NOISE, jitter=0.01)
    last = nngp_gram(None, 1, "arccos", second, jitter=0.01)[0]
    assert torch.allclose(J, log_evidence(Y, last, NOISE), rtol=1e-12)


def test_kernels_with_a_weight_and_a_bias_are_modules():
    kernel = KernelMap("arccos", weight=1.5, bias=0.1, learn=False)
    (G,), J = optimise_grams(G0, Y, kernel, 1.0, NOISE)
    assert float(dkm_objective([G], G0, Y, kernel, 1.0, NOISE)) == pytest.approx(float(J), rel=1e-9)
    assert torch.allclose(nngp_gram(None, 1, kernel, G0)[0].diagonal(), 1.5 * G0.diagonal() + 0.1)


def test_infinite_nu_refuses_a_gram_that_is_not_its_kernel():
    K = nngp_gram(None, 1, "arccos", G0)
    assert math.isfinite(float(dkm_objective(K, G0, Y, "arccos", math.inf, NOISE)))
    assert float(dkm_objective([K[0] + 0.1 * EYE], G0, Y, "arccos", math.inf, NOISE)) == -math.inf


def test_rounds_are_reported():
    seen: list[tuple[int, int]] = []
    optimise_grams(G0, Y, "arccos", 1.0, NOISE, progress=lambda done, total: seen.append((done, total)))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))


def test_bad_inputs_are_refused():
    with pytest.raises(SchemaMismatch, match="nu has 3 entries for 2 layers"):
        check_nu([1, 2, 3], 2)
    with pytest.raises(DatumwiseError, match="nu is -1: give numbers >= 0"):
        optimise_grams(G0, Y, "arccos", -1.0, NOISE)
    with pytest.raises(DatumwiseError, match="nu is nan"):
        check_nu(math.nan, 1)
    with pytest.raises(DatumwiseError, match="noise is 0: give a variance > 0"):
        dkm_objective([], G0, Y, "arccos", [], 0.0)
    with pytest.raises(SchemaMismatch, match="y and noise are needed"):
        dkm_objective([], G0, None, "arccos", [], None)
    with pytest.raises(SchemaMismatch, match="y has 3 rows, the Gram matrix 12"):
        dkm_objective([], G0, Y[:3], "arccos", [], NOISE)
    with pytest.raises(UnknownName, match="there is no kernel 'rbf'"):
        nngp_gram(None, 1, "rbf", G0)
    with pytest.raises(SchemaMismatch, match="give either X or G0"):
        nngp_gram(None, 1, "arccos")
    with pytest.raises(DatumwiseError, match="nu is 0, and a first-order step is in 1/nu"):
        first_order_gram(G0, Y, "arccos", 0.0, NOISE)
    broken = G0.clone()
    broken[3, 4] = math.nan
    with pytest.raises(NotFinite, match="G0 contains NaN or infinity in row 3"):
        optimise_grams(broken, Y, "arccos", 1.0, NOISE)
