"""One row a datapoint: its whole gradient, or what a projection keeps of it, perhaps as Adam would step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from datumwise.probe.gradient import Grad, Layer
from datumwise.probe.losses import Forward, check_finite
from datumwise.probe.needs import Need
from datumwise.probe.sketch import Sjlt

if TYPE_CHECKING:
    from datumwise.probe.attribution.projection import Projection

__all__ = ["Direction", "GradRows"]


class Direction(Protocol):
    """What is made of a gradient before it is projected, entry by entry."""

    def __call__(self, name: str, rows: Tensor) -> Tensor:
        """Of the gradients (n, size) of the parameter ``name``, flat in the parameter's own order."""


class GradRows(Need):
    """Columns ``rows`` (n, k) and ``value`` (n,), the objective itself, both in the model's precision.

    Every layer's gradient is formed (16 MiB of a layer at a time), so that a `Direction` and a given matrix see
    the entries in the parameter's own order; a sketch of an embedding only touches the rows that were looked up.

    Parameters
    ----------
    projection : Projection
    sizes : mapping of parameter name to count
        Trainable parameters in the model's order; those that are captured make up the row.
    direction : Direction, optional
    """

    covers_all = True

    def __init__(self, projection: Projection, sizes: Mapping[str, int], direction: Direction | None = None) -> None:
        self.projection = projection
        self.sizes = sizes
        self.direction = direction
        self._captured: dict[str, int] = {}
        self._seen: set[str] = set()
        self._z: Tensor | None = None
        self._value = torch.zeros(0)

    def begin(self, layers: Mapping[str, Layer]) -> None:
        captured = {name for layer in layers.values() for name in layer.parameters}
        self._captured = {name: size for name, size in self.sizes.items() if name in captured}
        self.projection.begin(self._captured)

    def forms(self, layer: Layer) -> bool:
        return layer.shape is not None and not (self._sparse and layer.kind == "embedding")

    @property
    def _sparse(self) -> bool:
        """Whether a table's gradient can be sketched from the rows that were looked up."""
        return self.direction is None and isinstance(self.projection, Sjlt)

    def forward(self, forward: Forward) -> None:
        value = forward.losses.detach()
        self._value = value if value.dtype == torch.float64 else value.float()
        self._z = None
        self._seen.clear()

    def layer(self, name: str, grad: Grad) -> None:
        if self._z is None:
            self._z = grad.like.new_zeros(len(self._value), self.projection.length)
        z = self._z[grad.at]
        for parameter, vector in grad.vectors.items():
            self._add(z, parameter, vector)
        if not grad.has_matrix or not grad.layer.weight:
            return
        if isinstance(self.projection, Sjlt) and self._sparse and not grad.outers:
            self.projection.add_rows(z, grad.layer.weight, grad.lookup.ids, grad.lookup.d)
        else:
            matrix = grad.W.mT if grad.layer.transposed else grad.W
            self._add(z, grad.layer.weight, matrix.flatten(1))

    def _add(self, z: Tensor, name: str, rows: Tensor) -> None:
        self._seen.add(name)
        self.projection.add(z, name, rows if self.direction is None else self.direction(name, rows))

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        if self._z is None:
            self._z = self._value.new_zeros(len(ids), self.projection.length)
        if self.direction is not None:  # the moments step on where the loss does not reach
            for name in self._captured.keys() - self._seen:
                self._add(self._z, name, self._z.new_zeros(len(ids), self._captured[name]))
        check_finite(self._z.square().sum(1), ids, "gradient")
        return {"rows": self._z.cpu().numpy(), "value": self._value.cpu().numpy()}
