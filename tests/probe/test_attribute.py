"""Claims about attribution, against closed forms, leave-one-out refits and brute force in float64."""

import numpy as np
import pytest
import torch
from attributions import (
    class_losses,
    hessian_of,
    linear_regression,
    log_odds,
    logistic_regression,
    matrix_of,
    own_probability,
)
from curvature import mlp, vectors
from torch import nn

from datumwise.probe.attribute import METHODS, attribute
from datumwise.probe.attribution import kronecker
from datumwise.probe.attribution import problem as problem_module
from datumwise.probe.attribution import trak as trak_module
from datumwise.probe.attribution.less import subtask_max
from datumwise.probe.attribution.problem import Problem
from datumwise.probe.attribution.representer import fit_representer
from datumwise.probe.attribution.trak import soft_thresholded
from datumwise.probe.ekfac import fit_eigenvalues, influence
from datumwise.probe.kfac import KFAC
from datumwise.probe.needs.adam import AdamDirection


def pair():
    """Training data and queries for `mlp`."""
    return vectors(), vectors(4, seed=1)


def prediction(model, batch):
    return model(batch[0])[:, 0]


def other_states(model, count):
    """State dicts a little away from the model's own."""
    states = []
    for seed in range(count):
        generator = torch.Generator().manual_seed(seed)
        state = {}
        for name, value in model.state_dict().items():
            state[name] = value + 0.3 * torch.randn(value.shape, generator=generator, dtype=value.dtype)
        states.append(state)
    return states


# --- leave-one-out --------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"hessian": "exact"}, {"solver": "cg", "tolerance": 1e-13}, {"solver": "arnoldi"}])
def test_influence_over_one_minus_leverage_is_exactly_leave_one_out_of_linear_regression(options):
    model, (X, y), (X_test, y_test) = linear_regression()
    n = len(X)
    scores = attribute(
        model, (X, y), (X_test, y_test), "squared_error", "influence", damping=0.0, measure=prediction, **options
    )
    ones = torch.cat([X, torch.ones(n, 1, dtype=torch.float64)], 1)
    test = torch.cat([X_test, torch.ones(len(X_test), 1, dtype=torch.float64)], 1)
    leverage = torch.einsum("ij,jk,ik->i", ones, torch.linalg.inv(ones.T @ ones), ones)
    full = test @ torch.linalg.lstsq(ones, y[:, None]).solution[:, 0]
    change = torch.empty(len(X_test), n, dtype=torch.float64)
    for i in range(n):
        keep = torch.arange(n) != i
        change[:, i] = full - test @ torch.linalg.lstsq(ones[keep], y[keep][:, None]).solution[:, 0]
    np.testing.assert_allclose(scores / n / (1 - leverage.numpy()), change, atol=1e-8)
    assert np.abs(scores / n - change.numpy()).max() > 0.1 * change.abs().max()  # without the factor it is some 20 % off


def test_weighted_trak_over_one_minus_leverage_is_a_newton_step_of_leave_one_out():
    model, (X, y), test = logistic_regression()
    scores = attribute(model, (X, y), test, "binary_cross_entropy", "trak", projection=None, damping=0.0, gram="weighted")
    w = model.weight.detach()[0]
    p = torch.sigmoid(X @ w)
    H = X.T @ (X * (p * (1 - p))[:, None])
    leverage = p * (1 - p) * torch.einsum("ij,jk,ik->i", X, torch.linalg.inv(H), X)
    sign = 2 * test[1].double() - 1
    change = torch.empty(scores.shape, dtype=torch.float64)
    for i in range(len(X)):
        keep = torch.arange(len(X)) != i
        H_i = X[keep].T @ (X[keep] * (p * (1 - p))[keep][:, None])
        step = torch.linalg.solve(H_i, X[keep].T @ (p - y)[keep])
        change[:, i] = sign * (test[0] @ w - test[0] @ (w - step))
    np.testing.assert_allclose(scores / (1 - leverage.numpy()), change, atol=1e-8)


# --- inner products -------------------------------------------------------------------------------------


