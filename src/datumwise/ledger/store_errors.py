"""What the store says when it cannot write, in one sentence of ours; and which of its refusals to try again."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import lance

from datumwise.errors import (
    ColumnExists,
    DatumwiseError,
    DiskFull,
    LedgerChanged,
    NotALedger,
    ReadOnly,
    SchemaMismatch,
    UnknownColumn,
)
from datumwise.ledger.lock import ELSEWHERE

__all__ = ["is_retryable", "retry", "translated"]

ATTEMPTS = 8  # tries of a commit that a foreign writer (one without our lock) got in the way of
FULL = ("No space left", "os error 28", "os error 122", "os error 27")  # disk, quota, file size
FOREIGN = "Incompatible transaction"

T = TypeVar("T")


def is_retryable(error: BaseException) -> bool:
    """Whether Lance says that the same commit may succeed against the newer version."""
    return bool(getattr(error, "retryable", False)) or "Retryable commit conflict" in str(error)


def retry(action: Callable[[], T], *, attempts: int = ATTEMPTS, pause: float = 0.02) -> T:
    """Call ``action`` until no foreign commit gets in its way; waits ``pause`` to ``2**k pause`` seconds.

    Only a writer that does not take our lock can be in the way. The last conflict is raised as it is.
    """
    for attempt in range(attempts - 1):
        try:
            return action()
        except OSError as e:
            if not is_retryable(e):
                raise
            time.sleep(pause * random.uniform(1, 2**attempt))
    return action()


@contextlib.contextmanager
def translated(uri: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what Lance raises into one sentence of ours: theirs carry paths of Rust sources."""
    try:
        yield
    except DatumwiseError:
        raise
    except (OSError, ValueError, RuntimeError) as e:
        known = _translate(e, Path(uri))
        if known is None:
            raise
        raise known from e


def _translate(error: Exception, uri: Path) -> DatumwiseError | None:
    text, ledger = str(error), uri.parent
    number = getattr(error, "errno", None)
    full = number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    if full or any(s in text for s in FULL):
        version = _version(uri)
        stands = f"it stands at version {version}" if version else "nothing was written"
        return DiskFull(f"no space left while writing {ledger}; {stands}", remedy="free some space")
    unwritable = number in (errno.EACCES, errno.EROFS)
    if unwritable or "Permission denied" in text or "Read-only file system" in text:
        return ReadOnly(f"{ledger} cannot be written to", remedy=ELSEWHERE)
    if "was not found" in text and "_versions" in text:
        return NotALedger(f"there is no ledger, or no such version of it, at {ledger}")
    if "already exists in the dataset" in text:
        return ColumnExists(f"{ledger} has this column already", remedy="pass overwrite=True")
    if is_retryable(error) or FOREIGN in text or type(error).__name__ == "CommitConflictError":
        return LedgerChanged(
            f"{ledger} was changed by another program while it was being written; nothing was written",
            remedy="run the command again",
        )
    if "does not exist in the dataset" in text:
        return UnknownColumn(f"{ledger} has no such column")
    if "fields did not match" in text or "contained null values" in text:
        return SchemaMismatch(f"{ledger} cannot hold this: {text.split(', location')[0].split(', /')[0]}")
    return None


def _version(uri: Path) -> int | None:
    try:
        return int(lance.dataset(str(uri)).version)
    except (OSError, ValueError):
        return None
