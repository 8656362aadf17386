"""Claims about convolutional deep kernel machines: blocks against explicit features, and the classifier's contract."""

import copy
import io

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import train_test_split
from torch.nn import functional

from datumwise.errors import DatumwiseError, EmptyData, LabelError, NotFinite, SchemaMismatch, UnknownName
from datumwise.learn.convolutional_deep_kernel_machine import (
    PUBLISHED,
    ConvolutionalDeepKernelMachineClassifier,
    ConvolutionalNetwork,
    _augmented,
    _expected_log_likelihood,
    _log_probability,
    settle_norms,
)
from datumwise.learn.deep_kernel.blocks import GramLayer, GramNorm, KernelMap
from datumwise.learn.deep_kernel.class_output import normal_draws
from datumwise.learn.deep_kernel.convolution import (
    EDGES,
    GlobalMixup,
    MixupConvolution,
    PatchesToGram,
    ResidualBlock,
    SpatialMean,
    ZCAWhitening,
    patches,
)
from datumwise.learn.deep_kernel.structmat import StructMat

F64 = torch.float64


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=rng(seed), dtype=F64)


def linear_block(F, U):
    """Gram block of explicit features: F (T, d, H, W) of pixels, U (P, d) of inducing points."""
    return StructMat(U @ U.T, torch.einsum("tdhw,pd->thwp", F, U), F.square().sum(1))


def neighbour_features(F, k, stride, count_edges):
    """(T, H', W', k^2 d): the features around every pixel side by side, over the root of how many they are."""
    T, d, H, W = F.shape
    r = k // 2
    rows, columns = range(0, H, stride), range(0, W, stride)
    out = torch.zeros(T, len(rows), len(columns), k, k, d, dtype=F64)
    for a, i in enumerate(rows):
        for b, j in enumerate(columns):
            inside = [(u, v) for u in range(k) for v in range(k) if 0 <= i + u - r < H and 0 <= j + v - r < W]
            m = len(inside) if count_edges else k * k
            for u, v in inside:
                out[:, a, b, u, v] = F[:, :, i + u - r, j + v - r] / m**0.5
    return out.flatten(3)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(("k", "shape"), [(3, (4, 5)), (1, (4, 3)), (5, (3, 6)), (3, (1, 1))])
def test_convolution_has_the_gram_matrix_of_convolved_features(k, shape, stride):
    F, U = normal(3, 6, *shape), normal(4, 6, seed=1)
    layer = MixupConvolution(4, 5, k, stride=stride, generator=rng(2)).double()
    out = layer(linear_block(F, U))
    data = neighbour_features(F, k, stride, count_edges=True)
    inducing = torch.einsum("oiuv,id->ouvd", layer.C, U).flatten(1) / k
    assert torch.allclose(out.ii, inducing @ inducing.T)
    assert torch.allclose(out.ti, data @ inducing.T)
    assert torch.allclose(out.t, data.square().sum(-1))


def test_published_edges_keep_variance_that_no_feature_explains():
    F, U = normal(2, 6, 4, 4), normal(4, 6, seed=1)
    layer = MixupConvolution(4, 5, 3, edges="published", generator=rng(2)).double()
    out = layer(linear_block(F, U))
    data = neighbour_features(F, 3, 1, count_edges=False)
    inducing = torch.einsum("oiuv,id->ouvd", layer.C, U).flatten(1) / 3
    assert torch.allclose(out.ti, data @ inducing.T)
    share = data.square().sum(-1) / out.t
    expected = torch.ones(4, 4, dtype=F64)
    expected[[0, -1]] *= 2 / 3
    expected[:, [0, -1]] *= 2 / 3
    assert torch.allclose(share, expected.expand_as(share))  # 4/9 in the corners
    ours = MixupConvolution(4, 5, 3, generator=rng(2)).double()(linear_block(F, U))
    assert torch.equal(ours.ti[:, 1:-1, 1:-1], out.ti[:, 1:-1, 1:-1])
    assert torch.equal(ours.t, out.t)


