"""How do the datapoints reach the model? Ledger rows sorted by length, arrays, or ready batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from datumwise.errors import EmptyData, ModelMismatch
from datumwise.probe.losses import Losses, forward_of, size_of
from datumwise.probe.tap import frozen

if TYPE_CHECKING:
    import pyarrow as pa

    from datumwise.ledger import Ledger

__all__ = ["Batches", "auto_batch_size", "by_length", "is_ledger"]

WINDOW = 64  # batches among which rows are sorted by length
DEFAULT_ROWS = 64  # rows a batch of arrays
AUTO_ROWS = 512  # most rows of an automatic batch: nothing is gained beyond
AUTO_BYTES = 1 << 30  # most bytes of saved activations of an automatic batch

Collate = Callable[["pa.RecordBatch"], Any]


def is_ledger(data: Any) -> bool:
    """Whether ``data`` is a ledger, without importing the ledger room."""
    return any(cls.__name__ == "Ledger" and cls.__module__.startswith("datumwise.") for cls in type(data).__mro__)


@dataclass
class Batches:
    """Batches with ids; may be gone through as often as wanted.

    Parameters
    ----------
    data : Ledger, (x, y) tensors or arrays, dict of them, Dataset, DataLoader or list of batches
    batch_size : int
        Rows a batch; the caller's own batches stay as they are.
    reads, collate
        For a ledger: the columns to read and the function from a record batch to a batch.
    """

    data: Any
    batch_size: int = DEFAULT_ROWS
    reads: Sequence[str] = ()
    collate: Collate | None = None
    where: str | None = None

    def __post_init__(self) -> None:
        if isinstance(self.data, Iterator):
            self.data = _Once(self.data)

    def __iter__(self) -> Iterator[tuple[Sequence[Any], Any]]:
        """Yields (ids, batch); rows of a ledger come sorted by length inside a window."""
        if is_ledger(self.data):
            for window in self.windows():
                for rows in by_length(window, self.reads, self.batch_size):
                    yield rows.column("id").to_pylist(), self._collated(rows)
            return
        start = 0
        for batch in self._slices():
            ids, batch = _named(batch, start)
            start += len(ids)
            yield ids, batch

    def windows(self) -> Iterator[pa.RecordBatch]:
        """Ledger rows, a window of batches at a time, in ledger order."""
        ledger: Ledger = self.data
        columns = ["id", *(c for c in self.reads if c != "id")]
        yield from ledger.batches(columns, where=self.where, batch_size=WINDOW * self.batch_size)

    def _collated(self, rows: pa.RecordBatch) -> Any:
        assert self.collate is not None
        return self.collate(rows)

    def _slices(self) -> Iterable[Any]:
        data = self.data
        arrays = _whole(data)
        if arrays is not None:
            n = size_of(arrays)
            if n == 0:
                raise EmptyData("there is no datapoint in the data")
            return (_cut(arrays, slice(s, s + self.batch_size)) for s in range(0, n, self.batch_size))
        if isinstance(data, torch.utils.data.Dataset) and not isinstance(data, torch.utils.data.DataLoader):
            return torch.utils.data.DataLoader(data, batch_size=self.batch_size)
        return data


class _Once:
    """An iterator: one pass over it, a sentence for the second."""

    def __init__(self, batches: Iterator[Any]) -> None:
        self._batches: Iterator[Any] | None = batches

    def __iter__(self) -> Iterator[Any]:
        if self._batches is None:
            raise ModelMismatch(
                "the batches come from an iterator that is used up, and these signals need several passes",
                remedy="give a list, a DataLoader or a ledger",
            )
        batches, self._batches = self._batches, None
        return batches


def _whole(data: Any) -> Any:
    """The data set as tensors if it is given in one piece, (x, y) or a dictionary; else None."""
    if isinstance(data, Mapping) and all(isinstance(v, Tensor | np.ndarray) for v in data.values()):
        return {k: torch.as_tensor(v) for k, v in data.items()}
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(v, Tensor | np.ndarray) for v in data):
        return tuple(torch.as_tensor(v) for v in data)
    return None


def _cut(batch: Any, at: slice) -> Any:
    return {k: v[at] for k, v in batch.items()} if isinstance(batch, dict) else tuple(v[at] for v in batch)


def _named(batch: Any, start: int) -> tuple[Sequence[Any], Any]:
    """A batch and its ids: its own ``id`` or ``ids`` entry, else running numbers."""
    if isinstance(batch, Mapping):
        for key in ("id", "ids"):
            if key in batch:
                ids = batch[key]
                ids = ids.tolist() if isinstance(ids, Tensor | np.ndarray) else list(ids)
                return ids, {k: v for k, v in batch.items() if k != key}
    n = size_of(batch)
    return range(start, start + n), batch


def by_length(window: pa.RecordBatch, reads: Sequence[str], batch_size: int) -> Iterator[pa.RecordBatch]:
    """The rows of a window in batches of about equal text length, longest first; ties keep their order.

    Parameters
    ----------
    window : RecordBatch
    reads : columns whose texts count
    batch_size : int
    """
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.types as pat

    length = np.zeros(window.num_rows, dtype=np.int64)
    texts = False
    for name in reads:
        kind = window.schema.field(name).type
        if name != "id" and (pat.is_string(kind) or pat.is_large_string(kind)):
            length += pc.fill_null(pc.utf8_length(window.column(name)), 0).to_numpy(zero_copy_only=False)
            texts = True
    order = np.argsort(-length, kind="stable") if texts else np.arange(window.num_rows)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield window.take(pa.array(rows)) if texts else window.slice(start, len(rows))


def auto_batch_size(model: nn.Module, batch_of: Callable[[int], Any], losses: Losses | None = None) -> int:
    """Rows a batch so that what the graph keeps fits in half the free memory.

    Measured on forwards of two and of four datapoints, extrapolated linearly.

    Parameters
    ----------
    model : Module
    batch_of : function (k) -> batch of at most k datapoints, the longest ones
    losses : function, optional
    """
    small, large = batch_of(2), batch_of(4)
    rows = size_of(large) - size_of(small)
    if rows <= 0:
        return max(1, size_of(large))
    kept = [_kept_bytes(model, batch, losses) for batch in (small, large)]
    per_row = max(1, (kept[1] - kept[0]) // rows)
    budget = min(AUTO_BYTES, free_memory(next(model.parameters()).device) // 2)
    return int(max(1, min(AUTO_ROWS, budget // (2 * per_row))))


def _kept_bytes(model: nn.Module, batch: Any, losses: Losses | None) -> int:
    """Bytes of the distinct tensors that a forward keeps for its backward."""
    seen: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return x

    with frozen(model), torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        for p in model.parameters():
            p.requires_grad_(p.is_floating_point())
        forward = forward_of(model, moved(batch, next(model.parameters()).device), range(size_of(batch)), losses)
        logits = getattr(forward.output, "logits", forward.output)
    return sum(seen.values()) + 2 * (logits.nbytes if isinstance(logits, Tensor) else 0)


def moved(batch: Any, device: torch.device) -> Any:
    """The batch with its tensors (and arrays) on the model's device."""
    if isinstance(batch, Mapping):
        return {k: moved(v, device) for k, v in batch.items()}
    if isinstance(batch, tuple | list):
        return tuple(moved(v, device) for v in batch)
    if isinstance(batch, np.ndarray):
        return torch.as_tensor(batch).to(device)
    return batch.to(device) if isinstance(batch, Tensor) else batch


def free_memory(device: torch.device) -> int:
    """Bytes that can still be had on a device."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        with open("/proc/meminfo") as lines:
            found = {line.split(":")[0]: line.split()[1] for line in lines}
        return int(found["MemAvailable"]) * 1024
    except (OSError, KeyError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
