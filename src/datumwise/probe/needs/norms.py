"""How hard does a datapoint push the weights? Its gradient norm over all captured parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from datumwise.probe.gradient import Grad
from datumwise.probe.losses import Forward, check_finite
from datumwise.probe.needs import Need

__all__ = ["GradNorm"]


class GradNorm(Need):
    """Euclidean norm of each datapoint's gradient: column ``grad_norm`` (n,) float64, >= 0.

    Squares are summed over layers in float64.
    """

    covers_all = True

    def __init__(self, objective: str = "loss", column: str = "grad_norm") -> None:
        self.objective = objective
        self.column = column
        self._squares: Tensor | None = None

    def forward(self, forward: Forward) -> None:
        self._squares = torch.zeros(forward.n, dtype=torch.float64, device=forward.losses.device)

    def layer(self, name: str, grad: Grad) -> None:
        assert self._squares is not None
        self._squares[grad.at] += grad.norm2()

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        assert self._squares is not None
        check_finite(self._squares, ids, "gradient")
        return {self.column: self._squares.sqrt().cpu().numpy()}
