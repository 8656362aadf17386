"""How is a gradient of millions of entries kept in 2,048 numbers? By a sparse sign projection, never stored.

Every scalar parameter j goes to one bucket h(j) with one sign s(j): z[h(j)] += s(j) x[j]. Inner products are
kept without bias; the error of a cosine is 1/sqrt(length). Source: Dasgupta, Kumar and Sarlos, 2010 (one
non-zero a column); TRAK's dense projection has the same error at the same length.

Buckets come a block of ``length`` neighbours at a time: h(j) = (j + shift(j // length)) mod length. Two
entries of one block never meet, two of different blocks meet with probability 1/length, so the variance is
that of independent buckets, and a block is added in one contiguous step. Shifts and signs are an integer hash
of (seed, parameter name, index): the same on every worker and machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["Sjlt", "gaussian", "id_keys", "mixed", "name_key", "uniform"]

_A, _B = -4658895280553007687, -7723592293110705685  # splitmix64 multipliers as signed integers
_GOLDEN = -7046029254386353131


def mixed(x: Tensor, key: int = 0) -> Tensor:
    """splitmix64 of int64 values (any shape) with a key: well-mixed int64 values."""
    z = x * _GOLDEN + _signed(key)
    z = (z ^ _shift(z, 30)) * _A
    z = (z ^ _shift(z, 27)) * _B
    return z ^ _shift(z, 31)


def _shift(z: Tensor, bits: int) -> Tensor:
    """Logical right shift of int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _signed(key: int) -> int:
    key &= (1 << 64) - 1
    return key - (1 << 64) if key >> 63 else key


def uniform(z: Tensor) -> Tensor:
    """Mixed int64 values as float64 in [0, 1)."""
    return _shift(z, 11).double() / (1 << 53)


def name_key(name: str, seed: int) -> int:
    """64-bit key of a name and a seed, the same on every machine."""
    return int.from_bytes(blake2b(f"{seed}\x00{name}".encode(), digest_size=8).digest(), "little")


def id_keys(ids: Sequence[Any]) -> np.ndarray:
    """int64 (n,) keys of datapoint ids (their text), the same on every machine."""
    return np.array([_signed(name_key(str(i), 0)) for i in ids], dtype=np.int64)


def gaussian(name: str, rows: int, columns: int, seed: int, like: Tensor) -> Tensor:
    """A (rows, columns) standard normal matrix from the hash (Box and Muller), of the type of ``like``."""
    j = torch.arange(rows * columns, device=like.device)
    key = name_key(name, seed)
    u, v = uniform(mixed(j, key)), uniform(mixed(j, key ^ 0x5DEECE66D))
    z = torch.sqrt(-2 * torch.log1p(-u)) * torch.cos(2 * torch.pi * v)
    return z.view(rows, columns).to(like.dtype)


@dataclass
class Sjlt:
    """A sparse Johnson-Lindenstrauss projection of everything named, into one row of ``length`` numbers.

    Parameters
    ----------
    length : int
        Buckets; all parameters share them.
    seed : int

    Examples
    --------
    >>> import torch
    >>> sketch = Sjlt(length=64, seed=0)
    >>> x = torch.randn(3, 1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    >>> bool(torch.allclose(sketch("w", x), x @ sketch.explicit("w", 1000).T))
    True
    """

    length: int
    seed: int = 0
    cache_limit: int = 1 << 26  # signs kept in memory, at most this many
    _signs: dict[tuple[str, int, torch.dtype, torch.device], Tensor] = field(default_factory=dict, repr=False)
    _shifts: dict[tuple[str, int], list[int]] = field(default_factory=dict, repr=False)
    _kept: int = field(default=0, repr=False)

    def shifts(self, name: str, count: int) -> list[int]:
        """Rotation of each block of ``length`` entries, 0 .. length - 1."""
        at = (name, count)
        if at not in self._shifts:
            blocks = torch.arange(-(-count // self.length))
            self._shifts[at] = (_shift(mixed(blocks, name_key(name, self.seed)), 1) % self.length).tolist()
        return self._shifts[at]

    def buckets(self, name: str, index: Tensor) -> Tensor:
        """h(j), int64 of the shape of ``index``."""
        block = index // self.length
        top = int(block.max()) + 1 if block.numel() else 0
        shifts = torch.tensor(self.shifts(name, top * self.length), device=index.device, dtype=torch.int64)
        return (index + shifts[block]) % self.length if top else index

    def signs(self, name: str, index: Tensor, dtype: torch.dtype) -> Tensor:
        """s(j), +1 or -1, of the shape of ``index``."""
        bit = mixed(index, name_key(name, ~self.seed)) & 1
        return (2 * bit - 1).to(dtype)

    def explicit(self, name: str, count: int) -> Tensor:
        """The projection of one parameter as a dense float64 matrix (length, count); for small ones only."""
        index = torch.arange(count)
        matrix = torch.zeros(self.length, count, dtype=torch.float64)
        matrix[self.buckets(name, index), index] = self.signs(name, index, torch.float64)
        return matrix

    def __call__(self, name: str, x: Tensor) -> Tensor:
        """The sketch (n, length) of one parameter's gradients ``x`` (n, count)."""
        z = x.new_zeros(x.shape[0], self.length)
        self.add(z, name, x)
        return z

    def add(self, z: Tensor, name: str, x: Tensor) -> None:
        """Add the sketch of ``x`` (n, count) to ``z`` (n, length)."""
        count = x.shape[1]
        signs = self._all_signs(name, count, x)
        for block, shift in enumerate(self.shifts(name, count)):
            start = block * self.length
            stop = min(start + self.length, count)
            turn = min(start + self.length - shift, stop)  # from here on the block goes round to bucket 0
            z[:, shift : shift + turn - start].addcmul_(x[:, start:turn], signs[start:turn])
            if turn < stop:
                z[:, : stop - turn].addcmul_(x[:, turn:stop], signs[turn:stop])

    def add_rows(self, z: Tensor, name: str, rows: Tensor, d: Tensor) -> None:
        """Add the sketch of a table's gradient: ``d`` (n, T, i) at the rows ``rows`` (n, T)."""
        i = d.shape[2]
        index = rows[:, :, None] * i + torch.arange(i, device=rows.device)
        values = d * self.signs(name, index, d.dtype)
        z.scatter_add_(1, self.buckets(name, index).flatten(1), values.flatten(1))

    def _all_signs(self, name: str, count: int, like: Tensor) -> Tensor:
        at = (name, count, like.dtype, like.device)
        if at not in self._signs:
            signs = torch.empty(count, dtype=like.dtype, device=like.device)
            for start in range(0, count, 1 << 20):  # the hash works on int64: 1 Mi entries at a time
                stop = min(start + (1 << 20), count)
                index = torch.arange(start, stop, device=like.device)
                signs[start:stop] = self.signs(name, index, like.dtype)
            if self._kept + count > self.cache_limit:
                return signs
            self._signs[at] = signs
            self._kept += count
        return self._signs[at]
