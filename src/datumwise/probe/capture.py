"""How do the taps of a model's layers become one gradient a layer?

A module used several times, or a matrix tied between modules, is handed over once: when its last use has been
differentiated. How many uses there are is known after the forward.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from datumwise.errors import ModelMismatch
from datumwise.probe.gradient import Grad, Layer, Lookup, Outer
from datumwise.probe.layers import Spot, real
from datumwise.probe.tap import first_tensor, frozen, swapped, tapped

__all__ = ["Capture"]

Receive = Callable[[Layer, Grad], None]
ROWS, SHARED, FLAT = (
    "rows",
    "one row for all",
    "rows times positions",
)  # what the leading dimension of an output is


class Capture:
    """Taps on the chosen layers of a model, for as long as the context is open.

    Parameters
    ----------
    model : Module
    layers : dict of name to Layer
    spots : list of Spot
        The modules to tap.
    raw : dict of layer name to (module, attribute)
        Parameters of shape (1, ...) that are replaced by a copy for each datapoint.
    """

    def __init__(
        self,
        model: nn.Module,
        layers: Mapping[str, Layer],
        spots: list[Spot],
        raw: Mapping[str, tuple[nn.Module, str]] | None = None,
    ) -> None:
        self.model = model
        self.layers = dict(layers)
        self.spots = spots
        self.raw = dict(raw or {})
        self.layout: dict[str, str] = {}  # module name -> ROWS, SHARED or FLAT, once a batch has decided it
        self.order: list[str] = []  # modules in the order of the last forward
        self.inputs: dict[str, Tensor] | None = None  # module -> its input, kept only while a caller asks for it
        self.n = 0
        self._anchor = torch.zeros((), requires_grad=True)
        self._forward = False
        self._used: Counter[str] = Counter()
        self._pending: dict[str, list[tuple[Spot | None, Any]]] = {}
        self._receive: Receive | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Capture:
        with ExitStack() as stack:
            stack.enter_context(frozen(self.model))
            for spot in self.spots:
                hook = spot.module.register_forward_hook(self._hook(spot), with_kwargs=True)
                stack.callback(hook.remove)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @contextmanager
    def batch(self, n: int) -> Iterator[None]:
        """The forward and all backwards of one batch of ``n`` datapoints happen inside."""
        self.n, self._forward, self.order = n, True, []
        self._used.clear()
        places = []
        for name, (module, attribute) in self.raw.items():
            parameter = module._parameters[attribute]
            assert parameter is not None
            copies = parameter.detach().expand(n, *parameter.shape[1:]).clone()
            handler = self._handler(None, name)
            places.append((module, attribute, tapped(copies, self._anchor, handler, copies.new_empty(0))))
            self._used[name] += 1
        try:
            with swapped(places):
                yield
        finally:
            self._forward = False
            self._receive = None
            self._pending.clear()

    def backward(self, objective: Tensor, receive: Receive, *, retain: bool = False) -> None:
        """Differentiate the sum of ``objective`` (n,); ``receive(layer, grad)`` hears each layer once.

        Layers that the objective does not reach are not received: their gradient is zero.
        """
        self._forward = False
        self._receive = receive
        self._pending = {}
        objective.sum().backward(retain_graph=retain)
        with torch.no_grad():
            for name in list(self._pending):  # tied matrices of which one use has no gradient
                self._emit(name)

    def _hook(self, spot: Spot) -> Callable[..., Tensor | None]:
        handler_of = self._handler(spot, spot.layer)

        def hook(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor | None:
            if self._forward:
                self._used[spot.layer] += 1
                self.order.append(spot.name)
            x = first_tensor(args, kwargs)
            assert x is not None
            if self.inputs is not None:
                self.inputs[spot.name] = x
            if not torch.is_grad_enabled():  # the first forward of reentrant checkpointing
                return None
            if self._layout(spot, x, output) == SHARED:
                output = _spread(output, self.n, _is_range(spot, x)).clone()
            return tapped(output, self._anchor, handler_of, x)

        return hook

    def _layout(self, spot: Spot, x: Tensor, output: Tensor) -> str:
        known = self.layout.get(spot.name)
        if known is None:
            known = self._guess(spot, x, output)
            if self.n > 1:
                self.layout[spot.name] = known
        if known == ROWS and output.shape[0] == 1 < self.n:
            known = SHARED  # a (1, T) row of positions for the whole batch
        if known == ROWS and output.shape[0] != self.n:
            raise ModelMismatch(
                f"layer {spot.name} returned {output.shape[0]} rows for {self.n} datapoints",
                remedy="the leading dimension of every captured layer must be the datapoint",
            )
        return known

    def _guess(self, spot: Spot, x: Tensor, output: Tensor) -> str:
        rows = output.shape[0]
        if rows == self.n and not (rows == 1 and _is_range(spot, x)):
            return ROWS
        if rows == 1 or _is_range(spot, x):
            return SHARED  # a row, or a plain range, of positions
        if rows % self.n == 0:
            return FLAT  # the leak test tells whether the rows are in order
        return ROWS

    def _handler(self, spot: Spot | None, name: str) -> Callable[[Tensor, Tensor], None]:
        def handler(a: Tensor, g: Tensor) -> None:
            if self._receive is None:
                return
            uses = self._pending.setdefault(name, [])
            uses.append((spot, (a, g)))
            if len(uses) == self._used[name]:
                self._emit(name)

        return handler

    def _emit(self, name: str) -> None:
        uses = self._pending.pop(name)
        if name not in self.layers:  # dropped after the first batch's tests
            return
        layer = self.layers[name]
        if layer.kind == "raw":
            ((_, (_, g)),) = uses
            grad = Grad(layer, self.n, vectors={name: real(g).flatten(1)}, at=slice(0, self.n))
        else:
            grad = self._read(layer, uses)
        assert self._receive is not None
        self._receive(layer, grad)

    def _read(self, layer: Layer, uses: list[tuple[Spot | None, Any]]) -> Grad:
        n = self.n
        outers: list[Outer] = []
        lookups: list[Lookup] = []
        vectors: dict[str, Tensor] = {}
        for spot, (a, g) in uses:
            assert spot is not None
            layout = self.layout.get(spot.name)
            if layout == SHARED or a.shape[0] != g.shape[0]:
                a = _spread(a, n, _is_range(spot, a))
            rows = g.shape[0]
            use, found = spot.reader.read(spot.module, a, g, rows, spot.vectors)
            if layout == FLAT and rows != n:
                use, found = _folded(use, n), {k: v.unflatten(0, (n, -1)).sum(1) for k, v in found.items()}
            if spot.weight and use is not None:
                outers.append(use) if isinstance(use, Outer) else lookups.append(use)
            for attribute, parameter in spot.vectors.items():
                value = found[attribute]
                vectors[parameter] = vectors[parameter] + value if parameter in vectors else value
        return Grad(layer, n, outers, lookups, vectors, at=slice(0, n))


def _is_range(spot: Spot, x: Tensor) -> bool:
    """Whether a table was read at a plain range of positions (T,), not at a row (1, T)."""
    return spot.reader.kind == "embedding" and x.ndim == 1


def _spread(x: Tensor, n: int, is_range: bool) -> Tensor:
    """One row (1, ...), or a range (T, ...), as ``n`` equal rows; ``n`` rows stay as they are."""
    row = x[None] if is_range else x
    return row.expand(n, *row.shape[1:])


def _folded(use: Outer | Lookup | None, n: int) -> Outer | Lookup | None:
    """A use whose rows are (n, m) datapoints times positions, with the m joined to its positions."""
    if isinstance(use, Lookup):
        return Lookup(use.ids.reshape(n, -1), use.d.reshape(n, -1, use.d.shape[-1]))
    if isinstance(use, Outer):
        split = (x.unflatten(0, (n, -1, use.groups)) for x in (use.a, use.g))  # (n, m, groups, T, .)
        a, g = (x.transpose(1, 2).flatten(2, 3).flatten(0, 1) for x in split)
        return Outer(a, g, use.groups)
    return None
