"""What passes from layer to layer of a sparse deep kernel machine: Gram blocks of inducing points and datapoints.

Source: Milsom et al., Convolutional deep kernel machines, 2024, section 3 (inducing points).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["StructMat"]


class StructMat(NamedTuple):
    """Gram or kernel matrix of P inducing points and T datapoints, without the T x T block that nothing needs.

    Attributes
    ----------
    ii : Tensor (P, P)
        Inducing points among themselves.
    ti : Tensor (T, P), or (T, H, W, P) for images
        Datapoints (or their pixels) with inducing points.
    t : Tensor (T,), or (T, H, W)
        Diagonal of the datapoints' own block.

    Examples
    --------
    >>> import torch
    >>> Z, X = torch.eye(2), torch.tensor([[3.0, 4.0]])
    >>> gram = StructMat(ii=Z @ Z.T, ti=X @ Z.T, t=(X * X).sum(-1))
    >>> gram.ti.tolist(), gram.t.tolist()
    ([[3.0, 4.0]], [25.0])
    """

    ii: Tensor
    ti: Tensor
    t: Tensor
