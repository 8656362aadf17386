"""Sparse layers against the dense machine, independent Gaussian processes and finite differences."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from datumwise.errors import DatumwiseError, SchemaMismatch, UnknownName
from datumwise.learn.deep_kernel.blocks import FeaturesToGram, GramLayer, GramNorm, KernelMap, Output
from datumwise.learn.deep_kernel.cholesky import lower_factor
from datumwise.learn.deep_kernel.dense import dkm_objective, log_evidence
from datumwise.learn.deep_kernel.kernels import KERNELS
from datumwise.learn.deep_kernel.kl import kl_gaussian
from datumwise.learn.deep_kernel.structmat import StructMat

N, D, NOISE = 14, 20, 0.1


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, Y = normal(N, D, seed=0), normal(N, 2, seed=1)


def machine(Z: torch.Tensor, kernel: str, nus: list[float], C: int = 2, **options: object) -> nn.Sequential:
    """Kernel, Gram, ..., kernel, output, with random learned matrices where nu is finite."""
    layers: list[nn.Module] = [FeaturesToGram(Z)]
    for number, nu in enumerate(nus):
        gram = GramLayer(len(Z), nu, seed=number, **options).double()
        if gram.raw is not None:
            gram.raw.data = 0.2 * normal(len(Z), len(Z), seed=10 + number)
        layers += [KernelMap(kernel, bias=0.1), gram]
    return nn.Sequential(*layers, KernelMap(kernel, bias=0.1), Output(len(Z), C).double())


def objective(net: nn.Sequential, x: torch.Tensor, y: torch.Tensor, n: int) -> torch.Tensor:
    """Mean expected log-likelihood minus the penalties over n."""
    mean, variance = net(x)
    fit = -0.5 * (math.log(2 * math.pi * NOISE) + ((y - mean).square() + variance[:, None]) / NOISE).sum(1)
    return fit.mean() - sum(layer.penalty for layer in net if hasattr(layer, "penalty")) / n


def with_best_posterior(net: nn.Sequential, x: torch.Tensor, y: torch.Tensor) -> nn.Sequential:
    """Put in the q(u) that is optimal for a Gaussian likelihood: Titsias, 2009, eq. 10."""
    K = net[:-1](x)
    B = K.ii + K.ti.T @ K.ti / NOISE
    net[-1].set_posterior(K.ii @ torch.linalg.solve(B, K.ti.T @ y) / NOISE, K.ii @ torch.linalg.solve(B, K.ii))
    return net


@pytest.mark.parametrize("kernel", ["linear", "arccos", "gaussian", "sqexp"])
def test_inducing_points_that_are_the_data_give_the_dense_machine(kernel):
    nus = [1.5, 0.4]
    net = with_best_posterior(machine(X, kernel, nus), X, Y)
    grams, G = [], net[0](X)
    for layer in list(net)[1:-1]:
        G = layer(G)
        if isinstance(layer, GramLayer):
            grams.append(G.ii)
            assert torch.allclose(G.ti, G.ii, rtol=1e-7, atol=1e-9)  # K_ti K_ii^-1 = I
            assert torch.allclose(G.t, G.ii.diagonal(), rtol=1e-7)
    same = KernelMap(kernel, bias=0.1)
    J = dkm_objective(grams, X @ X.T / D, Y, same, nus, NOISE)
    assert float((N * objective(net, X, Y, N)).detach()) == pytest.approx(float(J.detach()), rel=1e-6)
    K = same.square(grams[-1])
    weights = torch.linalg.solve(K + NOISE * torch.eye(N), K)
    mean, variance = net(X)
    assert torch.allclose(mean, weights.T @ Y, atol=1e-7)
    assert torch.allclose(variance, (K - K @ weights).diagonal(), atol=1e-7)


@pytest.mark.parametrize("kernel", KERNELS)
def test_infinite_nu_is_a_gaussian_process_with_the_composed_kernel(kernel):
    net = with_best_posterior(machine(X, kernel, [math.inf]), X, Y)
    new = normal(5, D, seed=3)
    both = torch.cat([X, new]).detach().numpy()

    def k(G: np.ndarray) -> np.ndarray:  # numpy, from the formulas
        d = G.diagonal()
        n = np.sqrt(np.outer(d, d))
        c = np.clip(G / n, -1, 1)
        th = np.arccos(c)
        value = {
            "linear": G,
            "arccos": n / np.pi * (np.sin(th) + (np.pi - th) * c),
            "gaussian": n * np.exp(c - 1),
            "sqexp": np.exp(-0.5 * (d[:, None] + d - 2 * G)),
            "heaviside": n * (1 - th / np.pi),
        }[kernel].copy()
        np.fill_diagonal(value, 1.0 if kernel == "sqexp" else d)
        return value + 0.1

    K = k(k(both @ both.T / D))
    weights = np.linalg.solve(K[:N, :N] + NOISE * np.eye(N), K[:N, N:])
    mean, variance = net(new)
    assert np.allclose(mean.detach().numpy(), weights.T @ Y.numpy(), rtol=0, atol=1e-8)
    assert np.allclose(variance.detach().numpy(), (K[N:, N:] - K[N:, :N] @ weights).diagonal(), rtol=0, atol=1e-8)
    evidence = log_evidence(Y, torch.as_tensor(K[:N, :N]), NOISE)
    assert float((N * objective(net, X, Y, N)).detach()) == pytest.approx(float(evidence), rel=1e-8)


def test_minibatches_add_up_to_the_full_batch():
    net = machine(normal(6, D, seed=2), "arccos", [1.0, 2.0])
    net.insert(3, GramNorm().double())
    net(X)  # fixes the running mean
    net.eval()
    full = objective(net, X, Y, N)
    parts = [objective(net, X[rows], Y[rows], N) * len(rows) for rows in torch.arange(N).split(5)]
    assert torch.allclose(sum(parts) / N, full, rtol=1e-12)


def test_permuted_datapoints_duplicates_and_rotations():
    Z = normal(6, D, seed=2)
    net = machine(Z, "gaussian", [1.0])
    mean, variance = net(X)
    order = torch.as_tensor(np.random.default_rng(0).permutation(N))
    moved, spread = net(X[order])
    assert torch.allclose(moved, mean[order], rtol=1e-12)
    assert torch.allclose(spread, variance[order], rtol=1e-12)
    Q = torch.linalg.qr(normal(D, D, seed=5)).Q
    turned = copy.deepcopy(net)
    turned[0].Z.data = Z @ Q
    assert torch.allclose(turned(X @ Q)[1], variance, rtol=1e-10)
    twice = torch.cat([X[:1], X[:1]])
    assert torch.equal(net(twice)[1][0], net(twice)[1][1])


def test_a_constant_column_and_duplicate_inducing_points_stay_finite():
    Z = normal(6, 3, seed=2)
    Z[1], Z[:, 2] = Z[0], 1.0
    net = machine(Z, "arccos", [1.0])
    for layer in net:
        if isinstance(layer, KernelMap):
            layer.jitter = 1e-6
    loss = objective(net, Z, Y[:6], 6)
    loss.backward()
    assert math.isfinite(loss.item())
    assert all(bool(torch.isfinite(p.grad).all()) for p in net.parameters() if p.grad is not None)


def conditioned(K: StructMat, G_ii: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """G_ti and g_t from their definition, with an explicit inverse."""
    W = K.ti @ torch.linalg.inv(K.ii)
    return W @ G_ii, K.t - (W * K.ti).sum(1) + ((W @ G_ii) * W).sum(1)


@pytest.mark.parametrize("variant", [None, "published"])
@pytest.mark.parametrize("kl", ["exact", "taylor"])
def test_a_given_gram_is_carried_to_the_datapoints(kl, variant):
    K = KernelMap("arccos")(FeaturesToGram(normal(5, D, seed=2))(X))
    given = normal(5, 30, seed=4)
    given = given @ given.T / 30
    layer = GramLayer(5, 0.7, kl, variant).double()
    layer.set_gram(given)
    G = layer(K)
    ti, t = conditioned(K, given)
    assert torch.allclose(G.ii, given, rtol=1e-9)
    assert torch.allclose(G.ti, ti, rtol=1e-8)
    assert torch.allclose(G.t, t, rtol=1e-8)
    assert torch.allclose(layer.penalty, 0.7 * kl_gaussian(given, K.ii, kl, variant), rtol=1e-8)
    assert layer.clamped == 0


@pytest.mark.parametrize("variant", [None, "published"])
def test_both_parameterisations_start_at_the_kernel(variant):
    K = KernelMap("arccos", bias=0.1)(FeaturesToGram(normal(5, D, seed=2))(X))
    layer = GramLayer(5, 1.0, variant=variant).double()
    for a, b in zip(layer(K), K, strict=True):
        assert torch.allclose(a, b, rtol=1e-9)
    assert float(layer.penalty.detach()) == pytest.approx(0, abs=1e-12)


def leaves(seed: int = 0, images: bool = False) -> list[torch.Tensor]:
    """Free parameters of L (4, 4), K_ti (5, 4), k_t (5,)."""
    shape = (2, 3) if images else (5,)
    values = [0.3 * normal(4, 4, seed=seed), normal(*shape, 4, seed=seed + 1), 9 + normal(*shape, seed=seed + 2)]
    return [v.requires_grad_() for v in values]


@pytest.mark.parametrize("images", [False, True])
def test_gradients_of_a_gram_layer_equal_finite_differences(images):
    layer = GramLayer(4, 1.0).double()

    def forward(raw: torch.Tensor, ti: torch.Tensor, t: torch.Tensor, S: torch.Tensor) -> tuple[torch.Tensor, ...]:
        L = lower_factor(raw)
        bare = copy.copy(layer)
        bare._parameters = {"raw": S}
        return (*bare(StructMat(L @ L.T, ti, t)), bare.penalty)

    S = (0.3 * normal(4, 4, seed=7)).requires_grad_()
    assert torch.autograd.gradcheck(forward, [*leaves(images=images), S])


def test_gradients_of_an_output_layer_equal_finite_differences():
    layer = Output(4, 2).double()

    def forward(raw: torch.Tensor, ti: torch.Tensor, t: torch.Tensor, m: torch.Tensor, R: torch.Tensor) -> tuple:
        L = lower_factor(raw)
        bare = copy.copy(layer)
        bare._parameters = {"m": m, "raw": R}
        return (*bare(StructMat(L @ L.T, ti, t)), bare.penalty)

    free = [normal(4, 2, seed=8).requires_grad_(), (0.3 * normal(4, 4, seed=7)).requires_grad_()]
    assert torch.autograd.gradcheck(forward, [*leaves(), *free])


@pytest.mark.parametrize(
    ("kl", "variant", "tempering"), [("exact", None, False), ("taylor", None, True), ("taylor", "published", False)]
)
def test_a_given_posterior_is_the_textbook_sparse_gaussian_process(kl, variant, tempering):
    K = KernelMap("arccos", bias=0.1)(FeaturesToGram(normal(5, D, seed=2))(X))
    mu, A = normal(5, 3, seed=4), normal(5, 30, seed=6)
    A = A @ A.T / 30
    output = Output(5, 3, kl, variant, tempering).double()
    output.set_posterior(mu, A)
    mean, variance = output(K)
    W = K.ti @ torch.linalg.inv(K.ii)
    assert torch.allclose(mean, W @ mu, rtol=1e-7)
    assert torch.allclose(variance, K.t - (W * K.ti).sum(1) + ((W @ A) * W).sum(1), rtol=1e-7)
    penalty = 3 * kl_gaussian(A, K.ii, kl, variant) + 0.5 * (mu * torch.linalg.solve(K.ii, mu)).sum()
    assert torch.allclose(output.penalty, penalty / 3 if tempering else penalty, rtol=1e-7)


def test_the_posterior_starts_as_the_prior_and_the_published_one_far_from_it():
    K = KernelMap("arccos", bias=0.1)(FeaturesToGram(normal(8, D, seed=2))(X))
    ours, theirs = Output(8, 1).double(), Output(8, 1, variant="published").double()
    mean, variance = ours(K)
    theirs(K)
    assert torch.equal(mean, torch.zeros(N, 1, dtype=torch.float64))
    assert torch.allclose(variance, K.t, rtol=1e-12)
    assert float(ours.penalty.detach()) == 0.0
    assert float(theirs.penalty.detach()) > 5
    again = Output(8, 1, variant="published", seed=0).double()
    assert torch.equal(again.m, theirs.m)


def test_block_between_any_two_sets_extends_the_diagonal_and_the_inducing_columns():
    Z, new = normal(5, D, seed=2), normal(4, D, seed=3)
    kernel, layer = KernelMap("arccos", bias=0.1), GramLayer(5, 1.0).double()
    layer.raw.data = 0.3 * normal(5, 5, seed=9)
    K = kernel(FeaturesToGram(Z)(new))
    G = layer(K)
    K_xx = kernel.square(new @ new.T / D)
    whole = layer.between(K.ii, K.ti, K.ti, K_xx)
    assert torch.allclose(whole.diagonal(), G.t, rtol=1e-10)
    assert torch.allclose(layer.between(K.ii, K.ti, K.ii, K.ti), G.ti, rtol=1e-8)
    assert torch.linalg.eigvalsh(whole.detach()).min() > 0


def test_norm_makes_mean_diagonals_one_in_training_and_keeps_the_geometry():
    G = FeaturesToGram(normal(5, D, seed=2))(3 * X)
    norm = GramNorm().double()
    norm.log_scale_i.data.fill_(0.2)
    norm.log_scale_t.data.fill_(-0.3)
    scaled = norm(G)
    assert scaled.ii.diagonal().mean().item() == pytest.approx(math.exp(0.4), rel=1e-12)
    assert scaled.t.mean().item() == pytest.approx(math.exp(-0.6), rel=1e-12)
    cosine = [g.ti / (g.t[:, None] * g.ii.diagonal()).sqrt() for g in (G, scaled)]
    assert torch.allclose(cosine[0], cosine[1], rtol=1e-12)


def test_a_prediction_does_not_depend_on_its_batch_mates_unlike_the_published_one():
    Z = normal(5, D, seed=2)
    for variant, same in ((None, True), ("published", False)):
        net = machine(Z, "arccos", [1.0])
        net.insert(3, GramNorm(variant=variant).double())
        net[-1].m.data = normal(5, 2, seed=8)
        for rows in torch.arange(N).split(5):
            net(X[rows])
        net.eval()
        together, alone = net(X)[0][:1], net(X[:1])[0]
        assert torch.allclose(together, alone, rtol=1e-12) is same


def test_running_mean_is_the_mean_of_batches_or_decays():
    G = StructMat(torch.eye(2), torch.zeros(1, 2), torch.ones(1))
    plain, decaying = GramNorm(momentum=None), GramNorm(momentum=0.1)
    for value in (2.0, 4.0, 9.0):
        for norm in (plain, decaying):
            norm(G._replace(t=G.t * value))
    assert plain.running.item() == pytest.approx(5.0)
    assert decaying.running.item() == pytest.approx(5.0)  # the first 1 / 0.1 batches count alike
    for _ in range(7):
        decaying(G)
    decaying(G._replace(t=G.t * 100))
    assert decaying.running.item() == pytest.approx(0.9 * 2.2 + 0.1 * 100)
    plain.reset()
    plain(G)
    assert plain.running.item() == 1.0
    state = decaying.state_dict()
    fresh = GramNorm()
    fresh.load_state_dict(state)
    assert torch.equal(fresh.eval()(G).t, decaying.eval()(G).t)


def test_stochastic_regularisation_is_a_draw_around_the_gram_in_training_only():
    K = KernelMap("arccos", bias=0.1)(FeaturesToGram(normal(6, D, seed=2))(X))
    layer = GramLayer(6, 1.0, skr_gamma=2.0, seed=3).double()
    layer.raw.data = 0.2 * normal(6, 6, seed=9)
    plain = GramLayer(6, 1.0).double()
    plain.raw.data = layer.raw.data
    exact = plain(K).ii
    lifted = exact + 0.1 * exact.diagonal().mean() * torch.eye(6)
    with torch.no_grad():
        draws = torch.stack([layer(K).ii for _ in range(2_000)])
    spread = draws.std(0) / math.sqrt(2_000)
    assert ((draws.mean(0) - lifted).abs() < 5 * spread).all()
    assert layer.penalty.item() == pytest.approx(plain.penalty.item(), rel=1e-12)
    # a Wishart draw of ceil(6 / 2) = 3 degrees of freedom: variance (g_ij^2 + g_ii g_jj) / 3
    assert draws[:, 0, 1].var().item() == pytest.approx(((exact[0, 1] ** 2 + exact[0, 0] * exact[1, 1]) / 3).item(), rel=0.15)
    G = layer(K)
    ti, t = conditioned(K, G.ii)
    assert torch.allclose(G.ti, ti, rtol=1e-8)
    assert torch.allclose(G.t, t, rtol=1e-8)
    layer.eval()
    assert torch.equal(layer(K).ii, layer(K).ii)
    assert torch.allclose(layer(K).ii, lifted, rtol=1e-12)


def test_published_jitter_of_stochastic_regularisation_does_not_know_the_scale():
    K = KernelMap("linear")(FeaturesToGram(normal(6, D, seed=2))(X))
    small = StructMat(*(1e-3 * k for k in K))
    for variant, absolute in ((None, False), ("published", True)):
        lifts = []
        for kernel in (K, small):
            layer = GramLayer(6, 1.0, variant=variant, skr_gamma=4.0).double().eval()
            lifts.append(float((layer(kernel).ii - kernel.ii).diagonal().mean().detach()))
        assert (lifts[1] == pytest.approx(lifts[0], rel=1e-6)) is absolute
        assert (lifts[1] == pytest.approx(1e-3 * lifts[0], rel=1e-6)) is not absolute


def test_draws_repeat_with_the_seed():
    K = KernelMap("arccos", bias=0.1)(FeaturesToGram(normal(6, D, seed=2))(X))

    def run(seed: int) -> torch.Tensor:
        layer = GramLayer(6, 1.0, skr_gamma=4.0, seed=seed).double()
        return torch.stack([layer(K).ii, layer(K).ii]).detach()

    assert torch.equal(run(0), run(0))
    assert not torch.allclose(run(0)[0], run(0)[1])
    assert not torch.allclose(run(0), run(1))


def test_a_variance_that_rounding_made_negative_is_lifted_and_counted():
    K = KernelMap("linear")(FeaturesToGram(normal(3, 3, seed=2))(normal(50, 3, seed=3)))
    layer = GramLayer(3, 1.0).double()
    layer.raw.data = torch.diag(torch.full((3,), -30.0, dtype=torch.float64))  # G = 0 and every datapoint is explained
    G = layer(K)
    assert (G.t > 0).all()
    assert layer.clamped > 0
    assert torch.isfinite(G.t.sum())


def test_features_are_scaled_by_what_is_learned():
    Z = normal(4, 3, seed=2)
    block = FeaturesToGram(Z, ard=True)
    block.log_scale.data = torch.tensor([0.0, math.log(2), -50.0], dtype=torch.float64)
    scale = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    G, expected = block(X[:, :3]), FeaturesToGram(Z * scale)(X[:, :3] * scale)
    for a, b in zip(G, expected, strict=True):
        assert torch.allclose(a, b, rtol=1e-12)
    assert {n for n, p in block.named_parameters() if p.requires_grad} == {"Z", "log_scale"}
    assert not [p for p in FeaturesToGram(Z, learn=False).parameters() if p.requires_grad]


def test_copies_and_pickles_after_a_forward():
    net = machine(normal(5, D, seed=2), "arccos", [1.0])
    mean, _ = net(X)
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(X)[0], mean)
    fresh = machine(normal(5, D, seed=2), "arccos", [1.0])
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh(X)[0], mean)


def test_infinite_nu_has_no_parameters():
    layer = GramLayer(3, math.inf)
    K = FeaturesToGram(normal(3, D, seed=2))(X)
    assert layer(K) is K
    assert layer.penalty.item() == 0.0
    assert not list(layer.parameters())


def test_bad_inputs_are_refused():
    with pytest.raises(DatumwiseError, match="a Gram layer with nu -1 and gamma 0"):
        GramLayer(3, -1.0)
    with pytest.raises(DatumwiseError, match="a Gram layer with nu nan"):
        GramLayer(3, math.nan)
    with pytest.raises(UnknownName, match="there is no divergence 'js'"):
        Output(3, 1, "js")
    with pytest.raises(UnknownName, match="there is no variant 'old'"):
        GramNorm(variant="old")
    with pytest.raises(SchemaMismatch, match=r"a Gram matrix of shape \(2, 2\) for 3 inducing points"):
        GramLayer(3, 1.0).set_gram(torch.eye(2))
    with pytest.raises(SchemaMismatch, match="a layer with nu = infinity has no Gram matrix of its own"):
        GramLayer(3, math.inf).set_gram(torch.eye(3))
    with pytest.raises(SchemaMismatch, match=r"a mean of shape \(3,\) and a covariance of shape \(3, 3\)"):
        Output(3, 1).set_posterior(torch.zeros(3), torch.eye(3))