@pytest.mark.parametrize("stride", [1, 2])
def test_patches_have_the_gram_matrix_of_patches(stride):
    X, Z = normal(2, 3, 5, 4), normal(6, 3, 3, 3, seed=1)
    out = PatchesToGram(Z, stride=stride)(X)
    data = neighbour_features(X, 3, stride, count_edges=True) / 3**0.5
    flat = Z.permute(0, 2, 3, 1).flatten(1)
    assert torch.allclose(out.ii, flat @ flat.T / 27)
    assert torch.allclose(out.ti, data @ flat.T / 27**0.5 * 3**0.5 / 3**0.5)
    assert torch.allclose(out.t, data.square().sum(-1))


def test_global_mixup_has_the_gram_matrix_of_all_pixels_side_by_side():
    F, U = normal(3, 6, 2, 3), normal(4, 6, seed=1)
    layer = GlobalMixup(4, 5, (2, 3), generator=rng(2)).double()
    out = layer(linear_block(F, U))
    data = F.permute(0, 2, 3, 1).flatten(1) / 6**0.5
    inducing = torch.einsum("poi,id->opd", layer.C, U).flatten(1) / 6**0.5
    for found, wanted in zip(out, (inducing @ inducing.T, data @ inducing.T, data.square().sum(-1)), strict=True):
        assert torch.allclose(found, wanted)


def test_spatial_mean_has_the_mean_features_covariance_and_at_least_their_variance():
    F, U = normal(3, 6, 2, 3), normal(4, 6, seed=1)
    out = SpatialMean()(linear_block(F, U))
    assert torch.allclose(out.ti, F.mean((2, 3)) @ U.T)
    assert bool((out.t >= F.mean((2, 3)).square().sum(1)).all())
    assert torch.allclose(out.t, F.square().sum(1).mean((1, 2)))


def test_residual_block_is_a_convex_combination_with_learned_weights():
    mat = linear_block(normal(2, 6, 3, 3), normal(4, 6, seed=1))
    branch = MixupConvolution(4, 4, generator=rng()).double()
    block = ResidualBlock(branch).double()
    for a, b, c in zip(block(mat), mat, branch(mat), strict=True):
        assert torch.allclose(a, 0.5 * b + 0.5 * c)
    block.logits.data = torch.tensor([np.log(3.0), 0.0], dtype=F64)
    assert torch.allclose(block(mat).t, 0.75 * mat.t + 0.25 * branch(mat).t)


def joint(mat):
    """All of [ii it; ti diag(t)] that a pixel and the inducing points make: (T H W, P + 1, P + 1)."""
    P = len(mat.ii)
    rows = mat.ti.reshape(-1, P)
    full = torch.zeros(len(rows), P + 1, P + 1, dtype=F64)
    full[:, :P, :P] = mat.ii
    full[:, P, :P] = full[:, :P, P] = rows
    full[:, P, P] = mat.t.reshape(-1)
    return full


@pytest.mark.parametrize("edges", EDGES)
@pytest.mark.parametrize("kernel", ["gaussian", "arccos", "sqexp", "heaviside", "linear"])
def test_every_pixel_with_the_inducing_points_is_positive_semidefinite_after_every_block(edges, kernel):
    mat = PatchesToGram(normal(6, 2, 3, 3, seed=1), edges=edges)(normal(3, 2, 5, 5))
    gram = GramLayer(6, 1.0).double()
    gram.raw.data = 0.3 * normal(6, 6, seed=4)
    chain = [KernelMap(kernel, bias=0.1), MixupConvolution(6, 6, stride=2, edges=edges, generator=rng(3)).double(), gram]
    chain += [GramNorm().double(), KernelMap(kernel), GlobalMixup(6, 4, (3, 3), generator=rng(5)).double()]
    for block in chain:
        mat = block(mat)
        values = torch.linalg.eigvalsh(joint(mat))
        assert values.min() > -1e-10 * values.max(), type(block).__name__


