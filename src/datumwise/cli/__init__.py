"""The command line: ``datumwise COMMAND``. The entry point is `main`."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Parameters
    ----------
    argv : sequence of str, optional
        Words after ``datumwise``; default those of this process.

    Returns
    -------
    int
        0 done; 1 done, but a check that was asked for failed; 2 refused or misused; 130 interrupted, can be
        taken up again; 70 a fault of datumwise.
    """
    import sys

    from datumwise.cli.run import run

    return run(sys.argv[1:] if argv is None else list(argv))
