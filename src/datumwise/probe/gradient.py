"""What does one layer hear from each datapoint? Its gradient, formed only as far as it is asked for.

A layer's per-datapoint gradient is ``W_n = sum_t g_t a_t^T`` (o x i). It can
be kept *factored* (one position: never formed), be reached through inner products only (*ghost*), or be
*materialised* once and read by every need.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

__all__ = ["Grad", "Layer", "Lookup", "Outer", "batch_gradient"]


@dataclass(frozen=True)
class Layer:
    """One weight matrix (with its biases), one pair of scale and shift, or one raw parameter.

    Attributes
    ----------
    name : str
        Qualified name of the (first) module; of the parameter for a raw one.
    kind : str
        Reader's name: ``linear``, ``convolution``, ``embedding``, ``normalisation``, ``raw`` ...
    modules : tuple of str
        Qualified names of all modules that use the matrix (several if it is tied).
    weight : str or None
        Parameter name of the matrix, None if it does not require a gradient.
    vectors : tuple of str
        Parameter names of biases, scales, shifts and raw parameters.
    shape : (int, int) or None
        ``(o, i)`` of the matrix; None for layers without one.
    transposed : bool
        The parameter is stored as ``(i, o)`` (transformers' ``Conv1D``).
    single : bool
        One position a datapoint by the rank of its input (known after the first batch).
    shares_input_with : str
        Name of the first layer fed by the same tensor (its own name if none; known after the first batch).
    count : int
        Number of captured scalars.
    """

    name: str
    kind: str
    modules: tuple[str, ...] = ()
    weight: str | None = None
    vectors: tuple[str, ...] = ()
    shape: tuple[int, int] | None = None
    transposed: bool = False
    single: bool = False
    shares_input_with: str = ""
    count: int = 0

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all captured parameters."""
        return ((self.weight,) if self.weight else ()) + self.vectors

    def matrix(self, tensor: Tensor) -> Tensor:
        """A tensor shaped like the weight parameter, as ``(o, i)``."""
        if self.shape is None:
            raise TypeError(f"{self.name} has no matrix")
        return tensor.T if self.transposed else tensor.reshape(self.shape)


@dataclass
class Outer:
    """One use of a matrix: inputs ``a`` (n groups, T, i) and output gradients ``g`` (n groups, T, o)."""

    a: Tensor
    g: Tensor
    groups: int = 1

    @property
    def like(self) -> Tensor:
        """A tensor of the gradient's type and device."""
        return self.g

    def rows(self, at: slice) -> Outer:
        group = slice(at.start * self.groups, at.stop * self.groups)
        return Outer(self.a[group], self.g[group], self.groups)


@dataclass
class Lookup:
    """One use of a matrix as a table: ``ids`` (n, T) and gradients ``d`` (n, T, i) of the rows."""

    ids: Tensor
    d: Tensor

    @property
    def like(self) -> Tensor:
        """A tensor of the gradient's type and device."""
        return self.d

    def rows(self, at: slice) -> Lookup:
        return Lookup(self.ids[at], self.d[at])


@dataclass
class Grad:
    """Per-datapoint gradients of one layer, lazily.

    Parameters
    ----------
    layer : Layer
    n : int
        Datapoints.
    outers, lookups : list
        The uses of the matrix.
    vectors : mapping of parameter name to Tensor (n, numel)
        Gradients of biases, scales, shifts, raw parameters.
    form : {"factored", "ghost", "materialised"}
    at : slice
        Which datapoints of the batch these are.
    positions : Tensor (n, T) of bool, optional
        Positions with a target (no padding, not the last of a sequence); None where the layer's positions are
        not the tokens of the batch.
    unpadded : Tensor (n, T) of bool, optional
        Positions that are not padding.
    """

    layer: Layer
    n: int
    outers: list[Outer] = field(default_factory=list)
    lookups: list[Lookup] = field(default_factory=list)
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    form: str = "materialised"
    at: slice = field(default_factory=lambda: slice(0, 0))
    positions: Tensor | None = None
    unpadded: Tensor | None = None
    _w: Tensor | None = field(default=None, repr=False)
    _norm2: Tensor | None = field(default=None, repr=False)

    @property
    def outer(self) -> Outer:
        """All uses as a product, as one: concatenated along the positions."""
        if not self.outers:
            raise TypeError(f"layer {self.layer.name} has no input and output gradient, only a table")
        if len(self.outers) > 1:
            uses = self.outers
            a, g = torch.cat([u.a for u in uses], 1), torch.cat([u.g for u in uses], 1)
            self.outers = [Outer(a, g, uses[0].groups)]
        return self.outers[0]

    @property
    def lookup(self) -> Lookup:
        """All uses as a table, as one: concatenated along the positions."""
        if len(self.lookups) > 1:
            uses = self.lookups
            self.lookups = [Lookup(torch.cat([u.ids for u in uses], 1), torch.cat([u.d for u in uses], 1))]
        return self.lookups[0]

    @property
    def a(self) -> Tensor:
        """Inputs (n, T, i); (n groups, T, i) for a grouped convolution."""
        return self.outer.a

    @property
    def g(self) -> Tensor:
        """Output gradients (n, T, o); (n groups, T, o / groups) for a grouped convolution."""
        return self.outer.g

    @property
    def like(self) -> Tensor:
        """A tensor of the gradient's type and device."""
        return next(iter(self.vectors.values())) if self.vectors else (self.outers or self.lookups)[0].like

    @property
    def groups(self) -> int:
        return self.outers[0].groups if self.outers else 1

    @property
    def bias(self) -> Tensor | None:
        """Gradient of the bias (n, o), if the layer has exactly one."""
        return next(iter(self.vectors.values())) if self.has_matrix and len(self.vectors) == 1 else None

    @property
    def has_matrix(self) -> bool:
        return bool(self.outers or self.lookups)

    @property
    def formed(self) -> bool:
        """Whether :attr:`W` costs nothing any more."""
        return self._w is not None

    @property
    def W(self) -> Tensor:
        """The gradient of the matrix (n, o, i), formed on first use and shared: never change it in place."""
        if self._w is None:
            self._w = self._form()
        return self._w

    def _form(self) -> Tensor:
        assert self.layer.shape is not None
        o, i = self.layer.shape
        if self.outers:
            use = self.outer
            one = use.a.shape[1] == 1
            w = use.g.mT * use.a if one else torch.bmm(use.g.mT, use.a)
            w = w.reshape(self.n, o, i)
        else:
            w = self.lookup.d.new_zeros(self.n, o, i)
        if self.lookups:
            ids, d = self.lookup.ids, self.lookup.d
            row = ids + o * torch.arange(self.n, device=ids.device)[:, None]
            w.view(self.n * o, i).index_add_(0, row.reshape(-1), d.reshape(-1, i))
        return w

    def norm2(self) -> Tensor:
        """Squared Euclidean norm over all parameters of the layer, (n,), never negative."""
        if self._norm2 is None:
            total = sum((v.square().sum(1) for v in self.vectors.values()), start=_zero(self))
            self._norm2 = (total + self._matrix_norm2()).clamp_min(0) if self.has_matrix else total
        return self._norm2

    def _matrix_norm2(self) -> Tensor:
        if self.formed or (self.form == "materialised" and self.outers):
            flat = self.W.flatten(1)
            return torch.linalg.vector_norm(flat, dim=1).square()
        total = _zero(self)
        if self.outers:
            use = self.outer
            if use.a.shape[1] == 1:  # factored: ||g||^2 ||a||^2
                g, a = (torch.linalg.vector_norm(x[:, 0], dim=1) for x in (use.g, use.a))
                pairs = (g * a).square()
            else:  # ghost: sum_ts <g_t, g_s> <a_t, a_s>
                pairs = (torch.bmm(use.g, use.g.mT) * torch.bmm(use.a, use.a.mT)).sum((1, 2))
            total = total + pairs.view(self.n, -1).sum(1)
        if self.lookups:
            ids, d = self.lookup.ids, self.lookup.d
            same = ids[:, :, None] == ids[:, None, :]
            total = total + (torch.bmm(d, d.mT) * same).sum((1, 2))
            if self.outers:  # 2 sum_ts g_t[x_s] <a_t, d_s>
                use = self.outer
                at = ids[:, None, :].expand(-1, use.g.shape[1], -1)
                total = total + 2 * (use.g.gather(2, at) * torch.bmm(use.a, d.mT)).sum((1, 2))
        return total

    def dot(self, matrices: Tensor | None, vectors: Mapping[str, Tensor]) -> Tensor:
        """Inner products with q fixed gradients.

        Parameters
        ----------
        matrices : Tensor (q, o, i) or None
        vectors : mapping of parameter name to Tensor (q, numel)

        Returns
        -------
        Tensor (n, q)
        """
        shared = [(v, vectors[name]) for name, v in self.vectors.items() if name in vectors]
        q = len(matrices) if matrices is not None else len(shared[0][1])
        total = self.like.new_zeros(self.n, q)
        for v, fixed in shared:
            total += v @ fixed.T
        if matrices is None or not self.has_matrix:
            return total
        if self.formed or (self.form == "materialised" and self.outers):
            return total + self.W.flatten(1) @ matrices.flatten(1).T
        for use in self.outers:  # sum_t g_t^T V a_t
            a = use.a.unflatten(0, (-1, use.groups))  # (n, groups, T, i)
            g = use.g.unflatten(0, (-1, use.groups))
            for j, v in enumerate(matrices.unflatten(1, (use.groups, -1))):  # (groups, o, i)
                turned = g[:, 0] @ v[0] if use.groups == 1 else (g @ v).flatten(1, 2)
                total[:, j] += (turned * a.flatten(1, 2)).sum((1, 2))
        for table in self.lookups:
            total = total + torch.stack([(v[table.ids] * table.d).sum((1, 2)) for v in matrices], 1)
        return total

    def pieces(self, limit_bytes: int) -> Iterator[Grad]:
        """This gradient in groups of datapoints whose formed matrices stay under ``limit_bytes``."""
        if self.form != "materialised" or self.layer.shape is None or not self.has_matrix or self.formed:
            yield self
            return
        o, i = self.layer.shape
        step = max(1, limit_bytes // (o * i * self.like.element_size()))
        if step >= self.n:
            yield self
            return
        for start in range(0, self.n, step):
            yield self.rows(slice(start, min(start + step, self.n)))

    def scaled(self, factor: Tensor) -> Grad:
        """The gradient of each datapoint times a number of its own, ``factor`` (n,)."""
        c = factor.to(self.like.dtype)
        return replace(
            self,
            outers=[Outer(u.a, u.g * c.repeat_interleave(u.groups)[:, None, None], u.groups) for u in self.outers],
            lookups=[Lookup(u.ids, u.d * c[:, None, None]) for u in self.lookups],
            vectors={k: v * c[:, None] for k, v in self.vectors.items()},
            _w=None if self._w is None else self._w * c[:, None, None],
            _norm2=None if self._norm2 is None else self._norm2 * c.square(),
        )

    def rows(self, at: slice) -> Grad:
        """The same for some datapoints of this gradient."""
        return replace(
            self,
            n=at.stop - at.start,
            outers=[u.rows(at) for u in self.outers],
            lookups=[u.rows(at) for u in self.lookups],
            vectors={k: v[at] for k, v in self.vectors.items()},
            at=slice(self.at.start + at.start, self.at.start + at.stop),
            positions=None if self.positions is None else self.positions[at],
            unpadded=None if self.unpadded is None else self.unpadded[at],
            _w=None,
            _norm2=None,
        )


def batch_gradient(grad: Grad) -> Tensor:
    """The gradient of the summed loss for a layer's matrix, (o, i)."""
    assert grad.layer.shape is not None
    o, i = grad.layer.shape
    total: Tensor | None = None
    for use in grad.outers:
        g = use.g.unflatten(0, (-1, use.groups)).transpose(0, 1).flatten(1, 2)  # (groups, n T, o / groups)
        a = use.a.unflatten(0, (-1, use.groups)).transpose(0, 1).flatten(1, 2)
        part = torch.bmm(g.mT, a).reshape(o, i)
        total = part if total is None else total + part
    for table in grad.lookups:
        total = table.d.new_zeros(o, i) if total is None else total
        total.index_add_(0, table.ids.reshape(-1), table.d.reshape(-1, i))
    assert total is not None
    return total


def _zero(grad: Grad) -> Tensor:
    return grad.like.new_zeros(grad.n)
