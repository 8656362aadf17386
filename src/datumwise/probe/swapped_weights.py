"""What would the model say with other weights in some layers? Weight matrices read, replaced for a while, and put back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches

import torch
from torch import Tensor, nn

from datumwise.errors import ModelMismatch, UnknownName, name_some
from datumwise.probe.layers import Reader, reader_of
from datumwise.probe.tap import swapped as swapped_parameters

__all__ = ["as_parameter", "check_weight", "swapped", "weight_matrix"]

EDITABLE = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@contextmanager
def swapped(model: nn.Module, weights: Mapping[str, Tensor]) -> Iterator[nn.Module]:
    """The model with other weight matrices inside, and exactly its own afterwards, also on an error.

    Parameters are replaced, not written to: not a bit of the model's own changes.

    Parameters
    ----------
    model : torch.nn.Module
    weights : dict of module name to Tensor (o, i)
        Matrices W of y = W a, also for transformers' Conv1D, which stores the transpose; a convolution's may have its kernel's
        shape. Rounded to the parameter's type.

    Yields
    ------
    torch.nn.Module
        ``model``.

    Raises
    ------
    UnknownName, ModelMismatch
        As of `check_weight`; a matrix has another shape.

    Examples
    --------
    >>> model = nn.Linear(2, 2, bias=False)
    >>> x, before = torch.ones(1, 2), model.weight.clone()
    >>> with swapped(model, {"": torch.eye(2)}), torch.no_grad():
    ...     model(x)
    tensor([[1., 1.]])
    >>> torch.equal(model.weight, before)
    True
    """
    places = []
    for name, matrix in weights.items():
        module, _ = check_weight(model, name)
        own = module.weight
        assert isinstance(own, Tensor)
        parameter = nn.Parameter(as_parameter(module, matrix.detach()).to(own), requires_grad=own.requires_grad)
        places.append((module, "weight", parameter))
    with swapped_parameters(list(places)):
        yield model


def weight_matrix(model: nn.Module, name: str) -> Tensor:
    """The weight W (o, i) of y = W a of a layer: a detached view of its parameter where its layout allows, else a copy.

    Raises
    ------
    UnknownName, ModelMismatch
        As of `check_weight`.
    """
    module, reader = check_weight(model, name)
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach().T if reader.transposed else weight.detach().flatten(1)


def as_parameter(module: nn.Module, matrix: Tensor) -> Tensor:
    """A matrix (o, i) in the layout of the layer's parameter.

    Raises
    ------
    ModelMismatch
        It has another shape.
    """
    reader, own = reader_of(module), module.weight
    assert reader is not None
    assert isinstance(own, Tensor)
    if matrix.shape == own.shape and matrix.ndim > 2:
        return matrix
    shape = reader.shape(module)
    if matrix.shape != shape:
        raise ModelMismatch(f"a weight {tuple(matrix.shape)} was given for a layer whose weight is {shape} (outputs, inputs)")
    return matrix.T if reader.transposed else matrix.reshape(own.shape)


def check_weight(model: nn.Module, name: str) -> tuple[nn.Module, Reader]:
    """The layer of a name, whose weight may be replaced, and how it is read.

    Raises
    ------
    UnknownName
        There is no such layer; names near ones.
    ModelMismatch
        It has no weight matrix of its own: not a Linear, Conv1D or convolution, grouped, quantised, tied to another layer,
        computed from other parameters, or not loaded.
    """
    modules = dict(model.named_modules())
    if name not in modules:
        known = [key for key, module in modules.items() if "weight" in module._parameters]
        near = get_close_matches(name, known, n=5, cutoff=0.0)
        raise UnknownName(f"the model has no layer {name!r}", remedy=f"there are {', '.join(near)}")
    module, reader = modules[name], reader_of(modules[name])
    weight = module._parameters.get("weight")
    if reader is None or reader.kind not in ("linear", "convolution"):
        raise ModelMismatch(f"layer {name!r} is a {type(module).__name__}, which has no weight matrix")
    if weight is None:
        raise ModelMismatch(
            f"the weight of {name} is computed or stored in parts", remedy="remove its parametrisation, or merge it, first"
        )
    if weight.dtype not in EDITABLE:
        raise ModelMismatch(f"the weight of {name} is quantised ({weight.dtype})", remedy="load it in float")
    if weight.is_meta:
        raise ModelMismatch(f"the weight of {name} is not loaded", remedy="load the model without offloading")
    if getattr(module, "groups", 1) > 1:
        raise ModelMismatch(f"layer {name} is a grouped convolution, which has no single matrix", remedy="leave it out")
    others = [key for key, other in modules.items() if other is not module and other._parameters.get("weight") is weight]
    if others:
        raise ModelMismatch(f"the weight of {name} is tied to {name_some(others)}", remedy="leave it out")
    return module, reader
