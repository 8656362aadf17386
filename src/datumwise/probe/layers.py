"""Which (input, output gradient) pairs make up a module's weight gradient?

A *reader* turns what a tap saw of one module into one use of its matrix (:class:`Outer`, :class:`Lookup`) or
into finished per-datapoint gradients of its scale and shift. Register one for another module with
:func:`layer`::

    @layer(MyLinear)
    class _(Linear): ...
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datumwise.errors import UnknownName, name_some
from datumwise.probe.gradient import Layer, Lookup, Outer

__all__ = ["Modules", "Reader", "Spot", "layer", "reader_of", "spots_of"]

Modules = Sequence[str] | Callable[[str, nn.Module], bool] | None
Read = tuple[Outer | Lookup | None, dict[str, Tensor]]

ATTENTION = "nn.MultiheadAttention uses its weights directly; write it with Linear layers"

_READERS: dict[type[nn.Module], Reader] = {}


class Reader(ABC):
    """How one class of modules is read. Subclass and register with :func:`layer`."""

    kind = "linear"
    weight = "weight"  # attribute that holds the matrix; "" for modules without one
    vectors: tuple[str, ...] = ("bias",)
    transposed = False

    @abstractmethod
    def shape(self, module: Any) -> tuple[int, int] | None:
        """``(o, i)`` of the matrix, None if the module has none."""

    def single(self, module: Any, x: Tensor) -> bool:
        """Whether each datapoint has one position, by the rank of the input."""
        return False

    @abstractmethod
    def read(self, module: Any, x: Tensor, g: Tensor, n: int, wanted: Collection[str]) -> Read:
        """One use.

        Parameters
        ----------
        module : Module
        x : Tensor (n, ...)
            The module's input.
        g : Tensor (n, ...)
            The gradient of its output.
        n : int
            Datapoints.
        wanted : collection of str
            Attributes of the vectors whose gradients are wanted.

        Returns
        -------
        (Outer, Lookup or None, dict of attribute to Tensor (n, numel))
            The use of the matrix and the gradients of the vectors.
        """


def layer(*classes: type[nn.Module]) -> Callable[[type[Reader]], type[Reader]]:
    """Register a reader for module classes (exact classes and their subclasses)."""

    def register(reader: type[Reader]) -> type[Reader]:
        for cls in classes:
            _READERS[cls] = reader()
        return reader

    return register


def real(x: Tensor) -> Tensor:
    """``x`` in float32 unless it is in float64: products of half-precision gradients lose three digits."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


@layer(nn.Linear)
class Linear(Reader):
    """y = W x + b; all middle dimensions are positions."""

    def shape(self, module: Any) -> tuple[int, int]:
        o, i = module.weight.shape
        return o, i

    def single(self, module: Any, x: Tensor) -> bool:
        return x.ndim == 2

    def read(self, module: Any, x: Tensor, g: Tensor, n: int, wanted: Collection[str]) -> Read:
        a = real(x).reshape(n, -1, x.shape[-1])
        g = real(g).reshape(n, -1, g.shape[-1])
        return Outer(a, g), {"bias": g.sum(1) if g.shape[1] > 1 else g[:, 0]} if wanted else {}


class Conv1D(Linear):
    """transformers' GPT-2 layer: a Linear whose weight is stored as (i, o)."""

    transposed = True

    def shape(self, module: Any) -> tuple[int, int]:
        i, o = module.weight.shape
        return o, i


@layer(nn.Conv1d, nn.Conv2d, nn.Conv3d)
class Convolution(Reader):
    """A Linear on unfolded patches, one position an output pixel; groups are a product each."""

    kind = "convolution"

    def shape(self, module: Any) -> tuple[int, int]:
        return module.weight.shape[0], prod(module.weight.shape[1:])

    def read(self, module: Any, x: Tensor, g: Tensor, n: int, wanted: Collection[str]) -> Read:
        groups = module.groups
        g = real(g).flatten(2)  # (n, o, T)
        bias = {"bias": g.sum(2)} if wanted else {}
        a = patches(module, real(x))  # (n, T, c, kernel)
        if groups > 1:
            a = a.unflatten(2, (groups, -1)).transpose(1, 2).flatten(0, 1)  # (n groups, T, c / groups, kernel)
            g = g.unflatten(1, (groups, -1)).flatten(0, 1)
        return Outer(a.flatten(2), g.transpose(1, 2), groups), bias