def test_products_of_gradients_sum_to_the_product_with_the_full_gradient():
    model, (train, test) = mlp(), pair()
    scores = attribute(model, train, test, method="grad_dot")
    full = matrix_of(model, [class_losses(model, *train).sum()])[0]
    np.testing.assert_allclose(scores.sum(1), matrix_of(model, class_losses(model, *test)) @ full, rtol=1e-10)


@pytest.mark.parametrize("projection", ["auto", None])
def test_cosines_are_products_of_unit_gradients(projection):
    model, (train, test) = mlp(), pair()
    G, T = (matrix_of(model, class_losses(model, *data)) for data in (train, test))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (G, T)]
    scores = attribute(model, train, test, method="grad_cos", projection=projection)
    np.testing.assert_allclose(scores, unit[1] @ unit[0].T, rtol=1e-10)


def test_tracin_adds_checkpoints_by_their_weights_and_a_measure_turns_the_sign():
    model, (train, test) = mlp(), pair()
    states, expected = other_states(model, 2), 0.0
    own = {k: v.clone() for k, v in model.state_dict().items()}
    for weight, state in zip((0.1, 0.7), states, strict=True):
        model.load_state_dict(state)
        G, F = matrix_of(model, class_losses(model, *train)), matrix_of(model, log_odds(model, *test))
        expected = expected - weight * (F @ G.T)  # larger log-odds are better
    model.load_state_dict(own)
    for projection in ("auto", np.eye(G.shape[1])):
        scores = attribute(
            model,
            train,
            test,
            method="tracin",
            checkpoints=states,
            weights=[0.1, 0.7],
            measure="log_odds",
            projection=projection,
        )
        np.testing.assert_allclose(scores, expected, rtol=1e-9)
    assert all(torch.equal(own[k], v) for k, v in model.state_dict().items())


def test_projected_products_are_unbiased_and_a_given_matrix_is_used_in_the_parameters_order():
    model, (train, test) = mlp(), pair()
    G, T = (matrix_of(model, class_losses(model, *data)) for data in (train, test))
    draws = np.stack([attribute(model, train, test, method="grad_dot", projection=16, seed=s) for s in range(150)])
    error = draws.std(0) / np.sqrt(len(draws))
    assert (np.abs(draws.mean(0) - T @ G.T) < 4.5 * error).all()
    assert np.abs(draws[0] - T @ G.T).max() > 1e-3  # it is a projection
    P = np.random.default_rng(0).normal(size=(G.shape[1], 7))
    scores = attribute(model, train, test, method="grad_dot", projection=P)
    np.testing.assert_allclose(scores, (T @ P) @ (G @ P).T, rtol=1e-9)


# --- TRAK -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gram", ["plain", "weighted"])
@pytest.mark.parametrize(("k", "damping"), [(6, 0.0), (6, 0.3), (40, 0.3)])
def test_trak_averages_kernels_and_one_minus_p_apart_over_checkpoints(gram, k, damping):
    model, (train, test) = mlp(), pair()
    states = other_states(model, 3)
    p = sum(v.numel() for v in model.parameters())
    P = np.random.default_rng(0).normal(size=(p, k))
    kernels, wrong = [], []
    for state in states:
        model.load_state_dict(state)
        phi, phi_t = (matrix_of(model, log_odds(model, *data)) @ P for data in (train, test))
        own = own_probability(model, *train)
        W = np.diag(own * (1 - own)) if gram == "weighted" else np.eye(len(own))
        kernels.append(phi_t @ np.linalg.inv(phi.T @ W @ phi + damping * np.eye(k)) @ phi.T)
        wrong.append(1 - own)
    expected = np.mean(kernels, 0) * np.mean(wrong, 0)
    scores = attribute(model, train, test, projection=P, damping=damping, gram=gram, checkpoints=states)
    np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("gram", ["plain", "weighted"])
def test_trak_from_inner_products_alone_is_trak_of_whole_gradients(gram, monkeypatch):
    model, (train, test) = mlp(), pair()
    whole = attribute(model, train, test, projection=None, gram=gram)
    monkeypatch.setattr(trak_module, "DIRECT_PARAMETERS", 10)
    np.testing.assert_allclose(attribute(model, train, test, projection=None, gram=gram), whole, rtol=1e-8)


