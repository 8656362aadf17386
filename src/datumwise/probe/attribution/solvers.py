"""(H + lambda I)^-1 g without H: conjugate gradients, LiSSA, Arnoldi; only products with H are needed.

Sources: Martens, Deep learning via Hessian-free optimization, 2010; Agarwal et al., Second-order stochastic
optimization for machine learning in linear time, 2017 (LiSSA); Schioppa et al., Scaling up influence functions,
2022 (Arnoldi).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from datumwise.errors import DatumwiseError, ModelMismatch

__all__ = ["arnoldi", "conjugate_gradients", "lissa"]

Product = Callable[[Tensor], Tensor]


def conjugate_gradients(product: Product, B: Tensor, *, tolerance: float = 1e-6, max_iterations: int = 100) -> Tensor:
    """X with A X = B for a symmetric positive definite A, all rows of B at once.

    Parameters
    ----------
    product : callable (q, p) -> (q, p)
        A times each row, damping included.
    B : Tensor (q, p)
    tolerance : float
        Stop when every row's residual is below this share of the row's norm.
    max_iterations : int

    Returns
    -------
    Tensor (q, p)

    Raises
    ------
    ModelMismatch
        A direction of negative curvature was met: A is not positive definite.
    """
    X = torch.zeros_like(B)
    R = B.clone()
    P = R.clone()
    rr = R.square().sum(1)
    target = tolerance**2 * rr
    for _ in range(max_iterations):
        live = rr > target
        if not bool(live.any()):
            break
        AP = torch.zeros_like(P)
        AP[live] = product(P[live])
        curvature = (P * AP).sum(1)
        if bool((curvature[live] <= 0).any()):
            raise ModelMismatch(
                "conjugate gradients met a direction of negative curvature",
                remedy='raise damping=, or use hessian="gauss_newton"',
            )
        step = torch.where(live, rr / torch.where(live, curvature, 1), 0)[:, None]
        X += step * P
        R -= step * AP
        new = R.square().sum(1)
        P = R + torch.where(live, new / torch.where(live, rr, 1), 0)[:, None] * P
        rr = torch.where(live, new, rr)
    return X


def lissa(
    product: Callable[[int, Tensor], Tensor],
    B: Tensor,
    *,
    n_batches: int,
    damping: float,
    scale: float | None = None,
    depth: int = 1000,
    repeats: int = 1,
    seed: int = 0,
) -> Tensor:
    """Mean over repeats of x_depth / scale, x_{j+1} = b + (I - (H_j + lambda I) / scale) x_j, H_j of a random batch.

    Parameters
    ----------
    product : callable (batch number, (q, p)) -> (q, p)
        H of one batch times each row.
    B : Tensor (q, p)
    n_batches : int
    damping : float
        lambda.
    scale : float, optional
        Above the largest eigenvalue of H + lambda I, or the recursion diverges; by default 1.5 times an
        estimate of it from 20 power iterations.
    depth, repeats : int
    seed : int
        Draws the batches.

    Raises
    ------
    ModelMismatch
        The recursion diverged.
    """
    if depth < 1 or repeats < 1:
        raise DatumwiseError(f"depth is {depth} and repeats {repeats}", remedy="both must be 1 or more")
    generator = torch.Generator().manual_seed(seed)
    if scale is None:
        scale = 1.5 * (_largest(lambda V: product_over(product, n_batches, V), B, generator) + damping)
    total = torch.zeros_like(B)
    limit = 1e6 * float(B.norm(dim=1).max()) * max(1.0, scale / damping if damping else depth)
    for _ in range(repeats):
        X = B.clone()
        for number in torch.randint(n_batches, (depth,), generator=generator).tolist():
            X = B + X - (product(number, X) + damping * X) / scale
        if not bool(torch.isfinite(X).all()) or float(X.norm(dim=1).max()) > limit:
            raise ModelMismatch(f"LiSSA diverged with a scale of {scale:.3g}", remedy="raise scale= or damping=")
        total += X
    return total / (repeats * scale)


def product_over(product: Callable[[int, Tensor], Tensor], n_batches: int, V: Tensor) -> Tensor:
    """Mean over batches of the product."""
    return torch.stack([product(number, V) for number in range(n_batches)]).sum(0) / n_batches


def _largest(product: Product, like: Tensor, generator: torch.Generator) -> float:
    """The largest eigenvalue by magnitude, from 20 power iterations."""
    v = torch.randn(1, like.shape[1], generator=generator).to(like)
    size = torch.ones(1, 1).to(like)
    for _ in range(20):
        v = v / v.norm()
        v = product(v)
        size = v.norm()
    return float(size)


def arnoldi(
    product: Product, p: int, like: Tensor, *, rank: int = 50, steps: int | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The ``rank`` largest eigenvalues by magnitude and their eigenvectors, from a Krylov basis of ``steps`` vectors.

    Parameters
    ----------
    product : callable (q, p) -> (q, p)
    p : int
    like : Tensor
        Of the wanted type and device.
    rank : int
        Directions kept.
    steps : int, optional
        Vectors of the basis, min(p, 2 rank + 20) by default.
    seed : int
        Of the first vector.

    Returns
    -------
    values : Tensor (r,)
        Descending by magnitude, none of them 0 to working precision; r = rank, or fewer if the basis closes earlier.
    vectors : Tensor (r, p)
        Orthonormal rows.
    """
    if rank < 1:
        raise DatumwiseError(f"rank is {rank}", remedy="it must be 1 or more")
    steps = min(p, 2 * rank + 20) if steps is None else min(p, steps)
    v = torch.randn(p, generator=torch.Generator().manual_seed(seed)).to(like)
    Q = like.new_empty(steps, p)
    Q[0] = v / v.norm()
    T = torch.zeros(steps, steps, dtype=torch.float64)
    size = steps
    for j in range(steps):
        w = product(Q[j][None])[0]
        scale = float(w.norm())
        for _ in range(2):  # a second round keeps the basis orthogonal in float32
            h = Q[: j + 1] @ w
            w = w - h @ Q[: j + 1]
            T[: j + 1, j] += h.double().cpu()
        left = float(w.norm())
        if j + 1 == steps:
            break
        if left <= 100 * torch.finfo(like.dtype).eps * max(scale, torch.finfo(like.dtype).tiny):
            size = j + 1  # the basis is closed under H
            break
        Q[j + 1] = w / left
    upper = T[:size, :size].triu()  # of a symmetric matrix: the rest is its mirror image
    values, vectors = torch.linalg.eigh(upper + upper.triu(1).T)
    order = values.abs().argsort(descending=True)[:rank]
    order = order[values[order].abs() > 100 * torch.finfo(like.dtype).eps * values.abs().max()]  # not the null space
    return values[order].to(like), vectors[:, order].T.to(like) @ Q[:size]
