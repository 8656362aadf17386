"""How far is a learned Gram matrix from its kernel matrix? KL between zero-mean Gaussians, exact or by Taylor.

Source: Yang et al., A theory of representation learning gives a deep generalisation of kernel methods, 2023, eq. 10;
Milsom et al., Stochastic kernel regularisation, 2024, section 3.2 (Taylor objective).

    KL(G || K) = 1/2 [ tr(K^-1 G) - P + log det K - log det G ]

With K = L L^T and G = L S S^T L^T (S lower-triangular) this is 1/2 (|S|^2 - P) - sum log diag S: no inverse, no determinant.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from datumwise.errors import UnknownName
from datumwise.learn.deep_kernel.cholesky import guarded_cholesky

__all__ = ["KL", "check_kl", "kl_gaussian", "kl_whitened"]

KL = Literal["exact", "taylor"]
KINDS = ("exact", "taylor")
VARIANTS = (None, "published")


def check_kl(kl: str, variant: str | None) -> None:
    """Refuse a divergence or a variant that does not exist.

    Raises
    ------
    UnknownName

    Examples
    --------
    >>> check_kl("exact", None)
    >>> check_kl("reverse", None)
    Traceback (most recent call last):
    ...
    datumwise.errors.UnknownName: there is no divergence 'reverse': choose exact or taylor
    """
    if kl not in KINDS:
        raise UnknownName(f"there is no divergence {kl!r}", remedy="choose exact or taylor")
    if variant not in VARIANTS:
        raise UnknownName(f"there is no variant {variant!r}", remedy="choose None or 'published'")


def kl_gaussian(G: Tensor, K: Tensor, kl: str = "exact", variant: str | None = None) -> Tensor:
    """KL(N(0, G) || N(0, K)), or its second-order Taylor expansion in G^-1 K - I.

    Parameters
    ----------
    G, K : Tensor (..., P, P)
        Symmetric positive definite.
    kl : {"exact", "taylor"}
        "taylor": 1/4 tr[(G^-1 K - I)^2], which agrees with the exact one up to third order.
    variant : {None, "published"}
        "published", with "taylor": 1/4 |G^-1 K - I|_F^2, which agrees to second order only where G and K commute.

    Returns
    -------
    Tensor (...)
        >= 0, and 0 at G = K.

    Raises
    ------
    UnknownName, NotFinite

    Examples
    --------
    >>> G, K = torch.tensor([[2.0]], dtype=torch.float64), torch.tensor([[1.0]], dtype=torch.float64)
    >>> round(kl_gaussian(G, K).item(), 4)  # (2 - 1 - log 2) / 2
    0.1534
    >>> kl_gaussian(G, K, "taylor").item()  # (1/2 - 1)^2 / 4
    0.0625
    """
    check_kl(kl, variant)
    C = guarded_cholesky(G)
    if kl == "exact":
        L = guarded_cholesky(K)
        S = torch.linalg.solve_triangular(L, C, upper=False)
        return _exact(S)
    if variant == "published":
        return _quarter(torch.cholesky_solve(K, C))
    half = torch.linalg.solve_triangular(C, K, upper=False)  # C^-1 K C^-T is similar to G^-1 K, and symmetric
    return _quarter(torch.linalg.solve_triangular(C.mT, half, upper=True, left=False))


def kl_whitened(S: Tensor, kl: str = "exact", variant: str | None = None, *, L: Tensor | None = None) -> Tensor:
    """KL(N(0, L S S^T L^T) || N(0, L L^T)), which depends on S alone.

    Parameters
    ----------
    S : Tensor (..., P, P)
        Lower-triangular, diagonal positive; the identity gives 0.
    kl : {"exact", "taylor"}
    variant : {None, "published"}
        As in :func:`kl_gaussian`; the published Taylor form is the only one that depends on L.
    L : Tensor (..., P, P), optional
        Cholesky factor of K; needed for the published Taylor form only.

    Returns
    -------
    Tensor (...)

    Raises
    ------
    UnknownName

    Examples
    --------
    >>> S = torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    >>> kl_whitened(S).item()
    0.125
    """
    check_kl(kl, variant)
    if kl == "exact":
        return _exact(S)
    eye = torch.eye(S.shape[-1], dtype=S.dtype, device=S.device)
    inverse = torch.linalg.solve_triangular(S, eye.expand_as(S), upper=False)
    if variant == "published":
        if L is None:
            raise UnknownName("the published Taylor form depends on the kernel matrix", remedy="pass its Cholesky factor L")
        R = inverse @ L.mT  # G^-1 K = L^-T S^-T S^-1 L^T
        return _quarter(torch.linalg.solve_triangular(L.mT, inverse.mT @ R, upper=True))
    return _quarter(inverse @ inverse.mT)


def _exact(S: Tensor) -> Tensor:
    return 0.5 * (S.square().sum((-2, -1)) - S.shape[-1]) - S.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _quarter(M: Tensor) -> Tensor:
    """1/4 |M - I|_F^2; a trace of a square where M is symmetric."""
    return 0.25 * (M - torch.eye(M.shape[-1], dtype=M.dtype, device=M.device)).square().sum((-2, -1))
