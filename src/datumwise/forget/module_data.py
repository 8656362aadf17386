"""The datapoints that any torch module is trained on or asked about, in batches that can be gone through again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from datumwise.errors import DuplicateId, EmptyData, MissingId, SchemaMismatch, name_some
from datumwise.probe.batches import is_ledger, moved
from datumwise.probe.collate import model_batches
from datumwise.probe.losses import Losses, forward_of, size_of

__all__ = ["ModuleData", "datapoint_losses", "module_data", "refuse_shared_ids"]


@dataclass
class ModuleData:
    """Datapoints with ids.

    Attributes
    ----------
    ids : list (n,)
    named : bool
        The ids are the data's own, not positions.
    """

    ids: list[Any]
    named: bool
    device: torch.device
    batch_size: int
    whole: Any = None
    batches: list[tuple[np.ndarray, Any]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def straight(self) -> Iterator[tuple[np.ndarray, Any]]:
        """(rows int64 (B,), batch on the model's device) in the order of the data."""
        if self.whole is None:
            yield from ((rows, moved(batch, self.device)) for rows, batch in self.batches)
            return
        for at in range(0, len(self.ids), self.batch_size):
            rows = np.arange(at, min(at + self.batch_size, len(self.ids)))
            yield rows, moved(_rows_of(self.whole, rows), self.device)

    def shuffled(self, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, Any]]:
        """Once through the data in a random order: of the rows of whole tensors, else of the given batches."""
        if self.whole is None:
            for at in rng.permutation(len(self.batches)):
                rows, batch = self.batches[at]
                yield rows, moved(batch, self.device)
            return
        order = rng.permutation(len(self.ids))
        for at in range(0, len(order), self.batch_size):
            rows = order[at : at + self.batch_size]
            yield rows, moved(_rows_of(self.whole, rows), self.device)

    def endless(self, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, Any]]:
        """Shuffled again and again."""
        while True:
            yield from self.shuffled(rng)


def module_data(
    data: Any,
    model: nn.Module,
    name: str,
    *,
    ids: Sequence[Any] | None = None,
    tokenizer: Any = None,
    collate: Any = None,
    batch_size: int = 32,
) -> ModuleData:
    """Datapoints from a ledger, ``(x, y)`` tensors or arrays, a dict of them, a Dataset, a DataLoader or a list of batches.

    Raises
    ------
    EmptyData
        There is none; ``name`` says of which set.
    MissingId, DuplicateId
        Ids do not fit.
    """
    if isinstance(data, ModuleData):
        return data
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    whole = _whole(data)
    if whole is not None:
        n = size_of(whole)
        off = [len(value) for value in _values(whole) if len(value) != n]
        if off:
            raise SchemaMismatch(f"the columns of {name} differ in number ({n:,} and {off[0]:,})")
        found = ModuleData(list(range(n)), False, device, batch_size, whole)
    else:
        found = ModuleData([], is_ledger(data), device, batch_size)
        source = () if isinstance(data, list | tuple) and not data else data
        if source != ():
            for own, batch in model_batches(data, model, tokenizer=tokenizer, collate=collate, batch_size=batch_size):
                rows = np.arange(len(found.ids), len(found.ids) + len(own))
                found.ids += list(own)
                found.batches.append((rows, batch))
    if not found.ids:
        raise EmptyData(f"{name} has no datapoint")
    if ids is not None:
        given = list(ids)
        if len(given) != len(found.ids):
            raise MissingId(f"{len(given):,} ids were given for the {len(found.ids):,} datapoints of {name}")
        found.ids, found.named = given, True
    if len(set(map(str, found.ids))) < len(found.ids):
        seen: set[str] = set()
        twice = [i for i in found.ids if str(i) in seen or seen.add(str(i))]  # type: ignore[func-returns-value]
        raise DuplicateId(f"ids of {name} occur twice: {name_some(twice)}", ids=twice)
    return found


def refuse_shared_ids(forget: ModuleData, retain: ModuleData) -> None:
    """Refuse ids that are both to be forgotten and kept.

    Raises
    ------
    SchemaMismatch
    """
    if forget.named and retain.named:
        known = {str(i) for i in retain.ids}
        shared = [i for i in forget.ids if str(i) in known]
        if shared:
            raise SchemaMismatch(
                f"{len(shared):,} of the ids to forget are also in retain ({name_some(shared)})",
                remedy="take them out of retain",
                ids=shared,
            )


def datapoint_losses(model: nn.Module, batch: Any, ids: Sequence[Any], loss_fn: Losses | None) -> Tensor:
    """One differentiable loss a datapoint, (B,): cross-entropy (a sum over the tokens of a text), or the caller's.

    Raises
    ------
    ModelMismatch, NotFinite
    """
    return forward_of(model, batch, ids, loss_fn).losses


def _whole(data: Any) -> Any:
    """The data set as tensors, if it is given in one piece."""
    if isinstance(data, Mapping) and data and all(isinstance(v, Tensor | np.ndarray) for v in data.values()):
        return {key: torch.as_tensor(value) for key, value in data.items()}
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(v, Tensor | np.ndarray) for v in data):
        return tuple(torch.as_tensor(value) for value in data)
    return None


def _values(batch: Any) -> list[Tensor]:
    return list(batch.values() if isinstance(batch, Mapping) else batch)


def _rows_of(batch: Any, rows: np.ndarray) -> Any:
    at = torch.from_numpy(rows)
    return {key: value[at] for key, value in batch.items()} if isinstance(batch, Mapping) else tuple(v[at] for v in batch)