def test_trak_of_fewer_datapoints_than_numbers_solves_the_small_system_to_the_same_answer(monkeypatch):
    model, (train, test) = mlp(), pair()
    small = attribute(model, train, test, projection=64)
    monkeypatch.setattr("datumwise.probe.attribution.gram.KERNEL_BYTES", 0)
    np.testing.assert_allclose(attribute(model, train, test, projection=64), small, rtol=1e-7)


def test_soft_thresholding_moves_scores_towards_zero():
    np.testing.assert_allclose(soft_thresholded(np.array([-2.0, 0.5, 3.0]), 1.0), [-1.0, 0.0, 2.0])
    model, (train, test) = mlp(), pair()
    plain = attribute(model, train, test)
    cut = float(np.median(np.abs(plain)))
    np.testing.assert_allclose(attribute(model, train, test, threshold=cut), soft_thresholded(plain, cut))


# --- LESS -----------------------------------------------------------------------------------------------


def trained_with_adam(model, X, y, steps=5):
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        class_losses(model, X, y).mean().backward()
        optimiser.step()
    model.zero_grad(set_to_none=True)
    return optimiser


def test_adam_direction_of_a_unit_gradient_without_moments_is_the_published_number():
    one = torch.ones(1, 1, dtype=torch.float64)
    assert float(AdamDirection({})("w", one)) == pytest.approx(0.1 / np.sqrt(0.001 + 1e-8), rel=1e-12)
    assert float(AdamDirection({})("w", one)) == pytest.approx(3.16226, abs=1e-5)
    assert float(AdamDirection({}, eps_inside=False)("w", one)) == pytest.approx(1.0, rel=1e-7)


def test_textbook_direction_is_the_step_that_torchs_adam_takes():
    model, (train, _) = mlp(), pair()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(3):
        optimiser.zero_grad()
        class_losses(model, *train).sum().backward()
        optimiser.step()
    direction = AdamDirection.of(optimiser, model, eps_inside=False)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    optimiser.zero_grad()
    class_losses(model, *train)[0].backward()
    steps = {name: direction(name, p.grad.flatten()[None])[0] for name, p in model.named_parameters()}
    optimiser.step()
    for name, p in model.named_parameters():
        np.testing.assert_allclose((state[name] - p.detach()).flatten() / 1e-3, steps[name], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("inside", [True, False])
def test_less_is_the_weighted_cosine_of_adam_steps_and_target_gradients(inside):
    model, (train, test) = mlp(), pair()
    optimisers, states, expected = [], [], 0.0
    for weight in (0.25, 0.75):
        optimiser = trained_with_adam(model, *train)
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        moments = {
            n: (optimiser.state[p]["exp_avg"].clone(), optimiser.state[p]["exp_avg_sq"].clone())
            for n, p in model.named_parameters()
        }
        optimisers.append(moments)
        m, v = (np.concatenate([pair[i].flatten().numpy() for pair in moments.values()]) for i in (0, 1))
        g, T = (matrix_of(model, class_losses(model, *data)) for data in (train, test))
        m2, v2 = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        G = m2 / np.sqrt(v2 + 1e-8) if inside else m2 / 0.1 / (np.sqrt(v2 / 0.001) + 1e-8)  # steps unknown: 0
        G, T = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (G, T))
        expected = expected + weight * (T @ G.T)
    options = {"checkpoints": states, "adam": optimisers, "weights": [2e-5, 6e-5], "adam_eps_inside": inside}
    scores = attribute(model, train, test, method="less", **options)
    np.testing.assert_allclose(scores, expected, rtol=1e-8)
    groups = ["b", "a", "b", "a"]
    means = attribute(model, train, test, method="less", groups=groups, **options)
    np.testing.assert_allclose(means, [expected[[0, 2]].mean(0), expected[[1, 3]].mean(0)], rtol=1e-8)
    np.testing.assert_allclose(subtask_max(scores, groups), means.max(0), rtol=1e-8)


