"""Bijections from constrained parameters to the real line, with log Jacobians: log for positive ones, logit for (0, 1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datumwise.errors import DatumwiseError, SchemaMismatch, UnknownName, name_some

__all__ = ["SUPPORTS", "Transform", "transform_of"]


@dataclass(frozen=True)
class Transform:
    """A bijection T of a support to the real line, coordinate by coordinate.

    Parameters
    ----------
    name : str
    forward : callable
        x -> T(x), elementwise.
    inverse : callable
        t -> x, elementwise.
    log_slope : callable
        t -> log |dx/dt| at x = T^-1(t), elementwise.
    inside : callable
        x -> bool, elementwise: is x in the support?

    Examples
    --------
    >>> positive = transform_of("positive")
    >>> positive.to_real(torch.tensor([[1.0]])).item(), positive.from_real(torch.tensor([[0.0]])).item()
    (0.0, 1.0)
    """

    name: str
    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    log_slope: Callable[[Tensor], Tensor]
    inside: Callable[[Tensor], Tensor]

    def to_real(self, x: Tensor) -> Tensor:
        """T(x) for x (..., d).

        Raises
        ------
        DatumwiseError
            x outside the support; rows are named.
        """
        if not bool((inside := self.inside(x)).all()):
            rows = (~inside).flatten(0, -2).any(-1).nonzero().flatten().tolist() if x.dim() > 1 else [0]
            value = x[~inside].flatten()[0].item()
            raise DatumwiseError(f"samples lie outside the support {self.name!r} in row {name_some(rows)} ({value:g})")
        return self.forward(x)

    def from_real(self, t: Tensor) -> Tensor:
        """T^-1(t)."""
        return self.inverse(t)

    def log_abs_det(self, t: Tensor) -> Tensor:
        """log |det dx/dt| at t (..., d): float (...). The density of x is that of t minus this, in logs."""
        return self.log_slope(t).sum(-1)


SUPPORTS = {
    "real": Transform("real", lambda x: x, lambda t: t, torch.zeros_like, torch.isfinite),
    "positive": Transform("positive", torch.log, torch.exp, lambda t: t, lambda x: (x > 0) & x.isfinite()),
    "unit": Transform(
        "unit",
        torch.logit,
        torch.sigmoid,
        lambda t: torch.nn.functional.logsigmoid(t) + torch.nn.functional.logsigmoid(-t),
        lambda x: (x > 0) & (x < 1),
    ),
}


def transform_of(support: Any) -> Transform:
    """The bijection of a support.

    Parameters
    ----------
    support : {"real", "positive", "unit"}, Transform, torch.distributions.transforms.Transform, or a tuple
        A tuple gives one a coordinate. A torch transform maps the real line to the support.

    Returns
    -------
    Transform

    Raises
    ------
    UnknownName
        Another name.

    Examples
    --------
    >>> mixed = transform_of(("real", "positive"))
    >>> mixed.to_real(torch.tensor([[-3.0, 1.0]])).tolist(), mixed.log_abs_det(torch.tensor([[-3.0, 2.0]])).tolist()
    ([[-3.0, 0.0]], [2.0])
    """
    if isinstance(support, Transform):
        return support
    if isinstance(support, str):
        if support not in SUPPORTS:
            raise UnknownName(f"no support {support!r}", remedy=f"one of {', '.join(SUPPORTS)}")
        return SUPPORTS[support]
    if isinstance(support, torch.distributions.transforms.Transform):
        return _from_torch(support)
    if isinstance(support, tuple | list) and support:
        return _by_coordinate([transform_of(s) for s in support])
    raise UnknownName(f"{support!r} is no support", remedy=f"one of {', '.join(SUPPORTS)}, a Transform or a tuple of them")


def _from_torch(bijection: torch.distributions.transforms.Transform) -> Transform:
    def log_slope(t: Tensor) -> Tensor:
        return bijection.log_abs_det_jacobian(t, bijection(t))

    return Transform(type(bijection).__name__, bijection.inv, bijection, log_slope, bijection.codomain.check)


def _by_coordinate(each: list[Transform]) -> Transform:
    def joined(functions: list[Callable[[Tensor], Tensor]]) -> Callable[[Tensor], Tensor]:
        def apply(x: Tensor) -> Tensor:
            if x.shape[-1] != len(functions):
                raise SchemaMismatch(f"{x.shape[-1]} coordinates for {len(functions)} supports")
            return torch.stack([f(x[..., i]) for i, f in enumerate(functions)], -1)

        return apply

    return Transform(
        "(" + ", ".join(t.name for t in each) + ")",
        joined([t.forward for t in each]),
        joined([t.inverse for t in each]),
        joined([t.log_slope for t in each]),
        joined([t.inside for t in each]),
    )
