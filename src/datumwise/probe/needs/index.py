"""A short row for each datapoint's gradient, so that gradients can be searched like text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import torch
from torch import Tensor

from datumwise.probe.gradient import Grad, Layer
from datumwise.probe.losses import Forward, check_finite
from datumwise.probe.needs import Need
from datumwise.probe.sketch import Sjlt, gaussian

__all__ = ["GradIndex", "Reduction", "reduction"]

KIND = "sjlt-blocks-1"  # name of this projection, kept with an index
SINGLE_RANK = 64  # at most, output side of layers with one position: forming W would cost tens of passes
LARGE_RANK = 256  # both sides of layers larger than LARGE
ROWS = 64  # rows normalised at a time
LARGE = 1 << 22  # entries of W above which it is reduced before the sketch


@dataclass(frozen=True)
class Reduction:
    """Ranks to which output and input side are projected before the sketch; None: that side stays whole."""

    out: int | None = None
    into: int | None = None


def reduction(o: int, i: int, single: bool, length: int) -> Reduction:
    """How a layer's gradient is reduced: a function of its shape alone, so an index and its queries agree.

    With one position a datapoint, the product of the ranks is at most the length of the index, so that the
    projected gradient fits into it without a further sketch. The output side gets the larger rank: inputs
    resemble each other (they are positive after a ReLU), so its error counts more.

    Parameters
    ----------
    o, i : int
        Rows and columns of the matrix.
    single : bool
        One position a datapoint.
    length : int
        Of the index.
    """
    if not single and o * i <= LARGE:
        return Reduction()
    out = min(o, SINGLE_RANK, isqrt(2 * length)) if single else min(o, LARGE_RANK)
    into = min(i, length // out) if single else min(i, LARGE_RANK)
    return Reduction(out if out < o else None, into if into < i else None)


class GradIndex(Need):
    """Projected gradients: ``grad_index`` (n, k) float16 rows of length 1, ``grad_index_norm`` (n,) float32.

    A row times its norm is z = sum over parameters of S vec(gradient), so inner products of rows are cosines
    of gradients, with a root mean square error of 1/sqrt(k). A zero gradient gives a zero row.

    Parameters
    ----------
    length : int
        k, 2048 by default.
    seed : int
        An index and its queries must share it.
    objective : {"loss", "sampled", "measure"}
    """

    covers_all = True

    def __init__(self, length: int = 2048, seed: int = 0, objective: str = "loss", column: str = "grad_index") -> None:
        self.objective = objective
        self.column = column
        self.sketch = Sjlt(length, seed)
        self._z: Tensor | None = None
        self._n = 0
        self._begun = False
        self._some: Tensor | None = None
        self._sides: dict[tuple[str, str], Tensor] = {}

    @property
    def parameters(self) -> dict[str, Any]:
        """What an index and its queries must agree on."""
        length = self.sketch.length
        return {"length": length, "seed": self.sketch.seed, "cosine_rmse": length**-0.5, "projection": KIND}

    def forms(self, layer: Layer) -> bool:
        if layer.shape is None or layer.kind == "embedding" or layer.single:
            return False
        return reduction(*layer.shape, layer.single, self.sketch.length) == Reduction()

    def forward(self, forward: Forward) -> None:
        self._n, self._begun = forward.n, False

    def layer(self, name: str, grad: Grad) -> None:
        z = self._rows(grad.like)[grad.at]
        for parameter, vector in grad.vectors.items():
            self.sketch.add(z, parameter, vector)
        if grad.has_matrix:
            self._matrix(z, grad)

    def _rows(self, like: Tensor) -> Tensor:
        """The batch's rows, all zero at first; the memory is that of the batch before."""
        if self._z is None or (self._z.dtype, self._z.device) != (like.dtype, like.device) or len(self._z) < self._n:
            self._z = like.new_empty(self._n, self.sketch.length)
        if not self._begun:
            self._z[: self._n].zero_()
            self._begun = True
        return self._z[: self._n]

    def _matrix(self, z: Tensor, grad: Grad) -> None:
        layer = grad.layer
        assert layer.shape is not None
        assert layer.weight is not None
        to = reduction(*layer.shape, layer.single, self.sketch.length)
        if to == Reduction():
            if grad.outers:
                self.sketch.add(z, layer.weight, grad.W.flatten(1))
            else:
                self.sketch.add_rows(z, layer.weight, grad.lookup.ids, grad.lookup.d)
        elif layer.single:  # the random projections do what the signs do
            o, i = layer.shape
            g = self._side(grad.g[:, 0], grad, "out", o, to.out)
            a = self._side(grad.a[:, 0], grad, "in", i, to.into)
            into = z[:, : g.shape[1] * a.shape[1]].unflatten(1, (g.shape[1], a.shape[1]))
            into.addcmul_(g[:, :, None], a[:, None, :])
        else:
            self.sketch.add(z, f"{layer.weight}/kronecker", self._reduced(grad, to).flatten(1))

    def _reduced(self, grad: Grad, to: Reduction) -> Tensor:
        """(P_out g)(P_in a)^T summed over positions, (n, r_out, r_in)."""
        o, i = grad.layer.shape or (0, 0)
        total: Tensor | None = None
        uses: list[tuple[Tensor, Tensor]] = []
        if grad.outers:
            use = grad.outer
            g, a = use.g, use.a
            if use.groups > 1:
                return self._reduced_groups(grad, to)
            uses.append((self._side(g, grad, "out", o, to.out), self._side(a, grad, "in", i, to.into)))
        if grad.lookups:
            ids, d = grad.lookup.ids, grad.lookup.d
            rows = self._projection(grad, "out", o, to.out, d)
            picked = torch.nn.functional.one_hot(ids, o).to(d.dtype) if rows is None else rows[ids]
            uses.append((picked, self._side(d, grad, "in", i, to.into)))
        for g, a in uses:
            part = torch.bmm(g.mT, a)
            total = part if total is None else total.add_(part)
        assert total is not None
        return total

    def _reduced_groups(self, grad: Grad, to: Reduction) -> Tensor:
        """A grouped convolution's rows belong to different inputs: form W, then project both sides."""
        o, i = grad.layer.shape or (0, 0)
        w = self._side(grad.W, grad, "in", i, to.into)
        return self._side(w.mT, grad, "out", o, to.out).mT

    def _side(self, x: Tensor, grad: Grad, side: str, size: int, rank: int | None) -> Tensor:
        projection = self._projection(grad, side, size, rank, x)
        return x if projection is None else x @ projection

    def _projection(self, grad: Grad, side: str, size: int, rank: int | None, like: Tensor) -> Tensor | None:
        if rank is None:
            return None
        at = (grad.layer.name, side)
        if at not in self._sides:
            name = f"{grad.layer.weight}/{side}"
            self._sides[at] = gaussian(name, size, rank, self.sketch.seed, like) / rank**0.5
        return self._sides[at]

    def rows(self) -> Tensor:
        """The batch's sketches z (n, k), not normalised; overwritten by the next batch."""
        if self._z is None or not self._begun:
            return torch.zeros(self._n, self.sketch.length)
        return self._z[: self._n]

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        z = self.rows()
        norm = torch.linalg.vector_norm(z, dim=1)
        check_finite(norm, ids, "gradient")
        return {self.column: self._unit(z, norm).cpu().numpy(), f"{self.column}_norm": norm.float().cpu().numpy()}

    def _unit(self, z: Tensor, norm: Tensor) -> Tensor:
        """Rows of length 1 as float16; some at a time, in memory that is kept from batch to batch."""
        length = norm.clamp_min(torch.finfo(z.dtype).tiny)[:, None]
        unit = torch.empty_like(z, dtype=torch.float16)
        if self._some is None or (self._some.dtype, self._some.device) != (z.dtype, z.device):
            self._some = z.new_empty(ROWS, self.sketch.length)
        for start in range(0, len(z), ROWS):
            at = slice(start, min(start + ROWS, len(z)))
            unit[at] = torch.div(z[at], length[at], out=self._some[: at.stop - start])
        return unit
