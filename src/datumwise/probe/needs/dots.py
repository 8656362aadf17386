"""Does a datapoint push the weights towards a target? Inner products with given gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from datumwise.errors import ModelMismatch, UnknownName, name_some
from datumwise.probe.gradient import Grad, Layer
from datumwise.probe.losses import Forward, check_finite
from datumwise.probe.needs import Need

__all__ = ["GradDot"]


class GradDot(Need):
    """``grad_dot`` (n, q) float64: <gradient of datapoint n, target j>, over the parameters named.

    Positive: a gradient step on the datapoint also descends along the target.

    Parameters
    ----------
    targets : list of q dicts, parameter name -> Tensor of the parameter's shape
    objective : {"loss", "sampled", "measure"}

    Raises
    ------
    UnknownName
        A target names a parameter that is not captured.
    ModelMismatch
        A target's tensor has another shape than its parameter.
    """

    def __init__(self, targets: Sequence[Mapping[str, Tensor]], objective: str = "loss", column: str = "grad_dot"):
        self.objective = objective
        self.column = column
        self.targets = list(targets)
        self._matrices: dict[str, Tensor] = {}
        self._vectors: dict[str, Tensor] = {}
        self._dots: Tensor | None = None
        self._n = 0

    def begin(self, layers: Mapping[str, Layer]) -> None:
        captured = {p for layer in layers.values() for p in layer.parameters}
        unknown = sorted({p for target in self.targets for p in target} - captured)
        if unknown:
            raise UnknownName(
                f"the target names parameters that are not captured, {name_some(unknown)}",
                remedy="leave them out, or widen modules=",
            )
        for layer in layers.values():
            for name in layer.parameters:
                found = [target.get(name) for target in self.targets]
                one = next((f for f in found if f is not None), None)
                if one is None:
                    continue
                rows = torch.stack([torch.zeros_like(one) if f is None else f.to(one) for f in found]).detach()
                if name == layer.weight:
                    self._matrices[layer.name] = torch.stack([_matrix(layer, r) for r in rows])
                else:
                    self._vectors[name] = rows.flatten(1)

    def wants(self, layer: Layer) -> bool:
        return layer.name in self._matrices or any(v in self._vectors for v in layer.vectors)

    def forms(self, layer: Layer) -> bool:
        wide = len(self.targets) > 1 and layer.name in self._matrices
        return wide and not layer.single and layer.kind != "embedding"

    def forward(self, forward: Forward) -> None:
        self._dots = torch.zeros(forward.n, len(self.targets), dtype=torch.float64, device=forward.losses.device)

    def layer(self, name: str, grad: Grad) -> None:
        assert self._dots is not None
        like = grad.like
        matrices = self._matrices.get(name)
        if matrices is not None and (matrices.dtype, matrices.device) != (like.dtype, like.device):
            matrices = self._matrices[name] = matrices.to(like)
        vectors = {v: self._vectors[v].to(like) for v in grad.vectors if v in self._vectors}
        self._dots[grad.at] += grad.dot(matrices, vectors)

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        assert self._dots is not None
        check_finite(self._dots, ids, "gradient")
        return {self.column: self._dots.cpu().numpy()}


def _matrix(layer: Layer, tensor: Tensor) -> Tensor:
    assert layer.shape is not None
    if tensor.numel() != layer.shape[0] * layer.shape[1]:
        raise ModelMismatch(f"the target of {layer.weight} has shape {tuple(tensor.shape)}, not {layer.shape}")
    return layer.matrix(tensor)