def test_where_the_loss_does_not_reach_the_moments_still_step():
    class Unused(nn.Module):
        """A model one of whose layers the loss never hears of."""

        def __init__(self):
            super().__init__()
            self.body, self.idle = nn.Linear(5, 3), nn.Linear(5, 2)

        def forward(self, x):
            return self.body(x)

    torch.manual_seed(0)
    model, (train, test) = Unused().double(), pair()
    moments = {n: (torch.ones_like(p), torch.ones_like(p)) for n, p in model.named_parameters()}
    g, T = (matrix_of(model, class_losses(model, *data)) for data in (train, test))
    G = (0.9 + 0.1 * g) / np.sqrt(0.999 + 0.001 * g**2 + 1e-8)
    G, T = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (G, T))
    np.testing.assert_allclose(attribute(model, train, test, method="less", adam=moments), T @ G.T, rtol=1e-8)


def test_moments_come_from_an_optimiser_its_state_dict_or_by_name_alike():
    model, (train, test) = mlp(), pair()
    optimiser = trained_with_adam(model, *train)
    named = {n: (optimiser.state[p]["exp_avg"], optimiser.state[p]["exp_avg_sq"]) for n, p in model.named_parameters()}
    scores = [attribute(model, train, test, method="less", adam=a) for a in (optimiser, optimiser.state_dict(), named)]
    assert np.array_equal(scores[0], scores[1])
    assert np.array_equal(scores[0], scores[2])


# --- influence ------------------------------------------------------------------------------------------


def curvature_of(model, X, y, kind):
    """Brute force: the mean over datapoints of the Hessian, J^T (diag p - p p^T) J, or g g^T."""
    n = len(X)
    if kind == "exact":
        return hessian_of(model, class_losses(model, X, y).mean())
    if kind == "empirical_fisher":
        G = matrix_of(model, class_losses(model, X, y))
        return G.T @ G / n
    total = 0.0
    for x in X:
        J = matrix_of(model, model(x[None])[0])
        p = model(x[None])[0].softmax(0).detach().numpy()
        total = total + J.T @ (np.diag(p) - np.outer(p, p)) @ J / n
    return total


@pytest.mark.parametrize("kind", ["exact", "gauss_newton", "empirical_fisher"])
@pytest.mark.parametrize(
    "solver",
    [{}, {"solver": "cg", "tolerance": 1e-12}, {"solver": "arnoldi", "rank": 200}, {"solver": "lissa", "depth": 600}],
)
def test_influence_equals_brute_force_for_every_curvature_and_solver(kind, solver):
    model, (train, test) = mlp(), pair()
    lam = 0.5  # above the exact Hessian's negative eigenvalues
    H = curvature_of(model, *train, kind)
    G, T = (matrix_of(model, class_losses(model, *data)) for data in (train, test))
    options = {"method": "influence", "hessian": kind, "damping": lam, "batch_size": 64, **solver}
    if solver.get("solver") == "arnoldi":  # the null space of H is dropped
        values, eigenvectors = np.linalg.eigh(H)
        large = np.abs(values) > 1e-10 * np.abs(values).max()
        kept = eigenvectors[:, large]
        expected = T @ kept @ np.diag(1 / (values[large] + lam)) @ kept.T @ G.T
    else:
        expected = T @ np.linalg.inv(H + lam * np.eye(len(H))) @ G.T
    scores = attribute(model, train, test, **options)
    tolerance = 1e-5 if solver.get("solver") in ("lissa", "arnoldi") else 1e-8
    np.testing.assert_allclose(scores, expected, atol=tolerance * np.abs(expected).max())


def test_checkpoints_of_influence_are_averaged():
    model, (train, test) = mlp(), pair()
    states = other_states(model, 2)
    for method in ("influence", "ekfac", "datainf", "representer"):
        alone = [attribute(model, train, test, method=method, checkpoints=[state]) for state in states]
        both = attribute(model, train, test, method=method, checkpoints=states)
        np.testing.assert_allclose(both, (alone[0] + alone[1]) / 2, rtol=1e-8)


def test_damping_by_default_is_a_share_of_the_mean_eigenvalue():
    model, (train, test) = mlp(), pair()
    H = curvature_of(model, *train, "gauss_newton")
    share = attribute(model, train, test, method="influence", relative_damping=0.2)
    given = attribute(model, train, test, method="influence", damping=0.2 * np.trace(H) / len(H))
    np.testing.assert_allclose(share, given, rtol=1e-9)