def test_inducing_points_can_be_permuted():
    mat = linear_block(normal(2, 6, 4, 4), normal(4, 6, seed=1))
    order = torch.tensor([2, 0, 3, 1])
    shuffled = StructMat(mat.ii[order][:, order], mat.ti[..., order], mat.t)
    layer = MixupConvolution(4, 5, generator=rng(2)).double()
    moved = copy.deepcopy(layer)
    moved.weight.data = layer.weight.data[:, order]
    for a, b in zip(layer(mat), moved(shuffled), strict=True):
        assert torch.allclose(a, b)


def test_a_shifted_image_gives_shifted_maps_away_from_the_edges():
    X = normal(1, 1, 12, 12)
    blocks = [PatchesToGram(normal(5, 1, 3, 3, seed=1)), KernelMap("gaussian", bias=0.1)]
    blocks += [MixupConvolution(5, 5, generator=rng(2)).double(), GramLayer(5, 1.0).double()]
    network = torch.nn.Sequential(*blocks)
    one, two = network(X), network(X.roll((2, 1), (2, 3)))
    for a, b in ((one.ti, two.ti), (one.t, two.t)):
        assert torch.allclose(a[:, 2:8, 2:8], b[:, 4:10, 3:9])


def test_gradients_agree_with_finite_differences():
    mat = linear_block(normal(1, 4, 3, 3), normal(3, 4, seed=1))
    inputs = [part.detach().requires_grad_() for part in mat]
    for layer in (
        MixupConvolution(3, 2, stride=2, generator=rng()).double(),
        GlobalMixup(3, 2, (3, 3), generator=rng()).double(),
        ResidualBlock(MixupConvolution(3, 3, generator=rng()).double()).double(),
    ):
        weights = dict(layer.named_parameters())

        def outcome(*parts, layer=layer, names=tuple(weights)):
            values = dict(zip(names, parts[3:], strict=True))
            return tuple(torch.func.functional_call(layer, values, (StructMat(*parts[:3]),)))

        assert torch.autograd.gradcheck(outcome, [*inputs, *weights.values()])
    X, Z = normal(1, 1, 3, 4).requires_grad_(), normal(2, 1, 3, 3, seed=1)
    first = PatchesToGram(Z)
    assert torch.autograd.gradcheck(lambda X, Z: tuple(torch.func.functional_call(first, {"Z": Z}, (X,))), [X, first.Z])


@pytest.mark.parametrize(("stride", "place"), [(1, (0, 0)), (1, (2, 3)), (2, (1, 2)), (2, (2, 0))])
def test_placed_inducing_points_are_the_pixels_they_were_placed_on(stride, place):
    F = normal(3, 4, 5, 6)
    U = normal(4, 4, seed=1)  # as many inducing points as features: they tell every pixel
    mat = linear_block(F, U)
    layer = MixupConvolution(4, 2, stride=stride).double()
    image, row, column = torch.tensor([1, 2]), torch.tensor([place[0]] * 2), torch.tensor([place[1]] * 2)
    layer.place(mat, image, row, column)
    out = layer(mat)
    own = torch.stack([out.ti[i, r, c] for i, r, c in zip(image, row, column, strict=True)])
    assert torch.allclose(own, out.ii, rtol=1e-4, atol=1e-4)
    assert torch.allclose(out.ii.diagonal(), out.t[image, row, column], rtol=1e-4)
    whole = GlobalMixup(4, 2, (5, 6)).double()
    whole.place(mat, image)
    assert torch.allclose(whole(mat).ti[image], whole(mat).ii, rtol=1e-4, atol=1e-4)


