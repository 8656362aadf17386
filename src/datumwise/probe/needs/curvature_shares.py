"""How much of a datapoint lives in directions that almost nothing else uses? Shares of its energy in flat directions.

Directions are those of fitted Kronecker factors: flat inputs are eigenvectors of A with the smallest eigenvalues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from datumwise.errors import DatumwiseError, ModelMismatch
from datumwise.probe.ekfac import _Rotated
from datumwise.probe.gradient import Grad
from datumwise.probe.kfac import KFAC, Factor
from datumwise.probe.layers import patches, reader_of, real
from datumwise.probe.losses import Forward
from datumwise.probe.needs import Need

__all__ = ["FLAT", "FlatShare", "GradientShares"]

FLAT = 0.6  # share of the input directions, by count, that are called flat


class FlatShare(Need):
    """Column ``flat_share`` (n,) float64, 0 to 1: the mean over layers of sum_t ||a~_t,flat||^2 / sum_t ||a~_t||^2.

    a~ = U_A^T a is a position's input in the eigenbasis of A, "flat" the round(share * i) directions with the smallest
    eigenvalues. Needs the forward only; layers fed the same tensor are projected once and count as often as they are.
    NaN for a datapoint without a position, or whose inputs are zero.

    Parameters
    ----------
    kfac : KFAC
        Fitted, of the model that is passed.
    share : float
        Above 0, below 1.
    """

    objective = None

    def __init__(self, kfac: KFAC, share: float = FLAT) -> None:
        if not 0 < share < 1:
            raise DatumwiseError(f"a share of {share} of the directions cannot be flat", remedy="choose one between 0 and 1")
        self.positions = kfac.positions
        self.listening = True
        leaders = [factor.input_of or name for name, factor in kfac.factors_.items()]
        self._weights = {name: leaders.count(name) / len(leaders) for name in dict.fromkeys(leaders)}
        self._rows = {name: _input_rows(kfac._model.get_submodule(name)) for name in self._weights}
        self._bases = {name: _flat(kfac.factors_[name], share) for name in self._weights}
        self.activations = tuple(self._weights)
        self._seen: dict[str, list[Tensor]] = {}
        self._found = torch.zeros(0, dtype=torch.float64)

    def activation(self, name: str, x: Any, output: Any) -> None:
        if not self.listening:
            return
        basis, steep, constant = self._bases[name]
        rows = self._rows[name](x)
        if (basis.dtype, basis.device) != (rows.dtype, rows.device):
            basis = basis.to(rows)
            self._bases[name] = basis, steep, constant
        whole = rows.square().sum(1) + constant
        part = (rows @ basis[: rows.shape[1]]).add_(basis[-1] * constant).square().sum(1)
        flat = (whole - part).clamp_min_(0) if steep else part
        self._seen.setdefault(name, []).append(torch.stack([flat, whole]))

    def forward(self, forward: Forward) -> None:
        counted = forward.positions if self.positions == "supervised" else None
        counted = forward.unpadded if counted is None else counted
        self._found = torch.zeros(forward.n, dtype=torch.float64)
        missing = [name for name in self._weights if name not in self._seen]
        if missing:
            raise ModelMismatch(f"layer {missing[0]} never ran", remedy="fit the factors on this model")
        for name, weight in self._weights.items():
            total = torch.zeros(2, forward.n, dtype=torch.float64)
            for energy in self._seen[name]:
                if energy.shape[1] % forward.n:
                    raise ModelMismatch(f"layer {name} saw {energy.shape[1]} positions for {forward.n} datapoints")
                at = energy.view(2, forward.n, -1)
                if counted is not None and counted.shape == at.shape[1:]:
                    at = at * counted
                total += at.double().sum(2).cpu()
            self._found += weight * total[0] / total[1]
        self._seen.clear()

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        return {"flat_share": self._found.numpy()}


def _input_rows(module: nn.Module) -> Callable[[Tensor], Tensor]:
    """From a module's input to its positions (N, i), float32 or float64."""
    reader = reader_of(module)
    if reader is not None and reader.kind == "convolution":
        return lambda x: patches(module, real(x)).flatten(2).flatten(0, 1)
    return lambda x: real(x).reshape(-1, x.shape[-1])


def _flat(factor: Factor, share: float) -> tuple[Tensor, bool, float]:
    """Columns to project on, whether they are the steep ones instead (where those are fewer), and the constant input."""
    width = len(factor.A)
    flat = min(width - 1, max(1, round(share * width)))
    steep = flat > width // 2
    vectors = factor.eigenvectors_A[:, : width - flat] if steep else factor.eigenvectors_A[:, width - flat :]
    return vectors.contiguous(), steep, float(factor.bias)


class GradientShares(_Rotated):
    """Columns of one backward, each (n,) float64, from the gradient dW~ = U_G^T dW U_A of each layer.

    ``grad_norm``: the square root of sum over layers of ||dW~||^2. ``removed_energy`` (with ``kept``): the share of that
    sum in components that are not kept, NaN where the gradient is zero. ``self_influence`` (with ``inverse``): sum over
    layers of sum_ij dW~_ij^2 * inverse_ij.

    Parameters
    ----------
    kfac : KFAC
    kept : mapping of layer to Tensor bool (o, i), optional
    inverse : mapping of layer to Tensor (o, i), optional
        1 / (eigenvalue + damping).
    """

    def __init__(
        self, kfac: KFAC, kept: Mapping[str, Tensor] | None = None, inverse: Mapping[str, Tensor] | None = None
    ) -> None:
        super().__init__(kfac)
        self.weights: dict[str, Mapping[str, Tensor]] = {}
        if kept is not None:
            self.weights["removed_energy"] = {name: ~mask for name, mask in kept.items()}
        if inverse is not None:
            self.weights["self_influence"] = inverse
        self._sums: dict[str, Tensor] = {}

    def forward(self, forward: Forward) -> None:
        super().forward(forward)
        self._sums = {name: torch.zeros(forward.n, dtype=torch.float64) for name in ("energy", *self.weights)}

    def layer(self, name: str, grad: Grad) -> None:
        factor = self.factors[name]
        weights = {column: one[name].to(grad.g) for column, one in self.weights.items()}
        if grad.g.shape[1] == 1:  # never forms dW
            g, a = (side[:, 0].square() for side in self.sides(grad, factor))
            self._sums["energy"] += (g.sum(1) * a.sum(1)).double().cpu()
            for column, one in weights.items():
                self._sums[column] += ((g @ one) * a).sum(1).double().cpu()
            return
        for at, W in self.pieces(grad, factor):
            squares = W.square_().flatten(1)
            self._sums["energy"][at] += squares.sum(1).double().cpu()
            for column, one in weights.items():
                self._sums[column][at] += (squares @ one.flatten()).double().cpu()

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        found = dict(self._sums)
        energy = found.pop("energy")
        if "removed_energy" in found:
            found["removed_energy"] = found["removed_energy"] / energy
        return {"grad_norm": energy.sqrt().numpy()} | {name: column.numpy() for name, column in found.items()}
