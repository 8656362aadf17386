"""What did fine-tuning write into the weights, and the model without it? Task vectors (Ilharco et al., 2023)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from datumwise.errors import DatumwiseError, ModelMismatch, NotFinite, name_some
from datumwise.forget.trained_copy import copied

__all__ = ["negate", "task_vector"]

WIDER = {
    torch.float16: torch.float32,
    torch.bfloat16: torch.float32,
    torch.float32: torch.float64,
    torch.float64: torch.float64,
}


def task_vector(base: nn.Module, finetuned: nn.Module) -> dict[str, Tensor]:
    """Weights of ``finetuned`` minus those of ``base``, by name.

    Parameters
    ----------
    base, finetuned : torch.nn.Module
        Of one architecture. Tied weights count once, under their first name.

    Returns
    -------
    dict of str to Tensor
        Of floating-point parameters and saved buffers, on the base's device, in the next wider precision (float32 for
        bfloat16, float64 for float32), in which the difference is exact: added to the base it gives ``finetuned`` again.

    Raises
    ------
    ModelMismatch
        The models have other parameters or shapes.
    NotFinite
        A weight is not finite.

    Examples
    --------
    >>> a, b = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)
    >>> torch.equal(negate(a, task_vector(a, b), -1).weight, b.weight)
    True
    """
    first, second = _weights(base), _weights(finetuned)
    other = sorted(set(first) ^ set(second))
    if other:
        raise ModelMismatch(f"only one of the models has {name_some(other)}", remedy="give two models of one architecture")
    vector = {}
    for name, value in first.items():
        new = second[name]
        if new.shape != value.shape:
            raise ModelMismatch(
                f"{name} has shape {tuple(value.shape)} in the base and {tuple(new.shape)} in the fine-tuned model"
            )
        wide = WIDER[value.dtype] if WIDER[value.dtype].itemsize >= WIDER[new.dtype].itemsize else WIDER[new.dtype]
        difference = new.to(device=value.device, dtype=wide) - value.to(wide)
        if not torch.isfinite(difference).all():
            raise NotFinite(f"{name} is not finite")
        vector[name] = difference
    return vector


def negate(model: nn.Module, vector: Mapping[str, Tensor], alpha: float, *, inplace: bool = False) -> nn.Module:
    """A model with ``theta - alpha * vector`` as its weights: 0 changes nothing, -1 adds the vector.

    Parameters
    ----------
    model : torch.nn.Module
    vector : dict of str to Tensor
        Of `task_vector`; names that are missing stay.
    alpha : float
        5 in the script of Shi et al. (2024), 1 to take back a fine-tuning of this very model.
    inplace : bool

    Raises
    ------
    ModelMismatch
        The vector is of another architecture.
    DatumwiseError
        ``alpha`` is not finite.
    """
    if not torch.isfinite(torch.tensor(float(alpha))):
        raise DatumwiseError(f"alpha is {alpha}", remedy="give a finite number")
    new = model if inplace else copied(model)
    weights = _weights(new)
    strange = sorted(set(vector) - set(weights))
    if strange:
        raise ModelMismatch(f"the model has no {name_some(strange)}", remedy="give the vector of a model of this architecture")
    off = [name for name, value in vector.items() if value.shape != weights[name].shape]
    if off:
        raise ModelMismatch(f"{name_some(off)} of the vector has another shape than the model's")
    with torch.no_grad():
        for name, value in vector.items():
            if alpha != 0:
                weight = weights[name]
                weight.copy_((weight.to(value) - alpha * value).to(weight))
    return new


def _weights(model: nn.Module) -> dict[str, Any]:
    """Floating-point parameters and saved buffers, each once."""
    found: dict[str, Any] = {}
    seen: set[tuple[int, int]] = set()
    for name, value in model.state_dict(keep_vars=True).items():
        if not isinstance(value, Tensor) or not value.is_floating_point():
            continue
        key = (value.data_ptr(), value.numel())
        if value.numel() and key in seen:
            continue
        seen.add(key)
        found[name] = value
    return found