@pytest.mark.parametrize("kind", ["gauss_newton", "empirical_fisher"])
def test_projected_influence_is_influence_in_the_projected_space(kind):
    model, (train, test) = mlp(), pair()
    H = curvature_of(model, *train, kind)
    G, T = (matrix_of(model, class_losses(model, *data)) for data in (train, test))
    P = np.random.default_rng(0).normal(size=(len(H), 5))
    expected = T @ P @ np.linalg.inv(P.T @ H @ P + 0.1 * np.eye(5)) @ P.T @ G.T
    scores = attribute(model, train, test, method="influence", hessian=kind, projection=P, damping=0.1)
    np.testing.assert_allclose(scores, expected, rtol=1e-7)


@pytest.mark.parametrize("method", ["ekfac", "kfac"])
def test_kronecker_influence_of_one_layer_on_a_full_grid_is_newtons(method):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(9, 4, generator=generator, dtype=torch.float64)
    pushes = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    x = inputs[:, None, :].expand(9, 7, 4).reshape(-1, 4)
    v = pushes[None].expand(9, 7, 3).reshape(-1, 3)
    W = (v[:, :, None] * x[:, None, :]).flatten(1).numpy()
    model = nn.Linear(4, 3, bias=False).double()

    def push(model, batch):
        return (model(batch[0]) * batch[1]).sum(1)

    scores = attribute(model, [(x, v)], [(x[:5], v[:5])], push, method, damping=0.02)
    expected = W[:5] @ np.linalg.inv(W.T @ W / len(W) + 0.02 * np.eye(12)) @ W.T
    np.testing.assert_allclose(scores, expected, rtol=1e-7, atol=1e-9)


def test_kronecker_factors_are_of_drawn_labels_for_gauss_newton_and_of_given_ones_for_the_empirical_fisher():
    model, (train, test) = mlp(), pair()
    for hessian, labels in (("gauss_newton", "sampled"), ("empirical_fisher", "gold")):
        fitted = KFAC(model, labels=labels, bias=True, dtype=torch.float64).fit(train)
        fitted.random_state = 1  # other labels than those of the basis
        fit_eigenvalues(fitted, train)
        scores = attribute(model, train, test, method="ekfac", hessian=hessian, label_draws=1)
        np.testing.assert_allclose(scores, influence(fitted, test, train), rtol=1e-9)
        np.testing.assert_allclose(attribute(model, train, test, method="ekfac", factors=fitted), scores, rtol=1e-9)
    once = attribute(model, train, test, method="ekfac", hessian="empirical_fisher", label_draws=1)
    assert np.array_equal(attribute(model, train, test, method="ekfac", hessian="empirical_fisher"), once)  # nothing is drawn


def test_draws_of_the_labels_come_nearer_to_their_expectation():
    """One linear layer: G is the mean of diag(p) - p p^T; Lambda is then that of the expected squared gradient."""
    train = pair()[0]
    model = torch.nn.Linear(train[0].shape[1], int(train[1].max()) + 1, dtype=train[0].dtype)
    p = torch.softmax(model(train[0]), dim=1).detach()
    exact = (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]).mean(0)
    problem = Problem(model, train, train)
    stream = {"tokenizer": None, "collate": None, "batch_size": 64}
    errors = []
    for draws in (1, 4, 64):
        fitted = kronecker._factors(problem, "sampled", range(draws), {"bias": True, "dtype": torch.float64}, stream)
        kronecker._correct(fitted, problem, range(draws), stream)
        (factor,) = fitted.factors_.values()
        errors.append(float((factor.G - exact).norm() / exact.norm()))
        rotated = factor.eigenvectors_G.T @ (torch.diag_embed(p) - p[:, :, None] * p[:, None, :]) @ factor.eigenvectors_G
        a = torch.cat([train[0], torch.ones(len(p), 1, dtype=p.dtype)], 1).double() @ factor.eigenvectors_A
        expected = torch.einsum("nii,nj->ij", rotated.double(), a**2) / len(p)
    assert errors[0] > 1.5 * errors[1] > 3 * errors[2]
    assert errors[2] < 0.05
    np.testing.assert_allclose(factor.corrected, expected, rtol=0.5, atol=0.05 * float(expected.max()))


