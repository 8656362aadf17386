"""How is a weight edit tried, measured and undone? In place, while a context is open; bit for bit as before afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from datumwise.errors import ModelMismatch, NotFinite
from datumwise.forget.edit_cost import EditCost
from datumwise.probe.swapped_weights import as_parameter, check_weight, weight_matrix

__all__ = ["EditPlan", "LayerPlan", "WeightEdit"]


@dataclass(frozen=True)
class LayerPlan:
    """What an edit does to one layer.

    Attributes
    ----------
    shape : (int, int)
        (o, i) of its weight.
    energy_moved : float
        ||W_edited - W||^2 / ||W||^2, what is really written.
    rounding : float
        Norm of what the weight's own precision rounds off, over the norm of the change; 0 where nothing changes. Near 1 the
        edit is lost in the rounding.
    kept_pairs : int or None
        Of the o i eigenvector pairs; None for edits that have none.
    kept_mass : float or None
        Share of the curvature on them.
    ranks : (int, int) or None
        Input and output directions among them.
    """

    shape: tuple[int, int]
    energy_moved: float
    rounding: float
    kept_pairs: int | None = None
    kept_mass: float | None = None
    ranks: tuple[int, int] | None = None

    @property
    def kept_share(self) -> float | None:
        """Kept pairs over all pairs."""
        return None if self.kept_pairs is None else self.kept_pairs / (self.shape[0] * self.shape[1])


@dataclass(frozen=True)
class EditPlan:
    """What an edit does, before it is done.

    Attributes
    ----------
    layers : dict of str to LayerPlan
    energy_moved : float
        Of all edited weights together.
    cost : EditCost or None
        Predicted increase of the loss, where data were given.
    """

    layers: dict[str, LayerPlan]
    energy_moved: float
    cost: EditCost | None = None

    def __getitem__(self, name: str) -> LayerPlan:
        return self.layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)

    def table(self) -> str:
        """One line a layer, and the predicted cost."""
        width = max([len(name) for name in self.layers] + [5])
        lines = [f"{'layer':{width}}  {'weight':>13}  {'kept pairs':>18}  {'ranks':>11}  {'energy moved':>12}  {'rounding':>8}"]
        for name, layer in self.layers.items():
            kept = "" if layer.kept_pairs is None else f"{layer.kept_pairs:,} ({layer.kept_share:.1%})"
            ranks = "" if layer.ranks is None else f"{layer.ranks[0]}, {layer.ranks[1]}"
            shape = f"{layer.shape[0]} x {layer.shape[1]}"
            numbers = f"{layer.energy_moved:>12.2%}  {layer.rounding:>8.1e}"
            lines.append(f"{name:{width}}  {shape:>13}  {kept:>18}  {ranks:>11}  {numbers}")
        lines.append(f"{self.energy_moved:.2%} of the energy of these weights is moved")
        if self.cost is not None:
            lines.append(str(self.cost))
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers; the cost without its datapoints."""
        layers = {name: asdict(layer) for name, layer in self.layers.items()}
        cost = None if self.cost is None else self.cost.to_dict()
        return {"layers": layers, "energy_moved": self.energy_moved, "cost": cost}


@dataclass
class _Written:
    """A weight as it was, and the state of the parameter that was written over it."""

    parameter: nn.Parameter
    original: Tensor
    version: int