def test_zca_whitens_as_the_formula_says_and_keeps_constant_pixels_finite():
    X = normal(500, 2, 2, 3).cumsum(3)
    X[:, :, 0, 0] = 7.0
    white = ZCAWhitening(X, epsilon=0.1)(X)
    mean, scale = X.mean((0, 2, 3), keepdim=True), X.std((0, 2, 3), correction=0, keepdim=True)
    flat = ((X - mean) / scale).flatten(1)
    values, V = np.linalg.eigh((flat.T @ flat / 500).numpy())
    rotated = flat.numpy() @ (V @ np.diag((values + 0.1 * values.mean()) ** -0.5) @ V.T)
    rotated = rotated.reshape(X.shape)
    rotated = (rotated - rotated.mean((0, 2, 3), keepdims=True)) / rotated.std((0, 2, 3), keepdims=True)
    assert np.allclose(white.numpy(), rotated)
    assert np.isfinite(ZCAWhitening(torch.full((4, 1, 3, 3), 2.0))(torch.full((2, 1, 3, 3), 2.0)).numpy()).all()
    standard = ZCAWhitening(X, pixels=False)(X)
    assert torch.allclose(standard, (X - mean) / scale)


def test_patches_are_cut_from_images():
    X = torch.arange(2 * 1 * 5 * 6, dtype=F64).reshape(2, 1, 5, 6)
    found = patches(X, 50, 3, generator=rng())
    every = functional.unfold(X, 3).permute(0, 2, 1).reshape(-1, 9)
    assert found.shape == (50, 1, 3, 3)
    assert all((every == patch.flatten()).all(1).any() for patch in found)
    assert len(found.flatten(1).unique(dim=0)) > 10
    with pytest.raises(SchemaMismatch, match="images of 2 x 6 pixels are smaller than a patch of 3 x 3"):
        patches(X[:, :, :2], 1, 3, generator=rng())


def test_cropping_shifts_by_whole_pixels_and_flipping_mirrors():
    X = torch.arange(1.0, 200 * 14 * 14 + 1).reshape(200, 1, 14, 14)
    moved = _augmented(X, "crop", rng())
    for before, after in zip(X[:20, 0], moved[:20, 0], strict=True):
        shifts = [functional.pad(before, (2,) * 4)[i : i + 14, j : j + 14] for i in range(5) for j in range(5)]
        assert any(torch.equal(after, shift) for shift in shifts)
    flipped = _augmented(X, "crop-flip", rng())
    descending = flipped[:, 0, 7, 6] > flipped[:, 0, 7, 7]
    assert 70 < int(descending.sum()) < 130


def test_expected_log_likelihood_and_probability_agree_with_quadrature():
    mean, variance, y = normal(1, 2), torch.tensor([2.5], dtype=F64), torch.tensor([1])
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / weights.sum()
    margin = (mean[0, 1] - mean[0, 0]).item() + np.sqrt(5.0) * nodes
    assert _expected_log_likelihood((mean, variance), y, 40_000, rng()).item() == pytest.approx(
        -weights @ np.log1p(np.exp(-margin)), abs=0.01
    )
    found = _log_probability(mean, variance, normal_draws(512, 2, 0)).exp()
    assert found[0, 1].item() == pytest.approx(weights @ (1 / (1 + np.exp(-margin))), abs=0.005)


SMALL = {"n_inducing": (8, 12), "epochs": 3, "batch_size": 30, "random_state": 0}


def toy(n=60, shape=(6, 6), seed=0):
    draws = np.random.default_rng(seed)
    y = np.arange(n) % 3
    X = draws.normal(size=(n, *shape))
    X[y == 1, ..., 2:4] += 2
    X[y == 2, ..., 2:4, :] += 2
    return X, y


@pytest.fixture(scope="module")
def fitted():
    X, y = toy()
    return ConvolutionalDeepKernelMachineClassifier(**SMALL).fit(X, np.array(["a", "b", "c"])[y]), X, y


def test_a_prediction_does_not_depend_on_its_batch_mates(fitted):
    model, X, _ = fitted
    whole = model.predict_proba(X)
    alone = np.concatenate([model.predict_proba(X[i : i + 1]) for i in range(10)])
    assert np.allclose(whole[:10], alone, atol=1e-5)
    strange = np.concatenate([X[:1], 100 * X[1:30]])
    assert np.allclose(model.predict_proba(strange)[0], whole[0], atol=1e-5)
    assert np.allclose(model.latent(X[::-1])[1][::-1], model.latent(X)[1], atol=1e-5)