def test_products_with_curvature_leave_modes_and_flags_as_they_were():
    model, (train, test) = mlp(), pair()
    model.train()
    model[2].weight.requires_grad_(False)
    model[4].eval()
    attribute(model, train, test, method="influence", solver="cg", damping=1.0)
    assert [m.training for m in model] == [True, True, True, True, False]
    assert [p.requires_grad for p in model.parameters()] == [True, True, False, True, True]


def test_datainf_is_the_mean_of_the_inverses_layer_by_layer():
    model, (train, test) = mlp(), pair()
    G, T = (matrix_of(model, class_losses(model, *data)) for data in (train, test))
    layers, start = [], 0
    for module in model:
        size = sum(p.numel() for p in module.parameters())
        if size:
            layers.append(slice(start, start + size))
            start += size
    for damping in (None, 0.05):
        expected = 0.0
        for at in layers:
            g, t = G[:, at], T[:, at]
            lam = 0.1 * np.mean(g**2) if damping is None else damping
            mean = np.mean([np.linalg.inv(lam * np.eye(g.shape[1]) + np.outer(row, row)) for row in g], axis=0)
            expected = expected + t @ mean @ g.T
        scores = attribute(model, train, test, method="datainf", damping=damping)
        np.testing.assert_allclose(scores, expected, rtol=1e-8, atol=1e-8 * np.abs(expected).max())


# --- representer points ---------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", ["labels", "model"])
def test_a_refitted_output_is_the_sum_of_its_representer_points(targets):
    model, (train, test) = mlp(), pair()
    found = fit_representer(Problem(model, train, test), damping=0.01, targets=targets)
    np.testing.assert_allclose((found.test @ found.train.T) @ found.alpha, found.outputs(), atol=1e-8)
    scores = attribute(model, train, test, method="representer", damping=0.01, targets=targets)
    np.testing.assert_allclose(scores.sum(1), found.outputs()[np.arange(4), test[1].numpy()], atol=1e-8)
    n, own = len(train[0]), nn.Sequential(*model[:-1])(train[0]).detach().numpy()
    own = np.concatenate([own, np.ones((n, 1))], 1)  # alpha = -(1 / (2 lambda n)) dL/dz at the refit
    p = torch.from_numpy(own @ found.weight.T).softmax(1).numpy()
    goal = np.eye(3)[train[1]] if targets == "labels" else model(train[0]).softmax(1).detach().numpy()
    np.testing.assert_allclose(found.alpha, -(p - goal) / (2 * 0.01 * n), atol=1e-9)


def test_representer_points_of_ridge_regression_have_a_closed_form():
    model, (X, y), test = linear_regression()
    scores = attribute(model, (X, y), test, "squared_error", "representer", damping=0.05)
    ones, q = (torch.cat([v, torch.ones(len(v), 1, dtype=v.dtype)], 1).numpy() for v in (X, test[0]))
    n = len(X)
    alpha = np.linalg.solve(ones @ ones.T + 2 * 0.05 * n * np.eye(n), y.numpy())  # kernel ridge
    side = np.sign(test[1].numpy() - q @ ones.T @ alpha)
    np.testing.assert_allclose(scores, (q @ ones.T) * alpha * side[:, None], rtol=1e-8)


def test_representer_points_of_a_logistic_regression_sum_to_the_signed_logit():
    model, train, test = logistic_regression()
    found = fit_representer(Problem(model, train, test, loss="binary_cross_entropy"), damping=0.02)
    scores = attribute(model, train, test, "binary_cross_entropy", "representer", damping=0.02)
    np.testing.assert_allclose(scores.sum(1), found.outputs()[:, 0] * (2 * test[1].numpy() - 1), atol=1e-8)


def test_binary_losses_have_the_gauss_newton_matrix_of_logistic_regression():
    model, (X, y), test = logistic_regression()
    p = torch.sigmoid(X @ model.weight.detach()[0])
    H = (X.T @ (X * (p * (1 - p))[:, None]) / len(X)).numpy()
    G = ((p - y)[:, None] * X).numpy()
    T = ((torch.sigmoid(test[0] @ model.weight.detach()[0]) - test[1])[:, None] * test[0]).numpy()
    for options in ({}, {"solver": "cg", "tolerance": 1e-12}, {"hessian": "exact"}):
        scores = attribute(model, (X, y), test, "binary_cross_entropy", "influence", damping=0.01, **options)
        np.testing.assert_allclose(scores, T @ np.linalg.inv(H + 0.01 * np.eye(3)) @ G.T, rtol=1e-7)


