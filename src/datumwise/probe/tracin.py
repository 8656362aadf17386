"""Which datapoints pushed the weights the way a query needed? Exact inner products of gradients.

Source: Pruthi et al., Estimating training data influence by tracing gradient descent, 2020, eq. 1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datumwise.errors import DatumwiseError
from datumwise.probe.collate import known_length, model_batches
from datumwise.probe.gradient import Grad
from datumwise.probe.layers import Modules
from datumwise.probe.losses import Forward, Losses
from datumwise.probe.needs import Need
from datumwise.probe.needs.norms import GradNorm
from datumwise.probe.torch_pass import CHUNK_BYTES, TorchPass

__all__ = ["tracin"]

QUERY_BYTES = 2**29  # gradients of queries held at a time


def tracin(
    model: nn.Module,
    data: Any,
    queries: Any,
    *,
    checkpoints: Sequence[Mapping[str, Tensor]] | None = None,
    weights: Sequence[float] | None = None,
    losses: Losses | None = None,
    measure: Losses | None = None,
    modules: Modules = None,
    allow_partial: bool = False,
    tokenizer: Any = None,
    collate: Callable[..., Any] | None = None,
    batch_size: int = 256,
    query_bytes: int = QUERY_BYTES,
    cosine: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> np.ndarray:
    """Sum over checkpoints of weight * <gradient of the query, gradient of the datapoint>, exactly.

    Layers with one position a datapoint never form a gradient:
    <g a^T, h b^T> = <g, h> <a, b>.

    Parameters
    ----------
    model : torch.nn.Module
    data, queries : Ledger, (x, y) tensors or arrays, Dataset, DataLoader or list of batches
    checkpoints : sequence of state dicts, optional
        Weights along training; the model's own by default, which are put back afterwards.
    weights : sequence of float, optional
        One a checkpoint, for example its learning rate; 1 by default.
    losses : callable (model, batch) -> Tensor (n,), optional
        One loss a datapoint.
    measure : callable (model, batch) -> Tensor (q,), optional
        What is asked of the queries, instead of their loss.
    modules : list of patterns, or function (name, module) -> bool, optional
        Which modules' parameters count; all by default.
    allow_partial : bool
        Accept that some trainable parameters cannot be captured.
    tokenizer, collate
        For a ledger.
    batch_size : int
        Datapoints a batch of what is cut here.
    query_bytes : int
        Memory for the queries' gradients; the data are read once for every so many.
    cosine : bool
        Divide each product by the norms of both gradients, at every checkpoint; 0 where a gradient is zero.
    progress : callable (done, total), optional
        Datapoints, once for every block of queries and checkpoint; total 0 where it is not known beforehand.

    Returns
    -------
    ndarray of float32 (q, n), float64 for a float64 model
        Positive: a step on the datapoint lowers the query's loss.

    Raises
    ------
    ModelMismatch, NotFinite

    Examples
    --------
    >>> x, y = torch.eye(3), torch.tensor([0, 1, 1])
    >>> products = tracin(torch.nn.Linear(3, 2), (x, y), (x, y))
    >>> products.shape, bool((products.diagonal() > 0).all())
    ((3, 3), True)
    """
    if weights is not None and len(weights) != len(checkpoints or [None]):
        raise DatumwiseError(f"{len(weights)} weights for {len(checkpoints or [None])} checkpoints")
    common: dict[str, Any] = {"modules": modules, "allow_partial": allow_partial}
    stream: dict[str, Any] = {"tokenizer": tokenizer, "collate": collate, "batch_size": batch_size}
    size = sum(p.nbytes for p in model.parameters() if p.requires_grad)
    block = max(1, query_bytes // max(1, size))
    total: np.ndarray | None = None
    n, done = known_length(data), 0
    for number, _ in enumerate(_at_checkpoints(model, checkpoints)):
        rows = []
        for held, norms in _held_queries(model, queries, measure or losses, block, common, stream, cosine):
            needs: list[Need] = [Products(held), *([GradNorm()] if cosine else [])]
            columns = []
            with TorchPass(model, needs, losses=losses, **common) as run:
                for ids, batch in model_batches(data, model, **stream):
                    found = run.batch(batch, ids)
                    products = found["products"]
                    columns.append((products / _length(found["grad_norm"])).astype(products.dtype) if cosine else products)
                    done += len(ids)
                    if progress is not None:
                        progress(done, max(n, done) if n else 0)
            products = np.concatenate(columns)
            rows.append((products / _length(norms).T).astype(products.dtype).T if cosine else products.T)
        part = np.concatenate(rows)
        part = part * part.dtype.type(1.0 if weights is None else weights[number])
        total = part if total is None else total + part
    assert total is not None
    return np.ascontiguousarray(total)


def _length(norms: np.ndarray) -> np.ndarray:
    """Norms as a column to divide by, 1 where a gradient is zero."""
    return np.where(norms > 0, norms, 1.0)[:, None]


def _at_checkpoints(model: nn.Module, checkpoints: Sequence[Mapping[str, Tensor]] | None) -> Iterator[None]:
    """Load one checkpoint after the other; the model's own weights come back, also after an error."""
    if checkpoints is None:
        yield
        return
    with _own_weights(model):
        for state in checkpoints:
            model.load_state_dict(state)
            yield