def test_published_norms_would_depend_on_batch_mates(fitted):
    model, X, _ = fitted
    copied = copy.deepcopy(model)
    for module in copied.network_.modules():
        if isinstance(module, GramNorm):
            module.variant = "published"
    strange = np.concatenate([X[:1], 100 * X[1:30]])
    assert np.abs(copied.predict_proba(strange)[0] - copied.predict_proba(X[:1])[0]).max() > 1e-3


def test_settled_norms_hold_the_mean_over_the_training_images(fitted):
    model, X, _ = fitted
    network = copy.deepcopy(model.network_)
    norm = next(module for module in network.modules() if isinstance(module, GramNorm))
    seen = []
    norm.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].t.mean().item()))
    settle_norms(network, torch.from_numpy(X[:, None]).float().split(4))
    assert norm.running.item() == pytest.approx(np.mean(seen), rel=1e-5)
    assert len(seen) == 15
    assert not norm.training
    assert norm.momentum == GramNorm().momentum


def test_norms_settle_and_predictions_are_made_without_the_noise_of_training():
    X, y = toy()
    model = ConvolutionalDeepKernelMachineClassifier(**SMALL | {"skr_gamma": 4}).fit(X, y)
    assert np.array_equal(model.predict_proba(X), model.predict_proba(X))
    network = model.network_.train()
    norms = [module for module in network.modules() if isinstance(module, GramNorm)]
    found = []
    for _ in range(2):
        settle_norms(network, torch.from_numpy(X[:, None]).float().split(30))
        found.append([norm.running.item() for norm in norms])
        network.train()
    assert found[0] == found[1]


def test_the_same_seed_gives_the_same_model_and_another_does_not():
    X, y = toy()
    one, two, other = (
        ConvolutionalDeepKernelMachineClassifier(**SMALL | {"random_state": seed, "skr_gamma": 4, "augment": "crop"}).fit(X, y)
        for seed in (0, 0, 1)
    )
    state = torch.get_rng_state()
    assert np.array_equal(one.predict_proba(X), two.predict_proba(X))
    assert not np.allclose(one.predict_proba(X), other.predict_proba(X))
    assert torch.equal(state, torch.get_rng_state())


def test_all_layouts_of_images_give_the_same_model():
    X, y = toy()
    one = ConvolutionalDeepKernelMachineClassifier(**SMALL).fit(X, y)
    two = ConvolutionalDeepKernelMachineClassifier(**SMALL).fit(X[:, None], y)
    rows = ConvolutionalDeepKernelMachineClassifier(**SMALL, image_shape=(6, 6)).fit(X.reshape(60, 36), y)
    tensors = ConvolutionalDeepKernelMachineClassifier(**SMALL).fit(torch.from_numpy(X), torch.from_numpy(y))
    for other in (two, tensors):
        assert np.array_equal(one.predict_proba(X), other.predict_proba(X))
    assert np.array_equal(one.predict_proba(X), rows.predict_proba(X.reshape(60, 36)))


def test_it_is_a_scikit_learn_estimator(fitted):
    model, X, y = fitted
    proba = model.predict_proba(X)
    assert np.allclose(proba.sum(1), 1, atol=1e-6)
    assert set(model.predict(X)) <= {"a", "b", "c"} == set(model.classes_)
    assert model.decision_function(X).shape == (60, 3)
    assert clone(model).get_params() == model.get_params()
    for ask in ("predict", "predict_proba", "decision_function", "latent", "gram", "neighbours"):
        with pytest.raises(NotFittedError):
            getattr(clone(model), ask)(X)
    two = ConvolutionalDeepKernelMachineClassifier(**SMALL).fit(X[y < 2], y[y < 2])
    assert two.decision_function(X).shape == (60,)
    assert np.mean((two.decision_function(X) > 0) == (two.predict(X) == 1)) > 0.9


