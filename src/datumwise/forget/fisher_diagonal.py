"""How important is each single weight to some datapoints? The mean of their squared gradients, exact and streamed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from datumwise.forget.module_data import ModuleData
from datumwise.probe.gradient import Grad, Layer
from datumwise.probe.losses import Forward, Losses
from datumwise.probe.needs import Need
from datumwise.probe.needs.mean_gradient import MeanGradient
from datumwise.probe.torch_pass import TorchPass

__all__ = ["SquaredGradient", "fisher_diagonal", "mean_gradient"]

FORMED_BYTES = 2**24  # gradients of single datapoints formed at a time


class SquaredGradient(Need):
    """Sum over datapoints of their squared gradients, of every weight; `mean` divides by their number.

    The square is taken of each datapoint's own gradient. Squares of a batch's gradient, which published code takes, depend on
    the batch size and vanish where gradients cancel.
    """

    def __init__(self) -> None:
        self.count = 0
        self._sums: dict[str, Tensor] = {}
        self._layers: dict[str, Layer] = {}

    def begin(self, layers: Mapping[str, Layer]) -> None:
        self._layers = {layer.weight: layer for layer in layers.values() if layer.weight}

    def forward(self, forward: Forward) -> None:
        self.count += forward.n

    def forms(self, layer: Layer) -> bool:
        return not layer.single

    def layer(self, name: str, grad: Grad) -> None:
        found = {parameter: vector.square().sum(0) for parameter, vector in grad.vectors.items()}
        if grad.layer.weight and grad.has_matrix:
            found[grad.layer.weight] = _squares(grad)
        for parameter, value in found.items():
            value = value.double()
            self._sums[parameter] = self._sums[parameter] + value if parameter in self._sums else value

    def mean(self, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Mean by parameter name, each of its parameter's shape, float64."""
        found = {}
        for name, total in self._sums.items():
            layer = self._layers.get(name)
            total = total.T if layer is not None and layer.transposed else total
            found[name] = total.reshape(shapes[name]) / self.count
        return found


def _squares(grad: Grad) -> Tensor:
    """Sum of the squared gradients of a layer's matrix, (o, i)."""
    assert grad.layer.shape is not None
    if grad.outers and not grad.lookups and grad.groups == 1 and grad.outer.a.shape[1] == 1:  # factored: never formed
        return grad.g[:, 0].square().T @ grad.a[:, 0].square()
    total: Tensor | None = None
    for piece in grad.pieces(FORMED_BYTES):
        part = piece.W.square().sum(0)
        total = part if total is None else total + part
    assert total is not None
    return total


def fisher_diagonal(
    model: nn.Module, data: ModuleData, loss_fn: Losses | None = None, progress: Any = None
) -> dict[str, Tensor]:
    """Mean over datapoints of the squared gradient of each trainable parameter, float64, by parameter name."""
    return _passed(model, data, SquaredGradient(), loss_fn, progress)


def mean_gradient(model: nn.Module, data: ModuleData, loss_fn: Losses | None = None, progress: Any = None) -> dict[str, Tensor]:
    """Mean over datapoints of the gradient of each trainable parameter, float64, by parameter name."""
    return _passed(model, data, MeanGradient(), loss_fn, progress)


def _passed(model: nn.Module, data: ModuleData, need: Any, loss_fn: Losses | None, progress: Any) -> dict[str, Tensor]:
    done = 0
    with TorchPass(model, [need], losses=loss_fn) as run:
        for rows, batch in data.straight():
            run.batch(batch, [data.ids[row] for row in rows])
            done += len(rows)
            if progress is not None:
                progress(done, len(data))
    shapes = {name: p.shape for name, p in model.named_parameters()}
    return need.mean(shapes)
