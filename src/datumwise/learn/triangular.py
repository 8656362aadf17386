"""Small triangular factors, batched: by hand for one and two dimensions, where LAPACK's calls cost more than the sums."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["cholesky", "cholesky_upper", "invert_lower", "lower_factor", "solve_lower"]


def cholesky(matrix: Tensor) -> Tensor:
    """Lower L with L L^T = matrix; NaN in d <= 2, and ``torch.linalg.LinAlgError`` above, if it is not positive definite.

    Parameters
    ----------
    matrix : float (..., d, d)
        Symmetric positive definite; the lower half is read.

    Returns
    -------
    float (..., d, d)

    Examples
    --------
    >>> cholesky(torch.tensor([[4.0, 2.0], [2.0, 10.0]])).tolist()
    [[2.0, 0.0], [1.0, 3.0]]
    """
    d = matrix.shape[-1]
    if d == 1:
        return matrix.sqrt()
    if d == 2:
        a = matrix[..., 0, 0].sqrt()
        b = matrix[..., 1, 0] / a
        return _lower2(a, b, (matrix[..., 1, 1] - b * b).sqrt())
    return torch.linalg.cholesky(matrix)


def cholesky_upper(matrix: Tensor) -> Tensor:
    """Upper U with U U^T = matrix: the Cholesky factor with the axes reversed.

    Its inverse transpose is lower, so L U^-T is the lower factor of L matrix^-1 L^T, and nothing is factored twice.

    Parameters
    ----------
    matrix : float (..., d, d)
        Symmetric positive definite.

    Returns
    -------
    float (..., d, d)

    Examples
    --------
    >>> cholesky_upper(torch.tensor([[10.0, 2.0], [2.0, 4.0]])).tolist()
    [[3.0, 1.0], [0.0, 2.0]]
    """
    d = matrix.shape[-1]
    if d == 1:
        return matrix.sqrt()
    if d == 2:
        c = matrix[..., 1, 1].sqrt()
        b = matrix[..., 1, 0] / c
        return _lower2((matrix[..., 0, 0] - b * b).sqrt(), b, c).mT
    return torch.linalg.cholesky(matrix.flip(-1, -2)).flip(-1, -2)


def solve_lower(lower: Tensor, right: Tensor) -> Tensor:
    """lower^-1 right for vectors.

    Parameters
    ----------
    lower : float (..., d, d)
    right : float (..., d)
        Leading axes broadcast.

    Returns
    -------
    float (..., d)

    Examples
    --------
    >>> solve_lower(torch.tensor([[2.0, 0.0], [1.0, 3.0]]), torch.tensor([2.0, 7.0])).tolist()
    [1.0, 2.0]
    """
    d = lower.shape[-1]
    if d == 1:
        return right / lower[..., 0]
    if d == 2:
        first = right[..., 0] / lower[..., 0, 0]
        return torch.stack((first, (right[..., 1] - lower[..., 1, 0] * first) / lower[..., 1, 1]), -1)
    extra = right.dim() - (lower.dim() - 1)
    if extra > 0 and right.shape[extra:-1] == lower.shape[:-2]:  # many right-hand sides to a factor: one solve with columns
        columns = right.flatten(0, extra - 1).movedim(0, -1)  # (..., d, S)
        solved = torch.linalg.solve_triangular(lower, columns, upper=False)
        return solved.movedim(-1, 0).unflatten(0, right.shape[:extra])
    return torch.linalg.solve_triangular(lower, right.unsqueeze(-1), upper=False).squeeze(-1)


def invert_lower(lower: Tensor) -> Tensor:
    """Inverse of a lower triangular matrix, which is lower again.

    Parameters
    ----------
    lower : float (..., d, d)

    Returns
    -------
    float (..., d, d)

    Examples
    --------
    >>> invert_lower(torch.tensor([[2.0, 0.0], [1.0, 4.0]])).tolist()
    [[0.5, 0.0], [-0.125, 0.25]]
    """
    d = lower.shape[-1]
    if d == 1:
        return 1 / lower
    if d == 2:
        a, c = 1 / lower[..., 0, 0], 1 / lower[..., 1, 1]
        return _lower2(a, -lower[..., 1, 0] * a * c, c)
    eye = torch.eye(d, dtype=lower.dtype, device=lower.device).expand_as(lower)
    return torch.linalg.solve_triangular(lower, eye, upper=False)


def lower_factor(root: Tensor) -> Tensor:
    """Lower T with T T^T = root root^T and a non-negative diagonal, by QR: the product is never formed.

    Parameters
    ----------
    root : float (..., p, m)
        m >= p, of rank p.

    Returns
    -------
    float (..., p, p)

    Examples
    --------
    >>> T = lower_factor(torch.tensor([[3.0, 4.0, 0.0], [0.0, 5.0, 3.0]]))
    >>> [[round(v, 4) for v in row] for row in T.tolist()]
    [[5.0, 0.0], [4.0, 4.2426]]
    """
    p = root.shape[-2]
    if p == 1:
        return torch.linalg.vector_norm(root, dim=-1, keepdim=True)
    if p == 2:
        first, second = root[..., 0, :], root[..., 1, :]
        a = torch.linalg.vector_norm(first, dim=-1)
        unit = first / a.unsqueeze(-1)
        b = (second * unit).sum(-1)
        return _lower2(a, b, torch.linalg.vector_norm(second - b.unsqueeze(-1) * unit, dim=-1))
    triangle = torch.linalg.qr(root.mT, mode="r").R  # (..., p, p), root^T = Q R
    sign = torch.where(triangle.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(root.dtype)
    return (triangle * sign.unsqueeze(-1)).mT


def _lower2(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """[[a, 0], [b, c]]"""
    return torch.stack((torch.stack((a, torch.zeros_like(a)), -1), torch.stack((b, c), -1)), -2)
