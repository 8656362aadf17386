"""Does a curvature edit do more than any edit of its size? Baselines that look at the weights alone, or at nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, nn

from datumwise.errors import DatumwiseError, UnknownName
from datumwise.forget.weight_edit import WeightEdit
from datumwise.probe.kfac import matching_names
from datumwise.probe.layers import reader_of

__all__ = ["RandomBasisEdit", "TruncatedSVD", "random_orthonormal"]

Layers = str | Sequence[str] | Callable[[str], bool]


class TruncatedSVD(WeightEdit):
    """Keep of each weight its largest singular values: the nearest matrix of a rank (Eckart and Young, 1936).

    Parameters
    ----------
    layers : str, sequence of str, or callable (name) -> bool
        Layers by patterns as of `KFAC`.
    rank : float or int
        A share of the smaller side in (0, 1], or a number of singular values, at least 1.

    Raises
    ------
    DatumwiseError
        The rank is neither.

    Examples
    --------
    >>> model = nn.Linear(3, 3, bias=False)
    >>> _ = nn.init.eye_(model.weight)
    >>> with TruncatedSVD("", rank=2).applied(model):
    ...     int(torch.linalg.matrix_rank(model.weight))
    2
    """

    def __init__(self, layers: Layers, rank: float) -> None:
        super().__init__()
        if isinstance(rank, bool) or not (0 < rank <= 1 if isinstance(rank, float) else isinstance(rank, int) and rank >= 1):
            raise DatumwiseError(f"rank is {rank!r}", remedy="choose a share above 0, at most 1.0, or a number from 1")
        self.layers = layers
        self.rank = rank

    def names(self, model: nn.Module) -> list[str]:
        return matching_layers(model, self.layers)

    def edited(self, name: str, W: Tensor) -> Tensor:
        full = min(W.shape)
        rank = max(1, round(self.rank * full)) if isinstance(self.rank, float) else self.rank
        if rank >= full:
            return W
        U, S, V = torch.linalg.svd(W, full_matrices=False)
        return (U[:, :rank] * S[:rank]) @ V[:rank]


class RandomBasisEdit(WeightEdit):
    """Keep of each weight as much energy as another edit does, on random components of random orthonormal bases.

    W_edited = P (M * P^T W Q) Q^T with random rotations P and Q, and M a random choice of pairs, as many as it takes.

    Parameters
    ----------
    kept_energy : float, or dict of layer name to float
        Share of ||W||^2 that stays, in (0, 1]; a dict says which layers.
    layers : str, sequence of str, or callable (name) -> bool, optional
        With one float.
    random_state : int
        A layer's bases depend on it and the layer's name alone.

    Raises
    ------
    DatumwiseError
        A share is not in (0, 1], or one share is given without layers.

    Examples
    --------
    >>> model = nn.Linear(64, 64, bias=False)
    >>> plan = RandomBasisEdit({"": 0.7}).plan(model)
    >>> round(plan.energy_moved, 1)
    0.3
    """

    def __init__(
        self, kept_energy: float | Mapping[str, float], layers: Layers | None = None, *, random_state: int = 0
    ) -> None:
        super().__init__()
        shares = kept_energy.values() if isinstance(kept_energy, Mapping) else [kept_energy]
        for share in shares:
            if not 0 < share <= 1:
                raise DatumwiseError(f"kept_energy is {share!r}", remedy="choose a share above 0, at most 1")
        if isinstance(kept_energy, Mapping) == (layers is not None):
            raise DatumwiseError("kept_energy is one share with layers=, or a dict of layers without")
        self.kept_energy = kept_energy
        self.layers = layers
        self.random_state = random_state

    @classmethod
    def like(cls, edit: WeightEdit, model: nn.Module, *, random_state: int = 0) -> RandomBasisEdit:
        """Of the layers of another edit, with as much of each weight's energy kept as that edit keeps."""
        plan = edit.plan(model)
        kept = {name: max(1 - layer.energy_moved, torch.finfo(torch.float64).tiny) for name, layer in plan.layers.items()}
        return cls(kept, random_state=random_state)

    def names(self, model: nn.Module) -> list[str]:
        if isinstance(self.kept_energy, Mapping):
            return list(self.kept_energy)
        assert self.layers is not None
        return matching_layers(model, self.layers)

    def edited(self, name: str, W: Tensor) -> Tensor:
        share = self.kept_energy[name] if isinstance(self.kept_energy, Mapping) else self.kept_energy
        if share == 1:
            return W
        generator = torch.Generator().manual_seed(self.random_state * 1_000_003 + crc32(name.encode()))
        P, Q = (random_orthonormal(n, generator).to(W) for n in W.shape)
        C = P.T @ W @ Q
        order = torch.randperm(C.numel(), generator=generator).to(W.device)
        energy = C.flatten()[order].double().square().cumsum(0)
        if not float(energy[-1]):
            return W
        n = int(torch.searchsorted(energy, share * energy[-1])) + 1
        mask = torch.zeros(C.numel(), dtype=torch.bool, device=W.device)
        mask[order[:n]] = True
        return P @ (C * mask.view_as(C)) @ Q.T


def random_orthonormal(n: int, generator: torch.Generator) -> Tensor:
    """A rotation or reflection (n, n), float64, uniformly drawn (Mezzadri, 2007)."""
    Q, R = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=torch.float64))
    return Q * R.diagonal().sign()


def matching_layers(model: nn.Module, layers: Layers) -> list[str]:
    """Names of the model's Linear layers and convolutions that match patterns, in its order.

    Raises
    ------
    UnknownName
        Nothing matches; names near ones.
    """
    known = [name for name, module in model.named_modules() if _has_matrix(module)]
    if callable(layers):
        names = [name for name in known if layers(name)]
        if not names:
            raise UnknownName("no Linear or convolution is chosen by layers=")
        return names
    return matching_names([layers] if isinstance(layers, str) else list(layers), known)


def _has_matrix(module: Any) -> bool:
    reader = reader_of(module)
    return reader is not None and reader.kind in ("linear", "convolution")
