"""Where does the whole data set push the weights? The sum of all gradients, exact and streamed."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from datumwise.probe.gradient import Grad, Layer, batch_gradient
from datumwise.probe.losses import Forward
from datumwise.probe.needs import Need

__all__ = ["MeanGradient"]


class MeanGradient(Need):
    """Sum of the gradients of all datapoints and their number; :meth:`mean` is a target for ``grad_dot``.

    Parameters
    ----------
    objective : {"loss", "sampled", "measure"}
    """

    whole = True

    def __init__(self, objective: str = "loss") -> None:
        self.objective = objective
        self._sums: dict[str, Tensor] = {}
        self._shapes: dict[str, Layer] = {}
        self.count = 0

    def begin(self, layers: Mapping[str, Layer]) -> None:
        self._shapes = {layer.weight: layer for layer in layers.values() if layer.weight}

    def forward(self, forward: Forward) -> None:
        self.count += forward.n

    def layer(self, name: str, grad: Grad) -> None:
        found = {parameter: vector.sum(0) for parameter, vector in grad.vectors.items()}
        if grad.layer.weight:
            found[grad.layer.weight] = batch_gradient(grad)
        for parameter, value in found.items():
            value = value.double().cpu()
            self._sums[parameter] = self._sums[parameter] + value if parameter in self._sums else value

    def mean(self, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
        """Mean gradient by parameter name, each of its parameter's shape (``shapes``), float64."""
        mean: dict[str, Tensor] = {}
        for name, total in self._sums.items():
            layer = self._shapes.get(name)
            total = total.T if layer is not None and layer.transposed else total
            mean[name] = total.reshape(shapes[name]) / self.count
        return mean

    def state(self) -> dict[str, np.ndarray]:
        return {"count": np.float64(self.count), **{k: v.numpy() for k, v in self._sums.items()}}  # type: ignore[dict-item]

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        self._sums, self.count = {}, 0
        self.merge(state)

    def merge(self, other: Mapping[str, np.ndarray]) -> None:
        self.count += int(other["count"])
        for name, value in other.items():
            if name != "count":
                tensor = torch.as_tensor(np.asarray(value)).double()
                self._sums[name] = self._sums[name] + tensor if name in self._sums else tensor
