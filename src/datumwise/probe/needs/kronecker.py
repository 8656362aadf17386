"""How large are a layer's inputs and output gradients, and how correlated? Its Kronecker factors.

Source: Martens and Grosse (2015); Grosse and Martens (2016) for convolutions; the coupled factors weight each
position of one factor by its squared norm in the other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from math import isfinite
from typing import Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from datumwise.errors import ModelMismatch, NotFinite
from datumwise.probe.gradient import Grad, Layer
from datumwise.probe.losses import Forward
from datumwise.probe.needs import Need
from datumwise.probe.sketch import mixed, uniform

__all__ = ["KroneckerFactors", "OuterSum"]

FLUSH_EVERY = 64  # batches summed in float32 before they are added to the float64 total
DRAW = 0x6B666163  # key of the drawn positions, so that they do not follow the sampled labels
BLOCK = 128  # columns; wider products x^T x are formed by halves, without the upper triangle


class OuterSum:
    """Sum of w_t x_t x_t^T over positions: float32 products per batch, a float64 total.

    Parameters
    ----------
    width : int
        d.
    like : Tensor
        Of the device of what is added.
    constant : bool
        Keep :attr:`first` too.

    Attributes
    ----------
    total : Tensor float64 (d, d)
    first : Tensor float64 (d,)
        Sum of w_t x_t: the column that a constant 1 appended to x would add; zero without ``constant``.
    mass : float
        Sum of w_t: that column's last entry.
    count : int
        Positions.
    """

    def __init__(self, width: int, like: Tensor, *, constant: bool = False) -> None:
        self.total = torch.zeros(width, width, dtype=torch.float64, device=like.device)
        self.first = torch.zeros(width, dtype=torch.float64, device=like.device)
        self.constant = constant
        self.mass = 0.0
        self.count = 0
        self._recent: Tensor | None = None  # lower triangle of the sum since the last flush
        self._batches = 0

    def add(self, x: Tensor, weights: Tensor | None = None) -> None:
        """Add positions x (N, d) with weights (N,), 1 by default."""
        weighted = x if weights is None else x * weights[:, None]
        if self._recent is None or (self._recent.dtype, self._recent.device) != (x.dtype, x.device):
            self.flush()
            self.total, self.first = self.total.to(x.device), self.first.to(x.device)
            self._recent = x.new_zeros(self.total.shape)
        add_products(self._recent, weighted, x)
        if self.constant:
            self.first += weighted.sum(0)
        self.mass += len(x) if weights is None else float(weights.sum(dtype=torch.float64))
        self.count += len(x)
        self._batches += 1
        if self._batches == FLUSH_EVERY:
            self.flush()

    def flush(self) -> OuterSum:
        """Add what was summed in float32 to the total."""
        if self._batches and self._recent is not None:
            self.total += self._recent.tril()
            self.total += self._recent.tril(-1).T
            self._recent.zero_()
            self._batches = 0
        return self

    def finite(self) -> bool:
        """Whether every entry so far is finite: a NaN or infinity in x shows on the diagonal."""
        recent = self.total if self._recent is None or not self._batches else self._recent
        return isfinite(float(recent.trace()))

    def matrix(self, constant: bool) -> Tensor:
        """The sum, float64 (d, d), or (d + 1, d + 1) with the constant 1 appended to x."""
        self.flush()
        if not constant:
            return self.total
        d = len(self.first)
        full = self.total.new_empty(d + 1, d + 1)
        full[:d, :d] = self.total
        full[:d, d] = full[d, :d] = self.first
        full[d, d] = self.mass
        return full


def add_products(into: Tensor, x: Tensor, y: Tensor) -> None:
    """Add the lower triangle of x^T y, a symmetric matrix (d, d), to ``into``; above it anything may stand.

    By halves, the block above the diagonal left out: up to a third less work than the whole product.
    """
    d = x.shape[1]
    if d <= BLOCK:
        into.addmm_(x.T, y)
        return
    half = BLOCK * (d // 2 // BLOCK) or d // 2
    add_products(into[:half, :half], x[:, :half], y[:, :half])
    add_products(into[half:, half:], x[:, half:], y[:, half:])
    into[half:, :half].addmm_(x[:, half:].T, y[:, :half])


class KroneckerFactors(Need):
    """Sums A = sum_t a_t a_t^T and G = sum_t g_t g_t^T of each layer, over the positions of all datapoints.

    Layers fed the same tensor share one A (sums over it are kept once, under the first layer's name).

    Parameters
    ----------
    labels : {"sampled", "gold"}
        Gradients g of the loss of labels drawn from the model (Fisher), or of the given ones.
    positions : {"supervised", "all"}
        Which positions of a sequence count: those with a target, or all that are not padding. A layer whose
        positions are not the tokens of the batch counts all of its own.
    coupled : bool
        A_c = sum ||g_t||^2 a_t a_t^T and G_c = sum ||a_t||^2 g_t g_t^T instead.
    bias : bool
        Count the constant 1 of a layer with a bias in ||a_t||^2 (it is appended to A when A is read).
    share : float
        Each position counts with this probability, above 0, at most 1. The draw depends on ``seed``, the
        datapoint's id and the position alone, and is the same for all layers with as many positions.
    seed : int
        Of that draw.
    names : collection of str, optional
        The layers to take; every Linear and convolution by default.
    """

    whole = True

    def __init__(
        self,
        *,
        labels: str = "sampled",
        positions: str = "supervised",
        coupled: bool = False,
        bias: bool = False,
        share: float = 1.0,
        seed: int = 0,
        names: Collection[str] | None = None,
    ) -> None:
        self.objective = "sampled" if labels == "sampled" else "loss"
        self.positions = positions
        self.coupled = coupled
        self.bias = bias
        self.share = share
        self.seed = seed
        self.names = None if names is None else frozenset(names)
        self.A: dict[str, OuterSum] = {}  # by the first layer fed the same tensor
        self.G: dict[str, OuterSum] = {}
        self.leader: dict[str, str] = {}
        self.has_bias: dict[str, bool] = {}
        self.n_datapoints = 0
        self.n_batches = 0
        self._ids: Sequence[Any] = ()
        self._rows: dict[tuple[int, int, int], Tensor | None] = {}  # which positions count, of this batch

    def begin(self, layers: Mapping[str, Layer]) -> None:
        leaders: dict[str, str] = {}
        for name, layer in layers.items():
            if not self.wants(layer):
                continue
            self.has_bias[name] = self.bias and bool(layer.vectors)
            fed = name if self.coupled else leaders.setdefault(layer.shares_input_with or name, name)
            if self.leader.setdefault(name, fed) != fed:
                raise ModelMismatch(f"layer {name} was fed the input of {self.leader[name]} before and not now")

    def wants(self, layer: Layer) -> bool:
        known = layer.shape is not None and layer.kind in ("linear", "convolution")
        return known and (self.names is None or layer.name in self.names)

    def forward(self, forward: Forward) -> None:
        self._ids = forward.ids
        self._rows.clear()

    def layer(self, name: str, grad: Grad) -> None:
        if grad.groups > 1 or grad.lookups:
            what = "a grouped convolution" if grad.groups > 1 else "tied to an embedding"
            raise ModelMismatch(f"layer {name} is {what}, which has no Kronecker factors", remedy="leave it out")
        counted = grad.positions if self.positions == "supervised" else grad.unpadded
        if counted is None:
            counted = grad.unpadded
        g = self._counted(grad.g, counted)
        leads = self.leader[name] == name
        a = self._counted(grad.a, counted) if leads or self.coupled else None
        g_weights = a_weights = None
        if self.coupled and a is not None:
            a_weights = g.square().sum(1)
            g_weights = a.square().sum(1) + float(self.has_bias[name])
        self._add(self.G, name, g, g_weights, "G")
        if leads and a is not None:
            self._add(self.A, name, a, a_weights, "A")

    def _add(self, sums: dict[str, OuterSum], name: str, x: Tensor, weights: Tensor | None, factor: str) -> None:
        if name not in sums:
            sums[name] = OuterSum(x.shape[1], x, constant=self.bias and factor == "A")
        sums[name].add(x, weights)
        if not sums[name].finite():
            raise NotFinite(f"factor {factor} of {name} has non-finite values after batch {self.n_batches}")

    def _counted(self, x: Tensor, counted: Tensor | None) -> Tensor:
        """Positions of x (n, T, d) that count, as (N, d)."""
        n, T = x.shape[:2]
        at = (id(counted), n, T)
        if at not in self._rows:
            self._rows[at] = self._chosen(n, T, counted, x.device)
        rows = self._rows[at]
        return x.flatten(0, 1) if rows is None else x.flatten(0, 1).index_select(0, rows)

    def _chosen(self, n: int, T: int, counted: Tensor | None, device: torch.device) -> Tensor | None:
        """Which of n T positions count, (N,) int64; None: all."""
        kept = counted
        if self.share < 1:
            keys = torch.tensor([crc32(str(one).encode()) for one in self._ids], device=device)  # mixed below
            places = mixed(torch.arange(1, T + 1, device=device), DRAW ^ self.seed)
            drawn = uniform(mixed(keys[:, None] ^ places, DRAW ^ self.seed)) < self.share
            kept = drawn if kept is None else drawn & kept
        if kept is None or bool(kept.all()):
            return None
        return kept.flatten().nonzero()[:, 0]

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        self.n_datapoints += len(ids)
        self.n_batches += 1
        return {}

    def settle(self) -> None:
        for total in (*self.A.values(), *self.G.values()):
            total.flush()

    def state(self) -> dict[str, np.ndarray]:
        """``A/<layer>``, ``G/<layer>`` sums, ``A.first``, ``A.mass``, counts and who shares whose input."""
        state: dict[str, np.ndarray] = {"n_datapoints": np.array(self.n_datapoints)}
        for factor, sums in (("A", self.A), ("G", self.G)):
            for name, total in sums.items():
                state[f"{factor}/{name}"] = total.flush().total.cpu().numpy().copy()
                state[f"{factor}.first/{name}"] = total.first.cpu().numpy().copy()
                state[f"{factor}.mass/{name}"] = np.array([total.mass, total.count])
        for name, leader in self.leader.items():
            state[f"leader/{name}"] = np.frombuffer(leader.encode(), dtype=np.uint8).copy()
            state[f"bias/{name}"] = np.array(self.has_bias[name])
        return state

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        self.A, self.G, self.n_datapoints = {}, {}, 0
        if any(key.startswith("leader/") for key in state):  # an empty state knows no layers: keep those of begin()
            self.leader, self.has_bias = {}, {}
        self.merge(state)

    def merge(self, other: Mapping[str, np.ndarray]) -> None:
        """Add the sums of another shard of the data over the same layers."""
        leaders = {key.partition("/")[2]: bytes(value).decode() for key, value in other.items() if key.startswith("leader/")}
        if self.leader and leaders and leaders != self.leader:
            raise ModelMismatch("the factors to merge are of other layers, or share their inputs otherwise")
        for name, leader in leaders.items():
            self.leader[name] = leader
            self.has_bias[name] = bool(other[f"bias/{name}"])
        for key, value in other.items():
            factor, _, name = key.partition("/")
            if factor not in ("A", "G"):
                continue
            sums = self.A if factor == "A" else self.G
            total = torch.from_numpy(np.asarray(value, dtype=np.float64))
            if name not in sums:
                sums[name] = OuterSum(len(total), total, constant=self.bias and factor == "A")
            mass, count = other[f"{factor}.mass/{name}"]
            sums[name].total += total.to(sums[name].total.device)
            sums[name].first += torch.from_numpy(other[f"{factor}.first/{name}"]).to(sums[name].first.device)
            sums[name].mass += float(mass)
            sums[name].count += int(count)
        self.n_datapoints += int(other["n_datapoints"])
