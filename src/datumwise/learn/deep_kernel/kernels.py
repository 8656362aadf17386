"""Kernels as functions of a Gram matrix: what a layer of infinite width makes of the similarities below it.

Source: Cho and Saul, Kernel methods for deep learning, 2009 (arc-cosine); Shankar et al., Neural kernels without tangents,
2020, section 3.2 (normalised Gaussian); Milsom et al., Stochastic kernel regularisation, 2024 (what is learned, jitter).

With n = sqrt(g_ii g_jj), c = g_ij / n and th = acos(c):

    linear      g_ij                                     gaussian    n exp(c - 1)
    arccos      n / pi (sin th + (pi - th) cos th)       heaviside   n (1 - th / pi)
    sqexp       exp(-(g_ii + g_jj - 2 g_ij) / 2)

The diagonal is g_ii, or 1 for sqexp. Gradients are written out, because those of acos and sqrt are infinite at c = +-1,
where those of the kernels (heaviside apart) are not: equal rows need no clamp.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.learn.deep_kernel.structmat import StructMat

__all__ = ["KERNELS", "KernelMap", "check_kernel", "kernel_cross", "kernel_diagonal", "kernel_square"]

KERNELS = ("linear", "arccos", "gaussian", "sqexp", "heaviside")
CLAMP = 1e-10  # 1 - |c| at least in the slope of heaviside, which is infinite at 0
SNAP = 16  # roundings below which c is 1 to heaviside: acos keeps half the digits there, a second layer a quarter
PUBLISHED = 1e-4  # relative and absolute jitter of the published code


def check_kernel(name: str) -> None:
    """Refuse a kernel that does not exist.

    Raises
    ------
    UnknownName

    Examples
    --------
    >>> check_kernel("rbf")
    Traceback (most recent call last):
    ...
    datumwise.errors.UnknownName: there is no kernel 'rbf': choose linear, arccos, gaussian, sqexp or heaviside
    """
    if name not in KERNELS:
        raise UnknownName(f"there is no kernel {name!r}", remedy=f"choose {', '.join(KERNELS[:-1])} or {KERNELS[-1]}")


def kernel_square(name: str, g: Tensor) -> Tensor:
    """Kernel matrix of a whole Gram matrix, exact on the diagonal.

    Parameters
    ----------
    name : {"linear", "arccos", "gaussian", "sqexp", "heaviside"}
    g : Tensor (..., P, P)
        Symmetric positive semi-definite.

    Returns
    -------
    Tensor (..., P, P)

    Raises
    ------
    UnknownName

    Examples
    --------
    >>> g = torch.tensor([[1.0, 0.0], [0.0, 4.0]])
    >>> k = kernel_square("arccos", g)
    >>> k.diagonal().tolist(), round(k[0, 1].item(), 4)  # 2 / pi: both ReLUs are on a quarter of the time
    ([1.0, 4.0], 0.6366)
    """
    check_kernel(name)
    if name == "linear":
        return g
    d = g.diagonal(dim1=-2, dim2=-1)
    a, b = d.unsqueeze(-1), d.unsqueeze(-2)
    if name == "sqexp":
        return torch.exp(g - 0.5 * a - 0.5 * b)
    return _Normalised.apply(g, a, b, name, True)


def kernel_cross(name: str, g_ij: Tensor, g_ii: Tensor, g_jj: Tensor) -> Tensor:
    """Kernel between two sets of points, from their Gram block and both diagonals.

    Parameters
    ----------
    name : {"linear", "arccos", "gaussian", "sqexp", "heaviside"}
    g_ij : Tensor (..., P)
        Gram block; the leading axes are datapoints (and pixels).
    g_ii : Tensor (...)
        Diagonal of the rows.
    g_jj : Tensor (P,)
        Diagonal of the columns.

    Returns
    -------
    Tensor (..., P)

    Raises
    ------
    UnknownName

    Examples
    --------
    >>> one = torch.ones(1)
    >>> kernel_cross("arccos", torch.ones(1, 1, requires_grad=True), one, one).item()  # the same point: no NaN
    1.0
    """
    check_kernel(name)
    if name == "linear":
        return g_ij
    a = g_ii.unsqueeze(-1)
    if name == "sqexp":
        return torch.exp(g_ij - 0.5 * a - 0.5 * g_jj)
    return _Normalised.apply(g_ij, a, g_jj, name, False)


def kernel_diagonal(name: str, g_ii: Tensor) -> Tensor:
    """Diagonal of the kernel matrix, from that of the Gram matrix.

    Parameters
    ----------
    name : {"linear", "arccos", "gaussian", "sqexp", "heaviside"}
    g_ii : Tensor (...)

    Returns
    -------
    Tensor (...)

    Raises
    ------
    UnknownName

    Examples
    --------
    >>> kernel_diagonal("arccos", torch.tensor([2.0])).item(), kernel_diagonal("sqexp", torch.tensor([2.0])).item()
    (2.0, 1.0)
    """
    check_kernel(name)
    return torch.ones_like(g_ii) if name == "sqexp" else g_ii


class _Normalised(torch.autograd.Function):
    """k = n f(c) with n = sqrt(a b) and c = g / n: dk/dg = f'(c), dk/da = n (f - c f') / (2 a), likewise for b.

    ``square``: the diagonal is g itself, so its slopes are 1 and 0 there.
    """

    @staticmethod
    def forward(ctx: Any, g: Tensor, a: Tensor, b: Tensor, name: str, square: bool) -> Tensor:
        n = (a.sqrt() * b.sqrt()).clamp_min_(torch.finfo(g.dtype).tiny)
        c = (g / n).clamp_(-1.0, 1.0)
        if name == "gaussian":
            slope = (c - 1).exp_()
            k = n * slope
            rest = k - c.mul_(k)
        elif name == "arccos":
            slope = c.acos().div_(-math.pi).add_(1)
            rest = c.square_().neg_().add_(1).sqrt_().mul_(n).div_(math.pi)
            k = torch.addcmul(rest, slope, g)
        else:
            c.masked_fill_(c > 1 - SNAP * torch.finfo(g.dtype).eps, 1.0)
            k = c.acos().div_(-math.pi).add_(1).mul_(n)
            edge = 1 - max(CLAMP, torch.finfo(g.dtype).eps)
            slope = c.clamp_(-edge, edge).square().neg_().add_(1).rsqrt_().div_(math.pi)
            rest = k - c.mul_(n).mul_(slope)
        if square:
            for matrix, value in ((slope, 1.0), (rest, 0.0)):
                matrix.diagonal(dim1=-2, dim2=-1).fill_(value)
            k.diagonal(dim1=-2, dim2=-1).copy_(g.diagonal(dim1=-2, dim2=-1))
        ctx.save_for_backward(slope, rest, a, b)
        ctx.save_for_forward(slope, rest, a, b)
        return k

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        slope, rest, a, b = ctx.saved_tensors
        moved = grad * rest if ctx.needs_input_grad[1] or ctx.needs_input_grad[2] else None
        sides = [None if moved is None else _half_over(moved.sum_to_size(side.shape), side) for side in (a, b)]
        return grad * slope, *sides, None, None

    @staticmethod
    def jvp(ctx: Any, g: Tensor, a: Tensor, b: Tensor, *_: Any) -> Tensor:
        slope, rest, at, bt = ctx.saved_tensors
        return slope * g + rest * (_half_over(a, at) + _half_over(b, bt))


def _half_over(x: Tensor, d: Tensor) -> Tensor:
    """x / (2 d), and 0 where d = 0 (a datapoint of zeros, whose kernel row is 0)."""
    return (x / (2 * d)).masked_fill_(d == 0, 0.0)


class KernelMap(nn.Module):
    """k <- weight * kernel + bias on a :class:`StructMat` or a Gram matrix, both learned as logarithms.

    Parameters
    ----------
    name : {"linear", "arccos", "gaussian", "sqexp", "heaviside"}
    weight : float, default 1
        > 0.
    bias : float, default 0
        >= 0; 0 is left out and not learned (the published networks start at 0.1).
    jitter : float, default 0
        Added to the diagonal of ``ii``, relative to its mean. Training in float64 wants 1e-6, in float32 1e-5.
    variant : {None, "published"}
        "published": the published code's own jitter (1e-4, relative and absolute) in its own places; ``jitter`` is not used.
    learn : bool, default True
        Whether ``weight`` and ``bias`` are parameters.

    Raises
    ------
    UnknownName
        There is no such kernel or variant.
    DatumwiseError
        ``weight`` <= 0, ``bias`` < 0 or ``jitter`` < 0.

    Examples
    --------
    >>> kernel = KernelMap("gaussian", weight=2.0, bias=0.5)
    >>> kernel.square(torch.eye(2)).diagonal().tolist()
    [2.5, 2.5]
    >>> sorted(name for name, _ in kernel.named_parameters())
    ['log_bias', 'log_weight']
    """

    def __init__(
        self,
        name: str,
        weight: float = 1.0,
        bias: float = 0.0,
        jitter: float = 0.0,
        variant: str | None = None,
        *,
        learn: bool = True,
    ) -> None:
        super().__init__()
        check_kernel(name)
        if variant not in (None, "published"):
            raise UnknownName(f"there is no variant {variant!r}", remedy="choose None or 'published'")
        if not (weight > 0 and bias >= 0 and jitter >= 0):
            raise DatumwiseError(
                f"a kernel of weight {weight:g}, bias {bias:g} and jitter {jitter:g}",
                remedy="give a weight above 0, the others at least 0",
            )
        self.name, self.jitter, self.variant, self.learn = name, jitter, variant, learn
        self.log_weight: Tensor | None = None
        self.log_bias: Tensor | None = None
        if learn or weight != 1:
            self._hold("log_weight", math.log(weight))
        if bias:
            self._hold("log_bias", math.log(bias))

    def _hold(self, name: str, value: float) -> None:
        delattr(self, name)
        tensor = torch.tensor(value, dtype=torch.float64)  # a scalar does not change the dtype of what it meets
        if self.learn:
            self.register_parameter(name, nn.Parameter(tensor))
        else:
            self.register_buffer(name, tensor)

    def _affine(self, k: Tensor) -> Tensor:
        if self.log_weight is not None:
            k = k * self.log_weight.exp()
        return k if self.log_bias is None else k + self.log_bias.exp()

    def square(self, g: Tensor) -> Tensor:
        """Kernel matrix of a Gram matrix, jitter included.

        Parameters
        ----------
        g : Tensor (..., P, P)

        Returns
        -------
        Tensor (..., P, P)
        """
        if self.variant == "published":
            return _stabilised(self._affine(_published_square(self.name, g)))
        k = self._affine(kernel_square(self.name, g))
        if not self.jitter:
            return k
        d = k.diagonal(dim1=-2, dim2=-1)
        return k + torch.diag_embed((self.jitter * d.mean(-1, keepdim=True)).expand_as(d))

    def cross(self, g_ij: Tensor, g_ii: Tensor, g_jj: Tensor) -> Tensor:
        """Kernel block between two sets of points; no jitter is added.

        Parameters
        ----------
        g_ij : Tensor (..., P)
        g_ii : Tensor (...)
        g_jj : Tensor (P,)

        Returns
        -------
        Tensor (..., P)
        """
        if self.variant == "published" and self.name in ("arccos", "heaviside"):
            g_ii, g_jj = _inflated(g_ii), _inflated(g_jj)
        return self._affine(kernel_cross(self.name, g_ij, g_ii, g_jj))

    def diagonal(self, g_ii: Tensor) -> Tensor:
        """Diagonal of the datapoints' own kernel block.

        Parameters
        ----------
        g_ii : Tensor (...)

        Returns
        -------
        Tensor (...)
        """
        k = self._affine(kernel_diagonal(self.name, g_ii))
        return _inflated(k) if self.variant == "published" else k

    def forward(self, G: StructMat) -> StructMat:
        d = G.ii.diagonal(dim1=-2, dim2=-1)
        return StructMat(self.square(G.ii), self.cross(G.ti, G.t, d), self.diagonal(G.t))

    def extra_repr(self) -> str:
        return f"{self.name!r}, jitter={self.jitter:g}, variant={self.variant!r}"


def _inflated(d: Tensor) -> Tensor:
    return d * (1 + PUBLISHED) + PUBLISHED


def _stabilised(k: Tensor) -> Tensor:
    """k o (1 + e I) + a I."""
    return k + torch.diag_embed(PUBLISHED * k.diagonal(dim1=-2, dim2=-1) + PUBLISHED)


def _published_square(name: str, g: Tensor) -> Tensor:
    """The published ``ii`` block before its affine map: c is made smaller than 1 by jitter in the denominator only."""
    if name not in ("arccos", "heaviside"):
        return kernel_square(name, g)
    d = _inflated(g.diagonal(dim1=-2, dim2=-1))
    k = _Normalised.apply(g, d.unsqueeze(-1), d.unsqueeze(-2), name, False)
    return k.diagonal_scatter(d, dim1=-2, dim2=-1) if name == "arccos" else k
