"""In which order training sees the datapoints: whole epochs, shuffled by blocks or exactly, repeatable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from datumwise.errors import EmptyData, UnknownName
from datumwise.ledger import Ledger
from datumwise.ledger.read import to_numpy

__all__ = ["epochs"]

BLOCK_ROWS = 512  # neighbours on disk that stay in one take
TAKE_BLOCKS = 64  # blocks read and mixed at a time
TAKE_ROWS = 8_192  # rows read at a time by the exact shuffle

Batch = dict[str, np.ndarray]


def epochs(
    ledger: Ledger,
    columns: Sequence[str],
    batch_size: int = 256,
    *,
    seed: int = 0,
    shuffle: str | None = "block",
    count: int = 1,
    drop_last: bool = False,
) -> Iterator[Iterator[Batch]]:
    """Batches of every datapoint once an epoch.

    ``"block"`` cuts the ledger into blocks of 512 neighbours, draws 64 of them at random and mixes their
    rows: former neighbours are at most 32,768 rows apart, and it reads nearly as fast as a scan. ``"exact"``
    draws every row on its own, which reads much slower. Epoch k of a seed is always the same, however many
    came before it.

    Parameters
    ----------
    ledger : Ledger
    columns : sequence of str
    batch_size : int
        Rows a batch; the last of an epoch may have fewer.
    seed : int
    shuffle : {"block", "exact", None}
        None: ledger order.
    count : int
        Number of epochs.
    drop_last : bool
        Leave out a last batch of fewer rows.

    Yields
    ------
    iterator of dict
        One epoch: for each batch a dict of arrays (m,) or (m, d), by column.

    Raises
    ------
    UnknownName, EmptyData, UnknownColumn
    """
    if shuffle not in ("block", "exact", None):
        raise UnknownName(f"there is no shuffle {shuffle!r}", remedy="shuffles are 'block', 'exact' and None")
    if not len(ledger):
        raise EmptyData("the ledger has no row to train on")
    for epoch in range(count):
        rng = np.random.default_rng([seed, epoch])
        yield _sized(_pieces(ledger, list(columns), batch_size, rng, shuffle), batch_size, drop_last)


def _pieces(
    ledger: Ledger, columns: list[str], batch_size: int, rng: np.random.Generator, shuffle: str | None
) -> Iterator[Batch]:
    if shuffle is None:
        for batch in ledger.batches(columns, batch_size=batch_size):
            yield {name: to_numpy(batch[name]) for name in columns}
        return
    for take in _takes(len(ledger), rng, shuffle):
        yield _take(ledger, columns, ledger.row_ids[take])


def _takes(n: int, rng: np.random.Generator, shuffle: str) -> Iterator[np.ndarray]:
    """Places of the rows to read together, in the order they are given out."""
    if shuffle == "exact":
        yield from np.split(rng.permutation(n), np.arange(TAKE_ROWS, n, TAKE_ROWS))
        return
    blocks = rng.permutation(-(-n // BLOCK_ROWS))
    for group in np.split(blocks, np.arange(TAKE_BLOCKS, len(blocks), TAKE_BLOCKS)):
        yield rng.permutation(_rows_of(group, n))


def _rows_of(blocks: np.ndarray, n: int) -> np.ndarray:
    rows = (blocks[:, None] * BLOCK_ROWS + np.arange(BLOCK_ROWS)).reshape(-1)
    return rows[rows < n]


def _take(ledger: Ledger, columns: list[str], wanted: np.ndarray) -> Batch:
    """Rows of the given row ids, in that order."""
    found = list(ledger.batches(columns, where=_among(wanted), batch_size=len(wanted), with_row_id=True))
    table = pa.Table.from_batches(found)
    have = table["_rowid"].to_numpy()
    order = np.argsort(have)
    at = pa.array(order[np.searchsorted(have, wanted, sorter=order)])
    return {name: to_numpy(table[name].take(at)) for name in columns}


def _among(row_ids: np.ndarray) -> str:
    """A condition that picks these row ids: as ranges where they have neighbours, which reads faster."""
    ranked = np.sort(row_ids)
    breaks = np.flatnonzero(np.diff(ranked) != 1) + 1
    if len(breaks) > len(ranked) // 16:
        return f"_rowid IN ({','.join(map(str, ranked.tolist()))})"
    runs = np.split(ranked, breaks)
    return " OR ".join(f"(_rowid >= {run[0]} AND _rowid <= {run[-1]})" for run in runs)


def _sized(pieces: Iterator[Batch], size: int, drop_last: bool) -> Iterator[Batch]:
    """The same rows in batches of ``size``."""
    held: list[Batch] = []
    rows = 0
    for piece in pieces:
        held.append(piece)
        rows += _length(piece)
        if rows < size:
            continue
        whole = _joined(held)
        full = rows - rows % size
        for start in range(0, full, size):
            yield {name: values[start : start + size] for name, values in whole.items()}
        rows -= full
        held = [{name: values[full:] for name, values in whole.items()}] if rows else []
    if held and not drop_last:
        yield _joined(held)


def _length(piece: Batch) -> int:
    return len(next(iter(piece.values())))


def _joined(pieces: list[Batch]) -> Batch:
    if len(pieces) == 1:
        return pieces[0]
    return {name: np.concatenate([p[name] for p in pieces]) for name in pieces[0]}