@contextmanager
def _own_weights(model: nn.Module) -> Iterator[None]:
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        yield
    finally:
        model.load_state_dict(before)


def _held_queries(
    model: nn.Module,
    queries: Any,
    losses: Losses | None,
    block: int,
    common: Mapping[str, Any],
    stream: Mapping[str, Any],
    cosine: bool = False,
) -> Iterator[tuple[list[Batch], np.ndarray]]:
    """Gradients of about ``block`` queries at a time, and their norms if ``cosine``."""
    stream = dict(stream) | {"batch_size": min(block, stream["batch_size"])}
    for waiting in _blocks(model_batches(queries, model, **stream), block):
        need = Held()
        norms = []
        with TorchPass(model, [need, *([GradNorm()] if cosine else [])], losses=losses, **common) as run:
            for ids, batch in waiting:
                norms.append(run.batch(batch, ids).get("grad_norm", np.zeros(0)))
        yield need.batches, np.concatenate(norms)


def _blocks(batches: Iterable[tuple[list[Any], Any]], size: int) -> Iterator[list[tuple[list[Any], Any]]]:
    """Batches in groups of about ``size`` datapoints."""
    waiting: list[tuple[list[Any], Any]] = []
    for ids, batch in batches:
        waiting.append((ids, batch))
        if sum(len(own) for own, _ in waiting) >= size:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


class _Held:
    """One layer's gradients of a batch: factored where there is one position, else formed."""

    def __init__(self, grad: Grad) -> None:
        self.vectors = {name: v.clone() for name, v in grad.vectors.items()}
        self.a: Tensor | None = None
        self.g: Tensor | None = None
        self.W: Tensor | None = None
        if is_factored(grad):
            self.a, self.g = grad.a[:, 0].clone(), grad.g[:, 0].clone()
        elif grad.has_matrix:
            self.W = grad.W.clone()

    def products(self, grad: Grad) -> Tensor:
        """Inner products of n datapoints' gradients with these, (n, q)."""
        if self.g is None or self.a is None:
            return grad.dot(self.W, self.vectors)
        matrix = (grad.g[:, 0] @ self.g.T) * (grad.a[:, 0] @ self.a.T)
        return matrix + sum(v @ self.vectors[name].T for name, v in grad.vectors.items())


Batch = tuple[int, dict[str, _Held]]


def is_factored(grad: Grad) -> bool:
    """Whether each datapoint has one position in this layer, used once."""
    return len(grad.outers) == 1 and not grad.lookups and grad.groups == 1 and grad.g.shape[1] == 1


class Held(Need):
    """Keeps the gradients of every layer, batch by batch: (datapoints, layer name to gradients)."""

    covers_all = True
    whole = True

    def __init__(self) -> None:
        self.batches: list[Batch] = []
        self._layers: dict[str, _Held] = {}

    def layer(self, name: str, grad: Grad) -> None:
        self._layers[name] = _Held(grad)

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        self.batches.append((len(ids), self._layers))
        self._layers = {}
        return {}


class Products(Need):
    """Column ``products`` (n, q), float32 or float64 as the model: inner products with the held gradients."""

    covers_all = True
    whole = True

    def __init__(self, held: Sequence[Batch]) -> None:
        self.held = held
        self._sums: list[Tensor] = []

    def forward(self, forward: Forward) -> None:
        like = forward.logits if forward.custom is None else forward.custom
        kind = torch.float64 if like.dtype == torch.float64 else torch.float32
        self._sums = [torch.zeros(forward.n, q, dtype=kind, device=like.device) for q, _ in self.held]

    def layer(self, name: str, grad: Grad) -> None:
        pieces: Iterable[Grad] = [grad]
        if not is_factored(grad) and grad.outers:
            grad.form = "materialised"  # a matrix is formed once and meets all queries
            pieces = grad.pieces(CHUNK_BYTES)
        for piece in pieces:
            for total, (_, layers) in zip(self._sums, self.held, strict=True):
                if name in layers:
                    total[piece.at] += layers[name].products(piece)

    def end_batch(self, ids: Sequence[Any]) -> dict[str, Any]:
        return {"products": torch.cat(self._sums, dim=1).cpu().numpy()}