def patches(conv: Any, x: Tensor) -> Tensor:
    """What each output position sees, (n, T, channels, kernel positions), for 1 to 3 dimensions."""
    dims = len(conv.kernel_size)
    if conv.padding_mode != "zeros":
        x = F.pad(x, conv._reversed_padding_repeated_twice, mode=conv.padding_mode)
    elif isinstance(conv.padding, str):
        x = F.pad(x, conv._reversed_padding_repeated_twice)
    else:
        x = F.pad(x, [p for p in reversed(conv.padding) for _ in range(2)])
    x = x.contiguous()
    reach = [d * (k - 1) + 1 for d, k in zip(conv.dilation, conv.kernel_size, strict=True)]
    out = [(s - r) // t + 1 for s, r, t in zip(x.shape[2:], reach, conv.stride, strict=True)]
    n, c = x.shape[:2]
    steps = x.stride()[2:]
    windows = x.as_strided(
        (n, *out, c, *conv.kernel_size),
        (
            x.stride(0),
            *(t * s for t, s in zip(conv.stride, steps, strict=True)),
            x.stride(1),
            *(d * s for d, s in zip(conv.dilation, steps, strict=True)),
        ),
    )
    return windows.flatten(dims + 2).flatten(1, dims)


@layer(nn.Embedding)
class Embedding(Reader):
    """A table: the gradient of row x_t is d_t; the padding row has none."""

    kind = "embedding"
    vectors = ()

    def shape(self, module: Any) -> tuple[int, int]:
        o, i = module.weight.shape
        return o, i

    def read(self, module: Any, x: Tensor, g: Tensor, n: int, wanted: Collection[str]) -> Read:
        d = real(g).reshape(n, -1, g.shape[-1])
        ids = x.reshape(n, -1)
        if module.padding_idx is not None:
            d = d * (ids != module.padding_idx)[:, :, None]
        return Lookup(ids, d), {}


class Normalisation(Reader):
    """y = scale * x_hat + shift: the scale hears sum_t g_t x_hat_t, the shift sum_t g_t."""

    kind = "normalisation"
    weight = ""
    vectors: tuple[str, ...] = ("weight", "bias")

    def shape(self, module: Any) -> None:
        return None

    @abstractmethod
    def normalised(self, module: Any, x: Tensor) -> Tensor:
        """x_hat, of the shape of x."""

    def channels_last(self, module: Any, x: Tensor) -> Tensor:
        """``x`` as (n, positions, channels): the channels are the trailing dimensions of the scale."""
        size = module.weight.numel()
        return x.reshape(x.shape[0], -1, size)

    def read(self, module: Any, x: Tensor, g: Tensor, n: int, wanted: Collection[str]) -> Read:
        g = self.channels_last(module, real(g))
        found = {"bias": g.sum(1)} if "bias" in wanted else {}
        if "weight" in wanted:
            found["weight"] = (g * self.channels_last(module, self.normalised(module, real(x)))).sum(1)
        return None, found


@layer(nn.LayerNorm)
class LayerNorm(Normalisation):
    def normalised(self, module: Any, x: Tensor) -> Tensor:
        return F.layer_norm(x, module.normalized_shape, None, None, module.eps)


@layer(nn.RMSNorm)
class RMSNorm(Normalisation):
    """Also transformers' ``*RMSNorm`` and ``T5LayerNorm``; their eps is ``variance_epsilon`` or ``eps``."""

    vectors: tuple[str, ...] = ("weight",)

    def normalised(self, module: Any, x: Tensor) -> Tensor:
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if eps is None:
            eps = torch.finfo(x.dtype).eps
        dims = tuple(range(-module.weight.ndim, 0))
        return x * torch.rsqrt(x.square().mean(dims, keepdim=True) + eps)


class _ChannelsFirst(Normalisation):
    def channels_last(self, module: Any, x: Tensor) -> Tensor:
        return x.flatten(2).mT if x.ndim > 2 else x[:, None]


@layer(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
class BatchNorm(_ChannelsFirst):
    """On running statistics; in train mode datapoints see each other, which the leak test refuses."""

    def normalised(self, module: Any, x: Tensor) -> Tensor:
        on_batch = module.running_mean is None
        return F.batch_norm(x, module.running_mean, module.running_var, None, None, on_batch, 0.0, module.eps)


@layer(nn.GroupNorm)
class GroupNorm(_ChannelsFirst):
    def normalised(self, module: Any, x: Tensor) -> Tensor:
        return F.group_norm(x, module.num_groups, None, None, module.eps)


_CONV1D, _RMS = Conv1D(), RMSNorm()


def reader_of(module: nn.Module) -> Reader | None:
    """The reader of a module, by its class, then by transformers' names of classes; None if unknown."""
    for cls in type(module).__mro__:
        if cls in _READERS:
            return _READERS[cls]
    name = type(module).__name__
    weight = getattr(module, "weight", None)
    if name == "Conv1D" and isinstance(weight, Tensor) and weight.ndim == 2:
        return _CONV1D
    if (name.endswith("RMSNorm") or name == "T5LayerNorm") and isinstance(weight, Tensor):
        return _RMS
    return None


@dataclass
class Spot:
    """One tapped module: where it is, how it is read, which layer's parameters it uses."""

    module: nn.Module
    name: str
    reader: Reader
    layer: str
    weight: bool  # the matrix is captured
    vectors: dict[str, str]  # attribute -> parameter name, captured ones only


def chosen(modules: Modules, name: str, module: nn.Module) -> bool:
    """Whether the caller's patterns (or function) take in this module; without any, everything is."""
    if modules is None:
        return True
    if callable(modules):
        return modules(name, module)
    return any(fnmatch(name, pattern) for pattern in modules)


def spots_of(model: nn.Module, modules: Modules = None) -> tuple[dict[str, Layer], list[Spot], dict[str, str]]:
    """What can be captured of a model, before anything has run.

    Only parameters that require a gradient count (so LoRA alone, or the unfrozen layers alone).

    Parameters
    ----------
    model : Module
    modules : list of patterns, or function (name, module) -> bool, optional
        Which modules; all by default.

    Returns
    -------
    layers : dict of name to Layer
        Tied matrices make one layer with several modules.
    spots : list of Spot
        The modules to tap.
    missing : dict of parameter name to reason
        Trainable parameters of the chosen modules that no reader knows.

    Raises
    ------
    UnknownName
        No module matches the patterns; names near ones.
    """
    names = {id(p): name for name, p in model.named_parameters()}
    taken = [(name, m) for name, m in model.named_modules() if chosen(modules, name, m)]
    if modules is not None and not any(m._parameters for _, m in taken):
        have = [name for name, m in model.named_modules() if any(p is not None for p in m._parameters.values())]
        near = _near(modules if not callable(modules) else [], have)
        raise UnknownName("no module with parameters matches `modules`", remedy=f"there are {name_some(near)}")
    layers: dict[str, Layer] = {}
    spots: list[Spot] = []
    by_parameter: dict[str, str] = {}
    missing: dict[str, str] = {}
    clashes: set[str] = set()
    inside = tuple(f"{name}." for name, m in model.named_modules() if isinstance(m, nn.MultiheadAttention))
    for name, module in taken:
        trainable = {k: names[id(p)] for k, p in module._parameters.items() if p is not None and p.requires_grad}
        attention = isinstance(module, nn.MultiheadAttention) or name.startswith(inside or ("\0",))
        reader = None if attention else reader_of(module)
        known = {} if reader is None else {k: v for k, v in trainable.items() if k in (reader.weight, *reader.vectors)}
        for attribute, parameter in trainable.items():
            if attribute not in known and parameter not in by_parameter:
                missing.setdefault(parameter, ATTENTION if attention else _why(module, attribute))
        if reader is None or not known:
            continue
        weight = known.get(reader.weight)
        vectors = {k: v for k, v in known.items() if k != reader.weight}
        home = by_parameter.get(weight or "", name)
        clash = [v for v in vectors.values() if by_parameter.get(v, home) != home]
        clashes.update(clash)
        for parameter in clash:
            missing[parameter] = f"shared between {by_parameter[parameter]} and {name}, which have different matrices"
        vectors = {k: v for k, v in vectors.items() if v not in clash}
        for parameter in known.values():
            by_parameter.setdefault(parameter, home)
        spots.append(Spot(module, name, reader, home, weight is not None, vectors))
        made = Layer(
            name=home,
            kind=reader.kind,
            modules=(name,),
            weight=weight,
            vectors=tuple(vectors.values()),
            shape=reader.shape(module) if weight else None,
            transposed=reader.transposed,
        )
        layers[home] = _joined(layers[home], made) if home in layers else made
    missing = {k: why for k, why in missing.items() if k not in by_parameter or k in clashes}
    sizes = {names[id(p)]: p.numel() for p in model.parameters()}
    layers = {k: replace(v, count=sum(sizes[p] for p in v.parameters)) for k, v in layers.items()}
    return layers, spots, missing


def _joined(old: Layer, new: Layer) -> Layer:
    """A tied layer with one more module; it is laid out as its product, not as its table."""
    main = new if old.kind == "embedding" else old
    vectors = tuple(dict.fromkeys((*old.vectors, *new.vectors)))
    return replace(main, name=old.name, modules=(*old.modules, *new.modules), vectors=vectors)


def _why(module: nn.Module, attribute: str) -> str:
    return f"{type(module).__name__}.{attribute} is not read by any registered layer"


def _near(patterns: Iterable[str], names: list[str]) -> list[str]:
    from difflib import get_close_matches

    near = [hit for pattern in patterns for hit in get_close_matches(pattern, names, n=5, cutoff=0.0)]
    return list(dict.fromkeys(near or names))
