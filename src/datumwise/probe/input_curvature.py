"""How sharply does the loss bend at the datapoint itself? Curvature of the loss with respect to the input.

Garg and Roy, 2023, *Samples with Low Loss Curvature Improve Data Efficiency*, eq. 5.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datumwise.errors import DatumwiseError, ModelMismatch, NotFinite, name_some
from datumwise.probe.collate import known_length, model_batches
from datumwise.probe.losses import Losses, forward_of
from datumwise.probe.sketch import id_keys, mixed
from datumwise.probe.tap import frozen

__all__ = ["input_curvature"]

STEP, DRAWS = 1e-3, 10  # h and Rademacher vectors, as published
PIXELS = ("pixel_values", "input_values", "inputs_embeds", "features")


def input_curvature(
    model: nn.Module,
    data: Any,
    *,
    step: float = STEP,
    draws: int = DRAWS,
    loss_fn: Losses | None = None,
    ids: Sequence[Any] | None = None,
    tokenizer: Any = None,
    collate: Callable[..., Any] | None = None,
    batch_size: int = 32,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """E_v || grad_x loss(x + h v) - grad_x loss(x) ||^2 / h^2 with v Rademacher: about the squared norm of the Hessian.

    ``draws + 1`` forwards and backwards. For tokens x is the input embedding, and the loss a sum over tokens.

    Parameters
    ----------
    model : torch.nn.Module
        In float32 or float64.
    data : Ledger, iterable of batches, or (x, y) tensors
    step : float
        h, in units of the input.
    draws : int
    loss_fn : callable (model, batch) -> Tensor (n,), optional
    ids, tokenizer, collate, batch_size
        As of `datumwise.probe.KFAC.fit`.
    seed : int
        Of v, which depends on (seed, the datapoint's id, draw, place) alone.
    progress : callable (done, total), optional

    Returns
    -------
    float64 (n,)
        At least 0; larger: learnt by heart, or on the border of classes.

    Raises
    ------
    ModelMismatch
        The model is in half precision, or no real-valued input is found.
    NotFinite
        The loss or its curvature is not finite; names the datapoints.

    Examples
    --------
    >>> model = torch.nn.Linear(2, 1, dtype=torch.float64)
    >>> x, y = torch.eye(2, dtype=torch.float64), torch.zeros(2)
    >>> def half_square(model, batch):  # its Hessian in x is w w^T, of squared norm |w|^4
    ...     return model(batch[0])[:, 0] ** 2 / 2
    >>> found = input_curvature(model, (x, y), loss_fn=half_square, draws=4000)
    >>> bool(abs(found / float((model.weight**2).sum()) ** 2 - 1).max() < 0.1)
    True
    """
    if not step > 0 or draws < 1:
        raise DatumwiseError(f"step is {step} and draws is {draws}", remedy="a step above 0 and 1 draw or more are needed")
    if any(p.dtype in (torch.float16, torch.bfloat16) for p in model.parameters()):
        raise ModelMismatch(
            "differences of gradients drown in half precision", remedy="load the model in float32 (--dtype float32)"
        )
    found: list[np.ndarray] = []
    total, done = known_length(data, ids), 0
    batches = model_batches(data, model, ids=ids, tokenizer=tokenizer, collate=collate, batch_size=batch_size)
    with frozen(model), torch.enable_grad():
        for names, batch in batches:
            found.append(_of_batch(model, batch, names, loss_fn, step, draws, seed))
            done += len(names)
            if progress is not None:
                progress(done, total)
    return np.concatenate(found)


def _of_batch(
    model: nn.Module, batch: Any, ids: Sequence[Any], losses: Losses | None, step: float, draws: int, seed: int
) -> np.ndarray:
    at_rest = _gradient(model, batch, ids, losses, None)
    keys = torch.from_numpy(id_keys(ids)).to(at_rest.device)
    places = torch.arange(1, at_rest[0].numel() + 1, device=at_rest.device)
    squares = torch.zeros(len(ids), dtype=torch.float64, device=at_rest.device)
    for draw in range(draws):
        bits = mixed(keys[:, None] ^ mixed(places, 2 * draw + 1 + (seed << 16)), seed) >> 63  # 0 or -1
        shift = (step * (2 * bits + 1)).to(at_rest.dtype).view_as(at_rest)
        difference = _gradient(model, batch, ids, losses, shift) - at_rest
        squares += difference.flatten(1).double().square().sum(1)
    values = squares / (draws * step**2)
    if not bool(torch.isfinite(values).all()):
        bad = [ids[i] for i in (~torch.isfinite(values)).nonzero()[:, 0].tolist()]
        raise NotFinite(f"the curvature at {name_some(bad)} is not finite", ids=bad)
    return values.cpu().numpy()


def _gradient(model: nn.Module, batch: Any, ids: Sequence[Any], losses: Losses | None, shift: Tensor | None) -> Tensor:
    """Gradient of the summed losses in the datapoints' inputs, (n, ...), at the input moved by ``shift``."""
    with _input_of(model, batch, shift) as (given, leaf):
        values = forward_of(model, given, ids, losses).losses
        if not leaf:
            raise ModelMismatch("the model did not embed its tokens once", remedy="leave input_curvature out")
        (gradient,) = torch.autograd.grad(values.sum(), leaf[0])
    return gradient.detach()


@contextmanager
def _input_of(model: nn.Module, batch: Any, shift: Tensor | None) -> Iterator[tuple[Any, list[Tensor]]]:
    """The batch with its real-valued input moved and a leaf of the graph; for tokens the embedding's output is."""

    def moved(x: Tensor) -> Tensor:
        return (x.detach() if shift is None else x.detach() + shift).requires_grad_(True)

    tokens = isinstance(batch, Mapping) and "input_ids" in batch
    if not tokens:
        key, x = _real_input(batch)
        leaf = moved(x)
        if isinstance(batch, Mapping):
            yield {**batch, key: leaf}, [leaf]
        elif isinstance(batch, tuple | list):
            yield (leaf, *batch[1:]), [leaf]
        else:
            yield leaf, [leaf]
        return
    table = getattr(model, "get_input_embeddings", lambda: None)()
    if table is None:
        raise ModelMismatch(f"{type(model).__name__} does not say where its input embeddings are")
    seen: list[Tensor] = []

    def hook(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if seen:  # a second use, as of a tied encoder and decoder
            return output
        seen.append(moved(output))
        return seen[0]

    handle = table.register_forward_hook(hook)
    try:
        yield batch, seen
    finally:
        handle.remove()


def _real_input(batch: Any) -> tuple[str, Tensor]:
    """The entry of a batch that is real-valued with a leading dimension of datapoints."""
    if isinstance(batch, Mapping):
        names = [name for name in PIXELS if name in batch] or [name for name in batch if name not in ("labels", "label")]
        for name in names:
            if isinstance(batch[name], Tensor) and batch[name].is_floating_point():
                return name, batch[name]
    else:
        x = batch[0] if isinstance(batch, tuple | list) else batch
        if isinstance(x, Tensor) and x.is_floating_point():
            return "", x
    raise ModelMismatch("the batch has no real-valued input to move", remedy="give images, features or token ids")
