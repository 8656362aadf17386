"""What the store says becomes one sentence; what may succeed the next time is tried again."""

from __future__ import annotations

import errno
from pathlib import Path

import ledger_cases as cases
import pytest

from datumwise import errors
from datumwise.ledger import Ledger
from datumwise.ledger.store_errors import is_retryable, retry, translated


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return cases.ledger_of(tmp_path)


def test_only_a_conflict_is_tried_again() -> None:
    class Conflict(OSError):
        retryable = True

    calls = []

    def third_time(error: Exception) -> str:
        calls.append(1)
        if len(calls) < 3:
            raise error
        return "done"

    assert retry(lambda: third_time(Conflict()), pause=0) == "done"
    calls.clear()
    with pytest.raises(OSError, match="else"):
        retry(lambda: third_time(OSError("something else")), pause=0)
    assert len(calls) == 1
    assert is_retryable(OSError("Retryable commit conflict for version 3"))


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (OSError(errno.ENOSPC, "x"), errors.DiskFull),
        (OSError("LanceError(IO): No space left on device (os error 28), /home/x.rs:3"), errors.DiskFull),
        (OSError(errno.EFBIG, "File too large"), errors.DiskFull),
        (PermissionError(errno.EACCES, "Permission denied"), errors.ReadOnly),
        (OSError("Incompatible transaction: ..., rust/x.rs"), errors.LedgerChanged),
        (ValueError("Dataset at path a was not found: _versions, x.rs"), errors.NotALedger),
    ],
)
def test_store_errors_become_one_sentence_without_source_paths(
    ledger: Ledger, raised: Exception, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as caught, translated(ledger.uri):
        raise raised
    assert ".rs" not in str(caught.value)
    if kind is errors.DiskFull:
        assert f"version {ledger.version}" in str(caught.value)
