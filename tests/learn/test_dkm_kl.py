"""Divergences between zero-mean Gaussians against torch.distributions and their own expansion."""

import pytest
import torch
from torch.distributions import MultivariateNormal, kl_divergence

from datumwise.errors import UnknownName
from datumwise.learn.deep_kernel.kl import kl_gaussian, kl_whitened

FORMS = [("exact", None), ("taylor", None), ("taylor", "published")]


def covariance(P: int, seed: int) -> torch.Tensor:
    X = torch.randn(P, 2 * P, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return X @ X.T / (2 * P)


def symmetric(P: int, seed: int) -> torch.Tensor:
    X = torch.randn(P, P, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return X + X.T


def test_exact_form_equals_torch_distributions():
    G, K = covariance(6, 0), covariance(6, 1)
    zero = torch.zeros(6, dtype=torch.float64)
    expected = kl_divergence(MultivariateNormal(zero, G), MultivariateNormal(zero, K))
    assert torch.allclose(kl_gaussian(G, K), expected, rtol=1e-12)


@pytest.mark.parametrize(("kl", "variant"), FORMS)
def test_every_form_is_zero_at_equality_and_positive_elsewhere(kl, variant):
    G, K = covariance(6, 0), covariance(6, 1)
    assert abs(float(kl_gaussian(K, K, kl, variant))) < 1e-12
    assert float(kl_gaussian(G, K, kl, variant)) > 0.1
    assert float(kl_whitened(torch.eye(6, dtype=torch.float64), kl, variant, L=torch.linalg.cholesky(K))) < 1e-12


@pytest.mark.parametrize(("kl", "variant"), FORMS)
def test_whitened_form_equals_the_general_one(kl, variant):
    K = covariance(6, 1)
    L = torch.linalg.cholesky(K)
    S = torch.linalg.cholesky(covariance(6, 2))
    V = L @ S
    assert torch.allclose(kl_whitened(S, kl, variant, L=L), kl_gaussian(V @ V.T, K, kl, variant), rtol=1e-9)
    both = kl_whitened(torch.stack([S, S]), kl, variant, L=torch.stack([L, L]))
    assert torch.allclose(both, kl_whitened(S, kl, variant, L=L).expand(2), rtol=1e-12)


def test_taylor_is_the_trace_of_the_square_not_the_frobenius_norm():
    G, K = covariance(6, 0), covariance(6, 1)
    M = torch.linalg.solve(G, K) - torch.eye(6, dtype=torch.float64)
    assert torch.allclose(kl_gaussian(G, K, "taylor"), 0.25 * (M @ M).trace(), rtol=1e-9)
    assert torch.allclose(kl_gaussian(G, K, "taylor", "published"), 0.25 * (M * M).sum(), rtol=1e-9)


@pytest.mark.parametrize("eps", [0.05, 0.02, 0.01])
def test_taylor_agrees_to_third_order_and_the_published_form_only_to_second(eps):
    K, E = covariance(6, 1) + 3 * torch.eye(6, dtype=torch.float64), 0.3 * symmetric(6, 3)

    def difference(size: float, variant: str | None) -> float:
        G = K + size * E
        return abs(float(kl_gaussian(G, K, "taylor", variant) - kl_gaussian(G, K)))

    assert 7 < difference(eps, None) / difference(eps / 2, None) < 9
    assert 3 < difference(eps, "published") / difference(eps / 2, "published") < 5


def test_both_taylor_forms_agree_where_the_matrices_commute():
    G, K = torch.diag(torch.tensor([1.0, 2.0, 3.0]).double()), torch.diag(torch.tensor([2.0, 1.0, 0.5]).double())
    assert torch.allclose(kl_gaussian(G, K, "taylor"), kl_gaussian(G, K, "taylor", "published"), rtol=1e-13)


@pytest.mark.parametrize(("kl", "variant"), FORMS)
def test_gradients_equal_finite_differences(kl, variant):
    K = covariance(4, 1)
    L = torch.linalg.cholesky(K)
    S = torch.linalg.cholesky(covariance(4, 2)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: kl_whitened(s.tril(), kl, variant, L=L), S)
    G = covariance(4, 0).requires_grad_()
    assert torch.autograd.gradcheck(lambda g: kl_gaussian(0.5 * (g + g.T), K, kl, variant), G)


def test_whitened_gradient_is_exact_in_float32_whatever_the_condition_number():
    S = torch.linalg.cholesky(covariance(6, 2))
    found = S.float().requires_grad_()
    kl_whitened(found).backward()
    assert torch.allclose(found.grad.tril().double(), (S - torch.diag(1 / S.diagonal())).tril(), atol=1e-5)


def test_unknown_forms_are_refused():
    eye = torch.eye(2)
    with pytest.raises(UnknownName, match="there is no divergence 'wasserstein'"):
        kl_gaussian(eye, eye, "wasserstein")
    with pytest.raises(UnknownName, match="there is no variant 'old'"):
        kl_whitened(eye, "exact", "old")
    with pytest.raises(UnknownName, match="pass its Cholesky factor L"):
        kl_whitened(eye, "taylor", "published")
