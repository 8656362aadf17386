"""Kernels of a Gram matrix against Monte Carlo, closed forms and finite differences; what the published kernels did is kept."""

import math
import warnings

import pytest
import torch

from datumwise.errors import DatumwiseError, NotFinite, UnknownName
from datumwise.learn.deep_kernel.cholesky import default_jitter, guarded_cholesky, lower_factor, raw_factor
from datumwise.learn.deep_kernel.kernels import KERNELS, KernelMap, kernel_cross, kernel_diagonal, kernel_square
from datumwise.learn.deep_kernel.structmat import StructMat

NORMALISED = ("arccos", "gaussian", "heaviside")


def gram(P: int, D: int = 7, seed: int = 0) -> torch.Tensor:
    X = torch.randn(P, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return X @ X.T / D


def blocks(P: int = 4, T: int = 6, seed: int = 0) -> StructMat:
    G = gram(P + T, seed=seed)
    return StructMat(G[:P, :P], G[P:, :P], G.diagonal()[P:])


def test_arccos_is_twice_the_expected_product_of_relus():
    G = torch.tensor([[1.3, -0.4], [-0.4, 0.7]], dtype=torch.float64)
    draws = torch.randn(1_000_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    u = (draws @ torch.linalg.cholesky(G).T).relu()
    for i, j in ((0, 1), (0, 0), (1, 1)):
        products = 2 * u[:, i] * u[:, j]
        assert abs(products.mean() - kernel_square("arccos", G)[i, j]) < 3 * products.std() / 1_000


def test_heaviside_is_a_scaled_probability_that_both_are_positive():
    G = torch.tensor([[1.3, -0.4], [-0.4, 0.7]], dtype=torch.float64)
    draws = torch.randn(1_000_000, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    both = ((draws @ torch.linalg.cholesky(G).T) > 0).all(1).double()
    scale = 2 * math.sqrt(1.3 * 0.7)
    assert abs(scale * both.mean() - kernel_square("heaviside", G)[0, 1]) < 3 * scale * both.std() / 1_000


def test_gaussian_and_sqexp_are_their_formulas():
    G = gram(5)
    d = G.diagonal()
    n = (d[:, None] * d).sqrt()
    off = ~torch.eye(5, dtype=torch.bool)
    assert torch.allclose(kernel_square("gaussian", G)[off], (n * torch.exp(G / n - 1))[off], rtol=1e-13)
    distance = d[:, None] + d - 2 * G
    assert torch.allclose(kernel_square("sqexp", G), torch.exp(-distance / 2), rtol=1e-13)
    assert kernel_square("linear", G) is G


@pytest.mark.parametrize("name", KERNELS)
def test_the_diagonal_is_exact(name):
    G = gram(6)
    expected = torch.ones(6, dtype=torch.float64) if name == "sqexp" else G.diagonal()
    assert torch.equal(kernel_square(name, G).diagonal(), expected)
    assert torch.equal(kernel_diagonal(name, G.diagonal()), expected)


@pytest.mark.parametrize("name", KERNELS)
def test_square_and_cross_blocks_are_of_one_matrix(name):
    G = gram(10, 12)
    d = G.diagonal()
    whole = kernel_square(name, G)
    assert torch.allclose(kernel_cross(name, G[4:, :4], d[4:], d[:4]), whole[4:, :4], rtol=1e-13)
    assert torch.allclose(whole, whole.T, rtol=1e-14)
    assert torch.linalg.eigvalsh(whole).min() > 0


@pytest.mark.parametrize("name", KERNELS)
def test_leading_axes_are_datapoints_and_pixels(name):
    G = blocks(4, 6)
    image = kernel_cross(name, G.ti.view(2, 3, 4), G.t.view(2, 3), G.ii.diagonal())
    assert torch.equal(image.view(6, 4), kernel_cross(name, G.ti, G.t, G.ii.diagonal()))
    batch = torch.stack([gram(4), gram(4, seed=1)])
    assert torch.equal(kernel_square(name, batch)[1], kernel_square(name, batch[1]))


@pytest.mark.parametrize("name", KERNELS)
def test_gradients_equal_finite_differences(name):
    G = blocks()
    X = torch.randn(5, 7, generator=torch.Generator().manual_seed(2), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: kernel_square(name, x @ x.T / 7), X)
    leaves = [v.clone().requires_grad_() for v in (G.ti, G.t, G.ii.diagonal())]
    assert torch.autograd.gradcheck(lambda *g: kernel_cross(name, *g), leaves)


@pytest.mark.parametrize("name", NORMALISED)
def test_forward_derivative_equals_finite_differences(name):
    G, E = gram(5), gram(5, seed=3)
    with torch.autograd.forward_ad.dual_level():
        dual = kernel_square(name, torch.autograd.forward_ad.make_dual(G, E))
        slope = torch.autograd.forward_ad.unpack_dual(dual).tangent
    h = 1e-6
    assert torch.allclose(slope, (kernel_square(name, G + h * E) - kernel_square(name, G - h * E)) / (2 * h), atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", KERNELS)
def test_equal_rows_have_finite_values_and_gradients(name, dtype):
    Z = torch.tensor([[0.3, 0.7, -0.1], [0.3, 0.7, -0.1], [-0.6, -1.4, 0.2], [0.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    k_ii = kernel_square(name, Z @ Z.T / 3)
    k_ti = kernel_cross(name, Z[:2] @ Z.T / 3, Z[:2].square().sum(1) / 3, Z.square().sum(1) / 3)
    (k_ii.sum() + k_ti.sum()).backward()
    assert torch.isfinite(k_ii).all()
    assert torch.isfinite(k_ti).all()
    assert torch.isfinite(Z.grad).all()


def test_gradient_of_arccos_at_equal_rows_is_the_true_one():
    # k(x, z) is differentiable there: d/dx k(x, z) = z at x = z when k = x . z near the diagonal to first order
    z = torch.tensor([[0.5, -0.25]], dtype=torch.float64)
    x = z.clone().requires_grad_()
    kernel_cross("arccos", x @ z.T, x.square().sum(1), z.square().sum(1)).sum().backward()
    assert torch.allclose(x.grad, z, atol=1e-7)


def test_affine_map_and_jitter_sit_where_they_should():
    G = blocks()
    kernel = KernelMap("arccos", weight=2.0, bias=0.5, jitter=1e-3)
    K = kernel(G)
    d = G.ii.diagonal()
    bare = 2 * kernel_square("arccos", G.ii) + 0.5
    assert torch.allclose(K.ii, bare + 1e-3 * bare.diagonal().mean() * torch.eye(4))
    assert torch.allclose(K.ti, 2 * kernel_cross("arccos", G.ti, G.t, d) + 0.5)
    assert torch.allclose(K.t, 2 * G.t + 0.5)
    assert {name for name, _ in kernel.named_parameters()} == {"log_weight", "log_bias"}
    fixed = KernelMap("arccos", weight=2.0, bias=0.5, learn=False)
    assert not list(fixed.parameters())
    assert torch.allclose(fixed(G).t, K.t)
    assert {name for name, _ in KernelMap("sqexp").named_parameters()} == {"log_weight"}


@pytest.mark.parametrize("name", ["arccos", "heaviside"])
def test_published_jitter_is_in_the_denominator_alone(name):
    G, e = blocks(), 1e-4
    K = KernelMap(name, bias=0.1, variant="published")(G)
    d, t = G.ii.diagonal() * (1 + e) + e, G.t * (1 + e) + e
    n = (t[:, None] * d).sqrt()
    th = torch.acos(G.ti / n)
    f = (th.sin() + (math.pi - th) * th.cos()) / math.pi if name == "arccos" else 1 - th / math.pi
    assert torch.allclose(K.ti, n * f + 0.1, rtol=1e-12)
    assert torch.allclose(K.t, (G.t + 0.1) * (1 + e) + e)
    inner = d if name == "arccos" else d * (1 - torch.acos(G.ii.diagonal() / d) / math.pi)
    assert torch.allclose(K.ii.diagonal(), (inner + 0.1) * (1 + e) + e, rtol=1e-12)


@pytest.mark.parametrize("name", ["gaussian", "sqexp"])
def test_published_jitter_of_the_other_kernels_is_on_the_diagonal_alone(name):
    G, e = blocks(), 1e-4
    K, ours = KernelMap(name, bias=0.1, variant="published")(G), KernelMap(name, bias=0.1)(G)
    assert torch.equal(K.ti, ours.ti)
    assert torch.allclose(K.ii - torch.diag(K.ii.diagonal()), ours.ii - torch.diag(ours.ii.diagonal()))
    assert torch.allclose(K.ii.diagonal(), ours.ii.diagonal() * (1 + e) + e)


def test_the_published_cross_block_of_a_point_with_itself_is_not_its_diagonal():
    # ours is: a datapoint that is also an inducing point is reproduced exactly
    G = gram(3)
    same = StructMat(G, G, G.diagonal())
    ours, theirs = KernelMap("arccos")(same), KernelMap("arccos", variant="published")(same)
    assert torch.allclose(ours.ti, ours.ii, rtol=1e-12)
    assert (theirs.ti - theirs.ii).abs().max() > 1e-5


def test_singular_matrices_are_factored_with_a_warning():
    row = torch.randn(1, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    K = row.T @ row
    with pytest.warns(RuntimeWarning, match="jitter was raised from 0 to"):
        L = guarded_cholesky(K)
    assert torch.allclose(L @ L.T, K, atol=1e-2 * float(K.diagonal().mean()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        asked = guarded_cholesky(K, jitter=1e-3)
    assert torch.allclose(asked @ asked.T, K + 1e-3 * K.diagonal().mean() * torch.eye(4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_factors_of_a_thousand_ill_conditioned_problems_never_fail(dtype):
    generator = torch.Generator().manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for number in range(1_000):
            n, d = 2 + number % 9, 1 + number % 3
            X = torch.randn(n, d, generator=generator, dtype=dtype) * 10.0 ** (number % 7 - 3)
            X[n // 2 :] = X[: n - n // 2].clone()  # duplicates
            kernel = KernelMap(KERNELS[number % 5], bias=0.1 * (number % 2), jitter=default_jitter(dtype))
            assert torch.isfinite(guarded_cholesky(kernel.square(X @ X.T / d))).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_default_jitter_is_enough_for_a_hundred_duplicates(dtype):
    row = torch.randn(5, 3, generator=torch.Generator().manual_seed(0), dtype=dtype).repeat(20, 1)
    kernel = KernelMap("arccos", bias=0.1, jitter=default_jitter(dtype))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        L = guarded_cholesky(kernel.square(row @ row.T / 3))
    assert L.diagonal().min() > 0


def test_hopeless_matrices_are_refused():
    with pytest.raises(NotFinite, match="a kernel matrix contains NaN or infinity"):
        guarded_cholesky(torch.full((2, 2), math.nan))
    with pytest.raises(NotFinite, match=r"not positive definite, even with 0\.01"):
        guarded_cholesky(-torch.eye(2))


def test_gradient_passes_through_added_jitter():
    K = gram(4).requires_grad_()
    assert torch.autograd.gradcheck(lambda k: guarded_cholesky(0.5 * (k + k.T), jitter=0.1), K)


def test_raw_numbers_and_factors_are_inverse():
    raw = torch.randn(5, 5, generator=torch.Generator().manual_seed(0)).tril()
    assert torch.allclose(raw_factor(lower_factor(raw)), raw, atol=1e-6)
    assert (lower_factor(raw).diagonal() > 0).all()


def test_bad_kernels_are_refused():
    with pytest.raises(UnknownName, match="there is no kernel 'rbf': choose linear, arccos, gaussian, sqexp or heaviside"):
        KernelMap("rbf")
    with pytest.raises(UnknownName, match="there is no variant 'old'"):
        KernelMap("arccos", variant="old")
    with pytest.raises(DatumwiseError, match="a kernel of weight 0, bias 0 and jitter 0"):
        KernelMap("arccos", weight=0.0)
    for call in (lambda: kernel_square("x", torch.eye(2)), lambda: kernel_diagonal("x", torch.ones(2))):
        with pytest.raises(UnknownName):
            call()
