"""How many numbers are kept of a gradient: all of them, a given matrix's worth, or a hashed sketch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from datumwise.errors import DatumwiseError, ModelMismatch, NotFinite, name_some
from datumwise.probe.sketch import Sjlt

__all__ = ["Exact", "Given", "Hashed", "Projection", "projection_of"]


class Projection(Protocol):
    """Takes one parameter's gradients at a time; all of them add up to a row."""

    length: int

    def begin(self, sizes: Mapping[str, int]) -> None:
        """The parameters that will come, in the model's order, with their sizes."""

    def add(self, z: Tensor, name: str, x: Tensor) -> None:
        """Add what is kept of ``x`` (n, size of the parameter) to ``z`` (n, length)."""

    @property
    def parameters(self) -> dict[str, Any]:
        """What rows and queries must agree on."""


class Exact:
    """The gradient itself: parameters one after the other, in the order of ``model.named_parameters()``."""

    def __init__(self) -> None:
        self.length = 0
        self._at: dict[str, slice] = {}

    def begin(self, sizes: Mapping[str, int]) -> None:
        self._at = _slices(sizes)
        self.length = sum(sizes.values())

    def add(self, z: Tensor, name: str, x: Tensor) -> None:
        z[:, self._at[name]] += x

    @property
    def parameters(self) -> dict[str, Any]:
        return {"projection": "none", "length": self.length}


class Given:
    """A matrix of the caller's own, (p, k): the row is the gradient times it."""

    def __init__(self, matrix: Any) -> None:
        self.matrix = torch.as_tensor(np.asarray(matrix))
        if self.matrix.ndim != 2 or not self.matrix.is_floating_point():
            raise DatumwiseError(f"a projection is a float matrix (p, k), not {self.matrix.dtype} {tuple(self.matrix.shape)}")
        bad = (~torch.isfinite(self.matrix).all(1)).nonzero()[:, 0].tolist()
        if bad:
            raise NotFinite(f"the projection has NaN or infinity in row {name_some(bad)}", ids=bad)
        self.length = self.matrix.shape[1]
        self._at: dict[str, slice] = {}

    def begin(self, sizes: Mapping[str, int]) -> None:
        self._at = _slices(sizes)
        count = sum(sizes.values())
        if count != len(self.matrix):
            raise ModelMismatch(
                f"the projection has {len(self.matrix):,} rows and {count:,} parameters are captured",
                remedy="it takes one row a trainable scalar, in the order of model.named_parameters()",
            )

    def add(self, z: Tensor, name: str, x: Tensor) -> None:
        if (self.matrix.dtype, self.matrix.device) != (x.dtype, x.device):
            self.matrix = self.matrix.to(x)
        z += x @ self.matrix[self._at[name]]

    @property
    def parameters(self) -> dict[str, Any]:
        from hashlib import blake2b

        digest = blake2b(self.matrix.double().cpu().numpy().tobytes(), digest_size=8).hexdigest()
        return {"projection": f"given:{digest}", "length": self.length}


class Hashed(Sjlt):
    """A sparse sign projection from a hash of seed, parameter name and index: nothing of size p x k is kept."""

    def begin(self, sizes: Mapping[str, int]) -> None:
        pass

    @property
    def parameters(self) -> dict[str, Any]:
        return {"projection": "sjlt", "length": self.length, "seed": self.seed}


def projection_of(projection: Any, default: int | None, p: int, seed: int) -> Projection:
    """The projection that a caller's ``projection`` asks for.

    Parameters
    ----------
    projection : "auto", None, int or array (p, k)
        "auto": ``default`` numbers, or the gradient itself where that is no longer. None: the gradient itself.
    default : int or None
        The method's own; None: the gradient itself.
    p : int
        Captured scalars.
    seed : int
    """
    if isinstance(projection, str):
        if projection != "auto":
            raise DatumwiseError(f"projection is {projection!r}", remedy='give a length, a matrix (p, k), None or "auto"')
        projection = None if default is None or p <= default else default
    if projection is None:
        return Exact()
    if isinstance(projection, int | np.integer):
        if projection < 1:
            raise DatumwiseError(f"a projection to {projection} numbers was asked for", remedy="it takes 1 or more")
        return Hashed(int(projection), seed)
    return Given(projection)


def _slices(sizes: Mapping[str, int]) -> dict[str, slice]:
    stops = np.cumsum(list(sizes.values())).tolist()
    return {name: slice(stop - size, stop) for (name, size), stop in zip(sizes.items(), stops, strict=True)}
