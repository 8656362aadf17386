"""What do chosen layers answer, and how do their directions correlate?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datumwise.probe.losses import Forward
from datumwise.probe.needs import Need
from datumwise.probe.needs.last_layer import pooled

__all__ = ["ActivationGram", "Activations"]


class _Listening(Need):
    objective = None

    def __init__(self, names: Sequence[str]) -> None:
        self.activations = tuple(names)
        self._seen: dict[str, Tensor] = {}

    def activation(self, name: str, x: Any, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple | list) else getattr(output, "last_hidden_state", output)
        self._seen[name] = tensor.detach()


class Activations(_Listening):
    """``activations/NAME`` (n, d) float32: a module's output, averaged over unpadded (or spatial) positions.

    Parameters
    ----------
    names : sequence of str
        Qualified names of modules.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self._found: dict[str, Any] = {}

    def forward(self, forward: Forward) -> None:
        pools = {name: pooled(x, forward.unpadded) for name, x in self._seen.items()}
        self._found = {f"activations/{name}": x.float().cpu().numpy() for name, x in pools.items()}
        self._seen = {}

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        return self._found


class ActivationGram(_Listening):
    """Sums over unpadded positions of x x^T of an output: state ``NAME/gram`` (d, d), ``NAME/count`` ().

    Not centred; divide by the count for a mean.
    """

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self._sums: dict[str, np.ndarray] = {}

    def forward(self, forward: Forward) -> None:
        for name, x in self._seen.items():
            if x.ndim == 4:
                x = x.flatten(2).mT
            keep = forward.unpadded
            rows = x[keep] if keep is not None and keep.shape == x.shape[:2] and x.ndim == 3 else x.flatten(0, -2)
            rows = rows if rows.dtype == torch.float64 else rows.float()
            self._add(f"{name}/gram", (rows.T @ rows).double().cpu().numpy())
            self._add(f"{name}/count", np.float64(len(rows)))
        self._seen = {}

    def _add(self, key: str, value: Any) -> None:
        self._sums[key] = self._sums[key] + value if key in self._sums else np.asarray(value)

    def state(self) -> dict[str, np.ndarray]:
        return dict(self._sums)

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        self._sums = {k: np.asarray(v) for k, v in state.items()}

    def merge(self, other: Mapping[str, np.ndarray]) -> None:
        for key, value in other.items():
            self._add(key, value)
