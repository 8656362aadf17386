"""Claims about Kronecker factors that curvature edits rest on, beside those of the factors' own tests."""

import pytest
import torch
from curvature import mlp, vectors
from torch import nn
from torch.func import functional_call, grad, vmap

from datumwise.probe.ekfac import EKFAC, fit_eigenvalues
from datumwise.probe.kfac import KFAC

DOUBLE = {"dtype": torch.float64}


def per_sample_gradients(model, x, y):
    """dW of each datapoint by vmap(grad), {parameter: (n, ...)}."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters, one, label):
        return nn.functional.cross_entropy(functional_call(model, parameters, one[None]), label[None])

    return vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)


def test_factors_are_the_second_moments_of_per_sample_gradients():
    model, (x, y) = mlp(), vectors(30)
    found = per_sample_gradients(model, x, y)
    plain, coupled = (KFAC(model, labels="gold", factors=kind, **DOUBLE).fit((x, y)) for kind in ("kfac", "coupled"))
    for name in ("0", "4"):  # those with a bias, whose gradient is g
        g = found[f"{name}.bias"]
        torch.testing.assert_close(plain.factors_[name].G, g.T @ g / 30)
    for name in ("0", "2", "4"):
        W = found[f"{name}.weight"]
        torch.testing.assert_close(coupled.factors_[name].A, torch.einsum("noi,noj->ij", W, W) / 30)
        torch.testing.assert_close(coupled.factors_[name].G, torch.einsum("noi,npi->op", W, W) / 30)


def test_gaussian_noise_of_unit_variance_gives_the_identity():
    torch.manual_seed(0)
    model = nn.Linear(4, 3).double()
    x = torch.randn(4000, 4, dtype=torch.float64)
    y = model(x).detach() + torch.randn(4000, 3, dtype=torch.float64)

    def half_square(model, batch):
        return (model(batch[0]) - batch[1]).square().sum(1) / 2

    G = KFAC(model, labels="gold", **DOUBLE).fit((x, y), half_square).factors_[""].G
    error = (1 + torch.eye(3)) ** 0.5 / 4000**0.5  # of a second moment of Gaussians
    assert ((G - torch.eye(3, dtype=torch.float64)).abs() / error).max() < 4


@pytest.mark.parametrize("labels", ["gold", "sampled"])
def test_coupled_factors_have_the_marginals_of_the_corrected_eigenvalues(labels):
    model, data = mlp(), vectors(40)
    coupled = KFAC(model, labels=labels, factors="coupled", **DOUBLE).fit(data)
    corrected = fit_eigenvalues(KFAC(model, labels=labels, **DOUBLE).fit(data), data)
    for name, factor in corrected.factors_.items():
        U_G, U_A, Lambda = factor.eigenvectors_G, factor.eigenvectors_A, factor.eigenvalues("ekfac")
        torch.testing.assert_close((U_G.T @ coupled.factors_[name].G @ U_G).diagonal(), Lambda.sum(1))
        torch.testing.assert_close((U_A.T @ coupled.factors_[name].A @ U_A).diagonal(), Lambda.sum(0))


def test_corrected_eigenvalues_are_of_gradients_summed_over_positions_before_they_are_squared():
    """With several positions a datapoint the two differ, and the sum of the eigenvalues is the mean squared gradient norm."""
    torch.manual_seed(0)
    model = nn.Linear(3, 4).double()
    x, y = torch.randn(12, 5, 3, dtype=torch.float64), torch.randint(4, (12, 5))

    def loss(model, batch):
        return nn.functional.cross_entropy(model(batch[0]).flatten(0, 1), batch[1].flatten(), reduction="none").view(-1, 5)

    factor = EKFAC(model, labels="gold", **DOUBLE).fit((x, y), loss).factors_[""]
    g = (model(x).softmax(-1) - nn.functional.one_hot(y, 4)).detach()
    W = torch.einsum("nto,nti->noi", g, x)
    rotated = factor.eigenvectors_G.T @ W @ factor.eigenvectors_A
    torch.testing.assert_close(factor.corrected, rotated.square().mean(0))
    torch.testing.assert_close(factor.corrected.sum(), W.square().sum((1, 2)).mean())
    apart = (g @ factor.eigenvectors_G).square().mT @ (x @ factor.eigenvectors_A).square()
    assert not torch.allclose(apart.mean(0), factor.corrected, rtol=0.05)
