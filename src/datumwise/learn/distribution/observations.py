"""Data of one or many sensors as one fused tensor with a mask: any number of datapoints, any sensor missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from datumwise.errors import NotFinite, SchemaMismatch, UnknownName, name_some

__all__ = ["Sensors"]


@dataclass(frozen=True)
class Sensors:
    """What a datum looks like: p numbers, or a name and that sensor's numbers.

    Parameters
    ----------
    dims : int or mapping of str to int
        ``p``, or ``{name: p}``.

    Examples
    --------
    >>> sensors = Sensors.of({"fine": 1, "coarse": 2})
    >>> fused, seen = sensors.fuse({"coarse": torch.tensor([[[5.0, 6.0]]])})
    >>> fused.tolist(), seen.tolist()  # slots of both sensors, then which one it is
    ([[[0.0, 5.0, 6.0, 0.0, 1.0]]], [[True]])
    """

    names: tuple[str, ...] | None
    dims: tuple[int, ...]

    @classmethod
    def of(cls, dims: int | Mapping[str, int]) -> Sensors:
        """From ``p`` or ``{name: p}``."""
        sizes = tuple(dims.values()) if isinstance(dims, Mapping) else (dims,)
        if not sizes or any(not isinstance(p, int) or p < 1 for p in sizes):
            raise SchemaMismatch(f"obs_dim is {dims!r}", remedy="an int of at least 1, or a mapping of names to such")
        return cls(tuple(str(name) for name in dims) if isinstance(dims, Mapping) else None, sizes)

    @property
    def width(self) -> int:
        """Numbers of a fused datum."""
        return sum(self.dims) + (0 if self.names is None else len(self.names))

    def as_dims(self) -> int | dict[str, int]:
        """What `of` took."""
        return self.dims[0] if self.names is None else dict(zip(self.names, self.dims, strict=True))

    def fuse(
        self, data: Any, mask: Any = None, *, batch: int | None = None, like: Tensor | None = None, check: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Data as one tensor, and which of them were seen; what was not seen is zero.

        Parameters
        ----------
        data : Tensor (B, N, p), or mapping of name to such, or None
            None, and a sensor that is left out, have no data.
        mask : Tensor of bool (B, N), or mapping of name to such, optional
            True where a datum was seen; what was not may hold NaN.
        batch : int, optional
            B, where there are no data to tell.
        like : Tensor, optional
            Gives dtype and device.
        check : bool, default True
            False skips the check for NaN, for inner loops that look themselves.

        Returns
        -------
        fused : Tensor (B, N, width)
        seen : Tensor of bool (B, N)

        Raises
        ------
        NotFinite
            NaN or infinity in a datum that was seen; rows are named.
        SchemaMismatch, UnknownName
        """
        like = torch.zeros(()) if like is None else like
        if self.names is None:
            if isinstance(data, Mapping):
                raise SchemaMismatch(
                    f"data are named ({name_some(data)}) and the model's sensor is not", remedy="give one tensor (B, N, p)"
                )
            parts = [] if data is None else [self._part("data", data, mask, self.dims[0], like, check)]
        else:
            parts = self._named(data, mask, like, check)
        if not parts:
            fused = torch.zeros(batch or 1, 0, self.width, dtype=like.dtype, device=like.device)
            return fused, torch.zeros(batch or 1, 0, dtype=torch.bool, device=like.device)
        sizes = {len(values) for values, _ in parts}
        if len(sizes) > 1:
            raise SchemaMismatch(f"sensors hold data of {sorted(sizes)} problems", remedy="the same B in all")
        if len(parts) == 1:
            return parts[0]
        return torch.cat([values for values, _ in parts], 1), torch.cat([seen for _, seen in parts], 1)

    def _named(self, data: Any, mask: Any, like: Tensor, check: bool) -> list[tuple[Tensor, Tensor]]:
        assert self.names is not None
        data, mask = {} if data is None else data, {} if mask is None else mask
        for what, given in (("data", data), ("mask", mask)):
            if not isinstance(given, Mapping):
                raise SchemaMismatch(
                    f"the {what} of named sensors must be named", remedy=f"a mapping of {', '.join(self.names)}"
                )
            if unknown := [name for name in given if name not in self.names]:
                raise UnknownName(f"no sensor {name_some(unknown)}", remedy=f"the model knows {', '.join(self.names)}")
        parts = []
        for i, (name, p) in enumerate(zip(self.names, self.dims, strict=True)):
            if data.get(name) is None:
                continue
            values, seen = self._part(name, data[name], mask.get(name), p, like, check)
            before = sum(self.dims[:i])
            values = F.pad(values, (before, self.width - before - p))
            values[..., sum(self.dims) + i] = seen.to(values.dtype)
            parts.append((values, seen))
        return parts

    def _part(self, name: str, values: Any, mask: Any, p: int, like: Tensor, check: bool) -> tuple[Tensor, Tensor]:
        """One sensor's data (B, N, p), zero where not seen, and what was seen (B, N)."""
        values = torch.as_tensor(values).to(dtype=like.dtype, device=like.device)
        if values.dim() != 3 or values.shape[-1] != p:
            raise SchemaMismatch(f"{name} of shape {tuple(values.shape)}", remedy=f"(B, N, {p})")
        if mask is None:
            seen = torch.ones(values.shape[:2], dtype=torch.bool, device=values.device)
        else:
            seen = torch.as_tensor(mask, device=values.device)
            if seen.shape != values.shape[:2] or seen.dtype != torch.bool:
                raise SchemaMismatch(
                    f"a mask of shape {tuple(seen.shape)} and {seen.dtype} for {name} of shape {tuple(values.shape)}",
                    remedy="bool (B, N), True where a datum was seen",
                )
            values = torch.where(seen[..., None], values, 0.0)
        if check and not bool(values.isfinite().all()):
            rows = (~values.isfinite()).flatten(1).any(1).nonzero().flatten().tolist()
            raise NotFinite(
                f"{name} holds NaN or infinity in row {name_some(rows)}", remedy="mask=False where nothing was seen"
            )
        return values, seen
