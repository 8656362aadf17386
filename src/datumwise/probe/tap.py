"""How does a pass see each layer's input and output gradient and pay for no weight gradient?

All parameters are frozen; a forward hook passes each captured module's output through :class:`Tap`, an
identity whose backward hands ``(a, g)`` to a handler. Nothing runs in the forward, so a forward that
gradient checkpointing repeats never counts twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Tap", "first_tensor", "frozen", "swapped"]

Handler = Callable[[Tensor, Tensor], None]


class Tap(torch.autograd.Function):
    """Identity on ``out``; its backward calls ``handler(a, g)`` with the saved ``a`` and the gradient ``g``.

    ``anchor`` is a 0-d tensor that requires a gradient: it starts a graph at the first tapped module although
    every parameter is frozen, so nothing before that module is differentiated. ``out`` is marked dirty
    instead of being copied, so an in-place operation after the module stays legal and exact.
    """

    @staticmethod
    def forward(ctx: Any, out: Tensor, anchor: Tensor, handler: Handler, a: Tensor) -> Tensor:
        ctx.save_for_backward(a)
        ctx.handler = handler
        ctx.mark_dirty(out)
        return out

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, None, None, None]:
        (a,) = ctx.saved_tensors
        with torch.no_grad():
            ctx.handler(a, g)
        return (g if ctx.needs_input_grad[0] else None), None, None, None


def tapped(out: Tensor, anchor: Tensor, handler: Handler, a: Tensor) -> Tensor:
    """``out`` seen through a :class:`Tap`; a leaf that requires a gradient is detached first."""
    if out.is_leaf and out.requires_grad:
        out = out.detach()
    return Tap.apply(out, anchor, handler, a)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and no parameter gradient inside; every flag as it was afterwards, also on an error."""
    flags = [(p, p.requires_grad) for p in model.parameters()]
    modes = [(m, m.training) for m in model.modules()]
    try:
        model.eval()
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
        for module, mode in modes:
            module.training = mode


@contextmanager
def swapped(places: list[tuple[nn.Module, str, Tensor]]) -> Iterator[None]:
    """Parameters replaced by other tensors inside, like ``torch.func.functional_call``, and put back after.

    Parameters
    ----------
    places : list of (module, attribute, tensor)
        ``module._parameters[attribute]`` is replaced by ``tensor``.
    """
    before = [(module, name, module._parameters[name]) for module, name, _ in places]
    try:
        for module, name, tensor in places:
            module._parameters[name] = tensor  # type: ignore[assignment]
        yield
    finally:
        for module, name, parameter in before:
            module._parameters[name] = parameter


def first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The first tensor among a module's positional, then keyword inputs."""
    return next((x for x in (*args, *kwargs.values()) if isinstance(x, Tensor)), None)