# --- what holds for all ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_scores_do_not_depend_on_the_batch_size_nor_on_how_the_data_come(method):
    model, (train, test) = mlp(), pair()
    options = {"adam": trained_with_adam(model, *train)} if method == "less" else {}
    before = {k: v.clone() for k, v in model.state_dict().items()}
    model.train()
    whole = attribute(model, train, test, method=method, **options)
    assert whole.shape == (4, 11)
    assert whole.dtype == np.float64
    for size in (1, 7):
        np.testing.assert_allclose(attribute(model, train, test, method=method, batch_size=size, **options), whole, rtol=1e-7)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*train), batch_size=3)
    queries = iter([(test[0][:1], test[1][:1]), (test[0][1:], test[1][1:])])
    np.testing.assert_allclose(attribute(model, loader, queries, method=method, **options), whole, rtol=1e-7)
    one = attribute(model, train, (test[0][2:3], test[1][2:3]), method=method, **options)
    np.testing.assert_allclose(one[0], whole[2], rtol=1e-7)
    assert model.training
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("method", [m for m in METHODS if m != "less"])
def test_a_copy_of_the_query_is_more_helpful_than_its_twin_with_a_wrong_label(method):
    model, (X, y) = mlp(), vectors(40)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimiser.zero_grad()
        class_losses(model, X, y).mean().backward()
        optimiser.step()
    model.zero_grad(set_to_none=True)
    wrong = (y[:5] + 1) % 3
    train = torch.cat([X, X[:5]]), torch.cat([y, wrong])
    scores = attribute(model, train, (X[:5], y[:5]), method=method)
    own, twin = scores[:, :5].diagonal(), scores[:, 40:].diagonal()
    assert (own > 0).all()
    assert (twin < 0).all()


def test_a_large_models_queries_are_solved_in_blocks_to_the_same_answer(monkeypatch):
    model, (train, test) = mlp(), pair()
    whole = [attribute(model, train, test, method=m, **o) for m, o in (("influence", {"solver": "cg"}), ("datainf", {}))]
    monkeypatch.setattr("datumwise.probe.attribution.influence.QUERY_BYTES", 8 * 200)
    monkeypatch.setattr("datumwise.probe.attribution.datainf.QUERY_BYTES", 8 * 200)
    parts = [attribute(model, train, test, method=m, **o) for m, o in (("influence", {"solver": "cg"}), ("datainf", {}))]
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-7)


def test_modules_narrow_the_parameters_to_their_own():
    model, (train, test) = mlp(), pair()
    scores = attribute(model, train, test, method="grad_dot", modules=["4"])
    head = [p.numel() for p in model[4].parameters()]
    G, T = (matrix_of(model, class_losses(model, *data))[:, -sum(head) :] for data in (train, test))
    np.testing.assert_allclose(scores, T @ G.T, rtol=1e-9)


def test_progress_counts_every_datapoint_of_every_pass():
    model, (train, test) = mlp(), pair()
    for method in ("trak", "influence", "ekfac", "datainf", "grad_dot"):
        seen = []
        attribute(model, train, test, method=method, progress=lambda done, total, seen=seen: seen.append(done))
        assert seen == sorted(seen)
        assert seen[-1] >= len(train[0])


def test_a_checkpoint_may_be_a_file(tmp_path):
    from safetensors.torch import save_file

    model, (train, test) = mlp(), pair()
    state = other_states(model, 1)[0]
    torch.save(state, tmp_path / "a.pt")
    save_file(state, tmp_path / "a.safetensors")
    scores = [attribute(model, train, test, checkpoints=[c]) for c in (state, tmp_path / "a.pt", tmp_path / "a.safetensors")]
    assert np.array_equal(scores[0], scores[1])
    assert np.array_equal(scores[0], scores[2])
    assert problem_module.load(model, state) is None
