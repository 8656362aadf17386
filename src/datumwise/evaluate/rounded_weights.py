"""What would the model say if its weights were stored in 8 or 4 bit? A plain round trip, undone afterwards.

Zhang et al., 2025, *Catastrophic Failure of LLM Unlearning via Quantization*: small changes of the weights, as gradient
unlearning makes them, can be rounded away, and what was forgotten comes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from datumwise.errors import DatumwiseError, ModelMismatch

if TYPE_CHECKING:
    import torch

__all__ = ["round_trip", "rounded"]


def round_trip(weight: torch.Tensor, bits: int) -> torch.Tensor:
    """A matrix stored in few bits and read again: symmetric, one scale a row, to the nearest.

    Parameters
    ----------
    weight : float Tensor (o, i)
    bits : int
        2 to 16; levels are -(2^(bits-1) - 1) ... 2^(bits-1) - 1 times the row's scale, its largest magnitude over the last.

    Returns
    -------
    Tensor (o, i)
        Of the same type; off by at most half a scale. This is the plainest scheme: group-wise or calibrated ones lie nearer.

    Raises
    ------
    DatumwiseError
        ``bits`` is out of range.

    Examples
    --------
    >>> import torch
    >>> round_trip(torch.tensor([[7.0, -3.4, 0.4], [0.0, 0.0, 0.0]]), 4)
    tensor([[ 7., -3.,  0.],
            [ 0.,  0.,  0.]])
    """
    if not 2 <= bits <= 16:
        raise DatumwiseError(f"weights cannot be rounded to {bits} bits", remedy="give 2 to 16")
    levels = 2 ** (bits - 1) - 1
    exact = weight.double()
    scale = exact.abs().amax(dim=-1, keepdim=True) / levels
    scale = scale.masked_fill(scale == 0, 1.0)
    return ((exact / scale).round() * scale).to(weight.dtype)


@contextmanager
def rounded(model: Any, bits: int) -> Iterator[Any]:
    """The model with the weights of its linear layers rounded, and exactly its own afterwards, also on an error.

    Linear and Conv1D layers, one scale an output; embeddings, norms, biases and the output layer stay, as usual libraries keep
    them. Meanwhile a second copy of those matrices is held.

    Parameters
    ----------
    model : torch.nn.Module
    bits : int

    Yields
    ------
    torch.nn.Module
        ``model``.

    Raises
    ------
    ModelMismatch
        There is no linear layer to round: the model is quantised already, or has none.
    """
    from datumwise.probe.swapped_weights import check_weight, swapped, weight_matrix

    output = getattr(model, "get_output_embeddings", lambda: None)()
    names = []
    for name, module in model.named_modules():
        if module is output or type(module).__name__ not in ("Linear", "Conv1D", "NonDynamicallyQuantizableLinear"):
            continue
        try:
            check_weight(model, name)
        except ModelMismatch:
            continue  # tied, quantised or computed: not a matrix of its own
        names.append(name)
    if not names:
        raise ModelMismatch("the model has no linear layer whose weights could be rounded", remedy="load it in float")
    with swapped(model, {name: round_trip(weight_matrix(model, name), bits) for name in names}):
        yield model