def test_a_saved_model_predicts_the_same(fitted):
    model, X, _ = fitted
    stored = io.BytesIO()
    joblib.dump(model, stored)
    stored.seek(0)
    loaded = joblib.load(stored)
    assert np.array_equal(loaded.predict_proba(X), model.predict_proba(X))
    assert np.array_equal(loaded.neighbours(X[:3])[0], model.neighbours(X[:3])[0])


def test_learned_similarity_is_positive_semidefinite_and_finds_the_image_itself(fitted):
    model, X, _ = fitted
    for layer in range(-1, model.network_.depth):
        G = model.gram(X[:20], layer=layer)
        assert np.allclose(G, G.T, atol=1e-4)
        assert np.linalg.eigvalsh(G).min() > -1e-4 * np.abs(G).max()
        assert np.allclose(model.gram(X[:20], X[5:9], layer=layer), G[:, 5:9], atol=1e-4)
    ids, similarity = model.neighbours(X[:10], k=3)
    assert ids[:, 0].tolist() == list(range(10))
    assert np.allclose(similarity[:, 0], 1, atol=1e-3)
    assert (np.diff(similarity, axis=1) <= 0).all()


def test_neighbours_speak_of_the_ids_given():
    X, y = toy(30)
    names = [f"image {i}" for i in range(30)]
    model = ConvolutionalDeepKernelMachineClassifier(**SMALL).fit(X, y, ids=names)
    assert model.neighbours(X[3:5], k=1)[0].ravel().tolist() == ["image 3", "image 4"]


def test_progress_history_and_objective_are_told():
    X, y = toy()
    told = []
    model = ConvolutionalDeepKernelMachineClassifier(**SMALL).fit(X, y, progress=lambda *pair: told.append(pair))
    assert told == [(i, 6) for i in range(1, 7)]
    assert model.n_iter_ == 6
    assert model.n_skipped_ == 0
    history = model.history_
    assert np.allclose(history["objective"], np.subtract(history["log_likelihood"], history["penalty"]))
    assert len(model.kl_per_layer_) == 5
    proba = model.predict_proba(X)
    log_p = np.log(proba[np.arange(60), y]).mean()
    penalty = model.nu * model.kl_per_layer_.sum() + float(model.network_.output.penalty)
    assert model.elbo_ == pytest.approx(log_p - penalty / 60, abs=1e-4)


def test_infinite_nu_learns_no_gram_matrix_and_nu_weighs_the_penalty():
    X, y = toy()
    pinned = ConvolutionalDeepKernelMachineClassifier(**SMALL, nu=np.inf).fit(X, y)
    assert pinned.kl_per_layer_.tolist() == [0.0] * 5
    loose, tight = (ConvolutionalDeepKernelMachineClassifier(**SMALL, nu=nu).fit(X, y) for nu in (0.1, 100.0))
    assert tight.kl_per_layer_.sum() < 0.2 * loose.kl_per_layer_.sum()
    free = ConvolutionalDeepKernelMachineClassifier(**SMALL, nu=0.0).fit(X, y)
    assert np.isnan(free.kl_per_layer_).all()
    assert np.isfinite(free.elbo_)


def test_the_published_recipe_runs_on_a_small_scale():
    X, y = toy(shape=(3, 8, 8))
    options = PUBLISHED | {
        "n_inducing": (6, 8, 10),
        "blocks": 2,
        "epochs": 2,
        "milestones": (1,),
        "batch_size": 30,
        "n_samples": 8,
    }
    model = ConvolutionalDeepKernelMachineClassifier(**options, random_state=0).fit(X, y)
    assert model.network_.depth == 2 + 3 * 2
    assert len(model.kl_per_layer_) == 1 + 2 * 3 * 2
    assert np.isfinite(model.predict_proba(X)).all()
    convolutions = [m for m in model.network_.modules() if isinstance(m, MixupConvolution) and m.kernel_size == 3]
    assert 1 + 2 * PUBLISHED["blocks"] * len(PUBLISHED["n_inducing"]) == 19  # and the output: 20 layers
    assert len(convolutions) == 13
    assert {m.edges for m in convolutions} == {"published"}
    assert model._rate(0, 0.0) == 1
    assert model._rate(1, 0.5) == pytest.approx(0.1)


