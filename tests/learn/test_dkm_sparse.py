"""The sparse machine against closed forms, the dense objective, blocks of the same model and brute force."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.distributions import MultivariateNormal

from datumwise.learn.deep_kernel.cholesky import raw_factor
from datumwise.learn.deep_kernel.class_output import ClassOutput, normal_draws
from datumwise.learn.deep_kernel.dense import dkm_objective, first_order_gram
from datumwise.learn.deep_kernel.kl import kl_gaussian
from datumwise.learn.deep_kernel.sparse import SparseMachine, Statistics, collapsed_bound
from datumwise.learn.deep_kernel.train import (
    best_posterior,
    blocks,
    expected_log_likelihood,
    first_order_step,
    inducing_rows,
    regression_gradient,
    regression_objective,
    stream_statistics,
    train_classes,
    train_regression,
    with_nus,
)

INF = math.inf


def rows(n=24, d=3, seed=0, outputs=1):
    rng = torch.Generator().manual_seed(seed)
    X = torch.randn(n, d, generator=rng, dtype=torch.float64)
    y = torch.sin(2 * X[:, :1]) * X[:, 1 % d].unsqueeze(1) + 0.1 * torch.randn(n, outputs, generator=rng, dtype=torch.float64)
    return X, y


def shaken(machine, size=0.2, seed=1):
    """Every parameter off its start, S included."""
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in machine.parameters():
            if p is not machine.Z:
                p += size * torch.randn(p.shape, generator=rng, dtype=p.dtype)
    return machine


@pytest.mark.parametrize("kernel", ["arccos", "gaussian", "sqexp"])
def test_sparse_bound_with_the_data_as_inducing_points_is_the_dense_objective(kernel):
    X, y = rows(12, outputs=2)
    nus = [0.7, 2.0]
    sparse = shaken(SparseMachine(X, nus, [kernel] * 3, jitter=0.0))
    factors = sparse.factors()
    grams, noise = factors.grams, sparse.noise

    def K(number, G):
        k = sparse._square(number, G)
        return k

    evidence = MultivariateNormal(torch.zeros(12).double(), factors.K + noise * torch.eye(12)).log_prob(y.T).sum()
    J = evidence - sum(nu * kl_gaussian(grams[i + 1], K(i, grams[i])) for i, nu in enumerate(nus))
    found = regression_objective(sparse, X, y)
    assert found.item() == pytest.approx(J.item(), rel=1e-6)
    dense = SparseMachine(X, nus, [kernel] * 3, jitter=0.0, dense=True)
    dense.load_state_dict(sparse.state_dict())
    assert regression_objective(dense, X, y).item() == pytest.approx(J.item(), rel=1e-6)


def test_the_objective_is_that_of_the_dense_functions():
    X, y = rows(10)
    machine = SparseMachine(X, [0.5, 3.0], ["arccos"] * 3, jitter=0.0, dense=True)
    shaken(machine, 0.3)
    with torch.no_grad():
        machine.log_weights.zero_()
        machine.log_biases.fill_(-200.0)  # the functions know no constant
    grams = machine.factors().grams
    J = dkm_objective(grams[1:], grams[0], y, "arccos", [0.5, 3.0], machine.noise.item())
    assert regression_objective(machine, X, y).item() == pytest.approx(J.item(), rel=1e-9)


def test_dense_and_sparse_predict_the_same_at_the_same_parameters():
    X, y = rows(12)
    new = rows(7, seed=5)[0]
    sparse = shaken(SparseMachine(X, [1.0], ["arccos"] * 2, jitter=0.0))
    dense = SparseMachine(X, [1.0], ["arccos"] * 2, jitter=0.0, dense=True)
    dense.load_state_dict(sparse.state_dict())
    found = []
    for machine in (sparse, dense):
        factors = machine.factors()
        q = best_posterior(stream_statistics(machine, factors, X, y), machine.noise)
        p = machine.project(new, factors)
        found.append((p.A.T @ q.m, p.k - p.A.square().sum(0) + (p.A * (q.cov @ p.A)).sum(0)))
    for a, b in zip(*found, strict=True):
        assert torch.allclose(a, b, atol=1e-8)


@pytest.mark.parametrize("kernel", ["arccos", "gaussian", "sqexp", "linear"])
def test_with_infinite_nu_a_machine_is_a_gaussian_process_with_the_composed_kernel(kernel):
    X, y = rows(15)
    new = rows(9, seed=3)[0]
    # a linear kernel of rank 4 needs jitter, which costs digits
    jitter, close = (1e-9, 1e-6) if kernel == "linear" else (0.0, 1e-8)
    machine = SparseMachine(X, [INF], [kernel] * 2, jitter=jitter, noise=0.05)

    def k(g_ij, g_i, g_j):
        n = np.sqrt(np.outer(g_i, g_j))
        c = np.clip(g_ij / n, -1, 1)
        th = np.arccos(c)
        return {
            "linear": g_ij,
            "arccos": n / np.pi * (np.sin(th) + (np.pi - th) * c),
            "gaussian": n * np.exp(c - 1),
            "sqexp": np.exp(g_ij - 0.5 * g_i[:, None] - 0.5 * g_j[None]),
        }[kernel] + 0.1

    def composed(A, B):
        d = A.shape[1]
        g_ij, g_i, g_j = A @ B.T / d + 1, (A * A).sum(1) / d + 1, (B * B).sum(1) / d + 1
        one = {"sqexp": lambda g: np.ones_like(g)}.get(kernel, lambda g: g)
        return k(k(g_ij, g_i, g_j), one(g_i) + 0.1, one(g_j) + 0.1)

    A, B, t = X.numpy(), new.numpy(), y.numpy()
    G = composed(A, A) + 0.05 * np.eye(15)
    cross = composed(B, A)
    mean = cross @ np.linalg.solve(G, t)
    variance = composed(B, B).diagonal() - np.einsum("ij,ji->i", cross, np.linalg.solve(G, cross.T))
    factors = machine.factors()
    q = best_posterior(stream_statistics(machine, factors, X, y), machine.noise)
    p = machine.project(new, factors)
    assert np.allclose((p.A.T @ q.m).detach().numpy(), mean, atol=close)
    got = p.k - p.A.square().sum(0) + (p.A * (q.cov @ p.A)).sum(0)
    assert np.allclose(got.detach().numpy(), variance, atol=close)
    exact = MultivariateNormal(torch.zeros(15).double(), torch.as_tensor(G)).log_prob(y[:, 0])
    assert regression_objective(machine, X, y).item() == pytest.approx(exact.item(), rel=10 * close)


def test_collapsed_bound_is_the_maximum_of_the_uncollapsed_one():
    X, y = rows(40, outputs=2)
    machine = shaken(SparseMachine(X[:6], [1.0], ["arccos"] * 2))
    factors = machine.factors()
    p = machine.project(X, factors)
    statistics = Statistics.of(p.A, p.k, y)
    q = best_posterior(statistics, machine.noise)

    def uncollapsed(q):
        return (expected_log_likelihood(p.A, p.k, y, machine.noise, q).sum() - q.kl).item()

    best = collapsed_bound(statistics, machine.noise).item()
    assert uncollapsed(q) == pytest.approx(best, rel=1e-10)
    eye = torch.eye(6, dtype=torch.float64)
    for m, cov in ((q.m + 0.01, q.cov), (q.m, q.cov + 0.01 * eye)):
        kl = torch.distributions.kl_divergence(
            MultivariateNormal(m.T, cov), MultivariateNormal(torch.zeros(6).double(), eye)
        ).sum()
        assert uncollapsed(q._replace(m=m, cov=cov, kl=kl)) < best


def test_bound_never_exceeds_the_evidence_and_tightens_with_inducing_points():
    X, y = rows(30)
    values = []
    for P in (3, 10, 20, 30):
        machine = SparseMachine(X[:P], [], ["arccos"], jitter=0.0)
        values.append(regression_objective(machine, X, y).item())
    assert values == sorted(values)
    full = SparseMachine(X, [], ["arccos"], jitter=0.0)
    exact = MultivariateNormal(torch.zeros(30).double(), full.factors().K + full.noise * torch.eye(30)).log_prob(y[:, 0])
    assert values[-1] == pytest.approx(exact.item(), rel=1e-9)


def test_minibatch_contributions_add_up_to_the_full_objective_and_gradient():
    X, y = rows(50, outputs=2)
    machine = shaken(SparseMachine(X[:8], [0.5, 2.0], ["arccos", "gaussian", "sqexp"]))
    whole = regression_objective(machine, X, y)
    whole.backward()
    exact = [p.grad.clone() for p in machine.parameters()]
    machine.zero_grad()
    J = regression_gradient(machine, X, y, block=7)
    assert J.item() == pytest.approx(whole.item(), rel=1e-12)
    for p, g in zip(machine.parameters(), exact, strict=True):
        assert torch.allclose(p.grad, g, atol=1e-8, rtol=1e-8)


def test_statistics_of_blocks_add_up_and_come_off_again():
    X, y = rows(30)
    machine = SparseMachine(X[:5], [1.0], ["arccos"] * 2)
    with torch.no_grad():
        factors = machine.factors()
        whole, left = (stream_statistics(machine, factors, v, w) for v, w in ((X, y), (X[10:], y[10:])))
        parts = stream_statistics(machine, factors, X, y, block=4)
        off = whole.plus(stream_statistics(machine, factors, X[:10], y[:10]), -1)
    for a, b in ((whole, parts), (left, off)):
        assert a.n == b.n
        assert torch.allclose(a.Phi, b.Phi, atol=1e-10)
        assert torch.allclose(a.b, b.b, atol=1e-10)
        assert torch.allclose(a.residual, b.residual, atol=1e-10)
    assert [len(range(30)[part]) for part in blocks(30, 5, 8)] == [8, 8, 8, 6]


def test_running_statistics_are_a_weighted_mean_scaled_to_all_rows():
    X, y = rows(30)
    machine = SparseMachine(X[:5], [1.0], ["arccos"] * 2)
    with torch.no_grad():
        factors = machine.factors()
        whole, part = (stream_statistics(machine, factors, v, w) for v, w in ((X, y), (X[:10], y[:10])))
    mixed = whole.towards(part, 0.25)
    assert mixed.n == 30
    assert torch.allclose(mixed.Phi, 0.75 * whole.Phi + 0.25 * 3 * part.Phi)
    assert torch.allclose(mixed.b, 0.75 * whole.b + 0.25 * 3 * part.b)
    assert torch.allclose(mixed.residual, 0.75 * whole.residual + 0.25 * 3 * part.residual)


def test_gram_between_sets_is_the_sparse_formula_and_matches_its_own_diagonal():
    X, _ = rows(9)
    machine = shaken(SparseMachine(rows(5, seed=7)[0], [1.0, 0.5], ["arccos"] * 3, jitter=0.0))
    factors = machine.factors()
    p, halves = machine.project(X, factors), [machine.project(part, factors) for part in (X[:4], X[4:])]
    both, apart = machine.cross(p, p), machine.cross(halves[0], halves[1])
    for square, cross in zip(both, apart, strict=True):
        assert torch.allclose(square[:4, 4:], cross, atol=1e-10)
    assert torch.allclose(both[2].diagonal(), p.g, atol=1e-10)
    assert torch.allclose(both[3].diagonal(), p.k, atol=1e-10)
    # layer 1 by the formula with explicit inverses
    z = machine.project(machine.Z, factors)
    K, G = machine._square(0, factors.grams[0]), factors.grams[1]
    k_xz = machine._cross(0, p.F @ z.F.T, p.steps[0][0], factors.layers[0].diagonal)[0]
    k_xx = machine._between(0, p.F @ p.F.T, p.steps[0][0], p.steps[0][0], True)
    inner = torch.linalg.inv(K) @ (K - G) @ torch.linalg.inv(K)
    assert torch.allclose(both[1], k_xx - k_xz @ inner @ k_xz.T, atol=1e-8)
    for block in both:
        assert torch.linalg.eigvalsh(block).min() > -1e-9


def test_a_machine_equals_the_stack_of_blocks():
    from datumwise.learn.deep_kernel.blocks import FeaturesToGram, GramLayer, KernelMap

    X, _ = rows(9)
    Z = rows(5, seed=7)[0]
    machine = shaken(SparseMachine(Z, [1.0], ["arccos"] * 2, jitter=0.0, input_bias=0.0, ard=False))
    with torch.no_grad():
        machine.log_scales.zero_()
        machine.log_weights.zero_()
        machine.log_biases.fill_(math.log(0.1))
    kernels = [KernelMap("arccos", bias=0.1).double() for _ in range(2)]
    layer = GramLayer(5, 1.0).double()
    layer.set_gram(machine.factors().grams[1].detach())
    net = torch.nn.Sequential(FeaturesToGram(Z), kernels[0], layer, kernels[1]).double()
    with torch.no_grad():
        mat = net(X)
        net(X)
    factors = machine.factors()
    p = machine.project(X, factors)
    assert torch.allclose(mat.ii, factors.K, atol=1e-6)
    assert torch.allclose(mat.t, p.k, atol=1e-6)
    assert torch.allclose(mat.ti, (factors.L @ p.A).T, atol=1e-6)


def test_training_starts_at_the_gaussian_process_and_climbs():
    X, y = rows(60)
    learned, pinned = (SparseMachine(X[:15], [nu], ["arccos"] * 2) for nu in (1.0, INF))
    assert regression_objective(learned, X, y).item() == pytest.approx(regression_objective(pinned, X, y).item(), rel=1e-12)
    history = train_regression(learned, X, y, max_iter=60, lr=0.03)
    assert regression_objective(learned, X, y).item() / 60 > history[0] + 0.1
    assert learned.kls()[0] > 0


def test_objective_falls_with_nu_toward_the_gaussian_process():
    X, y = rows(30)
    values = []
    for nu in (0.3, 3.0, 100.0):
        machine = SparseMachine(X[:10], [nu], ["arccos"] * 2)
        for p in machine.parameters():
            p.requires_grad_(False)
        machine.whitened[0].requires_grad_(True)
        train_regression(machine, X, y, max_iter=40, lr=1.0, optimizer="lbfgs")
        values.append(regression_objective(machine, X, y).item())
    floor = regression_objective(SparseMachine(X[:10], [INF], ["arccos"] * 2), X, y).item()
    assert values == sorted(values, reverse=True)
    assert floor < values[-1] < floor + 0.1 * (values[0] - floor)


def test_lbfgs_and_adam_find_the_same_grams():
    X, y = rows(30)
    values = []
    for optimizer, steps, lr in (("adam", 200, 0.1), ("lbfgs", 80, 1.0)):
        machine = SparseMachine(X[:8], [2.0], ["arccos"] * 2)
        for p in machine.parameters():
            p.requires_grad_(p is machine.whitened[0])
        train_regression(machine, X, y, max_iter=steps, lr=lr, optimizer=optimizer)
        values.append(regression_objective(machine, X, y).item())
    assert values[0] == pytest.approx(values[1], abs=1e-4)


def test_minibatches_reach_the_objective_of_the_full_batch_in_more_steps():
    X, y = rows(400)
    found = []
    for batch, steps in ((None, 50), (100, 150)):
        machine = SparseMachine(X[:8], [10.0], ["arccos"] * 2)
        train_regression(machine, X, y, max_iter=steps, lr=0.03, batch_size=batch)
        found.append(regression_objective(machine, X, y).item() / 400)
    assert found[1] > found[0] - 0.05


def test_minibatch_loss_is_an_unbiased_estimate_of_the_objective_at_its_q():
    from datumwise.learn.deep_kernel.train import _MiniBatches

    X, y = rows(60)
    machine = shaken(SparseMachine(X[:6], [1.0], ["arccos"] * 2))
    with torch.no_grad():
        running = stream_statistics(machine, machine.factors(), X[:40], y[:40]).scaled(60)
        q = best_posterior(running, machine.noise)
        p = machine.project(X, machine.factors())
        exact = (expected_log_likelihood(p.A, p.k, y, machine.noise, q).sum() - q.kl - machine.penalty()) / 60
    batches = _MiniBatches(machine, X, y, 20, torch.Generator().manual_seed(0))
    total = 0.0
    for step in range(3):  # one epoch
        batches.running, batches.seen = running, 100
        total -= batches(step).item() / 3
    assert total == pytest.approx(exact.item(), rel=1e-10)


def test_first_order_features_are_those_of_the_dense_law_at_large_nu():
    X, y = rows(10)
    nus = [3e3, 1e4]
    machine = SparseMachine(X, nus, ["arccos"] * 3, jitter=0.0, input_bias=0.0, ard=False, noise=0.1, dense=True)
    with torch.no_grad():
        machine.log_biases.fill_(-200.0)
    start = machine.factors().grams
    grams, gain = first_order_gram(start[0].detach(), y, "arccos", nus, 0.1)
    before = regression_objective(machine, X, y).item()
    length = first_order_step(
        machine, lambda: regression_gradient(machine, X, y), lambda: regression_objective(machine, X, y).item()
    )
    assert length == 1.0
    after = machine.factors().grams
    for ours, theirs, prior in zip(after[1:], grams, start[1:], strict=True):
        change = theirs - prior
        assert (ours - theirs).abs().max() < 0.02 * change.abs().max()
    assert regression_objective(machine, X, y).item() - before == pytest.approx(float(gain), rel=0.05)


@pytest.mark.parametrize("nu", [0.0, 1e-3, 0.1, 1.0])
def test_first_order_step_never_lowers_the_objective(nu):
    X, y = rows(40)
    machine = SparseMachine(X[:10], [nu, nu], ["arccos"] * 3)
    before = regression_objective(machine, X, y).item()
    length = first_order_step(
        machine, lambda: regression_gradient(machine, X, y), lambda: regression_objective(machine, X, y).item()
    )
    assert 0 <= length <= 1
    assert regression_objective(machine, X, y).item() >= before


def test_permuting_datapoints_or_inducing_points_changes_nothing():
    X, y = rows(20)
    machine = SparseMachine(X[:6], [INF], ["arccos"] * 2)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    swapped = SparseMachine(X[:6].flip(0), [INF], ["arccos"] * 2)
    J = regression_objective(machine, X, y).item()
    assert regression_objective(machine, X[order], y[order]).item() == pytest.approx(J, rel=1e-12)
    assert regression_objective(swapped, X, y).item() == pytest.approx(J, rel=1e-9)


def test_rotating_the_inputs_changes_nothing_for_an_isotropic_kernel():
    X, y = rows(20)
    Q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    values = []
    for rotated in (X, X @ Q):
        machine = SparseMachine(rotated[:6], [1.0], ["arccos"] * 2, ard=False)
        with torch.no_grad():
            machine.whitened[0] += 0.1
        values.append(regression_objective(machine, rotated, y).item())
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_taylor_and_exact_divergence_agree_near_the_prior_only():
    X, _ = rows(6)
    machines = [SparseMachine(X, [1.0], ["arccos"] * 2, kl=kl) for kl in ("exact", "taylor")]
    for size, close in ((1e-3, True), (1.0, False)):
        for machine in machines:
            with torch.no_grad():
                machine.whitened[0].copy_(size * torch.eye(6))
        exact, taylor = (machine.kls()[0].item() for machine in machines)
        assert (abs(exact - taylor) < 0.01 * exact) is close


def test_regularised_grams_are_the_wishart_mean_at_test_time_and_random_in_training():
    X, _ = rows(8)
    machine = SparseMachine(X, [1.0], ["arccos"] * 2, skr_gamma=4.0)
    plain = SparseMachine(X, [1.0], ["arccos"] * 2).factors().grams[1]
    lift = 0.1 * plain.diagonal().mean() * torch.eye(8)
    assert torch.allclose(machine.factors().grams[1], plain + lift, atol=1e-8)
    rng = torch.Generator().manual_seed(0)
    draws = torch.stack([machine.factors(rng).grams[1] for _ in range(800)])
    spread = draws.std(0) / math.sqrt(800)
    assert ((draws.mean(0) - plain - lift).abs() < 4.5 * spread).all()
    assert torch.linalg.matrix_rank(draws[0] - lift, tol=1e-8) == 2  # ceil(8 / 4) columns
    again = machine.factors(torch.Generator().manual_seed(0)).grams[1]
    assert torch.equal(again, draws[0])


def test_changing_nu_keeps_what_was_learned_and_starts_new_layers_at_the_prior():
    X, y = rows(20)
    machine = SparseMachine(X[:6], [1.0, INF], ["arccos"] * 3)
    train_regression(machine, X, y, max_iter=5, lr=0.05)
    other = with_nus(machine, [0.5, 2.0])
    assert torch.equal(other.whitened[0], machine.whitened[0])
    assert torch.equal(other.whitened[1], torch.zeros(6, 6).double())
    assert torch.equal(other.noise, machine.noise)
    assert torch.allclose(other.factors().K, machine.factors().K)


def test_learning_features_alone_moves_nothing_else():
    X, y = rows(30)
    machine = SparseMachine(X[:10], [3.0, INF], ["arccos"] * 3)
    machine.learn("features")
    before = {name: value.clone() for name, value in machine.state_dict().items()}
    train_regression(machine, X, y, max_iter=5, lr=0.05)
    moved = {name for name, value in machine.state_dict().items() if not torch.equal(before[name], value)}
    assert moved == {"whitened.0"}
    machine.learn("all")
    free = {name for name, p in machine.named_parameters() if p.requires_grad}
    assert free == set(dict(machine.named_parameters()))
    fixed = SparseMachine(X, [1.0], ["arccos"] * 2, noise=0.1, ard=False, dense=True, input_bias=0.0)
    fixed.learn("all")
    assert {name for name, p in fixed.named_parameters() if not p.requires_grad} == {
        "Z",
        "log_scales",
        "log_input_bias",
        "log_noise",
    }
    assert with_nus(fixed, [2.0]).log_noise.requires_grad is False


@pytest.mark.parametrize("C", [2, 3, 5])
def test_class_output_starts_at_the_prior_and_probabilities_sum_to_one(C):
    output = ClassOutput(4, C, dtype=torch.float64)
    A = torch.randn(4, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mean, variance = output(A, A.square().sum(0) + 0.5)
    assert torch.allclose(variance, A.square().sum(0) + 0.5)
    p = output.probabilities(mean, variance, normal_draws(64, C, 0, dtype=torch.float64))
    assert torch.allclose(p.sum(1), torch.ones(6).double())
    assert output.kl().item() == 0


def test_class_divergence_is_that_of_torch_distributions():
    output = ClassOutput(4, 3, dtype=torch.float64)
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        output.m.copy_(torch.randn(4, 3, generator=rng))
        R = torch.randn(4, 4, generator=rng).double().tril(-1) + torch.diag(torch.tensor([0.5, 1.0, 2.0, 0.3]).double())
        output.raw.copy_(raw_factor(R))
    zero, eye = torch.zeros(4).double(), torch.eye(4).double()
    exact = torch.distributions.kl_divergence(MultivariateNormal(output.m.T, R @ R.T), MultivariateNormal(zero, eye)).sum()
    assert output.kl().item() == pytest.approx(exact.item(), rel=1e-10)


def test_two_class_quadrature_equals_many_draws():
    output = ClassOutput(2, 2, dtype=torch.float64)
    with torch.no_grad():
        output.m.copy_(torch.tensor([[0.3, -0.5], [1.0, 0.4]]))
    A, k = torch.tensor([[1.0, 0.2], [0.5, 2.0]]).double(), torch.tensor([2.0, 6.0]).double()
    mean, variance = output(A, k)
    codes = torch.tensor([0, 1])
    draws = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits = mean + variance.sqrt()[:, None] * draws[:, None, :]
    brute = logits.softmax(-1).mean(0)
    assert torch.allclose(output.probabilities(mean, variance, draws[:1]), brute, atol=3e-3)
    expected = logits.log_softmax(-1).gather(-1, codes[:, None].expand(len(draws), 2, 1)).mean(0)[:, 0]
    assert torch.allclose(output.log_likelihood(A, k, codes, draws[:1]), expected, atol=1e-2)


def test_class_training_climbs_in_minibatches_too():
    X, y = rows(120)
    codes = (y[:, 0] > 0).long()
    machine, output = SparseMachine(X[:10], [3.0], ["arccos"] * 2), ClassOutput(10, 2, dtype=torch.float64)
    history = train_classes(machine, output, X, codes, max_iter=120, lr=0.05, batch_size=40)
    assert np.mean(history[-10:]) > np.mean(history[:3]) + 0.2


def test_only_the_output_is_trained_where_the_machine_learns_nothing():
    X, y = rows(60)
    machine, output = SparseMachine(X[:10], [3.0], ["arccos"] * 2), ClassOutput(10, 2, dtype=torch.float64)
    before = {name: value.clone() for name, value in machine.state_dict().items()}
    machine.learn("nothing")
    train_classes(machine, output, X, (y[:, 0] > 0).long(), max_iter=3, lr=0.05)
    assert all(torch.equal(before[name], value) for name, value in machine.state_dict().items())
    assert output.m.abs().max() > 0


@pytest.mark.parametrize(("init", "distinct"), [("random", 5), ("kmeans", 5)])
def test_inducing_rows_are_repeatable_and_lie_in_the_data(init, distinct):
    X = np.random.default_rng(0).normal(size=(40, 2))
    one, two = (inducing_rows(X, 5, init, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one, two)
    assert len(np.unique(one, axis=0)) == distinct
    if init == "random":
        assert all((row == X).all(1).any() for row in one)
    assert (one.min(0) >= X.min(0)).all()
    assert (one.max(0) <= X.max(0)).all()


def test_a_step_that_is_not_finite_is_taken_back():
    X, y = rows(20)
    machine = SparseMachine(X[:5], [1.0], ["arccos"] * 2)
    history = train_regression(machine, X, y, max_iter=10, lr=1e6)
    assert all(np.isfinite(history))
    assert all(torch.isfinite(p).all() for p in machine.parameters())
    assert math.isfinite(regression_objective(machine, X, y).item())


def test_dense_first_order_and_streamed_gradient_agree_for_every_kernel():
    X, y = rows(9)
    for kernel, dense in itertools.product(("arccos", "sqexp"), (True, False)):
        machine = shaken(SparseMachine(X, [1.0], [kernel] * 2, dense=dense, jitter=1e-6))
        whole = regression_objective(machine, X, y)
        whole.backward()
        exact = machine.whitened[0].grad.clone()
        machine.zero_grad()
        regression_gradient(machine, X, y)
        assert torch.allclose(machine.whitened[0].grad, exact, rtol=1e-4, atol=1e-6)
