"""One writer at a time: the ledger's lock, which the kernel frees when its holder dies."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from datumwise.errors import LedgerBusy, NotALedger, ReadOnly

__all__ = ["ELSEWHERE", "writing"]

ELSEWHERE = "copy the ledger to a place that can be written to"

_held: dict[tuple[str, int, int], int] = {}  # (lock file, pid, thread) -> depth


@contextlib.contextmanager
def writing(path: str | os.PathLike[str], timeout: float = 60.0) -> Iterator[None]:
    """Hold the ledger's lock: for a commit, never for a pass.

    The kernel frees it when the process dies. The thread that holds it may take it again.

    Parameters
    ----------
    path : path-like
        The lock file, or the ``NAME.ledger`` folder it lies in.
    timeout : float
        Seconds to wait for another writer; 0 asks once.

    Raises
    ------
    LedgerBusy
        If another process still holds it after ``timeout``; names its pid.
    ReadOnly, NotALedger
        If the lock file cannot be written, or its folder is not there.
    """
    path = Path(path)
    lock = path / "lock" if path.is_dir() else path
    key = (str(lock.resolve()), os.getpid(), threading.get_ident())
    if key in _held:
        _held[key] += 1
        try:
            yield
        finally:
            _held[key] -= 1
        return
    with _locked(lock, timeout) as handle:
        try:
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
        except OSError:  # a full disk: the lock holds, only the pid of its holder stays unknown
            pass
        _held[key] = 0
        try:
            yield
        finally:
            del _held[key]
            with contextlib.suppress(OSError):
                os.ftruncate(handle.fileno(), 0)
            fcntl.flock(handle, fcntl.LOCK_UN)


def _locked(lock: Path, timeout: float) -> IO[str]:
    """The open lock file, locked; opened again if its folder was removed and made anew while we waited."""
    deadline = time.monotonic() + timeout
    while True:
        handle = _open_lock(lock)
        try:
            _wait_for(handle, lock, deadline, timeout)
            if lock.exists() and os.path.samestat(os.fstat(handle.fileno()), lock.stat()):
                return handle
        except BaseException:
            handle.close()
            raise
        handle.close()


def _open_lock(lock: Path) -> IO[str]:
    try:
        return open(lock, "a+", buffering=1)
    except PermissionError as e:
        raise ReadOnly(f"{lock.parent} cannot be written to", remedy=ELSEWHERE) from e
    except FileNotFoundError as e:
        raise NotALedger(f"there is no ledger at {lock.parent}") from e
    except OSError as e:
        if e.errno == errno.EROFS:
            raise ReadOnly(f"{lock.parent} is on a read-only file system") from e
        raise


def _wait_for(handle: IO[str], lock: Path, deadline: float, timeout: float) -> None:
    pause = 0.001
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            left = deadline - time.monotonic()
            if left <= 0:
                handle.seek(0)
                pid = handle.read().strip() or "unknown"
                raise LedgerBusy(
                    f"{lock.parent} is being written by process {pid} and was not free after {timeout:g} s",
                    remedy="wait for that process, or end it",
                ) from None
            time.sleep(min(pause * random.uniform(0.5, 1.0), left))
            pause = min(pause * 2, 0.02)