@pytest.mark.parametrize("pooling", ["mean", "mixup"])
@pytest.mark.parametrize("shape", [(3, 3), (5, 9), (2, 17, 16)])
def test_odd_shapes_and_both_poolings_work(pooling, shape):
    X, y = toy(24, shape)
    model = ConvolutionalDeepKernelMachineClassifier(**SMALL | {"epochs": 1, "pooling": pooling, "dtype": "float64"}).fit(X, y)
    assert model.predict_proba(X).dtype == np.float64
    assert np.isfinite(model.predict_proba(X)).all()


def test_nothing_raises_on_degenerate_images():
    y = np.arange(12) % 2
    for X in (
        np.zeros((12, 5, 5)),
        np.repeat(np.arange(2.0), 6)[:, None, None] * np.ones((12, 5, 5)),
        np.eye(12)[:, :9].reshape(12, 3, 3),
    ):
        model = ConvolutionalDeepKernelMachineClassifier(**SMALL | {"epochs": 2}).fit(X, y)
        assert np.isfinite(model.predict_proba(X)).all()


@pytest.mark.slow
def test_digits_are_told_apart_in_fifty_steps():
    X, y = load_digits(return_X_y=True)
    train, test, y_train, y_test = train_test_split(X, y, train_size=800, random_state=0, stratify=y)
    model = ConvolutionalDeepKernelMachineClassifier(image_shape=(8, 8), epochs=4, random_state=0).fit(train, y_train)
    proba = model.predict_proba(test)
    assert (proba.argmax(1) == y_test).mean() > 0.94
    assert np.log(proba[np.arange(len(test)), y_test]).mean() > -0.25
    assert (y_train[model.neighbours(test, 1)[0][:, 0]] == y_test).mean() > 0.95
    # an image of noise is unlike anything learned
    noise = np.random.default_rng(0).uniform(0, 16, size=(50, 64))
    assert np.median(model.latent(noise)[1]) > np.median(model.latent(test)[1])


BAD_IMAGES = [
    (lambda X: X + np.where(np.arange(60) % 20 == 7, np.nan, 0)[:, None, None], NotFinite, "NaN or infinity at rows 7, 27, 47"),
    (lambda X: X.reshape(60, 36), SchemaMismatch, "rows of 36 numbers do not say how wide an image is"),
    (lambda X: X.reshape(-1), SchemaMismatch, r"images must be \(n, height, width\)"),
    (lambda X: X.astype(str), SchemaMismatch, "images must be numbers"),
    (lambda X: X[:0], EmptyData, "there are no images"),
    (lambda X: X[:1], EmptyData, "1 images are too few"),
    (lambda X: X[:, :2], SchemaMismatch, "images of 2 x 6 pixels are smaller than a patch of 3 x 3"),
    (lambda X: X[:50], SchemaMismatch, r"y must have one label an image, \(50,\), not \(60,\)"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "error", "sentence"), BAD_IMAGES)
def test_bad_images_are_refused(spoil, error, sentence):
    X, y = toy()
    with pytest.raises(error, match=sentence):
        ConvolutionalDeepKernelMachineClassifier(**SMALL).fit(spoil(X), y)


