"""Which ids are on a ledger already: told by 64-bit hashes kept from the append before, confirmed by reading."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from datumwise.ledger import read
from datumwise.ledger.ids import Keys, id_keys

__all__ = ["KnownIds"]

SCAN_ROWS = 16_384  # rows a batch of ids: what one hash makes stays in the processor's cache
READ_AHEAD = 8  # such batches


class KnownIds:
    """Hashes of the ids in the files of a ledger, 8 bytes a row; only files that are new are read.

    Files never change: whatever other processes do between two appends (append, delete, compact, purge,
    restore, replace the whole ledger) shows in which files the version has. What is kept may hold more than
    the ledger (rows deleted since), never less; so a key that is not there is a new id, and one that is
    there is looked up among the ids themselves.
    """

    def __init__(self) -> None:
        self._forget()

    def _forget(self) -> None:
        self._files: dict[str, Any] = {}  # file of the ids -> the deletions that stood when it was read
        self._keys = Keys()

    def refresh(self, ds: Any) -> None:
        """Read the ids of the files that are new; all, where a file is gone or had rows brought back."""
        files = _files(ds)
        if not all(name in files and was in (None, files[name][1]) for name, was in self._files.items()):
            self._forget()
        new = [fragment for name, (fragment, _) in files.items() if name not in self._files]
        if new:
            self._keys.push(np.sort(_keys(ds, new)))
            self._files |= {name: deleted for name, (_, deleted) in files.items() if name not in self._files}

    def hold(self, ds: Any, ids: pa.Array, keys: np.ndarray) -> np.ndarray:
        """Which ids are on the ledger, bool (n,); `refresh` for this version comes first."""
        order = np.argsort(keys)
        there = np.empty(len(keys), bool)
        there[order] = self._keys.hold(keys[order])
        if there.any():
            at = np.flatnonzero(there)
            there[at] = read.existing(ds, ids.take(pa.array(at)))
        return there

    def appended(self, before: Any, after: Any, keys: np.ndarray) -> None:
        """Take over the keys of an append: `before` and `after` are the data set around it.

        If somebody without our lock came in between, the new files are not taken for known.
        """
        if after.version == before.version + 1:
            self._keys.push(np.sort(keys))
            self._files |= {name: deleted for name, (_, deleted) in _files(after).items() if name not in self._files}


def _files(ds: Any) -> dict[str, tuple[Any, Any]]:
    """File of the ids -> fragment, and its deletions: None where it has none."""
    number = next(field.id() for field in ds.lance_schema.fields() if field.name() == "id")
    found = {}
    for fragment in ds.get_fragments():
        made = fragment.metadata
        file = next(file.path for file in made.files if number in file.fields)
        gone = made.deletion_file
        found[file] = fragment, None if gone is None else (gone.id, gone.read_version, gone.num_deleted_rows)
    return found


def _keys(ds: Any, fragments: list[Any]) -> np.ndarray:
    """Hashes of all ids of some fragments, in no order, uint64 (n,)."""
    batches = ds.scanner(
        columns=["id"],
        fragments=fragments,
        batch_size=SCAN_ROWS,
        batch_readahead=READ_AHEAD,
        scan_in_order=False,
    ).to_batches()
    return np.concatenate([np.empty(0, np.uint64), *(id_keys(batch["id"]) for batch in batches)])