class WeightEdit(ABC):
    """A change of some layers' weights that can be applied to a model, looked at, and taken back exactly.

    Subclasses say which layers (:meth:`names`) and what becomes of each weight (:meth:`edited`). Biases, and everything else,
    stay as they are.
    """

    def __init__(self) -> None:
        self._written: WeakKeyDictionary[nn.Module, dict[str, _Written]] = WeakKeyDictionary()

    @abstractmethod
    def names(self, model: nn.Module) -> list[str]:
        """Layers of ``model`` that are edited."""

    @abstractmethod
    def edited(self, name: str, W: Tensor) -> Tensor:
        """The new weight (o, i) of a layer; ``W`` (o, i) is float32 or float64 and not to be changed."""

    def described(self, name: str) -> dict[str, Any]:
        """``kept_pairs``, ``kept_mass`` and ``ranks`` of a layer's plan, where the edit has such."""
        return {}

    def is_applied(self, model: nn.Module) -> bool:
        """Whether `apply` was called on this model without `restore`."""
        return unwrapped(model) in self._written

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        """The edited weights (o, i) by layer, each in the type of its parameter; the model is not touched."""
        return {name: new.to(weight_matrix(unwrapped(model), name).dtype) for name, _, new in self._both(model)}

    def apply(self, model: nn.Module) -> nn.Module:
        """Write the edited weights into the model, in place.

        Returns
        -------
        torch.nn.Module
            ``model``.

        Raises
        ------
        ModelMismatch
            The edit is applied already; a layer has no weight of its own (quantised, tied, computed) or one of another shape.
        NotFinite
            A weight, or what becomes of it, has NaN or infinite values; nothing is written then.
        """
        inner = unwrapped(model)
        if inner in self._written:
            raise ModelMismatch("this edit is applied to this model already", remedy="call restore(model) first")
        written: dict[str, _Written] = {}
        try:
            for name, _, new in self._both(model):
                module, _ = check_weight(inner, name)
                parameter = module._parameters["weight"]
                assert parameter is not None
                kept = _Written(parameter, parameter.detach().clone(), 0)
                written[name] = kept
                _write(kept, as_parameter(module, new))
        except BaseException:
            for kept in written.values():
                _write(kept, kept.original)
            raise
        self._written[inner] = written
        return model

    def restore(self, model: nn.Module) -> nn.Module:
        """Put back the weights as they were before `apply`, bit for bit.

        Raises
        ------
        ModelMismatch
            The edit is not applied to this model, or a weight was changed or replaced since; nothing is restored then.
        """
        inner = unwrapped(model)
        if inner not in self._written:
            raise ModelMismatch("this edit is not applied to this model", remedy="call apply(model) first")
        for name, kept in self._written[inner].items():
            if inner.get_submodule(name)._parameters.get("weight") is not kept.parameter:
                raise ModelMismatch(f"the weight of {name} was replaced since the edit", remedy="restore before that")
            if kept.parameter._version != kept.version:
                raise ModelMismatch(
                    f"the weight of {name} was changed since the edit",
                    remedy="restore edits in the reverse order, and before training",
                )
        for kept in self._written.pop(inner).values():
            _write(kept, kept.original)
        return model

    def applied(self, model: nn.Module) -> AbstractContextManager[nn.Module]:
        """The edited model inside; afterwards, also after an error, the weights as they were.

        Raises
        ------
        ModelMismatch, NotFinite
            As of `apply` and `restore`.
        """
        return _applied(self, model)

    def plan(self, model: nn.Module) -> EditPlan:
        """What the edit does to each layer; the model is not touched."""
        layers, moved, whole = {}, 0.0, 0.0
        for name, W, new in self._both(model):
            dtype = weight_matrix(unwrapped(model), name).dtype
            rounded = new.to(dtype).to(W.dtype)
            wanted, lost = (float(x.double().norm()) for x in (new - W, rounded - new))
            energy, change = float(W.double().square().sum()), float((rounded - W).double().square().sum())
            rounding = 0.0 if wanted == 0 else lost / wanted
            share = change / energy if energy else 0.0
            layers[name] = LayerPlan((W.shape[0], W.shape[1]), share, rounding, **self.described(name))
            moved, whole = moved + change, whole + energy
        return EditPlan(layers, moved / whole if whole else 0.0)

    def _both(self, model: nn.Module) -> Iterator[tuple[str, Tensor, Tensor]]:
        """Name, weight and edited weight of each layer, in float32 at least."""
        inner = unwrapped(model)
        for name in self.names(inner):
            own = weight_matrix(inner, name)
            W = own if own.dtype in (torch.float32, torch.float64) else own.float()
            if not bool(torch.isfinite(W).all()):
                raise NotFinite(f"the weight of {name} has NaN or infinite values")
            new = self.edited(name, W)
            if not bool(torch.isfinite(new).all()):
                raise NotFinite(f"the edited weight of {name} has NaN or infinite values")
            yield name, W, new


@contextmanager
def _applied(edit: WeightEdit, model: nn.Module) -> Iterator[nn.Module]:
    edit.apply(model)
    try:
        yield model
    finally:
        edit.restore(model)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model under torch.compile."""
    inner = getattr(model, "_orig_mod", model)
    assert isinstance(inner, nn.Module)
    return inner


def differences(edit: WeightEdit, model: nn.Module) -> Mapping[str, Tensor]:
    """W_edited - W (o, i) by layer, of what is really written: rounded to the parameter's type, then in float32 at least."""
    return {name: new.to(weight_matrix(unwrapped(model), name).dtype).to(W.dtype) - W for name, W, new in edit._both(model)}


def _write(kept: _Written, values: Tensor) -> None:
    with torch.no_grad():
        kept.parameter.copy_(values)
    kept.version = kept.parameter._version