BAD_OPTIONS = [
    ({"nu": -1.0}, DatumwiseError, "nu must be 0 or more, not -1"),
    ({"nu": float("nan")}, DatumwiseError, "nu must be 0 or more, not nan"),
    ({"epochs": 0}, DatumwiseError, "epochs must be 1 or more, not 0"),
    ({"lr": 0.0}, DatumwiseError, "lr must be positive, not 0"),
    ({"skr_gamma": -1}, DatumwiseError, "skr_gamma must be 0 or more, not -1"),
    ({"kernel": "rbf"}, UnknownName, "there is no kernel 'rbf'"),
    ({"kl": "reverse"}, UnknownName, "there is no divergence 'reverse'"),
    ({"edges": "wrap"}, UnknownName, "there are no edges 'wrap'"),
    ({"whiten": "pca"}, UnknownName, "there is no whiten 'pca': choose one of zca, standard"),
    ({"dtype": "float16"}, UnknownName, "there is no dtype 'float16'"),
    ({"filter_size": 4}, DatumwiseError, "the size of a filter must be odd, not 4"),
    ({"strides": (2,)}, SchemaMismatch, "1 strides for 2 stages of n_inducing"),
    ({"strides": 0}, DatumwiseError, "a stride must be 1 or more"),
    ({"n_inducing": ()}, DatumwiseError, "n_inducing must be positive numbers, one a stage"),
    ({"zca_epsilon": 0.0}, DatumwiseError, "epsilon must be positive, not 0"),
]


@pytest.mark.parametrize(("options", "error", "sentence"), BAD_OPTIONS)
def test_bad_options_are_refused(options, error, sentence):
    X, y = toy()
    with pytest.raises(error, match=sentence):
        ConvolutionalDeepKernelMachineClassifier(**SMALL | options).fit(X, y)


def test_other_bad_requests_are_refused(fitted):
    model, X, y = fitted
    with pytest.raises(LabelError, match="all labels are the same class"):
        ConvolutionalDeepKernelMachineClassifier(**SMALL).fit(X, np.zeros(60))
    with pytest.raises(SchemaMismatch, match="2 ids for 60 images"):
        ConvolutionalDeepKernelMachineClassifier(**SMALL).fit(X, y, ids=[1, 2])
    with pytest.raises(SchemaMismatch, match="rows of 36 numbers are no images of shape"):
        ConvolutionalDeepKernelMachineClassifier(**SMALL, image_shape=(5, 7)).fit(X.reshape(60, 36), y)
    with pytest.raises(SchemaMismatch, match=r"images have shape \(1, 5, 6\)"):
        model.predict(X[:, :5])
    with pytest.raises(UnknownName, match="there is no layer 9"):
        model.gram(X, layer=9)
    with pytest.raises(DatumwiseError, match="k must lie between 1 and the 60 training images, not 61"):
        model.neighbours(X, 61)
    with pytest.raises(SchemaMismatch, match="ZCA whitening of 5,000 numbers an image"):
        ConvolutionalDeepKernelMachineClassifier(**SMALL).fit(np.zeros((4, 50, 100)), [0, 1, 0, 1])
    without = ConvolutionalDeepKernelMachineClassifier(**SMALL | {"epochs": 1, "keep_train": False}).fit(X, y)
    with pytest.raises(DatumwiseError, match="the training images were not kept"):
        without.neighbours(X)


def test_a_step_without_a_finite_gradient_is_left_out_and_told(monkeypatch):
    X, y = toy()
    calls = []

    def sometimes(network):
        calls.append(1)
        return len(calls) != 2

    monkeypatch.setattr("datumwise.learn.convolutional_deep_kernel_machine._finite_gradients", sometimes)
    with pytest.warns(RuntimeWarning, match="1 of 6 steps had a gradient that was not finite"):
        model = ConvolutionalDeepKernelMachineClassifier(**SMALL).fit(X, y)
    assert model.n_skipped_ == 1


def test_the_network_can_be_used_without_the_estimator():
    X = normal(4, 1, 6, 6).float()
    network = ConvolutionalNetwork(
        torch.nn.Identity(), patches(X, 5, 3, generator=rng()), 2, (5,), blocks=1, strides=(2,), patch_stride=1,
        kernel="gaussian", nu=1.0, kl="exact", variant=None, skr_gamma=0, tempering=False, edges="neighbours",
        pooling="mean", image_shape=(6, 6), generator=rng(),
    )  # fmt: skip
    mean, variance = network(X)
    assert mean.abs().max() == 0  # the prior
    assert bool((variance > 0).all())
    assert network.penalty.item() == pytest.approx(0, abs=1e-5)
    assert network.maps(X, 1).ti.shape == (4, 6, 6, 5)
